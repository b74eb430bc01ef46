//! When each check is due, and how many checks run.
//!
//! A check is due once in every interval, at its own phase. The phases of the checks are multiples of the golden ratio.
//! So any number of checks is spread evenly, however many were added at once. A late run does not move the later runs of
//! its check, so a stall does not bunch the checks for ever.
//!
//! If more checks are due than may run, the checks that are due longest run first. But checks of [`Class::Other`] get half
//! of the places at most. A member that does not answer holds a place for the whole timeout. However many such members
//! somebody registers, the checks of members that are up must not wait for them.

use std::{collections::BTreeSet, time::Duration};

use slab::Slab;

use crate::time::Time;

/// The id of one run of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    slot: u32,
    serial: u32,
}

/// The id of a scheduled check.
pub(super) type CheckId = u32;

/// The owner of a check. The schedule reads only the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The endpoint.
    pub(super) index: u32,
    /// Which check of the endpoint.
    pub(super) which: u8,
    pub(super) class: Class,
}

/// How many of the places a check may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// All: its member is up, and a failure must be seen soon.
    Up,
    /// Half of the places: its member is down, or was never up.
    Other,
}

/// A check to run now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) token: Token,
    pub(super) owner: Owner,
    /// How long the check had to wait.
    pub(super) late: Duration,
}

struct Slot {
    /// `None`: the check was removed while it ran.
    owner: Option<Owner>,
    /// The time in the interval, in units of 2⁻³² of the interval.
    phase: u32,
    running: Option<Run>,
    /// When the check is due; while it runs, when it was due.
    due: Time,
}

/// A run of a check.
struct Run {
    serial: u32,
    /// The class of the check at the start of the run; the run takes a place of this class.
    class: Class,
}

pub(super) struct Schedule {
    slots: Slab<Slot>,
    /// Checks that do not run, by class.
    waiting: [BTreeSet<(Time, CheckId)>; 2],
    /// The number of runs, by class.
    under_way: [usize; 2],
    limit: usize,
    next_phase: u32,
    next_serial: u32,
}

/// 2³² divided by the golden ratio: the step from the phase of one check to that of the next.
const PHASE_STEP: u32 = 0x9E37_79B9;

impl Schedule {
    /// Makes an empty schedule. At most `limit` checks run at a time; different seeds give different phases.
    pub(super) fn new(limit: usize, seed: u64) -> Schedule {
        Schedule {
            slots: Slab::new(),
            waiting: Default::default(),
            under_way: [0; 2],
            limit: limit.max(1),
            next_phase: seed as u32,
            next_serial: 0,
        }
    }

    pub(super) fn checks(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.iter().sum()
    }

    /// Adds a check; it is due within its first interval.
    pub(super) fn add(&mut self, now: Time, interval: Duration, owner: Owner) -> CheckId {
        let phase = self.next_phase;
        self.next_phase = phase.wrapping_add(PHASE_STEP);
        let due = slot_after(phase, interval, now);
        let id = self.slots.insert(Slot { owner: Some(owner), phase, running: None, due }) as CheckId;
        self.waiting[owner.class as usize].insert((due, id));
        id
    }

    /// Removes a check. If the check runs, its place stays taken until [`Schedule::finish`], which ignores it.
    pub(super) fn remove(&mut self, id: CheckId) {
        let slot = &mut self.slots[id as usize];
        let Some(owner) = slot.owner else { return };
        if slot.running.is_some() {
            slot.owner = None;
        } else {
            self.waiting[owner.class as usize].remove(&(slot.due, id));
            self.slots.remove(id as usize);
        }
    }

    /// Changes the owner of a check, or its class.
    pub(super) fn rename(&mut self, id: CheckId, owner: Owner) {
        let slot = &mut self.slots[id as usize];
        let Some(before) = slot.owner.replace(owner) else { return };
        if before.class != owner.class && self.waiting[before.class as usize].remove(&(slot.due, id)) {
            self.waiting[owner.class as usize].insert((slot.due, id));
        }
    }

    /// Changes the interval of a check.
    pub(super) fn reschedule(&mut self, now: Time, id: CheckId, interval: Duration) {
        let slot = &mut self.slots[id as usize];
        if let (None, Some(owner)) = (&slot.running, slot.owner) {
            let waiting = &mut self.waiting[owner.class as usize];
            waiting.remove(&(slot.due, id));
            slot.due = slot_after(slot.phase, interval, now);
            waiting.insert((slot.due, id));
        }
    }

    /// When the next check is due; `None` while no more checks may run.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.next().map(|(due, _)| due)
    }

    fn next(&self) -> Option<(Time, CheckId)> {
        let has_room = |class| match class {
            Class::Up => true,
            Class::Other => self.under_way[class as usize] < (self.limit / 2).max(1),
        };
        let first = |class| self.waiting[class as usize].first().filter(|_| has_room(class)).copied();
        if self.under_way() < self.limit { [Class::Up, Class::Other].into_iter().filter_map(first).min() } else { None }
    }

    /// Starts the check that is due longest, if a check is due and may run.
    pub(super) fn start(&mut self, now: Time) -> Option<Start> {
        let (due, id) = self.next().filter(|(due, _)| *due <= now)?;
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let slot = &mut self.slots[id as usize];
        let owner = slot.owner.expect("only a check under way loses its owner");
        slot.running = Some(Run { serial, class: owner.class });
        self.waiting[owner.class as usize].remove(&(due, id));
        self.under_way[owner.class as usize] += 1;
        Some(Start { token: Token { slot: id, serial }, owner, late: now.since(due) })
    }

    /// The owner of a running check; `None` if the check was removed, or if no run has this token.
    pub(super) fn owner(&self, token: Token) -> Option<Owner> {
        let slot = self.slots.get(token.slot as usize)?;
        slot.owner.filter(|_| slot.running.as_ref().is_some_and(|run| run.serial == token.serial))
    }

    /// Ends a run. Gives the check, which must then be scheduled [again](Schedule::again); `None` if the check was removed,
    /// or if no run has this token.
    pub(super) fn finish(&mut self, token: Token) -> Option<(CheckId, Owner)> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        let run = slot.running.take_if(|run| run.serial == token.serial)?;
        self.under_way[run.class as usize] -= 1;
        let owner = slot.owner;
        if owner.is_none() {
            self.slots.remove(token.slot as usize);
        }
        Some((token.slot, owner?))
    }

    /// Schedules a finished check: at its phase in the next interval, or earlier, `soon` after it was due.
    pub(super) fn again(&mut self, now: Time, id: CheckId, interval: Duration, soon: Option<Duration>) {
        let slot = &mut self.slots[id as usize];
        let mut regular = slot_after(slot.phase, interval, slot.due);
        if now > regular + interval / 2 {
            regular = slot_after(slot.phase, interval, now); // a check that is less late, as after a timeout, runs at once
        }
        slot.due = soon.map_or(regular, |soon| regular.min(now.max(slot.due + soon)));
        if let Some(owner) = slot.owner {
            self.waiting[owner.class as usize].insert((slot.due, id));
        }
    }
}

/// The first time after `after` at this phase; intervals are counted from time zero.
fn slot_after(phase: u32, interval: Duration, after: Time) -> Time {
    let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let offset = ((u128::from(interval) * u128::from(phase)) >> 32) as u64;
    let past = (after.0 % interval + interval - offset) % interval; // since the last time at this phase
    after + Duration::from_nanos(interval - past)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(milliseconds: u64) -> Time {
        Time(milliseconds * 1_000_000)
    }

    fn owner(index: u32) -> Owner {
        Owner { index, which: 0, class: Class::Up }
    }

    fn other(index: u32) -> Owner {
        Owner { class: Class::Other, ..owner(index) }
    }

    fn starts(schedule: &mut Schedule, milliseconds: u64) -> Vec<Start> {
        std::iter::from_fn(|| schedule.start(at(milliseconds))).collect()
    }

    fn count(starts: &[Start], class: Class) -> usize {
        starts.iter().filter(|start| start.owner.class == class).count()
    }

    #[test]
    fn a_check_is_small() {
        assert!(size_of::<Slot>() <= 32, "{}", size_of::<Slot>());
    }

    #[test]
    fn those_that_are_not_up_hold_half_of_the_places() {
        for (limit, others) in [(1, 1), (2, 1), (3, 1), (10, 5)] {
            let mut schedule = Schedule::new(limit, 1);
            (0..50).for_each(|index| _ = schedule.add(at(0), SECOND, other(index)));
            let held = starts(&mut schedule, 5000);
            assert_eq!((held.len(), schedule.next_due()), (others, None), "limit {limit}");
            (50..100).for_each(|index| _ = schedule.add(at(5000), SECOND, owner(index)));
            assert_eq!(starts(&mut schedule, 7000).len(), limit - others, "limit {limit}");
        }
        // Checks of members that are up may use all places.
        let mut schedule = Schedule::new(10, 1);
        (0..50).for_each(|index| _ = schedule.add(at(0), SECOND, owner(index)));
        assert_eq!(starts(&mut schedule, 5000).len(), 10);
    }

    /// No class starves: the check that is due longest runs first, whatever its class.
    #[test]
    fn due_times_decide_while_there_is_room_for_both() {
        let mut schedule = Schedule::new(1000, 1);
        (0..50).for_each(|index| {
            _ = schedule.add(at(0), SECOND, if index % 2 == 0 { owner(index) } else { other(index) })
        });
        let starts = starts(&mut schedule, 1000);
        assert_eq!((count(&starts, Class::Up), count(&starts, Class::Other)), (25, 25));
        assert!(starts.windows(2).all(|pair| pair[0].late >= pair[1].late));
    }

    #[test]
    fn a_class_that_changes_counts_from_the_next_run_on() {
        let mut schedule = Schedule::new(2, 1);
        (0..3).for_each(|index| _ = schedule.add(at(0), SECOND, other(index)));
        let held = schedule.start(at(1000)).unwrap();
        assert_eq!(schedule.next_due(), None);
        schedule.rename(held.token.slot, owner(held.owner.index));
        assert_eq!(schedule.start(at(1000)), None, "the place is still held");
        // A check that waits changes its class at once.
        let waiting = (0..3).find(|&id| id != held.token.slot).unwrap();
        schedule.rename(waiting, owner(9));
        let second = schedule.start(at(1000)).unwrap();
        assert_eq!((second.token.slot, second.owner), (waiting, owner(9)));
        schedule.rename(waiting, other(9));
        let (id, ended) = schedule.finish(held.token).unwrap();
        assert_eq!(ended.class, Class::Up);
        schedule.again(at(1000), id, SECOND, None);
        assert_eq!(starts(&mut schedule, 1000).len(), 1, "the third, which is not up");
        assert_eq!(schedule.finish(second.token), Some((waiting, other(9))));
        schedule.again(at(1000), waiting, SECOND, None);
        // The check waits in its new class: it can be moved and removed.
        schedule.reschedule(at(1000), waiting, SECOND * 2);
        schedule.remove(waiting);
        let next = schedule.start(at(9000)).unwrap();
        assert_eq!((next.token.slot, schedule.checks()), (held.token.slot, 2));
        assert_eq!((schedule.under_way(), schedule.next_due()), (2, None));
    }

    #[test]
    fn a_place_in_the_interval_comes_once_in_it() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let bits = random.u32(1..50);
            let interval = Duration::from_nanos(random.u64(1..1 << bits));
            let phase = random.u32(..);
            let first = slot_after(phase, interval, Time(random.u64(..1 << 60)));
            assert_eq!(slot_after(phase, interval, Time(first.0 - 1)), first, "seed {seed}");
            assert_eq!(slot_after(phase, interval, first), first + interval, "seed {seed}");
        }
    }

    /// However checks are added, each part of the interval gets about the mean number of them.
    #[test]
    fn checks_are_spread_evenly_however_they_were_added() {
        let mut schedule = Schedule::new(usize::MAX, 7);
        for index in 0..1000 {
            let added = if index < 700 { at(0) } else { at(u64::from(index)) };
            schedule.add(added, SECOND, owner(index));
        }
        let mut started = [0; 100];
        for millisecond in 1000..2000 {
            while let Some(start) = schedule.start(at(millisecond)) {
                let (id, _) = schedule.finish(start.token).unwrap();
                if millisecond > 1000 {
                    started[(millisecond as usize - 1001) / 10] += 1;
                }
                schedule.again(at(millisecond), id, SECOND, None);
            }
        }
        // All 1000 checks once, without those of the last millisecond; 10 in each hundredth of the second.
        assert!((990..=1000).contains(&started.iter().sum::<i32>()), "{started:?}");
        assert!(started[..99].iter().all(|count| (7..=13).contains(count)), "{started:?}");
    }

    #[test]
    fn checks_that_waited_are_started_oldest_first_and_do_not_gather() {
        let mut schedule = Schedule::new(2, 1);
        for index in 0..20 {
            schedule.add(at(0), SECOND, owner(index));
        }
        // No check runs for five seconds; then one check ends every ten milliseconds.
        let mut last_late = Duration::MAX;
        let mut now = 5000;
        for round in 0..20 {
            let start = schedule.start(at(now)).expect("all are overdue");
            assert!(start.late <= last_late || round == 0, "{round}");
            last_late = start.late + SECOND / 100;
            let (id, _) = schedule.finish(start.token).unwrap();
            now += 10;
            schedule.again(at(now), id, SECOND, None);
        }
        let mut due: Vec<u64> = schedule.waiting.iter().flatten().map(|(due, _)| due.0 / 1_000_000 % 1000).collect();
        due.sort_unstable();
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] >= 20), "not spread any more: {due:?}");
    }

    #[test]
    fn no_more_are_under_way_than_may_be() {
        let mut schedule = Schedule::new(2, 1);
        for index in 0..3 {
            schedule.add(at(0), SECOND, owner(index));
        }
        let first = schedule.start(at(1000)).unwrap();
        let second = schedule.start(at(1000)).unwrap();
        assert_eq!((schedule.start(at(1000)), schedule.next_due()), (None, None));
        // A removed check keeps its place until its run ends.
        schedule.remove(second.token.slot);
        assert_eq!((schedule.start(at(1000)), schedule.under_way()), (None, 2));
        assert_eq!(schedule.finish(second.token), None);
        assert_eq!(schedule.checks(), 2);
        assert!(schedule.start(at(1000)).is_some());
        assert_eq!(schedule.finish(first.token), Some((first.token.slot, first.owner)));
        assert_eq!(schedule.finish(first.token), None, "a run ends once");
        assert_eq!(schedule.finish(second.token), None);
        assert_eq!(schedule.under_way(), 1);
    }

    #[test]
    fn doubt_brings_the_next_check_nearer_and_then_it_is_back_at_its_place() {
        let mut schedule = Schedule::new(1, 0);
        schedule.add(at(0), SECOND, owner(0));
        let start = schedule.start(at(1000)).unwrap();
        let (id, _) = schedule.finish(start.token).unwrap();
        schedule.again(at(1050), id, SECOND, Some(SECOND / 10));
        assert_eq!(schedule.next_due(), Some(at(1100)));
        let start = schedule.start(at(1100)).unwrap();
        let (id, _) = schedule.finish(start.token).unwrap();
        schedule.again(at(1300), id, SECOND, Some(SECOND / 10));
        assert_eq!(schedule.next_due(), Some(at(1300)), "its time has come already");
        let start = schedule.start(at(1300)).unwrap();
        let (id, _) = schedule.finish(start.token).unwrap();
        schedule.again(at(1310), id, SECOND, None);
        assert_eq!(schedule.next_due(), Some(at(2000)));
        // A run that takes a little longer than the interval does not skip the next one; a longer run does.
        for (ended, next) in [(3010, 3000), (4700, 5000)] {
            let start = schedule.start(at(ended)).unwrap();
            let (id, _) = schedule.finish(start.token).unwrap();
            schedule.again(at(ended), id, SECOND, None);
            assert_eq!(schedule.next_due(), Some(at(next)));
        }
    }
}

//! The order of TLS handshakes on one shard.
//!
//! A handshake costs a hundred times as much CPU as a message, and any stranger may begin one. So:
//! - The number of handshakes at a time is limited, and one source has a quarter of them at most.
//! - Waiting sources take turns. A source that begins too many a second waits as a whole.
//! - The shard takes one step of one handshake at a time, after the steps of established connections.
//! - A few sources could still take all turns and not use them: a turn ends early while others wait.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
};

use crate::{
    coordinator::Time,
    runtime::{limit::sources::Source, mesh::Slot},
};

/// One source may have the fraction 1/`SHARE` of all handshakes.
const SHARE: usize = crate::limits::HANDSHAKES_PER_SHARD as usize;

/// The handshakes of a shard.
#[derive(Debug)]
pub(super) struct Handshakes {
    max: usize,
    under_way: usize,
    sources: HashMap<Source, Entry>,
    /// Sources with a waiting connection that may have its turn.
    ring: VecDeque<Source>,
    /// Sources that may not begin a handshake before a time, earliest first.
    early: BinaryHeap<Reverse<(Time, Source)>>,
    /// Connections that can take a step of their handshake, each once, by source.
    runnable: HashMap<Source, VecDeque<Slot>>,
    /// Sources with such connections.
    stepping: VecDeque<Source>,
}

/// A source with a handshake that has its turn or waits.
#[derive(Debug, Default)]
struct Entry {
    under_way: usize,
    waiting: VecDeque<Slot>,
    /// The source is in the ring.
    listed: bool,
    /// The source is among the early ones, and not in the ring.
    early: bool,
}

impl Handshakes {
    /// Allows `max` handshakes at a time, and at least as many as let each source have one.
    pub(super) fn new(max: usize) -> Handshakes {
        Handshakes {
            max: max.max(SHARE),
            under_way: 0,
            sources: HashMap::new(),
            ring: VecDeque::new(),
            early: BinaryHeap::new(),
            runnable: HashMap::new(),
            stepping: VecDeque::new(),
        }
    }

    fn share(&self) -> usize {
        self.max / SHARE
    }

    /// A connection asks for its turn.
    pub(super) fn ask(&mut self, source: Source, slot: Slot) {
        let entry = self.sources.entry(source).or_default();
        entry.waiting.push_back(slot);
        self.list(source);
    }

    /// Gives the next connection its turn, if a turn is free; [`Handshakes::end`] follows after the handshake. `may`
    /// counts a handshake of a source if the source may begin one now; its error is the time to ask again.
    pub(super) fn begin(&mut self, may: impl Fn(Source) -> Result<(), Time>) -> Option<Slot> {
        while self.under_way < self.max {
            let source = self.ring.pop_front()?;
            let entry = self.sources.get_mut(&source).expect("a source in the ring has an entry");
            entry.listed = false;
            if let Err(at) = may(source) {
                entry.early = true;
                self.early.push(Reverse((at, source)));
                continue;
            }
            let slot = entry.waiting.pop_front().expect("a source in the ring has a connection that waits");
            entry.under_way += 1;
            self.under_way += 1;
            self.list(source);
            return Some(slot);
        }
        None
    }

    /// The time at which the next early source may begin.
    pub(super) fn next_time(&self) -> Option<Time> {
        self.early.peek().map(|Reverse((at, _))| *at)
    }

    /// Lists the early sources whose time has come. A source that has left meanwhile, and perhaps come back, may be
    /// listed too early: then `may` is asked once more than needed.
    pub(super) fn resume(&mut self, now: Time) {
        while self.next_time().is_some_and(|at| at <= now) {
            let Some(Reverse((_, source))) = self.early.pop() else { return };
            if let Some(entry) = self.sources.get_mut(&source) {
                entry.early = false;
                self.list(source);
            }
        }
    }

    /// A waiting connection has ended.
    pub(super) fn forget(&mut self, source: Source, slot: Slot) {
        let Some(entry) = self.sources.get_mut(&source) else { return };
        // Mostly the connections at the front end, because they have waited longest.
        if let Some(at) = entry.waiting.iter().position(|waiting| *waiting == slot) {
            entry.waiting.remove(at);
        }
        if entry.waiting.is_empty() {
            if std::mem::take(&mut entry.listed) {
                self.ring.retain(|listed| *listed != source);
            }
            if entry.under_way == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// A connection gives its turn back.
    pub(super) fn end(&mut self, source: Source) {
        let Some(entry) = self.sources.get_mut(&source) else { return };
        entry.under_way -= 1;
        self.under_way -= 1;
        if entry.under_way == 0 && entry.waiting.is_empty() {
            self.sources.remove(&source);
            return;
        }
        self.list(source);
    }

    /// Puts a source into the ring if one of its connections may have its turn.
    fn list(&mut self, source: Source) {
        let share = self.share();
        let Some(entry) = self.sources.get_mut(&source) else { return };
        if !entry.listed && !entry.early && !entry.waiting.is_empty() && entry.under_way < share {
            entry.listed = true;
            self.ring.push_back(source);
        }
    }

    /// A connection can take a step of its handshake.
    pub(super) fn enqueue(&mut self, source: Source, slot: Slot) {
        let queue = self.runnable.entry(source).or_default();
        if queue.is_empty() {
            self.stepping.push_back(source);
        }
        queue.push_back(slot);
    }

    /// The next connection that can take a step; it may have ended. Sources take turns.
    pub(super) fn next(&mut self) -> Option<Slot> {
        let source = self.stepping.pop_front()?;
        let queue = self.runnable.get_mut(&source)?;
        let slot = queue.pop_front();
        match queue.is_empty() {
            true => drop(self.runnable.remove(&source)),
            false => self.stepping.push_back(source),
        }
        slot
    }

    /// Whether a connection waits only because all turns are taken.
    pub(super) fn are_scarce(&self) -> bool {
        self.under_way >= self.max && !self.ring.is_empty()
    }

    /// Whether a handshake can begin or take a step.
    pub(super) fn is_due(&self) -> bool {
        !self.stepping.is_empty() || (self.under_way < self.max && !self.ring.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(index: u32) -> Slot {
        Slot { index, generation: 0 }
    }

    fn source(last: u8) -> Source {
        Source::V4(last.into())
    }

    fn always(_: Source) -> Result<(), Time> {
        Ok(())
    }

    #[test]
    fn sources_take_turns_and_have_a_quarter_each() {
        let mut handshakes = Handshakes::new(8);
        (0..10).for_each(|index| handshakes.ask(source(1), slot(index)));
        handshakes.ask(source(2), slot(20));
        let begun = |handshakes: &mut Handshakes| {
            std::iter::from_fn(|| handshakes.begin(always)).map(|slot| slot.index).collect::<Vec<_>>()
        };
        assert_eq!(begun(&mut handshakes), [0, 20, 1], "two of the first, who has a quarter of eight");
        assert!(!handshakes.is_due());
        handshakes.end(source(2));
        assert!(begun(&mut handshakes).is_empty(), "the first has its share still");
        handshakes.end(source(1));
        assert_eq!(begun(&mut handshakes), [2]);
        (0..3).for_each(|last| handshakes.ask(source(10 + last), slot(30 + u32::from(last))));
        (0..4).for_each(|last| handshakes.ask(source(20 + last), slot(40 + u32::from(last))));
        assert_eq!(begun(&mut handshakes), [30, 31, 32, 40, 41, 42], "eight in all");
        (0..2).for_each(|_| handshakes.end(source(1)));
        assert_eq!(begun(&mut handshakes), [43, 3]);
    }

    #[test]
    fn sources_take_turns_at_steps() {
        let mut handshakes = Handshakes::new(4);
        (0..4).for_each(|index| handshakes.enqueue(source(1), slot(index)));
        handshakes.enqueue(source(2), slot(10));
        assert_eq!(handshakes.next(), Some(slot(0)));
        handshakes.enqueue(source(2), slot(11));
        let rest: Vec<_> = std::iter::from_fn(|| handshakes.next()).map(|slot| slot.index).collect();
        assert_eq!(rest, [10, 1, 11, 2, 3]);
        assert!(!handshakes.is_due() && handshakes.runnable.is_empty());
    }

    #[test]
    fn who_ends_while_it_waits_is_passed_over() {
        let mut handshakes = Handshakes::new(4);
        (0..3).for_each(|index| handshakes.ask(source(1), slot(index)));
        handshakes.ask(source(2), slot(3));
        assert_eq!(handshakes.begin(always), Some(slot(0)));
        handshakes.forget(source(1), slot(1));
        handshakes.forget(source(2), slot(3));
        handshakes.end(source(1));
        assert_eq!(handshakes.begin(always), Some(slot(2)));
        assert_eq!(handshakes.begin(always), None);
        handshakes.end(source(1));
        assert!(handshakes.sources.is_empty() && handshakes.ring.is_empty());
    }

    #[test]
    fn turns_are_scarce_when_others_take_them_all() {
        let mut handshakes = Handshakes::new(1);
        for last in 0..4 {
            (0..2).for_each(|index| handshakes.ask(source(last), slot(2 * u32::from(last) + index)));
            assert_eq!(handshakes.begin(always), Some(slot(2 * u32::from(last))), "four sources have a turn each");
            assert!(!handshakes.are_scarce(), "each has its share, and waits for itself");
        }
        assert_eq!(handshakes.begin(always), None);
        handshakes.ask(source(9), slot(20));
        assert!(handshakes.are_scarce());
        handshakes.end(source(0));
        assert!(!handshakes.are_scarce());
        assert_eq!(handshakes.begin(always), Some(slot(20)));
        assert!(handshakes.are_scarce(), "the first source may have one again");
        handshakes.forget(source(0), slot(1));
        assert!(!handshakes.are_scarce());
    }

    #[test]
    fn a_source_that_is_early_waits_and_holds_nobody_up() {
        let mut handshakes = Handshakes::new(8);
        (0..3).for_each(|index| handshakes.ask(source(1), slot(index)));
        handshakes.ask(source(2), slot(10));
        let first_may_from =
            |from: u64, now: u64| move |asks| if asks == source(1) && now < from { Err(Time(from)) } else { Ok(()) };
        assert_eq!(handshakes.begin(first_may_from(5, 0)), Some(slot(10)));
        assert_eq!(handshakes.begin(|_| unreachable!("nobody is left to ask for")), None);
        assert!(!handshakes.is_due());
        // One more of it waits behind the others.
        handshakes.ask(source(1), slot(3));
        assert!(!handshakes.is_due());
        assert_eq!(handshakes.next_time(), Some(Time(5)));
        handshakes.resume(Time(4));
        assert!(!handshakes.is_due());
        handshakes.resume(Time(5));
        assert_eq!(handshakes.next_time(), None);
        assert_eq!(handshakes.begin(first_may_from(5, 5)), Some(slot(0)));
        // Early again; then all of it leave, and it comes back before the time.
        assert_eq!(handshakes.begin(first_may_from(9, 5)), None);
        (1..4).for_each(|index| handshakes.forget(source(1), slot(index)));
        handshakes.end(source(1));
        handshakes.end(source(2));
        assert!(handshakes.sources.is_empty());
        handshakes.ask(source(1), slot(4));
        assert_eq!(handshakes.begin(first_may_from(9, 6)), None);
        handshakes.resume(Time(9));
        assert_eq!(handshakes.begin(first_may_from(9, 9)), Some(slot(4)));
        assert!(!handshakes.is_due() && handshakes.early.is_empty());
    }

    #[test]
    fn nothing_is_remembered_of_who_has_ended() {
        let mut handshakes = Handshakes::new(4);
        for index in 0..100 {
            handshakes.ask(source(1), slot(index));
        }
        for index in 0..100 {
            assert_eq!(handshakes.begin(always), Some(slot(index)));
            handshakes.end(source(1));
        }
        assert!(handshakes.sources.is_empty() && handshakes.ring.is_empty() && handshakes.under_way == 0);
    }
}

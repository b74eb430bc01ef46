//! Doubt about a group: so much of it is lost at once that the network between the GWM and the group may be at fault.
//!
//! A doubt begins when more than `--panic-percent` of a group's members that were up have lost contact within one fall
//! window, at two addresses or more, while something else of their world answers. (If nothing does, the world is
//! [blind](super::worlds).) While the doubt lasts, no member of the group is confident, and members that lost contact
//! lately are shown with contact and the weight that they had: the LB uses its own means.
//!
//! A member that was lost lately, and is registered in a group now, counts for that group, too.
//!
//! A doubt ends when no more than that percentage of the members is lost, or after `--panic-time`: then members without
//! contact are shown as down, all of them if need be, because a failover to another site depends on that. Losses before
//! the end of a doubt are never a reason for another doubt about the group.
//!
//! Members with different fall windows that fail at the same moment are lost at different times. A member that was lost
//! at `at` was still up at `at` minus its own fall window. So losses belong together if none is earlier than the latest
//! of these moments.
//!
//! Doubts of different groups are independent, also if the groups list the same members.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::FixedState;

use super::ids::{Column, GroupId};
use crate::time::Time;

/// When a member lost contact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    /// When the checks took the member down.
    pub(super) at: Time,
    /// The member was still up at this time: `at` minus the member's fall window.
    pub(super) since: Time,
}

/// What the rule needs of one member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The member has contact, and was up.
    Up,
    /// The member was up, and has lost contact.
    Lost(Loss, [u8; 16]),
    /// The member was never up, is not watched, or belongs to a world that is blind or recovers.
    Unknown,
}

/// How a doubt about a group begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtTurn {
    /// The doubt begins.
    Began,
    /// The doubt ends, because enough members are back.
    Back,
    /// The doubt ends after the panic time.
    TimeOver,
}

/// A doubt that begins or ends, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubted<'a> {
    /// What happens.
    pub turn: DoubtTurn,
    /// The UID of the group's load balancer.
    pub lb_uid: &'a [u8],
    /// The group's name.
    pub group: &'a [u8],
    /// How many members are lost.
    pub lost: u32,
    /// How many members are lost or up.
    pub of: u32,
}

/// The state of a group that is or was in doubt.
struct Doubt {
    /// Losses before this time do not count.
    from: Time,
    /// The doubt ends at this time at the latest; `None` once it has ended.
    until: Option<Time>,
}

/// The members of a group that count.
#[derive(Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) lost: u32,
    pub(super) of: u32,
}

/// All doubts, and the groups that have to be looked at.
pub(super) struct Doubts {
    percent: u8,
    panic_time: Duration,
    /// Groups whose members were lost or are back since the last look, each once.
    suspects: VecDeque<GroupId>,
    /// The group is in `suspects`.
    suspected: Column<GroupId, bool>,
    groups: HashMap<GroupId, Doubt, FixedState>,
    /// When doubts end, in order. An entry is void if its group has no doubt that ends at this time.
    ends: VecDeque<(Time, GroupId)>,
    /// How many groups are in doubt.
    open: usize,
}

impl Doubts {
    pub(super) fn new(percent: u8, panic_time: Duration, hasher: FixedState) -> Doubts {
        Doubts {
            percent,
            panic_time,
            suspects: VecDeque::new(),
            suspected: Column::new(),
            groups: HashMap::with_hasher(hasher),
            ends: VecDeque::new(),
            open: 0,
        }
    }

    /// When the doubt about a group began, if there is one.
    pub(super) fn began(&self, group: GroupId) -> Option<Time> {
        let until = self.groups.get(&group)?.until?;
        Some(Time(until.0.saturating_sub(self.panic_time.as_nanos() as u64)))
    }

    /// How many groups are in doubt.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// A new group, or one that has ended: there is no doubt about it.
    pub(super) fn forget(&mut self, group: GroupId) {
        // Ids are used again: a suspicion about the last group of this id is none about this one.
        self.suspected.set(group, false);
        if let Some(Doubt { until: Some(_), .. }) = self.groups.remove(&group) {
            self.open -= 1;
        }
    }

    /// A member of the group is lost or back: the group has to be looked at.
    pub(super) fn suspect(&mut self, group: GroupId) {
        if self.percent < 100 && !std::mem::replace(&mut self.suspected[group], true) {
            self.suspects.push_back(group);
        }
    }

    /// The next group to look at.
    pub(super) fn next_suspect(&mut self) -> Option<GroupId> {
        loop {
            let group = self.suspects.pop_front()?;
            if std::mem::take(&mut self.suspected[group]) {
                return Some(group);
            }
        }
    }

    /// Whether the group has to be looked at; it counts as looked at then.
    pub(super) fn take_suspect(&mut self, group: GroupId) -> bool {
        std::mem::take(&mut self.suspected[group])
    }

    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Whether no doubt about the group, which has so many members, can begin or end, and how many had to be looked at:
    /// enough are up, even if all the `lost` endpoints that there are were members, too.
    pub(super) fn is_certain(
        &self,
        group: GroupId,
        lost: u32,
        size: u32,
        mut members: impl Iterator<Item = Standing>,
    ) -> (bool, usize) {
        if self.groups.get(&group).is_some_and(|doubt| doubt.until.is_some()) {
            return (false, 0);
        }
        // With so many lost, the group is too small to be certain of, however many of it are up.
        if self.too_many(Count { lost, of: lost.saturating_add(size) }) {
            return (false, 0);
        }
        let (mut up, mut looked_at) = (0, 0);
        while self.too_many(Count { lost, of: lost + up }) {
            match members.next() {
                Some(Standing::Up) => up += 1,
                Some(_) => {}
                None => return (false, looked_at),
            }
            looked_at += 1;
        }
        (true, looked_at)
    }

    fn too_many(&self, Count { lost, of }: Count) -> bool {
        u64::from(lost) * 100 > u64::from(self.percent) * u64::from(of)
    }

    /// Applies the rule to a group with these members: whether a doubt begins or ends, and what counts.
    pub(super) fn weigh(
        &mut self,
        now: Time,
        group: GroupId,
        members: impl Iterator<Item = Standing> + Clone,
    ) -> Option<(DoubtTurn, Count)> {
        let known = self.groups.get(&group);
        let (settled, doubted) = known.map_or((None, false), |doubt| (Some(doubt.from), doubt.until.is_some()));
        let mut from = settled.unwrap_or_default();
        if !doubted {
            let counts = |at: Time| settled.is_none_or(|settled| at > settled);
            let since = members.clone().filter_map(|member| match member {
                Standing::Lost(loss, _) if counts(loss.at) => Some(loss.since),
                _ => None,
            });
            // The moment after the end of a doubt is the first one that counts.
            from = since.max()?.max(settled.map_or(Time::default(), |settled| Time(settled.0 + 1)));
        }
        let (mut count, mut first, mut two_addresses) = (Count::default(), None, false);
        for member in members {
            match member {
                Standing::Up => count.of += 1,
                Standing::Lost(loss, address) if loss.at >= from => {
                    (count.lost, count.of) = (count.lost + 1, count.of + 1);
                    two_addresses |= *first.get_or_insert(address) != address;
                }
                _ => {}
            }
        }
        match (doubted, self.too_many(count)) {
            (false, true) if two_addresses && !self.panic_time.is_zero() => {
                let until = now + self.panic_time;
                self.groups.insert(group, Doubt { from, until: Some(until) });
                self.ends.push_back((until, group));
                self.open += 1;
                Some((DoubtTurn::Began, count))
            }
            (true, false) => {
                self.end(now, group);
                Some((DoubtTurn::Back, count))
            }
            _ => None,
        }
    }

    /// Ends the next doubt whose time is over; gives its group.
    pub(super) fn expire(&mut self, now: Time) -> Option<GroupId> {
        while let Some((at, group)) = self.ends.pop_front_if(|(at, _)| *at <= now) {
            if self.groups.get(&group).is_some_and(|doubt| doubt.until == Some(at)) {
                self.end(now, group);
                return Some(group);
            }
        }
        None
    }

    /// When to call [`Doubts::expire`] next; may be early.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.ends.front().map(|(at, _)| *at)
    }

    fn end(&mut self, now: Time, group: GroupId) {
        self.groups.insert(group, Doubt { from: now, until: None });
        self.open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ids::Id, *};

    #[test]
    fn what_is_certain_is_what_the_rule_says() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut certain, mut began) = (0, 0);
        for _ in 0..20_000 {
            let mut doubts = Doubts::new(random.u8(0..=100), Duration::from_secs(9), FixedState::with_seed(1));
            let loss = Loss { at: Time(20), since: Time(10) };
            let lost_in_ten = random.u8(0..=10);
            let member = |random: &mut fastrand::Rng| match random.u8(0..10) {
                n if n < lost_in_ten => Standing::Lost(loss, [random.u8(0..3); 16]),
                9 => Standing::Unknown,
                _ => Standing::Up,
            };
            let members: Vec<Standing> = (0..random.usize(0..40)).map(|_| member(&mut random)).collect();
            let lost = members.iter().filter(|member| matches!(member, Standing::Lost(..))).count() as u32;
            let group = GroupId::at(0);
            let elsewhere = random.u32(0..4);
            let (all_lost, size) = (lost + elsewhere, members.len() as u32);
            let (is_certain, looked_at) = doubts.is_certain(group, all_lost, size, members.iter().copied());
            assert!(looked_at <= members.len());
            let may_be = !doubts.too_many(Count { lost: all_lost, of: all_lost + size });
            assert!(may_be || (is_certain, looked_at) == (false, 0), "a small group is not looked through");
            let turn = doubts.weigh(Time(30), group, members.iter().copied());
            assert!(!is_certain || turn.is_none(), "{members:?}");
            // Nothing is certain while there is a doubt: it may end.
            assert!(turn.is_none() || !doubts.is_certain(group, 0, size, members.iter().copied()).0);
            (certain, began) = (certain + u32::from(is_certain), began + u32::from(turn.is_some()));
        }
        assert!(certain > 1000 && began > 1000, "{certain} certain, {began} doubts");
    }
}

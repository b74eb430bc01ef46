//! One load balancer's groups while members and itself change them: what each push must say, one change after the
//! other, and what the tables must be in the end.

use std::{collections::VecDeque, rc::Rc};

use gwm::sasp::{EntryFlags, GroupData, MemberData, ReturnCode, WeightEntry, WeightedMember, Writer};

use super::{difference, group_name, uid};
use crate::{Result, options::Shape};

/// A membership: a number that means the same member in every table, and what was said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) member: u32,
    pub(crate) state: u8,
    pub(crate) quiesced: bool,
    /// Registered by the load balancer, else by the member.
    pub(crate) by_lb: bool,
}

/// A load balancer's groups in the order of their registration: number, and members in theirs.
pub(crate) type Groups = Vec<Group>;

/// One of them.
type Group = (u32, Vec<Membership>);

/// What one load balancer's tables are and were, from what its connection was told last.
pub(crate) struct Tables {
    lb: u32,
    shape: Shape,
    weight_max: u16,
    /// The tables after each change; the first is what was told last, if anything was.
    versions: VecDeque<Rc<Groups>>,
    told: bool,
}

impl Tables {
    /// Nothing is registered, and nothing was told.
    pub(crate) fn new(lb: u32, shape: Shape, weight_max: u16) -> Tables {
        Tables { lb, shape, weight_max, versions: VecDeque::from([Rc::default()]), told: false }
    }

    /// The tables now.
    pub(crate) fn now(&self) -> Rc<Groups> {
        self.versions.back().expect("there is always one").clone()
    }

    /// A request is about to change the tables to this.
    pub(crate) fn change(&mut self, groups: Groups) {
        self.versions.push_back(Rc::new(groups));
    }

    /// A new connection is about to be bound: it was told nothing, and what comes first is the tables of now or later.
    pub(crate) fn reconnect(&mut self) {
        let now = self.now();
        self.versions.clear();
        self.versions.push_back(now);
        self.told = false;
    }

    /// Whether the connection was told everything.
    pub(crate) fn complete(&self) -> bool {
        let (first, last) = (&self.versions[0], self.now());
        if self.told { news(Some(first), &last).is_empty() } else { last.is_empty() }
    }

    /// Checks a push: it must be what takes the load balancer from what it was told to one of the later tables.
    pub(crate) fn push(&mut self, frame: &[u8]) -> Result<()> {
        let told = self.told.then(|| self.versions[0].clone());
        let from = usize::from(self.told);
        for at in from..self.versions.len() {
            let candidate = self.versions[at].clone();
            if self.says(frame, &news(told.as_deref(), &candidate)) {
                self.versions.drain(..at);
                self.told = true;
                return Ok(());
            }
            // Members that left and came back changed places: as a set the group is what it was, so it may be left
            // out; or said again, because it did change on the way.
            if let Some(told) = &told
                && (self.says(frame, &moved(told, &candidate)) || self.says(frame, &self.touched(told, at)))
            {
                self.versions.drain(..at);
                return Ok(());
            }
        }
        let expected = self.message(&news(told.as_deref(), &self.now()));
        let versions = self.versions.len() - from;
        Err(format!("push that fits none of {versions} versions, here the last: {}", difference(frame, &expected)))
    }

    /// Checks a reply to a Get Weights for everything, which has every byte of the tables now.
    pub(crate) fn reply(&self, id: u32, interval: u16, frame: &[u8]) -> Result<()> {
        let mut expected = Vec::new();
        let writer = Writer::get_weights_reply(&mut expected, id, ReturnCode::SUCCESSFUL, interval);
        self.write(writer, &self.now());
        if frame == expected { Ok(()) } else { Err(format!("the tables: {}", difference(frame, &expected))) }
    }

    /// The groups of version `at` that are not what was told, or whose members changed on the way.
    fn touched(&self, told: &Groups, at: usize) -> Vec<Group> {
        let members = |groups: &Groups, number: u32| {
            let group = groups.iter().find(|(group, _)| *group == number);
            group.map(|(_, members)| members.iter().map(|membership| membership.member).collect::<Vec<_>>())
        };
        let same = |group: &Group| {
            let told_members = members(told, group.0);
            told.contains(group)
                && self.versions.iter().take(at).all(|version| members(version, group.0) == told_members)
        };
        self.versions[at].iter().filter(|group| !same(group)).cloned().collect()
    }

    fn says(&self, frame: &[u8], groups: &[Group]) -> bool {
        !groups.is_empty() && frame == self.message(groups)
    }

    fn message(&self, groups: &[Group]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(Writer::send_weights(&mut bytes), groups);
        bytes
    }

    fn write(&self, mut writer: Writer<'_, WeightedMember<'_>>, groups: &[Group]) {
        for (group, members) in groups {
            writer.group(GroupData { lb_uid: &uid(self.lb), name: group_name(*group).as_bytes() });
            for membership in members {
                let endpoint = self.shape.endpoint(self.shape.farm(self.lb), membership.member);
                let flags = EntryFlags::CONTACT
                    .with(EntryFlags::QUIESCED, membership.quiesced)
                    .with(EntryFlags::REGISTERED_BY_LB, membership.by_lb);
                let weight = if membership.quiesced { 0 } else { self.weight_max };
                let entry = WeightEntry { state: membership.state, flags, weight };
                writer.entry(&WeightedMember { member: MemberData { endpoint, label: b"" }, entry });
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
    }
}

/// The groups of `new` that are not the same in `old`; all of them where nothing is old.
fn news(old: Option<&Groups>, new: &Groups) -> Vec<Group> {
    let same = |group: &Group| old.is_some_and(|old| old.contains(group));
    new.iter().filter(|group| !same(group)).cloned().collect()
}

/// The groups of `new` that are not the same as sets.
fn moved(old: &Groups, new: &Groups) -> Vec<Group> {
    let sorted = |members: &[Membership]| {
        let mut members = members.to_vec();
        members.sort_unstable_by_key(|membership| membership.member);
        members
    };
    let same = |(group, members): &Group| {
        old.iter().any(|(other, others)| other == group && sorted(others) == sorted(members))
    };
    new.iter().filter(|group| !same(group)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { lbs: 1, groups: 2, members: 4, farms: 1, first_lb: 0, first_member: 0 };

    fn member(member: u32) -> Membership {
        Membership { member, state: 0, quiesced: false, by_lb: true }
    }

    #[test]
    fn pushes_follow_the_changes() {
        let mut tables = Tables::new(0, SHAPE, 100);
        assert!(tables.complete());
        let first: Groups = vec![(0, vec![member(0)]), (1, vec![member(4)])];
        tables.change(first.clone());
        assert!(!tables.complete());
        let all = tables.message(&first);
        assert!(tables.push(&tables.message(&first[..1])).is_err(), "a group is missing");
        tables.push(&all).unwrap();
        assert!(tables.complete());
        assert!(tables.push(&all).is_err(), "nothing new");
        let second: Groups = vec![(0, vec![member(0), member(1)]), (1, vec![member(4)])];
        let third: Groups = vec![(0, vec![member(0), member(1)]), (1, vec![])];
        tables.change(second.clone());
        tables.change(third.clone());
        let last = tables.message(&third[1..]);
        assert!(tables.push(&last).is_err(), "skips the second change");
        tables.push(&tables.message(&second[..1])).unwrap();
        assert!(!tables.complete());
        tables.push(&last).unwrap();
        assert!(tables.complete());
        assert!(tables.push(&tables.message(&second[..1])).is_err(), "out of order");
    }

    #[test]
    fn a_member_that_left_and_came_back_may_be_said_again() {
        for again in [false, true] {
            let mut tables = Tables::new(0, SHAPE, 100);
            let groups: Groups = vec![(0, vec![member(0), member(1)]), (1, vec![member(4)])];
            tables.change(groups.clone());
            tables.push(&tables.message(&groups)).unwrap();
            let without: Groups = vec![(0, vec![member(0)]), (1, vec![member(4)])];
            tables.change(without);
            tables.change(groups.clone());
            assert!(tables.complete());
            if again {
                tables.push(&tables.message(&groups[..1])).unwrap();
            }
            assert!(tables.push(&tables.message(&groups[1..])).is_err(), "that one did not change");
        }
    }

    #[test]
    fn a_new_connection_is_told_everything() {
        let mut tables = Tables::new(0, SHAPE, 100);
        let groups: Groups = vec![(0, vec![member(2)])];
        tables.change(groups.clone());
        let all = tables.message(&groups);
        tables.push(&all).unwrap();
        tables.reconnect();
        assert!(!tables.complete());
        tables.push(&all).unwrap();
        assert!(tables.complete());
    }

    #[test]
    fn the_reply_has_every_byte() {
        let mut tables = Tables::new(0, SHAPE, 100);
        tables.change(vec![(1, vec![Membership { quiesced: true, state: 3, by_lb: false, ..member(5) }])]);
        let mut bytes = Vec::new();
        let writer = Writer::get_weights_reply(&mut bytes, 7, ReturnCode::SUCCESSFUL, 60);
        tables.write(writer, &tables.now());
        tables.reply(7, 60, &bytes).unwrap();
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x20;
            assert!(tables.reply(7, 60, &wrong).is_err(), "byte {at}");
        }
    }
}

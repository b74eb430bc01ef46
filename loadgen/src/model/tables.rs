//! One load balancer's groups while members and itself change them: what each push must say, one change after the
//! other, and what the tables must be in the end.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use gwm::sasp::{EntryFlags, GroupData, MemberData, ReturnCode, WeightEntry, WeightedMember, Writer};

use super::{deltas::Hypothesis, difference, group_name, uid};
use crate::{Result, options::Shape};

/// A membership: a number that means the same member in every table, with state and quiesce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) member: u32,
    pub(crate) state: u8,
    pub(crate) quiesced: bool,
    /// Registered by the load balancer, else by the member.
    pub(crate) by_lb: bool,
}

impl Membership {
    /// Its entry without monitoring.
    pub(super) fn entry(&self, weight_max: u16) -> WeightEntry {
        let flags = EntryFlags::CONTACT
            .with(EntryFlags::QUIESCED, self.quiesced)
            .with(EntryFlags::REGISTERED_BY_LB, self.by_lb);
        WeightEntry { state: self.state, flags, weight: if self.quiesced { 0 } else { weight_max } }
    }
}

/// A load balancer's groups in the order of their registration: number, and members in theirs.
pub(crate) type Groups = Vec<Group>;

/// One of them.
type Group = (u32, Vec<Membership>);

/// One load balancer's tables: the last told version and all later ones.
pub(crate) struct Tables {
    lb: u32,
    shape: Shape,
    pub(super) weight_max: u16,
    /// The tables after each change; the first is the last told version, if there is one.
    versions: VecDeque<Rc<Groups>>,
    told: bool,
    /// Whether the load balancer made each change; the first version has no author.
    by_lb: VecDeque<bool>,
    /// Where only changes are sent: what may have been told, each after some of the versions. Never empty then.
    deltas: RefCell<Vec<Hypothesis>>,
    /// No-change was turned off, and nothing changes any more.
    whole_again: bool,
}

impl Tables {
    /// Nothing is registered, and nothing was told.
    pub(crate) fn new(lb: u32, shape: Shape, weight_max: u16, no_change: bool) -> Tables {
        let (versions, by_lb) = (VecDeque::from([Rc::default()]), VecDeque::from([false]));
        let deltas = RefCell::new(if no_change { vec![Hypothesis::default()] } else { Vec::new() });
        Tables { lb, shape, weight_max, versions, told: false, by_lb, deltas, whole_again: false }
    }

    /// The tables now.
    pub(crate) fn now(&self) -> Rc<Groups> {
        self.versions.back().expect("there is always one").clone()
    }

    /// A request of the load balancer's or of a member is about to change the tables to this.
    pub(crate) fn change(&mut self, groups: Groups, by_lb: bool) {
        self.versions.push_back(Rc::new(groups));
        self.by_lb.push_back(by_lb);
    }

    /// Whether only changes are sent.
    pub(crate) fn no_change(&self) -> bool {
        !self.deltas.borrow().is_empty()
    }

    /// The load balancer, which was told all changes, turns no-change off; nothing changes any more. A push window may be
    /// open: its push lists in full the groups whose members changed without an entry to say, such as one that the load
    /// balancer itself took out.
    pub(crate) fn end_no_change(&mut self) {
        self.deltas.borrow_mut().clear();
        self.told_first(self.versions.len() - 1);
        self.whole_again = true;
    }

    /// The version at this place was told last.
    fn told_first(&mut self, at: usize) {
        self.versions.drain(..at);
        self.by_lb.drain(..at);
        self.told = true;
    }

    /// A new connection is about to be bound: it was told nothing, and what comes first is the tables of now or later.
    pub(crate) fn reconnect(&mut self) {
        self.told_first(self.versions.len() - 1);
        self.told = false;
        self.deltas.borrow_mut().iter_mut().for_each(|hypothesis| *hypothesis = Hypothesis::default());
    }

    /// Whether the connection was told everything.
    pub(crate) fn complete(&self) -> bool {
        if self.no_change() {
            return self.deltas.borrow().iter().any(|hypothesis| {
                let hypothesis = self.last(hypothesis.clone());
                self.now().iter().all(|(group, members)| hypothesis.owed(self, *group, members).is_empty())
            });
        }
        let (first, last) = (&self.versions[0], self.now());
        if self.told { news(Some(first), &last).is_empty() } else { last.is_empty() }
    }

    /// Checks a push: it must lead from the last told version to one of the later ones.
    pub(crate) fn push(&mut self, frame: &[u8]) -> Result<()> {
        if self.no_change() {
            return self.push_of_changes(frame);
        }
        if self.whole_again {
            let named = |group: &&Group| {
                let name = group_name(group.0);
                frame.windows(name.len()).any(|bytes| bytes == name.as_bytes())
            };
            let listed: Vec<Group> = self.now().iter().filter(named).cloned().collect();
            let expected = self.message(&listed);
            return if self.says(frame, &listed) {
                Ok(())
            } else {
                Err(format!("push after no-change was turned off: {}", difference(frame, &expected)))
            };
        }
        let told = self.told.then(|| self.versions[0].clone());
        let from = usize::from(self.told);
        for at in from..self.versions.len() {
            let candidate = self.versions[at].clone();
            if self.says(frame, &news(told.as_deref(), &candidate)) {
                self.told_first(at);
                return Ok(());
            }
            // Members that left and came back changed places: as a set the group is the same, so it may be left
            // out; or said again, because it did change on the way.
            if let Some(told) = &told
                && (self.says(frame, &moved(told, &candidate)) || self.says(frame, &self.touched(told, at)))
            {
                self.told_first(at);
                return Ok(());
            }
        }
        let expected = self.message(&news(told.as_deref(), &self.now()));
        let versions = self.versions.len() - from;
        Err(format!("push that fits none of {versions} versions, here the last: {}", difference(frame, &expected)))
    }

    /// The hypothesis after all changes up to now.
    fn last(&self, mut hypothesis: Hypothesis) -> Hypothesis {
        while hypothesis.at + 1 < self.versions.len() {
            self.step(&mut hypothesis);
        }
        hypothesis
    }

    fn step(&self, hypothesis: &mut Hypothesis) {
        let to = hypothesis.at + 1;
        hypothesis.step(&self.versions[to - 1], &self.versions[to], self.by_lb[to]);
    }

    /// Checks a push of changes: it must be all that is owed after one of the changes.
    fn push_of_changes(&mut self, frame: &[u8]) -> Result<()> {
        let mut fitting: Vec<Hypothesis> = Vec::new();
        let mut expected = Vec::new();
        for mut hypothesis in self.deltas.borrow().iter().cloned() {
            loop {
                let groups = &self.versions[hypothesis.at];
                expected.clear();
                if self.write_owed(Writer::send_weights(&mut expected), &hypothesis, false) && frame == expected {
                    let mut told = hypothesis.clone();
                    told.said(self, groups);
                    if !fitting.contains(&told) {
                        fitting.push(told);
                    }
                }
                if hypothesis.at + 1 == self.versions.len() {
                    break;
                }
                self.step(&mut hypothesis);
            }
        }
        let Some(first) = fitting.iter().map(|hypothesis| hypothesis.at).min() else {
            let versions = self.versions.len();
            let difference = difference(frame, &expected);
            return Err(format!("push of changes that fits none of {versions} versions, here the last: {difference}"));
        };
        fitting.iter_mut().for_each(|hypothesis| hypothesis.at -= first);
        self.told_first(first);
        *self.deltas.borrow_mut() = fitting;
        Ok(())
    }

    /// Writes the entries to come after the hypothesis's changes, with `all` also groups without any; says whether
    /// anything is.
    fn write_owed(&self, mut writer: Writer<'_, WeightedMember<'_>>, hypothesis: &Hypothesis, all: bool) -> bool {
        let mut any = false;
        for (group, members) in self.versions[hypothesis.at].iter() {
            let owed = hypothesis.owed(self, *group, members);
            any |= !owed.is_empty();
            if all || !owed.is_empty() {
                self.write_group(&mut writer, *group, owed.into_iter());
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
        any
    }

    /// Checks a reply to a Get Weights for everything, which has every byte of the tables now; or, where only changes
    /// are sent, all that is owed now, which counts as said.
    pub(crate) fn reply(&self, id: u32, interval: u16, frame: &[u8]) -> Result<()> {
        let mut expected = Vec::new();
        let mut fits = |owed_after: Option<&Hypothesis>| {
            expected.clear();
            let writer = Writer::get_weights_reply(&mut expected, id, ReturnCode::SUCCESSFUL, interval);
            match owed_after {
                Some(hypothesis) => _ = self.write_owed(writer, hypothesis, true),
                None => self.write(writer, &self.now()),
            }
            frame == expected
        };
        let fitting = if self.no_change() {
            let mut deltas = self.deltas.borrow_mut();
            let mut last: Vec<Hypothesis> = deltas.iter().map(|hypothesis| self.last(hypothesis.clone())).collect();
            last.retain(|hypothesis| fits(Some(hypothesis)));
            last.iter_mut().for_each(|hypothesis| hypothesis.said(self, &self.now()));
            last.dedup();
            let fitting = !last.is_empty();
            if fitting {
                *deltas = last;
            }
            fitting
        } else {
            fits(None)
        };
        if fitting { Ok(()) } else { Err(format!("the tables: {}", difference(frame, &expected))) }
    }

    /// The server was killed and is back, and nothing was told since: checks a reply to a Get Weights for everything, which
    /// has every byte of the tables now, or of those that were acknowledged last. The tables are what the reply says from
    /// now on. Whether the last change is there.
    pub(crate) fn find(&mut self, acknowledged: &Rc<Groups>, id: u32, interval: u16, frame: &[u8]) -> Result<bool> {
        let mut expected = Vec::new();
        for (tables, is_last) in [(self.now(), true), (acknowledged.clone(), false)] {
            expected.clear();
            self.write(Writer::get_weights_reply(&mut expected, id, ReturnCode::SUCCESSFUL, interval), &tables);
            if frame == expected {
                (self.versions, self.by_lb) = (VecDeque::from([tables]), VecDeque::from([false]));
                self.told = false;
                return Ok(is_last);
            }
        }
        Err(format!("what was acknowledged: {}", difference(frame, &expected)))
    }

    /// The groups of version `at` that differ from the last told version, or whose members changed on the way.
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
            let entries = members.iter().map(|membership| (membership.member, membership.entry(self.weight_max)));
            self.write_group(&mut writer, *group, entries);
        }
        writer.finish().expect("the flags' ranges fit the wire");
    }

    fn write_group<'a>(
        &self,
        writer: &mut Writer<'_, WeightedMember<'a>>,
        group: u32,
        entries: impl Iterator<Item = (u32, WeightEntry)>,
    ) {
        writer.group(GroupData { lb_uid: &uid(self.lb), name: group_name(group).as_bytes() });
        for (member, entry) in entries {
            let endpoint = self.shape.endpoint(self.shape.farm(self.lb), member);
            writer.entry(&WeightedMember { member: MemberData { endpoint, label: b"" }, entry });
        }
    }

    /// The group that a member is in, if it is in any.
    pub(super) fn group_of(&self, member: u32) -> u32 {
        member / self.shape.members
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

    const SHAPE: Shape =
        Shape { lbs: 1, groups: 2, members: 4, farms: 1, first_lb: 0, first_member: 0, local: false, own: false };

    fn member(member: u32) -> Membership {
        Membership { member, state: 0, quiesced: false, by_lb: true }
    }

    #[test]
    fn pushes_follow_the_changes() {
        let mut tables = Tables::new(0, SHAPE, 100, false);
        assert!(tables.complete());
        let first: Groups = vec![(0, vec![member(0)]), (1, vec![member(4)])];
        tables.change(first.clone(), true);
        assert!(!tables.complete());
        let all = tables.message(&first);
        assert!(tables.push(&tables.message(&first[..1])).is_err(), "a group is missing");
        tables.push(&all).unwrap();
        assert!(tables.complete());
        assert!(tables.push(&all).is_err(), "nothing new");
        let second: Groups = vec![(0, vec![member(0), member(1)]), (1, vec![member(4)])];
        let third: Groups = vec![(0, vec![member(0), member(1)]), (1, vec![])];
        tables.change(second.clone(), true);
        tables.change(third.clone(), true);
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
            let mut tables = Tables::new(0, SHAPE, 100, false);
            let groups: Groups = vec![(0, vec![member(0), member(1)]), (1, vec![member(4)])];
            tables.change(groups.clone(), true);
            tables.push(&tables.message(&groups)).unwrap();
            let without: Groups = vec![(0, vec![member(0)]), (1, vec![member(4)])];
            tables.change(without, true);
            tables.change(groups.clone(), true);
            assert!(tables.complete());
            if again {
                tables.push(&tables.message(&groups[..1])).unwrap();
            }
            assert!(tables.push(&tables.message(&groups[1..])).is_err(), "that one did not change");
        }
    }

    #[test]
    fn a_new_connection_is_told_everything() {
        let mut tables = Tables::new(0, SHAPE, 100, false);
        let groups: Groups = vec![(0, vec![member(2)])];
        tables.change(groups.clone(), true);
        let all = tables.message(&groups);
        tables.push(&all).unwrap();
        tables.reconnect();
        assert!(!tables.complete());
        tables.push(&all).unwrap();
        assert!(tables.complete());
    }

    fn delta(tables: &Tables, entries: &[(u32, WeightEntry)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        tables.write_group(&mut writer, 0, entries.iter().copied());
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn pushes_of_changes_say_what_is_new_and_who_left() {
        let mut tables = Tables::new(0, SHAPE, 100, true);
        let say = |of: Membership| (of.member, of.entry(100));
        let gone = |of: Membership| {
            let flags = EntryFlags::CONFIDENT | EntryFlags::REGISTERED_BY_LB;
            (of.member, WeightEntry { state: of.state, flags, weight: 0 })
        };
        tables.change(vec![(0, vec![member(0), member(1), member(2)]), (1, vec![])], true);
        assert!(!tables.complete());
        let all = delta(&tables, &[say(member(0)), say(member(1)), say(member(2))]);
        tables.push(&all).unwrap();
        assert!(tables.complete());
        assert!(tables.push(&all).is_err(), "nothing is new");
        // One changes, one leaves by itself, one is taken out by the load balancer.
        let changed = Membership { state: 9, ..member(0) };
        tables.change(vec![(0, vec![changed, member(1), member(2)]), (1, vec![])], false);
        tables.change(vec![(0, vec![changed, member(2)]), (1, vec![])], false);
        tables.change(vec![(0, vec![changed]), (1, vec![])], true);
        for wrong in [&[say(changed), gone(member(1)), gone(member(2))][..], &[gone(member(1))], &[say(member(0))]] {
            assert!(tables.push(&delta(&tables, wrong)).is_err(), "{wrong:?}");
        }
        tables.push(&delta(&tables, &[say(changed), gone(member(1))])).unwrap();
        assert!(tables.complete());
        // One that left and came back is new; of its leaving nothing is said.
        tables.change(vec![(0, vec![]), (1, vec![])], false);
        tables.change(vec![(0, vec![changed]), (1, vec![])], false);
        assert!(!tables.complete());
        tables.push(&delta(&tables, &[say(changed)])).unwrap();
        assert!(tables.complete());
    }

    #[test]
    fn what_was_told_is_left_open_until_it_shows() {
        let mut tables = Tables::new(0, SHAPE, 100, true);
        let (first, second) = (member(0), Membership { state: 1, ..member(0) });
        let delta_of = |tables: &Tables, of: Membership| delta(tables, &[(of.member, of.entry(100))]);
        let other = member(1);
        for of in [first, second, first, second] {
            tables.change(vec![(0, vec![of])], true);
        }
        tables.change(vec![(0, vec![second, other])], true);
        tables.push(&delta_of(&tables, second)).unwrap();
        assert_eq!(tables.deltas.borrow().len(), 2, "after the second change, or after the fourth");
        tables.push(&delta_of(&tables, first)).unwrap();
        assert_eq!(tables.deltas.borrow().len(), 1, "after the third, so that was the second");
        assert!(!tables.complete());
        tables.push(&delta(&tables, &[(0, second.entry(100)), (1, other.entry(100))])).unwrap();
        assert!(tables.complete());
    }

    #[test]
    fn without_no_change_a_last_push_lists_whole_groups() {
        let mut tables = Tables::new(0, SHAPE, 100, true);
        let groups: Groups = vec![(0, vec![member(0), member(1)]), (1, vec![member(4)])];
        tables.change(groups.clone(), true);
        tables.push(&tables.message(&groups)).unwrap();
        let fewer: Groups = vec![(0, vec![member(0)]), (1, vec![member(4)])];
        tables.change(fewer.clone(), true);
        assert!(tables.complete(), "no entry is to say");
        tables.end_no_change();
        assert!(tables.push(&tables.message(&groups[..1])).is_err(), "the group has fewer members");
        assert!(tables.push(&tables.message(&[])).is_err(), "no group");
        tables.push(&tables.message(&fewer[..1])).unwrap();
    }

    #[test]
    fn the_reply_has_every_byte() {
        let mut tables = Tables::new(0, SHAPE, 100, false);
        tables.change(vec![(1, vec![Membership { quiesced: true, state: 3, by_lb: false, ..member(5) }])], true);
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

//! Members that change one by one, through their own Set Member State or through their agents: what one load balancer
//! was told of each, and what may be on its way.

use std::rc::Rc;

use gwm::sasp::{EntryFlags, WeightEntry};

use super::{group_name, pushed, uid};
use crate::{Result, options::Shape};

/// How a member's version shows in its entry.
#[derive(Clone, Debug)]
pub(crate) enum Shown {
    /// The `n`th change sets the opaque state to the lowest byte of `n`; that `n` only grows is how a message out of
    /// order shows. Nothing monitors the members.
    State,
    /// Version 1 is the first answer of the member's agent, with these drained; each change is to the opposite:
    /// before, nothing is known of the member.
    Agent(Rc<[bool]>),
}

impl Shown {
    fn entry(&self, member: u32, version: u32, weight_max: u16) -> WeightEntry {
        let flags = EntryFlags::CONTACT | EntryFlags::REGISTERED_BY_LB;
        match self {
            Shown::State => WeightEntry { state: version as u8, flags, weight: weight_max },
            Shown::Agent(_) if version == 0 => WeightEntry { state: 0, flags, weight: weight_max },
            Shown::Agent(drained) => {
                let drained = drained[member as usize] != version.is_multiple_of(2);
                let weight = if drained { 0 } else { weight_max };
                WeightEntry { state: 0, flags: flags | EntryFlags::CONFIDENT, weight }
            }
        }
    }

    /// The first version of these that the entry shows.
    fn version(&self, member: u32, told: u32, requested: u32, entry: &WeightEntry, weight_max: u16) -> Option<u32> {
        let first = match self {
            Shown::State => told + u32::from(entry.state.wrapping_sub(told as u8)),
            Shown::Agent(_) => told,
        };
        (first..=requested).take(2).find(|&version| *entry == self.entry(member, version, weight_max))
    }
}

/// The state of one load balancer.
pub(crate) struct Versions {
    lb: u32,
    /// Only what changed is sent.
    delta: bool,
    shown: Shown,
    /// By member: the version told last, and the one requested last.
    known: Vec<(u32, u32)>,
    /// Members whose newest version has not arrived.
    behind: u32,
    /// The first push has arrived.
    begun: bool,
}

impl Versions {
    pub(crate) fn new(lb: u32, shape: &Shape, delta: bool, shown: Shown) -> Versions {
        let known = vec![(0, 0); shape.farm_members() as usize];
        Versions { lb, delta, shown, known, behind: 0, begun: false }
    }

    /// A change of this member is about to be requested; gives its state.
    pub(crate) fn request(&mut self, member: u32) -> u8 {
        let (told, requested) = &mut self.known[member as usize];
        self.behind += u32::from(told == requested);
        *requested += 1;
        *requested as u8
    }

    /// Whether everything that was requested has arrived.
    pub(crate) fn complete(&self) -> bool {
        self.begun && self.behind == 0
    }

    /// Whether the first push has arrived.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Checks a push; `news` sees each member whose version it moves: member, version before, version now.
    pub(crate) fn push(
        &mut self,
        shape: &Shape,
        weight_max: u16,
        frame: &[u8],
        mut news: impl FnMut(u32, u32, u32),
    ) -> Result<()> {
        let lb = self.lb;
        let wrong = |what: String| format!("push to LB {lb}: {what}");
        let push = pushed(frame).map_err(wrong)?;
        let own = uid(lb);
        let mut next_group = 0;
        for group in push.groups {
            let number = (next_group..shape.groups).find(|&number| group.data.name == group_name(number).as_bytes());
            let Some(number) = number.filter(|_| group.data.lb_uid == own) else {
                return Err(wrong(format!("group {:?} is not its own, or not in order", group.data)));
            };
            next_group = number + 1;
            let listed = !self.delta || !self.begun;
            if listed && u32::from(group.count()) != shape.members {
                return Err(wrong(format!("group {:?} lists {} of {}", group.data, group.count(), shape.members)));
            }
            let mut members = number * shape.members..(number + 1) * shape.members;
            let mut moved = false;
            for weighted in group.entries() {
                let farm = shape.farm(lb);
                let found = members.find(|&member| {
                    listed || shape.endpoint(farm, member) == weighted.member.endpoint // in a delta, some are left out
                });
                let Some(member) = found else {
                    return Err(wrong(format!("{:?} is not its member, or not in order", weighted.member)));
                };
                let (told, requested) = &mut self.known[member as usize];
                let version = self.shown.version(member, *told, *requested, &weighted.entry, weight_max);
                let right =
                    weighted.member.endpoint == shape.endpoint(farm, member) && weighted.member.label.is_empty();
                let Some(version) = version.filter(|_| right) else {
                    return Err(wrong(format!(
                        "{:?} {:?}, where member {member} in a version from {told} to {requested} is due",
                        weighted.member, weighted.entry
                    )));
                };
                if version == *told {
                    if !listed {
                        return Err(wrong(format!("{:?} has not changed", weighted.member)));
                    }
                    continue;
                }
                moved = true;
                news(member, *told, version);
                *told = version;
                self.behind -= u32::from(version == *requested);
            }
            if self.begun && !moved {
                return Err(wrong(format!("nothing has changed in group {:?}", group.data)));
            }
        }
        if !self.begun && push.groups.count() as u32 != shape.groups {
            return Err(wrong(format!("the first one lists {} of {} groups", push.groups.count(), shape.groups)));
        }
        self.begun = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gwm::sasp::{GroupData, MemberData, WeightedMember, Writer};

    use super::*;

    const SHAPE: Shape =
        Shape { lbs: 1, groups: 2, members: 3, farms: 1, first_lb: 0, first_member: 0, local: false, own: false };

    fn push(lb: u32, groups: &[(u32, &[(u32, u32)])]) -> Vec<u8> {
        push_of(&Shown::State, lb, groups)
    }

    fn push_of(shown: &Shown, lb: u32, groups: &[(u32, &[(u32, u32)])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        for (group, members) in groups {
            writer.group(GroupData { lb_uid: &uid(lb), name: group_name(*group).as_bytes() });
            for &(number, version) in *members {
                let member = MemberData { endpoint: SHAPE.endpoint(0, number), label: b"" };
                writer.entry(&WeightedMember { member, entry: shown.entry(number, version, 100) });
            }
        }
        writer.finish().unwrap();
        bytes
    }

    fn judge(versions: &mut Versions, bytes: &[u8]) -> Result<Vec<(u32, u32, u32)>> {
        let mut news = Vec::new();
        versions.push(&SHAPE, 100, bytes, |member, from, to| news.push((member, from, to)))?;
        Ok(news)
    }

    const FIRST: &[(u32, &[(u32, u32)])] = &[(0, &[(0, 0), (1, 0), (2, 0)]), (1, &[(3, 0), (4, 0), (5, 0)])];

    #[test]
    fn versions_only_grow_and_nothing_is_missing() {
        let mut versions = Versions::new(0, &SHAPE, false, Shown::State);
        assert!(judge(&mut versions, &push(0, &FIRST[..1])).is_err(), "a group is missing");
        let mut versions = Versions::new(0, &SHAPE, false, Shown::State);
        assert_eq!(judge(&mut versions, &push(0, FIRST)), Ok(vec![]));
        assert!(versions.complete());
        for _ in 0..3 {
            versions.request(4);
        }
        assert!(!versions.complete());
        assert!(judge(&mut versions, &push(1, &[(1, &[(3, 0), (4, 2), (5, 0)])])).is_err(), "another LB's");
        assert!(judge(&mut versions, &push(0, &[(1, &[(3, 0), (4, 4), (5, 0)])])).is_err(), "from the future");
        assert_eq!(judge(&mut versions, &push(0, &[(1, &[(3, 0), (4, 2), (5, 0)])])), Ok(vec![(4, 0, 2)]));
        assert!(judge(&mut versions, &push(0, &[(1, &[(3, 0), (4, 1), (5, 0)])])).is_err(), "out of order");
        assert!(judge(&mut versions, &push(0, &[(1, &[(3, 0), (4, 2), (5, 0)])])).is_err(), "no news");
        assert!(judge(&mut versions, &push(0, &[(1, &[(4, 3), (3, 0), (5, 0)])])).is_err(), "another order");
        assert_eq!(judge(&mut versions, &push(0, &[(1, &[(3, 0), (4, 3), (5, 0)])])), Ok(vec![(4, 2, 3)]));
        assert!(versions.complete());
    }

    #[test]
    fn a_delta_lists_news_only() {
        let mut versions = Versions::new(0, &SHAPE, true, Shown::State);
        assert_eq!(judge(&mut versions, &push(0, FIRST)), Ok(vec![]));
        versions.request(0);
        versions.request(2);
        assert!(judge(&mut versions, &push(0, &[(0, &[(0, 1), (1, 0)])])).is_err(), "not news");
        let mut versions = Versions::new(0, &SHAPE, true, Shown::State);
        judge(&mut versions, &push(0, FIRST)).unwrap();
        versions.request(0);
        versions.request(2);
        assert_eq!(judge(&mut versions, &push(0, &[(0, &[(0, 1), (2, 1)])])), Ok(vec![(0, 0, 1), (2, 0, 1)]));
        assert!(versions.complete());
    }
    #[test]
    fn agents_drain_and_take_back() {
        let shown = Shown::Agent([false, true, false, false, false, false].into());
        let mut versions = Versions::new(0, &SHAPE, true, shown.clone());
        (0..6).for_each(|member| _ = versions.request(member));
        let judge =
            |versions: &mut Versions, members: &[(u32, u32)]| judge(versions, &push_of(&shown, 0, &[(0, members)]));
        let first = &[(0, &[(0, 0), (1, 1), (2, 1)][..]), (1, &[(3, 1), (4, 1), (5, 1)])];
        versions.push(&SHAPE, 100, &push_of(&shown, 0, first), |_, _, _| {}).unwrap();
        assert!(!versions.complete(), "one agent was not heard yet");
        assert_eq!(judge(&mut versions, &[(0, 1)]), Ok(vec![(0, 0, 1)]));
        assert!(versions.complete());
        assert!(judge(&mut versions, &[(1, 2)]).is_err(), "its agent has not said that");
        versions.request(1);
        assert!(judge(&mut versions, &[(1, 0)]).is_err(), "it was known before");
        assert_eq!(judge(&mut versions, &[(1, 2)]), Ok(vec![(1, 1, 2)]));
        assert!(judge(&mut versions, &[(1, 3)]).is_err(), "out of order");
        assert!(versions.complete());
    }
}

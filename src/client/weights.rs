//! The table that a load balancer builds from weights, complete ones or changes.

use std::collections::{HashMap, HashSet};

use crate::sasp::{Endpoint, Group, Groups, Standing, WeightEntry, WeightedMember};

/// The message that groups come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Send Weights: groups in which something changed.
    Push,
    /// The reply to a Get Weights for all groups: a group that the reply does not list does not exist.
    AllGroups,
}

/// An LB's table of its groups. It belongs to one connection: begin a new table for the next one (RFC 4678 section 9.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    groups: Vec<GroupWeights>,
    by_name: HashMap<Vec<u8>, usize>,
}

/// One group; members are in the order in which they became known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupWeights {
    name: Vec<u8>,
    members: Vec<MemberWeight>,
    by_endpoint: HashMap<Endpoint, usize>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberWeight {
    /// Address, protocol and port.
    pub endpoint: Endpoint,
    /// The label from its registration.
    pub label: Vec<u8>,
    /// The GWM's weight entry.
    pub entry: WeightEntry,
}

impl Weights {
    /// Applies a message. With `no_change_no_send` (the LB's flag) members that the message leaves out are unchanged;
    /// without the flag they have left.
    pub fn apply(&mut self, groups: Groups<'_, WeightedMember<'_>>, source: Source, no_change_no_send: bool) {
        if source == Source::AllGroups {
            self.keep_only(groups);
        }
        for group in groups {
            let known = self.group_mut(group.data.name);
            if !no_change_no_send {
                known.clear();
            }
            known.merge(group);
        }
    }

    /// The groups in the order in which they became known.
    pub fn groups(&self) -> &[GroupWeights] {
        &self.groups
    }

    /// The group of this name.
    pub fn group(&self, name: &[u8]) -> Option<&GroupWeights> {
        self.by_name.get(name).map(|at| &self.groups[*at]) // the index follows the groups
    }

    /// Forgets members of a group that the LB deregistered itself: with no-change/no-send no message says that they left.
    pub(super) fn remove(&mut self, group: &[u8], left: &HashSet<Endpoint>) {
        let Some(at) = self.by_name.get(group) else { return };
        let group = &mut self.groups[*at];
        group.members.retain(|member| !left.contains(&member.endpoint));
        group.by_endpoint = group.members.iter().enumerate().map(|(at, member)| (member.endpoint, at)).collect();
    }

    fn group_mut(&mut self, name: &[u8]) -> &mut GroupWeights {
        let at = *self.by_name.entry(name.to_vec()).or_insert(self.groups.len());
        if at == self.groups.len() {
            self.groups.push(GroupWeights { name: name.to_vec(), ..GroupWeights::default() });
        }
        &mut self.groups[at]
    }

    /// Forgets groups that are not in the message, and takes the message's order.
    fn keep_only(&mut self, groups: Groups<'_, WeightedMember<'_>>) {
        let mut kept = Weights::default();
        for group in groups {
            let name = group.data.name;
            if let Some(at) = self.by_name.get(name) {
                *kept.group_mut(name) = GroupWeights { name: name.to_vec(), ..std::mem::take(&mut self.groups[*at]) };
            }
        }
        *self = kept;
    }
}

impl GroupWeights {
    /// The group's name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its members.
    pub fn members(&self) -> &[MemberWeight] {
        &self.members
    }

    /// The member at this endpoint.
    pub fn member(&self, endpoint: &Endpoint) -> Option<&MemberWeight> {
        self.by_endpoint.get(endpoint).map(|at| &self.members[*at]) // the index follows the members
    }

    /// What each member may get of new work.
    pub fn standings(&self) -> Vec<Standing> {
        Standing::of_group(self.members.iter().map(|member| member.entry))
    }

    /// Each member's share of new work, 0 to 1. `None` if an LB is to use its own means, since the GWM is confident of no
    /// member.
    pub fn shares(&self) -> Option<Vec<f64>> {
        let standings = self.standings();
        if standings.contains(&Standing::Usual) {
            return None;
        }
        let weight =
            |standing: &Standing| if let Standing::Serving(weight) = standing { f64::from(*weight) } else { 0.0 };
        let total: f64 = standings.iter().map(weight).sum();
        Some(standings.iter().map(|standing| if total > 0.0 { weight(standing) / total } else { 0.0 }).collect())
    }

    fn clear(&mut self) {
        self.members.clear();
        self.by_endpoint.clear();
    }

    fn merge(&mut self, group: Group<'_, WeightedMember<'_>>) {
        for WeightedMember { member, entry } in group.entries() {
            let at = *self.by_endpoint.entry(member.endpoint).or_insert(self.members.len());
            match self.members.get_mut(at) {
                Some(known) => {
                    known.entry = entry;
                    if known.label != member.label {
                        known.label = member.label.to_vec();
                    }
                }
                None => {
                    self.members.push(MemberWeight { endpoint: member.endpoint, label: member.label.to_vec(), entry });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasp::EntryFlags;
    use crate::sasp::{GroupData, MemberData, Message, Writer};

    const GOOD: EntryFlags = EntryFlags(0x0D);

    /// Groups of (last byte of the address, weight, flags) as Send Weights would carry them.
    type Sent<'a> = &'a [(&'a str, &'a [(u8, u16, EntryFlags)])];

    fn apply(weights: &mut Weights, source: Source, no_change: bool, groups: Sent<'_>) {
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        for (name, members) in groups {
            writer.group(GroupData { lb_uid: b"LB1", name: name.as_bytes() });
            for (host, weight, flags) in *members {
                let member = MemberData { endpoint: endpoint(*host), label: b"x" };
                let entry = WeightEntry { state: 0, flags: *flags, weight: *weight };
                writer.entry(&WeightedMember { member, entry });
            }
        }
        writer.finish().unwrap();
        let Ok((_, Message::SendWeights(push))) = Message::decode(&bytes) else { panic!() };
        weights.apply(push.groups, source, no_change);
    }

    fn endpoint(host: u8) -> Endpoint {
        Endpoint::new([10, 0, 0, host].into(), 6, 80)
    }

    fn shown(weights: &Weights) -> Vec<(String, Vec<(u8, u16)>)> {
        let member = |m: &MemberWeight| (m.endpoint.address[15], m.entry.weight);
        let group = |g: &GroupWeights| {
            (String::from_utf8(g.name().to_vec()).unwrap(), g.members().iter().map(member).collect())
        };
        weights.groups().iter().map(group).collect()
    }

    #[test]
    fn a_whole_push_replaces_the_groups_that_it_names() {
        let mut weights = Weights::default();
        apply(&mut weights, Source::Push, false, &[("a", &[(1, 10, GOOD), (2, 20, GOOD)]), ("b", &[(3, 30, GOOD)])]);
        apply(&mut weights, Source::Push, false, &[("a", &[(2, 5, GOOD)])]);
        assert_eq!(shown(&weights), [("a".into(), vec![(2, 5)]), ("b".into(), vec![(3, 30)])]);
        assert_eq!(weights.group(b"a").unwrap().member(&endpoint(1)), None);
        apply(&mut weights, Source::Push, false, &[("b", &[])]);
        assert_eq!(shown(&weights), [("a".into(), vec![(2, 5)]), ("b".into(), vec![])]);
    }

    #[test]
    fn a_push_of_changes_leaves_the_rest_as_it_was() {
        let mut weights = Weights::default();
        apply(&mut weights, Source::Push, true, &[("a", &[(1, 10, GOOD), (2, 20, GOOD)]), ("b", &[(3, 30, GOOD)])]);
        apply(&mut weights, Source::Push, true, &[("a", &[(2, 5, GOOD), (4, 40, GOOD)])]);
        assert_eq!(shown(&weights), [("a".into(), vec![(1, 10), (2, 5), (4, 40)]), ("b".into(), vec![(3, 30)])]);
        assert_eq!(weights.group(b"a").unwrap().member(&endpoint(4)).unwrap().entry.weight, 40);
    }

    #[test]
    fn a_reply_about_all_groups_ends_those_that_it_does_not_name() {
        let mut weights = Weights::default();
        apply(&mut weights, Source::Push, true, &[("a", &[(1, 10, GOOD)]), ("b", &[(2, 20, GOOD)]), ("c", &[])]);
        apply(&mut weights, Source::AllGroups, true, &[("c", &[]), ("b", &[(3, 30, GOOD)])]);
        assert_eq!(shown(&weights), [("c".into(), vec![]), ("b".into(), vec![(2, 20), (3, 30)])]);
        apply(&mut weights, Source::AllGroups, false, &[("b", &[(3, 31, GOOD)])]);
        assert_eq!(shown(&weights), [("b".into(), vec![(3, 31)])]);
        assert_eq!(weights.group(b"c"), None);
    }

    #[test]
    fn an_entry_and_its_label_are_the_newest() {
        let mut weights = Weights::default();
        apply(&mut weights, Source::Push, true, &[("a", &[(1, 10, GOOD)])]);
        apply(&mut weights, Source::Push, true, &[("a", &[(1, 0, EntryFlags(0x08))])]);
        let member = weights.group(b"a").unwrap().member(&endpoint(1)).unwrap();
        assert_eq!(member.entry, WeightEntry { state: 0, flags: EntryFlags(0x08), weight: 0 });
        assert_eq!(member.label, b"x");
    }

    #[test]
    fn members_that_get_nothing_are_told_apart() {
        let standings = |members: &[(u8, u16, EntryFlags)]| {
            let mut weights = Weights::default();
            apply(&mut weights, Source::Push, false, &[("a", members)]);
            weights.groups()[0].standings()
        };
        let (unsure, down, quiesced) = (EntryFlags(0x05), EntryFlags(0x0C), EntryFlags(0x0F));
        assert_eq!(
            standings(&[(1, 30, GOOD), (2, 0, GOOD), (3, 9, unsure), (4, 9, down), (5, 9, quiesced)]),
            [Standing::Serving(30), Standing::Idle, Standing::Idle, Standing::Down, Standing::Quiesced]
        );
        assert_eq!(
            standings(&[(1, 0, unsure), (2, 9, down), (3, 9, quiesced)]),
            [Standing::Usual, Standing::Down, Standing::Quiesced]
        );
    }

    #[test]
    fn shares_follow_contact_quiesce_and_confidence() {
        let share = |members: &[(u8, u16, EntryFlags)]| {
            let mut weights = Weights::default();
            apply(&mut weights, Source::Push, false, &[("a", members)]);
            weights.groups()[0].shares()
        };
        assert_eq!(share(&[(1, 30, GOOD), (2, 10, GOOD)]), Some(vec![0.75, 0.25]));
        assert_eq!(share(&[(1, 30, GOOD), (2, 10, EntryFlags(0x05))]), Some(vec![1.0, 0.0]), "not confident");
        assert_eq!(share(&[(1, 30, GOOD), (2, 10, EntryFlags(0x0C))]), Some(vec![1.0, 0.0]), "no contact");
        assert_eq!(share(&[(1, 30, GOOD), (2, 10, EntryFlags(0x0F))]), Some(vec![1.0, 0.0]), "quiesced");
        assert_eq!(share(&[(1, 30, EntryFlags(0x05)), (2, 10, EntryFlags(0x05))]), None, "confident of none");
        assert_eq!(share(&[(1, 0, EntryFlags(0x08))]), Some(vec![0.0]), "none is left");
        assert_eq!(share(&[]), Some(vec![]));
        assert_eq!(share(&[(1, 0, GOOD)]), Some(vec![0.0]), "up, of weight 0");
    }
}

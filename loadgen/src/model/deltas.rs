//! The memory of a connection with no-change/no-send: the last entry of each membership, and entries to come.

use std::collections::BTreeMap;

use gwm::sasp::{EntryFlags, WeightEntry};

use super::tables::{Groups, Membership, Tables};

/// The possible last entries. A push may fit after several changes: each is a hypothesis of its own, until
/// a later push fits only some of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hypothesis {
    /// After so many changes of the tables.
    pub(super) at: usize,
    /// By member; nothing of one that it was told has left.
    sent: BTreeMap<u32, WeightEntry>,
    /// Members that left by themselves although the connection knows them, in the order in which they left.
    farewells: Vec<Farewell>,
}

#[derive(Clone, Debug, PartialEq)]
struct Farewell {
    member: u32,
    /// It is registered again: only the present entry is told.
    replaced: bool,
    entry: WeightEntry,
}

impl Hypothesis {
    /// The next change of the tables, made by the load balancer or by a member.
    pub(super) fn step(&mut self, from: &Groups, to: &Groups, by_lb: bool) {
        let has = |groups: &Groups, member: u32| groups.iter().any(|(_, all)| all.iter().any(|of| of.member == member));
        for membership in from.iter().flat_map(|(_, members)| members).filter(|of| !has(to, of.member)) {
            let known = self.sent.remove(&membership.member).is_some();
            if known && !by_lb {
                let last = membership.entry(0);
                let flags = last.flags.with(EntryFlags::CONTACT, false).with(EntryFlags::CONFIDENT, true);
                let entry = WeightEntry { flags, ..last };
                self.farewells.retain(|farewell| farewell.member != membership.member);
                self.farewells.push(Farewell { member: membership.member, replaced: false, entry });
            } else {
                self.replace(membership.member, false);
            }
        }
        for membership in to.iter().flat_map(|(_, members)| members).filter(|of| !has(from, of.member)) {
            self.replace(membership.member, true);
        }
        self.at += 1;
    }

    fn replace(&mut self, member: u32, replaced: bool) {
        self.farewells.iter_mut().filter(|farewell| farewell.member == member).for_each(|farewell| {
            farewell.replaced = replaced;
        });
    }

    /// The entries to come of one group of the tables.
    pub(super) fn owed(&self, tables: &Tables, group: u32, members: &[Membership]) -> Vec<(u32, WeightEntry)> {
        let entries = members.iter().map(|of| (of.member, of.entry(tables.weight_max)));
        let news = entries.filter(|(member, entry)| self.sent.get(member) != Some(entry));
        let farewells = self.farewells.iter().filter(|farewell| !farewell.replaced);
        let farewells = farewells.filter(|farewell| tables.group_of(farewell.member) == group);
        news.chain(farewells.map(|farewell| (farewell.member, farewell.entry))).collect()
    }

    /// All that it is owed of these groups is said.
    pub(super) fn said(&mut self, tables: &Tables, groups: &Groups) {
        let members = groups.iter().flat_map(|(_, members)| members);
        self.sent = members.map(|of| (of.member, of.entry(tables.weight_max))).collect();
        self.farewells.clear();
    }
}

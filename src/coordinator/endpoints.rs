//! Every distinct endpoint once: what is judged of it, whether it is watched, and which groups list it.

use std::{hash::BuildHasher, sync::Arc, time::Duration};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::{
    Settings, Time, WatchOrder,
    fail_open::FailOpen,
    ids::{EndpointId, GroupId, Table},
    verdicts::{Shown, Turn, Verdicts},
    watches::Watches,
};
use crate::{
    judgement::Judgement,
    roster::Roster,
    sasp::{Endpoint, EntryFlags},
};

struct Record {
    endpoint: Endpoint,
    /// The groups that list it, in no order; a membership remembers its place here.
    groups: Vec<GroupId>,
}

pub(super) struct Endpoints {
    hasher: FixedState,
    index: HashTable<EndpointId>,
    records: Table<EndpointId, Record>,
    /// By id, apart from the records: a push reads nothing else of an endpoint.
    verdicts: Verdicts,
    watches: Watches,
    fail_open: FailOpen,
    /// What the operator says, and whether an echo can be sent: together they say who is watched.
    roster: Arc<Roster>,
    icmp: bool,
}

impl Endpoints {
    pub(super) fn new(hasher: FixedState, settings: &Settings) -> Endpoints {
        Endpoints {
            fail_open: FailOpen::new(settings.panic_percent, hasher.clone()),
            hasher,
            index: HashTable::new(),
            records: Table::new(),
            verdicts: Verdicts::new(),
            watches: Watches::new(),
            roster: settings.roster.clone(),
            icmp: settings.icmp,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    pub(super) fn find(&self, endpoint: &Endpoint) -> Option<EndpointId> {
        let hash = self.hasher.hash_one(endpoint);
        self.index.find(hash, |&id| self.records[id].endpoint == *endpoint).copied()
    }

    /// The endpoint's id; a new one must be linked next.
    pub(super) fn intern(&mut self, endpoint: Endpoint) -> EndpointId {
        let Endpoints { hasher, index, records, .. } = self;
        let entry = index.entry(
            hasher.hash_one(endpoint),
            |&id| records[id].endpoint == endpoint,
            |&id| hasher.hash_one(records[id].endpoint),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(found) => *found.get(),
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                let id = records.insert(Record { endpoint, groups: Vec::new() });
                vacant.insert(id);
                self.verdicts.reset(id, self.roster.find(&endpoint));
                if self.is_watchable(&endpoint) {
                    self.watches.begin(id);
                }
                id
            }
        }
    }

    /// Adds a group to those that list the endpoint; gives its place.
    pub(super) fn link(&mut self, id: EndpointId, group: GroupId) -> u32 {
        let groups = &mut self.records[id].groups;
        if groups.capacity() == 0 {
            groups.reserve_exact(1); // most endpoints are in one group
        }
        groups.push(group);
        groups.len() as u32 - 1
    }

    /// Removes the group at `place`; an endpoint without groups is forgotten. The group that now stands at
    /// that place, if one was moved there, must be told.
    pub(super) fn unlink(&mut self, id: EndpointId, place: u32) -> Option<GroupId> {
        let record = &mut self.records[id];
        record.groups.swap_remove(place as usize);
        if record.groups.is_empty() {
            let hash = self.hasher.hash_one(record.endpoint);
            if let Ok(found) = self.index.find_entry(hash, |&other| other == id) {
                found.remove();
            }
            self.records.remove(id);
            self.watches.end(id);
            self.fail_open.forget(id);
            return None;
        }
        record.groups.get(place as usize).copied()
    }

    /// Takes the list of groups out, for a walk that needs everything else; [`Endpoints::put_groups`] must follow.
    pub(super) fn take_groups(&mut self, id: EndpointId) -> Vec<GroupId> {
        std::mem::take(&mut self.records[id].groups)
    }

    pub(super) fn put_groups(&mut self, id: EndpointId, groups: Vec<GroupId>) {
        self.records[id].groups = groups;
    }

    pub(super) fn groups(&self, id: EndpointId) -> &[GroupId] {
        &self.records[id].groups
    }

    pub(super) fn endpoint(&self, id: EndpointId) -> Endpoint {
        self.records[id].endpoint
    }

    /// What is shown of it to who is told that a membership of it has ended.
    pub(super) fn last_word(&self, id: EndpointId) -> Shown {
        let quiesced = self.roster.find(&self.endpoint(id)).quiesced;
        Shown { flags: EntryFlags::CONFIDENT.with(EntryFlags::QUIESCED, quiesced), weight: 0 }
    }

    /// Whether anything can be found out about it that the operator does not know better.
    fn is_watchable(&self, endpoint: &Endpoint) -> bool {
        let member = self.roster.find(endpoint);
        let monitored = member.monitor.auto || !member.monitor.checks.is_empty();
        !member.fixed && monitored && !self.roster.checks(endpoint, self.icmp).is_empty()
    }

    /// The operator says other things from now on; [`Endpoints::reassess`] every endpoint next.
    pub(super) fn set_roster(&mut self, roster: Arc<Roster>) {
        self.roster = roster;
    }

    /// How many ids there are, some perhaps of no endpoint.
    pub(super) fn ids(&self) -> usize {
        self.records.end()
    }

    /// Makes one endpoint what the roster says; `None` if there is none of this id.
    pub(super) fn reassess(&mut self, id: EndpointId) -> Option<Turn> {
        let endpoint = self.records.get(id)?.endpoint;
        let (is, was) = (self.is_watchable(&endpoint), self.watches.is_wanted(id));
        let member = self.roster.find(&endpoint);
        if is && was {
            return Some(self.verdicts.reassess(id, member));
        }
        match is {
            true => self.watches.begin(id),
            false => self.watches.end(id),
        }
        self.fail_open.forget(id);
        Some(self.verdicts.reset(id, member))
    }

    /// Takes what is judged of an endpoint that is watched under this name, if there is one.
    pub(super) fn judge(&mut self, now: Time, judgement: &Judgement) -> Option<(EndpointId, Turn)> {
        let id = self.watches.find(judgement.watch)?;
        let mut change = self.verdicts.judge(id, &judgement.verdicts);
        // An agent's word counts by some policies only. What no policy believes in is what no check can reach.
        let contact = judgement.verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT));
        let up = EntryFlags::CONTACT | EntryFlags::CONFIDENT;
        if judgement.verdicts.iter().any(|verdict| verdict.flags.contains(up)) && self.watches.see(id) {
            self.fail_open.first_is_up(now);
        }
        match (self.watches.set_contact(id, contact), contact) {
            (true, false) => {
                self.fail_open.lost(now, id, self.endpoint(id), self.watches.is_seen(id));
                change = change | self.verdicts.set_fresh(id, true);
            }
            (false, true) => {
                self.fail_open.forget(id);
                change = change | self.verdicts.set_fresh(id, false);
            }
            _ => {}
        }
        Some((id, change))
    }

    /// Lets the time pass for failing open; says whether that began or ended, which concerns every group. With
    /// `may_open` it may begin.
    pub(super) fn decide(&mut self, now: Time, may_open: bool) -> bool {
        let window = fall_window(&self.roster);
        while let Some(id) = self.fail_open.expire(now, window) {
            self.verdicts.set_fresh(id, false);
        }
        let (seen, contact) = (self.watches.any_seen(), self.watches.with_contact());
        let turned = (may_open || self.fail_open.is_open()) && self.fail_open.decide(seen, contact);
        self.verdicts.set_open(self.fail_open.is_open());
        turned
    }

    /// When failing open may end though nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.fail_open.grace_ends(fall_window(&self.roster)).filter(|_| self.watches.any_seen())
    }

    pub(super) fn fails_open(&self) -> bool {
        self.fail_open.is_open()
    }

    /// How many are watched.
    pub(super) fn watched(&self) -> usize {
        self.watches.len()
    }

    /// How many of those lost contact so short a time ago that failing open gives it back.
    pub(super) fn lost(&self) -> usize {
        self.fail_open.fresh()
    }

    pub(super) fn has_orders(&self) -> bool {
        self.watches.has_orders()
    }

    /// The next endpoint's watch orders, for `shards` shards.
    pub(super) fn take_orders(&mut self, shards: u16) -> [Option<WatchOrder>; 2] {
        let Endpoints { hasher, records, watches, .. } = self;
        watches.take(|id| {
            let endpoint = records[id].endpoint;
            let shard = hasher.hash_one(endpoint) % u64::from(shards);
            (shard as u16, endpoint)
        })
    }
}

/// From a member's failing until it is seen to be down, at the latest: what all members that fail at once are within.
fn fall_window(roster: &Roster) -> Duration {
    let times = roster.default_member().times;
    times.interval + times.fast_interval * u32::from(times.fall.saturating_sub(1)) + times.timeout
}

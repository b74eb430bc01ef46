//! Every distinct endpoint, once: the monitor's verdicts, the watch, and the groups that list the endpoint.

use std::{hash::BuildHasher, sync::Arc, time::Duration};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::{
    fail_open::FailOpen,
    ids::{EndpointId, GroupId, Table},
    settings::Settings,
    verdicts::{Shown, VerdictDelta, Verdicts},
    watches::{WatchOrder, Watches},
};
use crate::{
    judgement::Judgement,
    roster::{Roster, Times},
    sasp::{Endpoint, EntryFlags},
    time::Time,
};

struct Record {
    endpoint: Endpoint,
    /// The groups that list the endpoint, in no order. A membership knows its place here.
    groups: Vec<GroupId>,
}

pub(super) struct Endpoints {
    hasher: FixedState,
    index: HashTable<EndpointId>,
    records: Table<EndpointId, Record>,
    /// In memory of their own: a push reads nothing else of an endpoint.
    verdicts: Verdicts,
    watches: Watches,
    /// The time by which every watch that has begun should have its first verdict.
    verdicts_until: Time,
    fail_open: FailOpen,
    /// The roster and `icmp` (this machine can send echoes) decide which endpoints are watched.
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
            verdicts_until: Time::default(),
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

    /// The endpoint's id. A new endpoint must be linked next.
    pub(super) fn intern(&mut self, now: Time, endpoint: Endpoint) -> EndpointId {
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
                    self.begin_watch(now, id);
                }
                id
            }
        }
    }

    fn begin_watch(&mut self, now: Time, id: EndpointId) {
        self.watches.begin(id);
        let times = self.roster.find(&self.records[id].endpoint).times;
        self.verdicts_until = self.verdicts_until.max(now + fall_window(&times));
    }

    /// From the begin of a watch to the result of the first check, for the first of these members that waits for its
    /// first verdict; `None` if none of them does.
    pub(super) fn first_verdict(&self, now: Time, mut members: impl Iterator<Item = EndpointId>) -> Option<Duration> {
        if now >= self.verdicts_until {
            return None; // a check without a result keeps no load balancer asking
        }
        let waits = members.find(|&id| !self.verdicts.is_judged(id) && self.watches.is_wanted(id))?;
        Some(self.roster.find(&self.records[waits].endpoint).times.interval)
    }

    /// Adds a group to the endpoint's list; gives the group's place.
    pub(super) fn link(&mut self, id: EndpointId, group: GroupId) -> u32 {
        let groups = &mut self.records[id].groups;
        if groups.capacity() == 0 {
            groups.reserve_exact(1); // most endpoints are in one group
        }
        groups.push(group);
        groups.len() as u32 - 1
    }

    /// Removes the group at `place`. An endpoint without groups is forgotten. If another group moves to `place`, the
    /// caller gets its id and must tell that group.
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

    /// Takes the list of groups out, for a loop that borrows everything else; [`Endpoints::put_groups`] must follow.
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

    /// The value in a farewell, which tells an LB that a membership of the endpoint has ended.
    pub(super) fn last_word(&self, id: EndpointId) -> Shown {
        let quiesced = self.roster.find(&self.endpoint(id)).quiesced;
        Shown { flags: EntryFlags::CONFIDENT.with(EntryFlags::QUIESCED, quiesced), weight: 0 }
    }

    /// Whether a check applies to the endpoint and the operator has not fixed its weight.
    fn is_watchable(&self, endpoint: &Endpoint) -> bool {
        let member = self.roster.find(endpoint);
        let monitored = member.monitor.auto || !member.monitor.checks.is_empty();
        !member.fixed && monitored && !self.roster.checks(endpoint, self.icmp).is_empty()
    }

    /// Puts a new roster in force; the caller must [reassess](Endpoints::reassess) every endpoint next.
    pub(super) fn set_roster(&mut self, roster: Arc<Roster>) {
        self.roster = roster;
    }

    /// All ids are below this number; some may belong to no endpoint.
    pub(super) fn ids(&self) -> usize {
        self.records.end()
    }

    /// Applies the roster to one endpoint; `None` if no endpoint has this id.
    pub(super) fn reassess(&mut self, now: Time, id: EndpointId) -> Option<VerdictDelta> {
        let endpoint = self.records.get(id)?.endpoint;
        let (is, was) = (self.is_watchable(&endpoint), self.watches.is_wanted(id));
        if is && was {
            return Some(self.verdicts.reassess(id, self.roster.find(&endpoint)));
        }
        match is {
            true => self.begin_watch(now, id),
            false => self.watches.end(id),
        }
        self.fail_open.forget(id);
        Some(self.verdicts.reset(id, self.roster.find(&endpoint)))
    }

    /// Takes a judgement. A judgement about an endpoint that is no longer watched under this name changes nothing.
    pub(super) fn take_judgement(&mut self, now: Time, judgement: &Judgement) -> Option<(EndpointId, VerdictDelta)> {
        let id = self.watches.find(judgement.watch)?;
        let mut change = self.verdicts.set(id, &judgement.verdicts);
        // Some policies ignore the agent. An endpoint has lost contact if no policy shows contact.
        let contact = judgement.verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT));
        let up = EntryFlags::CONTACT | EntryFlags::CONFIDENT;
        if judgement.verdicts.iter().any(|verdict| verdict.flags.contains(up)) && self.watches.see(id) {
            self.fail_open.first_is_up(now);
        }
        match (self.watches.set_contact(id, contact), contact) {
            (true, false) => {
                self.fail_open.lost(now, id, self.endpoint(id).canonical(), self.watches.is_seen(id));
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

    /// Applies the rule of failing open; returns whether failing open began or ended, which concerns every group. It
    /// begins only with `may_open`.
    pub(super) fn decide(&mut self, now: Time, may_open: bool) -> bool {
        let window = fall_window(&self.roster.default_member().times);
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
        self.fail_open.grace_ends(fall_window(&self.roster.default_member().times)).filter(|_| self.watches.any_seen())
    }

    pub(super) fn fails_open(&self) -> bool {
        self.fail_open.is_open()
    }

    /// How many endpoints are watched.
    pub(super) fn watched(&self) -> usize {
        self.watches.len()
    }

    /// How many endpoints are fresh: they lost contact within the fall window.
    pub(super) fn lost(&self) -> usize {
        self.fail_open.fresh()
    }

    pub(super) fn has_orders(&self) -> bool {
        self.watches.has_orders()
    }

    /// Takes the next endpoint's watch orders, for `shards` shards.
    pub(super) fn take_orders(&mut self, shards: u16) -> [Option<WatchOrder>; 2] {
        let Endpoints { hasher, records, watches, .. } = self;
        watches.take(|id| {
            let endpoint = records[id].endpoint;
            let shard = hasher.hash_one(endpoint) % u64::from(shards);
            (shard as u16, endpoint)
        })
    }
}

/// The longest time from a member's failure to its being down. Members that fail together go down within it.
fn fall_window(times: &Times) -> Duration {
    times.interval + times.fast_interval * u32::from(times.fall.saturating_sub(1)) + times.timeout
}

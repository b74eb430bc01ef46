//! Every distinct endpoint once: what is judged of it, and which groups list it.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use super::group::GroupId;
use crate::sasp::{Endpoint, EntryFlags};

/// Names an endpoint while a group lists it.
pub(super) type EndpointId = u32;

/// What the GWM says of an endpoint, whoever lists it: the contact and confident flags, and the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) flags: EntryFlags,
    pub(super) weight: u16,
}

struct Record {
    endpoint: Endpoint,
    /// The groups that list it, in no order; a membership remembers its place here.
    groups: Vec<GroupId>,
}

pub(super) struct Endpoints {
    hasher: FixedState,
    index: HashTable<EndpointId>,
    records: Slab<Record>,
    /// By id, apart from the records: all that encoding a push reads of an endpoint.
    verdicts: Vec<Verdict>,
}

impl Endpoints {
    pub(super) fn new(hasher: FixedState) -> Endpoints {
        Endpoints { hasher, index: HashTable::new(), records: Slab::new(), verdicts: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    pub(super) fn find(&self, endpoint: &Endpoint) -> Option<EndpointId> {
        let hash = self.hasher.hash_one(endpoint);
        self.index.find(hash, |&id| self.records[id as usize].endpoint == *endpoint).copied()
    }

    /// The endpoint's id; a new one begins with `verdict` and must be linked next.
    pub(super) fn intern(&mut self, endpoint: Endpoint, verdict: impl FnOnce() -> Verdict) -> EndpointId {
        let Endpoints { hasher, index, records, verdicts } = self;
        let entry = index.entry(
            hasher.hash_one(endpoint),
            |&id| records[id as usize].endpoint == endpoint,
            |&id| hasher.hash_one(records[id as usize].endpoint),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(found) => *found.get(),
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                let id = records.insert(Record { endpoint, groups: Vec::new() });
                if id == verdicts.len() {
                    verdicts.push(verdict());
                } else {
                    verdicts[id] = verdict();
                }
                let id = id as EndpointId; // fewer than `limits::MEMBERSHIPS`
                vacant.insert(id);
                id
            }
        }
    }

    /// Adds a group to those that list the endpoint; gives its place.
    pub(super) fn link(&mut self, id: EndpointId, group: GroupId) -> u32 {
        let groups = &mut self.records[id as usize].groups;
        if groups.capacity() == 0 {
            groups.reserve_exact(1); // most endpoints are in one group
        }
        groups.push(group);
        groups.len() as u32 - 1
    }

    /// Removes the group at `place`; an endpoint without groups is forgotten. The group that now stands at
    /// that place, if one was moved there, must be told.
    pub(super) fn unlink(&mut self, id: EndpointId, place: u32) -> Option<GroupId> {
        let record = &mut self.records[id as usize];
        record.groups.swap_remove(place as usize);
        if record.groups.is_empty() {
            let hash = self.hasher.hash_one(record.endpoint);
            if let Ok(found) = self.index.find_entry(hash, |&other| other == id) {
                found.remove();
            }
            self.records.remove(id as usize);
            return None;
        }
        record.groups.get(place as usize).copied()
    }

    pub(super) fn groups(&self, id: EndpointId) -> &[GroupId] {
        &self.records[id as usize].groups
    }

    pub(super) fn endpoint(&self, id: EndpointId) -> Endpoint {
        self.records[id as usize].endpoint
    }

    /// Whether that changed anything.
    pub(super) fn set_verdict(&mut self, id: EndpointId, verdict: Verdict) -> bool {
        std::mem::replace(&mut self.verdicts[id as usize], verdict) != verdict
    }
}

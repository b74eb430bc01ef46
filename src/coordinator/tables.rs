//! Load balancers, groups, memberships and endpoints, and the indexes between them: add, find, remove.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::{
    doubts::Doubts,
    endpoints::Endpoints,
    group::Group,
    ids::{Column, EndpointId, GroupId, LbId, Table},
    listing::{Listing, Step, Steps},
    listings::Listings,
    load_balancer::{LoadBalancer, Timer},
    settings::{Settings, Totals},
};
use crate::{judgement::Policy, sasp::GroupData, time::Time};

pub(super) struct Tables {
    hasher: FixedState,
    pub(super) lbs: Table<LbId, LoadBalancer>,
    by_uid: HashTable<LbId>,
    pub(super) groups: Table<GroupId, Group>,
    /// Groups by LB and name, ghosts too. A name belongs to a group or to a ghost, never to both.
    by_name: HashTable<GroupId>,
    pub(super) listings: Listings,
    /// The group is in doubt.
    pub(super) doubted: Column<GroupId, bool>,
    pub(super) doubts: Doubts,
    pub(super) endpoints: Endpoints,
    pub(super) memberships: u32,
    /// Number of farewells in all groups. Farewells and ghosts count against the limits: else an LB that never asks
    /// would make the GWM's memory grow without end.
    pub(super) farewells: u32,
    /// Number of groups that were ever created or revived: the order of the last one.
    last_order: u64,
    /// Number of load balancers that were ever created.
    lbs_ever: u64,
}

impl Tables {
    pub(super) fn new(settings: &Settings) -> Tables {
        let hasher = FixedState::with_seed(settings.hash_seed);
        Tables {
            hasher: hasher.clone(),
            lbs: Table::new(),
            by_uid: HashTable::new(),
            groups: Table::new(),
            by_name: HashTable::new(),
            listings: Listings::new(hasher.clone()),
            doubted: Column::new(),
            doubts: Doubts::new(settings.panic_percent, settings.panic_time, hasher.clone()),
            endpoints: Endpoints::new(hasher, settings),
            memberships: 0,
            farewells: 0,
            last_order: 0,
            lbs_ever: 0,
        }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            load_balancers: self.lbs.len(),
            groups: self.groups.len() - self.lbs.iter().map(|(_, lb)| lb.ghosts.len()).sum::<usize>(),
            memberships: self.memberships as usize,
            endpoints: self.endpoints.len(),
            watched: self.endpoints.watched(),
            answering: self.endpoints.answering(),
            doubted: self.doubts.len(),
            listings: self.listings.len(),
        }
    }

    /// How many load balancers are connected, to any GWM of the fleet, and the most groups and members that one has.
    pub(super) fn of_lbs(&self) -> (usize, usize, usize) {
        self.lbs.iter().fold((0, 0, 0), |(connected, groups, members), (_, lb)| {
            let more = usize::from(lb.is_connected());
            (connected + more, groups.max(lb.groups.len()), members.max(lb.held as usize))
        })
    }

    /// How many groups list the endpoint.
    pub(super) fn groups_of(&self, endpoint: EndpointId) -> usize {
        self.endpoints.listings(endpoint).iter().map(|&listing| self.listings.get(listing).groups.len()).sum()
    }

    /// What the group lists.
    pub(super) fn listing(&self, group: GroupId) -> &Listing {
        self.listings.get(self.groups[group].listing)
    }

    pub(super) fn find_lb(&self, uid: &[u8]) -> Option<LbId> {
        self.by_uid.find(self.hasher.hash_one(uid), |&lb| *self.lbs[lb].uid == *uid).copied()
    }

    pub(super) fn create_lb(&mut self, uid: &[u8]) -> LbId {
        self.lbs_ever += 1;
        let lb = self.lbs.insert(LoadBalancer::new(uid, self.lbs_ever));
        let Tables { hasher, lbs, by_uid, .. } = self;
        by_uid.insert_unique(hasher.hash_one(uid), lb, |&lb| hasher.hash_one(&*lbs[lb].uid));
        lb
    }

    pub(super) fn drop_lb(&mut self, lb: LbId) {
        let groups = self.lbs[lb].groups.clone();
        self.remove_groups(&groups, false);
        self.drop_ghosts(lb);
        let hash = self.hasher.hash_one(&*self.lbs[lb].uid);
        if let Ok(entry) = self.by_uid.find_entry(hash, |&other| other == lb) {
            entry.remove();
        }
        self.lbs.remove(lb);
    }

    /// The LB's connection has ended or moved: pushes stop, and the memory of sent values is void.
    pub(super) fn detach(&mut self, lb: LbId) {
        let known = &mut self.lbs[lb];
        (known.connection, known.ready) = (None, false);
        self.stop_pushing(lb);
        self.drop_ghosts(lb);
        for at in 0..self.lbs[lb].groups.len() {
            self.with_farewells(self.lbs[lb].groups[at], |group, _, _| group.forget_sent());
        }
    }

    /// Forgets what the LB's next push should have had.
    pub(super) fn stop_pushing(&mut self, lb: LbId) {
        let known = &mut self.lbs[lb];
        known.changed.clear();
        (known.all, known.due) = (false, false);
        known.deadline(Timer::Window).at = None;
        known.deadline(Timer::Refresh).at = None;
        for &group in known.groups.iter().chain(&known.ghosts) {
            let known = &mut self.groups[group];
            known.queued = false;
            self.listings.take_quiet(group, known.listing);
        }
    }

    pub(super) fn find_group(&self, lb: LbId, name: &[u8]) -> Option<GroupId> {
        self.find_name(lb, name).filter(|&group| !self.groups[group].removed)
    }

    /// The group of that name; it may be a ghost.
    pub(super) fn find_name(&self, lb: LbId, name: &[u8]) -> Option<GroupId> {
        let found = self.by_name.find(self.hash_name(lb, name), |&group| {
            let group = &self.groups[group];
            group.lb == lb && group.name() == name
        });
        found.copied()
    }

    /// Creates a group that the LB does not have; it becomes the LB's last group. In a fleet, nodes hear of groups in
    /// different orders: there the groups of an LB stand in the order of their names.
    pub(super) fn create_group(&mut self, lb: LbId, data: GroupData<'_>, policy: Policy) -> GroupId {
        self.last_order += 1;
        let group = match self.find_name(lb, data.name) {
            // The LB has yet to hear that the group ended: the same group continues.
            Some(ghost) => {
                let revived = &mut self.groups[ghost];
                (revived.removed, revived.order) = (false, self.last_order);
                revived.scale = None;
                self.lbs[lb].ghosts.retain(|&other| other != ghost);
                ghost
            }
            None => {
                let listing = self.listings.empty(policy);
                let group = self.groups.insert(Group::new(lb, self.last_order, listing, data));
                self.listings.join(group, listing, false);
                let hash = self.hash_name(lb, data.name);
                let Tables { hasher, groups, by_name, .. } = self;
                by_name.insert_unique(hash, group, |&group| {
                    let group = &groups[group];
                    hasher.hash_one((group.lb, group.name()))
                });
                group
            }
        };
        self.settle_doubt(group);
        let known = &mut self.lbs[lb];
        let place = if self.endpoints.shares.is_some() {
            known.groups.partition_point(|&other| self.groups[other].name() < data.name)
        } else {
            known.groups.len()
        };
        known.groups.insert(place, group);
        let must_note = known.pushing() && !known.all;
        self.set_policy(group, policy);
        if must_note {
            self.listings.set_quiet(group, self.groups[group].listing);
        } else {
            self.listings.take_quiet(group, self.groups[group].listing);
        }
        group
    }

    /// Gives the group this policy; says whether it had another.
    pub(super) fn set_policy(&mut self, group: GroupId, policy: Policy) -> bool {
        let other = self.listing(group).policy != policy;
        if other {
            self.groups[group].scale = None;
            self.step(group, &Steps::of(Step::Policy(policy)));
        }
        other
    }

    /// Moves the group to the listing that has these changes.
    fn step(&mut self, group: GroupId, steps: &Steps) {
        let known = &mut self.groups[group];
        let sent = known.sent.take();
        (known.listing, known.sent) = self.listings.step(group, known.listing, steps, sent, &mut self.endpoints);
    }

    /// Lets groups join equal listings that did not when they changed, as far as there is time for that.
    pub(super) fn share(&mut self, now: Time) {
        while let Some((group, id, equal)) = self.listings.find_loose(now) {
            let known = &mut self.groups[group];
            let sent = known.sent.take();
            (known.listing, known.sent) = self.listings.merge(group, id, equal, 0, sent, &mut self.endpoints);
        }
    }

    /// Adds members that are not in the group, and sets states of members that are.
    pub(super) fn change_members(&mut self, group: GroupId, steps: &Steps) {
        let before = self.listing(group).len();
        self.step(group, steps);
        let more = self.listing(group).len() - before;
        self.memberships += more;
        self.lbs[self.groups[group].lb].held += more;
    }

    /// Takes members out of a group, as far as the group has them. With `farewell` its LB may have to hear of that.
    pub(super) fn remove_members(&mut self, group: GroupId, members: &[EndpointId], farewell: bool) {
        let lb = self.groups[group].lb;
        let farewell = farewell && self.lbs[lb].connection.is_some();
        let mut steps = Steps::default();
        for &endpoint in members {
            let Tables { listings, endpoints, groups, .. } = self;
            let id = groups[group].listing;
            let Some(slot) = listings.get(id).find(endpoint) else { continue };
            let last_word = farewell.then(|| endpoints.last_word(endpoint));
            steps.list.push(Step::Remove { endpoint });
            self.with_farewells(group, |group, listings, endpoints| {
                group.removes(listings.get(id), slot, endpoints.endpoint(endpoint), last_word);
            });
        }
        self.memberships -= steps.list.len() as u32;
        self.lbs[lb].held -= steps.list.len() as u32;
        if !steps.list.is_empty() {
            self.step(group, &steps);
        }
        if self.doubted[group] {
            self.doubts.suspect(group);
        }
    }

    /// Calls `act`, which may add or end farewells of the group. Only this function counts farewells.
    pub(super) fn with_farewells<R>(
        &mut self,
        group: GroupId,
        act: impl FnOnce(&mut Group, &mut Listings, &Endpoints) -> R,
    ) -> R {
        let group = &mut self.groups[group];
        let before = group.owed();
        let done = act(group, &mut self.listings, &self.endpoints);
        let now = group.owed();
        if before != now {
            let held = &mut self.lbs[group.lb].held;
            *held = *held - before + now;
            self.farewells = self.farewells - before + now;
        }
        done
    }

    /// Ends groups and removes their members. With `farewell` (the request was not the LB's own), groups that the LB
    /// knows become ghosts until the LB has heard of their end.
    pub(super) fn remove_groups(&mut self, doomed: &[GroupId], farewell: bool) {
        let mut owners: Vec<LbId> = Vec::new();
        let mut ended: Vec<GroupId> = Vec::with_capacity(doomed.len());
        for &group in doomed {
            let lb = self.groups[group].lb;
            if owners.last() != Some(&lb) {
                owners.push(lb);
            }
            let known = &mut self.lbs[lb];
            let ghost = farewell && known.connection.is_some() && self.groups[group].was_told();
            if ghost {
                known.ghosts.push(group);
                let members: Vec<EndpointId> = self.listing(group).members().collect();
                self.remove_members(group, &members, true);
                self.groups[group].queued = false;
            } else {
                ended.push(group);
            }
            let known = &mut self.groups[group];
            known.removed = true;
            self.listings.take_quiet(group, known.listing);
            self.settle_doubt(group);
        }
        owners.sort_unstable();
        owners.dedup();
        for lb in owners {
            let Tables { lbs, groups, .. } = self;
            let known = &mut lbs[lb];
            known.groups.retain(|&group| !groups[group].removed);
            known.changed.retain(|&group| !groups[group].removed);
        }
        ended.into_iter().for_each(|group| self.forget_group(group));
    }

    /// The group is new or has ended: there is no doubt about it.
    fn settle_doubt(&mut self, group: GroupId) {
        self.doubted.set(group, false);
        self.doubts.forget(group);
    }

    /// Forgets all ghosts of the LB.
    pub(super) fn drop_ghosts(&mut self, lb: LbId) {
        for ghost in std::mem::take(&mut self.lbs[lb].ghosts) {
            self.forget_group(ghost);
        }
    }

    /// Forgets the ghosts without farewells; says whether others are left.
    pub(super) fn settle_ghosts(&mut self, lb: LbId) -> bool {
        let mut ghosts = std::mem::take(&mut self.lbs[lb].ghosts);
        ghosts.retain(|&ghost| {
            let owes = self.groups[ghost].owed() > 0;
            if !owes {
                self.forget_group(ghost);
            }
            owes
        });
        let left = !ghosts.is_empty();
        self.lbs[lb].ghosts = ghosts;
        left
    }

    /// How many groups and ghosts there are.
    pub(super) fn groups_and_ghosts(&self) -> usize {
        self.groups.len()
    }

    /// Ends a group that no LB lists.
    fn forget_group(&mut self, group: GroupId) {
        let known = &self.groups[group];
        let hash = self.hash_name(known.lb, known.name());
        if let Ok(entry) = self.by_name.find_entry(hash, |&other| other == group) {
            entry.remove();
        }
        self.with_farewells(group, |group, _, _| group.drop_farewells());
        let Group { lb, listing, .. } = self.groups.remove(group);
        let members = self.listings.get(listing).len();
        self.memberships -= members;
        self.lbs[lb].held -= members;
        self.listings.leave(group, listing, &mut self.endpoints);
    }

    /// A hasher for the tables of one request.
    pub(super) fn hasher(&self) -> FixedState {
        self.hasher.clone()
    }

    fn hash_name(&self, lb: LbId, name: &[u8]) -> u64 {
        self.hasher.hash_one((lb, name))
    }
}

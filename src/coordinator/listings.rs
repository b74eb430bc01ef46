//! All listings: groups whose content is equal have the same listing, however the content came about.
//!
//! A group joins an equal listing after every request that changes it. An equal listing is found by a hash that peers
//! can not choose, and compared. A listing that no other group has is changed where it is; else the group leaves it.

use std::{sync::Arc, time::Duration};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::{
    edition::Values,
    endpoints::Endpoints,
    ids::{Column, EndpointId, GroupId, ListingId, Table},
    listing::{Listing, Next, Steps, UNLINKED, realign},
};
use crate::{judgement::Policy, time::Time};

pub(super) struct Listings {
    hasher: FixedState,
    table: Table<ListingId, Listing>,
    by_content: HashTable<ListingId>,
    /// How many listings have members.
    with_members: usize,
    /// Each group's place in its listing, if other groups have the listing.
    places: Column<GroupId, u32>,
    /// The serial number of the last listing.
    serial: u64,
    debt: Debt,
    /// Listings that were not compared with others while the debt was too high. Some may have ended.
    loose: Vec<ListingId>,
    /// A listing in the making, whose memory is used again.
    draft: Listing,
}

/// What sharing has cost lately, in members looked at, beyond what the requests asked for.
///
/// A group that leaves a listing takes a copy with it, and a group that joins one gives up its own, both at the price
/// of all members, although the request may name one. Two LBs that change a large group in turns would keep the
/// coordinator busy for ever. So a group joins others while the debt is below [`Debt::MOST`], else later.
#[derive(Default)]
struct Debt {
    members: u64,
    at: Time,
}

impl Debt {
    /// About 0.1 s of work.
    const MOST: u64 = 1_000_000;

    /// The debt falls by a member in this time: sharing costs a tenth of the coordinator's time at most, about.
    const PER_MEMBER: Duration = Duration::from_micros(1);

    fn pay(&mut self, now: Time) {
        let paid = now.since(self.at).as_nanos() / Self::PER_MEMBER.as_nanos();
        self.members = self.members.saturating_sub(u64::try_from(paid).unwrap_or(u64::MAX));
        if paid > 0 {
            self.at = now;
        }
    }

    /// A listing of so many members was copied or given up, for a request of so many steps.
    fn owe(&mut self, members: u32, steps: usize) {
        // A request pays for some members with each of its own.
        self.members += u64::from(members).saturating_sub(16 * steps as u64);
    }

    fn is_high(&self) -> bool {
        self.members >= Self::MOST
    }
}

impl Listings {
    pub(super) fn new(hasher: FixedState) -> Listings {
        Listings {
            draft: Listing::new(Policy::Auto, &hasher),
            hasher,
            table: Table::new(),
            by_content: HashTable::new(),
            with_members: 0,
            places: Column::new(),
            serial: 0,
            debt: Debt::default(),
            loose: Vec::new(),
        }
    }

    /// How many different listings with members there are.
    pub(super) fn len(&self) -> usize {
        self.with_members
    }

    pub(super) fn get(&self, id: ListingId) -> &Listing {
        &self.table[id]
    }

    pub(super) fn get_mut(&mut self, id: ListingId) -> &mut Listing {
        &mut self.table[id]
    }

    /// The listing without members; a group must join it next.
    pub(super) fn empty(&mut self, policy: Policy) -> ListingId {
        let empty = Listing::new(policy, &self.hasher);
        self.find(&empty).unwrap_or_else(|| self.insert(empty))
    }

    /// Takes a group out of its listing; a listing without groups ends.
    pub(super) fn leave(&mut self, group: GroupId, id: ListingId, endpoints: &mut Endpoints) {
        self.part(group, id);
        if self.table[id].groups.is_empty() {
            self.drop_listing(id, endpoints);
        }
    }

    /// Moves a group to the listing that has the steps made. `sent` is what the group's LB was sent; gives the same for
    /// the new listing.
    pub(super) fn step(
        &mut self,
        group: GroupId,
        id: ListingId,
        steps: &Steps,
        sent: Option<Values>,
        endpoints: &mut Endpoints,
    ) -> (ListingId, Option<Values>) {
        let listing = &self.table[id];
        let alone = listing.groups.len() == 1;
        if let Some(next) = &listing.next
            && next.steps == *steps
            && self.table.get(next.to).is_some_and(|to| to.serial == next.serial)
            && !(alone && self.debt.is_high())
        {
            let to = next.to;
            let sent = self.follow(id, sent);
            self.move_to(group, id, to, steps.list.len(), endpoints);
            return (to, sent);
        }
        if alone {
            return self.step_alone(group, id, steps, sent, endpoints);
        }
        self.debt.owe(listing.len(), steps.list.len());
        let Listings { hasher, table, draft, .. } = self;
        let mut same_slots = draft.set(&table[id], steps, hasher);
        let to = match self.find(&self.draft) {
            Some(equal) => {
                same_slots &= self.draft.is_dense() && self.table[equal].is_dense();
                equal
            }
            None => {
                let draft = Listing::new(self.draft.policy, &self.hasher);
                let mut kept = std::mem::replace(&mut self.draft, draft);
                kept.complete(None);
                kept.shrink();
                same_slots &= kept.slots.len() >= self.table[id].slots.len();
                let to = self.insert(kept);
                self.link(to, 0, endpoints);
                to
            }
        };
        let serial = self.table[to].serial;
        self.table[id].next = Some(Box::new(Next { steps: steps.clone(), to, serial, same_slots, sent: None }));
        let sent = self.follow(id, sent);
        self.move_to(group, id, to, steps.list.len(), endpoints);
        (to, sent)
    }

    /// What was sent, by the slots of the next listing.
    fn follow(&mut self, id: ListingId, sent: Option<Values>) -> Option<Values> {
        let sent = sent?;
        let Listings { table, .. } = self;
        let next = table[id].next.as_deref()?;
        if next.same_slots {
            return Some(sent);
        }
        if let Some((before, after)) = &next.sent
            && Arc::ptr_eq(before, &sent)
        {
            return Some(after.clone());
        }
        let after = realign(&sent, &table[id], &table[next.to]);
        if let Some(next) = table[id].next.as_deref_mut() {
            next.sent = Some((sent, after.clone()));
        }
        Some(after)
    }

    /// Makes the steps in a listing that no other group has.
    fn step_alone(
        &mut self,
        group: GroupId,
        id: ListingId,
        steps: &Steps,
        sent: Option<Values>,
        endpoints: &mut Endpoints,
    ) -> (ListingId, Option<Values>) {
        self.forget_content(id);
        self.serial += 1;
        let Listings { hasher, table, serial, .. } = self;
        let (before, had_members) = (table[id].slots.len(), table[id].len() > 0);
        let mut removed: Vec<(EndpointId, u32)> = Vec::new();
        table[id].apply(steps, hasher, |endpoint, place| removed.push((endpoint, place)));
        table[id].serial = *serial;
        self.with_members += usize::from(self.table[id].len() > 0);
        self.with_members -= usize::from(had_members);
        for (endpoint, place) in removed {
            self.unlink(endpoint, place, endpoints);
        }
        if self.debt.is_high() {
            if !std::mem::replace(&mut self.table[id].loose, true) {
                self.loose.push(id);
            }
        } else if let Some(equal) = self.find(&self.table[id]) {
            return self.merge(group, id, equal, steps.list.len(), sent, endpoints);
        }
        self.link(id, before, endpoints);
        let sent = self.table[id].complete(sent);
        if !self.table[id].loose {
            self.remember_content(id);
        }
        (id, sent)
    }

    /// Moves a group from a listing that no other group has, and that is not found by its content, to an equal one.
    pub(super) fn merge(
        &mut self,
        group: GroupId,
        id: ListingId,
        equal: ListingId,
        steps: usize,
        sent: Option<Values>,
        endpoints: &mut Endpoints,
    ) -> (ListingId, Option<Values>) {
        let (from, to) = (&self.table[id], &self.table[equal]);
        let dense = from.is_dense() && to.is_dense();
        let sent = sent.map(|sent| if dense { sent } else { realign(&sent, from, to) });
        self.debt.owe(from.len(), steps);
        let quiet = self.part(group, id);
        self.join(group, equal, quiet);
        self.drop_members(id, endpoints);
        (equal, sent)
    }

    /// Moves a group to another listing; a listing without groups ends.
    fn move_to(&mut self, group: GroupId, id: ListingId, to: ListingId, steps: usize, endpoints: &mut Endpoints) {
        let quiet = self.part(group, id);
        self.join(group, to, quiet);
        if self.table[id].groups.is_empty() {
            self.debt.owe(self.table[id].len(), steps);
            self.drop_listing(id, endpoints);
        }
    }

    /// As far as the debt allows, compares loose listings with others, up to one that has an equal: gives its group, the
    /// listing, and the equal one.
    pub(super) fn find_loose(&mut self, now: Time) -> Option<(GroupId, ListingId, ListingId)> {
        self.debt.pay(now);
        while !self.debt.is_high() {
            let id = self.loose.pop()?;
            let Some(listing) = self.table.get_mut(id).filter(|listing| listing.loose) else { continue };
            listing.loose = false;
            let group = listing.groups[0];
            match self.find(&self.table[id]) {
                Some(equal) => return Some((group, id, equal)),
                None => self.remember_content(id),
            }
        }
        None
    }

    /// When loose listings can be compared with others.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let over = (self.debt.members + 1).saturating_sub(Debt::MOST);
        (!self.loose.is_empty()).then(|| self.debt.at + Debt::PER_MEMBER * u32::try_from(over).unwrap_or(u32::MAX))
    }

    /// Whether a change of the group must be noted; from now on it need not.
    pub(super) fn take_quiet(&mut self, group: GroupId, id: ListingId) -> bool {
        let (place, quiet) = (self.place(group, id), self.table[id].quiet as usize);
        if place >= quiet {
            return false;
        }
        self.table[id].quiet -= 1;
        self.swap(id, place, quiet - 1);
        true
    }

    /// From now on, a change of the group must be noted.
    pub(super) fn set_quiet(&mut self, group: GroupId, id: ListingId) {
        let (place, quiet) = (self.place(group, id), self.table[id].quiet as usize);
        if place >= quiet {
            self.swap(id, place, quiet);
            self.table[id].quiet += 1;
        }
    }

    /// The group's place in its listing.
    fn place(&self, group: GroupId, id: ListingId) -> usize {
        if self.table[id].groups.len() == 1 { 0 } else { self.places[group] as usize }
    }

    fn swap(&mut self, id: ListingId, one: usize, other: usize) {
        if one != other {
            let groups = &mut self.table[id].groups;
            groups.swap(one, other);
            let (first, second) = (groups[one], groups[other]);
            self.places.set(first, one as u32);
            self.places.set(second, other as u32);
        }
    }

    /// Gives a group its listing.
    pub(super) fn join(&mut self, group: GroupId, id: ListingId, quiet: bool) {
        let groups = &mut self.table[id].groups;
        groups.push(group);
        let place = groups.len() - 1;
        if place == 1 {
            self.places.set(groups[0], 0);
        }
        self.places.set(group, place as u32);
        if quiet {
            self.set_quiet(group, id);
        }
    }

    /// Takes a group out of its listing, which may have no group then. Says whether the group was quiet.
    fn part(&mut self, group: GroupId, id: ListingId) -> bool {
        let quiet = self.take_quiet(group, id);
        let last = self.table[id].groups.len() - 1;
        self.swap(id, self.place(group, id), last);
        self.table[id].groups.pop();
        quiet
    }

    /// The listing with the same content that is found by it.
    fn find(&self, listing: &Listing) -> Option<ListingId> {
        let is_equal = |&id: &ListingId| self.table[id].is_equal(listing);
        self.by_content.find(listing.hash, is_equal).copied()
    }

    fn insert(&mut self, mut listing: Listing) -> ListingId {
        self.serial += 1;
        listing.serial = self.serial;
        self.with_members += usize::from(listing.len() > 0);
        let id = self.table.insert(listing);
        self.remember_content(id);
        id
    }

    fn remember_content(&mut self, id: ListingId) {
        let Listings { table, by_content, .. } = self;
        by_content.insert_unique(table[id].hash, id, |&id| table[id].hash);
    }

    fn forget_content(&mut self, id: ListingId) {
        if let Ok(found) = self.by_content.find_entry(self.table[id].hash, |&other| other == id) {
            found.remove();
        }
    }

    fn drop_listing(&mut self, id: ListingId, endpoints: &mut Endpoints) {
        self.forget_content(id);
        self.drop_members(id, endpoints);
    }

    /// Ends a listing that has no groups and is not found by its content.
    fn drop_members(&mut self, id: ListingId, endpoints: &mut Endpoints) {
        for at in 0..self.table[id].slots.len() {
            let slot = self.table[id].slots[at];
            if !slot.is_vacant() && slot.place != UNLINKED {
                self.unlink(slot.endpoint, slot.place, endpoints);
            }
        }
        let ended = self.table.remove(id);
        self.with_members -= usize::from(ended.len() > 0);
    }

    /// Puts the listing into the lists of its endpoints, from a slot on.
    fn link(&mut self, id: ListingId, from: usize, endpoints: &mut Endpoints) {
        for slot in &mut self.table[id].slots[from..] {
            if !slot.is_vacant() && slot.place == UNLINKED {
                slot.place = endpoints.link(slot.endpoint, id);
            }
        }
    }

    fn unlink(&mut self, endpoint: EndpointId, place: u32, endpoints: &mut Endpoints) {
        if let Some(moved) = endpoints.unlink(endpoint, place) {
            let listing = &mut self.table[moved];
            if let Some(slot) = listing.find(endpoint) {
                listing.slots[slot].place = place;
            }
        }
    }
}

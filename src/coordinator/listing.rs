//! One listing: the members that groups of different load balancers have in common, in the order of their registration,
//! with labels, flags and states, and their encoded entries.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{
    edition::{Edition, Touched, UNSENT, Value, Values},
    ids::{EndpointId, GroupId, ListingId},
    verdicts::Shown,
};
use crate::{
    judgement::Policy,
    sasp::{
        EntryFlags, MemberData, WeightEntry,
        image::{self, VALUE_BYTES},
    },
};

/// Listings of up to so many slots are searched from end to end instead of by index: 2 KiB in a row are read as fast as the
/// three cold places that an index takes, and an index takes 8 bytes a member. Tests have small groups, and some of these
/// must have an index.
const SCAN_SLOTS: usize = if cfg!(debug_assertions) { 16 } else { 128 };

/// So many vacant slots, and one for each member, are left where they are.
const FEW_VACANT: usize = 16;

/// The endpoint of a slot whose member has left.
const VACANT: EndpointId = EndpointId::NONE;

/// A member, or the vacant place of one that has left. 16 bytes.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) endpoint: EndpointId,
    /// This listing's place in the endpoint's list of listings, or [`UNLINKED`]. In the first and the last of some
    /// vacant slots in a row: the other one of the two.
    pub(super) place: u32,
    /// Where the entry ends; it begins where the entry of the slot before ends.
    end: u32,
    pub(super) state: u8,
    bits: u8,
}

/// The listing is not in the endpoint's list yet.
pub(super) const UNLINKED: u32 = u32::MAX;

/// The member is quiesced.
const QUIESCED: u8 = 1;
/// The LB registered the member.
const BY_LB: u8 = 2;
/// The operator quiesced the member in this group.
const BY_OPERATOR: u8 = 4;

impl Slot {
    pub(super) fn is_vacant(&self) -> bool {
        self.endpoint == VACANT
    }

    /// Where the entry's value is.
    #[inline]
    pub(super) fn value_range(&self) -> std::ops::Range<usize> {
        self.end as usize - VALUE_BYTES..self.end as usize
    }

    /// Whether the load balancer registered the member.
    pub(super) fn is_by_lb(&self) -> bool {
        self.bits & BY_LB != 0
    }

    /// Whether the member is quiesced by SASP.
    pub(super) fn is_quiesced(&self) -> bool {
        self.bits & QUIESCED != 0
    }

    /// Whether the operator quiesced the member in this group.
    pub(super) fn is_quiesced_by_operator(&self) -> bool {
        self.bits & BY_OPERATOR != 0
    }

    #[inline]
    pub(super) fn value(&self, shown: Shown) -> Value {
        let quiesced = self.bits & (QUIESCED | BY_OPERATOR) != 0 || shown.flags.contains(EntryFlags::QUIESCED);
        let entry = WeightEntry {
            state: self.state,
            flags: shown
                .flags
                .with(EntryFlags::QUIESCED, quiesced)
                .with(EntryFlags::REGISTERED_BY_LB, self.bits & BY_LB != 0),
            weight: if quiesced { 0 } else { shown.weight },
        };
        entry.to_bytes()
    }
}

/// One change of a group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A new member, the last one; its entry has so many bytes of [`Steps::entries`].
    Add {
        endpoint: EndpointId,
        length: u32,
        by_lb: bool,
        /// The operator quiesced the member in this group.
        quiesced: bool,
    },
    State {
        endpoint: EndpointId,
        state: u8,
        quiesce: bool,
    },
    /// The operator quiesced or resumed the member in this group.
    Word {
        endpoint: EndpointId,
        quiesce: bool,
    },
    Remove {
        endpoint: EndpointId,
    },
    /// The group has another policy.
    Policy(Policy),
}

/// What one request changes in one group.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) list: Vec<Step>,
    /// The entries of new members.
    entries: Vec<u8>,
}

impl Steps {
    pub(super) fn of(step: Step) -> Steps {
        Steps { list: vec![step], entries: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.entries.clear();
    }

    pub(super) fn add(&mut self, endpoint: EndpointId, member: MemberData<'_>, by_lb: bool, quiesced: bool) {
        let length = image::push(&mut self.entries, member);
        self.list.push(Step::Add { endpoint, length, by_lb, quiesced });
    }
}

/// Where the groups of a listing went that changed in this way: groups of other LBs that change in the same way follow.
pub(super) struct Next {
    pub(super) steps: Steps,
    pub(super) to: ListingId,
    /// The listing's [serial number](Listing::serial): with another one, `to` is not the same any more.
    pub(super) serial: u64,
    /// Members have the same slots there, so what was sent stays as it is.
    pub(super) same_slots: bool,
    /// What was sent by slots here, and by slots there.
    pub(super) sent: Option<(Values, Values)>,
}

pub(super) struct Listing {
    pub(super) policy: Policy,
    /// The listing can not be found by its content, because sharing has cost too much lately.
    pub(super) loose: bool,
    /// Sum of hashes: of each member, and of each member's endpoint with the endpoint before it. Each endpoint is listed
    /// once, so the set of these pairs is the order, and a change of one member changes three terms at most.
    pub(super) hash: u64,
    /// Never used again: a listing that has changed is another one.
    pub(super) serial: u64,
    /// Members: slots that are not vacant.
    live: u32,
    /// Grows when a verdict on a member has changed.
    pub(super) version: u32,
    pub(super) slots: Vec<Slot>,
    /// Encoded entries. Their values are those that were written last.
    pub(super) entries: Vec<u8>,
    /// Slots by endpoint, once there are more than [`SCAN_SLOTS`].
    index: HashTable<u32>,
    /// How many slots the index knows.
    indexed: u32,
    /// The groups that have this listing; a change must be noted for the first `quiet` of them.
    pub(super) groups: SmallVec<[GroupId; 4]>,
    pub(super) quiet: u32,
    pub(super) editions: SmallVec<[Edition; 1]>,
    /// What has changed since the newest edition.
    pub(super) touched: Touched,
    pub(super) next: Option<Box<Next>>,
}

impl Listing {
    pub(super) fn new(policy: Policy, hasher: &FixedState) -> Listing {
        Listing {
            policy,
            loose: false,
            hash: hasher.hash_one(policy as u8),
            serial: 0,
            live: 0,
            version: 0,
            slots: Vec::new(),
            entries: Vec::new(),
            index: HashTable::new(),
            indexed: 0,
            groups: SmallVec::new(),
            quiet: 0,
            editions: SmallVec::new(),
            touched: Touched::ALL,
            next: None,
        }
    }

    /// Makes this listing, which no group has, equal to `base` after these steps. Says whether members have the same slots
    /// as in `base`: they have not if too many of these are vacant. If the listing is kept, [`Listing::complete`] follows.
    pub(super) fn set(&mut self, base: &Listing, steps: &Steps, hasher: &FixedState) -> bool {
        (self.policy, self.hash, self.live) = (base.policy, base.hash, base.live);
        self.slots.clear();
        self.entries.clear();
        self.index.clear();
        self.indexed = 0;
        self.touched.add_all();
        self.slots.reserve_exact(base.slots.len() + steps.list.len());
        self.entries.reserve_exact(base.entries.len() + steps.entries.len());
        self.slots.extend_from_slice(&base.slots);
        self.entries.extend_from_slice(&base.entries);
        for slot in self.slots.iter_mut().filter(|slot| !slot.is_vacant()) {
            slot.place = UNLINKED;
        }
        let same_slots = !base.is_sparse();
        if !same_slots {
            self.compact();
        } else if steps.list.iter().any(|step| !matches!(step, Step::Add { .. })) {
            (self.index, self.indexed) = (base.index.clone(), base.indexed);
        }
        self.apply(steps, hasher, |_, _| {});
        same_slots
    }

    /// Whether both list the same, in the same order.
    pub(super) fn is_equal(&self, other: &Listing) -> bool {
        let content = |slot: &Slot| (slot.endpoint, slot.state, slot.bits);
        self.policy == other.policy
            && self.live == other.live
            && self.live().zip(other.live()).all(|((at, slot), (other_at, other_slot))| {
                content(slot) == content(other_slot) && self.label(at) == other.label(other_at)
            })
    }

    /// How many members there are.
    pub(super) fn len(&self) -> u32 {
        self.live
    }

    /// No slot is vacant.
    pub(super) fn is_dense(&self) -> bool {
        self.live as usize == self.slots.len()
    }

    /// So many slots are vacant that loops over them cost too much.
    fn is_sparse(&self) -> bool {
        self.slots.len() > 2 * self.live as usize + FEW_VACANT
    }

    /// The slots of members, with their numbers.
    pub(super) fn live(&self) -> impl Iterator<Item = (usize, &Slot)> + Clone {
        self.slots.iter().enumerate().filter(|(_, slot)| !slot.is_vacant())
    }

    pub(super) fn members(&self) -> impl Iterator<Item = EndpointId> + Clone {
        self.live().map(|(_, slot)| slot.endpoint)
    }

    /// The entry of a slot. Its value is any.
    pub(super) fn entry(&self, slot: usize) -> &[u8] {
        &self.entries[self.start(slot)..self.slots[slot].end as usize]
    }

    fn start(&self, slot: usize) -> usize {
        slot.checked_sub(1).map_or(0, |before| self.slots[before].end as usize)
    }

    /// The label of a slot's member. Mostly there is none, and no entry is read.
    pub(super) fn label(&self, slot: usize) -> &[u8] {
        let (start, end) = (self.start(slot), self.slots[slot].end as usize);
        if end - start == image::UNLABELLED_BYTES { &[] } else { image::label(&self.entries[start..end]) }
    }

    pub(super) fn find(&self, endpoint: EndpointId) -> Option<usize> {
        if self.index.is_empty() {
            return self.slots.iter().position(|slot| slot.endpoint == endpoint);
        }
        let found = self.index.find(spread(endpoint), |&slot| self.slots[slot as usize].endpoint == endpoint);
        found.map(|&slot| slot as usize)
    }

    /// The entry that tells an LB that the slot's member has left.
    pub(super) fn farewell(&self, slot: usize, shown: Shown) -> Box<[u8]> {
        let mut encoded = Box::<[u8]>::from(self.entry(slot));
        image::value_of(&mut encoded).copy_from_slice(&self.slots[slot].value(shown));
        encoded
    }

    /// The slot of a member.
    pub(super) fn slot(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }

    /// Whether a state differs from what the member has.
    pub(super) fn differs(&self, endpoint: EndpointId, state: u8, quiesce: bool) -> bool {
        self.find(endpoint).is_some_and(|slot| {
            let slot = self.slots[slot];
            (slot.state, slot.bits & QUIESCED != 0) != (state, quiesce)
        })
    }

    /// Makes the changes. `unlink` hears of members that have left, with this listing's place in the endpoint's list.
    pub(super) fn apply(&mut self, steps: &Steps, hasher: &FixedState, mut unlink: impl FnMut(EndpointId, u32)) {
        let mut entries = &steps.entries[..];
        let mut moved = false;
        for step in &steps.list {
            match *step {
                Step::Add { endpoint, length, by_lb, quiesced } => {
                    moved = true;
                    let (entry, rest) = entries.split_at(length as usize);
                    entries = rest;
                    self.entries.extend_from_slice(entry);
                    let end = self.entries.len() as u32;
                    let bits = if by_lb { BY_LB } else { 0 } | if quiesced { BY_OPERATOR } else { 0 };
                    self.slots.push(Slot { endpoint, place: UNLINKED, end, state: 0, bits });
                    self.live += 1;
                    let last = self.slots.len() - 1;
                    let order = order(self.before(last), endpoint, hasher);
                    self.hash = self.hash.wrapping_add(order).wrapping_add(self.hash_of(last, hasher));
                }
                Step::State { endpoint, state, quiesce } => {
                    let Some(slot) = self.find(endpoint) else { continue };
                    self.hash = self.hash.wrapping_sub(self.hash_of(slot, hasher));
                    let bits = self.slots[slot].bits & !QUIESCED | if quiesce { QUIESCED } else { 0 };
                    (self.slots[slot].state, self.slots[slot].bits) = (state, bits);
                    self.touched.add(self.slots.len(), || Some(slot));
                    self.hash = self.hash.wrapping_add(self.hash_of(slot, hasher));
                }
                Step::Word { endpoint, quiesce } => {
                    let Some(slot) = self.find(endpoint) else { continue };
                    self.hash = self.hash.wrapping_sub(self.hash_of(slot, hasher));
                    let bits = self.slots[slot].bits & !BY_OPERATOR | if quiesce { BY_OPERATOR } else { 0 };
                    self.slots[slot].bits = bits;
                    self.touched.add(self.slots.len(), || Some(slot));
                    self.hash = self.hash.wrapping_add(self.hash_of(slot, hasher));
                }
                Step::Remove { endpoint } => {
                    let Some(slot) = self.find(endpoint) else { continue };
                    moved = true;
                    if self.slots[slot].place != UNLINKED {
                        unlink(endpoint, self.slots[slot].place);
                    }
                    self.vacate(slot, hasher);
                }
                Step::Policy(policy) => {
                    let (old, new) = (hasher.hash_one(self.policy as u8), hasher.hash_one(policy as u8));
                    self.hash = self.hash.wrapping_sub(old).wrapping_add(new);
                    self.policy = policy;
                    self.touched.add_all();
                }
            }
        }
        if moved {
            self.editions.clear();
        }
        self.next = None;
        self.version = self.version.wrapping_add(1);
    }

    /// A verdict has changed: on this endpoint, or on any.
    pub(super) fn touch(&mut self, endpoint: Option<EndpointId>) {
        self.version = self.version.wrapping_add(1);
        let mut touched = std::mem::replace(&mut self.touched, Touched::ALL);
        match endpoint {
            Some(endpoint) => touched.add(self.slots.len(), || self.find(endpoint)),
            None => touched.add_all(),
        }
        self.touched = touched;
    }

    /// Makes a slot vacant.
    fn vacate(&mut self, slot: usize, hasher: &FixedState) {
        let endpoint = self.slots[slot].endpoint;
        let (before, after) = (self.before(slot), self.after(slot));
        self.hash = self.hash.wrapping_sub(self.hash_of(slot, hasher)).wrapping_sub(order(before, endpoint, hasher));
        if after != VACANT {
            let (old, new) = (order(endpoint, after, hasher), order(before, after, hasher));
            self.hash = self.hash.wrapping_sub(old).wrapping_add(new);
        }
        if let Ok(entry) = self.index.find_entry(spread(endpoint), |&at| at as usize == slot) {
            entry.remove();
        }
        self.live -= 1;
        self.slots[slot].endpoint = VACANT;
        let first = self.vacant_at(slot.checked_sub(1)).unwrap_or(slot);
        let last = self.vacant_at(Some(slot + 1)).unwrap_or(slot);
        (self.slots[first].place, self.slots[last].place) = (last as u32, first as u32);
    }

    /// If the slot is the first or the last of some vacant ones: the other one of the two.
    fn vacant_at(&self, slot: Option<usize>) -> Option<usize> {
        let slot = self.slots.get(slot?)?;
        slot.is_vacant().then_some(slot.place as usize)
    }

    /// The member before a slot, which is not vacant.
    fn before(&self, slot: usize) -> EndpointId {
        let first = self.vacant_at(slot.checked_sub(1)).unwrap_or(slot);
        first.checked_sub(1).map_or(VACANT, |before| self.slots[before].endpoint)
    }

    /// The member after a slot, which is not vacant.
    fn after(&self, slot: usize) -> EndpointId {
        let last = self.vacant_at(Some(slot + 1)).unwrap_or(slot);
        self.slots.get(last + 1).map_or(VACANT, |after| after.endpoint)
    }

    fn hash_of(&self, slot: usize, hasher: &FixedState) -> u64 {
        let Slot { endpoint, state, bits, .. } = self.slots[slot];
        hasher.hash_one((endpoint, state, bits, self.label(slot)))
    }

    /// The listing was changed, or made, and stays. If too many slots are vacant, these go; gives what was sent, by the
    /// slots of now.
    pub(super) fn complete(&mut self, sent: Option<Values>) -> Option<Values> {
        if self.is_sparse() || self.live == 0 {
            let kept = sent.map(|sent| self.live().map(|(at, _)| sent.get(at).copied().unwrap_or(UNSENT)).collect());
            self.compact();
            return kept;
        }
        self.complete_index();
        sent
    }

    /// Removes vacant slots and their entries.
    fn compact(&mut self) {
        let (mut start, mut to) = (0, 0);
        for slot in &mut self.slots {
            let end = slot.end as usize;
            if !slot.is_vacant() {
                self.entries.copy_within(start..end, to);
                to += end - start;
                slot.end = to as u32;
            }
            start = end;
        }
        self.entries.truncate(to);
        self.slots.retain(|slot| !slot.is_vacant());
        self.shrink();
        self.index.clear();
        self.indexed = 0;
        self.editions.clear();
        self.complete_index();
    }

    /// Gives back memory that is not used.
    pub(super) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Puts the members that are new to the index into it, once there are enough slots for one.
    fn complete_index(&mut self) {
        let (slots, known) = (&self.slots, self.indexed as usize);
        if slots.len() <= SCAN_SLOTS {
            (self.index, self.indexed) = (HashTable::new(), 0);
            return;
        }
        let spread_at = |&slot: &u32| spread(slots[slot as usize].endpoint);
        self.index.reserve(slots.len() - known, spread_at);
        for (slot, occupant) in slots.iter().enumerate().skip(known).filter(|(_, slot)| !slot.is_vacant()) {
            self.index.insert_unique(spread(occupant.endpoint), slot as u32, spread_at);
        }
        self.indexed = slots.len() as u32;
    }
}

/// What was sent, by the slots of another listing that has the same members in the same order, but for some at the end.
pub(super) fn realign(sent: &[Value], from: &Listing, to: &Listing) -> Values {
    let mut values = vec![UNSENT; to.slots.len()];
    let mut places = to.live().peekable();
    for (at, slot) in from.live() {
        if let Some((place, _)) = places.next_if(|(_, other)| other.endpoint == slot.endpoint) {
            values[place] = sent.get(at).copied().unwrap_or(UNSENT);
        }
    }
    values.into()
}

/// The hash of a member's place: it comes after another, or, with [`VACANT`], first.
fn order(before: EndpointId, endpoint: EndpointId, hasher: &FixedState) -> u64 {
    hasher.hash_one((before, endpoint))
}

/// A hash of an endpoint's id, which peers can not choose.
fn spread(endpoint: EndpointId) -> u64 {
    let product = u64::from(endpoint.number()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

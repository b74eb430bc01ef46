//! One group of one load balancer: its members in the order of their registration, and its encoded image.
//!
//! The value of each entry in the image is the one that was last sent on the LB's connection. So the image is both what
//! a push copies and the memory of the no-change/no-send rule.

use std::collections::BTreeMap;

use hashbrown::HashTable;

use super::{
    ids::{EndpointId, LbId},
    verdicts::{Shown, View},
};
use crate::{
    judgement::Scale,
    sasp::{
        Endpoint, EntryFlags, GroupData, MemberData, WeightEntry,
        image::{self, GroupImage},
    },
};

/// Groups of up to so many slots are searched from end to end instead of by index.
const SCAN_SLOTS: usize = 16;

/// The endpoint of a slot whose member has left.
const VACANT: EndpointId = EndpointId::NONE;

/// A membership: what this group's LB or the member said about one endpoint. 16 bytes.
struct Slot {
    endpoint: EndpointId,
    /// This group's place in the endpoint's list of groups.
    place: u32,
    /// Where the entry ends in the image; it begins where the entry of the slot before ends.
    end: u32,
    state: u8,
    bits: u8,
}

/// The member is quiesced.
const QUIESCED: u8 = 1;
/// The LB registered the member.
const BY_LB: u8 = 2;
/// The value in the image was sent on the connection of the group's epoch.
const SENT: u8 = 4;

impl Slot {
    #[inline]
    fn entry(&self, shown: Shown) -> WeightEntry {
        let quiesced = self.bits & QUIESCED != 0 || shown.flags.contains(EntryFlags::QUIESCED);
        WeightEntry {
            state: self.state,
            flags: shown
                .flags
                .with(EntryFlags::QUIESCED, quiesced)
                .with(EntryFlags::REGISTERED_BY_LB, self.bits & BY_LB != 0),
            weight: if quiesced { 0 } else { shown.weight },
        }
    }
}

/// The last word about a membership that ended without the LB's own request.
struct Farewell {
    /// Farewells are told in this order.
    order: u64,
    /// The member is registered again before the LB heard of its end: the farewell need not be told.
    replaced: bool,
    encoded: Box<[u8]>,
}

pub(super) struct Group {
    pub(super) lb: LbId,
    /// Messages list groups in this order; each new group has a higher number.
    pub(super) order: u64,
    /// The group is in its LB's list of changed groups.
    pub(super) queued: bool,
    /// Any entry may have changed, not only the touched ones.
    whole: bool,
    /// The group has ended, but its LB has yet to hear of that (a ghost).
    pub(super) removed: bool,
    /// A message on the connection of the epoch had the group.
    told: bool,
    /// A message on the connection of the epoch had the group after the last known member left. `SENT` says the same
    /// of each member.
    listed: bool,
    /// The whole image was sent on that connection; since then only `delta` has changed and sent parts of it.
    complete: bool,
    /// The LB's connection that `SENT`, `told`, `listed` and the farewells are about.
    epoch: u32,
    /// Members: slots that are not vacant.
    live: u32,
    /// Turns rates into weights, if a member has a rate.
    scale: Option<Scale>,
    /// A member's rate may have come, gone or changed since the scale was computed.
    rates_moved: bool,
    /// Endpoints whose entry may have changed since the last push. Some may be here twice, some may have left.
    touched: Vec<EndpointId>,
    farewells: BTreeMap<Endpoint, Farewell>,
    farewells_ever: u64,
    image: GroupImage,
    slots: Vec<Slot>,
    /// Slots by endpoint, once there are more than [`SCAN_SLOTS`].
    index: HashTable<u32>,
}

impl Group {
    pub(super) fn new(lb: LbId, order: u64, epoch: u32, data: GroupData<'_>) -> Group {
        Group {
            lb,
            order,
            queued: false,
            whole: false,
            removed: false,
            told: false,
            listed: false,
            complete: false,
            epoch,
            live: 0,
            scale: None,
            rates_moved: false,
            touched: Vec::new(),
            farewells: BTreeMap::new(),
            farewells_ever: 0,
            image: GroupImage::new(data),
            slots: Vec::new(),
            index: HashTable::new(),
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        self.image.name()
    }

    /// Bytes of the whole group in a message, or somewhat more.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.image.bytes().len()
    }

    /// How many members the group has.
    pub(super) fn len(&self) -> u32 {
        self.live
    }

    /// Whether a message on the LB's connection of this epoch had the group.
    pub(super) fn was_told(&self, epoch: u32) -> bool {
        self.epoch == epoch && self.told
    }

    /// How many farewells the LB has yet to hear.
    pub(super) fn owed(&self) -> u32 {
        self.farewells.len() as u32
    }

    /// Forgets all farewells.
    pub(super) fn drop_farewells(&mut self) {
        self.farewells.clear();
    }

    /// Makes room for exactly so many members, if the group is empty.
    pub(super) fn reserve(&mut self, members: usize) {
        if self.slots.is_empty() {
            self.slots.reserve_exact(members);
            self.image.reserve(members);
        }
    }

    /// Adds a member that is not in the group; it becomes the last one.
    pub(super) fn add(&mut self, endpoint: EndpointId, member: MemberData<'_>, place: u32, by_lb: bool) {
        let end = self.image.push(member);
        let bits = if by_lb { BY_LB } else { 0 };
        self.slots.push(Slot { endpoint, place, end, state: 0, bits });
        self.complete = false;
        self.live += 1;
        self.rates_moved = true;
        if let Some(farewell) = self.farewells.get_mut(&member.endpoint) {
            farewell.replaced = true;
        }
        if self.slots.len() == SCAN_SLOTS + 1 {
            self.rebuild_index();
        } else if self.slots.len() > SCAN_SLOTS {
            let slots = &self.slots;
            let slot = slots.len() as u32 - 1;
            self.index.insert_unique(spread(endpoint), slot, |&slot| spread(slots[slot as usize].endpoint));
        }
    }

    pub(super) fn contains(&self, endpoint: EndpointId) -> bool {
        self.find(endpoint).is_some()
    }

    /// Removes a member; gives the group's place in the endpoint's list. With `last_word`, an LB that heard of the
    /// member on the connection of `epoch` gets a farewell with that value.
    pub(super) fn remove(
        &mut self,
        id: EndpointId,
        endpoint: Endpoint,
        last_word: Option<Shown>,
        epoch: u32,
    ) -> Option<u32> {
        let found = self.find(id)?;
        self.begin(epoch);
        let start = self.entry_start(found);
        let slot = &mut self.slots[found];
        if let Some(shown) = last_word.filter(|_| slot.bits & SENT != 0) {
            let mut encoded = Box::<[u8]>::from(self.image.entry(start, slot.end));
            image::value_of(&mut encoded).copy_from_slice(&slot.entry(shown).to_bytes());
            self.farewells_ever += 1;
            self.farewells.insert(endpoint, Farewell { order: self.farewells_ever, replaced: false, encoded });
        } else if let Some(farewell) = self.farewells.get_mut(&endpoint) {
            farewell.replaced = false;
        }
        if self.slots.len() > SCAN_SLOTS
            && let Ok(entry) = self.index.find_entry(spread(id), |&slot| slot as usize == found)
        {
            entry.remove();
        }
        let slot = &mut self.slots[found];
        slot.endpoint = VACANT;
        let place = slot.place;
        self.live -= 1;
        self.complete = false;
        self.rates_moved = true;
        self.listed &= slot.bits & SENT == 0; // of one that was never sent, the LB knows nothing
        // Every loop passes over vacant slots. Compacting when half are vacant keeps loops and removals cheap.
        if self.slots.len() > 2 * self.live as usize + SCAN_SLOTS || self.live == 0 {
            self.compact();
        }
        Some(place)
    }

    /// The endpoints of all members, and the group's place in each endpoint's list.
    pub(super) fn members(&self) -> impl Iterator<Item = (EndpointId, u32)> + Clone {
        self.slots.iter().filter(|slot| slot.endpoint != VACANT).map(|slot| (slot.endpoint, slot.place))
    }

    /// Notes the group's new place in the endpoint's list.
    pub(super) fn moved(&mut self, endpoint: EndpointId, place: u32) {
        if let Some(slot) = self.find(endpoint) {
            self.slots[slot].place = place;
        }
    }

    /// Sets a member's opaque state and quiesce; says whether anything changed.
    pub(super) fn set_state(&mut self, endpoint: EndpointId, state: u8, quiesce: bool) -> bool {
        let Some(slot) = self.find(endpoint) else { return false };
        let slot = &mut self.slots[slot];
        let bits = if quiesce { slot.bits | QUIESCED } else { slot.bits & !QUIESCED };
        let changed = (slot.state, slot.bits) != (state, bits);
        (slot.state, slot.bits) = (state, bits);
        changed
    }

    /// Notes that the entry of `endpoint` may have changed, or, with `None`, any entry. Says whether later notes are
    /// useless, because the next push looks at all entries anyway.
    #[inline]
    pub(super) fn touch(&mut self, endpoint: Option<EndpointId>, delta: bool) -> bool {
        match endpoint {
            Some(endpoint) if delta && self.touched.len() < SCAN_SLOTS.max(self.slots.len() / 16) => {
                self.touched.push(endpoint);
            }
            _ => {
                self.whole = true;
                self.touched.clear();
            }
        }
        self.whole
    }

    /// Notes that a member's rate has come, gone or changed.
    pub(super) fn rates_moved(&mut self) {
        self.rates_moved = true;
    }

    /// Forgets the scale: the group has other rates from now on.
    pub(super) fn forget_scale(&mut self) {
        (self.scale, self.rates_moved) = (None, true);
    }

    /// Forgets all notes: a push sends them now, or the LB gets no pushes.
    pub(super) fn settle(&mut self) {
        self.queued = false;
        self.whole = false;
        self.touched.clear();
    }

    /// The group for a message that lists all members, and whether the group differs from what was last sent. It counts
    /// as sent. If the group is not `stale`, nothing was noted since the last call.
    pub(super) fn full(&mut self, epoch: u32, verdicts: View<'_>, stale: bool) -> (&[u8], bool) {
        self.begin(epoch);
        if self.complete && !stale {
            return (self.image.bytes(), false);
        }
        self.rescale(verdicts);
        if self.slots.len() > self.live as usize {
            self.compact();
        }
        let mut changed = !self.listed;
        let scale = self.scale;
        for slot in &mut self.slots {
            let value = slot.entry(verdicts.shown(slot.endpoint, scale)).to_bytes();
            let sent = self.image.value(slot.end);
            // An equal value is not written: clean memory costs half.
            if sent != value {
                sent.copy_from_slice(&value);
                changed = true;
            }
            if slot.bits & SENT == 0 {
                slot.bits |= SENT;
                changed = true;
            }
        }
        (self.told, self.listed, self.complete) = (true, true, true);
        self.farewells.clear();
        self.image.set_count(self.live as u16);
        (self.image.bytes(), changed)
    }

    /// Puts the group into `out` with farewells and with the members whose entry is new or has changed; they count as
    /// sent. Looks at all members, or only at the touched ones if the scale is the same. Gives the number of entries.
    ///
    /// `slots` is a buffer to work in.
    pub(super) fn delta(
        &mut self,
        epoch: u32,
        verdicts: View<'_>,
        all: bool,
        slots: &mut Vec<usize>,
        out: &mut Vec<u8>,
    ) -> u32 {
        self.begin(epoch);
        let all = all || self.whole;
        let rescaled = (all || self.rates_moved) && self.rescale(verdicts);
        let all = all || rescaled;
        out.clear();
        out.extend_from_slice(self.image.prefix());
        let mut count = 0;
        if all {
            for slot in 0..self.slots.len() {
                count += u32::from(self.say(slot, verdicts, out));
            }
        } else {
            slots.clear();
            slots.extend(self.touched.iter().filter_map(|&endpoint| self.find(endpoint)));
            slots.sort_unstable();
            slots.dedup();
            for &slot in &*slots {
                count += u32::from(self.say(slot, verdicts, out));
            }
            self.touched.clear();
        }
        count += self.say_farewells(u32::from(u16::MAX) - count, out);
        self.told |= count > 0;
        self.listed |= count > 0;
        image::set_count(out, count as u16);
        count
    }

    /// Appends as many farewells as fit, in their order; gives how many.
    fn say_farewells(&mut self, room: u32, out: &mut Vec<u8>) -> u32 {
        if self.farewells.is_empty() {
            return 0;
        }
        let mut farewells: Vec<_> = std::mem::take(&mut self.farewells).into_iter().collect();
        farewells.retain(|(_, farewell)| !farewell.replaced);
        farewells.sort_unstable_by_key(|(_, farewell)| farewell.order);
        let later = farewells.split_off(farewells.len().min(room as usize));
        farewells.iter().for_each(|(_, farewell)| out.extend_from_slice(&farewell.encoded));
        self.farewells.extend(later);
        farewells.len() as u32
    }

    /// Appends the slot's entry, if it differs from what was last sent.
    fn say(&mut self, slot: usize, verdicts: View<'_>, out: &mut Vec<u8>) -> bool {
        let start = self.entry_start(slot);
        let slot = &mut self.slots[slot];
        if slot.endpoint == VACANT {
            return false;
        }
        let value = slot.entry(verdicts.shown(slot.endpoint, self.scale)).to_bytes();
        let sent = self.image.value(slot.end);
        if slot.bits & SENT != 0 && sent == value {
            return false;
        }
        sent.copy_from_slice(&value);
        slot.bits |= SENT;
        out.extend_from_slice(self.image.entry(start, slot.end));
        true
    }

    /// Computes the scale of the members' rates; says whether it changed, which may change every entry.
    fn rescale(&mut self, verdicts: View<'_>) -> bool {
        self.rates_moved = false;
        let members = self.slots.iter().map(|slot| slot.endpoint).filter(|&endpoint| endpoint != VACANT);
        let scale = verdicts.scale(self.scale, members);
        std::mem::replace(&mut self.scale, scale) != scale
    }

    /// Begins the memory of a new connection, on which nothing was sent yet.
    fn begin(&mut self, epoch: u32) {
        if self.epoch != epoch {
            self.epoch = epoch;
            (self.told, self.listed, self.complete) = (false, false, false);
            self.farewells.clear();
            self.slots.iter_mut().for_each(|slot| slot.bits &= !SENT);
        }
    }

    fn find(&self, endpoint: EndpointId) -> Option<usize> {
        if self.slots.len() <= SCAN_SLOTS {
            return self.slots.iter().position(|slot| slot.endpoint == endpoint);
        }
        let found = self.index.find(spread(endpoint), |&slot| self.slots[slot as usize].endpoint == endpoint);
        found.map(|&slot| slot as usize)
    }

    fn entry_start(&self, slot: usize) -> u32 {
        match slot.checked_sub(1) {
            Some(before) => self.slots[before].end,
            None => self.image.first(),
        }
    }

    /// Removes vacant slots and their entries.
    fn compact(&mut self) {
        let (mut from, mut to) = (self.image.first(), self.image.first());
        for slot in &mut self.slots {
            let end = slot.end;
            if slot.endpoint != VACANT {
                to = self.image.shift(from, end, to);
                slot.end = to;
            }
            from = end;
        }
        self.slots.retain(|slot| slot.endpoint != VACANT);
        let shrink = self.slots.len() * 4 < self.slots.capacity();
        self.image.truncate(to, shrink);
        if shrink {
            self.slots.shrink_to_fit();
        }
        self.rebuild_index();
    }

    fn rebuild_index(&mut self) {
        let slots = &self.slots;
        if slots.len() <= SCAN_SLOTS {
            self.index = HashTable::new();
            return;
        }
        self.index.clear();
        for (slot, occupant) in slots.iter().enumerate().filter(|(_, slot)| slot.endpoint != VACANT) {
            self.index
                .insert_unique(spread(occupant.endpoint), slot as u32, |&slot| spread(slots[slot as usize].endpoint));
        }
    }
}

/// A hash of an endpoint's id, which peers can not choose.
fn spread(endpoint: EndpointId) -> u64 {
    let product = u64::from(endpoint.number()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

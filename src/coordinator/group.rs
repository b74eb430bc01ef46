//! One group of one load balancer: which [listing](super::listing) it has, and what of the listing the LB was sent.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    edition::{UNSENT, Values},
    ids::{LbId, ListingId},
    listing::Listing,
    show::Show,
    verdicts::Shown,
};
use crate::{
    judgement::Scale,
    sasp::{Endpoint, GroupData, image::Prefix},
};

/// What an LB has yet to hear: a member has left.
struct Farewell {
    /// Farewells are sent in this order.
    order: u64,
    /// The member is back: its entry says all.
    replaced: bool,
    encoded: Box<[u8]>,
}

/// Farewells of one group, by member.
#[derive(Default)]
struct Farewells {
    waiting: BTreeMap<Endpoint, Farewell>,
    ever: u64,
}

pub(super) struct Group {
    pub(super) lb: LbId,
    pub(super) listing: ListingId,
    /// Messages list groups in this order, but in a fleet; each new group has a higher number.
    pub(super) order: u64,
    /// The group is in its LB's list of changed groups.
    pub(super) queued: bool,
    /// The group has ended, but its LB has yet to hear of that (a ghost).
    pub(super) removed: bool,
    /// A message on the LB's connection had the group.
    told: bool,
    /// A message on the connection had the group after the last known member left.
    listed: bool,
    /// Turns rates into weights, if a member has a rate.
    pub(super) scale: Option<Scale>,
    /// What the LB was sent of the listing's members on its connection; `None`: nothing.
    pub(super) sent: Option<Values>,
    farewells: Option<Box<Farewells>>,
    prefix: Prefix,
}

impl Group {
    pub(super) fn new(lb: LbId, order: u64, listing: ListingId, data: GroupData<'_>) -> Group {
        Group {
            lb,
            listing,
            order,
            queued: false,
            removed: false,
            told: false,
            listed: false,
            scale: None,
            sent: None,
            farewells: None,
            prefix: Prefix::new(data),
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        self.prefix.name()
    }

    /// The bytes of the group before its entries.
    pub(super) fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Whether a message on the LB's connection had the group.
    pub(super) fn was_told(&self) -> bool {
        self.told
    }

    /// How many farewells the LB has yet to hear.
    pub(super) fn owed(&self) -> u32 {
        self.farewells.as_ref().map_or(0, |farewells| farewells.waiting.len() as u32)
    }

    /// Forgets all farewells.
    pub(super) fn drop_farewells(&mut self) {
        self.farewells = None;
    }

    /// Forgets what was sent: the connection has ended.
    pub(super) fn forget_sent(&mut self) {
        (self.told, self.listed, self.sent) = (false, false, None);
        self.drop_farewells();
    }

    /// A member is about to be added.
    pub(super) fn adds(&mut self, endpoint: &Endpoint) {
        if let Some(farewell) = self.farewells.as_mut().and_then(|all| all.waiting.get_mut(endpoint)) {
            farewell.replaced = true;
        }
    }

    /// A member is about to leave the listing. With `last_word`, an LB that heard of the member gets a farewell with
    /// that value.
    pub(super) fn removes(&mut self, listing: &Listing, slot: usize, endpoint: Endpoint, last_word: Option<Shown>) {
        let sent = self.sent.as_ref().and_then(|sent| sent.get(slot)).is_some_and(|sent| *sent != UNSENT);
        self.listed &= !sent; // of one that was never sent, the LB knows nothing
        if let Some(shown) = last_word.filter(|_| sent) {
            let farewells = self.farewells.get_or_insert_default();
            farewells.ever += 1;
            let encoded = listing.farewell(slot, shown);
            let farewell = Farewell { order: farewells.ever, replaced: false, encoded };
            farewells.waiting.insert(endpoint, farewell);
        } else if let Some(farewell) = self.farewells.as_mut().and_then(|all| all.waiting.get_mut(&endpoint)) {
            farewell.replaced = false;
        }
    }

    /// The group goes into a message with all members; whether it differs from what was last sent. It counts as sent.
    pub(super) fn full(&mut self, show: &Show<'_>) -> bool {
        let same = match &self.sent {
            Some(sent) => show.is_as_sent(sent),
            None => show.len() == 0,
        };
        let changed = !same || !self.listed;
        (self.told, self.listed) = (true, true);
        self.farewells = None;
        self.note_sent(show);
        changed
    }

    /// A message may have so many entries of the group that are new or have changed: all count as sent.
    pub(super) fn delta(&mut self, show: &Show<'_>, entries: u32) {
        self.told |= entries > 0;
        self.listed |= entries > 0;
        self.note_sent(show);
    }

    fn note_sent(&mut self, show: &Show<'_>) {
        // An equal reference is not written: clean memory costs half.
        if !self.sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, show.values())) {
            self.sent = Some(show.values().clone());
        }
    }

    /// Appends as many farewells as fit, in their order; gives how many.
    pub(super) fn say_farewells(&mut self, room: u32, out: &mut Vec<u8>) -> u32 {
        let Some(farewells) = self.farewells.as_deref_mut() else { return 0 };
        let mut list: Vec<_> = std::mem::take(&mut farewells.waiting).into_iter().collect();
        list.retain(|(_, farewell)| !farewell.replaced);
        list.sort_unstable_by_key(|(_, farewell)| farewell.order);
        let later = list.split_off(list.len().min(room as usize));
        list.iter().for_each(|(_, farewell)| out.extend_from_slice(&farewell.encoded));
        if later.is_empty() {
            self.farewells = None;
        } else {
            farewells.waiting.extend(later);
        }
        list.len() as u32
    }
}

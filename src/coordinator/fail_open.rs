//! When to believe that the fault is the GWM's own, and not that of all those members at once.
//!
//! Counted are the endpoints that are watched. One that has contact (up, or not judged yet) and loses it is *fresh*
//! for one fall window, or until it has contact again or is watched no longer. The rule:
//!
//! - The GWM *fails open* when more than `--panic-percent` of (fresh + those with contact) are fresh, and they are
//!   of at least two addresses: one server that dies, with all its ports, is a dead server, however few there are.
//!   Two of two are taken for a fault of the GWM: a farm that is drained by mistake is down, while an LB that is told
//!   "contact, not confident" of dead members uses its own means and finds that they are. (Envoy's panic threshold,
//!   the model of this, counts every host, so that one of one is enough; but Envoy must send a request somewhere,
//!   and an LB may have another site.)
//! - While it does, fresh endpoints stay fresh and others that lose contact become so; nothing is confident, and
//!   fresh endpoints are shown with contact and the weight that they had.
//! - It ends when fresh endpoints are no more than that percentage. Those left that lost contact longer than a fall
//!   window ago are shown as down.
//!
//! So 100 turns it off, and a GWM that starts without a network does not drain what it has never seen.

use std::{collections::VecDeque, time::Duration};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, hash_map::Entry};

use super::{Time, endpoints::EndpointId};
use crate::sasp::Endpoint;

/// The fresh endpoints.
pub(super) struct FailOpen {
    percent: u8,
    /// When each lost contact, and its address.
    fresh: HashMap<EndpointId, (Time, [u8; 16]), FixedState>,
    /// How many of them have an address.
    addresses: HashMap<[u8; 16], u32, FixedState>,
    /// When they lost contact, in that order; an entry that `fresh` does not bear out is void.
    queue: VecDeque<(Time, EndpointId)>,
    open: bool,
}

impl FailOpen {
    pub(super) fn new(percent: u8, hasher: FixedState) -> FailOpen {
        FailOpen {
            percent,
            fresh: HashMap::with_hasher(hasher.clone()),
            addresses: HashMap::with_hasher(hasher),
            queue: VecDeque::new(),
            open: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// How many endpoints are fresh.
    pub(super) fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// A watched endpoint has lost contact.
    pub(super) fn lost(&mut self, now: Time, id: EndpointId, endpoint: Endpoint) {
        self.forget(id);
        self.fresh.insert(id, (now, endpoint.address));
        *self.addresses.entry(endpoint.address).or_insert(0) += 1;
        self.queue.push_back((now, id));
        if self.queue.len() > 2 * self.fresh.len() + 64 {
            let fresh = &self.fresh;
            self.queue.retain(|(at, id)| fresh.get(id).is_some_and(|(lost, _)| lost == at));
        }
    }

    /// It has contact again, or is watched no longer, or was fresh for long enough.
    pub(super) fn forget(&mut self, id: EndpointId) {
        let Some((_, address)) = self.fresh.remove(&id) else { return };
        if let Entry::Occupied(mut count) = self.addresses.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// An endpoint that is fresh no more, because its window has ended.
    pub(super) fn expire(&mut self, now: Time, window: Duration) -> Option<EndpointId> {
        while !self.open {
            let (at, id) = self.queue.front().copied().filter(|(at, _)| *at + window <= now)?;
            self.queue.pop_front();
            if self.fresh.get(&id).is_some_and(|(lost, _)| *lost == at) {
                self.forget(id);
                return Some(id);
            }
        }
        None
    }

    /// Applies the rule; says whether that opened or ended it.
    pub(super) fn decide(&mut self, with_contact: u32) -> bool {
        let fresh = self.fresh() as u64;
        let too_many = fresh * 100 > u64::from(self.percent) * (fresh + u64::from(with_contact));
        let open = too_many && (self.open || self.addresses.len() > 1);
        std::mem::replace(&mut self.open, open) != open
    }
}

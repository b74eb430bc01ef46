//! When to believe that the fault is the GWM's own, and not that of all those members at once.
//!
//! Of the endpoints that are watched, one that has contact (up, or not judged yet) and loses it is *fresh* for one fall
//! window, or until it has contact again or is watched no longer. A fresh one *counts* if it has been up since it is
//! watched. One that never was is a server that was not started yet, or was never there, and anybody who may register
//! members can register more of those than all others have: it counts only while nothing that is watched has been up,
//! and for one fall window after the first one came up, in which others follow that are there. The rule:
//!
//! - The GWM *fails open* when more than `--panic-percent` of (those that count + those with contact) count, and they
//!   are of at least two addresses: one server that dies, with all its ports, is a dead server, however few there are.
//!   Two of two are taken for a fault of the GWM: a farm that is drained by mistake is down, while an LB that is told
//!   "contact, not confident" of dead members uses its own means and finds that they are. (Envoy's panic threshold,
//!   the model of this, counts every host, so that one of one is enough; but Envoy must send a request somewhere,
//!   and an LB may have another site.)
//! - While it does, fresh endpoints stay fresh and others that lose contact become so; nothing is confident, and
//!   fresh endpoints are shown with contact and the weight that they had.
//! - It ends when those that count are no more than that percentage. Those left that lost contact longer than a fall
//!   window ago are shown as down.
//!
//! So 100 turns it off, and a GWM that starts without a network does not drain what it has never seen.

use std::{collections::VecDeque, time::Duration};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, hash_map::Entry};

use super::{Time, ids::EndpointId};
use crate::sasp::Endpoint;

/// The fresh endpoints.
pub(super) struct FailOpen {
    percent: u8,
    fresh: HashMap<EndpointId, Lost, FixedState>,
    /// Of all of them.
    all: Tally,
    /// Of those that have been up.
    seen: Tally,
    /// When they lost contact, in that order; an entry that `fresh` does not bear out is void.
    queue: VecDeque<(Time, EndpointId)>,
    /// When the first watched endpoint came up, until that is a fall window ago.
    first_up: Option<Time>,
    open: bool,
}

/// A fresh endpoint.
struct Lost {
    at: Time,
    address: [u8; 16],
    /// It has been up.
    seen: bool,
}

/// How many endpoints there are, and how many of each address.
struct Tally {
    endpoints: u32,
    addresses: HashMap<[u8; 16], u32, FixedState>,
}

impl Tally {
    fn add(&mut self, address: [u8; 16]) {
        self.endpoints += 1;
        *self.addresses.entry(address).or_insert(0) += 1;
    }

    fn remove(&mut self, address: [u8; 16]) {
        self.endpoints -= 1;
        if let Entry::Occupied(mut count) = self.addresses.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl FailOpen {
    pub(super) fn new(percent: u8, hasher: FixedState) -> FailOpen {
        let tally = || Tally { endpoints: 0, addresses: HashMap::with_hasher(hasher.clone()) };
        FailOpen {
            percent,
            all: tally(),
            seen: tally(),
            fresh: HashMap::with_hasher(hasher),
            queue: VecDeque::new(),
            first_up: None,
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

    /// A watched endpoint is up, as none that is watched has been.
    pub(super) fn first_is_up(&mut self, now: Time) {
        self.first_up = Some(now);
    }

    /// A watched endpoint, which has been up or not, has lost contact.
    pub(super) fn lost(&mut self, now: Time, id: EndpointId, endpoint: Endpoint, seen: bool) {
        self.forget(id);
        let Endpoint { address, .. } = endpoint;
        self.fresh.insert(id, Lost { at: now, address, seen });
        self.all.add(address);
        if seen {
            self.seen.add(address);
        }
        self.queue.push_back((now, id));
        if self.queue.len() > 2 * self.fresh.len() + 64 {
            let fresh = &self.fresh;
            self.queue.retain(|(at, id)| fresh.get(id).is_some_and(|lost| lost.at == *at));
        }
    }

    /// It has contact again, or is watched no longer, or was fresh for long enough.
    pub(super) fn forget(&mut self, id: EndpointId) {
        let Some(lost) = self.fresh.remove(&id) else { return };
        self.all.remove(lost.address);
        if lost.seen {
            self.seen.remove(lost.address);
        }
    }

    /// An endpoint that is fresh no more, because its window has ended.
    pub(super) fn expire(&mut self, now: Time, window: Duration) -> Option<EndpointId> {
        self.first_up = self.first_up.filter(|at| now < *at + window);
        while !self.open {
            let (at, id) = self.queue.front().copied().filter(|(at, _)| *at + window <= now)?;
            self.queue.pop_front();
            if self.fresh.get(&id).is_some_and(|lost| lost.at == at) {
                self.forget(id);
                return Some(id);
            }
        }
        None
    }

    /// When those stop counting that were never up, if that may end it.
    pub(super) fn grace_ends(&self, window: Duration) -> Option<Time> {
        self.first_up.filter(|_| self.open).map(|at| at + window)
    }

    /// Applies the rule, after all that is to [expire](FailOpen::expire) has; says whether that opened or ended it.
    /// `any_seen`: something that is watched has been up.
    pub(super) fn decide(&mut self, any_seen: bool, with_contact: u32) -> bool {
        let counted = if any_seen && self.first_up.is_none() { &self.seen } else { &self.all };
        let (count, with_contact) = (u64::from(counted.endpoints), u64::from(with_contact));
        let too_many = count * 100 > u64::from(self.percent) * (count + with_contact);
        let open = too_many && (self.open || counted.addresses.len() > 1);
        std::mem::replace(&mut self.open, open) != open
    }
}

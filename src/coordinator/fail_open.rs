//! Failing open: when the GWM takes a loss of contact for its own fault, not for the fault of all those members at
//! once.
//!
//! A watched endpoint that has contact (it is up, or not judged yet) and loses contact is *fresh* for one fall window,
//! or until it has contact again or is no longer watched. A fresh endpoint *counts* if it has been up while it was
//! watched.
//!
//! A fresh endpoint that was never up is a server that was not started yet, or does not exist. Anyone who may register
//! members can register more such endpoints than all others together. So such an endpoint counts only while no watched
//! endpoint has been up, and for one fall window after the first one came up: within that window the others come up
//! too, if they exist.
//!
//! The rule:
//!
//! - The GWM *fails open* when more than `--panic-percent` of (endpoints that count + endpoints with contact) count,
//!   and the endpoints that count have at least two addresses. One server that dies, with all its ports, is a dead
//!   server, even if there is no other server. Two of two servers are taken for a fault of the GWM: the cost of the
//!   other choice is a farm that is drained by mistake, while an LB that hears "contact, not confident" about dead
//!   members uses its own means and finds that they are dead. (The model of this rule is Envoy's panic threshold. It
//!   counts every host, so one of one is enough. But Envoy must send a request somewhere, while an LB may have another
//!   site.)
//! - While the GWM fails open, fresh endpoints stay fresh, and other endpoints that lose contact become fresh. No
//!   endpoint is confident. Fresh endpoints are shown with contact and with the weight that they had.
//! - Failing open ends when no more than that percentage counts. Endpoints that are still without contact, and lost it
//!   longer than a fall window ago, are then shown as down.
//!
//! So 100 percent turns failing open off, and a GWM that starts without a network does not drain endpoints that it has
//! never seen.

use std::{collections::VecDeque, time::Duration};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, hash_map::Entry};

use super::ids::EndpointId;
use crate::{sasp::Endpoint, time::Time};

/// The fresh endpoints, and whether the GWM fails open.
pub(super) struct FailOpen {
    percent: u8,
    fresh: HashMap<EndpointId, Lost, FixedState>,
    /// Counts of all fresh endpoints.
    all: Tally,
    /// Counts of the fresh endpoints that have been up.
    seen: Tally,
    /// Times of lost contact, in order. An entry is void unless `fresh` has the same endpoint with the same time.
    queue: VecDeque<(Time, EndpointId)>,
    /// When the first watched endpoint came up; `None` again after a fall window.
    first_up: Option<Time>,
    open: bool,
}

/// A fresh endpoint.
struct Lost {
    at: Time,
    address: [u8; 16],
    /// The endpoint has been up.
    seen: bool,
}

/// A number of endpoints, and the number for each address.
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

    /// A watched endpoint is up; before, no watched endpoint had been up.
    pub(super) fn first_is_up(&mut self, now: Time) {
        self.first_up = Some(now);
    }

    /// A watched endpoint has lost contact; `seen`: the endpoint has been up.
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

    /// The endpoint is fresh no more: it has contact again, is no longer watched, or its window has ended.
    pub(super) fn forget(&mut self, id: EndpointId) {
        let Some(lost) = self.fresh.remove(&id) else { return };
        self.all.remove(lost.address);
        if lost.seen {
            self.seen.remove(lost.address);
        }
    }

    /// Removes the next endpoint whose window has ended, and returns it.
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

    /// When endpoints that were never up stop counting, if that may end failing open.
    pub(super) fn grace_ends(&self, window: Duration) -> Option<Time> {
        self.first_up.filter(|_| self.open).map(|at| at + window)
    }

    /// Applies the rule, once nothing is left to [expire](FailOpen::expire); returns whether failing open began or
    /// ended. `any_seen`: a watched endpoint has been up.
    pub(super) fn decide(&mut self, any_seen: bool, with_contact: u32) -> bool {
        let counted = if any_seen && self.first_up.is_none() { &self.seen } else { &self.all };
        let (count, with_contact) = (u64::from(counted.endpoints), u64::from(with_contact));
        let too_many = count * 100 > u64::from(self.percent) * (count + with_contact);
        let open = too_many && (self.open || counted.addresses.len() > 1);
        std::mem::replace(&mut self.open, open) != open
    }
}

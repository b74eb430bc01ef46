//! The truth about load balancers, groups, memberships and endpoints; the reply to every request; what to
//! push to whom and when.
//!
//! A deterministic state machine: it does no I/O, reads no clock, holds no lock, draws no random number.
//! Events and the time come in through its methods, messages go out through an [`Outbox`].

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::sasp::{Endpoint, Message};

/// A point in time, in nanoseconds since the process's own zero; never decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl std::ops::Add<Duration> for Time {
    type Output = Time;

    /// Saturates at the end of time (584 years).
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// One connection, named by the shard that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The owning shard, from 0.
    pub shard: u16,
    /// The shard's slot, reused after [`Coordinator::closed`].
    pub slot: u32,
    /// Tells apart the connections that used the same slot.
    pub generation: u32,
}

/// What a committed message is, which decides what the shard does once it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The answer to the connection's one request under way: the shard may read the next one.
    Reply,
    /// A Send Weights of the coordinator's own accord.
    Push,
}

/// Why the coordinator ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Another connection was bound to the same LB UID.
    TakenOver,
}

/// Where the coordinator's messages go: the runtime's batches, or a test's list.
pub trait Outbox {
    /// Whether this shard takes another push now. Replies are always taken: the caller makes room for one
    /// before it hands in a request.
    fn has_room(&self, shard: u16) -> bool;
    /// The buffer to append one message to; what it holds already is not the caller's.
    fn buffer(&mut self, shard: u16) -> &mut Vec<u8>;
    /// Ends the message that began at `start` of [`Outbox::buffer`] and addresses it.
    fn commit(&mut self, connection: ConnectionId, start: usize, kind: Kind);
    /// Asks the shard to flush and close the connection; [`Coordinator::closed`] follows when it has.
    fn close(&mut self, connection: ConnectionId, reason: CloseReason);
}

/// What the coordinator is told at start; see the flags of `gwm serve` for meaning and ranges.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an LB's state outlives its connection.
    pub hold_time: Duration,
    /// The Interval of Get Weights replies, in seconds.
    pub poll_interval_seconds: u16,
    /// From the first change to the push that carries it.
    pub push_window: Duration,
    /// From one full refresh of a push LB to the next.
    pub push_refresh: Duration,
    /// The most groups that one LB may have.
    pub max_groups_per_lb: u32,
    /// The most members that one group may have.
    pub max_members_per_group: u32,
    /// The most memberships in all.
    pub max_memberships: u32,
    /// The weight of a member that nothing else is known about.
    pub weight_max: u16,
    /// Weights fixed by the operator (`--members`), for endpoints that nothing monitors.
    pub fixed: HashMap<Endpoint, u16>,
}

/// What the coordinator holds, for logs and later metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Load balancers, connected or within hold time.
    pub load_balancers: usize,
    /// Groups of all load balancers.
    pub groups: usize,
    /// Members of all groups.
    pub memberships: usize,
    /// Distinct endpoints.
    pub endpoints: usize,
}

/// The state machine.
pub struct Coordinator {}

impl Coordinator {
    /// An empty coordinator for `shards` shards.
    pub fn new(settings: Settings, shards: u16) -> Coordinator {
        let _ = (settings, shards);
        Coordinator {}
    }

    /// A connection was accepted. Its slot is not in use.
    pub fn opened(&mut self, connection: ConnectionId, peer: IpAddr) {
        let _ = (connection, peer);
    }

    /// A well-formed request arrived (`id` from its header); exactly one reply is committed before this
    /// returns, perhaps with closes. The caller has seen that the shard takes a reply.
    pub fn request(
        &mut self,
        now: Time,
        connection: ConnectionId,
        id: u32,
        message: &Message<'_>,
        out: &mut impl Outbox,
    ) {
        let _ = (now, connection, id, message, out);
    }

    /// All messages that were committed to this connection have been handed to its socket.
    pub fn delivered(&mut self, now: Time, connection: ConnectionId) {
        let _ = (now, connection);
    }

    /// The connection has ended; its slot may be used again. Messages committed to it since are dropped by the shard.
    pub fn closed(&mut self, now: Time, connection: ConnectionId) {
        let _ = (now, connection);
    }

    /// Replaces the operator's fixed weights.
    pub fn set_fixed(&mut self, now: Time, fixed: HashMap<Endpoint, u16>) {
        let _ = (now, fixed);
    }

    /// Does what is due at `now`: windows, refreshes, hold times; commits pushes while shards have room.
    /// Call it after every batch of events and at [`Coordinator::next_deadline`].
    pub fn poll(&mut self, now: Time, out: &mut impl Outbox) {
        let _ = (now, out);
    }

    /// When [`Coordinator::poll`] has something to do next; `None` while only an event can change that.
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// What is held now.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
}

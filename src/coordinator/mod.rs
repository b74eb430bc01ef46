//! The truth about load balancers, groups, memberships and endpoints; the reply to every request; what to
//! push to whom and when.
//!
//! A deterministic state machine: it does no I/O, reads no clock, holds no lock, draws no random number.
//! Events and the time come in through its methods, messages go out through an [`Outbox`].

mod endpoints;
mod fail_open;
mod group;
mod judging;
mod load_balancer;
mod pushes;
mod requests;
mod rights;
mod tables;
mod verdicts;
mod watches;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

pub use crate::time::Time;
use crate::{
    access::{Access, Peer},
    roster::Roster,
    sasp::{Health, LbFlags, Message, Reason, ReturnCode},
    session,
};
use load_balancer::{LbId, Timer};
pub use rights::{REFUSALS, Refusal, Refused};
use tables::Tables;
pub use watches::WatchOrder;

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
    /// It may not be its LB any more.
    NotPermitted,
}

/// Where the coordinator's messages go: the runtime's batches, or a test's list.
pub trait Outbox {
    /// Whether this shard takes another push now; it may depend on what other shards took. Replies are always
    /// taken: the caller makes room for one before it hands in a request.
    fn has_room(&self, shard: u16) -> bool;
    /// The buffer to append one message to; what it holds already is not the caller's.
    fn buffer(&mut self, shard: u16) -> &mut Vec<u8>;
    /// Ends the message that began at `start` of [`Outbox::buffer`] and addresses it.
    fn commit(&mut self, connection: ConnectionId, start: usize, kind: Kind);
    /// Asks the shard to flush and close the connection; [`Coordinator::closed`] follows when it has.
    fn close(&mut self, connection: ConnectionId, reason: CloseReason);
    /// A request is being answered with 0x11, for somebody to know why.
    fn refused(&mut self, _refused: &Refused<'_>) {}
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
    /// The most load balancers, connected or held; a new one beyond them gets 0x11.
    pub max_load_balancers: u32,
    /// The most groups in all.
    pub max_groups: u32,
    /// The most groups that one LB may have.
    pub max_groups_per_lb: u32,
    /// The most members that one group may have.
    pub max_members_per_group: u32,
    /// The most memberships that one LB may have.
    pub max_memberships_per_lb: u32,
    /// The most memberships in all.
    pub max_memberships: u32,
    /// The weight of a member that nothing else is known about.
    pub weight_max: u16,
    /// What the operator says of members and groups.
    pub roster: Arc<Roster>,
    /// Who may speak for whom.
    pub access: Arc<Access>,
    /// Whether shards can send ICMP echoes.
    pub icmp: bool,
    /// Of the watched endpoints that had contact, the percentage that may lose it within one fall window; if it is
    /// more, the fault is taken to be the GWM's own.
    pub panic_percent: u8,
    /// A random number, so that peers can not choose names that collide in the tables.
    pub hash_seed: u64,
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
    /// Those of them that are watched.
    pub watched: usize,
    /// Those of these that lost contact within the last fall window; while the GWM fails open, since before it did.
    pub lost: usize,
}

/// What the coordinator knows of a connection.
#[derive(Clone, Debug, Default)]
struct Connection {
    generation: u32,
    open: bool,
    /// The LB that it is bound to.
    lb: Option<LbId>,
    /// Why it is being closed: it speaks for no LB any more.
    dismissed: Option<CloseReason>,
    /// Messages that were committed to it and not delivered yet.
    in_flight: u32,
    /// A push to its LB is due and waits for that.
    waited_for: bool,
}

/// An entry of the timer queue; the LB's [`load_balancer::Deadline`] says whether it still counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Alarm {
    at: Time,
    serial: u64,
    lb: LbId,
    timer: Timer,
}

/// After how many memberships of expired LBs, each of which goes whole, one [`Coordinator::poll`] gives others their
/// turn.
const DROPS_PER_POLL: u32 = 10_000;

/// The state machine.
pub struct Coordinator {
    settings: Settings,
    tables: Tables,
    /// By shard and slot.
    connections: Vec<Vec<Connection>>,
    /// Who is at the other end; apart from the connections, which a push touches.
    peers: Vec<Vec<Option<Peer>>>,
    /// At most one entry for each LB and timer; those of an LB that is gone are void, and leave at their time.
    alarms: BinaryHeap<Reverse<Alarm>>,
    /// By shard: LBs, with their connection, whose push is due.
    ready: Vec<VecDeque<(LbId, ConnectionId)>>,
    /// How many deregistrations were done, by the reason that they gave: at most one entry a byte.
    reasons: BTreeMap<Reason, u64>,
    /// What the operator's word or failing open has changed and is still to be gone through.
    sweep: judging::Sweep,
    /// The shard whose pushes were built first last time.
    first_shard: usize,
    /// Buffers that pushes and replies reuse.
    scratch: pushes::Scratch,
}

impl Coordinator {
    /// An empty coordinator for `shards` shards.
    pub fn new(settings: Settings, shards: u16) -> Coordinator {
        Coordinator {
            tables: Tables::new(&settings),
            settings,
            connections: vec![Vec::new(); shards.into()],
            peers: vec![Vec::new(); shards.into()],
            alarms: BinaryHeap::new(),
            ready: vec![VecDeque::new(); shards.into()],
            reasons: BTreeMap::new(),
            sweep: judging::Sweep::default(),
            first_shard: 0,
            scratch: pushes::Scratch::default(),
        }
    }

    /// A connection is there, and who is at its other end. Its slot is not in use.
    pub fn opened(&mut self, connection: ConnectionId, peer: Peer) {
        let shard = usize::from(connection.shard);
        let (slots, peers) = (&mut self.connections[shard], &mut self.peers[shard]);
        let slot = connection.slot as usize;
        if slots.len() <= slot {
            slots.resize_with(slot + 1, Connection::default);
            peers.resize(slot + 1, None);
        }
        slots[slot] = Connection { generation: connection.generation, open: true, ..Connection::default() };
        // A socket for IPv6 shows IPv4 addresses in another form.
        peers[slot] = Some(Peer { address: peer.address.to_canonical(), ..peer });
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
        if self.connection(connection).is_none() {
            return; // the shard reported its end before
        }
        let result = match message {
            Message::RegistrationRequest(request) => self.register(now, connection, request, out),
            Message::DeregistrationRequest(request) => self.deregister(now, connection, request, out),
            Message::GetWeightsRequest(request) => self.get_weights(now, connection, id, request, out),
            Message::SetLbStateRequest(request) => self.set_lb_state(now, connection, request, out),
            Message::SetMemberStateRequest(request) => self.set_member_state(now, connection, request, out),
            _ => Err(ReturnCode::NOT_UNDERSTOOD), // the session lets only requests through
        };
        let code = match result {
            Ok(requests::Done::Code) => ReturnCode::SUCCESSFUL,
            Ok(requests::Done::Replied) => return,
            Err(code) => code,
        };
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        let reply = message.component_type().reply().unwrap_or(message.component_type());
        session::refuse(id, reply, code, self.settings.poll_interval_seconds, buffer);
        self.commit(connection, start, Kind::Reply, out);
    }

    /// So many of the messages that were committed to this connection have been handed to its socket; all of them, if
    /// there are fewer.
    pub fn delivered(&mut self, connection: ConnectionId, messages: u32) {
        let Some(known) = self.connection(connection) else { return };
        known.in_flight = known.in_flight.saturating_sub(messages);
        // Most of the time nothing waits: then the LB, which is cold, is not looked at.
        if known.in_flight == 0
            && std::mem::take(&mut known.waited_for)
            && let Some(lb) = known.lb
        {
            self.make_ready(lb);
        }
    }

    /// The connection has ended; its slot may be used again. Messages committed to it since are dropped by the shard.
    pub fn closed(&mut self, now: Time, connection: ConnectionId) {
        let Some(known) = self.connection(connection) else { return };
        known.open = false;
        let lb = known.lb.take();
        self.peers[usize::from(connection.shard)][connection.slot as usize] = None;
        if let Some(lb) = lb {
            self.tables.detach(lb);
            self.set_deadline(lb, Timer::Hold, now + self.settings.hold_time);
        }
    }

    /// Does what is due at `now`: windows, refreshes, hold times; commits pushes while shards have room.
    /// Call it after every batch of events and at [`Coordinator::next_deadline`].
    pub fn poll(&mut self, now: Time, out: &mut impl Outbox) {
        self.reconsider(now);
        let before = self.tables.memberships;
        while before - self.tables.memberships < DROPS_PER_POLL {
            let Some(&Reverse(alarm)) = self.alarms.peek().filter(|alarm| alarm.0.at <= now) else { break };
            self.alarms.pop();
            let Some(lb) = self.tables.lbs.get_mut(alarm.lb as usize) else { continue };
            if lb.serial != alarm.serial {
                continue;
            }
            let deadline = lb.deadline(alarm.timer);
            deadline.queued = false;
            match deadline.at {
                None => {}
                Some(at) if at > now => self.set_deadline(alarm.lb, alarm.timer, at),
                Some(at) => {
                    deadline.at = None;
                    self.alarm(now, at, alarm.lb, alarm.timer);
                }
            }
        }
        // No push tells half of a new roster.
        if self.sweep.unfinished().is_none() {
            self.flush(now, out);
        }
    }

    /// When [`Coordinator::poll`] has something to do next, perhaps early; `None` while only an event can change that.
    pub fn next_deadline(&self) -> Option<Time> {
        let alarm = self.alarms.peek().map(|alarm| alarm.0.at);
        let alarm = [alarm, self.tables.endpoints.next_deadline()].into_iter().flatten().min();
        self.sweep.unfinished().or(alarm)
    }

    /// What is held now.
    pub fn totals(&self) -> Totals {
        self.tables.totals()
    }

    /// What a load balancer said of itself last, while it is known.
    pub fn lb_state(&self, uid: &[u8]) -> Option<(Health, LbFlags)> {
        let known = &self.tables.lbs[self.tables.find_lb(uid)? as usize];
        Some((known.health, known.flags))
    }

    /// How many Deregistration Requests were done, by the reason that they gave.
    pub fn deregistrations(&self) -> &BTreeMap<Reason, u64> {
        &self.reasons
    }

    fn alarm(&mut self, now: Time, at: Time, lb: LbId, timer: Timer) {
        match timer {
            Timer::Window => self.make_due(lb),
            Timer::Refresh => {
                let period = u64::try_from(self.settings.push_refresh.as_nanos()).unwrap_or(u64::MAX).max(1);
                let missed = (now.0 - at.0) / period;
                self.set_deadline(lb, timer, Time(at.0.saturating_add(period.saturating_mul(missed + 1))));
                let known = &mut self.tables.lbs[lb as usize];
                if !known.delta() {
                    known.all = true;
                    known.deadline(Timer::Window).at = None; // the refresh carries what the window collected
                    self.make_due(lb);
                }
            }
            Timer::Hold => self.tables.drop_lb(lb),
        }
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let known = self.connections.get_mut(usize::from(id.shard))?.get_mut(id.slot as usize)?;
        (known.open && known.generation == id.generation).then_some(known)
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, kind: Kind, out: &mut impl Outbox) {
        if let Some(known) = self.connection(connection) {
            known.in_flight += 1;
        }
        out.commit(connection, start, kind);
    }

    fn set_deadline(&mut self, lb: LbId, timer: Timer, at: Time) {
        let known = &mut self.tables.lbs[lb as usize];
        let serial = known.serial;
        let deadline = known.deadline(timer);
        deadline.at = Some(at);
        if !deadline.queued {
            deadline.queued = true;
            self.alarms.push(Reverse(Alarm { at, serial, lb, timer }));
        }
    }
}

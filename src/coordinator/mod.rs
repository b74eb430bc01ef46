//! The truth about load balancers, groups, memberships and endpoints; the reply to every request; what to
//! push to whom and when.
//!
//! A deterministic state machine: it does no I/O, reads no clock, holds no lock, draws no random number.
//! Events and the time come in through its methods, messages go out through an [`Outbox`].

mod apply;
mod change;
mod check;
mod encode;
mod endpoints;
mod fail_open;
mod group;
mod ids;
mod judging;
mod load_balancer;
mod outbox;
mod pushes;
mod rights;
mod settings;
mod tables;
mod verdicts;
mod watches;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

pub use crate::time::Time;
use crate::{
    access::Peer,
    sasp::{GroupData, Health, LbFlags, Message, Reason, ReturnCode},
    session,
};
pub use change::Change;
use check::Found;
pub use ids::ConnectionId;
use ids::LbId;
use load_balancer::Timer;
pub use outbox::{CloseReason, Kind, Outbox};
use rights::Denied;
pub use rights::{REFUSALS, Refusal, Refused};
pub use settings::{Settings, Totals};
use tables::Tables;
pub use watches::WatchOrder;

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
    scratch: encode::Scratch,
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
            scratch: encode::Scratch::default(),
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
        let names = check::names(message);
        let code = match self.check_sender(connection, message, &names) {
            Ok(binding) => {
                if let Some(binding) = binding {
                    self.apply(now, binding, Found::default(), out);
                }
                match message {
                    Message::GetWeightsRequest(_) => match self.check_listing(&names) {
                        Ok((targets, all)) => return self.reply_weights(connection, id, &targets, all, out),
                        Err(code) => code,
                    },
                    _ => self.change(now, message, &names, out),
                }
            }
            Err(Denied::Code(code)) => code,
            Err(Denied::NotAccepted { cause, lb_uid, member }) => {
                out.refused(&Refused { peer: self.peer(connection), cause, lb_uid, member });
                ReturnCode::NOT_ACCEPTED
            }
        };
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        let reply = message.component_type().reply().unwrap_or(message.component_type());
        session::write_reply(id, reply, code, self.settings.poll_interval_seconds, buffer);
        self.commit(connection, start, Kind::Reply, out);
    }

    /// Does what a request asks, from a sender who may; gives the return code.
    fn change<'a>(
        &mut self,
        now: Time,
        message: &Message<'a>,
        names: &[GroupData<'a>],
        out: &mut impl Outbox,
    ) -> ReturnCode {
        let checked = self.check_content(message, names);
        let checked =
            checked.and_then(|(change, found)| self.check_limits(&change, &found.targets).map(|()| (change, found)));
        match checked {
            Ok((change, found)) => {
                self.apply(now, change, found, out);
                ReturnCode::SUCCESSFUL
            }
            Err(code) => code,
        }
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

    /// The connection has ended; its slot may be used again. The shard drops messages that were committed to it since.
    pub fn closed(&mut self, now: Time, connection: ConnectionId, out: &mut impl Outbox) {
        let Some(known) = self.connection(connection) else { return };
        known.open = false;
        let lb = known.lb.take();
        self.peers[usize::from(connection.shard)][connection.slot as usize] = None;
        if let Some(lb) = lb {
            let lb_uid = self.tables.lbs[lb].uid.clone();
            self.apply(now, Change::Unbind { lb_uid: &lb_uid, close: None }, Found::default(), out);
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
            let Some(lb) = self.tables.lbs.get_mut(alarm.lb) else { continue };
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
                    self.alarm(now, at, alarm.lb, alarm.timer, out);
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
        let known = &self.tables.lbs[self.tables.find_lb(uid)?];
        Some((known.health, known.flags))
    }

    /// How many Deregistration Requests were done, by the reason that they gave.
    pub fn deregistrations(&self) -> &BTreeMap<Reason, u64> {
        &self.reasons
    }

    fn alarm(&mut self, now: Time, at: Time, lb: LbId, timer: Timer, out: &mut impl Outbox) {
        match timer {
            Timer::Window => self.make_due(lb),
            Timer::Refresh => {
                let period = u64::try_from(self.settings.push_refresh.as_nanos()).unwrap_or(u64::MAX).max(1);
                let missed = (now.0 - at.0) / period;
                self.set_deadline(lb, timer, Time(at.0.saturating_add(period.saturating_mul(missed + 1))));
                let known = &mut self.tables.lbs[lb];
                if !known.delta() {
                    known.all = true;
                    known.deadline(Timer::Window).at = None; // the refresh carries what the window collected
                    self.make_due(lb);
                }
            }
            Timer::Hold => {
                let lb_uid = self.tables.lbs[lb].uid.clone();
                self.apply(now, Change::Forget { lb_uid: &lb_uid }, Found::default(), out);
            }
        }
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let known = self.connections.get_mut(usize::from(id.shard))?.get_mut(id.slot as usize)?;
        (known.open && known.generation == id.generation).then_some(known)
    }

    fn find_connection(&self, id: ConnectionId) -> Option<&Connection> {
        let known = self.connections.get(usize::from(id.shard))?.get(id.slot as usize)?;
        (known.open && known.generation == id.generation).then_some(known)
    }

    /// Who is at the other end of a connection that is open.
    fn peer(&self, connection: ConnectionId) -> &Peer {
        let slots = self.peers.get(usize::from(connection.shard));
        let peer = slots.and_then(|slots| slots.get(connection.slot as usize)?.as_ref());
        peer.expect("an open connection has a peer")
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, kind: Kind, out: &mut impl Outbox) {
        if let Some(known) = self.connection(connection) {
            known.in_flight += 1;
        }
        out.commit(connection, start, kind);
    }
}

//! The coordinator's ends of the pipes: one port for each shard.

use std::{cell::Cell, collections::VecDeque, sync::Arc, time::Instant};

use bytes::Bytes;

use super::{
    doubt_log::DoubtLog,
    keeping::{Keeping, WaitingReplies},
    metrics::CoordinatorMetrics,
    refusals::Refusals,
    turn_log::{self, TurnLog},
};
use crate::{
    coordinator::{
        Change, CloseReason, ConnectionId, Contested, Doubted, Kind, Outbox, Refused, Unmatched, WatchOrder, Word,
    },
    runtime::{
        machine::clock::Clock,
        mesh::{Batch, Down, Order, Receiver, Sender, Slot, Up},
        shard::stamp,
    },
    sasp::Escaped,
    time::Time,
};

type UpBatch = Batch<(Slot, Up)>;

/// One shard's pipes, seen from the coordinator.
pub(crate) struct Port {
    pub(super) up: Receiver<(Slot, Up)>,
    pub(super) down: Sender<Down>,
    /// A batch in work, and the number of its entries that are done.
    pub(super) inbox: Option<(UpBatch, usize)>,
    /// Batches that are done. They go back after the replies to them are sent, so that one wake serves both.
    pub(super) finished: Vec<UpBatch>,
    /// Closes that found no room.
    closes: VecDeque<(Slot, CloseReason)>,
    /// Watch orders that found no room, those of a few endpoints at most.
    pub(super) orders: VecDeque<WatchOrder>,
    /// Replies that wait for the disk.
    replies: WaitingReplies,
}

impl Port {
    pub(crate) fn new(up: Receiver<(Slot, Up)>, down: Sender<Down>) -> Port {
        let (finished, closes, orders, replies) = Default::default();
        Port { up, down, inbox: None, finished, closes, orders, replies }
    }

    /// Whether a turn would do something for this shard now.
    pub(super) fn has_work(&self) -> bool {
        let room = self.down.has_room();
        self.down.has_wanted_return()
            || self.down.is_due()
            || (room
                && (!self.closes.is_empty() || !self.orders.is_empty() || self.inbox.is_some() || self.up.has_batch()))
    }

    /// To be called before the coordinator sleeps. `waits`: a push waits for an acknowledgement.
    pub(super) fn before_sleep(&self, waits: bool) {
        let waits = waits || !self.closes.is_empty() || !self.orders.is_empty() || !self.replies.is_empty();
        self.down.want_returns(waits);
    }

    /// Sends watch orders while there is room.
    pub(super) fn send_orders(&mut self) {
        while self.down.has_room() {
            let Some(order) = self.orders.pop_front() else { break };
            let slot = Slot { index: 0, generation: 0 }; // a watch order concerns no connection
            self.down.push(Down { slot, order: Order::Watch(Box::new(order)), unfinished: false });
        }
    }

    /// Sends waiting orders and the open batch, and gives finished batches back.
    pub(super) fn flush(&mut self) {
        while self.down.has_room() {
            let Some((slot, reason)) = self.closes.pop_front() else { break };
            self.down.push(Down { slot, order: Order::Close(reason), unfinished: false });
        }
        self.send_orders();
        self.down.flush();
        for batch in self.finished.drain(..) {
            self.up.give_back(batch);
        }
    }
}

/// The ports of all shards: the coordinator's messages go there.
pub(super) struct Ports {
    pub(super) list: Vec<Port>,
    /// From this time on there is no room for pushes in this turn.
    pub(super) pushes_until: Instant,
    /// Pushes had no room because their time was up.
    pub(super) cut_short: Cell<bool>,
    /// When the first change of the next push came, as a stamp.
    changed_at: u32,
    /// Bytes of all messages since the start.
    pub(super) committed: usize,
    /// `--state` and `--fleet`.
    pub(super) keeping: Option<Keeping>,
    /// The reply to the request in work may have to wait for the disk and etcd.
    pub(super) reply_may_wait: bool,
    clock: Clock,
    pub(super) refusals: Refusals,
    pub(super) doubt_log: DoubtLog,
    pub(super) turn_log: TurnLog,
    metrics: Arc<CoordinatorMetrics>,
}

impl Ports {
    pub(super) fn new(list: Vec<Port>, clock: Clock, metrics: Arc<CoordinatorMetrics>) -> Ports {
        let (pushes_until, cut_short) = (Instant::now(), Cell::new(false));
        let (refusals, doubt_log, turn_log) = Default::default();
        Ports {
            list,
            pushes_until,
            cut_short,
            changed_at: 0,
            committed: 0,
            keeping: None,
            reply_may_wait: false,
            clock,
            refusals,
            doubt_log,
            turn_log,
            metrics,
        }
    }

    /// Sends the replies whose changes are on the disk, and ends connections whose replies have waited too long.
    pub(super) fn send_waiting(&mut self) {
        let Some(keeping) = &self.keeping else { return };
        let (kept, now) = (keeping.kept(), self.clock.now());
        for port in self.list.iter_mut().filter(|port| !port.replies.is_empty()) {
            port.replies.send(kept, &mut port.down);
            port.replies.drop_old(now, |slot, reason| port.closes.push_back((slot, reason)));
        }
    }

    /// Whether [`Ports::send_waiting`] would send something.
    pub(super) fn has_kept_replies(&self) -> bool {
        let Some(keeping) = &self.keeping else { return false };
        let kept = keeping.kept();
        self.list.iter().any(|port| port.down.has_room() && port.replies.is_due(kept))
    }

    /// How many replies wait for the disk.
    pub(super) fn waiting_replies(&self) -> usize {
        self.list.iter().map(|port| port.replies.len()).sum()
    }

    pub(super) fn port(&mut self, shard: u16) -> &mut Port {
        self.list.get_mut(usize::from(shard)).expect("the coordinator names shards that it was told of")
    }
}

impl Outbox for Ports {
    fn has_room(&self, shard: u16) -> bool {
        let room = self.list.get(usize::from(shard)).is_some_and(|port| port.down.has_room());
        if room && Instant::now() >= self.pushes_until {
            self.cut_short.set(true);
            return false;
        }
        room
    }

    fn buffer(&mut self, shard: u16) -> &mut Vec<u8> {
        self.port(shard).down.bytes()
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, body: Option<&Bytes>, kind: Kind) {
        let slot = slot(connection);
        if kind == Kind::Reply
            && self.reply_may_wait
            && let Some(changes) = self.keeping.as_ref().and_then(Keeping::to_wait_for)
        {
            let now = self.clock.now();
            let port = self.port(connection.shard);
            let reply: Vec<u8> = port.down.bytes().drain(start..).collect();
            return port.replies.push(changes, now, slot, reply.into());
        }
        let changed_at = std::mem::take(&mut self.changed_at);
        let port = self.port(connection.shard);
        let end = port.down.bytes().len();
        // A batch is sent before it has 4 GiB: the limits keep every message below 2 GiB.
        let head = start as u32..end as u32;
        let body_length = body.map_or(0, Bytes::len);
        let body = body.map(|body| port.down.body(body));
        let changed_at = if kind == Kind::Push { changed_at } else { 0 };
        port.down.push(Down { slot, order: Order::Write { kind, head, body, changed_at }, unfinished: false });
        let length = end - start + body_length;
        if kind == Kind::Push {
            self.metrics.push_size.add_value(length as u64);
        }
        self.committed += length;
    }

    fn pushes(&mut self, changed_at: Option<Time>) {
        self.changed_at = changed_at.map_or(0, stamp);
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.port(connection.shard).closes.push_back((slot(connection), reason));
    }

    fn changed(&mut self, now: Time, change: &Change<'_>) {
        if let Some(keeping) = &mut self.keeping {
            keeping.note(now, change);
        }
    }

    fn unmatched(&mut self, unmatched: &Unmatched) {
        tracing::warn!("{unmatched}");
    }

    fn doubted(&mut self, doubted: &Doubted<'_>) {
        self.doubt_log.doubted(self.clock.now(), doubted);
    }

    fn expired(&mut self, word: &Word) {
        let by = (!word.by.is_empty()).then(|| tracing::field::display(Escaped(word.by.as_bytes())));
        let reason = Escaped(word.reason.as_bytes());
        tracing::info!(by, from = %word.from, %reason, "operator: {word}: the time is over: word {} has ended", word.number);
    }

    fn contested(&mut self, contested: &Contested<'_>) {
        turn_log::log_contested(contested);
    }

    fn refused(&mut self, refused: &Refused<'_>) {
        if let Some(count) = self.metrics.refused.get(refused.cause as usize) {
            count.add(1);
        }
        self.refusals.log(self.clock.now(), refused);
    }
}

fn slot(connection: ConnectionId) -> Slot {
    Slot { index: connection.slot, generation: connection.generation }
}

/// The coordinator's name of a shard's connection.
pub(super) fn connection(shard: usize, slot: Slot) -> ConnectionId {
    let shard = u16::try_from(shard).expect("there are at most 256 shards");
    ConnectionId { shard, slot: slot.index, generation: slot.generation }
}

//! What connections, handshakes and monitoring know of their shard: limits, counters, queues, and whether it stops.
//!
//! The context does not know the table of connections, so code that the table calls can not reach the table.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    bodies::Bodies,
    cause::{CAUSES, Cause},
    handshakes::Handshakes,
    shard_metrics::ShardMetrics,
    shared::Shared,
};
use crate::{
    config::Connections,
    limits,
    metrics::Id,
    runtime::{
        limit::rate::Rate,
        mesh::{Bell, Slot, Uplink},
    },
    throttle::Throttle,
    time::Time,
};

/// How long connections have to end once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(2500);

/// Why a connection is slowed down.
const SLOWED_DOWN: &str = "it asks more often than --max-requests-per-second";

/// The state of a shard that all its tasks share. No method keeps a borrow of a cell beyond its own end.
pub(super) struct Context {
    /// The shard's number, from 0.
    pub(super) index: u16,
    /// The number of shards.
    pub(super) shards: u16,
    pub(super) limits: Connections,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) uplink: RefCell<Uplink>,
    /// The buffer of every read of this shard; never borrowed across an await.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// The buffer in which a connection collects the shard's own replies.
    pub(super) replies: RefCell<Vec<u8>>,
    /// Bodies that connections have yet to write.
    pub(super) bodies: Bodies,
    pub(super) handshakes: RefCell<Handshakes>,
    /// How many requests a connection may make.
    pub(super) request_rate: Option<Rate>,
    /// Wakes the task that serves the connections.
    pub(super) bell: Arc<Bell>,
    /// Connections that are to take a step, each once.
    runnable: RefCell<VecDeque<Slot>>,
    /// Connections that become runnable when the uplink has room.
    waiting_for_room: RefCell<Vec<Slot>>,
    /// Connections over the request rate, and when they become runnable.
    rate_limited: RefCell<BinaryHeap<Reverse<(Time, Slot)>>>,
    closed_lines: RefCell<[Throttle; CAUSES]>,
    slowed_down_lines: Cell<Throttle>,
    /// When the task that runs the checks has something to do.
    checks_due: Cell<Time>,
    /// When the last look for overdue connections was asked for, until that look begins.
    sweep: Cell<Option<Time>>,
    /// When connections have to have ended, from the server's stop on.
    stop_by: Cell<Option<Time>>,
    /// Rung whenever the shard may have drained.
    pub(super) ended: Bell,
}

impl Context {
    pub(super) fn new(
        (index, shards): (u16, u16),
        limits: Connections,
        shared: Arc<Shared>,
        metrics: Arc<ShardMetrics>,
        uplink: Uplink,
        bell: Arc<Bell>,
    ) -> Context {
        let handshakes = Handshakes::new(limits.max_handshakes.div_ceil(shards.into()) as usize);
        Context {
            index,
            shards,
            request_rate: Rate::per_second(limits.max_requests_per_second),
            limits,
            shared,
            metrics,
            uplink: RefCell::new(uplink),
            scratch: RefCell::new(vec![0; limits::READ_BYTES].into()),
            replies: RefCell::default(),
            bodies: Bodies::default(),
            handshakes: RefCell::new(handshakes),
            bell,
            runnable: RefCell::default(),
            waiting_for_room: RefCell::default(),
            rate_limited: RefCell::default(),
            closed_lines: RefCell::default(),
            slowed_down_lines: Cell::default(),
            checks_due: Cell::default(),
            sweep: Cell::default(),
            stop_by: Cell::default(),
            ended: Bell::default(),
        }
    }

    pub(super) fn now(&self) -> Time {
        self.shared.clock.now()
    }

    /// Puts a connection among those that are to take a step. The caller serves them soon, so no bell is rung.
    pub(super) fn enqueue(&self, slot: Slot) {
        self.runnable.borrow_mut().push_back(slot);
    }

    /// The next connection that is to take a step.
    pub(super) fn next_runnable(&self) -> Option<Slot> {
        self.runnable.borrow_mut().pop_front()
    }

    pub(super) fn has_runnable(&self) -> bool {
        !self.runnable.borrow().is_empty()
    }

    /// Makes a connection runnable when the uplink has room.
    pub(super) fn wake_when_there_is_room(&self, slot: Slot) {
        self.waiting_for_room.borrow_mut().push(slot);
    }

    /// The connections that wait for room, if there is some now.
    pub(super) fn take_waiting_for_room(&self) -> Vec<Slot> {
        if self.waiting_for_room.borrow().is_empty() || !self.uplink.borrow().has_room() {
            return Vec::new();
        }
        self.waiting_for_room.take()
    }

    /// Makes a connection runnable at a time.
    pub(super) fn wake_at(&self, at: Time, slot: Slot) {
        self.rate_limited.borrow_mut().push(Reverse((at, slot)));
    }

    /// The next connection whose time has come.
    pub(super) fn next_rate_limited(&self, now: Time) -> Option<Slot> {
        let mut waiting = self.rate_limited.borrow_mut();
        match waiting.peek() {
            Some(Reverse((at, _))) if *at <= now => waiting.pop().map(|Reverse((_, slot))| slot),
            _ => None,
        }
    }

    /// When the next connection or handshake that waits for a time may go on.
    pub(super) fn next_time(&self) -> Option<Time> {
        let connection = self.rate_limited.borrow().peek().map(|Reverse((at, _))| *at);
        [connection, self.handshakes.borrow().next_time()].into_iter().flatten().min()
    }

    /// When the task that runs the checks has something to do.
    pub(super) fn checks_due(&self) -> Time {
        self.checks_due.get()
    }

    pub(super) fn set_checks_due(&self, at: Time) {
        self.checks_due.set(at);
    }

    /// Asks for a look at all connections: those that are overdue at `now` end.
    pub(super) fn ask_for_sweep(&self, now: Time) {
        self.sweep.set(Some(now));
        self.bell.ring();
    }

    /// Takes the request for a look, if there is one.
    pub(super) fn take_sweep(&self) -> Option<Time> {
        self.sweep.take()
    }

    /// Whether the task that serves has something to do that no socket tells of.
    pub(super) fn has_work(&self) -> bool {
        self.uplink.borrow().is_due()
            || self.handshakes.borrow().is_due()
            || self.sweep.get().is_some()
            || self.stop_is_news()
    }

    pub(super) fn open_connections(&self) -> u64 {
        self.metrics.values.get(Id::ConnectionsOpen)
    }

    /// Counts one event.
    pub(super) fn count(&self, id: Id) {
        self.metrics.values.add(id);
    }

    /// Counts the end of a connection.
    pub(super) fn count_end(&self, cause: Cause) {
        if let Some(counter) = self.metrics.closed.get(cause as usize) {
            counter.add(1);
        }
    }

    /// Logs that a peer is slowed down, as far as the limit of log lines allows.
    pub(super) fn log_slowed_down(&self, peer: SocketAddr) {
        let mut lines = self.slowed_down_lines.get();
        if lines.take_line(self.now()) {
            tracing::warn!(%peer, shard = self.index, "slowed down: {SLOWED_DOWN}");
        }
        self.slowed_down_lines.set(lines);
    }

    /// Logs why a connection is closed, as far as the limit of log lines allows.
    pub(super) fn log_closed(&self, cause: Cause, peer: SocketAddr, detail: Option<&dyn fmt::Display>) {
        let mut lines = self.closed_lines.borrow_mut();
        let Some(lines) = lines.get_mut(cause as usize) else { return };
        if !lines.take_line(self.now()) {
            return;
        }
        let detail = detail.map(tracing::field::display);
        if cause == Cause::TakenOver {
            tracing::info!(%peer, shard = self.index, detail, "closed: {}", cause.text());
        } else {
            tracing::warn!(%peer, shard = self.index, detail, "closed: {}", cause.text());
        }
    }

    /// Logs how many lines were left out.
    pub(super) fn log_suppressed(&self, now: Time) {
        let mut lines = self.slowed_down_lines.get();
        if let Some(lines) = lines.take_suppressed(now) {
            tracing::warn!(shard = self.index, "{lines} more slowed down: {SLOWED_DOWN}");
        }
        self.slowed_down_lines.set(lines);
        for (cause, lines) in Cause::ALL.iter().zip(self.closed_lines.borrow_mut().iter_mut()) {
            let Some(lines) = lines.take_suppressed(now) else { continue };
            if *cause == Cause::TakenOver {
                tracing::info!(shard = self.index, "{lines} more closed: {}", cause.text());
            } else {
                tracing::warn!(shard = self.index, "{lines} more closed: {}", cause.text());
            }
        }
    }

    /// Whether the server stops and all connections have ended.
    pub(super) fn has_drained(&self) -> bool {
        self.is_stopping() && self.open_connections() == 0
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop_by.get().is_some()
    }

    /// When connections have to have ended, if the server stops.
    pub(super) fn stop_by(&self) -> Option<Time> {
        self.stop_by.get()
    }

    /// Whether the server stops and this shard has not begun to.
    pub(super) fn stop_is_news(&self) -> bool {
        !self.is_stopping() && (self.shared.draining.load(Ordering::Relaxed) || self.is_over())
    }

    /// Whether another process has taken over.
    pub(super) fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Acquire)
    }

    /// Whether new connections wait in the kernel for now.
    pub(super) fn holds(&self) -> bool {
        self.shared.holds.load(Ordering::Relaxed)
    }

    /// Begins this shard's stop, in which the last connection begins to end after `spread`.
    pub(super) fn begin_stop(&self, spread: Duration) {
        self.stop_by.set(Some(self.now() + spread + DRAIN_TIMEOUT));
        self.ended.ring();
    }
}

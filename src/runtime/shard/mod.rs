//! A shard: one executor that owns its listeners, its connections from accept to close, and the checks of its members.
//!
//! Tasks: one a listener, which accepts; one that moves everything between sockets and mesh; and the main one, which
//! sweeps for timeouts and ends the shard when it has drained.

mod cause;
mod connection;
mod counters;
mod handshakes;
pub(super) mod listener;
pub(super) mod monitoring;
mod shared;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt,
    future::Future,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use glommio::{Task, timer::Timer};
use rustix::net::sockopt;

use super::{
    limit::{
        rate::Rate,
        sources::{Refusal, Source},
        throttle::Throttle,
    },
    machine::{
        executor::{self, Alarm, TURN},
        poller::{Poller, Readable},
        sys,
    },
    mesh::{Batch, Bell, Down, Order, Receiver, Sender, Slot, Up, Uplink},
    probe::Prober,
};
use cause::CAUSES;
use connection::{Connection, Step};
use counters::count;
use handshakes::Handshakes;
use monitoring::Monitoring;
use table::{Table, slot, token};
use wire::send_now;

use crate::{
    config::{Carries, Connections},
    coordinator::{CloseReason, Kind, Time},
    limits,
    monitor::Token,
    sasp::{Message, Summary},
};
pub(super) use cause::Cause;
pub(super) use counters::{Counters, Lateness};
pub(super) use shared::Shared;

/// How long connections have to end once the server stops.
const DRAIN: Duration = Duration::from_millis(2500);

/// Why a connection is slowed down.
const HASTE: &str = "it asks more often than --max-requests-per-second";

/// Slots swept before the reactor has its turn.
const SWEEP_CHUNK: usize = 4096;

/// Connections ended before it has: closing a socket costs more than a look at it.
const ENDS_PER_TURN: usize = 64;

/// The shortest sleep: connections whose time is a moment later are woken with those of that moment.
const SLEEP_MIN: Duration = Duration::from_micros(500);

/// Writes, or steps, between looks at the clock.
const WRITES_PER_LOOK: usize = 16;

/// What a shard is made from.
pub(super) struct Plan {
    pub(super) index: u16,
    /// How many shards there are.
    pub(super) shards: u16,
    pub(super) limits: Connections,
    pub(super) listeners: Vec<(OwnedFd, Carries)>,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) bell: Arc<Bell>,
    pub(super) poller: Poller,
    /// How long to poll before a sleep.
    pub(super) spin: Duration,
    pub(super) up: Sender<(Slot, Up)>,
    pub(super) down: Receiver<Down>,
    pub(super) monitoring: monitoring::Plan,
}

/// What the tasks of one shard share.
struct Shard {
    index: u16,
    limits: Connections,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    uplink: RefCell<Uplink>,
    /// What every read of this shard reads into; never borrowed across an await.
    scratch: RefCell<Box<[u8]>>,
    /// Where a refusal is put together.
    reply: RefCell<Vec<u8>>,
    bell: Arc<Bell>,
    table: RefCell<Table>,
    poller: Poller,
    /// Connections that are to take a step, each once.
    runnable: RefCell<VecDeque<Slot>>,
    handshakes: RefCell<Handshakes>,
    /// Connections that become runnable when the uplink has room.
    starved: RefCell<Vec<Slot>>,
    /// How often a connection may ask.
    request_rate: Option<Rate>,
    /// Connections (by token) that asked too often, and when they become runnable.
    early: RefCell<BinaryHeap<Reverse<(Time, u64)>>>,
    throttles: RefCell<[Throttle; CAUSES]>,
    /// For lines about connections that ask too often.
    haste: Cell<Throttle>,
    /// The tasks that accept; dropping them closes their listeners.
    accepting: RefCell<Vec<Task<()>>>,
    /// By when connections have to end, once they have been told that the server stops.
    stop_by: Cell<Option<Time>>,
    /// Rung when that may have come about.
    stopped: Bell,
    monitoring: Monitoring,
}

/// A shard, and what is its tasks' own.
struct Parts {
    shard: Rc<Shard>,
    listeners: Vec<(OwnedFd, Carries)>,
    down: Receiver<Down>,
    prober: Prober<Token>,
    spin: Duration,
}

impl Parts {
    /// A shard without connections, and what its tasks need.
    fn new(plan: Plan) -> Parts {
        let (monitoring, prober) = Monitoring::new(plan.monitoring);
        let handshakes = Handshakes::new(plan.limits.max_handshakes.div_ceil(plan.shards.into()) as usize);
        let request_rate = Rate::per_second(plan.limits.max_requests_per_second);
        let shard = Rc::new(Shard {
            index: plan.index,
            limits: plan.limits,
            shared: plan.shared,
            counters: plan.counters,
            uplink: RefCell::new(Uplink::new(plan.up, plan.bell.clone())),
            scratch: RefCell::new(vec![0; limits::READ_BYTES].into()),
            reply: RefCell::default(),
            bell: plan.bell,
            table: RefCell::default(),
            poller: plan.poller,
            runnable: RefCell::default(),
            handshakes: RefCell::new(handshakes),
            starved: RefCell::default(),
            request_rate,
            early: RefCell::default(),
            throttles: RefCell::default(),
            haste: Cell::default(),
            accepting: RefCell::default(),
            stop_by: Cell::default(),
            stopped: Bell::default(),
            monitoring,
        });
        Parts { shard, listeners: plan.listeners, down: plan.down, prober, spin: plan.spin }
    }
}

/// Runs a shard until it has drained.
pub(super) async fn run(plan: Plan, ready: impl FnOnce()) {
    let Parts { shard, listeners, down, prober, spin } = Parts::new(plan);
    let serve = glommio::spawn_local(serve(shard.clone(), down, spin));
    let checks = glommio::spawn_local(monitoring::run(shard.clone(), prober));
    for (listener, carries) in listeners {
        let task = glommio::spawn_local(listener::accept(shard.clone(), listener, carries));
        shard.accepting.borrow_mut().push(task);
    }
    ready();
    sweep(&shard).await;
    drop((serve, checks));
}

/// Moves everything between sockets and mesh. One task does it all, so that what has arrived is with the coordinator,
/// and the answer with its socket, without a turn of the reactor in between.
async fn serve(shard: Rc<Shard>, mut down: Receiver<Down>, spin: Duration) {
    // A batch that is being written, and how many of its messages are.
    let mut open = None;
    let mut news = None;
    let mut turned = Instant::now();
    let mut idle_since = None;
    let mut alarm = Alarm::default();
    let mut quiet_until = Time::default();
    loop {
        if shard.stop_is_news() {
            shard.tell_stop();
        }
        shard.wake_early();
        let mut busy = shard.collect();
        busy |= shard.step_some();
        busy |= shard.step_handshakes();
        shard.turn_uplink();
        if let Some((mut batch, mut done)) = open.take().or_else(|| down.receive().map(|batch| (batch, 0))) {
            busy = true;
            match shard.write_some(&mut batch, &mut done) {
                true => open = Some((batch, done)),
                false => down.give_back(batch),
            }
        }
        busy |= !shard.runnable.borrow().is_empty();
        let now = Instant::now();
        if busy {
            idle_since = None;
        }
        if busy || now - *idle_since.get_or_insert(now) < spin {
            if now - turned >= TURN {
                executor::turn().await;
                turned = Instant::now();
            }
            continue;
        }
        if news.is_none() {
            match Readable::new(&shard.poller) {
                Ok(readable) => news = Some(readable),
                // Out of file descriptors, for a moment: connections that end give theirs back.
                Err(error) => {
                    let now = shard.shared.clock.now();
                    if now >= quiet_until {
                        quiet_until = now + listener::QUIET;
                        tracing::warn!(shard = shard.index, "can not wait for connections, trying again: {error}");
                    }
                    executor::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            }
        }
        if let Some(at) = shard.next_time() {
            let now = shard.shared.clock.now();
            alarm.set(now, at.max(now + SLEEP_MIN));
        }
        std::future::poll_fn(|cx| {
            let work = || {
                let handshakes = shard.handshakes.borrow().is_due();
                down.has_batch() || shard.uplink.borrow().is_due() || handshakes || shard.stop_is_news()
            };
            let told = news.as_mut().is_none_or(|news| Pin::new(news).poll(cx).is_ready());
            if told {
                news = None;
            }
            let rung = shard.bell.poll(cx, work).is_ready();
            if alarm.poll(cx).is_ready() || rung || told { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        turned = Instant::now();
        idle_since = None;
    }
}

/// Ends what takes too long; returns when the shard has drained.
async fn sweep(shard: &Rc<Shard>) {
    let limits = &shard.limits;
    let shortest =
        [limits.stall_timeout, limits.first_message_timeout, limits.message_timeout, limits.handshake_timeout]
            .into_iter()
            .min()
            .expect("there are some");
    let tick = (shortest / 4).clamp(Duration::from_millis(10), executor::HEARTBEAT);
    loop {
        let now = shard.shared.clock.now();
        let stop_by = shard.stop_by.get();
        let pause = stop_by.map_or(tick, |by| tick.min(Duration::from_nanos(by.0.saturating_sub(now.0))));
        let mut timer = Timer::new(pause);
        std::future::poll_fn(|cx| match shard.stopped.poll(cx, || shard.has_drained()) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => Pin::new(&mut timer).poll(cx).map(|_| ()),
        })
        .await;
        if shard.has_drained() {
            return;
        }
        if shard.shared.clock.now() >= now + pause + executor::HEARTBEAT {
            // This process stood still, not its peers: what they sent and took meanwhile is looked at first.
            executor::sleep(executor::HEARTBEAT).await;
        }
        let now = shard.shared.clock.now();
        if stop_by.is_some_and(|by| now >= by) {
            let open = shard.table.borrow().open;
            tracing::warn!(shard = shard.index, "stopping with {open} connections that did not end in time");
            return;
        }
        let mut from = 0;
        while shard.sweep_some(now, &mut from) {
            executor::turn().await;
        }
        shard.report_suppressed(now);
    }
}

impl Shard {
    /// Takes in an accepted connection, for which the budget of connections was asked, unless its source has too many.
    pub(super) fn admit(self: &Rc<Self>, socket: OwnedFd, peer: SocketAddr, carries: Carries) {
        count(&self.counters.accepted);
        let (source, now) = (Source::from(peer.ip()), self.shared.clock.now());
        if let Err(refusal) = self.shared.sources.open(source, now) {
            self.shared.connections.give(1);
            let cause = match refusal {
                Refusal::TooMany => Cause::SourceConnections,
                Refusal::TooFast => Cause::SourceRate,
            };
            // With a reset, which costs no further packet and leaves nothing behind here.
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
            self.count_end(cause);
            self.note(cause, peer, None);
            return;
        }
        let mut table = self.table.borrow_mut();
        let slot = table.reserve();
        if let Err(error) = self.poller.add(&socket, token(slot)) {
            // The kernel's limit of watched descriptors, or of memory.
            table.release(slot);
            self.shared.sources.close(source, now);
            self.shared.connections.give(1);
            tracing::warn!(%peer, shard = self.index, "can not take in a connection: {error}");
            return;
        }
        let mut connection = Box::new(Connection::new(slot, peer, carries, self));
        if carries == Carries::Plain {
            connection.open(self, None);
        }
        table.put(slot, socket, connection);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, shard = self.index, "connected");
    }

    /// Puts a connection among those to take a step; only what [`serve`] calls does so.
    pub(super) fn enqueue(&self, slot: Slot) {
        self.runnable.borrow_mut().push_back(slot);
    }

    /// Wakes a connection when the uplink has room.
    pub(super) fn wake_when_there_is_room(&self, slot: Slot) {
        self.starved.borrow_mut().push(slot);
    }

    /// Wakes a connection at a time.
    pub(super) fn wake_at(&self, at: Time, slot: Slot) {
        self.early.borrow_mut().push(Reverse((at, token(slot))));
    }

    /// When something is to be woken that waits for its time.
    fn next_time(&self) -> Option<Time> {
        let connection = self.early.borrow().peek().map(|Reverse((at, _))| *at);
        [connection, self.handshakes.borrow().next_time()].into_iter().flatten().min()
    }

    /// Wakes what has waited for its time.
    fn wake_early(&self) {
        if self.next_time().is_none() {
            return;
        }
        let now = self.shared.clock.now();
        self.handshakes.borrow_mut().resume(now);
        let (mut early, mut table) = (self.early.borrow_mut(), self.table.borrow_mut());
        while let Some(&Reverse((at, connection))) = early.peek()
            && at <= now
        {
            early.pop();
            table.with(slot(connection), |connection, _| connection.wake(self));
        }
    }

    fn turn_uplink(&self) {
        self.uplink.borrow_mut().turn();
        if !self.starved.borrow().is_empty() && self.uplink.borrow().has_room() {
            let starved = self.starved.take();
            let mut table = self.table.borrow_mut();
            for slot in starved {
                table.with(slot, |connection, _| connection.room(self));
            }
        }
        self.monitoring.room();
    }

    /// Takes news of sockets; whether there may be more.
    fn collect(&self) -> bool {
        let mut table = self.table.borrow_mut();
        self.poller.collect(|news| {
            table.with(slot(news.token), |connection, _| {
                connection.hear(news);
                connection.wake(self);
            });
        })
    }

    /// Lets connections take steps until time is up; whether there are more.
    fn step_some(&self) -> bool {
        let start = Instant::now();
        loop {
            for _ in 0..WRITES_PER_LOOK {
                let Some(slot) = self.runnable.borrow_mut().pop_front() else { return false };
                self.step(slot);
            }
            if start.elapsed() >= TURN / 2 {
                return !self.runnable.borrow().is_empty();
            }
        }
    }

    /// Lets one handshake begin and one take a step: what is dear comes in small portions. Whether there are more.
    fn step_handshakes(&self) -> bool {
        let may = |source| self.shared.sources.may_handshake(source, self.shared.clock.now());
        let begin = self.handshakes.borrow_mut().begin(may);
        if let Some(slot) = begin {
            self.guarded(slot, |connection, _| connection.begin_handshake(self));
        }
        let next = self.handshakes.borrow_mut().next();
        if let Some(slot) = next {
            self.step(slot);
        }
        self.handshakes.borrow().is_due()
    }

    /// Does something with a connection, unless it has ended since. A panic in it ends this connection alone.
    fn guarded<R>(&self, slot: Slot, act: impl FnOnce(&mut Connection, BorrowedFd<'_>) -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(|| self.table.borrow_mut().with(slot, act))) {
            Ok(result) => result,
            Err(_) => {
                self.end(slot, Cause::Panicked);
                None
            }
        }
    }

    /// Lets a connection take a step.
    fn step(&self, slot: Slot) {
        let step = self.guarded(slot, |connection, socket| {
            connection.queued = false;
            connection.step(socket, self)
        });
        match step {
            Some(Step::Again) => {
                self.guarded(slot, |connection, _| connection.wake(self));
            }
            Some(Step::Ended(cause)) => self.end(slot, cause),
            Some(Step::Idle) | None => {}
        }
    }

    /// Writes messages of a batch from number `done` on; whether there are more, the time being up.
    fn write_some(&self, batch: &mut Batch<Down>, done: &mut usize) -> bool {
        let start = Instant::now();
        let Batch { bytes, entries } = batch;
        loop {
            for at in *done..entries.len().min(*done + WRITES_PER_LOOK) {
                *done += 1;
                // The coordinator's core wrote it. It comes over while the kernel sends the one before.
                if let Some(Down { order: Order::Write(_, next), .. }) = entries.get(at + 1) {
                    sys::prefetch(bytes.get(next.clone()).unwrap_or_default());
                }
                let Some(down) = entries.get_mut(at) else { break };
                match &down.order {
                    Order::Write(kind, range) => {
                        let message = bytes.get(range.clone()).expect("the coordinator committed this range");
                        // Written only if need be: the coordinator's core has this line too.
                        if !self.write(down.slot, *kind, message) {
                            down.unfinished = true;
                        }
                    }
                    Order::Close(reason) => {
                        let cause = match reason {
                            CloseReason::TakenOver => Cause::TakenOver,
                            CloseReason::NotPermitted => Cause::NotPermitted,
                        };
                        self.guarded(down.slot, |connection, _| connection.close(cause, self));
                    }
                    Order::Watch(order) => self.monitoring.order(self.shared.clock.now(), order),
                }
            }
            if *done >= entries.len() {
                return false;
            }
            if start.elapsed() >= TURN / 2 {
                return true;
            }
        }
    }

    /// Writes a message; false if an acknowledgement of it follows.
    fn write(&self, slot: Slot, kind: Kind, message: &[u8]) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(row) = table.row(slot) else { return true };
        if tracing::enabled!(tracing::Level::TRACE)
            && let Some(connection) = &row.connection
            && let Ok((header, message)) = Message::decode_trusted(message)
        {
            tracing::trace!(peer = %connection.peer, "to send: {}", Summary(&header, &message));
        }
        let sent = match &row.socket {
            Some(socket) if row.clear => Some(send_now(socket.as_fd(), message)),
            _ => None,
        };
        if kind == Kind::Push && matches!(sent, Some(Ok(sent)) if sent == message.len()) {
            count(&self.counters.sent);
            return true;
        }
        drop(table);
        let deliver =
            |connection: &mut Connection, socket: BorrowedFd<'_>| connection.deliver(socket, kind, message, sent, self);
        self.guarded(slot, deliver).unwrap_or(true)
    }

    /// Drops what is overdue among some slots; whether there are more.
    fn sweep_some(&self, now: Time, from: &mut usize) -> bool {
        let mut overdue = Vec::new();
        {
            let scarce = self.handshakes.borrow().are_scarce();
            let table = self.table.borrow();
            for row in table.rows.iter().skip(*from).take(SWEEP_CHUNK) {
                *from += 1;
                let Some(connection) = row.connection.as_deref() else { continue };
                if let Some(cause) = connection.overdue(now, &self.limits, scarce) {
                    overdue.push((connection.slot(), cause));
                    if overdue.len() == ENDS_PER_TURN {
                        break;
                    }
                }
            }
        }
        for (slot, cause) in overdue {
            self.end(slot, cause);
        }
        *from < self.table.borrow().rows.len()
    }

    /// Ends a connection, whatever it does.
    fn end(&self, slot: Slot, cause: Cause) {
        let Some(mut connection) = self.table.borrow_mut().remove(slot) else { return };
        connection.release(self);
        connection.forgive(self);
        connection.return_turn(self);
        if self.handshakes.borrow().is_due() {
            self.bell.ring(); // the sweep may have ended it, while the task that gives turns sleeps
        }
        if connection.is_known() {
            self.uplink.borrow_mut().closed(slot);
        }
        self.shared.sources.close(connection.source(), self.shared.clock.now());
        self.shared.connections.give(1);
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        self.count_end(cause);
        match cause {
            Cause::PeerClosed | Cause::Failed | Cause::Draining => {
                tracing::debug!(peer = %connection.peer, shard = self.index, "disconnected: {}", cause.text());
            }
            // Told when it was seen.
            Cause::Framing | Cause::NoReply | Cause::Handshake | Cause::Tls => {}
            _ => self.note(cause, connection.peer, None),
        }
        self.stopped.ring();
    }

    fn count_end(&self, cause: Cause) {
        if let Some(counter) = self.counters.closed.get(cause as usize) {
            count(counter);
        }
    }

    /// Logs that a peer asks too often, within reason.
    pub(super) fn note_haste(&self, peer: SocketAddr) {
        let mut haste = self.haste.get();
        if haste.allows(self.shared.clock.now()) {
            tracing::warn!(%peer, shard = self.index, "slowed down: {HASTE}");
        }
        self.haste.set(haste);
    }

    /// Logs why a peer is disconnected, within reason.
    pub(super) fn note(&self, cause: Cause, peer: SocketAddr, detail: Option<&dyn fmt::Display>) {
        let mut throttles = self.throttles.borrow_mut();
        let Some(throttle) = throttles.get_mut(cause as usize) else { return };
        if !throttle.allows(self.shared.clock.now()) {
            return;
        }
        let detail = detail.map(tracing::field::display);
        if cause == Cause::TakenOver {
            tracing::info!(%peer, shard = self.index, detail, "closed: {}", cause.text());
        } else {
            tracing::warn!(%peer, shard = self.index, detail, "closed: {}", cause.text());
        }
    }

    fn report_suppressed(&self, now: Time) {
        let mut haste = self.haste.get();
        if let Some(lines) = haste.suppressed(now) {
            tracing::warn!(shard = self.index, "{lines} more slowed down: {HASTE}");
        }
        self.haste.set(haste);
        for (cause, throttle) in Cause::ALL.iter().zip(self.throttles.borrow_mut().iter_mut()) {
            let Some(lines) = throttle.suppressed(now) else { continue };
            if *cause == Cause::TakenOver {
                tracing::info!(shard = self.index, "{lines} more closed: {}", cause.text());
            } else {
                tracing::warn!(shard = self.index, "{lines} more closed: {}", cause.text());
            }
        }
    }

    fn has_drained(&self) -> bool {
        self.stop_by.get().is_some() && self.table.borrow().open == 0
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop_by.get().is_some()
    }

    fn stop_is_news(&self) -> bool {
        self.stop_by.get().is_none() && self.shared.draining.load(Ordering::Relaxed)
    }

    fn tell_stop(&self) {
        self.stop_by.set(Some(self.shared.clock.now() + DRAIN));
        self.accepting.take();
        self.stopped.ring();
        self.monitoring.stop();
        for row in &mut self.table.borrow_mut().rows {
            if let Some(connection) = &mut row.connection {
                connection.wake(self);
            }
        }
    }
}

//! A shard: one executor that owns its listeners and its connections from accept to close.
//!
//! Tasks: one a listener, which accepts; one a connection, which reads; one for both directions of the mesh, which
//! writes; and the main one, which sweeps for timeouts and ends the shard when it has drained.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    net::SocketAddr,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use glommio::{Task, timer::Timer};

use super::{
    connection::{Connection, Step},
    executor::{self, TURN},
    link::{Down, Order, Slot, Up, Uplink},
    listener,
    mesh::{Batch, Bell, Receiver, Sender},
    shared::{CAUSES, Cause, Counters, Shared, count},
    sys,
    throttle::Throttle,
};
use crate::{
    config::Connections,
    coordinator::{CloseReason, Time},
    limits,
};

/// How long connections have to end once the server stops.
const DRAIN: Duration = Duration::from_millis(2500);

/// Slots swept before the reactor has its turn.
const SWEEP_CHUNK: usize = 4096;

/// Writes between looks at the clock.
const WRITES_PER_LOOK: usize = 16;

/// What a shard is made from.
pub(super) struct Plan {
    pub(super) index: u16,
    pub(super) limits: Connections,
    pub(super) listeners: Vec<OwnedFd>,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) bell: Arc<Bell>,
    pub(super) up: Sender<(Slot, Up)>,
    pub(super) down: Receiver<Down>,
}

/// What the tasks of one shard share.
pub(super) struct Shard {
    pub(super) index: u16,
    pub(super) limits: Connections,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) uplink: RefCell<Uplink>,
    /// What every read of this shard reads into; never borrowed across an await.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// Where a refusal is put together.
    pub(super) reply: RefCell<Vec<u8>>,
    bell: Arc<Bell>,
    table: RefCell<Table>,
    throttles: RefCell<[Throttle; CAUSES]>,
    /// The tasks that accept; dropping them closes their listeners.
    accepting: RefCell<Vec<Task<()>>>,
    /// By when connections have to end, once they have been told that the server stops.
    stop_by: Cell<Option<Time>>,
    /// Rung when that may have come about.
    stopped: Bell,
}

/// The connections, by slot.
#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    free: Vec<u32>,
    open: usize,
}

#[derive(Default)]
struct Row {
    /// Of the connection that is here or will be next.
    generation: u32,
    // Boxed: a row that is free, or a table that grows, costs next to nothing.
    connection: Option<Box<Connection>>,
}

impl Table {
    fn reserve(&mut self) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row::default());
            u32::try_from(self.rows.len() - 1).expect("there are fewer connections than 32 bits")
        });
        let generation = self.rows.get(index as usize).expect("the slot exists").generation;
        Slot { index, generation }
    }

    fn put(&mut self, slot: Slot, connection: Box<Connection>) {
        self.rows.get_mut(slot.index as usize).expect("the slot was reserved").connection = Some(connection);
        self.open += 1;
    }

    /// The connection, unless it has ended since.
    fn get(&mut self, slot: Slot) -> Option<&mut Connection> {
        let connection = self.rows.get_mut(slot.index as usize)?.connection.as_deref_mut()?;
        (connection.slot() == slot).then_some(connection)
    }

    fn remove(&mut self, slot: Slot) -> Option<Box<Connection>> {
        self.get(slot)?;
        let row = self.rows.get_mut(slot.index as usize)?;
        let connection = row.connection.take()?;
        row.generation = row.generation.wrapping_add(1);
        self.free.push(slot.index);
        self.open -= 1;
        Some(connection)
    }
}

/// Runs a shard until it has drained.
pub(super) async fn run(plan: Plan, ready: impl FnOnce()) {
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
        throttles: RefCell::default(),
        accepting: RefCell::default(),
        stop_by: Cell::default(),
        stopped: Bell::default(),
    });
    let mesh = glommio::spawn_local(mesh(shard.clone(), plan.down));
    for listener in plan.listeners {
        let task = glommio::spawn_local(listener::accept(shard.clone(), listener));
        shard.accepting.borrow_mut().push(task);
    }
    ready();
    sweep(&shard).await;
    drop(mesh);
}

/// Moves messages both ways.
async fn mesh(shard: Rc<Shard>, mut down: Receiver<Down>) {
    loop {
        shard.bell.wait(|| down.has_batch() || shard.uplink.borrow().is_due() || shard.stop_is_news()).await;
        if shard.stop_is_news() {
            shard.tell_stop();
        }
        shard.uplink.borrow_mut().turn();
        if let Some(mut batch) = down.receive() {
            let mut done = 0;
            while shard.write_some(&mut batch, &mut done) {
                executor::turn().await;
                shard.uplink.borrow_mut().turn();
            }
            down.give_back(batch);
        }
    }
}

/// Ends what takes too long; returns when the shard has drained.
async fn sweep(shard: &Rc<Shard>) {
    let limits = &shard.limits;
    let shortest = limits.stall_timeout.min(limits.first_message_timeout).min(limits.message_timeout);
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
    /// Takes in an accepted connection, for which the budget of connections was asked.
    pub(super) fn admit(self: &Rc<Self>, socket: OwnedFd, peer: SocketAddr) {
        let slot = {
            let mut table = self.table.borrow_mut();
            let slot = table.reserve();
            table.put(slot, Box::new(Connection::new(slot, sys::adopt(socket), peer, self)));
            slot
        };
        count(&self.counters.accepted);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        self.uplink.borrow_mut().opened(slot, peer.ip());
        tracing::debug!(%peer, shard = self.index, "connected");
        glommio::spawn_local(converse(self.clone(), slot)).detach();
    }

    /// Writes messages of a batch from number `done` on; whether there are more, the time being up.
    fn write_some(&self, batch: &mut Batch<Down>, done: &mut usize) -> bool {
        let start = Instant::now();
        let Batch { bytes, entries } = batch;
        loop {
            let mut table = self.table.borrow_mut();
            for down in entries.iter_mut().skip(*done).take(WRITES_PER_LOOK) {
                *done += 1;
                let Some(connection) = table.get(down.slot) else { continue };
                match &down.order {
                    Order::Write(kind, range) => {
                        let message = bytes.get(range.clone()).expect("the coordinator committed this range");
                        down.unfinished = !connection.deliver(*kind, message, self);
                    }
                    Order::Close(CloseReason::TakenOver) => connection.close(Cause::TakenOver),
                }
            }
            drop(table);
            if *done >= entries.len() {
                return false;
            }
            if start.elapsed() >= TURN {
                return true;
            }
        }
    }

    /// Drops what is overdue among some slots; whether there are more.
    fn sweep_some(&self, now: Time, from: &mut usize) -> bool {
        let mut overdue = Vec::new();
        {
            let table = self.table.borrow();
            for row in table.rows.iter().skip(*from).take(SWEEP_CHUNK) {
                let Some(connection) = row.connection.as_deref() else { continue };
                if let Some(cause) = connection.overdue(now, &self.limits) {
                    overdue.push((connection.slot(), cause));
                }
            }
            *from += SWEEP_CHUNK;
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
        self.uplink.borrow_mut().closed(slot);
        self.shared.connections.give(1);
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(counter) = self.counters.closed.get(cause as usize) {
            count(counter);
        }
        match cause {
            Cause::PeerClosed | Cause::Failed | Cause::Draining => {
                tracing::debug!(peer = %connection.peer, shard = self.index, "disconnected: {}", cause.text());
            }
            // Told when it was seen.
            Cause::Framing | Cause::NoReply => {}
            _ => self.note(cause, connection.peer, None),
        }
        // The task ends itself when it finds its connection gone.
        connection.wake();
        self.stopped.ring();
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

    fn stop_is_news(&self) -> bool {
        self.stop_by.get().is_none() && self.shared.draining.load(Ordering::Relaxed)
    }

    fn tell_stop(&self) {
        self.stop_by.set(Some(self.shared.clock.now() + DRAIN));
        self.accepting.take();
        self.stopped.ring();
        for row in &self.table.borrow().rows {
            if let Some(connection) = &row.connection {
                connection.wake();
            }
        }
    }
}

/// A connection's task. A panic in it ends this connection alone.
async fn converse(shard: Rc<Shard>, slot: Slot) {
    loop {
        let step = std::future::poll_fn(|cx| {
            catch_unwind(AssertUnwindSafe(|| match shard.table.borrow_mut().get(slot) {
                Some(connection) => connection.step(cx, &shard).map(Some),
                None => Poll::Ready(None),
            }))
            .unwrap_or(Poll::Ready(Some(Step::Ended(Cause::Panicked))))
        })
        .await;
        match step {
            Some(Step::Again) => executor::turn().await,
            Some(Step::Ended(cause)) => return shard.end(slot, cause),
            None => return,
        }
    }
}

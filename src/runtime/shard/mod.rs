//! A shard: one executor that owns its listeners, its connections from accept to close, and the checks of its members.
//!
//! Tasks: one owns the listeners and the connections, and moves everything between sockets and mesh; one runs the
//! checks; and the main one asks for looks at timeouts and ends the shard when all connections have ended.
//!
//! Each module names only the modules that its row lists. The table has one owner and no cell around it, so nothing can
//! reach a table that is in use.
//!
//! | module | what it owns | may know |
//! | --- | --- | --- |
//! | `cause` | why a connection ended | |
//! | `backlog` | the bytes that a connection has yet to write | |
//! | `bodies` | which bodies connections have yet to write | |
//! | `wire` | the bytes of one connection, read and written | |
//! | `handshakes` | how much CPU handshakes get | |
//! | `shared` | what all shards share | |
//! | `shard_metrics` | the metrics of one shard | `cause` |
//! | `context` | what connections and monitoring know of their shard | `bodies`, `cause`, `handshakes`, `shared`, `shard_metrics` |
//! | `listener` | accepting connections | `context` |
//! | `patience` | polling for what mostly comes soon | |
//! | `timeouts` | looks for overdue connections; the end of a shard | `context` |
//! | `metric_names` | names of metrics that no load report has | |
//! | `monitoring` | running the checks | `context`, `metric_names`, `shard_metrics` |
//! | `connection` | one connection, with its handshake | `cause`, `backlog`, `wire`, `context`, `shard_metrics` |
//! | `table` | all connections | `cause`, `wire`, `context`, `connection` |
//! | `leaving` | the end of a shard whose work another process has taken over | `context`, `table` |
//! | `shard` | this file: start, tasks, end | `cause`, `shared`, `shard_metrics`, `context`, `listener`, `patience`, `timeouts`, `monitoring`, `connection`, `table`, `leaving` |

mod backlog;
mod bodies;
mod cause;
mod connection;
mod context;
mod handshakes;
mod leaving;
pub(super) mod listener;
mod metric_names;
mod monitoring;
mod patience;
mod shard_metrics;
mod shared;
mod table;
#[cfg(test)]
mod tests;
mod timeouts;
mod wire;

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use rustix::{event::epoll::EventFlags, net::sockopt};

use super::{
    limit::sources::{Rejection, Source},
    machine::{
        executor::{self, Alarm, TIME_SLICE},
        poller::{CHECKS, News, Poller, Readable},
        sys,
    },
    mesh::{Batch, Bell, Down, Order, Receiver, Sender, Slot, Up, Uplink},
};
use crate::{
    config::{Carries, Connections},
    coordinator::CloseReason,
    metrics::Id,
    time::Time,
};
use connection::{Connection, Outgoing};
use context::Context;
use leaving::Leaving;
use listener::{Arrival, Listener};
use monitoring::Monitoring;
use patience::Patience;
use shard_metrics::since_stamp;
use table::{Table, token};
use timeouts::watch_timeouts;

use cause::Cause;
pub(super) use leaving::LONGEST as LEAVING;
#[cfg(feature = "admin")]
pub(super) use monitoring::TableQuestion;
pub(super) use monitoring::{BacklogQuestion, MonitoringControl, MonitoringSetup};
pub(super) use shard_metrics::{ShardMetrics, stamp};
#[cfg(all(test, feature = "admin"))]
pub(super) use shared::LIMITS;
pub(super) use shared::Shared;

/// The shortest sleep: connections whose time is a moment later are woken with those of that moment.
const CONNECTION_SLEEP_MIN: Duration = Duration::from_micros(500);

/// For so long after the last work, the shard sleeps in its own epoll set: more work is near, and glommio's sleep and wake
/// cost several times as much.
const NEAR: Duration = Duration::from_millis(1);

/// The longest time between turns of glommio's other tasks, whose timers may be so late. The task that runs the checks has
/// a turn when it is due.
const TURN_MAX: Duration = Duration::from_millis(5);

/// Writes, steps or new connections between looks at the clock.
const WORK_PER_LOOK: usize = 16;

/// The parts from which a shard is made.
pub(super) struct ShardSetup {
    pub(super) index: u16,
    /// The number of shards.
    pub(super) shards: u16,
    pub(super) limits: Connections,
    /// The epoll set watches them.
    pub(super) listeners: Vec<Listener>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) bell: Arc<Bell>,
    pub(super) poller: Poller,
    /// How long to poll before a sleep.
    pub(super) spin: Duration,
    /// The coordinator has another CPU, so that it can answer while the shard polls.
    pub(super) apart: bool,
    pub(super) up: Sender<(Slot, Up)>,
    pub(super) down: Receiver<Down>,
    pub(super) monitoring: MonitoringSetup,
}

/// A shard's connections, with all that serves them.
struct Shard {
    context: Rc<Context>,
    table: Table,
    poller: Poller,
    monitoring: Rc<Monitoring>,
    listeners: Vec<Listener>,
    /// The time and the next row of the look for overdue connections, while there is one.
    sweep: Option<(Time, usize)>,
    /// Another process has taken over.
    leaving: Option<Leaving>,
}

impl Shard {
    fn new(context: Rc<Context>, poller: Poller, listeners: Vec<Listener>, monitoring: Rc<Monitoring>) -> Shard {
        Shard { context, table: Table::default(), poller, listeners, monitoring, sweep: None, leaving: None }
    }
}

/// Runs a shard until all its connections have ended after the server's stop.
pub(super) async fn run(setup: ShardSetup, ready: impl FnOnce()) {
    let uplink = Uplink::new(setup.up, setup.bell.clone());
    let number = (setup.index, setup.shards);
    let context = Rc::new(Context::new(number, setup.limits, setup.shared, setup.metrics, uplink, setup.bell));
    let (monitoring, prober) = Monitoring::new(setup.monitoring);
    let monitoring = Rc::new(monitoring);
    let shard = Shard::new(context.clone(), setup.poller, setup.listeners, monitoring.clone());
    if let Err(error) = shard.poller.add(&prober, CHECKS, EventFlags::IN | EventFlags::ET) {
        tracing::warn!(shard = setup.index, "checks may be {TURN_MAX:?} late: {error}");
    }
    for listener in &shard.listeners {
        if let Err(error) = listener.listen() {
            tracing::error!(shard = setup.index, "a listening socket does not listen: {error}");
        }
    }
    let serve = glommio::spawn_local(serve(shard, setup.down, setup.spin, setup.apart));
    let checks = glommio::spawn_local(monitoring::run(context.clone(), monitoring, prober));
    ready();
    watch_timeouts(&context).await;
    drop((serve, checks));
}

/// Moves everything between sockets and mesh. One task does all of it, so that a request is with the coordinator, and
/// the reply with its socket, without a turn of the reactor in between.
async fn serve(mut shard: Shard, mut down: Receiver<Down>, spin: Duration, apart: bool) {
    let context = shard.context.clone();
    // A batch that is being written, and the number of its messages that are written.
    let mut open = None;
    let mut news = None;
    let mut turned = context.now();
    let mut idle_since = None;
    let mut alarm = Alarm::default();
    let mut quiet_until = Time::default();
    let mut patience = Patience::default();
    loop {
        context.metrics.rounds[shard_metrics::SERVING].add(1);
        if context.stop_is_news() {
            shard.stop();
        }
        shard.wake_waiting();
        let mut busy = shard.collect();
        busy |= shard.accept_some();
        busy |= shard.step_some();
        busy |= shard.step_handshakes();
        busy |= shard.sweep_some();
        busy |= shard.leave_some();
        shard.answer_one();
        shard.turn_uplink();
        if let Some((mut batch, mut done)) = open.take().or_else(|| down.receive().map(|batch| (batch, 0))) {
            busy = true;
            match shard.write_some(&mut batch, &mut done) {
                true => open = Some((batch, done)),
                false => down.give_back(batch),
            }
        }
        busy |= context.has_runnable();
        let now = context.now();
        if busy {
            idle_since = None;
        }
        let idle = now.since(*idle_since.get_or_insert(now));
        if busy || idle < spin.max(NEAR) {
            let since = now.since(turned);
            if since >= TURN_MAX || now >= context.checks_due() && (!busy || since >= TIME_SLICE) {
                context.set_checks_due(now + TIME_SLICE);
                executor::turn().await;
                turned = context.now();
            } else if !busy && idle >= spin {
                let answered = context.uplink.borrow_mut().take_asked() && apart && patience.poll(|| down.has_batch());
                if !answered {
                    shard.doze(&down, (TURN_MAX - since).min(NEAR).min(context.checks_due().since(now)));
                }
            }
            continue;
        }
        context.uplink.borrow().before_sleep();
        if news.is_none() {
            match Readable::new(&shard.poller) {
                Ok(readable) => news = Some(readable),
                // Out of file descriptors, for a moment: connections that end give theirs back.
                Err(error) => {
                    let now = context.now();
                    if now >= quiet_until {
                        quiet_until = now + listener::TROUBLE_LOG_INTERVAL;
                        tracing::warn!(shard = context.index, "can not wait for connections, trying again: {error}");
                    }
                    executor::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            }
        }
        if let Some(at) = shard.next_time() {
            let now = context.now();
            alarm.set(now, at.max(now + CONNECTION_SLEEP_MIN));
        }
        std::future::poll_fn(|cx| {
            let told = news.as_mut().is_none_or(|news| Pin::new(news).poll(cx).is_ready());
            if told {
                news = None;
            }
            let rung = context
                .bell
                .poll(cx, || down.has_batch() || context.has_work() || shard.monitoring.has_backlog_questions())
                .is_ready();
            if alarm.poll(cx).is_ready() || rung || told { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        turned = context.now();
        idle_since = None;
    }
}

/// Takes news of a socket.
fn hear(context: &Context, table: &mut Table, listeners: &mut [Listener], token: u64, events: EventFlags) {
    if token == CHECKS {
        context.set_checks_due(context.now());
    } else if let Some(listener) = Listener::index(token).and_then(|index| listeners.get_mut(index)) {
        listener.hear();
    } else {
        table.hear(context, token, events);
    }
}

impl Shard {
    /// Accepts some connections; whether more can be accepted now.
    fn accept_some(&mut self) -> bool {
        if self.context.holds() {
            return false;
        }
        for at in 0..self.listeners.len() {
            // A flood of new connections must not hold up the open ones, some of which want to end.
            for _ in 0..WORK_PER_LOOK {
                let room = self.context.uplink.borrow().has_room();
                let Some(listener) = self.listeners.get_mut(at).filter(|_| room) else { break };
                let Some(arrival) = listener.accept(&self.context) else { break };
                self.admit(arrival);
            }
        }
        self.context.uplink.borrow().has_room() && self.listeners.iter().any(|listener| listener.is_due(&self.context))
    }

    /// Takes an accepted connection into the table, unless its source has too many.
    fn admit(&mut self, Arrival { socket, peer, carries }: Arrival) {
        let Shard { context, table, poller, .. } = self;
        context.count(Id::ConnectionsAccepted);
        let (source, now) = (Source::from(peer.ip()), context.now());
        if let Err(rejection) = context.shared.sources.open(source, now) {
            context.shared.connections.give(1);
            let cause = match rejection {
                Rejection::TooMany => Cause::SourceConnections,
                Rejection::TooFast => Cause::SourceRate,
            };
            // Closed with a reset, which costs no further packet and leaves nothing behind here.
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
            context.count_end(cause);
            context.log_closed(cause, peer, None);
            return;
        }
        let slot = table.reserve();
        if let Err(error) = poller.add(&socket, token(slot), News::INTEREST) {
            // The kernel's limit of watched descriptors, or of memory.
            table.release(slot);
            context.shared.sources.close(source, now);
            context.shared.connections.give(1);
            tracing::warn!(%peer, shard = context.index, "can not take in a connection: {error}");
            return;
        }
        let mut connection = Connection::new(slot, peer, carries, context);
        if carries == Carries::Plain {
            connection.open(context, None);
        }
        table.put(slot, socket, connection);
        context.count(Id::ConnectionsOpen);
        tracing::debug!(%peer, shard = context.index, "connected");
    }

    /// Answers a question about connections, if there is one.
    fn answer_one(&mut self) {
        let Some(BacklogQuestion { slots, answer }) = self.monitoring.next_backlog_question() else { return };
        let waiting = slots.into_iter().map(|slot| self.table.with(slot, |connection, _| connection.waiting_bytes()));
        answer(waiting.collect());
    }

    /// Wakes connections and handshakes whose time has come.
    fn wake_waiting(&mut self) {
        let Shard { context, table, .. } = self;
        if context.next_time().is_none() {
            return;
        }
        let now = context.now();
        context.handshakes.borrow_mut().resume(now);
        while let Some(slot) = context.next_rate_limited(now) {
            table.with(slot, |connection, _| connection.wake(context));
        }
    }

    /// Takes back batches, sends what the shard has for the coordinator, and wakes connections that wait for room.
    fn turn_uplink(&mut self) {
        let Shard { context, table, monitoring, .. } = self;
        context.uplink.borrow_mut().turn();
        for slot in context.take_waiting_for_room() {
            table.with(slot, |connection, _| connection.room(context));
        }
        monitoring.room();
    }

    /// Takes news of sockets; whether there may be more.
    fn collect(&mut self) -> bool {
        let Shard { context, table, poller, listeners, .. } = self;
        poller.collect(|token, events| hear(context, table, listeners, token, events))
    }

    /// When a connection, a handshake or a listener that waits for a time may go on.
    fn next_time(&self) -> Option<Time> {
        let listeners = self.listeners.iter().filter(|_| !self.context.holds()).filter_map(Listener::next_time);
        let leaving = self.leaving.as_ref().and_then(Leaving::next_time);
        listeners.chain(leaving).chain(self.context.next_time()).min()
    }

    /// Sleeps until there is news of sockets, or the bell rings, or for so long.
    fn doze(&mut self, down: &Receiver<Down>, longest: Duration) {
        let next_time = self.next_time();
        let Shard { context, table, poller, listeners, monitoring, .. } = self;
        let now = context.now();
        let until_next = next_time.map_or(longest, |at| at.since(now).max(CONNECTION_SLEEP_MIN));
        context.uplink.borrow().before_sleep();
        let work = || down.has_batch() || context.has_work() || monitoring.has_backlog_questions();
        if context.bell.poll(&mut std::task::Context::from_waker(poller.waker()), work).is_pending() {
            poller.wait(longest.min(until_next), |token, events| hear(context, table, listeners, token, events));
            context.bell.awake();
        }
    }

    /// Lets connections take steps until time is up; whether there are more.
    fn step_some(&mut self) -> bool {
        if !self.context.has_runnable() {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..WORK_PER_LOOK {
                let Some(slot) = self.context.next_runnable() else { return false };
                self.table.step(&self.context, slot);
            }
            if start.elapsed() >= TIME_SLICE / 2 {
                return self.context.has_runnable();
            }
        }
    }

    /// Lets one handshake begin and one take a step, because handshakes cost much CPU. Whether there are more.
    fn step_handshakes(&mut self) -> bool {
        let Shard { context, table, .. } = self;
        let may = |source| context.shared.sources.take_handshake(source, context.now());
        let begin = context.handshakes.borrow_mut().begin(may);
        if let Some(slot) = begin {
            table.guarded(context, slot, |connection, _| connection.begin_handshake(context));
        }
        let next = context.handshakes.borrow_mut().next();
        if let Some(slot) = next {
            table.step(context, slot);
        }
        context.handshakes.borrow().is_due()
    }

    /// Ends some overdue connections, if a look at timeouts was asked for; whether the look goes on.
    fn sweep_some(&mut self) -> bool {
        let Some((now, mut from)) = self.sweep.take().or_else(|| self.context.take_sweep().map(|now| (now, 0))) else {
            return false;
        };
        let more = self.table.sweep_some(&self.context, now, &mut from);
        self.sweep = more.then_some((now, from));
        more
    }

    /// Writes messages of a batch from number `done` on; whether there are more, the time being up.
    fn write_some(&mut self, batch: &mut Batch<Down>, done: &mut usize) -> bool {
        let Shard { context, table, monitoring, .. } = self;
        let start = Instant::now();
        let Batch { bytes, bodies, entries } = batch;
        let bytes_of = |head: &Range<u32>| bytes.get(head.start as usize..head.end as usize);
        loop {
            // The clock is read once for some messages.
            let (mut changed, mut pushes) = ([0; WORK_PER_LOOK], 0);
            for at in *done..entries.len().min(*done + WORK_PER_LOOK) {
                *done += 1;
                // Another CPU wrote the next message. Its bytes come over while the kernel sends this message.
                if let Some(Down { order: Order::Write { head, .. }, .. }) = entries.get(at + 1) {
                    sys::prefetch(bytes_of(head).unwrap_or_default());
                }
                let Some(down) = entries.get_mut(at) else { break };
                match &down.order {
                    Order::Write { kind, head, body, changed_at } => {
                        if *changed_at != 0
                            && let Some(place) = changed.get_mut(pushes)
                        {
                            *place = *changed_at;
                            pushes += 1;
                        }
                        let head = bytes_of(head).expect("the coordinator committed this range");
                        let body = body.and_then(|body| bodies.get(usize::from(body)));
                        let message = Outgoing { head, body };
                        // Written only if need be: the coordinator's CPU has this cache line too.
                        if !table.write(context, down.slot, *kind, message) {
                            down.unfinished = true;
                        }
                    }
                    Order::Close(reason) => {
                        let cause = match reason {
                            CloseReason::TakenOver => Cause::TakenOver,
                            CloseReason::NotPermitted => Cause::NotPermitted,
                            CloseReason::Operator => Cause::Operator,
                            CloseReason::NotKept => Cause::NotKept,
                        };
                        table.guarded(context, down.slot, |connection, _| connection.close(cause, context));
                    }
                    Order::Watch(order) => {
                        monitoring.order(context.now(), order);
                        context.set_checks_due(context.now());
                    }
                }
            }
            if pushes > 0 {
                let now = context.now();
                let delays = changed.iter().take(pushes).map(|changed_at| since_stamp(now, *changed_at));
                delays.for_each(|delay| context.metrics.push_delay.add(delay));
            }
            if *done >= entries.len() {
                return false;
            }
            if start.elapsed() >= TIME_SLICE / 2 {
                return true;
            }
        }
    }

    /// Begins the stop: no listener accepts any more, and connections end as soon as they owe nothing, or one after
    /// another if their load balancers find another process at once.
    fn stop(&mut self) {
        for listener in self.listeners.drain(..) {
            listener.close(&self.poller);
        }
        self.monitoring.stop();
        if self.context.is_over() {
            let leaving = Leaving::new(&self.context, &self.table);
            self.context.begin_stop(leaving.spread());
            self.leaving = Some(leaving);
        } else {
            self.context.begin_stop(Duration::ZERO);
            self.table.stop(&self.context);
        }
    }

    /// Lets some connections end whose turn has come; whether there are more.
    fn leave_some(&mut self) -> bool {
        self.leaving.as_mut().is_some_and(|leaving| leaving.some(&self.context, &mut self.table))
    }
}

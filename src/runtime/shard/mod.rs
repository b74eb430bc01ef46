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
//! | `serving` | the work of a round, in bounded pieces | `cause`, `shard_metrics`, `context`, `listener`, `monitoring`, `connection`, `table`, `leaving` |
//! | `shard` | this file: start, tasks, end | `shared`, `shard_metrics`, `context`, `listener`, `patience`, `timeouts`, `monitoring`, `leaving`, `serving` |

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
mod serving;
mod shard_metrics;
mod shared;
mod table;
#[cfg(test)]
mod tests;
mod timeouts;
mod wire;

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use rustix::event::epoll::EventFlags;

use super::{
    machine::{
        executor::{self, Alarm, TIME_SLICE},
        poller::{CHECKS, Poller, Readable},
    },
    mesh::{Bell, Down, Receiver, Sender, Slot, Up, Uplink},
};
use crate::{config::Connections, time::Time};
use context::Context;
use listener::Listener;
use monitoring::Monitoring;
use patience::Patience;
use serving::{CONNECTION_SLEEP_MIN, Shard};
use timeouts::watch_timeouts;

pub(super) use leaving::LONGEST as LEAVING;
#[cfg(feature = "admin")]
pub(super) use monitoring::{BacklogQuestion, TableQuestion};
pub(super) use monitoring::{MonitoringControl, MonitoringSetup};
pub(super) use shard_metrics::{ShardMetrics, stamp};
#[cfg(all(test, feature = "admin"))]
pub(super) use shared::LIMITS;
pub(super) use shared::Shared;

/// For so long after the last work, the shard sleeps in its own epoll set: more work is near, and glommio's sleep and wake
/// cost several times as much.
const NEAR: Duration = Duration::from_millis(1);

/// The longest time between turns of glommio's other tasks, whose timers may be so late. The task that runs the checks has
/// a turn when it is due.
const TURN_MAX: Duration = Duration::from_millis(5);

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

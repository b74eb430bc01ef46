//! What the admin side asks, and whom: the coordinator and the shards by queues, the counters directly.

use std::{
    ops::ControlFlow,
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::{sync::oneshot, time};

use super::streams::Streams;
use crate::{
    admin::{Calendar, Checks, pages::Setting, rows::ChecksPage, why::CheckJson},
    config::Admin,
    coordinator::{Answer, Ask, ConnectionId, Cursor, Settings},
    judgement::WatchId,
    limits,
    metrics::Reading,
    monitor::table::Factors,
    runtime::{
        coordinator_thread::{AdminCall, CoordinatorControl},
        daemon::{Event, Metrics},
        machine::clock::Clock,
        mesh::{Bell, Slot},
        shard::{BacklogQuestion, MonitoringControl, Shared, TableQuestion},
    },
    time::Time,
    web::{Gate, Problem},
};

/// How long a thread may take to show that it is alive.
const ALIVE: Duration = Duration::from_secs(3);

/// The pause after which a full queue is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// How many endpoints of a shard's table one question looks at.
const ENDPOINTS_PER_QUESTION: usize = 1024;

/// The parts from which a [`Daemon`] is made.
pub(in crate::runtime) struct Parts {
    pub(in crate::runtime) control: Arc<CoordinatorControl>,
    pub(in crate::runtime) monitoring: Vec<Arc<MonitoringControl>>,
    pub(in crate::runtime) bells: Vec<Arc<Bell>>,
    pub(in crate::runtime) metrics: Arc<Metrics>,
    pub(in crate::runtime) shared: Arc<Shared>,
    pub(in crate::runtime) calendar: Calendar,
    /// The coordinator's settings at the start: limits only.
    pub(in crate::runtime) settings: Settings,
    pub(in crate::runtime) max_probes: u32,
    /// The flags, for people.
    pub(in crate::runtime) flags: Vec<Setting>,
    pub(in crate::runtime) warnings: Vec<String>,
    pub(in crate::runtime) metrics_members: u32,
    /// The fleet that this node belongs to.
    #[cfg(feature = "fleet")]
    pub(in crate::runtime) fleet: Option<crate::config::Fleet>,
    /// Tells the main thread to read files again.
    pub(in crate::runtime) events: mpsc::Sender<Event>,
    pub(in crate::runtime) gate: Gate,
}

/// The daemon as the admin side sees it.
pub(in crate::runtime) struct Daemon {
    pub(super) parts: Parts,
    pub(super) clock: Clock,
    /// How long an answer may take.
    pub(super) patience: Duration,
    /// Distinguishes the events of this process from those of others.
    pub(super) id: u64,
    pub(super) streams: Streams,
}

impl Daemon {
    pub(in crate::runtime) fn new(parts: Parts) -> Daemon {
        let started = parts.calendar.zero.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Daemon {
            clock: parts.shared.clock,
            patience: limits::ADMIN_WAIT,
            id: started.as_nanos() as u64 ^ u64::from(std::process::id()) << 40,
            streams: Streams::default(),
            parts,
        }
    }

    /// Reads the TLS files and the token again.
    pub(in crate::runtime) fn reload(&self, by: &str, admin: &mut Admin) {
        self.parts.gate.reload(by, admin);
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Asks the coordinator.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, Problem> {
        let asked = async { self.put(ask).await?.await.map_err(|_| Problem::busy()) };
        time::timeout(self.patience, asked).await.map_err(|_| Problem::busy())?
    }

    /// Puts a question into the coordinator's queue, and gives what gets the answer. After an error, the coordinator
    /// never sees the question.
    pub(super) async fn put(&self, ask: Ask) -> Result<oneshot::Receiver<Answer>, Problem> {
        let (send, answer) = oneshot::channel();
        let mut call = AdminCall { ask, answer: Box::new(move |answer| drop(send.send(answer))) };
        let put = async {
            while let Err(back) = self.parts.control.calls.push(call) {
                call = back;
                time::sleep(RETRY).await;
            }
        };
        time::timeout(self.patience, put).await.map_err(|_| Problem::busy())?;
        self.parts.control.bell.ring();
        Ok(answer)
    }

    /// Asks a shard about its weight table.
    async fn ask_table<T: Send + 'static>(
        &self,
        shard: u16,
        question: impl Fn(Time, &crate::monitor::Table) -> T + Send + Sync + Clone + 'static,
    ) -> Option<T> {
        let control = self.parts.monitoring.get(usize::from(shard))?;
        let asked = async {
            loop {
                let (send, answer) = oneshot::channel();
                let question = question.clone();
                let asked: TableQuestion = Box::new(move |now, table| drop(send.send(question(now, table))));
                if control.ask(asked) {
                    return answer.await.ok();
                }
                time::sleep(RETRY).await;
            }
        };
        time::timeout(limits::ADMIN_WAIT, asked).await.ok().flatten()
    }

    /// The factors of the weight of a watched endpoint.
    pub(super) async fn factors(&self, watch: Option<(WatchId, u16)>) -> Option<Factors> {
        let (watch, shard) = watch?;
        self.ask_table(shard, move |now, table| table.factors(now, watch)).await.flatten()
    }

    /// How many bytes wait for the peers of these connections.
    pub(super) async fn bytes_waiting(&self, connections: &[Option<ConnectionId>]) -> Vec<Option<u64>> {
        let mut waiting = vec![None; connections.len()];
        for (shard, control) in (0u16..).zip(&self.parts.monitoring) {
            let here = connections.iter().enumerate().filter_map(|(at, connection)| Some((at, (*connection)?)));
            let here: Vec<_> = here.filter(|(_, connection)| connection.shard == shard).collect();
            if here.is_empty() {
                continue;
            }
            let slots = here.iter().map(|(_, id)| Slot { index: id.slot, generation: id.generation }).collect();
            let (send, answer) = oneshot::channel();
            let question = BacklogQuestion { slots, answer: Box::new(move |answer| drop(send.send(answer))) };
            if !control.ask_backlog(question) {
                continue;
            }
            if let Some(bell) = self.parts.bells.get(usize::from(shard)) {
                bell.ring();
            }
            let answer = time::timeout(limits::ADMIN_WAIT, answer).await.ok().and_then(Result::ok).unwrap_or_default();
            for ((at, _), bytes) in here.iter().zip(answer) {
                waiting[*at] = bytes;
            }
        }
        waiting
    }

    /// A page of checks, shard by shard.
    pub(super) async fn checks(&self, wanted: Checks) -> Result<ChecksPage, Problem> {
        let (mut rows, mut next) = (Vec::new(), None);
        let Cursor(mut shard, mut place) = wanted.page.after;
        let shards = self.parts.monitoring.len() as u64;
        let wanted = Arc::new(wanted);
        // A page asks each shard once at most, so that it ends soon though few checks match.
        while shard < shards {
            let left = wanted.page.limit.saturating_sub(rows.len());
            if left == 0 {
                next = Some(Cursor(shard, place));
                break;
            }
            let (wanted, from) = (wanted.clone(), place as usize);
            let question = move |_: Time, table: &crate::monitor::Table| {
                let mut found = Vec::new();
                let more = table.each_check(from, ENDPOINTS_PER_QUESTION, |endpoint, checks| {
                    if wanted.filter.fits(endpoint) {
                        found.extend(checks.filter(|check| wanted.state.is_none_or(|state| state == check.state)));
                    }
                    if found.len() >= left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                (found, more)
            };
            let number = shard as u16;
            let (found, more) = self.ask_table(number, question).await.ok_or_else(Problem::busy)?;
            rows.extend(found.iter().map(|row| CheckJson::new(row, number, &self.parts.calendar)));
            match more {
                Some(more) => {
                    next = Some(Cursor(shard, more as u64));
                    break;
                }
                None => (shard, place) = (shard + 1, 0),
            }
        }
        Ok(ChecksPage { checks: rows, next: next.map(crate::admin::request::cursor_text) })
    }

    /// Whether every thread answers.
    pub(super) async fn is_alive(&self) -> bool {
        let all = async {
            let mut alive = self.ask(Ask::Events(u64::MAX, 0)).await.is_ok();
            for shard in 0..self.parts.monitoring.len() as u16 {
                alive &= self.ask_table(shard, |_, _| ()).await.is_some();
            }
            alive
        };
        time::timeout(ALIVE, all).await.unwrap_or(false)
    }

    /// All metrics.
    pub(super) fn reading(&self) -> Reading {
        self.parts.metrics.read()
    }
}

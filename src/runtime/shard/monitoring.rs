//! A shard's monitoring: one task owns the sockets of the checks, starts the checks that the weight table finds due,
//! tells the table how checks end, and sends the table's changes to the coordinator.
//!
//! Watch orders of the coordinator go straight to the table. While the uplink has no room, changes stay in the table,
//! one for each endpoint; later the newest is sent.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;

use super::{
    context::Context,
    metric_names::MetricNames,
    shard_metrics::{CHECKING, kind_of},
};
use crate::{
    coordinator::WatchOrder,
    judgement::Judgement,
    limits,
    metrics::Id,
    monitor::{MonitorSettings, Outcome, Reason, Table, Token, outcome::Load},
    roster::{Check, Roster},
    runtime::{
        machine::{
            executor::{self, Alarm, HEARTBEAT, TIME_SLICE},
            poller::Readable,
        },
        mesh::{Bell, Slot},
        probe::Prober,
    },
    sasp::Endpoint,
    throttle::Throttle,
    time::Time,
};

/// Judgements in one entry of a batch.
const JUDGEMENTS: usize = 64;

/// Checks started between looks at the clock: each takes some system calls.
const STARTS_PER_LOOK: usize = 4;

/// The shortest sleep: a check that is due a moment later is started together with the checks of that moment.
const CHECK_SLEEP_MIN: Duration = Duration::from_micros(500);

/// How long all checks must give a result before one without a result is logged again.
const BLIND_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What the main thread tells a shard's monitoring.
pub(crate) struct MonitoringControl {
    roster: ArrayQueue<Arc<Roster>>,
    /// Questions about the weight table.
    questions: ArrayQueue<TableQuestion>,
    /// Questions about connections, for the task that serves them.
    backlog_questions: ArrayQueue<BacklogQuestion>,
    bell: Bell,
}

/// A question about the weight table; it takes a bounded time.
pub(crate) type TableQuestion = Box<dyn FnOnce(Time, &Table) + Send>;

/// How many bytes wait for the peers of these connections.
pub(crate) struct BacklogQuestion {
    pub(crate) slots: Vec<Slot>,
    pub(crate) answer: Box<dyn FnOnce(Vec<Option<u64>>) + Send>,
}

impl Default for MonitoringControl {
    fn default() -> MonitoringControl {
        MonitoringControl {
            roster: ArrayQueue::new(1),
            questions: ArrayQueue::new(limits::ADMIN_CALLS),
            backlog_questions: ArrayQueue::new(limits::ADMIN_CALLS),
            bell: Bell::default(),
        }
    }
}

impl MonitoringControl {
    /// Puts a new roster in force.
    pub(crate) fn reload(&self, roster: Arc<Roster>) {
        self.roster.force_push(roster);
        self.bell.ring();
    }

    /// Asks about the weight table; false if too many questions wait.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(crate) fn ask(&self, question: TableQuestion) -> bool {
        let taken = self.questions.push(question).is_ok();
        self.bell.ring();
        taken
    }

    /// Asks about connections; false if too many questions wait. The caller rings the shard's bell.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(crate) fn ask_backlog(&self, question: BacklogQuestion) -> bool {
        self.backlog_questions.push(question).is_ok()
    }
}

/// The parts from which a shard's monitoring is made.
pub(crate) struct MonitoringSetup {
    pub(crate) control: Arc<MonitoringControl>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) settings: MonitorSettings,
    /// Spreads the checks over their intervals.
    pub(crate) seed: u64,
    pub(crate) prober: Prober<Begun>,
}

/// A check that runs: the name of the run, its start, and the kind of the check.
pub(crate) struct Begun {
    token: Token,
    at: Time,
    kind: u8,
}

/// The weight table, and how the shard's other tasks wake the task that checks.
pub(super) struct Monitoring {
    control: Arc<MonitoringControl>,
    table: RefCell<Table>,
    /// The table has changed since the task looked at it.
    news: Cell<bool>,
    /// The table has changes for which the uplink had no room.
    unsent: Cell<bool>,
}

impl Monitoring {
    pub(super) fn new(setup: MonitoringSetup) -> (Monitoring, Prober<Begun>) {
        let table = RefCell::new(Table::new(setup.roster, setup.settings, setup.seed));
        let (news, unsent) = (Cell::default(), Cell::default());
        (Monitoring { control: setup.control, table, news, unsent }, setup.prober)
    }

    /// Carries out an order of the coordinator.
    pub(super) fn order(&self, now: Time, order: &WatchOrder) {
        let mut table = self.table.borrow_mut();
        match order.endpoint {
            Some(endpoint) => table.watch(now, order.watch, endpoint, order.earlier),
            None => table.unwatch(order.watch),
        }
        if !self.news.replace(true) {
            self.control.bell.ring();
        }
    }

    /// The uplink may have room.
    pub(super) fn room(&self) {
        if self.unsent.get() {
            self.control.bell.ring();
        }
    }

    /// The next question about connections.
    pub(super) fn next_backlog_question(&self) -> Option<BacklogQuestion> {
        self.control.backlog_questions.pop()
    }

    /// Whether there are questions about connections.
    pub(super) fn has_backlog_questions(&self) -> bool {
        !self.control.backlog_questions.is_empty()
    }

    /// The shard stops.
    pub(super) fn stop(&self) {
        self.control.bell.ring();
    }
}

/// Runs a shard's checks until the shard stops; checks that run then are dropped.
pub(super) async fn run(context: Rc<Context>, monitoring: Rc<Monitoring>, mut prober: Prober<Begun>) {
    let mut results = Results {
        context: context.clone(),
        blind: None,
        fault_lines: Throttle::default(),
        metric_names: MetricNames::default(),
        vain_lines: Throttle::default(),
    };
    let mut alarm = Alarm::default();
    let mut readable: Option<Readable> = None;
    loop {
        context.metrics.rounds[CHECKING].add(1);
        if context.is_stopping() {
            return;
        }
        if work_some(&context, &monitoring, &mut prober, &mut results) {
            context.set_checks_due(context.now());
            executor::turn().await;
            continue;
        }
        if readable.is_none() {
            // Without a file descriptor to wait with, the prober is asked every few milliseconds.
            readable = Readable::new(&prober).ok();
        }
        let now = context.now();
        let blind = (readable.is_none() && prober.under_way() > 0).then(|| now + Duration::from_millis(5));
        let due = monitoring.table.borrow().next_due();
        let until = [due, prober.next_deadline(), blind].into_iter().flatten().min();
        let longest = now + HEARTBEAT;
        let until = until.unwrap_or(longest).clamp(now + CHECK_SLEEP_MIN, longest);
        context.set_checks_due(until);
        alarm.set(now, until);
        std::future::poll_fn(|cx| {
            let work = || {
                monitoring.news.get()
                    || !monitoring.control.roster.is_empty()
                    || !monitoring.control.questions.is_empty()
                    || monitoring.unsent.get() && context.uplink.borrow().has_room()
                    || context.is_stopping()
            };
            let mut ready = monitoring.control.bell.poll(cx, work).is_ready();
            ready |= alarm.poll(cx).is_ready();
            if readable.as_mut().is_some_and(|readable| Pin::new(readable).poll(cx).is_ready()) {
                readable = None;
                ready = true;
            }
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Does a bounded part of the work; whether there is more.
fn work_some(context: &Context, monitoring: &Monitoring, prober: &mut Prober<Begun>, results: &mut Results) -> bool {
    let start = Instant::now();
    let mut table = monitoring.table.borrow_mut();
    let now = context.now();
    monitoring.news.set(false);
    if let Some(roster) = monitoring.control.roster.pop() {
        table.replan(now, roster);
        results.metric_names.forget();
    }
    if let Some(question) = monitoring.control.questions.pop() {
        question(now, &table);
    }
    let mut more = !monitoring.control.questions.is_empty();
    more |= prober.turn(now, |Begun { token, at, kind }, outcome| {
        if let Some(durations) = context.metrics.check_duration.get(usize::from(kind)) {
            durations.add(context.now().since(at));
        }
        let member = table.endpoint(token);
        results.note(now, member, &outcome);
        if let (Some(check), Outcome::Load(load)) = (table.check(token), &outcome) {
            results.note_metrics(member, check, load);
        }
        if let Outcome::Failed(reason) = outcome
            && tracing::enabled!(tracing::Level::DEBUG)
            && let (Some(member), Some(words)) = (member, table.explain(token, reason))
        {
            tracing::debug!(%member, shard = context.index, "a check failed: {words}");
        }
        // The table schedules the next check before it uses the outcome, so a fault loses one outcome only.
        if catch_unwind(AssertUnwindSafe(|| table.finish(now, token, outcome))).is_err() {
            results.note(now, member, &Outcome::Inconclusive(Reason::Fault));
        }
    });
    while let Some((member, text)) = table.next_vain() {
        results.log_vain(now, member, &text);
    }
    table.poll(now);
    'starts: loop {
        let now = context.now();
        for _ in 0..STARTS_PER_LOOK {
            let Some(job) = table.start(now) else { break 'starts };
            let kind = kind_of(&job.check);
            if let Some(lateness) = context.metrics.check_lateness.get(usize::from(kind)) {
                lateness.add(job.late);
            }
            let begun = Begun { token: job.token, at: now, kind };
            prober.start(begun, &job.endpoint, &job.check, job.proxy_protocol, job.deadline);
        }
        if start.elapsed() >= TIME_SLICE {
            more = true;
            break;
        }
    }
    context.metrics.values.set(Id::ChecksUnderWay, table.totals().under_way as u64);
    let mut uplink = context.uplink.borrow_mut();
    loop {
        let room = uplink.has_room();
        monitoring.unsent.set(!room);
        if !room {
            break;
        }
        let mut judgements: Vec<Judgement> = Vec::new();
        table.changes(JUDGEMENTS, |judgement| judgements.push(judgement));
        if judgements.is_empty() {
            break;
        }
        uplink.judged(judgements.into());
    }
    // Checks that ended at their start, and a replanning that goes on, are due at once.
    more || prober.next_deadline().is_some_and(|at| at <= now) || table.next_due().is_some_and(|at| at <= now)
}

/// Counts and logs how checks end.
struct Results {
    context: Rc<Context>,
    /// The last check without a result, until all checks have given one for [`BLIND_LOG_INTERVAL`].
    blind: Option<Time>,
    /// Limits the lines about faults of gwm itself.
    fault_lines: Throttle,
    metric_names: MetricNames,
    /// Limits the lines about what members say in vain.
    vain_lines: Throttle,
}

impl Results {
    /// Logs names of metrics that the load reports of a check do not have.
    fn note_metrics(&mut self, member: Option<Endpoint>, check: &Check, load: &Load) {
        let Some(names) = self.metric_names.note(check, load) else { return };
        let member = member.map(tracing::field::display);
        tracing::warn!(
            member,
            shard = self.context.index,
            "utilization names {names}, and no load report of this member or the others of its entry has that"
        );
    }

    /// Logs what a member says in vain, and how many such lines were left out before.
    fn log_vain(&mut self, now: Time, member: Endpoint, text: &str) {
        let shard = self.context.index;
        if let Some(lines) = self.vain_lines.take_suppressed(now) {
            tracing::warn!(shard, "{lines} more members say something in vain");
        }
        if self.vain_lines.take_line(now) {
            tracing::warn!(%member, "{text}");
        }
    }

    fn note(&mut self, now: Time, member: Option<Endpoint>, outcome: &Outcome) {
        let shard = self.context.index;
        match outcome {
            Outcome::Inconclusive(Reason::Fault) => {
                self.context.count(Id::ChecksInconclusive);
                if let Some(lines) = self.fault_lines.take_suppressed(now) {
                    tracing::error!(shard, "{lines} more checks gave no result through a fault of gwm itself");
                }
                if self.fault_lines.take_line(now) {
                    let member = member.map(tracing::field::display);
                    tracing::error!(
                        member,
                        shard,
                        "a check gave no result through a fault of gwm itself: please report it"
                    );
                }
            }
            Outcome::Inconclusive(reason) => {
                self.context.count(Id::ChecksInconclusive);
                if self.blind.replace(now).is_none() {
                    tracing::warn!(
                        shard,
                        "checks give no result, because {reason}: members keep contact and are not confident until then"
                    );
                }
            }
            Outcome::Failed(_) => self.context.count(Id::ChecksFailed),
            Outcome::Passed | Outcome::Load(_) | Outcome::UnreadLoad | Outcome::Agent(_) => {
                self.context.count(Id::ChecksPassed);
            }
        }
        if self.blind.is_some_and(|last| now >= last + BLIND_LOG_INTERVAL) {
            self.blind = None;
            tracing::info!(shard, "checks give results again");
        }
    }
}

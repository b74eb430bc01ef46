//! A shard's monitoring: one task that owns the checks' sockets, starts what the weight table finds due, tells it how
//! checks end, and sends the table's changes to the coordinator.
//!
//! The mesh's task brings watch orders straight to the table. While the way up has no room, changes stay in the
//! table, each endpoint once; then the newest is sent.

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

use super::{Shard, counters::count};
use crate::{
    coordinator::{Time, WatchOrder},
    judgement::Judgement,
    monitor::{Outcome, Reason, Settings, Table, Token},
    roster::Roster,
    runtime::{
        limit::throttle::Throttle,
        machine::{
            executor::{self, Alarm, HEARTBEAT, TURN},
            poller::Readable,
        },
        mesh::Bell,
        probe::Prober,
    },
    sasp::Endpoint,
};

/// Judgements that travel as one entry of a batch.
const JUDGEMENTS: usize = 64;

/// Checks started between looks at the clock: each takes some system calls.
const STARTS_PER_LOOK: usize = 4;

/// The shortest sleep: a check that is due a moment later is started with those of that moment.
const SLEEP_MIN: Duration = Duration::from_micros(500);

/// What the main thread tells a shard's monitoring.
#[derive(Default)]
pub(crate) struct Control {
    roster: Reload,
    bell: Bell,
}

struct Reload(ArrayQueue<Arc<Roster>>);

impl Default for Reload {
    fn default() -> Reload {
        Reload(ArrayQueue::new(1))
    }
}

impl Control {
    /// The operator says something else from now on.
    pub(crate) fn reload(&self, roster: Arc<Roster>) {
        self.roster.0.force_push(roster);
        self.bell.ring();
    }
}

/// What a shard's monitoring is made from.
pub(crate) struct Plan {
    pub(crate) control: Arc<Control>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) settings: Settings,
    /// Spreads the checks over their intervals.
    pub(crate) seed: u64,
    pub(crate) prober: Prober<Token>,
}

/// The part that the shard's other tasks see.
pub(crate) struct Monitoring {
    control: Arc<Control>,
    table: RefCell<Table>,
    /// The table has changed since the task looked at it.
    news: Cell<bool>,
    /// The table has changes for which there was no room.
    unsent: Cell<bool>,
    /// When a check last said nothing, since that was logged.
    blind: Cell<Option<Time>>,
    /// Lines about checks that came to nothing through our own fault.
    faults: Cell<Throttle>,
}

/// How long every check must say something before one that says nothing is news again.
const QUIET: Duration = Duration::from_secs(10);

impl Monitoring {
    pub(crate) fn new(plan: Plan) -> (Monitoring, Prober<Token>) {
        let table = Table::new(plan.roster, plan.settings, plan.seed);
        let monitoring = Monitoring {
            control: plan.control,
            table: RefCell::new(table),
            news: Cell::default(),
            unsent: Cell::default(),
            blind: Cell::default(),
            faults: Cell::default(),
        };
        (monitoring, plan.prober)
    }

    /// Does what the coordinator orders.
    pub(crate) fn order(&self, now: Time, order: &WatchOrder) {
        let mut table = self.table.borrow_mut();
        match order.endpoint {
            Some(endpoint) => table.watch(now, order.watch, endpoint),
            None => table.unwatch(order.watch),
        }
        if !self.news.replace(true) {
            self.control.bell.ring();
        }
    }

    /// The way up may have room.
    pub(crate) fn room(&self) {
        if self.unsent.get() {
            self.control.bell.ring();
        }
    }

    /// The shard stops.
    pub(crate) fn stop(&self) {
        self.control.bell.ring();
    }
}

/// Runs a shard's checks until the shard stops; those under way end there and then.
pub(super) async fn run(shard: Rc<Shard>, mut prober: Prober<Token>) {
    let monitoring = &shard.monitoring;
    let mut alarm = Alarm::default();
    let mut readable: Option<Readable> = None;
    loop {
        if shard.is_stopping() {
            return;
        }
        if turn(&shard, &mut prober) {
            executor::turn().await;
            continue;
        }
        if readable.is_none() {
            // Without a file descriptor to wait with, news is found by looking now and then.
            readable = Readable::new(&prober).ok();
        }
        let now = shard.shared.clock.now();
        let blind = (readable.is_none() && prober.under_way() > 0).then(|| now + Duration::from_millis(5));
        let due = monitoring.table.borrow().next_due();
        let until = [due, prober.next_deadline(), blind].into_iter().flatten().min();
        let longest = now + HEARTBEAT;
        alarm.set(now, until.unwrap_or(longest).clamp(now + SLEEP_MIN, longest));
        std::future::poll_fn(|cx| {
            let work = || {
                monitoring.news.get()
                    || !monitoring.control.roster.0.is_empty()
                    || monitoring.unsent.get() && shard.uplink.borrow().has_room()
                    || shard.is_stopping()
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

/// Does a bounded piece of what can be done; whether there is more.
fn turn(shard: &Shard, prober: &mut Prober<Token>) -> bool {
    let monitoring = &shard.monitoring;
    let (clock, counters) = (shard.shared.clock, &shard.counters);
    let start = Instant::now();
    let mut table = monitoring.table.borrow_mut();
    let now = clock.now();
    monitoring.news.set(false);
    if let Some(roster) = monitoring.control.roster.0.pop() {
        table.replan(now, roster);
    }
    let mut more = prober.turn(now, |token, outcome| {
        let member = table.endpoint(token);
        note(shard, now, member, &outcome);
        // The table has scheduled the next check by the time that it makes something of what this one found.
        if catch_unwind(AssertUnwindSafe(|| table.finish(now, token, outcome))).is_err() {
            note(shard, now, member, &Outcome::Inconclusive(Reason::Fault));
        }
    });
    table.poll(now);
    'starts: loop {
        let now = clock.now();
        for _ in 0..STARTS_PER_LOOK {
            let Some(job) = table.start(now) else { break 'starts };
            counters.lateness.add(job.late);
            prober.start(job.token, &job.endpoint, &job.check, job.deadline);
        }
        if start.elapsed() >= TURN {
            more = true;
            break;
        }
    }
    let mut uplink = shard.uplink.borrow_mut();
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
    // What ended before it began, or a replanning under way, is due at once.
    more || prober.next_deadline().is_some_and(|at| at <= now) || table.next_due().is_some_and(|at| at <= now)
}

/// Counts how a check ended, and logs when checks begin to say nothing, and when they say something again.
fn note(shard: &Shard, now: Time, member: Option<Endpoint>, outcome: &Outcome) {
    let (counters, blind) = (&shard.counters, &shard.monitoring.blind);
    match outcome {
        Outcome::Inconclusive(Reason::Fault) => {
            count(&counters.checks_inconclusive);
            let mut faults = shard.monitoring.faults.get();
            if let Some(lines) = faults.suppressed(now) {
                tracing::error!(
                    shard = shard.index,
                    "{lines} more checks came to nothing through a fault of gwm itself"
                );
            }
            if faults.allows(now) {
                let member = member.map(tracing::field::display);
                tracing::error!(
                    member,
                    shard = shard.index,
                    "a check came to nothing through a fault of gwm itself: please report it"
                );
            }
            shard.monitoring.faults.set(faults);
        }
        Outcome::Inconclusive(reason) => {
            count(&counters.checks_inconclusive);
            if blind.replace(Some(now)).is_none() {
                tracing::warn!(
                    shard = shard.index,
                    "checks say nothing, because {reason}: members keep contact and are not confident until they do"
                );
            }
        }
        Outcome::Failed(_) => count(&counters.checks_failed),
        Outcome::Passed | Outcome::Load(_) | Outcome::Agent(_) => count(&counters.checks_passed),
    }
    if blind.get().is_some_and(|last| now >= last + QUIET) {
        blind.set(None);
        tracing::info!(shard = shard.index, "checks say something again");
    }
}

//! Shared by the conductor and the seats of one run: a clock, counters, and the first failure.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::Result;

/// Failures that are kept; the first is what matters, a few more help to see a pattern.
const FAILURES_KEPT: usize = 5;

/// How often the conductor looks without a call.
const LOOK: Duration = Duration::from_millis(20);

/// The same while the measured time passes.
const GLANCE: Duration = Duration::from_millis(200);

/// Shared by the threads of one run.
pub(crate) struct Stage {
    start: Instant,
    /// The last tick whose values may arrive, 0 being those from before the first.
    tick: AtomicU64,
    /// When each tick was due, in nanoseconds of [`Stage::now`].
    due: Vec<AtomicU64>,
    /// Things done so far, by whatever the workload counts.
    done: AtomicU64,
    goal: AtomicU64,
    ended: AtomicBool,
    failures: Mutex<Vec<String>>,
    failed: AtomicBool,
    call: Condvar,
}

impl Stage {
    /// A stage for ticks 1 to `ticks`.
    pub(crate) fn new(ticks: u64) -> Stage {
        Stage {
            start: Instant::now(),
            tick: AtomicU64::new(0),
            due: (0..=ticks).map(|_| AtomicU64::new(0)).collect(),
            done: AtomicU64::new(0),
            goal: AtomicU64::new(u64::MAX),
            ended: AtomicBool::new(false),
            failures: Mutex::default(),
            failed: AtomicBool::new(false),
            call: Condvar::new(),
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The last tick that was announced.
    pub(crate) fn tick(&self) -> u64 {
        self.tick.load(Ordering::Acquire)
    }

    /// When the tick was due.
    pub(crate) fn due(&self, tick: u64) -> u64 {
        self.due.get(tick as usize).map_or(0, |due| due.load(Ordering::Acquire))
    }

    /// Announces the next tick, due at `due`: its values may arrive from now on.
    pub(crate) fn announce(&self, tick: u64, due: u64) {
        if let Some(cell) = self.due.get(tick as usize) {
            cell.store(due, Ordering::Release);
        }
        self.tick.store(tick, Ordering::Release);
    }

    /// Counts work; calls the conductor when the count reaches its goal.
    pub(crate) fn did(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::AcqRel) + count;
        if done >= self.goal.load(Ordering::Acquire) {
            self.ring();
        }
    }

    /// How much was done.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until `goal` things are done; a failure, or `limit` without the goal, is an error. `show` sees how
    /// far it is every now and then.
    pub(crate) fn wait(&self, goal: u64, limit: Duration, what: &str, mut show: impl FnMut(u64)) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.goal.store(goal, Ordering::Release);
        let mut guard = self.lock();
        loop {
            if self.failed.load(Ordering::Acquire) {
                return Err(self.verdict(guard));
            }
            let done = self.done();
            show(done);
            if done >= goal {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let limit = humantime::format_duration(limit);
                return Err(format!("{what}: {done} of {goal} within {limit} (--timeout)"));
            }
            guard = self.call.wait_timeout(guard, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for this long; a failure ends it with an error. `show` sees how much is done every now and then.
    pub(crate) fn pass(&self, time: Duration, mut show: impl FnMut(u64)) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            let guard = self.lock();
            if self.failed.load(Ordering::Acquire) {
                return Err(self.verdict(guard));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            show(self.done());
            drop(self.call.wait_timeout(guard, left.min(GLANCE)));
        }
    }

    /// Notes a failure, which ends the run.
    pub(crate) fn fail(&self, failure: String) {
        let mut failures = self.lock();
        if failures.len() < FAILURES_KEPT && !failures.contains(&failure) {
            failures.push(failure);
        }
        self.failed.store(true, Ordering::Release);
        drop(failures);
        self.call.notify_all();
    }

    /// Connections may end from now on.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether connections may end.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn ring(&self) {
        drop(self.lock()); // so that the conductor is either before its look or asleep
        self.call.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, failures: MutexGuard<'_, Vec<String>>) -> String {
        failures.join("\n")
    }
}

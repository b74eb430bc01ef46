//! The frame of every run: the player's seats, the waits, the measured time, the end.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Result,
    options::Common,
    player::{Order, Player, Seat, Stage},
    process::{Memory, Usage, Used},
    report::{Sample, Unit},
    workload::Progress,
};

/// Stages of a run of a given time, as [`Stage::tick`] says them; 0 is before the measured time.
pub(crate) const MEASURED: u64 = 1;
/// The measured time is over.
pub(crate) const OVER: u64 = 2;

/// A run of the player; `T` is the report of each seat.
pub(crate) struct Run<'a, T> {
    pub(crate) common: &'a Common,
    progress: &'a Progress,
    pid: Option<u32>,
    pub(crate) stage: Arc<Stage>,
    pub(crate) player: Player<T>,
}

impl<'a, T: Send + 'static> Run<'a, T> {
    /// Starts the seats, for ticks 1 to `ticks`; `pid` is the process that is measured.
    pub(crate) fn start<F: Future<Output = Result<T>> + 'static>(
        common: &'a Common,
        progress: &'a Progress,
        pid: Option<u32>,
        ticks: u64,
        main: impl Fn(Seat) -> F + Clone + Send + 'static,
    ) -> Result<Run<'a, T>> {
        let stage = Arc::new(Stage::new(ticks));
        let player = Player::start(common, &stage, main)?;
        Ok(Run { common, progress, pid, stage, player })
    }

    /// Waits until `goal` things are done.
    pub(crate) fn wait(&self, goal: u64, what: &str) -> Result<()> {
        self.stage.wait(goal, self.common.timeout, what, |_| {})
    }

    /// Waits until `count` more things than `before` are done, and shows how many.
    pub(crate) fn show(&self, before: u64, count: u64, what: &str) -> Result<()> {
        let show = |done: u64| self.progress.show(what, done.saturating_sub(before), count);
        self.stage.wait(before + count, self.common.timeout, what, show)
    }

    /// Begins to measure.
    pub(crate) fn meter(&self) -> Result<Meter> {
        Meter::begin(self.pid)
    }

    /// Lets the seats begin, for a time that is not measured.
    pub(crate) fn warm_up(&mut self, time: Duration) -> Result<()> {
        self.player.order(Order::Go);
        self.stage.pass(time, |_| {})
    }

    /// Lets the seats go on for the time that is measured.
    pub(crate) fn measure(&self, duration: Duration) -> Result<Metered> {
        let meter = self.meter()?;
        self.stage.announce(MEASURED, self.stage.now());
        self.stage
            .pass(duration, |_| self.progress.show("seconds", meter.begin.elapsed().as_secs(), duration.as_secs()))?;
        self.stage.announce(OVER, self.stage.now());
        meter.end()
    }

    /// Ends the run: gives the seats' counts, and the measured process's memory before its connections end.
    pub(crate) fn finish(self) -> Result<(Vec<T>, Option<Memory>)> {
        let memory = self.pid.map(Memory::of).transpose()?;
        self.stage.end();
        Ok((self.player.stop()?, memory))
    }
}

/// Measures the use of a process and of this one.
pub(crate) struct Meter {
    pid: Option<u32>,
    used: Option<Usage>,
    own: Usage,
    begin: Instant,
}

impl Meter {
    /// Begins.
    pub(crate) fn begin(pid: Option<u32>) -> Result<Meter> {
        let (used, own) = (pid.map(Usage::of).transpose()?, Usage::own()?);
        Ok(Meter { pid, used, own, begin: Instant::now() })
    }

    /// The use since then.
    pub(crate) fn end(&self) -> Result<Metered> {
        let wall = self.begin.elapsed();
        let used = match (self.pid, &self.used) {
            (Some(pid), Some(before)) => Some(Usage::of(pid)?.since(before)),
            _ => None,
        };
        Ok(Metered { wall, used, own: Usage::own()?.since(&self.own) })
    }
}

/// The use in a measured time, or in several.
#[derive(Default)]
pub(crate) struct Metered {
    pub(crate) wall: Duration,
    /// The measured process's, if it is known.
    pub(crate) used: Option<Used>,
    /// The player's.
    pub(crate) own: Used,
}

impl Metered {
    /// Adds the use in another time.
    pub(crate) fn extend(&mut self, other: Metered) {
        self.wall += other.wall;
        self.own.extend(other.own);
        if let Some(used) = other.used {
            self.used.get_or_insert_default().extend(used);
        }
    }

    /// Adds it to a sample, with the cost of each of `count` things named `per`.
    pub(crate) fn add_to(&self, sample: &mut Sample, per: &str, count: u64) {
        if let Some(used) = &self.used {
            sample.add_usage(used, self.wall, per, count);
        }
        let own = self.own.cpu_ns as f64 / count.max(1) as f64;
        sample.add(format!("player's CPU per {per}"), own, Unit::Nanoseconds);
    }
}

//! What stands still while the state changes hands: nothing is accepted, answered or changed, and no connection ends.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::runtime::{coordinator_thread::CoordinatorControl, journal_thread::Journal, mesh::Bell, shard::Shared};

/// How long the disk may take to write the last changes.
const SETTLE: Duration = Duration::from_secs(5);

/// A wait is cut into such pieces, so that a stop is heard.
const PIECE: Duration = Duration::from_millis(50);

/// The ways to the threads.
pub(in crate::runtime) struct Still {
    pub(in crate::runtime) control: Arc<CoordinatorControl>,
    pub(in crate::runtime) journal: Arc<Journal>,
    pub(in crate::runtime) shared: Arc<Shared>,
    pub(in crate::runtime) bells: Vec<Arc<Bell>>,
    /// Tells the admin side whether it may accept.
    pub(in crate::runtime) pause_admin: Box<dyn Fn(bool) + Send + Sync>,
}

impl Still {
    fn ring(&self) {
        self.control.bell.ring();
        self.bells.iter().for_each(|bell| bell.ring());
    }

    /// Lets everything stand still, and the journal close its file. After an error everything goes on.
    pub(super) fn begin(&self, is_stopping: impl Fn() -> bool) -> Result<(), String> {
        if let Some(trouble) = self.journal.trouble() {
            return Err(trouble);
        }
        (self.pause_admin)(true);
        self.shared.holds.store(true, Ordering::Relaxed);
        self.control.hold.begin();
        self.ring();
        let deadline = Instant::now() + SETTLE;
        let within = |wait: &dyn Fn(Instant) -> bool| loop {
            let now = Instant::now();
            if wait(deadline.min(now + PIECE)) {
                return true;
            }
            if now >= deadline || is_stopping() {
                return false;
            }
        };
        if within(&|until| self.control.hold.wait(until)) && within(&|until| self.journal.close(until)) {
            return Ok(());
        }
        self.end();
        Err(match is_stopping() {
            true => "this process stops".into(),
            false => format!("the disk did not take the last changes within {} s", SETTLE.as_secs()),
        })
    }

    /// Lets everything go on.
    pub(super) fn end(&self) {
        self.journal.open();
        self.control.hold.end();
        self.shared.holds.store(false, Ordering::Relaxed);
        (self.pause_admin)(false);
        self.ring();
    }

    /// Another process has the state: nothing goes on, and connections end.
    pub(super) fn over(&self) {
        self.control.hold.over();
        self.shared.over.store(true, Ordering::Release);
        self.ring();
    }
}

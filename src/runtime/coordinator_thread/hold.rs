//! The coordinator stands still while its state changes hands: it takes no request and changes nothing, until everything is
//! on the disk and every reply is sent. Then another process has the state, or this one goes on as if nothing had been.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{CoordinatorThread, Port};
use crate::time::Time;

/// The pause between two looks while the coordinator stands still.
const LOOK: Duration = Duration::from_millis(1);

/// Whether the coordinator may change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// It does its work.
    Runs,
    /// It changes nothing for now.
    Holds,
    /// Another process has its state.
    Over,
}

/// What the coordinator is told, and what it tells.
pub(crate) struct Hold {
    phase: AtomicU8,
    still: Mutex<bool>,
    changed: Condvar,
}

impl Default for Hold {
    fn default() -> Hold {
        Hold { phase: AtomicU8::new(Phase::Runs as u8), still: Mutex::new(false), changed: Condvar::new() }
    }
}

impl Hold {
    /// Asks the coordinator to stand still; its bell must be rung.
    pub(crate) fn begin(&self) {
        *self.still.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.set(Phase::Holds);
    }

    /// Waits until the coordinator stands still, and everything is on the disk; `false` if that does not come by then.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        let still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = deadline.saturating_duration_since(Instant::now());
        *self.changed.wait_timeout_while(still, longest, |still| !*still).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Lets the coordinator go on.
    pub(crate) fn end(&self) {
        self.set(Phase::Runs);
    }

    /// The state belongs to another process: the coordinator never goes on.
    pub(crate) fn over(&self) {
        self.set(Phase::Over);
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Holds as u8 => Phase::Holds,
            phase if phase == Phase::Over as u8 => Phase::Over,
            _ => Phase::Runs,
        }
    }

    fn note_still(&self) {
        *self.still.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

impl CoordinatorThread {
    /// What a turn does while the coordinator stands still.
    pub(super) fn hold(&mut self, phase: Phase) {
        self.take_acknowledgements();
        match phase {
            Phase::Over => self.discard(),
            _ => self.settle(),
        }
        self.ports.list.iter_mut().for_each(Port::flush);
        self.metrics.turns.add(1);
        self.publish();
        thread::park_timeout(LOOK);
    }

    /// Gives to the journal what it does not have, and sends the replies that wait for it.
    fn settle(&mut self) {
        if !std::mem::replace(&mut self.holds, true) {
            self.judged_at = Time::default(); // what is not due yet, too
            self.keep();
        }
        self.ports.send_waiting();
        let Some(keeping) = &self.ports.keeping else { return };
        self.answers.give(self.clock.now(), keeping.kept());
        if keeping.has_kept_all() && self.ports.waiting_replies() == 0 && self.answers.is_empty() {
            self.control.hold.note_still();
        }
    }

    /// Takes what the shards say, so that they can end, and answers nothing.
    fn discard(&mut self) {
        for port in &mut self.ports.list {
            port.finished.extend(port.inbox.take().map(|(batch, _)| batch));
            while let Some(batch) = port.up.receive() {
                port.finished.push(batch);
            }
        }
    }
}

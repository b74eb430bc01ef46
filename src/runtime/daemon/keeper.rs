//! What the main thread does for the state on disk: starts the journal's thread, and says if the disk is slow.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use super::{EndNotice, Event};
use crate::{
    config::{Config, Durability},
    runtime::{
        Error,
        journal_thread::{self, Journal, Kept},
        shard::Shared,
    },
};

/// The journal's thread.
pub(super) struct Keeper {
    pub(super) handle: JoinHandle<Result<(), Error>>,
    pub(super) journal: Arc<Journal>,
    /// That the disk is slow is said.
    said: bool,
}

impl Keeper {
    pub(super) fn start(
        kept: Kept,
        journal: Arc<Journal>,
        config: &Config,
        shared: &Shared,
        events: &mpsc::Sender<Event>,
    ) -> io::Result<Keeper> {
        let window = match config.durability {
            Durability::Reply => Duration::ZERO,
            Durability::Background => journal_thread::BACKGROUND_WINDOW,
        };
        let ended = EndNotice(events.clone());
        let handle = journal_thread::start(kept, journal.clone(), shared.clock, window, ended)?;
        Ok(Keeper { handle, journal, said: false })
    }

    /// Says so, once, if a write does not end. A write that fails is the thread's own to report.
    pub(super) fn report_slow_disk(&mut self) {
        let slow = self.journal.slow();
        if let (Some(slow), false) = (&slow, self.said) {
            tracing::warn!("{slow}: replies to requests that change something wait");
        }
        self.said = slow.is_some();
    }
}

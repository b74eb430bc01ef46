//! The journal's thread: it writes what the coordinator has changed, many changes in one transaction.
//!
//! The coordinator gives its changes once a turn, and never waits: while a transaction is on its way to the disk, the next
//! one collects. If the disk refuses a write, the thread keeps the changes, opens the file again and tries until the disk
//! takes them. Only replies wait for that ([`Keeping`](super::coordinator_thread)).

mod load;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{error::Error, machine::clock::Clock, mesh::Bell};
use crate::{
    journal::{Date, Entry, Epoch, Store, StoreError},
    limits,
    metrics::Histogram,
};

pub use load::look;
pub(super) use load::{load, load_taken};

/// How often the date is written though nothing changes: after a crash it tells how old everything is.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long changes collect with `--durability background`: so much may be lost.
pub(super) const BACKGROUND_WINDOW: Duration = Duration::from_millis(100);

/// The pause after which a disk that refused a write is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How long a file that another process has open is tried again, before that is called trouble.
const BUSY: Duration = Duration::from_secs(10);

/// The pause between two such tries.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A write that takes longer than this is worth a word.
const SLOW: Duration = Duration::from_secs(2);

/// What the coordinator and the journal's thread share; others read how it goes.
pub(super) struct Journal {
    state: Mutex<State>,
    work: Condvar,
    /// The file is closed.
    closed: Condvar,
    /// How many of the entries that were given are on the disk.
    kept: AtomicU64,
    /// How often a daemon has started with this file.
    starts: AtomicU64,
    /// Bytes of the entries that are not.
    waiting: AtomicUsize,
    /// The coordinator's bell.
    bell: Arc<Bell>,
    /// How long transactions took.
    pub(super) transactions: Histogram,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    /// The transaction that is under way.
    writing_since: Option<Instant>,
    failure: Option<String>,
    /// The coordinator has dropped changes.
    gave_up: bool,
    /// The file is to be closed, for another process.
    close: bool,
    is_closed: bool,
    stop: bool,
}

impl State {
    fn slow(&self) -> Option<String> {
        let took = self.writing_since?.elapsed();
        (took >= SLOW).then(|| format!("a write to the state on disk takes over {} s", took.as_secs()))
    }
}

impl Journal {
    pub(super) fn new(bell: Arc<Bell>) -> Journal {
        let (state, work, closed, kept, starts, waiting, transactions) = Default::default();
        Journal { state, work, closed, kept, starts, waiting, bell, transactions }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all these entries.
    pub(super) fn give(&self, entries: &mut Vec<Entry>) {
        self.waiting.fetch_add(entries.iter().map(Entry::size).sum(), Ordering::Relaxed);
        let mut state = self.lock();
        match state.entries.is_empty() {
            true => std::mem::swap(&mut state.entries, entries),
            false => state.entries.append(entries),
        }
        drop(state);
        self.work.notify_one();
    }

    /// How many of the entries that were given are on the disk.
    pub(super) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Acquire)
    }

    /// How often a daemon has started with this file.
    pub(super) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// So much waits for the disk that no more may come.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= limits::JOURNAL_BYTES
    }

    /// Bytes that wait for the disk.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Why the state on disk is behind, for people; `None` if all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.lock();
        let gave_up = || {
            let text = "requests that change something end their connections until the disk has taken all of the state";
            state.gave_up.then(|| text.into())
        };
        gave_up().or_else(|| state.failure.clone()).or_else(|| state.slow())
    }

    /// Says so if a write does not end, though the disk has not refused it.
    pub(super) fn slow(&self) -> Option<String> {
        let state = self.lock();
        if state.failure.is_some() { None } else { state.slow() }
    }

    /// Whether the coordinator has dropped changes that are not replaced yet.
    pub(super) fn give_up(&self, gave_up: bool) {
        self.lock().gave_up = gave_up;
    }

    /// Lets the thread write what it has, and close the file; `false` if the file is not closed by then. Until
    /// [`Journal::open`] nothing is written.
    pub(super) fn close(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        state.close = true;
        self.work.notify_one();
        let longest = deadline.saturating_duration_since(Instant::now());
        let waited = self.closed.wait_timeout_while(state, longest, |state| !state.is_closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_closed
    }

    /// Lets the thread open the file again.
    pub(super) fn open(&self) {
        self.lock().close = false;
        self.work.notify_one();
    }

    /// The file is closed: waits until it may be opened again; `false` if the thread has to end.
    fn stay_closed(&self) -> bool {
        let mut state = self.lock();
        state.is_closed = true;
        self.closed.notify_all();
        let waited = self.work.wait_while(state, |state| state.close && !state.stop);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_closed = false;
        // A file that belongs to another process is not opened, also not for what has come since.
        !state.close
    }

    /// Lets the thread write what it has, and end.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_one();
    }

    /// The next entries to write, perhaps none; and whether the thread has to end then.
    pub(super) fn next(&self, window: Duration) -> (Vec<Entry>, bool) {
        let is_idle = |state: &mut State| state.entries.is_empty() && !state.stop && !state.close;
        let waited = self.work.wait_timeout_while(self.lock(), ALIVE_INTERVAL, is_idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if !window.is_zero() && !state.entries.is_empty() {
            let waited = self.work.wait_timeout_while(state, window, |state| !state.stop && !state.close);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.writing_since = Some(Instant::now());
        (std::mem::take(&mut state.entries), state.stop)
    }

    /// How many entries are not taken yet.
    fn left(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether the file is to be closed now.
    fn is_to_close(&self) -> bool {
        let state = self.lock();
        state.close && state.entries.is_empty()
    }

    /// Waits; whether the thread has to end.
    fn pause(&self) -> bool {
        let waited = self.work.wait_timeout_while(self.lock(), RETRY, |state| !state.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    /// These entries, the next ones of all that were given, are on the disk.
    pub(super) fn note_kept(&self, entries: &[Entry]) {
        self.lock().writing_since = None;
        self.waiting.fetch_sub(entries.iter().map(Entry::size).sum(), Ordering::Relaxed);
        self.kept.fetch_add(entries.len() as u64, Ordering::Release);
        self.bell.ring();
    }

    fn note_failure(&self, failure: Option<String>) {
        self.lock().failure = failure;
    }
}

/// The date now.
pub(super) fn today() -> Date {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Date(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A file whatever its name is: its file system, and its number there.
pub(super) type FileId = (u64, u64);

/// The state on disk, opened.
pub(super) struct Kept {
    pub(super) store: Store,
    /// For people.
    pub(super) name: String,
    /// Opens it again after a failure.
    pub(super) reopen: Box<dyn Fn() -> Result<Store, StoreError> + Send>,
    /// Which file has the name now.
    pub(super) named: Box<dyn Fn() -> Option<FileId> + Send>,
    /// What the start writes, until that is done.
    first: Option<First>,
}

/// What a daemon writes before all changes.
struct First {
    entries: Vec<Entry>,
    /// The daemon belongs to no fleet.
    alone: bool,
}

impl First {
    fn write(&self, store: &mut Store, clock: Clock) -> Result<(), StoreError> {
        store.begin(&self.entries, Epoch::new(clock.now(), today()), self.alone).map(drop)
    }
}

impl Kept {
    /// Notes that a daemon begins to work with the state. Until then the file is as it was. After an error the thread tries
    /// again, and says so.
    pub(super) fn begin(&mut self, clock: Clock) -> Result<(), StoreError> {
        if let Some(first) = &self.first {
            first.write(&mut self.store, clock)?;
            self.first = None;
        }
        Ok(())
    }
}

/// The thread.
struct JournalThread {
    name: String,
    reopen: Box<dyn Fn() -> Result<Store, StoreError> + Send>,
    named: Box<dyn Fn() -> Option<FileId> + Send>,
    /// Which file is open.
    file: Option<FileId>,
    /// `None` after a failure.
    store: Option<Store>,
    /// What the start could not write.
    first: Option<First>,
    /// The number of the last transaction.
    applied: u64,
    journal: Arc<Journal>,
    clock: Clock,
    window: Duration,
}

/// Starts the thread; `ended` is dropped at its end. `window` is how long changes collect.
pub(super) fn start(
    Kept { store, name, reopen, named, first }: Kept,
    journal: Arc<Journal>,
    clock: Clock,
    window: Duration,
    ended: impl Send + 'static,
) -> std::io::Result<JoinHandle<Result<(), Error>>> {
    let applied = store.applied();
    journal.starts.store(store.past().starts, Ordering::Relaxed);
    let store = Some(store).filter(|_| first.is_none());
    let file = named();
    let mut thread = JournalThread { name, reopen, named, file, store, first, applied, journal, clock, window };
    thread::Builder::new().name("journal".into()).spawn(move || {
        let _ended = ended;
        thread.run()
    })
}

impl JournalThread {
    fn run(&mut self) -> Result<(), Error> {
        if self.first.is_some() && !self.write(&[]) {
            return Err(Error::StateBehind { name: self.name.clone(), changes: self.journal.left() });
        }
        loop {
            let (entries, stop) = self.journal.next(self.window);
            let start = Instant::now();
            if !self.write(&entries) {
                let changes = entries.len() + self.journal.left();
                return Err(Error::StateBehind { name: self.name.clone(), changes });
            }
            self.journal.transactions.add(start.elapsed());
            self.journal.note_kept(&entries);
            if stop && entries.is_empty() {
                return Ok(());
            }
            if self.journal.is_to_close() {
                self.store = None;
                if !self.journal.stay_closed() {
                    return Ok(());
                }
                self.open_again();
            }
        }
    }

    /// Opens a file that another process had, which may take a moment to end. Other trouble is that of the next write.
    fn open_again(&mut self) {
        let start = Instant::now();
        while start.elapsed() < BUSY && self.store.is_none() {
            match self.reopen() {
                Err(StoreError::Busy) => thread::sleep(BUSY_PAUSE),
                // Another process has written: the next write finds that out.
                Ok(store) if store.applied() != self.applied => return,
                opened => self.store = opened.ok(),
            }
        }
    }

    /// Writes entries, however long that takes; `false` if the thread has to end before.
    fn write(&mut self, entries: &[Entry]) -> bool {
        let mut failed = false;
        loop {
            match self.try_write(entries) {
                Ok(()) => break,
                Err(error) => {
                    let text = format!("the state on disk, {}: {error}", self.name);
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("{text}; changes wait in memory, and are tried again");
                    }
                    self.journal.note_failure(Some(text));
                    self.store = None;
                }
            }
            if self.journal.pause() {
                return self.try_write(entries).is_ok();
            }
        }
        if failed {
            tracing::info!("the state on disk, {}, is whole again", self.name);
            self.journal.note_failure(None);
        }
        true
    }

    fn reopen(&mut self) -> Result<Store, StoreError> {
        let store = (self.reopen)()?;
        self.file = (self.named)();
        Ok(store)
    }

    fn try_write(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        self.try_apply(entries)?;
        // The next start would not find what is in a file that has lost its name.
        if self.file.is_none() || (self.named)() != self.file {
            return Err(StoreError::Disk("somebody has moved, removed or replaced the file: put it back".into()));
        }
        self.applied += 1;
        Ok(())
    }

    fn try_apply(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let next = self.applied + 1;
        if self.store.is_none() {
            let store = self.reopen()?;
            // The transaction that failed may be on the disk.
            if store.applied() != self.applied && store.applied() != next {
                return Err(StoreError::Damaged("it is not the file of before".into()));
            }
            self.store = Some(store);
        }
        let store = self.store.as_mut().expect("it is open");
        if let Some(first) = &self.first {
            first.write(store, self.clock)?;
            self.first = None;
            self.journal.starts.store(store.past().starts, Ordering::Relaxed);
        }
        if store.applied() != next {
            let date = today();
            store.apply(entries, Epoch::new(self.clock.now(), date), date)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

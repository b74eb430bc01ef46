//! The file: opening, transactions, reading.

use std::{fmt, io, mem, panic, path::Path};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageBackend, TableDefinition, TableError};

use super::{
    date::{Date, Epoch},
    entry::{Entry, Known},
    own::{self, Owns},
    rows::{Fault, Row, VERSION, VERSION_OLDEST},
    tables::{Source, Tables},
    unchanged::Unchanged,
};

/// Numbers of the whole file.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// Why the state on disk can not be used.
#[derive(Debug)]
pub enum StoreError {
    /// Another process has the file open.
    Busy,
    /// The rows have another version.
    Version(u64),
    /// The file is damaged, or is no state of a GWM.
    Damaged(String),
    /// The disk refuses to read or write.
    Disk(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Busy => f.write_str("another process has it open"),
            StoreError::Version(version) => {
                write!(f, "its version is {version}, and this gwm knows version {VERSION}")
            }
            StoreError::Damaged(text) => write!(f, "it is damaged, or no state of a GWM: {text}"),
            StoreError::Disk(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> StoreError {
        match error {
            redb::Error::DatabaseAlreadyOpen => StoreError::Busy,
            redb::Error::UpgradeRequired(format) => {
                StoreError::Damaged(format!("the engine of its format {format} is older than this gwm's"))
            }
            redb::Error::Corrupted(text) => StoreError::Damaged(text),
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                StoreError::Damaged(error.to_string())
            }
            redb::Error::Io(error) => StoreError::Disk(error.to_string()),
            redb::Error::PreviousIo => StoreError::Disk("an earlier write failed".into()),
            redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::RepairAborted => StoreError::Damaged(error.to_string()),
            other => StoreError::Disk(other.to_string()),
        }
    }
}

macro_rules! from {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> StoreError {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from!(DatabaseError TransactionError TableError StorageError CommitError);

impl From<Fault> for StoreError {
    fn from(Fault(what): Fault) -> StoreError {
        StoreError::Damaged(format!("{what} is wrong"))
    }
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// Numbers of the whole file; each transaction writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// The number of the last transaction.
    applied: u64,
    /// How often a daemon has started with this file.
    pub(super) starts: u64,
    /// When a daemon wrote last.
    alive_at: u64,
    /// The number of the newest load balancer or group; no number is used again.
    pub(super) newest: u64,
    /// The number of the operator's newest word.
    pub(super) last_word: u64,
    /// 0: etcd has all of this; only the rows of a fleet's node get there. 1: etcd may lack anything, as it does if the file
    /// does not say. 2: etcd may lack what the node has changed by itself (`own`).
    pub(super) ahead: u64,
    /// See [`Known`].
    pub(super) known_store: u64,
    pub(super) known_revision: u64,
}

impl Numbers {
    fn fields(&mut self) -> [(&'static str, &mut u64); 8] {
        [
            ("ahead", &mut self.ahead),
            ("applied", &mut self.applied),
            ("starts", &mut self.starts),
            ("alive_at", &mut self.alive_at),
            ("newest", &mut self.newest),
            ("last_word", &mut self.last_word),
            ("known_store", &mut self.known_store),
            ("known_revision", &mut self.known_revision),
        ]
    }
}

/// No number of a file gets near this.
pub(super) const NUMBER_MAX: u64 = 1 << 60;

/// What of a file etcd, which the nodes of a fleet share, may lack.
#[derive(Clone, Debug)]
pub enum Ahead {
    /// Nothing.
    Nothing,
    /// What the node has changed by itself.
    Own(Owns),
    /// Anything; of some of it, it is known how it changed.
    All(Owns),
}

/// What a file knows beside its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// How often a daemon has started.
    pub starts: u64,
    /// The number of the operator's newest word, which may have ended.
    pub last_word: u64,
    /// When a daemon wrote last.
    pub alive_at: Date,
}

/// Bytes of pages that the engine keeps in memory. The system's own cache has all others.
const CACHE_BYTES: usize = 32 << 20;

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // Else the engine takes a file that was closed for whole, and rows that the disk has changed since for right.
    builder.set_check_integrity_on_open(true);
    builder
}

/// The engine panics on some damaged files: that is their damage, and no fault of the process.
fn guarded<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = panic::catch_unwind(panic::AssertUnwindSafe(act));
    done.unwrap_or_else(|_| Err(StoreError::Damaged("the engine can not read it".into())))
}

/// The numbers of a file that this gwm can read; `None` if the file is empty.
fn numbers(transaction: &ReadTransaction) -> Result<Option<Numbers>> {
    let table = match transaction.open_table(NUMBERS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let read = |name| -> Result<u64> {
        let value = table.get(name)?.map(|value| value.value());
        // Files are older than fleets.
        let default = match name {
            "ahead" => Some(1),
            "known_store" | "known_revision" => Some(0),
            _ => None,
        };
        value.or(default).ok_or_else(|| StoreError::Damaged(format!("the number \"{name}\" is not there")))
    };
    match read("version")? {
        // The next transaction makes it the newest one.
        VERSION_OLDEST..=VERSION => {}
        other => return Err(StoreError::Version(other)),
    }
    let mut numbers = Numbers::default();
    for (name, number) in numbers.fields() {
        *number = read(name)?;
        if *number > NUMBER_MAX {
            return Err(StoreError::Damaged(format!("the number \"{name}\" is {number}")));
        }
    }
    Ok(Some(numbers))
}

/// The state on disk. After an error of [`Store::apply`] it must be opened again.
pub struct Store {
    database: Database,
    numbers: Numbers,
}

impl Store {
    /// Opens a file; makes it if it does not exist.
    pub fn open(path: &Path) -> Result<Store> {
        guarded(|| Store::prepare(builder().create(path)?))
    }

    /// Opens a disk of another kind.
    pub fn open_on(disk: impl StorageBackend) -> Result<Store> {
        guarded(|| Store::prepare(builder().create_with_backend(disk)?))
    }

    fn prepare(database: Database) -> Result<Store> {
        let mut store = Store { database, numbers: Numbers { ahead: 1, ..Numbers::default() } };
        let transaction = store.database.begin_read()?;
        match numbers(&transaction)? {
            Some(numbers) => store.numbers = numbers,
            None => {
                drop(transaction);
                store.write(|_| Ok(()))?;
            }
        }
        Ok(store)
    }

    /// Opens a file to read it, and does not change the file: what is written is nowhere.
    pub fn open_unchanged(path: &Path) -> Result<Store> {
        guarded(|| Store::prepare(builder().create_with_backend(Unchanged::open(path)?)?))
    }

    /// Whether a daemon has closed the file. The next one mends a file that none has closed.
    pub fn is_closed(path: &Path) -> Result<bool> {
        let mut builder = builder();
        builder.set_check_integrity_on_open(false).set_repair_callback(|repair| repair.abort());
        guarded(|| match builder.create_with_backend(Unchanged::open(path)?) {
            Ok(_) => Ok(true),
            Err(DatabaseError::RepairAborted) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    /// Changes rows in one transaction, which is on the disk when this returns.
    fn write(&mut self, act: impl FnOnce(&mut Tables<'_>) -> Result<()>) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let mut tables = Tables::open(&transaction, self.numbers)?;
        act(&mut tables)?;
        let mut numbers = tables.close();
        let mut table = transaction.open_table(NUMBERS)?;
        table.insert("version", VERSION)?;
        for (name, number) in numbers.fields() {
            table.insert(name, *number)?;
        }
        drop(table);
        transaction.commit()?;
        self.numbers = numbers;
        Ok(())
    }

    /// Notes the start of a daemon, and writes these entries, in one transaction; gives how many starts there have been.
    /// `alone`: the daemon belongs to no fleet. The date stays: a start is no sign of life of what was checked.
    pub fn begin<'e>(
        &mut self,
        entries: impl IntoIterator<Item = &'e Entry>,
        epoch: Epoch,
        alone: bool,
    ) -> Result<u64> {
        let mut numbers = self.numbers;
        numbers.starts += 1;
        if alone {
            (numbers.ahead, numbers.known_store, numbers.known_revision) = (1, 0, 0);
        }
        let mut entries = entries.into_iter();
        self.write_with(numbers, |tables| {
            if numbers.ahead < 2 {
                tables.forget_own()?;
            }
            entries.try_for_each(|entry| tables.apply(entry, epoch))
        })?;
        Ok(self.numbers.starts)
    }

    /// What the file knows beside its rows.
    pub fn past(&self) -> Past {
        let Numbers { starts, last_word, alive_at, .. } = self.numbers;
        Past { starts, last_word, alive_at: Date(alive_at) }
    }

    /// The number of the last transaction of entries. After a transaction has failed it may be on the disk or not: this
    /// number tells.
    pub fn applied(&self) -> u64 {
        self.numbers.applied
    }

    /// Whether the file may have what etcd, which the nodes of a fleet share, lacks.
    pub fn is_ahead(&self) -> bool {
        self.numbers.ahead != 0
    }

    /// What of the file etcd may lack.
    pub fn ahead(&self) -> Result<Ahead> {
        match self.numbers.ahead {
            0 => Ok(Ahead::Nothing),
            ahead => guarded(|| {
                let owns = own::read(&self.database.begin_read()?)?;
                Ok(if ahead == 1 { Ahead::All(owns) } else { Ahead::Own(owns) })
            }),
        }
    }

    /// What was known of etcd, at least, when the file was written last.
    pub fn known(&self) -> Known {
        Known { store: self.numbers.known_store, revision: self.numbers.known_revision }
    }

    /// Writes entries in one transaction with the number that follows [`Store::applied`]. `now` is the date of the write.
    /// Without entries it only notes the date.
    pub fn apply<'e>(&mut self, entries: impl IntoIterator<Item = &'e Entry>, epoch: Epoch, now: Date) -> Result<()> {
        let numbers = Numbers { applied: self.numbers.applied + 1, alive_at: now.0, ..self.numbers };
        let mut entries = entries.into_iter();
        self.write_with(numbers, |tables| entries.try_for_each(|entry| tables.apply(entry, epoch)))
    }

    /// Changes rows in one transaction, and the numbers if it succeeds.
    fn write_with(&mut self, numbers: Numbers, act: impl FnOnce(&mut Tables<'_>) -> Result<()>) -> Result<()> {
        let before = mem::replace(&mut self.numbers, numbers);
        let done = guarded(|| self.write(act));
        if done.is_err() {
            self.numbers = before;
        }
        done
    }

    /// Writes whole rows and their past in one transaction, into an empty file. A group follows its load balancer.
    pub fn fill(&mut self, past: Past, rows: impl IntoIterator<Item = Result<Row>>, epoch: Epoch) -> Result<()> {
        let before = self.numbers;
        // Daemons may have started with this file, too.
        let numbers = Numbers {
            starts: past.starts.max(before.starts),
            last_word: past.last_word.max(before.last_word),
            alive_at: past.alive_at.0,
            ..before
        };
        self.write_with(numbers, |tables| rows.into_iter().try_for_each(|row| tables.put(&row?, epoch)))
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> Result<bool> {
        Source::open(&self.database.begin_read()?)?.is_empty()
    }

    /// Gives every row: words by their number, load balancers and then groups, both in the order of their creation, and
    /// verdicts. An error of `take` ends this.
    pub fn each_row(&self, epoch: Epoch, take: impl FnMut(Row) -> Result<()>) -> Result<()> {
        guarded(|| {
            let source = Source::open(&self.database.begin_read()?)?;
            source.each_row(epoch, self.numbers.newest, take)
        })
    }

    /// Reads every row; gives how many there are. To open the file was to compare all checksums.
    pub fn check(&self) -> Result<u64> {
        let mut rows = 0;
        self.each_row(Epoch::default(), |_| {
            rows += 1;
            Ok(())
        })?;
        self.ahead()?;
        Ok(rows)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("numbers", &self.numbers).finish_non_exhaustive()
    }
}

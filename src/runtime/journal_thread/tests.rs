use std::{
    fmt, io,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

use super::*;
use crate::journal::{Row, StorageBackend};

/// How the disk behaves.
const WORKS: u8 = 0;
/// It refuses every write.
const REFUSES: u8 = 1;
/// It reports failures of syncs that it did.
const LIES: u8 = 2;

#[derive(Clone, Default)]
struct Disk(Arc<(Mutex<Vec<u8>>, AtomicU8)>);

impl Disk {
    fn behave(&self, how: u8) {
        self.0.1.store(how, Ordering::SeqCst);
    }

    fn try_to(&self, refusal: u8) -> io::Result<()> {
        match self.0.1.load(Ordering::SeqCst) == refusal {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.0.lock().expect("no panic with the lock")
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let bytes = self.bytes();
        out.copy_from_slice(bytes.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.try_to(REFUSES)?;
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.try_to(REFUSES)?;
        self.try_to(LIES)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.try_to(REFUSES)?;
        self.bytes()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A state on this disk.
fn kept(disk: &Disk, first: Option<First>) -> Kept {
    let open = {
        let disk = disk.clone();
        move || Store::open_on(disk.clone())
    };
    let (store, named) = (open().expect("the disk works"), Box::new(|| Some((1, 1))));
    Kept { store, name: "a disk".into(), reopen: Box::new(open), named, first }
}

/// A thread that writes to it.
fn begin(kept: Kept) -> (Arc<Journal>, JoinHandle<Result<(), Error>>) {
    let journal = Arc::new(Journal::new(Arc::default()));
    let handle = start(kept, journal.clone(), Clock::new(), Duration::ZERO, ()).expect("a thread");
    (journal, handle)
}

/// Waits until something is true, for a bounded time.
fn until(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

fn bound(number: usize) -> Entry {
    Entry::Bound(format!("LB{number}").into_bytes().into())
}

/// The UIDs on the disk.
fn uids(disk: &Disk) -> Vec<String> {
    let mut uids = Vec::new();
    let store = Store::open_on(disk.clone()).expect("the disk works");
    let taken = store.each_row(Epoch::default(), |row| {
        if let Row::LoadBalancer { uid, .. } = row {
            uids.push(String::from_utf8_lossy(&uid).into_owned());
        }
        Ok(())
    });
    taken.expect("the rows can be read");
    uids
}

fn end(journal: &Journal, handle: JoinHandle<Result<(), Error>>) {
    journal.stop();
    handle.join().expect("no panic").expect("no failure");
}

#[test]
fn what_is_given_is_kept_at_the_stop_too() {
    let disk = Disk::default();
    let (journal, handle) = begin(kept(&disk, None));
    journal.give(&mut vec![bound(1), bound(2)]);
    until("they are kept", || journal.kept() == 2);
    assert_eq!(journal.waiting(), 0);
    journal.give(&mut vec![bound(3)]);
    end(&journal, handle);
    assert_eq!(journal.kept(), 3);
    assert_eq!(uids(&disk), ["LB1", "LB2", "LB3"]);
}

#[test]
fn changes_wait_for_a_disk_that_refuses() {
    let disk = Disk::default();
    let (journal, handle) = begin(kept(&disk, None));
    for (round, how) in [(0, REFUSES), (1, LIES)] {
        disk.behave(how);
        journal.give(&mut vec![bound(2 * round)]);
        until("the trouble is told", || journal.trouble().is_some());
        journal.give(&mut vec![bound(2 * round + 1)]);
        assert_eq!(journal.kept(), 2 * round as u64);
        disk.behave(WORKS);
        until("they are kept", || journal.kept() == 2 * round as u64 + 2);
        until("the trouble is over", || journal.trouble().is_none());
    }
    end(&journal, handle);
    assert_eq!(uids(&disk), ["LB0", "LB1", "LB2", "LB3"]);
}

#[test]
fn a_disk_that_refuses_does_not_keep_the_daemon_from_stopping() {
    let disk = Disk::default();
    let (journal, handle) = begin(kept(&disk, None));
    disk.behave(REFUSES);
    journal.give(&mut vec![bound(1)]);
    until("the trouble is told", || journal.trouble().is_some());
    journal.give(&mut vec![bound(2), bound(3)]);
    journal.stop();
    let end = handle.join().expect("no panic");
    assert!(matches!(end, Err(Error::StateBehind { changes: 3, .. })), "{end:?}");
    disk.behave(WORKS);
    assert_eq!(uids(&disk), [""; 0]);
}

#[test]
fn what_the_start_could_not_write_is_written_when_the_disk_takes_something() {
    let disk = Disk::default();
    let mut kept = kept(&disk, Some(First { entries: vec![bound(1)], alone: true }));
    disk.behave(REFUSES);
    assert!(kept.begin(Clock::new()).is_err());
    let (journal, handle) = begin(kept);
    until("the trouble is told", || journal.trouble().is_some());
    journal.give(&mut vec![bound(2)]);
    disk.behave(WORKS);
    until("the change is kept", || journal.kept() == 1);
    assert_eq!((journal.trouble(), journal.starts()), (None, 1));
    end(&journal, handle);
    assert_eq!(uids(&disk), ["LB1", "LB2"]);
}

#[test]
fn what_is_written_into_a_file_without_its_name_is_not_kept() {
    let disk = Disk::default();
    let moves = Arc::new((AtomicBool::new(false), AtomicU64::new(0)));
    let named = Box::new({
        let moves = moves.clone();
        move || Some((1, if moves.0.load(Ordering::SeqCst) { moves.1.fetch_add(1, Ordering::SeqCst) } else { 1000 }))
    });
    let (journal, handle) = begin(Kept { named, ..kept(&disk, None) });
    journal.give(&mut vec![bound(1)]);
    until("it is kept", || journal.kept() == 1);
    moves.0.store(true, Ordering::SeqCst);
    journal.give(&mut vec![bound(2)]);
    until("the trouble is told", || journal.trouble().is_some_and(|text| text.contains("moved, removed or replaced")));
    assert_eq!(journal.kept(), 1);
    moves.0.store(false, Ordering::SeqCst);
    until("it is kept", || journal.kept() == 2);
    until("the trouble is over", || journal.trouble().is_none());
    end(&journal, handle);
    assert_eq!(uids(&disk), ["LB1", "LB2"]);
}

/// Far enough in the future.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn a_file_that_is_closed_is_not_written_until_it_is_opened() {
    let disk = Disk::default();
    let (journal, handle) = begin(kept(&disk, None));
    journal.give(&mut vec![bound(1)]);
    assert!(journal.close(later()));
    assert_eq!((journal.kept(), uids(&disk)), (1, vec!["LB1".into()]));
    journal.give(&mut vec![bound(2)]);
    assert!(journal.close(later()), "it is closed already");
    assert_eq!(uids(&disk), ["LB1"]);
    journal.open();
    until("it is kept", || journal.kept() == 2);

    // Another process has it: not even the stop writes.
    assert!(journal.close(later()));
    assert_eq!(uids(&disk), ["LB1", "LB2"]);
    journal.give(&mut vec![bound(3)]);
    end(&journal, handle);
    assert_eq!(uids(&disk), ["LB1", "LB2"]);
}

#[test]
fn a_file_is_not_closed_before_the_disk_has_taken_what_there_is() {
    let disk = Disk::default();
    let (journal, handle) = begin(kept(&disk, None));
    disk.behave(REFUSES);
    journal.give(&mut vec![bound(1)]);
    assert!(!journal.close(Instant::now() + Duration::from_millis(20)));
    journal.open();
    disk.behave(WORKS);
    until("it is kept", || journal.kept() == 1);
    assert!(journal.close(later()));
    end(&journal, handle);
    assert_eq!(uids(&disk), ["LB1"]);
}

#[test]
fn too_much_that_waits_is_told() {
    let journal = Journal::new(Arc::default());
    let huge = vec![b'x'; limits::JOURNAL_BYTES];
    assert!(!journal.is_full());
    journal.give(&mut vec![Entry::Request(huge.into())]);
    assert!(journal.is_full());
    let (entries, stop) = journal.next(Duration::ZERO);
    assert_eq!((entries.len(), stop), (1, false));
    journal.note_kept(&entries);
    assert!(!journal.is_full() && journal.kept() == 1);
}

//! Rows: what is written is what is read, and what can not be read is refused.

use fastrand::Rng;
use gwm::{
    coordinator::Time,
    journal::{Date, Entry, Epoch, Known, Member, Past, Row, Store, StoreError, text},
    judgement::{Last, Share, Verdict},
    sasp::{Endpoint, EntryFlags, Health, LbFlags},
};
use redb::{Database, ReadableTable, TableDefinition, backends::InMemoryBackend};

use super::{
    disk::Disk,
    history::{History, word},
};

fn memory() -> Store {
    Store::open_on(InMemoryBackend::new()).expect("memory is a disk")
}

/// All rows of a file.
pub(super) fn rows(store: &Store, epoch: Epoch) -> Vec<Row> {
    let mut rows = Vec::new();
    store
        .each_row(epoch, |row| {
            rows.push(row);
            Ok(())
        })
        .expect("the rows can be read");
    rows
}

#[test]
fn words_are_kept_with_reason_and_expiry() {
    let mut rng = Rng::with_seed(1);
    let mut store = memory();
    let words: Vec<_> = (1..=300).map(|number| word(&mut rng, number)).collect();
    let entries: Vec<_> = words.iter().map(|word| Entry::Said(Box::new(word.clone()))).collect();
    store.apply(&entries, Epoch::default(), Date::default()).expect("memory is a disk");
    assert_eq!(rows(&store, Epoch::default()), words.into_iter().map(Row::Word).collect::<Vec<_>>());
    store.apply(&[Entry::Unsaid(300)], Epoch::default(), Date::default()).expect("memory is a disk");
    assert_eq!(store.past().last_word, 300, "the number is not used again");
}

#[test]
fn a_hold_time_is_a_time_of_day() {
    let mut store = memory();
    let uid: Box<[u8]> = b"LB1"[..].into();
    let first = Epoch(Date(1_700_000_000_000));
    let held = Entry::Unbound { lb_uid: uid.clone(), held_until: Time(60_000_000_000) };
    store.apply(&[Entry::Bound(uid.clone()), held], first, Date(1)).expect("memory is a disk");
    let row = |held_until| Row::LoadBalancer { uid: uid.clone(), health: Health(0), flags: LbFlags::NONE, held_until };
    assert_eq!(rows(&store, first), [row(Some(Date(1_700_000_060_000)))]);
    store.apply(&[Entry::Bound(uid.clone())], first, Date(2)).expect("memory is a disk");
    assert_eq!(rows(&store, first), [row(None)]);
    assert_eq!(store.past().alive_at, Date(2));
}

#[test]
fn whole_rows_fill_an_empty_file() {
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let mut history = History::default();
        let mut one = memory();
        let entries: Vec<_> = (0..100).map(|_| history.entry(&mut rng)).collect();
        one.apply(&entries, Epoch::default(), Date::default()).expect("memory is a disk");
        let before = rows(&one, Epoch::default());
        let past = Past { starts: seed, last_word: 1000 + seed, alive_at: Date(7 * seed) };
        assert_eq!(text::read_first_line(&text::first_line(past)), Ok(past));
        let mut other = memory();
        assert!(other.is_empty().expect("memory is a disk"));
        other.fill(past, before.iter().cloned().map(Ok), Epoch::default()).expect("the rows fit");
        assert_eq!((rows(&other, Epoch::default()), other.past()), (before.clone(), past));
        for row in &before {
            assert_eq!(text::read_line(&text::line(row)).as_ref(), Ok(row), "as text");
        }
        assert_eq!(other.check().expect("nothing is damaged"), before.len() as u64);
        let again = other.fill(past, before.iter().cloned().map(Ok), Epoch::default());
        let has_rows = |row: &Row| !matches!(row, Row::Verdicts { .. });
        assert!(!before.iter().any(has_rows) || matches!(again, Err(StoreError::Damaged(_))), "{again:?}");
        assert_eq!(other.past(), past, "an error changes nothing");
    }
}

#[test]
fn rows_that_contradict_each_other_are_refused() {
    let endpoint = Endpoint::new([10, 0, 0, 1].into(), 6, 80);
    let member = Member { endpoint, by_lb: true, label: [].into(), state: 0, quiesced: false };
    let group = |members: &[&Member]| Row::Group {
        lb_uid: b"LB1"[..].into(),
        name: b"G"[..].into(),
        members: members.iter().map(|member| (*member).clone()).collect(),
    };
    let lb = Row::LoadBalancer { uid: b"LB1"[..].into(), health: Health(0), flags: LbFlags::NONE, held_until: None };
    for (rows, fits) in [
        (vec![lb.clone(), group(&[&member])], true),
        (vec![group(&[&member])], false),
        (vec![lb.clone(), group(&[&member, &member])], false),
        (vec![lb.clone(), group(&[]), group(&[])], false),
        (vec![lb.clone(), lb.clone()], false),
    ] {
        let filled = memory().fill(Past::default(), rows.iter().cloned().map(Ok), Epoch::default());
        assert_eq!(filled.is_ok(), fits, "{rows:?}: {filled:?}");
    }
}

/// Changes a file with the engine alone.
fn tamper(disk: &Disk, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::builder().create_with_backend(disk.clone()).expect("a whole file");
    let transaction = database.begin_write().expect("a whole file");
    change(&transaction);
    transaction.commit().expect("a whole file");
}

#[test]
fn a_file_of_another_version_is_refused() {
    let disk = Disk::default();
    drop(Store::open_on(disk.clone()).expect("an empty disk"));
    tamper(&disk, |transaction| {
        let mut numbers = transaction.open_table(TableDefinition::<&str, u64>::new("numbers")).expect("the table");
        numbers.insert("version", 99).expect("the row");
    });
    let error = Store::open_on(disk).expect_err("another version");
    assert!(matches!(error, StoreError::Version(99)), "{error}");
}

#[test]
fn a_file_of_the_version_before_is_read() {
    let disk = Disk::default();
    let mut store = Store::open_on(disk.clone()).expect("an empty disk");
    let verdicts = [Verdict { flags: EntryFlags::CONTACT, share: Share::Weight(7) }; 4];
    let endpoint = Endpoint::new([10, 0, 0, 1].into(), 6, 80);
    let judged = Entry::Judged(endpoint, Last { verdicts, ramp_until: None });
    store.apply([&judged], Epoch::default(), Date(1)).expect("the disk works");
    drop(store);
    let version = TableDefinition::<&str, u64>::new("numbers");
    tamper(&disk, |transaction| {
        transaction.open_table(version).expect("the table").insert("version", 2).expect("the row");
    });
    let mut store = Store::open_on(disk.clone()).expect("the version before");
    assert_eq!(rows(&store, Epoch::default()), [Row::Verdicts { endpoint, verdicts, ramp_until: None }]);
    store.apply([&judged], Epoch::default(), Date(2)).expect("the disk works");
    drop(store);
    tamper(&disk, |transaction| {
        let table = transaction.open_table(version).expect("the table");
        assert_eq!(table.get("version").expect("the row").map(|version| version.value()), Some(3));
    });
}

#[test]
fn a_file_of_another_program_is_refused() {
    let disk = Disk::default();
    tamper(&disk, |transaction| {
        transaction.open_table(TableDefinition::<&str, &str>::new("recipes")).expect("a table");
    });
    let error = Store::open_on(disk).expect_err("no state");
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    let error = Store::open_on(Disk::of(vec![b'x'; 100_000])).expect_err("no file of the engine");
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
}

#[test]
fn rows_of_no_group_are_found() {
    let disk = Disk::default();
    drop(Store::open_on(disk.clone()).expect("an empty disk"));
    tamper(&disk, |transaction| {
        let chunks = TableDefinition::<(u64, u32), &[u8]>::new("members");
        transaction.open_table(chunks).expect("the table").insert((7, 0), &[0; 21][..]).expect("the row");
    });
    let store = Store::open_on(disk).expect("the numbers are right");
    let error = store.each_row(Epoch::default(), |_| Ok(())).expect_err("members of no group");
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
}

#[test]
fn a_file_is_empty_if_no_table_has_a_row() {
    let endpoint = Endpoint::new([10, 0, 0, 1].into(), 6, 80);
    let verdicts = [Verdict { flags: EntryFlags::CONTACT, share: Share::Weight(7) }; 4];
    let mut store = memory();
    store.begin(&[], Epoch::default(), true).expect("memory is a disk");
    assert!(store.is_empty().expect("memory is a disk"), "a daemon has started, and knew nothing");
    let judged = Entry::Judged(endpoint, Last { verdicts, ramp_until: None });
    store.apply([&judged], Epoch::default(), Date(1)).expect("memory is a disk");
    assert!(!store.is_empty().expect("memory is a disk"));
    store.apply([&Entry::Gone(endpoint)], Epoch::default(), Date(1)).expect("memory is a disk");
    assert!(store.is_empty().expect("memory is a disk"));
    // The date is that of what is filled in, and starts count on.
    store.fill(Past::default(), [], Epoch::default()).expect("memory is a disk");
    assert_eq!(store.past(), Past { starts: 1, ..Past::default() });

    let key = [&7_u64.to_be_bytes()[..], &[6, 0, 80], &[0; 16]].concat();
    let rows: [&dyn Fn(&redb::WriteTransaction); 3] = [
        &|transaction| {
            let table = TableDefinition::<&[u8], u64>::new("groups");
            transaction.open_table(table).expect("the table").insert(&b"\x01LG"[..], 7).expect("the row");
        },
        &|transaction| {
            let table = TableDefinition::<(u64, u32), &[u8]>::new("members");
            transaction.open_table(table).expect("the table").insert((7, 0), &[0; 21][..]).expect("the row");
        },
        &|transaction| {
            let table = TableDefinition::<&[u8], &[u8]>::new("states");
            transaction.open_table(table).expect("the table").insert(&key[..], &[9, 0][..]).expect("the row");
        },
    ];
    for put in rows {
        let disk = Disk::default();
        drop(Store::open_on(disk.clone()).expect("an empty disk"));
        tamper(&disk, put);
        assert!(!Store::open_on(disk).expect("the numbers are right").is_empty().expect("memory is a disk"));
    }
}

/// The bytes of a file that was closed, and its rows.
fn closed_file(rng: &mut Rng) -> (Vec<u8>, Vec<Row>) {
    let mut history = History::default();
    let disk = Disk::default();
    let mut store = Store::open_on(disk.clone()).expect("an empty disk");
    let entries: Vec<_> = (0..200).map(|_| history.entry(rng)).collect();
    store.apply(&entries, Epoch::default(), Date::default()).expect("the disk works");
    let rows = rows(&store, Epoch::default());
    drop(store);
    (disk.bytes(), rows)
}

/// A disk that changes bytes of a file that is closed: each row is right, or the file is refused.
#[test]
fn no_changed_byte_of_a_closed_file_is_believed() {
    let mut rng = Rng::with_seed(4);
    let (bytes, before) = closed_file(&mut rng);
    let mut refused = 0;
    for _ in 0..1000 {
        let mut changed = bytes.clone();
        // Most of the file is free.
        let at = loop {
            let at = rng.usize(..changed.len());
            if changed[at] != 0 {
                break at;
            }
        };
        changed[at] ^= 1 << rng.u8(..8);
        match Store::open_on(Disk::of(changed)) {
            Ok(store) => assert_eq!(rows(&store, Epoch::default()), before, "byte {at}"),
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged(_)), "byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn changed_bytes_are_found_by_the_check() {
    let mut rng = Rng::with_seed(3);
    let (bytes, before) = closed_file(&mut rng);
    let mut found = 0;
    for _ in 0..100 {
        let mut changed = bytes.clone();
        for _ in 0..200 {
            let at = rng.usize(..changed.len());
            changed[at] ^= 1 << rng.u8(..8);
        }
        let Ok(store) = Store::open_on(Disk::of(changed)) else {
            found += 1;
            continue;
        };
        match store.check() {
            Ok(_) => assert_eq!(rows(&store, Epoch::default()), before, "the changed bytes belong to no row"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn the_mark_that_etcd_lacks_something_is_kept() {
    let disk = Disk::default();
    let open = || Store::open_on(disk.clone()).expect("the disk works");
    let mut store = open();
    assert!(store.is_ahead(), "a file that no fleet has seen");
    let known = Known { store: 5, revision: 7 };
    let entry = Entry::Fleet { ahead: false, known, kept: 0 };
    store.apply(&[entry], Epoch::default(), Date::default()).expect("the disk works");
    drop(store);
    let mut store = open();
    assert_eq!((store.is_ahead(), store.known()), (false, known));
    store.begin(&[], Epoch::default(), false).expect("the disk works");
    assert_eq!((store.is_ahead(), store.known()), (false, known));
    // Without a fleet, nobody tells etcd, and nobody hears of it.
    store.begin(&[], Epoch::default(), true).expect("the disk works");
    drop(store);
    let store = open();
    assert_eq!((store.is_ahead(), store.known()), (true, Known::default()));
}

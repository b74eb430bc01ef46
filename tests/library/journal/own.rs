//! What a node of a fleet has changed by itself and etcd may lack, in the file.

use gwm::{
    journal::{Ahead, Began, Date, Did, Entry, Epoch, FleetDate, Known, Owns, Row, RowKey, Store, Whole},
    time::Time,
};

use super::{disk::Disk, history::word, rows::rows};
use crate::wire;

fn request(text: &str) -> Entry {
    Entry::Request(wire::parse(text).bytes(0).into())
}

fn own(number: u64, entry: Entry) -> Entry {
    Entry::Own { number, began: None, entry: Box::new(entry) }
}

/// A load balancer says this, whose session began at this second.
fn said(number: u64, began: u64, text: &str) -> Entry {
    let began = Some(Time(began * 1_000_000_000));
    Entry::Own { number, began, entry: Box::new(request(text)) }
}

fn fleet(ahead: bool, kept: u64) -> Entry {
    Entry::Fleet { ahead, known: Known { store: 5, revision: 7 }, kept }
}

fn bound() -> Entry {
    Entry::Bound(b"LB1"[..].into())
}

fn group(name: &str) -> RowKey {
    RowKey::Group(b"LB1"[..].into(), name.as_bytes().into())
}

/// A file in the first life of a node.
fn new() -> (Disk, Store) {
    let disk = Disk::default();
    let mut store = Store::open_on(disk.clone()).expect("the disk works");
    store.begin(&[], Epoch::default(), false).expect("the disk works");
    (disk, store)
}

fn apply(store: &mut Store, entries: &[Entry]) {
    store.apply(entries, Epoch::default(), Date::default()).expect("the disk works");
}

fn owns(store: &Store) -> Owns {
    match store.ahead().expect("it can be read") {
        Ahead::Own(owns) => owns,
        other => panic!("{other:?}"),
    }
}

fn keys(store: &Store) -> Vec<RowKey> {
    owns(store).rows.into_keys().collect()
}

#[test]
fn only_what_etcd_may_lack_is_there() {
    let (disk, mut store) = new();
    assert!(matches!(store.ahead(), Ok(Ahead::All(_))), "no etcd has seen it");
    apply(&mut store, &[own(1, bound()), own(2, request("lb register LB1/G a b")), fleet(true, 2)]);
    assert!(matches!(store.ahead(), Ok(Ahead::All(_))), "etcd has not got all of it yet");
    apply(&mut store, &[fleet(false, 2)]);
    assert!(matches!(store.ahead(), Ok(Ahead::Nothing)));
    // Changes that were ordered are etcd's.
    apply(&mut store, &[request("lb register LB1/H a"), own(3, request("lb register LB1/I a b")), fleet(true, 2)]);
    assert_eq!(keys(&store), [group("I")]);
    apply(&mut store, &[own(4, request("lb deregister LB1/H")), fleet(true, 3)]);
    assert_eq!(keys(&store), [group("H")], "which is not there any more");
    // The next life counts its changes anew.
    drop(store);
    let mut store = Store::open_on(disk).expect("the disk works");
    store.begin(&[], Epoch::default(), false).expect("the disk works");
    let number = word(&mut fastrand::Rng::with_seed(1), 9);
    apply(&mut store, &[own(1, Entry::Said(Box::new(number))), own(2, Entry::Unsaid(9)), fleet(true, 1)]);
    assert_eq!(keys(&store), [group("H"), RowKey::Word(9)]);
    apply(&mut store, &[fleet(true, 2)]);
    assert_eq!(keys(&store), [group("H")]);
    apply(&mut store, &[fleet(false, 2), fleet(true, 2)]);
    assert_eq!(keys(&store), []);
}

#[test]
fn a_load_balancer_that_goes_takes_its_groups_with_it() {
    let groups = ["G", "H"].map(|name| request(&format!("lb register LB1/{name} a")));
    let lb = RowKey::LoadBalancer(b"LB1"[..].into());
    let begin = || {
        let (_, mut store) = new();
        apply(&mut store, &[own(1, bound()), groups[0].clone(), groups[1].clone(), fleet(false, 1)]);
        store
    };
    for (entry, with_lb) in [
        (request("lb deregister LB1/"), false),
        (Entry::Forgotten(b"LB1"[..].into()), true),
        (Entry::Whole(b"LB1"[..].into(), None::<Box<Whole>>), true),
    ] {
        let mut store = begin();
        apply(&mut store, &[own(2, entry), fleet(true, 1)]);
        let both = [group("G"), group("H")];
        let all: Vec<RowKey> = with_lb.then(|| lb.clone()).into_iter().chain(both).collect();
        assert_eq!(keys(&store), all);
        let is_group = |row: &Row| matches!(row, Row::Group { .. });
        assert!(!rows(&store, Epoch::default()).iter().any(is_group));
    }
}

#[test]
fn of_a_group_it_is_known_when_the_load_balancer_spoke_and_whom_it_deregistered() {
    let (disk, mut store) = new();
    let began = |life, seconds: u64| Began { life, at: Time(seconds * 1_000_000_000) };
    apply(&mut store, &[own(1, bound()), said(2, 5, "lb register LB1/G a b c"), fleet(false, 0)]);
    apply(&mut store, &[said(3, 5, "lb deregister LB1/G a b"), own(4, request("member register LB1/G d"))]);
    apply(&mut store, &[fleet(true, 0)]);
    let shown = |store: &Store| {
        let row = owns(store).rows.remove(&group("G")).expect("it was changed");
        assert!(!row.is_whole);
        let members = row.members.into_iter().map(|(endpoint, (did, began))| {
            let began = began.map_or("-".into(), |began| format!("{}:{}", began.life, began.at.0 / 1_000_000_000));
            let sign = match did {
                Did::Joined => '+',
                Did::Changed => '=',
                Did::Left => '-',
            };
            format!("{sign}{}@{began}", wire::endpoint_name(&endpoint))
        });
        (row.session, members.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(shown(&store), (Some(began(1, 5)), "-a@1:5 -b@1:5 +c@1:5 +d@-".into()));
    drop(store);
    let mut store = Store::open_on(disk).expect("the disk works");
    store.begin(&[], Epoch::default(), false).expect("the disk works");
    apply(&mut store, &[said(1, 9, "lb register LB1/G a"), said(2, 9, "lb deregister LB1/G c")]);
    apply(&mut store, &[own(3, request("member set LB1/G a=07 d=07q"))]);
    assert_eq!(shown(&store), (Some(began(2, 9)), "+a@- -b@1:5 -c@2:9 +d@-".into()));
    // Of the group etcd lacks some members, and others not.
    apply(&mut store, &[fleet(true, 2)]);
    assert_eq!(shown(&store), (Some(began(2, 9)), "+a@- -b@1:5 +d@-".into()));
    apply(&mut store, &[fleet(true, 3)]);
    assert_eq!(shown(&store), (None, "-b@1:5".into()), "of the life before");
    apply(&mut store, &[own(4, request("member set LB1/G a=00"))]);
    assert_eq!(shown(&store), (None, "=a@- -b@1:5".into()));
}

#[test]
fn a_node_that_etcd_has_all_of_begins_anew() {
    let (disk, mut store) = new();
    apply(&mut store, &[own(1, bound()), fleet(false, 1), own(2, request("lb register LB1/G a"))]);
    drop(store);
    let mut store = Store::open_on(disk).expect("the disk works");
    store.begin(&[], Epoch::default(), false).expect("the disk works");
    apply(&mut store, &[fleet(true, 0)]);
    assert_eq!(keys(&store), [], "nobody was told that it was done");
}

#[test]
fn dates_of_the_last_lives_are_kept() {
    let (_, mut store) = new();
    apply(&mut store, &[own(1, bound()), fleet(false, 1), fleet(true, 1)]);
    let date = |life| FleetDate { era: life, at: Time(2), date: Date(3), error: 4, awake: Time(5) };
    for life in 2..40 {
        store.begin(&[], Epoch::default(), false).expect("the disk works");
        apply(&mut store, &[Entry::Date(date(0)), Entry::Date(date(life))]);
    }
    let dates: Vec<_> = owns(&store).dates.into_iter().collect();
    assert_eq!(dates, (24..40).map(|life| (life, date(life))).collect::<Vec<_>>());
}

#[test]
fn a_node_without_a_fleet_knows_of_no_change() {
    let (_, mut store) = new();
    apply(&mut store, &[own(1, bound()), fleet(false, 1), own(2, request("lb register LB1/G a")), fleet(true, 1)]);
    assert_eq!(keys(&store), [group("G")]);
    store.begin(&[], Epoch::default(), true).expect("the disk works");
    assert!(matches!(store.ahead(), Ok(Ahead::All(owns)) if owns.rows.is_empty()));
}

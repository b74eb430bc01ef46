//! A node that dies while its state on disk is ahead of the store, and comes back.

use std::time::Duration;

use gwm::{
    coordinator::{GroupChange, Order},
    fleet::{Batch, Moment, Replica, Settings, VALUE_BYTES},
    journal::{Ahead, Date, Entry, Epoch, Known, Member, Owns, Row, Store},
    sasp::{Health, LbFlags},
};

use super::etcd::Etcd;
use crate::wire;

pub(super) fn replica(node: &str, incarnation: u64, value_bytes: usize) -> Replica {
    Replica::new(Settings {
        node: node.into(),
        incarnation,
        address: "".into(),
        version: "".into(),
        hold_time: Duration::from_secs(600),
        value_bytes,
    })
}

pub(super) fn list(replica: &mut Replica, etcd: &Etcd) {
    replica.begin_listing(1);
    for event in etcd.list() {
        replica.put(&event.key, &event.value.expect("it is there"), event.revision, Moment::default());
    }
    replica.end_listing(etcd.revision, Moment::default());
    replica.set_connected(true);
}

/// Does all that there is to do; gives the orders.
pub(super) fn settle(replica: &mut Replica, etcd: &mut Etcd, lease: u64) -> Vec<Order> {
    let mut orders = Vec::new();
    loop {
        let before = etcd.revision;
        while let Some((number, order)) = replica.next_order(Moment::default()) {
            replica.done(number, true);
            orders.push(order);
        }
        let batch: Option<Batch> = replica.next_batch(true, Moment::default());
        if let Some(batch) = &batch {
            match etcd.transact(batch, lease) {
                Some(revision) => replica.committed(batch, revision),
                None => replica.refused(batch),
            }
        }
        for event in etcd.since(before) {
            match event.value {
                Some(value) => replica.put(&event.key, &value, event.revision, Moment::default()),
                None => replica.delete(&event.key, event.revision),
            }
        }
        if batch.is_none() && replica.is_settled() {
            return orders;
        }
    }
}

pub(super) fn told(replica: &mut Replica, text: &str) {
    let request = Entry::Request(wire::parse(text).bytes(0).into());
    replica.local(&request, Moment::default());
}

/// What a node finds that comes now.
pub(super) fn groups(etcd: &mut Etcd) -> Vec<String> {
    let mut reader = replica("reader", 1, VALUE_BYTES);
    list(&mut reader, etcd);
    let lease = etcd.grant(0, u64::MAX / 2);
    let orders = settle(&mut reader, etcd, lease);
    let mut groups: Vec<String> = orders
        .into_iter()
        .filter_map(|order| match order {
            Order::Group { name, change: GroupChange::Begun(members), .. } => {
                let members = members.iter().map(|member| {
                    let quiesced = if member.quiesced { "q" } else { "" };
                    wire::endpoint_name(&member.endpoint) + quiesced
                });
                let members: Vec<String> = members.collect();
                Some(format!("{} {}", name.escape_ascii(), members.join(" ")))
            }
            _ => None,
        })
        .collect();
    groups.sort();
    groups
}

/// A store in which a node has a load balancer with two groups, and what the node knew of the store.
fn begin(value_bytes: usize) -> (Etcd, Known) {
    let mut etcd = Etcd::default();
    let mut first = replica("a", 1, value_bytes);
    first.local(&Entry::Bound(b"LB1"[..].into()), Moment::default());
    told(&mut first, "lb register LB1/G a b");
    told(&mut first, "lb register LB1/H a");
    list(&mut first, &etcd);
    let lease = etcd.grant(0, u64::MAX / 2);
    settle(&mut first, &mut etcd, lease);
    let known = first.known().expect("all is settled");
    assert_eq!(groups(&mut etcd), ["G a b", "H a"]);
    (etcd, known)
}

pub(super) fn lb() -> Row {
    Row::LoadBalancer { uid: b"LB1"[..].into(), health: Health(0x7F), flags: LbFlags::TRUST, held_until: None }
}

pub(super) fn row(name: &str, members: &str) -> Row {
    let member = |name: &str| Member {
        endpoint: wire::endpoint(name),
        by_lb: true,
        state: 0,
        quiesced: false,
        label: Box::default(),
    };
    let members = members.split(' ').map(member).collect();
    Row::Group { lb_uid: b"LB1"[..].into(), name: name.as_bytes().into(), members }
}

/// Another node, which knows all of the store, and its lease.
fn another(etcd: &mut Etcd) -> (Replica, u64) {
    let mut other = replica("b", 1, VALUE_BYTES);
    list(&mut other, etcd);
    let lease = etcd.grant(0, u64::MAX / 2);
    settle(&mut other, etcd, lease);
    (other, lease)
}

/// A later life of the node, by what its file says.
fn life(incarnation: u64, ahead: Ahead, known: Known, rows: &[Row]) -> Replica {
    let mut life = replica("a", incarnation, VALUE_BYTES);
    life.restored(ahead, known);
    rows.iter().for_each(|row| life.restore(row, Moment::default()));
    life
}

/// The node's next life. Without the store, `b` has left G, H has ended, and N has begun.
fn come_back(etcd: &mut Etcd, known: Option<Known>, value_bytes: usize) {
    let mut second = replica("a", 3, value_bytes);
    second.restored(Ahead::All(Owns::default()), known.unwrap_or_default());
    for row in [lb(), row("G", "a"), row("N", "b")] {
        second.restore(&row, Moment::default());
    }
    list(&mut second, etcd);
    let lease = etcd.grant(0, u64::MAX / 2);
    settle(&mut second, etcd, lease);
    assert!(!second.is_ahead() && !second.is_reconciling());
}

#[test]
fn what_it_removed_stays_removed_and_what_it_added_stays() {
    for value_bytes in [VALUE_BYTES, 20] {
        let (mut etcd, known) = begin(value_bytes);
        come_back(&mut etcd, Some(known), value_bytes);
        assert_eq!(groups(&mut etcd), ["G a", "N b"]);
    }
}

/// What `entries` make of the file of a node that etcd knew, and that is ahead of etcd since.
pub(super) fn ahead(entries: &[Entry], known: Known) -> Ahead {
    let mut store = Store::open_on(redb::backends::InMemoryBackend::new()).expect("memory is a disk");
    store.begin(&[], Epoch::default(), false).expect("memory is a disk");
    let group = Entry::Request(wire::parse("lb register LB1/G a x").bytes(0).into());
    let all = [Entry::Bound(b"LB1"[..].into()), group, Entry::Fleet { ahead: false, known, kept: 0 }];
    let ahead = [Entry::Fleet { ahead: true, known, kept: 0 }];
    for entries in [&all, entries, &ahead] {
        store.apply(entries, Epoch::default(), Date::default()).expect("memory is a disk");
    }
    store.ahead().expect("it was written")
}

#[test]
fn what_the_node_has_not_changed_by_itself_is_as_others_have_made_it() {
    let (mut etcd, known) = begin(VALUE_BYTES);
    let (mut other, lease) = another(&mut etcd);
    for text in ["lb deregister LB1/G b", "lb deregister LB1/H", "lb register LB1/I a", "member register LB1/N c"] {
        told(&mut other, text);
    }
    settle(&mut other, &mut etcd, lease);
    let request = Entry::Request(wire::parse("lb register LB1/N b").bytes(0).into());
    let own = Entry::Own { number: 1, began: None, entry: Box::new(request) };
    let mut second = life(3, ahead(&[own], known), known, &[lb(), row("G", "a b"), row("H", "a"), row("N", "b")]);
    list(&mut second, &etcd);
    settle(&mut second, &mut etcd, lease);
    assert!(!second.is_ahead() && !second.is_reconciling());
    assert_eq!(groups(&mut etcd), ["G a", "I a", "N c b"]);
}

#[test]
fn a_state_that_the_node_has_set_is_no_registration() {
    for (text, found) in [("lb deregister LB1/G a", "G b"), ("lb register LB1/G c", "G aq b c")] {
        let (mut etcd, known) = begin(VALUE_BYTES);
        let (mut other, lease) = another(&mut etcd);
        told(&mut other, text);
        settle(&mut other, &mut etcd, lease);
        let request = Entry::Request(wire::parse("member set LB1/G a=00q").bytes(0).into());
        let own = Entry::Own { number: 1, began: None, entry: Box::new(request) };
        let mut quiesced = row("G", "a b");
        if let Row::Group { members, .. } = &mut quiesced {
            members[0].quiesced = true;
        }
        let mut second = life(3, ahead(&[own], known), known, &[lb(), quiesced, row("H", "a")]);
        list(&mut second, &etcd);
        settle(&mut second, &mut etcd, lease);
        assert_eq!(groups(&mut etcd), [found, "H a"]);
    }
}

#[test]
fn what_was_removed_between_the_start_and_the_first_listing_is_gone() {
    let (mut etcd, known) = begin(VALUE_BYTES);
    let (mut other, lease) = another(&mut etcd);
    other.set_connected(false);
    told(&mut other, "member deregister LB1/H a");
    let mut second = life(3, Ahead::Nothing, known, &[lb(), row("G", "a b"), row("H", "a")]);
    for text in ["lb deregister LB1/G b", "lb register LB1/G c", "member register LB1/H d"] {
        told(&mut second, text);
    }
    list(&mut second, &etcd);
    settle(&mut second, &mut etcd, lease);
    assert_eq!(groups(&mut etcd), ["G a c", "H a d"]);
    // What another node has removed meanwhile is the same registration.
    list(&mut other, &etcd);
    settle(&mut other, &mut etcd, lease);
    assert_eq!(groups(&mut etcd), ["G a c", "H d"]);
    // Not if others have changed the group: c may have left and come back.
    let mut third = life(4, Ahead::Nothing, known, &[lb(), row("G", "a c")]);
    told(&mut third, "lb deregister LB1/G c");
    list(&mut third, &etcd);
    settle(&mut third, &mut etcd, lease);
    assert_eq!(groups(&mut etcd), ["G a c", "H d"]);
}

#[test]
fn of_what_others_changed_meanwhile_nothing_is_removed() {
    let (mut etcd, known) = begin(VALUE_BYTES);
    let (mut other, lease) = another(&mut etcd);
    told(&mut other, "member register LB1/G c");
    settle(&mut other, &mut etcd, lease);
    come_back(&mut etcd, Some(known), VALUE_BYTES);
    assert_eq!(groups(&mut etcd), ["G a b c", "N b"]);
}

#[test]
fn what_another_store_has_is_not_removed() {
    let (mut etcd, known) = begin(VALUE_BYTES);
    for known in [None, Some(Known { store: known.store + 2, ..known })] {
        let mut copy = etcd.clone();
        come_back(&mut copy, known, VALUE_BYTES);
        assert_eq!(groups(&mut copy), ["G a b", "H a", "N b"]);
    }
    assert_eq!(groups(&mut etcd), ["G a b", "H a"]);
}

#[test]
fn a_store_that_has_lost_something_tells_so_before_it_has_as_many_changes_as_before() {
    let named = |etcd: &Etcd| etcd.list().into_iter().find(|event| event.key == b"store").map(|event| event.revision);
    let (mut etcd, _) = begin(VALUE_BYTES);
    let (mut node, lease) = another(&mut etcd);
    let mut frozen = replica("c", 1, VALUE_BYTES);
    let backup = etcd.clone();
    told(&mut node, "member register LB1/G c");
    settle(&mut node, &mut etcd, lease);
    list(&mut frozen, &etcd);
    let other_lease = etcd.grant(0, u64::MAX / 2);
    settle(&mut frozen, &mut etcd, other_lease);
    assert_eq!(node.identity(), frozen.identity());
    // The backup, and then a new store: nothing is written before the key that tells it from others.
    for mut etcd in [backup, Etcd::default()] {
        let before = (node.identity(), named(&etcd), etcd.revision);
        list(&mut node, &etcd);
        let batch = node.next_batch(true, Moment::default()).expect("the store's key");
        assert!(batch.ops.len() == 1 && batch.ops[0].key == b"store", "{batch:?}");
        let revision = etcd.transact(&batch, lease).expect("nothing is in its way");
        node.committed(&batch, revision);
        let lease = etcd.grant(0, u64::MAX / 2);
        settle(&mut node, &mut etcd, lease);
        assert!(named(&etcd) > before.1 && etcd.revision > before.2);
        assert!(node.identity().is_some() && node.identity() != before.0 && node.identity() != frozen.identity());
        assert_eq!(groups(&mut etcd), ["G a b c", "H a"], "all that it knew is there");
        // Once is enough.
        list(&mut node, &etcd);
        let identity = node.identity();
        settle(&mut node, &mut etcd, lease);
        assert_eq!(node.identity(), identity);
    }
}

#[test]
fn what_was_written_without_an_answer_and_removed_then_stays_removed() {
    let (mut etcd, _) = begin(VALUE_BYTES);
    let [mut one, mut other] = ["a", "b"].map(|name| replica(name, 5, VALUE_BYTES));
    let lease = etcd.grant(0, u64::MAX / 2);
    for node in [&mut one, &mut other] {
        list(node, &etcd);
        settle(node, &mut etcd, lease);
    }
    let known = etcd.revision;
    told(&mut one, "lb register LB1/G c");
    let batch = one.next_batch(false, Moment::default()).expect("the group");
    etcd.transact(&batch, lease).expect("nothing is in its way");
    one.lost(&batch);
    one.set_connected(false);
    for event in etcd.since(known) {
        other.put(&event.key, &event.value.expect("nothing is deleted"), event.revision, Moment::default());
    }
    told(&mut other, "member register LB1/G d");
    settle(&mut other, &mut etcd, lease);
    assert_eq!(groups(&mut etcd), ["G a b c d", "H a"]);
    told(&mut one, "lb deregister LB1/G c");
    list(&mut one, &etcd);
    settle(&mut one, &mut etcd, lease);
    assert_eq!(groups(&mut etcd), ["G a b d", "H a"]);
}

#[test]
fn parts_that_nobody_needs_are_deleted() {
    let parts = |etcd: &Etcd| etcd.keys().iter().filter(|key| key.starts_with("part/")).count();
    let (mut etcd, known) = begin(20);
    let whole = parts(&etcd);
    assert!(whole >= 4, "{:?}", etcd.keys());
    // A life that dies before it names what it has written.
    let mut second = replica("a", 2, 20);
    list(&mut second, &etcd);
    let lease = etcd.grant(0, u64::MAX / 2);
    settle(&mut second, &mut etcd, lease);
    told(&mut second, "member register LB1/G c");
    let batch = second.next_batch(false, Moment::default()).expect("a part");
    etcd.transact(&batch, lease).expect("nothing is in its way");
    assert_eq!(parts(&etcd), whole + 1);
    come_back(&mut etcd, Some(known), 20);
    assert_eq!(groups(&mut etcd), ["G a", "N b"]);
    // A value in parts ends with their count.
    let values = etcd.list().into_iter().filter(|event| event.key.starts_with(b"group/"));
    let named: usize = values.map(|event| usize::from(*event.value.expect("it is there").last().expect("bytes"))).sum();
    assert_eq!((parts(&etcd), named >= 4), (named, true), "{:?}", etcd.keys());
}

//! What other nodes' checks found, and whether these nodes see the members: in an order in which nothing counts that a node
//! found while it was blind.

use gwm::{
    coordinator::Order,
    fleet::{Moment, VALUE_BYTES},
    judgement::{Share, Verdict, Verdicts},
    sasp::EntryFlags,
};

use super::{
    crash::{list, replica, settle},
    etcd::Etcd,
};
use crate::wire;

fn verdicts(up: bool) -> Verdicts {
    let flags = if up { EntryFlags::CONTACT | EntryFlags::CONFIDENT } else { EntryFlags::CONFIDENT };
    [Verdict { flags, share: Share::Weight(if up { 50 } else { 0 }) }; 4]
}

/// The places of the first order about nodes that has the other node in this way, and of the first one about verdicts.
fn places(orders: &[Order], blind: bool) -> (usize, usize) {
    let is_so = |order: &Order| match order {
        Order::Nodes(nodes) => nodes.iter().any(|node| *node.name == *"b" && node.blind == blind),
        _ => false,
    };
    let nodes = orders.iter().position(is_so).expect("an order about nodes");
    let verdicts = orders.iter().position(|order| matches!(order, Order::Verdicts { .. }));
    (nodes, verdicts.expect("an order about verdicts"))
}

#[test]
fn what_a_node_found_while_it_was_blind_never_counts() {
    let mut etcd = Etcd::default();
    let [mut one, mut other] = ["a", "b"].map(|name| replica(name, 1, VALUE_BYTES));
    let (lease, endpoint) = (etcd.grant(0, u64::MAX / 2), wire::endpoint("x"));
    other.judged(endpoint, Some(verdicts(false)));
    other.set_blind(true);
    list(&mut other, &etcd);
    settle(&mut other, &mut etcd, lease);
    list(&mut one, &etcd);
    let (nodes, verdicts_of) = places(&settle(&mut one, &mut etcd, lease), true);
    assert!(nodes < verdicts_of, "it is known to be blind first");

    let known = etcd.revision;
    other.judged(endpoint, Some(verdicts(true)));
    other.set_blind(false);
    settle(&mut other, &mut etcd, lease);
    for event in etcd.since(known) {
        one.put(&event.key, &event.value.expect("nothing is deleted"), event.revision, Moment::default());
    }
    let (nodes, verdicts_of) = places(&settle(&mut one, &mut etcd, lease), false);
    assert!(verdicts_of < nodes, "what it finds now comes first");
}

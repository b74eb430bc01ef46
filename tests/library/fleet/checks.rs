//! What other nodes' checks found, and whether these nodes see the members: in an order in which nothing counts that a node
//! found while it was blind. And what the simulator's nodes show of members that they have lost.

use fastrand::Rng;
use gwm::{
    coordinator::{MemberRow, Order},
    fleet::{Moment, VALUE_BYTES},
    judgement::{Share, Verdict, Verdicts},
    sasp::EntryFlags,
};

use super::{
    crash::{list, replica, settle},
    etcd::Etcd,
    node::Node,
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

/// A node is asked between two turns of its coordinator, as in the daemon. Within a turn a group that is new, and whose
/// members were lost just before, is not looked at yet.
#[test]
fn a_farm_that_is_registered_when_it_is_lost_is_never_shown_as_down() {
    let (mut node, mut etcd, mut rng) =
        (Node::new("a", 0, 600_000, VALUE_BYTES, false), Etcd::default(), Rng::with_seed(1));
    node.start(0);
    let lb = node.open().expect("it is alive");
    let ask = |node: &mut Node, now, text: &str| node.request(now, lb, &wire::parse(text).bytes(1));
    ask(&mut node, 0, "lb register LB1/G x y z");
    let mut steps = (10..).step_by(10);
    let mut run = |node: &mut Node, is_done: fn(&[MemberRow]) -> bool| {
        let is_next = |now: &u64| {
            node.step_link(*now, &mut etcd, &mut rng);
            node.step(*now, &mut rng);
            is_done(&node.members(*now, "LB1"))
        };
        steps.by_ref().take(100).find(is_next).expect("it comes to be so")
    };
    let now = run(&mut node, |rows| rows.iter().all(|row| row.entry.flags.contains(EntryFlags::CONFIDENT)));
    // It is lost a little later than the farm. So the node does not know at once that it is cut off.
    ask(&mut node, now, "lb register LB1/H w");
    run(&mut node, |rows| rows.iter().all(|row| row.entry.flags.contains(EntryFlags::CONFIDENT)));
    node.members_cut = true;
    let now = run(&mut node, |rows| rows.iter().filter(|row| row.doubted.is_some()).count() == 3);
    ask(&mut node, now, "lb register LB1/S x y z");
    let rows = node.members(now, "LB1");
    let farm: Vec<_> = rows.iter().filter(|row| *row.group == *b"S").map(|row| row.entry.flags).collect();
    assert_eq!(farm, [EntryFlags::CONTACT | EntryFlags::REGISTERED_BY_LB; 3]);
}

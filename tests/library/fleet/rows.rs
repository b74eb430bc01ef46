//! Which rows a replica has, and what it says of a change that does not stay.

use gwm::{
    coordinator::{Pattern, Saying, Word},
    fleet::{Batch, Moment, Replica, VALUE_BYTES},
    journal::Entry,
    time::Time,
};

use super::{
    crash::{list, replica, settle, told},
    etcd::Etcd,
};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Nodes that know all of a store, and what each of them has to hear of yet.
struct Fleet {
    etcd: Etcd,
    lease: u64,
    nodes: Vec<(Replica, i64)>,
}

impl Fleet {
    fn new(value_bytes: usize) -> Fleet {
        let mut etcd = Etcd::default();
        let lease = etcd.grant(0, u64::MAX / 2);
        let nodes = NAMES.map(|name| replica(name, 1, value_bytes));
        let mut fleet = Fleet { etcd, lease, nodes: nodes.into_iter().map(|node| (node, 0)).collect() };
        for (node, known) in &mut fleet.nodes {
            list(node, &fleet.etcd);
            *known = fleet.etcd.revision;
        }
        fleet.rest();
        fleet
    }

    /// A node that is connected hears what the store has, and its coordinator obeys.
    fn hear(&mut self, index: usize) {
        let (node, known) = &mut self.nodes[index];
        if !node.status().connected {
            return;
        }
        for event in self.etcd.since(*known) {
            match event.value {
                Some(value) => node.put(&event.key, &value, event.revision, Moment::default()),
                None => node.delete(&event.key, event.revision),
            }
        }
        *known = self.etcd.revision;
        obey(node);
    }

    /// All nodes write at once. A node hears of the others before or after the answer to what it has written.
    fn write(&mut self, answer_first: bool) -> usize {
        let batches: Vec<Option<Batch>> =
            self.nodes.iter_mut().map(|(node, _)| node.next_batch(true, Moment::default())).collect();
        let answers: Vec<Option<i64>> = batches
            .iter()
            .map(|batch| batch.as_ref().and_then(|batch| self.etcd.transact(batch, self.lease)))
            .collect();
        for (index, (batch, answer)) in batches.iter().zip(answers).enumerate() {
            if !answer_first {
                self.hear(index);
            }
            match (batch, answer) {
                (Some(batch), Some(revision)) => self.nodes[index].0.committed(batch, revision),
                (Some(batch), None) => self.nodes[index].0.refused(batch),
                (None, _) => {}
            }
            self.hear(index);
        }
        batches.iter().flatten().count()
    }

    /// Until there is nothing to do.
    fn rest(&mut self) {
        let mut answer_first = false;
        while self.write(answer_first) > 0 {
            answer_first = !answer_first;
        }
    }

    /// The store's rows, and those that each node has.
    fn rows(&self) -> (usize, Vec<usize>) {
        let is_row = |key: &&String| ["lb/", "group/", "word/"].iter().any(|begin| key.starts_with(begin));
        let stored = self.etcd.keys().iter().filter(is_row).count();
        (stored, self.nodes.iter().map(|(node, _)| node.status().rows).collect())
    }
}

fn obey(node: &mut Replica) {
    while let Some((number, _)) = node.next_order(Moment::default()) {
        node.done(number, true);
    }
}

fn uid(index: usize) -> Box<[u8]> {
    format!("LB{index}").into_bytes().into()
}

/// Load balancers that register at one node, and whose hold time ends at all nodes at once.
#[test]
fn a_row_that_nobody_has_is_forgotten() {
    for (value_bytes, answer_first) in [(VALUE_BYTES, false), (VALUE_BYTES, true), (20, false), (20, true)] {
        let mut fleet = Fleet::new(value_bytes);
        told_of(&mut fleet.nodes[0].0, 300);
        fleet.rest();
        assert_eq!(fleet.rows(), (600, vec![600; 3]));
        for (node, _) in &mut fleet.nodes {
            (0..300).for_each(|index| node.local(&Entry::Forgotten(uid(index)), Moment::default()));
        }
        while fleet.write(answer_first) > 0 {}
        assert_eq!(fleet.rows(), (0, vec![0; 3]), "{value_bytes} {answer_first}");
    }
}

fn told_of(node: &mut Replica, count: usize) {
    for index in 0..count {
        node.local(&Entry::Bound(uid(index)), Moment::default());
        told(node, &format!("lb register LB{index}/G a b"));
        let unbound = Entry::Unbound { lb_uid: uid(index), held_until: Time::default() };
        node.local(&unbound, Moment::default());
    }
}

/// A store, the lease of a node, the node, and the transaction in which it deletes 20 of 22 rows.
fn deleting() -> (Etcd, u64, Replica, Batch) {
    let mut etcd = Etcd::default();
    let lease = etcd.grant(0, u64::MAX / 2);
    let mut node = replica("a", 1, VALUE_BYTES);
    list(&mut node, &etcd);
    told_of(&mut node, 11);
    settle(&mut node, &mut etcd, lease);
    assert_eq!(node.status().rows, 22);
    (0..10).for_each(|index| node.local(&Entry::Forgotten(uid(index)), Moment::default()));
    let batch = node.next_batch(false, Moment::default()).expect("deletions");
    (etcd, lease, node, batch)
}

/// A node that deletes rows loses the connection to the store, and lists all keys then.
#[test]
fn a_row_whose_deletion_had_no_answer_is_forgotten() {
    for is_done in [false, true] {
        let (mut etcd, lease, mut node, batch) = deleting();
        if is_done {
            etcd.transact(&batch, lease).expect("nothing is in its way");
        }
        node.lost(&batch);
        list(&mut node, &etcd);
        settle(&mut node, &mut etcd, lease);
        assert_eq!(node.status().rows, 2, "{is_done}");
    }
}

/// The watch ends between the answer and the events of a deletion: a listing follows.
#[test]
fn a_row_whose_deletion_only_a_listing_tells_is_forgotten() {
    let (mut etcd, lease, mut node, batch) = deleting();
    let revision = etcd.transact(&batch, lease).expect("nothing is in its way");
    node.committed(&batch, revision);
    list(&mut node, &etcd);
    settle(&mut node, &mut etcd, lease);
    assert_eq!(node.status().rows, 2);
}

fn conflicts(node: &mut Replica) -> Vec<String> {
    node.take_conflicts().into_iter().map(|conflict| conflict.0).collect()
}

/// A quiesce of an address.
fn said(number: u64, by: &str) -> Entry {
    let pattern = Pattern { address: Some([10, 0, 0, 1].into()), ..Pattern::default() };
    let (by, from, reason) = (by.into(), "here".into(), "repair\n".into());
    let at = Time::default().into();
    Entry::Said(Box::new(Word { number, saying: Saying::Quiesce, pattern, reason, by, from, at, expires: None }))
}

const ENDED: &str = r#"word 17 has ended: quiesce members with address 10.0.0.1 (by "ann", from here, reason "repair\n"); word 18 is later, and about the same"#;

/// Without the store, two nodes hear different health of a load balancer, and words about the same. The node of the earlier
/// word hears of the later one before or after it has written its own.
#[test]
fn each_change_that_does_not_stay_is_told() {
    for writes_first in [false, true] {
        let mut fleet = Fleet::new(VALUE_BYTES);
        fleet.nodes[0].0.local(&Entry::Bound(uid(0)), Moment::default());
        fleet.rest();
        for (index, health, word) in [(0, 20, said(17, "ann")), (1, 55, said(18, "bob"))] {
            let (node, _) = &mut fleet.nodes[index];
            node.set_connected(false);
            node.local(&Entry::Bound(uid(0)), Moment::default());
            told(node, &format!("lb state LB0 {health}"));
            node.local(&word, Moment::default());
        }
        if writes_first {
            fleet.nodes[0].0.set_connected(true);
            fleet.rest();
        }
        fleet.nodes[1].0.set_connected(true);
        fleet.rest();
        fleet.nodes[0].0.set_connected(true);
        fleet.hear(0);
        fleet.rest();
        let mut told: Vec<String> = fleet.nodes.iter_mut().flat_map(|(node, _)| conflicts(node)).collect();
        told.sort();
        let of_lb =
            "load balancer \"LB0\": two nodes heard different health or flags of it; those of the later session stay";
        assert_eq!(told, [of_lb, ENDED], "{writes_first}");
        assert_eq!(fleet.rows(), (2, vec![2; 3]));
    }
}

/// Whoever says the later word knows the earlier one.
#[test]
fn a_word_that_another_one_replaces_is_no_conflict() {
    let mut fleet = Fleet::new(VALUE_BYTES);
    fleet.nodes[0].0.local(&said(17, "ann"), Moment::default());
    fleet.rest();
    for index in [0, 1] {
        fleet.nodes[index].0.set_connected(index == 1);
    }
    let (node, _) = &mut fleet.nodes[1];
    node.local(&Entry::Unsaid(17), Moment::default());
    node.local(&said(18, "bob"), Moment::default());
    fleet.rest();
    fleet.nodes[0].0.set_connected(true);
    fleet.rest();
    assert_eq!(fleet.nodes.iter_mut().flat_map(|(node, _)| conflicts(node)).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(fleet.rows(), (1, vec![1; 3]));
}

#[test]
fn rows_are_told_of_with_names_as_text() {
    let mut node = replica("a", 1, VALUE_BYTES);
    for key in ["lb/4c42ff", "group/4c4258/776562", "word/0000000000000017"] {
        node.put(key.as_bytes(), b"?", 1, Moment::default());
    }
    let names = [r#"load balancer "LB\xFF""#, r#"group "web" of load balancer "LBX""#, "word 17"];
    let text = |name| format!("{name} is left as it is in the store: the version of a value is not understood");
    assert_eq!(conflicts(&mut node), names.map(text));
}

//! The date that nodes agree on: which session of a load balancer was the later one, whatever the machines' clocks say.

use std::time::Duration;

use gwm::{
    fleet::{Moment, Replica, Settings, VALUE_BYTES},
    journal::{Date, Entry, Epoch, Known},
    time::Time,
};

use super::{
    crash::{ahead, groups, lb, row},
    etcd::Etcd,
};
use crate::wire;

struct Node {
    replica: Replica,
    /// How much its machine's clock is ahead, in milliseconds.
    ahead: u64,
    lease: u64,
    /// The last revision that it has seen, while it is connected.
    seen: Option<i64>,
    /// What is written to its disk since it is cut off, and when its load balancer came.
    written: Vec<Entry>,
    bound: Time,
}

/// Two nodes, and one load balancer.
struct World {
    etcd: Etcd,
    nodes: [Node; 2],
    /// In seconds.
    now: u64,
}

impl World {
    fn new(ahead: [u64; 2]) -> World {
        let mut etcd = Etcd::default();
        let node = |(name, ahead): (&str, u64)| Node {
            replica: Replica::new(Settings {
                node: name.into(),
                incarnation: 1,
                address: "".into(),
                version: "".into(),
                hold_time: Duration::from_secs(600),
                value_bytes: VALUE_BYTES,
            }),
            ahead,
            lease: etcd.grant(0, u64::MAX / 2),
            seen: None,
            written: Vec::new(),
            bound: Time::default(),
        };
        let nodes = [("a", ahead[0]), ("b", ahead[1])].map(node);
        World { etcd, nodes, now: 1 }
    }

    fn at(&self, node: usize) -> Moment {
        let epoch = Epoch(Date(1_800_000_000_000 + self.nodes[node].ahead));
        Moment { now: Time(self.now * 1_000_000_000), epoch }
    }

    fn connect(&mut self, node: usize) {
        let at = self.at(node);
        let Node { replica, seen, .. } = &mut self.nodes[node];
        replica.begin_listing(1);
        for event in self.etcd.list() {
            replica.put(&event.key, &event.value.expect("it is there"), event.revision, at);
        }
        replica.end_listing(self.etcd.revision, at);
        replica.set_connected(true);
        *seen = Some(self.etcd.revision);
        self.settle();
    }

    fn cut(&mut self, node: usize) {
        self.nodes[node].seen = None;
        self.nodes[node].replica.set_connected(false);
    }

    /// Nodes that are connected do all that there is to do.
    fn settle(&mut self) {
        let mut is_idle = false;
        while !is_idle {
            is_idle = true;
            for node in 0..self.nodes.len() {
                let at = self.at(node);
                let Node { replica, seen: Some(seen), lease, .. } = &mut self.nodes[node] else { continue };
                for event in self.etcd.since(*seen) {
                    match event.value {
                        Some(value) => replica.put(&event.key, &value, event.revision, at),
                        None => replica.delete(&event.key, event.revision),
                    }
                    (*seen, is_idle) = (event.revision, false);
                }
                while let Some((number, _)) = replica.next_order(at) {
                    replica.done(number, true);
                }
                if let Some(batch) = replica.next_batch(true, at) {
                    match self.etcd.transact(&batch, *lease) {
                        Some(revision) => replica.committed(&batch, revision),
                        None => replica.refused(&batch),
                    }
                    is_idle = false;
                }
            }
        }
    }

    /// The load balancer comes to a node, ten seconds later, says this, and goes.
    fn session(&mut self, node: usize, requests: &[&str]) {
        self.now += 10;
        let uid = || b"LB1"[..].into();
        let asked = requests.iter().map(|text| Entry::Request(wire::parse(text).bytes(0).into()));
        let gone = Entry::Unbound { lb_uid: uid(), held_until: Time(u64::MAX / 2) };
        for entry in [Entry::Bound(uid())].into_iter().chain(asked).chain([gone]) {
            let at = self.at(node);
            let Node { replica, written, bound, .. } = &mut self.nodes[node];
            if matches!(entry, Entry::Bound(_)) {
                *bound = at.now;
            }
            let number = written.len() as u64 + 1;
            replica.local(&entry, at);
            written.push(Entry::Date(replica.fleet_date(at)));
            written.push(Entry::Own { number, began: Some(*bound), entry: Box::new(entry) });
            self.settle();
        }
    }

    /// A node that is cut off dies, and comes back a minute later.
    fn crash(&mut self, node: usize, known: Known, members: &str) {
        self.now += 60;
        let at = self.at(node);
        let Node { replica, written, .. } = &mut self.nodes[node];
        let name = ["a", "b"][node];
        *replica = super::crash::replica(name, 2, VALUE_BYTES);
        replica.restored(ahead(written, known), known);
        for row in [lb(), row("G", members)] {
            replica.restore(&row, at);
        }
    }
}

/// The clock of either machine is a minute ahead, or none is.
const AHEAD: [[u64; 2]; 3] = [[60_000, 0], [0, 60_000], [0, 0]];

/// Nodes that have met, of which the first is cut off, or both are.
fn met(ahead: [u64; 2], cut: &[usize]) -> World {
    let mut world = World::new(ahead);
    world.connect(0);
    world.connect(1);
    world.session(1, &["lb register LB1/G a x"]);
    cut.iter().for_each(|node| world.cut(*node));
    world
}

#[test]
fn a_registration_of_a_later_session_stays() {
    for ahead in AHEAD {
        let mut world = met(ahead, &[0]);
        world.session(0, &["lb deregister LB1/G x"]);
        world.session(1, &["lb deregister LB1/G x", "lb register LB1/G x"]);
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G a x"], "{ahead:?}");
    }
}

#[test]
fn a_removal_of_a_later_session_holds() {
    for ahead in AHEAD {
        for back in [[0, 1], [1, 0]] {
            let mut world = met(ahead, &[0, 1]);
            world.session(0, &["lb register LB1/G y"]);
            world.session(1, &["lb register LB1/G y", "lb deregister LB1/G y"]);
            back.iter().for_each(|node| world.connect(*node));
            assert_eq!(groups(&mut world.etcd), ["G a x"], "{ahead:?} {back:?}");
        }
    }
}

/// A node hears of what others do, and can tell nothing itself.
#[test]
fn what_a_node_could_not_write_goes_with_a_removal_of_a_later_session() {
    for ahead in AHEAD {
        let mut world = met(ahead, &[]);
        world.nodes[0].replica.set_connected(false);
        world.session(0, &["lb register LB1/G y"]);
        // The node hears of the registration before it hears of the removal.
        world.session(1, &["lb register LB1/G y", "lb deregister LB1/G y"]);
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G a x"], "{ahead:?}");
        // What the load balancer said later at the node that could not write stays.
        world.nodes[0].replica.set_connected(false);
        world.session(1, &["lb register LB1/G y"]);
        world.session(1, &["lb deregister LB1/G y"]);
        world.session(0, &["lb register LB1/G y"]);
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G a x y"], "{ahead:?}");
    }
}

#[test]
fn the_order_of_sessions_is_known_after_a_crash() {
    for moved in AHEAD {
        let begin = || {
            let mut world = World::new(moved);
            world.connect(0);
            world.connect(1);
            world.session(0, &["lb register LB1/G a x"]);
            let known = world.nodes[0].replica.known().expect("all is settled");
            world.cut(0);
            world.nodes[0].written.clear();
            (world, known)
        };
        // The load balancer was at the node that dies before it was at the other one,
        let (mut world, known) = begin();
        world.session(0, &["lb register LB1/G y"]);
        world.session(1, &["lb register LB1/G y", "lb deregister LB1/G y"]);
        world.crash(0, known, "a x y");
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G a x"], "{moved:?}");
        // or after,
        let (mut world, known) = begin();
        world.session(1, &["lb register LB1/G y", "lb deregister LB1/G y"]);
        world.session(0, &["lb register LB1/G y"]);
        world.crash(0, known, "a x y");
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G a x y"], "{moved:?}");
        // or at that node alone. What it did not change by itself, others may have removed.
        let (mut world, known) = begin();
        world.session(0, &["lb deregister LB1/G x"]);
        world.session(1, &[]);
        let at = world.at(1);
        for text in ["member register LB1/G z", "member deregister LB1/G a"] {
            let request = Entry::Request(wire::parse(text).bytes(0).into());
            world.nodes[1].replica.local(&request, at);
        }
        world.settle();
        world.crash(0, known, "a");
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G z"], "{moved:?}");
    }
}

/// Members alone have spoken to the node that dies: whose last word the group has, it does not make unknown.
#[test]
fn a_crash_after_a_members_word_makes_no_session_unknown() {
    for moved in AHEAD {
        let mut world = World::new(moved);
        world.connect(0);
        world.connect(1);
        world.session(0, &["lb register LB1/G a x"]);
        world.cut(1);
        world.session(0, &["lb register LB1/G y"]);
        let known = world.nodes[0].replica.known().expect("all is settled");
        world.cut(0);
        world.session(1, &["lb register LB1/G y", "lb deregister LB1/G y"]);
        let at = world.at(0);
        let date = Entry::Date(world.nodes[0].replica.fleet_date(at));
        let request = Entry::Request(wire::parse("member register LB1/G z").bytes(0).into());
        world.nodes[0].written = vec![date, Entry::Own { number: 1, began: None, entry: Box::new(request) }];
        world.crash(0, known, "a x y z");
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G a x y z"], "{moved:?}");
        world.connect(1);
        assert_eq!(groups(&mut world.etcd), ["G a x z"], "{moved:?}");
    }
}

#[test]
fn nodes_that_have_not_met_know_of_no_order_and_what_is_registered_stays() {
    for ahead in AHEAD {
        let mut world = World::new(ahead);
        world.session(0, &["lb register LB1/G y"]);
        world.session(1, &["lb register LB1/G a y", "lb deregister LB1/G y"]);
        world.connect(1);
        world.connect(0);
        assert_eq!(groups(&mut world.etcd), ["G a y"], "{ahead:?}");
    }
}

//! What is hard for a node: a group that is larger than etcd's requests, and a crash while etcd is away.

use std::collections::BTreeSet;

use gwm::{
    client::Client,
    sasp::{Endpoint, GroupData, Health, LbFlags, MemberData, SenderFlags},
};

use super::{
    bed::Directory,
    store::{A, B, OK, Store, members},
};
use crate::{
    admin::read,
    harness::{Daemon, LB, MEMBER, PATIENCE, Peer, until},
};

/// Members of the large group, with labels that can not be compressed: 1.4 MB.
const MEMBERS: u16 = 6000;

/// Registers the large group, in messages that the daemon takes.
fn register_all(daemon: &Daemon) {
    let mut client = Client::connect(&daemon.address().to_string(), PATIENCE).expect("it listens");
    client.set_lb_state(b"LB1", Health::BEST, LbFlags::TRUST).expect("it is there");
    let mut random = fastrand::Rng::with_seed(1);
    let members: Vec<(Endpoint, Vec<u8>)> = (0..MEMBERS)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let label = (0..200).map(|_| random.u8(..)).collect();
            (Endpoint::new([10, 1, high, low].into(), 6, 80), label)
        })
        .collect();
    for some in members.chunks(2000) {
        let list = some.iter().map(|(endpoint, label)| MemberData { endpoint: *endpoint, label });
        let group = GroupData { lb_uid: b"LB1", name: b"large" };
        client.register(SenderFlags::LOAD_BALANCER, [(group, list)]).expect("it is registered");
    }
}

fn memberships(daemon: &Daemon) -> u64 {
    read(daemon, "/api/v1/totals")["memberships"].as_u64().expect("a number")
}

/// How many parts of groups etcd has.
fn parts(store: &Store) -> u64 {
    // From /gwm/main/part/ to /gwm/main/part0.
    let range = r#"{"key":"L2d3bS9tYWluL3BhcnQv","range_end":"L2d3bS9tYWluL3BhcnQw","count_only":true}"#;
    let answer = store.ask("/v3/kv/range", "", range).json();
    answer["count"].as_str().map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn a_group_that_is_larger_than_a_request_of_etcd_is_in_parts() {
    let Some(store) = Store::start() else { return };
    let (a, b) = (store.node("a", &[]), store.node("b", &[]));
    register_all(&a);
    until("b has all of it", || memberships(&b) == u64::from(MEMBERS));
    let first = parts(&store);
    assert!((3..20).contains(&first), "{first} parts");
    // It changes at the other node; the parts before go.
    assert_eq!(b.connect().deregister(MEMBER, "LB1", "large", &["10.1.0.1:80"]), OK);
    until("a has heard of it", || memberships(&a) == u64::from(MEMBERS) - 1);
    until("there are as many parts as before", || parts(&store) == first);
    let c = store.node("c", &[]);
    assert_eq!(memberships(&c), u64::from(MEMBERS) - 1);
    // The group ends.
    let mut lb = a.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    assert_eq!(lb.deregister(LB, "LB1", "large", &[]), OK);
    until("all have heard of it", || [&a, &b, &c].into_iter().all(|node| memberships(node) == 0));
    until("no part is left", || parts(&store) == 0);
}

/// Etcd, which is dead, and two nodes that know it.
struct WithoutEtcd {
    store: Store,
    state: Directory,
    /// Has a state on disk.
    a: Daemon,
    b: Daemon,
    /// A load balancer's session at `a`.
    lb: Peer,
}

impl WithoutEtcd {
    /// Before, the load balancer has registered these groups, and both nodes have them.
    fn begin(groups: &[(&str, &[&str])]) -> Option<WithoutEtcd> {
        let mut store = Store::start()?;
        let state = Directory::new();
        let (a, b) = (store.node("a", &WithoutEtcd::flags(&state)), store.node("b", &[]));
        let mut lb = a.connect();
        assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
        for (group, members) in groups {
            assert_eq!(lb.register(LB, "LB1", group, members), OK);
        }
        let count: usize = groups.iter().map(|(_, members)| members.len()).sum();
        until("b shows it", || members(&b).len() == count);
        store.kill();
        for node in [&a, &b] {
            until("etcd is away", || !read(node, "/api/v1/fleet")["fleet"]["trouble"].is_null());
        }
        Some(WithoutEtcd { store, state, a, b, lb })
    }

    fn flags(state: &Directory) -> [&str; 2] {
        ["--state", state.path().to_str().expect("UTF-8")]
    }

    /// The node with a state dies, and etcd comes back.
    fn kill(mut self) -> (Store, Directory, Daemon) {
        self.a.signal(rustix::process::Signal::KILL);
        self.a.wait();
        self.store.go_on();
        (self.store, self.state, self.b)
    }
}

fn show_the_same(nodes: [&Daemon; 2], expected: &[&str]) {
    for node in nodes {
        until("all show the same", || {
            let shown = members(node).into_iter().map(|(group, address, _)| format!("{group} {address}"));
            shown.collect::<BTreeSet<_>>().iter().eq(expected)
        });
    }
}

#[test]
fn what_others_removed_while_a_node_was_dead_is_gone() {
    let Some(mut fleet) = WithoutEtcd::begin(&[("web", &[A, B])]) else { return };
    // Whatever it is, the disk knows then that etcd is away.
    assert_eq!(fleet.lb.register(LB, "LB1", "new", &[A]), OK);
    let (store, state, b) = fleet.kill();
    until("etcd is back", || read(&b, "/api/v1/fleet")["fleet"]["trouble"].is_null());
    let mut lb = b.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    assert_eq!(lb.deregister(LB, "LB1", "web", &[B]), OK);
    let a = store.node("a", &WithoutEtcd::flags(&state));
    show_the_same([&a, &b], &["new 10.0.0.1", "web 10.0.0.1"]);
}

#[test]
fn what_a_node_was_told_without_etcd_holds_after_a_crash() {
    let groups: [(&str, &[&str]); 2] = [("web", &[A, B]), ("old", &[A])];
    let Some(mut fleet) = WithoutEtcd::begin(&groups) else { return };
    assert_eq!(fleet.lb.deregister(LB, "LB1", "web", &[B]), OK);
    assert_eq!(fleet.lb.deregister(LB, "LB1", "old", &[]), OK);
    assert_eq!(fleet.lb.register(LB, "LB1", "new", &[B]), OK);
    let (store, state, b) = fleet.kill();
    let a = store.node("a", &WithoutEtcd::flags(&state));
    show_the_same([&a, &b], &["new 10.0.0.2", "web 10.0.0.1"]);
}

//! Listeners, shards and cores.

use std::net::SocketAddr;

use gwm::sasp::{LbFlags, ReturnCode};

use crate::harness::{Daemon, LB, MEMBER, Peer, until};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;
const A: &str = "10.0.0.1:80";

/// Enough connections for both of two shards to get some: the kernel spreads connections by their ports.
const CONNECTIONS: usize = 24;

#[test]
fn several_listeners_of_both_families_serve_the_same_tables() {
    let daemon = Daemon::start(&["--listen", "[::1]:0", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"]);
    let [six, four, another] = daemon.addresses() else { panic!("three listeners: {:?}", daemon.addresses()) };
    assert!(six.is_ipv6() && four.is_ipv4());
    assert_eq!(another.ip(), SocketAddr::from(([127, 0, 0, 2], 0)).ip());
    let mut lb = Peer::connect(*six);
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    let (mut first, mut second) = (Peer::connect(*four), Peer::connect(*another));
    assert_eq!(first.register(MEMBER, "LB1", "G", &[A]), OK);
    assert_eq!(second.register(MEMBER, "LB1", "G", &["[2001:db8::1]:80"]), OK);
    let weights = "LB1/G [10.0.0.1:80 00/01/100, [2001:db8::1]:80 00/01/100]";
    assert_eq!(lb.get_weights("LB1", &[""]), weights);
    let mut lb = Peer::connect(*four);
    assert_eq!(lb.get_weights("LB1", &[""]), weights);
    daemon.stop();
}

#[test]
fn an_lb_can_move_between_shards() {
    let daemon = Daemon::start(&["--shards", "2", "--push-window", "1ms"]);
    let idle = daemon.sockets();
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    for round in 0..CONNECTIONS as u8 {
        assert_eq!(lb.set_member(LB, ("LB1", "G", A), round + 1, false), OK);
        lb.push_until(&format!("LB1/G [10.0.0.1:80 {:02X}/05/100]", round + 1));
        let mut new = daemon.connect();
        assert_eq!(new.get_weights("LB1", &["G"]), format!("LB1/G [10.0.0.1:80 {:02X}/05/100]", round + 1));
        lb.expect_end();
        lb = new;
    }
    until("one connection is left", || daemon.sockets() == idle + 1);
    daemon.stop();
}

/// After the reply to Set Member State, every Get Weights shows the state, on every shard.
#[test]
fn what_was_acknowledged_is_seen_through_every_shard() {
    let daemon = Daemon::start(&["--shards", "2"]);
    let mut lbs: Vec<(String, Peer)> =
        (0..CONNECTIONS).map(|number| (format!("LB{number}"), daemon.connect())).collect();
    for (uid, lb) in &mut lbs {
        assert_eq!(lb.register(LB, uid, "G", &[A]), OK);
        assert_eq!(lb.set_lb(uid, LbFlags::TRUST), OK);
    }
    let mut members: Vec<Peer> = (0..CONNECTIONS).map(|_| daemon.connect()).collect();
    for round in 0..40 * CONNECTIONS {
        let (uid, lb) = &mut lbs[round % CONNECTIONS];
        let member = &mut members[(round * 7 + round / CONNECTIONS) % CONNECTIONS];
        let state = (round % 251) as u8;
        assert_eq!(member.set_member(MEMBER, (uid, "G", A), state, false), OK);
        assert_eq!(lb.get_weights(uid, &["G"]), format!("{uid}/G [10.0.0.1:80 {state:02X}/05/100]"));
    }
    daemon.stop();
}

/// The kernel spreads connections over the shards' listeners, and each shard serves the connections that it accepted.
#[test]
fn every_shard_accepts_on_a_listener_of_its_own() {
    const SHARDS: usize = 4;
    let daemon = Daemon::start(&["--shards", &SHARDS.to_string()]);
    let mut peers: Vec<Peer> = (0..16 * SHARDS).map(|_| daemon.connect()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.set_lb(&format!("LB{number}"), LbFlags::NONE), OK);
    }
    (0..SHARDS).for_each(|shard| daemon.wait_for_log(&[" connected ", &format!("shard={shard}")]));
    let log = daemon.log();
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    daemon.stop();
}

/// Coordinator and shards are pinned, each to the CPU that the log names.
#[test]
fn threads_are_pinned_to_their_cores() {
    for shards in ["1", "2", "3"] {
        let daemon = Daemon::start(&["--shards", shards]);
        daemon.wait_for_log(&[" serving "]);
        let log = daemon.log();
        let core =
            log.split_once(" coordinator_core=").and_then(|(_, rest)| rest.split_once(' ')).expect("it is logged").0;
        let mut expected = vec![("coordinator".to_owned(), core.to_owned())];
        let list = log.split_once(" shard_cores=[").and_then(|(_, rest)| rest.split_once(']')).expect("it is logged").0;
        expected.extend(list.split(", ").enumerate().map(|(at, core)| (format!("shard-{at}"), core.to_owned())));
        assert_eq!(expected.len(), 1 + shards.parse::<usize>().expect("a number"));
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("it lives");
        let tasks: Vec<(String, String)> = tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
            .map(|status| {
                let value = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(name));
                    line.expect("every thread has one").trim().to_owned()
                };
                (value("Name:"), value("Cpus_allowed_list:"))
            })
            .collect();
        for thread in expected {
            assert!(tasks.contains(&thread), "{thread:?} is not among {tasks:?}");
        }
        daemon.stop();
    }
}

/// Coordinator and shard share the one CPU of `--cpus`.
#[test]
fn one_core_is_enough() {
    let cores = rustix::thread::sched_getaffinity(None).expect("a process has cores");
    let core = (0..rustix::thread::CpuSet::MAX_CPU).find(|&core| cores.is_set(core)).expect("at least one");
    let daemon = Daemon::start(&["--cpus", &core.to_string(), "--push-window", "1ms"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH | LbFlags::TRUST), OK);
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "G", &[A]), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 00/01/100]");
    for state in 1..=200u8 {
        assert_eq!(member.set_member(MEMBER, ("LB1", "G", A), state, false), OK);
        assert_eq!(lb.push(), format!("LB1/G [10.0.0.1:80 {state:02X}/01/100]"));
    }
    daemon.stop();
}

/// Spinning before a sleep changes nothing but speed.
#[test]
fn spinning_changes_nothing_but_speed() {
    let daemon = Daemon::start(&["--spin=50us", "--push-window", "0s"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 00/05/100]");
    for state in 1..=100u8 {
        assert_eq!(lb.set_member(LB, ("LB1", "G", A), state, false), OK);
        assert_eq!(lb.push(), format!("LB1/G [10.0.0.1:80 {state:02X}/05/100]"));
    }
    daemon.stop();
}

//! The limits that flags set.

use std::io::{ErrorKind, Read};

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    harness::{Daemon, LB, MEMBER, Peer, until},
    wire,
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;
const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";

/// Connections over the limit are not accepted until others leave.
#[test]
fn connections_over_the_limit_wait_for_their_turn() {
    for shards in ["1", "2"] {
        let limits = ["--max-connections", "3", "--max-connections-per-source", "3"];
        let daemon = Daemon::start(&[&limits[..], &["--shards", shards]].concat());
        let idle = daemon.sockets();
        let uids = ["LB1", "LB2", "LB3"];
        let mut served: Vec<Peer> = uids.iter().map(|_| daemon.connect()).collect();
        for (peer, uid) in served.iter_mut().zip(uids) {
            assert_eq!(peer.set_lb(uid, LbFlags::NONE), OK);
        }
        let mut waiting: Vec<Peer> = (0..5).map(|_| daemon.connect()).collect();
        for (number, peer) in waiting.iter_mut().enumerate() {
            peer.send(&wire::lb_state(number as u32, &format!("LATE{number}"), 0, LbFlags::NONE));
        }
        for _ in 0..100 {
            for (peer, uid) in served.iter_mut().zip(uids) {
                assert_eq!(peer.set_lb(uid, LbFlags::NONE), OK);
            }
        }
        assert_eq!(daemon.sockets(), idle + 3);
        daemon.wait_for_log(&["--max-connections 3 are open: more wait unaccepted"]);
        for peer in &mut waiting {
            peer.stream().set_nonblocking(true).expect("a socket option");
            let error = peer.stream().read(&mut [0; 1]).expect_err("no connection over the limit is served");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            peer.stream().set_nonblocking(false).expect("a socket option");
        }
        // Each time one leaves, one more is served. With two shards the kernel chooses which.
        let mut left = waiting;
        while !left.is_empty() {
            served.pop();
            let mut answered = None;
            until("a waiting connection is served", || {
                answered = left.iter().position(|peer| {
                    peer.stream().set_nonblocking(true).expect("a socket option");
                    let there = peer.stream().peek(&mut [0; 1]);
                    peer.stream().set_nonblocking(false).expect("a socket option");
                    there.is_ok()
                });
                answered.is_some()
            });
            let mut peer = left.swap_remove(answered.expect("it was just found"));
            assert_eq!(wire::code(&peer.receive()), OK);
            assert!(daemon.sockets() <= idle + 3);
            served.push(peer);
        }
        daemon.stop();
    }
}

#[test]
fn groups_of_one_lb_are_limited() {
    let daemon = Daemon::start(&["--max-groups-per-lb", "2"]);
    let (mut lb, mut other) = (daemon.connect(), daemon.connect());
    let three = wire::registration(1, LB, &[("LB1", "G", &[A]), ("LB1", "H", &[A]), ("LB1", "I", &[A])]);
    assert_eq!(wire::code(&lb.ask(&three)), ReturnCode::INVALID_GROUP);
    assert_eq!(lb.get_weights("LB1", &[""]), "", "a refusal leaves nothing");
    let repeated = wire::registration(2, LB, &[("LB1", "G", &[A]), ("LB1", "H", &[A]), ("LB1", "G", &[B])]);
    assert_eq!(wire::code(&lb.ask(&repeated)), OK);
    assert_eq!(lb.register(LB, "LB1", "I", &[]), ReturnCode::INVALID_GROUP);
    assert_eq!(lb.register(LB, "LB1", "H", &[B]), OK);
    assert_eq!(other.register(LB, "LB2", "I", &[A]), OK);
    assert_eq!(lb.deregister(LB, "LB1", "H", &[]), OK);
    assert_eq!(lb.register(LB, "LB1", "I", &[A]), OK);
}

#[test]
fn members_of_one_group_are_limited() {
    let daemon = Daemon::start(&["--max-members-per-group", "2"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &[A, B, C]), ReturnCode::INVALID_GROUP);
    assert_eq!(lb.register(LB, "LB1", "G", &[A, B]), OK);
    assert_eq!(lb.register(LB, "LB1", "G", &[C]), ReturnCode::INVALID_GROUP);
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), ReturnCode::ALREADY_REGISTERED, "an earlier code is decisive");
    assert_eq!(lb.register(LB, "LB1", "H", &[A, C]), OK);
    assert_eq!(lb.deregister(LB, "LB1", "G", &[A]), OK);
    assert_eq!(lb.register(LB, "LB1", "G", &[C]), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "G", &[A]), ReturnCode::INVALID_GROUP);
}

#[test]
fn memberships_of_all_are_limited() {
    let daemon = Daemon::start(&["--max-memberships", "3", "--max-memberships-per-lb", "3", "--hold-time", "0s"]);
    let (mut lb, mut other) = (daemon.connect(), daemon.connect());
    assert_eq!(lb.register(LB, "LB1", "G", &[A, B]), OK);
    assert_eq!(other.register(LB, "LB2", "G", &[A, B]), ReturnCode::INVALID_GROUP);
    assert_eq!(other.register(LB, "LB2", "G", &[A]), OK);
    assert_eq!(other.register(LB, "LB2", "G", &[B]), ReturnCode::INVALID_GROUP);
    drop(lb);
    until("the other LB's members are dropped", || match other.register(LB, "LB2", "G", &[B, C]) {
        ReturnCode::SUCCESSFUL => true,
        ReturnCode::INVALID_GROUP => false,
        unexpected => panic!("a registration got {unexpected:?}"),
    });
    assert_eq!(other.register(LB, "LB2", "H", &[A]), ReturnCode::INVALID_GROUP);
}

#[test]
fn one_lb_has_half_of_all_memberships_unless_told_otherwise() {
    let daemon = Daemon::start(&["--max-memberships", "3"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &[A, B]), OK);
    assert_eq!(lb.register(LB, "LB1", "H", &[A]), ReturnCode::INVALID_GROUP);
    assert_eq!(daemon.connect().register(LB, "LB2", "G", &[A]), OK);
}

#[test]
fn load_balancers_and_groups_of_all_are_limited() {
    let daemon = Daemon::start(&["--max-load-balancers", "2", "--max-groups", "3", "--hold-time", "0s"]);
    let (mut first, mut second, mut third) = (daemon.connect(), daemon.connect(), daemon.connect());
    assert_eq!(first.register(LB, "LB1", "G", &[A]), OK);
    assert_eq!(second.set_lb("LB2", LbFlags::NONE), OK);
    assert_eq!(third.set_lb("LB3", LbFlags::NONE), ReturnCode::NOT_ACCEPTED);
    let three = wire::registration(9, LB, &[("LB2", "G", &[A]), ("LB2", "H", &[A]), ("LB2", "I", &[])]);
    assert_eq!(wire::code(&second.ask(&three)), ReturnCode::INVALID_GROUP);
    let two = wire::registration(9, LB, &[("LB2", "G", &[A]), ("LB2", "H", &[A]), ("LB2", "G", &[B])]);
    assert_eq!(wire::code(&second.ask(&two)), OK);
    drop(first);
    until("the first LB is dropped", || match third.register(LB, "LB3", "G", &[A]) {
        ReturnCode::SUCCESSFUL => true,
        ReturnCode::NOT_ACCEPTED => false,
        // The endpoint is known already, because the groups of the first LB still exist.
        ReturnCode::INVALID_GROUP => false,
        unexpected => panic!("a registration got {unexpected:?}"),
    });
    assert_eq!(third.register(LB, "LB3", "H", &[A]), ReturnCode::INVALID_GROUP);
}

/// As many members as one group can have, with labels: a message of 17 MB in, and one of 18 MB out.
#[test]
fn the_largest_group_comes_and_goes_in_one_message() {
    const MEMBERS: usize = 65535;
    let daemon = Daemon::start_alone(&["--max-message-bytes", "20000000", "--push-window", "1ms"]);
    let members: Vec<String> = (0..MEMBERS).map(|m| format!("10.5.{}.{}:80 {:240}", m / 256, m % 256, m)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &members), OK);
    let all: Vec<String> = members.iter().map(|member| format!("{member} 00/05/100")).collect();
    let expected = format!("LB1/G [{}]", all.join(", "));
    assert!(lb.get_weights("LB1", &["G"]) == expected, "the reply differs");
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    assert!(lb.push() == expected, "the push differs");
    assert_eq!(lb.register(LB, "LB1", "G", &["10.6.0.0:80"]), ReturnCode::INVALID_GROUP);
    assert_eq!(lb.deregister(LB, "LB1", "G", &members[1..]), OK);
    assert_eq!(lb.push(), format!("LB1/G [{}]", all[0]));
    daemon.stop();
}

/// The kernel keeps a keepalive timer (2 in the column `tr`) for idle connections, unless the flag turns it off.
#[test]
fn idle_connections_have_keepalive_probes() {
    for (keepalive, timer) in [("60s", "02:"), ("0s", "00:")] {
        let daemon = Daemon::start(&["--keepalive", keepalive]);
        let mut lb = daemon.connect();
        assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
        let ours = format!("0100007F:{:04X}", daemon.address().port());
        let theirs = format!("0100007F:{:04X}", lb.stream().local_addr().expect("it is bound").port());
        until("the connection has the timer that the flag asks for", || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("a Linux system");
            let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let mut line = line.filter(|line| line.get(1) == Some(&&*ours) && line.get(2) == Some(&&*theirs));
            line.next().is_some_and(|line| line.get(5).is_some_and(|found| found.starts_with(timer)))
        });
    }
}

#[test]
fn a_message_may_have_as_many_bytes_as_the_flag_says() {
    let daemon = Daemon::start(&["--max-message-bytes", "1024"]);
    // 20 bytes, 6 and 10 of the group, 24 of each member: 41 of them make 1020, and labels the rest.
    let members: Vec<String> = (1..=41).map(|member| format!("10.0.0.{member}:80")).collect();
    let request = |first_label: &str| {
        let first = format!("{} {first_label}", members[0]);
        let members: Vec<&str> = [first.as_str()].into_iter().chain(members[1..].iter().map(String::as_str)).collect();
        wire::registration(1, LB, &[("LB1", "G", &members)])
    };
    let largest = request("1234");
    assert_eq!(largest.len(), 1024);
    let mut lb = daemon.connect();
    assert_eq!(wire::code(&lb.ask(&largest)), OK);
    lb.send(&request("12345"));
    lb.expect_end();
}

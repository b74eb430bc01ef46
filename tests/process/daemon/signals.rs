//! The stop of the daemon.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use crate::{
    harness::{Daemon, LB, Peer, until},
    wire,
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

fn expect_refused(address: SocketAddr) {
    let error = TcpStream::connect(address).expect_err("nobody listens any more");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// An LB that gets a push larger than the sockets' buffers, and reads nothing.
pub(crate) fn unread(daemon: &Daemon) -> Peer {
    let members: Vec<String> =
        (0..2000).map(|m| format!("10.1.{}.{}:80 {}", m / 256, m % 256, "l".repeat(255))).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "SLOW", "G", &members), OK);
    let requests: Vec<u8> = (0..200).flat_map(|id| wire::get_weights(id, &[("SLOW", "G")])).collect();
    lb.send(&requests);
    lb
}

#[test]
fn sigterm_and_sigint_flush_replies_and_end_connections_gracefully() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start(&["--shards", "2"]);
        let mut peers: Vec<Peer> = (0..50).map(|_| daemon.connect()).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            assert_eq!(peer.register(LB, &format!("LB{number}"), "G", &["10.0.0.1:80"]), OK);
        }
        // Requests before the signal are answered. The first reply shows that the daemon has begun to read.
        for (number, peer) in peers.iter_mut().enumerate() {
            let uid = format!("LB{number}");
            let requests: Vec<u8> = (0..20).flat_map(|id| wire::get_weights(id, &[(&uid, "G")])).collect();
            peer.send(&requests);
        }
        daemon.signal(signal);
        for (number, peer) in peers.iter_mut().enumerate() {
            for id in 0..20u32 {
                let reply = peer.receive();
                assert_eq!(reply[9..13], id.to_be_bytes());
                assert_eq!(wire::show(&reply), format!("LB{number}/G [10.0.0.1:80 00/05/100]"));
            }
            peer.expect_end();
        }
        drop(peers);
        assert_eq!(daemon.wait().code(), Some(0), "{signal:?}");
        expect_refused(daemon.address());
    }
}

/// A peer that reads nothing and a peer that sends nothing do not delay the stop, whatever their time limits are.
#[test]
fn no_peer_can_hold_the_stop_up() {
    let mut daemon = Daemon::start(&["--stall-timeout", "1h", "--first-message-timeout", "1h"]);
    let slow = unread(&daemon);
    let silent = daemon.connect();
    let mut half = daemon.connect();
    half.send(&wire::get_weights(1, &[("LB1", "G")])[..20]);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    drop((slow, silent, half));
}

/// A second signal ends a stop that still waits.
#[test]
fn a_second_signal_stops_at_once() {
    let mut daemon = Daemon::start(&["--stall-timeout", "1h"]);
    let mut other = daemon.connect();
    assert_eq!(other.set_lb("LB1", LbFlags::NONE), OK);
    let slow = unread(&daemon);
    daemon.signal(Signal::TERM);
    other.expect_end(); // the daemon is stopping now
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait().code(), Some(1));
    daemon.wait_for_log(&["second signal"]);
    drop(slow);
}

#[test]
fn a_stopped_daemon_can_be_started_again_on_its_port() {
    let first = Daemon::start(&[]);
    let address = first.address();
    let mut lb = first.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    first.stop();
    lb.expect_end();
    let second = Daemon::start(&["--listen", &address.to_string()]);
    assert_eq!(second.address(), address);
    let mut lb = second.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    second.stop();
}

/// The daemon can stop without any connection, and at any time after the start.
#[test]
fn an_idle_daemon_stops() {
    for _ in 0..5 {
        let mut daemon = Daemon::start(&["--shards", "2"]);
        until("it serves", || daemon.sockets() > 0);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn what_was_counted_is_told_at_the_stop() {
    let mut daemon = Daemon::start(&["--log-level", "info"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &["10.0.0.1:80", "10.0.0.2:80"]), OK);
    assert_eq!(lb.deregister(LB, "LB1", "G", &["10.0.0.1:80"]), OK);
    assert_eq!(lb.set_lb("LB2", LbFlags::NONE), ReturnCode::NOT_ACCEPTED);
    assert_eq!(lb.ask(&wire::raw(9, &[0x10, 0x70, 0, 4])), wire::code_reply(9, 0x1075, 0x10));
    for (bytes, times) in [(&b"GET / HTTP/1.1"[..], 2), (&wire::raw(9, &[0x10, 0x15, 0, 5, 0]), 3)] {
        for _ in 0..times {
            let mut stranger = daemon.connect();
            stranger.send(bytes);
            stranger.expect_end();
        }
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    for parts in [
        &["closed: the bytes are not SASP", "connections=2"][..],
        &["closed: a message that is not a request", "connections=3"],
        &["accepted=6 requests=3 refused=1", "load_balancers=1 groups=1 memberships=1"],
        &["deregistered, reason: learned and purposeful", "requests=1"],
        &["not accepted (0x11): the connection is another load balancer's", "requests=1"],
        &["closed: the server stops", "connections=1"],
    ] {
        daemon.wait_for_log(parts);
    }
}

//! The stop of the daemon, and its start after the end of another one.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::{Pid, Signal};

use crate::{
    harness::{Daemon, LB, Peer, Permit, TempFile, command, finish, until},
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

/// After the end of a killed daemon, the kernel needs a moment to free its port.
#[test]
fn a_killed_daemon_can_be_started_again_at_once() {
    let mut daemon = Daemon::start(&["--shards", "2"]);
    let address = daemon.address().to_string();
    for _ in 0..10 {
        let mut lb = daemon.connect();
        assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
        daemon.signal(Signal::KILL);
        daemon.wait();
        daemon = Daemon::start(&["--listen", &address, "--shards", "2"]);
    }
    daemon.stop();
}

#[test]
fn the_daemon_waits_for_a_port_that_becomes_free() {
    let _permit = Permit::take(1);
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("it is bound").to_string();
    let mut child =
        command(&["serve", "--listen", &address, "--log-level", "debug"]).spawn().expect("the binary starts");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok);
    let wanted = format!("{address} is in use, trying again");
    assert!(lines.any(|line| line.contains(&wanted)), "it does not try again");
    drop(holder);
    let mut said = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    stdout.read_line(&mut said).expect("stdout can be read");
    assert_eq!(said, format!("gwm: listening on {address} (plain)\n"));
    child.kill().expect("it runs");
    child.wait().expect("a child can be waited for");
}

/// A daemon that has opened its members file and does not get the content yet.
struct Starting {
    child: Child,
    members: TempFile,
    /// The end of the content comes when this is dropped.
    writer: File,
    _permit: Permit,
}

impl Starting {
    fn begin() -> Starting {
        let permit = Permit::take(1);
        let members = TempFile::new("members.fifo", "");
        std::fs::remove_file(members.path()).expect("it was made just now");
        let made = Command::new("mkfifo").arg(members.path()).status().expect("coreutils are there");
        assert!(made.success());
        let flags = ["serve", "--listen", "127.0.0.1:0", "--shards", "1", "--members", members.path()];
        let child = command(&flags).spawn().expect("the binary starts");
        let writer = File::options().write(true).open(members.path()).expect("the daemon reads it");
        Starting { child, members, writer, _permit: permit }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("the daemon takes signals");
    }
}

#[test]
fn a_signal_to_stop_during_the_start_stops_in_order() {
    let starting = Starting::begin();
    starting.signal(Signal::TERM);
    drop(starting.writer);
    let output = finish(starting.child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_signal_to_read_the_files_during_the_start_counts_after_the_start() {
    let starting = Starting::begin();
    starting.members.write("[[member]]\naddress = \"10.0.0.1\"\n"); // read at SIGHUP
    starting.signal(Signal::HUP);
    starting.signal(Signal::TERM);
    drop(starting.writer);
    let output = finish(starting.child);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("SIGHUP: ") && log.contains("is in force members=1"), "{log}");
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

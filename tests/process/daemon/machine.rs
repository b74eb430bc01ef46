//! Trouble from the machine: the daemon is paused, gets no file descriptors, or nobody reads its log.

use std::{
    fs,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use super::signals;
use crate::{
    harness::{Daemon, LB, MEMBER, PATIENCE, Peer, until},
    wire,
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;
const A: &str = "10.0.0.1:80";

fn pid(daemon: &Daemon) -> Pid {
    Pid::from_raw(daemon.id() as i32).expect("a process has a number")
}

/// A daemon that was paused reads what its peers sent before it decides that the peers were late.
#[test]
fn who_was_in_time_is_served_after_a_standstill() {
    // More connections than one poll of the sockets reports.
    const PEERS: usize = 1500;
    const LIMIT: Duration = Duration::from_secs(1);
    let daemon = Daemon::start_alone(&[
        "--first-message-timeout",
        "1h",
        "--message-timeout",
        "1s",
        "--max-connections-per-source",
        "2000",
        "--log-level",
        "warn",
    ]);
    let mut peers: Vec<(String, Peer)> = (0..PEERS).map(|number| (format!("LB{number}"), daemon.connect())).collect();
    for (uid, peer) in &mut peers {
        assert_eq!(peer.set_lb(uid, LbFlags::NONE), OK);
    }
    let request = |uid: &str| wire::get_weights(7, &[(uid, "")]);
    for (uid, peer) in &mut peers {
        peer.send(&request(uid)[..20]);
    }
    // The answer to the last peer shows that the daemon has read all that was sent before.
    let mut last = daemon.connect();
    assert_eq!(last.set_lb("LAST", LbFlags::NONE), OK);

    daemon.signal(Signal::STOP);
    let status = format!("/proc/{}/status", daemon.id());
    until("the daemon stands still", || fs::read_to_string(&status).expect("it lives").contains("State:\tT"));
    let since = Instant::now();
    for (uid, peer) in &mut peers {
        peer.send(&request(uid)[20..]);
    }
    // Not a wait for a condition: this is the pause, well over the limit.
    thread::sleep((2 * LIMIT).saturating_sub(since.elapsed()));
    daemon.signal(Signal::CONT);
    for (_, peer) in &mut peers {
        assert_eq!(wire::show(&peer.receive()), "");
    }
    daemon.stop();
}

/// Without free file descriptors, open connections are served and new ones wait until descriptors are free.
#[test]
fn without_descriptors_newcomers_wait() {
    const PEERS: usize = 40;
    let daemon = Daemon::start(&[]);
    let (mut lb, mut member) = (daemon.connect(), daemon.connect());
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH | LbFlags::TRUST), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 00/05/100]");

    let limit = getrlimit(Resource::Nofile);
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.id())).expect("it lives");
    let used: Vec<u64> = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok()).collect();
    let none = Rlimit { current: (0..).find(|number| !used.contains(number)), maximum: limit.maximum };
    prlimit(Some(pid(&daemon)), Resource::Nofile, none).expect("a limit can be lowered");
    let mut waiting: Vec<Peer> =
        (0..PEERS).map(|_| Peer::from(TcpStream::connect(daemon.address()).expect("the kernel accepts"))).collect();
    for (number, peer) in waiting.iter_mut().enumerate() {
        peer.send(&wire::lb_state(1, &format!("LATE{number}"), 0, LbFlags::NONE));
    }
    daemon.wait_for_log(&["trying again", "Too many open files"]);
    for state in 1..=100u8 {
        assert_eq!(member.set_member(MEMBER, ("LB1", "G", A), state, false), OK);
        assert_eq!(lb.push(), format!("LB1/G [10.0.0.1:80 {state:02X}/05/100]"));
    }
    prlimit(Some(pid(&daemon)), Resource::Nofile, limit).expect("a limit can be raised to its old value");
    for peer in &mut waiting {
        assert_eq!(wire::code(&peer.receive()), OK);
    }
    daemon.stop();
}

#[test]
fn huge_pages_are_the_operators_choice() {
    for (choice, enabled) in [("on", "THP_enabled:\t1"), ("off", "THP_enabled:\t0")] {
        let daemon = Daemon::start(&["--huge-pages", choice]);
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("it lives");
        assert!(status.contains(enabled), "{choice}: {status}");
        daemon.stop();
    }
}

/// Makes the daemon log this many lines, at the level `trace`.
fn make_it_log(peer: &mut Peer, lines: usize) {
    let mut refused = wire::lb_state(1, "LB1", 0, LbFlags::NONE);
    refused[4] = 9; // an unknown version
    const AT_ONCE: usize = 500;
    for _ in 0..lines.div_ceil(AT_ONCE) {
        peer.send(&refused.repeat(AT_ONCE));
        for _ in 0..AT_ONCE {
            assert_eq!(wire::code(&peer.receive()), ReturnCode::NOT_UNDERSTOOD);
        }
    }
}

/// Neither shards nor coordinator wait for the reader of the log. The number of lost lines is logged when the log is
/// read again.
#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    const LINES: usize = 20_000;
    let mut daemon = Daemon::start_unread(&["--log-level", "trace"]);
    let mut peer = daemon.connect();
    make_it_log(&mut peer, LINES);
    assert_eq!(peer.register(LB, "LB1", "G", &[A]), OK);
    assert_eq!(peer.get_weights("LB1", &["G"]), "LB1/G [10.0.0.1:80 00/05/100]");
    daemon.read_log();
    let start = Instant::now();
    let mut lines = 0;
    // The kept lines are read; then the log has room for the line with the number of lost lines.
    while lines < LINES / 4 {
        assert!(start.elapsed() < PATIENCE, "{lines} lines of the log were kept");
        lines = daemon.log().lines().count();
    }
    assert!(lines < LINES, "nothing was lost, so there was nothing to see here");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.wait_for_log(&["log lines were lost"]);
}

/// The second signal ends the process, although the process can not log the end.
#[test]
fn a_second_signal_does_not_wait_for_the_log() {
    let mut daemon = Daemon::start_unread(&["--log-level", "trace", "--stall-timeout", "1h"]);
    let mut peer = daemon.connect();
    make_it_log(&mut peer, 5000); // far more than a pipe can hold
    let slow = signals::unread(&daemon); // an open connection delays the end of the stop
    daemon.signal(Signal::TERM);
    peer.expect_end(); // the daemon is stopping now
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait().code(), Some(1));
    drop(slow);
}

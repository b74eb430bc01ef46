//! A load balancer's UID has one session: the commands of `gwm lb` that end it, and the watch that loses it.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, ChildStderr, ChildStdout},
};

use gwm::sasp::{ComponentType, LbFlags, ReturnCode};
use serde_json::Value;

use crate::{
    fake_gwm::{FakeGwm, Peer, weights_reply},
    harness::{Daemon, LB, command, run},
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

/// The commands that do one thing and end.
const ONE_SHOTS: [&[&str]; 6] = [
    &["weights"],
    &["register", "--group=web"],
    &["deregister", "--all"],
    &["state"],
    &["quiesce", "--group=web=10.0.0.1:80"],
    &["resume", "--group=web=10.0.0.1:80"],
];

/// A running `gwm lb watch`; killed if a test ends early.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    stderr: ChildStderr,
}

impl Watch {
    fn start(address: &str, flags: &[&str]) -> Watch {
        let mut child = command(&[&["lb", "watch", "--uid=LB1", "--retry=1s", "--gwm", address], flags].concat())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let stderr = child.stderr.take().expect("stderr is piped");
        Watch { child, lines, stderr }
    }

    /// The next line, which must be about this event.
    #[track_caller]
    fn next(&mut self, event: &str) -> Value {
        let line = self.lines.next().expect("one more line").expect("a line of text");
        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
        assert_eq!(line["event"], event, "{line}");
        line
    }

    /// Waits for the end; gives the exit status and stderr.
    fn end(mut self) -> (Option<i32>, String) {
        assert!(self.lines.next().is_none(), "nothing more is told");
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).expect("text");
        (self.child.wait().expect("a child can be waited for").code(), text)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session of a watch without groups.
fn session(listener: &TcpListener) -> Peer {
    let mut peer = Peer::accept(listener);
    peer.answer(ComponentType::SET_LB_STATE_REQUEST, OK);
    let id = peer.expect(ComponentType::GET_WEIGHTS_REQUEST);
    peer.write(&weights_reply(id, 64, &[]));
    peer
}

#[test]
fn no_command_ends_a_live_session_unasked() {
    let daemon = Daemon::start(&[]);
    let gwm = daemon.address().to_string();
    let mut live = daemon.connect();
    assert_eq!(live.register(LB, "LB1", "web", &["10.0.0.1:80"]), OK);
    for words in ONE_SHOTS {
        let output = run(&[&["lb", "--uid=LB1", "--gwm", &gwm], words].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(text.contains("ends the session") && text.contains("--take-over"), "{words:?}: {text}");
        assert_eq!(live.get_weights("LB1", &[""]), "LB1/web [10.0.0.1:80 00/05/100]", "{words:?}");
    }
    let output = run(&["lb", "--uid=LB1", "--gwm", &gwm, "--take-over", "weights"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    live.expect_end();
    daemon.stop();
}

#[test]
fn the_help_of_each_command_tells_of_the_takeover() {
    for words in ONE_SHOTS {
        let output = run(&["lb", words[0], "--help"]);
        let help = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("ends the session that a live LB with this UID has"), "{words:?}: {help}");
        assert!(help.contains("it needs --take-over"), "{words:?}: {help}");
    }
    let output = run(&["lb", "watch", "--help"]);
    let help = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("the GWM ends the session that a live LB with this UID has"), "{help}");
}

#[test]
fn a_watch_that_loses_its_session_to_another_connection_says_so_and_ends() {
    let daemon = Daemon::start(&["--shards", "2"]);
    let mut watch = Watch::start(&daemon.address().to_string(), &[]);
    watch.next("connected");
    watch.next("weights");
    let mut other = daemon.connect();
    assert_eq!(other.set_lb("LB1", LbFlags::NONE), OK);
    let lost = watch.next("lost");
    assert_eq!(lost.get("retry_seconds"), None, "{lost}");
    let (status, text) = watch.end();
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("another connection has become LB1") && text.contains("--take-over"), "{text}");
    assert!(text.contains("an operator has dropped the session of LB1"), "{text}");
    assert_eq!(other.get_weights("LB1", &[""]), "", "the other connection keeps the session");
    daemon.stop();
}

#[test]
fn a_watch_with_take_over_takes_its_session_back() {
    let daemon = Daemon::start(&[]);
    let mut watch = Watch::start(&daemon.address().to_string(), &["--take-over"]);
    watch.next("connected");
    watch.next("weights");
    let mut other = daemon.connect();
    assert_eq!(other.set_lb("LB1", LbFlags::NONE), OK);
    assert!(watch.next("lost")["retry_seconds"].is_number());
    watch.next("connected");
    other.expect_end();
    drop(watch);
    daemon.stop();
}

/// A GWM that stops has not given the session to another connection, even if it answers one more request.
#[test]
fn a_watch_whose_gwm_stops_connects_again() {
    let gwm = FakeGwm::start(|listener| {
        drop(session(listener));
        let mut peer = Peer::accept(listener);
        let id = peer.expect(ComponentType::GET_WEIGHTS_REQUEST);
        peer.write(&weights_reply(id, 64, &[]));
        drop(peer);
        session(listener).until_closed();
    });
    let mut watch = Watch::start(&gwm.address, &["--updates=2"]);
    watch.next("connected");
    watch.next("weights");
    assert!(watch.next("lost")["retry_seconds"].is_number());
    watch.next("connected");
    watch.next("weights");
    assert_eq!(watch.end(), (Some(0), String::new()));
    gwm.end();
}

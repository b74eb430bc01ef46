//! State on disk: a restart and a crash forget nothing that was acknowledged, and a state that can not be used is refused.

mod command;
#[cfg(feature = "admin")]
mod filesystem;
mod heirs;
mod kills;
mod stall;
mod systemd;
mod takeover;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use crate::harness::{Daemon, LB, MEMBER, run, until};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

/// A directory for a state; it is not there yet.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}-state", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Directory(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the target directory's name is UTF-8")
    }

    fn file(&self) -> PathBuf {
        self.0.join("gwm.redb")
    }

    fn start(&self, flags: &[&str]) -> Daemon {
        Daemon::start(&[&["--state", self.path()][..], flags].concat())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ends the daemon as a crash does.
fn kill(mut daemon: Daemon) {
    daemon.signal(Signal::KILL);
    daemon.wait();
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST | LbFlags::PUSH), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LB1", "web", &["10.0.0.1:80 first", B]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LB1", "gone", &[A]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LB1", "empty", &[]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.deregister(LB, "LB1", "gone", &[]), ReturnCode::SUCCESSFUL);
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "web", &["10.0.0.3:80"]), ReturnCode::SUCCESSFUL);
    assert_eq!(member.set_member(MEMBER, ("LB1", "web", A), 0x55, true), ReturnCode::SUCCESSFUL);
    assert_eq!(member.deregister(MEMBER, "LB1", "web", &[B]), ReturnCode::SUCCESSFUL);
    kill(daemon);

    let daemon = directory.start(&["--push-window", "1ms"]);
    let expected = "LB1/web [10.0.0.1:80 first 55/07/0, 10.0.0.3:80 00/01/100] LB1/empty []";
    // A member may speak before its load balancer is back, because trust is kept.
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "web", &[A]), ReturnCode::ALREADY_REGISTERED);
    let mut lb = daemon.connect();
    assert_eq!(lb.get_weights("LB1", &[""]), expected);
    // Push is kept, too: it begins with the new connection.
    assert_eq!(lb.push(), expected);
    daemon.stop();

    // And after an ordinary stop.
    let daemon = directory.start(&[]);
    assert_eq!(daemon.connect().get_weights("LB1", &[""]), expected);
}

#[test]
fn the_hold_time_goes_on_after_a_restart() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    daemon.stop();
    let daemon = directory.start(&["--hold-time", "50ms"]);
    until("the load balancer is forgotten", || {
        // A member's request does not begin a session.
        daemon.connect().register(MEMBER, "LB1", "web", &[B]) == ReturnCode::LB_NOT_CONTACTED
    });
    daemon.stop();
    let daemon = directory.start(&[]);
    assert_eq!(daemon.connect().register(MEMBER, "LB1", "web", &[B]), ReturnCode::LB_NOT_CONTACTED);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
}

#[test]
fn a_load_balancer_that_does_not_come_back_is_forgotten_though_the_daemon_restarts() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    kill(daemon);
    // From the first start on the hold time is a date; the next start does not give another one.
    kill(directory.start(&["--hold-time", "1ms"]));
    let daemon = directory.start(&["--hold-time", "1h"]);
    until("the load balancer is forgotten", || {
        daemon.connect().register(MEMBER, "LB1", "web", &[B]) == ReturnCode::LB_NOT_CONTACTED
    });
}

#[test]
fn a_second_daemon_on_a_directory_is_refused() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--state", directory.path()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("another process has it open: stop the other gwm"), "{stderr}");
    assert!(output.stdout.is_empty(), "it has not listened");
    daemon.stop();
}

#[test]
fn a_damaged_state_is_refused_and_moved_aside_if_wanted() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    daemon.stop();
    let whole = fs::read(directory.file()).expect("the file");
    fs::write(directory.file(), vec![b'x'; whole.len()]).expect("the file");
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--state", directory.path()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("damaged") && stderr.contains("--state-reset"), "{stderr}");

    let daemon = directory.start(&["--state-reset"]);
    daemon.wait_for_log(&["WARN", "--state-reset: ", "unusable-", "the state begins empty"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[A, B]), ReturnCode::SUCCESSFUL);
    daemon.stop();
    let aside = |name: &str| name.starts_with("gwm.redb.unusable-");
    let files = fs::read_dir(directory.path()).expect("the directory");
    let names: Vec<_> = files.map(|file| file.expect("a file").file_name().into_string().expect("ASCII")).collect();
    assert!(names.len() == 2 && names.iter().any(|name| aside(name)), "{names:?}");

    // A state that can be used stays, whatever the flags say.
    let daemon = directory.start(&["--state-reset"]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A]), ReturnCode::ALREADY_REGISTERED);
}

#[test]
fn a_file_that_loses_its_name_acknowledges_nothing() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    let elsewhere = directory.0.join("elsewhere");
    fs::rename(directory.file(), &elsewhere).expect("a new name");
    let id = lb.next_id();
    lb.send(&crate::wire::registration(id, LB, &[("LB1", "web", &[B])]));
    lb.expect_end();
    daemon.wait_for_log(&["ERROR", "somebody has moved, removed or replaced the file: put it back"]);
    fs::rename(&elsewhere, directory.file()).expect("the old name");
    daemon.wait_for_log(&["INFO", "is whole again"]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[B]), ReturnCode::ALREADY_REGISTERED);
    kill(daemon);
    let daemon = directory.start(&[]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A, B]), ReturnCode::ALREADY_REGISTERED);
}

#[test]
fn with_background_durability_a_stop_loses_nothing() {
    let directory = Directory::new();
    let daemon = directory.start(&["--durability", "background"]);
    let mut lb = daemon.connect();
    for number in 1..=50 {
        let member = format!("10.0.0.{number}:80");
        assert_eq!(lb.register(LB, "LB1", "web", &[&member]), ReturnCode::SUCCESSFUL);
    }
    daemon.stop();
    let daemon = directory.start(&[]);
    let weights = daemon.connect().get_weights("LB1", &["web"]);
    assert_eq!(weights.matches(":80").count(), 50, "{weights}");
}

#[test]
fn what_checks_found_counts_until_the_first_checks_of_the_new_process() {
    let directory = Directory::new();
    let up = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let up = up.local_addr().expect("an address").to_string();
    let down =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let checked = ["--probe", "tcp", "--panic-percent", "100", "--probe-interval"];
    let daemon = directory.start(&[&checked[..], &["20ms"]].concat());
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[&up, &down]), ReturnCode::SUCCESSFUL);
    let expected = format!("LB1/web [{up} 00/0D/100, {down} 00/0C/0]");
    until("both are judged", || lb.get_weights("LB1", &["web"]) == expected);
    daemon.stop();
    // No check of this process ends soon.
    let daemon = directory.start(&[&checked[..], &["1h"]].concat());
    assert_eq!(daemon.connect().get_weights("LB1", &["web"]), expected);
    daemon.wait_for_log(&["state on disk", "verdicts=2"]);
}

#[test]
fn a_slow_start_is_neither_skipped_nor_begun_anew() {
    use std::net::{SocketAddr, TcpListener};
    let directory = Directory::new();
    let listen = |address: SocketAddr| {
        let listener = TcpListener::bind(address).expect("the port is free");
        listener.set_nonblocking(true).expect("a socket option");
        listener
    };
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let (a, b) = (listen(loopback), listen(loopback));
    let [a_at, b_at] = [&a, &b].map(|listener| listener.local_addr().expect("an address"));
    let flags = ["--probe", "tcp", "--probe-interval", "20ms", "--slow-start", "1h", "--panic-percent", "100"];
    let daemon = directory.start(&flags);
    let mut lb = daemon.connect();
    let [a_name, b_name] = [a_at, b_at].map(|address| address.to_string());
    assert_eq!(lb.register(LB, "LB1", "web", &[&a_name, &b_name]), ReturnCode::SUCCESSFUL);
    let shown = |a: &str, b: &str| format!("LB1/web [{a_name} 00/{a}, {b_name} 00/{b}]");
    until("both are up", || lb.get_weights("LB1", &["web"]) == shown("0D/100", "0D/100"));
    drop((a, b));
    until("both are down", || lb.get_weights("LB1", &["web"]) == shown("0C/0", "0C/0"));
    let a = listen(a_at);
    until("one has come up", || lb.get_weights("LB1", &["web"]) == shown("0D/1", "0C/0"));
    daemon.stop();
    while a.accept().is_ok() {}

    // The other one comes up while no daemon looks: its slow start begins when one sees that.
    let b = listen(b_at);
    let daemon = directory.start(&flags);
    let mut lb = daemon.connect();
    let mut checks = [0, 0];
    until("both are checked again and again", || {
        for (count, listener) in checks.iter_mut().zip([&a, &b]) {
            *count += std::iter::from_fn(|| listener.accept().ok()).count();
        }
        checks.iter().all(|count| *count >= 10)
    });
    assert_eq!(lb.get_weights("LB1", &["web"]), shown("0D/1", "0D/1"));
}

#[cfg(feature = "admin")]
#[test]
fn the_operators_words_survive() {
    use crate::admin::{exchange, request};
    let directory = Directory::new();
    let admin = ["--admin-listen", "127.0.0.1:0"];
    let ask = |daemon: &Daemon, method: &str, path: &str, body: &str| {
        let url = &daemon.admin()[0];
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let headers = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let stream = std::net::TcpStream::connect(address).expect("the admin side accepts");
        let answer = exchange(stream, request(method, path, headers, body).as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let daemon = directory.start(&admin);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A, B]), ReturnCode::SUCCESSFUL);
    let quiesce = r#"{"group":"web","address":"10.0.0.1","reason":"new disk","by":"ann","expires_in_seconds":86400}"#;
    let done = ask(&daemon, "POST", "/api/v1/members/quiesce", quiesce);
    assert_eq!(done["survives_restart"], true, "{done}");
    assert!(!done["done"].as_str().expect("a text").contains("the daemon stops"), "{done}");
    let fix = r#"{"address":"10.0.0.2","weight":7,"reason":"slow","by":"bob"}"#;
    let second = ask(&daemon, "POST", "/api/v1/members/fix-weight", fix);
    kill(daemon);

    let daemon = directory.start(&admin);
    let words = ask(&daemon, "GET", "/api/v1/words", "");
    let expires_at = &done["word"]["expires_at"];
    let near = |one: &serde_json::Value, other: &serde_json::Value| {
        let time =
            |value: &serde_json::Value| humantime::parse_rfc3339(value.as_str().expect("a time")).expect("a time");
        let (one, other) = (time(one), time(other));
        one.max(other).duration_since(one.min(other)).expect("not before").as_secs() < 60
    };
    assert_eq!(words["words"][0]["reason"], "new disk", "{words}");
    assert!(near(&words["words"][0]["expires_at"], expires_at), "{words} {expires_at}");
    let version = ask(&daemon, "GET", "/api/v1/version", "");
    assert_eq!(version["writes_survive_restart"], true);
    let (at, started_at) = (words["words"][0]["at"].as_str(), version["started_at"].as_str());
    assert!(at < started_at && near(&words["words"][0]["at"], &done["word"]["at"]), "{words} {version}");
    assert_eq!((&words["words"][1]["by"], &words["words"][1]["weight"]), (&"bob".into(), &7.into()), "{words}");
    assert_eq!(daemon.connect().get_weights("LB1", &[""]), "LB1/web [10.0.0.1:80 00/07/0, 10.0.0.2:80 00/0D/7]");
    let third = ask(&daemon, "POST", "/api/v1/members/quiesce", r#"{"group":"db","reason":"r"}"#);
    assert_eq!(third["word"]["number"].as_u64(), second["word"]["number"].as_u64().map(|number| number + 1));
    let ready = ask(&daemon, "GET", "/readyz", "");
    assert_eq!(ready["ready"], true, "{ready}");
}

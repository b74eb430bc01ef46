//! `gwm status`, `gwm quiesce`, `gwm resume` and `gwm weight` on a real daemon.

use std::{
    io::{BufRead, BufReader},
    process::Output,
};

use gwm::sasp::LbFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{socket_path, start};
use crate::harness::{Daemon, LB, TempFile, command, finish, run};

const MEMBERS: &str = r#"
[[member]]
address = "10.0.0.1"
protocol = "tcp"
port = 80
weight = 40
monitor = "none"
"#;

/// A daemon with a socket, and what `gwm` says about it.
struct Asked {
    daemon: Daemon,
    admin: String,
}

impl Asked {
    fn new(name: &str) -> Asked {
        let admin = format!("unix:{}", socket_path(name).display());
        let members = TempFile::new("members.toml", MEMBERS);
        let daemon = Daemon::start(&["--push-window", "1ms", "--admin-listen", &admin, "--members", members.path()]);
        Asked { daemon, admin }
    }

    fn gwm(&self, arguments: &[&str]) -> Output {
        run(&[arguments, &["--admin", &self.admin]].concat())
    }

    /// What the command prints; it must succeed.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.gwm(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[arguments, &["--json"]].concat())).expect("one JSON object")
    }
}

#[test]
fn status_shows_what_the_daemon_knows_and_ends_no_session() {
    let asked = Asked::new("status");
    let mut lb = asked.daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80", "10.0.0.2:80"]);
    lb.set_lb("LB1", LbFlags::PUSH);
    lb.push();
    let overview = asked.says(&["status"]);
    for part in ["load balancers  1, connected 1", "memberships     2", "blind           no", "No group is in trouble."]
    {
        assert!(overview.contains(part), "no `{part}` in:\n{overview}");
    }
    let groups = asked.says(&["status", "groups"]);
    assert!(groups.starts_with("GROUP") && groups.contains("web"), "{groups}");
    let members = asked.says(&["status", "members", "--group", "web"]);
    assert!(members.lines().any(|line| line.starts_with("10.0.0.1:80") && line.contains(" 40  up")), "{members}");
    let member = asked.says(&["status", "member", "10.0.0.1:80"]);
    assert!(member.starts_with("10.0.0.1:80 in web of LB1: weight 40, up\n"), "{member}");
    let why = read_why(&asked);
    assert!(member.contains(&why), "no `{why}` in:\n{member}");
    assert!(asked.says(&["status", "lbs"]).contains("connected"));
    assert!(asked.says(&["status", "limits"]).contains("--max-connections"));
    assert_eq!(asked.says(&["status", "checks"]), "none\n");

    let rows = asked.json(&["status", "members", "--state", "up"]);
    assert_eq!(rows["members"][0]["weight"], 40);
    assert_eq!(asked.json(&["status", "members", "--rows", "1"])["more"], true);
    assert_eq!(asked.json(&["status"])["totals"]["memberships"], 2);
    let nobody = asked.gwm(&["status", "member", "10.9.9.9:80"]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    let whole = asked.gwm(&["status", "member", "10.0.0.1"]);
    let said = "without a port this is the whole system; listed at this address: 10.0.0.1:80\n";
    assert!(String::from_utf8_lossy(&whole.stderr).ends_with(said), "{whole:?}");
    // The session of the load balancer lives: it still gets pushes.
    asked.says(&["quiesce", "10.0.0.1:80", "--reason", "new disk"]);
    assert!(lb.push().contains("10.0.0.1"));
    asked.daemon.stop();
}

fn read_why(asked: &Asked) -> String {
    let full = asked.json(&["status", "member", "10.0.0.1:80"]);
    full["memberships"][0]["why"]["text"].as_str().expect("a text").to_owned()
}

#[test]
fn an_operator_quiesces_resumes_and_fixes_a_weight() {
    let asked = Asked::new("write");
    let mut lb = asked.daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    let row = || asked.json(&["status", "members"])["members"][0].clone();
    let said = asked.says(&["quiesce", "--group", "web", "--reason", "new disk", "--by", "ann", "--for", "1h"]);
    assert!(said.contains("quiesced"), "{said}");
    assert_eq!((row()["weight"].clone(), row()["quiesced_by"][0].clone()), (0.into(), "operator".into()));
    asked.daemon.wait_for_log(&["operator: quiesce", "by=ann", "reason=new disk"]);
    let overview = asked.says(&["status"]);
    assert!(overview.contains("quiesce: group web; new disk (ann, ") && overview.contains(", until "), "{overview}");
    asked.says(&["resume", "--group", "web", "--reason", "it is in"]);
    assert_eq!(row()["weight"], 40);
    asked.says(&["weight", "10.0.0.1:80", "7", "--reason", "to try"]);
    assert_eq!((row()["weight"].clone(), row()["fixed_by"].clone()), (7.into(), "operator".into()));
    asked.says(&["weight", "10.0.0.1:80", "--release", "--reason", "tried"]);
    assert_eq!(row()["weight"], 40);

    for wrong in [&["weight", "10.0.0.9:80", "7"][..], &["weight", "10.0.0.9:80", "--release"]] {
        let nobody = asked.gwm(&[wrong, &["--reason", "typo"]].concat());
        assert_eq!((nobody.status.code(), nobody.stderr.is_empty()), (Some(3), true), "{wrong:?}: {nobody:?}");
    }

    let refused = asked.gwm(&["weight", "10.0.0.1:80", "60000", "--reason", "too much"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--weight-max"), "{refused:?}");
    for reason in ["", " "] {
        let blank = asked.gwm(&["quiesce", "10.0.0.1:80", "--reason", reason]);
        assert!(String::from_utf8_lossy(&blank.stderr).contains("reason: it is blank"), "{blank:?}");
    }
    for wrong in [&["quiesce", "--reason", "x"][..], &["quiesce", "--all", "--group", "web", "--reason", "x"]] {
        assert_eq!(asked.gwm(wrong).status.code(), Some(2), "{wrong:?}");
    }
    asked.daemon.stop();
}

#[test]
fn a_watch_prints_a_line_when_something_changes_and_while_the_daemon_is_gone() {
    let asked = Asked::new("watch");
    let arguments = ["status", "members", "--watch", "--admin", &asked.admin];
    let mut watch = command(&arguments).spawn().expect("the binary starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("stdout is piped")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["members"].as_array().map(Vec::len), Some(0));
    let mut lb = asked.daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    assert_eq!(next()["members"][0]["address"], "10.0.0.1");
    asked.says(&["quiesce", "10.0.0.1:80", "--reason", "new disk"]);
    while next()["members"][0]["quiesced"] != true {}
    let Asked { daemon, admin } = asked;
    daemon.stop();
    assert!(next()["error"].as_str().is_some_and(|text| text.contains("no answer from unix:")));
    // Another daemon at the same address knows no load balancer yet.
    let daemon = Daemon::start(&["--admin-listen", &admin]);
    assert_eq!(next()["members"].as_array().map(Vec::len), Some(0));
    kill_process(Pid::from_child(&watch), Signal::INT).expect("the watch takes signals");
    assert!(watch.wait().expect("a child can be waited for").success());
    daemon.stop();
}

#[test]
fn a_watch_of_the_overview_hears_of_words() {
    let asked = Asked::new("overview");
    let mut watch = command(&["status", "--watch", "--admin", &asked.admin]).spawn().expect("the binary starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("stdout is piped")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["words"]["words"].as_array().map(Vec::len), Some(0));
    let early = asked.gwm(&["quiesce", "--group", "web", "--reason", "new disk"]);
    assert_eq!(early.status.code(), Some(3), "no member matches now: {early:?}");
    assert!(
        String::from_utf8_lossy(&early.stdout).contains("; no member matches now, and those count that come later\n")
    );
    let changed = loop {
        let line = next();
        if line["words"]["words"][0]["reason"] == "new disk" {
            break line;
        }
    };
    assert_eq!(changed["totals"]["words"], 1);
    assert_eq!(changed["version"]["name"], "gwm", "the parts that did not change are there, too");
    kill_process(Pid::from_child(&watch), Signal::INT).expect("the watch takes signals");
    assert!(watch.wait().expect("a child can be waited for").success());
    asked.daemon.stop();
}

#[test]
fn a_token_and_a_wrong_address() {
    let token = TempFile::new("token", "correct-horse-battery\n");
    let daemon = start(&["--admin-token-file", token.path()]);
    let url = daemon.admin()[0].clone();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let without = run(&["status", "--admin", address]);
    assert_eq!(without.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&without.stderr).contains("token"), "{without:?}");
    assert!(run(&["status", "--admin", address, "--token-file", token.path()]).status.success());
    daemon.stop();
    let gone = finish(command(&["status", "--admin", address]).spawn().expect("the binary starts"));
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("--admin-listen"), "{gone:?}");
    assert_eq!(run(&["status", "--admin", "192.0.2.1:1"]).status.code(), Some(2));
}

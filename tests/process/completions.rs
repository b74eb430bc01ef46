//! `gwm completions`: what the scripts are told, and the scripts in real shells.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Command, Output},
};

use gwm::sasp::ReturnCode;

use crate::{
    connect::real::installed,
    harness::{Daemon, LB, PATIENCE, command, finish},
};

/// The candidates for the last word.
fn candidates(words: &[&str], admin: &str) -> Vec<String> {
    let mut command = command(&[&["completions", "bash", "--", "gwm"][..], words].concat());
    let output = finish(command.env("GWM_ADMIN", admin).spawn().expect("the binary starts"));
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.split('\t').next().expect("a part").to_owned()).collect()
}

/// An address at which no daemon is.
const NOWHERE: &str = "unix:/nonexistent/admin.sock";

#[test]
fn words_flags_and_values_are_completed() {
    assert_eq!(candidates(&["stat"], NOWHERE), ["status", "state"]);
    assert_eq!(candidates(&["serve", "--hold-t"], NOWHERE), ["--hold-time"]);
    assert_eq!(candidates(&["serve", "--probe", "ic"], NOWHERE), ["icmp"]);
    assert_eq!(candidates(&["serve", "--probe=ic"], NOWHERE), ["--probe=icmp"]);
    assert_eq!(candidates(&["connect", "ha"], NOWHERE), ["haproxy"]);
    assert!(candidates(&["serve", "--members", "/etc/host"], NOWHERE).contains(&"/etc/hostname".to_owned()));
    assert!(candidates(&["completions", ""], NOWHERE).contains(&"zsh".to_owned()));
    // Without a daemon there are no names, and nothing else.
    assert_eq!(candidates(&["status", "members", "--group", ""], NOWHERE), [""; 0]);
}

/// A daemon with groups, and the address of its admin side.
fn farm() -> (Daemon, crate::harness::Peer, String) {
    let daemon = Daemon::start(&["--admin-listen", "127.0.0.1:0"]);
    let mut lb = daemon.connect();
    for (group, members) in [("web", &["10.0.0.1:80", "10.0.0.2:80"][..]), ("web shop", &["[2001:db8::1]:53/udp"])] {
        assert_eq!(lb.register(LB, "EDGE1", group, members), ReturnCode::SUCCESSFUL);
    }
    let admin = daemon.admin()[0].trim_start_matches("http://").trim_end_matches('/').to_owned();
    (daemon, lb, admin)
}

#[test]
fn names_come_from_the_daemon() {
    let (daemon, _lb, admin) = farm();
    assert_eq!(candidates(&["status", "groups", "--group", "we"], &admin), ["web", "web shop"]);
    assert_eq!(candidates(&["status", "groups", "--group=web"], &admin), ["--group=web", "--group=web shop"]);
    assert_eq!(candidates(&["quiesce", "--lb", ""], &admin), ["EDGE1"]);
    assert_eq!(candidates(&["weight", "10."], &admin), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(candidates(&["status", "member", "["], &admin), ["[2001:db8::1]:53/udp"]);
    // The flag says which daemon.
    assert_eq!(candidates(&["resume", "--admin", &admin, "--lb", "E"], NOWHERE), ["EDGE1"]);
    daemon.stop();
}

#[test]
fn the_scripts_work_in_the_shells() {
    let (daemon, _lb, admin) = farm();
    let programs = Path::new(env!("CARGO_BIN_EXE_gwm")).parent().expect("a directory").display().to_string();
    let mut failed = String::new();
    for (shell, arguments, setup, quoted) in [
        ("bash", &["--norc", "--noprofile", "-i"][..], "eval \"$(gwm completions bash)\"", r"web\ shop"),
        ("zsh", &["-f", "-i"], "autoload -Uz compinit; compinit -u -D; eval \"$(gwm completions zsh)\"", r"web\ shop"),
        ("fish", &["--no-config", "-i"], "gwm completions fish | source", r"web\ shop"),
    ] {
        if !installed(shell, shell) {
            continue;
        }
        for (keys, expected) in [
            ("gwm quie\\t", "gwm quiesce".to_owned()),
            ("gwm serve --hold-t\\t", "gwm serve --hold-time".to_owned()),
            ("gwm serve --probe=ic\\t", "gwm serve --probe=icmp".to_owned()),
            ("gwm quiesce --lb E\\t", "gwm quiesce --lb EDGE1".to_owned()),
            ("gwm status groups --group=web\\ \\t", format!("gwm status groups --group={quoted}")),
            ("gwm weight 10.0.0.2:\\t 5", "gwm weight 10.0.0.2:80 5".to_owned()),
        ] {
            let output = typed(shell, arguments, setup, keys, &programs, &admin);
            // The words as the shell has them in the end.
            let line = String::from_utf8_lossy(&output.stdout).replace("><", " ");
            let line = line.trim().trim_matches(['<', '>']);
            let expected = expected.replace('\\', "");
            if line != expected {
                writeln!(failed, "{shell}: {keys}: {line:?} is not {expected:?}: {output:?}").expect("a text");
            }
        }
    }
    assert!(failed.is_empty(), "{failed}");
    daemon.stop();
}

/// Types keys into a shell; its stdout has the words of the line then.
fn typed(shell: &str, arguments: &[&str], setup: &str, keys: &str, programs: &str, admin: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/typist.py");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("python3");
    command.args([script, &PATIENCE.as_secs().to_string(), setup, keys, shell]).args(arguments);
    command.env("PATH", format!("{programs}:{path}")).env("GWM_ADMIN", admin).env("HOME", env!("CARGO_TARGET_TMPDIR"));
    command.output().expect("the tests need Python")
}

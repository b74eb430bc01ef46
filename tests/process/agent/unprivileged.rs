//! An agent without any right: it registers, drains and leaves as root's does, and says what takes a right.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::{Signal, geteuid};

use super::{Agent, EMPTY, RunDirectory, arguments, listed, service, until_listed};
use crate::{
    connect::real::free_address,
    harness::{Daemon, TempFile, command, finish, until},
};

/// `nobody`.
const NOBODY: &str = "65534";

/// Runs a program without any right. It may lie in a folder that only root can enter, so it is opened before.
const DROP: &str = "exec 9<\"$0\" && exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
                    --bounding-set -all --inh-caps -all /proc/self/fd/9 \"$@\"";

/// `gwm` with these arguments, by `nobody` if the tests are root's.
fn by_nobody(arguments: &[&str]) -> Command {
    let plain = command(arguments);
    if !geteuid().is_root() {
        return plain;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", DROP]).arg(plain.get_program()).args(arguments).env_remove("XDG_RUNTIME_DIR");
    for (name, _) in plain.get_envs().filter(|(_, value)| value.is_none()) {
        shell.env_remove(name);
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

fn start(directory: &RunDirectory, flags: &[&str]) -> Agent {
    Agent::spawn(by_nobody(&arguments(directory, flags)))
}

/// What a command of `gwm agent` prints, by the same user.
fn tell(directory: &RunDirectory, words: &[&str]) -> String {
    let output = finish(by_nobody(&[&["agent"], words, &["--run-dir", directory.path()]].concat()).spawn().unwrap());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn entry(member: SocketAddr, words: &str) -> String {
    format!("LB1/web [{member} {words}]")
}

#[test]
fn a_service_is_registered_drained_and_deregistered_without_a_right() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    let place = service();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    let directory = RunDirectory::new();
    let agent = start(&directory, &["--gwm", &gwm, "--member", &member, "--idle-time", "100ms", "--drain-time", "1h"]);
    until_listed(&mut lb, &entry(place, "00/01/100"));
    if geteuid().is_root() {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
        let is = |name: &str, value: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().all(|word| word == value) && !line.trim().is_empty()
        };
        assert!(is("Uid:", NOBODY) && is("Gid:", NOBODY), "{status}");
        assert!(is("CapEff:", "0000000000000000") && is("CapBnd:", "0000000000000000"), "{status}");
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(tell(&directory, &["quiesce", "--reason", "disk"]), "web: quiesced\n");
    until_listed(&mut lb, &entry(place, "00/03/0"));
    assert_eq!(tell(&directory, &["resume", "--wait", "20s"]), "web: resumed\n");
    assert_eq!(listed(&mut lb), entry(place, "00/01/100"));
    // A connection on which nothing was asked: only the kernel's netlink tells that it is idle.
    let mut client = TcpStream::connect(place).unwrap();
    until("the connection is idle", || tell(&directory, &["status"]).contains("1 connection (1 idle)"));
    // One with a question that has no answer yet.
    client.write_all(b"?").unwrap();
    until("the connection is busy", || tell(&directory, &["status"]).starts_with("web: up, 1 connection, "));
    agent.signal(Signal::TERM);
    until("it drains", || tell(&directory, &["status"]).starts_with("web: drain, 1 connection, "));
    assert_eq!(listed(&mut lb), entry(place, "00/03/0"));
    drop(client);
    assert!(agent.wait().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

#[test]
fn what_takes_a_right_says_so() {
    if !geteuid().is_root() {
        eprintln!("left out: this needs files of another user (root)");
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    let place = service();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    // A directory of root, and a log that others may not read. The agent does its work all the same.
    let directory = RunDirectory::new();
    fs::create_dir(directory.path()).unwrap();
    let log = TempFile::new("access.log", "");
    fs::set_permissions(log.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let listen = free_address().to_string();
    let flags = ["--gwm", &gwm, "--member", &member, "--http-listen", &listen, "--load-log", log.path()];
    let agent = start(&directory, &flags);
    until_listed(&mut lb, &entry(place, "00/01/100"));
    let own = format!("--run-dir {}: ", directory.path());
    agent.wait_for_log(&[&own, "someone else's", "an agent that is killed does not know what it registered"]);
    agent.wait_for_log(&[&own, "do not find this agent"]);
    agent.wait_for_log(&["its requests are not known", log.path(), "Permission denied"]);
    assert!(agent.stop().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();

    // A port of root's.
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim().parse::<u16>().is_ok_and(|first| first > 99) {
        let agent = start(&RunDirectory::new(), &["--member", &member, "--agent-listen", "127.0.0.1:99"]);
        agent.wait_for_log(&["--agent-listen 127.0.0.1:99: ", "CAP_NET_BIND_SERVICE"]);
        assert_eq!(agent.wait().code(), Some(1));
    }
}

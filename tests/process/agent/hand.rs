//! What people do: they quiesce and resume a service, and start its agent again, or two agents of one service.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use super::{Agent, EMPTY, RunDirectory, listed, service, until_listed};
use crate::harness::{Daemon, LB, Peer, TempFile, until};

/// A connection of `LB1`, which trusts its members.
fn lb(daemon: &Daemon) -> Peer {
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    lb
}

fn entry(member: SocketAddr, words: &str) -> String {
    format!("LB1/web [{member} {words}]")
}

#[test]
fn a_quiesce_by_hand_outlives_the_agent() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let place = service();
    let directory = RunDirectory::new();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    let start = || Agent::start(&directory, &["--gwm", &gwm, "--member", &member]);
    let agent = start();
    until_listed(&mut lb, &entry(place, "00/01/100"));
    directory.tell(&["quiesce", "web", "--reason", "a new\ndisk"]).unwrap();
    until_listed(&mut lb, &entry(place, "00/03/0"));
    assert!(agent.stop().success());
    assert_eq!(listed(&mut lb), EMPTY);
    let agent = start();
    agent.wait_for_log(&["quiesced by hand since 2", "a new disk"]);
    until_listed(&mut lb, &entry(place, "00/03/0"));
    let status = directory.tell(&["status"]).unwrap();
    assert!(status.starts_with("web: maint (a new disk), "), "{status}");
    // A second agent of the service knows of it, too.
    let second = start();
    second.wait_for_log(&["the GWM has it registered already"]);
    assert_eq!(listed(&mut lb), entry(place, "00/03/0"));
    assert_eq!(directory.tell(&["resume", "web", "--wait", "20s"]).unwrap(), "web: resumed\nweb: resumed\n");
    assert_eq!(listed(&mut lb), entry(place, "00/01/100"), "the wait was for this");
    assert!(agent.stop().success() && second.stop().success());
    let agent = start();
    until_listed(&mut lb, &entry(place, "00/01/100"));
    assert!(agent.stop().success());
    daemon.stop();
}

#[test]
fn a_service_is_resumed_when_it_answers() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let answers = TempFile::new("answers", "");
    let check = format!("exec:test -e {}", answers.path());
    let directory = RunDirectory::new();
    let gwm = daemon.address().to_string();
    // Its failures do not count, as those of the moment in which a service is started again.
    let flags = ["--gwm", &gwm, "--member", "10.0.0.1:80", "--service-check", &check, "--fall", "100"];
    let agent = Agent::start(&directory, &flags);
    until_listed(&mut lb, "LB1/web [10.0.0.1:80 00/01/100]");
    directory.tell(&["quiesce"]).unwrap();
    until_listed(&mut lb, "LB1/web [10.0.0.1:80 00/03/0]");
    fs::remove_file(answers.path()).unwrap();
    directory.tell(&["resume"]).unwrap();
    let late = directory.tell(&["resume", "--wait", "300ms"]);
    assert!(late.unwrap_err().contains("not up in time: web"));
    let status = directory.tell(&["status"]).unwrap();
    assert!(status.starts_with("web: starting (exec"), "{status}");
    assert_eq!(listed(&mut lb), "LB1/web [10.0.0.1:80 00/03/0]");
    answers.write("");
    until_listed(&mut lb, "LB1/web [10.0.0.1:80 00/01/100]");
    assert!(agent.stop().success());
    daemon.stop();
}

#[test]
fn an_agent_that_drains_leaves_the_service_to_one_that_comes() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let place = service();
    let directory = RunDirectory::new();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    let start = || Agent::start(&directory, &["--gwm", &gwm, "--member", &member, "--drain-time", "1h"]);
    let first = start();
    until_listed(&mut lb, &entry(place, "00/01/100"));
    let _client = TcpStream::connect(place).unwrap();
    first.signal(Signal::TERM);
    until_listed(&mut lb, &entry(place, "00/03/0"));
    let second = start();
    first.wait_for_log(&["another agent keeps it registered: it stays"]);
    assert!(first.wait().success());
    until_listed(&mut lb, &entry(place, "00/01/100"));
    second.signal(Signal::TERM);
    until_listed(&mut lb, &entry(place, "00/03/0"));
    second.signal(Signal::TERM);
    assert!(second.wait().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

/// The file of the endpoint's claim.
fn claim(directory: &RunDirectory) -> Option<File> {
    let mut files = fs::read_dir(Path::new(directory.path())).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    File::open(files.find(|path| path.extension().is_some_and(|extension| extension == "claim"))?).ok()
}

#[test]
fn an_agent_that_comes_while_another_one_deregisters_registers_again() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let place = service();
    let directory = RunDirectory::new();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    let start = || Agent::start(&directory, &["--gwm", &gwm, "--member", &member, "--refresh", "1h"]);
    let killed = start();
    killed.wait_for_log(&[" registered"]);
    killed.kill();
    // As an agent that deregisters.
    let file = claim(&directory).expect("it was registered");
    file.lock().unwrap();
    let agent = start();
    agent.wait_for_log(&["the GWM has it registered already"]);
    assert_eq!(lb.deregister(LB, "LB1", "web", &[&member]), ReturnCode::SUCCESSFUL);
    assert_eq!(listed(&mut lb), EMPTY);
    drop(file);
    until_listed(&mut lb, &entry(place, "00/01/100"));
    assert!(agent.stop().success());
    assert_eq!(listed(&mut lb), EMPTY);
    until("the claim is removed", || claim(&directory).is_none());
    daemon.stop();
}

//! What an idle agent holds in memory.

use std::fs;

use gwm::sasp::{LbFlags, ReturnCode};

use super::{Agent, RunDirectory, service, until_listed};
use crate::harness::{Daemon, TempFile, until};

impl Agent {
    fn mappings_of_files(&self) -> usize {
        let text = fs::read_to_string(format!("/proc/{}/maps", self.id())).expect("it runs");
        text.lines().filter(|line| line.contains('/')).count()
    }
}

#[test]
fn pages_that_only_the_start_has_used_are_given_back() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    let (gwm, member) = (daemon.address().to_string(), service().to_string());
    let directory = RunDirectory::new();
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--member", &member]);
    until_listed(&mut lb, &format!("LB1/web [{member} 00/01/100]"));
    let start = agent.kib("RssFile");
    until("pages are given back", || agent.kib("RssFile") < start / 2);
    until("the mappings are divided", || agent.mappings_of_files() > 100);
    eprintln!("{start} KiB of files after the start, {} now; own: {}", agent.kib("RssFile"), agent.own_kib());
    // Only what is in memory has changed.
    assert!(directory.tell(&["status"]).unwrap().contains("1 of 1 registered"));
    assert!(agent.stop().success());
    daemon.stop();
}

#[test]
fn the_settings_of_the_allocator_are_the_agents_alone() {
    let daemon = Daemon::start(&[]);
    let (gwm, member) = (daemon.address().to_string(), service().to_string());
    let (directory, file) = (RunDirectory::new(), TempFile::new("environment", ""));
    let check = format!("exec:env > {0}.whole && mv {0}.whole {0}", file.path());
    let flags = ["--gwm", &gwm, "--member", &member, "--service-check", &check];
    let agent = Agent::start_in(&directory, &flags, &[("MIMALLOC_VERBOSE", "0".into())]);
    let read = || fs::read_to_string(file.path()).unwrap();
    until("the check has run", || !read().is_empty());
    // A check has the settings of the user.
    let of_check = read();
    assert!(of_check.contains("MIMALLOC_VERBOSE=0\n"), "{of_check}");
    assert!(!of_check.contains("MIMALLOC_ARENA_RESERVE") && !of_check.contains("MIMALLOC_PURGE_DELAY"), "{of_check}");
    let environment = fs::read(format!("/proc/{}/environ", agent.id())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("MIMALLOC_ARENA_RESERVE=32768\0"));
    assert!(agent.stop().success());
    daemon.stop();
}

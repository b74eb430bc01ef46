//! What an idle agent holds in memory.

use gwm::sasp::{LbFlags, ReturnCode};

use super::{Agent, RunDirectory, service, until_listed};
use crate::harness::{Daemon, until};

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
    eprintln!("{start} KiB of files after the start, {} now; own: {}", agent.kib("RssFile"), agent.own_kib());
    // Only what is in memory has changed.
    assert!(directory.tell(&["status"]).unwrap().contains("1 of 1 registered"));
    assert!(agent.stop().success());
    daemon.stop();
}

//! Systemd's watchdog hears that the agent lives while all of its threads go on.

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixDatagram},
};

use super::{Agent, RunDirectory, service};
use crate::{
    connect::real::free_address,
    hang::Stopped,
    harness::{PATIENCE, until},
};

/// The words that were not heard yet.
fn heard(systemd: &UnixDatagram) -> Vec<String> {
    let mut words = Vec::new();
    let mut bytes = [0; 1024];
    systemd.set_nonblocking(true).unwrap();
    while let Ok(length) = systemd.recv(&mut bytes) {
        words.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
    }
    systemd.set_nonblocking(false).unwrap();
    words
}

fn hear_until(systemd: &UnixDatagram, word: &str) {
    let mut bytes = [0; 1024];
    loop {
        let length = systemd.recv(&mut bytes).expect("the agent says something");
        if &bytes[..length] == word.as_bytes() {
            return;
        }
    }
}

#[test]
fn a_thread_that_hangs_silences_the_agent() {
    let name = format!("gwm-agent-watchdog-{}", std::process::id());
    let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let (gwm, member, http) = (free_address().to_string(), service().to_string(), free_address().to_string());
    let directory = RunDirectory::new();
    let flags = ["--gwm", &gwm, "--member", &member, "--http-listen", &http, "--load-interval", "100ms"];
    // The agent looks each second.
    let environment = [("NOTIFY_SOCKET", format!("@{name}")), ("WATCHDOG_USEC", "2000000".into())];
    let agent = Agent::start_in(&directory, &flags, &environment);
    agent.wait_for_log(&["can not connect"]);
    for thread in ["gwm-link-0", "gwm-check-1", "load", "answers"] {
        hear_until(&systemd, "WATCHDOG=1");
        let complaint = format!("{thread} hangs: systemd is not told that the agent lives");
        let complaints = || agent.log().matches(&complaint).count();
        // There is one if the machine was busy for a second.
        let before = complaints();
        let Some(stopped) = Stopped::new(agent.id(), thread) else { return };
        until("the agent says what hangs", || complaints() > before);
        heard(&systemd);
        let before = complaints();
        until("it says so at each look", || complaints() >= before + 4);
        // Systemd waits for two looks.
        let words = heard(&systemd);
        assert!(!words.iter().any(|word| word.contains("WATCHDOG=1")), "{thread}: {words:?}");
        drop(stopped);
    }
    hear_until(&systemd, "WATCHDOG=1");
    assert!(agent.stop().success());
}

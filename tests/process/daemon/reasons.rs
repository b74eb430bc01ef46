//! What the log says of members and load balancers, so that an operator knows why.

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    daemon::monitoring::{Server, agent, daemon, http, lb},
    harness::{Daemon, TempFile, until},
};

/// How many lines of the log have all parts.
fn lines(daemon: &Daemon, parts: &[&str]) -> usize {
    daemon.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn member(server: &Server, rest: &str) -> String {
    format!("[[member]]\naddress = \"127.0.0.1\"\nport = {}\n{rest}\n", server.address.port())
}

#[test]
fn every_change_of_a_standing_is_told_with_its_reason() {
    let (plain, busy) = (Server::silent("127.0.0.1:0"), Server::open("127.0.0.1:0", http, "200 OK"));
    let (own, speaker) = (Server::silent("127.0.0.1:0"), Server::open("127.0.0.1:0", agent, "up"));
    let rules = [
        member(&plain, "monitor = \"tcp\""),
        member(&busy, "monitor = \"http\""),
        member(&own, &format!("monitor = [\"tcp\", \"agent\"]\nagent_port = {}", speaker.address.port())),
    ];
    let file = TempFile::new("reasons.toml", rules.concat());
    let daemon = daemon(&["--members", file.path(), "--panic-percent", "100"]);
    let names = [plain.name(), busy.name(), own.name()];
    let [plain_name, busy_name, own_name] = names.each_ref().map(|name| format!("member={name}"));
    let members: Vec<&str> = names.iter().map(String::as_str).collect();
    let _lbs = [lb(&daemon, "LB1", &members), lb(&daemon, "LB2", &members[..1])];
    // The first check may be over before the second load balancer has registered.
    daemon.wait_for_log(&["INFO", "unknown -> up: a check passed", &plain_name]);
    daemon.wait_for_log(&["INFO", "unknown -> up: a check passed", &busy_name, "groups=1"]);

    drop(plain);
    daemon.wait_for_log(&["INFO", "up -> down: connection refused", &plain_name, "groups=2"]);
    daemon.wait_for_log(&["DEBUG", "a check failed: connection refused", &plain_name]);
    let _plain = Server::silent(&names[0]);
    daemon.wait_for_log(&["INFO", "down -> up: 2 checks passed in a row", &plain_name]);

    busy.say("503 Busy");
    daemon.wait_for_log(&["INFO", "up -> down: HTTP 503, expected 200-399", &busy_name]);

    speaker.say("drain");
    daemon.wait_for_log(&["INFO", "up -> drained: agent says drain", &own_name]);
    speaker.say("ready down # disk full");
    daemon.wait_for_log(&["INFO", "drained -> down: agent says down: disk full", &own_name]);
    speaker.say("up");
    daemon.wait_for_log(&["INFO", "down -> up: agent says up", &own_name]);
    daemon.stop();
}

/// A person has to mend it, so it is a warning; said at every check, so it is told once.
#[test]
fn what_a_member_says_in_vain_is_told_once() {
    let servers: [Server; 2] = std::array::from_fn(|_| Server::silent("127.0.0.1:0"));
    let agents = ["weight:256", "hello"].map(|line| Server::open("127.0.0.1:0", agent, line));
    let reports = ["JSON {", "JSON {\"rps\": 5}", "JSON {\"cpu_utilization\": 0.5, \"rps\": 5}"]
        .map(|report| Server::open("127.0.0.1:0", http, &format!("200 OK\r\nendpoint-load-metrics: {report}")));
    let mut rules = String::new();
    for (server, agent) in servers.iter().zip(&agents) {
        rules += &member(server, &format!("monitor = [\"tcp\", \"agent\"]\nagent_port = {}", agent.address.port()));
    }
    reports.iter().for_each(|server| rules += &member(server, "monitor = \"http\""));
    let file = TempFile::new("vain.toml", rules);
    let daemon = daemon(&["--members", file.path()]);
    let names: Vec<String> = servers.iter().chain(&reports).map(Server::name).collect();
    let _lb = lb(&daemon, "LB1", &names.iter().map(String::as_str).collect::<Vec<_>>());
    until("each was checked often", || agents.iter().chain(&reports).all(|server| server.accepted() > 20));
    for (name, text) in names.iter().zip([
        "the agent says weight:256; it counts as --weight-max, 100",
        "the agent's line can not be read",
        "the load report can not be read",
        "the load report has no utilisation",
    ]) {
        assert_eq!(lines(&daemon, &["WARN", text, &format!("member={name}")]), 1, "{text}\n{}", daemon.log());
    }
    assert_eq!(lines(&daemon, &["WARN", &format!("member={}", names[4])]), 0, "a report that counts");
    daemon.stop();
}

#[test]
fn connections_that_fight_for_a_uid_are_told_of_once() {
    let daemon = daemon(&[]);
    for _ in 0..6 {
        let mut peer = daemon.connect();
        assert_eq!(peer.set_lb("LB1", LbFlags::PUSH), ReturnCode::SUCCESSFUL);
        // Left open: the next one takes the load balancer from it.
        std::mem::forget(peer);
    }
    let text = "take this load balancer from each other";
    daemon.wait_for_log(&["WARN", text, "load_balancer=LB1", "before=127.0.0.1", "after=127.0.0.1"]);
    assert_eq!(lines(&daemon, &[text]), 1);
    daemon.stop();
}

//! From the registration of a service to its end.

use std::net::{SocketAddr, TcpListener, TcpStream};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use super::{Agent, EMPTY, RunDirectory, listed, serve, service, until_listed};
use crate::{
    connect::real::free_address,
    harness::{Daemon, LB, Peer, TempFile, run, until},
};

const TRUSTED: LbFlags = LbFlags::TRUST;

/// A connection of `LB1`, which trusts its members.
fn lb(daemon: &Daemon) -> Peer {
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", TRUSTED), ReturnCode::SUCCESSFUL);
    lb
}

fn entry(member: SocketAddr, words: &str) -> String {
    format!("LB1/web [{member} {words}]")
}

#[test]
fn a_service_is_registered_when_it_answers_and_leaves_when_its_connections_are_gone() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let member = free_address();
    let directory = RunDirectory::new();
    let (gwm, place) = (daemon.address().to_string(), member.to_string());
    let agent =
        Agent::start(&directory, &["--gwm", &gwm, "--member", &place, "--label", "w1", "--opaque-state", "0x2A"]);
    until("the agent is asked", || directory.tell(&["status"]).is_ok_and(|text| text.contains("starting (tcp")));
    agent.wait_for_log(&["it does not answer yet: tcp: ", "connection refused: it is registered when it answers"]);
    assert_eq!(listed(&mut lb), "");
    serve(TcpListener::bind(member).unwrap());
    let labelled = |words: &str| entry(member, &format!("w1 {words}"));
    until_listed(&mut lb, &labelled("2A/01/100"));
    assert!(agent.own_kib() < 5000, "{} KiB", agent.own_kib());
    let status = directory.tell(&["status"]).unwrap();
    assert!(status.starts_with("web: up, ") && status.contains("session, 1 of 1 registered\n"), "{status}");

    // By hand, by a signal, and back.
    assert_eq!(directory.tell(&["quiesce", "web", "--reason", "new disk"]).unwrap(), "web: quiesced\n");
    until_listed(&mut lb, &labelled("2A/03/0"));
    let json: serde_json::Value = serde_json::from_str(&directory.tell(&["status", "--json"]).unwrap()).unwrap();
    let shown = &json["agents"][0]["services"][0];
    assert_eq!((&shown["state"], &shown["reason"]), (&"maint".into(), &"new disk".into()));
    assert_eq!(directory.tell(&["resume"]).unwrap(), "web: resumed\n");
    until_listed(&mut lb, &labelled("2A/01/100"));
    agent.signal(Signal::USR1);
    until_listed(&mut lb, &labelled("2A/03/0"));
    agent.signal(Signal::USR2);
    until_listed(&mut lb, &labelled("2A/01/100"));
    assert!(directory.tell(&["quiesce", "other"]).unwrap_err().contains("has a service other"));

    // An open connection is waited for.
    let client = TcpStream::connect(member).unwrap();
    let waiting = directory.tell(&["quiesce", "--wait", "400ms"]);
    assert!(waiting.unwrap_err().contains("not drained in time: web"));
    agent.signal(Signal::TERM);
    until_listed(&mut lb, &labelled("2A/03/0"));
    until("a connection is counted", || {
        directory.tell(&["status"]).is_ok_and(|text| text.starts_with("web: drain, 1 connection"))
    });
    drop(client);
    assert!(agent.wait().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

#[test]
fn a_gwm_that_was_restarted_and_a_load_balancer_that_comes_later_are_told_again() {
    let member = service();
    let listen = free_address();
    let directory = RunDirectory::new();
    let (gwm, port) = (listen.to_string(), member.port().to_string());
    // The address is that of the interface that leads to the GWM.
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--member", &port]);
    agent.wait_for_log(&["can not connect"]);
    let daemon = Daemon::start(&["--listen", &gwm]);
    agent.wait_for_log(&["the load balancer has not contacted this GWM (0x61)"]);
    let mut distrustful = daemon.connect();
    assert_eq!(distrustful.set_lb("LB1", LbFlags::NONE), ReturnCode::SUCCESSFUL);
    agent.wait_for_log(&["does not let members speak for themselves", "(0x11)"]);
    assert_eq!(distrustful.set_lb("LB1", TRUSTED), ReturnCode::SUCCESSFUL);
    until_listed(&mut distrustful, &entry(member, "00/01/100"));
    daemon.stop();
    let daemon = Daemon::start(&["--listen", &gwm, "--hold-time", "100ms"]);
    let mut second = lb(&daemon);
    until_listed(&mut second, &entry(member, "00/01/100"));
    // The hold time passes.
    drop(second);
    until("the GWM forgets the load balancer", || agent.log().matches("(0x61)").count() >= 2);
    let mut third = lb(&daemon);
    until_listed(&mut third, &entry(member, "00/01/100"));
    // Someone else deregisters it.
    assert_eq!(third.deregister(LB, "LB1", "web", &[&member.to_string()]), ReturnCode::SUCCESSFUL);
    until_listed(&mut third, &entry(member, "00/01/100"));
    // An LB's own quiesce is not undone by what the agent confirms.
    assert_eq!(third.set_member(LB, ("LB1", "web", &member.to_string()), 9, true), ReturnCode::SUCCESSFUL);
    let confirmations = || agent.log().matches("the GWM confirms").count();
    let before = confirmations();
    until("the registration is confirmed", || confirmations() > before + 1);
    assert_eq!(listed(&mut third), entry(member, "09/03/0"));
    assert!(agent.stop().success());
    assert_eq!(listed(&mut third), EMPTY);
    daemon.stop();
}

#[test]
fn what_the_load_balancer_registered_stays_and_a_killed_agent_knows_what_it_registered() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let [one, two] = [(); 2].map(|()| service());
    assert_eq!(lb.register(LB, "LB1", "web", &[&one.to_string()]), ReturnCode::SUCCESSFUL);
    let directory = RunDirectory::new();
    let gwm = daemon.address().to_string();
    let both = format!("{one},{two}");
    let start = || Agent::start(&directory, &["--gwm", &gwm, "--member", &both, "--drain-time", "2s"]);
    let shown = |first: &str, second: &str| format!("LB1/web [{one} {first}, {two} {second}]");
    let agent = start();
    until_listed(&mut lb, &shown("00/05/100", "00/01/100"));
    agent.signal(Signal::USR1);
    until_listed(&mut lb, &shown("00/07/0", "00/03/0"));
    agent.kill();
    // Its next life goes on with the quiesce, and says what is so now.
    let agent = start();
    agent.wait_for_log(&["quiesced by hand since 2", "SIGUSR1"]);
    agent.wait_for_log(&["the GWM has it registered already"]);
    agent.signal(Signal::USR2);
    until_listed(&mut lb, &shown("00/05/100", "00/01/100"));
    assert!(agent.stop().success());
    assert_eq!(listed(&mut lb), entry(one, "00/07/0"), "quiesced, until its agent comes back");
    let agent = start();
    until_listed(&mut lb, &shown("00/05/100", "00/01/100"));
    drop(agent);
    daemon.stop();
}

#[test]
fn an_agent_that_was_started_again_drains_what_has_not_answered_it_yet() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let place = service();
    let directory = RunDirectory::new();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--member", &member]);
    until_listed(&mut lb, &entry(place, "00/01/100"));
    // Only what is claimed is known to the next life.
    agent.wait_for_log(&[" registered"]);
    agent.kill();
    let client = TcpStream::connect(place).unwrap();
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--member", &member, "--service-check", "exec:false"]);
    until("the check fails", || directory.tell(&["status"]).is_ok_and(|text| text.contains("starting (exec")));
    agent.signal(Signal::TERM);
    until_listed(&mut lb, &entry(place, "00/03/0"));
    until("a connection is counted", || {
        directory.tell(&["status"]).is_ok_and(|text| text.starts_with("web: drain, 1 connection"))
    });
    drop(client);
    assert!(agent.wait().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

#[test]
fn two_agents_on_one_host_do_not_undo_each_others_services() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let [one, two] = [(); 2].map(|()| service());
    let directory = RunDirectory::new();
    let gwm = daemon.address().to_string();
    let start = |name: &str, member: SocketAddr| {
        Agent::start(&directory, &["--gwm", &gwm, "--member", &member.to_string(), "--name", name])
    };
    let (first, other) = (start("one", one), start("two", two));
    let mut members = [one.to_string(), two.to_string()];
    members.sort();
    until("both are registered", || {
        let listed = listed(&mut lb);
        members.iter().all(|member| listed.contains(member))
    });
    // A new agent takes over from the first one.
    let second = start("again", one);
    second.wait_for_log(&["the GWM has it registered already"]);
    let status = directory.tell(&["status"]).unwrap();
    assert!(["one: up", "two: up", "again: up"].iter().all(|part| status.contains(part)), "{status}");
    assert!(first.stop().success());
    assert!(listed(&mut lb).contains(&format!("{one} 00/01/100")));
    assert!(second.stop().success());
    assert_eq!(listed(&mut lb), entry(two, "00/01/100"));
    assert!(other.stop().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

#[test]
fn one_agent_keeps_many_services_at_several_gwms() {
    let daemons = [(); 2].map(|()| Daemon::start(&[]));
    let mut lbs = [lb(&daemons[0]), lb(&daemons[1])];
    let open = service();
    let closed = free_address();
    let file = TempFile::new(
        "services.toml",
        format!(
            "[[service]]\ngroup = ['web', 'all']\nmember = '{open}'\n\
             [[service]]\nname = 'udp'\ngroup = 'dns'\nmember = '{open}/udp'\ncheck = 'exec:true'\nopaque_state = 'exec:echo 7'\n\
             [[service]]\nname = 'later'\ngroup = 'api'\nmember = '{closed}'\n"
        ),
    );
    let directory = RunDirectory::new();
    let gwms = daemons.iter().map(|daemon| daemon.address().to_string()).collect::<Vec<_>>().join(",");
    let check = run(&["agent", "--gwm", &gwms, "--lb", "LB1", "--config", file.path(), "--check"]);
    let expected = format!(
        "service web: check tcp\n  {open} in the group web of LB1\n  {open} in the group all of LB1\n\
         service udp: check exec:true\n  {open}/udp in the group dns of LB1\n\
         service later: check tcp\n  {closed} in the group api of LB1\n"
    );
    assert_eq!(String::from_utf8_lossy(&check.stdout), expected);
    let agent = Agent::start(&directory, &["--gwm", &gwms, "--lb", "LB1", "--config", file.path()]);
    let shown = format!("LB1/web [{open} 00/01/100] LB1/all [{open} 00/01/100] LB1/dns [{open}/udp 07/01/100]");
    lbs.iter_mut().for_each(|lb| until_listed(lb, &shown));
    assert_eq!(directory.tell(&["quiesce", "udp", "--wait", "20s"]).unwrap(), "udp: quiesced\n");
    let shown = shown.replace("07/01/100", "07/03/0");
    lbs.iter_mut().for_each(|lb| assert_eq!(listed(lb), shown, "the wait was for this"));
    assert!(agent.stop().success());
    lbs.iter_mut().for_each(|lb| assert_eq!(listed(lb), "LB1/web [] LB1/all [] LB1/dns []"));
}

#[test]
fn a_service_that_no_longer_answers_is_quiesced_if_that_is_wanted() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let member = TempFile::new("up", "");
    let check = format!("exec:test -e {}", member.path());
    let directory = RunDirectory::new();
    let gwm = daemon.address().to_string();
    let flags =
        ["--gwm", &gwm, "--member", "10.0.0.1:80", "--service-check", &check, "--fall", "1", "--on-down", "quiesce"];
    let agent = Agent::start(&directory, &flags);
    until_listed(&mut lb, "LB1/web [10.0.0.1:80 00/01/100]");
    std::fs::remove_file(member.path()).unwrap();
    until_listed(&mut lb, "LB1/web [10.0.0.1:80 00/03/0]");
    member.write("");
    until_listed(&mut lb, "LB1/web [10.0.0.1:80 00/01/100]");
    assert!(agent.stop().success());
    daemon.stop();
}

#[test]
fn an_agent_without_a_gwm_ends_in_time() {
    let place = service();
    let member = place.to_string();
    let gwm = free_address().to_string();
    let directory = RunDirectory::new();
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--member", &member]);
    agent.wait_for_log(&["can not connect"]);
    assert!(agent.stop().success());
    // A wait that would last long is ended by a second signal.
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let gwm = daemon.address().to_string();
    let _client = TcpStream::connect(place).unwrap();
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--member", &member, "--drain-time", "1h"]);
    until_listed(&mut lb, &format!("LB1/web [{member} 00/01/100]"));
    agent.signal(Signal::TERM);
    until_listed(&mut lb, &format!("LB1/web [{member} 00/03/0]"));
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

#[test]
fn mistakes_are_told_before_anything_starts() {
    let says = |flags: &[&str], words: &str| {
        let output = run(&[&["agent", "--check"], flags].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(words), "{flags:?}: {text}");
    };
    says(&["--group", "web", "--member", "80"], "whose group is it");
    says(&["--lb", "LB1", "--member", "80"], "which group does it join");
    says(&["--lb", "LB1", "--group", "web"], "where does it listen");
    says(&["--lb", "LB1", "--group", "web", "--member", "53/udp", "--service-check", "tcp"], "needs a TCP port");
    says(&["--lb", "LB1", "--group", "web", "--member", "10.0.0.1"], "give --service-check");
    says(&["--service-check", "ping"], "`ping` is not a check");
    says(&["--config", "/nonexistent"], "can not read the services file");
    let file = TempFile::new("services.toml", "[[service]]\ngroup = 'web'\nmembers = 80\n");
    says(&["--lb", "LB1", "--config", file.path()], "services.toml:3: unknown field `members`");
}

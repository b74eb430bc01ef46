//! What is killed is right again when checks and backoff promise that: after so many checks, by so many attempts. Checks
//! are counted at other services, which have the same interval and go on: so a busy machine changes nothing.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use super::{Agent, EMPTY, RunDirectory, child::Server, listed, service, until_listed};
use crate::{
    connect::real::{Running, free_address},
    harness::{Daemon, LB, Peer, TempFile, until},
};

/// So many failed checks in a row take a service out, so many good ones bring it back: of the GWM and of the agent.
const FALL: u64 = 3;
const RISE: u64 = 2;

/// So many more checks another service may have had: one between the kill and the first check that fails, and two until the
/// load balancer and this test have heard of the result.
const MORE: u64 = 3;

/// A connection of `LB1`, which trusts its members.
fn lb(daemon: &Daemon) -> Peer {
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    lb
}

/// A service that counts its connections.
fn counting() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (address, count) = (listener.local_addr().expect("it is bound"), Arc::new(AtomicU64::new(0)));
    let counts = Arc::clone(&count);
    // The thread ends with the test's process.
    thread::spawn(move || {
        for _ in listener.incoming().map_while(Result::ok) {
            counts.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, count)
}

/// The weight that the GWM tells for this member; `None` if it has no such member.
fn weight(lb: &mut Peer, member: SocketAddr) -> Option<u32> {
    let listed = listed(lb);
    let (_, rest) = listed.split_once(&format!("{member} "))?;
    rest.split([',', ']']).next()?.rsplit('/').next()?.parse().ok()
}

#[test]
fn a_killed_service_is_out_and_back_after_as_many_checks_as_are_promised() {
    let (rise, fall) = (RISE.to_string(), FALL.to_string());
    let times =
        ["--probe-interval", "1s", "--probe-fast-interval", "1s", "--probe-timeout", "1s", "--slow-start", "0s"];
    let rows = ["--probe", "tcp", "--probe-rise", &rise, "--probe-fall", &fall, "--push-window", "10ms"];
    let daemon = Daemon::start(&[&times[..], &rows].concat());
    let mut lb = lb(&daemon);
    let server = Server::new();
    let start = || Running::start(Command::new(server.command()[0]).args(&server.command()[1..]));
    let answers = || TcpStream::connect(server.address).is_ok();
    let mut running = Some(start());
    until("the service answers", answers);
    // Most of the group goes on: so the GWM has no doubt.
    let (witness, checks) = counting();
    let others = [witness, service(), service(), service()].map(|address| address.to_string());
    let others = others.each_ref().map(String::as_str);
    assert_eq!(lb.register(LB, "LB1", "web", &others), ReturnCode::SUCCESSFUL);
    let lines = TempFile::new("checks", "");
    let file = TempFile::new(
        "agent.toml",
        format!(
            "[[service]]\nname = 'killed'\ngroup = 'web'\nmember = '{}'\n\
             [[service]]\nname = 'other'\ngroup = 'other'\nmember = '{}'\ncheck = \"exec:echo . >> '{}'\"\n",
            server.address,
            service(),
            lines.path()
        ),
    );
    let gwm = daemon.address().to_string();
    let directory = RunDirectory::new();
    let flags = ["--gwm", &gwm, "--lb", "LB1", "--config", file.path(), "--check-interval", "1s"];
    let agent = Agent::start(&directory, &[&flags[..], &["--rise", &rise, "--fall", &fall]].concat());
    let of_gwm = || checks.load(Ordering::SeqCst);
    let ups = || agent.log().lines().filter(|line| line.ends_with("up service=\"killed\"")).count();
    until("it is up, as the agent and the GWM say", || {
        let has_weight = weight(&mut lb, server.address).is_some_and(|weight| weight > 0);
        has_weight && ups() == 1 && of_gwm() > RISE + 1
    });
    let of_agent = || fs::read_to_string(lines.path()).expect("it is there").lines().count() as u64;
    // Counts the checks until both have seen the change.
    let mut count = |what: &str, is_so: &dyn Fn(u32) -> bool, has_logged: &dyn Fn() -> bool| {
        let before = (of_gwm(), of_agent());
        let (mut gwm, mut own) = (None, None);
        until(what, || {
            gwm = gwm.or_else(|| weight(&mut lb, server.address).is_some_and(is_so).then(of_gwm));
            own = own.or_else(|| has_logged().then(of_agent));
            gwm.is_some() && own.is_some()
        });
        (gwm.unwrap_or(0) - before.0, own.unwrap_or(0) - before.1)
    };
    let promised = |row: u64, found: (u64, u64), what: &str| {
        eprintln!("{what}: after {} checks of the GWM, {} of the agent", found.0, found.1);
        let range = row - 1..=row + MORE;
        assert!(range.contains(&found.0) && range.contains(&found.1), "{what}: {found:?}, and {row} are promised");
    };

    drop(running.take());
    let out = count("it is out", &|weight| weight == 0, &|| agent.has_logged(&["down: tcp: ", "connection refused"]));
    promised(FALL, out, "killed");
    running = Some(start());
    until("the service answers", answers);
    let back = count("it is back", &|weight| weight > 0, &|| ups() == 2);
    promised(RISE, back, "started again");
    assert!(agent.stop().success());
    drop(running);
    daemon.stop();
}

/// The waits that an agent has promised from one attempt to connect to the next, in seconds.
fn promised_waits(agent: &Agent) -> Vec<f64> {
    let log = agent.log();
    let waits = log.lines().filter_map(|line| line.split_once("retry_seconds=")?.1.split(' ').next()?.parse().ok());
    waits.collect()
}

#[test]
fn after_a_kill_of_the_gwm_the_first_attempt_that_can_succeed_does() {
    let gwm = free_address().to_string();
    let start = || Daemon::start(&["--listen", &gwm]);
    let mut daemon = start();
    let mut first = lb(&daemon);
    let place = service();
    let member = place.to_string();
    let directory = RunDirectory::new();
    // `--retry 1s`.
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--member", &member]);
    let registered = format!("LB1/web [{member} 00/01/100]");
    until_listed(&mut first, &registered);
    daemon.signal(Signal::KILL);
    daemon.wait();
    drop(daemon);
    until("some attempts have failed", || promised_waits(&agent).len() >= 4);
    let daemon = start();
    let failed = promised_waits(&agent).len();
    agent.wait_for_log(&["the load balancer has not contacted this GWM (0x61)"]);
    let waits = promised_waits(&agent);
    // One was under way when the GWM came.
    assert!(waits.len() <= failed + 1, "{failed} attempts had failed, and then {}", waits.len() - failed);
    // The first one is spread from the loss on; each one after a failure is not before half of --retry.
    assert!(waits.iter().all(|wait| *wait <= 1.0) && waits[1..].iter().all(|wait| *wait >= 0.5), "{waits:?}");

    // The load balancer comes: the next request succeeds, and only the first refusal was told.
    let refused = || agent.log().matches("the GWM refuses again").count();
    until("it is refused again", || refused() >= 2);
    let mut second = lb(&daemon);
    let before = refused();
    until_listed(&mut second, &registered);
    assert!(refused() <= before + 1, "{before} refusals, and then {}", refused());
    let told = agent.log().lines().filter(|line| line.contains("(0x61)") && line.contains("WARN")).count();
    assert_eq!(told, 1, "why it waits is told once");
    assert!(agent.stop().success());
    assert_eq!(listed(&mut second), EMPTY);
    daemon.stop();
}

#[test]
fn after_a_kill_of_the_agent_the_next_one_finds_the_service_registered() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let place = service();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    let directory = RunDirectory::new();
    let start = || Agent::start(&directory, &["--gwm", &gwm, "--member", &member, "--refresh", "1h"]);
    let agent = start();
    let registered = format!("LB1/web [{member} 00/01/100]");
    until_listed(&mut lb, &registered);
    agent.wait_for_log(&[" registered"]);
    agent.kill();
    assert_eq!(listed(&mut lb), registered, "the GWM's checks decide");
    let agent = start();
    agent.wait_for_log(&["the GWM has it registered already"]);
    // One request finds it, one says what is so now.
    agent.wait_for_log(&["the GWM confirms", "Say"]);
    let log = agent.log();
    let answers = log.lines().filter(|line| line.contains(" the GWM ") || line.contains("INFO registered")).count();
    assert_eq!(answers, 2, "{log}");
    assert_eq!(listed(&mut lb), registered);
    assert!(agent.stop().success());
    assert_eq!(listed(&mut lb), EMPTY, "it knows that its earlier life registered the service");
    daemon.stop();
}

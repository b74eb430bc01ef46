//! A farm of real web servers behind a real HAProxy: no request is lost while its members are restarted, and what is
//! killed is right again.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use gwm::sasp::{Endpoint, component::TCP};
use rustix::process::{Pid, Signal, kill_process};

use super::{Agent, RunDirectory, child::Server};
use crate::{
    connect::{
        Connector,
        proxy::{Proxy, backend, request},
        real::{free_address, installed},
    },
    harness::{Daemon, until},
};

/// Clients that ask all the time.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Load {
        let (stop, asked, failed) = Default::default();
        let mut load = Load { stop, asked, failed, threads: Vec::new() };
        for _ in 0..4 {
            let (stop, asked, failed) = (Arc::clone(&load.stop), Arc::clone(&load.asked), Arc::clone(&load.failed));
            load.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if !request(address) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        load
    }

    /// Waits until so many more requests were answered.
    fn go_on(&self, requests: u64) {
        let from = self.asked.load(Ordering::Relaxed);
        until("requests go on", || self.asked.load(Ordering::Relaxed) >= from + requests);
    }

    /// Ends; the number of requests, and of those that failed.
    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Five members behind HAProxy, each kept by an agent.
struct Farm {
    gwm: String,
    daemon: Option<Daemon>,
    proxy: Proxy,
    _connector: Connector,
    servers: Vec<Server>,
    directory: RunDirectory,
}

impl Farm {
    /// The servers are HAProxy's own, or `dynamic`: they become its servers when they register.
    fn start(dynamic: bool) -> Farm {
        let servers: Vec<_> = (0..5).map(|_| Server::new()).collect();
        let names = ["s1", "s2", "s3", "s4", "s5"];
        let own: Vec<_> = names.iter().zip(&servers).map(|(name, server)| (*name, server.address, "")).collect();
        let proxy = Proxy::start(&backend("web", "balance roundrobin", if dynamic { &[] } else { &own }));
        let gwm = free_address().to_string();
        let daemon = Some(start_gwm(&gwm));
        let socket = proxy.socket("admin");
        let mut flags = vec!["--gwm", &gwm, "--trust", "haproxy", "--socket", &socket];
        if dynamic {
            flags.push("--dynamic");
        }
        let connector = Connector::start(&flags);
        Farm { gwm, daemon, proxy, _connector: connector, servers, directory: RunDirectory::new() }
    }

    fn agent(&self, at: usize) -> Agent {
        let (server, member) = (&self.servers[at], self.servers[at].address.to_string());
        // HAProxy's connector hears within 10 ms and acts within 500 ms, on a machine that is not busy with other tests.
        let flags = ["--gwm", &self.gwm, "--member", &member, "--quiesce-time", "3s", "--"];
        Agent::start(&self.directory, &[&flags[..], &server.command()].concat())
    }

    /// Whether HAProxy gives this member a share.
    fn serves(&self, at: usize) -> bool {
        let address = self.servers[at].address;
        let endpoint = Endpoint::new(address.ip(), TCP, address.port());
        self.proxy.servers().values().any(|server| server.endpoint == Some(endpoint) && server.weight > 0)
    }

    fn wait_for(&self, members: impl Iterator<Item = usize> + Clone) {
        until("HAProxy uses these members", || members.clone().all(|at| self.serves(at)));
    }
}

fn start_gwm(listen: &str) -> Daemon {
    let checks = ["--probe", "tcp", "--probe-interval", "100ms", "--probe-timeout", "2s", "--slow-start", "0s"];
    Daemon::start(&[&["--listen", listen, "--push-window", "10ms"], &checks[..]].concat())
}

fn a_rolling_restart_fails_no_request(dynamic: bool) {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let farm = Farm::start(dynamic);
    let mut agents: Vec<_> = (0..5).map(|at| farm.agent(at)).collect();
    // HAProxy's own servers have a share before they answer.
    agents.iter().for_each(|agent| agent.wait_for_log(&["registered"]));
    farm.wait_for(0..5);
    let load = Load::start(farm.proxy.listen);
    load.go_on(50);
    for at in 0..5 {
        let agent = agents.remove(0);
        assert_eq!(agent.stop().code(), Some(3), "the status of the service");
        load.go_on(50);
        agents.push(farm.agent(at));
        farm.wait_for(at..at + 1);
        load.go_on(50);
    }
    let (asked, failed) = load.end();
    assert_eq!(failed, 0, "of {asked} requests");
}

#[test]
fn a_rolling_restart_of_the_load_balancers_own_servers_fails_no_request() {
    a_rolling_restart_fails_no_request(false);
}

#[test]
fn a_rolling_restart_of_servers_that_register_themselves_fails_no_request() {
    a_rolling_restart_fails_no_request(true);
}

#[test]
fn what_is_killed_is_right_again() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let mut farm = Farm::start(true);
    let mut agents: Vec<_> = (0..5).map(|at| farm.agent(at)).collect();
    farm.wait_for(0..5);
    // A service: its agent ends with its status, and whoever started the agent starts it again.
    let process = Pid::from_raw(farm.servers[0].process().expect("it runs") as i32).expect("a number");
    kill_process(process, Signal::KILL).unwrap();
    assert_eq!(agents.remove(0).wait().code(), Some(137));
    until("HAProxy no longer uses it", || !farm.serves(0));
    agents.push(farm.agent(0));
    farm.wait_for(0..5);
    // An agent: its service goes on, and the next agent finds it.
    let process = Pid::from_raw(farm.servers[1].process().expect("it runs") as i32).expect("a number");
    agents.remove(0).kill();
    assert!(farm.serves(1));
    let member = farm.servers[1].address.to_string();
    let next = Agent::start(&farm.directory, &["--gwm", &farm.gwm, "--member", &member, "--quiesce-time", "1s"]);
    next.wait_for_log(&["the GWM has it registered already"]);
    assert!(next.stop().success());
    until("HAProxy no longer uses it", || !farm.serves(1));
    kill_process(process, Signal::KILL).unwrap();
    agents.push(farm.agent(1));
    farm.wait_for(0..5);
    // The GWM.
    if let Some(daemon) = &mut farm.daemon {
        daemon.signal(Signal::KILL);
        daemon.wait();
    }
    farm.daemon = None;
    assert!((0..5).all(|at| farm.serves(at)), "without a GWM the last weights stay");
    farm.daemon = Some(start_gwm(&farm.gwm));
    for agent in &agents {
        until("it is registered again", || agent.log().matches(" INFO registered").count() >= 2);
    }
    farm.wait_for(0..5);
    agents.into_iter().for_each(|agent| assert_eq!(agent.stop().code(), Some(3)));
    until("HAProxy has no member left", || (0..5).all(|at| !farm.serves(at)));
}

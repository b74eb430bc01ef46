//! The GWM of 2,000 agents is restarted. The agents' machines share some threads of the test, each with a session of its
//! own; how evenly they come back is tested in simulated time, beside the machine.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use gwm::{
    agent::{
        machine::{Machine, Step},
        membership::{Request, Timing, Wish, Words},
    },
    client::Client,
    sasp::{Endpoint, GroupData, LbFlags, MemberData, ReturnCode, SenderFlags},
    time::Time,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::{
    connect::real::free_address,
    harness::{Daemon, PATIENCE, until},
};

const AGENTS: usize = 2000;
const THREADS: usize = 8;

/// One agent of the fleet.
struct Agent {
    machine: Machine,
    client: Option<Client>,
    member: Endpoint,
}

impl Agent {
    fn new(number: usize) -> Agent {
        let second = Duration::from_secs(1);
        let timing = Timing { first_wait: second / 2, retry: second * 3, refresh: second * 3600 };
        let [_, _, high, low] = (number as u32).to_be_bytes();
        Agent {
            machine: Machine::new(timing, [false]),
            client: None,
            member: Endpoint::new([10, 1, high, low].into(), 6, 80),
        }
    }

    /// Does what is to be done now; the number of its requests.
    fn step(&mut self, now: Time, gwm: &str) -> usize {
        let mut requests = 0;
        self.machine.wish(now, 0, Wish::Stay(Words::default()));
        loop {
            match self.machine.next(now) {
                Step::Wait(_) => return requests,
                Step::Connect => match Client::connect(gwm, PATIENCE) {
                    Ok(client) => {
                        self.client = Some(client);
                        self.machine.connected();
                    }
                    Err(_) => self.machine.lost(now, fastrand::f64()),
                },
                Step::Ask(_, request) => {
                    assert_eq!(request, Request::Register);
                    requests += 1;
                    let group = GroupData { lb_uid: b"LB1", name: b"web" };
                    let member = MemberData { endpoint: self.member, label: b"" };
                    let client = self.client.as_mut().expect("it is connected");
                    match client.register(SenderFlags::NONE, [(group, [member])]) {
                        Ok(()) => drop(self.machine.answered(now, ReturnCode::SUCCESSFUL, fastrand::f64())),
                        Err(error) => match error.refusal() {
                            Some(code) => drop(self.machine.answered(now, code, fastrand::f64())),
                            None => self.machine.lost(now, fastrand::f64()),
                        },
                    }
                }
            }
        }
    }

    /// The GWM has died: a real agent sees the end of its session at once.
    fn lose(&mut self, now: Time) {
        if self.client.take().is_some() {
            self.machine.lost(now, fastrand::f64());
        }
    }
}

#[test]
fn two_thousand_agents_are_registered_again_after_a_restart_of_the_gwm() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the limit can be raised to its maximum");
    let listen = free_address().to_string();
    let start = || {
        Daemon::start_alone(&["--listen", &listen, "--max-connections", "4096", "--max-connections-per-source", "4096"])
    };
    let listed = |daemon: &Daemon| {
        let mut lb = daemon.connect();
        assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
        until("all agents are registered", || lb.get_weights("LB1", &[""]).matches(":80 00/").count() == AGENTS);
    };
    let mut daemon = Some(start());
    let began = Instant::now();
    let now = || Time::default() + began.elapsed();
    let (stop, restarts) = (AtomicBool::new(false), AtomicUsize::new(0));
    let registered = Mutex::new(0);
    // Requests in each second after the kill: for people, as a busy machine shifts them.
    let (asked, killed_at) = (Mutex::new(BTreeMap::new()), Mutex::new(began));
    thread::scope(|scope| {
        for share in 0..THREADS {
            let (stop, restarts, listen, registered) = (&stop, &restarts, &listen, &registered);
            let (asked, killed_at) = (&asked, &killed_at);
            scope.spawn(move || {
                let mut agents: Vec<_> = (share..AGENTS).step_by(THREADS).map(Agent::new).collect();
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    if restarts.load(Ordering::Relaxed) != seen {
                        seen += 1;
                        agents.iter_mut().for_each(|agent| agent.lose(now()));
                    }
                    let requests: usize = agents.iter_mut().map(|agent| agent.step(now(), listen)).sum();
                    if seen > 0 && requests > 0 {
                        let second = killed_at.lock().unwrap().elapsed().as_secs();
                        *asked.lock().unwrap().entry(second).or_insert(0) += requests;
                    }
                    thread::sleep(Duration::from_millis(5)); // between two looks at all agents
                }
                let known = agents.iter().filter(|agent| agent.machine.memberships()[0].is_registered()).count();
                *registered.lock().unwrap() += known;
            });
        }
        if let Some(mut daemon) = daemon.take() {
            listed(&daemon);
            daemon.signal(Signal::KILL);
            daemon.wait();
        }
        *killed_at.lock().unwrap() = Instant::now();
        restarts.store(1, Ordering::Relaxed);
        listed(daemon.insert(start()));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(*registered.lock().unwrap(), AGENTS);
    let asked = asked.into_inner().unwrap();
    eprintln!("requests in each second after the kill: {asked:?}");
    // Each agent comes back by one request, or by two if it comes before the load balancer: nobody asks again and again.
    assert!((AGENTS..=2 * AGENTS).contains(&asked.values().sum()), "{asked:?}");
    daemon.expect("it was started again").stop();
}

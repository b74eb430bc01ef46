//! The legitimate peers, and how an attack runs beside them.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustls::{ClientConfig, version::TLS13};

use super::size;
use crate::{
    authority::Subject,
    harness::{Daemon, LB, MEMBER, Peer, until},
    site::{Site, client, from},
};

pub(crate) const OK: ReturnCode = ReturnCode::SUCCESSFUL;
pub(crate) const REFUSED: ReturnCode = ReturnCode::NOT_ACCEPTED;

/// The source address of the legitimate peers.
pub(crate) const HOME: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The source address of attackers.
pub(crate) const AWAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// How the legitimate load balancer and member connect, and their identities.
#[derive(Clone)]
pub(crate) enum Way {
    Plain,
    Tls { lb: Arc<ClientConfig>, member: Arc<ClientConfig> },
}

impl Way {
    /// With certificates for LB1 and for members at [`HOME`].
    pub(crate) fn certified(site: &Site) -> Way {
        let config = |subject: Subject| client(&site.authority, Some(&site.authority.issue(&subject)), &[&TLS13]);
        Way::Tls {
            lb: config(Subject::client().dns("LB1")),
            member: config(Subject::client().dns("web").address(HOME.into())),
        }
    }

    fn connect(&self, address: SocketAddr, lb: bool) -> Peer {
        let stream = from(HOME, address);
        match self {
            Way::Plain => Peer::from(stream),
            Way::Tls { lb: config, .. } if lb => Peer::secure(stream, config).expect("a good certificate"),
            Way::Tls { member, .. } => Peer::secure(stream, member).expect("a good certificate"),
        }
    }
}

/// The load balancer LB1, a member of its group G, and all that the daemon has acknowledged to them.
pub(crate) struct Legitimate {
    address: SocketAddr,
    way: Way,
    pub(crate) lb: Peer,
    pub(crate) member: Peer,
    /// The members of the group G, as Get Weights shows them.
    ledger: Vec<String>,
}

/// The group that never changes.
const CALM: &str = "LB1/CALM [10.9.255.255:80 00/05/100]";

impl Legitimate {
    pub(crate) fn begin(address: SocketAddr, way: Way) -> Legitimate {
        let (mut lb, member) = (way.connect(address, true), way.connect(address, false));
        assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
        assert_eq!(lb.register(LB, "LB1", "CALM", &["10.9.255.255:80"]), OK);
        assert_eq!(lb.register(LB, "LB1", "G", &[]), OK);
        Legitimate { address, way, lb, member, ledger: Vec::new() }
    }

    /// Makes this many requests, one after another; each must get the right answer. Both peers register, and the load
    /// balancer asks for weights.
    fn exchanges(&mut self, count: usize, pace: Duration) -> Latency {
        let mut took: Vec<Duration> = (0..count)
            .map(|number| {
                let at = self.ledger.len();
                thread::sleep(pace);
                let start = Instant::now();
                match number % 4 {
                    0 => {
                        let member = format!("10.9.{}.{}:80", at / 256, at % 256);
                        assert_eq!(self.lb.register(LB, "LB1", "G", &[&member]), OK);
                        self.ledger.push(format!("{member} 00/05/100"));
                    }
                    2 => {
                        let member = format!("{HOME}:{}", 1 + at);
                        assert_eq!(self.member.register(MEMBER, "LB1", "G", &[&member]), OK);
                        self.ledger.push(format!("{member} 00/01/100"));
                    }
                    _ => assert_eq!(self.lb.get_weights("LB1", &["CALM"]), CALM),
                }
                start.elapsed()
            })
            .collect();
        took.sort_unstable();
        let percentile = |of_hundred: usize| took[(took.len() * of_hundred / 100).min(took.len() - 1)];
        Latency { p50: percentile(50), p99: percentile(99) }
    }

    /// Every acknowledged registration must be there, and nothing else.
    pub(crate) fn audit(&mut self) {
        let all = self.lb.get_weights("LB1", &[""]);
        assert!(all == format!("{CALM} LB1/G [{}]", self.ledger.join(", ")), "not the acknowledged members: {all}");
    }

    /// Audits, and audits again over a new connection.
    fn end(mut self) {
        self.audit();
        self.lb = self.way.connect(self.address, true);
        self.audit();
    }
}

/// The times of answers.
#[derive(Clone, Copy)]
pub(crate) struct Latency {
    p50: Duration,
    p99: Duration,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms, {:.2} ms", self.p50.as_secs_f64() * 1e3, self.p99.as_secs_f64() * 1e3)
    }
}

/// One line of the table.
pub(crate) struct Row {
    attack: String,
    outcome: String,
    without: Latency,
    with: Latency,
    kib: (u64, u64),
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { attack, outcome, without, with, kib: (before, after) } = self;
        write!(f, "| {attack} | {outcome} | {without} | {with} | {} → {} MiB |", before >> 10, after >> 10)
    }
}

/// What attackers share with the test.
#[derive(Default)]
pub(crate) struct Stage {
    stopped: AtomicBool,
    bell: (Mutex<()>, Condvar),
    attempts: AtomicU64,
}

impl Stage {
    /// Counts attempts of an attacker.
    pub(crate) fn attempted(&self, count: usize) {
        self.attempts.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Waits for the end, at most this long; returns whether the end has come.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let silence = self.bell.0.lock().expect("no panic under the lock");
        let _ =
            self.bell.1.wait_timeout_while(silence, at_most, |()| !self.is_over()).expect("no panic under the lock");
        self.is_over()
    }

    fn stop(&self) {
        let _silence = self.bell.0.lock().expect("no panic under the lock");
        self.stopped.store(true, Ordering::Relaxed);
        self.bell.1.notify_all();
    }
}

/// An attack.
pub(crate) struct Attack {
    pub(crate) name: String,
    /// How much the daemon's memory may grow during the attack, in MiB.
    pub(crate) mib: u64,
    /// How many threads attack.
    pub(crate) threads: usize,
    /// How many attempts come before the legitimate peers are measured.
    pub(crate) attempts: usize,
    /// How long the legitimate peers wait between two exchanges; with a pause they make fewer exchanges.
    pub(crate) pace: Duration,
}

impl Default for Attack {
    fn default() -> Attack {
        Attack { name: String::new(), mib: 16, threads: 1, attempts: 1, pace: Duration::ZERO }
    }
}

impl Attack {
    /// Runs the attack while the legitimate peers make their exchanges. Each attacking thread runs `role` until the
    /// stage ends; `outcome` describes the result of this many attempts.
    pub(crate) fn play(
        self,
        daemon: &Daemon,
        way: Way,
        role: impl Fn(&Stage) + Send + Sync + 'static,
        outcome: impl FnOnce(u64) -> String,
    ) -> Row {
        let exchanges = if self.pace.is_zero() { size(400, 4000) } else { size(40, 400) };
        let mut legitimate = Legitimate::begin(daemon.address(), way);
        let without = legitimate.exchanges(exchanges, self.pace);
        let before = daemon.resident_kib();

        let (stage, role) = (Arc::new(Stage::default()), Arc::new(role));
        let attackers: Vec<JoinHandle<()>> = (0..self.threads)
            .map(|_| {
                let (stage, role) = (Arc::clone(&stage), Arc::clone(&role));
                thread::spawn(move || role(&stage))
            })
            .collect();
        until(&format!("{}: the attack is under way", self.name), || {
            assert!(!attackers.iter().any(JoinHandle::is_finished), "{}: an attacker has given up", self.name);
            stage.attempts.load(Ordering::Relaxed) >= self.attempts as u64
        });
        let with = legitimate.exchanges(exchanges, self.pace);
        let after = daemon.resident_kib();
        stage.stop();
        attackers.into_iter().for_each(|attacker| attacker.join().expect("the attack went as it should"));

        legitimate.end();
        assert!(after < before + (self.mib << 10), "{}: {before} KiB grew to {after} KiB", self.name);
        let outcome = outcome(stage.attempts.load(Ordering::Relaxed));
        let row = Row { attack: self.name, outcome, without, with, kib: (before, after) };
        println!("{row}");
        row
    }
}

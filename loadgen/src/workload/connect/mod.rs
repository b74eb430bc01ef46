//! `connect`: a connector follows a real GWM and commands a load balancer that this process plays; from a change of
//! weights to the load balancer's having them.
//!
//! The weights change by the server's members file, tick after tick, each when all receivers have the one before. A receiver
//! is what the connector tells: HAProxy's table, pen's table, the answers of DNS, or one client's stream of xDS. A receiver
//! has a tick when the weights of all its members are in proportion to the tick's.

mod dns;
mod haproxy;
mod pen;
mod text;
mod xds;

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};

use clap::{Args, ValueEnum};
use gwm::sasp::Endpoint;
use hdrhistogram::Histogram;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, fanout, room_for};
use crate::{
    Result,
    child::Guarded,
    model::{Change, Ticks},
    options::{Common, Shape, pin},
    player::Stage,
    process::{Memory, Usage},
    report::{Sample, Unit, latencies, record},
    run::Meter,
    subject::{Subject, beside},
};

/// The group that the connector follows; also the name of the pool.
const GROUP: &str = "web";

/// The UID of the connector.
const UID: &str = "loadgen";

/// Flags of `connect`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connect {
    #[command(flatten)]
    pub(crate) common: Common,

    /// The load balancer that is played, and so the connector that is measured
    #[arg(value_enum)]
    kind: Kind,

    /// Members of the one group
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000), help_heading = "Load balancer")]
    members: u32,

    /// Clients with a stream each (xds only)
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=4000), help_heading = "Load balancer")]
    streams: u32,

    /// Times that weights change
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000), help_heading = "Changes")]
    ticks: u64,

    /// The part of the members whose weight changes in a tick
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0, value_parser = percent, help_heading = "Changes")]
    share: f64,

    /// How long queries are asked as fast as they are answered, after the ticks (dns only)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, help_heading = "Queries")]
    duration: Duration,

    /// Queries without an answer at a time, meanwhile (dns only)
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Queries")]
    window: u16,
}

fn percent(text: &str) -> std::result::Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent) } else { Err(format!("{percent} is not above 0 and up to 100")) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A stats socket of HAProxy
    Haproxy,
    /// A control port of pen
    Pen,
    /// A client of DNS
    Dns,
    /// Clients of xDS over gRPC
    Xds,
}

/// Shared by the conductor and the receivers.
struct Board {
    stage: Arc<Stage>,
    members: Vec<Endpoint>,
    /// The members' places in the list.
    places: HashMap<Endpoint, usize>,
    /// The tick that is due, and the weights of the members in it.
    due: Mutex<(u64, Arc<[u32]>)>,
    latencies: Mutex<Histogram<u64>>,
    /// Queries that were answered in the time of queries.
    answered: AtomicU64,
}

impl Board {
    fn due(&self) -> (u64, Arc<[u32]>) {
        let due = lock(&self.due);
        (due.0, due.1.clone())
    }

    /// The weights of a tick may arrive from now on.
    fn announce(&self, tick: u64, weights: &[u32]) {
        *lock(&self.due) = (tick, weights.into());
        self.stage.announce(tick, self.stage.now());
    }

    fn member(&self, endpoint: Endpoint) -> Option<usize> {
        self.places.get(&endpoint).copied()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that is told weights.
struct Receiver {
    board: Arc<Board>,
    /// The next tick that it does not have yet.
    next: u64,
}

impl Receiver {
    fn new(board: &Arc<Board>) -> Receiver {
        Receiver { board: board.clone(), next: 0 }
    }

    /// Takes the weights that it has now.
    fn has(&mut self, weights: &[u32]) {
        let (tick, expected) = self.board.due();
        if tick < self.next || !fit(weights, &expected) {
            return;
        }
        let stage = &self.board.stage;
        record(&mut lock(&self.board.latencies), stage.now().saturating_sub(stage.due(tick)));
        self.next = tick + 1;
        stage.did(1);
    }
}

/// Whether weights are these ones, or these ones in a wider range, each rounded up or down.
fn fit(weights: &[u32], expected: &[u32]) -> bool {
    let most = |weights: &[u32]| f64::from(weights.iter().copied().max().unwrap_or(0));
    let scale = most(weights) / most(expected).max(1.0);
    let close = |(weight, expected): (&u32, &u32)| {
        let exact = f64::from(*expected) * scale;
        if scale == 1.0 { weight == expected } else { (f64::from(*weight) - exact).abs() < 1.0 }
    };
    scale >= 1.0 && weights.len() == expected.len() && weights.iter().zip(expected).all(close)
}

impl Workload for Connect {
    const NAME: &'static str = "connect";

    fn title(&self) -> String {
        let Connect { kind, members, ticks, share, .. } = self;
        let streams = if *kind == Kind::Xds { format!("{} streams × ", self.streams) } else { String::new() };
        format!("{kind:?}, {streams}{members} members, {share} % change per tick, {ticks} ticks")
    }

    fn parameters(&self) -> Value {
        json!({
            "kind": format!("{:?}", self.kind).to_lowercase(), "members": self.members, "ticks": self.ticks,
            "share_percent": self.share, "receivers": self.receivers(), "seed": self.common.seed,
            "push_window": self.common.server.push_window,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("connect has no floor: fanout with as many LBs shows what a push alone costs".into());
        }
        if common.server.connect.is_some() || common.server.tls.tls {
            return Err("connect starts the server itself, without TLS".into());
        }
        let members = self.members;
        let shape =
            Shape { lbs: 1, groups: 1, members, farms: 1, first_lb: 0, first_member: 0, local: false, own: false };
        let change =
            Change { share: self.share / 100.0, weight_max: fanout::WEIGHT_MAX, seed: common.seed, listed: true };
        let mut ticks = Ticks::new(shape, change, true);
        let mut flags = room_for(&shape, common);
        flags.push(("--probe", "off".into()));
        let subject = Subject::server(&common.server, &flags, Some(&ticks.operator_file(0)?))?;
        let members: Vec<Endpoint> = (0..members).map(|member| shape.endpoint(0, member)).collect();
        let board = Arc::new(Board {
            stage: Arc::new(Stage::new(self.ticks)),
            places: members.iter().enumerate().map(|(place, member)| (*member, place)).collect(),
            members,
            due: Mutex::new((0, ticks.weights(0)?.into())),
            latencies: Mutex::new(latencies()),
            answered: AtomicU64::new(0),
        });
        let cpu = common.cpus(0).0;
        let played = self.start(&board, subject.address, cpu)?;
        let stage = &board.stage;
        let receivers = u64::from(self.receivers());
        stage.wait(receivers, common.timeout, "receivers that have the first weights", |done| {
            progress.show("receivers", done, receivers);
        })?;
        *lock(&board.latencies) = latencies();

        let meter = Meter::begin(Some(played.pid()))?;
        let server = subject.pid().map(Usage::of).transpose()?;
        for tick in 1..=self.ticks {
            board.announce(tick, &ticks.weights(tick)?);
            subject.operate(&ticks.operator_file(tick)?)?;
            progress.show("tick", tick, self.ticks);
            stage.wait(receivers * (tick + 1), common.timeout, "receivers that have a tick's weights", |_| {})?;
        }
        let metered = meter.end()?;
        let server = subject.pid().zip(server).map(|(pid, before)| Usage::of(pid).map(|now| now.since(&before)));
        let server = server.transpose()?;
        let memory = Memory::of(played.pid())?;

        let mut sample = Sample::default();
        let updates = receivers * self.ticks;
        sample.add("updates", updates as f64, Unit::Count);
        metered.add_to(&mut sample, "update", updates);
        if let Some(server) = server {
            sample.add("server's CPU per change", server.cpu_ns as f64 / self.ticks as f64, Unit::Nanoseconds);
        }
        sample.add_latencies("change to use", lock(&board.latencies).clone());
        if self.kind == Kind::Dns {
            self.ask(&board, played.pid(), &mut sample, progress)?;
        }
        sample.add_memory(Some(memory));
        stage.end();
        played.stop()?;
        subject.stop()?;
        Ok(sample)
    }
}

impl Connect {
    fn receivers(&self) -> u32 {
        if self.kind == Kind::Xds { self.streams } else { 1 }
    }

    /// Starts the played load balancer and the connector.
    fn start(&self, board: &Arc<Board>, gwm: SocketAddr, cpu: usize) -> Result<Played> {
        let mut list = format!("{GROUP}=");
        for (at, member) in board.members.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(list, "{comma}{}:{}", member.ip(), member.port).expect("a string takes everything");
        }
        let address = |listener: &std::net::TcpListener| listener.local_addr().map(|address| address.to_string());
        match self.kind {
            Kind::Haproxy | Kind::Pen => {
                let failed = |error| format!("can not listen: {error}");
                let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
                let at = address(&listener).map_err(failed)?;
                let pen = self.kind == Kind::Pen;
                let flags = if pen {
                    vec!["pen", "--control", &at, "--group", GROUP]
                } else {
                    vec!["haproxy", "--socket", &at]
                };
                let answer = if pen { pen::answer } else { haproxy::answer };
                let thread = play(board, cpu, move |board| text::serve(&board, &listener, answer))?;
                Ok(Played { connector: Connector::start(&flags, gwm)?, thread })
            }
            Kind::Dns => {
                let flags = ["dns", "--zone", dns::ZONE, "--listen", "127.0.0.1:0", "--rate", "0", "--group", &list];
                let mut connector = Connector::start(&flags, gwm)?;
                let at = connector.address("dns on ")?;
                let window = self.window;
                let thread = play(board, cpu, move |board| dns::ask(&board, at, window))?;
                Ok(Played { connector, thread })
            }
            Kind::Xds => {
                let mut connector = Connector::start(&["xds", "--listen", "127.0.0.1:0", "--group", &list], gwm)?;
                let at = connector.address("xDS on ")?;
                let streams = self.streams;
                let thread = play(board, cpu, move |board| xds::follow(&board, at, streams))?;
                Ok(Played { connector, thread })
            }
        }
    }

    /// Lets queries be asked as fast as they are answered.
    fn ask(&self, board: &Board, pid: u32, sample: &mut Sample, progress: &Progress) -> Result<()> {
        use std::sync::atomic::Ordering::Relaxed;

        // The tick after the last one is the time of queries.
        board.announce(dns::FAST, &[]);
        board.stage.pass(self.duration / 10, |_| progress.show("warm-up", 0, 1))?;
        let (before, meter) = (board.answered.load(Relaxed), Meter::begin(Some(pid))?);
        board.stage.pass(self.duration, |_| progress.show("queries", board.answered.load(Relaxed) - before, 0))?;
        let (answered, metered) = (board.answered.load(Relaxed) - before, meter.end()?);
        if answered == 0 {
            return Err("no query was answered".into());
        }
        let cpu = metered.used.as_ref().map_or(0, |used| used.cpu_ns);
        sample.add("queries answered per second", answered as f64 / metered.wall.as_secs_f64(), Unit::PerSecond);
        sample.add("CPU per query", cpu as f64 / answered as f64, Unit::Nanoseconds);
        sample.add("player's CPU per query", metered.own.cpu_ns as f64 / answered as f64, Unit::Nanoseconds);
        Ok(())
    }
}

/// What is played, and the connector before it.
struct Played {
    connector: Connector,
    thread: JoinHandle<()>,
}

impl Played {
    fn pid(&self) -> u32 {
        self.connector.child.0.id()
    }

    /// Ends both; the stage has ended.
    fn stop(self) -> Result<()> {
        // What is played goes on until the connector is gone, which may be in the middle of something.
        let status = self.connector.child.stop(Some(Signal::TERM))?;
        self.thread.join().map_err(|_| "the played load balancer panicked")?;
        if status.success() { Ok(()) } else { Err(format!("the connector ended with {status}")) }
    }
}

/// Plays on a thread of its own; a failure ends the run.
fn play(
    board: &Arc<Board>,
    cpu: usize,
    run: impl FnOnce(Arc<Board>) -> Result<()> + Send + 'static,
) -> Result<JoinHandle<()>> {
    let board = board.clone();
    let play = move || {
        let stage = board.stage.clone();
        if let Err(error) = pin(cpu).and_then(|()| run(board)) {
            stage.fail(error);
        }
    };
    let thread = std::thread::Builder::new().name("played".into()).spawn(play);
    thread.map_err(|error| format!("can not start a thread: {error}"))
}

/// A running `gwm connect`.
struct Connector {
    child: Guarded,
    output: BufReader<ChildStdout>,
}

impl Connector {
    fn start(flags: &[&str], gwm: SocketAddr) -> Result<Connector> {
        let mut command = Command::new(beside("gwm")?);
        command.arg("connect").args(flags);
        command.args(["--uid", UID, "--log-level", "warn", "--gwm", &gwm.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Guarded::spawn(&mut command, "gwm connect")?;
        let output = child.0.stdout.take().ok_or("the connector has no standard output")?;
        Ok(Connector { child, output: BufReader::new(output) })
    }

    /// Where it listens, as it says behind these words.
    fn address(&mut self, words: &str) -> Result<SocketAddr> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.output.read_line(&mut line);
            if read.map_err(|error| format!("can not read what the connector says: {error}"))? == 0 {
                return Err("the connector ended before it said where it listens".into());
            }
            if let Some((_, address)) = line.trim().split_once(words) {
                return address.parse().map_err(|_| format!("the connector says \"{}\": no address", line.trim()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fit_in_a_wider_range_and_not_when_one_is_wrong() {
        let expected = [100, 50, 33, 1];
        assert!(fit(&[100, 50, 33, 1], &expected) && fit(&[256, 128, 84, 3], &expected));
        assert!(fit(&[256, 128, 85, 2], &expected), "each may be rounded up or down");
        for wrong in [&[100, 51, 33, 1][..], &[256, 128, 88, 3], &[256, 128, 84], &[50, 25, 16, 1], &[0, 0, 0, 0]] {
            assert!(!fit(wrong, &expected), "{wrong:?}");
        }
    }
}

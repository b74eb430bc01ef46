//! Agent-checks of a load balancer, at a rate: each is a connection, a key and an answer.
//!
//! They are threads of the player's process with the lowest priority, as the clients of the admin side are: see `admin.rs`.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::process::setpriority_process;

use crate::{
    Result,
    admin::LEAST,
    model::group_name,
    options::{Shape, pin},
    player::Stage,
    report::{Sample, Unit, latencies, record, sum},
};

/// Threads that ask, so that one slow answer does not hold all others up.
const THREADS: u32 = 8;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running checks.
pub(crate) struct Checks {
    began: Instant,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Histogram<u64>>>,
}

/// What they have seen.
pub(crate) struct Seen {
    time: Duration,
    latencies: Vec<Histogram<u64>>,
}

impl Checks {
    /// Starts `rate` checks a second, of the members of the first load balancer by turns. A wrong answer fails the run.
    pub(crate) fn start(to: SocketAddr, cpu: usize, rate: u32, shape: Shape, stage: &Arc<Stage>) -> Result<Checks> {
        let mut checks = Checks { began: Instant::now(), end: Arc::default(), threads: Vec::new() };
        let pause = Duration::from_secs(1) * THREADS / rate;
        for first in 0..THREADS {
            let (stage, end) = (stage.clone(), checks.end.clone());
            let thread = std::thread::Builder::new().name("agent-checks".into()).spawn(move || {
                let mut seen = latencies();
                let nice = || setpriority_process(None, LEAST).map_err(|error| format!("can not be nice: {error}"));
                let run = |seen: &mut Histogram<u64>| ask(to, first, pause, shape, &end, seen);
                let done = pin(cpu).and_then(|()| nice()).and_then(|()| run(&mut seen).map_err(|e| e.to_string()));
                if let Err(error) = done {
                    stage.fail(format!("an agent-check at {to}: {error}"));
                }
                seen
            });
            checks.threads.push(thread.map_err(|error| format!("can not start a thread: {error}"))?);
        }
        Ok(checks)
    }

    /// Ends them.
    pub(crate) fn stop(self) -> Result<Seen> {
        self.end.store(true, Relaxed);
        let time = self.began.elapsed();
        let threads = self.threads.into_iter().map(JoinHandle::join);
        let latencies = threads.collect::<std::result::Result<_, _>>().map_err(|_| "an agent-check panicked")?;
        Ok(Seen { time, latencies })
    }
}

impl Seen {
    /// Adds what was seen to a sample.
    pub(crate) fn add_to(&self, sample: &mut Sample) {
        let all = sum(&self.latencies);
        sample.add("agent-checks answered", all.len() as f64, Unit::Count);
        sample.add("agent-checks answered per second", all.len() as f64 / self.time.as_secs_f64(), Unit::PerSecond);
        sample.add_latencies("agent-check", all);
    }
}

/// Asks for every eighth member, beginning with `first`, until the end.
fn ask(
    to: SocketAddr,
    first: u32,
    pause: Duration,
    shape: Shape,
    end: &AtomicBool,
    seen: &mut Histogram<u64>,
) -> io::Result<()> {
    let (mut due, mut member) = (Instant::now(), first % shape.members);
    while !end.load(Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let endpoint = shape.endpoint(0, member);
        let key = format!("{}/{}:{}\n", group_name(0), endpoint.ip(), endpoint.port);
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(key.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("ready up ") {
            return Err(io::Error::other(format!("\"{}\" is answered with \"{}\"", key.trim(), answer.trim())));
        }
        record(seen, due.elapsed().as_nanos().try_into().unwrap_or(u64::MAX));
        due += pause;
        member = (member + THREADS) % shape.members;
    }
    Ok(())
}

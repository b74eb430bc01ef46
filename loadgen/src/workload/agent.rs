//! `agent`: what `gwm agent` costs while nothing happens: memory, and CPU, with one service that answers its checks.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use gwm::{
    client::Client,
    sasp::{GroupData, Health, LbFlags},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Progress, Side, Workload};
use crate::{
    Result,
    child::Guarded,
    options::Common,
    process::{Memory, Usage},
    report::{Sample, Unit},
    subject::{Subject, beside},
};

/// How long the service may take for a client's bytes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Who asks for agent-checks asks so often.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Flags of `agent`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Agent {
    #[command(flatten)]
    pub(crate) common: Common,

    /// The service is checked by HTTP and has a metrics page, and someone asks the agent each second how the service is; else
    /// it is checked by TCP, and nobody asks
    #[arg(long)]
    asked: bool,

    /// How long the agent's CPU is measured
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    duration: Duration,

    /// How long the agent is left alone before that, from its registration on
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    settle: Duration,
}

impl Workload for Agent {
    const NAME: &'static str = "agent";

    fn title(&self) -> String {
        let how = if self.asked { "checked by HTTP, with a metrics page, asked each second" } else { "checked by TCP" };
        format!("one service, {how}, for {:?}", self.duration)
    }

    fn parameters(&self) -> Value {
        json!({
            "asked": self.asked, "duration_seconds": self.duration.as_secs_f64(),
            "settle_seconds": self.settle.as_secs_f64(),
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("agent has no floor".into());
        }
        let subject = Subject::server(&common.server, &[("--probe", "off".into())], None)?;
        let (gwm, stop) = (subject.address.to_string(), Arc::new(AtomicBool::new(false)));
        let mut lb = Client::connect(&gwm, common.timeout).map_err(|error| error.to_string())?;
        lb.set_lb_state(b"LB1", Health::BEST, LbFlags::TRUST).map_err(|error| error.to_string())?;
        let service = serve()?;
        let run_dir = RunDirectory(std::env::temp_dir().join(format!("gwm-loadgen-agent-{}", std::process::id())));
        let mut agent = Command::new(beside("gwm")?);
        agent.args(["agent", "--gwm", &gwm, "--lb", "LB1", "--group", "web", "--member", &service.to_string()]);
        agent.args(["--log-level", "warn", "--run-dir"]).arg(&run_dir.0).stdin(Stdio::null());
        if self.asked {
            let listen = free_address()?;
            agent.args(["--service-check", "http:/", "--agent-listen", &listen.to_string()]);
            agent.args(["--http-listen", "127.0.0.1:0", "--load-requests", "requests_total"]);
            agent.args(["--load-metrics", &format!("http://{service}/metrics")]);
            let stop = Arc::clone(&stop);
            thread::spawn(move || ask(listen, &stop));
        }
        let agent = Guarded::spawn(&mut agent, "gwm agent")?;
        let begin = Instant::now();
        while !has_member(&mut lb)? {
            if begin.elapsed() > common.timeout {
                return Err("the agent did not register its service in time (--timeout)".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let pid = agent.0.id();
        let start = Memory::of(pid)?;
        progress.show("seconds to settle", 0, self.settle.as_secs());
        thread::sleep(self.settle);
        let (before, begin) = (Usage::of(pid)?, Instant::now());
        progress.show("seconds", 0, self.duration.as_secs());
        thread::sleep(self.duration);
        let (used, wall) = (Usage::of(pid)?.since(&before), begin.elapsed());
        let memory = Memory::of(pid)?;
        stop.store(true, Ordering::Relaxed);
        let status = agent.stop(Some(Signal::TERM))?;
        if !status.success() {
            return Err(format!("the agent ended with {status}"));
        }
        drop(lb);
        subject.stop()?;

        let mut sample = Sample::default();
        sample.add("memory after the registration, resident", start.rss as f64, Unit::Bytes);
        sample.add_memory(Some(memory));
        sample.add("memory, pages of files", (memory.rss - memory.anonymous.min(memory.rss)) as f64, Unit::Bytes);
        let part = used.cpu().as_secs_f64() / wall.as_secs_f64();
        sample.add("CPU in a second", part * 1e9, Unit::Nanoseconds);
        sample.add("voluntary switches in a second", used.voluntary_switches as f64 / wall.as_secs_f64(), Unit::Count);
        for (name, cpu_ns) in used.threads {
            sample.add(format!("CPU in a second, {name}"), cpu_ns as f64 / wall.as_secs_f64(), Unit::Nanoseconds);
        }
        Ok(sample)
    }
}

/// Whether a member is registered for the load balancer.
fn has_member(lb: &mut Client) -> Result<bool> {
    let all = GroupData { lb_uid: b"LB1", name: b"" };
    let reply = lb.get_weights([all]).map_err(|error| error.to_string())?;
    Ok(reply.groups.into_iter().any(|group| group.entries().count() > 0))
}

/// The agent's directory; removed when this value is dropped.
struct RunDirectory(PathBuf);

impl Drop for RunDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn free_address() -> Result<SocketAddr> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    address.map_err(|error| format!("no port is free: {error}"))
}

/// A service that answers each request with its metrics page. Its thread ends with the process.
fn serve() -> Result<SocketAddr> {
    let failed = |error| format!("can not listen: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    thread::spawn(move || {
        for (count, stream) in listener.incoming().map_while(std::io::Result::ok).enumerate() {
            // A check by TCP asks nothing.
            let _ = answer(stream, count);
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, count: usize) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = [0; 1024];
    if stream.read(&mut request)? > 0 {
        let body = format!("# TYPE requests_total counter\nrequests_total {count}\n");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}

/// Asks for agent-checks until the stop, as a load balancer does.
fn ask(agent: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(agent) {
            let _ = stream.set_read_timeout(Some(TIMEOUT));
            let _ = stream.read_to_end(&mut Vec::new());
        }
        thread::sleep(ASK_EVERY);
    }
}

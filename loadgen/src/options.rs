//! Flags that every workload has.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{
    Result,
    files::MembersFile,
    tls::{Tls, Version},
};

/// The measured server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is measured")]
pub(crate) struct ServerOptions {
    /// Start this command for the run, and stop it at the end; flags that the workload needs are added to it
    /// [default: the gwm beside this program, `gwm serve`]
    #[arg(long, value_name = "COMMAND", conflicts_with = "connect")]
    pub(crate) spawn: Option<String>,

    /// Use the server that runs at this address. Nobody else may use it at the same time
    #[arg(long, value_name = "ADDR")]
    pub(crate) connect: Option<SocketAddr>,

    /// The process of the server at --connect, for its CPU, memory and context switches
    #[arg(long, value_name = "PID", requires = "connect")]
    pub(crate) pid: Option<u32>,

    /// The members file of the server at --connect: it is overwritten
    #[arg(long, value_name = "FILE", requires = "pid")]
    pub(crate) operator_file: Option<MembersFile>,

    /// The push window of a server that is started
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub(crate) push_window: String,

    /// Clients of another kind that load the server in this run.
    #[arg(skip)]
    pub(crate) load: Option<Load>,

    #[command(flatten)]
    pub(crate) tls: TlsOptions,
}

/// Load beside the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Clients of the admin side.
    Admin,
    /// So many agent-checks a second.
    AgentChecks(u32),
}

/// Whether the player speaks TLS.
#[derive(Args, Clone, Debug)]
pub(crate) struct TlsOptions {
    /// All connections speak TLS, with certificates on both ends, made for the run; right after it the same without TLS,
    /// and print the ratio
    #[arg(long, conflicts_with = "connect")]
    pub(crate) tls: bool,

    /// The version of TLS
    #[arg(long, value_enum, value_name = "VERSION", default_value = "1.3", requires = "tls")]
    pub(crate) tls_version: Version,

    /// Both ends of TLS in this run, if it is one over TLS.
    #[arg(skip)]
    pub(crate) speaks: Option<Arc<Tls>>,
}

impl TlsOptions {
    /// Its words in a title.
    pub(crate) fn title(&self) -> String {
        if self.tls { format!(", TLS {}", self.tls_version.number()) } else { String::new() }
    }
}

impl ServerOptions {
    /// Whether the server has an operator's file of our making.
    pub(crate) fn lists_members(&self) -> bool {
        self.connect.is_none() || self.operator_file.is_some()
    }
}

/// The measurement, and the destination of its results.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) server: ServerOptions,

    /// Run the floor beside it: the same bytes from bare loops; and print the ratio
    #[arg(long, help_heading = "Method")]
    pub(crate) floor: bool,

    /// Runs, each with a fresh server (and, with --floor, a run of the floor after each)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Method")]
    pub(crate) pairs: u32,

    /// Threads of the player
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Method")]
    pub(crate) threads: u16,

    /// Cores of the player's threads, in turn [default: the first usable core]. What a message costs its sender
    /// depends on whether the receiver shares its core; both sides of a comparison have the same cores
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Method")]
    pub(crate) player_cpus: Vec<usize>,

    /// Core of the floor [default: the last usable core, where `gwm serve` has a shard]
    #[arg(long, value_name = "CORE", help_heading = "Method")]
    pub(crate) floor_cpu: Option<usize>,

    /// The seed of all random choices: the same seed makes the same run
    #[arg(long, value_name = "NUMBER", default_value_t = 1, help_heading = "Method")]
    pub(crate) seed: u64,

    /// The longest wait for an expected event
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration, help_heading = "Method")]
    pub(crate) timeout: Duration,

    /// Write the results as JSON to a file, or to standard output in place of the table (`-`)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) json: Option<PathBuf>,

    /// Write the latencies as a log of HDR histograms, one line for each histogram of each run
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) hdr_out: Option<PathBuf>,

    /// No progress on the terminal
    #[arg(long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

impl Common {
    /// The core of the player's `seat`th thread, and that of the floor.
    pub(crate) fn cpus(&self, seat: usize) -> (usize, usize) {
        let usable = usable_cpus();
        let player = match self.player_cpus.as_slice() {
            [] => usable.first().copied().unwrap_or(0),
            cpus => cpus[seat % cpus.len()],
        };
        (player, self.floor_cpu.or(usable.last().copied()).unwrap_or(0))
    }
}

/// The cores that this process may run on.
fn usable_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Lets the calling thread run on this core only.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    pin_thread(None, cpu)
}

/// Lets a process that has just started run on this core only.
pub(crate) fn pin_process(pid: u32, cpu: usize) -> Result<()> {
    pin_thread(Pid::from_raw(pid as i32), cpu)
}

fn pin_thread(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("there is no core {cpu}"));
    }
    set.set(cpu);
    sched_setaffinity(thread, &set).map_err(|error| format!("can not run on core {cpu}: {error}"))
}

/// The load balancers of a run, and their registrations.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Load balancers")]
pub(crate) struct Shape {
    /// Load balancers
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) lbs: u32,

    /// Groups of each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) groups: u32,

    /// Members of each group
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) members: u32,

    /// Farms: load balancers of the same farm have the same members, those of another have others
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) farms: u32,

    /// The number of the first load balancer, where several workloads share a server.
    #[arg(skip)]
    pub(crate) first_lb: u32,

    /// The number of the first member.
    #[arg(skip)]
    pub(crate) first_member: u32,

    /// Members have addresses of this machine, where something can answer for them.
    #[arg(skip)]
    pub(crate) local: bool,

    /// Each load balancer is a farm of its own, and a network has the same member of all farms, and nothing else.
    #[arg(skip)]
    pub(crate) own: bool,
}

//! `gwm agent`: keeps the services of a host registered with GWMs.

mod orders;
mod telling;

use std::{
    ffi::OsString,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Subcommand;

use super::target::{self, Failure, HOUR, Link};
use crate::{
    agent::{
        check::Kind,
        claims,
        config::{self, CHECK_TIMES, Given, LEAVE_TIMES, MemberGiven, ROW},
        membership::Timing,
        opaque::Opaque,
        settings::ServiceSettings,
        supervisor::{self, Settings},
    },
    client::{Target, spec},
    config::{LogFormat, LogLevel, duration},
    runtime,
    sasp::Escaped,
};

const HELP: &str = "\
A service is registered when it answers its check, not before; again after a GWM was restarted or has forgotten it. \
SIGTERM, SIGINT or SIGQUIT: each service is quiesced, its open connections are waited for, it is deregistered, and the \
agent ends; a second signal ends the wait. SIGUSR1 quiesces all services by hand, SIGUSR2 resumes them. SIGHUP reads \
the file of services and the TLS files again; after a mistake, the old settings stay.

With `-- CMD ARGS` the agent starts the service, passes SIGHUP on, passes the signal that ends it on after the service \
was deregistered, and ends with the status of the service (128 and the number of the signal that killed the service). As \
process 1 of a container the agent reaps processes whose parents have ended.

Exit status: that of CMD; without CMD 0 after a signal or a good --check, 1 failed, 2 wrong usage.";

/// Lines in the queue of the log: an agent says little, and has little memory.
const LOG_LINES: usize = 1024;

/// Flags of `gwm agent`.
#[derive(clap::Args)]
// The orders speak with no GWM.
#[command(after_help = HELP, args_conflicts_with_subcommands = true, mut_args(|flag| flag.global(false)))]
pub struct Args {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Order {
    /// Show the services of the agents on this host
    Status(orders::StatusArgs),
    /// No new work for a service until it is resumed
    Quiesce(orders::QuiesceArgs),
    /// End what `quiesce` or SIGUSR1 began
    Resume(orders::ResumeArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// A GWM: HOST:PORT, IPv4:PORT or `[IPv6]:PORT`; without a port, 3860. Repeatable: the services are registered with
    /// each
    #[arg(long, env = "GWM_GWM", value_name = "ADDR", default_value = "127.0.0.1:3860", value_parser = target::address,
          value_delimiter = ',', help_heading = "Connection")]
    gwm: Vec<String>,
    #[command(flatten)]
    link: Link,
    /// From the end of a session to the next connection: a random time up to this long, 100ms to 1h, so that not all
    /// agents come at once; also the longest wait before a refused request is tried again
    #[arg(long, env = "GWM_AGENT_RETRY", value_name = "DURATION", default_value = "20s",
          value_parser = duration(Duration::from_millis(100)..=HOUR), help_heading = "Connection")]
    retry: Duration,
    /// How often a registration is confirmed, so that one that the GWM has forgotten is made again: 100ms to 1h
    #[arg(long, env = "GWM_AGENT_REFRESH", value_name = "DURATION", default_value = "30s",
          value_parser = duration(Duration::from_millis(100)..=HOUR), help_heading = "Connection")]
    refresh: Duration,
    /// A TOML file with `[[service]]` tables for several services. Its keys have the names of the flags below, with `_` for
    /// `-`, and of --label and --name; for a key that a service leaves out, the flag counts. `lb`, `group` and `member`
    /// may be lists
    #[arg(long, env = "GWM_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    answers: telling::AnswersArgs,
    #[command(flatten)]
    directory: Directory,
    /// Read the flags and files, print the services, and end
    #[arg(long = "check", env = "GWM_CHECK", value_parser = clap::builder::FalseyValueParser::new())]
    check_only: bool,
    /// The least severe log lines to write, on stderr
    #[arg(long, env = "GWM_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
    /// Log lines as text, or as one JSON object a line
    #[arg(long, env = "GWM_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// The service to run, with its arguments
    #[arg(last = true, value_name = "CMD ARGS")]
    command: Vec<OsString>,
}

/// Where agents of one user find each other.
#[derive(clap::Args)]
struct Directory {
    /// The directory of the sockets of agents, and of what they remember of their registrations [default: /run/gwm-agent of
    /// root, $XDG_RUNTIME_DIR/gwm-agent, or /tmp/gwm-agent-UID]
    #[arg(long, env = "GWM_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

impl Directory {
    fn path(self) -> PathBuf {
        self.run_dir.unwrap_or_else(claims::default_directory)
    }
}

/// The flags that the file has, too.
#[derive(clap::Args)]
struct ServiceArgs {
    /// What `gwm agent status` and log lines call the service [default: the first group]
    #[arg(long, env = "GWM_AGENT_NAME", value_name = "NAME", value_parser = |text: &str| config::name(text))]
    name: Option<String>,
    /// UID of a load balancer: 1 to 64 bytes, as `gwm` shows them: `\xFF` is a byte; repeatable
    #[arg(long, env = "GWM_LB", value_name = "UID", value_parser = spec::lb_uid)]
    lb: Vec<Box<[u8]>>,
    /// A group of these load balancers: 1 to 255 bytes, in the same form; repeatable
    #[arg(long, env = "GWM_MEMBER_GROUP", value_name = "NAME", value_parser = spec::group_name)]
    group: Vec<Box<[u8]>>,
    /// An endpoint of the service, as `gwm member` has it, or a port (80, 53/udp): then the address is that of the interface
    /// that leads to the GWM; repeatable
    #[arg(long, env = "GWM_MEMBER", value_name = "MEMBER", value_parser = MemberGiven::parse, value_delimiter = ',')]
    member: Vec<MemberGiven>,
    /// A label for the endpoints, which the GWM passes to the load balancer: at most 255 bytes, in the form of names
    #[arg(long, env = "GWM_LABEL", value_name = "TEXT", value_parser = spec::label)]
    label: Option<Box<[u8]>>,
    /// Where the service listens on this host, if not at --member: for its check, and to count its connections
    #[arg(long, env = "GWM_AGENT_LOCAL", value_name = "IP:PORT", value_parser = config::local)]
    local: Option<SocketAddr>,
    /// Whether the service answers: `tcp` (it takes a connection), `http:/PATH` (status 200 to 399), `exec:COMMAND` (status
    /// 0), `pid:FILE` (the process lives), `unit:NAME.service` (a unit of systemd has a process; or the path of a control
    /// group), `none` (it is always up) [default: tcp; to be given if no member has a TCP port]. In the file: `check`
    #[arg(long = "service-check", env = "GWM_SERVICE_CHECK", value_name = "CHECK", value_parser = Kind::parse)]
    check: Option<Kind>,
    /// From one check to the next: 10ms to 1h
    #[arg(long, env = "GWM_CHECK_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = duration(CHECK_TIMES))]
    check_interval: Duration,
    /// Time limit of one check: 10ms to 1h [default: the interval, at most 5s]
    #[arg(long, env = "GWM_CHECK_TIMEOUT", value_name = "DURATION", value_parser = duration(CHECK_TIMES))]
    check_timeout: Option<Duration>,
    /// So many good checks in a row bring the service up: 1 to 100
    #[arg(long, env = "GWM_CHECK_RISE", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=ROW as i64))]
    rise: u32,
    /// So many failed checks in a row take the service down: 1 to 100
    #[arg(long, env = "GWM_CHECK_FALL", value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=ROW as i64))]
    fall: u32,
    /// What the GWM hears when the service is down: `keep` nothing, so that the GWM's own checks decide; or `quiesce`. If all
    /// members of a group quiesce themselves, no doubt of the GWM keeps any of them in service
    #[arg(long, env = "GWM_ON_DOWN", value_name = "WHAT", default_value = "keep", value_parser = config::on_down, action = clap::ArgAction::Set)]
    on_down: bool,
    /// The opaque state: 0 to 255, or 0x00 to 0xFF; `file:PATH`, `exec:COMMAND` or `pressure` (0 calm
    /// to 3 stalled, by the kernel's PSI) for one that is read each 5 s
    #[arg(long, env = "GWM_AGENT_OPAQUE_STATE", value_name = "STATE", default_value = "0", value_parser = Opaque::parse)]
    opaque_state: Opaque,
    /// How long a service that leaves waits for the end of its connections: 0s to 24h, from its quiesce on
    #[arg(long, env = "GWM_DRAIN_TIME", value_name = "DURATION", default_value = "30s", value_parser = duration(LEAVE_TIMES))]
    drain_time: Duration,
    /// A connection is idle, and not waited for, if the service was the last to send and nothing was sent or received for
    /// so long: load balancers keep connections for later requests. Longer than the service is silent within a request: 0s
    /// (none is idle) to 24h
    #[arg(long, env = "GWM_IDLE_TIME", value_name = "DURATION", default_value = "10s", value_parser = duration(LEAVE_TIMES))]
    idle_time: Duration,
    /// How long load balancers get to hear of a quiesce before connections are counted: 0s to 24h. One that gets pushes
    /// hears within the GWM's push window, 100ms; one that asks, within its poll interval
    #[arg(long, env = "GWM_QUIESCE_TIME", value_name = "DURATION", default_value = "2s", value_parser = duration(LEAVE_TIMES))]
    quiesce_time: Duration,
    #[command(flatten)]
    telling: telling::LoadArgs,
}

impl ServiceArgs {
    fn given(self) -> Given {
        Given {
            name: self.name,
            lbs: self.lb,
            groups: self.group,
            members: self.member,
            label: self.label,
            local: self.local,
            check: self.check,
            check_interval: Some(self.check_interval),
            check_timeout: self.check_timeout,
            rise: Some(self.rise),
            fall: Some(self.fall),
            quiesce_when_down: Some(self.on_down),
            opaque: Some(self.opaque_state),
            drain_time: Some(self.drain_time),
            idle_time: Some(self.idle_time),
            quiesce_time: Some(self.quiesce_time),
            telling: self.telling.given(),
        }
    }
}

/// Runs `gwm agent`.
pub fn run(args: Args) -> ExitCode {
    match args.order {
        Some(Order::Status(args)) => target::finish(orders::status(args)),
        Some(Order::Quiesce(args)) => target::finish(orders::quiesce(args)),
        Some(Order::Resume(args)) => target::finish(orders::resume(args)),
        None => match start(args.run) {
            Ok(status) => ExitCode::from(status),
            Err(failure) => target::finish(Err(failure)),
        },
    }
}

fn start(args: RunArgs) -> Result<u8, Failure> {
    let gwms = targets(&args.gwm, &args.link)?;
    let logging = (!args.check_only).then(|| runtime::start_logging(args.log_level, args.log_format, LOG_LINES));
    let mut address = None;
    let find_address = || match address {
        Some(address) => Ok(address),
        None => own_address(&args.gwm, args.check_only).inspect(|found| address = Some(*found)),
    };
    let given = args.service.given();
    let services = config::services(&given, args.config.as_deref(), find_address).map_err(Failure::Usage)?;
    if args.check_only {
        return show(&services).map(|()| 0);
    }
    let (names, link, file) = (args.gwm, args.link, args.config);
    let read = move || {
        let targets = targets(&names, &link).map_err(|failure| failure.text())?;
        let services = config::services(&given, file.as_deref(), || own_address(&names, true))?;
        Ok((services, targets))
    };
    let settings = Settings {
        services,
        gwms,
        timing: Timing {
            first_wait: Duration::from_millis(500).min(args.retry),
            retry: args.retry,
            refresh: args.refresh,
        },
        http_listen: args.answers.http_listen,
        load_interval: args.answers.load_interval,
        directory: args.directory.path(),
        command: (!args.command.is_empty()).then_some(args.command),
        read: Box::new(read),
    };
    let status = supervisor::run(settings).map_err(|error| Failure::Failed(error.to_string()))?;
    drop(logging);
    Ok(status)
}

/// How to speak with each GWM; reads the files of TLS.
fn targets(gwms: &[String], link: &Link) -> Result<Vec<Target>, Failure> {
    gwms.iter().map(|gwm| link.target(gwm)).collect()
}

/// The address of the interface that leads to a GWM. At the boot of a host there may be none yet.
fn own_address(gwms: &[String], once: bool) -> Result<IpAddr, String> {
    const RETRY: Duration = Duration::from_secs(1);
    let mut told = false;
    loop {
        let mut last = String::new();
        for gwm in gwms {
            match config::own_address(gwm) {
                Ok(address) => return Ok(address),
                Err(why) => last = format!("{why}: correct --gwm, or give --member ADDRESS:PORT"),
            }
        }
        if once {
            return Err(last);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("{last}; the agent tries again");
        }
        thread::sleep(RETRY);
    }
}

/// Prints what the agent would do.
fn show(services: &[ServiceSettings]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for service in services {
        writeln!(out, "service {}: check {}", service.name, service.check.kind)?;
        for (lb, group) in service.lbs.iter().flat_map(|lb| service.groups.iter().map(move |group| (lb, group))) {
            let members: Vec<_> = service.members.iter().map(ToString::to_string).collect();
            writeln!(out, "  {} in the group {} of {}", members.join(", "), Escaped(group), Escaped(lb))?;
        }
    }
    Ok(())
}

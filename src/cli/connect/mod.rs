//! `gwm connect`: makes a load balancer that speaks no SASP use the weights of a GWM.
//!
//! To add a connector: its code in `src/connect/`, its flags in a file here with `run`, a row in `Command`.

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "dns")]
mod dns;
mod file;
mod haproxy;
mod ipvs;
mod nft;
mod pen;
#[cfg(feature = "xds")]
mod xds;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Subcommand, ValueEnum};

use super::target::{self, Failure, HOUR, Link};
use crate::{
    client::spec::{self, GroupSpec},
    config::{self, AdminFlags, LogFormat, LogLevel, duration},
    connect::{
        Connector, Fault, Pool,
        engine::{self, Options},
        follower::{Follower, Identity, Stop},
        mapping::{Mapping, Rule},
        status::Status,
    },
    runtime,
    sasp::Health,
};

const HELP: &str = "\
Example, for HAProxy with the line `stats socket /run/haproxy/admin.sock level admin`, and a GWM on this machine:

  gwm connect --uid HAPROXY1 haproxy --socket /run/haproxy/admin.sock

A connector is a load balancer to the GWM: it registers what the real load balancer balances, follows the weights, and \
makes the real one use them. A connector looks at the real one each 500 ms, so a restarted load balancer has its weights \
again within a second. What a connector was not asked for stays as it is.

SIGTERM and Ctrl-C end a connector, a second one at once. Log lines go to stderr.

Exit status: 0 after a signal or a good --check, 1 failed, 2 wrong usage.";

/// Flags of `gwm connect`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// The flags that all connectors have; the help has them after the connector's own ones.
#[derive(clap::Args)]
#[command(next_help_heading = "All connectors")]
pub(super) struct Common {
    /// A GWM: HOST:PORT, IPv4:PORT or `[IPv6]:PORT`; without a port, 3860. Repeatable: if one fails, the next is tried
    #[arg(long, env = "GWM_GWM", value_name = "ADDR", default_value = "127.0.0.1:3860", value_parser = target::address,
          value_delimiter = ',', global = true, help_heading = "Connection")]
    gwm: Vec<String>,
    #[command(flatten)]
    link: Link,
    /// The load balancer's UID, a name of your choice, such as HAPROXY1: 1 to 64 bytes, as `gwm` shows them: `\xFF` is a
    /// byte (required). Two connectors with one UID end each other's sessions
    #[arg(long, env = "GWM_UID", value_name = "UID", value_parser = spec::lb_uid, global = true)]
    uid: Option<Box<[u8]>>,
    /// Members may register, deregister and set state for themselves
    #[arg(long, env = "GWM_TRUST", value_parser = clap::builder::FalseyValueParser::new(), global = true)]
    trust: bool,
    /// The group of a pool; repeatable, the first rule that fits decides. In POOLS, `*` stands for any bytes and `?` for one
    /// byte; in GROUP, `*` stands for the pool's name. Without GROUP these pools are left alone [default: the group has
    /// the pool's name]
    #[arg(long = "map", env = "GWM_MAP", value_name = "POOLS=GROUP", value_parser = Rule::parse, global = true)]
    map: Vec<Rule>,
    /// A TOML file with `[[map]]` (pool, and group or `ignore = true`): more rules, after those of --map
    #[arg(long, env = "GWM_MAP_FILE", value_name = "FILE", global = true)]
    map_file: Option<PathBuf>,
    /// How long the last weights stay when there is no GWM: 0s to 8760h; then the load balancer gets its own weights back
    /// [default: for ever]
    #[arg(long, env = "GWM_KEEP", value_name = "DURATION",
          value_parser = duration(Duration::ZERO..=Duration::from_secs(8760 * 3600)), global = true)]
    keep: Option<Duration>,
    /// Which weights the load balancer has after the end of the connector: `keep` the last ones, or `restore` its own
    #[arg(long, env = "GWM_ON_EXIT", value_name = "WHAT", default_value = "keep", global = true)]
    on_exit: OnExit,
    /// Wait before connecting again after all GWMs have failed, plus up to a tenth at random: 1s to 1h. RFC 4678 (section
    /// 9.2) asks for at least 20 s
    #[arg(long, env = "GWM_RETRY", value_name = "DURATION", default_value = "20s",
          value_parser = duration(Duration::from_secs(1)..=HOUR), global = true)]
    retry: Duration,
    /// Register with the GWM and print what would be done, but change nothing at the load balancer
    #[arg(long, env = "GWM_DRY_RUN", value_parser = clap::builder::FalseyValueParser::new(), global = true)]
    dry_run: bool,
    /// Read the flags and files, look at the load balancer, see that it would take changes, as far as it tells, print its
    /// pools with their groups, and end
    #[arg(long, env = "GWM_CHECK", value_parser = clap::builder::FalseyValueParser::new(), global = true)]
    check: bool,
    #[command(flatten)]
    admin: AdminFlags,
    /// The least severe log lines to write, on stderr
    #[arg(long, env = "GWM_LOG_LEVEL", value_name = "LEVEL", default_value = "info", global = true)]
    log_level: LogLevel,
    /// Log lines as text, or as one JSON object a line
    #[arg(long, env = "GWM_LOG_FORMAT", value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnExit {
    /// The last weights
    Keep,
    /// The load balancer's own weights
    Restore,
}

#[derive(Subcommand)]
enum Command {
    /// Any load balancer that reads a file: write it from a template, then run a command
    #[command(after_help = file::HELP)]
    File(file::Args),
    /// HAProxy, by its stats socket or master socket
    #[command(name = "haproxy", after_help = haproxy::HELP)]
    HaProxy(haproxy::Args),
    /// The kernel's IPVS, by generic netlink
    #[command(after_help = ipvs::HELP)]
    Ipvs(ipvs::Args),
    /// The kernel's nftables: destination NAT in proportion to the weights
    #[command(after_help = nft::HELP)]
    Nft(nft::Args),
    /// Pen, by its control port
    #[command(after_help = pen::HELP)]
    Pen(pen::Args),
    /// DNS: SRV, A and AAAA records of groups, served by gwm or sent to another server
    #[cfg(feature = "dns")]
    #[command(after_help = dns::HELP)]
    Dns(Box<dns::Args>),
    /// Envoy and gRPC: serve xDS
    #[cfg(feature = "xds")]
    #[command(after_help = xds::HELP)]
    Xds(xds::Args),
}

/// Runs `gwm connect`.
pub fn run(args: Args) -> ExitCode {
    let common = &args.common;
    match args.command {
        Command::File(args) => file::run(common, args),
        Command::HaProxy(args) => haproxy::run(common, args),
        Command::Ipvs(args) => ipvs::run(common, args),
        Command::Nft(args) => nft::run(common, args),
        Command::Pen(args) => pen::run(common, args),
        #[cfg(feature = "dns")]
        Command::Dns(args) => dns::run(common, *args),
        #[cfg(feature = "xds")]
        Command::Xds(args) => xds::run(common, args),
    }
}

/// The flags of connectors whose load balancer has no members of its own.
#[derive(clap::Args)]
struct Groups {
    /// A group and its members, as `gwm lb register` has it; repeatable. Without members, and with --trust, members
    /// register themselves
    #[arg(long = "group", env = "GWM_GROUP", value_name = "NAME[=MEMBER,…]", value_parser = spec::group)]
    group: Vec<GroupSpec>,
    /// A TOML file with `[[group]]` (name) and, below each, `[[group.member]]` (address, protocol, port, label)
    #[arg(long, env = "GWM_GROUPS", value_name = "FILE")]
    groups: Option<PathBuf>,
}

impl Groups {
    /// The groups as pools of the same name; at least one.
    fn pools(&self) -> Result<Vec<Pool>, Failure> {
        let groups = spec::combine(&self.group, self.groups.as_deref(), false);
        let groups = groups.map_err(|error| Failure::Usage(error.to_string()))?;
        if groups.is_empty() {
            return Err(Failure::Usage("no group is given: use --group or --groups".into()));
        }
        Ok(groups.into_iter().map(|group| Pool { name: group.name, members: group.members }).collect())
    }
}

/// Runs a connector until a signal.
pub(super) fn serve(common: &Common, connector: impl Connector) -> ExitCode {
    serve_and_reload(common, connector, || {})
}

/// The same; SIGHUP calls `reload`, too.
fn serve_and_reload(common: &Common, connector: impl Connector, reload: impl FnMut() + Send + 'static) -> ExitCode {
    target::finish(start(common, connector, reload))
}

fn start(
    common: &Common,
    mut connector: impl Connector,
    mut reload: impl FnMut() + Send + 'static,
) -> Result<(), Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    let mapping = Mapping::new(&common.map, common.map_file.as_deref()).map_err(|error| usage(&error))?;
    let uid = common.uid.clone().ok_or_else(|| {
        Failure::Usage(
            "the load balancer's UID is missing: give --uid with a name of your choice, another one for each connector, such as \
             --uid HAPROXY1"
                .into(),
        )
    })?;
    // Checked in any case.
    #[cfg_attr(not(feature = "admin"), allow(unused_variables))]
    let admin = config::Admin::new(&common.admin)?;
    let gwms = common.gwm.iter().map(|gwm| common.link.target(gwm)).collect::<Result<Vec<_>, _>>()?;
    if common.check {
        return check(&mut connector, &mapping);
    }
    let logging = runtime::start_logging(common.log_level, common.log_format, runtime::LOG_LINES);
    let identity = Identity { gwms, uid, health: Health::BEST, trust: common.trust, retry: common.retry };
    let follower = Follower::start(identity)?;
    let status = Arc::new(Status::default());
    #[cfg(feature = "admin")]
    let (mut files, _running) = admin::start(admin, &status, &follower)?;
    on_signals(follower.stop_handle(), move || {
        #[cfg(feature = "admin")]
        files.reload();
        reload();
    })?;
    let options = Options {
        mapping,
        dry_run: common.dry_run,
        keep: common.keep,
        restore_at_exit: common.on_exit == OnExit::Restore,
    };
    let outcome = engine::run(connector, &follower, &options, &status);
    drop(follower);
    drop(logging);
    Ok(outcome?)
}

/// Prints the pools of the real LB, with their groups.
fn check<C: Connector>(connector: &mut C, mapping: &Mapping) -> Result<(), Failure> {
    use std::io::Write;

    use crate::sasp::Escaped;

    let failed = |fault: Fault| Failure::Failed(fault.to_string());
    let pools = connector.look().map_err(failed)?;
    connector.check().map_err(failed)?;
    let (_, left_out) = mapping.groups(&pools);
    let mut out = std::io::stdout().lock();
    for pool in &pools {
        match mapping.group(&pool.name) {
            None => writeln!(out, "pool {}: left alone", Escaped(&pool.name))?,
            Some(group) => writeln!(out, "pool {}: group {}", Escaped(&pool.name), Escaped(&group))?,
        }
        for member in &pool.members {
            match member.label.is_empty() {
                true => writeln!(out, "  {}", member.endpoint)?,
                false => writeln!(out, "  {} {}", member.endpoint, Escaped(&member.label))?,
            }
        }
    }
    for why in left_out {
        writeln!(out, "left out: {why}")?;
    }
    if let Some(why) = C::NOTHING_TO_OBSERVE {
        writeln!(out, "nothing to observe: {why}")?;
    }
    if pools.is_empty() {
        return Err(Failure::Failed("the load balancer has no pool that this connector can use".into()));
    }
    Ok(())
}

/// The first SIGTERM or SIGINT asks for a stop; the second ends the process at once. SIGHUP reads files again.
fn on_signals(stop: Stop, mut reload: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                reload();
            } else if std::mem::replace(&mut stopping, true) {
                std::process::exit(1);
            } else {
                stop.stop();
            }
        }
    })?;
    Ok(())
}

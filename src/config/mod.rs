//! Raw flags of `gwm serve` → validated configuration.
//!
//! Parsing [`Flags`] has no side effect. [`Config::new`] checks the flags against each other and against the machine; an
//! error says what to change. The head of `flags.rs` says how to add a flag.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    access::Access,
    coordinator::Settings,
    files::FileError,
    roster::{Check, Monitor, Roster},
    tls,
};

pub mod access;
mod admin;
mod choices;
mod descriptors;
mod error;
pub mod file;
mod flags;
mod fleet;
mod given;
mod idle;
mod listen;
pub mod members;
mod units;
mod witness;

pub use admin::{Admin, AdminAddress, AdminFlags, of_admin};
pub use choices::{
    Durability, HugePages, LbIdentity, LogFormat, LogLevel, MemberIdentity, PolicyName, Probe, TlsVersion,
};
use descriptors::{Descriptors, descriptors};
pub use error::ConfigError;
pub use flags::{CpuList, Flags};
pub use fleet::{Credentials, EtcdEndpoint, Fleet, FleetFlags};
pub use given::{Given, Setting, Source};
pub use listen::{Carries, Listen};
pub(crate) use units::duration;
pub use witness::Witness;

/// The properties of the machine that the configuration depends on.
#[derive(Clone, Debug)]
pub struct Host {
    /// The CPUs that this process may run on, ascending, at least one.
    pub cpus: Vec<usize>,
    /// The highest file-descriptor limit that this process may give itself.
    pub descriptors: u64,
}

/// The most shards with huge pages by default.
const HUGE_PAGE_SHARDS: usize = 8;

/// The validated configuration of the daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on, each once.
    pub listen: Vec<Listen>,
    /// The TLS settings, if any listener uses TLS.
    pub tls: Option<tls::Server>,
    /// The coordinator's CPU.
    pub coordinator_cpu: usize,
    /// Each shard's CPU, at least one.
    pub shard_cpus: Vec<usize>,
    /// How long an executor polls before it sleeps.
    pub spin: Duration,
    /// Whether to use huge pages.
    pub huge_pages: bool,
    /// Limits of connections.
    pub connections: Connections,
    /// The file-descriptor limit to run with.
    pub descriptors: u64,
    /// The coordinator's settings.
    pub settings: Settings,
    /// Settings of checks and weights.
    pub monitoring: Monitoring,
    /// The source of [`Settings::access`].
    pub access: AccessSource,
    /// The settings of the admin side.
    pub admin: Admin,
    /// The most members with series of their own in the metrics.
    pub metrics_members: u32,
    /// The flags with their values, for people, and the file that has some of them.
    pub given: Given,
    /// When replies are sent.
    pub durability: Durability,
    /// Where the state is kept on disk, if it is.
    pub state: Option<State>,
    /// The fleet that this GWM belongs to, if it does.
    pub fleet: Option<Fleet>,
    /// Where load balancers make agent-checks.
    pub agent_listen: Vec<SocketAddr>,
    /// The load balancer whose groups answer; any if `None`.
    pub agent_lb: Option<Box<[u8]>>,
    /// Settings that are valid, and may not do what is meant.
    pub warnings: Vec<String>,
}

/// Settings of the state on disk; the flags have the meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The directory.
    pub directory: PathBuf,
    /// A state that can not be used is moved aside.
    pub reset: bool,
    /// This process takes over from the one that has the state.
    pub takeover: bool,
}

/// Settings of checks and weights; the flags have the meaning.
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// The file that [`Settings::roster`] came from.
    pub members: Option<PathBuf>,
    /// The flags' values, for everything that the file leaves out.
    pub defaults: members::Defaults,
    /// The most checks at a time, of all shards.
    pub max_probes: u32,
    /// Time from coming up to the full weight.
    pub slow_start: Duration,
}

impl Monitoring {
    /// Reads the members file again, if there is one; the texts are warnings.
    pub fn read(&self) -> Result<Option<(Roster, Vec<String>)>, FileError> {
        self.members.as_ref().map(|path| members::read(path, &self.defaults)).transpose()
    }
}

/// The source of the rules about who may speak for whom.
#[derive(Clone, Debug)]
pub struct AccessSource {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The flags' values.
    pub rules: access::Rules,
}

impl AccessSource {
    /// Reads the file, or reads it again.
    pub fn read(&self) -> Result<Access, FileError> {
        self.file.as_ref().map_or_else(|| Ok(self.rules.access()), |path| access::read(path, &self.rules))
    }
}

/// Limits of connections; the flags have the meaning.
#[derive(Clone, Debug)]
pub struct Connections {
    /// The most at a time.
    pub max: u32,
    /// The most at a time from one source.
    pub max_per_source: u32,
    /// New ones a second from one source; 0: no limit.
    pub max_new_per_source: u32,
    /// TLS handshakes a second with one source; 0: no limit.
    pub max_handshakes_per_source: u32,
    /// Requests a second of one connection; 0: no limit.
    pub max_requests_per_second: u32,
    /// The longest message.
    pub max_message_bytes: u32,
    /// All unfinished messages together.
    pub max_buffered_bytes: u64,
    /// All bytes together that peers have yet to read.
    pub max_unsent_bytes: u64,
    /// Longest time in which a peer takes no byte.
    pub stall_timeout: Duration,
    /// From accept to the first whole message.
    pub first_message_timeout: Duration,
    /// From a later message's first byte to its last.
    pub message_timeout: Duration,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// The most TLS handshakes at a time.
    pub max_handshakes: u32,
    /// Idle time before probes.
    pub keepalive: Option<Duration>,
    /// The Interval of replies that a shard writes itself, in seconds.
    pub poll_interval_seconds: u16,
}

impl Config {
    /// Checks the flags against each other and the machine, and reads the files that they name.
    pub fn new(flags: &Flags, host: &Host) -> Result<Config, ConfigError> {
        let (coordinator_cpu, shard_cpus) = place(flags, host)?;
        let listen = listen::addresses(flags)?;
        let tls = listen::tls(flags)?;
        for (flag, value) in [("--poll-interval", flags.poll_interval), ("--keepalive", flags.keepalive)] {
            if value.subsec_nanos() != 0 {
                let value = humantime::format_duration(value);
                return usage(format!("{flag} {value} is not a whole number of seconds"));
            }
        }
        if u64::from(flags.max_message_bytes) > flags.max_buffered_bytes {
            return usage(format!(
                "--max-buffered-bytes {} can not hold one message of --max-message-bytes {}: raise the first or \
                 lower the second",
                flags.max_buffered_bytes, flags.max_message_bytes
            ));
        }
        if flags.push_refresh < flags.push_window {
            return usage(format!(
                "--push-refresh {} is shorter than --push-window {}: every push would be a refresh; lengthen the first \
                 or shorten the second",
                humantime::format_duration(flags.push_refresh),
                humantime::format_duration(flags.push_window)
            ));
        }
        if let Some(fast) = flags.probe_fast_interval.filter(|fast| *fast > flags.probe_interval) {
            return usage(format!(
                "--probe-fast-interval {} is longer than --probe-interval {}: shorten the first or lengthen the second",
                humantime::format_duration(fast),
                humantime::format_duration(flags.probe_interval)
            ));
        }
        let huge_pages = match flags.huge_pages {
            HugePages::Auto => shard_cpus.len() <= HUGE_PAGE_SHARDS,
            HugePages::On => true,
            HugePages::Off => false,
        };
        let Descriptors { connections: max, probes, limit: descriptors } =
            descriptors(flags, host, shard_cpus.len(), listen.len())?;
        let (roster, monitoring, about_members) = monitoring(flags, probes)?;
        let access = access_source(flags)?;
        let admin = Admin::new(&flags.admin)?;
        let fleet = Fleet::new(&flags.fleet)?;
        if flags.takeover && fleet.is_some() {
            return usage("--takeover is for a GWM without --fleet: in a fleet, restart one node after another".into());
        }
        let mut warnings = idle::warnings(flags, shard_cpus.len());
        warnings.extend(about_members);
        let poll_interval_seconds = u16::try_from(flags.poll_interval.as_secs()).expect("the flag's range is 16 bits");
        Ok(Config {
            listen,
            tls,
            coordinator_cpu,
            shard_cpus,
            spin: flags.spin,
            huge_pages,
            connections: Connections {
                max,
                max_per_source: flags.max_connections_per_source.unwrap_or(max.div_ceil(2)),
                max_new_per_source: flags.max_new_connections_per_source,
                max_handshakes_per_source: flags.max_handshakes_per_source,
                max_requests_per_second: flags.max_requests_per_second,
                max_message_bytes: flags.max_message_bytes,
                max_buffered_bytes: flags.max_buffered_bytes,
                max_unsent_bytes: flags.max_unsent_bytes,
                stall_timeout: flags.stall_timeout,
                first_message_timeout: flags.first_message_timeout,
                message_timeout: flags.message_timeout,
                handshake_timeout: flags.handshake_timeout,
                max_handshakes: flags.max_handshakes,
                keepalive: (!flags.keepalive.is_zero()).then_some(flags.keepalive),
                poll_interval_seconds,
            },
            descriptors,
            settings: Settings {
                hold_time: flags.hold_time,
                poll_interval_seconds,
                push_window: flags.push_window,
                push_refresh: flags.push_refresh,
                max_load_balancers: flags.max_load_balancers,
                max_groups: flags.max_groups,
                max_groups_per_lb: flags.max_groups_per_lb,
                max_members_per_group: flags.max_members_per_group,
                max_memberships_per_lb: flags.max_memberships_per_lb.unwrap_or(flags.max_memberships.div_ceil(2)),
                max_memberships: flags.max_memberships,
                weight_max: flags.weight_max,
                roster: Arc::new(roster),
                access: Arc::new(access.read()?),
                // The runtime finds these two out when it starts.
                icmp: false,
                own_addresses: Arc::default(),
                panic_percent: flags.panic_percent,
                panic_time: flags.panic_time,
                // std seeds its hash maps from the system's randomness; that is enough here.
                hash_seed: RandomState::new().build_hasher().finish(),
            },
            monitoring,
            access,
            admin,
            metrics_members: flags.metrics_members,
            given: flags.given.clone(),
            durability: flags.durability,
            state: flags.state.clone().map(|directory| State {
                directory,
                reset: flags.state_reset,
                takeover: flags.takeover,
            }),
            fleet,
            agent_listen: agent_addresses(flags)?,
            agent_lb: flags.agent_lb.clone(),
            warnings,
        })
    }
}

/// Refuses an address that a flag names twice, unless the system chooses its port.
fn each_once<A: fmt::Display + PartialEq>(
    flag: &str,
    addresses: &[A],
    is_free: impl Fn(&A) -> bool,
) -> Result<(), ConfigError> {
    let twice = |(at, address): &(usize, &A)| !is_free(address) && addresses[..*at].contains(address);
    match addresses.iter().enumerate().find(twice) {
        Some((_, address)) => usage(format!("{flag} {address} is given twice: give each address once")),
        None => Ok(()),
    }
}

/// The addresses of agent-checks, each once.
fn agent_addresses(flags: &Flags) -> Result<Vec<SocketAddr>, ConfigError> {
    each_once("--agent-listen", &flags.agent_listen, |address| address.port() == 0)?;
    Ok(flags.agent_listen.clone())
}

/// The roster, its source, and warnings.
fn monitoring(flags: &Flags, max_probes: u32) -> Result<(Roster, Monitoring, Vec<String>), ConfigError> {
    let defaults = members::Defaults {
        weight_max: flags.weight_max,
        monitor: match flags.probe {
            Probe::Off => Monitor::none(),
            Probe::Tcp => Monitor::of([Check::Tcp]),
            Probe::Icmp => Monitor::of([Check::Icmp]),
            Probe::Http => Monitor::of([Check::Http(Arc::default())]),
            Probe::Auto => Monitor::auto(),
        },
        policy: flags.policy.into(),
        interval: flags.probe_interval,
        fast_interval: flags.probe_fast_interval,
        timeout: flags.probe_timeout,
        rise: flags.probe_rise,
        fall: flags.probe_fall,
        slow_start: flags.slow_start,
        witnesses: flags.witness.iter().map(Witness::resolve).collect::<Result<_, _>>()?,
        agent_smoothing: flags.agent_smoothing,
        rate_smoothing: flags.rate_smoothing,
        dead_band: flags.dead_band,
        report_lifetime: flags.report_lifetime,
    };
    if let Some(lifetime) = flags.report_lifetime.filter(|lifetime| *lifetime < flags.probe_interval) {
        let (lifetime, interval) =
            (humantime::format_duration(lifetime), humantime::format_duration(flags.probe_interval));
        return usage(format!(
            "--report-lifetime {lifetime} is less than --probe-interval {interval}: write {interval} or more"
        ));
    }
    let (roster, warnings) = match &flags.members {
        Some(path) => members::read(path, &defaults)?,
        None => (defaults.roster(), Vec::new()),
    };
    let monitoring = Monitoring { members: flags.members.clone(), defaults, max_probes, slow_start: flags.slow_start };
    Ok((roster, monitoring, warnings))
}

/// The identity rules; a rule that nobody could satisfy is an error.
fn access_source(flags: &Flags) -> Result<AccessSource, ConfigError> {
    let (lb_identity, member_identity) = (flags.lb_identity, flags.member_identity);
    for (flag, given) in [
        ("--lb-identity", lb_identity == LbIdentity::Certificate),
        ("--member-identity", member_identity == MemberIdentity::Certificate),
    ] {
        if given && flags.tls_client_ca.is_none() {
            return usage(format!(
                "{flag} certificate needs --tls-client-ca: without it no client is asked for a certificate"
            ));
        }
    }
    if lb_identity == LbIdentity::SourceIp && flags.access.is_none() {
        return usage("--lb-identity source-ip needs an --access file, or nobody could be a load balancer".into());
    }
    if flags.lb_identity_common_name && lb_identity != LbIdentity::Certificate {
        return usage("--lb-identity-common-name is for --lb-identity certificate: set that, or leave it out".into());
    }
    if flags.access.is_some() && lb_identity == LbIdentity::Any && member_identity == MemberIdentity::Any {
        return usage(
            "an --access file has no effect while both identities are any: set --lb-identity or \
             --member-identity, or leave it out"
                .into(),
        );
    }
    let rules = access::Rules {
        lb_identity: lb_identity.into(),
        member_identity: member_identity.into(),
        common_name: flags.lb_identity_common_name,
    };
    Ok(AccessSource { file: flags.access.clone(), rules })
}

fn usage<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Usage(text))
}

/// The CPUs of the coordinator and of the shards.
fn place(flags: &Flags, host: &Host) -> Result<(usize, Vec<usize>), ConfigError> {
    let cpus = match &flags.cpus {
        Some(CpuList(cpus)) => {
            if let Some(missing) = cpus.iter().find(|cpu| !host.cpus.contains(cpu)) {
                let usable = host.cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                return usage(format!("--cpus names CPU {missing}, but this process may use only {usable}"));
            }
            cpus
        }
        None => &host.cpus,
    };
    let (first, others) = cpus.split_first().expect("a process runs on a CPU, and a list names one");
    let others = if others.is_empty() { std::slice::from_ref(first) } else { others };
    let shards = usize::from(flags.shards.unwrap_or(others.len().min(256) as u16));
    if !flags.spin.is_zero() && shards + 1 > cpus.len() {
        return usage(format!(
            "--spin needs a CPU each for the coordinator and {shards} shard(s), and there are {}; leave --spin out, or give \
             more --cpus or fewer --shards",
            cpus.len()
        ));
    }
    Ok((*first, others.iter().copied().cycle().take(shards).collect()))
}

#[cfg(test)]
mod tests;

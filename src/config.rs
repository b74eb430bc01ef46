//! Raw flags of `gwm serve` → validated configuration.
//!
//! A flag's definition, range, default and help text stand in [`Flags`]; parsing has no side effect. [`Config::new`]
//! checks what only shows when flags meet each other or the machine, and says what to change.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum, builder::RangedU64ValueParser};

use crate::{coordinator::Settings, limits};

pub mod members;
pub mod tls;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// File descriptors that are not connections: listeners, rings, event descriptors, files.
const DESCRIPTORS_BASE: u64 = 64;
const DESCRIPTORS_PER_EXECUTOR: u64 = 16;

/// `--max-connections` where neither the flag nor the file-descriptor limit says less.
const CONNECTIONS_DEFAULT: u32 = 16384;

/// Flags of `gwm serve`; each has an environment variable, which the flag overrides.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Address and port to listen on, IPv4 or IPv6 (`[::1]:3860`); repeatable. Port 0 lets the system choose one,
    /// which is printed
    #[arg(long, env = "GWM_LISTEN", value_name = "ADDR", value_delimiter = ',', default_value = "127.0.0.1:3860")]
    pub listen: Vec<SocketAddr>,

    /// Shards: executors that own connections, one per core; 1 to 256 [default: usable cores less one, at least 1]
    #[arg(long, env = "GWM_SHARDS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Option<u16>,

    /// Cores to run on, as in `0,2-5`: the first is the coordinator's, the shards take the others in turn; a single
    /// core is shared [default: all that this process may use]
    #[arg(long, env = "GWM_CPUS", value_name = "LIST", value_parser = cpu_list)]
    pub cpus: Option<CpuList>,

    /// Poll for work this long before sleeping, 0s to 1s. It saves the wake-up, some tens of microseconds a
    /// message, and costs up to a whole core per shard and one for the coordinator: each needs its own
    /// [default: 0s; 50us if no value is given]
    #[arg(
        long, env = "GWM_SPIN", value_name = "DURATION", default_value = "0s", num_args = 0..=1, require_equals = true,
        default_missing_value = "50us", hide_default_value = true, value_parser = duration(Duration::ZERO, SECOND)
    )]
    pub spin: Duration,

    /// How long everything about a load balancer is kept after its connection ended, 0s to 30d. The default
    /// outlives a reboot or a network repair; longer keeps load balancers that are gone for good
    #[arg(long, env = "GWM_HOLD_TIME", value_name = "DURATION", default_value = "10m",
        value_parser = duration(Duration::ZERO, DAY * 30))]
    pub hold_time: Duration,

    /// The Interval of Get Weights replies: how soon a load balancer should ask again; whole seconds, 1s to 65535s
    #[arg(long, env = "GWM_POLL_INTERVAL", value_name = "DURATION", default_value = "60s",
        value_parser = duration(SECOND, SECOND * 65535))]
    pub poll_interval: Duration,

    /// From the first change to the push that carries it and all that followed, 0s to 60s
    #[arg(long, env = "GWM_PUSH_WINDOW", value_name = "DURATION", default_value = "100ms",
        value_parser = duration(Duration::ZERO, SECOND * 60))]
    pub push_window: Duration,

    /// From one full refresh of a load balancer that takes pushes to the next, 1s to 24h
    #[arg(long, env = "GWM_PUSH_REFRESH", value_name = "DURATION", default_value = "5m",
        value_parser = duration(SECOND, DAY))]
    pub push_refresh: Duration,

    /// A peer that takes none of the bytes that wait for it for this long is dropped, 100ms to 1h. What is in the
    /// kernel's buffers and not acknowledged for this long, or twice --keepalive if that is longer, counts too
    #[arg(long, env = "GWM_STALL_TIMEOUT", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::from_millis(100), HOUR))]
    pub stall_timeout: Duration,

    /// A connection whose first message is not there whole after this long is dropped, 100ms to 1h
    #[arg(long, env = "GWM_FIRST_MESSAGE_TIMEOUT", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::from_millis(100), HOUR))]
    pub first_message_timeout: Duration,

    /// A later message that is not there whole this long after its first byte ends its connection, 100ms to 1h
    #[arg(long, env = "GWM_MESSAGE_TIMEOUT", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::from_millis(100), HOUR))]
    pub message_timeout: Duration,

    /// Idle time before TCP keepalive probes, whole seconds, 0s (no probes) to 32767s; three probes unanswered,
    /// each a third of this apart, end the connection
    #[arg(long, env = "GWM_KEEPALIVE", value_name = "DURATION", default_value = "60s",
        value_parser = duration(Duration::ZERO, SECOND * 32767))]
    pub keepalive: Duration,

    /// The longest message taken, in bytes, 1024 to 268435456; one that states more ends its connection
    #[arg(long, env = "GWM_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value = "1048576",
        value_parser = clap::value_parser!(u32).range(1024..=limits::MESSAGE_BYTES_TAKEN as i64))]
    pub max_message_bytes: u32,

    /// Bytes of unfinished messages that all connections may hold together beyond the first 16384 of each, 65536
    /// to 1099511627776; the connection that would exceed it is closed
    #[arg(long, env = "GWM_MAX_BUFFERED_BYTES", value_name = "BYTES", default_value = "268435456",
        value_parser = RangedU64ValueParser::<u64>::new().range(65536..=1 << 40))]
    pub max_buffered_bytes: u64,

    /// Connections at a time, 1 to 1000000; more wait in the backlog, unaccepted [default: 16384, or as many as
    /// the file-descriptor limit allows]
    #[arg(long, env = "GWM_MAX_CONNECTIONS", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=limits::CONNECTIONS as i64))]
    pub max_connections: Option<u32>,

    /// Load balancers, connected or within hold time, 1 to 1000000; a new one beyond them is not accepted
    #[arg(long, env = "GWM_MAX_LOAD_BALANCERS", value_name = "N", default_value = "16384",
        value_parser = clap::value_parser!(u32).range(1..=limits::LOAD_BALANCERS as i64))]
    pub max_load_balancers: u32,

    /// Groups of all load balancers together, 1 to 7000000
    #[arg(long, env = "GWM_MAX_GROUPS", value_name = "N", default_value = "262144",
        value_parser = clap::value_parser!(u32).range(1..=limits::GROUPS as i64))]
    pub max_groups: u32,

    /// Groups that one load balancer may have, 1 to 65535
    #[arg(long, env = "GWM_MAX_GROUPS_PER_LB", value_name = "N", default_value = "1024",
        value_parser = clap::value_parser!(u32).range(1..=limits::GROUPS_PER_LB as i64))]
    pub max_groups_per_lb: u32,

    /// Members that one group may have, 1 to 65535
    #[arg(long, env = "GWM_MAX_MEMBERS_PER_GROUP", value_name = "N", default_value = "65535",
        value_parser = clap::value_parser!(u32).range(1..=limits::MEMBERS_PER_GROUP as i64))]
    pub max_members_per_group: u32,

    /// Members of all groups of all load balancers together, 1 to 7000000
    #[arg(long, env = "GWM_MAX_MEMBERSHIPS", value_name = "N", default_value = "1000000",
        value_parser = clap::value_parser!(u32).range(1..=limits::MEMBERSHIPS as i64))]
    pub max_memberships: u32,

    /// The highest weight, 1 to 65535, which is also that of a member that nothing is known about. Many load
    /// balancers handle 0 to 100 only
    #[arg(long, env = "GWM_WEIGHT_MAX", value_name = "WEIGHT", default_value = "100",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub weight_max: u16,

    /// TOML file of members with fixed weights: `[[member]]` tables with `address`, `protocol` ("tcp", "udp" or a
    /// number), `port`, `weight` and `monitor = "none"`. Read again on SIGHUP; an invalid new file changes nothing
    #[arg(long, env = "GWM_MEMBERS", value_name = "FILE")]
    pub members: Option<PathBuf>,

    /// How members are monitored. Only `off` exists for now: one that `--members` does not list counts as
    /// reachable, not confident, with weight `--weight-max`
    #[arg(long, env = "GWM_PROBE", value_name = "HOW", default_value = "off")]
    pub probe: Probe,

    /// When more than this share of the monitored members that had contact lose it within one fall window, the fault is
    /// taken to be this machine's own: members keep their contact, and load balancers are told not to rely on it; 0 to
    /// 100, which turns this off
    #[arg(long, env = "GWM_PANIC_PERCENT", value_name = "PERCENT", default_value = "50",
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub panic_percent: u8,

    /// The least severe log lines to write, on stderr
    #[arg(long, env = "GWM_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Log lines as text for people or as one JSON object a line
    #[arg(long, env = "GWM_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Check flags, files and the machine's limits, say what is wrong, and exit without serving
    #[arg(long, env = "GWM_CHECK")]
    pub check: bool,
}

/// How members are monitored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Not at all.
    Off,
}

/// The least severe log lines to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// None.
    Off,
    /// What stops the service or loses data.
    Error,
    /// What an operator should look at.
    Warn,
    /// Starts, stops and what changes for a load balancer.
    Info,
    /// Every connection.
    Debug,
    /// Every refused message.
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Numbers of cores, as given to `--cpus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// What the machine offers, as far as the configuration depends on it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The cores that this process may run on, ascending, at least one.
    pub cpus: Vec<usize>,
    /// The highest file-descriptor limit that this process may give itself.
    pub descriptors: u64,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Flags that are impossible together: exit status 2.
    Usage(String),
    /// A file or the machine does not allow it: exit status 1.
    Failure(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ConfigError::Usage(text) | ConfigError::Failure(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for ConfigError {}

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, no address twice.
    pub listen: Vec<SocketAddr>,
    /// The coordinator's core.
    pub coordinator_cpu: usize,
    /// Each shard's core, at least one.
    pub shard_cpus: Vec<usize>,
    /// How long an executor polls before it sleeps.
    pub spin: Duration,
    /// Limits of connections.
    pub connections: Connections,
    /// The file-descriptor limit to run with.
    pub descriptors: u64,
    /// What the coordinator is told.
    pub settings: Settings,
    /// The file that [`Settings::roster`] came from.
    pub members: Option<PathBuf>,
}

/// Limits of connections; see the flags for their meaning.
#[derive(Clone, Debug)]
pub struct Connections {
    /// The most at a time.
    pub max: u32,
    /// The longest message.
    pub max_message_bytes: u32,
    /// All unfinished messages together.
    pub max_buffered_bytes: u64,
    /// Without any byte taken by the peer.
    pub stall_timeout: Duration,
    /// From accept to the first whole message.
    pub first_message_timeout: Duration,
    /// From a later message's first byte to its last.
    pub message_timeout: Duration,
    /// Idle time before probes.
    pub keepalive: Option<Duration>,
    /// The Interval of replies that a shard writes itself, in seconds.
    pub poll_interval_seconds: u16,
}

impl Config {
    /// Checks the flags against each other and the machine, and reads the members file.
    pub fn new(flags: &Flags, host: &Host) -> Result<Config, ConfigError> {
        let (coordinator_cpu, shard_cpus) = place(flags, host)?;
        for (at, address) in flags.listen.iter().enumerate() {
            if address.port() != 0 && flags.listen.iter().take(at).any(|other| other == address) {
                return usage(format!("--listen {address} is given twice: give each address once"));
            }
            let same = |other: &&SocketAddr| other.port() == address.port() && other.is_ipv4() == address.is_ipv4();
            let wide = address.ip().is_unspecified();
            if address.port() != 0
                && let Some(other) = flags.listen.iter().filter(same).find(|other| wide && *other != address)
            {
                return usage(format!(
                    "--listen {address} stands for every address, {other} too: leave one of them out"
                ));
            }
        }
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
        let (max, descriptors) = connections(flags, host, shard_cpus.len())?;
        let fixed = match &flags.members {
            Some(path) => members::read(path, flags.weight_max).map_err(ConfigError::Failure)?,
            None => Default::default(),
        };
        let roster = members::roster(fixed, flags.weight_max);
        let poll_interval_seconds = u16::try_from(flags.poll_interval.as_secs()).expect("the flag's range is 16 bits");
        Ok(Config {
            listen: flags.listen.clone(),
            coordinator_cpu,
            shard_cpus,
            spin: flags.spin,
            connections: Connections {
                max,
                max_message_bytes: flags.max_message_bytes,
                max_buffered_bytes: flags.max_buffered_bytes,
                stall_timeout: flags.stall_timeout,
                first_message_timeout: flags.first_message_timeout,
                message_timeout: flags.message_timeout,
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
                max_memberships: flags.max_memberships,
                weight_max: flags.weight_max,
                roster: Arc::new(roster),
                icmp: false,
                panic_percent: flags.panic_percent,
                // std's hash maps start from the system's randomness, which is all that is needed here.
                hash_seed: RandomState::new().build_hasher().finish(),
            },
            members: flags.members.clone(),
        })
    }
}

fn usage<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Usage(text))
}

/// The coordinator's core and the shards'.
fn place(flags: &Flags, host: &Host) -> Result<(usize, Vec<usize>), ConfigError> {
    let cpus = match &flags.cpus {
        Some(CpuList(cpus)) => {
            if let Some(missing) = cpus.iter().find(|cpu| !host.cpus.contains(cpu)) {
                let usable = host.cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                return usage(format!("--cpus names core {missing}, but this process may use only {usable}"));
            }
            cpus
        }
        None => &host.cpus,
    };
    let (first, others) = cpus.split_first().expect("a process runs on a core, and a list names one");
    let others = if others.is_empty() { std::slice::from_ref(first) } else { others };
    let shards = usize::from(flags.shards.unwrap_or(others.len().min(256) as u16));
    if !flags.spin.is_zero() && shards + 1 > cpus.len() {
        return usage(format!(
            "--spin needs a core each for the coordinator and {shards} shard(s), and there are {}: they would take \
             turns at polling; leave --spin out, or give more --cpus or fewer --shards",
            cpus.len()
        ));
    }
    Ok((*first, others.iter().copied().cycle().take(shards).collect()))
}

/// The most connections, and the file-descriptor limit that this takes.
fn connections(flags: &Flags, host: &Host, shards: usize) -> Result<(u32, u64), ConfigError> {
    let own = DESCRIPTORS_BASE + DESCRIPTORS_PER_EXECUTOR * (shards as u64 + 1) + (flags.listen.len() * shards) as u64;
    let room = host.descriptors.saturating_sub(own);
    let max = match flags.max_connections {
        Some(max) if u64::from(max) > room => {
            return Err(ConfigError::Failure(format!(
                "--max-connections {max} takes {} file descriptors, and the limit is {}: raise it (ulimit -Hn, or \
                 LimitNOFILE= in a systemd unit), or lower --max-connections to {room}",
                u64::from(max) + own,
                host.descriptors
            )));
        }
        Some(max) => max,
        None => u32::try_from(room).unwrap_or(u32::MAX).min(CONNECTIONS_DEFAULT),
    };
    if max == 0 {
        return Err(ConfigError::Failure(format!(
            "the file-descriptor limit is {}, and {} are needed before the first connection: raise it (ulimit -Hn, or \
             LimitNOFILE= in a systemd unit)",
            host.descriptors,
            own + 1
        )));
    }
    Ok((max, own + u64::from(max)))
}

/// A parser of durations like `5ms`, `2s`, `1m` within a range.
fn duration(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| {
        let value = humantime::parse_duration(text)
            .map_err(|error| format!("{error}; a duration reads like 5ms, 2s, 1m or 1h30m"))?;
        if value < min || value > max {
            let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
            return Err(format!("it has to be between {min} and {max}"));
        }
        Ok(value)
    }
}

/// Parses `0,2-5`.
fn cpu_list(text: &str) -> Result<CpuList, String> {
    /// Far more than any machine has: keeps `0-99999999999` from filling the memory.
    const HIGHEST: usize = 65535;
    let number = |part: &str| match part.trim().parse() {
        Ok(cpu) if cpu <= HIGHEST => Ok(cpu),
        _ => Err(format!("`{part}` is not the number of a core; a list reads like 0,2-5")),
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("the range `{part}` runs backwards"));
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return Err(format!("core {cpu} is named twice"));
            }
            cpus.push(cpu);
        }
    }
    Ok(CpuList(cpus))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(line: &str) -> Result<Flags, clap::Error> {
        Line::try_parse_from(std::iter::once("serve").chain(line.split_whitespace())).map(|line| line.flags)
    }

    fn host(cpus: usize, descriptors: u64) -> Host {
        Host { cpus: (0..cpus).collect(), descriptors }
    }

    fn config(line: &str, host: &Host) -> Result<Config, ConfigError> {
        Config::new(&flags(line).expect("each flag is fine by itself"), host)
    }

    #[test]
    fn defaults_are_valid_on_any_machine() {
        for cpus in [1, 2, 8, 300] {
            let config = config("", &host(cpus, 1 << 20)).unwrap();
            assert_eq!(config.coordinator_cpu, 0);
            assert_eq!(config.shard_cpus.len(), (cpus - 1).clamp(1, 256));
            assert_eq!(config.connections.max, 16384);
            assert_eq!(config.settings.poll_interval_seconds, 60);
        }
        assert_eq!(config("", &host(1, 1024)).unwrap().shard_cpus, [0], "one core is shared");
    }

    #[test]
    fn shards_take_the_cores_after_the_first_in_turn() {
        let config = config("--cpus 6,1,3-4 --shards 5", &host(8, 1024)).unwrap();
        assert_eq!((config.coordinator_cpu, config.shard_cpus), (6, vec![1, 3, 4, 1, 3]));
    }

    #[test]
    fn connections_follow_the_descriptor_limit() {
        let limited = config("--shards 1", &host(2, 1024)).unwrap();
        assert_eq!(u64::from(limited.connections.max), 1024 - 64 - 2 * 16 - 1);
        assert_eq!(limited.descriptors, 1024);
        let Err(ConfigError::Failure(text)) = config("--shards 1 --max-connections 1000", &host(2, 1024)) else {
            panic!("1000 connections fit into no 1024 descriptors")
        };
        assert!(text.contains("1097") && text.contains("the limit is 1024") && text.contains("to 927"), "{text}");
        assert!(matches!(config("", &host(2, 64)), Err(ConfigError::Failure(_))));
    }

    #[test]
    fn impossible_combinations_say_what_to_change() {
        let cases = [
            ("--cpus 0,9", "--cpus names core 9"),
            ("--spin --cpus 0", "fewer --shards"),
            ("--spin=10us --shards 2", "fewer --shards"),
            ("--max-buffered-bytes 65536 --max-message-bytes 65537", "raise the first"),
            ("--push-refresh 1s --push-window 2s", "--push-refresh 1s"),
            ("--poll-interval 1500ms", "whole number of seconds"),
            ("--keepalive 1500ms", "whole number of seconds"),
            ("--listen 127.0.0.1:1,127.0.0.1:1", "given twice"),
            ("--listen 127.0.0.1:1,0.0.0.0:1", "0.0.0.0:1 stands for every address, 127.0.0.1:1 too"),
            ("--listen [::]:1,[::1]:1", "[::]:1 stands for every address, [::1]:1 too"),
        ];
        for (line, expected) in cases {
            match config(line, &host(2, 1 << 20)) {
                Err(ConfigError::Usage(text)) => assert!(text.contains(expected), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        assert!(config("--listen 127.0.0.1:0 --listen 127.0.0.1:0", &host(2, 1 << 20)).is_ok(), "two free ports");
        assert!(config("--listen 0.0.0.0:1,[::]:1,127.0.0.1:2", &host(2, 1 << 20)).is_ok(), "nothing is meant twice");
        assert!(config("--spin --shards 1", &host(2, 1 << 20)).is_ok());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "--poll-interval 0s",
            "--poll-interval 65536s",
            "--push-window 61s",
            "--hold-time 31d",
            "--hold-time 5",
            "--stall-timeout 99ms",
            "--weight-max 0",
            "--max-groups-per-lb 65536",
            "--max-memberships 7000001",
            "--max-message-bytes 1023",
            "--shards 0",
            "--probe tcp",
            "--cpus 3-1",
            "--cpus 1,1",
            "--cpus x",
            "--cpus 0-99999999999",
            "--listen localhost",
        ] {
            assert!(flags(line).is_err(), "{line}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        let flags = flags("--push-window 5ms --stall-timeout 2s --hold-time 1m --spin").unwrap();
        assert_eq!(flags.push_window, Duration::from_millis(5));
        assert_eq!(flags.stall_timeout, Duration::from_secs(2));
        assert_eq!(flags.hold_time, Duration::from_secs(60));
        assert_eq!(flags.spin, Duration::from_micros(50));
    }
}

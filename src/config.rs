//! Raw flags of `gwm serve` → validated configuration.
//!
//! [`Flags`] are parsed without side effect. [`Config::new`] checks what only shows when flags meet each other or the
//! machine, and says what to change.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    access::Access,
    coordinator::Settings,
    roster::{Check, Monitor, Roster},
};

pub mod access;
pub(crate) mod file;
mod flags;
mod listen;
pub mod members;
pub mod tls;

use flags::duration;
pub use flags::{CpuList, Flags, LbIdentity, LogFormat, LogLevel, MemberIdentity, PolicyName, Probe, TlsVersion};
pub use listen::{Carries, Listen};

/// File descriptors that are not connections: listeners, rings, event descriptors, files.
const DESCRIPTORS_BASE: u64 = 64;
const DESCRIPTORS_PER_EXECUTOR: u64 = 16;

/// `--max-connections` where neither the flag nor the file-descriptor limit says less.
const CONNECTIONS_DEFAULT: u32 = 16384;

/// `--max-probes` where neither the flag nor the file-descriptor limit says less.
const PROBES_DEFAULT: u32 = 4096;

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
    pub listen: Vec<Listen>,
    /// How TLS is spoken there, if it is anywhere.
    pub tls: Option<tls::Server>,
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
    /// How members are watched and judged.
    pub monitoring: Monitoring,
    /// Where [`Settings::access`] comes from.
    pub access: AccessSource,
}

/// How members are watched and judged; see the flags for meaning.
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// The file that [`Settings::roster`] came from.
    pub members: Option<PathBuf>,
    /// What flags say where it does not.
    pub defaults: members::Defaults,
    /// The most checks under way at a time, of all shards.
    pub max_probes: u32,
    /// From when a member comes up until it has its full weight.
    pub slow_start: Duration,
}

impl Monitoring {
    /// Reads the members file again, if there is one.
    pub fn read(&self) -> Result<Option<Roster>, String> {
        self.members.as_ref().map(|path| members::read(path, &self.defaults)).transpose()
    }
}

/// Where it is said who may speak for whom.
#[derive(Clone, Debug)]
pub struct AccessSource {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What flags say.
    pub rules: access::Rules,
}

impl AccessSource {
    /// Reads the file, or reads it again.
    pub fn read(&self) -> Result<Access, String> {
        self.file.as_ref().map_or_else(|| Ok(self.rules.access()), |path| access::read(path, &self.rules))
    }
}

/// Limits of connections; see the flags for their meaning.
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
    /// All bytes that peers have yet to take together.
    pub max_unsent_bytes: u64,
    /// Without any byte taken by the peer.
    pub stall_timeout: Duration,
    /// From accept to the first whole message.
    pub first_message_timeout: Duration,
    /// From a later message's first byte to its last.
    pub message_timeout: Duration,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// TLS handshakes under way in all.
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
        let Descriptors { connections: max, probes, limit: descriptors } =
            descriptors(flags, host, shard_cpus.len(), listen.len())?;
        let (roster, monitoring) = monitoring(flags, probes)?;
        let access = access_source(flags)?;
        let poll_interval_seconds = u16::try_from(flags.poll_interval.as_secs()).expect("the flag's range is 16 bits");
        Ok(Config {
            listen,
            tls,
            coordinator_cpu,
            shard_cpus,
            spin: flags.spin,
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
                access: Arc::new(access.read().map_err(ConfigError::Failure)?),
                // What this process may do shows when it serves.
                icmp: false,
                panic_percent: flags.panic_percent,
                // std's hash maps start from the system's randomness, which is all that is needed here.
                hash_seed: RandomState::new().build_hasher().finish(),
            },
            monitoring,
            access,
        })
    }
}

fn monitoring(flags: &Flags, max_probes: u32) -> Result<(Roster, Monitoring), ConfigError> {
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
    };
    let roster = match &flags.members {
        Some(path) => members::read(path, &defaults).map_err(ConfigError::Failure)?,
        None => defaults.roster(),
    };
    let monitoring = Monitoring { members: flags.members.clone(), defaults, max_probes, slow_start: flags.slow_start };
    Ok((roster, monitoring))
}

/// Who has to prove what, as far as that can be.
fn access_source(flags: &Flags) -> Result<AccessSource, ConfigError> {
    let (lb_identity, member_identity) = (flags.lb_identity, flags.member_identity);
    for (flag, given) in [
        ("--lb-identity", lb_identity == LbIdentity::Certificate),
        ("--member-identity", member_identity == MemberIdentity::Certificate),
    ] {
        if given && flags.tls_client_ca.is_none() {
            return usage(format!("{flag} certificate needs --tls-client-ca: without it no client is asked for one"));
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
            "an --access file means nothing while nobody has to prove who it is: set --lb-identity or \
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

/// How the file descriptors are shared out.
struct Descriptors {
    connections: u32,
    probes: u32,
    /// The limit that this takes.
    limit: u64,
}

fn descriptors(flags: &Flags, host: &Host, shards: usize, listeners: usize) -> Result<Descriptors, ConfigError> {
    let own = DESCRIPTORS_BASE + DESCRIPTORS_PER_EXECUTOR * (shards as u64 + 1) + (listeners * shards) as u64;
    let room = host.descriptors.saturating_sub(own);
    // A members file may name monitors now or when it is read again.
    let watches = flags.probe != Probe::Off || flags.members.is_some();
    let narrow = |number: u64, most: u32| u32::try_from(number).unwrap_or(u32::MAX).min(most);
    let probes = match flags.max_probes {
        _ if !watches => 0,
        Some(probes) => probes,
        None => narrow(room / 4, PROBES_DEFAULT),
    };
    let connections = match flags.max_connections {
        Some(connections) => connections,
        None => narrow(room.saturating_sub(probes.into()), CONNECTIONS_DEFAULT),
    };
    let needed = u64::from(connections.max(1)) + u64::from(probes);
    if needed <= room && connections > 0 && (probes > 0 || !watches) {
        return Ok(Descriptors { connections, probes, limit: own + needed });
    }
    let (limit, all) = (host.descriptors, needed + own);
    let raise = "raise it (ulimit -Hn, or LimitNOFILE= in a systemd unit)";
    Err(ConfigError::Failure(match (flags.max_connections, flags.max_probes.filter(|_| watches)) {
        (Some(connections), _) => {
            let checks =
                if probes == 0 { String::new() } else { format!(" and {probes} checks at a time (--max-probes)") };
            let lower = match room.saturating_sub(probes.into()) {
                0 => "or lower both".into(),
                room => format!("or lower --max-connections to {room}"),
            };
            format!(
                "--max-connections {connections}{checks} takes {all} file descriptors, and the limit is {limit}: {raise}, \
                 {lower}"
            )
        }
        (None, Some(probes)) if room > 1 => format!(
            "--max-probes {probes} and a single connection take {all} file descriptors, and the limit is {limit}: \
             {raise}, or lower --max-probes, to {} at most",
            room - 1
        ),
        (None, _) => format!(
            "the file-descriptor limit is {limit}, and {} are needed before the first connection: {raise}",
            own + 1 + u64::from(watches) * 4
        ),
    }))
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
            assert_eq!((config.connections.max, config.connections.max_per_source), (16384, 8192));
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
        let limited = config("--probe off --shards 1", &host(2, 1024)).unwrap();
        assert_eq!(u64::from(limited.connections.max), 1024 - 64 - 2 * 16 - 1);
        assert_eq!(limited.descriptors, 1024);
        let Err(ConfigError::Failure(text)) = config("--probe off --shards 1 --max-connections 1000", &host(2, 1024))
        else {
            panic!("1000 connections fit into no 1024 descriptors")
        };
        assert!(text.contains("1097") && text.contains("the limit is 1024") && text.contains("to 927"), "{text}");
        assert!(matches!(config("", &host(2, 64)), Err(ConfigError::Failure(_))));
    }

    #[test]
    fn one_source_has_half_of_the_connections_unless_a_flag_says_otherwise() {
        let per_source = |line: &str| config(line, &host(2, 1 << 20)).unwrap().connections.max_per_source;
        assert_eq!(per_source("--max-connections 10"), 5);
        assert_eq!(per_source("--max-connections 3"), 2);
        assert_eq!(per_source("--max-connections 1"), 1);
        assert_eq!(per_source("--max-connections 3 --max-connections-per-source 3"), 3);
        assert_eq!(per_source("--max-connections-per-source 1000000"), 1_000_000, "which turns it off");
    }

    #[test]
    fn checks_have_their_share_of_the_descriptors() {
        let off = config("--probe off --shards 1", &host(2, 1 << 20)).unwrap();
        assert_eq!((off.monitoring.max_probes, off.connections.max), (0, 16384));
        let wide = config("--probe tcp --shards 1", &host(2, 1 << 20)).unwrap();
        assert_eq!((wide.monitoring.max_probes, wide.connections.max), (4096, 16384));
        assert_eq!(wide.descriptors, 64 + 2 * 16 + 1 + 4096 + 16384);
        let narrow = config("--probe tcp --shards 1", &host(2, 1024)).unwrap();
        assert_eq!((narrow.monitoring.max_probes, narrow.connections.max), (231, 696));
        assert_eq!(narrow.descriptors, 1024);
        let Err(ConfigError::Failure(text)) =
            config("--probe tcp --shards 1 --max-connections 900 --max-probes 100", &host(2, 1024))
        else {
            panic!("1000 sockets fit into no 1024 descriptors")
        };
        assert!(text.contains("1097") && text.contains("--max-probes") && text.contains("to 827"), "{text}");
        // Where only the checks are too many, only they are spoken of.
        for probes in ["927", "5000"] {
            let Err(ConfigError::Failure(text)) =
                config(&format!("--probe tcp --shards 1 --max-probes {probes}"), &host(2, 1024))
            else {
                panic!("{probes} checks leave no connection")
            };
            assert!(!text.contains("--max-connections") && text.contains("to 926 at most"), "{text}");
        }
        let most = config("--probe tcp --shards 1 --max-probes 926", &host(2, 1024)).unwrap();
        assert_eq!((most.connections.max, most.descriptors), (1, 1024));
        for line in ["--max-probes 1", ""] {
            let Err(ConfigError::Failure(text)) = config(line, &host(2, 97)) else { panic!("no room at all") };
            assert!(text.contains("before the first connection"), "{line}: {text}");
        }
    }

    #[test]
    fn flags_say_how_members_are_watched_that_no_file_lists() {
        let member = |line: &str| {
            let config = config(line, &host(2, 1 << 20)).unwrap();
            crate::roster::Member::clone(config.settings.roster.default_member())
        };
        let seconds = Duration::from_secs;
        let plain = member("--probe auto --weight-max 7");
        assert_eq!((plain.capacity, plain.fixed, plain.quiesced), (7, false, false));
        assert_eq!(plain.monitor, Monitor::auto());
        assert_eq!(
            (plain.times.interval, plain.times.fast_interval, plain.times.timeout),
            (seconds(2), seconds(2), seconds(2))
        );
        assert_eq!((plain.times.rise, plain.times.fall), (2, 3));
        assert_eq!(member("--probe off").monitor, Monitor::none());
        assert_eq!(member("--probe tcp").monitor, Monitor::of([Check::Tcp]));
        assert_eq!(member("--probe icmp").monitor, Monitor::of([Check::Icmp]));
        assert!(matches!(&member("--probe http").monitor.checks[..], [Check::Http(_)]));
        let times = member("--probe-interval 1m --probe-fast-interval 3s --probe-rise 1 --probe-fall 9").times;
        assert_eq!((times.interval, times.fast_interval, times.timeout), (seconds(60), seconds(3), seconds(5)));
        assert_eq!((times.rise, times.fall), (1, 9));
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
            ("--probe-interval 1s --probe-fast-interval 2s", "--probe-fast-interval 2s is longer"),
            ("--keepalive 1500ms", "whole number of seconds"),
            ("--lb-identity certificate", "--lb-identity certificate needs --tls-client-ca"),
            ("--member-identity certificate", "--member-identity certificate needs --tls-client-ca"),
            ("--lb-identity source-ip", "needs an --access file"),
            ("--lb-identity-common-name", "is for --lb-identity certificate"),
            ("--access /dev/null", "set --lb-identity or --member-identity"),
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
        assert!(config("--member-identity source-ip", &host(2, 1 << 20)).is_ok(), "no file: its own address");
        assert!(config("--lb-identity source-ip --access /dev/null", &host(2, 1 << 20)).is_ok());
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
            "--max-memberships-per-lb 0",
            "--max-memberships 7000001",
            "--max-message-bytes 1023",
            "--max-connections-per-source 0",
            "--max-new-connections-per-source 1000001",
            "--max-handshakes-per-source -1",
            "--max-requests-per-second 1000001",
            "--shards 0",
            "--probe agent",
            "--probe-interval 9ms",
            "--probe-timeout 61s",
            "--probe-rise 0",
            "--probe-fall 256",
            "--max-probes 0",
            "--panic-percent 101",
            "--policy best",
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

//! The flags of `gwm serve`: each has its definition, range, default and help text here.
//!
//! To add a flag: add a field to [`Flags`], with an environment variable, a range in the parser, and unit, range and
//! default in the text; use it in [`Config::new`](super::Config::new), which checks flags against each other and the
//! machine; give it the heading under which the help has it; add a test to `config/tests.rs`; what is beyond a limit
//! stands in `src/manual/gwm-serve.8.md`, too. `config/file.rs` reads it from --config by this definition; a test there
//! writes the example `src/package/serve.toml`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args,
    builder::{FalseyValueParser, RangedU64ValueParser},
};

use super::{
    admin::{self, AdminFlags},
    choices::{Durability, HugePages, LbIdentity, LogFormat, LogLevel, MemberIdentity, PolicyName, Probe, TlsVersion},
    fleet::FleetFlags,
    given::Given,
    members,
    units::duration,
    witness::Witness,
};
use crate::{limits, sasp::unescape};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

// The headings of the help, in its order; what has none comes first. The example file has the same parts.
const CHECKS: &str = "Checks of members";
const WEIGHTS: &str = "Weights";
const TELLING: &str = "What load balancers hear";
const KEPT: &str = "What is kept";
const TLS: &str = "TLS";
const IDENTITY: &str = "Who may speak for whom";
const MACHINE: &str = "CPUs and memory";
const CONNECTIONS: &str = "Limits of connections";
const TABLES: &str = "Limits of tables";

/// Flags of `gwm serve`; each has an environment variable, which the flag overrides. Their order is that of the help, but
/// for --admin-listen, which stands among the first there.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("admin_listen", |flag| flag.display_order(2)))]
pub struct Flags {
    /// Address and port to listen on without TLS, IPv4 or IPv6 (`[::1]:3860`; `[::]` is every IPv6 address and no IPv4
    /// address); repeatable. With port 0 the system chooses a port, which is printed [default: 127.0.0.1:3860, unless
    /// --tls-listen is given]
    #[arg(long, env = "GWM_LISTEN", value_name = "ADDR", value_delimiter = ',', value_parser = socket_address)]
    pub listen: Vec<SocketAddr>,

    /// TOML file with the capacity and the checks of members (`[[member]]`) and the policies of groups (`[[group]]`);
    /// gwm-members(5) has all keys. SIGHUP reads the file again; an invalid file changes nothing
    #[arg(long, env = "GWM_MEMBERS", value_name = "FILE")]
    pub members: Option<PathBuf>,

    /// TOML file with any of these flags: its keys are their names, as in `hold-time = "10m"` or `listen = ["[::]:3860"]`. A
    /// flag counts before its variable in the environment, and the variable before the file. An unknown key or a wrong value
    /// is an error. Names of files in it are relative to it. What is changed in it counts after a restart: SIGHUP reads the
    /// files again that the flags name, and only says what this file has new
    #[arg(long, env = "GWM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check flags, files, the state on disk and the machine's limits, print what is wrong or has no effect, and exit without
    /// serving; nothing is changed
    #[arg(long, env = "GWM_CHECK", value_parser = FalseyValueParser::new())]
    pub check: bool,

    /// Print all settings that are in force, each with its source (flag, environment, line of --config, default), and exit
    /// without serving; what is printed can be a file for --config
    #[arg(long, env = "GWM_PRINT_CONFIG", value_parser = FalseyValueParser::new())]
    pub print_config: bool,

    /// The least severe log lines to write, on stderr
    #[arg(long, env = "GWM_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Log lines as text, or as one JSON object a line
    #[arg(long, env = "GWM_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// The check of members for which --members names none. `https` and `agent` need a port or names, so they are for
    /// --members, where cidr = "0.0.0.0/0" means all IPv4 members
    #[arg(long, env = "GWM_PROBE", value_name = "HOW", default_value = "auto", help_heading = CHECKS)]
    pub probe: Probe,

    /// Time from one check of a member to the next, 10ms to 1h
    #[arg(long, env = "GWM_PROBE_INTERVAL", value_name = "DURATION", default_value = "2s",
        value_parser = duration(members::INTERVALS.0..=members::INTERVALS.1), help_heading = CHECKS)]
    pub probe_interval: Duration,

    /// The same while the checks of an up member fail, while those of a down member pass, and for a new member; 10ms to
    /// 1h, and not over --probe-interval [default: as --probe-interval]
    #[arg(long, env = "GWM_PROBE_FAST_INTERVAL", value_name = "DURATION",
        value_parser = duration(members::INTERVALS.0..=members::INTERVALS.1), help_heading = CHECKS)]
    pub probe_fast_interval: Option<Duration>,

    /// Time limit of one check, 10ms to 60s. A check without an answer by then has failed; the next check does not begin
    /// earlier [default: as --probe-interval, but at most 5s]
    #[arg(long, env = "GWM_PROBE_TIMEOUT", value_name = "DURATION",
        value_parser = duration(members::TIMEOUTS.0..=members::TIMEOUTS.1), help_heading = CHECKS)]
    pub probe_timeout: Option<Duration>,

    /// How many checks in a row a down member must pass to come up, 1 to 255
    #[arg(long, env = "GWM_PROBE_RISE", value_name = "N", default_value = "2",
        value_parser = clap::value_parser!(u8).range(1..), help_heading = CHECKS)]
    pub probe_rise: u8,

    /// How many checks in a row an up member must fail to go down, 1 to 255
    #[arg(long, env = "GWM_PROBE_FALL", value_name = "N", default_value = "3",
        value_parser = clap::value_parser!(u8).range(1..), help_heading = CHECKS)]
    pub probe_fall: u8,

    /// Checks at a time, 1 to 1000000; each takes a file descriptor, and more checks are late. Members that are down or
    /// were never up get half of them at most [default: 4096, or a quarter of what the file-descriptor limit leaves]
    #[arg(long, env = "GWM_MAX_PROBES", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=limits::PROBES as i64), help_heading = CHECKS)]
    pub max_probes: Option<u32>,

    /// What proves that this machine's network works, though all members are silent: an address, which gets echoes, or
    /// HOST:PORT, for a TCP connection; repeatable. A name is resolved once, at the start. Good witnesses are the default
    /// gateway and a name server
    #[arg(long, env = "GWM_WITNESS", value_name = "ADDR", value_delimiter = ',', value_parser = Witness::parse,
        help_heading = CHECKS)]
    pub witness: Vec<Witness>,

    /// How weights are computed, except for groups that have another policy in --members
    #[arg(long, env = "GWM_POLICY", value_name = "POLICY", default_value = "auto", help_heading = WEIGHTS)]
    pub policy: PolicyName,

    /// The highest weight, 1 to 65535, and the weight of a member about which nothing is known. Many load balancers
    /// handle 0 to 100 only
    #[arg(long, env = "GWM_WEIGHT_MAX", value_name = "WEIGHT", default_value = "100",
        value_parser = clap::value_parser!(u16).range(1..), help_heading = WEIGHTS)]
    pub weight_max: u16,

    /// If more than this percentage of a group's members that were up lose contact within one fall window, while others
    /// answer, the group is in doubt: its members keep contact, and none is confident; 0 to 100 (100: no doubt)
    #[arg(long, env = "GWM_PANIC_PERCENT", value_name = "PERCENT", default_value = "50",
        value_parser = clap::value_parser!(u8).range(0..=100), help_heading = WEIGHTS)]
    pub panic_percent: u8,

    /// The longest doubt about a group. Members that are still lost then are down, all of them if need be; 0s (no
    /// doubt) to 1h
    #[arg(long, env = "GWM_PANIC_TIME", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::ZERO..=HOUR), help_heading = WEIGHTS)]
    pub panic_time: Duration,

    /// Time that a member takes from coming up again to its full weight, because its caches are cold; the weight grows
    /// steadily. 0s (at once) to 1h
    #[arg(long, env = "GWM_SLOW_START", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::ZERO..=HOUR), help_heading = WEIGHTS)]
    pub slow_start: Duration,

    /// How long the statements of an agent that swings are smoothed at most. A steady agent's statement counts at once. A
    /// load balancer's own agent-check smooths nothing: 0s does the same. 0s to 1h
    #[arg(long, env = "GWM_AGENT_SMOOTHING", value_name = "DURATION", default_value = "60s",
        value_parser = duration(members::SMOOTHINGS.0..=members::SMOOTHINGS.1), help_heading = WEIGHTS)]
    pub agent_smoothing: Duration,

    /// Time constant with which the rates of load reports are smoothed, 0s (not at all) to 1h
    #[arg(long, env = "GWM_RATE_SMOOTHING", value_name = "DURATION", default_value = "500ms",
        value_parser = duration(members::SMOOTHINGS.0..=members::SMOOTHINGS.1), help_heading = WEIGHTS)]
    pub rate_smoothing: Duration,

    /// Weights and rates that change by this percentage at most are not told again, except what a steady agent states;
    /// 0 to 50
    #[arg(long, env = "GWM_DEAD_BAND", value_name = "PERCENT", default_value = "5",
        value_parser = clap::value_parser!(u8).range(0..=members::DEAD_BAND_MAX as i64), help_heading = WEIGHTS)]
    pub dead_band: u8,

    /// How long a load report or an agent's answer counts, 10ms to 24h, and not less than --probe-interval [default: 3m,
    /// or three times --probe-interval if that is more]
    #[arg(long, env = "GWM_REPORT_LIFETIME", value_name = "DURATION",
        value_parser = duration(members::LIFETIMES.0..=members::LIFETIMES.1), help_heading = WEIGHTS)]
    pub report_lifetime: Option<Duration>,

    /// The Interval of Get Weights replies: when a load balancer should ask again; whole seconds, 1s to 65535s. While a
    /// member in the reply waits for the first result of its checks, the Interval is the member's --probe-interval
    #[arg(long, env = "GWM_POLL_INTERVAL", value_name = "DURATION", default_value = "60s",
        value_parser = duration(SECOND..=SECOND * 65535), help_heading = TELLING)]
    pub poll_interval: Duration,

    /// Time from the first change to the push, which has this change and all later ones, 0s to 60s
    #[arg(long, env = "GWM_PUSH_WINDOW", value_name = "DURATION", default_value = "100ms",
        value_parser = duration(Duration::ZERO..=SECOND * 60), help_heading = TELLING)]
    pub push_window: Duration,

    /// Time from one full refresh of a load balancer with push to the next, 1s to 365d. The refreshes of all load balancers
    /// are spread over this time. F5 takes a GWM that says nothing for 100 s for dead
    #[arg(long, env = "GWM_PUSH_REFRESH", value_name = "DURATION", default_value = "60s",
        value_parser = duration(SECOND..=DAY * 365), help_heading = TELLING)]
    pub push_refresh: Duration,

    /// Where load balancers make agent-checks of the daemon (HAProxy's `agent-check`): address and port; repeatable. Who
    /// reaches it can read weights, and change nothing
    #[arg(long, env = "GWM_AGENT_LISTEN", value_name = "ADDR", value_delimiter = ',', value_parser = socket_address,
        help_heading = TELLING)]
    pub agent_listen: Vec<SocketAddr>,

    /// The load balancer whose groups answer agent-checks [default: the first one that has such a group]
    #[arg(long, env = "GWM_AGENT_LB", value_name = "UID", value_parser = lb_uid, requires = "agent_listen",
        help_heading = TELLING)]
    pub agent_lb: Option<Box<[u8]>>,

    /// How long everything about a load balancer is kept after its connection ended, 0s to 30d. The default is longer
    /// than a reboot or a network repair; a longer time keeps load balancers that never come back
    #[arg(long, env = "GWM_HOLD_TIME", value_name = "DURATION", default_value = "10m",
        value_parser = duration(Duration::ZERO..=DAY * 30), help_heading = KEPT)]
    pub hold_time: Duration,

    /// Directory for the state on disk: load balancers, groups, members, their states, and the operator's words. A restart or
    /// a crash forgets none of it. The directory is made if it is not there [default: in memory only]
    #[arg(long, env = "GWM_STATE", value_name = "DIR", help_heading = KEPT)]
    pub state: Option<PathBuf>,

    /// When a reply to a request that changes something is sent, with --state or --fleet
    #[arg(long, env = "GWM_DURABILITY", value_name = "WHEN", default_value = "reply", help_heading = KEPT)]
    pub durability: Durability,

    /// Move a state on disk that is damaged or of another version aside, and begin empty. Without this flag the daemon does
    /// not start with such a state. A state that can be used stays
    #[arg(long, env = "GWM_STATE_RESET", requires = "state", value_parser = FalseyValueParser::new(),
        help_heading = KEPT)]
    pub state_reset: bool,

    /// Take over from the gwm that runs on --state: its listening sockets, so that no connection is refused, and its state.
    /// That gwm ends then. If none runs there, this one starts as usual. SIGUSR2 lets a running gwm start one with this flag
    #[arg(long, env = "GWM_TAKEOVER", requires = "state", value_parser = FalseyValueParser::new(), help_heading = KEPT)]
    pub takeover: bool,

    /// Address and port to listen on with TLS; repeatable. An address that --listen names too takes both plain and TLS
    /// connections: the peer's first byte tells which
    #[arg(long, env = "GWM_TLS_LISTEN", value_name = "ADDR", value_delimiter = ',', value_parser = socket_address,
        requires_all = ["tls_cert", "tls_key"], help_heading = TLS)]
    pub tls_listen: Vec<SocketAddr>,

    /// The server's certificate chain for TLS, its own certificate first (PEM). SIGHUP reads this file, --tls-key and
    /// --tls-client-ca again: sessions continue, new sessions get the new files; files that can not serve change nothing
    #[arg(long, env = "GWM_TLS_CERT", value_name = "FILE", requires = "tls_listen", help_heading = TLS)]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert (PEM: PKCS#8, PKCS#1 or SEC1)
    #[arg(long, env = "GWM_TLS_KEY", value_name = "FILE", requires = "tls_listen", help_heading = TLS)]
    pub tls_key: Option<PathBuf>,

    /// Certificate authorities (PEM) of client certificates. With this flag every TLS client must show a certificate from
    /// one of them; without this flag no client is asked for a certificate
    #[arg(long, env = "GWM_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_listen", help_heading = TLS)]
    pub tls_client_ca: Option<PathBuf>,

    /// The oldest TLS version to accept
    #[arg(long, env = "GWM_TLS_MIN_VERSION", value_name = "VERSION", default_value = "1.2", help_heading = TLS)]
    pub tls_min_version: TlsVersion,

    /// Serve with a certificate that has expired or is not valid yet. Without this flag the daemon does not start with
    /// such a certificate, and SIGHUP does not put it in force
    #[arg(long, env = "GWM_TLS_ALLOW_EXPIRED", requires = "tls_listen", value_parser = FalseyValueParser::new(),
        help_heading = TLS)]
    pub tls_allow_expired: bool,

    /// Refuse to listen without TLS on an address that is not loopback; without this flag there is only a warning
    #[arg(long, env = "GWM_REQUIRE_TLS", value_parser = FalseyValueParser::new(), help_heading = TLS)]
    pub require_tls: bool,

    /// Time limit from accept to the end of the TLS handshake, including the wait for a turn, 100ms to 1h; a connection
    /// that takes longer is dropped
    #[arg(long, env = "GWM_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::from_millis(100)..=HOUR), help_heading = TLS)]
    pub handshake_timeout: Duration,

    /// TLS handshakes at a time, 4 to 1000000, but at least 4 a shard; one source gets a quarter of them at most. More
    /// handshakes wait, unread, for their turn. While others wait, a handshake that takes over 3s is dropped
    #[arg(long, env = "GWM_MAX_HANDSHAKES", value_name = "N", default_value = "1024",
        value_parser = clap::value_parser!(u32).range(4..=limits::CONNECTIONS as i64), help_heading = TLS)]
    pub max_handshakes: u32,

    /// TLS handshakes a second with one source, 0 (no limit) to 1000000; after an idle second as many come through at
    /// once; more wait, unread, for their turn
    #[arg(long, env = "GWM_MAX_HANDSHAKES_PER_SOURCE", value_name = "N", default_value = "0",
        value_parser = clap::value_parser!(u32).range(0..=limits::RATE as i64), help_heading = TLS)]
    pub max_handshakes_per_source: u32,

    /// What a peer must prove to speak for a load balancer; a peer that does not prove this gets 0x11
    #[arg(long, env = "GWM_LB_IDENTITY", value_name = "HOW", default_value = "any", help_heading = IDENTITY)]
    pub lb_identity: LbIdentity,

    /// With --lb-identity certificate: the subject's common name (CN) counts as one of the certificate's names
    #[arg(long, env = "GWM_LB_IDENTITY_COMMON_NAME", value_parser = FalseyValueParser::new(), help_heading = IDENTITY)]
    pub lb_identity_common_name: bool,

    /// What a peer that is not the load balancer must prove to register, deregister or set the state of a member; a
    /// request about any other member gets 0x11
    #[arg(long, env = "GWM_MEMBER_IDENTITY", value_name = "HOW", default_value = "any", help_heading = IDENTITY)]
    pub member_identity: MemberIdentity,

    /// TOML file that says which peers may be which load balancer (`[[lb]]`) and speak for which members (`[[member]]`);
    /// gwm-access(5) has all keys. SIGHUP reads the file again; an invalid file changes nothing
    #[arg(long, env = "GWM_ACCESS", value_name = "FILE", help_heading = IDENTITY)]
    pub access: Option<PathBuf>,

    /// The admin side.
    #[command(flatten)]
    pub admin: AdminFlags,

    /// Memberships that have series of their own in /metrics, 0 to 100000: weight, contact and confidence of each. With
    /// more memberships than that, the first ones have them
    #[arg(long, env = "GWM_METRICS_MEMBERS", value_name = "N", default_value = "0",
        value_parser = clap::value_parser!(u32).range(0..=limits::METRICS_MEMBERS as i64), help_heading = admin::HEADING)]
    pub metrics_members: u32,

    /// The fleet.
    #[command(flatten)]
    pub fleet: FleetFlags,

    /// Shards: executors that own connections, one per CPU; 1 to 256 [default: usable CPUs less one, at least 1]
    #[arg(long, env = "GWM_SHARDS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256),
        help_heading = MACHINE)]
    pub shards: Option<u16>,

    /// CPUs to run on, as in `0,2-5`: the coordinator gets the first, the shards get the others in turn; a single CPU is
    /// shared [default: all CPUs that this process may use]
    #[arg(long, env = "GWM_CPUS", value_name = "LIST", value_parser = cpu_list, help_heading = MACHINE)]
    pub cpus: Option<CpuList>,

    /// Poll for work for this long before sleeping, 0s to 1s. Polling saves the wake-up, some tens of microseconds a
    /// message, and costs up to a whole CPU for each shard and for the coordinator: each needs its own
    /// [default: 0s; 50us if no value is given]
    #[arg(
        long, env = "GWM_SPIN", value_name = "DURATION", default_value = "0s", num_args = 0..=1, require_equals = true,
        default_missing_value = "50us", hide_default_value = true, value_parser = duration(Duration::ZERO..=SECOND),
        help_heading = MACHINE,
    )]
    pub spin: Duration,

    /// Whether to use pages of 2 MiB where the kernel gives them. They save CPU time with large tables; each shard takes
    /// 6 MiB more memory
    #[arg(long, env = "GWM_HUGE_PAGES", value_name = "WHEN", default_value = "auto", help_heading = MACHINE)]
    pub huge_pages: HugePages,

    /// Time limit from accept to the end of the first message, 100ms to 1h; a slower connection is dropped
    #[arg(long, env = "GWM_FIRST_MESSAGE_TIMEOUT", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::from_millis(100)..=HOUR), help_heading = CONNECTIONS)]
    pub first_message_timeout: Duration,

    /// Time limit from the first to the last byte of a later message, 100ms to 1h; a slower connection is dropped
    #[arg(long, env = "GWM_MESSAGE_TIMEOUT", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::from_millis(100)..=HOUR), help_heading = CONNECTIONS)]
    pub message_timeout: Duration,

    /// A peer that takes none of the waiting bytes for this long is dropped, 100ms to 1h. So is a peer that does not
    /// acknowledge bytes in the kernel's buffers for this long, or for twice --keepalive if that is longer
    #[arg(long, env = "GWM_STALL_TIMEOUT", value_name = "DURATION", default_value = "30s",
        value_parser = duration(Duration::from_millis(100)..=HOUR), help_heading = CONNECTIONS)]
    pub stall_timeout: Duration,

    /// Idle time before TCP keepalive probes, whole seconds, 0s (no probes) to 32767s; three
    /// unanswered probes, each a third of this time apart, end the connection
    #[arg(long, env = "GWM_KEEPALIVE", value_name = "DURATION", default_value = "60s",
        value_parser = duration(Duration::ZERO..=SECOND * 32767), help_heading = CONNECTIONS)]
    pub keepalive: Duration,

    /// Connections at a time, 1 to 1000000; more wait in the kernel's backlog [default: 16384, or as many as
    /// the file-descriptor limit allows]
    #[arg(long, env = "GWM_MAX_CONNECTIONS", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=limits::CONNECTIONS as i64), help_heading = CONNECTIONS)]
    pub max_connections: Option<u32>,

    /// Connections at a time from one source (an IPv4 address or an IPv6 network of 64 bits), 1 to 1000000; one more is
    /// reset at once [default: half of --max-connections, so that no source alone takes all of them]
    #[arg(long, env = "GWM_MAX_CONNECTIONS_PER_SOURCE", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=limits::CONNECTIONS as i64), help_heading = CONNECTIONS)]
    pub max_connections_per_source: Option<u32>,

    /// New connections a second from one source, 0 (no limit) to 1000000; after an idle second as many come through at
    /// once; one more is reset at once
    #[arg(long, env = "GWM_MAX_NEW_CONNECTIONS_PER_SOURCE", value_name = "N", default_value = "0",
        value_parser = clap::value_parser!(u32).range(0..=limits::RATE as i64), help_heading = CONNECTIONS)]
    pub max_new_connections_per_source: u32,

    /// Requests a second of one connection, refused ones too, 0 (no limit) to 1000000; after an idle second as many come
    /// through at once. No request is dropped: the connection is not read until the next request is allowed
    #[arg(long, env = "GWM_MAX_REQUESTS_PER_SECOND", value_name = "N", default_value = "0",
        value_parser = clap::value_parser!(u32).range(0..=limits::RATE as i64), help_heading = CONNECTIONS)]
    pub max_requests_per_second: u32,

    /// The longest message, in bytes, 1024 to 268435456; a longer one ends its connection
    #[arg(long, env = "GWM_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value = "1048576",
        value_parser = clap::value_parser!(u32).range(1024..=limits::MESSAGE_BYTES_TAKEN as i64),
        help_heading = CONNECTIONS)]
    pub max_message_bytes: u32,

    /// Bytes of unfinished messages of all connections together, beyond the first 16384 of each, 65536 to
    /// 1099511627776; the connection that would exceed this is closed
    #[arg(long, env = "GWM_MAX_BUFFERED_BYTES", value_name = "BYTES", default_value = "268435456",
        value_parser = RangedU64ValueParser::<u64>::new().range(65536..=1 << 40), help_heading = CONNECTIONS)]
    pub max_buffered_bytes: u64,

    /// Bytes that wait for peers to read them, of all connections together, beyond the first 16384 of each, 65536 to
    /// 1099511627776; the connection that would exceed this is dropped
    #[arg(long, env = "GWM_MAX_UNSENT_BYTES", value_name = "BYTES", default_value = "1073741824",
        value_parser = RangedU64ValueParser::<u64>::new().range(65536..=1 << 40), help_heading = CONNECTIONS)]
    pub max_unsent_bytes: u64,

    /// Load balancers, connected or within hold time, 1 to 1000000; one more gets 0x11
    #[arg(long, env = "GWM_MAX_LOAD_BALANCERS", value_name = "N", default_value = "16384",
        value_parser = clap::value_parser!(u32).range(1..=limits::LOAD_BALANCERS as i64), help_heading = TABLES)]
    pub max_load_balancers: u32,

    /// Groups of all load balancers together, 1 to 7000000
    #[arg(long, env = "GWM_MAX_GROUPS", value_name = "N", default_value = "262144",
        value_parser = clap::value_parser!(u32).range(1..=limits::GROUPS as i64), help_heading = TABLES)]
    pub max_groups: u32,

    /// Groups that one load balancer may have, 1 to 65535
    #[arg(long, env = "GWM_MAX_GROUPS_PER_LB", value_name = "N", default_value = "1024",
        value_parser = clap::value_parser!(u32).range(1..=limits::GROUPS_PER_LB as i64), help_heading = TABLES)]
    pub max_groups_per_lb: u32,

    /// Members that one group may have, 1 to 65535
    #[arg(long, env = "GWM_MAX_MEMBERS_PER_GROUP", value_name = "N", default_value = "65535",
        value_parser = clap::value_parser!(u32).range(1..=limits::MEMBERS_PER_GROUP as i64), help_heading = TABLES)]
    pub max_members_per_group: u32,

    /// Members of all groups of one load balancer, 1 to 7000000 [default: half of --max-memberships, so that no load
    /// balancer alone takes all of them]
    #[arg(long, env = "GWM_MAX_MEMBERSHIPS_PER_LB", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=limits::MEMBERSHIPS as i64), help_heading = TABLES)]
    pub max_memberships_per_lb: Option<u32>,

    /// Members of all groups of all load balancers together, 1 to 7000000
    #[arg(long, env = "GWM_MAX_MEMBERSHIPS", value_name = "N", default_value = "1000000",
        value_parser = clap::value_parser!(u32).range(1..=limits::MEMBERSHIPS as i64), help_heading = TABLES)]
    pub max_memberships: u32,

    /// Which of these flags are given.
    #[arg(skip)]
    pub given: Given,
}

/// Numbers of CPUs, as given to `--cpus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// Parses `127.0.0.1:3860` and `[::1]:3860`. An IPv4 address that is written as an IPv6 address is an IPv4 address.
fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let mut address: SocketAddr =
        text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:3860 or [::1]:3860")?;
    address.set_ip(address.ip().to_canonical());
    Ok(address)
}

/// Parses a load balancer's UID.
fn lb_uid(text: &str) -> Result<Box<[u8]>, String> {
    let uid = unescape(text).map_err(|error| error.to_string())?;
    match uid.len() {
        1..=limits::LB_UID_BYTES => Ok(uid.into()),
        bytes => Err(format!("a UID has 1 to {} bytes, and this one {bytes}", limits::LB_UID_BYTES)),
    }
}

/// Parses `0,2-5`.
fn cpu_list(text: &str) -> Result<CpuList, String> {
    /// Far more than any machine has: keeps `0-99999999999` from filling the memory.
    const HIGHEST: usize = 65535;
    let number = |part: &str| match part.trim().parse() {
        Ok(cpu) if cpu <= HIGHEST => Ok(cpu),
        _ => Err(format!("`{part}` is not the number of a CPU; a list reads like 0,2-5")),
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
                return Err(format!("CPU {cpu} is named twice"));
            }
            cpus.push(cpu);
        }
    }
    Ok(CpuList(cpus))
}

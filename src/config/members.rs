//! The members file: the operator's word about members and groups. An error names the file and the line.
//!
//! A `[[member]]` is about one endpoint (`address`, with `protocol` and `port` unless it is a whole system) or about a
//! network (`cidr`, with `protocol` and `port` to select endpoints); the most specific entry counts. A `[[group]]` gives
//! the policy of groups by name.
//!
//! To add a key: add a field to `Entry`, read it here or in `members/checks.rs` into [`roster::Member`](crate::roster),
//! refuse it where it has no effect, add a row to the table in `src/manual/gwm-members.5.md` and a test to
//! `members/tests.rs`.

mod checks;
mod idle;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    files::{self, Fault, FileError, Mistake, fault, place},
    judgement::Policy,
    limits,
    network::Network,
    pattern::Pattern,
    roster::{Member, Monitor, Range, ReportRules, Roster, Selector, Times},
    sasp::{
        Endpoint,
        component::{TCP, UDP},
    },
};

/// The longest members file: enough for a million members.
const FILE_BYTES: u64 = 256 << 20;

/// The longest default time limit of a check, however long the interval is.
const TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// How many patterns each later pattern is compared with: a file may have a million patterns.
const WIDE_COMPARED: usize = 256;

/// Ranges of the times, for flags and file alike.
pub(super) const INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3600));
pub(super) const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
pub(super) const SMOOTHINGS: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3600));
pub(super) const LIFETIMES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));

/// The widest dead band, a percentage.
pub(super) const DEAD_BAND_MAX: u8 = 50;

/// The flags' values, for members that the file does not list and for keys that it leaves out.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The highest weight, and the capacity of a member without a weight.
    pub weight_max: u16,
    /// The checks.
    pub monitor: Monitor,
    /// The policy.
    pub policy: Policy,
    /// Time from one check to the next.
    pub interval: Duration,
    /// The same while the state is about to change; default `interval`.
    pub fast_interval: Option<Duration>,
    /// Time limit of one check; default `interval`, at most five seconds.
    pub timeout: Option<Duration>,
    /// Good checks in a row to come up.
    pub rise: u8,
    /// Bad checks in a row to go down.
    pub fall: u8,
    /// Time from coming up to the full weight.
    pub slow_start: Duration,
    /// Addresses that prove that this machine's network works: by a connection to the port, else by an echo.
    pub witnesses: Vec<(IpAddr, Option<u16>)>,
    /// The longest smoothing of an agent that swings.
    pub agent_smoothing: Duration,
    /// The smoothing of rates.
    pub rate_smoothing: Duration,
    /// A percentage.
    pub dead_band: u8,
    /// How long a report counts; default that of [`ReportRules`], or three intervals if that is more.
    pub report_lifetime: Option<Duration>,
}

impl Defaults {
    /// No checks, and HAProxy's times.
    pub fn unwatched(weight_max: u16) -> Defaults {
        let Times { interval, rise, fall, .. } = Times::default();
        let ReportRules { agent_smoothing, rate_smoothing, dead_band_percent, .. } = ReportRules::default();
        Defaults {
            weight_max,
            monitor: Monitor::none(),
            policy: Policy::Auto,
            interval,
            fast_interval: None,
            timeout: None,
            rise,
            fall,
            slow_start: Duration::ZERO,
            witnesses: Vec::new(),
            agent_smoothing,
            rate_smoothing,
            dead_band: dead_band_percent,
            report_lifetime: None,
        }
    }

    /// The roster without a file.
    pub fn roster(&self) -> Roster {
        let times = self.times(self.interval, None, None, None, None);
        let reports = self.reports(self.interval);
        let default = Member { reports, ..Member::watched(self.weight_max, self.monitor.clone(), times) };
        let mut roster = Roster::new(default, self.policy);
        self.witnesses.iter().for_each(|&(address, port)| roster.add_witness(address, port));
        roster
    }

    /// For a member that is checked at this interval.
    fn reports(&self, interval: Duration) -> ReportRules {
        ReportRules {
            agent_smoothing: self.agent_smoothing,
            rate_smoothing: self.rate_smoothing,
            dead_band_percent: self.dead_band,
            lifetime: self.report_lifetime.unwrap_or(ReportRules::default().lifetime.max(interval * 3)),
        }
    }

    fn times(
        &self,
        interval: Duration,
        fast_interval: Option<Duration>,
        timeout: Option<Duration>,
        rise: Option<u8>,
        fall: Option<u8>,
    ) -> Times {
        Times {
            interval,
            fast_interval: fast_interval.unwrap_or(self.fast_interval.map_or(interval, |fast| fast.min(interval))),
            timeout: timeout.or(self.timeout).unwrap_or(interval.min(TIMEOUT_MAX)),
            rise: rise.unwrap_or(self.rise),
            fall: fall.unwrap_or(self.fall),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    member: Vec<Spanned<Entry>>,
    #[serde(default)]
    group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: Spanned<String>,
    policy: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: Option<Spanned<String>>,
    cidr: Option<Spanned<String>>,
    protocol: Option<Spanned<Protocol>>,
    port: Option<u16>,
    weight: Option<Spanned<u16>>,
    monitor: Option<Spanned<checks::Names>>,
    agent_port: Option<Spanned<u16>>,
    agent_send: Option<Spanned<String>>,
    http: Option<Spanned<checks::HttpTable>>,
    tls: Option<Spanned<checks::TlsTable>>,
    grpc: Option<Spanned<checks::GrpcTable>>,
    proxy_protocol: Option<Spanned<String>>,
    interval: Option<Spanned<Time>>,
    fast_interval: Option<Spanned<Time>>,
    timeout: Option<Spanned<Time>>,
    rise: Option<Spanned<u8>>,
    fall: Option<Spanned<u8>>,
    agent_smoothing: Option<Spanned<Time>>,
    rate_smoothing: Option<Spanned<Time>>,
    dead_band: Option<Spanned<u8>>,
    report_lifetime: Option<Spanned<Time>>,
    #[serde(default)]
    quiesced: bool,
}

/// A duration, or a number, which has no unit.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a duration is a string such as \"2s\" or \"500ms\"")]
enum Time {
    Text(String),
    Number(f64),
}

/// A name or a number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a protocol is \"tcp\", \"udp\" or a number from 0 to 255")]
enum Protocol {
    Number(i64),
    Name(String),
}

/// The endpoints that an entry is about.
enum Subject {
    One(Endpoint),
    Many(Range),
}

/// Reads a members file. Names of files in it are relative to it. The texts are warnings about settings without effect.
pub fn read(path: &Path, defaults: &Defaults) -> Result<(Roster, Vec<String>), FileError> {
    let text = files::read(path, "members file", FILE_BYTES)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (roster, warnings) = examine(&text, folder, defaults).map_err(|mistake| mistake.of(path))?;
    Ok((roster, warnings.into_iter().map(|warning| warning.of(path).to_string()).collect()))
}

/// Parses the file's text. Names of files in it are relative to `folder`.
pub fn parse(text: &str, folder: &Path, defaults: &Defaults) -> Result<Roster, Mistake> {
    Ok(examine(text, folder, defaults)?.0)
}

/// As [`parse`], with the settings that are valid and may not do what is meant.
fn examine(text: &str, folder: &Path, defaults: &Defaults) -> Result<(Roster, Vec<Mistake>), Mistake> {
    let mut content = Content {
        roster: defaults.roster(),
        loader: checks::Loader::new(folder),
        idle: idle::Idle::default(),
        names: HashSet::new(),
        wide: Vec::new(),
    };
    files::parse_pieces(text, &["member"], |file, from| content.add(file, from, defaults))?;
    let warnings = content.idle.warnings(defaults);
    Ok((content.roster, warnings.into_iter().map(|warning| Mistake::at(text, warning)).collect()))
}

/// What the pieces of a file say.
struct Content<'a> {
    roster: Roster,
    loader: checks::Loader<'a>,
    idle: idle::Idle,
    names: HashSet<Pattern>,
    /// Groups to compare later ones with.
    wide: Vec<Pattern>,
}

impl Content<'_> {
    /// Adds a piece, which begins at byte `from`.
    fn add(&mut self, file: File, from: usize, defaults: &Defaults) -> Result<(), Fault> {
        let Content { roster, loader, idle, names, wide } = self;
        idle.begin(from);
        for entry in file.member {
            let at = entry.span().start;
            let entry = entry.into_inner();
            let subject = subject(&entry, at)?;
            let member = member(&entry, at, &subject, loader, defaults)?;
            idle.note(&entry, at, &member);
            let (new, name) = match subject {
                Subject::One(endpoint) => (roster.add(endpoint, member), endpoint.to_string()),
                Subject::Many(range) => (roster.add_range(range, member), range.to_string()),
            };
            if !new {
                return fault(at, format!("member {name} is listed twice"));
            }
        }
        for Group { name, policy } in file.group {
            let (at, policy_at) = (name.span().start, policy.span().start);
            let (name, policy) = (name.into_inner(), policy.into_inner());
            let Some(policy) = policy_named(&policy) else {
                return fault(
                    policy_at,
                    format!("policy {policy:?} is not \"static\", \"agent\", \"orca\" or \"auto\""),
                );
            };
            if name.is_empty() {
                return fault(at, "a group has a name; \"*\" means all of them");
            }
            let pattern = Pattern::parse(&name).map_err(|error| (at, format!("name: {error}")))?;
            if pattern.least_bytes() > limits::GROUP_NAME_BYTES {
                let (bytes, most) = (pattern.least_bytes(), limits::GROUP_NAME_BYTES);
                return fault(at, format!("no name has the {bytes} bytes that fit this: {most} are the most"));
            }
            if !names.insert(pattern.clone()) {
                return fault(at, "this group is listed twice, and only the first entry could count");
            }
            idle.note_policy(policy_at, policy, pattern.fits_all());
            if let Some(earlier) = wide.iter().find(|earlier| earlier.covers(&pattern)) {
                return fault(
                    at,
                    format!(
                        "no group is left for this entry: an earlier one has every group that fits, \"{earlier}\"; put \
                         this entry before that one"
                    ),
                );
            }
            if wide.len() < WIDE_COMPARED && pattern.is_wide() {
                wide.push(pattern.clone());
            }
            roster.add_group(pattern, policy);
        }
        Ok(())
    }
}

fn policy_named(name: &str) -> Option<Policy> {
    match name {
        "static" => Some(Policy::Static),
        "agent" => Some(Policy::Agent),
        "orca" => Some(Policy::Orca),
        "auto" => Some(Policy::Auto),
        _ => None,
    }
}

fn subject(entry: &Entry, at: usize) -> Result<Subject, Fault> {
    let protocol_at = place(&entry.protocol).unwrap_or(at);
    let protocol = entry.protocol.as_ref().map(|given| protocol(given.get_ref())).transpose();
    let protocol = protocol.map_err(|message| (protocol_at, message))?;
    match (&entry.address, &entry.cidr) {
        (Some(text), None) => {
            let Ok(address) = text.get_ref().parse::<IpAddr>() else {
                let what = format!("\"{}\" is not an IP address", text.get_ref());
                let port = text.get_ref().parse::<SocketAddr>().map(|address| {
                    let (ip, port) = (address.ip(), address.port());
                    format!(": write address = \"{ip}\" and port = {port}")
                });
                return fault(text.span().start, what + &port.unwrap_or_default());
            };
            let (protocol, port) = match (protocol, entry.port) {
                (None | Some(0), None) => (0, 0),
                (protocol, Some(port)) => (protocol.unwrap_or(TCP), port),
                (Some(_), None) => {
                    return fault(at, "a member with a protocol needs a port; leave out both to mean the whole system");
                }
            };
            Ok(Subject::One(Endpoint::new(address, protocol, port)))
        }
        (None, Some(cidr)) => {
            let selector = match (protocol, entry.port) {
                (None, None) => Selector::All,
                (Some(protocol), None) => Selector::Protocol(protocol),
                (protocol, Some(port)) => Selector::Port(protocol.unwrap_or(TCP), port),
            };
            let network =
                Network::parse(cidr.get_ref()).map_err(|error| (cidr.span().start, format!("cidr {error}")))?;
            Ok(Subject::Many(Range { network, selector }))
        }
        (None, None) => fault(at, "a member has an address, or a cidr for all members of a network"),
        (Some(_), Some(_)) => fault(at, "a member has an address or a cidr, not both"),
    }
}

fn protocol(protocol: &Protocol) -> Result<u8, String> {
    match protocol {
        Protocol::Number(number) => {
            u8::try_from(*number).map_err(|_| format!("protocol {number} is not between 0 and 255"))
        }
        Protocol::Name(name) => match name.as_str() {
            "tcp" => Ok(TCP),
            "udp" => Ok(UDP),
            _ => Err(format!("protocol \"{name}\" is not \"tcp\", \"udp\" or a number")),
        },
    }
}

fn member(
    entry: &Entry,
    at: usize,
    subject: &Subject,
    loader: &mut checks::Loader<'_>,
    defaults: &Defaults,
) -> Result<Member, Fault> {
    let weight_at = place(&entry.weight).unwrap_or(at);
    let weight = entry.weight.as_ref().map(|weight| *weight.get_ref());
    if let Some(weight) = weight.filter(|weight| *weight > defaults.weight_max) {
        return fault(weight_at, format!("weight {weight} is over --weight-max {}", defaults.weight_max));
    }
    let capacity = weight.unwrap_or(defaults.weight_max);
    let times = times(entry, defaults)?;
    let reports = reports(entry, times.interval, at, defaults)?;
    let watch = match &entry.monitor {
        Some(names) => checks::watch(names, entry, subject, loader)?,
        None => {
            checks::nothing_extra(entry, &[], "monitor does not name what it is for")?;
            checks::Watch::Monitor(defaults.monitor.clone())
        }
    };
    let member = match watch {
        checks::Watch::Fixed if weight.is_none() => {
            return fault(at, "a member with monitor = \"none\" needs a weight");
        }
        checks::Watch::Fixed => Member::fixed(capacity),
        checks::Watch::Monitor(_) if capacity == 0 => {
            return fault(
                weight_at,
                "weight 0 is for monitor = \"none\": a member that is watched and up gets at least 1; \
                 to take it out of service, say quiesced = true",
            );
        }
        checks::Watch::Monitor(monitor) => Member::watched(capacity, monitor, times),
    };
    let proxy_protocol = checks::proxy_protocol(entry, &member.monitor)?;
    Ok(Member { stated: weight.is_some(), quiesced: entry.quiesced, proxy_protocol, reports, ..member })
}

/// A duration of an entry.
fn duration(
    key: &str,
    given: &Option<Spanned<Time>>,
    (min, max): (Duration, Duration),
) -> Result<Option<Duration>, Fault> {
    let Some(given) = given else { return Ok(None) };
    let at = given.span().start;
    match given.get_ref() {
        Time::Text(text) => super::duration(min..=max)(text).map(Some).map_err(|message| (at, message)),
        Time::Number(number) => fault(
            at,
            format!("{key} = {number} has no unit: a duration is a string such as \"{number}s\" or \"{number}ms\""),
        ),
    }
}

fn reports(entry: &Entry, interval: Duration, at: usize, defaults: &Defaults) -> Result<ReportRules, Fault> {
    let flags = defaults.reports(interval);
    let dead_band_percent = entry.dead_band.as_ref().map_or(flags.dead_band_percent, |given| *given.get_ref());
    if dead_band_percent > DEAD_BAND_MAX {
        return fault(
            place(&entry.dead_band).unwrap_or(at),
            format!("dead_band is a percentage, 0 to {DEAD_BAND_MAX}"),
        );
    }
    let lifetime = duration("report_lifetime", &entry.report_lifetime, LIFETIMES)?.unwrap_or(flags.lifetime);
    if lifetime < interval {
        let (lifetime, interval) = (humantime::format_duration(lifetime), humantime::format_duration(interval));
        return fault(
            place(&entry.report_lifetime).or(place(&entry.interval)).unwrap_or(at),
            format!(
                "reports count for {lifetime} (report_lifetime) and come every {interval} (interval): write {interval} or more"
            ),
        );
    }
    Ok(ReportRules {
        agent_smoothing: duration("agent_smoothing", &entry.agent_smoothing, SMOOTHINGS)?
            .unwrap_or(flags.agent_smoothing),
        rate_smoothing: duration("rate_smoothing", &entry.rate_smoothing, SMOOTHINGS)?.unwrap_or(flags.rate_smoothing),
        dead_band_percent,
        lifetime,
    })
}

fn times(entry: &Entry, defaults: &Defaults) -> Result<Times, Fault> {
    let interval = duration("interval", &entry.interval, INTERVALS)?.unwrap_or(defaults.interval);
    let fast_interval = duration("fast_interval", &entry.fast_interval, INTERVALS)?;
    let timeout = duration("timeout", &entry.timeout, TIMEOUTS)?;
    if let Some(fast) = fast_interval.filter(|fast| *fast > interval) {
        let (fast, interval) = (humantime::format_duration(fast), humantime::format_duration(interval));
        let at = place(&entry.fast_interval).unwrap_or(0);
        return fault(at, format!("fast_interval {fast} is longer than the interval, {interval}"));
    }
    for (name, given) in [("rise", &entry.rise), ("fall", &entry.fall)] {
        if given.as_ref().is_some_and(|given| *given.get_ref() == 0) {
            return fault(place(given).unwrap_or(0), format!("{name} is how many checks in a row: 1 to 255"));
        }
    }
    let count = |given: &Option<Spanned<u8>>| given.as_ref().map(|given| *given.get_ref());
    Ok(defaults.times(interval, fast_interval, timeout, count(&entry.rise), count(&entry.fall)))
}

#[cfg(test)]
mod tests;

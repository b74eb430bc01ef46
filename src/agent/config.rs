//! Flags and the TOML file → [`ServiceSettings`]. The file has `[[service]]`s; for a key that a service leaves out, the
//! flags count.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::Path,
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    answers,
    check::{Check, Kind},
    load,
    opaque::Opaque,
    settings::ServiceSettings,
};
use crate::{
    client::spec,
    files::{self, Fault, Mistake, fault},
    limits,
    sasp::{Endpoint, Escaped, component::TCP},
};

/// The most bytes of the file: 1,024 services with 1 KiB each.
const FILE_BYTES: u64 = 1 << 20;

/// The range of a check's interval and timeout.
pub const CHECK_TIMES: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// The range of the drain time, the idle time and the quiesce time.
pub const LEAVE_TIMES: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

/// The highest number of checks in a row.
pub const ROW: u32 = 100;

/// What flags or the file say of a service; `None` and empty lists are not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// See [`ServiceSettings::name`]; default: the first group.
    pub name: Option<String>,
    /// See [`ServiceSettings::lbs`].
    pub lbs: Vec<Box<[u8]>>,
    /// See [`ServiceSettings::groups`].
    pub groups: Vec<Box<[u8]>>,
    /// See [`ServiceSettings::members`].
    pub members: Vec<MemberGiven>,
    /// See [`ServiceSettings::label`].
    pub label: Option<Box<[u8]>>,
    /// See [`ServiceSettings::local`].
    pub local: Option<SocketAddr>,
    /// See [`Check::kind`].
    pub check: Option<Kind>,
    /// See [`Check::interval`].
    pub check_interval: Option<Duration>,
    /// See [`Check::timeout`].
    pub check_timeout: Option<Duration>,
    /// See [`Check::rise`].
    pub rise: Option<u32>,
    /// See [`Check::fall`].
    pub fall: Option<u32>,
    /// See [`ServiceSettings::quiesce_when_down`].
    pub quiesce_when_down: Option<bool>,
    /// See [`ServiceSettings::opaque`].
    pub opaque: Option<Opaque>,
    /// See [`ServiceSettings::drain_time`].
    pub drain_time: Option<Duration>,
    /// See [`ServiceSettings::idle_time`].
    pub idle_time: Option<Duration>,
    /// See [`ServiceSettings::quiesce_time`].
    pub quiesce_time: Option<Duration>,
    /// See [`ServiceSettings::telling`].
    pub telling: answers::given::Given,
}

/// A member as it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberGiven {
    /// Address and port.
    Endpoint(Endpoint),
    /// A protocol and a port; the address is that of the interface that leads to the GWM.
    Port(u8, u16),
}

impl MemberGiven {
    /// `10.0.0.1:80` and all other forms of [`spec::endpoint`], or `80`, `80/udp`.
    pub fn parse(text: &str) -> Result<MemberGiven, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
            let protocol = spec::protocol(protocol).map_err(|error| error.to_string())?;
            return match port.parse() {
                Ok(0) | Err(_) => Err(format!("`{port}` is not a port: 1 to 65535")),
                Ok(port) => Ok(MemberGiven::Port(protocol, port)),
            };
        }
        spec::endpoint(text).map(MemberGiven::Endpoint).map_err(|error| error.to_string())
    }
}

/// Several values, or one.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "write a text or a list of texts")]
enum Several {
    One(String),
    Many(Vec<String>),
}

/// A member may be a port alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "write a member (\"10.0.0.1:80\"), a port from 1 to 65535, or a list of them")]
enum SeveralMembers {
    Port(u16),
    One(String),
    Many(Vec<OneMember>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "write a member (\"10.0.0.1:80\") or a port from 1 to 65535")]
enum OneMember {
    Port(u16),
    Text(String),
}

/// A number, or one of the forms with a name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "write a number from 0 to 255, \"file:PATH\", \"exec:COMMAND\" or \"pressure\"")]
enum FileOpaque {
    Number(u8),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    service: Vec<Spanned<FileService>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileService {
    name: Option<Spanned<String>>,
    lb: Option<Spanned<Several>>,
    group: Option<Spanned<Several>>,
    member: Option<Spanned<SeveralMembers>>,
    label: Option<Spanned<String>>,
    local: Option<Spanned<String>>,
    check: Option<Spanned<String>>,
    check_interval: Option<Spanned<String>>,
    check_timeout: Option<Spanned<String>>,
    rise: Option<Spanned<u32>>,
    fall: Option<Spanned<u32>>,
    on_down: Option<Spanned<String>>,
    opaque_state: Option<Spanned<FileOpaque>>,
    drain_time: Option<Spanned<String>>,
    idle_time: Option<Spanned<String>>,
    quiesce_time: Option<Spanned<String>>,
    load: Option<load::given::Table>,
    agent_listen: Option<Spanned<Several>>,
    agent_weight: Option<Spanned<String>>,
    nominal_cores: Option<Spanned<f64>>,
}

impl Several {
    fn list(self) -> Vec<String> {
        match self {
            Several::One(text) => vec![text],
            Several::Many(texts) => texts,
        }
    }
}

impl SeveralMembers {
    fn list(self) -> Vec<String> {
        let text = |member| match member {
            OneMember::Port(port) => port.to_string(),
            OneMember::Text(text) => text,
        };
        match self {
            SeveralMembers::Port(port) => vec![port.to_string()],
            SeveralMembers::One(text) => vec![text],
            SeveralMembers::Many(members) => members.into_iter().map(text).collect(),
        }
    }
}

/// A value of the file, read by `parse`; its error gets the value's place.
fn value<V, T>(given: Option<Spanned<V>>, parse: impl FnOnce(V) -> Result<T, String>) -> Result<Option<T>, Fault> {
    let Some(given) = given else { return Ok(None) };
    let at = given.span().start;
    parse(given.into_inner()).map(Some).map_err(|error| (at, error))
}

fn list<T, E: ToString>(texts: Vec<String>, parse: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| parse(text).map_err(|error| error.to_string())).collect()
}

/// A duration such as `500ms` or `1m` within a range.
pub fn duration(text: &str, range: &std::ops::RangeInclusive<Duration>) -> Result<Duration, String> {
    let shown = humantime::format_duration;
    let value = humantime::parse_duration(text).map_err(|error| format!("`{text}`: {error}; write 500ms, 2s or 1m"))?;
    let in_range = range.contains(&value).then_some(value);
    in_range.ok_or_else(|| format!("`{text}` must be between {} and {}", shown(*range.start()), shown(*range.end())))
}

/// What a service does when its check says that it is down: `keep` or `quiesce`.
pub fn on_down(text: &str) -> Result<bool, String> {
    match text {
        "keep" => Ok(false),
        "quiesce" => Ok(true),
        _ => Err(format!("`{text}`: write keep or quiesce")),
    }
}

/// A number of checks in a row.
pub fn row(number: u32) -> Result<u32, String> {
    if (1..=ROW).contains(&number) { Ok(number) } else { Err(format!("{number} is not between 1 and {ROW}")) }
}

impl FileService {
    fn given(self) -> Result<Given, Fault> {
        let check_time = |text: String| duration(&text, &CHECK_TIMES);
        let leave_time = |text: String| duration(&text, &LEAVE_TIMES);
        Ok(Given {
            name: value(self.name, name)?,
            lbs: value(self.lb, |lbs| list(lbs.list(), spec::lb_uid))?.unwrap_or_default(),
            groups: value(self.group, |groups| list(groups.list(), spec::group_name))?.unwrap_or_default(),
            members: value(self.member, |members| list(members.list(), MemberGiven::parse))?.unwrap_or_default(),
            label: value(self.label, |text| spec::label(&text).map_err(|error| error.to_string()))?,
            local: value(self.local, |text| local(&text))?,
            check: value(self.check, |text| Kind::parse(&text))?,
            check_interval: value(self.check_interval, check_time)?,
            check_timeout: value(self.check_timeout, check_time)?,
            rise: value(self.rise, row)?,
            fall: value(self.fall, row)?,
            quiesce_when_down: value(self.on_down, |text| on_down(&text))?,
            opaque: value(self.opaque_state, |opaque| match opaque {
                FileOpaque::Number(number) => Ok(Opaque::Number(number)),
                FileOpaque::Text(text) => Opaque::parse(&text),
            })?,
            drain_time: value(self.drain_time, leave_time)?,
            idle_time: value(self.idle_time, leave_time)?,
            quiesce_time: value(self.quiesce_time, leave_time)?,
            telling: answers::given::Given {
                load: self.load.map_or_else(|| Ok(Default::default()), load::given::Table::given)?,
                agent_listen: value(self.agent_listen, |texts| list(texts.list(), answers::given::address))?
                    .unwrap_or_default(),
                agent_weight: value(self.agent_weight, |text| text.parse())?,
                nominal_cores: value(self.nominal_cores, answers::given::nominal_cores)?,
            },
        })
    }
}

/// A name for people: one word or more, on one line.
pub fn name(text: impl AsRef<str>) -> Result<String, String> {
    let text = text.as_ref();
    let good = (1..=limits::GROUP_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("a name has 1 to 255 bytes, and no control characters".into()) }
}

/// Where a service listens on this host.
pub fn local(text: &str) -> Result<SocketAddr, String> {
    let place: SocketAddr = text.parse().map_err(|_| format!("`{text}` is not an address: write 127.0.0.1:8080"))?;
    if place.port() == 0 { Err(format!("`{text}` has no port")) } else { Ok(place) }
}

impl Given {
    /// What this leaves out is taken from `flags`.
    fn or(self, flags: &Given) -> Given {
        fn some<T: Clone>(own: Vec<T>, other: &[T]) -> Vec<T> {
            if own.is_empty() { other.to_vec() } else { own }
        }
        Given {
            name: self.name.or_else(|| flags.name.clone()),
            lbs: some(self.lbs, &flags.lbs),
            groups: some(self.groups, &flags.groups),
            members: some(self.members, &flags.members),
            label: self.label.or_else(|| flags.label.clone()),
            local: self.local.or(flags.local),
            check: self.check.or_else(|| flags.check.clone()),
            check_interval: self.check_interval.or(flags.check_interval),
            check_timeout: self.check_timeout.or(flags.check_timeout),
            rise: self.rise.or(flags.rise),
            fall: self.fall.or(flags.fall),
            quiesce_when_down: self.quiesce_when_down.or(flags.quiesce_when_down),
            opaque: self.opaque.or_else(|| flags.opaque.clone()),
            drain_time: self.drain_time.or(flags.drain_time),
            idle_time: self.idle_time.or(flags.idle_time),
            quiesce_time: self.quiesce_time.or(flags.quiesce_time),
            telling: self.telling.or(&flags.telling),
        }
    }

    /// The service, if everything is there. `address` finds the address for a port alone.
    fn service(self, address: &mut impl FnMut() -> Result<IpAddr, String>) -> Result<ServiceSettings, String> {
        let missing = |what: &str, flag: &str| format!("{what}: give {flag}");
        if self.lbs.is_empty() {
            return Err(missing("whose group is it", "--lb UID, or `lb` in the file"));
        }
        if self.members.is_empty() {
            return Err(missing(
                "where does it listen",
                "--member ADDRESS:PORT or --member PORT, or `member` in the file",
            ));
        }
        let Some(first) = self.groups.first() else {
            return Err(missing("which group does it join", "--group NAME, or `group` in the file"));
        };
        let members = self.members.into_iter().map(|member| match member {
            MemberGiven::Endpoint(endpoint) => Ok(endpoint),
            MemberGiven::Port(protocol, port) => Ok(Endpoint::new(address()?, protocol, port)),
        });
        let interval = self.check_interval.unwrap_or(Duration::from_secs(1));
        let members = members.collect::<Result<Vec<_>, String>>()?;
        let is_tcp = self.local.is_some() || members.iter().any(|member| member.protocol == TCP && member.port != 0);
        let kind = match self.check {
            Some(kind) => kind,
            None if is_tcp => Kind::Tcp,
            // It would count as up before it serves.
            None => {
                return Err("no member has a TCP port that could be checked: give --service-check, or `check` in the \
                            file: exec:COMMAND, pid:FILE or unit:NAME.service; or `none` if it is always up"
                    .into());
            }
        };
        let check = Check {
            kind,
            interval,
            timeout: self.check_timeout.unwrap_or(interval.min(Duration::from_secs(5))),
            rise: self.rise.unwrap_or(1),
            fall: self.fall.unwrap_or(3),
        };
        if check.kind.needs_place() && !is_tcp {
            return Err(format!(
                "the check {} needs a TCP port: no member has one, and no `local` is given",
                check.kind
            ));
        }
        Ok(ServiceSettings {
            name: self.name.unwrap_or_else(|| Escaped(first).to_string()),
            lbs: self.lbs,
            groups: self.groups,
            members,
            label: self.label.unwrap_or_default(),
            local: self.local,
            check,
            quiesce_when_down: self.quiesce_when_down.unwrap_or(false),
            opaque: self.opaque.unwrap_or(Opaque::Number(0)),
            drain_time: self.drain_time.unwrap_or(Duration::from_secs(30)),
            idle_time: self.idle_time.unwrap_or(Duration::from_secs(10)),
            quiesce_time: self.quiesce_time.unwrap_or(Duration::from_secs(2)),
            telling: self.telling.settings()?,
        })
    }
}

/// The services of the flags alone, or of the file with the flags for what it leaves out.
pub fn services(
    flags: &Given,
    file: Option<&Path>,
    mut address: impl FnMut() -> Result<IpAddr, String>,
) -> Result<Vec<ServiceSettings>, String> {
    let Some(path) = file else {
        return all([Ok((0, flags.clone().service(&mut address)?))]).map_err(|(_, error)| error);
    };
    let text = files::read(path, "services file", FILE_BYTES).map_err(|error| error.to_string())?;
    parse(&text, flags, address).map_err(|mistake| mistake.of(path).to_string())
}

/// The services of a file's text.
pub fn parse(
    text: &str,
    flags: &Given,
    mut address: impl FnMut() -> Result<IpAddr, String>,
) -> Result<Vec<ServiceSettings>, Mistake> {
    files::parse(text, |file: File| {
        if file.service.is_empty() {
            return fault(0, "the file has no [[service]]");
        }
        all(file.service.into_iter().map(|service| {
            let at = service.span().start;
            let given = service.into_inner().given()?.or(flags);
            given.service(&mut address).map(|service| (at, service)).map_err(|error| (at, error))
        }))
    })
}

/// All services, if they do not contradict each other and are not too many.
fn all(
    services: impl IntoIterator<Item = Result<(usize, ServiceSettings), Fault>>,
) -> Result<Vec<ServiceSettings>, Fault> {
    let (mut found, mut names, mut memberships) = (Vec::new(), HashSet::new(), HashSet::new());
    for service in services {
        let (at, service) = service?;
        if !names.insert(service.name.clone()) {
            return fault(at, format!("two services are called {}: give each a `name`", service.name));
        }
        let own = service.lbs.len().saturating_mul(service.groups.len()).saturating_mul(service.members.len());
        // Before they are listed: three long lists make more memberships than the memory holds.
        if found.len() >= limits::AGENT_SERVICES || own > limits::AGENT_MEMBERSHIPS - memberships.len() {
            let (services, memberships) = (limits::AGENT_SERVICES, limits::AGENT_MEMBERSHIPS);
            return fault(at, format!("an agent has at most {services} services and {memberships} memberships"));
        }
        for (lb, group) in service.lbs.iter().flat_map(|lb| service.groups.iter().map(move |group| (lb, group))) {
            for member in &service.members {
                if !memberships.insert((lb.clone(), group.clone(), *member)) {
                    let (lb, group) = (Escaped(lb), Escaped(group));
                    return fault(at, format!("{member} stands twice in the group {group} of {lb}"));
                }
            }
        }
        found.push(service);
    }
    if let Some(address) = answers::given::twice(found.iter().map(|service: &ServiceSettings| &service.telling)) {
        return fault(0, format!("--agent-listen {address} stands twice: the port tells which service is asked about"));
    }
    Ok(found)
}

/// The address of the interface that leads to a GWM: what the kernel would send from. The error is why there is none, in one
/// line.
pub fn own_address(gwm: &str) -> Result<IpAddr, String> {
    let unresolved = |error: io::Error| format!("the name of the GWM {gwm} does not resolve: {error}");
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for to in gwm.to_socket_addrs().map_err(unresolved)? {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Nothing is sent.
        let found = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect(to)?;
            socket.local_addr()
        });
        match found {
            Ok(address) => return Ok(address.ip().to_canonical()),
            Err(error) => last = error,
        }
    }
    Err(format!("no interface leads to the GWM {gwm}: {last}"))
}

#[cfg(test)]
mod tests;

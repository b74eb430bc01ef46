//! IPVS, the kernel's load balancer, by generic netlink.
//!
//! A destination's settings other than its weight are repeated as they are. Connections that exist go on; weight 0 gets no
//! new ones. With [`Dynamic`], members that register themselves become destinations, which a mark tells from others; a
//! connector that was killed and started again knows them. No service and no other destination is made or removed.

mod socket;
mod step;
pub mod wire;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::IpAddr,
    time::Duration,
};

use self::{
    socket::Socket,
    step::Change,
    wire::{Destination, Key},
};
pub use self::{step::Step, wire::Forward};
use super::{Applied, Connector, Fault, MemberSpec, Observation, Observed, Pool, Standing, Wanted, scale};
use crate::{
    client::spec,
    sasp::{
        Endpoint, Escaped,
        component::{TCP, UDP},
    },
};

/// The heaviest destination. `wrr` goes down from here step by step: larger weights make longer runs to one destination.
const HEAVIEST: u32 = 100;

/// Schedulers that use a weight only to see whether it is 0.
const WITHOUT_WEIGHTS: [&str; 5] = ["rr", "lc", "lblc", "lblcr", "dh"];

/// A service of IPVS and its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    key: Key,
    group: Box<[u8]>,
}

impl Service {
    /// `tcp 10.0.0.1:80=web`, `udp [2001:db8::1]:53=dns`, `fwmark 7=web`, `fwmark6 7=web` (as ipvsadm has `-f 7 -6`).
    pub fn parse(text: &str) -> Result<Service, String> {
        let wrong = || {
            format!(
                "`{text}` is none of `tcp ADDRESS:PORT=GROUP`, `udp ADDRESS:PORT=GROUP`, `fwmark NUMBER=GROUP` and \
                     `fwmark6 NUMBER=GROUP`"
            )
        };
        let (service, group) = text.split_once('=').ok_or_else(wrong)?;
        let (kind, place) = service.trim().split_once(' ').ok_or_else(wrong)?;
        let key = match kind {
            "tcp" | "udp" => {
                let place: std::net::SocketAddr = place.trim().parse().map_err(|_| wrong())?;
                let protocol = if kind == "tcp" { TCP } else { UDP };
                Key::Address { protocol, ip: place.ip(), port: place.port() }
            }
            "fwmark" | "fwmark6" => {
                let mark = place.trim().parse().ok().filter(|mark| *mark > 0).ok_or_else(wrong)?;
                Key::Mark { mark, ipv6: kind == "fwmark6" }
            }
            _ => return Err(wrong()),
        };
        let group = spec::group_name(group).map_err(|error| error.to_string())?;
        Ok(Service { key, group })
    }

    fn ipv6(&self) -> bool {
        match self.key {
            Key::Address { ip, .. } => ip.is_ipv6(),
            Key::Mark { ipv6, .. } => ipv6,
        }
    }

    /// Where a member is as a destination; `None`: IPVS can not lead from this service to this member. Only NAT
    /// leads to another port.
    fn place(&self, member: Endpoint, forward: Forward) -> Option<(IpAddr, u16)> {
        let (ip, port) = (member.ip(), member.port);
        let fits = match self.key {
            Key::Address { protocol, port: own, .. } => {
                member.protocol == protocol && port > 0 && (forward == Forward::Masquerade || port == own)
            }
            Key::Mark { .. } if port == 0 => member.protocol == 0,
            Key::Mark { .. } => member.protocol == TCP && forward == Forward::Masquerade,
        };
        (fits && ip.is_ipv6() == self.ipv6()).then_some((ip, port))
    }

    /// The member that a destination is. Behind a mark with port 0 it is a whole system.
    fn endpoint(&self, destination: &Destination) -> Endpoint {
        let protocol = match self.key {
            Key::Address { protocol, .. } => protocol,
            Key::Mark { .. } if destination.port == 0 => 0,
            Key::Mark { .. } => TCP,
        };
        Endpoint::new(destination.ip, protocol, destination.port)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Key::Address { protocol, ip, port } => {
                let name = if protocol == TCP { "tcp" } else { "udp" };
                write!(f, "{name} {}", std::net::SocketAddr::new(ip, port))?;
            }
            Key::Mark { mark, ipv6: false } => write!(f, "fwmark {mark}")?,
            Key::Mark { mark, ipv6: true } => write!(f, "fwmark6 {mark}")?,
        }
        write!(f, " ({})", Escaped(&self.group))
    }
}

/// How destinations are added and removed.
#[derive(Clone, Copy, Debug)]
pub struct Dynamic {
    /// How packets get to them.
    pub forward: Forward,
    /// How old a session must be before a member that is not listed counts as one that has left.
    pub leave_after: Duration,
}

/// The kernel's IPVS.
pub struct Ipvs {
    services: Vec<Service>,
    socket: Option<Socket>,
    /// The destinations of each service at the last look; `None`: the service does not exist now.
    present: Vec<Option<Vec<Destination>>>,
    /// The weights before `gwm`, of the destinations that there are.
    own: HashMap<(usize, IpAddr, u16), u32>,
    /// What was told of a service last: its absence, or its scheduler.
    told: HashMap<usize, String>,
    dynamic: Option<Dynamic>,
}

impl Ipvs {
    /// Checks that no service is given twice. With `dynamic`, members that register themselves become destinations.
    pub fn new(services: Vec<Service>, dynamic: Option<Dynamic>) -> Result<Ipvs, String> {
        let (mut keys, mut groups) = (HashSet::new(), HashSet::new());
        for service in &services {
            if !keys.insert(service.key) {
                return Err(format!("the service {service} is given twice"));
            }
            if !groups.insert(&service.group) {
                return Err(format!("the group {} has two services: use --map for this", Escaped(&service.group)));
            }
        }
        let (own, told) = Default::default();
        Ok(Ipvs { present: vec![None; services.len()], services, socket: None, own, told, dynamic })
    }

    /// Asks for one thing, on a socket that is opened if there is none.
    fn ask(&mut self, body: wire::Body, dump: bool) -> Result<Vec<wire::Body>, Fault> {
        self.try_to_ask(body, dump).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::NotFound => "the kernel's IPVS (is the module ip_vs loaded?)",
                io::ErrorKind::PermissionDenied => {
                    "the kernel's IPVS (this needs root, or the capability CAP_NET_ADMIN)"
                }
                _ => "the kernel's IPVS",
            };
            Fault::Io { what: what.into(), error }
        })
    }

    fn try_to_ask(&mut self, body: wire::Body, dump: bool) -> io::Result<Vec<wire::Body>> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open()?,
        };
        let answer = socket.ask(body, dump);
        // After an error of the kernel the socket is good; after a timeout a new one is better.
        if answer.as_ref().is_ok() || answer.as_ref().is_err_and(no_service) {
            self.socket = Some(socket);
        }
        answer
    }

    fn look_at(&mut self, at: usize) -> Result<Option<Vec<Destination>>, Fault> {
        let key = self.services[at].key;
        let answer = match self.ask(wire::ask_service(&key), false) {
            Ok(answer) => answer,
            Err(Fault::Io { error, .. }) if no_service(&error) => {
                self.tell(at, Some("IPVS has no such service now".into()));
                self.remember(at, &[]);
                return Ok(None);
            }
            Err(fault) => return Err(fault),
        };
        let scheduler = answer.iter().find_map(wire::scheduler);
        let useless = scheduler.filter(|scheduler| WITHOUT_WEIGHTS.contains(&scheduler.as_str()));
        let words = |name| format!("its scheduler {name} does not use weights above 0: choose wrr or wlc");
        self.tell(at, useless.map(words));
        let answers = self.ask(wire::ask_destinations(&key), true)?;
        let ipv6 = self.services[at].ipv6();
        let read = |body: &wire::Body| wire::destination(body, ipv6);
        let found: Option<Vec<Destination>> = answers.iter().map(read).collect();
        let found =
            found.ok_or_else(|| Fault::Answer(format!("a destination of {} is not understood", self.services[at])))?;
        self.remember(at, &found);
        Ok(Some(found))
    }

    /// Remembers the weights of destinations that are new, and forgets those of destinations that have gone: one that is
    /// made again has a new weight of its own.
    fn remember(&mut self, at: usize, found: &[Destination]) {
        let there: HashSet<(IpAddr, u16)> = found.iter().map(|found| (found.ip, found.port)).collect();
        self.own.retain(|(service, ip, port), _| *service != at || there.contains(&(*ip, *port)));
        for destination in found {
            if self.is_added(destination) {
                continue;
            }
            let key = (at, destination.ip, destination.port);
            self.own.entry(key).or_insert(destination.weight);
        }
    }

    /// Warns of what is wrong with a service, once; `None`: nothing is.
    fn tell(&mut self, at: usize, what: Option<String>) {
        let before = self.told.remove(&at);
        if let Some(what) = what {
            if before.as_ref() != Some(&what) {
                tracing::warn!("{}: {what}", self.services[at]);
            }
            self.told.insert(at, what);
        }
    }

    /// Whether a connector has added this destination.
    fn is_added(&self, destination: &Destination) -> bool {
        self.dynamic.is_some() && destination.is_own()
    }

    /// The weight that a destination has without a GWM: one that a connector has added counts as much as the first other one.
    fn own(&self, at: usize, destination: &Destination) -> u32 {
        match self.is_added(destination) {
            true => self.usual(at),
            false => {
                let key = (at, destination.ip, destination.port);
                self.own.get(&key).copied().unwrap_or(destination.weight)
            }
        }
    }

    /// The weight of a new destination without a GWM.
    fn usual(&self, at: usize) -> u32 {
        let first = self.present[at].iter().flatten().find(|found| !self.is_added(found));
        first.map_or(1, |found| self.own(at, found)).max(1)
    }

    fn step(&self, at: usize, destination: &Destination, change: Change) -> Step {
        let service = &self.services[at];
        let whose = format!("{service}: {}", service.endpoint(destination));
        Step { service: at, destination: destination.clone(), change, whose }
    }

    fn weigh(&self, at: usize, destination: &Destination, weight: u32) -> Option<Step> {
        (destination.weight != weight).then(|| self.step(at, destination, Change::Weight(weight)))
    }

    /// Whether a destination that a connector has added must go: its member is down, which a member that left is, too; or an
    /// old session does not list the member.
    fn leaves(&self, destination: &Destination, standing: Option<Standing>, session_age: Duration) -> bool {
        let Some(dynamic) = self.dynamic.filter(|_| destination.is_own()) else { return false };
        match standing {
            Some(standing) => standing == Standing::Down,
            None => session_age >= dynamic.leave_after,
        }
    }

    fn steps_of(&self, at: usize, wanted: &Wanted) -> Vec<Step> {
        let service = &self.services[at];
        let Some(present) = &self.present[at] else { return Vec::new() };
        let standings: HashMap<Endpoint, Standing> =
            wanted.members.iter().map(|member| (member.endpoint, member.standing)).collect();
        let standing = |found: &Destination| standings.get(&service.endpoint(found)).copied();
        let (leaving, staying): (Vec<&Destination>, Vec<&Destination>) =
            present.iter().partition(|found| self.leaves(found, standing(found), wanted.session_age));
        let known = staying.into_iter().filter_map(|found| Some((found, standing(found)?)));
        let (known, mut all): (Vec<&Destination>, Vec<Standing>) = known.unzip();
        let joining = self.joining(at, present, wanted);
        all.extend(joining.iter().map(|(_, standing)| *standing));
        let weights = least(&all);
        let mut steps = Vec::new();
        for ((found, standing), weight) in known.iter().zip(&all).zip(&weights) {
            let weight = if *standing == Standing::Usual { self.own(at, found) } else { *weight };
            steps.extend(self.weigh(at, found, weight));
        }
        for ((new, standing), weight) in joining.iter().zip(&weights[known.len()..]) {
            let weight = if *standing == Standing::Usual { self.usual(at) } else { *weight };
            steps.push(self.step(at, new, Change::Add(weight)));
        }
        for found in leaving {
            // The kernel drops the packets of connections whose destination has gone: the last ones end first.
            match (found.weight, found.active) {
                (0, 0) => steps.push(self.step(at, found, Change::Remove)),
                _ => steps.extend(self.weigh(at, found, 0)),
            }
        }
        steps
    }

    /// Members that may get work and are no destinations yet.
    fn joining(&self, at: usize, present: &[Destination], wanted: &Wanted) -> Vec<(Destination, Standing)> {
        let Some(Dynamic { forward, .. }) = self.dynamic else { return Vec::new() };
        let mut known: HashSet<(IpAddr, u16)> = present.iter().map(|found| (found.ip, found.port)).collect();
        let new = wanted.members.iter().filter(|member| member.standing.serves()).filter_map(|member| {
            let (ip, port) = self.services[at].place(member.endpoint, forward)?;
            known.insert((ip, port)).then(|| (Destination::own(ip, port, forward), member.standing))
        });
        new.collect()
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whether an error says that there is no such service.
fn no_service(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// The least weights with these proportions, up to [`HEAVIEST`].
fn least(standings: &[Standing]) -> Vec<u32> {
    let weights: Vec<u32> = standings.iter().map(|standing| scale::weight(*standing)).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let least: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
    if least.iter().all(|weight| *weight <= HEAVIEST) { least } else { scale::to_range(&weights, HEAVIEST) }
}

impl Connector for Ipvs {
    type Step = Step;

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        let present: Result<Vec<_>, Fault> = (0..self.services.len()).map(|at| self.look_at(at)).collect();
        self.present = present?;
        let pool = |(service, present): (&Service, &Option<Vec<Destination>>)| Pool {
            name: service.group.clone(),
            // What members have registered themselves is not registered again.
            members: present
                .iter()
                .flatten()
                .filter(|found| !self.is_added(found))
                .map(|found| MemberSpec { endpoint: service.endpoint(found), label: Box::default() })
                .collect(),
        };
        Ok(self.services.iter().zip(&self.present).map(pool).collect())
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, service) in self.services.iter().enumerate() {
            if let Some(wanted) = wanted.iter().find(|wanted| wanted.pool == service.group) {
                steps.extend(self.steps_of(at, wanted));
            }
        }
        // Weights rise before others fall: someone serves at any time.
        steps.sort_by_key(Step::takes);
        steps
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let chosen = self.services.iter().enumerate().filter(|(_, service)| pools.contains(&service.group));
        let steps = chosen.flat_map(|(at, _)| {
            let found = self.present[at].iter().flatten();
            found.filter_map(move |found| self.weigh(at, found, self.own(at, found)))
        });
        let mut steps: Vec<Step> = steps.collect();
        steps.sort_by_key(Step::takes);
        steps
    }

    fn observe(&mut self) -> Result<Observed, Fault> {
        self.look()?;
        let mut members = Vec::new();
        for (service, present) in self.services.iter().zip(&self.present) {
            members.extend(present.iter().flatten().map(|found| Observation {
                open_connections: Some(found.active.into()),
                inactive_connections: Some(found.inactive.into()),
                connections: found.traffic.connections,
                bytes: (found.traffic.bytes_to, found.traffic.bytes_from),
                weight: Some(found.weight.into()),
                ..Observation::new(&service.group, service.endpoint(found))
            }));
        }
        Ok(Observed { members, ..Observed::default() })
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        for step in steps {
            let key = self.services[step.service].key;
            match self.ask(step.message(&key), false) {
                Ok(_) => applied.done += 1,
                // The service or the destination is gone meanwhile, or someone else has made it.
                Err(Fault::Io { error, .. })
                    if no_service(&error)
                        || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) =>
                {
                    applied.refused.push(format!("{step}: {error}"));
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

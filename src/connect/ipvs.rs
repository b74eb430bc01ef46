//! IPVS, the kernel's load balancer, by generic netlink.
//!
//! Only weights change: a destination's other settings are repeated as they are, and services and destinations are neither
//! made nor removed. Connections that exist go on; weight 0 gets no new ones.

mod socket;
pub mod wire;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::IpAddr,
};

use self::{
    socket::Socket,
    wire::{Destination, Key},
};
use super::{Applied, Connector, Fault, MemberSpec, Pool, Standing, Wanted, scale::to_range};
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

/// Another weight of a destination.
pub struct Step {
    service: usize,
    destination: Destination,
    weight: u32,
    text: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The kernel's IPVS.
pub struct Ipvs {
    services: Vec<Service>,
    socket: Option<Socket>,
    /// The destinations of each service at the last look; `None`: the service does not exist now.
    present: Vec<Option<Vec<Destination>>>,
    /// The weights before `gwm`.
    own: HashMap<(usize, IpAddr, u16), u32>,
    /// Services whose absence, or scheduler, was told.
    told: HashSet<(usize, String)>,
}

impl Ipvs {
    /// Checks that no service is given twice.
    pub fn new(services: Vec<Service>) -> Result<Ipvs, String> {
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
        Ok(Ipvs { present: vec![None; services.len()], services, socket: None, own, told })
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
                self.tell(at, "IPVS has no such service now".into());
                return Ok(None);
            }
            Err(fault) => return Err(fault),
        };
        if let Some(scheduler) = answer.iter().find_map(wire::scheduler)
            && WITHOUT_WEIGHTS.contains(&scheduler.as_str())
        {
            self.tell(at, format!("its scheduler {scheduler} does not use weights above 0: choose wrr or wlc"));
        }
        let answers = self.ask(wire::ask_destinations(&key), true)?;
        let ipv6 = self.services[at].ipv6();
        let read = |body: &wire::Body| wire::destination(body, ipv6);
        let found: Option<Vec<Destination>> = answers.iter().map(read).collect();
        let found =
            found.ok_or_else(|| Fault::Answer(format!("a destination of {} is not understood", self.services[at])))?;
        for destination in &found {
            let key = (at, destination.ip, destination.port);
            self.own.entry(key).or_insert(destination.weight);
        }
        Ok(Some(found))
    }

    fn tell(&mut self, at: usize, what: String) {
        if self.told.insert((at, what.clone())) {
            tracing::warn!("{}: {what}", self.services[at]);
        }
    }

    fn own(&self, at: usize, destination: &Destination) -> u32 {
        let key = (at, destination.ip, destination.port);
        self.own.get(&key).copied().unwrap_or(destination.weight)
    }

    fn step(&self, at: usize, destination: &Destination, weight: u32) -> Option<Step> {
        let service = &self.services[at];
        let text = format!("{service}: {} weight {} -> {weight}", service.endpoint(destination), destination.weight);
        let step = Step { service: at, destination: destination.clone(), weight, text };
        (destination.weight != weight).then_some(step)
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
    let weights: Vec<u32> = standings
        .iter()
        .map(|standing| match standing {
            Standing::Serving(weight) => (*weight).into(),
            Standing::Usual | Standing::Idle | Standing::Quiesced | Standing::Down => 0,
        })
        .collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let least: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
    if least.iter().all(|weight| *weight <= HEAVIEST) { least } else { to_range(&weights, HEAVIEST) }
}

impl Connector for Ipvs {
    type Step = Step;

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        let present: Result<Vec<_>, Fault> = (0..self.services.len()).map(|at| self.look_at(at)).collect();
        self.present = present?;
        let pool = |(service, present): (&Service, &Option<Vec<Destination>>)| Pool {
            name: service.group.clone(),
            members: present
                .iter()
                .flatten()
                .map(|found| MemberSpec { endpoint: service.endpoint(found), label: Box::default() })
                .collect(),
        };
        Ok(self.services.iter().zip(&self.present).map(pool).collect())
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, service) in self.services.iter().enumerate() {
            let Some(wanted) = wanted.iter().find(|wanted| wanted.pool == service.group) else { continue };
            let standings: HashMap<Endpoint, Standing> =
                wanted.members.iter().map(|member| (member.endpoint, member.standing)).collect();
            let (known, standings): (Vec<&Destination>, Vec<Standing>) = self.present[at]
                .iter()
                .flatten()
                .filter_map(|found| Some((found, *standings.get(&service.endpoint(found))?)))
                .unzip();
            for ((found, standing), weight) in known.into_iter().zip(&standings).zip(least(&standings)) {
                let weight = if *standing == Standing::Usual { self.own(at, found) } else { weight };
                steps.extend(self.step(at, found, weight));
            }
        }
        // Weights rise before others fall: someone serves at any time.
        steps.sort_by_key(|step| step.weight < step.destination.weight);
        steps
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let chosen = self.services.iter().enumerate().filter(|(_, service)| pools.contains(&service.group));
        let steps = chosen.flat_map(|(at, _)| {
            let found = self.present[at].iter().flatten();
            found.filter_map(move |found| self.step(at, found, self.own(at, found)))
        });
        steps.collect()
    }

    fn apply(&mut self, steps: Vec<Step>) -> Result<Applied, Fault> {
        let mut applied = Applied::default();
        for step in steps {
            let key = self.services[step.service].key;
            match self.ask(wire::set_weight(&key, &step.destination, step.weight), false) {
                Ok(_) => applied.done += 1,
                // The service or the destination is gone meanwhile.
                Err(Fault::Io { error, .. }) if no_service(&error) || error.kind() == io::ErrorKind::NotFound => {
                    applied.refused.push(format!("{step}: {error}"));
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(applied)
    }
}

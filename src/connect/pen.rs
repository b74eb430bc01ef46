//! Pen, a small TCP and UDP load balancer, by its control port.
//!
//! Pen gives a new connection to the server with the least 256 × connections / weight, in whole numbers. Weights above 256
//! would lose this order, so 256 is the highest here. A client that pen remembers goes to its server even at weight 0;
//! a blacklisted server gets nobody. So a server without new work has weight 0 and a blacklist that is renewed.

mod answers;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

pub use answers::{Server, servers, uses_weights};

use super::{
    Applied, Connector, Fault, MemberSpec, Observation, Observed, Pool, Standing, Wanted, address::Address,
    scale::scale,
};
use crate::sasp::Endpoint;

/// The heaviest server has this weight.
const HEAVIEST: u32 = 256;

/// How long a blacklist lasts: if the connector dies, pen forgets the blacklist after this time.
const BLACKLIST_SECONDS: u64 = 30;

/// When a blacklist is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(BLACKLIST_SECONDS / 3);

/// A running pen.
pub struct Pen {
    control: Address,
    /// The name of its only pool.
    group: Box<[u8]>,
    protocol: u8,
    /// Pen's process id; another one means that pen was restarted, and has its own weights.
    process: Option<String>,
    /// What the last look saw.
    servers: Vec<Server>,
    /// The weights before `gwm`, by index and endpoint.
    own: HashMap<(u32, Endpoint), i64>,
    /// When each server was blacklisted last.
    blacklisted: HashMap<(u32, Endpoint), Instant>,
}

/// A change of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    index: u32,
    endpoint: Endpoint,
    from: i64,
    to: i64,
    /// Clients that pen remembers must not come back either.
    blacklist: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {} ({}): ", self.index, self.endpoint)?;
        match (self.from == self.to, self.blacklist) {
            (true, _) => write!(f, "blacklist for {BLACKLIST_SECONDS} s more"),
            (false, true) => write!(f, "weight {} -> {}, blacklist", self.from, self.to),
            (false, false) => write!(f, "weight {} -> {}", self.from, self.to),
        }
    }
}

impl Pen {
    /// A pen with this control port; its servers are one pool.
    pub fn new(control: Address, group: Box<[u8]>, protocol: u8) -> Pen {
        Pen {
            control,
            group,
            protocol,
            process: None,
            servers: Vec::new(),
            own: HashMap::new(),
            blacklisted: HashMap::new(),
        }
    }

    /// Sends one command, which needs a connection of its own, and reads the answer.
    fn ask(&self, command: &str) -> Result<String, Fault> {
        let what = || format!("`{command}` at pen's control port {}", self.control);
        self.control.exchange(&format!("{command}\n"), false).map_err(|error| {
            let cause = format!("pen is not running, or not with -C {}", self.control);
            Fault::Io { what: what(), error: Address::explain(error, &cause) }
        })
    }

    fn list(&self) -> Result<Vec<Server>, Fault> {
        let answer = self.ask("servers")?;
        servers(&answer, self.protocol).map_err(|line| self.not_understood("servers", &line))
    }

    fn not_understood(&self, command: &str, answer: &str) -> Fault {
        let what = match answer.trim() {
            "" => "nothing; its control_acl may refuse this address".into(),
            answer => format!("what is not understood: {}", answer.escape_debug().take(100).collect::<String>()),
        };
        Fault::Answer(format!("pen at {} answers `{command}` with {what}", self.control))
    }

    fn step(&self, server: &Server, endpoint: Endpoint, to: i64, blacklist: bool) -> Option<Step> {
        let fresh = self.blacklisted.get(&(server.index, endpoint)).is_some_and(|at| at.elapsed() < RENEW_AFTER);
        let due = blacklist && !fresh;
        let step = Step { index: server.index, endpoint, from: server.weight, to, blacklist };
        (server.weight != to || due).then_some(step)
    }

    /// The weights of the endpoints before `gwm`, each of all its servers; 1 for all if all of them had 0, as they have
    /// without `:WEIGHT`.
    fn usual(&self, endpoints: &[Endpoint]) -> Vec<u32> {
        let own = |endpoint: &Endpoint| {
            let servers = self.servers.iter().filter(|server| server.endpoint == Some(*endpoint));
            let own = servers.filter_map(|server| self.own.get(&(server.index, *endpoint)));
            own.fold(0, |sum: u32, own| sum.saturating_add(u32::try_from(*own).unwrap_or(0)))
        };
        let own: Vec<u32> = endpoints.iter().map(own).collect();
        if own.iter().all(|own| *own == 0) { vec![1; own.len()] } else { own }
    }

    fn take(&mut self, step: &Step) -> Result<Vec<String>, Fault> {
        let mut commands = Vec::new();
        if step.blacklist {
            commands.push(format!("server {} blacklist {BLACKLIST_SECONDS}", step.index));
        } else if step.from <= 0 {
            commands.push(format!("server {} blacklist 0", step.index));
        }
        if step.from != step.to {
            commands.push(format!("server {} weight {}", step.index, step.to));
        }
        let mut refused = Vec::new();
        for command in commands {
            let answer = self.ask(&command)?;
            if !answer.trim().is_empty() {
                refused.push(format!("pen refuses `{command}`: {}", answer.trim().escape_debug()));
            }
        }
        let key = (step.index, step.endpoint);
        if step.blacklist && refused.is_empty() {
            self.blacklisted.insert(key, Instant::now());
        } else {
            self.blacklisted.remove(&key);
        }
        Ok(refused)
    }
}

impl Connector for Pen {
    type Step = Step;

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        let process = self.ask("pid")?.trim().to_owned();
        if process.is_empty() || !process.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.not_understood("pid", &process));
        }
        let mode = self.ask("mode")?;
        match uses_weights(&mode) {
            Some(true) => {}
            Some(false) => {
                return Err(Fault::Answer(format!(
                    "pen at {0} does not use weights (mode: {1}): start pen with -W and without `prio`, or say \
                     `penctl {0} weight` and `penctl {0} no prio`",
                    self.control,
                    mode.trim().escape_debug()
                )));
            }
            None => return Err(self.not_understood("mode", &mode)),
        }
        let servers = self.list()?;
        if self.process.as_ref() != Some(&process) {
            if self.process.is_some() {
                tracing::info!("pen was restarted: its weights are its own again");
            }
            (self.own, self.blacklisted) = Default::default();
            self.process = Some(process);
        }
        for server in &servers {
            if let Some(endpoint) = server.endpoint {
                self.own.entry((server.index, endpoint)).or_insert(server.weight);
            }
        }
        self.servers = servers;
        let mut seen = HashSet::new();
        let endpoints = self.servers.iter().filter_map(|server| server.endpoint);
        let members = endpoints.filter(|endpoint| seen.insert(*endpoint));
        let members = members.map(|endpoint| MemberSpec { endpoint, label: Box::default() }).collect();
        Ok(vec![Pool { name: self.group.clone(), members }])
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        let Some(wanted) = wanted.iter().find(|wanted| wanted.pool == self.group) else { return Vec::new() };
        let known: HashSet<Endpoint> = self.servers.iter().filter_map(|server| server.endpoint).collect();
        let (endpoints, standings): (Vec<Endpoint>, Vec<Standing>) = wanted
            .members
            .iter()
            .filter(|member| known.contains(&member.endpoint))
            .map(|member| (member.endpoint, member.standing))
            .unzip();
        let weights = scale(&standings, &self.usual(&endpoints), HEAVIEST);
        let each = endpoints.iter().zip(standings).zip(weights);
        let mut servers: HashMap<Endpoint, u32> = HashMap::new();
        self.servers.iter().filter_map(|server| server.endpoint).for_each(|at| *servers.entry(at).or_default() += 1);
        let left = each.map(|((at, standing), weight)| (*at, (weight, servers[at], standing.serves())));
        let mut left: HashMap<_, _> = left.collect();
        let step = |server: &Server| {
            let endpoint = server.endpoint?;
            // An endpoint that pen has twice gets its share once: its servers have equal parts of the weight.
            let (weight, servers, serves) = left.get_mut(&endpoint)?;
            let part = weight.div_ceil(*servers);
            (*weight, *servers) = (*weight - part, *servers - 1);
            self.step(server, endpoint, part.into(), !*serves)
        };
        let mut steps: Vec<Step> = self.servers.iter().filter_map(step).collect();
        // Weights rise before others fall: pen refuses clients while no server has a weight.
        steps.sort_by_key(|step| step.to <= step.from);
        steps
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        if !pools.contains(&self.group) {
            return Vec::new();
        }
        // Without any weight of its own pen would refuse all clients.
        let none = self.own.values().all(|own| *own <= 0);
        let step = |server: &Server| {
            let endpoint = server.endpoint?;
            let own = *self.own.get(&(server.index, endpoint))?;
            self.step(server, endpoint, if none { 1 } else { own }, false)
        };
        let mut steps: Vec<Step> = self.servers.iter().filter_map(step).collect();
        steps.sort_by_key(|step| step.to <= step.from);
        steps
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        // Pen may have been restarted with fewer servers since the look.
        let present = self.list()?;
        for step in steps {
            let same = |server: &Server| server.index == step.index && server.endpoint == Some(step.endpoint);
            if !present.iter().any(same) {
                applied.refused.push(format!("pen has no server {} ({}) any more", step.index, step.endpoint));
                continue;
            }
            match self.take(&step)? {
                refused if refused.is_empty() => applied.done += 1,
                refused => applied.refused.extend(refused),
            }
        }
        Ok(())
    }

    fn observe(&mut self) -> Result<Observed, Fault> {
        // The sums of all servers of an endpoint, in the order of the first ones.
        let mut all: Vec<Observation> = Vec::new();
        let mut places: HashMap<Endpoint, usize> = HashMap::new();
        let add = |to: &mut Option<u64>, more: Option<u64>| {
            *to = to.map_or(more, |to| Some(to.saturating_add(more.unwrap_or(0))));
        };
        for server in self.list()? {
            let Some(endpoint) = server.endpoint else { continue };
            let at = *places.entry(endpoint).or_insert(all.len());
            if at == all.len() {
                all.push(Observation::new(&self.group, endpoint));
            }
            let one = &mut all[at];
            add(&mut one.open_connections, Some(server.connections));
            add(&mut one.weight, Some(server.weight.try_into().unwrap_or(0)));
            add(&mut one.bytes.0, server.bytes.0);
            add(&mut one.bytes.1, server.bytes.1);
        }
        Ok(Observed { members: all, ..Observed::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connect::WantedMember;

    #[test]
    fn an_endpoint_that_pen_has_twice_gets_its_share_once() {
        let endpoint = |port| Endpoint::new([10, 0, 0, 1].into(), 6, port);
        let server = |index, port, weight| {
            let (connections, bytes) = (0, (None, None));
            Server { index, endpoint: Some(endpoint(port)), connections, bytes, weight }
        };
        let mut pen = Pen::new(Address::parse("/run/pen.ctl").unwrap(), (*b"web").into(), 6);
        pen.servers = vec![server(0, 80, 3), server(1, 81, 6), server(2, 80, 4)];
        pen.own = pen.servers.iter().map(|s| ((s.index, s.endpoint.unwrap()), s.weight)).collect();
        let weights = |standings: [Standing; 2]| {
            let member = |(port, standing)| WantedMember { endpoint: endpoint(port), label: Box::default(), standing };
            let members = [80, 81].into_iter().zip(standings).map(member).collect();
            let wanted = Wanted { pool: (*b"web").into(), members, session_age: Duration::ZERO };
            let mut steps = pen.plan(&[wanted]);
            steps.sort_by_key(|step| step.index);
            steps.iter().map(|step| (step.index, step.to)).collect::<Vec<_>>()
        };
        assert_eq!(weights([Standing::Serving(10), Standing::Serving(5)]), [(0, 128), (1, 128), (2, 128)]);
        assert_eq!(weights([Standing::Serving(1), Standing::Serving(256)]), [(0, 1), (1, 256), (2, 0)]);
        assert_eq!(weights([Standing::Usual; 2]), [(0, 4), (2, 3)], "their own weights together");
    }
}

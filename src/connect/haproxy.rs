//! HAProxy, by the runtime API of its stats socket or its master socket.
//!
//! HAProxy itself knows the weight of its configuration (100 %), so nothing must be remembered to restore it. With
//! `drain_by_state`, a server in state `drain` with weight 0 was drained by a connector; any other state stays.

mod answers;
mod socket;

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

pub use answers::{Server, answers, process, servers};
pub use socket::Socket;

use super::{Applied, Connector, Fault, MemberSpec, Pool, Standing, Wanted, scale::scale};
use crate::{pattern::Pattern, sasp::Endpoint};

/// The heaviest server of a backend has this weight: HAProxy's limit.
const HEAVIEST: u32 = 256;

/// A running HAProxy.
pub struct HaProxy {
    socket: Socket,
    /// The backends to use; all if empty.
    backends: Vec<Pattern>,
    /// Quiesced servers get the state `drain`, too.
    drain_by_state: bool,
    /// The process that answered last; another one has the weights of its configuration again.
    process: Option<String>,
    /// What the last look saw of the backends to use.
    servers: Vec<Server>,
    /// Backends that take 0 % and 100 % only, as HAProxy has said.
    static_backends: HashSet<String>,
}

/// A change of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    backend: String,
    server: String,
    from: u32,
    to: u32,
    /// Say the weight as 0 % or 100 % of the one in the configuration.
    percent: bool,
    /// Whether to begin or to end the state `drain`.
    drain: Option<bool>,
}

impl Step {
    fn commands(&self) -> Vec<String> {
        let Step { backend, server, to, .. } = self;
        let weight = match (self.percent, to) {
            (false, to) => format!("set server {backend}/{server} weight {to}"),
            (true, 0) => format!("set server {backend}/{server} weight 0%"),
            (true, _) => format!("set server {backend}/{server} weight 100%"),
        };
        let weight = (self.from != self.to).then_some(weight);
        let state = |state| Some(format!("set server {backend}/{server} state {state}"));
        // Between the two, the server has weight 0: the next plan completes what a crash has left.
        let (first, second) = match self.drain {
            None => (weight, None),
            Some(true) => (weight, state("drain")),
            Some(false) => (state("ready"), weight),
        };
        first.into_iter().chain(second).collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: ", self.backend, self.server)?;
        if self.from != self.to {
            write!(f, "weight {} -> {}", self.from, self.to)?;
        }
        let comma = if self.from == self.to { "" } else { ", " };
        match self.drain {
            None => Ok(()),
            Some(true) => write!(f, "{comma}state drain"),
            Some(false) => write!(f, "{comma}state ready"),
        }
    }
}

impl HaProxy {
    /// A HAProxy with this socket; without patterns, all its backends are used.
    pub fn new(socket: Socket, backends: Vec<Pattern>, drain_by_state: bool) -> HaProxy {
        HaProxy {
            socket,
            backends,
            drain_by_state,
            process: None,
            servers: Vec::new(),
            static_backends: HashSet::new(),
        }
    }

    fn is_used(&self, server: &Server) -> bool {
        let fits = |pattern: &Pattern| pattern.fits(server.backend.as_bytes());
        server.endpoint.is_some() && (self.backends.is_empty() || self.backends.iter().any(fits))
    }

    /// The step to this weight; `None` if there is nothing to do, or the state of the server is not ours to change.
    fn step(&self, server: &Server, to: u32, percent: bool, drain: bool) -> Option<Step> {
        let mut state = None;
        if self.drain_by_state {
            if server.is_drained() && server.weight != 0 || drain && server.is_in_maintenance() {
                return None;
            }
            state = (server.is_drained() != drain && !server.is_in_maintenance()).then_some(drain);
        }
        let step = Step {
            backend: server.backend.clone(),
            server: server.name.clone(),
            from: server.weight,
            to,
            percent,
            drain: state,
        };
        (server.weight != to || state.is_some()).then_some(step)
    }

    fn steps_of(&self, wanted: &Wanted) -> Vec<Step> {
        let servers: Vec<&Server> =
            self.servers.iter().filter(|server| server.backend.as_bytes() == &*wanted.pool).collect();
        let standings: HashMap<Endpoint, Standing> =
            wanted.members.iter().map(|member| (member.endpoint, member.standing)).collect();
        let known = servers.into_iter().filter_map(|server| Some((server, *standings.get(&server.endpoint?)?)));
        let (servers, standings): (Vec<&Server>, Vec<Standing>) = known.unzip();
        let usual: Vec<u32> = servers.iter().map(|server| server.own_weight).collect();
        let weights = scale(&standings, &usual, HEAVIEST);
        let step = |((server, standing), weight): ((&Server, Standing), u32)| {
            let percent = self.static_backends.contains(&server.backend);
            let weight = match (percent, standing.serves()) {
                (false, _) => weight,
                (true, true) => server.own_weight,
                (true, false) => 0,
            };
            self.step(server, weight, percent, standing == Standing::Quiesced)
        };
        servers.into_iter().zip(standings).zip(weights).filter_map(step).collect()
    }

    /// What became of one step; an error is a fault that all steps would have.
    fn judge(&mut self, step: &Step, answers: &[String], applied: &mut Applied) -> Result<(), Fault> {
        let Some(answer) = answers.iter().find(|answer| !answer.is_empty()) else {
            applied.done += 1;
            return Ok(());
        };
        if answer.starts_with("Permission denied") {
            return Err(Fault::Answer(format!(
                "HAProxy at {} does not allow to set weights: give its `stats socket` the words `level admin`",
                self.socket
            )));
        }
        if answer.contains("static LB algorithm") {
            if self.static_backends.insert(step.backend.clone()) {
                let backend = &step.backend;
                applied.refused.push(format!(
                    "backend {backend} has a static algorithm, which takes no weights while it runs: a server gets its \
                     configured weight, or none; `balance roundrobin` or `hash-type consistent` take weights"
                ));
            }
            return Ok(());
        }
        applied.refused.push(format!("{step}: HAProxy says: {}", answer.escape_debug()));
        Ok(())
    }
}

impl Connector for HaProxy {
    type Step = Step;

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        let answers = self.socket.ask(&["show info".into(), "show servers state".into()])?;
        let not_understood =
            |answer: &str| self.socket.fault(&format!("is not understood: {}", answers::excerpt(answer)));
        let process = process(&answers[0]).ok_or_else(|| not_understood(&answers[0]))?;
        let servers = servers(&answers[1]).map_err(|line| not_understood(&line))?;
        if self.process.as_ref() != Some(&process) {
            if self.process.is_some() {
                tracing::info!(
                    process,
                    "HAProxy was reloaded or restarted: its weights are those of its configuration"
                );
            }
            self.static_backends.clear();
            self.process = Some(process);
        }
        self.servers = servers.into_iter().filter(|server| self.is_used(server)).collect();
        let mut pools: Vec<Pool> = Vec::new();
        let mut seen = HashSet::new();
        for server in &self.servers {
            let Some(endpoint) = server.endpoint else { continue };
            if pools.last().is_none_or(|pool| *pool.name != *server.backend.as_bytes()) {
                pools.push(Pool { name: server.backend.as_bytes().into(), members: Vec::new() });
                seen.clear();
            }
            if seen.insert(endpoint) {
                let pool = pools.last_mut().expect("one was pushed");
                pool.members.push(MemberSpec { endpoint, label: server.name.as_bytes().into() });
            }
        }
        Ok(pools)
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        let mut steps: Vec<Step> = wanted.iter().flat_map(|wanted| self.steps_of(wanted)).collect();
        // Weights rise before others fall: a backend without any weight refuses requests.
        steps.sort_by_key(|step| step.to <= step.from);
        steps
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let pools: HashSet<&[u8]> = pools.iter().map(|name| &**name).collect();
        let own = self.servers.iter().filter(|server| pools.contains(server.backend.as_bytes()));
        let mut steps: Vec<Step> = own.filter_map(|server| self.step(server, server.own_weight, true, false)).collect();
        steps.sort_by_key(|step| step.to <= step.from);
        steps
    }

    fn apply(&mut self, steps: Vec<Step>) -> Result<Applied, Fault> {
        let commands: Vec<Vec<String>> = steps.iter().map(Step::commands).collect();
        let answers = self.socket.ask(&commands.concat())?;
        let mut answers = answers.as_slice();
        let mut applied = Applied::default();
        for (step, commands) in steps.iter().zip(commands) {
            let (own, rest) = answers.split_at(commands.len());
            answers = rest;
            self.judge(step, own, &mut applied)?;
        }
        Ok(applied)
    }
}

#[cfg(test)]
mod tests;

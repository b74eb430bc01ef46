//! HAProxy, by the runtime API of its stats socket or its master socket.
//!
//! HAProxy itself knows the weight of its configuration (100 %), so nothing must be remembered to restore it. With
//! `drain_by_state`, a server in state `drain` with weight 0 was drained by a connector; any other state stays. A server
//! that a connector has added is known by its name, `gwm-ADDRESS:PORT`.

mod answers;
mod socket;
mod stats;
mod step;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

pub use answers::{Server, answers, backends, process, servers};
pub use socket::Socket;
pub use stats::{Stat, stats};
use step::Change;
pub use step::Step;

use super::{Applied, Connector, Fault, MemberSpec, Observation, Observed, Pool, Standing, Wanted, scale::scale};
use crate::{
    pattern::Pattern,
    sasp::{Endpoint, component::TCP},
};

/// The heaviest server of a backend has this weight: HAProxy's limit.
const HEAVIEST: u32 = 256;

/// The most names of backends in a line for a person.
const NAMES: usize = 10;

/// What to do with HAProxy.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The backends to use; all if empty.
    pub backends: Vec<Pattern>,
    /// Quiesced servers get the state `drain`, too.
    pub drain_by_state: bool,
    /// Members that register themselves become servers.
    pub dynamic: Option<Dynamic>,
}

/// How servers are added and removed.
#[derive(Clone, Debug)]
pub struct Dynamic {
    /// More words of `add server`.
    pub words: String,
    /// How old a session must be before a member that is not listed counts as one that has left.
    pub leave_after: Duration,
}

/// A running HAProxy.
pub struct HaProxy {
    socket: Socket,
    settings: Settings,
    /// The process that answered last; another one has the weights of its configuration again.
    process: Option<String>,
    /// What the last look saw of the backends to use.
    servers: Vec<Server>,
    /// Backends that take 0 % and 100 % only, as HAProxy has said.
    static_backends: HashSet<String>,
    /// The patterns of `--backend` that no backend has fitted at the last look.
    unfitted: Vec<Pattern>,
}

impl HaProxy {
    /// A HAProxy with this socket.
    pub fn new(socket: Socket, settings: Settings) -> HaProxy {
        HaProxy {
            socket,
            settings,
            process: None,
            servers: Vec::new(),
            static_backends: HashSet::new(),
            unfitted: Vec::new(),
        }
    }

    fn is_used(&self, backend: &str) -> bool {
        let backends = &self.settings.backends;
        backends.is_empty() || backends.iter().any(|pattern| pattern.fits(backend.as_bytes()))
    }

    /// Notes which patterns of `--backend` no backend fits, and logs those that were not among them before.
    fn note_unfitted(&mut self, backends: &BTreeSet<&str>) {
        let is_unfitted = |pattern: &&Pattern| !backends.iter().any(|backend| pattern.fits(backend.as_bytes()));
        let unfitted: Vec<Pattern> = self.settings.backends.iter().filter(is_unfitted).cloned().collect();
        for pattern in unfitted.iter().filter(|pattern| !self.unfitted.contains(pattern)) {
            tracing::warn!("no backend fits --backend {pattern}; HAProxy has: {}", listed(backends));
        }
        self.unfitted = unfitted;
    }

    /// Whether a connector has added this server.
    fn is_own(&self, server: &Server) -> bool {
        self.settings.dynamic.is_some() && server.endpoint.is_some_and(|endpoint| server.name == own_name(endpoint))
    }

    /// The step to this weight; `None` if there is nothing to do, or the state of the server is not ours to change.
    fn step(&self, server: &Server, to: u32, percent: bool, drain: bool) -> Option<Step> {
        let mut state = None;
        if self.settings.drain_by_state {
            if server.is_drained() && server.weight != 0 || drain && server.is_in_maintenance() {
                return None;
            }
            state = (server.is_drained() != drain && !server.is_in_maintenance()).then_some(drain);
        }
        let change = Change::Weight { from: server.weight, to, percent, drain: state };
        let step = Step { backend: server.backend.clone(), server: server.name.clone(), change };
        (server.weight != to || state.is_some()).then_some(step)
    }

    fn steps_of(&self, wanted: &Wanted) -> Vec<Step> {
        let servers: Vec<&Server> =
            self.servers.iter().filter(|server| server.backend.as_bytes() == &*wanted.pool).collect();
        let standings: HashMap<Endpoint, Standing> =
            wanted.members.iter().map(|member| (member.endpoint, member.standing)).collect();
        let (leaving, servers): (Vec<&Server>, Vec<&Server>) =
            servers.into_iter().partition(|server| self.leaves(server, &standings, wanted.session_age));
        let joining = self.joining(&wanted.pool, &servers, &standings, wanted);
        let known = servers.iter().filter_map(|server| Some((*server, *standings.get(&server.endpoint?)?)));
        let (servers, mut standings): (Vec<&Server>, Vec<Standing>) = known.unzip();
        let mut usual: Vec<u32> = servers.iter().map(|server| server.own_weight).collect();
        // A new server counts as much as the first one of its backend.
        let own_weight = usual.first().map_or(1, |own| *own);
        usual.extend(joining.iter().map(|_| own_weight));
        standings.extend(joining.iter().map(|(_, standing)| *standing));
        let weights = scale(&standings, &usual, HEAVIEST);
        let step = |((server, standing), weight): ((&Server, &Standing), &u32)| {
            let percent = self.static_backends.contains(&server.backend);
            let weight = match (percent, standing.serves()) {
                (false, _) => *weight,
                (true, true) => server.own_weight,
                (true, false) => 0,
            };
            self.step(server, weight, percent, *standing == Standing::Quiesced)
        };
        let new_weights = weights[servers.len()..].to_vec();
        let backend = || String::from_utf8_lossy(&wanted.pool).into_owned();
        let add = |((endpoint, _), weight): ((Endpoint, Standing), u32)| Step {
            backend: backend(),
            server: own_name(endpoint),
            change: Change::Add { endpoint, own_weight, weight, words: self.words() },
        };
        let remove = |server: &Server| Step { backend: backend(), server: server.name.clone(), change: Change::Remove };
        let changed = servers.into_iter().zip(&standings).zip(&weights).filter_map(step);
        let added = joining.into_iter().zip(new_weights).map(add);
        changed.chain(added).chain(leaving.into_iter().map(remove)).collect()
    }

    fn words(&self) -> String {
        self.settings.dynamic.as_ref().map_or_else(String::new, |dynamic| dynamic.words.clone())
    }

    /// Whether a server that a connector has added must go: its member is down, which a member that left is, too; or an old
    /// session does not list the member.
    fn leaves(&self, server: &Server, standings: &HashMap<Endpoint, Standing>, session_age: Duration) -> bool {
        let (Some(dynamic), Some(endpoint), true) = (&self.settings.dynamic, server.endpoint, self.is_own(server))
        else {
            return false;
        };
        match standings.get(&endpoint) {
            Some(standing) => *standing == Standing::Down,
            None => session_age >= dynamic.leave_after,
        }
    }

    /// Members that may get work and are no servers yet.
    fn joining(
        &self,
        pool: &[u8],
        servers: &[&Server],
        standings: &HashMap<Endpoint, Standing>,
        wanted: &Wanted,
    ) -> Vec<(Endpoint, Standing)> {
        let is_static = self.static_backends.iter().any(|backend| backend.as_bytes() == pool);
        if self.settings.dynamic.is_none() || is_static {
            return Vec::new();
        }
        let known: HashSet<Endpoint> = servers.iter().filter_map(|server| server.endpoint).collect();
        let members = wanted.members.iter().map(|member| member.endpoint);
        let new = members.filter(|member| member.protocol == TCP && member.port > 0 && !known.contains(member));
        new.map(|member| (member, standings[&member])).filter(|(_, standing)| standing.serves()).collect()
    }

    /// What became of one step, from the lines of its answers; an error is a fault that all steps would have.
    fn judge(&mut self, step: &Step, answers: &[String], applied: &mut Applied) -> Result<(), Fault> {
        let news = ["New server registered.", "Server deleted."];
        let Some(answer) = answers.iter().find(|answer| !answer.is_empty() && !news.contains(&answer.as_str())) else {
            applied.done += 1;
            return Ok(());
        };
        if step.change == Change::Remove && answer.contains("still has") {
            // Connections are left: the next look tries again.
            return Ok(());
        }
        if answer.starts_with("Permission denied") {
            return Err(self.no_right());
        }
        if answer.contains("static LB algorithm") || answer.contains("must use a dynamic load balancing") {
            if self.static_backends.insert(step.backend.clone()) {
                let backend = &step.backend;
                applied.refused.push(format!(
                    "backend {backend} has a static algorithm, which takes no weights and no new servers while it \
                     runs: a server gets its configured weight, or none; `balance roundrobin` or `hash-type consistent` take weights"
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
        let mut commands = vec!["show info".into(), "show servers state".into()];
        if self.settings.dynamic.is_some() {
            commands.push("show backend".into());
        }
        let answers = self.socket.ask(&commands)?;
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
        let empty: Vec<&str> = answers.get(2).map(|names| backends(names).collect()).unwrap_or_default();
        self.note_unfitted(&servers.iter().map(|server| &*server.backend).chain(empty.iter().copied()).collect());
        let has_endpoint = |server: &Server| server.endpoint.is_some();
        self.servers =
            servers.into_iter().filter(|server| has_endpoint(server) && self.is_used(&server.backend)).collect();
        let mut pools: Vec<Pool> = Vec::new();
        let mut seen = HashSet::new();
        for server in &self.servers {
            let Some(endpoint) = server.endpoint else { continue };
            if pools.last().is_none_or(|pool| *pool.name != *server.backend.as_bytes()) {
                pools.push(Pool { name: server.backend.as_bytes().into(), members: Vec::new() });
                seen.clear();
            }
            // What members have registered themselves is not registered again.
            if !self.is_own(server) && seen.insert(endpoint) {
                let pool = pools.last_mut().expect("one was pushed");
                pool.members.push(MemberSpec { endpoint, label: server.name.as_bytes().into() });
            }
        }
        let with_servers: HashSet<Box<[u8]>> = pools.iter().map(|pool| pool.name.clone()).collect();
        let empty = empty.into_iter().filter(|name| self.is_used(name)).map(|name| Box::from(name.as_bytes()));
        let empty = empty.filter(|name| !with_servers.contains(name));
        pools.extend(empty.map(|name| Pool { name, members: Vec::new() }));
        Ok(pools)
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        let mut steps: Vec<Step> = wanted.iter().flat_map(|wanted| self.steps_of(wanted)).collect();
        // Weights rise before others fall: a backend without any weight refuses requests.
        steps.sort_by_key(|step| !step.gives());
        steps
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let pools: HashSet<&[u8]> = pools.iter().map(|name| &**name).collect();
        let own = self.servers.iter().filter(|server| pools.contains(server.backend.as_bytes()));
        let mut steps: Vec<Step> = own.filter_map(|server| self.step(server, server.own_weight, true, false)).collect();
        steps.sort_by_key(|step| !step.gives());
        steps
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        let (weights, servers): (Vec<Step>, Vec<Step>) =
            steps.into_iter().partition(|step| matches!(step.change, Change::Weight { .. }));
        let (added, removed): (Vec<Step>, Vec<Step>) = servers.into_iter().partition(Step::gives);
        self.apply_each(&added, applied)?;
        let commands: Vec<Vec<String>> = weights.iter().map(Step::commands).collect();
        let answers = self.socket.ask(&commands.concat())?;
        let mut answers = answers.as_slice();
        for (step, commands) in weights.iter().zip(commands) {
            let (own, rest) = answers.split_at(commands.len());
            answers = rest;
            self.judge(step, own, applied)?;
        }
        self.apply_each(&removed, applied)
    }

    fn check(&mut self) -> Result<(), Fault> {
        if let Some(pattern) = self.unfitted.first() {
            let what = format!("HAProxy at {} has no backend that fits --backend {pattern}", self.socket);
            return Err(Fault::Answer(what));
        }
        let answers = self.socket.ask(&["show cli level".into()])?;
        if answers[0].trim() == "admin" { Ok(()) } else { Err(self.no_right()) }
    }

    fn observe(&mut self) -> Result<Observed, Fault> {
        let answers = self.socket.ask(&[stats::COMMAND.into()])?;
        let stats = stats(&answers[0])
            .map_err(|line| self.socket.fault(&format!("is not understood: {}", answers::excerpt(&line))))?;
        let stats: HashMap<(&str, &str), &Stat> =
            stats.iter().map(|stat| ((&*stat.backend, &*stat.name), stat)).collect();
        let observation = |server: &Server| {
            let stat = stats.get(&(&*server.backend, &*server.name))?;
            Some(Observation {
                open_connections: stat.sessions,
                connections: stat.sessions_total,
                bytes: stat.bytes,
                errors: stat.errors,
                response_seconds: stat.response_ms.map(|ms| ms as f64 / 1000.0),
                weight: Some(server.weight.into()),
                ..Observation::new(server.backend.as_bytes(), server.endpoint?)
            })
        };
        Ok(Observed { members: self.servers.iter().filter_map(observation).collect(), ..Observed::default() })
    }
}

impl HaProxy {
    /// The socket is not of an admin.
    fn no_right(&self) -> Fault {
        Fault::Answer(format!(
            "HAProxy at {} does not allow to set weights: give its `stats socket` the words `level admin`",
            self.socket
        ))
    }

    /// Takes steps whose answers HAProxy does not always end, on a connection for each.
    fn apply_each(&mut self, steps: &[Step], applied: &mut Applied) -> Result<(), Fault> {
        for step in steps {
            let lines = self.socket.lines(&step.commands())?;
            self.judge(step, &lines, applied)?;
        }
        Ok(())
    }
}

/// Names of backends, for a person.
fn listed(backends: &BTreeSet<&str>) -> String {
    let names: Vec<String> = backends.iter().take(NAMES).map(|name| answers::excerpt(name)).collect();
    match backends.len().saturating_sub(NAMES) {
        0 if names.is_empty() => "none".into(),
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// The name of a server that a connector adds.
fn own_name(endpoint: Endpoint) -> String {
    format!("gwm-{}:{}", endpoint.ip(), endpoint.port)
}

#[cfg(test)]
mod tests;

//! Three nodes, a store, load balancers and members, and faults between them; what clients were promised is kept.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use gwm::{
    coordinator::{Act, ConnectionId, Pattern, Saying, Word},
    sasp::{Endpoint, EntryFlags},
    time::Time,
};

use super::{
    etcd::Etcd,
    node::{LEASE, Node},
};
use crate::wire;

const NAMES: [&str; 3] = ["a", "b", "c"];
const LBS: [&str; 2] = ["LB1", "LB2"];
const GROUPS: [&str; 2] = ["G", "H"];
const MEMBERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Milliseconds of a step.
const STEP: u64 = 10;

/// All nodes show the same so many milliseconds after all faults: a lease, sessions of load balancers that begin again
/// (clients pause up to two seconds), and two seconds.
const HEALING: u64 = LEASE + 4000;

/// Nothing changes any more for so long.
const CALM: u64 = 1000;

/// How a schedule is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Milliseconds with faults.
    pub(super) length: u64,
}

/// A membership as somebody was promised it.
type Membership = (&'static str, &'static str, &'static str);

#[derive(Clone, Copy, Default, Debug)]
struct Promise {
    /// It is there, or not; `None`: nobody knows.
    is_there: Option<bool>,
    /// The store had it.
    is_safe: bool,
    /// Which node promised, and when.
    node: usize,
    at: u64,
    by_lb: bool,
}

/// A request on its way.
struct Asked {
    membership: Option<Membership>,
    registers: bool,
}

struct Client {
    /// A load balancer's UID; `None`: members speak.
    lb: Option<&'static str>,
    at: Option<(usize, ConnectionId)>,
    asked: Option<Asked>,
    /// What to ask first.
    todo: Vec<String>,
    /// Not before this time.
    pause: u64,
}

pub(super) struct World {
    rng: Rng,
    now: u64,
    etcd: Etcd,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    promises: BTreeMap<Membership, Promise>,
    /// Some change of these was done by a node without the store, or perhaps, or by nodes that had not heard of each other:
    /// a registration stays if the node that removed the member had not seen it.
    unsure: BTreeSet<Membership>,
    /// A node died while its state on disk was ahead of the store: what it has stays, also if it was removed meanwhile.
    is_union: bool,
    /// Load balancers are never forgotten, nothing is restored from the disk as a union, and the store is not lost.
    is_strict: bool,
    hold_time: u64,
    heal_at: u64,
    faults: bool,
    last_skew: u64,
    pub(super) events: Vec<String>,
}

fn member_letter(endpoint: &Endpoint) -> String {
    wire::endpoint_name(endpoint)
}

impl World {
    pub(super) fn new(plan: Plan) -> World {
        let mut rng = Rng::with_seed(plan.seed);
        let hold_time = if rng.u8(..4) == 0 { 1500 } else { 600_000 };
        let has_disk = rng.bool();
        let nodes: Vec<Node> = NAMES.iter().map(|name| Node::new(name, rng.u64(..300), hold_time, has_disk)).collect();
        let mut clients: Vec<Client> = LBS.iter().map(|lb| client(Some(lb))).collect();
        clients.push(client(None));
        clients.push(client(None));
        World {
            rng,
            now: 0,
            etcd: Etcd::default(),
            nodes,
            clients,
            promises: BTreeMap::new(),
            unsure: BTreeSet::new(),
            is_union: false,
            is_strict: hold_time > 100_000,
            hold_time,
            heal_at: plan.length,
            faults: true,
            last_skew: 0,
            events: Vec::new(),
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let line = format!("{:>6} {}", self.now, text());
        self.events.push(line);
    }

    /// Runs the schedule and checks what must hold; the error is what does not.
    pub(super) fn run(&mut self) -> Result<(), String> {
        while self.now < self.heal_at {
            self.step()?;
        }
        self.heal();
        // A lease ends, sessions are opened again, what is left is carried to all; and then it stays so.
        let (end, mut equal_since) = (self.now + HEALING, None);
        while equal_since.is_none_or(|since| self.now < since + CALM) {
            self.step()?;
            if self.now.is_multiple_of(100) {
                match self.difference() {
                    None => equal_since = equal_since.or(Some(self.now)),
                    Some(difference) if self.now > end => return Err(format!("nodes differ: {difference}")),
                    Some(_) => equal_since = None,
                }
            }
        }
        self.check_promises()
    }

    fn heal(&mut self) {
        self.faults = false;
        self.note(|| "all heals".into());
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            (node.up_cut, node.down_cut, node.members_cut) = (false, false, false);
            if !node.is_alive() {
                self.start(at);
            }
        }
    }

    fn start(&mut self, at: usize) {
        self.note(|| format!("{} starts", NAMES[at]));
        self.nodes[at].start(self.now);
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += STEP;
        self.etcd.expire(self.now);
        if self.faults {
            self.fault();
        }
        for at in 0..self.nodes.len() {
            self.nodes[at].step_link(self.now, &mut self.etcd, &mut self.rng);
            self.nodes[at].step(self.now, &mut self.rng);
        }
        for at in 0..self.clients.len() {
            self.step_client(at);
        }
        if self.now.is_multiple_of(50) { self.check_farms() } else { Ok(()) }
    }

    fn fault(&mut self) {
        if self.now == STEP {
            for at in 0..self.nodes.len() {
                self.start(at);
            }
        }
        if self.rng.u32(..40) > 0 {
            return;
        }
        let at = self.rng.usize(..self.nodes.len());
        match self.rng.u8(..16) {
            0 | 1 => {
                let cut = self.rng.bool();
                self.nodes[at].up_cut = cut;
                self.note(|| format!("{} to the store: cut {cut}", NAMES[at]));
            }
            2 | 3 => {
                let cut = self.rng.bool();
                self.nodes[at].down_cut = cut;
                self.note(|| format!("the store to {}: cut {cut}", NAMES[at]));
            }
            4 | 5 => {
                let cut = self.rng.u8(..3) > 0;
                (self.nodes[at].up_cut, self.nodes[at].down_cut) = (cut, cut);
                self.note(|| format!("{} and the store: cut {cut}", NAMES[at]));
            }
            6 => {
                // The other nodes see the members, and this one has seen more than one.
                let sees = self.nodes.iter().all(|node| !node.members_cut) && self.sees_members(at);
                let cut = self.rng.bool() && sees;
                self.nodes[at].members_cut = cut;
                self.note(|| format!("{} and the members: cut {cut}", NAMES[at]));
            }
            7 if self.nodes[at].is_alive() => self.kill(at),
            8 | 9 if !self.nodes[at].is_alive() => self.start(at),
            10 => {
                let until = self.now + self.rng.u64(..2000);
                let client = self.rng.usize(..self.clients.len());
                self.leave(client);
                self.clients[client].pause = until;
            }
            11 => self.say(at),
            12 if self.rng.u8(..20) == 0 => {
                self.note(|| "the store is lost".into());
                self.etcd.reset();
                self.is_strict = false;
            }
            13 if self.rng.u8(..4) == 0 => {
                // A clock jumps ahead.
                self.last_skew += 200;
                self.nodes[at].skew += self.last_skew;
            }
            _ => {}
        }
    }

    /// The node knows that the members that never leave are up.
    fn sees_members(&mut self, at: usize) -> bool {
        let up = EntryFlags::CONTACT | EntryFlags::CONFIDENT;
        let rows = self.nodes[at].members(self.now);
        rows.iter().filter(|row| *row.group == *b"S" && row.entry.flags.contains(up)).count() >= 3
    }

    fn kill(&mut self, at: usize) {
        self.note(|| format!("{} is killed", NAMES[at]));
        let has_disk = self.nodes[at].has_disk();
        self.is_union |= self.nodes[at].is_ahead();
        self.nodes[at].kill();
        for client in 0..self.clients.len() {
            if self.clients[client].at.is_some_and(|(node, _)| node == at) {
                self.lose(client);
            }
        }
        for promise in self.promises.values_mut() {
            let only_here = promise.node == at && !promise.is_safe;
            if only_here && !has_disk {
                promise.is_there = None;
            }
        }
    }

    fn say(&mut self, at: usize) {
        let address = Some([10, 0, 0, self.rng.u8(1..5)].into());
        let pattern = Pattern { address, ..Pattern::default() };
        let saying = if self.rng.bool() { Saying::Quiesce } else { Saying::Resume };
        let (reason, by, from) = ("r".into(), NAMES[at].into(), "f".into());
        let word = Word { number: 0, saying, pattern, reason, by, from, at: Time::default(), expires: None };
        self.note(|| format!("{} hears: {word}", NAMES[at]));
        self.nodes[at].act(self.now, Act::Say(word));
    }

    /// A client's connection ends, from whichever side.
    fn lose(&mut self, client: usize) {
        self.clients[client].at = None;
        let asked = self.clients[client].asked.take();
        if let Some(membership) = asked.and_then(|asked| asked.membership) {
            self.unsure.insert(membership);
            self.promises.entry(membership).or_default().is_there = None;
        }
    }

    fn leave(&mut self, client: usize) {
        if let Some((node, connection)) = self.clients[client].at {
            self.lose(client);
            self.nodes[node].close(self.now, connection);
        }
    }

    fn step_client(&mut self, client: usize) {
        self.take_replies();
        if self.now < self.clients[client].pause || self.clients[client].asked.is_some() {
            return;
        }
        let Some((node, connection)) = self.clients[client].at else { return self.connect(client) };
        let Client { lb, todo, .. } = &mut self.clients[client];
        let lb = *lb;
        let text = match todo.pop() {
            Some(text) => text,
            None if !self.faults || self.rng.u8(..10) > 0 => return,
            None => {
                let of = lb.unwrap_or(LBS[self.rng.usize(..LBS.len())]);
                let group = GROUPS[self.rng.usize(..GROUPS.len())];
                let member = MEMBERS[self.rng.usize(..MEMBERS.len())];
                let verb = match self.rng.u8(..8) {
                    0..5 => "register",
                    5 | 6 => "deregister",
                    _ => "set",
                };
                format!(
                    "{} {verb} {of}/{group} {member}{}",
                    if lb.is_some() { "lb" } else { "member" },
                    if verb == "set" { "=07q" } else { "" }
                )
            }
        };
        let membership = ["register ", "deregister "].iter().find_map(|verb| {
            let (_, rest) = text.split_once(verb)?;
            let (of, rest) = rest.split_once('/')?;
            let (group, member) = rest.split_once(' ')?;
            let pick = |list: &[&'static str], name: &str| list.iter().copied().find(|known| *known == name);
            Some((pick(&LBS, of)?, pick(&GROUPS, group)?, pick(&MEMBERS, member)?))
        });
        let registers = !text.contains("deregister");
        let asked = |client: &Client| client.asked.as_ref().and_then(|asked| asked.membership);
        if membership.is_some() && self.clients.iter().any(|client| asked(client) == membership) {
            return; // nobody could say which of two was done last
        }
        if let Some(membership) = membership {
            self.promises.entry(membership).or_default().is_there = None;
        }
        self.note(|| format!("{} to {}: {text}", lb.unwrap_or("member"), NAMES[node]));
        self.clients[client].asked = Some(Asked { membership, registers });
        let bytes = wire::parse(&text).bytes(1);
        self.nodes[node].request(self.now, connection, &bytes);
    }

    fn connect(&mut self, client: usize) {
        let node = self.rng.usize(..self.nodes.len());
        let Some(connection) = self.nodes[node].open() else { return };
        let lb = self.clients[client].lb;
        let mut todo = Vec::new();
        if let Some(lb) = lb {
            // What no node has promised for sure, the load balancer says again.
            for (&(of, group, member), promise) in &self.promises {
                if of == lb && promise.by_lb && (!promise.is_safe || promise.is_there.is_none()) {
                    todo.push(format!("lb register {lb}/{group} {member}"));
                }
            }
            todo.push(format!("lb register {lb}/S x y z"));
            todo.push(format!("state {lb} 7F trust"));
        }
        let client = &mut self.clients[client];
        (client.at, client.todo) = (Some((node, connection)), todo);
    }

    fn take_replies(&mut self) {
        for (at, name) in NAMES.into_iter().enumerate() {
            for connection in std::mem::take(&mut self.nodes[at].closed) {
                let closed = self.clients.iter().position(|client| client.at == Some((at, connection)));
                if let Some(client) = closed {
                    self.note(|| format!("{name} closes a connection of {:?}", LBS.get(client)));
                    self.lose(client);
                }
            }
            for reply in std::mem::take(&mut self.nodes[at].replies) {
                let asker = self.clients.iter().position(|client| client.at == Some((at, reply.connection)));
                let Some(client) = asker else { continue };
                let Some(Asked { membership, registers }) = self.clients[client].asked.take() else { continue };
                let lb = self.clients[client].lb;
                self.note(|| format!("{name} answers {:02X}, safe {}", reply.code, reply.is_safe));
                let Some(membership) = membership else { continue };
                let by_lb = lb.is_some();
                let before = self.promises.get(&membership).copied().unwrap_or_default();
                let just_before = before.node != at && before.at + LEASE + 1000 > self.now;
                if !reply.is_safe || just_before {
                    self.unsure.insert(membership);
                }
                let done = reply.code == 0x00;
                let is_there = done.then_some(registers);
                let promise = Promise { is_there, is_safe: reply.is_safe, node: at, at: self.now, by_lb };
                self.promises.insert(membership, promise);
            }
        }
    }

    /// No farm is shown as down as a whole: all members answer.
    fn check_farms(&mut self) -> Result<(), String> {
        let at = self.rng.usize(..self.nodes.len());
        let mut farms: BTreeMap<[Box<[u8]>; 2], (u32, u32)> = BTreeMap::new();
        for row in self.nodes[at].members(self.now) {
            let farm = farms.entry([row.lb_uid, row.group]).or_default();
            farm.0 += 1;
            farm.1 += u32::from(!row.entry.flags.contains(EntryFlags::CONTACT));
        }
        match farms.into_iter().find(|(_, (members, down))| *members >= 3 && members == down) {
            None => Ok(()),
            Some(([lb, group], _)) => {
                let names = (lb.escape_ascii().to_string(), group.escape_ascii().to_string());
                Err(format!("{} shows all of {names:?} down", NAMES[at]))
            }
        }
    }

    /// What one node shows: load balancers with their place, memberships, and the operator's words.
    fn shown(&mut self, at: usize) -> (BTreeMap<String, String>, Vec<String>, Vec<String>) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let lbs = node.lbs(now).into_iter().map(|row| {
            let place = match (row.connection, row.elsewhere) {
                (Some(_), _) => format!("at {}", NAMES[at]),
                (None, Some(node)) => format!("at {node}"),
                (None, None) => "held".into(),
            };
            (row.uid.escape_ascii().to_string(), format!("{:?} {:?} {place}", row.health, row.flags))
        });
        let lbs = lbs.collect();
        let mut members: Vec<String> = node
            .members(now)
            .into_iter()
            .map(|row| {
                let (lb, group) = (row.lb_uid.escape_ascii().to_string(), row.group.escape_ascii().to_string());
                let member = member_letter(&row.state.endpoint);
                let entry = row.entry;
                format!("{lb}/{group} {member} {:02X} {:02X} {}", entry.state, entry.flags.0, entry.weight)
            })
            .collect();
        // Groups that were begun at the same time may have another order.
        members.sort_by(|one, other| one.split(' ').next().cmp(&other.split(' ').next()));
        (lbs, members, node.words(now))
    }

    /// Two nodes that show something different, if there are such.
    fn difference(&mut self) -> Option<String> {
        let first = self.shown(0);
        for (at, name) in NAMES.iter().enumerate().skip(1) {
            let other = self.shown(at);
            if other != first {
                return Some(format!("{}\n{first:#?}\n{name}\n{other:#?}", NAMES[0]));
            }
        }
        for node in &self.nodes {
            let status = node.status()?;
            if status.dirty + status.orders > 0
                || status.kept < status.given
                || !status.connected
                || status.nodes.len() != NAMES.len()
            {
                return Some(format!("{}: {status:?}", node.name));
            }
        }
        None
    }

    fn check_promises(&mut self) -> Result<(), String> {
        let (lbs, members, _) = self.shown(0);
        for lb in LBS {
            let here = self.clients.iter().find(|client| client.lb == Some(lb)).and_then(|client| client.at);
            if let Some((node, _)) = here
                && !lbs.get(lb).is_some_and(|row| row.ends_with(&format!("at {}", NAMES[node])))
            {
                return Err(format!("{lb} is connected to {}, and the nodes show {lbs:?}", NAMES[node]));
            }
        }
        if !self.is_strict {
            return Ok(());
        }
        for (membership, promise) in &self.promises {
            if promise.is_there == Some(false) && (self.is_union || self.unsure.contains(membership)) {
                continue;
            }
            let (lb, group, member) = membership;
            let shown = members.iter().any(|row| row.starts_with(&format!("{lb}/{group} {member} ")));
            if promise.is_there.is_some_and(|is_there| is_there != shown) {
                return Err(format!("{lb}/{group} {member}: {promise:?}, shown: {shown}\n{members:#?}"));
            }
        }
        Ok(())
    }

    /// What the schedule had, to see that schedules are worth something.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            promises: self.promises.values().filter(|promise| promise.is_there.is_some()).count(),
            conflicts: self.nodes.iter().map(|node| node.conflicts).sum(),
            keys: self.etcd.keys().len(),
            shares: self.nodes.iter().map(Node::share).sum(),
            strict: usize::from(self.is_strict),
            short_holds: usize::from(self.hold_time < 100_000),
        }
    }
}

/// See [`World::counts`].
#[derive(Default, Debug)]
pub(super) struct Counts {
    pub(super) promises: usize,
    pub(super) conflicts: usize,
    pub(super) keys: usize,
    pub(super) shares: usize,
    pub(super) strict: usize,
    pub(super) short_holds: usize,
}

fn client(lb: Option<&'static str>) -> Client {
    Client { lb, at: None, asked: None, todo: Vec::new(), pause: 0 }
}

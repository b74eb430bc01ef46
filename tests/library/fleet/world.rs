//! Three nodes, a store, load balancers and members, and faults between them; what clients were promised is kept.

mod faults;
mod promises;

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use gwm::{
    coordinator::{ConnectionId, MemberRow},
    fleet::VALUE_BYTES,
    sasp::{Endpoint, EntryFlags, Health, LbFlags, WeightEntry},
};

use super::{
    etcd::Etcd,
    node::{LEASE, Node},
};
use crate::wire;
use promises::{Promise, Sessions};

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
    /// What happens is noted.
    pub(super) is_told: bool,
}

/// A membership as somebody was promised it.
type Membership = (&'static str, &'static str, &'static str);

/// A load balancer's group.
type Group = (&'static str, &'static str);

/// How long before a node knows that it has lost the store it may have missed what others did, and not know what became of
/// its own transactions.
const UNSEEN: u64 = LEASE + 500;

/// A request on its way.
struct Asked {
    membership: Option<Membership>,
    registers: bool,
    /// The era of the node's date.
    era: u64,
    /// The node was not one with the store.
    apart: bool,
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
    /// The sessions of load balancers, and what they spoke of.
    sessions: Sessions,
    /// When somebody last asked a node to change a group.
    touched: BTreeMap<(Group, usize), u64>,
    /// Groups that a node had changed without the store and that others changed, too, while the node was dead, or shortly
    /// before: what is on either side stays, also if it was removed.
    unions: BTreeSet<Group>,
    /// The nodes that died so and have not been one with the store since, with the groups that they had changed.
    died_ahead: BTreeMap<usize, BTreeSet<Group>>,
    /// So died a node whose state on disk knew nothing of the store yet: whatever is on either side stays.
    new_ones_died: bool,
    /// Since when each node is ahead of the store.
    ahead: [Option<u64>; NAMES.len()],
    /// The era of each node's date.
    eras: [u64; NAMES.len()],
    /// Load balancers are never forgotten, and the store is not lost.
    is_strict: bool,
    /// The clocks of all nodes are the same, and never jump.
    is_on_time: bool,
    /// Clocks differ by up to two minutes, and jump by far.
    is_far_off: bool,
    hold_time: u64,
    value_bytes: usize,
    heal_at: u64,
    faults: bool,
    last_skew: i64,
    deaths_ahead: usize,
    is_told: bool,
    pub(super) events: Vec<String>,
}

impl World {
    pub(super) fn new(plan: Plan) -> World {
        let mut rng = Rng::with_seed(plan.seed);
        let hold_time = if rng.u8(..4) == 0 { 1500 } else { 600_000 };
        let has_disk = rng.bool();
        // Small values: every group is in parts.
        let value_bytes = if rng.u8(..4) == 0 { 48 } else { VALUE_BYTES };
        let is_on_time = rng.bool();
        let is_far_off = !is_on_time && plan.seed.is_multiple_of(4);
        let mut skew = || match (is_on_time, is_far_off) {
            (true, _) => 0,
            (_, false) => rng.i64(0..300),
            (_, true) => 400 * rng.i64(0..300) - 60_000,
        };
        let node = |name| Node::new(name, skew(), hold_time, value_bytes, has_disk);
        let nodes: Vec<Node> = NAMES.into_iter().map(node).collect();
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
            sessions: Sessions::default(),
            touched: BTreeMap::new(),
            unions: BTreeSet::new(),
            died_ahead: BTreeMap::new(),
            new_ones_died: false,
            ahead: [None; NAMES.len()],
            eras: [0; NAMES.len()],
            is_strict: hold_time > 100_000,
            is_on_time,
            is_far_off,
            hold_time,
            value_bytes,
            heal_at: plan.length,
            faults: true,
            last_skew: 0,
            deaths_ahead: 0,
            is_told: plan.is_told,
            events: Vec::new(),
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.is_told {
            let line = format!("{:>6} {}", self.now, text());
            self.events.push(line);
        }
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
        self.note_reconciled();
        self.note_dates();
        for at in 0..self.clients.len() {
            self.step_client(at);
        }
        if self.now.is_multiple_of(50) { self.check_farms() } else { Ok(()) }
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
        let group = text.rsplit_once(' ').and_then(|(head, _)| head.rsplit_once(' ')?.1.split_once('/'));
        if let Some((of, name)) = group
            && let Some(lb) = LBS.into_iter().find(|lb| *lb == of)
            && let Some(group) = GROUPS.into_iter().find(|group| *group == name)
        {
            self.touched.insert(((lb, group), node), self.now);
            if self.died_ahead.iter().any(|(dead, own)| *dead != node && own.contains(&(lb, group))) {
                self.unions.insert((lb, group));
            }
            if self.clients[client].lb.is_some() {
                self.sessions.spoke((lb, group), node, self.date_of(node), self.now);
            }
        }
        let registers = !text.contains("deregister");
        let asked = |client: &Client| client.asked.as_ref().and_then(|asked| asked.membership);
        if membership.is_some() && self.clients.iter().any(|client| asked(client) == membership) {
            return; // nobody could say which of two was done last
        }
        if let Some(membership) = membership {
            self.promises.entry(membership).or_default().is_there = None;
            if lb.is_none() {
                self.sessions.members_spoke(membership);
            }
        }
        self.note(|| format!("{} to {}: {text}", lb.unwrap_or("member"), NAMES[node]));
        let (era, _) = self.date_of(node);
        let apart = self.nodes[node].ahead().is_some();
        self.clients[client].asked = Some(Asked { membership, registers, era, apart });
        let bytes = wire::parse(&text).bytes(1);
        self.nodes[node].request(self.now, connection, &bytes);
    }

    fn connect(&mut self, client: usize) {
        let node = self.rng.usize(..self.nodes.len());
        let Some(connection) = self.nodes[node].open() else { return };
        let lb = self.clients[client].lb;
        let mut todo = Vec::new();
        if let Some(lb) = lb {
            self.sessions.begin(lb, self.now);
            // What no node has promised for sure, the load balancer says again.
            for (&(of, group, member), promise) in &self.promises {
                let is_in_doubt = !promise.is_safe && promise.is_there == Some(true) || promise.is_there.is_none();
                if of == lb && promise.by_lb && is_in_doubt {
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
                let Some(asked) = self.clients[client].asked.take() else { continue };
                let Asked { membership, registers, era, apart } = asked;
                let lb = self.clients[client].lb;
                self.note(|| format!("{name} answers {:02X}, safe {}", reply.code, reply.is_safe));
                let Some(membership) = membership else { continue };
                let by_lb = lb.is_some();
                let before = self.promises.get(&membership).copied().unwrap_or_default();
                let just_before = before.node != at && before.at + LEASE + 1000 > self.now;
                if !reply.is_safe || apart || just_before {
                    self.unsure.insert(membership);
                }
                let done = reply.code == 0x00;
                let is_there = done.then_some(registers);
                let (is_safe, session) = (reply.is_safe, self.sessions.last(membership.0));
                let promise = Promise { is_there, is_safe, node: at, at: self.now, by_lb, session, era };
                self.promises.insert(membership, promise);
            }
        }
    }

    /// No farm is shown as down as a whole: all members answer.
    fn check_farms(&mut self) -> Result<(), String> {
        let at = self.rng.usize(..self.nodes.len());
        for lb in LBS {
            let rows = self.nodes[at].members(self.now, lb);
            let is_down = |farm: &&[MemberRow]| {
                farm.len() >= 3 && !farm.iter().any(|row| row.entry.flags.contains(EntryFlags::CONTACT))
            };
            if let Some(farm) = rows.chunk_by(|one, other| one.group == other.group).find(is_down) {
                return Err(format!("{} shows all of {lb}/{} down", NAMES[at], farm[0].group.escape_ascii()));
            }
        }
        Ok(())
    }

    /// What one node shows.
    fn shown(&mut self, at: usize) -> Shown {
        let now = self.now;
        let node = &mut self.nodes[at];
        let lbs = node.lbs(now).into_iter().map(|row| {
            let place = match (row.connection, row.elsewhere) {
                (Some(_), _) => Some(NAMES[at].into()),
                (None, elsewhere) => elsewhere,
            };
            (row.uid, (row.health, row.flags, place))
        });
        let lbs = lbs.collect();
        let members = LBS.iter().flat_map(|lb| node.members(now, lb));
        let members = members.map(|row| (row.lb_uid, row.group, row.state.endpoint, row.entry)).collect();
        Shown { lbs, members, words: node.words(now) }
    }

    /// Two nodes that show something different, if there are such.
    fn difference(&mut self) -> Option<String> {
        for node in &self.nodes {
            if !node.is_quiet(NAMES.len()) {
                return Some(format!("{}: {:?}", node.name, node.status()));
            }
        }
        // Whom a connection belongs to, its node knows by the first request.
        let is_silent = |client: &&Client| client.at.is_some() && !client.todo.is_empty();
        if let Some(Client { lb: Some(lb), todo, .. }) = self.clients.iter().find(is_silent) {
            return Some(format!("{lb} has yet to say {todo:?}"));
        }
        let first = self.shown(0);
        for (at, name) in NAMES.iter().enumerate().skip(1) {
            let other = self.shown(at);
            if other != first {
                return Some(format!("{}\n{first:#?}\n{name}\n{other:#?}", NAMES[0]));
            }
        }
        None
    }

    /// What the schedule had, to see that schedules are worth something.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            promises: self.promises.values().filter(|promise| promise.is_there.is_some()).count(),
            conflicts: self.nodes.iter().map(|node| node.conflicts).sum(),
            held: self
                .promises
                .iter()
                .filter(|(of, promise)| self.unsure.contains(of) && self.holds(of, promise))
                .count(),
            keys: self.etcd.keys().len(),
            shares: self.nodes.iter().map(Node::share).sum(),
            strict: usize::from(self.is_strict),
            short_holds: usize::from(self.hold_time < 100_000),
            parts: if self.value_bytes < 100 {
                self.etcd.keys().iter().filter(|key| key.starts_with("part/")).count()
            } else {
                0
            },
            ahead: self.deaths_ahead,
        }
    }
}

/// See [`World::counts`].
#[derive(Default, Debug)]
pub(super) struct Counts {
    pub(super) promises: usize,
    pub(super) conflicts: usize,
    /// Removals that hold though nodes had not heard of each other.
    pub(super) held: usize,
    pub(super) keys: usize,
    pub(super) shares: usize,
    pub(super) strict: usize,
    pub(super) short_holds: usize,
    /// Parts of groups in the store.
    pub(super) parts: usize,
    /// Nodes that died while their state on disk was ahead of the store.
    pub(super) ahead: usize,
}

/// A load balancer's health and flags, and the node that has its connection.
type LbShown = (Health, LbFlags, Option<Box<str>>);

/// A membership: load balancer, group, member, and what a message says of it.
type MemberShown = (Box<[u8]>, Box<[u8]>, Endpoint, WeightEntry);

/// What a node shows, and nothing that differs between nodes that are one.
#[derive(PartialEq, Debug)]
struct Shown {
    lbs: BTreeMap<Box<[u8]>, LbShown>,
    /// Load balancer by load balancer, in the order in which each finds its groups and members.
    members: Vec<MemberShown>,
    words: Vec<String>,
}

fn client(lb: Option<&'static str>) -> Client {
    Client { lb, at: None, asked: None, todo: Vec::new(), pause: 0 }
}

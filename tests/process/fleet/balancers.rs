//! Load balancers that go to another GWM when theirs is gone, and what they and members were promised.

use std::{collections::BTreeMap, time::Duration};

use gwm::{
    client::{
        Client,
        session::{Session, Wishes},
        spec::{self, GroupSpec},
    },
    sasp::{EntryFlags, Health, LbFlags, Reason, SenderFlags},
};

use super::bed::{self, EACH, Machine, PORTS};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What must be true of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Its registration was acknowledged.
    There,
    /// Its deregistration was acknowledged.
    Gone,
    /// The request had no answer.
    Unknown,
}

/// The members by their port.
pub(super) type Promised = BTreeMap<u16, Presence>;

pub(super) fn member(port: u16) -> String {
    format!("{}:{port}", bed::host(port))
}

fn group(name: &str, ports: impl Iterator<Item = u16>) -> GroupSpec {
    let members: Vec<String> = ports.map(member).collect();
    spec::group(&format!("{name}={}", members.join(","))).expect("a group")
}

fn connect(gwm: usize) -> Result<Client, gwm::client::Error> {
    Client::connect(&format!("{}:3860", Machine::Gwm(gwm).address()), PATIENCE)
}

/// One load balancer with two groups: `own`, which it registers, and `join`, which members join by themselves.
pub(super) struct Balancer {
    pub(super) uid: String,
    session: Option<Session>,
    /// The GWM of its list that it is at, or tries next.
    pub(super) at: usize,
    /// What it wants to be registered in `own`.
    wanted: Vec<u16>,
    /// What was promised about `own`, and about `join`.
    pub(super) own: Promised,
    pub(super) join: Promised,
}

impl Balancer {
    pub(super) fn new(number: usize) -> Balancer {
        let (own, join) = Default::default();
        let wanted = vec![PORTS[0], PORTS[1], PORTS[PORTS.len() - 1]];
        Balancer { uid: format!("LB{number}"), session: None, at: number % EACH, wanted, own, join }
    }

    fn wishes(&self) -> Wishes {
        let flags = LbFlags::TRUST.with(LbFlags::PUSH, true);
        // Members join a group that is there: the first port is always the load balancer's own.
        let groups = vec![group("own", self.wanted.iter().copied()), group("join", PORTS[..1].iter().copied())];
        Wishes { uid: self.uid.as_bytes().into(), groups, health: Health::BEST, flags }
    }

    /// What it does all the time: has a session, at another GWM if need be, and knows the weights. Says whether it has.
    pub(super) fn serve(&mut self) -> bool {
        if let Some(session) = &mut self.session {
            if session.refresh().is_ok() {
                return true;
            }
            self.leave();
        }
        for _ in 0..EACH {
            let wishes = self.wishes();
            let opened = connect(self.at).and_then(|client| Session::open(client, PATIENCE, &wishes));
            let kept = opened.and_then(|mut session| {
                session.keep_only(&wishes.groups)?;
                session.refresh()?;
                Ok(session)
            });
            match kept {
                Ok(session) => {
                    self.session = Some(session);
                    self.settle(Presence::There, Presence::Gone);
                    return true;
                }
                Err(_) => {
                    self.settle(Presence::Unknown, Presence::Unknown);
                    self.at = (self.at + 1) % EACH;
                }
            }
        }
        false
    }

    /// Goes to another GWM.
    pub(super) fn leave(&mut self) {
        self.session = None;
        self.at = (self.at + 1) % EACH;
    }

    /// Notes what was promised about its own members: those that it wants, and others that it had.
    fn settle(&mut self, wanted: Presence, others: Presence) {
        for (port, presence) in &mut self.own {
            if !self.wanted.contains(port) && *presence != Presence::Gone {
                *presence = others;
            }
        }
        for port in &self.wanted {
            let known = self.own.entry(*port).or_insert(Presence::Unknown);
            if *known != Presence::There {
                *known = wanted;
            }
        }
    }

    /// Registers one member, or deregisters one. What had no answer is done again before: nobody knows when it is done, and a
    /// member that a GWM shows may leave by a deregistration that another GWM still has.
    pub(super) fn change(&mut self, port: u16) {
        if self.own.get(&port) == Some(&Presence::Unknown) {
            return;
        }
        match self.wanted.iter().position(|wanted| *wanted == port) {
            Some(at) => drop(self.wanted.remove(at)),
            None => self.wanted.push(port),
        }
        self.own.entry(port).and_modify(|presence| *presence = Presence::Unknown).or_insert(Presence::Unknown);
        let wishes = self.wishes();
        let Some(session) = &mut self.session else { return };
        match session.keep_only(&wishes.groups) {
            Ok(()) => self.settle(Presence::There, Presence::Gone),
            Err(_) => self.leave(),
        }
    }

    /// A member joins its group by itself, or leaves it, at this GWM.
    pub(super) fn member_changes(&mut self, port: u16, gwm: usize) {
        let (uid, joins) = (self.uid.as_bytes(), self.join.get(&port) != Some(&Presence::There));
        let spec = group("join", [port].into_iter());
        let request = || [(spec.data(uid), spec.members.iter().map(|member| member.data()))];
        let done = connect(gwm).and_then(|mut client| match joins {
            true => client.register(SenderFlags::NONE, request()),
            false => client.deregister(SenderFlags::NONE, Reason::PURPOSEFUL, request()),
        });
        let presence = match done {
            Ok(()) if joins => Presence::There,
            Ok(()) => Presence::Gone,
            // A refusal changes nothing.
            Err(error) if error.refusal().is_some() => return,
            Err(_) => Presence::Unknown,
        };
        self.join.insert(port, presence);
    }

    /// Groups of which it sees no member that works, though it sees members.
    pub(super) fn drained(&self) -> Vec<String> {
        let groups = self.session.iter().flat_map(|session| session.weights().groups());
        let works = |flags: EntryFlags| flags.contains(EntryFlags::CONTACT) && !flags.contains(EntryFlags::QUIESCED);
        let drained = groups.filter(|group| {
            let members = group.members();
            !members.is_empty() && !members.iter().any(|member| works(member.entry.flags) && member.entry.weight > 0)
        });
        drained.map(|group| String::from_utf8_lossy(group.name()).into_owned()).collect()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.session.is_some()
    }
}

//! What a fleet of GWMs wants of this one: rows of the tables that other nodes have changed, which nodes there are, and
//! what their checks found.
//!
//! An order about tables says what it expects to find. If a request of a peer has changed that meanwhile, nothing is done:
//! the order "does not fit", and whoever gave the order thinks again. What an order does is a [`Change`] as every other,
//! so a journal gets it, too.

use std::collections::BTreeSet;

use super::{
    Coordinator,
    change::Change,
    check::Found,
    ids::{GroupId, LbId},
    listing::Listing,
    load_balancer::Timer,
    outbox::Outbox,
    shares::{Node, Shares},
    words::Word,
    worlds::World,
};
use crate::{
    judgement::Verdicts,
    sasp::{
        EncodeError, Endpoint, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Message, Reason,
        SenderFlags, Writer, message::SetLbStateRequest,
    },
    time::Time,
};

/// Who ends words that another node has ended, for people.
const ANOTHER_NODE: &str = "another node of the fleet";

/// A membership, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The member.
    pub endpoint: Endpoint,
    /// The load balancer registered the member (else the member itself).
    pub by_lb: bool,
    /// The member's label.
    pub label: Box<[u8]>,
    /// The member's opaque state.
    pub state: u8,
    /// The member is quiesced by SASP.
    pub quiesced: bool,
}

/// Where a load balancer has its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To this node.
    Here,
    /// To the node of this name: no hold time runs.
    Elsewhere(Box<str>),
    /// Nowhere; it is held until then.
    Held(Time),
}

/// A load balancer, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LbState {
    /// Its health, as it stated.
    pub health: Health,
    /// Its flags, as it stated.
    pub flags: LbFlags,
    /// Where it is connected.
    pub place: Place,
}

/// What the fleet wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A load balancer has become this; `None`: it is not known.
    LoadBalancer {
        /// Its UID.
        uid: Box<[u8]>,
        /// As this node has it. Where it is connected is compared by kind only.
        from: Option<LbState>,
        /// As it is now; never [`Place::Here`] from another place.
        to: Option<LbState>,
    },
    /// A group of a load balancer that is known.
    Group {
        /// The load balancer.
        lb_uid: Box<[u8]>,
        /// The group's name.
        name: Box<[u8]>,
        /// What has happened to it.
        change: GroupChange,
    },
    /// Words of the operator: these have ended, and these are new.
    Words {
        /// The numbers of words that have ended. They end first.
        unsaid: Vec<u64>,
        /// New words.
        said: Vec<Word>,
    },
    /// These nodes are alive, this one too.
    Nodes(Vec<Node>),
    /// What a node's checks found; `None`: the node does not check the endpoint any more.
    Verdicts {
        /// The node.
        node: Box<str>,
        /// What it found.
        list: Vec<(Endpoint, Option<Verdicts>)>,
    },
}

/// What has happened to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// It is there, which it was not, with these members.
    Begun(Vec<Membership>),
    /// It has ended; it had these members, in any order.
    Ended(Vec<Endpoint>),
    /// Its members have changed.
    Members {
        /// These have left. A member that is in `added`, too, has another place in the group.
        removed: Vec<Endpoint>,
        /// These have joined, at the end.
        added: Vec<Membership>,
        /// These have another opaque state, or are quiesced or resumed.
        states: Vec<(Endpoint, u8, bool)>,
    },
}

impl Coordinator {
    /// Joins a fleet as the node of this name; so many nodes check each endpoint. The node is alone until an order names
    /// others. Words are numbered by date from now on: `zero` is the date of time zero, in milliseconds since 1970. A
    /// coordinator joins before anything else.
    pub fn join_fleet(&mut self, name: &str, redundancy: u8, zero: u64) {
        debug_assert!(self.tables.lbs.len() == 0, "groups are in the order of a fleet from the first one on");
        let shares = Shares::new(name, redundancy, self.tables.hasher());
        self.tables.endpoints.shares = Some(Box::new(shares));
        self.tables.endpoints.words.zero = Some(zero);
    }

    /// Passes at most so many endpoints on: with what this node's own checks found, if that has changed, or without that
    /// if this node does not check the endpoint any more.
    pub fn take_own_verdicts(&mut self, most: usize, mut take: impl FnMut(Endpoint, Option<Verdicts>)) {
        let endpoints = &mut self.tables.endpoints;
        for _ in 0..most {
            let Some(shares) = &mut endpoints.shares else { return };
            if let Some(endpoint) = shares.next_gone() {
                take(endpoint, None);
                continue;
            }
            let Some((id, verdicts)) = shares.next_changed() else { return };
            take(endpoints.endpoint(id), Some(verdicts));
        }
    }

    /// Whether this node is cut off from members on other machines, or was until lately: only what it finds up counts for
    /// the fleet.
    pub fn was_blind(&self) -> bool {
        self.tables.endpoints.was_blind(World::Foreign)
    }

    /// How many endpoints this node checks.
    pub fn share(&self) -> usize {
        self.tables.endpoints.watches().here()
    }

    fn set_nodes(&mut self, now: Time, nodes: &[Node]) {
        if self.tables.endpoints.shares.as_mut().is_some_and(|shares| shares.set_live(nodes)) {
            self.join_again(now);
        }
    }

    fn take_remote(&mut self, now: Time, node: &str, list: &[(Endpoint, Option<Verdicts>)]) {
        for (endpoint, verdicts) in list {
            if let Some(judged) = self.tables.endpoints.take_remote(now, node, endpoint, verdicts.as_ref()) {
                self.pass_on(now, &judged);
            }
        }
    }

    /// Does what the fleet wants; `false`, and nothing is done, if the order does not fit.
    pub fn obey(&mut self, now: Time, order: &Order, out: &mut impl Outbox) -> bool {
        match order {
            Order::LoadBalancer { uid, from, to } => self.obey_about_lb(now, uid, from.as_ref(), to.as_ref(), out),
            Order::Group { lb_uid, name, change } => {
                let data = GroupData { lb_uid, name };
                let Some(lb) = self.tables.find_lb(lb_uid) else { return false };
                let group = self.tables.find_group(lb, name);
                match (group, change) {
                    (None, GroupChange::Begun(members)) => self.add(now, data, members, out),
                    (Some(group), GroupChange::Ended(members)) => {
                        let has_more = self.tables.listing(group).len() as usize != members.len();
                        if has_more || !self.fits(group, members, &[], &[]) {
                            return false;
                        }
                        self.remove(now, data, &[], out);
                    }
                    (Some(group), GroupChange::Members { removed, added, states }) => {
                        if !self.fits(group, removed, added, states) {
                            return false;
                        }
                        if !removed.is_empty() {
                            self.remove(now, data, removed, out);
                        }
                        if !added.is_empty() {
                            self.add(now, data, added, out);
                        }
                        self.set_states(now, data, states.iter().copied(), out);
                    }
                    _ => return false,
                }
                true
            }
            Order::Words { unsaid, said } => self.obey_about_words(now, unsaid, said, out),
            Order::Nodes(nodes) => {
                self.set_nodes(now, nodes);
                true
            }
            Order::Verdicts { node, list } => {
                self.take_remote(now, node, list);
                true
            }
        }
    }

    fn obey_about_lb(
        &mut self,
        now: Time,
        uid: &[u8],
        from: Option<&LbState>,
        to: Option<&LbState>,
        out: &mut impl Outbox,
    ) -> bool {
        let known = self.tables.find_lb(uid).map(|lb| self.lb_as_data(lb));
        let fits = match (&known, from) {
            (None, None) => true,
            (Some(known), Some(from)) => {
                let same_place = std::mem::discriminant(&known.place) == std::mem::discriminant(&from.place);
                same_place && (known.health, known.flags) == (from.health, from.flags)
            }
            _ => false,
        };
        if !fits {
            return false;
        }
        let is_here = known.as_ref().is_some_and(|known| known.place == Place::Here);
        let Some(LbState { health, flags, place }) = to else {
            if known.is_some() && !is_here {
                self.apply(now, Change::Forget { lb_uid: uid }, Found::default(), out);
            }
            return !is_here; // nobody forgets a load balancer that is connected
        };
        match place {
            Place::Here if is_here => {}
            Place::Here => return false,
            Place::Elsewhere(node) => {
                self.apply(now, Change::Elsewhere { lb_uid: uid, node }, Found::default(), out);
            }
            Place::Held(until) => self.apply(now, Change::Hold { lb_uid: uid, until: *until }, Found::default(), out),
        }
        let (health, flags) = (*health, *flags);
        if self.lb_state(uid) != Some((health, flags)) {
            let request = SetLbStateRequest { lb_uid: uid, health, flags };
            self.apply(now, Change::SetLbState(request), Found::default(), out);
        }
        true
    }

    /// A load balancer as it is now; `None` if nobody knows it.
    pub fn known_lb(&self, uid: &[u8]) -> Option<LbState> {
        self.tables.find_lb(uid).map(|lb| self.lb_as_data(lb))
    }

    fn lb_as_data(&self, lb: LbId) -> LbState {
        let known = &self.tables.lbs[lb];
        let place = match (&known.elsewhere, known.connection) {
            (_, Some(_)) => Place::Here,
            (Some(node), None) => Place::Elsewhere(node.clone()),
            (None, None) => Place::Held(known.deadlines[Timer::Hold as usize].at.unwrap_or_default()),
        };
        LbState { health: known.health, flags: known.flags, place }
    }

    /// Whether a change of members fits the group.
    fn fits(
        &self,
        group: GroupId,
        removed: &[Endpoint],
        added: &[Membership],
        states: &[(Endpoint, u8, bool)],
    ) -> bool {
        let listing: &Listing = self.tables.listing(group);
        let has = |member: &Endpoint| {
            self.tables.endpoints.find(member).is_some_and(|endpoint| listing.find(endpoint).is_some())
        };
        let leaving: BTreeSet<&Endpoint> = removed.iter().collect();
        removed.iter().all(has)
            && added.iter().all(|member| !has(&member.endpoint) || leaving.contains(&member.endpoint))
            && states.iter().all(|(member, ..)| has(member) && !leaving.contains(member))
    }

    /// Does a request that fits.
    fn do_request(
        &mut self,
        now: Time,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
        out: &mut impl Outbox,
    ) {
        let mut bytes = Vec::new();
        write(&mut bytes).expect("names and groups of the tables fit a message");
        let (_, message) = Message::decode_trusted(&bytes).expect("it was just written");
        let change = match message {
            Message::RegistrationRequest(request) => Change::Register(request),
            Message::DeregistrationRequest(request) => Change::Deregister(request),
            Message::SetMemberStateRequest(request) => Change::SetMemberState(request),
            _ => return, // nothing else is written here
        };
        let done = self.replay(now, &change, out);
        debug_assert!(done, "the order fits");
    }

    /// Adds members, and the group if it is new.
    fn add(&mut self, now: Time, data: GroupData<'_>, members: &[Membership], out: &mut impl Outbox) {
        let mut runs: Vec<&[Membership]> = members.chunk_by(|one, other| one.by_lb == other.by_lb).collect();
        if members.is_empty() {
            runs.push(&[]);
        }
        for run in runs {
            let by_lb = run.first().is_none_or(|member| member.by_lb);
            let flags = if by_lb { SenderFlags::LOAD_BALANCER } else { SenderFlags::NONE };
            let write = |bytes: &mut Vec<u8>| {
                let mut request = Writer::registration_request(bytes, 0, flags);
                request.group(data);
                for Membership { endpoint, label, .. } in run {
                    request.entry(&MemberData { endpoint: *endpoint, label });
                }
                request.finish()
            };
            self.do_request(now, write, out);
        }
        let states = members.iter().filter(|member| (member.state, member.quiesced) != (0, false));
        self.set_states(now, data, states.map(|member| (member.endpoint, member.state, member.quiesced)), out);
    }

    /// Removes these members, or the whole group if there are none. The load balancer hears of it, as of members that
    /// leave by themselves.
    fn remove(&mut self, now: Time, data: GroupData<'_>, members: &[Endpoint], out: &mut impl Outbox) {
        let write = |bytes: &mut Vec<u8>| {
            let mut request = Writer::deregistration_request(bytes, 0, SenderFlags::NONE, Reason(0));
            request.group(data);
            members.iter().for_each(|&endpoint| request.entry(&MemberData { endpoint, label: b"" }));
            request.finish()
        };
        self.do_request(now, write, out);
    }

    fn set_states(
        &mut self,
        now: Time,
        data: GroupData<'_>,
        states: impl Iterator<Item = (Endpoint, u8, bool)>,
        out: &mut impl Outbox,
    ) {
        let mut states = states.peekable();
        if states.peek().is_none() {
            return;
        }
        let write = |bytes: &mut Vec<u8>| {
            let mut request = Writer::set_member_state_request(bytes, 0, SenderFlags::NONE);
            request.group(data);
            for (endpoint, state, quiesced) in states {
                let flags = MemberFlags::NONE.with(MemberFlags::QUIESCE, quiesced);
                request.entry(&MemberState { member: MemberData { endpoint, label: b"" }, state, flags });
            }
            request.finish()
        };
        self.do_request(now, write, out);
    }

    fn obey_about_words(&mut self, now: Time, unsaid: &[u64], said: &[Word], out: &mut impl Outbox) -> bool {
        let known = |number: &u64| self.tables.endpoints.words.list().iter().any(|word| word.number == *number);
        let is_free = |word: &Word| !known(&word.number) || unsaid.contains(&word.number);
        if !unsaid.iter().all(known) || !said.iter().all(is_free) {
            return false;
        }
        for &number in unsaid {
            self.apply(now, Change::Unsay { number, by: Some(ANOTHER_NODE) }, Found::default(), out);
        }
        for word in said {
            self.apply(now, Change::Say(word), Found::default(), out);
        }
        self.sweep(now);
        true
    }
}

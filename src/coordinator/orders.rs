//! What a fleet of GWMs wants of this one: rows of the tables that other nodes have changed, which nodes there are, and
//! what their checks found.
//!
//! An order about tables says what it expects to find. If a request of a peer has changed that meanwhile, nothing is done:
//! the order "does not fit", and whoever gave the order thinks again. What an order does is a [`Change`] as every other,
//! so a journal gets it, too.

use crate::{
    judgement::{Policy, Verdict},
    sasp::{Endpoint, Health, LbFlags},
    time::Time,
};

use super::{Coordinator, outbox::Outbox, words::Word};

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

/// A node of the fleet that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// It is cut off from the members: what it finds about them does not count.
    pub blind: bool,
}

/// The verdicts of all policies, by `Policy as usize`.
pub type Verdicts = [Verdict; Policy::ALL.len()];

/// What the fleet wants.
#[derive(Clone, Debug, PartialEq)]
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
    /// It has ended.
    Ended,
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
    /// Joins a fleet as the node of this name: so many nodes check each endpoint. Words are numbered by date from now on;
    /// `zero` is the date of time zero, in milliseconds since 1970.
    pub fn join_fleet(&mut self, _now: Time, _name: &str, _redundancy: u8, _zero: u64) {
        todo!()
    }

    /// Does what the fleet wants; `false`, and nothing is done, if the order does not fit.
    pub fn obey(&mut self, _now: Time, _order: &Order, _out: &mut impl Outbox) -> bool {
        todo!()
    }

    /// Passes at most so many endpoints on: with what this node's own checks found, if that has changed, or `None` if this
    /// node does not check the endpoint any more.
    pub fn take_own_verdicts(&mut self, _most: usize, _take: impl FnMut(Endpoint, Option<Verdicts>)) {
        todo!()
    }

    /// How many endpoints this node checks.
    pub fn share(&self) -> usize {
        todo!()
    }
}

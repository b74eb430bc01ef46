//! Checks that the nodes of a fleet share: which nodes check an endpoint, and what their verdicts are together.
//!
//! Each node that is alive has a score for each endpoint, which is a hash of both (rendezvous hashing). The nodes with the
//! highest scores, as many as `--probe-redundancy` says, check the endpoint. When a node comes or goes, only the endpoints
//! that it checks are checked by others.
//!
//! Of the nodes that check an endpoint,
//!
//! - one that is blind, or was lately, counts only if the endpoint is up for it;
//! - one that has no verdict yet does not count; but while this node is one and sees, nothing goes down here: what others
//!   lose may be a network of theirs, and a node that has just started, or has just taken over a check, knows no better;
//! - the endpoint is up if it is up for any that counts: for the one with the highest score;
//! - it is down if it is down for all that count.
//!
//! If none counts, the last verdicts stay; and if that is so because nodes are blind, the endpoint is shown as in a blind
//! world.
//!
//! If nobody has ever found an endpoint up and a node's first check of it fails, the node keeps that to itself for a fall
//! window. By then the node knows if it is blind: what answered before the network failed has had the time to fall.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::ids::EndpointId;
use crate::{
    judgement::Verdicts,
    sasp::{Endpoint, EntryFlags},
    time::Time,
};

/// A node of the fleet that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// It is cut off from the members, or was lately.
    pub blind: bool,
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// The last step of SplitMix64: every bit of the input counts for every bit of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

/// A stable hash of an endpoint, in one spelling of its address.
pub fn endpoint_hash(endpoint: &Endpoint) -> u64 {
    let Endpoint { protocol, port, address } = endpoint.canonical();
    fnv([protocol].into_iter().chain(port.to_be_bytes()).chain(address))
}

/// The node with this name has this score for the endpoint with this hash.
fn score(node: u64, endpoint: u64) -> u64 {
    mix(node ^ mix(endpoint))
}

/// One live node.
struct Live {
    node: Node,
    hash: u64,
}

/// What all nodes know of an endpoint together.
pub(super) enum Together {
    /// These are the verdicts.
    Found(Verdicts),
    /// The last verdicts stay, and nobody is certain of them.
    Blind,
    /// The last verdicts stay.
    Nothing,
}

/// How good verdicts are for an endpoint: down, with contact by some policy, up.
fn rank(verdicts: &Verdicts) -> u8 {
    let any = |flags: EntryFlags| u8::from(verdicts.iter().any(|verdict| verdict.flags.contains(flags)));
    any(EntryFlags::CONTACT) + any(EntryFlags::CONTACT | EntryFlags::CONFIDENT)
}

/// This node's place in the fleet.
pub(super) struct Shares {
    me: Box<str>,
    redundancy: usize,
    live: Vec<Live>,
    /// What the checks of other nodes found.
    remote: HashMap<Endpoint, BTreeMap<Box<str>, Verdicts>, FixedState>,
    /// What this node's own checks found.
    own: HashMap<EndpointId, Verdicts, FixedState>,
    /// First results of these checks that do not count yet: from when they do, and the results.
    early: HashMap<EndpointId, (Time, Verdicts), FixedState>,
    /// The times of `early`, in order; also those of results that have left `early`.
    ends: BTreeSet<(Time, EndpointId)>,
    /// Endpoints of which other nodes have yet to hear: new verdicts, and those that this node does not check any more.
    changed: VecDeque<EndpointId>,
    queued: BTreeSet<EndpointId>,
    gone: VecDeque<Endpoint>,
}

impl Shares {
    /// A node that knows of no other.
    pub(super) fn new(me: &str, redundancy: u8, hasher: FixedState) -> Shares {
        let mut shares = Shares {
            me: me.into(),
            redundancy: redundancy.max(1).into(),
            live: Vec::new(),
            remote: HashMap::with_hasher(hasher.clone()),
            own: HashMap::with_hasher(hasher.clone()),
            early: HashMap::with_hasher(hasher),
            ends: BTreeSet::new(),
            changed: VecDeque::new(),
            queued: BTreeSet::new(),
            gone: VecDeque::new(),
        };
        shares.set_live(&[Node { name: me.into(), blind: false }]);
        shares
    }

    /// Replaces the nodes that are alive; says whether anything is different. This node is always alive.
    pub(super) fn set_live(&mut self, nodes: &[Node]) -> bool {
        let mut nodes = nodes.to_vec();
        if !nodes.iter().any(|node| node.name == self.me) {
            nodes.push(Node { name: self.me.clone(), blind: false });
        }
        if self.live.iter().map(|live| &live.node).eq(&nodes) {
            return false;
        }
        self.live = nodes.into_iter().map(|node| Live { hash: fnv(node.name.bytes()), node }).collect();
        true
    }

    /// The nodes that check an endpoint, by score.
    fn checkers(&self, endpoint: &Endpoint) -> impl Iterator<Item = &Node> {
        let hash = endpoint_hash(endpoint);
        let mut order: Vec<(u64, &Node)> = self.live.iter().map(|live| (score(live.hash, hash), &live.node)).collect();
        order.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.name.cmp(&other.1.name)));
        order.into_iter().take(self.redundancy).map(|(_, node)| node)
    }

    /// Whether this node checks an endpoint.
    pub(super) fn is_mine(&self, endpoint: &Endpoint) -> bool {
        self.live.len() <= self.redundancy || self.checkers(endpoint).any(|node| node.name == self.me)
    }

    /// What is known of an endpoint; `blind`: this node is, where the endpoint is.
    pub(super) fn together(&self, id: EndpointId, endpoint: &Endpoint, blind: bool) -> Together {
        let remote = self.remote.get(endpoint);
        let (mut best, mut is_blind): (Option<(u8, &Verdicts)>, bool) = (None, false);
        let mut is_waiting = false;
        for node in self.checkers(endpoint) {
            let is_me = node.name == self.me;
            let blind = if is_me { blind } else { node.blind };
            let found = if is_me { self.own.get(&id) } else { remote.and_then(|of| of.get(&node.name)) };
            is_waiting |= is_me && !blind && found.is_none();
            let found = found.map(|verdicts| (rank(verdicts), verdicts)).filter(|(rank, _)| *rank > 0 || !blind);
            match found {
                Some(found) if best.is_none_or(|best| found.0 > best.0) => best = Some(found),
                Some(_) => {}
                None => is_blind |= blind,
            }
        }
        match best {
            Some((0, _)) if is_waiting => Together::Nothing,
            Some((_, verdicts)) => Together::Found(*verdicts),
            None if is_blind => Together::Blind,
            None => Together::Nothing,
        }
    }

    /// This node's own check has found this.
    pub(super) fn set_own(&mut self, id: EndpointId, verdicts: &Verdicts) {
        self.early.remove(&id);
        if self.own.insert(id, *verdicts) != Some(*verdicts) && self.queued.insert(id) {
            self.changed.push_back(id);
        }
    }

    /// This node's own check has found this, which does not count before `until`.
    pub(super) fn set_early(&mut self, id: EndpointId, until: Time, verdicts: &Verdicts) {
        let (until, _) = *self.early.entry(id).and_modify(|early| early.1 = *verdicts).or_insert((until, *verdicts));
        self.ends.insert((until, id));
    }

    /// The next endpoint of which this node's own check has found something that counts now.
    pub(super) fn next_in_time(&mut self, now: Time) -> Option<EndpointId> {
        while let Some(&(until, id)) = self.ends.first().filter(|(until, _)| *until <= now) {
            self.ends.remove(&(until, id));
            if let Some((_, verdicts)) = self.early.get(&id).copied().filter(|early| early.0 == until) {
                self.set_own(id, &verdicts);
                return Some(id);
            }
        }
        None
    }

    /// When to call [`Shares::next_in_time`].
    pub(super) fn next_end(&self) -> Option<Time> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// What this node's own check has found that counts.
    pub(super) fn own(&self, id: EndpointId) -> Option<&Verdicts> {
        self.own.get(&id)
    }

    /// Whether this node's own check has found something that does not count yet.
    pub(super) fn is_early(&self, id: EndpointId) -> bool {
        self.early.contains_key(&id)
    }

    /// This node does not check the endpoint any more.
    pub(super) fn end_own(&mut self, id: EndpointId, endpoint: Endpoint) {
        self.early.remove(&id);
        if self.own.remove(&id).is_some() {
            self.gone.push_back(endpoint);
        }
    }

    /// Another node's check has found this; `None`: the node does not check the endpoint any more.
    pub(super) fn set_remote(&mut self, node: &str, endpoint: &Endpoint, verdicts: Option<&Verdicts>) {
        match verdicts {
            Some(verdicts) => {
                self.remote.entry(*endpoint).or_default().insert(node.into(), *verdicts);
            }
            None => {
                if let Some(known) = self.remote.get_mut(endpoint) {
                    known.remove(node);
                    if known.is_empty() {
                        self.remote.remove(endpoint);
                    }
                }
            }
        }
    }

    /// The next endpoint that this node does not check any more.
    pub(super) fn next_gone(&mut self) -> Option<Endpoint> {
        self.gone.pop_front()
    }

    /// The next endpoint with new verdicts of this node's own.
    pub(super) fn next_changed(&mut self) -> Option<(EndpointId, Verdicts)> {
        loop {
            let id = self.changed.pop_front()?;
            self.queued.remove(&id);
            if let Some(verdicts) = self.own.get(&id) {
                return Some((id, *verdicts));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ids::Id, *};
    use crate::judgement::{Share, Verdict};

    fn endpoint(number: u16) -> Endpoint {
        Endpoint::new([10, 0, (number >> 8) as u8, number as u8].into(), 6, 80)
    }

    fn node(name: &str, blind: bool) -> Node {
        Node { name: name.into(), blind }
    }

    fn verdicts(flags: EntryFlags, weight: u16) -> Verdicts {
        [Verdict { flags, share: Share::Weight(weight) }; 4]
    }

    fn shares(me: &str, nodes: &[(&str, bool)]) -> Shares {
        let mut shares = Shares::new(me, 2, FixedState::with_seed(1));
        let nodes: Vec<Node> = nodes.iter().map(|(name, blind)| node(name, *blind)).collect();
        shares.set_live(&nodes);
        shares
    }

    #[test]
    fn hashes_are_the_same_in_every_version() {
        assert_eq!(fnv(*b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0xE220_A839_7B1D_CDAF); // SplitMix64's first number
        let mapped = Endpoint::new("::ffff:10.0.0.1".parse().unwrap(), 6, 80);
        assert_eq!(endpoint_hash(&mapped), endpoint_hash(&endpoint(1)));
    }

    #[test]
    fn each_endpoint_has_two_nodes_and_few_move_when_one_goes() {
        let names = ["a", "b", "c", "d"];
        let all: Vec<(&str, bool)> = names.iter().map(|name| (*name, false)).collect();
        let mine = |me: &str, nodes: &[(&str, bool)]| -> Vec<u16> {
            let shares = shares(me, nodes);
            (0..1000).filter(|&number| shares.is_mine(&endpoint(number))).collect()
        };
        let before: Vec<Vec<u16>> = names.iter().map(|name| mine(name, &all)).collect();
        assert_eq!(before.iter().map(Vec::len).sum::<usize>(), 2000);
        assert!(before.iter().all(|share| (430..570).contains(&share.len())), "each has about a half");
        for (name, before) in names[..3].iter().zip(&before) {
            let after = mine(name, &all[..3]);
            assert!(before.iter().all(|number| after.contains(number)), "{name} checks what it checked");
        }
        assert_eq!(mine("a", &all[..1]).len(), 1000, "a node that is alone checks all");
    }

    #[test]
    fn up_for_one_is_up_and_what_a_blind_node_finds_down_does_not_count() {
        let id = EndpointId::at(0);
        let up = verdicts(EntryFlags::CONTACT | EntryFlags::CONFIDENT, 40);
        let down = verdicts(EntryFlags::CONFIDENT, 0);
        for (own, other, blind, other_blind, says) in [
            (None, None, false, false, "nothing"),
            (None, Some(down), false, false, "nothing"),
            (None, Some(down), true, false, "down"),
            (None, Some(down), false, true, "blind"),
            (None, Some(up), false, false, "up"),
            (Some(down), None, false, false, "down"),
            (Some(down), Some(up), false, false, "up"),
            (Some(up), Some(down), false, false, "up"),
            (Some(down), Some(down), false, false, "down"),
            (Some(down), Some(down), true, false, "down"),
            (Some(down), Some(down), true, true, "blind"),
            (Some(down), None, true, false, "blind"),
            (Some(down), Some(up), true, false, "up"),
            (Some(up), None, true, false, "up"),
        ] {
            let mut shares = shares("a", &[("a", false), ("b", other_blind)]);
            own.iter().for_each(|verdicts| shares.set_own(id, verdicts));
            shares.set_remote("b", &endpoint(1), other.as_ref());
            shares.set_remote("c", &endpoint(1), Some(&up)); // this node is not alive
            let found = match shares.together(id, &endpoint(1), blind) {
                Together::Found(found) if found == up => "up",
                Together::Found(_) => "down",
                Together::Blind => "blind",
                Together::Nothing => "nothing",
            };
            assert_eq!(found, says, "{own:?} {other:?} {blind} {other_blind}");
        }
    }
}

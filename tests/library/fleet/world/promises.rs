//! What clients were promised, and which promises must hold.

use std::collections::{BTreeMap, BTreeSet};

use super::{Group, LBS, Membership, NAMES, Shown, World};
use crate::wire;

/// In so many milliseconds a node has told its replica of what a load balancer said.
const TOLD: u64 = 300;

/// Sessions have an order if they began so many milliseconds further apart than the nodes' dates may be wrong.
const APART: u64 = 250;

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Promise {
    /// It is there, or not; `None`: nobody knows.
    pub(super) is_there: Option<bool>,
    /// The store had it.
    pub(super) is_safe: bool,
    /// Which node promised, and when.
    pub(super) node: usize,
    pub(super) at: u64,
    pub(super) by_lb: bool,
    /// The load balancer's session then.
    pub(super) session: u64,
    /// The era of the node's date when it was asked.
    pub(super) era: u64,
}

/// What a load balancer last said of a group in a session.
#[derive(Clone, Copy)]
struct Spoken {
    at: u64,
    node: usize,
    /// When the session began.
    began: u64,
    /// The era of the node's date, and how wrong that may be.
    date: (u64, u64),
}

/// The sessions of load balancers, by their number.
#[derive(Default)]
pub(super) struct Sessions {
    /// The last one, and when it began.
    last: BTreeMap<&'static str, (u64, u64)>,
    spoken: BTreeMap<Group, BTreeMap<u64, Spoken>>,
    /// Groups of which a load balancer spoke shortly before its next session, or before its node came to know of another
    /// date, or in a session in which the node lost the date.
    hasty: BTreeSet<Group>,
    /// Memberships of which a member spoke.
    by_members: BTreeSet<Membership>,
}

impl Sessions {
    pub(super) fn begin(&mut self, lb: &'static str, now: u64) {
        let (number, began) = self.last.entry(lb).or_default();
        (*number, *began) = (*number + 1, now);
        let is_late = |spoken: &BTreeMap<u64, Spoken>| spoken.values().any(|spoken| spoken.at + TOLD > now);
        let late = self.spoken.iter().filter(|((of, _), spoken)| *of == lb && is_late(spoken));
        self.hasty.extend(late.map(|(group, _)| *group));
    }

    pub(super) fn last(&self, lb: &str) -> u64 {
        self.last.get(lb).map_or(0, |(number, _)| *number)
    }

    pub(super) fn spoke(&mut self, group: Group, node: usize, date: (u64, u64), now: u64) {
        let (number, began) = self.last.get(group.0).copied().unwrap_or_default();
        self.spoken.entry(group).or_default().insert(number, Spoken { at: now, node, began, date });
    }

    /// The node knows of another date now.
    pub(super) fn dated(&mut self, node: usize, is_lost: bool, now: u64) {
        for (group, spoken) in &self.spoken {
            let mut there = spoken.values().filter(|spoken| spoken.node == node);
            if there.any(|spoken| is_lost || spoken.at + TOLD > now) {
                self.hasty.insert(*group);
            }
        }
    }

    pub(super) fn members_spoke(&mut self, membership: Membership) {
        self.by_members.insert(membership);
    }

    /// The load balancer has not spoken of the group since this session, which is the last one for certain, and nobody else
    /// has spoken of the membership.
    fn is_last_word(&self, membership: &Membership, &Promise { session, era, .. }: &Promise) -> bool {
        let group = (membership.0, membership.1);
        let Some(spoken) = self.spoken.get(&group) else { return false };
        let Some((number, last)) = spoken.last_key_value() else { return false };
        let is_before = |earlier: &Spoken| {
            let apart = APART + last.date.1 + earlier.date.1;
            era != 0 && earlier.date.0 == era && last.began > earlier.began + apart
        };
        let is_certain = spoken.range(..session).all(|(_, earlier)| is_before(earlier));
        *number == session && is_certain && !self.hasty.contains(&group) && !self.by_members.contains(membership)
    }
}

impl World {
    /// Whether the load balancer has removed the member for good, whatever other nodes have of its earlier sessions.
    pub(super) fn holds(&self, membership: &Membership, promise: &Promise) -> bool {
        let removed = promise.by_lb && promise.is_there == Some(false);
        removed && self.is_strict && !self.new_ones_died && self.sessions.is_last_word(membership, promise)
    }

    pub(super) fn check_promises(&mut self) -> Result<(), String> {
        let Shown { lbs, members, .. } = self.shown(0);
        for lb in LBS {
            let here = self.clients.iter().find(|client| client.lb == Some(lb)).and_then(|client| client.at);
            if let Some((node, _)) = here
                && lbs.get(lb.as_bytes()).is_none_or(|(.., place)| place.as_deref() != Some(NAMES[node]))
            {
                return Err(format!("{lb} is connected to {}, and the nodes show {lbs:?}", NAMES[node]));
            }
        }
        if !self.is_strict {
            return Ok(());
        }
        for (membership, promise) in &self.promises {
            let (lb, group, member) = membership;
            let may_stay = self.unsure.contains(membership) || self.unions.contains(&(*lb, *group));
            if promise.is_there == Some(false) && may_stay && !self.holds(membership, promise) {
                continue;
            }
            let shown = members.iter().any(|(of, name, endpoint, _)| {
                **of == *lb.as_bytes() && **name == *group.as_bytes() && *wire::endpoint_name(endpoint) == **member
            });
            if promise.is_there.is_some_and(|is_there| is_there != shown) {
                return Err(format!("{lb}/{group} {member}: {promise:?}, shown: {shown}\n{members:#?}"));
            }
        }
        Ok(())
    }
}

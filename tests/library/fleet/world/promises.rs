//! What clients were promised, and which promises must hold.

use std::collections::{BTreeMap, BTreeSet};

use super::{Group, LBS, Membership, NAMES, Shown, World};
use crate::wire;

/// In so many milliseconds a node has told its replica of a session: sessions have the order of their stamps then.
const TOLD: u64 = 300;

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
}

/// The sessions of load balancers, by their number.
#[derive(Default)]
pub(super) struct Sessions {
    last: BTreeMap<&'static str, u64>,
    /// In which session a load balancer last spoke of a group, and when.
    spoken: BTreeMap<Group, (u64, u64)>,
    /// Groups of which a load balancer spoke shortly before its next session.
    hasty: BTreeSet<Group>,
    /// Memberships of which a member spoke.
    by_members: BTreeSet<Membership>,
}

impl Sessions {
    pub(super) fn begin(&mut self, lb: &'static str, now: u64) {
        *self.last.entry(lb).or_default() += 1;
        let late = self.spoken.iter().filter(|((of, _), (_, at))| *of == lb && at + TOLD > now);
        self.hasty.extend(late.map(|(group, _)| *group));
    }

    pub(super) fn last(&self, lb: &str) -> u64 {
        self.last.get(lb).copied().unwrap_or_default()
    }

    pub(super) fn spoke(&mut self, group: Group, now: u64) {
        let session = self.last(group.0);
        self.spoken.insert(group, (session, now));
    }

    pub(super) fn members_spoke(&mut self, membership: Membership) {
        self.by_members.insert(membership);
    }

    /// The load balancer has not spoken of the group since this session, and nobody else of the membership.
    fn is_last_word(&self, membership: &Membership, session: u64) -> bool {
        let group = (membership.0, membership.1);
        let last = self.spoken.get(&group).is_some_and(|(last, _)| *last == session);
        last && !self.hasty.contains(&group) && !self.by_members.contains(membership)
    }
}

impl World {
    /// Whether the load balancer has removed the member for good, whatever other nodes have of its earlier sessions. The
    /// state on disk does not know what was removed, and clocks tell the order of sessions.
    pub(super) fn holds(&self, membership: &Membership, promise: &Promise) -> bool {
        let removed = promise.by_lb && promise.is_there == Some(false);
        removed
            && self.is_on_time
            && self.is_strict
            && self.deaths_ahead == 0
            && self.sessions.is_last_word(membership, promise.session)
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

//! What is said of endpoints from outside: the operator's roster, the monitor's judgements, and the watch orders that
//! follow from registration and roster.

use std::sync::Arc;

use super::{
    Coordinator, Time, WatchOrder,
    ids::{EndpointId, GroupId, Id},
    verdicts::{Policies, Turn},
};
use crate::{judgement::Judgement, roster::Roster};

/// How many endpoints and groups one [`Coordinator::poll`] goes through before it gives others their
/// turn.
const SWEEP_PER_POLL: usize = 4096;

/// How many notes in groups take as long as going through one endpoint.
const MARKS: usize = 32;

/// Walks through everything that something has changed, a piece at a time: where each of them is.
#[derive(Default)]
pub(super) struct Sweep {
    /// Endpoints, of which the operator may say something else.
    endpoints: Option<usize>,
    /// Groups, which may have another policy.
    policies: Option<usize>,
    /// Groups, all of whose entries have changed, because failing open began or ended.
    all: Option<usize>,
    /// When the last piece was done.
    at: Time,
}

impl Sweep {
    /// When to go on: at once, if there is more.
    pub(super) fn unfinished(&self) -> Option<Time> {
        self.endpoints.or(self.policies).or(self.all).map(|_| self.at)
    }
}

impl Coordinator {
    /// Replaces what the operator says of members and groups. It is in force at once for what is registered from now
    /// on, and for the rest in pieces, the first of them now and the others with [`Coordinator::poll`].
    ///
    /// An endpoint that is watched before and after keeps what was judged of it, until its shard, which has the new
    /// roster too, says something else.
    pub fn set_roster(&mut self, now: Time, roster: Arc<Roster>) {
        self.settings.roster = roster.clone();
        self.tables.endpoints.set_roster(roster);
        (self.sweep.endpoints, self.sweep.policies) = (Some(0), Some(0));
        self.sweep(now);
    }

    /// Takes what a shard judges. What is said of an endpoint that is watched no longer, or under a later generation,
    /// is ignored.
    pub fn judge(&mut self, now: Time, judgements: &[Judgement]) {
        for judgement in judgements {
            if let Some((endpoint, change)) = self.tables.endpoints.judge(now, judgement) {
                self.spread(now, endpoint, change);
            }
        }
        self.decide(now, true);
    }

    /// Whether the GWM takes what it sees for its own fault: nothing is confident, and members that lost contact lately
    /// are shown as if they had it. [`Totals`](super::Totals) has the figures.
    pub fn fails_open(&self) -> bool {
        self.tables.endpoints.fails_open()
    }

    /// Whether [`Coordinator::take_watch_orders`] has something to give.
    pub fn has_watch_orders(&self) -> bool {
        self.tables.endpoints.has_orders()
    }

    /// Takes the watch orders of one endpoint: the end of an old watch, the beginning of a new one, or both, in this
    /// order. Orders that cancel each other while nobody takes them are never given.
    pub fn take_watch_orders(&mut self) -> impl Iterator<Item = WatchOrder> + use<> {
        let shards = u16::try_from(self.connections.len()).expect("as many as the coordinator was made for");
        self.tables.endpoints.take_orders(shards).into_iter().flatten()
    }

    /// What time and unfinished sweeps bring.
    pub(super) fn reconsider(&mut self, now: Time) {
        self.decide(now, false);
        self.sweep(now);
    }

    /// With `may_open` failing open may begin; it may end in any case.
    fn decide(&mut self, now: Time, may_open: bool) {
        if self.tables.endpoints.decide(now, may_open) {
            self.sweep.all = Some(0);
            self.sweep(now);
        }
    }

    /// Notes a change in the groups that list the endpoint and whose policy it concerns.
    fn spread(&mut self, now: Time, endpoint: EndpointId, change: Turn) {
        if change.words.is_empty() {
            return;
        }
        let plain = change.words == Policies::ALL && change.rates.is_empty();
        let groups = self.tables.endpoints.take_groups(endpoint);
        for &group in &groups {
            if !plain {
                let policy = self.tables.policies[group];
                if !change.words.contains(policy) {
                    continue;
                }
                if change.rates.contains(policy) {
                    self.tables.groups[group].rates_moved();
                }
            }
            // An endpoint may be in thousands of groups, and most have been noted for another one of theirs.
            if !self.tables.is_noted(group) {
                self.mark(now, group, Some(endpoint));
            }
        }
        self.tables.endpoints.put_groups(endpoint, groups);
    }

    /// Does a piece of what is to be gone through.
    fn sweep(&mut self, now: Time) {
        self.sweep.at = now;
        let mut left = SWEEP_PER_POLL;
        let ends = (self.tables.endpoints.ids(), self.tables.groups.end());
        while let Some(id) = next(&mut self.sweep.endpoints, ends.0, &mut left) {
            let id = EndpointId::at(id);
            if let Some(change) = self.tables.endpoints.reassess(id) {
                left = left.saturating_sub(self.tables.endpoints.groups(id).len() / MARKS);
                self.spread(now, id, change);
            }
        }
        while let Some(group) = next(&mut self.sweep.policies, ends.1, &mut left) {
            let group = GroupId::at(group);
            let Some(known) = self.tables.groups.get_mut(group) else { continue };
            let policy = self.settings.roster.policy(known.name());
            if std::mem::replace(&mut self.tables.policies[group], policy) != policy {
                known.forget_scale();
                self.mark(now, group, None);
            }
        }
        while let Some(group) = next(&mut self.sweep.all, ends.1, &mut left) {
            let group = GroupId::at(group);
            if self.tables.groups.get(group).is_some() {
                self.mark(now, group, None);
            }
        }
    }
}

/// The next number of a walk up to `end`, which is over then; none while nothing is `left` to be done in this turn.
fn next(walk: &mut Option<usize>, end: usize, left: &mut usize) -> Option<usize> {
    let at = (*walk)?;
    *left = left.checked_sub(1)?;
    *walk = (at < end).then_some(at + 1);
    walk.map(|_| at)
}

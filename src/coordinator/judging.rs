//! Endpoints: the operator's roster and the monitor's judgements come in, watch orders go out.

use std::sync::Arc;

use super::{
    Coordinator, Time, WatchOrder,
    ids::{EndpointId, GroupId, Id},
    verdicts::{Policies, VerdictDelta},
};
use crate::{judgement::Judgement, roster::Roster};

/// How many endpoints and groups one [`Coordinator::poll`] goes through at most.
const SWEEP_PER_POLL: usize = 4096;

/// How many notes in groups take as long as one endpoint.
const MARKS: usize = 32;

/// Loops over all endpoints or groups, done in pieces: where each loop is.
#[derive(Default)]
pub(super) struct Sweep {
    /// Over endpoints: the roster has changed.
    endpoints: Option<usize>,
    /// Over groups: the policy may have changed.
    policies: Option<usize>,
    /// Over groups: every entry has changed, because failing open began or ended.
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
    /// Puts a new roster in force: for new registrations at once, for existing ones in pieces, the first of them now
    /// and the others with [`Coordinator::poll`].
    ///
    /// An endpoint that stays watched keeps its verdicts until its shard, which has the new roster too, sends others.
    pub fn set_roster(&mut self, now: Time, roster: Arc<Roster>) {
        self.unmatched.set_roster(&roster);
        self.settings.roster = roster.clone();
        self.tables.endpoints.set_roster(roster);
        (self.sweep.endpoints, self.sweep.policies) = (Some(0), Some(0));
        self.sweep(now);
    }

    /// Takes a shard's judgements. A judgement about an endpoint that is no longer watched, or under a later
    /// generation, changes nothing.
    pub fn judge(&mut self, now: Time, judgements: &[Judgement]) {
        for judgement in judgements {
            if let Some((endpoint, change)) = self.tables.endpoints.take_judgement(now, judgement) {
                self.spread(now, endpoint, change);
            }
        }
        self.decide(now, true);
    }

    /// Whether the GWM fails open: it shows no member as confident, and members that lost contact lately with contact.
    /// [`Totals`](super::Totals) has the figures.
    pub fn fails_open(&self) -> bool {
        self.tables.endpoints.fails_open()
    }

    /// Whether [`Coordinator::take_watch_orders`] has orders.
    pub fn has_watch_orders(&self) -> bool {
        self.tables.endpoints.has_orders()
    }

    /// Takes the watch orders of one endpoint: the end of an old watch, the begin of a new watch, or both, in this
    /// order. Orders that cancel each other before they are taken are never given.
    pub fn take_watch_orders(&mut self) -> impl Iterator<Item = WatchOrder> + use<> {
        let shards = u16::try_from(self.connections.len()).expect("as many as the coordinator was made for");
        self.tables.endpoints.take_orders(shards).into_iter().flatten()
    }

    /// Does what is due by time: failing open, and the next piece of the loops.
    pub(super) fn reconsider(&mut self, now: Time) {
        self.decide(now, false);
        self.sweep(now);
    }

    /// Decides about failing open. It may begin only with `may_open`, and may end at any time.
    fn decide(&mut self, now: Time, may_open: bool) {
        if self.tables.endpoints.decide(now, may_open) {
            self.sweep.all = Some(0);
            self.sweep(now);
        }
    }

    /// Notes a turn of the verdicts in every group that lists the endpoint under a concerned policy.
    fn spread(&mut self, now: Time, endpoint: EndpointId, change: VerdictDelta) {
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
            // An endpoint may be in thousands of groups, and most of them have a note already.
            if !self.tables.is_noted(group) {
                self.mark(now, group, Some(endpoint));
            }
        }
        self.tables.endpoints.put_groups(endpoint, groups);
    }

    /// Does the next piece of the loops.
    fn sweep(&mut self, now: Time) {
        self.sweep.at = now;
        let mut left = SWEEP_PER_POLL;
        let ends = (self.tables.endpoints.ids(), self.tables.groups.end());
        while let Some(id) = next(&mut self.sweep.endpoints, ends.0, &mut left) {
            let id = EndpointId::at(id);
            if let Some(change) = self.tables.endpoints.reassess(now, id) {
                self.unmatched.has_endpoint(&self.tables.endpoints.endpoint(id), &self.settings.roster);
                left = left.saturating_sub(self.tables.endpoints.groups(id).len() / MARKS);
                self.spread(now, id, change);
            }
        }
        while let Some(group) = next(&mut self.sweep.policies, ends.1, &mut left) {
            let group = GroupId::at(group);
            let Some(known) = self.tables.groups.get_mut(group) else { continue };
            let (policy, entry) = self.settings.roster.policy_and_entry(known.name());
            self.unmatched.has_group(entry);
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

/// The next number of a loop up to `end`; `None` when the loop is over or nothing is `left` for this call.
fn next(walk: &mut Option<usize>, end: usize, left: &mut usize) -> Option<usize> {
    let at = (*walk)?;
    *left = left.checked_sub(1)?;
    *walk = (at < end).then_some(at + 1);
    walk.map(|_| at)
}

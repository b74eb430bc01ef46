//! What the nodes of a fleet know of endpoints together. Without a fleet nothing here is done.

use super::{
    super::{
        history::What,
        ids::EndpointId,
        shares::{Shares, Together},
        verdicts::VerdictDelta,
        worlds::{Sight, World},
    },
    Endpoints, Judged, Record, has_contact, is_up,
};
use crate::{
    judgement::{FoundBy, Verdicts},
    sasp::Endpoint,
    time::Time,
};

impl Endpoints {
    /// Whether this node checks an endpoint that is watched. Each node checks its witnesses.
    pub(super) fn is_mine(&self, endpoint: &Endpoint) -> bool {
        self.shares.as_ref().is_none_or(|shares| shares.is_mine(endpoint) || self.roster.is_witness(endpoint))
    }

    /// In a fleet, what other nodes find counts, too: see [`Endpoints::join`].
    pub(super) fn starts_unsure(&self, world: World) -> bool {
        self.shares.is_none() && self.worlds.sight(world) == Sight::Blind
    }

    /// Begins or ends this node's check of a watched endpoint, if its share of the endpoints has changed.
    pub(super) fn share(&mut self, id: EndpointId) {
        let Record { endpoint, world, .. } = self.records[id];
        let here = self.is_mine(&endpoint);
        if here == self.watches.is_here(id) {
            return;
        }
        let before = self.watches.evidence(id);
        self.watches.set_here(id, here, self.worlds.sight(world) == Sight::Blind);
        self.worlds.note(world, self.address(id), before, self.watches.evidence(id));
        if let Some(shares) = self.shares.as_mut().filter(|_| !here) {
            shares.end_own(id, endpoint);
        }
    }

    /// This node's own check has found this.
    pub(super) fn take_own(&mut self, now: Time, id: EndpointId, verdicts: &Verdicts) -> Option<Judged> {
        let is_early = !has_contact(verdicts)
            && !self.watches.has_been_up(id)
            && self.verdicts.judged(id).is_none_or(|shown| has_contact(&shown));
        let until = is_early.then(|| now + self.roster.find(&self.endpoint(id)).times.fall_window());
        let shares = self.shares.as_mut()?;
        if let Some(until) = until.filter(|_| shares.own(id).is_none()) {
            shares.set_early(id, until, verdicts);
            return None;
        }
        shares.set_own(id, verdicts);
        self.join(now, id)
    }

    /// A result of this node's own checks counts now: what is known of that endpoint; `None`: there is no such result.
    pub(in super::super) fn next_in_time(&mut self, now: Time) -> Option<Option<Judged>> {
        let id = self.shares.as_mut()?.next_in_time(now)?;
        let judged = self.join(now, id);
        if self.history.is_on() && judged.as_ref().is_some_and(|judged| !judged.delta.words.is_empty()) {
            self.remember(now, id, What::Verdicts);
        }
        Some(judged)
    }

    /// Applies what all nodes of the fleet know of a watched endpoint together; `None` without a fleet.
    pub(in super::super) fn join(&mut self, now: Time, id: EndpointId) -> Option<Judged> {
        let Record { endpoint, world, .. } = self.records[id];
        let shares = self.shares.as_ref().filter(|_| self.watches.is_wanted(id))?;
        match shares.together(id, &endpoint, self.worlds.sight(world) != Sight::Clear) {
            Together::Found(verdicts) => {
                // Before this node has a result of its own, what others found says nothing about this node.
                if is_up(&verdicts) && shares.own(id).is_some() {
                    let before = self.watches.evidence(id);
                    self.watches.answered_elsewhere(id);
                    self.worlds.note(world, self.address(id), before, self.watches.evidence(id));
                }
                let mut judged = self.take_verdicts(now, id, &verdicts);
                judged.delta = judged.delta | self.verdicts.set_unsure(id, false);
                Some(judged)
            }
            Together::Blind => {
                let mut delta = VerdictDelta::default();
                if !self.verdicts.is_unsure(id) {
                    delta = self.forget_old_loss(now, id) | self.verdicts.set_unsure(id, true);
                }
                Some(Judged { endpoint: id, delta, moved: false })
            }
            Together::Nothing => None,
        }
    }

    /// Another node of the fleet has found this; `None`: the node does not check the endpoint any more.
    pub(in super::super) fn take_remote(
        &mut self,
        now: Time,
        node: &str,
        endpoint: &Endpoint,
        verdicts: Option<&Verdicts>,
    ) -> Option<Judged> {
        self.shares.as_mut()?.set_remote(node, endpoint, verdicts);
        let id = self.find(endpoint)?;
        let judged = self.join(now, id)?;
        if self.history.is_on() && !judged.delta.words.is_empty() {
            self.remember(now, id, What::Verdicts);
        }
        Some(judged)
    }

    /// Who found how an endpoint stands; these verdicts count, if any do.
    pub(in super::super) fn found_by(&self, id: EndpointId, verdicts: Option<&Verdicts>) -> FoundBy {
        let agrees = |shares: &Shares, found| shares.own(id).is_some_and(|own| has_contact(own) == has_contact(found));
        match (&self.shares, verdicts) {
            _ if self.remembered.is_restored(id) => FoundBy::Earlier,
            (Some(shares), None) if shares.is_early(id) => FoundBy::Early,
            (Some(shares), Some(found)) if !agrees(shares, found) => FoundBy::Fleet,
            _ => FoundBy::Own,
        }
    }

    /// Whether this node is blind in a world, or was until lately.
    pub(in super::super) fn was_blind(&self, world: World) -> bool {
        self.worlds.sight(world) != Sight::Clear
    }
}

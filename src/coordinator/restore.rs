//! Tables of an earlier process → the tables of this one, before anybody is connected. Nothing is told to anybody, and no
//! limit is checked: a registration that was accepted stays, whatever the flags are now.

use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use super::{
    Coordinator, Time,
    change::Change,
    check::Found,
    ids::EndpointId,
    listing::{Step, Steps},
    load_balancer::Timer,
    outbox::Outbox,
    words::Word,
};
use crate::{
    judgement::Last,
    limits,
    sasp::{Endpoint, GroupData, Health, LbFlags, MemberData},
};

/// A membership as an earlier process had it.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// The member, and its label.
    pub member: MemberData<'a>,
    /// The load balancer registered the member (else the member itself).
    pub by_lb: bool,
    /// The member's opaque state.
    pub state: u8,
    /// The member is quiesced by SASP.
    pub quiesced: bool,
}

impl Coordinator {
    /// What [`Coordinator::restore_group`] of a later process needs of each group of a load balancer, in their order.
    pub fn known_groups<'c>(&'c self, uid: &[u8], mut take: impl FnMut(&'c [u8], Vec<Held<'c>>)) {
        let Some(lb) = self.tables.find_lb(uid) else { return };
        for &group in &self.tables.lbs[lb].groups {
            let listing = self.tables.listing(group);
            let held = listing.live().map(|(at, slot)| Held {
                member: MemberData {
                    endpoint: self.tables.endpoints.endpoint(slot.endpoint),
                    label: listing.label(at),
                },
                by_lb: slot.is_by_lb(),
                state: slot.state,
                quiesced: slot.is_quiesced(),
            });
            take(self.tables.groups[group].name(), held.collect());
        }
    }

    /// The operator's words that are in force.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        self.tables.endpoints.words.list().iter().map(|word| &**word)
    }

    /// How long load balancers are held.
    pub fn hold_time(&self) -> Duration {
        self.settings.hold_time
    }

    /// Notes from now on what [`Coordinator::take_judged`] gives.
    pub fn keep_judgements(&mut self) {
        self.tables.endpoints.remembered.turn_on();
    }

    /// Passes at most so many endpoints on: with new verdicts, or without any if the endpoint is forgotten.
    pub fn take_judged(&mut self, most: usize, mut take: impl FnMut(Endpoint, Option<Last>)) {
        let endpoints = &mut self.tables.endpoints;
        for _ in 0..most {
            if let Some(gone) = endpoints.remembered.next_gone() {
                take(gone, None);
                continue;
            }
            let Some(id) = endpoints.remembered.next_judged() else { return };
            if let Some(endpoint) = endpoints.get(id).copied()
                && let Some(verdicts) = endpoints.verdicts().judged(id)
            {
                let ramp_until = endpoints.remembered.ramp_until(id);
                take(endpoint, Some(Last { verdicts, ramp_until }));
            }
        }
    }

    /// Gives a member the verdicts that an earlier process had of it, so long ago. They count until they are older than the
    /// member's fall window; then the member has contact and its last weight, not confident, until it is judged. `false`, and
    /// nothing is done, if nothing watches the endpoint.
    pub fn restore_verdicts(&mut self, now: Time, endpoint: &Endpoint, last: &Last, age: Duration) -> bool {
        let Some((id, delta)) = self.tables.endpoints.restore(now, endpoint, last, age) else { return false };
        self.spread(now, id, delta);
        true
    }

    /// Puts a word of the operator in force again. Words come before groups, by rising number. `false`, and nothing is
    /// done, if a newer word is in force.
    pub fn restore_word(&mut self, now: Time, word: Word, out: &mut impl Outbox) -> bool {
        let fits = word.number > self.tables.endpoints.words.last;
        if fits {
            self.apply(now, Change::Say(&word), Found::default(), out);
        }
        fits
    }

    /// No word gets this number or a lower one.
    pub fn restore_word_number(&mut self, last: u64) {
        let known = &mut self.tables.endpoints.words.last;
        *known = last.max(*known);
    }

    /// Makes a load balancer known, without a connection and without groups. It is held until then, the whole hold time if
    /// that is `None`, and no longer than the hold time. `false`, and nothing is done, if the load balancer is known.
    pub fn restore_load_balancer(
        &mut self,
        now: Time,
        uid: &[u8],
        health: Health,
        flags: LbFlags,
        held_until: Option<Time>,
    ) -> bool {
        if self.tables.find_lb(uid).is_some() {
            return false;
        }
        let lb = self.tables.create_lb(uid);
        self.unmatched.has_lb(uid);
        let known = &mut self.tables.lbs[lb];
        (known.health, known.flags) = (health, flags);
        let longest = now + self.settings.hold_time;
        self.set_deadline(lb, Timer::Hold, held_until.map_or(longest, |until| until.clamp(now, longest)));
        true
    }

    /// Gives a load balancer another group, its last one, with these members. `false`, and nothing of the group is
    /// certain, if the load balancer is unknown, or if the group or a member is there twice.
    pub fn restore_group<'m>(
        &mut self,
        now: Time,
        data: GroupData<'_>,
        members: impl ExactSizeIterator<Item = Held<'m>>,
    ) -> bool {
        let Some(lb) = self.tables.find_lb(data.lb_uid) else { return false };
        if self.tables.find_name(lb, data.name).is_some() || members.len() > limits::MEMBERS_PER_GROUP as usize {
            return false;
        }
        let (policy, entry) = self.settings.roster.policy_and_entry(data.name);
        self.unmatched.has_group(entry);
        let group = self.tables.create_group(lb, data, policy);
        let mut seen: HashSet<EndpointId, FixedState> =
            HashSet::with_capacity_and_hasher(members.len(), self.tables.hasher());
        let (mut steps, mut states) = (Steps::default(), Steps::default());
        let words = !self.tables.endpoints.words.is_empty();
        for Held { member, by_lb, state, quiesced } in members {
            self.unmatched.has_endpoint(&member.endpoint, &self.settings.roster);
            let endpoint = self.tables.endpoints.intern(now, member.endpoint);
            if !seen.insert(endpoint) {
                return false;
            }
            let by_operator = words && self.tables.endpoints.words.quiesce(data.lb_uid, data.name, &member.endpoint);
            steps.add(endpoint, member, by_lb, by_operator);
            if (state, quiesced) != (0, false) {
                states.list.push(Step::State { endpoint, state, quiesce: quiesced });
            }
        }
        for steps in [steps, states] {
            if !steps.list.is_empty() {
                self.tables.change_members(group, &steps);
            }
        }
        true
    }
}

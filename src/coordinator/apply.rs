//! [`Change`] → tables. Only this file changes load balancers, groups and memberships, but for `restore.rs`, which fills
//! empty tables at the start. It refuses nothing.
//!
//! `encode.rs` and `pushes.rs` write only what was sent and what is due; `judging.rs` writes what is known of
//! endpoints.

use super::{
    Coordinator, Time,
    alarms::Alarm,
    change::{Change, CloseReason, Contested},
    check::Found,
    ids::{ConnectionId, GroupId, LbId},
    listing::Step,
    load_balancer::Timer,
    outbox::Outbox,
};
use crate::sasp::{
    GroupData, MemberFlags, SenderFlags,
    message::{DeregistrationRequest, RegistrationRequest, SetLbStateRequest, SetMemberStateRequest},
};

impl Coordinator {
    /// Applies a change that a coordinator made earlier, this one or another. Rights and limits are not checked again.
    /// Changes must come in the order in which they were made. Returns `false`, and changes nothing, if the change does
    /// not fit these tables: it names an unknown load balancer, group or member, or registers a member twice.
    pub fn replay(&mut self, now: Time, change: &Change<'_>, out: &mut impl Outbox) -> bool {
        let Some(found) = self.look_up(change) else { return false };
        self.apply(now, *change, found, out);
        true
    }

    /// Applies a change; `found` has the ids that the check of the change has looked up.
    pub(super) fn apply(&mut self, now: Time, change: Change<'_>, found: Found, out: &mut impl Outbox) {
        out.changed(now, &change);
        self.tell(&change);
        match change {
            Change::Bind { lb_uid, connection } => self.bind(now, lb_uid, connection, out),
            Change::Unbind { lb_uid, close } => self.unbind(now, lb_uid, close, out),
            Change::Elsewhere { lb_uid, node } => {
                let lb = self.know(lb_uid);
                self.part(lb, Some(CloseReason::TakenOver), out);
                self.tables.lbs[lb].deadline(Timer::Hold).at = None;
                self.tables.lbs[lb].elsewhere = Some(node.into());
            }
            Change::Hold { lb_uid, until } => {
                let lb = self.know(lb_uid);
                self.part(lb, Some(CloseReason::TakenOver), out);
                self.tables.lbs[lb].elsewhere = None;
                self.set_deadline(lb, Timer::Hold, until);
            }
            Change::Forget { lb_uid } => self.forget(lb_uid),
            Change::Register(request) => self.register(now, &request, found),
            Change::Deregister(request) => self.deregister(now, &request, &found),
            Change::SetLbState(request) => self.set_lb_state(now, &request),
            Change::SetMemberState(request) => self.set_member_state(now, &request, found),
            Change::Say(word) => self.say(now, word),
            Change::Unsay { number, by } => self.unsay(now, number, by, out),
        }
    }

    /// The load balancer, which may be new.
    fn know(&mut self, lb_uid: &[u8]) -> LbId {
        self.unmatched.has_lb(lb_uid);
        self.tables.find_lb(lb_uid).unwrap_or_else(|| self.tables.create_lb(lb_uid))
    }

    fn bind(&mut self, now: Time, lb_uid: &[u8], connection: ConnectionId, out: &mut impl Outbox) {
        let lb = self.tables.find_lb(lb_uid).unwrap_or_else(|| self.tables.create_lb(lb_uid));
        if let Some(before) = self.tables.lbs[lb].connection.filter(|before| *before != connection)
            && self.tables.lbs[lb].takeovers.note(now)
            && let (Some(before), Some(after)) = (self.known_peer(before), self.known_peer(connection))
        {
            out.contested(&Contested { lb_uid, before, after });
        }
        self.part(lb, Some(CloseReason::TakenOver), out);
        self.tables.lbs[lb].elsewhere = None;
        let Some(here) = self.connection(connection) else {
            // A replayed binding: the connection belonged to another process.
            return self.set_deadline(lb, Timer::Hold, now + self.settings.hold_time);
        };
        here.lb = Some(lb);
        self.unmatched.has_lb(lb_uid);
        let known = &mut self.tables.lbs[lb];
        known.deadline(Timer::Hold).at = None;
        known.connection = Some(connection);
        (known.bound_at, known.pushed_at) = (now, None);
        if known.pushing() {
            self.start_pushing(now, lb);
        }
    }

    fn unbind(&mut self, now: Time, lb_uid: &[u8], close: Option<CloseReason>, out: &mut impl Outbox) {
        let Some(lb) = self.tables.find_lb(lb_uid) else { return };
        self.part(lb, close, out);
        self.tables.lbs[lb].elsewhere = None;
        self.set_deadline(lb, Timer::Hold, now + self.settings.hold_time);
    }

    /// Parts the LB from its connection, if the LB has one. With a reason the connection is closed.
    fn part(&mut self, lb: LbId, close: Option<CloseReason>, out: &mut impl Outbox) {
        let Some(connection) = self.tables.lbs[lb].connection else { return };
        self.tables.detach(lb);
        if let Some(known) = self.connection(connection) {
            (known.lb, known.dismissed) = (None, close);
        }
        if let Some(reason) = close {
            out.close(connection, reason);
        }
    }

    fn forget(&mut self, lb_uid: &[u8]) {
        if let Some(lb) = self.tables.find_lb(lb_uid) {
            self.tables.drop_lb(lb);
        }
    }

    fn register(&mut self, now: Time, request: &RegistrationRequest<'_>, found: Found) {
        let by_lb = request.flags.contains(SenderFlags::LOAD_BALANCER);
        let mut targets = found.targets;
        for (at, group) in request.groups.into_iter().enumerate() {
            let first = targets[at].first;
            let id = match targets[first].group {
                Some(id) => id,
                None => {
                    let (policy, entry) = self.settings.roster.policy_and_entry(group.data.name);
                    self.unmatched.has_group(entry);
                    let id = self.tables.create_group(targets[at].lb, group.data, policy);
                    targets[first].group = Some(id);
                    self.mark(now, id);
                    id
                }
            };
            if group.count() == 0 {
                continue;
            }
            let mut steps = std::mem::take(&mut self.steps);
            steps.clear();
            let words = !self.tables.endpoints.words.is_empty();
            let (any_lost, mut has_lost) = (self.tables.endpoints.lost() > 0, false);
            for member in group.entries() {
                self.unmatched.has_endpoint(&member.endpoint, &self.settings.roster);
                let endpoint = self.tables.endpoints.intern(now, member.endpoint);
                has_lost |= any_lost && self.tables.endpoints.is_lost_lately(now, endpoint);
                self.tables.groups[id].adds(&member.endpoint);
                let quiesced = words && {
                    let GroupData { lb_uid, name } = group.data;
                    self.tables.endpoints.words.quiesce(lb_uid, name, &member.endpoint)
                };
                steps.add(endpoint, member, by_lb, quiesced);
            }
            self.tables.change_members(id, &steps);
            if has_lost {
                self.tables.doubts.suspect(id);
            }
            self.steps = steps;
            self.mark(now, id);
        }
    }

    fn deregister(&mut self, now: Time, request: &DeregistrationRequest<'_>, found: &Found) {
        let farewell = !request.flags.contains(SenderFlags::LOAD_BALANCER);
        let mut ended: Vec<GroupId> = Vec::new();
        for (group, target) in request.groups.into_iter().zip(&found.targets) {
            match target.group {
                None => ended.extend(&self.tables.lbs[target.lb].groups),
                Some(id) if group.count() == 0 => ended.push(id),
                Some(id) => {
                    let endpoints = &self.tables.endpoints;
                    let members: Vec<_> =
                        group.entries().filter_map(|member| endpoints.find(&member.endpoint)).collect();
                    self.tables.remove_members(id, &members, farewell);
                    self.mark(now, id);
                }
            }
        }
        if farewell {
            ended.iter().for_each(|&group| self.mark(now, group));
        }
        self.tables.remove_groups(&ended, farewell);
        if !farewell {
            // An LB that removes all its groups need not hear of groups that members removed before.
            for (group, target) in request.groups.into_iter().zip(&found.targets) {
                if group.data.name.is_empty() {
                    self.tables.drop_ghosts(target.lb);
                }
            }
        }
        *self.reasons.entry(request.reason).or_insert(0) += 1;
    }

    fn set_lb_state(&mut self, now: Time, request: &SetLbStateRequest<'_>) {
        let Some(lb) = self.tables.find_lb(request.lb_uid) else { return };
        let known = &mut self.tables.lbs[lb];
        known.health = request.health;
        let pushed = known.pushing();
        known.flags = request.flags;
        match (pushed, known.pushing()) {
            (false, true) => self.start_pushing(now, lb),
            (true, false) => self.tables.stop_pushing(lb),
            _ => {}
        }
    }

    fn set_member_state(&mut self, now: Time, request: &SetMemberStateRequest<'_>, found: Found) {
        let mut members = found.members.into_iter();
        for (group, target) in request.groups.into_iter().zip(&found.targets) {
            let Some(id) = target.group else { continue };
            let mut steps = std::mem::take(&mut self.steps);
            steps.clear();
            let listing = self.tables.listing(id);
            for (instance, endpoint) in group.entries().zip(&mut members) {
                let (state, quiesce) = (instance.state, instance.flags.contains(MemberFlags::QUIESCE));
                if listing.differs(endpoint, state, quiesce) {
                    steps.list.push(Step::State { endpoint, state, quiesce });
                }
            }
            if !steps.list.is_empty() {
                self.remember_quiesces(now, id, &steps.list);
                self.tables.change_members(id, &steps);
                self.mark(now, id);
            }
            self.steps = steps;
        }
    }

    /// Sets a deadline of an LB; a deadline never moves earlier.
    pub(super) fn set_deadline(&mut self, lb: LbId, timer: Timer, at: Time) {
        let known = &mut self.tables.lbs[lb];
        let serial = known.serial;
        let deadline = known.deadline(timer);
        deadline.at = Some(at);
        if !deadline.queued {
            deadline.queued = true;
            self.alarms.push(Alarm { at, serial, lb, timer });
        }
    }
}

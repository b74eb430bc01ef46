//! Every request: the checks in the order of the return codes, each over the whole message before the next, then
//! the change, all or nothing.

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use super::{ConnectionId, Coordinator, Kind, Outbox, Time, group::GroupId, load_balancer::LbId, rights::Ask};
use crate::{
    access::Act,
    limits,
    sasp::{
        Endpoint, Entry, GroupData, Groups, LbFlags, MemberFlags, ReturnCode, SenderFlags, Writer,
        message::{
            DeregistrationRequest, GetWeightsRequest, RegistrationRequest, SetLbStateRequest, SetMemberStateRequest,
        },
    },
};

/// How a request that was done is answered.
pub(super) enum Done {
    /// By a reply that is yet to be written: a return code.
    Code,
    /// The reply was committed.
    Replied,
}

type Result = std::result::Result<Done, ReturnCode>;

/// A group that a request names, looked up once.
struct Target {
    lb: LbId,
    /// `None` while it does not exist.
    group: Option<GroupId>,
    /// The first target of the request that names the same group, perhaps this one.
    first: usize,
}

impl Coordinator {
    pub(super) fn register(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: &RegistrationRequest<'_>,
        out: &mut impl Outbox,
    ) -> Result {
        let names = names(request.groups);
        check_uids(&names)?;
        check_group_names(&names)?;
        let act = Act::Register;
        let ask = Ask { flags: request.flags, creates: true, act: Some(act) };
        self.admit(now, connection, ask, &names, out)?;
        self.check_speaker(connection, request.flags, act, request.groups, out)?;
        let mut targets = self.targets(&names);
        check_duplicate_members(request.groups, &targets, self.tables.hasher())?;
        for (group, target) in request.groups.into_iter().zip(&targets) {
            let Some(id) = target.group else { continue };
            for member in group.entries() {
                let known = self.tables.endpoints.find(&member.endpoint);
                if known.is_some_and(|endpoint| self.tables.groups[id as usize].contains(endpoint)) {
                    return Err(ReturnCode::ALREADY_REGISTERED);
                }
            }
        }
        self.check_limits(request.groups, &targets)?;

        let by_lb = request.flags.contains(SenderFlags::LOAD_BALANCER);
        for (at, group) in request.groups.into_iter().enumerate() {
            let first = targets[at].first;
            let id = match targets[first].group {
                Some(id) => id,
                None => {
                    let id = self.tables.create_group(
                        targets[at].lb,
                        group.data,
                        self.settings.roster.policy(group.data.name),
                    );
                    targets[first].group = Some(id);
                    self.mark(now, id, None);
                    id
                }
            };
            self.tables.groups[id as usize].reserve(group.count().into());
            for member in group.entries() {
                let endpoint = self.tables.endpoints.intern(member.endpoint);
                let place = self.tables.endpoints.link(endpoint, id);
                self.tables.groups[id as usize].add(endpoint, member, place, by_lb);
                self.tables.member_added(targets[at].lb);
                self.mark(now, id, Some(endpoint));
            }
        }
        Ok(Done::Code)
    }

    pub(super) fn deregister(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: &DeregistrationRequest<'_>,
        out: &mut impl Outbox,
    ) -> Result {
        let names = names(request.groups);
        check_uids(&names)?;
        if request.groups.into_iter().any(|group| group.data.name.is_empty() && group.count() > 0) {
            return Err(ReturnCode::NOT_UNDERSTOOD);
        }
        let act = Act::Deregister;
        let ask = Ask { flags: request.flags, creates: false, act: Some(act) };
        self.admit(now, connection, ask, &names, out)?;
        self.check_speaker(connection, request.flags, act, request.groups, out)?;
        let targets = self.targets(&names);
        check_overlapping_removals(request, &targets, self.tables.hasher())?;
        check_duplicate_members(request.groups, &targets, self.tables.hasher())?;
        if names.iter().zip(&targets).any(|(name, target)| !name.name.is_empty() && target.group.is_none()) {
            return Err(ReturnCode::UNKNOWN_GROUP);
        }
        for (group, target) in request.groups.into_iter().zip(&targets) {
            let Some(id) = target.group else { continue };
            for member in group.entries() {
                let known = self.tables.endpoints.find(&member.endpoint);
                if !known.is_some_and(|endpoint| self.tables.groups[id as usize].contains(endpoint)) {
                    return Err(ReturnCode::NOT_REGISTERED);
                }
            }
        }

        let farewell = !request.flags.contains(SenderFlags::LOAD_BALANCER);
        let mut doomed: Vec<GroupId> = Vec::new();
        for (group, target) in request.groups.into_iter().zip(&targets) {
            match target.group {
                None => doomed.extend(&self.tables.lbs[target.lb as usize].groups),
                Some(id) if group.count() == 0 => doomed.push(id),
                Some(id) => {
                    for member in group.entries() {
                        let Some(endpoint) = self.tables.endpoints.find(&member.endpoint) else { continue };
                        self.tables.remove_member(id, endpoint, farewell);
                        self.mark(now, id, Some(endpoint));
                    }
                }
            }
        }
        if farewell {
            doomed.iter().for_each(|&group| self.mark(now, group, None));
        }
        self.tables.remove_groups(&doomed, farewell);
        if !farewell {
            // The LB that removes all its groups does not need to hear what members removed before.
            for (_, target) in names.iter().zip(&targets).filter(|(name, _)| name.name.is_empty()) {
                self.tables.drop_ghosts(target.lb);
            }
        }
        *self.reasons.entry(request.reason).or_insert(0) += 1;
        Ok(Done::Code)
    }

    pub(super) fn get_weights(
        &mut self,
        now: Time,
        connection: ConnectionId,
        id: u32,
        request: &GetWeightsRequest<'_>,
        out: &mut impl Outbox,
    ) -> Result {
        let names: Vec<GroupData<'_>> = request.groups.iter().collect();
        check_uids(&names)?;
        let ask = Ask { flags: SenderFlags::LOAD_BALANCER, creates: false, act: None };
        self.admit(now, connection, ask, &names, out)?;
        let targets = self.targets(&names);
        let all = names.iter().any(|name| name.name.is_empty());
        if all && names.len() > 1 || targets.iter().enumerate().any(|(at, target)| target.first != at) {
            return Err(ReturnCode::DUPLICATE_GROUP);
        }
        if !all && targets.iter().any(|target| target.group.is_none()) {
            return Err(ReturnCode::UNKNOWN_GROUP);
        }

        let mut listing = std::mem::take(&mut self.scratch.listing);
        listing.clear();
        listing.extend(targets.iter().filter_map(|target| target.group));
        let delta = targets.first().is_some_and(|target| self.tables.lbs[target.lb as usize].delta());
        if let Some(lb) = targets.first().filter(|_| all).map(|target| target.lb) {
            self.tables.list_all(lb, delta, &mut listing);
        }
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        let interval = self.settings.poll_interval_seconds;
        if !delta {
            buffer.reserve(self.tables.encoded_bytes(&listing));
        }
        let mut reply = Writer::get_weights_reply(buffer, id, ReturnCode::SUCCESSFUL, interval);
        for &id in &listing {
            let policy = self.tables.policies[id as usize];
            let verdicts = self.tables.endpoints.verdicts().view(policy, self.settings.weight_max);
            let group = &mut self.tables.groups[id as usize];
            let lb = group.lb;
            let epoch = self.tables.lbs[lb as usize].epoch;
            let owed = group.owed();
            if delta {
                // A group that a member removed is there for its farewells alone.
                if group.delta(epoch, verdicts, true, &mut self.scratch.group) > 0 || !group.removed {
                    reply.encoded_group(&self.scratch.group);
                }
            } else {
                let stale = std::mem::take(&mut self.tables.stale[id as usize]);
                reply.encoded_group(group.full(epoch, verdicts, stale).0);
            }
            let owes = self.tables.groups[id as usize].owed();
            self.tables.farewells_moved(lb, owed, owes);
        }
        reply.finish().expect("the limits keep every LB's tables within one message");
        self.scratch.listing = listing;
        if let Some(target) = targets.first().filter(|_| all) {
            if delta {
                self.tables.settle_ghosts(target.lb);
            } else {
                self.tables.drop_ghosts(target.lb);
            }
        }
        self.commit(connection, start, Kind::Reply, out);
        Ok(Done::Replied)
    }

    pub(super) fn set_lb_state(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: &SetLbStateRequest<'_>,
        out: &mut impl Outbox,
    ) -> Result {
        let name = GroupData { lb_uid: request.lb_uid, name: b"" };
        check_uids(&[name])?;
        let act = request.flags.contains(LbFlags::TRUST).then_some(Act::Trust);
        let ask = Ask { flags: SenderFlags::LOAD_BALANCER, creates: true, act };
        self.admit(now, connection, ask, &[name], out)?;
        let lb = self.tables.find_lb(request.lb_uid).expect("`admit` has made it known");
        let known = &mut self.tables.lbs[lb as usize];
        known.health = request.health;
        let pushed = known.pushing();
        known.flags = request.flags;
        match (pushed, known.pushing()) {
            (false, true) => self.start_pushing(now, lb),
            (true, false) => self.tables.stop_pushing(lb),
            _ => {}
        }
        Ok(Done::Code)
    }

    pub(super) fn set_member_state(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: &SetMemberStateRequest<'_>,
        out: &mut impl Outbox,
    ) -> Result {
        let names = names(request.groups);
        check_uids(&names)?;
        check_group_names(&names)?;
        let act = Act::SetState;
        let ask = Ask { flags: request.flags, creates: false, act: Some(act) };
        self.admit(now, connection, ask, &names, out)?;
        self.check_speaker(connection, request.flags, act, request.groups, out)?;
        let targets = self.targets(&names);
        if targets.iter().enumerate().any(|(at, target)| target.first != at) {
            return Err(ReturnCode::DUPLICATE_GROUP);
        }
        check_duplicate_members(request.groups, &targets, self.tables.hasher())?;
        if targets.iter().any(|target| target.group.is_none()) {
            return Err(ReturnCode::UNKNOWN_GROUP);
        }
        let mut found = Vec::with_capacity(request.groups.into_iter().map(|group| usize::from(group.count())).sum());
        for (group, target) in request.groups.into_iter().zip(&targets) {
            let Some(id) = target.group else { continue };
            for instance in group.entries() {
                match self.tables.endpoints.find(&instance.member.endpoint) {
                    Some(endpoint) if self.tables.groups[id as usize].contains(endpoint) => {
                        found.push((id, endpoint, instance.state, instance.flags.contains(MemberFlags::QUIESCE)));
                    }
                    _ => return Err(ReturnCode::NOT_REGISTERED),
                }
            }
        }
        for (group, endpoint, state, quiesce) in found {
            if self.tables.groups[group as usize].set_state(endpoint, state, quiesce) {
                self.mark(now, group, Some(endpoint));
            }
        }
        Ok(Done::Code)
    }

    fn targets(&self, names: &[GroupData<'_>]) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::with_capacity(names.len());
        let mut firsts: HashMap<GroupData<'_>, usize, FixedState> = HashMap::with_hasher(self.tables.hasher());
        for (at, name) in names.iter().enumerate() {
            let lb = match at.checked_sub(1) {
                Some(before) if names[before].lb_uid == name.lb_uid => targets[before].lb,
                _ => self.tables.find_lb(name.lb_uid).expect("`admit` has seen every LB of the message"),
            };
            let first = if names.len() == 1 { 0 } else { *firsts.entry(*name).or_insert(at) };
            targets.push(Target { lb, group: self.tables.find_group(lb, name.name), first });
        }
        targets
    }

    /// The GWM's own limits, on what would be if the request were done. What an LB has yet to hear the end of is
    /// still there.
    fn check_limits<'a, T: Entry<'a>>(
        &self,
        groups: Groups<'a, T>,
        targets: &[Target],
    ) -> std::result::Result<(), ReturnCode> {
        let mut members = 0u64;
        let mut created = 0u64;
        // Members and groups.
        let mut more_by_lb: HashMap<LbId, (u64, u64), FixedState> = HashMap::with_hasher(self.tables.hasher());
        let mut added: HashMap<usize, u64, FixedState> = HashMap::with_hasher(self.tables.hasher());
        for (at, (group, target)) in groups.into_iter().zip(targets).enumerate() {
            let more = more_by_lb.entry(target.lb).or_default();
            members += u64::from(group.count());
            more.0 += u64::from(group.count());
            *added.entry(target.first).or_insert(0) += u64::from(group.count());
            let new = || self.tables.find_name(target.lb, group.data.name).is_none();
            if target.first == at && target.group.is_none() && new() {
                created += 1;
                more.1 += 1;
            }
        }
        let too_many_members = added.iter().any(|(&first, &added)| {
            let existing = targets[first].group.map_or(0, |group| self.tables.groups[group as usize].len());
            u64::from(existing) + added > self.settings.max_members_per_group.into()
        });
        let too_many_of_an_lb = more_by_lb.iter().any(|(&lb, &(members, created))| {
            let known = &self.tables.lbs[lb as usize];
            let groups = (known.groups.len() + known.ghosts.len()) as u64;
            groups + created > self.settings.max_groups_per_lb.into()
                || u64::from(known.held) + members > self.settings.max_memberships_per_lb.into()
        });
        let held = u64::from(self.tables.memberships) + u64::from(self.tables.farewells);
        let full = held + members > self.settings.max_memberships.into()
            || self.tables.groups_and_ghosts() as u64 + created > self.settings.max_groups.into();
        if too_many_members || too_many_of_an_lb || full { Err(ReturnCode::INVALID_GROUP) } else { Ok(()) }
    }
}

fn names<'a, T: Entry<'a>>(groups: Groups<'a, T>) -> Vec<GroupData<'a>> {
    groups.into_iter().map(|group| group.data).collect()
}

fn check_uids(names: &[GroupData<'_>]) -> std::result::Result<(), ReturnCode> {
    let valid = |name: &GroupData<'_>| (1..=limits::LB_UID_BYTES).contains(&name.lb_uid.len());
    if names.iter().all(valid) { Ok(()) } else { Err(ReturnCode::LB_UID_SIZE) }
}

fn check_group_names(names: &[GroupData<'_>]) -> std::result::Result<(), ReturnCode> {
    if names.iter().any(|name| name.name.is_empty()) { Err(ReturnCode::GROUP_NAME_SIZE) } else { Ok(()) }
}

/// The same member twice in the same group, also when the group is repeated.
fn check_duplicate_members<'a, T: Entry<'a>>(
    groups: Groups<'a, T>,
    targets: &[Target],
    hasher: FixedState,
) -> std::result::Result<(), ReturnCode> {
    let members = groups.into_iter().map(|group| usize::from(group.count())).sum();
    if members < 2 {
        return Ok(());
    }
    let mut seen: HashSet<(usize, Endpoint), FixedState> = HashSet::with_capacity_and_hasher(members, hasher);
    for (group, target) in groups.into_iter().zip(targets) {
        for entry in group.entries() {
            if !seen.insert((target.first, entry.member().endpoint)) {
                return Err(ReturnCode::DUPLICATE_MEMBER);
            }
        }
    }
    Ok(())
}

/// A group that is removed whole and named again, or a removal of all groups that is not alone for its LB.
fn check_overlapping_removals(
    request: &DeregistrationRequest<'_>,
    targets: &[Target],
    hasher: FixedState,
) -> std::result::Result<(), ReturnCode> {
    if targets.len() < 2 {
        return Ok(());
    }
    let mut named_by_lb: HashMap<LbId, u32, FixedState> = HashMap::with_hasher(hasher.clone());
    let mut named: HashMap<usize, u32, FixedState> = HashMap::with_hasher(hasher);
    for target in targets {
        *named_by_lb.entry(target.lb).or_insert(0) += 1;
        *named.entry(target.first).or_insert(0) += 1;
    }
    for (group, target) in request.groups.into_iter().zip(targets) {
        let alone = if group.data.name.is_empty() { named_by_lb[&target.lb] == 1 } else { named[&target.first] == 1 };
        if group.count() == 0 && !alone {
            return Err(ReturnCode::DUPLICATE_GROUP);
        }
    }
    Ok(())
}

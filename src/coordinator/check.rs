//! Request → [`Change`], or a return code. A check changes nothing.
//!
//! Each check reads the whole message before the next check begins, in the order of the return codes (PROTOCOL.md,
//! section 3): form and sender first, which may bind the connection; then content. A refusal of the content does not
//! undo the binding.

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use super::{
    Coordinator,
    change::Change,
    ids::{ConnectionId, EndpointId, GroupId, LbId},
    rights::{Ask, Denied},
};
use crate::{
    access::Act,
    limits,
    sasp::{
        Endpoint, Entry, GroupData, Groups, LbFlags, Message, ReturnCode, SenderFlags,
        message::{DeregistrationRequest, RegistrationRequest},
    },
};

/// The ids that a check has looked up, so that `apply` does not look them up again.
#[derive(Default)]
pub(super) struct Found {
    /// One for each group that the request names.
    pub(super) targets: Vec<Target>,
    /// One for each member of a Set Member State Request.
    pub(super) members: Vec<EndpointId>,
}

/// A group that a request names.
pub(super) struct Target {
    pub(super) lb: LbId,
    /// `None` while the group does not exist.
    pub(super) group: Option<GroupId>,
    /// The first target of the request that names the same group, perhaps this one.
    pub(super) first: usize,
}

type Result<T> = std::result::Result<T, ReturnCode>;

/// The groups that a request names, in its order; for Set LB State, the LB without a group.
pub(super) fn names<'a>(message: &Message<'a>) -> Vec<GroupData<'a>> {
    fn of<'a, T: Entry<'a>>(groups: Groups<'a, T>) -> Vec<GroupData<'a>> {
        groups.into_iter().map(|group| group.data).collect()
    }
    match message {
        Message::RegistrationRequest(request) => of(request.groups),
        Message::DeregistrationRequest(request) => of(request.groups),
        Message::GetWeightsRequest(request) => request.groups.iter().collect(),
        Message::SetLbStateRequest(request) => vec![GroupData { lb_uid: request.lb_uid, name: b"" }],
        Message::SetMemberStateRequest(request) => of(request.groups),
        _ => Vec::new(),
    }
}

impl Coordinator {
    /// Steps 3 to 6: sizes and the sender's rights. Returns the binding that the request makes, if any.
    pub(super) fn check_sender<'a>(
        &self,
        connection: ConnectionId,
        message: &Message<'a>,
        names: &[GroupData<'a>],
    ) -> std::result::Result<Option<Change<'a>>, Denied<'a>> {
        check_uid_sizes(names)?;
        let lb = SenderFlags::LOAD_BALANCER;
        match message {
            Message::RegistrationRequest(request) => {
                check_name_sizes(names)?;
                let ask = Ask { flags: request.flags, creates: true, act: Some(Act::Register) };
                self.check_rights(connection, ask, names, request.groups)
            }
            Message::DeregistrationRequest(request) => {
                if request.groups.into_iter().any(|group| group.data.name.is_empty() && group.count() > 0) {
                    return Err(ReturnCode::NOT_UNDERSTOOD.into());
                }
                let ask = Ask { flags: request.flags, creates: false, act: Some(Act::Deregister) };
                self.check_rights(connection, ask, names, request.groups)
            }
            Message::GetWeightsRequest(_) => {
                self.check_lb(connection, Ask { flags: lb, creates: false, act: None }, names)
            }
            Message::SetLbStateRequest(request) => {
                let act = request.flags.contains(LbFlags::TRUST).then_some(Act::Trust);
                self.check_lb(connection, Ask { flags: lb, creates: true, act }, names)
            }
            Message::SetMemberStateRequest(request) => {
                check_name_sizes(names)?;
                let ask = Ask { flags: request.flags, creates: false, act: Some(Act::SetState) };
                self.check_rights(connection, ask, names, request.groups)
            }
            _ => Err(ReturnCode::NOT_UNDERSTOOD.into()), // the session lets only requests through
        }
    }

    /// Steps 7 to 9 for a request that changes something.
    pub(super) fn check_content<'a>(
        &self,
        message: &Message<'a>,
        names: &[GroupData<'a>],
    ) -> Result<(Change<'a>, Found)> {
        let targets = self.targets(names).expect("the check of the sender has seen every LB of the message");
        let hasher = self.tables.hasher();
        let mut members = Vec::new();
        let change = match *message {
            Message::RegistrationRequest(request) => {
                check_duplicate_members(request.groups, &targets, hasher)?;
                for (group, target) in request.groups.into_iter().zip(&targets) {
                    let Some(id) = target.group else { continue };
                    if group.entries().any(|member| self.find_member(id, &member.endpoint).is_some()) {
                        return Err(ReturnCode::ALREADY_REGISTERED);
                    }
                }
                Change::Register(request)
            }
            Message::DeregistrationRequest(request) => {
                check_overlapping_removals(&request, &targets, hasher.clone())?;
                check_duplicate_members(request.groups, &targets, hasher)?;
                if names.iter().zip(&targets).any(|(name, target)| !name.name.is_empty() && target.group.is_none()) {
                    return Err(ReturnCode::UNKNOWN_GROUP);
                }
                for (group, target) in request.groups.into_iter().zip(&targets) {
                    let Some(id) = target.group else { continue };
                    if group.entries().any(|member| self.find_member(id, &member.endpoint).is_none()) {
                        return Err(ReturnCode::NOT_REGISTERED);
                    }
                }
                Change::Deregister(request)
            }
            Message::SetLbStateRequest(request) => Change::SetLbState(request),
            Message::SetMemberStateRequest(request) => {
                if has_duplicates(&targets) {
                    return Err(ReturnCode::DUPLICATE_GROUP);
                }
                check_duplicate_members(request.groups, &targets, hasher)?;
                if targets.iter().any(|target| target.group.is_none()) {
                    return Err(ReturnCode::UNKNOWN_GROUP);
                }
                members = self.members(request.groups, &targets).ok_or(ReturnCode::NOT_REGISTERED)?;
                Change::SetMemberState(request)
            }
            _ => return Err(ReturnCode::NOT_UNDERSTOOD), // the check of the sender lets only requests through
        };
        Ok((change, Found { targets, members }))
    }

    /// Steps 7 and 8 for Get Weights: the groups that it names, or all groups of the LB (`true`).
    pub(super) fn check_listing(&self, names: &[GroupData<'_>]) -> Result<(Vec<Target>, bool)> {
        let targets = self.targets(names).expect("the check of the sender has seen every LB of the message");
        let all = names.iter().any(|name| name.name.is_empty());
        if all && names.len() > 1 || has_duplicates(&targets) {
            return Err(ReturnCode::DUPLICATE_GROUP);
        }
        if !all && targets.iter().any(|target| target.group.is_none()) {
            return Err(ReturnCode::UNKNOWN_GROUP);
        }
        Ok((targets, all))
    }

    /// The ids for [`Coordinator::apply`] of a change that was checked elsewhere; `None` if the change does not fit
    /// these tables.
    pub(super) fn look_up(&self, change: &Change<'_>) -> Option<Found> {
        let message = match *change {
            Change::Bind { .. } | Change::Elsewhere { .. } | Change::Hold { .. } | Change::Say(_) => {
                return Some(Found::default());
            }
            Change::Unsay { number, .. } => {
                let known = self.tables.endpoints.words.list().iter().any(|word| word.number == number);
                return known.then(Found::default);
            }
            Change::Unbind { lb_uid, .. } | Change::Forget { lb_uid } => {
                return self.tables.find_lb(lb_uid).map(|_| Found::default());
            }
            Change::Register(request) => Message::RegistrationRequest(request),
            Change::Deregister(request) => Message::DeregistrationRequest(request),
            Change::SetLbState(request) => Message::SetLbStateRequest(request),
            Change::SetMemberState(request) => Message::SetMemberStateRequest(request),
        };
        let names = names(&message);
        self.targets(&names)?;
        self.check_content(&message, &names).ok().map(|(_, found)| found)
    }

    /// The groups that a request names; `None` if an LB is unknown.
    fn targets(&self, names: &[GroupData<'_>]) -> Option<Vec<Target>> {
        let mut targets: Vec<Target> = Vec::with_capacity(names.len());
        let mut firsts: HashMap<GroupData<'_>, usize, FixedState> = HashMap::with_hasher(self.tables.hasher());
        for (at, name) in names.iter().enumerate() {
            let lb = match at.checked_sub(1) {
                Some(before) if names[before].lb_uid == name.lb_uid => targets[before].lb,
                _ => self.tables.find_lb(name.lb_uid)?,
            };
            let first = if names.len() == 1 { 0 } else { *firsts.entry(*name).or_insert(at) };
            targets.push(Target { lb, group: self.tables.find_group(lb, name.name), first });
        }
        Some(targets)
    }

    fn find_member(&self, group: GroupId, member: &Endpoint) -> Option<EndpointId> {
        self.tables.endpoints.find(member).filter(|&endpoint| self.tables.listing(group).find(endpoint).is_some())
    }

    /// All members that a request names, if they are in their groups.
    fn members<'a, T: Entry<'a>>(&self, groups: Groups<'a, T>, targets: &[Target]) -> Option<Vec<EndpointId>> {
        let mut members = Vec::with_capacity(groups.into_iter().map(|group| usize::from(group.count())).sum());
        for (group, target) in groups.into_iter().zip(targets) {
            for entry in group.entries() {
                members.push(self.find_member(target.group?, &entry.member().endpoint)?);
            }
        }
        Some(members)
    }

    /// Step 10: the GWM's own limits, on the tables as they would be after the request. A group or member counts until
    /// its LB has heard of its end.
    pub(super) fn check_limits(&self, change: &Change<'_>, targets: &[Target]) -> Result<()> {
        let Change::Register(RegistrationRequest { groups, .. }) = *change else { return Ok(()) };
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
            let existing = targets[first].group.map_or(0, |group| self.tables.listing(group).len());
            u64::from(existing) + added > self.settings.max_members_per_group.into()
        });
        let too_many_of_an_lb = more_by_lb.iter().any(|(&lb, &(members, created))| {
            let known = &self.tables.lbs[lb];
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

fn check_uid_sizes(names: &[GroupData<'_>]) -> Result<()> {
    let valid = |name: &GroupData<'_>| (1..=limits::LB_UID_BYTES).contains(&name.lb_uid.len());
    if names.iter().all(valid) { Ok(()) } else { Err(ReturnCode::LB_UID_SIZE) }
}

fn check_name_sizes(names: &[GroupData<'_>]) -> Result<()> {
    if names.iter().any(|name| name.name.is_empty()) { Err(ReturnCode::GROUP_NAME_SIZE) } else { Ok(()) }
}

fn has_duplicates(targets: &[Target]) -> bool {
    targets.iter().enumerate().any(|(at, target)| target.first != at)
}

/// The same member twice in the same group, also when the group is repeated.
fn check_duplicate_members<'a, T: Entry<'a>>(
    groups: Groups<'a, T>,
    targets: &[Target],
    hasher: FixedState,
) -> Result<()> {
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
) -> Result<()> {
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

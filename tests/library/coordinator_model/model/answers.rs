//! The model's replies to requests: the checks in the order of the return codes, then the change.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

impl Model {
    /// The reply, and the connections to close.
    pub(crate) fn request(
        &mut self,
        now: u64,
        on: ConnectionId,
        id: u32,
        request: &Request,
    ) -> (Bytes, Vec<ConnectionId>) {
        let before = self.view();
        let mut closes = Vec::new();
        let verdict = self.check(now, on, request, &mut closes);
        let groups = match verdict {
            Ok(()) => self.apply(now, request),
            Err(_) => Vec::new(),
        };
        self.watch(now);
        self.open_windows(now, &before, request.sender_is_lb());
        self.connection(on).in_flight = true;
        let code = verdict.err().unwrap_or(0);
        let reply = match request {
            Request::GetWeights { .. } => {
                let interval = match verdict {
                    Ok(()) => self.interval(now, request.groups()),
                    Err(_) => self.settings.poll_interval_seconds,
                };
                wire::get_weights_reply(id, code, interval, &groups)
            }
            _ => wire::simple_reply(id, request.reply_type(), code),
        };
        (reply, closes)
    }

    /// The Interval of the reply to a Get Weights Request that was accepted [4]. All checks have intervals below a second.
    fn interval(&mut self, now: u64, groups: &[Named]) -> u16 {
        let poll = self.settings.poll_interval_seconds;
        let Some(lb) = groups.first().and_then(|named| self.lbs.get(&named.uid)) else { return poll };
        let asked = |group: &&Group| groups.iter().any(|named| named.name.is_empty() || named.name == group.name);
        let mut members = lb.groups.iter().filter(asked).flat_map(|group| &group.members);
        let waits = |member: &Membership| self.watched.get(&member.endpoint).is_some_and(Watched::waits);
        if !members.any(waits) {
            return poll;
        }
        let late = now >= self.verdicts_until;
        *self.seen.entry(if late { "verdict too late for a short Interval" } else { "short Interval" }).or_default() +=
            1;
        if late { poll } else { poll.min(1) }
    }

    /// The page's steps in their order [3]; binds the connection between step 6 and step 7 [4].
    fn check(
        &mut self,
        now: u64,
        on: ConnectionId,
        request: &Request,
        closes: &mut Vec<ConnectionId>,
    ) -> Result<(), Code> {
        if request.uids().is_empty() {
            return Ok(()); // no group: nothing to do, and no LB to bind
        }
        checks::uid_sizes(request)?;
        checks::name_sizes(request)?;
        self.check_rights(on, request)?;
        self.check_lb_known(request)?;
        if request.sender_is_lb() {
            self.bind(now, on, request.uids()[0], closes);
        }
        checks::duplicate_groups(request)?;
        checks::duplicate_members(request)?;
        self.check_groups_known(request)?;
        self.check_members(request)?;
        self.check_limits(request)
    }

    /// Step 5.
    fn check_rights(&self, on: ConnectionId, request: &Request) -> Result<(), Code> {
        let uids = request.uids();
        let connection = self.connections.iter().find(|connection| connection.id == on).expect("it is open");
        if request.sender_is_lb() {
            let same = uids.iter().all(|uid| uid == &uids[0]);
            let own = connection.bound.as_ref().is_none_or(|bound| bound == uids[0]);
            let creates = matches!(request, Request::Register { .. } | Request::SetLbState { .. });
            let room = self.lbs.len() < self.settings.max_load_balancers as usize;
            let welcome = !creates || room || self.lbs.contains_key(uids[0]);
            let proved = self.rules.is_lb(connection.source, uids[0]);
            return if same && own && proved && !connection.replaced && welcome { Ok(()) } else { Err(0x11) };
        }
        if !uids.iter().all(|&uid| self.lbs.contains_key(uid)) {
            return Err(0x61);
        }
        if !uids.iter().all(|&uid| self.lbs[uid].flags & wire::TRUST != 0) {
            return Err(0x11);
        }
        for named in request.groups() {
            let lb = &self.lbs[&named.uid];
            let whole = matches!(request, Request::Deregister { .. }) && named.items.is_empty();
            let groups = lb.groups.iter().filter(|group| whole && (named.name.is_empty() || group.name == named.name));
            let mut concerned: Vec<Endpoint> = named.items.iter().map(|item| item.endpoint).collect();
            concerned.extend(groups.flat_map(|group| &group.members).map(|member| member.endpoint));
            if !concerned.iter().all(|endpoint| self.rules.speaks_for(connection.source, endpoint)) {
                return Err(0x11);
            }
        }
        Ok(())
    }

    /// Step 6: an LB becomes known by Registration or Set LB State.
    fn check_lb_known(&self, request: &Request) -> Result<(), Code> {
        match request {
            Request::Register { .. } | Request::SetLbState { .. } => Ok(()),
            _ if request.uids().iter().all(|&uid| self.lbs.contains_key(uid)) => Ok(()),
            _ => Err(0x43),
        }
    }

    fn bind(&mut self, now: u64, on: ConnectionId, uid: &[u8], closes: &mut Vec<ConnectionId>) {
        if self.connection(on).bound.is_some() {
            return;
        }
        self.connection(on).bound = Some(uid.to_vec());
        let lb = self.lbs.entry(uid.to_vec()).or_insert_with(|| {
            self.lbs_ever += 1;
            Lb { number: self.lbs_ever - 1, ..Lb::default() }
        });
        if lb.expires.take().is_some() {
            *self.seen.entry("held state taken up").or_default() += 1;
        }
        let before = lb.session.replace(Session {
            connection: on,
            sent: BTreeMap::new(),
            shown: BTreeMap::new(),
            farewells: Vec::new(),
            gone: Vec::new(),
            window: None,
            changed: BTreeSet::new(),
            full: false,
            next_refresh: None,
            no_room: false,
        });
        if lb.flags & wire::PUSH != 0 {
            lb.start_push(now, &self.settings);
        }
        if let Some(before) = before {
            *self.seen.entry("takeover").or_default() += 1;
            closes.push(before.connection);
            let old = self.connection(before.connection);
            old.bound = None;
            old.replaced = true;
        }
    }

    /// Step 8.
    fn check_groups_known(&self, request: &Request) -> Result<(), Code> {
        if matches!(request, Request::Register { .. }) {
            return Ok(());
        }
        let unknown = |group: &Named| !group.name.is_empty() && self.group(group).is_none();
        if request.groups().iter().any(unknown) { Err(0x42) } else { Ok(()) }
    }

    /// Step 9.
    fn check_members(&self, request: &Request) -> Result<(), Code> {
        for named in request.groups() {
            for item in &named.items {
                let there = self
                    .group(named)
                    .is_some_and(|group| group.members.iter().any(|member| member.endpoint == item.endpoint));
                match request {
                    Request::Register { .. } if there => return Err(0x40),
                    Request::Deregister { .. } | Request::SetMemberState { .. } if !there => return Err(0x41),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Step 10: limits on the tables after the request. A group or member counts until its LB has heard of its end.
    fn check_limits(&self, request: &Request) -> Result<(), Code> {
        let Request::Register { groups, .. } = request else { return Ok(()) };
        let mut after = self.lbs.clone();
        register(&mut after, groups, request.sender_is_lb(), &mut 0);
        let over = |count: usize, limit: u32| count > limit as usize;
        let settings = &self.settings;
        let held = |lb: &Lb| {
            let members: usize = lb.groups.iter().map(|group| group.members.len()).sum();
            members + lb.session.as_ref().map_or(0, |session| session.farewells.len())
        };
        let groups = |lb: &Lb| lb.groups.len() + lb.session.as_ref().map_or(0, |session| session.gone.len());
        let bad = over(after.values().map(held).sum(), settings.max_memberships)
            || after.values().any(|lb| over(held(lb), settings.max_memberships_per_lb))
            || over(after.values().map(groups).sum(), settings.max_groups)
            || after.values().any(|lb| over(groups(lb), settings.max_groups_per_lb))
            || after
                .values()
                .flat_map(|lb| &lb.groups)
                .any(|group| over(group.members.len(), settings.max_members_per_group));
        if bad { Err(0x45) } else { Ok(()) }
    }

    /// Does what the checked request asks; returns the groups of a Get Weights Reply.
    fn apply(&mut self, now: u64, request: &Request) -> Vec<Weights> {
        let from_lb = request.sender_is_lb();
        match request {
            Request::Register { groups, .. } => {
                register(&mut self.lbs, groups, from_lb, &mut self.last_id);
                self.suspect_lost(now, groups);
            }
            Request::Deregister { groups, .. } => {
                for named in groups {
                    let roster = &self.settings.roster;
                    deregister(self.lbs.get_mut(&named.uid).expect("step 6"), named, from_lb, roster);
                }
            }
            Request::SetMemberState { groups, .. } => {
                for named in groups {
                    let lb = self.lbs.get_mut(&named.uid).expect("step 6");
                    let group = lb.groups.iter_mut().find(|group| group.name == named.name).expect("step 8");
                    for item in &named.items {
                        let member =
                            group.members.iter_mut().find(|member| member.endpoint == item.endpoint).expect("step 9");
                        member.state = item.state;
                        member.quiesced = item.flags & 1 != 0;
                    }
                }
            }
            Request::SetLbState { uid, flags, .. } => {
                let lb = self.lbs.get_mut(uid).expect("bound");
                let (before, after) = (lb.flags & wire::PUSH, flags & wire::PUSH);
                lb.flags = *flags;
                if before == 0 && after != 0 {
                    lb.start_push(now, &self.settings);
                } else if after == 0 {
                    lb.stop_push();
                }
            }
            Request::GetWeights { groups } => {
                let Some(first) = groups.first() else { return Vec::new() };
                let listed = |uid: &[u8], name: &[u8]| {
                    uid == first.uid && (first.name.is_empty() || groups.iter().any(|group| group.name == name))
                };
                self.weigh_suspects(now, listed);
                let Model { settings, watched, worlds, .. } = self;
                let knowledge = Knowledge { settings, watched, worlds };
                let lb = self.lbs.get_mut(&first.uid).expect("step 6");
                let delta = lb.flags & wire::NO_CHANGE != 0;
                let wanted: Vec<Bytes> = if first.name.is_empty() {
                    lb.all_names()
                } else {
                    groups.iter().map(|group| group.name.clone()).collect()
                };
                let mut reply: Vec<Weights> =
                    wanted.iter().map(|name| lb.tell(&first.uid, name, delta, knowledge)).collect();
                // A removed group is listed only with farewells.
                reply.retain(|group| !group.entries.is_empty() || lb.group(&group.name).is_some());
                if first.name.is_empty() {
                    lb.session.as_mut().expect("bound").gone.clear();
                }
                return reply;
            }
        }
        Vec::new()
    }
}

fn register(lbs: &mut BTreeMap<Bytes, Lb>, groups: &[Named], by_lb: bool, last_id: &mut u64) {
    let mut next = || {
        *last_id += 1;
        *last_id
    };
    for named in groups {
        let lb = lbs.get_mut(&named.uid).expect("bound, or a member's and known");
        if lb.group(&named.name).is_none() {
            let gone = lb.session.as_mut().and_then(|session| {
                let at = session.gone.iter().position(|group| group.name == named.name)?;
                Some(session.gone.remove(at))
            });
            // The LB has not heard of the removal: for the LB this is the same group.
            let id = gone.map_or_else(&mut next, |group| group.id);
            lb.groups.push(Group {
                id,
                order: next(),
                name: named.name.clone(),
                members: Vec::new(),
                scale: None,
                doubt: Doubt::default(),
            });
        }
        let group = lb.groups.iter_mut().find(|group| group.name == named.name).expect("just made");
        for item in &named.items {
            let (endpoint, label) = (item.endpoint, item.label.clone());
            group.members.push(Membership { id: next(), endpoint, label, by_lb, state: 0, quiesced: false });
        }
    }
}

fn deregister(lb: &mut Lb, named: &Named, from_lb: bool, roster: &Roster) {
    let all_groups = named.name.is_empty();
    let whole_group = named.items.is_empty();
    let mut ended = Vec::new();
    for group in lb.groups.iter_mut().filter(|group| all_groups || group.name == named.name) {
        if whole_group {
            ended.extend(group.members.drain(..).map(|member| (group.name.clone(), member)));
        }
        group.doubt.suspect |= group.doubt.is_open();
        for item in &named.items {
            let at = group.members.iter().position(|member| member.endpoint == item.endpoint).expect("step 9");
            ended.push((group.name.clone(), group.members.remove(at)));
        }
    }
    let mut removed = Vec::new();
    if whole_group {
        removed.extend(lb.groups.extract_if(.., |group| all_groups || group.name == named.name));
    }
    let Some(session) = &mut lb.session else { return };
    if from_lb {
        if all_groups {
            session.gone.clear();
        }
        if whole_group {
            session.farewells.retain(|farewell| !all_groups && farewell.group != named.name);
        }
        return;
    }
    for (group, member) in ended {
        if session.sent.contains_key(&member.id) {
            let quiesced = member.quiesced || roster.find(&member.endpoint).quiesced;
            let entry = [member.state, u8::from(quiesced) << 1 | u8::from(member.by_lb) << 2 | 8, 0, 0];
            session.farewells.push(Farewell { group, endpoint: member.endpoint, label: member.label, entry });
        }
    }
    session.gone.extend(removed.into_iter().filter(|group| session.shown.contains_key(&group.id)));
}

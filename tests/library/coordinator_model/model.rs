//! The coordinator's rules once more, to be read beside PROTOCOL.md: plain lists, everything computed anew at every
//! step. Numbers in brackets are sections of that page. This file has the state, monitoring and pushes.

mod answers;
mod doubt;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gwm::{
    coordinator::{ConnectionId, Settings, Totals},
    judgement::Scale,
    roster::Roster,
    sasp::Endpoint,
};

use super::{
    checks,
    monitored::{Said, Watched, Word, watchable},
    rights::{Rules, Source},
};
use crate::wire::{self, Listed, Named, Request, Weights};
use doubt::{Doubt, World, world};

pub(crate) type Code = u8;
type Bytes = Vec<u8>;

pub(crate) struct Model {
    pub(crate) settings: Settings,
    pub(crate) rules: Rules,
    pub(crate) connections: Vec<Connection>,
    pub(crate) lbs: BTreeMap<Bytes, Lb>,
    /// The endpoints that the GWM watches.
    pub(crate) watched: BTreeMap<Endpoint, Watched>,
    /// This machine's own addresses, and others.
    worlds: [World; 2],
    /// By then every watch that has begun should have its first verdict.
    verdicts_until: u64,
    /// How many LBs became known, those included that are forgotten.
    lbs_ever: u64,
    /// The last number of a group or membership. One that was removed and made again has another number.
    last_id: u64,
    /// How often rare events happened; the test checks that they did.
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) source: Source,
    pub(crate) bound: Option<Bytes>,
    /// Another connection took over its LB, or new rules do not let it be that LB: the coordinator asked to close it.
    pub(crate) replaced: bool,
    /// A message to this connection is not delivered yet.
    pub(crate) in_flight: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Lb {
    /// How many LBs became known before this one.
    number: u64,
    pub(crate) flags: u8,
    pub(crate) groups: Vec<Group>,
    /// The bound connection and its memory, or the end of the hold time.
    pub(crate) session: Option<Session>,
    pub(crate) expires: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Group {
    id: u64,
    /// Grows with every registered group: their order.
    order: u64,
    pub(crate) name: Bytes,
    pub(crate) members: Vec<Membership>,
    /// The scale of the last message about the group.
    scale: Option<Scale>,
    doubt: Doubt,
}

#[derive(Clone)]
pub(crate) struct Membership {
    id: u64,
    pub(crate) endpoint: Endpoint,
    label: Bytes,
    by_lb: bool,
    state: u8,
    quiesced: bool,
}

/// The memory per connection of an LB.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) connection: ConnectionId,
    /// The last sent entry of each membership.
    sent: BTreeMap<u64, [u8; 4]>,
    /// The members in the last message about each group.
    shown: BTreeMap<u64, BTreeSet<u64>>,
    farewells: Vec<Farewell>,
    /// Groups that the LB was sent and a member removed whole, until the LB hears of the removal.
    gone: Vec<Group>,
    /// The end of the open window; in the past while the push waits.
    window: Option<u64>,
    /// The groups that changed since the window opened.
    changed: BTreeSet<u64>,
    /// The window's push lists all groups.
    full: bool,
    next_refresh: Option<u64>,
    /// A push is due and waits for room.
    no_room: bool,
}

/// A membership that a member ended, and the LB has yet to hear of that.
#[derive(Clone)]
struct Farewell {
    group: Bytes,
    endpoint: Endpoint,
    label: Bytes,
    entry: [u8; 4],
}

/// What an LB could be sent now, by UID and the group's number: every membership's number, its own state, and the
/// verdict on its endpoint, even if quiescing hides the verdict.
type View = BTreeMap<Bytes, BTreeMap<u64, Vec<(u64, (u8, bool), Said)>>>;

/// All that the entry of an endpoint depends on.
#[derive(Clone, Copy)]
struct Knowledge<'a> {
    settings: &'a Settings,
    watched: &'a BTreeMap<Endpoint, Watched>,
    worlds: &'a [World; 2],
}

impl Model {
    pub(crate) fn new(settings: Settings) -> Model {
        Model {
            settings,
            rules: Rules::default(),
            connections: Vec::new(),
            lbs: BTreeMap::new(),
            watched: BTreeMap::new(),
            worlds: Default::default(),
            verdicts_until: 0,
            lbs_ever: 0,
            last_id: 0,
            seen: BTreeMap::new(),
        }
    }

    pub(crate) fn opened(&mut self, id: ConnectionId, source: Source) {
        self.connections.push(Connection { id, source, bound: None, replaced: false, in_flight: false });
    }

    pub(crate) fn closed(&mut self, now: u64, id: ConnectionId) {
        self.connections.retain(|connection| connection.id != id);
        let hold_time = nanoseconds(self.settings.hold_time);
        for lb in self.lbs.values_mut() {
            if lb.session.as_ref().is_some_and(|session| session.connection == id) {
                lb.session = None;
                lb.expires = Some(now + hold_time);
            }
        }
    }

    pub(crate) fn delivered(&mut self, id: ConnectionId) {
        self.connection(id).in_flight = false;
    }

    /// Puts new rules in force; returns the connections to close.
    pub(crate) fn set_rules(&mut self, now: u64, rules: Rules) -> Vec<ConnectionId> {
        let mut closes = Vec::new();
        for connection in &mut self.connections {
            if connection.bound.as_ref().is_some_and(|uid| !rules.is_lb(connection.source, uid)) {
                let lb = self.lbs.get_mut(&connection.bound.take().expect("it is bound")).expect("it is known");
                (lb.session, lb.expires) = (None, Some(now + nanoseconds(self.settings.hold_time)));
                connection.replaced = true;
                closes.push(connection.id);
                *self.seen.entry("no LB any more").or_default() += 1;
            }
        }
        self.rules = rules;
        closes
    }

    pub(crate) fn set_roster(&mut self, now: u64, roster: Arc<Roster>) {
        let before = self.view();
        let policies = self.policies();
        self.settings.roster = roster;
        self.watch(now);
        self.open_windows(now, &before, false);
        let after = self.policies();
        for (uid, lb) in &mut self.lbs {
            for group in &mut lb.groups {
                if policies[&(uid.clone(), group.id)] != after[&(uid.clone(), group.id)] {
                    group.scale = None;
                    if let Some(session) = lb.session.as_mut().filter(|_| lb.flags & wire::PUSH != 0) {
                        session.changed.insert(group.id);
                        session.window.get_or_insert(now + nanoseconds(self.settings.push_window));
                    }
                }
            }
        }
    }

    /// Sets each group's policy.
    fn policies(&self) -> BTreeMap<(Bytes, u64), gwm::judgement::Policy> {
        let groups = self.lbs.iter().flat_map(|(uid, lb)| lb.groups.iter().map(move |group| (uid, group)));
        groups.map(|(uid, group)| ((uid.clone(), group.id), self.settings.roster.policy(&group.name))).collect()
    }

    /// Watches the endpoints that groups list and that can be watched, and no others.
    fn watch(&mut self, now: u64) {
        let groups = self.lbs.values().flat_map(|lb| &lb.groups);
        let listed: BTreeSet<Endpoint> = groups.flat_map(|g| &g.members).map(|member| member.endpoint).collect();
        let Model { settings, watched, last_id, verdicts_until, .. } = self;
        let wanted = |endpoint: &Endpoint| listed.contains(endpoint) && watchable(settings, endpoint);
        watched.retain(|endpoint, _| wanted(endpoint));
        for endpoint in listed.iter().filter(|endpoint| wanted(endpoint)) {
            watched.entry(*endpoint).or_insert_with(|| {
                *last_id += 1;
                *verdicts_until =
                    (*verdicts_until).max(now + nanoseconds(settings.roster.find(endpoint).times.fall_window()));
                Watched::new(*last_id)
            });
        }
    }

    /// Takes a shard's verdicts.
    pub(crate) fn judge(&mut self, now: u64, judgements: &[(Endpoint, Word)]) {
        let before = self.view();
        for (endpoint, word) in judgements {
            self.judge_one(now, endpoint, word);
        }
        self.open_windows(now, &before, false);
        self.decide(now);
    }

    /// Does what is due at `now`; returns the pushes in any order. `room`: whether a connection's shard takes a push.
    pub(crate) fn poll(&mut self, now: u64, room: impl Fn(ConnectionId) -> bool) -> Vec<(ConnectionId, Bytes)> {
        self.decide(now);
        self.end_doubts(now);
        self.weigh_suspects(now, |_, _| true);
        let known = self.lbs.len();
        self.lbs.retain(|_, lb| lb.expires.is_none_or(|expires| expires > now));
        *self.seen.entry("hold time over").or_default() += (known - self.lbs.len()) as u64;
        self.watch(now);

        let period = nanoseconds(self.settings.push_refresh);
        let mut pushes = Vec::new();
        let knowledge = Knowledge { settings: &self.settings, watched: &self.watched, worlds: &self.worlds };
        for (uid, lb) in &mut self.lbs {
            let delta = lb.flags & wire::NO_CHANGE != 0;
            let Some(session) = &mut lb.session else { continue };
            if session.next_refresh.is_some_and(|next| next <= now) {
                session.next_refresh = Some(next_refresh(lb.number, now, period));
                if !delta {
                    // The refresh has the window's changes.
                    (session.full, session.window) = (true, Some(now));
                }
            }
            if session.window.is_none_or(|end| end > now) {
                continue;
            }
            let connection = self.connections.iter_mut().find(|c| c.id == session.connection).expect("it is open");
            if connection.in_flight {
                *self.seen.entry("push waits for delivery").or_default() += 1;
                continue;
            }
            session.no_room = !room(connection.id);
            if session.no_room {
                *self.seen.entry("push waits for room").or_default() += 1;
                continue;
            }
            let (all, changed) = (session.full, std::mem::take(&mut session.changed));
            (session.window, session.full) = (None, false);
            let mut groups = Vec::new();
            for name in lb.all_names() {
                let group = lb.shown_group(&name).expect("just listed");
                if !all && !changed.contains(&group.id) && lb.group(&name).is_some() {
                    continue;
                }
                lb.rescale(&name, knowledge);
                if delta || all || lb.has_changed(lb.shown_group(&name).expect("just listed"), knowledge) {
                    groups.push(lb.tell(uid, &name, delta, knowledge));
                }
            }
            lb.session.as_mut().expect("bound").gone.clear();
            if delta {
                groups.retain(|group| !group.entries.is_empty());
                if groups.iter().any(|group| group.entries.iter().any(|listed| listed.entry[1] & 1 == 0)) {
                    *self.seen.entry("farewell pushed").or_default() += 1;
                }
            }
            if !groups.is_empty() {
                *self.seen.entry(if delta { "push of changes" } else { "push" }).or_default() += 1;
                if groups.iter().any(|group| group.entries.is_empty()) {
                    *self.seen.entry("empty group pushed").or_default() += 1;
                }
                connection.in_flight = true;
                pushes.push((connection.id, wire::send_weights(&groups)));
            } else {
                *self.seen.entry("window without a push").or_default() += 1;
            }
        }
        pushes
    }

    /// The next time at which a poll does something, unless an event comes first.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let mut due = Vec::new();
        due.extend(self.next_turn());
        for lb in self.lbs.values() {
            due.extend(lb.expires);
            let Some(session) = &lb.session else { continue };
            let in_flight = self.connections.iter().any(|c| c.id == session.connection && c.in_flight);
            if !in_flight && !session.no_room {
                due.extend(session.window);
                if lb.flags & wire::NO_CHANGE == 0 {
                    due.extend(session.next_refresh);
                }
            }
        }
        due.into_iter().min()
    }

    pub(crate) fn totals(&self) -> Totals {
        let groups = || self.lbs.values().flat_map(|lb| &lb.groups);
        let members = || groups().flat_map(|group| &group.members);
        Totals {
            load_balancers: self.lbs.len(),
            groups: groups().count(),
            memberships: members().count(),
            endpoints: members().map(|member| member.endpoint).collect::<BTreeSet<_>>().len(),
            watched: self.watched.len(),
            answering: self.watched.values().filter(|watched| watched.answers).count(),
            doubted: groups().filter(|group| group.doubt.is_open()).count(),
            listings: self.listings(),
        }
    }

    /// How many different contents the groups with members have: what the coordinator keeps once.
    fn listings(&self) -> usize {
        let groups = self.lbs.values().flat_map(|lb| &lb.groups).filter(|group| !group.members.is_empty());
        let contents = groups.map(|group| {
            let content = |member: &Membership| {
                let Membership { endpoint, label, by_lb, state, quiesced, .. } = member.clone();
                (endpoint, label, by_lb, state, quiesced)
            };
            let members: Vec<_> = group.members.iter().map(content).collect();
            (self.settings.roster.policy(&group.name) as u8, members)
        });
        contents.collect::<BTreeSet<_>>().len()
    }

    pub(crate) fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        self.connections.iter_mut().find(|connection| connection.id == id).expect("it is open")
    }

    fn group(&self, named: &Named) -> Option<&Group> {
        self.lbs.get(&named.uid)?.group(&named.name)
    }

    fn view(&self) -> View {
        let knowledge = self.knowledge();
        let members = |group: &Group| {
            let said = |member: &Membership| knowledge.said(group, &member.endpoint);
            group.members.iter().map(|member| (member.id, (member.state, member.quiesced), said(member))).collect()
        };
        let groups = |lb: &Lb| lb.groups.iter().map(|group| (group.id, members(group))).collect();
        self.lbs.iter().map(|(uid, lb)| (uid.clone(), groups(lb))).collect()
    }

    fn knowledge(&self) -> Knowledge<'_> {
        Knowledge { settings: &self.settings, watched: &self.watched, worlds: &self.worlds }
    }

    /// A change opens the window of every concerned push LB, unless a window is open [4]. A group that the LB itself
    /// removed is no change for the LB.
    fn open_windows(&mut self, now: u64, before: &View, by_lb: bool) {
        let after = self.view();
        let none = BTreeMap::new();
        for (uid, lb) in &mut self.lbs {
            let Some(session) = lb.session.as_mut().filter(|_| lb.flags & wire::PUSH != 0) else { continue };
            let (before, after) = (before.get(uid).unwrap_or(&none), &after[uid]);
            let changed: Vec<u64> = after.keys().filter(|id| before.get(id) != after.get(id)).copied().collect();
            let removed = before.keys().any(|id| !after.contains_key(id));
            if !changed.is_empty() || removed && !by_lb {
                session.window.get_or_insert(now + nanoseconds(self.settings.push_window));
            }
            session.changed.extend(changed);
        }
    }
}

impl Lb {
    pub(crate) fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    fn start_push(&mut self, now: u64, settings: &Settings) {
        let session = self.session.as_mut().expect("only a bound LB says so");
        session.window = Some(now + nanoseconds(settings.push_window));
        session.full = true;
        session.next_refresh = Some(next_refresh(self.number, now, nanoseconds(settings.push_refresh)));
    }

    fn stop_push(&mut self) {
        let session = self.session.as_mut().expect("only a bound LB says so");
        (session.window, session.full, session.next_refresh) = (None, false, None);
        session.changed.clear();
    }

    /// A group of this name: an existing one, or a removed one of which the LB has yet to hear.
    fn shown_group(&self, name: &[u8]) -> Option<&Group> {
        let gone = self.session.iter().flat_map(|session| &session.gone);
        self.groups.iter().chain(gone).find(|group| group.name == name)
    }

    /// All groups, and removed ones of which the LB has yet to hear, in the order of their registration.
    fn all_names(&self) -> Vec<Bytes> {
        let gone = self.session.iter().flat_map(|session| &session.gone);
        let mut groups: Vec<&Group> = self.groups.iter().chain(gone).collect();
        groups.sort_by_key(|group| group.order);
        groups.into_iter().map(|group| group.name.clone()).collect()
    }

    /// Computes the scale of a group before a message lists the group.
    fn rescale(&mut self, name: &[u8], knowledge: Knowledge<'_>) {
        // A removed group has no members, and so no scale.
        let Some(group) = self.groups.iter_mut().find(|group| group.name == name) else { return };
        let rates = |member: &Membership| {
            let said = knowledge.said(group, &member.endpoint);
            said.rate().filter(|_| said.has_contact(group.doubt.is_open()))
        };
        let rates: Vec<_> = group.members.iter().filter_map(rates).collect();
        group.scale = Scale::follow(group.scale, rates.into_iter());
    }

    fn has_changed(&self, group: &Group, knowledge: Knowledge<'_>) -> bool {
        let session = self.session.as_ref().expect("bound");
        let members: BTreeSet<u64> = group.members.iter().map(|member| member.id).collect();
        session.shown.get(&group.id) != Some(&members)
            || group.members.iter().any(|member| session.sent.get(&member.id) != Some(&knowledge.entry(group, member)))
    }

    /// The entries of one group in a message; they count as sent.
    fn tell(&mut self, uid: &[u8], name: &[u8], delta: bool, knowledge: Knowledge<'_>) -> Weights {
        self.rescale(name, knowledge);
        let group = self.shown_group(name).expect("step 8").clone();
        let session = self.session.as_mut().expect("bound");
        let mut entries = Vec::new();
        for member in &group.members {
            let entry = knowledge.entry(&group, member);
            let before = session.sent.insert(member.id, entry);
            if !delta || before != Some(entry) {
                entries.push(Listed { endpoint: member.endpoint, label: member.label.clone(), entry });
            }
        }
        for farewell in session.farewells.extract_if(.., |farewell| farewell.group == name) {
            // The member is registered again: only its present entry is listed.
            let back = group.members.iter().any(|member| member.endpoint == farewell.endpoint);
            if delta && !back {
                entries.push(Listed { endpoint: farewell.endpoint, label: farewell.label, entry: farewell.entry });
            }
        }
        if !delta || !entries.is_empty() {
            session.shown.insert(group.id, group.members.iter().map(|member| member.id).collect());
        }
        Weights { uid: uid.to_vec(), name: name.to_vec(), entries }
    }
}

impl Knowledge<'_> {
    fn said(&self, group: &Group, endpoint: &Endpoint) -> Said {
        let policy = self.settings.roster.policy(&group.name);
        let blind = self.worlds[world(self.settings, endpoint)].is_blind();
        Said::of(self.settings.roster.find(endpoint), self.watched.get(endpoint), policy, blind)
    }

    /// The weight entry [5].
    fn entry(&self, group: &Group, member: &Membership) -> [u8; 4] {
        let said = self.said(group, &member.endpoint);
        let quiesced = member.quiesced || said.quiesced;
        let doubted = group.doubt.is_open();
        let (contact, confident) = (said.has_contact(doubted), said.is_confident(doubted));
        let weight = if quiesced || !contact { 0 } else { said.weight(group.scale, self.settings.weight_max) };
        let bits = [contact, quiesced, member.by_lb, confident];
        let flags = bits.iter().rev().fold(0, |flags, &bit| flags << 1 | u8::from(bit));
        let [high, low] = weight.to_be_bytes();
        [member.state, flags, high, low]
    }
}

/// When the LB with this number is refreshed after `now`. In each period the first LB has the begin, the second the middle,
/// the next two the middles of the halves, and so on: the digits of the number behind a binary point, the last one first.
fn next_refresh(number: u64, now: u64, period: u64) -> u64 {
    let digits = (0..64).filter(|digit| (number >> digit) & 1 == 1);
    let point: u128 = digits.map(|digit| 1 << (63 - digit)).sum();
    let point = ((point * u128::from(period)) >> 64) as u64;
    now + period - (now + period - point) % period
}

pub(crate) fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a test's durations are short")
}

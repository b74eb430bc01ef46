//! What comes from this node's coordinator, and from the state on disk.

use std::sync::Arc;

use super::{
    super::{
        clock::{self, is_later},
        gone, merge,
        rows::{Content, Gone, Group, Lb, Member, RowKey, Stamp, WordRow},
    },
    Moment, Replica, Row, lb,
};
use crate::{
    coordinator::Membership,
    journal::{self, Ahead, Began, Date, Did, Entry, Known, OwnRow},
    judgement::Verdicts,
    sasp::{Endpoint, GroupData, Health, LbFlags, MemberFlags, Message, SenderFlags, message::SetLbStateRequest},
};

impl Replica {
    /// What of the state on disk the store may lack, and what the state on disk knew of the store; before all of its rows.
    ///
    /// Of rows that this node has changed by itself, and nobody in the store since, its removals hold, too. If somebody has,
    /// whatever is on one side stays, unless it is known that the load balancer deregistered it later. All other rows are
    /// the store's. If it is another store, or an older one, whatever is on one side stays.
    pub fn restored(&mut self, ahead: Ahead, known: Known) {
        self.restored = (known.store != 0).then_some(known);
        self.ahead = match ahead {
            Ahead::Own(owns) if self.restored.is_none() => Ahead::All(owns),
            ahead => ahead,
        };
    }

    /// Whether the state on disk has a change of the row that the store may lack, and what is known of that.
    pub(super) fn own(&self, key: &RowKey) -> Option<OwnRow> {
        match &self.ahead {
            Ahead::Nothing => None,
            Ahead::Own(owns) => owns.rows.get(key).cloned(),
            Ahead::All(owns) => Some(OwnRow { is_whole: true, ..owns.rows.get(key).cloned().unwrap_or_default() }),
        }
    }

    /// A session at a former life of this node.
    fn former_session(&self, began: &Began) -> Option<Stamp> {
        let (Ahead::Own(owns) | Ahead::All(owns)) = &self.ahead else { return None };
        clock::marked_before(&self.settings.node, owns.dates.get(&began.life)?, began.at)
    }

    /// A row of the state on disk, as the coordinator got it.
    pub fn restore(&mut self, row: &journal::Row, at: Moment) {
        let (key, content) = match row {
            journal::Row::Verdicts { .. } => return,
            journal::Row::Word(word) => {
                (RowKey::Word(word.number), Content::Word(WordRow::new(word.clone(), at.epoch)))
            }
            journal::Row::LoadBalancer { uid, health, flags, held_until } => {
                let held_until = held_until.unwrap_or_else(|| at.epoch.date(at.now + self.settings.hold_time));
                let (born, session) = (Stamp::default(), Stamp::default());
                let (health, flags) = (*health, *flags);
                let held_until = Some(held_until);
                let lb = Lb { born, session, incarnation: 0, held_until, health, flags };
                (RowKey::LoadBalancer(uid.clone()), Content::LoadBalancer(lb))
            }
            journal::Row::Group { lb_uid, name, members } => {
                let key = RowKey::Group(lb_uid.clone(), name.clone());
                return self.restore_group(key, members);
            }
        };
        let is_own = self.own(&key).is_some();
        let content = Some(Arc::new(content));
        let row = self.row(&key);
        row.mine = content.clone();
        if is_own {
            self.dirty.insert(key);
        } else {
            row.base = content;
        }
    }

    fn restore_group(&mut self, key: RowKey, members: &[journal::Member]) {
        let own = self.own(&key);
        let did = |own: &OwnRow, endpoint: &Endpoint| own.members.get(endpoint).map(|(did, _)| *did);
        // The disk does not know the ids. A member may have left and come back without the store: it gets a new one.
        let mut next = self.next_ids(own.as_ref().map_or(0, |_| members.len() as u16));
        let mut id = |endpoint: &Endpoint| match &own {
            Some(own) if own.is_whole || did(own, endpoint) == Some(Did::Joined) => {
                next += 1;
                next
            }
            _ => 0,
        };
        let members: Vec<Member> = members
            .iter()
            .map(|member| {
                let journal::Member { endpoint, by_lb, state, quiesced, .. } = *member;
                let label = member.label.clone();
                Member { id: id(&endpoint), membership: Membership { endpoint, by_lb, label, state, quiesced } }
            })
            .collect();
        let (born, gone) = (Stamp::default(), Vec::new());
        let mut group = Group { born, session: Stamp::default(), members, gone };
        let Some(own) = own else {
            let content = Some(Arc::new(Content::Group(group)));
            let row = self.row(&key);
            (row.mine, row.base) = (content.clone(), content);
            return;
        };
        let base = (!own.is_whole).then(|| {
            let before = |member: &Member| {
                let mut before = member.clone();
                // Which state the member had before, nobody knows any more: another one.
                before.membership.quiesced ^= did(&own, &member.membership.endpoint) == Some(Did::Changed);
                before
            };
            let members = group.members.iter().filter(|member| member.id == 0).map(before).collect();
            Arc::new(Content::Group(Group { members, ..group.clone() }))
        });
        let spoken = own.session.map(|began| self.former_session(&began).unwrap_or_else(clock::unknown));
        group.session = spoken.unwrap_or_else(|| if own.is_whole { clock::unknown() } else { Stamp::default() });
        let left = own.members.iter().filter_map(|(endpoint, (did, began))| {
            let session = self.former_session(&began.filter(|_| *did == Did::Left)?)?;
            Some(Gone { session, endpoint: *endpoint })
        });
        group.gone = gone::both_gone(&[], &left.collect::<Vec<_>>());
        let row = self.row(&key);
        row.spoken = group.session.clone();
        (row.mine, row.base) = (Some(Arc::new(Content::Group(group))), base);
        self.dirty.insert(key);
    }

    /// The coordinator has changed something by itself, not by an order; `at` is when it did that.
    pub fn local(&mut self, entry: &Entry, at: Moment) {
        self.given += 1;
        match entry {
            Entry::Bound(uid) => self.bound(uid, at),
            Entry::Unbound { lb_uid, held_until } => {
                self.bound.remove(lb_uid);
                let until = Date(at.epoch.date(*held_until).0.max(1));
                self.change_lb(lb_uid, at, |lb| lb.held_until = Some(until));
            }
            Entry::Forgotten(uid) => {
                self.bound.remove(uid);
                let key = RowKey::LoadBalancer(uid.clone());
                self.row(&key).mine = None;
                self.touch(&key);
                self.end_groups(uid);
            }
            Entry::Request(bytes) => match Message::decode_trusted(bytes).expect("an entry is a well-formed request").1
            {
                Message::RegistrationRequest(request) => {
                    let by_lb = request.flags.contains(SenderFlags::LOAD_BALANCER);
                    for named in request.groups {
                        let mut id = self.next_ids(named.count());
                        let members = named.entries().map(|member| {
                            id += 1;
                            let (endpoint, label) = (member.endpoint, member.label.into());
                            let membership = Membership { endpoint, by_lb, label, state: 0, quiesced: false };
                            Member { id, membership }
                        });
                        self.change_group(named.data, by_lb, at, |group, _| {
                            group.members.extend(members);
                            gone::forget_gone(group);
                        });
                    }
                }
                Message::DeregistrationRequest(request) => {
                    let by_lb = request.flags.contains(SenderFlags::LOAD_BALANCER);
                    for named in request.groups {
                        if named.data.name.is_empty() {
                            self.end_groups(named.data.lb_uid);
                        } else if named.count() == 0 {
                            self.end_group(&group_key(named.data));
                        } else {
                            let leaving = || named.entries().map(|member| member.endpoint);
                            self.change_group(named.data, by_lb, at, |group, session| {
                                merge::remove(&mut group.members, leaving());
                                if by_lb {
                                    gone::note_gone(group, session, leaving());
                                }
                            });
                        }
                    }
                }
                Message::SetMemberStateRequest(request) => {
                    let by_lb = request.flags.contains(SenderFlags::LOAD_BALANCER);
                    for named in request.groups {
                        let states = named.entries().map(|instance| {
                            let quiesced = instance.flags.contains(MemberFlags::QUIESCE);
                            (instance.member.endpoint, instance.state, quiesced)
                        });
                        self.change_group(named.data, by_lb, at, |group, _| {
                            merge::set_states(&mut group.members, states);
                        });
                    }
                }
                Message::SetLbStateRequest(SetLbStateRequest { lb_uid, health, flags }) => {
                    self.change_lb(lb_uid, at, |lb| (lb.health, lb.flags) = (health, flags));
                }
                _ => {} // no other request changes anything
            },
            Entry::Said(word) => {
                let key = RowKey::Word(word.number);
                self.row(&key).mine = Some(Arc::new(Content::Word(WordRow::new((**word).clone(), at.epoch))));
                self.touch(&key);
            }
            Entry::Unsaid(number) => {
                let key = RowKey::Word(*number);
                self.row(&key).mine = None;
                self.touch(&key);
            }
            // Each node keeps its own; or only the state on disk gets it.
            Entry::Judged(..)
            | Entry::Gone(_)
            | Entry::Fleet { .. }
            | Entry::Date(_)
            | Entry::Own { .. }
            | Entry::Whole(..)
            | Entry::Words(_) => {}
        }
    }

    /// What this node's own checks found; `None`: this node does not check the endpoint any more.
    pub fn judged(&mut self, endpoint: Endpoint, verdicts: Option<Verdicts>) {
        self.checks.judged(endpoint, verdicts);
    }

    /// Whether this node is, or was lately, cut off from the members.
    pub fn set_blind(&mut self, blind: bool) {
        self.node_dirty |= self.blind != blind;
        self.blind = blind;
    }

    /// The coordinator's newest change is about this row.
    fn touch(&mut self, key: &RowKey) {
        let number = self.given;
        let row = self.row(key);
        let is_free = row.is_free();
        if row.since.is_none() {
            row.since = Some(number);
            self.waiting.insert((number, key.clone()));
        }
        if is_free {
            self.dirty.insert(key.clone());
        }
    }

    fn bound(&mut self, uid: &[u8], at: Moment) {
        let key = RowKey::LoadBalancer(uid.into());
        let known = self.rows.get(&key).into_iter().flat_map(|row| [&row.mine, &row.etcd]);
        let newest = known.filter_map(lb).map(|lb| &lb.session).max().cloned();
        let session = self.stamp(at, newest.as_ref());
        self.bound.insert(uid.into(), at.now);
        let incarnation = self.settings.incarnation;
        self.change_lb(uid, at, |lb| {
            lb.session = session;
            lb.incarnation = incarnation;
            lb.held_until = None;
        });
    }

    /// Changes a load balancer, which may be new.
    fn change_lb(&mut self, uid: &[u8], at: Moment, change: impl FnOnce(&mut Lb)) {
        let key = RowKey::LoadBalancer(uid.into());
        let is_new = self.my_lb(uid).is_none();
        let born = if is_new { self.stamp(at, None) } else { Stamp::default() };
        let mine = &mut self.row(&key).mine;
        let content = mine.get_or_insert_with(|| {
            let (session, health, flags) = (Stamp::default(), Health::default(), LbFlags::NONE);
            let lb = Lb { born, session, incarnation: 0, held_until: None, health, flags };
            Arc::new(Content::LoadBalancer(lb))
        });
        if let Content::LoadBalancer(lb) = Arc::make_mut(content) {
            change(lb);
        }
        self.touch(&key);
    }

    /// After this id, so many are free: other lives and other nodes have others.
    pub(super) fn next_ids(&mut self, count: u16) -> u64 {
        let before = self.registrations;
        self.registrations = before.wrapping_add(count.into());
        self.settings.first_id().wrapping_add(before.into())
    }

    /// Changes a group, which may be new; `change` gets the load balancer's session, too.
    fn change_group(&mut self, data: GroupData<'_>, by_lb: bool, at: Moment, change: impl FnOnce(&mut Group, &Stamp)) {
        let key = group_key(data);
        let Some(Lb { born, session, .. }) = self.my_lb(data.lb_uid) else { return };
        let (born, session) = (born.clone(), session.clone());
        let began = self.bound.get(data.lb_uid).copied().filter(|_| by_lb);
        let marked = began.and_then(|began| self.clock.mark(&session, began, at.now, at.date()));
        let session = marked.unwrap_or(session);
        if self.rows.get(&key).is_none_or(|row| row.mine.is_none()) {
            let spoken = if by_lb { session.clone() } else { Stamp::default() };
            let group = Group { born, session: spoken, members: Vec::new(), gone: Vec::new() };
            self.row(&key).mine = Some(Arc::new(Content::Group(group)));
        }
        let row = self.row(&key);
        if by_lb && !is_later(&row.spoken, &session) {
            row.spoken = session.clone();
        }
        if let Some(content) = &mut row.mine
            && let Content::Group(group) = Arc::make_mut(content)
        {
            if by_lb && !is_later(&group.session, &session) {
                group.session = session.clone();
            }
            change(group, &session);
        }
        self.touch(&key);
    }

    fn end_group(&mut self, key: &RowKey) {
        if self.rows.get(key).is_some_and(|row| row.mine.is_some()) {
            self.row(key).mine = None;
            self.touch(key);
        }
    }

    fn end_groups(&mut self, uid: &[u8]) {
        self.groups_of(uid).iter().for_each(|key| self.end_group(key));
    }
}

fn group_key(data: GroupData<'_>) -> RowKey {
    RowKey::Group(data.lb_uid.into(), data.name.into())
}

impl Row {
    /// The group's members as this node has them, for a change by an order.
    pub(super) fn my_group(&mut self) -> Option<&mut Group> {
        match Arc::make_mut(self.mine.as_mut()?) {
            Content::Group(group) => Some(group),
            _ => None,
        }
    }
}

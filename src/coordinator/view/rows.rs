//! The rows of pages.

use std::sync::Arc;

use super::{
    super::{
        Coordinator,
        group::Group,
        history::{By, What},
        ids::{ConnectionId, EndpointId, GroupId, LbId},
        listing::Slot,
        load_balancer::Timer,
        verdicts::View,
    },
    Full, Quiesce,
};
use crate::{
    access::Certificate,
    judgement::{FoundBy, Policy, Scale, Share, Stand, StandingChange, Verdict, Verdicts},
    sasp::{Endpoint, EntryFlags, Health, LbFlags, WeightEntry},
    time::Time,
};

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LbRow {
    /// Its UID.
    pub uid: Box<[u8]>,
    /// Its connection.
    pub connection: Option<ConnectionId>,
    /// The node of the fleet that has its connection, if another one has.
    pub elsewhere: Option<Box<str>>,
    /// The address of the connection's peer.
    pub peer: Option<std::net::IpAddr>,
    /// The certificate of the connection's peer.
    pub certificate: Option<Arc<Certificate>>,
    /// Its health, as it states it.
    pub health: Health,
    /// Its flags.
    pub flags: LbFlags,
    /// When the connection was bound.
    pub bound_at: Option<Time>,
    /// When the last push on the connection was made.
    pub pushed_at: Option<Time>,
    /// When it is forgotten, if it is not connected.
    pub held_until: Option<Time>,
    /// How many groups it has.
    pub groups: usize,
    /// How many members its groups have, with those whose end it has yet to hear.
    pub members: u32,
    /// A push is due and waits.
    pub push_waits: bool,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The UID of its load balancer.
    pub lb_uid: Box<[u8]>,
    /// Its name.
    pub group: Box<[u8]>,
    /// How its weights are made.
    pub policy: Policy,
    /// How many members there are.
    pub members: u32,
    /// Members with contact, confidence and weight that nobody quiesced.
    pub up: u32,
    /// Members without contact.
    pub down: u32,
    /// Members with contact and confidence, without weight, that nobody quiesced.
    pub drained: u32,
    /// Members with contact, without confidence, that nobody quiesced.
    pub unknown: u32,
    /// Members that somebody quiesced.
    pub quiesced: u32,
    /// Members that are shown as not confident.
    pub not_confident: u32,
    /// The sum of the weights.
    pub weight: u64,
    /// The group is in doubt.
    pub doubted: bool,
    /// Rates are turned into weights.
    pub scaled: bool,
    /// How many groups list the same.
    pub shared_by: usize,
}

/// Who fixed a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedBy {
    /// The members file.
    File,
    /// A word of the operator.
    Operator,
}

/// What is so of an endpoint in all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Checks apply to it.
    pub watched: bool,
    /// How it stands, as far as is known.
    pub stand: Stand,
    /// Who found that.
    pub found_by: FoundBy,
    /// When and why its standing changed last, if this node's own checks found how it stands.
    pub turn: Option<(Time, StandingChange)>,
    /// When anything about it changed last.
    pub changed_at: Option<Time>,
    /// The members file quiesces it.
    pub quiesced_by_file: bool,
    /// A word of the operator quiesces it in all groups.
    pub quiesced_by_operator: bool,
    /// Its weight is fixed.
    pub fixed_by: Option<FixedBy>,
    /// Its world is blind or recovers, and it is shown as before.
    pub blind: bool,
}

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The UID of the load balancer.
    pub lb_uid: Box<[u8]>,
    /// The name of the group.
    pub group: Box<[u8]>,
    /// The member's label.
    pub label: Box<[u8]>,
    /// The entry as a message would have it now.
    pub entry: WeightEntry,
    /// What is so of the endpoint.
    pub state: EndpointState,
    /// How the group's weights are made.
    pub policy: Policy,
    /// The group is in doubt since then.
    pub doubted: Option<Time>,
    /// SASP quiesces it in this group.
    pub quiesced_by_member: bool,
    /// A word of the operator quiesces it in this group.
    pub quiesced_here: bool,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRow {
    /// What is so of it.
    pub state: EndpointState,
    /// It answered one of its last checks.
    pub answers: bool,
    /// The verdicts, as groups without doubt show them.
    pub verdicts: [Verdict; Policy::ALL.len()],
    /// Its weight while it is up and nothing else is known.
    pub capacity: u16,
    /// The members file states the capacity; else it is the highest weight.
    pub capacity_stated: bool,
    /// How many groups list it.
    pub groups: usize,
    /// The shard that checks it.
    pub shard: Option<u16>,
}

/// One group, and what its members are shown with.
pub(super) struct Shown<'a> {
    pub(super) group: &'a Group,
    pub(super) lb_uid: &'a [u8],
    pub(super) policy: Policy,
    /// The group is in doubt since then.
    pub(super) doubted: Option<Time>,
    pub(super) view: View<'a>,
    pub(super) scale: Option<Scale>,
    /// Whether the scale had to be made from all members.
    pub(super) scale_made: bool,
}

impl Shown<'_> {
    /// A member's entry.
    pub(super) fn entry(&self, slot: &Slot) -> WeightEntry {
        WeightEntry::from_bytes(slot.value(self.view.shown(slot.endpoint, self.scale)))
    }
}

impl Coordinator {
    pub(super) fn shown(&self, id: GroupId) -> Shown<'_> {
        let tables = &self.tables;
        let group = &tables.groups[id];
        let listing = tables.listings.get(group.listing);
        let doubted = tables.doubted[id].then(|| tables.doubts.began(id).unwrap_or_default());
        let view = tables.endpoints.verdicts().view(listing.policy, tables.doubted[id], self.settings.weight_max);
        let scale_made = view.has_rates() && group.scale.is_none();
        let scale = match view.has_rates() {
            true => group.scale.or_else(|| view.scale(None, listing.members())),
            false => None,
        };
        let lb_uid = &*tables.lbs[group.lb].uid;
        Shown { group, lb_uid, policy: listing.policy, doubted, view, scale, scale_made }
    }

    pub(super) fn lb_row(&self, lb: LbId) -> LbRow {
        let known = &self.tables.lbs[lb];
        let peer = known.connection.and_then(|connection| self.known_peer(connection));
        let held_until = known.deadlines.get(Timer::Hold as usize).and_then(|deadline| deadline.at);
        LbRow {
            uid: known.uid.clone(),
            connection: known.connection,
            elsewhere: known.elsewhere.clone(),
            peer: peer.map(|peer| peer.address),
            certificate: peer.and_then(|peer| peer.certificate.clone()),
            health: known.health,
            flags: known.flags,
            bound_at: known.connection.map(|_| known.bound_at),
            pushed_at: known.pushed_at.filter(|_| known.connection.is_some()),
            held_until: held_until.filter(|_| known.connection.is_none()),
            groups: known.groups.len(),
            members: known.held,
            push_waits: known.due,
        }
    }

    pub(super) fn group_row(&self, id: GroupId) -> GroupRow {
        let shown = self.shown(id);
        let listing = self.tables.listing(id);
        let mut row = GroupRow {
            lb_uid: shown.lb_uid.into(),
            group: shown.group.name().into(),
            policy: shown.policy,
            members: listing.len(),
            up: 0,
            down: 0,
            drained: 0,
            unknown: 0,
            quiesced: 0,
            not_confident: 0,
            weight: 0,
            doubted: shown.doubted.is_some(),
            scaled: shown.scale.is_some(),
            shared_by: listing.groups.len(),
        };
        for (_, slot) in listing.live() {
            let entry = shown.entry(slot);
            row.weight += u64::from(entry.weight);
            row.not_confident += u32::from(!entry.flags.contains(EntryFlags::CONFIDENT));
            let count = match entry {
                _ if entry.flags.contains(EntryFlags::QUIESCED) => &mut row.quiesced,
                _ if !entry.flags.contains(EntryFlags::CONTACT) => &mut row.down,
                _ if !entry.flags.contains(EntryFlags::CONFIDENT) => &mut row.unknown,
                WeightEntry { weight: 0, .. } => &mut row.drained,
                _ => &mut row.up,
            };
            *count += 1;
        }
        row
    }

    pub(super) fn member_row(&self, shown: &Shown<'_>, at: usize) -> MemberRow {
        let listing = self.tables.listings.get(shown.group.listing);
        let slot = listing.slot(at);
        MemberRow {
            lb_uid: shown.lb_uid.into(),
            group: shown.group.name().into(),
            label: listing.label(at).into(),
            entry: shown.entry(slot),
            state: self.endpoint_state(slot.endpoint, Some((shown.lb_uid, shown.group.name()))),
            policy: shown.policy,
            doubted: shown.doubted,
            quiesced_by_member: slot.is_quiesced(),
            quiesced_here: slot.is_quiesced_by_operator(),
        }
    }

    /// In a group (the UID of its load balancer, its name), or in all.
    fn endpoint_state(&self, id: EndpointId, group: Option<(&[u8], &[u8])>) -> EndpointState {
        let endpoints = &self.tables.endpoints;
        let endpoint = endpoints.endpoint(id);
        let (file, word) = (endpoints.roster().find(&endpoint), endpoints.operator_says(&endpoint));
        let watched = endpoints.watches().is_wanted(id);
        let judged = endpoints.verdicts().judged(id).filter(|_| watched);
        let found_by = endpoints.found_by(id, judged.as_ref());
        let turn = endpoints.last_turn(id).filter(|_| judged.is_some() && found_by == FoundBy::Own);
        let mut history = endpoints.history.of(id).filter(|past| past.what.concerns(group));
        let changed_at = history.next().map(|past| past.at).max(turn.map(|(at, _)| *at));
        EndpointState {
            endpoint,
            watched,
            stand: match turn {
                Some((_, turn)) => turn.to,
                None => judged.map_or(Stand::Unknown, |verdicts| stand(&verdicts, file.capacity)),
            },
            found_by,
            turn: turn.cloned(),
            changed_at,
            quiesced_by_file: file.quiesced,
            quiesced_by_operator: word.quiesced,
            fixed_by: match word.weight {
                Some(_) => Some(FixedBy::Operator),
                None => file.fixed.then_some(FixedBy::File),
            },
            blind: endpoints.verdicts().is_unsure(id),
        }
    }

    pub(super) fn endpoint_row(&self, id: EndpointId) -> EndpointRow {
        let endpoints = &self.tables.endpoints;
        let endpoint = endpoints.endpoint(id);
        let (word, member) = (endpoints.operator_says(&endpoint).weight, endpoints.roster().find(&endpoint));
        EndpointRow {
            state: self.endpoint_state(id, None),
            answers: endpoints.watches().evidence(id).answers,
            verdicts: endpoints.verdicts().of(id),
            capacity: word.unwrap_or(member.capacity),
            capacity_stated: member.stated,
            groups: self.tables.groups_of(id),
            shard: endpoints.watches().told(id).map(|(_, shard)| shard),
        }
    }

    /// What is known of an endpoint besides its row, in one group or in all.
    pub(super) fn full(&self, id: EndpointId, membership: Option<(&Shown<'_>, &Slot)>) -> Full {
        let endpoints = &self.tables.endpoints;
        let endpoint = endpoints.endpoint(id);
        let group = membership.map(|(shown, _)| (shown.lb_uid, shown.group.name()));
        let by_word = endpoints.words.quiescing_endpoint(&endpoint).into_iter();
        let here = membership.filter(|(_, slot)| slot.is_quiesced_by_operator()).and(group);
        let by_word = by_word.chain(here.and_then(|(uid, name)| endpoints.words.quiescing(uid, name, &endpoint)));
        let mut quiesces: Vec<Quiesce> =
            by_word.map(|word| Quiesce { by: By::Operator(word.author().into()), since: Some(word.at) }).collect();
        // The history knows since when, unless so much has happened since then that it has forgotten.
        let since = |by: By| {
            let mut changes = endpoints.history.of(id).filter(|past| past.what.concerns(group));
            let found = changes.find(|past| matches!(&past.what, What::Quiesced(who) if who.by == by));
            Quiesce { since: found.map(|past| past.at.into()), by }
        };
        quiesces.extend(endpoints.roster().find(&endpoint).quiesced.then(|| since(By::File)));
        quiesces.extend(membership.filter(|(_, slot)| slot.is_quiesced()).map(|_| since(By::Sasp)));
        Full {
            watch: endpoints.watches().told(id),
            history: endpoints.history.of(id).cloned().collect(),
            words: endpoints.words.matching(group, &endpoint),
            quiesces,
        }
    }
}

/// How an endpoint of this capacity stands by its verdicts.
fn stand(verdicts: &Verdicts, capacity: u16) -> Stand {
    let has = |flags: EntryFlags| verdicts.iter().any(|verdict| verdict.flags.contains(flags));
    match verdicts[Policy::Auto as usize].share {
        _ if !has(EntryFlags::CONTACT) => Stand::Down,
        _ if !has(EntryFlags::CONTACT | EntryFlags::CONFIDENT) => Stand::Unknown,
        Share::Weight(0) if capacity > 0 => Stand::Drained,
        _ => Stand::Up,
    }
}

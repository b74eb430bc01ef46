//! Groups → messages, for pushes and replies alike. Only this file decides which groups and entries a message lists.
//! A listed entry counts as sent.

use bytes::Bytes;

use super::{
    Coordinator, Time,
    check::Target,
    ids::{ConnectionId, GroupId, LbId},
    outbox::{Kind, Outbox},
    settings::Settings,
    tables::Tables,
};
use crate::sasp::{ReturnCode, WeightedMember, Writer};

/// Shorter entries are copied into each message: to copy them costs less than a second piece.
const BODY_BYTES: usize = 512;

/// Buffers that are used for one message after the other, so that no message allocates.
#[derive(Default)]
pub(super) struct Scratch {
    /// The groups of one message, in the order of the message.
    pub(super) listing: Vec<GroupId>,
    /// Entries of one group, encoded.
    entries: Vec<u8>,
}

/// What a message does with a group that has not changed since it was last sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unchanged {
    /// The message leaves the group out: a push.
    Leave,
    /// The message lists the group, unless the LB wants only changes: a push that refreshes.
    Refresh,
    /// The message lists the group: a reply.
    List,
}

impl Tables {
    /// Puts all groups of the LB into `listing`, in their order. With `ghosts` also groups that members removed, if the LB
    /// has yet to hear of that.
    pub(super) fn list_all(&self, lb: LbId, ghosts: bool, listing: &mut Vec<GroupId>) {
        let known = &self.lbs[lb];
        listing.clear();
        listing.extend(&known.groups);
        if ghosts && !known.ghosts.is_empty() {
            listing.extend(&known.ghosts);
            self.sort(listing);
        }
    }

    /// Puts groups into their order: that of their registration, in a fleet that of their names.
    pub(super) fn sort(&self, listing: &mut [GroupId]) {
        if self.endpoints.shares.is_some() {
            listing.sort_unstable_by(|&one, &other| self.groups[one].name().cmp(self.groups[other].name()));
        } else {
            listing.sort_unstable_by_key(|&group| self.groups[group].order);
        }
    }

    /// The Interval of a reply about these groups, in seconds: short while a member of them waits for its first verdict.
    fn interval(&self, now: Time, settings: &Settings, listing: &[GroupId]) -> u16 {
        let members = |group: &GroupId| self.listing(*group).members();
        let first = listing.iter().filter_map(|group| self.endpoints.first_verdict(now, members(group))).min();
        let Some(first) = first else { return settings.poll_interval_seconds };
        let seconds = u16::try_from(first.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u16::MAX).max(1);
        seconds.min(settings.poll_interval_seconds)
    }

    /// Bytes that a message with all of these groups has of its own, about. A long message gets its memory at once.
    fn own_bytes(&self, listing: &[GroupId]) -> usize {
        let own = |group: &GroupId| match self.listing(*group) {
            listing if listing.groups.len() > 1 => 0,
            listing => listing.entries.len(),
        };
        listing.iter().map(own).sum()
    }

    /// Appends the groups of `scratch.listing`, which are the LB's, to a message. Gives the number of groups appended,
    /// and the message's body: the entries of its last group, if other LBs have the same.
    fn encode(
        &mut self,
        settings: &Settings,
        lb: LbId,
        unchanged: Unchanged,
        scratch: &mut Scratch,
        message: &mut Writer<'_, WeightedMember<'_>>,
    ) -> (u32, Option<Bytes>) {
        let delta = self.lbs[lb].delta();
        let mut groups = 0;
        let mut body: Option<Bytes> = None;
        let Scratch { listing, entries } = scratch;
        for &id in &*listing {
            let doubted = self.doubted[id];
            let listed = self.with_farewells(id, |group, listings, endpoints| {
                let listing = listings.get_mut(group.listing);
                let verdicts = endpoints.verdicts().view(listing.policy, doubted, settings.weight_max);
                let mut show = listing.show(group.scale, doubted, verdicts);
                group.scale = show.scale();
                let (listed, count, shared) = if delta {
                    entries.clear();
                    let (mut shared, mut count) = show.delta(group.sent.as_ref(), entries);
                    if group.owed() > 0 {
                        entries.extend_from_slice(&shared.take().unwrap_or_default());
                        count += group.say_farewells(u32::from(u16::MAX) - count, entries);
                    }
                    group.delta(&show, count);
                    // A group that a member removed is listed only with farewells.
                    (count > 0 || unchanged == Unchanged::List && !group.removed, count, shared)
                } else {
                    let news = group.full(&show);
                    let listed = news || unchanged != Unchanged::Leave;
                    (listed, show.len(), (listed && show.is_shared()).then(|| show.body()))
                };
                if !listed {
                    return false;
                }
                // Only the last group's entries are a body.
                message.out().extend_from_slice(&body.take().unwrap_or_default());
                message.encoded_group(group.prefix(), count as u16);
                match shared {
                    Some(shared) if shared.len() >= BODY_BYTES => body = Some(shared),
                    Some(shared) => message.out().extend_from_slice(&shared),
                    None if delta => message.out().extend_from_slice(entries),
                    None => show.write(message.out()),
                }
                true
            });
            groups += u32::from(listed);
        }
        (groups, body)
    }
}

impl Coordinator {
    /// Builds the LB's push, unless the push would list no group.
    pub(super) fn push(&mut self, lb: LbId, connection: ConnectionId, unchanged: Unchanged, out: &mut impl Outbox) {
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        if !self.tables.lbs[lb].delta() {
            buffer.reserve(self.tables.own_bytes(&self.scratch.listing));
        }
        let mut message = Writer::send_weights(buffer);
        let (groups, body) = self.tables.encode(&self.settings, lb, unchanged, &mut self.scratch, &mut message);
        if groups > 0 {
            let length = body.as_ref().map_or(0, Bytes::len);
            message.finish_before(length).expect("the limits keep every LB's tables within one message");
            self.commit(connection, start, body.as_ref(), Kind::Push, out);
        } else {
            buffer.truncate(start);
        }
    }

    /// Answers a Get Weights Request for these groups, or for all groups of the LB.
    pub(super) fn reply_weights(
        &mut self,
        now: Time,
        connection: ConnectionId,
        id: u32,
        targets: &[Target],
        all: bool,
        out: &mut impl Outbox,
    ) {
        let lb = targets.first().map(|target| target.lb);
        let delta = lb.is_some_and(|lb| self.tables.lbs[lb].delta());
        let listing = &mut self.scratch.listing;
        listing.clear();
        listing.extend(targets.iter().filter_map(|target| target.group));
        if let Some(lb) = lb.filter(|_| all) {
            self.tables.list_all(lb, delta, listing);
        }
        for at in 0..self.scratch.listing.len() {
            let group = self.scratch.listing[at];
            if self.tables.doubts.take_suspect(group) {
                self.weigh(now, group, out);
            }
        }
        let listing = &self.scratch.listing;
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        if !delta {
            buffer.reserve(self.tables.own_bytes(listing));
        }
        let interval = self.tables.interval(now, &self.settings, &self.scratch.listing);
        let mut reply = Writer::get_weights_reply(buffer, id, ReturnCode::SUCCESSFUL, interval);
        let mut body = None;
        if let Some(lb) = lb {
            (_, body) = self.tables.encode(&self.settings, lb, Unchanged::List, &mut self.scratch, &mut reply);
        }
        reply
            .finish_before(body.as_ref().map_or(0, Bytes::len))
            .expect("the limits keep every LB's tables within one message");
        if let Some(lb) = lb.filter(|_| all) {
            if delta {
                self.tables.settle_ghosts(lb);
            } else {
                self.tables.drop_ghosts(lb);
            }
        }
        self.commit(connection, start, body.as_ref(), Kind::Reply, out);
    }
}

//! Groups → messages, for pushes and replies alike. Only this file decides which groups and entries a message lists.
//! A listed entry counts as sent.

use super::{
    Coordinator, Time,
    check::Target,
    ids::{ConnectionId, GroupId, LbId},
    outbox::{Kind, Outbox},
    settings::Settings,
    tables::Tables,
};
use crate::sasp::{ReturnCode, WeightedMember, Writer};

/// Buffers that are used for one message after the other, so that no message allocates.
#[derive(Default)]
pub(super) struct Scratch {
    /// The groups of one message, in the order of the message.
    pub(super) listing: Vec<GroupId>,
    /// One group, encoded.
    group: Vec<u8>,
    /// Slots of one group that may have changed.
    slots: Vec<usize>,
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
    /// Puts all groups of the LB into `listing`, in the order of their registration. With `ghosts` also groups that
    /// members removed, if the LB has yet to hear of that.
    pub(super) fn list_all(&self, lb: LbId, ghosts: bool, listing: &mut Vec<GroupId>) {
        let known = &self.lbs[lb];
        listing.clear();
        listing.extend(&known.groups);
        if ghosts && !known.ghosts.is_empty() {
            listing.extend(&known.ghosts);
            self.sort(listing);
        }
    }

    /// Puts groups into the order of their registration.
    pub(super) fn sort(&self, listing: &mut [GroupId]) {
        listing.sort_unstable_by_key(|&group| self.groups[group].order);
    }

    /// The Interval of a reply about these groups, in seconds: short while a member of them waits for its first verdict.
    fn interval(&self, now: Time, settings: &Settings, listing: &[GroupId]) -> u16 {
        let members = |group: &GroupId| self.groups[*group].members().map(|(endpoint, _)| endpoint);
        let first = listing.iter().filter_map(|group| self.endpoints.first_verdict(now, members(group))).min();
        let Some(first) = first else { return settings.poll_interval_seconds };
        let seconds = u16::try_from(first.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u16::MAX).max(1);
        seconds.min(settings.poll_interval_seconds)
    }

    /// Bytes of a message with all of these groups, about. A long message gets its memory at once.
    fn encoded_bytes(&self, listing: &[GroupId]) -> usize {
        listing.iter().map(|&group| self.groups[group].encoded_bytes()).sum()
    }

    /// Appends the groups of `scratch.listing`, which are the LB's, to a message; returns the number of groups
    /// appended.
    fn encode(
        &mut self,
        settings: &Settings,
        lb: LbId,
        unchanged: Unchanged,
        scratch: &mut Scratch,
        message: &mut Writer<'_, WeightedMember<'_>>,
    ) -> u32 {
        let known = &self.lbs[lb];
        let (delta, epoch) = (known.delta(), known.epoch);
        let mut groups = 0;
        for &id in &scratch.listing {
            let (policy, doubted, stale) = (self.policies[id], self.doubted[id], &mut self.stale[id]);
            let stale = !delta && std::mem::take(stale);
            let Scratch { group: encoded, slots, .. } = scratch;
            groups += u32::from(self.with_farewells(id, |group, endpoints| {
                let verdicts = endpoints.verdicts().view(policy, doubted, settings.weight_max);
                if delta {
                    let all = unchanged != Unchanged::Leave;
                    let news = group.delta(epoch, verdicts, all, slots, encoded) > 0;
                    // A group that a member removed is listed only with farewells.
                    let listed = news || unchanged == Unchanged::List && !group.removed;
                    if listed {
                        message.encoded_group(encoded);
                    }
                    listed
                } else {
                    let (image, news) = group.full(epoch, verdicts, stale);
                    let listed = news || unchanged != Unchanged::Leave;
                    if listed {
                        message.encoded_group(image);
                    }
                    listed
                }
            }));
        }
        groups
    }
}

impl Coordinator {
    /// Builds the LB's push, unless the push would list no group.
    pub(super) fn push(&mut self, lb: LbId, connection: ConnectionId, unchanged: Unchanged, out: &mut impl Outbox) {
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        if !self.tables.lbs[lb].delta() {
            buffer.reserve(self.tables.encoded_bytes(&self.scratch.listing));
        }
        let mut message = Writer::send_weights(buffer);
        let groups = self.tables.encode(&self.settings, lb, unchanged, &mut self.scratch, &mut message);
        if groups > 0 {
            message.finish().expect("the limits keep every LB's tables within one message");
            self.commit(connection, start, Kind::Push, out);
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
            buffer.reserve(self.tables.encoded_bytes(listing));
        }
        let interval = self.tables.interval(now, &self.settings, &self.scratch.listing);
        let mut reply = Writer::get_weights_reply(buffer, id, ReturnCode::SUCCESSFUL, interval);
        if let Some(lb) = lb {
            self.tables.encode(&self.settings, lb, Unchanged::List, &mut self.scratch, &mut reply);
        }
        reply.finish().expect("the limits keep every LB's tables within one message");
        if let Some(lb) = lb.filter(|_| all) {
            if delta {
                self.tables.settle_ghosts(lb);
            } else {
                self.tables.drop_ghosts(lb);
            }
        }
        self.commit(connection, start, Kind::Reply, out);
    }
}

//! What to push to whom and when: marks, windows, the due LBs of each shard, and the building of a push.

use super::{
    ConnectionId, Coordinator, Kind, Outbox, Time,
    endpoints::EndpointId,
    group::GroupId,
    load_balancer::{LbId, LoadBalancer, Timer},
    tables::Tables,
};
use crate::sasp::Writer;

/// Buffers that live longer than one message, so that no message allocates.
#[derive(Default)]
pub(super) struct Scratch {
    /// The groups of one message, in the order in which they are listed.
    pub(super) listing: Vec<GroupId>,
    /// One group, encoded.
    pub(super) group: Vec<u8>,
}

impl Tables {
    /// Puts all of the LB's groups into `listing`, in the order of their registration; with `ghosts` also those
    /// that members removed and that the LB has yet to hear of.
    pub(super) fn list_all(&self, lb: LbId, ghosts: bool, listing: &mut Vec<GroupId>) {
        let known = &self.lbs[lb as usize];
        listing.clear();
        listing.extend(&known.groups);
        if ghosts && !known.ghosts.is_empty() {
            listing.extend(&known.ghosts);
            self.sort(listing);
        }
    }

    /// About how long a message with all of these groups is: a very long one is to have its memory at once.
    pub(super) fn encoded_bytes(&self, listing: &[GroupId]) -> usize {
        listing.iter().map(|&group| self.groups[group as usize].encoded_bytes()).sum()
    }

    fn sort(&self, listing: &mut [GroupId]) {
        listing.sort_unstable_by_key(|&group| self.groups[group as usize].order);
    }
}

impl Coordinator {
    /// Notes that something in the group may have changed for its LB: one endpoint's entry, or anything (`None`).
    /// Opens the LB's push window if none is open.
    #[inline]
    pub(super) fn mark(&mut self, now: Time, group: GroupId, endpoint: Option<EndpointId>) {
        self.tables.stale[group as usize] = true;
        if self.tables.muted[group as usize] {
            return;
        }
        let known = &mut self.tables.groups[group as usize];
        let lb = known.lb;
        let owner = &mut self.tables.lbs[lb as usize];
        self.tables.muted[group as usize] = known.touch(endpoint, owner.delta());
        if !known.queued {
            known.queued = true;
            owner.changed.push(group);
        }
        self.open_window(now, lb);
    }

    /// Push was turned on, or an LB that had it on is bound again: after the window it gets everything.
    pub(super) fn start_pushing(&mut self, now: Time, lb: LbId) {
        self.tables.lbs[lb as usize].all = true;
        self.open_window(now, lb);
        self.set_deadline(lb, Timer::Refresh, now + self.settings.push_refresh);
    }

    fn open_window(&mut self, now: Time, lb: LbId) {
        let known = &mut self.tables.lbs[lb as usize];
        if !known.due && known.deadline(Timer::Window).at.is_none() {
            self.set_deadline(lb, Timer::Window, now + self.settings.push_window);
        }
    }

    /// The LB's push is to go out as soon as nothing is in flight to it.
    pub(super) fn make_due(&mut self, lb: LbId) {
        self.tables.lbs[lb as usize].due = true;
        self.make_ready(lb);
    }

    /// Puts a due LB into its shard's list, unless it is there.
    pub(super) fn make_ready(&mut self, lb: LbId) {
        let known = &mut self.tables.lbs[lb as usize];
        if let Some(connection) = known.connection.filter(|_| known.due && !known.ready) {
            known.ready = true;
            self.ready[usize::from(connection.shard)].push_back((lb, connection));
        }
    }

    /// Builds the pushes that are due, as far as the shards have room.
    pub(super) fn flush(&mut self, now: Time, out: &mut impl Outbox) {
        // Each time another shard is first: the room for pushes may be all shards' together.
        self.first_shard = (self.first_shard + 1) % self.ready.len().max(1);
        for offset in 0..self.ready.len() {
            let shard = (self.first_shard + offset) % self.ready.len();
            while !self.ready[shard].is_empty() && out.has_room(shard as u16) {
                let Some((lb, connection)) = self.ready[shard].pop_front() else { break };
                let here = |known: &&mut LoadBalancer| known.connection == Some(connection);
                let Some(known) = self.tables.lbs.get_mut(lb as usize).filter(here) else {
                    continue; // it has moved or gone since
                };
                known.ready = false;
                let due = known.due;
                match self.connection(connection) {
                    Some(known) if known.in_flight > 0 => known.waited_for = true,
                    Some(_) if due => self.push(now, lb, connection, out),
                    _ => {}
                }
            }
        }
    }

    /// Builds the LB's push, if there is anything to say.
    fn push(&mut self, now: Time, lb: LbId, connection: ConnectionId, out: &mut impl Outbox) {
        let mut listing = std::mem::take(&mut self.scratch.listing);
        let known = &mut self.tables.lbs[lb as usize];
        let (delta, all, epoch) = (known.delta(), known.all, known.epoch);
        (known.all, known.due) = (false, false);
        if all {
            known.changed.clear();
            self.tables.list_all(lb, true, &mut listing);
        } else {
            listing.clear();
            listing.append(&mut known.changed);
            listing.extend(&known.ghosts);
            self.tables.sort(&mut listing);
        }
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        if !delta {
            buffer.reserve(self.tables.encoded_bytes(&listing));
        }
        let mut message = Writer::send_weights(buffer);
        let mut groups = 0;
        for &id in &listing {
            let group = &mut self.tables.groups[id as usize];
            let policy = self.tables.policies[id as usize];
            let verdicts = self.tables.endpoints.verdicts().view(policy, self.settings.weight_max);
            let owed = group.owed();
            if delta {
                if group.delta(epoch, verdicts, all, &mut self.scratch.group) > 0 {
                    message.encoded_group(&self.scratch.group);
                    groups += 1;
                }
            } else {
                let stale = std::mem::take(&mut self.tables.stale[id as usize]);
                let (image, changed) = group.full(epoch, verdicts, stale);
                if changed || all {
                    message.encoded_group(image);
                    groups += 1;
                }
            }
            group.settle();
            self.tables.muted[id as usize] = group.removed;
            let owes = group.owed();
            self.tables.farewells_moved(lb, owed, owes);
        }
        if groups > 0 {
            message.finish().expect("the limits keep every LB's tables within one message");
            self.commit(connection, start, Kind::Push, out);
        } else {
            buffer.truncate(start);
        }
        // More farewells than one group of a message can list are for the next push.
        let mut owes = self.tables.settle_ghosts(lb);
        for &id in &listing {
            owes |= self.tables.groups.get(id as usize).is_some_and(|group| delta && group.owed() > 0);
        }
        if owes {
            self.tables.lbs[lb as usize].all = true;
            self.open_window(now, lb);
        }
        self.scratch.listing = listing;
    }
}

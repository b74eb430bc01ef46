//! Pushes: notes of changes, push windows, and each shard's list of LBs whose push is due.

use super::{
    Coordinator, Time,
    encode::Unchanged,
    ids::{ConnectionId, EndpointId, GroupId, LbId, ListingId},
    load_balancer::{LoadBalancer, Timer},
    outbox::Outbox,
};

impl Coordinator {
    /// Notes that the group may have changed. Opens the LB's push window if none is open.
    pub(super) fn mark(&mut self, now: Time, group: GroupId) {
        if self.tables.listings.take_quiet(group, self.tables.groups[group].listing) {
            self.queue(now, group);
        }
    }

    /// Notes that what a listing shows, of this endpoint or of any, may have changed: once, however many groups have the
    /// listing. Only groups that were sent something since the last note are told.
    pub(super) fn mark_listing(&mut self, now: Time, id: ListingId, endpoint: Option<EndpointId>) {
        let listing = self.tables.listings.get_mut(id);
        listing.touch(endpoint);
        let quiet = std::mem::take(&mut listing.quiet) as usize;
        for at in 0..quiet {
            let group = self.tables.listings.get(id).groups[at];
            self.queue(now, group);
        }
    }

    fn queue(&mut self, now: Time, group: GroupId) {
        let known = &mut self.tables.groups[group];
        let lb = known.lb;
        if !known.queued {
            known.queued = true;
            self.tables.lbs[lb].changed.push(group);
        }
        self.open_window(now, lb);
    }

    /// The LB turned push on, or an LB with push is bound again: after the window, a push lists all its groups.
    pub(super) fn start_pushing(&mut self, now: Time, lb: LbId) {
        self.tables.lbs[lb].all = true;
        self.open_window(now, lb);
        let refresh = self.tables.lbs[lb].next_refresh(now, self.settings.push_refresh);
        self.set_deadline(lb, Timer::Refresh, refresh);
    }

    fn open_window(&mut self, now: Time, lb: LbId) {
        let known = &mut self.tables.lbs[lb];
        if !known.due && known.deadline(Timer::Window).at.is_none() {
            known.changed_at = Some(now);
            self.set_deadline(lb, Timer::Window, now + self.settings.push_window);
        }
    }

    /// Makes the LB's push due: the push goes out once no message is in flight to the LB.
    pub(super) fn make_due(&mut self, lb: LbId) {
        self.tables.lbs[lb].due = true;
        self.make_ready(lb);
    }

    /// Puts a due LB into its shard's list, unless the list has the LB.
    pub(super) fn make_ready(&mut self, lb: LbId) {
        let known = &mut self.tables.lbs[lb];
        if let Some(connection) = known.connection.filter(|_| known.due && !known.ready) {
            known.ready = true;
            self.ready[usize::from(connection.shard)].push_back((lb, connection));
        }
    }

    /// Builds the pushes that are due, as far as the shards have room.
    pub(super) fn flush(&mut self, now: Time, out: &mut impl Outbox) {
        // Each time another shard is first: all shards may share the room for pushes.
        self.first_shard = (self.first_shard + 1) % self.ready.len().max(1);
        for offset in 0..self.ready.len() {
            let shard = (self.first_shard + offset) % self.ready.len();
            while !self.ready[shard].is_empty() && out.has_room(shard as u16) {
                let Some((lb, connection)) = self.ready[shard].pop_front() else { break };
                let here = |known: &&mut LoadBalancer| known.connection == Some(connection);
                let Some(known) = self.tables.lbs.get_mut(lb).filter(here) else {
                    continue; // the LB has another connection, or is gone
                };
                known.ready = false;
                let due = known.due;
                match self.connection(connection) {
                    Some(known) if known.in_flight > 0 => {
                        let before = std::mem::replace(&mut known.waited_for, true);
                        self.waited_for += u32::from(!before);
                    }
                    Some(_) if due => self.push_due(now, lb, connection, out),
                    _ => {}
                }
            }
        }
    }

    /// Builds the LB's push: of all its groups, or of those in which something may have changed.
    fn push_due(&mut self, now: Time, lb: LbId, connection: ConnectionId, out: &mut impl Outbox) {
        let listing = &mut self.scratch.listing;
        let known = &mut self.tables.lbs[lb];
        let (delta, all) = (known.delta(), known.all);
        (known.all, known.due) = (false, false);
        known.pushed_at = Some(now);
        out.pushes(known.changed_at.take());
        if all {
            known.changed.clear();
            self.tables.list_all(lb, true, listing);
        } else {
            listing.clear();
            listing.append(&mut known.changed);
            listing.extend(&known.ghosts);
            self.tables.sort(listing);
        }
        self.push(lb, connection, if all { Unchanged::Refresh } else { Unchanged::Leave }, out);
        let mut owes = false;
        for &id in &self.scratch.listing {
            let group = &mut self.tables.groups[id];
            group.queued = false;
            if !group.removed {
                self.tables.listings.set_quiet(id, group.listing);
            }
            owes |= delta && !group.removed && group.owed() > 0;
        }
        // A group lists at most 65,535 entries in one message: the next push has the other farewells.
        if self.tables.settle_ghosts(lb) || owes {
            self.tables.lbs[lb].all = true;
            self.open_window(now, lb);
        }
    }
}

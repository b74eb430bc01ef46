//! Versions of a row are merged: what the coordinator lacks becomes an order, and what the store lacks is dirty.

use std::{mem, sync::Arc};

use super::{
    super::{
        clock::last_session,
        gone, merge,
        rows::{Content, Lb, RowKey, WordRow},
    },
    Act, Moment, Ordered, Replica, Version, group, is_here, lb,
};
use crate::{
    coordinator::{GroupChange, LbState, Node, Order, Place},
    journal::Date,
    limits,
};

fn word(version: &Version) -> Option<&WordRow> {
    match version.as_deref() {
        Some(Content::Word(word)) => Some(word),
        _ => None,
    }
}

impl Replica {
    /// The next order, with its number. The answer to it is [`Replica::done`].
    pub fn next_order(&mut self, at: Moment) -> Option<(u64, Order)> {
        // What a node finds that sees comes before the news that it sees, and what a blind one finds, after the news that it
        // is blind: what a node found while it was blind never counts.
        let (nodes, nodes_changed) = (&self.nodes, self.nodes_changed);
        let comes_first = |name: &str| !nodes_changed || nodes.get(name).is_none_or(|node| !node.blind);
        if let Some((node, list)) = self.checks.next_news(comes_first) {
            return Some((self.number(), Order::Verdicts { node, list }));
        }
        if mem::take(&mut self.nodes_changed) {
            let order = Order::Nodes(self.live());
            return Some((self.number(), order));
        }
        while let Some(key) = self.pending.pop_first() {
            if let Some(order) = self.settle(&key, at) {
                return Some(order);
            }
        }
        None
    }

    fn number(&mut self) -> u64 {
        self.orders += 1;
        self.orders
    }

    /// The nodes that are alive; a node that is alone knows of no other.
    fn live(&self) -> Vec<Node> {
        let me = Node { name: self.settings.node.clone(), blind: self.blind };
        let others = self.nodes.iter().filter(|(name, _)| self.connected && **name != me.name);
        let mut nodes: Vec<Node> = others.map(|(name, row)| Node { name: name.clone(), blind: row.blind }).collect();
        nodes.push(me);
        nodes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        nodes
    }

    /// Merges a row; gives an order, if the coordinator has to do something.
    fn settle(&mut self, key: &RowKey, at: Moment) -> Option<(u64, Order)> {
        let row = self.rows.get(key)?;
        if !row.pending || row.ordered.is_some() || row.in_flight {
            return None; // it comes again
        }
        match key {
            RowKey::LoadBalancer(uid) => self.settle_lb(key, uid, at),
            RowKey::Group(uid, name) => self.settle_group(key, uid, name),
            RowKey::Word(number) => self.settle_word(key, *number),
        }
    }

    fn settle_lb(&mut self, key: &RowKey, uid: &[u8], at: Moment) -> Option<(u64, Order)> {
        let row = self.rows.get(key)?;
        let (base, mine, etcd) = (lb(&row.base), lb(&row.mine), lb(&row.etcd));
        let settings = &self.settings;
        let mut want = merge::merge_lb(base, mine, etcd, |lb| is_here(settings, lb));
        let is_mine = mine.is_some_and(|mine| is_here(settings, mine));
        let said = |lb: &Lb| (lb.health, lb.flags);
        let changed =
            |side: Option<&Lb>| side.filter(|side| base.is_none_or(|base| said(base) != said(side))).map(said);
        let is_overruled = match (changed(mine), changed(etcd)) {
            (Some(mine), Some(etcd)) => mine != etcd && want.is_some(),
            _ => false,
        };
        let (mine, revived) = (mine.cloned(), etcd.is_none() && base.is_some());
        if is_overruled {
            self.conflict(|| {
                format!("{key}: two nodes heard different health or flags of it; those of the later session stay")
            });
        }
        if let Some(want) = &mut want {
            if revived {
                // Others have forgotten it, and all of its groups: it begins anew, with the groups that this node has.
                want.born = self.stamp(at, Some(&want.born));
            }
            if want.held_until.is_none() && !is_mine && self.is_dead(want) {
                want.held_until = Some(Date(at.epoch.date(at.now + self.settings.hold_time).0.max(1)));
            }
        }
        let (from, to) = (mine.as_ref().map(|lb| self.state(lb, at)), want.as_ref().map(|lb| self.state(lb, at)));
        let same_hold = mine.as_ref().map(|lb| lb.held_until) == want.as_ref().map(|lb| lb.held_until);
        let nothing = same_hold && from == to;
        let want = want.map(|lb| Arc::new(Content::LoadBalancer(lb)));
        if nothing {
            self.take_in(key, want);
            self.after_lb(uid, mine.as_ref());
            return None;
        }
        Some(self.order(key, want, Act::Whole, Order::LoadBalancer { uid: uid.into(), from, to }))
    }

    /// The node that has the load balancer's connection is not alive any more, or it is this node in an earlier life.
    fn is_dead(&self, lb: &Lb) -> bool {
        if lb.session.node == self.settings.node {
            return true;
        }
        let alive = self.nodes.get(&lb.session.node).is_some_and(|node| node.incarnation == lb.incarnation);
        self.connected && !alive
    }

    /// A load balancer as the coordinator has it.
    fn state(&self, lb: &Lb, at: Moment) -> LbState {
        let place = match lb.held_until {
            Some(until) => Place::Held(at.epoch.time(until)),
            None if self.is_here(lb) => Place::Here,
            None => Place::Elsewhere(lb.session.node.clone()),
        };
        LbState { health: lb.health, flags: lb.flags, place }
    }

    /// What this node has of a load balancer has changed: its groups follow.
    fn after_lb(&mut self, uid: &[u8], before: Option<&Lb>) {
        let key = RowKey::LoadBalancer(uid.into());
        let Some(row) = self.rows.get(&key) else { return self.end_all_groups(uid) };
        let (after, revived) = (lb(&row.mine).cloned(), row.etcd.is_none());
        match (before, after) {
            (_, None) => return self.end_all_groups(uid),
            (None, Some(_)) => {
                for key in self.groups_of(uid) {
                    let row = self.row(&key);
                    row.base = None; // what this node forgot, it did not remove
                    row.overwritten.clear();
                    if !row.in_flight {
                        row.sent.clear();
                    }
                    self.merge_later(&key);
                }
            }
            (Some(before), Some(after)) if before.born != after.born => {
                for key in self.groups_of(uid) {
                    let row = self.row(&key);
                    if revived {
                        row.is_reborn = row.ordered.is_some();
                        row.my_group().into_iter().for_each(|group| group.born = after.born.clone());
                    }
                    self.merge_later(&key);
                }
            }
            _ => {}
        }
        for key in self.groups_of(uid) {
            if self.row(&key).pending {
                self.merge_later(&key);
            }
        }
    }

    /// The coordinator has forgotten a load balancer, with its groups.
    fn end_all_groups(&mut self, uid: &[u8]) {
        self.bound.remove(uid);
        for key in self.groups_of(uid) {
            let row = self.row(&key);
            (row.mine, row.base, row.pending) = (None, row.etcd.clone(), false);
            row.overwritten.clear();
            self.look(&key);
        }
    }

    fn settle_group(&mut self, key: &RowKey, uid: &[u8], name: &[u8]) -> Option<(u64, Order)> {
        let of_lb = self.rows.get(&RowKey::LoadBalancer(uid.into()));
        if of_lb.is_some_and(|row| row.pending || row.ordered.is_some() || row.is_unknown) {
            return None; // it comes again after the load balancer
        }
        let row = self.rows.get(key)?;
        let Some(born) = of_lb.and_then(|row| lb(&row.mine)).map(|lb| lb.born.clone()) else {
            // Groups of a load balancer that is not known are rests.
            self.take_in(key, None);
            return None;
        };
        let (base, mine, etcd) = (group(&row.base), group(&row.mine), group(&row.etcd));
        let merge::Merged { group: want, dropped, overruled } =
            merge::merge_group(&born, base, mine, etcd, &row.ours(&self.settings.node));
        let (change, from) = (merge::difference(mine, want.as_ref()), row.mine.clone());
        if dropped > 0 {
            self.conflict(|| {
                format!(
                    "{key}: nodes registered {dropped} members more than a group can have; these are not registered any more"
                )
            });
        }
        if overruled > 0 {
            self.conflict(|| {
                format!("{key}: two nodes changed {overruled} members at once; of each, one change stays")
            });
        }
        let want = want.map(|group| Arc::new(Content::Group(group)));
        let Some(change) = change else {
            self.take_in(key, want);
            return None;
        };
        let (lb_uid, name) = (uid.into(), name.into());
        let order = Order::Group { lb_uid, name, change: change.clone() };
        let act = Act::Members(change, from);
        Some(self.order(key, want, act, order))
    }

    fn settle_word(&mut self, key: &RowKey, number: u64) -> Option<(u64, Order)> {
        let words = self.rows.iter().filter(|(key, row)| matches!(key, RowKey::Word(_)) && row.mine.is_some()).count();
        let newer = self.newer(number);
        let row = self.rows.get(key)?;
        // A word that the store had and has no more has ended where the newer one was said, by who said that.
        let is_lost = row.etcd.is_some() || row.mine.is_some() && row.base.is_none();
        if let (Some(newer), Some(old)) = (newer, word(&row.mine).or(word(&row.etcd)).filter(|_| is_lost)) {
            let text = format!("{key} has ended: {}; word {newer} is later, and about the same", old.told());
            self.conflict(|| text);
        }
        let row = self.rows.get(key)?;
        let (mine, etcd) = (&row.mine, &row.etcd);
        if let (None, Some(theirs)) = (mine, word(etcd))
            && words >= limits::OPERATOR_WORDS
        {
            let text = format!("{key} is one too many for this node: {}", theirs.told());
            self.row(key).is_unknown = true;
            self.row(key).pending = false;
            self.look(key);
            self.conflict(|| text);
            return None;
        }
        let want = if newer.is_some() {
            None
        } else if mine == &row.base || mine == etcd {
            etcd.clone()
        } else if etcd == &row.base {
            mine.clone()
        } else if let (Some(mine), Some(theirs)) = (word(mine), word(etcd)) {
            // Two words have got the same number: this node's gets another one.
            let last = self.rows.keys().filter_map(|key| match key {
                RowKey::Word(number) => Some(*number),
                _ => None,
            });
            let next = last.max().unwrap_or(number) + 1;
            let renumbered = crate::coordinator::Word { number: next, ..mine.word.clone() };
            let said = vec![theirs.word.clone(), renumbered.clone()];
            let act = Act::Renumbered(next, Arc::new(Content::Word(mine.renumbered(renumbered))));
            let text = format!("{key} is now word {next}, for another node had the number: {}", mine.told());
            let want = etcd.clone();
            self.conflict(|| text);
            return Some(self.order(key, want, act, Order::Words { unsaid: vec![number], said }));
        } else {
            etcd.clone()
        };
        if *mine == want {
            self.take_in(key, want);
            self.supersede(number);
            return None;
        }
        let unsaid = mine.iter().map(|_| number).collect();
        let said = word(&want).map(|row| row.word.clone()).into_iter().collect();
        Some(self.order(key, want, Act::Whole, Order::Words { unsaid, said }))
    }

    /// The number of a newer word about the same, if this node has one.
    fn newer(&self, number: u64) -> Option<u64> {
        let old = self.rows.get(&RowKey::Word(number)).and_then(|row| word(&row.mine).or(word(&row.etcd)))?;
        let newer = self.rows.range(RowKey::Word(number + 1)..).filter_map(|(_, row)| word(&row.mine));
        newer.filter(|new| new.is_about(old)).map(|new| new.word.number).next()
    }

    /// A word has come: older ones about the same end.
    fn supersede(&mut self, number: u64) {
        let Some(new) = self.rows.get(&RowKey::Word(number)).and_then(|row| word(&row.mine)) else { return };
        let older = self.rows.range(RowKey::Word(0)..RowKey::Word(number));
        let older = older.filter(|(_, row)| word(&row.mine).is_some_and(|old| new.is_about(old)));
        let keys: Vec<RowKey> = older.map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.merge_later(key));
    }

    /// The store's version is merged, and the coordinator has nothing to do for it.
    fn take_in(&mut self, key: &RowKey, want: Version) {
        let row = self.row(key);
        (row.mine, row.base, row.pending) = (want, row.etcd.clone(), false);
        row.overwritten.clear();
        self.look(key);
    }

    fn order(&mut self, key: &RowKey, want: Version, act: Act, order: Order) -> (u64, Order) {
        let number = self.number();
        let row = self.row(key);
        row.pending = false;
        row.ordered = Some(Ordered { number, want, etcd: row.etcd.clone(), act });
        self.open_orders.insert(number, key.clone());
        self.dirty.remove(key);
        (number, order)
    }

    /// The coordinator has done the order with this number, or it did not fit: in its place between the coordinator's own
    /// changes.
    pub fn done(&mut self, number: u64, fits: bool) {
        let Some(key) = self.open_orders.remove(&number) else { return };
        let Some(row) = self.rows.get_mut(&key) else { return };
        let Some(ordered) = row.ordered.take().filter(|ordered| ordered.number == number) else { return };
        if !fits {
            self.merge_later(&key);
            return self.look(&key);
        }
        row.base = ordered.etcd;
        if !row.pending {
            row.overwritten.clear();
        }
        let before = mem::replace(&mut row.mine, ordered.want);
        match ordered.act {
            Act::Whole => {}
            Act::Members(GroupChange::Begun(_) | GroupChange::Ended(_), _) => {}
            Act::Members(change, from) => {
                // The coordinator may have changed other members meanwhile.
                let mut members = group(&before).map(|group| group.members.clone()).unwrap_or_default();
                if let Some(now) = row.my_group() {
                    let from = group(&from);
                    merge::change(&mut members, &change, from.map_or(&[][..], |from| &from.members), &now.members);
                    now.members = members;
                    if let Some(before) = group(&before) {
                        now.session = last_session(from.map(|from| &from.session), &before.session, &now.session);
                        now.gone = gone::both_gone(&before.gone, &now.gone);
                        gone::forget_gone(now);
                    }
                }
            }
            Act::Renumbered(next, content) => {
                let key = RowKey::Word(next);
                self.row(&key).mine = Some(content);
                self.look(&key);
            }
        }
        if self.row(&key).pending {
            self.merge_later(&key);
        }
        match &key {
            RowKey::LoadBalancer(uid) => self.after_lb(uid, lb(&before)),
            RowKey::Word(number) => self.supersede(*number),
            RowKey::Group(uid, _) => {
                let born = self.my_lb(uid).map(|lb| lb.born.clone());
                let row = self.row(&key);
                if mem::take(&mut row.is_reborn)
                    && let (Some(born), Some(group)) = (born, row.my_group())
                {
                    group.born = born;
                }
            }
        }
        self.look(&key);
    }
}

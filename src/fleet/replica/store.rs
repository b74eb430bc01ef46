//! What comes from the store, and transactions for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound,
    sync::Arc,
};

use super::{
    super::{
        VALUE_BYTES, buckets,
        clock::last_session,
        gone,
        node_row::NodeRow,
        rows::{self, Content, Key, Parts, RowKey, Stamp},
    },
    Moment, Replica, Row, SENT, Version, group, lb, parts,
};
use crate::journal::{Ahead, Epoch, Fault};

/// Most nodes that are known; more are not believed.
const NODES: usize = 64;

/// The most operations of a transaction; etcd takes 128.
const OPS: usize = 100;

/// One part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The key, without the fleet's prefix.
    pub key: Vec<u8>,
    /// The key's mod_revision must be this (0: the key must not be there); `None`: it may be anything.
    pub expected: Option<i64>,
    /// The new value; `None`: the key is deleted.
    pub value: Option<Vec<u8>>,
    /// The key ends with the node's lease.
    pub leased: bool,
    /// The key is only compared.
    pub check_only: bool,
}

/// One transaction: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its parts, with different keys.
    pub ops: Vec<Op>,
}

impl Replica {
    /// A listing of all keys begins: each comes with [`Replica::put`]. `store` is the store's id: a new store, and one that
    /// was restored from a backup, has another.
    pub fn begin_listing(&mut self, store: u64) {
        self.is_another |= self.store.replace(store).is_some_and(|before| before != store);
        self.listing = Some(Vec::new());
    }

    /// A key of the listing, or the event of the watch that it was put. Events come in the order of revisions, all of them
    /// from the revision of the listing on, and nothing else.
    pub fn put(&mut self, key: &[u8], value: &[u8], revision: i64, at: Moment) {
        let Ok(key) = Key::read(key) else { return };
        match &mut self.listing {
            Some(listing) => listing.push((key, value.to_vec(), revision)),
            None => {
                self.revision = self.revision.max(revision);
                self.put_now(key, value, revision, at);
            }
        }
    }

    fn put_now(&mut self, key: Key, value: &[u8], revision: i64, at: Moment) {
        match key {
            Key::Row(key) => match self.read(&key, value, at.epoch) {
                Ok((content, parts)) => {
                    self.row(&key).is_unknown = false;
                    self.see(&key, Some(Arc::new(content)), parts, revision);
                }
                Err(fault) => {
                    let row = self.row(&key);
                    if revision > row.revision {
                        (row.revision, row.is_unknown, row.pending, row.parts) = (revision, true, false, None);
                        self.conflict(|| format!("{key} is left as it is in the store: {fault} is not understood"));
                        self.look(&key);
                    }
                }
            },
            Key::Node(name) => {
                let is_known = self.nodes.contains_key(&name) || self.nodes.len() < NODES;
                if let (Ok(row), true) = (NodeRow::read(value), is_known) {
                    self.hear(&name, &row, revision, at);
                    let before = self.nodes.insert(name.clone(), row.clone());
                    if before.is_none_or(|before| !before.is_like(&row)) {
                        self.node_turned(&name);
                    }
                }
            }
            Key::Verdicts(node, number) if node != self.settings.node => {
                let list = buckets::read(value).unwrap_or_default();
                self.checks.put(&node, number, list);
            }
            Key::Verdicts(..) => {}
            Key::Part(node, serial, index) => self.parts.put(node, serial, index, value),
            Key::Store => (self.identity, self.rename) = (Some(rows::store_number(value)), None),
        }
    }

    /// The content of a row's value, and the value's parts, if it is in parts.
    fn read(&mut self, key: &RowKey, value: &[u8], epoch: Epoch) -> Result<(Content, Option<Parts>), Fault> {
        let parts = if matches!(key, RowKey::Group(..)) { Parts::read(value)? } else { None };
        match &parts {
            None => Ok((Content::read(key, value, epoch)?, None)),
            Some(named) => {
                let whole = self.parts.take(named).ok_or(Fault("a value whose parts are not there"))?;
                Ok((Content::read(key, &whole, epoch)?, parts))
            }
        }
    }

    /// The event of the watch that a key was deleted.
    pub fn delete(&mut self, key: &[u8], revision: i64) {
        self.revision = self.revision.max(revision);
        match Key::read(key) {
            Ok(Key::Row(key)) if self.rows.contains_key(&key) => {
                self.row(&key).is_unknown = false;
                self.see(&key, None, None, revision);
            }
            Ok(Key::Node(name)) => {
                self.nodes.remove(&name);
                self.node_turned(&name);
            }
            Ok(Key::Verdicts(node, number)) if node != self.settings.node => self.checks.put(&node, number, Vec::new()),
            Ok(Key::Verdicts(_, number)) => self.checks.lost_one(number),
            Ok(Key::Part(node, serial, index)) => self.parts.delete(&node, serial, index),
            Ok(Key::Store) => (self.identity, self.rename) = (None, None),
            Ok(Key::Row(_)) | Err(_) => {}
        }
    }

    /// The store has this version of a row.
    fn see(&mut self, key: &RowKey, version: Version, parts: Option<Parts>, revision: i64) {
        let row = self.row(key);
        if revision <= row.revision {
            return self.look(key); // this node wrote it, or something newer
        }
        (row.etcd, row.revision, row.parts) = (version, revision, parts);
        if let Some(at) = row.sent.iter().position(|sent| *sent == row.etcd) {
            // This node wrote it: there is nothing to merge.
            row.base = row.etcd.clone();
            row.overwritten.clear();
            if !row.in_flight {
                row.sent.drain(..=at);
            }
        } else {
            let still = usize::from(row.in_flight);
            let tried = row.sent.len().saturating_sub(still);
            row.overwritten.extend(row.sent.drain(..tried));
            let excess = row.overwritten.len().saturating_sub(SENT);
            row.overwritten.drain(..excess);
            self.merge_later(key);
        }
        self.look(key);
    }

    /// A node's row tells of the fleet's date, or asks for it.
    fn hear(&mut self, name: &str, row: &NodeRow, revision: i64, at: Moment) {
        let Some(told) = &row.told else { return };
        if *name != *self.settings.node {
            self.node_dirty |= self.clock.hear(told, at.now, at.date()) || told.asks;
        } else if row.incarnation == self.settings.incarnation {
            self.clock.is_told(told, revision);
        }
    }

    /// A node has come, gone, or changed: load balancers that it had may be without a connection.
    fn node_turned(&mut self, name: &str) {
        self.nodes_changed = true;
        if *name == *self.settings.node {
            let mine = self.my_node_row();
            self.node_dirty |= self.nodes.get(name).is_none_or(|row| !row.is_like(&mine));
        }
        self.look_for_dead_owners();
    }

    fn look_for_dead_owners(&mut self) {
        if !self.connected {
            return;
        }
        let is_ownerless = |version: &Version| {
            lb(version).is_some_and(|lb| {
                let alive = self.nodes.get(&lb.session.node).is_some_and(|node| node.incarnation == lb.incarnation);
                lb.held_until.is_none() && !alive && !self.is_here(lb)
            })
        };
        let keys: Vec<RowKey> = self
            .rows
            .range(..RowKey::Group(Box::default(), Box::default()))
            .filter(|(_, row)| is_ownerless(&row.mine))
            .map(|(key, _)| key.clone())
            .collect();
        keys.iter().for_each(|key| self.merge_later(key));
    }

    /// The listing is complete; it is as of this revision. What it does not have is not there.
    pub fn end_listing(&mut self, revision: i64, at: Moment) {
        let mut listing = self.listing.take().unwrap_or_default();
        listing.sort_by_key(|(key, ..)| !matches!(key, Key::Part(..))); // before those that name them
        self.parts.clear();
        let is_empty = !listing.iter().any(|(key, ..)| matches!(key, Key::Row(_)));
        let named = listing.iter().find(|(key, ..)| *key == Key::Store);
        let named = named.map(|(_, value, revision)| (rows::store_number(value), *revision));
        let identity = named.map(|(identity, _)| identity);
        // It goes on in another way than this node, or the state on disk, knows.
        let has_lost = mem::take(&mut self.is_another)
            || revision < self.revision
            || self.identity.is_some() && self.identity != identity
            || self
                .restored
                .is_some_and(|known| identity == Some(known.store) && revision.unsigned_abs() < known.revision);
        let is_another = has_lost || is_empty || self.restored.is_some_and(|known| identity != Some(known.store));
        (self.revision, self.identity) = (revision, identity);
        let rename = named.filter(|_| has_lost).map(|(_, revision)| revision);
        if !self.in_flight
            && let Some(key) = self.abandon_sending()
        {
            self.release(&key, true);
        }
        if has_lost {
            self.conflict(|| {
                "etcd is another store than before, or an older state of it: what either side has stays".into()
            });
        }
        if is_another {
            // Nobody has removed what a new store, or an old backup, does not have.
            for (key, row) in &mut self.rows {
                (row.base, row.etcd, row.revision, row.parts) = (None, None, 0, None);
                (row.sent, row.overwritten) = (Vec::new(), Vec::new());
                self.dirty.insert(key.clone());
            }
        }
        let there: BTreeSet<Key> = listing.iter().map(|(key, ..)| key.clone()).collect();
        let is_gone = |key: Key| !there.contains(&key);
        let gone: Vec<Box<str>> =
            self.nodes.keys().filter(|name| is_gone(Key::Node((*name).clone()))).cloned().collect();
        for name in gone {
            self.nodes.remove(&name);
            self.node_turned(&name);
        }
        let remote: Vec<(Box<str>, u16)> = self.checks.remote().collect();
        for (node, number) in remote {
            if is_gone(Key::Verdicts(node.clone(), number)) {
                self.checks.put(&node, number, Vec::new());
            }
        }
        let had = |key: &RowKey| is_gone(Key::Row(key.clone()));
        let gone = self.rows.iter().filter(|(key, row)| (row.etcd.is_some() || row.base.is_some()) && had(key));
        let gone: Vec<RowKey> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.see(&key, None, None, revision);
        }
        let known = self.restored.take().filter(|known| identity == Some(known.store)).map(|known| known.revision);
        for (key, value, revision) in listing {
            let is_old = known.is_some_and(|known| revision.unsigned_abs() <= known);
            let row = if let Key::Row(row) = &key { Some(row.clone()).filter(|_| is_old) } else { None };
            self.put_now(key, &value, revision, at);
            if let Some(row) = row {
                self.descend(&row);
            }
        }
        // Of these, no event of the watch comes any more.
        let over = self.rows.iter().filter(|(_, row)| row.mine.is_none() && row.etcd.is_none());
        let over: Vec<RowKey> = over.map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| self.look(key));
        self.rename = rename;
        self.ahead = Ahead::Nothing;
        if !mem::replace(&mut self.has_listed, true) {
            // What an earlier life of this node has begun to write.
            self.rubbish.extend(self.parts.of(&self.settings.node));
        }
    }

    /// Nobody has changed the row in the store since the state on disk had it: what this node lacks of it, this node has
    /// removed, before its death or since. Not so a load balancer: which session counts, both sides say, and not to forget it
    /// is the safe side.
    fn descend(&mut self, key: &RowKey) {
        let is_of_disk = match key {
            RowKey::LoadBalancer(_) => false,
            RowKey::Group(uid, _) => self.my_lb(uid).is_some(),
            RowKey::Word(_) => true,
        };
        let is_own = self.own(key).is_some();
        let changed = |row: &Row| is_own || row.mine != row.base;
        let Some(row) = self.rows.get_mut(key).filter(|row| is_of_disk && !row.is_unknown && changed(row)) else {
            return;
        };
        let base = mem::replace(&mut row.base, row.etcd.clone());
        let Some(theirs) = group(&row.etcd).cloned() else { return };
        let Some(mine) = row.my_group() else { return };
        if mine.born == Stamp::default() {
            mine.born = theirs.born;
        }
        mine.session = last_session(group(&base).map(|base| &base.session), &mine.session, &theirs.session);
        // Members of the disk that have not changed since are those of the store. Others keep their ids: a member may have
        // left and come back without the store, and who removed it before that does not mean the registration now.
        let ids: BTreeMap<_, _> = theirs.members.iter().map(|member| (member.membership.endpoint, member.id)).collect();
        for member in mine.members.iter_mut().filter(|member| member.id == 0) {
            member.id = ids.get(&member.membership.endpoint).copied().unwrap_or_default();
        }
        mine.gone = gone::both_gone(&mine.gone, &theirs.gone);
        gone::forget_gone(mine);
    }

    /// The node's lease is held, and the listing and the watch are up to date; or one of this has been lost for as long as
    /// the lease takes to end: the node is alone then.
    pub fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
        self.nodes_changed = true;
        if connected {
            let unsettled = self.rows.iter().filter(|(_, row)| !row.is_settled());
            self.reconciling = unsettled.map(|(key, _)| key.clone()).collect();
            self.node_dirty = true;
            self.clock.ask_anew();
            self.checks.lost();
            self.look_for_dead_owners();
        }
    }

    fn my_node_row(&self) -> NodeRow {
        NodeRow {
            incarnation: self.settings.incarnation,
            blind: self.blind,
            address: self.settings.address.clone(),
            version: self.settings.version.clone(),
            told: None,
        }
    }

    /// The next transaction; the answer to it is [`Replica::committed`] or [`Replica::refused`]. What the node's checks
    /// found comes only if `verdicts` is set (once in a window), and then first.
    pub fn next_batch(&mut self, verdicts: bool, at: Moment) -> Option<Batch> {
        if !self.connected || self.in_flight {
            return None;
        }
        self.node_dirty |= self.clock.wants(at.now);
        // First of all: a node that comes back must not take the store for the one that it knew, once this one is written to.
        let expected = self.rename.or(self.identity.is_none().then_some(0));
        let mut ops: Vec<Op> = expected.map(|expected| self.name_the_store(expected)).into_iter().collect();
        // What this node owns counts only while the store has the node.
        if ops.is_empty() && (verdicts || self.node_dirty) {
            ops = self.leased_ops(at);
        }
        if ops.is_empty() {
            ops = self.sending_ops().unwrap_or_default();
        }
        if ops.is_empty() {
            ops = self.row_ops();
        }
        if ops.is_empty() {
            ops = self.rubbish_ops(OPS);
        }
        self.in_flight = !ops.is_empty();
        self.in_flight.then_some(Batch { ops })
    }

    fn name_the_store(&mut self, expected: i64) -> Op {
        let value = rows::write_store(&self.settings.node, self.settings.incarnation, self.names);
        self.names += 1;
        Op { key: Key::Store.write(), expected: Some(expected), value: Some(value), leased: false, check_only: false }
    }

    fn leased_ops(&mut self, at: Moment) -> Vec<Op> {
        let mut ops = Vec::new();
        let op = |key: Key, value| Op { key: key.write(), expected: None, value, leased: true, check_only: false };
        if mem::take(&mut self.node_dirty) {
            let told = Some(self.clock.tell(at.now, at.date(), self.revision));
            let row = NodeRow { told, ..self.my_node_row() };
            ops.push(op(Key::Node(self.settings.node.clone()), Some(row.write())));
        }
        let mut bytes = 0;
        while ops.len() < OPS
            && bytes < VALUE_BYTES / 2
            && let Some((number, value)) = self.checks.next_dirty()
        {
            bytes += value.as_ref().map_or(0, Vec::len);
            ops.push(op(Key::Verdicts(self.settings.node.clone(), number), value));
        }
        ops
    }

    fn row_ops(&mut self) -> Vec<Op> {
        let (mut ops, mut bytes) = (Vec::new(), 0);
        // Load balancers whose row is in this transaction, too.
        let mut here = BTreeSet::new();
        let mut last: Option<RowKey> = None;
        while ops.len() < OPS {
            let after = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let Some(key) = self.dirty.range((after, Bound::Unbounded)).next().cloned() else { break };
            last = Some(key.clone());
            let Some(row) = self.rows.get(&key) else {
                self.dirty.remove(&key);
                continue;
            };
            if !row.is_free() || row.is_settled() {
                self.look(&key);
                continue;
            }
            // A group is written, or removed, only beside its load balancer as it is in the store.
            if let RowKey::Group(uid, _) = &key
                && !here.contains(uid)
                && self.rows.get(&RowKey::LoadBalancer(uid.clone())).is_some_and(|lb| !lb.is_settled())
            {
                continue;
            }
            let value = row.mine.as_ref().map(|content| content.write());
            let size = value.as_ref().map_or(0, Vec::len);
            let before = row.parts.clone();
            let count = 1 + before.as_ref().map_or(0, |parts| usize::from(parts.count));
            let is_large = size > self.settings.value_bytes && matches!(key, RowKey::Group(..));
            if !ops.is_empty() && (is_large || bytes + size > VALUE_BYTES || ops.len() + count > OPS) {
                break;
            }
            bytes += size;
            if let RowKey::LoadBalancer(uid) = &key {
                here.insert(uid.clone());
            }
            let row = self.row(&key);
            let expected = Some(if row.etcd.is_some() { row.revision } else { 0 });
            row.in_flight = true;
            if row.sent.len() == SENT {
                row.sent.remove(0);
            }
            row.sent.push(row.mine.clone());
            row.sent_since = row.since.take();
            self.dirty.remove(&key);
            if let Some(value) = value.as_ref().filter(|_| is_large) {
                self.send_in_parts(key, value);
                return self.sending_ops().unwrap_or_default();
            }
            ops.push(Op { key: Key::Row(key).write(), expected, value, leased: false, check_only: false });
            ops.extend(before.iter().flat_map(Parts::keys).map(parts::deletion));
        }
        ops
    }

    /// The store has the batch, as of this revision.
    pub fn committed(&mut self, batch: &Batch, revision: i64) {
        self.in_flight = false;
        for op in &batch.ops {
            let key = match Key::read(&op.key) {
                Ok(Key::Row(key)) => key,
                Ok(Key::Store) => {
                    (self.identity, self.rename) = (op.value.as_deref().map(rows::store_number), None);
                    continue;
                }
                Ok(Key::Part(_, serial, index)) if op.value.is_some() => {
                    self.part_is_there(serial, index, revision);
                    continue;
                }
                _ => continue,
            };
            let parts = self.sent(&key);
            let row = self.row(&key);
            row.in_flight = false;
            let written = row.sent.pop().flatten();
            row.sent.clear();
            row.base = written.clone();
            row.overwritten.clear();
            if revision > row.revision {
                (row.etcd, row.revision, row.parts) = (written, revision, parts);
            }
            if let Some(number) = row.sent_since.take() {
                self.waiting.remove(&(number, key.clone()));
            }
            self.resume(&key);
        }
    }

    /// The store has refused the batch. Try again after the next event of the watch, or a short pause.
    pub fn refused(&mut self, batch: &Batch) {
        self.failed(batch, true);
    }

    /// Nobody knows what the store did with the batch: the listing or the watch will tell.
    pub fn lost(&mut self, batch: &Batch) {
        self.failed(batch, false);
    }

    fn failed(&mut self, batch: &Batch, certain: bool) {
        self.in_flight = false;
        if let Some(key) = self.not_sent(batch, certain) {
            self.release(&key, certain);
        }
        for op in &batch.ops {
            match Key::read(&op.key) {
                Ok(Key::Row(key)) => self.release(&key, certain),
                Ok(Key::Node(_)) => self.node_dirty = true,
                Ok(Key::Verdicts(_, number)) => self.checks.again(number),
                Ok(Key::Part(..) | Key::Store) | Err(_) => {}
            }
        }
    }

    /// The row was to be written, and has to be again. `certain`: the store never had what was to be written.
    fn release(&mut self, key: &RowKey, certain: bool) {
        let row = self.row(key);
        if mem::take(&mut row.in_flight) && certain {
            row.sent.pop();
        }
        if let Some(number) = row.sent_since.take()
            && let Some(later) = row.since.replace(number)
        {
            self.waiting.remove(&(later, key.clone()));
        }
        self.resume(key);
    }

    /// The row is not in flight any more.
    fn resume(&mut self, key: &RowKey) {
        if self.row(key).pending {
            self.merge_later(key);
        }
        self.look(key);
    }
}

//! What comes from the store, and transactions for it.

use std::{collections::BTreeSet, mem, ops::Bound, sync::Arc};

use super::{
    super::rows::{self, Content, Key, NodeRow, RowKey},
    Moment, Replica, SENT, Version, lb,
};
use crate::sasp::Escaped;

/// Most nodes that are known; more are not believed.
const NODES: usize = 64;

/// The most operations of a transaction; etcd takes 128.
const OPS: usize = 100;

/// Bytes of values after which a transaction is full, and bytes of the largest value: etcd takes requests of 1.5 MiB.
const BATCH_BYTES: usize = 1 << 20;

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
            Key::Row(key) => match Content::read(&key, value, at.epoch) {
                Ok(content) => {
                    self.row(&key).is_unknown = false;
                    self.see(&key, Some(Arc::new(content)), revision);
                }
                Err(fault) => {
                    let row = self.row(&key);
                    if revision > row.revision {
                        (row.revision, row.is_unknown, row.pending) = (revision, true, false);
                        self.conflict(|| format!("{key:?} is left as it is in the store: {fault} is not understood"));
                        self.look(&key);
                    }
                }
            },
            Key::Node(name) => {
                let is_known = self.nodes.contains_key(&name) || self.nodes.len() < NODES;
                if let (Ok(row), true) = (NodeRow::read(value), is_known)
                    && self.nodes.insert(name.clone(), row.clone()) != Some(row)
                {
                    self.node_turned(&name);
                }
            }
            Key::Verdicts(node, number) if node != self.settings.node => {
                let list = rows::read_bucket(value).unwrap_or_default();
                self.checks.put(&node, number, list);
            }
            Key::Verdicts(..) => {}
        }
    }

    /// The event of the watch that a key was deleted.
    pub fn delete(&mut self, key: &[u8], revision: i64) {
        self.revision = self.revision.max(revision);
        match Key::read(key) {
            Ok(Key::Row(key)) if self.rows.contains_key(&key) => {
                self.row(&key).is_unknown = false;
                self.see(&key, None, revision);
            }
            Ok(Key::Node(name)) => {
                self.nodes.remove(&name);
                self.node_turned(&name);
            }
            Ok(Key::Verdicts(node, number)) if node != self.settings.node => self.checks.put(&node, number, Vec::new()),
            Ok(Key::Verdicts(_, number)) => self.checks.lost_one(number),
            Ok(Key::Row(_)) | Err(_) => {}
        }
    }

    /// The store has this version of a row.
    fn see(&mut self, key: &RowKey, version: Version, revision: i64) {
        let row = self.row(key);
        if revision <= row.revision {
            return self.look(key); // this node wrote it, or something newer
        }
        (row.etcd, row.revision) = (version, revision);
        if let Some(at) = row.sent.iter().position(|sent| *sent == row.etcd) {
            // This node wrote it: there is nothing to merge.
            row.base = row.etcd.clone();
            if !row.in_flight {
                row.sent.drain(..=at);
            }
        } else {
            if !row.in_flight {
                row.sent.clear();
            }
            self.merge_later(key);
        }
        self.look(key);
    }

    /// A node has come, gone, or changed: load balancers that it had may be without a connection.
    fn node_turned(&mut self, name: &str) {
        self.nodes_changed = true;
        if *name == *self.settings.node {
            let mine = self.my_node_row();
            self.node_dirty |= self.nodes.get(name) != Some(&mine);
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
        let listing = self.listing.take().unwrap_or_default();
        let is_empty = !listing.iter().any(|(key, ..)| matches!(key, Key::Row(_)));
        let is_another = mem::take(&mut self.is_another) || revision < self.revision || is_empty;
        self.revision = revision;
        if is_another {
            // Nobody has removed what a new store, or an old backup, does not have.
            for (key, row) in &mut self.rows {
                (row.base, row.etcd, row.revision) = (None, None, 0);
                row.sent.clear();
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
            self.see(&key, None, revision);
        }
        for (key, value, revision) in listing {
            self.put_now(key, &value, revision, at);
        }
    }

    /// The node's lease is held, and the listing and the watch are up to date; or one of this has been lost for as long as
    /// the lease takes to end: the node is alone then.
    pub fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
        self.nodes_changed = true;
        if connected {
            self.node_dirty = true;
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
        }
    }

    /// The next transaction; the answer to it is [`Replica::committed`] or [`Replica::refused`]. What the node's checks
    /// found comes only if `verdicts` is set (once in a window), and then first.
    pub fn next_batch(&mut self, verdicts: bool) -> Option<Batch> {
        if !self.connected || self.in_flight {
            return None;
        }
        // What this node owns counts only while the store has the node.
        let mut ops = if verdicts || self.node_dirty { self.leased_ops() } else { Vec::new() };
        if ops.is_empty() {
            ops = self.row_ops();
        }
        self.in_flight = !ops.is_empty();
        self.in_flight.then_some(Batch { ops })
    }

    fn leased_ops(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        let op = |key: Key, value| Op { key: key.write(), expected: None, value, leased: true };
        if mem::take(&mut self.node_dirty) {
            ops.push(op(Key::Node(self.settings.node.clone()), Some(self.my_node_row().write())));
        }
        let mut bytes = 0;
        while ops.len() < OPS
            && bytes < BATCH_BYTES / 2
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
            if size > BATCH_BYTES {
                self.row(&key).is_oversize = true;
                self.conflict(|| format!("{} is too large for the store, and stays with this node", name(&key)));
                self.look(&key);
                continue;
            }
            if !ops.is_empty() && bytes + size > BATCH_BYTES {
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
            ops.push(Op { key: Key::Row(key).write(), expected, value, leased: false });
        }
        ops
    }

    /// The store has the batch, as of this revision.
    pub fn committed(&mut self, batch: &Batch, revision: i64) {
        self.in_flight = false;
        for key in batch.ops.iter().filter_map(|op| row_key(&op.key)) {
            let row = self.row(&key);
            row.in_flight = false;
            let written = row.sent.pop().flatten();
            row.sent.clear();
            row.base = written.clone();
            if revision > row.revision {
                (row.etcd, row.revision) = (written, revision);
            }
            if let Some(number) = row.sent_since.take() {
                self.waiting.remove(&(number, key.clone()));
            }
            self.resume(&key);
        }
    }

    /// The store has refused the batch, or nobody knows. Try again after the next event of the watch, or a short pause.
    pub fn refused(&mut self, batch: &Batch) {
        self.in_flight = false;
        for op in &batch.ops {
            match Key::read(&op.key) {
                Ok(Key::Row(key)) => {
                    let row = self.row(&key);
                    row.in_flight = false;
                    if let Some(number) = row.sent_since.take()
                        && let Some(later) = row.since.replace(number)
                    {
                        self.waiting.remove(&(later, key.clone()));
                    }
                    self.resume(&key);
                }
                Ok(Key::Node(_)) => self.node_dirty = true,
                Ok(Key::Verdicts(_, number)) => self.checks.again(number),
                Err(_) => {}
            }
        }
    }

    /// The row is not in flight any more.
    fn resume(&mut self, key: &RowKey) {
        if self.row(key).pending {
            self.merge_later(key);
        }
        self.look(key);
    }
}

fn row_key(key: &[u8]) -> Option<RowKey> {
    match Key::read(key) {
        Ok(Key::Row(key)) => Some(key),
        _ => None,
    }
}

/// A row, for people.
fn name(key: &RowKey) -> String {
    match key {
        RowKey::LoadBalancer(uid) => format!("load balancer \"{}\"", Escaped(uid)),
        RowKey::Group(uid, name) => format!("group \"{}\" of load balancer \"{}\"", Escaped(name), Escaped(uid)),
        RowKey::Word(number) => format!("word {number} of the operator"),
    }
}

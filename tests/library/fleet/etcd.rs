//! A store like etcd: transactions that compare revisions, leases, and every event in order.

use std::collections::BTreeMap;

use gwm::fleet::Batch;

/// What happened to a key; `None`: it was deleted.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) revision: i64,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

#[derive(Clone)]
struct Stored {
    value: Vec<u8>,
    revision: i64,
    lease: Option<u64>,
}

#[derive(Clone, Default)]
pub(super) struct Etcd {
    pub(super) revision: i64,
    keys: BTreeMap<Vec<u8>, Stored>,
    history: Vec<Event>,
    /// Lease → its end.
    leases: BTreeMap<u64, u64>,
    last_lease: u64,
    /// Another store has another number.
    pub(super) life: u64,
}

impl Etcd {
    pub(super) fn grant(&mut self, now: u64, ttl: u64) -> u64 {
        self.last_lease += 1;
        self.leases.insert(self.last_lease, now + ttl);
        self.last_lease
    }

    /// Whether the lease is still there.
    pub(super) fn keep_alive(&mut self, lease: u64, now: u64, ttl: u64) -> bool {
        self.leases.get_mut(&lease).map(|end| *end = now + ttl).is_some()
    }

    /// The lease that a key ends with.
    pub(super) fn lease_of(&self, key: &str) -> Option<u64> {
        self.keys.get(key.as_bytes())?.lease
    }

    pub(super) fn expire(&mut self, now: u64) {
        let ended: Vec<u64> = self.leases.iter().filter(|(_, end)| **end <= now).map(|(lease, _)| *lease).collect();
        for lease in ended {
            self.leases.remove(&lease);
            let keys: Vec<Vec<u8>> =
                self.keys.iter().filter(|(_, of)| of.lease == Some(lease)).map(|(key, _)| key.clone()).collect();
            if keys.is_empty() {
                continue;
            }
            self.revision += 1;
            for key in keys {
                self.set(key, None, None);
            }
        }
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, lease: Option<u64>) {
        let revision = self.revision;
        let was = match value.clone() {
            Some(value) => self.keys.insert(key.clone(), Stored { value, revision, lease }),
            None => self.keys.remove(&key),
        };
        if value.is_some() || was.is_some() {
            self.history.push(Event { revision, key, value });
        }
    }

    /// The revision that has the batch, if it is not refused.
    pub(super) fn transact(&mut self, batch: &Batch, lease: u64) -> Option<i64> {
        let fits = batch.ops.iter().all(|op| {
            let is = self.keys.get(&op.key).map_or(0, |of| of.revision);
            op.expected.is_none_or(|expected| expected == is)
        });
        let leased = batch.ops.iter().any(|op| op.leased);
        if !fits || leased && !self.leases.contains_key(&lease) {
            return None;
        }
        self.revision += 1;
        for op in batch.ops.iter().filter(|op| !op.check_only) {
            self.set(op.key.clone(), op.value.clone(), op.leased.then_some(lease));
        }
        Some(self.revision)
    }

    pub(super) fn list(&self) -> Vec<Event> {
        let event = |(key, of): (&Vec<u8>, &Stored)| Event {
            revision: of.revision,
            key: key.clone(),
            value: Some(of.value.clone()),
        };
        self.keys.iter().map(event).collect()
    }

    /// The events after this revision.
    pub(super) fn since(&self, revision: i64) -> Vec<Event> {
        let from = self.history.partition_point(|event| event.revision <= revision);
        self.history[from..].to_vec()
    }

    /// All is lost, as if the operator had begun with a new store.
    pub(super) fn reset(&mut self) {
        *self = Etcd { life: self.life + 1, last_lease: self.last_lease, ..Etcd::default() };
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.keys.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }
}

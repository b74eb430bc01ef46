//! Groups that are too large for one value: their parts go to the store before the group's own key names them.

use std::collections::{BTreeMap, VecDeque};

use super::{
    super::rows::{self, Key, Parts, RowKey},
    Replica,
    store::{Batch, Op},
};

/// Bytes of parts that wait for the key that names them; the largest group has a third of this.
const WAITING_BYTES: usize = 64 << 20;

/// Parts that are known and that no key has named yet.
#[derive(Default)]
pub(super) struct Waiting {
    parts: BTreeMap<(Box<str>, u64), BTreeMap<u16, Vec<u8>>>,
    bytes: usize,
}

impl Waiting {
    /// The store has this part. One that finds no room is dropped: the value that it belongs to is not understood then.
    pub(super) fn put(&mut self, node: Box<str>, serial: u64, index: u16, value: &[u8]) {
        self.delete(&node, serial, index);
        if self.bytes + value.len() <= WAITING_BYTES {
            self.bytes += value.len();
            self.parts.entry((node, serial)).or_default().insert(index, value.to_vec());
        }
    }

    pub(super) fn delete(&mut self, node: &str, serial: u64, index: u16) {
        let key = (node.into(), serial);
        let Some(parts) = self.parts.get_mut(&key) else { return };
        self.bytes -= parts.remove(&index).map_or(0, |value| value.len());
        if parts.is_empty() {
            self.parts.remove(&key);
        }
    }

    /// Takes a value out of its parts, if all of them are there.
    pub(super) fn take(&mut self, named: &Parts) -> Option<Vec<u8>> {
        let parts = self.parts.remove(&(named.node.clone(), named.serial))?;
        self.bytes -= parts.values().map(Vec::len).sum::<usize>();
        let whole = parts.keys().copied().eq(0..named.count);
        whole.then(|| parts.into_values().flatten().collect())
    }

    /// The parts of a node, which nobody has named.
    pub(super) fn of(&self, node: &str) -> Vec<Key> {
        let of_node = self.parts.iter().filter(|((writer, _), _)| **writer == *node);
        of_node
            .flat_map(|((node, serial), parts)| parts.keys().map(|index| Key::Part(node.clone(), *serial, *index)))
            .collect()
    }

    pub(super) fn clear(&mut self) {
        *self = Waiting::default();
    }
}

/// A row whose value goes to the store in parts.
pub(super) struct Sending {
    key: RowKey,
    parts: Parts,
    /// The parts that are not there yet, with their index.
    left: VecDeque<(u16, Vec<u8>)>,
    /// The revision of the first part: if the store does not have it any more when the key names the parts, it is another
    /// store, or the part was deleted.
    first: i64,
    /// What the row's key must be when it names the parts.
    expected: i64,
    /// The key's parts before.
    before: Option<Parts>,
}

impl Replica {
    /// Begins to send the value of a row, which is in flight from now on.
    pub(super) fn send_in_parts(&mut self, key: RowKey, value: &[u8]) {
        let size = self.settings.value_bytes.max(value.len().div_ceil(rows::PARTS.into()));
        let left: VecDeque<(u16, Vec<u8>)> = (0..).zip(value.chunks(size).map(<[u8]>::to_vec)).collect();
        let serial = self.next_ids(1);
        let parts = Parts { node: self.settings.node.clone(), serial, count: left.len() as u16 }; // at most `PARTS`
        let row = self.row(&key);
        let expected = if row.etcd.is_some() { row.revision } else { 0 };
        let before = row.parts.clone();
        self.sending = Some(Sending { key, parts, left, first: 0, expected, before });
    }

    /// The next part of the row that is being sent, or the key that names them all.
    pub(super) fn sending_ops(&mut self) -> Option<Vec<Op>> {
        let Sending { key, parts, left, first, expected, before } = self.sending.as_mut()?;
        if let Some((index, value)) = left.pop_front() {
            let key = Key::Part(parts.node.clone(), parts.serial, index).write();
            return Some(vec![Op { key, expected: None, value: Some(value), leased: false, check_only: false }]);
        }
        let value = Some(parts.write());
        let mut ops = vec![Op {
            key: Key::Row(key.clone()).write(),
            expected: Some(*expected),
            value,
            leased: false,
            check_only: false,
        }];
        let check = parts.keys().next().map(|key| Op { expected: Some(*first), check_only: true, ..deletion(key) });
        ops.extend(check);
        ops.extend(before.iter().flat_map(Parts::keys).map(deletion));
        Some(ops)
    }

    /// Whether a batch is of the row that is being sent.
    fn is_of_sending(&self, batch: &Batch) -> bool {
        let Some(Sending { key, parts, .. }) = &self.sending else { return false };
        batch.ops.iter().any(|op| match Key::read(&op.key) {
            Ok(Key::Part(node, serial, _)) => (node, serial) == (parts.node.clone(), parts.serial),
            Ok(Key::Row(row)) => row == *key,
            _ => false,
        })
    }

    /// The store has a part, as of this revision.
    pub(super) fn part_is_there(&mut self, serial: u64, index: u16, revision: i64) {
        if let Some(sending) = self.sending.as_mut().filter(|sending| sending.parts.serial == serial && index == 0) {
            sending.first = revision;
        }
    }

    /// The store has a batch: if the key that names the parts was in it, the row is sent. Gives the row's parts then.
    pub(super) fn sent(&mut self, key: &RowKey) -> Option<Parts> {
        self.sending.take_if(|sending| sending.key == *key).map(|sending| sending.parts)
    }

    /// A batch is not in the store, or nobody knows. If it was of the row that is being sent, that ends; gives the row.
    /// `certain`: nothing of the batch is there, and never will be.
    pub(super) fn not_sent(&mut self, batch: &Batch, certain: bool) -> Option<RowKey> {
        if !self.is_of_sending(batch) {
            return None;
        }
        let Sending { key, parts, left, .. } = self.sending.take()?;
        if certain {
            let there = usize::from(parts.count) - left.len();
            self.rubbish.extend(parts.keys().take(there));
        }
        Some(key)
    }

    /// The row that is being sent begins again: the store may be another one.
    pub(super) fn abandon_sending(&mut self) -> Option<RowKey> {
        self.sending.take().map(|sending| sending.key)
    }

    /// Deletes parts that nobody needs.
    pub(super) fn rubbish_ops(&mut self, most: usize) -> Vec<Op> {
        let count = self.rubbish.len().min(most);
        self.rubbish.drain(..count).map(deletion).collect()
    }
}

pub(super) fn deletion(key: Key) -> Op {
    Op { key: key.write(), expected: None, value: None, leased: false, check_only: false }
}

//! An outbox that keeps all messages of the coordinator; the test sets how much room it has.

use std::collections::BTreeMap;

use bytes::Bytes;
use gwm::coordinator::{
    Change, CloseReason, ConnectionId, Doubted, Kind, Outbox, Refusal, Refused, Time, Unmatched, Word,
};

use crate::coordinator_model::replay::Recorded;

/// One committed message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) connection: ConnectionId,
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Recorder {
    /// How many more pushes a shard takes; without an entry there is no limit.
    pub(crate) room: BTreeMap<u16, usize>,
    /// How many more pushes all shards take together; `None`: no limit.
    pub(crate) room_in_all: Option<usize>,
    buffers: BTreeMap<u16, Vec<u8>>,
    /// Bytes of each shard's buffer that belong to committed messages.
    committed: BTreeMap<u16, usize>,
    sent: Vec<Sent>,
    closes: Vec<(ConnectionId, CloseReason)>,
    /// The bodies of messages that had one.
    pub(crate) bodies: Vec<Bytes>,
    /// The causes of 0x11, with their details.
    pub(crate) refused: Vec<(Refusal, String)>,
    /// Entries of the operator's files that matched nothing for an hour, as the log has them.
    pub(crate) unmatched: Vec<String>,
    /// The operator's words whose time was over.
    pub(crate) expired: Vec<String>,
    /// The doubts that began or ended.
    pub(crate) doubts: Vec<String>,
    /// Every change of the tables.
    pub(crate) changes: Vec<(Time, Recorded)>,
}

impl Recorder {
    /// The messages committed since the last call. No other bytes may be in a buffer.
    pub(crate) fn take(&mut self) -> (Vec<Sent>, Vec<(ConnectionId, CloseReason)>) {
        for (shard, buffer) in &self.buffers {
            let committed = self.committed.get(shard).copied().unwrap_or(0);
            assert_eq!(buffer.len(), committed, "shard {shard}: bytes that belong to no message");
        }
        (std::mem::take(&mut self.sent), std::mem::take(&mut self.closes))
    }
}

impl Outbox for Recorder {
    fn has_room(&self, shard: u16) -> bool {
        self.room.get(&shard).is_none_or(|&left| left > 0) && self.room_in_all != Some(0)
    }

    fn buffer(&mut self, shard: u16) -> &mut Vec<u8> {
        self.buffers.entry(shard).or_default()
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, body: Option<&Bytes>, kind: Kind) {
        let shard = connection.shard;
        let committed = self.committed.entry(shard).or_default();
        assert_eq!(start, *committed, "a message begins where the last one ended");
        let buffer = self.buffers.entry(shard).or_default();
        let mut bytes = buffer[start..].to_vec();
        bytes.extend_from_slice(body.map_or(&[], |body| body));
        self.bodies.extend(body.cloned());
        *committed = buffer.len();
        if kind == Kind::Push {
            assert!(self.has_room(shard), "a push to a shard that has no room");
            for left in self.room.get_mut(&shard).into_iter().chain(&mut self.room_in_all) {
                *left -= 1;
            }
        }
        // Sometimes the shard takes its buffer away: the coordinator must not rely on committed bytes.
        if buffer_is_full(self.buffers[&shard].len()) {
            self.buffers.insert(shard, Vec::new());
            self.committed.insert(shard, 0);
        }
        self.sent.push(Sent { connection, kind, bytes });
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.closes.push((connection, reason));
    }

    fn changed(&mut self, now: Time, change: &Change<'_>) {
        self.changes.push((now, Recorded::new(change)));
    }

    fn unmatched(&mut self, unmatched: &Unmatched) {
        self.unmatched.push(unmatched.to_string());
    }

    fn expired(&mut self, word: &Word) {
        self.expired.push(format!("{} {word}", word.number));
    }

    fn doubted(&mut self, doubted: &Doubted<'_>) {
        let Doubted { turn, lb_uid, group, lost, of } = doubted;
        let (lb_uid, group) = (lb_uid.escape_ascii(), group.escape_ascii());
        self.doubts.push(format!("{lb_uid}/{group} {turn:?} {lost}/{of}"));
    }

    fn refused(&mut self, refused: &Refused<'_>) {
        let Refused { peer, cause, lb_uid, member } = refused;
        let member = member.map(|member| format!(" {member}")).unwrap_or_default();
        self.refused.push((*cause, format!("{} {}{member}", peer.address, lb_uid.escape_ascii())));
    }
}

/// Small, so that the buffer often has messages before a new one, and is often empty.
fn buffer_is_full(bytes: usize) -> bool {
    bytes > 1000
}

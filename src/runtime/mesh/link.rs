//! The messages between a shard and the coordinator, and the shard's sending end.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use super::pipe::{Bell, Sender};
use crate::{
    access::Peer,
    coordinator::{CloseReason, Kind, WatchOrder},
    judgement::Judgement,
};

/// A connection of the shard at the other end of the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    /// The row in the shard's table.
    pub(crate) index: u32,
    /// The number of earlier connections in this row.
    pub(crate) generation: u32,
}

/// Shard to coordinator.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    /// A connection has opened, from this peer.
    Opened(Peer),
    /// A well-formed request: this range of the batch's bytes.
    Request(Range<usize>),
    /// So many messages that were marked [unfinished](Down::unfinished) are with the socket now.
    Delivered(u32),
    /// The connection has ended.
    Closed,
    /// New conclusions about members; this concerns no connection.
    Judged(Box<[Judgement]>),
}

/// Coordinator to shard.
#[derive(Debug)]
pub(crate) struct Down {
    /// The connection.
    pub(crate) slot: Slot,
    /// The order.
    pub(crate) order: Order,
    /// The shard sets this if the socket did not take the whole message: an [`Up::Delivered`] follows.
    pub(crate) unfinished: bool,
}

/// An order of the coordinator to a shard.
#[derive(Debug)]
pub(crate) enum Order {
    /// Write a message.
    Write {
        /// The message's kind.
        kind: Kind,
        /// The message's first bytes: this range of the batch's bytes.
        head: Range<u32>,
        /// The rest of the message, if others share the rest: the place in the batch's bodies.
        body: Option<u16>,
        /// When the first change of a push came, in the lower bits of microseconds; 0 if that is not known.
        changed_at: u32,
    },
    /// Write the rest, and close.
    Close(CloseReason),
    /// Begin or end the checks of an endpoint. Boxed, because almost all orders are writes.
    Watch(Box<WatchOrder>),
}

/// The shard's sending end. Acknowledgements and ends of connections can not wait at their source, so they are kept
/// here while there is no room: a few entries for each connection.
pub(crate) struct Uplink {
    sender: Sender<(Slot, Up)>,
    bell: Arc<Bell>,
    kept: VecDeque<(Slot, Up)>,
    /// A request was sent since the last call of [`Uplink::take_asked`].
    asked: bool,
}

impl Uplink {
    /// `bell` wakes the task that calls [`Uplink::turn`].
    pub(crate) fn new(sender: Sender<(Slot, Up)>, bell: Arc<Bell>) -> Uplink {
        Uplink { sender, bell, kept: VecDeque::new(), asked: false }
    }

    /// Whether there is room for an opened connection or a request.
    pub(crate) fn has_room(&self) -> bool {
        self.kept.is_empty() && self.sender.has_room()
    }

    /// Announces a connection; there was room.
    pub(crate) fn opened(&mut self, slot: Slot, peer: Peer) {
        self.push(slot, Up::Opened(peer));
    }

    /// Sends a request; there was room.
    pub(crate) fn request(&mut self, slot: Slot, frame: &[u8]) {
        let bytes = self.sender.bytes();
        let start = bytes.len();
        bytes.extend_from_slice(frame);
        let range = start..bytes.len();
        self.asked = true;
        self.push(slot, Up::Request(range));
    }

    /// Whether a request was sent since the last call: its reply is to come.
    pub(crate) fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }

    /// Acknowledges messages.
    pub(crate) fn delivered(&mut self, slot: Slot, messages: u32) {
        self.push(slot, Up::Delivered(messages));
    }

    /// Reports a connection's end.
    pub(crate) fn closed(&mut self, slot: Slot) {
        self.push(slot, Up::Closed);
    }

    /// Sends judgements; there was room.
    pub(crate) fn judged(&mut self, judgements: Box<[Judgement]>) {
        self.push(Slot { index: 0, generation: 0 }, Up::Judged(judgements));
    }

    fn push(&mut self, slot: Slot, up: Up) {
        match self.kept.is_empty() && self.sender.has_room() {
            true => self.sender.push((slot, up)),
            false => self.kept.push_back((slot, up)),
        }
        self.bell.ring();
    }

    /// Whether [`Uplink::turn`] has something to do.
    pub(crate) fn is_due(&self) -> bool {
        self.sender.is_due() || self.sender.has_wanted_return()
    }

    /// To be called before the shard sleeps.
    pub(crate) fn before_sleep(&self) {
        self.sender.want_returns(!self.kept.is_empty());
    }

    /// Takes back batches, and sends entries.
    pub(crate) fn turn(&mut self) {
        while let Some(batch) = self.sender.reclaim() {
            self.sender.recycle(batch);
        }
        while self.sender.has_room() {
            let Some(entry) = self.kept.pop_front() else { break };
            self.sender.push(entry);
        }
        self.sender.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits, runtime::mesh::pipe};

    #[test]
    fn ends_of_connections_wait_for_room_in_their_order() {
        let bell = Arc::new(Bell::default());
        let (sender, mut receiver) = pipe(1, bell.clone(), bell.clone());
        let mut uplink = Uplink::new(sender, bell);
        let slot = |index| Slot { index, generation: 0 };
        for index in 0..limits::BATCH_ENTRIES as u32 {
            assert!(uplink.has_room());
            uplink.request(slot(index), b"x");
        }
        assert!(!uplink.has_room(), "the only batch is on its way");
        uplink.delivered(slot(1), 2);
        uplink.closed(slot(1));
        uplink.turn();

        let batch = receiver.receive().expect("the full batch");
        assert!(matches!(batch.entries.last(), Some((_, Up::Request(range))) if range.end == limits::BATCH_ENTRIES));
        uplink.before_sleep();
        receiver.give_back(batch);
        assert!(uplink.is_due());
        uplink.turn();
        let batch = receiver.receive().expect("what was kept");
        assert!(matches!(batch.entries[..], [(_, Up::Delivered(2)), (Slot { index: 1, .. }, Up::Closed)]));
    }
}

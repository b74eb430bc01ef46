//! Where the coordinator's messages go.

use bytes::Bytes;

use super::{
    change::{Change, CloseReason, Contested},
    doubts::Doubted,
    ids::ConnectionId,
    rights::Refused,
    unmatched::Unmatched,
    words::Word,
};
use crate::time::Time;

/// The kind of a committed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reply to the connection's one request in progress: once it is written, the shard reads the next request.
    Reply,
    /// A Send Weights.
    Push,
}

/// Receives the coordinator's messages: the runtime's batches, or a test's list.
pub trait Outbox {
    /// Whether this shard takes another push now; how much other shards took may count. A shard always takes a reply:
    /// the caller makes room for one reply before each request.
    fn has_room(&self, shard: u16) -> bool;
    /// The buffer to append one message to. Bytes that are in the buffer already belong to other messages.
    fn buffer(&mut self, shard: u16) -> &mut Vec<u8>;
    /// Ends the message that began at `start` of [`Outbox::buffer`]: it is for this connection. A message with a body
    /// ends with the bytes of the body, which are not in the buffer: other messages share them.
    fn commit(&mut self, connection: ConnectionId, start: usize, body: Option<&Bytes>, kind: Kind);
    /// Asks the shard to flush and close the connection; [`Coordinator::closed`](super::Coordinator::closed) follows
    /// when the shard has done so.
    fn close(&mut self, connection: ConnectionId, reason: CloseReason);
    /// A request gets the reply 0x11, for this cause.
    fn refused(&mut self, _refused: &Refused<'_>) {}
    /// Entries of the operator's files have matched nothing for an hour.
    fn unmatched(&mut self, _unmatched: &Unmatched) {}
    /// A doubt about a group begins or ends.
    fn doubted(&mut self, _doubted: &Doubted<'_>) {}
    /// Connections take a load balancer from each other again and again; at most once a minute for each.
    fn contested(&mut self, _contested: &Contested<'_>) {}
    /// The time of this word of the operator is over, and the word ends.
    fn expired(&mut self, _word: &Word) {}
    /// The next message is a push, and its first change came then.
    fn pushes(&mut self, _changed_at: Option<Time>) {}
    /// This change is applied next.
    fn changed(&mut self, _now: Time, _change: &Change<'_>) {}
}

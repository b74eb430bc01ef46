//! Where the coordinator's messages go.

use super::{Time, change::Change, ids::ConnectionId, rights::Refused};

/// What a committed message is, which decides what the shard does once it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The answer to the connection's one request in progress: the shard may read the next request.
    Reply,
    /// A Send Weights that nobody asked for.
    Push,
}

/// Why the coordinator ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Another connection was bound to the same LB UID.
    TakenOver,
    /// The connection may no longer be its load balancer.
    NotPermitted,
}

/// Takes the coordinator's messages: the runtime's batches, or a test's list.
pub trait Outbox {
    /// Whether this shard takes another push now; that may depend on how much other shards took. A shard always takes
    /// a reply: the caller makes room for one reply before it hands in a request.
    fn has_room(&self, shard: u16) -> bool;
    /// The buffer to append one message to. Bytes that are already in it belong to others.
    fn buffer(&mut self, shard: u16) -> &mut Vec<u8>;
    /// Ends the message that began at `start` of [`Outbox::buffer`] and addresses it.
    fn commit(&mut self, connection: ConnectionId, start: usize, kind: Kind);
    /// Asks the shard to flush and close the connection; [`Coordinator::closed`](super::Coordinator::closed) follows
    /// when the shard has done so.
    fn close(&mut self, connection: ConnectionId, reason: CloseReason);
    /// A request is being answered with 0x11; the operator may want to know why.
    fn refused(&mut self, _refused: &Refused<'_>) {}
    /// This change is being applied.
    fn changed(&mut self, _now: Time, _change: &Change<'_>) {}
}

//! The sending side of a connection: replies, pushes, and the bytes that the socket did not take.

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
    sync::atomic::Ordering,
};

use bytes::Bytes;

use super::{
    super::{cause::Cause, context::Context, shard_metrics::since_stamp},
    Call, Connection, Stage, account, broken,
};
use crate::{coordinator::Kind, limits, metrics::Id};

/// A message of the coordinator, or of the shard: its first bytes, and the rest, if others share the rest.
#[derive(Clone, Copy)]
pub(in crate::runtime::shard) struct Outgoing<'m> {
    pub(in crate::runtime::shard) head: &'m [u8],
    pub(in crate::runtime::shard) body: Option<&'m Bytes>,
}

impl Outgoing<'_> {
    pub(in crate::runtime::shard) fn len(&self) -> usize {
        self.head.len() + self.body.map_or(0, Bytes::len)
    }

    /// Calls `act` with all bytes.
    pub(in crate::runtime::shard) fn with_slices<R>(&self, act: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        match self.body {
            None => act(&[IoSlice::new(self.head)]),
            Some(body) => act(&[IoSlice::new(self.head), IoSlice::new(body)]),
        }
    }

    /// All bytes in one piece.
    pub(in crate::runtime::shard) fn to_vec(self) -> Vec<u8> {
        [self.head, self.body.map_or(&[], |body| body)].concat()
    }
}

impl Connection {
    /// Sends replies of the shard's own, and keeps the bytes that the socket does not take.
    pub(super) fn send_replies(&mut self, socket: BorrowedFd<'_>, message: &[u8], context: &Context) -> io::Result<()> {
        let message = Outgoing { head: message, body: None };
        if !self.has_unwritten() {
            let sent = message.with_slices(|slices| self.wire.send(socket, slices))?;
            self.keep(message, sent.taken, context);
        } else {
            self.add_unwritten(message, 0, context);
            context.count(Id::MessagesDelayed);
        }
        Ok(())
    }

    /// Keeps the bytes of a message that the wire has not taken; whether none are left, or the connection ends.
    fn keep(&mut self, message: Outgoing<'_>, taken: usize, context: &Context) -> bool {
        if taken < message.len() && !self.add_unwritten(message, taken, context) {
            return true;
        }
        let finished = !self.has_unwritten();
        if finished {
            context.count(Id::MessagesSent);
        } else {
            self.since = context.now();
            context.count(Id::MessagesDelayed);
        }
        finished
    }

    /// Takes a message of the coordinator. If the connection [is clear](Self::is_clear), the caller has offered the
    /// message to the socket, with the result `sent`. False if bytes are left and an acknowledgement follows.
    pub(in crate::runtime::shard) fn deliver(
        &mut self,
        socket: BorrowedFd<'_>,
        kind: Kind,
        message: Outgoing<'_>,
        sent: Option<io::Result<usize>>,
        context: &Context,
    ) -> bool {
        if self.stage != Stage::Open {
            return true;
        }
        let sent = match sent {
            Some(sent) => sent,
            None if self.has_unwritten() => {
                let kept = self.add_unwritten(message, 0, context);
                context.count(Id::MessagesDelayed);
                self.unacknowledged += u32::from(kept);
                self.replied(kind, context);
                self.wake(context);
                return !kept;
            }
            None => message.with_slices(|slices| self.wire.send(socket, slices)).map(|sent| sent.taken),
        };
        let finished = match sent {
            Ok(taken) => self.keep(message, taken, context),
            Err(_) => {
                // This peer will never get the whole message, so the connection ends, whatever the next read says.
                self.stage = Stage::Flushing(Cause::Failed);
                true
            }
        };
        self.replied(kind, context);
        self.unacknowledged += u32::from(!finished);
        if !finished || self.stage != Stage::Open {
            self.wake(context);
        }
        finished
    }

    /// After a reply, the next request may be read.
    fn replied(&mut self, kind: Kind, context: &Context) {
        if kind == Kind::Reply {
            self.request_pending = false;
            context.metrics.request_duration.add(since_stamp(context.now(), self.asked_at));
            let draining = context.shared.draining.load(Ordering::Relaxed);
            if self.readable || !self.unread.is_empty() || self.close_requested.is_some() || draining {
                self.wake(context);
            }
        }
    }

    /// Writes unwritten bytes once.
    pub(super) fn write_unwritten(&mut self, socket: BorrowedFd<'_>, context: &Context) -> Call {
        match self.unwritten.with_first(|slices| self.wire.send(socket, slices)) {
            Ok(sent) => {
                self.unwritten.advance(sent.taken, |body| context.bodies.release(body, &context.shared.unsent));
                // A handshake has one timeout for all its messages.
                if sent.progress && !matches!(self.stage, Stage::Securing(_)) {
                    self.since = context.now();
                }
                if self.unwritten.is_empty() {
                    self.drop_unwritten(context);
                }
                if !self.has_unwritten() && self.unacknowledged > 0 {
                    context.uplink.borrow_mut().delivered(self.slot, std::mem::take(&mut self.unacknowledged));
                }
                if self.has_unwritten() && !sent.progress { Call::Waits } else { Call::Done }
            }
            Err(error) => Call::Ended(broken(&error)),
        }
    }

    /// Adds the bytes of a message from `from` on; false if they exceed the budget: then all unwritten bytes are dropped,
    /// and the connection ends.
    fn add_unwritten(&mut self, message: Outgoing<'_>, from: usize, context: &Context) -> bool {
        let budget = &context.shared.unsent;
        self.unwritten.copy(message.head.get(from..).unwrap_or_default());
        // Few bytes do not count: no peer is dropped for them because of what others do not take.
        let own = self.unwritten.own().saturating_sub(limits::READ_BYTES);
        if account(&mut self.unsent_budget, own, budget)
            && message.body.is_none_or(|body| body.is_empty() || context.bodies.hold(body, budget))
        {
            if let Some(body) = message.body.filter(|body| !body.is_empty()) {
                self.unwritten.share(body.clone(), from.saturating_sub(message.head.len()));
            }
            return true;
        }
        self.drop_unwritten(context);
        self.stage = Stage::Flushing(Cause::UnsentBytes);
        false
    }

    /// Drops all unwritten bytes.
    pub(super) fn drop_unwritten(&mut self, context: &Context) {
        let budget = &context.shared.unsent;
        self.unwritten.clear(|body| context.bodies.release(body, budget));
        account(&mut self.unsent_budget, 0, budget);
    }
}

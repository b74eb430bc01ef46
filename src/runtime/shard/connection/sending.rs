//! The sending side of a connection: replies, pushes, and the bytes that the socket did not take.

use std::{io, os::fd::BorrowedFd, sync::atomic::Ordering};

use super::{
    super::{cause::Cause, context::Context},
    Call, Connection, Stage, account, broken,
};
use crate::{coordinator::Kind, limits, metrics::Id};

impl Connection {
    /// Sends replies of the shard's own, and keeps the bytes that the socket does not take.
    pub(super) fn send_replies(&mut self, socket: BorrowedFd<'_>, message: &[u8], context: &Context) -> io::Result<()> {
        if !self.has_unwritten() {
            let sent = self.wire.send(socket, message)?;
            self.keep(message, sent.taken, context);
        } else {
            self.add_unwritten(message, context);
            context.count(Id::MessagesDelayed);
        }
        Ok(())
    }

    /// Keeps the bytes of a message that the wire has not taken; whether none are left, or the connection ends.
    fn keep(&mut self, message: &[u8], taken: usize, context: &Context) -> bool {
        if let Some(rest @ [_, ..]) = message.get(taken..)
            && !self.add_unwritten(rest, context)
        {
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
        message: &[u8],
        sent: Option<io::Result<usize>>,
        context: &Context,
    ) -> bool {
        if self.stage != Stage::Open {
            return true;
        }
        let sent = match sent {
            Some(sent) => sent,
            None if self.has_unwritten() => {
                let kept = self.add_unwritten(message, context);
                context.count(Id::MessagesDelayed);
                self.unacknowledged += u32::from(kept);
                self.replied(kind, context);
                self.wake(context);
                return !kept;
            }
            None => self.wire.send(socket, message).map(|sent| sent.taken),
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
            let draining = context.shared.draining.load(Ordering::Relaxed);
            if self.readable || !self.unread.is_empty() || self.close_requested.is_some() || draining {
                self.wake(context);
            }
        }
    }

    /// Writes unwritten bytes once.
    pub(super) fn write_unwritten(&mut self, socket: BorrowedFd<'_>, context: &Context) -> Call {
        match self.wire.send(socket, self.unwritten.get(self.written..).unwrap_or_default()) {
            Ok(sent) => {
                self.written += sent.taken;
                // A handshake has one timeout for all its messages.
                if sent.progress && !matches!(self.stage, Stage::Securing(_)) {
                    self.since = context.now();
                }
                if self.written == self.unwritten.len() {
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

    /// Adds unwritten bytes; false if they exceed the budget: then all are dropped, and the connection ends.
    fn add_unwritten(&mut self, bytes: &[u8], context: &Context) -> bool {
        self.unwritten.extend_from_slice(bytes);
        // Few bytes do not count: no peer is dropped for them because of what others do not take.
        let unsent = self.unwritten.len().saturating_sub(limits::READ_BYTES);
        if account(&mut self.unsent_budget, unsent, &context.shared.unsent) {
            return true;
        }
        self.drop_unwritten(context);
        self.stage = Stage::Flushing(Cause::UnsentBytes);
        false
    }

    /// Drops all unwritten bytes.
    pub(super) fn drop_unwritten(&mut self, context: &Context) {
        self.unwritten = Vec::new();
        self.written = 0;
        account(&mut self.unsent_budget, 0, &context.shared.unsent);
    }
}

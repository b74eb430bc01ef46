//! The receiving side of a connection: from bytes to requests.

use std::{os::fd::BorrowedFd, sync::atomic::Ordering};

use super::{
    super::{cause::Cause, context::Context, shard_metrics::stamp, wire::Received},
    Call, Connection, LOOKS_UNTIL_SILENT, Stage, account, broken,
};
use crate::{
    limits,
    metrics::Id,
    sasp::{Framer, Summary},
    session::{FrameAction, examine},
};

impl Connection {
    /// Reads once, if the limits allow that, and takes the frames.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, context: &Context) -> Call {
        // A peer that ended its side after its last request is seen at once; with a request pending, after its reply.
        let waits = !self.unread.is_empty() || (self.readable && !self.peer_ended);
        if waits && self.pause_if_rate_limited(context) {
            return Call::Waits;
        }
        if !context.uplink.borrow_mut().has_room() {
            return self.wait_for_room(context);
        }
        if !self.unread.is_empty() {
            let rest = std::mem::take(&mut self.unread);
            return self.take_frames(socket, &rest, context);
        }
        // Requests that arrived before the stop are answered still, whether the epoll set told of them or not.
        let draining = context.shared.draining.load(Ordering::Relaxed);
        self.readable |= draining;
        let mut scratch = context.scratch.borrow_mut();
        let was_inside = self.framer.buffered() > 0 || self.wire.is_inside_record();
        let received = self.wire.receive(socket, &mut scratch, &mut self.readable, self.peer_ended);
        if self.first_message_seen && !was_inside && self.wire.is_inside_record() {
            self.since = context.now(); // the wait for the message in this record begins
        }
        match received {
            Ok(Received::Nothing) if draining => {
                self.stage = Stage::Flushing(Cause::Draining);
                Call::Done
            }
            Ok(Received::Nothing) => Call::Waits,
            Ok(Received::Progress) => Call::Done,
            Ok(Received::End) => Call::Ended(Cause::PeerClosed),
            Ok(Received::Bytes(length)) => {
                (self.heard, self.lingers) = (LOOKS_UNTIL_SILENT, true);
                let bytes = scratch.get(..length).expect("a read fills no more than its buffer");
                self.take_frames(socket, bytes, context)
            }
            Err(fault) => self.fail(fault, context),
        }
    }

    /// Waits until the uplink has room.
    pub(super) fn wait_for_room(&mut self, context: &Context) -> Call {
        if !std::mem::replace(&mut self.waits_for_room, true) {
            context.wake_when_there_is_room(self.slot);
        }
        Call::Waits
    }

    /// Pauses the reading if the rate limit forbids a request now; whether it does. Requests before a stop have no
    /// limit.
    fn pause_if_rate_limited(&mut self, context: &Context) -> bool {
        let Some(rate) = context.request_rate else { return false };
        let ready = self.request_bucket.ready(rate);
        let limited = context.now() < ready && !context.shared.draining.load(Ordering::Relaxed);
        if limited && !self.rate_limited {
            context.count(Id::RateLimitPauses);
            context.wake_at(ready, self.slot);
            if !std::mem::replace(&mut self.rate_limit_logged, true) {
                context.log_slowed_down(self.peer);
            }
        }
        if std::mem::replace(&mut self.rate_limited, limited) && !limited {
            self.since = context.now(); // the peer's time begins again
        }
        limited
    }

    /// Takes frames up to the first request, which goes to the coordinator; the bytes after this request are kept.
    /// Replies of the shard's own are written together at the end, because one read can hold a thousand bad frames.
    fn take_frames(&mut self, socket: BorrowedFd<'_>, bytes: &[u8], context: &Context) -> Call {
        let was_inside = self.framer.buffered() > 0;
        let mut replies = context.replies.borrow_mut();
        replies.clear();
        let mut frames = 0u32;
        let mut input = bytes;
        loop {
            // A message is begun only if the rate allows to take it, so that its timeout does not run during the wait.
            if !input.is_empty() && self.pause_if_rate_limited(context) {
                self.keep_unread(input);
                break;
            }
            let mut view = input;
            let frame = match self.framer.next(&mut view) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    context.log_closed(Cause::Framing, self.peer, Some(&error));
                    self.stage = Stage::Flushing(Cause::Framing);
                    break;
                }
            };
            let left = view.len();
            frames += 1;
            self.first_message_seen = true;
            if let Some(rate) = context.request_rate {
                let taken = self.request_bucket.take(context.now(), rate);
                debug_assert!(
                    taken.is_ok() || context.shared.draining.load(Ordering::Relaxed),
                    "asked before it began"
                );
            }
            match examine(frame, context.limits.poll_interval_seconds, &mut replies) {
                FrameAction::Request(header, message) => {
                    tracing::trace!(peer = %self.peer, "received: {}", Summary(&header, &message));
                    context.uplink.borrow_mut().request(self.slot, frame);
                    context.count(Id::Requests);
                    self.request_pending = true;
                    self.asked_at = stamp(context.now());
                }
                FrameAction::Refused(error) => {
                    context.count(Id::RequestsInvalid);
                    tracing::trace!(peer = %self.peer, "refused: {error}");
                }
                FrameAction::Close(why) => {
                    context.log_closed(Cause::NoReply, self.peer, Some(&why));
                    self.stage = Stage::Flushing(Cause::NoReply);
                    break;
                }
            }
            input = input.get(input.len() - left..).expect("what is left was there before");
            if self.request_pending {
                self.keep_unread(input);
                break;
            }
        }
        if !replies.is_empty()
            && let Err(error) = self.send_replies(socket, &replies, context)
        {
            return Call::Ended(broken(&error));
        }
        let inside = self.framer.buffered() > 0 || self.wire.is_inside_record();
        if inside && self.first_message_seen && (!was_inside || frames > 0) {
            self.since = context.now();
        }
        // Few bytes do not count: no peer is closed for a short message because of what others hold.
        let buffered = (self.framer.buffered() + self.unread.len()).saturating_sub(limits::READ_BYTES);
        if !self.account(buffered, context) {
            self.stage = Stage::Flushing(Cause::BufferedBytes);
            self.drop_unfinished(context);
        }
        Call::Done
    }

    /// Keeps bytes that are not taken yet.
    fn keep_unread(&mut self, bytes: &[u8]) {
        self.unread = bytes.to_vec();
        // The framer lets go of the message that it assembled: the message was copied.
        let _ = self.framer.next(&mut &[][..]);
    }

    /// Drops unfinished messages of the peer. Unwritten bytes are written all the same.
    pub(super) fn drop_unfinished(&mut self, context: &Context) {
        self.framer = Framer::new(context.limits.max_message_bytes);
        self.unread = Vec::new();
        self.account(0, context);
    }

    /// Brings this connection's part of the budget to `buffered`; false if that is too much.
    fn account(&mut self, buffered: usize, context: &Context) -> bool {
        account(&mut self.buffered_budget, buffered, &context.shared.buffered)
    }
}

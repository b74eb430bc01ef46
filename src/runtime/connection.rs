//! One connection: reading frames, at most one request under way, what is owed to the peer, and how it ends.
//!
//! All of it is plain state in the shard's table. The connection's task calls [`Connection::step`]; the fan-out
//! calls [`Connection::deliver`]; the sweep calls [`Connection::overdue`].

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::{
    link::Slot,
    shard::Shard,
    shared::{Cause, count},
    sys,
};
use crate::{
    config::Connections,
    coordinator::{Kind, Time},
    limits,
    sasp::Framer,
    session::{Verdict, judge},
};

/// How long the peer has to close its side after ours is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Reads and writes in one step, before the reactor has its turn.
const STEP_CALLS: u32 = 8;

/// An accepted connection.
pub(super) struct Connection {
    slot: Slot,
    stream: TcpStream,
    pub(super) peer: SocketAddr,
    framer: Framer,
    /// Bytes received after the request that is under way.
    rest: Vec<u8>,
    /// What the socket has not taken, from `written` on.
    owed: Vec<u8>,
    written: usize,
    /// Messages in `owed` that the coordinator waits for.
    unacknowledged: u32,
    /// A request is with the coordinator.
    under_way: bool,
    /// A whole message has arrived.
    greeted: bool,
    stage: Stage,
    /// Someone else's wish to end the connection.
    order: Option<Cause>,
    /// When what the connection waits for began: see [`Connection::overdue`].
    since: Time,
    /// What it has of the budget of unfinished messages.
    buffered: usize,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// What is owed is written, then our side is closed.
    Flushing(Cause),
    /// Our side is closed; this many bytes more are read and thrown away, so that no reset destroys what the peer
    /// has not read yet.
    Lingering(Cause, usize),
}

/// What a step came to.
pub(super) enum Step {
    /// The connection has ended.
    Ended(Cause),
    /// There is more to do after the reactor has turned.
    Again,
}

impl Connection {
    pub(super) fn new(slot: Slot, stream: TcpStream, peer: SocketAddr, shard: &Shard) -> Connection {
        Connection {
            slot,
            stream,
            peer,
            framer: Framer::new(shard.limits.max_message_bytes),
            rest: Vec::new(),
            owed: Vec::new(),
            written: 0,
            unacknowledged: 0,
            under_way: false,
            greeted: false,
            stage: Stage::Open,
            order: None,
            since: shard.shared.clock.now(),
            buffered: 0,
            waker: None,
        }
    }

    /// Its place in the shard's table.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, cx: &mut Context<'_>, shard: &Shard) -> Poll<Step> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        for _ in 0..STEP_CALLS {
            let ended = if self.owed.is_empty() {
                match self.stage {
                    Stage::Open if self.under_way => return Poll::Pending,
                    Stage::Open if self.order.is_some() => {
                        self.stage = Stage::Flushing(self.order.take().expect("just seen"));
                        continue;
                    }
                    Stage::Open => self.read(cx, shard),
                    Stage::Flushing(cause) => {
                        // A socket that can not be shut down is gone, which the next read says.
                        let _ = Pin::new(&mut self.stream).poll_close(cx);
                        self.stage = Stage::Lingering(cause, limits::LINGER_BYTES);
                        self.since = shard.shared.clock.now();
                        self.release(shard);
                        continue;
                    }
                    Stage::Lingering(cause, left) => self.linger(cx, shard, cause, left),
                }
            } else {
                self.write_owed(cx, shard)
            };
            match ended {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(cause)) => return Poll::Ready(Step::Ended(cause)),
                Poll::Ready(None) => {}
            }
        }
        Poll::Ready(Step::Again)
    }

    fn write_owed(&mut self, cx: &mut Context<'_>, shard: &Shard) -> Poll<Option<Cause>> {
        let Some(owed) = self.owed.get(self.written..).filter(|owed| !owed.is_empty()) else {
            self.owed = Vec::new();
            self.written = 0;
            if self.unacknowledged > 0 {
                shard.uplink.borrow_mut().delivered(self.slot, std::mem::take(&mut self.unacknowledged));
            }
            return Poll::Ready(None);
        };
        match Pin::new(&mut self.stream).poll_write(cx, owed) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(written)) => {
                self.written += written;
                self.since = shard.shared.clock.now();
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(broken(&error))),
        }
    }

    fn read(&mut self, cx: &mut Context<'_>, shard: &Shard) -> Poll<Option<Cause>> {
        if !shard.uplink.borrow_mut().has_room(cx.waker()) {
            return Poll::Pending;
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(self.take_frames(&rest, shard));
        }
        let mut scratch = shard.scratch.borrow_mut();
        let mut read = Pin::new(&mut self.stream).poll_read(cx, &mut scratch);
        if read.is_pending() && shard.shared.draining.load(Ordering::Relaxed) {
            // What had arrived before the stop is answered still; the connection ends when there is nothing more.
            match sys::receive_now(&self.stream, &mut scratch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stage = Stage::Flushing(Cause::Draining);
                    return Poll::Ready(None);
                }
                received => read = Poll::Ready(received),
            }
        }
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Some(Cause::PeerClosed)),
            Poll::Ready(Ok(length)) => {
                let bytes = scratch.get(..length).expect("a read fills no more than its buffer");
                Poll::Ready(self.take_frames(bytes, shard))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(broken(&error))),
        }
    }

    /// Takes frames until one is a request, which goes to the coordinator; what follows it is kept. Refusals are
    /// written together at the end: a peer can make a thousand of them with one read.
    fn take_frames(&mut self, bytes: &[u8], shard: &Shard) -> Option<Cause> {
        let was_inside = self.framer.buffered() > 0;
        let mut refusals = shard.reply.borrow_mut();
        refusals.clear();
        let mut frames = 0u32;
        let mut input = bytes;
        loop {
            let mut view = input;
            let frame = match self.framer.next(&mut view) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    shard.note(Cause::Framing, self.peer, Some(&error));
                    self.stage = Stage::Flushing(Cause::Framing);
                    break;
                }
            };
            let left = view.len();
            frames += 1;
            self.greeted = true;
            match judge(frame, shard.limits.poll_interval_seconds, &mut refusals) {
                Verdict::Request(..) => {
                    shard.uplink.borrow_mut().request(self.slot, frame);
                    count(&shard.counters.requests);
                    self.under_way = true;
                }
                Verdict::Refused(error) => {
                    count(&shard.counters.refused);
                    tracing::trace!(peer = %self.peer, "refused: {error}");
                }
                Verdict::Close(why) => {
                    shard.note(Cause::NoReply, self.peer, Some(&why));
                    self.stage = Stage::Flushing(Cause::NoReply);
                    break;
                }
            }
            input = input.get(input.len() - left..).expect("what is left was there before");
            if self.under_way {
                self.rest = input.to_vec();
                // Lets go of a message that was put together in the framer: it has been copied.
                let _ = self.framer.next(&mut &[][..]);
                break;
            }
        }
        if !refusals.is_empty()
            && let Err(error) = self.send(&refusals, shard)
        {
            return Some(broken(&error));
        }
        let inside = self.framer.buffered() > 0;
        if inside && self.greeted && (!was_inside || frames > 0) {
            self.since = shard.shared.clock.now();
        }
        // A short message does not count: no peer is closed for it because of what others hold.
        let buffered = (self.framer.buffered() + self.rest.len()).saturating_sub(limits::READ_BYTES);
        if !self.account(buffered, shard) {
            return Some(Cause::BufferedBytes);
        }
        None
    }

    /// Brings this connection's part of the budget to `buffered`; false if that is too much.
    fn account(&mut self, buffered: usize, shard: &Shard) -> bool {
        let budget = &shard.shared.buffered;
        if buffered > self.buffered && !budget.take((buffered - self.buffered) as u64) {
            return false;
        }
        if buffered < self.buffered {
            budget.give((self.buffered - buffered) as u64);
        }
        self.buffered = buffered;
        true
    }

    /// Gives up unfinished messages.
    pub(super) fn release(&mut self, shard: &Shard) {
        self.framer = Framer::new(shard.limits.max_message_bytes);
        self.rest = Vec::new();
        self.account(0, shard);
    }

    fn linger(&mut self, cx: &mut Context<'_>, shard: &Shard, cause: Cause, left: usize) -> Poll<Option<Cause>> {
        let mut scratch = shard.scratch.borrow_mut();
        match Pin::new(&mut self.stream).poll_read(cx, &mut scratch) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(length)) if length > 0 && length < left => {
                self.stage = Stage::Lingering(cause, left - length);
                Poll::Ready(None)
            }
            Poll::Ready(_) => Poll::Ready(Some(cause)),
        }
    }

    /// Hands a message to the socket, or keeps what it does not take; whether it took all.
    fn send(&mut self, message: &[u8], shard: &Shard) -> io::Result<bool> {
        if !self.owed.is_empty() {
            self.owed.extend_from_slice(message);
            count(&shard.counters.delayed);
            return Ok(false);
        }
        let sent = match sys::send_now(&self.stream, message) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        match message.get(sent..) {
            Some(rest) if !rest.is_empty() => {
                self.owed = rest.to_vec();
                self.written = 0;
                self.since = shard.shared.clock.now();
                count(&shard.counters.delayed);
                Ok(false)
            }
            _ => {
                count(&shard.counters.sent);
                Ok(true)
            }
        }
    }

    /// Takes a message of the coordinator's; false if the socket did not take all of it and an acknowledgement
    /// follows.
    pub(super) fn deliver(&mut self, kind: Kind, message: &[u8], shard: &Shard) -> bool {
        if self.stage != Stage::Open {
            return true;
        }
        let finished = match self.send(message, shard) {
            Ok(finished) => finished,
            Err(_) => {
                // The peer lacks a message for good, whatever the next read would say.
                self.stage = Stage::Flushing(Cause::Failed);
                self.wake();
                true
            }
        };
        if kind == Kind::Reply {
            self.under_way = false;
        }
        if kind == Kind::Reply || !finished {
            self.wake();
        }
        if !finished {
            self.unacknowledged += 1;
        }
        finished
    }

    /// Asks the connection to end gracefully, after the reply to a request that is under way.
    pub(super) fn close(&mut self, cause: Cause) {
        self.order.get_or_insert(cause);
        self.wake();
    }

    /// Lets the connection's task look again.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Why the connection has to be dropped at `now`, if it waits for its peer for too long.
    pub(super) fn overdue(&self, now: Time, limits: &Connections) -> Option<Cause> {
        let (limit, cause) = if !self.owed.is_empty() {
            (limits.stall_timeout, Cause::Stalled)
        } else {
            match self.stage {
                Stage::Lingering(cause, _) => (LINGER, cause),
                // It is about to linger; `since` is still about something else.
                Stage::Flushing(_) => return None,
                Stage::Open if self.under_way => return None,
                Stage::Open if !self.greeted => (limits.first_message_timeout, Cause::FirstMessageTimeout),
                Stage::Open if self.framer.buffered() > 0 => (limits.message_timeout, Cause::MessageTimeout),
                Stage::Open => return None,
            }
        };
        (now >= self.since + limit).then_some(cause)
    }
}

fn broken(error: &io::Error) -> Cause {
    tracing::trace!("connection broke: {error}");
    Cause::Failed
}

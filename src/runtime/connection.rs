//! One connection: reading frames, at most one request under way, what is owed to the peer, and how it ends.
//!
//! All of it is plain state in the shard's table, which owns the socket. The shard calls [`Connection::step`] when
//! there is news of the socket or someone woke the connection, [`Connection::deliver`] for what the coordinator
//! sends, and [`Connection::overdue`] now and then.

use std::{io, net::SocketAddr, os::fd::BorrowedFd, sync::atomic::Ordering, time::Duration};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};

use super::{
    link::Slot,
    poller::News,
    shard::Shard,
    shared::{Cause, count},
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

/// Reads and writes in one step, before other connections have their turn.
const STEP_CALLS: u32 = 8;

/// An accepted connection.
pub(super) struct Connection {
    slot: Slot,
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
    /// There may be something to read: no news of the socket comes before that has been tried.
    readable: bool,
    /// What is left to read ends: it has to be read up to that end, of which there is no further news.
    ended: bool,
    /// The shard has it among those to take a step.
    pub(super) queued: bool,
    /// The shard wakes it when the uplink has room.
    starved: bool,
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
    /// There is more to do after others had their turn.
    Again,
    /// There is nothing to do before news of the socket, or until someone wakes the connection.
    Idle,
}

/// What one call of the socket came to.
enum Call {
    Ended(Cause),
    Done,
    /// The socket has nothing, or no room, now.
    Waits,
}

/// Hands bytes to the socket; how many it takes at once, perhaps none.
pub(super) fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => return Ok(sent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads what has arrived; `None` if that is nothing.
fn receive_now(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match recv(socket, &mut *bytes, RecvFlags::DONTWAIT) {
            Ok((received, _)) => return Ok(Some(received)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Connection {
    pub(super) fn new(slot: Slot, peer: SocketAddr, shard: &Shard) -> Connection {
        Connection {
            slot,
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
            readable: false,
            ended: false,
            queued: false,
            starved: false,
        }
    }

    /// Its place in the shard's table.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// Notes what became possible with the socket.
    pub(super) fn hear(&mut self, news: News) {
        self.readable |= news.readable;
        self.ended |= news.ended;
    }

    /// The uplink has room.
    pub(super) fn room(&mut self, shard: &Shard) {
        self.starved = false;
        self.wake(shard);
    }

    /// Whether a message of the coordinator's may be handed to the socket without further ado.
    pub(super) fn is_clear(&self) -> bool {
        self.stage == Stage::Open && self.owed.is_empty()
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, socket: BorrowedFd<'_>, shard: &Shard) -> Step {
        for _ in 0..STEP_CALLS {
            let call = if self.owed.is_empty() {
                match self.stage {
                    Stage::Open if self.under_way => Call::Waits,
                    Stage::Open if self.order.is_some() => {
                        self.stage = Stage::Flushing(self.order.take().expect("just seen"));
                        Call::Done
                    }
                    Stage::Open => self.read(socket, shard),
                    Stage::Flushing(cause) => {
                        // A socket that can not be shut down is gone, which the next read says.
                        let _ = shutdown(socket, Shutdown::Write);
                        self.stage = Stage::Lingering(cause, limits::LINGER_BYTES);
                        self.since = shard.shared.clock.now();
                        self.release(shard);
                        Call::Done
                    }
                    Stage::Lingering(cause, left) => self.linger(socket, shard, cause, left),
                }
            } else {
                self.write_owed(socket, shard)
            };
            match call {
                Call::Waits => return Step::Idle,
                Call::Ended(cause) => return Step::Ended(cause),
                Call::Done => {}
            }
        }
        Step::Again
    }

    fn write_owed(&mut self, socket: BorrowedFd<'_>, shard: &Shard) -> Call {
        let Some(owed) = self.owed.get(self.written..).filter(|owed| !owed.is_empty()) else {
            self.owed = Vec::new();
            self.written = 0;
            if self.unacknowledged > 0 {
                shard.uplink.borrow_mut().delivered(self.slot, std::mem::take(&mut self.unacknowledged));
            }
            return Call::Done;
        };
        match send_now(socket, owed) {
            Ok(0) => Call::Waits,
            Ok(written) => {
                self.written += written;
                self.since = shard.shared.clock.now();
                Call::Done
            }
            Err(error) => Call::Ended(broken(&error)),
        }
    }

    /// Reads once, unless nothing has arrived since the last time.
    fn receive(&mut self, socket: BorrowedFd<'_>, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.readable {
            return Ok(None);
        }
        let received = receive_now(socket, scratch)?;
        // Less than there was room for: that was all, and of what comes later there is news.
        self.readable = received.is_some_and(|length| length == scratch.len() || self.ended);
        Ok(received)
    }

    fn read(&mut self, socket: BorrowedFd<'_>, shard: &Shard) -> Call {
        if !shard.uplink.borrow_mut().has_room() {
            if !std::mem::replace(&mut self.starved, true) {
                shard.wake_when_there_is_room(self.slot);
            }
            return Call::Waits;
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return self.take_frames(socket, &rest, shard);
        }
        // What has arrived before the stop is answered still, whether there was news of it or not.
        let draining = shard.shared.draining.load(Ordering::Relaxed);
        self.readable |= draining;
        let mut scratch = shard.scratch.borrow_mut();
        match self.receive(socket, &mut scratch) {
            Ok(None) if draining => {
                self.stage = Stage::Flushing(Cause::Draining);
                Call::Done
            }
            Ok(None) => Call::Waits,
            Ok(Some(0)) => Call::Ended(Cause::PeerClosed),
            Ok(Some(length)) => {
                let bytes = scratch.get(..length).expect("a read fills no more than its buffer");
                self.take_frames(socket, bytes, shard)
            }
            Err(error) => Call::Ended(broken(&error)),
        }
    }

    /// Takes frames until one is a request, which goes to the coordinator; what follows it is kept. Refusals are
    /// written together at the end: a peer can make a thousand of them with one read.
    fn take_frames(&mut self, socket: BorrowedFd<'_>, bytes: &[u8], shard: &Shard) -> Call {
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
            && let Err(error) = self.send(socket, &refusals, shard)
        {
            return Call::Ended(broken(&error));
        }
        let inside = self.framer.buffered() > 0;
        if inside && self.greeted && (!was_inside || frames > 0) {
            self.since = shard.shared.clock.now();
        }
        // A short message does not count: no peer is closed for it because of what others hold.
        let buffered = (self.framer.buffered() + self.rest.len()).saturating_sub(limits::READ_BYTES);
        if !self.account(buffered, shard) {
            return Call::Ended(Cause::BufferedBytes);
        }
        Call::Done
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

    fn linger(&mut self, socket: BorrowedFd<'_>, shard: &Shard, cause: Cause, left: usize) -> Call {
        let mut scratch = shard.scratch.borrow_mut();
        match self.receive(socket, &mut scratch) {
            Ok(None) => Call::Waits,
            Ok(Some(length)) if length > 0 && length < left => {
                self.stage = Stage::Lingering(cause, left - length);
                Call::Done
            }
            _ => Call::Ended(cause),
        }
    }

    /// Hands refusals to the socket, or keeps what it does not take.
    fn send(&mut self, socket: BorrowedFd<'_>, message: &[u8], shard: &Shard) -> io::Result<()> {
        if self.owed.is_empty() {
            let sent = send_now(socket, message)?;
            self.keep(message, sent, shard);
        } else {
            self.owed.extend_from_slice(message);
            count(&shard.counters.delayed);
        }
        Ok(())
    }

    /// Keeps what the socket has not taken of a message; whether that is nothing.
    fn keep(&mut self, message: &[u8], sent: usize, shard: &Shard) -> bool {
        match message.get(sent..) {
            Some(rest) if !rest.is_empty() => {
                self.owed = rest.to_vec();
                self.written = 0;
                self.since = shard.shared.clock.now();
                count(&shard.counters.delayed);
                false
            }
            _ => {
                count(&shard.counters.sent);
                true
            }
        }
    }

    /// Takes a message of the coordinator's, of which the socket, if the connection [is clear](Self::is_clear), has
    /// taken so many bytes; false if that is not all and an acknowledgement follows.
    pub(super) fn deliver(&mut self, kind: Kind, message: &[u8], sent: io::Result<usize>, shard: &Shard) -> bool {
        if self.stage != Stage::Open {
            return true;
        }
        let finished = match sent {
            Ok(_) if !self.owed.is_empty() => {
                self.owed.extend_from_slice(message);
                count(&shard.counters.delayed);
                false
            }
            Ok(sent) => self.keep(message, sent, shard),
            Err(_) => {
                // The peer lacks a message for good, whatever the next read would say.
                self.stage = Stage::Flushing(Cause::Failed);
                self.wake(shard);
                true
            }
        };
        if kind == Kind::Reply {
            self.under_way = false;
            let draining = shard.shared.draining.load(Ordering::Relaxed);
            if self.readable || !self.rest.is_empty() || self.order.is_some() || draining {
                self.wake(shard);
            }
        }
        if !finished {
            self.unacknowledged += 1;
            self.wake(shard);
        }
        finished
    }

    /// Asks the connection to end gracefully, after the reply to a request that is under way.
    pub(super) fn close(&mut self, cause: Cause, shard: &Shard) {
        self.order.get_or_insert(cause);
        self.wake(shard);
    }

    /// Has the shard let the connection take a step.
    pub(super) fn wake(&mut self, shard: &Shard) {
        if !std::mem::replace(&mut self.queued, true) {
            shard.enqueue(self.slot);
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

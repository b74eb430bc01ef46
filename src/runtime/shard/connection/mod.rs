//! One connection: reading frames, at most one request under way, what is owed to the peer, and how it ends.
//!
//! All of it is plain state in the shard's table, which owns the socket. The shard calls [`Connection::step`] when
//! there is news of the socket or someone woke the connection, [`Connection::deliver`] for what the coordinator
//! sends, and [`Connection::overdue`] now and then.

mod securing;

use std::{io, net::SocketAddr, os::fd::BorrowedFd, sync::atomic::Ordering, time::Duration};

use rustix::net::{RecvFlags, Shutdown, shutdown};
use securing::Turn;

use super::{
    Shard,
    cause::Cause,
    counters::count,
    wire::{Received, Wire, receive_now},
};
use crate::{
    config::{Carries, Connections},
    coordinator::{Kind, Time},
    limits,
    runtime::{
        limit::{budget::Budget, rate::Bucket, sources::Source},
        machine::poller::News,
        mesh::Slot,
    },
    sasp::{Framer, Summary},
    session::{FrameAction, examine},
};

/// How long the peer has to close its side after ours is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Reads and writes in one step, before other connections have their turn.
const STEP_CALLS: u32 = 8;

/// An accepted connection.
pub(super) struct Connection {
    slot: Slot,
    pub(super) peer: SocketAddr,
    wire: Wire,
    framer: Framer,
    /// Bytes received after the request that is under way.
    rest: Vec<u8>,
    /// What the wire has not taken, from `written` on.
    owed: Vec<u8>,
    written: usize,
    /// Messages in `owed` that the coordinator waits for.
    unacknowledged: u32,
    /// A request is with the coordinator.
    under_way: bool,
    /// A whole message has arrived.
    greeted: bool,
    stage: Stage,
    /// The coordinator was told of it.
    known: bool,
    /// Someone else's wish to end the connection.
    order: Option<Cause>,
    /// When what the connection waits for began: see [`Connection::overdue`].
    since: Time,
    /// What it has of the budget of unfinished messages.
    buffered: usize,
    /// What it has of the budget of bytes that peers have yet to take.
    unsent: usize,
    /// There may be something to read: no news of the socket comes before that has been tried.
    readable: bool,
    /// What is left to read ends: it has to be read up to that end, of which there is no further news.
    ended: bool,
    /// The shard has it among those to take a step.
    pub(super) queued: bool,
    /// The shard wakes it when the uplink has room.
    starved: bool,
    /// Which requests it may still make.
    requests: Bucket,
    /// It has made too many: the shard wakes it when it may go on.
    early: bool,
    /// That was told.
    hasty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before and in the TLS handshake. The coordinator does not know of it.
    Securing(Turn),
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

impl Connection {
    pub(super) fn new(slot: Slot, peer: SocketAddr, carries: Carries, shard: &Shard) -> Connection {
        let (wire, stage) = match carries {
            Carries::Plain => (Wire::Plain, Stage::Open),
            Carries::Tls => (Wire::Undecided { plain_too: false }, Stage::Securing(Turn::Unasked)),
            Carries::Either => (Wire::Undecided { plain_too: true }, Stage::Securing(Turn::Unasked)),
        };
        Connection {
            slot,
            peer,
            wire,
            framer: Framer::new(shard.limits.max_message_bytes),
            rest: Vec::new(),
            owed: Vec::new(),
            written: 0,
            unacknowledged: 0,
            under_way: false,
            greeted: false,
            stage,
            known: false,
            order: None,
            since: shard.shared.clock.now(),
            buffered: 0,
            unsent: 0,
            readable: false,
            ended: false,
            queued: false,
            starved: false,
            requests: Bucket::default(),
            early: false,
            hasty: false,
        }
    }

    /// Its place in the shard's table.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// Where it comes from.
    pub(super) fn source(&self) -> Source {
        self.peer.ip().into()
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
        self.stage == Stage::Open && self.owed.is_empty() && self.wire.is_plain()
    }

    /// Whether the peer has yet to take something.
    fn owes(&self) -> bool {
        !self.owed.is_empty() || self.wire.has_pending()
    }

    /// Whether the coordinator was told of it.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, socket: BorrowedFd<'_>, shard: &Shard) -> Step {
        for _ in 0..STEP_CALLS {
            let call = if !self.owes() {
                match self.stage {
                    Stage::Securing(turn) => self.secure(turn, socket, shard),
                    Stage::Open if self.under_way => Call::Waits,
                    Stage::Open if self.order.is_some() => {
                        self.stage = Stage::Flushing(self.order.take().expect("just seen"));
                        Call::Done
                    }
                    Stage::Open => self.read(socket, shard),
                    Stage::Flushing(cause) => {
                        self.wire.finish();
                        if self.wire.has_pending() {
                            continue;
                        }
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
        match self.wire.send(socket, self.owed.get(self.written..).unwrap_or_default()) {
            Ok(sent) => {
                self.written += sent.taken;
                // A handshake has its time as a whole.
                if sent.progress && !matches!(self.stage, Stage::Securing(_)) {
                    self.since = shard.shared.clock.now();
                }
                if self.written == self.owed.len() {
                    self.forgive(shard);
                }
                if !self.owes() && self.unacknowledged > 0 {
                    shard.uplink.borrow_mut().delivered(self.slot, std::mem::take(&mut self.unacknowledged));
                }
                if self.owes() && !sent.progress { Call::Waits } else { Call::Done }
            }
            Err(error) => Call::Ended(broken(&error)),
        }
    }

    fn starve(&mut self, shard: &Shard) -> Call {
        if !std::mem::replace(&mut self.starved, true) {
            shard.wake_when_there_is_room(self.slot);
        }
        Call::Waits
    }

    /// Whether it has to wait before its next request is taken. What has arrived before a stop need not.
    fn is_early(&mut self, shard: &Shard) -> bool {
        let Some(rate) = shard.request_rate else { return false };
        let ready = self.requests.ready(rate);
        let early = shard.shared.clock.now() < ready && !shard.shared.draining.load(Ordering::Relaxed);
        if early && !self.early {
            count(&shard.counters.throttled);
            shard.wake_at(ready, self.slot);
            if !std::mem::replace(&mut self.hasty, true) {
                shard.note_haste(self.peer);
            }
        }
        if std::mem::replace(&mut self.early, early) && !early {
            self.since = shard.shared.clock.now(); // the peer's time begins again
        }
        early
    }

    fn read(&mut self, socket: BorrowedFd<'_>, shard: &Shard) -> Call {
        // The end of a peer that has asked for nothing more is seen at once, that of another with its next reply.
        let waits = !self.rest.is_empty() || (self.readable && !self.ended);
        if waits && self.is_early(shard) {
            return Call::Waits;
        }
        if !shard.uplink.borrow_mut().has_room() {
            return self.starve(shard);
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return self.take_frames(socket, &rest, shard);
        }
        // What has arrived before the stop is answered still, whether there was news of it or not.
        let draining = shard.shared.draining.load(Ordering::Relaxed);
        self.readable |= draining;
        let mut scratch = shard.scratch.borrow_mut();
        let was_inside = self.framer.buffered() > 0 || self.wire.is_inside_record();
        let received = self.wire.receive(socket, &mut scratch, &mut self.readable, self.ended);
        if self.greeted && !was_inside && self.wire.is_inside_record() {
            self.since = shard.shared.clock.now(); // of the message that the record is to bring
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
                let bytes = scratch.get(..length).expect("a read fills no more than its buffer");
                self.take_frames(socket, bytes, shard)
            }
            Err(fault) => self.fail(fault, shard),
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
            // A message is begun only if it may be taken when it is whole, so that the wait is not its sender's fault.
            if !input.is_empty() && self.is_early(shard) {
                self.keep_rest(input);
                break;
            }
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
            if let Some(rate) = shard.request_rate {
                let taken = self.requests.take(shard.shared.clock.now(), rate);
                debug_assert!(taken.is_ok() || shard.shared.draining.load(Ordering::Relaxed), "asked before it began");
            }
            match examine(frame, shard.limits.poll_interval_seconds, &mut refusals) {
                FrameAction::Request(header, message) => {
                    tracing::trace!(peer = %self.peer, "received: {}", Summary(&header, &message));
                    shard.uplink.borrow_mut().request(self.slot, frame);
                    count(&shard.counters.requests);
                    self.under_way = true;
                }
                FrameAction::Refused(error) => {
                    count(&shard.counters.refused);
                    tracing::trace!(peer = %self.peer, "refused: {error}");
                }
                FrameAction::Close(why) => {
                    shard.note(Cause::NoReply, self.peer, Some(&why));
                    self.stage = Stage::Flushing(Cause::NoReply);
                    break;
                }
            }
            input = input.get(input.len() - left..).expect("what is left was there before");
            if self.under_way {
                self.keep_rest(input);
                break;
            }
        }
        if !refusals.is_empty()
            && let Err(error) = self.send(socket, &refusals, shard)
        {
            return Call::Ended(broken(&error));
        }
        let inside = self.framer.buffered() > 0 || self.wire.is_inside_record();
        if inside && self.greeted && (!was_inside || frames > 0) {
            self.since = shard.shared.clock.now();
        }
        // A short message does not count: no peer is closed for it because of what others hold.
        let buffered = (self.framer.buffered() + self.rest.len()).saturating_sub(limits::READ_BYTES);
        if !self.account(buffered, shard) {
            self.stage = Stage::Flushing(Cause::BufferedBytes);
            self.release(shard);
        }
        Call::Done
    }

    /// Keeps what is not taken yet.
    fn keep_rest(&mut self, rest: &[u8]) {
        self.rest = rest.to_vec();
        // Lets go of a message that was put together in the framer: it has been copied.
        let _ = self.framer.next(&mut &[][..]);
    }

    /// Brings this connection's part of the budget to `buffered`; false if that is too much.
    fn account(&mut self, buffered: usize, shard: &Shard) -> bool {
        account(&mut self.buffered, buffered, &shard.shared.buffered)
    }

    /// Gives up unfinished messages. What the peer has yet to take is flushed all the same.
    pub(super) fn release(&mut self, shard: &Shard) {
        self.framer = Framer::new(shard.limits.max_message_bytes);
        self.rest = Vec::new();
        self.account(0, shard);
    }

    /// Owes the peer more; false if that is too much, and then nothing is owed, and the connection ends.
    fn owe(&mut self, bytes: &[u8], shard: &Shard) -> bool {
        self.owed.extend_from_slice(bytes);
        // Little does not count: no peer is dropped for it because of what others do not take.
        let unsent = self.owed.len().saturating_sub(limits::READ_BYTES);
        if account(&mut self.unsent, unsent, &shard.shared.unsent) {
            return true;
        }
        self.forgive(shard);
        self.stage = Stage::Flushing(Cause::UnsentBytes);
        false
    }

    /// Owes the peer nothing any more.
    pub(super) fn forgive(&mut self, shard: &Shard) {
        self.owed = Vec::new();
        self.written = 0;
        account(&mut self.unsent, 0, &shard.shared.unsent);
    }

    fn linger(&mut self, socket: BorrowedFd<'_>, shard: &Shard, cause: Cause, left: usize) -> Call {
        if !self.readable {
            return Call::Waits;
        }
        let mut scratch = shard.scratch.borrow_mut();
        match receive_now(socket, &mut scratch, RecvFlags::empty()) {
            Ok(None) => {
                self.readable = false;
                Call::Waits
            }
            Ok(Some(length)) if length > 0 && length < left => {
                self.stage = Stage::Lingering(cause, left - length);
                Call::Done
            }
            _ => Call::Ended(cause),
        }
    }

    /// Hands refusals to the socket, or keeps what it does not take.
    fn send(&mut self, socket: BorrowedFd<'_>, message: &[u8], shard: &Shard) -> io::Result<()> {
        if !self.owes() {
            let sent = self.wire.send(socket, message)?;
            self.keep(message, sent.taken, shard);
        } else {
            self.owe(message, shard);
            count(&shard.counters.delayed);
        }
        Ok(())
    }

    /// Keeps what the wire has not taken of a message; whether the socket has all of it, or is to have no more.
    fn keep(&mut self, message: &[u8], taken: usize, shard: &Shard) -> bool {
        if let Some(rest @ [_, ..]) = message.get(taken..)
            && !self.owe(rest, shard)
        {
            return true;
        }
        let finished = !self.owes();
        if finished {
            count(&shard.counters.sent);
        } else {
            self.since = shard.shared.clock.now();
            count(&shard.counters.delayed);
        }
        finished
    }

    /// Takes a message of the coordinator's, of which the socket, if the connection [is clear](Self::is_clear), was
    /// offered all and has taken so many bytes; false if that is not all and an acknowledgement follows.
    pub(super) fn deliver(
        &mut self,
        socket: BorrowedFd<'_>,
        kind: Kind,
        message: &[u8],
        sent: Option<io::Result<usize>>,
        shard: &Shard,
    ) -> bool {
        if self.stage != Stage::Open {
            return true;
        }
        let sent = match sent {
            Some(sent) => sent,
            None if self.owes() => {
                let kept = self.owe(message, shard);
                count(&shard.counters.delayed);
                self.unacknowledged += u32::from(kept);
                self.replied(kind, shard);
                self.wake(shard);
                return !kept;
            }
            None => self.wire.send(socket, message).map(|sent| sent.taken),
        };
        let finished = match sent {
            Ok(taken) => self.keep(message, taken, shard),
            Err(_) => {
                // The peer lacks a message for good, whatever the next read would say.
                self.stage = Stage::Flushing(Cause::Failed);
                true
            }
        };
        self.replied(kind, shard);
        self.unacknowledged += u32::from(!finished);
        if !finished || self.stage != Stage::Open {
            self.wake(shard);
        }
        finished
    }

    /// Goes on after a reply.
    fn replied(&mut self, kind: Kind, shard: &Shard) {
        if kind == Kind::Reply {
            self.under_way = false;
            let draining = shard.shared.draining.load(Ordering::Relaxed);
            if self.readable || !self.rest.is_empty() || self.order.is_some() || draining {
                self.wake(shard);
            }
        }
    }

    /// Asks the connection to end gracefully, after the reply to a request that is under way. What is not for it any
    /// more is not kept for it either, beyond a little.
    pub(super) fn close(&mut self, cause: Cause, shard: &Shard) {
        self.order.get_or_insert(cause);
        if self.unsent > 0 && self.stage == Stage::Open {
            self.forgive(shard);
            self.stage = Stage::Flushing(cause);
        }
        self.wake(shard);
    }

    /// Has the shard let the connection take a step.
    pub(super) fn wake(&mut self, shard: &Shard) {
        if !std::mem::replace(&mut self.queued, true) {
            match self.stage {
                // Its steps cost much, and others come first.
                Stage::Securing(Turn::Given(_)) => shard.handshakes.borrow_mut().enqueue(self.source(), self.slot),
                _ => shard.enqueue(self.slot),
            }
        }
    }

    /// Why the connection has to be dropped at `now`, if it waits for its peer for too long. `scarce` is whether others
    /// wait for a turn, and all are taken.
    pub(super) fn overdue(&self, now: Time, limits: &Connections, scarce: bool) -> Option<Cause> {
        if let Stage::Securing(Turn::Given(since)) = self.stage
            && scarce
            && now >= since + securing::TURN
        {
            return Some(Cause::HandshakeTurn);
        }
        let (limit, cause) = if let Stage::Securing(_) = self.stage {
            (limits.handshake_timeout, Cause::HandshakeTimeout)
        } else if self.owes() {
            (limits.stall_timeout, Cause::Stalled)
        } else {
            match self.stage {
                Stage::Securing(_) => return None,
                Stage::Lingering(cause, _) => (LINGER, cause),
                // It is about to linger; `since` is still about something else.
                Stage::Flushing(_) => return None,
                Stage::Open if self.under_way => return None,
                Stage::Open if !self.greeted => (limits.first_message_timeout, Cause::FirstMessageTimeout),
                Stage::Open if self.framer.buffered() > 0 => (limits.message_timeout, Cause::MessageTimeout),
                // Not while it is we who do not read.
                Stage::Open if !self.early && self.wire.is_inside_record() => {
                    (limits.message_timeout, Cause::MessageTimeout)
                }
                Stage::Open => return None,
            }
        };
        (now >= self.since + limit).then_some(cause)
    }
}

/// Brings what is held of a budget to `wanted`; false, and nothing done, if that is too much.
fn account(held: &mut usize, wanted: usize, budget: &Budget) -> bool {
    if wanted > *held && !budget.take((wanted - *held) as u64) {
        return false;
    }
    budget.give(held.saturating_sub(wanted) as u64);
    *held = wanted;
    true
}

fn broken(error: &io::Error) -> Cause {
    tracing::trace!("connection broke: {error}");
    Cause::Failed
}

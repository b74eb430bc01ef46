//! One connection: receives frames, has at most one request with the coordinator, sends replies and pushes, and ends.
//!
//! A connection is plain state in the shard's table, which owns the socket. The table calls [`Connection::step`] on
//! news of the socket or after a wake, [`Connection::deliver`] for messages of the coordinator, and
//! [`Connection::overdue`] a few times a second.

mod receiving;
mod securing;
mod sending;

use std::{io, net::SocketAddr, os::fd::BorrowedFd, time::Duration};

use rustix::net::{RecvFlags, Shutdown, shutdown};

use super::{
    backlog::Backlog,
    cause::Cause,
    context::Context,
    wire::{Wire, receive_now},
};
use crate::{
    config::{Carries, Connections},
    limits,
    runtime::{
        limit::{budget::Budget, rate::Bucket, sources::Source},
        machine::poller::News,
        mesh::Slot,
    },
    sasp::Framer,
    time::Time,
};
use securing::{HANDSHAKE_TURN_MAX, Turn};
pub(super) use sending::Outgoing;

/// How long the peer has to close its side after the server closed its side.
const LINGER: Duration = Duration::from_secs(1);

/// After so many looks at timeouts without bytes from the peer, the peer has read the last reply: about a second, unless
/// the timeouts are short.
const LOOKS_UNTIL_SILENT: u8 = 4;

/// Reads and writes in one step, before other connections have their turn.
const STEP_CALLS: u32 = 8;

/// An accepted connection.
pub(super) struct Connection {
    slot: Slot,
    pub(super) peer: SocketAddr,
    wire: Wire,
    framer: Framer,
    /// Bytes received after the request that is with the coordinator.
    unread: Vec<u8>,
    /// Bytes for the peer that the wire has not taken.
    unwritten: Backlog,
    /// Messages in `unwritten` whose acknowledgement the coordinator waits for.
    unacknowledged: u32,
    /// A request is with the coordinator.
    request_pending: bool,
    /// When that request was whole, as a stamp of `shard_metrics`.
    asked_at: u32,
    /// A whole message has arrived.
    first_message_seen: bool,
    stage: Stage,
    /// The coordinator knows of this connection.
    announced: bool,
    /// Looks at timeouts until the peer counts as silent; [`LOOKS_UNTIL_SILENT`] when bytes arrive.
    heard: u8,
    /// The end waits for the peer: a reset would destroy what the peer has not read.
    lingers: bool,
    /// The coordinator wants the connection to end.
    close_requested: Option<Cause>,
    /// The start of the present wait: see [`Connection::overdue`].
    since: Time,
    /// Bytes taken from the budget of unfinished messages.
    buffered_budget: usize,
    /// Bytes taken from the budget of unwritten bytes.
    unsent_budget: usize,
    /// There may be bytes to read; the epoll set tells of bytes only after a read found none.
    readable: bool,
    /// The peer has ended its side, or the connection broke. The epoll set does not tell of the remaining bytes.
    peer_ended: bool,
    /// The shard has this connection among those that are to take a step.
    queued: bool,
    /// The shard wakes this connection when the uplink has room.
    waits_for_room: bool,
    /// The requests that the peer may still make.
    request_bucket: Bucket,
    /// The peer has made too many requests: the shard wakes this connection later.
    rate_limited: bool,
    /// The rate limit was logged for this connection.
    rate_limit_logged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before or in the TLS handshake. The coordinator does not know of the connection.
    Securing(Turn),
    Open,
    /// Unwritten bytes are written, then the server's side is closed.
    Flushing(Cause),
    /// The server's side is closed. This many more bytes are read and thrown away, so that no reset destroys bytes that
    /// the peer has not read.
    Lingering(Cause, usize),
}

/// The outcome of a step.
pub(super) enum Step {
    /// The connection has ended.
    Ended(Cause),
    /// There is more to do after other connections had their turn.
    Again,
    /// There is nothing to do before news of the socket, or a wake.
    Idle,
}

/// The outcome of one call of the socket.
enum Call {
    Ended(Cause),
    Done,
    /// The socket has no bytes, or no room, now.
    Waits,
}

impl Connection {
    /// Bytes that the peer has yet to take, without those in the kernel.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.unwritten.len() as u64
    }

    pub(super) fn new(slot: Slot, peer: SocketAddr, carries: Carries, context: &Context) -> Connection {
        let (wire, stage) = match carries {
            Carries::Plain => (Wire::Plain, Stage::Open),
            Carries::Tls => (Wire::Undecided { plain_too: false }, Stage::Securing(Turn::Unasked)),
            Carries::Either => (Wire::Undecided { plain_too: true }, Stage::Securing(Turn::Unasked)),
        };
        Connection {
            slot,
            peer,
            wire,
            framer: Framer::new(context.limits.max_message_bytes),
            unread: Vec::new(),
            unwritten: Backlog::default(),
            unacknowledged: 0,
            request_pending: false,
            asked_at: 0,
            first_message_seen: false,
            stage,
            announced: false,
            heard: 0,
            lingers: true,
            close_requested: None,
            since: context.now(),
            buffered_budget: 0,
            unsent_budget: 0,
            readable: false,
            peer_ended: false,
            queued: false,
            waits_for_room: false,
            request_bucket: Bucket::default(),
            rate_limited: false,
            rate_limit_logged: false,
        }
    }

    /// The connection's slot in the shard's table.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// The source that the peer's address belongs to.
    pub(super) fn source(&self) -> Source {
        self.peer.ip().into()
    }

    /// Notes news of the socket.
    pub(super) fn hear(&mut self, news: News) {
        self.readable |= news.readable;
        self.peer_ended |= news.ended;
    }

    /// Goes on, as the uplink has room.
    pub(super) fn room(&mut self, context: &Context) {
        self.waits_for_room = false;
        self.wake(context);
    }

    /// Whether a message of the coordinator may go straight to the socket.
    pub(super) fn is_clear(&self) -> bool {
        self.stage == Stage::Open && self.unwritten.is_empty() && self.wire.is_plain()
    }

    /// Whether there are bytes that the socket has not taken.
    fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty() || self.wire.has_pending()
    }

    /// Whether the coordinator knows of this connection.
    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    /// Does all that is possible now, up to [`STEP_CALLS`].
    pub(super) fn step(&mut self, socket: BorrowedFd<'_>, context: &Context) -> Step {
        self.queued = false;
        for _ in 0..STEP_CALLS {
            let call = if !self.has_unwritten() {
                match self.stage {
                    Stage::Securing(turn) => self.secure(turn, socket, context),
                    Stage::Open if self.request_pending => Call::Waits,
                    Stage::Open if self.close_requested.is_some() => {
                        self.stage = Stage::Flushing(self.close_requested.take().expect("just seen"));
                        Call::Done
                    }
                    Stage::Open => self.receive(socket, context),
                    Stage::Flushing(cause) => {
                        self.wire.finish();
                        if self.wire.has_pending() {
                            continue;
                        }
                        if !self.lingers {
                            return Step::Ended(cause);
                        }
                        // If the shutdown fails, the socket is gone, and the next read says so.
                        let _ = shutdown(socket, Shutdown::Write);
                        self.stage = Stage::Lingering(cause, limits::LINGER_BYTES);
                        self.since = context.now();
                        self.drop_unfinished(context);
                        Call::Done
                    }
                    Stage::Lingering(cause, left) => self.linger(socket, context, cause, left),
                }
            } else {
                self.write_unwritten(socket, context)
            };
            match call {
                Call::Waits => return Step::Idle,
                Call::Ended(cause) => return Step::Ended(cause),
                Call::Done => {}
            }
        }
        Step::Again
    }

    fn linger(&mut self, socket: BorrowedFd<'_>, context: &Context, cause: Cause, left: usize) -> Call {
        if !self.readable {
            return Call::Waits;
        }
        let mut scratch = context.scratch.borrow_mut();
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

    /// Asks the connection to end gracefully, after the reply to a pending request. A backlog of unwritten bytes is
    /// dropped at once, because its messages are for the load balancer's new connection; a small one is written.
    pub(super) fn close(&mut self, cause: Cause, context: &Context) {
        self.close_requested.get_or_insert(cause);
        // No reply comes, so nothing is waited for.
        self.request_pending &= !matches!(cause, Cause::NotKept | Cause::HandedOver);
        if self.unwritten.len() > limits::READ_BYTES && self.stage == Stage::Open {
            self.drop_unwritten(context);
            self.stage = Stage::Flushing(cause);
        }
        self.wake(context);
    }

    /// Lets the connection end, as the server stops. A silent peer that is owed nothing is not waited for.
    pub(super) fn stop(&mut self, context: &Context) {
        let owed = self.request_pending || !self.unread.is_empty() || self.has_unwritten();
        self.lingers = self.stage != Stage::Open || owed || self.heard > 0;
        self.wake(context);
    }

    /// Notes a look at timeouts.
    pub(super) fn looked_at(&mut self) {
        self.heard = self.heard.saturating_sub(1);
    }

    /// Makes the shard let the connection take a step.
    pub(super) fn wake(&mut self, context: &Context) {
        if !std::mem::replace(&mut self.queued, true) {
            match self.stage {
                // Steps of a handshake cost much, so other connections come first.
                Stage::Securing(Turn::Given(_)) => context.handshakes.borrow_mut().enqueue(self.source(), self.slot),
                _ => context.enqueue(self.slot),
            }
        }
    }

    /// Gives back all that the connection holds of the shard's and the server's limits.
    pub(super) fn release(&mut self, context: &Context) {
        self.drop_unfinished(context);
        self.drop_unwritten(context);
        self.return_turn(context);
    }

    /// The cause for which the connection has to end at `now`, if it has waited for its peer for too long. `scarce`
    /// says that other connections wait for a handshake, and all turns are taken.
    pub(super) fn overdue(&self, now: Time, limits: &Connections, scarce: bool) -> Option<Cause> {
        if let Stage::Securing(Turn::Given(since)) = self.stage
            && scarce
            && now >= since + HANDSHAKE_TURN_MAX
        {
            return Some(Cause::HandshakeTurn);
        }
        let (limit, cause) = if let Stage::Securing(_) = self.stage {
            (limits.handshake_timeout, Cause::HandshakeTimeout)
        } else if self.has_unwritten() {
            (limits.stall_timeout, Cause::Stalled)
        } else {
            match self.stage {
                Stage::Securing(_) => return None,
                Stage::Lingering(cause, _) => (LINGER, cause),
                // The connection is about to linger; `since` belongs to an earlier wait.
                Stage::Flushing(_) => return None,
                Stage::Open if self.request_pending => return None,
                Stage::Open if !self.first_message_seen => (limits.first_message_timeout, Cause::FirstMessageTimeout),
                Stage::Open if self.framer.buffered() > 0 => (limits.message_timeout, Cause::MessageTimeout),
                // Not while the rate limit keeps the server from reading.
                Stage::Open if !self.rate_limited && self.wire.is_inside_record() => {
                    (limits.message_timeout, Cause::MessageTimeout)
                }
                Stage::Open => return None,
            }
        };
        (now >= self.since + limit).then_some(cause)
    }
}

/// Brings the part `held` of a budget to `wanted`; false, and nothing done, if the budget does not allow this.
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

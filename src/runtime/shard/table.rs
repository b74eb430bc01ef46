//! The connections of a shard. A connection keeps its slot from accept to close; a slot of a closed connection finds
//! nothing.
//!
//! Only this file calls connections. They get the shard's [`Context`], which does not lead back to the table.

use std::{
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use rustix::event::epoll::EventFlags;

use super::{
    cause::Cause,
    connection::{Connection, Outgoing, Step},
    context::Context,
    wire::send_now,
};
use crate::{
    coordinator::Kind,
    metrics::Id,
    runtime::mesh::Slot,
    sasp::{Message, Summary},
    time::Time,
};

/// Rows looked at for overdue connections before other work has its turn.
const SWEEP_CHUNK: usize = 4096;

/// Overdue connections ended before other work has its turn: to close a socket costs more than to look at a row.
const SWEEP_ENDS: usize = 64;

/// The connections, by slot.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    free: Vec<u32>,
}

/// A place for one connection.
#[derive(Default)]
struct Row {
    /// The generation of the connection that is here or will be next.
    generation: u32,
    socket: Option<OwnedFd>,
    /// [`Connection::is_clear`] of the connection: a push to a clear connection needs only this row, which is warm.
    clear: bool,
    // Boxed: a free row, or a table that grows, costs next to nothing.
    connection: Option<Box<Connection>>,
}

impl Table {
    /// Reserves a slot; [`Table::put`] or [`Table::release`] follows.
    pub(super) fn reserve(&mut self) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row::default());
            u32::try_from(self.rows.len() - 1).expect("there are fewer connections than 32 bits")
        });
        let generation = self.rows.get(index as usize).expect("the slot exists").generation;
        Slot { index, generation }
    }

    /// Puts a connection at the slot that was reserved for it.
    pub(super) fn put(&mut self, slot: Slot, socket: OwnedFd, connection: Connection) {
        let row = self.rows.get_mut(slot.index as usize).expect("the slot was reserved");
        row.clear = connection.is_clear();
        row.socket = Some(socket);
        row.connection = Some(Box::new(connection));
    }

    /// Gives a reserved slot back unused.
    pub(super) fn release(&mut self, slot: Slot) {
        self.free.push(slot.index);
    }

    /// Calls `act` with the connection, unless it has ended.
    pub(super) fn with<R>(&mut self, slot: Slot, act: impl FnOnce(&mut Connection, BorrowedFd<'_>) -> R) -> Option<R> {
        let row = self.row(slot)?;
        let (connection, socket) = (row.connection.as_deref_mut()?, row.socket.as_ref()?);
        let result = act(connection, socket.as_fd());
        row.clear = connection.is_clear();
        Some(result)
    }

    /// Like [`Table::with`], and a panic in `act` ends this connection alone.
    pub(super) fn guarded<R>(
        &mut self,
        context: &Context,
        slot: Slot,
        act: impl FnOnce(&mut Connection, BorrowedFd<'_>) -> R,
    ) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(|| self.with(slot, act))) {
            Ok(result) => result,
            Err(_) => {
                self.end(context, slot, Cause::Panicked);
                None
            }
        }
    }

    /// Takes news of a socket.
    pub(super) fn hear(&mut self, context: &Context, token: u64, events: EventFlags) {
        self.with(slot(token), |connection, _| {
            connection.hear(events.into());
            connection.wake(context);
        });
    }

    /// Lets a connection take a step.
    pub(super) fn step(&mut self, context: &Context, slot: Slot) {
        let step = self.guarded(context, slot, |connection, socket| connection.step(socket, context));
        match step {
            Some(Step::Again) => {
                self.guarded(context, slot, |connection, _| connection.wake(context));
            }
            Some(Step::Ended(cause)) => self.end(context, slot, cause),
            Some(Step::Idle) | None => {}
        }
    }

    /// Lets all connections end, as the server stops.
    pub(super) fn stop(&mut self, context: &Context) {
        for connection in self.rows.iter_mut().filter_map(|row| row.connection.as_mut()) {
            connection.stop(context);
        }
    }

    /// How many rows there are, with those that are free.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Lets the connections of some rows end, because another process has taken over.
    pub(super) fn hand_over(&mut self, context: &Context, rows: Range<usize>) {
        for connection in self.rows.get_mut(rows).into_iter().flatten().filter_map(|row| row.connection.as_mut()) {
            connection.close(Cause::HandedOver, context);
        }
    }

    /// Writes a message of the coordinator; false if an acknowledgement of this message follows.
    pub(super) fn write(&mut self, context: &Context, slot: Slot, kind: Kind, message: Outgoing<'_>) -> bool {
        let Some(row) = self.row(slot) else { return true };
        if tracing::enabled!(tracing::Level::TRACE)
            && let Some(connection) = &row.connection
            && let Ok((header, message)) = Message::decode_trusted(&message.to_vec())
        {
            tracing::trace!(peer = %connection.peer, "to send: {}", Summary(&header, &message));
        }
        let sent = match &row.socket {
            Some(socket) if row.clear => Some(message.with_slices(|slices| send_now(socket.as_fd(), slices))),
            _ => None,
        };
        if kind == Kind::Push && matches!(sent, Some(Ok(sent)) if sent == message.len()) {
            context.count(Id::MessagesSent);
            return true;
        }
        let deliver = |connection: &mut Connection, socket: BorrowedFd<'_>| {
            connection.deliver(socket, kind, message, sent, context)
        };
        self.guarded(context, slot, deliver).unwrap_or(true)
    }

    /// Ends some connections that are overdue at `now`, from row `from` on; whether there are rows left.
    pub(super) fn sweep_some(&mut self, context: &Context, now: Time, from: &mut usize) -> bool {
        let scarce = context.handshakes.borrow().are_scarce();
        let mut overdue = Vec::new();
        for row in self.rows.iter_mut().skip(*from).take(SWEEP_CHUNK) {
            *from += 1;
            let Some(connection) = row.connection.as_deref_mut() else { continue };
            connection.looked_at();
            if let Some(cause) = connection.overdue(now, &context.limits, scarce) {
                overdue.push((connection.slot(), cause));
                if overdue.len() == SWEEP_ENDS {
                    break;
                }
            }
        }
        for (slot, cause) in overdue {
            self.end(context, slot, cause);
        }
        *from < self.rows.len()
    }

    /// Ends a connection, whatever its state.
    pub(super) fn end(&mut self, context: &Context, slot: Slot, cause: Cause) {
        let Some(mut connection) = self.remove(slot) else { return };
        connection.release(context);
        if connection.is_announced() {
            context.uplink.borrow_mut().closed(slot);
        }
        context.shared.sources.close(connection.source(), context.now());
        context.shared.connections.give(1);
        context.metrics.values.subtract(Id::ConnectionsOpen);
        context.count_end(cause);
        match cause {
            Cause::PeerClosed | Cause::Failed | Cause::Draining | Cause::HandedOver => {
                tracing::debug!(peer = %connection.peer, shard = context.index, "disconnected: {}", cause.text());
            }
            // Logged when they were found.
            Cause::Framing | Cause::NoReply | Cause::Handshake | Cause::Tls => {}
            _ => context.log_closed(cause, connection.peer, None),
        }
        context.ended.ring();
    }

    /// The row, unless its connection has ended.
    fn row(&mut self, slot: Slot) -> Option<&mut Row> {
        self.rows.get_mut(slot.index as usize).filter(|row| row.socket.is_some() && row.generation == slot.generation)
    }

    /// Takes a connection out, and closes its socket.
    fn remove(&mut self, slot: Slot) -> Option<Box<Connection>> {
        let row = self.row(slot)?;
        let connection = row.connection.take()?;
        row.socket = None; // closed: the epoll set forgets it
        row.generation = row.generation.wrapping_add(1);
        self.free.push(slot.index);
        Some(connection)
    }
}

/// A slot as a number in the epoll set.
pub(super) fn token(slot: Slot) -> u64 {
    u64::from(slot.generation) << 32 | u64::from(slot.index)
}

/// The slot of a number in the epoll set.
fn slot(token: u64) -> Slot {
    Slot { index: token as u32, generation: (token >> 32) as u32 }
}

//! Where a shard's connections stand: a connection keeps its place from accept to close, and a number that outlives it
//! finds nothing there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::connection::Connection;
use crate::runtime::mesh::Slot;

/// The connections, by slot.
#[derive(Default)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    free: Vec<u32>,
    /// How many there are.
    pub(super) open: usize,
}

/// A place for one.
#[derive(Default)]
pub(super) struct Row {
    /// Of the connection that is here or will be next.
    generation: u32,
    pub(super) socket: Option<OwnedFd>,
    /// [`Connection::is_clear`] says so: then a push needs no more than this row, which is warm.
    pub(super) clear: bool,
    // Boxed: a row that is free, or a table that grows, costs next to nothing.
    pub(super) connection: Option<Box<Connection>>,
}

impl Table {
    /// A place for a connection, which is put there or released.
    pub(super) fn reserve(&mut self) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row::default());
            u32::try_from(self.rows.len() - 1).expect("there are fewer connections than 32 bits")
        });
        let generation = self.rows.get(index as usize).expect("the slot exists").generation;
        Slot { index, generation }
    }

    /// Puts a connection at the place that was reserved for it.
    pub(super) fn put(&mut self, slot: Slot, socket: OwnedFd, connection: Box<Connection>) {
        let row = self.rows.get_mut(slot.index as usize).expect("the slot was reserved");
        row.clear = connection.is_clear();
        row.socket = Some(socket);
        row.connection = Some(connection);
        self.open += 1;
    }

    /// Gives the place back unused.
    pub(super) fn release(&mut self, slot: Slot) {
        self.free.push(slot.index);
    }

    /// The row, unless its connection has ended since.
    pub(super) fn row(&mut self, slot: Slot) -> Option<&mut Row> {
        self.rows.get_mut(slot.index as usize).filter(|row| row.socket.is_some() && row.generation == slot.generation)
    }

    /// Does something with the connection, unless it has ended since.
    pub(super) fn with<R>(&mut self, slot: Slot, act: impl FnOnce(&mut Connection, BorrowedFd<'_>) -> R) -> Option<R> {
        let row = self.row(slot)?;
        let (connection, socket) = (row.connection.as_deref_mut()?, row.socket.as_ref()?);
        let result = act(connection, socket.as_fd());
        row.clear = connection.is_clear();
        Some(result)
    }

    /// Takes a connection out, and closes its socket.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Box<Connection>> {
        let row = self.row(slot)?;
        let connection = row.connection.take()?;
        row.socket = None; // closed: the epoll set forgets it
        row.generation = row.generation.wrapping_add(1);
        self.free.push(slot.index);
        self.open -= 1;
        Some(connection)
    }
}

/// A connection's number in the epoll set.
pub(super) fn token(slot: Slot) -> u64 {
    u64::from(slot.generation) << 32 | u64::from(slot.index)
}

/// Whose number it is.
pub(super) fn slot(token: u64) -> Slot {
    Slot { index: token as u32, generation: (token >> 32) as u32 }
}

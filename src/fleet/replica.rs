//! The replica: this node's rows beside the store's.

use crate::{
    coordinator::{Order, Verdicts},
    journal::{Entry, Epoch, Row},
    sasp::Endpoint,
};
use std::time::Duration;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name.
    pub node: Box<str>,
    /// Tells the lives of a node apart: higher in each life.
    pub incarnation: u64,
    /// Where people find the node.
    pub address: Box<str>,
    /// The node's version of gwm.
    pub version: Box<str>,
    /// How long a load balancer is kept after its connection ends.
    pub hold_time: Duration,
}

/// One part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The key, without the fleet's prefix.
    pub key: Vec<u8>,
    /// The key's mod_revision must be this (0: the key must not be there); `None`: it may be anything.
    pub expected: Option<i64>,
    /// The new value; `None`: the key is deleted. With `expected` and `check_only` nothing is written.
    pub value: Option<Vec<u8>>,
    /// Only compared.
    pub check_only: bool,
    /// The key ends with the node's lease.
    pub leased: bool,
}

/// One transaction: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its parts, with different keys.
    pub ops: Vec<Op>,
}

/// Two nodes changed the same thing, and something of one change did not stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict(pub String);

/// A node, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub name: Box<str>,
    /// Tells its lives apart.
    pub incarnation: u64,
    /// Where people find it.
    pub address: Box<str>,
    /// Its version of gwm.
    pub version: Box<str>,
    /// It is cut off from the members.
    pub blind: bool,
    /// How many endpoints it has verdicts on.
    pub checks: usize,
    /// How many load balancers are connected to it.
    pub load_balancers: usize,
}

/// How the replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The node's lease is held, and what the store has is known.
    pub connected: bool,
    /// The nodes that are alive, by name.
    pub nodes: Vec<NodeStatus>,
    /// Rows of the store, without verdicts.
    pub rows: usize,
    /// Rows that this node has yet to write.
    pub dirty: usize,
    /// Groups that are too large for the store.
    pub oversize: usize,
    /// Rows of the store that this version does not understand.
    pub unknown: usize,
    /// Orders that the coordinator has yet to do.
    pub orders: usize,
    /// The newest revision of the store that was seen.
    pub revision: i64,
    /// How many of the coordinator's changes were given, and how many of them are in the store.
    pub given: u64,
    /// See `given`.
    pub kept: u64,
}

/// This node's rows beside the store's.
pub struct Replica;

impl Replica {
    /// A replica without rows.
    pub fn new(_settings: Settings) -> Replica {
        todo!()
    }

    // At the start, before everything else.

    /// A row of the state on disk, as the coordinator got it. `ahead`: it may be newer than the store.
    pub fn restore(&mut self, _row: &Row, _ahead: bool, _epoch: Epoch) {
        todo!()
    }

    // From this node's coordinator, in the order in which it happened there.

    /// The coordinator has changed something by itself, not by an order.
    pub fn local(&mut self, _entry: &Entry, _epoch: Epoch) {
        todo!()
    }

    /// The coordinator has done the order with this number, or it did not fit.
    pub fn done(&mut self, _number: u64, _fits: bool, _epoch: Epoch) {
        todo!()
    }

    /// What this node's own checks found.
    pub fn judged(&mut self, _endpoint: Endpoint, _verdicts: Option<Verdicts>) {
        todo!()
    }

    /// Whether this node is cut off from the members.
    pub fn set_blind(&mut self, _blind: bool) {
        todo!()
    }

    // From the store: a listing of all keys, then every event of the watch from there on, in order of revisions. Nothing
    // else: no reads beside the watch.

    /// A listing begins.
    pub fn begin_listing(&mut self) {
        todo!()
    }

    /// A key of the listing, or a key that was put. Keys are without the fleet's prefix.
    pub fn put(&mut self, _key: &[u8], _value: &[u8], _revision: i64, _epoch: Epoch) {
        todo!()
    }

    /// A key was deleted.
    pub fn delete(&mut self, _key: &[u8], _revision: i64, _epoch: Epoch) {
        todo!()
    }

    /// The listing is complete; it is as of this revision. What it does not have is not there.
    pub fn end_listing(&mut self, _revision: i64, _epoch: Epoch) {
        todo!()
    }

    /// The node's lease is held, and the listing and the watch are up to date; or one of this has been lost for as long as
    /// the lease takes to end: the node is alone then.
    pub fn set_connected(&mut self, _connected: bool, _epoch: Epoch) {
        todo!()
    }

    // To the store, one batch at a time.

    /// The next transaction: at most 100 operations of 1 MiB. Rows of the tables come first; what the node's checks found
    /// comes only if `verdicts` is set (once a window).
    pub fn next_batch(&mut self, _verdicts: bool) -> Option<Batch> {
        todo!()
    }

    /// The store has the batch, as of this revision.
    pub fn committed(&mut self, _batch: &Batch, _revision: i64, _epoch: Epoch) {
        todo!()
    }

    /// The store has refused the batch, or nobody knows. Try again after the next event of the watch, or a short pause.
    pub fn refused(&mut self, _batch: &Batch) {
        todo!()
    }

    // To the coordinator.

    /// The next order, with its number.
    pub fn next_order(&mut self, _epoch: Epoch) -> Option<(u64, Order)> {
        todo!()
    }

    /// How many of the entries that were given are in the store.
    pub fn kept(&self) -> u64 {
        todo!()
    }

    /// Whether this node has changes that the store has not.
    pub fn is_ahead(&self) -> bool {
        todo!()
    }

    // For people.

    /// Conflicts since the last call.
    pub fn take_conflicts(&mut self) -> Vec<Conflict> {
        todo!()
    }

    /// How the replica is.
    pub fn status(&self) -> Status {
        todo!()
    }
}

//! Several GWMs that show the same tables: a node's rows ↔ rows of a store that all nodes share (etcd).
//!
//! A [`Replica`] does no I/O. It hears what this node's coordinator changes, in order, and what the store has, and gives
//! transactions for the store and orders for the coordinator.

mod replica;

pub use replica::{Batch, Conflict, NodeStatus, Op, Replica, Settings, Status};

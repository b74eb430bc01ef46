//! What joins the shards with the coordinator: the queues, and the messages that they carry.

mod atomics;
mod link;
mod pipe;
#[cfg(test)]
mod tests;

pub(crate) use link::{Down, Order, Slot, Up, Uplink};
pub use pipe::{Batch, Bell, Receiver, Sender, pipe};

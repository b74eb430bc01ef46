//! The queues between the shards and the coordinator, and the messages in them.

mod atomics;
mod link;
mod pipe;
#[cfg(test)]
mod tests;

pub(crate) use link::{Down, Order, Slot, Up, Uplink};
pub use pipe::{Batch, Bell, Receiver, Sender, pipe};

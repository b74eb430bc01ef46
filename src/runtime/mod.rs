//! The daemon: sockets, cores and clocks. The only module that knows glommio.
//!
//! The main thread ([`serve`]) binds, starts the others and waits for signals. Each shard, an executor, owns its
//! connections and the checks of its members; the coordinator's thread owns the state machine; and the [`mesh`] joins
//! them.

mod atomics;
mod connection;
mod core;
mod daemon;
mod environment;
pub mod executor;
mod handshakes;
mod link;
mod listener;
mod log;
pub mod mesh;
#[cfg(test)]
mod mesh_tests;
mod monitoring;
mod poller;
pub mod probe;
mod rate;
mod refusals;
mod shard;
mod shared;
mod sources;
mod sys;
mod table;
mod throttle;
mod wire;

pub use daemon::serve;
pub use environment::{host, prepare};
pub use log::{last_words, start as start_logging};

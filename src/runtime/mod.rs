//! The daemon: sockets, CPUs and clocks. The only module that knows glommio.
//!
//! The main thread ([`serve`]) binds, starts the others and waits for signals. Each shard, an executor, owns its
//! connections and the checks of its members; the coordinator's thread owns the state machine; and the [`mesh`] joins
//! them. The journal's thread writes what the coordinator has changed; the fleet's thread shares it with other GWMs.

#[cfg(feature = "admin")]
mod admin_thread;
mod agent_thread;
mod coordinator_thread;
mod daemon;
mod error;
#[cfg(feature = "fleet")]
mod fleet_thread;
mod journal_thread;
mod limit;
mod log;
mod machine;
pub mod mesh;
pub mod probe;
mod shard;
mod takeover;

pub use daemon::{Inbox, serve, watch_signals};
pub use error::Error;
pub use journal_thread::look as look_at_state;
pub use log::{LOG_LINES, last_words, start as start_logging};
pub use machine::{
    environment::{host, prepare},
    executor,
};

//! The admin side's thread: what it serves to operators, beside the data path (`web` has HTTP). It asks the coordinator and the shards by
//! bounded queues, and reads counters; nothing of the data path waits for it.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `daemon` | what the thread asks, and whom |
//! | `handler` | a request → an answer |
//! | `writes` | what the operator orders, with its audit line |
//! | `fleet` | the fleet, for people |
//! | `limit_rows` | each limit, and how much of it is used |
//! | `streams` | those who follow the changes |

mod daemon;
#[cfg(feature = "fleet")]
mod fleet;
mod handler;
mod limit_rows;
mod streams;
mod writes;

use std::{io, sync::Arc};

pub(super) use daemon::{Daemon, Parts};

use super::Error;
use crate::web::{server::Thread, sockets::Bound};

/// The running thread.
pub(super) struct AdminThread {
    pub(super) thread: Thread<Error>,
    /// For new TLS files and a new token.
    pub(super) daemon: Arc<Daemon>,
}

impl AdminThread {
    /// Starts the thread; `ended` is dropped at its end.
    pub(super) fn start(bound: Vec<Bound>, daemon: Daemon, ended: impl Send + 'static) -> io::Result<AdminThread> {
        let daemon = Arc::new(daemon);
        let failed = |error| Error::Start { what: "start the admin side", error };
        Ok(AdminThread { thread: Thread::start(bound, daemon.clone(), ended, failed)?, daemon })
    }
}

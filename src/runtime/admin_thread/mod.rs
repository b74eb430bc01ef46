//! The admin side's thread: an HTTP server for operators, beside the data path. It asks the coordinator and the shards by
//! bounded queues, and reads counters; nothing of the data path waits for it.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `sockets` | the listeners, UNIX and TCP |
//! | `daemon` | what the thread asks, and whom |
//! | `connections` | the connections: how many, which one ends when there are too many |
//! | `guarded_io` | a peer that takes or sends nothing for too long ends its connection |
//! | `server` | accepting, TLS, HTTP |
//! | `handler` | a request → an answer |
//! | `writes` | what the operator orders, with its audit line |
//! | `limit_rows` | each limit, and how much of it is used |
//! | `streams` | those who follow the changes |

mod connections;
mod daemon;
mod guarded_io;
mod handler;
mod limit_rows;
mod server;
mod sockets;
mod streams;
mod writes;

use std::{io, sync::Arc, thread::JoinHandle};

use tokio::{sync::Notify, task::LocalSet};

pub(super) use daemon::{Daemon, Parts};
pub(super) use sockets::{Bound, bind};

use super::Error;

/// How much less often than the daemon's other threads this one gets a CPU that both want.
const NICENESS: i32 = 5;

/// The running thread.
pub(super) struct AdminThread {
    pub(super) handle: JoinHandle<Result<(), Error>>,
    stop: Arc<Notify>,
    /// For new TLS files and a new token.
    pub(super) daemon: Arc<Daemon>,
}

impl AdminThread {
    /// Starts the thread; `ended` is dropped at its end.
    pub(super) fn start(bound: Vec<Bound>, daemon: Daemon, ended: impl Send + 'static) -> io::Result<AdminThread> {
        let (stop, daemon) = (Arc::new(Notify::new()), Arc::new(daemon));
        let (until, served) = (stop.clone(), daemon.clone());
        let handle = std::thread::Builder::new().name("admin".into()).spawn(move || {
            let _ended = ended;
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
            let failed = |error| Error::Start { what: "start the admin side", error };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
            let runtime = runtime.map_err(failed)?;
            let tasks = LocalSet::new();
            let served = runtime.block_on(tasks.run_until(server::serve(bound, served, until)));
            served.map_err(failed)
        })?;
        Ok(AdminThread { handle, stop, daemon })
    }

    /// Asks the thread to end: at once, whatever its clients do.
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }
}

//! The admin side of `gwm connect`.

use std::{
    io::{self, Write},
    sync::Arc,
};

use crate::{
    cli::target::Failure,
    config,
    connect::{admin::Pages, follower::Follower, status::Status},
    web::{Gate, Site, server::Thread, sockets},
};

/// The running admin side. It ends with this value.
pub(super) struct Running(Option<Thread<()>>);

impl Drop for Running {
    /// Waits for the thread: it removes the files of UNIX sockets.
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.stop();
            let _ = thread.handle.join(); // its panic was logged
        }
    }
}

/// Reads the files again.
pub(super) struct Files {
    flags: config::Admin,
    pages: Option<Arc<Pages>>,
}

impl Files {
    /// Reads the TLS files and the token again.
    pub(super) fn reload(&mut self) {
        if let Some(pages) = &self.pages {
            pages.gate().reload("SIGHUP", &mut self.flags);
        }
    }
}

/// Starts the admin side, and prints its addresses. Without --admin-listen there is none.
pub(super) fn start(
    flags: config::Admin,
    status: &Arc<Status>,
    follower: &Follower,
) -> Result<(Files, Running), Failure> {
    if flags.listen.is_empty() {
        return Ok((Files { flags, pages: None }, Running(None)));
    }
    let failed = |what: &str, error: &io::Error| Failure::Failed(format!("{what}: {error}"));
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for address in &flags.listen {
        let bound = sockets::bind(address);
        let (address, listener) =
            bound.map_err(|error| failed(&format!("--admin-listen: can not listen on {address}"), &error))?;
        listeners.push(listener);
        addresses.push(address);
    }
    let pages = Arc::new(Pages::new(Gate::new(&flags), Arc::clone(status), follower.waker()));
    let told = |error| tracing::error!("the admin side has ended: {error}");
    let thread = Thread::start(listeners, Arc::clone(&pages), (), told)
        .map_err(|error| failed("can not start the admin side", &error))?;
    let mut out = io::stdout().lock();
    addresses.iter().try_for_each(|address| writeln!(out, "gwm: admin on {address}"))?;
    out.flush()?;
    Ok((Files { flags, pages: Some(pages) }, Running(Some(thread))))
}

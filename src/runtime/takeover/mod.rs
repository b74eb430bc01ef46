//! A restart without a gap: a new process gets the listening sockets and the state of a running one.
//!
//! The listening sockets are passed, so there is no moment without one: connections wait in the kernel until the new process
//! accepts them. The state is passed by its file: the running process stands still, writes and closes the file, and the new
//! one loads it. Until the new one has done so, the running one can go on as if nothing had been, and does so after any
//! failure.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `channel` | the socket between the two processes |
//! | `still` | what stands still while the state changes hands |
//! | `giving` | the running process's side |
//! | `taking` | the new process's side |
//! | `heir` | starting a new process, and telling systemd of it |

mod channel;
mod giving;
mod heir;
mod still;
mod taking;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::metrics::{Id, LabelValue, Reading};

pub(super) use giving::{Giving, Offered, Parts};
pub(super) use heir::{Heirs, tell_systemd};
pub(super) use still::Still;
pub(super) use taking::Taking;

/// How takeovers went.
#[derive(Default)]
pub(super) struct Takeovers {
    /// 1 if this process has taken over from another one.
    pub(super) taken: AtomicU64,
    /// Those that have failed, so that this process serves on.
    failed: AtomicU64,
}

impl Takeovers {
    /// Adds the metrics.
    pub(super) fn read(&self, reading: &mut Reading) {
        for (name, text, count) in [
            ("taken", "this process took over from another one", &self.taken),
            ("failed", "another process did not take over", &self.failed),
        ] {
            let label = LabelValue { name: name.into(), text: text.into() };
            reading.add_labelled(None, Id::Takeovers, label, count.load(Ordering::Relaxed));
        }
    }
}

/// The socket of the daemon that has this state.
fn socket_file(directory: &Path) -> PathBuf {
    directory.join("takeover.sock")
}

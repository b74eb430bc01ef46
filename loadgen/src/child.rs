//! Processes that a run starts. They end when the run ends, however it ends.
#![allow(unsafe_code)]

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};

use crate::Result;

/// How long a process may take to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed when this is dropped, and by the kernel when the thread that started it ends: so it must
/// be started by a thread that stays, such as the conductor's.
pub(crate) struct Guarded(pub(crate) Child);

impl Guarded {
    /// Starts the process; `shown` is its name in messages.
    pub(crate) fn spawn(command: &mut Command, shown: &str) -> Result<Guarded> {
        let parent = getpid();
        let guard = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A parent that ended before this sends no signal.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec this makes two system calls, and neither allocates nor takes a lock.
        unsafe { command.pre_exec(guard) };
        command.spawn().map(Guarded).map_err(|error| format!("can not start `{shown}`: {error}"))
    }

    /// Waits for the end, after a signal if a signal ends it.
    pub(crate) fn stop(mut self, by: Option<Signal>) -> Result<ExitStatus> {
        if let (Some(signal), Some(pid)) = (by, Pid::from_raw(self.0.id() as i32)) {
            kill_process(pid, signal).map_err(|error| format!("can not stop the server: {error}"))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_wait().map_err(|error| format!("can not wait for the server: {error}"))? {
                Some(status) => return Ok(status),
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                None => return Err("the server did not stop".into()),
            }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // A process that was waited for is left alone. Else the run has failed, and this leaves nothing behind.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

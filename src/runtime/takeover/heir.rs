//! Starting a new process that takes over from this one.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, retry_on_intr},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::giving::Giving;
use crate::notify::Notifier;

/// The flag of a process that takes over.
const FLAG: &str = "--takeover";

/// Starts the program in the background, and says its process. The shell ends at once, and the new process is systemd's
/// child, not that of this process: only for a child systemd waits when the unit stops, and others it kills. The shell's
/// input is what the program's output is to be.
const IN_THE_BACKGROUND: &str = r#"exec 3>&0 </dev/null; "$@" >&3 3>&- & echo $!"#;

/// How this process was started.
pub(in crate::runtime) struct Heirs {
    /// The program's file at the start of this process: a newer version may be there now.
    program: io::Result<PathBuf>,
    arguments: Vec<OsString>,
    /// A new process is under way.
    is_under_way: Arc<AtomicBool>,
}

impl Heirs {
    pub(in crate::runtime) fn new() -> Heirs {
        let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
        if arguments.iter().all(|argument| argument != FLAG) {
            arguments.push(FLAG.into());
        }
        Heirs { program: env::current_exe(), arguments, is_under_way: Arc::default() }
    }

    /// Starts the program that is there now, with the arguments and the environment of this process, to take over, if this
    /// process has something to give.
    pub(in crate::runtime) fn start_for(&self, giving: Option<&Giving>) {
        if giving.is_none() {
            tracing::error!("SIGUSR2: no process can take over: that needs --state, without --fleet");
            return;
        }
        if self.is_under_way.swap(true, Ordering::AcqRel) {
            tracing::warn!("SIGUSR2: another process is taking over already");
            return;
        }
        match self.spawn() {
            Ok(id) => tracing::info!("SIGUSR2: process {id} is to take over"),
            Err(error) => {
                self.is_under_way.store(false, Ordering::Release);
                tracing::error!("SIGUSR2: no process to take over can be started, and this one serves on: {error}");
            }
        }
    }

    fn spawn(&self) -> io::Result<i32> {
        let program = self.program.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        fs::metadata(program)?; // else the shell would say that it is not there
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", IN_THE_BACKGROUND, "sh"]).arg(program).args(&self.arguments);
        shell.stdin(io::stdout().as_fd().try_clone_to_owned()?).stderr(Stdio::inherit());
        // The new process is the one that systemd's watchdog looks at then.
        shell.env_remove("WATCHDOG_PID");
        let said = shell.output()?.stdout;
        let id = std::str::from_utf8(&said).ok().and_then(|text| text.trim().parse().ok());
        let process = id.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("/bin/sh does not say which it is"))?;
        let (file, is_under_way) = (pidfd_open(process, PidfdFlags::empty()), self.is_under_way.clone());
        // If the thread can not be started, the new process is not waited for, and no other one is started.
        thread::Builder::new().name("heir".into()).spawn(move || wait(process, file, &is_under_way))?;
        Ok(process.as_raw_nonzero().get())
    }
}

/// Tells systemd which process the unit's main one is from now on.
pub(in crate::runtime) fn tell_systemd(id: u32) {
    if let Err(error) = Notifier::from_environment().main_process(id) {
        tracing::warn!("systemd does not hear that process {id} serves now: {error}");
    }
}

/// Waits for a process that was to take over. If that succeeds, this process ends first.
fn wait(process: Pid, file: rustix::io::Result<OwnedFd>, is_under_way: &AtomicBool) {
    let id = process.as_raw_nonzero();
    match file.and_then(|file| retry_on_intr(|| poll(&mut [PollFd::new(&file, PollFlags::IN)], None))) {
        Ok(_) | Err(Errno::SRCH) => tracing::warn!("process {id}, which was to take over, has ended"),
        Err(error) => tracing::warn!("process {id}, which was to take over, can not be waited for: {error}"),
    }
    is_under_way.store(false, Ordering::Release);
}

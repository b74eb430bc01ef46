//! Starting a new process that takes over from this one.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixDatagram},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::giving::Giving;

/// The flag of a process that takes over.
const FLAG: &str = "--takeover";

/// How this process was started.
pub(in crate::runtime) struct Heirs {
    /// The program's file at the start of this process: a newer version may be there now.
    program: io::Result<PathBuf>,
    name: OsString,
    arguments: Vec<OsString>,
    /// A new process is under way.
    is_under_way: Arc<AtomicBool>,
}

impl Heirs {
    pub(in crate::runtime) fn new() -> Heirs {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let mut arguments: Vec<OsString> = arguments.collect();
        if arguments.iter().all(|argument| argument != FLAG) {
            arguments.push(FLAG.into());
        }
        Heirs { program: env::current_exe(), name, arguments, is_under_way: Arc::default() }
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

    fn spawn(&self) -> io::Result<u32> {
        let program = self.program.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let mut command = Command::new(program);
        command.arg0(&self.name).args(&self.arguments);
        // The new process is the one that systemd's watchdog looks at then.
        command.env_remove("WATCHDOG_PID");
        let child = command.spawn()?;
        let (id, is_under_way) = (child.id(), self.is_under_way.clone());
        // If the thread can not be started, the new process is not waited for, and no other one is started.
        thread::Builder::new().name("heir".into()).spawn(move || wait(child, &is_under_way))?;
        Ok(id)
    }
}

/// Tells systemd which process the unit's main one is from now on. Only the main process is heard.
pub(in crate::runtime) fn tell_systemd(id: u32) {
    let Some(address) = env::var("NOTIFY_SOCKET").ok() else { return };
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(address),
    };
    let told =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(format!("MAINPID={id}").as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!("systemd does not hear that process {id} serves now: {error}");
    }
}

/// Waits for a process that was to take over. If that succeeds, this process ends first.
fn wait(mut child: Child, is_under_way: &AtomicBool) {
    match child.wait() {
        Ok(status) => tracing::warn!("process {}, which was to take over, has ended: {status}", child.id()),
        Err(error) => tracing::warn!("process {}, which was to take over, can not be waited for: {error}", child.id()),
    }
    is_under_way.store(false, Ordering::Release);
}

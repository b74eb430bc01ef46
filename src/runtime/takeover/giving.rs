//! The running daemon's side: a thread that gives listeners and state to a process that asks for them.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::Socket;

use super::{
    Takeovers,
    channel::{self, Channel},
    still::Still,
};
use crate::{
    limits::TAKEOVER_DESCRIPTORS,
    sasp::Escaped,
    takeover::{Listener, Message, VERSION},
};

/// How long a process that connects may take to say what it wants.
const GREETING: Duration = Duration::from_secs(5);

/// How long a process may take from its listeners to everything that it needs before the state. This one serves meanwhile.
const PREPARATION: Duration = Duration::from_secs(60);

/// How long a process may take to load the state. Requests wait meanwhile.
const LOADING: Duration = Duration::from_secs(30);

/// The pause after a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listeners that a process gets, with descriptors of their own.
pub(in crate::runtime) type Offered = Vec<(Listener, OwnedFd)>;

/// What the thread shares with the others.
struct Common {
    /// Empty from the stop on.
    offered: Mutex<Offered>,
    /// The talk that is under way.
    talk: Mutex<Option<Arc<Channel>>>,
    stopping: AtomicBool,
    is_over: AtomicBool,
    takeovers: Arc<Takeovers>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running thread.
pub(in crate::runtime) struct Giving {
    handle: JoinHandle<()>,
    common: Arc<Common>,
    listener: Arc<Socket>,
    path: PathBuf,
}

/// What the thread needs.
pub(in crate::runtime) struct Parts {
    pub(in crate::runtime) offered: Offered,
    pub(in crate::runtime) still: Still,
    pub(in crate::runtime) takeovers: Arc<Takeovers>,
    /// Files of UNIX sockets; true: the file stays when this process closes its socket.
    pub(in crate::runtime) files: Vec<Arc<AtomicBool>>,
    /// Told once, when another process has taken over.
    pub(in crate::runtime) over: Box<dyn Fn() + Send>,
    /// Told before that, with the id of the other process.
    pub(in crate::runtime) heir: Box<dyn Fn(u32) + Send>,
}

impl Giving {
    /// Starts the thread. The state is this process's, so a socket that is there is that of a process that has ended, or
    /// that has given the state away.
    pub(in crate::runtime) fn start(directory: &Path, parts: Parts) -> io::Result<Giving> {
        let path = super::socket_file(directory);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = Arc::new(channel::listen(&path)?);
        let Parts { offered, still, takeovers, files, over, heir } = parts;
        let (offered, talk) = (Mutex::new(offered), Mutex::new(None));
        let (stopping, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let common = Arc::new(Common { offered, talk, stopping, is_over, takeovers });
        let giver = Giver { listener: listener.clone(), common: common.clone(), still, files, over, heir };
        let handle = thread::Builder::new().name("takeover".into()).spawn(move || giver.run())?;
        Ok(Giving { handle, common, listener, path })
    }

    /// Ends the thread, with a talk that is under way; whether another process has taken over.
    pub(in crate::runtime) fn stop(self) -> bool {
        self.common.stopping.store(true, Ordering::Release);
        // Else connections would come to sockets that nobody accepts at.
        locked(&self.common.offered).clear();
        let _ = self.listener.shutdown(std::net::Shutdown::Both);
        if let Some(talk) = &*locked(&self.common.talk) {
            talk.end();
        }
        let _ = self.handle.join(); // it says itself that it panicked
        let is_over = self.common.is_over.load(Ordering::Acquire);
        if !is_over {
            let _ = fs::remove_file(&self.path);
        }
        is_over
    }
}

struct Giver {
    listener: Arc<Socket>,
    common: Arc<Common>,
    still: Still,
    files: Vec<Arc<AtomicBool>>,
    over: Box<dyn Fn() + Send>,
    heir: Box<dyn Fn(u32) + Send>,
}

impl Giver {
    fn is_stopping(&self) -> bool {
        self.common.stopping.load(Ordering::Acquire)
    }

    /// Serves one process at a time, until one has taken over.
    fn run(self) {
        while !self.is_stopping() {
            let channel = match Channel::accept(&self.listener) {
                Ok(channel) => Arc::new(channel),
                Err(_) if self.is_stopping() => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::debug!("can not accept a process that wants to take over: {error}");
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            *locked(&self.common.talk) = Some(channel.clone());
            let given = if self.is_stopping() { Err("this process stops".into()) } else { self.give(&channel) };
            *locked(&self.common.talk) = None;
            match given {
                Ok(()) => return,
                Err(why) => {
                    self.common.takeovers.failed.fetch_add(1, Ordering::Relaxed);
                    let _ = channel.send(&Message::Refused { why: why.clone() }, &[]);
                    tracing::warn!("a takeover has failed, and this process serves on: {why}");
                }
            }
        }
    }

    /// Gives everything to a process, or nothing.
    fn give(&self, channel: &Channel) -> Result<(), String> {
        let peer = channel.peer().map_err(|error| format!("nobody knows who asks: {error}"))?;
        let id = peer.pid.as_raw_nonzero().get().unsigned_abs();
        let own = rustix::process::geteuid();
        if peer.uid != own {
            let (other, own) = (peer.uid.as_raw(), own.as_raw());
            return Err(format!("process {id} is of user {other}: only user {own} may take over"));
        }
        let version = match channel.receive(GREETING)?.0 {
            Message::Hello { protocol: VERSION, gwm } => Escaped(gwm.as_bytes()).to_string(),
            Message::Hello { protocol, gwm } => {
                let gwm = Escaped(gwm.as_bytes());
                return Err(format!(
                    "process {id} (gwm {gwm}) takes over by version {protocol}, and this gwm knows version {VERSION}: stop \
                     this one, then start that one"
                ));
            }
            other => return Err(format!("process {id} says {other:?} instead of a greeting")),
        };
        self.send_listeners(channel)?;
        tracing::info!("takeover: process {id} (gwm {version}) has the listeners and makes ready");
        channel.expect(&Message::Ready, PREPARATION)?;
        let start = Instant::now();
        self.still.begin(|| self.is_stopping())?;
        let given = self.give_state(channel, id);
        if given.is_err() {
            self.still.end();
            return given;
        }
        self.files.iter().for_each(|kept| kept.store(true, Ordering::Release));
        self.common.is_over.store(true, Ordering::Release);
        let took_ms = start.elapsed().as_millis() as u64;
        tracing::info!(took_ms, "takeover: process {id} serves now; connections here end one after another");
        // Before threads end because of that: the main thread must know why.
        (self.over)();
        self.still.over();
        Ok(())
    }

    fn send_listeners(&self, channel: &Channel) -> Result<(), String> {
        let offered = locked(&self.common.offered);
        if offered.is_empty() {
            return Err("this process stops".into());
        }
        let mut chunks = offered.chunks(TAKEOVER_DESCRIPTORS).peekable();
        while let Some(chunk) = chunks.next() {
            let listeners = chunk.iter().map(|(listener, _)| listener.clone()).collect();
            let descriptors: Vec<_> = chunk.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
            channel.send(&Message::Listeners { listeners, more: chunks.peek().is_some() }, &descriptors)?;
        }
        Ok(())
    }

    /// Lets the process load the state, and serve. Nothing is changed before [`Message::Over`], by neither process.
    fn give_state(&self, channel: &Channel, id: u32) -> Result<(), String> {
        channel.send(&Message::State, &[])?;
        channel.expect(&Message::Loaded, LOADING)?;
        if self.is_stopping() {
            return Err("this process stops".into());
        }
        channel.send(&Message::Over, &[])?;
        (self.heir)(id);
        Ok(())
    }
}

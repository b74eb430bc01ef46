//! The thread that answers agent-checks of load balancers, beside the data path: an ordinary thread, which gets less CPU
//! than the data path's threads where both want it. It asks the coordinator by the queue of the admin side, which bounds
//! how much of the coordinator's time it takes.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `places` | what is known of each group that is asked about, and for how long; the questions to the coordinator |
//! | `connections` | the connections, from accept to close |
//! | `metrics` | how many checks there were, and how they were answered |
//! | `unknown_log` | the log of checks that get no answer |

mod connections;
mod metrics;
mod places;
mod unknown_log;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::event::epoll::EventFlags;
use socket2::{Domain, Protocol, Socket, Type};

pub(super) use self::metrics::AgentMetrics;
use self::{
    connections::{Connections, Heard},
    metrics::Answered,
    places::{Asked, Check, Known, Places},
    unknown_log::UnknownLog,
};
use super::{Error, coordinator_thread::CoordinatorControl, machine::poller::Poller, shard::Shared};
use crate::{agent_checks::Style, coordinator::Answer, limits, metrics::Id};

/// Connections that the kernel completes ahead of us; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Tokens of listeners begin here; those of connections are below.
const FIRST_LISTENER: u64 = 1 << 62;

/// The longest sleep.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The pause between two looks while the state changes hands.
const HOLD_LOOK: Duration = Duration::from_millis(5);

/// Answers of the coordinator.
type Mail = Mutex<Vec<(Asked, Answer)>>;

/// The running thread.
pub(super) struct AgentThread {
    pub(super) handle: JoinHandle<Result<(), Error>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
}

/// Binds an address; gives the address with the port that the system chose.
pub(super) fn bind(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(OwnedFd::from(socket));
    Ok((listener.local_addr()?, listener))
}

impl AgentThread {
    /// Starts the thread; `ended` is dropped at its end.
    pub(super) fn start(
        listeners: Vec<TcpListener>,
        lb: Option<Box<[u8]>>,
        control: Arc<CoordinatorControl>,
        (metrics, shared): (Arc<AgentMetrics>, Arc<Shared>),
        ended: impl Send + 'static,
    ) -> io::Result<AgentThread> {
        let poller = Poller::new()?;
        for (at, listener) in listeners.iter().enumerate() {
            poller.add(listener, FIRST_LISTENER + at as u64, EventFlags::IN | EventFlags::ET)?;
        }
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), poller.waker().clone());
        let mail = Arc::new(Mail::default());
        let places = Places::new(control, lb.clone(), mail.clone(), waker.clone());
        let until = stop.clone();
        let handle = std::thread::Builder::new().name("agent-checks".into()).spawn(move || {
            let _ended = ended;
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), limits::NICENESS);
            let connections = Connections::new(listeners);
            let log = UnknownLog::default();
            Server { poller, connections, places, mail, metrics, shared, lb, log }.run(&until);
            Ok(())
        })?;
        Ok(AgentThread { handle, stop, waker })
    }

    /// Asks the thread to end: at once, whatever its clients do.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

struct Server {
    poller: Poller,
    connections: Connections,
    places: Places,
    mail: Arc<Mail>,
    metrics: Arc<AgentMetrics>,
    shared: Arc<Shared>,
    /// The only load balancer whose groups answer.
    lb: Option<Box<[u8]>>,
    log: UnknownLog,
}

impl Server {
    fn run(mut self, stop: &AtomicBool) {
        let mut events = Vec::new();
        while !stop.load(Ordering::Acquire) {
            let now = Instant::now();
            let next = [self.connections.next_time(), self.places.next_time()].into_iter().flatten().min();
            let mut wait = next.map_or(LONGEST_WAIT, |next| next.saturating_duration_since(now).min(LONGEST_WAIT));
            // The coordinator answers nothing now, so new connections wait in the kernel.
            let holds = self.shared.holds.load(Ordering::Relaxed);
            if holds {
                wait = HOLD_LOOK;
            }
            self.poller.wait(wait, |token, flags| events.push((token, flags)));
            let now = Instant::now();
            for (token, flags) in events.drain(..) {
                match token {
                    FIRST_LISTENER.. => self.connections.hear(token - FIRST_LISTENER),
                    token => self.read(token, !flags.is_empty(), now),
                }
            }
            let accepted = if holds { Vec::new() } else { self.connections.accept(&self.poller, now) };
            for token in accepted {
                self.metrics.values.add(Id::AgentConnectionsAccepted);
                self.read(token, true, now);
            }
            // Keys without a line feed, which are whole now; and connections that said nothing for too long.
            for token in self.connections.due(now) {
                self.read(token, false, now);
            }
            let mail = std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner));
            for (asked, answer) in mail {
                for (check, known) in self.places.take(asked, answer, now) {
                    self.answer(&check, known, now);
                }
            }
            self.places.forget(now);
            self.places.ask(now);
            self.metrics.values.set(Id::AgentConnectionsOpen, self.connections.count() as u64);
        }
    }

    /// Reads a connection's request, and answers it if the answer is known.
    fn read(&mut self, token: u64, has_news: bool, now: Instant) {
        let question = match self.connections.read(token, has_news, now) {
            Heard::Nothing => return,
            Heard::Wrong(style, request) => {
                self.metrics.answered(Answered::Wrong);
                if let Some(line) = self.log.note_wrong(&request, now) {
                    tracing::warn!("{line}");
                }
                return self.connections.answer(token, style, None);
            }
            Heard::Question(question) => question,
        };
        if let Some((check, known)) = self.places.look(Check::new(token, question), now) {
            self.answer(&check, known, now);
        }
    }

    fn answer(&mut self, check: &Check, known: Known, now: Instant) {
        self.metrics.answered(known.into());
        let (style, state) = match known {
            Known::State(state) => (check.question.style, Some(state)),
            Known::Unknown => (check.question.style, None),
            // No word at all: the load balancer asks again.
            Known::Busy => (Style::Line, None),
        };
        if known == Known::Unknown
            && let Some(line) = self.log.note(&check.question, self.lb.as_deref(), now)
        {
            tracing::warn!("{line}");
        }
        self.connections.answer(check.token(), style, state);
    }
}

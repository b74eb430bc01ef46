//! The thread that answers: it has few connections, each for a moment, and sleeps in between.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use super::{
    Weight,
    request::{self, Ask, Request},
    words::{self, Form, Report},
};
use crate::{
    agent::{load::sampler::Board, pulse::Pulse, service::Service},
    limits,
};

/// The stack of the thread.
const STACK_BYTES: usize = 256 << 10;

/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long the agent waits for the end of a connection after its answer: an end with unread bytes would reset the
/// connection, and the answer could be lost.
const LINGER: Duration = Duration::from_secs(1);

/// The pause after an error of `accept`, as when there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest sleep; anything else wakes the thread earlier.
const SLEEP: Duration = Duration::from_secs(3600);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Where someone asks, and what is answered there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Agent-checks about this service: its place in the list.
    Agent(usize),
    /// HTTP.
    Http,
}

/// What is told of a service.
pub struct Told {
    /// The service.
    pub service: Arc<Service>,
    /// The weight of an agent-check.
    pub weight: Weight,
}

/// What those who ask are told.
pub struct Site {
    /// The services.
    pub services: Vec<Told>,
    /// Their figures, in the same order.
    pub board: Arc<Board>,
    /// Agent-checks that were answered.
    pub agent_checks: AtomicU64,
    /// Requests of HTTP that were answered.
    pub requests: AtomicU64,
}

impl Site {
    /// About these services.
    pub fn new(services: Vec<Told>, board: Arc<Board>) -> Site {
        Site { services, board, agent_checks: AtomicU64::new(0), requests: AtomicU64::new(0) }
    }

    /// Goes on where another site was: its counts, and the figures of services whose figures come from the same source.
    pub fn go_on(&mut self, before: &Site) {
        self.agent_checks = before.agent_checks.load(Ordering::Relaxed).into();
        self.requests = before.requests.load(Ordering::Relaxed).into();
        for (at, told) in self.services.iter().enumerate() {
            let settings = &told.service.settings;
            let of = before.services.iter().position(|told| {
                let before = &told.service.settings;
                (&before.name, &before.telling.load) == (&settings.name, &settings.telling.load)
            });
            if let Some(of) = of {
                self.board.carry(at, &before.board, of);
            }
        }
    }

    /// The answer to an agent-check.
    fn line(&self, at: usize) -> String {
        let Some(told) = self.services.get(at) else { return String::new() };
        let figures = self.board.figures(at);
        told.service.with(|state| words::agent_line(state.condition(), state.reason(), told.weight, figures.as_ref()))
    }

    /// The service that a name, or no name, means.
    fn find(&self, name: Option<&str>) -> Result<usize, Answer> {
        match (name, self.services.len()) {
            (None, 1) => Ok(0),
            (None, _) => Err(Answer::text(404, "there are several services: add /NAME\n")),
            (Some(name), _) => {
                let found = self.services.iter().position(|told| told.service.settings.name == name);
                found.ok_or_else(|| Answer::text(404, "there is no such service\n"))
            }
        }
    }

    /// The answer to a request.
    fn answer(&self, ask: &Ask) -> Answer {
        let answered = match ask {
            Ask::Paths => Ok(Answer::text(200, self.paths())),
            Ask::Health => Ok(Answer::text(200, "ok\n")),
            Ask::Metrics { openmetrics } => Ok(self.metrics(*openmetrics)),
            Ask::Load(name) => self.find(name.as_deref()).map(|at| self.kemp(at)),
            Ask::Orca(name, form) => self.find(name.as_deref()).map(|at| self.orca(at, *form)),
        };
        let answer = answered.unwrap_or_else(|refused| refused);
        // Where one service is meant in any case, each answer has the load report, as those of the service itself would.
        if answer.report.is_none() && self.services.len() == 1 {
            return Answer { report: self.report(0).and_then(|report| report.header(Form::Text)), ..answer };
        }
        answer
    }

    fn paths(&self) -> String {
        let mut text = String::from("/healthz\n/metrics\n");
        for told in &self.services {
            let escaped =
                percent_encoding::utf8_percent_encode(&told.service.settings.name, percent_encoding::NON_ALPHANUMERIC);
            text.push_str(&format!("/load/{escaped}\n/orca/{escaped}\n"));
        }
        text
    }

    fn report(&self, at: usize) -> Option<Report> {
        self.board.figures(at).map(|figures| Report::new(&figures))
    }

    fn condition(&self, at: usize) -> Option<crate::agent::service::Condition> {
        self.services.get(at).map(|told| told.service.with(|state| state.condition()))
    }

    fn kemp(&self, at: usize) -> Answer {
        let figures = self.board.figures(at);
        match self.condition(at).and_then(|condition| words::kemp_number(condition, figures.as_ref())) {
            Some(number) => Answer::text(200, format!("{number}\n")),
            None => Answer::text(503, "the load is not known yet\n"),
        }
    }

    fn orca(&self, at: usize, form: Form) -> Answer {
        let works = self.condition(at).is_some_and(words::works);
        let report = self.report(at).unwrap_or_default();
        Answer {
            status: if works { 200 } else { 503 },
            kind: match form {
                Form::Json => "application/json",
                Form::Text => TEXT,
            },
            report: report.header(form),
            body: report.body(form) + "\n",
        }
    }

    #[cfg(feature = "admin")]
    fn metrics(&self, openmetrics: bool) -> Answer {
        let (kind, body) = super::metrics::page(self, openmetrics);
        Answer { status: 200, kind, report: None, body }
    }

    #[cfg(not(feature = "admin"))]
    fn metrics(&self, _: bool) -> Answer {
        Answer::text(404, "this gwm was built without the feature admin\n")
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// An answer of HTTP.
struct Answer {
    status: u16,
    kind: &'static str,
    /// The load report.
    report: Option<String>,
    body: String,
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, kind: TEXT, report: None, body: body.into() }
    }

    /// The bytes; `head`: without the body.
    fn bytes(&self, head: bool) -> Vec<u8> {
        let phrase = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let report = self.report.as_ref().map(|report| format!("endpoint-load-metrics: {report}\r\n"));
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let mut bytes = format!(
            "HTTP/1.1 {} {phrase}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n{allow}{}Connection: close\r\n\r\n",
            self.status,
            self.kind,
            self.body.len(),
            report.unwrap_or_default()
        )
        .into_bytes();
        if !head {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// A bound listener.
pub struct Listener {
    listener: TcpListener,
    role: Role,
}

impl Listener {
    /// Binds an address; gives the address with the port that the system chose.
    pub fn bind(address: SocketAddr, role: Role) -> io::Result<(SocketAddr, Listener)> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(OwnedFd::from(socket));
        Ok((listener.local_addr()?, Listener { listener, role }))
    }

    /// The same socket, for this role.
    pub fn again(&self, role: Role) -> io::Result<Listener> {
        Ok(Listener { listener: self.listener.try_clone()?, role })
    }
}

/// The running thread.
pub struct Server {
    handle: JoinHandle<()>,
    wake: Arc<OwnedFd>,
    order: Arc<Mutex<Option<Order>>>,
}

/// What the thread is to do next.
enum Order {
    Stop,
    /// It answers these from now on.
    Change(Vec<Listener>, Arc<Site>),
}

impl Server {
    /// Starts the thread.
    pub fn start(listeners: Vec<Listener>, site: Arc<Site>, pulse: Pulse) -> io::Result<Server> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let order = Arc::default();
        let (woken, orders): (_, Arc<Mutex<Option<Order>>>) = (Arc::clone(&wake), Arc::clone(&order));
        let mut answering = Loop { listeners, site, connections: Vec::new(), paused_until: None };
        let handle = std::thread::Builder::new()
            .name("answers".into())
            .stack_size(STACK_BYTES)
            .spawn(move || while answering.turn(&woken, &orders, &pulse) {})?;
        Ok(Server { handle, wake, order })
    }

    fn order(&self, order: Order) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    /// Other addresses and services from now on.
    pub fn change(&self, listeners: Vec<Listener>, site: Arc<Site>) {
        self.order(Order::Change(listeners, site));
    }

    /// Ends the thread: at once, whatever its clients do.
    pub fn stop(self) {
        self.order(Order::Stop);
        let _ = self.handle.join();
    }
}

struct Connection {
    stream: TcpStream,
    role: Role,
    /// What has come, before the answer.
    read: Vec<u8>,
    /// The answer, once there is one, and how much of it is sent.
    answer: Option<Vec<u8>>,
    sent: usize,
    ends_at: Instant,
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Waits,
    Ends,
}

struct Loop {
    listeners: Vec<Listener>,
    site: Arc<Site>,
    /// The oldest first.
    connections: Vec<Connection>,
    /// After an error of `accept`.
    paused_until: Option<Instant>,
}

impl Loop {
    /// Waits for news and does what they ask for; false at the end.
    fn turn(&mut self, wake: &OwnedFd, order: &Mutex<Option<Order>>, pulse: &Pulse) -> bool {
        let now = Instant::now();
        self.paused_until = self.paused_until.filter(|until| *until > now);
        let next = self.connections.iter().map(|connection| connection.ends_at).chain(self.paused_until).min();
        let wait = pulse.sleeps(next.map_or(SLEEP, |at| at.saturating_duration_since(now).min(SLEEP)));
        let timeout = Timespec::try_from(wait).expect("a wait is an hour at most");
        let listens = if self.paused_until.is_some() { PollFlags::empty() } else { PollFlags::IN };
        let mut polled = vec![PollFd::new(wake, PollFlags::IN)];
        polled.extend(self.listeners.iter().map(|one| PollFd::from_borrowed_fd(one.listener.as_fd(), listens)));
        polled.extend(self.connections.iter().map(|one| PollFd::from_borrowed_fd(one.stream.as_fd(), one.waits_for())));
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            // The kernel has no memory, for example.
            Err(_) => std::thread::sleep(ACCEPT_PAUSE),
        }
        let has_news: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        drop(polled);
        let mut has_news = has_news.into_iter();
        if has_news.next() == Some(true) {
            let _ = rustix::io::read(wake, &mut [0; 8]);
            match order.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(Order::Stop) => return false,
                // What waits at the old sockets waits at the new ones, which are the same where the address is.
                Some(Order::Change(listeners, site)) => (self.listeners, self.site) = (listeners, site),
                None => {}
            }
            return true;
        }
        let listeners: Vec<bool> = has_news.by_ref().take(self.listeners.len()).collect();
        let now = Instant::now();
        let site = &self.site;
        self.connections.retain_mut(|connection| {
            let news = has_news.next() == Some(true);
            connection.ends_at > now && (!news || connection.go_on(site, now) == Next::Waits)
        });
        for (at, _) in listeners.into_iter().enumerate().filter(|(_, news)| *news) {
            self.accept(at, now);
        }
        true
    }

    /// Accepts what waits; at the limit, the oldest connection ends for a new one.
    fn accept(&mut self, at: usize, now: Instant) {
        for _ in 0..limits::AGENT_ANSWER_CONNECTIONS {
            let Some(listener) = self.listeners.get(at) else { return };
            match listener.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue; // it is closed
                    }
                    let role = listener.role;
                    let mut connection =
                        Connection { stream, role, read: Vec::new(), answer: None, sent: 0, ends_at: now + TIMEOUT };
                    if connection.go_on(&self.site, now) == Next::Ends {
                        continue;
                    }
                    if self.connections.len() >= limits::AGENT_ANSWER_CONNECTIONS {
                        self.connections.remove(0);
                    }
                    self.connections.push(connection);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    tracing::debug!("can not accept a connection: {error}");
                    self.paused_until = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }
}

impl Connection {
    fn waits_for(&self) -> PollFlags {
        let unsent = self.answer.as_ref().is_some_and(|answer| self.sent < answer.len());
        if unsent { PollFlags::OUT } else { PollFlags::IN }
    }

    /// Reads, answers and sends, as far as the socket lets it.
    fn go_on(&mut self, site: &Site, now: Instant) -> Next {
        if self.answer.is_none() {
            match self.ask(site) {
                Ok(Some(answer)) => self.answer = Some(answer),
                Ok(None) => return Next::Waits,
                Err(()) => return Next::Ends,
            }
        }
        let Some(answer) = &self.answer else { return Next::Ends };
        if self.sent < answer.len() {
            while let Some(rest) = answer.get(self.sent..).filter(|rest| !rest.is_empty()) {
                match self.stream.write(rest) {
                    Ok(count) => self.sent += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Waits,
                    Err(_) => return Next::Ends,
                }
            }
            if self.stream.shutdown(Shutdown::Write).is_err() {
                return Next::Ends;
            }
            self.ends_at = self.ends_at.min(now + LINGER);
        }
        self.linger()
    }

    /// The answer, if it is clear what is asked.
    fn ask(&mut self, site: &Site) -> Result<Option<Vec<u8>>, ()> {
        if let Role::Agent(at) = self.role {
            // HAProxy may send a text of its own, which says nothing that the port does not say.
            site.agent_checks.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(site.line(at).into_bytes()));
        }
        let mut chunk = [0; 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(()),
                Ok(count) => self.read.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(_) => return Err(()),
            }
            let answer = match request::read(&self.read) {
                Request::Unfinished => continue,
                Request::Whole { ask, head } => site.answer(&ask).bytes(head),
                Request::Wrong(status, why) => Answer::text(status, format!("{why}\n")).bytes(false),
            };
            site.requests.fetch_add(1, Ordering::Relaxed);
            self.read = Vec::new();
            return Ok(Some(answer));
        }
    }

    /// Takes what the client still sends, until the client ends the connection too.
    fn linger(&mut self) -> Next {
        let mut chunk = [0; 1024];
        for _ in 0..16 {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Next::Ends,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Waits,
                Err(_) => return Next::Ends,
            }
        }
        Next::Ends // whoever sends so much is no client
    }
}

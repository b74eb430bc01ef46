//! The connections of agent-checks: a request, an answer, the end.

use std::{
    collections::{HashMap, VecDeque},
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    agent_checks::{self, Question, REQUEST_BYTES, Request, State, Style},
    limits,
    runtime::machine::poller::{News, Poller},
};

/// How long a connection may take, from its begin to its end.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A key without a line feed is whole if nothing follows for so long.
const QUIET: Duration = Duration::from_millis(20);

/// How many connections are looked at for one that has not asked.
const LOOKS: usize = 64;

/// The pause when there is no room, and after an error of `accept`, such as a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Connections accepted in one go.
const ACCEPTS: usize = 256;

/// What a connection says.
pub(super) enum Heard {
    /// Nothing that can be answered.
    Nothing,
    /// A whole request.
    Question(Question),
    /// These bytes, which are no request.
    Wrong(Style, Vec<u8>),
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    /// The bytes are a whole key if nothing follows until then.
    key_at: Option<Instant>,
    /// The request was read.
    is_asked: bool,
}

/// All connections, by token.
pub(super) struct Connections {
    listeners: Vec<TcpListener>,
    /// Which listeners may have connections.
    ready: Vec<bool>,
    /// The listener whose turn is next.
    turn: usize,
    /// After an error of `accept`: when to try again.
    again_at: Option<Instant>,
    all: HashMap<u64, Connection>,
    next_token: u64,
    /// Keys that become whole, and connections that end, in the order of time.
    keys: VecDeque<(Instant, u64)>,
    ends: VecDeque<(Instant, u64)>,
}

impl Connections {
    pub(super) fn new(listeners: Vec<TcpListener>) -> Connections {
        let ready = vec![true; listeners.len()];
        Connections {
            listeners,
            ready,
            turn: 0,
            again_at: None,
            all: HashMap::new(),
            next_token: 0,
            keys: VecDeque::new(),
            ends: VecDeque::new(),
        }
    }

    /// The kernel says that connections have come.
    pub(super) fn hear(&mut self, listener: u64) {
        if let Some(ready) = usize::try_from(listener).ok().and_then(|at| self.ready.get_mut(at)) {
            *ready = true;
        }
    }

    /// When something is due without news of the kernel.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let accept = self.ready.contains(&true).then(|| self.again_at.unwrap_or_else(Instant::now));
        let first = |queue: &VecDeque<(Instant, u64)>| queue.front().map(|(at, _)| *at);
        [accept, first(&self.keys), first(&self.ends)].into_iter().flatten().min()
    }

    /// One of the oldest connections that have not asked yet.
    fn silent(&mut self) -> Option<u64> {
        let all = &self.all;
        self.ends.retain(|(_, token)| all.contains_key(token));
        self.ends.iter().take(LOOKS).map(|(_, token)| *token).find(|token| !all[token].is_asked)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The next listener that may have a connection, in turns: none keeps the others waiting.
    fn next_listener(&mut self) -> Option<usize> {
        let count = self.listeners.len();
        let at = (0..count).map(|step| (self.turn + step) % count).find(|at| self.ready[*at])?;
        self.turn = at + 1;
        Some(at)
    }

    /// Accepts what waits, and gives the new tokens. At the limit, a connection that has not asked yet ends for a new one.
    pub(super) fn accept(&mut self, poller: &Poller, now: Instant) -> Vec<u64> {
        let mut new = Vec::new();
        if self.again_at.is_some_and(|at| now < at) {
            return new;
        }
        self.again_at = None;
        while new.len() < ACCEPTS
            && let Some(at) = self.next_listener()
        {
            let is_full = self.all.len() >= limits::AGENT_CONNECTIONS;
            let silent = if is_full { self.silent() } else { None };
            if is_full && silent.is_none() {
                self.again_at = Some(now + ACCEPT_PAUSE);
                return new;
            }
            let stream = match self.listeners[at].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.ready[at] = false;
                    continue;
                }
                // The peer was faster.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
                Err(error) => {
                    tracing::debug!("can not accept an agent-check: {error}");
                    self.again_at = Some(now + ACCEPT_PAUSE);
                    return new;
                }
            };
            if let Some(token) = silent {
                self.all.remove(&token);
            }
            let token = self.next_token;
            let watched = stream.set_nonblocking(true).is_ok() && poller.add(&stream, token, News::INTEREST).is_ok();
            if !watched {
                continue; // it is closed
            }
            self.next_token += 1;
            let ends_at = now + TIMEOUT;
            let connection = Connection { stream, read: Vec::new(), key_at: None, is_asked: false };
            self.all.insert(token, connection);
            self.ends.push_back((ends_at, token));
            new.push(token);
        }
        new
    }

    /// The connections with a key that is whole now; those whose time is over end.
    pub(super) fn due(&mut self, now: Instant) -> Vec<u64> {
        while let Some((_, token)) = self.ends.pop_front_if(|(at, _)| *at <= now) {
            self.all.remove(&token);
        }
        let mut due = Vec::new();
        while let Some((at, token)) = self.keys.pop_front_if(|(at, _)| *at <= now) {
            // Bytes that came later have another entry.
            due.extend(self.all.get(&token).is_some_and(|connection| connection.key_at == Some(at)).then_some(token));
        }
        // Those that have ended are not looked at again.
        if self.ends.len() > 2 * limits::AGENT_CONNECTIONS {
            let all = &self.all;
            self.ends.retain(|(_, token)| all.contains_key(token));
        }
        due
    }

    /// Reads what has come, if there is news; else the bytes are a whole key.
    pub(super) fn read(&mut self, token: u64, has_news: bool, now: Instant) -> Heard {
        let Some(connection) = self.all.get_mut(&token) else { return Heard::Nothing };
        if connection.is_asked {
            return Heard::Nothing;
        }
        let mut ended = !has_news;
        let mut chunk = [0; REQUEST_BYTES];
        while has_news && connection.read.len() < REQUEST_BYTES {
            match connection.stream.read(&mut chunk) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(count) => connection.read.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.all.remove(&token);
                    return Heard::Nothing;
                }
            }
        }
        if ended && connection.read.is_empty() {
            // It asks nothing.
            self.all.remove(&token);
            return Heard::Nothing;
        }
        match agent_checks::read(&connection.read, ended) {
            Request::Unfinished { is_key } => {
                connection.key_at = is_key.then_some(now + QUIET);
                self.keys.extend(connection.key_at.map(|at| (at, token)));
                Heard::Nothing
            }
            Request::Question(question) => {
                connection.is_asked = true;
                Heard::Question(question)
            }
            Request::Wrong(style) => Heard::Wrong(style, std::mem::take(&mut connection.read)),
        }
    }

    /// Sends the answer and ends the connection. A new socket has room for an answer.
    pub(super) fn answer(&mut self, token: u64, style: Style, state: Option<State>) {
        if let Some(mut connection) = self.all.remove(&token) {
            let _ = connection.stream.write_all(&agent_checks::answer(style, state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_limit_one_that_has_not_asked_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (poller, now) = (Poller::new().unwrap(), Instant::now());
        let mut connections = Connections::new(vec![listener]);
        let mut connect = |bytes: &[u8]| {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(bytes).unwrap();
            let token = loop {
                connections.hear(0);
                if let [token] = connections.accept(&poller, now)[..] {
                    break token;
                }
            };
            while !bytes.is_empty() && !matches!(connections.read(token, true, now), Heard::Question(_)) {}
            (client, connections.all.len())
        };
        let (mut asks, _) = connect(b"web/s1\n");
        let (mut silent, _) = connect(b"");
        let rest: Vec<_> = (2..limits::AGENT_CONNECTIONS).map(|_| connect(b"")).collect();
        assert_eq!(rest.last().unwrap().1, limits::AGENT_CONNECTIONS);
        let (_newest, count) = connect(b"");
        assert_eq!(count, limits::AGENT_CONNECTIONS);
        assert_eq!(silent.read(&mut [0]).unwrap(), 0, "the oldest that has not asked has ended");
        connections.answer(0, Style::Line, Some(State::Drain));
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "drain\n");
    }
    #[test]
    fn listeners_take_turns() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        let (poller, now) = (Poller::new().unwrap(), Instant::now());
        let mut connections = Connections::new(listeners.into());
        // Connections to loopback are complete when `connect` returns.
        let many: Vec<_> = (0..100).map(|_| TcpStream::connect(addresses[0]).unwrap()).collect();
        let one = TcpStream::connect(addresses[1]).unwrap();
        let new = connections.accept(&poller, now);
        assert_eq!(new.len(), many.len() + 1);
        let second = &connections.all[&new[1]].stream;
        assert_eq!(second.peer_addr().unwrap(), one.local_addr().unwrap());
    }
}

//! Checks over TCP: the connection, the request and answer on it, and TLS in between.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, getsockname, ipproto, recv, send,
        socket_with, sockopt,
    },
};
use rustls::{ClientConnection, pki_types::ServerName};

use super::{ours, theirs};
use crate::{
    monitor::{Outcome, Reason, agent_check, http},
    roster::{AgentCheck, Check, Http, Tls},
    sasp::Endpoint,
};

/// The most encrypted bytes taken for one answer, with the handshake: certificates may be long, an answer's head is
/// not.
const TLS_BYTES: usize = 256 << 10;

/// A check over TCP.
pub(super) struct Stream {
    socket: OwnedFd,
    address: SocketAddr,
    connected: bool,
    /// The request and its answer; `None` for a check that only connects.
    talk: Option<Box<Talk>>,
}

/// A request and its answer.
struct Talk {
    /// The request; bytes from `sent` on are not sent yet.
    request: Vec<u8>,
    sent: usize,
    /// The part of the answer that has arrived, if the parser needs more.
    received: Vec<u8>,
    listener: Listener,
    tls: Option<Encryption>,
}

struct Encryption {
    member: Endpoint,
    connection: ClientConnection,
    received: usize,
}

/// The parser of the answer.
enum Listener {
    Http(Arc<Http>, http::Reader),
    Agent,
}

impl Stream {
    /// Begins to connect.
    pub(super) fn open(endpoint: &Endpoint, check: &Check) -> Result<Stream, Outcome> {
        let (port, talk) = match check {
            Check::Http(http) => (http.port.unwrap_or(endpoint.port), Some(Box::new(Talk::http(http, endpoint)?))),
            Check::Agent(agent) => (agent.port, Some(Box::new(Talk::agent(agent)))),
            Check::Tcp | Check::Icmp => (endpoint.port, None),
        };
        let address = SocketAddr::new(endpoint.ip(), port);
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(ours)?;
        // Closed with a reset.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).map_err(ours)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Stream { socket, address, connected: false, talk }),
            Err(error) => Err(ours(error)),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The events that the check waits for.
    pub(super) fn interest(&self) -> EventFlags {
        match self.talk {
            None => EventFlags::OUT | EventFlags::ET,
            Some(_) => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        }
    }

    /// Goes on after events; gives the outcome once it is known. `scratch` is for reading.
    pub(super) fn advance(&mut self, flags: EventFlags, scratch: &mut [u8]) -> Option<Outcome> {
        if !self.connected {
            if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
                match sockopt::socket_error(&self.socket) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) | Err(error) => return Some(theirs(error)),
                }
            } else if !flags.contains(EventFlags::OUT) {
                return None;
            }
            // A TCP socket connects to itself if the kernel gives it the same port that it asks for.
            if getsockname(&self.socket).ok().and_then(|own| SocketAddr::try_from(own).ok()) == Some(self.address) {
                return Some(Outcome::Failed(Reason::Refused));
            }
            self.connected = true;
        }
        match &mut self.talk {
            None => Some(Outcome::Passed),
            Some(talk) => talk.advance(self.socket.as_fd(), scratch),
        }
    }
}

impl Talk {
    fn new(listener: Listener, request: Vec<u8>) -> Talk {
        Talk { request, sent: 0, received: Vec::new(), listener, tls: None }
    }

    fn http(http: &Arc<Http>, endpoint: &Endpoint) -> Result<Talk, Outcome> {
        let mut request = Vec::with_capacity(256);
        http::request(http, endpoint, &mut request);
        let mut talk = Talk::new(Listener::Http(http.clone(), http::Reader::default()), request);
        if let Some(tls) = &http.tls {
            talk.tls = Some(Encryption::new(tls, endpoint)?);
        }
        Ok(talk)
    }

    fn agent(agent: &AgentCheck) -> Talk {
        Talk::new(Listener::Agent, agent.send.clone())
    }

    fn advance(&mut self, socket: BorrowedFd<'_>, scratch: &mut [u8]) -> Option<Outcome> {
        if self.tls.is_some() {
            return self.advance_tls(socket, scratch);
        }
        while let Some(rest @ [_, ..]) = self.request.get(self.sent..) {
            match send(socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // An agent may answer and close without having read the request.
                Err(Errno::PIPE | Errno::CONNRESET) => break,
                Err(error) => return Some(theirs(error)),
            }
        }
        loop {
            let outcome = match recv(socket, &mut *scratch, RecvFlags::empty()) {
                Ok((0, _)) => self.listen(&[], true),
                Ok((length, _)) => self.listen(scratch.get(..length).unwrap_or_default(), false),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return None,
                Err(error) => Some(theirs(error)),
            };
            if outcome.is_some() {
                return outcome;
            }
        }
    }

    fn advance_tls(&mut self, socket: BorrowedFd<'_>, scratch: &mut [u8]) -> Option<Outcome> {
        loop {
            let tls = self.tls.as_mut()?;
            if let Err(outcome) = tls.send(socket) {
                return Some(outcome);
            }
            let length = match recv(socket, &mut *scratch, RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return None,
                Err(error) => return Some(theirs(error)),
            };
            tls.received += length;
            if tls.received > TLS_BYTES {
                return Some(Outcome::Failed(Reason::Malformed));
            }
            let mut encrypted = scratch.get(..length).unwrap_or_default();
            let mut ended = length == 0;
            let mut plain = [0; 4096];
            while !encrypted.is_empty() {
                let tls = self.tls.as_mut()?;
                match tls.connection.read_tls(&mut encrypted) {
                    // Bytes after the end of TLS are not taken.
                    Ok(0) => {
                        ended = true;
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => return Some(Outcome::Failed(Reason::Malformed)),
                }
                let state = match tls.connection.process_new_packets() {
                    Ok(state) => state,
                    Err(error) => {
                        tracing::debug!(member = %tls.member, "TLS: {error}");
                        // The alert for the member, if the socket takes it.
                        let _ = tls.send(socket);
                        return Some(Outcome::Failed(Reason::Tls));
                    }
                };
                ended |= state.peer_has_closed();
                if self.sent == 0 && !tls.connection.is_handshaking() {
                    // The buffer of rustls has no limit by default, so the whole request fits.
                    self.sent = tls.connection.writer().write(&self.request).unwrap_or(0);
                }
                while let Ok(length @ 1..) = self.tls.as_mut()?.connection.reader().read(&mut plain) {
                    if let Some(outcome) = self.listen(plain.get(..length).unwrap_or_default(), false) {
                        return Some(outcome);
                    }
                }
            }
            if ended {
                return match self.tls.as_ref()?.connection.is_handshaking() {
                    true => Some(Outcome::Failed(Reason::Tls)),
                    false => self.listen(&[], true),
                };
            }
        }
    }

    /// Takes a part of the answer.
    fn listen(&mut self, part: &[u8], ended: bool) -> Option<Outcome> {
        let whole = match self.received.is_empty() {
            true => part,
            false => {
                self.received.extend_from_slice(part);
                &self.received
            }
        };
        let outcome = match &mut self.listener {
            Listener::Http(http, reader) => reader.read(whole, ended, http),
            Listener::Agent => match agent_check::read(whole, ended) {
                Ok(report) => report.map(Outcome::Agent),
                Err(reason) => Some(Outcome::Failed(reason)),
            },
        };
        if outcome.is_none() && self.received.is_empty() {
            self.received = part.to_vec();
        }
        outcome
    }
}

impl Encryption {
    fn new(tls: &Tls, endpoint: &Endpoint) -> Result<Encryption, Outcome> {
        let name = match &tls.server_name {
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| Outcome::Inconclusive(Reason::NoResources))?,
            None => ServerName::from(endpoint.ip()),
        };
        let connection = ClientConnection::new(tls.config.clone(), name);
        let connection = connection.map_err(|_| Outcome::Inconclusive(Reason::NoResources))?;
        Ok(Encryption { member: *endpoint, connection, received: 0 })
    }

    /// Sends encrypted bytes until none are left, or the socket takes no more.
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<(), Outcome> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Errno::from_io_error(&error).map_or(Outcome::Failed(Reason::Tls), theirs)),
            }
        }
        Ok(())
    }
}

/// Writes to a socket without SIGPIPE.
struct Socket<'a>(BorrowedFd<'a>);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match send(self.0, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_connected_to_itself_found_nobody() {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback can be bound");
        let address = SocketAddr::try_from(getsockname(&socket).expect("it is bound")).expect("an IP address");
        connect(&socket, &address).expect("TCP allows that");
        let mut stream = Stream { socket, address, connected: false, talk: None };
        assert_eq!(stream.advance(EventFlags::OUT, &mut []), Some(Outcome::Failed(Reason::Refused)));
    }
}

//! Checks over TCP: the connection, the request and answer on it, and TLS in between.

use std::{
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

use super::{encryption::Encryption, ours, theirs};
use crate::{
    monitor::{Outcome, Reason, TlsFault, agent_check, grpc, http, proxy_protocol},
    roster::{AgentCheck, Check, Grpc, Http, ProxyProtocol},
    sasp::Endpoint,
};

/// A check over TCP.
pub(super) struct Stream {
    socket: OwnedFd,
    address: SocketAddr,
    connected: bool,
    /// The header to send as soon as the socket is connected.
    proxy_protocol: Option<ProxyProtocol>,
    /// The request and its answer; `None` for a check that only connects.
    talk: Option<Box<Talk>>,
}

/// A request and its answer.
struct Talk {
    /// The request, and what the answer asks to send; bytes from `sent` on are not sent yet.
    request: Vec<u8>,
    sent: usize,
    /// The part of the answer that has arrived, if the parser needs more.
    received: Vec<u8>,
    listener: Listener,
    tls: Option<Encryption>,
}

/// The parser of the answer.
enum Listener {
    Http(Arc<Http>, http::Reader),
    Grpc(Arc<Grpc>, grpc::Reader),
    Agent,
}

impl Stream {
    /// Begins to connect.
    pub(super) fn open(
        endpoint: &Endpoint,
        check: &Check,
        proxy_protocol: Option<ProxyProtocol>,
    ) -> Result<Stream, Outcome> {
        // An agent has a port of its own, and as HAProxy's checks, ours begin as the agent expects.
        let proxy_protocol = proxy_protocol.filter(|_| !matches!(check, Check::Agent(_)));
        let (port, talk) = match check {
            Check::Http(http) => (http.port.unwrap_or(endpoint.port), Some(Box::new(Talk::http(http, endpoint)?))),
            Check::Grpc(grpc) => (grpc.port.unwrap_or(endpoint.port), Some(Box::new(Talk::grpc(grpc, endpoint)?))),
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
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {
                Ok(Stream { socket, address, connected: false, proxy_protocol, talk })
            }
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
            let own = getsockname(&self.socket).ok().and_then(|own| SocketAddr::try_from(own).ok());
            if own == Some(self.address) {
                return Some(Outcome::Failed(Reason::Refused));
            }
            self.connected = true;
            if let (Some(version), Some(own)) = (self.proxy_protocol, own) {
                let header = proxy_protocol::header(version, own, self.address);
                match send(&self.socket, &header, SendFlags::NOSIGNAL) {
                    Ok(sent) if sent == header.len() => {}
                    Err(error) if error != Errno::AGAIN => return Some(theirs(error)),
                    // A new socket has room for a header.
                    Ok(_) | Err(_) => return Some(Outcome::Inconclusive(Reason::NoResources)),
                }
            }
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

    fn grpc(grpc: &Arc<Grpc>, endpoint: &Endpoint) -> Result<Talk, Outcome> {
        let mut request = Vec::with_capacity(512);
        grpc::request(grpc, endpoint, &mut request);
        let mut talk = Talk::new(Listener::Grpc(grpc.clone(), grpc::Reader::default()), request);
        if let Some(tls) = &grpc.tls {
            talk.tls = Some(Encryption::new(tls, endpoint)?);
        }
        Ok(talk)
    }

    fn agent(agent: &AgentCheck) -> Talk {
        Talk::new(Listener::Agent, agent.send.clone())
    }

    fn advance(&mut self, socket: BorrowedFd<'_>, scratch: &mut [u8]) -> Option<Outcome> {
        loop {
            if let Err(outcome) = self.send(socket) {
                return Some(outcome);
            }
            let length = match recv(socket, &mut *scratch, RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return None,
                Err(error) => return Some(theirs(error)),
            };
            let part = scratch.get(..length).unwrap_or_default();
            let outcome = match self.tls {
                Some(_) => self.decrypt(socket, part),
                None => self.listen(part, length == 0),
            };
            if outcome.is_some() {
                return outcome;
            }
        }
    }

    /// Sends what is to be sent, until the socket takes no more.
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<(), Outcome> {
        let Some(tls) = &mut self.tls else {
            while let Some(rest @ [_, ..]) = self.request.get(self.sent..) {
                match send(socket, rest, SendFlags::NOSIGNAL) {
                    Ok(sent) => self.sent += sent,
                    Err(Errno::INTR) => {}
                    // A server may answer and close without having read the request.
                    Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => break,
                    Err(error) => return Err(theirs(error)),
                }
            }
            return Ok(());
        };
        loop {
            let rest = self.request.get(self.sent..).unwrap_or_default();
            // The buffer of rustls takes a part of a long request.
            let taken = tls.write(rest);
            self.sent += taken;
            tls.send(socket)?;
            if taken == 0 || taken == rest.len() || tls.is_blocked() {
                return Ok(());
            }
        }
    }

    /// Takes encrypted bytes; none at the end of the connection.
    fn decrypt(&mut self, socket: BorrowedFd<'_>, mut encrypted: &[u8]) -> Option<Outcome> {
        let mut ended = encrypted.is_empty();
        let mut plain = [0; 4096];
        while !encrypted.is_empty() && !ended {
            let tls = self.tls.as_mut()?;
            match tls.take(&mut encrypted) {
                Ok(end) => ended = end,
                Err(reason) => {
                    // The alert for the member, if the socket takes it.
                    let _ = tls.send(socket);
                    return Some(Outcome::Failed(reason));
                }
            }
            while let length @ 1.. = self.tls.as_mut()?.read(&mut plain) {
                if let Some(outcome) = self.listen(plain.get(..length).unwrap_or_default(), false) {
                    return Some(outcome);
                }
            }
        }
        match ended {
            true if self.tls.as_ref()?.is_handshaking() => Some(Outcome::Failed(Reason::Tls(TlsFault::Closed))),
            true => self.listen(&[], true),
            false => None,
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
            Listener::Grpc(grpc, reader) => reader.read(whole, ended, grpc, &mut self.request),
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
        let mut stream = Stream { socket, address, connected: false, proxy_protocol: None, talk: None };
        assert_eq!(stream.advance(EventFlags::OUT, &mut []), Some(Outcome::Failed(Reason::Refused)));
    }
}

//! Listening sockets: bound for every shard before serving starts; the shard accepts when its epoll set tells.

use std::{fmt, io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll::EventFlags, poll},
    io::Errno,
    net::{SocketFlags, acceptfrom_with, listen},
};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::context::Context;
use crate::{
    config::{Carries, Connections},
    runtime::machine::poller::{CHECKS, Poller},
    time::Time,
};

/// Connections that the kernel completes ahead of us; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Unsent bytes that a socket buffers. Without this limit the kernel would queue megabytes of weights for a peer that
/// reads slowly, and all of them would be old when they are read.
const UNSENT_BYTES: u32 = 128 << 10;

/// The token of a shard's first listener; the others have the tokens below.
const LAST_TOKEN: u64 = CHECKS - 1;

/// The pause of a full server, or of one without file descriptors, before it tries again.
const FULL_TICK: Duration = Duration::from_millis(20);

/// The least time between two log lines about such trouble.
pub(super) const TROUBLE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// An accepted connection that has no place in the table yet; it counts in the budget of connections.
pub(super) struct Arrival {
    pub(super) socket: OwnedFd,
    pub(super) peer: SocketAddr,
    pub(super) carries: Carries,
}

/// Binds one listening socket for each shard; the returned address has the port that was chosen for port 0.
pub(crate) fn bind(address: SocketAddr, shards: usize, limits: &Connections) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    // The first socket is bound as if it were the only one: with SO_REUSEPORT from the start, a second daemon of
    // the same user would silently get a part of the first one's connections.
    let first = socket(address, limits)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?.as_socket().expect("an IP socket has an IP address");
    let mut sockets = vec![first];
    for _ in 1..shards {
        let other = socket(address, limits)?;
        other.set_reuse_port(true)?;
        other.bind(&bound.into())?;
        sockets.push(other);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok((bound, sockets.into_iter().map(OwnedFd::from).collect()))
}

/// Adds to sockets that another process has bound, all to one address, so many that each shard has one. They get this
/// process's options. The new ones do not listen yet: what waits at a socket is lost if this process does not serve.
pub(crate) fn complete(
    taken: Vec<OwnedFd>,
    shards: usize,
    limits: &Connections,
) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    let mut sockets: Vec<Socket> = taken.into_iter().map(Socket::from).collect();
    let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
    let bound = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    sockets.iter().try_for_each(|socket| set_options(socket, limits))?;
    while sockets.len() < shards {
        let other = socket(bound, limits)?;
        other.set_reuse_port(true)?;
        other.bind(&bound.into())?;
        sockets.push(other);
    }
    Ok((bound, sockets.into_iter().map(OwnedFd::from).collect()))
}

/// Accepted connections inherit all of these options, which saves a few system calls for each.
fn socket(address: SocketAddr, limits: &Connections) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    set_options(&socket, limits)?;
    Ok(socket)
}

/// The options that a flag may change from one process to the next, too.
fn set_options(socket: &Socket, limits: &Connections) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    // A peer whose machine is gone acknowledges nothing. While the socket buffers all our bytes only the kernel sees
    // this, and ends the connection after this time. The time also limits keepalive, which must get its three probes.
    let mut unacknowledged = limits.stall_timeout;
    socket.set_keepalive(limits.keepalive.is_some())?;
    if let Some(idle) = limits.keepalive {
        let interval = (idle / 3).max(Duration::from_secs(1));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(3))?;
        unacknowledged = unacknowledged.max(idle + interval * 3);
    }
    socket.set_tcp_user_timeout(Some(unacknowledged))
}

/// A listening socket of a shard.
pub(crate) struct Listener {
    socket: OwnedFd,
    carries: Carries,
    /// Connections may wait.
    ready: bool,
    /// After trouble: when to try again.
    again_at: Option<Time>,
    quiet_until: Time,
}

impl Listener {
    pub(crate) fn new(socket: OwnedFd, carries: Carries) -> Listener {
        Listener { socket, carries, ready: false, again_at: None, quiet_until: Time::default() }
    }

    /// Has the epoll set tell of this listener, the shard's `index`th; see [`Listener::index`].
    pub(crate) fn watch(&self, index: usize, poller: &Poller) -> io::Result<()> {
        Ok(poller.add(&self.socket, LAST_TOKEN - index as u64, EventFlags::IN | EventFlags::ET)?)
    }

    /// Begins to listen, if the socket does not.
    pub(super) fn listen(&self) -> io::Result<()> {
        Ok(listen(&self.socket, BACKLOG)?)
    }

    /// Closes this process's descriptor of the socket. Another process may have one, so the epoll set is told.
    pub(super) fn close(self, poller: &Poller) {
        poller.remove(&self.socket);
    }

    /// Which listener an event is of, if it is of one. Connections have lower tokens.
    pub(super) fn index(token: u64) -> Option<usize> {
        LAST_TOKEN.checked_sub(token).and_then(|index| usize::try_from(index).ok())
    }

    /// The kernel says that connections have come.
    pub(super) fn hear(&mut self) {
        self.ready = true;
    }

    /// When to try again, if connections may wait.
    pub(super) fn next_time(&self) -> Option<Time> {
        self.again_at.filter(|_| self.ready)
    }

    /// Whether connections may wait that can be accepted now.
    pub(super) fn is_due(&self, context: &Context) -> bool {
        self.ready && self.again_at.is_none_or(|at| at <= context.now())
    }

    /// Accepts a connection, if one waits and the server has room; else it waits in the kernel's backlog.
    pub(super) fn accept(&mut self, context: &Context) -> Option<Arrival> {
        if !self.is_due(context) {
            return None;
        }
        self.again_at = None;
        loop {
            if !context.shared.connections.take(1) {
                let mut wanted = [PollFd::new(&self.socket, PollFlags::IN)];
                self.ready = !matches!(poll(&mut wanted, Some(&Timespec::default())), Ok(0));
                if self.ready {
                    let limit = context.limits.max;
                    self.rest(context, format_args!("--max-connections {limit} are open: more wait unaccepted"));
                }
                return None;
            }
            let error = match acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
                    Some(peer) => return Some(Arrival { socket, peer, carries: self.carries }),
                    // A peer without an IP address does not exist on an IP socket.
                    None => Errno::CONNABORTED,
                },
                Err(error) => error,
            };
            context.shared.connections.give(1);
            match error {
                // This peer was gone before it was accepted; others may wait.
                Errno::CONNABORTED | Errno::INTR | Errno::PROTO => {}
                Errno::AGAIN => {
                    self.ready = false;
                    return None;
                }
                error => {
                    self.rest(context, format_args!("can not accept connections, trying again: {error}"));
                    return None;
                }
            }
        }
    }

    /// Logs trouble, and does not try again for a moment.
    fn rest(&mut self, context: &Context, trouble: fmt::Arguments<'_>) {
        let now = context.now();
        if now >= self.quiet_until {
            self.quiet_until = now + TROUBLE_LOG_INTERVAL;
            tracing::warn!(shard = context.index, "{trouble}");
        }
        self.again_at = Some(now + FULL_TICK);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::runtime::shard::shared::LIMITS;

    fn limits(stall_timeout: u64, keepalive: Option<u64>) -> Connections {
        let keepalive = keepalive.map(Duration::from_secs);
        Connections { stall_timeout: Duration::from_secs(stall_timeout), keepalive, ..LIMITS }
    }

    #[test]
    fn sockets_of_another_process_become_so_many_as_there_are_shards() {
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let (address, taken) = bind(loopback, 2, &limits(30, Some(60))).expect("loopback can be bound");
        let (bound, sockets) = complete(taken, 4, &limits(7, None)).expect("it can be bound again");
        assert_eq!((bound, sockets.len()), (address, 4));
        let sockets: Vec<Socket> = sockets.into_iter().map(Socket::from).collect();
        let listens: Vec<bool> = sockets.iter().map(|socket| socket.is_listener().expect("a socket")).collect();
        assert_eq!(listens, [true, true, false, false]);
        for socket in &sockets {
            assert!(!socket.keepalive().expect("a TCP socket"));
            assert_eq!(socket.tcp_user_timeout().expect("a TCP socket"), Some(Duration::from_secs(7)));
        }
        let taken = sockets.into_iter().map(OwnedFd::from).collect();
        let (_, sockets) = complete(taken, 1, &limits(30, Some(60))).expect("nothing is bound");
        assert_eq!(sockets.len(), 4, "none is closed");
        assert!(Socket::from(sockets.into_iter().next().expect("the first")).keepalive().expect("a TCP socket"));
    }

    #[test]
    fn what_a_vanished_machine_does_not_acknowledge_ends_its_connection() {
        for (stall, keepalive, seconds) in [(30, Some(60), 120), (300, Some(60), 300), (7, None, 7)] {
            let loopback = "127.0.0.1:0".parse().expect("an address");
            let (address, listeners) = bind(loopback, 2, &limits(stall, keepalive)).expect("loopback can be bound");
            let _peer = TcpStream::connect(address).expect("it listens");
            let accepted = listeners.iter().find_map(|listener| acceptfrom_with(listener, SocketFlags::CLOEXEC).ok());
            let (socket, _) = accepted.expect("one of the listeners has the connection");
            let socket = Socket::from(socket);
            assert_eq!(
                socket.tcp_notsent_lowat().expect("a TCP socket"),
                UNSENT_BYTES,
                "it does not buffer without end"
            );
            let timeout = socket.tcp_user_timeout().expect("a TCP socket");
            assert_eq!(timeout, Some(Duration::from_secs(seconds)), "stall {stall}, keepalive {keepalive:?}");
        }
    }
}

//! The byte stream below a client: connecting, and how long to wait.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use super::ErrorKind;

/// A byte stream: TCP, or a layer on top of it.
pub trait Transport: Read + Write + Send {
    /// How long the next reads may block; never zero.
    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()>;
    /// How long the next writes may block; never zero.
    fn set_write_timeout(&mut self, timeout: Duration) -> io::Result<()>;
    /// The socket below, to wait for its readiness; `None` if there is none.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Transport for TcpStream {
    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_read_timeout(self, Some(timeout))
    }

    fn set_write_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_write_timeout(self, Some(timeout))
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

/// The shortest time that a socket can be told to wait.
pub(super) const MOMENT: Duration = Duration::from_millis(1);

/// The time after `timeout`; a timeout that the clock can not express counts as a century.
pub(super) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 24 * 3600))
}

pub(super) fn time_left(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.max(MOMENT))
}

pub(super) fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Whether the peer has ended the connection: the peer was killed, or closed without reading all of our bytes.
pub(super) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// A TCP connection to one of the host's addresses.
pub(super) fn open(gwm: &str, deadline: Instant, timeout: Duration) -> Result<TcpStream, ErrorKind> {
    let addresses = gwm.to_socket_addrs().map_err(|error| ErrorKind::Io { doing: "resolve its name", error })?;
    connect(&addresses.collect::<Vec<_>>(), deadline, timeout)
}

/// Tries one address after the other. Each gets a share of the time, so an address that swallows packets leaves time for
/// the next.
fn connect(addresses: &[SocketAddr], deadline: Instant, timeout: Duration) -> Result<TcpStream, ErrorKind> {
    let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut last = ErrorKind::Io { doing: "resolve its name", error: none };
    for (address, to_try) in addresses.iter().zip((1..=addresses.len() as u32).rev()) {
        let Some(left) = time_left(deadline) else {
            return Err(ErrorKind::TimedOut { doing: "connect", after: timeout });
        };
        match TcpStream::connect_timeout(address, (left / to_try).max(MOMENT)).and_then(prepare) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                last = ErrorKind::TimedOut { doing: "connect", after: timeout };
            }
            Err(error) => last = ErrorKind::Io { doing: "connect", error },
        }
    }
    Err(last)
}

/// No delay for small requests; keepalive probes, because a push LB must notice that the GWM's machine is gone.
fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_may_be_endless() {
        assert!(deadline(Duration::MAX) > deadline(Duration::from_secs(3600)));
    }

    #[test]
    fn an_address_that_swallows_what_is_sent_leaves_time_for_the_next() {
        let listen = |backlog| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            socket.listen(backlog).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            (socket, address)
        };
        // Nobody accepts there, and once its queue is full Linux does not even answer.
        let (_full, swallows) = listen(0);
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&swallows, Duration::from_millis(100)) {
            waiting.push(stream);
        }
        let (_good, answers) = listen(8);
        let timeout = Duration::from_secs(2);
        let connected = |addresses: &[SocketAddr]| {
            connect(addresses, deadline(timeout), timeout).map(|stream| stream.peer_addr().unwrap())
        };
        assert_eq!(connected(&[swallows, answers]).ok(), Some(answers));
        assert_eq!(connected(&[answers, swallows]).ok(), Some(answers));
        assert!(matches!(connected(&[swallows]), Err(ErrorKind::TimedOut { doing: "connect", .. })));
    }
}

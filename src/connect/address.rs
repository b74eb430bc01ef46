//! Where a real LB listens for commands: a TCP port or a UNIX socket.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// How long one exchange may take, from connecting to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read: a table of 10,000 servers has about 1 MB.
const ANSWER_BYTES: usize = 16 << 20;

/// Where the real LB listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`
    Tcp(String),
    /// The path of a UNIX socket.
    Unix(PathBuf),
}

impl Address {
    /// `unix:PATH`, `unix@PATH` (as HAProxy has it) and a text with a `/` are paths, any other is `HOST:PORT`.
    pub fn parse(text: &str) -> Result<Address, String> {
        let path = text.strip_prefix("unix:").or_else(|| text.strip_prefix("unix@"));
        match text.rsplit_once(':') {
            _ if path.is_some_and(|path| !path.is_empty()) => Ok(Address::Unix(path.unwrap_or_default().into())),
            _ if text.contains('/') => Ok(Address::Unix(text.into())),
            Some((host, port)) if !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0) => {
                Ok(Address::Tcp(text.into()))
            }
            _ => Err(format!(
                "`{text}` is neither HOST:PORT nor a path with a `/` (a file of this folder is `./{text}`)"
            )),
        }
    }

    /// Sends a request on a connection of its own, and reads the answer until the peer closes. `ends_first`: the end of the
    /// request is told to the peer, which may wait for it.
    pub(super) fn exchange(&self, request: &str, ends_first: bool) -> io::Result<String> {
        let until = Instant::now() + TIMEOUT;
        let mut socket = self.connect()?;
        socket.write_all(request.as_bytes())?;
        if ends_first {
            socket.shutdown(Shutdown::Write)?;
        }
        let mut answer = Vec::new();
        let mut chunk = [0; 16384];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no whole answer in 5 s"));
            }
            socket.set_read_timeout(Some(left))?;
            match socket.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&chunk[..count]),
                // The loop finds that no time is left.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
            if answer.len() > ANSWER_BYTES {
                return Err(io::Error::other(format!("an answer has more than {ANSWER_BYTES} bytes")));
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The error of an exchange; if it says that nothing listens there, with the cause.
    pub(super) fn explain(error: io::Error, cause: &str) -> io::Error {
        match error.kind() {
            kind @ (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                io::Error::new(kind, format!("{error}; {cause}"))
            }
            _ => error,
        }
    }

    fn connect(&self) -> io::Result<Socket> {
        let connect = |address: &SockAddr, domain| {
            let socket = Socket::new(domain, Type::STREAM, None)?;
            // This bounds connecting to a UNIX socket, too.
            socket.set_write_timeout(Some(TIMEOUT))?;
            match domain {
                Domain::UNIX => socket.connect(address)?,
                _ => socket.connect_timeout(address, TIMEOUT)?,
            }
            Ok(socket)
        };
        match self {
            Address::Unix(path) => connect(&SockAddr::unix(path)?, Domain::UNIX),
            Address::Tcp(host) => connect_tcp(host, |address| connect(&address.into(), domain(address))),
        }
    }
}

/// Connects to the first address of HOST:PORT that takes a connection.
pub(super) fn connect_tcp<T>(host: &str, connect: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in host.to_socket_addrs()? {
        match connect(address) {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn domain(address: SocketAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host) => f.write_str(host),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_port_or_a_path() {
        for good in ["lb:8888", "[::1]:99", "/run/pen.ctl", "./pen.ctl"] {
            assert_eq!(Address::parse(good).unwrap().to_string(), good);
        }
        for (good, path) in [("unix:/run/pen.ctl", "/run/pen.ctl"), ("unix@admin.sock", "admin.sock")] {
            assert_eq!(Address::parse(good), Ok(Address::Unix(path.into())));
        }
        for bad in ["8888", ":8888", "lb", "lb:0", "lb:70000", "admin.sock", "", "unix:", "unix@"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_ends_with_the_connection() {
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::parse(&peer.local_addr().unwrap().to_string()).unwrap();
        let serve = std::thread::spawn(move || {
            let (mut stream, _) = peer.accept().unwrap();
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            stream.write_all(format!("{request}\u{ff}").as_bytes()).unwrap();
        });
        assert_eq!(address.exchange("ask\n", true).unwrap(), "ask\n\u{ff}");
        serve.join().unwrap();
        assert!(address.exchange("ask\n", true).is_err(), "nobody listens");
    }
}

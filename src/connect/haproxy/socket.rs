//! The socket of HAProxy's runtime API. One connection carries many commands; `@1` sends them through a master to its
//! newest worker.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Type};

use super::answers::{answers, excerpt};
use crate::connect::Fault;

/// How long the commands of one connection may take, from connecting to the end of the last answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read: `show servers state` of 10,000 servers has about 1 MB.
const ANSWER_BYTES: usize = 16 << 20;

/// The most bytes of commands on one connection: HAProxy takes a line of 16 kB (`tune.bufsize`).
const LINE_BYTES: usize = 8000;

/// Where HAProxy listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    address: Address,
    /// It is a master's socket; `None`: not known yet.
    is_master: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    /// `HOST:PORT`
    Tcp(String),
    /// The path of a UNIX socket.
    Unix(PathBuf),
}

impl Socket {
    /// A text with a `/` is a path, any other is `HOST:PORT`.
    pub fn parse(text: &str) -> Result<Socket, String> {
        let address = match text.rsplit_once(':') {
            _ if text.contains('/') => Address::Unix(text.into()),
            Some((host, port)) if !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0) => {
                Address::Tcp(text.into())
            }
            _ => return Err(format!("`{text}` is neither HOST:PORT nor a path with a `/`")),
        };
        Ok(Socket { address, is_master: None })
    }

    /// Sends the commands and reads the answers, one for each; an empty answer is success.
    pub(super) fn ask(&mut self, commands: &[String]) -> Result<Vec<String>, Fault> {
        let is_master = match self.is_master {
            Some(is_master) => is_master,
            None => {
                // A master does not know this command.
                let answer = self.exchange(&["show info".into()], false)?;
                answer.iter().any(|answer| answer.starts_with("Unknown command"))
            }
        };
        let mut all = Vec::with_capacity(commands.len());
        let mut rest = commands;
        while !rest.is_empty() {
            let (mut bytes, mut count) = (0, 0);
            for command in rest {
                bytes += command.len() + "@1 ;".len();
                if bytes > LINE_BYTES && count > 0 {
                    break;
                }
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            let answers = self.exchange(now, is_master)?;
            if answers.len() != now.len() {
                // A worker that is just ending, or another program.
                self.is_master = None;
                let answer = excerpt(answers.first().map_or("", |answer| answer));
                return Err(self.fault(&format!("has {} parts for {} commands: {answer}", answers.len(), now.len())));
            }
            all.extend(answers);
            rest = later;
        }
        self.is_master = Some(is_master);
        Ok(all)
    }

    /// A fault of the answer.
    pub(super) fn fault(&self, what: &str) -> Fault {
        Fault::Answer(format!("the answer of HAProxy at {self} {what}"))
    }

    fn exchange(&self, commands: &[String], is_master: bool) -> Result<Vec<String>, Fault> {
        let prefix = if is_master { "@1 " } else { "" };
        let line: Vec<String> = commands.iter().map(|command| format!("{prefix}{command}")).collect();
        let text = self.send(&format!("{}\n", line.join(";")));
        let text = text.map_err(|error| Fault::Io { what: format!("HAProxy's socket {self}"), error })?;
        answers(&text).ok_or_else(|| self.fault("ends too early"))
    }

    fn send(&self, line: &str) -> io::Result<String> {
        let until = Instant::now() + TIMEOUT;
        let mut socket = self.connect()?;
        socket.write_all(line.as_bytes())?;
        // A master closes the connection only after this.
        socket.shutdown(Shutdown::Write)?;
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

    fn connect(&self) -> io::Result<socket2::Socket> {
        let connect = |address: &SockAddr, domain| {
            let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
            // This bounds connecting to a UNIX socket, too.
            socket.set_write_timeout(Some(TIMEOUT))?;
            match domain {
                Domain::UNIX => socket.connect(address)?,
                _ => socket.connect_timeout(address, TIMEOUT)?,
            }
            Ok(socket)
        };
        match &self.address {
            Address::Unix(path) => connect(&SockAddr::unix(path)?, Domain::UNIX),
            Address::Tcp(host) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in host.to_socket_addrs()? {
                    match connect(&address.into(), domain(address)) {
                        Ok(socket) => return Ok(socket),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

fn domain(address: SocketAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(host) => f.write_str(host),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

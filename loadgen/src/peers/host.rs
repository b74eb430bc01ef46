//! A peer's server as a process: found on this machine, started on a loopback port of its own with a configuration of
//! its own, stopped by its pid.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use rustix::process::Signal;

use super::dialect::Dialect;
use crate::{
    Result,
    child::Guarded,
    files::MemoryFile,
    options::{Common, pin_process},
};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that are tried: another process may take a free one before the server does.
const TRIES: u32 = 5;

/// A server that people would use instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// nats-server
    Nats,
    /// redis-server
    Redis,
}

impl Peer {
    /// The program, which is also the name of its Debian package and of its column.
    pub(super) fn program(self) -> &'static str {
        match self {
            Peer::Nats => "nats-server",
            Peer::Redis => "redis-server",
        }
    }

    pub(super) fn dialect(self) -> Dialect {
        match self {
            Peer::Nats => Dialect::Nats,
            Peer::Redis => Dialect::Redis,
        }
    }

    /// Where the program is, if it is installed.
    pub(super) fn find(self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        // Debian has nats-server where an ordinary user's PATH does not look.
        let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")]);
        folders.map(|folder| folder.join(self.program())).find(|file| file.is_file())
    }

    /// How to install it.
    pub(super) fn missing(self) -> String {
        let program = self.program();
        format!("{program} is not installed (Debian: apt-get install {program})")
    }

    /// Its version, as it says it.
    pub(super) fn version(self) -> Result<String> {
        let program = self.find().ok_or_else(|| self.missing())?;
        let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("can not start {}: {error}", program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Its configuration: nothing on disk, and no work beside the measured work.
    fn configuration(self, port: u16) -> String {
        match self {
            Peer::Nats => format!(
                "listen: \"127.0.0.1:{port}\"\nmax_connections: 1000000\nping_interval: \"24h\"\n\
                 max_pending: 1073741824\nwrite_deadline: \"60s\"\n"
            ),
            Peer::Redis => format!(
                "bind 127.0.0.1\nport {port}\ntcp-backlog 4096\nmaxclients 1000000\nsave \"\"\nappendonly no\n\
                 daemonize no\nloglevel warning\ntimeout 0\ntcp-keepalive 0\n\
                 client-output-buffer-limit pubsub 0 0 0\n"
            ),
        }
    }
}

/// A running server.
pub(super) struct Host {
    peer: Peer,
    pub(super) address: SocketAddr,
    child: Guarded,
    _configuration: MemoryFile,
}

impl Host {
    /// Starts it and waits until it accepts connections.
    pub(super) fn start(peer: Peer, common: &Common) -> Result<Host> {
        let program = peer.find().ok_or_else(|| peer.missing())?;
        let mut last = String::new();
        for _ in 0..TRIES {
            let address = free_address()?;
            let configuration = MemoryFile::new(&peer.configuration(address.port()))?;
            let mut command = Command::new(&program);
            match peer {
                Peer::Nats => command.arg("-c").arg(configuration.path()),
                Peer::Redis => command.arg(configuration.path()),
            };
            command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child = Guarded::spawn(&mut command, peer.program())?;
            if peer == Peer::Redis {
                // One thread does its work: on the core where the floor does, and a shard of `gwm serve`.
                pin_process(child.0.id(), common.cpus(0).1)?;
            }
            let mut host = Host { peer, address, child, _configuration: configuration };
            match host.wait_for_start() {
                Ok(()) => return Ok(host),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn wait_for_start(&mut self) -> Result<()> {
        let program = self.peer.program();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.0.try_wait() {
                return Err(format!("{program} ended with {status}"));
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("{program} takes no connection on {}", self.address))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Stops it. With what status it ends is its own matter: nats-server ends with 1 when it is told to.
    pub(super) fn stop(self) -> Result<()> {
        let program = self.peer.program();
        self.child.stop(Some(Signal::TERM)).map(drop).map_err(|error| format!("{program}: {error}"))
    }
}

/// A loopback address with a free port.
fn free_address() -> Result<SocketAddr> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.map_err(|error| format!("can not find a free port: {error}"))
}

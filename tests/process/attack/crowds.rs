//! Many connections: half handshakes, idle ones, ones that send a byte per second, and handshakes at full speed.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gwm::sasp::LbFlags;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use super::{
    beside::{AWAY, Attack, OK, Row, Stage, Way},
    size,
};
use crate::{
    harness::{PATIENCE, Peer},
    site::{Site, dial, from, hello},
    wire,
};

/// The source address of a new peer.
const NEWCOMER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

/// Raises this process's limit of descriptors; returns how many of the `wanted` connections it may have.
fn descriptors(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a process may use its hard limit");
    let most = limit.maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap_or(usize::MAX));
    wanted.min(most.saturating_sub(500))
}

/// A new peer from another address must be let in.
fn newcomer(address: SocketAddr, config: &Arc<ClientConfig>) {
    let mut peer = Peer::secure(from(NEWCOMER, address), config).expect("a good certificate");
    assert_eq!(peer.set_lb("NEW", LbFlags::NONE), OK);
}

/// Opens connections with `open` and keeps them, while a new peer comes.
fn crowd(
    name: &str,
    count: usize,
    mib: u64,
    open: impl Fn(usize, SocketAddr, &Arc<ClientConfig>) -> TcpStream + Send + Sync + 'static,
) -> Row {
    let site = Site::new();
    let count = descriptors(count);
    let (all, one) = ((count + 100).to_string(), count.to_string());
    let daemon = site.start_alone(&[
        "--max-connections",
        &all,
        "--max-connections-per-source",
        &one,
        "--handshake-timeout",
        "1h",
        "--first-message-timeout",
        "1h",
        "--log-level",
        "info",
    ]);
    let (address, config) = (daemon.address(), site.client());
    let attack =
        Attack { name: format!("{count} {name}, from one address"), mib, attempts: count + 1, ..Attack::default() };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            let kept: Vec<TcpStream> = (0..count)
                .map(|number| {
                    stage.attempted(1);
                    open(number, address, &config)
                })
                .collect();
            newcomer(address, &config);
            stage.attempted(1);
            while !stage.wait(NEVER) {}
            drop(kept);
        },
        |_| "kept, at their own cost; others get in".into(),
    );
    daemon.stop();
    row
}

fn half_handshakes() -> Row {
    crowd("half TLS handshakes", size(500, 10_000), 64, |number, address, config| {
        let mut stream = from(AWAY, address);
        let hello = hello(config);
        // Half of the hellos lack their last byte; the other clients stay silent after the server's answer.
        let said = if number.is_multiple_of(2) { &hello[..hello.len() - 1] } else { &hello };
        stream.write_all(said).expect("the kernel takes bytes");
        stream
    })
}

fn idle() -> Row {
    crowd("idle connections, half of them sessions", size(1000, 10_000), 160, |number, address, config| {
        let stream = from(AWAY, address);
        if number.is_multiple_of(2) {
            let kept = stream.try_clone().expect("a descriptor");
            Peer::secure(stream, config).expect("a good certificate");
            return kept;
        }
        stream
    })
}

/// A peer that sends a byte per second.
struct Dripping {
    stream: TcpStream,
    tls: Option<ClientConnection>,
    bytes: Vec<u8>,
    sent: usize,
}

impl Dripping {
    /// A hello, the beginning of a longer hello, or a session with a request of which each record has one byte.
    fn new(number: usize, address: SocketAddr, config: &Arc<ClientConfig>) -> Dripping {
        let mut stream = from(AWAY, address);
        let (tls, bytes) = match number % 3 {
            0 => (None, hello(config)),
            1 => (None, vec![0x16, 3, 1, 0x3F, 0xFF, 1, 0, 0x3F]),
            _ => {
                let name = "localhost".try_into().expect("a name");
                let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream).expect("a good certificate");
                }
                (Some(tls), wire::lb_state(1, "SLOW", 0, LbFlags::NONE))
            }
        };
        stream.set_nonblocking(true).expect("a socket option");
        Dripping { stream, tls, bytes, sent: 0 }
    }

    /// Sends the next byte; false when the daemon has ended the connection.
    fn drip(&mut self) -> bool {
        let byte = self.bytes.get(self.sent).copied().unwrap_or(0);
        self.sent += 1;
        let sent = match &mut self.tls {
            None => self.stream.write(&[byte]),
            Some(tls) => tls.writer().write(&[byte]).and_then(|_| tls.write_tls(&mut self.stream)),
        };
        match sent {
            Ok(_) => !self.ended(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(_) => false,
        }
    }

    /// Reads all that has arrived (tickets, an alert), because the end comes after these.
    fn ended(&mut self) -> bool {
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}

fn drips() -> Row {
    let count = descriptors(size(300, 3000));
    let site = Site::new();
    let daemon = site.start_alone(&["--handshake-timeout", "2s", "--first-message-timeout", "2s"]);
    let (address, config) = (daemon.address(), site.client());
    let dropped = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&dropped);
    let attack = Attack {
        name: format!("{count} connections that send a byte a second"),
        mib: 64,
        // Some of these connections end before the legitimate peers are measured.
        attempts: 4 * count,
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage: &Stage| {
            let mut peers: Vec<_> = (0..count).map(|number| Dripping::new(number, address, &config)).collect();
            while !stage.wait(Duration::from_secs(1)) {
                for (number, peer) in peers.iter_mut().enumerate() {
                    if !peer.drip() {
                        counted.fetch_add(1, Ordering::Relaxed);
                        *peer = Dripping::new(number, address, &config);
                    }
                }
                stage.attempted(count);
            }
        },
        |_| format!("{} dropped by timeouts of 2 s, to come back", dropped.load(Ordering::Relaxed)),
    );
    assert!(dropped.load(Ordering::Relaxed) > 0, "nobody was dropped");
    daemon.wait_for_log(&["did not end within --handshake-timeout", "127.0.0.3"]);
    daemon.wait_for_log(&["--first-message-timeout", "127.0.0.3"]);
    daemon.stop();
    row
}

/// Whole handshakes, one after another, without resumption: the kind that costs the server most.
fn handshakes(limit: Option<&str>) -> Row {
    let site = Site::new();
    let mut flags = vec![];
    if let Some(limit) = limit {
        flags.extend(["--max-handshakes-per-source", limit]);
    }
    let daemon = site.start_alone(&flags);
    let (address, mut config) = (daemon.address(), (*site.client()).clone());
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let attack = Attack {
        name: match limit {
            None => "handshakes at full speed".into(),
            Some(limit) => format!("the same with `--max-handshakes-per-source {limit}`"),
        },
        mib: 32,
        threads: 4,
        attempts: 40,
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            while !stage.is_over() {
                let peer = Peer::secure(from(AWAY, address), &config).expect("a good certificate, and its turn");
                assert_ne!(peer.session().handshake_kind(), Some(HandshakeKind::Resumed));
                stage.attempted(1);
            }
        },
        |attempts| format!("{attempts} done"),
    );
    daemon.stop();
    row
}

/// Connections that open and close as fast as possible.
fn churn(limit: Option<&str>) -> Row {
    let site = Site::new();
    let flags: Vec<&str> = limit.map(|limit| vec!["--max-new-connections-per-source", limit]).unwrap_or_default();
    let daemon = site.start_alone(&flags);
    let address = daemon.address();
    let refused = Arc::new(AtomicU64::new(0));
    let refusals = Arc::clone(&refused);
    let attack = Attack {
        name: match limit {
            None => "connections that come and go".into(),
            Some(limit) => format!("the same with `--max-new-connections-per-source {limit}`"),
        },
        attempts: 2000,
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            while !stage.is_over() {
                // Bytes that are not TLS get an alert; a reset may show in any of the calls.
                let answer = dial(AWAY, address).and_then(|mut stream| {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.write_all(&wire::get_weights(1, &[]))?;
                    stream.read_exact(&mut [0])
                });
                if let Err(error) = answer {
                    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
                    refusals.fetch_add(1, Ordering::Relaxed);
                }
                stage.attempted(1);
            }
        },
        |attempts| format!("{} of {attempts} reset", refused.load(Ordering::Relaxed)),
    );
    let refused = refused.load(Ordering::Relaxed);
    assert_eq!(refused > 0, limit.is_some(), "{refused} were reset");
    daemon.stop();
    row
}

pub(crate) fn rows() -> Vec<Row> {
    vec![half_handshakes(), idle(), drips(), handshakes(None), handshakes(Some("20")), churn(None), churn(Some("500"))]
}

#[test]
fn half_handshakes_hold_nobody_up() {
    half_handshakes();
}

#[test]
fn idle_connections_cost_little() {
    idle();
}

#[test]
fn a_byte_a_second_is_not_waited_for() {
    drips();
}

#[test]
fn handshakes_at_full_speed_take_turns() {
    handshakes(None);
    handshakes(Some("20"));
}

#[test]
fn coming_and_going_is_slowed_down() {
    churn(None);
    churn(Some("500"));
}

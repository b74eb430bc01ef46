//! A flood of new connections from an address of its own, as a stranger can make who has no certificate, or much
//! time.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use rustix::process::setpriority_process;
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Result, options::pin, player::client_connection};

/// The address of the flood, which no other peer has.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How long a connection of the flood waits for the server's answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pause after a failed connection.
const REST: Duration = Duration::from_millis(1);

/// The nice value of a thread that runs when no other wants to.
const LEAST: i32 = 19;

/// The behaviour of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// They begin (the first message of a handshake, or the beginning of a SASP header) and say nothing more.
    Half,
    /// They complete the handshake, and end.
    Whole,
}

/// The parameters of the flood.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) to: SocketAddr,
    pub(crate) kind: Kind,
    /// The TLS settings, if it uses TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Connections a second, or as many as it can: half-open ones then wait for the server's answer.
    pub(crate) rate: Option<f64>,
    /// Half-open connections that are kept; the oldest is reset for the next.
    pub(crate) open: usize,
    /// The core of its thread.
    pub(crate) cpu: usize,
}

/// Counts of its connections.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections begun.
    pub(crate) made: AtomicU64,
    /// Of these, those that got the server's part of the handshake before their end.
    pub(crate) answered: AtomicU64,
    /// Connections that the server did not take, or ended.
    pub(crate) refused: AtomicU64,
}

/// A running flood.
pub(crate) struct Flood {
    pub(crate) counts: Arc<Counts>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    /// Starts the flood.
    pub(crate) fn start(plan: Plan) -> Result<Flood> {
        let (counts, end) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (counts.clone(), end.clone());
        let thread = std::thread::Builder::new().name("flood".into()).spawn(move || {
            pin(plan.cpu)?;
            // Strangers have machines of their own: here the flood gets only CPU time that nobody else needs.
            setpriority_process(None, LEAST).map_err(|error| format!("can not be nice: {error}"))?;
            plan.run(&counted, &ended).map_err(|error| format!("flood: {error}"))
        });
        let thread = thread.map_err(|error| format!("can not start a thread: {error}"))?;
        Ok(Flood { counts, end, thread })
    }

    /// Ends it, and all of its connections.
    pub(crate) fn stop(self) -> Result<()> {
        self.end.store(true, Relaxed);
        self.thread.join().map_err(|_| "the flood panicked".to_owned())?
    }
}

impl Plan {
    fn run(&self, counts: &Counts, end: &AtomicBool) -> io::Result<()> {
        let opening = self.opening()?;
        // The fastest rate is the rate of the server's answers; without TLS there are no answers.
        let waits = self.rate.is_none() && self.tls.is_some();
        let mut open: VecDeque<TcpStream> = VecDeque::new();
        let (begin, mut number) = (Instant::now(), 0.0);
        while !end.load(Relaxed) {
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(number / rate);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
            number += 1.0;
            let Ok(stream) = self.connect() else {
                counts.refused.fetch_add(1, Relaxed);
                std::thread::sleep(REST);
                continue;
            };
            counts.made.fetch_add(1, Relaxed);
            match (self.kind, &self.tls) {
                (Kind::Whole, Some(tls)) => count(counts, shake_hands(tls, stream)),
                (Kind::Whole, None) => {}
                (Kind::Half, _) => {
                    let mut stream = stream;
                    if stream.write_all(&opening).is_err() {
                        counts.refused.fetch_add(1, Relaxed);
                        continue;
                    }
                    open.push_back(stream);
                    if open.len() > self.open
                        && let Some(oldest) = open.pop_front()
                    {
                        count(counts, answered(oldest, waits));
                    }
                }
            }
        }
        open.into_iter().for_each(|stream| count(counts, answered(stream, false)));
        Ok(())
    }

    /// The bytes of a half-open connection.
    fn opening(&self) -> io::Result<Vec<u8>> {
        let mut opening = Vec::new();
        match &self.tls {
            Some(tls) => _ = client_connection(tls.clone()).map_err(io::Error::other)?.write_tls(&mut opening)?,
            None => opening.extend([0x20, 0x10, 0x00]), // SASP's first component type, and half of its length
        }
        Ok(opening)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?; // it ends by a reset, and leaves no port behind
        socket.bind(&SocketAddr::from((SOURCE, 0)).into())?;
        socket.connect_timeout(&self.to.into(), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket.into())
    }
}

fn count(counts: &Counts, result: io::Result<bool>) {
    match result {
        Ok(answered) => _ = counts.answered.fetch_add(u64::from(answered), Relaxed),
        Err(_) => _ = counts.refused.fetch_add(1, Relaxed),
    }
}

/// Whether the server has said anything, or does so while this waits; an error if it has ended the connection.
fn answered(mut stream: TcpStream, waits: bool) -> io::Result<bool> {
    stream.set_nonblocking(!waits)?;
    match stream.read(&mut [0; 64]) {
        Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// A whole handshake, as the client sees it.
fn shake_hands(tls: &Arc<ClientConfig>, mut stream: TcpStream) -> io::Result<bool> {
    let mut tls = client_connection(tls.clone()).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(true)
}

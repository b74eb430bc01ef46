//! A client of DNS that asks for the group's SRV records: one query after the other during the ticks, many at a time in
//! the time of queries.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Rcode},
    rdata::Srv,
};

use super::{Board, GROUP, Receiver};
use crate::Result;

/// The zone that the connector serves.
pub(super) const ZONE: &str = "lb.example";

/// The tick in which queries are asked as fast as they are answered.
pub(super) const FAST: u64 = u64::MAX;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes of an answer that the client takes.
const ANSWER_BYTES: u16 = 1232;

/// Asks until the run ends.
pub(super) fn ask(board: &Arc<Board>, to: SocketAddr, window: u16) -> Result<()> {
    let failed = |error: std::io::Error| format!("DNS at {to}: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
    socket.connect(to).and_then(|()| socket.set_read_timeout(Some(PATIENCE))).map_err(failed)?;
    let query = query()?;
    let places = board.members.iter().enumerate();
    let host = |ip: std::net::IpAddr| format!("ip-{}.{ZONE}", ip.to_string().replace('.', "-"));
    let places: HashMap<String, usize> = places.map(|(place, member)| (host(member.ip()), place)).collect();
    let mut client = Client { socket, query, places, open: HashMap::new(), next: 0 };
    let mut receiver = Receiver::new(board);
    let mut weights = vec![0; board.members.len()];
    while !board.stage.ended() {
        let fast = board.stage.tick() == FAST;
        while client.open.len() < if fast { window.into() } else { 1 } {
            client.send().map_err(failed)?;
        }
        let Some(answer) = client.receive().map_err(failed)? else {
            client.forget_old()?;
            continue;
        };
        if fast {
            board.answered.fetch_add(1, Relaxed);
        } else if client.read(&answer, &mut weights)? {
            receiver.has(&weights);
        }
    }
    Ok(())
}

struct Client {
    socket: UdpSocket,
    query: Vec<u8>,
    /// Members by the names of their hosts.
    places: HashMap<String, usize>,
    /// Queries without an answer, by id.
    open: HashMap<u16, Instant>,
    next: u16,
}

impl Client {
    fn send(&mut self) -> std::io::Result<()> {
        self.next = self.next.wrapping_add(1);
        self.query[..2].copy_from_slice(&self.next.to_be_bytes());
        self.socket.send(&self.query)?;
        self.open.insert(self.next, Instant::now());
        Ok(())
    }

    /// The next answer to an open query; `None`: none came.
    fn receive(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; ANSWER_BYTES.into()];
        match self.socket.recv(&mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                let id = buffer.first_chunk().map(|id| u16::from_be_bytes(*id));
                Ok(id.and_then(|id| self.open.remove(&id)).map(|_| buffer))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            // The server has closed its socket.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn forget_old(&mut self) -> Result<()> {
        let before = self.open.len();
        self.open.retain(|_, since| since.elapsed() < PATIENCE);
        if self.open.len() < before { Err("DNS did not answer a query within 5 s".into()) } else { Ok(()) }
    }

    /// Reads the weights of an answer; says whether the answer has any.
    fn read(&self, answer: &[u8], weights: &mut [u32]) -> Result<bool> {
        let wrong = |error: &dyn std::fmt::Display| format!("an answer of DNS: {error}");
        let message = Message::from_octets(answer).map_err(|error| wrong(&error))?;
        // Until the connector has the first weights.
        if message.header().rcode() == Rcode::SERVFAIL {
            return Ok(false);
        }
        if message.header().rcode() != Rcode::NOERROR || message.header().tc() {
            return Err(wrong(&"an error, or one that is too long for UDP (fewer --members)"));
        }
        weights.fill(0);
        for record in message.answer().map_err(|error| wrong(&error))?.limit_to::<Srv<_>>() {
            let record = record.map_err(|error| wrong(&error))?;
            let host = record.data().target().to_string();
            let place = *self.places.get(&host).ok_or_else(|| wrong(&format!("unknown host {host}")))?;
            weights[place] = record.data().weight().into();
        }
        Ok(true)
    }
}

/// The query, with room for an id.
fn query() -> Result<Vec<u8>> {
    let name: Name<Vec<u8>> = format!("_{GROUP}._tcp.{ZONE}").parse().map_err(|error| format!("the name: {error}"))?;
    let long = |_| "the query is too long";
    let mut question = MessageBuilder::new_vec().question();
    question.push((name, Rtype::SRV)).map_err(long)?;
    let mut additional = question.additional();
    additional
        .opt(|opt| {
            opt.set_udp_payload_size(ANSWER_BYTES);
            Ok(())
        })
        .map_err(long)?;
    Ok(additional.finish())
}

//! Signed messages to another server over TCP, and its answers.

use std::{
    io::{self, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use domain::{
    base::{
        Message, MessageBuilder, Rtype,
        iana::{Opcode, Rcode},
        message_builder::{AdditionalBuilder, PushError, TreeCompressor},
    },
    rdata::tsig::Time48,
    tsig::{ClientTransaction, Key, ValidationError},
};

use super::names::ZoneName;
use crate::connect::{Fault, address::connect_tcp};

/// For a connection, and for the answers to one batch.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many queries are sent before their answers are read: they fit in the buffers of the sockets.
const BATCH: usize = 64;

/// A message that is being written.
pub(super) type Draft = AdditionalBuilder<TreeCompressor<Vec<u8>>>;

/// The largest message: TCP has 16 bits for its length.
pub(super) const LARGEST: usize = u16::MAX as usize;

/// A server, and the key that it shares with us.
pub(super) struct Peer {
    /// HOST:PORT.
    pub(super) server: String,
    pub(super) key: Option<Key>,
}

/// A connection to the server.
pub(super) struct Exchange<'p> {
    peer: &'p Peer,
    stream: TcpStream,
    next_id: u16,
}

/// A message that was sent.
struct Sent<'p> {
    id: u16,
    transaction: Option<ClientTransaction<&'p Key>>,
}

impl Peer {
    pub(super) fn connect(&self) -> Result<Exchange<'_>, Fault> {
        let stream = self.stream().map_err(|error| self.fault("connect to", error))?;
        Ok(Exchange { peer: self, stream, next_id: 0 })
    }

    fn stream(&self) -> io::Result<TcpStream> {
        let stream = connect_tcp(&self.server, |address| TcpStream::connect_timeout(&address, TIMEOUT))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    fn fault(&self, what: &str, error: io::Error) -> Fault {
        Fault::Io { what: format!("{what} the DNS server {}", self.server), error }
    }

    /// A fault of what the server says.
    pub(super) fn answer_fault(&self, words: impl std::fmt::Display) -> Fault {
        Fault::Answer(format!("DNS server {}: {words}", self.server))
    }

    /// What the server does not like about our signature, or we about its own.
    fn signature_fault(&self, error: ValidationError, rcode: Rcode) -> Fault {
        let key = self.key.as_ref().map(|key| key.name().to_string()).unwrap_or_default();
        self.answer_fault(match error {
            ValidationError::ServerBadKey => format!(
                "it does not know the key {key}, or its rules do not let the key, or this algorithm, change these names"
            ),
            ValidationError::ServerBadSig => format!("its key {key} has another secret"),
            ValidationError::ServerBadTime { .. } | ValidationError::BadTime => {
                "its clock and ours differ too much".into()
            }
            ValidationError::ServerUnsigned if rcode != Rcode::NOERROR => {
                format!("it says {rcode}, and does not sign the answer: does it know the key {key}?")
            }
            other => format!("the answer's signature is wrong: {other}"),
        })
    }
}

impl<'p> Exchange<'p> {
    /// The answers to queries, in their order.
    pub(super) fn ask(&mut self, queries: &[(ZoneName, Rtype)]) -> Result<Vec<Vec<u8>>, Fault> {
        let mut answers = Vec::with_capacity(queries.len());
        for batch in queries.chunks(BATCH) {
            let mut bytes = Vec::new();
            let mut sent = Vec::new();
            for (name, rtype) in batch {
                let mut question = draft().question();
                question.push((name, *rtype)).expect("a question fits");
                sent.push(self.sign(question.additional(), &mut bytes).expect("a signature fits"));
            }
            answers.extend(self.round(&bytes, &sent)?);
        }
        Ok(answers)
    }

    /// The code of the answer to an update.
    pub(super) fn update(&mut self, message: Draft) -> Result<Rcode, Fault> {
        let mut bytes = Vec::new();
        let sent = self.sign(message, &mut bytes).map_err(|_| Fault::Answer(TOO_LARGE.into()))?;
        let answers = self.round(&bytes, &[sent])?;
        let message = Message::from_octets(&answers[0][..]).expect("`round` has read the header");
        Ok(message.header().rcode())
    }

    /// Appends the message with its length, signed.
    fn sign(&mut self, mut message: Draft, bytes: &mut Vec<u8>) -> Result<Sent<'p>, PushError> {
        self.next_id = self.next_id.wrapping_add(1);
        message.header_mut().set_id(self.next_id);
        let transaction = match &self.peer.key {
            Some(key) => Some(ClientTransaction::request(key, &mut message, Time48::now())?),
            None => None,
        };
        let message = message.finish().into_target();
        bytes.extend(u16::try_from(message.len()).map_err(|_| PushError::ShortBuf)?.to_be_bytes());
        bytes.extend(message);
        Ok(Sent { id: self.next_id, transaction })
    }

    /// Sends, and reads the answers; they may come in another order (RFC 7766 section 7).
    fn round(&mut self, bytes: &[u8], sent: &[Sent<'_>]) -> Result<Vec<Vec<u8>>, Fault> {
        self.stream.write_all(bytes).map_err(|error| self.peer.fault("send to", error))?;
        let deadline = Instant::now() + TIMEOUT;
        let mut answers: Vec<Option<Vec<u8>>> = vec![None; sent.len()];
        for _ in sent {
            let answer = self.receive(deadline).map_err(|error| self.peer.fault("hear from", error))?;
            let broken = || self.peer.answer_fault("an answer is broken");
            let mut message = Message::from_octets(answer).map_err(|_| broken())?;
            let header = message.header();
            let at = sent.iter().position(|sent| sent.id == header.id()).filter(|at| answers[*at].is_none());
            let at =
                at.filter(|_| header.qr()).ok_or_else(|| self.peer.answer_fault("an answer to another question"))?;
            if let Some(transaction) = &sent[at].transaction {
                let checked = transaction.answer(&mut message, Time48::now());
                checked.map_err(|error| self.peer.signature_fault(error, header.rcode()))?;
            }
            answers[at] = Some(message.into_octets());
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.fill(&mut length, deadline)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.fill(&mut message, deadline)?;
        Ok(message)
    }

    fn fill(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        super::server::read_by(&mut self.stream, buffer, deadline)
    }
}

/// Why an update can not be sent.
pub(super) const TOO_LARGE: &str = "the records do not fit in one update of 65535 bytes";

/// A message without anything.
fn draft() -> MessageBuilder<TreeCompressor<Vec<u8>>> {
    let mut builder = MessageBuilder::from_target(TreeCompressor::new(Vec::new())).expect("memory for a header");
    builder.set_push_limit(LARGEST);
    builder
}

/// An update of a zone (RFC 2136), with the records that `fill` pushes.
pub(super) fn update(
    zone: &ZoneName,
    fill: impl FnOnce(
        &mut domain::base::message_builder::AuthorityBuilder<TreeCompressor<Vec<u8>>>,
    ) -> Result<(), PushError>,
) -> Result<Draft, PushError> {
    let mut builder = draft();
    builder.header_mut().set_opcode(Opcode::UPDATE);
    let mut question = builder.question();
    question.push((zone, Rtype::SOA))?;
    let mut updates = question.authority();
    fill(&mut updates)?;
    Ok(updates.additional())
}

//! A query and the zone → an answer. No I/O, and no state.

use domain::base::{
    Message, MessageBuilder, Rtype, ToName,
    header::{Header, HeaderCounts},
    iana::{Class, Opcode, Rcode},
    message_builder::StaticCompressor,
};

use super::{
    tally,
    zone::{OPT_BYTES, Prepared, Set, Snapshot},
};

/// The longest query that is read: more than a name, EDNS and a signature need.
pub(super) const QUERY_BYTES: usize = 4096;

/// How much an answer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// What the client says, 512 bytes without its word, at most this.
    Udp {
        /// The most bytes.
        max: u16,
    },
    /// The same, and no record: the client shall ask by TCP.
    Truncated {
        /// The most bytes.
        max: u16,
    },
    /// 65535 bytes.
    Tcp,
}

/// What a client says in its OPT record (RFC 6891).
#[derive(Clone, Copy)]
struct Edns {
    payload: u16,
    version: u8,
    dnssec_ok: bool,
}

/// BADVERS has more bits than the header has room for: the upper ones stand in OPT.
const BADVERS_HIGH: u8 = 1;

/// Writes the answer to a query, and says whether there is one: nothing is sent to what is no query. `turn` is another
/// number for each query.
pub(super) fn answer(zone: &Snapshot, query: &[u8], transport: Transport, turn: usize, out: &mut Vec<u8>) -> bool {
    out.clear();
    let Ok(message) = Message::from_octets(query) else { return false };
    if message.header().qr() {
        return false; // an answer to an answer could go on for ever
    }
    let mut reply = Reply { zone, query: message, edns: None, transport, out };
    match reply.read() {
        Err(rcode) => reply.error(rcode),
        Ok((name, rtype)) => reply.answer(&name[..], rtype, turn),
    }
    true
}

/// A name on the wire, in lower case.
type Wire = domain::dep::octseq::Array<255>;

struct Reply<'a> {
    zone: &'a Snapshot,
    query: Message<&'a [u8]>,
    edns: Option<Edns>,
    transport: Transport,
    out: &'a mut Vec<u8>,
}

impl Reply<'_> {
    /// What the query asks for, or why it gets no answer.
    fn read(&mut self) -> Result<(Wire, Rtype), Rcode> {
        if self.query.header().opcode() != Opcode::QUERY {
            return Err(Rcode::NOTIMP);
        }
        let question = self.query.sole_question().map_err(|_| Rcode::FORMERR)?;
        // The answer repeats the question's bytes.
        if question.qname().is_compressed() {
            return Err(Rcode::FORMERR);
        }
        self.edns = self.read_edns()?;
        if self.edns.is_some_and(|edns| edns.version > 0) {
            return Err(Rcode::NOERROR); // with BADVERS in OPT
        }
        if !matches!(question.qclass(), Class::IN | Class::ANY) || is_transfer(question.qtype()) {
            return Err(Rcode::REFUSED);
        }
        let mut name = Wire::default();
        question.qname().compose_canonical(&mut name).map_err(|_| Rcode::FORMERR)?;
        Ok((name, question.qtype()))
    }

    fn read_edns(&self) -> Result<Option<Edns>, Rcode> {
        let mut edns = None;
        for record in self.query.additional().map_err(|_| Rcode::FORMERR)? {
            let record = record.map_err(|_| Rcode::FORMERR)?;
            if record.rtype() != Rtype::OPT {
                continue;
            }
            if edns.is_some() || !record.owner().is_root() {
                return Err(Rcode::FORMERR);
            }
            let [_, version, flags, _] = record.ttl().as_secs().to_be_bytes();
            edns = Some(Edns { payload: record.class().to_int(), version, dnssec_ok: flags & 0x80 != 0 });
        }
        Ok(edns)
    }

    fn answer(&mut self, name: &[u8], rtype: Rtype, turn: usize) {
        let zone = self.zone;
        let found = zone.find(name);
        match found {
            None => tally::add(&zone.tally.foreign),
            Some(None) => tally::add(&zone.tally.absent),
            Some(Some(node)) => match &node.tally {
                Some(counters) => counters.count(rtype),
                None => tally::add(&zone.tally.known),
            },
        }
        match found {
            None => self.error(Rcode::REFUSED),
            Some(None) => self.absence(Rcode::NXDOMAIN),
            // One set is enough for ANY (RFC 8482).
            Some(Some(node)) => match if rtype == Rtype::ANY { node.first() } else { node.set(rtype) } {
                None => self.absence(Rcode::NOERROR),
                Some(Set::Failure) => self.error(Rcode::SERVFAIL),
                Some(Set::Records(prepared)) => self.records(prepared, turn),
            },
        }
    }

    fn records(&mut self, prepared: &Prepared, turn: usize) {
        let room = self.room();
        let (question_end, answer_end) = (prepared.question_end, prepared.answer_end);
        self.out.extend_from_slice(&prepared.bytes[..question_end]);
        // The names are equal but for the case of letters, which some resolvers choose at random and compare.
        if let (Some(to), Some(from)) = (self.out.get_mut(12..), self.query.as_slice().get(12..question_end)) {
            to.copy_from_slice(from);
        }
        let counts = HeaderCounts::for_message_slice_mut(self.out);
        let mut truncated = false;
        if answer_end > room || matches!(self.transport, Transport::Truncated { .. }) {
            truncated = true;
            counts.set_ancount(0);
            counts.set_arcount(0);
        } else {
            let whole = prepared.bytes.len() <= room;
            if !whole {
                counts.set_arcount(0);
            }
            let answers = &prepared.bytes[question_end..answer_end];
            let first = prepared.turning.map_or(0, |each| turn % (answers.len() / each) * each);
            self.out.extend_from_slice(&answers[first..]);
            self.out.extend_from_slice(&answers[..first]);
            if whole {
                self.out.extend_from_slice(&prepared.bytes[answer_end..]);
            }
        }
        self.finish(Rcode::NOERROR, true, truncated);
    }

    /// The name, or the type, does not exist (RFC 2308).
    fn absence(&mut self, rcode: Rcode) {
        let zone = self.zone;
        let builder = MessageBuilder::from_target(StaticCompressor::new(std::mem::take(self.out)));
        let builder = builder.expect("memory for a header").start_answer(&self.query, rcode);
        let Ok(builder) = builder else { return self.error(Rcode::SERVFAIL) };
        let mut authority = builder.authority();
        let pushed = authority.push((&zone.zone, Class::IN, zone.ttl, &zone.soa));
        *self.out = authority.finish().into_target();
        match pushed {
            Ok(()) => self.finish(rcode, true, false),
            Err(_) => self.error(Rcode::SERVFAIL),
        }
    }

    /// An answer without records.
    fn error(&mut self, rcode: Rcode) {
        let builder = MessageBuilder::from_target(std::mem::take(self.out)).expect("memory for a header");
        *self.out = match rcode {
            // What could not be read is not repeated.
            Rcode::FORMERR | Rcode::NOTIMP => builder.finish(),
            _ => builder.start_error(&self.query, rcode).finish(),
        };
        self.finish(rcode, false, false);
    }

    fn finish(&mut self, rcode: Rcode, authoritative: bool, truncated: bool) {
        let asked = self.query.header();
        let header = Header::for_message_slice_mut(self.out);
        header.set_id(asked.id());
        header.set_opcode(asked.opcode());
        header.set_qr(true);
        header.set_aa(authoritative);
        header.set_tc(truncated);
        header.set_rd(asked.rd());
        header.set_cd(asked.cd());
        header.set_rcode(rcode);
        if let Some(edns) = self.edns {
            let counts = HeaderCounts::for_message_slice_mut(self.out);
            counts.set_arcount(counts.arcount() + 1);
            self.out.extend_from_slice(&self.opt(edns));
        }
    }

    fn opt(&self, edns: Edns) -> [u8; OPT_BYTES] {
        let [high, low] = self.largest().to_be_bytes();
        let rcode = if edns.version > 0 { BADVERS_HIGH } else { 0 };
        let flags = if edns.dnssec_ok { 0x80 } else { 0 };
        [0, 0, 41, high, low, rcode, 0, flags, 0, 0, 0]
    }

    fn largest(&self) -> u16 {
        match self.transport {
            Transport::Udp { max } | Transport::Truncated { max } => max,
            Transport::Tcp => u16::MAX,
        }
    }

    /// The bytes for all but OPT.
    fn room(&self) -> usize {
        let payload = self.edns.map_or(512, |edns| edns.payload.max(512));
        let most = match self.transport {
            Transport::Udp { max } | Transport::Truncated { max } => payload.min(max),
            Transport::Tcp => u16::MAX,
        };
        usize::from(most) - if self.edns.is_some() { OPT_BYTES } else { 0 }
    }
}

fn is_transfer(rtype: Rtype) -> bool {
    matches!(rtype, Rtype::AXFR | Rtype::IXFR)
}

#[cfg(test)]
mod tests;

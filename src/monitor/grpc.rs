//! gRPC's health protocol (`grpc.health.v1.Health/Check`) over HTTP/2 (RFC 9113): one request on one connection, and its
//! answer.
//!
//! A crate for HTTP/2 would bring a runtime of its own. A check needs the opening of a connection, two frames out, and
//! the frames of one stream in.

mod hpack;
mod huffman;

use std::net::SocketAddr;

use self::hpack::Decoder;
use super::{
    http::authority,
    orca,
    outcome::{Load, Outcome, Reason},
    protobuf::{Fields, Value},
};
use crate::{roster::Grpc, sasp::Endpoint};

/// The most bytes of an answer that are read. The window that HTTP/2 gives a server at first is about the same.
pub const ANSWER_BYTES: usize = 64 << 10;

/// The longest frame, as long as nothing else is agreed.
const FRAME_BYTES: usize = 16 << 10;

/// The longest block of header fields.
const BLOCK_BYTES: usize = 16 << 10;

/// The longest message with its prefix; the answer of the protocol has seven bytes.
const MESSAGE_BYTES: usize = 1 << 10;

/// Bytes before the payload of a frame.
const HEAD_BYTES: usize = 9;

/// The begin of a connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The only stream.
const STREAM: u32 = 1;

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// Flags of frames.
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The setting that forbids a server to open streams.
const ENABLE_PUSH: [u8; 6] = [0, 2, 0, 0, 0, 0];

/// The state of a server that can take work.
const SERVING: u64 = 1;

/// Appends the request for a member.
pub fn request(grpc: &Grpc, endpoint: &Endpoint, out: &mut Vec<u8>) {
    let secure = grpc.tls.is_some();
    let address = SocketAddr::new(endpoint.ip(), grpc.port.unwrap_or(endpoint.port));
    let host = grpc.host.clone().unwrap_or_else(|| authority(address, secure));
    let mut block = Vec::with_capacity(256);
    for (name, value) in [
        (":method", "POST"),
        (":scheme", if secure { "https" } else { "http" }),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", &host),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", concat!("gwm/", env!("CARGO_PKG_VERSION"))),
    ] {
        hpack::write(name, value.as_bytes(), &mut block);
    }
    let mut message = Vec::new();
    if !grpc.service.is_empty() {
        // Field 1 of HealthCheckRequest, a string.
        message.push(0x0A);
        let mut rest = grpc.service.len();
        while rest >= 0x80 {
            message.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        message.push(rest as u8);
        message.extend_from_slice(grpc.service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes(); // a name is short
    let message = [&[0], &length[..], &message].concat();
    out.extend_from_slice(PREFACE);
    frame(SETTINGS, 0, 0, &ENABLE_PUSH, out);
    frame(HEADERS, END_HEADERS, STREAM, &block, out);
    frame(DATA, END_STREAM, STREAM, &message, out);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes(); // at most FRAME_BYTES
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Reads an answer as it arrives.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// Where the next frame begins.
    at: usize,
    decoder: Decoder,
    /// A block of header fields whose end is missing, and whether it ends the stream.
    block: Option<(Vec<u8>, bool)>,
    /// The final head has come.
    answered: bool,
    message: Vec<u8>,
    status: Option<u16>,
    load: Option<Load>,
}

impl Reader {
    /// The outcome from all bytes of the answer so far; `None` if more bytes are needed. `bytes` must begin with the bytes
    /// of the call before. `ended`: no bytes follow. Appends what the server must get to `reply`.
    pub fn read(&mut self, bytes: &[u8], ended: bool, grpc: &Grpc, reply: &mut Vec<u8>) -> Option<Outcome> {
        // A server begins with its settings. Another protocol shows in the first bytes.
        if self.at == 0 && bytes.get(3).is_some_and(|kind| *kind != SETTINGS) {
            return Some(Outcome::Failed(Reason::NoHttp2));
        }
        loop {
            if self.at > ANSWER_BYTES {
                return Some(Outcome::Failed(Reason::Malformed));
            }
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() else { break };
            let [l0, l1, l2, kind, flags, stream @ ..] = *head;
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            if length > FRAME_BYTES {
                return Some(Outcome::Failed(Reason::Malformed));
            }
            let Some(payload) = after.get(..length) else { break };
            self.at += HEAD_BYTES + length;
            let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
            match self.frame((kind, flags, stream), payload, grpc, reply) {
                Ok(None) => {}
                Ok(Some(outcome)) => return Some(outcome),
                Err(reason) => return Some(Outcome::Failed(reason)),
            }
        }
        ended.then_some(Outcome::Failed(Reason::Closed))
    }

    fn frame(
        &mut self,
        (kind, flags, stream): (u8, u8, u32),
        payload: &[u8],
        grpc: &Grpc,
        reply: &mut Vec<u8>,
    ) -> Result<Option<Outcome>, Reason> {
        let number = |at: usize| {
            let bytes = payload.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Reason::Malformed)
        };
        // Nothing may come between the parts of a block.
        if self.block.is_some() != (kind == CONTINUATION) {
            return Err(Reason::Malformed);
        }
        match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], reply),
            PING if flags & ACK == 0 && payload.len() == 8 => frame(PING, ACK, 0, payload, reply),
            // A server that shuts down answers the streams up to the given one.
            GOAWAY if number(4)? != 0 || number(0)? < STREAM => return Err(Reason::Http2(number(4)?)),
            RST_STREAM if stream == STREAM => return Err(Reason::Http2(number(0)?)),
            PUSH_PROMISE => return Err(Reason::Malformed),
            DATA if stream == STREAM => {
                if !self.answered {
                    return Err(Reason::Malformed);
                }
                self.message.extend_from_slice(content(flags, payload).ok_or(Reason::Malformed)?);
                if self.message.len() > MESSAGE_BYTES {
                    return Err(Reason::Malformed);
                }
                if flags & END_STREAM != 0 {
                    return self.conclude().map(Some);
                }
            }
            HEADERS => {
                let mut block = content(flags, payload).ok_or(Reason::Malformed)?;
                if flags & PRIORITY != 0 {
                    block = block.get(5..).ok_or(Reason::Malformed)?;
                }
                return self.fields(block.to_vec(), (flags, flags & END_STREAM != 0, stream), grpc);
            }
            CONTINUATION => {
                let (mut block, ends) = self.block.take().ok_or(Reason::Malformed)?;
                block.extend_from_slice(payload);
                return self.fields(block, (flags, ends, stream), grpc);
            }
            // Settings that are confirmed, priorities, windows, and types of frames to come.
            _ => {}
        }
        Ok(None)
    }

    /// Takes a part of a block of header fields, or the whole of it.
    fn fields(
        &mut self,
        block: Vec<u8>,
        (flags, ends, stream): (u8, bool, u32),
        grpc: &Grpc,
    ) -> Result<Option<Outcome>, Reason> {
        if block.len() > BLOCK_BYTES || stream != STREAM {
            return Err(Reason::Malformed);
        }
        if flags & END_HEADERS == 0 {
            self.block = Some((block, ends));
            return Ok(None);
        }
        let (mut http, mut status, mut load) = (None, None, None);
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u16>().ok();
        let read = self.decoder.read(&block, |name, value| match name {
            b":status" => http = number(value),
            b"grpc-status" => status = Some(number(value)),
            name if name == orca::BINARY_HEADER.as_bytes() => load = orca::binary(value, &grpc.utilization).ok(),
            _ => {}
        });
        read.ok_or(Reason::Malformed)?;
        // A report that can not be read does not count.
        self.load = load.or(self.load);
        if let Some(status) = status {
            self.status = Some(status.ok_or(Reason::Malformed)?);
        }
        if !self.answered {
            match http.ok_or(Reason::Malformed)? {
                100..200 => return Ok(None),
                200 => self.answered = true,
                other => return Err(Reason::Status(other)),
            }
        }
        if ends { self.conclude().map(Some) } else { Ok(None) }
    }

    /// The outcome at the end of the stream.
    fn conclude(&mut self) -> Result<Outcome, Reason> {
        match self.status.ok_or(Reason::Malformed)? {
            0 => {}
            status => return Err(Reason::Grpc(status)),
        }
        let (prefix, message) = self.message.split_first_chunk::<5>().ok_or(Reason::Malformed)?;
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
            return Err(Reason::Malformed);
        }
        let mut state = 0;
        for field in Fields::new(message) {
            // Field 1 of HealthCheckResponse, an enum.
            if let (1, Value::Varint(value)) = field.map_err(|_| Reason::Malformed)? {
                state = value;
            }
        }
        match state {
            SERVING => Ok(self.load.map_or(Outcome::Passed, Outcome::Load)),
            other => Err(Reason::NotServing(other.try_into().unwrap_or(u8::MAX))),
        }
    }
}

/// A payload without its padding.
fn content(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & PADDED == 0 {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

#[cfg(test)]
mod tests;

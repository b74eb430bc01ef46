//! The entry point of `gwm decode`: hexadecimal text, raw bytes, captures.

use fastrand::Rng;
use gwm::fuzz;

use super::{mutate, protocol::stream, run};
use crate::captures::{ACK, Capture, FIN, RST, SYN};

/// A stream as hexadecimal text, as raw bytes, or in TCP segments that are lost, doubled, cut or out of order.
fn capture(rng: &mut Rng) -> Vec<u8> {
    let stream = stream(rng);
    let mut data = match rng.u8(..4) {
        0 => stream,
        1 => stream
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(rng.choice(["", " ", ":"]).unwrap())
            .into(),
        _ => segments(rng, &stream),
    };
    if rng.u8(..4) == 0 {
        mutate(rng, &mut data);
    }
    data.insert(0, rng.u8(..));
    data
}

fn segments(rng: &mut Rng, stream: &[u8]) -> Vec<u8> {
    let (client, server) = ("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:3860".parse().unwrap());
    let first = if rng.bool() { rng.u32(..) } else { u32::MAX - rng.u32(..100) };
    let mut capture = Capture::new();
    if rng.bool() {
        capture.segment(client, server, (first.wrapping_sub(1), 0), SYN, &[]);
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let end = (at + rng.usize(1..60)).min(stream.len());
        pieces.push(at..(end + rng.usize(..3)).min(stream.len()));
        if rng.u8(..8) == 0 {
            pieces.push(at..end);
        }
        at = if rng.u8(..16) == 0 { end + 3 } else { end };
    }
    for _ in 0..rng.usize(..3) {
        if pieces.len() > 1 {
            let (one, other) = (rng.usize(..pieces.len()), rng.usize(..pieces.len()));
            pieces.swap(one, other);
        }
    }
    for piece in pieces {
        let number = first.wrapping_add(piece.start as u32);
        let flags = if rng.u8(..30) == 0 { ACK | FIN } else { ACK };
        capture.segment(client, server, (number, 7), flags, &stream[piece]);
        if rng.bool() {
            let acknowledged = first.wrapping_add(rng.u32(..=stream.len() as u32));
            let flags = if rng.u8(..50) == 0 { RST } else { ACK };
            capture.segment(server, client, (7, acknowledged), flags, &[]);
        }
    }
    if rng.bool() { capture.bytes } else { capture.pcapng() }
}

#[test]
fn decode_command() {
    run(3_000, fuzz::decode_command, capture);
}

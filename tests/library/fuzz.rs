//! A short seeded run of every fuzz entry point.
//!
//! `GWM_FUZZ_ITERATIONS` makes the run longer. A failure prints its seed, and `GWM_FUZZ_SEED` runs this seed alone.

mod agent_load;

use std::{env, panic};

use fastrand::Rng;
use gwm::{
    fuzz,
    sasp::{
        ComponentType, Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Message,
        Reason, ReturnCode, SenderFlags, WeightEntry, WeightedMember, Writer, writer,
    },
};

use crate::captures::{ACK, Capture, FIN, RST, SYN};

/// Runs `entry` on the inputs that `input` makes from seeds.
fn run(iterations: u64, entry: fn(&[u8]), input: fn(&mut Rng) -> Vec<u8>) {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let iterations = number("GWM_FUZZ_ITERATIONS").unwrap_or(iterations);
    let seeds = match number("GWM_FUZZ_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = fastrand::u64(..u64::MAX - iterations);
            (first..first + iterations).collect()
        }
    };
    for seed in seeds {
        let data = input(&mut Rng::with_seed(seed));
        if let Err(fault) = panic::catch_unwind(|| entry(&data)) {
            eprintln!("seed {seed} (run again with GWM_FUZZ_SEED={seed}), input {data:02X?}");
            panic::resume_unwind(fault);
        }
    }
}

fn bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let length = rng.usize(..=max);
    (0..length).map(|_| rng.u8(..)).collect()
}

/// A well-formed message of any kind.
fn message(rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    let id = rng.u32(..);
    match rng.u8(..11) {
        0 => groups(rng, Writer::registration_request(&mut out, id, SenderFlags(id as u8)), |_, member| member),
        1 => {
            let writer = Writer::deregistration_request(&mut out, id, SenderFlags(id as u8), Reason(rng.u8(..)));
            groups(rng, writer, |_, member| member);
        }
        2 => {
            let mut writer = Writer::get_weights_request(&mut out, id);
            for _ in 0..rng.usize(..4) {
                writer.name(GroupData { lb_uid: &bytes(rng, 5), name: &bytes(rng, 5) });
            }
            writer.finish().unwrap();
        }
        3 => groups(rng, Writer::get_weights_reply(&mut out, id, ReturnCode(0), id as u16), weighted),
        4 => groups(rng, Writer::send_weights(&mut out), weighted),
        5 => {
            let (uid, health, flags) = (bytes(rng, 70), Health(rng.u8(..)), LbFlags(rng.u8(..)));
            writer::set_lb_state_request(&mut out, id, &uid, health, flags).unwrap();
        }
        6 => {
            let writer = Writer::set_member_state_request(&mut out, id, SenderFlags(id as u8));
            groups(rng, writer, |rng, member| MemberState {
                member,
                state: rng.u8(..),
                flags: MemberFlags(rng.u8(..)),
            });
        }
        other => {
            let kinds = [0x1015, 0x1025, 0x1055, 0x1065];
            writer::reply(&mut out, id, ComponentType(kinds[usize::from(other) - 7]), ReturnCode(rng.u8(..)));
        }
    }
    out
}

fn weighted<'a>(rng: &mut Rng, member: MemberData<'a>) -> WeightedMember<'a> {
    let entry = WeightEntry { state: rng.u8(..), flags: EntryFlags(rng.u8(..)), weight: rng.u16(..) };
    WeightedMember { member, entry }
}

/// Fills in a few groups. `'static`: labels come from a fixed text.
fn groups<T: gwm::sasp::Entry<'static>>(
    rng: &mut Rng,
    mut writer: Writer<'_, T>,
    entry: fn(&mut Rng, MemberData<'static>) -> T,
) {
    const LABELS: &[u8] = b"label \xFF\\\"\n\xE2\x80\xAE~";
    for _ in 0..rng.usize(..4) {
        writer.group(GroupData { lb_uid: &bytes(rng, 5), name: &bytes(rng, 5) });
        for _ in 0..rng.usize(..5) {
            let mut address = [0; 16];
            let zeros = if rng.bool() { 12 } else { 0 };
            rng.fill(&mut address[zeros..]);
            let endpoint = Endpoint { protocol: rng.u8(..), port: rng.u16(..), address };
            let label = &LABELS[..rng.usize(..=LABELS.len())];
            writer.entry(&entry(rng, MemberData { endpoint, label }));
        }
    }
    writer.finish().unwrap();
}

/// Makes a few changes at most: a bit, a byte, a 16-bit number, a piece removed, doubled or inserted.
fn mutate(rng: &mut Rng, data: &mut Vec<u8>) {
    for _ in 0..rng.usize(..4) {
        let at = rng.usize(..=data.len());
        let end = (at + rng.usize(..20)).min(data.len());
        match rng.u8(..6) {
            0 => data
                .get_mut(at..)
                .and_then(|rest| rest.first_mut())
                .into_iter()
                .for_each(|byte| *byte ^= 1 << rng.u8(..8)),
            1 => data.get_mut(at..).and_then(|rest| rest.first_mut()).into_iter().for_each(|byte| *byte = rng.u8(..)),
            2 => {
                let number = rng.choice([0_u16, 1, 4, 5, 24, 255, 256, 0x7FFF, 0xFFFF, 0x3010, 0x4011]).unwrap();
                if let Some(place) = data.get_mut(at..at + 2) {
                    place.copy_from_slice(&number.to_be_bytes());
                }
            }
            3 => drop(data.drain(at..end)),
            4 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => drop(data.splice(at..end, bytes(rng, 8))),
        }
    }
}

/// One message with changes; in half of the cases the header still states the right length.
fn broken_message(rng: &mut Rng) -> Vec<u8> {
    let mut data = message(rng);
    mutate(rng, &mut data);
    let length = (data.len() as u32).to_be_bytes();
    if let (true, Some(stated)) = (rng.bool(), data.get_mut(5..9)) {
        stated.copy_from_slice(&length);
    }
    data
}

fn stream(rng: &mut Rng) -> Vec<u8> {
    let mut data: Vec<u8> = (0..rng.usize(..5)).flat_map(|_| message(rng)).collect();
    if rng.bool() {
        mutate(rng, &mut data);
    }
    data
}

#[test]
fn framer() {
    run(5_000, fuzz::framer, |rng| [vec![rng.u8(..30), rng.u8(..)], stream(rng)].concat());
}

#[test]
fn decoder() {
    run(30_000, fuzz::decoder, broken_message);
    run(5_000, fuzz::decoder, |rng| bytes(rng, 100));
    run(5_000, fuzz::decoder, |rng| {
        let data = message(rng);
        Message::decode(&data).expect("the generator makes well-formed messages");
        data
    });
}

/// Messages of two connections, about a few names only, so that both often use the same name.
fn conversation(rng: &mut Rng) -> Vec<u8> {
    const UIDS: [&[u8]; 4] = [b"A", b"B", b"C", b""];
    const GROUPS: [&[u8]; 4] = [b"g", b"h", b"i", b""];
    let mut data = vec![rng.u8(..0x80)];
    for _ in 0..rng.usize(..12) {
        let (mut out, id) = (Vec::new(), rng.u32(..));
        let sender = SenderFlags(rng.u8(..2));
        let name = |rng: &mut Rng| {
            let uid = if rng.u8(..4) == 0 { rng.choice(UIDS).expect("a list") } else { UIDS[0] };
            GroupData { lb_uid: uid, name: rng.choice(GROUPS).expect("a list") }
        };
        let member = |rng: &mut Rng| {
            let endpoint = Endpoint::new([10, 0, 0, rng.u8(..4)].into(), 6, 80);
            MemberData { endpoint, label: [&b""[..], b"label"][usize::from(rng.bool())] }
        };
        match rng.u8(..6) {
            0 | 1 => {
                let mut writer = Writer::registration_request(&mut out, id, sender);
                for _ in 0..rng.usize(1..3) {
                    writer.group(name(rng));
                    (0..rng.usize(..4)).for_each(|_| writer.entry(&member(rng)));
                }
                writer.finish().unwrap();
            }
            2 => {
                let mut writer = Writer::deregistration_request(&mut out, id, sender, Reason(0));
                for _ in 0..rng.usize(1..3) {
                    writer.group(name(rng));
                    (0..rng.usize(..2)).for_each(|_| writer.entry(&member(rng)));
                }
                writer.finish().unwrap();
            }
            3 => {
                let mut writer = Writer::get_weights_request(&mut out, id);
                (0..rng.usize(..3)).for_each(|_| writer.name(name(rng)));
                writer.finish().unwrap();
            }
            4 => {
                let (health, flags) = (Health(rng.u8(..)), LbFlags(rng.u8(..8)));
                writer::set_lb_state_request(&mut out, id, name(rng).lb_uid, health, flags).unwrap();
            }
            _ => {
                let mut writer = Writer::set_member_state_request(&mut out, id, sender);
                writer.group(name(rng));
                for _ in 0..rng.usize(..3) {
                    let (state, flags) = (rng.u8(..4), MemberFlags(rng.u8(..2)));
                    writer.entry(&MemberState { member: member(rng), state, flags });
                }
                writer.finish().unwrap();
            }
        }
        if rng.u8(..8) == 0 {
            mutate(rng, &mut out);
        }
        let body = out.get(9..).unwrap_or_default();
        data.extend([u8::from(rng.u8(..3) == 0), body.len().min(255) as u8]);
        data.extend(body.iter().take(255));
    }
    data
}

#[test]
fn session() {
    run(5_000, fuzz::session, conversation);
    run(5_000, fuzz::session, |rng| [vec![rng.u8(0x80..)], stream(rng)].concat());
    run(2_000, fuzz::session, |rng| bytes(rng, 200));
    run(5_000, fuzz::session, |rng| {
        let (length, mut data) = (rng.u8(0x80..), broken_message(rng));
        data.insert(0, length);
        data
    });
}

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

/// Pieces of a list in random order, sometimes with a few changes.
fn pieces(rng: &mut Rng, list: &[&str], most: usize) -> Vec<u8> {
    let mut data: Vec<u8> =
        (0..rng.usize(..=most)).flat_map(|_| rng.choice(list).expect("a list").as_bytes().to_vec()).collect();
    if rng.bool() {
        mutate(rng, &mut data);
    }
    data
}

const NUMBERS: [&str; 8] = ["0", "1.5", "-1", "1e308", "1e999", "NaN", "\"7\"", "75"];

fn load_text(rng: &mut Rng) -> Vec<u8> {
    let json = rng.bool();
    let list: &[&str] = match json {
        true => &[
            "{",
            "}",
            "\"cpu_utilization\":",
            "\"rpsFractional\":",
            "\"eps\":",
            "\"named_metrics\":{\"queue\":",
            "[",
            ",",
            "null",
            "\"x\"",
            "\\",
        ],
        false => &["cpu_utilization=", "rps_fractional:", "rps=", "eps=", "named_metrics.queue=", ",", ", ", "x=", "="],
    };
    let list = [list, &NUMBERS].concat();
    let before: &[u8] = if json { b"JSON {" } else { b"TEXT " };
    [before, &pieces(rng, &list, 12), if json { b"}" } else { b"" }].concat()
}

#[test]
fn load_report() {
    run(20_000, fuzz::load_report, load_text);
    run(2_000, fuzz::load_report, |rng| [b"TEXT ".to_vec(), bytes(rng, 30)].concat());
}

/// Fields of protobuf messages, some of them within others.
fn message_of_fields(rng: &mut Rng, depth: u8) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..rng.usize(..6) {
        let (number, kind) = (rng.u8(..12), rng.choice([0, 1, 1, 2, 2, 2, 5, 3]).expect("a list"));
        data.push(number << 3 | kind);
        match kind {
            0 => data.extend(bytes(rng, 3)),
            1 => data.extend(rng.choice([0.5, -1.0, f64::NAN, 1e300, 0.0]).expect("a list").to_le_bytes()),
            2 => {
                let inner = match rng.u8(..4) {
                    0 if depth > 0 => message_of_fields(rng, depth - 1),
                    1 => b"\x0A\x05queue\x11\0\0\0\0\0\0\xE0\x3F".to_vec(),
                    _ => bytes(rng, 8),
                };
                data.push(inner.len().min(127) as u8);
                data.extend(inner);
            }
            _ => data.extend(bytes(rng, 5)),
        }
    }
    if rng.bool() {
        mutate(rng, &mut data);
    }
    data
}

/// Base64 with mistakes at times.
fn base64(rng: &mut Rng, data: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for group in data.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digits = [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize]);
        text.extend(&digits[..=group.len()]);
        text.extend(std::iter::repeat_n(b'=', if rng.u8(..8) == 0 { 0 } else { 3 - group.len() }));
    }
    if rng.u8(..4) == 0 {
        mutate(rng, &mut text);
    }
    text
}

#[test]
fn protobuf() {
    run(20_000, fuzz::protobuf, |rng| message_of_fields(rng, 2));
    run(20_000, fuzz::binary_load_report, |rng| {
        let message = message_of_fields(rng, 1);
        base64(rng, &message)
    });
}

#[test]
fn grpc_answer() {
    run(20_000, fuzz::grpc_answer, |rng| {
        let mut data = vec![rng.u8(..9)];
        data.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // the server's settings
        for _ in 0..rng.usize(..6) {
            let payload = match rng.u8(..6) {
                0 => b"\x88\0\x0Bgrpc-status\x010".to_vec(),
                1 => b"\x40\x0Bgrpc-status\x010\xBE".to_vec(),
                2 => b"\0\0\0\0\x02\x08\x01".to_vec(),
                3 => bytes(rng, 8),
                4 => vec![0; 8],
                _ => b"\0\x8A\x9A\xCA\xC8\xB5\x25\x42\x07\x31\x7F\x01\x30".to_vec(),
            };
            data.extend([0, 0, payload.len() as u8]);
            data.push(rng.choice([0, 0, 1, 1, 1, 3, 4, 6, 7, 9, 77]).expect("a list"));
            data.push(rng.choice([0, 4, 5, 5, 1, 8, 0x20]).expect("a list"));
            data.extend([0, 0, 0, u8::from(rng.u8(..8) > 0)]);
            data.extend(payload);
        }
        if rng.bool() {
            mutate(rng, &mut data);
        }
        data
    });
}

#[cfg(feature = "admin")]
#[test]
fn admin_query() {
    const WORDS: [&str; 18] = [
        "group=",
        "load_balancer=",
        "load_balancer_hex=",
        "address=",
        "port=",
        "protocol=",
        "state=",
        "limit=",
        "after=",
        "&",
        "%5Cx",
        "%FF",
        "10.0.0.1",
        "80",
        "tcp",
        "down",
        "4c",
        "1.2",
    ];
    run(20_000, fuzz::admin_query, |rng| [vec![rng.u8(..)], pieces(rng, &WORDS, 12)].concat());
    run(5_000, fuzz::admin_query, |rng| bytes(rng, 60));
}

#[cfg(feature = "admin")]
#[test]
fn admin_body() {
    const WORDS: [&str; 18] = [
        "{",
        "}",
        "\"reason\":\"r\"",
        ",",
        "\"group\":",
        "\"load_balancer\":",
        "\"load_balancer_hex\":",
        "\"address\":",
        "\"port\":",
        "\"protocol\":",
        "\"weight\":",
        "\"by\":\"me\"",
        "\"expires_in_seconds\":",
        "\"10.0.0.1\"",
        "80",
        "\"\\u0000\"",
        "null",
        "\"4c42\"",
    ];
    run(20_000, fuzz::admin_body, |rng| [vec![rng.u8(..)], pieces(rng, &WORDS, 12)].concat());
    run(5_000, fuzz::admin_body, |rng| {
        let fields = [
            "\"group\":\"web\"",
            "\"address\":\"10.0.0.1\"",
            "\"port\":80",
            "\"weight\":7",
            "\"reason\":\"r\"",
            "\"load_balancer\":\"LB1\"",
            "\"expires_in_seconds\":5",
        ];
        let chosen: Vec<&str> = fields.into_iter().filter(|_| rng.bool()).collect();
        [vec![rng.u8(..)], format!("{{{}}}", chosen.join(",")).into_bytes()].concat()
    });
}

#[test]
fn agent_answer() {
    const WORDS: [&str; 16] = [
        "up",
        "down",
        "fail",
        "stopped",
        "ready",
        "drain",
        "maint",
        "75%",
        "weight:",
        "maxconn:9",
        " ",
        ",",
        "\t",
        "#",
        "\r\n",
        "%",
    ];
    run(20_000, fuzz::agent_answer, |rng| [vec![rng.u8(..9)], pieces(rng, &WORDS, 20)].concat());
    run(500, fuzz::agent_answer, |rng| [vec![rng.u8(..)], b"up ".repeat(rng.usize(..700)), b"\n".to_vec()].concat());
}

#[test]
fn http_answer() {
    run(10_000, fuzz::http_answer, |rng| {
        let status = rng.choice(["200 OK", "100 Continue", "503 No", "2000", "99999", "x"]).expect("a list");
        let mut data = format!("HTTP/1.{} {status}\r\n", rng.u8(..3)).into_bytes();
        if rng.bool() {
            data.extend_from_slice(b"endpoint-load-metrics: ");
            data.extend(load_text(rng));
            data.extend_from_slice(b"\r\n");
        }
        const FIELDS: [&str; 4] = ["Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n", "a: b\r\n c\r\n", ""];
        data.extend_from_slice(rng.choice(FIELDS).expect("a list").as_bytes());
        if rng.bool() {
            data.extend_from_slice(b"\r\n");
        }
        const PARTS: [&str; 12] = [
            "a: b\r\n",
            "\r\n",
            "\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 103 \r\n\r\n",
            "x",
            " ",
            "ok",
            "2\r\nok\r\n",
            "0\r\n",
            "1;a",
            "o",
        ];
        data.extend(pieces(rng, &PARTS, 8));
        if rng.bool() {
            mutate(rng, &mut data);
        }
        data.insert(0, rng.u8(..9));
        data
    });
}

#[test]
fn access_file() {
    const PARTS: [&str; 30] = [
        "[[lb]]\n",
        "[[member]]\n",
        "uid = \"LB1\"\n",
        "uid = \"LB2\"\n",
        "addresses = [\"10.0.0.1\"]\n",
        "addresses = [\"10.0.0.0/8\", \"::1\"]\n",
        "sources = [\"10.0.0.1\",\n\"2001:db8::/32\"]\n",
        "certificates = [\"a.example\"]\n",
        "certificates = [\"sha256:",
        "00",
        "\"]\n",
        "may = [\"register\", \"state\"]\n",
        "may = []\n",
        "lbs = [\"LB*\"]\n",
        "groups = [\"W?B\"]\n",
        "groups = [",
        "]",
        "\"",
        "\\u00e9",
        "# \n",
        "\n",
        "=",
        "{ uid = \"x\" }",
        "lb = ",
        "member.sources",
        "/",
        "*",
        "-1",
        "'''",
        "\t",
    ];
    run(10_000, fuzz::access_file, |rng| [vec![rng.u8(..)], pieces(rng, &PARTS, 12)].concat());
    // Files with nothing wrong but addresses.
    run(5_000, fuzz::access_file, |rng| {
        let mut file = vec![4]; // both identities are source addresses
        for _ in 0..rng.u8(..6) {
            let length = rng.u32(..34);
            let address = std::net::Ipv4Addr::from_bits(rng.u32(..) & !(u64::from(u32::MAX) >> length) as u32);
            let text = match rng.bool() {
                true => format!("[[lb]]\nuid = \"LB{length}\"\naddresses = [\"{address}/{length}\"]\n"),
                false => format!("[[member]]\nsources = [\"{address}/{length}\"]\nmay = [\"state\"]\n"),
            };
            file.extend(text.bytes());
        }
        file
    });
}

#[test]
fn echo_reply() {
    run(20_000, fuzz::echo_reply, |rng| {
        let mut data = bytes(rng, 90);
        if let (true, Some(first)) = (rng.bool(), data.first_mut()) {
            *first = rng.choice([0, 0x45, 0x4F, 129]).expect("a list");
        }
        data
    });
}

#[test]
fn haproxy_answer() {
    const WORDS: [&str; 12] =
        ["1\n", "# ", "be_name ", "srv_name ", "web ", "s1 ", "10.0.0.1 ", "80 ", "\"", "\n", ";", "Pid: 7"];
    const TABLE: &[u8] = b"1\n# be_name srv_name srv_addr srv_admin_state srv_uweight srv_iweight srv_port\n\
                           web s1 10.0.0.1 0 1 1 80\nweb s2 ::1 8 0 1 81\n";
    run(20_000, fuzz::haproxy_answer, |rng| pieces(rng, &WORDS, 20));
    run(5_000, fuzz::haproxy_answer, |rng| {
        let mut table = TABLE.to_vec();
        let at = rng.usize(..table.len());
        table[at] = rng.u8(..);
        table
    });
}

#[test]
fn pen_answer() {
    const WORDS: [&str; 12] =
        ["0 ", "addr ", "10.0.0.1 ", "::1 ", "port ", "80 ", "conn 3 ", "weight ", "no ", "prio ", "-1 ", "\n"];
    const ROW: &[u8] = b"1 addr 10.0.0.1 port 80 conn 0 max 0 hard 0 weight 5 prio 0 sx 0 rx 0\n";
    run(20_000, fuzz::pen_answer, |rng| pieces(rng, &WORDS, 20));
    run(1_000, fuzz::pen_answer, |rng| {
        let mut rows = ROW.repeat(3);
        let at = rng.usize(..rows.len());
        rows[at] = rng.u8(..);
        rows
    });
}

#[test]
fn nft_listing() {
    const LISTING: &[u8] = br#"{"nftables": [{"rule": {"family": "inet", "table": "gwm", "chain": "services", "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.0.0.1"}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
        {"dnat": {"family": "ip", "addr": {"map": {"key": {"numgen": {"mode": "inc", "mod": 1, "offset": 0}},
                  "data": {"set": [[0, {"concat": ["10.1.0.1", 8080]}]]}}}}}]}}]}"#;
    const TOKENS: [&str; 12] =
        ["{}", "[", "]", "null", "\"concat\"", "70000", "-1", "\"services\"", "{", "}", ",", "1.5"];
    run(10_000, fuzz::nft_listing, |rng| {
        let mut listing = LISTING.to_vec();
        for _ in 0..rng.usize(..4) {
            let at = rng.usize(..listing.len());
            let token = rng.choice(TOKENS).expect("a list").bytes();
            listing.splice(at..(at + rng.usize(..8)).min(listing.len()), token);
        }
        listing
    });
}

#[test]
fn ipvs_answer() {
    /// An attribute, padded to four bytes.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 16).unwrap();
        let (kind, sequence) = (kind.to_ne_bytes(), 1_u32.to_ne_bytes());
        [&length.to_ne_bytes()[..], &kind, &[2, 0], &sequence, &[0; 4], body].concat()
    }

    fn datagram() -> Vec<u8> {
        let address = [&[10, 0, 0, 1][..], &[0; 12]].concat();
        let destination = [attribute(1, &address), attribute(2, &[0, 80]), attribute(4, &[7, 0, 0, 0])].concat();
        let listed = [&[5, 1, 0, 0][..], &attribute(1, &attribute(6, b"wrr\0")), &attribute(2, &destination)].concat();
        [message(30, &listed), message(30, &listed), message(3, &[0; 4])].concat()
    }

    run(10_000, fuzz::ipvs_answer, |rng| {
        let mut datagram = datagram();
        for _ in 0..rng.usize(..4) {
            let at = rng.usize(..datagram.len());
            datagram[at] = rng.u8(..);
        }
        datagram.truncate(rng.usize(..datagram.len() * 2));
        datagram
    });
}

/// Labels of names, with pointers and lengths that are wrong.
#[cfg(feature = "dns")]
fn dns_name(rng: &mut Rng, out: &mut Vec<u8>) {
    let whole: [&[u8]; 5] = [
        b"\x04_web\x04_tcp\x02lb\x07example\0",
        b"\x03WWW\x02lb\x07EXAMPLE\0",
        b"\x0bip-10-0-0-7\x02lb\x07example\0",
        b"\x02lb\x07example\0",
        b"\xC0\x0C",
    ];
    match rng.u8(..8) {
        0 => out.extend(bytes(rng, 20)),
        1 => out.push(0),
        _ => out.extend(*rng.choice(whole.iter()).expect("a list")),
    }
}

/// A message with a header, questions and records of the types that matter.
#[cfg(feature = "dns")]
fn dns_message(rng: &mut Rng, flags: [u8; 2]) -> Vec<u8> {
    let counts: [u8; 4] = [1, rng.u8(..3), rng.u8(..2), rng.u8(..3)];
    let mut data = vec![0x12, 0x34, flags[0], flags[1]];
    counts.iter().for_each(|count| data.extend([0, *count]));
    const TYPES: [u8; 9] = [1, 28, 33, 6, 2, 41, 255, 252, 250];
    dns_name(rng, &mut data);
    data.extend([0, rng.choice(TYPES).expect("a list"), 0, rng.choice([1, 1, 1, 255, 3]).expect("a list")]);
    for _ in 0..counts[1] + counts[2] + counts[3] {
        let rtype = rng.choice(TYPES).expect("a list");
        match rtype {
            41 => data.push(0),
            _ => dns_name(rng, &mut data),
        }
        data.extend([0, rtype, rng.u8(..), 1, 0, rng.u8(..2), 0, 5]);
        let mut rdata = match rtype {
            1 => vec![10, 0, 0, 7],
            28 => vec![0; 16],
            33 => vec![0, 0, 0, 7, 0, 80],
            41 => bytes(rng, 12),
            _ => Vec::new(),
        };
        if matches!(rtype, 33 | 6 | 2) {
            dns_name(rng, &mut rdata);
        }
        if rtype == 6 {
            dns_name(rng, &mut rdata);
            rdata.extend([7; 20]);
        }
        data.extend([0, rdata.len() as u8]);
        data.extend(rdata);
    }
    if rng.bool() {
        mutate(rng, &mut data);
    }
    data
}

#[cfg(feature = "dns")]
#[test]
fn dns_query() {
    run(20_000, fuzz::dns_query, |rng| {
        let flags =
            [rng.choice([0, 0, 0, 1, 0x28, 0x80]).expect("a list"), rng.choice([0, 0x10, 0x20]).expect("a list")];
        [vec![rng.u8(..)], dns_message(rng, flags)].concat()
    });
    run(5_000, fuzz::dns_query, |rng| bytes(rng, 60));
}

#[cfg(feature = "dns")]
#[test]
fn dns_answer() {
    run(20_000, fuzz::dns_answer, |rng| {
        let code = rng.choice([0, 0, 0, 0, 3, 2, 5]).expect("a list");
        let flags = [rng.choice([0x84, 0x84, 0x80, 0x86]).expect("a list"), code];
        dns_message(rng, flags)
    });
    run(5_000, fuzz::dns_answer, |rng| bytes(rng, 60));
}

#[cfg(feature = "dns")]
#[test]
fn dns_key() {
    const WORDS: [&str; 14] = [
        "key ",
        "\"gwm\" ",
        "{",
        "}",
        ";",
        "\n",
        "# ",
        "algorithm ",
        "secret ",
        "hmac-sha256",
        ":",
        "gwm",
        "AAECAw==",
        " ",
    ];
    run(20_000, fuzz::dns_key, |rng| pieces(rng, &WORDS, 12));
}

#[test]
fn agent_check_request() {
    const WORDS: [&str; 14] = [
        "GET ",
        "/load/",
        "/load?",
        "web",
        "/",
        "s1",
        "10.0.0.1:80",
        "[::1]:80",
        "%2f",
        "%",
        " HTTP/1.1",
        "\r\n",
        "\n",
        " ",
    ];
    run(20_000, fuzz::agent_check_request, |rng| pieces(rng, &WORDS, 10));
}

#[test]
fn journal_line() {
    const PIECES: [&str; 23] = [
        r#"{"kind":"gwm_state","version":2}"#,
        r#"{"kind":"verdicts","address":"10.0.0.1","protocol":6,"port":80,"by_policy":["#,
        r#"{"contact":true,"confident":true,"weight":40}"#,
        r#"{"contact":true,"confident":false,"level":7}"#,
        r#"{"kind":"load_balancer","uid":"LB1","health":127,"flags":3"#,
        r#","held_until_ms":1700000000000}"#,
        r#"{"kind":"group","load_balancer":"L\\xFF","name":"web","members":["#,
        r#"{"address":"10.0.0.1","protocol":6,"port":80,"by_lb":true}"#,
        r#"{"address":"::1","protocol":0,"port":0,"label":"a'b","by_lb":false,"state":7,"quiesced":true}"#,
        r#"{"kind":"word","number":1,"says":"quiesce","group":"web","reason":"r","by":"b","from":"f","at_ms":5}"#,
        r#"{"kind":"word","number":1,"says":"weight","weight":7,"address":"::ffff:10.0.0.1","reason":"r","by":"","#,
        r#""from":"f","at_ms":18446744073709551615,"expires_at_ms":0}"#,
        "]}",
        "}",
        ",",
        "[",
        "{",
        r#""kind":"#,
        r#""port":"#,
        "65536",
        "-1",
        "null",
        r#""\u0000""#,
    ];
    run(20_000, fuzz::journal_line, |rng| pieces(rng, &PIECES, 5));
}

#[test]
fn journal_row() {
    // Small numbers are kinds, flags and lengths.
    run(50_000, fuzz::journal_row, |rng| {
        let length = [2, 18, 21, 27, 42][rng.usize(..5)] + rng.usize(..40) * usize::from(rng.bool());
        let small = rng.bool();
        (0..length).map(|_| if small && rng.u8(..8) > 0 { rng.u8(..3) } else { rng.u8(..) }).collect()
    });
}

#[test]
fn agent_sockets() {
    const WORDS: [&str; 8] =
        ["0: 0100007F:0050", " 00000000:0000", " 01", " 0A", "00000000000000000000000001000000:0050", ":", " ", "\n"];
    run(20_000, fuzz::agent_sockets, |rng| match rng.u8(..3) {
        0 => pieces(rng, &WORDS, 10),
        1 => {
            format!("{} {}{}", rng.choice(["HTTP/1.1", "1 (a) b)"]).expect("a list"), rng.u16(..), rng.char(..)).into()
        }
        _ => {
            let mut answer = Vec::new();
            for _ in 0..rng.usize(..4) {
                let mut body = bytes(rng, 80);
                if let Some([family, state, ..]) = body.first_chunk_mut::<6>() {
                    (*family, *state) = (*rng.choice(&[2, 10, 7]).expect("a list"), rng.u8(..12));
                }
                let length =
                    (16 + body.len() as u32).saturating_add_signed(rng.i32(-1..2) * i32::from(rng.u8(..8) == 0));
                answer.extend(length.to_ne_bytes());
                answer.extend(rng.choice(&[20u16, 20, 20, 2, 3, 9]).expect("a list").to_ne_bytes());
                answer.extend([0; 10]);
                answer.extend(&body);
                answer.resize(answer.len().next_multiple_of(4), 0);
            }
            answer
        }
    });
}

#[test]
fn agent_config() {
    const WORDS: [&str; 14] = [
        "[[service]]\n",
        "group = 'web'\n",
        "group = ['a', 'b']\n",
        "lb = 'LB1'\n",
        "member = 80\n",
        "member = ['10.0.0.1:80', '[::1]:53/udp']\n",
        "member = '10.0.0.9'\n",
        "name = 'x'\n",
        "check = 'http:/'\n",
        "check_interval = '1s'\n",
        "local = '127.0.0.1:8080'\n",
        "opaque_state = 7\n",
        "on_down = 'quiesce'\n",
        "rise = 2\n",
    ];
    run(10_000, fuzz::agent_config, |rng| pieces(rng, &WORDS, 10));
}

#[test]
fn agent_question() {
    const WORDS: [&str; 10] = [
        "{\"ask\":",
        "\"status\"",
        "\"quiesce\"",
        "\"resume\"",
        ",\"service\":",
        "\"web\"",
        "null",
        ",\"reason\":",
        "}",
        "\n",
    ];
    run(20_000, fuzz::agent_question, |rng| pieces(rng, &WORDS, 10));
}

#[cfg(feature = "xds")]
#[test]
fn xds_stream() {
    const KINDS: [&str; 5] = [
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "x",
    ];
    const TEXTS: [&str; 8] = ["web", "other", "late", "*", "", "7", "8", "8.2"];
    run(20_000, fuzz::xds_stream, |rng| {
        let mut data = bytes(rng, 1);
        for _ in 0..rng.usize(..8) {
            if rng.u8(..6) == 0 {
                data.push(255);
                continue;
            }
            let delta = data.first().is_some_and(|choice| choice % 2 == 1);
            let mut request = Vec::new();
            let mut field = |number: u8, text: &str| {
                request.extend([number << 3 | 2, text.len() as u8]);
                request.extend(text.bytes());
            };
            field(if delta { 2 } else { 4 }, rng.choice(KINDS).expect("a list"));
            for _ in 0..rng.usize(..4) {
                field(rng.u8(1..8), rng.choice(TEXTS).expect("a list"));
            }
            if rng.u8(..10) == 0 {
                let at = rng.usize(..request.len());
                request[at] = rng.u8(..);
            }
            data.push(request.len() as u8);
            data.extend(request);
        }
        data
    });
}

#[cfg(feature = "xds")]
#[test]
fn xds_poll() {
    const TOKENS: [&str; 10] = [
        "{",
        "}",
        "[",
        "]",
        "\"resource_names\":",
        "\"resourceNames\":",
        "\"web\"",
        "\"version_info\":\"8\"",
        ",",
        "7",
    ];
    run(20_000, fuzz::xds_poll, |rng| pieces(rng, &TOKENS, 9));
}

//! The entry points of what a member answers to a check.

use fastrand::Rng;
use gwm::fuzz;

use super::{bytes, mutate, pieces, run};

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
fn echo_reply() {
    run(20_000, fuzz::echo_reply, |rng| {
        let mut data = bytes(rng, 90);
        if let (true, Some(first)) = (rng.bool(), data.first_mut()) {
            *first = rng.choice([0, 0x45, 0x4F, 129]).expect("a list");
        }
        data
    });
}

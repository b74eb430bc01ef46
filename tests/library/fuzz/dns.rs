//! The entry points of what DNS clients and servers send, and of key files.

use fastrand::Rng;
use gwm::fuzz;

use super::{bytes, mutate, pieces, run};

/// Labels of names, with pointers and lengths that are wrong.
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

#[test]
fn dns_query() {
    run(20_000, fuzz::dns_query, |rng| {
        let flags =
            [rng.choice([0, 0, 0, 1, 0x28, 0x80]).expect("a list"), rng.choice([0, 0x10, 0x20]).expect("a list")];
        [vec![rng.u8(..)], dns_message(rng, flags)].concat()
    });
    run(5_000, fuzz::dns_query, |rng| bytes(rng, 60));
}

#[test]
fn dns_answer() {
    run(20_000, fuzz::dns_answer, |rng| {
        let code = rng.choice([0, 0, 0, 0, 3, 2, 5]).expect("a list");
        let flags = [rng.choice([0x84, 0x84, 0x80, 0x86]).expect("a list"), code];
        dns_message(rng, flags)
    });
    run(5_000, fuzz::dns_answer, |rng| bytes(rng, 60));
}

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

//! Wrong bytes: garbage, changed records and handshakes, and everything that can be too long.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use fastrand::Rng;
use gwm::sasp::LbFlags;
use rustls::{ClientConfig, ClientConnection};

use super::beside::{AWAY, Attack, OK, Row, Way};
use crate::{
    harness::{Daemon, LB, PATIENCE, Peer},
    site::{Site, from, hello},
    wire,
};

/// Reads until the connection ends. It must end, gracefully or with a reset.
fn until_ended(mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it does not end: {error}");
    }
}

/// Changes a few bytes, or removes or inserts a piece.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len().max(1));
        let end = (at + rng.usize(..30)).min(bytes.len());
        match rng.u8(..4) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.u8(..8)),
            1 => bytes.iter_mut().skip(at).take(2).for_each(|byte| *byte = rng.u8(..)),
            2 => drop(bytes.drain(at..end)),
            _ => drop(bytes.splice(at..at, [rng.u8(..), rng.u8(..)])),
        }
    }
}

/// One connection that goes wrong: before, in or after the handshake.
fn go_wrong(address: SocketAddr, config: &Arc<ClientConfig>, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut stream = from(AWAY, address);
    let send = |mut stream: &TcpStream, bytes: &[u8]| {
        // An error is the expected end.
        let _ = stream.write_all(bytes);
    };
    match rng.u8(..4) {
        0 => {
            let mut garbage = vec![0; rng.usize(1..4000)];
            rng.fill(&mut garbage);
            garbage[0] = rng.choice([0x16, 0x14, 0x15, 0x17, 0x80, 0x20]).expect("a list");
            send(&stream, &garbage);
        }
        1 => {
            let mut first = hello(config);
            mutate(&mut rng, &mut first);
            send(&stream, &first);
        }
        _ => {
            // A session, then changed records.
            let name = "localhost".try_into().expect("a name");
            let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
            while tls.is_handshaking() {
                tls.complete_io(&mut stream).expect("a good certificate");
            }
            let request = wire::get_weights(1, &[("NOBODY", "")]);
            tls.writer().write_all(&request.repeat(rng.usize(1..20))).expect("there is room");
            let mut records = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut records).expect("memory can be written");
            }
            mutate(&mut rng, &mut records);
            send(&stream, &records);
        }
    }
    // A possible beginning of a message does not make the daemon wait.
    let _ = stream.shutdown(Shutdown::Write);
    until_ended(stream);
}

fn mutations() -> Row {
    let site = Site::new();
    let daemon = site.start_alone(&[]);
    let (address, config) = (daemon.address(), site.client());
    let attack = Attack {
        name: "garbage, changed handshakes and records".into(),
        mib: 32,
        threads: 2,
        attempts: 200,
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            let first = fastrand::u64(..u64::MAX / 2);
            for seed in (first..).take_while(|_| !stage.is_over()) {
                if let Err(fault) = catch_unwind(AssertUnwindSafe(|| go_wrong(address, &config, seed))) {
                    eprintln!("go_wrong with seed {seed}");
                    resume_unwind(fault);
                }
                stage.attempted(1);
            }
        },
        |attempts| format!("all {attempts} connections ended"),
    );
    daemon.stop();
    row
}

/// Everything that a peer can make too long, and whether the connection survives.
fn too_long() -> Vec<(&'static str, Vec<u8>, bool)> {
    let header = |length: u32| [&[0x20, 0x10, 0, 13, 1][..], &length.to_be_bytes(), &[0, 0, 0, 1]].concat();
    let registration = |groups: u16, rest: &[u8]| {
        let body = [&[0x10, 0x10, 0, 7, 1][..], &groups.to_be_bytes(), rest].concat();
        wire::raw(1, &body)
    };
    let many = |count: usize| (0..count).map(|at| format!("10.{}.{}.{}:80", at >> 16, at >> 8 & 255, at & 255));
    let many: Vec<String> = many(20_000).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let names: Vec<String> = (0..2000).map(|at| format!("G{at}")).collect();
    let groups: Vec<(&str, &str, &[&str])> = names.iter().map(|name| ("LB7", &name[..], &[][..])).collect();
    vec![
        ("a message of 2 GiB", header(i32::MAX as u32), false),
        ("a negative length", header(0x8000_0000), false),
        ("a message over the limit", header((1 << 20) + 1), false),
        ("65535 groups that are not there", registration(u16::MAX, &[]), true),
        ("65535 members that are not there", registration(1, &[0x40, 0x10, 0, 6, 0xFF, 0xFF]), true),
        ("a TLV of 64 KiB", registration(1, &[0x40, 0x10, 0xFF, 0xFF, 0, 0]), true),
        ("a UID of 65 bytes", wire::lb_state(1, &"U".repeat(65), 0, LbFlags::NONE), true),
        ("a UID of 255 bytes", wire::lb_state(1, &"U".repeat(255), 0, LbFlags::NONE), true),
        ("more members than a group may have", wire::registration(1, LB, &[("LB7", "G", &many)]), true),
        ("more groups than a load balancer may have", wire::registration(1, LB, &groups), true),
    ]
}

fn long_messages() -> Row {
    let site = Site::new();
    let daemon = site.start_alone(&["--max-members-per-group", "10000"]);
    let (address, config) = (daemon.address(), site.client());
    let cases = too_long();
    let attack = Attack {
        name: "oversized messages, counts and names".into(),
        mib: 64,
        attempts: 2 * cases.len(),
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            while !stage.is_over() {
                for (what, bytes, survives) in &cases {
                    let mut peer = Peer::secure(from(AWAY, address), &config).expect("a good certificate");
                    if *survives {
                        let code = wire::code(&peer.ask(bytes));
                        assert_ne!(code, OK, "{what}");
                        assert_eq!(wire::code(&peer.ask(&wire::raw(2, &[0x10, 0x50, 0, 4]))).0, 0x10, "{what}");
                    } else {
                        peer.send(bytes);
                        peer.expect_end();
                    }
                    stage.attempted(1);
                }
            }
        },
        |attempts| format!("all {attempts} refused or ended"),
    );
    daemon.stop();
    row
}

/// Records and handshake messages that state too great a length, before the peer has proved anything.
#[test]
fn long_records_are_not_waited_for() {
    let site = Site::new();
    let daemon = site.start_alone(&["--handshake-timeout", "1h"]);
    let before = daemon.resident_kib();
    // A record of 64 KiB; a hello of 16 MiB in records of a permitted length.
    let record = [&[0x16, 3, 1, 0xFF, 0xFF][..], &[0; 70_000]].concat();
    let mut hello = Vec::new();
    for part in 0..1024 {
        hello.extend([0x16, 3, 3, 0x40, 0]);
        hello.extend(if part == 0 { [1, 0xFF, 0xFF, 0xFF] } else { [0; 4] });
        hello.extend([0; 0x4000 - 4]);
    }
    for bytes in [record, hello] {
        for _ in 0..10 {
            let stream = from(AWAY, daemon.address());
            // The alert comes long before all of these bytes are sent.
            let _ = (&stream).write_all(&bytes);
            until_ended(stream);
        }
    }
    let after = daemon.resident_kib();
    assert!(after < before + 8192, "{before} KiB grew to {after} KiB");
    daemon.stop();
}

/// The same without TLS, where the framing sees every byte.
#[test]
fn a_plain_listener_bears_it_too() {
    let daemon = Daemon::start(&["--max-members-per-group", "10000"]);
    for (what, bytes, survives) in too_long() {
        let mut peer = Peer::from(from(AWAY, daemon.address()));
        if survives {
            assert_ne!(wire::code(&peer.ask(&bytes)), OK, "{what}");
        } else {
            peer.send(&bytes);
            peer.expect_end();
        }
    }
    daemon.stop();
}

pub(crate) fn rows() -> Vec<Row> {
    vec![mutations(), long_messages()]
}

#[test]
fn changed_bytes_again_and_again() {
    mutations();
}

#[test]
fn long_messages_again_and_again() {
    long_messages();
}

//! Random mutations of valid messages over live connections. The library's framer and session rules, which have other
//! tests, predict the answer to each mutant.

use std::{io::Write, net::SocketAddr, thread};

use fastrand::Rng;
use gwm::{
    sasp::{ComponentType, Framer, Header, LbFlags, ReturnCode, SenderFlags},
    session::{FrameAction, examine},
};

use crate::{
    harness::{Daemon, LB, MEMBER, Peer, until},
    wire,
};

const THREADS: u64 = 4;

/// How many mutants are sent at once.
const BATCH: usize = 16;

/// How much the daemon's memory may grow after the warm-up, which is a tenth of all mutants.
const GROWTH_KIB: u64 = 4 * 1024;

/// `--max-message-bytes`: small, so that a mutated length seldom makes the daemon wait for bytes that never come.
const MESSAGE_BYTES: u32 = 4096;

/// A valid message; all messages of one thread use the same few names.
fn valid(rng: &mut Rng, thread: u64) -> Vec<u8> {
    let id = rng.u32(..);
    let from = if rng.u8(..4) == 0 { MEMBER } else { LB };
    // No mutation turns one thread's UID into another thread's: that would be a takeover, and no fault.
    let letter = ["a", "b", "c", "d"].map(|letter| letter.repeat(20))[thread as usize].clone();
    let uids = [format!("0-{letter}"), format!("1-{letter}")];
    let uid = uids[usize::from(rng.u8(..8) == 0)].as_str();
    let groups = ["G", "GRP1", "a longer name"];
    let all =
        ["10.0.0.1:80", "10.0.0.2:80 label", "10.0.0.3:53/udp", "[2001:db8::1]:443", "10.0.0.9", "10.0.0.10:8080"];
    let group = *rng.choice(&groups).expect("it is not empty");
    let other = *rng.choice(&groups).expect("it is not empty");
    let count = rng.usize(..=all.len());
    let members: Vec<&str> = rng.choose_multiple(all, count);
    let flags = LbFlags(rng.u8(..8));
    match rng.u8(..8) {
        0 | 1 => wire::registration(id, from, &[(uid, group, &members), (uid, other, &[])]),
        2 => wire::deregistration(id, from, &[(uid, group, &members)]),
        3 => wire::deregistration(id, from, &[(uid, if rng.bool() { "" } else { group }, &[])]),
        4 => wire::get_weights(id, &[(uid, group)]),
        5 => wire::get_weights(id, &[(uid, "")]),
        6 => wire::lb_state(id, uid, rng.u8(..), flags),
        _ => {
            let states: Vec<(&str, u8, bool)> =
                members.iter().map(|member| (*member, rng.u8(..), rng.bool())).collect();
            wire::member_state(id, from, &[(uid, group, &states)])
        }
    }
}

/// Changes a valid message in one to three places; mostly the header then states the new length.
fn mutant(rng: &mut Rng, thread: u64) -> Vec<u8> {
    let mut bytes = valid(rng, thread);
    for _ in 0..rng.u8(1..=3) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(..bytes.len());
        let end = (at + rng.usize(1..=8)).min(bytes.len());
        match rng.u8(..9) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = rng.u8(..),
            2 => bytes[at] = *rng.choice(&[0, 1, 0x7F, 0x80, 0xFF]).expect("it is not empty"),
            3 => bytes[at] = bytes[at].wrapping_add(1),
            4 => bytes[at] = bytes[at].wrapping_sub(1),
            5 => drop(bytes.drain(at..end)),
            6 => bytes.truncate(at),
            7 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let other = valid(rng, thread);
                let from = rng.usize(..other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
        }
    }
    if rng.u8(..4) > 0 && bytes.len() >= 9 {
        let length = bytes.len() as u32;
        bytes[5..9].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

/// What the daemon must do with bytes that begin at a message's start.
struct Expected {
    /// The replies: all bytes if the shard makes the reply, type and id otherwise.
    replies: Vec<(Option<Vec<u8>>, ComponentType, u32)>,
    /// The connection ends, or waits for more bytes that will not come.
    over: bool,
}

fn expect(bytes: &[u8]) -> Expected {
    let mut framer = Framer::new(MESSAGE_BYTES);
    let mut input = bytes;
    let mut replies = Vec::new();
    loop {
        let frame = match framer.next(&mut input) {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) => return Expected { replies, over: true },
        };
        let (header, kind) = Header::read(frame).expect("a frame has a header");
        let mut reply = Vec::new();
        match examine(frame, 60, &mut reply) {
            FrameAction::Close(_) => return Expected { replies, over: true },
            FrameAction::Refused(_) => replies.push((Some(reply), kind.reply().expect("it was replied to"), header.id)),
            FrameAction::Request(..) => replies.push((None, kind.reply().expect("a request has a reply"), header.id)),
        }
    }
    Expected { replies, over: framer.buffered() > 0 }
}

/// Sends mutants over one connection after another.
fn storm(address: SocketAddr, seed: u64, thread: u64, count: usize) {
    let mut rng = Rng::with_seed(seed ^ thread.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut peer = Peer::connect(address);
    let mut sent = 0;
    while sent < count {
        let mut bytes = Vec::new();
        for _ in 0..BATCH.min(count - sent) {
            bytes.extend(mutant(&mut rng, thread));
            sent += 1;
        }
        if let Err(fault) = try_batch(&mut peer, &bytes) {
            let us = peer.stream().local_addr().expect("a socket has an address");
            panic!(
                "seed {seed}, thread {thread}, {us}, before mutant {sent}: {fault}\nafter these bytes: {bytes:02X?}"
            );
        }
        if expect(&bytes).over {
            peer = Peer::connect(address);
        }
    }
}

fn try_batch(peer: &mut Peer, bytes: &[u8]) -> Result<(), String> {
    let expected = expect(bytes);
    // The daemon may close before it has read all bytes; the replies show whether it had a reason.
    let _ = peer.stream().write_all(bytes);
    if expected.over {
        let _ = peer.stream().shutdown(std::net::Shutdown::Write);
    }
    for (whole, kind, id) in expected.replies {
        let reply = next_reply(peer)?.ok_or_else(|| format!("the connection ended before the reply to {id}"))?;
        let (header, found) = Header::read(&reply).map_err(|error| format!("{error} in {reply:02X?}"))?;
        if whole.as_ref().is_some_and(|whole| *whole != reply) || (found, header.id) != (kind, id) {
            return Err(format!("expected {kind:?} {id} {whole:02X?}, received {reply:02X?}"));
        }
    }
    if !expected.over {
        return Ok(());
    }
    match next_reply(peer) {
        Ok(None) => Ok(()),
        Ok(Some(reply)) => Err(format!("expected the end, received {reply:02X?}")),
        Err(fault) => Err(format!("expected a graceful end: {fault}")),
    }
}

fn next_reply(peer: &mut Peer) -> Result<Option<Vec<u8>>, String> {
    loop {
        match peer.try_receive() {
            Ok(Some(message)) if wire::is_push(&message) => {}
            Ok(message) => return Ok(message),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The exchanges of a load balancer and a member, byte by byte, whatever happened before.
fn clean_session(daemon: &Daemon, uid: &str) {
    let ok = ReturnCode::SUCCESSFUL;
    let (mut lb, mut member) = (daemon.connect(), daemon.connect());
    let register = |peer: &mut Peer, from: SenderFlags, members: &[&str]| peer.register(from, uid, "CLEAN", members);
    assert_eq!(register(&mut lb, LB, &["10.9.9.1:80 label", "10.9.9.2:80"]), ok);
    assert_eq!(lb.set_lb(uid, LbFlags::TRUST | LbFlags::PUSH), ok);
    let registered = format!("{uid}/CLEAN [10.9.9.1:80 label 00/05/100, 10.9.9.2:80 00/05/100]");
    assert_eq!(lb.push(), registered);
    assert_eq!(register(&mut member, MEMBER, &["10.9.9.3:80"]), ok);
    assert_eq!(lb.push(), registered.replace(']', ", 10.9.9.3:80 00/01/100]"));
    assert_eq!(member.set_member(MEMBER, (uid, "CLEAN", "10.9.9.3:80"), 0x77, true), ok);
    let quiesced = registered.replace(']', ", 10.9.9.3:80 77/03/0]");
    assert_eq!(lb.push(), quiesced);
    assert_eq!(lb.get_weights(uid, &["CLEAN"]), quiesced);
    assert_eq!(lb.deregister(LB, uid, "", &[]), ok);
    assert_eq!(lb.get_weights(uid, &[""]), "");
}

#[test]
fn mutated_messages_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let count = number("GWM_MUTATIONS").unwrap_or(100_000) as usize;
    let seed = number("GWM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("GWM_SEED={seed} GWM_MUTATIONS={count}");

    let max = MESSAGE_BYTES.to_string();
    let daemon = Daemon::start_alone(&[
        "--max-message-bytes",
        &max,
        "--hold-time",
        "200ms",
        "--push-window",
        "1ms",
        "--log-level",
        "warn",
    ]);
    let idle = daemon.sockets();
    clean_session(&daemon, "BEFORE");
    let round = |seed: u64, count: usize| {
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let address = daemon.address();
                scope.spawn(move || storm(address, seed, thread, count.div_ceil(THREADS as usize)));
            }
        });
    };
    round(seed, count / 10);
    let warm = daemon.resident_kib();
    round(seed.wrapping_add(1), count - count / 10);
    let end = daemon.resident_kib();
    println!("resident: {warm} KiB after the warm-up, {end} KiB at the end");
    assert!(end < warm + GROWTH_KIB, "seed {seed}: {warm} KiB grew to {end} KiB");
    until("every connection is let go of", || daemon.sockets() == idle);
    clean_session(&daemon, "AFTER");
    daemon.stop();
}

//! Many peers at once over two shards: each must get the answers that it would get alone.

use std::{io::ErrorKind, thread};

use fastrand::Rng;
use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    harness::{Daemon, LB, MEMBER, Peer, until},
    wire,
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

/// The test's model of one LB's only group: member, state, quiesced, registered by the LB.
type Model = Vec<(usize, u8, bool, bool)>;

fn name(member: usize) -> String {
    format!("10.0.0.{member}:80")
}

fn show(uid: &str, model: &Model) -> String {
    let entry = |&(member, state, quiesced, by_lb): &(usize, u8, bool, bool)| {
        let flags = 0x01 | if quiesced { 0x02 } else { 0 } | if by_lb { 0x04 } else { 0 };
        format!("{} {state:02X}/{flags:02X}/{}", name(member), if quiesced { 0 } else { 100 })
    };
    format!("{uid}/G [{}]", model.iter().map(entry).collect::<Vec<_>>().join(", "))
}

/// A random session: every reply must be the one that the model gives.
fn session(daemon: &Daemon, uid: &str, seed: u64, steps: usize) {
    let mut rng = Rng::with_seed(seed);
    let mut model = Model::new();
    let (mut lb, mut member) = (daemon.connect(), daemon.connect());
    let flags = LbFlags::TRUST | LbFlags::PUSH;
    assert_eq!(lb.set_lb(uid, flags), OK);
    assert_eq!(lb.register(LB, uid, "G", &[]), OK);
    for _ in 0..steps {
        let number = 1 + rng.usize(..8);
        let text = name(number);
        let known = model.iter().position(|entry| entry.0 == number);
        let by_lb = rng.bool();
        let (from, peer) = if by_lb { (LB, &mut lb) } else { (MEMBER, &mut member) };
        match rng.u8(..10) {
            0..3 => {
                let code = if known.is_some() { ReturnCode::ALREADY_REGISTERED } else { OK };
                assert_eq!(peer.register(from, uid, "G", &[&text]), code);
                if known.is_none() {
                    model.push((number, 0, false, by_lb));
                }
            }
            3 => {
                let code = if known.is_some() { OK } else { ReturnCode::NOT_REGISTERED };
                assert_eq!(peer.deregister(from, uid, "G", &[&text]), code);
                known.map(|at| model.remove(at));
            }
            4..7 => {
                let (state, quiesce) = (rng.u8(..), rng.bool());
                let code = if known.is_some() { OK } else { ReturnCode::NOT_REGISTERED };
                assert_eq!(peer.set_member(from, (uid, "G", &text), state, quiesce), code);
                if let Some(at) = known {
                    (model[at].1, model[at].2) = (state, quiesce);
                }
            }
            7 => lb = daemon.connect(),
            8 => member = daemon.connect(),
            _ => {}
        }
        if rng.u8(..4) == 0 {
            assert_eq!(lb.get_weights(uid, &["G"]), show(uid, &model));
        }
    }
    // The last push must show the final state. A change by the member makes sure that a push comes.
    assert_eq!(lb.get_weights(uid, &[""]), show(uid, &model));
    let text = name(9);
    assert_eq!(member.register(MEMBER, uid, "G", &[&text]), OK);
    model.push((9, 0, false, false));
    lb.push_until(&show(uid, &model));
}

#[test]
fn concurrent_sessions_do_not_show_in_each_other() {
    let seed = std::env::var("GWM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("GWM_SEED={seed}");
    let daemon = Daemon::start_alone(&["--shards", "2", "--push-window", "1ms", "--log-level", "warn"]);
    thread::scope(|scope| {
        for number in 0..12 {
            let daemon = &daemon;
            scope.spawn(move || session(daemon, &format!("LB{number}"), seed.wrapping_add(number), 400));
        }
    });
    daemon.stop();
}

/// The last connection has the UID. All others end gracefully, and no state is lost or left over.
#[test]
fn connections_that_contend_for_one_uid_take_it_over_in_turn() {
    const A: &str = "10.0.0.1:80";
    let daemon = Daemon::start_alone(&["--shards", "2", "--push-window", "1ms", "--log-level", "warn"]);
    let idle = daemon.sockets();
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    // A reply, unless another connection takes over first.
    let ask = |peer: &mut Peer, request: &[u8]| -> Option<Vec<u8>> {
        if let Err(error) = std::io::Write::write_all(&mut peer.stream(), request) {
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
            return None;
        }
        loop {
            match peer.try_receive() {
                Ok(Some(message)) if wire::is_push(&message) => {}
                Ok(message) => return message,
                // The connection ended before the request arrived, so the request met a reset.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut lb = daemon.connect();
                for round in 0..100 {
                    let state = wire::member_state(round, LB, &[("LB1", "G", &[(A, round as u8, false)])]);
                    let read = wire::get_weights(1000 + round, &[("LB1", "G")]);
                    for request in [state, read] {
                        match ask(&mut lb, &request) {
                            Some(reply) => assert_eq!(reply[9..13], request[9..13]),
                            None => lb = daemon.connect(),
                        }
                    }
                }
            });
        }
    });
    until("only the last one is left, or none", || daemon.sockets() <= idle + 1);
    let mut last = daemon.connect();
    assert_eq!(last.set_member(LB, ("LB1", "G", A), 0xAB, false), OK);
    assert_eq!(last.get_weights("LB1", &[""]), "LB1/G [10.0.0.1:80 AB/05/100]");
    lb.expect_end();
    drop((lb, last));
    until("none is left", || daemon.sockets() == idle);
    daemon.stop();
}

//! Thousands of hostile peers, and one load balancer beside them that must not notice.

use std::{
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use gwm::sasp::{LbFlags, ReturnCode};
use socket2::{Domain, Socket, Type};

use crate::{
    harness::{Daemon, LB, MEMBER, Peer, until},
    wire,
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

/// Exchanges of the load balancer.
const EXCHANGES: usize = 500;

/// A connection with small buffers, because the test is about the daemon's memory, not the kernel's.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8 * 1024).expect("a socket option");
    socket.set_send_buffer_size(32 * 1024).expect("a socket option");
    socket.connect(&address.into()).expect("the daemon accepts");
    socket.into()
}

/// A normal session: this many exchanges with a reply each, and a push.
fn session_beside(daemon: &Daemon, uid: &str) {
    let (mut lb, mut member) = (daemon.connect(), daemon.connect());
    assert_eq!(lb.register(LB, uid, "G", &["10.0.0.1:80"]), OK);
    assert_eq!(lb.set_lb(uid, LbFlags::PUSH | LbFlags::TRUST), OK);
    assert_eq!(lb.push(), format!("{uid}/G [10.0.0.1:80 00/05/100]"));
    for round in 1..=EXCHANGES {
        let state = (round % 256) as u8;
        assert_eq!(member.set_member(MEMBER, (uid, "G", "10.0.0.1:80"), state, false), OK);
        let expected = format!("{uid}/G [10.0.0.1:80 {state:02X}/05/100]");
        assert_eq!(lb.push(), expected);
        assert_eq!(lb.get_weights(uid, &["G"]), expected);
    }
}

/// A registration of this many members.
fn long_request(uid: &str, members: usize) -> Vec<u8> {
    let members: Vec<String> = (0..members).map(|at| format!("10.3.{}.{}:80", at / 256, at % 256)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    wire::registration(1, LB, &[(uid, "G", &members)])
}

#[test]
fn slow_deaf_and_unfinished_peers_delay_nobody() {
    const DRIPPING: usize = 700;
    const DEAF: usize = 700;
    const UNFINISHED: usize = 600;
    let daemon = Daemon::start_alone(&[
        "--push-window",
        "1ms",
        "--first-message-timeout",
        "1h",
        "--message-timeout",
        "1h",
        "--stall-timeout",
        "1h",
        "--log-level",
        "warn",
    ]);
    let idle = daemon.sockets();
    session_beside(&daemon, "BEFORE");
    let before = daemon.resident_kib();

    // One byte per second of a message that never becomes complete.
    let dripping: Vec<TcpStream> = (0..DRIPPING).map(|_| narrow(daemon.address())).collect();
    let (stop, stopped) = mpsc::channel::<()>();
    let drip = thread::spawn(move || {
        for byte in long_request("DRIP", 100) {
            dripping.iter().for_each(|mut peer| peer.write_all(&[byte]).expect("the daemon keeps slow peers"));
            if stopped.recv_timeout(Duration::from_secs(1)) != Err(mpsc::RecvTimeoutError::Timeout) {
                break;
            }
        }
        dripping
    });

    // Peers that register, and then ask all the time and read nothing.
    let mut deaf: Vec<TcpStream> = Vec::new();
    for number in 0..DEAF {
        let uid = format!("DEAF{number}");
        let mut peer = Peer::from(narrow(daemon.address()));
        assert_eq!(wire::code(&peer.ask(&long_request(&uid, 20))), OK);
        assert_eq!(peer.set_lb(&uid, LbFlags::PUSH), OK);
        let requests: Vec<u8> = (0..20_000).flat_map(|id| wire::get_weights(id, &[(&uid, "G")])).collect();
        let mut stream = peer.stream().try_clone().expect("a descriptor");
        stream.set_nonblocking(true).expect("a socket option");
        let mut sent = 0;
        while sent < requests.len() {
            match stream.write(&requests[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(sent < requests.len(), "a peer that reads nothing is read without end");
        deaf.push(stream);
    }

    // A whole message, half a message, then nothing.
    let request = long_request("HALF", 400);
    let unfinished: Vec<TcpStream> = (0..UNFINISHED)
        .map(|_| {
            let mut stream = narrow(daemon.address());
            stream.write_all(&wire::get_weights(1, &[])).expect("the daemon takes bytes");
            stream.write_all(&request[..request.len() / 2]).expect("the daemon takes bytes");
            stream
        })
        .collect();

    session_beside(&daemon, "BESIDE");
    assert_eq!(daemon.sockets(), idle + DRIPPING + DEAF + UNFINISHED, "none of them was dropped");
    let after = daemon.resident_kib();
    let peers = (DRIPPING + DEAF + UNFINISHED) as u64;
    println!("{before} KiB before, {after} KiB with {peers} bad peers: {} KiB each", (after - before) / peers);
    assert!(after < before + 40 * peers, "{before} KiB grew to {after} KiB");

    drop(stop);
    let dripping = drip.join().expect("the slow peers were kept");
    drop((dripping, deaf, unfinished));
    until("every connection is let go of", || daemon.sockets() == idle);
    session_beside(&daemon, "AFTER");
    daemon.stop();
}

/// All unfinished messages share one budget: connections that exceed it are closed, others are served.
#[test]
fn unfinished_messages_have_one_budget() {
    const PEERS: usize = 300;
    const BUDGET: usize = 16 << 20;
    let budget = BUDGET.to_string();
    let daemon = Daemon::start_alone(&[
        "--push-window",
        "1ms",
        "--max-buffered-bytes",
        &budget,
        "--first-message-timeout",
        "1h",
        "--log-level",
        "warn",
    ]);
    let idle = daemon.sockets();
    session_beside(&daemon, "BEFORE");
    let before = daemon.resident_kib();
    let request = long_request("HALF", 8000);
    let half = &request[..request.len() - 1];
    assert!(half.len() * PEERS > 3 * BUDGET);
    let mut unfinished: Vec<TcpStream> = Vec::new();
    for _ in 0..PEERS {
        let mut stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
        // An error is the end of a connection, which some must meet.
        let _ = stream.write_all(half);
        unfinished.push(stream);
    }
    session_beside(&daemon, "BESIDE");
    // The first 16 KiB of each message do not count.
    until("connections over the budget are closed", || {
        daemon.sockets() <= idle + BUDGET / (half.len() - (16 << 10)) + 1
    });
    let after = daemon.resident_kib();
    println!("{before} KiB before, {after} KiB with {PEERS} unfinished messages");
    // Buffers grow by doubling, so the budget may cost twice its bytes.
    assert!(after < before + 2 * (BUDGET as u64 >> 10) + 8192, "{before} KiB grew to {after} KiB");

    // Peers with short messages do not pay: all these messages together are longer than the rest of the budget.
    let request_of = |number: usize| long_request(&format!("SHORT{number}"), 400);
    let mut short: Vec<Peer> = (0..50).map(|_| daemon.connect()).collect();
    for (number, peer) in short.iter_mut().enumerate() {
        peer.send(&request_of(number)[..5000]);
    }
    session_beside(&daemon, "BETWEEN");
    for (number, peer) in short.iter_mut().enumerate() {
        peer.send(&request_of(number)[5000..]);
        assert_eq!(wire::code(&peer.receive()), OK);
    }
    drop((short, unfinished));
    until("every connection is let go of", || daemon.sockets() == idle);
    // The budget is free again: the daemon takes a message of the same length.
    let mut peer = daemon.connect();
    assert_eq!(wire::code(&peer.ask(&request)), OK);
    daemon.stop();
}

/// Thousands of peers that connect and leave at once, with and without a request, leave nothing behind.
#[test]
fn coming_and_going_leaves_nothing() {
    const ROUNDS: usize = 20_000;
    let daemon = Daemon::start(&["--hold-time", "0s", "--log-level", "warn"]);
    let idle = daemon.sockets();
    let round = |number: usize| {
        let mut stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
        let request = wire::lb_state(1, &format!("LB{}", number % 100), 0, LbFlags::PUSH);
        match number % 4 {
            0 => {}
            1 => stream.write_all(&request[..10]).expect("the daemon takes bytes"),
            2 => stream.write_all(&request).expect("the daemon takes bytes"),
            // A reset instead of a graceful end.
            _ => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket option"),
        }
    };
    // As many before as after: what the daemon keeps once, it has by then.
    (0..ROUNDS).for_each(round);
    until("every connection is let go of", || daemon.sockets() == idle);
    let before = daemon.resident_kib();
    (0..ROUNDS).for_each(round);
    until("every connection is let go of", || daemon.sockets() == idle);
    let after = daemon.resident_kib();
    assert!(after < before + 6 * 1024, "{before} KiB grew to {after} KiB");
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    daemon.stop();
}

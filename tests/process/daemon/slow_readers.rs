//! Load balancers that do not read what they get.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use gwm::sasp::{LbFlags, ReturnCode};
use socket2::{Domain, Socket, Type};

use crate::{
    harness::{Daemon, LB, MEMBER, PATIENCE, Peer, until},
    site::Site,
    wire,
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

/// Members of the group; its weights are about 570,000 bytes.
const MEMBERS: usize = 2000;

/// How much the daemon's memory may grow while a reader is slow: far less than the unread messages.
const GROWTH_KIB: u64 = 24 * 1024;

/// A connection with a small receive buffer, so that few bytes are on their way.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("a socket option");
    socket.connect(&address.into()).expect("the daemon accepts");
    socket.into()
}

/// Plain connections, or sessions over TLS.
struct Over(Option<Site>);

impl Over {
    fn start_alone(&self, flags: &[&str]) -> Daemon {
        let tls = self.0.iter().flat_map(|site| &site.flags).map(String::as_str);
        Daemon::start_alone(&tls.chain(flags.iter().copied()).collect::<Vec<_>>())
    }

    fn peer(&self, stream: TcpStream) -> Peer {
        match &self.0 {
            None => Peer::from(stream),
            Some(site) => Peer::secure(stream, &site.client()).expect("the daemon shakes hands"),
        }
    }

    fn connect(&self, daemon: &Daemon) -> Peer {
        self.peer(TcpStream::connect(daemon.address()).expect("the daemon accepts"))
    }
}

/// `10.1.x.y:80` with the longest label.
fn wide_members() -> Vec<String> {
    (0..MEMBERS).map(|member| format!("10.1.{}.{}:80 {}", member / 256, member % 256, "l".repeat(255))).collect()
}

/// An LB with a large group that reads replies only and no push, and an LB that reads everything.
fn slow_and_witness(daemon: &Daemon, over: &Over) -> (Peer, Peer) {
    let members = wide_members();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut slow = over.peer(narrow(daemon.address()));
    assert_eq!(slow.register(LB, "SLOW", "G", &members), OK);
    assert_eq!(slow.set_lb("SLOW", LbFlags::PUSH | LbFlags::TRUST), OK);
    let mut witness = over.connect(daemon);
    assert_eq!(witness.register(LB, "FAST", "G", &["10.0.0.1:80"]), OK);
    assert_eq!(witness.set_lb("FAST", LbFlags::PUSH | LbFlags::TRUST), OK);
    assert_eq!(witness.push(), "FAST/G [10.0.0.1:80 00/05/100]");
    (slow, witness)
}

/// Changes both LBs' groups by one request, and waits until the witness gets the push: so the slow LB was due for a
/// push as well.
fn change(member: &mut Peer, witness: &mut Peer, round: u8) {
    let request = wire::member_state(
        round.into(),
        MEMBER,
        &[("SLOW", "G", &[("10.1.0.0:80", round, false)]), ("FAST", "G", &[("10.0.0.1:80", round, false)])],
    );
    assert_eq!(wire::code(&member.ask(&request)), OK);
    assert_eq!(witness.push(), format!("FAST/G [10.0.0.1:80 {round:02X}/05/100]"));
}

#[test]
fn a_slow_reader_gets_the_newest_state_and_no_backlog() {
    newest_state_and_no_backlog(&Over(None));
}

#[test]
fn a_slow_reader_over_tls_gets_the_newest_state_and_no_backlog() {
    newest_state_and_no_backlog(&Over(Some(Site::new())));
}

fn newest_state_and_no_backlog(over: &Over) {
    const ROUNDS: u8 = 200;
    let daemon = over.start_alone(&["--push-window", "1ms", "--stall-timeout", "1h"]);
    let (mut slow, mut witness) = slow_and_witness(&daemon, over);
    let mut member = over.connect(&daemon);
    (1..=20).for_each(|round| change(&mut member, &mut witness, round));
    let before = daemon.resident_kib();
    (21..=ROUNDS).for_each(|round| change(&mut member, &mut witness, round));
    let after = daemon.resident_kib();
    assert!(after < before + GROWTH_KIB, "{before} KiB grew to {after} KiB");

    let newest = format!("10.1.0.0:80 {} {ROUNDS:02X}/05/100", "l".repeat(255));
    let mut pushes = 1;
    while !slow.push().contains(&newest) {
        pushes += 1;
    }
    // The pushes that fit into the sockets' buffers, one in flight, and the newest: far fewer than the rounds.
    assert!(pushes < usize::from(ROUNDS) / 4, "{pushes} pushes");
    // The slow LB reads again, and is served like any other.
    change(&mut member, &mut witness, 1);
    assert!(slow.push().contains(&newest.replace("C8/05", "01/05")));
    daemon.stop();
}

#[test]
fn a_stalled_reader_is_dropped_and_its_state_held() {
    dropped_and_held(&Over(None));
}

#[test]
fn a_stalled_reader_over_tls_is_dropped_and_its_state_held() {
    dropped_and_held(&Over(Some(Site::new())));
}

fn dropped_and_held(over: &Over) {
    let daemon = over.start_alone(&["--push-window", "1ms", "--stall-timeout", "500ms"]);
    // Counted now, because the daemon may drop the slow LB at any time.
    let connected = daemon.sockets() + 3;
    let (slow, mut witness) = slow_and_witness(&daemon, over);
    let mut member = over.connect(&daemon);
    let mut round = 1u8;
    change(&mut member, &mut witness, round);
    let start = Instant::now();
    while daemon.sockets() == connected {
        round = round.wrapping_add(1);
        change(&mut member, &mut witness, round);
        assert!(start.elapsed() < PATIENCE, "a stalled reader stays");
    }
    assert_eq!(daemon.sockets(), connected - 1);
    change(&mut member, &mut witness, 0xEE);
    drop(slow);
    let mut slow = over.connect(&daemon);
    let weights = slow.get_weights("SLOW", &["G"]);
    assert_eq!(weights.matches(" 00/05/100").count(), MEMBERS - 1);
    assert!(weights.contains(" EE/05/100"));
    assert!(slow.push().contains(" EE/05/100"), "push is still on");
    daemon.stop();
}

/// While a reply can not be written, the daemon does not read the connection: endless requests take no memory.
#[test]
fn a_peer_that_reads_no_replies_is_not_read() {
    let daemon = Daemon::start_alone(&["--stall-timeout", "1h"]);
    let members = wide_members();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut peer = Peer::from(narrow(daemon.address()));
    assert_eq!(peer.register(LB, "LB1", "G", &members), OK);
    let before = daemon.resident_kib();
    let mut requests = Vec::new();
    let mut sent = 0;
    let mut id = 100;
    peer.stream().set_nonblocking(true).expect("a socket option");
    let mut full_since = None::<Instant>;
    // The connection counts as full when it has taken no byte for some time. One more byte later does no harm.
    while full_since.is_none_or(|since| since.elapsed() < Duration::from_millis(300)) {
        if sent == requests.len() {
            id += 1;
            requests.extend(wire::get_weights(id, &[("LB1", "G")]));
        }
        match peer.stream().write(&requests[sent..]) {
            Ok(count) => (sent, full_since) = (sent + count, None),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                full_since.get_or_insert_with(Instant::now);
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 64 << 20, "the daemon reads requests without end");
    }
    let after = daemon.resident_kib();
    assert!(after < before + GROWTH_KIB, "{before} KiB grew to {after} KiB");

    // Others are served. Then the peer reads, and its replies come in order.
    let mut other = daemon.connect();
    assert_eq!(other.set_lb("LB2", LbFlags::NONE), OK);
    peer.stream().set_nonblocking(false).expect("a socket option");
    for id in 0..50u32 {
        let reply = peer.receive();
        assert_eq!(reply[9..13], (101 + id).to_be_bytes());
        assert_eq!(wire::show(&reply).matches(" 00/05/100").count(), MEMBERS);
    }
    daemon.stop();
}

/// Asks for all weights of an LB, waits for the beginning of the reply, and reads nothing.
fn ask_and_stall(daemon: &Daemon, uid: &str) -> Peer {
    let mut peer = Peer::from(narrow(daemon.address()));
    peer.send(&wire::get_weights(7, &[(uid, "")]));
    assert_eq!(peer.stream().peek(&mut [0]).expect("the reply begins"), 1);
    peer
}

/// The least size of the weights of an LB with many members.
const MANY_BYTES: usize = 13_000_000;

/// Members in 24 groups, more than the buffers of a socket hold.
fn register_many(lb: &mut Peer, uid: &str) {
    let members: Vec<String> = wide_members().iter().map(|member| member.replace("10.1.", "10.2.")).collect();
    for group in 0..24 {
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        assert_eq!(lb.register(LB, uid, &format!("G{group}"), &members), OK);
    }
}

#[test]
fn a_connection_that_is_taken_over_keeps_nothing_for_its_peer() {
    let daemon = Daemon::start_alone(&["--stall-timeout", "1h"]);
    register_many(&mut daemon.connect(), "LB1");
    let idle = daemon.sockets();
    let mut stalled = vec![ask_and_stall(&daemon, "LB1")];
    let before = daemon.resident_kib();
    for _ in 0..20 {
        stalled.push(ask_and_stall(&daemon, "LB1"));
    }
    until("the replaced connections are closed", || daemon.sockets() <= idle + 1);
    let after = daemon.resident_kib();
    // The daemon did not hold one reply per peer, only a few at a time.
    assert!(after < before + 6 * (MANY_BYTES as u64 >> 10), "{before} KiB grew to {after} KiB");
    assert!(daemon.connect().ask(&wire::get_weights(1, &[("LB1", "")])).len() > MANY_BYTES);
    daemon.stop();
}

#[test]
fn what_all_peers_together_have_yet_to_take_is_limited() {
    let daemon = Daemon::start_alone(&["--stall-timeout", "1h", "--max-unsent-bytes", "16000000"]);
    let mut lbs: Vec<Peer> = (0..2).map(|_| daemon.connect()).collect();
    for (number, lb) in lbs.iter_mut().enumerate() {
        register_many(lb, &format!("LB{number}"));
    }
    // The first reply is pending; the second has no room.
    let mut first = ask_and_stall(&daemon, "LB0");
    let second = ask_and_stall(&daemon, "LB1");
    daemon.wait_for_log(&["the bytes that peers have yet to take would exceed --max-unsent-bytes"]);
    while second.stream().read(&mut [0; 65536]).is_ok_and(|count| count > 0) {}
    // A peer that reads is served, and its read bytes make room.
    assert!(first.receive().len() > MANY_BYTES);
    assert!(daemon.connect().ask(&wire::get_weights(1, &[("LB1", "")])).len() > MANY_BYTES);
    daemon.stop();
}

/// A peer that goes away without reading costs nothing afterwards.
#[test]
fn a_peer_that_resets_in_the_middle_of_a_message_leaves_nothing() {
    let daemon = Daemon::start(&["--push-window", "1ms", "--stall-timeout", "1h"]);
    let idle = daemon.sockets();
    for _ in 0..5 {
        let (slow, mut witness) = slow_and_witness(&daemon, &Over(None));
        let mut member = daemon.connect();
        (1..=5).for_each(|round| change(&mut member, &mut witness, round));
        slow.stream().read_exact(&mut [0; 100]).expect("the push has begun");
        // Unread bytes make the kernel send a reset.
        drop((slow, witness, member));
        until("the daemon lets go of the connections", || daemon.sockets() == idle);
        for uid in ["SLOW", "FAST"] {
            let mut lb = daemon.connect();
            assert_eq!(lb.deregister(LB, uid, "", &[]), OK);
        }
        until("the daemon lets go of the connections", || daemon.sockets() == idle);
    }
    daemon.stop();
}

//! Peers that open too many connections or ask too often: their answers, and that others do not notice.

use std::{
    io::{self, ErrorKind, Write},
    net::{Ipv4Addr, TcpStream},
    ops::Range,
    time::Duration,
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;
use socket2::SockRef;

use crate::{
    harness::{Daemon, LB, PATIENCE, Peer, until},
    site::{Site, dial, from, hello},
    wire,
};

/// The source address of the peers that exceed limits.
const BUSY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

/// The source address of the peers that do not.
const CALM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection that is served, or `None` if the daemon resets it at once.
fn served(daemon: &Daemon, source: Ipv4Addr) -> Option<Peer> {
    let request = wire::raw(9, &[0x10, 0x40, 0, 4]);
    let talk = || -> io::Result<Peer> {
        let stream = dial(source, daemon.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // A reset may show in any of the calls.
        (&stream).write_all(&request)?;
        stream.peek(&mut [0])?;
        Ok(stream.into())
    };
    match talk() {
        Ok(mut peer) => {
            assert_eq!(peer.receive(), wire::code_reply(9, 0x1045, 0x10));
            Some(peer)
        }
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => None,
        Err(error) => panic!("neither served nor reset: {error}"),
    }
}

fn expect_served(daemon: &Daemon, from: Ipv4Addr) -> Peer {
    served(daemon, from).expect("this address has room")
}

/// Makes a request that the coordinator answers and that no other peer notices.
fn expect_alive(peer: &mut Peer) {
    assert_eq!(peer.get_weights("NOBODY", &[""]), format!("{:?} ", ReturnCode::UNKNOWN_LB_UID));
}

/// Stops a daemon and returns its last log lines.
fn last_words(mut daemon: Daemon, parts: &[&str]) -> String {
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    daemon.wait_for_log(parts);
    let log = daemon.log();
    log.lines().find(|line| parts.iter().all(|part| line.contains(part))).expect("it was just there").to_owned()
}

/// A number of a line of the log.
fn stated(line: &str, name: &str) -> u64 {
    let field = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    field.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// How many received bytes are still unread.
fn waiting(peer: &Peer) -> usize {
    rustix::io::ioctl_fionread(peer.stream()).expect("a socket") as usize
}

#[test]
fn each_address_has_its_own_number_of_connections() {
    for shards in ["1", "2"] {
        let daemon =
            Daemon::start(&["--max-connections", "6", "--max-connections-per-source", "3", "--shards", shards]);
        let idle = daemon.sockets();
        let mut busy: Vec<Peer> = (0..3).map(|_| expect_served(&daemon, BUSY)).collect();
        let mut refused = 0;
        let mut refuse = || {
            for _ in 0..20 {
                assert!(served(&daemon, BUSY).is_none(), "one over the number is served");
                refused += 1;
            }
        };
        refuse();
        let mut calm: Vec<Peer> = (0..3).map(|_| expect_served(&daemon, CALM)).collect();
        assert_eq!(daemon.sockets(), idle + 6);
        // The server is full and does not accept: one connection must leave first.
        calm.pop();
        until("a connection is let go of", || daemon.sockets() == idle + 5);
        refuse();
        for peer in busy.iter_mut().chain(&mut calm) {
            expect_alive(peer); // accepted connections go on
        }
        busy.pop();
        until("a connection is let go of", || daemon.sockets() == idle + 4);
        busy.push(expect_served(&daemon, BUSY));
        refuse();
        drop((busy, calm));
        let why = ["its address has --max-connections-per-source open"];
        daemon.wait_for_log(&[why[0], "127.0.0.1:"]);
        assert!(!daemon.log().lines().any(|line| line.contains(why[0]) && line.contains("127.0.0.2:")));
        assert_eq!(stated(&last_words(daemon, &[why[0], "connections="]), "connections"), refused);
    }
}

/// By default, no address may have all connections.
#[test]
fn half_of_the_connections_are_left_to_others() {
    let daemon = Daemon::start(&["--max-connections", "5"]);
    let busy: Vec<Peer> = (0..3).map(|_| expect_served(&daemon, BUSY)).collect();
    assert!(served(&daemon, BUSY).is_none());
    let calm = [expect_served(&daemon, CALM), expect_served(&daemon, CALM)];
    drop((busy, calm));
    daemon.stop();
}

#[test]
fn each_address_has_its_own_rate_of_new_connections() {
    for shards in ["1", "2"] {
        let daemon = Daemon::start(&["--max-new-connections-per-source", "4", "--shards", shards]);
        // Refused connections free their place, and so do closed ones.
        let mut last = None;
        until("one connection is too many", || match served(&daemon, BUSY) {
            Some(peer) => {
                last = Some(peer);
                false
            }
            None => true,
        });
        expect_served(&daemon, CALM);
        expect_alive(&mut last.expect("some were served"));
        until("the address may come again", || served(&daemon, BUSY).is_some());
        let why = "its address opens more than --max-new-connections-per-source a second";
        daemon.wait_for_log(&[why, "127.0.0.1:"]);
        assert!(!daemon.log().lines().any(|line| line.contains(why) && line.contains("127.0.0.2:")));
        assert!(stated(&last_words(daemon, &[why, "connections="]), "connections") > 0);
    }
}

/// Requests with these ids, and their replies; the coordinator answers some, the shard refuses others.
fn requests(uid: &str, ids: Range<u32>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut bytes, mut replies) = (Vec::new(), Vec::new());
    for id in ids {
        let (request, reply) = match id % 3 {
            0 => (wire::lb_state(id, uid, 0, LbFlags::NONE), wire::code_reply(id, 0x1055, 0x00)),
            1 => (wire::raw(id, &[0x10, 0x40, 0, 4]), wire::code_reply(id, 0x1045, 0x10)),
            _ => (wire::raw(id, &[0x10, 0x50, 0, 9, 1]), wire::code_reply(id, 0x1055, 0x10)),
        };
        bytes.extend(request);
        replies.push(reply);
    }
    (bytes, replies)
}

/// Others are served while requests of one peer wait for their turn, which comes much later. The stop does not wait for
/// turns: it answers all that is left.
#[test]
fn requests_over_the_rate_wait_and_hold_nobody_up() {
    const REQUESTS: u32 = 100;
    for shards in ["1", "2"] {
        let mut daemon = Daemon::start(&["--max-requests-per-second", "1", "--shards", shards]);
        let mut busy = Peer::from(from(BUSY, daemon.address()));
        let (bytes, replies) = requests("LB1", 0..REQUESTS);
        busy.send(&bytes);
        let address = busy.stream().local_addr().expect("it is bound").to_string();
        daemon.wait_for_log(&["slowed down: it asks more often than --max-requests-per-second", &address]);
        // Each connection has its own rate, also among connections of one address.
        for round in 0..50 {
            expect_served(&daemon, if round % 2 == 0 { BUSY } else { CALM });
        }
        assert!(waiting(&busy) < replies.iter().map(Vec::len).sum(), "all of them were answered at once");
        daemon.signal(Signal::TERM);
        for reply in replies {
            assert_eq!(busy.receive(), reply);
        }
        busy.expect_end();
        drop(busy);
        assert!(daemon.wait().success());
        let log = daemon.log();
        assert_eq!(log.lines().filter(|line| line.contains("slowed down")).count(), 1, "once a connection:\n{log}");
    }
}

#[test]
fn requests_over_the_rate_are_all_answered_in_their_order() {
    const REQUESTS: u32 = 60;
    let site = Site::new();
    let daemon = site.start(&["--listen", "127.0.0.1:0", "--max-requests-per-second", "30"]);
    let mut peers: Vec<Peer> = (0..3).map(|_| daemon.connect()).collect();
    let stream = TcpStream::connect(daemon.addresses()[1]).expect("the daemon accepts");
    peers.insert(2, Peer::secure(stream, &site.client()).expect("the daemon shakes hands"));
    let mut peers: [Peer; 4] = peers.try_into().ok().expect("four of them");
    let uids = ["LB1", "LB2", "LB3", "LB4"];
    let [(whole, _), (cut, _), (records, _), (mut single, replies)] = uids.map(|uid| requests(uid, 0..REQUESTS));
    // Together, split anywhere, in TLS records, and one by one.
    peers[0].send(&whole);
    cut.chunks(7).for_each(|part| peers[1].send(part));
    records.chunks(100).for_each(|part| peers[2].send(part));
    for reply in &replies {
        let length = u32::from_be_bytes(single[5..9].try_into().expect("four bytes")) as usize;
        peers[3].send(&single.drain(..length).collect::<Vec<u8>>());
        assert_eq!(&peers[3].receive(), reply);
    }
    for peer in &mut peers[..3] {
        for reply in &replies {
            assert_eq!(&peer.receive(), reply);
        }
    }
    drop(peers);
    // One by one: the first thirty requests need not wait.
    let throttled = stated(&last_words(daemon, &["stopped", "throttled="]), "throttled");
    assert!((1..=4 * u64::from(REQUESTS)).contains(&throttled), "{throttled}");
}

/// A peer that the rate limit delays is not at fault: the delay of a second is longer than these timeouts, and they do
/// not count. When the delay begins, the daemon has read only a part of each message.
#[test]
fn the_wait_counts_for_no_timeout() {
    let timeouts = ["--message-timeout", "100ms", "--stall-timeout", "100ms"];
    let daemon = Daemon::start(&[&timeouts[..], &["--max-requests-per-second", "1"]].concat());
    let members: Vec<String> = (0..500).map(|at| format!("10.3.{}.{}:80", at / 256, at % 256)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let long = |id| wire::registration(id, LB, &[("LB1", &format!("G{id}"), &members)]);
    let mut peer = daemon.connect();
    peer.send(&(0..4).flat_map(long).collect::<Vec<u8>>());
    for id in 0..4 {
        assert_eq!(peer.receive(), wire::code_reply(id, 0x1015, 0x00));
    }
    drop(peer);
    assert!(stated(&last_words(daemon, &["stopped", "throttled="]), "throttled") > 0);
}

/// Waiting requests of a peer that is gone do not keep its connection open.
#[test]
fn nobody_is_kept_for_whom_nobody_waits() {
    let daemon = Daemon::start(&["--max-requests-per-second", "1"]);
    let idle = daemon.sockets();
    for reset in [true, false] {
        let mut peer = daemon.connect();
        let (bytes, replies) = requests("LB1", 0..500);
        peer.send(&bytes);
        assert_eq!(peer.receive(), replies[0]);
        if reset {
            SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).expect("a socket option");
        }
        drop(peer);
        until("the connection is let go of", || daemon.sockets() == idle);
    }
    daemon.stop();
}

/// Requests that wait stay in the kernel's buffers, except for one read.
#[test]
fn requests_that_wait_cost_little_memory() {
    const PEERS: usize = 100;
    let daemon = Daemon::start_alone(&["--max-requests-per-second", "1", "--log-level", "warn"]);
    let idle = daemon.sockets();
    let warm: Vec<Peer> = (0..PEERS).map(|_| daemon.connect()).collect();
    until("they are connected", || daemon.sockets() == idle + PEERS);
    drop(warm);
    until("they are let go of", || daemon.sockets() == idle);
    let before = daemon.resident_kib();
    let (bytes, _) = requests("LB1", 0..200_000);
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut stream = from(BUSY, daemon.address());
        SockRef::from(&stream).set_send_buffer_size(32 * 1024).expect("a socket option");
        stream.set_nonblocking(true).expect("a socket option");
        let mut sent = 0;
        let full = loop {
            match stream.write(&bytes[sent..]) {
                Ok(0) => break false,
                Ok(count) => sent += count,
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        assert!(full, "a peer that has to wait is read without end");
        peers.push(stream);
    }
    expect_served(&daemon, CALM);
    let after = daemon.resident_kib();
    println!("{before} KiB before, {after} KiB with {PEERS} peers that have to wait");
    assert!(after < before + 40 * PEERS as u64, "{before} KiB grew to {after} KiB");
    drop(peers);
    until("every connection is let go of", || daemon.sockets() == idle);
    daemon.stop();
}

/// An address with too many handshakes gets them one by one; another address gets its own at once.
#[test]
fn each_address_has_its_own_rate_of_handshakes() {
    const HELLOS: usize = 60;
    let site = Site::new();
    for shards in ["1", "2"] {
        let daemon = site.start(&["--max-handshakes-per-source", "1", "--shards", shards]);
        let config = site.client();
        let flood: Vec<Peer> = (0..HELLOS)
            .map(|_| {
                let mut peer = Peer::from(from(BUSY, daemon.address()));
                peer.send(&hello(&config));
                peer
            })
            .collect();
        let begun = || flood.iter().filter(|peer| waiting(peer) > 0).count();
        until("the first one has its turn", || begun() > 0);
        let secure = |source| Peer::secure(from(source, daemon.address()), &config).expect("its turn");
        let calm: Vec<Peer> = (0..HELLOS as u8).map(|other| secure(Ipv4Addr::new(127, 0, 1, other))).collect();
        assert!(begun() < HELLOS, "all of them began at once");
        // The waiting handshakes go on one by one.
        until("the next one has its turn", || begun() > 1);
        // A waiting peer can leave.
        drop(flood);
        calm.into_iter().chain([secure(BUSY)]).for_each(|mut peer| expect_alive(&mut peer));
        daemon.stop();
    }
}

/// A peer over the budget of unfinished messages gets its replies and a graceful end; a peer within the budget is
/// served.
#[test]
fn a_message_over_the_budget_ends_its_connection_gracefully() {
    let daemon = Daemon::start(&["--max-buffered-bytes", "65536", "--max-message-bytes", "65536"]);
    let members: Vec<String> = (0..2600).map(|at| format!("10.3.{}.{}:80", at / 256, at % 256)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let long = |uid| wire::registration(8, LB, &[(uid, "G", &members)]);
    // The budget has room for one of the messages; which comes first is not known.
    let mut peers = ["LB1", "LB2"].map(|uid| {
        let mut peer = daemon.connect();
        let mut bytes = wire::lb_state(7, uid, 0, LbFlags::NONE);
        bytes.extend_from_slice(&long(uid)[..60_000]);
        peer.send(&bytes);
        assert_eq!(peer.receive(), wire::code_reply(7, 0x1055, 0x00));
        (uid, peer)
    });
    let closed = "closed: unfinished messages would exceed --max-buffered-bytes";
    daemon.wait_for_log(&[closed]);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains(closed)).expect("it was just there");
    peers.sort_by_key(|(_, peer)| !line.contains(&peer.stream().local_addr().expect("it is bound").to_string()));
    let [(_, over), (uid, within)] = &mut peers;
    over.expect_end();
    assert!(over.stream().take_error().expect("a socket option").is_none(), "a reset");
    within.send(&long(uid)[60_000..]);
    assert_eq!(within.receive(), wire::code_reply(8, 0x1015, 0x00));
    daemon.stop();
}

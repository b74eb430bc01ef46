//! Bytes that are not a request: which get an answer, which end the connection, and that the end is graceful.

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    harness::{Daemon, LB, Peer, until},
    wire,
};

/// Sends a good request, then `fault`, then more bytes than any buffer of the daemon holds. The reply to the request
/// must arrive, then a graceful end: a reset would destroy the reply.
fn expect_graceful_end(daemon: &Daemon, fault: &[u8]) {
    let mut peer = daemon.connect();
    let mut bytes = wire::lb_state(7, "LB1", 0, LbFlags::NONE);
    bytes.extend_from_slice(fault);
    bytes.resize(bytes.len() + 200_000, 0xAA);
    peer.send(&bytes);
    assert_eq!(peer.receive(), wire::code_reply(7, 0x1055, 0x00), "after {fault:02X?}");
    peer.expect_end();
    // Linux shows the end even if a reset follows at once; then the socket has an error. A reply to another peer shows
    // that the daemon is past this moment.
    assert_eq!(daemon.connect().set_lb("LB2", LbFlags::NONE), ReturnCode::SUCCESSFUL);
    let error = peer.stream().take_error().expect("a socket option");
    assert!(error.is_none(), "{error:?} after {fault:02X?}");
}

/// A refusal by the shard is a reply like any other.
#[test]
fn refusals_reach_the_peer_before_the_end() {
    let daemon = Daemon::start(&[]);
    for fault in [vec![0xAB; 100], wire::raw(9, &[0x10, 0x15, 0, 5, 0])] {
        let mut peer = daemon.connect();
        peer.send(&[wire::raw(7, &[0x10, 0x70, 0, 4]), wire::raw(8, &[0x10, 0x80, 0, 4]), fault].concat());
        assert_eq!(peer.receive(), wire::code_reply(7, 0x1075, 0x10));
        assert_eq!(peer.receive(), wire::code_reply(8, 0x1085, 0x10));
        peer.expect_end();
    }
}

/// A peer that does not close its direction can not keep the connection open.
#[test]
fn after_the_end_a_peer_is_read_for_a_bounded_time() {
    let daemon = Daemon::start(&[]);
    let idle = daemon.sockets();
    let mut peer = daemon.connect();
    peer.send(&[0xAB; 100]);
    peer.expect_end();
    until("the daemon lets go of a peer that stays", || daemon.sockets() == idle);
    drop(peer);
}

/// A header with these fields, and the shortest body.
fn header(kind: u16, header_length: u16, message_length: i32) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(header_length.to_be_bytes());
    bytes.push(1);
    bytes.extend(message_length.to_be_bytes());
    bytes.extend([0, 0, 0, 9, 0x10, 0x50, 0, 7]);
    bytes
}

#[test]
fn broken_framing_ends_the_connection_after_earlier_replies() {
    let daemon = Daemon::start(&["--max-message-bytes", "2048"]);
    for fault in [
        header(0x1010, 13, 17),
        header(0x2011, 13, 17),
        header(0x2010, 12, 17),
        header(0x2010, 14, 17),
        header(0x2010, 13, -1),
        header(0x2010, 13, i32::MIN),
        header(0x2010, 13, 0),
        header(0x2010, 13, 16),
        header(0x2010, 13, 2049),
        header(0x2010, 13, i32::MAX),
    ] {
        expect_graceful_end(&daemon, &fault);
    }
}

/// Logged once per connection, with the address of the peer at fault.
#[test]
fn broken_framing_is_logged_with_the_peers_address() {
    let daemon = Daemon::start(&["--log-level", "warn"]);
    let mut peer = daemon.connect();
    peer.send(&[0xAB; 100]);
    peer.expect_end();
    let address = peer.stream().local_addr().expect("a socket has an address").to_string();
    daemon.wait_for_log(&[&address, "0xABAB"]);
    drop(peer);
    let mut answerless = daemon.connect();
    answerless.send(&wire::raw(1, &[0x10, 0x15, 0, 5, 0]));
    answerless.expect_end();
    let second = answerless.stream().local_addr().expect("a socket has an address").to_string();
    daemon.wait_for_log(&[&second, "0x1015"]);
    let log = daemon.log();
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.contains(&address), "{log}");
    daemon.stop();
}

/// The fault shows in the first two bytes: the daemon does not wait for the rest of a message.
#[test]
fn a_fault_ends_the_connection_as_soon_as_it_shows() {
    let daemon = Daemon::start(&[]);
    let mut peer = daemon.connect();
    peer.send(&[0x10, 0x10]);
    peer.expect_end();
    let mut peer = daemon.connect();
    peer.send(&header(0x2010, 13, 16)[..9]);
    peer.expect_end();
}

#[test]
fn a_message_that_is_no_request_ends_the_connection() {
    let daemon = Daemon::start(&[]);
    for kind in [0x1015u16, 0x1025, 0x1035, 0x1045, 0x1055, 0x1065, 0x1011, 0x1000, 0x1100, 0x2010, 0x3010, 0, 0xFFFF] {
        let [high, low] = kind.to_be_bytes();
        expect_graceful_end(&daemon, &wire::raw(8, &[high, low, 0, 5, 0]));
    }
    let mut other_version = wire::raw(8, &[0x10, 0x15, 0, 5, 0]);
    other_version[4] = 2;
    expect_graceful_end(&daemon, &other_version);
}

/// Makes a request; only a live connection answers.
fn expect_alive(peer: &mut Peer) {
    assert_eq!(peer.set_lb("LB1", LbFlags::NONE), ReturnCode::SUCCESSFUL);
}

#[test]
fn unknown_requests_are_refused_and_the_connection_stays() {
    let daemon = Daemon::start(&[]);
    let mut peer = daemon.connect();
    for kind in [0x1040u16, 0x1070, 0x1080, 0x1090, 0x10A0, 0x10F0] {
        let [high, low] = kind.to_be_bytes();
        for body in [&[high, low, 0, 4][..], &[high, low, 0xFF, 0xFF, 1, 2, 3], &[high, low, 0, 6, 0, 0]] {
            assert_eq!(peer.ask(&wire::raw(9, body)), wire::code_reply(9, kind + 5, 0x10));
        }
        expect_alive(&mut peer);
    }
}

#[test]
fn another_version_is_answered_with_ours_and_the_connection_stays() {
    let daemon = Daemon::start(&["--poll-interval", "64s"]);
    let mut peer = daemon.connect();
    for version in [0, 2, 255] {
        for (mut request, reply) in [
            (wire::registration(3, LB, &[("LB1", "G", &["10.0.0.1:80"])]), wire::code_reply(3, 0x1015, 0x10)),
            (wire::lb_state(4, "LB1", 0, LbFlags::NONE), wire::code_reply(4, 0x1055, 0x10)),
            (wire::get_weights(5, &[("LB1", "G")]), wire::raw(5, &[0x10, 0x35, 0, 9, 0x10, 0, 64, 0, 0])),
        ] {
            request[4] = version;
            assert_eq!(peer.ask(&request), reply);
        }
    }
    // None of these messages counts as contact with the GWM.
    assert_eq!(peer.get_weights("LB1", &[""]), format!("{:?} ", ReturnCode::UNKNOWN_LB_UID));
    expect_alive(&mut peer);
}

#[test]
fn a_body_that_does_not_parse_is_refused_and_the_connection_stays() {
    let daemon = Daemon::start(&["--poll-interval", "64s"]);
    let mut peer = daemon.connect();
    let good = wire::registration(1, LB, &[("LB1", "G", &["10.0.0.1:80 label"])]);
    let mut cases: Vec<(Vec<u8>, u16)> = Vec::new();
    // Every truncation of a registration, from the message component's type and length on.
    for end in 17..good.len() {
        cases.push((wire::raw(2, &good[13..end]), 0x1015));
    }
    // One byte too many.
    let mut longer = good[13..].to_vec();
    longer.push(0);
    cases.push((wire::raw(2, &longer), 0x1015));
    // Each byte of lengths, types and counts, plus one; not flags (17), names and the member's values.
    for at in [15, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 34, 36, 37, 38, 39, 59] {
        let mut broken = good[13..].to_vec();
        broken[at - 13] += 1;
        cases.push((wire::raw(2, &broken), 0x1015));
    }
    cases.push((wire::raw(2, &[0x10, 0x20, 0, 7, 1, 0, 0]), 0x1025));
    cases.push((wire::raw(2, &[0x10, 0x30, 0, 6, 0, 1]), 0x1035));
    cases.push((wire::raw(2, &[0x10, 0x50, 0, 7, 1, 0, 0]), 0x1055));
    cases.push((wire::raw(2, &[0x10, 0x60, 0, 7, 1, 0, 1]), 0x1065));
    for (request, kind) in cases {
        let expected = match kind {
            0x1035 => wire::raw(2, &[0x10, 0x35, 0, 9, 0x10, 0, 64, 0, 0]),
            _ => wire::code_reply(2, kind, 0x10),
        };
        assert_eq!(peer.ask(&request), expected, "to {request:02X?}");
    }
    assert_eq!(peer.get_weights("LB1", &[""]), format!("{:?} ", ReturnCode::UNKNOWN_LB_UID));
    expect_alive(&mut peer);
}

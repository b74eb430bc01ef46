//! Old versions of TLS, plain bytes on a TLS port, TLS on a plain port, and renegotiation.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::Arc,
};

use gwm::sasp::LbFlags;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, PeerMisbehaved,
    version::{TLS12, TLS13},
};

use super::{
    beside::{AWAY, Attack, OK, Row, Way},
    certificates::talk,
};
use crate::{
    harness::{Daemon, PATIENCE, Peer},
    site::{Site, client, from, hello},
    wire,
};

/// A ClientHello of TLS 1.0 or 1.1: no extensions, and cipher suites of that time.
pub(crate) fn old_hello(minor: u8) -> Vec<u8> {
    let suites: [u16; 5] = [0xC013, 0xC014, 0x002F, 0x0035, 0x000A];
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.push(0); // no session
    body.extend((2 * suites.len() as u16).to_be_bytes());
    suites.iter().for_each(|suite| body.extend(suite.to_be_bytes()));
    body.extend([1, 0]); // no compression
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.extend(body);
    let mut record = vec![0x16, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

/// All bytes that come back, up to the end.
pub(crate) fn answer(address: SocketAddr, said: &[u8]) -> Vec<u8> {
    let mut stream = from(AWAY, address);
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.write_all(said).expect("the daemon takes bytes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a graceful end");
    answer
}

/// The answer must be one unencrypted fatal alert.
fn alert(answer: &[u8]) -> Option<u8> {
    match answer {
        [0x15, 3, _, 0, 2, 2, description] => Some(*description),
        _ => None,
    }
}

#[test]
fn old_versions_are_refused() {
    let site = Site::new();
    for oldest in ["1.2", "1.3"] {
        let daemon = site.start(&["--tls-min-version", oldest]);
        for minor in [0, 1, 2] {
            let answer = answer(daemon.address(), &old_hello(minor));
            // The server may notice first that the list of signature algorithms is missing.
            let reasons = [AlertDescription::ProtocolVersion, AlertDescription::HandshakeFailure].map(u8::from);
            assert!(alert(&answer).is_some_and(|reason| reasons.contains(&reason)), "3.{minor}: {answer:02X?}");
        }
        let identity = site.authority.client("LB1");
        let request = wire::lb_state(1, "LB1", 0x7F, LbFlags::NONE);
        let of_1_2 = talk(daemon.address(), &client(&site.authority, Some(&identity), &[&TLS12]), &request);
        assert_eq!(of_1_2.is_ok(), oldest == "1.2", "{of_1_2:?}");
        daemon.stop();
    }
}

/// An attacker on the path removes TLS 1.3 from a client's offer. The client notices, because the server's answer says
/// that the server speaks TLS 1.3.
#[test]
fn a_downgrade_on_the_way_is_noticed() {
    let site = Site::new();
    let daemon = site.start(&[]);
    let config = client(&site.authority, Some(&site.authority.client("LB1")), &[&TLS13, &TLS12]);
    let mut tls = ClientConnection::new(config, "localhost".try_into().expect("a name")).expect("a client");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("memory can be written");
    // supported_versions, 5 bytes: 1.3 and 1.2 in some order.
    let place = hello.windows(5).position(|bytes| bytes == [0, 43, 0, 5, 4]).expect("the extension") + 5;
    hello[place..place + 4].copy_from_slice(&[3, 3, 3, 3]);
    let mut stream = from(AWAY, daemon.address());
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.write_all(&hello).expect("the daemon takes bytes");
    let error = loop {
        assert_ne!(tls.read_tls(&mut stream).expect("an answer"), 0, "the end without an answer");
        if let Err(error) = tls.process_new_packets() {
            break error;
        }
    };
    assert_eq!(error, Error::PeerMisbehaved(PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported));
    drop(stream);
    daemon.stop();
}

/// A hello in the clear does not begin a session again. (The tests with openssl try renegotiation in TLS 1.2.)
#[test]
fn a_hello_in_the_middle_ends_the_session() {
    let site = Site::new();
    let daemon = site.start(&[]);
    for version in [&TLS12, &TLS13] {
        let config = client(&site.authority, Some(&site.authority.client("LB1")), &[version]);
        let mut lb = Peer::secure(from(AWAY, daemon.address()), &config).expect("a good certificate");
        assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
        lb.stream().write_all(&hello(&config)).expect("the daemon takes bytes");
        assert!(lb.try_receive().is_err(), "an alert is due");
    }
    daemon.stop();
}

#[test]
fn plain_and_tls_do_not_meet() {
    let site = Site::new();
    let tls = site.start(&[]);
    for said in [wire::lb_state(1, "LB1", 0x7F, LbFlags::NONE), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xFF; 100]] {
        let answer = answer(tls.address(), &said);
        assert!(alert(&answer).is_some(), "{answer:02X?}");
    }
    tls.stop();
    let plain = Daemon::start(&[]);
    assert!(answer(plain.address(), &hello(&site.client())).is_empty(), "a hello is no SASP");
    plain.stop();
}

/// The first message of each refused version, again and again.
fn storm() -> Row {
    let site = Site::new();
    let daemon = site.start_alone(&["--tls-min-version", "1.3"]);
    let address = daemon.address();
    let identity = site.authority.client("LB1");
    let of_1_2: Arc<ClientConfig> = client(&site.authority, Some(&identity), &[&TLS12]);
    let said =
        [old_hello(0), old_hello(1), old_hello(2), hello(&of_1_2), wire::lb_state(1, "LB1", 0x7F, LbFlags::NONE)];
    let attack = Attack {
        name: "TLS 1.0, 1.1, 1.2 where 1.3 is due; plain SASP".into(),
        threads: 2,
        attempts: 100,
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            while !stage.is_over() {
                for bytes in &said {
                    let answer = answer(address, bytes);
                    assert!(alert(&answer).is_some(), "{answer:02X?}");
                }
                stage.attempted(said.len());
            }
        },
        |attempts| format!("all {attempts} answered with an alert and closed"),
    );
    daemon.stop();
    row
}

pub(crate) fn rows() -> Vec<Row> {
    vec![storm()]
}

#[test]
fn what_is_not_spoken_again_and_again() {
    storm();
}

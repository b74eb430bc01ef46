//! Peers without a certificate of the operator's authority.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use gwm::sasp::LbFlags;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, Stream,
    version::{TLS12, TLS13},
};

use super::beside::{AWAY, Attack, OK, Row, Way};
use crate::{
    authority::{Authority, Identity, Subject},
    harness::{PATIENCE, Peer, until},
    site::{Site, client, from},
    wire,
};

/// Sends a request over TLS and returns the first bytes of the answer. With TLS 1.3 a client learns only then that it
/// is refused.
pub(crate) fn talk(address: SocketAddr, config: &Arc<ClientConfig>, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = from(AWAY, address);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut tls =
        ClientConnection::new(Arc::clone(config), "localhost".try_into().expect("a name")).map_err(io::Error::other)?;
    let mut tls = Stream::new(&mut tls, &mut stream);
    let mut answer = vec![0; 4096];
    // An error while sending does not matter: the alert that came before says why.
    let sent = tls.write_all(request);
    let read = tls.read(&mut answer)?;
    sent?;
    answer.truncate(read);
    Ok(answer)
}

/// Peers that must be refused.
fn strangers(site: &Site) -> Vec<(&'static str, Option<Identity>)> {
    let other = Authority::new("Site"); // with the name of the right authority
    let lb1 = || Subject::client().dns("LB1");
    vec![
        ("no certificate", None),
        ("one of another authority", Some(other.issue(&lb1()))),
        ("one of an authority below another", Some(other.intermediate("Site").issue(&lb1()))),
        ("an expired one", Some(site.authority.issue(&lb1().expired()))),
        ("one that is not valid yet", Some(site.authority.issue(&lb1().not_yet()))),
        ("one for servers", Some(site.authority.issue(&Subject::server().dns("LB1")))),
        // A holder of a certificate may not sign others.
        ("one signed with a client's key", Some(site.authority.impostor(&lb1().common_name("LB1")).client("LB1"))),
    ]
}

fn configs(site: &Site) -> Vec<(&'static str, Arc<ClientConfig>)> {
    let strangers = strangers(site);
    let both = strangers.iter().flat_map(|(who, identity)| {
        [&TLS12, &TLS13].map(|version| (*who, client(&site.authority, identity.as_ref(), &[version])))
    });
    both.collect()
}

fn request() -> Vec<u8> {
    wire::lb_state(1, "LB1", 0x7F, LbFlags::NONE)
}

#[test]
fn strangers_get_in_only_where_nobody_is_asked_for_a_certificate() {
    let site = Site::new();
    let daemon = site.start(&[]);
    for (who, config) in configs(&site) {
        let error = talk(daemon.address(), &config, &request()).expect_err(who);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{who} gets an alert that says why, not {error}");
    }
    daemon.wait_for_log(&["the TLS handshake failed", "127.0.0.3"]);
    let mut lb = Peer::secure(from(AWAY, daemon.address()), &site.client()).expect("a good certificate");
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    daemon.stop();

    // Without --tls-client-ca all of them are served.
    let flags: Vec<&str> = site.flags.iter().take(6).map(String::as_str).collect();
    let daemon = crate::harness::Daemon::start(&flags);
    for (who, config) in configs(&site) {
        let answer = talk(daemon.address(), &config, &request()).unwrap_or_else(|error| panic!("{who}: {error}"));
        assert_eq!(answer, wire::code_reply(1, 0x1055, 0x00), "{who}");
    }
    daemon.stop();
}

/// A ticket is worth no more than the certificate behind it: after a change of authorities the server has another key
/// for tickets, and asks for a certificate again.
#[test]
fn a_ticket_of_another_server_opens_nothing() {
    let site = Site::new();
    let (first, second) = (site.start(&[]), site.start(&[]));
    let config = site.client();
    for daemon in [&first, &second, &first] {
        let mut peer = Peer::secure(from(AWAY, daemon.address()), &config).expect("a good certificate");
        assert_eq!(peer.set_lb("LB1", LbFlags::NONE), OK);
        assert_ne!(peer.session().handshake_kind(), Some(HandshakeKind::Resumed));
    }
    first.stop();
    second.stop();
}

/// A ticket ends with the certificate.
#[test]
fn a_ticket_of_an_expired_certificate_opens_nothing() {
    let site = Site::new();
    let daemon = site.start(&[]);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is right").as_secs();
    let end = now() + 6;
    let configs = [&TLS12, &TLS13].map(|version| {
        let identity = site.authority.issue(&Subject::client().dns("LB1").until(end));
        let config = client(&site.authority, Some(&identity), &[version]);
        let kinds = [(); 2].map(|()| {
            let mut peer = Peer::secure(from(AWAY, daemon.address()), &config).expect("a good certificate");
            assert_eq!(peer.set_lb("LB1", LbFlags::NONE), OK);
            peer.session().handshake_kind()
        });
        assert_eq!(kinds[1], Some(HandshakeKind::Resumed));
        config
    });
    until("the certificates have expired", || now() > end);
    for config in configs {
        // The handshake is over, so no alert can come: the connection ends without an answer.
        match talk(daemon.address(), &config, &request()) {
            Ok(answer) => assert_eq!(answer, [0u8; 0], "the certificate has expired"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    daemon.wait_for_log(&["the client's certificate has expired since its session began", "127.0.0.3"]);
    daemon.stop();
}

fn storm() -> Row {
    let site = Site::new();
    let daemon = site.start_alone(&["--lb-identity", "certificate", "--member-identity", "certificate"]);
    let (address, configs) = (daemon.address(), configs(&site));
    let attack = Attack {
        name: "no, wrong, expired, foreign certificates".into(),
        mib: 32,
        threads: 2,
        attempts: 2 * configs.len(),
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            for (who, config) in configs.iter().cycle().take_while(|_| !stage.is_over()) {
                assert!(talk(address, config, &request()).is_err(), "{who} is enough");
                stage.attempted(1);
            }
        },
        |attempts| format!("all {attempts} handshakes refused"),
    );
    daemon.stop();
    row
}

pub(crate) fn rows() -> Vec<Row> {
    vec![storm()]
}

#[test]
fn strangers_again_and_again() {
    storm();
}

//! TLS: which peers get in, what sessions survive, and which handshakes wait.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpStream},
    sync::Arc,
    time::SystemTime,
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion,
    version::{TLS12, TLS13},
};

use crate::{
    authority::{Authority, Identity, Subject},
    harness::{Daemon, LB, MEMBER, Peer, run, until},
    site::{Site, client, from, hello},
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

fn connect(daemon: &Daemon, config: &Arc<ClientConfig>) -> Peer {
    try_connect(daemon, config).expect("the daemon shakes hands")
}

/// A session with one answer. In TLS 1.3 the client's handshake ends before the server decides, so only an answer shows
/// success.
fn try_connect(daemon: &Daemon, config: &Arc<ClientConfig>) -> io::Result<Peer> {
    let stream = TcpStream::connect(daemon.address())?;
    let mut peer = Peer::secure(stream, config)?;
    let nothing = crate::wire::raw(9, &[0x10, 0x40, 0x00, 0x04]);
    peer.send(&nothing);
    peer.try_receive()?.map(|_| peer).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[test]
fn sessions_are_like_plain_ones() {
    let site = Site::new();
    let daemon = site.start(&["--push-window", "1ms"]);
    assert_eq!(daemon.carries(), ["tls, client certificates required"]);
    // The message is longer than a record, than rustls' buffers, and than a socket's buffer.
    let members: Vec<String> =
        (0..8000).map(|n| format!("10.1.{}.{}:80 {}", n / 256, n % 256, "l".repeat(99))).collect();
    for (uid, version) in [("TLS12", &TLS12), ("TLS13", &TLS13)] {
        let identity = site.authority.client(uid);
        let mut lb = connect(&daemon, &client(&site.authority, Some(&identity), &[version]));
        for part in members.chunks(4000) {
            let part: Vec<&str> = part.iter().map(String::as_str).collect();
            assert_eq!(lb.register(LB, uid, "G", &part), OK);
        }
        assert_eq!(lb.set_lb(uid, LbFlags::PUSH | LbFlags::TRUST), OK);
        let entries: Vec<String> = members.iter().map(|member| format!("{member} 00/05/100")).collect();
        let whole = format!("{uid}/G [{}]", entries.join(", "));
        assert_eq!(lb.push(), whole);
        assert_eq!(lb.get_weights(uid, &[""]), whole);
        let mut member = connect(&daemon, &site.client());
        assert_eq!(member.set_member(MEMBER, (uid, "G", "10.1.0.0:80"), 7, false), OK);
        assert_eq!(lb.push(), whole.replacen(" 00/05", " 07/05", 1));
        let spoken = lb.session().protocol_version();
        assert_eq!(spoken == Some(ProtocolVersion::TLSv1_3), uid == "TLS13", "{spoken:?}");
    }
    daemon.stop();
}

#[test]
fn one_address_can_take_both() {
    let site = Site::new();
    // No other test uses this address, so the port is free.
    let id = std::process::id();
    let address = format!("127.{}.{}.{}:3860", 64 + (id & 63), id >> 6 & 255, 1 + (id >> 14 & 127));
    let flags: Vec<&str> =
        site.flags.iter().map(|flag| if flag == "127.0.0.1:0" { &address } else { flag.as_str() }).collect();
    let daemon = Daemon::start(&[&["--listen", &address], &flags[..]].concat());
    assert_eq!(daemon.carries(), ["plain or tls, client certificates required"]);
    let (mut plain, mut tls) = (daemon.connect(), connect(&daemon, &site.client()));
    assert_eq!(plain.register(LB, "LB1", "G", &["10.0.0.1:80"]), OK);
    assert_eq!(tls.register(LB, "LB2", "G", &["10.0.0.1:80"]), OK);
    assert_eq!(plain.get_weights("LB1", &["G"]), "LB1/G [10.0.0.1:80 00/05/100]");
    daemon.stop();
}

#[test]
fn without_client_ca_nobody_is_asked() {
    let site = Site::new();
    let flags: Vec<&str> = site.flags.iter().take(6).map(String::as_str).collect();
    let daemon = Daemon::start(&flags);
    assert_eq!(daemon.carries(), ["tls"]);
    let mut lb = connect(&daemon, &client(&site.authority, None, &[&TLS13]));
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    daemon.stop();
}

/// A session ends with close_notify, also when the server stops: the harness calls any other end an error.
#[test]
fn sessions_end_gracefully() {
    let site = Site::new();
    let mut daemon = site.start(&[]);
    let mut peer = connect(&daemon, &site.client());
    peer.send(&[0xFF; 32]);
    peer.expect_end();
    let mut lb = connect(&daemon, &site.client());
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    let mut other = connect(&daemon, &site.client());
    assert_eq!(other.set_lb("LB1", LbFlags::NONE), OK);
    lb.expect_end(); // another connection took over
    daemon.signal(Signal::TERM);
    other.expect_end();
    assert!(daemon.wait().success());
}

#[test]
fn new_files_are_for_new_sessions() {
    let site = Site::new();
    let mut daemon = site.start(&[]);
    let config = site.client();
    let mut old = connect(&daemon, &config);
    assert_eq!(old.register(LB, "LB1", "G", &["10.0.0.1:80"]), OK);
    let shown = |peer: &Peer| peer.session().peer_certificates().expect("a server's certificate")[0].clone();
    let first = shown(&old);

    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["SIGHUP", "as they were"]);
    site.folder.write("server.pem", "nonsense");
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["SIGHUP: the old TLS files stay in force: --tls-cert", "server.pem", "no certificate"]);
    assert_eq!(shown(&connect(&daemon, &config)), first);

    // The same authority, a new certificate, and a second authority for clients.
    site.folder.identity("server", &site.authority.server());
    let other = Authority::new("Other");
    let stranger = client(&site.authority, Some(&other.client("LB2")), &[&TLS13]);
    assert!(try_connect(&daemon, &stranger).is_err(), "its authority is not trusted yet");
    site.folder.write("ca.pem", &(site.authority.pem().to_owned() + other.pem()));
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["SIGHUP: new TLS files are in force", "server.key", "ca.pem"]);
    assert_ne!(shown(&connect(&daemon, &config)), first);
    connect(&daemon, &stranger);

    // When an authority is removed, tickets of its sessions become invalid.
    connect(&daemon, &config);
    assert_eq!(connect(&daemon, &config).session().handshake_kind(), Some(HandshakeKind::Resumed));
    site.folder.write("ca.pem", other.pem());
    daemon.signal(Signal::HUP);
    until("the new authority is in force", || daemon.log().matches("new TLS files are in force").count() == 2);
    assert!(try_connect(&daemon, &config).is_err(), "its authority is not trusted any more");
    connect(&daemon, &stranger);
    assert_eq!(old.get_weights("LB1", &[""]), "LB1/G [10.0.0.1:80 00/05/100]", "the first session goes on");
    daemon.signal(Signal::TERM);
    old.expect_end();
    assert!(daemon.wait().success());
}

#[test]
fn sessions_are_resumed() {
    let site = Site::new();
    let daemon = site.start(&[]);
    for version in [&TLS12, &TLS13] {
        let config = client(&site.authority, Some(&site.authority.client("LB1")), &[version]);
        let kinds: Vec<_> = (0..3)
            .map(|_| {
                let mut peer = connect(&daemon, &config);
                assert_eq!(peer.set_lb("LB1", LbFlags::NONE), OK);
                peer.session().handshake_kind()
            })
            .collect();
        assert!(
            matches!(
                kinds[..],
                [
                    Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest),
                    Some(HandshakeKind::Resumed),
                    Some(HandshakeKind::Resumed)
                ]
            ),
            "{kinds:?}"
        );
    }
    daemon.stop();
}

#[test]
fn the_oldest_version_is_the_operators_choice() {
    let site = Site::new();
    let daemon = site.start(&["--tls-min-version", "1.3"]);
    let identity = site.authority.client("LB1");
    assert!(try_connect(&daemon, &client(&site.authority, Some(&identity), &[&TLS12])).is_err());
    daemon.wait_for_log(&["the TLS handshake failed", "127.0.0.1"]);
    connect(&daemon, &client(&site.authority, Some(&identity), &[&TLS13]));
    daemon.stop();
}

#[test]
fn half_a_handshake_ends() {
    let site = Site::new();
    let daemon = site.start(&["--handshake-timeout", "300ms"]);
    let hello = hello(&site.client());
    for said in [&[][..], &hello[..1], &hello[..hello.len() - 1], &hello] {
        let mut stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
        stream.write_all(said).expect("the daemon takes bytes");
        let mut rest = Vec::new();
        // The connection ends, perhaps after a part of the handshake, perhaps with a reset.
        let _ = stream.read_to_end(&mut rest);
    }
    daemon.wait_for_log(&["did not end within --handshake-timeout"]);
    // Bytes that are not TLS get an alert and the end.
    let mut stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
    stream.write_all(&crate::wire::get_weights(1, &[])).expect("the daemon takes bytes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a graceful end");
    assert_eq!(answer.first(), Some(&0x15), "an alert");
    daemon.stop();
}

/// The stop comes during handshakes in every state, and during a session with an unsent message. The stop does not wait
/// longer for these than for others.
#[test]
fn the_stop_ends_handshakes_in_every_state() {
    let site = Site::new();
    let mut daemon = site.start(&["--max-handshakes", "4", "--push-window", "1ms", "--stall-timeout", "1h"]);
    let config = site.client();
    let idle = daemon.sockets();
    let address = Ipv4Addr::new(127, 0, 0, 2);
    let mut half = from(address, daemon.address());
    half.write_all(&hello(&config)[..9]).expect("the daemon takes bytes");
    let mut waits = from(address, daemon.address());
    waits.write_all(&hello(&config)).expect("the daemon takes bytes");
    let silent = from(address, daemon.address());
    let mut slow = connect(&daemon, &config);
    let members: Vec<String> =
        (0..4000).map(|n| format!("10.1.{}.{}:80 {}", n / 256, n % 256, "l".repeat(200))).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    assert_eq!(slow.register(LB, "LB1", "G", &members), OK);
    // Replies of a megabyte each that no peer reads.
    for id in 100..110 {
        slow.send(&crate::wire::get_weights(id, &[("LB1", "G")]));
    }
    let mut lb = connect(&daemon, &config);
    assert_eq!(lb.set_lb("LB2", LbFlags::NONE), OK);
    until("all of them are there", || daemon.sockets() == idle + 5);
    daemon.signal(Signal::TERM);
    lb.expect_end();
    assert!(daemon.wait().success());
    drop((half, waits, silent, slow));
}

/// Sessions on several shards with tickets and new files: a ticket is valid on every shard.
#[test]
fn shards_share_tickets_and_files() {
    let site = Site::new();
    let daemon = site.start(&["--shards", "3"]);
    let config = site.client();
    connect(&daemon, &config);
    for number in 0..24 {
        let mut lb = connect(&daemon, &config);
        assert_eq!(lb.session().handshake_kind(), Some(HandshakeKind::Resumed), "connection {number}");
        let uid = format!("LB{number}");
        assert_eq!(lb.register(LB, &uid, "G", &["10.0.0.1:80"]), OK);
    }
    let other = Authority::new("Other");
    site.folder.write("ca.pem", other.pem());
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["new TLS files are in force"]);
    let newcomer = client(&site.authority, Some(&other.client("LB1")), &[&TLS13]);
    for number in 0..24 {
        assert!(try_connect(&daemon, &config).is_err(), "connection {number}: its authority is not trusted any more");
        connect(&daemon, &newcomer);
    }
    daemon.stop();
}

/// The message timeout runs during a partial record too, and a whole record does not stop it.
#[test]
fn half_a_record_ends() {
    let site = Site::new();
    let daemon = site.start(&["--message-timeout", "300ms"]);
    let mut lb = connect(&daemon, &site.client());
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    let idle = connect(&daemon, &site.client());
    for half in [&[0x17][..], &[0x17, 3, 3, 1, 0], &[0x17, 3, 3, 1, 0, 9, 9, 9]] {
        let peer = connect(&daemon, &site.client());
        let connected = daemon.sockets();
        peer.stream().write_all(half).expect("the daemon takes bytes");
        until("the half record's connection is dropped", || daemon.sockets() == connected - 1);
    }
    daemon.wait_for_log(&["a message was not whole within --message-timeout"]);
    assert_eq!(lb.get_weights("LB1", &[""]), "");
    drop(idle);
    daemon.stop();
}

/// One address may have a quarter of the running handshakes: its further ones wait, another address's do not.
#[test]
fn handshakes_of_one_address_wait_for_each_other() {
    let site = Site::new();
    let daemon = site.start(&["--max-handshakes", "4", "--handshake-timeout", "1h"]);
    let config = site.client();
    let (first, second) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let mut half = from(first, daemon.address());
    half.write_all(&hello(&config)[..9]).expect("the daemon takes bytes");
    // One more silent peer takes no turn from others.
    let silent = from(second, daemon.address());
    let waits = from(first, daemon.address());
    let waiting = {
        let config = Arc::clone(&config);
        std::thread::spawn(move || Peer::secure(waits, &config))
    };
    for _ in 0..3 {
        let mut peer = Peer::secure(from(second, daemon.address()), &config).expect("its turn");
        assert_eq!(peer.set_lb("LB2", LbFlags::NONE), OK);
    }
    assert!(!waiting.is_finished(), "the first address has its quarter under way");
    drop(half);
    let mut peer = waiting.join().expect("no panic").expect("its turn has come");
    assert_eq!(peer.set_lb("LB1", LbFlags::NONE), OK);
    drop(silent);
    daemon.stop();
}

/// Four addresses could take all turns; others must still get in.
#[test]
fn a_turn_is_short_while_others_wait() {
    let site = Site::new();
    let daemon = site.start(&["--max-handshakes", "4", "--handshake-timeout", "1h", "--shards", "1"]);
    let config = site.client();
    let address = |last| Ipv4Addr::new(127, 0, 0, last);
    let halves: Vec<TcpStream> = (2..6)
        .map(|last| {
            let mut half = from(address(last), daemon.address());
            half.write_all(&hello(&config)[..9]).expect("the daemon takes bytes");
            half
        })
        .collect();
    let mut peer = Peer::secure(from(address(6), daemon.address()), &config).expect("its turn");
    assert_eq!(peer.set_lb("LB1", LbFlags::NONE), OK);
    daemon.wait_for_log(&["closed: the TLS handshake was slow, and others waited"]);
    drop(halves);
    daemon.stop();
}

#[test]
fn what_can_not_be_is_said_at_start() {
    let site = Site::new();
    let file = |name: &str| site.folder.path(name);
    site.folder.identity("other", &site.authority.server());
    site.folder.write("nonsense.pem", "nonsense");
    let sealed = |kind: &str, head: &str| format!("-----BEGIN {kind}-----\n{head}AAAA\n-----END {kind}-----\n");
    site.folder.write("pkcs8.key", &sealed("ENCRYPTED PRIVATE KEY", ""));
    site.folder.write("sec1.key", &sealed("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n"));
    let files = |cert: &str, key: &str, more: &[&str]| {
        let (cert, key) = (file(cert), file(key));
        let flags = ["serve", "--check", "--tls-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
        let output = run(&[&flags[..], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(files("server.pem", "server.key", &[]).0, Some(0));
    for (cert, key, more, parts) in [
        ("none.pem", "server.key", vec![], ["--tls-cert", "none.pem", "No such file"]),
        ("nonsense.pem", "server.key", vec![], ["--tls-cert", "nonsense.pem", "no certificate"]),
        ("server.pem", "nonsense.pem", vec![], ["--tls-key", "nonsense.pem", ""]),
        ("server.pem", "other.key", vec![], ["--tls-key", "other.key", "it is not the key of"]),
        ("server.pem", "pkcs8.key", vec![], ["--tls-key", "pkcs8.key", "passphrase"]),
        ("server.pem", "sec1.key", vec![], ["--tls-key", "sec1.key", "passphrase"]),
        (
            "server.pem",
            "server.key",
            vec!["--tls-client-ca", "/dev/null"],
            ["--tls-client-ca", "/dev/null", "no certificate"],
        ),
    ] {
        let (status, text) = files(cert, key, &more);
        assert!(status == Some(1) && parts.iter().all(|part| text.contains(part)), "{status:?} {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    for (flags, part) in [
        (&["--tls-listen", "127.0.0.1:0"][..], "--tls-cert"),
        (&["--tls-cert", "x"], "--tls-listen"),
        (&["--require-tls", "--listen", "0.0.0.0:0"], "--listen 0.0.0.0:0 has no TLS"),
    ] {
        let output = run(&[&["serve", "--check"], flags].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(part), "{flags:?}: {text}");
    }
}

fn local() -> Subject {
    Subject::server().dns("localhost")
}

/// A certificate that no client accepts does not start the daemon, unless the operator asks for that.
#[test]
fn a_certificate_outside_its_validity_is_refused_at_the_start() {
    let site = Site::new();
    let flags: Vec<&str> = ["serve", "--check"].into_iter().chain(site.flags.iter().map(String::as_str)).collect();
    for (subject, why) in [(local().expired(), "the certificate expired"), (local().not_yet(), "becomes valid only in")]
    {
        site.folder.identity("server", &site.authority.issue(&subject));
        let output = run(&flags);
        let text = String::from_utf8_lossy(&output.stderr);
        let parts = ["--tls-cert", "server.pem", why, "days", "--tls-allow-expired"];
        assert!(output.status.code() == Some(1) && parts.iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        let daemon = site.start(&["--tls-allow-expired"]);
        daemon.wait_for_log(&["WARN", "--tls-cert", "server.pem", why, "clients refuse it"]);
        assert!(try_connect(&daemon, &site.client()).is_err());
        daemon.stop();
    }
}

/// At SIGHUP, a certificate that can not serve does not replace one that can.
#[test]
fn a_certificate_that_can_not_serve_replaces_none() {
    let site = Site::new();
    let daemon = site.start(&[]);
    let config = site.client();
    let shown = |peer: &Peer| peer.session().peer_certificates().expect("a server's certificate")[0].clone();
    let first = shown(&connect(&daemon, &config));
    let (own, other) = (site.authority.server(), site.authority.server());
    for (identity, why) in [
        (site.authority.issue(&local().expired()), "the certificate expired"),
        (site.authority.issue(&local().not_yet()), "becomes valid only in"),
        (Identity { chain: own.chain, key: other.key }, "it is not the key of"),
    ] {
        site.folder.identity("server", &identity);
        daemon.signal(Signal::HUP);
        daemon.wait_for_log(&["ERROR SIGHUP: the old TLS files stay in force", why]);
        assert_eq!(shown(&connect(&daemon, &config)), first, "{why}");
    }
    site.folder.identity("server", &site.authority.server());
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["SIGHUP: new TLS files are in force"]);
    assert_ne!(shown(&connect(&daemon, &config)), first);
    daemon.stop();
}

#[test]
fn the_end_of_a_certificate_is_announced_in_a_unit_that_fits() {
    let site = Site::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970").as_secs();
    for (left, said) in [(10 * 86_400 + 3600, "expires in 10 days"), (5 * 3600 + 1800, "expires in 5 hours")] {
        site.folder.identity("server", &site.authority.issue(&local().until(now + left)));
        let daemon = site.start(&[]);
        daemon.wait_for_log(&["WARN", "--tls-cert", "server.pem", said]);
        daemon.stop();
    }
    site.folder.identity("server", &site.authority.issue(&local().until(now + 100 * 86_400)));
    let daemon = site.start(&[]);
    daemon.wait_for_log(&["serving"]);
    assert!(!daemon.log().contains("expires in"));
    daemon.stop();
}

#[test]
fn doing_without_tls_is_warned_of() {
    let site = Site::new();
    let open = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let daemon = Daemon::start(&["--listen", "0.0.0.0:0"]);
    daemon.wait_for_log(&["WARN", "0.0.0.0", "without TLS", "--require-tls"]);
    assert_eq!(daemon.log().matches("without TLS").count(), 1);
    assert_eq!(daemon.addresses()[0].ip(), open);
    let daemon = site.start(&["--listen", "127.0.0.1:0", "--require-tls"]);
    assert_eq!(daemon.carries(), ["plain", "tls, client certificates required"]);
    assert!(!daemon.log().contains("without TLS"));
}

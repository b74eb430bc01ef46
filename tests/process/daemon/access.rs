//! Rights over real connections: by source address, by certificate, and after SIGHUP.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, TcpStream},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;
use rustls::{
    HandshakeKind,
    version::{TLS12, TLS13},
};

use crate::{
    authority::Subject,
    harness::{Daemon, LB, MEMBER, Peer, TempFile, run},
    site::{Site, client, from},
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;
const REFUSED: ReturnCode = ReturnCode::NOT_ACCEPTED;

/// A peer from 127.0.0.`last`.
fn peer(daemon: &Daemon, last: u8) -> Peer {
    Peer::from(from(Ipv4Addr::new(127, 0, 0, last), daemon.address()))
}

/// Rules that make 127.0.0.`last` LB1.
fn lb1(last: u8) -> String {
    format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"127.0.0.{last}\"]\n")
}

fn start(file: &TempFile) -> Daemon {
    let identities = ["--lb-identity", "source-ip", "--member-identity", "source-ip", "--push-window", "1ms"];
    Daemon::start(&[&identities[..], &["--access", file.path()]].concat())
}

/// How many lines of the log have all of these parts.
fn lines(daemon: &Daemon, parts: &[&str]) -> usize {
    daemon.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

#[test]
fn peers_are_who_their_address_says() {
    let file = TempFile::new("access.toml", lb1(2));
    let mut daemon = start(&file);
    let mut lb = peer(&daemon, 2);
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    assert_eq!(lb.set_lb("LB2", LbFlags::TRUST), REFUSED);
    assert_eq!(lb.register(LB, "LB1", "G", &["127.0.0.5:80"]), OK);

    let mut stranger = peer(&daemon, 3);
    for _ in 0..3 {
        assert_eq!(stranger.set_lb("LB1", LbFlags::TRUST), REFUSED);
        assert_eq!(stranger.get_weights("LB1", &[""]), format!("{REFUSED:?} "));
    }
    // A member may name its own address and no other.
    assert_eq!(stranger.register(MEMBER, "LB1", "G", &["127.0.0.3:80"]), OK);
    assert_eq!(stranger.register(MEMBER, "LB1", "G", &["127.0.0.4:80"]), REFUSED);
    assert_eq!(stranger.deregister(MEMBER, "LB1", "G", &["127.0.0.5:80"]), REFUSED);
    assert_eq!(stranger.deregister(MEMBER, "LB1", "G", &[]), REFUSED);
    assert_eq!(stranger.set_member(MEMBER, ("LB1", "G", "127.0.0.5:80"), 1, true), REFUSED);
    assert_eq!(lb.get_weights("LB1", &[""]), "LB1/G [127.0.0.5:80 00/05/100, 127.0.0.3:80 00/01/100]");

    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    daemon.wait_for_log(&["requests=6", "it does not prove to be the load balancer"]);
    daemon.wait_for_log(&["requests=4", "it does not prove to be the member"]);
    daemon.wait_for_log(&["requests=1", "the connection is another load balancer's"]);
    // Each refusal is logged once.
    let told = ["WARN", "--lb-identity", "peer=127.0.0.3", "load_balancer=LB1"];
    assert_eq!(lines(&daemon, &told), 1, "{}", daemon.log());
    let told = ["WARN", "--member-identity", "peer=127.0.0.3", "load_balancer=LB1", "member=127.0.0.4:80"];
    assert_eq!(lines(&daemon, &told), 1, "{}", daemon.log());
    assert_eq!(lines(&daemon, &["WARN", "0x11"]), 3, "{}", daemon.log());
}

#[test]
fn so_are_peers_of_ipv6() {
    let rules = "[[lb]]\nuid = \"LB1\"\naddresses = [\"::1\"]\n\n[[lb]]\nuid = \"LB2\"\naddresses = [\"127.0.0.1\"]\n";
    let file = TempFile::new("access6.toml", rules);
    let flags = ["--listen", "[::1]:0", "--max-connections-per-source", "2", "--access", file.path()];
    let daemon =
        Daemon::start(&[&flags[..], &["--lb-identity", "source-ip", "--member-identity", "source-ip"]].concat());
    let (mut lb, mut member) = (daemon.connect(), daemon.connect());
    assert!(lb.stream().peer_addr().is_ok_and(|address| address.is_ipv6()));
    assert_eq!(lb.set_lb("LB2", LbFlags::TRUST), REFUSED);
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    assert_eq!(member.register(MEMBER, "LB1", "G", &["[2001:db8::1]:80"]), REFUSED);
    assert_eq!(member.register(MEMBER, "LB1", "G", &["[::1]:80"]), OK);
    assert_eq!(lb.get_weights("LB1", &[""]), "LB1/G [[::1]:80 00/01/100]");
    daemon.wait_for_log(&["0x11", "peer=::1", "member=[2001:db8::1]:80"]);
    // The address has its two permitted connections.
    let refused = TcpStream::connect(daemon.address()).and_then(|stream| stream.peek(&mut [0]));
    assert!(refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    daemon.wait_for_log(&["its address has --max-connections-per-source open", "[::1]:"]);
    daemon.stop();
}

#[test]
fn what_a_peer_writes_into_the_log_is_escaped() {
    let file = TempFile::new("escaped.toml", lb1(2));
    let daemon = start(&file);
    let mut stranger = peer(&daemon, 3);
    assert_eq!(stranger.set_lb("LB\n\u{1b}[2J\u{202e}", LbFlags::NONE), REFUSED);
    daemon.wait_for_log(&["peer=127.0.0.3", "load_balancer=LB\\n\\u{1b}[2J\\u{202e}"]);
    assert!(!daemon.log().contains('\u{1b}'));
    daemon.stop();
}

#[test]
fn sighup_brings_new_rules_to_sessions_that_are_there() {
    let file = TempFile::new("renewed.toml", lb1(2));
    let daemon = start(&file);
    let mut old = peer(&daemon, 2);
    assert_eq!(old.register(LB, "LB1", "G", &["10.0.0.1:80"]), OK);
    let mut new = peer(&daemon, 3);
    assert_eq!(new.set_lb("LB1", LbFlags::NONE), REFUSED);

    // A file that can not be read changes nothing.
    file.write(lb1(3) + "colour = 1\n");
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["the old access rules stay in force", &format!("{}:4:", file.path()), "colour"]);
    assert_eq!(new.set_lb("LB1", LbFlags::NONE), REFUSED);
    assert_eq!(old.set_lb("LB1", LbFlags::NONE), OK);

    file.write(lb1(3));
    daemon.signal(Signal::HUP);
    old.expect_end();
    daemon.wait_for_log(&["closed: the new --access file does not let it speak for its load balancer"]);
    assert_eq!(new.get_weights("LB1", &[""]), "LB1/G [10.0.0.1:80 00/05/100]");
    let mut again = peer(&daemon, 2);
    assert_eq!(again.set_lb("LB1", LbFlags::NONE), REFUSED);
    // The rules are new, so the refusal is logged again.
    daemon.wait_for_log(&["--lb-identity", "peer=127.0.0.2"]);
    daemon.stop();
}

#[test]
fn peers_are_who_their_certificate_says() {
    let site = Site::new();
    let file = TempFile::new("certificates.toml", "[[member]]\ncertificates = [\"web\"]\naddresses = [\"10.0.0.2\"]\n");
    let identities = ["--lb-identity", "certificate", "--member-identity", "certificate", "--access", file.path()];
    // A second listener without TLS, where no peer can show a certificate.
    let daemon = site.start(&[&identities[..], &["--listen", "127.0.0.1:0"]].concat());
    let tls = daemon.carries().iter().position(|carries| carries.starts_with("tls")).expect("a listener with TLS");
    let connect = |subject: Subject| {
        let identity = site.authority.issue(&subject);
        let stream = TcpStream::connect(daemon.addresses()[tls]).expect("the daemon accepts");
        Peer::secure(stream, &client(&site.authority, Some(&identity), &[&TLS13])).expect("the daemon shakes hands")
    };
    let own: IpAddr = [10, 0, 0, 1].into();
    let mut lb = connect(Subject::client().uri("sasp:lb:LB%201"));
    assert_eq!(lb.set_lb("LB 1", LbFlags::TRUST), OK);
    let mut wrong = connect(Subject::client().dns("LB1").dns("*").common_name("LB 1").address(own));
    assert_eq!(wrong.set_lb("LB 1", LbFlags::TRUST), REFUSED);
    daemon.wait_for_log(&["WARN", "--lb-identity", "certificate=LB1", "load_balancer=LB 1"]);
    // A refusal of one identity does not take the other away.
    assert_eq!(wrong.register(MEMBER, "LB 1", "G", &["10.0.0.1:80"]), OK);
    assert_eq!(wrong.register(MEMBER, "LB 1", "G", &["10.0.0.2:80"]), REFUSED);
    let mut web = connect(Subject::client().dns("web"));
    assert_eq!(web.register(MEMBER, "LB 1", "G", &["10.0.0.2:80"]), OK);
    assert_eq!(web.deregister(MEMBER, "LB 1", "G", &[]), REFUSED);

    let mut plain = Peer::connect(daemon.addresses()[1 - tls]);
    assert_eq!(plain.set_lb("LB 1", LbFlags::TRUST), REFUSED);
    assert_eq!(plain.register(MEMBER, "LB 1", "EMPTY", &[]), REFUSED);
    daemon.wait_for_log(&["WARN", "it showed no certificate", "peer=127.0.0.1", "load_balancer=LB 1"]);
    assert_eq!(lb.get_weights("LB 1", &[""]), "LB 1/G [10.0.0.1:80 00/01/100, 10.0.0.2:80 00/01/100]");
    daemon.stop();
}

#[test]
fn the_file_is_checked_at_the_start() {
    let file = TempFile::new("checked.toml", lb1(2));
    let check = |identity: &str| run(&["serve", "--check", identity, "source-ip", "--access", file.path()]);
    assert!(check("--lb-identity").status.success());
    let refused = |output: std::process::Output, part: &str| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains(part), "{text}");
    };
    refused(check("--member-identity"), &format!("{}:1: an [[lb]] has no effect", file.path()));
    file.write("[[lb]]\nuid = 7\n");
    refused(check("--lb-identity"), &format!("{}:2: ", file.path()));
}

/// The manual's access file is valid.
#[test]
fn the_manuals_example_is_valid() {
    let page = include_str!("../../../src/manual/gwm-access.5.md");
    let example = page.split("```toml\n").find(|part| part.starts_with("[[lb]]")).expect("it is there");
    let file = TempFile::new("manual.toml", example.split("```").next().expect("its end"));
    let identities = ["--lb-identity", "source-ip", "--member-identity", "source-ip"];
    let output = run(&[&["serve", "--check"], &identities[..], &["--access", file.path()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A resumed session has the certificate that the client showed at the session's start.
#[test]
fn a_resumed_session_is_who_it_was() {
    let site = Site::new();
    let daemon = site.start(&["--lb-identity", "certificate"]);
    for version in [&TLS12, &TLS13] {
        let config = client(&site.authority, Some(&site.authority.client("LB1")), &[version]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
            let mut lb = Peer::secure(stream, &config).expect("the daemon shakes hands");
            assert_eq!(lb.set_lb("LB2", LbFlags::NONE), REFUSED);
            assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
            let was = lb.session().handshake_kind().expect("it has ended");
            assert_eq!(was, kind, "{version:?}");
        }
    }
    daemon.stop();
}

//! The client over TLS, as a library and as `gwm lb` and `gwm member`, against a GWM that plays a script.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use gwm::{
    client::{Client, Error, ErrorKind, Tls},
    sasp::{ComponentType, GroupData, Health, LbFlags, MemberData, Message, ReturnCode, SenderFlags},
    tls as config,
};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use crate::{
    authority::{Authority, Folder, Identity, Subject},
    fake_gwm::{FakeGwm, Peer, push, reply, weights_reply},
};

const FARM: GroupData<'static> = GroupData { lb_uid: b"LB1", name: b"FARM1" };
const LONG: Duration = Duration::from_secs(30);
const OK: ReturnCode = ReturnCode::SUCCESSFUL;
const SET_LB_STATE: ComponentType = ComponentType::SET_LB_STATE_REQUEST;
const GET_WEIGHTS: ComponentType = ComponentType::GET_WEIGHTS_REQUEST;
const REGISTRATION: ComponentType = ComponentType::REGISTRATION_REQUEST;

type TlsPeer = Peer<StreamOwned<ServerConnection, std::net::TcpStream>>;

/// The GWM's TLS configuration: its identity, its versions, and the authority whose client certificates it asks for.
fn server(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Authority>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let (chain, key) = identity.der();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

fn over(peer: Peer, config: &Arc<ServerConfig>) -> TlsPeer {
    Peer(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), peer.0))
}

/// A GWM that plays a script for one connection over TLS.
fn gwm(config: Arc<ServerConfig>, script: impl FnOnce(TlsPeer) + Send + 'static) -> FakeGwm {
    FakeGwm::once(move |peer| script(over(peer, &config)))
}

/// A GWM for one connection that fails: it takes part in the handshake until the end.
fn gwm_in_vain(config: Arc<ServerConfig>) -> FakeGwm {
    gwm(config, |mut peer| peer.until_closed())
}

/// The TLS configuration of a client that trusts this authority.
fn client(authority: &Authority, server_name: &str, identity: Option<&Identity>) -> Tls {
    let trusted = config::trusted(Some(authority.pem().as_bytes())).unwrap();
    let config = config::client(trusted, identity.map(Identity::der)).unwrap();
    Tls { config, server_name: server_name.to_owned().try_into().unwrap() }
}

fn set_push(client: &mut Client) -> Result<(), Error> {
    client.set_lb_state(b"LB1", Health::BEST, LbFlags::PUSH)
}

/// Connects and makes one request.
fn attempt(gwm: &FakeGwm, tls: &Tls) -> Result<(), Error> {
    set_push(&mut Client::connect_tls(&gwm.address, LONG, tls)?)
}

#[test]
fn a_session_runs_over_either_version() {
    let authority = Authority::new("root");
    let identity = authority.intermediate("between").server();
    for version in [&TLS12, &TLS13] {
        let gwm = gwm(server(&identity, &[version], None), move |mut peer| {
            peer.answer(SET_LB_STATE, OK);
            let request = peer.read();
            let Ok((header, Message::RegistrationRequest(registration))) = Message::decode(&request) else { panic!() };
            let members: usize = registration.groups.into_iter().map(|group| group.entries().count()).sum();
            assert_eq!(members, 20_000);
            peer.write(&push(&[("FARM1", &[(1, 0x0D, 7)])]));
            peer.write(&reply(header.id, REGISTRATION, OK));
            let id = peer.expect(GET_WEIGHTS);
            let many: Vec<_> = (0..60_000u32).map(|at| (at as u8, 0x0D, at as u16)).collect();
            peer.write(&weights_reply(id, 60, &[("FARM1", &many)]));
            // A record, sent byte by byte.
            peer.0.conn.writer().write_all(&push(&[("FARM1", &[(1, 0x0D, 8)])])).unwrap();
            let mut record = Vec::new();
            while peer.0.conn.wants_write() {
                peer.0.conn.write_tls(&mut record).unwrap();
            }
            record.iter().for_each(|byte| peer.0.sock.write_all(&[*byte]).unwrap());
            // The client closes with close_notify, not with a reset or without a word.
            assert_eq!(peer.0.read(&mut [0]).unwrap(), 0);
            assert_eq!(peer.0.conn.protocol_version(), Some(version.version));
        });
        let tls = client(&authority, "localhost", None);
        let mut client = Client::connect_tls(&gwm.address, LONG, &tls).unwrap();
        set_push(&mut client).unwrap();
        let members = (0..20_000u32).map(|at| {
            let address = std::net::Ipv4Addr::from(0x0A00_0000 + at);
            MemberData { endpoint: gwm::sasp::Endpoint::new(address.into(), 6, 80), label: b"" }
        });
        client.register(SenderFlags::LOAD_BALANCER, [(FARM, members)]).unwrap();
        let reply = client.get_weights([FARM]).unwrap();
        let sum = |groups: gwm::sasp::Groups<'_, gwm::sasp::WeightedMember<'_>>| -> u64 {
            groups.into_iter().flat_map(|group| group.entries()).map(|member| u64::from(member.entry.weight)).sum()
        };
        assert_eq!(sum(reply.groups), (0..60_000u64).sum::<u64>());
        assert_eq!(sum(client.next_push(LONG).unwrap().unwrap().groups), 7);
        assert_eq!(sum(client.next_push(LONG).unwrap().unwrap().groups), 8);
        drop(client);
        gwm.end();
    }
}

#[test]
fn what_the_gwm_owes_is_taken_in_while_it_does_not_read() {
    let authority = Authority::new("root");
    let identity = authority.server();
    for version in [&TLS12, &TLS13] {
        let gwm = gwm(server(&identity, &[version], None), |mut peer| {
            // Over 40 MB in each direction, the GWM's first: more than the buffers of both sockets.
            let many: Vec<_> = (0..60_000u32).map(|at| (at as u8, 0x0D, 1)).collect();
            let push = push(&[("FARM1", &many)]);
            (0..16_000_000 / push.len() * 3).for_each(|_| peer.write(&push));
            let id = peer.expect(REGISTRATION);
            peer.write(&reply(id, REGISTRATION, OK));
        });
        let mut client = Client::connect_tls(&gwm.address, LONG, &client(&authority, "localhost", None)).unwrap();
        let label = [b'x'; 255];
        let member = |at: u32| {
            let address = std::net::Ipv4Addr::from(0x0A00_0000 + at);
            MemberData { endpoint: gwm::sasp::Endpoint::new(address.into(), 6, 80), label: &label }
        };
        let groups = [b"A", b"B", b"C"]
            .map(|name| (GroupData { lb_uid: b"LB1", name }, (0..50_000).map(member).collect::<Vec<_>>()));
        client.register(SenderFlags::LOAD_BALANCER, groups).unwrap();
        assert!(client.next_push(LONG).unwrap().is_some());
        gwm.end();
    }
}

#[test]
fn a_certificate_that_will_not_do_is_told_with_the_reason() {
    let authority = Authority::new("root");
    let other = Authority::new("other");
    let local = || Subject::server().dns("localhost").dns("gwm.example");
    for (identity, name, reason) in [
        (other.server(), "localhost", "shows a certificate of an authority that is not trusted here"),
        (
            authority.issue(&local()),
            "gwm.invalid",
            "shows a certificate that is not for gwm.invalid but for localhost, gwm.example",
        ),
        (
            authority.issue(&local()),
            "127.0.0.1",
            "shows a certificate that is not for 127.0.0.1 but for localhost, gwm.example",
        ),
        (
            authority.issue(&Subject::server()),
            "localhost",
            "shows a certificate that is not for localhost, nor for any name",
        ),
        (
            authority.issue(&local().expired()),
            "localhost",
            "shows a certificate that was valid until 2001-01-01T00:00:00Z",
        ),
        (
            authority.issue(&local().not_yet()),
            "localhost",
            "shows a certificate that is not valid before 3000-01-01T00:00:00Z",
        ),
        (authority.client("localhost"), "localhost", "shows a certificate that is not one for servers"),
        (
            authority.issue(&Subject::server().dns("\x1b]0;owned\x07gwm").uri("gwm:\x1b[2J")),
            "localhost",
            "shows a certificate that is not for localhost but for \\u{1b}]0;owned\\u{7}gwm, gwm:\\u{1b}[2J",
        ),
    ] {
        let gwm = gwm_in_vain(server(&identity, BOTH, None));
        let error = attempt(&gwm, &client(&authority, name, None)).unwrap_err();
        assert_eq!(error.to_string(), format!("GWM {}: {reason}", gwm.address));
        assert!(error.is_transient(), "{error}: the GWM may get a better one");
        gwm.end();
    }
}

#[test]
fn a_gwm_that_wants_certificates_says_what_it_does_not_take() {
    let authority = Authority::new("root");
    let other = Authority::new("other");
    let identity = authority.server();
    let refused = [
        (None, "wants a client certificate"),
        (Some(other.client("LB1")), "does not take our certificate: UnknownCA"),
        (
            Some(authority.issue(&Subject::client().dns("LB1").expired())),
            "not take our certificate: CertificateExpired",
        ),
        (Some(authority.issue(&Subject::server().dns("LB1"))), "does not take our certificate: "),
    ];
    for version in [&TLS12, &TLS13] {
        let config = server(&identity, &[version], Some(&authority));
        for (own, reason) in &refused {
            let gwm = gwm_in_vain(config.clone());
            let error = attempt(&gwm, &client(&authority, "localhost", own.as_ref())).unwrap_err();
            assert!(error.to_string().contains(reason), "{version:?}: {error}, not {reason}");
            assert!(!error.is_transient(), "{error}: our certificate will be no better");
            gwm.end();
        }
        let own = authority.intermediate("between").client("LB1");
        let gwm = gwm(config, move |mut peer| {
            peer.answer(SET_LB_STATE, OK);
            assert_eq!(peer.0.conn.peer_certificates().map(<[_]>::len), Some(2), "its chain goes with it");
        });
        attempt(&gwm, &client(&authority, "localhost", Some(&own))).unwrap();
        gwm.end();
    }
}

#[test]
fn what_speaks_no_tls_is_told_apart() {
    let authority = Authority::new("root");
    let tls = client(&authority, "localhost", None);
    let http = FakeGwm::once(|mut peer| {
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.until_closed();
    });
    let error = attempt(&http, &tls).unwrap_err();
    assert_eq!(error.to_string(), format!("GWM {}: does not speak TLS", http.address));
    assert!(error.is_transient());
    http.end();

    // Like a plain GWM: bytes that are not SASP end the connection.
    let closes = FakeGwm::once(|mut peer| drop(peer.0.read(&mut [0; 4096])));
    let error = attempt(&closes, &tls).unwrap_err();
    let expected = "closed the connection in the TLS handshake: it may not speak TLS";
    assert_eq!(error.to_string(), format!("GWM {}: {expected}", closes.address));
    assert!(matches!(error.kind, ErrorKind::ClosedInHandshake) && error.is_transient());
    closes.end();

    let silent = FakeGwm::once(|mut peer| peer.until_closed());
    let error = Client::connect_tls(&silent.address, Duration::from_millis(50), &tls).err().unwrap();
    assert!(error.to_string().contains("can not finish the TLS handshake: nothing happened within 50ms"), "{error}");
    assert!(matches!(error.kind, ErrorKind::TimedOut { .. }) && error.is_transient());
    silent.end();

    // And the other way round: a plain client at a TLS port.
    let port = FakeGwm::once({
        let config = server(&authority.server(), BOTH, None);
        move |peer| over(peer, &config).until_closed()
    });
    let error = set_push(&mut Client::connect(&port.address, LONG).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), format!("GWM {}: speaks TLS, and we do not", port.address));
    port.end();
}

#[test]
fn a_tls_version_that_is_not_spoken_here_is_named() {
    // A ServerHello for TLS 1.0.
    let hello: Vec<u8> = [&[22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1][..], &[7; 32], &[0, 0, 47, 0]].concat();
    let gwm = FakeGwm::once(move |mut peer| {
        let _ = peer.0.read(&mut [0; 4096]).unwrap();
        peer.write(&hello);
        peer.until_closed();
    });
    let error = attempt(&gwm, &client(&Authority::new("root"), "localhost", None)).unwrap_err();
    assert!(error.to_string().contains("speaks no TLS that is spoken here (1.2 and 1.3)"), "{error}");
    gwm.end();
}

#[test]
fn a_new_connection_resumes_the_session() {
    let authority = Authority::new("root");
    let identity = authority.server();
    for version in [&TLS12, &TLS13] {
        let config = server(&identity, &[version], None);
        let gwm = FakeGwm::start(move |listener| {
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let mut peer = over(Peer::accept(listener), &config);
                peer.answer(SET_LB_STATE, OK);
                assert_eq!(peer.0.conn.handshake_kind(), Some(kind));
            }
        });
        let tls = client(&authority, "localhost", None);
        attempt(&gwm, &tls).unwrap();
        attempt(&gwm, &tls).unwrap();
        gwm.end();
    }
}

// The command line, from here on.

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gwm")).args(arguments).env_clear().stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], expected: &str) {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(expected), "{stderr}");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]));
}

#[test]
fn commands_prove_who_they_are() {
    let authority = Authority::new("root");
    let folder = Folder::new();
    let ca = folder.write("ca.pem", authority.pem());
    let (cert, key) = folder.identity("member", &authority.client("web1"));
    let config = server(&authority.server(), BOTH, Some(&authority));
    let gwm = FakeGwm::start(move |listener| {
        for _ in 0..3 {
            over(Peer::accept(listener), &config).answer(REGISTRATION, OK);
        }
    });
    let by_name = gwm.address.replace("127.0.0.1", "localhost");
    let member = ["member", "register", "--lb=LB1", "--group=web", "--member=10.0.0.1:80"];
    let tls = ["--tls", "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    // The certificate must have the host of --gwm, which is a name or an address.
    for address in [&gwm.address, &by_name] {
        let output = run(&[&member[..], &tls, &["--gwm", address]].concat());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "Registration Request: successful (0x00)\n");
    }
    // The same from the environment, with a name for the certificate that --gwm does not have.
    let output = Command::new(env!("CARGO_BIN_EXE_gwm"))
        .args([&member[..], &["--gwm", &gwm.address]].concat())
        .env_clear()
        .envs([("GWM_CLIENT_TLS", "1"), ("GWM_CLIENT_TLS_CA", &ca), ("GWM_CLIENT_TLS_CERT", &cert)])
        .envs([("GWM_CLIENT_TLS_KEY", &key[..]), ("GWM_CLIENT_TLS_SERVER_NAME", "localhost")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "Registration Request: successful (0x00)\n");
    gwm.end();
}

/// A GWM whose certificate nobody else has signed: its own certificate is the one to trust.
#[test]
fn a_trusted_certificate_is_taken_from_the_gwm_itself() {
    let folder = Folder::new();
    let named = Subject::server().dns("localhost").address(std::net::Ipv4Addr::LOCALHOST.into());
    let register = |config: &Arc<ServerConfig>, ca: &str, good: bool| {
        let config = config.clone();
        let gwm = FakeGwm::once(move |peer| match good {
            true => over(peer, &config).answer(REGISTRATION, OK),
            false => over(peer, &config).until_closed(),
        });
        let member = ["member", "register", "--lb=LB1", "--group=web", "--member=10.0.0.1:80", "--tls"];
        let address = gwm.address.replace("127.0.0.1", "localhost");
        let output = run(&[&member[..], &["--tls-ca", ca, "--gwm", &address]].concat());
        gwm.end();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    for version in [&TLS12, &TLS13] {
        for (number, (subject, authority)) in
            [(named.clone(), true), (named.clone(), false), (Subject::server().common_name("localhost"), true)]
                .into_iter()
                .enumerate()
        {
            let identity = subject.self_signed(authority);
            let own = folder.write(&format!("own{number}.pem"), &identity.chain);
            let said = register(&server(&identity, &[version], None), &own, true);
            assert_eq!(said, "Registration Request: successful (0x00)\n");
        }
    }
    let other = folder.write("other.pem", &named.self_signed(false).chain);
    for (subject, trusted, reason) in [
        (named.clone(), Some(&other), "a certificate of an authority that is not trusted here"),
        (Subject::server().dns("mail.example"), None, "that is not for localhost but for mail.example"),
        (named.clone().expired(), None, "that was valid until 2001-01-01T00:00:00Z"),
        (named.not_yet(), None, "that is not valid before 3000-01-01T00:00:00Z"),
    ] {
        let identity = subject.self_signed(false);
        let own = folder.write("own.pem", &identity.chain);
        let said = register(&server(&identity, BOTH, None), trusted.unwrap_or(&own), false);
        assert!(said.contains(reason), "{said}, not {reason}");
    }
}

#[test]
fn flags_that_would_not_do_what_they_say_are_refused() {
    let authority = Authority::new("root");
    let folder = Folder::new();
    let ca = folder.write("ca.pem", authority.pem());
    let (cert, key) = folder.identity("one", &authority.client("one"));
    let (_, other_key) = folder.identity("other", &authority.client("other"));
    let no_file = folder.path("none.pem");
    let lb = ["lb", "weights", "--uid=LB1", "--take-over", "--gwm=127.0.0.1:1"];
    let with = |flags: &[&'static str]| [&lb[..], flags].concat();
    refused(&with(&["--tls-server-name=gwm"]), "error: --tls-server-name goes with --tls, which is not given");
    refused(&[&lb[..], &["--tls-ca", &ca]].concat(), "error: --tls-ca goes with --tls, which is not given");
    refused(&[&lb[..], &["--tls-cert", &cert]].concat(), "error: --tls-cert goes with --tls, which is not given");
    refused(&[&lb[..], &["--tls-key", &key]].concat(), "error: --tls-key goes with --tls, which is not given");
    refused(&with(&["--tls", "--tls-server-name=a b"]), "`a b` is neither a DNS name nor an IP address");

    let tls = [&lb[..], &["--tls", "--tls-ca"]].concat();
    let with = |flags: &[&str]| -> Vec<String> {
        tls.iter().copied().chain([&ca[..]]).chain(flags.iter().copied()).map(str::to_owned).collect()
    };
    let refused_with = |flags: &[&str], expected: &str| {
        let arguments = with(flags);
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    };
    refused_with(&["--tls-cert", &cert], "error: --tls-cert goes with --tls-key, which is not given");
    refused_with(&["--tls-key", &key], "error: --tls-key goes with --tls-cert, which is not given");
    refused_with(&["--tls-cert", &key, "--tls-key", &key], "--tls-cert: ");
    refused_with(&["--tls-cert", &cert, "--tls-key", &cert], "there is no private key (PEM) in it");
    refused_with(&["--tls-cert", &cert, "--tls-key", &other_key], "error: --tls-cert and --tls-key: ");
    refused(&[&tls[..], &[&no_file]].concat(), &format!("error: --tls-ca: can not read {no_file}: "));
    refused(&[&tls[..], &[&key]].concat(), &format!("error: --tls-ca: {key}: there is no certificate (PEM) in it"));
}

#[test]
fn watch_comes_back_to_a_gwm_whose_certificate_was_renewed_and_resumes_its_session() {
    let authority = Authority::new("root");
    let folder = Folder::new();
    let ca = folder.write("ca.pem", authority.pem());
    let expired = server(&authority.issue(&Subject::server().dns("localhost").expired()), BOTH, None);
    let good = server(&authority.server(), BOTH, None);
    let session = |listener: &TcpListener, config: &Arc<ServerConfig>, kind| {
        let mut peer = over(Peer::accept(listener), config);
        peer.answer(SET_LB_STATE, OK);
        let id = peer.expect(GET_WEIGHTS);
        peer.write(&weights_reply(id, 64, &[("web", &[(1, 0x0D, 10)])]));
        assert_eq!(peer.0.conn.handshake_kind(), Some(kind));
    };
    let gwm = FakeGwm::start(move |listener| {
        over(Peer::accept(listener), &expired).until_closed();
        session(listener, &good, HandshakeKind::Full);
        session(listener, &good, HandshakeKind::Resumed);
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_gwm"))
        .args([
            "lb",
            "watch",
            "--uid=LB1",
            "--retry=1s",
            "--updates=2",
            "--take-over",
            "--tls",
            "--tls-server-name=localhost",
        ])
        .args(["--tls-ca", &ca, "--gwm", &gwm.address])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let events: Vec<serde_json::Value> =
        lines.collect::<io::Result<Vec<_>>>().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["lost", "connected", "weights", "lost", "connected", "weights"]);
    let error = events[0]["error"].as_str().unwrap();
    assert!(error.ends_with("shows a certificate that was valid until 2001-01-01T00:00:00Z"), "{error}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    gwm.end();
}

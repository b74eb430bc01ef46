//! Checks over TLS.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::*;
use crate::{
    monitor::TlsFault,
    roster::{Tls, TlsSource},
    tls,
};

/// An authority, and a server with its certificate for `name`. A `rude` server answers half a head, ends TLS and sends
/// on.
fn tls_server(name: &str, valid: bool, rude: bool) -> (String, SocketAddr) {
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let certificate = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![name.into()]).expect("parameters");
    if !valid {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    }
    let server = params.signed_by(&key, &issuer).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .expect("a certificate and its key");
    let config = Arc::new(config);
    let address = serve(move |mut stream| {
        let mut connection = rustls::ServerConnection::new(config.clone()).expect("a configuration");
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        let head = request(&mut tls);
        if rude {
            connection.writer().write_all(b"HTTP/1.1 200 OK\r\n").expect("it has room");
            connection.send_close_notify();
            let mut end = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut end).expect("a vector takes all");
            }
            let _ = stream.write_all(&[&end[..], &[b'x'; 8000]].concat());
        } else if head.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:") {
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT eps=2\r\n\r\n");
            let _ = tls.read(&mut [0]);
        }
    });
    (certificate, address)
}

#[test]
fn https_members_prove_who_they_are() {
    let https = |server_name: Option<&str>, ca: Option<&str>, verify| {
        let source = TlsSource { verify, ca: ca.map(|pem| pem.as_bytes().to_vec()), identity: None };
        let config = tls::check(&source, &[]).expect("a configuration");
        let tls = Some(Tls { server_name: server_name.map(str::to_owned), config, source });
        Check::Http(Arc::new(Http { tls, ..http() }))
    };
    let good = Outcome::Load(Load { eps: 2.0, ..Load::default() });
    let bad = |fault| Outcome::Failed(Reason::Tls(fault));
    let (ca, address) = tls_server("web.example", true, false);
    let (other_ca, by_address) = tls_server("127.0.0.1", true, false);
    let (expired_ca, expired) = tls_server("web.example", false, false);
    assert_eq!(check(address, https(Some("web.example"), Some(&ca), true)), good);
    assert_eq!(check(address, https(Some("mail.example"), Some(&ca), true)), bad(TlsFault::OtherName));
    assert_eq!(check(address, https(None, Some(&ca), true)), bad(TlsFault::OtherName), "its address is not there");
    assert_eq!(check(by_address, https(None, Some(&other_ca), true)), good);
    assert_eq!(check(address, https(Some("web.example"), Some(&other_ca), true)), bad(TlsFault::UnknownAuthority));
    let long_ago = check(expired, https(Some("web.example"), Some(&expired_ca), true));
    assert!(matches!(long_ago, Outcome::Failed(Reason::Tls(TlsFault::Expired(700_000_000..)))), "{long_ago:?}");
    assert_eq!(check(expired, https(None, None, false)), good, "nothing is verified");

    // Servers that end too early, speak no TLS, or too much of it.
    let (rude_ca, rude) = tls_server("web.example", true, true);
    let closed = Outcome::Failed(Reason::Closed);
    assert_eq!(check(rude, https(Some("web.example"), Some(&rude_ca), true)), closed);
    let https = https(Some("web.example"), Some(&ca), true);
    let plain = serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read(&mut [0]);
    });
    assert_eq!(check(plain, https.clone()), bad(TlsFault::NotTls));
    let closes = serve(|mut stream| drop(stream.read(&mut [0; 4096])));
    assert!(matches!(check(closes, https.clone()), Outcome::Failed(Reason::Tls(TlsFault::Closed) | Reason::Closed)));
    let endless = serve(|mut stream| while stream.write_all(&[22, 3, 3, 0, 4, 2, 0, 0xFF, 0xFF]).is_ok() {});
    assert!(matches!(check(endless, https), Outcome::Failed(_)));
}

/// `openssl` in a folder of its own, which also has what it makes.
struct OpenSsl {
    folder: PathBuf,
    servers: Vec<Child>,
}

impl OpenSsl {
    fn new(name: &str) -> OpenSsl {
        let folder = std::env::temp_dir().join(format!("gwm-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the test");
        OpenSsl { folder, servers: Vec::new() }
    }

    /// Runs these words to their end.
    fn run(&self, words: &str) {
        let output = self.command(words).output().expect("openssl is there (tests/run installs it)");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new("openssl");
        command.args(words.split_whitespace()).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.folder.join(file)).expect("it was made")
    }

    /// An HTTP server over TLS with these words.
    fn serve(&mut self, words: &str) -> SocketAddr {
        let words = format!("s_server -accept 127.0.0.1:0 -www {words}");
        let mut child = self.command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("openssl");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        self.servers.push(child);
        let accepts = |line: io::Result<String>| line.ok()?.strip_prefix("ACCEPT ")?.parse().ok();
        lines.into_iter().find_map(accepts).unwrap_or_else(|| panic!("no server: {words}"))
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn openssls_servers_are_judged_by_what_they_show() {
    let mut openssl = OpenSsl::new("checks-tls");
    let made = |openssl: &OpenSsl, name: &str, words: &str| {
        openssl.run(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
        openssl.run(&format!("req -x509 -key {name}.key -out {name}.pem -days 3 {words}"));
    };
    made(&openssl, "own", "-subj /CN=web.example -addext subjectAltName=DNS:web.example,DNS:*.web.example");
    made(&openssl, "leaf", "-subj /CN=web.example -addext basicConstraints=critical,CA:FALSE");
    made(&openssl, "other", "-subj /CN=web.example");
    // Without extensions, a certificate is one of X.509 v1.
    for (name, key) in [("v1", "ecparam -name prime256v1 -genkey -noout"), ("rsa", "genrsa")] {
        openssl.run(&format!("{key} -out {name}.key"));
        openssl.run(&format!("req -new -key {name}.key -subj /CN=web.example -out {name}.csr"));
        openssl.run(&format!("x509 -req -in {name}.csr -signkey {name}.key -days 3 -out {name}.pem"));
    }
    openssl.run("genrsa -out weak.key 1024");
    openssl.run("req -x509 -key weak.key -out weak.pem -days 3 -subj /CN=web.example");
    openssl.run("req -new -key own.key -subj /CN=web.example -out below.csr");
    openssl.run("x509 -req -in below.csr -signkey own.key -days -1 -out past.pem");
    // Without extensions of the request, these are of X.509 v1.
    openssl.run("x509 -req -in below.csr -CA own.pem -CAkey own.key -days 3 -out below.pem");
    openssl.run("x509 -req -in below.csr -CA own.pem -CAkey own.key -days -1 -out gone.pem");
    for (name, extensions) in [
        ("cn", "basicConstraints=CA:FALSE"),
        ("mighty", "basicConstraints=CA:TRUE\nsubjectAltName=DNS:web.example"),
        ("client", "basicConstraints=CA:TRUE\nextendedKeyUsage=clientAuth"),
    ] {
        fs::write(openssl.folder.join("extensions"), extensions).expect("a file for the test");
        let words = "x509 -req -in below.csr -CA own.pem -CAkey own.key -days 3 -extfile extensions";
        openssl.run(&format!("{words} -out {name}.pem"));
    }
    let [own, leaf, v1, rsa, weak] = ["own", "leaf", "v1", "rsa", "weak"].map(|name| {
        let weak = if name == "weak" { "-cipher ALL:@SECLEVEL=0" } else { "" };
        openssl.serve(&format!("-cert {name}.pem -key {name}.key {weak}"))
    });
    let issued = ["past", "below", "gone", "cn", "mighty", "client"];
    let [past, below, gone, cn, mighty, client] =
        issued.map(|name| openssl.serve(&format!("-cert {name}.pem -key own.key")));
    let [rsa12, cbc, exchange, old] = [
        "-tls1_2",
        "-tls1_2 -cipher ECDHE-RSA-AES256-SHA384",
        "-tls1_2 -cipher AES128-GCM-SHA256",
        "-tls1_1 -cipher ALL:@SECLEVEL=0",
    ]
    .map(|words| openssl.serve(&format!("-cert rsa.pem -key rsa.key {words}")));
    let silent = serve(|mut stream| drop(stream.read(&mut [0; 4096])));
    let kinds = ["ed25519", "ed448", "rsa-pss", "EC -pkeyopt ec_paramgen_curve:secp521r1"];
    let [ed25519, ed448, pss, p521] = kinds.map(|kind| {
        let name = kind.split(' ').next().expect("a word");
        openssl.run(&format!("genpkey -algorithm {kind} -out {name}.key"));
        openssl.run(&format!("req -x509 -key {name}.key -out {name}.pem -days 3 -subj /CN=web.example"));
        openssl.serve(&format!("-cert {name}.pem -key {name}.key"))
    });

    let trusting = |name: Option<&str>, ca: Option<&str>| {
        let source = TlsSource { verify: ca.is_some(), ca: ca.map(|file| openssl.read(file)), identity: None };
        let config = tls::check(&source, &[]).unwrap_or_else(|error| panic!("{ca:?}: {error}"));
        let tls = Some(Tls { server_name: name.map(str::to_owned), config, source });
        Check::Http(Arc::new(Http { path: "/".into(), tls, ..Http::default() }))
    };
    let name = Some("web.example");
    for (server, name, ca) in [
        // A trusted certificate, shown by the server itself.
        (own, name, Some("own.pem")),
        (own, Some("a.web.example"), Some("own.pem")),
        (own, None, Some("own.pem")),
        (leaf, name, Some("leaf.pem")),
        (v1, name, Some("v1.pem")),
        (rsa, name, Some("rsa.pem")),
        (rsa12, name, Some("rsa.pem")),
        // What an authority has signed in a form that rustls refuses.
        (below, name, Some("own.pem")),
        (cn, name, Some("own.pem")),
        (mighty, name, Some("own.pem")),
        // Any certificate.
        (own, name, None),
        (v1, name, None),
        (weak, name, None),
        (past, name, None),
        (ed25519, name, Some("ed25519.pem")),
        (p521, name, Some("EC.pem")),
        (ed25519, name, None),
        (ed448, name, None),
        (pss, name, None),
        (p521, name, None),
    ] {
        assert_eq!(check(server, trusting(name, ca)), Outcome::Passed, "{name:?} {ca:?}");
    }
    for (server, name, ca, fault) in [
        (own, Some("mail.example"), Some("own.pem"), TlsFault::OtherName),
        (own, Some("a.b.web.example"), Some("own.pem"), TlsFault::OtherName),
        (leaf, Some("mail.example"), Some("leaf.pem"), TlsFault::OtherName),
        (own, name, Some("other.pem"), TlsFault::Authority),
        (leaf, name, Some("other.pem"), TlsFault::UnknownAuthority),
        (v1, name, Some("other.pem"), TlsFault::Certificate),
        (below, Some("mail.example"), Some("own.pem"), TlsFault::OtherName),
        (below, None, Some("own.pem"), TlsFault::OtherName),
        (cn, Some("mail.example"), Some("own.pem"), TlsFault::OtherName),
        (mighty, Some("mail.example"), Some("own.pem"), TlsFault::OtherName),
        (client, name, Some("own.pem"), TlsFault::Purpose),
        // An authority of the same name, and one that may not sign.
        (below, name, Some("other.pem"), TlsFault::Certificate),
        (cn, name, Some("other.pem"), TlsFault::UnknownAuthority),
        (mighty, name, Some("other.pem"), TlsFault::Authority),
        (below, name, Some("leaf.pem"), TlsFault::Certificate),
        (ed448, name, Some("ed448.pem"), TlsFault::NothingInCommon),
        (pss, name, Some("rsa-pss.pem"), TlsFault::NothingInCommon),
        (cbc, name, None, TlsFault::NothingInCommon),
        (exchange, name, None, TlsFault::NothingInCommon),
        (old, name, None, TlsFault::Version),
        (silent, name, None, TlsFault::Closed),
    ] {
        let outcome = check(server, trusting(name, ca));
        assert_eq!(outcome, Outcome::Failed(Reason::Tls(fault)), "{name:?} {ca:?}");
    }
    for (server, ca) in [(past, "past.pem"), (gone, "own.pem")] {
        let expired = check(server, trusting(name, Some(ca)));
        let Outcome::Failed(Reason::Tls(TlsFault::Expired(seconds))) = expired else { panic!("{ca}: {expired:?}") };
        assert!((86_000..90_000).contains(&seconds), "{seconds}");
    }
}

/// A fault deep inside a check: a panic in the middle of the handshake, or before it begins.
#[derive(Debug)]
struct Faulty;

impl ServerCertVerifier for Faulty {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        panic!("a fault that this test makes")
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("the certificate comes first")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("the certificate comes first")
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientSessionStore for Faulty {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        panic!("a fault that this test makes")
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[test]
fn a_fault_inside_one_check_ends_that_check_alone() {
    let (_, address) = tls_server("web.example", true, false);
    let source = TlsSource { verify: false, ca: None, identity: None };
    let good = tls::check(&source, &[]).expect("a configuration");
    let (mut verifies, mut begins) = (ClientConfig::clone(&good), ClientConfig::clone(&good));
    verifies.dangerous().set_certificate_verifier(Arc::new(Faulty));
    begins.resumption = Resumption::store(Arc::new(Faulty));
    let mut prober = Prober::new(false).expect("an epoll set");
    let configs = [good.clone(), verifies.into(), begins.into(), good];
    for _ in 0..2 {
        for (number, config) in configs.iter().enumerate() {
            let tls = Tls { server_name: Some("web.example".into()), config: config.clone(), source: source.clone() };
            prober.start(
                number,
                &endpoint(address),
                &Check::Http(Arc::new(Http { tls: Some(tls), ..http() })),
                None,
                NEVER,
            );
        }
        let fault = Outcome::Inconclusive(Reason::Fault);
        let well = Outcome::Load(Load { eps: 2.0, ..Load::default() });
        assert_eq!(finish(&mut prober), [(0, well), (1, fault), (2, fault), (3, well)]);
    }
}

//! Checks over TLS.

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
        let config = tls::check(&source).expect("a configuration");
        let tls = Some(Tls { server_name: server_name.map(str::to_owned), config, source });
        Check::Http(Arc::new(Http { tls, ..http() }))
    };
    let good = Outcome::Load(Load { eps: 2.0, ..Load::default() });
    let bad = Outcome::Failed(Reason::Tls);
    let (ca, address) = tls_server("web.example", true, false);
    let (other_ca, by_address) = tls_server("127.0.0.1", true, false);
    let (expired_ca, expired) = tls_server("web.example", false, false);
    assert_eq!(check(address, https(Some("web.example"), Some(&ca), true)), good);
    assert_eq!(check(address, https(Some("mail.example"), Some(&ca), true)), bad, "another name");
    assert_eq!(check(address, https(None, Some(&ca), true)), bad, "its address is not in the certificate");
    assert_eq!(check(by_address, https(None, Some(&other_ca), true)), good);
    assert_eq!(check(address, https(Some("web.example"), Some(&other_ca), true)), bad, "another authority");
    assert_eq!(check(expired, https(Some("web.example"), Some(&expired_ca), true)), bad, "long ago");
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
    assert_eq!(check(plain, https.clone()), bad);
    let closes = serve(|mut stream| drop(stream.read(&mut [0; 4096])));
    assert!(matches!(check(closes, https.clone()), Outcome::Failed(Reason::Tls | Reason::Closed)));
    let endless = serve(|mut stream| while stream.write_all(&[22, 3, 3, 0, 4, 2, 0, 0xFF, 0xFF]).is_ok() {});
    assert!(matches!(check(endless, https), Outcome::Failed(_)));
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
    let good = tls::check(&source).expect("a configuration");
    let (mut verifies, mut begins) = (ClientConfig::clone(&good), ClientConfig::clone(&good));
    verifies.dangerous().set_certificate_verifier(Arc::new(Faulty));
    begins.resumption = Resumption::store(Arc::new(Faulty));
    let mut prober = Prober::new(false).expect("an epoll set");
    let configs = [good.clone(), verifies.into(), begins.into(), good];
    for _ in 0..2 {
        for (number, config) in configs.iter().enumerate() {
            let tls = Tls { server_name: Some("web.example".into()), config: config.clone(), source: source.clone() };
            prober.start(number, &endpoint(address), &Check::Http(Arc::new(Http { tls: Some(tls), ..http() })), NEVER);
        }
        let fault = Outcome::Inconclusive(Reason::Fault);
        let well = Outcome::Load(Load { eps: 2.0, ..Load::default() });
        assert_eq!(finish(&mut prober), [(0, well), (1, fault), (2, fault), (3, well)]);
    }
}

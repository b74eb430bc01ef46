//! TLS between the player and a server that is started for a run: an authority made for that run, what it issues, and
//! how the player's connections speak. Keys exist in memory only.

use std::sync::Arc;

use clap::ValueEnum;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    version,
};

use crate::{Result, files::MemoryFile};

/// The name that the server proves.
pub(crate) const SERVER: &str = "localhost";

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// TLS 1.2.
    #[value(name = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[value(name = "1.3")]
    Tls13,
}

impl Version {
    /// Its number.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        }
    }

    fn supported(self) -> &'static SupportedProtocolVersion {
        match self {
            Version::Tls12 => &version::TLS12,
            Version::Tls13 => &version::TLS13,
        }
    }
}

/// Both ends of TLS in a run.
#[derive(Debug)]
pub(crate) struct Tls {
    authority: MemoryFile,
    certificate: MemoryFile,
    key: MemoryFile,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// New keys and certificates for both ends, of which the player's speaks this version.
    pub(crate) fn new(version: Version) -> Result<Tls> {
        make(version).map_err(|error| format!("can not make certificates: {error}"))
    }

    /// What tells a server to speak it, and nothing but it.
    pub(crate) fn flags(&self) -> [(&'static str, String); 4] {
        let path = |file: &MemoryFile| file.path().display().to_string();
        [
            ("--tls-listen", "127.0.0.1:0".into()),
            ("--tls-cert", path(&self.certificate)),
            ("--tls-key", path(&self.key)),
            ("--tls-client-ca", path(&self.authority)),
        ]
    }

    /// How the player speaks it: every connection with a handshake of its own.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}

/// The same client with a memory of its own for the session that it was in last.
pub(crate) fn remembering(client: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut client = ClientConfig::clone(client);
    client.resumption = Resumption::in_memory_sessions(1);
    Arc::new(client)
}

fn make(version: Version) -> std::result::Result<Tls, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?; // ECDSA P-256
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let issue = |name: &str, purpose| -> std::result::Result<_, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![purpose];
        Ok((params.signed_by(&key, &issuer)?, key))
    };
    let (server, server_key) = issue(SERVER, ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = issue("loadgen", ExtendedKeyUsagePurpose::ClientAuth)?;

    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone())?;
    let chain: Vec<CertificateDer<'static>> = vec![client.der().clone()];
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version.supported()])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(client_key.serialize_der().into()))?;
    config.resumption = Resumption::disabled();
    Ok(Tls {
        authority: MemoryFile::new(&root.pem())?,
        certificate: MemoryFile::new(&server.pem())?,
        key: MemoryFile::new(&server_key.serialize_pem())?,
        client: Arc::new(config),
    })
}

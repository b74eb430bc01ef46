//! What the server, its https checks and its clients trust and prove over TLS, made from what the operator gives.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    WantsVerifier,
    client::{
        Resumption, WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};

use super::TlsVersion;
use crate::{access::Certificate, roster::TlsSource};

/// What the server's TLS is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Its certificate chain.
    pub certificate: PathBuf,
    /// The chain's private key.
    pub key: PathBuf,
    /// Who vouches for clients; without it nobody asks them for a certificate.
    pub client_ca: Option<PathBuf>,
    /// The oldest version.
    pub min_version: TlsVersion,
}

/// The server's side of TLS.
#[derive(Clone)]
pub struct Server {
    /// Where it comes from.
    pub files: Files,
    /// How, ready to use.
    pub config: Arc<ServerConfig>,
    /// What the files said, to tell whether they changed.
    content: Content,
    /// When the certificate ends, in seconds since 1970.
    not_after: u64,
}

const DAY: u64 = 24 * 3600;

/// How long before its certificate ends a server warns of that.
const EXPIRY_WARNING: u64 = 14 * DAY;

#[derive(Clone, PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Files { certificate, key, client_ca, .. } = self;
        write!(f, "{}, {}", certificate.display(), key.display())?;
        client_ca.as_ref().map_or(Ok(()), |ca| write!(f, ", {}", ca.display()))
    }
}

impl fmt::Debug for Server {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads the files; an error is one line for the operator.
    pub fn read(files: Files) -> Result<Server, String> {
        let content = Content {
            certificate: flag_file("--tls-cert", &files.certificate)?,
            key: flag_file("--tls-key", &files.key)?,
            client_ca: files.client_ca.as_deref().map(|path| flag_file("--tls-client-ca", path)).transpose()?,
        };
        let config = server(&files, &content)?;
        let own = certificates(&content.certificate)?.into_iter().next();
        let own = own.map(|own| Certificate::parse(&own)).transpose();
        let own = own.map_err(|error| format!("--tls-cert: {}: {error}", files.certificate.display()))?;
        Ok(Server { files, config, content, not_after: own.unwrap_or_default().not_after })
    }

    /// A line about the end of the certificate, if it is near or past; clients refuse one that has ended.
    pub fn expiry(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let file = self.files.certificate.display();
        match self.not_after.checked_sub(now) {
            None => Some(format!("--tls-cert: {file}: the certificate has expired: clients will refuse it")),
            Some(left) if left < EXPIRY_WARNING => {
                Some(format!("--tls-cert: {file}: the certificate expires in {} days", left / DAY))
            }
            Some(_) => None,
        }
    }

    /// Reads the files again; `None` if they say what they said.
    pub fn read_again(&self) -> Result<Option<Server>, String> {
        // A new configuration has a new key for tickets: no session is resumed that the new files would refuse.
        Server::read(self.files.clone()).map(|new| (new.content != self.content).then_some(new))
    }
}

fn server(files: &Files, content: &Content) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = match files.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
        TlsVersion::Tls13 => &[&TLS13][..],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match (&content.client_ca, &files.client_ca) {
        (Some(ca), Some(path)) => {
            let of_ca = |error: String| format!("--tls-client-ca: {}: {error}", path.display());
            let roots = Arc::new(roots(Some(ca)).map_err(of_ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| of_ca(error.to_string()))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let of_cert = |error| format!("--tls-cert: {}: {error}", files.certificate.display());
    let of_key = |error| format!("--tls-key: {}: {error}", files.key.display());
    let chain = certificates(&content.certificate).map_err(of_cert)?;
    let key = key(&content.key).map_err(of_key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => of_key(format!("it is not the key of {}", files.certificate.display())),
        error => of_cert(error.to_string()),
    })?;
    // Sessions are resumed from tickets alone: the server keeps nothing of a connection that has ended.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("can not make a key for tickets: {error}"))?;
    // A client resumes with one connection, and gets a new ticket there.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// How checks speak TLS; an error says what can not be used, without the file's name.
pub fn check(source: &TlsSource) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = builder(provider.clone())?;
    let builder = match source.verify {
        true => builder.with_root_certificates(roots(source.ca.as_deref())?),
        false => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))),
    };
    let identity = match &source.identity {
        Some((chain, private)) => {
            Some((certificates(chain)?, key(private).map_err(|error| format!("the key: {error}"))?))
        }
        None => None,
    };
    let mut config = identified(builder, identity)?;
    // A resumed session would not show the certificate, and so hide that it has expired.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// How a client of a GWM speaks TLS: whom it trusts, and who it is itself. Whoever keeps this resumes sessions.
pub fn client(roots: RootCertStore, identity: Option<Identity>) -> Result<Arc<ClientConfig>, String> {
    let builder = builder(Arc::new(aws_lc_rs::default_provider()))?.with_root_certificates(roots);
    Ok(Arc::new(identified(builder, identity)?))
}

/// A certificate chain, the own one first, and the private key to it.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn builder(provider: Arc<CryptoProvider>) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

fn identified(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<Identity>,
) -> Result<ClientConfig, String> {
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("certificate and key: {error}"))
        }
    }
}

/// The longest file that is read: some thousand certificates.
const FILE_BYTES: u64 = 16 << 20;

/// A file with certificates or a key; an error names it.
pub fn file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes)) {
        Err(error) => Err(format!("can not read {}: {error}", path.display())),
        Ok(_) if bytes.len() as u64 > FILE_BYTES => Err(format!("{} has more than {FILE_BYTES} bytes", path.display())),
        Ok(_) => Ok(bytes),
    }
}

/// As [`file()`]; an error names the flag too.
pub fn flag_file(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    file(path).map_err(|error| format!("{flag}: {error}"))
}

/// The certificates in PEM text, at least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("there is no certificate (PEM) in it".into()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

/// The first private key in PEM text.
pub fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    /// What PEM says of a key that takes a passphrase, in PKCS#8 as in the formats before it.
    const ENCRYPTED: &[u8] = b"ENCRYPTED";
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        _ if pem.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) => {
            "the key takes a passphrase, and nobody is asked for one: give it without (openssl pkey -in FILE)".into()
        }
        pem::Error::NoItemsFound => "there is no private key (PEM) in it".into(),
        error => error.to_string(),
    })
}

/// Whom to trust: the given authorities, else this machine's.
pub fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
        None => {
            // Some of a machine's certificates may be ones that rustls does not read.
            let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if added == 0 {
                return Err("this machine trusts no certificate authority: name one (ca), or install \
                            ca-certificates"
                    .into());
            }
        }
    }
    Ok(roots)
}

/// Takes any certificate, but wants the proof that its key is there: what `verify = false` asks for.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! Certificates and keys from files, and the TLS settings made of them: for the server, for `https` checks, and for
//! clients of a GWM.

mod trust;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    ClientConfig, ConfigBuilder, Error, RootCertStore, ServerConfig,
    client::{Resumption, WantsClientCert, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};

use thiserror::Error as ThisError;

use self::trust::{Anyone, Trusting};
pub use self::trust::{Trusted, trusted};
use crate::{access::Certificate, roster::TlsSource};

/// Why certificates, keys or the files with them can not be used.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// The system does not give the file.
    #[error("can not read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The file is too large.
    #[error("{} has more than {FILE_BYTES} bytes", _0.display())]
    TooLarge(PathBuf),
    /// The text has no certificate.
    #[error("there is no certificate (PEM) in it")]
    NoCertificate,
    /// The text has no private key.
    #[error("there is no private key (PEM) in it")]
    NoKey,
    /// The private key needs a passphrase.
    #[error("the key has a passphrase, which gwm does not ask for: remove the passphrase (openssl pkey -in FILE)")]
    EncryptedKey,
    /// The key belongs to another certificate.
    #[error("it is not the key of {}", _0.display())]
    OtherKey(PathBuf),
    /// The text is not PEM.
    #[error("{0}")]
    Pem(pem::Error),
    /// This machine has no authorities.
    #[error("this machine trusts no certificate authority: name one (ca), or install ca-certificates")]
    NoAuthority,
    /// rustls refuses it.
    #[error("{0}")]
    Refused(Error),
    /// The certificate does not parse.
    #[error("{0}")]
    Certificate(String),
    /// Clients refuse the server's certificate now.
    #[error("{0}: clients refuse it (--tls-allow-expired serves it all the same)")]
    Untimely(Untimely),
    /// A client's certificate and key do not go together.
    #[error("certificate and key: {0}")]
    Identity(Error),
    /// A flag or a key of a file names what can not be used.
    #[error("{name}: {error}")]
    Named {
        /// The flag, perhaps with the file.
        name: String,
        /// Why.
        error: Box<TlsError>,
    },
}

impl TlsError {
    /// The same error, of this flag.
    pub fn of(self, name: impl fmt::Display) -> TlsError {
        TlsError::Named { name: name.to_string(), error: Box::new(self) }
    }
}

/// A certificate outside its validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untimely {
    /// The validity ended so many seconds ago.
    Expired(u64),
    /// The validity begins in so many seconds.
    Early(u64),
}

impl fmt::Display for Untimely {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Untimely::Expired(seconds) => write!(f, "the certificate expired {} ago", span(seconds)),
            Untimely::Early(seconds) => {
                write!(f, "the certificate becomes valid only in {} (is the clock right?)", span(seconds))
            }
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The files of the server's TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate chain.
    pub certificate: PathBuf,
    /// The chain's private key.
    pub key: PathBuf,
    /// The authorities of clients' certificates; without this file no client is asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// The oldest version.
    pub min_version: Version,
    /// The server uses a certificate outside its validity too.
    pub allow_expired: bool,
}

/// The server's side of TLS.
#[derive(Clone)]
pub struct Server {
    /// The files that the settings come from.
    pub files: Files,
    /// Ready to use.
    pub config: Arc<ServerConfig>,
    /// The content of the files, to see whether they changed.
    content: Content,
    /// The certificate's validity, in seconds since 1970.
    not_before: u64,
    not_after: u64,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The server warns for this long before its certificate ends.
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

impl Content {
    fn read(files: &Files) -> Result<Content, TlsError> {
        Ok(Content {
            certificate: flag_file("--tls-cert", &files.certificate)?,
            key: flag_file("--tls-key", &files.key)?,
            client_ca: files.client_ca.as_deref().map(|path| flag_file("--tls-client-ca", path)).transpose()?,
        })
    }
}

impl Server {
    /// Reads the files. A certificate outside its validity is an error, unless the operator allows it.
    pub fn read(files: Files, now: SystemTime) -> Result<Server, TlsError> {
        let content = Content::read(&files)?;
        Server::new(files, content, now)
    }

    fn new(files: Files, content: Content, now: SystemTime) -> Result<Server, TlsError> {
        let config = server(&files, &content)?;
        let own = certificates(&content.certificate)?.into_iter().next();
        let own = own.map(|own| Certificate::parse(&own)).transpose();
        let of_cert = |error: TlsError| error.of(format_args!("--tls-cert: {}", files.certificate.display()));
        let own = own.map_err(|error| of_cert(TlsError::Certificate(error.to_string())))?.unwrap_or_default();
        let (not_before, not_after) = (own.not_before, own.not_after);
        let server = Server { config, content, not_before, not_after, files: files.clone() };
        match server.untimely(now) {
            Some(untimely) if !files.allow_expired => Err(of_cert(TlsError::Untimely(untimely))),
            _ => Ok(server),
        }
    }

    /// Whether the certificate is outside its validity.
    fn untimely(&self, now: SystemTime) -> Option<Untimely> {
        let now = seconds(now);
        match (now.checked_sub(self.not_after), self.not_before.checked_sub(now)) {
            (Some(since @ 1..), _) => Some(Untimely::Expired(since)),
            (_, Some(left @ 1..)) => Some(Untimely::Early(left)),
            _ => None,
        }
    }

    /// A warning if the certificate is outside its validity, or will be soon.
    pub fn expiry(&self, now: SystemTime) -> Option<String> {
        let file = self.files.certificate.display();
        if let Some(untimely) = self.untimely(now) {
            return Some(format!("--tls-cert: {file}: {untimely}: clients refuse it"));
        }
        let left = self.not_after.saturating_sub(seconds(now));
        (left < EXPIRY_WARNING).then(|| format!("--tls-cert: {file}: the certificate expires in {}", span(left)))
    }

    /// Reads the files again; `None` if their content is the same.
    pub fn read_again(&self, now: SystemTime) -> Result<Option<Server>, TlsError> {
        let content = Content::read(&self.files)?;
        if content == self.content {
            return Ok(None);
        }
        // New settings have a new key for tickets: no session is resumed that the new files would refuse.
        Server::new(self.files.clone(), content, now).map(Some)
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A time in the unit in which its number is 2 or more.
fn span(seconds: u64) -> String {
    let units = [(DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes"), (1, "seconds")];
    let (length, unit) = units.into_iter().find(|(length, _)| seconds / length > 1).unwrap_or((1, "seconds"));
    format!("{} {unit}", seconds / length)
}

fn server(files: &Files, content: &Content) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = match files.min_version {
        Version::Tls12 => &[&TLS13, &TLS12][..],
        Version::Tls13 => &[&TLS13][..],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(TlsError::Refused)?;
    let builder = match (&content.client_ca, &files.client_ca) {
        (Some(ca), Some(path)) => {
            let of_ca = |error: TlsError| error.of(format_args!("--tls-client-ca: {}", path.display()));
            let roots = Arc::new(roots(ca).map_err(of_ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder
                .with_client_cert_verifier(verifier.map_err(|error| of_ca(TlsError::Certificate(error.to_string())))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let of_cert = |error: TlsError| error.of(format_args!("--tls-cert: {}", files.certificate.display()));
    let of_key = |error: TlsError| error.of(format_args!("--tls-key: {}", files.key.display()));
    let chain = certificates(&content.certificate).map_err(of_cert)?;
    let key = key(&content.key).map_err(of_key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => of_key(TlsError::OtherKey(files.certificate.clone())),
        error => of_cert(TlsError::Refused(error)),
    })?;
    // Sessions are resumed from tickets only: the server keeps nothing of an ended connection.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer =
        aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Refused(error).of("can not make a key for tickets"))?;
    // A client resumes one connection, and gets a new ticket there.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The TLS settings of checks. `protocols` are those to offer above TLS (ALPN); none for HTTP/1.
pub fn check(source: &TlsSource, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier: Arc<dyn ServerCertVerifier> = match source.verify {
        true => Arc::new(Trusting { trusted: trusted(source.ca.as_deref())?, algorithms, lenient: true }),
        false => Arc::new(Anyone(algorithms)),
    };
    let builder = builder(provider, verifier)?;
    let identity = match &source.identity {
        Some((chain, private)) => Some((certificates(chain)?, key(private).map_err(|error| error.of("the key"))?)),
        None => None,
    };
    let mut config = identified(builder, identity)?;
    // A resumed session shows no certificate, so it would hide that the certificate has expired.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The TLS settings of a client of a GWM: the certificates that it trusts, and its own certificate. Connections with the
/// same settings resume each other's sessions.
pub fn client(trusted: Trusted, identity: Option<Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(Trusting { trusted, algorithms, lenient: false });
    Ok(Arc::new(identified(builder(provider, verifier)?, identity)?))
}

/// A certificate chain, the own certificate first, and its private key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn builder(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(TlsError::Refused)?.dangerous().with_custom_certificate_verifier(verifier))
}

fn identified(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<Identity>,
) -> Result<ClientConfig, TlsError> {
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(TlsError::Identity),
    }
}

/// The longest file that is read: some thousand certificates.
const FILE_BYTES: u64 = 16 << 20;

/// Reads a file with certificates or a key.
pub fn file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes)) {
        Err(error) => Err(TlsError::Unreadable { path: path.into(), error }),
        Ok(_) if bytes.len() as u64 > FILE_BYTES => Err(TlsError::TooLarge(path.into())),
        Ok(_) => Ok(bytes),
    }
}

/// As [`file()`]; an error names the flag too.
pub fn flag_file(flag: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    file(path).map_err(|error| error.of(flag))
}

/// The certificates in PEM text, at least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::NoCertificate),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::Pem(error)),
    }
}

/// The first private key in PEM text.
pub fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    /// Stands in the PEM text of a key with a passphrase, in PKCS#8 and in the older formats.
    const ENCRYPTED: &[u8] = b"ENCRYPTED";
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        _ if pem.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) => TlsError::EncryptedKey,
        pem::Error::NoItemsFound => TlsError::NoKey,
        error => TlsError::Pem(error),
    })
}

/// The authorities of client certificates.
fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(TlsError::Refused)?;
    }
    Ok(roots)
}

//! Whom clients trust: certificates of authorities that the operator or the machine trusts, and these certificates
//! themselves. rustls takes a trusted certificate for an authority only, so a server that shows a self-signed certificate
//! would be refused although the operator has named this very certificate. OpenSSL, HAProxy and curl take it, and so does
//! `gwm`.
//!
//! Checks also take what a given authority has signed itself in a form that rustls refuses and OpenSSL takes: X.509 v1, as
//! `openssl x509 -req` makes it, certificates that could sign others, and those whose only name is the CN.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use aws_lc_rs::digest;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{
    asn1_rs::Any,
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
    x509::{SubjectPublicKeyInfo, X509Version},
};

use super::{TlsError, certificates};

/// The certificates that a client trusts.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// As authorities.
    roots: RootCertStore,
    /// Themselves: the SHA-256 of each.
    fingerprints: HashSet<[u8; 32]>,
    /// As authorities that sign in any form: those that the operator gives.
    given: Vec<CertificateDer<'static>>,
}

/// The certificates to trust: the given ones (PEM), else this machine's.
pub fn trusted(ca: Option<&[u8]>) -> Result<Trusted, TlsError> {
    let given = ca.map(certificates).transpose()?;
    let of_machine = given.is_none();
    let all = given.clone().unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
    let (roots, given) = (RootCertStore::empty(), given.unwrap_or_default());
    let mut trusted = Trusted { roots, fingerprints: HashSet::new(), given };
    for certificate in all {
        trusted.fingerprints.insert(fingerprint(&certificate));
        // rustls may be unable to take a certificate for an authority's. A server may still show it.
        match trusted.roots.add(certificate.clone()) {
            Err(error) if !of_machine && X509Certificate::from_der(&certificate).is_err() => {
                return Err(TlsError::Refused(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    match trusted.fingerprints.is_empty() {
        true => Err(TlsError::NoAuthority),
        false => Ok(trusted),
    }
}

fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, certificate).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Accepts the certificates that are trusted, and those of trusted authorities.
#[derive(Debug)]
pub(super) struct Trusting {
    pub(super) trusted: Trusted,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// As lenient as HAProxy: forms that rustls refuses are good, and a certificate that is trusted itself need not have the
    /// server's address. A host name, which the operator has given, must be in each certificate.
    pub(super) lenient: bool,
}

impl Trusting {
    fn trusts_itself(&self, certificate: &[u8]) -> bool {
        self.trusted.fingerprints.contains(&fingerprint(certificate))
    }

    /// Whether a certificate that is trusted itself is valid now, and for this server.
    fn judge(&self, certificate: &[u8], server_name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let parsed = parse(certificate)?;
        is_valid(&parsed, now)?;
        match self.lenient && matches!(server_name, ServerName::IpAddress(_)) {
            true => Ok(()),
            false => has_name(&parsed, server_name),
        }
    }

    /// Whether a given authority has signed a certificate itself, which is valid now, and for servers.
    fn is_issued(&self, certificate: &[u8], now: UnixTime) -> Result<(), Error> {
        let parsed = parse(certificate)?;
        let bad = || Error::from(CertificateError::BadEncoding);
        // A certificate is a sequence of its content, the algorithm of the signature and the signature.
        let (_, whole) = Any::from_der(certificate).map_err(|_| bad())?;
        let (rest, _) = Any::from_der(whole.data).map_err(|_| bad())?;
        let content = whole.data.get(..whole.data.len() - rest.len()).ok_or_else(bad)?;
        let (_, algorithm) = Any::from_der(rest).map_err(|_| bad())?;
        let signed_by = |authority: &CertificateDer<'_>| {
            let authority = parse(authority).ok()?;
            let signs_itself = authority.subject().as_raw() == authority.issuer().as_raw();
            let may_sign = authority.is_ca() || authority.version() == X509Version::V1 && signs_itself;
            // rustls has not compared names with the authority's constraints.
            let may_sign = may_sign && matches!(authority.name_constraints(), Ok(None));
            (may_sign && authority.subject().as_raw() == parsed.issuer().as_raw()).then_some(())?;
            is_valid(&authority, now).ok()?;
            let key = authority.public_key();
            let of_key = key_algorithm(key)?;
            let fits = |known: &&&dyn SignatureVerificationAlgorithm| {
                known.signature_alg_id().as_ref() == algorithm.data && known.public_key_alg_id().as_ref() == of_key
            };
            let signature = &parsed.signature_value.data;
            let verify = |known: &&dyn SignatureVerificationAlgorithm| {
                known.verify_signature(&key.subject_public_key.data, content, signature).ok()
            };
            self.algorithms.all.iter().filter(fits).find_map(verify)
        };
        self.trusted.given.iter().find_map(signed_by).ok_or(CertificateError::UnknownIssuer)?;
        let purposes = parsed.extended_key_usage().map_err(|_| bad())?;
        if purposes.is_some_and(|purposes| !purposes.value.server_auth && !purposes.value.any) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        is_valid(&parsed, now)
    }

    /// Verifies a signature by the key of a certificate that rustls can not read.
    fn verify(
        &self,
        message: &[u8],
        certificate: &[u8],
        signed: &DigitallySignedStruct,
        most: usize,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(certificate)?;
        let key = parsed.public_key();
        let of_key = key_algorithm(key).ok_or(CertificateError::BadEncoding)?;
        let (_, algorithms) = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let mut fitting = algorithms.iter().take(most);
        let algorithm = fitting.find(|algorithm| algorithm.public_key_alg_id().as_ref() == of_key);
        let verified = algorithm
            .map(|algorithm| algorithm.verify_signature(&key.subject_public_key.data, message, signed.signature()));
        match verified {
            Some(Ok(())) => Ok(HandshakeSignatureValid::assertion()),
            _ => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trusts_itself(certificate) {
            self.judge(certificate, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let (roots, algorithms) = (&self.trusted.roots, self.algorithms.all);
        let named = ParsedCertificate::try_from(certificate).and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
            Ok(verify_server_name(&parsed, server_name))
        });
        match named {
            Ok(Ok(())) => {}
            // Perhaps the only name is the CN.
            Ok(Err(_)) if self.lenient => has_name(&parse(certificate)?, server_name)?,
            Ok(Err(error)) => return Err(error),
            Err(error) if self.lenient && is_about_form(&error) => match self.is_issued(certificate, now) {
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => return Err(error),
                issued => issued.and_then(|()| has_name(&parse(certificate)?, server_name))?,
            },
            Err(error) => return Err(error),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(certificate) {
            Ok(_) => verify_tls12_signature(message, certificate, signed, &self.algorithms),
            Err(_) => self.verify(message, certificate, signed, usize::MAX),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        use SignatureScheme::{RSA_PKCS1_SHA1, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512};
        match signed.scheme {
            RSA_PKCS1_SHA1 | RSA_PKCS1_SHA256 | RSA_PKCS1_SHA384 | RSA_PKCS1_SHA512 => {
                Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
            }
            _ if ParsedCertificate::try_from(certificate).is_ok() => {
                verify_tls13_signature(message, certificate, signed, &self.algorithms)
            }
            // A scheme of TLS 1.3 is for one kind of key: the first.
            _ => self.verify(message, certificate, signed, 1),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether rustls refuses a certificate for its form: a version before 3, or the right to sign others. The types of these
/// errors are not rustls' own.
fn is_about_form(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(error)) = error else { return false };
    let error = error.to_string();
    error.contains("UnsupportedCertVersion") || error.contains("CaUsedAsEndEntity")
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let parsed = X509Certificate::from_der(certificate).map(|(_, parsed)| parsed);
    parsed.map_err(|_| CertificateError::BadEncoding.into())
}

/// Whether a certificate is valid now.
fn is_valid(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = certificate.validity();
    let (not_before, not_after) = (unix_time(validity.not_before), unix_time(validity.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

/// Whether a certificate is for this server.
fn has_name(certificate: &X509Certificate<'_>, server_name: &ServerName<'_>) -> Result<(), Error> {
    let names = names(certificate);
    match names.iter().any(|name| name.fits(server_name)) {
        true => Ok(()),
        false => {
            let presented = names.iter().map(Name::to_string).collect();
            Err(CertificateError::NotValidForNameContext { expected: server_name.to_owned(), presented }.into())
        }
    }
}

/// The algorithm of a key: SubjectPublicKeyInfo is a sequence that begins with the sequence AlgorithmIdentifier.
fn key_algorithm<'a>(key: &SubjectPublicKeyInfo<'a>) -> Option<&'a [u8]> {
    let (_, whole) = Any::from_der(key.raw).ok()?;
    Any::from_der(whole.data).ok().map(|(_, identifier)| identifier.data)
}

fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.timestamp().try_into().unwrap_or(0)))
}

/// A name of a server in a certificate.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Dns(String),
    Address(IpAddr),
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Dns(name) => f.write_str(name),
            Name::Address(address) => address.fmt(f),
        }
    }
}

impl Name {
    fn fits(&self, server_name: &ServerName<'_>) -> bool {
        match (self, server_name) {
            (Name::Address(own), ServerName::IpAddress(address)) => *own == IpAddr::from(*address),
            (Name::Dns(own), ServerName::DnsName(name)) => {
                let name = name.as_ref().trim_end_matches('.');
                match own.strip_prefix("*.") {
                    Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
                    None => own.eq_ignore_ascii_case(name),
                }
            }
            _ => false,
        }
    }
}

/// The names for which a certificate is valid. Without a name in the SAN, the CN of the subject is the name, as for
/// OpenSSL: certificates that are trusted themselves are often made by hand.
fn names(certificate: &X509Certificate<'_>) -> Vec<Name> {
    let san = certificate.subject_alternative_name().ok().flatten();
    let san = san.map_or(&[][..], |san| &san.value.general_names).iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(Name::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(Name::Address)
        }
        _ => None,
    });
    let names: Vec<Name> = san.collect();
    if !names.is_empty() {
        return names;
    }
    let common_names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    common_names.map(|name| name.parse().map_or_else(|_| Name::Dns(name.to_owned()), Name::Address)).collect()
}

/// Accepts any certificate, whatever it is, and does not look at it: for `verify = false`. Who is between `gwm` and the
/// server can show a certificate of his own, so a signature by the certificate's key would prove nothing.
#[derive(Debug)]
pub(super) struct Anyone(pub(super) WebPkiSupportedAlgorithms);

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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Those that can be verified first, then the others: a server with such a key must not be refused for it.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme::{ECDSA_NISTP521_SHA512, ECDSA_SHA1_Legacy, ED448, RSA_PKCS1_SHA1, Unknown};
        let mut schemes = self.0.supported_schemes();
        let others = [ECDSA_NISTP521_SHA512, ED448, ECDSA_SHA1_Legacy, RSA_PKCS1_SHA1];
        // Keys that are for RSASSA-PSS alone, and those of the Brainpool curves (RFC 8446, RFC 8734).
        let unnamed = [0x0809, 0x080A, 0x080B, 0x081A, 0x081B, 0x081C].map(Unknown);
        let known = self.0.supported_schemes();
        schemes.extend(others.into_iter().chain(unnamed).filter(|other| !known.contains(other)));
        schemes
    }
}

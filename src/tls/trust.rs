//! Whom clients trust: certificates of authorities that the operator or the machine trusts, and these certificates
//! themselves. rustls takes a trusted certificate for an authority only, so a server that shows a self-signed certificate
//! would be refused although the operator has named this very certificate. OpenSSL, HAProxy and curl take it, and so does
//! `gwm`.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use aws_lc_rs::digest;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{
    asn1_rs::Any,
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
};

use super::{TlsError, certificates};

/// The certificates that a client trusts.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// As authorities.
    roots: RootCertStore,
    /// Themselves: the SHA-256 of each.
    fingerprints: HashSet<[u8; 32]>,
}

/// The certificates to trust: the given ones (PEM), else this machine's.
pub fn trusted(ca: Option<&[u8]>) -> Result<Trusted, TlsError> {
    let mut trusted = Trusted { roots: RootCertStore::empty(), fingerprints: HashSet::new() };
    let given = ca.map(certificates).transpose()?;
    let of_machine = given.is_none();
    for certificate in given.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs) {
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
    /// A certificate that is trusted itself need not name the server's address. A host name, which the operator has given,
    /// must be in each certificate.
    pub(super) any_address: bool,
}

impl Trusting {
    fn trusts_itself(&self, certificate: &[u8]) -> bool {
        self.trusted.fingerprints.contains(&fingerprint(certificate))
    }

    /// Whether a certificate that is trusted itself is valid now, and for this server.
    fn judge(&self, certificate: &[u8], server_name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let parsed = parse(certificate)?;
        let validity = parsed.validity();
        let (not_before, not_after) = (unix_time(validity.not_before), unix_time(validity.not_after));
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
        }
        if self.any_address && matches!(server_name, ServerName::IpAddress(_)) {
            return Ok(());
        }
        let names = names(&parsed);
        match names.iter().any(|name| name.fits(server_name)) {
            true => Ok(()),
            false => {
                let presented = names.iter().map(Name::to_string).collect();
                Err(CertificateError::NotValidForNameContext { expected: server_name.to_owned(), presented }.into())
            }
        }
    }

    /// Verifies a signature by the key of a certificate that is trusted itself, also of one that rustls can not read.
    fn verify(
        &self,
        message: &[u8],
        certificate: &[u8],
        signed: &DigitallySignedStruct,
        most: usize,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(certificate)?;
        let key = parsed.public_key();
        // SubjectPublicKeyInfo is a sequence that begins with the sequence AlgorithmIdentifier.
        let identifier = Any::from_der(key.raw).and_then(|(_, whole)| Any::from_der(whole.data));
        let (_, identifier) = identifier.map_err(|_| CertificateError::BadEncoding)?;
        let (_, algorithms) = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let mut fitting = algorithms.iter().take(most);
        let algorithm = fitting.find(|algorithm| algorithm.public_key_alg_id().as_ref() == identifier.data);
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
        let parsed = ParsedCertificate::try_from(certificate)?;
        let (roots, algorithms) = (&self.trusted.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        verify_server_name(&parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.trusts_itself(certificate) {
            true => self.verify(message, certificate, signed, usize::MAX),
            false => verify_tls12_signature(message, certificate, signed, &self.algorithms),
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
            // A scheme of TLS 1.3 is for one kind of key: the first.
            _ if self.trusts_itself(certificate) => self.verify(message, certificate, signed, 1),
            _ => verify_tls13_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let parsed = X509Certificate::from_der(certificate).map(|(_, parsed)| parsed);
    parsed.map_err(|_| CertificateError::BadEncoding.into())
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
        use SignatureScheme::{ECDSA_NISTP521_SHA512, ECDSA_SHA1_Legacy, ED448, RSA_PKCS1_SHA1};
        let mut schemes = self.0.supported_schemes();
        let others = [ECDSA_NISTP521_SHA512, ED448, ECDSA_SHA1_Legacy, RSA_PKCS1_SHA1];
        schemes.extend(others.into_iter().filter(|other| !self.0.supported_schemes().contains(other)));
        schemes
    }
}

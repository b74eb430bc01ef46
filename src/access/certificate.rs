//! The names of a client certificate.

use std::{fmt, net::IpAddr};

use aws_lc_rs::digest;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::sasp::{EscapeError, Escaped, unescape};

/// The begin of a URI that names a load balancer.
const LB_URI: &str = "sasp:lb:";

/// The begin of a fingerprint in a file.
const FINGERPRINT: &str = "sha256:";

/// The names of a client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// SAN dNSName, as written.
    pub dns_names: Vec<Box<str>>,
    /// SAN uniformResourceIdentifier, as written.
    pub uris: Vec<Box<str>>,
    /// SAN iPAddress.
    pub addresses: Vec<IpAddr>,
    /// CN of the subject.
    pub common_names: Vec<Box<str>>,
    /// SHA-256 of the whole certificate (DER).
    pub fingerprint: [u8; 32],
    /// The begin of its validity, in seconds since 1970.
    pub not_before: u64,
    /// The end of its validity.
    pub not_after: u64,
}

impl Certificate {
    /// Reads a certificate (DER). Does not check whether anybody trusts the certificate.
    pub fn parse(der: &[u8]) -> Result<Certificate, CertificateError> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(CertificateError::malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Leftover(rest.len()));
        }
        let mut certificate = Certificate {
            fingerprint: digest::digest(&digest::SHA256, der).as_ref().try_into().expect("SHA-256 has 32 bytes"),
            not_before: parsed.validity().not_before.timestamp().try_into().unwrap_or(0),
            not_after: parsed.validity().not_after.timestamp().try_into().unwrap_or(0),
            ..Certificate::default()
        };
        let common_names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        certificate.common_names = common_names.map(Box::from).collect();
        let names = parsed.subject_alternative_name().map_err(CertificateError::malformed)?;
        for name in names.map_or(&[][..], |names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => certificate.dns_names.push((*name).into()),
                GeneralName::URI(uri) => certificate.uris.push((*uri).into()),
                GeneralName::IPAddress(bytes) => certificate.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(certificate)
    }

    /// A name for people. No decision depends on this name.
    pub fn first_name(&self) -> Option<&str> {
        [&self.dns_names, &self.uris, &self.common_names].into_iter().flatten().next().map(|name| &**name)
    }

    /// Whether a name of the certificate is the load balancer's UID, byte for byte, or a `sasp:lb:` URI has the UID. A
    /// wildcard names nobody. `common_name`: a CN is a name, too.
    pub fn names_lb(&self, uid: &[u8], common_name: bool) -> bool {
        let plain = self.dns_names.iter().chain(self.common_names.iter().filter(|_| common_name));
        plain.filter(|name| is_plain(name)).any(|name| name.as_bytes() == uid)
            || self.uris.iter().filter(|uri| is_plain(uri)).any(|uri| says_lb(uri, uid))
    }

    /// The names by which a file can name the certificate.
    pub(super) fn names(&self, common_name: bool) -> impl Iterator<Item = &str> {
        let common_names = self.common_names.iter().filter(move |_| common_name);
        self.dns_names.iter().chain(&self.uris).chain(common_names).map(|name| &**name).filter(|name| is_plain(name))
    }
}

/// Why a certificate can not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// The bytes are not an X.509 certificate in DER; the parser's reason.
    Malformed(Box<str>),
    /// So many bytes follow the certificate.
    Leftover(usize),
}

impl CertificateError {
    fn malformed(error: impl fmt::Display) -> CertificateError {
        CertificateError::Malformed(error.to_string().into())
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate can not be read: ")?;
        match self {
            CertificateError::Malformed(reason) => f.write_str(reason),
            CertificateError::Leftover(1) => f.write_str("1 byte follows its end"),
            CertificateError::Leftover(bytes) => write!(f, "{bytes} bytes follow its end"),
        }
    }
}

impl std::error::Error for CertificateError {}

/// A certificate as a file names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// Any certificate with this name.
    Name(Box<[u8]>),
    /// The certificate with this SHA-256.
    Fingerprint([u8; 32]),
}

impl CertificateName {
    /// Reads a name in the form of [`escape`](crate::sasp::escape), or `sha256:` and 64 hexadecimal digits. Colons between
    /// the bytes are allowed.
    pub fn parse(text: &str) -> Result<CertificateName, CertificateNameError> {
        let Some(hex) = text.strip_prefix(FINGERPRINT) else {
            let name = unescape(text).map_err(CertificateNameError::Escape)?;
            return match &name[..] {
                [] => Err(CertificateNameError::Empty),
                _ if name.contains(&b'*') => Err(CertificateNameError::Wildcard(text.into())),
                _ => Ok(CertificateName::Name(name.into())),
            };
        };
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b':').collect();
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            })
            .collect();
        let fingerprint = bytes.and_then(|bytes| bytes.try_into().ok());
        fingerprint.map(CertificateName::Fingerprint).ok_or_else(|| CertificateNameError::NotAFingerprint(text.into()))
    }
}

/// Why a text names no certificate; an error has the text where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateNameError {
    /// The text is empty.
    Empty,
    /// The text has a backslash that begins no escape.
    Escape(EscapeError),
    /// The text is a wildcard, such as `*.example`.
    Wildcard(Box<str>),
    /// The text begins with `sha256:`, but 64 hexadecimal digits do not follow.
    NotAFingerprint(Box<str>),
}

impl fmt::Display for CertificateNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateNameError::Empty => f.write_str("\"\" is no certificate's name"),
            CertificateNameError::Escape(error) => error.fmt(f),
            CertificateNameError::Wildcard(text) => {
                write!(f, "\"{}\" is a wildcard, which names nobody: name each one", Escaped(text.as_bytes()))
            }
            CertificateNameError::NotAFingerprint(text) => {
                write!(f, "\"{}\" is not {FINGERPRINT} and 64 digits (0-9, a-f)", Escaped(text.as_bytes()))
            }
        }
    }
}

impl std::error::Error for CertificateNameError {}

/// Whether a name is no wildcard.
fn is_plain(name: &str) -> bool {
    !name.contains('*')
}

/// Whether a URI is `sasp:lb:` and the UID. In the URI, `%XX` stands for a byte.
fn says_lb(uri: &str, uid: &[u8]) -> bool {
    let Some(written) = uri.strip_prefix(LB_URI) else { return false };
    let mut bytes = written.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let mut uid = uid.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => (high << 4 | low) as u8, // two digits are a byte
                _ => return false,
            },
            other => other,
        };
        if uid.next() != Some(&byte) {
            return false;
        }
    }
    uid.next().is_none()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn made(common_name: Option<&str>, names: Vec<SanType>) -> (Vec<u8>, Certificate) {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = names;
        params.not_after = rcgen::date_time_ymd(2040, 1, 2);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let certificate = Certificate::parse(&der).unwrap();
        (der, certificate)
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(uri: &str) -> SanType {
        SanType::URI(uri.try_into().unwrap())
    }

    #[test]
    fn every_name_is_read() {
        let names = vec![
            dns("web1.example"),
            uri("sasp:lb:LB1"),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::Rfc822Name("a@example".try_into().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            dns("web2.example"),
        ];
        let (der, certificate) = made(Some("front"), names);
        let list = |names: &[Box<str>]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(list(&certificate.dns_names), "web1.example web2.example");
        assert_eq!(list(&certificate.uris), "sasp:lb:LB1");
        assert_eq!(list(&certificate.common_names), "front");
        assert_eq!(
            certificate.addresses,
            ["10.0.0.1", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap())
        );
        assert_eq!(certificate.not_after, 2_209_075_200);
        assert_eq!(certificate.first_name(), Some("web1.example"));
        assert_eq!(certificate.fingerprint, *digest::digest(&digest::SHA256, &der).as_ref());
    }

    #[test]
    fn a_certificate_without_names_has_none() {
        let (_, certificate) = made(None, Vec::new());
        assert_eq!(certificate.first_name(), None);
        assert!(certificate.names(true).next().is_none() && certificate.addresses.is_empty());
        assert_eq!(made(Some("cn"), Vec::new()).1.first_name(), Some("cn"));
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        let (der, _) = made(Some("front"), vec![dns("web1.example")]);
        for end in 0..der.len() {
            assert!(Certificate::parse(&der[..end]).is_err(), "{end} bytes");
        }
        let more = [&der[..], &[0]].concat();
        assert_eq!(Certificate::parse(&more), Err(CertificateError::Leftover(1)));
    }

    #[test]
    fn a_uid_is_a_name_byte_for_byte() {
        let certificate = Certificate {
            dns_names: ["LB1", "*.example", "*"].map(Box::from).into(),
            uris: ["sasp:lb:L%42%20%ff2", "sasp:lb:", "sasp:lb:x%4", "sasp:lb:y%zz", "SASP:lb:z", "sasp:lb:*"]
                .map(Box::from)
                .into(),
            common_names: ["front".into()].into(),
            ..Certificate::default()
        };
        for (uid, is) in [
            (&b"LB1"[..], true),
            (b"LB \xFF2", true),
            (b"lb1", false),
            (b"LB11", false),
            (b"LB", false),
            (b"a.example", false),
            (b"*.example", false),
            (b"*", false),
            (b"x%4", false),
            (b"x", false),
            (b"y", false),
            (b"z", false),
            (b"sasp:lb:z", false),
            (b"front", false),
        ] {
            assert_eq!(certificate.names_lb(uid, false), is, "{}", uid.escape_ascii());
        }
        assert!(certificate.names_lb(b"front", true));
        assert!(!certificate.names_lb(b"*", true));
    }

    #[test]
    fn files_name_certificates() {
        let name = |text: &str| CertificateName::parse(text);
        assert_eq!(name("web1.example"), Ok(CertificateName::Name((*b"web1.example").into())));
        assert_eq!(name("DOMAIN\\\\c\\xFF"), Ok(CertificateName::Name((*b"DOMAIN\\c\xFF").into())));
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        let Ok(CertificateName::Fingerprint(bytes)) = name(&format!("sha256:{digits}")) else {
            panic!("{digits} is a fingerprint")
        };
        assert_eq!(bytes[..12], [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, 0xAB, 0xCD, 0xEF, 0x01]);
        // As openssl prints it.
        let colons: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(name(&format!("sha256:{}", colons.join(":"))), Ok(CertificateName::Fingerprint(bytes)));
        for text in [
            "",
            "*.example",
            "\\x2A",
            "DOMAIN\\c",
            "sha256:",
            "sha256:00",
            &format!("sha256:{}", &digits[1..]),
            "sha256:é",
        ] {
            assert!(name(text).is_err(), "{text}");
        }
        assert!(name(&format!("sha256:g{}", &digits[1..])).is_err());
    }
}

//! Who a peer proves to be.

use std::{net::IpAddr, sync::Arc};

/// A peer as far as its connection proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: IpAddr,
    /// What it showed and proved to have the key of, if it was asked to; checked against the trusted authorities.
    pub certificate: Option<Arc<Certificate>>,
}

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
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
}

impl From<IpAddr> for Peer {
    /// One that proves nothing.
    fn from(address: IpAddr) -> Peer {
        Peer { address, certificate: None }
    }
}

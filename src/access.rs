//! Who a peer proves to be, and whom that lets it speak for.

mod certificate;
mod policy;

use std::{net::IpAddr, sync::Arc};

pub use certificate::{Certificate, CertificateError, CertificateName, CertificateNameError};
pub use policy::{Access, Act, Acts, Certificates, Identity, Lb, Member, Speaker, Who};

/// A peer as far as its connection proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: IpAddr,
    /// What it showed and proved to have the key of, if it was asked to; checked against the trusted authorities.
    pub certificate: Option<Arc<Certificate>>,
}

impl From<IpAddr> for Peer {
    /// One that proves nothing.
    fn from(address: IpAddr) -> Peer {
        Peer { address, certificate: None }
    }
}

//! Which load balancers and members a peer may speak for, by its address or certificate.

mod certificate;
mod policy;

use std::{net::IpAddr, sync::Arc};

pub use certificate::{Certificate, CertificateError, CertificateName, CertificateNameError};
pub use policy::{Access, Act, Acts, Certificates, Identity, Lb, Member, Speaker, Who};

/// What a connection proves about its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The source address of the connection.
    pub address: IpAddr,
    /// The client certificate. TLS has checked that the peer has its key, and that a trusted authority signed it.
    pub certificate: Option<Arc<Certificate>>,
}

impl From<IpAddr> for Peer {
    /// A peer without a certificate.
    fn from(address: IpAddr) -> Peer {
        Peer { address, certificate: None }
    }
}

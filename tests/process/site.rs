//! Servers and clients with certificates, and peers with various source addresses.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    version::{TLS12, TLS13},
};
use socket2::{Domain, Socket, Type};

use crate::{
    authority::{Authority, Folder, Identity},
    harness::Daemon,
};

/// An authority, and the files of a server: the authority signs the server's certificate and its clients' certificates.
pub(crate) struct Site {
    pub(crate) authority: Authority,
    pub(crate) folder: Folder,
    pub(crate) flags: Vec<String>,
}

impl Site {
    pub(crate) fn new() -> Site {
        let (authority, folder) = (Authority::new("Site"), Folder::new());
        let (chain, key) = folder.identity("server", &authority.server());
        let ca = folder.write("ca.pem", authority.pem());
        let flags = ["--tls-listen", "127.0.0.1:0", "--tls-cert", &chain, "--tls-key", &key, "--tls-client-ca", &ca];
        Site { flags: flags.map(str::to_owned).into(), authority, folder }
    }

    /// A daemon with the flags for TLS and these flags.
    pub(crate) fn start(&self, flags: &[&str]) -> Daemon {
        Daemon::start(&self.with(flags))
    }

    /// As `start`, and no other daemon runs at the same time.
    #[allow(dead_code, reason = "the attack set's")]
    pub(crate) fn start_alone(&self, flags: &[&str]) -> Daemon {
        Daemon::start_alone(&self.with(flags))
    }

    fn with<'a>(&'a self, flags: &[&'a str]) -> Vec<&'a str> {
        self.flags.iter().map(String::as_str).chain(flags.iter().copied()).collect()
    }

    /// The TLS configuration of a client with a certificate of the authority.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        client(&self.authority, Some(&self.authority.client("LB1")), &[&TLS13, &TLS12])
    }
}

/// The TLS configuration of a client that trusts this authority and has this identity.
pub(crate) fn client(
    trusted: &Authority,
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der()).expect("a certificate of ours");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.der();
            builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
        }
    })
}

/// Connects from this address.
pub(crate) fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    dial(source, to).expect("the daemon accepts")
}

/// As [`from`], for a peer that may be refused while it connects.
pub(crate) fn dial(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// The first message of a handshake.
pub(crate) fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut bytes = Vec::new();
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
    while tls.wants_write() {
        tls.write_tls(&mut bytes).expect("memory can be written");
    }
    bytes
}

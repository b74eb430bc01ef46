//! The addresses to listen on, and whether their connections use TLS.

use std::{fmt, net::SocketAddr, time::SystemTime};

use super::{ConfigError, Flags, TlsVersion, usage};
use crate::{sasp::PORT, tls};

/// The protocol of a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// SASP.
    Plain,
    /// SASP in TLS.
    Tls,
    /// SASP, or SASP in TLS: the peer's first byte tells which.
    Either,
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// With port 0 the system chooses a port.
    pub address: SocketAddr,
    /// The protocol of its connections.
    pub carries: Carries,
}

impl Listen {
    /// Whether other machines can reach it without TLS.
    pub fn is_open(&self) -> bool {
        self.carries != Carries::Tls && !self.address.ip().is_loopback()
    }
}

impl fmt::Display for Carries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Carries::Plain => "plain",
            Carries::Tls => "tls",
            Carries::Either => "plain or tls",
        })
    }
}

/// The addresses in the order of the flags, plain ones first.
pub(super) fn addresses(flags: &Flags) -> Result<Vec<Listen>, ConfigError> {
    let mut all: Vec<Listen> = Vec::new();
    let default = [SocketAddr::from(([127, 0, 0, 1], PORT))];
    let plain = if flags.listen.is_empty() && flags.tls_listen.is_empty() { &default[..] } else { &flags.listen };
    for (flag, carries, addresses) in
        [("--listen", Carries::Plain, plain), ("--tls-listen", Carries::Tls, &flags.tls_listen)]
    {
        super::each_once(flag, addresses, |address| address.port() == 0)?;
        for &address in addresses {
            if address.port() == 0 {
                all.push(Listen { address, carries });
                continue;
            }
            match all.iter_mut().find(|other| other.address == address) {
                Some(both) => both.carries = Carries::Either,
                None => all.push(Listen { address, carries }),
            }
        }
    }
    for Listen { address, .. } in all.iter().filter(|listen| listen.address.ip().is_unspecified()) {
        let same = |other: &SocketAddr| other.port() == address.port() && other.is_ipv4() == address.is_ipv4();
        let others = all.iter().map(|listen| listen.address).filter(|other| address.port() != 0 && other != address);
        if let Some(other) = others.into_iter().find(same) {
            return usage(format!("{address} stands for every address, {other} too: leave one of them out"));
        }
    }
    match all.iter().find(|listen| listen.is_open()) {
        Some(Listen { address, .. }) if flags.require_tls => {
            usage(format!("--require-tls: --listen {address} has no TLS and is not loopback: use --tls-listen for it"))
        }
        _ => Ok(all),
    }
}

/// Reads the TLS files, if the flags name any.
pub(super) fn tls(flags: &Flags) -> Result<Option<tls::Server>, ConfigError> {
    let (Some(certificate), Some(key)) = (&flags.tls_cert, &flags.tls_key) else { return Ok(None) };
    let files = tls::Files {
        certificate: certificate.clone(),
        key: key.clone(),
        client_ca: flags.tls_client_ca.clone(),
        min_version: match flags.tls_min_version {
            TlsVersion::Tls12 => tls::Version::Tls12,
            TlsVersion::Tls13 => tls::Version::Tls13,
        },
        allow_expired: flags.tls_allow_expired,
    };
    tls::Server::read(files, SystemTime::now()).map(Some).map_err(|error| ConfigError::Failure(error.to_string()))
}

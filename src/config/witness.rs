//! Witnesses: what proves that this machine's network works.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::ConfigError;

/// The value of `--witness`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witness {
    /// An address, for echoes.
    Echo(IpAddr),
    /// An address or a name, and a port, for connections.
    Connection(String),
}

impl Witness {
    /// Reads `192.0.2.1`, `2001:db8::1`, `192.0.2.1:53`, `[2001:db8::1]:53` or `name:53`.
    pub(super) fn parse(text: &str) -> Result<Witness, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Witness::Echo(address));
        }
        let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let is_name = |host: &str| !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']);
        let good = match text.parse::<SocketAddr>() {
            Ok(address) => address.port() > 0,
            Err(_) => text.rsplit_once(':').is_some_and(|(host, number)| is_name(host) && port(number)),
        };
        match good {
            true => Ok(Witness::Connection(text.into())),
            false => Err("is neither an address, as 192.0.2.1, nor HOST:PORT with a port from 1 to 65535".into()),
        }
    }

    /// The address, and the port of a connection.
    pub(super) fn resolve(&self) -> Result<(IpAddr, Option<u16>), ConfigError> {
        match self {
            Witness::Echo(address) => Ok((*address, None)),
            Witness::Connection(text) => {
                let failed = |why: String| {
                    ConfigError::Failure(format!("--witness {text}: {why}; an address needs no name server"))
                };
                let mut addresses = text.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
                let address = addresses.next().ok_or_else(|| failed("the name has no address".into()))?;
                Ok((address.ip(), Some(address.port())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_an_address_or_a_host_and_a_port() {
        let echo = |text: &str| Ok(Witness::Echo(text.parse().unwrap()));
        for text in ["192.0.2.1", "2001:db8::1", "::1"] {
            assert_eq!(Witness::parse(text), echo(text));
        }
        for text in ["192.0.2.1:53", "[2001:db8::1]:53", "ns1.example:53"] {
            assert_eq!(Witness::parse(text), Ok(Witness::Connection(text.into())));
        }
        for text in
            ["", "ns1.example", ":53", "192.0.2.1:0", "192.0.2.1:65536", "ns1:", "2001:db8::1:x", "a b:1", "[::1]"]
        {
            assert!(Witness::parse(text).is_err(), "{text}");
        }
        let resolve = |text: &str| Witness::parse(text).unwrap().resolve().unwrap();
        assert_eq!(resolve("192.0.2.1"), ("192.0.2.1".parse().unwrap(), None));
        assert_eq!(resolve("[2001:db8::1]:53"), ("2001:db8::1".parse().unwrap(), Some(53)));
        assert!(resolve("localhost:53").0.is_loopback());
    }
}

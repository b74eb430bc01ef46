//! The header of the PROXY protocol (HAProxy's proxy-protocol.txt, versions 1 and 2), which some servers expect before
//! anything else.

use std::net::SocketAddr;

use crate::roster::ProxyProtocol;

/// The begin of a header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header for a connection of `gwm` itself. Version 1 names the connection's own addresses; version 2 says `LOCAL`, as
/// its section 2.2 asks of health checks, so servers do not count the check as a client's.
pub fn header(version: ProxyProtocol, own: SocketAddr, member: SocketAddr) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => {
            let family = if own.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", own.ip(), member.ip(), own.port(), member.port()).into_bytes()
        }
        // Version and command, no address family, no more bytes.
        ProxyProtocol::V2 => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_the_specification() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let v4 = header(ProxyProtocol::V1, address("10.0.0.9:40000"), address("10.0.0.1:80"));
        assert_eq!(v4, b"PROXY TCP4 10.0.0.9 10.0.0.1 40000 80\r\n");
        let v6 = header(ProxyProtocol::V1, address("[2001:db8::9]:40000"), address("[2001:db8::1]:80"));
        assert_eq!(v6, b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 80\r\n");
        let v2 = header(ProxyProtocol::V2, address("10.0.0.9:40000"), address("10.0.0.1:80"));
        assert_eq!(v2, b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x20\x00\x00\x00");
    }
}

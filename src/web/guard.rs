//! Which hosts and origins may ask. A page of another site must not reach the daemon through a browser of the operator,
//! whatever name that site gives to the daemon's address (DNS rebinding).

use std::net::{IpAddr, Ipv6Addr};

use super::answers::Problem;

/// Checks the Host header of a connection without TLS: only a literal address or `localhost`, which no stranger's name
/// can stand for. With TLS the browser has checked the name.
pub fn host(host: Option<&str>) -> Result<(), Problem> {
    let refuse = || {
        let message = "the Host header names another host: use the address, or localhost";
        Err(Problem::new(403, "host", message))
    };
    let Some(host) = host else { return refuse() };
    let name = without_port(host);
    if name.eq_ignore_ascii_case("localhost") || is_address(name) { Ok(()) } else { refuse() }
}

/// Checks where a browser's request comes from: only from the daemon's own page.
pub fn origin(origin: Option<&str>, fetch_site: Option<&str>, host: Option<&str>) -> Result<(), Problem> {
    let other = Err(Problem::new(403, "origin", "the request comes from the page of another site"));
    if matches!(fetch_site, Some("cross-site" | "same-site")) {
        return other;
    }
    let Some(origin) = origin else { return Ok(()) };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    match (authority, host) {
        (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host) => Ok(()),
        _ => other,
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_address(name: &str) -> bool {
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => name.parse::<Ipv6Addr>().is_ok(),
        None => matches!(name.parse(), Ok(IpAddr::V4(_))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_hosts() {
        for good in ["127.0.0.1", "127.0.0.1:9860", "[::1]:9860", "[::1]", "localhost", "LOCALHOST:1", "192.0.2.1:80"] {
            assert!(host(Some(good)).is_ok(), "{good}");
        }
        for bad in
            ["evil.example", "127.0.0.1.evil.example:9860", "localhost.evil", "", ":80", "::1", "localhost:", "[::1"]
        {
            assert!(host(Some(bad)).is_err(), "{bad}");
        }
        assert!(host(None).is_err());
    }

    #[test]
    fn only_the_own_page_is_an_origin() {
        let own = Some("127.0.0.1:9860");
        assert!(origin(None, None, own).is_ok(), "curl");
        assert!(origin(None, Some("none"), own).is_ok(), "typed by a person");
        assert!(origin(Some("http://127.0.0.1:9860"), Some("same-origin"), own).is_ok());
        for bad in
            ["http://evil.example", "null", "http://127.0.0.1:9861", "http://127.0.0.1", "file://127.0.0.1:9860", ""]
        {
            assert!(origin(Some(bad), None, own).is_err(), "{bad}");
        }
        assert!(origin(None, Some("cross-site"), own).is_err());
        assert!(origin(Some("http://x"), None, None).is_err());
    }
}

//! The bytes of a request.

use std::net::SocketAddr;

use crate::{roster::Http, sasp::Endpoint};

/// Appends the request for a member.
pub fn request(http: &Http, endpoint: &Endpoint, out: &mut Vec<u8>) {
    for part in [&http.method, " ", &http.path, " HTTP/1.1\r\nHost: "] {
        out.extend_from_slice(part.as_bytes());
    }
    match &http.host {
        Some(host) => out.extend_from_slice(host.as_bytes()),
        None => {
            let address = SocketAddr::new(endpoint.ip(), http.port.unwrap_or(endpoint.port));
            out.extend_from_slice(authority(address, http.tls.is_some()).as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    let own = [
        ("User-Agent", concat!("gwm/", env!("CARGO_PKG_VERSION"))),
        ("Accept", "*/*"),
        // Some servers report their load only if the request names a format.
        ("endpoint-load-metrics-format", "TEXT"),
    ];
    let given = http.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let replaced = |name: &str| http.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    for (name, value) in own.into_iter().filter(|(name, _)| !replaced(name)).chain(given) {
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    if !http.body.is_empty() || matches!(http.method.as_str(), "POST" | "PUT" | "PATCH") {
        out.extend_from_slice(format!("Content-Length: {}\r\n", http.body.len()).as_bytes());
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    out.extend_from_slice(&http.body);
}

/// An address as a host and, unless it is the usual one, a port.
pub(crate) fn authority(address: SocketAddr, secure: bool) -> String {
    let text = address.to_string();
    let usual = if secure { ":443" } else { ":80" };
    match text.strip_suffix(usual) {
        Some(host) => host.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn get() -> Http {
        Http { path: "/health?deep=1".into(), ..Http::default() }
    }

    fn requested(http: &Http, address: &str, port: u16) -> String {
        let mut out = b"kept".to_vec();
        request(http, &Endpoint::new(address.parse::<IpAddr>().unwrap(), 6, port), &mut out);
        String::from_utf8(out).unwrap().strip_prefix("kept").unwrap().to_owned()
    }

    #[test]
    fn a_request_has_what_a_server_wants() {
        let text = requested(&get(), "10.0.0.1", 8080);
        assert!(text.starts_with("GET /health?deep=1 HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: gwm/"), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n") && !text.contains("Content-Length"), "{text}");
        let host = |http: &Http, address, port| {
            let text = requested(http, address, port);
            text.split("Host: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned()
        };
        assert_eq!(host(&get(), "10.0.0.1", 80), "10.0.0.1");
        assert_eq!(host(&get(), "10.0.0.1", 443), "10.0.0.1:443");
        assert_eq!(host(&get(), "2001:db8::1", 81), "[2001:db8::1]:81");
        assert_eq!(host(&Http { port: Some(9), ..get() }, "10.0.0.1", 80), "10.0.0.1:9");
        assert_eq!(host(&Http { host: Some("web.example:7".into()), ..get() }, "10.0.0.1", 80), "web.example:7");
        let post = Http { method: "POST".into(), ..get() };
        assert!(requested(&post, "10.0.0.1", 80).contains("\r\nContent-Length: 0\r\n"));
    }

    #[test]
    fn a_request_has_what_the_operator_adds() {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let post = Http {
            method: "POST".into(),
            path: "/query".into(),
            host: Some("web".into()),
            headers: vec![field("X-Token", "a b"), field("ACCEPT", "text/plain")],
            body: b"{\"ping\":1}".to_vec(),
            ..Http::default()
        };
        let text = requested(&post, "10.0.0.1", 80);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "{\"ping\":1}");
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(lines[..2], ["POST /query HTTP/1.1", "Host: web"]);
        assert_eq!(
            lines[3..],
            [
                "endpoint-load-metrics-format: TEXT",
                "X-Token: a b",
                "ACCEPT: text/plain",
                "Content-Length: 10",
                "Connection: close"
            ]
        );
    }
}

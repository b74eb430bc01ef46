//! HTTP checks: the request, and the head of the answer. Only the status and the load report count.

use std::net::SocketAddr;

use super::{
    orca,
    outcome::{Outcome, Reason},
};
use crate::{roster::Http, sasp::Endpoint};

/// The longest head that is read, with the heads of interim answers (1xx), in bytes.
pub const HEAD_BYTES: usize = 16 << 10;

/// The most header fields of an answer.
const FIELDS: usize = 128;

/// Appends the request for a member.
pub fn request(http: &Http, endpoint: &Endpoint, out: &mut Vec<u8>) {
    for part in [&http.method, " ", &http.path, " HTTP/1.1\r\nHost: "] {
        out.extend_from_slice(part.as_bytes());
    }
    match &http.host {
        Some(host) => out.extend_from_slice(host.as_bytes()),
        None => {
            let usual = if http.tls.is_some() { 443 } else { 80 };
            let address = SocketAddr::new(endpoint.ip(), http.port.unwrap_or(endpoint.port));
            let text = address.to_string();
            let text = if address.port() == usual { text.trim_end_matches(&format!(":{usual}")) } else { &text };
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.extend_from_slice(concat!("\r\nUser-Agent: gwm/", env!("CARGO_PKG_VERSION"), "\r\nAccept: */*\r\n").as_bytes());
    // Some servers report their load only if the request names a format.
    out.extend_from_slice(b"endpoint-load-metrics-format: TEXT\r\n");
    if matches!(http.method.as_str(), "POST" | "PUT" | "PATCH") {
        out.extend_from_slice(b"Content-Length: 0\r\n");
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
}

/// Reads an answer's head as it arrives.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// Where the current head begins, after the heads of interim answers.
    start: usize,
    /// No end of the head was found before this position.
    searched: usize,
}

impl Reader {
    /// The outcome from all bytes of the answer so far; `None` if more bytes are needed. `bytes` must begin with the bytes
    /// of the call before. `ended`: no bytes follow.
    pub fn read(&mut self, bytes: &[u8], ended: bool, http: &Http) -> Option<Outcome> {
        loop {
            let rest = bytes.get(self.start..).unwrap_or_default();
            let begin = rest.get(..rest.len().min(5)).unwrap_or_default();
            if !b"HTTP/".starts_with(begin) {
                return Some(Outcome::Failed(Reason::Malformed));
            }
            let Some(end) = self.end(bytes) else {
                return match ended {
                    _ if bytes.len() >= HEAD_BYTES => Some(Outcome::Failed(Reason::Malformed)),
                    true => Some(Outcome::Failed(Reason::Closed)),
                    false => None,
                };
            };
            let mut fields = [httparse::EMPTY_HEADER; FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            let head = bytes.get(self.start..end).unwrap_or_default();
            let status = match (response.parse(head), response.code) {
                (Ok(httparse::Status::Complete(_)), Some(status)) => status,
                _ => return Some(Outcome::Failed(Reason::Malformed)),
            };
            // 101 is no interim answer: it would end HTTP on the connection. The request did not ask for that.
            if (100..200).contains(&status) && status != 101 {
                (self.start, self.searched) = (end, end);
                continue;
            }
            if !http.expect.iter().any(|range| range.contains(&status)) {
                return Some(Outcome::Failed(Reason::Status(status)));
            }
            let report = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(orca::HEADER));
            // A report that can not be read does not count; the check passes.
            let load = report.and_then(|field| orca::parse(field.value, &http.utilization).ok());
            return Some(load.map_or(Outcome::Passed, Outcome::Load));
        }
    }

    /// The end of the head that begins at `start`: after an empty line.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let from = self.searched.max(self.start);
        let bytes = bytes.get(..bytes.len().min(HEAD_BYTES)).unwrap_or_default();
        let rest = bytes.get(from..).unwrap_or_default();
        let found = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
            match rest.get(at + 1..).unwrap_or_default() {
                [b'\n', ..] => Some(at + 2),
                [b'\r', b'\n', ..] => Some(at + 3),
                _ => None,
            }
        });
        // The last two bytes may be the begin of the empty line.
        self.searched = from.max(bytes.len().saturating_sub(2));
        found.map(|length| from + length)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::monitor::outcome::Load;

    fn get() -> Http {
        Http {
            method: "GET".into(),
            path: "/health?deep=1".into(),
            host: None,
            port: None,
            expect: vec![200..=299, 304..=304],
            utilization: vec!["named_metrics.queue".into()],
            tls: None,
        }
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
        assert_eq!(host(&get(), "2001:db8::1", 81), "[2001:db8::1]:81");
        assert_eq!(host(&Http { port: Some(9), ..get() }, "10.0.0.1", 80), "10.0.0.1:9");
        assert_eq!(host(&Http { host: Some("web.example:7".into()), ..get() }, "10.0.0.1", 80), "web.example:7");
        let post = Http { method: "POST".into(), ..get() };
        assert!(requested(&post, "10.0.0.1", 80).contains("\r\nContent-Length: 0\r\n"));
    }

    fn read(answer: &[u8]) -> Option<Outcome> {
        Reader::default().read(answer, false, &get())
    }

    #[test]
    fn status_and_load_report_count() {
        let load = Load { eps: 2.0, named_utilization: 0.5, ..Load::default() };
        for (answer, outcome) in [
            ("HTTP/1.1 200 OK\r\nServer: x\r\n\r\nbody", Outcome::Passed),
            ("HTTP/1.0 204 \r\n\r\n", Outcome::Passed),
            ("HTTP/1.1 200\r\n\r\n", Outcome::Passed),
            ("HTTP/1.1 304 Not Modified\n\n", Outcome::Passed),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                Outcome::Passed,
            ),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n", Outcome::Failed(Reason::Status(500))),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Outcome::Failed(Reason::Status(101))),
            ("HTTP/1.1 300 Choices\r\n\r\n", Outcome::Failed(Reason::Status(300))),
            (
                "HTTP/1.1 503 Service Unavailable\r\nendpoint-load-metrics: TEXT eps=2\r\n\r\n",
                Outcome::Failed(Reason::Status(503)),
            ),
            (
                "HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT eps=2, named_metrics.queue=0.5\r\n\r\n",
                Outcome::Load(load),
            ),
            (
                "HTTP/1.1 200 OK\r\nendpoint-load-metrics: JSON {\"eps\":2,\"named_metrics\":{\"queue\":0.5}}\r\n\r\n",
                Outcome::Load(load),
            ),
            ("HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT eps=-2\r\n\r\n", Outcome::Passed),
        ] {
            assert_eq!(read(answer.as_bytes()), Some(outcome), "{answer}");
            // Byte by byte the same, and never before the head is whole.
            let head = answer.len() - if answer.ends_with("body") { 4 } else { 0 };
            let mut reader = Reader::default();
            for cut in 0..head {
                assert_eq!(reader.read(&answer.as_bytes()[..cut], false, &get()), None, "{answer}: {cut}");
                let ended = reader.clone().read(&answer.as_bytes()[..cut], true, &get());
                assert_eq!(ended, Some(Outcome::Failed(Reason::Closed)), "{answer}: {cut}");
            }
            assert_eq!(reader.read(&answer.as_bytes()[..head], false, &get()), Some(outcome), "{answer}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told_as_soon_as_it_shows() {
        for answer in [
            "hello",
            "H",
            "HTTP/1.1 200 OK\r\nbad header\u{1}: x\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "\r\n\r\n",
            "<html>",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 100 \r\n\r\nhello",
        ] {
            let expected = if answer == "H" { None } else { Some(Outcome::Failed(Reason::Malformed)) };
            assert_eq!(read(answer.as_bytes()), expected, "{answer}");
        }
    }

    #[test]
    fn an_endless_head_ends() {
        let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
        let mut reader = Reader::default();
        while endless.len() + 6 < HEAD_BYTES {
            endless.extend_from_slice(b"a: b\r\n");
            assert_eq!(reader.read(&endless, false, &get()), None);
        }
        endless.extend_from_slice(b"a: bbbbb\r\n\r\n");
        assert_eq!(reader.read(&endless, false, &get()), Some(Outcome::Failed(Reason::Malformed)));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(HEAD_BYTES / 25 + 1);
        assert_eq!(read(&interim), Some(Outcome::Failed(Reason::Malformed)));
    }
}

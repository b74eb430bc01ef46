//! Gets a page of a server on this host, by HTTP.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    str::FromStr,
    time::{Duration, Instant},
};

use crate::limits;

/// The most fields of a head.
const FIELDS: usize = 64;

/// The longest head.
const HEAD_BYTES: usize = 16 << 10;

/// Bytes that one read takes.
const READ_BYTES: usize = 16 << 10;

/// Where a page is: `http://127.0.0.1:9100/metrics`. The host is an address or `localhost`, so no name is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    address: SocketAddr,
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        let wrong = || format!("`{text}` is no URL such as http://127.0.0.1:9100/metrics");
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let at = rest.find('/').unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        let address = host.parse::<SocketAddr>().ok().or_else(|| {
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) => (name, port.parse().ok()?),
                None => (host, 80),
            };
            let ip = if name == "localhost" { Ipv4Addr::LOCALHOST.into() } else { name.parse::<IpAddr>().ok()? };
            Some(SocketAddr::new(ip, port))
        });
        let address = address.filter(|address| address.port() != 0).ok_or_else(wrong)?;
        if path.len() > limits::AGENT_SELECTOR_BYTES || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        Ok(Url { address, path: if path.is_empty() { "/".into() } else { path.into() } })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// Gets the page; an error says why there is none, in one line.
pub fn get(url: &Url, timeout: Duration) -> Result<Vec<u8>, String> {
    let ends_at = Instant::now() + timeout;
    let remaining = || {
        let rest = ends_at.saturating_duration_since(Instant::now());
        if rest.is_zero() { Err("no answer in time".to_owned()) } else { Ok(rest) }
    };
    let plain = |error: std::io::Error| match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer in time".to_owned(),
        _ => error.to_string(),
    };
    let mut stream = TcpStream::connect_timeout(&url.address, remaining()?).map_err(plain)?;
    let limit = |stream: &TcpStream| {
        let rest = remaining()?;
        stream.set_read_timeout(Some(rest)).and_then(|()| stream.set_write_timeout(Some(rest))).map_err(plain)
    };
    limit(&stream)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: gwm-agent/{}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n",
        url.path,
        url.address,
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(request.as_bytes()).map_err(plain)?;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        limit(&stream)?;
        let count = match stream.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(plain(error)),
        };
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if let Some(body) = body(&bytes, count == 0)? {
            return Ok(body);
        }
    }
}

/// The body of an answer with status 200, from all bytes so far; `None` while more are needed. `ended`: no more will come.
pub fn body(bytes: &[u8], ended: bool) -> Result<Option<Vec<u8>>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let start = match head.parse(bytes) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) if !ended && bytes.len() < HEAD_BYTES => return Ok(None),
        _ => return Err("it does not answer by HTTP".into()),
    };
    match head.code {
        Some(200) => {}
        status => return Err(format!("the answer's status is {}", status.unwrap_or(0))),
    }
    let field = |name: &str| {
        let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        str::from_utf8(found.value).ok().map(str::trim)
    };
    let rest = bytes.get(start..).unwrap_or_default();
    let too_long = || format!("the page has more than {} bytes", limits::AGENT_PAGE_BYTES);
    let closed = || "the connection ended before the page".to_owned();
    if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return match chunks(rest) {
            Some(Ok(body)) => Ok(Some(body)),
            Some(Err(())) => Err("the answer is malformed".into()),
            // The lengths of chunks are beside the page.
            None if rest.len() > 2 * limits::AGENT_PAGE_BYTES => Err(too_long()),
            None if ended => Err(closed()),
            None => Ok(None),
        };
    }
    let length = match field("content-length") {
        Some(length) => Some(length.parse::<usize>().map_err(|_| "the answer is malformed".to_owned())?),
        None => None,
    };
    if length.unwrap_or(rest.len()) > limits::AGENT_PAGE_BYTES {
        return Err(too_long());
    }
    match length {
        Some(length) => match rest.get(..length) {
            Some(body) => Ok(Some(body.to_vec())),
            None if ended => Err(closed()),
            None => Ok(None),
        },
        None => Ok(ended.then(|| rest.to_vec())),
    }
}

/// The content of chunks; `None` while some are missing.
fn chunks(mut bytes: &[u8]) -> Option<Result<Vec<u8>, ()>> {
    let mut content = Vec::new();
    loop {
        let (start, length) = match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return None,
            Err(_) => return Some(Err(())),
        };
        if length == 0 {
            return Some(Ok(content));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > limits::AGENT_PAGE_BYTES || content.len() + length > limits::AGENT_PAGE_BYTES {
            return Some(Err(()));
        }
        let rest = bytes.get(start..)?;
        let (chunk, end) = (rest.get(..length)?, rest.get(length..length + 2)?);
        if end != b"\r\n" {
            return Some(Err(()));
        }
        content.extend_from_slice(chunk);
        bytes = rest.get(length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_an_address() {
        let url = |text: &str| text.parse::<Url>().map(|url| url.to_string());
        assert_eq!(url("http://127.0.0.1:9100/metrics"), Ok("http://127.0.0.1:9100/metrics".into()));
        assert_eq!(url("http://localhost:8080"), Ok("http://127.0.0.1:8080/".into()));
        assert_eq!(url("http://10.0.0.1/a?b"), Ok("http://10.0.0.1:80/a?b".into()));
        assert_eq!(url("http://[::1]:81/"), Ok("http://[::1]:81/".into()));
        for wrong in
            ["", "https://127.0.0.1/", "127.0.0.1:80/", "http://web/", "http://127.0.0.1:0/", "http://127.0.0.1/a b"]
        {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_is_read_at_every_split() {
        let whole = [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\na \r\n2\r\n1\n\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nA: b\r\n\r\na 1\n",
        ];
        for answer in whole {
            let answer = answer.as_bytes();
            let known_end = !answer.starts_with(b"HTTP/1.0");
            for end in 0..answer.len() {
                let part = body(&answer[..end], false);
                assert!(matches!(part, Ok(None)) || end + 4 > answer.len(), "{end}: {part:?}");
            }
            assert_eq!(body(answer, !known_end), Ok(Some(b"a 1\n".to_vec())));
            let half = body(&answer[..answer.len() - 5], true);
            assert!(half.is_err() || !known_end, "{half:?}");
        }
    }

    #[test]
    fn other_answers_say_why() {
        let why = |answer: &str| body(answer.as_bytes(), true).unwrap_err();
        assert_eq!(why("HTTP/1.1 404 Not Found\r\n\r\n"), "the answer's status is 404");
        assert_eq!(why("SSH-2.0-x\r\n"), "it does not answer by HTTP");
        assert_eq!(why(""), "it does not answer by HTTP");
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", limits::AGENT_PAGE_BYTES + 1);
        assert!(why(&long).starts_with("the page has more than"));
        let chunks = |text: &str| why(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{text}"));
        assert_eq!(chunks("2\r\nabcd"), "the answer is malformed");
        assert_eq!(chunks("FFFFFFFFFFFFFFFF\r\n"), "the answer is malformed");
        assert_eq!(chunks("2\r\nab"), "the connection ended before the page");
        assert!(body(&vec![b'a'; HEAD_BYTES], false).is_err());
    }
}

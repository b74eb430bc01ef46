//! The admin side of a real daemon, by HTTP over TCP and UNIX sockets.

mod api;
mod commands;
mod events;
mod hostile;
mod metrics;
mod monitoring;
mod schema;
mod sockets;
mod words;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::harness::{Daemon, PATIENCE};

/// A daemon with an admin side at a TCP address of loopback.
fn start(flags: &[&str]) -> Daemon {
    Daemon::start(&[&["--admin-listen", "127.0.0.1:0"][..], flags].concat())
}

/// The address behind `http://127.0.0.1:9860/`.
fn address(daemon: &Daemon) -> SocketAddr {
    let url = &daemon.admin()[0];
    let address = url.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    address.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// An answer of HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header.
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Sends bytes, and reads the answer to its end.
pub(crate) fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Answer {
    stream.write_all(request).expect("the daemon takes the request");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the daemon answers");
    let text = String::from_utf8(bytes).expect("the answer is text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.expect("a status"), head: head.into(), body: body.into() }
}

fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(address(daemon)).expect("the admin side accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}{length}\r\n{body}")
}

pub(crate) fn get(daemon: &Daemon, path: &str) -> Answer {
    exchange(connect(daemon), request("GET", path, "", "").as_bytes())
}

/// The JSON of a path that must be there.
pub(crate) fn read(daemon: &Daemon, path: &str) -> Value {
    let answer = get(daemon, path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

fn post(daemon: &Daemon, path: &str, body: &str) -> Answer {
    exchange(connect(daemon), request("POST", path, "Content-Type: application/json\r\n", body).as_bytes())
}

/// The JSON of a write that must be done.
pub(crate) fn write(daemon: &Daemon, path: &str, body: &str) -> Value {
    let answer = post(daemon, path, body);
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    answer.json()
}

/// A path for a socket; short, because the kernel takes 107 bytes.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("gwm-{}-{name}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn get_unix(path: &Path, target: &str) -> Answer {
    let stream = UnixStream::connect(path).expect("the socket accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    exchange(stream, request("GET", target, "", "").as_bytes())
}

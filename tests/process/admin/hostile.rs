//! Clients of the admin side that mean no good, or are broken: they get bounded means, and load balancers do not notice.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use gwm::{limits, sasp::ReturnCode};

use super::{Answer, address, connect, exchange, get, get_unix, request, socket_path, start};
use crate::harness::{Daemon, LB, PATIENCE, until};

/// Load balancers and operators are served.
fn serves(daemon: &Daemon, uid: &str) {
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, uid, "web", &["10.0.0.1:80"]), ReturnCode::SUCCESSFUL);
    assert!(lb.get_weights(uid, &["web"]).contains("10.0.0.1"));
    assert_eq!(get(daemon, "/api/v1/totals").status, 200);
}

/// An answer, or the end of the connection.
fn try_exchange(mut stream: TcpStream, request: &[u8]) -> Option<Answer> {
    let _ = stream.write_all(request); // the daemon may have answered and closed before it has read all
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.into(), body: body.into() })
}

#[test]
fn wrong_methods_and_paths_are_answered() {
    let daemon = start(&[]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
        let answer = exchange(connect(&daemon), request(method, "/api/v1/totals", "", "").as_bytes());
        assert_eq!(answer.status, if method == "CONNECT" { answer.status } else { 405 }, "{method}");
        assert!((400..500).contains(&answer.status), "{method}: {answer:?}");
    }
    let answer = exchange(connect(&daemon), request("GET", "/api/v1/members/quiesce", "", "").as_bytes());
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert_eq!(answer.json()["error"]["code"], "method");
    let head = exchange(connect(&daemon), request("HEAD", "/api/v1/totals", "", "").as_bytes());
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for path in ["/api/v2/totals", "/api/v1/totals/", "/../etc/passwd", "/api/v1/%2e%2e/x", "//", "/api"] {
        assert_eq!(get(&daemon, path).status, 404, "{path}");
    }
    serves(&daemon, "LB1");
}

#[test]
fn two_hosts_are_refused() {
    let daemon = start(&[]);
    for second in ["localhost", "evil.example"] {
        let answer =
            exchange(connect(&daemon), request("GET", "/api/v1/totals", &format!("Host: {second}\r\n"), "").as_bytes());
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|text| text.contains("two Host headers")));
    }
    serves(&daemon, "LB1");
}

#[test]
fn heads_and_bodies_have_limits() {
    let daemon = start(&[]);
    let long = "x".repeat(limits::ADMIN_HEAD_BYTES * 2);
    let head =
        try_exchange(connect(&daemon), request("GET", &format!("/api/v1/members?group={long}"), "", "").as_bytes());
    assert!(head.is_none_or(|answer| (400..500).contains(&answer.status)));
    let many = "A: b\r\n".repeat(1000);
    let head = try_exchange(connect(&daemon), request("GET", "/api/v1/totals", &many, "").as_bytes());
    assert!(head.is_none_or(|answer| (400..500).contains(&answer.status)));

    let json = "Content-Type: application/json\r\n";
    let body = format!("{{\"reason\":\"{}\"}}", "x".repeat(limits::ADMIN_BODY_BYTES));
    let answer = try_exchange(connect(&daemon), request("POST", "/api/v1/reload", json, &body).as_bytes());
    assert_eq!(answer.map(|answer| answer.status), Some(413));
    // A body that says it is longer than it may be, and one without an end.
    let huge = format!(
        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{json}Content-Length: 99999999999\r\n\r\n"
    );
    let mut stream = connect(&daemon);
    stream.write_all(huge.as_bytes()).expect("the daemon takes the head");
    endless(stream, b"x");
    let chunked = format!(
        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{json}Transfer-Encoding: chunked\r\n\r\n"
    );
    let mut stream = connect(&daemon);
    stream.write_all(chunked.as_bytes()).expect("the daemon takes the head");
    endless(stream, b"1\r\nx\r\n");
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"\0\0\0\0",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = try_exchange(connect(&daemon), &[garbage, b"\r\n\r\n"].concat());
        assert!(answer.is_none_or(|answer| (400..600).contains(&answer.status)), "{garbage:?}");
    }
    serves(&daemon, "LB1");
    assert!(daemon.resident_kib() < 200_000);
}

/// Writes without an end; the daemon must end it.
fn endless(mut stream: TcpStream, piece: &[u8]) {
    let piece = piece.repeat(1000);
    let mut written = 0;
    while stream.write_all(&piece).is_ok() {
        written += piece.len();
        assert!(written < 256 << 20, "the daemon takes a body without an end");
    }
}

#[test]
fn idle_connections_keep_nobody_out() {
    let daemon = start(&[]);
    let room = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = usize::try_from(room.saturating_sub(2000)).unwrap_or(usize::MAX).min(10_000);
    let address = address(&daemon);
    let idle: Vec<TcpStream> = (0..count)
        .map(|n| {
            let mut stream = TcpStream::connect(address).expect("the admin side accepts");
            if n % 2 == 0 {
                let _ = stream.write_all(b"GET /api/v1/totals HT"); // a head without an end
            }
            stream
        })
        .collect();
    serves(&daemon, "LB1");
    assert!(daemon.sockets() < limits::ADMIN_CONNECTIONS + 64, "{} sockets", daemon.sockets());
    drop(idle);
    serves(&daemon, "LB2");
    daemon.stop();
}

#[test]
fn a_slow_reader_of_the_stream_is_dropped_and_others_go_on() {
    let daemon = start(&[]);
    let mut slow = connect(&daemon);
    slow.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the daemon takes the request");
    let mut lb = daemon.connect();
    let members: Vec<String> = (0..200).map(|n| format!("10.0.{}.{}:80", n / 100, n % 100 + 1)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    assert_eq!(lb.register(LB, "LB1", "web", &members), ReturnCode::SUCCESSFUL);
    let done = AtomicBool::new(false);
    // Each turn changes all endpoints; nobody reads the stream.
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !done.load(Ordering::Relaxed) {
                let path = if turn % 2 == 0 { "/api/v1/members/quiesce" } else { "/api/v1/members/resume" };
                assert_eq!(super::post(&daemon, path, r#"{"reason":"r"}"#).status, 200);
                turn += 1;
            }
        });
        until("the slow reader is dropped", || {
            let limits = super::read(&daemon, "/api/v1/limits");
            let row = limits["limits"].as_array().unwrap().iter().find(|row| row["name"] == "admin_streams").unwrap();
            row["used"] == 0
        });
        done.store(true, Ordering::Relaxed);
    });
    let mut rest = Vec::new();
    match slow.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    serves(&daemon, "LB2");
}

#[test]
fn clients_that_follow_and_say_nothing_keep_nobody_out() {
    let daemon = start(&[]);
    let follow = || {
        let mut stream = connect(&daemon);
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is taken");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200");
        stream
    };
    let mut streams: Vec<_> = (0..limits::ADMIN_STREAMS + 3).map(|_| follow()).collect();
    // The oldest ones made room.
    for oldest in &mut streams[..3] {
        let _ = oldest.read_to_end(&mut Vec::new()); // it may be reset
    }
    serves(&daemon, "LB1");
}

#[test]
fn lists_of_many_delay_no_load_balancer() {
    let daemon = Daemon::start_alone(&["--admin-listen", "127.0.0.1:0"]);
    let members: Vec<String> = (0..1000).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250 + 1)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut lbs: Vec<_> = (0..20).map(|n| (format!("LB{n}"), daemon.connect())).collect();
    for (uid, lb) in &mut lbs {
        assert_eq!(lb.register(LB, uid, "web", &members), ReturnCode::SUCCESSFUL);
    }
    let done = AtomicBool::new(false);
    let (listed, walks) = thread::scope(|scope| {
        let list = scope.spawn(|| {
            let (mut rows, mut walks) = (0, 0);
            while !done.load(Ordering::Relaxed) || walks == 0 {
                let (mut after, mut here) = (String::new(), 0);
                loop {
                    let page = super::read(&daemon, &format!("/api/v1/members?limit=1000{after}"));
                    here += page["members"].as_array().unwrap().len();
                    match page["next"].as_str() {
                        Some(next) => after = format!("&after={next}"),
                        None => break,
                    }
                }
                rows = here;
                walks += 1;
            }
            (rows, walks)
        });
        for round in 0..100 {
            let (uid, lb) = &mut lbs[round % 20];
            assert!(lb.get_weights(uid, &["web"]).contains("10.0.0.1"));
        }
        done.store(true, Ordering::Relaxed);
        list.join().expect("no panic")
    });
    assert!(listed == 20_000 && walks > 0, "{listed} rows in {walks} walks");
}

/// Begins a write, and sends no more of its body when the daemon reads it.
fn half_a_body(mut stream: impl Read + Write) -> impl Read + Write {
    let head = "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 100\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the daemon takes the head");
    let mut told = [0; 12];
    stream.read_exact(&mut told).expect("the daemon wants the body");
    assert_eq!(&told, b"HTTP/1.1 100");
    stream.write_all(b"{").expect("the daemon takes a part of the body");
    stream
}

#[test]
fn unfinished_bodies_keep_nobody_out() {
    let socket = socket_path("bodies");
    let daemon = start(&["--admin-listen", &format!("unix:{}", socket.display())]);
    let by_tcp: Vec<_> = (0..limits::ADMIN_CONNECTIONS).map(|_| half_a_body(connect(&daemon))).collect();
    assert_eq!(get_unix(&socket, "/api/v1/totals").status, 200);
    assert_eq!(get(&daemon, "/api/v1/totals").status, 200);
    let local = || {
        let stream = UnixStream::connect(&socket).expect("the socket accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        half_a_body(stream)
    };
    let by_socket: Vec<_> = (0..limits::ADMIN_CONNECTIONS).map(|_| local()).collect();
    assert_eq!(get_unix(&socket, "/api/v1/totals").status, 200);
    drop((by_tcp, by_socket));
    serves(&daemon, "LB1");
}

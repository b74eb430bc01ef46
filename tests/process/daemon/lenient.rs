//! Checks are as lenient as the clients that use the servers: real listeners give odd answers to HAProxy, to curl and to
//! the daemon.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    authority::{Authority, Folder, Identity},
    haproxy::HaProxy,
    harness::{Daemon, LB, TempFile},
};

/// Who takes the answer for a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Takes {
    haproxy: bool,
    curl: bool,
    gwm: bool,
}

const ALL: Takes = Takes { haproxy: true, curl: true, gwm: true };
const NONE: Takes = Takes { haproxy: false, curl: false, gwm: false };
const HAPROXY: Takes = Takes { curl: false, ..ALL };
const CURL: Takes = Takes { haproxy: false, ..ALL };
/// curl alone: the head is cut off, so its meaning is not known (RFC 9112 section 8).
const CUT: Takes = Takes { curl: true, ..NONE };
/// A fault in a body, at which the daemon does not look unless the operator says what the body must have.
const IN_BODY: Takes = Takes { gwm: true, ..NONE };

/// Answers to a check.
const ANSWERS: &[(&str, Takes)] = &[
    ("HTTP/1.1 200 OK\r\n\r\n", ALL),
    ("HTTP/1.1 200 OK\r\nServer: x\r\n  folded\r\n\r\n", ALL),
    ("HTTP/1.1 200 OK\r\nServer: x\r\n\tfolded\r\n \r\n\tagain\r\nA: b\r\n\r\n", ALL),
    ("HTTP/1.1 200 OK\r\n folded\r\nA: b\r\n\r\n", NONE),
    ("HTTP/1.1 200 OK\nA: b\n\n", ALL),
    ("HTTP/1.1 200 OK\nA: b\r\n\n", ALL),
    ("HTTP/1.1 200\r\n\r\n", ALL),
    ("HTTP/1.1 200 \r\n\r\n", ALL),
    ("HTTP/1.1 200 Very \u{e9} \t good\r\n\r\n", ALL),
    ("HTTP/1.1 200 OK\0\r\n\r\n", HAPROXY),
    ("HTTP/1.0 200 OK\r\n\r\n", ALL),
    ("HTTP/1.2 200 OK\r\n\r\n", HAPROXY),
    ("HTTP/0.9 200 OK\r\n\r\n", HAPROXY),
    ("HTTP/2.0 200 OK\r\n\r\n", ALL),
    ("HTTP/2 200 OK\r\n\r\n", CURL),
    ("HTTP/3 200 OK\r\n\r\n", NONE),
    ("HTTP/1 200 OK\r\n\r\n", NONE),
    ("HTTP/1.10 200 OK\r\n\r\n", NONE),
    ("http/1.1 200 OK\r\n\r\n", CURL),
    ("ICY 200 OK\r\n\r\n", NONE),
    ("HTTP/1.1  200 OK\r\n\r\n", ALL),
    ("HTTP/1.1 \t200\tOK\r\n\r\n", ALL),
    ("HTTP/1.1\t200 OK\r\n\r\n", HAPROXY),
    ("HTTP/1.1 200OK\r\n\r\n", CURL),
    ("HTTP/1.1200 OK\r\n\r\n", NONE),
    ("HTTP/1.1 20 OK\r\n\r\n", NONE),
    ("HTTP/1.1 2000 OK\r\n\r\n", NONE),
    ("HTTP/1.1 2x0 OK\r\n\r\n", NONE),
    ("HTTP/1.1 099 OK\r\n\r\n", NONE),
    ("\r\n\nHTTP/1.1 200 OK\r\n\r\n", HAPROXY),
    (" HTTP/1.1 200 OK\r\n\r\n", NONE),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", CURL),
    ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", CURL),
    ("HTTP/1.1 102 \n\nHTTP/1.1 200 OK\r\n\r\n", CURL),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n", NONE),
    ("HTTP/1.1 101 Switching Protocols\r\n\r\n", NONE),
    ("HTTP/1.1 204 No Content\r\n\r\n", ALL),
    ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", ALL),
    ("HTTP/1.1 404 Not Found\r\n\r\n", NONE),
    ("HTTP/1.1 999 What\r\n\r\n", NONE),
    ("HTTP/1.1 200 OK\r\nServer : x\r\n\r\n", CURL),
    ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", NONE),
    ("HTTP/1.1 200 OK\r\n: no name\r\n\r\n", CURL),
    ("HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n", CURL),
    ("HTTP/1.1 200 OK\r\n\x01: x\r\n\r\n", CURL),
    ("HTTP/1.1 200 OK\r\nA: \u{1}\u{7f}\u{80}\r\n\r\n", ALL),
    ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", HAPROXY),
    ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", CURL),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", ALL),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk", CURL),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", ALL),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2x\r\n\r\nok", CURL),
    ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok", CURL),
    ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok", NONE),
    ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", NONE),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", NONE),
    ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", HAPROXY),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", ALL),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: what\r\n\r\nok", NONE),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", IN_BODY),
    ("HTTP/1.1 200 OK\r\nA: b\r\n", CUT),
    ("HTTP/1.1 200 OK\r\n", CUT),
    ("HTTP/1.1 200 OK", NONE),
    ("<html>200 OK</html>", NONE),
    ("220 mail.example ESMTP\r\n", NONE),
    ("", NONE),
];

/// A server that gives this answer to every request, for as long as the tests run.
fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || talk(stream, &answer));
        }
    });
    address
}

fn talk(mut stream: TcpStream, answer: &[u8]) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
        head.push(byte[0]);
    }
    // The client may have closed the connection.
    let _ = stream.write_all(answer);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut head);
}

fn curl_takes(address: SocketAddr) -> bool {
    let output = Command::new("curl")
        .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "20"])
        .arg(format!("http://{address}/"))
        .output()
        .expect("the tests need curl");
    let code = String::from_utf8_lossy(&output.stdout).parse::<u16>();
    output.status.success() && code.is_ok_and(|code| (200..400).contains(&code))
}

/// Which of these members the daemon takes for good ones. Each has these lines in its entry.
fn daemon_takes(members: &[(SocketAddr, String)]) -> Vec<bool> {
    let mut file = String::new();
    for (address, lines) in members {
        let (ip, port) = (address.ip(), address.port());
        write!(file, "[[member]]\naddress = \"{ip}\"\nport = {port}\n{lines}\n").expect("a string has room");
    }
    let file = TempFile::new("lenient.toml", file);
    let flags = ["--probe-interval", "50ms", "--probe-timeout", "20s", "--push-window", "1ms", "--slow-start", "0s"];
    let daemon = Daemon::start(&[&flags[..], &["--members", file.path(), "--panic-percent", "100"]].concat());
    let mut lb = daemon.connect();
    let names: Vec<String> = members.iter().map(|(address, _)| address.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(lb.register(LB, "LB1", "G", &names), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), ReturnCode::SUCCESSFUL);
    let mut takes = Vec::new();
    crate::harness::until("each member is judged", || {
        let weights = lb.get_weights("LB1", &["G"]);
        let says = |name: &&str| {
            let entry = weights.split(&['[', ']', ',']).find(|entry| entry.contains(&format!("{name} ")))?;
            if entry.contains("00/0D/") { Some(true) } else { entry.contains("00/0C/0").then_some(false) }
        };
        let all: Option<Vec<bool>> = names.iter().map(says).collect();
        all.map(|all| takes = all).is_some()
    });
    daemon.stop();
    takes
}

#[test]
fn odd_answers_are_taken_as_haproxy_and_curl_take_them() {
    let servers: Vec<SocketAddr> = ANSWERS.iter().map(|(answer, _)| serve(answer.as_bytes().to_vec())).collect();
    let mut backend = "backend odd\n option httpchk GET /\n http-check expect status 200-399\n".to_owned();
    for (number, address) in servers.iter().enumerate() {
        writeln!(backend, " server s{number} {address} check inter 50ms rise 1 fall 1").expect("a string has room");
    }
    let haproxy = HaProxy::start(&backend);
    let members: Vec<_> = servers.iter().map(|address| (*address, "monitor = \"http\"".to_owned())).collect();
    let gwm = daemon_takes(&members);
    let checks = haproxy.checks();
    let mut wrong = String::new();
    for (number, ((answer, listed), address)) in ANSWERS.iter().zip(&servers).enumerate() {
        let says = &checks[&format!("s{number}")];
        let takes = Takes { haproxy: says == "L7OK", curl: curl_takes(*address), gwm: gwm[number] };
        if takes != *listed {
            writeln!(wrong, "{answer:?} is listed as {listed:?}, but {takes:?} ({says})").expect("a string has room");
        }
        let one = listed.haproxy || listed.curl;
        assert!(
            one == listed.gwm || [CUT, IN_BODY].contains(listed),
            "{answer:?}: the daemon is as lenient as they are"
        );
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Answers, what their bodies must have (HAProxy's words, the members file's), and whether they have it.
const BODIES: &[(&str, &str, &str, bool)] = &[
    ("Content-Length: 12\r\n\r\nstatus: okay", "string okay", "\"okay\"", true),
    ("Content-Length: 12\r\n\r\nstatus: okay", "string OKAY", "\"OKAY\"", false),
    ("Content-Length: 12\r\n\r\nstatus: okay", "rstring ^status:.ok(ay)?$", "{ regex = \"^status:.ok(ay)?$\" }", true),
    ("Content-Length: 12\r\n\r\nstatus: okay", "rstring ^ok", "{ regex = \"^ok\" }", false),
    ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2;x=y\r\nay\r\n0\r\n\r\n", "string okay", "\"okay\"", true),
    ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "rstring ^ok$", "{ regex = \"^ok$\" }", true),
    ("A: okay\r\n\r\n", "string okay", "\"okay\"", false),
    ("A: okay\r\n\r\nfine", "string fine", "\"fine\"", true),
];

#[test]
fn a_body_is_searched_as_haproxy_searches_it() {
    let mut backends = String::new();
    let mut members = Vec::new();
    for (number, (answer, haproxy, gwm, _)) in BODIES.iter().enumerate() {
        let address = serve(format!("HTTP/1.1 200 OK\r\n{answer}").into_bytes());
        write!(
            backends,
            "backend b{number}\n option httpchk GET /\n http-check expect {haproxy}\n \
             server s{number} {address} check inter 50ms rise 1 fall 1\n"
        )
        .expect("a string has room");
        members.push((address, format!("monitor = \"http\"\nhttp.match = {gwm}")));
    }
    let haproxy = HaProxy::start(&backends);
    let gwm = daemon_takes(&members);
    let checks = haproxy.checks();
    for (number, (answer, wanted, _, good)) in BODIES.iter().enumerate() {
        let says = &checks[&format!("s{number}")];
        assert_eq!((says == "L7OK", gwm[number]), (*good, *good), "{answer:?} {wanted} ({says})");
    }
}

/// The daemon sends what the operator adds to a request.
#[test]
fn a_request_has_the_operators_headers_and_body() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    let (tell, requests) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut request, mut part) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"{\"query\": 1}") {
                let length = stream.read(&mut part).expect("the daemon sends its request");
                assert!(length > 0, "the request ends early: {}", request.escape_ascii());
                request.extend_from_slice(&part[..length]);
            }
            let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nContent-Length: 7\r\n\r\nready!\n");
            // The answer has arrived when the daemon closes the connection.
            let _ = stream.read(&mut part);
            let _ = tell.send(String::from_utf8(request).expect("a request is text"));
        }
    });
    let lines = "monitor = \"http\"\n[member.http]\npath = \"/query\"\nbody = '{\"query\": 1}'\n\
                 expect = [200, 302]\nmatch = \"ready\"\nheaders = { Authorization = \"Bearer x\", User-Agent = \"probe\" }";
    assert_eq!(daemon_takes(&[(address, lines.to_owned())]), [true]);
    let request = requests.recv().expect("it was asked");
    assert!(request.starts_with("POST /query HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
    for line in ["Authorization: Bearer x", "User-Agent: probe", "Content-Length: 12"] {
        assert!(request.contains(&format!("\r\n{line}\r\n")), "{request}");
    }
    assert_eq!(request.matches("User-Agent").count(), 1, "{request}");
}

/// HAProxy as the member: it expects the header of the PROXY protocol before all else, and refuses what comes without.
#[test]
fn haproxy_takes_the_header_of_the_proxy_protocol() {
    let (authority, folder) = (Authority::new("root"), Folder::new());
    let Identity { chain, key } = authority.server();
    let (both, ca) = (folder.write("both.pem", &(chain + &key)), folder.write("ca.pem", authority.pem()));
    // HAProxy does not tell which ports it has chosen.
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let [expects, secure, plain] = [free(), free(), free()];
    let haproxy = HaProxy::start(&format!(
        "frontend member\n bind {expects} accept-proxy\n bind {secure} accept-proxy ssl crt {both}\n bind {plain}\n \
         http-request return status 200\n\
         backend ready\n option httpchk GET /\n server s {plain} check inter 50ms rise 1 fall 1\n"
    ));
    assert_eq!(haproxy.checks()["s"], "L7OK");
    let https = format!("monitor = \"https\"\ntls.ca = \"{ca}\"");
    let rows = [
        (expects, "monitor = \"http\"\nproxy_protocol = \"v1\"".to_owned(), true),
        (secure, format!("{https}\nproxy_protocol = \"v1\""), true),
        (plain, "monitor = \"http\"".to_owned(), true),
    ];
    let takes = |rows: &[(SocketAddr, String, bool)]| {
        let members: Vec<_> = rows.iter().map(|(address, lines, _)| (*address, lines.clone())).collect();
        let expected: Vec<_> = rows.iter().map(|(.., takes)| *takes).collect();
        assert_eq!(daemon_takes(&members), expected, "{members:?}");
    };
    takes(&rows);
    takes(&rows.map(|(address, lines, _)| (address, lines.replace("v1", "v2"), true)));
    takes(&[
        (expects, "monitor = \"http\"".to_owned(), false),
        (secure, https, false),
        (plain, "monitor = \"http\"\nproxy_protocol = \"v1\"".to_owned(), false),
    ]);
}

/// Servers over TLS that show certificates by which operators name them, and whether HAProxy and the daemon take them.
#[test]
fn certificates_are_taken_as_haproxy_takes_them() {
    let folder = Folder::new();
    let openssl = |words: &str| {
        let mut command = Command::new("openssl");
        let output =
            command.args(words.split_whitespace()).current_dir(folder.path("")).output().expect("openssl is there");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for name in ["own", "leaf", "v1", "root"] {
        openssl(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
    }
    openssl("req -x509 -key own.key -out own.pem -days 3 -subj /CN=web.example");
    openssl("req -x509 -key leaf.key -out leaf.pem -days 3 -subj /CN=web.example -addext basicConstraints=CA:FALSE");
    openssl("req -new -key v1.key -subj /CN=web.example -out v1.csr");
    openssl("x509 -req -in v1.csr -signkey v1.key -days 3 -out v1.pem");
    // What an authority signs without more words is of X.509 v1, and the CN is its only name.
    openssl("req -x509 -key root.key -out root.pem -days 3 -subj /CN=root");
    openssl("req -new -key leaf.key -subj /CN=web.example -out below.csr");
    openssl("x509 -req -in below.csr -CA root.pem -CAkey root.key -days 3 -out below.pem");
    std::fs::copy(folder.path("leaf.key"), folder.path("below.key")).expect("a file can be copied");
    let mut backend = "backend tls\n option httpchk GET /\n".to_owned();
    let (mut members, mut children) = (Vec::new(), Vec::new());
    let rows = [
        ("own", "own", true),
        ("leaf", "leaf", true),
        ("v1", "v1", true),
        ("below", "root", true),
        ("below", "leaf", false),
        ("own", "leaf", false),
        ("v1", "own", false),
        ("own", "", true),
        ("leaf", "", true),
        ("v1", "", true),
    ];
    for (number, (shown, trusted, _)) in rows.iter().enumerate() {
        let file = |name: &str, kind: &str| folder.path(&format!("{name}.{kind}"));
        let mut child = Command::new("openssl")
            .args(["s_server", "-www", "-accept", "127.0.0.1:0"])
            .args(["-cert", &file(shown, "pem"), "-key", &file(shown, "key")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is there");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let accepts = |line: std::io::Result<String>| line.ok()?.strip_prefix("ACCEPT ")?.parse::<SocketAddr>().ok();
        let address = lines.into_iter().find_map(accepts).expect("openssl says where it listens");
        children.push(child);
        let (haproxy, gwm) = match *trusted {
            "" => ("none".to_owned(), "tls.verify = false".to_owned()),
            name => (format!("required ca-file {}", file(name, "pem")), format!("tls.ca = \"{}\"", file(name, "pem"))),
        };
        let check = "check inter 200ms rise 1 fall 1 ssl verify";
        writeln!(backend, " server s{number} {address} {check} {haproxy}").expect("a string has room");
        let name = "tls.server_name = \"web.example\"";
        members.push((address, format!("monitor = \"https\"\n{name}\n{gwm}")));
    }
    let checks = HaProxy::start(&backend).checks();
    let gwm = daemon_takes(&members);
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    for (number, (shown, trusted, good)) in rows.iter().enumerate() {
        let says = &checks[&format!("s{number}")];
        assert_eq!((says == "L7OK", gwm[number]), (*good, *good), "{shown} where {trusted} is trusted ({says})");
    }
}

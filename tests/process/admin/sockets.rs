//! Who reaches the admin side.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::Command,
};

use super::{connect, exchange, get, get_unix, request, socket_path, start};
use crate::{
    authority::{Authority, Folder},
    harness::{Daemon, LB, Peer, TempFile, run},
    site::Site,
};

fn stderr_of(flags: &[&str]) -> (Option<i32>, String) {
    let output = run(&[&["serve", "--listen", "127.0.0.1:0"][..], flags].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_unix_socket_is_for_its_owner_and_group() {
    let path = socket_path("mode");
    drop(UnixListener::bind(&path).expect("a free path")); // a stale socket
    let text = format!("unix:{}", path.display());
    let daemon = Daemon::start(&["--admin-listen", &text]);
    assert_eq!(daemon.admin(), std::slice::from_ref(&text));
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o7777, 0o660);
    assert_eq!(get_unix(&path, "/api/v1/version").status, 200);
    let (status, words) = stderr_of(&["--admin-listen", &text]);
    assert_eq!(status, Some(1), "another daemon does not take a live socket: {words}");
    assert!(words.contains("--admin-listen") && words.contains("another process listens there"), "{words}");
    assert_eq!(get_unix(&path, "/api/v1/version").status, 200);
    daemon.stop();
    assert!(!path.exists(), "the socket's file ends with the daemon");
}

#[test]
fn an_audit_line_names_the_user_at_the_socket() {
    let path = socket_path("audit");
    let daemon = Daemon::start(&["--admin-listen", &format!("unix:{}", path.display())]);
    let curl = Command::new("curl")
        .args(["-sS", "--fail-with-body", "--unix-socket"])
        .arg(&path)
        .args(["http://localhost/api/v1/members/quiesce", "--json", r#"{"group":"web","reason":"why\nnot"}"#])
        .output()
        .expect("the tests need curl");
    assert!(curl.status.success(), "{curl:?}");
    daemon.wait_for_log(&["operator: quiesce", "from=socket, user ", ", process ", "reason=why\\nnot"]);
}

#[test]
fn other_hosts_and_origins_are_refused() {
    let daemon = start(&[]);
    let with = |host: &str, more: &str| {
        let request = format!("GET /api/v1/totals HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        exchange(connect(&daemon), request.as_bytes())
    };
    for host in ["localhost", "127.0.0.1:80", "[::1]"] {
        assert_eq!(with(host, "").status, 200, "{host}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "evil.example:9860"] {
        assert_eq!(with(host, "").status, 403, "{host}");
    }
    assert_eq!(with("localhost", "Origin: http://localhost\r\n").status, 200);
    for more in ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        let answer = with("localhost", more);
        assert_eq!(answer.status, 403, "{more}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // A link of another site may lead to the page, which has no data. Its script does not run there.
    let link = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nSec-Fetch-Site: cross-site\r\n\r\n";
    assert_eq!(exchange(connect(&daemon), link.as_bytes()).status, 200);
    // A form of another site has no JSON.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let headers = format!("Content-Type: {kind}\r\n");
        let answer =
            exchange(connect(&daemon), request("POST", "/api/v1/reload", &headers, r#"{"reason":"r"}"#).as_bytes());
        assert_eq!(answer.status, 415, "{kind}");
    }
    let page = get(&daemon, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
}

#[test]
fn other_addresses_need_tls_and_proof() {
    let folder = Folder::new();
    let authority = Authority::new("Admin");
    let (chain, key) = folder.identity("admin", &authority.server());
    let tls = ["--admin-tls-cert", &chain, "--admin-tls-key", &key];
    for (flags, words) in [
        (&["--admin-listen", "0.0.0.0:0"][..], "needs --admin-tls-cert and --admin-tls-key"),
        (&[&["--admin-listen", "0.0.0.0:0"][..], &tls].concat(), "needs --admin-tls-client-ca or --admin-token-file"),
        (&[&["--admin-listen", "127.0.0.1:0"][..], &tls].concat(), "leave it out"),
        (&["--admin-listen", "unix:relative"], "absolute path"),
        (&["--admin-listen", "127.0.0.1:1", "--admin-listen", "127.0.0.1:1"], "given twice"),
    ] {
        let (status, text) = stderr_of(flags);
        assert!(status == Some(2) && text.contains(words), "{flags:?}: {text}");
    }
    let short = TempFile::new("token", "short\n");
    let (status, text) = stderr_of(&["--admin-listen", "127.0.0.1:0", "--admin-token-file", short.path()]);
    assert!(status == Some(1) && text.contains("16 or more"), "{text}");
    let broken = TempFile::new("cert.pem", "no certificate");
    let (status, text) =
        stderr_of(&["--admin-listen", "0.0.0.0:0", "--admin-tls-cert", broken.path(), "--admin-tls-key", &key]);
    assert!(status == Some(1) && text.contains("--admin-tls-cert"), "{text}");
}

/// Every write, with a body that does it.
fn writes() -> Vec<(&'static str, &'static str)> {
    let member = r#"{"group":"web","reason":"no right"}"#;
    let body = |path: &str| match path.rsplit('/').next() {
        Some("fix-weight") => r#"{"address":"10.0.0.1","weight":1,"reason":"no right"}"#,
        Some("release-weight") => r#"{"address":"10.0.0.1","reason":"no right"}"#,
        Some("drop" | "forget") => r#"{"load_balancer":"LB1","reason":"no right"}"#,
        Some("reload") => r#"{"reason":"no right"}"#,
        _ => member,
    };
    gwm::admin::ROUTES.iter().filter(|(.., post)| *post).map(|(path, ..)| (*path, body(path))).collect()
}

/// What the operator has done; nothing was done as long as it is the same, and the log has no line of a write.
fn done(daemon: &Daemon, headers: &str) -> [serde_json::Value; 2] {
    ["/api/v1/words", "/api/v1/load-balancers"].map(|path| {
        let answer = exchange(connect(daemon), request("GET", path, headers, "").as_bytes());
        let mut seen = answer.json();
        assert_eq!(answer.status, 200, "{path}");
        if let Some(row) = seen["load_balancers"].get_mut(0) {
            row["bytes_waiting"].take();
        }
        seen
    })
}

#[test]
fn no_write_is_done_without_authority() {
    const TOKEN: &str = "Authorization: Bearer 0123456789abcdef\r\n";
    let token = TempFile::new("token", "0123456789abcdef\n");
    let daemon = start(&["--admin-token-file", token.path()]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    let before = done(&daemon, TOKEN);
    let json = "Content-Type: application/json\r\n";
    let ask = |path: &str, headers: &str, body: &str, host: &str| {
        let request = request("POST", path, headers, body).replace("Host: localhost", &format!("Host: {host}"));
        exchange(connect(&daemon), request.as_bytes())
    };
    assert_eq!(writes().len(), 7);
    for (path, body) in writes() {
        for (headers, host, status) in [
            (String::new(), "localhost", 401),
            ("Authorization: Bearer 0123456789abcdee\r\n".into(), "localhost", 401),
            ("Authorization: Bearer 0123456789abcde\r\n".into(), "localhost", 401),
            ("Authorization: Basic 0123456789abcdef\r\n".into(), "localhost", 401),
            ("Authorization: Bearer \r\n".into(), "localhost", 401),
            // With the token, but from the page of another site, or under the name of another host.
            (format!("{TOKEN}Origin: http://evil.example\r\n"), "localhost", 403),
            (format!("{TOKEN}Sec-Fetch-Site: cross-site\r\n"), "localhost", 403),
            (format!("{TOKEN}Sec-Fetch-Site: same-site\r\n"), "localhost", 403),
            (TOKEN.into(), "evil.example", 403),
        ] {
            let answer = ask(path, &format!("{json}{headers}"), body, host);
            assert_eq!(answer.status, status, "{path} {headers} {host}");
        }
        // A form of another site needs no permission of the daemon, so a form is no write.
        assert_eq!(ask(path, &format!("{TOKEN}Content-Type: text/plain\r\n"), body, "localhost").status, 415, "{path}");
        // Nor does a link.
        let link = exchange(connect(&daemon), request("GET", path, TOKEN, "").as_bytes());
        assert_eq!(link.status, 405, "{path}");
    }
    assert_eq!(done(&daemon, TOKEN), before);
    assert!(!daemon.log().contains("operator: "), "{}", daemon.log());
    // With the token they are done, or refused for what they say; the load balancer was dropped before it is forgotten.
    for (path, body) in writes() {
        let answer = ask(path, &format!("{json}{TOKEN}"), body, "localhost");
        assert!([200, 409].contains(&answer.status), "{path}: {answer:?}");
    }
    assert_ne!(done(&daemon, TOKEN), before);
}

#[test]
fn a_load_balancers_certificate_is_shown() {
    let site = Site::new();
    let daemon = site.start(&["--admin-listen", "127.0.0.1:0"]);
    let stream = std::net::TcpStream::connect(daemon.address()).expect("the daemon accepts");
    let mut lb = Peer::secure(stream, &site.client()).expect("a certificate that the daemon trusts");
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    let shown = get(&daemon, "/api/v1/load-balancers").json();
    let row = &shown["load_balancers"][0];
    assert_eq!((&row["uid"], &row["certificate"], &row["peer"]), (&"LB1".into(), &"LB1".into(), &"127.0.0.1".into()));
}

#[test]
fn a_token_or_a_certificate_proves_who_asks() {
    let folder = Folder::new();
    let authority = Authority::new("Admin");
    let (chain, key) = folder.identity("admin", &authority.server());
    let ca = folder.write("ca.pem", authority.pem());
    let token = TempFile::new("token", "0123456789abcdef\n");
    let flags = ["--admin-listen", "0.0.0.0:0", "--admin-tls-cert", &chain, "--admin-tls-key", &key];
    let curl = |daemon: &Daemon, path: &str, more: &[&str]| {
        let url = daemon.admin()[0].replace("0.0.0.0", "localhost");
        let output = Command::new("curl")
            .args(["-sS", "-4", "--cacert", &ca, "-o", "/dev/null", "-w", "%{http_code}"])
            .args(more)
            .arg(format!("{}{path}", url.trim_end_matches('/')))
            .output()
            .expect("the tests need curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let daemon = Daemon::start(&[&flags[..], &["--admin-token-file", token.path()]].concat());
    assert_eq!(curl(&daemon, "/api/v1/totals", &[]), "401");
    assert_eq!(curl(&daemon, "/api/v1/totals", &["-H", "Authorization: Bearer 0123456789abcdeF"]), "401");
    assert_eq!(curl(&daemon, "/api/v1/totals", &["-H", "Authorization: Bearer 0123456789abcdef"]), "200");
    assert_eq!(curl(&daemon, "/nowhere", &[]), "401");
    assert_eq!(curl(&daemon, "/readyz", &[]), "200", "whether it serves is no secret");
    token.write("fedcba9876543210");
    daemon.signal(rustix::process::Signal::HUP);
    crate::harness::until("the new token is in force", || {
        curl(&daemon, "/api/v1/totals", &["-H", "Authorization: Bearer fedcba9876543210"]) == "200"
    });
    assert_eq!(curl(&daemon, "/api/v1/totals", &["-H", "Authorization: Bearer 0123456789abcdef"]), "401");
    drop(daemon);

    let (client, client_key) = folder.identity("client", &authority.client("ann.example"));
    let daemon = Daemon::start(&[&flags[..], &["--admin-tls-client-ca", &ca]].concat());
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    assert_eq!(curl(&daemon, "/api/v1/totals", &[]), "000", "no certificate, no answer");
    let proof = ["--cert", &client, "--key", &client_key];
    assert_eq!(curl(&daemon, "/api/v1/totals", &proof), "200");
    let body = ["--json", r#"{"group":"web","reason":"r"}"#];
    assert_eq!(curl(&daemon, "/api/v1/members/quiesce", &[&proof[..], &body].concat()), "200");
    daemon.wait_for_log(&["operator: quiesce", "certificate ann.example"]);
}

//! GWMs of a fleet on one machine, with one etcd, when nothing fails.

use std::path::PathBuf;

use gwm::sasp::LbFlags;
use serde_json::{Value, json};

use super::{
    bed::Directory,
    store::{A, B, CHEAP, OK, ROOT, Store, members},
};
use crate::{
    admin::{self, read},
    authority::{Authority, Folder},
    connect::real::free_address,
    harness::{LB, MEMBER, TempFile, command, finish, until},
};

#[test]
fn what_one_node_is_told_the_other_shows() {
    let Some(store) = Store::start() else { return };
    let (a, b) = (store.node("a", &[]), store.node("b", &[]));
    let mut lb = a.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST | LbFlags::PUSH), OK);
    assert_eq!(lb.register(LB, "LB1", "web", &[A, B]), OK);
    until("b shows the members", || members(&b).len() == 2);
    assert_eq!(read(&b, "/api/v1/totals")["load_balancers_connected"], 1);
    let connected = read(&b, "/api/v1/load-balancers?state=connected");
    assert_eq!(connected["load_balancers"].as_array().expect("rows").len(), 1, "{connected}");
    // Of a load balancer that has its session at the other node, a member may speak here.
    let mut member = b.connect();
    assert_eq!(member.register(MEMBER, "LB1", "web", &["10.0.0.3:80"]), OK);
    assert_eq!(member.set_member(MEMBER, ("LB1", "web", A), 0x55, true), OK);
    until("a shows what b was told", || {
        let members = members(&a);
        members.len() == 3 && members[0].2
    });
    // The operator's words are everybody's.
    let said = r#"{"group":"web","address":"10.0.0.2","reason":"new disk","by":"ann"}"#;
    let done = admin::write(&b, "/api/v1/members/quiesce", said);
    assert_eq!((&done["done"], &done["survives_restart"]), (&json!("quiesced"), &json!(true)), "{done}");
    assert_eq!(read(&b, "/api/v1/version")["writes_survive_restart"], true);
    until("a has the word", || members(&a).iter().filter(|member| member.2).count() == 2);

    // A takeover by the other node closes the older connection.
    let mut second = b.connect();
    let expected = "LB1/web [10.0.0.1:80 55/07/0, 10.0.0.2:80 00/07/0, 10.0.0.3:80 00/01/100]";
    assert_eq!(second.get_weights("LB1", &["web"]), expected);
    assert_eq!(second.register(LB, "LB1", "new", &[A]), OK);
    while lb.try_receive().expect("the first connection ends").is_some() {}
    until("a knows both nodes", || {
        let fleet = read(&a, "/api/v1/fleet");
        fleet["fleet"]["nodes"].as_array().expect("nodes").len() == 2
    });
    let shown = finish(
        command(&["status", "--admin", a.admin()[0].trim_start_matches("http://").trim_end_matches('/'), "fleet"])
            .spawn()
            .expect("it starts"),
    );
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("fleet           main, this node is a") && shown.contains("NODE"), "{shown}");

    // Who comes later finds everything.
    let c = store.node("c", &[]);
    assert_eq!(members(&c), members(&a));
    let (words, version) = (read(&c, "/api/v1/words"), read(&c, "/api/v1/version"));
    let (at, started_at) = (words["words"][0]["at"].as_str(), version["started_at"].as_str());
    assert!(at.is_some() && at < started_at, "the word is older than the node: {words} {version}");
}

/// Why a node that serves is not one with its fleet.
fn trouble(store: &Store, flags: &[&str]) -> String {
    let url = store.url();
    let fleet = ["--fleet", &url, "--node", "a", "--fleet-lease", "2s", "--admin-listen", "127.0.0.1:0"];
    let daemon = store.daemon(&[&fleet[..], flags].concat());
    let fleet = read(&daemon, "/api/v1/fleet");
    fleet["fleet"]["trouble"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn etcd_is_reached_by_tls_with_certificates() {
    let (authority, stranger) = (Authority::new("etcd's"), Authority::new("another"));
    let folder = Folder::new();
    let (ca, other) = (folder.write("ca.pem", authority.pem()), folder.write("other.pem", stranger.pem()));
    let server = folder.identity("server", &authority.server());
    let client = folder.identity("client", &authority.client("a"));
    let flags = ["--cert-file", &server.0, "--key-file", &server.1, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let Some(store) = Store::start_with("https", &flags) else { return };
    let with = ["--fleet-tls-ca", &ca, "--fleet-tls-cert", &client.0, "--fleet-tls-key", &client.1];
    let a = store.node("a", &with);
    let localhost = format!("etcd://localhost:{}", store.address().port());
    let b =
        store.daemon(&[&["--fleet", &localhost, "--node", "b", "--admin-listen", "127.0.0.1:0"][..], &with].concat());
    assert_eq!(a.connect().register(LB, "LB1", "web", &[A]), OK);
    until("b shows it", || members(&b).len() == 1);
    drop((a, b));
    let wrong = trouble(&store, &["--fleet-tls-ca", &other]);
    assert!(wrong.contains("certificate"), "{wrong}");
    let wrong = trouble(&store, &["--fleet-tls-ca", &ca]);
    assert_ne!(wrong, "none", "etcd wants a certificate");
    let wrong = trouble(&store, &[]);
    assert_ne!(wrong, "none", "etcd speaks TLS only");
}

#[test]
fn etcd_may_ask_for_name_and_password() {
    let Some(store) = Store::start_with("http", &CHEAP) else { return };
    store.ask_for_password();
    let right = TempFile::new("right", "root:secret\n");
    let a = store.node("a", &["--fleet-credentials", right.path()]);
    assert_eq!(read(&a, "/api/v1/fleet")["fleet"]["connected"], true);
    assert_eq!(a.connect().register(LB, "LB1", "web", &[A]), OK);
    drop(a);
    let wrong = TempFile::new("wrong", "root:guess");
    let wrong = trouble(&store, &["--fleet-credentials", wrong.path()]);
    assert!(wrong.contains("name or password of --fleet-credentials is wrong"), "{wrong}");
    assert!(trouble(&store, &[]).contains("user name is empty"), "without credentials");
}

#[test]
fn a_token_that_has_ended_is_replaced() {
    let key = TempFile::new("jwt", "a secret of the tests");
    let tokens = format!("jwt,priv-key={},sign-method=HS256,ttl=1s", key.path());
    let Some(store) = Store::start_with("http", &[&CHEAP[..], &["--auth-token", &tokens]].concat()) else { return };
    store.ask_for_password();
    let credentials = TempFile::new("right", "root:secret\n");
    let (a, b) = (
        store.node("a", &["--fleet-credentials", credentials.path()]),
        store.node("b", &["--fleet-credentials", credentials.path()]),
    );
    let mut lb = a.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[A]), OK);
    // A token that is younger than those of the nodes.
    let token = store.ask("/v3/auth/authenticate", "", ROOT).json();
    let authorization = format!("Authorization: {}\r\n", token["token"].as_str().expect("a token"));
    let read = || store.ask("/v3/kv/range", &authorization, r#"{"key":"eA=="}"#).status;
    assert_eq!(read(), 200);
    until("the token has ended", || read() != 200);
    assert_eq!(lb.register(LB, "LB1", "web", &[B]), OK);
    until("b shows it", || members(&b).len() == 2);
    for node in [&a, &b] {
        assert!(!node.log().contains("the token has ended"), "{}", node.log());
    }
}

#[test]
fn a_watch_goes_to_the_next_gwm() {
    use std::io::{BufRead, BufReader};
    let Some(store) = Store::start() else { return };
    let (mut a, b) = (store.node("a", &[]), store.node("b", &[]));
    let gwms = format!("{},{}", a.address(), b.address());
    let flags = ["lb", "watch", "--uid", "LB1", "--gwm", &gwms, "--group", "web=10.0.0.1:80", "--retry", "1h"];
    let mut watch = command(&flags).spawn().expect("the binary starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("stdout is piped")).lines();
    let mut next = |event: &str| loop {
        let line = lines.next().expect("one more line").expect("a line of text");
        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
        if line["event"] == event {
            return line["gwm"].as_str().expect("a text").to_owned();
        }
    };
    assert_eq!(next("weights"), a.address().to_string());
    until("b has the group", || members(&b).len() == 1);
    a.signal(rustix::process::Signal::KILL);
    a.wait();
    assert_eq!(next("weights"), b.address().to_string());
    let _ = watch.kill();
    let _ = watch.wait();
}

#[test]
fn a_second_node_of_a_name_is_refused() {
    let Some(store) = Store::start() else { return };
    let _first = store.node("same", &[]);
    let url = store.url();
    let flags = ["serve", "--listen", "127.0.0.1:0", "--fleet", &url, "--node", "same", "--fleet-lease", "2s"];
    let second = finish(command(&flags).spawn().expect("the binary starts"));
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("another GWM of the fleet has the name same: give each its own with --node"), "{text}");
    assert!(second.stdout.is_empty(), "it has not listened");
}

#[test]
fn without_etcd_a_node_serves_and_later_tells_all() {
    let Some(store) = Store::start() else { return };
    let nowhere = free_address();
    let state = Directory::new();
    let path: PathBuf = state.path().join("state");
    let path = path.to_str().expect("UTF-8");
    let flags = ["--state", path, "--admin-listen", "127.0.0.1:0", "--node", "a", "--fleet-lease", "2s"];
    let alone = |etcd: &str| store.daemon(&[&["--fleet", etcd][..], &flags].concat());
    let a = alone(&format!("etcd://{nowhere}"));
    a.wait_for_log(&["WARN", "etcd is away at the start"]);
    assert_eq!(a.connect().register(LB, "LB1", "web", &[A]), OK);
    let ready = admin::get(&a, "/readyz");
    assert!(ready.status == 503 && ready.body.contains("fleet: etcd is out of reach"), "{ready:?}");
    a.stop();

    // Meanwhile others have other load balancers.
    let b = store.node("b", &[]);
    assert_eq!(b.connect().register(LB, "LB2", "db", &[B]), OK);
    let a = alone(&store.url());
    for daemon in [&a, &b] {
        until("both have both", || {
            let mut groups: Vec<_> = members(daemon).into_iter().map(|member| member.0).collect();
            groups.sort();
            groups == ["db", "web"]
        });
    }
    assert_eq!(admin::get(&a, "/readyz").status, 200);
}

//! `gwm connect xds`, with a real Envoy and a real gRPC client.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use rustix::process::Signal;

use super::{
    Connector, Gwm, Member,
    admin::{self, admin, metric},
    envoy::{Envoy, Way, request},
    proxy::exchange,
    real::{free_address, without_right},
    resolved,
    scenarios::{Real, Weights, outlives},
};
use crate::{
    authority::{Authority, Folder},
    harness::{PATIENCE, python, run, until},
};

/// A connector that serves xDS.
pub(super) struct Xds {
    pub(super) connector: Connector,
    pub(super) address: SocketAddr,
}

impl Xds {
    pub(super) fn start(gwm: &str, flags: &[&str]) -> Xds {
        let given = if flags.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let connector = Connector::start(&[&["--gwm", gwm, "xds"], given, flags].concat());
        let printed = || {
            let output = connector.output();
            let line =
                output.split_inclusive('\n').find(|line| line.starts_with("gwm: xDS on ") && line.ends_with('\n'));
            line.map(|line| line.trim_end().trim_start_matches("gwm: xDS on ").parse().expect("an address"))
        };
        until("it says where it listens", || printed().is_some());
        let address = printed().expect("it was there");
        Xds { connector, address }
    }
}

/// The members as `web=…`.
pub(super) fn group(members: &[SocketAddr]) -> String {
    let members: Vec<String> = members.iter().map(SocketAddr::to_string).collect();
    format!("web={}", members.join(","))
}

pub(super) fn with(members: &[SocketAddr], weights: &[Option<u16>]) -> Vec<(SocketAddr, Option<u16>)> {
    members.iter().copied().zip(weights.iter().copied()).collect()
}

#[test]
fn envoy_follows_the_weights_by_each_protocol() {
    let started: Vec<Member> = (0..3).map(|_| Member::start()).collect();
    let members: Vec<SocketAddr> = started.iter().map(|member| member.address).collect();
    let gwm = Gwm::start(&with(&members, &[Some(10), Some(20), Some(30)]));
    let folder = Folder::new();
    let (file, pattern) = (folder.path("web.json"), folder.path("*.json"));
    let xds = Xds::start(&gwm.address(), &["--group", &group(&members), "--file", &pattern]);
    until("the file", || Path::new(&file).exists());
    let ways = [Way::StateOfTheWorld, Way::Delta, Way::Rest, Way::File(&file)];
    let envoys = ways.map(|way| Envoy::start(way, xds.address));
    let all = |wanted: &[usize]| envoys.iter().for_each(|envoy| envoy.balances(&members, wanted));
    all(&[20, 40, 60]);
    gwm.set(&with(&members, &[Some(30), Some(20), Some(10)]));
    all(&[60, 40, 20]);
    // Drained: left out, so that no client refuses the weights.
    gwm.set(&with(&members, &[Some(30), None, Some(10)]));
    all(&[90, 0, 30]);
    gwm.set(&with(&members, &[None, None, Some(10)]));
    all(&[0, 0, 120]);
    // Dead.
    gwm.set(&with(&members, &[Some(10), Some(10), Some(10)]));
    all(&[40, 40, 40]);
    started[0].close();
    all(&[0, 60, 60]);
    // A file that someone changed heals.
    fs::write(&file, "{}").expect("it can be written");
    until("the file again", || fs::read_to_string(&file).is_ok_and(|text| text.contains("lb_endpoints")));
    for envoy in &envoys {
        assert_eq!(envoy.counter("cluster.web.update_rejected"), 0);
    }
}

#[test]
fn envoy_outlives_the_gwm_and_the_connector_and_no_request_fails() {
    let started: Vec<Member> = (0..3).map(|_| Member::start()).collect();
    let members: Vec<SocketAddr> = started.iter().map(|member| member.address).collect();
    let weights = with(&members, &[Some(10), Some(20), Some(30)]);
    let gwm = Gwm::start(&weights);
    let address = gwm.address();
    let xds = Xds::start(&address, &["--group", &group(&members)]);
    let envoy = Envoy::start(Way::Delta, xds.address);
    envoy.balances(&members, &[20, 40, 60]);

    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let failed: Vec<String> = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                failed.extend(request(envoy.address).err());
                made.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        let more = |what: &str| {
            let start = made.load(Ordering::Relaxed);
            until(what, || made.load(Ordering::Relaxed) >= start + 200);
        };
        // A member drains and leaves.
        gwm.set(&with(&members, &[Some(10), Some(20), None]));
        envoy.balances(&members, &[40, 80, 0]);
        started[2].close();
        more("requests without the member");
        // The GWM goes and comes back, with other weights.
        drop(gwm);
        until("the loss is logged", || xds.connector.log().contains("retry_seconds"));
        more("requests without the GWM");
        let gwm = Gwm::start_at(&address, &with(&members, &[Some(20), Some(10), None]));
        envoy.balances(&members, &[80, 40, 0]);
        // The connector is killed amid updates, and started again.
        for weight in 1..20 {
            gwm.set(&with(&members, &[Some(weight), Some(10), None]));
        }
        let listen = xds.address.to_string();
        xds.connector.kill();
        more("requests without the connector");
        gwm.set(&with(&members, &[Some(10), Some(10), None]));
        let _xds = Xds::start(&address, &["--group", &group(&members), "--listen", &listen]);
        envoy.balances(&members, &[60, 60, 0]);
        more("requests at the end");
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no panic")
    });
    assert_eq!(failed, [""; 0], "of {} requests", made.load(Ordering::Relaxed));
}

#[test]
fn only_clients_with_a_certificate_are_served_if_that_is_asked() {
    let (authority, stranger, folder) = (Authority::new("root"), Authority::new("other"), Folder::new());
    let (certificate, key) = folder.identity("server", &authority.server());
    let (client, client_key) = folder.identity("client", &authority.client("envoy"));
    let (other, other_key) = folder.identity("other", &stranger.client("envoy"));
    let ca = folder.write("ca.pem", authority.pem());
    let members = [Member::start().address, Member::start().address];
    let gwm = Gwm::start(&with(&members, &[Some(30), Some(10)]));
    let flags = ["--xds-tls-cert", &certificate, "--xds-tls-key", &key, "--xds-tls-client-ca", &ca];
    let xds = Xds::start(&gwm.address(), &[&["--group", &group(&members)][..], &flags].concat());
    let known = Envoy::start(Way::Tls(&[client, client_key, ca.clone()]), xds.address);
    known.balances(&members, &[90, 30]);
    let _unknown = Envoy::start(Way::Tls(&[other, other_key, ca]), xds.address);
    xds.connector.wait_for_log(&["WARN", "TLS with 127.0.0.1:"]);
    // Other files are in force for new connections, once SIGHUP has let them be read.
    let (client, client_key) = folder.identity("new-client", &stranger.client("envoy"));
    folder.identity("server", &stranger.server());
    let ca = folder.write("ca.pem", stranger.pem());
    xds.connector.signal(Signal::HUP);
    xds.connector.wait_for_log(&["SIGHUP: new TLS files are in force", "server"]);
    let new = Envoy::start(Way::Tls(&[client, client_key, ca]), xds.address);
    new.balances(&members, &[90, 30]);
}

#[test]
fn streams_hear_that_the_control_plane_ends() {
    let members = [Member::start().address];
    let gwm = Gwm::start(&with(&members, &[Some(30)]));
    let xds = Xds::start(&gwm.address(), &["--group", &group(&members)]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/xds_farewell.py");
    let mut client = Command::new(python("python"))
        .args([script, &xds.address.port().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs: tests/run makes it");
    let mut lines = BufReader::new(client.stdout.take().expect("it is piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "served");
    assert!(xds.connector.stop().success());
    assert_eq!(lines.next().expect("a line").expect("text"), "UNAVAILABLE the control plane ends");
    client.wait().expect("it ends");
}

#[test]
fn what_envoy_reports_of_members_is_shown() {
    let started: Vec<Member> = (0..3).map(|_| Member::start()).collect();
    // The last one ends each connection without an answer; then Envoy asks another one.
    started[2].set_open(false);
    let members: Vec<SocketAddr> = started.iter().map(|member| member.address).collect();
    let gwm = Gwm::start(&with(&members, &[Some(10), Some(10), Some(10)]));
    let xds = Xds::start(&gwm.address(), &["--group", &group(&members), "--admin-listen", "127.0.0.1:0"]);
    let at = admin(&xds.connector);
    let envoy = Envoy::start(Way::StateOfTheWorld, xds.address);
    let reports = || metric(&at, "gwm_connect_xds_reports_total").unwrap_or(0.0);
    let told = |name: &str, member: &Member| {
        let series = format!("gwm_connect_member_{name}{{pool=\"web\",member=\"{}\"}}", member.address);
        metric(&at, &series).unwrap_or(0.0)
    };
    let ask = |count| (0..count).for_each(|_| drop(request(envoy.address)));
    // Envoy counts from its first report on.
    until("Envoy reports", || {
        ask(10);
        started.iter().all(|member| told("new_connections_total", member) > 0.0)
    });
    // When nothing is asked, the second report from now on has all.
    let all_told = || {
        let before = reports();
        until("two reports", || reports() >= before + 2.0);
        [0, 1].map(|at| (started[at].served() as f64, told("new_connections_total", &started[at])))
    };
    let before = all_told();
    ask(40);
    let after = all_told();
    let more = before.iter().zip(&after).map(|(before, after)| (after.0 - before.0, after.1 - before.1));
    assert!(more.clone().all(|(served, told)| served == told && served > 0.0), "{:?}", more.collect::<Vec<_>>());
    assert!(told("errors_total", &started[2]) > 0.0);
}

#[test]
fn what_clients_refuse_is_logged() {
    let members = [Member::start().address, Member::start().address];
    let gwm = Gwm::start(&with(&members, &[Some(30), Some(10)]));
    let other = format!("other={}", members[0]);
    let groups = ["--group", &group(&members), "--group", &other, "--admin-listen", "127.0.0.1:0"];
    let xds = Xds::start(&gwm.address(), &groups);
    let at = admin(&xds.connector);
    // By hand: a stream that asks, and refuses what it gets.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/xds_refuses.py");
    let output = Command::new(python("python")).args([script, &xds.address.port().to_string()]).output();
    let output = output.expect("python runs: tests/run makes it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    xds.connector.wait_for_log(&["WARN", "xDS client test\\n1 refuses a ClusterLoadAssignment: no\\tgood"]);
    assert_eq!(xds.connector.log().matches("refuses a").count(), 1, "told once");
    // An Envoy beside it is served.
    let envoy = Envoy::start(Way::StateOfTheWorld, xds.address);
    envoy.balances(&members, &[90, 30]);
    // The admin side tells which streams there are, and what their clients have.
    let refusals = metric(&at, "gwm_connect_xds_refusals_total{kind=\"endpoints\"}");
    assert!(refusals >= Some(1.0), "{refusals:?}");
    until("only Envoy's stream is left", || metric(&at, "gwm_connect_xds_streams") == Some(1.0));
    until("Envoy has what it was told", || metric(&at, "gwm_connect_xds_streams_behind") == Some(0.0));
    let pools = admin::get(&at, "/api/v1/pools").json();
    let client = &pools["clients"][0];
    assert_eq!((&client["client"], &client["kind"]), (&"envoy-1".into(), &"endpoints".into()), "{pools}");
    assert!(client["acknowledged_version"].is_string(), "{pools}");
    assert_eq!(client["acknowledged_version"], client["told_version"]);
}

#[test]
fn polls_get_what_changed_and_hostile_clients_an_error() {
    let members = [Member::start().address, Member::start().address];
    let gwm = Gwm::start(&with(&members, &[Some(30), Some(10)]));
    let xds = Xds::start(&gwm.address(), &["--group", &group(&members), "--group", "empty"]);
    let poll = |body: &str| {
        let length = body.len();
        let head = "POST /v3/discovery:endpoints HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        exchange(xds.address, &format!("{head}Content-Length: {length}\r\n\r\n{body}")).expect("an answer")
    };
    let weights = |text: &str| text.matches("\"load_balancing_weight\":30").count() == 2;
    until("the weights", || weights(&poll("{\"resource_names\": [\"web\"]}")));
    let answer = poll("{\"resourceNames\": [\"web\"]}");
    assert!(weights(&answer) && !answer.contains("\"empty\""), "{answer}");
    let version =
        answer.split("\"version_info\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a version");
    let same = poll(&format!("{{\"version_info\": \"{version}\", \"resource_names\": [\"web\"]}}"));
    assert!(same.starts_with("HTTP/1.1 304 "), "{same}");
    assert!(poll("{").starts_with("HTTP/1.1 400 "));
    assert!(poll("").starts_with("HTTP/1.1 400 "));
    assert!(
        exchange(xds.address, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .is_ok_and(|answer| { answer.starts_with("HTTP/1.1 404 ") })
    );
    let huge = "POST /v3/discovery:endpoints HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n";
    assert!(exchange(xds.address, huge).is_ok_and(|answer| answer.starts_with("HTTP/1.1 413 ")));
    // Connections that say nothing, or rubbish, keep nobody out.
    let silent: Vec<TcpStream> = (0..1100).map(|_| TcpStream::connect(xds.address).expect("a place")).collect();
    let oldest = &mut &silent[0];
    oldest.set_read_timeout(Some(PATIENCE)).expect("it is open");
    assert_eq!(oldest.read(&mut [0; 1]).expect("it is closed, not reset"), 0, "more than 1024 say nothing");
    let mut random = fastrand::Rng::with_seed(5);
    for at in 0..200 {
        let mut bytes = if at % 2 == 0 { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec() } else { Vec::new() };
        bytes.extend((0..random.usize(1..400)).map(|_| random.u8(..)));
        let mut stream = TcpStream::connect(xds.address).expect("a place");
        let _ = stream.write_all(&bytes);
    }
    assert!(weights(&poll("{}")));
    drop(silent);
}

/// An Envoy with a hundred clusters.
struct Proxy {
    envoy: Envoy,
    members: [SocketAddr; 2],
    listen: SocketAddr,
}

impl Real for Proxy {
    fn connect(&self, gwm: &str) -> Connector {
        let (listen, groups) = (self.listen.to_string(), resolved::groups(self.members));
        let mut flags = vec!["--listen", &*listen];
        groups.iter().for_each(|group| flags.extend(["--group", group]));
        Xds::start(gwm, &flags).connector
    }

    fn has(&mut self, (first, second): Weights) -> bool {
        let weights = self.envoy.weights();
        let of = |cluster: &str, at: usize| weights.get(&(cluster.to_owned(), self.members[at].to_string())).copied();
        resolved::names().all(|cluster| {
            let both = of(&cluster, 0).zip(of(&cluster, 1));
            both.is_some_and(|(one, two)| one * u32::from(second) == two * u32::from(first))
        })
    }

    fn restart(&mut self) {
        self.envoy.restart();
    }
}

#[test]
fn a_hundred_clusters_of_envoy_outlive_all() {
    let (members, listen) = ([(); 2].map(|()| Member::start().address), free_address());
    let envoy = Envoy::start_with(Way::Delta, listen, &resolved::names().collect::<Vec<_>>());
    outlives(&mut Proxy { envoy, members, listen }, members);
}

#[test]
fn a_dry_run_prints_what_clients_would_hear() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let (group, address, listen) = (format!("web={one}"), gwm.address(), free_address());
    let at = listen.to_string();
    let connector = Connector::start(&["--gwm", &address, "--dry-run", "xds", "--listen", &at, "--group", &group]);
    until("it prints the step", || connector.output().contains("would do: "));
    assert!(TcpStream::connect(listen).is_err(), "a dry run serves nobody");
    assert!(connector.stop().success());
}

#[test]
fn a_port_that_needs_a_right_is_told() {
    let flags = ["connect", "--uid", "LB1", "xds", "--listen", "127.0.0.1:80", "--group", "web"];
    let Some((status, text)) = without_right("net_bind_service", &flags) else { return };
    assert!(status == Some(1) && text.contains("127.0.0.1:80") && text.contains("CAP_NET_BIND_SERVICE"), "{text}");
}

#[test]
fn mistakes_are_told_before_anything_is_done() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("it is bound").to_string();
    let folder = Folder::new();
    let nowhere = folder.path("none/*.json");
    for (status, flags, says) in [
        (2, &["--listen", "127.0.0.1:0"][..], "no group is given"),
        (2, &["--group", "web", "--listen", "127.0.0.1"], "--listen"),
        (2, &["--group", "web=10.0.0.1"], "has no port"),
        (2, &["--group", "web", "--xds-tls-cert", "x"], "--xds-tls-key"),
        (2, &["--group", "web", "--xds-tls-cert", "/none", "--xds-tls-key", "/none"], "/none"),
        (2, &["--group", "web", "--file", "/tmp/x.json"], "one `*`"),
        (2, &["--group", "a/b", "--file", "/tmp/*.json"], "a/b"),
        (1, &["--group", "web", "--listen", &taken], "can not listen on 127.0.0.1:"),
        (2, &["--group", "web", "--listen", "127.0.0.1:0", "--file", &nowhere], "none"),
    ] {
        let output = run(&[&["connect", "--uid", "LB1", "xds"][..], flags].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{flags:?}: {stderr}");
        assert!(stderr.contains(says), "{flags:?}: {stderr}");
    }
    // A check does not need the port.
    let members = ["--listen", &taken, "--group", "web=10.0.0.1:80"];
    let output = run(&[&["connect", "--uid", "LB1", "--check", "xds"][..], &members].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pool web: group web\n  10.0.0.1:80\n", "{output:?}");
    assert!(output.status.success());
}

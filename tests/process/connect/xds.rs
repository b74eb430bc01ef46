//! `gwm connect xds`, with a real Envoy and a real gRPC client.

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use rustix::process::Signal;

use super::{
    Connector, Gwm, Member,
    admin::{self, admin, metric},
    real::free_address,
};
use crate::{
    authority::{Authority, Folder},
    harness::{Daemon, PATIENCE, TempFile, python, run, until},
};

/// A connector that serves xDS.
struct Xds {
    connector: Connector,
    address: SocketAddr,
}

impl Xds {
    fn start(gwm: &str, flags: &[&str]) -> Xds {
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

/// How Envoy asks for endpoints.
#[derive(Clone, Copy)]
enum Way<'a> {
    StateOfTheWorld,
    Delta,
    Rest,
    /// A file with the endpoints.
    File(&'a str),
    /// ADS over TLS; certificate, key and CA files of the client.
    Tls(&'a [String; 3]),
}

/// A real Envoy with a cluster `web`, until it is dropped.
struct Envoy {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    _configuration: TempFile,
}

impl Envoy {
    fn start(way: Way<'_>, xds: SocketAddr) -> Envoy {
        let (address, admin) = (free_address(), free_address());
        let socket = |address: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
        };
        let polls = "api_config_source: {api_type: REST, transport_api_version: V3, refresh_delay: 0.2s, \
                     cluster_names: [xds]}";
        let source = match way {
            Way::Rest => polls.to_owned(),
            Way::File(path) => {
                let folder = Path::new(path).parent().expect("a folder").display();
                format!("path_config_source: {{path: \"{path}\", watched_directory: {{path: \"{folder}\"}}}}")
            }
            _ => "ads: {}".to_owned(),
        };
        let ads = match way {
            Way::Rest | Way::File(_) => String::new(),
            _ => {
                let kind = if matches!(way, Way::Delta) { "DELTA_GRPC" } else { "GRPC" };
                format!(
                    "ads_config: {{api_type: {kind}, transport_api_version: V3, \
                     grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}"
                )
            }
        };
        let extensions = "type.googleapis.com/envoy.extensions";
        let http2 = match way {
            Way::Rest => String::new(),
            _ => format!(
                "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                 {{\"@type\": {extensions}.upstreams.http.v3.HttpProtocolOptions, \
                 explicit_http_config: {{http2_protocol_options: {{}}}}}}}}"
            ),
        };
        let tls = match way {
            Way::Tls([certificate, key, ca]) => format!(
                "transport_socket: {{name: tls, typed_config: {{\
                 \"@type\": {extensions}.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{\
                 tls_certificates: [{{certificate_chain: {{filename: \"{certificate}\"}}, \
                 private_key: {{filename: \"{key}\"}}}}], \
                 validation_context: {{trusted_ca: {{filename: \"{ca}\"}}}}}}}}}}"
            ),
            _ => String::new(),
        };
        let manager = format!(
            "{{name: http, typed_config: {{\
             \"@type\": {extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: web, route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], \
             routes: [{{match: {{prefix: \"/\"}}, route: {{cluster: web, retry_policy: {{\
             retry_on: \"connect-failure,reset\"}}}}}}]}}]}}, http_filters: [{{name: router, typed_config: {{\
             \"@type\": {extensions}.filters.http.router.v3.Router}}}}]}}}}"
        );
        let configuration = format!(
            "node: {{id: envoy-1, cluster: test}}\nadmin: {{address: {admin_socket}}}\n\
             dynamic_resources: {{{ads}}}\nstatic_resources:\n  listeners:\n  - address: {listener}\n    \
             filter_chains: [{{filters: [{manager}]}}]\n  clusters:\n  - name: web\n    type: EDS\n    \
             connect_timeout: 1s\n    common_lb_config: {{healthy_panic_threshold: {{value: 0}}, \
             locality_weighted_lb_config: {{}}}}\n    \
             eds_cluster_config: {{eds_config: {{resource_api_version: V3, {source}}}}}\n  \
             - name: xds\n    type: STATIC\n    load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: \
             [{{endpoint: {{address: {server}}}}}]}}]}}\n    {http2}\n    {tls}\n",
            admin_socket = socket(admin),
            listener = socket(address),
            server = socket(xds),
        );
        let file = TempFile::new("envoy.yaml", configuration);
        let child = Command::new(python("envoy"))
            .args(["-c", file.path(), "--concurrency", "1", "-l", "critical", "--disable-hot-restart"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("envoy: {error}: tests/run installs it"));
        Envoy { child, address, admin, _configuration: file }
    }

    /// How many of 120 requests each member answered; `None` if one had no answer of a member.
    fn shares(&self, members: &[SocketAddr]) -> Option<Vec<usize>> {
        let mut counts = vec![0; members.len()];
        for _ in 0..120 {
            let port = request(self.address).ok()?;
            counts[members.iter().position(|member| member.port() == port)?] += 1;
        }
        Some(counts)
    }

    /// Waits for these shares, each within two requests of 120.
    fn balances(&self, members: &[SocketAddr], wanted: &[usize]) {
        until(&format!("shares of {wanted:?} in 120 requests"), || {
            self.shares(members).is_some_and(|shares| near(&shares, wanted))
        });
    }

    /// One of its counters.
    fn counter(&self, name: &str) -> u64 {
        let text = get(self.admin, &format!("/stats?filter={name}")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn near(shares: &[usize], wanted: &[usize]) -> bool {
    shares.iter().zip(wanted).all(|(share, wanted)| share.abs_diff(*wanted) <= 2 && (*share > 0) == (*wanted > 0))
}

/// The body of an answer 200.
fn get(server: SocketAddr, path: &str) -> Result<String, String> {
    let text = exchange(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no end of the head: {text}"))?;
    if head.starts_with("HTTP/1.1 200 ") { Ok(body.to_owned()) } else { Err(text) }
}

fn exchange(server: SocketAddr, request: &str) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(server).map_err(words)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    stream.write_all(request.as_bytes()).map_err(words)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(words)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// One HTTP request through Envoy; the port of the member that answered.
fn request(proxy: SocketAddr) -> Result<u16, String> {
    let body = get(proxy, "/")?;
    body.parse().map_err(|_| format!("the body {body}"))
}

/// gRPC servers and a gRPC client, until the value is dropped.
struct Grpc {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    servers: Vec<SocketAddr>,
}

impl Grpc {
    fn start(servers: usize, xds: SocketAddr, tls: &[&str]) -> Grpc {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpc_shares.py");
        let mut child = Command::new(python("python"))
            .args([script, &servers.to_string(), &xds.port().to_string()])
            .args(tls)
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("python: {error}: tests/run makes it"));
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = output.next().expect("it prints the ports").expect("text");
        let servers = line.split(' ').map(|port| ([127, 0, 0, 1], port.parse().expect("a port")).into()).collect();
        Grpc { child, input, output, servers }
    }

    /// How many of `calls` calls each server answered.
    fn shares(&mut self, group: &str, calls: usize) -> Result<Vec<usize>, String> {
        writeln!(self.input, "{group} {calls}").expect("it reads");
        let line = self.output.next().expect("it answers").expect("text");
        if line.starts_with("error") {
            return Err(line);
        }
        Ok(line.split(' ').map(|count| count.parse().expect("a count")).collect())
    }

    /// Waits for these shares of 1,200 calls. gRPC chooses at random: 51 calls are about three standard deviations.
    fn balances(&mut self, group: &str, wanted: &[usize]) {
        until(&format!("gRPC shares of {wanted:?} in 1200 calls"), || {
            self.shares(group, 1200).is_ok_and(|shares| about(&shares, wanted))
        });
    }
}

fn about(shares: &[usize], wanted: &[usize]) -> bool {
    shares.iter().zip(wanted).all(|(share, wanted)| share.abs_diff(*wanted) <= 51 && (*share > 0) == (*wanted > 0))
}

impl Drop for Grpc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The members as `web=…`.
fn group(members: &[SocketAddr]) -> String {
    let members: Vec<String> = members.iter().map(SocketAddr::to_string).collect();
    format!("web={}", members.join(","))
}

fn with(members: &[SocketAddr], weights: &[Option<u16>]) -> Vec<(SocketAddr, Option<u16>)> {
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
fn grpc_clients_without_a_proxy_follow_the_weights() {
    let daemon = Daemon::start(&["--push-window", "10ms"]);
    // The servers' ports are not known before the xDS server's port, so the servers register themselves.
    let xds = Xds::start(&daemon.address().to_string(), &["--group", "web", "--group", "other", "--trust"]);
    let mut grpc = Grpc::start(3, xds.address, &[]);
    let servers: Vec<String> = grpc.servers.iter().map(SocketAddr::to_string).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut member = daemon.connect();
    until("the connector has registered the group", || {
        let code = member.register(crate::harness::MEMBER, "LB1", "web", &servers);
        code == gwm::sasp::ReturnCode::SUCCESSFUL
    });
    grpc.balances("web", &[400, 400, 400]);
    member.deregister(crate::harness::MEMBER, "LB1", "web", &servers[..1]);
    grpc.balances("web", &[0, 600, 600]);
    // The connector is killed: the client keeps what it has. Started again, it serves what the GWM says.
    let listen = xds.address.to_string();
    xds.connector.kill();
    let shares = grpc.shares("web", 1200).expect("calls without the connector");
    assert!(shares[0] == 0 && shares[1] > 400, "{shares:?}");
    let code = member.register(crate::harness::MEMBER, "LB1", "web", &servers[..1]);
    assert_eq!(code, gwm::sasp::ReturnCode::SUCCESSFUL);
    let _xds = Xds::start(
        &daemon.address().to_string(),
        &["--group", "web", "--group", "other", "--trust", "--listen", &listen],
    );
    grpc.balances("web", &[400, 400, 400]);
    let error = grpc.shares("nothing", 1).expect_err("no such group");
    assert!(error.contains("UNAVAILABLE"), "{error}");
}

#[test]
fn grpc_weights_are_exact() {
    let xds_port = free_address();
    let mut grpc = Grpc::start(2, xds_port, &[]);
    let servers = grpc.servers.clone();
    let gwm = Gwm::start(&with(&servers, &[Some(30), Some(10)]));
    let _xds = Xds::start(&gwm.address(), &["--group", &group(&servers), "--listen", &xds_port.to_string()]);
    grpc.balances("web", &[900, 300]);
    gwm.set(&with(&servers, &[Some(10), Some(20)]));
    grpc.balances("web", &[400, 800]);
    gwm.set(&with(&servers, &[None, Some(20)]));
    grpc.balances("web", &[0, 1200]);
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

#[test]
fn a_hundred_groups_are_served() {
    let member = Member::start().address;
    let gwm = Gwm::start(&[(member, Some(30))]);
    let groups: Vec<String> = (0..100).map(|at| format!("g{at}={member}")).collect();
    let mut flags: Vec<&str> = Vec::new();
    groups.iter().for_each(|group| flags.extend(["--group", group]));
    let xds = Xds::start(&gwm.address(), &flags);
    let poll = || {
        let head =
            "POST /v3/discovery:endpoints HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
        exchange(xds.address, head).unwrap_or_default()
    };
    until("all groups", || poll().matches("\"load_balancing_weight\":30").count() == 200);
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
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pool web: group web\n  10.0.0.1:80 \n", "{output:?}");
    assert!(output.status.success());
}

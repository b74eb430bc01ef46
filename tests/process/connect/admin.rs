//! The admin side of a connector: metrics, pools, health.

use std::{net::TcpStream, os::unix::fs::PermissionsExt, process::Command};

use serde_json::{Value, json};

use super::{Connector, Gwm, Member};
use crate::{
    admin::{Answer, exchange, request},
    harness::{PATIENCE, TempFile, python, run, until},
};

/// The address of the admin side, once it is printed.
pub(super) fn admin(connector: &Connector) -> String {
    let printed = || {
        let output = connector.output();
        let line = output.lines().find_map(|line| line.strip_prefix("gwm: admin on http://"));
        line.map(|address| address.trim_end_matches('/').to_owned())
    };
    until("the address is printed", || printed().is_some());
    printed().expect("it was there")
}

fn asked(address: &str, method: &str, path: &str, headers: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the admin side accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    exchange(stream, request(method, path, headers, "").as_bytes())
}

pub(super) fn get(address: &str, path: &str) -> Answer {
    asked(address, "GET", path, "")
}

/// The value of a series.
pub(super) fn metric(address: &str, series: &str) -> Option<f64> {
    let body = get(address, "/metrics").body;
    let mut lines = body.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(name, _)| *name == series).map(|(_, value)| value.parse().expect("a number"))
}

#[test]
fn a_connector_tells_what_it_does() {
    let (one, two) = (Member::start().address, Member::start().address);
    let gwm = Gwm::start(&[(one, Some(40)), (two, Some(20))]);
    let (template, output) = (TempFile::new("t", "{{ groups }}"), TempFile::new("out", ""));
    let (group, address) = (format!("web={one},{two}"), gwm.address());
    let file = ["file", "--group", &group, "--template", template.path(), "--output", output.path()];
    let listen = ["--admin-listen", "127.0.0.1:0", "--gwm", &address];
    let connector = Connector::start(&[&listen[..], &file, &["--min-interval", "0s"]].concat());
    let at = admin(&connector);
    until("it is ready", || get(&at, "/readyz").status == 200);
    until("the weights are in force", || metric(&at, "gwm_connect_steps_total{result=\"done\"}") >= Some(1.0));
    assert_eq!(get(&at, "/healthz").json(), json!({"alive": true}));
    for (series, least) in [
        ("gwm_connect_session", 1.0),
        ("gwm_connect_pools", 1.0),
        ("gwm_connect_members", 2.0),
        ("gwm_connect_looks_total{result=\"succeeded\"}", 1.0),
        ("gwm_connect_last_change_timestamp_seconds", 1e9),
    ] {
        assert!(metric(&at, series) >= Some(least), "{series}");
    }
    let pools = get(&at, "/api/v1/pools").json();
    assert_eq!(
        (&pools["gwm"], &pools["look_fault"], &pools["lost_for_seconds"]),
        (&json!(address), &Value::Null, &Value::Null)
    );
    assert_eq!(metric(&at, "gwm_connect_observed"), None, "a file tells nothing");
    assert_eq!(pools["nothing_to_observe"], "a file does not tell what its reader does with the members");
    let pool = &pools["pools"][0];
    assert_eq!((&pool["pool"], &pool["group"]), (&json!("web"), &json!("web")));
    assert_eq!(
        (&pool["members"][0]["port"], &pool["members"][1]["address"]),
        (&json!(one.port()), &json!("127.0.0.1"))
    );
    let weights = || {
        let pools = get(&at, "/api/v1/pools").json();
        [0, 1].map(|member| pools["pools"][0]["members"][member]["gwm_weight"].clone())
    };
    until("both weights are told", || weights() == [json!(40), json!(20)]);
    let before = metric(&at, "gwm_connect_weights_changed_total").expect("it is a metric");
    gwm.set(&[(one, Some(10)), (two, Some(20))]);
    until("the change is told", || weights() == [json!(10), json!(20)]);
    assert_eq!(metric(&at, "gwm_connect_weights_changed_total"), Some(before + 1.0), "one weight has changed");
    gwm.set(&[(one, Some(10)), (two, None)]);
    until("the quiesce is told", || get(&at, "/api/v1/pools").json()["pools"][0]["members"][1]["state"] == "quiesced");

    drop(gwm);
    until("the loss is told", || get(&at, "/readyz").status == 503);
    assert_eq!(get(&at, "/readyz").json()["reasons"], json!(["there is no session with a GWM"]));
    assert_eq!(metric(&at, "gwm_connect_session"), Some(0.0));
    assert!(get(&at, "/api/v1/pools").json()["lost_for_seconds"].is_u64());
    assert!(connector.stop().success());
}

#[test]
fn monitoring_systems_take_the_metrics_of_a_connector() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let (template, output) = (TempFile::new("t", "{{ groups }}"), TempFile::new("out", ""));
    let (group, address) = (format!("web={one}"), gwm.address());
    let file = ["file", "--group", &group, "--template", template.path(), "--output", output.path()];
    let connector = Connector::start(&[&["--admin-listen", "127.0.0.1:0", "--gwm", &address][..], &file].concat());
    let at = admin(&connector);
    until("the weights are in force", || metric(&at, "gwm_connect_steps_total{result=\"done\"}") == Some(1.0));
    let plain = TempFile::new("metrics", get(&at, "/metrics").body);
    let open = asked(&at, "GET", "/metrics", "Accept: application/openmetrics-text\r\n").body;
    assert!(open.ends_with("# EOF\n"));
    let open = TempFile::new("open", open);
    let promtool = Command::new("sh").args(["-c", "promtool check metrics < \"$1\"", "sh", plain.path()]).output();
    let promtool = promtool.expect("a shell");
    let words = String::from_utf8_lossy(&[&promtool.stdout[..], &promtool.stderr].concat()).into_owned();
    assert!(promtool.status.success() && words.is_empty(), "promtool: tests/run installs it: {words}");
    let strict = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        print(sum(len(family.samples) for family in parse(open(sys.argv[1]).read())))";
    let parsed = Command::new(python("python")).args(["-c", strict, open.path()]).output().expect("tests/run makes it");
    assert!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
}

#[test]
fn the_admin_side_of_a_connector_is_guarded_as_the_daemons() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let (template, output) = (TempFile::new("t", "{{ groups }}"), TempFile::new("out", ""));
    let (group, address) = (format!("web={one}"), gwm.address());
    let file = ["file", "--group", &group, "--template", template.path(), "--output", output.path()];
    let token = TempFile::new("token", "0123456789abcdef\n");
    let socket = std::env::temp_dir().join(format!("gwm-{}-connect.sock", std::process::id()));
    let unix = format!("unix:{}", socket.display());
    let flags = ["--admin-listen", "127.0.0.1:0", "--gwm", &address, "--admin-listen", &unix];
    // Some flags before the name of the connector, some after it.
    let connector = Connector::start(&[&flags[..], &file, &["--admin-token-file", token.path()]].concat());
    let at = admin(&connector);
    assert_eq!(get(&at, "/metrics").status, 401);
    assert_eq!(get(&at, "/healthz").status, 200);
    let with = |token: &str| asked(&at, "GET", "/metrics", &format!("Authorization: Bearer {token}\r\n")).status;
    assert_eq!(with("0123456789abcdef"), 200);
    token.write("fedcba9876543210");
    connector.signal(rustix::process::Signal::HUP);
    until("the new token is in force", || with("fedcba9876543210") == 200);
    assert_eq!(with("0123456789abcdef"), 401);
    let token = "Authorization: Bearer fedcba9876543210\r\n";
    assert_eq!(asked(&at, "POST", "/metrics", token).status, 405);
    assert_eq!(asked(&at, "GET", "/", token).status, 404);
    assert_eq!(asked(&at, "GET", "/api/v1/pools?group=web", token).status, 400, "nothing is ignored");
    let evil = exchange(
        TcpStream::connect(&at).expect("the admin side accepts"),
        b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(evil.status, 403);
    assert_eq!(std::fs::metadata(&socket).expect("a socket").permissions().mode() & 0o7777, 0o660);
    assert!(connector.stop().success());
    assert!(!socket.exists(), "the socket's file ends with the connector");

    let wrong = |more: &[&str]| {
        let output = run(&[&["connect", "--uid", "LB1"][..], more, &file].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, words) = wrong(&["--admin-listen", "0.0.0.0:0"]);
    assert!(status == Some(2) && words.contains("needs --admin-tls-cert and --admin-tls-key"), "{words}");
    let (status, words) = wrong(&["--admin-token-file", "/nowhere"]);
    assert!(status == Some(2) && words.contains("--admin-token-file goes with --admin-listen"), "{words}");
}

//! What monitoring systems read.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

use gwm::metrics::{Id, Kind};

use super::{connect, exchange, get, request, start};
use crate::harness::{Daemon, LB, python, run};

/// A daemon that has seen some things happen.
fn busy(flags: &[&str]) -> Daemon {
    let daemon = start(flags);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80", "10.0.0.2:80"]);
    lb.register(LB, "LB2", "web", &["10.0.0.1:80"]); // not its own
    lb.deregister(LB, "LB1", "web", &["10.0.0.2:80"]);
    lb.set_member(LB, ("LB1", "web", "10.0.0.1:80"), 0, true);
    drop(lb);
    crate::harness::until("all is counted", || {
        let body = get(&daemon, "/metrics").body;
        body.contains("cause=\"peer_closed\"} 1") && body.contains("gwm_memberships 1")
    });
    daemon
}

fn openmetrics(daemon: &Daemon) -> String {
    let headers = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let answer = exchange(connect(daemon), request("GET", "/metrics", headers, "").as_bytes());
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    answer.body
}

fn pipe(command: &mut Command, input: &str) -> std::process::Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: tests/run installs it"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the program reads");
    child.wait_with_output().expect("the program ends")
}

#[test]
fn prometheus_takes_the_metrics() {
    let daemon = busy(&["--metrics-members", "10"]);
    let plain = get(&daemon, "/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let checked = pipe(Command::new("promtool").args(["check", "metrics"]), &plain.body);
    let words = [&checked.stdout[..], &checked.stderr].concat();
    assert!(checked.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
    let strict = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        print(sum(len(family.samples) for family in parse(sys.stdin.read())))";
    let parsed = pipe(Command::new(python("python")).args(["-c", strict]), &openmetrics(&daemon));
    assert!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
    let samples: usize = String::from_utf8_lossy(&parsed.stdout).trim().parse().expect("a number");
    assert!(samples > 100, "{samples}");
    let strict = strict.replace("openmetrics.parser", "parser");
    let parsed = pipe(Command::new(python("python")).args(["-c", &strict]), &plain.body);
    assert!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
    for line in [
        format!("gwm_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "gwm_limit_used{limit=\"memberships\"} 1".into(),
        "gwm_limit_max{limit=\"load_balancers\"} 16384".into(),
        "gwm_member_weight{load_balancer=\"LB1\",group=\"web\",member=\"10.0.0.1:80\"} 0".into(),
        "gwm_member_quiesced{load_balancer=\"LB1\",group=\"web\",member=\"10.0.0.1:80\"} 1".into(),
        "gwm_requests_refused_total{cause=\"other_lb\"} 1".into(),
    ] {
        assert!(plain.body.lines().any(|shown| shown.trim_end_matches(".0") == line), "{line}\n{}", plain.body);
    }
}

#[test]
fn what_the_log_counts_at_the_stop_is_a_metric_and_the_other_way_round() {
    let daemon = busy(&[]);
    let body = get(&daemon, "/metrics").body;
    // Sums over shards, by name and fixed label.
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let name = series.split('{').next().expect("a name");
        *sums.entry(name.to_owned()).or_default() += value.parse::<f64>().expect("a number");
    }
    for id in Id::all().filter(|id| id.metric().kind == Kind::Counter) {
        let metric = id.metric();
        let known = body.contains(&format!("# TYPE {} counter", metric.name));
        assert!(known, "{} is not exposed", metric.name);
    }
    let mut daemon = daemon;
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait();
    daemon.wait_for_log(&["stopped", "accepted=1"]);
    let log = daemon.log();
    let value = |field: &str| -> f64 {
        let at = log.find(&format!(" {field}=")).unwrap_or_else(|| panic!("the log has no {field}"));
        let rest = &log[at + field.len() + 2..];
        rest.split(char::is_whitespace).next().expect("a value").parse().expect("a number")
    };
    assert_eq!(value("accepted"), sums["gwm_connections_accepted_total"]);
    assert_eq!(log.lines().filter(|line| line.contains(" stopped ")).count(), 1);
    let stopped = log.lines().find(|line| line.contains(" stopped ")).expect("the last line");
    for (field, name) in [
        ("requests=4", "gwm_requests_total"),
        ("load_balancers=1", "gwm_load_balancers"),
        ("groups=1", "gwm_groups"),
        ("memberships=1", "gwm_memberships"),
    ] {
        assert!(stopped.contains(field), "{stopped}");
        let expected: f64 = field.split_once('=').expect("a value").1.parse().expect("a number");
        assert_eq!(sums[name], expected, "{name}");
    }
    assert!(log.contains("not accepted (0x11): the connection is another load balancer's"), "{log}");
}

#[test]
fn each_stage_of_the_work_has_a_distribution() {
    let daemon = start(&["--probe", "tcp", "--probe-interval", "20ms", "--push-window", "1ms"]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["127.0.0.1:1"]);
    lb.set_lb("LB1", gwm::sasp::LbFlags::PUSH);
    lb.push();
    for count in [
        "gwm_push_delay_seconds_count{shard=\"0\"}",
        "gwm_request_duration_seconds_count{shard=\"0\"}",
        "gwm_check_lateness_seconds_count{shard=\"0\",kind=\"tcp\"}",
        "gwm_check_duration_seconds_count{shard=\"0\",kind=\"tcp\"}",
        "gwm_push_size_bytes_count",
        "gwm_coordinator_turn_seconds_count",
    ] {
        crate::harness::until(count, || {
            let body = get(&daemon, "/metrics").body;
            let value = body.lines().find_map(|line| line.strip_prefix(count)?.strip_prefix(' '));
            value.is_some_and(|value| value.parse::<u64>().expect("a number") > 0)
        });
    }
    let body = get(&daemon, "/metrics").body;
    assert!(body.contains("gwm_check_lateness_seconds_count{shard=\"0\",kind=\"icmp\"} 0"), "{body}");
}

#[test]
fn series_of_members_have_a_limit() {
    let daemon = start(&["--metrics-members", "3"]);
    let mut lb = daemon.connect();
    let members: Vec<String> = (1..9).map(|n| format!("10.0.0.{n}:80")).collect();
    lb.register(LB, "LB1", "web", &members.iter().map(String::as_str).collect::<Vec<_>>());
    let body = get(&daemon, "/metrics").body;
    assert_eq!(body.lines().filter(|line| line.starts_with("gwm_member_weight{")).count(), 3);
    let without = start(&[]);
    assert!(!get(&without, "/metrics").body.contains("gwm_member_weight{"));
    let output = run(&["serve", "--check", "--metrics-members", "100001"]);
    assert_eq!(output.status.code(), Some(2));
}

use super::*;
use crate::connect::{MemberSpec, Wanted, WantedMember};

fn told() -> Told {
    let endpoint = |host: u8| Endpoint::new([10, 0, 0, host].into(), 6, 80);
    let member = |host: u8| MemberSpec { endpoint: endpoint(host), label: (*b"s").into() };
    let pool = |name: &str, hosts: &[u8]| Pool {
        name: name.as_bytes().into(),
        members: hosts.iter().copied().map(member).collect(),
    };
    let wanted = |host: u8, standing| WantedMember { endpoint: endpoint(host), label: (*b"s").into(), standing };
    Told {
        pools: Arc::new(vec![
            Mapped { pool: pool("web\n", &[1, 2]), group: Some((*b"edge").into()) },
            Mapped { pool: pool("stats", &[3]), group: None },
        ]),
        wanted: Arc::new(vec![Wanted {
            pool: (*b"web\n").into(),
            members: vec![wanted(1, Standing::Serving(40)), wanted(2, Standing::Down)],
            session_age: Duration::ZERO,
        }]),
        gwm: Some("gwm:3860".into()),
        steps_done: 3,
        changed_at: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
        ..Told::default()
    }
}

fn observed() -> Observed {
    let member = Observation {
        open_connections: Some(7),
        inactive_connections: Some(5),
        connections: Some(90),
        bytes: (Some(1000), None),
        errors: Some(2),
        response_seconds: Some(0.25),
        ..Observation::new(b"web\n", Endpoint::new([10, 0, 0, 1].into(), 6, 80))
    };
    let queries = figures::Figure::new(&figures::DNS_QUERIES, 12).with("name", "web.lb").with("type", "A");
    let client = figures::Client {
        name: "node-1".into(),
        kind: "endpoints",
        told: "8".into(),
        acknowledged: Some("7".into()),
        refused: Some("no".into()),
    };
    Observed { nothing: None, members: vec![member], figures: vec![queries], clients: vec![client] }
}

#[test]
fn metrics_have_what_the_load_balancer_tells() {
    let shown = exposition::expose(table(), reading(&told(), Some(&observed())), false);
    for line in [
        concat!("gwm_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "gwm_connect_session 1",
        "gwm_connect_pools 1",
        "gwm_connect_members 2",
        "gwm_connect_steps_total{result=\"done\"} 3",
        "gwm_connect_steps_total{result=\"refused\"} 0",
        "gwm_connect_last_change_timestamp_seconds 1.5",
        "gwm_connect_observed 1",
        "gwm_connect_member_connections{pool=\"web\\\\n\",member=\"10.0.0.1:80\"} 7",
        "gwm_connect_member_inactive_connections{pool=\"web\\\\n\",member=\"10.0.0.1:80\"} 5",
        "gwm_connect_member_new_connections_total{pool=\"web\\\\n\",member=\"10.0.0.1:80\"} 90",
        "gwm_connect_member_bytes_total{direction=\"in\",pool=\"web\\\\n\",member=\"10.0.0.1:80\"} 1000",
        "gwm_connect_dns_queries_total{name=\"web.lb\",type=\"A\"} 12",
        "gwm_connect_member_errors_total{pool=\"web\\\\n\",member=\"10.0.0.1:80\"} 2",
        "gwm_connect_member_response_seconds{pool=\"web\\\\n\",member=\"10.0.0.1:80\"} 0.25",
    ] {
        assert!(shown.lines().any(|known| known.trim_end_matches(".0") == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("gwm_connect_member_weight{"), "it told none");
    let nothing = exposition::expose(table(), reading(&Told::default(), None), false);
    assert!(nothing.contains("gwm_connect_observed 0"));
    assert!(!nothing.lines().any(|line| line.starts_with("gwm_connect_last_change")), "there was none: {nothing}");
    let blind = Observed { nothing: Some("a file does not answer"), ..Observed::default() };
    let blind = exposition::expose(table(), reading(&Told::default(), Some(&blind)), false);
    assert!(!blind.lines().any(|line| line.starts_with("gwm_connect_observed")), "{blind}");
}

#[test]
fn pools_are_shown_with_what_their_members_may_get() {
    let shown = serde_json::to_value(document(&told(), &Ok(observed()))).unwrap();
    let expected = serde_json::json!({
        "address": "10.0.0.1", "port": 80, "protocol": "tcp", "label": "s", "state": "serving", "gwm_weight": 40,
        "weight": null, "connections": 7, "inactive_connections": 5, "connections_total": 90, "bytes_in": 1000,
        "bytes_out": null, "errors": 2, "response_seconds": 0.25
    });
    let queries = serde_json::json!({
        "name": "gwm_connect_dns_queries_total", "labels": {"name": "web.lb", "type": "A"}, "value": 12
    });
    assert_eq!(shown["figures"][0], queries);
    let client = serde_json::json!({
        "client": "node-1", "kind": "endpoints", "told_version": "8", "acknowledged_version": "7", "refused": "no"
    });
    assert_eq!(shown["clients"][0], client);
    assert_eq!(shown["pools"][0]["members"][0], expected);
    assert_eq!((&shown["pools"][0]["pool"], &shown["pools"][0]["group"]), (&"web\\n".into(), &"edge".into()));
    assert_eq!(shown["pools"][0]["members"][1]["state"], "down");
    assert_eq!(shown["pools"][1]["group"], serde_json::Value::Null);
    assert_eq!(shown["changed_at"], "1970-01-01T00:00:01.500Z");
    let silent = serde_json::to_value(document(&told(), &Err("gone".into()))).unwrap();
    assert_eq!(silent["observe_fault"], "gone");
    let blind = Ok(Observed { nothing: Some("a file does not answer"), ..Observed::default() });
    assert_eq!(
        serde_json::to_value(document(&told(), &blind)).unwrap()["nothing_to_observe"],
        "a file does not answer"
    );
}

#[test]
fn readiness_has_reasons() {
    assert!(reasons(&told()).is_empty());
    let lost = Told { gwm: None, look_fault: Some("no answer".into()), ..told() };
    let expected = ["there is no session with a GWM", "the load balancer can not be looked at: no answer"];
    assert_eq!(reasons(&lost), expected);
}

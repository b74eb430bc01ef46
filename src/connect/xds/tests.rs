use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use crate::connect::{Applied, Connector, MemberSpec, Pool, Standing, Wanted, WantedMember};

use super::{
    Files, XdsConnector,
    clients::Clients,
    json,
    messages::{
        Any, ClusterLoadAssignment, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        Status,
    },
    snapshot::{Group, Kind, Snapshot, Target},
    stream::{Stream, Told, Wrong},
};

fn group(name: &str, weights: &[u32]) -> Group {
    let target = |(at, weight): (usize, &u32)| Target {
        ip: "10.0.0.1".parse().unwrap(),
        port: 80 + u16::try_from(at).unwrap(),
        udp: false,
        weight: *weight,
    };
    Group { name: name.into(), targets: weights.iter().enumerate().map(target).collect() }
}

fn ask(kind: Kind, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).into()).collect(),
        type_url: kind.type_url().into(),
        response_nonce: nonce.into(),
        ..DiscoveryRequest::default()
    }
}

/// The only response.
fn only(mut responses: Vec<Bytes>) -> DiscoveryResponse {
    assert_eq!(responses.len(), 1);
    DiscoveryResponse::decode(responses.remove(0)).unwrap()
}

fn only_delta(mut responses: Vec<Bytes>) -> DeltaDiscoveryResponse {
    assert_eq!(responses.len(), 1);
    DeltaDiscoveryResponse::decode(responses.remove(0)).unwrap()
}

fn names(resources: &[Any]) -> Vec<String> {
    let name = |any: &Any| ClusterLoadAssignment::decode(any.value.clone()).unwrap().cluster_name;
    resources.iter().map(name).collect()
}

#[test]
fn a_stream_gets_only_the_endpoints_that_changed_for_it() {
    let first = Snapshot::after(None, 7, vec![group("a", &[1, 2]), group("b", &[3]), group("c", &[4])]);
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Endpoints, &["a", "b"], "")).unwrap();
    let response = only(stream.responses(&first));
    assert_eq!(names(&response.resources), ["a", "b"]);
    stream.request(ask(Kind::Endpoints, &["a", "b"], &response.nonce)).unwrap();
    assert!(stream.responses(&first).is_empty());
    let second = Snapshot::after(Some(&first), 0, vec![group("a", &[1, 2]), group("b", &[9]), group("c", &[5])]);
    let response = only(stream.responses(&second));
    assert_eq!(names(&response.resources), ["b"]);
}

#[test]
fn a_locality_for_each_endpoint_and_both_weights() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[30, 10])]);
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
    let response = only(stream.responses(&snapshot));
    let assignment = ClusterLoadAssignment::decode(response.resources[0].value.clone()).unwrap();
    let weights = assignment.endpoints.iter().map(|locality| {
        let [endpoint] = &locality.lb_endpoints[..] else { panic!("one endpoint") };
        let value = |weight: &Option<super::messages::UInt32Value>| weight.as_ref().unwrap().value;
        (value(&locality.load_balancing_weight), value(&endpoint.load_balancing_weight))
    });
    assert_eq!(weights.collect::<Vec<_>>(), [(30, 30), (10, 10)]);
}

#[test]
fn streams_that_ask_the_same_share_the_bytes() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1])]);
    let [one, other] = [0, 1].map(|_| {
        let mut stream = Stream::new(false, None);
        stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
        stream.responses(&snapshot).remove(0)
    });
    assert_eq!(one.as_ptr(), other.as_ptr());
}

#[test]
fn a_client_that_does_not_answer_skips_snapshots() {
    let first = Snapshot::after(None, 7, vec![group("a", &[1])]);
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
    let nonce = only(stream.responses(&first)).nonce;
    let second = Snapshot::after(Some(&first), 0, vec![group("a", &[2])]);
    assert!(stream.responses(&second).is_empty());
    let third = Snapshot::after(Some(&second), 0, vec![group("a", &[3])]);
    stream.request(ask(Kind::Endpoints, &["a"], &nonce)).unwrap();
    assert_eq!(only(stream.responses(&third)).version_info, "9");
}

#[test]
fn what_a_client_has_is_told() {
    let first = Snapshot::after(None, 7, vec![group("a", &[1])]);
    for delta in [false, true] {
        let clients = Clients::default();
        let seat = clients.enter();
        let mut stream = Stream::new(delta, None);
        assert!(stream.told().is_empty());
        let no = || Some(Status { message: "no\n".into(), ..Status::default() });
        let (kind, names) = (Kind::Endpoints, vec!["a".to_owned()]);
        let ask = |stream: &mut Stream, nonce: String, error_detail| {
            let type_url = kind.type_url().to_owned();
            match delta {
                false => stream.request(DiscoveryRequest {
                    type_url,
                    resource_names: names.clone(),
                    response_nonce: nonce,
                    error_detail,
                    ..DiscoveryRequest::default()
                }),
                true => stream.delta_request(DeltaDiscoveryRequest {
                    type_url,
                    resource_names_subscribe: if nonce.is_empty() { names.clone() } else { Vec::new() },
                    response_nonce: nonce,
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                }),
            }
            .unwrap()
        };
        let nonce = |mut responses: Vec<Bytes>| match delta {
            false => only(responses).nonce,
            true => DeltaDiscoveryResponse::decode(responses.remove(0)).unwrap().nonce,
        };
        ask(&mut stream, String::new(), None);
        let sent = nonce(stream.responses(&first));
        let told = |acknowledged, refused: Option<&str>, refusals, version| Told {
            kind,
            version,
            acknowledged,
            refused: refused.map(str::to_owned),
            refusals,
        };
        assert_eq!(stream.told(), [told(None, None, 0, 7)]);
        ask(&mut stream, sent, None);
        assert_eq!(stream.told(), [told(Some(7), None, 0, 7)]);
        let second = Snapshot::after(Some(&first), 0, vec![group("a", &[2])]);
        let sent = nonce(stream.responses(&second));
        ask(&mut stream, sent.clone(), no());
        ask(&mut stream, sent, no()); // an answer counts once
        assert_eq!(stream.told(), [told(Some(7), Some("no\\n"), 1, 8)]);
        seat.tell("node", &stream);
        seat.tell("node", &stream);
        let observed = clients.observed();
        let values: Vec<u64> = observed.figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [1, 1, 1], "a stream, which is behind, and a refusal");
        assert_eq!((&*observed.clients[0].name, &*observed.clients[0].told), ("node", "8"));
        drop(seat);
        let values: Vec<u64> = clients.observed().figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [0, 0, 1], "refusals stay counted");
    }
}

#[test]
fn a_request_with_an_old_nonce_changes_nothing() {
    let first = Snapshot::after(None, 7, vec![group("a", &[1]), group("b", &[1])]);
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
    stream.responses(&first);
    stream.request(ask(Kind::Endpoints, &["b"], "other")).unwrap();
    assert!(stream.responses(&first).is_empty());
}

#[test]
fn a_refused_response_is_told_once_and_not_sent_again() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1])]);
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
    let nonce = only(stream.responses(&snapshot)).nonce;
    let mut refusal = ask(Kind::Endpoints, &["a"], &nonce);
    refusal.error_detail = Some(Status { code: 3, message: "bad\n\u{1b}weight".into() });
    let taken = stream.request(refusal.clone()).unwrap();
    assert_eq!(taken.refused, Some((Kind::Endpoints.type_url(), "bad\\n\\u{1b}weight".into())));
    assert!(stream.responses(&snapshot).is_empty());
    assert_eq!(stream.request(refusal).unwrap().refused, None);
}

#[test]
fn clusters_and_listeners_are_sent_whole() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1]), group("b", &[1])]);
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Cluster, &[], "")).unwrap();
    assert_eq!(only(stream.responses(&snapshot)).resources.len(), 2);
    // A name that does not exist: the client learns it from a response without it.
    stream.request(ask(Kind::Listener, &["none"], "")).unwrap();
    let response = only(stream.responses(&snapshot));
    assert_eq!((response.resources.len(), response.type_url.as_str()), (0, Kind::Listener.type_url()));
    stream.request(ask(Kind::Listener, &["none", "a"], &response.nonce)).unwrap();
    let second = only(stream.responses(&snapshot));
    assert_eq!(second.resources.len(), 1);
    assert_ne!(second.nonce, response.nonce);
}

#[test]
fn a_delta_stream_gets_changes_and_learns_what_is_absent() {
    let first = Snapshot::after(None, 7, vec![group("a", &[1]), group("b", &[1])]);
    let mut stream = Stream::new(true, None);
    let request = DeltaDiscoveryRequest {
        type_url: Kind::Endpoints.type_url().into(),
        resource_names_subscribe: vec!["a".into(), "b".into(), "none".into()],
        // The client comes back with what it has.
        initial_resource_versions: HashMap::from([("a".into(), "7".into()), ("b".into(), "6".into())]),
        ..DeltaDiscoveryRequest::default()
    };
    stream.delta_request(request).unwrap();
    let response = only_delta(stream.responses(&first));
    assert_eq!(response.resources.iter().map(|r| (&*r.name, &*r.version)).collect::<Vec<_>>(), [("b", "7")]);
    assert_eq!(response.removed_resources, ["none"]);
    let answer = DeltaDiscoveryRequest {
        type_url: Kind::Endpoints.type_url().into(),
        response_nonce: response.nonce,
        resource_names_unsubscribe: vec!["b".into()],
        ..DeltaDiscoveryRequest::default()
    };
    stream.delta_request(answer).unwrap();
    assert!(stream.responses(&first).is_empty());
    let second = Snapshot::after(Some(&first), 0, vec![group("a", &[2]), group("b", &[2])]);
    let response = only_delta(stream.responses(&second));
    assert_eq!(response.resources.iter().map(|r| &*r.name).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_poll_with_the_present_version_gets_nothing() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1]), group("b", &[1])]);
    let answer = json::answer(br#"{"resource_names": ["b"]}"#, &snapshot).unwrap().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["version_info"], "7");
    assert_eq!(answer["resources"].as_array().unwrap().len(), 1);
    assert_eq!(answer["resources"][0]["cluster_name"], "b");
    assert_eq!(json::answer(br#"{"versionInfo": "7", "resourceNames": ["b"]}"#, &snapshot), Ok(None));
    assert!(json::answer(b"{", &snapshot).is_err());
}

#[test]
fn a_stream_asks_for_a_bounded_number_of_names() {
    let request = |names: Vec<String>| DiscoveryRequest {
        resource_names: names,
        type_url: Kind::Endpoints.type_url().into(),
        ..DiscoveryRequest::default()
    };
    let names = |count: usize, length: usize| (0..count).map(|at| format!("{at:0length$}")).collect::<Vec<_>>();
    assert!(Stream::new(false, None).request(request(names(1000, 60))).is_ok());
    assert_eq!(Stream::new(false, None).request(request(names(1001, 60))), Err(Wrong::TooManyNames));
    assert_eq!(Stream::new(false, None).request(request(names(1000, 70))), Err(Wrong::TooManyNames));
    // Delta: all that was asked for until now.
    let subscribe = |names| DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        type_url: Kind::Endpoints.type_url().into(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut stream = Stream::new(true, None);
    assert!(stream.delta_request(subscribe(names(900, 60))).is_ok());
    assert!(stream.delta_request(subscribe(names(1000, 60))).is_ok(), "the same names, and 100 more");
    assert_eq!(stream.delta_request(subscribe(names(101, 50))), Err(Wrong::TooManyNames));
}

#[test]
fn all_by_no_name_ends_with_the_first_name() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1]), group("b", &[1])]);
    // By a star, then by nothing: nothing.
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Cluster, &["*"], "")).unwrap();
    let response = only(stream.responses(&snapshot));
    assert_eq!(response.resources.len(), 2);
    stream.request(ask(Kind::Cluster, &[], &response.nonce)).unwrap();
    assert_eq!(only(stream.responses(&snapshot)).resources.len(), 0);
    // By nothing, again and again: all.
    let mut stream = Stream::new(false, None);
    stream.request(ask(Kind::Cluster, &[], "")).unwrap();
    let nonce = only(stream.responses(&snapshot)).nonce;
    stream.request(ask(Kind::Cluster, &[], &nonce)).unwrap();
    let third = Snapshot::after(Some(&snapshot), 0, vec![group("a", &[1]), group("b", &[1]), group("c", &[1])]);
    assert_eq!(only(stream.responses(&third)).resources.len(), 3);
}

#[test]
fn a_request_without_a_kind_is_of_the_only_one() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1])]);
    let request = || DiscoveryRequest { resource_names: vec!["a".into()], ..DiscoveryRequest::default() };
    let mut stream = Stream::new(false, Some(Kind::Endpoints));
    stream.request(request()).unwrap();
    assert_eq!(only(stream.responses(&snapshot)).type_url, Kind::Endpoints.type_url());
    assert_eq!(Stream::new(false, None).request(request()), Err(Wrong::NoKind));
    assert_eq!(Stream::new(true, None).delta_request(DeltaDiscoveryRequest::default()), Err(Wrong::NoKind));
}

#[test]
fn a_delta_stream_that_unsubscribes_from_all_hears_no_more_of_it() {
    let delta = |subscribe: &[&str], unsubscribe: &[&str], nonce: &str| DeltaDiscoveryRequest {
        type_url: Kind::Endpoints.type_url().into(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).into()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|name| (*name).into()).collect(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    let first = Snapshot::after(None, 7, vec![group("a", &[1]), group("b", &[1])]);
    let mut stream = Stream::new(true, None);
    stream.delta_request(delta(&["*", "a"], &[], "")).unwrap();
    let response = only_delta(stream.responses(&first));
    assert_eq!(response.resources.len(), 2);
    stream.delta_request(delta(&[], &["*"], &response.nonce)).unwrap();
    let second = Snapshot::after(Some(&first), 0, vec![group("a", &[2])]);
    let response = only_delta(stream.responses(&second));
    assert_eq!((response.resources.len(), response.removed_resources.len()), (1, 0), "`b` is no longer told of");
}

#[test]
fn what_a_delta_client_says_that_it_has_is_bounded() {
    let known = (0..5000).map(|at| (format!("{at}"), "7".to_owned()));
    let request = DeltaDiscoveryRequest {
        type_url: Kind::Cluster.type_url().into(),
        initial_resource_versions: known.collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut stream = Stream::new(true, None);
    stream.delta_request(request).unwrap();
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1])]);
    assert_eq!(only_delta(stream.responses(&snapshot)).removed_resources.len(), 1000);
}

#[test]
fn tcp_and_udp_of_one_port_have_localities_of_their_own() {
    let target = |ip: &str, udp| Target { ip: ip.parse().unwrap(), port: 53, udp, weight: 1 };
    let names =
        [("10.0.0.1", false), ("10.0.0.1", true), ("fd00::1", true)].map(|(ip, udp)| target(ip, udp).locality());
    assert_eq!(names, ["10.0.0.1:53", "10.0.0.1:53/udp", "[fd00::1]:53/udp"]);
}

#[test]
fn only_responses_that_others_may_get_are_kept() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1])]);
    let wish = |nonce: &str| super::snapshot::Wish {
        kind: Kind::Endpoints,
        delta: false,
        nonce: nonce.into(),
        groups: vec![0],
        removed: Vec::new(),
    };
    let is_kept = |wish: super::snapshot::Wish| {
        let first = snapshot.response(wish.clone());
        first.as_ptr() == snapshot.response(wish).as_ptr()
    };
    assert!(is_kept(wish("7")));
    assert!(!is_kept(wish("7.2")), "a nonce of one stream");
    // Each has about 18 MiB with its wish.
    let large = "x".repeat(9 << 20);
    let removed = |name: &str| vec![name.to_owned(), large.clone()];
    let kept = ["1", "2", "3", "4"]
        .map(|name| is_kept(super::snapshot::Wish { delta: true, removed: removed(name), ..wish("7") }));
    assert_eq!(kept, [true, true, true, false]);
}

fn wanted(members: &[(u16, Standing)]) -> [Wanted; 1] {
    let endpoint = |port| crate::sasp::Endpoint::new([10, 0, 0, 1].into(), 6, port);
    let member = |(port, standing): &(u16, Standing)| WantedMember {
        endpoint: endpoint(*port),
        label: Box::default(),
        standing: *standing,
    };
    let (pool, session_age) = ((*b"web").into(), std::time::Duration::ZERO);
    [Wanted { pool, members: members.iter().map(member).collect(), session_age }]
}

#[test]
fn a_file_that_is_written_again_is_no_new_snapshot() {
    let folder = std::env::temp_dir().join(format!("gwm-xds-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = Files::parse(&format!("{}/*.json", folder.display())).unwrap();
    let pools = vec![Pool { name: (*b"web").into(), members: Vec::new() }];
    let mut connector = XdsConnector::new(pools, Some(files)).unwrap();
    let wanted = wanted(&[(80, Standing::Serving(1)), (0, Standing::Serving(9))]);
    let settle = |connector: &mut XdsConnector| {
        connector.look().unwrap();
        let steps = connector.plan(&wanted);
        let mut applied = Applied::default();
        connector.apply(steps, &mut applied).unwrap();
        (applied.done, connector.last.as_ref().unwrap().version())
    };
    let (done, version) = settle(&mut connector);
    let targets = &connector.last.as_ref().unwrap().groups()[0].targets;
    assert_eq!((done, targets.len()), (1, 1), "a member without a port is left out");
    assert_eq!(settle(&mut connector), (0, version));
    std::fs::write(folder.join("web.json"), "{}").unwrap();
    assert_eq!(settle(&mut connector), (1, version));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_member_without_a_port_is_refused() {
    let endpoint = crate::sasp::Endpoint::new([10, 0, 0, 1].into(), 0, 0);
    let members = vec![MemberSpec { endpoint, label: Box::default() }];
    let refused = XdsConnector::new(vec![Pool { name: (*b"web").into(), members }], None).err().unwrap();
    assert!(refused.contains("has no port"), "{refused}");
}

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::{
    json,
    messages::{
        Any, ClusterLoadAssignment, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        Status,
    },
    snapshot::{Group, Kind, Snapshot, Target},
    stream::{Stream, TooManyNames},
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
    let mut stream = Stream::new(false);
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
    let mut stream = Stream::new(false);
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
        let mut stream = Stream::new(false);
        stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
        stream.responses(&snapshot).remove(0)
    });
    assert_eq!(one.as_ptr(), other.as_ptr());
}

#[test]
fn a_client_that_does_not_answer_skips_snapshots() {
    let first = Snapshot::after(None, 7, vec![group("a", &[1])]);
    let mut stream = Stream::new(false);
    stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
    let nonce = only(stream.responses(&first)).nonce;
    let second = Snapshot::after(Some(&first), 0, vec![group("a", &[2])]);
    assert!(stream.responses(&second).is_empty());
    let third = Snapshot::after(Some(&second), 0, vec![group("a", &[3])]);
    stream.request(ask(Kind::Endpoints, &["a"], &nonce)).unwrap();
    assert_eq!(only(stream.responses(&third)).version_info, "9");
}

#[test]
fn a_request_with_an_old_nonce_changes_nothing() {
    let first = Snapshot::after(None, 7, vec![group("a", &[1]), group("b", &[1])]);
    let mut stream = Stream::new(false);
    stream.request(ask(Kind::Endpoints, &["a"], "")).unwrap();
    stream.responses(&first);
    stream.request(ask(Kind::Endpoints, &["b"], "other")).unwrap();
    assert!(stream.responses(&first).is_empty());
}

#[test]
fn a_refused_response_is_told_once_and_not_sent_again() {
    let snapshot = Snapshot::after(None, 7, vec![group("a", &[1])]);
    let mut stream = Stream::new(false);
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
    let mut stream = Stream::new(false);
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
    let mut stream = Stream::new(true);
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
    assert!(Stream::new(false).request(request(names(1000, 60))).is_ok());
    assert_eq!(Stream::new(false).request(request(names(1001, 60))), Err(TooManyNames));
    assert_eq!(Stream::new(false).request(request(names(1000, 70))), Err(TooManyNames));
    // Delta: all that was asked for until now.
    let subscribe = |names| DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        type_url: Kind::Endpoints.type_url().into(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut stream = Stream::new(true);
    assert!(stream.delta_request(subscribe(names(900, 60))).is_ok());
    assert!(stream.delta_request(subscribe(names(1000, 60))).is_ok(), "the same names, and 100 more");
    assert_eq!(stream.delta_request(subscribe(names(101, 50))), Err(TooManyNames));
}

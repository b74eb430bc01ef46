//! Requests of xDS clients.

use std::sync::OnceLock;

use prost::Message;

use crate::connect::xds::{
    json,
    loads::Loads,
    messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, LoadStatsRequest},
    snapshot::{Group, KINDS, Kind, Snapshot, Target},
    stream::{Stream, Wrong},
};

/// Two snapshots: group `web` differs, `other` does not, `late` is only in the second.
fn snapshots() -> &'static [Snapshot; 2] {
    static SNAPSHOTS: OnceLock<[Snapshot; 2]> = OnceLock::new();
    SNAPSHOTS.get_or_init(|| {
        let group = |name: &str, weight| {
            let target = |host| Target { ip: [10, 0, 0, host].into(), port: 80, udp: false, weight };
            Group { name: name.into(), targets: (1..=3).map(target).collect() }
        };
        let first = Snapshot::after(None, 7, vec![group("web", 1), group("other", 1)]);
        let second = Snapshot::after(Some(&first), 7, vec![group("web", 2), group("other", 1), group("late", 1)]);
        [first, second]
    })
}

/// A stream takes any requests. Each response can be read, and one at most of each kind waits for its answer. The first byte
/// chooses the protocol, and whether the stream has only endpoints. Then come requests, each after a byte with its length; the length 255 stands for the second
/// snapshot.
pub fn xds_stream(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let delta = choice % 2 == 1;
    let only = (choice % 4 > 1).then_some(Kind::Endpoints);
    let mut stream = Stream::new(delta, only);
    let (mut now, mut requests, mut responses) = (0, 0, 0);
    while let Some((&length, after)) = rest.split_first() {
        let (request, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        if length == 255 {
            now = 1;
        } else {
            requests += 1;
            match put(&mut stream, delta, request) {
                Ok(true) => {}
                Ok(false) => requests -= 1,
                Err(Wrong::NoKind) => return assert!(only.is_none(), "the stream has a kind"),
                Err(Wrong::TooManyNames) => unreachable!("so many names do not fit"),
            }
        }
        for bytes in stream.responses(&snapshots()[now]) {
            responses += 1;
            let kind = match delta {
                true => DeltaDiscoveryResponse::decode(bytes).expect("a response can be read").type_url,
                false => DiscoveryResponse::decode(bytes).expect("a response can be read").type_url,
            };
            assert!(KINDS.iter().any(|known| known.type_url() == kind));
        }
        assert!(responses <= requests, "a response without a request");
    }
}

/// Whether it could be read.
fn put(stream: &mut Stream, delta: bool, request: &[u8]) -> Result<bool, Wrong> {
    let taken = match delta {
        true => DeltaDiscoveryRequest::decode(request).map(|request| stream.delta_request(request)),
        false => DiscoveryRequest::decode(request).map(|request| stream.request(request)),
    };
    let Ok(taken) = taken else { return Ok(false) };
    if let Some((_, reason)) = taken?.refused {
        assert!(reason.chars().all(|c| !c.is_control()), "{reason:?}");
    }
    Ok(true)
}

/// Any report is read or refused, and only endpoints that were published have sums.
pub fn xds_report(report: &[u8]) {
    let Ok(report) = LoadStatsRequest::decode(report) else { return };
    let loads = Loads::default();
    let mut reporter = loads.enter();
    reporter.report(&report, &snapshots()[0]);
    let seen = |group| loads.of(b"pool", group);
    assert!(seen("web").len() <= 3 && seen("late").is_empty());
    drop(reporter);
    assert!(["web", "other"].into_iter().flat_map(seen).all(|one| one.open_connections == Some(0)));
}

/// Any body of a poll gets an answer that can be read, or an error in one line.
pub fn xds_poll(body: &[u8]) {
    match json::answer(body, &snapshots()[1]) {
        Ok(None) => {}
        Ok(Some(answer)) => drop(serde_json::from_slice::<serde_json::Value>(&answer).expect("an answer is JSON")),
        Err(why) => assert_eq!(why.find('\n'), Some(why.len() - 1)),
    }
}

//! Verdicts of an earlier process: they count until the fall window is over, or until the monitor judges.

use std::{sync::Arc, time::Duration};

use gwm::{
    coordinator::{Answer, Ask, ConnectionId, Coordinator, Filter, Held, Settings, Time},
    journal::{self, Date, Entry, Epoch, Store},
    judgement::{Earlier, FoundBy, Judgement, Last, Policy, Share, Stand, Verdict, WatchId},
    roster::{Member, Monitor, Roster, Times},
    sasp::{Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, Message, Writer},
};
use redb::backends::InMemoryBackend;

use crate::outbox::Recorder;

const CONNECTION: ConnectionId = ConnectionId { shard: 0, slot: 0, generation: 0 };

pub(super) fn settings() -> Settings {
    Settings {
        hold_time: Duration::from_secs(3600),
        poll_interval_seconds: 60,
        push_window: Duration::ZERO,
        push_refresh: Duration::from_secs(3600),
        max_load_balancers: 10,
        max_groups: 10,
        max_groups_per_lb: 10,
        max_members_per_group: 10,
        max_memberships_per_lb: 10,
        max_memberships: 10,
        weight_max: 100,
        roster: Arc::new(Roster::new(Member::watched(100, Monitor::auto(), Times::default()), Policy::Auto)),
        access: Arc::default(),
        icmp: false,
        panic_percent: 100,
        panic_time: Duration::ZERO,
        own_addresses: Arc::default(),
        hash_seed: 1,
    }
}

fn endpoint(number: u8) -> Endpoint {
    Endpoint::new([10, 0, 0, number].into(), 6, 80)
}

/// A coordinator that knows a load balancer with two members from an earlier process.
fn coordinator() -> Coordinator {
    let mut coordinator = Coordinator::new(settings(), 1);
    coordinator.keep_judgements();
    assert!(coordinator.restore_load_balancer(Time(0), b"LB1", Health(0), LbFlags::NONE, None));
    let held = [1, 2].map(|number| Held {
        member: MemberData { endpoint: endpoint(number), label: b"" },
        by_lb: true,
        state: 0,
        quiesced: false,
    });
    assert!(coordinator.restore_group(Time(0), GroupData { lb_uid: b"LB1", name: b"G" }, held.into_iter()));
    coordinator
}

/// Flags and weights, by Get Weights.
fn weights(coordinator: &mut Coordinator, now: Time) -> Vec<(u8, u16)> {
    coordinator.opened(CONNECTION, std::net::IpAddr::from([127, 0, 0, 1]).into());
    let mut bytes = Vec::new();
    let mut request = Writer::get_weights_request(&mut bytes, 1);
    request.name(GroupData { lb_uid: b"LB1", name: b"G" });
    request.finish().expect("a short message");
    let (_, message) = Message::decode(&bytes).expect("well-formed");
    let mut out = Recorder::default();
    coordinator.request(now, CONNECTION, 1, &message, &mut out);
    let (sent, _) = out.take();
    coordinator.closed(now, CONNECTION, &mut out);
    let Message::GetWeightsReply(reply) = Message::decode(&sent[0].bytes).expect("well-formed").1 else {
        panic!("no weights")
    };
    let entries = reply.groups.into_iter().flat_map(|group| group.entries().collect::<Vec<_>>());
    entries.map(|entry| (entry.entry.flags.0, entry.entry.weight)).collect()
}

fn verdicts(flags: EntryFlags, weight: u16) -> [Verdict; 4] {
    [Verdict { flags, share: Share::Weight(weight) }; 4]
}

fn last(flags: EntryFlags, weight: u16) -> Last {
    Last { verdicts: verdicts(flags, weight), ramp_until: None }
}

const UP: EntryFlags = EntryFlags(EntryFlags::CONTACT.0 | EntryFlags::CONFIDENT.0);

/// Flags of members that the load balancer registered: up; down; not confident.
const SHOWN_UP: u8 = 0x0D;
const SHOWN_DOWN: u8 = 0x0C;
const SHOWN_UNKNOWN: u8 = 0x05;

#[test]
fn verdicts_of_an_earlier_process_count_until_the_fall_window_is_over() {
    let window = Times::default().fall_window();
    let mut coordinator = coordinator();
    assert_eq!(weights(&mut coordinator, Time(0)), [(SHOWN_UNKNOWN, 100), (SHOWN_UNKNOWN, 100)]);
    let age = window / 2;
    assert!(coordinator.restore_verdicts(Time(0), &endpoint(1), &last(UP, 40), age));
    assert!(coordinator.restore_verdicts(Time(0), &endpoint(2), &last(EntryFlags::CONFIDENT, 30), age));
    assert!(!coordinator.restore_verdicts(Time(0), &endpoint(3), &last(UP, 1), age), "nobody lists it");
    let end = Time(0) + (window - age);
    let mut out = Recorder::default();
    let just_before = Time(end.0 - 1);
    coordinator.poll(just_before, &mut out);
    assert_eq!(weights(&mut coordinator, just_before), [(SHOWN_UP, 40), (SHOWN_DOWN, 0)]);
    assert!(coordinator.next_deadline().is_some_and(|at| at <= end));
    coordinator.poll(end, &mut out);
    assert_eq!(weights(&mut coordinator, end), [(SHOWN_UNKNOWN, 40), (SHOWN_UNKNOWN, 30)]);

    // Too old from the begin.
    let mut coordinator = self::coordinator();
    assert!(coordinator.restore_verdicts(Time(0), &endpoint(1), &last(UP, 40), window));
    coordinator.poll(Time(0), &mut out);
    assert_eq!(weights(&mut coordinator, Time(0)), [(SHOWN_UNKNOWN, 40), (SHOWN_UNKNOWN, 100)]);
}

/// How an endpoint stands, and who found so.
fn stand(coordinator: &mut Coordinator, number: u8) -> (Stand, FoundBy) {
    let filter =
        Filter { address: Some(endpoint(number).ip()), port: Some(80), protocol: Some(6), ..Filter::default() };
    match coordinator.answer(Time(0), Ask::Endpoint(filter), &mut Recorder::default()) {
        Answer::Endpoint(found) => (found.0.state.stand, found.0.state.found_by),
        other => panic!("no endpoint: {other:?}"),
    }
}

#[test]
fn who_asks_hears_that_a_verdict_is_an_earlier_process_one() {
    let mut coordinator = coordinator();
    assert!(coordinator.restore_verdicts(Time(0), &endpoint(1), &last(UP, 40), Duration::ZERO));
    assert_eq!(stand(&mut coordinator, 1), (Stand::Up, FoundBy::Earlier));
    assert_eq!(stand(&mut coordinator, 2), (Stand::Unknown, FoundBy::Own));
    let watches = orders(&mut coordinator);
    let (_, watch, _) = *watches.iter().find(|(found, ..)| *found == endpoint(1)).expect("it is watched");
    let verdicts = verdicts(EntryFlags::CONFIDENT, 0);
    coordinator.judge(Time(1), &[Judgement { watch, verdicts, answers: true, ramp_until: None, turn: None }]);
    assert_eq!(stand(&mut coordinator, 1), (Stand::Down, FoundBy::Own));
}

#[test]
fn the_monitor_counts_more_than_an_earlier_process() {
    let mut coordinator = coordinator();
    for number in [1, 2] {
        assert!(coordinator.restore_verdicts(Time(0), &endpoint(number), &last(UP, 40), Duration::ZERO));
    }
    let mut judgements = Vec::new();
    while coordinator.has_watch_orders() {
        judgements.extend(coordinator.take_watch_orders().filter(|order| order.endpoint == Some(endpoint(2))).map(
            |order| Judgement {
                watch: order.watch,
                verdicts: verdicts(UP, 70),
                answers: true,
                ramp_until: None,
                turn: None,
            },
        ));
    }
    coordinator.judge(Time(1), &judgements);
    let after = Time(0) + Times::default().fall_window();
    coordinator.poll(after, &mut Recorder::default());
    assert_eq!(weights(&mut coordinator, after), [(SHOWN_UNKNOWN, 40), (SHOWN_UP, 70)]);

    // A later process hears of the endpoint that was judged.
    let mut entries = Vec::new();
    coordinator.take_judged(10, |endpoint, last| {
        entries.push(Entry::Judged(endpoint, last.expect("nobody is forgotten")));
    });
    assert_eq!(entries, [Entry::Judged(endpoint(2), last(UP, 70))]);
    let mut store = Store::open_on(InMemoryBackend::new()).expect("memory is a disk");
    store.apply(&entries, Epoch::default(), Date(0)).expect("memory is a disk");
    let mut next = self::coordinator();
    let restored = journal::restore(&store, &mut next, Time(0), Epoch::default()).expect("the rows fit");
    assert_eq!((restored.verdicts, restored.first), (1, vec![]));
    assert_eq!(weights(&mut next, Time(0)), [(SHOWN_UNKNOWN, 100), (SHOWN_UP, 70)]);

    // Endpoints that no group lists any more are forgotten on disk, too.
    let mut out = Recorder::default();
    let forgotten = next.act(Time(0), gwm::coordinator::Act::Forget(b"LB1"[..].into()), &mut out);
    assert!(forgotten.is_ok(), "{forgotten:?}");
    let mut gone = Vec::new();
    next.take_judged(10, |endpoint, last| gone.push((endpoint, last)));
    assert_eq!(gone, [(endpoint(2), None)]);
    let mut empty = Coordinator::new(settings(), 1);
    let restored = journal::restore(&store, &mut empty, Time(0), Epoch::default()).expect("the rows fit");
    assert_eq!(restored.first, [Entry::Gone(endpoint(2))]);
}

/// The orders to watch, with what an earlier process left.
fn orders(coordinator: &mut Coordinator) -> Vec<(Endpoint, WatchId, Option<Earlier>)> {
    let mut orders = Vec::new();
    while coordinator.has_watch_orders() {
        orders.extend(coordinator.take_watch_orders().map(|order| {
            let endpoint = order.endpoint.expect("no watch ends");
            (endpoint, order.watch, order.earlier)
        }));
    }
    orders.sort_unstable_by_key(|(endpoint, ..)| endpoint.address);
    orders
}

#[test]
fn a_slow_start_goes_on_in_a_later_process() {
    const SECOND: u64 = 1_000_000_000;
    let mut coordinator = coordinator();
    let watches = orders(&mut coordinator);
    let judged = |at: usize, flags, ramp_until| {
        let verdicts = verdicts(flags, 40);
        Judgement { watch: watches[at].1, verdicts, answers: true, ramp_until, turn: None }
    };
    let (slow, down) = (judged(0, UP, Some(Time(30 * SECOND))), judged(1, EntryFlags::CONFIDENT, None));
    coordinator.judge(Time(SECOND), &[slow, down]);
    let mut store = Store::open_on(InMemoryBackend::new()).expect("memory is a disk");
    // This process began at 1,000,000 ms.
    let keep = |coordinator: &mut Coordinator, store: &mut Store| {
        let mut entries = Vec::new();
        coordinator
            .take_judged(10, |endpoint, last| entries.push(Entry::Judged(endpoint, last.expect("it is listed"))));
        store.apply(&entries, Epoch(Date(1_000_000)), Date(1_002_000)).expect("memory is a disk");
        entries.len()
    };
    assert_eq!(keep(&mut coordinator, &mut store), 2);
    let left = |store: &Store, start: u64| {
        let mut next = self::coordinator();
        journal::restore(store, &mut next, Time(0), Epoch(Date(start))).expect("the rows fit");
        orders(&mut next).into_iter().map(|(_, _, earlier)| earlier).collect::<Vec<_>>()
    };
    let earlier = |down, ramp_until| Some(Earlier { down, ramp_until });
    // The next process begins 5 s after that one: 25 s are left.
    assert_eq!(left(&store, 1_005_000), [earlier(false, Some(Time(25 * SECOND))), earlier(true, None)]);
    assert_eq!(left(&store, 1_030_000), [None, earlier(true, None)], "it is over");

    // It ends: no weight changes, if the capacity is 1, and it is told all the same.
    coordinator.judge(Time(2 * SECOND), &[judged(0, UP, None)]);
    assert_eq!(keep(&mut coordinator, &mut store), 1);
    assert_eq!(left(&store, 1_005_000)[0], None);
    // What nobody has judged before begins from nothing.
    assert!(watches.iter().all(|(_, _, earlier)| earlier.is_none()));
}

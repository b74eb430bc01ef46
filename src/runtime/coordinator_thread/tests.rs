use super::*;
use crate::{
    coordinator::{Kind, Settings},
    judgement::{Judgement, Policy, Share, Verdict},
    metrics::{Id, Reading},
    roster::Member,
    runtime::mesh::{Batch, Down, Receiver, Sender, pipe},
    sasp::{Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, SenderFlags, Writer, writer},
};

const SLOT: Slot = Slot { index: 3, generation: 7 };

/// Small limits, and no checks.
pub(crate) fn settings() -> Settings {
    Settings {
        hold_time: Duration::from_secs(60),
        poll_interval_seconds: 64,
        push_window: Duration::ZERO,
        push_refresh: Duration::from_secs(60),
        max_load_balancers: 10,
        max_groups: 10,
        max_groups_per_lb: 10,
        max_members_per_group: 10,
        max_memberships_per_lb: 10,
        max_memberships: 10,
        weight_max: 100,
        roster: Arc::new(Roster::new(Member::unknown(100), Policy::Auto)),
        access: Arc::default(),
        icmp: false,
        panic_percent: 50,
        panic_time: Duration::from_secs(30),
        own_addresses: Arc::default(),
        hash_seed: 1,
    }
}

/// A coordinator's thread with one shard, and the shard's ends of the pipes, each with this many batches.
fn coordinator_thread(batches: usize) -> (CoordinatorThread, Sender<(Slot, Up)>, Receiver<Down>) {
    let bell = Arc::new(Bell::default());
    let (up, inbox) = pipe(batches, bell.clone(), bell.clone());
    let (outbox, down) = pipe(batches, bell.clone(), bell.clone());
    let (control, metrics) = (Arc::new(CoordinatorControl::new()), Arc::default());
    let ports = vec![Port::new(inbox, outbox)];
    let coordinator = Coordinator::new(settings(), 1);
    (CoordinatorThread::new(coordinator, ports, control, metrics, Clock::new()), up, down)
}

fn request(up: &mut Sender<(Slot, Up)>, id: u32) {
    let start = up.bytes().len();
    writer::set_lb_state_request(up.bytes(), id, b"LB1", Health::BEST, LbFlags::NONE).expect("a short UID");
    let range = start..up.bytes().len();
    up.push((SLOT, Up::Request(range)));
}

fn reply_ids(batch: &Batch<Down>) -> Vec<u32> {
    let id = |down: &Down| match &down.order {
        Order::Write { kind: Kind::Reply, head, body: None, .. } => {
            Message::decode(&batch.bytes[head.start as usize..head.end as usize]).expect("a message").0.id
        }
        other => panic!("{other:?}"),
    };
    batch.entries.iter().map(id).collect()
}

#[test]
fn a_request_waits_until_there_is_room_for_its_reply() {
    let (mut thread, mut up, mut down) = coordinator_thread(1);
    up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    request(&mut up, 1);
    up.flush();
    assert!(thread.ports.list[0].has_work());
    assert!(!thread.turn());
    let first = down.receive().expect("the reply");
    assert_eq!(reply_ids(&first), [1]);

    // The only batch is with the shard: nothing can be answered, and there is no point in trying.
    let back = up.reclaim().expect("all of it was taken");
    up.recycle(back);
    request(&mut up, 2);
    request(&mut up, 3);
    up.flush();
    assert!(!thread.turn() && !thread.ports.list[0].has_work());
    assert!(!up.has_returned(), "the requests are not taken");

    down.give_back(first);
    assert!(thread.ports.list[0].has_work());
    thread.turn();
    assert_eq!(reply_ids(&down.receive().expect("the replies")), [2, 3]);
    assert!(up.has_returned());
}

/// Registers a load balancer's group, and asks for its weights.
fn get_weights(up: &mut Sender<(Slot, Up)>, slot: Slot, id: u32) {
    let start = up.bytes().len();
    let mut request = Writer::get_weights_request(up.bytes(), id);
    request.name(GroupData { lb_uid: b"LB1", name: b"" });
    request.finish().expect("a short message");
    let range = start..up.bytes().len();
    up.push((slot, Up::Request(range)));
}

#[test]
fn a_reply_waits_for_the_disk_and_weights_do_not() {
    let (mut thread, mut up, mut down) = coordinator_thread(4);
    let journal = Arc::new(crate::runtime::journal_thread::Journal::new(Arc::default()));
    thread.ports.keeping = Some(Keeping::new(Some(journal.clone()), true, Duration::from_secs(60)));
    let other = Slot { index: 4, generation: 0 };
    for slot in [SLOT, other] {
        up.push((slot, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    }
    request(&mut up, 1);
    get_weights(&mut up, other, 2);
    up.flush();
    thread.turn();
    let batch = down.receive().expect("the weights");
    let of_other = |down: &Down| down.slot == other && matches!(down.order, Order::Write { .. });
    assert!(batch.entries.iter().any(of_other), "{:?}", batch.entries);
    assert!(batch.entries.iter().all(|down| down.slot == other || matches!(down.order, Order::Close(_))));
    down.give_back(batch);
    assert_eq!(thread.ports.waiting_replies(), 1);

    let (entries, _) = journal.next(Duration::ZERO);
    assert!(!thread.ports.has_kept_replies());
    journal.note_kept(&entries);
    assert!(thread.ports.has_kept_replies());
    thread.turn();
    assert_eq!(reply_ids(&down.receive().expect("the reply")), [1]);
    assert_eq!(thread.ports.waiting_replies(), 0);
}

#[test]
fn a_full_journal_takes_no_request_that_changes_something() {
    let (mut thread, mut up, mut down) = coordinator_thread(4);
    let journal = Arc::new(crate::runtime::journal_thread::Journal::new(Arc::default()));
    thread.ports.keeping = Some(Keeping::new(Some(journal.clone()), true, Duration::from_secs(60)));
    journal.give(&mut vec![crate::journal::Entry::Request(vec![0; crate::limits::JOURNAL_BYTES].into())]);
    up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    request(&mut up, 1);
    up.flush();
    thread.turn();
    let batch = down.receive().expect("the close");
    assert!(matches!(batch.entries[..], [Down { slot: SLOT, order: Order::Close(CloseReason::NotKept), .. }]));
    assert_eq!(thread.coordinator.totals().load_balancers, 0);
}

#[test]
fn while_the_state_changes_hands_requests_wait_and_what_was_done_is_kept_and_told() {
    let (mut thread, mut up, mut down) = coordinator_thread(4);
    let journal = Arc::new(crate::runtime::journal_thread::Journal::new(Arc::default()));
    thread.ports.keeping = Some(Keeping::new(Some(journal.clone()), true, Duration::from_secs(60)));
    let control = thread.control.clone();
    up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    request(&mut up, 1);
    up.flush();
    thread.turn();
    control.hold.begin();
    request(&mut up, 2);
    up.flush();
    thread.hold(Phase::Holds);
    assert!(!control.hold.wait(Instant::now()), "a change is not on the disk, and its reply waits");
    let (entries, _) = journal.next(Duration::ZERO);
    journal.note_kept(&entries);
    thread.hold(Phase::Holds);
    assert!(control.hold.wait(Instant::now()));
    let batch = down.receive().expect("the reply");
    assert_eq!(reply_ids(&batch), [1]);
    down.give_back(batch);
    thread.hold(Phase::Holds);
    assert!(down.receive().is_none() && journal.waiting() == 0, "the second request waits");

    // The takeover fails.
    control.hold.end();
    assert!(control.hold.phase() == Phase::Runs);
    thread.turn();
    let (entries, _) = journal.next(Duration::ZERO);
    journal.note_kept(&entries);
    thread.turn();
    let batch = down.receive().expect("the reply");
    assert_eq!(reply_ids(&batch), [2]);
    down.give_back(batch);

    // Another one does not: nothing is answered or changed, and the shards get their batches back.
    control.hold.begin();
    assert!(!control.hold.wait(Instant::now()), "it is asked anew");
    control.hold.over();
    request(&mut up, 3);
    up.flush();
    while let Some(batch) = up.reclaim() {
        up.recycle(batch);
    }
    thread.hold(Phase::Over);
    assert!(up.has_returned() && down.receive().is_none() && journal.waiting() == 0);
}

#[test]
fn what_was_dropped_is_written_anew_when_the_disk_takes_something_again() {
    use crate::{
        coordinator::Place,
        journal::{Entry, Whole},
    };
    let (mut thread, mut up, mut down) = coordinator_thread(4);
    let journal = Arc::new(crate::runtime::journal_thread::Journal::new(Arc::default()));
    thread.ports.keeping = Some(Keeping::new(Some(journal.clone()), true, Duration::from_secs(60)));
    up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    request(&mut up, 1);
    up.flush();
    thread.turn();
    // The disk takes nothing, and the connection ends: even so much can be too much.
    journal.give(&mut vec![Entry::Request(vec![0; 2 * crate::limits::JOURNAL_BYTES].into())]);
    up.push((SLOT, Up::Closed));
    up.flush();
    thread.turn();
    let keeping = |thread: &CoordinatorThread| thread.ports.keeping.as_ref().is_some_and(Keeping::is_full);
    assert!(keeping(&thread) && journal.trouble().is_some());
    let take = || {
        let (entries, _) = journal.next(Duration::ZERO);
        journal.note_kept(&entries);
        entries
    };
    assert_eq!(take().len(), 3, "of the first request two, and the large one");
    thread.turn();
    let entries = take();
    let Entry::Whole(uid, Some(whole)) = &entries[0] else { panic!("{entries:?}") };
    let Whole { lb, groups } = &**whole;
    assert_eq!((entries.len(), &**uid, matches!(lb.place, Place::Held(_)), groups.len()), (1, &b"LB1"[..], true, 0));
    assert!(keeping(&thread), "until that is on the disk");
    thread.turn();
    assert!(!keeping(&thread) && journal.trouble().is_none());
    while let Some(batch) = down.receive() {
        down.give_back(batch);
    }

    // The next request is taken, and answered when it is kept.
    while let Some(batch) = up.reclaim() {
        up.recycle(batch);
    }
    let slot = Slot { index: 9, generation: 0 };
    up.push((slot, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    let start = up.bytes().len();
    writer::set_lb_state_request(up.bytes(), 5, b"LB1", Health::BEST, LbFlags::NONE).expect("a short UID");
    let range = start..up.bytes().len();
    up.push((slot, Up::Request(range)));
    up.flush();
    thread.turn();
    assert!(down.receive().is_none());
    assert!(!take().is_empty());
    thread.turn();
    assert_eq!(reply_ids(&down.receive().expect("the reply")), [5]);
}

#[cfg(feature = "fleet")]
#[test]
fn what_a_node_of_a_fleet_writes_anew_is_its_own_until_etcd_has_it() {
    use crate::{
        journal::{Entry, Known},
        runtime::fleet_thread::Fleet,
    };
    let (mut thread, mut up, _down) = coordinator_thread(4);
    let journal = Arc::new(crate::runtime::journal_thread::Journal::new(Arc::default()));
    let fleet = Arc::new(Fleet::new(Arc::default())); // etcd is away
    let keeping = Keeping::new(Some(journal.clone()), true, Duration::from_secs(60));
    thread.ports.keeping = Some(keeping.with_fleet(fleet.clone(), true, Known::default()));
    let is_full = |thread: &CoordinatorThread| thread.ports.keeping.as_ref().is_some_and(Keeping::is_full);
    let take = || {
        let (entries, _) = journal.next(Duration::ZERO);
        journal.note_kept(&entries);
        entries
    };
    up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    request(&mut up, 1);
    up.flush();
    thread.turn();
    journal.give(&mut vec![Entry::Request(vec![0; 2 * crate::limits::JOURNAL_BYTES].into())]);
    up.push((SLOT, Up::Closed));
    up.flush();
    thread.turn();
    assert!(is_full(&thread));
    assert!(
        !take()
            .iter()
            .any(|entry| matches!(entry, Entry::Own { entry, .. } if matches!(**entry, Entry::Unbound { .. })))
    );
    thread.turn();
    let entries = take();
    let [Entry::Own { number, began: None, entry }, ..] = &entries[..] else { panic!("{entries:?}") };
    let Entry::Whole(uid, Some(_)) = &**entry else { panic!("{entries:?}") };
    assert_eq!((&**uid, *number), (&b"LB1"[..], 3), "etcd lacks it until it has the last of the three changes");
    thread.turn();
    assert!(!is_full(&thread));
}

#[test]
fn a_close_is_never_lost() {
    let (mut thread, _up, mut down) = coordinator_thread(1);
    let start = thread.ports.buffer(0).len();
    thread.ports.commit(connection(0, SLOT), start, None, Kind::Push);
    thread.turn();
    thread.ports.close(connection(0, SLOT), CloseReason::TakenOver);
    thread.turn();
    let batch = down.receive().expect("the push");
    assert!(matches!(batch.entries[..], [Down { order: Order::Write { .. }, .. }]));
    down.give_back(batch);
    thread.turn();
    let batch = down.receive().expect("the close");
    assert!(matches!(batch.entries[..], [Down { slot: SLOT, order: Order::Close(_), .. }]));
}

#[test]
fn watch_orders_wait_for_room_and_judgements_come_back() {
    let (mut thread, mut up, mut down) = coordinator_thread(1);
    let times = crate::roster::Times::default();
    let watched = Member::watched(100, crate::roster::Monitor::auto(), times);
    thread.coordinator.set_roster(thread.clock.now(), Arc::new(Roster::new(watched, Policy::Auto)));
    up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    let start = up.bytes().len();
    let mut request = Writer::registration_request(up.bytes(), 1, SenderFlags::LOAD_BALANCER);
    request.group(GroupData { lb_uid: b"LB1", name: b"G" });
    let endpoint = Endpoint::new("127.0.0.1".parse().unwrap(), 6, 80);
    request.entry(&MemberData { endpoint, label: b"" });
    request.finish().unwrap();
    let range = start..up.bytes().len();
    up.push((SLOT, Up::Request(range)));
    up.flush();
    // The only batch is with the shard.
    thread.ports.commit(connection(0, SLOT), 0, None, Kind::Push);
    thread.ports.list[0].down.flush();
    let taken = down.receive().expect("the push");
    assert!(!thread.turn());
    down.give_back(taken);
    thread.turn();
    let batch = down.receive().expect("the reply and the order");
    let watch = match &batch.entries[..] {
        [Down { order: Order::Write { kind: Kind::Reply, .. }, .. }, Down { order: Order::Watch(order), .. }] => {
            assert_eq!(order.endpoint, Some(endpoint));
            order.watch
        }
        other => panic!("{other:?}"),
    };
    let back = up.reclaim().expect("all of it was taken");
    up.recycle(back);
    let verdict = Verdict { flags: EntryFlags::CONFIDENT, share: Share::Weight(0) };
    let judgement = Judgement { watch, verdicts: [verdict; 4], answers: true, ramp_until: None, turn: None };
    up.push((Slot { index: 0, generation: 0 }, Up::Judged([judgement].into())));
    up.flush();
    thread.turn();
    assert_eq!(thread.coordinator.totals().answering, 1);
}

#[test]
fn metrics_can_be_read_while_the_coordinator_runs() {
    let (mut thread, mut up, _down) = coordinator_thread(2);
    up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
    request(&mut up, 1);
    // Another load balancer on the same connection is refused.
    let start = up.bytes().len();
    writer::set_lb_state_request(up.bytes(), 2, b"LB2", Health::BEST, LbFlags::NONE).expect("a short UID");
    let range = start..up.bytes().len();
    up.push((SLOT, Up::Request(range)));
    up.flush();
    let metrics = thread.metrics.clone();
    thread.turn();
    let mut reading = Reading::default();
    metrics.read(&mut reading);
    assert_eq!(reading.total(Id::LoadBalancers), 1);
    let refused: Vec<_> = reading
        .totals_by_label(Id::RequestsRefused)
        .into_iter()
        .filter(|(_, requests)| *requests > 0)
        .map(|(label, requests)| (&*label.name, requests))
        .collect();
    assert_eq!(refused, [("other_lb", 1)]);
}

#[test]
fn the_admin_side_rests_24_times_as_long_as_it_took_and_half_a_second_at_most() {
    let millis = Duration::from_millis;
    assert_eq!(pause_after(Duration::ZERO), Duration::ZERO);
    assert_eq!(pause_after(Duration::from_micros(100)), Duration::from_micros(2400));
    assert_eq!(pause_after(millis(20)), millis(480));
    for took in [millis(21), millis(1000), Duration::from_secs(3600), Duration::MAX] {
        assert_eq!(pause_after(took), millis(500), "{took:?}");
    }
}

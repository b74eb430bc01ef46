//! The hot paths allocate nothing: to encode a push into a reused buffer, to decode and walk a registration, to build
//! pushes in the coordinator. Each thread has its own count, because tests run in parallel.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gwm::{
    coordinator::{CloseReason, ConnectionId, Coordinator, Kind, Outbox, Settings, Time},
    judgement::{Judgement, Level, Policy, Share, Verdict},
    limits,
    roster::{Member, Monitor, Roster, Times},
    runtime::mesh::{Bell, pipe},
    sasp::{
        Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, Message, SenderFlags, WeightEntry,
        WeightedMember, Writer, writer,
    },
};

/// The system's allocator, with a count of calls for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|counter| counter.set(counter.get() + 1));
}

// SAFETY: every call goes to `System` unchanged. The count is a constant-initialised thread local without a destructor:
// to change the count never allocates, and the count exists as long as the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is `System`'s own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn member(number: u8) -> MemberData<'static> {
    member_of(0, number)
}

fn member_of(farm: u8, number: u8) -> MemberData<'static> {
    MemberData { endpoint: Endpoint::new([10, 0, farm, number].into(), 6, 80), label: b"label" }
}

const GROUP: GroupData<'_> = GroupData { lb_uid: b"LB1", name: b"FARM1" };

fn send_weights(out: &mut Vec<u8>) {
    let mut writer = Writer::send_weights(out);
    writer.group(GROUP);
    for number in 0..100 {
        let entry = WeightEntry { state: 0, flags: EntryFlags::CONTACT, weight: number.into() };
        writer.entry(&WeightedMember { member: member(number), entry });
    }
    writer.finish().unwrap();
}

#[test]
fn a_push_into_a_reused_buffer_allocates_nothing() {
    let mut buffer = Vec::new();
    assert!(allocations(|| send_weights(&mut buffer)) > 0, "the counter counts");
    let first = buffer.clone();
    buffer.clear();
    assert_eq!(allocations(|| send_weights(&mut buffer)), 0);
    assert_eq!(buffer, first);
}

#[test]
fn decoding_and_walking_a_registration_allocates_nothing() {
    let mut bytes = Vec::new();
    let mut writer = Writer::registration_request(&mut bytes, 1, SenderFlags::LOAD_BALANCER);
    writer.group(GROUP);
    (0..100).for_each(|number| writer.entry(&member(number)));
    writer.finish().unwrap();
    let mut ports = 0;
    let count = allocations(|| {
        let (_, message) = Message::decode(&bytes).unwrap();
        let Message::RegistrationRequest(request) = message else { panic!("{message:?}") };
        for group in request.groups {
            ports += group.entries().map(|member| u32::from(member.endpoint.port)).sum::<u32>();
        }
    });
    assert_eq!((ports, count), (8000, 0));
}

/// Batches between cores are reused, with their buffers of bytes and messages.
#[test]
fn pushes_on_their_way_to_a_shard_allocate_nothing() {
    let (here, there) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let (mut sender, mut receiver) = pipe::<std::ops::Range<usize>>(limits::BATCHES, here, there);
    let mut round = || {
        // More than a batch holds: a full batch is sent at once.
        for _ in 0..500 {
            while let Some(batch) = sender.reclaim() {
                sender.recycle(batch);
            }
            let bytes = sender.bytes();
            let start = bytes.len();
            send_weights(bytes);
            let end = bytes.len();
            sender.push(start..end);
            if let Some(batch) = receiver.receive() {
                receiver.give_back(batch);
            }
        }
    };
    (0..limits::BATCHES).for_each(|_| round());
    assert_eq!(allocations(round), 0);
}

/// Takes the coordinator's messages into one buffer, like a batch of the runtime.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    pushes: u32,
}

impl Outbox for Out {
    fn has_room(&self, _shard: u16) -> bool {
        true
    }

    fn buffer(&mut self, _shard: u16) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn commit(&mut self, _connection: ConnectionId, _start: usize, _body: Option<&Bytes>, kind: Kind) {
        self.pushes += u32::from(kind == Kind::Push);
    }

    fn close(&mut self, _connection: ConnectionId, _reason: CloseReason) {}
}

fn settings() -> Settings {
    Settings {
        hold_time: Duration::from_secs(60),
        poll_interval_seconds: 60,
        push_window: Duration::from_millis(5),
        push_refresh: Duration::from_secs(10_000_000_000),
        max_load_balancers: 100,
        max_groups: 100,
        max_groups_per_lb: 100,
        max_members_per_group: 100,
        max_memberships_per_lb: 10_000,
        max_memberships: 10_000,
        weight_max: 100,
        roster: Arc::new(Roster::new(Member::watched(100, Monitor::auto(), Times::default()), Policy::Auto)),
        access: std::sync::Arc::default(),
        icmp: false,
        panic_percent: 50,
        panic_time: Duration::from_secs(30),
        own_addresses: Default::default(),
        hash_seed: 1,
    }
}

/// How often the coordinator allocates while it builds pushes to 20 LBs with `flags`, when `changed` of the 100 members
/// of each of `farms` farms have changed, which the LBs share. A few such ticks come before, and are not counted.
fn allocations_of_a_tick(flags: LbFlags, farms: u8, changed: u8, share: impl Fn(u16) -> Share) -> u64 {
    let mut coordinator = Coordinator::new(settings(), 1);
    let (mut out, mut now) = (Out::default(), Time(0));
    let connections: Vec<ConnectionId> = (0..20).map(|slot| ConnectionId { shard: 0, slot, generation: 1 }).collect();
    for &connection in &connections {
        let uid = [b'A' + connection.slot as u8];
        coordinator.opened(connection, IpAddr::from([127, 0, 0, 1]).into());
        let mut requests = [Vec::new(), Vec::new()];
        let mut writer = Writer::registration_request(&mut requests[0], 1, SenderFlags::LOAD_BALANCER);
        writer.group(GroupData { lb_uid: &uid, name: b"FARM1" });
        let farm = connection.slot as u8 % farms;
        (0..100).for_each(|number| writer.entry(&member_of(farm, number)));
        writer.finish().unwrap();
        writer::set_lb_state_request(&mut requests[1], 2, &uid, Health(0x7F), flags).unwrap();
        for request in &requests {
            let (header, message) = Message::decode(request).unwrap();
            coordinator.request(now, connection, header.id, &message, &mut out);
            coordinator.delivered(connection, u32::MAX);
        }
    }
    let mut last = 0;
    let mut watches = HashMap::new();
    for tick in 1..=5 {
        while coordinator.has_watch_orders() {
            let orders = coordinator.take_watch_orders();
            watches.extend(orders.filter_map(|order| Some((order.endpoint?, order.watch))));
        }
        let verdict = Verdict { flags: EntryFlags::CONTACT | EntryFlags::CONFIDENT, share: share(tick) };
        for number in 0..u16::from(changed) * u16::from(farms) {
            let watch =
                watches[&member_of((number % u16::from(farms)) as u8, (number / u16::from(farms)) as u8).endpoint];
            coordinator.judge(
                now,
                &[Judgement { watch, verdicts: [verdict; 4], answers: true, ramp_until: None, turn: None }],
            );
        }
        now = now + Duration::from_secs(1);
        (out.pushes, out.bytes) = (0, Vec::with_capacity(1 << 20));
        last = allocations(|| coordinator.poll(now, &mut out));
        assert_eq!(out.pushes, 20);
        connections.iter().for_each(|&connection| coordinator.delivered(connection, u32::MAX));
    }
    last
}

/// What LBs share is made once, with a few allocations, and nothing is allocated for each LB. Of what an LB has alone, it
/// is remembered what was sent, which is one allocation.
#[test]
fn pushes_of_the_coordinator_allocate_what_was_sent_and_nothing_else() {
    let delta = LbFlags::PUSH | LbFlags::NO_CHANGE_NO_SEND;
    let rate = |tick| Share::Rate(Level::of(f64::from(100 - 5 * tick)));
    for (farms, most) in [(20, 20), (1, 6)] {
        let full = allocations_of_a_tick(LbFlags::PUSH, farms, 100, Share::Weight);
        assert!(full <= most, "everything: {full}");
        let one = allocations_of_a_tick(delta, farms, 1, Share::Weight);
        assert!(one <= most, "one member of 100: {one}");
        let rates = allocations_of_a_tick(LbFlags::PUSH, farms, 100, rate);
        assert!(rates <= most, "everything, by rates: {rates}");
        let one_rate = allocations_of_a_tick(delta, farms, 1, rate);
        assert!(one_rate <= most, "one member of 100, by its rate: {one_rate}");
        let all = allocations_of_a_tick(delta, farms, 100, Share::Weight);
        assert!(all <= most, "all members, one by one: {all}");
    }
}

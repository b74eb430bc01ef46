//! The coordinator's hot paths. Iterations run one by one, because each one needs prepared tables: a time below about
//! 100 ns is mostly the cost of the clock.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use gwm::{
    coordinator::{CloseReason, ConnectionId, Coordinator, Kind, Outbox, Settings, Time},
    judgement::{Judgement, Policy, Share, Verdict, WatchId},
    roster::{Member, Monitor, Roster, Times},
    sasp::{
        Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Message, Reason,
        ReturnCode, SenderFlags, Writer, writer,
    },
};

use crate::{codec::endpoint, scaled};

/// The buffer of pushes is cleared at this size, like a batch of the runtime.
const BATCH_BYTES: usize = 64 << 10;

/// Takes messages as the runtime does: into a buffer that is used again.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    pushed: Vec<ConnectionId>,
    code: Option<ReturnCode>,
    allowance: usize,
}

impl Outbox for Out {
    fn has_room(&self, _shard: u16) -> bool {
        self.pushed.len() < self.allowance
    }

    fn buffer(&mut self, _shard: u16) -> &mut Vec<u8> {
        if self.bytes.len() >= BATCH_BYTES {
            self.bytes.clear();
        }
        &mut self.bytes
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, _body: Option<&Bytes>, kind: Kind) {
        match kind {
            Kind::Push => self.pushed.push(connection),
            Kind::Reply => self.code = self.bytes.get(start + 17).copied().map(ReturnCode),
        }
    }

    fn close(&mut self, _connection: ConnectionId, _reason: CloseReason) {}
}

/// A coordinator with LBs in it, one connection each.
struct Bed {
    coordinator: Coordinator,
    out: Out,
    now: Time,
    /// The weight of the last change: every change has another weight.
    weight: u16,
    /// The watch of each endpoint.
    watches: HashMap<Endpoint, WatchId>,
}

/// Whether groups of different LBs have the same members.
#[derive(Clone, Copy, PartialEq)]
enum Members {
    Shared,
    Distinct,
}

impl Bed {
    fn new() -> Bed {
        let settings = Settings {
            hold_time: Duration::from_secs(60),
            poll_interval_seconds: 60,
            push_window: Duration::from_millis(5),
            push_refresh: Duration::from_secs(10_000_000_000), // not in these runs
            max_load_balancers: 100_000,
            max_groups: 1_000_000,
            max_groups_per_lb: 1_000,
            max_members_per_group: 65_535,
            max_memberships_per_lb: 7_000_000,
            max_memberships: 7_000_000,
            weight_max: 100,
            roster: Arc::new(Roster::new(Member::watched(100, Monitor::auto(), Times::default()), Policy::Auto)),
            access: std::sync::Arc::default(),
            icmp: false,
            panic_percent: 50,
            panic_time: Duration::from_secs(30),
            own_addresses: Default::default(),
            hash_seed: 7,
        };
        let out = Out { allowance: usize::MAX, ..Out::default() };
        Bed { coordinator: Coordinator::new(settings, 1), out, now: Time(0), weight: 0, watches: HashMap::new() }
    }

    /// Push LBs, each with one group of so many members; all pushes have been sent.
    fn with_lbs(lbs: u32, members: u32, which: Members, flags: LbFlags) -> Bed {
        let mut bed = Bed::new();
        let mut bytes = Vec::new();
        for lb in 0..lbs {
            let uid = uid(lb);
            let first = if which == Members::Distinct { lb * members } else { 0 };
            bed.coordinator.opened(connection(lb), IpAddr::from([127, 0, 0, 1]).into());
            bytes.clear();
            register(&mut bytes, &uid, b"web-frontend", first..first + members);
            bed.request(lb, &bytes);
            bytes.clear();
            writer::set_lb_state_request(&mut bytes, 1, &uid, Health(0x7f), flags).expect("the UID fits");
            bed.request(lb, &bytes);
        }
        bed.settle();
        bed
    }

    /// One request and its reply, which must be successful.
    fn request(&mut self, lb: u32, frame: &[u8]) {
        let (header, message) = Message::decode_trusted(frame).expect("our own message");
        self.coordinator.request(self.now, connection(lb), header.id, &message, &mut self.out);
        assert_eq!(self.out.code.take(), Some(ReturnCode::SUCCESSFUL));
        self.coordinator.delivered(connection(lb), u32::MAX);
    }

    /// Ends the push windows and builds the pushes; returns their number. The pushes stay in flight.
    fn tick(&mut self) -> usize {
        self.now = self.now + Duration::from_secs(1);
        self.coordinator.poll(self.now, &mut self.out);
        self.out.pushed.len()
    }

    /// As [`Bed::tick`], and all pushes arrive.
    fn settle(&mut self) {
        self.tick();
        for connection in self.out.pushed.drain(..) {
            self.coordinator.delivered(connection, u32::MAX);
        }
    }

    /// New weights of these endpoints, for [`Bed::judge`].
    fn weights(&mut self, endpoints: impl Iterator<Item = u32>) -> Vec<Judgement> {
        while self.coordinator.has_watch_orders() {
            let orders = self.coordinator.take_watch_orders();
            self.watches.extend(orders.filter_map(|order| Some((order.endpoint?, order.watch))));
        }
        self.weight = self.weight % 100 + 1;
        let verdict = Verdict { flags: EntryFlags::CONTACT | EntryFlags::CONFIDENT, share: Share::Weight(self.weight) };
        endpoints
            .map(|number| Judgement {
                watch: self.watches[&endpoint(number)],
                verdicts: [verdict; 4],
                answers: true,
                ramp_until: None,
                turn: None,
            })
            .collect()
    }

    fn judge(&mut self, judgements: Vec<Judgement>) {
        self.coordinator.judge(self.now, &judgements);
    }
}

fn uid(lb: u32) -> Vec<u8> {
    format!("lb-east-{lb:05}").into_bytes()
}

fn connection(lb: u32) -> ConnectionId {
    ConnectionId { shard: 0, slot: lb, generation: 1 }
}

fn register(out: &mut Vec<u8>, uid: &[u8], name: &[u8], members: std::ops::Range<u32>) {
    let mut request = Writer::registration_request(out, 1, SenderFlags::LOAD_BALANCER);
    request.group(GroupData { lb_uid: uid, name });
    for number in members {
        request.entry(&MemberData { endpoint: endpoint(number), label: b"" });
    }
    request.finish().expect("a group fits");
}

/// Measures `work` on a bed; `prepare` runs before it and is not measured.
fn each<I>(
    bencher: Bencher<'_, '_>,
    bed: Bed,
    items: u32,
    mut prepare: impl FnMut(&mut Bed) -> I,
    work: impl Fn(&mut Bed, I),
) {
    let bed = RefCell::new(bed);
    bencher
        .counter(ItemsCount::new(items))
        .with_inputs(|| prepare(&mut bed.borrow_mut()))
        .bench_local_values(|input| work(&mut bed.borrow_mut(), input));
}

/// A new weight of an endpoint that so many LBs list, until their push windows are open. Items are memberships.
#[divan::bench(args = [1, 100, 10_000], sample_size = 1, sample_count = 300)]
fn weight_change(bencher: Bencher<'_, '_>, memberships: u32) {
    let memberships = scaled(memberships);
    let bed = Bed::with_lbs(memberships, 10, Members::Shared, LbFlags::PUSH);
    let prepare = |bed: &mut Bed| {
        bed.settle();
        bed.weights(5..6)
    };
    each(bencher, bed, memberships, prepare, Bed::judge);
}

/// A new weight of one of many endpoints, each in one group of 100, until the push is in the buffer, by memberships in
/// the tables. Each change is about another endpoint, so that with large tables no data is in the processor's caches.
#[divan::bench(args = [1_000, 1_000_000], sample_size = 1, sample_count = 2_000)]
fn weight_change_in_tables_of(bencher: Bencher<'_, '_>, memberships: u32) {
    let lbs = scaled(memberships) / 100;
    change_to_push(bencher, lbs.max(1), |number| number.wrapping_mul(2_654_435_761));
}

/// The same, but always of the same endpoint: the cost of large tables without cache misses.
#[divan::bench(args = [1_000, 1_000_000], sample_size = 1, sample_count = 2_000)]
fn weight_change_again_in_tables_of(bencher: Bencher<'_, '_>, memberships: u32) {
    let lbs = scaled(memberships) / 100;
    change_to_push(bencher, lbs.max(1), |_| 42);
}

fn change_to_push(bencher: Bencher<'_, '_>, lbs: u32, pick: impl Fn(u32) -> u32) {
    let bed = Bed::with_lbs(lbs, 100, Members::Distinct, LbFlags::PUSH);
    let mut changes = 0;
    let prepare = |bed: &mut Bed| {
        bed.settle();
        changes += 1;
        bed.weights(std::iter::once(pick(changes) % (lbs * 100)))
    };
    each(bencher, bed, 1, prepare, |bed, weights| {
        bed.judge(weights);
        assert_eq!(bed.tick(), 1);
    });
}

/// A registration of 1,000 members of a new group, and its reply. Items are memberships.
#[divan::bench(args = ["new endpoints", "known endpoints"], sample_size = 1, sample_count = 200)]
fn registration_of_1000(bencher: Bencher<'_, '_>, endpoints: &str) {
    let members = scaled(1_000);
    let mut bed = Bed::with_lbs(2, 1, Members::Shared, LbFlags::NONE);
    let mut request = Vec::new();
    if endpoints == "known endpoints" {
        register(&mut request, &uid(1), b"first", 1..1 + members);
        bed.request(1, &request);
        request.clear();
    }
    register(&mut request, &uid(0), b"second", 1..1 + members);
    let mut undo = Vec::new();
    let mut writer = Writer::deregistration_request(&mut undo, 1, SenderFlags::LOAD_BALANCER, Reason(1));
    writer.group(GroupData { lb_uid: &uid(0), name: b"second" });
    writer.finish().expect("a name fits");
    bed.request(0, &request);
    each(bencher, bed, members, |bed| bed.request(0, &undo), |bed, ()| bed.request(0, &request));
}

/// A tick: 10,000 pushes to LBs with the same 100 members. Items are pushes.
#[divan::bench(args = ["all changed", "1 % changed, no-change/no-send"], sample_size = 1, sample_count = 30)]
fn pushes_to_10000(bencher: Bencher<'_, '_>, what: &str) {
    let lbs = scaled(10_000);
    let (flags, changed) = match what {
        "all changed" => (LbFlags::PUSH, 100),
        _ => (LbFlags::PUSH | LbFlags::NO_CHANGE_NO_SEND, 1),
    };
    let bed = Bed::with_lbs(lbs, 100, Members::Shared, flags);
    let prepare = |bed: &mut Bed| {
        bed.settle();
        let weights = bed.weights(0..changed);
        bed.judge(weights);
    };
    each(bencher, bed, lbs, prepare, |bed, ()| assert_eq!(bed.tick(), lbs as usize));
}

/// One LB after the other asks for its 100 members. Items are requests.
#[divan::bench(sample_size = 1)]
fn get_weights_by_1000(bencher: Bencher<'_, '_>) {
    let lbs = scaled(1_000);
    let bed = Bed::with_lbs(lbs, 100, Members::Shared, LbFlags::NONE);
    let requests = requests(lbs, |lb, out| {
        let mut request = Writer::get_weights_request(out, 1);
        request.name(GroupData { lb_uid: &uid(lb), name: b"web-frontend" });
        request.finish().expect("a name fits");
    });
    each(bencher, bed, lbs, |bed| bed.settle(), |bed, ()| bed.requests(&requests));
}

/// One LB after the other sets the state of one of its 100 members, which no other LB lists. Items are requests.
#[divan::bench(sample_size = 1)]
fn set_member_state_by_1000(bencher: Bencher<'_, '_>) {
    let lbs = scaled(1_000);
    let bed = Bed::with_lbs(lbs, 100, Members::Distinct, LbFlags::PUSH);
    let with = |state: u8| {
        requests(lbs, |lb, out| {
            let mut request = Writer::set_member_state_request(out, 1, SenderFlags::LOAD_BALANCER);
            request.group(GroupData { lb_uid: &uid(lb), name: b"web-frontend" });
            let member = MemberData { endpoint: endpoint(lb * 100 + 50), label: b"" };
            request.entry(&MemberState { member, state, flags: MemberFlags::NONE });
            request.finish().expect("a member fits");
        })
    };
    let states = [with(1), with(2)];
    let mut round = 0;
    let prepare = |bed: &mut Bed| {
        bed.settle();
        round += 1;
        round % 2
    };
    each(bencher, bed, lbs, prepare, |bed, round| bed.requests(black_box(&states[round])));
}

impl Bed {
    /// Request `i` is the LB `i`'s.
    fn requests(&mut self, requests: &[Vec<u8>]) {
        for (lb, request) in requests.iter().enumerate() {
            self.request(lb as u32, request);
        }
    }
}

fn requests(lbs: u32, append: impl Fn(u32, &mut Vec<u8>)) -> Vec<Vec<u8>> {
    (0..lbs)
        .map(|lb| {
            let mut request = Vec::new();
            append(lb, &mut request);
            request
        })
        .collect()
}

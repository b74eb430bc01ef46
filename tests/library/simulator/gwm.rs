//! The GWM of the simulation: the real weight table and coordinator, and one load balancer that gets pushes.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gwm::{
    coordinator::{CloseReason, ConnectionId, Coordinator, Kind, Outbox, Settings},
    monitor::{
        Outcome,
        policy::Tuning,
        table::{Job, Table},
    },
    roster::Roster,
    sasp::{Endpoint, GroupData, Health, LbFlags, MemberData, Message, SenderFlags, WeightEntry, Writer, writer},
    time::Time,
};

const LB: ConnectionId = ConnectionId { shard: 0, slot: 0, generation: 1 };

/// An outbox that always has room and keeps the messages.
#[derive(Default)]
pub(crate) struct Out {
    buffer: Vec<u8>,
    pub(crate) messages: Vec<Vec<u8>>,
}

impl Outbox for Out {
    fn has_room(&self, _: u16) -> bool {
        true
    }

    fn buffer(&mut self, _: u16) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn commit(&mut self, _: ConnectionId, start: usize, body: Option<&Bytes>, _: Kind) {
        let mut message = self.buffer.split_off(start);
        message.extend_from_slice(body.map_or(&[], |body| body));
        self.messages.push(message);
    }

    fn close(&mut self, _: ConnectionId, reason: CloseReason) {
        panic!("the only connection is closed: {reason:?}");
    }
}

/// Settings for one load balancer with one group.
pub(crate) fn settings(roster: Arc<Roster>, tuning: &Tuning, seed: u64) -> Settings {
    Settings {
        hold_time: Duration::from_secs(600),
        poll_interval_seconds: 60,
        push_window: Duration::from_millis(100),
        push_refresh: Duration::from_secs(300),
        max_load_balancers: 1,
        max_groups: 1,
        max_groups_per_lb: 1,
        max_members_per_group: 1000,
        max_memberships_per_lb: 1000,
        max_memberships: 1000,
        weight_max: tuning.weight_max,
        roster,
        access: std::sync::Arc::default(),
        icmp: false,
        panic_percent: 50,
        panic_time: Duration::from_secs(30),
        own_addresses: Default::default(),
        hash_seed: seed,
    }
}

pub(crate) struct Gwm {
    table: Table,
    coordinator: Coordinator,
    out: Out,
    /// The load balancer's weights, by member.
    pub(crate) entries: Vec<WeightEntry>,
    pub(crate) pushes: u32,
}

pub(crate) fn member(number: usize) -> Endpoint {
    let number = u32::try_from(number).expect("a farm is small");
    Endpoint::new(Ipv4Addr::from_bits(0x0A00_0001 + number).into(), 6, 80)
}

pub(crate) fn number(endpoint: &Endpoint) -> usize {
    (0..).find(|&of| member(of) == *endpoint).expect("it was made so")
}

impl Gwm {
    pub(crate) fn new(now: Time, roster: Arc<Roster>, tuning: Tuning, members: usize, seed: u64) -> Gwm {
        let settings = settings(roster.clone(), &tuning, seed);
        let mut gwm = Gwm {
            table: Table::new(
                roster,
                gwm::monitor::table::MonitorSettings { tuning, checks_under_way: 1000, icmp: false },
                seed,
            ),
            coordinator: Coordinator::new(settings, 1),
            out: Out::default(),
            entries: Vec::new(),
            pushes: 0,
        };
        gwm.coordinator.opened(LB, IpAddr::from(Ipv4Addr::LOCALHOST).into());
        let mut state = Vec::new();
        writer::set_lb_state_request(&mut state, 1, b"LB", Health(0x7F), LbFlags::PUSH).expect("it fits");
        let mut registration = Vec::new();
        let mut request = Writer::registration_request(&mut registration, 2, SenderFlags::LOAD_BALANCER);
        request.group(GroupData { lb_uid: b"LB", name: b"FARM" });
        (0..members).for_each(|of| request.entry(&MemberData { endpoint: member(of), label: b"" }));
        request.finish().expect("a small group fits");
        for bytes in [state, registration] {
            let (header, message) = Message::decode(&bytes).expect("our own requests are well-formed");
            gwm.coordinator.request(now, LB, header.id, &message, &mut gwm.out);
            gwm.coordinator.delivered(LB, u32::MAX);
        }
        gwm.out.messages.clear();
        gwm
    }

    /// Does all work that is due, and returns the checks to start.
    pub(crate) fn turn(&mut self, now: Time) -> Vec<Job> {
        while self.coordinator.has_watch_orders() {
            for order in self.coordinator.take_watch_orders() {
                match order.endpoint {
                    Some(endpoint) => self.table.watch(now, order.watch, endpoint, order.earlier),
                    None => self.table.unwatch(order.watch),
                }
            }
        }
        self.table.poll(now);
        let jobs = std::iter::from_fn(|| self.table.start(now)).collect();
        let mut judgements = Vec::new();
        self.table.changes(usize::MAX, |judgement| judgements.push(judgement));
        if !judgements.is_empty() {
            self.coordinator.judge(now, &judgements);
        }
        self.coordinator.poll(now, &mut self.out);
        for bytes in std::mem::take(&mut self.out.messages) {
            let Ok((_, Message::SendWeights(push))) = Message::decode(&bytes) else { panic!("not a push") };
            self.entries =
                push.groups.into_iter().flat_map(|group| group.entries()).map(|member| member.entry).collect();
            self.pushes += 1;
            self.coordinator.delivered(LB, u32::MAX);
        }
        jobs
    }

    pub(crate) fn finish(&mut self, now: Time, job: &Job, outcome: Outcome) {
        self.table.finish(now, job.token, outcome);
    }

    pub(crate) fn next_due(&self) -> Option<Time> {
        [self.table.next_due(), self.coordinator.next_deadline()].into_iter().flatten().min()
    }
}

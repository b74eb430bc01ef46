//! A coordinator with a clock that the test moves. Requests and replies are written as in [`crate::wire::parse`] and
//! [`crate::wire::show`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use gwm::{
    access::{self, Access},
    coordinator::{
        Answer, Ask, CloseReason, ConnectionId, Coordinator, Kind, Order, Refusal, Settings, Time, Totals, World,
    },
    judgement::{Judgement, Policy, StandingChange, Verdict, WatchId},
    network::OwnAddresses,
    roster::{Member, Roster},
    sasp::{EntryFlags, Message},
};

use crate::{
    outbox::Recorder,
    wire::{self, Request},
};

/// The push window of [`settings`], in the clock's nanoseconds.
pub(crate) const WINDOW: u64 = 10;
/// The hold time of [`settings`].
pub(crate) const HOLD: u64 = 1000;
/// The panic time of [`settings`].
pub(crate) const PANIC_TIME: u64 = 500;
/// What [`Rig::after`] gives when no push was sent.
pub(crate) const NOTHING: [&str; 0] = [];

/// High limits, and a long time to the next refresh.
pub(crate) fn settings() -> Settings {
    Settings {
        hold_time: Duration::from_nanos(HOLD),
        poll_interval_seconds: 64,
        push_window: Duration::from_nanos(WINDOW),
        push_refresh: Duration::from_secs(1),
        max_load_balancers: 100,
        max_groups: 1000,
        max_groups_per_lb: 100,
        max_members_per_group: 100,
        max_memberships_per_lb: 1000,
        max_memberships: 1000,
        weight_max: 100,
        roster: fixed(&[]),
        access: std::sync::Arc::default(),
        icmp: false,
        panic_percent: 50,
        panic_time: Duration::from_nanos(PANIC_TIME),
        own_addresses: Default::default(),
        hash_seed: 1,
    }
}

fn judgement(watch: WatchId, verdicts: [Verdict; 4]) -> Judgement {
    let up = EntryFlags::CONTACT | EntryFlags::CONFIDENT;
    Judgement {
        watch,
        verdicts,
        answers: verdicts.iter().any(|verdict| verdict.flags.contains(up)),
        ramp_until: None,
        turn: None,
    }
}

/// A roster with fixed weights for these endpoints (short names); the others are unknown.
pub(crate) fn fixed(weights: &[(&str, u16)]) -> Arc<Roster> {
    let mut roster = Roster::new(Member::unknown(100), Policy::Auto);
    for (name, weight) in weights {
        assert!(roster.add(wire::endpoint(name), Member::fixed(*weight)), "{name} is named twice");
    }
    Arc::new(roster)
}

/// A connection's number, in the order of [`Rig::open`].
pub(crate) type Peer = usize;

pub(crate) struct Rig {
    coordinator: Coordinator,
    now: u64,
    /// Room for pushes, by shard.
    pub(crate) outbox: Recorder,
    peers: Vec<ConnectionId>,
    /// Connections that the coordinator has asked to close.
    closes: Vec<Peer>,
    /// The causes of 0x11.
    refused: Vec<(Refusal, String)>,
    /// Every message is delivered at once.
    pub(crate) reading: bool,
    last_id: u32,
    /// The shards' watches, by short name.
    watches: BTreeMap<String, WatchId>,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Rig {
        Rig {
            coordinator: Coordinator::new(settings, 4),
            now: 0,
            outbox: Recorder::default(),
            peers: Vec::new(),
            closes: Vec::new(),
            refused: Vec::new(),
            reading: true,
            last_id: 0,
            watches: BTreeMap::new(),
        }
    }

    /// Makes it a node of a fleet, before all else.
    pub(crate) fn join_fleet(&mut self, name: &str) {
        self.coordinator.join_fleet(name, 2, 0);
    }

    /// Does what the fleet wants, which fits.
    pub(crate) fn obey(&mut self, order: &Order) {
        assert!(self.coordinator.obey(Time(self.now), order, &mut self.outbox), "{order:?}");
    }

    /// A new connection, on the next shard in turn.
    pub(crate) fn open(&mut self) -> Peer {
        self.open_as(IpAddr::from(Ipv4Addr::LOCALHOST).into())
    }

    /// A new connection of this peer, on the next shard in turn.
    pub(crate) fn open_as(&mut self, who: access::Peer) -> Peer {
        let peer = self.peers.len();
        let number = u32::try_from(peer).expect("a test has few connections");
        let id = ConnectionId { shard: (number % 4) as u16, slot: number / 4, generation: 7 };
        self.coordinator.opened(id, who);
        self.peers.push(id);
        peer
    }

    /// A new connection in the slot of a connection that has ended.
    pub(crate) fn reopen(&mut self, ended: Peer) -> Peer {
        let before = self.peers[ended];
        let id = ConnectionId { generation: before.generation + 1, ..before };
        self.coordinator.opened(id, IpAddr::from(Ipv4Addr::LOCALHOST).into());
        self.peers.push(id);
        self.peers.len() - 1
    }

    /// A request whose connection has ended: it must have no effect.
    pub(crate) fn late(&mut self, peer: Peer, request: &str) {
        let bytes = wire::parse(request).bytes(1);
        let (_, message) = Message::decode(&bytes).expect("a test's requests are well-formed");
        self.coordinator.request(Time(self.now), self.peers[peer], 1, &message, &mut self.outbox);
        assert_eq!(self.outbox.take(), (Vec::new(), Vec::new()));
    }

    pub(crate) fn closed(&mut self, peer: Peer) {
        self.coordinator.closed(Time(self.now), self.peers[peer], &mut self.outbox);
    }

    /// A new connection of the LB, after Set LB State with these flags.
    pub(crate) fn lb(&mut self, uid: &str, flags: &str) -> Peer {
        let peer = self.open();
        self.ok(peer, format!("state {uid} 7F {flags}").trim());
        peer
    }

    /// The reply's bytes to one request.
    pub(crate) fn reply(&mut self, peer: Peer, request: &Request) -> Vec<u8> {
        self.last_id = self.last_id.wrapping_add(0x0123_4567);
        let bytes = request.bytes(self.last_id);
        let (header, message) = Message::decode(&bytes).expect("a test's requests are well-formed");
        let id = self.peers[peer];
        self.coordinator.request(Time(self.now), id, header.id, &message, &mut self.outbox);
        let (mut sent, closes) = self.outbox.take();
        for (id, reason) in closes {
            assert_eq!(reason, CloseReason::TakenOver);
            self.closes.push(self.peer(id));
        }
        assert_eq!(sent.len(), 1, "one reply");
        let reply = sent.remove(0);
        let refused = std::mem::take(&mut self.outbox.refused);
        assert_eq!(refused.len(), usize::from(reply.bytes[17] == 0x11), "every 0x11 has a cause, and only that");
        self.refused.extend(refused);
        assert_eq!((reply.connection, reply.kind), (id, Kind::Reply));
        assert_eq!(reply.bytes[9..13], self.last_id.to_be_bytes(), "the request's id");
        assert_eq!(reply.bytes[13..15], request.reply_type().to_be_bytes(), "the reply's type");
        if self.reading {
            self.delivered(peer);
        }
        reply.bytes
    }

    /// The reply to one request, in short.
    pub(crate) fn ask(&mut self, peer: Peer, request: &str) -> String {
        wire::show(&self.reply(peer, &wire::parse(request)))
    }

    /// One request that must succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, peer: Peer, request: &str) {
        assert_eq!(self.ask(peer, request), "00", "{request}");
    }

    pub(crate) fn delivered(&mut self, peer: Peer) {
        self.delivered_some(peer, u32::MAX);
    }

    pub(crate) fn delivered_some(&mut self, peer: Peer, messages: u32) {
        self.coordinator.delivered(self.peers[peer], messages);
    }

    pub(crate) fn set_fixed(&mut self, weights: &[(&str, u16)]) {
        self.set_roster(fixed(weights));
    }

    pub(crate) fn set_roster(&mut self, roster: Arc<Roster>) {
        self.coordinator.set_roster(Time(self.now), roster);
    }

    /// Lets the shards take their watch orders; returns the orders, sorted.
    pub(crate) fn take_orders(&mut self) -> Vec<String> {
        let mut orders = Vec::new();
        while self.coordinator.has_watch_orders() {
            for order in self.coordinator.take_watch_orders().collect::<Vec<_>>() {
                orders.push(match order.endpoint {
                    Some(endpoint) => {
                        let name = wire::endpoint_name(&endpoint);
                        assert!(self.watches.insert(name.clone(), order.watch).is_none(), "{name} is watched twice");
                        format!("watch {name}")
                    }
                    None => {
                        let name = self.watches.iter().find(|(_, watch)| **watch == order.watch);
                        let name = name.expect("it is watched").0.clone();
                        self.watches.remove(&name);
                        format!("unwatch {name}")
                    }
                });
            }
        }
        orders.sort();
        orders
    }

    /// The watch of an endpoint.
    pub(crate) fn watch(&self, name: &str) -> WatchId {
        self.watches[name]
    }

    /// A shard's verdicts on endpoints, the same by every policy. Only members that are up answer.
    pub(crate) fn judge(&mut self, verdicts: &[(&str, Verdict)]) {
        let judgements: Vec<Judgement> =
            verdicts.iter().map(|(name, verdict)| judgement(self.watches[*name], [*verdict; 4])).collect();
        self.coordinator.judge(Time(self.now), &judgements);
    }

    /// A shard's verdict on an endpoint that answers, also if it is not up.
    pub(crate) fn judge_answering(&mut self, name: &str, verdict: Verdict) {
        let judgement = Judgement { answers: true, ..judgement(self.watches[name], [verdict; 4]) };
        self.coordinator.judge(Time(self.now), &[judgement]);
    }

    /// A shard's verdict on an endpoint whose standing changes so.
    pub(crate) fn judge_turned(&mut self, name: &str, verdict: Verdict, turn: StandingChange) {
        let judgement = Judgement { turn: Some(turn.into()), ..judgement(self.watches[name], [verdict; 4]) };
        self.coordinator.judge(Time(self.now), &[judgement]);
    }

    pub(crate) fn judge_by_policy(&mut self, name: &str, verdicts: [Verdict; 4]) {
        self.coordinator.judge(Time(self.now), &[judgement(self.watches[name], verdicts)]);
    }

    pub(crate) fn judge_watch(&mut self, watch: WatchId, verdict: Verdict) {
        self.coordinator.judge(Time(self.now), &[judgement(watch, [verdict; 4])]);
    }

    pub(crate) fn set_own_addresses(&mut self, own_addresses: OwnAddresses) {
        self.coordinator.set_own_addresses(Time(self.now), Arc::new(own_addresses));
    }

    /// Whether the GWM is blind: to this machine's own addresses, to others.
    pub(crate) fn blind(&self) -> (bool, bool) {
        (self.coordinator.is_blind(World::Own), self.coordinator.is_blind(World::Foreign))
    }

    /// How many groups are in doubt.
    pub(crate) fn doubted(&self) -> usize {
        self.coordinator.totals().doubted
    }

    /// The doubts that began or ended since the last call.
    pub(crate) fn doubts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.outbox.doubts)
    }

    /// How many endpoints are watched.
    pub(crate) fn watched(&self) -> usize {
        self.coordinator.totals().watched
    }

    /// Whether a push window may be open: there is a deadline before the next refresh.
    pub(crate) fn window_is_open(&self) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= WINDOW)
    }

    /// Lets the time pass and polls once; returns the pushes, each with the number of its connection.
    pub(crate) fn after(&mut self, time: u64) -> Vec<String> {
        self.now += time;
        self.coordinator.poll(Time(self.now), &mut self.outbox);
        let (sent, closes) = self.outbox.take();
        assert_eq!(closes, []);
        let mut pushes = Vec::new();
        for push in sent {
            assert_eq!(push.kind, Kind::Push);
            assert_eq!(push.bytes[9..13], [0; 4], "a push has id 0");
            let peer = self.peer(push.connection);
            pushes.push(format!("#{peer} {}", wire::show(&push.bytes)));
            if self.reading {
                self.delivered(peer);
            }
        }
        pushes.sort();
        pushes
    }

    /// The connections that the coordinator asked to close since the last call.
    pub(crate) fn closes(&mut self) -> Vec<Peer> {
        std::mem::take(&mut self.closes)
    }

    /// The time until the coordinator's next deadline.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.coordinator.next_deadline().map(|time| time.0 - self.now)
    }

    /// Puts new rules in force; returns the connections that this closes.
    pub(crate) fn set_access(&mut self, access: Access) -> Vec<Peer> {
        self.coordinator.set_access(Time(self.now), Arc::new(access), &mut self.outbox);
        let (sent, closes) = self.outbox.take();
        assert_eq!(sent, []);
        let closes = closes.into_iter().map(|(id, reason)| {
            assert_eq!(reason, CloseReason::NotPermitted);
            self.peer(id)
        });
        closes.collect()
    }

    /// The clock.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Keeps history and events from now on.
    pub(crate) fn keep_history(&mut self) {
        self.coordinator.keep_history();
    }

    /// A question or an order of the admin side.
    pub(crate) fn admin(&mut self, ask: Ask) -> Answer {
        let answer = self.coordinator.answer(Time(self.now), ask, &mut self.outbox);
        let (sent, closes) = self.outbox.take();
        assert_eq!(sent, []);
        for (id, reason) in closes {
            assert_eq!(reason, CloseReason::Operator);
            self.closes.push(self.peer(id));
        }
        answer
    }

    /// The causes of 0x11 since the last call, with their details.
    pub(crate) fn refused(&mut self) -> Vec<(Refusal, String)> {
        std::mem::take(&mut self.refused)
    }

    /// Numbers of load balancers, groups, memberships and endpoints.
    pub(crate) fn totals(&self) -> [usize; 4] {
        let Totals { load_balancers, groups, memberships, endpoints, .. } = self.coordinator.totals();
        [load_balancers, groups, memberships, endpoints]
    }

    /// How many different contents groups with members have.
    pub(crate) fn listings(&self) -> usize {
        self.coordinator.totals().listings
    }

    /// Health and flags of an LB that is known.
    pub(crate) fn lb_state(&self, uid: &str) -> Option<(u8, u8)> {
        self.coordinator.lb_state(uid.as_bytes()).map(|(health, flags)| (health.0, flags.0))
    }

    /// How many deregistrations were done, by reason.
    pub(crate) fn deregistrations(&self) -> Vec<(u8, u64)> {
        self.coordinator.deregistrations().iter().map(|(reason, requests)| (reason.0, *requests)).collect()
    }

    fn peer(&self, id: ConnectionId) -> Peer {
        self.peers.iter().position(|&peer| peer == id).expect("only connections that were opened")
    }
}

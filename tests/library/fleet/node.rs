//! One GWM: a coordinator, its replica, the queues between them, its state on disk, its checks, and its connection to the
//! store (`link.rs`).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use gwm::{
    coordinator::{
        Answer, Ask, Change, CloseReason, ConnectionId, Coordinator, Cursor, Filter, Kind, LbRow, MemberRow, Order,
        Outbox, Page, Settings,
    },
    fleet::{self, Moment, Replica},
    journal::{self, Date, Entry, Epoch, FleetDate, Known, Sessions},
    judgement::{Judgement, Policy, Share, Verdict, Verdicts, WatchId},
    roster::{Member, Monitor, Roster, Times},
    sasp::{Endpoint, EntryFlags, Message},
    time::Time,
};

use super::{disk::Disk, etcd::Etcd, link::Link};
use crate::coordinator_rules::rig;

/// How long a lease lasts, in milliseconds.
pub(super) const LEASE: u64 = 1000;

/// The date of the simulation's begin.
const BEGIN: u64 = 1_800_000_000_000;

/// Milliseconds between two checks of an endpoint.
const INTERVAL: u64 = 100;

/// Orders that wait for the coordinator, at most.
const ORDERS: usize = 3;

/// What the coordinator sends to the replica.
enum Told {
    Entry(Entry, Time),
    Done(u64, bool),
    Judged(Endpoint, Option<Verdicts>),
    Blind(bool),
}

/// Takes what the coordinator gives.
#[derive(Default)]
struct Out {
    buffer: Vec<u8>,
    /// Reply codes.
    replies: Vec<u8>,
    closes: Vec<ConnectionId>,
    /// For the replica, and for the disk.
    entries: Vec<Entry>,
    kept: Vec<Entry>,
    /// How many changes the node has made by itself.
    given: u64,
    sessions: Sessions,
    /// What changes now was ordered by the replica.
    obeying: bool,
    hold_time: Duration,
}

impl Outbox for Out {
    fn has_room(&self, _: u16) -> bool {
        true
    }

    fn buffer(&mut self, _: u16) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn commit(&mut self, _: ConnectionId, start: usize, _: Option<&Bytes>, kind: Kind) {
        if kind == Kind::Reply {
            self.replies.push(self.buffer[start + 17]);
        }
        self.buffer.clear();
    }

    fn close(&mut self, connection: ConnectionId, _: CloseReason) {
        self.closes.push(connection);
    }

    fn changed(&mut self, now: Time, change: &Change<'_>) {
        let entry = Entry::new(now, change, self.hold_time);
        if self.obeying {
            self.sessions.ordered(change);
            self.kept.push(entry);
        } else {
            self.given += 1;
            self.kept.push(self.sessions.own(now, self.given, change, self.hold_time));
            self.entries.push(entry);
        }
    }
}

/// A reply that waits.
struct Waiting {
    changes: u64,
    connection: ConnectionId,
    code: u8,
}

/// A reply that a client gets.
pub(super) struct Replied {
    pub(super) connection: ConnectionId,
    pub(super) code: u8,
    /// The store has what it promises.
    pub(super) is_safe: bool,
}

struct Check {
    watch: WatchId,
    at: u64,
    failed: u32,
    told: Option<bool>,
}

/// What a node lives from.
struct Life {
    coordinator: Coordinator,
    replica: Replica,
    begin: u64,
    out: Out,
    to_fleet: VecDeque<Told>,
    to_coordinator: VecDeque<(u64, Order)>,
    checks: BTreeMap<Endpoint, Check>,
    waiting: VecDeque<Waiting>,
    was_blind: bool,
    link: Link,
    connections: u32,
    /// Changes up to this one may have been acknowledged without the store, since the store is back.
    ahead_until: Option<u64>,
    /// What was known of the store when the coordinator had all of it last.
    known: Option<Known>,
    /// What the replica knows of the fleet's date.
    date: FleetDate,
}

pub(super) struct Node {
    pub(super) name: &'static str,
    life: Option<Life>,
    incarnation: u64,
    /// How much its clock is ahead, in milliseconds.
    pub(super) skew: i64,
    hold_time: u64,
    value_bytes: usize,
    disk: Option<Disk>,
    pub(super) up_cut: bool,
    pub(super) down_cut: bool,
    pub(super) members_cut: bool,
    pub(super) replies: Vec<Replied>,
    pub(super) closed: Vec<ConnectionId>,
    pub(super) conflicts: usize,
}

fn settings(hold_time: u64) -> Settings {
    let times = Times {
        interval: Duration::from_millis(INTERVAL),
        fast_interval: Duration::from_millis(INTERVAL),
        timeout: Duration::from_millis(INTERVAL),
        rise: 1,
        fall: 3,
    };
    let roster = Roster::new(Member::watched(100, Monitor::auto(), times), Policy::Auto);
    Settings {
        hold_time: Duration::from_millis(hold_time),
        roster: Arc::new(roster),
        push_window: Duration::from_millis(10),
        push_refresh: Duration::from_secs(60),
        panic_time: Duration::from_millis(500),
        ..rig::settings()
    }
}

fn verdicts(up: bool) -> Verdicts {
    let flags = if up { EntryFlags::CONTACT | EntryFlags::CONFIDENT } else { EntryFlags::CONFIDENT };
    [Verdict { flags, share: Share::Weight(if up { 50 } else { 0 }) }; 4]
}

impl Node {
    pub(super) fn new(name: &'static str, skew: i64, hold_time: u64, value_bytes: usize, has_disk: bool) -> Node {
        Node {
            name,
            life: None,
            incarnation: 0,
            skew,
            hold_time,
            value_bytes,
            disk: has_disk.then(Disk::default),
            up_cut: false,
            down_cut: false,
            members_cut: false,
            replies: Vec::new(),
            closed: Vec::new(),
            conflicts: 0,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    pub(super) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Since when the state on disk has changes that the store has not, if it has.
    pub(super) fn ahead(&self) -> Option<u64> {
        self.disk.as_ref()?.ahead
    }

    /// The state on disk does not know yet what the store has.
    pub(super) fn is_new(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| !disk.is_known || disk.known.store == 0)
    }

    fn date(&self, now: u64) -> Date {
        Date((BEGIN + now).saturating_add_signed(self.skew))
    }

    pub(super) fn start(&mut self, now: u64) {
        self.incarnation += 1;
        let mut coordinator = Coordinator::new(settings(self.hold_time), 1);
        let mut replica = Replica::new(fleet::Settings {
            node: self.name.into(),
            incarnation: self.incarnation,
            address: "".into(),
            version: "".into(),
            hold_time: Duration::from_millis(self.hold_time),
            value_bytes: self.value_bytes,
        });
        let epoch = Epoch::new(Time::default(), self.date(now));
        let at = Moment { now: Time::default(), epoch };
        coordinator.join_fleet(self.name, 2, epoch.date(Time::default()).0);
        if let Some(disk) = &mut self.disk {
            if disk.is_new() {
                disk.ahead = Some(now);
            }
            let is_ahead = disk.ahead.is_some();
            if let Some(store) = disk.read() {
                assert_eq!(store.is_ahead(), is_ahead);
                journal::restore(store, &mut coordinator, at.now, epoch).expect("it was written by an entry");
                replica.restored(store.ahead().expect("it was written by an entry"), store.known());
                let restored = store.each_row(epoch, |row| {
                    replica.restore(&row, at);
                    Ok(())
                });
                restored.expect("it was read before");
                store.begin(&[], Epoch::default(), false).expect("memory is a disk");
            }
        }
        let out = Out { hold_time: Duration::from_millis(self.hold_time), ..Out::default() };
        self.life = Some(Life {
            coordinator,
            replica,
            begin: now,
            out,
            to_fleet: VecDeque::new(),
            to_coordinator: VecDeque::new(),
            checks: BTreeMap::new(),
            waiting: VecDeque::new(),
            was_blind: false,
            link: Link::default(),
            connections: 0,
            ahead_until: None,
            known: None,
            date: FleetDate::default(),
        });
    }

    /// The process is killed.
    pub(super) fn kill(&mut self) {
        self.life = None;
    }

    /// A new connection of a client.
    pub(super) fn open(&mut self) -> Option<ConnectionId> {
        let life = self.life.as_mut()?;
        life.connections += 1;
        let connection = ConnectionId { shard: 0, slot: life.connections, generation: self.incarnation as u32 };
        life.coordinator.opened(connection, std::net::IpAddr::from([127, 0, 0, 1]).into());
        Some(connection)
    }

    /// A client has closed its connection.
    pub(super) fn close(&mut self, now: u64, connection: ConnectionId) {
        let Some(life) = self.life.as_mut().filter(|_| connection.generation == self.incarnation as u32) else {
            return;
        };
        let time = life.time(now);
        life.coordinator.closed(time, connection, &mut life.out);
        life.waiting.retain(|waiting| waiting.connection != connection);
        self.collect(now);
    }

    /// A client's request; the reply comes later.
    pub(super) fn request(&mut self, now: u64, connection: ConnectionId, bytes: &[u8]) {
        let Some(life) = self.life.as_mut() else { return };
        let (_, message) = Message::decode(bytes).expect("a test's requests are well-formed");
        let time = life.time(now);
        life.coordinator.request(time, connection, 1, &message, &mut life.out);
        life.coordinator.delivered(connection, 1);
        // The rest of the turn of the daemon's coordinator: nothing is asked of it before.
        life.coordinator.poll(time, &mut life.out);
        self.collect(now);
        let life = self.life.as_mut().expect("it is alive");
        let changes = life.out.given;
        let codes = life.out.replies.drain(..);
        life.waiting.extend(codes.map(|code| Waiting { changes, connection, code }));
    }

    /// Gives the coordinator's changes to the disk and to the replica.
    fn collect(&mut self, now: u64) {
        let date = self.date(now);
        let Some(life) = self.life.as_mut() else { return };
        let mut kept = std::mem::take(&mut life.out.kept);
        if let Some(disk) = self.disk.as_mut().filter(|_| !kept.is_empty()) {
            let known = life.known.unwrap_or(disk.known);
            if known != disk.known {
                disk.known = known;
                kept.push(Entry::Fleet { ahead: disk.ahead.is_some(), known, kept: life.replica.kept() });
            }
            if life.date != disk.date {
                disk.date = life.date;
                kept.push(Entry::Date(life.date));
            }
            disk.write(&kept, Epoch::new(life.time(now), date), date);
        }
        let time = life.time(now);
        life.to_fleet.extend(life.out.entries.drain(..).map(|entry| Told::Entry(entry, time)));
        for connection in life.out.closes.drain(..) {
            let time = Time(now.saturating_sub(life.begin) * 1_000_000);
            let mut nothing = Out::default();
            life.coordinator.closed(time, connection, &mut nothing);
            assert!(nothing.entries.is_empty(), "a closed connection speaks for nobody");
            life.waiting.retain(|waiting| waiting.connection != connection);
            self.closed.push(connection);
        }
    }

    /// One step of all threads of the node.
    pub(super) fn step(&mut self, now: u64, rng: &mut Rng) {
        if self.life.is_none() {
            return;
        }
        self.step_coordinator(now, rng);
        let at = self.moment(now);
        let Some(life) = &mut self.life else { return };
        if rng.u8(..4) > 0 {
            life.step_fleet(now, at, rng);
        }
        self.conflicts += life.replica.take_conflicts().len();
        let (kept, is_connected) = (life.replica.kept(), life.link.has_lease());
        if let Some(disk) = &mut self.disk {
            let was_ahead = disk.ahead;
            disk.ahead = life.is_ahead(was_ahead.is_some()).then(|| was_ahead.unwrap_or(now));
            if was_ahead.is_some() != disk.ahead.is_some() {
                disk.known = life.known.unwrap_or(disk.known);
                disk.is_known |= disk.ahead.is_none();
                let (ahead, known, kept) = (disk.ahead.is_some(), disk.known, life.replica.kept());
                disk.write(&[Entry::Fleet { ahead, known, kept }], at.epoch, at.epoch.date(at.now));
            }
        }
        // Replies.
        while let Some(waiting) =
            life.waiting.pop_front_if(|waiting| !is_connected || waiting.changes <= kept && life.to_fleet.is_empty())
        {
            let Waiting { connection, code, .. } = waiting;
            self.replies.push(Replied { connection, code, is_safe: is_connected });
        }
    }

    /// The store's side of the connection, and the way to it.
    pub(super) fn step_link(&mut self, now: u64, etcd: &mut Etcd, rng: &mut Rng) {
        if let Some(life) = &mut self.life {
            life.link.serve(self.name, now, [self.up_cut, self.down_cut], etcd, rng);
        }
    }

    fn moment(&self, now: u64) -> Moment {
        let time = self.life.as_ref().map_or(Time::default(), |life| life.time(now));
        Moment { now: time, epoch: Epoch::new(time, self.date(now)) }
    }

    fn step_coordinator(&mut self, now: u64, rng: &mut Rng) {
        let members_cut = self.members_cut;
        let Some(time) = self.life.as_ref().map(|life| life.time(now)) else { return };
        while rng.bool()
            && let Some(life) = &mut self.life
            && let Some((number, order)) = life.to_coordinator.pop_front()
        {
            life.out.obeying = true;
            let fits = life.coordinator.obey(time, &order, &mut life.out);
            life.out.obeying = false;
            assert!(fits || life.out.kept.is_empty(), "an order that does not fit did something: {order:?}");
            self.collect(now);
            let life = self.life.as_mut().expect("it is alive");
            life.to_fleet.push_back(Told::Done(number, fits));
        }
        let life = self.life.as_mut().expect("it is alive");
        life.check(now, members_cut);
        life.coordinator.poll(time, &mut life.out);
        self.collect(now);
        let life = self.life.as_mut().expect("it is alive");
        let Life { coordinator, to_fleet, was_blind, .. } = life;
        coordinator.take_own_verdicts(100, |endpoint, verdicts| to_fleet.push_back(Told::Judged(endpoint, verdicts)));
        if std::mem::replace(was_blind, coordinator.was_blind()) != *was_blind {
            to_fleet.push_back(Told::Blind(*was_blind));
        }
    }

    pub(super) fn lbs(&mut self, now: u64) -> Vec<LbRow> {
        let Some(life) = self.life.as_mut() else { return Vec::new() };
        let page = Page { after: Cursor::default(), limit: 1000 };
        let time = life.time(now);
        match life.coordinator.answer(time, Ask::LoadBalancers(Filter::default(), page), &mut life.out) {
            Answer::LoadBalancers(rows) => rows.rows,
            _ => Vec::new(),
        }
    }

    /// The members of a load balancer, group by group.
    pub(super) fn members(&mut self, now: u64, lb_uid: &str) -> Vec<MemberRow> {
        let Some(life) = self.life.as_mut() else { return Vec::new() };
        let page = Page { after: Cursor::default(), limit: 1000 };
        let time = life.time(now);
        let filter = Filter { lb_uid: Some(lb_uid.as_bytes().into()), ..Filter::default() };
        match life.coordinator.answer(time, Ask::Members(filter, page), &mut life.out) {
            Answer::Members(rows) => rows.rows,
            _ => Vec::new(),
        }
    }

    /// What the operator does.
    pub(super) fn act(&mut self, now: u64, act: gwm::coordinator::Act) {
        let Some(life) = self.life.as_mut() else { return };
        let time = life.time(now);
        life.coordinator.answer(time, Ask::Act(act), &mut life.out);
        self.collect(now);
    }

    /// The operator's words in force: number, and what the word says.
    pub(super) fn words(&mut self, now: u64) -> Vec<String> {
        let Some(life) = self.life.as_mut() else { return Vec::new() };
        let time = life.time(now);
        match life.coordinator.answer(time, Ask::Words, &mut life.out) {
            Answer::Words(words) => words.iter().map(|word| format!("{} {word}", word.number)).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn share(&self) -> usize {
        self.life.as_ref().map_or(0, |life| life.coordinator.share())
    }

    /// Whether there is nothing to do, as one of so many nodes.
    pub(super) fn is_quiet(&self, nodes: usize) -> bool {
        let Some(Life { replica, .. }) = &self.life else { return false };
        let all_kept = !replica.is_ahead() && replica.is_settled() && replica.kept() == replica.given();
        all_kept && self.status().is_some_and(|status| status.connected && status.nodes.len() == nodes)
    }

    pub(super) fn status(&self) -> Option<fleet::Status> {
        Some(self.life.as_ref()?.replica.status())
    }
}

impl Life {
    fn time(&self, now: u64) -> Time {
        Time((now - self.begin) * 1_000_000)
    }

    /// The checks of a shard: all members answer, if the network lets them.
    fn check(&mut self, now: u64, cut: bool) {
        while self.coordinator.has_watch_orders() {
            for order in self.coordinator.take_watch_orders().collect::<Vec<_>>() {
                match order.endpoint {
                    Some(endpoint) => {
                        let check = Check { watch: order.watch, at: now + INTERVAL, failed: 0, told: None };
                        self.checks.insert(endpoint, check);
                    }
                    None => self.checks.retain(|_, check| check.watch != order.watch),
                }
            }
        }
        let mut judgements = Vec::new();
        for check in self.checks.values_mut().filter(|check| check.at <= now) {
            check.at = now + INTERVAL;
            check.failed = if cut { check.failed + 1 } else { 0 };
            let up = !cut;
            if check.told != Some(up) && (up || check.failed >= 3) {
                check.told = Some(up);
                let watch = check.watch;
                judgements.push(Judgement { watch, verdicts: verdicts(up), answers: up, ramp_until: None, turn: None });
            }
        }
        self.coordinator.judge(self.time(now), &judgements);
    }

    /// The thread beside the store.
    fn step_fleet(&mut self, now: u64, at: Moment, rng: &mut Rng) {
        while rng.u8(..8) > 0
            && let Some(told) = self.to_fleet.pop_front()
        {
            match told {
                Told::Entry(entry, now) => self.replica.local(&entry, Moment { now, ..at }),
                Told::Done(number, fits) => self.replica.done(number, fits),
                Told::Judged(endpoint, verdicts) => self.replica.judged(endpoint, verdicts),
                Told::Blind(blind) => self.replica.set_blind(blind),
            }
        }
        self.link.attend(&mut self.replica, now, at, rng);
        while self.to_coordinator.len() < ORDERS
            && let Some(order) = self.replica.next_order(at)
        {
            self.to_coordinator.push_back(order);
        }
        self.link.write(&mut self.replica, now, at, rng);
        self.known = self.replica.known().or(self.known);
        self.date = self.replica.fleet_date(at);
    }

    /// Whether the state on disk has what the store has not; `was`: whether it had.
    fn is_ahead(&mut self, was: bool) -> bool {
        let away = !self.link.has_lease();
        // What waits for the replica may have been acknowledged without the store, too.
        let until = *self.ahead_until.get_or_insert(self.out.given);
        if away {
            self.ahead_until = None;
        }
        away || was && (self.replica.kept() < until || self.replica.is_reconciling())
    }
}

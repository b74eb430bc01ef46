//! The coordinator against a model that is slow and obviously right. The same random events go to both, and every
//! reply, push, close, total and deadline must be the same. Then the coordinator's changes are replayed on an empty
//! coordinator: the tables of both must be the same.
//!
//! `GWM_MODEL_STEPS` sets the number of all steps; `GWM_MODEL_SEED` replays one seed (a failure prints its seed).

mod checks;
mod generator;
mod model;
mod monitored;
pub(crate) mod replay;
mod rights;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use fastrand::Rng;
use generator::{Universe, chance};
use gwm::{
    coordinator::{CloseReason, ConnectionId, Coordinator, Kind, Settings, Time, World},
    judgement::{Judgement, WatchId},
    sasp::{Endpoint, Message},
};
use model::Model;
use rights::Rules;

use crate::{
    outbox::{Recorder, Sent},
    wire,
};

const SHARDS: u16 = 4;
const CONNECTIONS: usize = 9;
const STEPS_PER_SEED: u64 = 4_000;
const STEPS: u64 = 160_000;
const EVENTS_SHOWN: usize = 40;

/// How often each return code was given, by reply type, and the rarer events.
#[derive(Default)]
struct Seen {
    codes: BTreeMap<(u16, u8), u64>,
    events: BTreeMap<&'static str, u64>,
}

#[test]
fn the_coordinator_does_what_the_model_does() {
    let steps = number("GWM_MODEL_STEPS");
    let mut seen = Seen::default();
    if let Some(seed) = number("GWM_MODEL_SEED") {
        Run::new(seed).steps(steps.unwrap_or(STEPS_PER_SEED), &mut seen).replay();
        return;
    }
    let seeds = steps.unwrap_or(STEPS).div_ceil(STEPS_PER_SEED);
    for seed in 0..seeds {
        Run::new(seed).steps(STEPS_PER_SEED, &mut seen).replay();
    }
    println!("{:X?} {:?}", seen.codes, seen.events);
    if steps.is_none() {
        seen.everything();
    }
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

impl Seen {
    /// Fails if the random events no longer reach some rule.
    fn everything(&self) {
        let table = [
            (0x1015, &[0x00, 0x11, 0x40, 0x44, 0x45, 0x50, 0x51, 0x61][..]),
            (0x1025, &[0x00, 0x10, 0x11, 0x41, 0x42, 0x43, 0x44, 0x46, 0x51, 0x61]),
            (0x1035, &[0x00, 0x11, 0x42, 0x43, 0x46, 0x51]),
            (0x1055, &[0x00, 0x11, 0x51]),
            (0x1065, &[0x00, 0x11, 0x41, 0x42, 0x43, 0x44, 0x46, 0x50, 0x51, 0x61]),
        ];
        for (reply, codes) in table {
            for code in codes {
                assert!(self.codes.contains_key(&(reply, *code)), "reply 0x{reply:04X} never had code 0x{code:02X}");
            }
        }
        for event in [
            "large group",
            "shared listing",
            "body",
            "takeover",
            "held state taken up",
            "hold time over",
            "push",
            "push of changes",
            "farewell pushed",
            "empty group pushed",
            "window without a push",
            "push waits for delivery",
            "push waits for room",
            "blind",
            "blind no more",
            "recovered",
            "doubt",
            "doubt over",
            "members are back",
            "judged",
            "judged too late",
            "watch begins",
            "watch ends",
            "no LB any more",
            "short Interval",
            "verdict too late for a short Interval",
        ] {
            assert!(self.events.get(event).is_some_and(|&times| times >= 20), "hardly ever: {event}");
        }
    }
}

/// One seed's coordinator and model, side by side.
struct Run {
    seed: u64,
    step: u64,
    rng: Rng,
    universe: Universe,
    now: u64,
    real: Coordinator,
    model: Model,
    outbox: Recorder,
    /// The last generation of each slot, by shard.
    slots: BTreeMap<(u16, u32), u32>,
    /// The shards' watches.
    watches: Vec<Watch>,
    /// Watches that have ended.
    ended: Vec<WatchId>,
    last_id: u32,
    log: VecDeque<String>,
}

/// A watch that a shard was told of.
struct Watch {
    id: WatchId,
    shard: u16,
    endpoint: Endpoint,
    /// The number of the model's watch of this endpoint.
    life: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last events, times in nanoseconds:");
            self.log.iter().for_each(|line| eprintln!("  {line}"));
            eprintln!("GWM_MODEL_SEED={} GWM_MODEL_STEPS={} replays this", self.seed, self.step);
        }
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut rng = Rng::with_seed(seed);
        let wide = seed % 4 == 3;
        let universe = if wide { Universe::wide() } else { Universe::narrow() };
        let settings = Settings {
            hold_time: Duration::from_nanos([40, 300][rng.usize(..2)]),
            poll_interval_seconds: rng.u16(..),
            push_window: Duration::from_nanos([0, 1, 10, 10, 10][rng.usize(..5)]),
            push_refresh: Duration::from_nanos([3, 70, 200, 1_000_000][rng.usize(..4)]),
            max_load_balancers: [3, 100][rng.usize(..2)],
            max_groups: [5, 100][rng.usize(..2)],
            max_groups_per_lb: [2, 3, 100][rng.usize(..3)],
            max_members_per_group: if wide { 50 } else { [2, 4, 100][rng.usize(..3)] },
            max_memberships_per_lb: if wide { 200 } else { [5, 8, 100][rng.usize(..3)] },
            max_memberships: if wide { 300 } else { [8, 12, 100][rng.usize(..3)] },
            weight_max: rng.u16(1..),
            roster: generator::roster(&mut rng, &universe),
            access: std::sync::Arc::default(),
            icmp: rng.bool(),
            panic_percent: [0, 30, 50, 50, 100][rng.usize(..5)],
            panic_time: Duration::from_nanos([0, 20, 20, 100][rng.usize(..4)]),
            own_addresses: generator::own_addresses(&mut rng),
            hash_seed: rng.u64(..),
        };
        let mut run = Run {
            seed,
            step: 0,
            rng,
            universe,
            now: 0,
            real: Coordinator::new(settings.clone(), SHARDS),
            model: Model::new(settings.clone()),
            outbox: Recorder::default(),
            slots: BTreeMap::new(),
            watches: Vec::new(),
            ended: Vec::new(),
            last_id: 0,
            log: VecDeque::new(),
        };
        run.log(format!("{settings:?}"));
        run
    }

    fn steps(mut self, steps: u64, seen: &mut Seen) -> Run {
        for _ in 0..steps {
            self.step += 1;
            match self.rng.u8(0..100) {
                0..4 => self.open(),
                4..7 => self.close(),
                7 if self.rng.bool() => self.set_rules(),
                7 if self.rng.bool() => self.set_own_addresses(),
                7 => self.set_roster(),
                8..12 => self.take_watch_orders(seen),
                12..24 => self.judge(seen),
                24..34 => self.deliver(),
                34..56 => self.advance_and_poll(),
                _ => self.request(seen),
            }
            assert_eq!(self.real.totals(), self.model.totals());
            let large = self.model.lbs.values().flat_map(|lb| &lb.groups).any(|group| group.members.len() > 20);
            *seen.events.entry("large group").or_default() += u64::from(large);
            let with_members =
                self.model.lbs.values().flat_map(|lb| &lb.groups).filter(|group| !group.members.is_empty());
            let shared = with_members.count() > self.model.totals().listings;
            *seen.events.entry("shared listing").or_default() += u64::from(shared);
            let bodies = std::mem::take(&mut self.outbox.bodies).len();
            *seen.events.entry("body").or_default() += bodies as u64;
        }
        for (event, times) in &self.model.seen {
            *seen.events.entry(event).or_default() += times;
        }
        self
    }

    /// The recorded changes, applied to an empty coordinator, make the same tables.
    fn replay(mut self) {
        let real = std::mem::replace(&mut self.real, Coordinator::new(self.model.settings.clone(), SHARDS));
        let uids: Vec<_> = self.model.lbs.keys().cloned().collect();
        let rng = self.rng.fork();
        replay::check(real, Time(self.now), self.model.settings.clone(), &self.outbox.changes, &uids, rng);
    }

    fn open(&mut self) {
        if self.model.connections.len() == CONNECTIONS {
            return;
        }
        let shard = self.rng.u16(..SHARDS);
        let open = |slot| self.model.connections.iter().any(|c| (c.id.shard, c.id.slot) == (shard, slot));
        let slot = (0..).find(|&slot| !open(slot)).expect("there are few connections");
        let generation = self.slots.entry((shard, slot)).and_modify(|generation| *generation += 1).or_insert(0);
        let id = ConnectionId { shard, slot, generation: *generation };
        let source = rights::source(&mut self.rng);
        self.log(format!("{} opened from {source}", name(id)));
        self.real.opened(id, rights::address(source).into());
        self.model.opened(id, source);
    }

    fn close(&mut self) {
        let replaced = self.model.connections.iter().find(|connection| connection.replaced).map(|c| c.id);
        let Some(id) = replaced.filter(|_| chance(&mut self.rng, 70)).or_else(|| self.any_connection()) else { return };
        self.log(format!("{} closed", name(id)));
        self.real.closed(Time(self.now), id, &mut self.outbox);
        self.model.closed(self.now, id);
    }

    fn set_rules(&mut self) {
        let rules = if self.rng.bool() { Rules::default() } else { Rules::random(&mut self.rng) };
        self.log(format!("{rules:?}"));
        self.real.set_access(Time(self.now), rules.access(), &mut self.outbox);
        let (sent, closes) = self.outbox.take();
        assert_eq!(sent, []);
        let mut closes: Vec<_> = closes.into_iter().map(|(id, reason)| (id.shard, id.slot, reason)).collect();
        let expected = self.model.set_rules(self.now, rules);
        let mut expected: Vec<_> =
            expected.into_iter().map(|id| (id.shard, id.slot, CloseReason::NotPermitted)).collect();
        closes.sort_by_key(|&(shard, slot, _)| (shard, slot));
        expected.sort_by_key(|&(shard, slot, _)| (shard, slot));
        assert_eq!(closes, expected);
    }

    fn set_roster(&mut self) {
        let roster = generator::roster(&mut self.rng, &self.universe);
        self.log(format!("{roster:?}"));
        self.real.set_roster(Time(self.now), roster.clone());
        self.model.set_roster(self.now, roster);
    }

    fn set_own_addresses(&mut self) {
        let own_addresses = generator::own_addresses(&mut self.rng);
        self.log(format!("{own_addresses:?}"));
        self.real.set_own_addresses(Time(self.now), own_addresses.clone());
        self.model.set_own_addresses(self.now, own_addresses);
    }

    /// Once all orders are taken, the shards watch what the model watches, each endpoint once.
    fn take_watch_orders(&mut self, seen: &mut Seen) {
        while self.real.has_watch_orders() {
            for order in self.real.take_watch_orders().collect::<Vec<_>>() {
                self.log(format!("{order:?}"));
                let known = self.watches.iter().position(|watch| watch.id == order.watch);
                match order.endpoint {
                    Some(endpoint) => {
                        assert!(known.is_none() && !self.ended.contains(&order.watch), "a name is used again");
                        assert!(order.shard < SHARDS);
                        let life = self.model.watched.get(&endpoint).expect("the model watches it").life;
                        self.watches.push(Watch { id: order.watch, shard: order.shard, endpoint, life });
                        *seen.events.entry("watch begins").or_default() += 1;
                    }
                    None => {
                        let watch = self.watches.remove(known.expect("it is watched"));
                        assert_eq!(watch.shard, order.shard);
                        self.ended.push(watch.id);
                        *seen.events.entry("watch ends").or_default() += 1;
                    }
                }
            }
        }
        let mut watched: Vec<_> = self.watches.iter().map(|watch| (watch.endpoint, watch.life)).collect();
        watched.sort_unstable();
        let expected: Vec<_> = self.model.watched.iter().map(|(endpoint, watched)| (*endpoint, watched.life)).collect();
        assert_eq!(watched, expected);
    }

    fn judge(&mut self, seen: &mut Seen) {
        let mut judgements = Vec::new();
        let mut expected = Vec::new();
        // Sometimes nearly all watches at once.
        let part = [20, 20, 20, 90][self.rng.usize(..4)];
        let bad = [5, 20, 80][self.rng.usize(..3)];
        for watch in &self.watches {
            if !chance(&mut self.rng, part) {
                continue;
            }
            let verdicts = generator::verdicts(&mut self.rng, bad, self.model.settings.weight_max);
            let answers = generator::answers(&mut self.rng, &verdicts);
            judgements.push(Judgement { watch: watch.id, verdicts, answers, ramp_until: None, turn: None });
            let current = self.model.watched.get(&watch.endpoint).is_some_and(|watched| watched.life == watch.life);
            if current {
                expected.push((watch.endpoint, (verdicts, answers)));
            }
            *seen.events.entry(if current { "judged" } else { "judged too late" }).or_default() += 1;
        }
        if let Some(&watch) = self.ended.last() {
            let verdicts = generator::verdicts(&mut self.rng, bad, self.model.settings.weight_max);
            judgements.push(Judgement { watch, verdicts, answers: true, ramp_until: None, turn: None });
        }
        self.log(format!("{judgements:?}"));
        self.real.judge(Time(self.now), &judgements);
        self.model.judge(self.now, &expected);
        assert_eq!(World::ALL.map(|world| self.real.is_blind(world)), self.model.blind());
    }

    fn deliver(&mut self) {
        let waiting: Vec<_> = self.model.connections.iter().filter(|c| c.in_flight).map(|c| c.id).collect();
        for id in waiting {
            if chance(&mut self.rng, 60) {
                self.log(format!("{} delivered", name(id)));
                self.real.delivered(id, u32::MAX);
                self.model.delivered(id);
            }
        }
    }

    fn advance_and_poll(&mut self) {
        let due = self.model.next_due().unwrap_or(self.now + 1).max(self.now);
        self.now = match self.rng.u8(0..100) {
            0..40 => self.now + self.rng.u64(0..4),
            40..75 => self.now + self.rng.u64(0..15),
            75..85 => due,
            85..95 => due.saturating_sub(1).max(self.now),
            _ => self.now + self.rng.u64(0..150),
        };
        let room: Vec<bool> = (0..SHARDS).map(|_| chance(&mut self.rng, 85)).collect();
        self.outbox.room = (0..SHARDS).filter(|&shard| !room[usize::from(shard)]).map(|shard| (shard, 0)).collect();
        self.log(format!("poll, room {room:?}"));
        self.real.poll(Time(self.now), &mut self.outbox);
        let (pushes, closes) = self.outbox.take();
        let mut expected = self.model.poll(self.now, |id| room[usize::from(id.shard)]);
        assert_eq!(closes, [], "a poll closes nothing");
        assert!(pushes.iter().all(|sent| sent.kind == Kind::Push), "{pushes:?}");
        let mut pushes: Vec<_> = pushes.into_iter().map(|sent| (sent.connection, sent.bytes)).collect();
        let key = |push: &(ConnectionId, Vec<u8>)| (push.0.shard, push.0.slot);
        pushes.sort_by_key(key);
        expected.sort_by_key(key);
        for (id, bytes) in &pushes {
            self.log(format!("  push to {}: {}", name(*id), wire::show(bytes)));
        }
        if pushes != expected {
            let shown = |list: &[(ConnectionId, Vec<u8>)]| {
                list.iter().map(|(id, bytes)| format!("\n  {}: {}", name(*id), wire::show(bytes))).collect::<String>()
            };
            panic!("pushed:{}\nexpected:{}", shown(&pushes), shown(&expected));
        }
        self.check_deadline();
    }

    /// The coordinator's deadline may be early, but not late, and not in the past after a poll.
    fn check_deadline(&self) {
        let deadline = self.real.next_deadline().map(|time| time.0);
        if let Some(due) = self.model.next_due() {
            assert!(deadline.is_some_and(|deadline| deadline <= due), "deadline {deadline:?}, due {due}");
        }
        assert!(deadline.is_none_or(|deadline| deadline > self.now), "deadline {deadline:?} right after the poll");
    }

    fn request(&mut self, seen: &mut Seen) {
        let Some(id) = self.any_connection() else { return };
        // Usually the shard has written the last reply before it reads the next request.
        if chance(&mut self.rng, 80) && self.model.connection(id).in_flight {
            self.real.delivered(id, u32::MAX);
            self.model.delivered(id);
        }
        let request = generator::request(&mut self.rng, &self.universe, &self.model, id);
        self.last_id = self.last_id.wrapping_add(0x0100_0193);
        self.log(format!("{} {request}", name(id)));
        let bytes = request.bytes(self.last_id);
        let (header, message) = Message::decode(&bytes).expect("the generator's requests are well-formed");
        self.real.request(Time(self.now), id, header.id, &message, &mut self.outbox);
        let (replies, closes) = self.outbox.take();
        let refused = std::mem::take(&mut self.outbox.refused);
        let (reply, expected_closes) = self.model.request(self.now, id, self.last_id, &request);
        if let [Sent { bytes, .. }] = &replies[..] {
            self.log(format!("  {}", wire::show(bytes)));
            assert_eq!(wire::show(bytes), wire::show(&reply), "reply");
        }
        assert_eq!(replies, [Sent { connection: id, kind: Kind::Reply, bytes: reply.clone() }]);
        assert_eq!(refused.len(), usize::from(reply[17] == 0x11), "{refused:?} for code {:02X}", reply[17]);
        let expected_closes: Vec<_> = expected_closes.into_iter().map(|id| (id, CloseReason::TakenOver)).collect();
        assert_eq!(closes, expected_closes);
        *seen.codes.entry((request.reply_type(), reply[17])).or_default() += 1;
    }

    fn any_connection(&mut self) -> Option<ConnectionId> {
        let connections = &self.model.connections;
        (!connections.is_empty()).then(|| connections[self.rng.usize(..connections.len())].id)
    }

    fn log(&mut self, line: String) {
        if self.log.len() > EVENTS_SHOWN {
            self.log.remove(1); // the first line has the settings
        }
        self.log.push_back(format!("{:6} t={} {line}", self.step, self.now));
    }
}

fn name(id: ConnectionId) -> String {
    format!("#{}.{}.{}", id.shard, id.slot, id.generation)
}

//! The coordinator's thread: it feeds the state machine with what the shards report, and carries its messages back.
//!
//! A turn takes acknowledgements, then requests from all shards in turn, then lets the coordinator do what is due,
//! and sends. Requests and pushes have a [`TURN`] each, even if there is more.
//!
//! It has no socket, so it needs no reactor: it is an ordinary thread, pinned to its core, that sleeps on a futex. An
//! executor in its place took several times as long to fall asleep and to wake (PERF.md).

mod refusals;

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;

use super::{
    machine::{
        clock::Clock,
        executor::{HEARTBEAT, TURN},
    },
    mesh::{Batch, Bell, Down, Order, Receiver, Sender, Slot, Up},
};
use crate::{
    access::Access,
    coordinator::{
        CloseReason, ConnectionId, Coordinator, Kind, Outbox, REFUSALS, Refused, Settings, Time, Totals, WatchOrder,
    },
    roster::Roster,
    sasp::{Message, Reason},
};
use refusals::Refusals;

/// Entries between looks at the clock.
const ENTRIES_PER_LOOK: usize = 16;

/// Bytes of requests and their replies after which the clock is looked at earlier.
const BYTES_PER_LOOK: usize = 64 << 10;

/// Endpoints whose watch orders are given in one turn.
const ENDPOINTS_PER_TURN: usize = 512;

/// The shortest sleep: what is due while no shard has room stays due, and must not keep the core busy.
const SLEEP_MIN: Duration = Duration::from_micros(200);

/// What the main thread tells the coordinator.
pub(super) struct Control {
    /// What the operator says from now on.
    pub(super) roster: ArrayQueue<Arc<Roster>>,
    /// Who may speak for whom from now on.
    pub(super) access: ArrayQueue<Arc<Access>>,
    /// Set once: the task ends.
    pub(super) stop: AtomicBool,
    /// The coordinator's bell.
    pub(super) bell: Arc<Bell>,
}

/// What is left to tell when the coordinator stops.
pub(super) struct Summary {
    /// What it held.
    pub(super) totals: Totals,
    /// Requests that were not accepted from their sender, by cause.
    pub(super) refused: [u64; REFUSALS],
    /// Deregistrations, by the reason that they gave.
    pub(super) deregistrations: BTreeMap<Reason, u64>,
}

type UpBatch = Batch<(Slot, Up)>;

/// One shard's pipes, seen from the coordinator.
pub(super) struct Port {
    up: Receiver<(Slot, Up)>,
    down: Sender<Down>,
    /// A batch that is not finished, and how many of its entries are.
    inbox: Option<(UpBatch, usize)>,
    /// Batches that are: given back after the replies to them are sent, so that one wake serves both.
    finished: Vec<UpBatch>,
    /// Closes that found no room.
    closes: VecDeque<(Slot, CloseReason)>,
    /// Watch orders that found no room, those of a few endpoints at most.
    orders: VecDeque<WatchOrder>,
}

impl Port {
    pub(super) fn new(up: Receiver<(Slot, Up)>, down: Sender<Down>) -> Port {
        Port { up, down, inbox: None, finished: Vec::new(), closes: VecDeque::new(), orders: VecDeque::new() }
    }

    fn has_work(&self) -> bool {
        let room = self.down.has_room();
        self.down.has_returned()
            || self.down.is_due()
            || (room
                && (!self.closes.is_empty() || !self.orders.is_empty() || self.inbox.is_some() || self.up.has_batch()))
    }

    fn send_orders(&mut self) {
        while self.down.has_room() {
            let Some(order) = self.orders.pop_front() else { break };
            let slot = Slot { index: 0, generation: 0 }; // it concerns no connection
            self.down.push(Down { slot, order: Order::Watch(Box::new(order)), unfinished: false });
        }
    }

    fn flush(&mut self) {
        while self.down.has_room() {
            let Some((slot, reason)) = self.closes.pop_front() else { break };
            self.down.push(Down { slot, order: Order::Close(reason), unfinished: false });
        }
        self.send_orders();
        self.down.flush();
        for batch in self.finished.drain(..) {
            self.up.give_back(batch);
        }
    }
}

/// Where the coordinator's messages go.
struct Ports {
    list: Vec<Port>,
    /// When pushes have to stop in this turn, which is also when there is no room for more.
    pushes_until: Instant,
    /// Whether they had to.
    cut_short: Cell<bool>,
    /// Bytes of all messages so far.
    committed: usize,
    clock: Clock,
    refusals: Refusals,
}

impl Ports {
    fn new(list: Vec<Port>, clock: Clock) -> Ports {
        let refusals = Refusals::default();
        Ports { list, pushes_until: Instant::now(), cut_short: Cell::new(false), committed: 0, clock, refusals }
    }

    fn port(&mut self, shard: u16) -> &mut Port {
        self.list.get_mut(usize::from(shard)).expect("the coordinator names shards that it was told of")
    }
}

impl Outbox for Ports {
    fn has_room(&self, shard: u16) -> bool {
        let room = self.list.get(usize::from(shard)).is_some_and(|port| port.down.has_room());
        if room && Instant::now() >= self.pushes_until {
            self.cut_short.set(true);
            return false;
        }
        room
    }

    fn buffer(&mut self, shard: u16) -> &mut Vec<u8> {
        self.port(shard).down.bytes()
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, kind: Kind) {
        let slot = slot(connection);
        let port = self.port(connection.shard);
        let range = start..port.down.bytes().len();
        let length = range.len();
        port.down.push(Down { slot, order: Order::Write(kind, range), unfinished: false });
        self.committed += length;
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.port(connection.shard).closes.push_back((slot(connection), reason));
    }

    fn refused(&mut self, refused: &Refused<'_>) {
        self.refusals.note(self.clock.now(), refused);
    }
}

fn slot(connection: ConnectionId) -> Slot {
    Slot { index: connection.slot, generation: connection.generation }
}

fn connection(shard: usize, slot: Slot) -> ConnectionId {
    let shard = u16::try_from(shard).expect("there are at most 256 shards");
    ConnectionId { shard, slot: slot.index, generation: slot.generation }
}

/// The coordinator and what it needs to run.
struct Core {
    coordinator: Coordinator,
    ports: Ports,
    control: Arc<Control>,
    clock: Clock,
    /// The coordinator failed open when it was last looked at.
    open: bool,
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs the coordinator until it is told to stop, and polls for `spin` before each sleep; what is left to tell.
pub(super) fn run(
    settings: Settings,
    ports: Vec<Port>,
    control: Arc<Control>,
    clock: Clock,
    spin: Duration,
    ready: impl FnOnce(),
) -> Summary {
    let shards = u16::try_from(ports.len()).expect("there are at most 256 shards");
    let (coordinator, ports) = (Coordinator::new(settings, shards), Ports::new(ports, clock));
    let mut core = Core { coordinator, ports, control, clock, open: false };
    ready();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    while !core.control.stop.load(Ordering::Acquire) {
        if !core.turn() {
            core.wait(&waker, spin);
        }
    }
    Summary {
        totals: core.coordinator.totals(),
        refused: core.ports.refusals.counts(),
        deregistrations: core.coordinator.deregistrations().clone(),
    }
}

impl Core {
    /// One turn; whether it was cut short.
    fn turn(&mut self) -> bool {
        let start = Instant::now();
        self.take_acknowledgements();
        if let Some(roster) = self.control.roster.pop() {
            self.coordinator.set_roster(self.clock.now(), roster);
        }
        if let Some(access) = self.control.access.pop() {
            self.ports.refusals.forget();
            self.coordinator.set_access(self.clock.now(), access, &mut self.ports);
        }
        let mut more = false;
        for shard in 0..self.ports.list.len() {
            // A time slice for each, so that one shard's flood is not another's silence.
            let slice = TURN * (shard as u32 + 1) / self.ports.list.len() as u32;
            more |= self.take_requests(shard, || start.elapsed() >= slice);
        }
        self.ports.pushes_until = Instant::now() + TURN;
        self.coordinator.poll(self.clock.now(), &mut self.ports);
        more |= self.give_watch_orders();
        self.tell_of_failing_open();
        self.ports.refusals.report_suppressed(self.clock.now());
        self.ports.list.iter_mut().for_each(Port::flush);
        more | self.ports.cut_short.take()
    }

    /// Gives some watch orders to the shards, as far as these have room; whether there are more to give at once.
    fn give_watch_orders(&mut self) -> bool {
        for _ in 0..ENDPOINTS_PER_TURN {
            if self.ports.list.iter().any(|port| !port.orders.is_empty()) {
                return false; // the rest waits in the coordinator, where what cancels out is never given
            }
            if !self.coordinator.has_watch_orders() {
                return false;
            }
            for order in self.coordinator.take_watch_orders() {
                let port = self.ports.port(order.shard);
                port.orders.push_back(order);
                port.send_orders();
            }
        }
        self.coordinator.has_watch_orders()
    }

    /// Logs when failing open begins and ends.
    fn tell_of_failing_open(&mut self) {
        let open = self.coordinator.fails_open();
        if std::mem::replace(&mut self.open, open) == open {
            return;
        }
        let Totals { watched, lost, .. } = self.coordinator.totals();
        if open {
            tracing::warn!(
                watched,
                lost,
                "fails open: more than --panic-percent of the members lost contact at once, which is taken for a fault \
                 of this machine or its network: their contact is kept, and nothing is confident"
            );
        } else {
            tracing::warn!(watched, lost, "fails open no more: what is watched is believed again");
        }
    }

    fn take_acknowledgements(&mut self) {
        for (shard, port) in self.ports.list.iter_mut().enumerate() {
            while let Some(batch) = port.down.reclaim() {
                for down in &batch.entries {
                    if matches!(down.order, Order::Write(..)) && !down.unfinished {
                        self.coordinator.delivered(connection(shard, down.slot), 1);
                    }
                }
                port.down.recycle(batch);
            }
        }
    }

    /// Takes what a shard has sent until time is up, or there is no room for a reply; whether there is more to
    /// take at once.
    fn take_requests(&mut self, shard: usize, time_is_up: impl Fn() -> bool) -> bool {
        loop {
            let port = self.ports.list.get_mut(shard).expect("the shard exists");
            let received = port.inbox.take().or_else(|| port.up.receive().map(|batch| (batch, 0)));
            let Some((batch, mut done)) = received else { return false };
            let mut room = true;
            while room && done < batch.entries.len() {
                let now = self.clock.now();
                let (mut requests, committed) = (0, self.ports.committed);
                for (slot, up) in batch.entries.iter().skip(done).take(ENTRIES_PER_LOOK) {
                    room = self.take(now, shard, *slot, up, &batch.bytes);
                    if !room {
                        break;
                    }
                    done += 1;
                    if let Up::Request(range) = up {
                        requests += range.len();
                    }
                    if requests + self.ports.committed - committed >= BYTES_PER_LOOK {
                        break;
                    }
                }
                if time_is_up() {
                    break;
                }
            }
            let port = self.ports.list.get_mut(shard).expect("the shard exists");
            if done < batch.entries.len() {
                port.inbox = Some((batch, done));
                return room;
            }
            port.finished.push(batch);
            if time_is_up() {
                return port.up.has_batch();
            }
        }
    }

    /// Takes one entry; false, and nothing done, if there is no room for its reply.
    fn take(&mut self, now: Time, shard: usize, slot: Slot, up: &Up, bytes: &[u8]) -> bool {
        let id = connection(shard, slot);
        let port = self.ports.list.get_mut(shard).expect("the shard exists");
        match up {
            Up::Opened(peer) => self.coordinator.opened(id, peer.clone()),
            Up::Request(range) => {
                if !port.down.has_room() {
                    return false;
                }
                let frame = bytes.get(range.clone()).expect("the shard sent this range");
                let (header, message) = Message::decode_trusted(frame).expect("the shard has checked the frame");
                self.coordinator.request(now, id, header.id, &message, &mut self.ports);
            }
            Up::Judged(judgements) => self.coordinator.judge(now, judgements),
            Up::Delivered(messages) => self.coordinator.delivered(id, *messages),
            Up::Closed => self.coordinator.closed(now, id, &mut self.ports),
        }
        true
    }

    /// Waits for work, or until the coordinator has something to do by itself; perhaps not as long.
    fn wait(&self, waker: &Waker, spin: Duration) {
        let work = || {
            let told = !self.control.roster.is_empty() || !self.control.access.is_empty();
            self.ports.list.iter().any(Port::has_work) || told || self.control.stop.load(Ordering::Acquire)
        };
        let start = Instant::now();
        while start.elapsed() < spin {
            if work() {
                return;
            }
            std::hint::spin_loop();
        }
        let now = self.clock.now();
        let longest = now + HEARTBEAT;
        let until = self.coordinator.next_deadline().map_or(longest, |deadline| deadline.min(longest));
        let until = until.max(now + SLEEP_MIN);
        if self.control.bell.poll(&mut Context::from_waker(waker), work).is_pending() {
            thread::park_timeout(Duration::from_nanos(until.0 - now.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judgement::{Judgement, Policy, Share, Verdict},
        roster::Member,
        sasp::{Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, SenderFlags, Writer, writer},
    };

    const SLOT: Slot = Slot { index: 3, generation: 7 };

    /// A core with one shard, and the shard's ends of the pipes, each with this many batches.
    fn core(batches: usize) -> (Core, Sender<(Slot, Up)>, Receiver<Down>) {
        let bell = Arc::new(Bell::default());
        let (up, inbox) = crate::runtime::mesh::pipe(batches, bell.clone(), bell.clone());
        let (outbox, down) = crate::runtime::mesh::pipe(batches, bell.clone(), bell.clone());
        let settings = Settings {
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
            hash_seed: 1,
        };
        let (roster, access) = (ArrayQueue::new(1), ArrayQueue::new(1));
        let control = Arc::new(Control { roster, access, stop: AtomicBool::new(false), bell });
        let coordinator = Coordinator::new(settings, 1);
        let clock = Clock::new();
        let ports = Ports::new(vec![Port::new(inbox, outbox)], clock);
        (Core { coordinator, ports, control, clock, open: false }, up, down)
    }

    fn request(up: &mut Sender<(Slot, Up)>, id: u32) {
        let start = up.bytes().len();
        writer::set_lb_state_request(up.bytes(), id, b"LB1", Health::BEST, LbFlags::NONE).expect("a short UID");
        let range = start..up.bytes().len();
        up.push((SLOT, Up::Request(range)));
    }

    fn reply_ids(batch: &Batch<Down>) -> Vec<u32> {
        let id = |down: &Down| match &down.order {
            Order::Write(Kind::Reply, range) => Message::decode(&batch.bytes[range.clone()]).expect("a message").0.id,
            other => panic!("{other:?}"),
        };
        batch.entries.iter().map(id).collect()
    }

    #[test]
    fn a_request_waits_until_there_is_room_for_its_reply() {
        let (mut core, mut up, mut down) = core(1);
        up.push((SLOT, Up::Opened(std::net::IpAddr::from([127, 0, 0, 1]).into())));
        request(&mut up, 1);
        up.flush();
        assert!(core.ports.list[0].has_work());
        assert!(!core.turn());
        let first = down.receive().expect("the reply");
        assert_eq!(reply_ids(&first), [1]);

        // The only batch is with the shard: nothing can be answered, and there is no point in trying.
        let back = up.reclaim().expect("all of it was taken");
        up.recycle(back);
        request(&mut up, 2);
        request(&mut up, 3);
        up.flush();
        assert!(!core.turn() && !core.ports.list[0].has_work());
        assert!(!up.has_returned(), "the requests are not taken");

        down.give_back(first);
        assert!(core.ports.list[0].has_work());
        core.turn();
        assert_eq!(reply_ids(&down.receive().expect("the replies")), [2, 3]);
        assert!(up.has_returned());
    }

    #[test]
    fn a_close_is_never_lost() {
        let (mut core, _up, mut down) = core(1);
        let start = core.ports.buffer(0).len();
        core.ports.commit(connection(0, SLOT), start, Kind::Push);
        core.turn();
        core.ports.close(connection(0, SLOT), CloseReason::TakenOver);
        core.turn();
        let batch = down.receive().expect("the push");
        assert!(matches!(batch.entries[..], [Down { order: Order::Write(..), .. }]));
        down.give_back(batch);
        core.turn();
        let batch = down.receive().expect("the close");
        assert!(matches!(batch.entries[..], [Down { slot: SLOT, order: Order::Close(_), .. }]));
    }

    #[test]
    fn watch_orders_wait_for_room_and_judgements_come_back() {
        let (mut core, mut up, mut down) = core(1);
        let times = crate::roster::Times::default();
        let watched = Member::watched(100, crate::roster::Monitor::auto(), times);
        core.coordinator.set_roster(core.clock.now(), Arc::new(Roster::new(watched, Policy::Auto)));
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
        core.ports.commit(connection(0, SLOT), 0, Kind::Push);
        core.ports.list[0].down.flush();
        let taken = down.receive().expect("the push");
        assert!(!core.turn());
        down.give_back(taken);
        core.turn();
        let batch = down.receive().expect("the reply and the order");
        let watch = match &batch.entries[..] {
            [Down { order: Order::Write(Kind::Reply, _), .. }, Down { order: Order::Watch(order), .. }] => {
                assert_eq!(order.endpoint, Some(endpoint));
                order.watch
            }
            other => panic!("{other:?}"),
        };
        let back = up.reclaim().expect("all of it was taken");
        up.recycle(back);
        let verdict = Verdict { flags: EntryFlags::CONFIDENT, share: Share::Weight(0) };
        let judgement = Judgement { watch, verdicts: [verdict; 4] };
        up.push((Slot { index: 0, generation: 0 }, Up::Judged([judgement].into())));
        up.flush();
        core.turn();
        assert_eq!(core.coordinator.totals().lost, 1);
    }
}

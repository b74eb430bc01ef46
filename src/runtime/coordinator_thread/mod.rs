//! The coordinator's thread: it feeds the state machine with the shards' requests and reports, and carries its messages
//! to the shards.
//!
//! A turn takes acknowledgements, then requests from all shards in turn, then lets the coordinator push, and sends.
//! Requests and pushes have a [`TIME_SLICE`] each, even if there is more.
//!
//! The coordinator has no socket, so it needs no reactor: it is an ordinary thread, pinned to its CPU, that sleeps on a
//! futex. An executor in its place took several times as long to fall asleep and to wake (PERF.md).

mod doubt_log;
mod dropped;
mod hold;
mod keeping;
mod metrics;
#[cfg(feature = "fleet")]
mod obeying;
mod ports;
mod refusals;
#[cfg(test)]
pub(super) mod tests;
mod turn_log;

use std::{
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
        executor::{HEARTBEAT, TIME_SLICE},
    },
    mesh::{Bell, Order, Slot, Up},
};
use crate::{
    access::Access,
    coordinator::{ActRefused, Answer, Ask, CloseReason, Coordinator, Outbox},
    judgement::Judgement,
    limits,
    network::OwnAddresses,
    roster::Roster,
    sasp::Message,
    time::Time,
};
use hold::{Hold, Phase};
use keeping::WaitingAnswers;
use ports::{Ports, connection};

pub(super) use keeping::Keeping;
pub(super) use metrics::CoordinatorMetrics;
pub(super) use ports::Port;

/// Entries between looks at the clock.
const ENTRIES_PER_LOOK: usize = 16;

/// Bytes of requests and their replies after which the clock is looked at earlier.
const BYTES_PER_LOOK: usize = 64 << 10;

/// Endpoints whose watch orders are given in one turn.
const ENDPOINTS_PER_TURN: usize = 512;

/// The shortest sleep: a push that is due while no shard has room stays due, and must not keep the CPU busy.
const DEADLINE_SLEEP_MIN: Duration = Duration::from_micros(200);

/// How often new verdicts are kept, and of how many endpoints at most: enough for a restart, and little beside the checks.
const JUDGED_INTERVAL: Duration = Duration::from_secs(1);
const JUDGED: usize = 8192;

/// How often the fleet gets what this node's own checks found, and on how many endpoints at most.
#[cfg(feature = "fleet")]
const OWN_INTERVAL: Duration = Duration::from_millis(100);
#[cfg(feature = "fleet")]
const OWN: usize = 8192;

/// How often the coordinator's numbers are copied to where other threads read them.
const PUBLISH_INTERVAL: Duration = HEARTBEAT;

/// What the main thread tells the coordinator.
pub(super) struct CoordinatorControl {
    /// A new roster to put in force.
    pub(super) roster: ArrayQueue<Arc<Roster>>,
    /// New access rules to put in force.
    pub(super) access: ArrayQueue<Arc<Access>>,
    /// Questions and orders of the admin side.
    pub(super) calls: ArrayQueue<AdminCall>,
    /// This machine's addresses, if they have changed.
    pub(super) own_addresses: ArrayQueue<Arc<OwnAddresses>>,
    /// Whether it may change anything.
    pub(super) hold: Hold,
    /// Set once: the thread ends.
    pub(super) stop: AtomicBool,
    /// The coordinator's bell.
    pub(super) bell: Arc<Bell>,
}

/// A question or an order of the admin side, and who gets the answer.
pub(super) struct AdminCall {
    pub(super) ask: Ask,
    pub(super) answer: Box<dyn FnOnce(Answer) + Send>,
}

/// After a call of the admin side, the next one waits for so many times as long: the admin side takes a bounded part of
/// the coordinator's time, however much it asks.
const CALL_PAUSE: u32 = 24;

/// The longest such wait: the admin side always gets answers, whatever one call took.
const CALL_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long the admin side waits after a call that took so long.
fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(CALL_PAUSE).min(CALL_PAUSE_MAX)
}

impl CoordinatorControl {
    pub(super) fn new() -> CoordinatorControl {
        let (roster, access, own_addresses) = (ArrayQueue::new(1), ArrayQueue::new(1), ArrayQueue::new(1));
        let calls = ArrayQueue::new(limits::ADMIN_CALLS);
        let (hold, stop, bell) = Default::default();
        CoordinatorControl { roster, access, calls, own_addresses, hold, stop, bell }
    }
}

/// The coordinator and what it needs to run.
struct CoordinatorThread {
    coordinator: Coordinator,
    ports: Ports,
    control: Arc<CoordinatorControl>,
    clock: Clock,
    metrics: Arc<CoordinatorMetrics>,
    /// When the metrics are published next.
    publish_at: Time,
    /// When the next call of the admin side is answered.
    call_at: Time,
    /// When new verdicts are kept next.
    judged_at: Time,
    /// When what this node's own checks found is given to the fleet next.
    #[cfg(feature = "fleet")]
    own_at: Time,
    /// Answers that wait for the disk and etcd.
    answers: WaitingAnswers,
    /// It stands still.
    holds: bool,
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs the coordinator until the main thread stops it; `coordinator` makes it, if it is not made yet. `spin` is how long
/// it polls before each sleep, `history` whether somebody may ask what happened.
pub(super) fn run(
    (coordinator, keeping): (impl FnOnce() -> Coordinator, Option<Keeping>),
    ports: Vec<Port>,
    control: Arc<CoordinatorControl>,
    metrics: Arc<CoordinatorMetrics>,
    clock: Clock,
    (spin, history): (Duration, bool),
    ready: impl FnOnce(),
) {
    let mut coordinator = coordinator();
    if history {
        coordinator.keep_history();
    }
    if keeping.as_ref().is_some_and(Keeping::has_disk) {
        coordinator.keep_judgements();
    }
    let mut thread = CoordinatorThread::new(coordinator, ports, control, metrics, clock);
    thread.ports.keeping = keeping;
    #[cfg(feature = "fleet")]
    thread.obey_first();
    ready();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    while !thread.control.stop.load(Ordering::Acquire) {
        match thread.control.hold.phase() {
            Phase::Runs => {
                thread.holds = false;
                if !thread.turn() {
                    thread.wait(&waker, spin);
                }
            }
            phase => thread.hold(phase),
        }
    }
    if thread.control.hold.phase() != Phase::Over {
        // What is not due yet, too.
        thread.judged_at = Time::default();
        #[cfg(feature = "fleet")]
        {
            thread.own_at = Time::default();
        }
        thread.keep();
    }
    thread.metrics.publish(&thread.coordinator);
}

impl CoordinatorThread {
    fn new(
        coordinator: Coordinator,
        ports: Vec<Port>,
        control: Arc<CoordinatorControl>,
        metrics: Arc<CoordinatorMetrics>,
        clock: Clock,
    ) -> CoordinatorThread {
        let ports = Ports::new(ports, clock, metrics.clone());
        CoordinatorThread {
            coordinator,
            ports,
            control,
            clock,
            metrics,
            publish_at: Time::default(),
            call_at: Time::default(),
            judged_at: Time::default(),
            #[cfg(feature = "fleet")]
            own_at: Time::default(),
            answers: WaitingAnswers::default(),
            holds: false,
        }
    }

    /// One turn; whether it was cut short.
    fn turn(&mut self) -> bool {
        let start = Instant::now();
        self.take_acknowledgements();
        self.ports.send_waiting();
        if let Some(keeping) = &self.ports.keeping {
            self.answers.give(self.clock.now(), keeping.kept());
        }
        if let Some(roster) = self.control.roster.pop() {
            self.coordinator.set_roster(self.clock.now(), roster);
        }
        if let Some(own_addresses) = self.control.own_addresses.pop() {
            self.coordinator.set_own_addresses(self.clock.now(), own_addresses);
        }
        if let Some(access) = self.control.access.pop() {
            self.ports.refusals.forget();
            self.coordinator.set_access(self.clock.now(), access, &mut self.ports);
        }
        self.answer_one();
        #[cfg(feature = "fleet")]
        let mut more = self.obey(start);
        #[cfg(not(feature = "fleet"))]
        let mut more = false;
        for shard in 0..self.ports.list.len() {
            // Each shard has its part of the time, so that one shard's flood does not silence others.
            let slice = TIME_SLICE * (shard as u32 + 1) / self.ports.list.len() as u32;
            more |= self.take_requests(shard, || start.elapsed() >= slice);
        }
        self.ports.pushes_until = Instant::now() + TIME_SLICE;
        self.coordinator.poll(self.clock.now(), &mut self.ports);
        more |= self.give_watch_orders();
        let now = self.clock.now();
        self.ports.doubt_log.look(&self.coordinator);
        self.ports.doubt_log.log_suppressed(now);
        self.ports.turn_log.log_suppressed(now);
        self.ports.refusals.log_suppressed(now);
        self.keep();
        self.ports.list.iter_mut().for_each(Port::flush);
        self.metrics.turn.add(start.elapsed());
        self.metrics.turns.add(1);
        self.publish();
        more | self.ports.cut_short.take()
    }

    /// Gives what has changed to the journal, and new verdicts from time to time.
    fn keep(&mut self) {
        let Some(keeping) = &mut self.ports.keeping else { return };
        keeping.rewrite(&self.coordinator);
        let now = self.clock.now();
        if now >= self.judged_at && !keeping.is_full() && keeping.has_disk() {
            self.judged_at = now + JUDGED_INTERVAL;
            self.coordinator.take_judged(JUDGED, |endpoint, last| keeping.note_judged(endpoint, last));
        }
        #[cfg(feature = "fleet")]
        if keeping.fleet().is_some() && now >= self.own_at {
            self.own_at = now + OWN_INTERVAL;
            self.coordinator.take_own_verdicts(OWN, |endpoint, verdicts| keeping.note_own((endpoint, verdicts)));
            keeping.give_own(self.coordinator.was_blind());
        }
        keeping.give();
    }

    /// Answers a call of the admin side, if there is one and its time has come.
    fn answer_one(&mut self) {
        if self.control.calls.is_empty() {
            return;
        }
        let now = self.clock.now();
        if now < self.call_at {
            return;
        }
        let Some(AdminCall { ask, answer }) = self.control.calls.pop() else { return };
        let acts = matches!(ask, Ask::Act(_));
        if acts && self.ports.keeping.as_ref().is_some_and(Keeping::is_full) {
            return answer(Answer::Acted(Err(ActRefused::Disk)));
        }
        let given = self.coordinator.answer(now, ask, &mut self.ports);
        match self.ports.keeping.as_ref().and_then(Keeping::to_wait_for).filter(|_| acts) {
            Some(changes) => {
                let give = move |kept| answer(if kept { given } else { Answer::NotKept });
                self.answers.push(now, changes, Box::new(give));
            }
            None => answer(given),
        }
        let after = self.clock.now();
        self.call_at = after + pause_after(after.since(now));
    }

    /// Publishes the metrics, if the time has come.
    fn publish(&mut self) {
        let now = self.clock.now();
        if now >= self.publish_at {
            self.publish_at = now + PUBLISH_INTERVAL;
            self.metrics.publish(&self.coordinator);
            if let Some(keeping) = &self.ports.keeping {
                let (waiting, trouble) = (self.ports.waiting_replies(), keeping.is_in_trouble());
                self.metrics.publish_keeping(waiting, trouble, keeping.starts());
                #[cfg(feature = "fleet")]
                if let Some(fleet) = keeping.fleet() {
                    self.metrics.publish_fleet(fleet, self.coordinator.share());
                }
            }
        }
    }

    /// Gives some watch orders to the shards, as far as these have room; whether there are more to give at once.
    fn give_watch_orders(&mut self) -> bool {
        for _ in 0..ENDPOINTS_PER_TURN {
            if self.ports.list.iter().any(|port| !port.orders.is_empty()) {
                return false; // further orders wait in the coordinator, which drops those that cancel each other out
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

    fn take_acknowledgements(&mut self) {
        for (shard, port) in self.ports.list.iter_mut().enumerate() {
            while let Some(batch) = port.down.reclaim() {
                for down in &batch.entries {
                    if matches!(down.order, Order::Write { .. }) && !down.unfinished {
                        self.coordinator.delivered(connection(shard, down.slot), 1);
                    }
                }
                port.down.recycle(batch);
            }
        }
    }

    /// Takes entries of a shard until time is up, or there is no room for a reply; whether there are more to take at
    /// once.
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
                let may_wait = !matches!(message, Message::GetWeightsRequest(_));
                if may_wait && self.ports.keeping.as_ref().is_some_and(Keeping::is_full) {
                    self.ports.close(id, CloseReason::NotKept);
                    return true;
                }
                self.ports.reply_may_wait = may_wait;
                self.coordinator.request(now, id, header.id, &message, &mut self.ports);
            }
            Up::Judged(judgements) => {
                self.coordinator.judge(now, judgements);
                for Judgement { watch, turn, .. } in judgements {
                    if let (Some(turn), Some((member, groups))) = (turn, self.coordinator.watched_as(*watch)) {
                        self.ports.turn_log.turned(now, &member, groups, turn);
                    }
                }
            }
            Up::Delivered(messages) => self.coordinator.delivered(id, *messages),
            Up::Closed => self.coordinator.closed(now, id, &mut self.ports),
        }
        true
    }

    /// Waits for work, or for the coordinator's next deadline, or for [`HEARTBEAT`].
    fn wait(&self, waker: &Waker, spin: Duration) {
        let work = || {
            let CoordinatorControl { roster, access, own_addresses, .. } = &*self.control;
            let calls = !self.control.calls.is_empty() && self.clock.now() >= self.call_at;
            let kept = self.ports.keeping.as_ref().is_some_and(|keeping| self.answers.is_due(keeping.kept()));
            #[cfg(feature = "fleet")]
            let kept = kept || self.has_orders();
            let news = calls
                || kept
                || self.ports.has_kept_replies()
                || !roster.is_empty()
                || !access.is_empty()
                || !own_addresses.is_empty()
                || self.control.hold.phase() != Phase::Runs;
            self.ports.list.iter().any(Port::has_work) || news || self.control.stop.load(Ordering::Acquire)
        };
        let waits = self.coordinator.waits_for_delivery();
        self.ports.list.iter().for_each(|port| port.before_sleep(waits));
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
        let until = if self.control.calls.is_empty() { until } else { until.min(self.call_at) };
        let until = until.max(now + DEADLINE_SLEEP_MIN);
        if self.control.bell.poll(&mut Context::from_waker(waker), work).is_pending() {
            thread::park_timeout(Duration::from_nanos(until.0 - now.0));
            self.control.bell.awake();
        }
    }
}

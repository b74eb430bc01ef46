//! The coordinator's task: it feeds the state machine with what the shards report, and carries its messages back.
//!
//! A turn takes acknowledgements, then requests from all shards in turn, then lets the coordinator do what is due,
//! and sends. It ends after [`TURN`] even if there is more.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;
use glommio::timer::Timer;

use super::{
    executor::{self, HEARTBEAT, TURN},
    link::{Down, Order, Slot, Up},
    mesh::{Batch, Bell, Receiver, Sender},
    shared::Clock,
};
use crate::{
    coordinator::{CloseReason, ConnectionId, Coordinator, Kind, Outbox, Settings, Time, Totals},
    sasp::{Endpoint, Message},
};

/// Entries between looks at the clock.
const ENTRIES_PER_LOOK: usize = 16;

/// The shortest sleep: what is due while no shard has room stays due, and must not keep the core busy.
const SLEEP_MIN: Duration = Duration::from_micros(200);

/// What the main thread tells the coordinator.
pub(super) struct Control {
    /// The operator's fixed weights, replaced as a whole.
    pub(super) fixed: ArrayQueue<HashMap<Endpoint, u16>>,
    /// Set once: the task ends.
    pub(super) stop: AtomicBool,
    /// The coordinator's bell.
    pub(super) bell: Arc<Bell>,
}

/// One shard's pipes, seen from the coordinator.
pub(super) struct Port {
    up: Receiver<(Slot, Up)>,
    down: Sender<Down>,
    /// A batch that is not finished, and how many of its entries are.
    inbox: Option<(Box<Batch<(Slot, Up)>>, usize)>,
    /// Batches that are: given back after the replies to them are sent, so that one wake serves both.
    finished: Vec<Box<Batch<(Slot, Up)>>>,
    /// Closes that found no room.
    closes: VecDeque<(Slot, CloseReason)>,
    /// By slot.
    peers: Vec<Peer>,
}

/// A connection as far as the acknowledging of its messages goes.
#[derive(Clone, Copy, Default)]
struct Peer {
    generation: u32,
    open: bool,
    /// Messages committed and not acknowledged.
    unacknowledged: u32,
}

impl Port {
    pub(super) fn new(up: Receiver<(Slot, Up)>, down: Sender<Down>) -> Port {
        Port { up, down, inbox: None, finished: Vec::new(), closes: VecDeque::new(), peers: Vec::new() }
    }

    fn has_work(&self) -> bool {
        let room = self.down.has_room();
        self.down.has_returned()
            || self.down.is_due()
            || (room && (!self.closes.is_empty() || self.inbox.is_some() || self.up.has_batch()))
    }

    fn peer(&mut self, slot: Slot) -> Option<&mut Peer> {
        self.peers.get_mut(slot.index as usize).filter(|peer| peer.open && peer.generation == slot.generation)
    }

    fn open(&mut self, slot: Slot) {
        let index = slot.index as usize;
        if index >= self.peers.len() {
            self.peers.resize(index + 1, Peer::default());
        }
        if let Some(peer) = self.peers.get_mut(index) {
            *peer = Peer { generation: slot.generation, open: true, unacknowledged: 0 };
        }
    }

    /// Whether the connection has nothing on its way any more, now that so many messages have arrived.
    fn settle(&mut self, slot: Slot, messages: u32) -> bool {
        let Some(peer) = self.peer(slot) else { return false };
        peer.unacknowledged = peer.unacknowledged.saturating_sub(messages);
        peer.unacknowledged == 0
    }

    fn flush(&mut self) {
        while self.down.has_room() {
            let Some((slot, reason)) = self.closes.pop_front() else { break };
            self.down.push(Down { slot, order: Order::Close(reason), unfinished: false });
        }
        self.down.flush();
        for batch in self.finished.drain(..) {
            self.up.give_back(batch);
        }
    }
}

/// Where the coordinator's messages go.
struct Ports(Vec<Port>);

impl Ports {
    fn port(&mut self, shard: u16) -> &mut Port {
        self.0.get_mut(usize::from(shard)).expect("the coordinator names shards that it was told of")
    }
}

impl Outbox for Ports {
    fn has_room(&self, shard: u16) -> bool {
        self.0.get(usize::from(shard)).is_some_and(|port| port.down.has_room())
    }

    fn buffer(&mut self, shard: u16) -> &mut Vec<u8> {
        self.port(shard).down.bytes()
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, kind: Kind) {
        let slot = slot(connection);
        let port = self.port(connection.shard);
        if let Some(peer) = port.peer(slot) {
            peer.unacknowledged += 1;
        }
        let range = start..port.down.bytes().len();
        port.down.push(Down { slot, order: Order::Write(kind, range), unfinished: false });
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.port(connection.shard).closes.push_back((slot(connection), reason));
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
}

/// Runs the coordinator until it is told to stop; what it held then.
pub(super) async fn run(
    settings: Settings,
    ports: Vec<Port>,
    control: Arc<Control>,
    clock: Clock,
    ready: impl FnOnce(),
) -> Totals {
    let shards = u16::try_from(ports.len()).expect("there are at most 256 shards");
    let mut core = Core { coordinator: Coordinator::new(settings, shards), ports: Ports(ports), control, clock };
    ready();
    let mut alarm = Alarm::default();
    while !core.control.stop.load(Ordering::Acquire) {
        if core.turn() {
            executor::turn().await;
        } else {
            core.wait(&mut alarm).await;
        }
    }
    core.coordinator.totals()
}

impl Core {
    /// One turn; whether it was cut short.
    fn turn(&mut self) -> bool {
        let start = Instant::now();
        self.take_acknowledgements();
        if let Some(fixed) = self.control.fixed.pop() {
            self.coordinator.set_fixed(self.clock.now(), fixed);
        }
        let mut more = false;
        for shard in 0..self.ports.0.len() {
            // A time slice for each, so that one shard's flood is not another's silence.
            let slice = TURN * (shard as u32 + 1) / self.ports.0.len() as u32;
            more |= self.take_requests(shard, || start.elapsed() >= slice);
        }
        self.coordinator.poll(self.clock.now(), &mut self.ports);
        self.ports.0.iter_mut().for_each(Port::flush);
        more
    }

    fn take_acknowledgements(&mut self) {
        for (shard, port) in self.ports.0.iter_mut().enumerate() {
            while let Some(batch) = port.down.reclaim() {
                let now = self.clock.now();
                for down in &batch.entries {
                    if matches!(down.order, Order::Write(..)) && !down.unfinished && port.settle(down.slot, 1) {
                        self.coordinator.delivered(now, connection(shard, down.slot));
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
            let port = self.ports.0.get_mut(shard).expect("the shard exists");
            let received = port.inbox.take().or_else(|| port.up.receive().map(|batch| (batch, 0)));
            let Some((batch, mut done)) = received else { return false };
            let mut room = true;
            while room && done < batch.entries.len() {
                let now = self.clock.now();
                for (slot, up) in batch.entries.iter().skip(done).take(ENTRIES_PER_LOOK) {
                    room = self.take(now, shard, *slot, up, &batch.bytes);
                    if !room {
                        break;
                    }
                    done += 1;
                }
                if time_is_up() {
                    break;
                }
            }
            let port = self.ports.0.get_mut(shard).expect("the shard exists");
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
        let port = self.ports.0.get_mut(shard).expect("the shard exists");
        match up {
            Up::Opened(peer) => {
                port.open(slot);
                self.coordinator.opened(id, *peer);
            }
            Up::Request(range) => {
                if !port.down.has_room() {
                    return false;
                }
                let frame = bytes.get(range.clone()).expect("the shard sent this range");
                let (header, message) = Message::decode_trusted(frame).expect("the shard has checked the frame");
                self.coordinator.request(now, id, header.id, &message, &mut self.ports);
            }
            Up::Delivered(messages) => {
                if port.settle(slot, *messages) {
                    self.coordinator.delivered(now, id);
                }
            }
            Up::Closed => {
                if let Some(peer) = port.peer(slot) {
                    peer.open = false;
                }
                self.coordinator.closed(now, id);
            }
        }
        true
    }

    /// Waits for work, or until the coordinator has something to do by itself.
    async fn wait(&mut self, alarm: &mut Alarm) {
        let now = self.clock.now();
        let longest = now + HEARTBEAT;
        let until = self.coordinator.next_deadline().map_or(longest, |deadline| deadline.min(longest));
        alarm.set(now, until.max(now + SLEEP_MIN));
        let (control, ports) = (&self.control, &self.ports);
        std::future::poll_fn(|cx| {
            let work = || {
                ports.0.iter().any(Port::has_work) || !control.fixed.is_empty() || control.stop.load(Ordering::Acquire)
            };
            if control.bell.poll(cx, work).is_ready() || alarm.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

/// A timer that is built anew only for another time.
#[derive(Default)]
struct Alarm(Option<(Time, Timer)>);

impl Alarm {
    fn set(&mut self, now: Time, until: Time) {
        if self.0.as_ref().is_none_or(|(at, _)| *at != until) {
            self.0 = Some((until, Timer::new(Duration::from_nanos(until.0 - now.0))));
        }
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let Some((_, timer)) = &mut self.0 else { return Poll::Pending };
        let fired = Pin::new(timer).poll(cx).map(|_| ());
        if fired.is_ready() {
            self.0 = None;
        }
        fired
    }
}

//! What a shard does in a round: bounded pieces of work, so that none holds up another.

use std::{
    ops::Range,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::{event::epoll::EventFlags, net::sockopt};

use super::{
    cause::Cause,
    connection::{Connection, Outgoing},
    context::Context,
    leaving::Leaving,
    listener::{Arrival, Listener},
    monitoring::{BacklogQuestion, Monitoring},
    shard_metrics::since_stamp,
    table::{Table, token},
};
use crate::{
    config::Carries,
    coordinator::CloseReason,
    metrics::Id,
    runtime::{
        limit::sources::{Rejection, Source},
        machine::{
            executor::TIME_SLICE,
            poller::{CHECKS, News, Poller},
            sys,
        },
        mesh::{Batch, Down, Order, Receiver},
    },
    time::Time,
};

/// The shortest sleep: connections whose time is a moment later are woken with those of that moment.
pub(super) const CONNECTION_SLEEP_MIN: Duration = Duration::from_micros(500);

/// Writes, steps or new connections between looks at the clock.
const WORK_PER_LOOK: usize = 16;

/// A shard's connections, with all that serves them.
pub(super) struct Shard {
    pub(super) context: Rc<Context>,
    pub(super) table: Table,
    pub(super) poller: Poller,
    pub(super) monitoring: Rc<Monitoring>,
    pub(super) listeners: Vec<Listener>,
    /// The time and the next row of the look for overdue connections, while there is one.
    sweep: Option<(Time, usize)>,
    /// Another process has taken over.
    leaving: Option<Leaving>,
}

impl Shard {
    pub(super) fn new(
        context: Rc<Context>,
        poller: Poller,
        listeners: Vec<Listener>,
        monitoring: Rc<Monitoring>,
    ) -> Shard {
        Shard { context, table: Table::default(), poller, listeners, monitoring, sweep: None, leaving: None }
    }
}

/// Takes news of a socket.
fn hear(context: &Context, table: &mut Table, listeners: &mut [Listener], token: u64, events: EventFlags) {
    if token == CHECKS {
        context.set_checks_due(context.now());
    } else if let Some(listener) = Listener::index(token).and_then(|index| listeners.get_mut(index)) {
        listener.hear();
    } else {
        table.hear(context, token, events);
    }
}

impl Shard {
    /// Accepts some connections; whether more can be accepted now.
    pub(super) fn accept_some(&mut self) -> bool {
        if self.context.holds() {
            return false;
        }
        for at in 0..self.listeners.len() {
            // A flood of new connections must not hold up the open ones, some of which want to end.
            for _ in 0..WORK_PER_LOOK {
                let room = self.context.uplink.borrow().has_room();
                let Some(listener) = self.listeners.get_mut(at).filter(|_| room) else { break };
                let Some(arrival) = listener.accept(&self.context) else { break };
                self.admit(arrival);
            }
        }
        self.context.uplink.borrow().has_room() && self.listeners.iter().any(|listener| listener.is_due(&self.context))
    }

    /// Takes an accepted connection into the table, unless its source has too many.
    pub(super) fn admit(&mut self, Arrival { socket, peer, carries }: Arrival) {
        let Shard { context, table, poller, .. } = self;
        context.count(Id::ConnectionsAccepted);
        let (source, now) = (Source::from(peer.ip()), context.now());
        if let Err(rejection) = context.shared.sources.open(source, now) {
            context.shared.connections.give(1);
            let cause = match rejection {
                Rejection::TooMany => Cause::SourceConnections,
                Rejection::TooFast => Cause::SourceRate,
            };
            // Closed with a reset, which costs no further packet and leaves nothing behind here.
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
            context.count_end(cause);
            context.log_closed(cause, peer, None);
            return;
        }
        let slot = table.reserve();
        if let Err(error) = poller.add(&socket, token(slot), News::INTEREST) {
            // The kernel's limit of watched descriptors, or of memory.
            table.release(slot);
            context.shared.sources.close(source, now);
            context.shared.connections.give(1);
            tracing::warn!(%peer, shard = context.index, "can not take in a connection: {error}");
            return;
        }
        let mut connection = Connection::new(slot, peer, carries, context);
        if carries == Carries::Plain {
            connection.open(context, None);
        }
        table.put(slot, socket, connection);
        context.count(Id::ConnectionsOpen);
        tracing::debug!(%peer, shard = context.index, "connected");
    }

    /// Answers a question about connections, if there is one.
    pub(super) fn answer_one(&mut self) {
        let Some(BacklogQuestion { slots, answer }) = self.monitoring.next_backlog_question() else { return };
        let waiting = slots.into_iter().map(|slot| self.table.with(slot, |connection, _| connection.waiting_bytes()));
        answer(waiting.collect());
    }

    /// Wakes connections and handshakes whose time has come.
    pub(super) fn wake_waiting(&mut self) {
        let Shard { context, table, .. } = self;
        if context.next_time().is_none() {
            return;
        }
        let now = context.now();
        context.handshakes.borrow_mut().resume(now);
        while let Some(slot) = context.next_rate_limited(now) {
            table.with(slot, |connection, _| connection.wake(context));
        }
    }

    /// Takes back batches, sends what the shard has for the coordinator, and wakes connections that wait for room.
    pub(super) fn turn_uplink(&mut self) {
        let Shard { context, table, monitoring, .. } = self;
        context.uplink.borrow_mut().turn();
        for slot in context.take_waiting_for_room() {
            table.with(slot, |connection, _| connection.room(context));
        }
        monitoring.room();
    }

    /// Takes news of sockets; whether there may be more.
    pub(super) fn collect(&mut self) -> bool {
        let Shard { context, table, poller, listeners, .. } = self;
        poller.collect(|token, events| hear(context, table, listeners, token, events))
    }

    /// When a connection, a handshake or a listener that waits for a time may go on.
    pub(super) fn next_time(&self) -> Option<Time> {
        let listeners = self.listeners.iter().filter(|_| !self.context.holds()).filter_map(Listener::next_time);
        let leaving = self.leaving.as_ref().and_then(Leaving::next_time);
        listeners.chain(leaving).chain(self.context.next_time()).min()
    }

    /// Sleeps until there is news of sockets, or the bell rings, or for so long.
    pub(super) fn doze(&mut self, down: &Receiver<Down>, longest: Duration) {
        let next_time = self.next_time();
        let Shard { context, table, poller, listeners, monitoring, .. } = self;
        let now = context.now();
        let until_next = next_time.map_or(longest, |at| at.since(now).max(CONNECTION_SLEEP_MIN));
        context.uplink.borrow().before_sleep();
        let work = || down.has_batch() || context.has_work() || monitoring.has_backlog_questions();
        if context.bell.poll(&mut std::task::Context::from_waker(poller.waker()), work).is_pending() {
            poller.wait(longest.min(until_next), |token, events| hear(context, table, listeners, token, events));
            context.bell.awake();
        }
    }

    /// Lets connections take steps until time is up; whether there are more.
    pub(super) fn step_some(&mut self) -> bool {
        if !self.context.has_runnable() {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..WORK_PER_LOOK {
                let Some(slot) = self.context.next_runnable() else { return false };
                self.table.step(&self.context, slot);
            }
            if start.elapsed() >= TIME_SLICE / 2 {
                return self.context.has_runnable();
            }
        }
    }

    /// Lets one handshake begin and one take a step, because handshakes cost much CPU. Whether there are more.
    pub(super) fn step_handshakes(&mut self) -> bool {
        let Shard { context, table, .. } = self;
        let may = |source| context.shared.sources.take_handshake(source, context.now());
        let begin = context.handshakes.borrow_mut().begin(may);
        if let Some(slot) = begin {
            table.guarded(context, slot, |connection, _| connection.begin_handshake(context));
        }
        let next = context.handshakes.borrow_mut().next();
        if let Some(slot) = next {
            table.step(context, slot);
        }
        context.handshakes.borrow().is_due()
    }

    /// Ends some overdue connections, if a look at timeouts was asked for; whether the look goes on.
    pub(super) fn sweep_some(&mut self) -> bool {
        let Some((now, mut from)) = self.sweep.take().or_else(|| self.context.take_sweep().map(|now| (now, 0))) else {
            return false;
        };
        let more = self.table.sweep_some(&self.context, now, &mut from);
        self.sweep = more.then_some((now, from));
        more
    }

    /// Writes messages of a batch from number `done` on; whether there are more, the time being up.
    pub(super) fn write_some(&mut self, batch: &mut Batch<Down>, done: &mut usize) -> bool {
        let Shard { context, table, monitoring, .. } = self;
        let start = Instant::now();
        let Batch { bytes, bodies, entries } = batch;
        let bytes_of = |head: &Range<u32>| bytes.get(head.start as usize..head.end as usize);
        loop {
            // The clock is read once for some messages.
            let (mut changed, mut pushes) = ([0; WORK_PER_LOOK], 0);
            for at in *done..entries.len().min(*done + WORK_PER_LOOK) {
                *done += 1;
                // Another CPU wrote the next message. Its bytes come over while the kernel sends this message.
                if let Some(Down { order: Order::Write { head, .. }, .. }) = entries.get(at + 1) {
                    sys::prefetch(bytes_of(head).unwrap_or_default());
                }
                let Some(down) = entries.get_mut(at) else { break };
                match &down.order {
                    Order::Write { kind, head, body, changed_at } => {
                        if *changed_at != 0
                            && let Some(place) = changed.get_mut(pushes)
                        {
                            *place = *changed_at;
                            pushes += 1;
                        }
                        let head = bytes_of(head).expect("the coordinator committed this range");
                        let body = body.and_then(|body| bodies.get(usize::from(body)));
                        let message = Outgoing { head, body };
                        // Written only if need be: the coordinator's CPU has this cache line too.
                        if !table.write(context, down.slot, *kind, message) {
                            down.unfinished = true;
                        }
                    }
                    Order::Close(reason) => {
                        let cause = match reason {
                            CloseReason::TakenOver => Cause::TakenOver,
                            CloseReason::NotPermitted => Cause::NotPermitted,
                            CloseReason::Operator => Cause::Operator,
                            CloseReason::NotKept => Cause::NotKept,
                        };
                        table.guarded(context, down.slot, |connection, _| connection.close(cause, context));
                    }
                    Order::Watch(order) => {
                        monitoring.order(context.now(), order);
                        context.set_checks_due(context.now());
                    }
                }
            }
            if pushes > 0 {
                let now = context.now();
                let delays = changed.iter().take(pushes).map(|changed_at| since_stamp(now, *changed_at));
                delays.for_each(|delay| context.metrics.push_delay.add(delay));
            }
            if *done >= entries.len() {
                return false;
            }
            if start.elapsed() >= TIME_SLICE / 2 {
                return true;
            }
        }
    }

    /// Begins the stop: no listener accepts any more, and connections end as soon as they owe nothing, or one after
    /// another if their load balancers find another process at once.
    pub(super) fn stop(&mut self) {
        for listener in self.listeners.drain(..) {
            listener.close(&self.poller);
        }
        self.monitoring.stop();
        if self.context.is_over() {
            let leaving = Leaving::new(&self.context, &self.table);
            self.context.begin_stop(leaving.spread());
            self.leaving = Some(leaving);
        } else {
            self.context.begin_stop(Duration::ZERO);
            self.table.stop(&self.context);
        }
    }

    /// Lets some connections end whose turn has come; whether there are more.
    pub(super) fn leave_some(&mut self) -> bool {
        self.leaving.as_mut().is_some_and(|leaving| leaving.some(&self.context, &mut self.table))
    }
}

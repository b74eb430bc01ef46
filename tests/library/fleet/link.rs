//! A node's connection to the store: requests and answers on their way, the store's side, and the thread beside it.

use std::collections::VecDeque;

use fastrand::Rng;
use gwm::fleet::{Batch, Moment, Replica};

use super::{
    etcd::{Etcd, Event},
    node::LEASE,
};

/// A request on its way to the store.
enum Up {
    /// Opens a session: the revision that is known, of this life of the store, and the lease of the last session.
    Open(Option<(i64, u64)>, Option<u64>),
    KeepAlive,
    Transact(Batch, u64),
}

/// An answer, or news.
enum Down {
    /// The lease, the revision, and all keys or the events since the known revision.
    Opened {
        lease: u64,
        revision: i64,
        life: u64,
        all: bool,
        events: Vec<Event>,
    },
    /// The node's key belongs to a lease of another life of the node.
    NameTaken,
    Alive(bool),
    Done(Option<i64>),
    Events(Vec<Event>),
}

/// The connection to the store.
#[derive(Default)]
pub(super) struct Link {
    /// Grows with each connection.
    number: u64,
    /// A connection is open or being opened.
    is_open: bool,
    lease: Option<u64>,
    /// The lease of the last session of this life.
    last_lease: Option<u64>,
    /// The lease as the store's side of the connection knows it.
    served: Option<u64>,
    up: VecDeque<(u64, u64, Up)>,
    down: VecDeque<(u64, u64, Down)>,
    /// What the store has sent.
    cursor: Option<i64>,
    heard_at: u64,
    asked_at: u64,
    in_flight: Option<Batch>,
    /// When what the checks found is written next.
    window_at: u64,
    /// What is known of which life of the store.
    known: Option<(i64, u64)>,
}

impl Link {
    /// The node's lease is held, as the node knows.
    pub(super) fn has_lease(&self) -> bool {
        self.lease.is_some()
    }

    /// The store's side of the connection, and the way to it.
    pub(super) fn serve(
        &mut self,
        node: &str,
        now: u64,
        [up_cut, down_cut]: [bool; 2],
        etcd: &mut Etcd,
        rng: &mut Rng,
    ) {
        while !up_cut && let Some((_, number, up)) = self.up.pop_front_if(|(at, ..)| *at <= now) {
            let is_present = number == self.number;
            let delay = now + rng.u64(1..30);
            let down = match up {
                // As the daemon does: its name is another life's until the lease of that life has ended.
                Up::Open(_, last) if etcd.lease_of(&format!("node/{node}")).is_some_and(|of| Some(of) != last) => {
                    Down::NameTaken
                }
                Up::Open(known, last) => {
                    let lives = last.filter(|lease| etcd.keep_alive(*lease, now, LEASE));
                    let lease = lives.unwrap_or_else(|| etcd.grant(now, LEASE));
                    let known = known.filter(|(_, life)| *life == etcd.life).map(|(revision, _)| revision);
                    let events = known.map_or_else(|| etcd.list(), |revision| etcd.since(revision));
                    if is_present {
                        self.cursor = Some(etcd.revision);
                        self.served = Some(lease);
                    }
                    let (revision, life) = (etcd.revision, etcd.life);
                    Down::Opened { lease, revision, life, all: known.is_none(), events }
                }
                Up::KeepAlive => Down::Alive(self.served.is_some_and(|lease| etcd.keep_alive(lease, now, LEASE))),
                Up::Transact(batch, lease) => Down::Done(etcd.transact(&batch, lease)),
            };
            if is_present {
                self.down.push_back((delay, number, down));
            }
        }
        if let Some(cursor) = self.cursor.filter(|cursor| *cursor < etcd.revision) {
            self.down.push_back((now + rng.u64(1..30), self.number, Down::Events(etcd.since(cursor))));
            self.cursor = Some(etcd.revision);
        }
        if down_cut {
            // What is under way comes later, or with the connection's end never.
            self.down.iter_mut().for_each(|(at, ..)| *at = (*at).max(now + 1));
        }
    }

    /// What the thread beside the store does: takes what has come, and opens, keeps or gives up the session.
    pub(super) fn attend(&mut self, replica: &mut Replica, now: u64, at: Moment, rng: &mut Rng) {
        while let Some((_, number, down)) = self.down.pop_front_if(|(due, ..)| *due <= now) {
            if number != self.number {
                continue;
            }
            self.heard_at = now;
            match down {
                Down::Opened { lease, revision, life, all, events } => {
                    (self.lease, self.last_lease) = (Some(lease), Some(lease));
                    if all {
                        replica.begin_listing(life);
                    }
                    events.into_iter().for_each(|event| see(replica, event, at));
                    if all {
                        replica.end_listing(revision, at);
                    }
                    self.known = Some((revision, life));
                    replica.set_connected(true);
                }
                Down::NameTaken => {
                    self.is_open = false;
                    return;
                }
                Down::Alive(true) => {}
                Down::Alive(false) => return self.lose(replica, rng),
                Down::Done(revision) => {
                    if let Some(batch) = self.in_flight.take() {
                        match revision {
                            Some(revision) => replica.committed(&batch, revision),
                            None => replica.refused(&batch),
                        }
                    }
                }
                Down::Events(events) => {
                    for event in events {
                        if let Some((known, _)) = &mut self.known {
                            *known = event.revision;
                        }
                        see(replica, event, at);
                    }
                }
            }
        }
        if !self.is_open {
            let known = self.known.filter(|_| rng.bool());
            (self.is_open, self.number) = (true, self.number + 1);
            (self.heard_at, self.asked_at, self.cursor) = (now, now, None);
            self.up.push_back((now + rng.u64(1..30), self.number, Up::Open(known, self.last_lease)));
        } else if now > self.heard_at + LEASE {
            self.lose(replica, rng);
        } else if now > self.asked_at + LEASE / 4 {
            self.asked_at = now;
            self.up.push_back((now + rng.u64(1..30), self.number, Up::KeepAlive));
        }
    }

    /// Begins the replica's next transaction, if none is under way.
    pub(super) fn write(&mut self, replica: &mut Replica, now: u64, at: Moment, rng: &mut Rng) {
        let (Some(lease), None) = (self.lease, &self.in_flight) else { return };
        let is_window = now >= self.window_at;
        if is_window {
            self.window_at = now + 100;
        }
        if let Some(batch) = replica.next_batch(is_window, at) {
            self.up.push_back((now + rng.u64(1..30), self.number, Up::Transact(batch.clone(), lease)));
            self.in_flight = Some(batch);
        }
    }

    /// The connection to the store is lost. Requests that are under way may still come there.
    fn lose(&mut self, replica: &mut Replica, rng: &mut Rng) {
        (self.is_open, self.lease, self.served, self.cursor) = (false, None, None, None);
        self.up.retain(|(_, _, up)| matches!(up, Up::Transact(..)) && rng.bool());
        self.down.clear();
        replica.set_connected(false);
        if let Some(batch) = self.in_flight.take() {
            replica.lost(&batch);
        }
    }
}

fn see(replica: &mut Replica, event: Event, at: Moment) {
    match event.value {
        Some(value) => replica.put(&event.key, &value, event.revision, at),
        None => replica.delete(&event.key, event.revision),
    }
}

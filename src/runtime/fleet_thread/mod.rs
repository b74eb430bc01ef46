//! The fleet's thread: it carries what the coordinator has changed to etcd, and what other nodes have changed to the
//! coordinator.
//!
//! The coordinator gives its changes once a turn, and takes orders; it never waits for this thread. What is to be written,
//! what comes from others and what becomes of conflicts is decided by [`Replica`](crate::fleet::Replica), which does no I/O.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `etcd` | a client of etcd |
//! | `link` | the lease, the listing and the watch, until the first failure |
//! | `thread` | the replica, and what goes to and comes from it |

mod etcd;
mod link;
mod thread;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::mesh::Bell;
use crate::{
    coordinator::Order,
    fleet::Status,
    journal::{Entry, FleetDate, Known},
    judgement::{Policy, Verdict},
    limits,
    metrics::Histogram,
    sasp::Endpoint,
    time::Time,
};

pub(super) use thread::{Parts, start};

/// What this node's own checks found; `None`: the endpoint is not checked here any more.
pub(super) type Judged = (Endpoint, Option<[Verdict; Policy::ALL.len()]>);

/// What happened in the coordinator, in order.
pub(super) enum Happened {
    /// It has changed something by itself, at this time.
    Changed(Entry, Time),
    /// It has done the order with this number, or the order did not fit.
    Done(u64, bool),
}

/// What the coordinator and the fleet's thread share; others read how it goes.
pub(super) struct Fleet {
    inbox: Mutex<Inbox>,
    news: Notify,
    /// How many of the entries that were given are in etcd.
    kept: AtomicU64,
    /// Bytes of the entries that the thread has not taken.
    waiting: AtomicUsize,
    orders: Mutex<VecDeque<(u64, Order)>>,
    /// The length of `orders`.
    queued: AtomicUsize,
    /// etcd is away.
    away: AtomicBool,
    /// etcd is or was away, and has not got all since.
    ahead: AtomicBool,
    /// All is read from etcd, or etcd was away at the start.
    started: AtomicBool,
    /// The coordinator has done all that is known of etcd.
    settled: AtomicBool,
    /// What was known of etcd when the coordinator had done all of it last; nothing in the beginning.
    known: Mutex<Known>,
    /// What is known of the fleet's date.
    date: Mutex<FleetDate>,
    /// The coordinator's bell.
    bell: Arc<Bell>,
    shown: Mutex<Arc<Shown>>,
    /// How long transactions took.
    pub(super) transactions: Histogram,
    /// Conflicts that changed something.
    conflicts: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    happened: Vec<Happened>,
    judged: Vec<Judged>,
    /// This node's checks see nobody.
    blind: bool,
    stop: bool,
}

/// How the fleet is, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// The etcd that this node has a connection with.
    pub(super) etcd: Option<String>,
    /// Why there is none.
    pub(super) trouble: Option<String>,
    /// The lease, as etcd's tools show it.
    pub(super) lease: Option<String>,
    /// The last revision that is known.
    pub(super) revision: i64,
    /// What the replica knows.
    pub(super) status: Status,
}

impl Fleet {
    pub(super) fn new(bell: Arc<Bell>) -> Fleet {
        Fleet {
            inbox: Mutex::default(),
            news: Notify::new(),
            kept: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            orders: Mutex::default(),
            queued: AtomicUsize::new(0),
            away: AtomicBool::new(true),
            ahead: AtomicBool::new(true),
            started: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            known: Mutex::default(),
            date: Mutex::default(),
            bell,
            shown: Mutex::default(),
            transactions: Histogram::default(),
            conflicts: AtomicU64::new(0),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orders(&self) -> MutexGuard<'_, VecDeque<(u64, Order)>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that happened.
    pub(super) fn give(&self, happened: &mut Vec<Happened>) {
        let size = |happened: &Happened| if let Happened::Changed(entry, _) = happened { entry.size() } else { 0 };
        self.waiting.fetch_add(happened.iter().map(size).sum(), Ordering::Relaxed);
        self.inbox().happened.append(happened);
        self.news.notify_one();
    }

    /// Takes verdicts of this node's own checks, and whether these see nobody.
    pub(super) fn give_judged(&self, judged: &mut Vec<Judged>, blind: bool) {
        let mut inbox = self.inbox();
        if judged.is_empty() && inbox.blind == blind {
            return;
        }
        inbox.judged.append(judged);
        inbox.blind = blind;
        drop(inbox);
        self.news.notify_one();
    }

    /// How many of the entries that were given are in etcd.
    pub(super) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Acquire)
    }

    /// So much waits for the thread that no more may come.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= limits::JOURNAL_BYTES
    }

    /// etcd is away: nothing is waited for.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// etcd is or was away, and has not got all since.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead.load(Ordering::Acquire)
    }

    /// All is read from etcd, or etcd was away at the start.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// The coordinator has done all that is known of etcd.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// What was known of etcd when the coordinator had done all of it last; `None`: nothing yet.
    pub(super) fn known(&self) -> Option<Known> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (known != Known::default()).then_some(known)
    }

    /// What is known of the fleet's date.
    pub(super) fn date(&self) -> FleetDate {
        *self.date.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are orders for the coordinator.
    pub(super) fn has_orders(&self) -> bool {
        self.queued.load(Ordering::Acquire) > 0
    }

    /// Takes the next order, with its number.
    pub(super) fn take_order(&self) -> Option<(u64, Order)> {
        let mut orders = self.orders();
        let order = orders.pop_front()?;
        let left = orders.len();
        self.queued.store(left, Ordering::Release);
        drop(orders);
        if left == limits::FLEET_ORDERS / 2 {
            self.news.notify_one(); // the thread holds further ones back
        }
        Some(order)
    }

    /// How the fleet is.
    pub(super) fn shown(&self) -> Arc<Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Conflicts that changed something, since the start.
    pub(super) fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// Why this node is not one with its fleet, for people; `None` if all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shown().trouble.clone()
    }

    /// Lets the thread write what it has, and end.
    pub(super) fn stop(&self) {
        self.inbox().stop = true;
        self.news.notify_one();
    }
}

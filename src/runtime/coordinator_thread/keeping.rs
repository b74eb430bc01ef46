//! What the coordinator gives to the journal's thread, and the replies that wait until it is on the disk.
//!
//! A reply to a request that may change tables waits for all changes before it, also if it refuses: a load balancer that
//! hears "already registered" relies on the registration. Replies to Get Weights and pushes never wait. A reply that has
//! waited too long is dropped with its connection: no return code says "perhaps", and a load balancer that connects again
//! finds out.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    coordinator::{Change, CloseReason, Kind},
    journal::Entry,
    judgement::{Policy, Verdict},
    limits,
    runtime::{
        journal_thread::Journal,
        mesh::{Down, Order, Sender, Slot},
    },
    sasp::Endpoint,
    time::Time,
};

/// How long a reply waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the coordinator has changed.
pub(crate) struct Keeping {
    journal: Arc<Journal>,
    /// `--durability reply`.
    replies_wait: bool,
    hold_time: Duration,
    /// The changes of this turn.
    entries: Vec<Entry>,
    /// How many entries there ever were.
    given: u64,
    /// The disk has been behind for so long that changes were dropped: nothing is kept until the next start.
    gave_up: bool,
}

impl Keeping {
    pub(crate) fn new(journal: Arc<Journal>, replies_wait: bool, hold_time: Duration) -> Keeping {
        Keeping { journal, replies_wait, hold_time, entries: Vec::new(), given: 0, gave_up: false }
    }

    pub(super) fn note(&mut self, now: Time, change: &Change<'_>) {
        self.given += 1; // a reply after a dropped change waits in vain
        if !self.gave_up {
            self.entries.push(Entry::new(now, change, self.hold_time));
        }
    }

    /// Notes new verdicts on an endpoint; `None`: the endpoint is forgotten.
    pub(super) fn note_judged(&mut self, endpoint: Endpoint, verdicts: Option<[Verdict; Policy::ALL.len()]>) {
        if !self.gave_up {
            self.given += 1;
            self.entries.push(verdicts.map_or(Entry::Gone(endpoint), |verdicts| Entry::Judged(endpoint, verdicts)));
        }
    }

    /// Gives the changes of this turn to the journal's thread.
    pub(super) fn give(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        // Even without requests the coordinator changes something: connections end, words end.
        if self.journal.waiting() >= 2 * limits::JOURNAL_BYTES {
            tracing::error!(
                "the disk has taken no state for too long: requests that change something end their connections until the \
                 next start"
            );
            self.gave_up = true;
            self.journal.give_up();
            return self.entries.clear();
        }
        self.journal.give(&mut self.entries);
    }

    /// The number of changes that a reply now has to wait for; `None`: it need not wait.
    pub(super) fn to_wait_for(&self) -> Option<u64> {
        (self.replies_wait && self.given > self.journal.kept()).then_some(self.given)
    }

    /// No request may change anything for now.
    pub(super) fn is_full(&self) -> bool {
        self.gave_up || self.journal.is_full()
    }

    /// How many changes are on the disk.
    pub(super) fn kept(&self) -> u64 {
        self.journal.kept()
    }

    pub(super) fn is_in_trouble(&self) -> bool {
        self.journal.trouble().is_some()
    }
}

/// Gives an answer. If it is dropped instead, the admin side hears that the daemon is busy.
type Give = Box<dyn FnOnce() + Send>;

/// Answers to the operator's acts that wait, oldest first: since when, and for how many changes.
#[derive(Default)]
pub(super) struct WaitingAnswers(VecDeque<(Time, u64, Give)>);

impl WaitingAnswers {
    pub(super) fn push(&mut self, now: Time, changes: u64, give: Give) {
        if self.0.len() < limits::ADMIN_CALLS {
            self.0.push_back((now, changes, give));
        }
    }

    /// Gives the answers whose changes are on the disk, and drops those that have waited too long.
    pub(super) fn give(&mut self, now: Time, kept: u64) {
        while let Some((_, _, give)) = self.0.pop_front_if(|(_, changes, _)| *changes <= kept) {
            give();
        }
        while self.0.pop_front_if(|(since, _, _)| *since + PATIENCE <= now).is_some() {}
    }

    /// Whether an answer need not wait any more.
    pub(super) fn is_due(&self, kept: u64) -> bool {
        self.0.front().is_some_and(|(_, changes, _)| *changes <= kept)
    }
}

/// A reply that waits.
struct Waiting {
    /// Until so many changes are on the disk.
    changes: u64,
    since: Time,
    slot: Slot,
    reply: Box<[u8]>,
}

/// The replies of one shard that wait, oldest first.
#[derive(Default)]
pub(super) struct WaitingReplies(VecDeque<Waiting>);

impl WaitingReplies {
    pub(super) fn push(&mut self, changes: u64, since: Time, slot: Slot, reply: Box<[u8]>) {
        self.0.push_back(Waiting { changes, since, slot, reply });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a reply need not wait any more.
    pub(super) fn is_due(&self, kept: u64) -> bool {
        self.0.front().is_some_and(|waiting| waiting.changes <= kept)
    }

    /// Sends the replies whose changes are on the disk, while there is room.
    pub(super) fn send(&mut self, kept: u64, down: &mut Sender<Down>) {
        while down.has_room() {
            let Some(Waiting { slot, reply, .. }) = self.0.pop_front_if(|waiting| waiting.changes <= kept) else {
                break;
            };
            let bytes = down.bytes();
            let start = bytes.len() as u32; // as in `Ports::commit`
            bytes.extend_from_slice(&reply);
            let head = start..bytes.len() as u32;
            let order = Order::Write { kind: Kind::Reply, head, body: None, changed_at: 0 };
            down.push(Down { slot, order, unfinished: false });
        }
    }

    /// Drops the replies that have waited too long; their connections must be closed.
    pub(super) fn drop_old(&mut self, now: Time, mut close: impl FnMut(Slot, CloseReason)) {
        while let Some(old) = self.0.pop_front_if(|waiting| waiting.since + PATIENCE <= now) {
            close(old.slot, CloseReason::NotKept);
        }
    }
}

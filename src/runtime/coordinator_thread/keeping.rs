//! What the coordinator gives to the journal's and the fleet's threads, and the replies that wait until it is on the disk
//! and in etcd.
//!
//! A reply to a request that may change tables waits for all changes before it, also if it refuses: a load balancer that
//! hears "already registered" relies on the registration. Replies to Get Weights and pushes never wait. While etcd is away,
//! replies wait for the disk alone, and the disk has a mark that etcd lacks something. A reply that has waited too long is
//! dropped with its connection: no return code says "perhaps", and a load balancer that connects again finds out.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::dropped::Dropped;
use crate::{
    coordinator::{Change, CloseReason, Coordinator, Kind},
    journal::Entry,
    judgement::Last,
    limits,
    runtime::{
        journal_thread::Journal,
        mesh::{Down, Order, Sender, Slot},
    },
    sasp::Endpoint,
    time::Time,
};

#[cfg(feature = "fleet")]
use crate::{
    journal::{FleetDate, Known, Sessions},
    runtime::fleet_thread::{Fleet, Happened, Judged},
};

/// How many changes are on the disk and in etcd, or have to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    journal: u64,
    fleet: u64,
}

impl Mark {
    /// Whether all these changes are among those that are kept.
    fn is_within(self, kept: Mark) -> bool {
        self.journal <= kept.journal && self.fleet <= kept.fleet
    }
}

/// What the coordinator gives to the journal.
struct ToDisk {
    journal: Arc<Journal>,
    /// The changes of this turn.
    entries: Vec<Entry>,
    /// What changes that were dropped are about, because the disk has been behind for too long. They are not in `given`.
    dropped: Option<Dropped>,
    /// The journal has the mark that etcd lacks something, and how many changes had been given then.
    #[cfg(feature = "fleet")]
    ahead: (bool, u64),
    /// What the disk says that was known of etcd.
    #[cfg(feature = "fleet")]
    known: Known,
    /// What the disk says that was known of the fleet's date.
    #[cfg(feature = "fleet")]
    date: FleetDate,
    #[cfg(feature = "fleet")]
    sessions: Sessions,
}

/// What the coordinator gives to the fleet.
#[cfg(feature = "fleet")]
struct ToFleet {
    fleet: Arc<Fleet>,
    /// What happened in this turn.
    happened: Vec<Happened>,
    judged: Vec<Judged>,
    /// What changes now was ordered by the fleet.
    obeying: bool,
}

/// What the coordinator has changed.
pub(crate) struct Keeping {
    disk: Option<ToDisk>,
    #[cfg(feature = "fleet")]
    fleet: Option<ToFleet>,
    /// `--durability reply`.
    replies_wait: bool,
    hold_time: Duration,
    /// How many changes there ever were.
    given: Mark,
    /// How many there were with the last change of a table: replies do not wait for verdicts that came after.
    changed: Mark,
}

impl Keeping {
    pub(crate) fn new(journal: Option<Arc<Journal>>, replies_wait: bool, hold_time: Duration) -> Keeping {
        let disk = journal.map(|journal| ToDisk {
            journal,
            entries: Vec::new(),
            dropped: None,
            #[cfg(feature = "fleet")]
            ahead: (true, 0),
            #[cfg(feature = "fleet")]
            known: Known::default(),
            #[cfg(feature = "fleet")]
            date: FleetDate::default(),
            #[cfg(feature = "fleet")]
            sessions: Sessions::default(),
        });
        Keeping {
            disk,
            #[cfg(feature = "fleet")]
            fleet: None,
            replies_wait,
            hold_time,
            given: Mark::default(),
            changed: Mark::default(),
        }
    }

    /// Gives everything to a fleet, too. `ahead`: the mark that the state on disk has; `known`: what it says of etcd.
    #[cfg(feature = "fleet")]
    pub(crate) fn with_fleet(mut self, fleet: Arc<Fleet>, ahead: bool, known: Known) -> Keeping {
        if let Some(disk) = &mut self.disk {
            (disk.ahead, disk.known) = ((ahead, 0), known);
        }
        let (happened, judged) = Default::default();
        self.fleet = Some(ToFleet { fleet, happened, judged, obeying: false });
        self
    }

    /// Whether anything is kept.
    pub(crate) fn is_needed(&self) -> bool {
        #[cfg(feature = "fleet")]
        if self.fleet.is_some() {
            return true;
        }
        self.disk.is_some()
    }

    /// Whether there is a state on disk.
    pub(super) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    pub(super) fn note(&mut self, now: Time, change: &Change<'_>) {
        let entry = || Entry::new(now, change, self.hold_time);
        #[cfg(feature = "fleet")]
        let own = self.fleet.as_mut().filter(|fleet| !fleet.obeying).map(|fleet| {
            self.given.fleet += 1;
            fleet.happened.push(Happened::Changed(entry(), now));
            self.given.fleet
        });
        if let Some(disk) = &mut self.disk {
            #[cfg(feature = "fleet")]
            let entry = match own {
                Some(number) => disk.sessions.own(now, number, change, self.hold_time),
                None => {
                    disk.sessions.ordered(change);
                    entry()
                }
            };
            #[cfg(not(feature = "fleet"))]
            let entry = entry();
            // No reply waits for a change that is dropped: no request comes as far as this meanwhile.
            if disk.dropped.as_mut().is_none_or(|dropped| !dropped.takes(&entry)) {
                self.given.journal += 1;
                disk.entries.push(entry);
            }
        }
        self.changed = self.given;
    }

    /// Notes new verdicts on an endpoint; `None`: the endpoint is forgotten.
    pub(super) fn note_judged(&mut self, endpoint: Endpoint, last: Option<Last>) {
        if let Some(disk) = &mut self.disk {
            self.given.journal += 1;
            disk.entries.push(last.map_or(Entry::Gone(endpoint), |last| Entry::Judged(endpoint, last)));
        }
    }

    /// Gives the changes of this turn to the threads.
    pub(super) fn give(&mut self) {
        #[cfg(feature = "fleet")]
        self.give_fleet();
        let Some(disk) = &mut self.disk else { return };
        if disk.entries.is_empty() {
            return;
        }
        // Even without requests the coordinator changes something: connections end, words end.
        if disk.journal.waiting() >= 2 * limits::JOURNAL_BYTES {
            if disk.dropped.is_none() {
                tracing::error!(
                    "the disk has taken no state for too long: requests that change something end their connections until \
                     it has taken all of the state again"
                );
            }
            disk.journal.give_up(true);
            let dropped = disk.dropped.get_or_insert_default();
            dropped.begin_anew();
            let before = disk.entries.len();
            disk.entries.retain(|entry| !dropped.takes(entry));
            self.given.journal -= (before - disk.entries.len()) as u64;
            self.changed = self.given;
            dropped.wait_for(self.given.journal);
            #[cfg(feature = "fleet")]
            {
                disk.ahead.1 = disk.ahead.1.min(self.given.journal);
            }
        }
        disk.journal.give(&mut disk.entries);
    }

    /// If changes were dropped and the disk has taken what came before them: gives a part of what the dropped changes are
    /// about, one after another. When all parts are on the disk, all is well.
    pub(super) fn rewrite(&mut self, coordinator: &Coordinator) {
        let Some(disk) = &mut self.disk else { return };
        let Some(dropped) = &mut disk.dropped else { return };
        if dropped.is_waiting(disk.journal.kept()) {
            return;
        }
        #[cfg(feature = "fleet")]
        let before = disk.entries.len();
        let given = dropped.next_part(coordinator, &mut disk.entries);
        if given == 0 {
            tracing::info!("the disk has taken all of the state again");
            disk.dropped = None;
            disk.journal.give_up(false);
            return;
        }
        #[cfg(feature = "fleet")]
        if self.fleet.is_some() {
            // Among them is what etcd may lack.
            for entry in &mut disk.entries[before..] {
                let number = self.given.fleet;
                let written = std::mem::replace(entry, Entry::Words(Vec::new()));
                *entry = Entry::Own { number, began: None, entry: Box::new(written) };
            }
        }
        self.given.journal += given;
        self.changed = self.given;
        dropped.wait_for(self.given.journal);
    }

    #[cfg(feature = "fleet")]
    fn give_fleet(&mut self) {
        let Some(fleet) = &mut self.fleet else { return };
        if !fleet.happened.is_empty() {
            fleet.fleet.give(&mut fleet.happened);
        }
        // After the changes, so that the mark goes only when etcd has them.
        let ahead = fleet.fleet.is_ahead();
        let Some(disk) = self.disk.as_mut() else { return };
        let known = fleet.fleet.known().unwrap_or(disk.known);
        let turns = disk.ahead.0 != ahead;
        // What is known of etcd is no reason for a transaction.
        if turns || known != disk.known && !disk.entries.is_empty() {
            self.given.journal += 1;
            if turns {
                disk.ahead = (ahead, self.given.journal);
            }
            disk.known = known;
            disk.entries.push(Entry::Fleet { ahead, known, kept: fleet.fleet.kept() });
        }
        let date = fleet.fleet.date();
        if date != disk.date && !disk.entries.is_empty() {
            self.given.journal += 1;
            disk.date = date;
            disk.entries.push(Entry::Date(date));
        }
    }

    /// The changes that a reply now has to wait for; `None`: it need not wait.
    pub(super) fn to_wait_for(&self) -> Option<Mark> {
        (self.replies_wait && !self.changed.is_within(self.kept())).then_some(self.changed)
    }

    /// No request may change anything for now.
    pub(super) fn is_full(&self) -> bool {
        #[cfg(feature = "fleet")]
        if self.fleet.as_ref().is_some_and(|fleet| fleet.fleet.is_full()) {
            return true;
        }
        self.disk.as_ref().is_some_and(|disk| disk.dropped.is_some() || disk.journal.is_full())
    }

    /// How many changes are on the disk, and in etcd.
    pub(super) fn kept(&self) -> Mark {
        let journal = self.disk.as_ref().map_or(0, |disk| disk.journal.kept());
        #[cfg(feature = "fleet")]
        if let Some(ToFleet { fleet, .. }) = &self.fleet {
            // Without etcd the disk must know that etcd lacks something.
            let marked = self.disk.as_ref().is_none_or(|disk| disk.ahead.0 && disk.ahead.1 <= journal);
            let kept = if fleet.is_away() && marked { u64::MAX } else { fleet.kept() };
            return Mark { journal, fleet: kept };
        }
        Mark { journal, fleet: 0 }
    }

    /// Whether every change is kept.
    pub(super) fn has_kept_all(&self) -> bool {
        let dropped = self.disk.as_ref().is_some_and(|disk| disk.dropped.is_some());
        !dropped && self.given.is_within(self.kept())
    }

    /// How often a daemon has started with the state on disk.
    pub(super) fn starts(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.journal.starts())
    }

    pub(super) fn is_in_trouble(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.journal.trouble().is_some())
    }
}

/// The part that there is only with a fleet.
#[cfg(feature = "fleet")]
impl Keeping {
    /// The fleet, if there is one.
    pub(super) fn fleet(&self) -> Option<&Arc<Fleet>> {
        self.fleet.as_ref().map(|fleet| &fleet.fleet)
    }

    /// What changes from now on is, or is not, what the fleet has ordered.
    pub(super) fn set_obeying(&mut self, obeying: bool) {
        if let Some(fleet) = &mut self.fleet {
            fleet.obeying = obeying;
        }
    }

    /// The order with this number is done, or did not fit.
    pub(super) fn note_done(&mut self, number: u64, fits: bool) {
        if let Some(fleet) = &mut self.fleet {
            fleet.happened.push(Happened::Done(number, fits));
        }
    }

    /// Notes what this node's own checks found.
    pub(super) fn note_own(&mut self, judged: Judged) {
        if let Some(fleet) = &mut self.fleet {
            fleet.judged.push(judged);
        }
    }

    /// Gives what this node's own checks found to the fleet.
    pub(super) fn give_own(&mut self, blind: bool) {
        if let Some(ToFleet { fleet, judged, .. }) = &mut self.fleet {
            fleet.give_judged(judged, blind);
        }
    }
}

/// Gives an answer: that of an act whose changes are on the disk, or that they are not.
type Give = Box<dyn FnOnce(bool) + Send>;

/// Answers to the operator's acts that wait, oldest first: since when, and for which changes.
#[derive(Default)]
pub(super) struct WaitingAnswers(VecDeque<(Time, Mark, Give)>);

impl WaitingAnswers {
    pub(super) fn push(&mut self, now: Time, changes: Mark, give: Give) {
        match self.0.len() < limits::ADMIN_CALLS {
            true => self.0.push_back((now, changes, give)),
            false => give(false),
        }
    }

    /// Gives the answers whose changes are kept, and those that have waited too long.
    pub(super) fn give(&mut self, now: Time, kept: Mark) {
        while let Some((_, _, give)) = self.0.pop_front_if(|(_, changes, _)| changes.is_within(kept)) {
            give(true);
        }
        while let Some((_, _, give)) = self.0.pop_front_if(|(since, _, _)| *since + limits::KEEPING_WAIT <= now) {
            give(false);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an answer need not wait any more.
    pub(super) fn is_due(&self, kept: Mark) -> bool {
        self.0.front().is_some_and(|(_, changes, _)| changes.is_within(kept))
    }
}

/// A reply that waits.
struct Waiting {
    /// Until these changes are kept.
    changes: Mark,
    since: Time,
    slot: Slot,
    reply: Box<[u8]>,
}

/// The replies of one shard that wait, oldest first.
#[derive(Default)]
pub(super) struct WaitingReplies(VecDeque<Waiting>);

impl WaitingReplies {
    pub(super) fn push(&mut self, changes: Mark, since: Time, slot: Slot, reply: Box<[u8]>) {
        self.0.push_back(Waiting { changes, since, slot, reply });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a reply need not wait any more.
    pub(super) fn is_due(&self, kept: Mark) -> bool {
        self.0.front().is_some_and(|waiting| waiting.changes.is_within(kept))
    }

    /// Sends the replies whose changes are kept, while there is room.
    pub(super) fn send(&mut self, kept: Mark, down: &mut Sender<Down>) {
        while down.has_room() {
            let Some(Waiting { slot, reply, .. }) = self.0.pop_front_if(|waiting| waiting.changes.is_within(kept))
            else {
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
        while let Some(old) = self.0.pop_front_if(|waiting| waiting.since + limits::KEEPING_WAIT <= now) {
            close(old.slot, CloseReason::NotKept);
        }
    }
}

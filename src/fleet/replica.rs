//! The replica: this node's rows beside the store's.
//!
//! `store.rs` takes what comes from the store and makes transactions, `parts.rs` cuts large values for that, `local.rs`
//! takes what comes from the coordinator, `settle.rs` merges rows and makes orders.

mod local;
mod parts;
mod settle;
mod status;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

pub use status::{NodeStatus, Status};
pub use store::{Batch, Op};

use super::{
    checks::Checks,
    clock::Clock,
    merge::Ours,
    node_row::NodeRow,
    rows::{Content, Group, Key, Lb, Parts, RowKey, Stamp},
};
use crate::{
    journal::{Ahead, Date, Epoch, FleetDate, Known},
    time::Time,
};

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name: [`is_node_name`](super::is_node_name).
    pub node: Box<str>,
    /// Tells the lives of a node apart: higher in each life.
    pub incarnation: u64,
    /// Where people find the node.
    pub address: Box<str>,
    /// The node's version of gwm.
    pub version: Box<str>,
    /// How long a load balancer is kept after its connection ends.
    pub hold_time: Duration,
    /// The most bytes of one value: [`VALUE_BYTES`](super::VALUE_BYTES). Larger ones go to the store in parts.
    pub value_bytes: usize,
}

impl Settings {
    /// A hash of this life of the node.
    fn life(&self) -> u32 {
        let life = self.node.bytes().chain(self.incarnation.to_be_bytes());
        life.fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }

    /// Ids of registrations begin here, in this life of the node.
    fn first_id(&self) -> u64 {
        u64::from(self.life()) << 32
    }
}

/// A point in time, and the date of time zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// The time.
    pub now: Time,
    /// The date of time zero.
    pub epoch: Epoch,
}

impl Moment {
    fn date(self) -> Date {
        self.epoch.date(self.now)
    }
}

/// Two nodes changed the same thing, and something of one change did not stay: for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict(pub String);

/// Most conflicts that are kept for the log.
const CONFLICTS: usize = 100;

/// Contents that were sent and that nobody has confirmed, at most.
const SENT: usize = 8;

type Version = Option<Arc<Content>>;

/// What the coordinator was ordered to do with a row.
struct Ordered {
    number: u64,
    /// What the row is then, if nothing else happens to it.
    want: Version,
    /// The store's version that is taken in with that.
    etcd: Version,
    act: Act,
}

/// How an order changes `mine`.
enum Act {
    /// Becomes what is wanted.
    Whole,
    /// The members of a group change; it had these when the order was made.
    Members(crate::coordinator::GroupChange, Version),
    /// The word has another number now.
    Renumbered(u64, Arc<Content>),
}

/// Versions of one row.
#[derive(Default)]
struct Row {
    mine: Version,
    base: Version,
    etcd: Version,
    /// The revision of the store's version, and its parts, if it is in parts.
    revision: i64,
    parts: Option<Parts>,
    /// Of a group: the load balancer's last session at this node in which it changed the group.
    spoken: Stamp,
    /// There is something to merge.
    pending: bool,
    ordered: Option<Ordered>,
    /// What was written and not seen in the store since, newest last.
    sent: Vec<Version>,
    /// Of that, what the store may have had before the version that it has now, which others wrote; until that is merged.
    overwritten: Vec<Version>,
    /// The first change that the store has not, and the first one of those in the batch in flight.
    since: Option<u64>,
    sent_since: Option<u64>,
    /// The row is in the batch in flight.
    in_flight: bool,
    /// The group belongs to a new life of its load balancer once the order is done.
    is_reborn: bool,
    /// The store's value is not understood: it stays as it is.
    is_unknown: bool,
}

impl Row {
    /// The row may be written as it is.
    fn is_free(&self) -> bool {
        !self.pending && self.ordered.is_none() && !self.in_flight
    }

    /// What this node alone knows of the group.
    fn ours(&self, node: &str) -> Ours {
        let tried = self.overwritten.iter().chain(&self.sent).filter_map(group);
        let written =
            tried.flat_map(|group| &group.members).map(|member| (member.membership.endpoint, member.id)).collect();
        Ours { written, node: node.into(), spoken: self.spoken.clone() }
    }

    /// Nothing is to be done about the row.
    fn is_settled(&self) -> bool {
        self.is_free() && (self.mine == self.etcd || self.is_unknown)
    }
}

/// This node's rows beside the store's.
pub struct Replica {
    settings: Settings,
    rows: BTreeMap<RowKey, Row>,
    /// Rows to merge that nothing else waits for.
    pending: BTreeSet<RowKey>,
    /// Rows that may be written, if they differ from the store's.
    dirty: BTreeSet<RowKey>,
    /// Changes that the store has not, by the rows that they changed.
    waiting: BTreeSet<(u64, RowKey)>,
    /// How many changes the coordinator has made.
    given: u64,
    /// How many orders were given.
    orders: u64,
    /// Orders that are not done.
    open_orders: BTreeMap<u64, RowKey>,
    /// The nodes that are alive, as the store has it, this one too.
    nodes: BTreeMap<Box<str>, NodeRow>,
    /// The coordinator has yet to hear of the nodes.
    nodes_changed: bool,
    /// This node's row has to be written.
    node_dirty: bool,
    blind: bool,
    checks: Checks,
    connected: bool,
    /// Rows that were not settled when the store came back.
    reconciling: BTreeSet<RowKey>,
    /// A batch is in flight.
    in_flight: bool,
    listing: Option<Vec<(Key, Vec<u8>, i64)>>,
    /// There was a listing.
    has_listed: bool,
    /// The store's id, and whether the store was another one before this listing.
    store: Option<u64>,
    is_another: bool,
    /// Tells the store from others, also if their ids are equal: what its own key says.
    identity: Option<u64>,
    /// The store has lost something that this node knew, so it gets another key that tells it from others: the key's revision.
    rename: Option<i64>,
    /// How many such keys this node has written.
    names: u32,
    /// What of the state on disk the store may lack, until the first listing; and what the state on disk knew of the store.
    ahead: Ahead,
    restored: Option<Known>,
    /// Parts of values.
    parts: parts::Waiting,
    sending: Option<parts::Sending>,
    /// Parts in the store that nobody needs.
    rubbish: VecDeque<Key>,
    /// The newest revision that was seen.
    revision: i64,
    last_stamp: Date,
    /// The fleet's date.
    clock: Clock,
    /// Since when load balancers are connected to this node.
    bound: BTreeMap<Box<[u8]>, Time>,
    /// How many registrations there were.
    registrations: u32,
    conflicts: Vec<Conflict>,
}

impl Replica {
    /// A replica without rows, of a node that is alone.
    pub fn new(settings: Settings) -> Replica {
        Replica {
            clock: Clock::new(settings.life()),
            bound: BTreeMap::new(),
            settings,
            rows: BTreeMap::new(),
            pending: BTreeSet::new(),
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            given: 0,
            orders: 0,
            open_orders: BTreeMap::new(),
            nodes: BTreeMap::new(),
            nodes_changed: false,
            node_dirty: true,
            blind: false,
            checks: Checks::default(),
            connected: false,
            reconciling: BTreeSet::new(),
            in_flight: false,
            listing: None,
            has_listed: false,
            store: None,
            is_another: false,
            identity: None,
            rename: None,
            names: 0,
            ahead: Ahead::Nothing,
            restored: None,
            parts: parts::Waiting::default(),
            sending: None,
            rubbish: VecDeque::new(),
            revision: 0,
            last_stamp: Date::default(),
            registrations: 0,
            conflicts: Vec::new(),
        }
    }

    /// How many of the entries that were given are in the store.
    pub fn kept(&self) -> u64 {
        self.waiting.first().map_or(self.given, |(number, _)| number - 1)
    }

    /// How many entries were given.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Whether this node has changes that the store has not.
    pub fn is_ahead(&self) -> bool {
        !self.waiting.is_empty() || !self.dirty.is_empty()
    }

    /// Whether something of the time without the store has not been merged and written yet.
    pub fn is_reconciling(&self) -> bool {
        !self.reconciling.is_empty()
    }

    /// Whether nothing is to be merged, and the coordinator has done all orders.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.open_orders.is_empty()
    }

    /// What the store's own key says: a store with another one has another past.
    pub fn identity(&self) -> Option<u64> {
        self.identity
    }

    /// What is known of the store, if the coordinator has all of it.
    pub fn known(&self) -> Option<Known> {
        let waits = !self.is_settled() || self.listing.is_some() || self.in_flight || self.sending.is_some();
        let store = self.identity.filter(|_| !waits)?;
        Some(Known { store, revision: self.revision.unsigned_abs() })
    }

    /// What the next life of this node has to know of the fleet's date.
    pub fn fleet_date(&mut self, at: Moment) -> FleetDate {
        self.clock.fleet_date(at.now, at.date())
    }

    /// Conflicts since the last call.
    pub fn take_conflicts(&mut self) -> Vec<Conflict> {
        std::mem::take(&mut self.conflicts)
    }

    fn conflict(&mut self, text: impl FnOnce() -> String) {
        if self.conflicts.len() < CONFLICTS {
            self.conflicts.push(Conflict(text()));
        }
    }

    /// A stamp of now, later than all that this node has stamped, and than `after`.
    fn stamp(&mut self, at: Moment, after: Option<&Stamp>) -> Stamp {
        let least = after.map_or(0, |stamp| stamp.date.0).max(self.last_stamp.0).saturating_add(1);
        let date = self.clock.date(at.now, at.date());
        self.last_stamp = Date(date.0.max(least));
        Stamp { date: self.last_stamp, node: self.settings.node.clone() }
    }

    /// The load balancer's connection is one that this node has now.
    fn is_here(&self, lb: &Lb) -> bool {
        is_here(&self.settings, lb)
    }

    fn row(&mut self, key: &RowKey) -> &mut Row {
        if !self.rows.contains_key(key) {
            self.rows.insert(key.clone(), Row::default());
        }
        self.rows.get_mut(key).expect("the row was just made")
    }

    fn my_lb(&self, uid: &[u8]) -> Option<&Lb> {
        lb(&self.rows.get(&RowKey::LoadBalancer(uid.into()))?.mine)
    }

    /// The keys of all groups of a load balancer.
    fn groups_of(&self, uid: &[u8]) -> Vec<RowKey> {
        let first = RowKey::Group(uid.into(), Box::default());
        let of_lb = |key: &RowKey| matches!(key, RowKey::Group(of, _) if **of == *uid);
        self.rows.range(first..).map(|(key, _)| key).take_while(|key| of_lb(key)).cloned().collect()
    }

    /// The row has something to merge.
    fn merge_later(&mut self, key: &RowKey) {
        self.row(key).pending = true;
        self.pending.insert(key.clone());
        self.dirty.remove(key);
    }

    /// The row may differ from the store's, or may not any more.
    fn look(&mut self, key: &RowKey) {
        let Some(row) = self.rows.get_mut(key) else { return };
        if row.is_settled() {
            let waited = row.since.take();
            // The watch may be behind: what it tells of the row's past must find the row. A content that was sent may
            // come to the store yet; a deletion of a row that is not there does nothing.
            let is_past = row.sent.iter().all(Option::is_none) && row.revision <= self.revision;
            let gone = row.mine.is_none() && row.etcd.is_none() && !row.is_unknown && is_past;
            self.dirty.remove(key);
            self.reconciling.remove(key);
            if let Some(number) = waited {
                self.waiting.remove(&(number, key.clone()));
            }
            if gone {
                self.rows.remove(key);
            }
        } else if row.is_free() {
            self.dirty.insert(key.clone());
        } else {
            self.dirty.remove(key); // until it is
        }
    }
}

fn is_here(settings: &Settings, lb: &Lb) -> bool {
    lb.held_until.is_none() && lb.session.node == settings.node && lb.incarnation == settings.incarnation
}

fn lb(version: &Version) -> Option<&Lb> {
    match version.as_deref() {
        Some(Content::LoadBalancer(lb)) => Some(lb),
        _ => None,
    }
}

fn group(version: &Version) -> Option<&Group> {
    match version.as_deref() {
        Some(Content::Group(group)) => Some(group),
        _ => None,
    }
}

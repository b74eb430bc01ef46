//! The truth about load balancers, groups, memberships and endpoints. The coordinator answers every request and decides
//! which load balancer gets which push, and when.
//!
//! The coordinator is a deterministic state machine: it does no I/O, reads no clock, holds no lock, draws no random
//! number. Events and the time come in through its methods; messages go out through an [`Outbox`].
//!
//! A request goes through `check`, which changes nothing and gives a return code or a [`Change`], and through `apply`,
//! which alone changes the tables. Replies and pushes are made by `encode`.
//!
//! Thousands of load balancers register the same members. So what their groups have in common, the ordered members with
//! labels, flags and states, is kept once, as a `listing` with its encoded entries. A `group` is its LB, its name,
//! its listing, and what of the listing its LB was sent. However a content came about, the groups that have it share one
//! listing (`listings`). A change that one group makes moves this group to another listing; groups that make the same
//! change follow it there.
//!
//! What a listing's groups show at some time is an `edition`: one value (state, flags, weight) for each member. A group
//! remembers the edition that was sent by reference. A message is a head of its own (header, LB UID, name, count) and a
//! body, the edition's entries, which is made once and which all LBs share (`show`, `encode`). With
//! no-change/no-send the body has the entries that differ between two editions, made once for each two. A changed weight
//! is noted in each listing once, and opens the push windows of those LBs that have none open (`pushes`).
//!
//! Inside, each module names only the modules that its row lists, which stand above it. This file names all.
//!
//! | module | what it owns | may know |
//! | --- | --- | --- |
//! | `coordinator` | this file: the state machine, and every event | all |
//! | `ids` | ids of LBs, groups and endpoints; tables indexed by ids | |
//! | `settings` | the coordinator's settings and totals | |
//! | `verdicts` | the verdict on every endpoint by every policy | `ids` |
//! | `worlds` | blindness: when the GWM itself is cut off | |
//! | `doubts` | doubt about a group: when so much of it is lost that the network may be at fault | `ids` |
//! | `watches` | which endpoints are watched, and the orders that shards have yet to get | `ids`, `worlds` |
//! | `history` | the last changes of each endpoint | `ids` |
//! | `remembered` | judgements over a restart | `ids` |
//! | `feed` | the newest events, for those who follow | |
//! | `words` | the operator's words | |
//! | `authors` | who said and ended the words that are being applied | `words` |
//! | `shares` | checks that the nodes of a fleet share | `ids` |
//! | `endpoints` | endpoints | `ids`, `settings`, `shares`, `verdicts`, `worlds`, `doubts`, `watches`, `history`, `remembered`, `feed`, `words`, `authors` |
//! | `edition` | what groups show of one version of a listing | |
//! | `listing` | the members that groups of different LBs have in common | `ids`, `verdicts`, `edition` |
//! | `show` | listing → edition → encoded entries | `verdicts`, `edition`, `listing` |
//! | `listings` | all listings, each once | `ids`, `endpoints`, `edition`, `listing` |
//! | `group` | a group: its listing, and what its LB was sent | `ids`, `verdicts`, `edition`, `listing`, `show` |
//! | `load_balancer` | load balancers | `ids` |
//! | `alarms` | the timers of load balancers, as a queue | `ids`, `load_balancer` |
//! | `tables` | all tables | `ids`, `settings`, `doubts`, `endpoints`, `listing`, `listings`, `group`, `load_balancer` |
//! | `change` | a change of the tables, as data | `ids`, `words` |
//! | `rights` | what a sender may do | `coordinator`, `ids`, `change` |
//! | `unmatched` | entries of the operator's files that matched nothing for an hour | |
//! | `outbox` | where messages go | `ids`, `doubts`, `words`, `change`, `rights`, `unmatched` |
//! | `check` | request → return code or change | `coordinator`, `ids`, `change`, `rights` |
//! | `apply` | change → tables | `coordinator`, `ids`, `listing`, `load_balancer`, `alarms`, `change`, `outbox`, `check` |
//! | `restore` | tables of an earlier process → tables | `coordinator`, `ids`, `listing`, `load_balancer`, `change`, `outbox`, `check`, `words` |
//! | `operator` | what the operator wants → changes; who hears of changes | `coordinator`, `ids`, `feed`, `history`, `words`, `listing`, `change`, `outbox`, `check` |
//! | `orders` | what a fleet wants → changes | `coordinator`, `ids`, `words`, `listing`, `load_balancer`, `change`, `outbox`, `check`, `shares`, `worlds` |
//! | `encode` | groups → messages | `coordinator`, `ids`, `settings`, `tables`, `outbox`, `check` |
//! | `pushes` | which load balancer gets a push, and when | `coordinator`, `ids`, `load_balancer`, `outbox`, `encode` |
//! | `judging` | the operator's roster, judgements, doubts, watch orders | `coordinator`, `ids`, `verdicts`, `worlds`, `doubts`, `watches`, `endpoints`, `feed`, `words`, `listing`, `tables`, `outbox` |
//! | `view` | bounded pages of the tables, for the admin side | `coordinator`, `ids`, `settings`, `feed`, `history`, `words`, `worlds`, `verdicts`, `listing`, `group`, `load_balancer`, `outbox`, `operator` |

mod alarms;
mod apply;
mod authors;
mod change;
mod check;
mod doubts;
mod edition;
mod encode;
mod endpoints;
mod feed;
mod group;
mod history;
mod ids;
mod judging;
mod listing;
mod listings;
mod load_balancer;
mod operator;
mod orders;
mod outbox;
mod pushes;
mod remembered;
mod restore;
mod rights;
mod settings;
mod shares;
mod show;
mod tables;
mod unmatched;
mod verdicts;
mod view;
mod watches;
mod words;
mod worlds;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

pub use crate::time::{Since, Time};
use crate::{
    access::{Access, Peer},
    sasp::{GroupData, Health, LbFlags, Message, Reason, ReturnCode},
    session,
};
use alarms::Alarms;
pub use change::{Change, CloseReason, Contested};
use check::Found;
pub use doubts::{DoubtTurn, Doubted};
pub use feed::Event;
pub use history::{By, InGroup, Past, What, Who};
pub use ids::ConnectionId;
use ids::LbId;
use load_balancer::Timer;
pub use operator::{Act, ActRefused, Acted};
pub use orders::{GroupChange, LbState, Membership, Order, Place};
pub use outbox::{Kind, Outbox};
pub use restore::Held;
use rights::Denied;
pub use rights::{REFUSALS, Refusal, Refused};
pub use settings::{Settings, Totals};
pub use shares::{Node, endpoint_hash};
use tables::Tables;
pub use unmatched::Unmatched;
pub use view::{
    Answer, Ask, Cursor, EndpointRow, EndpointState, EventRow, Filter, FixedBy, Full, GroupRow, LbRow, MemberRow, Page,
    Quiesce, Rows, StateFilter, TotalsRow,
};
pub use watches::WatchOrder;
pub use words::{Pattern, Saying, Word, WordRefused, author};
pub use worlds::World;

/// One connection.
#[derive(Clone, Debug, Default)]
struct Connection {
    generation: u32,
    open: bool,
    /// The LB that the connection is bound to.
    lb: Option<LbId>,
    /// Why the connection is being closed; it speaks for no LB any more.
    dismissed: Option<CloseReason>,
    /// Number of messages that are committed and not delivered yet. Only the coordinator counts them.
    in_flight: u32,
    /// A push to the LB is due and waits until nothing is in flight.
    waited_for: bool,
}

/// After so many memberships of forgotten LBs, one [`Coordinator::poll`] ends and leaves the other LBs for the next.
const DROPS_PER_POLL: u32 = 10_000;

/// The state machine.
pub struct Coordinator {
    settings: Settings,
    tables: Tables,
    /// By shard and slot.
    connections: Vec<Vec<Connection>>,
    /// How many connections are waited for.
    waited_for: u32,
    /// The peer of each connection; not in `connections`, because a push reads those.
    peers: Vec<Vec<Option<Peer>>>,
    alarms: Alarms,
    /// By shard: LBs whose push is due, with their connection.
    ready: Vec<VecDeque<(LbId, ConnectionId)>>,
    /// Number of deregistrations by their reason, which is a byte.
    reasons: BTreeMap<Reason, u64>,
    /// Loops over all endpoints or groups that are not finished.
    sweep: judging::Sweep,
    unmatched: unmatched::Watch,
    /// The shard whose pushes were built first in the last call.
    first_shard: usize,
    /// A buffer for the changes of one group.
    steps: listing::Steps,
    /// Buffers that pushes and replies reuse.
    scratch: encode::Scratch,
}

impl Coordinator {
    /// An empty coordinator for `shards` shards.
    pub fn new(settings: Settings, shards: u16) -> Coordinator {
        let mut unmatched = unmatched::Watch::default();
        unmatched.set_roster(&settings.roster);
        unmatched.set_access(&settings.access, std::iter::empty());
        Coordinator {
            tables: Tables::new(&settings),
            settings,
            connections: vec![Vec::new(); shards.into()],
            waited_for: 0,
            peers: vec![Vec::new(); shards.into()],
            alarms: Alarms::default(),
            ready: vec![VecDeque::new(); shards.into()],
            reasons: BTreeMap::new(),
            sweep: judging::Sweep::default(),
            unmatched,
            first_shard: 0,
            steps: listing::Steps::default(),
            scratch: encode::Scratch::default(),
        }
    }

    /// A peer has connected. The connection's slot is not in use.
    pub fn opened(&mut self, connection: ConnectionId, peer: Peer) {
        let shard = usize::from(connection.shard);
        let (slots, peers) = (&mut self.connections[shard], &mut self.peers[shard]);
        let slot = connection.slot as usize;
        if slots.len() <= slot {
            slots.resize_with(slot + 1, Connection::default);
            peers.resize(slot + 1, None);
        }
        slots[slot] = Connection { generation: connection.generation, open: true, ..Connection::default() };
        // A socket for IPv6 shows IPv4 addresses in another form.
        peers[slot] = Some(Peer { address: peer.address.to_canonical(), ..peer });
    }

    /// A well-formed request arrived (`id` from its header). Exactly one reply is committed before this returns,
    /// perhaps with closes. The caller has seen that the shard takes a reply.
    pub fn request(
        &mut self,
        now: Time,
        connection: ConnectionId,
        id: u32,
        message: &Message<'_>,
        out: &mut impl Outbox,
    ) {
        if self.connection(connection).is_none() {
            return; // the shard reported its end before
        }
        let names = check::names(message);
        let code = match self.check_sender(connection, message, &names) {
            Ok(binding) => {
                if let Some(binding) = binding {
                    self.apply(now, binding, Found::default(), out);
                }
                match message {
                    Message::GetWeightsRequest(_) => match self.check_listing(&names) {
                        Ok((targets, all)) => return self.reply_weights(now, connection, id, &targets, all, out),
                        Err(code) => code,
                    },
                    _ => self.check_and_apply(now, message, &names, out),
                }
            }
            Err(Denied::Code(code)) => code,
            Err(Denied::NotAccepted { cause, lb_uid, member }) => {
                out.refused(&Refused { peer: self.peer(connection), cause, lb_uid, member });
                ReturnCode::NOT_ACCEPTED
            }
        };
        let buffer = out.buffer(connection.shard);
        let start = buffer.len();
        let reply = message.component_type().reply().unwrap_or(message.component_type());
        session::write_reply(id, reply, code, self.settings.poll_interval_seconds, buffer);
        self.commit(connection, start, None, Kind::Reply, out);
    }

    /// Does what the request of an accepted sender asks; gives the return code.
    fn check_and_apply<'a>(
        &mut self,
        now: Time,
        message: &Message<'a>,
        names: &[GroupData<'a>],
        out: &mut impl Outbox,
    ) -> ReturnCode {
        let checked = self.check_content(message, names).and_then(|(change, found)| {
            self.check_limits(&change, &found.targets)?;
            Ok((change, found))
        });
        match checked {
            Ok((change, found)) => {
                self.apply(now, change, found, out);
                ReturnCode::SUCCESSFUL
            }
            Err(code) => code,
        }
    }

    /// The shard has written so many of the messages that were committed to this connection, or all, if there are
    /// fewer.
    pub fn delivered(&mut self, connection: ConnectionId, messages: u32) {
        let Some(known) = self.connection(connection) else { return };
        known.in_flight = known.in_flight.saturating_sub(messages);
        // Mostly nothing waits. Then the LB, whose memory is cold, is not read.
        if known.in_flight == 0 && std::mem::take(&mut known.waited_for) {
            let lb = known.lb;
            self.waited_for -= 1;
            lb.into_iter().for_each(|lb| self.make_ready(lb));
        }
    }

    /// Whether a push waits for a call of [`Coordinator::delivered`].
    pub fn waits_for_delivery(&self) -> bool {
        self.waited_for > 0
    }

    /// The connection has ended; its slot may be used again. The shard drops messages that were committed to it since.
    pub fn closed(&mut self, now: Time, connection: ConnectionId, out: &mut impl Outbox) {
        let Some(known) = self.connection(connection) else { return };
        known.open = false;
        let (lb, waited_for) = (known.lb.take(), std::mem::take(&mut known.waited_for));
        self.waited_for -= u32::from(waited_for);
        self.peers[usize::from(connection.shard)][connection.slot as usize] = None;
        if let Some(lb) = lb {
            let lb_uid = self.tables.lbs[lb].uid.clone();
            self.apply(now, Change::Unbind { lb_uid: &lb_uid, close: None }, Found::default(), out);
        }
    }

    /// Puts new rules in force: a connection that may no longer be its LB is closed. Earlier registrations stay.
    pub fn set_access(&mut self, now: Time, access: Arc<Access>, out: &mut impl Outbox) {
        self.settings.access = access;
        self.unmatched.set_access(&self.settings.access, self.tables.lbs.iter().map(|(_, known)| &*known.uid));
        let bound = self.tables.lbs.iter().filter_map(|(_, known)| Some((&known.uid, known.connection?)));
        let ended: Vec<Box<[u8]>> = bound
            .filter(|(uid, connection)| !self.settings.access.is_lb(self.peer(*connection), uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for lb_uid in ended {
            let change = Change::Unbind { lb_uid: &lb_uid, close: Some(CloseReason::NotPermitted) };
            self.apply(now, change, Found::default(), out);
        }
    }

    /// Does what is due at `now`: windows, refreshes, hold times; commits pushes while shards have room. Call this
    /// after every batch of events and at [`Coordinator::next_deadline`].
    pub fn poll(&mut self, now: Time, out: &mut impl Outbox) {
        self.end_words(now, out);
        self.reconsider(now, out);
        self.tables.share(now);
        self.unmatched.take(now, &self.settings.roster).for_each(|unmatched| out.unmatched(&unmatched));
        let before = self.tables.memberships;
        while before - self.tables.memberships < DROPS_PER_POLL {
            let Some(alarm) = self.alarms.pop_due(now) else { break };
            let Some(lb) = self.tables.lbs.get_mut(alarm.lb) else { continue };
            if lb.serial != alarm.serial {
                continue;
            }
            let deadline = lb.deadline(alarm.timer);
            deadline.queued = false;
            match deadline.at {
                None => {}
                Some(at) if at > now => self.set_deadline(alarm.lb, alarm.timer, at),
                Some(_) => {
                    deadline.at = None;
                    self.alarm(now, alarm.lb, alarm.timer, out);
                }
            }
        }
        // No push shows half of a new roster, or losses of a group before the doubt that they are a reason for.
        if self.unfinished().is_none() {
            self.flush(now, out);
            self.go_on();
        }
    }

    /// When to call [`Coordinator::poll`] next, perhaps earlier than needed; `None` if only an event can bring work.
    pub fn next_deadline(&self) -> Option<Time> {
        let tables = &self.tables;
        let others = [
            self.alarms.next_time(),
            tables.endpoints.next_deadline(),
            tables.endpoints.remembered.next_end(),
            tables.endpoints.shares.as_ref().and_then(|shares| shares.next_end()),
            tables.endpoints.words.next_end(),
            tables.doubts.next_end(),
            tables.listings.next_deadline(),
            self.unmatched.next_deadline(),
        ];
        self.unfinished().or_else(|| self.next_loops()).or_else(|| others.into_iter().flatten().min())
    }

    /// How much the coordinator holds now.
    pub fn totals(&self) -> Totals {
        self.tables.totals()
    }

    /// The last health and flags of a load balancer that is known.
    pub fn lb_state(&self, uid: &[u8]) -> Option<(Health, LbFlags)> {
        let known = &self.tables.lbs[self.tables.find_lb(uid)?];
        Some((known.health, known.flags))
    }

    /// Number of accepted Deregistration Requests by their reason.
    pub fn deregistrations(&self) -> &BTreeMap<Reason, u64> {
        &self.reasons
    }

    fn alarm(&mut self, now: Time, lb: LbId, timer: Timer, out: &mut impl Outbox) {
        match timer {
            Timer::Window => self.make_due(lb),
            Timer::Refresh => {
                let next = self.tables.lbs[lb].next_refresh(now, self.settings.push_refresh);
                self.set_deadline(lb, timer, next);
                let known = &mut self.tables.lbs[lb];
                if !known.delta() {
                    known.all = true;
                    known.deadline(Timer::Window).at = None; // the refresh carries what the window collected
                    self.make_due(lb);
                }
            }
            Timer::Hold => {
                let lb_uid = self.tables.lbs[lb].uid.clone();
                self.apply(now, Change::Forget { lb_uid: &lb_uid }, Found::default(), out);
            }
        }
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let known = self.connections.get_mut(usize::from(id.shard))?.get_mut(id.slot as usize)?;
        (known.open && known.generation == id.generation).then_some(known)
    }

    fn find_connection(&self, id: ConnectionId) -> Option<&Connection> {
        let known = self.connections.get(usize::from(id.shard))?.get(id.slot as usize)?;
        (known.open && known.generation == id.generation).then_some(known)
    }

    /// The peer of a connection, if it is open.
    fn known_peer(&self, connection: ConnectionId) -> Option<&Peer> {
        self.find_connection(connection)?;
        Some(self.peer(connection))
    }

    /// The peer of an open connection.
    fn peer(&self, connection: ConnectionId) -> &Peer {
        let slots = self.peers.get(usize::from(connection.shard));
        let peer = slots.and_then(|slots| slots.get(connection.slot as usize)?.as_ref());
        peer.expect("an open connection has a peer")
    }

    fn commit(
        &mut self,
        connection: ConnectionId,
        start: usize,
        body: Option<&Bytes>,
        kind: Kind,
        out: &mut impl Outbox,
    ) {
        if let Some(known) = self.connection(connection) {
            known.in_flight += 1;
        }
        out.commit(connection, start, body, kind);
    }
}

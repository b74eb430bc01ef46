//! Bounded pages of the tables, for the admin side. A page looks at a bounded number of rows, whatever it is asked for, so
//! that it delays nobody: with a filter it may have few rows, and still a next page. A row says what is so now.

mod members;
mod rows;

use std::{net::IpAddr, sync::Arc};

use super::{
    Coordinator, Since, Time,
    feed::Event,
    history::{By, Past},
    ids::{Id, LbId},
    operator::{Act, ActRefused, Acted},
    outbox::Outbox,
    settings::Totals,
    words::Word,
    worlds::World,
};
use crate::{
    judgement::{Scale, WatchId},
    limits,
    sasp::Endpoint,
};

pub use rows::{EndpointRow, EndpointState, FixedBy, GroupRow, LbRow, MemberRow};

/// How much work one page is, at most: looks at rows, each of which is some tens of nanoseconds.
const WORK_PER_PAGE: usize = 8192;

/// How much work it is to make a row.
const WORK_PER_ROW: usize = 8;

/// How many members of a group are looked at in one unit of work.
const MEMBERS_PER_WORK: usize = 8;

/// Where a page begins: a place in the tables. Entries may come and go between two pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64, pub u64);

/// Which rows of a list are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The begin.
    pub after: Cursor,
    /// The most rows, up to [`limits::ADMIN_ROWS`].
    pub limit: usize,
}

/// Which states of a member are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFilter {
    /// Contact, confidence and weight.
    Up,
    /// No contact.
    Down,
    /// Contact and confidence, no weight, not quiesced.
    Drained,
    /// Contact, not confident, not quiesced.
    Unknown,
    /// Quiesced by anybody.
    Quiesced,
    /// No check applies, or the weight is fixed.
    Unwatched,
}

/// What is wanted; `None` is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this load balancer.
    pub lb_uid: Option<Box<[u8]>>,
    /// Of groups with this name.
    pub group: Option<Box<[u8]>>,
    /// At this address, in any spelling.
    pub address: Option<IpAddr>,
    /// With this port.
    pub port: Option<u16>,
    /// With this protocol.
    pub protocol: Option<u8>,
    /// In this state.
    pub state: Option<StateFilter>,
    /// Load balancers that are connected, or that are not.
    pub connected: Option<bool>,
}

impl Filter {
    /// Whether the filter wants this endpoint.
    pub fn fits(&self, endpoint: &Endpoint) -> bool {
        self.port.is_none_or(|port| port == endpoint.port)
            && self.protocol.is_none_or(|protocol| protocol == endpoint.protocol)
            && self.address.is_none_or(|address| address.to_canonical() == endpoint.canonical().ip())
    }

    /// The spellings of the only endpoint that fits, if only one can.
    fn endpoints(&self) -> Option<[Endpoint; 2]> {
        let (address, protocol, port) = (self.address?.to_canonical(), self.protocol?, self.port?);
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            IpAddr::V6(_) => address,
        };
        Some([address, mapped].map(|address| Endpoint::new(address, protocol, port)))
    }
}

/// A question or an order of the admin side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// How much there is.
    Totals,
    /// Load balancers.
    LoadBalancers(Filter, Page),
    /// Groups.
    Groups(Filter, Page),
    /// Memberships.
    Members(Filter, Page),
    /// One membership: load balancer (if there is only one with such a group), group, endpoint.
    Member(Filter),
    /// Endpoints.
    Endpoints(Filter, Page),
    /// One endpoint.
    Endpoint(Filter),
    /// The operator's words in force.
    Words,
    /// At most so many events after this number.
    Events(u64, usize),
    /// An act of the operator.
    Act(Act),
}

/// Some rows of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

/// What the answer to a question about one endpoint has besides its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// The watch of the endpoint, and the shard that has it.
    pub watch: Option<(WatchId, u16)>,
    /// The changes, newest first.
    pub history: Vec<Past>,
    /// The operator's words that match.
    pub words: Vec<Arc<Word>>,
    /// Who quiesces it.
    pub quiesces: Vec<Quiesce>,
}

/// A quiesce that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiesce {
    /// By whose word.
    pub by: By,
    /// Since when, if that is still known.
    pub since: Option<Since>,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// How much there is.
    Totals(TotalsRow),
    /// Load balancers.
    LoadBalancers(Rows<LbRow>),
    /// Groups.
    Groups(Rows<GroupRow>),
    /// Memberships.
    Members(Rows<MemberRow>),
    /// One membership, with the scale of its group.
    Member(Box<(MemberRow, Option<Scale>, EndpointRow, Full)>),
    /// Endpoints.
    Endpoints(Rows<EndpointRow>),
    /// One endpoint.
    Endpoint(Box<(EndpointRow, Full)>),
    /// The operator's words.
    Words(Vec<Arc<Word>>),
    /// Events, with the number of the last one; or some are lost.
    Events {
        /// The events that are not lost.
        events: Vec<EventRow>,
        /// The number of the last one.
        last: u64,
        /// Events before the first one are lost.
        lost: bool,
    },
    /// What an act did.
    Acted(Result<Acted, ActRefused>),
    /// An act is done, and the disk has not taken it yet.
    NotKept,
    /// Nothing has this name.
    NotFound,
    /// The member is in too many groups to look for one by its name alone.
    TooMany,
}

/// An event, with what is so now.
#[derive(Clone, Debug, PartialEq)]
pub enum EventRow {
    /// An endpoint, if some group still lists it.
    Endpoint(Box<EndpointRow>),
    /// Another event.
    Other(Event),
    /// A world is blind or not: own, foreign.
    Blind(bool, bool),
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalsRow {
    /// Of all tables.
    pub totals: Totals,
    /// Load balancers that are connected.
    pub connected: usize,
    /// The operator's words.
    pub words: usize,
    /// Changes of endpoints that are kept.
    pub changes: usize,
    /// Groups of the load balancer that has the most, and members likewise.
    pub most_groups: usize,
    /// Members of all groups of the load balancer that has the most.
    pub most_memberships: usize,
    /// Blindness at this machine's own addresses, and at others.
    pub blind: (bool, bool),
}

/// How much of a page is done.
struct Work {
    left: usize,
    rows: usize,
}

impl Work {
    fn new(page: Page) -> Work {
        Work { left: WORK_PER_PAGE, rows: page.limit.min(limits::ADMIN_ROWS) }
    }

    /// Whether the page ends here.
    fn is_done(&self) -> bool {
        self.left == 0 || self.rows == 0
    }

    fn look(&mut self, work: usize) {
        self.left = self.left.saturating_sub(work);
    }

    fn row(&mut self) {
        self.look(WORK_PER_ROW);
        self.rows -= 1;
    }
}

impl Coordinator {
    /// Answers a question, or does what an order says. Takes a bounded time, except for orders.
    pub fn answer(&mut self, now: Time, ask: Ask, out: &mut impl Outbox) -> Answer {
        match ask {
            Ask::Act(act) => Answer::Acted(self.act(now, act, out)),
            ask => self.look_at(ask).unwrap_or(Answer::NotFound),
        }
    }

    fn look_at(&self, ask: Ask) -> Option<Answer> {
        Some(match ask {
            Ask::Totals => Answer::Totals(self.totals_row()),
            Ask::LoadBalancers(filter, page) => Answer::LoadBalancers(self.lb_rows(&filter, page)?),
            Ask::Groups(filter, page) => Answer::Groups(self.group_rows(&filter, page)?),
            Ask::Members(filter, page) => Answer::Members(self.member_rows(&filter, page)?),
            Ask::Member(filter) => self.member_in_full(&filter)?,
            Ask::Endpoints(filter, page) => Answer::Endpoints(self.endpoint_rows(&filter, page)),
            Ask::Endpoint(filter) => {
                let endpoints = &self.tables.endpoints;
                let id = filter.endpoints()?.iter().find_map(|endpoint| endpoints.find(endpoint))?;
                Answer::Endpoint(Box::new((self.endpoint_row(id), self.full(id, None))))
            }
            Ask::Words => Answer::Words(self.tables.endpoints.words.list().to_vec()),
            Ask::Events(after, limit) => self.events(after, limit),
            Ask::Act(_) => return None,
        })
    }

    fn totals_row(&self) -> TotalsRow {
        let endpoints = &self.tables.endpoints;
        let (connected, most_groups, most_memberships) = self.tables.of_lbs();
        TotalsRow {
            totals: self.totals(),
            connected,
            most_groups,
            most_memberships,
            words: endpoints.words.list().len(),
            changes: endpoints.history.len(),
            blind: (self.is_blind(World::Own), self.is_blind(World::Foreign)),
        }
    }

    fn events(&self, after: u64, limit: usize) -> Answer {
        let feed = &self.tables.endpoints.feed;
        let Some(events) = feed.after(after, limit) else {
            return Answer::Events { events: Vec::new(), last: feed.last(), lost: true };
        };
        let mut last = after;
        let mut rows: Vec<EventRow> = Vec::new();
        for event in events {
            last += 1;
            let row = match event {
                Event::Endpoint(endpoint) => {
                    let Some(id) = self.tables.endpoints.find(endpoint) else { continue };
                    EventRow::Endpoint(Box::new(self.endpoint_row(id)))
                }
                Event::Blind => EventRow::Blind(self.is_blind(World::Own), self.is_blind(World::Foreign)),
                other => EventRow::Other(other.clone()),
            };
            rows.push(row);
        }
        Answer::Events { events: rows, last, lost: false }
    }

    /// The load balancer that the filter names; `None` if there is none with that UID.
    fn named_lb(&self, filter: &Filter) -> Option<Option<LbId>> {
        match &filter.lb_uid {
            Some(uid) => self.tables.find_lb(uid).map(Some),
            None => Some(None),
        }
    }

    fn lb_rows(&self, filter: &Filter, page: Page) -> Option<Rows<LbRow>> {
        let mut rows = Vec::new();
        let mut next = None;
        if let Some(lb) = self.named_lb(filter)? {
            let connected = self.tables.lbs[lb].is_connected();
            rows.extend(filter.connected.is_none_or(|wanted| wanted == connected).then(|| self.lb_row(lb)));
            return Some(Rows { rows, next });
        }
        let mut work = Work::new(page);
        let mut at = page.after.0 as usize;
        while at < self.tables.lbs.end() {
            if work.is_done() {
                next = Some(Cursor(at as u64, 0));
                break;
            }
            work.look(1);
            let lb = LbId::at(at);
            at += 1;
            let Some(known) = self.tables.lbs.get(lb) else { continue };
            if filter.connected.is_none_or(|wanted| wanted == known.is_connected()) {
                rows.push(self.lb_row(lb));
                work.row();
            }
        }
        Some(Rows { rows, next })
    }
}

//! What is known of the groups that agent-checks ask about. A group is read from the coordinator when someone asks about
//! it, so what nobody asks about costs nothing; and not more often than its age allows, however many ask.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use super::Mail;
use crate::{
    agent_checks::{Members, Place, State, Style},
    coordinator::{Answer, Ask, Cursor, Filter, MemberRow, Page},
    limits,
    runtime::coordinator_thread::{AdminCall, CoordinatorControl},
    sasp::Endpoint,
};

/// A younger group is not read again.
const FRESH: Duration = Duration::from_millis(250);

/// An older group is read before it answers; between the two, it answers and is read.
const STALE: Duration = Duration::from_secs(1);

/// Nobody has asked about a group for so long: it is forgotten if there are too many.
const UNUSED: Duration = Duration::from_secs(30);

/// The most questions that the coordinator has at a time: the admin side needs the queue, too.
const QUESTIONS: usize = 8;

/// The most pages of one reading.
const PAGES: usize = 256;

/// The pause after which a full queue is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// Whether a place can answer.
pub(super) enum Known<'p> {
    /// With these members.
    Now(&'p Members),
    /// When the coordinator has answered.
    Later,
    /// There are too many places.
    Never,
}

/// A check that waits: its connection, the member, how to answer.
type Waiting = (u64, Box<[u8]>, Style);

#[derive(Default)]
struct Entry {
    members: Members,
    /// When the members were read.
    read_at: Option<Instant>,
    used_at: Option<Instant>,
    reading: Option<Reading>,
    waiting: Vec<Waiting>,
}

/// A reading that is not whole yet.
struct Reading {
    filter: Filter,
    after: Cursor,
    rows: Vec<MemberRow>,
    pages: usize,
}

/// All places.
pub(super) struct Places {
    control: Arc<CoordinatorControl>,
    lb: Option<Box<[u8]>>,
    mail: Arc<Mail>,
    waker: Waker,
    all: HashMap<Place, Entry>,
    /// Places whose next page is to be asked for.
    to_ask: VecDeque<Place>,
    under_way: usize,
    /// The queue was full: when to try again.
    again_at: Option<Instant>,
}

impl Places {
    pub(super) fn new(
        control: Arc<CoordinatorControl>,
        lb: Option<Box<[u8]>>,
        mail: Arc<Mail>,
        waker: Waker,
    ) -> Places {
        let (all, to_ask) = Default::default();
        Places { control, lb, mail, waker, all, to_ask, under_way: 0, again_at: None }
    }

    /// When to ask again, if the queue was full.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.again_at
    }

    /// Looks at a place, which is read if it is not fresh.
    pub(super) fn look(&mut self, place: &Place, now: Instant) -> Known<'_> {
        if !self.all.contains_key(place) {
            if self.all.len() >= limits::AGENT_PLACES {
                self.all.retain(|_, entry| {
                    entry.reading.is_some()
                        || entry.used_at.is_some_and(|at| now.saturating_duration_since(at) < UNUSED)
                });
            }
            if self.all.len() >= limits::AGENT_PLACES {
                return Known::Never;
            }
            self.all.insert(place.clone(), Entry::default());
        }
        let entry = self.all.get_mut(place).expect("it is there now");
        entry.used_at = Some(now);
        let age = entry.read_at.map(|at| now.saturating_duration_since(at));
        if age.is_none_or(|age| age >= FRESH) && entry.reading.is_none() {
            entry.reading = Some(Reading::new(first_filter(place, &self.lb)));
            self.to_ask.push_back(place.clone());
        }
        if age.is_some_and(|age| age < STALE) { Known::Now(&entry.members) } else { Known::Later }
    }

    /// Lets a check wait for a place that can not answer yet.
    pub(super) fn wait(&mut self, place: &Place, token: u64, member: Box<[u8]>, style: Style) {
        if let Some(entry) = self.all.get_mut(place) {
            entry.waiting.push((token, member, style));
        }
    }

    /// The checks that can be answered now.
    pub(super) fn woken(&mut self, place: &Place) -> Vec<Waiting> {
        let whole = self.all.get_mut(place).filter(|entry| entry.reading.is_none());
        whole.map_or_else(Vec::new, |entry| std::mem::take(&mut entry.waiting))
    }

    /// What is so of a member.
    pub(super) fn state(&self, place: &Place, member: &[u8]) -> Option<State> {
        self.all.get(place)?.members.state(member)
    }

    /// Asks the coordinator, as far as it may be asked.
    pub(super) fn ask(&mut self, now: Instant) {
        self.again_at = None;
        while self.under_way < QUESTIONS {
            let Some(place) = self.to_ask.front() else { return };
            let Some(reading) = self.all.get(place).and_then(|entry| entry.reading.as_ref()) else {
                self.to_ask.pop_front();
                continue;
            };
            let (mail, waker, of) = (self.mail.clone(), self.waker.clone(), place.clone());
            let answer = move |answer| {
                mail.lock().unwrap_or_else(PoisonError::into_inner).push((of, answer));
                waker.wake();
            };
            let call =
                AdminCall { ask: Ask::Members(reading.filter.clone(), reading.page()), answer: Box::new(answer) };
            if self.control.calls.push(call).is_err() {
                self.again_at = Some(now + RETRY);
                return;
            }
            self.control.bell.ring();
            self.to_ask.pop_front();
            self.under_way += 1;
        }
    }

    /// Takes an answer of the coordinator; the place is whole, or its next page is to be asked for.
    pub(super) fn take(&mut self, place: &Place, answer: Answer, now: Instant) {
        self.under_way -= 1;
        let Some(entry) = self.all.get_mut(place) else { return };
        let Some(reading) = &mut entry.reading else { return };
        if reading.take(answer) {
            self.to_ask.push_back(place.clone());
            return;
        }
        let rows = entry.reading.take().map(|reading| reading.rows).unwrap_or_default();
        let members: Vec<_> = rows.into_iter().map(|row| (row.state.endpoint, row.label, row.entry)).collect();
        entry.members = Members::new(&members);
        entry.read_at = Some(now);
    }
}

/// The filter of the first page: of a group, or of all memberships of an endpoint.
fn first_filter(place: &Place, lb: &Option<Box<[u8]>>) -> Filter {
    let filter = Filter { lb_uid: lb.clone(), ..Filter::default() };
    match place {
        Place::Group(name) => Filter { group: Some(name.clone()), ..filter },
        Place::Endpoint(endpoint) => of_endpoint(endpoint, filter),
    }
}

fn of_endpoint(endpoint: &Endpoint, filter: Filter) -> Filter {
    let (address, port, protocol) = (Some(endpoint.ip()), Some(endpoint.port), Some(endpoint.protocol));
    Filter { address, port, protocol, ..filter }
}

impl Reading {
    fn new(filter: Filter) -> Reading {
        Reading { filter, after: Cursor::default(), rows: Vec::new(), pages: 0 }
    }

    /// Whether the reading still looks for a group: the one of this name of any load balancer, or one with this member.
    fn is_search(&self) -> bool {
        self.filter.lb_uid.is_none() || self.filter.address.is_some()
    }

    fn page(&self) -> Page {
        Page { after: self.after, limit: if self.is_search() { 1 } else { limits::ADMIN_ROWS } }
    }

    /// Takes a page; says whether another one is needed.
    fn take(&mut self, answer: Answer) -> bool {
        let Answer::Members(page) = answer else { return false };
        if let (true, Some(found)) = (self.is_search(), page.rows.first()) {
            // A member's share is known from its whole group.
            let (lb_uid, group) = (Some(found.lb_uid.clone()), Some(found.group.clone()));
            *self = Reading::new(Filter { lb_uid, group, ..Filter::default() });
            return true;
        }
        self.pages += 1;
        self.rows.extend(page.rows);
        self.after = page.next.unwrap_or_default();
        page.next.is_some() && self.pages < PAGES
    }
}

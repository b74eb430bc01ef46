//! What is known of the groups that agent-checks ask about. What a check asks for is in one group of one load balancer; each
//! group has one reading, which all its members share, however many are asked for. A group is read from the coordinator
//! when someone asks about it, so what nobody asks about costs nothing; and not more often than its age allows.
//!
//! Anyone can ask for names that are not known. So a search for a name has a turn of its own after the readings, one at a
//! time, and few checks may wait for searches.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use super::Mail;
use crate::{
    agent_checks::{Members, Place, Question, State},
    coordinator::{Answer, Ask, Cursor, Filter, MemberRow, Page},
    limits,
    runtime::coordinator_thread::{AdminCall, CoordinatorControl},
    sasp::Endpoint,
};

/// A younger group is not read again.
const FRESH: Duration = Duration::from_millis(250);

/// An older group is read before it answers; between the two, it answers and is read. What was not found is not searched
/// again for so long.
const STALE: Duration = Duration::from_secs(1);

/// What nobody has asked about for so long is forgotten.
const UNUSED: Duration = Duration::from_secs(30);

/// The most readings that the coordinator has at a time: the admin side needs the queue, too.
const READINGS: usize = 8;

/// The most pages of one reading.
const PAGES: usize = 256;

/// The pause after which a full queue is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// A group of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    lb_uid: Box<[u8]>,
    group: Box<[u8]>,
}

/// What the coordinator was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Where this is.
    Search(Place),
    /// The members of this group.
    Reading(Arc<Name>),
}

/// A check, by the token of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    token: u64,
    pub(super) question: Question,
    /// What it asks for was searched for this check.
    is_searched: bool,
}

impl Check {
    pub(super) fn new(token: u64, question: Question) -> Check {
        Check { token, question, is_searched: false }
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }
}

/// What is known of a check's member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// This.
    State(State),
    /// There is no such member.
    Unknown,
    /// There are too many names.
    Busy,
}

/// Where an asked place is.
enum Location {
    /// The coordinator is asked from here on, and these checks wait.
    Searched(Cursor, Vec<Check>),
    /// In this group; when someone asked last.
    In(Arc<Name>, Instant),
    /// Nowhere at that time.
    Nowhere(Instant),
}

struct Group {
    members: Members,
    /// When the members were read.
    read_at: Option<Instant>,
    used_at: Instant,
    reading: Option<Reading>,
    waiting: Vec<Check>,
}

/// A reading that is not whole yet.
#[derive(Default)]
struct Reading {
    after: Cursor,
    rows: Vec<MemberRow>,
    pages: usize,
}

/// All that is known.
pub(super) struct Places {
    control: Arc<CoordinatorControl>,
    lb: Option<Box<[u8]>>,
    mail: Arc<Mail>,
    waker: Waker,
    locations: HashMap<Place, Location>,
    groups: HashMap<Arc<Name>, Group>,
    /// Groups whose next page is to be asked for.
    readings: VecDeque<Arc<Name>>,
    /// What is to be searched.
    searches: VecDeque<Place>,
    /// How many checks wait for searches.
    searching: usize,
    readings_under_way: usize,
    is_search_under_way: bool,
    /// The queue was full: when to try again.
    again_at: Option<Instant>,
    /// When to look for what is to be forgotten.
    forget_at: Option<Instant>,
}

impl Places {
    pub(super) fn new(
        control: Arc<CoordinatorControl>,
        lb: Option<Box<[u8]>>,
        mail: Arc<Mail>,
        waker: Waker,
    ) -> Places {
        Places {
            control,
            lb,
            mail,
            waker,
            locations: HashMap::new(),
            groups: HashMap::new(),
            readings: VecDeque::new(),
            searches: VecDeque::new(),
            searching: 0,
            readings_under_way: 0,
            is_search_under_way: false,
            again_at: None,
            forget_at: None,
        }
    }

    /// When to ask again, if the queue was full.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.again_at
    }

    /// The answer to a check; or none, and the check waits.
    pub(super) fn look(&mut self, check: Check, now: Instant) -> Option<(Check, Known)> {
        match self.locations.get_mut(&check.question.place) {
            Some(Location::In(name, used_at)) => {
                *used_at = now;
                let name = name.clone();
                self.look_in(name, check, now)
            }
            Some(Location::Nowhere(at)) if now.saturating_duration_since(*at) < STALE => Some((check, Known::Unknown)),
            _ => self.search(check),
        }
    }

    /// Lets a check wait for a search.
    fn search(&mut self, check: Check) -> Option<(Check, Known)> {
        let place = &check.question.place;
        let is_new = !self.locations.contains_key(place);
        if self.searching >= limits::AGENT_SEARCHES || is_new && self.locations.len() >= limits::AGENT_PLACES {
            return Some((check, Known::Busy));
        }
        self.searching += 1;
        match self.locations.get_mut(place) {
            Some(Location::Searched(_, waiting)) => waiting.push(check),
            _ => {
                let place = place.clone();
                self.searches.push_back(place.clone());
                self.locations.insert(place, Location::Searched(Cursor::default(), vec![check]));
            }
        }
        None
    }

    /// The answer to a check from a group, which is read if it is not fresh.
    fn look_in(&mut self, name: Arc<Name>, check: Check, now: Instant) -> Option<(Check, Known)> {
        if self.groups.len() >= limits::AGENT_PLACES && !self.groups.contains_key(&name) {
            return Some((check, Known::Busy));
        }
        let group = self.groups.entry(name.clone()).or_insert_with(|| Group {
            members: Members::default(),
            read_at: None,
            used_at: now,
            reading: None,
            waiting: Vec::new(),
        });
        group.used_at = now;
        let age = group.read_at.map(|at| now.saturating_duration_since(at));
        if age.is_none_or(|age| age >= FRESH) && group.reading.is_none() {
            group.reading = Some(Reading::default());
            self.readings.push_back(name);
        }
        if age.is_some_and(|age| age < STALE) {
            let state = group.members.state(&check.question.member);
            return self.conclude(check, state);
        }
        group.waiting.push(check);
        None
    }

    /// The answer to a check from a group that was read.
    fn conclude(&mut self, check: Check, state: Option<State>) -> Option<(Check, Known)> {
        match state {
            Some(state) => Some((check, Known::State(state))),
            // An endpoint may be in another group now.
            None if matches!(check.question.place, Place::Endpoint(_)) && !check.is_searched => self.search(check),
            None => Some((check, Known::Unknown)),
        }
    }

    /// Asks the coordinator, as far as it may be asked.
    pub(super) fn ask(&mut self, now: Instant) {
        self.again_at = None;
        while self.readings_under_way < READINGS
            && let Some(name) = self.readings.pop_front()
        {
            let Some(reading) = self.groups.get(&name).and_then(|group| group.reading.as_ref()) else { continue };
            let (lb_uid, group) = (Some(name.lb_uid.clone()), Some(name.group.clone()));
            let filter = Filter { lb_uid, group, ..Filter::default() };
            let page = Page { after: reading.after, limit: limits::ADMIN_ROWS };
            if !self.call(Asked::Reading(name.clone()), filter, page) {
                self.readings.push_front(name);
                self.again_at = Some(now + RETRY);
                return;
            }
            self.readings_under_way += 1;
        }
        while !self.is_search_under_way
            && let Some(place) = self.searches.pop_front()
        {
            let Some(Location::Searched(after, _)) = self.locations.get(&place) else { continue };
            let page = Page { after: *after, limit: 1 };
            let filter = Filter { lb_uid: self.lb.clone(), ..Filter::default() };
            let filter = match &place {
                Place::Group(name) => Filter { group: Some(name.clone()), ..filter },
                Place::Endpoint(endpoint) => of_endpoint(endpoint, filter),
            };
            if !self.call(Asked::Search(place.clone()), filter, page) {
                self.searches.push_front(place);
                self.again_at = Some(now + RETRY);
                return;
            }
            self.is_search_under_way = true;
        }
    }

    /// Puts a question into the coordinator's queue; false if the queue is full.
    fn call(&self, asked: Asked, filter: Filter, page: Page) -> bool {
        let (mail, waker) = (self.mail.clone(), self.waker.clone());
        let answer = move |answer| {
            mail.lock().unwrap_or_else(PoisonError::into_inner).push((asked, answer));
            waker.wake();
        };
        let call = AdminCall { ask: Ask::Members(filter, page), answer: Box::new(answer) };
        let is_taken = self.control.calls.push(call).is_ok();
        if is_taken {
            self.control.bell.ring();
        }
        is_taken
    }

    /// Takes an answer of the coordinator; gives the checks that are answered now.
    pub(super) fn take(&mut self, asked: Asked, answer: Answer, now: Instant) -> Vec<(Check, Known)> {
        match asked {
            Asked::Search(place) => self.take_search(place, answer, now),
            Asked::Reading(name) => self.take_page(name, answer, now),
        }
    }

    fn take_search(&mut self, place: Place, answer: Answer, now: Instant) -> Vec<(Check, Known)> {
        self.is_search_under_way = false;
        let Some(Location::Searched(after, waiting)) = self.locations.get_mut(&place) else { return Vec::new() };
        let (found, next) = match answer {
            Answer::Members(page) => (page.rows.into_iter().next(), page.next),
            _ => (None, None),
        };
        if let (None, Some(next)) = (&found, next) {
            *after = next;
            self.searches.push_back(place);
            return Vec::new();
        }
        let mut waiting = std::mem::take(waiting);
        self.searching -= waiting.len();
        waiting.iter_mut().for_each(|check| check.is_searched = true);
        let Some(MemberRow { lb_uid, group, .. }) = found else {
            self.locations.insert(place, Location::Nowhere(now));
            return waiting.into_iter().map(|check| (check, Known::Unknown)).collect();
        };
        let name = Arc::new(Name { lb_uid, group });
        self.locations.insert(place, Location::In(name.clone(), now));
        waiting.into_iter().filter_map(|check| self.look_in(name.clone(), check, now)).collect()
    }

    fn take_page(&mut self, name: Arc<Name>, answer: Answer, now: Instant) -> Vec<(Check, Known)> {
        self.readings_under_way -= 1;
        let Some(group) = self.groups.get_mut(&name) else { return Vec::new() };
        let Some(reading) = &mut group.reading else { return Vec::new() };
        if let Answer::Members(page) = answer {
            reading.pages += 1;
            reading.rows.extend(page.rows);
            if let Some(next) = page.next.filter(|_| reading.pages < PAGES) {
                reading.after = next;
                self.readings.push_back(name);
                return Vec::new();
            }
        }
        let rows = group.reading.take().map(|reading| reading.rows).unwrap_or_default();
        let waiting = std::mem::take(&mut group.waiting);
        if rows.is_empty() {
            // The group has ended; another load balancer may have one of this name.
            self.groups.remove(&name);
            return waiting.into_iter().filter_map(|check| self.search(check)).collect();
        }
        let members: Vec<_> = rows.into_iter().map(|row| (row.state.endpoint, row.label, row.entry)).collect();
        group.members = Members::new(&members);
        group.read_at = Some(now);
        let states: Vec<_> =
            waiting.into_iter().map(|check| (group.members.state(&check.question.member), check)).collect();
        states.into_iter().filter_map(|(state, check)| self.conclude(check, state)).collect()
    }

    /// Forgets what nobody has asked about for long; looks once in a while.
    pub(super) fn forget(&mut self, now: Instant) {
        if self.forget_at.is_some_and(|at| now < at) {
            return;
        }
        self.forget_at = Some(now + STALE);
        let is_younger = |at: Instant, than| now.saturating_duration_since(at) < than;
        self.locations.retain(|_, location| match location {
            Location::Searched(..) => true,
            Location::In(_, used_at) => is_younger(*used_at, UNUSED),
            Location::Nowhere(at) => is_younger(*at, STALE),
        });
        self.groups.retain(|_, group| group.reading.is_some() || is_younger(group.used_at, UNUSED));
    }
}

/// The filter for all memberships of an endpoint.
fn of_endpoint(endpoint: &Endpoint, filter: Filter) -> Filter {
    let (address, port, protocol) = (Some(endpoint.ip()), Some(endpoint.port), Some(endpoint.protocol));
    Filter { address, port, protocol, ..filter }
}

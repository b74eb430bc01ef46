//! A shard's weight table: the endpoints that the shard watches, their state, and the verdicts to pass on.
//!
//! An endpoint with one check takes about 280 bytes (100,000 endpoints: 28 MB), and 104 more with an agent or load reports.
//! The start and the end of a check take time with the logarithm of the number of checks; nothing else grows with this
//! number.

mod insight;
mod watched;
mod words;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use slab::Slab;

use self::{
    watched::{Found, Watched, Watching},
    words::Event,
};
use super::{
    health::{CheckHealth, Finding, History, Standing},
    outcome::{Outcome, Reason},
    policy::Tuning,
    schedule::{Class, Owner, Schedule},
};
use crate::{
    judgement::{Earlier, Judgement, Policy, Share, Stand, Verdict, WatchId},
    roster::{Check, ProxyProtocol, Roster},
    sasp::{Endpoint, EntryFlags},
    time::Time,
};

pub use super::schedule::Token;
pub use insight::{CheckRow, Factors, Stated};

/// The settings of a table.
#[derive(Clone, Debug)]
pub struct MonitorSettings {
    /// The constants of the formulas.
    pub tuning: Tuning,
    /// The most checks that run at a time, at least 1; each has a socket. Checks of members that are down or were never up
    /// get half of the places at most.
    pub checks_under_way: usize,
    /// This machine may send ICMP echoes.
    pub icmp: bool,
}

/// A check to run now. Each must be [finished](Table::finish) once, even if the table no longer watches the endpoint.
#[derive(Clone, Debug)]
pub struct Job {
    /// The id of the run.
    pub token: Token,
    /// The endpoint to check.
    pub endpoint: Endpoint,
    /// How to check.
    pub check: Check,
    /// The header before everything else.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// When the check must end.
    pub deadline: Time,
    /// How late the check starts.
    pub late: Duration,
}

/// The sizes of a table, for logs and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The endpoints that the table watches.
    pub endpoints: usize,
    /// The checks of these endpoints.
    pub checks: usize,
    /// The checks that run, with those of endpoints that the table no longer watches.
    pub under_way: usize,
}

/// The id of an endpoint in the table.
type Id = u32;

/// The table.
pub struct Table {
    settings: MonitorSettings,
    roster: Arc<Roster>,
    schedule: Schedule,
    watched: Slab<Watched>,
    by_index: HashMap<u32, Id, FixedState>,
    reviews: BTreeSet<(Time, Id)>,
    /// The endpoints with news, each once; the table may no longer watch some of them.
    changes: VecDeque<WatchId>,
    /// What endpoints say in vain, each once; a person has to mend that.
    vain: VecDeque<(Endpoint, String)>,
    /// While a new roster is applied: since when, and the first endpoint that is left.
    replanning: Option<(Time, usize)>,
}

/// The most endpoints that one [`Table::poll`] handles.
const REVIEWS_PER_POLL: usize = 256;

impl Table {
    /// An empty table. With the same seed and the same calls, all is the same.
    pub fn new(roster: Arc<Roster>, settings: MonitorSettings, seed: u64) -> Table {
        Table {
            schedule: Schedule::new(settings.checks_under_way, seed),
            settings,
            roster,
            watched: Slab::new(),
            by_index: HashMap::with_hasher(FixedState::with_seed(seed)),
            reviews: BTreeSet::new(),
            changes: VecDeque::new(),
            vain: VecDeque::new(),
            replanning: None,
        }
    }

    /// The sizes of the table.
    pub fn totals(&self) -> Totals {
        let (checks, under_way) = (self.schedule.checks(), self.schedule.under_way());
        Totals { endpoints: self.watched.len(), checks, under_way }
    }

    /// Begins to watch an endpoint. Until [`Table::changes`] says otherwise, its verdict is that of an endpoint without
    /// checks: its capacity as weight, contact on, and confident only if the operator fixed the weight.
    ///
    /// With what an earlier process found, the watch goes on from there: a slow start goes on, and an endpoint that was down
    /// is down until its checks find it up, and begins a slow start then. The first result of a check is told in any case.
    ///
    /// Replaces a watch of the same index, unless the generation is the same, too.
    pub fn watch(&mut self, now: Time, watch: WatchId, endpoint: Endpoint, earlier: Option<Earlier>) {
        if let Some(&id) = self.by_index.get(&watch.index) {
            let before = self.watched[id as usize].watch;
            if before == watch {
                return;
            }
            self.unwatch(before);
        }
        let entry = self.watched.vacant_entry();
        let id = entry.key() as Id;
        let watched = entry.insert(Watched {
            endpoint,
            watch,
            member: self.roster.find(&endpoint).clone(),
            checks: self.roster.checks(&endpoint, self.settings.icmp),
            watching: Box::new([]),
            reports: None,
            history: History::NEW,
            found: Found::default(),
            standing: Standing { up: true, known: false },
            silent: u8::MAX,
            queued: false,
            ramp_until: None,
            review_at: None,
            said_answers: false,
            said_stand: Stand::Unknown,
            told_vain: 0,
            turn: None,
            last_failure: None,
            said: [Verdict { flags: EntryFlags::NONE, share: Share::Weight(0) }; Policy::ALL.len()],
        });
        let interval = watched.member.times.interval;
        let inherited = watched.inherit(now, earlier, &self.settings.tuning);
        let owners = (0..watched.checks.len() as u8).map(|which| Owner { index: id, which, class: Class::Other });
        let add = |owner| Watching { id: self.schedule.add(now, interval, owner), health: inherited };
        watched.watching = owners.map(add).collect();
        watched.said = watched.verdicts(now, &self.settings.tuning).0;
        self.by_index.insert(watch.index, id);
    }

    /// Ends a watch; does nothing if the watch has ended.
    pub fn unwatch(&mut self, watch: WatchId) {
        let Some(&id) = self.by_index.get(&watch.index) else { return };
        if self.watched[id as usize].watch != watch {
            return;
        }
        self.by_index.remove(&watch.index);
        let watched = self.watched.remove(id as usize);
        watched.watching.iter().for_each(|check| self.schedule.remove(check.id));
        if let Some(at) = watched.review_at {
            self.reviews.remove(&(at, id));
        }
    }

    /// Takes a new roster; [`Table::poll`] applies it. A check that stays the same keeps its state and its phase. A new
    /// check of an endpoint begins with the conclusion about the endpoint.
    pub fn replan(&mut self, now: Time, roster: Arc<Roster>) {
        self.roster = roster;
        self.replanning = Some((now, 0));
    }

    /// When to call [`Table::poll`] and [`Table::start`] next. If the most checks run, the end of a check is a reason to
    /// call, too.
    pub fn next_due(&self) -> Option<Time> {
        let review = self.reviews.first().map(|&(at, _)| at);
        let replan = self.replanning.map(|(since, _)| since);
        [self.schedule.next_due(), review, replan].into_iter().flatten().min()
    }

    /// Does a bounded part of the work that is due, except checks.
    pub fn poll(&mut self, now: Time) {
        for _ in 0..REVIEWS_PER_POLL {
            let Some(&(at, id)) = self.reviews.first().filter(|&&(at, _)| at <= now) else { break };
            self.reviews.remove(&(at, id));
            self.watched[id as usize].review_at = None;
            self.review(now, id, &Event::Time);
        }
        if let Some((since, from)) = self.replanning {
            let until = from + REVIEWS_PER_POLL;
            (from..until).for_each(|id| self.replan_one(now, id));
            self.replanning = (until < self.watched.capacity()).then_some((since, until));
        }
    }

    /// Starts a check, if one is due and may run.
    pub fn start(&mut self, now: Time) -> Option<Job> {
        let start = self.schedule.start(now)?;
        let watched = &self.watched[start.owner.index as usize];
        Some(Job {
            token: start.token,
            endpoint: watched.endpoint,
            check: watched.checks[usize::from(start.owner.which)].clone(),
            proxy_protocol: watched.member.proxy_protocol,
            deadline: now + watched.member.times.timeout,
            late: start.late,
        })
    }

    /// The endpoint of a running check; `None` if the table no longer watches the endpoint.
    pub fn endpoint(&self, token: Token) -> Option<Endpoint> {
        let owner = self.schedule.owner(token)?;
        self.watched.get(owner.index as usize).map(|watched| watched.endpoint)
    }

    /// The running check itself; `None` if the table no longer watches the endpoint.
    pub fn check(&self, token: Token) -> Option<&Check> {
        let owner = self.schedule.owner(token)?;
        self.watched.get(owner.index as usize)?.checks.get(usize::from(owner.which))
    }

    /// Why a running check failed, in words; `None` if the table no longer watches the endpoint.
    pub fn explain(&self, token: Token, reason: Reason) -> Option<String> {
        let owner = self.schedule.owner(token)?;
        self.watched.get(owner.index as usize).map(|watched| watched.explain(owner.which, reason))
    }

    /// The next thing that an endpoint says in vain, and why.
    pub fn next_vain(&mut self) -> Option<(Endpoint, String)> {
        self.vain.pop_front()
    }

    /// Takes the result of a check.
    pub fn finish(&mut self, now: Time, token: Token, outcome: Outcome) {
        let Some((check, owner)) = self.schedule.finish(token) else { return };
        let watched = &mut self.watched[owner.index as usize];
        let times = &watched.member.times;
        let health = &mut watched.watching[usize::from(owner.which)].health;
        let finding = match outcome {
            Outcome::Passed | Outcome::Load(_) | Outcome::UnreadLoad | Outcome::Agent(_) => Finding::Good,
            Outcome::Failed(_) => Finding::Bad,
            Outcome::Inconclusive(_) => Finding::Nothing,
        };
        let mut soon = None;
        if !matches!(watched.checks[usize::from(owner.which)], Check::Agent(_)) {
            health.note(finding, times);
            soon = health.in_doubt().then_some(times.fast_interval);
            if watched.standing.up && finding != Finding::Nothing {
                watched.history.note(finding == Finding::Good);
                watched.found.note_check();
            }
        }
        self.schedule.again(now, check, times.interval, soon);
        if let Some(answered) = outcome.answered() {
            watched.note_answer(answered);
        }
        match outcome {
            Outcome::Load(load) => watched.note_load(now, &load, &self.settings.tuning),
            Outcome::Agent(report) => watched.note_report(now, &report),
            Outcome::Passed | Outcome::UnreadLoad | Outcome::Failed(_) | Outcome::Inconclusive(_) => {}
        }
        if let Outcome::Failed(reason) = outcome {
            let failure = (now, owner.which, reason);
            match &mut watched.last_failure {
                Some(last) => **last = failure,
                None => watched.last_failure = Some(Box::new(failure)),
            }
        }
        if let Some(text) = watched.vain(owner.which, &outcome, self.settings.tuning.weight_max) {
            self.vain.push_back((watched.endpoint, text));
        }
        self.review(now, owner.index, &Event::Result(owner.which, outcome));
    }

    /// Passes up to `max` new judgements to `say`.
    pub fn changes(&mut self, max: usize, mut say: impl FnMut(Judgement)) {
        let mut said = 0;
        while said < max
            && let Some(watch) = self.changes.pop_front()
        {
            let id = self.by_index.get(&watch.index).copied();
            let Some(watched) = id.and_then(|id| self.watched.get_mut(id as usize)) else { continue };
            // A new watch of the same index has its own place in the queue.
            if watched.watch == watch {
                watched.queued = false;
                say(Judgement {
                    watch,
                    verdicts: watched.said,
                    answers: watched.said_answers,
                    ramp_until: watched.ramp_until,
                    turn: watched.turn.take(),
                });
                said += 1;
            }
        }
    }

    /// Makes new verdicts about an endpoint.
    fn review(&mut self, now: Time, id: Id, event: &Event) {
        let watched = &mut self.watched[id as usize];
        let (was_up, class) = (watched.standing.up, watched.class());
        watched.standing = watched.standing(now);
        if watched.standing.up && watched.standing.known {
            watched.found.see();
        }
        if watched.class() != class {
            let class = watched.class();
            for (which, check) in (0u8..).zip(&watched.watching) {
                self.schedule.rename(check.id, Owner { index: id, which, class });
            }
        }
        if watched.standing.up != was_up {
            let ramps = !was_up && !self.settings.tuning.slow_start.is_zero();
            watched.ramp_until = ramps.then(|| now + self.settings.tuning.slow_start);
        }
        let (verdicts, review) = watched.verdicts(now, &self.settings.tuning);
        let answers = watched.answers();
        let turned = watched.note_turn(event);
        let found = matches!(event, Event::Result(_, outcome) if !matches!(outcome, Outcome::Inconclusive(_)));
        let first = found && watched.found.confirm();
        let told = turned || first || verdicts != watched.said || answers != watched.said_answers;
        // Until a check finds something, what an earlier process found stays.
        if told && !watched.found.is_inherited() {
            (watched.said, watched.said_answers) = (verdicts, answers);
            if !std::mem::replace(&mut watched.queued, true) {
                self.changes.push_back(watched.watch);
            }
        }
        // A review that comes too early does no harm: it only finds the time of the next review.
        if let Some(at) = review
            && watched.review_at.is_none_or(|before| at < before)
        {
            if let Some(before) = watched.review_at.replace(at) {
                self.reviews.remove(&(before, id));
            }
            self.reviews.insert((at, id));
        }
    }

    /// Applies the roster to the endpoint with this id, if there is one.
    fn replan_one(&mut self, now: Time, id: usize) {
        let Some(watched) = self.watched.get_mut(id) else { return };
        let member = self.roster.find(&watched.endpoint).clone();
        let checks = self.roster.checks(&watched.endpoint, self.settings.icmp);
        let times_changed = member.times != watched.member.times;
        let interval = member.times.interval;
        let (before, list) = (std::mem::take(&mut watched.watching), std::mem::replace(&mut watched.checks, checks));
        let mut before: Vec<Option<Watching>> = before.into_iter().map(Some).collect();
        let inherited = CheckHealth::inherited(watched.standing);
        watched.member = member;
        let class = watched.class();
        watched.watching = (0u8..)
            .zip(watched.checks.iter())
            .map(|(which, check)| {
                let owner = Owner { index: id as Id, which, class };
                let same = list.iter().position(|other| other == check).and_then(|at| before[at].take());
                let Some(same) = same else {
                    return Watching { id: self.schedule.add(now, interval, owner), health: inherited };
                };
                self.schedule.rename(same.id, owner);
                if times_changed {
                    self.schedule.reschedule(now, same.id, interval);
                }
                same
            })
            .collect();
        before.into_iter().flatten().for_each(|check| self.schedule.remove(check.id));
        if watched.checks != list {
            watched.last_failure = None; // its place in the list may be another check's
        }
        if !watched.checks.iter().any(|check| matches!(check, Check::Agent(_))) {
            watched.forget_agent();
        }
        if !watched.checks.iter().any(|check| matches!(check, Check::Http(_) | Check::Grpc(_))) {
            watched.forget_load();
        }
        self.review(now, id as Id, &Event::Settings);
    }
}

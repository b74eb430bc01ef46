//! A shard's weight table: the endpoints that it watches, what is known of each, and what is to be said of it.
//!
//! About 280 bytes an endpoint with one check (100,000 of them: 28 MB), and 72 more where an agent or load reports are
//! heard. Starting and ending a check take time with the logarithm of the number of checks; nothing else grows with it.

mod watched;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use slab::Slab;

use self::watched::{Watched, Watching};
use super::{
    health::{CheckHealth, Finding, History, Standing},
    outcome::Outcome,
    policy::Tuning,
    schedule::{Class, Owner, Schedule},
};
use crate::{
    judgement::{Judgement, Policy, Share, Verdict, WatchId},
    roster::{Check, Roster},
    sasp::{Endpoint, EntryFlags},
    time::Time,
};

pub use super::schedule::Token;

/// What a table is told at start.
#[derive(Clone, Debug)]
pub struct MonitorSettings {
    /// The constants of the formulas.
    pub tuning: Tuning,
    /// The most checks under way at a time, at least 1: each has a socket. Those of members that are down or were never
    /// up have half of it at most.
    pub checks_under_way: usize,
    /// This machine may send ICMP echoes.
    pub icmp: bool,
}

/// A check to be run now; each must be [finished](Table::finish) once, even if its endpoint is not watched any more.
#[derive(Clone, Debug)]
pub struct Job {
    /// Names the run.
    pub token: Token,
    /// Whom to check.
    pub endpoint: Endpoint,
    /// How.
    pub check: Check,
    /// When to give up.
    pub deadline: Time,
    /// How long after its time it was started.
    pub late: Duration,
}

/// What a table holds, for logs and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Endpoints that are watched.
    pub endpoints: usize,
    /// Their checks.
    pub checks: usize,
    /// Checks under way, those of endpoints included that are not watched any more.
    pub under_way: usize,
}

/// Names an endpoint while it is watched.
type Id = u32;

/// The table.
pub struct Table {
    settings: MonitorSettings,
    roster: Arc<Roster>,
    schedule: Schedule,
    watched: Slab<Watched>,
    by_index: HashMap<u32, Id, FixedState>,
    reviews: BTreeSet<(Time, Id)>,
    /// Each endpoint whose verdicts are to be said, once; some may not be watched any more.
    changes: VecDeque<WatchId>,
    /// From which endpoint on the roster is still to be applied, since when.
    replanning: Option<(Time, usize)>,
}

/// How many endpoints one [`Table::poll`] deals with before it gives others their turn.
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
            replanning: None,
        }
    }

    /// What it holds.
    pub fn totals(&self) -> Totals {
        let (checks, under_way) = (self.schedule.checks(), self.schedule.under_way());
        Totals { endpoints: self.watched.len(), checks, under_way }
    }

    /// Begins to watch an endpoint. Until a [change](Table::changes) says otherwise, it is what it is without any
    /// check: its capacity as weight, contact on, and confident only if the operator fixed that weight.
    ///
    /// A watch of the same index is replaced, one with the same generation kept.
    pub fn watch(&mut self, now: Time, watch: WatchId, endpoint: Endpoint) {
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
            standing: Standing { up: true, known: false },
            seen: false,
            queued: false,
            ramp_from: None,
            review_at: None,
            said: [Verdict { flags: EntryFlags::NONE, share: Share::Weight(0) }; Policy::ALL.len()],
        });
        let interval = watched.member.times.interval;
        let owners = (0..watched.checks.len() as u8).map(|which| Owner { index: id, which, class: Class::Other });
        let add = |owner| Watching { id: self.schedule.add(now, interval, owner), health: CheckHealth::NEW };
        watched.watching = owners.map(add).collect();
        watched.said = watched.verdicts(now, &self.settings.tuning).0;
        self.by_index.insert(watch.index, id);
    }

    /// Ends a watch; one that is not there any more is ignored.
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

    /// The operator said something new. What is checked as before keeps its state and its place in the interval;
    /// a check that is new to an endpoint begins with what was concluded of it.
    ///
    /// The work is done in [`Table::poll`].
    pub fn replan(&mut self, now: Time, roster: Arc<Roster>) {
        self.roster = roster;
        self.replanning = Some((now, 0));
    }

    /// When to call [`Table::poll`] and [`Table::start`] next. While as many checks are under way as may be, an end
    /// of one is reason to call, too.
    pub fn next_due(&self) -> Option<Time> {
        let review = self.reviews.first().map(|&(at, _)| at);
        let replan = self.replanning.map(|(since, _)| since);
        [self.schedule.next_due(), review, replan].into_iter().flatten().min()
    }

    /// Does what is due but checks, a bounded piece of it.
    pub fn poll(&mut self, now: Time) {
        for _ in 0..REVIEWS_PER_POLL {
            let Some(&(at, id)) = self.reviews.first().filter(|&&(at, _)| at <= now) else { break };
            self.reviews.remove(&(at, id));
            self.watched[id as usize].review_at = None;
            self.review(now, id);
        }
        if let Some((since, from)) = self.replanning {
            let until = from + REVIEWS_PER_POLL;
            (from..until).for_each(|id| self.replan_one(now, id));
            self.replanning = (until < self.watched.capacity()).then_some((since, until));
        }
    }

    /// A check that is due, if there is one and it may be started.
    pub fn start(&mut self, now: Time) -> Option<Job> {
        let start = self.schedule.start(now)?;
        let watched = &self.watched[start.owner.index as usize];
        Some(Job {
            token: start.token,
            endpoint: watched.endpoint,
            check: watched.checks[usize::from(start.owner.which)].clone(),
            deadline: now + watched.member.times.timeout,
            late: start.late,
        })
    }

    /// Which endpoint a check that is under way is of, unless nobody wants to know any more.
    pub fn endpoint(&self, token: Token) -> Option<Endpoint> {
        let owner = self.schedule.owner(token)?;
        self.watched.get(owner.index as usize).map(|watched| watched.endpoint)
    }

    /// A check has ended.
    pub fn finish(&mut self, now: Time, token: Token, outcome: Outcome) {
        let Some((check, owner)) = self.schedule.finish(token) else { return };
        let watched = &mut self.watched[owner.index as usize];
        let times = &watched.member.times;
        let health = &mut watched.watching[usize::from(owner.which)].health;
        let finding = match outcome {
            Outcome::Passed | Outcome::Load(_) | Outcome::Agent(_) => Finding::Good,
            Outcome::Failed(_) => Finding::Bad,
            Outcome::Inconclusive(_) => Finding::Nothing,
        };
        let mut soon = None;
        if !matches!(watched.checks[usize::from(owner.which)], Check::Agent(_)) {
            health.note(finding, times);
            soon = health.in_doubt().then_some(times.fast_interval);
            if watched.standing.up && finding != Finding::Nothing {
                watched.history.note(finding == Finding::Good);
            }
        }
        self.schedule.again(now, check, times.interval, soon);
        match outcome {
            Outcome::Load(load) => watched.note_load(now, &load, &self.settings.tuning),
            Outcome::Agent(report) => watched.note_report(now, &report, &self.settings.tuning),
            Outcome::Passed | Outcome::Failed(_) | Outcome::Inconclusive(_) => {}
        }
        self.review(now, owner.index);
    }

    /// Takes up to `max` endpoints of which something new is to be said.
    pub fn changes(&mut self, max: usize, mut say: impl FnMut(Judgement)) {
        let mut said = 0;
        while said < max
            && let Some(watch) = self.changes.pop_front()
        {
            let id = self.by_index.get(&watch.index).copied();
            let Some(watched) = id.and_then(|id| self.watched.get_mut(id as usize)) else { continue };
            // One that is watched anew is queued anew.
            if watched.watch == watch {
                watched.queued = false;
                say(Judgement { watch, verdicts: watched.said });
                said += 1;
            }
        }
    }

    /// Makes the verdicts anew.
    fn review(&mut self, now: Time, id: Id) {
        let watched = &mut self.watched[id as usize];
        let (was_up, class) = (watched.standing.up, watched.class());
        watched.standing = watched.standing(now, self.settings.tuning.report_expiry);
        watched.seen |= watched.standing.up && watched.standing.known;
        if watched.class() != class {
            let class = watched.class();
            for (which, check) in (0u8..).zip(&watched.watching) {
                self.schedule.rename(check.id, Owner { index: id, which, class });
            }
        }
        if watched.standing.up != was_up {
            let ramps = !was_up && !self.settings.tuning.slow_start.is_zero();
            watched.ramp_from = ramps.then_some(now);
        }
        let (verdicts, review) = watched.verdicts(now, &self.settings.tuning);
        if verdicts != watched.said {
            watched.said = verdicts;
            if !std::mem::replace(&mut watched.queued, true) {
                self.changes.push_back(watched.watch);
            }
        }
        // A review that comes too early only finds out when the next one is due.
        if let Some(at) = review
            && watched.review_at.is_none_or(|before| at < before)
        {
            if let Some(before) = watched.review_at.replace(at) {
                self.reviews.remove(&(before, id));
            }
            self.reviews.insert((at, id));
        }
    }

    /// Applies the roster to one endpoint, if there is one of this number.
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
        if !watched.checks.iter().any(|check| matches!(check, Check::Agent(_))) {
            watched.forget_agent();
        }
        if !watched.checks.iter().any(|check| matches!(check, Check::Http(_))) {
            watched.forget_load();
        }
        self.review(now, id as Id);
    }
}

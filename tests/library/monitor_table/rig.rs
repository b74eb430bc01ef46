//! A weight table in virtual time, with members that answer as the test wants.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use gwm::{
    judgement::{Earlier, Judgement, Policy, Share, WatchId},
    monitor::{
        Outcome, Reason,
        outcome::Report,
        policy::Tuning,
        table::{Job, MonitorSettings, Table, Token},
    },
    roster::{AgentCheck, Check, Member, Monitor, Roster, Times},
    sasp::{Endpoint, EntryFlags},
    time::Time,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn endpoint(index: u32) -> Endpoint {
    Endpoint::new(std::net::Ipv4Addr::from(0x0A00_0000 + index).into(), 6, 80)
}

pub(crate) fn agent() -> Check {
    Check::Agent(Arc::new(AgentCheck { port: 9999, send: Vec::new() }))
}

/// A check every second, or every 100 ms while the result is in doubt; rise 2, fall 3.
pub(crate) fn times() -> Times {
    Times { interval: SECOND, fast_interval: SECOND / 10, timeout: SECOND / 2, rise: 2, fall: 3 }
}

pub(crate) fn roster(monitor: Monitor) -> Arc<Roster> {
    Arc::new(Roster::new(Member::watched(100, monitor, times()), Policy::Auto))
}

pub(crate) fn settings() -> MonitorSettings {
    MonitorSettings {
        tuning: Tuning { slow_start: Duration::ZERO, ..Tuning::default() },
        checks_under_way: 1000,
        icmp: false,
    }
}

/// Contact, confident, and the share.
pub(crate) type Said = (bool, bool, Share);

pub(crate) struct Rig {
    pub(crate) now: Time,
    pub(crate) table: Table,
    generation: u32,
    pub(crate) watches: BTreeMap<u32, WatchId>,
    /// Running checks, by the time of their end.
    running: BTreeMap<(Time, u64), (Token, Outcome)>,
    started: u64,
    /// The last judgement and the number of judgements, by endpoint.
    pub(crate) said: HashMap<u32, Judgement>,
    pub(crate) changes: Cell<u32>,
    /// Each start of a check: time, delay, endpoint.
    pub(crate) starts: Vec<(Time, Duration, Endpoint)>,
    /// What members said in vain.
    pub(crate) vain: Vec<String>,
}

impl Rig {
    pub(crate) fn new(roster: Arc<Roster>, settings: MonitorSettings, seed: u64) -> Rig {
        Rig {
            now: Time(1_000_000_000_000),
            table: Table::new(roster, settings, seed),
            generation: 0,
            watches: BTreeMap::new(),
            running: BTreeMap::new(),
            started: 0,
            said: HashMap::new(),
            changes: Cell::new(0),
            starts: Vec::new(),
            vain: Vec::new(),
        }
    }

    pub(crate) fn watch(&mut self, index: u32) {
        self.watch_after(index, None);
    }

    /// Watches an endpoint that an earlier process has left so.
    pub(crate) fn watch_after(&mut self, index: u32, earlier: Option<Earlier>) {
        self.generation += 1;
        let watch = WatchId { index, generation: self.generation };
        self.watches.insert(index, watch);
        self.said.remove(&index);
        self.table.watch(self.now, watch, endpoint(index), earlier);
    }

    pub(crate) fn unwatch(&mut self, index: u32) {
        if let Some(watch) = self.watches.remove(&index) {
            self.table.unwatch(watch);
        }
    }

    /// Runs for this time. `answer` gives the result of a check and how long the check takes.
    pub(crate) fn run(&mut self, time: Duration, mut answer: impl FnMut(Time, &Job) -> (Duration, Outcome)) {
        let end = self.now + time;
        loop {
            self.settle(&mut answer);
            let due = self.table.next_due();
            let ended = self.running.first_key_value().map(|((at, _), _)| *at);
            let next = [due, ended].into_iter().flatten().min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if let Some((_, (token, outcome))) =
                self.running.first_entry().filter(|e| e.key().0 <= self.now).map(|e| e.remove_entry())
            {
                self.table.finish(self.now, token, outcome);
                while let Some((_, text)) = self.table.next_vain() {
                    self.vain.push(text);
                }
            }
        }
        self.now = end;
    }

    fn settle(&mut self, answer: &mut impl FnMut(Time, &Job) -> (Duration, Outcome)) {
        self.table.poll(self.now);
        while let Some(job) = self.table.start(self.now) {
            self.starts.push((self.now, job.late, job.endpoint));
            let (takes, outcome) = answer(self.now, &job);
            let ends = job.deadline.min(self.now + takes);
            self.started += 1;
            self.running.insert((ends, self.started), (job.token, outcome));
        }
        let (said, changes, watches) = (&mut self.said, &self.changes, &self.watches);
        self.table.changes(usize::MAX, |judgement| {
            assert_eq!(
                watches.get(&judgement.watch.index),
                Some(&judgement.watch),
                "a judgement on an endpoint that is not watched"
            );
            said.insert(judgement.watch.index, judgement);
            changes.set(changes.get() + 1);
        });
    }

    /// The last judgement that the coordinator got about an endpoint, by policy.
    pub(crate) fn said(&self, index: u32, policy: Policy) -> Option<Said> {
        self.said.get(&index).map(|judgement| {
            let verdict = judgement.verdicts[policy as usize];
            let has = |flag| verdict.flags.contains(flag);
            (has(EntryFlags::CONTACT), has(EntryFlags::CONFIDENT), verdict.share)
        })
    }

    /// The judgement on endpoint 0 under `auto`.
    pub(crate) fn auto(&self) -> Option<Said> {
        self.said(0, Policy::Auto)
    }
}

pub(crate) fn pass() -> (Duration, Outcome) {
    (SECOND / 1000, Outcome::Passed)
}

pub(crate) fn refuse() -> (Duration, Outcome) {
    (SECOND / 1000, Outcome::Failed(Reason::Refused))
}

pub(crate) fn say(report: Report) -> (Duration, Outcome) {
    (SECOND / 1000, Outcome::Agent(report))
}

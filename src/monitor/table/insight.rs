//! What people can ask about watched endpoints: the factors of the weight, and each check. Changes nothing.

use std::{ops::ControlFlow, time::Duration};

use super::{
    super::{health::CheckHealth, policy::Tuning},
    Table,
    watched::{Watched, ramp},
};
use crate::{
    judgement::WatchId,
    roster::{Check, Times},
    sasp::Endpoint,
    time::Time,
};

/// A value that somebody stated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stated {
    /// The value.
    pub value: f32,
    /// When it was stated last.
    pub at: Time,
    /// Of an availability: in percent of the capacity, else a weight. Of a rate: estimated by a utilisation alone.
    pub special: bool,
    /// It is the mean of what was stated lately, because the statements swing.
    pub smoothed: bool,
    /// It counts: it is not older than the lifetime of reports.
    pub fresh: bool,
}

/// The factors of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// The operator's capacity.
    pub capacity: u16,
    /// The share of good checks among the last so many; those that were not made yet count as good.
    pub health: f32,
    /// How many of these checks were made.
    pub made: u32,
    /// How many of those that were made were good.
    pub good: u32,
    /// The part of the slow start that is over, if it goes on.
    pub ramp: Option<f32>,
    /// What the agent states.
    pub availability: Option<Stated>,
    /// The agent answered last at this time.
    pub agent_at: Option<Time>,
    /// The agent wants no new work for the endpoint.
    pub drained: bool,
    /// The rate by load reports.
    pub rate: Option<Stated>,
    /// The last load report.
    pub load_at: Option<Time>,
    /// How long reports count.
    pub lifetime: Duration,
    /// The checks.
    pub checks: Vec<CheckRow>,
}

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckRow {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The kind.
    pub kind: &'static str,
    /// `new`, `passing` or `failing`.
    pub state: &'static str,
    /// What the check concludes.
    pub up: bool,
    /// Results in a row that speak against this.
    pub against: u8,
    /// When it is done.
    pub times: Times,
    /// The last failure of the endpoint, if this check had it: when, and why in words.
    pub last_failure: Option<(Time, String)>,
}

impl Table {
    /// The factors of the weight of a watched endpoint, as they are now.
    pub fn factors(&self, now: Time, watch: WatchId) -> Option<Factors> {
        let id = *self.by_index.get(&watch.index)?;
        let watched = self.watched.get(id as usize).filter(|watched| watched.watch == watch)?;
        Some(watched.factors(now, &self.settings.tuning))
    }

    /// Shows checks from place `from` on until `show` says that it has enough, and at most those of `most` endpoints.
    /// Gives the place to go on from, if there is more.
    pub fn each_check(
        &self,
        from: usize,
        most: usize,
        mut show: impl FnMut(&Endpoint, &mut dyn Iterator<Item = CheckRow>) -> ControlFlow<()>,
    ) -> Option<usize> {
        let end = self.watched.capacity();
        for place in from..end.min(from.saturating_add(most)) {
            let Some(watched) = self.watched.get(place) else { continue };
            if show(&watched.endpoint, &mut watched.rows()).is_break() {
                return Some(place + 1).filter(|next| *next < end);
            }
        }
        Some(from.saturating_add(most)).filter(|next| *next < end)
    }
}

impl Watched {
    fn factors(&self, now: Time, tuning: &Tuning) -> Factors {
        let lifetime = self.member.reports.lifetime;
        let reports = self.reports.as_deref();
        let ramp = self.ramp_until.map(|until| ramp(now, until, tuning.slow_start));
        let made = self.found.made();
        Factors {
            capacity: self.member.capacity,
            health: self.history.share(),
            made,
            good: made.saturating_sub(self.history.bad()),
            ramp: ramp.filter(|ramp| *ramp < 1.0),
            availability: reports.and_then(|reports| reports.stated_availability(now, lifetime)),
            agent_at: reports.and_then(|reports| reports.agent_at()),
            drained: self.is_drained(),
            rate: reports.and_then(|reports| reports.stated_rate(now, lifetime)),
            load_at: reports.and_then(|reports| reports.load_at()),
            lifetime,
            checks: self.rows().collect(),
        }
    }

    fn rows(&self) -> impl Iterator<Item = CheckRow> {
        let heard = self.reports.as_ref().is_some_and(|reports| reports.agent_at().is_some());
        self.checks.iter().zip(&self.watching).zip(0u8..).map(move |((check, watching), which)| {
            let last_failure = self.last_failure.as_deref().filter(|(_, of, _)| *of == which);
            CheckRow {
                endpoint: self.endpoint,
                kind: kind(check),
                state: match check {
                    Check::Agent(_) if heard && last_failure.is_none() => "passing",
                    Check::Agent(_) if last_failure.is_some() => "failing",
                    Check::Agent(_) => "new",
                    _ => state(watching.health),
                },
                up: watching.health.up(),
                against: watching.health.against(),
                times: self.member.times,
                last_failure: last_failure.map(|(at, which, reason)| (*at, self.explain(*which, *reason))),
            }
        })
    }
}

fn state(health: CheckHealth) -> &'static str {
    match (health.known(), health.up(), health.against()) {
        (false, _, 0) => "new",
        (_, true, 0) => "passing",
        (_, false, 1..) => "passing",
        _ => "failing",
    }
}

/// The kind of a check, in one word.
fn kind(check: &Check) -> &'static str {
    match check {
        Check::Tcp => "tcp",
        Check::Icmp => "icmp",
        Check::Http(http) if http.tls.is_some() => "https",
        Check::Http(_) => "http",
        Check::Grpc(_) => "grpc",
        Check::Agent(_) => "agent",
    }
}

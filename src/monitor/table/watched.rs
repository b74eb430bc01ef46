//! One watched endpoint: from the results of its checks and its reports to verdicts.

use std::{sync::Arc, time::Duration};

use super::super::{
    health::{AgentState, CheckHealth, HISTORY, History, Standing},
    outcome::{AgentWeight, Load, Reason, Report},
    policy::{self, Availability, Facts, Tuning},
    schedule::{CheckId, Class},
    swing::Swing,
};
use super::insight;
use crate::{
    judgement::{Earlier, Policy, Stand, StandingChange, Verdict, WatchId},
    roster::{Check, Member},
    sasp::Endpoint,
    time::Time,
};

/// The value of an agent's 0 in the smoothing, which takes logarithms: of percentages, and of weights.
const LEAST_PERCENT: f32 = 1.0;
const LEAST_WEIGHT: f32 = 1.0;

/// The most steps of a slow start.
const RAMP_STEPS: u32 = 50;

/// One check of an endpoint.
pub(super) struct Watching {
    pub(super) id: CheckId,
    pub(super) health: CheckHealth,
}

/// The reports of a member and its agent.
#[derive(Default)]
pub(super) struct Reports {
    agent: AgentState,
    /// The time of the agent's last answer.
    agent_at: Option<Time>,
    availability: Option<Stated>,
    /// The time of the last load report, with or without a rate.
    load_at: Option<Time>,
    rate: Option<Rate>,
}

/// An agent's statements of one kind.
#[derive(Clone, Copy)]
struct Stated {
    /// As percentages, else as weights.
    percent: bool,
    swing: Swing,
}

struct Rate {
    /// The smoothed rate.
    value: f32,
    /// The value is an estimate by a utilisation alone.
    estimated: bool,
    /// The time of the last report with a rate.
    at: Time,
}

/// How far a slow start is that ends then, from 0 to 1.
pub(super) fn ramp(now: Time, until: Time, slow_start: Duration) -> f32 {
    let left = until.since(now).min(slow_start);
    (slow_start - left).as_secs_f32() / slow_start.as_secs_f32()
}

/// Three facts in one byte, because there are many endpoints: how many checks the history has, up to [`HISTORY`], whether
/// the checks found the endpoint up at some time, and whether the verdicts are those of an earlier process.
#[derive(Clone, Copy, Default)]
pub(super) struct Found(u8);

impl Found {
    const SEEN: u8 = 0x80;
    const INHERITED: u8 = 0x40;

    /// The history has one more check.
    pub(super) fn note_check(&mut self) {
        let made = (self.made() + 1).min(HISTORY);
        self.0 = self.0 & (Found::SEEN | Found::INHERITED) | made as u8;
    }

    /// How many checks the history has; those before them count as good.
    pub(super) fn made(self) -> u32 {
        u32::from(self.0 & !(Found::SEEN | Found::INHERITED))
    }

    /// The checks find the endpoint up.
    pub(super) fn see(&mut self) {
        self.0 |= Found::SEEN;
    }

    pub(super) fn is_seen(self) -> bool {
        self.0 & Found::SEEN != 0
    }

    /// The verdicts are those of an earlier process.
    pub(super) fn inherit(&mut self) {
        self.0 |= Found::INHERITED;
    }

    /// Whether the verdicts are those of an earlier process.
    pub(super) fn is_inherited(self) -> bool {
        self.0 & Found::INHERITED != 0
    }

    /// The checks have found something: whether the verdicts were those of an earlier process until now.
    pub(super) fn confirm(&mut self) -> bool {
        let inherited = self.is_inherited();
        self.0 &= !Found::INHERITED;
        inherited
    }
}

pub(super) struct Watched {
    pub(super) endpoint: Endpoint,
    pub(super) watch: WatchId,
    pub(super) member: Arc<Member>,
    /// The checks, in the order of `watching`.
    pub(super) checks: Arc<[Check]>,
    pub(super) watching: Box<[Watching]>,
    pub(super) reports: Option<Box<Reports>>,
    pub(super) history: History,
    pub(super) found: Found,
    pub(super) standing: Standing,
    /// The number of last results in a row, of all checks, without any answer.
    pub(super) silent: u8,
    /// The endpoint is in the queue of changes.
    pub(super) queued: bool,
    /// The end of the endpoint's slow start; `None` after it.
    pub(super) ramp_until: Option<Time>,
    /// When the verdicts may change without a new result.
    pub(super) review_at: Option<Time>,
    /// The last word on whether the endpoint answers.
    pub(super) said_answers: bool,
    /// The last word on how the endpoint stands.
    pub(super) said_stand: Stand,
    /// What was told of that the endpoint says in vain, by bits.
    pub(super) told_vain: u8,
    /// The change of the standing, until it is told.
    pub(super) turn: Option<Box<StandingChange>>,
    /// The last check that failed: when, its place in the list, and why.
    pub(super) last_failure: Option<Box<(Time, u8, Reason)>>,
    /// The last verdicts.
    pub(super) said: [Verdict; Policy::ALL.len()],
}

impl Stated {
    fn availability(self) -> Availability {
        let value = self.swing.value();
        if self.percent { Availability::Share(value / 100.0) } else { Availability::Absolute(value) }
    }
}

impl Reports {
    pub(super) fn agent_at(&self) -> Option<Time> {
        self.agent_at
    }

    pub(super) fn load_at(&self) -> Option<Time> {
        self.load_at
    }

    /// What the agent states, in percent or as a weight.
    pub(super) fn stated_availability(&self, now: Time, lifetime: Duration) -> Option<insight::Stated> {
        let (stated, at) = (self.availability?, self.agent_at?);
        let (value, smoothed) = (stated.swing.value(), stated.swing.is_smoothed());
        Some(insight::Stated { value, at, special: stated.percent, smoothed, fresh: now < at + lifetime })
    }

    /// The smoothed rate.
    pub(super) fn stated_rate(&self, now: Time, lifetime: Duration) -> Option<insight::Stated> {
        let Rate { value, estimated, at } = *self.rate.as_ref()?;
        Some(insight::Stated { value, at, special: estimated, smoothed: true, fresh: now < at + lifetime })
    }
}

impl Watched {
    /// Goes on from what an earlier process found; gives the health of the checks, which are yet to be made.
    pub(super) fn inherit(&mut self, now: Time, earlier: Option<Earlier>, tuning: &Tuning) -> CheckHealth {
        let Some(Earlier { down, ramp_until }) = earlier else { return CheckHealth::NEW };
        self.found.inherit();
        let longest = now + tuning.slow_start;
        self.ramp_until = ramp_until.map(|until| until.min(longest)).filter(|until| *until > now);
        // Without another check, an agent's next word decides.
        if !down || self.checks.iter().all(|check| matches!(check, Check::Agent(_))) {
            return CheckHealth::NEW;
        }
        self.standing = Standing { up: false, known: true };
        self.said_stand = Stand::Down;
        CheckHealth::inherited(self.standing)
    }

    /// The class of the endpoint's checks. An endpoint that was up keeps [`Class::Up`] until its checks take it down.
    pub(super) fn class(&self) -> Class {
        if self.standing.up && self.found.is_seen() { Class::Up } else { Class::Other }
    }

    /// Takes whether a check got an answer.
    pub(super) fn note_answer(&mut self, answered: bool) {
        self.silent = if answered { 0 } else { self.silent.saturating_add(1) };
    }

    /// Whether the endpoint is up, or one of its last checks got an answer.
    pub(super) fn answers(&self) -> bool {
        self.standing.up && self.standing.known || usize::from(self.silent) < self.watching.len()
    }

    /// Whether the agent wants no new work for the endpoint.
    pub(super) fn is_drained(&self) -> bool {
        self.reports.as_ref().is_some_and(|reports| reports.agent.drained())
    }

    pub(super) fn standing(&self, now: Time) -> Standing {
        let lifetime = self.member.reports.lifetime;
        let checks = self.checks.iter().zip(&self.watching);
        let healths =
            checks.filter(|(check, _)| !matches!(check, Check::Agent(_))).map(|(_, watching)| watching.health);
        let agent = self.reports.as_ref().map_or(AgentState::default(), |reports| reports.agent);
        let heard = self.reports.as_ref().and_then(|reports| reports.agent_at).is_some_and(|at| now < at + lifetime);
        Standing::of(healths, agent, heard)
    }

    /// The verdicts of all policies, and when they may change without a new result.
    pub(super) fn verdicts(&mut self, now: Time, tuning: &Tuning) -> ([Verdict; Policy::ALL.len()], Option<Time>) {
        let mut next: Option<Time> = None;
        // Whether a time is in the future; if so, that time needs a review.
        let mut ahead = |at: Time| {
            let ahead = now < at;
            if ahead {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            ahead
        };
        let mut facts = Facts {
            standing: self.standing,
            drained: false,
            fixed: self.member.fixed,
            capacity: self.member.capacity,
            health: self.history.share(),
            ramp: 1.0,
            availability: None,
            rate: None,
            load_heard: false,
            steady: false,
            dead_band: f32::from(self.member.reports.dead_band_percent) / 100.0,
        };
        if let Some(until) = self.ramp_until {
            let slow_start = tuning.slow_start;
            if ahead(until) {
                ahead(now + (slow_start / RAMP_STEPS).max(Duration::from_millis(100)));
                facts.ramp = ramp(now, until, slow_start);
            } else {
                self.ramp_until = None;
            }
        }
        if let Some(reports) = &self.reports {
            facts.drained = reports.agent.drained();
            let mut fresh = |at: Option<Time>| at.is_some_and(|at| ahead(at + self.member.reports.lifetime));
            facts.load_heard = fresh(reports.load_at);
            if fresh(reports.agent_at) {
                facts.availability = Some(reports.availability.map_or(Availability::Share(1.0), Stated::availability));
                facts.steady = reports.availability.is_some_and(|stated| !stated.swing.is_smoothed());
            }
            if let Some(rate) = &reports.rate
                && fresh(Some(rate.at))
            {
                facts.rate = Some(rate.value);
            }
        }
        let mut said = Policy::ALL.into_iter().zip(&self.said);
        let verdicts = std::array::from_fn(|_| {
            let (policy, before) = said.next().expect("there is one for each policy");
            policy::verdict(policy, &facts, tuning, before)
        });
        (verdicts, next)
    }

    pub(super) fn note_load(&mut self, now: Time, load: &Load, tuning: &Tuning) {
        let rules = self.member.reports;
        let reports = self.reports.get_or_insert_default();
        reports.load_at = Some(now);
        let rate = policy::rate(load, tuning.error_penalty).map(|rate| (rate, false));
        let Some((sample, estimated)) = rate.or_else(|| Some((policy::estimate(load)?, true))) else { return };
        let fresh = reports.rate.as_mut().filter(|rate| now < rate.at + rules.lifetime);
        match fresh {
            // An estimate is not comparable with the rates of others.
            Some(rate) if estimated && !rate.estimated => {}
            Some(rate) if estimated => {
                let gain = policy::gain(now.since(rate.at), tuning.utilization_smoothing);
                rate.value = policy::approach(rate.value, sample, gain);
                rate.at = now;
            }
            Some(rate) if !rate.estimated => {
                let gain = policy::gain(now.since(rate.at), rules.rate_smoothing);
                let trust = policy::trust(rate.value, sample, tuning.rate_noise);
                rate.value = policy::approach(rate.value, sample, gain * trust);
                rate.at = now;
            }
            _ => reports.rate = Some(Rate { value: sample, estimated, at: now }),
        }
    }

    pub(super) fn note_report(&mut self, now: Time, report: &Report) {
        let rules = self.member.reports;
        let reports = self.reports.get_or_insert_default();
        let before = reports.agent_at.filter(|at| now < *at + rules.lifetime);
        reports.agent_at = Some(now);
        reports.agent.note(report);
        if before.is_none() {
            reports.availability = None;
        }
        let Some(weight) = report.weight else { return };
        let (percent, value, least) = match weight {
            AgentWeight::Percent(percent) => (true, f32::from(percent), LEAST_PERCENT),
            AgentWeight::Absolute(weight) => (false, f32::from(weight), LEAST_WEIGHT),
        };
        match (&mut reports.availability, before) {
            (Some(stated), Some(before)) if stated.percent == percent => {
                stated.swing.next(value, least, now.since(before), rules.agent_smoothing);
            }
            (stated, _) => *stated = Some(Stated { percent, swing: Swing::new(value, least) }),
        }
    }

    pub(super) fn forget_agent(&mut self) {
        if let Some(reports) = &mut self.reports {
            (reports.agent, reports.agent_at, reports.availability) = Default::default();
        }
    }

    pub(super) fn forget_load(&mut self) {
        if let Some(reports) = &mut self.reports {
            (reports.load_at, reports.rate) = Default::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_keeps_three_facts() {
        let mut found = Found::default();
        found.note_check();
        assert_eq!((found.made(), found.is_seen()), (1, false));
        found.see();
        found.inherit();
        (0..40).for_each(|_| found.note_check());
        assert_eq!((found.made(), found.is_seen()), (HISTORY, true));
        assert_eq!([found.confirm(), found.confirm()], [true, false]);
        assert_eq!((found.made(), found.is_seen()), (HISTORY, true));
    }

    #[test]
    fn an_endpoint_is_small() {
        // An endpoint also has 15 bytes in the index. Each check has 8 bytes and an allocation, 32 bytes in the schedule and
        // about 24 in its order.
        assert!(size_of::<Watched>() <= 160, "{}", size_of::<Watched>());
        assert_eq!(size_of::<Watching>(), 8);
        assert!(size_of::<Reports>() <= 104, "{}", size_of::<Reports>());
    }
}

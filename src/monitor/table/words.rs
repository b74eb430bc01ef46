//! What people are told about a watched endpoint: why its standing has changed, and what it says in vain.

use super::watched::Watched;
use crate::{
    judgement::{Stand, StandingChange},
    monitor::{
        explanation::Explanation,
        outcome::{Administration, AgentWeight, Load, Outcome, Reason, Report},
    },
    roster::Check,
    sasp::Escaped,
};

/// Why an endpoint is looked at.
pub(super) enum Event {
    /// This check, by its place in the list, has ended so.
    Result(u8, Outcome),
    /// A time has come: a report expired, or a slow start went on.
    Time,
    /// The operator's settings have changed.
    Settings,
}

/// What an endpoint says in vain; one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Vain {
    AgentLine = 1,
    AgentWeight = 2,
    LoadReport = 4,
}

impl Watched {
    /// How the endpoint stands.
    fn stand(&self) -> Stand {
        match (self.standing.up, self.standing.known) {
            (false, _) => Stand::Down,
            (true, false) => Stand::Unknown,
            (true, true) if self.is_drained() => Stand::Drained,
            (true, true) => Stand::Up,
        }
    }

    /// Notes a change of the standing, for the next judgement; whether there is one.
    pub(super) fn note_turn(&mut self, event: &Event) -> bool {
        let to = self.stand();
        if to == self.said_stand {
            return false;
        }
        let (kind, reason) = self.reason(event, to);
        // Two changes before the judgement goes out are told as one.
        let from = self.turn.take().map_or(self.said_stand, |turn| turn.from);
        self.said_stand = to;
        self.turn = (from != to).then(|| Box::new(StandingChange { from, to, kind, reason: reason.into() }));
        true
    }

    fn reason(&self, event: &Event, to: Stand) -> (&'static str, String) {
        match event {
            Event::Settings => ("settings", "the operator's settings have changed".into()),
            Event::Time => {
                ("agent silent", format!("the agent has not answered for {} s", self.member.reports.lifetime.as_secs()))
            }
            Event::Result(_, Outcome::Inconclusive(reason)) => {
                (reason.kind(), format!("checks give no result, because {reason}"))
            }
            Event::Result(which, Outcome::Failed(reason)) => (reason.kind(), self.explain(*which, *reason)),
            Event::Result(_, Outcome::Agent(report)) => ("agent", agent_says(report, to)),
            Event::Result(..) => match (self.said_stand, self.member.times.rise) {
                (Stand::Down, rise @ 2..) => ("checks pass", format!("{rise} checks passed in a row")),
                _ => ("checks pass", "a check passed".into()),
            },
        }
    }

    /// Why a check failed.
    pub(super) fn explain(&self, which: u8, reason: Reason) -> String {
        let timeout = self.member.times.timeout;
        match self.checks.get(usize::from(which)) {
            Some(check) => Explanation { reason, check, timeout }.to_string(),
            None => reason.to_string(),
        }
    }

    /// What the endpoint says in vain by this result, if that was not told before.
    pub(super) fn vain(&mut self, which: u8, outcome: &Outcome, weight_max: u16) -> Option<String> {
        let agent = matches!(self.checks.get(usize::from(which)), Some(Check::Agent(_)));
        let (vain, text) = match outcome {
            Outcome::Failed(Reason::Malformed) if agent => {
                (Vain::AgentLine, "the agent's line can not be read, so nothing that it says counts".to_owned())
            }
            Outcome::Agent(Report { weight: Some(stated), .. }) if !self.member.fixed => {
                let capacity = u64::from(self.member.capacity);
                let (words, weight) = match *stated {
                    AgentWeight::Absolute(weight) => (format!("weight:{weight}"), u64::from(weight)),
                    AgentWeight::Percent(percent) => (format!("{percent}%"), capacity * u64::from(percent) / 100),
                };
                if weight <= u64::from(weight_max) {
                    return None;
                }
                (Vain::AgentWeight, format!("the agent says {words}; it counts as --weight-max, {weight_max}"))
            }
            Outcome::UnreadLoad => {
                (Vain::LoadReport, "the load report can not be read, so it does not count".to_owned())
            }
            Outcome::Load(load) => (Vain::LoadReport, unused(load)?.to_owned()),
            _ => return None,
        };
        let news = self.told_vain & vain as u8 == 0;
        self.told_vain |= vain as u8;
        news.then_some(text)
    }
}

/// Why a load report says nothing about the rate that its member can take; `None` if it does, or if there is no traffic.
fn unused(load: &Load) -> Option<&'static str> {
    let utilizations = [load.named_utilization, load.application_utilization, load.cpu_utilization];
    let mut values = utilizations.into_iter().flatten().chain(load.rps).chain([load.eps]);
    if values.any(|value| !value.is_finite() || value < 0.0) {
        return Some("the load report has a value below 0 or without end, so it does not count");
    }
    let first = utilizations.into_iter().flatten().next();
    match first {
        None => Some(
            "the load report has no utilisation, so it does not count: neither application_utilization nor \
             cpu_utilization nor a metric that the key utilization names",
        ),
        Some(_) => None,
    }
}

/// What the agent said that made the endpoint stand so.
fn agent_says(report: &Report, to: Stand) -> String {
    let word = match (to, report.administration) {
        (Stand::Down, _) => "down",
        (Stand::Drained, Some(Administration::Maint)) => "maint",
        (Stand::Drained, _) => "drain",
        (_, Some(Administration::Ready)) => "ready",
        _ if report.up == Some(true) => "up",
        _ => return "the agent answers".into(),
    };
    match report.text.bytes() {
        [] => format!("agent says {word}"),
        text => format!("agent says {word}: {}", Escaped(text)),
    }
}

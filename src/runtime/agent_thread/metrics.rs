//! The metrics of agent-checks.

use super::places::Known;
use crate::{
    agent_checks::State,
    metrics::{Counter, Id, LabelValue, Owner, Reading, Values},
};

/// How a check was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Percent,
    Drain,
    Maint,
    Down,
    Unknown,
    Busy,
    Wrong,
}

impl Answered {
    /// All, in the order of their numbers.
    const ALL: [Answered; 7] = [
        Answered::Percent,
        Answered::Drain,
        Answered::Maint,
        Answered::Down,
        Answered::Unknown,
        Answered::Busy,
        Answered::Wrong,
    ];

    fn text(self) -> &'static str {
        match self {
            Answered::Percent => "a percentage",
            Answered::Drain => "drain",
            Answered::Maint => "maint",
            Answered::Down => "down",
            Answered::Unknown => "no answer, no such member",
            Answered::Busy => "no answer, too many unknown names",
            Answered::Wrong => "no answer, not a request",
        }
    }
}

impl From<Known> for Answered {
    fn from(known: Known) -> Answered {
        match known {
            Known::State(State::Percent(_)) => Answered::Percent,
            Known::State(State::Drain) => Answered::Drain,
            Known::State(State::Maint) => Answered::Maint,
            Known::State(State::Down) => Answered::Down,
            Known::Unknown => Answered::Unknown,
            Known::Busy => Answered::Busy,
        }
    }
}

/// Metrics that only the thread of agent-checks writes, and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct AgentMetrics {
    pub(super) values: Values,
    answers: [Counter; Answered::ALL.len()],
}

impl AgentMetrics {
    /// Counts an answer.
    pub(super) fn answered(&self, answered: Answered) {
        if let Some(count) = self.answers.get(answered as usize) {
            count.add(1);
        }
    }

    /// Adds all metrics of agent-checks.
    pub(crate) fn read(&self, reading: &mut Reading) {
        reading.add_values_of(Owner::AgentChecks, None, &self.values);
        for (answered, count) in Answered::ALL.iter().zip(&self.answers) {
            let label = LabelValue::of_variant(answered, answered.text());
            reading.add_labelled(None, Id::AgentChecks, label, count.get());
        }
    }
}

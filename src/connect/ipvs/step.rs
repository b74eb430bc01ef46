//! One change of IPVS.

use std::fmt;

use super::wire::{self, Body, Destination, Key};

/// A change of one destination of a service.
#[derive(Debug)]
pub struct Step {
    pub(super) service: usize,
    pub(super) destination: Destination,
    pub(super) change: Change,
    /// The service and the member, for a person.
    pub(super) whose: String,
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The weight.
    Weight(u32),
    /// A new destination with this weight.
    Add(u32),
    /// The destination ends.
    Remove,
}

impl Step {
    /// Whether the step takes work from the member; such steps come last.
    pub(super) fn takes(&self) -> bool {
        match self.change {
            Change::Weight(to) => to < self.destination.weight,
            Change::Add(_) => false,
            Change::Remove => true,
        }
    }

    pub(super) fn message(&self, key: &Key) -> Body {
        match self.change {
            Change::Weight(weight) => wire::set_weight(key, &self.destination, weight),
            Change::Add(weight) => wire::add(key, &self.destination, weight),
            Change::Remove => wire::remove(key, &self.destination),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.change {
            Change::Weight(to) => write!(f, "{} weight {} -> {to}", self.whose, self.destination.weight),
            Change::Add(weight) => write!(f, "{} add with weight {weight}", self.whose),
            Change::Remove => write!(f, "{} remove", self.whose),
        }
    }
}

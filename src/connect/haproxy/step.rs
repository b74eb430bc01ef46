//! One change of HAProxy, and the commands that make the change.

use std::{fmt, net::SocketAddr};

use crate::sasp::Endpoint;

/// A change of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub(super) backend: String,
    pub(super) server: String,
    pub(super) change: Change,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The weight, the state, or both.
    Weight {
        /// The weight now.
        from: u32,
        /// The new weight.
        to: u32,
        /// Say the weight as 0 % or 100 % of the one in the configuration.
        percent: bool,
        /// Whether to begin or to end the state `drain`.
        drain: Option<bool>,
    },
    /// A new server.
    Add {
        /// Its address and port.
        endpoint: Endpoint,
        /// The weight that counts as the one of its configuration.
        own_weight: u32,
        /// The weight to begin with.
        weight: u32,
        /// More words of `add server`.
        words: String,
    },
    /// The server ends as soon as it has no connections.
    Remove,
}

impl Step {
    /// Whether the step gives more work to the server; such steps come first.
    pub(super) fn gives(&self) -> bool {
        match self.change {
            Change::Weight { from, to, .. } => to > from,
            Change::Add { .. } => true,
            Change::Remove => false,
        }
    }

    pub(super) fn commands(&self) -> Vec<String> {
        let server = format!("{}/{}", self.backend, self.server);
        let state = |state| format!("set server {server} state {state}");
        match &self.change {
            Change::Weight { from, to, percent, drain } => {
                let weight = match (percent, to) {
                    (false, to) => format!("set server {server} weight {to}"),
                    (true, 0) => format!("set server {server} weight 0%"),
                    (true, _) => format!("set server {server} weight 100%"),
                };
                let weight = (from != to).then_some(weight);
                // Between the two, the server has weight 0: the next plan completes what a crash has left.
                let (first, second) = match drain {
                    None => (weight, None),
                    Some(true) => (weight, Some(state("drain"))),
                    Some(false) => (Some(state("ready")), weight),
                };
                first.into_iter().chain(second).collect()
            }
            Change::Add { endpoint, own_weight, weight, words } => {
                let address = SocketAddr::new(endpoint.ip(), endpoint.port);
                let space = if words.is_empty() { "" } else { " " };
                let mut commands = vec![
                    format!("add server {server} {address} weight {own_weight}{space}{words}"),
                    format!("set server {server} weight {weight}"),
                ];
                if words.split(' ').any(|word| word == "check") {
                    commands.push(format!("enable health {server}"));
                }
                // A new server is in maintenance.
                commands.push(state("ready"));
                commands
            }
            // HAProxy deletes only what is in maintenance, and has no connections.
            Change::Remove => {
                vec![format!("set server {server} weight 0"), state("maint"), format!("del server {server}")]
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: ", self.backend, self.server)?;
        let (from, to, drain) = match &self.change {
            Change::Weight { from, to, drain, .. } => (from, to, drain),
            Change::Add { weight, .. } => return write!(f, "add with weight {weight}"),
            Change::Remove => return f.write_str("remove"),
        };
        if from != to {
            write!(f, "weight {from} -> {to}")?;
        }
        let comma = if from == to { "" } else { ", " };
        match drain {
            None => Ok(()),
            Some(true) => write!(f, "{comma}state drain"),
            Some(false) => write!(f, "{comma}state ready"),
        }
    }
}

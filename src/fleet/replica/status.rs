//! How the replica is, for people.

use super::{Replica, lb};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub name: Box<str>,
    /// Tells its lives apart.
    pub incarnation: u64,
    /// Where people find it.
    pub address: Box<str>,
    /// Its version of gwm.
    pub version: Box<str>,
    /// It is cut off from the members.
    pub blind: bool,
    /// How many endpoints it has verdicts on.
    pub checks: usize,
    /// How many load balancers are connected to it.
    pub load_balancers: usize,
}

/// How the replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The node's lease is held, and what the store has is known.
    pub connected: bool,
    /// The nodes that are alive by the store, by name.
    pub nodes: Vec<NodeStatus>,
    /// Rows of the tables.
    pub rows: usize,
    /// Rows that this node has yet to write.
    pub dirty: usize,
    /// Rows of the store that this node does not understand.
    pub unknown: usize,
    /// Orders that the coordinator has yet to do.
    pub orders: usize,
    /// The newest revision of the store that was seen.
    pub revision: i64,
    /// The number of the era of this node's date: nodes with the same number know in which order sessions began, if they
    /// began further apart than both dates may be wrong.
    pub era: u64,
    /// How wrong this node's date may be, in milliseconds.
    pub date_error: u64,
    /// How many changes the coordinator has made.
    pub given: u64,
    /// How many of them are in the store.
    pub kept: u64,
}

impl Replica {
    /// How the replica is.
    pub fn status(&self) -> Status {
        let connected_to = |name: &str| {
            let owns =
                |row: &super::Row| lb(&row.mine).is_some_and(|lb| lb.held_until.is_none() && *lb.session.node == *name);
            self.rows.values().filter(|row| owns(row)).count()
        };
        let nodes = self.nodes.iter().map(|(name, row)| NodeStatus {
            name: name.clone(),
            incarnation: row.incarnation,
            address: row.address.clone(),
            version: row.version.clone(),
            blind: row.blind,
            checks: self.checks.count(Some(name).filter(|name| **name != self.settings.node).map(|name| &**name)),
            load_balancers: connected_to(name),
        });
        Status {
            connected: self.connected,
            nodes: nodes.collect(),
            rows: self.rows.len(),
            dirty: self.dirty.len(),
            unknown: self.rows.values().filter(|row| row.is_unknown).count(),
            orders: self.open_orders.len(),
            revision: self.revision,
            era: self.clock.number(),
            date_error: self.clock.error(),
            given: self.given,
            kept: self.kept(),
        }
    }
}

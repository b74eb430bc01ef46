//! The fleet, for people.

use std::time::{Duration, UNIX_EPOCH};

use super::Daemon;
use crate::{
    admin::fleet::{Fleet, Node},
    fleet::NodeStatus,
};

/// The fleet as this node knows it; `None` without one.
pub(super) fn shown(daemon: &Daemon) -> Option<Fleet> {
    let settings = daemon.parts.fleet.as_ref()?;
    let shown = daemon.parts.metrics.fleet.as_ref()?.shown();
    let status = &shown.status;
    let node = |node: &NodeStatus| Node {
        name: node.name.to_string(),
        is_self: *node.name == *settings.node,
        address: node.address.to_string(),
        version: node.version.to_string(),
        // A life's number is the date of its begin. Who writes something else into etcd gets the last date there is.
        started_at: humantime::format_rfc3339_seconds(
            UNIX_EPOCH + Duration::from_millis(node.incarnation.min(DATE_MAX)),
        )
        .to_string(),
        blind: node.blind,
        checks: node.checks,
        load_balancers: node.load_balancers,
    };
    Some(Fleet {
        name: settings.name.clone(),
        node: settings.node.clone(),
        connected: status.connected && shown.etcd.is_some(),
        etcd: shown.etcd.clone(),
        trouble: shown.trouble.clone(),
        lease: shown.lease.clone(),
        revision: shown.revision,
        rows: status.rows,
        rows_ahead: status.dirty,
        rows_unknown: status.unknown,
        changes_waiting: status.given.saturating_sub(status.kept),
        orders_waiting: status.orders,
        redundancy: settings.redundancy,
        nodes: status.nodes.iter().map(node).collect(),
    })
}

/// The end of the year 9999, in milliseconds since 1970: the last date that has four digits for its year.
const DATE_MAX: u64 = 253_402_300_799_000;

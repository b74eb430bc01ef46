//! What the coordinator is told at start, and what it tells of its size.

use std::{sync::Arc, time::Duration};

use crate::{access::Access, roster::Roster};

/// What the coordinator is told at start; see the flags of `gwm serve` for meaning and ranges.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an LB's state outlives its connection.
    pub hold_time: Duration,
    /// The Interval of Get Weights replies, in seconds.
    pub poll_interval_seconds: u16,
    /// From the first change to the push that carries it.
    pub push_window: Duration,
    /// From one full refresh of a push LB to the next.
    pub push_refresh: Duration,
    /// The most load balancers, connected or held; a new one beyond them gets 0x11.
    pub max_load_balancers: u32,
    /// The most groups in all.
    pub max_groups: u32,
    /// The most groups that one LB may have.
    pub max_groups_per_lb: u32,
    /// The most members that one group may have.
    pub max_members_per_group: u32,
    /// The most memberships that one LB may have.
    pub max_memberships_per_lb: u32,
    /// The most memberships in all.
    pub max_memberships: u32,
    /// The weight of a member that nothing else is known about.
    pub weight_max: u16,
    /// What the operator says of members and groups.
    pub roster: Arc<Roster>,
    /// Who may speak for whom.
    pub access: Arc<Access>,
    /// Whether shards can send ICMP echoes.
    pub icmp: bool,
    /// Of the watched endpoints that had contact, the percentage that may lose it within one fall window; if it is
    /// more, the fault is taken to be the GWM's own.
    pub panic_percent: u8,
    /// A random number, so that peers can not choose names that collide in the tables.
    pub hash_seed: u64,
}

/// What the coordinator holds, for logs and later metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Load balancers, connected or within hold time.
    pub load_balancers: usize,
    /// Groups of all load balancers.
    pub groups: usize,
    /// Members of all groups.
    pub memberships: usize,
    /// Distinct endpoints.
    pub endpoints: usize,
    /// Those of them that are watched.
    pub watched: usize,
    /// Those of these that lost contact within the last fall window; while the GWM fails open, since before it did.
    pub lost: usize,
}

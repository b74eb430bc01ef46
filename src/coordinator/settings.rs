//! The coordinator's settings and totals.

use std::{sync::Arc, time::Duration};

use crate::{access::Access, network::OwnAddresses, roster::Roster};

/// The coordinator's settings; the flags of `gwm serve` have meaning and ranges.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an LB's state is kept after its connection ends.
    pub hold_time: Duration,
    /// The Interval of Get Weights replies, in seconds; shorter while a listed member waits for its first verdict.
    pub poll_interval_seconds: u16,
    /// From the first change to the push with that change.
    pub push_window: Duration,
    /// From one full refresh of a push LB to the next; the LBs' refreshes are spread over this time.
    pub push_refresh: Duration,
    /// The most load balancers, connected or held. One more gets 0x11.
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
    /// The highest weight, and the weight of a member about which nothing is known.
    pub weight_max: u16,
    /// The operator's word about members and groups.
    pub roster: Arc<Roster>,
    /// Who may speak for whom.
    pub access: Arc<Access>,
    /// Whether shards can send ICMP echoes.
    pub icmp: bool,
    /// If more than this percentage of a group's members lose contact within one fall window, the group is in doubt.
    pub panic_percent: u8,
    /// The longest doubt about a group.
    pub panic_time: Duration,
    /// The addresses of this machine at the start.
    pub own_addresses: Arc<OwnAddresses>,
    /// A random number: with it, peers can not choose names that collide in the tables.
    pub hash_seed: u64,
}

/// How much the coordinator holds, for logs and metrics.
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
    /// Watched endpoints and witnesses.
    pub watched: usize,
    /// Those that answer.
    pub answering: usize,
    /// Groups in doubt.
    pub doubted: usize,
    /// Different contents of groups that have members; each is kept once.
    pub listings: usize,
}

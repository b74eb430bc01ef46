//! Each limit, and how much of it is used.

use super::Daemon;
use crate::{
    admin::pages::Limit,
    coordinator::{Answer, Ask},
    limits,
    metrics::Id,
    web::Problem,
};

/// All limits that have one number of what is used.
pub(super) async fn all(daemon: &Daemon) -> Result<Vec<Limit>, Problem> {
    let Answer::Totals(row) = daemon.ask(Ask::Totals).await? else { return Err(Problem::busy()) };
    let (shared, settings) = (&daemon.parts.shared, &daemon.parts.settings);
    let limit = |name, flag, (used, max), text| Limit { name, flag, used, max, text };
    let number = |used: usize, max: u32| (used as u64, u64::from(max));
    let fixed = |used: usize, max: usize| (used as u64, max as u64);
    let reading = daemon.reading();
    let under_way = reading.total(Id::ChecksUnderWay);
    let agent_connections = reading.total(Id::AgentConnectionsOpen);
    Ok(vec![
        limit("connections", Some("--max-connections"), shared.connections.used(), "Connections."),
        limit(
            "load_balancers",
            Some("--max-load-balancers"),
            number(row.totals.load_balancers, settings.max_load_balancers),
            "Load balancers, connected or within hold time.",
        ),
        limit("groups", Some("--max-groups"), number(row.totals.groups, settings.max_groups), "Groups."),
        limit(
            "memberships",
            Some("--max-memberships"),
            number(row.totals.memberships, settings.max_memberships),
            "Members of all groups.",
        ),
        limit(
            "groups_per_lb",
            Some("--max-groups-per-lb"),
            number(row.most_groups, settings.max_groups_per_lb),
            "Groups of the load balancer that has the most.",
        ),
        limit(
            "memberships_per_lb",
            Some("--max-memberships-per-lb"),
            number(row.most_memberships, settings.max_memberships_per_lb),
            "Members of all groups of the load balancer that has the most.",
        ),
        limit(
            "buffered_bytes",
            Some("--max-buffered-bytes"),
            shared.buffered.used(),
            "Bytes of unfinished messages, beyond the first 16384 of each connection.",
        ),
        limit(
            "unsent_bytes",
            Some("--max-unsent-bytes"),
            shared.unsent.used(),
            "Bytes that peers have yet to take, beyond the first 16384 of each connection.",
        ),
        limit("checks", Some("--max-probes"), (under_way, u64::from(daemon.parts.max_probes)), "Checks that run now."),
        limit("words", None, fixed(row.words, limits::OPERATOR_WORDS), "Words of the operator in force."),
        limit("changes", None, fixed(row.changes, limits::CHANGES_KEPT), "Changes of endpoints that are kept."),
        limit(
            "admin_connections",
            None,
            fixed(daemon.parts.gate.connections(), limits::ADMIN_CONNECTIONS),
            "Connections of the admin side.",
        ),
        limit(
            "admin_streams",
            None,
            fixed(daemon.streams.len(), limits::ADMIN_STREAMS),
            "Clients that follow the changes.",
        ),
        limit(
            "agent_connections",
            None,
            (agent_connections, limits::AGENT_CONNECTIONS as u64),
            "Connections of agent-checks.",
        ),
    ])
}

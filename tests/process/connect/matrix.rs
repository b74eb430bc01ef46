//! What must hold with each real load balancer, and the tests that show it.

/// The tests of one connector: functions of its file, or for IPVS what the guest tells (`= what: …`). A cell that begins
/// with a bracket says why there is no test.
struct Row {
    file: &'static str,
    source: &'static str,
    /// The real load balancer is restarted, or reloaded.
    restarted: &'static str,
    /// The GWM is restarted.
    new_gwm: &'static str,
    /// The connector is killed with SIGKILL amid an update.
    killed: &'static str,
    /// The GWM comes and goes.
    flapping: &'static str,
    /// A hundred groups.
    hundred: &'static str,
    /// The socket or address is wrong.
    wrong_address: &'static str,
    /// The right is missing.
    no_right: &'static str,
    /// Requests through the real one while a member drains and leaves: none fails.
    drains: &'static str,
    /// `--dry-run` tells and changes nothing.
    dry_run: &'static str,
    /// What the real one tells of members.
    observed: &'static str,
}

/// A row whose first five cells are [`outlives`](super::scenarios::outlives), called by one test.
const fn row(file: &'static str, source: &'static str, outlives: &'static str, others: [&'static str; 5]) -> Row {
    let [wrong_address, no_right, drains, dry_run, observed] = others;
    let (restarted, new_gwm, killed, flapping, hundred) = (outlives, outlives, outlives, outlives, outlives);
    Row {
        file,
        source,
        restarted,
        new_gwm,
        killed,
        flapping,
        hundred,
        wrong_address,
        no_right,
        drains,
        dry_run,
        observed,
    }
}

const MATRIX: [Row; 11] = [
    row(
        "haproxy.rs",
        include_str!("haproxy.rs"),
        "a_hundred_backends_with_all_bytes_in_their_names_outlive_all",
        [
            "a_wrong_socket_and_a_missing_right_are_told_once",
            "a_wrong_socket_and_a_missing_right_are_told_once",
            "no_request_fails_while_a_member_drains_and_leaves",
            "a_dry_run_prints_and_changes_nothing",
            "what_haproxy_tells_of_its_servers_is_shown",
        ],
    ),
    // HAProxy asks the daemon: there is no connector.
    Row {
        file: "agent.rs",
        source: include_str!("agent.rs"),
        restarted: "a_hundred_backends_outlive_the_gwm_and_a_restart",
        new_gwm: "a_hundred_backends_outlive_the_gwm_and_a_restart",
        killed: "(the daemon itself is killed: see the flapping GWM)",
        flapping: "a_hundred_backends_outlive_the_gwm_and_a_restart",
        hundred: "a_hundred_backends_outlive_the_gwm_and_a_restart",
        wrong_address: "a_hundred_backends_outlive_the_gwm_and_a_restart",
        no_right: "a_port_that_needs_a_right_is_told",
        drains: "requests_go_on_while_agent_checks_drain_a_member",
        dry_run: "(there is no connector)",
        observed: "(HAProxy tells the daemon nothing: it only asks)",
    },
    row(
        "pen.rs",
        include_str!("pen.rs"),
        "a_hundred_servers_outlive_all",
        [
            "a_pen_that_can_not_be_used_is_told_with_the_reason",
            "a_pen_that_can_not_be_used_is_told_with_the_reason",
            "requests_go_on_while_a_member_drains_and_leaves",
            "the_own_weights_come_back_at_the_end_if_asked",
            "connections_follow_the_weights_and_a_restarted_pen_has_them_again",
        ],
    ),
    Row {
        file: "ipvs/guest.sh",
        source: include_str!("ipvs/guest.sh"),
        restarted: "after all services were made again",
        new_gwm: "of a new GWM",
        killed: "round $round",
        flapping: "with a GWM that flaps",
        hundred: "round $round",
        wrong_address: "without the module",
        no_right: "without the right",
        drains: "failed requests",
        dry_run: "a dry run",
        observed: "connections so far",
    },
    row(
        "nft.rs",
        include_str!("nft.rs"),
        "a_hundred_groups_outlive_all",
        [
            "what_can_go_wrong_is_told",
            "what_can_go_wrong_is_told",
            "requests_go_on_while_a_member_drains_and_leaves",
            "what_can_go_wrong_is_told",
            "new_connections_follow_the_weights_exactly",
        ],
    ),
    row(
        "dns.rs",
        include_str!("dns.rs"),
        "a_hundred_backends_of_haproxy_outlive_all",
        [
            "mistakes_are_told_before_anything_is_done",
            "a_port_that_needs_a_right_is_told",
            "haproxy_balances_by_the_records_and_no_request_fails",
            "a_dry_run_prints_what_names_would_show",
            "records_follow_the_weights",
        ],
    ),
    row(
        "dns_update.rs",
        include_str!("dns_update.rs"),
        "a_hundred_groups_in_another_servers_zone_outlive_all",
        [
            "another_servers_zone_follows_the_weights_and_heals",
            "a_server_that_refuses_is_told_and_asked_again",
            "no_request_through_haproxy_fails_while_a_member_drains_and_leaves",
            "a_dry_run_changes_no_zone",
            "a_dry_run_changes_no_zone",
        ],
    ),
    row(
        "xds.rs",
        include_str!("xds.rs"),
        "a_hundred_clusters_of_envoy_outlive_all",
        [
            "mistakes_are_told_before_anything_is_done",
            "a_port_that_needs_a_right_is_told",
            "envoy_outlives_the_gwm_and_the_connector_and_no_request_fails",
            "a_dry_run_prints_what_clients_would_hear",
            "what_envoy_reports_of_members_is_shown",
        ],
    ),
    Row {
        hundred: "(the server is that of Envoy)",
        ..row(
            "grpc.rs",
            include_str!("grpc.rs"),
            "a_client_outlives_all",
            [
                "(the server is that of Envoy)",
                "(the server is that of Envoy)",
                "no_call_fails_while_a_server_drains_and_leaves",
                "(the server is that of Envoy)",
                "what_a_client_reports_of_servers_is_shown",
            ],
        )
    },
    row(
        "nginx.rs",
        include_str!("nginx.rs"),
        "a_hundred_upstreams_of_nginx_outlive_all",
        [
            "a_folder_that_is_missing_or_of_others_is_told",
            "a_folder_that_is_missing_or_of_others_is_told",
            "no_request_fails_while_a_member_drains_and_leaves",
            "(see file.rs)",
            "(a file does not answer; see file.rs)",
        ],
    ),
    Row {
        file: "file.rs",
        source: include_str!("file.rs"),
        restarted: "a_file_follows_the_weights_and_a_command_runs_after_each_change",
        new_gwm: "the_last_weights_stay_when_the_gwm_is_lost_and_end_when_asked",
        killed: "a_file_follows_the_weights_and_a_command_runs_after_each_change",
        flapping: "(see nginx.rs)",
        hundred: "(see nginx.rs)",
        wrong_address: "mistakes_are_told_before_anything_is_done",
        no_right: "(see nginx.rs)",
        drains: "(see nginx.rs)",
        dry_run: "a_dry_run_prints_and_changes_nothing",
        observed: "mistakes_are_told_before_anything_is_done",
    },
];

#[test]
fn each_cell_names_a_test() {
    for row in &MATRIX {
        for (what, cell) in [
            ("restarted", row.restarted),
            ("new GWM", row.new_gwm),
            ("killed", row.killed),
            ("flapping", row.flapping),
            ("hundred", row.hundred),
            ("wrong address", row.wrong_address),
            ("no right", row.no_right),
            ("drains", row.drains),
            ("dry run", row.dry_run),
            ("observed", row.observed),
        ] {
            let named = [format!("#[test]\nfn {cell}() {{"), format!("echo \"= {cell}: ")];
            let reach = format!(" '{cell}'\n");
            let is_there = named.iter().any(|named| row.source.contains(named)) || row.source.contains(&reach);
            assert!(is_there || cell.starts_with('('), "{}: {what}: `{cell}`", row.file);
        }
    }
}

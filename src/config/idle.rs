//! Settings that are given and can have no effect beside the others. Each gets a warning, at the start and with `--check`.
//! What can only be a mistake is an error instead, where it is read.

use super::{Flags, LbIdentity, MemberIdentity, PolicyName, Probe};
use crate::limits;

/// The warnings about flags.
pub(super) fn warnings(flags: &Flags, shards: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    let given = |flag: &&&str| flags.given.has(flag);
    let mut useless = |list: &[&str], reason: &str| {
        warnings.extend(list.iter().filter(given).map(|flag| format!("--{flag} has no effect: {reason}")));
    };
    if flags.tls_listen.is_empty() {
        let of_tls = ["tls-min-version", "handshake-timeout", "max-handshakes", "max-handshakes-per-source"];
        useless(&of_tls, "it is about TLS, and --tls-listen is not given");
    }
    if flags.state.is_none() && flags.fleet.fleet.is_none() {
        useless(&["durability"], "it is about the state on disk and in etcd, and neither --state nor --fleet is given");
    }
    if flags.fleet.fleet.is_none() {
        let of_fleet = ["fleet-name", "node", "fleet-lease", "probe-redundancy"];
        useless(&of_fleet, "it is about a fleet, and --fleet is not given");
    }
    if flags.admin.admin_listen.is_empty() {
        useless(&["metrics-members"], "it is about /metrics of the admin side, and --admin-listen is not given");
    }
    let unwatched = flags.probe == Probe::Off && flags.members.is_none();
    if unwatched {
        let of_checks =
            ["probe-interval", "probe-fast-interval", "probe-timeout", "probe-rise", "probe-fall", "max-probes"];
        let of_results = ["policy", "panic-percent", "panic-time", "witness", "slow-start"];
        let of_reports = ["agent-smoothing", "rate-smoothing", "dead-band", "report-lifetime"];
        for list in [&of_checks[..], &of_results, &of_reports] {
            useless(list, "nothing is checked, because --probe is off and no --members file names checks");
        }
    } else {
        if flags.panic_percent == 100 {
            useless(&["panic-time"], "--panic-percent 100 switches the doubt about groups off");
        }
        if flags.panic_time.is_zero() {
            useless(&["panic-percent"], "--panic-time 0s switches the doubt about groups off");
        }
        if flags.weight_max == 1 {
            useless(&["slow-start"], "with --weight-max 1 there is no weight between 0 and 1");
        }
        if flags.members.is_none() {
            useless(&["agent-smoothing"], "no member has an agent: name agents in a --members file");
            if flags.probe != Probe::Http {
                useless(
                    &["rate-smoothing", "report-lifetime"],
                    "no check reads load reports, and no member has an agent: name such checks in a --members file",
                );
            }
        }
        let never_confident = "so no member is ever confident: name such checks in a --members file";
        match flags.policy {
            PolicyName::Agent if flags.members.is_none() => {
                warnings.push(format!("--policy agent, and no member has an agent, {never_confident}"));
            }
            PolicyName::Orca if flags.members.is_none() && flags.probe != Probe::Http => {
                warnings.push(format!("--policy orca, and no check reads load reports, {never_confident}"));
            }
            _ => {}
        }
    }
    let raised = |flag: &str, from: u32, to: usize, each: &str| {
        format!("--{flag} {from} is raised to {to}: each of the {shards} shards needs {each}")
    };
    let handshakes = limits::HANDSHAKES_PER_SHARD as usize * shards;
    if !flags.tls_listen.is_empty() && (flags.max_handshakes as usize) < handshakes {
        warnings.push(raised("max-handshakes", flags.max_handshakes, handshakes, "4"));
    }
    if let Some(probes) = flags.max_probes.filter(|probes| !unwatched && (*probes as usize) < shards) {
        warnings.push(raised("max-probes", probes, shards, "one"));
    }
    if flags.lb_identity == LbIdentity::Any && flags.member_identity != MemberIdentity::Any {
        warnings.push(
            "--member-identity without --lb-identity keeps nobody out: whoever states a load balancer's UID is it, and \
             speaks for any member"
                .into(),
        );
    }
    warnings
}

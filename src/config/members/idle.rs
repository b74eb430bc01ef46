//! What a members file says without effect: one warning a kind, at its first place, with the number of the others.

use super::{Defaults, Entry};
use crate::{
    files::{Fault, place},
    judgement::Policy,
    roster::{Check, Member},
};

/// What was seen in the file.
#[derive(Default)]
pub(super) struct Idle {
    /// The byte of the file where the present piece begins.
    from: usize,
    /// Watched members with weight 1, without and with an agent.
    lowest: Seen,
    lowest_with_agent: Seen,
    /// Members with an agent, with any check that reads load reports, and with names of metrics.
    agents: Seen,
    reports: Seen,
    metrics: Seen,
    /// Keys about agents, load reports and either, at members that have none.
    agent_smoothing: Seen,
    rate_smoothing: Seen,
    report_lifetime: Seen,
    /// Policies of groups.
    policies: Vec<(usize, Policy)>,
    /// An entry has all groups, so that the flag's policy has none.
    all_groups: bool,
}

/// The first place of something in the file, and how often it is there.
#[derive(Clone, Copy, Default)]
struct Seen {
    first: usize,
    count: usize,
}

impl Seen {
    fn add(&mut self, at: usize) {
        if self.count == 0 {
            self.first = at;
        }
        self.count += 1;
    }

    /// A warning, if there is any.
    fn warning(self, text: &str) -> Option<Fault> {
        let more = match self.count.checked_sub(1)? {
            0 => String::new(),
            1 => " (and so does 1 more entry)".into(),
            more => format!(" (and so do {more} more entries)"),
        };
        Some((self.first, format!("{text}{more}")))
    }
}

impl Idle {
    /// Begins a piece of the file at this byte; the places of its values are counted from there.
    pub(super) fn begin(&mut self, from: usize) {
        self.from = from;
    }

    /// Notes an entry, which is valid.
    pub(super) fn note(&mut self, entry: &Entry, at: usize, member: &Member) {
        let from = self.from;
        let here = |value: Option<usize>| from + value.unwrap_or(at);
        let has = |wanted: fn(&Check) -> bool| member.monitor.checks.iter().any(wanted);
        let agent = has(|check| matches!(check, Check::Agent(_)));
        let watched = !member.fixed && (member.monitor.auto || !member.monitor.checks.is_empty());
        if watched && member.capacity == 1 {
            let at = here(place(&entry.weight));
            if agent { self.lowest_with_agent.add(at) } else { self.lowest.add(at) }
        }
        if agent {
            self.agents.add(here(place(&entry.agent_port)));
        }
        let reports = has(reads_reports) || member.monitor.auto;
        if has(reads_reports) {
            self.reports.add(here(None));
        }
        let idle = |seen: &mut Seen, place: Option<usize>, works: bool| {
            if let Some(at) = place.filter(|_| !works) {
                seen.add(from + at);
            }
        };
        idle(&mut self.agent_smoothing, place(&entry.agent_smoothing), agent);
        idle(&mut self.rate_smoothing, place(&entry.rate_smoothing), reports);
        idle(&mut self.report_lifetime, place(&entry.report_lifetime), agent || reports);
        if has(|check| matches!(check, Check::Http(http) if !http.utilization.is_empty())) {
            self.metrics.add(here(place(&entry.http)));
        }
        if has(|check| matches!(check, Check::Grpc(grpc) if !grpc.utilization.is_empty())) {
            self.metrics.add(here(place(&entry.grpc)));
        }
    }

    /// Notes the policy of a group, or of all groups.
    pub(super) fn note_policy(&mut self, at: usize, policy: Policy, all_groups: bool) {
        self.policies.push((self.from + at, policy));
        self.all_groups |= all_groups;
    }

    /// The warnings.
    pub(super) fn warnings(&self, defaults: &Defaults) -> Vec<Fault> {
        let own = (!self.all_groups).then_some(defaults.policy);
        let used = |wanted: &[Policy]| {
            self.policies.iter().map(|(_, policy)| *policy).chain(own).any(|policy| wanted.contains(&policy))
        };
        let mut warnings = Vec::new();
        // By `orca`, the capacity only matters until the first load report.
        if used(&[Policy::Static, Policy::Agent, Policy::Auto]) {
            let remedy = "no member in service has a lower one: give the members larger weights, such as 100";
            let ramp = !defaults.slow_start.is_zero();
            let with_agent = match ramp {
                true => format!("weight 1 leaves --slow-start and the agent's percentage without effect: {remedy}"),
                false => format!("weight 1 leaves the agent's percentage without effect: {remedy}"),
            };
            warnings.extend(self.lowest_with_agent.warning(&with_agent));
            if ramp {
                let text = format!("weight 1 leaves --slow-start without effect: {remedy}");
                warnings.extend(self.lowest.warning(&text));
            }
        }
        if !used(&[Policy::Agent, Policy::Auto]) {
            let text = "the agent's percentage has no effect: no group has the policy \"agent\" or \"auto\"";
            warnings.extend(self.agents.warning(text));
        }
        if !used(&[Policy::Orca, Policy::Auto]) {
            let text = "utilization has no effect: no group has the policy \"orca\" or \"auto\"";
            warnings.extend(self.metrics.warning(text));
        }
        let none = "the member has no";
        warnings.extend(
            [
                self.agent_smoothing.warning(&format!("agent_smoothing has no effect: {none} agent")),
                self.rate_smoothing
                    .warning(&format!("rate_smoothing has no effect: {none} check that reads load reports")),
                self.report_lifetime.warning(&format!(
                    "report_lifetime has no effect: {none} agent and no check that reads load reports"
                )),
            ]
            .into_iter()
            .flatten(),
        );
        let reads = defaults.monitor.checks.iter().any(reads_reports);
        for (policy, missing, remedy) in [
            (
                Policy::Agent,
                self.agents.count == 0,
                "no member has an agent: give one to the members (monitor = \"agent\")",
            ),
            (
                Policy::Orca,
                self.reports.count == 0 && !reads,
                "no check reads load reports: give one to the members (monitor = \"http\")",
            ),
        ] {
            let named = self.policies.iter().find(|(_, named)| *named == policy).map(|(at, _)| *at);
            let flag = own.filter(|own| *own == policy).map(|_| 0);
            if let Some(at) = named.or(flag).filter(|_| missing) {
                let name = if policy == Policy::Agent { "agent" } else { "orca" };
                warnings
                    .push((at, format!("with the policy \"{name}\" no member is ever confident, because {remedy}")));
            }
        }
        warnings.sort_by_key(|(at, _)| *at);
        warnings
    }
}

/// Whether the answer to a check may have a load report.
fn reads_reports(check: &Check) -> bool {
    matches!(check, Check::Http(_) | Check::Grpc(_))
}

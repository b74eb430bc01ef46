//! The methods of spreading requests that the simulation compares.

use std::sync::Arc;

use gwm::{
    judgement::Policy,
    monitor::policy::Tuning,
    roster::{AgentCheck, Check, Http, Member, Monitor, ReportRules, Roster, Times},
};

use super::{
    gwm::member,
    world::{Guide, IDLE, SPEED, USED},
};

/// The constants of monitoring.
#[derive(Clone, Copy, Default)]
pub(crate) struct Constants {
    pub(crate) tuning: Tuning,
    pub(crate) reports: ReportRules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// No GWM: the same weight for all, always.
    Equal,
    /// No GWM: weights in the ratio of the speeds, always.
    Fixed,
    /// Policy `static`, checks by `tcp`, capacities in the ratio of the speeds.
    Static,
    /// Policy `agent`, as `Static` plus an agent that states how idle its server is.
    Idle,
    /// Policy `agent`, with an agent that states how fast its server is.
    Speed,
    /// Policy `orca`, load reports by `http`; the speeds are not configured.
    Orca,
    /// Policy `auto` with `tcp` only; the speeds are not configured.
    AutoPlain,
    /// Policy `auto` where such an agent speaks.
    AutoIdle,
    /// Policy `auto` where such an agent speaks.
    AutoSpeed,
    /// Policy `auto` with load reports, as in `Orca`.
    AutoOrca,
    /// Policy `auto` with load reports that state the utilisation alone, and capacities in the ratio of the speeds.
    AutoUsed,
    /// The servers' true speeds at every moment.
    Oracle,
}

impl Method {
    pub(crate) const ALL: [Method; 12] = [
        Method::Equal,
        Method::Fixed,
        Method::Static,
        Method::Idle,
        Method::Speed,
        Method::Orca,
        Method::AutoPlain,
        Method::AutoIdle,
        Method::AutoSpeed,
        Method::AutoOrca,
        Method::AutoUsed,
        Method::Oracle,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::Equal => "equal weights",
            Method::Fixed => "fixed capacities",
            Method::Static => "static",
            Method::Idle => "agent, idle",
            Method::Speed => "agent, speed",
            Method::Orca => "orca",
            Method::AutoPlain => "auto, tcp only",
            Method::AutoIdle => "auto, idle",
            Method::AutoSpeed => "auto, speed",
            Method::AutoOrca => "auto, orca",
            Method::AutoUsed => "auto, utilisation",
            Method::Oracle => "oracle",
        }
    }

    pub(crate) fn guide(self, farm: &[f64], Constants { tuning, reports }: Constants) -> Guide {
        let agent = |send: &[u8]| Check::Agent(Arc::new(AgentCheck { port: 9999, send: send.to_vec() }));
        let http = || Check::Http(Arc::new(Http::default()));
        let fastest = farm.iter().copied().fold(0.0, f64::max);
        let gwm = |policy, checks: Vec<Check>, capacities: bool| {
            let monitor = Monitor::of(checks);
            let of = |capacity| Member { reports, ..Member::watched(capacity, monitor.clone(), Times::default()) };
            let mut roster = Roster::new(of(tuning.weight_max), policy);
            for (number, speed) in farm.iter().enumerate().filter(|_| capacities) {
                let capacity = (f64::from(tuning.weight_max) * speed / fastest).round() as u16;
                roster.add(member(number), of(capacity));
            }
            Guide::Gwm(Arc::new(roster), tuning)
        };
        match self {
            Method::Equal => Guide::Fixed(vec![1.0; farm.len()]),
            Method::Fixed => Guide::Fixed(farm.to_vec()),
            Method::Static => gwm(Policy::Static, vec![Check::Tcp], true),
            Method::Idle => gwm(Policy::Agent, vec![Check::Tcp, agent(IDLE)], true),
            Method::Speed => gwm(Policy::Agent, vec![Check::Tcp, agent(SPEED)], true),
            Method::Orca => gwm(Policy::Orca, vec![http()], false),
            Method::AutoPlain => gwm(Policy::Auto, vec![Check::Tcp], false),
            Method::AutoIdle => gwm(Policy::Auto, vec![Check::Tcp, agent(IDLE)], true),
            Method::AutoSpeed => gwm(Policy::Auto, vec![Check::Tcp, agent(SPEED)], true),
            Method::AutoOrca => gwm(Policy::Auto, vec![http()], false),
            Method::AutoUsed => {
                let http = Http { path: USED.into(), ..Http::default() };
                gwm(Policy::Auto, vec![Check::Http(Arc::new(http))], true)
            }
            Method::Oracle => Guide::Oracle,
        }
    }
}

//! What clients report of endpoints (LRS): requests, failures, and requests in progress. Each endpoint has a locality of
//! its own, so what a client tells of a locality is of one endpoint.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::Message;

use super::{
    messages::{Interval, LoadStatsRequest, LoadStatsResponse},
    snapshot::{Snapshot, Target},
};
use crate::{
    connect::Observation,
    limits,
    sasp::{
        Endpoint,
        component::{TCP, UDP},
    },
};

/// How often a client reports.
const EVERY_SECONDS: i64 = 5;

/// The most numbers of requests in progress, over all clients; further ones are not kept.
const IN_PROGRESS: usize = 1 << 20;

/// The sums of all reports; clones are one.
#[derive(Clone, Default)]
pub struct Loads(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Numbers of endpoints, by group and locality: only of those that were published.
    numbers: HashMap<String, HashMap<String, usize>>,
    /// By number.
    sums: Vec<Sum>,
    /// How many numbers of requests in progress the reporters have.
    kept: usize,
    reports: u64,
}

/// Of one endpoint, over all clients.
struct Sum {
    endpoint: Endpoint,
    /// Since the start of this process.
    issued: u64,
    failed: u64,
    in_progress: u64,
}

/// One client, until it is dropped.
pub struct Reporter {
    loads: Loads,
    /// Its requests in progress, by the endpoint's number, as of its last report.
    in_progress: HashMap<usize, u64>,
}

/// What each client is told first: to report all clusters.
pub(super) fn order() -> Vec<u8> {
    let interval = Interval { seconds: EVERY_SECONDS };
    LoadStatsResponse { load_reporting_interval: Some(interval), send_all_clusters: true }.encode_to_vec()
}

impl Loads {
    // Each sum is whole at all times, so a panic of another holder does no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that will report.
    pub fn enter(&self) -> Reporter {
        Reporter { loads: self.clone(), in_progress: HashMap::new() }
    }

    /// How many reports there were.
    pub fn reports(&self) -> u64 {
        self.lock().reports
    }

    /// What is known of the endpoints of a pool, whose group has this name.
    pub fn of(&self, pool: &[u8], group: &str) -> Vec<Observation> {
        let state = self.lock();
        let numbers = state.numbers.get(group).into_iter().flat_map(HashMap::values);
        let observation = |number: &usize| {
            let sum = &state.sums[*number];
            Observation {
                open_connections: Some(sum.in_progress),
                connections: Some(sum.issued),
                errors: Some(sum.failed),
                ..Observation::new(pool, sum.endpoint)
            }
        };
        numbers.map(observation).collect()
    }
}

impl State {
    /// The number of an endpoint. One that was never published has none.
    fn number(&mut self, group: &str, locality: &str, snapshot: &Snapshot) -> Option<usize> {
        if let Some(number) = self.numbers.get(group).and_then(|numbers| numbers.get(locality)) {
            return Some(*number);
        }
        let targets = &snapshot.groups()[snapshot.place(group)?].targets;
        let Target { ip, port, udp, .. } = targets.iter().find(|target| target.locality() == locality)?;
        if self.sums.len() >= limits::OBSERVED_MEMBERS {
            return None;
        }
        let endpoint = Endpoint::new(*ip, if *udp { UDP } else { TCP }, *port);
        self.sums.push(Sum { endpoint, issued: 0, failed: 0, in_progress: 0 });
        let number = self.sums.len() - 1;
        self.numbers.entry(group.to_owned()).or_default().insert(locality.to_owned(), number);
        Some(number)
    }

    /// The client has no request in progress any more.
    fn forget(&mut self, in_progress: &mut HashMap<usize, u64>) {
        self.kept -= in_progress.len();
        for (number, count) in in_progress.drain() {
            let sum = &mut self.sums[number].in_progress;
            *sum = sum.saturating_sub(count);
        }
    }
}

impl Reporter {
    /// Adds what has happened since the client's last report.
    pub fn report(&mut self, report: &LoadStatsRequest, snapshot: &Snapshot) {
        let mut state = self.loads.lock();
        state.reports += 1;
        state.forget(&mut self.in_progress);
        for cluster in &report.cluster_stats {
            for stats in &cluster.upstream_locality_stats {
                let locality = stats.locality.as_ref().map_or("", |locality| &locality.sub_zone);
                let Some(number) = state.number(&cluster.cluster_name, locality, snapshot) else { continue };
                let sum = &mut state.sums[number];
                sum.issued = sum.issued.saturating_add(stats.total_issued_requests);
                sum.failed = sum.failed.saturating_add(stats.total_error_requests);
                let count = stats.total_requests_in_progress;
                if count > 0 && state.kept < IN_PROGRESS && !self.in_progress.contains_key(&number) {
                    self.in_progress.insert(number, count);
                    state.kept += 1;
                    let sum = &mut state.sums[number].in_progress;
                    *sum = sum.saturating_add(count);
                }
            }
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.loads.lock().forget(&mut self.in_progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::xds::{
        messages::{ClusterStats, Locality, UpstreamLocalityStats},
        snapshot::Group,
    };

    fn report(group: &str, endpoints: &[(&str, u64, u64, u64)]) -> LoadStatsRequest {
        let stats = |(name, issued, failed, in_progress): &(&str, u64, u64, u64)| UpstreamLocalityStats {
            locality: Some(Locality { sub_zone: (*name).into() }),
            total_requests_in_progress: *in_progress,
            total_error_requests: *failed,
            total_issued_requests: *issued,
        };
        let upstream_locality_stats = endpoints.iter().map(stats).collect();
        LoadStatsRequest {
            node: None,
            cluster_stats: vec![ClusterStats { cluster_name: group.into(), upstream_locality_stats }],
        }
    }

    #[test]
    fn reports_of_all_clients_add_up() {
        let target = |host| Target { ip: [10, 0, 0, host].into(), port: 80, udp: false, weight: 1 };
        let all = Snapshot::after(None, 7, vec![Group { name: "web".into(), targets: vec![target(1), target(2)] }]);
        let none = Snapshot::after(None, 7, vec![Group { name: "web".into(), targets: Vec::new() }]);
        let loads = Loads::default();
        let (mut first, mut second) = (loads.enter(), loads.enter());
        let seen = || {
            let mut seen: Vec<_> = loads.of(b"web", "web").into_iter().collect();
            seen.sort_by_key(|one| one.endpoint.to_string());
            let number = |one: &Observation| {
                (one.endpoint.to_string(), one.connections.unwrap(), one.errors.unwrap(), one.open_connections.unwrap())
            };
            seen.iter().map(number).collect::<Vec<_>>()
        };
        assert!(seen().is_empty());
        first.report(&report("web", &[("10.0.0.1:80", 5, 1, 2), ("10.0.0.9:80", 5, 1, 2), ("", 1, 1, 1)]), &all);
        first.report(&report("other", &[("10.0.0.1:80", 5, 1, 2)]), &all);
        assert_eq!(seen(), [("10.0.0.1:80".to_owned(), 5, 1, 0)], "the second report has no request in progress");
        first.report(&report("web", &[("10.0.0.1:80", 1, 0, 3), ("10.0.0.2:80", 4, 0, 4)]), &all);
        // A drained endpoint ends its requests.
        second.report(&report("web", &[("10.0.0.1:80", 2, 2, 9)]), &none);
        assert_eq!(seen(), [("10.0.0.1:80".to_owned(), 8, 3, 12), ("10.0.0.2:80".to_owned(), 4, 0, 4)]);
        drop(first);
        assert_eq!(seen(), [("10.0.0.1:80".to_owned(), 8, 3, 9), ("10.0.0.2:80".to_owned(), 4, 0, 0)]);
        second
            .report(&report("web", &[("10.0.0.1:80", u64::MAX, u64::MAX, u64::MAX), ("10.0.0.1:80", 1, 1, 1)]), &none);
        drop(second);
        assert_eq!(seen()[0], ("10.0.0.1:80".to_owned(), u64::MAX, u64::MAX, 0));
        assert_eq!(loads.lock().kept, 0);
    }
}

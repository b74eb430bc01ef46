//! The agent's metrics.
//!
//! To add a metric: a row here, in `METRICS` and in `reading`.

use std::sync::atomic::Ordering;

use super::server::Site;
use crate::{
    agent::service::Condition,
    metrics::{LabelValue, Metric, Reading, Sample, Value, counter, gauge},
    web::exposition,
};

const fn with_unit(unit: &'static str, metric: Metric) -> Metric {
    Metric { unit: Some(unit), ..metric }
}

static BUILD: Metric = gauge("gwm_build_info", "1; the label is the version.").each("version");
static AGENT_CHECKS: Metric =
    counter("gwm_agent_answers_total", "Answers to those who asked.").with("kind", "agent_check");
static REQUESTS: Metric = counter("gwm_agent_answers_total", "Answers to those who asked.").with("kind", "http");
static UP: Metric = gauge("gwm_agent_service_up", "1 if the service takes new work.").each("service");
static QUIESCED: Metric =
    gauge("gwm_agent_service_quiesced", "1 if the service is quiesced by hand, or leaves.").each("service");
static CONNECTIONS: Metric = gauge("gwm_agent_service_connections", "Open connections of the service.").each("service");
static MEMBERSHIPS: Metric =
    gauge("gwm_agent_memberships", "Memberships that the service is to have, at all GWMs.").each("service");
static REGISTERED: Metric =
    gauge("gwm_agent_memberships_registered", "Memberships that are registered, at all GWMs.").each("service");
static LIMIT: Metric =
    with_unit("cores", gauge("gwm_agent_cpu_limit_cores", "Cores that the service may have at most.").each("service"));
static USED: Metric =
    with_unit("cores", gauge("gwm_agent_cpu_used_cores", "Cores that the service has.").each("service"));
static AVAILABLE: Metric =
    with_unit("cores", gauge("gwm_agent_cpu_available_cores", "Cores that the service could have.").each("service"));
static UTILIZATION: Metric =
    with_unit("ratio", gauge("gwm_agent_cpu_utilization_ratio", "Used share of the available cores.").each("service"));
static MEMORY: Metric =
    with_unit("ratio", gauge("gwm_agent_memory_utilization_ratio", "Used share of the memory.").each("service"));
static PRESSURE: Metric = with_unit(
    "ratio",
    gauge("gwm_agent_pressure_ratio", "Share of the last 10 s in which some task of the service waited.")
        .each("service"),
);
static RATE: Metric = gauge("gwm_agent_requests_per_second", "Requests a second.").each("service");
static ERRORS: Metric = gauge("gwm_agent_errors_per_second", "Requests a second that failed.").each("service");
static MEAN: Metric =
    with_unit("seconds", gauge("gwm_agent_latency_mean_seconds", "Mean latency of requests.").each("service"));
static P99: Metric =
    with_unit("seconds", gauge("gwm_agent_latency_p99_seconds", "99th percentile of the latency.").each("service"));
static CAPACITY: Metric =
    gauge("gwm_agent_capacity", "Weight of the available cores: 10 for each GHz of each core.").each("service");
static HINT: Metric =
    gauge("gwm_agent_capacity_hint", "The same of the cores that the service may have at most.").each("service");

/// All metrics.
static METRICS: [&Metric; 20] = [
    &BUILD,
    &AGENT_CHECKS,
    &REQUESTS,
    &UP,
    &QUIESCED,
    &CONNECTIONS,
    &MEMBERSHIPS,
    &REGISTERED,
    &LIMIT,
    &USED,
    &AVAILABLE,
    &UTILIZATION,
    &MEMORY,
    &PRESSURE,
    &RATE,
    &ERRORS,
    &MEAN,
    &P99,
    &CAPACITY,
    &HINT,
];

/// The Content-Type and the page.
pub(super) fn page(site: &Site, openmetrics: bool) -> (&'static str, String) {
    let kind = if openmetrics { exposition::OPENMETRICS } else { exposition::PLAIN };
    (kind, exposition::expose(METRICS, reading(site), openmetrics))
}

fn reading(site: &Site) -> Reading {
    let mut reading = Reading::default();
    let mut add = |metric: &'static Metric, label: Option<&str>, labels: Vec<(&'static str, String)>, value: Value| {
        let label = label.map(|name| LabelValue { name: name.to_owned().into(), text: "".into() });
        reading.samples.push(Sample { metric, shard: None, label, labels, value });
    };
    add(&BUILD, Some(env!("CARGO_PKG_VERSION")), Vec::new(), Value::Number(1));
    for (metric, count) in [(&AGENT_CHECKS, &site.agent_checks), (&REQUESTS, &site.requests)] {
        add(metric, None, Vec::new(), Value::Number(count.load(Ordering::Relaxed)));
    }
    for (at, told) in site.services.iter().enumerate() {
        let name = Some(told.service.settings.name.as_str());
        let state = told.service.state();
        let condition = state.condition();
        let quiesced = matches!(condition, Condition::Maint | Condition::Drain | Condition::Gone);
        let sum = |of: fn(&crate::agent::service::AtGwm) -> usize| state.gwms.iter().map(of).sum::<usize>() as u64;
        for (metric, value) in [
            (&UP, Some(u64::from(condition == Condition::Up))),
            (&QUIESCED, Some(quiesced.into())),
            (&CONNECTIONS, state.connections.map(|open| open.all)),
            (&MEMBERSHIPS, Some(sum(|gwm| gwm.memberships))),
            (&REGISTERED, Some(sum(|gwm| gwm.registered))),
        ] {
            if let Some(value) = value {
                add(metric, name, Vec::new(), Value::Number(value));
            }
        }
        let Some(figures) = site.board.figures(at) else { continue };
        let (cpu, requests) = (figures.cpu, figures.requests);
        for (metric, value) in [
            (&LIMIT, cpu.map(|cpu| cpu.limit)),
            (&USED, cpu.map(|cpu| cpu.used)),
            (&AVAILABLE, cpu.map(|cpu| cpu.available)),
            (&UTILIZATION, cpu.map(|cpu| cpu.utilization())),
            (&MEMORY, figures.memory),
            (&RATE, requests.rate),
            (&ERRORS, requests.errors),
            (&MEAN, requests.mean),
            (&P99, requests.p99),
            (&CAPACITY, figures.capacity().map(f64::from)),
            (&HINT, figures.capacity_hint().map(f64::from)),
        ] {
            if let Some(value) = value {
                add(metric, name, Vec::new(), Value::Real(value));
            }
        }
        let pressure = figures.pressure;
        for (resource, value) in [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)] {
            if let Some(value) = value {
                add(&PRESSURE, name, vec![("resource", resource.into())], Value::Real(value));
            }
        }
    }
    reading
}

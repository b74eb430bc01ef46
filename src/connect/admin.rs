//! The admin side of a connector: metrics, pools, health.
//!
//! To add a metric: a row here, in `METRICS` and in `reading`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::Request,
    http::{self, header},
};
use serde::Serialize;
use tokio::{sync::oneshot, time};

use super::{
    Observation, Observed, Pool, Standing, figures,
    follower::Waker,
    standing_name,
    status::{Mapped, Status, Told},
};
use crate::{
    limits,
    metrics::{Label, LabelValue, Metric, Reading, Sample, Value, counter, gauge},
    sasp::{Endpoint, Escaped, component},
    web::{Gate, Problem, Response, Row, Site, answers, exposition, requests},
};

/// How long the connector may take to ask its real LB; then the answer has nothing of it.
const PATIENCE: Duration = Duration::from_secs(2);

static BUILD: Metric = gauge("gwm_build_info", "1; the label is the version.").each("version");
static SESSION: Metric = gauge("gwm_connect_session", "1 while there is a session with a GWM.");
static POOLS: Metric = gauge("gwm_connect_pools", "Pools of the load balancer that have a group.");
static MEMBERS: Metric = gauge("gwm_connect_members", "Members of these pools.");
static WEIGHTS: Metric =
    counter("gwm_connect_weights_changed_total", "Changes of what members may get, the first one of each member too.");
static STEPS_DONE: Metric =
    counter("gwm_connect_steps_total", "Steps that changed the load balancer, or were to change it.")
        .with("result", "done");
static STEPS_REFUSED: Metric =
    counter("gwm_connect_steps_total", "Steps that changed the load balancer, or were to change it.")
        .with("result", "refused");
static APPLIES_FAILED: Metric =
    counter("gwm_connect_applies_failed_total", "Times that the load balancer was out of reach for steps.");
static LOOKS: Metric = counter("gwm_connect_looks_total", "Looks at the load balancer.").with("result", "succeeded");
static LOOKS_FAILED: Metric =
    counter("gwm_connect_looks_total", "Looks at the load balancer.").with("result", "failed");
static CHANGED: Metric = Metric {
    unit: Some("seconds"),
    ..gauge("gwm_connect_last_change_timestamp_seconds", "When the load balancer took a step last, in Unix time.")
};
static OBSERVED: Metric = gauge(
    "gwm_connect_observed",
    "1 if the load balancer told of its members, or of itself, just now; absent if there is nothing to observe.",
);
static CONNECTIONS: Metric =
    gauge("gwm_connect_member_connections", "Open connections of a member, as the load balancer tells.").each("member");
static INACTIVE: Metric = gauge(
    "gwm_connect_member_inactive_connections",
    "Connections of a member that are new, end or have ended, as the load balancer tells.",
)
.each("member");
static NEW_CONNECTIONS: Metric = counter(
    "gwm_connect_member_new_connections_total",
    "Connections to a member since the load balancer's start, as it tells.",
)
.each("member");
static BYTES_TO: Metric =
    counter("gwm_connect_member_bytes_total", "Bytes to a member (in) and from it (out), as the load balancer tells.")
        .with("direction", "in");
static BYTES_FROM: Metric =
    counter("gwm_connect_member_bytes_total", "Bytes to a member (in) and from it (out), as the load balancer tells.")
        .with("direction", "out");
static ERRORS: Metric =
    counter("gwm_connect_member_errors_total", "Failures of a member since the load balancer's start, as it tells.")
        .each("member");
static RESPONSE: Metric = Metric {
    unit: Some("seconds"),
    ..gauge(
        "gwm_connect_member_response_seconds",
        "Mean time of a member's last responses, as the load balancer tells.",
    )
    .each("member")
};
static WEIGHT: Metric =
    gauge("gwm_connect_member_weight", "Weight of a member in the load balancer's range, as it tells.").each("member");

/// All metrics.
static METRICS: [&Metric; 20] = [
    &BUILD,
    &SESSION,
    &POOLS,
    &MEMBERS,
    &WEIGHTS,
    &STEPS_DONE,
    &STEPS_REFUSED,
    &APPLIES_FAILED,
    &LOOKS,
    &LOOKS_FAILED,
    &CHANGED,
    &OBSERVED,
    &CONNECTIONS,
    &INACTIVE,
    &NEW_CONNECTIONS,
    &BYTES_TO,
    &BYTES_FROM,
    &ERRORS,
    &RESPONSE,
    &WEIGHT,
];

/// A path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Route {
    Metrics,
    Pools,
    Healthz,
    Readyz,
}

/// What is served.
pub struct Pages {
    gate: Gate,
    status: Arc<Status>,
    waker: Waker,
}

impl Pages {
    /// For a connector with this status; the waker ends the wait of its loop.
    pub fn new(gate: Gate, status: Arc<Status>, waker: Waker) -> Pages {
        Pages { gate, status, waker }
    }

    /// What the real LB tells now.
    async fn observe(&self) -> Result<Observed, String> {
        let (send, answer) = oneshot::channel();
        self.status.ask(Box::new(move |observed| drop(send.send(observed))));
        self.waker.wake();
        match time::timeout(PATIENCE, answer).await {
            Ok(Ok(observed)) => observed,
            _ => Err("the connector is busy with the load balancer".into()),
        }
    }
}

impl Site for Pages {
    type Route = Route;

    const ROUTES: &'static [Row<Route>] = &[
        ("/metrics", Route::Metrics, false),
        ("/api/v1/pools", Route::Pools, false),
        ("/healthz", Route::Healthz, false),
        ("/readyz", Route::Readyz, false),
    ];

    const UNKNOWN: &'static str =
        "there is no such path: a connector has /metrics, /api/v1/pools, /healthz and /readyz";

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn is_open(route: Route) -> bool {
        matches!(route, Route::Healthz | Route::Readyz)
    }

    fn is_page(_: Route) -> bool {
        false
    }

    async fn answer(self: &Arc<Pages>, route: Route, request: Request) -> Result<http::Response<Body>, Problem> {
        if let Some(query) = request.uri().query() {
            let message = format!("`{}` is no parameter of this path", query.chars().take(64).collect::<String>());
            return Err(Problem::new(400, "bad_request", message));
        }
        let answered = match route {
            Route::Metrics => {
                let openmetrics = exposition::wants_openmetrics(requests::text(request.headers(), header::ACCEPT));
                let kind = if openmetrics { exposition::OPENMETRICS } else { exposition::PLAIN };
                let observed = self.observe().await;
                let reading = reading(&self.status.told(), observed.as_ref().ok());
                let body = exposition::expose(table(), reading, openmetrics).into();
                Response { status: 200, kind, body }
            }
            Route::Pools => {
                let observed = self.observe().await;
                Response::json(200, &document(&self.status.told(), &observed))
            }
            Route::Healthz => Response::json(200, &Alive { alive: true }),
            Route::Readyz => {
                let reasons = reasons(&self.status.told());
                let ready = reasons.is_empty();
                Response::json(if ready { 200 } else { 503 }, &Ready { ready, reasons })
            }
        };
        Ok(answers::plain(answered))
    }
}

#[derive(Serialize)]
struct Alive {
    alive: bool,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    reasons: Vec<String>,
}

/// Why the real LB may have other weights than the GWM says.
fn reasons(told: &Told) -> Vec<String> {
    let no_session = told.gwm.is_none().then(|| "there is no session with a GWM".to_owned());
    let of = |what: &str, fault: &Option<String>| fault.as_ref().map(|fault| format!("{what}: {fault}"));
    let faults = [
        of("the load balancer can not be looked at", &told.look_fault),
        of("the load balancer can not be changed", &told.apply_fault),
    ];
    no_session.into_iter().chain(faults.into_iter().flatten()).collect()
}

/// The pools that have a group.
fn used(told: &Told) -> impl Iterator<Item = &Pool> {
    told.pools.iter().filter(|mapped| mapped.group.is_some()).map(|mapped| &mapped.pool)
}

/// The metrics of each connector, and those of some.
fn table() -> impl Iterator<Item = &'static Metric> {
    METRICS.into_iter().chain(figures::ALL)
}

/// All metrics now.
fn reading(told: &Told, observed: Option<&Observed>) -> Reading {
    let mut reading = Reading::default();
    let mut add = |metric: &'static Metric, labels: Vec<(&'static str, String)>, value: Value| {
        let label = (metric.label == Label::Each("version"))
            .then(|| LabelValue { name: env!("CARGO_PKG_VERSION").into(), text: "".into() });
        reading.samples.push(Sample { metric, shard: None, label, labels, value });
    };
    let members: usize = used(told).map(|pool| pool.members.len()).sum();
    for (metric, value) in [
        (&BUILD, 1),
        (&SESSION, told.gwm.is_some().into()),
        (&POOLS, used(told).count() as u64),
        (&MEMBERS, members as u64),
        (&WEIGHTS, told.weights_changed),
        (&STEPS_DONE, told.steps_done),
        (&STEPS_REFUSED, told.steps_refused),
        (&APPLIES_FAILED, told.applies_failed),
        (&LOOKS, told.looks),
        (&LOOKS_FAILED, told.looks_failed),
    ] {
        add(metric, Vec::new(), Value::Number(value));
    }
    if observed.is_none_or(|observed| observed.nothing.is_none()) {
        add(&OBSERVED, Vec::new(), Value::Number(observed.is_some().into()));
    }
    if let Some(since) = told.changed_at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()) {
        add(&CHANGED, Vec::new(), Value::Real(since.as_secs_f64()));
    }
    let (members, figures) =
        observed.map(|observed| (&observed.members[..], &observed.figures[..])).unwrap_or_default();
    for figure in figures.iter().take(limits::OBSERVED_MEMBERS) {
        add(figure.metric, figure.labels.clone(), Value::Number(figure.value));
    }
    for one in members.iter().take(limits::OBSERVED_MEMBERS) {
        let labels = || vec![("pool", Escaped(&one.pool).to_string()), ("member", one.endpoint.to_string())];
        let numbers = [
            (&CONNECTIONS, one.open_connections),
            (&INACTIVE, one.inactive_connections),
            (&NEW_CONNECTIONS, one.connections),
            (&BYTES_TO, one.bytes.0),
            (&BYTES_FROM, one.bytes.1),
            (&ERRORS, one.errors),
            (&WEIGHT, one.weight),
        ];
        for (metric, value) in numbers.into_iter().filter_map(|(metric, value)| Some((metric, value?))) {
            add(metric, labels(), Value::Number(value));
        }
        if let Some(seconds) = one.response_seconds {
            add(&RESPONSE, labels(), Value::Real(seconds));
        }
    }
    reading
}

/// `/api/v1/pools`.
#[derive(Serialize)]
struct Document {
    /// The GWM of the session.
    gwm: Option<String>,
    lost_for_seconds: Option<u64>,
    look_fault: Option<String>,
    apply_fault: Option<String>,
    observe_fault: Option<String>,
    /// Why there is nothing to observe, if so.
    nothing_to_observe: Option<&'static str>,
    /// The steps that the load balancer refused last.
    refused: Vec<String>,
    changed_at: Option<String>,
    pools: Vec<PoolJson>,
    /// What the load balancer tells of itself; null if it told nothing just now.
    figures: Option<Vec<FigureJson>>,
    clients: Option<Vec<ClientJson>>,
}

#[derive(Serialize)]
struct FigureJson {
    name: &'static str,
    labels: BTreeMap<&'static str, String>,
    value: u64,
}

#[derive(Serialize)]
struct ClientJson {
    client: String,
    kind: &'static str,
    told_version: String,
    acknowledged_version: Option<String>,
    refused: Option<String>,
}

#[derive(Serialize)]
struct PoolJson {
    pool: String,
    /// Null for a pool that is left alone.
    group: Option<String>,
    members: Vec<MemberJson>,
}

#[derive(Serialize)]
struct MemberJson {
    address: String,
    port: u16,
    protocol: String,
    label: String,
    /// What the member may get; null before the GWM has told.
    state: Option<&'static str>,
    /// The GWM's weight of a member that serves.
    gwm_weight: Option<u16>,
    /// The load balancer's weight, and what else it tells.
    weight: Option<u64>,
    connections: Option<u64>,
    inactive_connections: Option<u64>,
    connections_total: Option<u64>,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    errors: Option<u64>,
    response_seconds: Option<f64>,
}

fn document(told: &Told, observed: &Result<Observed, String>) -> Document {
    let of_member = |one: &'_ Observation| (one.pool.clone(), one.endpoint);
    let observed_members: HashMap<(Box<[u8]>, Endpoint), &Observation> =
        observed.iter().flat_map(|observed| &observed.members).map(|one| (of_member(one), one)).collect();
    let standings: HashMap<(&[u8], Endpoint), Standing> = told
        .wanted
        .iter()
        .flat_map(|wanted| wanted.members.iter().map(|member| ((&*wanted.pool, member.endpoint), member.standing)))
        .collect();
    let members = |pool: &Pool| {
        let member = |member: &super::MemberSpec| {
            let endpoint = member.endpoint;
            let standing = standings.get(&(&*pool.name, endpoint)).copied();
            let seen = observed_members.get(&(pool.name.clone(), endpoint));
            MemberJson {
                address: endpoint.ip().to_string(),
                port: endpoint.port,
                protocol: match endpoint.protocol {
                    component::TCP => "tcp".into(),
                    component::UDP => "udp".into(),
                    other => other.to_string(),
                },
                label: Escaped(&member.label).to_string(),
                state: standing.map(standing_name),
                gwm_weight: standing.and_then(|standing| match standing {
                    Standing::Serving(weight) => Some(weight),
                    _ => None,
                }),
                weight: seen.and_then(|seen| seen.weight),
                connections: seen.and_then(|seen| seen.open_connections),
                inactive_connections: seen.and_then(|seen| seen.inactive_connections),
                connections_total: seen.and_then(|seen| seen.connections),
                bytes_in: seen.and_then(|seen| seen.bytes.0),
                bytes_out: seen.and_then(|seen| seen.bytes.1),
                errors: seen.and_then(|seen| seen.errors),
                response_seconds: seen.and_then(|seen| seen.response_seconds),
            }
        };
        pool.members.iter().map(member).collect()
    };
    let pool = |Mapped { pool, group }: &Mapped| PoolJson {
        pool: Escaped(&pool.name).to_string(),
        group: group.as_ref().map(|group| Escaped(group).to_string()),
        members: members(pool),
    };
    Document {
        gwm: told.gwm.clone(),
        lost_for_seconds: told.lost_since.map(|since| since.elapsed().as_secs()),
        look_fault: told.look_fault.clone(),
        apply_fault: told.apply_fault.clone(),
        observe_fault: observed.as_ref().err().cloned(),
        nothing_to_observe: observed.as_ref().ok().and_then(|observed| observed.nothing),
        refused: told.refused.clone(),
        changed_at: told.changed_at.map(|at| humantime::format_rfc3339_millis(at).to_string()),
        pools: told.pools.iter().map(pool).collect(),
        figures: observed.as_ref().ok().map(|observed| observed.figures.iter().map(FigureJson::of).collect()),
        clients: observed.as_ref().ok().map(|observed| observed.clients.iter().map(ClientJson::of).collect()),
    }
}

impl FigureJson {
    fn of(figure: &figures::Figure) -> FigureJson {
        FigureJson { name: figure.metric.name, labels: figure.labels.iter().cloned().collect(), value: figure.value }
    }
}

impl ClientJson {
    fn of(client: &figures::Client) -> ClientJson {
        ClientJson {
            client: client.name.clone(),
            kind: client.kind,
            told_version: client.told.clone(),
            acknowledged_version: client.acknowledged.clone(),
            refused: client.refused.clone(),
        }
    }
}

#[cfg(test)]
mod tests;

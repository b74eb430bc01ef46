//! A request → an answer.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{self, HeaderName, header},
};

#[cfg(feature = "fleet")]
use super::fleet;
use super::{Daemon, limit_rows, streams, writes};
use crate::{
    admin::{
        self, Call, Route,
        discovery::Members,
        page,
        pages::{self, Beside, Version},
        request, rows,
    },
    coordinator::{Answer, Ask, Cursor, Filter, Page},
    limits,
    metrics::{self, Id, LabelValue, Reading},
    sasp::EntryFlags,
    web::{
        Gate, Problem, Response, Row, Site,
        answers::{JSON, NOTHING, plain, with_headers},
        exposition,
        requests::{connection_of, read_body, text},
    },
};

impl Site for Daemon {
    type Route = Route;

    const ROUTES: &'static [Row<Route>] = admin::ROUTES;

    const UNKNOWN: &'static str = "there is no such path: /api/v1/openapi.json has all of them";

    fn gate(&self) -> &Gate {
        &self.parts.gate
    }

    fn is_open(route: Route) -> bool {
        route.is_open()
    }

    fn is_page(route: Route) -> bool {
        route == Route::Page
    }

    async fn answer(self: &Arc<Daemon>, route: Route, request: Request) -> Result<http::Response<Body>, Problem> {
        answer(self, route, request).await
    }

    async fn run(self: Arc<Daemon>) {
        streams::pump(self).await;
    }
}

async fn answer(daemon: &Arc<Daemon>, route: Route, request: Request) -> Result<http::Response<Body>, Problem> {
    let connection = connection_of(&request);
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let is_write = admin::ROUTES.iter().any(|(_, known, post)| *known == route && *post);
    let call = if is_write {
        let body = read_body(&connection, &parts.headers, body).await?;
        request::post(route, query, &body)?
    } else {
        let last_event_id = text(&parts.headers, HeaderName::from_static("last-event-id"));
        request::get(route, query, last_event_id)?
    };
    let answered = match call {
        Call::Ask(ask) => asked(daemon, ask).await?,
        Call::Checks(wanted) => pages::checks(&daemon.checks(wanted).await?),
        Call::Write(write) => writes::carry_out(daemon, write, connection.from()).await?,
        Call::Discover(filter) => discovered(daemon, route, filter).await?,
        Call::Events(seen) => {
            let body = Body::new(streams::follow(daemon, seen, connection).await?);
            return Ok(with_headers(200, "text/event-stream", NOTHING, body));
        }
        Call::Plain => match route {
            Route::Page => {
                let policy = page::policy();
                return Ok(with_headers(200, "text/html; charset=utf-8", &policy, Body::from(page::HTML)));
            }
            Route::Metrics => {
                let openmetrics = exposition::wants_openmetrics(text(&parts.headers, header::ACCEPT));
                let kind = if openmetrics { exposition::OPENMETRICS } else { exposition::PLAIN };
                let body = exposition::expose(&metrics::TABLE, reading(daemon).await?, openmetrics).into();
                Response { status: 200, kind, body }
            }
            _ => looked_up(daemon, route).await?,
        },
    };
    Ok(plain(answered))
}

/// A question to the coordinator, and what the shards know beside its answer.
async fn asked(daemon: &Daemon, ask: Ask) -> Result<Response, Problem> {
    let calendar = &daemon.parts.calendar;
    let answer = daemon.ask(ask).await?;
    let beside = match &answer {
        Answer::LoadBalancers(page) => {
            let connections: Vec<_> = page.rows.iter().map(|row| row.connection).collect();
            Beside { bytes_waiting: daemon.bytes_waiting(&connections).await, factors: None }
        }
        Answer::Member(found) => Beside { factors: daemon.factors(found.3.watch).await, ..Beside::default() },
        Answer::Endpoint(found) => Beside { factors: daemon.factors(found.1.watch).await, ..Beside::default() },
        Answer::Totals(row) => {
            let connections = daemon.reading().total(Id::ConnectionsOpen);
            return Ok(pages::totals(row, connections));
        }
        _ => Beside::default(),
    };
    Ok(pages::answer(&answer, &beside, calendar))
}

/// What is known without a list.
async fn looked_up(daemon: &Daemon, route: Route) -> Result<Response, Problem> {
    let parts = &daemon.parts;
    Ok(match route {
        Route::Version => Response::json(200, &Version::new(daemon.now(), parts.monitoring.len(), &parts.calendar)),
        Route::OpenApi => Response { status: 200, kind: JSON, body: admin::OPENAPI.into() },
        Route::Config => pages::config(&parts.flags, &parts.warnings),
        Route::Limits => pages::limits(&limit_rows::all(daemon).await?),
        #[cfg(feature = "fleet")]
        Route::Fleet => admin::fleet::page(fleet::shown(daemon).as_ref()),
        #[cfg(not(feature = "fleet"))]
        Route::Fleet => admin::fleet::page(None),
        Route::Healthz => pages::alive(daemon.is_alive().await),
        Route::Readyz => {
            let mut reasons = Vec::new();
            let behind = parts.metrics.journal.as_ref().is_some_and(|journal| journal.trouble().is_some());
            if behind {
                reasons.push("state on disk: the disk does not take changes");
            }
            #[cfg(feature = "fleet")]
            if parts.metrics.fleet.as_ref().is_some_and(|fleet| fleet.trouble().is_some()) {
                reasons.push("fleet: etcd is out of reach, and this node knows only what it sees itself");
            }
            match daemon.ask(Ask::Totals).await? {
                Answer::Totals(row) if row.blind.0 || row.blind.1 => {
                    reasons.push("blind: no member or witness answers")
                }
                Answer::Totals(_) => {}
                _ => reasons.push("the coordinator does not answer"),
            }
            pages::ready(reasons)
        }
        _ => return Err(admin::not_found()),
    })
}

/// Goes through memberships; at most `most` of them.
async fn each_member(
    daemon: &Daemon,
    filter: Filter,
    most: usize,
    mut take: impl FnMut(&crate::coordinator::MemberRow),
) -> Result<bool, Problem> {
    let (mut after, mut left) = (Cursor::default(), most);
    while left > 0 {
        let page = Page { after, limit: left.min(limits::ADMIN_ROWS) };
        let Answer::Members(rows) = daemon.ask(Ask::Members(filter.clone(), page)).await? else {
            return Err(admin::not_found());
        };
        rows.rows.iter().for_each(&mut take);
        left -= rows.rows.len();
        match rows.next {
            Some(next) => after = next,
            None => return Ok(true),
        }
    }
    Ok(false)
}

async fn discovered(daemon: &Daemon, route: Route, filter: Filter) -> Result<Response, Problem> {
    let mut members = Members::default();
    if !each_member(daemon, filter, limits::ADMIN_DISCOVERED, |row| members.add(row)).await? {
        let most = limits::ADMIN_DISCOVERED;
        return Err(Problem::new(503, "too_many", format!("there are more than {most} memberships: ask by group")));
    }
    Ok(if route == Route::SdPrometheus { members.prometheus() } else { members.traefik() })
}

/// All metrics: the counters, what limits are used, and series of members if there are any.
async fn reading(daemon: &Daemon) -> Result<Reading, Problem> {
    let mut reading = daemon.reading();
    let version = LabelValue { name: env!("CARGO_PKG_VERSION").into(), text: "".into() };
    reading.add_labelled(None, Id::BuildInfo, version, 1);
    for limit in limit_rows::all(daemon).await? {
        let label = || LabelValue { name: limit.name.into(), text: limit.text.into() };
        reading.add_labelled(None, Id::LimitUsed, label(), limit.used);
        reading.add_labelled(None, Id::LimitMax, label(), limit.max);
    }
    let most = daemon.parts.metrics_members as usize;
    if most > 0 {
        let add = |row: &crate::coordinator::MemberRow| {
            let labels = [
                ("load_balancer", rows::text(&row.lb_uid)),
                ("group", rows::text(&row.group)),
                ("member", row.state.endpoint.to_string()),
            ];
            let has = |flag| u64::from(row.entry.flags.contains(flag));
            for (id, value) in [
                (Id::MemberWeight, u64::from(row.entry.weight)),
                (Id::MemberContact, has(EntryFlags::CONTACT)),
                (Id::MemberConfident, has(EntryFlags::CONFIDENT)),
                (Id::MemberQuiesced, has(EntryFlags::QUIESCED)),
            ] {
                reading.add_member(id, labels.clone(), value);
            }
        };
        each_member(daemon, Filter::default(), most, add).await?;
    }
    Ok(reading)
}

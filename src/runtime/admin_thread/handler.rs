//! A request → an answer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use hyper::body::{Body as HttpBody, Frame};
use tokio::time;

use super::{
    Daemon,
    connections::{Connection, Work},
    limit_rows,
    server::State,
    streams, writes,
};
use crate::{
    admin::{
        self, Call, Problem, Response as Answered, Route,
        discovery::Members,
        exposition, guard, page,
        pages::{self, Beside, Version},
        request, rows,
    },
    coordinator::{Answer, Ask, Cursor, Filter, Page},
    limits,
    metrics::{Id, LabelValue, Reading},
    sasp::EntryFlags,
};

/// How long the body of a write may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body, and the sign that its connection is at work.
pub(super) struct Working {
    pub(super) body: Body,
    pub(super) _work: Work,
}

impl HttpBody for Working {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

fn connection_of(request: &Request) -> Arc<Connection> {
    request.extensions().get::<Arc<Connection>>().expect("the server puts it there").clone()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the request may be answered at all.
fn guarded(state: &State, route: Option<Route>, request: &Request) -> Result<(), Problem> {
    let (connection, headers) = (connection_of(request), request.headers());
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Problem::new(400, "bad_request", "there are two Host headers: send one"));
    }
    // A proxy's absolute form has the host in the URI.
    let host = request.uri().authority().map(|authority| authority.as_str());
    let host = host.or_else(|| text(headers, header::HOST));
    if connection.plain_tcp {
        guard::host(host)?;
    }
    // Links of other sites may lead to the page: it has no data, and what its script asks comes from itself.
    let site = (route != Some(Route::Page)).then(|| text(headers, HeaderName::from_static("sec-fetch-site"))).flatten();
    guard::origin(text(headers, header::ORIGIN), site, host)?;
    if connection.needs_token && !route.is_some_and(Route::is_open) {
        let shown = text(headers, header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        if !state.daemon.is_token(shown.map(str::as_bytes)) {
            return Err(Problem::new(
                401,
                "token",
                "this needs the token of --admin-token-file: Authorization: Bearer TOKEN",
            ));
        }
    }
    Ok(())
}

/// Answers a request to a path.
pub(super) async fn handle(state: Arc<State>, route: Route, request: Request) -> Response {
    match answer(&state, route, request).await {
        Ok(response) => response,
        Err(problem) => plain(problem.response()),
    }
}

/// Answers a request to a path with a method that the path does not have; the router adds the allowed ones.
pub(super) async fn wrong_method(state: Arc<State>, request: Request) -> Response {
    let problem = guarded(&state, None, &request).err();
    let wrong = || Problem::new(405, "method", "this path does not have this method");
    plain(problem.unwrap_or_else(wrong).response())
}

/// Answers a request to an unknown path.
pub(super) async fn unknown_path(state: Arc<State>, request: Request) -> Response {
    let problem = guarded(&state, None, &request).err();
    let unknown = || Problem::new(404, "path", "there is no such path: /api/v1/openapi.json has all of them");
    plain(problem.unwrap_or_else(unknown).response())
}

async fn answer(state: &State, route: Route, request: Request) -> Result<Response, Problem> {
    guarded(state, Some(route), &request)?;
    let daemon = &state.daemon;
    let connection = connection_of(&request);
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let call = if is_write(route) {
        let body = read_body(&connection, &parts.headers, body).await?;
        request::post(route, query, &body)?
    } else {
        let last_event_id = text(&parts.headers, HeaderName::from_static("last-event-id"));
        request::get(route, query, last_event_id)?
    };
    let answered = match call {
        Call::Ask(ask) => asked(state, ask).await?,
        Call::Checks(wanted) => pages::checks(&daemon.checks(wanted).await?),
        Call::Write(write) => writes::carry_out(daemon, write, connection.from()).await?,
        Call::Discover(filter) => discovered(daemon, route, filter).await?,
        Call::Events(seen) => {
            let body = Body::new(streams::follow(daemon, seen, connection).await?);
            return Ok(with_headers(200, "text/event-stream", page::NOTHING, body));
        }
        Call::Plain => match route {
            Route::Page => {
                let policy = page::policy();
                return Ok(with_headers(200, "text/html; charset=utf-8", &policy, Body::from(page::HTML)));
            }
            Route::Metrics => {
                let openmetrics = exposition::wants_openmetrics(text(&parts.headers, header::ACCEPT));
                let kind = if openmetrics { exposition::OPENMETRICS } else { exposition::PLAIN };
                let body = exposition::expose(reading(state).await?, openmetrics).into();
                Answered { status: 200, kind, body }
            }
            _ => looked_up(state, route).await?,
        },
    };
    Ok(plain(answered))
}

fn is_write(route: Route) -> bool {
    admin::ROUTES.iter().any(|(_, known, post)| *known == route && *post)
}

async fn read_body(connection: &Connection, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(admin::JSON) {
        return Err(Problem::new(415, "content_type", "the body must be application/json (Content-Type)"));
    }
    // Whoever sends half a body has no claim to the place.
    connection.wait();
    let read = time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limits::ADMIN_BODY_BYTES)).await;
    connection.go_on();
    let late = || Problem::new(408, "timeout", format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()));
    let long = || Problem::new(413, "too_long", format!("the longest body has {} bytes", limits::ADMIN_BODY_BYTES));
    read.map_err(|_| late())?.map_err(|_| long())
}

/// A question to the coordinator, and what the shards know beside its answer.
async fn asked(state: &State, ask: Ask) -> Result<Answered, Problem> {
    let daemon = &state.daemon;
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
async fn looked_up(state: &State, route: Route) -> Result<Answered, Problem> {
    let daemon = &state.daemon;
    let parts = &daemon.parts;
    Ok(match route {
        Route::Version => Answered::json(200, &Version::new(daemon.now(), parts.monitoring.len(), &parts.calendar)),
        Route::OpenApi => Answered { status: 200, kind: admin::JSON, body: admin::OPENAPI.into() },
        Route::Config => pages::config(&parts.flags, &parts.warnings),
        Route::Limits => pages::limits(&limit_rows::all(state).await?),
        Route::Healthz => pages::alive(daemon.is_alive().await),
        Route::Readyz => {
            let mut reasons = Vec::new();
            match daemon.ask(Ask::Totals).await? {
                Answer::Totals(row) if row.blind.0 || row.blind.1 => {
                    reasons.push("blind: no member or witness answers")
                }
                Answer::Totals(_) => {}
                _ => reasons.push("the coordinator does not answer"),
            }
            pages::ready(reasons)
        }
        _ => return Err(Problem::not_found()),
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
            return Err(Problem::not_found());
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

async fn discovered(daemon: &Daemon, route: Route, filter: Filter) -> Result<Answered, Problem> {
    let mut members = Members::default();
    if !each_member(daemon, filter, limits::ADMIN_DISCOVERED, |row| members.add(row)).await? {
        let most = limits::ADMIN_DISCOVERED;
        return Err(Problem::new(503, "too_many", format!("there are more than {most} memberships: ask by group")));
    }
    Ok(if route == Route::SdPrometheus { members.prometheus() } else { members.traefik() })
}

/// All metrics: the counters, what limits are used, and series of members if there are any.
async fn reading(state: &State) -> Result<Reading, Problem> {
    let daemon = &state.daemon;
    let mut reading = daemon.reading();
    let version = LabelValue { name: env!("CARGO_PKG_VERSION").into(), text: "".into() };
    reading.add_labelled(None, Id::BuildInfo, version, 1);
    for limit in limit_rows::all(state).await? {
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

fn plain(answered: Answered) -> Response {
    let mut response = with_headers(answered.status, answered.kind, page::NOTHING, Body::from(answered.body));
    if answered.status == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn with_headers(status: u16, kind: &str, policy: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    headers.insert(header::CONTENT_TYPE, value(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, value(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin.clone());
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same_origin);
    response
}

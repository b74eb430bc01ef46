//! Whether a request may be answered, and its body.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, header},
};
use hyper::body::{Body as HttpBody, Frame};
use tokio::time;

use super::{
    Problem, Site,
    answers::JSON,
    connections::{Connection, Work},
    guard,
};
use crate::limits;

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

/// The connection of a request.
pub fn connection_of(request: &Request) -> Arc<Connection> {
    request.extensions().get::<Arc<Connection>>().expect("the server puts it there").clone()
}

/// A header as text.
pub fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the request may be answered at all.
pub(super) fn guarded<S: Site>(site: &S, route: Option<S::Route>, request: &Request) -> Result<(), Problem> {
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
    let fetch_site = || text(headers, HeaderName::from_static("sec-fetch-site"));
    let fetch_site = (!route.is_some_and(S::is_page)).then(fetch_site).flatten();
    guard::origin(text(headers, header::ORIGIN), fetch_site, host)?;
    if !connection.is_local() && !route.is_some_and(S::is_open) {
        let shown = text(headers, header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        if !site.gate().is_token(shown.map(str::as_bytes)) {
            return Err(Problem::new(
                401,
                "token",
                "this needs the token of --admin-token-file: Authorization: Bearer TOKEN",
            ));
        }
    }
    Ok(())
}

/// The body of a write.
pub async fn read_body(connection: &Connection, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(JSON) {
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

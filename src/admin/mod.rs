//! The admin side: requests of operators become questions to the coordinator and the shards, and the answers become JSON,
//! metrics and events. No sockets: `runtime/admin_thread` has those.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`request`] | path, query and body → [`Call`], or a [`Problem`] |
//! | `fields` | the fields of a body, each given once |
//! | [`guard`] | which hosts and origins may ask |
//! | [`rows`] | rows of the tables as JSON |
//! | [`why`] | the factors of a weight, in numbers and words |
//! | [`pages`] | answers as JSON documents |
//! | [`discovery`] | members for Prometheus and Traefik |
//! | [`events`] | changes as server-sent events |
//! | [`exposition`] | metrics as text |
//! | [`page`] | the page for browsers, and what it may load |
//!
//! `openapi.json` documents all paths. To add a path: a [`Route`] with its row in [`ROUTES`], its parameters in `request.rs`,
//! its JSON in `pages.rs`, its document in `openapi.json`, and a test in `tests/process/admin/`.

pub mod discovery;
pub mod events;
pub mod exposition;
mod fields;
pub mod guard;
pub mod page;
pub mod pages;
pub mod request;
pub mod rows;
pub mod why;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::Serialize;

pub use request::{Call, Checks, Write};

use crate::time::Time;

/// The OpenAPI document.
pub const OPENAPI: &str = include_str!("openapi.json");

/// A path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // openapi.json has the meaning
pub enum Route {
    Version,
    Totals,
    Limits,
    Config,
    LoadBalancers,
    Groups,
    Members,
    Member,
    Endpoints,
    Endpoint,
    Checks,
    Words,
    Events,
    OpenApi,
    Quiesce,
    Resume,
    FixWeight,
    ReleaseWeight,
    DropLb,
    ForgetLb,
    Reload,
    Healthz,
    Readyz,
    Metrics,
    SdPrometheus,
    SdTraefik,
    Page,
}

/// Every path, and whether it is for POST (else for GET and HEAD).
pub const ROUTES: &[(&str, Route, bool)] = &[
    ("/api/v1/version", Route::Version, false),
    ("/api/v1/totals", Route::Totals, false),
    ("/api/v1/limits", Route::Limits, false),
    ("/api/v1/config", Route::Config, false),
    ("/api/v1/load-balancers", Route::LoadBalancers, false),
    ("/api/v1/groups", Route::Groups, false),
    ("/api/v1/members", Route::Members, false),
    ("/api/v1/member", Route::Member, false),
    ("/api/v1/endpoints", Route::Endpoints, false),
    ("/api/v1/endpoint", Route::Endpoint, false),
    ("/api/v1/checks", Route::Checks, false),
    ("/api/v1/words", Route::Words, false),
    ("/api/v1/events", Route::Events, false),
    ("/api/v1/openapi.json", Route::OpenApi, false),
    ("/api/v1/members/quiesce", Route::Quiesce, true),
    ("/api/v1/members/resume", Route::Resume, true),
    ("/api/v1/members/fix-weight", Route::FixWeight, true),
    ("/api/v1/members/release-weight", Route::ReleaseWeight, true),
    ("/api/v1/load-balancers/drop", Route::DropLb, true),
    ("/api/v1/load-balancers/forget", Route::ForgetLb, true),
    ("/api/v1/reload", Route::Reload, true),
    ("/healthz", Route::Healthz, false),
    ("/readyz", Route::Readyz, false),
    ("/metrics", Route::Metrics, false),
    ("/sd/prometheus", Route::SdPrometheus, false),
    ("/sd/traefik", Route::SdTraefik, false),
    ("/", Route::Page, false),
];

impl Route {
    /// Whether the path needs no token: for those who only ask whether the daemon lives, and for the page, which has no
    /// data and asks the operator for the token.
    pub fn is_open(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Page)
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The parameter or field that is wrong.
    pub field: Option<&'static str>,
}

impl Problem {
    /// A problem without a field.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into(), field: None }
    }

    /// A parameter or field is wrong.
    pub fn field(field: &'static str, message: impl fmt::Display) -> Problem {
        Problem { status: 400, code: "bad_request", message: format!("{field}: {message}"), field: Some(field) }
    }

    /// Nothing has the name.
    pub fn not_found() -> Problem {
        Problem::new(404, "not_found", "there is no such load balancer, group or member")
    }

    /// The daemon did not answer in time.
    pub fn busy() -> Problem {
        Problem::new(503, "busy", "the daemon is busy or stops: try again")
    }

    /// The answer.
    pub fn response(&self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Error<'a>,
        }
        #[derive(Serialize)]
        struct Error<'a> {
            code: &'a str,
            message: &'a str,
            field: Option<&'a str>,
        }
        let error = Error { code: self.code, message: &self.message, field: self.field };
        Response::json(self.status, &Body { error })
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The Content-Type.
    pub kind: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// The Content-Type of JSON.
pub const JSON: &str = "application/json";

impl Response {
    /// A JSON document.
    pub fn json(status: u16, value: &impl Serialize) -> Response {
        let mut body = serde_json::to_vec(value).expect("strings, numbers and lists are JSON");
        body.push(b'\n');
        Response { status, kind: JSON, body }
    }
}

/// Turns times of the daemon into times of day.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    /// The time of day at time zero.
    pub zero: SystemTime,
}

impl Calendar {
    /// A time as RFC 3339.
    pub fn text(&self, time: Time) -> String {
        humantime::format_rfc3339_millis(self.zero + Duration::from_nanos(time.0)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_every_path_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let documented: BTreeSet<(String, bool)> =
            paths.iter().map(|(path, item)| (path.clone(), item.get("post").is_some())).collect();
        let served = ROUTES.iter().filter(|(_, route, _)| *route != Route::Page);
        assert_eq!(documented, served.map(|(path, _, post)| ((*path).to_owned(), *post)).collect());
    }

    #[test]
    fn times_are_times_of_day() {
        let calendar = Calendar { zero: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) };
        assert_eq!(calendar.text(Time(1_500_000_000)), "2023-11-14T22:13:21.500Z");
    }

    #[test]
    fn a_problem_says_what_is_wrong() {
        let response = Problem::field("limit", "0 is less than 1").response();
        assert_eq!((response.status, response.kind), (400, "application/json"));
        let text = String::from_utf8(response.body).unwrap();
        let expected = r#"{"error":{"code":"bad_request","message":"limit: 0 is less than 1","field":"limit"}}"#;
        assert_eq!(text.trim_end(), expected);
    }
}

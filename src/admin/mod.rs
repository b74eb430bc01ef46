//! The admin side: requests of operators become questions to the coordinator and the shards, and the answers become JSON,
//! metrics and events. `web` has the sockets and HTTP, `runtime/admin_thread` asks.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`request`] | path, query and body → [`Call`], or a [`Problem`] |
//! | `fields` | the fields of a body, each given once |
//! | [`rows`] | rows of the tables as JSON |
//! | [`why`] | the factors of a weight, in numbers and words |
//! | [`fleet`] | the fleet as a JSON document |
//! | [`pages`] | answers as JSON documents |
//! | [`discovery`] | members for Prometheus and Traefik |
//! | [`events`] | changes as server-sent events |
//! | [`page`] | the page for browsers, and what it may load |
//!
//! `openapi.json` documents all paths. To add a path: a [`Route`] with its row in [`ROUTES`], its parameters in `request.rs`,
//! its JSON in `pages.rs`, its document in `openapi.json`, and a test in `tests/process/admin/`.

pub mod discovery;
pub mod events;
mod fields;
pub mod fleet;
pub mod page;
pub mod pages;
pub mod request;
pub mod rows;
pub mod why;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use request::{Call, Checks, Write};

use crate::{time::Since, web::Problem};

/// The OpenAPI document.
pub const OPENAPI: &str = include_str!("openapi.json");

/// A path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // openapi.json has the meaning
pub enum Route {
    Version,
    Totals,
    Limits,
    Fleet,
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
    ("/api/v1/fleet", Route::Fleet, false),
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

/// Nothing has the name.
pub fn not_found() -> Problem {
    Problem::new(404, "not_found", "there is no such load balancer, group or member")
}

/// Turns times of the daemon into times of day, and says whether words outlive the process.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    /// The time of day at time zero.
    pub zero: SystemTime,
    /// The operator's words are on disk or in a fleet, and in force after a restart.
    pub words_survive: bool,
}

impl Calendar {
    /// A time as RFC 3339.
    pub fn text(&self, time: impl Into<Since>) -> String {
        let Since(nanoseconds) = time.into();
        let apart = Duration::from_nanos(nanoseconds.unsigned_abs());
        let date = if nanoseconds < 0 { self.zero.checked_sub(apart) } else { self.zero.checked_add(apart) };
        // The text has years up to 9999, and none before 1970.
        humantime::format_rfc3339_millis(date.unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::time::Time;

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
        let calendar =
            Calendar { zero: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), words_survive: false };
        assert_eq!(calendar.text(Time(1_500_000_000)), "2023-11-14T22:13:21.500Z");
        assert_eq!(calendar.text(Since(-1_500_000_000)), "2023-11-14T22:13:18.500Z");
        assert_eq!(calendar.text(Since(i64::MIN)), "1970-01-01T00:00:00.000Z");
    }
}

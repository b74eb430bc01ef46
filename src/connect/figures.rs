//! What a connector tells of its real LB beside the members: figures, and clients.

use crate::metrics::{Metric, counter, gauge};

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it measures: one of [`ALL`].
    pub metric: &'static Metric,
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: u64,
}

impl Figure {
    /// A figure without labels.
    pub fn new(metric: &'static Metric, value: u64) -> Figure {
        Figure { metric, labels: Vec::new(), value }
    }

    /// The figure with one more label.
    pub fn with(mut self, label: &'static str, value: impl Into<String>) -> Figure {
        self.labels.push((label, value.into()));
        self
    }
}

/// What a client of the real LB has, of one kind of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's name of itself, in printable characters.
    pub name: String,
    /// The kind.
    pub kind: &'static str,
    /// The version that it was told last.
    pub told: String,
    /// The version that it has acknowledged last.
    pub acknowledged: Option<String>,
    /// Why it refuses what it was told last.
    pub refused: Option<String>,
}

/// Queries by name and type.
pub static DNS_QUERIES: Metric =
    counter("gwm_connect_dns_queries_total", "Queries for names that show groups.").each("name");
/// Queries for other names, by what these are.
pub static DNS_OTHERS: Metric = counter(
    "gwm_connect_dns_other_queries_total",
    "Queries for names that show no group: the zone's others (known), names that it has not (absent), other zones (foreign).",
)
.each("name");
/// Queries that the rate limit left without an answer.
pub static DNS_DROPPED: Metric =
    counter("gwm_connect_dns_dropped_total", "Queries that got no answer because of the rate limit.");
/// Streams of clients.
pub static XDS_STREAMS: Metric = gauge("gwm_connect_xds_streams", "Streams of clients that are open.");
/// Streams by whether they have what they were told.
pub static XDS_BEHIND: Metric = gauge(
    "gwm_connect_xds_streams_behind",
    "Streams that have not acknowledged what they were told last: they refuse it, or have yet to answer.",
);
/// Refusals by kind.
pub static XDS_REFUSALS: Metric =
    counter("gwm_connect_xds_refusals_total", "Responses that clients refused (NACK), by the kind of resource.")
        .each("kind");

/// Load reports.
pub static XDS_REPORTS: Metric = counter("gwm_connect_xds_reports_total", "Load reports of clients.");

/// All of them.
pub static ALL: [&Metric; 7] =
    [&DNS_QUERIES, &DNS_OTHERS, &DNS_DROPPED, &XDS_STREAMS, &XDS_BEHIND, &XDS_REFUSALS, &XDS_REPORTS];

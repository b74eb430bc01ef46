//! The fleet as a JSON document.

use serde::Serialize;

use crate::web::Response;

/// A GWM of the fleet that is alive.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// It is this daemon.
    pub is_self: bool,
    /// Where it listens.
    pub address: String,
    /// Its version.
    pub version: String,
    /// The start of this life as a time of day.
    pub started_at: String,
    /// It is cut off from the members: what it finds about them does not count.
    pub blind: bool,
    /// How many endpoints it has verdicts on.
    pub checks: usize,
    /// How many load balancers are connected to it.
    pub load_balancers: usize,
}

/// The fleet, as this daemon knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Fleet {
    /// The fleet's name.
    pub name: String,
    /// This daemon's name in it.
    pub node: String,
    /// All that etcd has is known here, and the lease is held.
    pub connected: bool,
    /// The etcd that this daemon has a connection with.
    pub etcd: Option<String>,
    /// Why there is none.
    pub trouble: Option<String>,
    /// The lease, as etcdctl shows it.
    pub lease: Option<String>,
    /// The newest revision of etcd that is known.
    pub revision: i64,
    /// Load balancers, groups and words in etcd.
    pub rows: usize,
    /// Rows that this daemon has yet to write.
    pub rows_ahead: usize,
    /// Rows of etcd that this version does not understand.
    pub rows_unknown: usize,
    /// Changes here that etcd does not have yet.
    pub changes_waiting: u64,
    /// Changes of others that are not done here yet.
    pub orders_waiting: usize,
    /// How many nodes check each endpoint.
    pub redundancy: u8,
    /// The nodes that are alive, by name.
    pub nodes: Vec<Node>,
}

/// The fleet; `None` without one.
pub fn page(fleet: Option<&Fleet>) -> Response {
    #[derive(Serialize)]
    struct Page<'a> {
        fleet: Option<&'a Fleet>,
    }
    Response::json(200, &Page { fleet })
}

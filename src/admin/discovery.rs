//! Members for other programs: Prometheus' `http_sd`, and Traefik's HTTP provider.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::rows::text;
use crate::{
    coordinator::MemberRow,
    sasp::{EntryFlags, component::TCP},
    web::Response,
};

/// The members of groups, collected page by page.
#[derive(Default)]
pub struct Members {
    /// By group: `address:port` of each endpoint, and its weight.
    groups: BTreeMap<Box<[u8]>, BTreeMap<String, u16>>,
    /// The load balancer whose group of a name was the first one: weights are those of this group.
    owners: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Endpoints that can have work now, by group.
    usable: BTreeSet<(Box<[u8]>, String)>,
}

impl Members {
    /// Adds a member. Groups of the same name are one group; the first load balancer's weights count.
    pub fn add(&mut self, row: &MemberRow) {
        let endpoint = &row.state.endpoint;
        if endpoint.protocol != TCP || endpoint.port == 0 {
            return;
        }
        let owner = self.owners.entry(row.group.clone()).or_insert_with(|| row.lb_uid.clone());
        let target = std::net::SocketAddr::new(endpoint.canonical().ip(), endpoint.port).to_string();
        let first = **owner == *row.lb_uid;
        let targets = self.groups.entry(row.group.clone()).or_default();
        if first || !targets.contains_key(&target) {
            targets.insert(target.clone(), row.entry.weight);
        }
        if first && row.entry.weight > 0 && row.entry.flags.contains(EntryFlags::CONTACT) {
            self.usable.insert((row.group.clone(), target));
        }
    }

    /// For Prometheus: the endpoints of each group as targets.
    pub fn prometheus(&self) -> Response {
        #[derive(Serialize)]
        struct Targets<'a> {
            targets: Vec<&'a str>,
            labels: BTreeMap<&'static str, String>,
        }
        let groups = self.groups.iter().map(|(group, targets)| Targets {
            targets: targets.keys().map(String::as_str).collect(),
            labels: BTreeMap::from([("__meta_gwm_group", text(group))]),
        });
        Response::json(200, &groups.collect::<Vec<_>>())
    }

    /// For Traefik: each group as a service, with the members that can have work.
    pub fn traefik(&self) -> Response {
        #[derive(Serialize)]
        struct Document {
            http: Http,
        }
        #[derive(Serialize)]
        struct Http {
            services: BTreeMap<String, Service>,
        }
        #[derive(Serialize)]
        struct Service {
            #[serde(rename = "loadBalancer")]
            load_balancer: LoadBalancer,
        }
        #[derive(Serialize)]
        struct LoadBalancer {
            servers: Vec<Server>,
        }
        #[derive(Serialize)]
        struct Server {
            url: String,
            weight: u16,
        }
        let service = |group: &[u8], targets: &BTreeMap<String, u16>| {
            let usable = targets.iter().filter(|(target, _)| self.usable.contains(&(group.into(), (*target).clone())));
            let servers = usable.map(|(target, weight)| Server { url: format!("http://{target}"), weight: *weight });
            (text(group), Service { load_balancer: LoadBalancer { servers: servers.collect() } })
        };
        Response::json(
            200,
            &Document {
                http: Http { services: self.groups.iter().map(|(group, targets)| service(group, targets)).collect() },
            },
        )
    }
}

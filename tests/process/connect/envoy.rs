//! A real Envoy, from PyPI.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{proxy::get, real::free_address};
use crate::harness::{TempFile, python, until};

/// How Envoy asks for endpoints.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    StateOfTheWorld,
    Delta,
    Rest,
    /// A file with the endpoints.
    File(&'a str),
    /// ADS over TLS; certificate, key and CA files of the client.
    Tls(&'a [String; 3]),
}

/// A real Envoy, until it is dropped.
pub(super) struct Envoy {
    child: Child,
    pub(super) address: SocketAddr,
    admin: SocketAddr,
    configuration: TempFile,
}

impl Envoy {
    /// With the cluster `web`.
    pub(super) fn start(way: Way<'_>, xds: SocketAddr) -> Envoy {
        Envoy::start_with(way, xds, &["web".to_owned()])
    }

    /// With these clusters; requests go to the first one.
    pub(super) fn start_with(way: Way<'_>, xds: SocketAddr, clusters: &[String]) -> Envoy {
        let (address, admin) = (free_address(), free_address());
        let socket = |address: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
        };
        let polls = "api_config_source: {api_type: REST, transport_api_version: V3, refresh_delay: 0.2s, \
                     cluster_names: [xds]}";
        let source = match way {
            Way::Rest => polls.to_owned(),
            Way::File(path) => {
                let folder = Path::new(path).parent().expect("a folder").display();
                format!("path_config_source: {{path: \"{path}\", watched_directory: {{path: \"{folder}\"}}}}")
            }
            _ => "ads: {}".to_owned(),
        };
        let services = "transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]";
        let ads = match way {
            Way::Rest | Way::File(_) => String::new(),
            _ => {
                let kind = if matches!(way, Way::Delta) { "DELTA_GRPC" } else { "GRPC" };
                format!("ads_config: {{api_type: {kind}, {services}}}")
            }
        };
        // It reports its load where it has its endpoints from.
        let reports = match way {
            Way::Rest | Way::File(_) => String::new(),
            _ => format!("cluster_manager: {{load_stats_config: {{api_type: GRPC, {services}}}}}\n"),
        };
        let extensions = "type.googleapis.com/envoy.extensions";
        let http2 = match way {
            Way::Rest => String::new(),
            _ => format!(
                "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                 {{\"@type\": {extensions}.upstreams.http.v3.HttpProtocolOptions, \
                 explicit_http_config: {{http2_protocol_options: {{}}}}}}}}"
            ),
        };
        let tls = match way {
            Way::Tls([certificate, key, ca]) => format!(
                "transport_socket: {{name: tls, typed_config: {{\
                 \"@type\": {extensions}.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{\
                 tls_certificates: [{{certificate_chain: {{filename: \"{certificate}\"}}, \
                 private_key: {{filename: \"{key}\"}}}}], \
                 validation_context: {{trusted_ca: {{filename: \"{ca}\"}}}}}}}}}}"
            ),
            _ => String::new(),
        };
        let first = &clusters[0];
        let manager = format!(
            "{{name: http, typed_config: {{\
             \"@type\": {extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: web, route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], \
             routes: [{{match: {{prefix: \"/\"}}, route: {{cluster: {first}, retry_policy: {{\
             retry_on: \"connect-failure,reset\"}}}}}}]}}]}}, http_filters: [{{name: router, typed_config: {{\
             \"@type\": {extensions}.filters.http.router.v3.Router}}}}]}}}}"
        );
        let cluster = |name: &String| {
            format!(
                "  - name: {name}\n    type: EDS\n    connect_timeout: 1s\n    \
                 common_lb_config: {{healthy_panic_threshold: {{value: 0}}, locality_weighted_lb_config: {{}}}}\n    \
                 eds_cluster_config: {{eds_config: {{resource_api_version: V3, {source}}}}}\n"
            )
        };
        let configuration = format!(
            "node: {{id: envoy-1, cluster: test}}\nadmin: {{address: {admin_socket}}}\n{reports}\
             dynamic_resources: {{{ads}}}\nstatic_resources:\n  listeners:\n  - address: {listener}\n    \
             filter_chains: [{{filters: [{manager}]}}]\n  clusters:\n{clusters}  \
             - name: xds\n    type: STATIC\n    load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: \
             [{{endpoint: {{address: {server}}}}}]}}]}}\n    {http2}\n    {tls}\n",
            admin_socket = socket(admin),
            listener = socket(address),
            server = socket(xds),
            clusters = clusters.iter().map(cluster).collect::<String>(),
        );
        let file = TempFile::new("envoy.yaml", configuration);
        let child = Envoy::run(&file);
        Envoy { child, address, admin, configuration: file }
    }

    fn run(file: &TempFile) -> Child {
        Command::new(python("envoy"))
            .args(["-c", file.path(), "--concurrency", "1", "-l", "critical", "--disable-hot-restart"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("envoy: {error}: tests/run installs it"))
    }

    /// Kills it and starts it again.
    pub(super) fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Envoy::run(&self.configuration);
        until("Envoy runs again", || get(self.admin, "/server_info").is_ok());
    }

    /// The weight of each endpoint, by cluster and address.
    pub(super) fn weights(&self) -> HashMap<(String, String), u32> {
        let text = get(self.admin, "/clusters").unwrap_or_default();
        let weight = |line: &str| {
            let (place, weight) = line.split_once("::weight::")?;
            let (cluster, endpoint) = place.split_once("::")?;
            Some(((cluster.to_owned(), endpoint.to_owned()), weight.parse().ok()?))
        };
        text.lines().filter_map(weight).collect()
    }

    /// How many of 120 requests each member answered; `None` if one had no answer of a member.
    pub(super) fn shares(&self, members: &[SocketAddr]) -> Option<Vec<usize>> {
        let mut counts = vec![0; members.len()];
        for _ in 0..120 {
            let port = request(self.address).ok()?;
            counts[members.iter().position(|member| member.port() == port)?] += 1;
        }
        Some(counts)
    }

    /// Waits for these shares, each within two requests of 120.
    pub(super) fn balances(&self, members: &[SocketAddr], wanted: &[usize]) {
        until(&format!("shares of {wanted:?} in 120 requests"), || {
            self.shares(members).is_some_and(|shares| near(&shares, wanted))
        });
    }

    /// One of its counters.
    pub(super) fn counter(&self, name: &str) -> u64 {
        let text = get(self.admin, &format!("/stats?filter={name}")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn near(shares: &[usize], wanted: &[usize]) -> bool {
    shares.iter().zip(wanted).all(|(share, wanted)| share.abs_diff(*wanted) <= 2 && (*share > 0) == (*wanted > 0))
}

/// One HTTP request through Envoy; the port of the member that answered.
pub(super) fn request(proxy: SocketAddr) -> Result<u16, String> {
    let body = get(proxy, "/")?;
    body.parse().map_err(|_| format!("the body {body}"))
}

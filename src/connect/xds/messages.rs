//! The messages of xDS v3 that this control plane reads and writes, by hand: the tags are those of Envoy's API
//! (`envoy/service/discovery/v3/discovery.proto` and the files that it names). Fields that are not here are skipped.

#![expect(missing_docs, reason = "the fields are those of Envoy's API")]

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub cluster: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// State of the world: what a client asks, and how it took the last response.
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// State of the world: resources.
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// Delta: what a client asks from now on, and no longer.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaDiscoveryRequest {
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    #[prost(string, tag = "2")]
    pub type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    #[prost(map = "string, string", tag = "5")]
    pub initial_resource_versions: HashMap<String, String>,
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// Delta: resources that changed, and names of those that do not exist.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaDiscoveryResponse {
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// One resource of a delta response.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `google.protobuf.UInt32Value`.
#[derive(Clone, PartialEq, Message)]
pub struct UInt32Value {
    #[prost(uint32, tag = "1")]
    pub value: u32,
}

/// EDS: the endpoints of a cluster.
#[derive(Clone, PartialEq, Message)]
pub struct ClusterLoadAssignment {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub endpoints: Vec<LocalityLbEndpoints>,
}

/// The endpoints of one locality.
#[derive(Clone, PartialEq, Message)]
pub struct LocalityLbEndpoints {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<Locality>,
    #[prost(message, repeated, tag = "2")]
    pub lb_endpoints: Vec<LbEndpoint>,
    #[prost(message, optional, tag = "3")]
    pub load_balancing_weight: Option<UInt32Value>,
}

/// LRS: what a client has seen of clusters since its last report; the first one has only the node.
#[derive(Clone, PartialEq, Message)]
pub struct LoadStatsRequest {
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    #[prost(message, repeated, tag = "2")]
    pub cluster_stats: Vec<ClusterStats>,
}

/// What a client has seen of one cluster.
#[derive(Clone, PartialEq, Message)]
pub struct ClusterStats {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub upstream_locality_stats: Vec<UpstreamLocalityStats>,
}

/// What a client has seen of one locality.
#[derive(Clone, PartialEq, Message)]
pub struct UpstreamLocalityStats {
    #[prost(message, optional, tag = "1")]
    pub locality: Option<Locality>,
    /// Now.
    #[prost(uint64, tag = "3")]
    pub total_requests_in_progress: u64,
    #[prost(uint64, tag = "4")]
    pub total_error_requests: u64,
    #[prost(uint64, tag = "8")]
    pub total_issued_requests: u64,
}

/// LRS: what a client shall report.
#[derive(Clone, PartialEq, Message)]
pub struct LoadStatsResponse {
    #[prost(message, optional, tag = "2")]
    pub load_reporting_interval: Option<Interval>,
    #[prost(bool, tag = "4")]
    pub send_all_clusters: bool,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct Interval {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
}

/// Where endpoints are; here, a name for one endpoint.
#[derive(Clone, PartialEq, Message)]
pub struct Locality {
    #[prost(string, tag = "3")]
    pub sub_zone: String,
}

/// An endpoint with its weight.
#[derive(Clone, PartialEq, Message)]
pub struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    pub endpoint: Option<Endpoint>,
    #[prost(message, optional, tag = "4")]
    pub load_balancing_weight: Option<UInt32Value>,
}

/// `envoy.config.endpoint.v3.Endpoint`.
#[derive(Clone, PartialEq, Message)]
pub struct Endpoint {
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
}

/// `envoy.config.core.v3.Address`.
#[derive(Clone, PartialEq, Message)]
pub struct Address {
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddress>,
}

/// `envoy.config.core.v3.SocketAddress`; protocol 0 is TCP, 1 is UDP.
#[derive(Clone, PartialEq, Message)]
pub struct SocketAddress {
    #[prost(int32, tag = "1")]
    pub protocol: i32,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint32, tag = "3")]
    pub port_value: u32,
}

/// CDS: a cluster.
#[derive(Clone, PartialEq, Message)]
pub struct Cluster {
    #[prost(string, tag = "1")]
    pub name: String,
    /// 3 is EDS.
    #[prost(int32, tag = "2")]
    pub discovery_type: i32,
    #[prost(message, optional, tag = "3")]
    pub eds_cluster_config: Option<EdsClusterConfig>,
    #[prost(message, optional, tag = "27")]
    pub common_lb_config: Option<CommonLbConfig>,
    /// Where a gRPC client reports its load.
    #[prost(message, optional, tag = "42")]
    pub lrs_server: Option<ConfigSource>,
}

/// Where the endpoints of a cluster come from.
#[derive(Clone, PartialEq, Message)]
pub struct EdsClusterConfig {
    #[prost(message, optional, tag = "1")]
    pub eds_config: Option<ConfigSource>,
}

/// `envoy.config.core.v3.ConfigSource`: the stream that asks, or its server.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigSource {
    #[prost(message, optional, tag = "3")]
    pub ads: Option<Empty>,
    /// `self`.
    #[prost(message, optional, tag = "5")]
    pub same_server: Option<Empty>,
    /// 2 is v3.
    #[prost(int32, tag = "6")]
    pub resource_api_version: i32,
}

/// A message without fields.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// Part of a cluster: weights of localities count.
#[derive(Clone, PartialEq, Message)]
pub struct CommonLbConfig {
    #[prost(message, optional, tag = "1")]
    pub healthy_panic_threshold: Option<Percent>,
    #[prost(message, optional, tag = "3")]
    pub locality_weighted_lb_config: Option<Empty>,
}

/// `envoy.type.v3.Percent`.
#[derive(Clone, PartialEq, Message)]
pub struct Percent {
    #[prost(double, tag = "1")]
    pub value: f64,
}

/// LDS: what a gRPC client asks for `xds:///name`.
#[derive(Clone, PartialEq, Message)]
pub struct Listener {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "19")]
    pub api_listener: Option<ApiListener>,
}

/// `envoy.config.listener.v3.ApiListener`.
#[derive(Clone, PartialEq, Message)]
pub struct ApiListener {
    #[prost(message, optional, tag = "1")]
    pub api_listener: Option<Any>,
}

/// `HttpConnectionManager`: names the routes.
#[derive(Clone, PartialEq, Message)]
pub struct HttpConnectionManager {
    #[prost(message, optional, tag = "3")]
    pub rds: Option<Rds>,
    #[prost(message, repeated, tag = "5")]
    pub http_filters: Vec<HttpFilter>,
}

/// Where routes come from.
#[derive(Clone, PartialEq, Message)]
pub struct Rds {
    #[prost(message, optional, tag = "1")]
    pub config_source: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    pub route_config_name: String,
}

/// A filter; gRPC wants the router as the last one.
#[derive(Clone, PartialEq, Message)]
pub struct HttpFilter {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "4")]
    pub typed_config: Option<Any>,
}

/// RDS: all requests of a name go to one cluster.
#[derive(Clone, PartialEq, Message)]
pub struct RouteConfiguration {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub virtual_hosts: Vec<VirtualHost>,
}

/// `envoy.config.route.v3.VirtualHost`.
#[derive(Clone, PartialEq, Message)]
pub struct VirtualHost {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub domains: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub routes: Vec<Route>,
}

/// `envoy.config.route.v3.Route`.
#[derive(Clone, PartialEq, Message)]
pub struct Route {
    #[prost(message, optional, tag = "1")]
    pub matches: Option<RouteMatch>,
    #[prost(message, optional, tag = "2")]
    pub route: Option<RouteAction>,
}

/// Which paths; an empty prefix is all.
#[derive(Clone, PartialEq, Message)]
pub struct RouteMatch {
    /// One of several: the empty prefix must be written, too.
    #[prost(string, optional, tag = "1")]
    pub prefix: Option<String>,
}

/// The cluster that requests go to.
#[derive(Clone, PartialEq, Message)]
pub struct RouteAction {
    #[prost(string, optional, tag = "1")]
    pub cluster: Option<String>,
}

//! All resources at one time, encoded once; responses are shared by the streams that ask the same.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use prost::Message;

use super::messages::*;

/// The most different responses that one snapshot keeps; further ones are encoded for each stream.
const SHARED_RESPONSES: usize = 1024;
/// The most bytes of these.
const SHARED_BYTES: usize = 64 << 20;

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What `xds:///name` names (LDS).
    Listener,
    /// RDS.
    Route,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
}

/// All kinds, each before those that name it: Envoy wants clusters before endpoints.
pub const KINDS: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route];

impl Kind {
    /// The kind with this type URL.
    pub fn of(type_url: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// The URL of its messages.
    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        }
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Listener => "listener",
            Kind::Route => "route",
            Kind::Cluster => "cluster",
            Kind::Endpoints => "endpoints",
        }
    }

    /// Whether a response names all resources of this kind: what is absent does not exist.
    pub fn whole(self) -> bool {
        matches!(self, Kind::Listener | Kind::Cluster)
    }
}

/// One endpoint that may get new work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether the port is of UDP, not TCP.
    pub udp: bool,
    /// Its share, at least 1.
    pub weight: u32,
}

impl Target {
    /// The name of its locality, which no other target of the group has.
    pub fn locality(&self) -> String {
        let udp = if self.udp { "/udp" } else { "" };
        format!("{}{udp}", SocketAddr::new(self.ip, self.port))
    }
}

/// A group by name: the endpoints that may get new work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name in xDS.
    pub name: String,
    /// Drained and dead members are left out.
    pub targets: Vec<Target>,
}

/// Which response: of the state of the world, or delta; what is in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Wish {
    /// The kind.
    pub kind: Kind,
    /// Delta.
    pub delta: bool,
    /// The response's nonce.
    pub nonce: String,
    /// Resources, as places of groups.
    pub groups: Vec<usize>,
    /// Names that do not exist (delta only).
    pub removed: Vec<String>,
}

/// All resources at one time.
pub struct Snapshot {
    version: u64,
    /// The version of the first snapshot of the process.
    first_version: u64,
    groups: Vec<Group>,
    /// The version that last changed the group's endpoints.
    changed: Vec<u64>,
    places: HashMap<String, usize>,
    responses: Mutex<Responses>,
}

/// Encoded responses, and how many bytes they and their wishes have.
#[derive(Default)]
struct Responses {
    all: HashMap<Wish, Bytes>,
    bytes: usize,
}

impl Wish {
    /// Whether other streams may have the same: a nonce with a dot is of one stream.
    fn is_shared(&self) -> bool {
        !self.nonce.contains('.')
    }

    fn bytes(&self) -> usize {
        let names: usize = self.removed.iter().map(|name| name.len() + size_of::<String>()).sum();
        size_of::<Wish>() + self.groups.len() * size_of::<usize>() + names
    }
}

impl Snapshot {
    /// The groups after `earlier`; groups with the same endpoints keep their version. `first_version` differs from all
    /// versions of earlier processes: a client that comes back tells the versions that it has.
    pub fn after(earlier: Option<&Snapshot>, first_version: u64, groups: Vec<Group>) -> Snapshot {
        let version = earlier.map_or(first_version, |earlier| earlier.version + 1);
        let changed = |group: &Group| {
            let same = earlier.and_then(|earlier| {
                let place = earlier.place(&group.name)?;
                (earlier.groups[place] == *group).then(|| earlier.changed[place])
            });
            same.unwrap_or(version)
        };
        Snapshot {
            version,
            first_version: earlier.map_or(first_version, |earlier| earlier.first_version),
            changed: groups.iter().map(changed).collect(),
            places: groups.iter().enumerate().map(|(place, group)| (group.name.clone(), place)).collect(),
            groups,
            responses: Mutex::default(),
        }
    }

    /// The number of the snapshot.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The group's place.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The version of a resource. Listeners, routes and clusters have no weights: they never change.
    pub fn version_of(&self, kind: Kind, place: usize) -> u64 {
        match kind {
            Kind::Endpoints => self.changed[place],
            Kind::Listener | Kind::Route | Kind::Cluster => self.first_version,
        }
    }

    /// The encoded response; streams with the same wish share the bytes.
    pub fn response(&self, wish: Wish) -> Bytes {
        if !wish.is_shared() {
            return self.encode(&wish);
        }
        // Each entry is whole at all times, so a panic of another holder does no harm.
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = responses.all.get(&wish) {
            return bytes.clone();
        }
        let bytes = self.encode(&wish);
        let after = responses.bytes + wish.bytes() + bytes.len();
        if responses.all.len() < SHARED_RESPONSES && after <= SHARED_BYTES {
            responses.bytes = after;
            responses.all.insert(wish, bytes.clone());
        }
        bytes
    }

    fn encode(&self, wish: &Wish) -> Bytes {
        let type_url = wish.kind.type_url().to_owned();
        let nonce = wish.nonce.clone();
        let any = |place: &usize| resource(wish.kind, &self.groups[*place]);
        if !wish.delta {
            let resources = wish.groups.iter().map(any).collect();
            let version_info = self.version.to_string();
            return DiscoveryResponse { version_info, resources, type_url, nonce }.encode_to_vec().into();
        }
        let resource = |place: &usize| Resource {
            version: self.version_of(wish.kind, *place).to_string(),
            resource: Some(any(place)),
            name: self.groups[*place].name.clone(),
        };
        let response = DeltaDiscoveryResponse {
            system_version_info: self.version.to_string(),
            resources: wish.groups.iter().map(resource).collect(),
            type_url,
            nonce,
            removed_resources: wish.removed.clone(),
        };
        response.encode_to_vec().into()
    }
}

fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec().into() }
}

fn resource(kind: Kind, group: &Group) -> Any {
    let url = kind.type_url();
    match kind {
        Kind::Listener => any(url, &listener(&group.name)),
        Kind::Route => any(url, &routes(&group.name)),
        Kind::Cluster => any(url, &cluster(&group.name)),
        Kind::Endpoints => any(url, &assignment(group)),
    }
}

/// The stream that the client has already.
fn same_stream() -> Option<ConfigSource> {
    Some(ConfigSource { ads: Some(Empty {}), same_server: None, resource_api_version: 2 })
}

fn listener(name: &str) -> Listener {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = HttpConnectionManager {
        rds: Some(Rds { config_source: same_stream(), route_config_name: name.into() }),
        http_filters: vec![HttpFilter { name: "router".into(), typed_config: Some(any(router, &Empty {})) }],
    };
    let url = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    Listener { name: name.into(), api_listener: Some(ApiListener { api_listener: Some(any(url, &manager)) }) }
}

fn routes(name: &str) -> RouteConfiguration {
    let route = Route {
        matches: Some(RouteMatch { prefix: Some(String::new()) }),
        route: Some(RouteAction { cluster: Some(name.into()) }),
    };
    let host = VirtualHost { name: name.into(), domains: vec!["*".into()], routes: vec![route] };
    RouteConfiguration { name: name.into(), virtual_hosts: vec![host] }
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.into(),
        discovery_type: 3,
        eds_cluster_config: Some(EdsClusterConfig { eds_config: same_stream() }),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            locality_weighted_lb_config: Some(Empty {}),
        }),
        lrs_server: Some(ConfigSource { ads: None, same_server: Some(Empty {}), resource_api_version: 2 }),
    }
}

/// One locality per endpoint, both with its weight: gRPC ignores weights within a locality.
fn assignment(group: &Group) -> ClusterLoadAssignment {
    let locality = |target: &Target| {
        let weight = Some(UInt32Value { value: target.weight });
        let address = SocketAddress {
            protocol: target.udp.into(),
            address: target.ip.to_string(),
            port_value: target.port.into(),
        };
        let endpoint = Endpoint { address: Some(Address { socket_address: Some(address) }) };
        LocalityLbEndpoints {
            locality: Some(Locality { sub_zone: target.locality() }),
            lb_endpoints: vec![LbEndpoint { endpoint: Some(endpoint), load_balancing_weight: weight.clone() }],
            load_balancing_weight: weight,
        }
    };
    ClusterLoadAssignment { cluster_name: group.name.clone(), endpoints: group.targets.iter().map(locality).collect() }
}

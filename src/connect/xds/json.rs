//! Endpoints as JSON, for clients that poll.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::snapshot::{Group, Kind, Snapshot};

/// The answer to a polled request; `None` if the client has this version.
pub fn answer(request: &[u8], snapshot: &Snapshot) -> Result<Option<Vec<u8>>, &'static str> {
    let request: Value = serde_json::from_slice(request).map_err(|_| "the body is no JSON\n")?;
    // Protobuf's JSON has two spellings of each name.
    let field = |snake: &str, camel: &str| request.get(snake).or_else(|| request.get(camel));
    let version = snapshot.version().to_string();
    if field("version_info", "versionInfo").and_then(Value::as_str) == Some(&version) {
        return Ok(None);
    }
    let names = field("resource_names", "resourceNames").and_then(Value::as_array);
    let names: HashSet<&str> = names.into_iter().flatten().filter_map(Value::as_str).collect();
    let chosen = snapshot.groups().iter().filter(|group| names.is_empty() || names.contains(group.name.as_str()));
    Ok(Some(response(&version, chosen).to_string().into_bytes()))
}

/// The file of a group, for Envoy's `path_config_source`.
pub fn file(group: &Group) -> String {
    // The version only tells a person whether something has changed; Envoy compares the endpoints.
    let mut response = response("", std::iter::once(group));
    response.as_object_mut().expect("it is one").remove("version_info");
    format!("{response:#}\n")
}

fn response<'g>(version: &str, groups: impl Iterator<Item = &'g Group>) -> Value {
    json!({
        "version_info": version,
        "type_url": Kind::Endpoints.type_url(),
        "resources": groups.map(resource).collect::<Vec<_>>(),
    })
}

fn resource(group: &Group) -> Value {
    let locality = |target: &super::snapshot::Target| {
        json!({
            "locality": {"sub_zone": target.locality()},
            "load_balancing_weight": target.weight,
            "lb_endpoints": [{
                "endpoint": {"address": {"socket_address": {
                    "protocol": if target.udp { "UDP" } else { "TCP" },
                    "address": target.ip.to_string(),
                    "port_value": target.port,
                }}},
                "load_balancing_weight": target.weight,
            }],
        })
    };
    json!({
        "@type": Kind::Endpoints.type_url(),
        "cluster_name": group.name,
        "endpoints": group.targets.iter().map(locality).collect::<Vec<_>>(),
    })
}

//! A real HAProxy whose servers and weights are SRV records.

use std::net::SocketAddr;

use super::{
    proxy::{Proxy, request},
    scenarios::Weights,
};

/// A hundred groups, as flags have them; the first one is `web`.
pub(super) fn groups(members: [SocketAddr; 2]) -> Vec<String> {
    names().map(|name| format!("{name}={},{}", members[0], members[1])).collect()
}

pub(super) fn names() -> impl Iterator<Item = String> {
    std::iter::once("web".to_owned()).chain((1..100).map(|at| format!("g{at}")))
}

/// HAProxy with this name server, and backends for these groups.
pub(super) fn start(server: SocketAddr, groups: impl Iterator<Item = String>) -> Proxy {
    let backend = |group: String| {
        format!(
            "backend {group}\n retries 3\n option redispatch\n server-template s 4 _{group}._tcp.lb.example resolvers gwm \
             resolve-prefer ipv4 resolve-opts allow-dup-ip\n"
        )
    };
    let resolvers = format!(
        "resolvers gwm\n nameserver gwm {server}\n accepted_payload_size 8192\n hold valid 100ms\n hold obsolete 0s\n \
         timeout resolve 200ms\n timeout retry 1s\n"
    );
    Proxy::start(&format!("{resolvers}{}", groups.map(backend).collect::<String>()))
}

/// Whether each backend has the two members with these weights.
pub(super) fn has(proxy: &Proxy, members: [SocketAddr; 2], (first, second): Weights) -> bool {
    let servers = proxy.servers();
    let weight = |group: &str, member: SocketAddr| {
        let mut of_group = servers.values().filter(|server| server.backend == group);
        let is_member = |server: &gwm::sasp::Endpoint| (server.ip(), server.port) == (member.ip(), member.port());
        of_group.find(|server| server.endpoint.as_ref().is_some_and(is_member)).map(|server| server.weight)
    };
    // HAProxy's weight is the record's by 256.
    let scaled = |weight: u16| (u32::from(weight) * 65535 / u32::from(first.max(second))).div_ceil(256);
    names().all(|group| {
        members
            .into_iter()
            .zip([first, second])
            .all(|(member, wanted)| weight(&group, member).is_some_and(|weight| weight.abs_diff(scaled(wanted)) <= 1))
    })
}

/// A request, for [`drains`](super::scenarios::drains).
pub(super) fn ask(proxy: &Proxy) -> Result<(), String> {
    request(proxy.listen).then_some(()).ok_or_else(|| "HAProxy has no good answer".to_owned())
}

//! How many connections each member got from each service: sets whose elements count.
//!
//! Chains of type `nat` see only the first packet of a connection. After a destination was chosen, that packet passes
//! `postrouting` if it leaves, and `input` if the member is on this machine. One from this machine to itself passes both,
//! but the kernel asks only the first of these two: what counts here is there for the source's address, which each
//! connection gets once. Sets stay when rules are replaced, and so do counters of elements that stay.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, json};

use super::rules::{FAMILY, Target};
use crate::sasp::component::{TCP, UDP};

/// A service, and a member that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// TCP or UDP.
    pub protocol: u8,
    /// What the client asked for.
    pub service: Target,
    /// Where the connection goes.
    pub member: Target,
}

/// A set of each protocol and version of IP: its name, whether it is of TCP, whether it is of IPv4.
const SETS: [(&str, bool, bool); 4] =
    [("tcp4", true, true), ("tcp6", true, false), ("udp4", false, true), ("udp6", false, false)];

fn set_of(pair: &Pair) -> &'static str {
    let of_pair = (pair.protocol == TCP, pair.service.0.is_ipv4());
    SETS.iter().find(|(_, tcp, v4)| (*tcp, *v4) == of_pair).map(|(name, ..)| *name).expect("all four are there")
}

fn types(v4: bool) -> Value {
    let address = if v4 { "ipv4_addr" } else { "ipv6_addr" };
    json!([address, "inet_service", address, "inet_service"])
}

/// The sets, to be added.
pub(super) fn sets(table: &str) -> impl Iterator<Item = Value> {
    SETS.iter().map(move |(name, _, v4)| {
        json!({"family": FAMILY, "table": table, "name": name, "type": types(*v4), "stmt": [{"counter": null}]})
    })
}

/// Whether these listed sets have all sets as [`sets`] makes them.
pub(super) fn are_whole(listed: &[Value]) -> bool {
    SETS.iter().all(|(name, _, v4)| {
        let counts = |set: &Value| set["stmt"].as_array().is_some_and(|statements| !statements.is_empty());
        listed.iter().any(|set| set["name"] == *name && set["type"] == types(*v4) && counts(set))
    })
}

/// The rules that count: of each set, what it must match first, and the look into the set.
fn lookups() -> [[Value; 2]; 4] {
    SETS.map(|(name, tcp, v4)| {
        let (protocol, ip) = (if tcp { "tcp" } else { "udp" }, if v4 { "ip" } else { "ip6" });
        let original = |key: String| json!({"ct": {"key": key, "dir": "original"}});
        let now = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
        let key =
            [original(format!("{ip} daddr")), original("proto-dst".into()), now(ip, "daddr"), now(protocol, "dport")];
        [
            // `nft` knows the type of `proto-dst` only after this.
            json!({"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": protocol}}),
            json!({"match": {"op": "==", "left": {"concat": key}, "right": format!("@{name}")}}),
        ]
    })
}

/// The expressions of the rules that count.
pub(super) fn rules() -> impl Iterator<Item = Value> {
    lookups().into_iter().map(|lookup| json!(lookup))
}

/// Whether these are the expressions of the rules that count. A listing leaves the match of the protocol out.
pub(super) fn are_rules(listed: &[Value]) -> bool {
    let lookups = lookups();
    listed.len() == lookups.len()
        && listed.iter().zip(&lookups).all(|(listed, [protocol, lookup])| {
            listed.as_array().is_some_and(|listed| listed.iter().filter(|one| *one != protocol).eq([lookup]))
        })
}

/// A command for these elements: `add` or `delete`. An element that is added and exists keeps its counter.
pub(super) fn elements<'p>(table: &str, verb: &str, pairs: impl Iterator<Item = &'p Pair>) -> Vec<Value> {
    let mut by_set: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for pair in pairs {
        let (service, member) = (pair.service, pair.member);
        let element = json!({"concat": [service.0.to_string(), service.1, member.0.to_string(), member.1]});
        by_set.entry(set_of(pair)).or_default().push(element);
    }
    let command = |(name, elements): (&str, Vec<Value>)| json!({verb: {"element": {"family": FAMILY, "table": table, "name": name, "elem": elements}}});
    by_set.into_iter().map(command).collect()
}

/// The elements of these listed sets, with their counters.
pub(super) fn read(listed: &[Value]) -> BTreeMap<Pair, u64> {
    let mut counts = BTreeMap::new();
    for (name, tcp, v4) in SETS {
        let of_set = listed.iter().filter(|set| set["name"] == name);
        for element in of_set.filter_map(|set| set["elem"].as_array()).flatten() {
            let pair = |value: &Value| -> Option<Pair> {
                let target = |at: usize| -> Option<Target> {
                    let ip: IpAddr = value["concat"][at].as_str()?.parse().ok()?;
                    let port = value["concat"][at + 1].as_u64()?;
                    (ip.is_ipv4() == v4).then_some((ip, u16::try_from(port).ok()?))
                };
                Some(Pair { protocol: if tcp { TCP } else { UDP }, service: target(0)?, member: target(2)? })
            };
            if let Some(pair) = pair(&element["elem"]["val"]) {
                counts.insert(pair, element["elem"]["counter"]["packets"].as_u64().unwrap_or(0));
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(protocol: u8, service: &str, member: &str) -> Pair {
        let target = |text: &str| text.parse::<std::net::SocketAddr>().map(|at| (at.ip(), at.port())).unwrap();
        Pair { protocol, service: target(service), member: target(member) }
    }

    #[test]
    fn a_listing_has_the_counters() {
        // As nftables 1.0.6 lists it.
        let listed = [
            json!({"family": "inet", "name": "tcp4", "table": "gwm",
                "type": ["ipv4_addr", "inet_service", "ipv4_addr", "inet_service"], "handle": 7, "elem": [
                    {"elem": {"val": {"concat": ["10.9.0.1", 80, "10.9.1.1", 8080]}, "counter": {"packets": 3, "bytes": 180}}},
                    {"elem": {"val": {"concat": ["10.9.0.1", 80, "10.9.1.2", 8080]}, "counter": {"packets": 2, "bytes": 120}}},
                    {"elem": {"val": {"concat": ["x", 80, "10.9.1.2", 8080]}}}, {"concat": [1]}, 7]}),
            json!({"name": "udp6", "elem": [{"elem": {"val": {"concat": ["fd00::1", 53, "fd00::2", 5353]}}}]}),
            json!({"name": "other", "elem": [{"elem": {"val": {"concat": ["10.9.0.1", 80, "10.9.1.1", 8080]}}}]}),
        ];
        let expected = [
            (pair(TCP, "10.9.0.1:80", "10.9.1.1:8080"), 3),
            (pair(TCP, "10.9.0.1:80", "10.9.1.2:8080"), 2),
            (pair(UDP, "[fd00::1]:53", "[fd00::2]:5353"), 0),
        ];
        assert_eq!(read(&listed), expected.into());
    }

    #[test]
    fn what_is_written_is_whole_when_it_is_listed() {
        let written: Vec<Value> = sets("gwm").collect();
        assert!(are_whole(&written));
        assert!(!are_whole(&written[1..]));
        let mut silent = written.clone();
        silent[0].as_object_mut().unwrap().remove("stmt");
        assert!(!are_whole(&silent));
        let written: Vec<Value> = rules().collect();
        assert!(are_rules(&written));
        let listed: Vec<Value> = lookups().into_iter().map(|[_, lookup]| json!([lookup])).collect();
        assert!(are_rules(&listed));
        assert!(!are_rules(&listed[1..]) && !are_rules(&[]));
        let other = [&listed[..3], &[json!([{"accept": null}])]].concat();
        assert!(!are_rules(&other));
    }

    #[test]
    fn elements_are_named_in_their_sets() {
        let pairs = [
            pair(UDP, "[fd00::1]:53", "[fd00::2]:5353"),
            pair(TCP, "10.9.0.1:80", "10.9.1.1:8080"),
            pair(TCP, "10.9.0.1:80", "10.9.1.2:8080"),
        ];
        let commands = elements("gwm", "add", pairs.iter());
        assert_eq!(
            commands,
            [
                json!({"add": {"element": {"family": "inet", "table": "gwm", "name": "tcp4", "elem": [
                    {"concat": ["10.9.0.1", 80, "10.9.1.1", 8080]}, {"concat": ["10.9.0.1", 80, "10.9.1.2", 8080]}]}}}),
                json!({"add": {"element": {"family": "inet", "table": "gwm", "name": "udp6", "elem": [
                    {"concat": ["fd00::1", 53, "fd00::2", 5353]}]}}}),
            ]
        );
        assert!(elements("gwm", "delete", [].iter()).is_empty());
    }
}

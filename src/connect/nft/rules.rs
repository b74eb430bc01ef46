//! Rules of nftables as JSON (`man libnftables-json`): those that `gwm` writes are listed by `nft` in the same words.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, json};

use super::{
    Choose, Service,
    counts::{self, Pair},
};
use crate::sasp::component::TCP;

/// The table's chain of services.
const SERVICES: &str = "services";

/// The table's chain that counts.
const COUNTS: &str = "counts";

/// The other chains, named as their hooks: each only jumps. Connections from other machines, and from this one, get a
/// destination; then they are counted, before others (100) translate the source's address.
const HOOKS: [(&str, &str, i32); 4] =
    [("prerouting", SERVICES, -100), ("output", SERVICES, -100), ("input", COUNTS, 90), ("postrouting", COUNTS, 90)];

/// Where a connection goes.
pub type Target = (IpAddr, u16);

/// The family of the table: both versions of IP.
pub(super) const FAMILY: &str = "inet";

/// The seed of the hash of addresses: a fixed one, so that a client has the same slot in each new rule.
const SEED: u32 = 1;

/// The table, as `gwm` uses it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Present {
    /// Whether the table and all chains and sets are as [`replace`] makes them, apart from rules for services and elements.
    pub whole: bool,
    /// The rules for services, in order.
    pub rules: Vec<Value>,
    /// How many connections each pair has had.
    pub counts: BTreeMap<Pair, u64>,
}

fn chains(table: &str) -> Vec<Value> {
    let hook = |(hook, _, priority): &(&str, &str, i32)| {
        json!({"family": FAMILY, "table": table, "name": hook, "type": "nat", "hook": hook, "prio": priority,
               "policy": "accept"})
    };
    let plain = [SERVICES, COUNTS].map(|name| json!({"family": FAMILY, "table": table, "name": name}));
    plain.into_iter().chain(HOOKS.iter().map(hook)).collect()
}

fn jump(target: &str) -> Value {
    json!([{"jump": {"target": target}}])
}

/// The commands that make the table have these rules for services, and nothing else in its chains: one transaction. Pairs
/// of `gone` are not counted any more, and those of `counted` are.
pub fn replace<'p>(
    table: &str,
    rules: &[Value],
    gone: impl Iterator<Item = &'p Pair>,
    counted: impl Iterator<Item = &'p Pair>,
) -> String {
    let mut commands = vec![json!({"add": {"table": {"family": FAMILY, "name": table}}})];
    let add_rule = |chain: &str, expressions: &Value| json!({"add": {"rule": {"family": FAMILY, "table": table, "chain": chain, "expr": expressions}}});
    commands.extend(counts::sets(table).map(|set| json!({"add": {"set": set}})));
    let chains = chains(table);
    commands.extend(chains.iter().map(|chain| json!({"add": {"chain": chain}})));
    let name = |chain: &Value| json!({"family": FAMILY, "table": table, "name": chain["name"]});
    commands.extend(chains.iter().map(|chain| json!({"flush": {"chain": name(chain)}})));
    commands.extend(counts::elements(table, "delete", gone));
    commands.extend(counts::elements(table, "add", counted));
    commands.extend(rules.iter().map(|expressions| add_rule(SERVICES, expressions)));
    commands.extend(counts::rules().map(|expressions| add_rule(COUNTS, &expressions)));
    commands.extend(HOOKS.iter().map(|(hook, target, _)| add_rule(hook, &jump(target))));
    json!({ "nftables": commands }).to_string()
}

/// Reads what `nft -j list table` prints.
pub fn read(listing: &str, table: &str) -> Result<Present, String> {
    let listing: Value = serde_json::from_str(listing).map_err(|error| error.to_string())?;
    let objects = listing.get("nftables").and_then(Value::as_array).ok_or("no list `nftables`")?;
    let all = |kind: &str| -> Vec<Value> {
        let mut found: Vec<Value> = objects.iter().filter_map(|object| object.get(kind)).cloned().collect();
        found.iter_mut().filter_map(Value::as_object_mut).for_each(|object| drop(object.remove("handle")));
        found
    };
    let (tables, listed, rules, sets) = (all("table"), all("chain"), all("rule"), all("set"));
    let rules_of = |chain: &str| -> Vec<Value> {
        let of_chain = rules.iter().filter(|rule| rule["chain"] == chain);
        of_chain.map(|rule| rule["expr"].clone()).collect()
    };
    // A table that is asleep (`dormant`) has flags.
    let whole = tables == [json!({"family": FAMILY, "name": table})]
        && chains(table).iter().all(|chain| listed.contains(chain))
        && HOOKS.iter().all(|(hook, target, _)| rules_of(hook) == [jump(target)])
        && counts::are_whole(&sets)
        && counts::are_rules(&rules_of(COUNTS));
    Ok(Present { whole, rules: rules_of(SERVICES), counts: counts::read(&sets) })
}

fn ip_name(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ip" } else { "ip6" }
}

/// What a connection to the service matches.
fn matches(service: &Service) -> [Value; 2] {
    let protocol = if service.protocol == TCP { "tcp" } else { "udp" };
    [
        json!({"match": {"op": "==", "left": {"payload": {"protocol": ip_name(service.ip), "field": "daddr"}},
                         "right": service.ip.to_string()}}),
        json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}},
                         "right": service.port}}),
    ]
}

/// The rule of a service: its connections go to these slots; without any, they are rejected.
pub fn rule(service: &Service, choose: Choose, slots: &[Target]) -> Value {
    let verdict = match (slots.is_empty(), service.protocol) {
        (true, TCP) => json!({"reject": {"type": "tcp reset"}}),
        (true, _) => json!({"reject": {"type": "icmpx", "expr": "port-unreachable"}}),
        (false, _) => {
            let source = json!({"payload": {"protocol": ip_name(service.ip), "field": "saddr"}});
            let number = slots.len();
            let key = match choose {
                Choose::Turn => json!({"numgen": {"mode": "inc", "mod": number, "offset": 0}}),
                Choose::Random => json!({"numgen": {"mode": "random", "mod": number, "offset": 0}}),
                Choose::Source => json!({"jhash": {"mod": number, "seed": SEED, "expr": source}}),
            };
            let slot = |(at, (ip, port)): (usize, &Target)| json!([at, {"concat": [ip.to_string(), port]}]);
            let set: Vec<Value> = slots.iter().enumerate().map(slot).collect();
            json!({"dnat": {"family": ip_name(service.ip), "addr": {"map": {"key": key, "data": {"set": set}}}}})
        }
    };
    let [address, port] = matches(service);
    json!([address, port, verdict])
}

/// The rule of a service among these, if there is one.
pub fn of_service<'v>(rules: &'v [Value], service: &Service) -> Option<&'v Value> {
    let wanted = matches(service);
    rules.iter().find(|rule| rule.as_array().is_some_and(|expressions| expressions.starts_with(&wanted)))
}

/// The slots of a rule that [`rule`] made; empty for other rules.
pub fn slots(rule: &Value) -> Vec<Target> {
    let set = rule.pointer("/2/dnat/addr/map/data/set").and_then(Value::as_array);
    let target = |slot: &Value| -> Option<Target> {
        let ip = slot.pointer("/1/concat/0")?.as_str()?.parse().ok()?;
        let port = slot.pointer("/1/concat/1")?.as_u64()?;
        Some((ip, u16::try_from(port).ok()?))
    };
    set.and_then(|set| set.iter().map(target).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service::parse("10.9.0.1:80=web").unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let slots_of = |list: &[(&str, u16)]| -> Vec<Target> {
            list.iter().map(|(ip, port)| (ip.parse().unwrap(), *port)).collect()
        };
        let list = slots_of(&[("10.1.0.1", 8080), ("10.1.0.2", 8081)]);
        for choose in [Choose::Turn, Choose::Random, Choose::Source] {
            assert_eq!(slots(&rule(&service(), choose, &list)), list);
        }
        let turn = rule(&service(), Choose::Turn, &list);
        assert_eq!(
            turn,
            json!([
                {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.9.0.1"}},
                {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
                {"dnat": {"family": "ip", "addr": {"map": {"key": {"numgen": {"mode": "inc", "mod": 2, "offset": 0}},
                    "data": {"set": [[0, {"concat": ["10.1.0.1", 8080]}], [1, {"concat": ["10.1.0.2", 8081]}]]}}}}},
            ])
        );
        assert!(slots(&rule(&service(), Choose::Turn, &[])).is_empty());
        let other = rule(&Service::parse("[fd00::1]:53/udp=dns").unwrap(), Choose::Turn, &[]);
        assert_eq!(of_service(&[other.clone(), turn.clone()], &service()), Some(&turn));
        assert_eq!(of_service(&[other], &service()), None);
    }

    /// What nftables lists of a table that [`replace`] has made, with one rule for services.
    fn listing(change: impl Fn(&mut Vec<Value>)) -> String {
        let commands: Value =
            serde_json::from_str(&replace("gwm", &[json!([{"accept": null}])], [].iter(), [].iter())).unwrap();
        let added = commands["nftables"].as_array().unwrap().iter().filter_map(|command| command.get("add"));
        let mut objects: Vec<Value> = added.cloned().collect();
        objects.insert(0, json!({"metainfo": {"version": "1.0.6", "json_schema_version": 1}}));
        for (handle, object) in objects.iter_mut().enumerate().skip(1) {
            let object = object.as_object_mut().unwrap().values_mut().next().unwrap();
            object["handle"] = json!(handle);
        }
        change(&mut objects);
        json!({ "nftables": objects }).to_string()
    }

    #[test]
    fn a_listing_is_compared_with_what_is_written() {
        let present = read(&listing(|_| {}), "gwm").unwrap();
        let expected = Present { whole: true, rules: vec![json!([{"accept": null}])], counts: BTreeMap::new() };
        assert_eq!(present, expected);
        let whole = |change: fn(&mut Vec<Value>)| read(&listing(change), "gwm").unwrap().whole;
        assert!(!whole(|objects| objects[1]["table"]["flags"] = json!("dormant")));
        for kind in ["chain", "set", "rule"] {
            let without_last = listing(|objects| {
                let last = objects.iter().rposition(|object| object.get(kind).is_some()).unwrap();
                objects.remove(last);
            });
            assert!(!read(&without_last, "gwm").unwrap().whole, "{kind}");
        }
        assert!(!read(&listing(|_| {}), "other").unwrap().whole);
        for bad in ["", "{}", "[]", "{\"nftables\": 1}"] {
            assert!(read(bad, "gwm").is_err(), "{bad}");
        }
        assert_eq!(read("{\"nftables\": [1, {\"rule\": 2}]}", "gwm"), Ok(Present::default()));
    }
}

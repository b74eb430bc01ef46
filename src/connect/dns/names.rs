//! Which names of the zone show which groups, and what a member's host is called.

use std::{fmt, net::IpAddr};

use domain::base::{Name, ToName};

use crate::{
    connect::Pool,
    pattern::Pattern,
    sasp::{
        Escaped,
        component::{TCP, UDP},
    },
};

/// A name, absolute and in lower case.
pub type ZoneName = Name<Vec<u8>>;

/// What a name shows of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SRV records: host, port and weight of each member.
    Service,
    /// A and AAAA records: the addresses of the members.
    Address,
}

/// `NAME=GROUPS`: which names show which groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The parts of the name; the group's name stands between them.
    name: Vec<String>,
    groups: Pattern,
    text: String,
}

impl Rule {
    /// NAME is relative to the zone (`@`: the zone's own name), and a `*` in it stands for the group's name; GROUPS is a
    /// pattern.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let (name, groups) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=GROUP"))?;
        if name.is_empty() || groups.is_empty() {
            return Err(format!("`{text}` is not NAME=GROUP"));
        }
        let groups = Pattern::parse(groups).map_err(|error| error.to_string())?;
        let rule = Rule { name: name.split('*').map(str::to_owned).collect(), groups, text: text.to_owned() };
        let zone = zone("zone").expect("it is a name");
        // A group's name of one byte shows what is wrong with the rest.
        rule.name_of("x", &zone).map_err(|error| format!("`{name}`: {error}"))?;
        if rule.groups.is_wide() && rule.name.len() == 1 {
            return Err(format!("`{text}`: many groups can not share one name: write `*` in the name"));
        }
        Ok(rule)
    }

    fn name_of(&self, group: &str, zone: &ZoneName) -> Result<ZoneName, String> {
        match &*self.name.join(group) {
            "@" => Ok(zone.clone()),
            relative if relative.ends_with('.') => {
                Err("write the name without the zone and without a dot at its end".into())
            }
            relative => absolute(&format!("{relative}.{zone}")),
        }
    }
}

/// A name that shows a group.
#[derive(Clone, Debug)]
pub struct Shown {
    pub(super) name: ZoneName,
    pub(super) kind: Kind,
    pub(super) pool: Box<[u8]>,
    /// The IP protocol that the name speaks of: `_tcp` or `_udp`.
    pub(super) protocol: Option<u8>,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Service => "SRV",
            Kind::Address => "A/AAAA",
        };
        write!(f, "{} {kind}", self.name)
    }
}

/// The zone's name, in lower case.
pub fn zone(text: &str) -> Result<ZoneName, String> {
    let name = absolute(text)?;
    match name.is_root() {
        true => Err("the root is not a zone for groups".into()),
        false => Ok(name),
    }
}

/// A name with or without the dot at its end.
pub fn absolute(text: &str) -> Result<ZoneName, String> {
    let mut name: ZoneName = text.parse().map_err(|error| format!("`{text}` is not a domain name: {error}"))?;
    name.make_canonical();
    Ok(name)
}

/// The names that the rules make of these groups. Each group must have a name, and each rule a group.
pub fn shown(rules: &[(Kind, Rule)], pools: &[Pool], zone: &ZoneName) -> Result<Vec<Shown>, String> {
    let mut all: Vec<Shown> = Vec::new();
    for (kind, rule) in rules {
        let fitting: Vec<&Pool> = pools.iter().filter(|pool| rule.groups.fits(&pool.name)).collect();
        if fitting.is_empty() {
            return Err(format!("`{}`: no group has this name", rule.text));
        }
        for pool in fitting {
            // A name without `*` needs nothing of the group's name.
            let group = if rule.name.len() == 1 { Some("") } else { label_text(&pool.name) };
            let Some(Ok(name)) = group.map(|group| rule.name_of(group, zone)) else {
                continue; // another rule must name this group
            };
            if all.iter().any(|other| other.name == name && other.kind == *kind) {
                return Err(format!("the name {name} is given to two groups"));
            }
            let protocol = protocol(&name);
            all.push(Shown { name, kind: *kind, pool: pool.name.clone(), protocol });
        }
    }
    match pools.iter().find(|pool| all.iter().all(|shown| shown.pool != pool.name)) {
        Some(pool) => Err(format!("group {} has no name in the zone: use --service NAME=GROUP", Escaped(&pool.name))),
        None => Ok(all),
    }
}

/// A group's name, if it can be a part of a host's name.
fn label_text(group: &[u8]) -> Option<&str> {
    let plain = group.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    std::str::from_utf8(group).ok().filter(|_| plain)
}

fn protocol(name: &ZoneName) -> Option<u8> {
    let second = name.iter().nth(1)?;
    match second.as_slice() {
        b"_tcp" => Some(TCP),
        b"_udp" => Some(UDP),
        _ => None,
    }
}

/// The longest first label of a host: that of an IPv6 address.
pub(super) const HOST_LABEL_BYTES: usize = 3 + 39;

/// The name of the host with this address: `ip-10-0-0-1.lb.example`.
pub(super) fn host(ip: IpAddr, zone: &ZoneName) -> ZoneName {
    let label = match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("ip-{a}-{b}-{c}-{d}")
        }
        IpAddr::V6(ip) => {
            let parts: Vec<String> = ip.segments().iter().map(|part| format!("{part:04x}")).collect();
            format!("ip-{}", parts.join("-"))
        }
    };
    absolute(&format!("{label}.{zone}")).expect("Settings::check has tried the longest")
}

/// The address of a host, if `host` has made the name.
pub(super) fn address(name: &impl ToName, zone: &ZoneName) -> Option<IpAddr> {
    let first = name.iter_labels().next()?;
    let text = std::str::from_utf8(first.as_slice()).ok()?.to_ascii_lowercase();
    let parts: Vec<&str> = text.strip_prefix("ip-")?.split('-').collect();
    let ip: IpAddr = match parts.len() {
        4 => IpAddr::V4(parts.join(".").parse().ok()?),
        8 => IpAddr::V6(parts.join(":").parse().ok()?),
        _ => return None,
    };
    host(ip, zone).name_eq(name).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(names: &[&[u8]]) -> Vec<Pool> {
        names.iter().map(|name| Pool { name: (*name).into(), members: Vec::new() }).collect()
    }

    fn names(rules: &[(Kind, &str)], groups: &[&[u8]]) -> Result<Vec<String>, String> {
        let rules: Vec<_> = rules.iter().map(|(kind, text)| (*kind, Rule::parse(text).unwrap())).collect();
        let shown = shown(&rules, &pools(groups), &zone("LB.example.").unwrap())?;
        Ok(shown.iter().map(|shown| format!("{shown}={}", Escaped(&shown.pool))).collect())
    }

    #[test]
    fn rules_name_groups() {
        use Kind::{Address, Service};
        assert_eq!(
            names(
                &[(Service, "_http._tcp=web"), (Address, "@=web"), (Address, "WWW=web"), (Service, "_*._udp=dns*")],
                &[b"web", b"dns1", b"dns2"]
            )
            .unwrap(),
            [
                "_http._tcp.lb.example SRV=web",
                "lb.example A/AAAA=web",
                "www.lb.example A/AAAA=web",
                "_dns1._udp.lb.example SRV=dns1",
                "_dns2._udp.lb.example SRV=dns2",
            ]
        );
        let odd = [&b"we b.x"[..], b"api"];
        let error = names(&[(Service, "_*._tcp=*")], &odd).unwrap_err();
        assert_eq!(error, "group we b.x has no name in the zone: use --service NAME=GROUP");
        let both = names(&[(Service, "_*._tcp=*"), (Service, "_odd._tcp=we b.x")], &odd).unwrap();
        assert_eq!(both, ["_api._tcp.lb.example SRV=api", "_odd._tcp.lb.example SRV=we b.x"]);
        let error = names(&[(Service, "_*._tcp=*"), (Service, "_api._tcp=b")], &[b"api", b"b"]).unwrap_err();
        assert_eq!(error, "the name _api._tcp.lb.example is given to two groups");
        assert_eq!(names(&[(Service, "_a._tcp=x")], &[b"b"]).unwrap_err(), "`_a._tcp=x`: no group has this name");
    }

    #[test]
    fn rules_are_checked() {
        let long = format!("{}=x", "a".repeat(64));
        for bad in ["", "_a._tcp", "=x", "_a._tcp=", "a..b=x", "_a._tcp.=x", "_a._tcp=x*", &long] {
            assert!(Rule::parse(bad).is_err(), "{bad}");
        }
        assert!(zone(".").is_err() && zone("").is_err() && zone("a..b").is_err());
    }

    #[test]
    fn a_host_has_its_address_in_its_name() {
        let zone = zone("lb.example").unwrap();
        for (ip, name) in [
            ("10.0.0.255", "ip-10-0-0-255.lb.example"),
            ("2001:db8::1", "ip-2001-0db8-0000-0000-0000-0000-0000-0001.lb.example"),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(host(ip, &zone).to_string(), name);
            assert_eq!(address(&absolute(&name.to_uppercase()).unwrap(), &zone), Some(ip));
        }
        for other in ["ip-10-0-0-256.lb.example", "ip-10-0-0-01.lb.example", "ip-10-0-0-1.example", "www.lb.example"] {
            assert_eq!(address(&absolute(other).unwrap(), &zone), None, "{other}");
        }
    }
}

//! Names of the real LB's pools ↔ names of the GWM's groups.

use std::{collections::HashSet, path::Path};

use serde::Deserialize;
use toml::Spanned;

use super::Pool;
use crate::{
    client::spec::{self, GroupSpec, MemberSpec},
    files::{self, Fault, FileError, Mistake},
    limits,
    pattern::Pattern,
    sasp::unescape,
};

/// Which group a pool belongs to: the first rule that fits decides; without one, the group has the pool's name.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    rules: Vec<Rule>,
}

/// One rule of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pools: Pattern,
    /// The parts of the group's name; the pool's name stands between them. `None`: these pools are left alone.
    group: Option<Vec<Box<[u8]>>>,
}

impl Rule {
    /// `POOLS=GROUP`: POOLS is a pattern, a `*` in GROUP stands for the pool's name, and without GROUP the pools are left
    /// alone. A `=` of a name is written `\x3D`, a `*` `\x2A`.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let (pools, group) = text.split_once('=').ok_or_else(|| format!("`{text}` is not POOLS=GROUP"))?;
        Rule::of(pools, Some(group).filter(|group| !group.is_empty()))
    }

    fn of(pools: &str, group: Option<&str>) -> Result<Rule, String> {
        let pools = Pattern::parse(pools).map_err(|error| error.to_string())?;
        let group = group.map(|group| {
            if !group.contains('*') {
                spec::group_name(group).map_err(|error| error.to_string())?;
            }
            group.split('*').map(|part| unescape(part).map(Into::into).map_err(|error| error.to_string())).collect()
        });
        Ok(Rule { pools, group: group.transpose()? })
    }
}

impl Mapping {
    /// The rules of the command line, then those of the file.
    pub fn new(rules: &[Rule], file: Option<&Path>) -> Result<Mapping, FileError> {
        let mut rules = rules.to_vec();
        if let Some(path) = file {
            let text = files::read(path, "mapping", FILE_BYTES)?;
            rules.extend(parse(&text).map_err(|mistake| mistake.of(path))?);
        }
        Ok(Mapping { rules })
    }

    /// The group of a pool; `None` if the pool is left alone.
    pub fn group(&self, pool: &[u8]) -> Option<Box<[u8]>> {
        match self.rules.iter().find(|rule| rule.pools.fits(pool)) {
            None => Some(pool.into()),
            Some(rule) => rule.group.as_ref().map(|parts| parts.join(pool).into()),
        }
    }

    /// The groups of these pools, with all members of the pools of each group; and what is left out because it does not fit
    /// the protocol.
    pub fn groups(&self, pools: &[Pool]) -> (Vec<GroupSpec>, Vec<String>) {
        let mut groups: Vec<GroupSpec> = Vec::new();
        let mut left_out = Vec::new();
        for pool in pools {
            let Some(name) = self.group(&pool.name) else { continue };
            if !(1..=limits::GROUP_NAME_BYTES).contains(&name.len()) {
                left_out.push(format!("a group name of {} bytes: 1 to {} fit", name.len(), limits::GROUP_NAME_BYTES));
                continue;
            }
            let at = groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
                groups.push(GroupSpec { lb: None, name, members: Vec::new() });
                groups.len() - 1
            });
            let members = &mut groups[at].members;
            let mut known: HashSet<_> = members.iter().map(|member| member.endpoint).collect();
            for member in &pool.members {
                if known.insert(member.endpoint) {
                    let label = &member.label[..member.label.len().min(limits::LABEL_BYTES)];
                    members.push(MemberSpec { endpoint: member.endpoint, label: label.into() });
                }
            }
        }
        (groups, left_out)
    }
}

/// The most bytes of a mapping.
const FILE_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    map: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    pool: Spanned<String>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    ignore: bool,
}

fn parse(text: &str) -> Result<Vec<Rule>, Mistake> {
    files::parse(text, |file: File| file.map.into_iter().map(rule).collect())
}

fn rule(rule: FileRule) -> Result<Rule, Fault> {
    let at = rule.pool.span().start;
    match (&rule.group, rule.ignore) {
        (Some(group), false) if !group.is_empty() => Rule::of(rule.pool.get_ref(), Some(group)),
        (None, true) => Rule::of(rule.pool.get_ref(), None),
        _ => Err("a [[map]] has either `group` or `ignore = true`".into()),
    }
    .map_err(|error| (at, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasp::Endpoint;

    fn mapping(rules: &[&str]) -> Mapping {
        Mapping { rules: rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect() }
    }

    fn group(mapping: &Mapping, pool: &str) -> Option<String> {
        mapping.group(pool.as_bytes()).map(|name| String::from_utf8(name.into()).unwrap())
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let mapping = mapping(&["stats*=", "web=FARM1", "web*=edge-*", "?=*.*"]);
        assert_eq!(group(&mapping, "stats_http"), None);
        assert_eq!(group(&mapping, "web"), Some("FARM1".into()));
        assert_eq!(group(&mapping, "web2"), Some("edge-web2".into()));
        assert_eq!(group(&mapping, "x"), Some("x.x".into()));
        assert_eq!(group(&mapping, "api"), Some("api".into()), "no rule: the pool's own name");
    }

    #[test]
    fn rules_are_checked() {
        assert!(Rule::parse("web").unwrap_err().contains("POOLS=GROUP"));
        assert!(Rule::parse("we\\q=x").is_err());
        assert!(Rule::parse(&format!("web={}", "x".repeat(256))).is_err());
        assert_eq!(group(&mapping(&["a\\x3Db=c"]), "a=b"), Some("c".into()));
        let read =
            parse("[[map]]\npool = \"web*\"\ngroup = \"edge-*\"\n[[map]]\npool = \"s\"\nignore = true\n").unwrap();
        assert_eq!(read, [Rule::parse("web*=edge-*").unwrap(), Rule::parse("s=").unwrap()]);
        for bad in ["[[map]]\npool = \"a\"\n", "[[map]]\npool = \"a\"\ngroup = \"b\"\nignore = true\n"] {
            assert_eq!(parse(bad).unwrap_err().line, 2, "{bad}");
        }
        assert!(parse("[[map]]\npools = \"a\"\n").is_err(), "an unknown key");
    }

    #[test]
    fn pools_of_one_group_are_registered_as_one() {
        let member = |host: u8, label: &str| MemberSpec {
            endpoint: Endpoint::new([10, 0, 0, host].into(), 6, 80),
            label: label.as_bytes().into(),
        };
        let pools = [
            Pool { name: (*b"web_a").into(), members: vec![member(1, "s1"), member(2, "s2")] },
            Pool { name: (*b"web_b").into(), members: vec![member(2, "other"), member(3, "s3")] },
            Pool { name: (*b"admin").into(), members: vec![member(9, "x")] },
            Pool { name: vec![b'n'; 256].into(), members: vec![] },
        ];
        let (groups, left_out) = mapping(&["web_*=web", "admin="]).groups(&pools);
        let shown: Vec<_> = groups
            .iter()
            .flat_map(|g| g.members.iter().map(|m| (&*g.name, m.endpoint.address[15], &*m.label)))
            .collect();
        assert_eq!(shown, [(&b"web"[..], 1, &b"s1"[..]), (b"web", 2, b"s2"), (b"web", 3, b"s3")]);
        assert_eq!(left_out, ["a group name of 256 bytes: 1 to 255 fit"]);
    }
}

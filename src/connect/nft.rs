//! nftables: new connections to a service go to the group's members by destination NAT, in proportion to the weights.
//!
//! All rules are in a table of their own, and are replaced in one transaction. Connections that exist keep their member:
//! the kernel remembers where each of them goes. The kernel's rules themselves are compared with the wanted ones, so a
//! change by others heals. Elements of sets count which member each connection got; the sets stay when rules change.

mod command;
mod counts;
pub mod rules;
mod slots;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
};

use serde_json::Value;

use self::{
    command::Nft,
    counts::Pair,
    rules::{Present, Target, read},
};
use super::{Applied, Connector, Fault, Observation, Observed, Pool, Wanted, WantedMember, scale::share};
use crate::{
    client::spec,
    sasp::{
        Endpoint, Escaped,
        component::{TCP, UDP},
    },
};

/// What to balance, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program `nft`.
    pub program: PathBuf,
    /// The table, of family `inet`.
    pub table: String,
    /// The services, in the order of their rules.
    pub services: Vec<Service>,
    /// The groups, as pools.
    pub pools: Vec<Pool>,
    /// How a connection gets its member.
    pub choose: Choose,
    /// The most slots of a service.
    pub slots: u32,
}

/// An address and port that clients connect to, and the group behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The address that clients use.
    pub ip: IpAddr,
    /// TCP or UDP.
    pub protocol: u8,
    /// The port that clients use.
    pub port: u16,
    /// The group.
    pub group: Box<[u8]>,
}

/// How a connection gets its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choose {
    /// One after the other.
    Turn,
    /// At random.
    Random,
    /// By the client's address: the same client gets the same member.
    Source,
}

impl Service {
    /// `10.0.0.1:80=web`, `[2001:db8::1]:53/udp=dns`.
    pub fn parse(text: &str) -> Result<Service, String> {
        let (endpoint, group) = text.split_once('=').ok_or_else(|| format!("`{text}` is not ADDRESS:PORT=GROUP"))?;
        let endpoint = spec::endpoint(endpoint).map_err(|error| error.to_string())?;
        if endpoint.port == 0 || ![TCP, UDP].contains(&endpoint.protocol) {
            return Err(format!("`{text}`: a service has a port, of TCP or UDP"));
        }
        let group = spec::group_name(group).map_err(|error| error.to_string())?;
        Ok(Service { ip: endpoint.ip(), protocol: endpoint.protocol, port: endpoint.port, group })
    }

    /// Where a connection goes that gets this member; `None`: NAT can not lead from this service to this member.
    fn target(&self, member: Endpoint) -> Option<Target> {
        let (ip, port) = (member.ip(), if member.port == 0 { self.port } else { member.port });
        (ip.is_ipv4() == self.ip.is_ipv4() && [0, self.protocol].contains(&member.protocol)).then_some((ip, port))
    }

    /// Connections of this service to this member.
    fn pair(&self, member: Target) -> Pair {
        Pair { protocol: self.protocol, service: (self.ip, self.port), member }
    }

    /// The members whose connections of this service are counted, with their numbers.
    fn counts(&self, present: &Present) -> Vec<(Target, u64)> {
        let least = self.pair((if self.ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0));
        let of_service = present.counts.range(least..);
        let same = |pair: &Pair| (pair.protocol, pair.service) == (least.protocol, least.service);
        of_service.take_while(|(pair, _)| same(pair)).map(|(pair, count)| (pair.member, *count)).collect()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = Endpoint::new(self.ip, self.protocol, self.port);
        write!(f, "{endpoint} ({})", Escaped(&self.group))
    }
}

/// The rule of one service.
#[derive(Clone, Debug)]
pub struct Step {
    service: usize,
    rule: Value,
    /// All members that the service can lead to, those without a slot too: their connections are counted.
    members: BTreeSet<Target>,
    text: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A table of nftables.
pub struct NftConnector {
    settings: Settings,
    nft: Nft,
    /// What the last look saw.
    present: Present,
}

impl NftConnector {
    /// Checks that services and groups belong together.
    pub fn new(settings: Settings) -> Result<NftConnector, String> {
        let mut seen = HashSet::new();
        for service in &settings.services {
            if !seen.insert((service.ip, service.protocol, service.port)) {
                return Err(format!("the service {service} is given twice"));
            }
            if !settings.pools.iter().any(|pool| pool.name == service.group) {
                let group = Escaped(&service.group);
                return Err(format!(
                    "the group of {service} is missing: give --group '{group}=MEMBER,…', or --trust and \
                                    --group '{group}'"
                ));
            }
        }
        for pool in &settings.pools {
            let mut services = settings.services.iter().filter(|service| service.group == pool.name).peekable();
            if services.peek().is_none() {
                return Err(format!("the group {} has no --service", Escaped(&pool.name)));
            }
            for service in services {
                if let Some(member) = pool.members.iter().find(|member| service.target(member.endpoint).is_none()) {
                    let member = member.endpoint;
                    return Err(format!("{service} can not lead to {member}: another protocol or IP version"));
                }
            }
        }
        Ok(NftConnector { nft: Nft(settings.program.clone()), settings, present: Present::default() })
    }

    /// The steps for services whose group is in `wanted`: those that differ, or all if others changed the table.
    fn steps(&self, wanted: &[Wanted]) -> Vec<Step> {
        let (mut steps, mut rules) = (Vec::new(), Vec::new());
        for (at, service) in self.settings.services.iter().enumerate() {
            let present = rules::of_service(&self.present.rules, service);
            match wanted.iter().find(|wanted| wanted.pool == service.group) {
                Some(wanted) => {
                    let step = self.step(at, present, &wanted.members);
                    rules.push(step.rule.clone());
                    let counted = service.counts(&self.present);
                    let counts = counted.iter().map(|(member, _)| member).eq(&step.members);
                    steps.push((present != Some(&step.rule) || !counts, step));
                }
                None => rules.extend(present.cloned()),
            }
        }
        let differ = steps.iter().any(|(differs, _)| *differs);
        let own = self.settings.services.iter().map(|service| (service.protocol, (service.ip, service.port)));
        let own: HashSet<(u8, Target)> = own.collect();
        let is_own = |pair: &Pair| own.contains(&(pair.protocol, pair.service));
        let strange = rules != self.present.rules || !self.present.counts.keys().all(is_own);
        let all = !self.present.whole || !differ && strange;
        steps.into_iter().filter(|(differs, _)| all || *differs).map(|(_, step)| step).collect()
    }

    fn step(&self, at: usize, present: Option<&Value>, members: &[WantedMember]) -> Step {
        let service = &self.settings.services[at];
        let mut targets: Vec<Target> = Vec::new();
        let (mut weights, mut seen) = (Vec::new(), HashSet::new());
        for member in members {
            // A system and an application on it may be one target: the first counts.
            let Some(target) = service.target(member.endpoint).filter(|target| seen.insert(*target)) else {
                continue;
            };
            targets.push(target);
            weights.push(share(member.standing));
        }
        let (quotas, list) = match self.settings.choose {
            Choose::Source => {
                let quotas = slots::fixed_quotas(&weights, self.settings.slots);
                let list = slots::near(&present.map(rules::slots).unwrap_or_default(), &targets, &quotas);
                (quotas, list)
            }
            Choose::Turn | Choose::Random => {
                let quotas = slots::quotas(&weights, self.settings.slots);
                let list = slots::in_turn(&quotas).into_iter().map(|at| targets[at]).collect();
                (quotas, list)
            }
        };
        let shares: Vec<String> = targets
            .iter()
            .zip(&quotas)
            .filter(|(_, quota)| **quota > 0)
            .map(|((ip, port), quota)| format!("{} {quota}/{}", std::net::SocketAddr::new(*ip, *port), list.len()))
            .collect();
        let text = match shares.is_empty() {
            true => format!("{service}: no member serves, so connections are rejected"),
            false => format!("{service}: {}", shares.join(", ")),
        };
        let rule = rules::rule(service, self.settings.choose, &list);
        Step { service: at, rule, members: targets.into_iter().collect(), text }
    }

    fn list(&self) -> Result<Present, Fault> {
        let table = &self.settings.table;
        match self.nft.run(&["-j", "list", "table", "inet", table], "")? {
            Ok(listing) => read(&listing, table).map_err(|error| {
                Fault::Answer(format!(
                    "the listing of `{}` is not understood: {error}",
                    self.settings.program.display()
                ))
            }),
            // There is no such table yet.
            Err(error) if error.contains("No such file or directory") => Ok(Present::default()),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// What the table tells of a pool's members: connections of all its services, and slots.
    fn of_pool(&self, present: &Present, pool: &Pool) -> Vec<Observation> {
        let mut observed: Vec<Observation> = Vec::new();
        let mut places: HashMap<Endpoint, usize> = HashMap::new();
        for service in self.settings.services.iter().filter(|service| service.group == pool.name) {
            let mut endpoints: HashMap<Target, Endpoint> = HashMap::new();
            for member in &pool.members {
                if let Some(target) = service.target(member.endpoint) {
                    endpoints.entry(target).or_insert(member.endpoint);
                }
            }
            let mut slots: HashMap<Target, u64> = HashMap::new();
            let rule = rules::of_service(&present.rules, service);
            rule.map(rules::slots).into_iter().flatten().for_each(|target| *slots.entry(target).or_default() += 1);
            for (target, count) in service.counts(present) {
                let own = || Endpoint::new(target.0, service.protocol, target.1); // it registered itself
                let endpoint = endpoints.get(&target).copied().unwrap_or_else(own);
                let at = *places.entry(endpoint).or_insert(observed.len());
                if at == observed.len() {
                    observed.push(Observation::new(&pool.name, endpoint));
                }
                let (one, slots) = (&mut observed[at], slots.get(&target).copied().unwrap_or(0));
                one.connections = Some(one.connections.unwrap_or(0).saturating_add(count));
                one.weight = one.weight.max(Some(slots));
            }
        }
        observed
    }
}

impl Connector for NftConnector {
    type Step = Step;

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        self.present = self.list()?;
        Ok(self.settings.pools.clone())
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        self.steps(wanted)
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let of_these = self.settings.pools.iter().filter(|pool| pools.contains(&pool.name));
        self.steps(&of_these.map(Wanted::usual).collect::<Vec<_>>())
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        let present = &self.present;
        let (mut rules, mut counted) = (Vec::new(), BTreeSet::new());
        for (at, service) in self.settings.services.iter().enumerate() {
            match steps.iter().find(|step| step.service == at) {
                Some(step) => {
                    rules.push(step.rule.clone());
                    counted.extend(step.members.iter().map(|member| service.pair(*member)));
                }
                None => {
                    rules.extend(rules::of_service(&present.rules, service).cloned());
                    counted.extend(service.counts(present).into_iter().map(|(member, _)| service.pair(member)));
                }
            }
        }
        let gone = present.counts.keys().filter(|pair| !counted.contains(pair));
        let commands = rules::replace(&self.settings.table, &rules, gone, counted.iter());
        match self.nft.run(&["-j", "-f", "-"], &commands)? {
            Ok(_) => {
                applied.done += steps.len();
                Ok(())
            }
            Err(error) => Err(self.refused(&error)),
        }
    }

    fn observe(&mut self) -> Result<Observed, Fault> {
        let present = self.list()?;
        let members = self.settings.pools.iter().flat_map(|pool| self.of_pool(&present, pool)).collect();
        Ok(Observed { members, ..Observed::default() })
    }
}

impl NftConnector {
    fn refused(&self, error: &str) -> Fault {
        let program = self.settings.program.display();
        let help = match error.contains("Operation not permitted") {
            true => " (it needs root, or the capability CAP_NET_ADMIN)",
            false => "",
        };
        Fault::Answer(format!("`{program}` fails on the table inet {}: {error}{help}", self.settings.table))
    }
}

/// The name of a table: as nftables has them without quotes.
pub fn table_name(text: &str) -> Result<String, String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let good = text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(letter);
    good.then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not a name: a letter, then letters, digits, _ and -"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasp::Standing;

    fn connector(services: &[&str], groups: &[&str], choose: Choose) -> Result<NftConnector, String> {
        let pool = |text: &&str| {
            let group = spec::group(text).unwrap();
            Pool { name: group.name, members: group.members }
        };
        NftConnector::new(Settings {
            program: "nft".into(),
            table: "gwm".into(),
            services: services.iter().map(|text| Service::parse(text).unwrap()).collect(),
            pools: groups.iter().map(pool).collect(),
            choose,
            slots: 10,
        })
    }

    fn wanted(pool: &str, members: &[(&str, Standing)]) -> Wanted {
        let member = |(text, standing): &(&str, Standing)| WantedMember {
            endpoint: spec::endpoint(text).unwrap(),
            label: Box::default(),
            standing: *standing,
        };
        Wanted {
            pool: pool.as_bytes().into(),
            members: members.iter().map(member).collect(),
            session_age: std::time::Duration::ZERO,
        }
    }

    fn texts(steps: &[Step]) -> Vec<String> {
        steps.iter().map(Step::to_string).collect()
    }

    fn after(mut connector: NftConnector, steps: &[Step]) -> NftConnector {
        let pairs = |step: &Step| {
            let service = connector.settings.services[step.service].clone();
            step.members.iter().map(move |member| (service.pair(*member), 0)).collect::<Vec<_>>()
        };
        let counts = steps.iter().flat_map(pairs).collect();
        connector.present =
            Present { whole: true, rules: steps.iter().map(|step| step.rule.clone()).collect(), counts };
        connector
    }

    #[test]
    fn connections_are_counted_by_pool_and_member() {
        use Standing::{Down, Serving};
        let services = ["10.9.0.1:80=web", "10.9.0.1:443=web", "10.9.0.1:53=dns"];
        let fresh = connector(&services, &["web=10.0.0.1,10.0.0.2:80", "dns=10.0.0.2:80"], Choose::Turn).unwrap();
        let members = [("10.0.0.1", Serving(3)), ("10.0.0.2:80", Down), ("10.0.0.3:80", Serving(1))];
        let wanted = [wanted("web", &members), wanted("dns", &[("10.0.0.2:80", Serving(1))])];
        let steps = fresh.plan(&wanted);
        let mut connector = after(fresh, &steps);
        assert!(connector.plan(&wanted).is_empty());
        (1..).zip(connector.present.counts.values_mut()).for_each(|(number, count)| *count = number);
        let of = |pool: usize| -> Vec<_> {
            let pool = &connector.settings.pools[pool];
            let observed = connector.of_pool(&connector.present, pool).into_iter();
            observed.map(|one| (one.endpoint.to_string(), one.connections, one.weight)).collect()
        };
        // By service and member: 53 to 2; 80 to 1, 2 and 3; 443 to 1, 2 and 3.
        let one = ("10.0.0.1".to_owned(), Some(2 + 5), Some(3));
        let two = ("10.0.0.2:80".to_owned(), Some(3 + 6), Some(0));
        let three = ("10.0.0.3:80".to_owned(), Some(4 + 7), Some(1));
        assert_eq!(of(0), [one, two, three]);
        assert_eq!(of(1), [("10.0.0.2:80".to_owned(), Some(1), Some(1))]);
        // A member that is not counted, and one of a service that is not asked for.
        let first = *connector.present.counts.keys().next().unwrap();
        let count = connector.present.counts.remove(&first).unwrap();
        assert_eq!(texts(&connector.plan(&wanted)), ["10.9.0.1:53 (dns): 10.0.0.2:80 1/1"]);
        connector.present.counts.insert(first, count);
        connector.present.counts.insert(Pair { service: (first.service.0, 9), ..first }, 0);
        assert_eq!(connector.plan(&wanted).len(), 3);
    }

    #[test]
    fn only_members_that_serve_get_slots() {
        use Standing::{Down, Idle, Quiesced, Serving, Usual};
        let connector =
            connector(&["10.9.0.1:80=web", "10.9.0.1:443=web"], &["web=10.0.0.1:80,10.0.0.2"], Choose::Turn).unwrap();
        let steps = connector.plan(&[wanted(
            "web",
            &[
                ("10.0.0.1:80", Serving(30)),
                ("10.0.0.2", Serving(10)),
                ("10.0.0.3:80", Quiesced),
                ("10.0.0.4:80", Down),
                ("10.0.0.5:80", Idle),
                ("[fd00::1]:80", Serving(9)),
                ("10.0.0.6:80/udp", Serving(9)),
            ],
        )]);
        assert_eq!(
            texts(&steps),
            [
                "10.9.0.1:80 (web): 10.0.0.1:80 3/4, 10.0.0.2:80 1/4",
                "10.9.0.1:443 (web): 10.0.0.1:80 3/4, 10.0.0.2:443 1/4",
            ]
        );
        let connector = after(connector, &steps);
        let idle = [("10.0.0.3:80", Down), ("10.0.0.4:80", Down), ("10.0.0.5:80", Down)];
        let same = [&[("10.0.0.1:80", Serving(60)), ("10.0.0.2", Serving(20))][..], &idle].concat();
        assert!(connector.plan(&[wanted("web", &same)]).is_empty(), "the same shares");
        let none = connector.plan(&[wanted("web", &[("10.0.0.1:80", Down), ("10.0.0.2", Down)])]);
        assert_eq!(none[0].to_string(), "10.9.0.1:80 (web): no member serves, so connections are rejected");
        let all = connector.plan(&[wanted("web", &[("10.0.0.1:80", Usual), ("10.0.0.2:80", Usual)])]);
        assert_eq!(all[0].to_string(), "10.9.0.1:80 (web): 10.0.0.1:80 1/2, 10.0.0.2:80 1/2");
        assert_eq!(connector.restore(&[(*b"web").into()])[0].to_string(), all[0].to_string());
        assert!(connector.restore(&[]).is_empty());
        // A system and an application on it are one target.
        let one = connector.plan(&[wanted("web", &[("10.0.0.1:80", Serving(1)), ("10.0.0.1", Serving(1))])]);
        assert_eq!(one[0].to_string(), "10.9.0.1:80 (web): 10.0.0.1:80 1/1");
    }

    #[test]
    fn what_others_changed_is_written_again() {
        let services = ["10.9.0.1:80=web", "10.9.0.2:80=api"];
        let groups = ["web=10.0.0.1:80", "api=10.0.0.2:80"];
        let web = wanted("web", &[("10.0.0.1:80", Standing::Serving(1))]);
        let api = wanted("api", &[("10.0.0.2:80", Standing::Serving(1))]);
        let wanted = [web.clone(), api];
        let fresh = || connector(&services, &groups, Choose::Source).unwrap();
        let steps = fresh().plan(&wanted);
        assert_eq!(steps.len(), 2);
        assert_eq!(fresh().plan(&[web]).len(), 1, "the GWM does not list the other group");
        let mut connector = after(fresh(), &steps);
        assert!(connector.plan(&wanted).is_empty());
        connector.present.rules.push(serde_json::json!([{"accept": null}]));
        assert_eq!(connector.plan(&wanted).len(), 2, "a rule of someone else");
        connector.present.rules.pop();
        connector.present.whole = false;
        assert_eq!(connector.plan(&wanted).len(), 2, "a chain is missing");
        connector.present.whole = true;
        connector.present.rules.remove(0);
        assert_eq!(connector.plan(&wanted).len(), 1);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let error = |services: &[&str], groups: &[&str]| connector(services, groups, Choose::Turn).err().unwrap();
        assert!(error(&["10.9.0.1:80=web"], &[]).contains("--group 'web=MEMBER,…'"));
        assert!(error(&["10.9.0.1:80=web", "10.9.0.1:80=api"], &["web", "api"]).contains("twice"));
        assert!(error(&["10.9.0.1:80=web"], &["web", "api"]).contains("the group api has no --service"));
        assert!(error(&["10.9.0.1:80=web"], &["web=[fd00::1]:80"]).contains("another protocol or IP version"));
        for bad in ["10.9.0.1:80", "10.9.0.1=web", "10.9.0.1:80/132=web", "10.9.0.1:80=", "x=web"] {
            assert!(Service::parse(bad).is_err(), "{bad}");
        }
        assert!(table_name("gwm-2").is_ok());
        for bad in ["", "2gwm", "a b", "a\"", &"x".repeat(65)] {
            assert!(table_name(bad).is_err(), "{bad}");
        }
    }
}

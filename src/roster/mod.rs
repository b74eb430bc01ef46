//! The operator's settings of members: the checks and the capacity of each member, and the policy of each group.
//! [`config`](crate::config) reads them from flags and the members file; a reload replaces them.

mod checks;

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

pub use checks::{AgentCheck, Check, Content, Grpc, Http, Monitor, ProxyProtocol, ReportRules, Times, Tls, TlsSource};

use crate::{
    judgement::Policy,
    network::{Lengths, Network},
    pattern::Pattern,
    sasp::{Endpoint, component::TCP},
};

/// The protocol number of witnesses: reserved, so that no member has it.
const WITNESS: u8 = 255;

/// The settings of all members and groups. The coordinator and the shards share it; a reload replaces it.
#[derive(Debug)]
pub struct Roster {
    exact: HashMap<Endpoint, Listed>,
    ranges: HashMap<Range, Listed>,
    /// The prefix lengths of `ranges`.
    lengths: Lengths,
    default: Arc<Member>,
    groups: Vec<(Pattern, Policy)>,
    policy: Policy,
    witnesses: Vec<(Endpoint, Check)>,
    /// Lists of checks that many endpoints share.
    tcp: Arc<[Check]>,
    icmp: Arc<[Check]>,
    nothing: Arc<[Check]>,
}

/// An entry of a member or a network.
#[derive(Debug)]
struct Listed {
    member: Arc<Member>,
    /// How many entries were added before.
    number: u32,
}

/// The settings of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// How much work the member can take, compared with others: its weight while it is up and reports nothing else.
    pub capacity: u16,
    /// The members file states the capacity; else it is the highest weight.
    pub stated: bool,
    /// The operator fixes the weight to `capacity`, and nothing watches the member.
    pub fixed: bool,
    /// The operator takes the member out of service: weight 0.
    pub quiesced: bool,
    /// The wanted checks; [`Roster::checks`] gives the possible ones.
    pub monitor: Monitor,
    /// The header before everything else on the connection of a check, except an agent's.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// When to check.
    pub times: Times,
    /// How its reports, and those of its agent, count.
    pub reports: ReportRules,
}

/// The endpoints of an entry with a CIDR prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// Their addresses.
    pub network: Network,
    /// Their protocols and ports.
    pub selector: Selector,
}

/// Protocols and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// All endpoints.
    All,
    /// The endpoints with this protocol and any port.
    Protocol(u8),
    /// The endpoints with this protocol and port.
    Port(u8, u16),
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.fmt(f)?;
        match self.selector {
            Selector::All => Ok(()),
            Selector::Protocol(protocol) => write!(f, " protocol {protocol}"),
            Selector::Port(protocol, port) => write!(f, " protocol {protocol} port {port}"),
        }
    }
}

impl Roster {
    /// A roster with the same settings for all members, and one policy for all groups.
    pub fn new(default: Member, policy: Policy) -> Roster {
        Roster {
            exact: HashMap::new(),
            ranges: HashMap::new(),
            lengths: Lengths::default(),
            default: Arc::new(default),
            groups: Vec::new(),
            policy,
            witnesses: Vec::new(),
            tcp: [Check::Tcp].into(),
            icmp: [Check::Icmp].into(),
            nothing: [].into(),
        }
    }

    /// Adds the settings of one endpoint, however its address is written; `false` if they replace others.
    pub fn add(&mut self, endpoint: Endpoint, member: Member) -> bool {
        let entry = self.listed(member);
        self.exact.insert(endpoint.canonical(), entry).is_none()
    }

    /// Adds the settings of many endpoints; `false` if they replace others.
    pub fn add_range(&mut self, range: Range, member: Member) -> bool {
        let entry = self.listed(member);
        self.lengths.add(range.network);
        self.ranges.insert(range, entry).is_none()
    }

    fn listed(&self, member: Member) -> Listed {
        let number = u32::try_from(self.entries()).expect("a file of fewer entries than 32 bits");
        Listed { member: Arc::new(member), number }
    }

    /// Adds a policy for the groups whose name fits the pattern, and no earlier pattern.
    pub fn add_group(&mut self, pattern: Pattern, policy: Policy) {
        self.groups.push((pattern, policy));
    }

    /// Adds a witness: an address that is watched, is no member, and proves that this machine's network works. With a
    /// port the check is a TCP connection, else an echo. A witness that is added again, also in another spelling, is one.
    pub fn add_witness(&mut self, address: IpAddr, port: Option<u16>) {
        let check = if port.is_some() { Check::Tcp } else { Check::Icmp };
        let endpoint = Endpoint::new(address, WITNESS, port.unwrap_or(0)).canonical();
        if !self.is_witness(&endpoint) {
            self.witnesses.push((endpoint, check));
        }
    }

    /// The witnesses.
    pub fn witnesses(&self) -> impl Iterator<Item = Endpoint> {
        self.witnesses.iter().map(|(endpoint, _)| *endpoint)
    }

    /// Whether the endpoint is a witness.
    pub fn is_witness(&self, endpoint: &Endpoint) -> bool {
        self.witness(endpoint).is_some()
    }

    fn witness(&self, endpoint: &Endpoint) -> Option<&Check> {
        let mut witnesses = self.witnesses.iter().filter(|_| endpoint.protocol == WITNESS);
        witnesses.find(|(witness, _)| witness == endpoint).map(|(_, check)| check)
    }

    /// The settings of an endpoint: its own entry; else that of the longest prefix, first with its port, then with its
    /// protocol, then for all; else those of the flags.
    pub fn find(&self, endpoint: &Endpoint) -> &Arc<Member> {
        self.find_entry(endpoint).map_or(&self.default, |entry| &entry.member)
    }

    /// The number of the entry that has the settings of an endpoint: how many were added before. `None` for those of the
    /// flags.
    pub fn entry_of(&self, endpoint: &Endpoint) -> Option<u32> {
        self.find_entry(endpoint).map(|entry| entry.number)
    }

    /// The entries of members and networks with their numbers, in no order.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, &dyn fmt::Display)> {
        let exact = self.exact.iter().map(|(endpoint, entry)| (entry.number, endpoint as &dyn fmt::Display));
        exact.chain(self.ranges.iter().map(|(range, entry)| (entry.number, range as &dyn fmt::Display)))
    }

    fn find_entry(&self, endpoint: &Endpoint) -> Option<&Listed> {
        let endpoint = endpoint.canonical();
        if let Some(entry) = self.exact.get(&endpoint) {
            return Some(entry);
        }
        let selectors =
            [Selector::Port(endpoint.protocol, endpoint.port), Selector::Protocol(endpoint.protocol), Selector::All];
        self.lengths
            .around(endpoint.ip())
            .flat_map(|network| selectors.map(|selector| Range { network, selector }))
            .find_map(|range| self.ranges.get(&range))
    }

    /// The wanted checks of an endpoint that are possible. TCP needs protocol 6 and a port. HTTP and gRPC need the same,
    /// or a port of their own. An echo needs the right to send it.
    pub fn checks(&self, endpoint: &Endpoint, icmp_allowed: bool) -> Arc<[Check]> {
        match self.witness(endpoint) {
            Some(Check::Icmp) if !icmp_allowed => return self.nothing.clone(),
            Some(Check::Icmp) => return self.icmp.clone(),
            Some(_) => return self.tcp.clone(),
            None => {}
        }
        let monitor = &self.find(endpoint).monitor;
        let has_port = endpoint.protocol == TCP && endpoint.port != 0;
        let plainest = match monitor.auto {
            true if has_port => &self.tcp,
            true if icmp_allowed => &self.icmp,
            _ => &self.nothing,
        };
        let applies = |check: &&Check| match check {
            Check::Tcp => has_port,
            Check::Icmp => icmp_allowed,
            Check::Http(http) => has_port || http.port.is_some(),
            Check::Grpc(grpc) => has_port || grpc.port.is_some(),
            Check::Agent(_) => true,
        };
        if plainest.is_empty() && monitor.checks.iter().all(|check| applies(&check)) {
            return monitor.checks.clone();
        }
        let others = monitor.checks.iter().filter(applies).filter(|check| !plainest.contains(check));
        if others.clone().next().is_none() {
            return plainest.clone();
        }
        plainest.iter().chain(others).cloned().collect()
    }

    /// The policy of a group.
    pub fn policy(&self, group_name: &[u8]) -> Policy {
        self.policy_and_entry(group_name).0
    }

    /// The policy of a group, and the position of its entry in [`Roster::groups`].
    pub fn policy_and_entry(&self, group_name: &[u8]) -> (Policy, Option<usize>) {
        let mut entries = self.groups.iter().enumerate();
        let found = entries.find(|(_, (pattern, _))| pattern.fits(group_name));
        found.map_or((self.policy, None), |(at, (_, policy))| (*policy, Some(at)))
    }

    /// The entries of groups.
    pub fn groups(&self) -> &[(Pattern, Policy)] {
        &self.groups
    }

    /// The settings of members without an entry.
    pub fn default_member(&self) -> &Arc<Member> {
        &self.default
    }

    /// The number of entries.
    pub fn entries(&self) -> usize {
        self.exact.len() + self.ranges.len()
    }

    /// Whether an entry or a witness names ICMP echoes, not only `auto`.
    pub fn names_icmp(&self) -> bool {
        let checks = self.members().flat_map(|member| member.monitor.checks.iter());
        checks.chain(self.witnesses.iter().map(|(_, check)| check)).any(|check| *check == Check::Icmp)
    }

    /// Whether any member may get ICMP echoes.
    pub fn may_use_icmp(&self) -> bool {
        self.names_icmp() || self.members().any(|member| member.monitor.auto)
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        let listed = self.exact.values().chain(self.ranges.values());
        listed.map(|entry| &entry.member).chain([&self.default])
    }
}

impl Member {
    /// A member without checks; its state is unknown.
    pub fn unknown(capacity: u16) -> Member {
        Member {
            capacity,
            stated: false,
            fixed: false,
            quiesced: false,
            monitor: Monitor::none(),
            proxy_protocol: None,
            times: Times::default(),
            reports: ReportRules::default(),
        }
    }

    /// A member with a fixed weight.
    pub fn fixed(weight: u16) -> Member {
        Member { fixed: true, ..Member::unknown(weight) }
    }

    /// A member with these checks.
    pub fn watched(capacity: u16, monitor: Monitor, times: Times) -> Member {
        Member { monitor, times, ..Member::unknown(capacity) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, protocol: u8, port: u16) -> Endpoint {
        Endpoint::new(address.parse().unwrap(), protocol, port)
    }

    fn roster() -> Roster {
        Roster::new(Member::unknown(1), Policy::Static)
    }

    fn range(network: &str, selector: Selector) -> Range {
        Range { network: Network::parse(network).unwrap(), selector }
    }

    #[test]
    fn the_most_specific_entry_is_the_one() {
        let mut roster = roster();
        for (network, selector, capacity) in [
            ("0.0.0.0/0", Selector::All, 10),
            ("10.0.0.0/8", Selector::Port(6, 80), 11),
            ("10.1.0.0/16", Selector::All, 12),
            ("10.1.0.0/16", Selector::Protocol(6), 13),
            ("10.1.0.0/16", Selector::Port(6, 80), 14),
            ("10.1.2.3/32", Selector::Protocol(0), 15),
            ("2001:db8::/32", Selector::All, 16),
            ("2001:db8::5/128", Selector::All, 17),
        ] {
            assert!(roster.add_range(range(network, selector), Member::unknown(capacity)));
        }
        assert!(!roster.add_range(range("10.1.0.0/16", Selector::All), Member::unknown(12)), "said twice");
        assert!(roster.add(endpoint("10.1.2.3", 6, 80), Member::unknown(20)));
        assert!(!roster.add(endpoint("10.1.2.3", 6, 80), Member::unknown(20)), "said twice");
        assert!(!roster.add(endpoint("::ffff:10.1.2.3", 6, 80), Member::unknown(20)), "said in another way");
        for (address, protocol, port, capacity) in [
            ("10.1.2.3", 6, 80, 20),
            ("10.1.2.3", 0, 0, 15),
            ("10.1.2.3", 6, 81, 13),
            ("10.1.2.3", 17, 80, 12),
            ("10.1.2.4", 6, 80, 14),
            ("10.1.2.4", 0, 0, 12),
            ("10.2.2.4", 6, 80, 11),
            ("10.2.2.4", 6, 81, 10),
            ("192.0.2.1", 0, 0, 10),
            ("2001:db8::4", 6, 80, 16),
            ("2001:db8::5", 6, 80, 17),
            ("2001:db9::", 6, 80, 1),
            ("::1", 6, 80, 1), // no IPv4 address, though it begins like one
            ("::ffff:10.1.2.3", 6, 80, 20),
            ("::10.1.2.3", 6, 80, 20),
            ("::ffff:10.1.2.4", 6, 80, 14),
            ("::ffff:0.0.0.1", 6, 80, 1),
        ] {
            let found = roster.find(&endpoint(address, protocol, port));
            assert_eq!(found.capacity, capacity, "{address} {protocol} {port}");
        }
        assert_eq!(roster.entries(), 9);
        let numbers = ["10.1.2.3", "10.1.2.4", "2001:db8::5", "2001:db9::"];
        assert_eq!(
            numbers.map(|address| roster.entry_of(&endpoint(address, 6, 80))),
            [Some(9), Some(4), Some(7), None]
        );
        let mut named: Vec<_> = roster.numbered().map(|(number, name)| format!("{number} {name}")).collect();
        named.sort_unstable();
        assert_eq!(named[..2], ["0 0.0.0.0/0", "1 10.0.0.0/8 protocol 6 port 80"]);
    }

    #[test]
    fn checks_are_those_that_apply() {
        let (application, system, sctp) =
            (endpoint("10.0.0.1", 6, 80), endpoint("10.0.0.1", 0, 0), endpoint("10.0.0.1", 132, 80));
        let agent = Check::Agent(Arc::new(AgentCheck { port: 9, send: Vec::new() }));
        let http = |port| Check::Http(Arc::new(Http { port, ..Http::default() }));
        let grpc = |port| Check::Grpc(Arc::new(Grpc { port, ..Grpc::default() }));
        let watch = |monitor: Monitor, endpoint: &Endpoint, icmp| {
            let roster = Roster::new(Member::watched(1, monitor, Times::default()), Policy::Static);
            roster.checks(endpoint, icmp).to_vec()
        };
        for endpoint in [&application, &system] {
            assert_eq!(watch(Monitor::none(), endpoint, true), []);
            assert_eq!(watch(Monitor::of([agent.clone()]), endpoint, false), vec![agent.clone()]);
            assert_eq!(watch(Monitor::of([http(Some(8080))]), endpoint, false), [http(Some(8080))]);
            assert_eq!(watch(Monitor::of([grpc(Some(8080))]), endpoint, false), [grpc(Some(8080))]);
            assert_eq!(watch(Monitor::of([Check::Icmp]), endpoint, true), [Check::Icmp]);
            assert_eq!(watch(Monitor::of([Check::Icmp]), endpoint, false), []);
        }
        assert_eq!(watch(Monitor::auto(), &application, true), [Check::Tcp]);
        for endpoint in [&system, &sctp] {
            assert_eq!(watch(Monitor::auto(), endpoint, true), [Check::Icmp]);
            assert_eq!(watch(Monitor::auto(), endpoint, false), []);
            assert_eq!(watch(Monitor::of([Check::Tcp, agent.clone()]), endpoint, true), vec![agent.clone()]);
            assert_eq!(watch(Monitor::of([http(None), grpc(None)]), endpoint, true), []);
        }
        let with_agent = Monitor { auto: true, checks: [agent.clone(), Check::Tcp].into() };
        assert_eq!(watch(with_agent.clone(), &application, true), [Check::Tcp, agent.clone()]);
        assert_eq!(watch(with_agent, &system, true), [Check::Icmp, agent]);
    }

    #[test]
    fn echoes_by_name_are_told_from_those_of_auto() {
        let mut roster = Roster::new(Member::watched(1, Monitor::auto(), Times::default()), Policy::Static);
        assert!(!roster.names_icmp() && roster.may_use_icmp());
        let echo = Member::watched(1, Monitor::of([Check::Icmp]), Times::default());
        roster.add(endpoint("10.0.0.1", 0, 0), echo);
        assert!(roster.names_icmp());
        assert!(!super::tests::roster().may_use_icmp());
    }

    #[test]
    fn a_witness_is_one_however_often_it_is_named() {
        let mut roster = roster();
        for (address, port) in [
            ("10.0.0.1", None),
            ("::ffff:10.0.0.1", None),
            ("::10.0.0.1", None),
            ("10.0.0.1", Some(53)),
            ("::ffff:10.0.0.1", Some(53)),
            ("2001:db8::1", Some(53)),
            ("2001:db8::1", Some(53)),
        ] {
            roster.add_witness(address.parse().unwrap(), port);
        }
        assert_eq!(roster.witnesses().count(), 3);
    }

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let mut roster = roster();
        roster.add_group(Pattern::parse("FARM1*").unwrap(), Policy::Orca);
        roster.add_group(Pattern::parse("FARM*").unwrap(), Policy::Agent);
        assert_eq!(roster.policy(b"FARM12"), Policy::Orca);
        assert_eq!(roster.policy(b"FARM2"), Policy::Agent);
        assert_eq!(roster.policy(b"OTHER"), Policy::Static);
    }
}

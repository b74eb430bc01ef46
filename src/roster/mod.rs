//! What the operator says of members: how each is watched, how much it can take, and by which policy each group's
//! weights are made. Read from flags and the members file by [`config`](crate::config), never changed after that.

mod checks;
mod pattern;

use std::{collections::HashMap, fmt, sync::Arc};

pub use checks::{AgentCheck, Check, Http, Monitor, Times, Tls, TlsSource};
pub use pattern::Pattern;

use crate::{
    judgement::Policy,
    network::{Lengths, Network},
    sasp::{Endpoint, component::TCP},
};

/// Everything that flags and members file say, shared by the coordinator and the shards; a reload replaces it.
#[derive(Debug)]
pub struct Roster {
    exact: HashMap<Endpoint, Arc<Member>>,
    ranges: HashMap<Range, Arc<Member>>,
    /// The prefix lengths that `ranges` has.
    lengths: Lengths,
    default: Arc<Member>,
    groups: Vec<(Pattern, Policy)>,
    policy: Policy,
    /// Lists that many endpoints share.
    tcp: Arc<[Check]>,
    icmp: Arc<[Check]>,
    nothing: Arc<[Check]>,
}

/// How one member is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// How much it can take compared with others: its weight while it is up, well and says nothing else.
    pub capacity: u16,
    /// Nothing watches it, and the operator vouches for it: `capacity` is its weight.
    pub fixed: bool,
    /// The operator takes it out of service: weight 0.
    pub quiesced: bool,
    /// What is to be done to it; [`Roster::checks`] says what can be.
    pub monitor: Monitor,
    /// When.
    pub times: Times,
}

/// The endpoints that an entry with a CIDR prefix is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// Where they are.
    pub network: Network,
    /// Which of them.
    pub selector: Selector,
}

/// Which endpoints of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// All of them.
    All,
    /// Those of a protocol, whatever the port.
    Protocol(u8),
    /// Those of a protocol and port.
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
    /// One that says the same of all members, and makes all groups' weights by one policy.
    pub fn new(default: Member, policy: Policy) -> Roster {
        Roster {
            exact: HashMap::new(),
            ranges: HashMap::new(),
            lengths: Lengths::default(),
            default: Arc::new(default),
            groups: Vec::new(),
            policy,
            tcp: [Check::Tcp].into(),
            icmp: [Check::Icmp].into(),
            nothing: [].into(),
        }
    }

    /// Says something of one endpoint; `false` if it was said before.
    pub fn add(&mut self, endpoint: Endpoint, member: Member) -> bool {
        self.exact.insert(endpoint, Arc::new(member)).is_none()
    }

    /// Says something of many endpoints; `false` if it was said before.
    pub fn add_range(&mut self, range: Range, member: Member) -> bool {
        self.lengths.add(range.network);
        self.ranges.insert(range, Arc::new(member)).is_none()
    }

    /// Says by which policy the weights of groups are made that no earlier pattern fits.
    pub fn add_group(&mut self, pattern: Pattern, policy: Policy) {
        self.groups.push((pattern, policy));
    }

    /// Who is listed: the endpoint itself, else the longest prefix that it is in, there port before protocol
    /// before neither, else what the flags say of all members.
    pub fn find(&self, endpoint: &Endpoint) -> &Arc<Member> {
        if let Some(member) = self.exact.get(endpoint) {
            return member;
        }
        let selectors =
            [Selector::Port(endpoint.protocol, endpoint.port), Selector::Protocol(endpoint.protocol), Selector::All];
        self.lengths
            .around(endpoint.ip())
            .flat_map(|network| selectors.map(|selector| Range { network, selector }))
            .find_map(|range| self.ranges.get(&range))
            .unwrap_or(&self.default)
    }

    /// What can be done to an endpoint of what its member is to get: TCP takes protocol 6 and a port, HTTP one of
    /// its own or such a member, and an echo the right to send it.
    pub fn checks(&self, endpoint: &Endpoint, icmp_allowed: bool) -> Arc<[Check]> {
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

    /// By which policy a group's weights are made.
    pub fn policy(&self, group_name: &[u8]) -> Policy {
        self.groups.iter().find(|(pattern, _)| pattern.fits(group_name)).map_or(self.policy, |(_, policy)| *policy)
    }

    /// What is said of members that nothing is said about.
    pub fn default_member(&self) -> &Arc<Member> {
        &self.default
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.exact.len() + self.ranges.len()
    }

    /// Whether somebody is to get an ICMP echo by name, not only where nothing else applies.
    pub fn names_icmp(&self) -> bool {
        let members = self.exact.values().chain(self.ranges.values()).chain([&self.default]);
        members.flat_map(|member| member.monitor.checks.iter()).any(|check| *check == Check::Icmp)
    }

    /// Whether somebody may get an ICMP echo.
    pub fn may_use_icmp(&self) -> bool {
        let mut members = self.exact.values().chain(self.ranges.values()).chain([&self.default]);
        self.names_icmp() || members.any(|member| member.monitor.auto)
    }
}

impl Member {
    /// One that nothing watches, and nothing is known about.
    pub fn unknown(capacity: u16) -> Member {
        Member { capacity, fixed: false, quiesced: false, monitor: Monitor::none(), times: Times::default() }
    }

    /// One whose weight is fixed.
    pub fn fixed(weight: u16) -> Member {
        Member { fixed: true, ..Member::unknown(weight) }
    }

    /// One that gets these checks.
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
        ] {
            let found = roster.find(&endpoint(address, protocol, port));
            assert_eq!(found.capacity, capacity, "{address} {protocol} {port}");
        }
        assert_eq!(roster.entries(), 9);
    }

    #[test]
    fn checks_are_those_that_apply() {
        let (application, system, sctp) =
            (endpoint("10.0.0.1", 6, 80), endpoint("10.0.0.1", 0, 0), endpoint("10.0.0.1", 132, 80));
        let agent = Check::Agent(Arc::new(AgentCheck { port: 9, send: Vec::new() }));
        let http = |port| {
            let get = Http {
                method: "GET".into(),
                path: "/".into(),
                host: None,
                port,
                expect: Vec::new(),
                utilization: Vec::new(),
                tls: None,
            };
            Check::Http(Arc::new(get))
        };
        let watch = |monitor: Monitor, endpoint: &Endpoint, icmp| {
            let roster = Roster::new(Member::watched(1, monitor, Times::default()), Policy::Static);
            roster.checks(endpoint, icmp).to_vec()
        };
        for endpoint in [&application, &system] {
            assert_eq!(watch(Monitor::none(), endpoint, true), []);
            assert_eq!(watch(Monitor::of([agent.clone()]), endpoint, false), vec![agent.clone()]);
            assert_eq!(watch(Monitor::of([http(Some(8080))]), endpoint, false), [http(Some(8080))]);
            assert_eq!(watch(Monitor::of([Check::Icmp]), endpoint, true), [Check::Icmp]);
            assert_eq!(watch(Monitor::of([Check::Icmp]), endpoint, false), []);
        }
        assert_eq!(watch(Monitor::auto(), &application, true), [Check::Tcp]);
        for endpoint in [&system, &sctp] {
            assert_eq!(watch(Monitor::auto(), endpoint, true), [Check::Icmp]);
            assert_eq!(watch(Monitor::auto(), endpoint, false), []);
            assert_eq!(watch(Monitor::of([Check::Tcp, agent.clone()]), endpoint, true), vec![agent.clone()]);
            assert_eq!(watch(Monitor::of([http(None)]), endpoint, true), []);
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
    fn the_first_pattern_that_fits_decides() {
        let mut roster = roster();
        roster.add_group(Pattern::new("FARM1*"), Policy::Orca);
        roster.add_group(Pattern::new("FARM*"), Policy::Agent);
        assert_eq!(roster.policy(b"FARM12"), Policy::Orca);
        assert_eq!(roster.policy(b"FARM2"), Policy::Agent);
        assert_eq!(roster.policy(b"OTHER"), Policy::Static);
    }
}

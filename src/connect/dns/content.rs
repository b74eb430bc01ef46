//! What a name shows of its group: the members that may get work, and their weights.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::names::{Kind, Shown};
use crate::{
    connect::{Pool, Standing, Wanted, WantedMember, scale::scale},
    sasp::component::UDP,
};

/// The heaviest member's weight: all 16 bits are used, as HAProxy divides weights by 256.
const HEAVIEST: u32 = u16::MAX as u32;

/// The answer for a group whose members may get no work, any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenNone {
    /// The answer SERVFAIL: resolvers ask again, and may use what they had.
    Servfail,
    /// No record.
    Empty,
    /// All members that are not quiesced, in equal parts.
    All,
}

/// What a name shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The answer SERVFAIL.
    Failure,
    /// These members, ordered by address and port.
    Targets(Vec<Target>),
}

/// A member, as a record shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) ip: IpAddr,
    /// 0 for [`Kind::Address`].
    pub(super) port: u16,
    /// 1 to 65535; 0 for [`Kind::Address`].
    pub(super) weight: u16,
}

impl Content {
    /// What a name shows of its group.
    pub(super) fn of(shown: &Shown, group: &Wanted, when_none: WhenNone) -> Content {
        let fitting: Vec<&WantedMember> = group.members.iter().filter(|member| fits(shown, member)).collect();
        let standings: Vec<Standing> = fitting.iter().map(|member| member.standing).collect();
        let weights = scale(&standings, &vec![HEAVIEST; standings.len()], HEAVIEST);
        let serving: Vec<_> = fitting.iter().zip(weights).filter(|(_, weight)| *weight > 0).collect();
        if !serving.is_empty() {
            return Content::targets(shown, serving.into_iter().map(|(member, weight)| (*member, weight)));
        }
        match when_none {
            WhenNone::Servfail => Content::Failure,
            WhenNone::Empty => Content::Targets(Vec::new()),
            WhenNone::All => {
                let all = fitting.into_iter().filter(|member| member.standing != Standing::Quiesced);
                Content::targets(shown, all.map(|member| (member, HEAVIEST)))
            }
        }
    }

    /// What a name shows without a GWM: the group's own members in equal parts; `None` if it has none of its own.
    pub(super) fn usual(shown: &Shown, pools: &[Pool]) -> Option<Content> {
        let pool = pools.iter().find(|pool| pool.name == shown.pool)?;
        let members = pool.members.iter().map(|member| WantedMember {
            endpoint: member.endpoint,
            label: member.label.clone(),
            standing: Standing::Usual,
        });
        let group = Wanted { pool: pool.name.clone(), members: members.collect(), session_age: Duration::ZERO };
        (!group.members.is_empty()).then(|| Content::of(shown, &group, WhenNone::Empty))
    }

    fn targets<'m>(shown: &Shown, members: impl Iterator<Item = (&'m WantedMember, u32)>) -> Content {
        let target = |(member, weight): (&WantedMember, u32)| match shown.kind {
            Kind::Service => Target {
                ip: member.endpoint.ip(),
                port: member.endpoint.port,
                weight: u16::try_from(weight).unwrap_or(u16::MAX),
            },
            Kind::Address => Target { ip: member.endpoint.ip(), port: 0, weight: 0 },
        };
        let mut targets: Vec<Target> = members.map(target).collect();
        targets.sort_unstable();
        // Two members of one host have one address; two protocols of one port have one host and port.
        targets.dedup_by_key(|target| (target.ip, target.port));
        Content::Targets(targets)
    }

    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let targets = match self {
            Content::Failure => &[],
            Content::Targets(targets) => &targets[..],
        };
        targets.iter().map(|target| target.ip)
    }
}

/// Whether the name can show the member: SRV records have ports, and a name may speak of TCP or UDP only.
fn fits(shown: &Shown, member: &WantedMember) -> bool {
    let endpoint = member.endpoint;
    match (shown.kind, shown.protocol) {
        (Kind::Address, _) => true,
        (Kind::Service, _) if endpoint.port == 0 => false,
        (Kind::Service, Some(UDP)) => endpoint.protocol == UDP,
        (Kind::Service, Some(_)) => endpoint.protocol != UDP,
        (Kind::Service, None) => true,
    }
}

/// The addresses that have a host's name. A host of a member that has left keeps its name for a time: clients may still
/// have the SRV record that names the host.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// By group.
    present: HashMap<Box<[u8]>, BTreeSet<IpAddr>>,
    departed: HashMap<IpAddr, Instant>,
}

impl Hosts {
    /// All of them.
    pub(super) fn all(&self) -> BTreeSet<IpAddr> {
        self.present.values().flatten().chain(self.departed.keys()).copied().collect()
    }

    /// Whether the group has other hosts than these.
    pub(super) fn differ(&self, pool: &[u8], hosts: &BTreeSet<IpAddr>) -> bool {
        self.present.get(pool).map_or(!hosts.is_empty(), |present| present != hosts)
    }

    /// A group has these hosts now; those that left keep their names until `until`.
    pub(super) fn set(&mut self, pool: &[u8], hosts: BTreeSet<IpAddr>, until: Instant) {
        let before = self.present.insert(pool.into(), hosts).unwrap_or_default();
        let after: BTreeSet<IpAddr> = self.present.values().flatten().copied().collect();
        self.departed.retain(|ip, _| !after.contains(ip));
        self.departed.extend(before.into_iter().filter(|ip| !after.contains(ip)).map(|ip| (ip, until)));
    }

    /// Takes out the hosts whose time has ended, and says which.
    pub(super) fn take_gone(&mut self, now: Instant) -> Vec<IpAddr> {
        self.departed.extract_if(|_, until| *until <= now).map(|(ip, _)| ip).collect()
    }
}

/// How long a host of a member that left keeps its name: a record may be in one cache behind another.
pub(super) fn linger(ttl: Duration) -> Duration {
    ttl * 2 + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::dns::names::{self, Rule},
        sasp::Endpoint,
    };

    fn shown(kind: Kind, name: &str) -> Shown {
        let pool = Pool { name: (*b"web").into(), members: Vec::new() };
        let rule = Rule::parse(&format!("{name}=web")).unwrap();
        names::shown(&[(kind, rule)], &[pool], &names::zone("lb.example").unwrap()).unwrap().remove(0)
    }

    fn group(members: &[(&str, u8, u16, Standing)]) -> Wanted {
        let member = |(ip, protocol, port, standing): &(&str, u8, u16, Standing)| WantedMember {
            endpoint: Endpoint::new(ip.parse().unwrap(), *protocol, *port),
            label: Box::default(),
            standing: *standing,
        };
        Wanted { pool: (*b"web").into(), members: members.iter().map(member).collect(), session_age: Duration::ZERO }
    }

    fn show(content: &Content) -> String {
        match content {
            Content::Failure => "failure".into(),
            Content::Targets(targets) => {
                let each = targets.iter().map(|target| format!("{}:{}={}", target.ip, target.port, target.weight));
                each.collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn members_that_may_get_no_work_are_left_out_and_weights_use_16_bits() {
        use Standing::{Down, Idle, Quiesced, Serving};
        let group = group(&[
            ("10.0.0.4", 6, 80, Serving(1)),
            ("10.0.0.2", 6, 80, Serving(20)),
            ("10.0.0.1", 6, 80, Serving(40)),
            ("10.0.0.3", 6, 80, Idle),
            ("10.0.0.5", 6, 80, Down),
            ("10.0.0.6", 6, 80, Quiesced),
            ("10.0.0.7", 17, 80, Serving(40)),
            ("10.0.0.8", 0, 0, Serving(40)),
        ]);
        let of = |kind, name| show(&Content::of(&shown(kind, name), &group, WhenNone::Empty));
        assert_eq!(of(Kind::Service, "_web._tcp"), "10.0.0.1:80=65535 10.0.0.2:80=32767 10.0.0.4:80=1638");
        assert_eq!(of(Kind::Service, "_web._udp"), "10.0.0.7:80=65535");
        assert_eq!(of(Kind::Address, "www"), "10.0.0.1:0=0 10.0.0.2:0=0 10.0.0.4:0=0 10.0.0.7:0=0 10.0.0.8:0=0");
    }

    #[test]
    fn a_group_without_a_member_that_may_get_work() {
        use Standing::{Down, Idle, Quiesced, Usual};
        let none = group(&[("10.0.0.1", 6, 80, Down), ("10.0.0.2", 6, 81, Idle), ("10.0.0.3", 6, 82, Quiesced)]);
        let service = shown(Kind::Service, "_web._tcp");
        let of = |group: &Wanted, when| show(&Content::of(&service, group, when));
        assert_eq!(of(&none, WhenNone::Empty), "");
        assert_eq!(of(&none, WhenNone::Servfail), "failure");
        assert_eq!(of(&none, WhenNone::All), "10.0.0.1:80=65535 10.0.0.2:81=65535");
        let usual = group(&[("10.0.0.1", 6, 80, Usual), ("10.0.0.2", 6, 80, Usual), ("10.0.0.3", 6, 80, Down)]);
        assert_eq!(of(&usual, WhenNone::Servfail), "10.0.0.1:80=65535 10.0.0.2:80=65535");
    }

    #[test]
    fn hosts_keep_their_names_for_a_time() {
        let ips = |hosts: &[u8]| hosts.iter().map(|host| IpAddr::from([10, 0, 0, *host])).collect::<BTreeSet<_>>();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut hosts = Hosts::default();
        hosts.set(b"a", ips(&[1, 2]), later(10));
        hosts.set(b"b", ips(&[2, 3]), later(10));
        assert!(hosts.differ(b"a", &ips(&[1])) && !hosts.differ(b"a", &ips(&[1, 2])));
        hosts.set(b"a", ips(&[]), later(10));
        assert_eq!(hosts.all(), ips(&[1, 2, 3]), "1 has left, 2 is in b");
        assert!(hosts.take_gone(later(9)).is_empty());
        assert_eq!(hosts.take_gone(later(10)), [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(hosts.all(), ips(&[2, 3]));
        hosts.set(b"b", ips(&[]), later(20));
        hosts.set(b"b", ips(&[3]), later(20));
        assert_eq!(hosts.take_gone(later(30)), [IpAddr::from([10, 0, 0, 2])], "3 is back");
    }
}

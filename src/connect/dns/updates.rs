//! The connector that changes another server's zone (RFC 2136).

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use domain::{
    base::{
        Record, Rtype, Ttl, UnknownRecordData,
        iana::{Class, Rcode},
        message_builder::{AuthorityBuilder, PushError, TreeCompressor},
    },
    rdata::{A, Aaaa, Srv},
};

use super::{
    Settings,
    content::{Content, linger},
    exchange::{self, Draft, Exchange, Peer, TOO_LARGE},
    key::Key,
    names::{self, ZoneName},
    records::{self, Data, Records},
};
use crate::connect::{Applied, Connector, Fault, Pool, Wanted};

/// All is read again after this time: a server that got its zone from a backup can have other records with an old serial.
const READ_ALL: Duration = Duration::from_secs(30);

/// How many hosts go into one update if they do not fit into that of their name.
const HOSTS_PER_UPDATE: usize = 500;

/// Another server's zone.
pub struct Updates {
    settings: Settings,
    ttl: Ttl,
    peer: Peer,
    seen: Option<Seen>,
    /// Hosts of members that left: their records go when nobody can have a record that names them.
    leaving: HashMap<IpAddr, Instant>,
}

/// What the last look saw.
struct Seen {
    /// The zone's serial number then; `None` after an update.
    serial: Option<u32>,
    at: Instant,
    /// For each of `settings.shown`, its types.
    sets: Vec<Vec<(Rtype, Records)>>,
    /// Hosts with the right address.
    hosts: BTreeSet<IpAddr>,
}

/// A change of the zone.
pub struct Step {
    change: Change,
    text: String,
}

enum Change {
    /// All records of a name and type.
    Replace { at: usize, rtype: Rtype, records: Records },
    /// Addresses of hosts that a name has.
    Hosts(BTreeSet<IpAddr>),
    /// Hosts that no name has any more.
    Forget(BTreeSet<IpAddr>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

type Changes = AuthorityBuilder<TreeCompressor<Vec<u8>>>;

impl Updates {
    /// A connector for the zone of the server `server` (HOST:PORT).
    pub fn new(settings: Settings, server: String, key: Option<Key>) -> Updates {
        let ttl = Ttl::from_secs(u32::try_from(settings.ttl.as_secs()).unwrap_or(u32::MAX));
        Updates { settings, ttl, peer: Peer { server, key }, seen: None, leaving: HashMap::new() }
    }

    /// Reads all names of `settings.shown`, and the hosts that they name.
    fn read(&self, exchange: &mut Exchange<'_>, serial: u32) -> Result<Seen, Fault> {
        let zone = &self.settings.zone;
        let each = self.settings.shown.iter().enumerate();
        let places: Vec<(usize, Rtype)> =
            each.flat_map(|(at, shown)| records::types(shown.kind).iter().map(move |rtype| (at, *rtype))).collect();
        let queries: Vec<_> =
            places.iter().map(|(at, rtype)| (self.settings.shown[*at].name.clone(), *rtype)).collect();
        let mut sets: Vec<Vec<(Rtype, Records)>> = vec![Vec::new(); self.settings.shown.len()];
        for (((at, rtype), (name, _)), answer) in places.iter().zip(&queries).zip(exchange.ask(&queries)?) {
            let records = Records::read(&answer, name, *rtype);
            let records = records.map_err(|error| self.peer.answer_fault(format_args!("{name} {rtype}: {error}")))?;
            sets[*at].push((*rtype, records));
        }
        let named: Vec<IpAddr> = hosts_of(&sets, zone).into_iter().collect();
        let queries: Vec<_> = named.iter().map(|ip| (names::host(*ip, zone), address_type(*ip))).collect();
        let mut hosts = BTreeSet::new();
        for ((ip, (name, rtype)), answer) in named.iter().zip(&queries).zip(exchange.ask(&queries)?) {
            let right = BTreeSet::from([Data::Address(*ip)]);
            if Records::read(&answer, name, *rtype).is_ok_and(|records| records.data == right) {
                hosts.insert(*ip);
            }
        }
        Ok(Seen { serial: Some(serial), at: Instant::now(), sets, hosts })
    }

    fn steps(&self, at: usize, content: &Content) -> Vec<Step> {
        let (Some(seen), Content::Targets(_)) = (&self.seen, content) else { return Vec::new() };
        let mut steps = Vec::new();
        for (rtype, present) in &seen.sets[at] {
            let records = Records::wanted(content, *rtype, self.ttl, &self.settings.zone);
            let missing = &records.hosts(&self.settings.zone) - &seen.hosts;
            let name = &self.settings.shown[at].name;
            if records != *present {
                let text = match records.data.len() {
                    0 => format!("{name} {rtype}: delete the records"),
                    count => format!("{name} {rtype}: {count} records"),
                };
                steps.push(Step { change: Change::Replace { at, rtype: *rtype, records }, text });
            } else if !missing.is_empty() {
                let text = format!("{name} {rtype}: the addresses of {} hosts", missing.len());
                steps.push(Step { change: Change::Hosts(missing), text });
            }
        }
        steps
    }

    /// Hosts whose time has ended, and that the planned steps do not name again.
    fn forget(&self, planned: &[Step]) -> Option<Step> {
        let seen = self.seen.as_ref()?;
        let mut named = hosts_of(&seen.sets, &self.settings.zone);
        for step in planned {
            match &step.change {
                Change::Replace { records, .. } => named.extend(records.hosts(&self.settings.zone)),
                Change::Hosts(hosts) => named.extend(hosts),
                Change::Forget(_) => {}
            }
        }
        let now = Instant::now();
        let gone = self.leaving.iter().filter(|(ip, until)| **until <= now && !named.contains(ip));
        let gone: BTreeSet<IpAddr> = gone.map(|(ip, _)| *ip).collect();
        let text = format!("delete {} hosts that no name has", gone.len());
        (!gone.is_empty()).then_some(Step { change: Change::Forget(gone), text })
    }

    /// The messages of a step.
    fn messages(&self, change: &Change) -> Result<Vec<Draft>, PushError> {
        let zone = &self.settings.zone;
        let hosts_alone = |hosts: &BTreeSet<IpAddr>| self.in_chunks(hosts, |to, hosts| self.set_hosts(to, hosts));
        match change {
            Change::Replace { at, rtype, records } => {
                let name = &self.settings.shown[*at].name;
                let known = self.seen.as_ref().map(|seen| seen.hosts.clone()).unwrap_or_default();
                let missing = &records.hosts(zone) - &known;
                let hosts: Vec<IpAddr> = missing.iter().copied().collect();
                let whole = self.update(|to| {
                    self.set_hosts(to, &hosts)?;
                    self.replace(to, name, *rtype, records)
                });
                whole.map(|whole| vec![whole]).or_else(|_| {
                    let mut messages: Vec<Draft> = hosts_alone(&missing)?;
                    messages.push(self.update(|to| self.replace(to, name, *rtype, records))?);
                    Ok(messages)
                })
            }
            Change::Hosts(hosts) => hosts_alone(hosts),
            Change::Forget(hosts) => self.in_chunks(hosts, |to, hosts| {
                hosts.iter().try_for_each(|ip| delete(to, &names::host(*ip, zone), address_type(*ip)))
            }),
        }
    }

    /// Updates for some hosts each.
    fn in_chunks(
        &self,
        hosts: &BTreeSet<IpAddr>,
        fill: impl Fn(&mut Changes, &[IpAddr]) -> Result<(), PushError>,
    ) -> Result<Vec<Draft>, PushError> {
        let hosts: Vec<IpAddr> = hosts.iter().copied().collect();
        hosts.chunks(HOSTS_PER_UPDATE).map(|hosts| self.update(|to| fill(to, hosts))).collect()
    }

    fn update(&self, fill: impl FnOnce(&mut Changes) -> Result<(), PushError>) -> Result<Draft, PushError> {
        let signature = self.peer.key.as_ref().map_or(0, |key| usize::from(key.compose_len()));
        let draft = exchange::update(&self.settings.zone, fill)?;
        match draft.as_slice().len() + signature <= exchange::LARGEST {
            true => Ok(draft),
            false => Err(PushError::ShortBuf),
        }
    }

    /// The one record of each host.
    fn set_hosts(&self, to: &mut Changes, hosts: &[IpAddr]) -> Result<(), PushError> {
        hosts.iter().try_for_each(|ip| {
            let (name, rtype) = (names::host(*ip, &self.settings.zone), address_type(*ip));
            delete(to, &name, rtype)?;
            self.add(to, &name, &Data::Address(*ip))
        })
    }

    fn replace(&self, to: &mut Changes, name: &ZoneName, rtype: Rtype, records: &Records) -> Result<(), PushError> {
        delete(to, name, rtype)?;
        records.data.iter().try_for_each(|data| self.add(to, name, data))
    }

    fn add(&self, to: &mut Changes, name: &ZoneName, data: &Data) -> Result<(), PushError> {
        match data {
            Data::Service(priority, weight, port, host) => {
                let host = names::absolute(host).expect("`gwm` has made the name");
                to.push((name, Class::IN, self.ttl, Srv::new(*priority, *weight, *port, host)))
            }
            Data::Address(IpAddr::V4(ip)) => to.push((name, Class::IN, self.ttl, A::new(*ip))),
            Data::Address(IpAddr::V6(ip)) => to.push((name, Class::IN, self.ttl, Aaaa::new(*ip))),
        }
    }

    /// Notes which hosts a change left without a name, or gave one.
    fn note(&mut self, change: &Change) {
        let zone = &self.settings.zone;
        match change {
            Change::Replace { at, rtype, records } => {
                let until = Instant::now() + linger(self.settings.ttl);
                let hosts = records.hosts(zone);
                let sets = self.seen.iter().flat_map(|seen| &seen.sets[*at]);
                let before: BTreeSet<IpAddr> =
                    sets.filter(|(other, _)| other == rtype).flat_map(|(_, records)| records.hosts(zone)).collect();
                self.leaving.retain(|ip, _| !hosts.contains(ip));
                self.leaving.extend((&before - &hosts).into_iter().map(|ip| (ip, until)));
            }
            Change::Hosts(_) => {}
            Change::Forget(hosts) => self.leaving.retain(|ip, _| !hosts.contains(ip)),
        }
    }
}

impl Connector for Updates {
    type Step = Step;

    const NOTHING_TO_OBSERVE: Option<&'static str> =
        Some("a DNS server that takes updates does not tell who asks for the records, or who uses the members");

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        // A server that does not answer may come back with other records and the same serial.
        let before = self.seen.take();
        let mut exchange = self.peer.connect()?;
        let zone = &self.settings.zone;
        let answers = exchange.ask(&[(zone.clone(), Rtype::SOA)])?;
        let serial = records::serial(&answers[0], zone);
        let serial = serial.map_err(|error| self.peer.answer_fault(format_args!("{zone} SOA: {error}")))?;
        // Every change of a zone changes its serial number.
        let same = before.filter(|seen| seen.serial == Some(serial) && seen.at.elapsed() < READ_ALL);
        self.seen = Some(match same {
            Some(seen) => seen,
            None => self.read(&mut exchange, serial)?,
        });
        Ok(self.settings.pools.clone())
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, shown) in self.settings.shown.iter().enumerate() {
            if let Some(group) = wanted.iter().find(|group| group.pool == shown.pool) {
                steps.extend(self.steps(at, &Content::of(shown, group, self.settings.when_none)));
            }
        }
        let forgotten = self.forget(&steps);
        steps.extend(forgotten);
        steps
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let chosen = self.settings.shown.iter().enumerate().filter(|(_, shown)| pools.contains(&shown.pool));
        // Members that registered themselves are not known without a GWM: their records stay.
        let steps = chosen.filter_map(|(at, shown)| Some((at, Content::usual(shown, &self.settings.pools)?)));
        steps.flat_map(|(at, content)| self.steps(at, &content)).collect()
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        let (mut done, mut changed) = (Vec::new(), false);
        let mut exchange = self.peer.connect()?;
        let outcome = steps.into_iter().try_for_each(|step| {
            let Ok(messages) = self.messages(&step.change) else {
                applied.refused.push(format!("{}: {TOO_LARGE}", step.text));
                return Ok(());
            };
            for message in messages {
                match exchange.update(message) {
                    Ok(Rcode::NOERROR) => changed = true,
                    Ok(code) => {
                        applied.refused.push(format!("{}: {}", step.text, words(code, &self.peer.server)));
                        return Ok(());
                    }
                    Err(fault) => {
                        // The server may have taken the update. What has left a name then must go some day; what was
                        // to go is told to go again.
                        changed = true;
                        done.extend(Some(step.change).filter(|change| !matches!(change, Change::Forget(_))));
                        return Err(fault);
                    }
                }
            }
            applied.done += 1;
            done.push(step.change);
            Ok(())
        });
        done.iter().for_each(|change| self.note(change));
        if let Some(seen) = self.seen.as_mut().filter(|_| changed) {
            seen.serial = None; // the next look reads all
        }
        outcome
    }
}

fn words(code: Rcode, server: &str) -> String {
    let why = match code {
        Rcode::NOTAUTH => " (it is not the zone's primary server, or it does not know the key)",
        Rcode::REFUSED => " (its rules do not let this key, or this address, change these names)",
        Rcode::NOTZONE => " (the name is not in the zone)",
        Rcode::NOTIMP => " (it takes no updates)",
        _ => "",
    };
    format!("the DNS server {server} says {code}{why}")
}

fn hosts_of(sets: &[Vec<(Rtype, Records)>], zone: &ZoneName) -> BTreeSet<IpAddr> {
    sets.iter().flatten().flat_map(|(_, records)| records.hosts(zone)).collect()
}

fn address_type(ip: IpAddr) -> Rtype {
    match ip {
        IpAddr::V4(_) => Rtype::A,
        IpAddr::V6(_) => Rtype::AAAA,
    }
}

/// Deletes all records of a name and type.
fn delete(to: &mut Changes, name: &ZoneName, rtype: Rtype) -> Result<(), PushError> {
    let nothing = UnknownRecordData::from_octets(rtype, &[][..]).expect("no byte is few enough");
    to.push(Record::new(name, Class::ANY, Ttl::ZERO, nothing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{
            Standing, WantedMember,
            dns::{Kind, Rule, WhenNone},
        },
        sasp::Endpoint,
    };

    fn updates() -> Updates {
        let zone = names::zone("lb.example").unwrap();
        let pools = vec![Pool { name: (*b"web").into(), members: Vec::new() }];
        let rule = Rule::parse("_web._tcp=web").unwrap();
        let shown = names::shown(&[(Kind::Service, rule)], &pools, &zone).unwrap();
        let settings = Settings { zone, ttl: Duration::from_secs(5), pools, shown, when_none: WhenNone::Empty };
        let mut updates = Updates::new(settings, "127.0.0.1:53".into(), None);
        let sets = vec![vec![(Rtype::SRV, Records::default())]];
        updates.seen = Some(Seen { serial: Some(1), at: Instant::now(), sets, hosts: BTreeSet::new() });
        updates
    }

    fn host(host: u16) -> IpAddr {
        let [high, low] = host.to_be_bytes();
        [10, 0, high, low].into()
    }

    fn wanted(hosts: &[u16]) -> [Wanted; 1] {
        let member = |at: &u16| WantedMember {
            endpoint: Endpoint::new(host(*at), 6, 80),
            label: Box::default(),
            standing: Standing::Serving(1),
        };
        let members = hosts.iter().map(member).collect();
        [Wanted { pool: (*b"web").into(), members, session_age: Duration::ZERO }]
    }

    #[test]
    fn a_host_that_is_planned_again_is_not_forgotten() {
        let mut updates = updates();
        updates.leaving = [1, 2].map(|at| (host(at), Instant::now())).into();
        let steps = updates.plan(&wanted(&[1]));
        assert!(
            matches!(&steps[..], [Step { change: Change::Replace { .. }, .. }, Step { change: Change::Forget(gone), .. }]
            if *gone == BTreeSet::from([host(2)]))
        );
    }

    #[test]
    fn many_hosts_are_forgotten_in_several_updates() {
        let gone = |count| Change::Forget((0..count).map(host).collect());
        assert_eq!(updates().messages(&gone(500)).unwrap().len(), 1);
        assert_eq!(updates().messages(&gone(5000)).unwrap().len(), 10);
    }

    #[test]
    fn a_server_that_is_gone_leaves_what_was_seen() {
        let mut updates = updates();
        let steps = updates.plan(&wanted(&[1]));
        updates.peer.server = "127.0.0.1:1".into();
        assert!(updates.apply(steps, &mut Applied::default()).is_err());
        assert_eq!(updates.seen.unwrap().serial, Some(1), "nothing was sent: nothing is read again");
    }
}

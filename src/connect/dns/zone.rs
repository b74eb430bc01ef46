//! The zone with all its answers, ready to send. A change makes a new one; the threads that serve share the newest.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use domain::{
    base::{
        MessageBuilder, Rtype, Serial, Ttl,
        iana::Class,
        message_builder::{AdditionalBuilder, AnswerBuilder, PushError, TreeCompressor},
    },
    rdata::{A, Aaaa, Ns, Soa, Srv},
};

use super::{
    Settings,
    content::{Content, Target},
    names::{self, Kind, Shown, ZoneName},
    tally::{ByType, Tally},
};

/// What the zone says of itself.
#[derive(Clone, Debug)]
pub struct Apex {
    /// The zone's name.
    pub zone: ZoneName,
    /// Its name servers; addresses for those within the zone.
    pub name_servers: Vec<(ZoneName, Vec<IpAddr>)>,
    /// The mailbox of the person in charge, as a name.
    pub mailbox: ZoneName,
    /// How long resolvers may keep answers, those of absence too.
    pub ttl: Duration,
}

impl Apex {
    /// Checks that no name server has the name of a group, and that each within the zone has an address.
    pub fn new(
        settings: &Settings,
        name_servers: Vec<(ZoneName, Vec<IpAddr>)>,
        mailbox: ZoneName,
    ) -> Result<Apex, String> {
        for (name, ips) in &name_servers {
            let within = name.ends_with(&settings.zone);
            if settings.shown.iter().any(|shown| shown.name == *name && shown.kind == Kind::Address) {
                return Err(format!("the name server {name} has the name of a group's addresses"));
            }
            match ips.is_empty() {
                true if within => {
                    return Err(format!("the name server {name} is in the zone: give its addresses with --ns"));
                }
                false if !within => {
                    return Err(format!("the name server {name} is not in the zone: leave out its addresses"));
                }
                _ => {}
            }
        }
        Ok(Apex { zone: settings.zone.clone(), name_servers, mailbox, ttl: settings.ttl })
    }
}

/// The largest answer: TCP has 16 bits for its length, and OPT takes 11 bytes.
const LARGEST: usize = 65535 - OPT_BYTES;

/// The bytes of an OPT record without options.
pub(super) const OPT_BYTES: usize = 11;

/// All answers.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) zone: ZoneName,
    pub(super) soa: Soa<ZoneName>,
    pub(super) ttl: Ttl,
    /// By name on the wire, in lower case.
    nodes: HashMap<Box<[u8]>, Node>,
    pub(super) tally: Arc<Tally>,
}

/// A name that exists.
#[derive(Debug, Default)]
pub(super) struct Node {
    sets: Vec<(Rtype, Set)>,
    /// Counts queries for a name that shows a group.
    pub(super) tally: Option<Arc<ByType>>,
}

/// The records of one type.
#[derive(Debug)]
pub(super) enum Set {
    /// SERVFAIL.
    Failure,
    /// Records.
    Records(Prepared),
}

/// A whole answer to a query without EDNS; the header has the counts only.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) bytes: Vec<u8>,
    pub(super) question_end: usize,
    /// The end of the answer section; what comes after may be left out.
    pub(super) answer_end: usize,
    /// The length of each record, if all are equal and their order means nothing: each answer begins with another one.
    pub(super) turning: Option<usize>,
}

impl Node {
    pub(super) fn set(&self, rtype: Rtype) -> Option<&Set> {
        self.sets.iter().find(|(other, _)| *other == rtype).map(|(_, set)| set)
    }

    pub(super) fn first(&self) -> Option<&Set> {
        self.sets.first().map(|(_, set)| set)
    }
}

impl Snapshot {
    /// The zone with these contents, each for the name of the same place. Also says what can not be shown, and why.
    pub(super) fn new(
        apex: &Apex,
        shown: &[Shown],
        contents: &[Content],
        hosts: &BTreeSet<IpAddr>,
        serial: u32,
    ) -> (Snapshot, Vec<String>) {
        let ttl = Ttl::from_secs(u32::try_from(apex.ttl.as_secs()).unwrap_or(u32::MAX));
        let hour = Ttl::from_secs(3600);
        let first = apex.name_servers.first().expect("Apex has a name server").0.clone();
        // Nobody can fetch the whole zone, so the times for secondary servers mean nothing.
        let soa = Soa::new(first, apex.mailbox.clone(), Serial(serial), hour, hour, hour, ttl);
        let mut builder = Builder {
            snapshot: Snapshot { zone: apex.zone.clone(), soa, ttl, nodes: HashMap::new(), tally: Arc::default() },
            too_large: Vec::new(),
        };
        builder.add_apex(apex);
        for ip in hosts {
            builder.add_addresses(&names::host(*ip, &apex.zone), &[*ip]);
        }
        for (shown, content) in shown.iter().zip(contents) {
            match (content, shown.kind) {
                (Content::Failure, Kind::Service) => builder.add(&shown.name, Rtype::SRV, Set::Failure),
                (Content::Failure, Kind::Address) => {
                    builder.add(&shown.name, Rtype::A, Set::Failure);
                    builder.add(&shown.name, Rtype::AAAA, Set::Failure);
                }
                (Content::Targets(targets), Kind::Service) => builder.add_service(&shown.name, targets),
                (Content::Targets(targets), Kind::Address) => {
                    let ips: Vec<IpAddr> = targets.iter().map(|target| target.ip).collect();
                    builder.add_addresses(&shown.name, &ips);
                }
            }
        }
        (builder.snapshot, builder.too_large)
    }

    /// Counts queries here.
    pub(super) fn counted_by(mut self, tally: &Arc<Tally>) -> Snapshot {
        for (name, counters) in tally.shown() {
            if let Some(node) = self.nodes.get_mut(name.as_slice()) {
                node.tally = Some(Arc::clone(counters));
            }
        }
        Snapshot { tally: Arc::clone(tally), ..self }
    }

    /// The name on the wire, in lower case: whether it is in the zone, and what it has.
    pub(super) fn find(&self, name: &[u8]) -> Option<Option<&Node>> {
        is_within(name, self.zone.as_slice()).then(|| self.nodes.get(name))
    }
}

/// Whether a name on the wire is the other one or below it.
fn is_within(mut name: &[u8], zone: &[u8]) -> bool {
    while name.len() > zone.len() {
        let Some(rest) = name.first().and_then(|length| name.get(1 + usize::from(*length)..)) else { return false };
        name = rest;
    }
    name == zone
}

type Answers = AnswerBuilder<TreeCompressor<Vec<u8>>>;
type Additionals = AdditionalBuilder<TreeCompressor<Vec<u8>>>;

struct Builder {
    snapshot: Snapshot,
    too_large: Vec<String>,
}

impl Builder {
    fn add_apex(&mut self, apex: &Apex) {
        let (ttl, soa) = (self.snapshot.ttl, self.snapshot.soa.clone());
        let zone = &apex.zone;
        self.add_set(zone, Rtype::SOA, |answers| answers.push((zone, Class::IN, ttl, &soa)), |_| Ok(()));
        let glue = |additionals: &mut Additionals| {
            for (name, ips) in &apex.name_servers {
                ips.iter().try_for_each(|ip| push_address(additionals, name, ttl, *ip))?;
            }
            Ok(())
        };
        let servers = |answers: &mut Answers| {
            apex.name_servers.iter().try_for_each(|(name, _)| answers.push((zone, Class::IN, ttl, Ns::new(name))))
        };
        self.add_set(zone, Rtype::NS, servers, glue);
        for (name, ips) in &apex.name_servers {
            if name.ends_with(zone) {
                self.add_addresses(name, ips);
            }
        }
    }

    fn add_service(&mut self, name: &ZoneName, targets: &[Target]) {
        let (ttl, zone) = (self.snapshot.ttl, self.snapshot.zone.clone());
        let services = |answers: &mut Answers| {
            targets.iter().try_for_each(|target| {
                let srv = Srv::new(0, target.weight, target.port, names::host(target.ip, &zone));
                answers.push((name, Class::IN, ttl, srv))
            })
        };
        let ips: BTreeSet<IpAddr> = targets.iter().map(|target| target.ip).collect();
        let addresses = |additionals: &mut Additionals| {
            ips.iter().try_for_each(|ip| push_address(additionals, &names::host(*ip, &zone), ttl, *ip))
        };
        match targets {
            [] => {
                self.add_name(name);
            }
            _ => self.add_set(name, Rtype::SRV, services, addresses),
        }
    }

    fn add_addresses(&mut self, name: &ZoneName, ips: &[IpAddr]) {
        let ttl = self.snapshot.ttl;
        let v4: Vec<A> =
            ips.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(A::new(*ip)) } else { None }).collect();
        let v6: Vec<Aaaa> =
            ips.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(Aaaa::new(*ip)) } else { None }).collect();
        self.add_name(name);
        if !v4.is_empty() {
            let records = |answers: &mut Answers| v4.iter().try_for_each(|a| answers.push((name, Class::IN, ttl, a)));
            self.add_set(name, Rtype::A, records, |_| Ok(()));
        }
        if !v6.is_empty() {
            let records = |answers: &mut Answers| v6.iter().try_for_each(|a| answers.push((name, Class::IN, ttl, a)));
            self.add_set(name, Rtype::AAAA, records, |_| Ok(()));
        }
    }

    fn add_set(
        &mut self,
        name: &ZoneName,
        rtype: Rtype,
        records: impl Fn(&mut Answers) -> Result<(), PushError>,
        additional: impl Fn(&mut Additionals) -> Result<(), PushError>,
    ) {
        let prepared =
            prepare(name, rtype, &records, &additional).or_else(|_| prepare(name, rtype, &records, &|_| Ok(())));
        match prepared {
            Ok(prepared) => self.add(name, rtype, Set::Records(prepared)),
            Err(_) => {
                self.too_large.push(format!("{name} {rtype}: the records do not fit in one answer of {LARGEST} bytes"));
                self.add(name, rtype, Set::Failure);
            }
        }
    }

    fn add(&mut self, name: &ZoneName, rtype: Rtype, set: Set) {
        self.add_name(name).sets.push((rtype, set));
    }

    /// The name exists, and so do all names between it and the zone's.
    fn add_name(&mut self, name: &ZoneName) -> &mut Node {
        for above in name.iter_suffixes().skip(1) {
            if above.label_count() < self.snapshot.zone.label_count() {
                break;
            }
            self.snapshot.nodes.entry(above.as_slice().into()).or_default();
        }
        self.snapshot.nodes.entry(name.as_slice().into()).or_default()
    }
}

fn push_address(to: &mut Additionals, name: &ZoneName, ttl: Ttl, ip: IpAddr) -> Result<(), PushError> {
    match ip {
        IpAddr::V4(ip) => to.push((name, Class::IN, ttl, A::new(ip))),
        IpAddr::V6(ip) => to.push((name, Class::IN, ttl, Aaaa::new(ip))),
    }
}

fn prepare(
    name: &ZoneName,
    rtype: Rtype,
    records: &impl Fn(&mut Answers) -> Result<(), PushError>,
    additional: &impl Fn(&mut Additionals) -> Result<(), PushError>,
) -> Result<Prepared, PushError> {
    let target = TreeCompressor::new(Vec::new());
    let mut builder = MessageBuilder::from_target(target).expect("memory for a header");
    builder.set_push_limit(LARGEST);
    let mut questions = builder.question();
    questions.push((name, rtype))?;
    let question_end = questions.as_slice().len();
    let mut answers = questions.answer();
    records(&mut answers)?;
    let answer_end = answers.as_slice().len();
    let count = usize::from(answers.counts().ancount());
    let mut additionals = answers.additional();
    additional(&mut additionals)?;
    let bytes = additionals.finish().into_target();
    let turning = matches!(rtype, Rtype::A | Rtype::AAAA).then(|| (answer_end - question_end) / count.max(1));
    Ok(Prepared { bytes, question_end, answer_end, turning })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_within_a_zone_at_labels_only() {
        let zone = names::zone("lb.example").unwrap();
        let within = |name: &str| is_within(names::absolute(name).unwrap().as_slice(), zone.as_slice());
        assert!(within("lb.example") && within("a.b.lb.example"));
        assert!(!within("example") && !within("xlb.example") && !within("other.example") && !within("lb.example.org"));
        // One label whose bytes look like the zone's name.
        assert!(!is_within(b"\x0b\x02lb\x07example\x00", zone.as_slice()));
        assert!(!is_within(b"\xff", b"\x00") && !is_within(b"", zone.as_slice()));
    }
}

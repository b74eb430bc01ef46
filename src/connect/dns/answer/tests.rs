//! Queries as bytes, and what each is answered.

use std::net::IpAddr;

use domain::{
    base::{Ttl, iana::OptRcode},
    rdata::{A, Soa, Srv},
};

use super::*;
use crate::connect::dns::{
    content::{Content, Target},
    names::{self, Kind, Shown},
    zone::{Apex, Snapshot},
};

fn ip(host: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0A00_0000 + host).into()
}

/// `_web._tcp` with this many members; `_gone._tcp` fails; `_none._tcp` is empty; `www` has three addresses.
fn zone(members: u32) -> Snapshot {
    let zone = names::zone("lb.example").unwrap();
    let name = |name: &str, kind| Shown {
        name: names::absolute(&format!("{name}.lb.example")).unwrap(),
        kind,
        pool: Box::default(),
        protocol: None,
    };
    let shown = [
        name("_web._tcp", Kind::Service),
        name("_gone._tcp", Kind::Service),
        name("_none._tcp", Kind::Service),
        name("www", Kind::Address),
    ];
    let target = |host| Target { ip: ip(host), port: 80, weight: 7 };
    let contents = [
        Content::Targets((1..=members).map(target).collect()),
        Content::Failure,
        Content::Targets(vec![]),
        Content::Targets((1..=3).map(target).collect()),
    ];
    let apex = Apex {
        name_servers: vec![(names::absolute("ns.lb.example").unwrap(), vec![ip(53), "::1".parse().unwrap()])],
        mailbox: names::absolute("hostmaster.lb.example").unwrap(),
        zone,
        ttl: std::time::Duration::from_secs(5),
    };
    let hosts = (1..=members).map(ip).collect();
    let (snapshot, refused) = Snapshot::new(&apex, &shown, &contents, &hosts, 42);
    assert_eq!(refused, [""; 0]);
    snapshot
}

#[derive(Clone, Copy)]
struct Query<'a> {
    name: &'a str,
    rtype: Rtype,
    /// The payload of EDNS.
    edns: Option<u16>,
    transport: Transport,
    turn: usize,
}

const UDP: Transport = Transport::Udp { max: 1232 };

impl Query<'_> {
    fn new(name: &str, rtype: Rtype) -> Query<'_> {
        Query { name, rtype, edns: None, transport: UDP, turn: 0 }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(0x1234);
        builder.header_mut().set_rd(true);
        let mut builder = builder.question();
        let name: domain::base::Name<Vec<u8>> = self.name.parse().unwrap();
        builder.push((name, self.rtype)).unwrap();
        let mut builder = builder.additional();
        if let Some(payload) = self.edns {
            builder
                .opt(|opt| {
                    opt.set_udp_payload_size(payload);
                    opt.set_dnssec_ok(true);
                    Ok(())
                })
                .unwrap();
        }
        builder.finish()
    }

    fn ask(&self, zone: &Snapshot) -> Message<Vec<u8>> {
        ask(zone, &self.bytes(), self.transport, self.turn).expect("there is an answer")
    }
}

fn ask(zone: &Snapshot, query: &[u8], transport: Transport, turn: usize) -> Option<Message<Vec<u8>>> {
    let mut out = Vec::new();
    answer(zone, query, transport, turn, &mut out).then(|| Message::from_octets(out).unwrap())
}

fn counts(message: &Message<Vec<u8>>) -> (u16, u16, u16) {
    let counts = message.header_counts();
    (counts.ancount(), counts.nscount(), counts.arcount())
}

fn outcome(zone: &Snapshot, name: &str, rtype: Rtype) -> (Rcode, bool, (u16, u16, u16)) {
    let message = Query::new(name, rtype).ask(zone);
    (message.header().rcode(), message.header().aa(), counts(&message))
}

#[test]
fn services_with_the_addresses_of_their_hosts() {
    let zone = zone(2);
    let query = Query::new("_WEB._tcp.Lb.eXample", Rtype::SRV);
    let message = query.ask(&zone);
    let header = message.header();
    assert_eq!((header.id(), header.qr(), header.aa(), header.rd(), header.ra()), (0x1234, true, true, true, false));
    assert_eq!(message.as_slice()[12..38], query.bytes()[12..38], "the letters' case of the question stays");
    assert_eq!(counts(&message), (2, 0, 2));
    let srv: Vec<_> = message.answer().unwrap().limit_to_in::<Srv<_>>().map(|record| record.unwrap()).collect();
    let shown: Vec<_> =
        srv.iter().map(|record| format!("{} {} {}", record.owner(), record.ttl().as_secs(), record.data())).collect();
    let lowered: Vec<_> = shown.iter().map(|text| text.to_lowercase()).collect();
    assert_eq!(
        lowered,
        [
            "_web._tcp.lb.example 5 0 7 80 ip-10-0-0-1.lb.example",
            "_web._tcp.lb.example 5 0 7 80 ip-10-0-0-2.lb.example",
        ]
    );
    let a: Vec<_> = message.additional().unwrap().limit_to_in::<A>().map(|record| record.unwrap()).collect();
    assert_eq!(a[1].owner().to_string().to_lowercase(), "ip-10-0-0-2.lb.example");
    assert_eq!(a[1].data().to_string(), "10.0.0.2");
}

#[test]
fn what_does_not_exist_is_told_apart() {
    let zone = zone(1);
    let nothing = (0, 1, 0);
    assert_eq!(outcome(&zone, "x.lb.example", Rtype::A), (Rcode::NXDOMAIN, true, nothing));
    assert_eq!(outcome(&zone, "x._web._tcp.lb.example", Rtype::SRV), (Rcode::NXDOMAIN, true, nothing));
    assert_eq!(outcome(&zone, "_tcp.lb.example", Rtype::SRV), (Rcode::NOERROR, true, nothing), "between two names");
    assert_eq!(outcome(&zone, "_web._tcp.lb.example", Rtype::A), (Rcode::NOERROR, true, nothing));
    assert_eq!(outcome(&zone, "_none._tcp.lb.example", Rtype::SRV), (Rcode::NOERROR, true, nothing));
    assert_eq!(outcome(&zone, "ip-10-0-0-1.lb.example", Rtype::A), (Rcode::NOERROR, true, (1, 0, 0)));
    assert_eq!(outcome(&zone, "ip-10-0-0-2.lb.example", Rtype::A), (Rcode::NXDOMAIN, true, nothing));
    assert_eq!(outcome(&zone, "_gone._tcp.lb.example", Rtype::SRV), (Rcode::SERVFAIL, false, (0, 0, 0)));
    assert_eq!(outcome(&zone, "_gone._tcp.lb.example", Rtype::TXT), (Rcode::NOERROR, true, nothing));
    assert_eq!(outcome(&zone, "example", Rtype::SOA), (Rcode::REFUSED, false, (0, 0, 0)));
    assert_eq!(outcome(&zone, ".", Rtype::NS), (Rcode::REFUSED, false, (0, 0, 0)));
    assert_eq!(outcome(&zone, "lb.example", Rtype::AXFR), (Rcode::REFUSED, false, (0, 0, 0)));
    let message = Query::new("x.lb.example", Rtype::A).ask(&zone);
    let soa = message.authority().unwrap().limit_to_in::<Soa<_>>().next().unwrap().unwrap();
    assert_eq!(soa.owner().to_string(), "lb.example");
    assert_eq!((soa.ttl(), soa.data().minimum()), (Ttl::from_secs(5), Ttl::from_secs(5)));
    assert_eq!((soa.data().serial().into_int(), soa.data().mname().to_string()), (42, "ns.lb.example".into()));
}

#[test]
fn the_apex_and_any() {
    let zone = zone(1);
    assert_eq!(outcome(&zone, "lb.example", Rtype::SOA), (Rcode::NOERROR, true, (1, 0, 0)));
    assert_eq!(outcome(&zone, "lb.example", Rtype::NS), (Rcode::NOERROR, true, (1, 0, 2)), "with both addresses");
    assert_eq!(outcome(&zone, "ns.lb.example", Rtype::AAAA), (Rcode::NOERROR, true, (1, 0, 0)));
    assert_eq!(outcome(&zone, "lb.example", Rtype::ANY), (Rcode::NOERROR, true, (1, 0, 0)), "one set");
    assert_eq!(outcome(&zone, "_none._tcp.lb.example", Rtype::ANY), (Rcode::NOERROR, true, (0, 1, 0)));
}

#[test]
fn addresses_take_turns() {
    let zone = zone(1);
    let first = |turn| {
        let message = Query { turn, ..Query::new("www.lb.example", Rtype::A) }.ask(&zone);
        let all: Vec<_> = message.answer().unwrap().limit_to_in::<A>().map(|a| a.unwrap().data().to_string()).collect();
        assert_eq!(all.len(), 3);
        all[0].clone()
    };
    assert_eq!([0, 1, 2, 3].map(first), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]);
    let services = Query { turn: 1, ..Query::new("_web._tcp.lb.example", Rtype::SRV) }.ask(&zone);
    assert_eq!(counts(&services), (1, 0, 1));
}

#[test]
fn sizes_are_kept_and_the_rest_is_for_tcp() {
    let zone = zone(100);
    let query = Query::new("_web._tcp.lb.example", Rtype::SRV);
    let shape = |query: Query<'_>| {
        let message = query.ask(&zone);
        (message.header().tc(), counts(&message), message.as_slice().len())
    };
    assert_eq!(shape(Query { ..query }), (true, (0, 0, 0), 38));
    assert_eq!(shape(Query { edns: Some(4096), transport: UDP, ..query }), (true, (0, 0, 1), 38 + 11));
    let large = Transport::Udp { max: 8192 };
    let (truncated, counts, bytes) = shape(Query { edns: Some(8192), transport: large, ..query });
    assert!(!truncated && bytes <= 8192, "{bytes}");
    assert_eq!(counts, (100, 0, 101));
    let (truncated, counts, fewer) = shape(Query { edns: Some(4800), transport: large, ..query });
    assert_eq!((truncated, counts), (false, (100, 0, 1)), "no addresses rather than no answer");
    assert!(fewer <= 4800 && fewer < bytes);
    let (truncated, counts, _) = shape(Query { transport: Transport::Tcp, ..query });
    assert_eq!((truncated, counts), (false, (100, 0, 100)));
    let limited = Query { transport: Transport::Truncated { max: 1232 }, ..Query::new("www.lb.example", Rtype::A) };
    assert_eq!(shape(limited), (true, (0, 0, 0), 32));
    // A payload below 512 bytes means 512.
    let message = Query { edns: Some(0), ..Query::new("www.lb.example", Rtype::A) }.ask(&zone);
    assert!(!message.header().tc());
    let opt = message.opt().unwrap();
    assert_eq!((opt.udp_payload_size(), opt.dnssec_ok(), opt.version()), (1232, true, 0));
}

#[test]
fn a_group_that_fits_no_answer_fails_and_is_told() {
    let hosts: Vec<_> = (1..=3000).map(|host| Target { ip: ip(host), port: 80, weight: 7 }).collect();
    let shown = Shown {
        name: names::absolute("_web._tcp.lb.example").unwrap(),
        kind: Kind::Service,
        pool: Box::default(),
        protocol: None,
    };
    let apex = Apex {
        name_servers: vec![(names::absolute("ns.example").unwrap(), vec![])],
        mailbox: names::absolute("hostmaster.example").unwrap(),
        zone: names::zone("lb.example").unwrap(),
        ttl: std::time::Duration::ZERO,
    };
    let build = |count: usize| {
        let contents = [Content::Targets(hosts[..count].to_vec())];
        Snapshot::new(&apex, std::slice::from_ref(&shown), &contents, &Default::default(), 1)
    };
    let (zone, refused) = build(3000);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with("_web._tcp.lb.example SRV: the records do not fit"), "{refused:?}");
    assert_eq!(outcome(&zone, "_web._tcp.lb.example", Rtype::SRV).0, Rcode::SERVFAIL);
    let (zone, refused) = build(1400);
    assert_eq!(refused, [""; 0]);
    let message = Query { transport: Transport::Tcp, ..Query::new("_web._tcp.lb.example", Rtype::SRV) }.ask(&zone);
    assert_eq!(counts(&message), (1400, 0, 0), "their addresses do not fit");
}

#[test]
fn what_is_no_good_query() {
    let zone = zone(1);
    let good = Query::new("www.lb.example", Rtype::A).bytes();
    let code = |query: &[u8]| ask(&zone, query, UDP, 0).map(|message| (message.header().rcode(), counts(&message)));
    assert_eq!(code(&good[..11]), None);
    let with = |at: usize, byte: u8| {
        let mut query = good.clone();
        query[at] = byte;
        query
    };
    assert_eq!(code(&with(2, 0x80)), None, "an answer");
    assert_eq!(code(&with(2, 0x28)), Some((Rcode::NOTIMP, (0, 0, 0))), "an update");
    assert_eq!(code(&with(5, 0)), Some((Rcode::FORMERR, (0, 0, 0))), "no question");
    assert_eq!(code(&with(5, 2)), Some((Rcode::FORMERR, (0, 0, 0))), "one question more than there is");
    assert_eq!(code(&with(11, 1)), Some((Rcode::FORMERR, (0, 0, 0))), "a record that is not there");
    assert_eq!(code(&with(good.len() - 1, 3)), Some((Rcode::REFUSED, (0, 0, 0))), "class CH");
    assert_eq!(code(&with(good.len() - 1, 255)), Some((Rcode::NOERROR, (3, 0, 0))), "any class");
    assert_eq!(code(&with(12, 0xC0)), Some((Rcode::FORMERR, (0, 0, 0))), "a pointer");
    for end in 12..good.len() {
        assert_eq!(code(&good[..end]), Some((Rcode::FORMERR, (0, 0, 0))), "{end} bytes");
    }
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let extended = |records: &[[u8; 11]]| {
        let mut query = with(11, records.len() as u8);
        query.extend(records.concat());
        query
    };
    assert_eq!(code(&extended(&[opt])), Some((Rcode::NOERROR, (3, 0, 1))));
    assert_eq!(code(&extended(&[opt, opt])), Some((Rcode::FORMERR, (0, 0, 0))), "two OPT records");
    let mut newer = opt;
    newer[6] = 1;
    let message = ask(&zone, &extended(&[newer]), UDP, 0).unwrap();
    assert_eq!(message.opt_rcode(), OptRcode::BADVERS);
    assert_eq!(counts(&message), (0, 0, 1));
}

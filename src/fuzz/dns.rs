//! Queries of DNS clients, answers of DNS servers, and key files.

use std::{sync::OnceLock, time::Duration};

use domain::base::{Message, Rtype, iana::Rcode};

use crate::{
    connect::{
        Applied, Connector, MemberSpec, Pool, Standing, Wanted, WantedMember,
        dns::{self, Apex, Authority, Kind, Rule, Settings, Transport, WhenNone},
    },
    sasp::Endpoint,
};

/// A zone with a group of 60 members.
fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let zone = dns::zone("lb.example").expect("a name");
        let endpoint = |host: u8| Endpoint::new([10, 0, 0, host].into(), 6, 80);
        let members = (1..=60).map(|host| MemberSpec { endpoint: endpoint(host), label: Box::default() });
        let pools = vec![Pool { name: (*b"web").into(), members: members.collect() }];
        let rules = [(Kind::Service, "_web._tcp=web"), (Kind::Address, "www=web")];
        let rules = rules.map(|(kind, text)| (kind, Rule::parse(text).expect("a rule")));
        let shown = dns::shown(&rules, &pools, &zone).expect("rules for the group");
        let settings = Settings { zone, ttl: Duration::from_secs(5), pools, shown, when_none: WhenNone::Empty };
        let name = |text| dns::absolute(text).expect("a name");
        let apex = Apex::new(&settings, vec![(name("ns.example"), vec![])], name("hostmaster.example"));
        let mut authority = Authority::start(settings, apex.expect("an apex"), None).expect("no socket is needed");
        let member = |host| WantedMember { endpoint: endpoint(host), label: Box::default(), standing: Standing::Usual };
        let steps = authority.plan(&[Wanted {
            pool: (*b"web").into(),
            members: (1..=60).map(member).collect(),
            session_age: Duration::ZERO,
        }]);
        authority.apply(steps, &mut Applied::default()).expect("a zone takes steps");
        authority
    })
}

/// A query has no answer, or one that keeps its size, has the query's id, and can be read. The first byte chooses the
/// transport.
pub fn dns_query(data: &[u8]) {
    let Some((&choice, query)) = data.split_first() else { return };
    let max = 512 + u16::from(choice) * 16;
    let (transport, most) = match choice % 3 {
        0 => (Transport::Udp { max }, usize::from(max)),
        1 => (Transport::Truncated { max }, usize::from(max)),
        _ => (Transport::Tcp, usize::from(u16::MAX)),
    };
    let Some(answer) = authority().answer(query, transport, usize::from(choice)) else {
        // Only a header that is cut, and an answer, get none.
        assert!(query.len() < 12 || query[2] & 0x80 != 0);
        return;
    };
    assert!(answer.len() <= most, "{} bytes of {most}", answer.len());
    let message = Message::from_octets(&answer[..]).expect("an answer has a header");
    let header = message.header();
    assert_eq!(header.id().to_be_bytes(), query[..2]);
    assert!(header.qr() && !header.ra());
    let records = message.iter().inspect(|record| assert!(record.is_ok(), "an answer can be read")).count();
    let counts = message.header_counts();
    let promised = usize::from(counts.ancount()) + usize::from(counts.nscount()) + usize::from(counts.arcount());
    assert_eq!(records, promised);
    match (header.rcode(), transport) {
        (Rcode::NOERROR, Transport::Truncated { .. }) => assert_eq!(counts.ancount(), 0),
        (Rcode::FORMERR | Rcode::NOTIMP, _) => assert_eq!(counts.qdcount(), 0),
        _ => {
            let question = message.sole_question().expect("the question is repeated");
            let asked = Message::from_octets(query).expect("it has a header");
            assert_eq!(Ok(question), asked.sole_question(), "another question");
        }
    }
}

/// Any answer of a server is read, or refused in one line.
pub fn dns_answer(data: &[u8]) {
    for rtype in [Rtype::SOA, Rtype::SRV, Rtype::A, Rtype::AAAA] {
        let name = dns::absolute("_web._tcp.lb.example").expect("a name");
        match dns::read_answer(data, &name, rtype) {
            Ok(count) => assert!(count * 10 <= data.len() || rtype == Rtype::SOA, "more records than fit"),
            Err(error) => assert!(!error.is_empty() && !error.contains('\n'), "{error:?}"),
        }
    }
}

/// Any key file is read, or refused in one line.
pub fn dns_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = dns::parse_key(text) {
        assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
    }
}

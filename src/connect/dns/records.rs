//! Records of another server: those that are wanted, and those that it has.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use domain::{
    base::{Message, Rtype, ToName, Ttl, iana::Rcode},
    rdata::{A, Aaaa, Soa, Srv},
};

use super::{
    content::Content,
    names::{self, Kind, ZoneName},
};

/// The data of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Data {
    /// Priority, weight, port, and the host's name in lower case.
    Service(u16, u16, u16, String),
    /// A or AAAA.
    Address(IpAddr),
}

/// All records of one name and type, with their common TTL; `None` if there is no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) ttl: Option<Ttl>,
    pub(super) data: BTreeSet<Data>,
}

/// What a server answers, if not records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not what a server says.
    Broken(&'static str),
    /// An error code.
    Code(Rcode),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Broken(what) => f.write_str(what),
            Refusal::Code(code) => write!(f, "the server says {code}"),
        }
    }
}

const BROKEN: Refusal = Refusal::Broken("the server's answer is broken");

impl Records {
    /// The records that show this content.
    pub(super) fn wanted(content: &Content, rtype: Rtype, ttl: Ttl, zone: &ZoneName) -> Records {
        let targets = match content {
            Content::Failure => &[],
            Content::Targets(targets) => &targets[..],
        };
        let data = targets.iter().filter_map(|target| match (rtype, target.ip) {
            (Rtype::SRV, ip) => Some(Data::Service(0, target.weight, target.port, names::host(ip, zone).to_string())),
            (Rtype::A, IpAddr::V4(_)) | (Rtype::AAAA, IpAddr::V6(_)) => Some(Data::Address(target.ip)),
            _ => None,
        });
        let data: BTreeSet<Data> = data.collect();
        Records { ttl: (!data.is_empty()).then_some(ttl), data }
    }

    /// The addresses of hosts that the records name, of the names that `gwm` makes.
    pub(super) fn hosts(&self, zone: &ZoneName) -> BTreeSet<IpAddr> {
        let host = |data: &Data| match data {
            Data::Service(_, _, _, host) => names::address(&names::absolute(host).ok()?, zone),
            Data::Address(_) => None,
        };
        self.data.iter().filter_map(host).collect()
    }

    /// The records of an answer about this name and type; NXDOMAIN means none.
    pub(super) fn read(answer: &[u8], name: &ZoneName, rtype: Rtype) -> Result<Records, Refusal> {
        let message = Message::from_octets(answer).map_err(|_| BROKEN)?;
        match message.header().rcode() {
            Rcode::NOERROR if !message.header().tc() => {}
            Rcode::NOERROR => return Err(Refusal::Broken("the server's answer is truncated, though by TCP")),
            Rcode::NXDOMAIN => return Ok(Records::default()),
            code => return Err(Refusal::Code(code)),
        }
        let mut records = Records::default();
        for record in message.answer().map_err(|_| BROKEN)? {
            let record = record.map_err(|_| BROKEN)?;
            if record.rtype() != rtype || !record.owner().name_eq(name) {
                continue; // a CNAME, a signature
            }
            let data = match rtype {
                Rtype::SRV => {
                    let record = record.to_record::<Srv<_>>().map_err(|_| BROKEN)?.ok_or(BROKEN)?;
                    let srv = record.data();
                    let host = srv.target().to_canonical_name::<Vec<u8>>().to_string();
                    Data::Service(srv.priority(), srv.weight(), srv.port(), host)
                }
                Rtype::A => {
                    let record = record.to_record::<A>().map_err(|_| BROKEN)?.ok_or(BROKEN)?;
                    Data::Address(record.data().addr().into())
                }
                _ => {
                    let record = record.to_record::<Aaaa>().map_err(|_| BROKEN)?.ok_or(BROKEN)?;
                    Data::Address(record.data().addr().into())
                }
            };
            records.ttl = Some(record.ttl());
            records.data.insert(data);
        }
        Ok(records)
    }
}

/// The zone's serial number, from an answer about its SOA record.
pub(super) fn serial(answer: &[u8], zone: &ZoneName) -> Result<u32, Refusal> {
    let message = Message::from_octets(answer).map_err(|_| BROKEN)?;
    match message.header().rcode() {
        Rcode::NOERROR => {}
        code => return Err(Refusal::Code(code)),
    }
    if !message.header().aa() {
        return Err(Refusal::Broken("the server has no authority for the zone"));
    }
    for record in message.answer().map_err(|_| BROKEN)?.limit_to_in::<Soa<_>>() {
        let record = record.map_err(|_| BROKEN)?;
        if record.owner().name_eq(zone) {
            return Ok(record.data().serial().into_int());
        }
    }
    Err(Refusal::Broken("the server does not have the zone"))
}

/// The types that a name of this kind has.
pub(super) fn types(kind: Kind) -> &'static [Rtype] {
    match kind {
        Kind::Service => &[Rtype::SRV],
        Kind::Address => &[Rtype::A, Rtype::AAAA],
    }
}

//! Messages of the kernel's generic netlink family `IPVS` (`linux/ip_vs.h`), and of the controller that names families.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, Nla, NlasIterator, Parseable,
};

/// A message: a command and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The family's id.
    pub(super) family: u16,
    /// The command.
    command: u8,
    /// The attributes, in order.
    attributes: Vec<DefaultNla>,
}

/// The bytes before the attributes: command, version, two bytes without a meaning.
const HEADER_BYTES: usize = 4;

impl Body {
    /// The socket adds the family's id.
    fn new(command: u8, attributes: Vec<DefaultNla>) -> Body {
        Body { family: 0, command, attributes }
    }
}

impl NetlinkSerializable for Body {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..HEADER_BYTES].copy_from_slice(&[self.command, 1, 0, 0]);
        self.attributes.as_slice().emit(&mut buffer[HEADER_BYTES..]);
    }
}

impl NetlinkDeserializable for Body {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Body, DecodeError> {
        let (head, rest) = payload
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| DecodeError::from("the message is shorter than its header"))?;
        Ok(Body { family: header.message_type, command: head[0], attributes: attributes(rest)? })
    }
}

/// The name of the family.
const FAMILY: &str = "IPVS";

/// The id of the controller.
pub(super) const CONTROLLER: u16 = 16;

/// Its command and attributes.
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Commands of IPVS.
const GET_SERVICE: u8 = 4;
const NEW_DESTINATION: u8 = 5;
const SET_DESTINATION: u8 = 6;
const DELETE_DESTINATION: u8 = 7;
const GET_DESTINATION: u8 = 8;

/// Attributes of a message.
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;

/// Attributes of a service.
const SERVICE_FAMILY: u16 = 1;
const SERVICE_PROTOCOL: u16 = 2;
const SERVICE_ADDRESS: u16 = 3;
const SERVICE_PORT: u16 = 4;
const SERVICE_MARK: u16 = 5;
const SERVICE_SCHEDULER: u16 = 6;

/// Attributes of a destination.
const ADDRESS: u16 = 1;
const PORT: u16 = 2;
const FORWARD: u16 = 3;
const WEIGHT: u16 = 4;
const UPPER_THRESHOLD: u16 = 5;
const LOWER_THRESHOLD: u16 = 6;
const ACTIVE: u16 = 7;
const INACTIVE: u16 = 8;
const PERSISTENT: u16 = 9;
const STATISTICS: u16 = 10;
const ADDRESS_FAMILY: u16 = 11;
const STATISTICS_64: u16 = 12;

/// Attributes of statistics.
const CONNECTIONS: u16 = 1;
const BYTES_IN: u16 = 4;
const BYTES_OUT: u16 = 5;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What IPVS balances: an address, protocol and port, or a firewall mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// An address and port.
    Address {
        /// IP protocol number.
        protocol: u8,
        /// The address.
        ip: IpAddr,
        /// The port.
        port: u16,
    },
    /// Packets with a mark.
    Mark {
        /// The mark.
        mark: u32,
        /// Whether they are IPv6.
        ipv6: bool,
    },
}

/// A destination of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; 0 for any, behind a mark.
    pub port: u16,
    /// 0 to 2³¹ - 1; 0 gets no new connections.
    pub weight: u32,
    /// How many connections it has; of TCP, those that are neither new nor about to end.
    pub active: u32,
    /// How many other connections IPVS knows of it.
    pub inactive: u32,
    /// What went to it since it was added.
    pub traffic: Traffic,
    /// All attributes that make it up: a change repeats them, with another weight.
    settings: Vec<DefaultNla>,
}

/// Connections and bytes of a destination, as far as the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections.
    pub connections: Option<u64>,
    /// Bytes to the destination.
    pub bytes_to: Option<u64>,
    /// Bytes from it; the kernel sees them with NAT only.
    pub bytes_from: Option<u64>,
}

/// The upper threshold of connections of a destination that a connector has added: IPVS has no names, so this tells it from
/// others. No destination ever has as many, so it has no other effect.
const OWN_THRESHOLD: u32 = 2_000_000_000;

/// How packets get to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// NAT.
    Masquerade = 0,
    /// IP in IP.
    Tunnel = 2,
    /// On the same link.
    Route = 3,
}

impl Destination {
    /// One that a connector adds.
    pub fn own(ip: IpAddr, port: u16, forward: Forward) -> Destination {
        let family = if ip.is_ipv4() { AF_INET } else { AF_INET6 };
        let settings = vec![
            DefaultNla::new(ADDRESS, address(ip)),
            DefaultNla::new(PORT, port.to_be_bytes().into()),
            DefaultNla::new(FORWARD, (forward as u32).to_ne_bytes().into()),
            DefaultNla::new(UPPER_THRESHOLD, OWN_THRESHOLD.to_ne_bytes().into()),
            DefaultNla::new(LOWER_THRESHOLD, 0_u32.to_ne_bytes().into()),
            DefaultNla::new(ADDRESS_FAMILY, family.to_ne_bytes().into()),
        ];
        Destination { ip, port, weight: 0, active: 0, inactive: 0, traffic: Traffic::default(), settings }
    }

    /// Makes it one of someone else.
    #[cfg(test)]
    pub(super) fn forget_mark(&mut self) {
        self.settings.retain(|attribute| kind(attribute) != UPPER_THRESHOLD);
    }

    /// Whether a connector has added it.
    pub fn is_own(&self) -> bool {
        number(&self.settings, UPPER_THRESHOLD) == Some(OWN_THRESHOLD)
    }
}

/// Reads a list of attributes.
fn attributes(bytes: &[u8]) -> Result<Vec<DefaultNla>, DecodeError> {
    NlasIterator::new(bytes).map(|nla| nla.and_then(|nla| DefaultNla::parse(&nla))).collect()
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn kind(attribute: &DefaultNla) -> u16 {
    attribute.kind() & 0x3FFF // without its flags
}

fn find(attributes: &[DefaultNla], wanted: u16) -> Option<Vec<u8>> {
    attributes.iter().find(|attribute| kind(attribute) == wanted).map(value)
}

fn number(attributes: &[DefaultNla], wanted: u16) -> Option<u32> {
    find(attributes, wanted)?.try_into().ok().map(u32::from_ne_bytes)
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    const NESTED: u16 = 0x8000;
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

/// Asks the controller for the family's id.
pub(super) fn ask_family() -> Body {
    let name = [FAMILY.as_bytes(), b"\0"].concat();
    Body::new(GET_FAMILY, vec![DefaultNla::new(FAMILY_NAME, name)])
}

/// The family's id, from the controller's answer.
pub fn family_id(body: &Body) -> Option<u16> {
    find(&body.attributes, FAMILY_ID)?.try_into().ok().map(u16::from_ne_bytes)
}

fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn service(key: &Key) -> DefaultNla {
    let of = |ipv4| if ipv4 { AF_INET } else { AF_INET6 };
    let attributes = match *key {
        Key::Address { protocol, ip, port } => vec![
            DefaultNla::new(SERVICE_FAMILY, of(ip.is_ipv4()).to_ne_bytes().into()),
            DefaultNla::new(SERVICE_PROTOCOL, u16::from(protocol).to_ne_bytes().into()),
            DefaultNla::new(SERVICE_ADDRESS, address(ip)),
            DefaultNla::new(SERVICE_PORT, port.to_be_bytes().into()),
        ],
        Key::Mark { mark, ipv6 } => vec![
            DefaultNla::new(SERVICE_FAMILY, of(!ipv6).to_ne_bytes().into()),
            DefaultNla::new(SERVICE_MARK, mark.to_ne_bytes().into()),
        ],
    };
    nested(SERVICE, &attributes)
}

/// Asks for a service.
pub(super) fn ask_service(key: &Key) -> Body {
    Body::new(GET_SERVICE, vec![service(key)])
}

/// Asks for all destinations of a service.
pub(super) fn ask_destinations(key: &Key) -> Body {
    Body::new(GET_DESTINATION, vec![service(key)])
}

/// Gives a destination another weight.
pub(super) fn set_weight(key: &Key, destination: &Destination, weight: u32) -> Body {
    with_weight(SET_DESTINATION, key, destination, weight)
}

/// Adds a destination.
pub(super) fn add(key: &Key, destination: &Destination, weight: u32) -> Body {
    with_weight(NEW_DESTINATION, key, destination, weight)
}

fn with_weight(command: u8, key: &Key, destination: &Destination, weight: u32) -> Body {
    let mut settings = destination.settings.clone();
    settings.push(DefaultNla::new(WEIGHT, weight.to_ne_bytes().into()));
    Body::new(command, vec![service(key), nested(DESTINATION, &settings)])
}

/// Removes a destination.
pub(super) fn remove(key: &Key, destination: &Destination) -> Body {
    let named = [ADDRESS, PORT, ADDRESS_FAMILY];
    let settings = destination.settings.iter().filter(|attribute| named.contains(&kind(attribute)));
    let settings: Vec<DefaultNla> = settings.cloned().collect();
    Body::new(DELETE_DESTINATION, vec![service(key), nested(DESTINATION, &settings)])
}

/// The name of a service's scheduler: `wrr`.
pub fn scheduler(body: &Body) -> Option<String> {
    let service = attributes(&find(&body.attributes, SERVICE)?).ok()?;
    let name = find(&service, SERVICE_SCHEDULER)?;
    Some(String::from_utf8_lossy(name.split(|byte| *byte == 0).next()?).into_owned())
}

/// A destination of a service for IPv4 or IPv6.
pub fn destination(body: &Body, ipv6: bool) -> Option<Destination> {
    let all = attributes(&find(&body.attributes, DESTINATION)?).ok()?;
    // Kernels before 3.18 do not tell.
    let ipv6 = find(&all, ADDRESS_FAMILY)
        .and_then(|family| family.try_into().ok().map(u16::from_ne_bytes))
        .map_or(ipv6, |family| family == AF_INET6);
    let bytes: [u8; 16] = find(&all, ADDRESS)?.try_into().ok()?;
    let ip = match ipv6 {
        true => IpAddr::from(Ipv6Addr::from(bytes)),
        false => IpAddr::from(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
    };
    let port = u16::from_be_bytes(find(&all, PORT)?.try_into().ok()?);
    let weight = number(&all, WEIGHT)?;
    let active = number(&all, ACTIVE).unwrap_or(0);
    let inactive = number(&all, INACTIVE).unwrap_or(0);
    // The older attribute counts connections in 32 bits, which begin at 0 again.
    let traffic = find(&all, STATISTICS_64).or_else(|| find(&all, STATISTICS));
    let traffic = traffic.and_then(|statistics| attributes(&statistics).ok()).unwrap_or_default();
    let counter = |kind| {
        let bytes = find(&traffic, kind)?;
        let long = <[u8; 8]>::try_from(bytes.as_slice()).map(u64::from_ne_bytes);
        long.or_else(|_| <[u8; 4]>::try_from(bytes.as_slice()).map(|short| u32::from_ne_bytes(short).into())).ok()
    };
    let traffic =
        Traffic { connections: counter(CONNECTIONS), bytes_to: counter(BYTES_IN), bytes_from: counter(BYTES_OUT) };
    let told = [WEIGHT, ACTIVE, INACTIVE, PERSISTENT, STATISTICS, STATISTICS_64];
    let settings = all.into_iter().filter(|attribute| !told.contains(&kind(attribute))).collect();
    Some(Destination { ip, port, weight, active, inactive, traffic, settings })
}

/// Reads one datagram; says whether the answer to this request is whole.
pub fn read(mut datagram: &[u8], sequence: u32, found: &mut Vec<Body>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<Body>::deserialize(datagram).map_err(io::Error::other)?;
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue; // of an earlier request that took too long
        }
        match message.payload {
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
                };
            }
            NetlinkPayload::InnerMessage(message) => found.push(message),
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed_without_statistics(extra: &[DefaultNla]) -> Body {
        let Body { command, attributes: all, .. } = listed(extra);
        let all = attributes(&value(&all[0])).unwrap();
        let mut all: Vec<DefaultNla> = all.into_iter().collect();
        all.remove(7);
        Body::new(command, vec![nested(DESTINATION, &all)])
    }

    fn listed(extra: &[DefaultNla]) -> Body {
        let mut all = vec![
            DefaultNla::new(ADDRESS, address("10.0.0.1".parse().unwrap())),
            DefaultNla::new(PORT, 8080_u16.to_be_bytes().into()),
            DefaultNla::new(3, 2_u32.to_ne_bytes().into()),
            DefaultNla::new(WEIGHT, 7_u32.to_ne_bytes().into()),
            DefaultNla::new(5, 100_u32.to_ne_bytes().into()),
            DefaultNla::new(6, 50_u32.to_ne_bytes().into()),
            DefaultNla::new(ACTIVE, 3_u32.to_ne_bytes().into()),
            DefaultNla::new(STATISTICS, vec![1; 40]),
        ];
        all.extend_from_slice(extra);
        Body::new(5, vec![nested(DESTINATION, &all)])
    }

    #[test]
    fn a_change_of_a_weight_repeats_all_other_settings() {
        let tunnel = DefaultNla::new(13, vec![1]);
        let found = destination(&listed(std::slice::from_ref(&tunnel)), false).unwrap();
        assert_eq!((found.ip.to_string().as_str(), found.port, found.weight), ("10.0.0.1", 8080, 7));
        let key = Key::Address { protocol: 6, ip: "10.9.0.1".parse().unwrap(), port: 80 };
        let change = set_weight(&key, &found, 9);
        let sent = attributes(&find(&change.attributes, DESTINATION).unwrap()).unwrap();
        let kinds: Vec<u16> = sent.iter().map(kind).collect();
        assert_eq!(kinds, [ADDRESS, PORT, 3, 5, 6, 13, WEIGHT]);
        assert_eq!(number(&sent, WEIGHT), Some(9));
        assert_eq!(number(&sent, 5), Some(100));
        assert!(sent.contains(&tunnel));
        let again = destination(&change, false).unwrap();
        assert_eq!((again.ip, again.port, again.weight), (found.ip, found.port, 9));
    }

    #[test]
    fn an_added_destination_is_known_and_removed_by_its_address() {
        let key = Key::Address { protocol: 6, ip: "10.9.0.1".parse().unwrap(), port: 80 };
        let own = Destination::own("10.0.0.3".parse().unwrap(), 8080, Forward::Route);
        let added = add(&key, &own, 7);
        let found = destination(&added, false).unwrap();
        assert!(found.is_own() && found.active == 0);
        assert_eq!((found.ip, found.port, found.weight), (own.ip, own.port, 7));
        assert_eq!(number(&found.settings, FORWARD), Some(3));
        let listed = destination(&listed(&[]), false).unwrap();
        assert!(!listed.is_own() && listed.active == 3);
        let removed = attributes(&find(&remove(&key, &own).attributes, DESTINATION).unwrap()).unwrap();
        assert_eq!(removed.iter().map(kind).collect::<Vec<_>>(), [ADDRESS, PORT, ADDRESS_FAMILY]);
    }

    #[test]
    fn what_went_to_a_destination_is_read_in_both_forms() {
        let long = |kind, number: u64| DefaultNla::new(kind, number.to_ne_bytes().into());
        let old = [DefaultNla::new(CONNECTIONS, 9_u32.to_ne_bytes().into()), long(BYTES_IN, 70), long(BYTES_OUT, 80)];
        let new = [long(CONNECTIONS, 1 << 40), long(BYTES_IN, 7), long(BYTES_OUT, 8)];
        let inactive = DefaultNla::new(INACTIVE, 4_u32.to_ne_bytes().into());
        let read = |extra: &[DefaultNla]| destination(&listed_without_statistics(extra), false).unwrap();
        let found = read(&[inactive, nested(STATISTICS, &old)]);
        assert_eq!(found.inactive, 4);
        let expected = Traffic { connections: Some(9), bytes_to: Some(70), bytes_from: Some(80) };
        assert_eq!(found.traffic, expected);
        let both = read(&[nested(STATISTICS, &old), nested(STATISTICS_64, &new)]);
        assert_eq!((both.traffic.connections, both.traffic.bytes_to), (Some(1 << 40), Some(7)));
        assert_eq!(destination(&listed(&[]), false).unwrap().traffic, Traffic::default(), "no attributes in it");
    }

    #[test]
    fn addresses_of_both_versions_are_read() {
        let family = DefaultNla::new(ADDRESS_FAMILY, AF_INET6.to_ne_bytes().into());
        assert_eq!(destination(&listed(&[family]), false).unwrap().ip.to_string(), "a00:1::");
        assert_eq!(destination(&listed(&[]), true).unwrap().ip.to_string(), "a00:1::");
        assert_eq!(destination(&Body::new(5, Vec::new()), false), None);
        let short = Body::new(5, vec![nested(DESTINATION, &[DefaultNla::new(ADDRESS, vec![1])])]);
        assert_eq!(destination(&short, false), None);
    }

    #[test]
    fn literal_bytes_of_a_service() {
        let body = ask_service(&Key::Address { protocol: 17, ip: "fd00::1".parse().unwrap(), port: 53 });
        let mut bytes = vec![0; body.buffer_len()];
        body.serialize(&mut bytes);
        let mut expected =
            vec![4, 1, 0, 0, 48, 0, 1, 0x80, 6, 0, 1, 0, 10, 0, 0, 0, 6, 0, 2, 0, 17, 0, 0, 0, 20, 0, 3, 0, 0xfd];
        expected.extend([0; 14]);
        expected.extend([1, 6, 0, 4, 0, 0, 53, 0, 0]);
        assert_eq!(bytes, expected);
        let body = ask_destinations(&Key::Mark { mark: 7, ipv6: false });
        let mut bytes = vec![0; body.buffer_len()];
        body.serialize(&mut bytes);
        assert_eq!(bytes, [8, 1, 0, 0, 20, 0, 1, 0x80, 6, 0, 1, 0, 2, 0, 0, 0, 8, 0, 5, 0, 7, 0, 0, 0]);
    }
}

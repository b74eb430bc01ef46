//! pcap and pcapng files → the TCP bytes of each direction in order, as [`Stream`](super::stream::Stream)s.
//!
//! Memory is bounded: bytes that arrive out of order are held up to a limit. If there are too many streams, or they hold
//! too much, the streams that were quiet longest are given up.

use std::{
    collections::HashMap,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice};
use pcap_parser::{Block, PcapBlockOwned, PcapError};

use super::{direction::Direction, stream::Event};

/// Most directions followed at once.
const DIRECTIONS: usize = 65_536;

/// Most bytes held for all directions.
const HELD_BYTES: usize = 256 << 20;

/// Most interfaces of one pcapng section that are told apart.
const INTERFACES: usize = 65_536;

/// Bytes of one block of the file that can be read.
const BLOCK_BYTES: usize = 16 << 20;

/// The place and time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Time of the packet that completed it.
    pub(super) time: Option<SystemTime>,
    /// The sender.
    pub(super) source: SocketAddr,
    /// The receiver.
    pub(super) destination: SocketAddr,
}

/// How far a file could be read.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Packets of a link type or with IP fragments that this reader does not put together.
    pub(super) unreadable: u64,
}

/// Reads a whole file; `sink` gets every event of streams from or to `port`. An error is a fault of the file; the events
/// before it were given.
pub(super) fn read(
    input: impl Read + Send,
    port: u16,
    max: u32,
    sink: &mut impl FnMut(Seen, Event<'_>),
) -> Result<Tally, String> {
    let mut flows = Flows { port, max, directions: HashMap::new(), held: 0, packets: 0 };
    let mut tally = Tally::default();
    let result = read_blocks(input, &mut flows, &mut tally, sink);
    flows.end(sink);
    result.map(|()| tally)
}

/// One pcapng interface, or the only one of a pcap file.
#[derive(Clone, Copy)]
struct Interface {
    link: i32,
    /// Time units in a second.
    resolution: u64,
    offset_seconds: i64,
}

fn read_blocks(
    input: impl Read + Send,
    flows: &mut Flows,
    tally: &mut Tally,
    sink: &mut impl FnMut(Seen, Event<'_>),
) -> Result<(), String> {
    let input = FullFirst { input, first: true };
    let mut reader = pcap_parser::create_reader(1 << 20, input).map_err(|error| describe(&error))?;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut capacity = 1 << 20;
    loop {
        let used = match reader.next() {
            Ok((used, block)) => {
                let mut packet = |link: i32, time: Option<SystemTime>, data: &[u8]| {
                    match tcp(link, data) {
                        Packet::Tcp(source, destination, tcp) => flows.packet(time, source, destination, &tcp, sink),
                        Packet::Other => {}
                        Packet::Unreadable => tally.unreadable += 1,
                    };
                };
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                        interfaces = vec![Interface { link: header.network.0, resolution, offset_seconds: 0 }];
                    }
                    PcapBlockOwned::Legacy(block) => {
                        let Some(interface) = interfaces.first() else {
                            return Err("a packet before the header".into());
                        };
                        let units = u64::from(block.ts_sec) * interface.resolution + u64::from(block.ts_usec);
                        packet(interface.link, time(units, interface), block.data);
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                        if interfaces.len() < INTERFACES {
                            interfaces.push(Interface {
                                link: block.linktype.0,
                                resolution: block.ts_resolution().filter(|units| *units > 0).unwrap_or(1_000_000),
                                offset_seconds: block.if_tsoffset,
                            });
                        }
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                        if let Some(interface) = interfaces.get(block.if_id as usize) {
                            let units = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                            let data = block.data.get(..block.caplen as usize).unwrap_or(block.data);
                            packet(interface.link, time(units, interface), data);
                        }
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                        if let Some(interface) = interfaces.first() {
                            let data = block.data.get(..block.origlen as usize).unwrap_or(block.data);
                            packet(interface.link, None, data);
                        }
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                used
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => {
                // At the end of the file the next turn gives `Eof` or `UnexpectedEof`.
                reader.refill().map_err(|error| describe(&error))?;
                continue;
            }
            Err(PcapError::BufferTooSmall) if capacity < BLOCK_BYTES => {
                capacity *= 2;
                if !reader.grow(capacity) {
                    return Err("a block does not fit".into());
                }
                reader.refill().map_err(|error| describe(&error))?;
                continue;
            }
            Err(error) => return Err(describe(&error)),
        };
        reader.consume(used);
    }
}

/// A reader whose first read gives the file's header whole: the parser does not try again.
struct FullFirst<R> {
    input: R,
    first: bool,
}

impl<R: Read> Read for FullFirst<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const HEADER_BYTES: usize = 512;
        let wanted = if std::mem::take(&mut self.first) { buffer.len().min(HEADER_BYTES) } else { 1 };
        let mut filled = 0;
        while filled < wanted {
            match self.input.read(&mut buffer[filled..])? {
                0 => break,
                bytes => filled += bytes,
            }
        }
        Ok(filled)
    }
}

fn describe(error: &PcapError<&[u8]>) -> String {
    match error {
        PcapError::Eof | PcapError::UnexpectedEof | PcapError::Incomplete(_) => "the file ends inside a block".into(),
        PcapError::BufferTooSmall => format!("a block of more than {BLOCK_BYTES} bytes"),
        PcapError::ReadError => "the file can not be read".into(),
        PcapError::HeaderNotRecognized => "this is neither pcap nor pcapng".into(),
        PcapError::NomError(_, kind) | PcapError::OwnedNomError(_, kind) => {
            format!("a block is not as the format wants it ({kind:?})")
        }
    }
}

/// A time that can be shown, else none.
fn time(units: u64, interface: &Interface) -> Option<SystemTime> {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = (units / interface.resolution).checked_add_signed(interface.offset_seconds)?;
    let part = u128::from(units % interface.resolution) * 1_000_000_000 / u128::from(interface.resolution);
    let nanoseconds = u32::try_from(part).ok()?;
    (seconds < YEAR_10000).then(|| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}

enum Packet<'a> {
    Tcp(IpAddr, IpAddr, TcpSlice<'a>),
    /// Something that is not TCP.
    Other,
    /// A link type that is not known here, or a fragment.
    Unreadable,
}

/// Removes link and network layers; a packet that the capture cut short is used as far as it goes.
fn tcp(link: i32, data: &[u8]) -> Packet<'_> {
    let after = |skip: usize| data.get(skip..).unwrap_or_default();
    let ether_type = |at: usize| match data.get(at..at + 2) {
        Some(&[high, low]) => EtherType(u16::from_be_bytes([high, low])),
        _ => EtherType(0),
    };
    let sliced = match link {
        1 => LaxSlicedPacket::from_ethernet(data).ok(),
        0 | 108 => LaxSlicedPacket::from_ip(after(4)).ok(), // BSD loopback: the address family, then IP
        12 | 14 | 101 | 228 | 229 => LaxSlicedPacket::from_ip(data).ok(),
        113 => Some(LaxSlicedPacket::from_ether_type(ether_type(14), after(16))), // Linux cooked
        276 => Some(LaxSlicedPacket::from_ether_type(ether_type(0), after(20))),  // Linux cooked, version 2
        _ => return Packet::Unreadable,
    };
    let Some(sliced) = sliced else { return Packet::Other };
    let (source, destination): (IpAddr, IpAddr) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        Some(LaxNetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return Packet::Other,
    };
    if sliced.ip_payload().is_some_and(|payload| payload.fragmented) {
        return Packet::Unreadable;
    }
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Packet::Tcp(source, destination, tcp),
        _ => Packet::Other,
    }
}

/// A direction: from, to.
type Key = (SocketAddr, SocketAddr);

/// All directions of all connections.
struct Flows {
    port: u16,
    max: u32,
    directions: HashMap<Key, Direction>,
    /// Bytes held by all of them.
    held: usize,
    packets: u64,
}

impl Flows {
    fn packet(
        &mut self,
        time: Option<SystemTime>,
        source: IpAddr,
        destination: IpAddr,
        tcp: &TcpSlice<'_>,
        sink: &mut impl FnMut(Seen, Event<'_>),
    ) {
        let seen = Seen {
            time,
            source: SocketAddr::new(source, tcp.source_port()),
            destination: SocketAddr::new(destination, tcp.destination_port()),
        };
        if tcp.source_port() != self.port && tcp.destination_port() != self.port {
            return;
        }
        self.packets += 1;
        if self.directions.len() >= DIRECTIONS || self.held >= HELD_BYTES {
            self.give_up_half(sink);
        }
        if tcp.ack() && !tcp.syn() {
            self.acknowledged(seen, tcp.acknowledgment_number(), sink);
        }
        let (key, payload) = ((seen.source, seen.destination), tcp.payload());
        let first = if tcp.syn() { tcp.sequence_number().wrapping_add(1) } else { tcp.sequence_number() };
        if tcp.syn() && self.directions.get(&key).is_some_and(|known| known.first != first) {
            self.finish(key, seen.time, sink); // the same ports, a new connection
        }
        if !self.directions.contains_key(&key) {
            if payload.is_empty() && !tcp.syn() {
                return; // nothing to follow, and its number may be a keep-alive's
            }
            self.directions.insert(key, Direction::new(first, self.max, !tcp.syn()));
        }
        let Some(direction) = self.directions.get_mut(&key) else { return };
        direction.last_packet = self.packets;
        direction.last_time = time;
        let before = direction.held();
        direction.segment(first, payload, tcp.fin(), &mut |event| sink(seen, event));
        self.held = self.held + direction.held() - before;
        if tcp.rst() {
            self.close(key, time, sink);
            self.close((key.1, key.0), time, sink);
        } else if direction.end.is_some_and(|end| end <= direction.next) {
            self.close(key, time, sink);
        }
    }

    /// Ends a direction, but keeps it, so that a late retransmission does not look like a new stream.
    fn close(&mut self, key: Key, time: Option<SystemTime>, sink: &mut impl FnMut(Seen, Event<'_>)) {
        let Some(direction) = self.directions.get_mut(&key) else { return };
        self.held -= direction.held();
        let seen = Seen { time: time.or(direction.last_time), source: key.0, destination: key.1 };
        direction.close(&mut |event| sink(seen, event));
    }

    /// The receiver has acknowledged bytes up to here: earlier bytes that are missing will not come any more.
    fn acknowledged(&mut self, seen: Seen, number: u32, sink: &mut impl FnMut(Seen, Event<'_>)) {
        let Some(direction) = self.directions.get_mut(&(seen.destination, seen.source)) else { return };
        let before = direction.held();
        let back = Seen { time: seen.time, source: seen.destination, destination: seen.source };
        direction.acknowledged(number, &mut |event| sink(back, event));
        self.held = self.held + direction.held() - before;
    }

    /// Gives up the half of the directions that were quiet longest.
    fn give_up_half(&mut self, sink: &mut impl FnMut(Seen, Event<'_>)) {
        let mut by_age: Vec<_> = self.directions.iter().map(|(key, direction)| (direction.last_packet, *key)).collect();
        by_age.sort_unstable();
        for (_, key) in by_age.iter().take(by_age.len().div_ceil(2)) {
            self.finish(*key, None, sink);
        }
    }

    fn finish(&mut self, key: Key, time: Option<SystemTime>, sink: &mut impl FnMut(Seen, Event<'_>)) {
        self.close(key, time, sink);
        self.directions.remove(&key);
    }

    fn end(&mut self, sink: &mut impl FnMut(Seen, Event<'_>)) {
        let mut keys: Vec<_> = self.directions.iter().map(|(key, direction)| (direction.last_packet, *key)).collect();
        keys.sort_unstable();
        keys.into_iter().for_each(|(_, key)| self.finish(key, None, sink));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_directions_is_bounded_and_what_they_hold_is_accounted() {
        let mut flows = Flows { port: 3860, max: 1 << 20, directions: HashMap::new(), held: 0, packets: 0 };
        let mut cut = 0;
        let mut sink = |_: Seen, event: Event<'_>| cut += u64::from(matches!(event, Event::Cut { .. }));
        let connections = DIRECTIONS as u32 + 1000;
        for number in 0..connections {
            // A SYN that carries the first five bytes of a header.
            let mut tcp = vec![0x10, 0x00, 0x0F, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0];
            tcp.extend([0x20, 0x10, 0x00, 0x0D, 0x01]);
            let tcp = TcpSlice::from_slice(&tcp).unwrap();
            let (from, to) = (number.to_be_bytes(), [10, 0, 0, 1]);
            flows.packet(None, from.into(), to.into(), &tcp, &mut sink);
            assert!(flows.directions.len() <= DIRECTIONS);
        }
        assert_eq!(flows.held, 5 * flows.directions.len());
        flows.end(&mut sink);
        assert_eq!((flows.held, flows.directions.len()), (0, 0));
        assert_eq!(cut, u64::from(connections));
    }
}

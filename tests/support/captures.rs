//! Writes small pcap files by hand: Ethernet, IPv4 or IPv6, TCP.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::SocketAddr;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A growing pcap file; packets are one millisecond apart, from 2026-01-01T00:00:00Z on.
pub(crate) struct Capture {
    pub(crate) bytes: Vec<u8>,
    packets: Vec<Vec<u8>>,
}

impl Capture {
    pub(crate) fn new() -> Capture {
        let mut bytes = 0xA1B2_C3D4_u32.to_le_bytes().to_vec();
        bytes.extend([2, 0, 4, 0]); // version 2.4
        bytes.extend([0; 8]); // time zone, accuracy
        bytes.extend(262_144_u32.to_le_bytes()); // longest packet
        bytes.extend(1_u32.to_le_bytes()); // Ethernet
        Capture { bytes, packets: Vec::new() }
    }

    /// One TCP segment.
    pub(crate) fn segment(&mut self, from: SocketAddr, to: SocketAddr, numbers: (u32, u32), flags: u8, payload: &[u8]) {
        let packet = ethernet(from, to, numbers, flags, payload);
        self.bytes.extend(1_767_225_600_u32.to_le_bytes());
        self.bytes.extend((self.packets.len() as u32 * 1000).to_le_bytes());
        self.bytes.extend((packet.len() as u32).to_le_bytes());
        self.bytes.extend((packet.len() as u32).to_le_bytes());
        self.bytes.extend(&packet);
        self.packets.push(packet);
    }

    /// The same packets as a pcapng file.
    pub(crate) fn pcapng(&self) -> Vec<u8> {
        let packets = self.packets.iter().flat_map(|packet| enhanced_packet(0, packet));
        pcapng_start(1).into_iter().chain(packets).collect()
    }

    /// The opening of a connection, then one segment per payload, all from the client.
    pub(crate) fn connection(client: SocketAddr, server: SocketAddr, payloads: &[Vec<u8>]) -> Capture {
        let mut capture = Capture::new();
        capture.segment(client, server, (99, 0), SYN, &[]);
        capture.segment(server, client, (499, 100), SYN | ACK, &[]);
        let mut number = 100;
        for payload in payloads {
            capture.segment(client, server, (number, 500), ACK, payload);
            number += payload.len() as u32;
        }
        capture
    }
}

/// The section header of a pcapng file, and an interface of this link type with times in nanoseconds.
pub(crate) fn pcapng_start(link: u16) -> Vec<u8> {
    let header = block(0x0A0D_0D0A, b"\x4D\x3C\x2B\x1A\x01\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF");
    let options = [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let interface = block(1, &[&link.to_le_bytes()[..], &[0, 0, 0, 0, 4, 0], &options].concat());
    [header, interface].concat()
}

/// A pcapng packet; the time is in the interface's units.
pub(crate) fn enhanced_packet(time: u64, data: &[u8]) -> Vec<u8> {
    let mut body = 0_u32.to_le_bytes().to_vec();
    body.extend(((time >> 32) as u32).to_le_bytes());
    body.extend((time as u32).to_le_bytes());
    body.extend((data.len() as u32).to_le_bytes());
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    block(6, &body)
}

/// A pcapng block.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = (12 + padded as u32).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &vec![0; padded - body.len()], &length].concat()
}

/// One Ethernet frame with a TCP segment.
pub(crate) fn ethernet(
    from: SocketAddr,
    to: SocketAddr,
    (number, acknowledged): (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(number.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    tcp.extend(payload);
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            packet.extend([0x08, 0x00, 0x45, 0]);
            packet.extend((20 + tcp.len() as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            packet.extend(from.ip().octets());
            packet.extend(to.ip().octets());
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            packet.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
            packet.extend((tcp.len() as u16).to_be_bytes());
            packet.extend([6, 64]);
            packet.extend(from.ip().octets());
            packet.extend(to.ip().octets());
        }
        _ => panic!("both ends are of one family"),
    }
    packet.extend(tcp);
    packet
}

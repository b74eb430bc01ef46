//! Questions to the kernel's IPVS.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rustix::net::netlink::GENERIC;

use super::wire::{self, Body};
use crate::netlink;

/// The most messages of one answer.
const MESSAGES: usize = 1 << 20;

/// A socket, and the family's id.
pub(super) struct Socket {
    netlink: netlink::Socket,
    family: u16,
    sequence: u32,
}

impl Socket {
    /// Opens a socket and asks for the family; `NotFound` if the kernel has no IPVS.
    pub(super) fn open() -> io::Result<Socket> {
        let netlink = netlink::Socket::open(GENERIC)?;
        let mut socket = Socket { netlink, family: wire::CONTROLLER, sequence: 0 };
        let answers = socket.ask(wire::ask_family(), false)?;
        let family = answers.iter().find_map(wire::family_id);
        socket.family = family.ok_or_else(|| io::Error::other("the kernel does not tell the family's id"))?;
        Ok(socket)
    }

    /// Sends a request and gathers its answers; a list if `dump`.
    pub(super) fn ask(&mut self, mut body: Body, dump: bool) -> io::Result<Vec<Body>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { NLM_F_ACK };
        header.sequence_number = sequence;
        body.family = self.family;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(body));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut found = Vec::new();
        self.netlink.ask(&bytes, |datagram| {
            let is_last = wire::read(datagram, sequence, &mut found)?;
            match found.len() > MESSAGES {
                true => Err(io::Error::other("the answer has too many messages")),
                false => Ok(is_last),
            }
        })?;
        Ok(found)
    }
}

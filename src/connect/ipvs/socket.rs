//! A netlink socket to the kernel's IPVS.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect,
        netlink::{GENERIC, SocketAddrNetlink},
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::wire::{self, Body};

/// How long the kernel may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest datagram: the kernel sends at most 32 KiB at a time.
const DATAGRAM_BYTES: usize = 64 << 10;

/// The most messages of one answer.
const MESSAGES: usize = 1 << 20;

/// A socket, and the family's id.
pub(super) struct Socket {
    file: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Socket {
    /// Opens a socket and asks for the family; `NotFound` if the kernel has no IPVS.
    pub(super) fn open() -> io::Result<Socket> {
        let file = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(GENERIC))?;
        connect(&file, &SocketAddrNetlink::new(0, 0))?;
        let mut socket = Socket { file, family: wire::CONTROLLER, sequence: 0 };
        let answers = socket.ask(wire::ask_family(), false)?;
        let family = answers.iter().find_map(wire::family_id);
        socket.family = family.ok_or_else(|| io::Error::other("the kernel does not tell the family's id"))?;
        Ok(socket)
    }

    /// Sends a request and gathers its answers; a list if `dump`.
    pub(super) fn ask(&mut self, mut body: Body, dump: bool) -> io::Result<Vec<Body>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { NLM_F_ACK };
        header.sequence_number = self.sequence;
        body.family = self.family;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(body));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.file, &bytes, SendFlags::empty())?;
        self.answers()
    }

    fn answers(&mut self) -> io::Result<Vec<Body>> {
        let until = Instant::now() + TIMEOUT;
        let mut found = Vec::new();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer of the kernel in 5 s"));
            }
            set_socket_timeout(&self.file, Timeout::Recv, Some(left))?;
            let length = match recv(&self.file, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => length.min(buffer.len()),
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => return Err(error.into()),
            };
            if wire::read(&buffer[..length], self.sequence, &mut found)? {
                return Ok(found);
            }
            if found.len() > MESSAGES {
                return Err(io::Error::other("the answer has too many messages"));
            }
        }
    }
}

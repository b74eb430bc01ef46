//! ICMP echoes: one socket for each IP version serves all checks of a shard.
//!
//! The sockets are unprivileged ping sockets where net.ipv4.ping_group_range allows them, else raw ones, which need
//! CAP_NET_RAW.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto, socket_with, sockopt,
    },
};

use super::{ours, theirs};
use crate::{
    monitor::{
        Outcome, Reason,
        echo::{self, MARK_BYTES, Version},
    },
    runtime::Error,
    sasp::Endpoint,
};

/// Room for replies that arrive together; the kernel gives as much of it as net.core.rmem_max allows.
const RECEIVE_BYTES: usize = 4 << 20;

/// The sockets that send and receive echoes.
pub(super) struct Sockets {
    v4: OwnedFd,
    /// `None` where this machine has no IPv6.
    v6: Option<OwnedFd>,
    /// A random number in every request, so that only a host that has seen a request can answer.
    secret: u64,
}

/// Whether this process may send echoes.
pub fn may_echo() -> Result<(), Error> {
    open(Version::V4).map(drop).map_err(Error::Echoes)
}

fn open(version: Version) -> io::Result<OwnedFd> {
    let (family, protocol) = match version {
        Version::V4 => (AddressFamily::INET, ipproto::ICMP),
        Version::V6 => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let open = |kind| socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(protocol));
    let socket = open(SocketType::DGRAM).or_else(|_| open(SocketType::RAW))?;
    // A reply that finds no room counts as none.
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BYTES)?;
    Ok(socket)
}

impl Sockets {
    pub(super) fn open() -> io::Result<Sockets> {
        // The seed of std's hash maps comes from the system's randomness.
        let secret = RandomState::new().build_hasher().finish();
        Ok(Sockets { v4: open(Version::V4)?, v6: open(Version::V6).ok(), secret })
    }

    pub(super) fn socket(&self, version: Version) -> Option<BorrowedFd<'_>> {
        match version {
            Version::V4 => Some(self.v4.as_fd()),
            Version::V6 => self.v6.as_ref().map(AsFd::as_fd),
        }
    }

    /// Sends a request that carries `name`.
    pub(super) fn ask(&self, endpoint: &Endpoint, name: u64) -> Result<(), Outcome> {
        let address = endpoint.ip();
        let version = if address.is_ipv4() { Version::V4 } else { Version::V6 };
        let socket = self.socket(version).ok_or(Outcome::Inconclusive(Reason::NoNetwork))?;
        let mut mark = [0; MARK_BYTES];
        let (secret, rest) = mark.split_at_mut(8);
        secret.copy_from_slice(&self.secret.to_be_bytes());
        rest.copy_from_slice(&name.to_be_bytes());
        // A ping socket writes its own identifier.
        let packet = echo::request(version, self.secret as u16, name as u16, &mark);
        loop {
            match sendto(socket, &packet, SendFlags::empty(), &SocketAddr::new(address, 0)) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error @ (Errno::HOSTUNREACH | Errno::HOSTDOWN)) => return Err(theirs(error)),
                Err(error) => return Err(ours(error)),
            }
        }
    }

    /// Reads a packet: the address that answered, and the name in its request. `None` if there is no packet,
    /// `Some(None)` if the packet is no answer to this daemon.
    pub(super) fn hear(&self, version: Version, scratch: &mut [u8]) -> Option<Option<(IpAddr, u64)>> {
        let (length, from) = match recvfrom(self.socket(version)?, &mut *scratch, RecvFlags::empty()) {
            Ok((length, _, from)) => (length, from),
            Err(Errno::AGAIN) => return None,
            // The error belongs to an earlier packet; other packets may follow.
            Err(_) => return Some(None),
        };
        let mark = echo::reply(version, scratch.get(..length).unwrap_or_default());
        Some(mark.zip(from.and_then(|from| SocketAddr::try_from(from).ok())).and_then(|(mark, from)| {
            let mark = u128::from_be_bytes(mark);
            ((mark >> 64) as u64 == self.secret).then_some((from.ip(), mark as u64))
        }))
    }
}

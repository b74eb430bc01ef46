//! The few things that std and the chosen crates offer only as `unsafe`.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{FromRawFd, IntoRawFd, OwnedFd},
};

use glommio::net::TcpStream;
use rustix::io_uring::{io_uring_params, io_uring_setup};

/// Makes a socket a stream of the executor that calls this, which must happen at once: glommio's own half-way
/// type leaks the descriptor if it is dropped.
pub(super) fn adopt(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is open and nobody else's, as `OwnedFd` promises, and the stream is to close it.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// Whether the kernel gives this process an io_uring; glommio panics where it does not.
pub(super) fn probe_io_uring() -> io::Result<()> {
    // SAFETY: all-zero parameters are valid and ask for a plain ring; they are the kernel's output too.
    let mut parameters: io_uring_params = unsafe { std::mem::zeroed() };
    // SAFETY: the parameters are a live exclusive reference, and the ring is closed without having been mapped.
    let ring = unsafe { io_uring_setup(8, &mut parameters) }?;
    drop(ring);
    Ok(())
}

//! The few functions that std and the chosen crates offer only as `unsafe`.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{FromRawFd, IntoRawFd, OwnedFd},
};

use glommio::net::TcpStream;
use rustix::io_uring::{io_uring_params, io_uring_setup};

/// Makes a socket a stream of the calling executor. This happens at once, because glommio's type for an unbound stream
/// leaks its descriptor when it is dropped.
pub(crate) fn adopt(socket: OwnedFd) -> TcpStream {
    // SAFETY: `OwnedFd` promises that the descriptor is open and has no other owner, and the stream will close it.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// Whether the kernel gives this process an io_uring. Without one, glommio would panic.
pub(crate) fn probe_io_uring() -> io::Result<()> {
    // SAFETY: all-zero parameters are valid and ask for a plain ring; they are the kernel's output too.
    let mut parameters: io_uring_params = unsafe { std::mem::zeroed() };
    // SAFETY: the parameters are a live exclusive reference, and the ring is closed without having been mapped.
    let ring = unsafe { io_uring_setup(8, &mut parameters) }?;
    drop(ring);
    Ok(())
}

/// Asks the processor to load bytes into this CPU's cache. Without this, a push that another CPU built costs 3 % more
/// to send (PERF.md).
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: a prefetch is a hint: it reads nothing into the program and can not fault at any address, and these
        // addresses are of live bytes.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetching_leaves_bytes_of_any_length_and_place_as_they_are() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let before = bytes.clone();
        for (start, end) in [(0, 0), (0, 1), (1, 64), (63, 65), (7, 5000), (5000, 5000)] {
            prefetch(&bytes[start..end]);
        }
        assert_eq!(bytes, before);
    }
}

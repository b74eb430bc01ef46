//! Calls of sockets and executors that exist only as `unsafe`.
#![allow(unsafe_code)]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd},
        unix::net::UnixStream as StdUnixStream,
    },
};

use glommio::net::{TcpStream, UnixStream};
use rustix::{
    io::Errno,
    net::{SendFlags, Shutdown, send, shutdown},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections from one source address: well under the 28,232 ports that the kernel hands out by default.
const CONNECTIONS_PER_SOURCE: u32 = 16_384;

/// Begins a connection and does not wait for it: the first write does. The `number`th connection of a process
/// decides its source address, so that no pair of addresses runs out of ports.
pub(super) fn connect(to: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let source = number / CONNECTIONS_PER_SOURCE;
    if source > 0 && to.ip().is_loopback() && to.is_ipv4() {
        let host = u8::try_from(source + 1).map_err(|_| io::Error::other("too many connections"))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    // SAFETY: the descriptor is open and this function's own; the stream is to close it. It is bound to the calling
    // thread's executor here, as glommio requires.
    Ok(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
}

/// Makes one end of a pair of sockets a stream of the calling thread's executor.
pub(super) fn adopt(stream: StdUnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    // SAFETY: the descriptor is open and has no other owner; the stream closes it.
    Ok(unsafe { UnixStream::from_raw_fd(stream.into_raw_fd()) })
}

/// Sends as many bytes as the socket takes at once, without SIGPIPE.
pub(super) fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the descriptor is open for as long as the stream is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        // A connection that is not established yet says "not connected" on some paths, "again" on others.
        Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN) => Ok(0),
        other => Ok(other?),
    }
}

/// Ends both directions, which wakes the reader.
pub(super) fn hang_up(stream: &TcpStream) {
    let socket: RawFd = stream.as_raw_fd();
    // SAFETY: the descriptor is open for as long as the stream is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // A socket that can not be shut down is gone already.
    let _ = shutdown(socket, Shutdown::Both);
}

/// Resets the connection: the address of no family, given to connect, makes a socket forget its peer, which a TCP
/// socket without linger sends a reset. (Closing would do the same, but the reader holds the stream.)
pub(super) fn crash(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as the stream is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO))?;
    rustix::net::connect_unspec(socket)?;
    Ok(())
}

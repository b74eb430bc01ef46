//! What carries a connection's bytes: the socket itself, or TLS on top of it. No call blocks.
//!
//! rustls does no I/O of its own here: it takes what has arrived and says what to send, and both buffers are bounded.
//! A message is encrypted in pieces of at most [`rustls`]' own buffer; the next piece follows when the socket took it.

use std::{
    io::{self, IoSlice, Read, Write},
    os::fd::BorrowedFd,
    sync::Arc,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg},
};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

/// What carries a connection's bytes.
pub(super) enum Wire {
    /// The socket.
    Plain,
    /// TLS will, of which nothing has been looked at; or the socket, if the first byte says so.
    Undecided {
        /// Whether the first byte may say so.
        plain_too: bool,
    },
    /// TLS. Boxed: it is large, and a plain connection has none.
    Tls(Box<ServerConnection>),
}

/// What came of reading.
#[derive(Debug)]
pub(super) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// The peer has ended its side.
    End,
    /// Nothing for the connection; there may be more to read.
    Progress,
    /// Nothing has arrived.
    Nothing,
}

/// What came of sending.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Bytes that the caller need not keep: the socket, or TLS, has them.
    pub(super) taken: usize,
    /// The socket took something.
    pub(super) progress: bool,
}

/// Why nothing more is to be had from a connection.
#[derive(Debug)]
pub(super) enum Fault {
    /// It broke.
    Broken(io::Error),
    /// The peer does not keep to TLS, or does not prove what it has to; an alert is ready to be sent.
    Tls(rustls::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Broken(error)
    }
}

/// The type byte of a TLS record with a handshake message, which begins a connection. SASP begins with 0x20.
const TLS_HANDSHAKE: u8 = 0x16;

/// Hands bytes to the socket; how many it takes at once, perhaps none.
pub(super) fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => return Ok(sent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads what has arrived, as far as there is room; `None` if that is nothing.
pub(super) fn receive_now(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: RecvFlags) -> io::Result<Option<usize>> {
    loop {
        match recv(socket, &mut *bytes, flags | RecvFlags::DONTWAIT) {
            Ok((received, _)) => return Ok(Some(received)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The socket as rustls uses it.
struct Socket<'s> {
    socket: BorrowedFd<'s>,
    /// A read got less than there was room for: that was all.
    drained: bool,
}

impl Read for Socket<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let received = receive_now(self.socket, bytes, RecvFlags::empty())?;
        self.drained = received.is_none_or(|received| received < bytes.len());
        received.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// Long messages are many records.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = match slices {
                [one] => send(self.socket, one, flags),
                many => sendmsg(self.socket, many, &mut SendAncillaryBuffer::default(), flags),
            };
            match sent {
                Ok(sent) => return Ok(sent),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// Whether messages go to the socket as they are.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Wire::Plain)
    }

    /// Looks at the first byte, if it has arrived: whether it is to be TLS, or plain, which this then is.
    pub(super) fn decide(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<bool>> {
        let Wire::Undecided { plain_too } = *self else { return Ok(Some(!self.is_plain())) };
        let mut first = [0];
        match receive_now(socket, &mut first, RecvFlags::PEEK)? {
            None => Ok(None),
            Some(1) if plain_too && first != [TLS_HANDSHAKE] => {
                *self = Wire::Plain;
                Ok(Some(false))
            }
            // Its end is for the handshake to meet.
            Some(_) => Ok(Some(true)),
        }
    }

    /// Begins TLS.
    pub(super) fn secure(&mut self, config: Arc<ServerConfig>) -> Result<(), rustls::Error> {
        *self = Wire::Tls(Box::new(ServerConnection::new(config)?));
        Ok(())
    }

    /// The session, once its handshake has ended.
    pub(super) fn session(&self) -> Option<&ServerConnection> {
        match self {
            Wire::Tls(tls) if !tls.is_handshaking() => Some(tls),
            _ => None,
        }
    }

    /// Whether the handshake, which has ended, took a session up again.
    pub(super) fn resumed(&self) -> bool {
        self.session().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Reads once. `readable` is whether something may have arrived, and `ended` whether its end has; what has been
    /// decrypted before comes first.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &mut [u8],
        readable: &mut bool,
        ended: bool,
    ) -> Result<Received, Fault> {
        if !*readable {
            return Ok(Received::Nothing);
        }
        let tls = match self {
            Wire::Tls(tls) => tls,
            _ => {
                let received = receive_now(socket, bytes, RecvFlags::empty())?;
                // Less than there was room for: that was all, and of what comes later there is news.
                *readable = received.is_some_and(|length| length == bytes.len() || ended);
                return Ok(match received {
                    None => Received::Nothing,
                    Some(0) => Received::End,
                    Some(length) => Received::Bytes(length),
                });
            }
        };
        if let Some(received) = decrypted(tls, bytes) {
            return Ok(received);
        }
        match take_in(tls, socket, readable, ended)? {
            Received::Bytes(all) => {
                let received = decrypted(tls, bytes).unwrap_or(Received::Progress);
                // The rest, or TLS's end, is there without news of the socket.
                *readable |= !matches!(received, Received::Bytes(length) if length == all);
                Ok(received)
            }
            other => Ok(other),
        }
    }

    /// Goes on with the handshake as far as the peer has; what it sends beyond that is kept for [`Wire::receive`].
    pub(super) fn shake_hands(
        &mut self,
        socket: BorrowedFd<'_>,
        readable: &mut bool,
        ended: bool,
    ) -> Result<Received, Fault> {
        match self {
            Wire::Tls(tls) if *readable => take_in(tls, socket, readable, ended),
            _ => Ok(Received::Nothing),
        }
    }

    /// Hands bytes over; there is [nothing pending](Self::has_pending), or the socket gets that first.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Sent> {
        let Wire::Tls(tls) = self else {
            let taken = send_now(socket, bytes)?;
            return Ok(Sent { taken, progress: taken > 0 });
        };
        let mut sent = Sent { taken: 0, progress: flush(tls, socket)? };
        while let Some(rest @ [_, ..]) = bytes.get(sent.taken..)
            && !tls.wants_write()
        {
            sent.taken += tls.writer().write(rest)?;
            sent.progress |= flush(tls, socket)?;
        }
        Ok(sent)
    }

    /// Whether TLS has something that the socket has not taken.
    pub(super) fn has_pending(&self) -> bool {
        matches!(self, Wire::Tls(tls) if tls.wants_write())
    }

    /// Nothing follows: has TLS say so, once.
    pub(super) fn finish(&mut self) {
        if let Wire::Tls(tls) = self {
            tls.send_close_notify();
        }
    }
}

/// Reads once from the socket. `Bytes` stands for something that was decrypted and may be read.
fn take_in(
    tls: &mut ServerConnection,
    socket: BorrowedFd<'_>,
    readable: &mut bool,
    ended: bool,
) -> Result<Received, Fault> {
    let mut input = Socket { socket, drained: false };
    match tls.read_tls(&mut input) {
        Ok(0) => return Ok(Received::End),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            *readable = false;
            return Ok(Received::Nothing);
        }
        Err(error) => return Err(error.into()),
    }
    let state = tls.process_new_packets().map_err(Fault::Tls)?;
    // Alerts, tickets, a part of the handshake: as far as the socket takes it now.
    flush(tls, socket)?;
    *readable = ended || state.peer_has_closed() || !input.drained;
    Ok(match state.plaintext_bytes_to_read() {
        0 if *readable => Received::Progress,
        0 => Received::Nothing,
        length => Received::Bytes(length),
    })
}

/// What has been decrypted and not been read.
fn decrypted(tls: &mut ServerConnection, bytes: &mut [u8]) -> Option<Received> {
    match tls.reader().read(bytes) {
        Ok(0) => Some(Received::End),
        Ok(length) => Some(Received::Bytes(length)),
        // The socket's end without TLS's is an end: SASP's own lengths show what is missing.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(Received::End),
        Err(_) => None,
    }
}

/// Sends what is ready, as far as the socket takes it; whether that is something.
fn flush(tls: &mut ServerConnection, socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut progress = false;
    let mut output = Socket { socket, drained: false };
    while tls.wants_write() {
        match tls.write_tls(&mut output) {
            Ok(sent) => progress |= sent > 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(progress)
}

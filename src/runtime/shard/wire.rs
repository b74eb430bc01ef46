//! The transport of a connection: the plain socket, or TLS on it. No call blocks.
//!
//! rustls does no I/O of its own here: it takes the bytes that have arrived and gives the bytes to send, and both
//! buffers are bounded. A message is encrypted in pieces that fit into the buffer of [`rustls`]; the next piece follows
//! when the socket has taken the last one.

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
use smallvec::SmallVec;

/// The transport of a connection.
pub(super) enum Wire {
    /// The plain socket.
    Plain,
    /// A socket whose first byte has not been read: TLS will follow, or plain bytes.
    Undecided {
        /// Whether plain bytes are allowed.
        plain_too: bool,
    },
    /// TLS. Boxed, because it is large and a plain connection has none.
    Tls(Box<Tls>),
}

/// TLS on one connection.
pub(super) struct Tls {
    session: ServerConnection,
    records: Records,
}

/// The position in the stream of TLS records up to which bytes have been read.
#[derive(Debug, Default)]
struct Records {
    /// The head of a record, as far as it has been read.
    head: [u8; RECORD_HEAD],
    /// The number of bytes in `head`.
    known: usize,
    /// Bytes of the record's body that are missing.
    missing: usize,
    /// Bytes read since the last decrypted byte of a message.
    unspoken: usize,
}

/// Bytes of a record's head: type, version and length.
const RECORD_HEAD: usize = 5;

/// The most bytes that a peer may send after the handshake without any byte of a message: twice the longest record.
/// rustls would keep up to 64 KiB of an alleged long handshake message.
const UNSPOKEN_BYTES: usize = 36 << 10;

/// The most bytes without a byte of a message, as for new keys, after which no timeout of a message runs.
const ASIDE_BYTES: usize = 1 << 10;

impl Records {
    fn take(&mut self, mut bytes: &[u8]) {
        self.unspoken += bytes.len();
        while !bytes.is_empty() {
            let body = self.missing.min(bytes.len());
            self.missing -= body;
            bytes = bytes.get(body..).unwrap_or_default();
            while let (Some((first, rest)), Some(place)) = (bytes.split_first(), self.head.get_mut(self.known)) {
                *place = *first;
                self.known += 1;
                bytes = rest;
            }
            if self.known == RECORD_HEAD {
                let [_, _, _, high, low] = self.head;
                self.missing = usize::from(u16::from_be_bytes([high, low]));
                self.known = 0;
            }
        }
    }

    /// Whether a record is not whole, or records without any byte of a message suggest that more must follow.
    fn is_inside(&self) -> bool {
        self.known > 0 || self.missing > 0 || self.unspoken > ASIDE_BYTES
    }
}

/// The outcome of a read.
#[derive(Debug)]
pub(super) enum Received {
    /// So many bytes of messages.
    Bytes(usize),
    /// The peer has ended its side.
    End,
    /// No bytes of messages; there may be more to read.
    Progress,
    /// Nothing has arrived.
    Nothing,
}

/// The outcome of sending.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Bytes that the socket or TLS has taken.
    pub(super) taken: usize,
    /// The socket took some bytes.
    pub(super) progress: bool,
}

/// Why nothing more can be read from a connection.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection broke.
    Broken(io::Error),
    /// The peer broke the rules of TLS, or has no valid certificate; an alert is ready to be sent.
    Tls(rustls::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Broken(error)
    }
}

/// The first byte of a TLS connection: the type of a record with a handshake message. SASP begins with 0x20.
const TLS_HANDSHAKE: u8 = 0x16;

/// Sends bytes with one call; the result is the number that the socket took, perhaps 0.
pub(super) fn send_now(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match send_slices(socket, slices) {
        Err(Errno::AGAIN) => Ok(0),
        sent => Ok(sent?),
    }
}

fn send_slices(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        let sent = match slices {
            [one] => send(socket, one, flags),
            many => sendmsg(socket, many, &mut SendAncillaryBuffer::default(), flags),
        };
        match sent {
            Err(Errno::INTR) => {}
            sent => return sent,
        }
    }
}

/// Reads bytes that have arrived, as far as there is room; `None` if there are none.
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

/// The socket as rustls reads it.
struct Input<'s> {
    socket: BorrowedFd<'s>,
    records: &'s mut Records,
    /// A read got fewer bytes than it had room for, so the socket has no more.
    drained: bool,
}

/// The socket as rustls writes to it.
struct Output<'s>(BorrowedFd<'s>);

impl Read for Input<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let received = receive_now(self.socket, bytes, RecvFlags::empty())?;
        self.drained = received.is_none_or(|received| received < bytes.len());
        self.records.take(bytes.get(..received.unwrap_or(0)).unwrap_or_default());
        received.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// Long messages are many records, sent with one call.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(send_slices(self.0, slices)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// Whether messages go to the socket unencrypted.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Wire::Plain)
    }

    /// Looks at the first byte: whether TLS follows, or `None` if no byte has arrived. Without TLS the wire becomes
    /// plain.
    pub(super) fn decide(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<bool>> {
        let Wire::Undecided { plain_too } = *self else { return Ok(Some(!self.is_plain())) };
        let mut first = [0];
        match receive_now(socket, &mut first, RecvFlags::PEEK)? {
            None => Ok(None),
            Some(1) if plain_too && first != [TLS_HANDSHAKE] => {
                *self = Wire::Plain;
                Ok(Some(false))
            }
            // If this is the end, the handshake will find it.
            Some(_) => Ok(Some(true)),
        }
    }

    /// Begins TLS.
    pub(super) fn secure(&mut self, config: Arc<ServerConfig>) -> Result<(), rustls::Error> {
        *self = Wire::Tls(Box::new(Tls { session: ServerConnection::new(config)?, records: Records::default() }));
        Ok(())
    }

    /// The TLS session, after its handshake.
    pub(super) fn session(&self) -> Option<&ServerConnection> {
        match self {
            Wire::Tls(tls) if !tls.session.is_handshaking() => Some(&tls.session),
            _ => None,
        }
    }

    /// Whether the handshake has resumed an earlier session.
    pub(super) fn resumed(&self) -> bool {
        self.session().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Reads once; bytes that are decrypted already come first. `readable` says that bytes may have arrived, `ended`
    /// that the end has.
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
                // Fewer bytes than there was room for were all bytes; the epoll set tells of later ones.
                *readable = received.is_some_and(|length| length == bytes.len() || ended);
                return Ok(match received {
                    None => Received::Nothing,
                    Some(0) => Received::End,
                    Some(length) => Received::Bytes(length),
                });
            }
        };
        if let Some(received) = decrypted(&mut tls.session, bytes) {
            return Ok(received);
        }
        match take_in(tls, socket, readable, ended)? {
            Received::Bytes(all) => {
                let received = decrypted(&mut tls.session, bytes).unwrap_or(Received::Progress);
                // The epoll set does not tell of the rest, or of the end of TLS.
                *readable |= !matches!(received, Received::Bytes(length) if length == all);
                Ok(received)
            }
            _ if tls.records.unspoken > UNSPOKEN_BYTES => {
                Err(Fault::Tls(rustls::Error::General("too many records without any message".into())))
            }
            other => Ok(other),
        }
    }

    /// Whether a part of a record has arrived, and the rest has not.
    pub(super) fn is_inside_record(&self) -> bool {
        matches!(self, Wire::Tls(tls) if tls.records.is_inside())
    }

    /// Goes on with the handshake as far as possible; later bytes are kept for [`Wire::receive`].
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

    /// Sends bytes, after those that are [pending](Self::has_pending).
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<Sent> {
        let Wire::Tls(tls) = self else {
            let taken = send_now(socket, slices)?;
            return Ok(Sent { taken, progress: taken > 0 });
        };
        let tls = &mut tls.session;
        let mut sent = Sent { taken: 0, progress: flush(tls, socket)? };
        // All slices together: a message that fits is one record and one call.
        let mut left: SmallVec<[IoSlice<'_>; 2]> = SmallVec::from_slice(slices);
        let mut rest = &mut left[..];
        IoSlice::advance_slices(&mut rest, 0); // without empty ones
        while !rest.is_empty() {
            if tls.wants_write() {
                return Ok(sent);
            }
            let taken = tls.writer().write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, taken);
            sent.taken += taken;
            sent.progress |= flush(tls, socket)?;
        }
        Ok(sent)
    }

    /// Whether TLS has bytes that the socket has not taken.
    pub(super) fn has_pending(&self) -> bool {
        matches!(self, Wire::Tls(tls) if tls.session.wants_write())
    }

    /// Ends the sending side of TLS, once.
    pub(super) fn finish(&mut self) {
        if let Wire::Tls(tls) = self {
            tls.session.send_close_notify();
        }
    }
}

/// Reads once from the socket. `Bytes` means that so many decrypted bytes can be taken.
fn take_in(tls: &mut Tls, socket: BorrowedFd<'_>, readable: &mut bool, ended: bool) -> Result<Received, Fault> {
    let Tls { session, records } = tls;
    let mut input = Input { socket, records, drained: false };
    match session.read_tls(&mut input) {
        Ok(0) => return Ok(Received::End),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            *readable = false;
            return Ok(Received::Nothing);
        }
        Err(error) => return Err(error.into()),
    }
    let drained = input.drained;
    let state = session.process_new_packets().map_err(Fault::Tls)?;
    // Alerts, tickets, a part of the handshake: as far as the socket takes them now.
    flush(session, socket)?;
    if state.plaintext_bytes_to_read() > 0 {
        tls.records.unspoken = 0;
    }
    *readable = ended || state.peer_has_closed() || !drained;
    Ok(match state.plaintext_bytes_to_read() {
        0 if *readable => Received::Progress,
        0 => Received::Nothing,
        length => Received::Bytes(length),
    })
}

/// Takes decrypted bytes.
fn decrypted(tls: &mut ServerConnection, bytes: &mut [u8]) -> Option<Received> {
    match tls.reader().read(bytes) {
        Ok(0) => Some(Received::End),
        Ok(length) => Some(Received::Bytes(length)),
        // An end of the socket without an end of TLS is a good end, because SASP's own lengths show missing bytes.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(Received::End),
        Err(_) => None,
    }
}

/// Sends encrypted bytes, as far as the socket takes them; whether it took some.
fn flush(tls: &mut ServerConnection, socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut progress = false;
    let mut output = Output(socket);
    while tls.wants_write() {
        match tls.write_tls(&mut output) {
            Ok(sent) => progress |= sent > 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_record_is_seen_however_it_is_cut() {
        let stream = [&[23, 3, 3, 0, 2, 9, 9][..], &[22, 3, 3, 0, 0], &[21, 3, 3, 1, 0], &[7; 256]].concat();
        let ends = [0, 7, 12, stream.len()];
        for step in 1..=stream.len() {
            let mut records = Records::default();
            let mut read = 0;
            for piece in stream.chunks(step) {
                records.take(piece);
                read += piece.len();
                assert_eq!(records.is_inside(), !ends.contains(&read), "{read} bytes, {step} at a time");
            }
            assert_eq!(records.unspoken, stream.len());
        }
    }
}

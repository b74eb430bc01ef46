//! One connection of the player: direct non-blocking sends, large reads, the library's framer; TLS between if wanted.

use std::{
    cell::RefCell,
    io::{BufRead, Write},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use gwm::sasp::Framer;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, pki_types::ServerName};

use super::sys;
use crate::{Result, tls};

/// The longest message that the player takes.
const MESSAGE_BYTES_MAX: u32 = 256 << 20;

/// Bytes of the buffer that the connections of a seat read into by turns; more than glommio's own buffer, which is
/// then passed by.
const BUFFER_BYTES: usize = 256 << 10;

/// Shared by the connections of a seat.
#[derive(Clone)]
pub(crate) struct Medium {
    /// Where they read into.
    buffer: Rc<RefCell<Vec<u8>>>,
    /// How they speak TLS, if they do.
    tls: Option<Arc<ClientConfig>>,
}

impl Medium {
    pub(crate) fn new(tls: Option<Arc<ClientConfig>>) -> Medium {
        Medium { buffer: Rc::new(RefCell::new(vec![0; BUFFER_BYTES])), tls }
    }

    /// The same for one peer, whose connections resume each the session of the one before, where they speak TLS.
    pub(crate) fn remembering(&self) -> Medium {
        Medium { buffer: self.buffer.clone(), tls: self.tls.as_ref().map(tls::remembering) }
    }
}

/// A connection to the measured server. One task may read while others write.
pub(crate) struct Connection {
    stream: RefCell<TcpStream>,
    framer: RefCell<Framer>,
    buffer: Rc<RefCell<Vec<u8>>>,
    tls: Option<Box<RefCell<ClientConnection>>>,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Bytes, which may be a part of a message.
    Bytes(usize),
    /// The peer has closed.
    Closed,
}

impl Connection {
    /// Begins a connection; the first write waits for it. `number` tells the connections of this process apart.
    pub(crate) fn open(to: SocketAddr, number: u32, medium: &Medium) -> Result<Connection> {
        let stream = sys::connect(to, number).map_err(|error| format!("can not connect to {to}: {error}"))?;
        let tls = medium.tls.clone().map(client_connection).transpose()?;
        Ok(Connection {
            stream: RefCell::new(stream),
            framer: RefCell::new(Framer::new(MESSAGE_BYTES_MAX)),
            buffer: medium.buffer.clone(),
            tls: tls.map(|tls| Box::new(RefCell::new(tls))),
        })
    }

    /// Sends all of it; waits where the socket does not take it at once. During a TLS handshake it is only on its way
    /// with what [`Connection::receive`] answers to the server.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Result<()> {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().writer().write_all(bytes).map_err(broken)?;
            return std::future::poll_fn(|cx| self.poll_flush(tls, cx)).await.map_err(broken);
        }
        let mut sent = sys::send_now(&self.stream.borrow(), bytes).map_err(broken)?;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            sent += std::future::poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, rest))
                .await
                .map_err(broken)?;
        }
        Ok(())
    }

    /// Whether the TLS session is one that was there before; nothing without TLS, or before the handshake's end.
    pub(crate) fn resumed(&self) -> Option<bool> {
        let kind = self.tls.as_ref()?.borrow().handshake_kind()?;
        Some(kind == HandshakeKind::Resumed)
    }

    /// Waits for bytes and hands every message that they complete to `each`.
    pub(crate) async fn receive(&self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<Received> {
        self.receive_bytes(|mut input| {
            let mut framer = self.framer.borrow_mut();
            while let Some(frame) = framer.next(&mut input).map_err(|error| error.to_string())? {
                each(frame)?;
            }
            Ok(())
        })
        .await
    }

    /// Waits for bytes and hands them to `take`; with TLS, where they carry any.
    pub(crate) async fn receive_bytes(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<Received> {
        std::future::poll_fn(|cx| {
            if let Some(tls) = &self.tls
                && let Poll::Ready(Err(error)) = self.poll_flush(tls, cx)
            {
                return Poll::Ready(Err(broken(error)));
            }
            let mut buffer = self.buffer.borrow_mut();
            let read = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buffer));
            let bytes = match read {
                Ok(0) => return Poll::Ready(Ok(Received::Closed)),
                Ok(length) => &buffer[..length],
                Err(error) => return Poll::Ready(Err(broken(error))),
            };
            match &self.tls {
                None => take(bytes)?,
                Some(tls) => {
                    decrypt(&mut tls.borrow_mut(), bytes, &mut take)?;
                    // Answers to these records are sent now, or as soon as the next call finds room.
                    if let Poll::Ready(Err(error)) = self.poll_flush(tls, cx) {
                        return Poll::Ready(Err(broken(error)));
                    }
                }
            }
            Poll::Ready(Ok(Received::Bytes(bytes.len())))
        })
        .await
    }

    /// Sends what TLS has to send.
    fn poll_flush(&self, tls: &RefCell<ClientConnection>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let (mut tls, mut stream) = (tls.borrow_mut(), self.stream.borrow_mut());
        while tls.wants_write() {
            let mut writer = Writer { stream: &mut stream, cx: &mut *cx };
            match tls.write_tls(&mut writer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Poll::Pending,
                other => _ = other?,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the connection and wakes its reader.
    pub(crate) fn hang_up(&self) {
        sys::hang_up(&self.stream.borrow());
    }

    /// Ends the connection by a reset, as a crashing peer does, and wakes its reader.
    pub(crate) fn crash(&self) -> Result<()> {
        sys::crash(&self.stream.borrow()).map_err(broken)
    }
}

/// A client's end of a TLS connection to the server of a run.
pub(crate) fn client_connection(config: Arc<ClientConfig>) -> Result<ClientConnection> {
    let name = ServerName::try_from(tls::SERVER).expect("it is a name");
    let mut tls = ClientConnection::new(config, name).map_err(|error| format!("TLS: {error}"))?;
    tls.set_buffer_limit(None); // the sender waits for the socket
    Ok(tls)
}

/// Hands what these bytes carry to `take`.
fn decrypt(tls: &mut ClientConnection, mut bytes: &[u8], take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes).map_err(broken)?;
        tls.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
        let mut reader = tls.reader();
        // No plaintext is left where this says that it would have to wait.
        while let Ok(plain @ [_, ..]) = reader.fill_buf() {
            let length = plain.len();
            take(plain)?;
            reader.consume(length);
        }
    }
    Ok(())
}

/// A socket as TLS writes to it; where it is full, the task is woken when it is not.
struct Writer<'a, 'b> {
    stream: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for Writer<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match sys::send_now(self.stream, bytes)? {
            0 => match Pin::new(&mut *self.stream).poll_write(self.cx, bytes) {
                Poll::Ready(result) => result,
                Poll::Pending => Err(std::io::ErrorKind::WouldBlock.into()),
            },
            sent => Ok(sent),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn broken(error: std::io::Error) -> String {
    format!("the connection broke: {error}")
}

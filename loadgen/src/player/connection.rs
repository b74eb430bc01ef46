//! One connection of the player: direct non-blocking sends, large reads, the library's framer.

use std::{cell::RefCell, net::SocketAddr, pin::Pin, rc::Rc, task::Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use gwm::sasp::Framer;

use super::sys;
use crate::Result;

/// The longest message that the player takes.
const MESSAGE_BYTES_MAX: u32 = 256 << 20;

/// Bytes of the buffer that the connections of a seat read into by turns; more than glommio's own buffer, which is
/// then passed by.
const SCRATCH_BYTES: usize = 256 << 10;

/// The buffer that all connections of a seat read into.
#[derive(Clone)]
pub(crate) struct Scratch(Rc<RefCell<Vec<u8>>>);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch(Rc::new(RefCell::new(vec![0; SCRATCH_BYTES])))
    }
}

/// A connection to what is measured. One task may read it while others write.
pub(crate) struct Connection {
    stream: RefCell<TcpStream>,
    framer: RefCell<Framer>,
    scratch: Scratch,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Bytes, which may be a part of a message.
    Bytes(usize),
    /// The peer has closed.
    Closed,
}

impl Connection {
    /// Begins a connection; the first write waits for it. `number` tells the connections of this process apart.
    pub(crate) fn open(to: SocketAddr, number: u32, scratch: &Scratch) -> Result<Connection> {
        let stream = sys::connect(to, number).map_err(|error| format!("can not connect to {to}: {error}"))?;
        Ok(Connection {
            stream: RefCell::new(stream),
            framer: RefCell::new(Framer::new(MESSAGE_BYTES_MAX)),
            scratch: scratch.clone(),
        })
    }

    /// Sends all of it; waits where the socket does not take it at once.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Result<()> {
        let mut sent = sys::send_now(&self.stream.borrow(), bytes).map_err(broken)?;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            sent += std::future::poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, rest))
                .await
                .map_err(broken)?;
        }
        Ok(())
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

    /// Waits for bytes and hands them to `take`.
    pub(crate) async fn receive_bytes(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<Received> {
        std::future::poll_fn(|cx| {
            let mut scratch = self.scratch.0.borrow_mut();
            match Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut scratch) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0)) => Poll::Ready(Ok(Received::Closed)),
                Poll::Ready(Ok(length)) => Poll::Ready(take(&scratch[..length]).map(|()| Received::Bytes(length))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
            }
        })
        .await
    }

    /// Ends the connection; whoever reads it is woken.
    pub(crate) fn hang_up(&self) {
        sys::hang_up(&self.stream.borrow());
    }

    /// Ends the connection by a reset, as a peer that crashes does; whoever reads it is woken.
    pub(crate) fn crash(&self) -> Result<()> {
        sys::crash(&self.stream.borrow()).map_err(broken)
    }
}

fn broken(error: std::io::Error) -> String {
    format!("the connection broke: {error}")
}

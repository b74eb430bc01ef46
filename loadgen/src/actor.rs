//! Load balancers and members of every workload: send a request, tell replies from pushes, check the reply.

use std::{cell::Cell, net::SocketAddr};

use gwm::sasp::{ComponentType, Header, ReturnCode, message::MESSAGE_BYTES_MIN, writer};

use crate::{
    Result,
    player::{Connection, Medium, Received},
};

/// A message from the server.
pub(crate) enum Incoming<'a> {
    /// Send Weights.
    Push(&'a [u8]),
    /// A reply with this request id and type.
    Reply(u32, ComponentType, &'a [u8]),
}

/// Tells a push from a reply.
pub(crate) fn sort(frame: &[u8]) -> Result<Incoming<'_>> {
    let (header, kind) = Header::read(frame).map_err(|error| error.to_string())?;
    Ok(match kind {
        ComponentType::SEND_WEIGHTS => Incoming::Push(frame),
        _ => Incoming::Reply(header.id, kind, frame),
    })
}

/// The return code of a reply: the first byte behind its type and length.
pub(crate) fn return_code(reply: &[u8]) -> Option<ReturnCode> {
    reply.get(MESSAGE_BYTES_MIN).copied().map(ReturnCode)
}

/// Checks a reply that is a return code alone: every byte.
pub(crate) fn expect_success(id: u32, kind: ComponentType, reply: &[u8]) -> Result<()> {
    let mut expected = Vec::with_capacity(MESSAGE_BYTES_MIN + 1);
    writer::reply(&mut expected, id, kind, ReturnCode::SUCCESSFUL);
    if reply == expected {
        return Ok(());
    }
    Err(match return_code(reply).filter(|&code| code != ReturnCode::SUCCESSFUL) {
        Some(code) => format!("{kind} {id}: {code}"),
        None => format!("{kind} {id} was due: {}", crate::model::difference(reply, &expected)),
    })
}

/// A peer of the server: a connection and the ids of its requests.
pub(crate) struct Actor {
    pub(crate) connection: Connection,
    next_id: Cell<u32>,
}

impl Actor {
    /// Begins to connect.
    pub(crate) fn open(to: SocketAddr, number: u32, medium: &Medium) -> Result<Actor> {
        Ok(Actor { connection: Connection::open(to, number, medium)?, next_id: Cell::new(1) })
    }

    /// An id that no request of this actor had.
    pub(crate) fn id(&self) -> u32 {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1).max(1));
        id
    }

    /// Sends a request that is answered by a return code alone, and waits for that to be success. Pushes that come
    /// before go to `push`.
    pub(crate) async fn ask(&self, request: &[u8], mut push: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (header, kind) = Header::read(request).map_err(|error| error.to_string())?;
        let kind = kind.reply().ok_or("not a request")?;
        self.connection.send(request).await?;
        let mut answered = false;
        while !answered {
            let received = self
                .connection
                .receive(|frame| match sort(frame)? {
                    Incoming::Push(frame) => push(frame),
                    Incoming::Reply(id, ..) if answered => Err(format!("a second reply, to {id}")),
                    Incoming::Reply(_, _, frame) => {
                        answered = true;
                        expect_success(header.id, kind, frame)
                    }
                })
                .await?;
            if received == Received::Closed {
                return Err(format!("closed by the server before {kind} {}", header.id));
            }
        }
        Ok(())
    }
}

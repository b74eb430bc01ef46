//! One connection's rules for a whole frame, apart from any table: is it a request for the coordinator, is it
//! refused at once, or does it end the connection?

use std::fmt;

use crate::sasp::{ComponentType, DecodeError, Fault, Header, Message, ReturnCode, Writer, writer};

/// What to do with a frame.
#[derive(Debug, PartialEq)]
pub enum Verdict<'a> {
    /// A well-formed request with this id: the coordinator answers it.
    Request(u32, Message<'a>),
    /// Not understood: the reply, with code 0x10, is in the caller's buffer; the connection stays.
    Refused(DecodeError),
    /// A message that has no reply: the connection ends.
    Close(NoReply),
}

/// A well-framed message that can not be answered: its type has not the pattern of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoReply(pub ComponentType);

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message type 0x{:04X} ({}) is not a request", self.0.0, self.0.name().unwrap_or("unknown"))
    }
}

/// Judges one frame that the framer gave. On [`Verdict::Refused`] the reply has been appended to `reply`.
pub fn judge<'a>(frame: &'a [u8], poll_interval_seconds: u16, reply: &mut Vec<u8>) -> Verdict<'a> {
    let error = match Message::decode(frame) {
        Ok((header, message))
            if message.component_type().reply().is_some() && !matches!(message, Message::SendWeights(_)) =>
        {
            return Verdict::Request(header.id, message);
        }
        Ok((_, message)) => DecodeError {
            offset: crate::sasp::message::HEADER_BYTES,
            fault: Fault::NotARequest(message.component_type()),
        },
        Err(error) => error,
    };
    // A frame has a header and a message type: the framer saw to it.
    let Ok((header, message)) = Header::read(frame) else { return Verdict::Close(NoReply(ComponentType(0))) };
    let Some(reply_type) = message.reply() else { return Verdict::Close(NoReply(message)) };
    refuse(header.id, reply_type, ReturnCode::NOT_UNDERSTOOD, poll_interval_seconds, reply);
    Verdict::Refused(error)
}

/// Appends the reply that carries an error code: Get Weights Reply has its interval and no groups, the others
/// have the code alone.
pub fn refuse(id: u32, reply_type: ComponentType, code: ReturnCode, poll_interval_seconds: u16, out: &mut Vec<u8>) {
    if reply_type == ComponentType::GET_WEIGHTS_REPLY {
        Writer::get_weights_reply(out, id, code, poll_interval_seconds)
            .finish()
            .expect("a reply without groups has 22 bytes");
    } else {
        writer::reply(out, id, reply_type, code);
    }
}

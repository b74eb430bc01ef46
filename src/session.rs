//! The rules of one connection that need no table: a frame is a request for the coordinator, is refused at once, or
//! ends the connection.

use std::fmt;

use crate::sasp::{ComponentType, DecodeError, Fault, Header, Message, ReturnCode, Writer, writer};

/// What to do with a frame.
#[derive(Debug, PartialEq)]
pub enum FrameAction<'a> {
    /// A well-formed request: the coordinator answers it.
    Request(Header, Message<'a>),
    /// Not understood: the reply, with code 0x10, is in the caller's buffer; the connection stays.
    Refused(DecodeError),
    /// A message without a reply: the connection ends.
    Close(NoReply),
}

/// A well-framed message without a reply: its type does not have the pattern of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoReply(pub ComponentType);

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message type 0x{:04X} ({}) is not a request", self.0.0, self.0.name().unwrap_or("unknown"))
    }
}

/// Decides about one frame of the framer. For [`FrameAction::Refused`] the reply is appended to `reply`.
pub fn examine<'a>(frame: &'a [u8], poll_interval_seconds: u16, reply: &mut Vec<u8>) -> FrameAction<'a> {
    let error = match Message::decode(frame) {
        Ok((header, message))
            if message.component_type().reply().is_some() && !matches!(message, Message::SendWeights(_)) =>
        {
            return FrameAction::Request(header, message);
        }
        Ok((_, message)) => DecodeError {
            offset: crate::sasp::message::HEADER_BYTES,
            fault: Fault::NotARequest(message.component_type()),
        },
        Err(error) => error,
    };
    // A frame has a header and a message type: the framer saw to it.
    let Ok((header, message)) = Header::read(frame) else { return FrameAction::Close(NoReply(ComponentType(0))) };
    let Some(reply_type) = message.reply() else { return FrameAction::Close(NoReply(message)) };
    write_reply(header.id, reply_type, ReturnCode::NOT_UNDERSTOOD, poll_interval_seconds, reply);
    FrameAction::Refused(error)
}

/// Appends a reply that is a return code. Get Weights Reply has its interval and no groups as well.
pub fn write_reply(
    id: u32,
    reply_type: ComponentType,
    code: ReturnCode,
    poll_interval_seconds: u16,
    out: &mut Vec<u8>,
) {
    if reply_type == ComponentType::GET_WEIGHTS_REPLY {
        Writer::get_weights_reply(out, id, code, poll_interval_seconds)
            .finish()
            .expect("a reply without groups has 22 bytes");
    } else {
        writer::reply(out, id, reply_type, code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: u16 = 0x0102;

    /// A frame of version `version`, id 0xA1B2C3D4 and this body.
    fn frame(version: u8, body: &[u8]) -> Vec<u8> {
        let length = (13 + body.len()) as u32;
        [&[0x20, 0x10, 0, 13, version], &length.to_be_bytes()[..], &[0xA1, 0xB2, 0xC3, 0xD4], body].concat()
    }

    /// The reply's bytes: header of version 1 with the request's id, then this.
    fn reply(body: &[u8]) -> Vec<u8> {
        frame(1, body)
    }

    fn refused(frame: &[u8]) -> (Fault, Vec<u8>) {
        let mut out = b"before".to_vec();
        match examine(frame, INTERVAL, &mut out) {
            FrameAction::Refused(error) => (error.fault, out.split_off(6)),
            other => panic!("{other:?}"),
        }
    }

    /// One well-formed body for each request, and the reply that refuses it.
    const REQUESTS: [(&[u8], &[u8]); 5] = [
        (b"\x10\x10\0\x07\x01\0\0", b"\x10\x15\0\x05\x10"),
        (b"\x10\x20\0\x08\x01\0\0\0", b"\x10\x25\0\x05\x10"),
        (b"\x10\x30\0\x06\0\0", b"\x10\x35\0\x09\x10\x01\x02\0\0"),
        (b"\x10\x50\0\x0A\x03LB1\x7F\x01", b"\x10\x55\0\x05\x10"),
        (b"\x10\x60\0\x07\x01\0\0", b"\x10\x65\0\x05\x10"),
    ];

    #[test]
    fn well_formed_requests_go_to_the_coordinator() {
        for (body, _) in REQUESTS {
            let bytes = frame(1, body);
            let mut out = Vec::new();
            let FrameAction::Request(header, message) = examine(&bytes, INTERVAL, &mut out) else { panic!("{body:?}") };
            assert_eq!((header, message), Message::decode(&bytes).unwrap());
            assert_eq!(header.id, 0xA1B2_C3D4);
            assert!(out.is_empty());
        }
    }

    #[test]
    fn another_version_is_refused_with_ours() {
        for (body, answer) in REQUESTS {
            for version in [0, 2, 255] {
                let expected = (Fault::Version(version), reply(answer));
                assert_eq!(refused(&frame(version, body)), expected);
                // Version is judged before the body: this one does not parse either.
                assert_eq!(refused(&frame(version, &[body, &[0xFF]].concat())), expected);
            }
        }
    }

    #[test]
    fn a_body_that_does_not_parse_is_refused() {
        for (body, answer) in REQUESTS {
            let (fault, out) = refused(&frame(1, &[body, &[0xFF]].concat()));
            assert_eq!((fault, out), (Fault::Leftover(1), reply(answer)));
            let mut wrong_length = body.to_vec();
            wrong_length[3] = 5;
            let (fault, out) = refused(&frame(1, &wrong_length));
            assert!(matches!(fault, Fault::Length { found: 5, .. }), "{fault:?}");
            assert_eq!(out, reply(answer));
            let (fault, out) = refused(&frame(1, &body[..4]));
            assert!(matches!(fault, Fault::PastEnd { .. }), "{fault:?}");
            assert_eq!(out, reply(answer));
            if body[1] != 0x50 {
                let mut counts_one = body.to_vec();
                *counts_one.last_mut().unwrap() = 1;
                let (fault, out) = refused(&frame(1, &counts_one));
                assert!(matches!(fault, Fault::PastEnd { left: 0, .. }), "{fault:?}");
                assert_eq!(out, reply(answer));
            }
        }
    }

    #[test]
    fn a_push_from_a_peer_is_refused_as_no_request() {
        let push = frame(1, b"\x10\x40\0\x06\0\0");
        let (fault, out) = refused(&push);
        assert_eq!((fault, out), (Fault::NotARequest(ComponentType::SEND_WEIGHTS), reply(b"\x10\x45\0\x05\x10")));
        assert_eq!(fault.to_string(), "Send Weights (0x1040) is not a request");
    }

    #[test]
    fn of_all_65536_types_those_with_the_pattern_of_a_request_are_answered_and_the_rest_closed() {
        let requests = [0x1010, 0x1020, 0x1030, 0x1040, 0x1050, 0x1060];
        for kind in 0..=u16::MAX {
            let bytes = frame(1, &[&kind.to_be_bytes()[..], &[0, 4]].concat());
            let mut out = Vec::new();
            let verdict = examine(&bytes, INTERVAL, &mut out);
            if (0x1010..=0x10F0).contains(&kind) && kind % 16 == 0 {
                let FrameAction::Refused(error) = verdict else { panic!("0x{kind:04X}: {verdict:?}") };
                let unknown = Fault::UnknownMessage(ComponentType(kind));
                assert!(error.fault == unknown || requests.contains(&kind), "{error}");
                let [high, low] = (kind + 5).to_be_bytes();
                let answer: &[u8] = match kind {
                    0x1030 => b"\x10\x35\0\x09\x10\x01\x02\0\0",
                    _ => &[high, low, 0, 5, 0x10],
                };
                assert_eq!(out, reply(answer), "0x{kind:04X}");
            } else {
                assert_eq!(verdict, FrameAction::Close(NoReply(ComponentType(kind))));
                assert!(out.is_empty());
            }
        }
    }

    #[test]
    fn replies_from_a_peer_close_even_when_they_are_well_formed() {
        for kind in [0x15, 0x25, 0x35, 0x55, 0x65] {
            let code: &[u8] = if kind == 0x35 { b"\0\x09\0\0\0\0\0" } else { b"\0\x05\0" };
            let bytes = frame(1, &[&[0x10, kind], code].concat());
            assert!(Message::decode(&bytes).is_ok());
            let mut out = Vec::new();
            let verdict = examine(&bytes, INTERVAL, &mut out);
            let FrameAction::Close(reason) = verdict else { panic!("{verdict:?}") };
            assert!(reason.to_string().ends_with("Reply) is not a request"), "{reason}");
            assert!(out.is_empty());
        }
    }

    #[test]
    fn every_code_can_be_put_into_every_reply() {
        for (body, answer) in REQUESTS {
            let kind = ComponentType(u16::from_be_bytes([body[0], body[1]]));
            let mut out = Vec::new();
            write_reply(0xA1B2_C3D4, kind.reply().unwrap(), ReturnCode(0x46), INTERVAL, &mut out);
            let mut expected = answer.to_vec();
            expected[4] = 0x46;
            assert_eq!(out, reply(&expected));
        }
    }
}

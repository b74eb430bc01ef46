//! Fuzz entry points: each takes any bytes and panics when something that must always hold does not.
//!
//! They are ordinary functions, so that the test suite runs them on seeded input (`tests/fuzz.rs`) and any fuzzer
//! can call them.

use crate::{
    cli::decode::{Format, decode},
    sasp::{
        ComponentType, Dump, FrameError, Framer, Header, Message, ReturnCode, Summary,
        dump::{Excerpt, HeaderText},
        frame,
    },
    session::{Verdict, judge},
};

/// How a stream is cut must not matter to the framer. The first byte of `data` says how long the pieces are that
/// the rest is cut into; the second is the largest message, in units of 64 bytes.
pub fn framer(data: &[u8]) {
    let Some((&[size, max], stream)) = data.split_first_chunk() else { return };
    let max = 17 + u32::from(max) * 64;
    let whole = cut([stream].into_iter(), max);
    let sized = cut(stream.chunks(usize::from(size).max(1)), max);
    assert_eq!(whole, sized, "a split changes what the framer finds");
    assert_eq!(whole, cut(stream.chunks(1), max), "single bytes change what the framer finds");
    let (frames, buffered, error) = whole;
    let found = frames.concat();
    assert!(stream.starts_with(&found), "the frames are not the stream");
    if error.is_none() {
        assert_eq!(found.len() + buffered, stream.len(), "bytes were lost");
    }
}

/// The frames of a stream that comes in pieces, the bytes held at its end, and the fault that ended it.
fn cut<'s>(pieces: impl Iterator<Item = &'s [u8]>, max: u32) -> (Vec<Vec<u8>>, usize, Option<FrameError>) {
    let mut framer = Framer::new(max);
    let mut frames = Vec::new();
    for mut piece in pieces {
        loop {
            match framer.next(&mut piece) {
                Ok(Some(frame)) => {
                    assert_eq!(frame::message_length(frame, max), Ok(Some(frame.len())));
                    frames.push(frame.to_vec());
                }
                Ok(None) => break,
                Err(error) => return (frames, 0, Some(error)),
            }
        }
        assert!(piece.is_empty(), "the framer left bytes without giving a frame");
    }
    let buffered = framer.buffered();
    (frames, buffered, None)
}

/// A frame decodes or not; one that does encodes to the same bytes, and everything can be shown.
pub fn decoder(frame: &[u8]) {
    match Message::decode(frame) {
        Ok((header, message)) => {
            let mut again = Vec::new();
            message.encode(header.id, &mut again).expect("a decoded message fits the format");
            assert_eq!(again, frame, "decode and encode change the bytes");
            assert_eq!(Message::decode_trusted(frame), Ok((header, message)));
            assert_eq!(Message::decode_broken(frame), (Some(header), Some(message)));
            show(&header, &message);
        }
        Err(error) => {
            assert!(error.offset <= frame.len(), "{error}, but there are {} bytes", frame.len());
            let shown = Excerpt { bytes: frame, offset: error.offset }.to_string();
            assert!(shown.contains("^^") && !error.to_string().is_empty());
            if let (Some(header), message) = Message::decode_broken(frame) {
                assert!(!HeaderText(&header).to_string().is_empty());
                message.inspect(|message| show(&header, message));
            }
        }
    }
}

fn show(header: &Header, message: &Message<'_>) {
    assert!(!Summary(header, message).to_string().contains('\n'), "a summary is one line");
    assert!(!Dump(header, message).to_string().contains(|c: char| c.is_control() && c != '\n'));
    serde_json::to_string(&Dump(header, message)).expect("every message has a JSON form");
}

/// Every frame is a request, is refused with a well-formed reply, or ends the connection. `frame` is given the
/// header's first nine bytes that make it one.
pub fn session(frame: &[u8]) {
    let mut bytes = frame.to_vec();
    if bytes.len() < 17 {
        return;
    }
    let length = (bytes.len() as u32).to_be_bytes();
    bytes[..4].copy_from_slice(&[0x20, 0x10, 0x00, 0x0D]);
    bytes[5..9].copy_from_slice(&length);
    let (header, kind) = Header::read(&bytes).expect("17 bytes hold a header and a type");
    let mut reply = Vec::new();
    match judge(&bytes, 64, &mut reply) {
        Verdict::Request(id, message) => {
            assert_eq!((id, message.component_type()), (header.id, kind));
            assert_ne!(kind, ComponentType::SEND_WEIGHTS);
            assert!(kind.reply().is_some() && reply.is_empty());
        }
        Verdict::Refused(error) => {
            assert!(error.offset <= bytes.len(), "{error}");
            let (answer, reply_kind) = Header::read(&reply).expect("a reply begins like any message");
            assert_eq!((answer.version, answer.length as usize, answer.id), (1, reply.len(), header.id));
            assert_eq!(Some(reply_kind), kind.reply());
            assert_eq!(reply[17], ReturnCode::NOT_UNDERSTOOD.0);
        }
        Verdict::Close(reason) => {
            assert_eq!((reason.0, kind.reply()), (kind, None));
            assert!(reply.is_empty());
        }
    }
}

/// `gwm decode` takes any input. The first byte of `data` chooses the format and the output.
pub fn decode_command(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else { return };
    let format = [Format::Auto, Format::Hex, Format::Raw, Format::Pcap][usize::from(choice % 4)];
    let json = choice & 4 != 0;
    let mut out = Vec::new();
    let outcome = decode(input, format, 3860, json, &mut out).expect("memory can be read and written");
    assert!(outcome.messages + outcome.faults > 0 || out.is_empty());
    let out = std::str::from_utf8(&out).expect("the output is text");
    if json {
        let found = out.lines().inspect(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("every line is JSON");
        });
        let told = outcome.messages + outcome.faults - u64::from(outcome.input_error.is_some());
        assert_eq!(found.count() as u64, told);
    }
}

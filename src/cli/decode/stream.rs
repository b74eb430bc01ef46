//! Follows one stream of SASP bytes: cuts the stream into messages, and finds the next message after bytes that are
//! missing or are not SASP.

use crate::sasp::{ComponentType, FrameError, frame};

/// A part of a stream, with the offset from its first byte.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// A whole message, well framed.
    Message { offset: u64, frame: &'a [u8] },
    /// Bytes that can not be a message; the following bytes are searched for the next message.
    Unframed { offset: u64, bytes: &'a [u8], error: FrameError },
    /// A message that ends too soon: the stream ends, or bytes of it are missing. Never empty.
    Cut { offset: u64, bytes: &'a [u8] },
    /// Bytes before the next message that were skipped.
    Skipped { offset: u64, bytes: u64 },
    /// Bytes of the stream that the capture does not have.
    Missing { offset: u64, bytes: u64 },
}

/// The first bytes of every message of version 1: type and length of the header, and the version.
const BEGINNING: [u8; 5] = [0x20, 0x10, 0x00, 0x0D, 0x01];

/// One stream. It holds the bytes of one incomplete message at most.
#[derive(Debug)]
pub(super) struct Stream {
    max: u32,
    held: Vec<u8>,
    /// Offset of the first byte held.
    offset: u64,
    /// Bytes skipped so far in the search for the next message.
    seeking: Option<u64>,
}

impl Stream {
    /// A stream whose first byte is the first of a message, or not (`midway`).
    pub(super) fn new(max: u32, midway: bool) -> Stream {
        Stream { max, held: Vec::new(), offset: 0, seeking: midway.then_some(0) }
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// More bytes of the stream.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        self.held.extend_from_slice(bytes);
        let mut used = 0;
        loop {
            let rest = &self.held[used..];
            let offset = self.offset + used as u64;
            if let Some(skipped) = self.seeking {
                let found = rest.windows(BEGINNING.len()).position(|window| window == BEGINNING);
                let passed = found.unwrap_or(rest.len().saturating_sub(BEGINNING.len() - 1));
                let skipped = skipped + passed as u64;
                used += passed;
                self.seeking = Some(skipped);
                if found.is_none() {
                    break;
                }
                if skipped > 0 {
                    sink(Event::Skipped { offset: offset + passed as u64 - skipped, bytes: skipped });
                }
                self.seeking = None;
                continue;
            }
            match frame::message_length(rest, self.max) {
                Ok(Some(length)) if length <= rest.len() => {
                    sink(Event::Message { offset, frame: &rest[..length] });
                    used += length;
                }
                Ok(_) => break,
                Err(error) => {
                    sink(Event::Unframed { offset, bytes: rest, error });
                    used += 1; // the search must not find the same beginning again
                    self.seeking = Some(1);
                }
            }
        }
        self.held.drain(..used);
        self.offset += used as u64;
        // The memory of many streams is counted: give back the room of a long message.
        if self.held.capacity() > 2 * self.held.len() {
            self.held.shrink_to_fit();
        }
    }

    /// So many bytes of the stream are missing.
    pub(super) fn missing(&mut self, bytes: u64, sink: &mut impl FnMut(Event<'_>)) {
        self.end(sink);
        sink(Event::Missing { offset: self.offset, bytes });
        self.offset += bytes;
        self.seeking = Some(0);
    }

    /// The stream ends here, or breaks off.
    pub(super) fn end(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        let held = std::mem::take(&mut self.held);
        match self.seeking.take() {
            None if held.is_empty() => {}
            None => sink(Event::Cut { offset: self.offset, bytes: &held }),
            Some(skipped) => {
                let skipped = skipped + held.len() as u64;
                self.offset += held.len() as u64;
                if skipped > 0 {
                    sink(Event::Skipped { offset: self.offset - skipped, bytes: skipped });
                }
                return;
            }
        }
        self.offset += held.len() as u64;
    }
}

/// Whether bytes that are not SASP look like TLS instead.
pub(super) fn looks_like_tls(error: FrameError) -> bool {
    matches!(error, FrameError::NotAHeader(ComponentType(0x1403 | 0x1503 | 0x1603 | 0x1703)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_with_the_bytes_that_it_held() {
        let mut message = vec![0; 1 << 20];
        message[..9].copy_from_slice(b"\x20\x10\0\x0D\x01\0\x10\0\0");
        message.extend(&BEGINNING);
        let mut stream = Stream::new(1 << 20, false);
        let mut messages = 0;
        for piece in message.chunks(1000) {
            stream.feed(piece, &mut |event| messages += u32::from(matches!(event, Event::Message { .. })));
            assert!(stream.held.capacity() <= (2 * stream.held()).max(8), "{}", stream.held.capacity());
        }
        assert_eq!((messages, stream.held()), (1, BEGINNING.len()));
        stream.feed(b"\0\0\0\x12\0\0\0\x07\x10\x15\0\x05\0", &mut |_| {});
        assert_eq!((stream.held(), stream.held.capacity()), (0, 0));
    }
}

//! Cuts a byte stream into frames by the length in each header, however the stream arrives in pieces.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{
    code::ComponentType,
    message::{HEADER_BYTES, MESSAGE_BYTES_MIN},
};

/// A fault of the framing. The start of the next message is unknown, so the stream is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The first TLV is not a SASP header.
    NotAHeader(ComponentType),
    /// The length of the header component is not 13.
    HeaderLength(u16),
    /// The message length is negative or under 17 bytes.
    MessageTooShort(i32),
    /// The message length is over the receiver's maximum.
    MessageTooLong {
        /// What the header states.
        stated: i32,
        /// The receiver's maximum.
        max: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::NotAHeader(found) => {
                write!(f, "the message begins with type 0x{:04X}, not with a SASP header (0x2010)", found.0)
            }
            FrameError::HeaderLength(found) => write!(f, "the SASP header states length {found}, not 13"),
            FrameError::MessageTooShort(stated) => {
                write!(f, "the header states a message of {stated} bytes, the shortest has {MESSAGE_BYTES_MIN}")
            }
            FrameError::MessageTooLong { stated, max } => {
                write!(f, "the header states a message of {stated} bytes, at most {max} are taken")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl FrameError {
    /// Bytes from the start of the message to the wrong field.
    pub const fn offset(self) -> usize {
        match self {
            FrameError::NotAHeader(_) => 0,
            FrameError::HeaderLength(_) => 2,
            FrameError::MessageTooShort(_) | FrameError::MessageTooLong { .. } => 5,
        }
    }
}

/// The length of the first message of `bytes`; `None` while the length field is missing. Finds a fault as soon as its bytes
/// are there.
pub fn message_length(bytes: &[u8], max: u32) -> Result<Option<usize>, FrameError> {
    if let Some(kind) = bytes.first_chunk().map(|kind| ComponentType(u16::from_be_bytes(*kind)))
        && kind != ComponentType::HEADER
    {
        return Err(FrameError::NotAHeader(kind));
    }
    if let Some([_, _, l0, l1]) = bytes.first_chunk() {
        let length = u16::from_be_bytes([*l0, *l1]);
        if usize::from(length) != HEADER_BYTES {
            return Err(FrameError::HeaderLength(length));
        }
    }
    let Some(&[_, _, _, _, _, l0, l1, l2, l3]) = bytes.first_chunk() else { return Ok(None) };
    let stated = i32::from_be_bytes([l0, l1, l2, l3]);
    match u32::try_from(stated) {
        Ok(length) if length > max => Err(FrameError::MessageTooLong { stated, max }),
        Ok(length) if length as usize >= MESSAGE_BYTES_MIN => Ok(Some(length as usize)),
        _ => Err(FrameError::MessageTooShort(stated)),
    }
}

/// Takes the next frame from the front of `input` without a copy; `None` while its end is missing. After an error the
/// stream is of no more use.
pub fn split_frame(input: &mut BytesMut, max: u32) -> Result<Option<Bytes>, FrameError> {
    let length = message_length(input, max)?.filter(|length| *length <= input.len());
    Ok(length.map(|length| input.split_to(length).freeze()))
}

/// An incremental framer. Keeps the bytes of one partial message, and no memory between messages. A frame that arrives
/// whole is not copied.
///
/// ```
/// use gwm::sasp::{Framer, Message};
///
/// // Two replies, in pieces as TCP may give them.
/// let stream = *b"\x20\x10\0\x0D\x01\0\0\0\x12\0\0\0\x07\x10\x15\0\x05\x40\x20\x10\0\x0D\x01\0\0\0\x12\0\0\0\x08\x10\x25\0\x05\0";
/// let mut framer = Framer::new(1 << 20); // the longest message
/// let mut ids = Vec::new();
/// for mut read in stream.chunks(10) {
///     while let Some(frame) = framer.next(&mut read)? {
///         let (header, _message) = Message::decode(frame)?;
///         ids.push(header.id);
///     }
/// }
/// assert_eq!((ids, framer.buffered()), (vec![7, 8], 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Framer {
    max: u32,
    partial: Vec<u8>,
}

impl Framer {
    /// A framer that takes messages of at most `max` bytes.
    pub fn new(max: u32) -> Framer {
        Framer { max, partial: Vec::new() }
    }

    /// The next frame. Advances `input` past the bytes that it takes. With `None` it has taken all of `input`, and needs
    /// more bytes. After an error the stream is of no more use.
    ///
    /// Call this method until it gives `None`, then again with more bytes. The frame lives until the next call.
    pub fn next<'f, 'i: 'f>(&'f mut self, input: &mut &'i [u8]) -> Result<Option<&'f [u8]>, FrameError> {
        if self.complete() {
            self.partial = Vec::new();
        }
        if self.partial.is_empty()
            && let Some(length) = message_length(input, self.max)?
            && let Some((frame, rest)) = input.split_at_checked(length)
        {
            *input = rest;
            return Ok(Some(frame));
        }
        loop {
            let wanted = match message_length(&self.partial, self.max)? {
                Some(length) => length - self.partial.len(),
                None => (HEADER_BYTES - 4) - self.partial.len(),
            };
            if wanted == 0 {
                return Ok(Some(&self.partial));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = input.split_at(wanted.min(input.len()));
            self.partial.extend_from_slice(taken);
            *input = rest;
        }
    }

    /// The number of bytes kept of a partial message.
    pub fn buffered(&self) -> usize {
        if self.complete() { 0 } else { self.partial.len() }
    }

    /// Whether `partial` is the last frame, which was complete.
    fn complete(&self) -> bool {
        matches!(message_length(&self.partial, self.max), Ok(Some(length)) if length == self.partial.len())
    }
}

//! The one bounded reader of a peer's bytes, and the faults of a message.

use std::fmt;

use super::code::ComponentType;

/// A fault of a message, and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Bytes from the start of the message to the wrong field.
    pub offset: usize,
    /// The fault, with the wrong value.
    pub fault: Fault,
}

/// A fault of a message's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A field or component is longer than the rest of its container.
    PastEnd {
        /// The field or component.
        what: &'static str,
        /// Bytes of the field or component.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// A component has another type than expected.
    Type {
        /// The expected type.
        expected: ComponentType,
        /// The type on the wire.
        found: ComponentType,
    },
    /// The length of a component does not agree with its type and inner lengths.
    Length {
        /// The component.
        component: ComponentType,
        /// The length of the fields; if the component is too short for them, their least length.
        expected: usize,
        /// The length on the wire.
        found: u16,
    },
    /// The type is none of the eleven messages.
    UnknownMessage(ComponentType),
    /// The message is not a request.
    NotARequest(ComponentType),
    /// The length in the header is not the length of the frame.
    MessageLength {
        /// What the header states.
        stated: i32,
        /// Bytes of the frame.
        actual: usize,
    },
    /// The version is not 1.
    Version(u8),
    /// So many bytes follow the last component.
    Leftover(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::PastEnd { what, left: 0, .. } => write!(f, "{what} is due, but nothing is left"),
            Fault::PastEnd { what, needed, left } => {
                write!(f, "{what} takes {needed} more byte{}, but only {left} left", if needed == 1 { "" } else { "s" })
            }
            Fault::Type { expected, found } => {
                write!(f, "expected {expected} (0x{:04X}), found type 0x{:04X}", expected.0, found.0)?;
                found.name().map_or(Ok(()), |name| write!(f, " ({name})"))
            }
            Fault::Length { component, expected, found } => {
                write!(f, "{component} states length {found}, but its fields take {expected}")
            }
            Fault::UnknownMessage(found) => write!(f, "0x{:04X} is not a SASP message type", found.0),
            Fault::NotARequest(found) => write!(f, "{found} (0x{:04X}) is not a request", found.0),
            Fault::MessageLength { stated, actual } => {
                write!(f, "the header states a message of {stated} bytes, this one has {actual}")
            }
            Fault::Version(version) => write!(f, "version {version}, only version 1 exists"),
            Fault::Leftover(bytes) => {
                write!(f, "{bytes} byte{} left over after the last component", if bytes == 1 { "" } else { "s" })
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Reads big-endian fields, and counts the bytes from the start of the message.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Reader<'a> {
        Reader { bytes, offset }
    }

    /// Bytes from the start of the message to the next field.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.bytes.split_at_checked(count) {
            Some((taken, rest)) => {
                self.bytes = rest;
                self.offset += count;
                Ok(taken)
            }
            None => Err(self.error(Fault::PastEnd { what, needed: count, left: self.bytes.len() })),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        match self.bytes.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.bytes = rest;
                self.offset += N;
                Ok(*taken)
            }
            None => Err(self.error(Fault::PastEnd { what, needed: N, left: self.bytes.len() })),
        }
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// Reads a component of this type and a fixed length: its `FIELDS` bytes after type and length.
    #[inline]
    pub(crate) fn fixed<const FIELDS: usize>(&mut self, expected: ComponentType) -> Result<[u8; FIELDS], DecodeError> {
        let start = self.offset;
        let length = self.type_and_length(expected)?;
        if usize::from(length) != FIELDS + 4 {
            let fault = Fault::Length { component: expected, expected: FIELDS + 4, found: length };
            return Err(DecodeError { offset: start + 2, fault });
        }
        self.array(component_name(expected))
    }

    /// Begins a component of this type and a length of at least `least`, with type and length. Gives a reader of its
    /// fields, which [`Reader::end_of`] must end.
    #[inline]
    pub(crate) fn variable(&mut self, expected: ComponentType, least: u16) -> Result<Reader<'a>, DecodeError> {
        let start = self.offset;
        let length = self.type_and_length(expected)?;
        if length < least {
            let fault = Fault::Length { component: expected, expected: least.into(), found: length };
            return Err(DecodeError { offset: start + 2, fault });
        }
        let offset = self.offset;
        Ok(Reader { bytes: self.take(usize::from(length) - 4, component_name(expected))?, offset })
    }

    /// Ends a component that [`Reader::variable`] began. If bytes are left, the length is wrong.
    #[inline]
    pub(crate) fn end_of(self, component: ComponentType, start: usize) -> Result<(), DecodeError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let expected = self.offset - start;
        let found = (expected + self.bytes.len()) as u16; // a 16-bit length on the wire
        Err(DecodeError { offset: start + 2, fault: Fault::Length { component, expected, found } })
    }

    /// Ends the message: no byte may be left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.error(Fault::Leftover(self.bytes.len()))) }
    }

    #[inline]
    fn type_and_length(&mut self, expected: ComponentType) -> Result<u16, DecodeError> {
        let start = self.offset;
        let [t0, t1, l0, l1] = self.array(component_name(expected))?;
        let found = ComponentType(u16::from_be_bytes([t0, t1]));
        if found != expected {
            return Err(DecodeError { offset: start, fault: Fault::Type { expected, found } });
        }
        Ok(u16::from_be_bytes([l0, l1]))
    }

    pub(crate) fn error(&self, fault: Fault) -> DecodeError {
        DecodeError { offset: self.offset, fault }
    }
}

fn component_name(component: ComponentType) -> &'static str {
    component.name().unwrap_or("component")
}

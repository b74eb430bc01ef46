//! Appends messages to a buffer in one pass, and writes the counts and the length at the end.

use std::{fmt, marker::PhantomData};

use bytes::{BufMut, BytesMut};

use super::{
    VERSION,
    code::{ComponentType, Health, LbFlags, Reason, ReturnCode, SenderFlags},
    component::{Entry, GroupData, MemberData, MemberState, WeightedMember, sealed::Wire},
    image::{self, Prefix},
    message::HEADER_BYTES,
};

/// A message that does not fit the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A UID, name or label has more than 255 bytes.
    TooLong {
        /// The field.
        what: &'static str,
        /// The length of the field.
        bytes: usize,
    },
    /// The message has more than 65535 groups, or a group has more than 65535 members.
    TooMany {
        /// Groups or members.
        what: &'static str,
    },
    /// The message has more than 2,147,483,647 bytes.
    MessageLength(usize),
    /// An entry comes before the first group.
    NoGroup,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::TooLong { what, bytes } => write!(f, "{what} of {bytes} bytes: at most 255 fit"),
            EncodeError::TooMany { what } => write!(f, "more than 65535 {what}"),
            EncodeError::MessageLength(bytes) => {
                write!(f, "a message of {bytes} bytes: at most {} fit", i32::MAX)
            }
            EncodeError::NoGroup => f.write_str("a member without a group"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// A growing buffer that lets the writer change its bytes later: `Vec<u8>` or `BytesMut`.
pub trait Buffer: BufMut + AsRef<[u8]> + AsMut<[u8]> {
    /// Drops all bytes after the first `length`.
    fn truncate(&mut self, length: usize);
}

impl Buffer for Vec<u8> {
    fn truncate(&mut self, length: usize) {
        self.truncate(length);
    }
}

impl Buffer for BytesMut {
    fn truncate(&mut self, length: usize) {
        self.truncate(length);
    }
}

/// The buffer, and the first error.
#[derive(Debug)]
pub struct Sink<'b, B> {
    out: &'b mut B,
    error: Option<EncodeError>,
}

impl<B: BufMut> Sink<'_, B> {
    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn type_and_length(&mut self, component: ComponentType, length: usize) {
        self.u16(component.0);
        self.u16(length as u16); // exact, or `short` reports a field that is too long
    }

    /// Appends a byte of length, and the bytes.
    pub(crate) fn short(&mut self, bytes: &[u8], what: &'static str) {
        match u8::try_from(bytes.len()) {
            Ok(length) => {
                self.bytes(&[length]);
                self.bytes(bytes);
            }
            Err(_) => self.fail(EncodeError::TooLong { what, bytes: bytes.len() }),
        }
    }

    fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }
}

impl<B: Buffer> Sink<'_, B> {
    fn written(&self) -> usize {
        self.out.as_ref().len()
    }

    fn patch<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.out.as_mut()[at..at + N].copy_from_slice(&bytes); // positions that this module has written
    }
}

/// Appends one message to a buffer. `T` is the type of the entries.
///
/// If the message does not fit the wire format (a label of 300 bytes, 70,000 members), [`Writer::finish`] gives an error and
/// removes the message from the buffer.
#[derive(Debug)]
#[must_use = "a message ends with `finish`"]
pub struct Writer<'b, T, B = Vec<u8>> {
    sink: Sink<'b, B>,
    start: usize,
    groups: u32,
    groups_at: usize,
    entries: u32,
    entries_at: usize,
    lists: PhantomData<T>,
}

impl<'b, T, B: Buffer> Writer<'b, T, B> {
    /// Begins a message. `fields` are the fields of the message component before the group count.
    fn begin(out: &'b mut B, id: u32, message: ComponentType, fields: &[u8]) -> Self {
        let start = out.as_ref().len();
        let mut sink = Sink { out, error: None };
        sink.type_and_length(ComponentType::HEADER, HEADER_BYTES);
        sink.bytes(&[VERSION, 0, 0, 0, 0]);
        sink.bytes(&id.to_be_bytes());
        sink.type_and_length(message, 4 + fields.len() + 2);
        sink.bytes(fields);
        let groups_at = sink.written();
        sink.u16(0);
        Writer { sink, start, groups: 0, groups_at, entries: 0, entries_at: 0, lists: PhantomData }
    }

    /// Ends the message: writes counts and length. On an error, the buffer is as before the message.
    pub fn finish(self) -> Result<(), EncodeError> {
        self.finish_before(0)
    }

    /// Like [`Writer::finish`], and the message has so many bytes after those in the buffer.
    pub(crate) fn finish_before(mut self, body: usize) -> Result<(), EncodeError> {
        self.end_group();
        let length = self.sink.written() - self.start + body;
        match (u16::try_from(self.groups), i32::try_from(length)) {
            (Err(_), _) => self.sink.fail(EncodeError::TooMany { what: "groups" }),
            (_, Err(_)) => self.sink.fail(EncodeError::MessageLength(length)),
            (Ok(groups), Ok(length)) => {
                self.sink.patch(self.groups_at, groups.to_be_bytes());
                self.sink.patch(self.start + 5, length.to_be_bytes());
            }
        }
        match self.sink.error {
            None => Ok(()),
            Some(error) => {
                self.sink.out.truncate(self.start);
                Err(error)
            }
        }
    }

    fn end_group(&mut self) {
        if self.entries_at == 0 {
            return;
        }
        match u16::try_from(self.entries) {
            Ok(entries) => self.sink.patch(self.entries_at, entries.to_be_bytes()),
            Err(_) => self.sink.fail(EncodeError::TooMany { what: "members in a group" }),
        }
    }
}

impl<'b, B: Buffer> Writer<'b, MemberData<'_>, B> {
    /// Begins a Registration Request.
    pub fn registration_request(out: &'b mut B, id: u32, flags: SenderFlags) -> Self {
        Writer::begin(out, id, ComponentType::REGISTRATION_REQUEST, &[flags.0])
    }

    /// Begins a Deregistration Request.
    pub fn deregistration_request(out: &'b mut B, id: u32, flags: SenderFlags, reason: Reason) -> Self {
        Writer::begin(out, id, ComponentType::DEREGISTRATION_REQUEST, &[flags.0, reason.0])
    }
}

impl<'b, B: Buffer> Writer<'b, MemberState<'_>, B> {
    /// Begins a Set Member State Request.
    pub fn set_member_state_request(out: &'b mut B, id: u32, flags: SenderFlags) -> Self {
        Writer::begin(out, id, ComponentType::SET_MEMBER_STATE_REQUEST, &[flags.0])
    }
}

impl<'b, B: Buffer> Writer<'b, WeightedMember<'_>, B> {
    /// Begins a Get Weights Reply.
    pub fn get_weights_reply(out: &'b mut B, id: u32, code: ReturnCode, interval_seconds: u16) -> Self {
        let [high, low] = interval_seconds.to_be_bytes();
        Writer::begin(out, id, ComponentType::GET_WEIGHTS_REPLY, &[code.0, high, low])
    }

    /// Begins a Send Weights with message id 0.
    pub fn send_weights(out: &'b mut B) -> Self {
        Writer::send_weights_again(out, 0)
    }

    /// Begins a Send Weights with this id. Only a GWM of another make uses another id than 0.
    pub(super) fn send_weights_again(out: &'b mut B, id: u32) -> Self {
        Writer::begin(out, id, ComponentType::SEND_WEIGHTS, &[])
    }

    /// Appends the bytes of a group before its entries, with the count of these.
    pub(crate) fn encoded_group(&mut self, prefix: &Prefix, count: u16) {
        self.end_group();
        self.entries_at = 0; // an entry after the encoded group has no group
        let start = self.sink.written();
        self.sink.bytes(prefix.bytes());
        image::set_count(&mut self.sink.out.as_mut()[start..], count);
        self.groups += 1;
    }

    /// The buffer, to append encoded entries to.
    pub(crate) fn out(&mut self) -> &mut B {
        self.sink.out
    }
}

impl<'b, B: Buffer> Writer<'b, GroupData<'_>, B> {
    /// Begins a Get Weights Request. It lists names instead of groups.
    pub fn get_weights_request(out: &'b mut B, id: u32) -> Self {
        Writer::begin(out, id, ComponentType::GET_WEIGHTS_REQUEST, &[])
    }

    /// Appends the name of a group. An empty name asks for all groups.
    pub fn name(&mut self, data: GroupData<'_>) {
        data.write(&mut self.sink);
        self.groups += 1;
    }
}

impl<'a, T: Entry<'a>, B: Buffer> Writer<'_, T, B> {
    /// Begins a group. The next entries belong to this group.
    pub fn group(&mut self, data: GroupData<'_>) {
        self.end_group();
        self.sink.type_and_length(T::GROUP, 6);
        self.entries_at = self.sink.written();
        self.entries = 0;
        self.sink.u16(0);
        data.write(&mut self.sink);
        self.groups += 1;
    }

    /// Appends an entry to the last group.
    #[inline]
    pub fn entry(&mut self, entry: &T) {
        if self.entries_at == 0 {
            self.sink.fail(EncodeError::NoGroup);
        }
        entry.write(&mut self.sink);
        self.entries += 1;
    }
}

/// Appends a Set LB State Request. Panics if `out` has no room for it, as a slice may; `Vec` and `BytesMut` grow.
pub fn set_lb_state_request(
    out: &mut impl BufMut,
    id: u32,
    lb_uid: &[u8],
    health: Health,
    flags: LbFlags,
) -> Result<(), EncodeError> {
    if lb_uid.len() > u8::MAX.into() {
        return Err(EncodeError::TooLong { what: "LB UID", bytes: lb_uid.len() });
    }
    let mut sink = Sink { out, error: None };
    sink.type_and_length(ComponentType::HEADER, HEADER_BYTES);
    sink.bytes(&[VERSION]);
    sink.bytes(&((HEADER_BYTES + 7 + lb_uid.len()) as u32).to_be_bytes()); // at most 275
    sink.bytes(&id.to_be_bytes());
    sink.type_and_length(ComponentType::SET_LB_STATE_REQUEST, 7 + lb_uid.len());
    sink.short(lb_uid, "LB UID");
    sink.bytes(&[health.0, flags.0]);
    Ok(())
}

/// Appends a reply that is a return code alone: all but Get Weights Reply. `reply` is the type of the reply. This
/// function does not check it, because a request of an unknown type has a reply, too. Panics if `out` has no room
/// for 18 bytes, as a slice may; `Vec` and `BytesMut` grow.
pub fn reply(out: &mut impl BufMut, id: u32, reply: ComponentType, code: ReturnCode) {
    let mut sink = Sink { out, error: None };
    sink.type_and_length(ComponentType::HEADER, HEADER_BYTES);
    sink.bytes(&[VERSION]);
    sink.bytes(&((HEADER_BYTES + 5) as u32).to_be_bytes());
    sink.bytes(&id.to_be_bytes());
    sink.type_and_length(reply, 5);
    sink.bytes(&[code.0]);
}

/// Appends the begin of a group of weights, up to the entries, with a count of 0. UID and name must come from the wire, so
/// that they are not too long.
pub(crate) fn weight_group_prefix(out: &mut Vec<u8>, data: GroupData<'_>) {
    let mut sink = Sink { out, error: None };
    sink.type_and_length(ComponentType::GROUP_OF_WEIGHT_ENTRY_DATA, 6);
    sink.u16(0);
    data.write(&mut sink);
    debug_assert_eq!(sink.error, None);
}

/// Appends one entry of a group of weights. The label must come from the wire, so that it is not too long.
pub(crate) fn weighted_member(out: &mut Vec<u8>, member: &WeightedMember<'_>) {
    let mut sink = Sink { out, error: None };
    member.write(&mut sink);
    debug_assert_eq!(sink.error, None);
}

//! The header and the eleven messages (RFC 4678 sections 4 and 7).

use super::{
    VERSION,
    code::{ComponentType, Health, LbFlags, Reason, ReturnCode, SenderFlags},
    component::{GroupNames, Groups, MemberData, MemberState, WeightedMember},
    reader::{DecodeError, Fault, Reader},
    writer::{self, Buffer, EncodeError, Writer},
};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 13;

/// Bytes of the shortest message: a header, and the type and length of a component.
pub const MESSAGE_BYTES_MIN: usize = HEADER_BYTES + 4;

/// The SASP header (0x2010).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version, 1.
    pub version: u8,
    /// Bytes of the whole message, this header included.
    pub length: i32,
    /// The number of the request, which its reply repeats; 0 in Send Weights.
    pub id: u32,
}

impl Header {
    /// Reads the header at the start of `bytes`, and the type of the message component after it. Does not check version
    /// and length.
    pub fn read(bytes: &[u8]) -> Result<(Header, ComponentType), DecodeError> {
        let mut reader = Reader::new(bytes, 0);
        let header = Header::take(&mut reader)?;
        Ok((header, ComponentType(reader.u16("message type")?)))
    }

    fn take(reader: &mut Reader<'_>) -> Result<Header, DecodeError> {
        let [version, l0, l1, l2, l3, i0, i1, i2, i3] = reader.fixed(ComponentType::HEADER)?;
        Ok(Header { version, length: i32::from_be_bytes([l0, l1, l2, l3]), id: u32::from_be_bytes([i0, i1, i2, i3]) })
    }
}

/// A whole message. Names, labels and lists borrow from its frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'a> {
    /// 0x1010, LB or member → GWM.
    RegistrationRequest(RegistrationRequest<'a>),
    /// 0x1015.
    RegistrationReply(ReturnCode),
    /// 0x1020, LB or member → GWM.
    DeregistrationRequest(DeregistrationRequest<'a>),
    /// 0x1025.
    DeregistrationReply(ReturnCode),
    /// 0x1030, LB → GWM.
    GetWeightsRequest(GetWeightsRequest<'a>),
    /// 0x1035.
    GetWeightsReply(GetWeightsReply<'a>),
    /// 0x1040, GWM → LB.
    SendWeights(SendWeights<'a>),
    /// 0x1050, LB → GWM.
    SetLbStateRequest(SetLbStateRequest<'a>),
    /// 0x1055.
    SetLbStateReply(ReturnCode),
    /// 0x1060, LB or member → GWM.
    SetMemberStateRequest(SetMemberStateRequest<'a>),
    /// 0x1065.
    SetMemberStateReply(ReturnCode),
}

/// Registration Request (0x1010): adds members to groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegistrationRequest<'a> {
    /// Who sends it.
    pub flags: SenderFlags,
    /// Groups to create or extend. A group without members is created empty.
    pub groups: Groups<'a, MemberData<'a>>,
}

/// Deregistration Request (0x1020): removes members, groups or all groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeregistrationRequest<'a> {
    /// Who sends it.
    pub flags: SenderFlags,
    /// The reason.
    pub reason: Reason,
    /// Groups with the members to remove. A group without members is removed itself.
    pub groups: Groups<'a, MemberData<'a>>,
}

/// Get Weights Request (0x1030).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GetWeightsRequest<'a> {
    /// The wanted groups. An empty name means all groups.
    pub groups: GroupNames<'a>,
}

/// Get Weights Reply (0x1035).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GetWeightsReply<'a> {
    /// The return code.
    pub code: ReturnCode,
    /// The time until the LB should ask again, in seconds.
    pub interval_seconds: u16,
    /// The weights, in the order of the request.
    pub groups: Groups<'a, WeightedMember<'a>>,
}

/// Send Weights (0x1040): the push.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SendWeights<'a> {
    /// The weights of the groups that have changed.
    pub groups: Groups<'a, WeightedMember<'a>>,
}

/// Set LB State Request (0x1050).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLbStateRequest<'a> {
    /// The load balancer's UID.
    pub lb_uid: &'a [u8],
    /// The load balancer's health, for people.
    pub health: Health,
    /// Push, trust, no-change/no-send.
    pub flags: LbFlags,
}

/// Set Member State Request (0x1060): opaque state and quiesce.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetMemberStateRequest<'a> {
    /// Who sends it.
    pub flags: SenderFlags,
    /// Groups with the members and their states.
    pub groups: Groups<'a, MemberState<'a>>,
}

impl<'a> Message<'a> {
    /// Decodes a frame, and checks all types, lengths and counts, and that no byte is left over.
    pub fn decode(frame: &'a [u8]) -> Result<(Header, Message<'a>), DecodeError> {
        let (header, mut reader) = Message::header(frame)?;
        let message = Message::body(&mut reader, Groups::check, Groups::check, Groups::check, GroupNames::check)?;
        reader.finish()?;
        Ok((header, message))
    }

    /// Decodes a frame that [`Message::decode`] has accepted before, without another check of its lists. With another frame,
    /// the lists may end early.
    pub fn decode_trusted(frame: &'a [u8]) -> Result<(Header, Message<'a>), DecodeError> {
        let (header, mut reader) = Message::header(frame)?;
        let message = Message::body_unchecked(&mut reader)?;
        Ok((header, message))
    }

    /// Reads a frame that [`Message::decode`] refuses, as far as possible: the header, and the message. The lists end before
    /// the fault.
    pub fn decode_broken(frame: &'a [u8]) -> (Option<Header>, Option<Message<'a>>) {
        let mut reader = Reader::new(frame, 0);
        let Ok(header) = Header::take(&mut reader) else { return (None, None) };
        let message = if header.version == VERSION { Message::body_unchecked(&mut reader).ok() } else { None };
        (Some(header), message)
    }

    fn body_unchecked(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
        Message::body(
            reader,
            |count, reader| Ok(Groups::trust(count, *reader)),
            |count, reader| Ok(Groups::trust(count, *reader)),
            |count, reader| Ok(Groups::trust(count, *reader)),
            |count, reader| Ok(GroupNames::trust(count, *reader)),
        )
    }

    fn header(frame: &'a [u8]) -> Result<(Header, Reader<'a>), DecodeError> {
        let mut reader = Reader::new(frame, 0);
        let header = Header::take(&mut reader)?;
        if usize::try_from(header.length) != Ok(frame.len()) {
            let fault = Fault::MessageLength { stated: header.length, actual: frame.len() };
            return Err(DecodeError { offset: 5, fault });
        }
        if header.version != VERSION {
            return Err(DecodeError { offset: 4, fault: Fault::Version(header.version) });
        }
        Ok((header, reader))
    }

    /// Reads the message component. The functions take the lists after it.
    fn body(
        reader: &mut Reader<'a>,
        members: impl Fn(u16, &mut Reader<'a>) -> Result<Groups<'a, MemberData<'a>>, DecodeError>,
        weights: impl Fn(u16, &mut Reader<'a>) -> Result<Groups<'a, WeightedMember<'a>>, DecodeError>,
        states: impl Fn(u16, &mut Reader<'a>) -> Result<Groups<'a, MemberState<'a>>, DecodeError>,
        names: impl Fn(u16, &mut Reader<'a>) -> Result<GroupNames<'a>, DecodeError>,
    ) -> Result<Message<'a>, DecodeError> {
        let start = *reader;
        let message = ComponentType(reader.u16("message type")?);
        *reader = start;
        Ok(match message {
            ComponentType::REGISTRATION_REQUEST => {
                let [flags, c0, c1] = reader.fixed(message)?;
                let groups = members(u16::from_be_bytes([c0, c1]), reader)?;
                Message::RegistrationRequest(RegistrationRequest { flags: SenderFlags(flags), groups })
            }
            ComponentType::DEREGISTRATION_REQUEST => {
                let [flags, reason, c0, c1] = reader.fixed(message)?;
                let groups = members(u16::from_be_bytes([c0, c1]), reader)?;
                let (flags, reason) = (SenderFlags(flags), Reason(reason));
                Message::DeregistrationRequest(DeregistrationRequest { flags, reason, groups })
            }
            ComponentType::GET_WEIGHTS_REQUEST => {
                let count = u16::from_be_bytes(reader.fixed(message)?);
                Message::GetWeightsRequest(GetWeightsRequest { groups: names(count, reader)? })
            }
            ComponentType::GET_WEIGHTS_REPLY => {
                let [code, i0, i1, c0, c1] = reader.fixed(message)?;
                let groups = weights(u16::from_be_bytes([c0, c1]), reader)?;
                let interval_seconds = u16::from_be_bytes([i0, i1]);
                Message::GetWeightsReply(GetWeightsReply { code: ReturnCode(code), interval_seconds, groups })
            }
            ComponentType::SEND_WEIGHTS => {
                let count = u16::from_be_bytes(reader.fixed(message)?);
                Message::SendWeights(SendWeights { groups: weights(count, reader)? })
            }
            ComponentType::SET_LB_STATE_REQUEST => {
                let at = reader.offset();
                let mut fields = reader.variable(message, 7)?;
                let uid_length = fields.u8("LB UID length")?;
                let lb_uid = fields.take(uid_length.into(), "LB UID")?;
                let health = Health(fields.u8("health")?);
                let flags = LbFlags(fields.u8("flags")?);
                fields.end_of(message, at)?;
                Message::SetLbStateRequest(SetLbStateRequest { lb_uid, health, flags })
            }
            ComponentType::SET_MEMBER_STATE_REQUEST => {
                let [flags, c0, c1] = reader.fixed(message)?;
                let groups = states(u16::from_be_bytes([c0, c1]), reader)?;
                Message::SetMemberStateRequest(SetMemberStateRequest { flags: SenderFlags(flags), groups })
            }
            ComponentType::REGISTRATION_REPLY => Message::RegistrationReply(code(reader, message)?),
            ComponentType::DEREGISTRATION_REPLY => Message::DeregistrationReply(code(reader, message)?),
            ComponentType::SET_LB_STATE_REPLY => Message::SetLbStateReply(code(reader, message)?),
            ComponentType::SET_MEMBER_STATE_REPLY => Message::SetMemberStateReply(code(reader, message)?),
            unknown => return Err(start.error(Fault::UnknownMessage(unknown))),
        })
    }

    /// The type of the message component.
    pub const fn component_type(&self) -> ComponentType {
        match self {
            Message::RegistrationRequest(_) => ComponentType::REGISTRATION_REQUEST,
            Message::RegistrationReply(_) => ComponentType::REGISTRATION_REPLY,
            Message::DeregistrationRequest(_) => ComponentType::DEREGISTRATION_REQUEST,
            Message::DeregistrationReply(_) => ComponentType::DEREGISTRATION_REPLY,
            Message::GetWeightsRequest(_) => ComponentType::GET_WEIGHTS_REQUEST,
            Message::GetWeightsReply(_) => ComponentType::GET_WEIGHTS_REPLY,
            Message::SendWeights(_) => ComponentType::SEND_WEIGHTS,
            Message::SetLbStateRequest(_) => ComponentType::SET_LB_STATE_REQUEST,
            Message::SetLbStateReply(_) => ComponentType::SET_LB_STATE_REPLY,
            Message::SetMemberStateRequest(_) => ComponentType::SET_MEMBER_STATE_REQUEST,
            Message::SetMemberStateReply(_) => ComponentType::SET_MEMBER_STATE_REPLY,
        }
    }

    /// Appends the message to `out` with this id (0 for Send Weights). A decoded message with the id of its header gives the
    /// same bytes again. On an error, `out` is as before.
    pub fn encode(&self, id: u32, out: &mut impl Buffer) -> Result<(), EncodeError> {
        match self {
            Message::RegistrationRequest(m) => write_groups(Writer::registration_request(out, id, m.flags), m.groups),
            Message::DeregistrationRequest(m) => {
                write_groups(Writer::deregistration_request(out, id, m.flags, m.reason), m.groups)
            }
            Message::GetWeightsRequest(m) => {
                let mut writer = Writer::get_weights_request(out, id);
                m.groups.iter().for_each(|name| writer.name(name));
                writer.finish()
            }
            Message::GetWeightsReply(m) => {
                write_groups(Writer::get_weights_reply(out, id, m.code, m.interval_seconds), m.groups)
            }
            Message::SendWeights(m) => write_groups(Writer::send_weights_again(out, id), m.groups),
            Message::SetLbStateRequest(m) => writer::set_lb_state_request(out, id, m.lb_uid, m.health, m.flags),
            Message::SetMemberStateRequest(m) => {
                write_groups(Writer::set_member_state_request(out, id, m.flags), m.groups)
            }
            Message::RegistrationReply(code)
            | Message::DeregistrationReply(code)
            | Message::SetLbStateReply(code)
            | Message::SetMemberStateReply(code) => {
                writer::reply(out, id, self.component_type(), *code);
                Ok(())
            }
        }
    }
}

fn code(reader: &mut Reader<'_>, reply: ComponentType) -> Result<ReturnCode, DecodeError> {
    reader.fixed(reply).map(|[code]| ReturnCode(code))
}

fn write_groups<'a, T: super::Entry<'a>>(
    mut writer: Writer<'_, T, impl Buffer>,
    groups: Groups<'a, T>,
) -> Result<(), EncodeError> {
    for group in groups {
        writer.group(group.data);
        group.entries().for_each(|entry| writer.entry(&entry));
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of version 1 and id 7 with this body.
    fn message(body: &[u8]) -> Vec<u8> {
        let length = (HEADER_BYTES + body.len()) as u32;
        [b"\x20\x10\0\x0D\x01", &length.to_be_bytes()[..], b"\0\0\0\x07", body].concat()
    }

    const NAME: &[u8] = b"\x30\x11\0\x0A\x03LB1\x01G";
    const MEMBER: &[u8] = b"\x30\x10\0\x19\x06\0\x50\0\0\0\0\0\0\0\0\0\0\0\0\x0A\0\0\x01\x01\xFF";
    const ENTRY: &[u8] = b"\x30\x12\0\x08\x32\x0D\0\x28";

    /// A message with each kind of list, and its `Debug` form.
    fn lists() -> [(Vec<u8>, &'static str); 3] {
        let weights = [b"\x10\x40\0\x06\0\x01\x40\x11\0\x06\0\x01", NAME, MEMBER, ENTRY].concat();
        let members = [b"\x10\x10\0\x07\x01\0\x01\x40\x10\0\x06\0\x01", NAME, MEMBER].concat();
        let names = [b"\x10\x30\0\x06\0\x01", NAME].concat();
        [
            (
                message(&weights),
                "SendWeights(SendWeights { groups: [LB1/G [WeightedMember { member: 10.0.0.1:80 \"\\xFF\", entry: \
                 WeightEntry { state: 50, flags: EntryFlags(0x0D contact registered-by-lb confident), weight: 40 } }]] })",
            ),
            (
                message(&members),
                "RegistrationRequest(RegistrationRequest { flags: SenderFlags(0x01 load-balancer), \
                 groups: [LB1/G [10.0.0.1:80 \"\\xFF\"]] })",
            ),
            (message(&names), "GetWeightsRequest(GetWeightsRequest { groups: [LB1/G] })"),
        ]
    }

    #[test]
    fn programmers_see_what_a_message_lists() {
        for (bytes, shown) in lists() {
            assert_eq!(format!("{:?}", Message::decode(&bytes).unwrap().1), shown);
        }
    }

    #[test]
    fn messages_are_equal_where_all_that_they_list_is() {
        for (bytes, _) in lists() {
            let (_, one) = Message::decode(&bytes).unwrap();
            assert_eq!(Message::decode(&bytes.clone()).unwrap().1, one);
            let mut last = bytes.clone();
            *last.last_mut().unwrap() ^= 1;
            assert_ne!(Message::decode(&last).unwrap().1, one, "another value");
            let mut none = bytes[..bytes.len().min(20)].to_vec();
            none.truncate(HEADER_BYTES + usize::from(bytes[16]));
            *none.last_mut().unwrap() = 0;
            none[8] = none.len() as u8;
            assert_ne!(Message::decode(&none).unwrap().1, one, "nothing listed");
            // In a list that was not checked, the count may be wrong.
            let mut more = bytes.clone();
            more[HEADER_BYTES + usize::from(bytes[16]) - 1] = 2;
            assert_ne!(Message::decode_trusted(&more).unwrap().1, one, "another count of the same");
        }
    }
}

//! The codec on literal bytes: every message and component encoded and decoded, every truncation and split, every wrong
//! length, type and count. The bytes are written by hand from RFC 4678; the encoder did not make them.

use bytes::BytesMut;
use gwm::sasp::{
    ComponentType, DecodeError, Dump, Endpoint, EntryFlags, Fault, FrameError, Framer, GroupData, Groups, Health,
    LbFlags, MemberData, MemberFlags, MemberState, Message, Reason, ReturnCode, SenderFlags, Summary, WeightEntry,
    WeightedMember, Writer, frame, split_frame, writer,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Every message; together they have every component. The Get Weights Reply is the RFC's own example.
const MESSAGES: [(ComponentType, &str); 11] = [
    (
        ComponentType::REGISTRATION_REQUEST,
        "2010 000D 01 0000006E 00000001  1010 0007 01 0002
         4010 0006 0002  3011 000E 03 4C4231 05 4641524D31
         3010 0018 06 0050 000000000000000000000000 0A0A0A01 00
         3010 001B 11 0035 20010DB8000000000000000000000001 03 646E73
         4010 0006 0000  3011 000D 03 4C4231 04 47525032",
    ),
    (ComponentType::REGISTRATION_REPLY, "2010 000D 01 00000012 00000001  1015 0005 40"),
    (
        ComponentType::DEREGISTRATION_REQUEST,
        "2010 000D 01 00000046 00000002  1020 0008 00 80 0001
         4010 0006 0001  3011 000C 03 4C4231 03 575757
         3010 001F 00 0000 000000000000000000000000 C0A80001 07 C3A922005CFF0A",
    ),
    (ComponentType::DEREGISTRATION_REPLY, "2010 000D 01 00000012 00000002  1025 0005 00"),
    (
        ComponentType::GET_WEIGHTS_REQUEST,
        "2010 000D 01 0000002A 00000003  1030 0006 0002  3011 000E 03 4C4231 05 4641524D31  3011 0009 03 4C4231 00",
    ),
    (
        ComponentType::GET_WEIGHTS_REPLY,
        "2010 000D 01 0000006A 32000000  1035 0009 00 0040 0001
         4011 0006 0002   3011 000E 03 4C4231 05 4641524D31
         3010 0018 06 0050 000000000000000000000000 0A0A0A01 00   3012 0008 00 0D 0028
         3010 0018 06 0050 000000000000000000000000 0A0A0A02 00   3012 0008 00 0D 0014",
    ),
    (
        ComponentType::SEND_WEIGHTS,
        "2010 000D 01 00000047 00000000  1040 0006 0001
         4011 0006 0001   3011 000E 03 4C4231 05 4641524D31
         3010 0018 06 0050 000000000000000000000000 0A0A0A01 00   3012 0008 32 FF FFFF",
    ),
    (ComponentType::SET_LB_STATE_REQUEST, "2010 000D 01 00000017 00000004  1050 000A 03 4C4231 7F 05"),
    (ComponentType::SET_LB_STATE_REPLY, "2010 000D 01 00000012 00000004  1055 0005 51"),
    (
        ComponentType::SET_MEMBER_STATE_REQUEST,
        "2010 000D 01 00000046 00000005  1060 0007 01 0001
         4012 0006 0001   3011 000E 03 4C4231 05 4641524D31
         3010 0018 06 0050 000000000000000000000000 0A0A0A03 00   3013 0006 0A 01",
    ),
    (ComponentType::SET_MEMBER_STATE_REPLY, "2010 000D 01 00000012 00000005  1065 0005 99"),
];

fn literal(kind: ComponentType) -> Vec<u8> {
    hex(MESSAGES.iter().find(|(found, _)| *found == kind).unwrap().1)
}

fn tcp80(last: u8) -> MemberData<'static> {
    MemberData { endpoint: Endpoint::new([10, 10, 10, last].into(), 6, 80), label: b"" }
}

const FARM1: GroupData<'_> = GroupData { lb_uid: b"LB1", name: b"FARM1" };

/// The same messages, made by the encoder.
fn encoded(kind: ComponentType) -> Vec<u8> {
    let mut out = Vec::new();
    match kind {
        ComponentType::REGISTRATION_REQUEST => {
            let mut writer = Writer::registration_request(&mut out, 1, SenderFlags::LOAD_BALANCER);
            writer.group(FARM1);
            writer.entry(&tcp80(1));
            writer
                .entry(&MemberData { endpoint: Endpoint::new("2001:db8::1".parse().unwrap(), 17, 53), label: b"dns" });
            writer.group(GroupData { lb_uid: b"LB1", name: b"GRP2" });
            writer.finish().unwrap();
        }
        ComponentType::DEREGISTRATION_REQUEST => {
            let mut writer = Writer::deregistration_request(&mut out, 2, SenderFlags::NONE, Reason(0x80));
            writer.group(GroupData { lb_uid: b"LB1", name: b"WWW" });
            let endpoint = Endpoint::new([192, 168, 0, 1].into(), 0, 0);
            writer.entry(&MemberData { endpoint, label: b"\xC3\xA9\"\0\\\xFF\n" });
            writer.finish().unwrap();
        }
        ComponentType::GET_WEIGHTS_REQUEST => {
            let mut writer = Writer::get_weights_request(&mut out, 3);
            writer.name(FARM1);
            writer.name(GroupData { lb_uid: b"LB1", name: b"" });
            writer.finish().unwrap();
        }
        ComponentType::GET_WEIGHTS_REPLY => {
            let mut writer = Writer::get_weights_reply(&mut out, 0x3200_0000, ReturnCode::SUCCESSFUL, 64);
            writer.group(FARM1);
            let flags = EntryFlags::CONTACT | EntryFlags::REGISTERED_BY_LB | EntryFlags::CONFIDENT;
            for (last, weight) in [(1, 40), (2, 20)] {
                let entry = WeightEntry { state: 0, flags, weight };
                writer.entry(&WeightedMember { member: tcp80(last), entry });
            }
            writer.finish().unwrap();
        }
        ComponentType::SEND_WEIGHTS => {
            let mut writer = Writer::send_weights(&mut out);
            writer.group(FARM1);
            let entry = WeightEntry { state: 0x32, flags: EntryFlags(0xFF), weight: 0xFFFF };
            writer.entry(&WeightedMember { member: tcp80(1), entry });
            writer.finish().unwrap();
        }
        ComponentType::SET_LB_STATE_REQUEST => {
            let flags = LbFlags::PUSH | LbFlags::NO_CHANGE_NO_SEND;
            writer::set_lb_state_request(&mut out, 4, b"LB1", Health::BEST, flags).unwrap();
        }
        ComponentType::SET_MEMBER_STATE_REQUEST => {
            let mut writer = Writer::set_member_state_request(&mut out, 5, SenderFlags::LOAD_BALANCER);
            writer.group(FARM1);
            writer.entry(&MemberState { member: tcp80(3), state: 0x0A, flags: MemberFlags::QUIESCE });
            writer.finish().unwrap();
        }
        ComponentType::REGISTRATION_REPLY => writer::reply(&mut out, 1, kind, ReturnCode::ALREADY_REGISTERED),
        ComponentType::DEREGISTRATION_REPLY => writer::reply(&mut out, 2, kind, ReturnCode::SUCCESSFUL),
        ComponentType::SET_LB_STATE_REPLY => writer::reply(&mut out, 4, kind, ReturnCode::LB_UID_SIZE),
        ComponentType::SET_MEMBER_STATE_REPLY => writer::reply(&mut out, 5, kind, ReturnCode(0x99)),
        other => panic!("{other:?} is not a message"),
    }
    out
}

/// A message that must decode.
fn decode(bytes: &[u8]) -> Message<'_> {
    Message::decode(bytes).unwrap_or_else(|error| panic!("{error} in {bytes:02X?}")).1
}

fn list<'a, T: gwm::sasp::Entry<'a>>(groups: Groups<'a, T>) -> Vec<(GroupData<'a>, Vec<T>)> {
    groups.into_iter().map(|group| (group.data, group.entries().collect())).collect()
}

#[test]
fn every_message_is_written_byte_for_byte() {
    for (kind, text) in MESSAGES {
        assert_eq!(encoded(kind), hex(text), "{kind}");
    }
}

#[test]
fn every_message_reads_as_itself_and_writes_back() {
    for (kind, text) in MESSAGES {
        let bytes = hex(text);
        let (header, message) = Message::decode(&bytes).unwrap();
        assert_eq!((header.version, header.length as usize), (1, bytes.len()));
        assert_eq!(message.component_type(), kind);
        let mut again = Vec::new();
        message.encode(header.id, &mut again).unwrap();
        assert_eq!(again, bytes, "{kind}");
        assert_eq!(Message::decode_trusted(&bytes).unwrap(), (header, message));
    }
}

#[test]
fn fields_have_the_values_of_the_bytes() {
    let bytes = literal(ComponentType::REGISTRATION_REQUEST);
    let Message::RegistrationRequest(request) = decode(&bytes) else { panic!() };
    assert_eq!(request.flags, SenderFlags::LOAD_BALANCER);
    let dns = MemberData { endpoint: Endpoint::new("2001:db8::1".parse().unwrap(), 17, 53), label: b"dns" };
    let groups = vec![(FARM1, vec![tcp80(1), dns]), (GroupData { lb_uid: b"LB1", name: b"GRP2" }, vec![])];
    assert_eq!(list(request.groups), groups);

    let bytes = literal(ComponentType::DEREGISTRATION_REQUEST);
    let Message::DeregistrationRequest(request) = decode(&bytes) else { panic!() };
    assert_eq!((request.flags, request.reason), (SenderFlags::NONE, Reason(0x80)));
    let endpoint = Endpoint { protocol: 0, port: 0, address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 168, 0, 1] };
    let member = MemberData { endpoint, label: b"\xC3\xA9\"\0\\\xFF\n" };
    assert_eq!(list(request.groups), [(GroupData { lb_uid: b"LB1", name: b"WWW" }, vec![member])]);

    let bytes = literal(ComponentType::GET_WEIGHTS_REQUEST);
    let Message::GetWeightsRequest(request) = decode(&bytes) else { panic!() };
    let names: Vec<_> = request.groups.iter().collect();
    assert_eq!(names, [FARM1, GroupData { lb_uid: b"LB1", name: b"" }]);

    let bytes = literal(ComponentType::GET_WEIGHTS_REPLY);
    let Message::GetWeightsReply(reply) = decode(&bytes) else { panic!() };
    assert_eq!((reply.code, reply.interval_seconds), (ReturnCode::SUCCESSFUL, 64));
    let weighted = |last, weight| WeightedMember {
        member: tcp80(last),
        entry: WeightEntry { state: 0, flags: EntryFlags(0x0D), weight },
    };
    assert_eq!(list(reply.groups), [(FARM1, vec![weighted(1, 40), weighted(2, 20)])]);

    let bytes = literal(ComponentType::SEND_WEIGHTS);
    let Message::SendWeights(push) = decode(&bytes) else { panic!() };
    let entry = WeightEntry { state: 0x32, flags: EntryFlags(0xFF), weight: 0xFFFF };
    assert_eq!(list(push.groups), [(FARM1, vec![WeightedMember { member: tcp80(1), entry }])]);

    let bytes = literal(ComponentType::SET_LB_STATE_REQUEST);
    let Message::SetLbStateRequest(request) = decode(&bytes) else { panic!() };
    assert_eq!((request.lb_uid, request.health, request.flags), (&b"LB1"[..], Health(0x7F), LbFlags(0x05)));

    let bytes = literal(ComponentType::SET_MEMBER_STATE_REQUEST);
    let Message::SetMemberStateRequest(request) = decode(&bytes) else { panic!() };
    let state = MemberState { member: tcp80(3), state: 0x0A, flags: MemberFlags::QUIESCE };
    assert_eq!(list(request.groups), [(FARM1, vec![state])]);

    for (kind, code) in [
        (ComponentType::REGISTRATION_REPLY, 0x40),
        (ComponentType::DEREGISTRATION_REPLY, 0x00),
        (ComponentType::SET_LB_STATE_REPLY, 0x51),
        (ComponentType::SET_MEMBER_STATE_REPLY, 0x99),
    ] {
        let bytes = literal(kind);
        let (Message::RegistrationReply(found)
        | Message::DeregistrationReply(found)
        | Message::SetLbStateReply(found)
        | Message::SetMemberStateReply(found)) = decode(&bytes)
        else {
            panic!("{kind}")
        };
        assert_eq!(found, ReturnCode(code));
    }
}

/// Writes `length` into the header, as the message's length.
fn restate(bytes: &mut [u8], length: usize) {
    bytes[5..9].copy_from_slice(&(length as u32).to_be_bytes());
}

/// Where each TLV of a message begins; each TLV follows the end of the one before.
fn components(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![];
    let mut at = 0;
    while at < bytes.len() {
        starts.push(at);
        at += usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
    }
    starts
}

#[test]
fn every_truncation_is_refused() {
    for (kind, text) in MESSAGES {
        let whole = hex(text);
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            let error = Message::decode(&cut).unwrap_err();
            if length >= 13 {
                let fault = Fault::MessageLength { stated: whole.len() as i32, actual: length };
                assert_eq!(error, DecodeError { offset: 5, fault });
                restate(&mut cut, length);
                let error = Message::decode(&cut).unwrap_err();
                assert!(matches!(error.fault, Fault::PastEnd { .. }), "{kind} cut to {length}: {error}");
                assert!(error.offset <= length);
            } else {
                assert!(matches!(error.fault, Fault::PastEnd { what: "SASP Header", .. }), "{error}");
            }
        }
    }
}

#[test]
fn every_wrong_length_is_refused() {
    for (kind, text) in MESSAGES {
        let whole = hex(text);
        for start in components(&whole) {
            let right = u16::from_be_bytes([whole[start + 2], whole[start + 3]]);
            for wrong in (0..600).chain([0x7FFF, 0x8000, 0xFFFF]).filter(|length| *length != right) {
                let mut bytes = whole.clone();
                bytes[start + 2..start + 4].copy_from_slice(&wrong.to_be_bytes());
                let error = Message::decode(&bytes).unwrap_err();
                let at = format!("{kind}: {wrong} for {right} at byte {start}: {error}");
                match error.fault {
                    Fault::Length { found, .. } => assert_eq!((found, error.offset), (wrong, start + 2), "{at}"),
                    // The stated length is smaller than a name or label needs, or larger than the message.
                    Fault::PastEnd { .. } => assert!(error.offset >= start + 4, "{at}"),
                    _ => panic!("{at}"),
                }
            }
        }
    }
}

#[test]
fn every_wrong_component_is_refused() {
    let others = [0x0000, 0x1010, 0x2010, 0x3010, 0x3011, 0x3012, 0x3013, 0x4010, 0x4011, 0x4012, 0x4013, 0xFFFF];
    for (kind, text) in MESSAGES {
        let whole = hex(text);
        for start in components(&whole) {
            let right = ComponentType(u16::from_be_bytes([whole[start], whole[start + 1]]));
            for wrong in others.map(ComponentType).into_iter().filter(|wrong| *wrong != right) {
                let mut bytes = whole.clone();
                bytes[start..start + 2].copy_from_slice(&wrong.0.to_be_bytes());
                let error = Message::decode(&bytes).unwrap_err();
                let expected = match start {
                    13 if wrong == ComponentType::REGISTRATION_REQUEST => {
                        assert!(error.offset >= 15, "{kind} as a Registration Request: {error}");
                        continue;
                    }
                    13 => Fault::UnknownMessage(wrong),
                    _ => Fault::Type { expected: right, found: wrong },
                };
                assert_eq!(error, DecodeError { offset: start, fault: expected });
            }
        }
    }
}

#[test]
fn every_wrong_count_is_refused() {
    let mut counts = 0;
    for (kind, text) in MESSAGES {
        let whole = hex(text);
        for start in components(&whole) {
            let component = u16::from_be_bytes([whole[start], whole[start + 1]]);
            let length = usize::from(u16::from_be_bytes([whole[start + 2], whole[start + 3]]));
            // A component with a count ends with the count.
            let at = match component {
                0x1010 | 0x1020 | 0x1030 | 0x1035 | 0x1040 | 0x1060 | 0x4010..=0x4012 => start + length - 2,
                _ => continue,
            };
            counts += 1;
            let right = u16::from_be_bytes([whole[at], whole[at + 1]]);
            for wrong in (0..10).chain([right.wrapping_add(256), 0xFFFF]).filter(|count| *count != right) {
                let mut bytes = whole.clone();
                bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
                let error = Message::decode(&bytes).unwrap_err();
                assert!(
                    matches!(error.fault, Fault::PastEnd { .. } | Fault::Type { .. } | Fault::Leftover(_)),
                    "{kind}: {error}"
                );
            }
        }
    }
    assert_eq!(counts, 12);
}

#[test]
fn bytes_after_the_last_component_are_refused() {
    for (kind, text) in MESSAGES {
        for extra in 1..40 {
            let mut bytes = hex(text);
            let length = bytes.len();
            bytes.resize(length + extra, 0x30);
            restate(&mut bytes, length + extra);
            let error = Message::decode(&bytes).unwrap_err();
            assert_eq!(error, DecodeError { offset: length, fault: Fault::Leftover(extra) }, "{kind}");
        }
    }
}

#[test]
fn inner_lengths_past_their_component_are_refused() {
    let label = literal(ComponentType::REGISTRATION_REQUEST);
    let mut bytes = label.clone();
    bytes[63] = 1; // the label length of the first member, which has no label
    let fault = Fault::PastEnd { what: "label", needed: 1, left: 0 };
    assert_eq!(Message::decode(&bytes).unwrap_err(), DecodeError { offset: 64, fault });

    let mut bytes = label.clone();
    bytes[30] = 255; // the length of the LB UID
    let fault = Fault::PastEnd { what: "LB UID", needed: 255, left: 9 };
    assert_eq!(Message::decode(&bytes).unwrap_err(), DecodeError { offset: 31, fault });

    let mut bytes = label;
    bytes[34] = 4; // the length of the group name: one byte is left over
    let fault = Fault::Length { component: ComponentType::GROUP_DATA, expected: 13, found: 14 };
    assert_eq!(Message::decode(&bytes).unwrap_err(), DecodeError { offset: 28, fault });
}

#[test]
fn another_version_is_refused() {
    for (kind, text) in MESSAGES {
        for version in [0, 2, 255] {
            let mut bytes = hex(text);
            bytes[4] = version;
            let error = Message::decode(&bytes).unwrap_err();
            assert_eq!(error, DecodeError { offset: 4, fault: Fault::Version(version) }, "{kind}");
        }
    }
}

#[test]
fn faults_read_as_sentences() {
    let mut bytes = literal(ComponentType::REGISTRATION_REQUEST);
    bytes[41] = 0x12;
    assert_eq!(
        Message::decode(&bytes).unwrap_err().to_string(),
        "at byte 40: expected Member Data (0x3010), found type 0x3012 (Weight Entry)"
    );
    let mut bytes = literal(ComponentType::SET_LB_STATE_REQUEST);
    bytes[16] = 6;
    assert_eq!(
        Message::decode(&bytes).unwrap_err().to_string(),
        "at byte 15: Set LB State Request states length 6, but its fields take 7"
    );
    let mut bytes = literal(ComponentType::REGISTRATION_REQUEST);
    bytes[16] = 8;
    assert_eq!(
        Message::decode(&bytes).unwrap_err().to_string(),
        "at byte 15: Registration Request states length 8, but its fields take 7"
    );
    let mut bytes = literal(ComponentType::SEND_WEIGHTS);
    bytes[18] = 2;
    assert_eq!(
        Message::decode(&bytes).unwrap_err().to_string(),
        "at byte 71: Group of Weight Entry Data is due, but nothing is left"
    );
}

fn frames_of(pieces: &[&[u8]], max: u32) -> (Vec<Vec<u8>>, usize, Option<FrameError>) {
    let mut framer = Framer::new(max);
    let mut frames = Vec::new();
    for piece in pieces {
        let mut input = *piece;
        loop {
            match framer.next(&mut input) {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (frames, 0, Some(error)),
            }
        }
        assert!(input.is_empty(), "None means that all was taken");
    }
    (frames, framer.buffered(), None)
}

#[test]
fn the_framer_survives_every_split() {
    let messages: Vec<Vec<u8>> = MESSAGES.iter().map(|(_, text)| hex(text)).collect();
    let stream = messages.concat();
    for split in 0..=stream.len() {
        let (first, second) = stream.split_at(split);
        assert_eq!(frames_of(&[first, second], 200), (messages.clone(), 0, None), "split at {split}");
        let (_, buffered, _) = frames_of(&[first], 200);
        let ends = messages.iter().scan(0, |end, message| Some((*end += message.len(), *end).1));
        assert_eq!(buffered, split - ends.take_while(|end| *end <= split).last().unwrap_or(0));
    }
    for size in 1..40 {
        let pieces: Vec<&[u8]> = stream.chunks(size).collect();
        assert_eq!(frames_of(&pieces, 200), (messages.clone(), 0, None), "pieces of {size}");
    }
    let three = messages[1..4].concat();
    for first in 0..=three.len() {
        for second in first..=three.len() {
            let pieces = [&three[..first], &three[first..second], &three[second..]];
            assert_eq!(frames_of(&pieces, 200).0, messages[1..4], "split at {first} and {second}");
        }
    }
}

#[test]
fn the_framer_refuses_what_breaks_the_framing_as_soon_as_it_shows() {
    let good = hex("2010 000D 01 00000012 00000001  1015 0005 40");
    for (bytes, complete, error) in [
        ("2011", 2, FrameError::NotAHeader(ComponentType(0x2011))),
        ("1603 0100 F0 01 0000EC 03", 2, FrameError::NotAHeader(ComponentType(0x1603))),
        ("2010 000C", 4, FrameError::HeaderLength(12)),
        ("2010 000E 01", 4, FrameError::HeaderLength(14)),
        ("2010 000D 01 FFFFFFFF", 9, FrameError::MessageTooShort(-1)),
        ("2010 000D 01 80000000", 9, FrameError::MessageTooShort(i32::MIN)),
        ("2010 000D 01 00000000", 9, FrameError::MessageTooShort(0)),
        ("2010 000D 01 00000010 00000001 101500", 9, FrameError::MessageTooShort(16)),
        ("2010 000D 01 000000C9", 9, FrameError::MessageTooLong { stated: 201, max: 200 }),
        ("2010 000D 01 7FFFFFFF", 9, FrameError::MessageTooLong { stated: i32::MAX, max: 200 }),
    ] {
        let bad = hex(bytes);
        assert!(!error.to_string().is_empty());
        // The field that ends with this byte.
        assert_eq!(
            error.offset(),
            match complete {
                2 => 0,
                4 => 2,
                _ => 5,
            }
        );
        assert_eq!(frame::message_length(&bad, 200), Err(error));
        assert_eq!(frame::message_length(&bad[..complete - 1], 200), Ok(None));
        let stream = [&good[..], &bad].concat();
        for split in 0..=stream.len() {
            let (first, second) = stream.split_at(split);
            let (frames, _, found) = frames_of(&[first, second], 200);
            assert_eq!((frames, found), (vec![good.clone()], Some(error)), "split at {split}");
        }
    }
    let shortest = hex("2010 000D 01 00000011 00000001  1010 0004");
    assert_eq!(frames_of(&[&shortest], 200), (vec![shortest.clone()], 0, None));
    assert_eq!(frames_of(&[&shortest], 17), (vec![shortest.clone()], 0, None));
}

#[test]
fn buffers_of_the_bytes_crate_take_and_give_the_same_bytes() {
    let mut stream = BytesMut::new();
    let all: Vec<u8> = MESSAGES.into_iter().flat_map(|(kind, _)| literal(kind)).collect();
    for (kind, _) in MESSAGES {
        let bytes = literal(kind);
        let (header, message) = Message::decode(&bytes).unwrap();
        message.encode(header.id, &mut stream).unwrap();
    }
    assert_eq!(stream, all);
    for (kind, _) in MESSAGES {
        let frame = split_frame(&mut stream, 1 << 20).unwrap().expect("a whole frame");
        assert_eq!(frame, literal(kind));
    }
    stream.extend_from_slice(&all[..17]);
    assert_eq!((split_frame(&mut stream, 1 << 20), stream.len()), (Ok(None), 17), "the rest stays until it is whole");
    assert_eq!(split_frame(&mut stream, 17), Err(FrameError::MessageTooLong { stated: 0x6E, max: 17 }));

    // Misuse takes the message back, and nothing else.
    let mut writer = Writer::send_weights(&mut stream);
    writer.group(GroupData { lb_uid: &[0; 256], name: b"" });
    assert!(writer.finish().is_err());
    assert_eq!(stream, all[..17]);

    let mut slice = [0; 18];
    writer::reply(&mut &mut slice[..], 1, ComponentType::REGISTRATION_REPLY, ReturnCode::ALREADY_REGISTERED);
    assert_eq!(slice[..], literal(ComponentType::REGISTRATION_REPLY));
}

#[test]
fn misuse_of_the_encoder_is_reported_and_leaves_the_buffer() {
    use gwm::sasp::EncodeError;
    let mut out = b"kept".to_vec();
    let long = [b'x'; 256];

    let mut writer = Writer::registration_request(&mut out, 1, SenderFlags::NONE);
    writer.group(GroupData { lb_uid: b"LB1", name: &long });
    assert_eq!(writer.finish(), Err(EncodeError::TooLong { what: "group name", bytes: 256 }));

    let mut writer = Writer::registration_request(&mut out, 1, SenderFlags::NONE);
    writer.group(FARM1);
    writer.entry(&MemberData { label: &long, ..tcp80(1) });
    assert_eq!(writer.finish(), Err(EncodeError::TooLong { what: "label", bytes: 256 }));

    let mut writer = Writer::registration_request(&mut out, 1, SenderFlags::NONE);
    writer.entry(&tcp80(1));
    assert_eq!(writer.finish(), Err(EncodeError::NoGroup));

    let mut writer = Writer::registration_request(&mut out, 1, SenderFlags::NONE);
    writer.group(FARM1);
    (0..65_536).for_each(|_| writer.entry(&tcp80(1)));
    assert_eq!(writer.finish(), Err(EncodeError::TooMany { what: "members in a group" }));

    let mut writer = Writer::get_weights_request(&mut out, 1);
    (0..65_536).for_each(|_| writer.name(FARM1));
    assert_eq!(writer.finish(), Err(EncodeError::TooMany { what: "groups" }));

    let refused = writer::set_lb_state_request(&mut out, 1, &long, Health::BEST, LbFlags::NONE);
    assert_eq!(refused, Err(EncodeError::TooLong { what: "LB UID", bytes: 256 }));
    assert_eq!(out, b"kept");

    let mut writer = Writer::registration_request(&mut out, 1, SenderFlags::NONE);
    writer.group(FARM1);
    (0..65_535).for_each(|_| writer.entry(&tcp80(1)));
    writer.finish().unwrap();
    let Message::RegistrationRequest(request) = decode(&out[4..]) else { panic!() };
    assert_eq!(request.groups.into_iter().next().unwrap().entries().len(), 65_535);
}

#[test]
fn misuse_of_the_encoder_reads_as_a_sentence() {
    use gwm::sasp::EncodeError;
    for (error, text) in [
        (EncodeError::TooLong { what: "label", bytes: 256 }, "label of 256 bytes: at most 255 fit"),
        (EncodeError::TooMany { what: "groups" }, "more than 65535 groups"),
        (EncodeError::MessageLength(1 << 31), "a message of 2147483648 bytes: at most 2147483647 fit"),
        (EncodeError::NoGroup, "a member without a group"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn endpoints_are_shown_as_people_read_them() {
    let endpoint = |address: &str, protocol, port| Endpoint::new(address.parse().unwrap(), protocol, port).to_string();
    assert_eq!(endpoint("10.0.0.1", 6, 80), "10.0.0.1:80");
    assert_eq!(endpoint("10.0.0.1", 17, 53), "10.0.0.1:53/udp");
    assert_eq!(endpoint("10.0.0.1", 132, 7), "10.0.0.1:7/132");
    assert_eq!(endpoint("10.0.0.1", 0, 0), "10.0.0.1");
    assert_eq!(endpoint("10.0.0.1", 6, 0), "10.0.0.1:0");
    assert_eq!(endpoint("2001:db8::1", 6, 80), "[2001:db8::1]:80");
    assert_eq!(endpoint("::", 0, 0), "::");
    assert_eq!(endpoint("::1", 6, 80), "[::1]:80");
    assert_eq!(endpoint("0.0.0.2", 0, 0), "0.0.0.2");
    assert_eq!(endpoint("::ffff:10.0.0.1", 0, 0), "::ffff:10.0.0.1");
}

#[test]
fn unknown_codes_and_reserved_bits_are_kept_and_shown() {
    let bytes = literal(ComponentType::SEND_WEIGHTS);
    let (header, message) = Message::decode(&bytes).unwrap();
    assert_eq!(
        Dump(&header, &message).to_string(),
        "Send Weights (0x1040), id 0x00000000, version 1, 71 bytes\n  groups: 1\n  \
         group \"FARM1\" of LB \"LB1\": 1 member\n    10.10.10.1:80: weight 65535, state 0x32, \
         flags 0xFF (contact, quiesced, registered-by-lb, confident, reserved 0xF0)"
    );
    assert_eq!(EntryFlags(0xFF).names().count(), 4);
    assert_eq!(ReturnCode(0x99).name(), None);
    assert_eq!(ReturnCode(0x99).to_string(), "0x99");
    assert_eq!(format!("{:?}", Reason(0x80)), "Reason(0x80 unknown)");
    assert!(LbFlags(0xFF).contains(LbFlags::TRUST));
    assert_eq!(LbFlags(0xFF).with(LbFlags::TRUST, false), LbFlags(0xFD));
}

#[test]
fn dumps_show_every_field_with_its_name() {
    let shown = |kind| {
        let bytes = literal(kind);
        let (header, message) = Message::decode(&bytes).unwrap();
        (Dump(&header, &message).to_string(), Summary(&header, &message).to_string())
    };
    let (dump, summary) = shown(ComponentType::REGISTRATION_REQUEST);
    assert_eq!(
        dump,
        "Registration Request (0x1010), id 0x00000001, version 1, 110 bytes\n  sender: load balancer\n  \
         flags: 0x01 (load-balancer)\n  groups: 2\n  group \"FARM1\" of LB \"LB1\": 2 members\n    10.10.10.1:80\n    \
         [2001:db8::1]:53/udp \"dns\"\n  group \"GRP2\" of LB \"LB1\": 0 members"
    );
    assert_eq!(summary, "Registration Request id 0x00000001 from load balancer: 2 groups, 2 members");

    let (dump, summary) = shown(ComponentType::DEREGISTRATION_REQUEST);
    assert_eq!(
        dump,
        "Deregistration Request (0x1020), id 0x00000002, version 1, 70 bytes\n  sender: member\n  flags: 0x00\n  \
         reason: 0x80 (vendor's own)\n  groups: 1\n  group \"WWW\" of LB \"LB1\": 1 member\n    \
         192.168.0.1 \"é\\\"\\0\\\\\\xFF\\n\""
    );
    assert_eq!(summary, "Deregistration Request id 0x00000002 from member, reason 0x80: 1 group, 1 member");

    let (dump, summary) = shown(ComponentType::GET_WEIGHTS_REQUEST);
    assert_eq!(
        dump,
        "Get Weights Request (0x1030), id 0x00000003, version 1, 42 bytes\n  groups: 2\n  \
         group \"FARM1\" of LB \"LB1\"\n  group \"\" of LB \"LB1\""
    );
    assert_eq!(summary, "Get Weights Request id 0x00000003: 2 groups");

    let (dump, summary) = shown(ComponentType::SET_LB_STATE_REQUEST);
    assert_eq!(
        dump,
        "Set LB State Request (0x1050), id 0x00000004, version 1, 23 bytes\n  LB UID: \"LB1\"\n  \
         health: 0x7F (best)\n  flags: 0x05 (push, no-change-no-send)"
    );
    assert_eq!(
        summary,
        "Set LB State Request id 0x00000004: LB \"LB1\", health 0x7F, flags 0x05 (push, no-change-no-send)"
    );

    let (dump, summary) = shown(ComponentType::SET_MEMBER_STATE_REQUEST);
    assert!(dump.ends_with("1 member\n    10.10.10.3:80: state 0x0A, flags 0x01 (quiesce)"), "{dump}");
    assert_eq!(summary, "Set Member State Request id 0x00000005 from load balancer: 1 group, 1 member");

    let (dump, summary) = shown(ComponentType::SET_MEMBER_STATE_REPLY);
    assert!(dump.ends_with("18 bytes\n  return code: 0x99 (unknown)"), "{dump}");
    assert_eq!(summary, "Set Member State Reply id 0x00000005: 0x99 (unknown)");

    let (_, summary) = shown(ComponentType::GET_WEIGHTS_REPLY);
    assert_eq!(summary, "Get Weights Reply id 0x32000000: 0x00 (successful), 1 group, 2 members");
    let (_, summary) = shown(ComponentType::SEND_WEIGHTS);
    assert_eq!(summary, "Send Weights id 0x00000000: 1 group, 1 member");
}

#[test]
fn every_prefix_of_a_message_is_shown_as_far_as_it_goes() {
    let whole = literal(ComponentType::GET_WEIGHTS_REPLY);
    for length in 0..whole.len() {
        let (header, message) = Message::decode_broken(&whole[..length]);
        assert_eq!((header.is_some(), message.is_some()), (length >= 13, length >= 22), "{length}");
        let Some(Message::GetWeightsReply(reply)) = message else { continue };
        let groups = list(reply.groups);
        assert_eq!(groups.len(), usize::from(length >= 42), "{length}");
        let members: usize = groups.iter().map(|(_, members)| members.len()).sum();
        assert_eq!(members, usize::from(length >= 74), "{length}");
        let shown = Dump(&header.unwrap(), &Message::GetWeightsReply(reply)).to_string();
        let broken = (66..74).contains(&length) || (98..106).contains(&length);
        assert_eq!(shown.ends_with(": broken"), broken, "{length}: {shown}");
    }
}

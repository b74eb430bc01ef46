//! Bytes ↔ messages: every kind of message, and the cost of one more member.

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use gwm::sasp::{
    Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Message, Reason,
    ReturnCode, SenderFlags, WeightEntry, WeightedMember, Writer, writer,
};

/// Messages that list members.
const LISTS: [&str; 5] = ["registration", "deregistration", "get_weights_reply", "send_weights", "set_member_state"];

/// Messages of a fixed size. The other replies have a return code alone, like the registration reply.
const FIXED: [&str; 3] = ["get_weights", "set_lb_state", "registration_reply"];

/// An LB and a group with names of a usual length.
pub(crate) const FARM: GroupData<'_> = GroupData { lb_uid: b"lb-east-0042", name: b"web-frontend" };

pub(crate) fn endpoint(number: u32) -> Endpoint {
    Endpoint::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 6, 80)
}

fn member(number: u32) -> MemberData<'static> {
    MemberData { endpoint: endpoint(number), label: b"" }
}

fn weighted(number: u32) -> WeightedMember<'static> {
    let flags = EntryFlags::CONTACT | EntryFlags::CONFIDENT;
    WeightedMember { member: member(number), entry: WeightEntry { state: 0, flags, weight: 100 } }
}

/// Appends one message of this kind. A list has one group of `members` members.
fn append(kind: &str, members: u32, out: &mut Vec<u8>) {
    fn list<'a, T: gwm::sasp::Entry<'a>>(mut writer: Writer<'_, T>, members: u32, entry: impl Fn(u32) -> T) {
        writer.group(FARM);
        (0..members).for_each(|number| writer.entry(&entry(number)));
        writer.finish().expect("a few hundred members fit");
    }
    let sender = SenderFlags::LOAD_BALANCER;
    match kind {
        "registration" => list(Writer::registration_request(out, 1, sender), members, member),
        "deregistration" => list(Writer::deregistration_request(out, 1, sender, Reason(1)), members, member),
        "get_weights_reply" => list(Writer::get_weights_reply(out, 1, ReturnCode::SUCCESSFUL, 60), members, weighted),
        "send_weights" => list(Writer::send_weights(out), members, weighted),
        "set_member_state" => list(Writer::set_member_state_request(out, 1, sender), members, |number| MemberState {
            member: member(number),
            state: 7,
            flags: MemberFlags::QUIESCE,
        }),
        "get_weights" => {
            let mut request = Writer::get_weights_request(out, 1);
            request.name(FARM);
            request.finish().expect("one name fits");
        }
        "set_lb_state" => {
            writer::set_lb_state_request(out, 1, FARM.lb_uid, Health(0x7f), LbFlags::PUSH).expect("the UID fits");
        }
        "registration_reply" => {
            writer::reply(out, 1, gwm::sasp::ComponentType::REGISTRATION_REPLY, ReturnCode::SUCCESSFUL);
        }
        other => unreachable!("no kind {other}"),
    }
}

/// One message of this kind.
pub(crate) fn message(kind: &str, members: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(kind, members, &mut bytes);
    bytes
}

/// Visits every entry, as the receiver of the message does.
fn walk(message: &Message<'_>) -> usize {
    fn entries<'a, T: gwm::sasp::Entry<'a>>(groups: gwm::sasp::Groups<'a, T>) -> usize {
        groups
            .into_iter()
            .flat_map(|group| group.entries())
            .map(|entry| black_box(entry.member()).label.len() + 1)
            .sum()
    }
    match message {
        Message::RegistrationRequest(m) => entries(m.groups),
        Message::DeregistrationRequest(m) => entries(m.groups),
        Message::GetWeightsReply(m) => entries(m.groups),
        Message::SendWeights(m) => entries(m.groups),
        Message::SetMemberStateRequest(m) => entries(m.groups),
        _ => 0,
    }
}

fn decode(bencher: Bencher<'_, '_>, kind: &str, members: u32) {
    let frame = message(kind, members);
    bencher
        .counter(ItemsCount::new(members))
        .counter(BytesCount::new(frame.len()))
        .bench_local(|| Message::decode(black_box(&frame)).expect("our own message").0);
}

fn encode(bencher: Bencher<'_, '_>, kind: &str, members: u32) {
    let mut out = message(kind, members);
    bencher.counter(ItemsCount::new(members)).counter(BytesCount::new(out.len())).bench_local(|| {
        out.clear();
        append(black_box(kind), members, &mut out);
    });
}

/// Checks a small message to the last byte.
#[divan::bench(args = LISTS.into_iter().chain(FIXED))]
fn decode_one(bencher: Bencher<'_, '_>, kind: &str) {
    decode(bencher, kind, 1);
}

/// Checks a list of 100 members. Items are members.
#[divan::bench(args = LISTS)]
fn decode_100(bencher: Bencher<'_, '_>, kind: &str) {
    decode(bencher, kind, 100);
}

/// Visits a list of 100 members that was checked before, as the coordinator does. Items are members.
#[divan::bench(args = LISTS)]
fn walk_100(bencher: Bencher<'_, '_>, kind: &str) {
    let frame = message(kind, 100);
    let (_, checked) = Message::decode_trusted(&frame).expect("our own message");
    assert_eq!(walk(&checked), 100);
    bencher.counter(ItemsCount::new(100u32)).bench_local(|| walk(black_box(&checked)));
}

/// Writes a small message into a used buffer.
#[divan::bench(args = LISTS.into_iter().chain(FIXED))]
fn encode_one(bencher: Bencher<'_, '_>, kind: &str) {
    encode(bencher, kind, 1);
}

/// Writes a list of 100 members into a used buffer. Items are members.
#[divan::bench(args = LISTS)]
fn encode_100(bencher: Bencher<'_, '_>, kind: &str) {
    encode(bencher, kind, 100);
}

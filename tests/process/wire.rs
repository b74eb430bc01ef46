//! Messages for tests: requests made from names, replies as text.

use std::fmt::Write;

use gwm::sasp::{
    ComponentType, Endpoint, Entry, GroupData, Header, LbFlags, MemberData, MemberFlags, MemberState, Message, Reason,
    ReturnCode, SenderFlags, WeightedMember, Writer, component, writer,
};

/// The load balancer, the group, and the group's members.
pub(crate) type GroupOf<'a, T> = (&'a str, &'a str, &'a [T]);

/// `10.0.0.1:80`, `[2001:db8::1]:53/udp`, or an address alone for a system; then perhaps a space and a label.
pub(crate) fn member(text: &str) -> MemberData<'_> {
    let (endpoint, label) = text.split_once(' ').unwrap_or((text, ""));
    let (endpoint, protocol) =
        endpoint.strip_suffix("/udp").map_or((endpoint, component::TCP), |address| (address, component::UDP));
    let endpoint = match endpoint.parse() {
        Ok(address) => Endpoint::new(address, 0, 0),
        Err(_) => {
            let address: std::net::SocketAddr = endpoint.parse().expect("a test's member is an address");
            Endpoint::new(address.ip(), protocol, address.port())
        }
    };
    MemberData { endpoint, label: label.as_bytes() }
}

fn group<'a>(lb: &'a str, name: &'a str) -> GroupData<'a> {
    GroupData { lb_uid: lb.as_bytes(), name: name.as_bytes() }
}

fn write<'a, T, E: Entry<'a>>(mut writer: Writer<'_, E>, groups: &[GroupOf<'a, T>], entry: impl Fn(&'a T) -> E) {
    for (lb, name, entries) in groups {
        writer.group(group(lb, name));
        entries.iter().for_each(|item| writer.entry(&entry(item)));
    }
    writer.finish().expect("a test's message fits");
}

pub(crate) fn registration(id: u32, from: SenderFlags, groups: &[GroupOf<'_, &str>]) -> Vec<u8> {
    let mut out = Vec::new();
    write(Writer::registration_request(&mut out, id, from), groups, |text| member(text));
    out
}

pub(crate) fn deregistration(id: u32, from: SenderFlags, groups: &[GroupOf<'_, &str>]) -> Vec<u8> {
    let mut out = Vec::new();
    write(Writer::deregistration_request(&mut out, id, from, Reason::PURPOSEFUL), groups, |text| member(text));
    out
}

pub(crate) fn member_state(id: u32, from: SenderFlags, groups: &[GroupOf<'_, (&str, u8, bool)>]) -> Vec<u8> {
    let mut out = Vec::new();
    write(Writer::set_member_state_request(&mut out, id, from), groups, |(text, state, quiesce)| MemberState {
        member: member(text),
        state: *state,
        flags: MemberFlags::NONE.with(MemberFlags::QUIESCE, *quiesce),
    });
    out
}

pub(crate) fn get_weights(id: u32, groups: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::get_weights_request(&mut out, id);
    groups.iter().for_each(|(lb, name)| writer.name(group(lb, name)));
    writer.finish().expect("a test's message fits");
    out
}

pub(crate) fn lb_state(id: u32, lb: &str, health: u8, flags: LbFlags) -> Vec<u8> {
    let mut out = Vec::new();
    writer::set_lb_state_request(&mut out, id, lb.as_bytes(), gwm::sasp::Health(health), flags).expect("a UID fits");
    out
}

/// A message with this body, version 1 and the right length in its header.
pub(crate) fn raw(id: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x20, 0x10, 0x00, 0x0D, 0x01];
    out.extend_from_slice(&(13 + body.len() as u32).to_be_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// A reply with a code only, byte by byte.
pub(crate) fn code_reply(id: u32, reply: u16, code: u8) -> Vec<u8> {
    let [high, low] = reply.to_be_bytes();
    raw(id, &[high, low, 0, 5, code])
}

/// Whether the message is a Send Weights.
pub(crate) fn is_push(message: &[u8]) -> bool {
    Header::read(message).is_ok_and(|(_, kind)| kind == ComponentType::SEND_WEIGHTS)
}

/// The code of a reply that has only a code.
pub(crate) fn code(reply: &[u8]) -> ReturnCode {
    match Message::decode(reply).expect("the daemon's messages are well-formed").1 {
        Message::RegistrationReply(code)
        | Message::DeregistrationReply(code)
        | Message::SetLbStateReply(code)
        | Message::SetMemberStateReply(code) => code,
        other => panic!("not a reply with a code alone: {other:?}"),
    }
}

/// Weights as `LB1/FARM1 [10.0.0.1:80 32/0D/20, 10.0.0.2:80 00/0F/0]`: opaque state and flags in hexadecimal, weight.
/// An error code of a Get Weights reply stands before the groups.
pub(crate) fn show(message: &[u8]) -> String {
    match Message::decode(message).expect("the daemon's messages are well-formed").1 {
        Message::SendWeights(push) => groups(push.groups.into_iter()),
        Message::GetWeightsReply(reply) if reply.code == ReturnCode::SUCCESSFUL => groups(reply.groups.into_iter()),
        Message::GetWeightsReply(reply) => format!("{:?} {}", reply.code, groups(reply.groups.into_iter())),
        other => format!("{other:?}"),
    }
}

fn groups<'a>(groups: impl Iterator<Item = component::Group<'a, WeightedMember<'a>>>) -> String {
    let groups: Vec<String> = groups
        .map(|group| {
            let entries: Vec<String> = group.entries().map(|entry| show_entry(&entry)).collect();
            format!("{:?} [{}]", group.data, entries.join(", "))
        })
        .collect();
    groups.join(" ")
}

fn show_entry(weighted: &WeightedMember<'_>) -> String {
    let mut text = weighted.member.endpoint.to_string();
    if !weighted.member.label.is_empty() {
        write!(text, " {}", gwm::sasp::Escaped(weighted.member.label)).expect("a string takes text");
    }
    let entry = weighted.entry;
    write!(text, " {:02X}/{:02X}/{}", entry.state, entry.flags.0, entry.weight).expect("a string takes text");
    text
}

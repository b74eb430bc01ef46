//! The entry points of what a load balancer or a member sends.

use fastrand::Rng;
use gwm::{
    fuzz,
    sasp::{
        ComponentType, Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Message,
        Reason, ReturnCode, SenderFlags, WeightEntry, WeightedMember, Writer, writer,
    },
};

use super::{bytes, mutate, run};

/// A well-formed message of any kind.
fn message(rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    let id = rng.u32(..);
    match rng.u8(..11) {
        0 => groups(rng, Writer::registration_request(&mut out, id, SenderFlags(id as u8)), |_, member| member),
        1 => {
            let writer = Writer::deregistration_request(&mut out, id, SenderFlags(id as u8), Reason(rng.u8(..)));
            groups(rng, writer, |_, member| member);
        }
        2 => {
            let mut writer = Writer::get_weights_request(&mut out, id);
            for _ in 0..rng.usize(..4) {
                writer.name(GroupData { lb_uid: &bytes(rng, 5), name: &bytes(rng, 5) });
            }
            writer.finish().unwrap();
        }
        3 => groups(rng, Writer::get_weights_reply(&mut out, id, ReturnCode(0), id as u16), weighted),
        4 => groups(rng, Writer::send_weights(&mut out), weighted),
        5 => {
            let (uid, health, flags) = (bytes(rng, 70), Health(rng.u8(..)), LbFlags(rng.u8(..)));
            writer::set_lb_state_request(&mut out, id, &uid, health, flags).unwrap();
        }
        6 => {
            let writer = Writer::set_member_state_request(&mut out, id, SenderFlags(id as u8));
            groups(rng, writer, |rng, member| MemberState {
                member,
                state: rng.u8(..),
                flags: MemberFlags(rng.u8(..)),
            });
        }
        other => {
            let kinds = [0x1015, 0x1025, 0x1055, 0x1065];
            writer::reply(&mut out, id, ComponentType(kinds[usize::from(other) - 7]), ReturnCode(rng.u8(..)));
        }
    }
    out
}

fn weighted<'a>(rng: &mut Rng, member: MemberData<'a>) -> WeightedMember<'a> {
    let entry = WeightEntry { state: rng.u8(..), flags: EntryFlags(rng.u8(..)), weight: rng.u16(..) };
    WeightedMember { member, entry }
}

/// Fills in a few groups. `'static`: labels come from a fixed text.
fn groups<T: gwm::sasp::Entry<'static>>(
    rng: &mut Rng,
    mut writer: Writer<'_, T>,
    entry: fn(&mut Rng, MemberData<'static>) -> T,
) {
    const LABELS: &[u8] = b"label \xFF\\\"\n\xE2\x80\xAE~";
    for _ in 0..rng.usize(..4) {
        writer.group(GroupData { lb_uid: &bytes(rng, 5), name: &bytes(rng, 5) });
        for _ in 0..rng.usize(..5) {
            let mut address = [0; 16];
            let zeros = if rng.bool() { 12 } else { 0 };
            rng.fill(&mut address[zeros..]);
            let endpoint = Endpoint { protocol: rng.u8(..), port: rng.u16(..), address };
            let label = &LABELS[..rng.usize(..=LABELS.len())];
            writer.entry(&entry(rng, MemberData { endpoint, label }));
        }
    }
    writer.finish().unwrap();
}

/// One message with changes; in half of the cases the header still states the right length.
fn broken_message(rng: &mut Rng) -> Vec<u8> {
    let mut data = message(rng);
    mutate(rng, &mut data);
    let length = (data.len() as u32).to_be_bytes();
    if let (true, Some(stated)) = (rng.bool(), data.get_mut(5..9)) {
        stated.copy_from_slice(&length);
    }
    data
}

pub(super) fn stream(rng: &mut Rng) -> Vec<u8> {
    let mut data: Vec<u8> = (0..rng.usize(..5)).flat_map(|_| message(rng)).collect();
    if rng.bool() {
        mutate(rng, &mut data);
    }
    data
}

#[test]
fn framer() {
    run(5_000, fuzz::framer, |rng| [vec![rng.u8(..30), rng.u8(..)], stream(rng)].concat());
}

#[test]
fn decoder() {
    run(30_000, fuzz::decoder, broken_message);
    run(5_000, fuzz::decoder, |rng| bytes(rng, 100));
    run(5_000, fuzz::decoder, |rng| {
        let data = message(rng);
        Message::decode(&data).expect("the generator makes well-formed messages");
        data
    });
}

/// Messages of two connections, about a few names only, so that both often use the same name.
fn conversation(rng: &mut Rng) -> Vec<u8> {
    const UIDS: [&[u8]; 4] = [b"A", b"B", b"C", b""];
    const GROUPS: [&[u8]; 4] = [b"g", b"h", b"i", b""];
    let mut data = vec![rng.u8(..0x80)];
    for _ in 0..rng.usize(..12) {
        let (mut out, id) = (Vec::new(), rng.u32(..));
        let sender = SenderFlags(rng.u8(..2));
        let name = |rng: &mut Rng| {
            let uid = if rng.u8(..4) == 0 { rng.choice(UIDS).expect("a list") } else { UIDS[0] };
            GroupData { lb_uid: uid, name: rng.choice(GROUPS).expect("a list") }
        };
        let member = |rng: &mut Rng| {
            let endpoint = Endpoint::new([10, 0, 0, rng.u8(..4)].into(), 6, 80);
            MemberData { endpoint, label: [&b""[..], b"label"][usize::from(rng.bool())] }
        };
        match rng.u8(..6) {
            0 | 1 => {
                let mut writer = Writer::registration_request(&mut out, id, sender);
                for _ in 0..rng.usize(1..3) {
                    writer.group(name(rng));
                    (0..rng.usize(..4)).for_each(|_| writer.entry(&member(rng)));
                }
                writer.finish().unwrap();
            }
            2 => {
                let mut writer = Writer::deregistration_request(&mut out, id, sender, Reason(0));
                for _ in 0..rng.usize(1..3) {
                    writer.group(name(rng));
                    (0..rng.usize(..2)).for_each(|_| writer.entry(&member(rng)));
                }
                writer.finish().unwrap();
            }
            3 => {
                let mut writer = Writer::get_weights_request(&mut out, id);
                (0..rng.usize(..3)).for_each(|_| writer.name(name(rng)));
                writer.finish().unwrap();
            }
            4 => {
                let (health, flags) = (Health(rng.u8(..)), LbFlags(rng.u8(..8)));
                writer::set_lb_state_request(&mut out, id, name(rng).lb_uid, health, flags).unwrap();
            }
            _ => {
                let mut writer = Writer::set_member_state_request(&mut out, id, sender);
                writer.group(name(rng));
                for _ in 0..rng.usize(..3) {
                    let (state, flags) = (rng.u8(..4), MemberFlags(rng.u8(..2)));
                    writer.entry(&MemberState { member: member(rng), state, flags });
                }
                writer.finish().unwrap();
            }
        }
        if rng.u8(..8) == 0 {
            mutate(rng, &mut out);
        }
        let body = out.get(9..).unwrap_or_default();
        data.extend([u8::from(rng.u8(..3) == 0), body.len().min(255) as u8]);
        data.extend(body.iter().take(255));
    }
    data
}

#[test]
fn session() {
    run(5_000, fuzz::session, conversation);
    run(5_000, fuzz::session, |rng| [vec![rng.u8(0x80..)], stream(rng)].concat());
    run(2_000, fuzz::session, |rng| bytes(rng, 200));
    run(5_000, fuzz::session, |rng| {
        let (length, mut data) = (rng.u8(0x80..), broken_message(rng));
        data.insert(0, length);
        data
    });
}

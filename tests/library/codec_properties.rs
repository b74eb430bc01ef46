//! Properties of the codec on random messages: decoding reverses encoding and encoding reverses decoding, splits do not
//! matter, nothing panics. Seeds are fixed and cases are few, so each run is the same; [`crate::fuzz`] has new seeds in
//! each run.

use gwm::{
    fuzz,
    sasp::{
        ComponentType, Endpoint, Entry, EntryFlags, Framer, GroupData, Groups, Health, LbFlags, MemberData,
        MemberFlags, MemberState, Message, Reason, ReturnCode, SenderFlags, WeightEntry, WeightedMember, Writer,
        writer,
    },
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed},
};

type Text = Vec<u8>;
type Listed<E> = Vec<(Text, Text, Vec<(Endpoint, Text, E)>)>;

/// A message that owns its values, without the codec's types.
#[derive(Clone, Debug, PartialEq)]
enum Plain {
    Registration { flags: u8, groups: Listed<()> },
    Deregistration { flags: u8, reason: u8, groups: Listed<()> },
    GetWeights { names: Vec<(Text, Text)> },
    Weights { code: u8, interval: u16, groups: Listed<(u8, u8, u16)> },
    Push { groups: Listed<(u8, u8, u16)> },
    LbState { uid: Text, health: u8, flags: u8 },
    MemberState { flags: u8, groups: Listed<(u8, u8)> },
    Reply { kind: u16, code: u8 },
}

fn text(max: usize) -> impl Strategy<Value = Text> {
    prop_oneof![4 => vec(any::<u8>(), 0..12), 1 => vec(any::<u8>(), 0..=max)]
}

fn listed<E: Clone + std::fmt::Debug>(entry: impl Strategy<Value = E> + Clone) -> impl Strategy<Value = Listed<E>> {
    let address = prop_oneof![
        any::<[u8; 16]>(),
        any::<[u8; 4]>().prop_map(|v4| u128::from(u32::from_be_bytes(v4)).to_be_bytes())
    ];
    let endpoint =
        (any::<u8>(), any::<u16>(), address).prop_map(|(protocol, port, address)| Endpoint { protocol, port, address });
    vec((text(255), text(255), vec((endpoint, text(255), entry), 0..6)), 0..5)
}

fn plain() -> impl Strategy<Value = Plain> {
    let weight = (any::<u8>(), any::<u8>(), any::<u16>());
    prop_oneof![
        (any::<u8>(), listed(Just(()))).prop_map(|(flags, groups)| Plain::Registration { flags, groups }),
        (any::<u8>(), any::<u8>(), listed(Just(()))).prop_map(|(flags, reason, groups)| Plain::Deregistration {
            flags,
            reason,
            groups
        }),
        vec((text(255), text(255)), 0..9).prop_map(|names| Plain::GetWeights { names }),
        (any::<u8>(), any::<u16>(), listed(weight)).prop_map(|(code, interval, groups)| Plain::Weights {
            code,
            interval,
            groups
        }),
        listed(weight).prop_map(|groups| Plain::Push { groups }),
        (text(255), any::<u8>(), any::<u8>()).prop_map(|(uid, health, flags)| Plain::LbState { uid, health, flags }),
        (any::<u8>(), listed((any::<u8>(), any::<u8>())))
            .prop_map(|(flags, groups)| Plain::MemberState { flags, groups }),
        (prop::sample::select(vec![0x1015, 0x1025, 0x1055, 0x1065]), any::<u8>())
            .prop_map(|(kind, code)| Plain::Reply { kind, code }),
    ]
}

fn write<'l, E, T: Entry<'l>>(
    mut writer: Writer<'_, T>,
    groups: &'l Listed<E>,
    entry: impl Fn(MemberData<'l>, &E) -> T,
) {
    for (lb_uid, name, entries) in groups {
        writer.group(GroupData { lb_uid, name });
        for (endpoint, label, rest) in entries {
            writer.entry(&entry(MemberData { endpoint: *endpoint, label }, rest));
        }
    }
    writer.finish().unwrap();
}

fn encode(plain: &Plain, id: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let weighted = |member, &(state, flags, weight): &(u8, u8, u16)| WeightedMember {
        member,
        entry: WeightEntry { state, flags: EntryFlags(flags), weight },
    };
    match plain {
        Plain::Registration { flags, groups } => {
            write(Writer::registration_request(&mut out, id, SenderFlags(*flags)), groups, |member, ()| member);
        }
        Plain::Deregistration { flags, reason, groups } => {
            let writer = Writer::deregistration_request(&mut out, id, SenderFlags(*flags), Reason(*reason));
            write(writer, groups, |member, ()| member);
        }
        Plain::GetWeights { names } => {
            let mut writer = Writer::get_weights_request(&mut out, id);
            names.iter().for_each(|(lb_uid, name)| writer.name(GroupData { lb_uid, name }));
            writer.finish().unwrap();
        }
        Plain::Weights { code, interval, groups } => {
            write(Writer::get_weights_reply(&mut out, id, ReturnCode(*code), *interval), groups, weighted);
        }
        Plain::Push { groups } => write(Writer::send_weights(&mut out), groups, weighted),
        Plain::LbState { uid, health, flags } => {
            writer::set_lb_state_request(&mut out, id, uid, Health(*health), LbFlags(*flags)).unwrap();
        }
        Plain::MemberState { flags, groups } => {
            let writer = Writer::set_member_state_request(&mut out, id, SenderFlags(*flags));
            write(writer, groups, |member, &(state, flags)| MemberState { member, state, flags: MemberFlags(flags) });
        }
        Plain::Reply { kind, code } => writer::reply(&mut out, id, ComponentType(*kind), ReturnCode(*code)),
    }
    out
}

fn read<'a, E, T: Entry<'a>>(groups: Groups<'a, T>, rest: impl Fn(T) -> E) -> Listed<E> {
    let entries = |group: gwm::sasp::Group<'a, T>| {
        assert_eq!(group.entries().len(), usize::from(group.count()));
        let entry = |entry: T| (entry.member().endpoint, entry.member().label.to_vec(), rest(entry));
        (group.data.lb_uid.to_vec(), group.data.name.to_vec(), group.entries().map(entry).collect())
    };
    groups.into_iter().map(entries).collect()
}

fn decode(bytes: &[u8]) -> (u32, Plain) {
    let weight = |weighted: WeightedMember<'_>| {
        let WeightEntry { state, flags, weight } = weighted.entry;
        (state, flags.0, weight)
    };
    let (header, message) = Message::decode(bytes).unwrap();
    let plain = match message {
        Message::RegistrationRequest(m) => Plain::Registration { flags: m.flags.0, groups: read(m.groups, |_| ()) },
        Message::DeregistrationRequest(m) => {
            Plain::Deregistration { flags: m.flags.0, reason: m.reason.0, groups: read(m.groups, |_| ()) }
        }
        Message::GetWeightsRequest(m) => {
            Plain::GetWeights { names: m.groups.iter().map(|g| (g.lb_uid.to_vec(), g.name.to_vec())).collect() }
        }
        Message::GetWeightsReply(m) => {
            Plain::Weights { code: m.code.0, interval: m.interval_seconds, groups: read(m.groups, weight) }
        }
        Message::SendWeights(m) => Plain::Push { groups: read(m.groups, weight) },
        Message::SetLbStateRequest(m) => {
            Plain::LbState { uid: m.lb_uid.to_vec(), health: m.health.0, flags: m.flags.0 }
        }
        Message::SetMemberStateRequest(m) => {
            Plain::MemberState { flags: m.flags.0, groups: read(m.groups, |entry| (entry.state, entry.flags.0)) }
        }
        Message::RegistrationReply(code)
        | Message::DeregistrationReply(code)
        | Message::SetLbStateReply(code)
        | Message::SetMemberStateReply(code) => Plain::Reply { kind: message.component_type().0, code: code.0 },
    };
    (header.id, plain)
}

proptest! {
    #![proptest_config(Config { cases: 300, rng_seed: RngSeed::Fixed(4678), failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same(plain in plain(), id: u32) {
        let id = if matches!(plain, Plain::Push { .. }) { 0 } else { id };
        let bytes = encode(&plain, id);
        prop_assert_eq!(decode(&bytes), (id, plain));
        fuzz::decoder(&bytes);
    }

    #[test]
    fn messages_follow_each_other_in_one_buffer_and_come_out_of_any_split(
        messages in vec(plain(), 1..6),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let encoded: Vec<Vec<u8>> = messages.iter().map(|message| encode(message, 0)).collect();
        let stream = encoded.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut framer = Framer::new(1 << 20);
        let mut frames = Vec::new();
        for piece in cuts.windows(2) {
            let mut input = &stream[piece[0]..piece[1]];
            while let Some(frame) = framer.next(&mut input).unwrap() {
                frames.push(frame.to_vec());
            }
        }
        prop_assert_eq!(frames, encoded);
        prop_assert_eq!(framer.buffered(), 0);
    }

    #[test]
    fn mutated_messages_never_panic(
        plain in plain(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = encode(&plain, 1);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        fuzz::decoder(&bytes);
        fuzz::session(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        fuzz::decoder(&bytes);
        fuzz::session(&bytes);
        fuzz::framer(&bytes);
    }
}

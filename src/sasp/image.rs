//! The layout of one encoded group: Group of Weight Entry Data, Group Data, then Member Data and Weight Entry of each
//! member. Only this file knows where values and counts stand in an encoded group.

use smallvec::SmallVec;

use super::{
    component::{GroupData, MemberData, WeightEntry, WeightedMember},
    writer,
};

/// The value of an entry: its last bytes, which hold state, flags and weight.
pub(crate) const VALUE_BYTES: usize = 4;

/// An entry: type, length, protocol, port, address and length of the label; the label; type, length and value.
const LABEL_AT: usize = 24;

/// An entry without a label.
pub(crate) const UNLABELLED_BYTES: usize = LABEL_AT + 4 + VALUE_BYTES;

/// Offset of the entry count: after one type and length.
const COUNT_AT: usize = 4;

/// Offset of the LB UID's length: after two types and lengths and the count.
const UID_LENGTH_AT: usize = 10;

/// The bytes of a group before the first entry, with the count 0. Mostly they are short, and not in memory of their own.
pub(crate) struct Prefix(SmallVec<[u8; 64]>);

impl Prefix {
    pub(crate) fn new(data: GroupData<'_>) -> Prefix {
        let mut bytes = Vec::new();
        writer::weight_group_prefix(&mut bytes, data);
        Prefix(bytes.as_slice().into())
    }

    /// The group's name.
    pub(crate) fn name(&self) -> &[u8] {
        let uid_length = usize::from(self.0[UID_LENGTH_AT]);
        &self.0[UID_LENGTH_AT + 1 + uid_length + 1..]
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Sets the entry count of an encoded group.
pub(crate) fn set_count(group: &mut [u8], count: u16) {
    group[COUNT_AT..COUNT_AT + 2].copy_from_slice(&count.to_be_bytes());
}

/// Appends the entry of a member with the value 0; gives its length.
pub(crate) fn push(entries: &mut Vec<u8>, member: MemberData<'_>) -> u32 {
    let start = entries.len();
    writer::weighted_member(entries, &WeightedMember { member, entry: WeightEntry::default() });
    (entries.len() - start) as u32
}

/// The label of an encoded entry.
pub(crate) fn label(entry: &[u8]) -> &[u8] {
    &entry[LABEL_AT..LABEL_AT + entry.len() - UNLABELLED_BYTES]
}

/// The value of an encoded entry.
pub(crate) fn value_of(entry: &mut [u8]) -> &mut [u8] {
    let at = entry.len() - VALUE_BYTES;
    &mut entry[at..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasp::{Endpoint, EntryFlags, Writer};

    #[test]
    fn an_encoded_group_is_what_the_writer_writes() {
        let data = GroupData { lb_uid: b"LB1", name: b"FARM1" };
        let member = |port, label| MemberData { endpoint: Endpoint::new("10.0.0.1".parse().unwrap(), 6, port), label };
        let entry = WeightEntry { state: 7, flags: EntryFlags(0x0D), weight: 0x0102 };
        let prefix = Prefix::new(data);
        assert_eq!(prefix.name(), b"FARM1");
        let members: [(u16, &[u8]); 3] = [(80, b"one"), (81, b""), (82, b"three")];
        let mut group = prefix.bytes().to_vec();
        for (port, label) in members {
            let mut encoded = Vec::new();
            assert_eq!(push(&mut encoded, member(port, label)) as usize, encoded.len());
            assert_eq!(super::label(&encoded), label);
            value_of(&mut encoded).copy_from_slice(&entry.to_bytes());
            group.extend(encoded);
        }
        set_count(&mut group, 3);

        let mut out = Vec::new();
        let mut writer = Writer::send_weights(&mut out);
        writer.group(data);
        members.iter().for_each(|&(port, label)| writer.entry(&WeightedMember { member: member(port, label), entry }));
        writer.finish().unwrap();
        assert_eq!(group, out.split_off(19)); // header and Send Weights
    }
}

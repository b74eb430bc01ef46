//! The layout of one encoded group: Group of Weight Entry Data, Group Data, then Member Data and Weight Entry of each
//! member. Only this file knows where values and counts stand in an encoded group.

use super::{
    component::{GroupData, MemberData, WeightEntry, WeightedMember},
    writer,
};

/// Bytes of an entry whose label is empty.
const ENTRY_BYTES: usize = 32;

/// The value of an entry: its last bytes, which hold state, flags and weight.
pub(crate) const VALUE_BYTES: usize = 4;

/// Offset of the entry count: after one type and length.
const COUNT_AT: usize = 4;

/// Offset of the LB UID's length: after two types and lengths and the count.
const UID_LENGTH_AT: usize = 10;

/// One group, encoded as in a message.
pub(crate) struct GroupImage {
    bytes: Vec<u8>,
    /// Offset of the first entry.
    entries_at: u32,
}

impl GroupImage {
    /// A group without members.
    pub(crate) fn new(data: GroupData<'_>) -> GroupImage {
        let mut bytes = Vec::new();
        writer::weight_group_prefix(&mut bytes, data);
        GroupImage { entries_at: bytes.len() as u32, bytes }
    }

    /// The group's name.
    pub(crate) fn name(&self) -> &[u8] {
        let uid_length = usize::from(self.bytes[UID_LENGTH_AT]);
        &self.bytes[UID_LENGTH_AT + 1 + uid_length + 1..self.entries_at as usize]
    }

    /// The whole group.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes before the first entry.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.bytes[..self.entries_at as usize]
    }

    /// Reserves memory for exactly so many more members with empty labels.
    pub(crate) fn reserve(&mut self, members: usize) {
        self.bytes.reserve_exact(members * ENTRY_BYTES);
    }

    /// Appends a member with the value 0; returns where its entry ends.
    pub(crate) fn push(&mut self, member: MemberData<'_>) -> u32 {
        writer::weighted_member(&mut self.bytes, &WeightedMember { member, entry: WeightEntry::default() });
        self.end()
    }

    /// Where the first entry begins.
    pub(crate) fn first(&self) -> u32 {
        self.entries_at
    }

    /// Where the last entry ends.
    pub(crate) fn end(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// The entry that begins and ends there.
    pub(crate) fn entry(&self, begin: u32, end: u32) -> &[u8] {
        &self.bytes[begin as usize..end as usize]
    }

    /// The value of the entry that ends there.
    #[inline]
    pub(crate) fn value(&mut self, end: u32) -> &mut [u8] {
        &mut self.bytes[end as usize - VALUE_BYTES..end as usize]
    }

    /// Moves an entry forward to `to`, the end of the entry before it; returns the entry's new end.
    pub(crate) fn shift(&mut self, begin: u32, end: u32, to: u32) -> u32 {
        self.bytes.copy_within(begin as usize..end as usize, to as usize);
        to + (end - begin)
    }

    /// Removes all bytes after the entry that ends there; with `shrink` frees their memory.
    pub(crate) fn truncate(&mut self, end: u32, shrink: bool) {
        self.bytes.truncate(end as usize);
        if shrink {
            self.bytes.shrink_to_fit();
        }
    }

    /// Sets the entry count.
    pub(crate) fn set_count(&mut self, count: u16) {
        set_count(&mut self.bytes, count);
    }
}

/// Sets the entry count of an encoded group.
pub(crate) fn set_count(group: &mut [u8], count: u16) {
    group[COUNT_AT..COUNT_AT + 2].copy_from_slice(&count.to_be_bytes());
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
    fn an_image_is_what_the_writer_writes() {
        let data = GroupData { lb_uid: b"LB1", name: b"FARM1" };
        let member = |port, label| MemberData { endpoint: Endpoint::new("10.0.0.1".parse().unwrap(), 6, port), label };
        let entry = WeightEntry { state: 7, flags: EntryFlags(0x0D), weight: 0x0102 };
        let mut image = GroupImage::new(data);
        assert_eq!(image.name(), b"FARM1");
        let ends = [image.push(member(80, b"one")), image.push(member(81, b"")), image.push(member(82, b"three"))];
        ends.iter().for_each(|&end| image.value(end).copy_from_slice(&entry.to_bytes()));
        image.set_count(3);

        let written = |ports: &[(u16, &'static [u8])]| {
            let mut out = Vec::new();
            let mut writer = Writer::send_weights(&mut out);
            writer.group(data);
            ports
                .iter()
                .for_each(|&(port, label)| writer.entry(&WeightedMember { member: member(port, label), entry }));
            writer.finish().unwrap();
            out.split_off(19) // header and Send Weights
        };
        assert_eq!(image.bytes(), written(&[(80, b"one"), (81, b""), (82, b"three")]));

        let end = image.shift(ends[1], ends[2], ends[0]);
        image.truncate(end, true);
        image.set_count(2);
        assert_eq!(image.bytes(), written(&[(80, b"one"), (82, b"three")]));
    }
}

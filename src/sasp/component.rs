//! The parts of messages: endpoints, members, groups, and lists of them that borrow from a frame.
//!
//! Struct fields stand in wire order. [`Message::decode`](super::Message::decode) checks all lists. An iterator over a list
//! parses each item again, and does not allocate.

use std::{
    fmt,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::BufMut;

use super::{
    code::{ComponentType, EntryFlags, MemberFlags},
    escape::Escaped,
    reader::{DecodeError, Reader},
    writer::Sink,
};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;

/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// A member's identity: a system (protocol 0, port 0) or an application on it.
///
/// The address has the 16 bytes of the wire. An IPv4 address is 12 zero bytes and its own 4 bytes. Two endpoints are the
/// same if all bytes are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IP protocol number; 0 for a whole system.
    pub protocol: u8,
    /// Port; 0 for a whole system.
    pub port: u16,
    /// IPv6 address, or IPv4-compatible IPv6 address.
    pub address: [u8; 16],
}

impl Endpoint {
    /// The endpoint of an application; with `protocol` and `port` 0, of a system.
    pub fn new(address: IpAddr, protocol: u8, port: u16) -> Endpoint {
        let address = match address {
            IpAddr::V4(v4) => {
                let mut bytes = [0; 16];
                bytes[12..].copy_from_slice(&v4.octets());
                bytes
            }
            IpAddr::V6(v6) => v6.octets(),
        };
        Endpoint { protocol, port, address }
    }

    /// The address for people: 12 zero bytes mean IPv4, but `::` and `::1` stay IPv6.
    pub fn ip(&self) -> IpAddr {
        let number = u128::from_be_bytes(self.address);
        match u32::try_from(number) {
            Ok(v4) if v4 > 1 => Ipv4Addr::from(v4).into(),
            _ => Ipv6Addr::from(number).into(),
        }
    }

    /// The endpoint with its address in one spelling: an IPv4 address that is written as an IPv4-mapped IPv6 address
    /// (`::ffff:10.0.0.1`) becomes the IPv4 address. On the wire these are two endpoints, for an operator they are one.
    pub fn canonical(self) -> Endpoint {
        match Ipv6Addr::from(self.address).to_ipv4_mapped() {
            // The wire has no form for these two IPv4 addresses: their bytes mean `::` and `::1`.
            Some(v4) if v4.to_bits() > 1 => Endpoint::new(v4.into(), self.protocol, self.port),
            _ => self,
        }
    }
}

impl fmt::Display for Endpoint {
    /// `10.0.0.1:80` for TCP, `[2001:db8::1]:53/udp`, `10.0.0.1:7/132` for other protocols, `10.0.0.1` for a system.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == 0 && self.port == 0 {
            return write!(f, "{}", self.ip());
        }
        write!(f, "{}", SocketAddr::new(self.ip(), self.port))?;
        match self.protocol {
            TCP => Ok(()),
            UDP => f.write_str("/udp"),
            other => write!(f, "/{other}"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Member Data (0x3010): a member and its label.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemberData<'a> {
    /// Protocol, port and address.
    pub endpoint: Endpoint,
    /// At most 255 bytes. Opaque to the GWM, and not part of the member's identity.
    pub label: &'a [u8],
}

impl fmt::Debug for MemberData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.endpoint, Escaped(self.label))
    }
}

/// Group Data (0x3011): the load balancer and the name of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupData<'a> {
    /// The load balancer's UID. A valid UID has 1 to 64 bytes; the wire can carry 255.
    pub lb_uid: &'a [u8],
    /// The group's name. In some requests, an empty name means all groups.
    pub name: &'a [u8],
}

impl fmt::Debug for GroupData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Escaped(self.lb_uid), Escaped(self.name))
    }
}

/// Weight Entry (0x3012): the GWM's statement about a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WeightEntry {
    /// The member's opaque state.
    pub state: u8,
    /// Contact, quiesced, registered by the LB, confident.
    pub flags: EntryFlags,
    /// The member's share of the work, relative to the other members.
    pub weight: u16,
}

impl WeightEntry {
    /// The four bytes on the wire.
    pub const fn to_bytes(self) -> [u8; 4] {
        let [high, low] = self.weight.to_be_bytes();
        [self.state, self.flags.0, high, low]
    }

    /// The entry from its four bytes on the wire.
    pub const fn from_bytes([state, flags, high, low]: [u8; 4]) -> WeightEntry {
        WeightEntry { state, flags: EntryFlags(flags), weight: u16::from_be_bytes([high, low]) }
    }
}

/// A member with its Weight Entry, as Get Weights Reply and Send Weights list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightedMember<'a> {
    /// The member.
    pub member: MemberData<'a>,
    /// Its weight entry.
    pub entry: WeightEntry,
}

/// A member with its Member State Instance (0x3013), as Set Member State lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberState<'a> {
    /// The member.
    pub member: MemberData<'a>,
    /// The opaque state to store.
    pub state: u8,
    /// The quiesce flag.
    pub flags: MemberFlags,
}

/// An entry of a group: Member Data alone, with a Weight Entry, or with a Member State Instance.
pub trait Entry<'a>: Copy + fmt::Debug + sealed::Wire<'a> {
    /// The component of a group with such entries.
    const GROUP: ComponentType;
    /// The member of the entry.
    fn member(&self) -> MemberData<'a>;
}

pub(crate) mod sealed {
    use super::{BufMut, DecodeError, Reader, Sink};

    /// Reads and writes one entry.
    pub trait Wire<'a>: Sized {
        fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
        fn write<B: BufMut>(&self, sink: &mut Sink<'_, B>);
    }
}
use sealed::Wire;

impl<'a> Entry<'a> for MemberData<'a> {
    const GROUP: ComponentType = ComponentType::GROUP_OF_MEMBER_DATA;

    fn member(&self) -> MemberData<'a> {
        *self
    }
}

impl<'a> Wire<'a> for MemberData<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let start = reader.offset();
        let mut fields = reader.variable(ComponentType::MEMBER_DATA, 24)?;
        let protocol = fields.u8("protocol")?;
        let port = fields.u16("port")?;
        let address = fields.array("address")?;
        let label_length = fields.u8("label length")?;
        let label = fields.take(label_length.into(), "label")?;
        fields.end_of(ComponentType::MEMBER_DATA, start)?;
        Ok(MemberData { endpoint: Endpoint { protocol, port, address }, label })
    }

    fn write<B: BufMut>(&self, sink: &mut Sink<'_, B>) {
        sink.type_and_length(ComponentType::MEMBER_DATA, 24 + self.label.len());
        sink.bytes(&[self.endpoint.protocol]);
        sink.u16(self.endpoint.port);
        sink.bytes(&self.endpoint.address);
        sink.short(self.label, "label");
    }
}

impl<'a> Entry<'a> for WeightedMember<'a> {
    const GROUP: ComponentType = ComponentType::GROUP_OF_WEIGHT_ENTRY_DATA;

    fn member(&self) -> MemberData<'a> {
        self.member
    }
}

impl<'a> Wire<'a> for WeightedMember<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let member = MemberData::read(reader)?;
        let entry = WeightEntry::from_bytes(reader.fixed(ComponentType::WEIGHT_ENTRY)?);
        Ok(WeightedMember { member, entry })
    }

    fn write<B: BufMut>(&self, sink: &mut Sink<'_, B>) {
        self.member.write(sink);
        sink.type_and_length(ComponentType::WEIGHT_ENTRY, 8);
        sink.bytes(&self.entry.to_bytes());
    }
}

impl<'a> Entry<'a> for MemberState<'a> {
    const GROUP: ComponentType = ComponentType::GROUP_OF_MEMBER_STATE_DATA;

    fn member(&self) -> MemberData<'a> {
        self.member
    }
}

impl<'a> Wire<'a> for MemberState<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let member = MemberData::read(reader)?;
        let [state, flags] = reader.fixed(ComponentType::MEMBER_STATE_INSTANCE)?;
        Ok(MemberState { member, state, flags: MemberFlags(flags) })
    }

    fn write<B: BufMut>(&self, sink: &mut Sink<'_, B>) {
        self.member.write(sink);
        sink.type_and_length(ComponentType::MEMBER_STATE_INSTANCE, 6);
        sink.bytes(&[self.state, self.flags.0]);
    }
}

impl<'a> Wire<'a> for GroupData<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let start = reader.offset();
        let mut fields = reader.variable(ComponentType::GROUP_DATA, 6)?;
        let uid_length = fields.u8("LB UID length")?;
        let lb_uid = fields.take(uid_length.into(), "LB UID")?;
        let name_length = fields.u8("group name length")?;
        let name = fields.take(name_length.into(), "group name")?;
        fields.end_of(ComponentType::GROUP_DATA, start)?;
        Ok(GroupData { lb_uid, name })
    }

    fn write<B: BufMut>(&self, sink: &mut Sink<'_, B>) {
        sink.type_and_length(ComponentType::GROUP_DATA, 6 + self.lb_uid.len() + self.name.len());
        sink.short(self.lb_uid, "LB UID");
        sink.short(self.name, "group name");
    }
}

/// `count` items, one after the other.
struct Items<'a, T> {
    count: u16,
    reader: Reader<'a>,
    items: PhantomData<T>,
}

impl<'a, T> Items<'a, T> {
    fn new(count: u16, reader: Reader<'a>) -> Items<'a, T> {
        Items { count, reader, items: PhantomData }
    }
}

impl<T> Clone for Items<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Items<'_, T> {}

impl<'a, T: Wire<'a>> Iterator for Items<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.count = self.count.checked_sub(1)?;
        let start = self.reader;
        let item = T::read(&mut self.reader).ok();
        if item.is_none() {
            // Only in a list that was not checked. The start of the next item is unknown.
            (self.count, self.reader) = (0, start);
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count.into(), Some(self.count.into()))
    }
}

/// One group of a message, with its entries.
#[derive(Clone, Copy)]
pub struct Group<'a, T> {
    /// The load balancer and the name of the group.
    pub data: GroupData<'a>,
    items: Items<'a, T>,
}

impl<'a, T: Entry<'a>> Group<'a, T> {
    /// The number of entries.
    pub fn count(&self) -> u16 {
        self.items.count
    }

    /// The entries in wire order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = T> + use<'a, T> {
        self.items
    }

    /// In a broken list: the member before the fault, if the member itself can be read.
    pub(super) fn member_before_fault(&self) -> Option<MemberData<'a>> {
        let mut items = self.items;
        if items.by_ref().count() == usize::from(self.items.count) {
            return None;
        }
        MemberData::read(&mut items.reader).ok()
    }

    /// Reads the group's own components, without the entries.
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = u16::from_be_bytes(reader.fixed(T::GROUP)?);
        let data = GroupData::read(reader)?;
        Ok(Group { data, items: Items::new(count, *reader) })
    }
}

impl<'a, T: Wire<'a>> ExactSizeIterator for Items<'a, T> {}

impl<'a, T: Entry<'a>> fmt::Debug for Group<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.data)?;
        f.debug_list().entries(self.entries()).finish()
    }
}

/// The groups of a message, in wire order.
#[derive(Clone, Copy)]
pub struct Groups<'a, T> {
    count: u16,
    reader: Reader<'a>,
    items: PhantomData<T>,
}

impl<'a, T: Entry<'a>> Groups<'a, T> {
    /// The number of groups.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Takes `count` groups from the reader and checks every byte of them.
    pub(crate) fn check(count: u16, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let groups = Groups { count, reader: *reader, items: PhantomData };
        for _ in 0..count {
            let group = Group::<T>::read(reader)?;
            for _ in 0..group.count() {
                T::read(reader)?;
            }
        }
        Ok(groups)
    }

    /// Takes groups that were checked before.
    pub(crate) fn trust(count: u16, reader: Reader<'a>) -> Self {
        Groups { count, reader, items: PhantomData }
    }
}

impl<'a, T: Entry<'a>> IntoIterator for Groups<'a, T> {
    type Item = Group<'a, T>;
    type IntoIter = GroupsIter<'a, T>;

    fn into_iter(self) -> GroupsIter<'a, T> {
        GroupsIter { left: self.count, entries: Items::new(0, self.reader), entries_in_group: 0 }
    }
}

/// An iterator over [`Groups`]. It skips the entries of a group at the call for the next group.
pub struct GroupsIter<'a, T> {
    left: u16,
    entries: Items<'a, T>,
    entries_in_group: u16,
}

impl<'a, T: Entry<'a>> Iterator for GroupsIter<'a, T> {
    type Item = Group<'a, T>;

    fn next(&mut self) -> Option<Group<'a, T>> {
        self.left = self.left.checked_sub(1)?;
        let whole = self.entries.by_ref().count() == usize::from(self.entries_in_group);
        let Some(group) = Group::read(&mut self.entries.reader).ok().filter(|_| whole) else {
            self.left = 0; // only in a list that was not checked
            return None;
        };
        self.entries = group.items;
        self.entries_in_group = group.count();
        Some(group)
    }
}

impl<'a, T: Entry<'a>> fmt::Debug for Groups<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

impl<'a, T: Entry<'a>> PartialEq for Groups<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.reader.rest() == other.reader.rest()
    }
}

/// The group names of a Get Weights request, in wire order.
#[derive(Clone, Copy)]
pub struct GroupNames<'a> {
    items: Items<'a, GroupData<'a>>,
}

impl<'a> GroupNames<'a> {
    /// The number of names.
    pub fn count(&self) -> u16 {
        self.items.count
    }

    pub(crate) fn check(count: u16, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let names = GroupNames::trust(count, *reader);
        for _ in 0..count {
            GroupData::read(reader)?;
        }
        Ok(names)
    }

    pub(crate) fn trust(count: u16, reader: Reader<'a>) -> Self {
        GroupNames { items: Items::new(count, reader) }
    }

    /// The names in wire order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = GroupData<'a>> + use<'a> {
        self.items
    }
}

impl fmt::Debug for GroupNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for GroupNames<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.items.count == other.items.count && self.items.reader.rest() == other.items.reader.rest()
    }
}

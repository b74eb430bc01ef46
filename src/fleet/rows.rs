//! Rows of the store ↔ bytes. Every field is bounded: other nodes, other versions and people write to the store, too.
//!
//! | key | value |
//! | --- | --- |
//! | `lb/UID` | a load balancer: [`Lb`] |
//! | `group/UID/NAME` | a group with its members: [`Group`] |
//! | `word/NUMBER` | a word of the operator |
//! | `part/NAME/SERIAL/INDEX` | a part of a group that is too large for one value: [`Parts`] |
//! | `store` | tells the store from another one: whoever came first wrote it |
//! | `node/NAME` | a node that is alive: `NodeRow`; ends with the node's lease |
//! | `verdict/NAME/BUCKET` | what a node's checks found; ends with the node's lease |
//!
//! UIDs and names of groups are in hexadecimal. Each value begins with its version.

use std::fmt::Write as _;

use super::{
    buckets::{self, BUCKETS},
    node_row::NodeRow,
};
use crate::{
    coordinator::{Membership, Pattern, Saying, Word},
    journal::{Date, Epoch, Fault, Fields, put_endpoint, put_short, read_word, write_word},
    limits,
    sasp::{Endpoint, Escaped, Health, LbFlags},
};

pub(super) use crate::journal::RowKey;

/// The version of the values.
const VERSION: u8 = 1;

/// The version of a group's value that is in parts.
const IN_PARTS: u8 = 2;

/// The version of a group's value that tells which members are gone.
const WITH_GONE: u8 = 3;

/// The most members of a group that are known to be gone, the last ones: about 8 KiB in each value of such a group.
pub(super) const GONE: usize = 256;

/// The most parts of a value: with parts of [`VALUE_BYTES`](super::VALUE_BYTES), any group fits.
pub(super) const PARTS: u16 = 64;

const _: () = assert!(GROUP_BYTES + GROUP_BYTES / 64 < super::VALUE_BYTES * (PARTS as usize - 1));

/// Bytes of the longest list of members: the limits of a group, with the longest labels.
const MEMBERS_BYTES: usize = limits::MEMBERS_PER_GROUP as usize * (19 + 8 + 2 + 1 + limits::LABEL_BYTES);

/// Bytes of the longest group, with the longest stamps.
const GROUP_BYTES: usize = MEMBERS_BYTES + 2 + GONE * (19 + 8 + 1 + u8::MAX as usize);

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// When something was done, and where: of two, the later one counts. The default is before all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    /// By the clock of the node, but later than what the node had seen.
    pub(super) date: Date,
    /// The node.
    pub(super) node: Box<str>,
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lb {
    /// When it became known: groups of its former lives are void.
    pub(super) born: Stamp,
    /// When and where its last connection was bound.
    pub(super) session: Stamp,
    /// The life of the node that the connection was bound to.
    pub(super) incarnation: u64,
    /// The end of its hold time; `None` while it is connected.
    pub(super) held_until: Option<Date>,
    pub(super) health: Health,
    pub(super) flags: LbFlags,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Another registration of the same member has another id. So a member that left and came back, while the other side
    /// removed it, is not taken for the one that was removed.
    pub(super) id: u64,
    pub(super) membership: Membership,
}

/// A member that the load balancer has deregistered. A node that was cut off may have it from an earlier session of the
/// load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gone {
    /// The session in which the load balancer deregistered the member, as in [`Group`].
    pub(super) session: Stamp,
    pub(super) endpoint: Endpoint,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The life of the load balancer that the group belongs to.
    pub(super) born: Stamp,
    /// The session in which the load balancer changed the group last; its node has a mark (`clock`).
    pub(super) session: Stamp,
    /// In the order of their registration.
    pub(super) members: Vec<Member>,
    /// Members that the load balancer has deregistered last, [`GONE`] at most. What it has registered again is not here.
    pub(super) gone: Vec<Gone>,
}

/// A word of the operator.
#[derive(Clone, Debug)]
pub(super) struct WordRow {
    pub(super) word: Word,
    /// As in the store: the word has times of this process.
    bytes: Box<[u8]>,
}

/// A word never changes. Only its dates are not the same in all processes.
impl PartialEq for WordRow {
    fn eq(&self, other: &WordRow) -> bool {
        fn of(row: &WordRow) -> (u64, Saying, &Pattern, &str, &str, &str) {
            let Word { number, saying, pattern, reason, by, from, .. } = &row.word;
            (*number, *saying, pattern, reason, by, from)
        }
        of(self) == of(other)
    }
}

impl WordRow {
    pub(super) fn new(word: Word, epoch: Epoch) -> WordRow {
        let bytes = write_word(&word, epoch).into();
        WordRow { word, bytes }
    }

    /// The same word with another number.
    pub(super) fn renumbered(&self, word: Word) -> WordRow {
        WordRow { word, bytes: self.bytes.clone() }
    }

    /// What the word says of what, by whom, from where and why, for the log.
    pub(super) fn told(&self) -> String {
        let Word { by, from, reason, .. } = &self.word;
        let by = if by.is_empty() { String::new() } else { format!("by \"{}\", ", Escaped(by.as_bytes())) };
        let (from, reason) = (Escaped(from.as_bytes()), Escaped(reason.as_bytes()));
        format!("{} ({by}from {from}, reason \"{reason}\")", self.word)
    }

    /// Whether this and another word are about the same: one of them is enough.
    pub(super) fn is_about(&self, other: &WordRow) -> bool {
        let fixes = |row: &WordRow| matches!(row.word.saying, Saying::Weight(_));
        self.word.pattern == other.word.pattern && fixes(self) == fixes(other)
    }
}

/// What a row of the tables has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    LoadBalancer(Lb),
    Group(Group),
    Word(WordRow),
}

/// A key of the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Row(RowKey),
    Node(Box<str>),
    Verdicts(Box<str>, u16),
    Part(Box<str>, u64, u16),
    Store,
}

/// Where a value is that is too large for one key: in parts, which are there before the group's own key names them, and
/// which nobody changes. So a group changes at once, however many transactions its parts take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Who wrote them.
    pub(super) node: Box<str>,
    /// The writer's number for this value.
    pub(super) serial: u64,
    /// How many there are.
    pub(super) count: u16,
}

impl Parts {
    /// Reads a group's value; `None`: it is not in parts.
    pub(super) fn read(value: &[u8]) -> Result<Option<Parts>> {
        let mut fields = Fields(value);
        if fields.u8("the version of a value")? != IN_PARTS {
            return Ok(None);
        }
        let node = read_text(&mut fields, "the node of parts")?;
        let serial = fields.u64("the number of parts")?;
        let count = u16::from(fields.u8("the count of parts")?);
        fields.end("the end of parts")?;
        if is_node_name(&node) && (1..=PARTS).contains(&count) {
            Ok(Some(Parts { node, serial, count }))
        } else {
            Err(Fault("the count of parts"))
        }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = vec![IN_PARTS];
        put_text(&mut out, &self.node);
        out.extend_from_slice(&self.serial.to_be_bytes());
        out.push(self.count as u8); // at most `PARTS`
        out
    }

    /// Their keys, in the order of the value.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        (0..self.count).map(|index| Key::Part(self.node.clone(), self.serial, index))
    }
}

/// Whether nodes may have this name.
pub fn is_node_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes all"));
    text
}

fn unhex(text: &str, most: usize, what: &'static str) -> Result<Box<[u8]>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(Fault(what)),
    };
    if text.is_empty() || !text.len().is_multiple_of(2) || text.len() > 2 * most {
        return Err(Fault(what));
    }
    text.as_bytes().chunks_exact(2).map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

impl Key {
    pub(super) fn read(key: &[u8]) -> Result<Key> {
        let fault = Fault("the key");
        let text = std::str::from_utf8(key).map_err(|_| fault)?;
        let parts: Vec<&str> = text.split('/').collect();
        let uid = |text| unhex(text, limits::LB_UID_BYTES, "the LB UID of a key");
        match parts[..] {
            ["lb", text] => Ok(Key::Row(RowKey::LoadBalancer(uid(text)?))),
            ["group", lb_uid, name] => {
                let name = unhex(name, limits::GROUP_NAME_BYTES, "the name of a group's key")?;
                Ok(Key::Row(RowKey::Group(uid(lb_uid)?, name)))
            }
            ["word", number] if number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                number.parse().map(|number| Key::Row(RowKey::Word(number))).map_err(|_| fault)
            }
            ["node", name] if is_node_name(name) => Ok(Key::Node(name.into())),
            ["verdict", name, bucket] if is_node_name(name) => {
                let bytes = unhex(bucket, 2, "the number of a verdict's key")?;
                let bucket = <[u8; 2]>::try_from(&*bytes).map(u16::from_be_bytes).map_err(|_| fault)?;
                if bucket < BUCKETS { Ok(Key::Verdicts(name.into(), bucket)) } else { Err(fault) }
            }
            ["part", name, serial, index] if is_node_name(name) => {
                let serial = unhex(serial, 8, "the number of a part's key")?;
                let index = unhex(index, 2, "the index of a part's key")?;
                let serial = <[u8; 8]>::try_from(&*serial).map(u64::from_be_bytes).map_err(|_| fault)?;
                let index = <[u8; 2]>::try_from(&*index).map(u16::from_be_bytes).map_err(|_| fault)?;
                if index < PARTS { Ok(Key::Part(name.into(), serial, index)) } else { Err(fault) }
            }
            [STORE_KEY] => Ok(Key::Store),
            _ => Err(fault),
        }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let text = match self {
            Key::Row(RowKey::LoadBalancer(uid)) => format!("lb/{}", hex(uid)),
            Key::Row(RowKey::Group(uid, name)) => format!("group/{}/{}", hex(uid), hex(name)),
            Key::Row(RowKey::Word(number)) => format!("word/{number:016}"),
            Key::Node(name) => format!("node/{name}"),
            Key::Verdicts(name, bucket) => format!("verdict/{name}/{bucket:04x}"),
            Key::Part(name, serial, index) => format!("part/{name}/{serial:016x}/{index:04x}"),
            Key::Store => STORE_KEY.into(),
        };
        text.into_bytes()
    }
}

/// The key that tells a store from others, without the fleet's prefix.
pub(crate) const STORE_KEY: &str = "store";

/// The value of the key that tells a store from others: the node that wrote it, and how often it has written one before.
pub(super) fn write_store(node: &str, incarnation: u64, before: u32) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_text(&mut out, node);
    out.extend_from_slice(&incarnation.to_be_bytes());
    out.extend_from_slice(&before.to_be_bytes());
    out
}

/// A number for the value of the key that tells a store from others, whatever it is: not 0, and below 2^60.
pub(crate) fn store_number(value: &[u8]) -> u64 {
    let hash = value
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3));
    hash >> 4 | 1
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_short(out, &text.as_bytes()[..text.floor_char_boundary(u8::MAX.into())]);
}

pub(super) fn read_text(fields: &mut Fields<'_>, what: &'static str) -> Result<Box<str>> {
    std::str::from_utf8(fields.short(what)?).map(Into::into).map_err(|_| Fault(what))
}

fn put_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    out.extend_from_slice(&stamp.date.0.to_be_bytes());
    put_text(out, &stamp.node);
}

fn read_stamp(fields: &mut Fields<'_>) -> Result<Stamp> {
    let date = Date(fields.u64("the date of a stamp")?);
    Ok(Stamp { date, node: read_text(fields, "the node of a stamp")? })
}

/// The begin of a value.
pub(super) fn new_value() -> Vec<u8> {
    vec![VERSION]
}

pub(super) fn begin(value: &[u8]) -> Result<Fields<'_>> {
    let mut fields = Fields(value);
    match fields.u8("the version of a value")? {
        VERSION => Ok(fields),
        _ => Err(Fault("the version of a value")),
    }
}

/// Appends the length of some bytes, and the bytes, compressed.
pub(super) fn put_packed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes()); // lists are shorter than `GROUP_BYTES`
    out.extend_from_slice(&lz4_flex::block::compress(bytes));
}

/// The rest of a value, of which no more than `most` bytes may come.
pub(super) fn unpack(fields: Fields<'_>, most: usize, what: &'static str) -> Result<Vec<u8>> {
    let Fields(value) = fields;
    let (length, packed) = value.split_first_chunk().ok_or(Fault(what))?;
    let length = u32::from_be_bytes(*length) as usize;
    // 255 bytes of text come from one byte at best: a value that promises more takes no memory.
    if length > most || length / 256 > packed.len() {
        return Err(Fault(what));
    }
    let bytes = lz4_flex::block::decompress(packed, length).map_err(|_| Fault(what))?;
    if bytes.len() == length { Ok(bytes) } else { Err(Fault(what)) }
}

impl Content {
    pub(super) fn read(key: &RowKey, value: &[u8], epoch: Epoch) -> Result<Content> {
        let tells_gone = matches!(key, RowKey::Group(..)) && value.first() == Some(&WITH_GONE);
        let mut fields = if tells_gone { Fields(&value[1..]) } else { begin(value)? };
        match key {
            RowKey::LoadBalancer(_) => {
                let (born, session) = (read_stamp(&mut fields)?, read_stamp(&mut fields)?);
                let incarnation = fields.u64("the life of a node")?;
                let held_until = Some(Date(fields.u64("the hold time of a load balancer")?)).filter(|date| date.0 > 0);
                let health = Health(fields.u8("the health of a load balancer")?);
                let flags = LbFlags(fields.u8("the flags of a load balancer")?);
                fields.end("the end of a load balancer")?;
                Ok(Content::LoadBalancer(Lb { born, session, incarnation, held_until, health, flags }))
            }
            RowKey::Group(..) => {
                let (born, session) = (read_stamp(&mut fields)?, read_stamp(&mut fields)?);
                let bytes = unpack(fields, GROUP_BYTES, "the members of a group")?;
                let mut fields = Fields(&bytes);
                let gone = if tells_gone { read_gone(&mut fields)? } else { Vec::new() };
                Ok(Content::Group(Group { born, session, members: read_members(fields)?, gone }))
            }
            RowKey::Word(number) => {
                let Fields(bytes) = fields;
                let word = read_word(*number, bytes, epoch)?;
                Ok(Content::Word(WordRow { word, bytes: bytes.into() }))
            }
        }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Content::LoadBalancer(Lb { born, session, incarnation, held_until, health, flags }) => {
                put_stamp(&mut out, born);
                put_stamp(&mut out, session);
                out.extend_from_slice(&incarnation.to_be_bytes());
                out.extend_from_slice(&held_until.map_or(0, |date| date.0.max(1)).to_be_bytes());
                out.extend_from_slice(&[health.0, flags.0]);
            }
            Content::Group(Group { born, session, members, gone }) => {
                let mut bytes = Vec::with_capacity(32 * members.len());
                if !gone.is_empty() {
                    out = vec![WITH_GONE];
                    put_gone(&mut bytes, gone);
                }
                put_stamp(&mut out, born);
                put_stamp(&mut out, session);
                for Member { id, membership: Membership { endpoint, by_lb, label, state, quiesced } } in members {
                    put_endpoint(&mut bytes, endpoint);
                    bytes.extend_from_slice(&id.to_be_bytes());
                    bytes.extend_from_slice(&[u8::from(*by_lb) | u8::from(*quiesced) << 1, *state]);
                    put_short(&mut bytes, label);
                }
                put_packed(&mut out, &bytes);
            }
            Content::Word(row) => out.extend_from_slice(&row.bytes),
        }
        out
    }
}

fn put_gone(out: &mut Vec<u8>, gone: &[Gone]) {
    let count = gone.len().min(GONE);
    out.extend_from_slice(&(count as u16).to_be_bytes()); // at most `GONE`
    for Gone { session, endpoint } in &gone[gone.len() - count..] {
        put_stamp(out, session);
        put_endpoint(out, endpoint);
    }
}

fn read_gone(fields: &mut Fields<'_>) -> Result<Vec<Gone>> {
    let count = fields.u16("how many members are gone")?;
    if usize::from(count) > GONE {
        return Err(Fault("how many members are gone"));
    }
    (0..count).map(|_| Ok(Gone { session: read_stamp(fields)?, endpoint: fields.endpoint()? })).collect()
}

fn read_members(mut fields: Fields<'_>) -> Result<Vec<Member>> {
    let (mut members, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
    while !fields.0.is_empty() {
        let endpoint = fields.endpoint()?;
        let id = fields.u64("the id of a registration")?;
        let bits = fields.u8("who registered a member")?;
        let state = fields.u8("the state of a member")?;
        let label = fields.short("the label of a member")?.into();
        if bits > 3 || members.len() == limits::MEMBERS_PER_GROUP as usize || !seen.insert(endpoint) {
            return Err(Fault("the members of a group"));
        }
        let membership = Membership { endpoint, by_lb: bits & 1 != 0, label, state, quiesced: bits & 2 != 0 };
        members.push(Member { id, membership });
    }
    Ok(members)
}

/// Reads any bytes as a key and as every kind of value, for fuzzers. What can be read is the same after it is written.
pub(crate) fn read_any(bytes: &[u8]) {
    if let Ok(key) = Key::read(bytes) {
        assert_eq!(key.write(), bytes);
    }
    let group = RowKey::Group([1].into(), [1].into());
    for key in [RowKey::LoadBalancer([1].into()), group, RowKey::Word(1)] {
        if let Ok(content) = Content::read(&key, bytes, Epoch::default()) {
            let again = content.write();
            assert_eq!(Content::read(&key, &again, Epoch::default()), Ok(content));
        }
    }
    if let Ok(Some(parts)) = Parts::read(bytes) {
        assert_eq!(parts.write(), bytes);
    }
    if let Ok(node) = NodeRow::read(bytes) {
        assert_eq!(NodeRow::read(&node.write()), Ok(node));
    }
    if let Ok(list) = buckets::read(bytes) {
        let again = buckets::write(list.iter().map(|(endpoint, verdicts)| (endpoint, verdicts)));
        assert_eq!(buckets::read(&again), Ok(list));
    }
}

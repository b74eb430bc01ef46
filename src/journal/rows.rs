//! Rows ↔ bytes. Every field is bounded: a file on disk can be damaged, or made by somebody else.

use std::net::IpAddr;

use super::{
    date::{Date, Epoch},
    own,
};
use crate::{
    coordinator::{Pattern, Saying, Word},
    judgement::{Level, Policy, Share, Verdict},
    limits,
    sasp::{Endpoint, EntryFlags, GroupData, Health, LbFlags},
    time::Time,
};

/// The version of the rows. Another version is another file.
pub(super) const VERSION: u64 = 3;

/// The oldest version of rows that this gwm reads. Version 2 has no slow starts.
pub(super) const VERSION_OLDEST: u64 = 2;

/// Numbers of words; a program that reads JSON keeps them.
pub(super) const WORD_NUMBERS: std::ops::RangeInclusive<u64> = 1..=1 << 53;

/// Bytes of members after which a new chunk begins: with its key, a chunk fits one page of the file.
pub(super) const CHUNK_BYTES: usize = 3500;

/// What is wrong with a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub(crate) &'static str);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// What is kept, as a whole.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A word of the operator.
    Word(Word),
    /// A load balancer. Its groups follow later.
    LoadBalancer {
        /// Its UID.
        uid: Box<[u8]>,
        /// Its health, as it stated.
        health: Health,
        /// Its flags, as it stated.
        flags: LbFlags,
        /// The end of its hold time; `None` if it had a connection.
        held_until: Option<Date>,
    },
    /// A group of a load balancer.
    Group {
        /// The load balancer.
        lb_uid: Box<[u8]>,
        /// The group's name.
        name: Box<[u8]>,
        /// In the order of their registration.
        members: Vec<Member>,
    },
    /// The last verdicts on an endpoint, by `Policy as usize`.
    Verdicts {
        /// The endpoint.
        endpoint: Endpoint,
        /// The verdicts.
        verdicts: [Verdict; Policy::ALL.len()],
        /// The end of the endpoint's slow start, if it is in one.
        ramp_until: Option<Date>,
    },
}

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member.
    pub endpoint: Endpoint,
    /// The load balancer registered the member (else the member itself).
    pub by_lb: bool,
    /// The member's label.
    pub label: Box<[u8]>,
    /// The member's opaque state.
    pub state: u8,
    /// The member is quiesced by SASP.
    pub quiesced: bool,
}

/// Reads fields; the only code here that cuts bytes.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

type Result<T> = std::result::Result<T, Fault>;

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Fault(what))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Fault(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8> {
        self.array(what).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array(what).map(u64::from_be_bytes)
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault(what)),
        }
    }

    /// A byte of length, and so many bytes.
    pub(crate) fn short(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let length = self.u8(what)?;
        self.take(length.into(), what)
    }

    /// Two bytes of length, and so many bytes of text.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<Box<str>> {
        let length = self.u16(what)?;
        let bytes = self.take(length.into(), what)?;
        if bytes.len() > limits::WORD_TEXT_BYTES {
            return Err(Fault(what));
        }
        std::str::from_utf8(bytes).map(Into::into).map_err(|_| Fault(what))
    }

    pub(crate) fn endpoint(&mut self) -> Result<Endpoint> {
        let protocol = self.u8("the protocol of a member")?;
        let port = self.u16("the port of a member")?;
        Ok(Endpoint { protocol, port, address: self.array("the address of a member")? })
    }

    pub(crate) fn end(self, what: &'static str) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault(what)) }
    }
}

pub(crate) fn put_endpoint(out: &mut Vec<u8>, endpoint: &Endpoint) {
    out.push(endpoint.protocol);
    out.extend_from_slice(&endpoint.port.to_be_bytes());
    out.extend_from_slice(&endpoint.address);
}

pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(bytes.len() as u8); // UIDs, names and labels have 255 bytes at most
    out.extend_from_slice(bytes);
}

/// The UID of a load balancer, which is its key.
pub(super) fn read_uid(key: &[u8]) -> Result<&[u8]> {
    let fits = (1..=limits::LB_UID_BYTES).contains(&key.len());
    if fits { Ok(key) } else { Err(Fault("the length of an LB UID")) }
}

/// The value of a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LbValue {
    /// Load balancers are listed in this order.
    pub(super) number: u64,
    pub(super) held_until: Option<Date>,
    pub(super) health: Health,
    pub(super) flags: LbFlags,
}

impl LbValue {
    pub(super) fn write(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.held_until.map_or(0, |date| date.0).to_be_bytes());
        (bytes[16], bytes[17]) = (self.health.0, self.flags.0);
        bytes
    }

    pub(super) fn read(value: &[u8]) -> Result<LbValue> {
        let mut fields = Fields(value);
        let number = fields.u64("the number of a load balancer")?;
        let held_until = Some(Date(fields.u64("the hold time of a load balancer")?)).filter(|date| date.0 > 0);
        let health = Health(fields.u8("the health of a load balancer")?);
        let flags = LbFlags(fields.u8("the flags of a load balancer")?);
        fields.end("the end of a load balancer")?;
        Ok(LbValue { number, held_until, health, flags })
    }
}

/// What the keys of all groups of a load balancer begin with, and no others.
pub(super) fn group_prefix(lb_uid: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + lb_uid.len());
    put_short(&mut key, lb_uid);
    key
}

pub(super) fn group_key(data: GroupData<'_>) -> Vec<u8> {
    let mut key = group_prefix(data.lb_uid);
    key.extend_from_slice(data.name);
    key
}

pub(super) fn read_group_key(key: &[u8]) -> Result<GroupData<'_>> {
    let mut fields = Fields(key);
    let lb_uid = read_uid(fields.short("the LB UID of a group")?)?;
    let Fields(name) = fields;
    let fits = (1..=limits::GROUP_NAME_BYTES).contains(&name.len());
    if fits { Ok(GroupData { lb_uid, name }) } else { Err(Fault("the length of a group's name")) }
}

/// Appends a member to a chunk.
pub(super) fn put_member(chunk: &mut Vec<u8>, endpoint: &Endpoint, by_lb: bool, label: &[u8]) {
    put_endpoint(chunk, endpoint);
    chunk.push(by_lb.into());
    put_short(chunk, label);
}

/// How many bytes a member takes in a chunk.
pub(super) fn member_bytes(label: &[u8]) -> usize {
    19 + 1 + 1 + label.len()
}

/// A member of a chunk, and its bytes.
pub(super) struct InChunk<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) by_lb: bool,
    pub(super) label: &'a [u8],
    pub(super) bytes: &'a [u8],
}

/// The members of a chunk, which has one at least.
pub(super) fn members(chunk: &[u8]) -> impl Iterator<Item = Result<InChunk<'_>>> {
    let mut fields = Fields(chunk);
    let mut is_over = false;
    std::iter::from_fn(move || {
        if std::mem::replace(&mut is_over, true) {
            return None;
        }
        let start = fields.0;
        let member = (|| {
            let endpoint = fields.endpoint()?;
            let by_lb = fields.flag("who registered a member")?;
            let label = fields.short("the label of a member")?;
            let bytes = start.get(..start.len() - fields.0.len()).unwrap_or_default();
            Ok(InChunk { endpoint, by_lb, label, bytes })
        })();
        is_over = member.is_err() || fields.0.is_empty();
        Some(member)
    })
}

/// The key of a state: the number of the group, and the member.
pub(super) fn state_key(group: u64, endpoint: &Endpoint) -> Vec<u8> {
    let mut key = group.to_be_bytes().to_vec();
    put_endpoint(&mut key, endpoint);
    key
}

pub(super) fn read_state_key(key: &[u8]) -> Result<(u64, Endpoint)> {
    let mut fields = Fields(key);
    let read = (fields.u64("the group of a state")?, fields.endpoint()?);
    fields.end("the end of a state's key")?;
    Ok(read)
}

/// The opaque state, and whether the member is quiesced.
pub(super) fn read_state(value: &[u8]) -> Result<(u8, bool)> {
    let mut fields = Fields(value);
    let read = (fields.u8("a state")?, fields.flag("a quiesce")?);
    fields.end("the end of a state")?;
    Ok(read)
}

pub(super) fn endpoint_key(endpoint: &Endpoint) -> Vec<u8> {
    let mut key = Vec::with_capacity(19);
    put_endpoint(&mut key, endpoint);
    key
}

pub(super) fn read_endpoint_key(key: &[u8]) -> Result<Endpoint> {
    let mut fields = Fields(key);
    let endpoint = fields.endpoint()?;
    fields.end("the end of an endpoint")?;
    Ok(endpoint)
}

/// The flags that a verdict has.
pub(super) const VERDICT_FLAGS: EntryFlags = EntryFlags(EntryFlags::CONTACT.0 | EntryFlags::CONFIDENT.0);

/// Bytes of the verdicts of all policies.
pub(crate) const VERDICT_BYTES: usize = 4 * Policy::ALL.len();

pub(crate) fn write_verdicts(verdicts: &[Verdict; Policy::ALL.len()]) -> Vec<u8> {
    let mut out = Vec::with_capacity(VERDICT_BYTES + 8); // a slow start may follow
    for Verdict { flags, share } in verdicts {
        let (is_rate, value) = match share {
            Share::Weight(weight) => (false, *weight),
            Share::Rate(level) => (true, level.0),
        };
        out.extend_from_slice(&[flags.0, is_rate.into()]);
        out.extend_from_slice(&value.to_be_bytes());
    }
    out
}

pub(crate) fn read_verdicts(value: &[u8]) -> Result<[Verdict; Policy::ALL.len()]> {
    let mut fields = Fields(value);
    let mut verdicts = [Verdict { flags: EntryFlags::NONE, share: Share::Weight(0) }; Policy::ALL.len()];
    for verdict in &mut verdicts {
        verdict.flags = EntryFlags(fields.u8("the flags of a verdict")?);
        if verdict.flags.0 & !VERDICT_FLAGS.0 != 0 {
            return Err(Fault("the flags of a verdict"));
        }
        let is_rate = fields.flag("the kind of a verdict")?;
        let value = fields.u16("the value of a verdict")?;
        verdict.share = if is_rate { Share::Rate(Level(value)) } else { Share::Weight(value) };
    }
    fields.end("the end of verdicts")?;
    Ok(verdicts)
}

/// The value of the last judgement: verdicts, and the end of a slow start if there is one.
pub(super) fn write_last(verdicts: &[Verdict; Policy::ALL.len()], ramp_until: Option<Date>) -> Vec<u8> {
    let mut out = write_verdicts(verdicts);
    out.extend(ramp_until.iter().flat_map(|date| date.0.to_be_bytes()));
    out
}

pub(super) fn read_last(value: &[u8]) -> Result<([Verdict; Policy::ALL.len()], Option<Date>)> {
    let mut fields = Fields(value);
    let verdicts = read_verdicts(fields.take(VERDICT_BYTES, "verdicts")?)?;
    let ramp_until = match fields.0 {
        [] => None,
        _ => Some(Date(fields.u64("the end of a slow start")?)),
    };
    fields.end("the end of a judgement")?;
    Ok((verdicts, ramp_until))
}

const QUIESCE: u8 = 0;
const RESUME: u8 = 1;
const WEIGHT: u8 = 2;

/// The value of a word; its key is its number.
pub(crate) fn write_word(word: &Word, epoch: Epoch) -> Vec<u8> {
    let mut out = Vec::new();
    match word.saying {
        Saying::Quiesce => out.push(QUIESCE),
        Saying::Resume => out.push(RESUME),
        Saying::Weight(weight) => {
            out.push(WEIGHT);
            out.extend_from_slice(&weight.to_be_bytes());
        }
    }
    let Pattern { group, lb_uid, address, port, protocol } = &word.pattern;
    for name in [group, lb_uid] {
        out.push(name.is_some().into());
        name.iter().for_each(|name| put_short(&mut out, name));
    }
    match address {
        None => out.push(0),
        Some(IpAddr::V4(address)) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
    out.push(port.is_some().into());
    port.iter().for_each(|port| out.extend_from_slice(&port.to_be_bytes()));
    out.push(protocol.is_some().into());
    out.extend(*protocol);
    for text in [&word.reason, &word.by, &word.from] {
        // The admin side takes no longer text.
        let text = &text[..text.floor_char_boundary(limits::WORD_TEXT_BYTES)];
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&epoch.date_since(word.at).0.to_be_bytes());
    let expires = word.expires.map_or(0, |at| epoch.date(at).0.max(1));
    out.extend_from_slice(&expires.to_be_bytes());
    out
}

pub(crate) fn read_word(number: u64, value: &[u8], epoch: Epoch) -> Result<Word> {
    let mut fields = Fields(value);
    if !WORD_NUMBERS.contains(&number) {
        return Err(Fault("the number of a word"));
    }
    let saying = match fields.u8("the kind of a word")? {
        QUIESCE => Saying::Quiesce,
        RESUME => Saying::Resume,
        WEIGHT => Saying::Weight(fields.u16("the weight of a word")?),
        _ => return Err(Fault("the kind of a word")),
    };
    let mut pattern = Pattern::default();
    if fields.flag("the group of a word")? {
        pattern.group = Some(fields.short("the group of a word")?.into());
    }
    if fields.flag("the load balancer of a word")? {
        pattern.lb_uid = Some(fields.short("the load balancer of a word")?.into());
    }
    pattern.address = match fields.u8("the address of a word")? {
        0 => None,
        4 => Some(fields.array::<4>("the address of a word")?.into()),
        6 => Some(fields.array::<16>("the address of a word")?.into()),
        _ => return Err(Fault("the address of a word")),
    };
    if fields.flag("the port of a word")? {
        pattern.port = Some(fields.u16("the port of a word")?);
    }
    if fields.flag("the protocol of a word")? {
        pattern.protocol = Some(fields.u8("the protocol of a word")?);
    }
    let reason = fields.text("the reason of a word")?;
    let by = fields.text("the author of a word")?;
    let from = fields.text("the origin of a word")?;
    let at = epoch.since(Date(fields.u64("the time of a word")?));
    let expires = Some(fields.u64("the end of a word")?).filter(|date| *date > 0);
    let expires: Option<Time> = expires.map(|date| epoch.time(Date(date)));
    fields.end("the end of a word")?;
    Ok(Word { number, saying, pattern, reason, by, from, at, expires })
}

/// Reads any bytes as every kind of key and value, for fuzzers. What can be read is the same after it is written.
pub(crate) fn read_any(bytes: &[u8]) {
    own::read_any(bytes);
    if let Ok(value) = LbValue::read(bytes) {
        assert_eq!(value.write(), bytes);
    }
    if let Ok(data) = read_group_key(bytes) {
        assert_eq!(group_key(data), bytes);
    }
    if let Ok((group, endpoint)) = read_state_key(bytes) {
        assert_eq!(state_key(group, &endpoint), bytes);
    }
    if let Ok(endpoint) = read_endpoint_key(bytes) {
        assert_eq!(endpoint_key(&endpoint), bytes);
    }
    if let Ok((verdicts, ramp_until)) = read_last(bytes) {
        assert_eq!(write_last(&verdicts, ramp_until), bytes);
    }
    if let Ok((state, quiesced)) = read_state(bytes) {
        assert_eq!([state, quiesced.into()], bytes);
    }
    if let Ok(members) = members(bytes).collect::<Result<Vec<_>>>() {
        let mut again = Vec::new();
        for member in &members {
            assert_eq!(member.bytes.len(), member_bytes(member.label));
            put_member(&mut again, &member.endpoint, member.by_lb, member.label);
        }
        assert_eq!(again, bytes);
    }
    // Dates that time does not reach become its end.
    if let Ok(word) = read_word(1, bytes, Epoch::default()) {
        let again = write_word(&word, Epoch::default());
        assert_eq!(read_word(1, &again, Epoch::default()), Ok(word));
    }
}

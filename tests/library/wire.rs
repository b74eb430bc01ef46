//! Requests as plain data, their bytes, and a short notation for requests and replies.
//!
//! This file makes the bytes from PROTOCOL.md, without the library's writer.

use std::fmt;

use gwm::sasp::{Endpoint, Message, WeightEntry};

/// The sender flag of a load balancer.
pub(crate) const LB: u8 = 1;
/// Set LB State flags.
pub(crate) const PUSH: u8 = 1;
pub(crate) const TRUST: u8 = 2;
pub(crate) const NO_CHANGE: u8 = 4;

/// A member in a request; only Set Member State uses state and flags.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) endpoint: Endpoint,
    pub(crate) label: Vec<u8>,
    pub(crate) state: u8,
    pub(crate) flags: u8,
}

/// A group in a request; in Get Weights it has no members.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) uid: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) items: Vec<Item>,
}

#[derive(Clone, Debug)]
pub(crate) enum Request {
    Register { flags: u8, groups: Vec<Named> },
    Deregister { flags: u8, reason: u8, groups: Vec<Named> },
    GetWeights { groups: Vec<Named> },
    SetLbState { uid: Vec<u8>, health: u8, flags: u8 },
    SetMemberState { flags: u8, groups: Vec<Named> },
}

impl Request {
    pub(crate) fn groups(&self) -> &[Named] {
        match self {
            Request::Register { groups, .. }
            | Request::Deregister { groups, .. }
            | Request::GetWeights { groups }
            | Request::SetMemberState { groups, .. } => groups,
            Request::SetLbState { .. } => &[],
        }
    }

    /// Every LB UID that the request names, in its order.
    pub(crate) fn uids(&self) -> Vec<&[u8]> {
        match self {
            Request::SetLbState { uid, .. } => vec![uid],
            _ => self.groups().iter().map(|group| &group.uid[..]).collect(),
        }
    }

    pub(crate) fn sender_is_lb(&self) -> bool {
        match self {
            Request::Register { flags, .. }
            | Request::Deregister { flags, .. }
            | Request::SetMemberState { flags, .. } => flags & LB != 0,
            Request::GetWeights { .. } | Request::SetLbState { .. } => true,
        }
    }

    /// The type of the reply.
    pub(crate) fn reply_type(&self) -> u16 {
        match self {
            Request::Register { .. } => 0x1015,
            Request::Deregister { .. } => 0x1025,
            Request::GetWeights { .. } => 0x1035,
            Request::SetLbState { .. } => 0x1055,
            Request::SetMemberState { .. } => 0x1065,
        }
    }

    /// The request's bytes.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Request::Register { flags, groups } => {
                tlv(&mut body, 0x1010, &[&[*flags], &count(groups)]);
                groups.iter().for_each(|group| write_named(&mut body, group, 0x4010, false));
            }
            Request::Deregister { flags, reason, groups } => {
                tlv(&mut body, 0x1020, &[&[*flags, *reason], &count(groups)]);
                groups.iter().for_each(|group| write_named(&mut body, group, 0x4010, false));
            }
            Request::GetWeights { groups } => {
                tlv(&mut body, 0x1030, &[&count(groups)]);
                groups.iter().for_each(|group| group_data(&mut body, &group.uid, &group.name));
            }
            Request::SetLbState { uid, health, flags } => {
                tlv(&mut body, 0x1050, &[&[uid.len() as u8], uid, &[*health, *flags]]);
            }
            Request::SetMemberState { flags, groups } => {
                tlv(&mut body, 0x1060, &[&[*flags], &count(groups)]);
                groups.iter().for_each(|group| write_named(&mut body, group, 0x4012, true));
            }
        }
        framed(id, &body)
    }
}

/// A group of a Get Weights Reply or a Send Weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weights {
    pub(crate) uid: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) entries: Vec<Listed>,
}

/// A member of such a group; the entry is state, flags and weight as on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listed {
    pub(crate) endpoint: Endpoint,
    pub(crate) label: Vec<u8>,
    pub(crate) entry: [u8; 4],
}

pub(crate) fn simple_reply(id: u32, kind: u16, code: u8) -> Vec<u8> {
    let mut body = Vec::new();
    tlv(&mut body, kind, &[&[code]]);
    framed(id, &body)
}

pub(crate) fn get_weights_reply(id: u32, code: u8, interval: u16, groups: &[Weights]) -> Vec<u8> {
    let mut body = Vec::new();
    tlv(&mut body, 0x1035, &[&[code], &interval.to_be_bytes(), &count(groups)]);
    groups.iter().for_each(|group| weights(&mut body, group));
    framed(id, &body)
}

pub(crate) fn send_weights(groups: &[Weights]) -> Vec<u8> {
    let mut body = Vec::new();
    tlv(&mut body, 0x1040, &[&count(groups)]);
    groups.iter().for_each(|group| weights(&mut body, group));
    framed(0, &body)
}

fn weights(out: &mut Vec<u8>, group: &Weights) {
    tlv(out, 0x4011, &[&count(&group.entries)]);
    group_data(out, &group.uid, &group.name);
    for listed in &group.entries {
        member_data(out, &listed.endpoint, &listed.label);
        tlv(out, 0x3012, &[&listed.entry]);
    }
}

fn write_named(out: &mut Vec<u8>, group: &Named, kind: u16, states: bool) {
    tlv(out, kind, &[&count(&group.items)]);
    group_data(out, &group.uid, &group.name);
    for item in &group.items {
        member_data(out, &item.endpoint, &item.label);
        if states {
            tlv(out, 0x3013, &[&[item.state, item.flags]]);
        }
    }
}

fn group_data(out: &mut Vec<u8>, uid: &[u8], name: &[u8]) {
    tlv(out, 0x3011, &[&[uid.len() as u8], uid, &[name.len() as u8], name]);
}

fn member_data(out: &mut Vec<u8>, endpoint: &Endpoint, label: &[u8]) {
    let port = endpoint.port.to_be_bytes();
    tlv(out, 0x3010, &[&[endpoint.protocol], &port, &endpoint.address, &[label.len() as u8], label]);
}

fn count<T>(list: &[T]) -> [u8; 2] {
    u16::try_from(list.len()).expect("a test's lists are short").to_be_bytes()
}

fn tlv(out: &mut Vec<u8>, kind: u16, value: &[&[u8]]) {
    let value = value.concat();
    out.extend(kind.to_be_bytes());
    out.extend((value.len() as u16 + 4).to_be_bytes());
    out.extend(value);
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    tlv(&mut out, 0x2010, &[&[1], &(body.len() as u32 + 13).to_be_bytes(), &id.to_be_bytes()]);
    out.extend(body);
    out
}

/// Endpoints by a letter: `a` is 10.0.0.1 tcp/80, `b` 10.0.0.2; `a/udp`, `a/0` (tcp/0) and `a/sys` share its address, and
/// `a/mapped` writes it as ::ffff:10.0.0.1.
pub(crate) fn endpoint(name: &str) -> Endpoint {
    let (letter, kind) = name.split_once('/').unwrap_or((name, ""));
    let [letter @ b'a'..=b'z'] = letter.as_bytes() else { panic!("no endpoint is called {name}") };
    let (protocol, port) = match kind {
        "" | "mapped" => (6, 80),
        "udp" => (17, 80),
        "sys" => (0, 0),
        port => (6, port.parse().unwrap_or_else(|_| panic!("no endpoint is called {name}"))),
    };
    let mut address = [0; 16];
    address[12..].copy_from_slice(&[10, 0, 0, letter - b'a' + 1]);
    if kind == "mapped" {
        address[10..12].fill(0xFF);
    }
    Endpoint { protocol, port, address }
}

pub(crate) fn endpoint_name(endpoint: &Endpoint) -> String {
    let letter = char::from(b'a' + endpoint.address[15].wrapping_sub(1) % 26);
    let kind = match (endpoint.protocol, endpoint.port) {
        (6, 80) if endpoint.address[11] == 0xFF => "/mapped".into(),
        (6, 80) => String::new(),
        (17, 80) => "/udp".into(),
        (6, port) => format!("/{port}"),
        (0, 0) => "/sys".into(),
        _ => "/?".into(),
    };
    format!("{letter}{kind}")
}

/// Reads the notation that [`Request`] is displayed in:
/// `lb register LB1/G a b:label + LB1/H`, `member deregister LB1/G a`, `get LB1/G + LB1/`,
/// `lb set LB1/G a=32 b=0Aq`, `state LB1 7F push trust nochange`.
pub(crate) fn parse(text: &str) -> Request {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (verb, rest) = match first {
        "lb" | "member" => rest.split_once(' ').unwrap_or((rest, "")),
        _ => (first, rest),
    };
    let flags = u8::from(first == "lb");
    match verb {
        "register" => Request::Register { flags, groups: parse_groups(rest) },
        "deregister" => Request::Deregister { flags, reason: 0, groups: parse_groups(rest) },
        "get" => Request::GetWeights { groups: parse_groups(rest) },
        "set" => Request::SetMemberState { flags, groups: parse_groups(rest) },
        "state" => {
            let mut words = rest.split(' ');
            let uid = words.next().unwrap_or_default().into();
            let health = u8::from_str_radix(words.next().expect("health"), 16).expect("health in hex");
            let flags = words.map(|word| match word {
                "push" => PUSH,
                "trust" => TRUST,
                "nochange" => NO_CHANGE,
                "" => 0,
                _ => panic!("no LB flag is called {word}"),
            });
            Request::SetLbState { uid, health, flags: flags.sum() }
        }
        _ => panic!("no request is called {verb}"),
    }
}

fn parse_groups(text: &str) -> Vec<Named> {
    let groups = text.split(" + ").filter(|group| !group.is_empty());
    groups
        .map(|group| {
            let mut words = group.split(' ');
            let (uid, name) = words.next().and_then(|word| word.split_once('/')).expect("LB/GROUP");
            Named { uid: uid.into(), name: name.into(), items: words.map(parse_item).collect() }
        })
        .collect()
}

fn parse_item(word: &str) -> Item {
    let (word, state) = word.split_once('=').unwrap_or((word, "0"));
    let (name, label) = word.split_once(':').unwrap_or((word, ""));
    let (state, flags) = state.strip_suffix('q').map_or((state, 0), |state| (state, 1));
    let state = u8::from_str_radix(state, 16).expect("state in hex");
    Item { endpoint: endpoint(name), label: label.into(), state, flags }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sender = if self.sender_is_lb() { "lb" } else { "member" };
        match self {
            Request::Register { .. } => write!(f, "{sender} register")?,
            Request::Deregister { .. } => write!(f, "{sender} deregister")?,
            Request::GetWeights { .. } => write!(f, "get")?,
            Request::SetMemberState { .. } => write!(f, "{sender} set")?,
            Request::SetLbState { uid, health, flags } => {
                write!(f, "state {} {health:02X}", uid.escape_ascii())?;
                for (bit, name) in [(PUSH, "push"), (TRUST, "trust"), (NO_CHANGE, "nochange")] {
                    if flags & bit != 0 {
                        write!(f, " {name}")?;
                    }
                }
            }
        }
        for (index, group) in self.groups().iter().enumerate() {
            let plus = if index == 0 { "" } else { "+ " };
            write!(f, " {plus}{}/{}", group.uid.escape_ascii(), group.name.escape_ascii())?;
            for item in &group.items {
                write!(f, " {}", member_name(&item.endpoint, &item.label))?;
                if matches!(self, Request::SetMemberState { .. }) {
                    write!(f, "={:02X}{}", item.state, if item.flags & 1 != 0 { "q" } else { "" })?;
                }
            }
        }
        Ok(())
    }
}

fn member_name(endpoint: &Endpoint, label: &[u8]) -> String {
    let colon = if label.is_empty() { "" } else { ":" };
    format!("{}{colon}{}", endpoint_name(endpoint), label.escape_ascii())
}

/// A message from the coordinator in short: the code where it has one, then each group with its entries as
/// state, flags (hexadecimal) and weight: `00 LB1/G[a 00/0D/40 b:label 0A/0F/0] LB1/H[]`.
pub(crate) fn show(bytes: &[u8]) -> String {
    let (_, message) = Message::decode(bytes).expect("what the coordinator sends is well-formed");
    let (code, groups) = match message {
        Message::RegistrationReply(code)
        | Message::DeregistrationReply(code)
        | Message::SetLbStateReply(code)
        | Message::SetMemberStateReply(code) => return format!("{:02X}", code.0),
        Message::GetWeightsReply(reply) => (format!("{:02X}", reply.code.0), reply.groups),
        Message::SendWeights(push) => (String::new(), push.groups),
        request => panic!("the coordinator sent a request: {request:?}"),
    };
    let groups = groups.into_iter().map(|group| {
        let entries = group.entries().map(|listed| {
            let WeightEntry { state, flags, weight } = listed.entry;
            let member = member_name(&listed.member.endpoint, listed.member.label);
            format!("{member} {state:02X}/{:02X}/{weight}", flags.0)
        });
        let entries = entries.collect::<Vec<_>>().join(" ");
        format!("{}/{}[{entries}]", group.data.lb_uid.escape_ascii(), group.data.name.escape_ascii())
    });
    Some(code).filter(|code| !code.is_empty()).into_iter().chain(groups).collect::<Vec<_>>().join(" ")
}

//! Messages as JSON.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{Dump, Shown};
use crate::sasp::{
    code::{ComponentType, EntryFlags, LbFlags, MemberFlags, ReturnCode, SenderFlags},
    component::{GroupData, Groups, MemberData},
    escape::Escaped,
    message::{Header, Message},
};

impl Serialize for Dump<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Dump(header, message) = self;
        let mut json = MessageJson::new(header, message.component_type());
        match message {
            Message::RegistrationRequest(m) => {
                json.flags = Some(m.flags.into());
                json.groups = Some(groups_json(m.groups));
            }
            Message::DeregistrationRequest(m) => {
                json.flags = Some(m.flags.into());
                json.reason = Some(CodeJson { code: m.reason.0, name: m.reason.name() });
                json.groups = Some(groups_json(m.groups));
            }
            Message::GetWeightsRequest(m) => {
                json.groups = Some(m.groups.iter().map(|name| GroupJson::new(name, None)).collect());
            }
            Message::GetWeightsReply(m) => {
                json.return_code = Some(m.code.into());
                json.interval_seconds = Some(m.interval_seconds);
                json.groups = Some(groups_json(m.groups));
            }
            Message::SendWeights(m) => json.groups = Some(groups_json(m.groups)),
            Message::SetLbStateRequest(m) => {
                json.lb_uid = Some(Escaped(m.lb_uid).to_string());
                json.health = Some(m.health.0);
                json.flags = Some(m.flags.into());
            }
            Message::SetMemberStateRequest(m) => {
                json.flags = Some(m.flags.into());
                json.groups = Some(groups_json(m.groups));
            }
            Message::RegistrationReply(code)
            | Message::DeregistrationReply(code)
            | Message::SetLbStateReply(code)
            | Message::SetMemberStateReply(code) => json.return_code = Some((*code).into()),
        }
        json.serialize(serializer)
    }
}

/// The object of one message, without the fields that its type does not have. [`Escaped`] escapes the strings.
#[derive(Serialize)]
struct MessageJson {
    message: &'static str,
    message_type: u16,
    version: u8,
    id: u32,
    length: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_code: Option<CodeJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_seconds: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lb_uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<FlagsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<CodeJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupJson>>,
}

impl MessageJson {
    fn new(header: &Header, kind: ComponentType) -> MessageJson {
        MessageJson {
            message: kind.name().expect("a decoded message has one of the eleven types"),
            message_type: kind.0,
            version: header.version,
            id: header.id,
            length: header.length,
            return_code: None,
            interval_seconds: None,
            lb_uid: None,
            health: None,
            flags: None,
            reason: None,
            groups: None,
        }
    }
}

#[derive(Serialize)]
struct CodeJson {
    code: u8,
    name: Option<&'static str>,
}

impl From<ReturnCode> for CodeJson {
    fn from(code: ReturnCode) -> CodeJson {
        CodeJson { code: code.0, name: code.name() }
    }
}

#[derive(Serialize)]
pub(super) struct FlagsJson {
    value: u8,
    names: Vec<&'static str>,
}

macro_rules! flags_json {
    ($($type:ident)*) => {
        $(impl From<$type> for FlagsJson {
            fn from(flags: $type) -> FlagsJson {
                FlagsJson { value: flags.0, names: flags.names().collect() }
            }
        })*
    };
}

flags_json!(SenderFlags LbFlags MemberFlags EntryFlags);

#[derive(Serialize)]
struct GroupJson {
    lb_uid: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<MemberJson>>,
}

impl GroupJson {
    fn new(data: GroupData<'_>, members: Option<Vec<MemberJson>>) -> GroupJson {
        GroupJson { lb_uid: Escaped(data.lb_uid).to_string(), name: Escaped(data.name).to_string(), members }
    }
}

#[derive(Serialize)]
pub(super) struct MemberJson {
    endpoint: String,
    address: IpAddr,
    protocol: u8,
    port: u16,
    label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flags: Option<FlagsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u16>,
}

fn groups_json<'a, T: Shown<'a>>(groups: Groups<'a, T>) -> Vec<GroupJson> {
    let members = |entry: T| {
        let MemberData { endpoint, label } = entry.member();
        let mut json = MemberJson {
            endpoint: endpoint.to_string(),
            address: endpoint.ip(),
            protocol: endpoint.protocol,
            port: endpoint.port,
            label: Escaped(label).to_string(),
            state: None,
            flags: None,
            weight: None,
        };
        entry.add_json(&mut json);
        json
    };
    // Not `Vec::with_capacity(count)`: the count of a broken message may be wrong.
    let mut list = Vec::new();
    for group in groups {
        let mut entries = Vec::new();
        group.entries().for_each(|entry| entries.push(members(entry)));
        list.push(GroupJson::new(group.data, Some(entries)));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8]) -> serde_json::Value {
        let (header, message) = Message::decode(bytes).unwrap();
        serde_json::to_value(Dump(&header, &message)).unwrap()
    }

    #[test]
    fn json_has_what_each_list_says_of_a_member() {
        let member = b"\x30\x11\0\x0A\x03LB1\x01G\x30\x10\0\x19\x11\0\x35\0\0\0\0\0\0\0\0\0\0\0\0\x0A\0\0\x01\x01\xFF";
        let header = |length: u8| [0x20, 0x10, 0, 13, 1, 0, 0, 0, length, 0, 0, 0, 7];
        let listed = |start: &[u8], end: &[u8]| {
            let body = [start, member, end].concat();
            json(&[&header(13 + body.len() as u8), &body[..]].concat())["groups"][0]["members"][0].take()
        };
        let member = serde_json::json!({
            "endpoint": "10.0.0.1:53/udp", "address": "10.0.0.1", "protocol": 17, "port": 53, "label": "\\xFF",
        });
        let with = |more: serde_json::Value| {
            let mut all = member.clone();
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        assert_eq!(listed(b"\x10\x10\0\x07\x01\0\x01\x40\x10\0\x06\0\x01", b""), member);
        assert_eq!(
            listed(b"\x10\x40\0\x06\0\x01\x40\x11\0\x06\0\x01", b"\x30\x12\0\x08\x32\x0D\0\x28"),
            with(serde_json::json!({
                "state": 0x32, "weight": 40,
                "flags": { "value": 0x0D, "names": ["contact", "registered-by-lb", "confident"] },
            }))
        );
        assert_eq!(
            listed(b"\x10\x60\0\x07\x01\0\x01\x40\x12\0\x06\0\x01", b"\x30\x13\0\x06\x0A\x01"),
            with(serde_json::json!({ "state": 10, "flags": { "value": 1, "names": ["quiesce"] } }))
        );
    }
}

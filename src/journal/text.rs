//! Rows ↔ lines of JSON, for people, backups and other programs. The first line says what the lines are.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    date::{Date, Epoch},
    rows::{Member, Row, VERSION, VERSION_OLDEST, WORD_NUMBERS},
    store::{NUMBER_MAX, Past},
};
use crate::{
    coordinator::{Pattern, Saying, Word},
    judgement::{Level, Policy, Share, Verdict},
    limits,
    sasp::{Endpoint, EntryFlags, Escaped, Health, LbFlags, unescape},
};

/// Times of lines are dates.
const EPOCH: Epoch = Epoch(Date(0));

/// The longest line: a group with the most members and the longest labels, each byte of which is written with up to five.
pub const LINE_BYTES: usize = limits::MEMBERS_PER_GROUP as usize * (160 + 5 * limits::LABEL_BYTES);

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    /// The first line. Older ones have the version alone.
    GwmState {
        version: u64,
        #[serde(default)]
        starts: u64,
        #[serde(default)]
        last_word: u64,
        #[serde(default)]
        alive_at_ms: u64,
    },
    Word {
        number: u64,
        says: Says,
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        load_balancer: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        protocol: Option<u8>,
        reason: String,
        by: String,
        from: String,
        at_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at_ms: Option<u64>,
    },
    LoadBalancer {
        uid: String,
        health: u8,
        flags: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        held_until_ms: Option<u64>,
    },
    Group {
        load_balancer: String,
        name: String,
        members: Vec<MemberText>,
    },
    Verdicts {
        address: IpAddr,
        protocol: u8,
        port: u16,
        by_policy: [VerdictText; Policy::ALL.len()],
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slow_start_until_ms: Option<u64>,
    },
}

/// A verdict: a weight, or a level (1024 an octave, from 2⁻³² requests a second).
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerdictText {
    contact: bool,
    confident: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u16>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Says {
    Quiesce,
    Resume,
    Weight,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberText {
    address: IpAddr,
    protocol: u8,
    port: u16,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    label: String,
    by_lb: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    state: u8,
    #[serde(default, skip_serializing_if = "is_false")]
    quiesced: bool,
}

fn is_zero(state: &u8) -> bool {
    *state == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn write(line: &Line) -> String {
    serde_json::to_string(line).expect("text and numbers are JSON")
}

/// The first line.
pub fn first_line(Past { starts, last_word, alive_at }: Past) -> String {
    write(&Line::GwmState { version: VERSION, starts, last_word, alive_at_ms: alive_at.0 })
}

/// Reads the first line.
pub fn read_first_line(line: &str) -> Result<Past, String> {
    match serde_json::from_str(line) {
        Ok(Line::GwmState { version: VERSION_OLDEST..=VERSION, starts, last_word, alive_at_ms }) => {
            if starts > NUMBER_MAX || last_word > *WORD_NUMBERS.end() || alive_at_ms > NUMBER_MAX {
                return Err("a number of the first line is too large".into());
            }
            Ok(Past { starts, last_word, alive_at: Date(alive_at_ms) })
        }
        Ok(Line::GwmState { version, .. }) => {
            Err(format!("version {version}: this gwm reads versions {VERSION_OLDEST} to {VERSION}"))
        }
        Ok(_) => Err("the first line of an export is missing".into()),
        Err(error) => Err(format!("not an export: {}", fault(&error))),
    }
}

/// What is wrong with a line, and where: the caller knows the number of the line.
fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

/// The line of a row whose times are those of `Epoch::default()`.
pub fn line(row: &Row) -> String {
    let text = |bytes: &[u8]| Escaped(bytes).to_string();
    write(&match row {
        Row::Word(word) => {
            let Pattern { group, lb_uid, address, port, protocol } = &word.pattern;
            let (says, weight) = match word.saying {
                Saying::Quiesce => (Says::Quiesce, None),
                Saying::Resume => (Says::Resume, None),
                Saying::Weight(weight) => (Says::Weight, Some(weight)),
            };
            Line::Word {
                number: word.number,
                says,
                weight,
                group: group.as_deref().map(text),
                load_balancer: lb_uid.as_deref().map(text),
                address: *address,
                port: *port,
                protocol: *protocol,
                reason: word.reason.to_string(),
                by: word.by.to_string(),
                from: word.from.to_string(),
                at_ms: EPOCH.date_since(word.at).0,
                expires_at_ms: word.expires.map(|at| EPOCH.date(at).0),
            }
        }
        Row::LoadBalancer { uid, health, flags, held_until } => Line::LoadBalancer {
            uid: text(uid),
            health: health.0,
            flags: flags.0,
            held_until_ms: held_until.map(|date| date.0),
        },
        Row::Verdicts { endpoint, verdicts, ramp_until } => Line::Verdicts {
            address: endpoint.ip(),
            protocol: endpoint.protocol,
            port: endpoint.port,
            by_policy: verdicts.map(|Verdict { flags, share }| VerdictText {
                contact: flags.contains(EntryFlags::CONTACT),
                confident: flags.contains(EntryFlags::CONFIDENT),
                weight: if let Share::Weight(weight) = share { Some(weight) } else { None },
                level: if let Share::Rate(level) = share { Some(level.0) } else { None },
            }),
            slow_start_until_ms: ramp_until.map(|date| date.0),
        },
        Row::Group { lb_uid, name, members } => {
            let member = |member: &Member| MemberText {
                address: member.endpoint.ip(),
                protocol: member.endpoint.protocol,
                port: member.endpoint.port,
                label: text(&member.label),
                by_lb: member.by_lb,
                state: member.state,
                quiesced: member.quiesced,
            };
            Line::Group { load_balancer: text(lb_uid), name: text(name), members: members.iter().map(member).collect() }
        }
    })
}

/// The bytes of a name that has so many at most, and at least one.
fn name(what: &str, text: &str, most: usize) -> Result<Box<[u8]>, String> {
    let bytes = unescape(text).map_err(|error| format!("{what}: {error}"))?;
    match bytes.len() {
        0 => Err(format!("{what} is empty")),
        length if length > most => Err(format!("{what} has {length} bytes; at most {most} fit")),
        _ => Ok(bytes.into()),
    }
}

fn words(what: &str, text: String) -> Result<Box<str>, String> {
    let most = limits::WORD_TEXT_BYTES;
    if text.len() > most { Err(format!("{what} has more than {most} bytes")) } else { Ok(text.into()) }
}

/// Reads a line that is not the first. Times are those of `Epoch::default()`.
pub fn read_line(line: &str) -> Result<Row, String> {
    let uid = |text: &str| name("the UID of a load balancer", text, limits::LB_UID_BYTES);
    let group_name = |text: &str| name("the name of a group", text, limits::GROUP_NAME_BYTES);
    match serde_json::from_str(line).map_err(|error| fault(&error))? {
        Line::GwmState { .. } => Err("a first line in the middle".into()),
        Line::Word {
            number,
            says,
            weight,
            group,
            load_balancer,
            address,
            port,
            protocol,
            reason,
            by,
            from,
            at_ms,
            expires_at_ms,
        } => {
            if !WORD_NUMBERS.contains(&number) {
                return Err(format!("{number} is no number of a word"));
            }
            let saying = match (says, weight) {
                (Says::Quiesce, None) => Saying::Quiesce,
                (Says::Resume, None) => Saying::Resume,
                (Says::Weight, Some(weight)) => Saying::Weight(weight),
                _ => return Err("a word that fixes a weight has one, and no other word has".into()),
            };
            let pattern = Pattern {
                group: group.as_deref().map(group_name).transpose()?,
                lb_uid: load_balancer.as_deref().map(uid).transpose()?,
                address,
                port,
                protocol,
            };
            Ok(Row::Word(Word {
                number,
                saying,
                pattern,
                reason: words("the reason", reason)?,
                by: words("the author", by)?,
                from: words("the origin", from)?,
                at: EPOCH.since(Date(at_ms)),
                expires: expires_at_ms.map(|date| EPOCH.time(Date(date.max(1)))),
            }))
        }
        Line::LoadBalancer { uid: text, health, flags, held_until_ms } => Ok(Row::LoadBalancer {
            uid: uid(&text)?,
            health: Health(health),
            flags: LbFlags(flags),
            held_until: held_until_ms.map(|date| Date(date.max(1))),
        }),
        Line::Verdicts { address, protocol, port, by_policy, slow_start_until_ms } => {
            let mut verdicts = [Verdict { flags: EntryFlags::NONE, share: Share::Weight(0) }; Policy::ALL.len()];
            for (verdict, text) in verdicts.iter_mut().zip(by_policy) {
                let contact = EntryFlags::NONE.with(EntryFlags::CONTACT, text.contact);
                verdict.flags = contact.with(EntryFlags::CONFIDENT, text.confident);
                verdict.share = match (text.weight, text.level) {
                    (Some(weight), None) => Share::Weight(weight),
                    (None, Some(level)) => Share::Rate(Level(level)),
                    _ => return Err("a verdict has a weight or a level".into()),
                };
            }
            let (endpoint, ramp_until) = (Endpoint::new(address, protocol, port), slow_start_until_ms.map(Date));
            Ok(Row::Verdicts { endpoint, verdicts, ramp_until })
        }
        Line::Group { load_balancer, name: text, members } => {
            if members.len() > limits::MEMBERS_PER_GROUP as usize {
                return Err("a group has too many members".into());
            }
            let member = |member: MemberText| {
                let label = unescape(&member.label).map_err(|error| format!("the label of a member: {error}"))?;
                if label.len() > limits::LABEL_BYTES {
                    return Err("the label of a member is too long".to_owned());
                }
                Ok(Member {
                    endpoint: Endpoint::new(member.address, member.protocol, member.port),
                    by_lb: member.by_lb,
                    label: label.into(),
                    state: member.state,
                    quiesced: member.quiesced,
                })
            };
            let members: Result<Vec<_>, String> = members.into_iter().map(member).collect();
            Ok(Row::Group { lb_uid: uid(&load_balancer)?, name: group_name(&text)?, members: members? })
        }
    }
}

/// Reads any text as a line, for fuzzers. What can be read is the same after it is written.
pub(crate) fn read_any_line(text: &str) {
    if let Ok(past) = read_first_line(text) {
        assert_eq!(read_first_line(&first_line(past)), Ok(past));
    }
    if let Ok(row) = read_line(text) {
        assert_eq!(read_line(&line(&row)).as_ref(), Ok(&row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_line_names_no_other_line() {
        let fault = read_line(r#"{"kind":"word","nu"#).expect_err("the line is cut");
        assert!(!fault.contains(" line ") && fault.ends_with(" at column 18"), "{fault}");
    }
}

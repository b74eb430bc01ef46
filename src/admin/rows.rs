//! Rows of the tables as JSON, with the names and the order of `openapi.json`.

use serde::Serialize;

use super::{Calendar, why::CheckJson};
use crate::{
    coordinator::{EndpointRow, EndpointState, FixedBy, GroupRow, LbRow, MemberRow, Past, Saying, What, Word},
    judgement::{FoundBy, Policy, Share, Stand, Verdict},
    sasp::{Endpoint, EntryFlags, Escaped, LbFlags, component},
};

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

/// The name of a protocol.
pub fn protocol(protocol: u8) -> String {
    match protocol {
        component::TCP => "tcp".into(),
        component::UDP => "udp".into(),
        other => other.to_string(),
    }
}

/// The name of a policy.
pub fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Static => "static",
        Policy::Agent => "agent",
        Policy::Orca => "orca",
        Policy::Auto => "auto",
    }
}

fn stand(stand: Stand) -> &'static str {
    match stand {
        Stand::Unknown => "unknown",
        Stand::Up => "up",
        Stand::Drained => "drained",
        Stand::Down => "down",
    }
}

fn standing(state: &EndpointState) -> &'static str {
    if state.watched { stand(state.stand) } else { "unwatched" }
}

fn fixed_by(state: &EndpointState) -> Option<&'static str> {
    state.fixed_by.map(|by| match by {
        FixedBy::File => "file",
        FixedBy::Operator => "operator",
    })
}

/// The name of a load balancer.
#[derive(Clone, Debug, Serialize)]
pub struct LbName {
    uid: String,
    uid_hex: String,
}

impl LbName {
    /// Of these bytes.
    pub fn new(uid: &[u8]) -> LbName {
        LbName { uid: text(uid), uid_hex: uid.iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

/// The name of an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    address: String,
    port: u16,
    protocol: String,
}

impl Place {
    /// Of this endpoint.
    pub fn new(endpoint: &Endpoint) -> Place {
        Place { address: endpoint.ip().to_string(), port: endpoint.port, protocol: protocol(endpoint.protocol) }
    }
}

/// A load balancer.
#[derive(Debug, Serialize)]
pub struct Lb {
    #[serde(flatten)]
    name: LbName,
    connected: bool,
    node: Option<String>,
    peer: Option<String>,
    certificate: Option<String>,
    shard: Option<u16>,
    health: u8,
    push: bool,
    trust: bool,
    no_change: bool,
    bound_at: Option<String>,
    last_push_at: Option<String>,
    held_until: Option<String>,
    groups: usize,
    members: u32,
    push_waits: bool,
    bytes_waiting: Option<u64>,
}

impl Lb {
    /// Of this row; the shard knows how many bytes wait.
    pub fn new(row: &LbRow, bytes_waiting: Option<u64>, calendar: &Calendar) -> Lb {
        let time = |at| Option::map(at, |at| calendar.text(at));
        let name = row.certificate.as_ref().and_then(|certificate| certificate.first_name());
        Lb {
            name: LbName::new(&row.uid),
            connected: row.connection.is_some() || row.elsewhere.is_some(),
            node: row.elsewhere.as_ref().map(|node| node.to_string()),
            peer: row.peer.map(|peer| peer.to_string()),
            certificate: name.map(|name| text(name.as_bytes())),
            shard: row.connection.map(|connection| connection.shard),
            health: row.health.0,
            push: row.flags.contains(LbFlags::PUSH),
            trust: row.flags.contains(LbFlags::TRUST),
            no_change: row.flags.contains(LbFlags::NO_CHANGE_NO_SEND),
            bound_at: time(row.bound_at),
            last_push_at: time(row.pushed_at),
            held_until: time(row.held_until),
            groups: row.groups,
            members: row.members,
            push_waits: row.push_waits,
            bytes_waiting: bytes_waiting.filter(|_| row.connection.is_some()),
        }
    }
}

/// A group.
#[derive(Debug, Serialize)]
pub struct Group {
    group: String,
    load_balancer: LbName,
    policy: &'static str,
    members: u32,
    up: u32,
    down: u32,
    drained: u32,
    unknown: u32,
    quiesced: u32,
    not_confident: u32,
    weight: u64,
    in_doubt: bool,
    scaled: bool,
    shared_by: usize,
}

impl Group {
    /// Of this row.
    pub fn new(row: &GroupRow) -> Group {
        Group {
            group: text(&row.group),
            load_balancer: LbName::new(&row.lb_uid),
            policy: policy(row.policy),
            members: row.members,
            up: row.up,
            down: row.down,
            drained: row.drained,
            unknown: row.unknown,
            quiesced: row.quiesced,
            not_confident: row.not_confident,
            weight: row.weight,
            in_doubt: row.doubted,
            scaled: row.scaled,
            shared_by: row.shared_by,
        }
    }
}

/// A membership.
#[derive(Debug, Serialize)]
pub struct Member {
    #[serde(flatten)]
    place: Place,
    label: String,
    group: String,
    load_balancer: LbName,
    weight: u16,
    contact: bool,
    confident: bool,
    quiesced: bool,
    state: u8,
    registered_by_load_balancer: bool,
    standing: &'static str,
    policy: &'static str,
    quiesced_by: Vec<&'static str>,
    fixed_by: Option<&'static str>,
    in_doubt: bool,
    blind: bool,
    reason: String,
    changed_at: Option<String>,
}

impl Member {
    /// Of this row.
    pub fn new(row: &MemberRow, calendar: &Calendar) -> Member {
        let has = |flag| row.entry.flags.contains(flag);
        let by_operator = row.quiesced_here || row.state.quiesced_by_operator;
        let quiesced_by = quiesced_by(row.quiesced_by_member, row.state.quiesced_by_file, by_operator);
        Member {
            place: Place::new(&row.state.endpoint),
            label: text(&row.label),
            group: text(&row.group),
            load_balancer: LbName::new(&row.lb_uid),
            weight: row.entry.weight,
            contact: has(EntryFlags::CONTACT),
            confident: has(EntryFlags::CONFIDENT),
            quiesced: has(EntryFlags::QUIESCED),
            state: row.entry.state,
            registered_by_load_balancer: has(EntryFlags::REGISTERED_BY_LB),
            standing: standing(&row.state),
            policy: policy(row.policy),
            fixed_by: fixed_by(&row.state),
            in_doubt: row.doubted.is_some(),
            blind: row.state.blind,
            reason: reason(&row.state, &quiesced_by, row.doubted.is_some()),
            quiesced_by,
            changed_at: row.state.changed_at.map(|at| calendar.text(at)),
        }
    }
}

fn quiesced_by(member: bool, file: bool, operator: bool) -> Vec<&'static str> {
    let all = [("member", member), ("file", file), ("operator", operator)];
    all.into_iter().filter(|(_, says)| *says).map(|(name, _)| name).collect()
}

/// Who found how an endpoint stands.
pub(super) fn found_by(who: FoundBy) -> &'static str {
    match who {
        FoundBy::Own => "its checks found so",
        FoundBy::Fleet => "another node of the fleet found so",
        FoundBy::Earlier => "as before the restart, and no check has a verdict yet",
        FoundBy::Early => "its first check failed, which counts only after a fall window",
    }
}

/// Why an entry is as it is, in one sentence.
pub(super) fn reason(state: &EndpointState, quiesced_by: &[&str], doubted: bool) -> String {
    let who = |name: &&str| match *name {
        "member" => "SASP (the member or its load balancer)",
        "file" => "the members file",
        _ => "the operator",
    };
    if !quiesced_by.is_empty() {
        let names: Vec<&str> = quiesced_by.iter().map(who).collect();
        return format!("quiesced by {}", names.join(" and "));
    }
    match state.fixed_by {
        Some(FixedBy::File) => return "the members file fixes the weight, and nothing is checked".into(),
        Some(FixedBy::Operator) => return "the operator fixed the weight, and nothing is checked".into(),
        None => {}
    }
    let doubt = match (state.blind, doubted) {
        (true, _) => "; nothing answers the daemon there, so members that were lost lately keep contact and weight",
        (_, true) => {
            "; so much of the group is lost at once that members that were lost lately keep contact and weight"
        }
        _ => "",
    };
    let turn = state.turn.as_ref().map(|(_, turn)| &*turn.reason);
    let found = match (state.watched, turn, state.stand) {
        (false, ..) => "nothing watches it: its capacity is its weight, and it is not confident".into(),
        (true, Some(why), is) => format!("{}: {why}", stand(is)),
        (true, None, Stand::Unknown) if state.found_by != FoundBy::Early => {
            "its checks have no verdict yet: its capacity is its weight, and it is not confident".into()
        }
        (true, None, is) => format!("{}: {}", stand(is), found_by(state.found_by)),
    };
    format!("{found}{doubt}")
}

/// The verdict of one policy.
#[derive(Debug, Serialize)]
struct ShareJson {
    contact: bool,
    confident: bool,
    weight: Option<u16>,
    rate: Option<f64>,
}

/// The verdicts of all policies.
#[derive(Debug, Serialize)]
pub struct Verdicts {
    r#static: ShareJson,
    agent: ShareJson,
    orca: ShareJson,
    auto: ShareJson,
}

impl Verdicts {
    fn new(verdicts: &[Verdict; Policy::ALL.len()]) -> Verdicts {
        let [r#static, agent, orca, auto] = verdicts.each_ref().map(|verdict| {
            let (weight, rate) = match verdict.share {
                Share::Weight(weight) => (Some(weight), None),
                Share::Rate(level) => (None, Some(level.rate())),
            };
            ShareJson {
                contact: verdict.flags.contains(EntryFlags::CONTACT),
                confident: verdict.flags.contains(EntryFlags::CONFIDENT),
                weight,
                rate,
            }
        });
        Verdicts { r#static, agent, orca, auto }
    }
}

/// An endpoint.
#[derive(Debug, Serialize)]
pub struct EndpointJson {
    #[serde(flatten)]
    place: Place,
    watched: bool,
    answers: bool,
    standing: &'static str,
    verdicts: Verdicts,
    quiesced: bool,
    quiesced_by: Vec<&'static str>,
    fixed_by: Option<&'static str>,
    capacity: u16,
    groups: usize,
    shard: Option<u16>,
    blind: bool,
    reason: String,
    changed_at: Option<String>,
}

impl EndpointJson {
    /// Of this row.
    pub fn new(row: &EndpointRow, calendar: &Calendar) -> EndpointJson {
        let state = &row.state;
        let quiesced_by = quiesced_by(false, state.quiesced_by_file, state.quiesced_by_operator);
        EndpointJson {
            place: Place::new(&state.endpoint),
            watched: state.watched,
            answers: row.answers,
            standing: standing(state),
            verdicts: Verdicts::new(&row.verdicts),
            quiesced: !quiesced_by.is_empty(),
            fixed_by: fixed_by(state),
            capacity: row.capacity,
            groups: row.groups,
            shard: row.shard,
            blind: state.blind,
            reason: reason(state, &quiesced_by, false),
            quiesced_by,
            changed_at: state.changed_at.map(|at| calendar.text(at)),
        }
    }
}

/// A word of the operator.
#[derive(Debug, Serialize)]
pub struct WordJson {
    number: u64,
    kind: &'static str,
    group: Option<String>,
    load_balancer: Option<LbName>,
    address: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
    weight: Option<u16>,
    reason: String,
    by: String,
    from: String,
    at: String,
    expires_at: Option<String>,
    survives_restart: bool,
}

impl WordJson {
    /// Of this word.
    pub fn new(word: &Word, calendar: &Calendar) -> WordJson {
        let pattern = &word.pattern;
        WordJson {
            number: word.number,
            kind: match word.saying {
                Saying::Quiesce => "quiesce",
                Saying::Resume => "resume",
                Saying::Weight(_) => "weight",
            },
            group: pattern.group.as_deref().map(text),
            load_balancer: pattern.lb_uid.as_deref().map(LbName::new),
            address: pattern.address.map(|address| address.to_string()),
            port: pattern.port,
            protocol: pattern.protocol.map(protocol),
            weight: match word.saying {
                Saying::Weight(weight) => Some(weight),
                _ => None,
            },
            reason: word.reason.to_string(),
            by: word.by.to_string(),
            from: word.from.to_string(),
            at: calendar.text(word.at),
            expires_at: word.expires.map(|at| calendar.text(at)),
            survives_restart: calendar.words_survive,
        }
    }
}

/// A change of an endpoint.
#[derive(Debug, Serialize)]
pub struct PastJson {
    at: String,
    kind: &'static str,
    text: String,
    from: Option<&'static str>,
    to: Option<&'static str>,
    verdicts: Verdicts,
}

impl PastJson {
    /// Of this change.
    pub fn new(past: &Past, calendar: &Calendar) -> PastJson {
        let (kind, text) = match &past.what {
            What::Registered => ("registered", "a group lists it".to_owned()),
            What::Standing(turn) => ("standing", turn.reason.to_string()),
            What::Verdicts => ("verdict", "weight, contact or confidence changed".to_owned()),
            What::Quiesced(who) => ("quiesced", format!("quiesced by {who}")),
            What::Resumed(who) => ("resumed", format!("resumed by {who}")),
            What::Fixed(who) => ("fixed", format!("weight fixed by {who}")),
            What::Released(who) => ("released", format!("fixed weight ended by {who}")),
        };
        let turn = match &past.what {
            What::Standing(turn) => Some(turn),
            _ => None,
        };
        PastJson {
            at: calendar.text(past.at),
            kind,
            text,
            from: turn.map(|turn| stand(turn.from)),
            to: turn.map(|turn| stand(turn.to)),
            verdicts: Verdicts::new(&past.verdicts),
        }
    }
}

/// The list of checks of one page.
#[derive(Debug, Serialize)]
pub struct ChecksPage {
    /// The rows.
    pub checks: Vec<CheckJson>,
    /// The next page.
    pub next: Option<String>,
}

//! What is to be written: a change of the tables that outlives the message that it came from.

use std::time::Duration;

use super::{own::FleetDate, rows::Member};
use crate::{
    coordinator::{Change, Coordinator, Held, LbState, Word},
    judgement::Last,
    sasp::{
        self, EncodeError, Endpoint, Groups, Message, Writer,
        message::{DeregistrationRequest, RegistrationRequest, SetLbStateRequest, SetMemberStateRequest},
        writer,
    },
    time::Time,
};

/// A change of the tables.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A load balancer has a connection.
    Bound(Box<[u8]>),
    /// A load balancer has lost its connection.
    Unbound {
        /// The load balancer.
        lb_uid: Box<[u8]>,
        /// The end of its hold time.
        held_until: Time,
    },
    /// A load balancer and its groups are forgotten.
    Forgotten(Box<[u8]>),
    /// An accepted Registration, Deregistration, Set LB State or Set Member State Request, with message id 0.
    Request(Box<[u8]>),
    /// A word of the operator is in force.
    Said(Box<Word>),
    /// A word of the operator has ended.
    Unsaid(u64),
    /// The monitor has judged an endpoint.
    Judged(Endpoint, Last),
    /// No group lists the endpoint any more.
    Gone(Endpoint),
    /// How the state on disk stands to etcd, which the nodes of a fleet share.
    Fleet {
        /// Etcd lacks some of what the disk has.
        ahead: bool,
        /// What the disk has comes from this, or is newer.
        known: Known,
        /// Etcd has so many of the changes that the node made by itself.
        kept: u64,
    },
    /// What the node knows of the fleet's date.
    Date(FleetDate),
    /// A node of a fleet makes a change by itself; etcd lacks it for now.
    Own {
        /// The number of the change since the start.
        number: u64,
        /// If a load balancer said something of its groups: the begin of its session.
        began: Option<Time>,
        /// The change.
        entry: Box<Entry>,
    },
    /// All that is known of a load balancer, in place of what was written of it before; `None` if nobody knows it.
    Whole(Box<[u8]>, Option<Box<Whole>>),
    /// All words that are in force, in place of those before.
    Words(Vec<Word>),
}

/// A state of etcd: all that is older was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Tells the store from another one; 0: nothing was known.
    pub store: u64,
    /// The revision.
    pub revision: u64,
}

/// All that is known of a load balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// The load balancer itself.
    pub lb: LbState,
    /// Its groups with their members, in the order of their registration.
    pub groups: Vec<(Box<[u8]>, Vec<Member>)>,
}

impl Whole {
    /// All that the coordinator knows of a load balancer.
    pub fn of(coordinator: &Coordinator, uid: &[u8]) -> Option<Whole> {
        let lb = coordinator.known_lb(uid)?;
        let mut groups = Vec::new();
        coordinator.known_groups(uid, |name, held| {
            let members = held.into_iter().map(|Held { member, by_lb, state, quiesced }| Member {
                endpoint: member.endpoint,
                by_lb,
                label: member.label.into(),
                state,
                quiesced,
            });
            groups.push((name.into(), members.collect()));
        });
        Some(Whole { lb, groups })
    }

    /// The number of members in all groups.
    pub fn members(&self) -> usize {
        self.groups.iter().map(|(_, members)| members.len()).sum()
    }

    /// About how many bytes of memory this takes.
    fn size(&self) -> usize {
        let members = |members: &[Member]| -> usize {
            members.iter().map(|member| size_of::<Member>() + member.label.len()).sum()
        };
        self.groups.iter().map(|(name, list)| name.len() + members(list)).sum()
    }
}

impl Entry {
    /// The entry of a change that is made at `now`.
    pub fn new(now: Time, change: &Change<'_>, hold_time: Duration) -> Entry {
        match *change {
            Change::Bind { lb_uid, .. } => Entry::Bound(lb_uid.into()),
            Change::Unbind { lb_uid, .. } => Entry::Unbound { lb_uid: lb_uid.into(), held_until: now + hold_time },
            // After a restart, each node holds the load balancer until it hears where the connection is.
            Change::Elsewhere { lb_uid, .. } => Entry::Bound(lb_uid.into()),
            Change::Hold { lb_uid, until } => Entry::Unbound { lb_uid: lb_uid.into(), held_until: until },
            Change::Forget { lb_uid } => Entry::Forgotten(lb_uid.into()),
            Change::Say(word) => Entry::Said(Box::new(word.clone())),
            Change::Unsay { number, .. } => Entry::Unsaid(number),
            Change::Register(request) => Entry::request(|bytes| register(bytes, &request)),
            Change::Deregister(request) => Entry::request(|bytes| deregister(bytes, &request)),
            Change::SetLbState(SetLbStateRequest { lb_uid, health, flags }) => {
                Entry::request(|bytes| writer::set_lb_state_request(bytes, 0, lb_uid, health, flags))
            }
            Change::SetMemberState(request) => Entry::request(|bytes| set_member_state(bytes, &request)),
        }
    }

    /// The load balancers that the entry is about.
    pub fn load_balancers(&self) -> Vec<&[u8]> {
        match self {
            Entry::Bound(uid) | Entry::Unbound { lb_uid: uid, .. } | Entry::Forgotten(uid) | Entry::Whole(uid, _) => {
                vec![uid]
            }
            Entry::Request(bytes) => {
                let (_, message) = Message::decode_trusted(bytes).expect("an entry is a well-formed request");
                match message {
                    Message::RegistrationRequest(request) => named(request.groups),
                    Message::DeregistrationRequest(request) => named(request.groups),
                    Message::SetMemberStateRequest(request) => named(request.groups),
                    Message::SetLbStateRequest(request) => vec![request.lb_uid],
                    _ => Vec::new(), // no other request changes anything
                }
            }
            Entry::Own { entry, .. } => entry.load_balancers(),
            Entry::Said(_)
            | Entry::Unsaid(_)
            | Entry::Judged(..)
            | Entry::Gone(_)
            | Entry::Fleet { .. }
            | Entry::Date(_)
            | Entry::Words(_) => Vec::new(),
        }
    }

    fn request(write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) -> Entry {
        let mut bytes = Vec::new();
        write(&mut bytes).expect("it was a message before");
        Entry::Request(bytes.into())
    }

    /// About how many bytes of memory the entry takes.
    pub fn size(&self) -> usize {
        let more = match self {
            Entry::Bound(bytes)
            | Entry::Unbound { lb_uid: bytes, .. }
            | Entry::Forgotten(bytes)
            | Entry::Request(bytes) => bytes.len(),
            Entry::Said(word) => word_size(word),
            Entry::Whole(uid, whole) => uid.len() + whole.as_ref().map_or(0, |whole| whole.size()),
            Entry::Words(words) => words.iter().map(word_size).sum(),
            Entry::Own { entry, .. } => entry.size(),
            Entry::Unsaid(_) | Entry::Judged(..) | Entry::Gone(_) | Entry::Fleet { .. } | Entry::Date(_) => 0,
        };
        size_of::<Entry>() + more
    }
}

/// About how many bytes of memory a word takes.
fn word_size(word: &Word) -> usize {
    size_of::<Word>() + word.reason.len() + word.by.len() + word.from.len()
}

/// The load balancers that these groups are of.
fn named<'a, T: sasp::Entry<'a>>(groups: Groups<'a, T>) -> Vec<&'a [u8]> {
    groups.into_iter().map(|group| group.data.lb_uid).collect()
}

fn register(bytes: &mut Vec<u8>, request: &RegistrationRequest<'_>) -> Result<(), EncodeError> {
    groups(Writer::registration_request(bytes, 0, request.flags), request.groups)
}

fn deregister(bytes: &mut Vec<u8>, request: &DeregistrationRequest<'_>) -> Result<(), EncodeError> {
    groups(Writer::deregistration_request(bytes, 0, request.flags, request.reason), request.groups)
}

fn set_member_state(bytes: &mut Vec<u8>, request: &SetMemberStateRequest<'_>) -> Result<(), EncodeError> {
    groups(Writer::set_member_state_request(bytes, 0, request.flags), request.groups)
}

fn groups<'a, T: sasp::Entry<'a>>(mut writer: Writer<'_, T>, groups: Groups<'a, T>) -> Result<(), EncodeError> {
    for group in groups {
        writer.group(group.data);
        group.entries().for_each(|entry| writer.entry(&entry));
    }
    writer.finish()
}

//! What a node of a fleet has changed by itself and etcd may lack, in the file: if the node dies before etcd has it, its next
//! life tells etcd these rows, and takes all others from etcd.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `own` | a row: [`RowKey`] | the last change: [`Own`] |
//! | `dates` | a life of the node | what it knew of the fleet's date: [`FleetDate`] |
//!
//! A life of the node is a start of a daemon with this file; lives are counted from 1.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};

use super::{
    date::Date,
    entry::Entry,
    rows::{self, Fault, Fields},
    store::Result,
    tables::after,
};
use crate::{
    coordinator::Change,
    sasp::{self, Endpoint, GroupData, Groups, Message, SenderFlags},
    time::Time,
};

/// The most members of a group that are known to be gone, the last ones: about 8 KiB in each value of such a group.
pub const GONE: usize = 256;

/// So many lives of the node are remembered.
const LIVES: u64 = 16;

type Bytes = &'static [u8];

const OWN: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("own");
const DATES: TableDefinition<'_, u64, Bytes> = TableDefinition::new("dates");

/// The key of a row of the tables. A load balancer comes before its groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// A load balancer, by its UID.
    LoadBalancer(Box<[u8]>),
    /// A group, by the load balancer's UID and the name.
    Group(Box<[u8]>, Box<[u8]>),
    /// A word of the operator.
    Word(u64),
}

/// The begin of a load balancer's session at this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Began {
    /// The life of the node.
    pub life: u64,
    /// The time in that life.
    pub at: Time,
}

/// The node's last change of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The life of the node, and the number of the change in it.
    pub(super) change: (u64, u64),
    /// Of a group: the session in which the load balancer changed it last.
    pub session: Option<Began>,
    /// Of a group: what the load balancer has deregistered last, [`GONE`] at most, and in which sessions.
    pub gone: Vec<(Endpoint, Began)>,
}

/// What a life of a node knew of the fleet's date, by which nodes know which of two sessions was the later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetDate {
    /// The era of the date.
    pub era: u64,
    /// At this time of the life,
    pub at: Time,
    /// it was this date,
    pub date: Date,
    /// give or take so many milliseconds.
    pub error: u64,
    /// Nothing is known of times before this one: the machine has slept.
    pub awake: Time,
}

/// All that a node has changed by itself and etcd may lack.
#[derive(Clone, Debug, Default)]
pub struct Owns {
    /// The rows. A row that is not there any more was removed by the node.
    pub rows: BTreeMap<RowKey, Own>,
    /// What lives of the node knew of the fleet's date.
    pub dates: BTreeMap<u64, FleetDate>,
}

impl RowKey {
    /// The key of a group.
    pub(super) fn group(data: GroupData<'_>) -> RowKey {
        RowKey::Group(data.lb_uid.into(), data.name.into())
    }

    pub(super) fn write(&self) -> Vec<u8> {
        match self {
            RowKey::LoadBalancer(uid) => [&[0], &**uid].concat(),
            RowKey::Group(lb_uid, name) => [vec![1], rows::group_key(GroupData { lb_uid, name })].concat(),
            RowKey::Word(number) => [&[2][..], &number.to_be_bytes()].concat(),
        }
    }

    pub(super) fn read(key: &[u8]) -> std::result::Result<RowKey, Fault> {
        let mut fields = Fields(key);
        match fields.u8("the kind of a row")? {
            0 => Ok(RowKey::LoadBalancer(rows::read_uid(fields.0)?.into())),
            1 => Ok(RowKey::group(rows::read_group_key(fields.0)?)),
            2 => {
                let number = fields.u64("the number of a word")?;
                fields.end("the end of a row's key")?;
                Ok(RowKey::Word(number))
            }
            _ => Err(Fault("the kind of a row")),
        }
    }
}

impl Own {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put =
            |numbers: [u64; 2]| numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        put([self.change.0, self.change.1]);
        let session = self.session.unwrap_or(Began { life: 0, at: Time(0) }); // there is no life 0
        put([session.life, session.at.0]);
        for (endpoint, began) in &self.gone {
            rows::put_endpoint(&mut out, endpoint);
            out.extend_from_slice(&began.life.to_be_bytes());
            out.extend_from_slice(&began.at.0.to_be_bytes());
        }
        out
    }

    pub(super) fn read(value: &[u8]) -> std::result::Result<Own, Fault> {
        let mut fields = Fields(value);
        let change = (fields.u64("the life of a change")?, fields.u64("the number of a change")?);
        let began = |fields: &mut Fields<'_>| -> std::result::Result<Began, Fault> {
            let (life, at) = (fields.u64("the life of a session")?, Time(fields.u64("the begin of a session")?));
            Ok(Began { life, at })
        };
        let session = Some(began(&mut fields)?).filter(|began| began.life != 0);
        let mut gone = Vec::new();
        while !fields.0.is_empty() {
            if gone.len() == GONE {
                return Err(Fault("how many members are gone"));
            }
            gone.push((fields.endpoint()?, began(&mut fields)?));
        }
        Ok(Own { change, session, gone })
    }

    /// The load balancer has registered these members in this session, or has deregistered them.
    pub(super) fn hear(&mut self, session: Option<Began>, members: impl Iterator<Item = Endpoint>, leave: bool) {
        let Some(session) = session else { return };
        self.session = Some(session);
        let members: BTreeSet<Endpoint> = members.collect();
        self.gone.retain(|(endpoint, _)| !members.contains(endpoint));
        if leave {
            self.gone.extend(members.into_iter().map(|endpoint| (endpoint, session)));
            self.gone.drain(..self.gone.len().saturating_sub(GONE));
        }
    }
}

impl FleetDate {
    pub(super) fn write(&self) -> [u8; 40] {
        let mut out = [0; 40];
        let numbers = [self.era, self.at.0, self.date.0, self.error, self.awake.0];
        for (bytes, number) in out.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_be_bytes());
        }
        out
    }

    pub(super) fn read(value: &[u8]) -> std::result::Result<FleetDate, Fault> {
        let mut fields = Fields(value);
        let mut number = || fields.u64("a date of the fleet");
        let (era, at, date, error, awake) = (number()?, number()?, number()?, number()?, number()?);
        fields.end("the end of a date of the fleet")?;
        Ok(FleetDate { era, at: Time(at), date: Date(date), error, awake: Time(awake) })
    }
}

/// The tables in a transaction that writes. Only nodes of a fleet need them: they are opened when they are needed.
pub(super) struct OwnTables<'t> {
    transaction: &'t WriteTransaction,
    own: Option<Table<'t, Bytes, Bytes>>,
}

impl<'t> OwnTables<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction) -> OwnTables<'t> {
        OwnTables { transaction, own: None }
    }

    fn own(&mut self) -> Result<&mut Table<'t, Bytes, Bytes>> {
        if self.own.is_none() {
            self.own = Some(self.transaction.open_table(OWN)?);
        }
        Ok(self.own.as_mut().expect("it was just opened"))
    }

    /// The node makes a change by itself: notes the rows that change. `tables` have the groups and words before the change.
    pub(super) fn note(
        &mut self,
        change: (u64, u64),
        session: Option<Began>,
        entry: &Entry,
        tables: (&impl ReadableTable<Bytes, u64>, &impl ReadableTable<u64, Bytes>),
    ) -> Result<()> {
        let mut note = |key: RowKey| self.note_row(&key, change, |_| {});
        match entry {
            Entry::Bound(uid) | Entry::Unbound { lb_uid: uid, .. } => note(RowKey::LoadBalancer(uid.clone())),
            Entry::Forgotten(uid) | Entry::Whole(uid, _) => {
                note(RowKey::LoadBalancer(uid.clone()))?;
                groups_of(uid, tables.0)?.into_iter().try_for_each(&mut note)?;
                let Entry::Whole(_, Some(whole)) = entry else { return Ok(()) };
                whole.groups.iter().try_for_each(|(name, _)| note(RowKey::Group(uid.clone(), name.clone())))
            }
            Entry::Said(word) => note(RowKey::Word(word.number)),
            Entry::Unsaid(number) => note(RowKey::Word(*number)),
            Entry::Words(words) => {
                for word in tables.1.iter()? {
                    note(RowKey::Word(word?.0.value()))?;
                }
                words.iter().try_for_each(|word| note(RowKey::Word(word.number)))
            }
            Entry::Request(bytes) => {
                let (_, message) = Message::decode_trusted(bytes).expect("an entry is a well-formed request");
                match message {
                    Message::RegistrationRequest(request) => request.groups.into_iter().try_for_each(|group| {
                        let members = group.entries().map(|member| member.endpoint);
                        self.note_row(&RowKey::group(group.data), change, |own| own.hear(session, members, false))
                    }),
                    Message::DeregistrationRequest(request) => request.groups.into_iter().try_for_each(|group| {
                        if group.data.name.is_empty() {
                            let mut ended = groups_of(group.data.lb_uid, tables.0)?.into_iter();
                            return ended.try_for_each(|key| self.note_row(&key, change, |_| {}));
                        }
                        let members = group.entries().map(|member| member.endpoint);
                        self.note_row(&RowKey::group(group.data), change, |own| own.hear(session, members, true))
                    }),
                    Message::SetMemberStateRequest(request) => request.groups.into_iter().try_for_each(|group| {
                        let nobody = std::iter::empty();
                        self.note_row(&RowKey::group(group.data), change, |own| own.hear(session, nobody, false))
                    }),
                    Message::SetLbStateRequest(request) => note(RowKey::LoadBalancer(request.lb_uid.into())),
                    _ => Ok(()), // no other request changes anything
                }
            }
            Entry::Judged(..) | Entry::Gone(_) | Entry::Fleet { .. } | Entry::Date(_) | Entry::Own { .. } => Ok(()),
        }
    }

    fn note_row(&mut self, key: &RowKey, change: (u64, u64), act: impl FnOnce(&mut Own)) -> Result<()> {
        let (key, own) = (key.write(), self.own()?);
        let known = own.get(&key[..])?.map(|value| Own::read(value.value())).transpose()?;
        let mut row = Own { change, ..known.unwrap_or_default() };
        act(&mut row);
        own.insert(&key[..], &row.write()[..])?;
        Ok(())
    }

    /// Etcd has the changes of this life up to this number, and, if so, all changes of the lives before.
    pub(super) fn are_kept(&mut self, (life, number): (u64, u64), and_before: bool) -> Result<()> {
        let is_kept = |own: &Own| if own.change.0 == life { own.change.1 <= number } else { and_before };
        // What can not be read stays, and the next start says so.
        self.own()?.retain(|_, value| !Own::read(value).is_ok_and(|own| is_kept(&own)))?;
        Ok(())
    }

    /// What this life of the node knows of the fleet's date.
    pub(super) fn date(&mut self, life: u64, date: &FleetDate) -> Result<()> {
        let mut dates = self.transaction.open_table(DATES)?;
        dates.retain(|of, _| of + LIVES > life)?;
        dates.insert(life, &date.write()[..])?;
        Ok(())
    }

    /// The node belongs to no fleet.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.own = None;
        self.transaction.delete_table(OWN)?;
        self.transaction.delete_table(DATES)?;
        Ok(())
    }
}

/// The keys of all groups of a load balancer.
fn groups_of(lb_uid: &[u8], groups: &impl ReadableTable<Bytes, u64>) -> Result<Vec<RowKey>> {
    let prefix = rows::group_prefix(lb_uid);
    let end = after(prefix.clone());
    let found = groups.range::<&[u8]>(&prefix[..]..&end[..])?;
    found.map(|group| Ok(RowKey::group(rows::read_group_key(group?.0.value())?))).collect()
}

/// Reads the tables, which older files do not have.
pub(super) fn read(transaction: &ReadTransaction) -> Result<Owns> {
    let mut owns = Owns::default();
    match transaction.open_table(OWN) {
        Ok(table) => {
            for row in table.iter()? {
                let (key, value) = row?;
                owns.rows.insert(RowKey::read(key.value())?, Own::read(value.value())?);
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match transaction.open_table(DATES) {
        Ok(table) => {
            for row in table.iter()? {
                let (life, value) = row?;
                owns.dates.insert(life.value(), FleetDate::read(value.value())?);
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(owns)
}

/// Since when load balancers are connected to this node of a fleet.
#[derive(Debug, Default)]
pub struct Sessions(HashMap<Box<[u8]>, Time>);

impl Sessions {
    /// Notes a change that the node was ordered to make.
    pub fn ordered(&mut self, change: &Change<'_>) {
        if let Change::Unbind { lb_uid, .. } | Change::Elsewhere { lb_uid, .. } | Change::Forget { lb_uid } = change {
            self.0.remove(*lb_uid);
        }
    }

    /// The entry of a change that the node makes by itself, with its number.
    pub fn own(&mut self, now: Time, number: u64, change: &Change<'_>, hold_time: Duration) -> Entry {
        match change {
            Change::Bind { lb_uid, .. } => drop(self.0.insert((*lb_uid).into(), now)),
            _ => self.ordered(change),
        }
        let began = speaker(change).and_then(|lb_uid| self.0.get(lb_uid).copied());
        Entry::Own { number, began, entry: Box::new(Entry::new(now, change, hold_time)) }
    }
}

/// The load balancer that says something of its groups.
fn speaker<'a>(change: &Change<'a>) -> Option<&'a [u8]> {
    fn of<'a, T: sasp::Entry<'a>>(flags: SenderFlags, groups: Groups<'a, T>) -> Option<&'a [u8]> {
        let first = groups.into_iter().next().filter(|_| flags.contains(SenderFlags::LOAD_BALANCER));
        first.map(|group| group.data.lb_uid)
    }
    match *change {
        Change::Register(request) => of(request.flags, request.groups),
        Change::Deregister(request) => of(request.flags, request.groups),
        Change::SetMemberState(request) => of(request.flags, request.groups),
        _ => None,
    }
}

/// See [`rows::read_any`].
pub(super) fn read_any(bytes: &[u8]) {
    if let Ok(key) = RowKey::read(bytes) {
        assert_eq!(key.write(), bytes);
    }
    if let Ok(own) = Own::read(bytes) {
        assert_eq!(Own::read(&own.write()), Ok(own));
    }
    if let Ok(date) = FleetDate::read(bytes) {
        assert_eq!(date.write(), bytes);
    }
}

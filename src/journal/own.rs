//! What a node of a fleet has changed by itself and etcd may lack, in the file: if the node dies before etcd has it, its next
//! life tells etcd that, and takes all else from etcd.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `own rows` | a row: [`RowKey`] | the last change: [`Own`] |
//! | `own members` | a group, and a member | the last change: [`Own`] |
//! | `dates` | a life of the node | what it knew of the fleet's date: [`FleetDate`] |
//!
//! A life of the node is a start of a daemon with this file; lives are counted from 1.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use redb::{
    Key, ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError,
    Value, WriteTransaction,
};

use super::{
    date::Date,
    entry::Entry,
    rows::{self, Fault, Fields},
    store::Result,
    tables::after,
};
use crate::{
    coordinator::Change,
    sasp::{self, Endpoint, Escaped, GroupData, Groups, Message, SenderFlags},
    time::Time,
};

/// So many lives of the node are remembered.
const LIVES: u64 = 16;

/// So many members are remembered, of all groups; then whole groups are.
const MEMBERS: u64 = 1_000_000;

type Bytes = &'static [u8];

const ROWS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("own rows");
const MEMBERS_OF: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("own members");
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

/// What a node has done to a member of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Did {
    /// The member has joined.
    #[default]
    Joined,
    /// The member's state has changed.
    Changed,
    /// The member has left.
    Left,
}

/// The node's last change of a row, or of a member of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Own {
    /// The life of the node, and the number of the change in it.
    change: (u64, u64),
    /// The session in which the load balancer said something of its group, or of the member; `None`: it did not.
    session: Option<Began>,
    /// Of a group: more may have changed than the members that are noted.
    is_whole: bool,
    /// Of a member.
    did: Did,
}

/// The node's changes of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnRow {
    /// Of a group: the session in which the load balancer changed it last.
    pub session: Option<Began>,
    /// Of a group: other members than these may have changed, too.
    pub is_whole: bool,
    /// What was done to members, and the sessions in which the load balancer said that, if it did.
    pub members: BTreeMap<Endpoint, (Did, Option<Began>)>,
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
    pub rows: BTreeMap<RowKey, OwnRow>,
    /// What lives of the node knew of the fleet's date.
    pub dates: BTreeMap<u64, FleetDate>,
}

/// For people.
impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowKey::LoadBalancer(uid) => write!(f, "load balancer \"{}\"", Escaped(uid)),
            RowKey::Group(uid, name) => write!(f, "group \"{}\" of load balancer \"{}\"", Escaped(name), Escaped(uid)),
            RowKey::Word(number) => write!(f, "word {number}"),
        }
    }
}

impl RowKey {
    /// The key of a group.
    fn group(data: GroupData<'_>) -> RowKey {
        RowKey::Group(data.lb_uid.into(), data.name.into())
    }

    fn write(&self) -> Vec<u8> {
        match self {
            RowKey::LoadBalancer(uid) => [&[0], &**uid].concat(),
            RowKey::Group(lb_uid, name) => [vec![1], rows::group_key(GroupData { lb_uid, name })].concat(),
            RowKey::Word(number) => [&[2][..], &number.to_be_bytes()].concat(),
        }
    }

    fn read(key: &[u8]) -> std::result::Result<RowKey, Fault> {
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

/// The key of a member of a group: the group's, and the member.
fn member_key(data: GroupData<'_>, endpoint: &Endpoint) -> Vec<u8> {
    let mut key = rows::group_prefix(data.lb_uid);
    rows::put_short(&mut key, data.name);
    rows::put_endpoint(&mut key, endpoint);
    key
}

fn read_member_key(key: &[u8]) -> std::result::Result<(RowKey, Endpoint), Fault> {
    let mut fields = Fields(key);
    let lb_uid = rows::read_uid(fields.short("the LB UID of a group")?)?;
    let name = fields.short("the name of a group")?;
    let endpoint = fields.endpoint()?;
    fields.end("the end of a member's key")?;
    if name.is_empty() {
        return Err(Fault("the name of a group"));
    }
    Ok((RowKey::group(GroupData { lb_uid, name }), endpoint))
}

impl Own {
    fn write(&self) -> [u8; 34] {
        let session = self.session.unwrap_or(Began { life: 0, at: Time(0) }); // there is no life 0
        let mut out = [0; 34];
        let numbers = [self.change.0, self.change.1, session.life, session.at.0];
        for (bytes, number) in out.chunks_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_be_bytes());
        }
        (out[32], out[33]) = (self.is_whole.into(), self.did as u8);
        out
    }

    fn read(value: &[u8]) -> std::result::Result<Own, Fault> {
        let mut fields = Fields(value);
        let change = (fields.u64("the life of a change")?, fields.u64("the number of a change")?);
        let (life, at) = (fields.u64("the life of a session")?, Time(fields.u64("the begin of a session")?));
        let is_whole = fields.flag("how much of a row has changed")?;
        let did = match fields.u8("what was done to a member")? {
            0 => Did::Joined,
            1 => Did::Changed,
            2 => Did::Left,
            _ => return Err(Fault("what was done to a member")),
        };
        fields.end("the end of a change")?;
        let session = (life != 0).then_some(Began { life, at });
        Ok(Own { change, session, is_whole, did })
    }
}

impl FleetDate {
    fn write(&self) -> [u8; 40] {
        let mut out = [0; 40];
        let numbers = [self.era, self.at.0, self.date.0, self.error, self.awake.0];
        for (bytes, number) in out.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_be_bytes());
        }
        out
    }

    fn read(value: &[u8]) -> std::result::Result<FleetDate, Fault> {
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
    open: Option<Open<'t>>,
}

struct Open<'t> {
    rows: Table<'t, Bytes, Bytes>,
    members: Table<'t, Bytes, Bytes>,
}

/// The node's change that is noted.
#[derive(Clone, Copy)]
pub(super) struct Noted {
    /// The life of the node, and the number of the change.
    pub(super) change: (u64, u64),
    /// If a load balancer said something of its groups: its session.
    pub(super) session: Option<Began>,
}

impl Open<'_> {
    fn row(&mut self, key: &RowKey, noted: Noted, is_whole: bool) -> Result<()> {
        let key = key.write();
        let known = self.rows.get(&key[..])?.map(|value| Own::read(value.value())).transpose()?.unwrap_or_default();
        let session = noted.session.or(known.session);
        let own = Own { change: noted.change, session, is_whole: known.is_whole || is_whole, did: Did::default() };
        self.rows.insert(&key[..], &own.write()[..])?;
        Ok(())
    }

    /// This was done to members of a group.
    fn group(
        &mut self,
        data: GroupData<'_>,
        noted: Noted,
        members: impl Iterator<Item = Endpoint>,
        did: Did,
    ) -> Result<()> {
        let fits = self.members.len()? < MEMBERS;
        if fits {
            let own = Own { change: noted.change, session: noted.session, is_whole: false, did };
            for endpoint in members {
                let key = member_key(data, &endpoint);
                let mut own = own;
                if did == Did::Changed
                    && let Some(known) = self.members.get(&key[..])?
                {
                    own.did = Own::read(known.value())?.did; // the member may have joined just before
                }
                self.members.insert(&key[..], &own.write()[..])?;
            }
        }
        self.row(&RowKey::group(data), noted, !fits)
    }
}

impl<'t> OwnTables<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction) -> OwnTables<'t> {
        OwnTables { transaction, open: None }
    }

    fn open(&mut self) -> Result<&mut Open<'t>> {
        if self.open.is_none() {
            let (rows, members) = (self.transaction.open_table(ROWS)?, self.transaction.open_table(MEMBERS_OF)?);
            self.open = Some(Open { rows, members });
        }
        Ok(self.open.as_mut().expect("they were just opened"))
    }

    /// The node makes a change by itself: notes what changes. `tables` have the groups and words before the change.
    pub(super) fn note(
        &mut self,
        noted: Noted,
        entry: &Entry,
        tables: (&impl ReadableTable<Bytes, u64>, &impl ReadableTable<u64, Bytes>),
    ) -> Result<()> {
        let open = self.open()?;
        match entry {
            Entry::Bound(uid) | Entry::Unbound { lb_uid: uid, .. } => {
                open.row(&RowKey::LoadBalancer(uid.clone()), noted, true)
            }
            Entry::Forgotten(uid) | Entry::Whole(uid, _) => {
                open.row(&RowKey::LoadBalancer(uid.clone()), noted, true)?;
                groups_of(uid, tables.0)?.iter().try_for_each(|key| open.row(key, noted, true))?;
                let Entry::Whole(_, Some(whole)) = entry else { return Ok(()) };
                let mut keys = whole.groups.iter().map(|(name, _)| RowKey::Group(uid.clone(), name.clone()));
                keys.try_for_each(|key| open.row(&key, noted, true))
            }
            Entry::Said(word) => open.row(&RowKey::Word(word.number), noted, true),
            Entry::Unsaid(number) => open.row(&RowKey::Word(*number), noted, true),
            Entry::Words(words) => {
                for word in tables.1.iter()? {
                    open.row(&RowKey::Word(word?.0.value()), noted, true)?;
                }
                words.iter().try_for_each(|word| open.row(&RowKey::Word(word.number), noted, true))
            }
            Entry::Request(bytes) => {
                let (_, message) = Message::decode_trusted(bytes).expect("an entry is a well-formed request");
                match message {
                    Message::RegistrationRequest(request) => request.groups.into_iter().try_for_each(|group| {
                        open.group(group.data, noted, group.entries().map(|member| member.endpoint), Did::Joined)
                    }),
                    Message::SetMemberStateRequest(request) => request.groups.into_iter().try_for_each(|group| {
                        open.group(group.data, noted, group.entries().map(|entry| entry.member.endpoint), Did::Changed)
                    }),
                    Message::DeregistrationRequest(request) => request.groups.into_iter().try_for_each(|group| {
                        if group.data.name.is_empty() {
                            let ended = groups_of(group.data.lb_uid, tables.0)?;
                            return ended.iter().try_for_each(|key| open.row(key, noted, true));
                        }
                        if group.count() == 0 {
                            return open.row(&RowKey::group(group.data), noted, true);
                        }
                        open.group(group.data, noted, group.entries().map(|member| member.endpoint), Did::Left)
                    }),
                    Message::SetLbStateRequest(request) => {
                        open.row(&RowKey::LoadBalancer(request.lb_uid.into()), noted, true)
                    }
                    _ => Ok(()), // no other request changes anything
                }
            }
            Entry::Judged(..) | Entry::Gone(_) | Entry::Fleet { .. } | Entry::Date(_) | Entry::Own { .. } => Ok(()),
        }
    }

    /// Etcd has the changes of this life up to this number, and, if so, all changes of the lives before.
    pub(super) fn are_kept(&mut self, (life, number): (u64, u64), and_before: bool) -> Result<()> {
        let is_kept = |own: &Own| if own.change.0 == life { own.change.1 <= number } else { and_before };
        let Open { rows, members } = self.open()?;
        for table in [rows, members] {
            // What can not be read stays, and the next start says so.
            table.retain(|_, value| !Own::read(value).is_ok_and(|own| is_kept(&own)))?;
        }
        Ok(())
    }

    /// What this life of the node knows of the fleet's date.
    pub(super) fn date(&mut self, life: u64, date: &FleetDate) -> Result<()> {
        let mut dates = self.transaction.open_table(DATES)?;
        dates.retain(|of, _| of + LIVES > life)?;
        dates.insert(life, &date.write()[..])?;
        Ok(())
    }

    /// Nothing of a former life is the node's own any more: etcd has had all of it, or may lack anything of the file.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.open = None;
        self.transaction.delete_table(ROWS)?;
        self.transaction.delete_table(MEMBERS_OF)?;
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

/// A table that older files do not have.
fn table<K: Key, V: Value>(
    transaction: &ReadTransaction,
    definition: TableDefinition<'_, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>> {
    match transaction.open_table(definition) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads the tables.
pub(super) fn read(transaction: &ReadTransaction) -> Result<Owns> {
    let mut owns = Owns::default();
    if let Some(rows) = table(transaction, ROWS)? {
        for row in rows.iter()? {
            let (key, value) = row?;
            let Own { session, is_whole, .. } = Own::read(value.value())?;
            let row = OwnRow { session, is_whole, members: BTreeMap::new() };
            owns.rows.insert(RowKey::read(key.value())?, row);
        }
    }
    if let Some(members) = table(transaction, MEMBERS_OF)? {
        for member in members.iter()? {
            let (key, value) = member?;
            let ((group, endpoint), own) = (read_member_key(key.value())?, Own::read(value.value())?);
            owns.rows.entry(group).or_default().members.insert(endpoint, (own.did, own.session));
        }
    }
    if let Some(dates) = table(transaction, DATES)? {
        for date in dates.iter()? {
            let (life, value) = date?;
            owns.dates.insert(life.value(), FleetDate::read(value.value())?);
        }
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
    if let Ok((RowKey::Group(lb_uid, name), endpoint)) = read_member_key(bytes) {
        assert_eq!(member_key(GroupData { lb_uid: &lb_uid, name: &name }, &endpoint), bytes);
    }
    if let Ok(own) = Own::read(bytes) {
        assert_eq!(Own::read(&own.write()), Ok(own));
    }
    if let Ok(date) = FleetDate::read(bytes) {
        assert_eq!(date.write(), bytes);
    }
}

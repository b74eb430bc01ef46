//! The tables of the file: how an entry changes rows, and how rows are read together.

use std::collections::{BTreeSet, HashMap};

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use super::{
    date::{Date, Epoch},
    entry::{Entry, Whole},
    own::{Began, Noted, OwnTables},
    rows::{self, CHUNK_BYTES, LbValue, Member, Row},
    store::{Numbers, Result, StoreError},
};
use crate::{
    coordinator::{Place, Word},
    judgement::{Last, Policy, Verdict},
    limits,
    sasp::{
        Endpoint, GroupData, Health, LbFlags, MemberFlags, Message, SenderFlags,
        message::{DeregistrationRequest, RegistrationRequest, SetLbStateRequest, SetMemberStateRequest},
    },
};

type Bytes = &'static [u8];

/// UID → load balancer.
const LBS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("load balancers");
/// UID and name → number of the group.
const GROUPS: TableDefinition<'_, Bytes, u64> = TableDefinition::new("groups");
/// Number of the group, and number of the chunk in it → members. No chunk is empty.
const CHUNKS: TableDefinition<'_, (u64, u32), Bytes> = TableDefinition::new("members");
/// Number of the group, and member → state. A member without a row has state 0 and is not quiesced.
const STATES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("states");
/// Number → word of the operator.
const WORDS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("words");
/// Endpoint → last verdicts.
const VERDICTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("verdicts");

/// Opens all tables in a transaction that writes or in one that reads; with further fields of the type.
macro_rules! open {
    ($type:ident, $transaction:ident $(, $more:ident)*) => {
        Ok($type {
            lbs: $transaction.open_table(LBS)?,
            groups: $transaction.open_table(GROUPS)?,
            chunks: $transaction.open_table(CHUNKS)?,
            states: $transaction.open_table(STATES)?,
            words: $transaction.open_table(WORDS)?,
            verdicts: $transaction.open_table(VERDICTS)?,
            $($more,)*
        })
    };
}

/// All tables, to change them.
pub(super) struct Tables<'t> {
    lbs: Table<'t, Bytes, Bytes>,
    groups: Table<'t, Bytes, u64>,
    chunks: Table<'t, (u64, u32), Bytes>,
    states: Table<'t, Bytes, Bytes>,
    words: Table<'t, u64, Bytes>,
    verdicts: Table<'t, Bytes, Bytes>,
    own: OwnTables<'t>,
    numbers: Numbers,
}

/// The entry does not fit the rows: rows are missing, or are damaged.
fn misfit(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} is not there"))
}

/// The first key after all keys with this prefix, which does not consist of 0xFF alone.
pub(super) fn after(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            break;
        }
    }
    prefix
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, numbers: Numbers) -> Result<Tables<'t>> {
        let own = OwnTables::new(transaction);
        open!(Tables, transaction, own, numbers)
    }

    pub(super) fn close(self) -> Numbers {
        self.numbers
    }

    pub(super) fn apply(&mut self, entry: &Entry, epoch: Epoch) -> Result<()> {
        match entry {
            Entry::Bound(lb_uid) => self.change_lb(lb_uid, |lb| lb.held_until = None),
            Entry::Unbound { lb_uid, held_until } => {
                let date = Date(epoch.date(*held_until).0.max(1));
                self.change_lb(lb_uid, |lb| lb.held_until = Some(date))
            }
            Entry::Forgotten(lb_uid) => {
                self.remove_groups(lb_uid)?;
                self.lbs.remove(&**lb_uid)?.map(drop).ok_or_else(|| misfit("a load balancer"))
            }
            Entry::Said(word) => self.say(word, epoch),
            Entry::Unsaid(number) => self.words.remove(number)?.map(drop).ok_or_else(|| misfit("a word")),
            Entry::Fleet { ahead, known, kept } => {
                self.numbers.ahead = match ahead {
                    false => 0,
                    true if self.numbers.ahead == 1 => 1,
                    true => 2,
                };
                (self.numbers.known_store, self.numbers.known_revision) = (known.store, known.revision);
                self.own.are_kept((self.numbers.starts, *kept), !ahead)
            }
            Entry::Date(date) => self.own.date(self.numbers.starts, date),
            Entry::Own { number, began, entry } => {
                let life = self.numbers.starts;
                let session = began.map(|at| Began { life, at });
                let Tables { own, groups, words, .. } = self;
                own.note(Noted { change: (life, *number), session }, entry, (groups, words))?;
                self.apply(entry, epoch)
            }
            Entry::Judged(endpoint, Last { verdicts, ramp_until }) => {
                self.judge(endpoint, verdicts, ramp_until.map(|until| epoch.date(until)))
            }
            Entry::Gone(endpoint) => Ok(self.verdicts.remove(&rows::endpoint_key(endpoint)[..]).map(drop)?),
            Entry::Whole(uid, whole) => {
                self.remove_groups(uid)?;
                self.lbs.remove(&**uid)?;
                whole.as_ref().map_or(Ok(()), |whole| self.put_whole(uid, whole, epoch))
            }
            Entry::Words(words) => {
                self.words.retain(|_, _| false)?;
                words.iter().try_for_each(|word| self.say(word, epoch))
            }
            Entry::Request(bytes) => {
                let (_, message) = Message::decode_trusted(bytes).expect("an entry is a well-formed request");
                match message {
                    Message::RegistrationRequest(request) => self.register(&request),
                    Message::DeregistrationRequest(request) => self.deregister(&request),
                    Message::SetLbStateRequest(SetLbStateRequest { lb_uid, health, flags }) => {
                        self.change_lb(lb_uid, |lb| (lb.health, lb.flags) = (health, flags))
                    }
                    Message::SetMemberStateRequest(request) => self.set_states(&request),
                    _ => Ok(()), // no other request changes anything
                }
            }
        }
    }

    /// See [`OwnTables::clear`].
    pub(super) fn forget_own(&mut self) -> Result<()> {
        self.own.clear()
    }

    fn next_number(&mut self) -> u64 {
        self.numbers.newest += 1;
        self.numbers.newest
    }

    /// Changes a load balancer; makes it if it is new.
    fn change_lb(&mut self, lb_uid: &[u8], change: impl FnOnce(&mut LbValue)) -> Result<()> {
        let known = self.lbs.get(lb_uid)?.map(|value| LbValue::read(value.value())).transpose()?;
        let mut value = known.unwrap_or_else(|| LbValue {
            number: self.next_number(),
            held_until: None,
            health: Health::default(),
            flags: LbFlags::NONE,
        });
        change(&mut value);
        self.lbs.insert(lb_uid, &value.write()[..])?;
        Ok(())
    }

    fn say(&mut self, word: &Word, epoch: Epoch) -> Result<()> {
        self.numbers.last_word = self.numbers.last_word.max(word.number);
        self.words.insert(word.number, &rows::write_word(word, epoch)[..])?;
        Ok(())
    }

    fn judge(
        &mut self,
        endpoint: &Endpoint,
        verdicts: &[Verdict; Policy::ALL.len()],
        ramp_until: Option<Date>,
    ) -> Result<()> {
        let value = rows::write_last(verdicts, ramp_until);
        self.verdicts.insert(&rows::endpoint_key(endpoint)[..], &value[..])?;
        Ok(())
    }

    fn find_group(&self, data: GroupData<'_>) -> Result<Option<u64>> {
        Ok(self.groups.get(&rows::group_key(data)[..])?.map(|number| number.value()))
    }

    fn register(&mut self, request: &RegistrationRequest<'_>) -> Result<()> {
        let by_lb = request.flags.contains(SenderFlags::LOAD_BALANCER);
        for group in request.groups {
            let number = match self.find_group(group.data)? {
                Some(number) => number,
                None => self.create_group(group.data)?,
            };
            self.add_members(number, group.entries().map(|member| (member.endpoint, by_lb, member.label)))?;
        }
        Ok(())
    }

    fn create_group(&mut self, data: GroupData<'_>) -> Result<u64> {
        let number = self.next_number();
        self.groups.insert(&rows::group_key(data)[..], number)?;
        Ok(number)
    }

    /// Adds members after those that the group has.
    fn add_members<'m>(&mut self, group: u64, members: impl Iterator<Item = (Endpoint, bool, &'m [u8])>) -> Result<()> {
        let mut members = members.peekable();
        if members.peek().is_none() {
            return Ok(());
        }
        let last = self.chunks.range((group, 0)..=(group, u32::MAX))?.next_back().transpose()?;
        let (mut at, mut chunk) = last.map_or((0, Vec::new()), |(key, value)| (key.value().1, value.value().to_vec()));
        for (endpoint, by_lb, label) in members {
            if !chunk.is_empty() && chunk.len() + rows::member_bytes(label) > CHUNK_BYTES {
                self.chunks.insert((group, at), &chunk[..])?;
                at = at.checked_add(1).ok_or_else(|| misfit("a number for more members"))?;
                chunk.clear();
            }
            rows::put_member(&mut chunk, &endpoint, by_lb, label);
        }
        self.chunks.insert((group, at), &chunk[..])?;
        Ok(())
    }

    fn deregister(&mut self, request: &DeregistrationRequest<'_>) -> Result<()> {
        for group in request.groups {
            if group.data.name.is_empty() {
                self.remove_groups(group.data.lb_uid)?;
                continue;
            }
            let number = self.find_group(group.data)?.ok_or_else(|| misfit("a group"))?;
            if group.count() == 0 {
                self.groups.remove(&rows::group_key(group.data)[..])?;
                self.remove_members_of(number)?;
            } else {
                self.remove_members(number, group.entries().map(|member| member.endpoint).collect())?;
            }
        }
        Ok(())
    }

    fn remove_groups(&mut self, lb_uid: &[u8]) -> Result<()> {
        let prefix = rows::group_prefix(lb_uid);
        let end = after(prefix.clone());
        let mut doomed = Vec::new();
        self.groups.retain_in::<&[u8], _>(&prefix[..]..&end[..], |_, number| {
            doomed.push(number);
            false
        })?;
        doomed.into_iter().try_for_each(|group| self.remove_members_of(group))
    }

    fn remove_members_of(&mut self, group: u64) -> Result<()> {
        self.chunks.retain_in((group, 0)..=(group, u32::MAX), |_, _| false)?;
        let (start, end) = (group.to_be_bytes(), (group + 1).to_be_bytes());
        self.states.retain_in::<&[u8], _>(&start[..]..&end[..], |_, _| false)?;
        Ok(())
    }

    fn remove_members(&mut self, group: u64, mut leaving: BTreeSet<Endpoint>) -> Result<()> {
        for endpoint in &leaving {
            self.states.remove(&rows::state_key(group, endpoint)[..])?;
        }
        let mut changed: Vec<(u32, Vec<u8>)> = Vec::new();
        for chunk in self.chunks.range((group, 0)..=(group, u32::MAX))? {
            if leaving.is_empty() {
                break;
            }
            let (key, value) = chunk?;
            let before = value.value();
            let mut after = Vec::with_capacity(before.len());
            for member in rows::members(before) {
                let member = member?;
                if !leaving.remove(&member.endpoint) {
                    after.extend_from_slice(member.bytes);
                }
            }
            if after.len() < before.len() {
                changed.push((key.value().1, after));
            }
        }
        if !leaving.is_empty() {
            return Err(misfit("a member"));
        }
        for (at, chunk) in changed {
            match chunk.is_empty() {
                true => self.chunks.remove((group, at))?.map(drop),
                false => self.chunks.insert((group, at), &chunk[..])?.map(drop),
            };
        }
        Ok(())
    }

    fn set_states(&mut self, request: &SetMemberStateRequest<'_>) -> Result<()> {
        for group in request.groups {
            let number = self.find_group(group.data)?.ok_or_else(|| misfit("a group"))?;
            for instance in group.entries() {
                let quiesced = instance.flags.contains(MemberFlags::QUIESCE);
                self.set_state(number, &instance.member.endpoint, instance.state, quiesced)?;
            }
        }
        Ok(())
    }

    fn set_state(&mut self, group: u64, member: &Endpoint, state: u8, quiesced: bool) -> Result<()> {
        let key = rows::state_key(group, member);
        match (state, quiesced) {
            (0, false) => self.states.remove(&key[..])?.map(drop),
            _ => self.states.insert(&key[..], &[state, quiesced.into()][..])?.map(drop),
        };
        Ok(())
    }

    /// Writes a load balancer that is not there, with its groups.
    fn put_whole(&mut self, uid: &[u8], Whole { lb, groups }: &Whole, epoch: Epoch) -> Result<()> {
        let held_until = match lb.place {
            Place::Held(until) => Some(Date(epoch.date(until).0.max(1))),
            Place::Here | Place::Elsewhere(_) => None,
        };
        self.put(&Row::LoadBalancer { uid: uid.into(), health: lb.health, flags: lb.flags, held_until }, epoch)?;
        groups.iter().try_for_each(|(name, members)| {
            self.put(&Row::Group { lb_uid: uid.into(), name: name.clone(), members: members.clone() }, epoch)
        })
    }

    /// Writes a row that is not there.
    pub(super) fn put(&mut self, row: &Row, epoch: Epoch) -> Result<()> {
        let double = |what: &str| StoreError::Damaged(format!("{what} is there twice"));
        match row {
            Row::Word(word) => {
                if self.words.get(word.number)?.is_some() {
                    return Err(double("a word"));
                }
                self.say(word, epoch)
            }
            Row::Verdicts { endpoint, verdicts, ramp_until } => self.judge(endpoint, verdicts, *ramp_until),
            Row::LoadBalancer { uid, health, flags, held_until } => {
                if self.lbs.get(&**uid)?.is_some() {
                    return Err(double("a load balancer"));
                }
                self.change_lb(uid, |lb| (lb.health, lb.flags, lb.held_until) = (*health, *flags, *held_until))
            }
            Row::Group { lb_uid, name, members } => {
                let data = GroupData { lb_uid, name };
                if self.lbs.get(&**lb_uid)?.is_none() {
                    return Err(misfit("the load balancer of a group"));
                }
                if self.find_group(data)?.is_some() {
                    return Err(double("a group"));
                }
                let mut seen = BTreeSet::new();
                if !members.iter().all(|member| seen.insert(member.endpoint)) {
                    return Err(double("a member"));
                }
                let number = self.create_group(data)?;
                self.add_members(number, members.iter().map(|member| (member.endpoint, member.by_lb, &*member.label)))?;
                for Member { endpoint, state, quiesced, .. } in members {
                    self.set_state(number, endpoint, *state, *quiesced)?;
                }
                Ok(())
            }
        }
    }
}

/// All tables, to read them.
pub(super) struct Source {
    lbs: ReadOnlyTable<Bytes, Bytes>,
    groups: ReadOnlyTable<Bytes, u64>,
    chunks: ReadOnlyTable<(u64, u32), Bytes>,
    states: ReadOnlyTable<Bytes, Bytes>,
    words: ReadOnlyTable<u64, Bytes>,
    verdicts: ReadOnlyTable<Bytes, Bytes>,
}

impl Source {
    pub(super) fn open(transaction: &ReadTransaction) -> Result<Source> {
        open!(Source, transaction)
    }

    /// Whether there is no row in any table.
    pub(super) fn is_empty(&self) -> Result<bool> {
        let Source { lbs, groups, chunks, states, words, verdicts } = self;
        let members = groups.is_empty()? && chunks.is_empty()? && states.is_empty()?;
        Ok(members && lbs.is_empty()? && words.is_empty()? && verdicts.is_empty()?)
    }

    /// No group has a number above `newest`.
    pub(super) fn each_row(&self, epoch: Epoch, newest: u64, mut take: impl FnMut(Row) -> Result<()>) -> Result<()> {
        for word in self.words.iter()? {
            let (number, value) = word?;
            take(Row::Word(rows::read_word(number.value(), value.value(), epoch)?))?;
        }
        let mut lbs = Vec::new();
        for lb in self.lbs.iter()? {
            let (key, value) = lb?;
            lbs.push((Box::<[u8]>::from(rows::read_uid(key.value())?), LbValue::read(value.value())?));
        }
        lbs.sort_unstable_by_key(|(_, value)| value.number);
        for (uid, LbValue { held_until, health, flags, .. }) in lbs {
            take(Row::LoadBalancer { uid, health, flags, held_until })?;
        }
        let mut groups = Vec::new();
        for group in self.groups.iter()? {
            let (key, number) = group?;
            let GroupData { lb_uid, name } = rows::read_group_key(key.value())?;
            if number.value() > newest {
                return Err(StoreError::Damaged("the number of a group is wrong".into()));
            }
            groups.push((number.value(), Box::<[u8]>::from(lb_uid), Box::<[u8]>::from(name)));
        }
        // In the order of the chunks' keys, too.
        groups.sort_unstable_by_key(|(number, ..)| *number);
        let (mut chunks, mut states) = (0, 0);
        for (number, lb_uid, name) in groups {
            let members = self.members(number, &mut chunks, &mut states)?;
            take(Row::Group { lb_uid, name, members })?;
        }
        if (chunks, states) != (self.chunks.len()?, self.states.len()?) {
            return Err(StoreError::Damaged("there are members or states of no group".into()));
        }
        for verdicts in self.verdicts.iter()? {
            let (key, value) = verdicts?;
            let endpoint = rows::read_endpoint_key(key.value())?;
            let (verdicts, ramp_until) = rows::read_last(value.value())?;
            take(Row::Verdicts { endpoint, verdicts, ramp_until })?;
        }
        Ok(())
    }

    /// The members of a group; counts the chunks and states that are read.
    fn members(&self, group: u64, chunks: &mut u64, states: &mut u64) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for chunk in self.chunks.range((group, 0)..=(group, u32::MAX))? {
            *chunks += 1;
            let (_, value) = chunk?;
            for member in rows::members(value.value()) {
                let rows::InChunk { endpoint, by_lb, label, .. } = member?;
                members.push(Member { endpoint, by_lb, label: label.into(), state: 0, quiesced: false });
            }
            if members.len() > limits::MEMBERS_PER_GROUP as usize {
                return Err(StoreError::Damaged("a group has too many members".into()));
            }
        }
        let range = (group.to_be_bytes(), (group + 1).to_be_bytes());
        let mut given = HashMap::new();
        for state in self.states.range::<&[u8]>(&range.0[..]..&range.1[..])? {
            *states += 1;
            let (key, value) = state?;
            given.insert(rows::read_state_key(key.value())?.1, rows::read_state(value.value())?);
        }
        if !given.is_empty() {
            for member in &mut members {
                if let Some((state, quiesced)) = given.remove(&member.endpoint) {
                    (member.state, member.quiesced) = (state, quiesced);
                }
            }
        }
        match given.is_empty() {
            true => Ok(members),
            false => Err(StoreError::Damaged("there is a state of no member".into())),
        }
    }
}

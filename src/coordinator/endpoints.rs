//! Every distinct endpoint, once: the monitor's verdicts, the watch, and the listings that have the endpoint.

mod joined;

use std::{borrow::Cow, hash::BuildHasher, sync::Arc, time::Duration};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{
    authors::Authors,
    doubts::{Loss, Standing},
    feed::{Event, Feed},
    history::{By, History, Past, What, Who},
    ids::{Column, EndpointId, Id, ListingId, Table},
    remembered::Remembered,
    settings::Settings,
    shares::Shares,
    verdicts::{Shown, VerdictDelta, Verdicts},
    watches::{WatchOrder, Watches},
    words::{OfEndpoint, Word, Words},
    worlds::{Evidence, Sight, Turn, World, Worlds},
};
use crate::{
    judgement::{Judgement, Last, StandingChange, Verdicts as AllVerdicts, WatchId},
    network::OwnAddresses,
    roster::{Member, Roster},
    sasp::{Endpoint, EntryFlags},
    time::Time,
};

struct Record {
    endpoint: Endpoint,
    world: World,
    /// The listings that have the endpoint, in no order. A listing knows its place here. Most endpoints are in one listing;
    /// four take no memory of their own, and the field has 24 bytes with one, too.
    listings: SmallVec<[ListingId; 4]>,
}

/// A judgement that was taken.
pub(super) struct Judged {
    pub(super) endpoint: EndpointId,
    pub(super) delta: VerdictDelta,
    /// The endpoint has been up, and has lost contact or has contact again.
    pub(super) moved: bool,
}

pub(super) struct Endpoints {
    hasher: FixedState,
    index: HashTable<EndpointId>,
    records: Table<EndpointId, Record>,
    /// In memory of their own: a push reads nothing else of an endpoint.
    verdicts: Verdicts,
    watches: Watches,
    /// `None` without a fleet: this node checks all that is watched.
    pub(super) shares: Option<Box<Shares>>,
    /// The time by which every watch that has begun should have its first verdict.
    verdicts_until: Time,
    worlds: Worlds,
    own_addresses: Arc<OwnAddresses>,
    /// When endpoints lost contact last.
    losses: Column<EndpointId, Loss>,
    /// When and why the standing of endpoints changed last.
    turns: Column<EndpointId, Option<Box<(Time, StandingChange)>>>,
    /// What happened to endpoints, and what those who follow hear of it.
    pub(super) history: History,
    pub(super) feed: Feed,
    /// Judgements over a restart.
    pub(super) remembered: Remembered,
    /// The operator's words count more than the roster.
    pub(super) words: Words,
    /// Who said and ended the words that are being applied.
    pub(super) authors: Authors,
    /// The roster and `icmp` (this machine can send echoes) decide which endpoints are watched.
    roster: Arc<Roster>,
    icmp: bool,
}

impl Endpoints {
    pub(super) fn new(hasher: FixedState, settings: &Settings) -> Endpoints {
        let mut endpoints = Endpoints {
            worlds: Worlds::new(settings.panic_time, &hasher),
            hasher,
            index: HashTable::new(),
            records: Table::new(),
            verdicts: Verdicts::new(),
            watches: Watches::new(),
            shares: None,
            verdicts_until: Time::default(),
            own_addresses: settings.own_addresses.clone(),
            losses: Column::new(),
            turns: Column::new(),
            history: History::new(),
            feed: Feed::default(),
            remembered: Remembered::default(),
            words: Words::default(),
            authors: Authors::default(),
            roster: settings.roster.clone(),
            icmp: settings.icmp,
        };
        // No group lists a witness.
        for witness in settings.roster.witnesses() {
            endpoints.intern(Time::default(), witness);
        }
        endpoints
    }

    /// How many endpoints groups list.
    pub(super) fn len(&self) -> usize {
        self.records.len() - self.roster.witnesses().count()
    }

    pub(super) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    pub(super) fn find(&self, endpoint: &Endpoint) -> Option<EndpointId> {
        let hash = self.hasher.hash_one(endpoint);
        self.index.find(hash, |&id| self.records[id].endpoint == *endpoint).copied()
    }

    /// The endpoint's id. A new endpoint must be linked next.
    pub(super) fn intern(&mut self, now: Time, endpoint: Endpoint) -> EndpointId {
        let Endpoints { hasher, index, records, .. } = self;
        let entry = index.entry(
            hasher.hash_one(endpoint),
            |&id| records[id].endpoint == endpoint,
            |&id| hasher.hash_one(records[id].endpoint),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(found) => *found.get(),
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                let world = world(&self.own_addresses, &endpoint);
                let id = records.insert(Record { endpoint, world, listings: SmallVec::new() });
                vacant.insert(id);
                if let Some(turn) = self.turns.get_mut(id) {
                    *turn = None;
                }
                let member = member(&self.roster, &self.words, &endpoint);
                self.verdicts.reset(id, &member, self.starts_unsure(world));
                if self.is_watchable(&endpoint) {
                    self.begin_watch(now, id);
                    self.join(now, id);
                }
                if self.history.is_on() {
                    self.history.forget(id);
                    self.remember(now, id, What::Registered);
                }
                id
            }
        }
    }

    fn begin_watch(&mut self, now: Time, id: EndpointId) {
        let here = self.is_mine(&self.records[id].endpoint);
        self.watches.begin(id, here);
        let times = self.roster.find(&self.records[id].endpoint).times;
        self.verdicts_until = self.verdicts_until.max(now + times.fall_window());
    }

    /// From the begin of a watch to the result of the first check, for the first of these members that waits for its
    /// first verdict; `None` if none of them does.
    pub(super) fn first_verdict(&self, now: Time, mut members: impl Iterator<Item = EndpointId>) -> Option<Duration> {
        if now >= self.verdicts_until {
            return None; // a check without a result keeps no load balancer asking
        }
        let waits = members.find(|&id| !self.verdicts.is_judged(id) && self.watches.is_wanted(id))?;
        Some(self.roster.find(&self.records[waits].endpoint).times.interval)
    }

    /// Adds a listing to the endpoint's list; gives the listing's place.
    pub(super) fn link(&mut self, id: EndpointId, listing: ListingId) -> u32 {
        let listings = &mut self.records[id].listings;
        listings.push(listing);
        listings.len() as u32 - 1
    }

    /// Removes the listing at `place`. An endpoint without listings is forgotten, unless it is a witness. If another
    /// listing moves to `place`, the caller gets its id and must tell that listing.
    pub(super) fn unlink(&mut self, id: EndpointId, place: u32) -> Option<ListingId> {
        let record = &mut self.records[id];
        record.listings.swap_remove(place as usize);
        if record.listings.is_empty() && !self.roster.is_witness(&record.endpoint) {
            let hash = self.hasher.hash_one(record.endpoint);
            if let Ok(found) = self.index.find_entry(hash, |&other| other == id) {
                found.remove();
            }
            self.end_watch(id);
            self.history.forget(id);
            self.remembered.forget(id, self.records[id].endpoint);
            self.records.remove(id);
            return None;
        }
        record.listings.get(place as usize).copied()
    }

    /// The listings that have the endpoint.
    pub(super) fn listings(&self, id: EndpointId) -> &[ListingId] {
        &self.records[id].listings
    }

    pub(super) fn endpoint(&self, id: EndpointId) -> Endpoint {
        self.records[id].endpoint
    }

    /// The value in a farewell, which tells an LB that a membership of the endpoint has ended.
    pub(super) fn last_word(&self, id: EndpointId) -> Shown {
        let quiesced = member(&self.roster, &self.words, &self.endpoint(id)).quiesced;
        Shown { flags: EntryFlags::CONFIDENT.with(EntryFlags::QUIESCED, quiesced), weight: 0 }
    }

    /// Whether a check applies to the endpoint and the operator has not fixed its weight.
    fn is_watchable(&self, endpoint: &Endpoint) -> bool {
        let member = self.roster.find(endpoint);
        if self.roster.is_witness(endpoint) {
            return !self.roster.checks(endpoint, self.icmp).is_empty();
        }
        let monitored = member.monitor.auto || !member.monitor.checks.is_empty();
        let fixed = member.fixed || self.operator_says(endpoint).weight.is_some();
        !fixed && monitored && !self.roster.checks(endpoint, self.icmp).is_empty()
    }

    /// Puts a new roster in force; the caller must [reassess](Endpoints::reassess) every endpoint next.
    pub(super) fn set_roster(&mut self, roster: Arc<Roster>) {
        self.roster = roster;
    }

    /// All ids are below this number; some may belong to no endpoint.
    pub(super) fn ids(&self) -> usize {
        self.records.end()
    }

    /// Applies the roster to one endpoint; `None` if no endpoint has this id.
    pub(super) fn reassess(&mut self, now: Time, id: EndpointId) -> Option<Judged> {
        let endpoint = self.records.get(id)?.endpoint;
        let (is, was) = (self.is_watchable(&endpoint), self.watches.is_wanted(id));
        if !(is && was) {
            match is {
                true => self.begin_watch(now, id),
                false => self.end_watch(id),
            }
        }
        let member = member(&self.roster, &self.words, &endpoint);
        let before = self.verdicts.settled(id);
        let mut delta = match is && was {
            true => self.verdicts.reassess(id, &member),
            false => self.verdicts.reset(id, &member, self.starts_unsure(self.records[id].world)),
        };
        let mut moved = false;
        if is && self.shares.is_some() {
            self.share(id);
            if let Some(joined) = self.join(now, id) {
                (delta, moved) = (delta | joined.delta, joined.moved);
            }
        }
        let after = self.verdicts.settled(id);
        if self.history.is_on() && !delta.words.is_empty() {
            let what = self.settled(&endpoint, before, after);
            self.remember(now, id, what);
        }
        Some(Judged { endpoint: id, delta, moved })
    }

    /// What happened to an endpoint that was, and is, quiesced by file or word, or has a fixed weight.
    fn settled(&self, endpoint: &Endpoint, before: (bool, bool), after: (bool, bool)) -> What {
        let who =
            |operator: Option<Box<str>>| Box::new(Who { by: operator.map_or(By::File, By::Operator), group: None });
        let said = |word: Option<&Arc<Word>>| word.map(|word| word.author().into());
        match (before, after) {
            ((false, _), (true, _)) => What::Quiesced(who(said(self.words.quiescing_endpoint(endpoint)))),
            ((true, _), (false, _)) => What::Resumed(who(self.authors.of_resume(None, endpoint))),
            ((_, true), (_, false)) => What::Released(who(self.authors.of_release(endpoint))),
            // A fixed weight that changes is fixed by another word.
            (_, (_, true)) => What::Fixed(who(said(self.words.fixing(endpoint)))),
            _ => What::Verdicts,
        }
    }

    /// What the operator's words say of an endpoint.
    pub(super) fn operator_says(&self, endpoint: &Endpoint) -> OfEndpoint {
        if self.words.is_empty() { OfEndpoint::default() } else { self.words.of_endpoint(endpoint) }
    }

    /// Keeps what happened to an endpoint, for those who ask and those who follow.
    pub(super) fn remember(&mut self, now: Time, id: EndpointId, what: What) {
        if self.history.is_on() {
            self.history.note(id, Past { at: now, what, verdicts: self.verdicts.of(id) });
        }
        self.feed.note(|| Event::Endpoint(self.records[id].endpoint));
    }

    /// The endpoint with this id; `None` if there is none.
    pub(super) fn get(&self, id: EndpointId) -> Option<&Endpoint> {
        self.records.get(id).map(|record| &record.endpoint)
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    pub(super) fn watches(&self) -> &Watches {
        &self.watches
    }

    fn end_watch(&mut self, id: EndpointId) {
        let Record { endpoint, world, .. } = self.records[id];
        self.worlds.note(world, self.address(id), self.watches.evidence(id), Evidence::NONE);
        self.watches.end(id);
        if let Some(shares) = &mut self.shares {
            shares.end_own(id, endpoint);
        }
    }

    /// Takes the verdicts that count, this node's or those of the whole fleet.
    fn take_verdicts(&mut self, now: Time, id: EndpointId, verdicts: &AllVerdicts) -> Judged {
        let Record { endpoint, world, .. } = self.records[id];
        let mut delta = self.verdicts.set(id, verdicts);
        self.remembered.judged(id, !delta.words.is_empty());
        let (contact, up) = (has_contact(verdicts), is_up(verdicts));
        let before = self.watches.has_contact(id);
        self.watches.stands(id, contact, up);
        if before && !contact {
            let times = &self.roster.find(&endpoint).times;
            let since = Time(now.0.saturating_sub(times.fall_window().as_nanos() as u64));
            self.losses.set(id, Loss { at: now, since });
            self.worlds.lose(world, times);
        }
        if before != contact {
            delta = delta | self.verdicts.set_lost(id, !contact);
        }
        Judged { endpoint: id, delta, moved: before != contact && self.watches.has_been_up(id) }
    }

    /// Takes a judgement. A judgement about an endpoint that is no longer watched under this name changes nothing.
    pub(super) fn take_judgement(&mut self, now: Time, judgement: &Judgement) -> Option<Judged> {
        let id = self.watches.find(judgement.watch)?;
        let Record { endpoint, world, .. } = self.records[id];
        let contact = has_contact(&judgement.verdicts);
        self.remembered.ramps(id, judgement.ramp_until);
        if let Some(turn) = &judgement.turn {
            self.turns.set(id, Some(Box::new((now, (**turn).clone()))));
        }
        let before = self.watches.evidence(id);
        self.watches.found(id, contact, judgement.answers);
        self.worlds.note(world, self.address(id), before, self.watches.evidence(id));
        let judged = if self.shares.is_some() {
            if before.contact && !contact {
                self.worlds.lose(world, &self.roster.find(&endpoint).times);
            }
            self.take_own(now, id, &judgement.verdicts)
        } else {
            let mut judged = self.take_verdicts(now, id, &judgement.verdicts);
            if contact && self.worlds.sight(world) != Sight::Blind {
                judged.delta = judged.delta | self.verdicts.set_unsure(id, false);
            }
            Some(judged)
        };
        let delta = judged.as_ref().map_or(VerdictDelta::default(), |judged| judged.delta);
        if self.history.is_on() {
            match &judgement.turn {
                Some(turn) => self.remember(now, id, What::Standing((**turn).clone())),
                None if !delta.words.is_empty() => self.remember(now, id, What::Verdicts),
                None => {}
            }
        }
        judged
    }

    /// Gives a watched endpoint the verdicts of an earlier process, which last counted so long ago: until they are older than
    /// the fall window. `None` if the endpoint is not watched.
    pub(super) fn restore(
        &mut self,
        now: Time,
        endpoint: &Endpoint,
        last: &Last,
        age: Duration,
    ) -> Option<(EndpointId, VerdictDelta)> {
        let id = self.find(endpoint).filter(|&id| self.watches.is_wanted(id) && !self.verdicts.is_judged(id))?;
        let left = self.roster.find(endpoint).times.fall_window().saturating_sub(age);
        self.remembered.restored(id, now + left, last.earlier());
        Some((id, self.verdicts.restore(id, &last.verdicts)))
    }

    /// Verdicts of an earlier process are too old to count.
    pub(super) fn outlive(&mut self, id: EndpointId) -> VerdictDelta {
        self.verdicts.outlive(id)
    }

    /// The endpoint that has this watch.
    pub(super) fn watched_as(&self, watch: WatchId) -> Option<EndpointId> {
        self.watches.find(watch)
    }

    /// When and why the endpoint's standing changed last.
    pub(super) fn last_turn(&self, id: EndpointId) -> Option<&(Time, StandingChange)> {
        self.turns.get(id)?.as_deref()
    }

    /// The endpoint's address in one spelling.
    fn address(&self, id: EndpointId) -> [u8; 16] {
        self.records[id].endpoint.canonical().address
    }

    /// How many endpoints may be [lost](Standing::Lost) at most.
    pub(super) fn lost(&self) -> u32 {
        self.watches.lost()
    }

    /// What the rule of doubt needs of an endpoint.
    pub(super) fn standing(&self, id: EndpointId) -> Standing {
        if !self.watches.has_been_up(id) || self.verdicts.is_unsure(id) {
            return Standing::Unknown;
        }
        match self.watches.has_contact(id) {
            true => Standing::Up,
            false => Standing::Lost(self.losses[id], self.address(id)),
        }
    }

    /// Whether the endpoint was up, and has lost contact so lately that there may be doubt about a group which lists it now.
    pub(super) fn is_lost_lately(&self, now: Time, id: EndpointId) -> bool {
        let Standing::Lost(loss, _) = self.standing(id) else { return false };
        loss.at + self.worlds.lately(self.records[id].world) > now
    }

    /// Applies the rule of blindness to a world; whether entries of any group may be shown in another way now.
    pub(super) fn decide(&mut self, now: Time, world: World) -> bool {
        let Some(turn) = self.worlds.decide(now, world) else { return false };
        if self.shares.is_some() {
            return true; // the verdicts of all nodes are joined again
        }
        for id in (0..self.records.end()).map(EndpointId::at) {
            if self.records.get(id).is_none_or(|record| record.world != world) {
                continue;
            }
            if turn == Turn::Blinded {
                self.forget_old_loss(now, id);
            }
            let unsure = match turn {
                Turn::Blinded => true,
                Turn::Answered => self.verdicts.is_lost(id),
                Turn::Recovered => false,
            };
            self.verdicts.set_unsure(id, unsure);
        }
        true
    }

    /// A loss of contact that is not recent is no part of a blindness or doubt that begins now.
    pub(super) fn forget_old_loss(&mut self, now: Time, id: EndpointId) -> VerdictDelta {
        if self.verdicts.is_lost(id) && self.losses[id].at + self.worlds.lately(self.records[id].world) <= now {
            return self.verdicts.set_lost(id, false);
        }
        VerdictDelta::default()
    }

    /// Replaces the addresses of this machine. The rule of blindness must be applied next.
    pub(super) fn set_own_addresses(&mut self, own_addresses: Arc<OwnAddresses>) {
        self.own_addresses = own_addresses;
        for id in (0..self.records.end()).map(EndpointId::at) {
            let Some(record) = self.records.get_mut(id) else { continue };
            let (endpoint, before) = (record.endpoint, record.world);
            let after = world(&self.own_addresses, &endpoint);
            if before != after {
                record.world = after;
                let (address, evidence) = (self.address(id), self.watches.evidence(id));
                self.worlds.note(before, address, evidence, Evidence::NONE);
                self.worlds.note(after, address, Evidence::NONE, evidence);
                self.verdicts.set_unsure(id, self.starts_unsure(after));
            }
        }
    }

    /// When the rule of blindness has to be applied though nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.worlds.next_deadline()
    }

    pub(super) fn is_blind(&self, world: World) -> bool {
        self.worlds.sight(world) == Sight::Blind
    }

    /// How many endpoints are watched, witnesses too.
    pub(super) fn watched(&self) -> usize {
        self.watches.len()
    }

    /// How many endpoints answer, witnesses too.
    pub(super) fn answering(&self) -> usize {
        World::ALL.iter().map(|&world| self.worlds.answering(world)).sum()
    }

    pub(super) fn has_orders(&self) -> bool {
        self.watches.has_orders()
    }

    /// Takes the next endpoint's watch orders, for `shards` shards.
    pub(super) fn take_orders(&mut self, shards: u16) -> [Option<WatchOrder>; 2] {
        let Endpoints { hasher, records, watches, remembered, .. } = self;
        watches.take(|id| {
            let endpoint = records[id].endpoint;
            let shard = hasher.hash_one(endpoint) % u64::from(shards);
            (shard as u16, endpoint, remembered.earlier(id))
        })
    }
}

/// The settings of an endpoint: the operator's words count more than the roster.
fn member<'a>(roster: &'a Roster, words: &Words, endpoint: &Endpoint) -> Cow<'a, Member> {
    let member = roster.find(endpoint);
    if words.is_empty() {
        return Cow::Borrowed(member);
    }
    let OfEndpoint { quiesced, weight } = words.of_endpoint(endpoint);
    if !quiesced && weight.is_none() {
        return Cow::Borrowed(member);
    }
    let mut said = Member { quiesced: quiesced || member.quiesced, ..(**member).clone() };
    if let Some(weight) = weight {
        (said.fixed, said.capacity) = (true, weight);
    }
    Cow::Owned(said)
}

/// Some policies ignore the agent. An endpoint has lost contact if no policy shows contact.
fn has_contact(verdicts: &AllVerdicts) -> bool {
    verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT))
}

fn is_up(verdicts: &AllVerdicts) -> bool {
    verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT | EntryFlags::CONFIDENT))
}

/// The world of an endpoint.
fn world(own_addresses: &OwnAddresses, endpoint: &Endpoint) -> World {
    if own_addresses.contains(endpoint.ip()) { World::Own } else { World::Foreign }
}

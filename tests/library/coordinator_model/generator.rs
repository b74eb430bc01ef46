//! Random requests about few names, so that requests concern the same things; most are nearly right.

use std::{collections::HashSet, sync::Arc, time::Duration};

use fastrand::Rng;
use gwm::{
    coordinator::ConnectionId,
    judgement::{Level, Policy, Share, Verdict},
    network::OwnAddresses,
    pattern::Pattern,
    roster::{Member, Monitor, Roster, Times},
    sasp::{Endpoint, EntryFlags},
};

use super::model::Model;
use crate::wire::{Item, LB, NO_CHANGE, Named, PUSH, Request, TRUST, endpoint};

/// The names that requests use.
pub(crate) struct Universe {
    pub(crate) endpoints: Vec<Endpoint>,
    /// The most members that a request lists in a group.
    items: usize,
}

impl Universe {
    /// Few endpoints, so that requests concern the same ones.
    pub(crate) fn narrow() -> Universe {
        Universe { endpoints: ["a", "b", "c", "d", "a/udp", "a/sys"].map(endpoint).into(), items: 3 }
    }

    /// Many members, always the same: groups of different load balancers become equal.
    fn farm(&self) -> Vec<Item> {
        let item = |endpoint: &Endpoint| Item { endpoint: *endpoint, label: Vec::new(), state: 0, flags: 0 };
        self.endpoints.iter().take(20).map(item).collect()
    }

    /// Enough endpoints for groups with an index.
    pub(crate) fn wide() -> Universe {
        let names = ('a'..='x').flat_map(|letter| ["", "/udp", "/0", "/sys"].map(|kind| format!("{letter}{kind}")));
        Universe { endpoints: names.map(|name| endpoint(&name)).collect(), items: 25 }
    }
}

/// A random roster. The fall window is 8 to 26.
pub(crate) fn roster(rng: &mut Rng, universe: &Universe) -> Arc<Roster> {
    let policy = |rng: &mut Rng| Policy::ALL[rng.usize(..4)];
    let nanoseconds = Duration::from_nanos;
    let times = Times {
        interval: nanoseconds(5),
        fast_interval: nanoseconds([2, 10][rng.usize(..2)]),
        timeout: nanoseconds(1),
        rise: 1,
        fall: rng.u8(2..4),
    };
    let member = |rng: &mut Rng, watched| {
        let capacity = [0, 1, 40, 0xFFFF][rng.usize(..4)];
        let member = match chance(rng, watched) {
            true => Member::watched(capacity.max(1), Monitor::auto(), times),
            false if rng.bool() => Member::fixed(capacity),
            false => Member::unknown(capacity),
        };
        Member { quiesced: chance(rng, 15), ..member }
    };
    let usual = Member { fixed: false, quiesced: false, ..member(rng, 85) };
    let mut roster = Roster::new(usual, policy(rng));
    for endpoint in &universe.endpoints {
        if chance(rng, 30) {
            assert!(roster.add(*endpoint, member(rng, 50)));
        }
    }
    if rng.bool() {
        roster.add_group(Pattern::parse("G").unwrap(), policy(rng));
    }
    Arc::new(roster)
}

/// Random verdicts on an endpoint; `bad` is the percentage of bad ones.
pub(crate) fn verdicts(rng: &mut Rng, bad_percent: u32, weight_max: u16) -> [Verdict; 4] {
    let share = |rng: &mut Rng| match rng.u8(0..10) {
        0..4 => Share::Weight([0, 1, weight_max / 2, weight_max][rng.usize(..4)]),
        // From a hundredth of a dead band to thousands of times.
        _ => Share::Rate(Level([20_000, 20_001, 20_060, 20_300, 21_000, 30_000][rng.usize(..6)])),
    };
    let flags = |rng: &mut Rng| match chance(rng, bad_percent) {
        true => EntryFlags::CONFIDENT,
        false if chance(rng, 85) => EntryFlags::CONTACT | EntryFlags::CONFIDENT,
        false => EntryFlags::CONTACT,
    };
    let usual = Verdict { flags: flags(rng), share: share(rng) };
    std::array::from_fn(|_| match rng.u8(0..10) {
        0 => Verdict { flags: flags(rng), share: share(rng) },
        1 => Verdict { share: share(rng), ..usual },
        _ => usual,
    })
}

/// Mostly an endpoint answers if it is up.
pub(crate) fn answers(rng: &mut Rng, verdicts: &[Verdict; 4]) -> bool {
    let up = EntryFlags::CONTACT | EntryFlags::CONFIDENT;
    verdicts.iter().any(|verdict| verdict.flags.contains(up)) || chance(rng, 15)
}

/// Sometimes `a` and `b`, or one of them, are addresses of this machine.
pub(crate) fn own_addresses(rng: &mut Rng) -> Arc<OwnAddresses> {
    let own = [("a", 40), ("b", 40)].into_iter().filter(|(_, percent)| chance(rng, *percent));
    Arc::new(own.map(|(name, _)| endpoint(name).ip()).collect())
}

pub(crate) const UIDS: [&str; 4] = ["LB1", "LB2", "LB3", "LB4"];
const NAMES: [&str; 3] = ["G", "H", "I"];

/// A random request on this connection.
pub(crate) fn request(rng: &mut Rng, universe: &Universe, model: &Model, on: ConnectionId) -> Request {
    let connection = model.connections.iter().find(|connection| connection.id == on).expect("it is open");
    // There are enough takeovers without this.
    let from_lb = chance(rng, if connection.bound.is_some() { 70 } else { 25 });
    let bound = connection.bound.clone().filter(|_| chance(rng, 95));
    let uid = match bound {
        Some(bound) if from_lb => bound,
        _ => uid(rng),
    };
    let reserved = if chance(rng, 20) { rng.u8(..) & !LB } else { 0 };
    let flags = (u8::from(from_lb) * LB) | reserved;
    match rng.u8(0..100) {
        0..28 => {
            Request::Register { flags, groups: groups(rng, &uid, |rng, uid| to_register(rng, universe, model, uid)) }
        }
        28..44 => {
            let reason = if chance(rng, 20) { rng.u8(..) } else { 0 };
            Request::Deregister {
                flags,
                reason,
                groups: groups(rng, &uid, |rng, uid| to_deregister(rng, universe, model, uid)),
            }
        }
        44..66 => Request::GetWeights { groups: groups(rng, &uid, |rng, _| (name_or_all(rng, 35), Vec::new())) },
        66..76 => {
            let flag = |rng: &mut Rng, flag, percent| if chance(rng, percent) { flag } else { 0 };
            let lb_flags = flag(rng, PUSH, 80) | flag(rng, TRUST, 80) | flag(rng, NO_CHANGE, 45);
            let reserved = if chance(rng, 10) { rng.u8(..) & !7 } else { 0 };
            Request::SetLbState { uid, health: rng.u8(..), flags: lb_flags | reserved }
        }
        _ => Request::SetMemberState { flags, groups: groups(rng, &uid, |rng, uid| to_set(rng, universe, model, uid)) },
    }
}

fn groups(rng: &mut Rng, uid: &[u8], content: impl Fn(&mut Rng, &[u8]) -> (Vec<u8>, Vec<Item>)) -> Vec<Named> {
    let count = match rng.u8(0..100) {
        0..2 => 0,
        2..62 => 1,
        62..88 => 2,
        _ => 3,
    };
    let groups = (0..count).map(|_| {
        let uid = if chance(rng, 92) { uid.to_vec() } else { self::uid(rng) };
        let (name, items) = content(rng, &uid);
        Named { uid, name, items }
    });
    groups.collect()
}

fn to_register(rng: &mut Rng, universe: &Universe, model: &Model, uid: &[u8]) -> (Vec<u8>, Vec<Item>) {
    let name = name_or_all(rng, 1);
    let there = members(model, uid, &name);
    let mut items = match universe.items > 3 && chance(rng, 50) {
        true => universe.farm(),
        false => items(rng, universe),
    };
    if chance(rng, 75) {
        items.retain(|item| !there.contains(&item.endpoint));
    }
    (name, items)
}

fn to_deregister(rng: &mut Rng, universe: &Universe, model: &Model, uid: &[u8]) -> (Vec<u8>, Vec<Item>) {
    let name = name_or_all(rng, 8);
    let items = if chance(rng, 15) { Vec::new() } else { items(rng, universe) };
    let items = if name.is_empty() && chance(rng, 85) { Vec::new() } else { known(rng, model, uid, &name, items) };
    (name, items)
}

fn to_set(rng: &mut Rng, universe: &Universe, model: &Model, uid: &[u8]) -> (Vec<u8>, Vec<Item>) {
    let name = name_or_all(rng, 1);
    let items = items(rng, universe);
    let items = known(rng, model, uid, &name, items);
    (name, items)
}

/// Mostly members that exist, otherwise any.
fn known(rng: &mut Rng, model: &Model, uid: &[u8], name: &[u8], mut items: Vec<Item>) -> Vec<Item> {
    let there = members(model, uid, name);
    if !there.is_empty() && chance(rng, 85) {
        let mut there = there;
        rng.shuffle(&mut there);
        // Sometimes, after the last one, they repeat.
        items.truncate(there.len() + usize::from(chance(rng, 20)));
        items.iter_mut().zip(there.iter().cycle()).for_each(|(item, there)| item.endpoint = *there);
    }
    items
}

fn members(model: &Model, uid: &[u8], name: &[u8]) -> Vec<Endpoint> {
    let group = model.lbs.get(uid).and_then(|lb| lb.group(name));
    group.map_or(Vec::new(), |group| group.members.iter().map(|member| member.endpoint).collect())
}

fn items(rng: &mut Rng, universe: &Universe) -> Vec<Item> {
    let count = match rng.u8(0..100) {
        0..10 => 0,
        10..65 => 1,
        65..88 => 2,
        _ => rng.usize(3..=universe.items),
    };
    let items = (0..count).map(|_| Item {
        endpoint: universe.endpoints[rng.usize(..universe.endpoints.len())],
        label: match rng.u8(0..4) {
            0 => b"label".to_vec(),
            1 => b"\xFF\0".to_vec(),
            _ => Vec::new(),
        },
        // Few values, so that a change often restores an earlier value.
        state: [0, 0, 1, 0xFF][rng.usize(..4)],
        flags: u8::from(chance(rng, 30)) | if chance(rng, 10) { rng.u8(..) & !1 } else { 0 },
    });
    let mut items: Vec<Item> = items.collect();
    if chance(rng, 80) {
        let mut seen = HashSet::new();
        items.retain(|item| seen.insert(item.endpoint));
    }
    items
}

fn uid(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(0..100) {
        0 => Vec::new(),
        1 => vec![b'x'; 65],
        _ => UIDS[[0, 0, 0, 1, 1, 2, 2, 3][rng.usize(..8)]].into(),
    }
}

fn name_or_all(rng: &mut Rng, all_percent: u32) -> Vec<u8> {
    if chance(rng, all_percent) { Vec::new() } else { NAMES[[0, 0, 0, 1, 1, 2][rng.usize(..6)]].into() }
}

pub(crate) fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(0..100) < percent
}

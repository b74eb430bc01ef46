//! Random requests in a universe so small that they meet each other, most of them nearly right.

use fastrand::Rng;
use gwm::coordinator::ConnectionId;

use crate::{
    model::Model,
    wire::{Item, LB, NO_CHANGE, Named, PUSH, Request, TRUST, endpoint},
};

pub(crate) const ENDPOINTS: [&str; 6] = ["a", "b", "c", "d", "a/udp", "a/sys"];
const UIDS: [&str; 4] = ["LB1", "LB2", "LB3", "LB4"];
const NAMES: [&str; 3] = ["G", "H", "I"];

/// A request that may come on this connection.
pub(crate) fn request(rng: &mut Rng, model: &Model, on: ConnectionId) -> Request {
    let connection = model.connections.iter().find(|connection| connection.id == on).expect("it is open");
    let from_lb = chance(rng, 65);
    let bound = connection.bound.clone().filter(|_| chance(rng, 95));
    let uid = match bound {
        Some(bound) if from_lb => bound,
        _ => uid(rng),
    };
    let reserved = if chance(rng, 20) { rng.u8(..) & !LB } else { 0 };
    let flags = u8::from(from_lb) * LB | reserved;
    match rng.u8(0..100) {
        0..28 => Request::Register { flags, groups: groups(rng, &uid, |rng, uid| to_register(rng, model, uid)) },
        28..44 => {
            let reason = if chance(rng, 20) { rng.u8(..) } else { 0 };
            Request::Deregister { flags, reason, groups: groups(rng, &uid, |rng, uid| to_deregister(rng, model, uid)) }
        }
        44..66 => Request::GetWeights { groups: groups(rng, &uid, |rng, _| (name_or_all(rng, 35), Vec::new())) },
        66..76 => {
            let flag = |rng: &mut Rng, flag, percent| if chance(rng, percent) { flag } else { 0 };
            let lb_flags = flag(rng, PUSH, 80) | flag(rng, TRUST, 80) | flag(rng, NO_CHANGE, 45);
            let reserved = if chance(rng, 10) { rng.u8(..) & !7 } else { 0 };
            Request::SetLbState { uid, health: rng.u8(..), flags: lb_flags | reserved }
        }
        _ => Request::SetMemberState { flags, groups: groups(rng, &uid, |rng, uid| to_set(rng, model, uid)) },
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

fn to_register(rng: &mut Rng, model: &Model, uid: &[u8]) -> (Vec<u8>, Vec<Item>) {
    let name = name_or_all(rng, 1);
    let there = members(model, uid, &name);
    let mut items = items(rng);
    if chance(rng, 75) {
        items.retain(|item| !there.contains(&item.endpoint));
    }
    (name, items)
}

fn to_deregister(rng: &mut Rng, model: &Model, uid: &[u8]) -> (Vec<u8>, Vec<Item>) {
    let name = name_or_all(rng, 8);
    let items = if chance(rng, 15) { Vec::new() } else { items(rng) };
    let items = if name.is_empty() && chance(rng, 85) { Vec::new() } else { known(rng, model, uid, &name, items) };
    (name, items)
}

fn to_set(rng: &mut Rng, model: &Model, uid: &[u8]) -> (Vec<u8>, Vec<Item>) {
    let name = name_or_all(rng, 1);
    let items = items(rng);
    let items = known(rng, model, uid, &name, items);
    (name, items)
}

/// Mostly members that are there instead of any.
fn known(rng: &mut Rng, model: &Model, uid: &[u8], name: &[u8], mut items: Vec<Item>) -> Vec<Item> {
    let there = members(model, uid, name);
    if !there.is_empty() && chance(rng, 85) {
        items.iter_mut().for_each(|item| item.endpoint = there[rng.usize(..there.len())]);
    }
    items
}

fn members(model: &Model, uid: &[u8], name: &[u8]) -> Vec<gwm::sasp::Endpoint> {
    let group = model.lbs.get(uid).and_then(|lb| lb.group(name));
    group.map_or(Vec::new(), |group| group.members.iter().map(|member| member.endpoint).collect())
}

fn items(rng: &mut Rng) -> Vec<Item> {
    let count = match rng.u8(0..100) {
        0..10 => 0,
        10..65 => 1,
        65..88 => 2,
        _ => 3,
    };
    let items = (0..count).map(|_| Item {
        endpoint: endpoint(ENDPOINTS[rng.usize(..ENDPOINTS.len())]),
        label: match rng.u8(0..4) {
            0 => b"label".to_vec(),
            1 => b"\xFF\0".to_vec(),
            _ => Vec::new(),
        },
        // Few values, so that a change often goes back to what was before.
        state: [0, 0, 1, 0xFF][rng.usize(..4)],
        flags: u8::from(chance(rng, 30)) | if chance(rng, 10) { rng.u8(..) & !1 } else { 0 },
    });
    items.collect()
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

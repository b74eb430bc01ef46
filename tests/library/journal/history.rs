//! Random entries that fit each other, as a coordinator makes them.

use std::collections::BTreeMap;

use fastrand::Rng;
use gwm::{
    coordinator::{Pattern, Saying, Time, Word},
    journal::Entry,
    judgement::{Last, Level, Share, Verdict},
    sasp::{
        Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Reason, SenderFlags,
        Writer, writer,
    },
};

/// Load balancers → groups → members.
#[derive(Default)]
pub(super) struct History {
    lbs: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<Endpoint>>>,
    words: Vec<u64>,
    last_word: u64,
}

fn pick<'a, T>(rng: &mut Rng, list: impl ExactSizeIterator<Item = &'a T>) -> Option<&'a T> {
    let count = list.len();
    if count == 0 { None } else { list.into_iter().nth(rng.usize(..count)) }
}

fn text(rng: &mut Rng) -> Box<str> {
    ["", "maintenance", "größer", "a \"reason\" that is longer than the others"][rng.usize(..4)].into()
}

/// A word of any form.
pub(super) fn word(rng: &mut Rng, number: u64) -> Word {
    fn some<T>(rng: &mut Rng, value: T) -> Option<T> {
        rng.bool().then_some(value)
    }
    let address = if rng.bool() { [10, 0, 0, rng.u8(..)].into() } else { rng.u128(..).to_be_bytes().into() };
    let port = rng.u16(..);
    let pattern = Pattern {
        group: some(rng, b"FARM"[..].into()),
        lb_uid: some(rng, [0xFF, b'L'][..].into()),
        address: some(rng, address),
        port: some(rng, port),
        protocol: some(rng, 6),
    };
    let saying = match rng.u8(..3) {
        0 => Saying::Quiesce,
        1 => Saying::Resume,
        _ => Saying::Weight(rng.u16(..)),
    };
    let millis = |rng: &mut Rng| Time(rng.u64(1..1 << 40) * 1_000_000);
    let (at, end) = (millis(rng), millis(rng));
    Word {
        number,
        saying,
        pattern,
        reason: text(rng),
        by: text(rng),
        from: text(rng),
        at: at.into(),
        expires: some(rng, end),
    }
}

impl History {
    /// The next entry.
    pub(super) fn entry(&mut self, rng: &mut Rng) -> Entry {
        loop {
            if let Some(entry) = self.try_entry(rng) {
                return entry;
            }
        }
    }

    fn try_entry(&mut self, rng: &mut Rng) -> Option<Entry> {
        if rng.u8(..12) == 0 {
            let endpoint = Endpoint::new([10, 0, 0, rng.u8(..4)].into(), 6, 80);
            let verdicts = [(); 4].map(|()| Verdict {
                flags: [EntryFlags::NONE, EntryFlags::CONTACT, EntryFlags::CONFIDENT][rng.usize(..3)],
                share: if rng.bool() { Share::Weight(rng.u16(..)) } else { Share::Rate(Level(rng.u16(..))) },
            });
            let end = Time(rng.u64(1..1 << 40) * 1_000_000);
            let last = Last { verdicts, ramp_until: rng.bool().then_some(end) };
            return Some(if rng.u8(..4) == 0 { Entry::Gone(endpoint) } else { Entry::Judged(endpoint, last) });
        }
        let kind = rng.u8(..100);
        if kind < 8 {
            let uid = format!("LB{}", rng.u8(..5)).into_bytes();
            self.lbs.entry(uid.clone()).or_default();
            return Some(Entry::Bound(uid.into()));
        }
        if kind < 12 {
            return Some(match pick(rng, self.words.iter()).copied() {
                Some(number) if rng.bool() => {
                    self.words.retain(|other| *other != number);
                    Entry::Unsaid(number)
                }
                _ => {
                    self.last_word += 1;
                    self.words.push(self.last_word);
                    Entry::Said(Box::new(word(rng, self.last_word)))
                }
            });
        }
        let uid = pick(rng, self.lbs.keys())?.clone();
        let groups = self.lbs.get_mut(&uid)?;
        let mut bytes = Vec::new();
        match kind {
            12..18 => {
                return Some(Entry::Unbound { lb_uid: uid.into(), held_until: Time(rng.u64(1..1 << 40) * 1_000_000) });
            }
            18..20 => {
                self.lbs.remove(&uid);
                return Some(Entry::Forgotten(uid.into()));
            }
            20..28 => {
                writer::set_lb_state_request(&mut bytes, 0, &uid, Health(rng.u8(..)), LbFlags(rng.u8(..8))).ok()?
            }
            28..60 => {
                let flags = if rng.bool() { SenderFlags::LOAD_BALANCER } else { SenderFlags::NONE };
                let mut request = Writer::registration_request(&mut bytes, 0, flags);
                for _ in 0..rng.u8(1..3) {
                    let name = format!("G{}", rng.u8(..4)).into_bytes();
                    request.group(GroupData { lb_uid: &uid, name: &name });
                    let members = groups.entry(name).or_default();
                    for _ in 0..[0, 1, 1, 3, 300][rng.usize(..5)] {
                        let endpoint = Endpoint::new([10, 0, 0, rng.u8(..4)].into(), 6, rng.u16(..500));
                        if !members.contains(&endpoint) {
                            members.push(endpoint);
                            let label = &[b'x'; 255][..[0, 0, 4, 255][rng.usize(..4)]];
                            request.entry(&MemberData { endpoint, label });
                        }
                    }
                }
                request.finish().expect("a short message");
            }
            _ => {
                let name = match pick(rng, groups.keys()) {
                    Some(name) if kind < 98 => name.clone(),
                    Some(_) => Vec::new(),
                    None => return None,
                };
                let data = GroupData { lb_uid: &uid, name: &name };
                if kind >= 80 {
                    let mut request = Writer::deregistration_request(&mut bytes, 0, SenderFlags::NONE, Reason(1));
                    request.group(data);
                    if name.is_empty() {
                        groups.clear();
                    } else if kind >= 94 {
                        groups.remove(&name);
                    } else {
                        let members = groups.get_mut(&name)?;
                        let part = [5, 50, 100][rng.usize(..3)];
                        let (leaving, staying): (Vec<Endpoint>, _) = members.iter().partition(|_| rng.u8(..100) < part);
                        if leaving.is_empty() {
                            return None;
                        }
                        *members = staying;
                        for endpoint in leaving {
                            request.entry(&MemberData { endpoint, label: b"another" });
                        }
                    }
                    request.finish().expect("a short message");
                } else {
                    let mut request = Writer::set_member_state_request(&mut bytes, 0, SenderFlags::NONE);
                    request.group(data);
                    for &endpoint in groups.get(&name)? {
                        if rng.u8(..3) > 0 {
                            continue;
                        }
                        let flags = MemberFlags::NONE.with(MemberFlags::QUIESCE, rng.bool());
                        let member = MemberData { endpoint, label: b"" };
                        request.entry(&MemberState { member, state: [0, 0, 7][rng.usize(..3)], flags });
                    }
                    request.finish().expect("a short message");
                }
            }
        }
        Some(Entry::Request(bytes.into()))
    }
}

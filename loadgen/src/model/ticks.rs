//! Weights that change all at once, tick by tick, as an operator's file makes them: the values of every tick, and the
//! message that takes a load balancer from one tick to another.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write,
    ops::Range,
};

use gwm::sasp::{
    EntryFlags, GroupData, MemberData, ReturnCode, WeightEntry, WeightedMember, Writer, message::HEADER_BYTES,
};

use super::{UID_BYTES, difference, group_name, uid};
use crate::{Result, options::Shape};

/// Ticks whose values are kept: a load balancer that is further behind has stalled.
const TICKS_KEPT: usize = 4096;

/// Messages kept for comparison: a few for each pair of ticks in progress.
const TEMPLATES_KEPT: usize = 256;

/// Where a message has its id.
const ID_AT: Range<usize> = HEADER_BYTES - 4..HEADER_BYTES;

/// Where a Get Weights Reply has its interval: behind type, length and return code.
const INTERVAL_AT: Range<usize> = HEADER_BYTES + 5..HEADER_BYTES + 7;

/// The changes of a tick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// The part of each farm's members whose weight changes, above 0 and up to 1.
    pub(crate) share: f64,
    /// The highest weight, at least 2.
    pub(crate) weight_max: u16,
    pub(crate) seed: u64,
    /// The server has an operator's file with the members; else it knows nothing of them, and no tick changes that.
    pub(crate) listed: bool,
}

/// The meaning of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It takes the load balancer to this tick.
    Tick(u64),
    /// It repeats what the load balancer knows.
    Again,
}

/// A message for one load balancer of a farm; the others' differ in the UID.
struct Template {
    bytes: Vec<u8>,
    uids_at: Vec<usize>,
}

impl Template {
    fn new(bytes: Vec<u8>, uid: &[u8; UID_BYTES]) -> Template {
        let found = bytes.windows(UID_BYTES).enumerate().filter(|(_, window)| window == uid);
        Template { uids_at: found.map(|(at, _)| at).collect(), bytes }
    }

    fn address(&mut self, uid: &[u8; UID_BYTES]) -> &[u8] {
        for &at in &self.uids_at {
            self.bytes[at..at + UID_BYTES].copy_from_slice(uid);
        }
        &self.bytes
    }
}

/// The values of every tick.
pub(crate) struct Ticks {
    shape: Shape,
    change: Change,
    /// Only what changed is sent (no-change/no-send).
    delta: bool,
    /// Entries of a farm's members, the same in every farm, from tick `first` on.
    images: VecDeque<Vec<WeightEntry>>,
    first: u64,
    /// By farm, the tick that the load balancer knows, and the one that the message tells.
    templates: HashMap<(u32, Option<u64>, u64), Option<Template>>,
    replies: HashMap<(u32, Option<u64>, u64), Template>,
}

impl Ticks {
    pub(crate) fn new(shape: Shape, change: Change, delta: bool) -> Ticks {
        let mut random = fastrand::Rng::with_seed(change.seed);
        let flags = EntryFlags::CONTACT | EntryFlags::REGISTERED_BY_LB;
        let entry = |_| match change.listed {
            true => {
                let weight = random.u16(1..=change.weight_max);
                WeightEntry { state: 0, flags: flags | EntryFlags::CONFIDENT, weight }
            }
            false => WeightEntry { state: 0, flags, weight: change.weight_max },
        };
        let image = (0..shape.farm_members()).map(entry).collect();
        Ticks {
            shape,
            change,
            delta,
            images: VecDeque::from([image]),
            first: 0,
            templates: HashMap::new(),
            replies: HashMap::new(),
        }
    }

    /// The members of a farm that change in this tick.
    pub(crate) fn changed(shape: &Shape, change: &Change, tick: u64) -> Vec<u32> {
        let members = shape.farm_members();
        let count = (f64::from(members) * change.share).ceil().clamp(1.0, f64::from(members)) as usize;
        let mut random = fastrand::Rng::with_seed(change.seed ^ tick.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut chosen = random.choose_multiple(0..members, count);
        chosen.sort_unstable();
        chosen
    }

    fn image(&mut self, tick: u64) -> Result<&Vec<WeightEntry>> {
        while self.first + self.images.len() as u64 <= tick {
            let next = self.first + self.images.len() as u64;
            let mut image = self.images.back().expect("there is always one").clone();
            for member in Ticks::changed(&self.shape, &self.change, next) {
                let mut random = fastrand::Rng::with_seed(self.change.seed ^ (next << 24) ^ u64::from(member));
                let entry = &mut image[member as usize];
                let step = random.u16(1..self.change.weight_max);
                entry.weight = 1 + (entry.weight - 1 + step) % self.change.weight_max;
            }
            self.images.push_back(image);
            if self.images.len() > TICKS_KEPT {
                self.images.pop_front();
                self.first += 1;
            }
        }
        let kept = tick.checked_sub(self.first).and_then(|at| self.images.get(at as usize));
        kept.ok_or_else(|| format!("tick {tick} is more than {TICKS_KEPT} ticks ago: a load balancer stalled"))
    }

    /// The operator's file of a tick.
    pub(crate) fn operator_file(&mut self, tick: u64) -> Result<String> {
        let shape = self.shape;
        let image = self.image(tick)?;
        let mut text = String::new();
        for farm in 0..shape.farms {
            for (member, entry) in (0..).zip(image) {
                let endpoint = shape.endpoint(farm, member);
                let (ip, port) = (endpoint.ip(), endpoint.port);
                writeln!(
                    text,
                    "[[member]]\naddress = \"{ip}\"\nport = {port}\nweight = {}\nmonitor = \"none\"",
                    entry.weight
                )
                .expect("a string takes everything");
            }
        }
        Ok(text)
    }

    /// The message that takes a load balancer from a tick (or, with `None`, from nothing) to another; `None` if there
    /// is nothing to say.
    pub(crate) fn push(&mut self, lb: u32, from: Option<u64>, to: u64) -> Result<Option<&[u8]>> {
        let key = (self.shape.farm(lb), from, to);
        if !self.templates.contains_key(&key) {
            if self.templates.len() >= TEMPLATES_KEPT {
                self.templates.clear();
            }
            let template = self.build(lb, from, to)?;
            self.templates.insert(key, template);
        }
        let template = self.templates.get_mut(&key).expect("just put there").as_mut();
        Ok(template.map(|template| template.address(&uid(lb))))
    }

    fn build(&mut self, lb: u32, from: Option<u64>, to: u64) -> Result<Option<Template>> {
        let (shape, delta) = (self.shape, self.delta);
        let old = from.map(|from| self.image(from).cloned()).transpose()?;
        let new = self.image(to)?;
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        let mut groups = 0;
        let differs = |member: u32| old.as_ref().is_none_or(|old| old[member as usize] != new[member as usize]);
        for group in 0..shape.groups {
            let members = group * shape.members..(group + 1) * shape.members;
            if !members.clone().any(differs) {
                continue;
            }
            groups += 1;
            writer.group(GroupData { lb_uid: &uid(lb), name: group_name(group).as_bytes() });
            for member in members.filter(|&member| !delta || differs(member)) {
                writer.entry(&weighted(&shape, lb, member, new[member as usize]));
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
        Ok((groups > 0).then(|| Template::new(bytes, &uid(lb))))
    }

    /// The reply to a Get Weights for all groups at a tick; with no-change/no-send on, of what `known` differs in.
    pub(crate) fn reply(&mut self, lb: u32, id: u32, interval: u16, known: Option<u64>, tick: u64) -> Result<&[u8]> {
        let known = known.filter(|_| self.delta);
        let key = (self.shape.farm(lb), known, tick);
        if !self.replies.contains_key(&key) {
            if self.replies.len() >= TEMPLATES_KEPT {
                self.replies.clear();
            }
            let bytes = self.build_reply(lb, known, tick, |_| 0)?;
            self.replies.insert(key, Template::new(bytes, &uid(lb)));
        }
        let template = self.replies.get_mut(&key).expect("just put there");
        template.bytes[ID_AT].copy_from_slice(&id.to_be_bytes());
        template.bytes[INTERVAL_AT].copy_from_slice(&interval.to_be_bytes());
        Ok(template.address(&uid(lb)))
    }

    /// Like [`Ticks::reply`], complete, with the opaque state that each member was given.
    pub(crate) fn reply_with_states(
        &mut self,
        lb: u32,
        id: u32,
        interval: u16,
        tick: u64,
        state: impl Fn(u32) -> u8,
    ) -> Result<Vec<u8>> {
        let mut bytes = self.build_reply(lb, None, tick, state)?;
        bytes[ID_AT].copy_from_slice(&id.to_be_bytes());
        bytes[INTERVAL_AT].copy_from_slice(&interval.to_be_bytes());
        Ok(bytes)
    }

    fn build_reply(&mut self, lb: u32, known: Option<u64>, tick: u64, state: impl Fn(u32) -> u8) -> Result<Vec<u8>> {
        let shape = self.shape;
        let old = known.map(|known| self.image(known).cloned()).transpose()?;
        let new = self.image(tick)?;
        let mut bytes = Vec::new();
        let mut writer = Writer::get_weights_reply(&mut bytes, 0, ReturnCode::SUCCESSFUL, 0);
        for group in 0..shape.groups {
            writer.group(GroupData { lb_uid: &uid(lb), name: group_name(group).as_bytes() });
            for member in group * shape.members..(group + 1) * shape.members {
                if old.as_ref().is_none_or(|old| old[member as usize] != new[member as usize]) {
                    let entry = WeightEntry { state: state(member), ..new[member as usize] };
                    writer.entry(&weighted(&shape, lb, member, entry));
                }
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
        Ok(bytes)
    }

    /// Judges a push to a load balancer that knows tick `at`, the values of ticks up to `latest` being on their way.
    pub(crate) fn check_push(&mut self, lb: u32, at: Option<u64>, latest: u64, frame: &[u8]) -> Result<Told> {
        // Most often it tells the newest.
        let candidates = at.map_or(0, |at| at + 1)..=latest;
        for to in candidates.rev() {
            if self.push(lb, at, to)?.is_some_and(|expected| expected == frame) {
                return Ok(Told::Tick(to));
            }
        }
        if !self.delta
            && let Some(at) = at
            && self.push(lb, None, at)?.is_some_and(|expected| expected == frame)
        {
            return Ok(Told::Again);
        }
        let what = format!("push to LB {lb}, which knows {at:?}, at tick {latest}");
        Err(match self.push(lb, at, latest)? {
            Some(expected) => format!("{what}: {}", difference(frame, expected)),
            None => format!("{what}: nothing was to be sent, but {} bytes came", frame.len()),
        })
    }
}

fn weighted(shape: &Shape, lb: u32, member: u32, entry: WeightEntry) -> WeightedMember<'static> {
    let endpoint = shape.endpoint(shape.farm(lb), member);
    WeightedMember { member: MemberData { endpoint, label: b"" }, entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { lbs: 3, groups: 2, members: 50, farms: 1, first_lb: 0, first_member: 0, local: false };

    fn ticks(share: f64, delta: bool) -> Ticks {
        Ticks::new(SHAPE, Change { share, weight_max: 100, seed: 7, listed: true }, delta)
    }

    #[test]
    fn every_changed_member_changes_and_no_other() {
        let mut ticks = ticks(0.1, true);
        for tick in 1..50 {
            let changed = Ticks::changed(&SHAPE, &ticks.change, tick);
            assert_eq!(changed.len(), 10);
            let (old, new) = (ticks.image(tick - 1).unwrap().clone(), ticks.image(tick).unwrap().clone());
            for member in 0..100u32 {
                assert_eq!(old[member as usize] != new[member as usize], changed.contains(&member));
                assert!((1..=100).contains(&new[member as usize].weight));
            }
        }
    }

    #[test]
    fn every_byte_of_a_push_is_checked() {
        for delta in [false, true] {
            let mut model = ticks(0.05, delta);
            let mut right = ticks(0.05, delta);
            let bytes = right.push(2, Some(3), 5).unwrap().unwrap().to_vec();
            assert_eq!(model.check_push(2, Some(3), 9, &bytes), Ok(Told::Tick(5)), "merged ticks");
            assert!(model.check_push(1, Some(3), 9, &bytes).is_err(), "another load balancer's");
            assert!(model.check_push(2, Some(3), 4, &bytes).is_err(), "from the future");
            let again = model.check_push(2, Some(5), 9, &bytes);
            assert!(!matches!(again, Ok(Told::Tick(_))), "once more, out of order: {again:?}");
            assert_eq!(again.is_err(), delta, "a full refresh is no fault, a delta that says nothing new is");
            for at in 0..bytes.len() {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1;
                assert!(model.check_push(2, Some(3), 5, &wrong).is_err(), "byte {at}");
            }
            assert!(model.check_push(2, Some(3), 5, &bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_refresh_says_everything_again() {
        let mut model = ticks(0.5, false);
        let bytes = model.push(0, None, 4).unwrap().unwrap().to_vec();
        assert_eq!(model.check_push(0, Some(4), 4, &bytes), Ok(Told::Again));
        assert_eq!(model.check_push(0, None, 4, &bytes), Ok(Told::Tick(4)), "the first push");
    }

    #[test]
    fn replies_list_all_groups() {
        let reply = ticks(0.5, true).reply(1, 9, 60, Some(2), 2).unwrap().to_vec();
        let (header, gwm::sasp::Message::GetWeightsReply(reply)) = gwm::sasp::Message::decode(&reply).unwrap() else {
            panic!()
        };
        assert_eq!((header.id, reply.interval_seconds, reply.groups.count()), (9, 60, 2));
        assert!(reply.groups.into_iter().all(|group| group.count() == 0));
    }

    #[test]
    fn the_operators_file_is_what_the_server_reads() {
        let mut ticks = ticks(0.5, false);
        let defaults = gwm::config::members::Defaults::unwatched(100);
        let file = ticks.operator_file(3).unwrap();
        let roster = gwm::config::members::parse(&file, std::path::Path::new(""), &defaults).unwrap();
        assert_eq!(roster.entries(), 100);
        let image = ticks.image(3).unwrap();
        assert!((0..100).all(|member| {
            let known = roster.find(&SHAPE.endpoint(0, member));
            known.fixed && known.capacity == image[member as usize].weight
        }));
    }
}

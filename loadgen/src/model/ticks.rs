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

/// A message for one load balancer; the others' differ in the UID and, in another farm, in the members' addresses.
pub(crate) struct Template {
    bytes: Vec<u8>,
    uids_at: Vec<usize>,
    /// Where the members' addresses are, and those in farm 0.
    addresses: Vec<(usize, u32)>,
    farm_step: u32,
}

impl Template {
    /// Of the message for a load balancer with these members.
    fn new(bytes: Vec<u8>, shape: &Shape, lb: u32, members: &[u32]) -> Template {
        let uid = uid(lb);
        let found = bytes.windows(UID_BYTES).enumerate().filter(|(_, window)| *window == uid);
        let uids_at = found.map(|(at, _)| at).collect();
        let mut from = 0;
        let find = |&member: &u32| {
            let address = shape.endpoint(shape.farm(lb), member).address;
            let found = bytes[from..].windows(address.len()).position(|window| window == address);
            let at = from + found.expect("the message was written with this address") + address.len();
            from = at;
            let tail: [u8; 4] = bytes[at - 4..at].try_into().expect("four bytes");
            (at - 4, u32::from_be_bytes(tail) - shape.farm(lb) * shape.farm_step())
        };
        Template { addresses: members.iter().map(find).collect(), uids_at, bytes, farm_step: shape.farm_step() }
    }

    /// Makes a copy of the message the one for this load balancer.
    fn readdress(&self, bytes: &mut [u8], lb: u32, farm: u32) {
        let uid = uid(lb);
        for &at in &self.uids_at {
            bytes[at..at + UID_BYTES].copy_from_slice(&uid);
        }
        for &(at, first) in &self.addresses {
            bytes[at..at + 4].copy_from_slice(&(first + farm * self.farm_step).to_be_bytes());
        }
    }

    fn address(&mut self, lb: u32, farm: u32) -> &[u8] {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.readdress(&mut bytes, lb, farm);
        self.bytes = bytes;
        &self.bytes
    }

    /// Writes the message for this load balancer anew, every byte of it.
    pub(crate) fn write(&self, lb: u32, farm: u32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        self.readdress(out, lb, farm);
    }

    /// The template as bytes, for another process.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut number = |number: usize| out.extend_from_slice(&(number as u32).to_be_bytes());
        number(self.farm_step as usize);
        number(self.uids_at.len());
        self.uids_at.iter().for_each(|&at| number(at));
        number(self.addresses.len());
        self.addresses.iter().for_each(|&(at, first)| {
            number(at);
            number(first as usize);
        });
        out.extend_from_slice(&self.bytes);
        out
    }

    /// The template that was written as these bytes; `None` if none was.
    pub(crate) fn from_bytes(mut bytes: &[u8]) -> Option<Template> {
        let mut number = || {
            let (number, rest) = bytes.split_first_chunk()?;
            bytes = rest;
            Some(u32::from_be_bytes(*number))
        };
        let farm_step = number()?;
        let mut uids_at = Vec::new();
        for _ in 0..number()? {
            uids_at.push(number()? as usize);
        }
        let mut addresses = Vec::new();
        for _ in 0..number()? {
            addresses.push((number()? as usize, number()?));
        }
        Some(Template { uids_at, addresses, farm_step, bytes: bytes.to_vec() })
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
    /// By the tick that the load balancer knows, and the one that the message tells.
    templates: HashMap<(Option<u64>, u64), Option<Template>>,
    replies: HashMap<(Option<u64>, u64), Template>,
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

    /// The weights of a farm's members in a tick.
    pub(crate) fn weights(&mut self, tick: u64) -> Result<Vec<u32>> {
        Ok(self.image(tick)?.iter().map(|entry| entry.weight.into()).collect())
    }

    /// The operator's file of a tick.
    pub(crate) fn operator_file(&mut self, tick: u64) -> Result<String> {
        let shape = self.shape;
        let image = self.image(tick)?;
        let mut text = String::new();
        if shape.own {
            for (member, entry) in (0..).zip(image) {
                let (first, length) = (shape.endpoint(0, member), 32 - shape.farm_bits());
                let (ip, port, weight) = (first.ip(), first.port, entry.weight);
                writeln!(
                    text,
                    "[[member]]\ncidr = \"{ip}/{length}\"\nport = {port}\nweight = {weight}\nmonitor = \"none\""
                )
                .expect("a string takes everything");
            }
            return Ok(text);
        }
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
        let farm = self.shape.farm(lb);
        Ok(self.template(lb, from, to)?.map(|template| template.address(lb, farm)))
    }

    /// The same message for all load balancers.
    pub(crate) fn push_for_all(&mut self, from: Option<u64>, to: u64) -> Result<Option<&Template>> {
        Ok(self.template(0, from, to)?.map(|template| &*template))
    }

    fn template(&mut self, lb: u32, from: Option<u64>, to: u64) -> Result<Option<&mut Template>> {
        let key = (from, to);
        if !self.templates.contains_key(&key) {
            if self.templates.len() >= TEMPLATES_KEPT {
                self.templates.clear();
            }
            let template = self.build(lb, from, to)?;
            self.templates.insert(key, template);
        }
        Ok(self.templates.get_mut(&key).expect("just put there").as_mut())
    }

    fn build(&mut self, lb: u32, from: Option<u64>, to: u64) -> Result<Option<Template>> {
        let (shape, delta) = (self.shape, self.delta);
        let old = from.map(|from| self.image(from).cloned()).transpose()?;
        let new = self.image(to)?;
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        let (mut groups, mut listed) = (0, Vec::new());
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
                listed.push(member);
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
        Ok((groups > 0).then(|| Template::new(bytes, &shape, lb, &listed)))
    }

    /// The reply to a Get Weights for all groups at a tick; with no-change/no-send on, of what `known` differs in.
    pub(crate) fn reply(&mut self, lb: u32, id: u32, interval: u16, known: Option<u64>, tick: u64) -> Result<&[u8]> {
        let known = known.filter(|_| self.delta);
        let (key, farm) = ((known, tick), self.shape.farm(lb));
        if !self.replies.contains_key(&key) {
            if self.replies.len() >= TEMPLATES_KEPT {
                self.replies.clear();
            }
            let (bytes, listed) = self.build_reply(lb, known, tick, |_| 0)?;
            self.replies.insert(key, Template::new(bytes, &self.shape, lb, &listed));
        }
        let template = self.replies.get_mut(&key).expect("just put there");
        template.bytes[ID_AT].copy_from_slice(&id.to_be_bytes());
        template.bytes[INTERVAL_AT].copy_from_slice(&interval.to_be_bytes());
        Ok(template.address(lb, farm))
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
        let (mut bytes, _) = self.build_reply(lb, None, tick, state)?;
        bytes[ID_AT].copy_from_slice(&id.to_be_bytes());
        bytes[INTERVAL_AT].copy_from_slice(&interval.to_be_bytes());
        Ok(bytes)
    }

    /// A reply, and the members that it lists.
    fn build_reply(
        &mut self,
        lb: u32,
        known: Option<u64>,
        tick: u64,
        state: impl Fn(u32) -> u8,
    ) -> Result<(Vec<u8>, Vec<u32>)> {
        let shape = self.shape;
        let old = known.map(|known| self.image(known).cloned()).transpose()?;
        let new = self.image(tick)?;
        let (mut bytes, mut listed) = (Vec::new(), Vec::new());
        let mut writer = Writer::get_weights_reply(&mut bytes, 0, ReturnCode::SUCCESSFUL, 0);
        for group in 0..shape.groups {
            writer.group(GroupData { lb_uid: &uid(lb), name: group_name(group).as_bytes() });
            for member in group * shape.members..(group + 1) * shape.members {
                if old.as_ref().is_none_or(|old| old[member as usize] != new[member as usize]) {
                    let entry = WeightEntry { state: state(member), ..new[member as usize] };
                    writer.entry(&weighted(&shape, lb, member, entry));
                    listed.push(member);
                }
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
        Ok((bytes, listed))
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

    const SHAPE: Shape =
        Shape { lbs: 3, groups: 2, members: 50, farms: 1, first_lb: 0, first_member: 0, local: false, own: false };

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
    fn load_balancers_of_other_farms_are_told_of_other_members() {
        for shape in [Shape { farms: 3, ..SHAPE }, Shape { farms: 3, own: true, ..SHAPE }] {
            let new = || Ticks::new(shape, Change { share: 0.05, weight_max: 100, seed: 7, listed: true }, true);
            let (mut model, mut copies) = (new(), Vec::new());
            for lb in [1, 0, 2] {
                let bytes = model.push(lb, Some(3), 5).unwrap().unwrap().to_vec();
                assert_eq!(bytes, new().push(lb, Some(3), 5).unwrap().unwrap(), "as if it was the first one asked for");
                let template = model.push_for_all(Some(3), 5).unwrap().unwrap().to_bytes();
                let mut written = vec![0xFF];
                Template::from_bytes(&template).unwrap().write(lb, shape.farm(lb), &mut written);
                assert_eq!(bytes, written);
                assert_eq!(model.reply(lb, 9, 60, Some(1), 2), new().reply(lb, 9, 60, Some(1), 2));
                let uid_at = bytes.windows(UID_BYTES).position(|window| window == uid(lb)).unwrap();
                copies.push(bytes[uid_at + UID_BYTES..].to_vec());
            }
            assert!(copies[0] != copies[1] && copies[1] != copies[2] && copies[0] != copies[2]);
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
        let own = Shape { lbs: 1000, farms: 1000, own: true, ..SHAPE };
        let mut ticks = Ticks::new(own, ticks.change, false);
        let file = ticks.operator_file(3).unwrap();
        let roster = gwm::config::members::parse(&file, std::path::Path::new(""), &defaults).unwrap();
        assert_eq!(roster.entries(), 100, "an entry has the member of all load balancers");
        let image = ticks.image(3).unwrap();
        assert!([0, 1, 999].into_iter().flat_map(|farm| (0..100).map(move |member| (farm, member))).all(
            |(farm, member)| {
                let known = roster.find(&own.endpoint(farm, member));
                known.fixed && known.capacity == image[member as usize].weight
            }
        ));
    }
}

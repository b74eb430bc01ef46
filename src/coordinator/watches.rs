//! Which endpoints are watched, and the orders about them that shards have yet to get.

use std::collections::VecDeque;

use super::{
    ids::{Column, EndpointId, Id},
    worlds::Evidence,
};
use crate::{
    judgement::{Earlier, WatchId},
    sasp::Endpoint,
};

/// An order to a shard to begin or end a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchOrder {
    /// The shard that the endpoint hashes to.
    pub shard: u16,
    /// Names the watch, also when it ends.
    pub watch: WatchId,
    /// The endpoint to watch; `None` ends the watch.
    pub endpoint: Option<Endpoint>,
    /// How an earlier process or watch left the endpoint, if there is something to go on from.
    pub earlier: Option<Earlier>,
}

/// The watch of one endpoint. 12 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// Grows with every watch of this id.
    generation: u32,
    /// The generation that the shard was told of.
    told: u32,
    /// The shard that was told.
    shard: u16,
    bits: u16,
}

/// The endpoint should be watched, by this node or another one of the fleet.
const WANTED: u16 = 1;
/// A shard was told to watch the endpoint.
const TOLD: u16 = 2;
/// The endpoint is in the queue.
const QUEUED: u16 = 4;
/// The endpoint has contact by the checks of this node, or is not judged yet.
const CONTACT: u16 = 8;
/// The endpoint has been up while it was watched.
const BEEN_UP: u16 = 16;
/// The endpoint answers.
const ANSWERS: u16 = 32;
/// The endpoint has answered while it was watched, this node or another one.
const HAS_ANSWERED: u16 = 64;
/// This node checks the endpoint; set if `WANTED` is. Without a fleet both are the same.
const HERE: u16 = 128;
/// The endpoint has no contact, by all that is known of it.
const DOWN: u16 = 256;
/// The endpoint has answered this node while it was watched.
const ANSWERED_HERE: u16 = 512;

/// All watches.
pub(super) struct Watches {
    list: Column<EndpointId, Watch>,
    /// Endpoints with orders to give, each once.
    queue: VecDeque<EndpointId>,
    /// Number of endpoints that should be watched.
    wanted: u32,
    /// Number of endpoints that this node checks.
    here: u32,
    /// Number of endpoints that have been up, and have no contact.
    lost: u32,
}

impl Watch {
    fn is_lost(&self) -> bool {
        self.bits & (WANTED | BEEN_UP | DOWN) == WANTED | BEEN_UP | DOWN
    }

    fn is_here(&self) -> bool {
        self.bits & HERE != 0
    }

    /// It is up, by all that is known of it.
    fn is_up(&self) -> bool {
        self.bits & (BEEN_UP | DOWN) == BEEN_UP
    }
}

impl Watches {
    pub(super) fn new() -> Watches {
        Watches { list: Column::new(), queue: VecDeque::new(), wanted: 0, here: 0, lost: 0 }
    }

    pub(super) fn is_wanted(&self, id: EndpointId) -> bool {
        self.list.get(id).is_some_and(|watch| watch.bits & WANTED != 0)
    }

    /// How many endpoints are watched.
    pub(super) fn len(&self) -> usize {
        self.wanted as usize
    }

    /// Whether this node checks the endpoint.
    pub(super) fn is_here(&self, id: EndpointId) -> bool {
        self.list.get(id).is_some_and(Watch::is_here)
    }

    /// How many endpoints this node checks.
    pub(super) fn here(&self) -> usize {
        self.here as usize
    }

    /// Whether the endpoint has contact, or is not judged yet, by all that is known of it.
    pub(super) fn has_contact(&self, id: EndpointId) -> bool {
        self.list.get(id).is_none_or(|watch| watch.bits & DOWN == 0)
    }

    /// How many endpoints have been up, and have no contact.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Whether the endpoint has been up while it was watched.
    pub(super) fn has_been_up(&self, id: EndpointId) -> bool {
        self.list.get(id).is_some_and(|watch| watch.bits & BEEN_UP != 0)
    }

    /// What this node's checks know of an endpoint, for the rule of blindness.
    pub(super) fn evidence(&self, id: EndpointId) -> Evidence {
        let Some(watch) = self.list.get(id).filter(|watch| watch.is_here()) else { return Evidence::NONE };
        Evidence {
            answers: watch.bits & ANSWERS != 0,
            has_answered: watch.bits & HAS_ANSWERED != 0,
            answered_here: watch.bits & ANSWERED_HERE != 0,
            contact: watch.bits & CONTACT != 0,
        }
    }

    /// Notes what this node's checks found about an endpoint. What the fleet knew to be up until now has answered, whatever
    /// this node finds, and whether or not others are left that say so.
    pub(super) fn found(&mut self, id: EndpointId, contact: bool, answers: bool) {
        let watch = &mut self.list[id];
        let kept = watch.bits & !(CONTACT | ANSWERS) | if watch.is_up() { HAS_ANSWERED } else { 0 };
        watch.bits =
            kept | if contact { CONTACT } else { 0 } | if answers { ANSWERS | HAS_ANSWERED | ANSWERED_HERE } else { 0 };
    }

    /// Notes how a watched endpoint stands, by all that is known of it.
    pub(super) fn stands(&mut self, id: EndpointId, contact: bool, up: bool) {
        let watch = &mut self.list[id];
        self.lost -= u32::from(watch.is_lost());
        let kept = watch.bits & !DOWN;
        watch.bits = kept | if contact { 0 } else { DOWN } | if up { BEEN_UP } else { 0 };
        self.lost += u32::from(watch.is_lost());
    }

    /// Begins a watch, if there is none; `here`: this node checks the endpoint.
    pub(super) fn begin(&mut self, id: EndpointId, here: bool) {
        if self.list.get(id).is_none() {
            self.list.set(id, Watch::default());
        }
        let watch = &mut self.list[id];
        if watch.bits & WANTED == 0 {
            watch.generation = watch.generation.wrapping_add(1);
            watch.bits |= WANTED | CONTACT | if here { HERE } else { 0 };
            self.wanted += 1;
            self.here += u32::from(here);
            self.queue(id);
        }
    }

    /// Another node found up what this node checks. So the endpoint has answered, whatever this node finds: a node to which
    /// nothing answers of all that has answered to others is cut off itself.
    pub(super) fn answered_elsewhere(&mut self, id: EndpointId) {
        let watch = &mut self.list[id];
        if watch.is_here() {
            watch.bits |= HAS_ANSWERED;
        }
    }

    /// This node begins or ends to check a watched endpoint. If it is `blind`, what the fleet knows to be up has answered:
    /// the node stays blind until something answers it. Otherwise what others know says nothing about this node before it
    /// has looked itself.
    pub(super) fn set_here(&mut self, id: EndpointId, here: bool, blind: bool) {
        let watch = &mut self.list[id];
        if watch.is_here() == here {
            return;
        }
        watch.bits = watch.bits & !(HERE | ANSWERS | HAS_ANSWERED | ANSWERED_HERE) | CONTACT;
        self.here -= u32::from(!here);
        if here {
            self.here += 1;
            watch.generation = watch.generation.wrapping_add(1);
            watch.bits |= HERE | if blind && watch.is_up() { HAS_ANSWERED } else { 0 };
        }
        self.queue(id);
    }

    /// Ends the watch, if there is one.
    pub(super) fn end(&mut self, id: EndpointId) {
        let Some(watch) = self.list.get_mut(id).filter(|watch| watch.bits & WANTED != 0) else { return };
        self.wanted -= 1;
        self.here -= u32::from(watch.is_here());
        self.lost -= u32::from(watch.is_lost());
        watch.bits &= !(WANTED | HERE | CONTACT | DOWN | BEEN_UP | ANSWERS | HAS_ANSWERED | ANSWERED_HERE);
        self.queue(id);
    }

    /// The endpoint that has this watch now.
    pub(super) fn find(&self, watch: WatchId) -> Option<EndpointId> {
        let id = EndpointId::at(watch.index as usize);
        let known = self.list.get(id)?;
        let now = known.is_here() && known.generation == watch.generation;
        now.then_some(id)
    }

    /// The watch of an endpoint that this node checks, and the shard that was told of it.
    pub(super) fn told(&self, id: EndpointId) -> Option<(WatchId, u16)> {
        let watch = self.list.get(id)?;
        let is_told = watch.bits & (HERE | TOLD) == HERE | TOLD && watch.told == watch.generation;
        is_told.then_some((WatchId { index: id.number(), generation: watch.told }, watch.shard))
    }

    /// Whether there are orders.
    pub(super) fn has_orders(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes the next endpoint's orders: the end of the watch that a shard knows, the begin of another one, or both.
    pub(super) fn take(
        &mut self,
        whom: impl FnOnce(EndpointId) -> (u16, Endpoint, Option<Earlier>),
    ) -> [Option<WatchOrder>; 2] {
        let Some(id) = self.queue.pop_front() else { return [None, None] };
        let watch = &mut self.list[id];
        watch.bits &= !QUEUED;
        let wanted = watch.is_here();
        let mut orders = [None, None];
        if watch.bits & TOLD != 0 && (!wanted || watch.told != watch.generation) {
            watch.bits &= !TOLD;
            let told = WatchId { index: id.number(), generation: watch.told };
            orders[0] = Some(WatchOrder { shard: watch.shard, watch: told, endpoint: None, earlier: None });
        }
        if wanted && watch.bits & TOLD == 0 {
            let (shard, endpoint, earlier) = whom(id);
            watch.bits |= TOLD;
            (watch.told, watch.shard) = (watch.generation, shard);
            let new = WatchId { index: id.number(), generation: watch.generation };
            orders[1] = Some(WatchOrder { shard, watch: new, endpoint: Some(endpoint), earlier });
        }
        orders
    }

    fn queue(&mut self, id: EndpointId) {
        let watch = &mut self.list[id];
        if watch.bits & QUEUED == 0 {
            watch.bits |= QUEUED;
            self.queue.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_endpoints_are_counted_as_they_are() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut watches = Watches::new();
        // By the rule: what is known of each endpoint that is watched, as whether it has been up, and has contact.
        let mut model: [Option<(bool, bool)>; 8] = [None; 8];
        let mut most = 0;
        for _ in 0..10_000 {
            let at = random.usize(0..model.len());
            let id = EndpointId::at(at);
            match random.u8(0..4) {
                0 => {
                    watches.begin(id, true);
                    model[at] = model[at].or(Some((false, true)));
                }
                1 if random.bool() => {
                    watches.end(id);
                    model[at] = None;
                }
                _ => {
                    let Some((been_up, known)) = &mut model[at] else { continue };
                    let (contact, up) = (random.bool(), random.bool());
                    watches.stands(id, contact, up);
                    (*been_up, *known) = (*been_up || up, contact);
                }
            }
            let lost = model.iter().filter(|known| **known == Some((true, false))).count() as u32;
            assert_eq!(watches.lost(), lost);
            most = most.max(lost);
        }
        assert!(most > 2, "{most}");
    }
}

//! Which endpoints are watched, and the orders about them that shards have yet to get.

use std::collections::VecDeque;

use super::{
    ids::{Column, EndpointId, Id},
    worlds::Evidence,
};
use crate::{judgement::WatchId, sasp::Endpoint};

/// An order to a shard to begin or end a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchOrder {
    /// The shard that the endpoint hashes to.
    pub shard: u16,
    /// Names the watch, also when it ends.
    pub watch: WatchId,
    /// The endpoint to watch; `None` ends the watch.
    pub endpoint: Option<Endpoint>,
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
    bits: u8,
}

/// The endpoint should be watched.
const WANTED: u8 = 1;
/// A shard was told to watch the endpoint.
const TOLD: u8 = 2;
/// The endpoint is in the queue.
const QUEUED: u8 = 4;
/// The endpoint has contact, or is not judged yet.
const CONTACT: u8 = 8;
/// The endpoint has been up while it was watched.
const BEEN_UP: u8 = 16;
/// The endpoint answers.
const ANSWERS: u8 = 32;
/// The endpoint has answered while it was watched.
const HAS_ANSWERED: u8 = 64;

/// All watches.
pub(super) struct Watches {
    list: Column<EndpointId, Watch>,
    /// Endpoints with orders to give, each once.
    queue: VecDeque<EndpointId>,
    /// Number of endpoints that should be watched.
    wanted: u32,
    /// Number of endpoints that have been up, and have no contact.
    lost: u32,
}

impl Watch {
    fn is_lost(&self) -> bool {
        self.bits & (WANTED | BEEN_UP | CONTACT) == WANTED | BEEN_UP
    }
}

impl Watches {
    pub(super) fn new() -> Watches {
        Watches { list: Column::new(), queue: VecDeque::new(), wanted: 0, lost: 0 }
    }

    pub(super) fn is_wanted(&self, id: EndpointId) -> bool {
        self.list.get(id).is_some_and(|watch| watch.bits & WANTED != 0)
    }

    /// How many endpoints are watched.
    pub(super) fn len(&self) -> usize {
        self.wanted as usize
    }

    /// How many endpoints have been up, and have no contact.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Whether the endpoint has been up while it was watched.
    pub(super) fn has_been_up(&self, id: EndpointId) -> bool {
        self.list.get(id).is_some_and(|watch| watch.bits & BEEN_UP != 0)
    }

    /// What is known of an endpoint, for the rule of blindness.
    pub(super) fn evidence(&self, id: EndpointId) -> Evidence {
        let Some(watch) = self.list.get(id).filter(|watch| watch.bits & WANTED != 0) else { return Evidence::NONE };
        Evidence {
            answers: watch.bits & ANSWERS != 0,
            has_answered: watch.bits & HAS_ANSWERED != 0,
            contact: watch.bits & CONTACT != 0,
        }
    }

    /// Notes what the monitor found about a watched endpoint.
    pub(super) fn set(&mut self, id: EndpointId, contact: bool, up: bool, answers: bool) {
        let watch = &mut self.list[id];
        self.lost -= u32::from(watch.is_lost());
        let kept = watch.bits & !(CONTACT | ANSWERS);
        watch.bits = kept
            | if contact { CONTACT } else { 0 }
            | if up { BEEN_UP } else { 0 }
            | if answers { ANSWERS | HAS_ANSWERED } else { 0 };
        self.lost += u32::from(watch.is_lost());
    }

    /// Begins a watch, if there is none.
    pub(super) fn begin(&mut self, id: EndpointId) {
        if self.list.get(id).is_none() {
            self.list.set(id, Watch::default());
        }
        let watch = &mut self.list[id];
        if watch.bits & WANTED == 0 {
            watch.generation = watch.generation.wrapping_add(1);
            watch.bits |= WANTED | CONTACT;
            self.wanted += 1;
            self.queue(id);
        }
    }

    /// Ends the watch, if there is one.
    pub(super) fn end(&mut self, id: EndpointId) {
        let Some(watch) = self.list.get_mut(id).filter(|watch| watch.bits & WANTED != 0) else { return };
        self.wanted -= 1;
        self.lost -= u32::from(watch.is_lost());
        watch.bits &= !(WANTED | CONTACT | BEEN_UP | ANSWERS | HAS_ANSWERED);
        self.queue(id);
    }

    /// The endpoint that has this watch now.
    pub(super) fn find(&self, watch: WatchId) -> Option<EndpointId> {
        let id = EndpointId::at(watch.index as usize);
        let known = self.list.get(id)?;
        let now = known.bits & WANTED != 0 && known.generation == watch.generation;
        now.then_some(id)
    }

    /// The watch of an endpoint that should be watched, and the shard that was told of it.
    pub(super) fn told(&self, id: EndpointId) -> Option<(WatchId, u16)> {
        let watch = self.list.get(id)?;
        let is_told = watch.bits & (WANTED | TOLD) == WANTED | TOLD && watch.told == watch.generation;
        is_told.then_some((WatchId { index: id.number(), generation: watch.told }, watch.shard))
    }

    /// Whether there are orders.
    pub(super) fn has_orders(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes the next endpoint's orders: the end of the watch that a shard knows, the begin of another one, or both.
    pub(super) fn take(&mut self, whom: impl FnOnce(EndpointId) -> (u16, Endpoint)) -> [Option<WatchOrder>; 2] {
        let Some(id) = self.queue.pop_front() else { return [None, None] };
        let watch = &mut self.list[id];
        watch.bits &= !QUEUED;
        let wanted = watch.bits & WANTED != 0;
        let mut orders = [None, None];
        if watch.bits & TOLD != 0 && (!wanted || watch.told != watch.generation) {
            watch.bits &= !TOLD;
            let told = WatchId { index: id.number(), generation: watch.told };
            orders[0] = Some(WatchOrder { shard: watch.shard, watch: told, endpoint: None });
        }
        if wanted && watch.bits & TOLD == 0 {
            let (shard, endpoint) = whom(id);
            watch.bits |= TOLD;
            (watch.told, watch.shard) = (watch.generation, shard);
            let new = WatchId { index: id.number(), generation: watch.generation };
            orders[1] = Some(WatchOrder { shard, watch: new, endpoint: Some(endpoint) });
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
                    watches.begin(id);
                    model[at] = model[at].or(Some((false, true)));
                }
                1 if random.bool() => {
                    watches.end(id);
                    model[at] = None;
                }
                _ => {
                    let Some((been_up, known)) = &mut model[at] else { continue };
                    let (contact, up) = (random.bool(), random.bool());
                    watches.set(id, contact, up, contact);
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

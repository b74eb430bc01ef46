//! Judgements over a restart: which ones a later process has yet to be told of, and which ones are an earlier process's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ids::{Column, EndpointId};
use crate::{judgement::Earlier, sasp::Endpoint, time::Time};

/// The verdicts have changed since they were taken last.
const QUEUED: u8 = 1;
/// The verdicts are those of an earlier process.
const RESTORED: u8 = 2;
/// Somebody keeps verdicts of the endpoint.
const KEPT: u8 = 4;
/// An earlier process left the endpoint down, and nobody has judged it since.
const DOWN: u8 = 8;

#[derive(Default)]
pub(super) struct Remembered {
    on: bool,
    bits: Column<EndpointId, u8>,
    queue: VecDeque<EndpointId>,
    /// Endpoints whose verdicts are kept and that are forgotten.
    gone: VecDeque<Endpoint>,
    /// The ends of slow starts.
    ramps: BTreeMap<EndpointId, Time>,
    /// Until when verdicts of an earlier process count.
    until: BTreeSet<(Time, EndpointId)>,
}

impl Remembered {
    pub(super) fn turn_on(&mut self) {
        self.on = true;
    }

    fn bits(&mut self, id: EndpointId) -> &mut u8 {
        if self.bits.get(id).is_none() {
            self.bits.set(id, 0);
        }
        &mut self.bits[id]
    }

    fn set_ramp(&mut self, id: EndpointId, until: Option<Time>) -> Option<Time> {
        match until {
            Some(until) => self.ramps.insert(id, until),
            None => self.ramps.remove(&id),
        }
    }

    /// The end of the endpoint's slow start, as far as it is known.
    pub(super) fn ramp_until(&self, id: EndpointId) -> Option<Time> {
        self.ramps.get(&id).copied()
    }

    /// What a new watch of the endpoint goes on from: also what is too old to be shown. `None`: from nothing.
    pub(super) fn earlier(&self, id: EndpointId) -> Option<Earlier> {
        let down = self.bits.get(id).is_some_and(|bits| bits & DOWN != 0);
        let ramp_until = self.ramp_until(id);
        (down || ramp_until.is_some()).then_some(Earlier { down, ramp_until })
    }

    /// This node's own checks say when the endpoint's slow start ends.
    pub(super) fn ramps(&mut self, id: EndpointId, until: Option<Time>) {
        if self.on && self.set_ramp(id, until) != until {
            self.queue(id);
        }
    }

    /// The endpoint is judged; `changed`: in another way than before.
    pub(super) fn judged(&mut self, id: EndpointId, changed: bool) {
        if !self.on {
            return;
        }
        *self.bits(id) &= !(RESTORED | DOWN);
        if changed {
            self.queue(id);
        }
    }

    /// Whether the endpoint's verdicts are those of an earlier process.
    pub(super) fn is_restored(&self, id: EndpointId) -> bool {
        self.bits.get(id).is_some_and(|bits| bits & RESTORED != 0)
    }

    fn queue(&mut self, id: EndpointId) {
        let bits = self.bits(id);
        let queued = *bits & QUEUED != 0;
        *bits |= QUEUED | KEPT;
        if !queued {
            self.queue.push_back(id);
        }
    }

    /// The endpoint has verdicts of an earlier process, which count until then.
    pub(super) fn restored(&mut self, id: EndpointId, until: Time, earlier: Earlier) {
        self.set_ramp(id, earlier.ramp_until);
        *self.bits(id) |= RESTORED | KEPT | if earlier.down { DOWN } else { 0 };
        self.until.insert((until, id));
    }

    /// The endpoint with this id is forgotten.
    pub(super) fn forget(&mut self, id: EndpointId, endpoint: Endpoint) {
        self.ramps.remove(&id);
        let Some(bits) = self.bits.get_mut(id) else { return };
        if *bits & KEPT != 0 && self.on {
            self.gone.push_back(endpoint);
        }
        *bits &= QUEUED; // the queue still has the id
    }

    /// The next endpoint that is forgotten.
    pub(super) fn next_gone(&mut self) -> Option<Endpoint> {
        self.gone.pop_front()
    }

    /// The next endpoint with new verdicts; perhaps another one has the id now.
    pub(super) fn next_judged(&mut self) -> Option<EndpointId> {
        let id = self.queue.pop_front()?;
        *self.bits(id) &= !QUEUED;
        Some(id)
    }

    /// The next endpoint that nobody has judged since an earlier process, if that is too long ago.
    pub(super) fn expire(&mut self, now: Time) -> Option<EndpointId> {
        while let Some(&(at, id)) = self.until.first().filter(|(at, _)| *at <= now) {
            self.until.remove(&(at, id));
            let bits = self.bits(id);
            if *bits & RESTORED != 0 {
                *bits &= !RESTORED;
                return Some(id);
            }
        }
        None
    }

    /// When to call [`Remembered::expire`].
    pub(super) fn next_end(&self) -> Option<Time> {
        self.until.first().map(|(at, _)| *at)
    }
}

//! Judgements over a restart: which ones a later process has yet to be told of, and which ones are an earlier process's.

use std::collections::{BTreeSet, VecDeque};

use super::ids::{Column, EndpointId};
use crate::{sasp::Endpoint, time::Time};

/// The verdicts have changed since they were taken last.
const QUEUED: u8 = 1;
/// The verdicts are those of an earlier process.
const RESTORED: u8 = 2;
/// Somebody keeps verdicts of the endpoint.
const KEPT: u8 = 4;

#[derive(Default)]
pub(super) struct Remembered {
    on: bool,
    bits: Column<EndpointId, u8>,
    queue: VecDeque<EndpointId>,
    /// Endpoints whose verdicts are kept and that are forgotten.
    gone: VecDeque<Endpoint>,
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

    /// The monitor has judged the endpoint; `changed`: in another way than before.
    pub(super) fn judged(&mut self, id: EndpointId, changed: bool) {
        if !self.on {
            return;
        }
        let bits = self.bits(id);
        *bits &= !RESTORED;
        if changed {
            let queued = *bits & QUEUED != 0;
            *bits |= QUEUED | KEPT;
            if !queued {
                self.queue.push_back(id);
            }
        }
    }

    /// The endpoint has verdicts of an earlier process, which count until then.
    pub(super) fn restored(&mut self, id: EndpointId, until: Time) {
        *self.bits(id) |= RESTORED | KEPT;
        self.until.insert((until, id));
    }

    /// The endpoint with this id is forgotten.
    pub(super) fn forget(&mut self, id: EndpointId, endpoint: Endpoint) {
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

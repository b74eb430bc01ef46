//! When a service that leaves may be deregistered. No I/O, no clock.

use std::time::Duration;

use super::settings::ServiceSettings;
use crate::time::Time;

/// A service that leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    began: Time,
    /// When all GWMs had heard of the quiesce.
    told: Option<Time>,
}

/// Why a service need not be waited for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Its connections are gone.
    Empty,
    /// Its connections can not be counted; load balancers have had time to hear of the quiesce.
    Uncounted,
    /// The drain time has passed.
    TimeOut,
}

impl Drain {
    /// The service leaves from now on.
    pub(super) fn new(now: Time) -> Drain {
        Drain { began: now, told: None }
    }

    /// Whether the connections are of interest now: load balancers have heard of the quiesce, as far as one can tell.
    pub(super) fn counts(&self, now: Time, settings: &ServiceSettings) -> bool {
        self.told.is_some_and(|told| now.since(told) >= settings.quiesce_time)
    }

    /// Whether the service is still to be waited for. `told` says whether all GWMs have heard of the quiesce; `busy` has its
    /// connections that are not idle, or `None` if they can not be counted.
    pub(super) fn step(
        &mut self,
        now: Time,
        settings: &ServiceSettings,
        told: bool,
        busy: Option<u64>,
    ) -> Option<Drained> {
        if told {
            self.told.get_or_insert(now);
        }
        if now.since(self.began) >= settings.drain_time.max(settings.quiesce_time) {
            return Some(Drained::TimeOut);
        }
        match busy {
            _ if !self.counts(now, settings) => None,
            Some(0) => Some(Drained::Empty),
            Some(_) => None,
            None => Some(Drained::Uncounted),
        }
    }

    /// How long it has lasted.
    pub(super) fn lasts(&self, now: Time) -> Duration {
        now.since(self.began)
    }
}

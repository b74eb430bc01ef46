//! What the fleet orders: at the start all of it before the first request, later a time slice in each turn.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use super::{CoordinatorThread, DEADLINE_SLEEP_MIN, Keeping, TIME_SLICE};

/// How long the start does what the fleet orders before it takes requests, though the others may never be quiet.
const OBEY_FIRST: Duration = Duration::from_secs(30);

impl CoordinatorThread {
    /// Does what the fleet has ordered before the start, so that nobody finds half of the tables.
    pub(super) fn obey_first(&mut self) {
        let Some(fleet) = self.ports.keeping.as_ref().and_then(Keeping::fleet).cloned() else { return };
        let start = Instant::now();
        while !fleet.is_settled() && start.elapsed() < OBEY_FIRST && !self.control.stop.load(Ordering::Acquire) {
            if !fleet.has_orders() {
                thread::park_timeout(DEADLINE_SLEEP_MIN); // the fleet's thread thinks
            }
            self.obey(Instant::now());
            self.keep();
        }
    }

    /// Does what the fleet orders, while there is time; whether there is more.
    pub(super) fn obey(&mut self, start: Instant) -> bool {
        let Some(fleet) = self.ports.keeping.as_ref().and_then(Keeping::fleet).cloned() else { return false };
        while let Some((number, order)) = fleet.take_order() {
            self.set_obeying(true);
            let fits = self.coordinator.obey(self.clock.now(), &order, &mut self.ports);
            self.set_obeying(false);
            if let Some(keeping) = &mut self.ports.keeping {
                keeping.note_done(number, fits);
            }
            if start.elapsed() >= TIME_SLICE {
                break;
            }
        }
        fleet.has_orders()
    }

    fn set_obeying(&mut self, obeying: bool) {
        if let Some(keeping) = &mut self.ports.keeping {
            keeping.set_obeying(obeying);
        }
    }

    pub(super) fn has_orders(&self) -> bool {
        self.ports.keeping.as_ref().and_then(Keeping::fleet).is_some_and(|fleet| fleet.has_orders())
    }
}

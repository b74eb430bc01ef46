//! The metrics of the coordinator.

use crate::{
    coordinator::{Coordinator, REFUSALS, Refusal, Totals, World},
    metrics::{Counter, Histogram, Id, LabelValue, Reading, Values},
    sasp::Reason,
};

/// Metrics that only the coordinator's thread writes, and any thread reads.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CoordinatorMetrics {
    values: Values,
    /// Requests answered with 0x11, by cause.
    pub(super) refused: [Counter; REFUSALS],
    /// Lengths of pushes.
    pub(super) push_size: Histogram,
    /// How long turns took.
    pub(super) turn: Histogram,
    /// Turns: they show that the coordinator does not hang.
    pub(crate) turns: Counter,
    /// Deregistrations, by the code of their reason.
    deregistrations: [Counter; 256],
}

impl Default for CoordinatorMetrics {
    fn default() -> CoordinatorMetrics {
        let deregistrations = std::array::from_fn(|_| Counter::default());
        let (values, refused, turn, turns) = Default::default();
        CoordinatorMetrics { values, refused, push_size: Histogram::of_bytes(), turn, turns, deregistrations }
    }
}

impl CoordinatorMetrics {
    /// Copies the coordinator's own numbers, so that other threads can read them.
    pub(super) fn publish(&self, coordinator: &Coordinator) {
        let Totals { load_balancers, groups, memberships, endpoints, watched, answering, doubted, listings } =
            coordinator.totals();
        let blind = |world| usize::from(coordinator.is_blind(world));
        for (id, total) in [
            (Id::LoadBalancers, load_balancers),
            (Id::Groups, groups),
            (Id::Memberships, memberships),
            (Id::Endpoints, endpoints),
            (Id::EndpointsWatched, watched),
            (Id::EndpointsAnswering, answering),
            (Id::Listings, listings),
            (Id::GroupsInDoubt, doubted),
            (Id::BlindOwn, blind(World::Own)),
            (Id::BlindForeign, blind(World::Foreign)),
        ] {
            self.values.set(id, total as u64);
        }
        for (reason, requests) in coordinator.deregistrations() {
            self.deregistrations[usize::from(reason.0)].set(*requests);
        }
    }

    /// The same for the state on disk.
    pub(super) fn publish_keeping(&self, replies_waiting: usize, in_trouble: bool, starts: u64) {
        self.values.set(Id::StateStarts, starts);
        self.values.set(Id::StateRepliesWaiting, replies_waiting as u64);
        self.values.set(Id::StateBehind, in_trouble.into());
    }

    /// The same for the fleet.
    #[cfg(feature = "fleet")]
    pub(super) fn publish_fleet(&self, fleet: &crate::runtime::fleet_thread::Fleet, checks: usize) {
        let shown = fleet.shown();
        let status = &shown.status;
        for (id, value) in [
            (Id::FleetConnected, u64::from(status.connected)),
            (Id::FleetNodes, status.nodes.len() as u64),
            (Id::FleetRows, status.rows as u64),
            (Id::FleetRowsAhead, status.dirty as u64),
            (Id::FleetChangesWaiting, status.given.saturating_sub(status.kept)),
            (Id::FleetOrdersWaiting, status.orders as u64),
            (Id::FleetChecks, checks as u64),
            (Id::FleetConflicts, fleet.conflicts()),
        ] {
            self.values.set(id, value);
        }
    }

    /// Adds all metrics of the coordinator.
    pub(crate) fn read(&self, reading: &mut Reading) {
        reading.add_values(None, &self.values);
        reading.add_distribution(None, Id::PushSize, self.push_size.read());
        reading.add_distribution(None, Id::CoordinatorTurn, self.turn.read());
        for (cause, count) in Refusal::ALL.iter().zip(&self.refused) {
            let label = LabelValue::of_variant(cause, cause.text());
            reading.add_labelled(None, Id::RequestsRefused, label, count.get());
        }
        for (code, count) in (0..=u8::MAX).zip(&self.deregistrations).filter(|(_, count)| count.get() > 0) {
            let label = LabelValue { name: format!("0x{code:02x}").into(), text: Reason(code).to_string().into() };
            reading.add_labelled(None, Id::Deregistrations, label, count.get());
        }
    }
}

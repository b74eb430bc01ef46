//! The log of blindness and of doubts about groups.

use crate::{
    coordinator::{Coordinator, DoubtTurn, Doubted, Time, Totals, World},
    sasp::Escaped,
    throttle::Throttle,
};

/// What was logged.
#[derive(Default)]
pub(super) struct DoubtLog {
    /// By `World as usize`: the world was blind at the last look.
    blind: [bool; World::ALL.len()],
    began: Throttle,
    ended: Throttle,
}

impl DoubtLog {
    /// Logs when a world becomes blind and when it sees again.
    pub(super) fn look(&mut self, coordinator: &Coordinator) {
        for (world, was) in World::ALL.into_iter().zip(&mut self.blind) {
            let blind = coordinator.is_blind(world);
            if std::mem::replace(was, blind) == blind {
                continue;
            }
            let Totals { watched, answering, .. } = coordinator.totals();
            let addresses = match world {
                World::Own => "this machine's own addresses",
                World::Foreign => "addresses of other machines",
            };
            if blind {
                tracing::warn!(
                    watched,
                    answering,
                    "blind: nothing at {addresses} answers, neither members nor a witness, which is taken for a fault \
                     of this machine or its network: these members keep contact and weight, and are not confident"
                );
            } else {
                tracing::warn!(watched, answering, "blind no more: {addresses} answer, and the checks count again");
            }
        }
    }

    /// Logs that a doubt about a group begins or ends.
    pub(super) fn doubted(&mut self, now: Time, doubted: &Doubted<'_>) {
        let Doubted { turn, lb_uid, group, lost, of } = *doubted;
        let throttle = if turn == DoubtTurn::Began { &mut self.began } else { &mut self.ended };
        if !throttle.take_line(now) {
            return;
        }
        let (load_balancer, group) = (Escaped(lb_uid), Escaped(group));
        match turn {
            DoubtTurn::Began => tracing::warn!(
                %load_balancer,
                %group,
                lost,
                of,
                "group in doubt: more than --panic-percent of its members lost contact at once while others answer; for \
                 --panic-time at most they keep contact and weight, and no member of the group is confident"
            ),
            DoubtTurn::Back => tracing::info!(
                %load_balancer,
                %group,
                lost,
                of,
                "group in doubt no more: enough members are back"
            ),
            DoubtTurn::TimeOver => tracing::warn!(
                %load_balancer,
                %group,
                lost,
                of,
                "group in doubt no more: --panic-time is over, and members that do not answer are down"
            ),
        }
    }

    /// Logs how many lines were left out.
    pub(super) fn log_suppressed(&mut self, now: Time) {
        if let Some(lines) = self.began.take_suppressed(now) {
            tracing::warn!("{lines} more groups in doubt");
        }
        if let Some(lines) = self.ended.take_suppressed(now) {
            tracing::warn!("{lines} more groups in doubt no more");
        }
    }
}

//! The timers of load balancers, as a queue: what is due next.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{Time, ids::LbId, load_balancer::Timer};

/// An entry; the LB's [`super::load_balancer::Deadline`] says whether the entry still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Alarm {
    pub(super) at: Time,
    pub(super) serial: u64,
    pub(super) lb: LbId,
    pub(super) timer: Timer,
}

/// At most one entry for each LB and timer. Entries of a forgotten LB are void and leave at their time.
#[derive(Default)]
pub(super) struct Alarms {
    /// Push windows, in the order of their ends: all are of one length, so each new one ends last. A fan-out opens one for
    /// each LB, for which a heap takes ten times as long.
    windows: VecDeque<Alarm>,
    others: BinaryHeap<Reverse<Alarm>>,
}

impl Alarms {
    pub(super) fn push(&mut self, alarm: Alarm) {
        match self.windows.back() {
            _ if alarm.timer != Timer::Window => self.others.push(Reverse(alarm)),
            Some(last) if last.at > alarm.at => self.others.push(Reverse(alarm)),
            _ => self.windows.push_back(alarm),
        }
    }

    /// When the next entry is due.
    pub(super) fn next_time(&self) -> Option<Time> {
        let window = self.windows.front().map(|alarm| alarm.at);
        window.into_iter().chain(self.others.peek().map(|alarm| alarm.0.at)).min()
    }

    /// Takes an entry that is due.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<Alarm> {
        let at = self.next_time().filter(|at| *at <= now)?;
        match self.windows.front() {
            Some(window) if window.at == at => self.windows.pop_front(),
            _ => self.others.pop().map(|alarm| alarm.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::ids::Id;

    #[test]
    fn entries_come_in_the_order_of_their_times() {
        let mut alarms = Alarms::default();
        let times = [(5, Timer::Window), (3, Timer::Hold), (5, Timer::Refresh), (7, Timer::Window), (6, Timer::Window)];
        for (serial, (at, timer)) in (0..).zip(times) {
            alarms.push(Alarm { at: Time(at), serial, lb: LbId::at(0), timer });
        }
        let mut due =
            |now| std::iter::from_fn(|| alarms.pop_due(Time(now))).map(|alarm| alarm.at.0).collect::<Vec<_>>();
        assert!(due(2).is_empty());
        assert_eq!(due(6), [3, 5, 5, 6]);
        assert!(due(6).is_empty());
        assert_eq!(alarms.next_time(), Some(Time(7)));
        assert_eq!(alarms.pop_due(Time(9)).map(|alarm| alarm.serial), Some(3));
        assert_eq!(alarms.next_time(), None);
    }
}

//! The newest events, for those who follow the changes of the tables. Each event has a number; a follower that is too slow
//! has to read everything again.

use std::collections::VecDeque;

use crate::{limits, sasp::Endpoint};

/// What has changed. The event says only that; a reader asks for what is so now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The verdicts, the standing, a quiesce or a fixed weight of an endpoint.
    Endpoint(Endpoint),
    /// Members, states, the policy or the doubt of a group.
    Group {
        /// The UID of its load balancer.
        lb_uid: Box<[u8]>,
        /// Its name.
        group: Box<[u8]>,
        /// What has changed, in one word.
        change: &'static str,
    },
    /// A load balancer.
    LoadBalancer {
        /// Its UID.
        lb_uid: Box<[u8]>,
        /// What has changed, in one word.
        change: &'static str,
    },
    /// Blindness began or ended somewhere.
    Blind,
    /// The operator's words.
    Words,
}

/// The newest [`limits::EVENTS_KEPT`] events.
#[derive(Default)]
pub(super) struct Feed {
    /// Nobody follows while this is false, and nothing is kept.
    on: bool,
    events: VecDeque<Event>,
    /// The number of events before those in `events`.
    before: u64,
}

impl Feed {
    pub(super) fn turn_on(&mut self) {
        self.on = true;
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Notes an event; it is made only if somebody follows.
    pub(super) fn note(&mut self, event: impl FnOnce() -> Event) {
        if !self.on {
            return;
        }
        if self.events.len() == limits::EVENTS_KEPT {
            self.events.pop_front();
            self.before += 1;
        }
        self.events.push_back(event());
    }

    /// The number of the newest event.
    pub(super) fn last(&self) -> u64 {
        self.before + self.events.len() as u64
    }

    /// At most so many events after number `after`; `None` if some of them are lost, or never were.
    pub(super) fn after(&self, after: u64, limit: usize) -> Option<impl Iterator<Item = &Event>> {
        let skip = after.checked_sub(self.before)?;
        (after <= self.last()).then(|| self.events.iter().skip(skip as usize).take(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_and_bounded() {
        let mut feed = Feed::default();
        feed.note(|| panic!("nobody follows"));
        feed.turn_on();
        assert_eq!(feed.after(0, 9).unwrap().count(), 0);
        assert!(feed.after(1, 9).is_none(), "of another daemon");
        for _ in 0..limits::EVENTS_KEPT {
            feed.note(|| Event::Blind);
        }
        feed.note(|| Event::Words);
        let last = feed.last();
        assert_eq!(last, limits::EVENTS_KEPT as u64 + 1);
        assert!(feed.after(0, 9).is_none(), "the first is lost");
        assert_eq!(feed.after(1, 9).unwrap().count(), 9);
        assert_eq!(feed.after(last - 1, 9).unwrap().collect::<Vec<_>>(), [&Event::Words]);
        assert_eq!(feed.after(last, 9).unwrap().count(), 0);
    }
}

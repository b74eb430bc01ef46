//! Whose TLS handshake has its turn, on one shard.
//!
//! A handshake costs the shard a hundred times what a message costs, and a stranger may ask for it. So only so many are
//! under way at a time, one source address has no more than a quarter of these, addresses that wait take turns, and
//! steps of handshakes are taken one at a time, when the established connections have had theirs.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::link::Slot;

/// Which part of all handshakes one source may have under way.
const SHARE: usize = 4;

/// The handshakes of a shard.
#[derive(Debug)]
pub(super) struct Handshakes {
    max: usize,
    under_way: usize,
    sources: HashMap<IpAddr, Source>,
    /// Sources of which some connection waits and may have its turn.
    ring: VecDeque<IpAddr>,
    /// Connections whose handshake can take a step, each once.
    runnable: VecDeque<Slot>,
}

/// One that has a handshake under way or waiting.
#[derive(Debug, Default)]
struct Source {
    under_way: usize,
    waiting: VecDeque<Slot>,
    /// It is in the ring.
    listed: bool,
}

impl Handshakes {
    /// Allows `max` at a time.
    pub(super) fn new(max: usize) -> Handshakes {
        Handshakes {
            max: max.max(1),
            under_way: 0,
            sources: HashMap::new(),
            ring: VecDeque::new(),
            runnable: VecDeque::new(),
        }
    }

    fn share(&self) -> usize {
        (self.max / SHARE).max(1)
    }

    /// A connection wants to begin.
    pub(super) fn ask(&mut self, source: IpAddr, slot: Slot) {
        let entry = self.sources.entry(source).or_default();
        entry.waiting.push_back(slot);
        self.list(source);
    }

    /// Gives the next connection its turn, if one may have it; [`Handshakes::end`] follows when it has ended.
    pub(super) fn begin(&mut self) -> Option<Slot> {
        if self.under_way >= self.max {
            return None;
        }
        let source = self.ring.pop_front()?;
        let entry = self.sources.get_mut(&source).expect("a source in the ring has an entry");
        entry.listed = false;
        let slot = entry.waiting.pop_front().expect("a source in the ring has a connection that waits");
        entry.under_way += 1;
        self.under_way += 1;
        self.list(source);
        Some(slot)
    }

    /// A connection that waits has ended.
    pub(super) fn forget(&mut self, source: IpAddr, slot: Slot) {
        let Some(entry) = self.sources.get_mut(&source) else { return };
        entry.waiting.retain(|waiting| *waiting != slot);
        if entry.waiting.is_empty() {
            if std::mem::take(&mut entry.listed) {
                self.ring.retain(|listed| *listed != source);
            }
            if entry.under_way == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// A connection that had its turn needs it no more.
    pub(super) fn end(&mut self, source: IpAddr) {
        let Some(entry) = self.sources.get_mut(&source) else { return };
        entry.under_way -= 1;
        self.under_way -= 1;
        if entry.under_way == 0 && entry.waiting.is_empty() {
            self.sources.remove(&source);
            return;
        }
        self.list(source);
    }

    /// Puts a source into the ring if one of its connections may have its turn.
    fn list(&mut self, source: IpAddr) {
        let share = self.share();
        let Some(entry) = self.sources.get_mut(&source) else { return };
        if !entry.listed && !entry.waiting.is_empty() && entry.under_way < share {
            entry.listed = true;
            self.ring.push_back(source);
        }
    }

    /// A connection can take a step of its handshake.
    pub(super) fn enqueue(&mut self, slot: Slot) {
        self.runnable.push_back(slot);
    }

    /// The next one that can.
    pub(super) fn next(&mut self) -> Option<Slot> {
        self.runnable.pop_front()
    }

    /// Whether there is something to do.
    pub(super) fn is_due(&self) -> bool {
        !self.runnable.is_empty() || (self.under_way < self.max && !self.ring.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(index: u32) -> Slot {
        Slot { index, generation: 0 }
    }

    fn source(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn sources_take_turns_and_have_a_quarter_each() {
        let mut handshakes = Handshakes::new(8);
        (0..10).for_each(|index| handshakes.ask(source(1), slot(index)));
        handshakes.ask(source(2), slot(20));
        let begun = |handshakes: &mut Handshakes| {
            std::iter::from_fn(|| handshakes.begin()).map(|slot| slot.index).collect::<Vec<_>>()
        };
        assert_eq!(begun(&mut handshakes), [0, 20, 1], "two of the first, who has a quarter of eight");
        assert!(!handshakes.is_due());
        handshakes.end(source(2));
        assert!(begun(&mut handshakes).is_empty(), "the first has its share still");
        handshakes.end(source(1));
        assert_eq!(begun(&mut handshakes), [2]);
        (0..3).for_each(|last| handshakes.ask(source(10 + last), slot(30 + u32::from(last))));
        (0..4).for_each(|last| handshakes.ask(source(20 + last), slot(40 + u32::from(last))));
        assert_eq!(begun(&mut handshakes), [30, 31, 32, 40, 41, 42], "eight in all");
        (0..2).for_each(|_| handshakes.end(source(1)));
        assert_eq!(begun(&mut handshakes), [43, 3]);
    }

    #[test]
    fn who_ends_while_it_waits_is_passed_over() {
        let mut handshakes = Handshakes::new(4);
        (0..3).for_each(|index| handshakes.ask(source(1), slot(index)));
        handshakes.ask(source(2), slot(3));
        assert_eq!(handshakes.begin(), Some(slot(0)));
        handshakes.forget(source(1), slot(1));
        handshakes.forget(source(2), slot(3));
        handshakes.end(source(1));
        assert_eq!(handshakes.begin(), Some(slot(2)));
        assert_eq!(handshakes.begin(), None);
        handshakes.end(source(1));
        assert!(handshakes.sources.is_empty() && handshakes.ring.is_empty());
    }

    #[test]
    fn nothing_is_remembered_of_who_has_ended() {
        let mut handshakes = Handshakes::new(4);
        for index in 0..100 {
            handshakes.ask(source(1), slot(index));
        }
        for index in 0..100 {
            assert_eq!(handshakes.begin(), Some(slot(index)));
            handshakes.end(source(1));
        }
        assert!(handshakes.sources.is_empty() && handshakes.ring.is_empty() && handshakes.under_way == 0);
    }
}

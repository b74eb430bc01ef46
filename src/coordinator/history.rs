//! The last changes of each endpoint, for people who ask why.

use std::{collections::VecDeque, fmt};

use super::ids::{Column, EndpointId, Id};
use crate::{
    judgement::{Policy, StandingChange, Verdict},
    limits,
    sasp::Escaped,
    time::Time,
};

/// An endpoint keeps so many changes though there are [`limits::CHANGES_KEPT`] of all endpoints together.
const KEPT_WHEN_FULL: usize = 8;

/// Endpoints that are looked at, at most, for a change to drop.
const LOOKS: usize = 32;

/// What happened to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A group lists it now.
    Registered,
    /// Its standing.
    Standing(StandingChange),
    /// Only its verdicts.
    Verdicts,
    /// Somebody quiesced it.
    Quiesced(Box<Who>),
    /// Somebody resumed it.
    Resumed(Box<Who>),
    /// The operator fixed its weight.
    Fixed(Box<Who>),
    /// The fixed weight ended.
    Released(Box<Who>),
}

impl What {
    /// Whether it happened to an endpoint in all groups, or in this one (the UID of its load balancer, its name).
    pub(super) fn concerns(&self, group: Option<(&[u8], &[u8])>) -> bool {
        match self {
            What::Quiesced(who) | What::Resumed(who) | What::Fixed(who) | What::Released(who) => {
                who.group.as_ref().is_none_or(|place| group == Some((&place.lb_uid, &place.name)))
            }
            What::Registered | What::Standing(_) | What::Verdicts => true,
        }
    }
}

/// By whose word something is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The member or its load balancer, by SASP.
    Sasp,
    /// The members file.
    File,
    /// The operator; who and why, in words.
    Operator(Box<str>),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Sasp => f.write_str("SASP (the member or its load balancer)"),
            By::File => f.write_str("the members file"),
            By::Operator(who) => f.write_str(who),
        }
    }
}

/// Who did something, and in which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// By whose word.
    pub by: By,
    /// `None`: in all groups.
    pub group: Option<InGroup>,
}

/// The name of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InGroup {
    /// The UID of its load balancer.
    pub lb_uid: Box<[u8]>,
    /// Its own name.
    pub name: Box<[u8]>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.by.fmt(f)?;
        match &self.group {
            None => Ok(()),
            Some(InGroup { lb_uid, name }) => {
                write!(f, ", in group \"{}\" of load balancer \"{}\"", Escaped(name), Escaped(lb_uid))
            }
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When.
    pub at: Time,
    /// What.
    pub what: What,
    /// The verdicts after the change.
    pub verdicts: [Verdict; Policy::ALL.len()],
}

/// The changes of an endpoint, newest last. A type of its own, so that an endpoint without changes takes 8 bytes.
#[derive(Clone, Default)]
struct Ring(VecDeque<Past>);

/// The changes of all endpoints.
pub(super) struct History {
    on: bool,
    rings: Column<EndpointId, Option<Box<Ring>>>,
    total: usize,
    /// The endpoint that is looked at next for a change to drop.
    hand: usize,
    max: usize,
}

impl History {
    pub(super) fn new() -> History {
        History { on: false, rings: Column::new(), total: 0, hand: 0, max: limits::CHANGES_KEPT }
    }

    pub(super) fn turn_on(&mut self) {
        self.on = true;
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// How many changes are kept.
    pub(super) fn len(&self) -> usize {
        self.total
    }

    /// Keeps a change.
    pub(super) fn note(&mut self, id: EndpointId, past: Past) {
        if !self.on {
            return;
        }
        let full = self.total >= self.max && !self.drop_one();
        if self.rings.get(id).is_none() {
            self.rings.set(id, None);
        }
        let Ring(ring) = &mut **self.rings[id].get_or_insert_default();
        if ring.len() == limits::CHANGES_PER_ENDPOINT || full {
            if ring.pop_front().is_none() {
                return; // there is room for none
            }
            self.total -= 1;
        }
        ring.push_back(past);
        self.total += 1;
    }

    /// Drops the oldest change of an endpoint that has many; whether one was found soon.
    fn drop_one(&mut self) -> bool {
        for _ in 0..LOOKS {
            self.hand = if self.hand + 1 < self.rings.len() { self.hand + 1 } else { 0 };
            let ring = self.rings.get_mut(EndpointId::at(self.hand)).and_then(Option::as_mut);
            if let Some(ring) = ring.filter(|ring| ring.0.len() > KEPT_WHEN_FULL) {
                ring.0.pop_front();
                self.total -= 1;
                return true;
            }
        }
        false
    }

    /// Forgets an endpoint.
    pub(super) fn forget(&mut self, id: EndpointId) {
        if let Some(ring) = self.rings.get_mut(id).and_then(Option::take) {
            self.total -= ring.0.len();
        }
    }

    /// The changes of an endpoint, newest first.
    pub(super) fn of(&self, id: EndpointId) -> impl Iterator<Item = &Past> {
        self.rings.get(id).and_then(Option::as_deref).into_iter().flat_map(|ring| ring.0.iter().rev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{judgement::Share, sasp::EntryFlags};

    fn past(at: u64) -> Past {
        let verdict = Verdict { flags: EntryFlags::NONE, share: Share::Weight(0) };
        Past { at: Time(at), what: What::Verdicts, verdicts: [verdict; 4] }
    }

    fn times(history: &History, id: usize) -> Vec<u64> {
        history.of(EndpointId::at(id)).map(|past| past.at.0).collect()
    }

    #[test]
    fn the_last_64_of_each_endpoint_are_kept() {
        let mut history = History::new();
        history.note(EndpointId::at(1), past(0));
        assert_eq!(history.len(), 0, "nobody asks");
        history.turn_on();
        (0..100).for_each(|at| history.note(EndpointId::at(1), past(at)));
        history.note(EndpointId::at(5), past(7));
        assert_eq!(times(&history, 1), (36..100).rev().collect::<Vec<_>>());
        assert_eq!(times(&history, 5), [7]);
        assert_eq!(history.len(), 65);
        history.forget(EndpointId::at(1));
        assert_eq!((history.len(), times(&history, 1).len()), (1, 0));
    }

    #[test]
    fn all_together_are_bounded_and_the_quiet_keep_theirs() {
        let mut history = History::new();
        history.turn_on();
        history.max = 100;
        history.note(EndpointId::at(0), past(1));
        for at in 0..1000 {
            history.note(EndpointId::at(1 + at as usize % 20), past(at));
            assert!(history.len() <= 100);
        }
        assert_eq!(times(&history, 0), [1]);
        assert!((1..21).all(|id| times(&history, id).first().is_some_and(|&at| at >= 980)), "the newest are there");
    }
}

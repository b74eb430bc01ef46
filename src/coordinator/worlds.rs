//! Blindness: the GWM itself is cut off, so what it finds about members is no news about them.
//!
//! This machine's own addresses and all others are two [`World`]s: an answer in one proves nothing about the network of
//! the other. Each world is judged by itself, by what is watched in it: members, and the operator's witnesses.
//!
//! An endpoint *answers* while it is up, or if it answered its last check, however badly. A world is *blind* if nothing
//! in it answers, and
//!
//! - endpoints at two addresses or more had answered before (one server that dies, with all its ports, is a dead
//!   server); in a fleet, other nodes count if this one has looked, too; or
//! - nothing in it has answered this GWM yet, and its checks found endpoints at two addresses or more without contact: a
//!   GWM that starts without a network drains nobody.
//!
//! An endpoint that is no longer watched is forgotten, with the fact that its address had answered.
//!
//! In a blind world no member is confident. Members that lost contact lately are shown with contact and the weight that
//! they had: within [`Worlds::lately`], before the world became blind or since then. Blindness ends with the first
//! answer. Then follows one *recovery*, the time that the slowest of them needs to fall or to rise: until it ends,
//! members that are not up yet are shown as before.

use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, hash_map::Entry};

use crate::{roster::Times, time::Time};

/// A part of the network whose answers prove nothing about the other part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum World {
    /// This machine's own addresses.
    Own,
    /// All other addresses.
    Foreign,
}

impl World {
    /// Both worlds; the index is `World as usize`.
    pub const ALL: [World; 2] = [World::Own, World::Foreign];
}

/// What the GWM knows of a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sight {
    /// Something answers, or there is no reason to expect an answer.
    #[default]
    Clear,
    /// The world is blind.
    Blind,
    /// The world was blind. Until this time endpoints that are not up again are shown as before.
    Recovering(Time),
}

/// How the sight of a world has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The world is blind.
    Blinded,
    /// Something answers again, or nothing is left that could.
    Answered,
    /// The recovery has ended.
    Recovered,
}

/// What the rule needs of one watched endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The endpoint answers.
    pub(super) answers: bool,
    /// It has answered while it was watched, this node or another one.
    pub(super) has_answered: bool,
    /// It has answered this node.
    pub(super) answered_here: bool,
    /// It has contact, or is not judged yet.
    pub(super) contact: bool,
}

impl Evidence {
    /// Of an endpoint that is not watched.
    pub(super) const NONE: Evidence =
        Evidence { answers: false, has_answered: false, answered_here: false, contact: true };
}

/// The number of endpoints at each address.
struct Tally(HashMap<[u8; 16], u32, FixedState>);

impl Tally {
    fn add(&mut self, address: [u8; 16]) {
        *self.0.entry(address).or_insert(0) += 1;
    }

    fn remove(&mut self, address: [u8; 16]) {
        if let Entry::Occupied(mut count) = self.0.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn addresses(&self) -> usize {
        self.0.len()
    }
}

/// One world.
struct State {
    /// How many endpoints answer.
    answering: u32,
    /// How many endpoints have answered this node.
    answered_here: u32,
    /// The endpoints that have answered.
    answered: Tally,
    /// The endpoints without contact.
    lost: Tally,
    /// The longest fall window and the longest recovery of the endpoints that lost contact.
    fall_window: Duration,
    recovery: Duration,
    sight: Sight,
}

/// Both worlds.
pub(super) struct Worlds {
    states: [State; 2],
    panic_time: Duration,
}

impl Worlds {
    pub(super) fn new(panic_time: Duration, hasher: &FixedState) -> Worlds {
        let tally = || Tally(HashMap::with_hasher(hasher.clone()));
        let state = |_| State {
            answering: 0,
            answered_here: 0,
            answered: tally(),
            lost: tally(),
            fall_window: Duration::ZERO,
            recovery: Duration::ZERO,
            sight: Sight::Clear,
        };
        Worlds { states: World::ALL.map(state), panic_time }
    }

    pub(super) fn sight(&self, world: World) -> Sight {
        self.states[world as usize].sight
    }

    /// How many endpoints of the world answer.
    pub(super) fn answering(&self, world: World) -> usize {
        self.states[world as usize].answering as usize
    }

    /// Replaces what is known of an endpoint of this world.
    pub(super) fn note(&mut self, world: World, address: [u8; 16], before: Evidence, after: Evidence) {
        let state = &mut self.states[world as usize];
        state.answering = state.answering + u32::from(after.answers) - u32::from(before.answers);
        state.answered_here = state.answered_here + u32::from(after.answered_here) - u32::from(before.answered_here);
        for (tally, was, is) in [
            (&mut state.answered, before.has_answered, after.has_answered),
            (&mut state.lost, !before.contact, !after.contact),
        ] {
            match (was, is) {
                (false, true) => tally.add(address),
                (true, false) => tally.remove(address),
                _ => {}
            }
        }
    }

    /// An endpoint with these times has lost contact.
    pub(super) fn lose(&mut self, world: World, times: &Times) {
        let state = &mut self.states[world as usize];
        state.fall_window = state.fall_window.max(times.fall_window());
        state.recovery = state.recovery.max(times.fall_window()).max(times.rise_window());
    }

    /// How long a loss of contact is recent: until any doubt is over that the loss may be a part of.
    pub(super) fn lately(&self, world: World) -> Duration {
        self.states[world as usize].fall_window + self.panic_time
    }

    /// Applies the rule to a world; how its sight has changed.
    pub(super) fn decide(&mut self, now: Time, world: World) -> Option<Turn> {
        let state = &mut self.states[world as usize];
        let (answered, lost) = (state.answered.addresses(), state.lost.addresses());
        let reason = match state.sight {
            Sight::Blind => answered > 0 || lost > 0,
            _ => answered > 1 || state.answered_here == 0 && lost > 1,
        };
        let blind = state.answering == 0 && reason;
        let (sight, turn) = match state.sight {
            Sight::Blind if blind => return None,
            _ if blind => (Sight::Blind, Turn::Blinded),
            Sight::Blind => (Sight::Recovering(now + state.recovery), Turn::Answered),
            Sight::Recovering(until) if until <= now => (Sight::Clear, Turn::Recovered),
            _ => return None,
        };
        state.sight = sight;
        Some(turn)
    }

    /// When [`Worlds::decide`] does something though nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let ends = self.states.iter().filter_map(|state| match state.sight {
            Sight::Recovering(until) => Some(until),
            _ => None,
        });
        ends.min()
    }
}

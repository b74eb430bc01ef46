//! All memberships at one GWM, and the session with it, as a state machine: when to connect, what to ask next. No I/O, no
//! clock, no random numbers.
//!
//! After the end of a session each agent waits for a time of its own, up to `retry`, before it connects again: so the
//! agents of a farm come back to a restarted GWM one after the other. Requests of a session wait for no more than the
//! answer to the one before.

use std::time::Duration;

use super::membership::{Membership, News, Request, Timing, Wish};
use crate::{sasp::ReturnCode, time::Time};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connect, then say [`Machine::connected`] or [`Machine::lost`].
    Connect,
    /// Send this request about this membership, then say [`Machine::answered`] or [`Machine::lost`].
    Ask(usize, Request),
    /// Nothing before this time or an event; `None`: nothing before an event.
    Wait(Option<Time>),
}

/// All memberships at one GWM.
#[derive(Clone, Debug)]
pub struct Machine {
    timing: Timing,
    memberships: Vec<Membership>,
    connected: bool,
    /// The last session, or try of one, has failed without an answer of the GWM.
    failing: bool,
    /// No connection before this.
    connect_at: Time,
    asked: Option<usize>,
    /// The membership that is looked at first, so that each has its turn.
    turn: usize,
}

impl Machine {
    /// Memberships, each `own` or not (see [`Membership::new`]).
    pub fn new(timing: Timing, own: impl IntoIterator<Item = bool>) -> Machine {
        let memberships = own.into_iter().map(|own| Membership::new(timing, own)).collect();
        Machine {
            timing,
            memberships,
            connected: false,
            failing: false,
            connect_at: Time::default(),
            asked: None,
            turn: 0,
        }
    }

    /// Takes the memberships out, between two requests.
    pub fn take(&mut self) -> Vec<Membership> {
        self.turn = 0;
        std::mem::take(&mut self.memberships)
    }

    /// Other memberships from now on, between two requests.
    pub fn put(&mut self, memberships: Vec<Membership>) {
        self.memberships = memberships;
        if self.connected {
            self.memberships.iter_mut().for_each(Membership::session_began);
        }
    }

    /// The memberships, in their order.
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// Whether a session exists.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Says what a membership is to become.
    pub fn wish(&mut self, now: Time, membership: usize, wish: Wish) {
        if let Some(membership) = self.memberships.get_mut(membership) {
            membership.wish(now, wish);
        }
    }

    /// Confirms a registration at once; see [`Membership::confirm`].
    pub fn confirm(&mut self, membership: usize, own: bool) {
        if let Some(membership) = self.memberships.get_mut(membership) {
            membership.confirm(own);
        }
    }

    /// What to do next.
    pub fn next(&mut self, now: Time) -> Step {
        if self.asked.is_some() {
            return Step::Wait(None);
        }
        let count = self.memberships.len();
        let mut earliest = None;
        for at in (self.turn..count).chain(0..self.turn) {
            let Some((due, request)) = self.memberships[at].due() else { continue };
            if due > now {
                earliest = Some(earliest.map_or(due, |earliest: Time| earliest.min(due)));
                continue;
            }
            if !self.connected {
                return if self.connect_at <= now { Step::Connect } else { Step::Wait(Some(self.connect_at)) };
            }
            self.memberships[at].ask(request);
            (self.asked, self.turn) = (Some(at), (at + 1) % count);
            return Step::Ask(at, request);
        }
        Step::Wait(earliest)
    }

    /// A session has begun.
    pub fn connected(&mut self) {
        self.connected = true;
        self.memberships.iter_mut().for_each(Membership::session_began);
    }

    /// The session has ended, or could not begin. `random` is from 0 to 1.
    pub fn lost(&mut self, now: Time, random: f64) {
        self.asked = None;
        self.memberships.iter_mut().for_each(Membership::session_ended);
        self.connected = false;
        // After the first failure from 0 to `retry`, so that a farm is spread evenly; later at least half of it.
        let share = if self.failing { 0.5 + random / 2.0 } else { random };
        self.failing = true;
        self.connect_at = now + self.timing.retry.mul_f64(share);
    }

    /// The GWM has answered the request; `random` is from 0 to 1.
    pub fn answered(&mut self, now: Time, code: ReturnCode, random: f64) -> Option<News> {
        self.failing = false;
        self.memberships.get_mut(self.asked.take()?)?.answered(now, code, random)
    }

    /// How long until the next connection.
    pub fn connects_in(&self, now: Time) -> Duration {
        self.connect_at.since(now)
    }

    /// Connects without a further wait: the agent is about to end.
    pub fn hurry(&mut self) {
        self.connect_at = Time::default();
    }
}

#[cfg(test)]
mod tests;

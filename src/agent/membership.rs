//! One service's place in one group of one load balancer at one GWM, as a state machine: what to ask next, and when. No
//! I/O, no clock, no random numbers: the time and a number from 0 to 1 are arguments.

use std::time::Duration;

use crate::{sasp::ReturnCode, time::Time};

/// How long the machines wait.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before the second try after a refusal; each further wait is twice as long.
    pub first_wait: Duration,
    /// The longest wait between two tries, and the spread of new connections.
    pub retry: Duration,
    /// From one confirmation of a registration to the next.
    pub refresh: Duration,
}

/// What a member says of itself: both travel in one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// It takes no new work.
    pub quiesce: bool,
    /// Its opaque state.
    pub opaque: u8,
}

/// What a membership is to become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: the service has not answered yet.
    #[default]
    Wait,
    /// Registered, with these words.
    Stay(Words),
    /// These words if it is registered; no registration if it is not.
    Leave(Words),
    /// Deregistered, if this agent registered it. What the load balancer registered stays.
    Gone,
}

/// What to ask of the GWM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Register; of a registered member also the question whether the GWM still knows the member.
    Register,
    /// Set Member State.
    Say(Words),
    /// Deregister, learned and purposeful.
    Deregister,
}

/// What an answer has changed, for the log and for what outlives the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The GWM has registered the member at this agent's request.
    Registered,
    /// The GWM knew the member already.
    Found,
    /// The GWM has forgotten the member.
    Lost,
    /// The GWM no longer has the member, at this agent's request.
    Deregistered,
    /// The GWM refuses a request; told once for each code.
    Refused(Request, ReturnCode),
}

/// What the GWM has, as far as its answers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// It may have the member or not: no answer of this session says so.
    Unknown,
    No,
    Yes,
}

/// A membership.
#[derive(Clone, Debug)]
pub struct Membership {
    timing: Timing,
    wish: Wish,
    held: Held,
    /// It was held once: while `held` is unknown, it may still be.
    was_held: bool,
    /// A session exists.
    session: bool,
    /// This agent, or an earlier life of it, registered it.
    own: bool,
    /// The words that the GWM has heard last; `None` if unknown.
    said: Option<Words>,
    /// Refusals in a row.
    refusals: u32,
    /// The last refusal, until a request of its kind succeeds.
    waits: Option<(Request, ReturnCode)>,
    /// No request before this.
    not_before: Time,
    /// When the registration is confirmed next.
    confirm_at: Time,
    asked: Option<Request>,
}

impl Membership {
    /// A membership of which no GWM knows yet, or `own`: one that an earlier life of this agent registered.
    pub fn new(timing: Timing, own: bool) -> Membership {
        Membership {
            timing,
            wish: Wish::Wait,
            held: Held::Unknown,
            was_held: own,
            session: false,
            own,
            said: None,
            refusals: 0,
            waits: None,
            not_before: Time::default(),
            confirm_at: Time::default(),
            asked: None,
        }
    }

    /// Says what it is to become. Another wish is tried at once, even if the last one waits after a refusal.
    pub fn wish(&mut self, now: Time, wish: Wish) {
        if wish == self.wish {
            return;
        }
        let other_kind = std::mem::discriminant(&wish) != std::mem::discriminant(&self.wish);
        self.wish = wish;
        if other_kind {
            (self.refusals, self.not_before) = (0, now);
        }
    }

    /// Whether the GWM has the member, as far as its answers say.
    pub fn is_registered(&self) -> bool {
        self.held == Held::Yes
    }

    /// Whether the GWM has heard what the wish is, or nothing needs to be told.
    pub fn is_told(&self) -> bool {
        self.needed().is_none()
    }

    /// Whether this agent, or an earlier life of it, registered the member, as far as the GWM's answers say.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// The refusal that it waits after.
    pub fn waits(&self) -> Option<(Request, ReturnCode)> {
        self.waits
    }

    /// What the wish needs, whenever that may be asked.
    fn needed(&self) -> Option<Request> {
        let to_say = |words| (self.said != Some(words)).then_some(Request::Say(words));
        match (self.wish, self.held) {
            (Wish::Wait, _) => None,
            (Wish::Stay(_), Held::Unknown | Held::No) => Some(Request::Register),
            (Wish::Stay(words) | Wish::Leave(words), Held::Yes) => to_say(words),
            (Wish::Leave(words), Held::Unknown) if self.was_held => Some(Request::Say(words)),
            // The load balancer may have registered it. Only a session that exists is used, and a refusal is enough.
            (Wish::Leave(words), Held::Unknown) if self.session && self.waits.is_none() => Some(Request::Say(words)),
            (Wish::Leave(_), _) => None,
            (Wish::Gone, Held::Yes) if self.own => Some(Request::Deregister),
            (Wish::Gone, Held::Unknown) if self.own && self.was_held => Some(Request::Deregister),
            (Wish::Gone, _) => None,
        }
    }

    /// The next request and its time; `None` if there is none until something happens.
    pub fn due(&self) -> Option<(Time, Request)> {
        if self.asked.is_some() {
            return None;
        }
        match (self.needed(), self.wish) {
            (Some(request), _) => Some((self.not_before, request)),
            (None, Wish::Stay(_)) => Some((self.confirm_at.max(self.not_before), Request::Register)),
            (None, _) => None,
        }
    }

    /// The request was sent.
    pub fn ask(&mut self, request: Request) {
        self.asked = Some(request);
    }

    /// Confirms a registration at once: another agent may have deregistered the member. `own`: the other one had registered
    /// it, and leaves it to this one.
    pub fn confirm(&mut self, own: bool) {
        self.own |= own;
        self.was_held |= own;
        self.confirm_at = Time::default();
    }

    /// A session has begun.
    pub fn session_began(&mut self) {
        self.session = true;
    }

    /// The session has ended, perhaps before an answer.
    pub fn session_ended(&mut self) {
        self.session = false;
        match self.asked.take() {
            Some(Request::Say(_)) => self.said = None, // nobody knows whether it arrived
            Some(Request::Register) => self.was_held = true,
            _ => {}
        }
        if self.held == Held::Yes {
            self.held = Held::Unknown;
        }
        // A GWM that was restarted may accept what it refused.
        (self.refusals, self.not_before) = (0, Time::default());
    }

    /// The GWM has answered. `random` is from 0 to 1.
    pub fn answered(&mut self, now: Time, code: ReturnCode, random: f64) -> Option<News> {
        let request = self.asked.take()?;
        match (request, code) {
            (Request::Register, ReturnCode::SUCCESSFUL) => {
                let known_before = std::mem::replace(&mut self.held, Held::Yes) == Held::Yes;
                (self.was_held, self.own, self.said) = (true, true, Some(Words::default()));
                self.done(now, request, random);
                Some(if known_before { News::Lost } else { News::Registered })
            }
            (Request::Register, ReturnCode::ALREADY_REGISTERED) => {
                let news = self.said.is_none().then_some(News::Found);
                (self.held, self.was_held) = (Held::Yes, true);
                self.done(now, request, random);
                news
            }
            (Request::Say(words), ReturnCode::SUCCESSFUL) => {
                (self.held, self.was_held, self.said) = (Held::Yes, true, Some(words));
                self.done(now, request, random);
                None
            }
            (Request::Deregister, ReturnCode::SUCCESSFUL) => {
                self.forget();
                self.done(now, request, random);
                Some(News::Deregistered)
            }
            // The GWM does not have the member: it was restarted, it forgot the load balancer, or someone deregistered it.
            (
                Request::Say(_) | Request::Deregister,
                ReturnCode::NOT_REGISTERED
                | ReturnCode::UNKNOWN_GROUP
                | ReturnCode::UNKNOWN_LB_UID
                | ReturnCode::LB_NOT_CONTACTED,
            ) => {
                let was_held = self.was_held;
                self.forget();
                self.delay(now, random);
                (was_held && request != Request::Deregister).then_some(News::Lost)
            }
            (request, code) => {
                match (request, code) {
                    (Request::Register, ReturnCode::LB_NOT_CONTACTED) => self.forget(),
                    // It may not leave: a further try changes nothing.
                    (Request::Deregister, _) => self.own = false,
                    // What the GWM had, it has.
                    _ => {}
                }
                self.delay(now, random);
                let told = self.waits.replace((request, code));
                (told != self.waits).then_some(News::Refused(request, code))
            }
        }
    }

    /// The GWM does not have the member; one that it has later is another registration.
    fn forget(&mut self) {
        (self.held, self.was_held, self.own, self.said) = (Held::No, false, false, None);
    }

    /// A request has succeeded: the next confirmation has its time, up to a quarter earlier at random.
    fn done(&mut self, now: Time, request: Request, random: f64) {
        let same_kind =
            |(waiting, _): (Request, ReturnCode)| std::mem::discriminant(&waiting) == std::mem::discriminant(&request);
        if self.waits.is_some_and(same_kind) {
            self.waits = None;
        }
        if request == Request::Register {
            self.confirm_at = now + self.timing.refresh.mul_f64(1.0 - random * 0.25);
        }
        if self.needed().is_none() {
            // Not earlier: a GWM may say both "already registered" and "not registered".
            self.refusals = 0;
        }
        self.not_before = now;
    }

    /// The next request waits: twice as long with each refusal in a row, up to half of it less at random.
    fn delay(&mut self, now: Time, random: f64) {
        let doubled = self.timing.first_wait.saturating_mul(1 << self.refusals.min(16));
        let wait = doubled.min(self.timing.retry);
        self.refusals = self.refusals.saturating_add(1);
        self.not_before = now + wait.mul_f64(1.0 - random * 0.5);
    }
}

#[cfg(test)]
mod tests;

//! The fleet's date: which of two sessions of a load balancer was the later one, whatever the machines' clocks say.
//!
//! Clocks of machines differ, and jump. The fleet's date is that of the clock of one node when the node began, and runs with
//! the time that never jumps: an *era*. A node begins with an era of its own, and takes an older one over as soon as it
//! knows of one: it asks for the date with its row in the store, and the others answer with theirs. The date in an answer
//! was right at some time between the question and the answer, so the node knows how wrong its own date may be (Cristian,
//! 1989). Two dates of one era that differ by more than both may be wrong have an order for certain; dates of two eras have
//! none.

use super::rows::Stamp;
use crate::{
    journal::{Date, FleetDate},
    time::Time,
};

/// Two dates are never nearer than this for certain, in milliseconds: a coordinator's turn, and whole milliseconds.
const SLACK: u64 = 20;

/// A node's time runs so much too fast or too slowly at most: a part in so many.
const DRIFT: u64 = 5000;

/// After so long a node asks again, unless its date may be wrong by much; then after the second of these.
const ASK_AGAIN: [u64; 2] = [300_000, 10_000];

/// A date may be wrong by much, if by more than this, in milliseconds.
const MUCH: u64 = 200;

/// If the machine's clock has run ahead of the time by so many milliseconds, the machine may have slept: the time stood
/// still then, and nobody knows how long.
const SLEPT: i128 = 1000;

/// What a node's row tells of the fleet's date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The date when the row was made.
    pub(super) date: Date,
    /// The date's era; an older era has a lower number.
    pub(super) era: u64,
    /// How wrong the date may be, in milliseconds.
    pub(super) error: u64,
    /// The node wants to know the date.
    pub(super) asks: bool,
    /// The newest revision of the store that the node had seen: so it answers what was asked before that.
    pub(super) seen: i64,
}

/// An era, as this node knows it.
struct Era {
    number: u64,
    /// It was this date at this time.
    at: Time,
    date: Date,
    /// How wrong that may have been, in milliseconds.
    error: u64,
    /// How much the machine's clock was ahead of the date, in milliseconds, when that was least.
    lead: i128,
}

impl Era {
    fn date(&self, time: Time) -> Date {
        let passed = milliseconds(self.at, time);
        Date(if time >= self.at { self.date.0.saturating_add(passed) } else { self.date.0.saturating_sub(passed) })
    }

    /// How wrong a date may be that is told now.
    fn error(&self, now: Time) -> u64 {
        self.error.saturating_add(milliseconds(self.at, now) / DRIFT)
    }
}

/// A question for the date.
#[derive(Default)]
struct Question {
    /// When the row was made that asks, and which date it tells.
    asked: Option<(Time, Date)>,
    /// The revision of the store that has the row.
    revision: Option<i64>,
}

/// The clock of one node.
pub(super) struct Clock {
    /// A hash of the node and its life.
    life: u32,
    era: Option<Era>,
    question: Option<Question>,
    /// When the last question was answered.
    answered: Time,
    /// The machine has not slept since.
    awake: Time,
}

/// The time between two points in time.
fn milliseconds(one: Time, other: Time) -> u64 {
    one.0.abs_diff(other.0) / 1_000_000
}

impl Clock {
    pub(super) fn new(life: u32) -> Clock {
        Clock { life, era: None, question: None, answered: Time::default(), awake: Time::default() }
    }

    /// The era; `machine` is the date by the machine's clock.
    fn era(&mut self, now: Time, machine: Date) -> &mut Era {
        let life = u64::from(self.life & 0xF_FFFF);
        let lead = |era: &Era| i128::from(machine.0) - i128::from(era.date(now).0);
        if self.era.as_ref().is_some_and(|era| lead(era) > era.lead + SLEPT) {
            (self.era, self.awake) = (None, now);
            self.question = Some(Question::default());
        }
        // 44 bits of milliseconds reach to the year 2527. An older era has a lower number.
        let begin = || Era { number: machine.0 << 20 | life, at: now, date: machine, error: 0, lead: 0 };
        let era = self.era.get_or_insert_with(begin);
        let least = era.lead.min(lead(&*era));
        era.lead = least;
        era
    }

    /// The number of the era; 0: there is none yet.
    pub(super) fn number(&self) -> u64 {
        self.era.as_ref().map_or(0, |era| era.number)
    }

    /// How wrong the date was when it was told, in milliseconds.
    pub(super) fn error(&self) -> u64 {
        self.era.as_ref().map_or(0, |era| era.error)
    }

    /// The date at a time.
    pub(super) fn date(&mut self, time: Time, machine: Date) -> Date {
        self.era(time, machine).date(time)
    }

    /// What the next life of this node has to know of the fleet's date.
    pub(super) fn fleet_date(&mut self, now: Time, machine: Date) -> FleetDate {
        let Era { number: era, at, date, error, .. } = *self.era(now, machine);
        FleetDate { era, at, date, error, awake: self.awake }
    }

    /// A session that began at this time at this node, with what is to be known of its date, for [`is_later`]; `None`: the
    /// machine has slept since.
    pub(super) fn mark(&mut self, session: &Stamp, began: Time, now: Time, machine: Date) -> Option<Stamp> {
        let era = self.era(now, machine);
        let error = era.error(now).saturating_add(SLACK + milliseconds(began, now) / DRIFT);
        let (date, node) = (era.date(began), marked(&session.node, era.number, error));
        (began >= self.awake).then_some(Stamp { date, node })
    }

    /// The node's row has to be written again, to ask for the date.
    pub(super) fn wants(&mut self, now: Time) -> bool {
        let Some(era) = self.era.as_ref().filter(|_| self.question.is_none()) else { return false };
        let pause = ASK_AGAIN[usize::from(era.error(now) > MUCH)];
        let wants = milliseconds(self.answered, now) >= pause;
        if wants {
            self.question = Some(Question::default());
        }
        wants
    }

    /// What the node's row tells that is made now. The node has seen the store up to the revision `seen`.
    pub(super) fn tell(&mut self, now: Time, machine: Date, seen: i64) -> Told {
        let era = self.era(now, machine);
        let (date, number, error) = (era.date(now), era.number, era.error(now));
        let asks = self.question.is_some();
        if let Some(question) = self.question.as_mut().filter(|question| question.revision.is_none()) {
            question.asked = Some((now, date)); // whether an earlier row came to the store, nobody knows
        }
        Told { date, era: number, error, asks, seen }
    }

    /// The store has the node's own row, of this life.
    pub(super) fn is_told(&mut self, told: &Told, revision: i64) {
        if let Some(question) = &mut self.question
            && question.revision.is_none()
            && question.asked.is_some_and(|(_, date)| date == told.date)
            && told.asks
        {
            question.revision = Some(revision);
        }
    }

    /// The node's row is to be written anew: perhaps into another store.
    pub(super) fn ask_anew(&mut self) {
        if let Some(question) = &mut self.question {
            *question = Question::default();
        }
    }

    /// The row of another node tells this; says whether this node has something to tell or to ask then.
    pub(super) fn hear(&mut self, told: &Told, now: Time, machine: Date) -> bool {
        let era = self.era(now, machine);
        let (is_older, own_error) = (told.era < era.number, era.error(now));
        if told.era > era.number {
            return false; // that node asks when it hears of this one
        }
        let question = self.question.as_ref();
        let asked = question.filter(|question| question.revision.is_some_and(|revision| told.seen >= revision));
        let Some((asked, _)) = asked.and_then(|question| question.asked) else {
            let must_ask = is_older && self.question.is_none();
            if must_ask {
                self.question = Some(Question::default());
            }
            return must_ask;
        };
        let error = told.error.saturating_add(milliseconds(asked, now) + 1);
        if is_older || error < own_error {
            let lead = i128::from(machine.0) - i128::from(told.date.0);
            self.era = Some(Era { number: told.era, at: now, date: told.date, error, lead });
        }
        (self.question, self.answered) = (None, now);
        true
    }
}

/// A session that began at this time at a former life of the node, which knew this of the fleet's date; as [`Clock::mark`].
pub(super) fn marked_before(node: &str, known: &FleetDate, began: Time) -> Option<Stamp> {
    let FleetDate { era: number, at, date, error, awake } = *known;
    let era = Era { number, at, date, error, lead: 0 };
    let error = error.saturating_add(SLACK + milliseconds(at, began) / DRIFT);
    (began >= awake).then(|| Stamp { date: era.date(began), node: marked(node, number, error) })
}

/// The name of a session's node, with the era of the session's date, and how wrong the date may be. Versions before this
/// one only compare it.
fn marked(node: &str, era: u64, error: u64) -> Box<str> {
    format!("{}:{era:x}:{error}", plain(node)).into()
}

fn plain(node: &str) -> &str {
    node.split(':').next().unwrap_or_default()
}

/// The era of a session's date, and how wrong the date may be.
fn mark(session: &Stamp) -> Option<(u64, u64)> {
    let mut parts = session.node.split(':').skip(1);
    let era = u64::from_str_radix(parts.next()?, 16).ok()?;
    let error = parts.next()?.parse().ok()?;
    Some((era, error))
}

/// Whether a session began after another one, for certain.
pub(super) fn is_later(session: &Stamp, other: &Stamp) -> bool {
    let (Some((era, error)), Some((other_era, other_error))) = (mark(session), mark(other)) else { return false };
    let after = session.date.0.saturating_sub(other.date.0);
    era == other_era && after > error.saturating_add(other_error)
}

/// A session of which nothing is known.
pub(super) fn unknown() -> Stamp {
    Stamp { date: Date(0), node: "?".into() }
}

/// Whether a session is at this node.
pub(super) fn is_of(session: &Stamp, node: &str) -> bool {
    plain(&session.node) == node
}

/// Whether it is the same session, for certain.
pub(super) fn is_same(session: &Stamp, other: &Stamp) -> bool {
    let era = |session| mark(session).map(|(era, _)| era);
    session.date == other.date
        && is_of(session, plain(&other.node))
        && era(session).is_some()
        && era(session) == era(other)
}

/// The last session of two sides, of which both were `base`. If nobody knows which of them is later, then it is later or
/// earlier than no other session.
pub(super) fn last_session(base: Option<&Stamp>, one: &Stamp, other: &Stamp) -> Stamp {
    let nobody_spoke = Stamp::default();
    if base == Some(one) || one == other || *one == nobody_spoke {
        return other.clone();
    }
    if base == Some(other) || *other == nobody_spoke {
        return one.clone();
    }
    let Stamp { date, node } = one.max(other);
    let node = match (mark(one), mark(other)) {
        (Some((era, error)), Some((other_era, other_error))) if era == other_era => {
            marked(node, era, error.max(other_error))
        }
        _ => plain(node).into(),
    };
    Stamp { date: *date, node }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn session(node: &str) -> Stamp {
        Stamp { date: Date(1), node: node.into() }
    }

    /// Two nodes whose machines' clocks differ by a minute, after the second has asked the first; the answer took a second.
    fn two() -> [(Clock, Date); 2] {
        let [mut one, mut other] = [Clock::new(1), Clock::new(2)];
        let [first, second_date] = [Date(1_000_000), Date(1_060_000)];
        let told = one.tell(second(1), first, 1);
        assert!(other.hear(&told, second(1), second_date), "it asks");
        let asks = other.tell(second(2), Date(second_date.0 + 1000), 1);
        assert!(asks.asks && !one.hear(&asks, second(2), Date(first.0 + 1000)), "the era is a newer one");
        let early = one.tell(second(2), Date(first.0 + 1000), 1);
        other.is_told(&asks, 2);
        assert!(!other.hear(&early, second(3), Date(second_date.0 + 2000)), "that is no answer");
        let answer = one.tell(second(2), Date(first.0 + 1000), 2);
        assert!(other.hear(&answer, second(3), Date(second_date.0 + 2000)));
        assert_eq!(other.number(), one.number());
        [(one, first), (other, second_date)]
    }

    #[test]
    fn sessions_have_the_order_in_which_they_began_whatever_the_machines_clocks_say() {
        let [(mut one, first), (mut other, second_date)] = two();
        let mut at = |which: usize, began: u64| {
            let (clock, date) = if which == 0 { (&mut one, first) } else { (&mut other, second_date) };
            let machine = Date(date.0 - 500_000); // it has jumped back
            clock.mark(&session("a"), second(began), second(20), machine).expect("nobody slept")
        };
        for (earlier, later) in [(0, 1), (1, 0)] {
            let [before, after] = [at(earlier, 4), at(later, 8)];
            assert!(is_later(&after, &before) && !is_later(&before, &after), "{before:?} {after:?}");
            let near = at(later, 4);
            assert!(!is_later(&near, &before) && !is_later(&before, &near), "{before:?} {near:?}");
        }
        assert!(!is_later(&at(0, 8), &session("a")), "of which nothing is known");
    }

    #[test]
    fn after_a_sleep_nothing_is_certain_before_it_is_asked_for_again() {
        let [(mut one, _), (mut other, second_date)] = two();
        let before = other.mark(&session("a"), second(4), second(4), second_date).expect("it is awake");
        let machine = Date(second_date.0 + 600_000);
        assert_eq!(other.mark(&session("a"), second(4), second(5), machine), None);
        let after = other.mark(&session("a"), second(6), second(6), machine).expect("it is awake");
        assert!(!is_later(&after, &before) && !is_later(&before, &after));
        let asks = other.tell(second(6), machine, 5);
        other.is_told(&asks, 6);
        let answer = one.tell(second(6), Date(0), 6);
        assert!(asks.asks && other.hear(&answer, second(6), machine));
        let after = other.mark(&session("a"), second(6), second(6), machine).expect("it is awake");
        assert!(is_later(&after, &before));
    }

    #[test]
    fn the_last_of_two_sessions_is_one_that_is_known() {
        let stamp = |date, node: &str| Stamp { date: Date(date), node: node.into() };
        let [base, one, other] = [stamp(1, "a:1:5"), stamp(70, "a:1:10"), stamp(90, "b:1:7")];
        assert_eq!(last_session(Some(&base), &one, &other), stamp(90, "b:1:10"));
        assert_eq!(last_session(Some(&one), &one, &base), base, "it has spoken there since");
        assert_eq!(last_session(None, &one, &stamp(90, "b:2:7")), stamp(90, "b"));
        assert_eq!(last_session(None, &one, &unknown()), stamp(70, "a"));
        assert_eq!(last_session(None, &one, &Stamp::default()), one, "nobody has spoken there");
    }
}

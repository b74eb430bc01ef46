//! What a connector knows about itself and the real LB, for those who ask while it runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use super::{Observed, Pool, Standing, Wanted};
use crate::sasp::Endpoint;

/// What is known now.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The pools of the real LB.
    pub pools: Arc<Vec<Mapped>>,
    /// What the members of the pools may get.
    pub wanted: Arc<Vec<Wanted>>,
    /// The GWM of the session, while there is one.
    pub gwm: Option<String>,
    /// Since when there is no session, if there was one before.
    pub lost_since: Option<Instant>,
    /// Why the last look failed.
    pub look_fault: Option<String>,
    /// Why the last steps could not be taken.
    pub apply_fault: Option<String>,
    /// The steps that the real LB refused last, with its words.
    pub refused: Vec<String>,
    /// Looks that succeeded.
    pub looks: u64,
    /// Looks that failed.
    pub looks_failed: u64,
    /// Steps that the real LB has taken.
    pub steps_done: u64,
    /// Steps that the real LB has refused.
    pub steps_refused: u64,
    /// Times that steps could not be taken.
    pub applies_failed: u64,
    /// Changes of what members may get, the first one of each member too.
    pub weights_changed: u64,
    /// When the real LB has taken a step last.
    pub changed_at: Option<SystemTime>,
}

/// A pool and its group.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The pool.
    pub pool: Pool,
    /// `None` if the pool is left alone.
    pub group: Option<Box<[u8]>>,
}

/// Takes what the real LB tells, or why it tells nothing.
pub type Question = Box<dyn FnOnce(Result<Observed, String>) + Send>;

/// The most questions that wait for the connector, which may be busy with its real LB.
const QUESTIONS: usize = 64;

/// What the loop tells, and what it is asked.
#[derive(Default)]
pub struct Status(Mutex<State>);

#[derive(Default)]
struct State {
    told: Told,
    questions: Vec<Question>,
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn told(&self) -> Told {
        self.lock().told.clone()
    }

    /// Tells more.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.lock().told);
    }

    /// Asks what the real LB tells of its members; without an answer if too many ask.
    pub fn ask(&self, question: Question) {
        let mut state = self.lock();
        if state.questions.len() < QUESTIONS {
            state.questions.push(question);
        }
    }

    /// The questions that wait for an answer.
    pub(super) fn questions(&self) -> Vec<Question> {
        std::mem::take(&mut self.lock().questions)
    }
}

/// How many members may get something else than before.
pub(super) fn changes(before: &[Wanted], now: &[Wanted]) -> u64 {
    let standings = |wanted: &Wanted| -> HashMap<Endpoint, Standing> {
        wanted.members.iter().map(|member| (member.endpoint, member.standing)).collect()
    };
    let of_pool = |wanted: &Wanted| {
        let before = before.iter().find(|before| before.pool == wanted.pool);
        if before.is_some_and(|before| before.members == wanted.members) {
            return 0;
        }
        let before = before.map(standings).unwrap_or_default();
        let other = wanted.members.iter().filter(|member| before.get(&member.endpoint) != Some(&member.standing));
        other.count() as u64
    };
    now.iter().map(of_pool).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connect::WantedMember;

    fn wanted(pool: &str, standings: &[Standing]) -> Wanted {
        let member = |(host, standing): (u8, &Standing)| WantedMember {
            endpoint: Endpoint::new([10, 0, 0, host].into(), 6, 80),
            label: (*b"").into(),
            standing: *standing,
        };
        let members = (1..).zip(standings).map(member).collect();
        Wanted { pool: pool.as_bytes().into(), members, session_age: Duration::ZERO }
    }

    #[test]
    fn changes_are_counted_by_member() {
        use Standing::{Down, Serving};
        let before = [wanted("a", &[Serving(1), Serving(2)]), wanted("b", &[Down])];
        assert_eq!(changes(&[], &before), 3);
        assert_eq!(changes(&before, &before), 0);
        let now = [wanted("b", &[Down]), wanted("a", &[Serving(1), Down, Serving(9)])];
        assert_eq!(changes(&before, &now), 2, "one changed, one is new");
    }

    #[test]
    fn so_many_questions_wait() {
        let status = Status::default();
        (0..QUESTIONS + 5).for_each(|_| status.ask(Box::new(|_| {})));
        assert_eq!(status.questions().len(), QUESTIONS);
        assert!(status.questions().is_empty());
    }
}

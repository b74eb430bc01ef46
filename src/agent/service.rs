//! What is known of a service now.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::Thread,
    time::SystemTime,
};

use super::{connections::Open, opaque::Opaque, settings::ServiceSettings};

/// A service, as all threads of the agent share it.
pub struct Service {
    /// What the user wants of it.
    pub settings: ServiceSettings,
    state: Mutex<State>,
    /// Its process, if the agent knows one; 0 otherwise.
    process: AtomicU32,
    /// The thread that checks it.
    watcher: OnceLock<Thread>,
    bell: Arc<Bell>,
}

/// What is known of a service now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// What the local check says.
    pub checked: Checked,
    /// Why the last check failed; empty if it did not.
    pub fault: String,
    /// Someone has quiesced it by hand.
    pub by_hand: Option<ByHand>,
    /// Someone has resumed it by hand: it stays quiesced until its next good check.
    pub resumes: bool,
    /// Whether it leaves.
    pub leaving: Leaving,
    /// Its open connections, as counted last; `None` before the first count, and if they can not be counted.
    pub connections: Option<Open>,
    /// The opaque state of its memberships.
    pub opaque: u8,
    /// How often a person or the agent has said that it leaves, is quiesced or resumed.
    pub orders: u64,
    /// How often its registrations were to be confirmed at once: another agent may have deregistered it.
    pub confirms: u64,
    /// Its memberships at each GWM, in the order of the flags.
    pub gwms: Vec<AtGwm>,
}

/// What the local check says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checked {
    /// The service has not answered yet.
    #[default]
    Starting,
    /// The service answers.
    Up,
    /// The service has answered before, and does not any more.
    Down,
}

/// A quiesce by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// The person's words; may be empty.
    pub reason: String,
    /// When the person said so.
    pub since: SystemTime,
}

/// Whether a service leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leaving {
    /// It stays.
    #[default]
    No,
    /// It is quiesced, and its connections come to their end.
    Draining,
    /// It is to be deregistered.
    Gone,
    /// It stays as it is: another agent keeps it registered.
    Kept,
}

/// The memberships of a service at one GWM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtGwm {
    /// The GWM as the user names it.
    pub gwm: String,
    /// Whether a session exists.
    pub connected: bool,
    /// How many memberships are registered there, as far as the GWM has said.
    pub registered: usize,
    /// How many there are to be.
    pub memberships: usize,
    /// Memberships of which the GWM has not yet heard what was so after this many orders.
    pub untold: usize,
    /// See [`State::orders`].
    pub orders: u64,
    /// Why it waits, in words.
    pub waits: Option<String>,
}

/// What a service is to those who ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It has not answered its check yet.
    Starting,
    /// It takes new work.
    Up,
    /// It does not answer its check.
    Down,
    /// Someone has quiesced it by hand.
    Maint,
    /// It leaves: it finishes what it has.
    Drain,
    /// It has left.
    Gone,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Condition::Starting => "starting",
            Condition::Up => "up",
            Condition::Down => "down",
            Condition::Maint => "maint",
            Condition::Drain => "drain",
            Condition::Gone => "gone",
        })
    }
}

impl State {
    /// What the service is to those who ask: that it leaves counts most, then what a person said, then its check.
    pub fn condition(&self) -> Condition {
        match (self.leaving, &self.by_hand, self.checked) {
            (Leaving::Gone | Leaving::Kept, ..) => Condition::Gone,
            (Leaving::Draining, ..) => Condition::Drain,
            (Leaving::No, Some(_), _) => Condition::Maint,
            (Leaving::No, None, Checked::Starting) => Condition::Starting,
            (Leaving::No, None, Checked::Down) => Condition::Down,
            (Leaving::No, None, Checked::Up) if self.resumes => Condition::Starting,
            (Leaving::No, None, Checked::Up) => Condition::Up,
        }
    }

    /// Whether all GWMs have heard the last order, but for those that can not be reached.
    pub fn is_told(&self) -> bool {
        self.gwms.iter().all(|gwm| gwm.orders == self.orders && (gwm.untold == 0 || !gwm.connected))
    }

    /// Whether a GWM may have the service.
    pub fn may_be_registered(&self) -> bool {
        self.gwms.iter().any(|gwm| gwm.registered > 0 || gwm.untold > 0)
    }

    /// Why the condition is so, in one line; may be empty.
    pub fn reason(&self) -> &str {
        match (self.condition(), &self.by_hand) {
            (Condition::Maint, Some(by_hand)) => &by_hand.reason,
            (Condition::Starting | Condition::Down, _) => &self.fault,
            _ => "",
        }
    }
}

impl Service {
    /// A service that has not answered yet, for so many GWMs. `bell` rings after each change.
    pub fn new(settings: ServiceSettings, gwms: usize, bell: Arc<Bell>) -> Service {
        let gwms = vec![AtGwm::default(); gwms];
        let opaque = if let Opaque::Number(number) = settings.opaque { number } else { 0 };
        let state = State { opaque, gwms, ..State::default() };
        Service { settings, state: Mutex::new(state), process: AtomicU32::new(0), watcher: OnceLock::new(), bell }
    }

    /// Goes on where the service was with other settings. What its check said counts only for the same check.
    pub fn go_on(&self, before: &Service) {
        let was = before.state();
        let same_check = self.settings.check.kind == before.settings.check.kind
            && self.settings.places() == before.settings.places();
        let same_opaque = self.settings.opaque == before.settings.opaque;
        self.process.store(before.process.load(Ordering::Relaxed), Ordering::Relaxed);
        // GWMs are to hear it, even if it is the same.
        self.order(|state| {
            let orders = was.orders;
            let checked = if same_check { (was.checked, was.fault) } else { Default::default() };
            let opaque = if same_opaque { was.opaque } else { state.opaque };
            (state.by_hand, state.resumes, state.gwms) = (was.by_hand, was.resumes, was.gwms);
            ((state.checked, state.fault), state.opaque, state.orders) = (checked, opaque, orders);
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Reads what is known without a copy. `read` must not wait for anything.
    pub fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock())
    }

    /// Changes what is known, and rings the bell if anything differs.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        let differs = {
            let mut state = self.lock();
            let before = state.clone();
            change(&mut state);
            *state != before
        };
        if differs {
            self.bell.ring();
        }
    }

    /// Says that the service leaves, is quiesced or is resumed; see [`State::is_told`].
    pub fn order(&self, change: impl FnOnce(&mut State)) {
        self.change(|state| {
            change(state);
            state.orders += 1;
        });
    }

    /// Says which thread checks it.
    pub fn set_watcher(&self, thread: Thread) {
        let _ = self.watcher.set(thread); // there is one
    }

    /// Checks the service at once.
    pub fn check_now(&self) {
        if let Some(thread) = self.watcher.get() {
            thread.unpark();
        }
    }

    /// The service's process, if the agent knows one: it started the process, or a file names it.
    pub fn process(&self) -> Option<u32> {
        Some(self.process.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// Says which process the service is.
    pub fn set_process(&self, id: u32) {
        self.process.store(id, Ordering::Relaxed);
    }
}

/// Wakes threads that wait for a change of any service.
#[derive(Default)]
pub struct Bell(Mutex<Vec<Listener>>);

type Listener = Box<dyn Fn() + Send>;

impl Bell {
    /// Calls `listener` at each change, on the thread that made the change. It must only wake another thread.
    pub fn listen(&self, listener: impl Fn() + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// Wakes all that listen.
    pub fn ring(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|listener| listener());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_counts_most_then_a_persons_word_then_the_check() {
        let mut state = State::default();
        assert_eq!(state.condition(), Condition::Starting);
        (state.checked, state.fault) = (Checked::Down, "refused".into());
        assert_eq!((state.condition(), state.reason()), (Condition::Down, "refused"));
        state.by_hand = Some(ByHand { reason: "disk".into(), since: SystemTime::UNIX_EPOCH });
        assert_eq!((state.condition(), state.reason()), (Condition::Maint, "disk"));
        let resumed = State { by_hand: None, resumes: true, checked: Checked::Up, ..state.clone() };
        assert_eq!(resumed.condition(), Condition::Starting);
        state.leaving = Leaving::Draining;
        assert_eq!((state.condition(), state.reason()), (Condition::Drain, ""));
        state.leaving = Leaving::Gone;
        assert_eq!(state.condition(), Condition::Gone);
    }
}

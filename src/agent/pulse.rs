//! Whether the agent's threads go on. Each one says by when it shows life again: how long its next step may take, or its
//! next sleep. While one of them is late, systemd's watchdog hears nothing, and starts the agent again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Of a thread that has ended: it is never late.
const ENDED: u64 = u64::MAX;

/// The threads of an agent.
pub struct Pulses {
    began: Instant,
    /// Half of the time that systemd waits for a word. A thread sleeps no longer, so that one that does not wake up is seen
    /// in time; and on a busy machine it may be as late once more.
    looks_every: Option<Duration>,
    threads: Mutex<Vec<Arc<Thread>>>,
}

struct Thread {
    name: String,
    /// When it shows life at the latest, in milliseconds from `began` on; or [`ENDED`].
    due_ms: AtomicU64,
}

/// What a thread has to say whether it goes on.
pub struct Pulse {
    began: Instant,
    looks_every: Option<Duration>,
    thread: Arc<Thread>,
}

impl Pulses {
    /// No threads yet. Someone looks so often whether all go on, or never.
    pub fn new(looks_every: Option<Duration>) -> Pulses {
        Pulses { began: Instant::now(), looks_every, threads: Mutex::default() }
    }

    /// A thread that is about to start.
    pub fn add(&self, name: &str) -> Pulse {
        let thread = Arc::new(Thread { name: name.into(), due_ms: AtomicU64::new(0) });
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&thread));
        let pulse = Pulse { began: self.began, looks_every: self.looks_every, thread };
        pulse.works(Duration::ZERO);
        pulse
    }

    /// A thread that hangs: it is late, or it has panicked.
    pub fn late(&self) -> Option<String> {
        let now = milliseconds(self.began.elapsed());
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| thread.due_ms.load(Ordering::Relaxed) != ENDED);
        threads.iter().find(|thread| thread.due_ms.load(Ordering::Relaxed) < now).map(|thread| thread.name.clone())
    }
}

impl Pulse {
    /// The next step takes at most so long.
    pub fn works(&self, at_most: Duration) {
        let due = self.began.elapsed().saturating_add(at_most);
        let due = due.saturating_add(self.looks_every.unwrap_or_default());
        self.thread.due_ms.store(milliseconds(due), Ordering::Relaxed);
    }

    /// How long the thread may sleep if it wants to sleep so long; it sleeps from now on.
    pub fn sleeps(&self, wanted: Duration) -> Duration {
        let sleep = self.looks_every.map_or(wanted, |longest| wanted.min(longest));
        self.works(sleep);
        sleep
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let due = if thread::panicking() { 0 } else { ENDED };
        self.thread.due_ms.store(due, Ordering::Relaxed);
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(ENDED).min(ENDED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_late_or_has_panicked_hangs_and_one_that_has_ended_does_not() {
        let began = Instant::now() - Duration::from_secs(60);
        let pulses = Pulses { began, looks_every: Some(Duration::from_secs(10)), threads: Mutex::default() };
        let (first, second) = (pulses.add("first"), pulses.add("second"));
        assert_eq!(pulses.late(), None, "both may be late by some seconds");
        first.thread.due_ms.store(milliseconds(Duration::from_secs(50)), Ordering::Relaxed);
        assert_eq!(pulses.late().as_deref(), Some("first"));
        first.works(Duration::ZERO);
        assert_eq!(pulses.late(), None);
        first.thread.due_ms.store(milliseconds(Duration::from_secs(50)), Ordering::Relaxed);
        drop(first);
        assert_eq!(pulses.late(), None, "it has ended");
        let panics = thread::spawn(move || {
            second.works(Duration::MAX);
            panic!("as a bug does");
        });
        assert!(panics.join().is_err());
        assert_eq!(pulses.late().as_deref(), Some("second"));
    }

    #[test]
    fn a_sleep_is_as_long_as_someone_lets_it_be() {
        let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
        let watched = Pulses::new(Some(second));
        let pulse = watched.add("thread");
        assert_eq!((pulse.sleeps(hour), pulse.sleeps(second / 2)), (second, second / 2));
        assert_eq!(Pulses::new(None).add("thread").sleeps(hour), hour);
    }
}

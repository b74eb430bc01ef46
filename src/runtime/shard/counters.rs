//! What a shard counts.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::cause::CAUSES;

/// What one shard counts. Only that shard writes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// TLS handshakes that ended well, without those that took up a session again.
    pub(crate) handshakes: AtomicU64,
    /// Those that did.
    pub(crate) resumptions: AtomicU64,
    /// Requests sent to the coordinator.
    pub(crate) requests: AtomicU64,
    /// Requests refused by the shard itself.
    pub(crate) refused: AtomicU64,
    /// Times that a connection was not read for a while, because it asked too often.
    pub(crate) throttled: AtomicU64,
    /// Messages handed to sockets whole at once.
    pub(crate) sent: AtomicU64,
    /// Messages that a socket did not take at once.
    pub(crate) delayed: AtomicU64,
    /// Connections ended, by cause.
    pub(crate) closed: [AtomicU64; CAUSES],
    /// Connections now.
    pub(crate) open: AtomicU32,
    /// Checks whose member does what they ask for.
    pub(crate) checks_passed: AtomicU64,
    /// Checks whose member does not.
    pub(crate) checks_failed: AtomicU64,
    /// Checks that came to nothing through this machine's fault.
    pub(crate) checks_inconclusive: AtomicU64,
    /// How long after their time checks were started.
    pub(crate) lateness: Lateness,
}

/// A histogram of delays: the first count is of those under a millisecond, each further one of those of up to twice
/// as much.
#[derive(Debug, Default)]
pub(crate) struct Lateness([AtomicU64; 20]);

impl Lateness {
    /// Counts a delay.
    pub(crate) fn add(&self, delay: Duration) {
        let octave = 128 - delay.as_millis().leading_zeros() as usize;
        if let Some(count) = self.0.get(octave).or(self.0.last()) {
            self::count(count);
        }
    }

    /// In whole milliseconds, under what this part (in thousandths) of all delays of these histograms is; `None`
    /// without any.
    pub(crate) fn quantile(all: &[&Lateness], thousandths: u64) -> Option<u64> {
        let counts: Vec<u64> = (0..20)
            .map(|at| all.iter().filter_map(|one| one.0.get(at)).map(|count| count.load(Ordering::Relaxed)).sum())
            .collect();
        let total: u64 = counts.iter().sum();
        let mut seen = 0;
        let octave = counts.iter().position(|count| {
            seen += count;
            seen * 1000 >= total * thousandths
        });
        octave.filter(|_| total > 0).map(|octave| 1 << octave)
    }
}

/// Counts one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_known_to_a_factor_of_two() {
        let (one, other) = (Lateness::default(), Lateness::default());
        assert_eq!(Lateness::quantile(&[&one, &other], 990), None);
        (0..985).for_each(|_| one.add(Duration::from_micros(999)));
        (0..14).for_each(|_| other.add(Duration::from_millis(5)));
        other.add(Duration::from_secs(100_000_000));
        assert_eq!(Lateness::quantile(&[&one, &other], 500), Some(1));
        assert_eq!(Lateness::quantile(&[&one, &other], 990), Some(8));
        assert_eq!(Lateness::quantile(&[&one, &other], 1000), Some(1 << 19));
    }
}

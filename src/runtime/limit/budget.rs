//! A limit on a number of things that all shards share.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// A number of things with a limit; every shard takes from it and gives back.
#[derive(Debug)]
pub(crate) struct Budget {
    used: CachePadded<AtomicU64>,
    max: u64,
}

impl Budget {
    pub(crate) fn new(max: u64) -> Budget {
        Budget { used: CachePadded::new(AtomicU64::new(0)), max }
    }

    /// Takes `amount`, if so much is left.
    pub(crate) fn take(&self, amount: u64) -> bool {
        let before = self.used.fetch_add(amount, Ordering::Relaxed);
        let fits = before.saturating_add(amount) <= self.max;
        if !fits {
            self.give(amount);
        }
        fits
    }

    /// How much is taken, and the limit: for the admin side.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(crate) fn used(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.max)
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, amount: u64) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
    }
}

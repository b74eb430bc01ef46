//! Polling for what mostly comes soon.

use std::time::{Duration, Instant};

/// How long a shard polls for the coordinator's answer to requests, if experience says that it comes in this time.
const PATIENCE: Duration = Duration::from_micros(20);

/// After polls in vain, the next ones are left out: one, then three, and so on.
#[derive(Default)]
pub(super) struct Patience {
    in_vain: u32,
    left_out: u32,
}

impl Patience {
    /// Polls for [`PATIENCE`] at most, unless experience advises against it; whether it has come.
    pub(super) fn poll(&mut self, has_come: impl Fn() -> bool) -> bool {
        if self.left_out > 0 {
            self.left_out -= 1;
            return false;
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if has_come() {
                self.in_vain = 0;
                return true;
            }
            std::hint::spin_loop();
        }
        self.in_vain = (self.in_vain + 1).min(8);
        self.left_out = (1 << self.in_vain) - 1;
        false
    }
}

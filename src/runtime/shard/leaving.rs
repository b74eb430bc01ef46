//! The end of a shard whose work another process has taken over: its connections end one after another, so that load
//! balancers do not come to the other process all at once.

use std::time::Duration;

use super::{context::Context, table::Table};
use crate::time::Time;

/// Connections of all shards that end in a second. A load balancer that comes back costs the other process a connection,
/// a request or two and a message with all weights: some tens of microseconds, or a TLS handshake beside them.
const PER_SECOND: u32 = 2000;

/// The longest time in which all connections end: until then a load balancer hears no news.
pub(in crate::runtime) const LONGEST: Duration = Duration::from_secs(5);

/// Rows looked at before other work has its turn.
const ROWS: usize = 64;

/// Which connections have ended already.
pub(super) struct Leaving {
    since: Time,
    spread: Duration,
    rows: usize,
    /// The first row that is still to end.
    next: usize,
}

/// The time in which so many connections of one of some shards end.
fn spread(connections: u64, shards: u16) -> Duration {
    let all = u32::try_from(connections.saturating_mul(shards.into())).unwrap_or(u32::MAX);
    (Duration::from_secs(1) / PER_SECOND).saturating_mul(all).min(LONGEST)
}

impl Leaving {
    pub(super) fn new(context: &Context, table: &Table) -> Leaving {
        let spread = spread(context.open_connections(), context.shards);
        Leaving { since: context.now(), spread, rows: table.rows(), next: 0 }
    }

    /// From the end of the first connection to that of the last.
    pub(super) fn spread(&self) -> Duration {
        self.spread
    }

    /// When the next connection ends.
    pub(super) fn next_time(&self) -> Option<Time> {
        (self.next < self.rows).then(|| self.since + self.spread.mul_f64(self.next as f64 / self.rows as f64))
    }

    /// Lets some connections end whose time has come; whether there are more.
    pub(super) fn some(&mut self, context: &Context, table: &mut Table) -> bool {
        let now = context.now();
        for _ in 0..ROWS {
            if self.next_time().is_none_or(|at| at > now) {
                return false;
            }
            table.hand_over(context, self.next..self.next + 1);
            self.next += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_end_at_a_bounded_rate_and_within_a_bounded_time() {
        for (connections, shards, expected_ms) in
            [(0, 1, 0), (1, 1, 0), (2, 1, 1), (1000, 1, 500), (1000, 4, 2000), (10_000, 1, 5000), (u64::MAX, 256, 5000)]
        {
            assert_eq!(spread(connections, shards).as_millis(), expected_ms, "{connections} {shards}");
        }
        let mut leaving = Leaving { since: Time(100), spread: Duration::from_nanos(1000), rows: 4, next: 0 };
        let mut times = Vec::new();
        while let Some(at) = leaving.next_time() {
            times.push(at.0);
            leaving.next += 1;
        }
        assert_eq!(times, [100, 350, 600, 850]);
    }
}

//! The metrics of one shard.

use std::time::Duration;

use super::cause::{CAUSES, Cause};
use crate::{
    metrics::{Counter, Histogram, Id, LabelValue, Reading, Values},
    roster::Check,
    time::Time,
};

/// Metrics that only the shard writes, and any thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardMetrics {
    pub(super) values: Values,
    pub(super) closed: [Counter; CAUSES],
    /// By the kind of the check.
    pub(super) check_lateness: [Histogram; CHECK_KINDS.len()],
    /// By the kind of the check.
    pub(super) check_duration: [Histogram; CHECK_KINDS.len()],
    pub(super) request_duration: Histogram,
    pub(super) push_delay: Histogram,
    /// Rounds of the task that serves, and of the task that runs the checks: they show that the shard does not hang.
    pub(crate) rounds: [Counter; 2],
}

/// The place in [`ShardMetrics::rounds`] of the task that serves.
pub(super) const SERVING: usize = 0;

/// The place of the task that runs the checks.
pub(super) const CHECKING: usize = 1;

/// The kinds of checks, as their label has them.
const CHECK_KINDS: [&str; 6] = ["tcp", "icmp", "http", "https", "grpc", "agent"];

/// The place of a check's kind in [`CHECK_KINDS`].
pub(super) fn kind_of(check: &Check) -> u8 {
    match check {
        Check::Tcp => 0,
        Check::Icmp => 1,
        Check::Http(http) if http.tls.is_none() => 2,
        Check::Http(_) => 3,
        Check::Grpc(_) => 4,
        Check::Agent(_) => 5,
    }
}

/// The lower bits of a time in microseconds: enough for a duration of up to an hour. 0 is no time.
pub(crate) fn stamp(time: Time) -> u32 {
    ((time.0 / 1000) as u32).max(1)
}

/// The time since a stamp.
pub(super) fn since_stamp(now: Time, stamp: u32) -> Duration {
    Duration::from_micros(u64::from(((now.0 / 1000) as u32).wrapping_sub(stamp)))
}

impl ShardMetrics {
    /// Adds all metrics of shard number `shard`.
    pub(crate) fn read(&self, shard: u16, reading: &mut Reading) {
        reading.add_values(Some(shard), &self.values);
        for (id, histograms) in [(Id::CheckLateness, &self.check_lateness), (Id::CheckDuration, &self.check_duration)] {
            for (kind, histogram) in CHECK_KINDS.into_iter().zip(histograms) {
                let label = LabelValue { name: kind.into(), text: kind.into() };
                reading.add_labelled_distribution(Some(shard), id, label, histogram.read());
            }
        }
        reading.add_distribution(Some(shard), Id::RequestDuration, self.request_duration.read());
        reading.add_distribution(Some(shard), Id::PushDelay, self.push_delay.read());
        for (cause, count) in Cause::ALL.iter().zip(&self.closed) {
            let label = LabelValue::of_variant(cause, cause.text());
            reading.add_labelled(Some(shard), Id::ConnectionsClosed, label, count.get());
        }
    }
}

//! The metrics of one shard.

use super::cause::{CAUSES, Cause};
use crate::metrics::{Counter, Histogram, Id, LabelValue, Reading, Values};

/// Metrics that only the shard writes, and any thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardMetrics {
    pub(super) values: Values,
    pub(super) closed: [Counter; CAUSES],
    pub(super) check_lateness: Histogram,
}

impl ShardMetrics {
    /// Adds all metrics of shard number `shard`.
    pub(crate) fn read(&self, shard: u16, reading: &mut Reading) {
        reading.add_values(Some(shard), &self.values);
        reading.add_distribution(Some(shard), Id::CheckLateness, self.check_lateness.read());
        for (cause, count) in Cause::ALL.iter().zip(&self.closed) {
            let label = LabelValue::of_variant(cause, cause.text());
            reading.add_labelled(Some(shard), Id::ConnectionsClosed, label, count.get());
        }
    }
}

//! Durations and sizes, known to a factor of two: to count one costs two plain additions.

use std::time::Duration;

use super::Counter;

/// Number of buckets of a [`Histogram`].
const BUCKETS: usize = 25;

/// What a [`Histogram`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// Durations: from 16 microseconds on, each bucket has those of up to twice as much as the one before.
    #[default]
    Nanoseconds,
    /// Sizes: the same from 64 bytes on.
    Bytes,
}

impl Measure {
    /// The first bucket has the values below two to this power.
    const fn first(self) -> u32 {
        match self {
            Measure::Nanoseconds => 14,
            Measure::Bytes => 6,
        }
    }

    /// How many of what is counted make one base unit.
    const fn per_unit(self) -> f64 {
        match self {
            Measure::Nanoseconds => 1e9,
            Measure::Bytes => 1.0,
        }
    }
}

/// Values, known to a factor of two. The last bucket has all that are too large for the others. Not hdrhistogram: nine of
/// them in turn cost a tenth more (`benches/histogram.rs`), have 17 times the memory, and a reader would need their owner.
#[derive(Debug, Default)]
pub struct Histogram {
    measure: Measure,
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Histogram {
    /// A histogram of sizes.
    pub fn of_bytes() -> Histogram {
        Histogram { measure: Measure::Bytes, ..Histogram::default() }
    }

    /// Counts a duration. Only the thread that owns the histogram may call this.
    pub fn add(&self, duration: Duration) {
        self.add_value(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a value, in what the histogram measures. Only the thread that owns the histogram may call this.
    pub fn add_value(&self, value: u64) {
        let octave = (u64::BITS - value.leading_zeros()).saturating_sub(self.measure.first()) as usize;
        self.buckets[octave.min(BUCKETS - 1)].add(1);
        self.sum.add(value);
    }

    /// The counts now.
    pub fn read(&self) -> Distribution {
        let counts = std::array::from_fn(|bucket| self.buckets[bucket].get());
        Distribution { measure: self.measure, counts, sum: self.sum.get() }
    }
}

/// What a [`Histogram`] held when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    measure: Measure,
    counts: [u64; BUCKETS],
    sum: u64,
}

impl Distribution {
    /// Upper ends in base units (`None`: no end) and counts of the buckets, lowest first.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let end = |at: usize| (1u64 << (self.measure.first() as usize + at)) as f64 / self.measure.per_unit();
        self.counts.iter().enumerate().map(move |(at, count)| ((at < BUCKETS - 1).then(|| end(at)), *count))
    }

    /// All values together, in base units.
    pub fn sum(&self) -> f64 {
        self.sum as f64 / self.measure.per_unit()
    }

    /// The upper end, in whole milliseconds, of the bucket in which this part (in thousandths) of all durations ends; `None`
    /// without any.
    pub fn quantile_ms(&self, thousandths: u64) -> Option<u64> {
        let total: u64 = self.counts.iter().sum();
        let mut seen = 0;
        let octave = self.counts.iter().position(|count| {
            seen += count;
            seen * 1000 >= total * thousandths
        });
        let end = |octave: usize| (1u64 << (self.measure.first() as usize + octave)) as f64 / 1e6;
        octave.filter(|_| total > 0).map(|octave| end(octave).round() as u64)
    }

    pub(super) fn merge(&mut self, other: &Distribution) {
        self.measure = other.measure;
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

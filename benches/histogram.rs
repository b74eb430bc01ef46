//! What it costs to count a duration: gwm's octaves, which another thread may read at any time, and hdrhistogram, which its
//! owner would have to copy for a reader.

use std::time::Duration;

use divan::{Bencher, black_box, counter::ItemsCount};
use gwm::metrics::Histogram;

use crate::scaled;

/// Durations between a microsecond and a second, as checks and requests have them.
fn durations() -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..scaled(100_000)).map(|_| Duration::from_nanos(1000 << random.u32(0..20) | random.u64(0..1000))).collect()
}

/// From a microsecond to an hour, with so many significant figures.
fn hdr(figures: u8) -> hdrhistogram::Histogram<u64> {
    hdrhistogram::Histogram::new_with_bounds(1000, 3600 * 1_000_000_000, figures).expect("the bounds are in order")
}

#[divan::bench]
fn octaves(bencher: Bencher<'_, '_>) {
    let durations = durations();
    let histogram = Histogram::default();
    bencher.counter(ItemsCount::new(durations.len())).bench_local(|| {
        for duration in &durations {
            histogram.add(black_box(*duration));
        }
    });
}

#[divan::bench(args = [1, 2])]
fn hdrhistogram_of_figures(bencher: Bencher<'_, '_>, figures: u8) {
    let durations = durations();
    let mut histogram = hdr(figures);
    bencher.counter(ItemsCount::new(durations.len())).bench_local(|| {
        for duration in &durations {
            histogram.saturating_record(black_box(*duration).as_nanos() as u64);
        }
    });
}

/// All histograms of a shard, in turn: so their memory counts, too.
#[divan::bench]
fn octaves_of_a_shard(bencher: Bencher<'_, '_>) {
    let durations = durations();
    let histograms: [Histogram; 9] = std::array::from_fn(|_| Histogram::default());
    bencher.counter(ItemsCount::new(durations.len())).bench_local(|| {
        for (at, duration) in durations.iter().enumerate() {
            histograms[at % 9].add(black_box(*duration));
        }
    });
}

#[divan::bench(args = [1, 2])]
fn hdrhistograms_of_a_shard(bencher: Bencher<'_, '_>, figures: u8) {
    let durations = durations();
    let mut histograms: Vec<_> = (0..9).map(|_| hdr(figures)).collect();
    bencher.counter(ItemsCount::new(durations.len())).bench_local(|| {
        for (at, duration) in durations.iter().enumerate() {
            histograms[at % 9].saturating_record(black_box(*duration).as_nanos() as u64);
        }
    });
}

/// What a reader costs: the counts of one histogram.
#[divan::bench]
fn octaves_read(bencher: Bencher<'_, '_>) {
    let histogram = Histogram::default();
    durations().into_iter().for_each(|duration| histogram.add(duration));
    bencher.bench_local(|| black_box(&histogram).read());
}

/// The same as a copy, which the owner makes between two events.
#[divan::bench(args = [1, 2])]
fn hdrhistogram_copied(bencher: Bencher<'_, '_>, figures: u8) {
    let mut histogram = hdr(figures);
    durations().into_iter().for_each(|duration| histogram.saturating_record(duration.as_nanos() as u64));
    bencher.bench_local(|| black_box(&histogram).clone());
}

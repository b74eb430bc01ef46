//! The requests of a service: counts since some begin, and what two of them say about the time between.

/// The quantile of latencies that is told.
const QUANTILE: f64 = 0.99;

/// What was counted until now; `None` is what nobody counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Requests.
    pub requests: Option<f64>,
    /// Requests that failed.
    pub errors: Option<f64>,
    /// Latencies: how many, and their sum in seconds.
    pub latencies: Option<(f64, f64)>,
    /// How many latencies are at most so many seconds: bounds that rise, the last one infinite.
    pub buckets: Vec<(f64, f64)>,
    /// The 99th percentile of the last time, as the service itself says.
    pub quantile: Option<f64>,
}

/// The requests over a time; `None` is what is not known, also because there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    /// Requests a second.
    pub rate: Option<f64>,
    /// Requests a second that failed.
    pub errors: Option<f64>,
    /// Mean latency in seconds.
    pub mean: Option<f64>,
    /// 99th percentile of the latency in seconds.
    pub p99: Option<f64>,
}

/// How much a counter rose. One that fell was set back to 0 in between, as Prometheus takes it.
fn rise(before: f64, now: f64) -> f64 {
    if now >= before { now - before } else { now }
}

impl Requests {
    /// From two counts, the later one `seconds` after the other.
    pub fn between(before: &Counts, now: &Counts, seconds: f64) -> Requests {
        let rate =
            |before: Option<f64>, now: Option<f64>| Some(rise(before?, now?) / seconds).filter(|_| seconds > 0.0);
        let latencies = before.latencies.zip(now.latencies).map(|(before, now)| match now.0 >= before.0 {
            true => (now.0 - before.0, rise(before.1, now.1)),
            false => now,
        });
        let mean = latencies.filter(|(count, _)| *count > 0.0).map(|(count, sum)| sum / count);
        let p99 = now.quantile.or_else(|| quantile(&rises(&before.buckets, &now.buckets), QUANTILE));
        let known = |value: &f64| value.is_finite() && *value >= 0.0;
        Requests {
            rate: rate(before.requests, now.requests).filter(known),
            errors: rate(before.errors, now.errors).filter(known),
            mean: mean.filter(known),
            p99: p99.filter(known),
        }
    }
}

/// How much each bucket rose; nothing if the bounds are others than before.
fn rises(before: &[(f64, f64)], now: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let same = before.len() == now.len() && before.iter().zip(now).all(|(before, now)| before.0 == now.0);
    if !same {
        return Vec::new();
    }
    let was_reset = before.iter().zip(now).any(|(before, now)| now.1 < before.1);
    let rise = |(before, now): (&(f64, f64), &(f64, f64))| (now.0, if was_reset { now.1 } else { now.1 - before.1 });
    before.iter().zip(now).map(rise).collect()
}

/// A quantile from cumulative buckets: within a bucket in proportion, as Prometheus' `histogram_quantile`. In the last
/// bucket, which has no end, it is the begin of the bucket.
fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let (end, count) = *buckets.last()?;
    if end.is_finite() || count.is_nan() || count <= 0.0 {
        return None;
    }
    let rank = quantile * count;
    let (mut begin, mut below) = (0.0_f64, 0.0_f64);
    for (end, count) in buckets {
        if *count >= rank {
            let share = if *count > below { (rank - below) / (count - below) } else { 1.0 };
            return Some(if end.is_finite() { begin + (end - begin) * share } else { begin });
        }
        (begin, below) = (end.max(0.0), count.max(below));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_rates() {
        let counts = |requests, errors, latencies| Counts {
            requests: Some(requests),
            errors: Some(errors),
            latencies: Some(latencies),
            ..Counts::default()
        };
        let before = counts(1000.0, 10.0, (1000.0, 50.0));
        let between = |now: &Counts, seconds| Requests::between(&before, now, seconds);
        let expected = Requests { rate: Some(100.0), errors: Some(2.0), mean: Some(0.02), p99: None };
        assert_eq!(between(&counts(1500.0, 20.0, (1500.0, 60.0)), 5.0), expected);
        let none = Requests { rate: Some(0.0), errors: Some(0.0), mean: None, p99: None };
        assert_eq!(between(&before, 5.0), none);
        let restarted = Requests { rate: Some(10.0), errors: Some(1.0), mean: Some(0.1), p99: None };
        assert_eq!(between(&counts(50.0, 5.0, (50.0, 5.0)), 5.0), restarted);
        assert_eq!(between(&counts(f64::NAN, f64::INFINITY, (f64::NAN, 1.0)), 5.0), Requests::default());
        assert_eq!(between(&Counts::default(), 5.0), Requests::default());
        assert_eq!(between(&before, 0.0).rate, None);
    }

    #[test]
    fn quantiles_of_buckets() {
        let infinite = f64::INFINITY;
        let buckets = |counts: [f64; 4]| Counts {
            buckets: [0.1, 0.5, 1.0, infinite].into_iter().zip(counts).collect(),
            ..Counts::default()
        };
        let p99 = |before, now| Requests::between(&buckets(before), &buckets(now), 1.0).p99;
        let zero = [0.0; 4];
        assert_eq!(p99(zero, [0.0, 100.0, 100.0, 100.0]), Some(0.1 + 0.4 * 0.99));
        assert_eq!(p99([50.0; 4], [50.0, 150.0, 150.0, 150.0]), Some(0.1 + 0.4 * 0.99));
        assert_eq!(p99(zero, [0.0, 0.0, 0.0, 7.0]), Some(1.0), "the last bucket has no end");
        assert_eq!(p99(zero, zero), None);
        assert_eq!(p99([9.0; 4], [0.0, 0.0, 100.0, 100.0]), Some(0.5 + 0.5 * 0.99), "set back");
        let mut other = buckets(zero);
        other.buckets[0].0 = 0.2;
        assert_eq!(Requests::between(&other, &buckets([1.0; 4]), 1.0).p99, None);
        assert_eq!(quantile(&[(1.0, 5.0)], 0.99), None, "not whole");
        assert_eq!(quantile(&[(1.0, f64::NAN), (infinite, f64::NAN)], 0.99), None);
        let says = Counts { quantile: Some(0.25), ..Counts::default() };
        assert_eq!(Requests::between(&Counts::default(), &says, 1.0).p99, Some(0.25));
    }
}

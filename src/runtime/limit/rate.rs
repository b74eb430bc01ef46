//! Limits on how often an event may happen: a token bucket of eight bytes that holds the tokens of one second.

use std::time::Duration;

use crate::coordinator::Time;

const SECOND: Duration = Duration::from_secs(1);

/// A number of events a second. After a second without events, as many may happen at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The time from one token to the next, at most a second.
    interval: Duration,
}

impl Rate {
    /// `count` events a second, at most a thousand million; `None`, which is no limit, for 0.
    pub(crate) fn per_second(count: u32) -> Option<Rate> {
        (count > 0).then(|| Rate { interval: SECOND / count })
    }
}

/// The bucket. It keeps only the time at which it will be full, because the rest follows from this time and the rate
/// (the virtual scheduling algorithm of ITU-T I.371). An unused bucket is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    full: Time,
}

impl Bucket {
    /// The time from which the bucket has a token; in the past if it has one now.
    pub(crate) fn ready(self, rate: Rate) -> Time {
        let spare = SECOND - rate.interval;
        Time(self.full.0.saturating_sub(spare.as_nanos() as u64))
    }

    /// Takes a token, or gives the time at which there will be one.
    pub(crate) fn take(&mut self, now: Time, rate: Rate) -> Result<(), Time> {
        let ready = self.ready(rate);
        if now < ready {
            return Err(ready);
        }
        self.full = self.full.max(now) + rate.interval;
        Ok(())
    }

    /// Whether the bucket is full, as an unused one. This takes a second after the last token at most.
    pub(crate) fn is_full(self, now: Time) -> bool {
        now >= self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn rate(count: u32) -> Rate {
        Rate::per_second(count).expect("a limit")
    }

    /// Takes tokens until there is none; how many, and when the next one comes.
    fn drain(bucket: &mut Bucket, now: Time, rate: Rate) -> (u32, Time) {
        let mut taken = 0;
        loop {
            match bucket.take(now, rate) {
                Ok(()) => taken += 1,
                Err(next) => return (taken, next),
            }
        }
    }

    #[test]
    fn zero_is_no_limit() {
        assert_eq!(Rate::per_second(0), None);
    }

    #[test]
    fn a_full_bucket_has_one_seconds_worth_from_the_first_moment_on() {
        for count in [1, 2, 3, 7, 10, 1000, 1_000_000] {
            for now in [Time::default(), Time::default() + SECOND * 86_400] {
                let mut bucket = Bucket::default();
                assert!(bucket.is_full(now));
                let (taken, next) = drain(&mut bucket, now, rate(count));
                assert_eq!(taken, count);
                let interval = SECOND / count;
                assert_eq!(next, now + (interval * (count + 1) - SECOND), "at {count} a second");
            }
        }
    }

    #[test]
    fn tokens_come_one_by_one_at_the_time_that_was_told() {
        let (mut bucket, mut now) = (Bucket::default(), Time::default() + SECOND * 100);
        let rate = rate(4);
        (_, now) = drain(&mut bucket, now, rate);
        for _ in 0..10 {
            assert_eq!(bucket.take(Time(now.0 - 1), rate), Err(now));
            let (taken, next) = drain(&mut bucket, now, rate);
            assert_eq!((taken, next), (1, now + MILLISECOND * 250));
            now = next;
        }
    }

    #[test]
    fn idle_time_saves_one_seconds_worth_at_most() {
        let mut bucket = Bucket::default();
        let start = Time::default() + SECOND;
        assert_eq!(drain(&mut bucket, start, rate(10)).0, 10);
        assert_eq!(drain(&mut bucket, start + MILLISECOND * 300, rate(10)).0, 3);
        assert!(!bucket.is_full(start + MILLISECOND * 1299));
        assert!(bucket.is_full(start + MILLISECOND * 1300));
        assert_eq!(drain(&mut bucket, start + SECOND * 1000, rate(10)).0, 10);
    }

    #[test]
    fn over_a_long_time_there_are_as_many_as_the_rate_says() {
        for count in [1, 3, 7, 999] {
            let (mut bucket, mut now, mut taken) = (Bucket::default(), Time::default(), 0);
            let end = Time::default() + SECOND * 60;
            while now < end {
                let (more, next) = drain(&mut bucket, now, rate(count));
                (taken, now) = (taken + more, next);
            }
            assert!((count * 60..=count * 61).contains(&taken), "{taken} at {count} a second");
        }
    }
}

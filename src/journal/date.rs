//! Times of day, which mean the same after a restart.

use crate::time::{Since, Time};

/// A time of day: milliseconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub u64);

/// The date of time zero of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub Date);

/// Nanoseconds of a millisecond.
const NANOS: u64 = 1_000_000;

impl Epoch {
    /// The epoch of a process where it is `date` at `now`.
    pub fn new(now: Time, date: Date) -> Epoch {
        Epoch(Date(date.0.saturating_sub(now.0 / NANOS)))
    }

    /// The date of a time.
    pub fn date(self, time: Time) -> Date {
        Date(self.0.0.saturating_add(time.0 / NANOS))
    }

    /// The date of a time that may be before time zero.
    pub fn date_since(self, Since(nanos): Since) -> Date {
        Date(self.0.0.saturating_add_signed(nanos.div_euclid(NANOS as i64)))
    }

    /// The time of a date that may be before time zero; the first or last whole millisecond if no time reaches the date.
    pub fn since(self, date: Date) -> Since {
        let (most, apart) = (i64::MAX / NANOS as i64, date.0.abs_diff(self.0.0));
        let apart = i64::try_from(apart).unwrap_or(most).min(most) * NANOS as i64;
        Since(if date < self.0 { -apart } else { apart })
    }

    /// The time of a date; time zero if the date is before that, and the last whole millisecond if no time reaches the date.
    pub fn time(self, date: Date) -> Time {
        Time(date.0.saturating_sub(self.0.0).min(u64::MAX / NANOS) * NANOS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_times_of_another_process() {
        let before = Epoch::new(Time(5 * NANOS), Date(1_000_005));
        assert_eq!(before.date(Time(70 * NANOS + 999_999)), Date(1_000_070));
        let after = Epoch::new(Time::default(), Date(1_000_060));
        assert_eq!(after.time(Date(1_000_070)), Time(10 * NANOS));
        assert_eq!(after.time(Date(1_000_000)), Time::default(), "a date before the start");
        for date in [1_000_000, 1_000_060, 1_000_070].map(Date) {
            assert_eq!(after.date_since(after.since(date)), date);
        }
        assert_eq!(after.since(Date(1_000_000)), Since(-60 * NANOS as i64));
        assert_eq!(after.date_since(Since(-1)), Date(1_000_059));
        let end = Epoch::default().since(Date(u64::MAX));
        assert_eq!(Epoch::default().since(Epoch::default().date_since(end)), end);
        let end = Epoch::default().time(Date(u64::MAX));
        assert_eq!(Epoch::default().time(Epoch::default().date(end)), end, "a date that no clock reaches");
    }
}

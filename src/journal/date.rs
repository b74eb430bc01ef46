//! Times of day, which mean the same after a restart.

use crate::time::Time;

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
        let end = Epoch::default().time(Date(u64::MAX));
        assert_eq!(Epoch::default().time(Epoch::default().date(end)), end, "a date that no clock reaches");
    }
}

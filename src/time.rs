//! Points in time, for the layers that do not read a clock.

use std::time::Duration;

/// A point in time, in nanoseconds since a zero of the process. Never decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The time from `earlier` to this; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A point in time that may be before the zero of the process: nanoseconds after that zero, or before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since(pub i64);

impl From<Time> for Since {
    fn from(time: Time) -> Since {
        Since(time.0.try_into().unwrap_or(i64::MAX))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;

    /// Saturates at the end of time (584 years).
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

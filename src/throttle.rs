//! Keeps logs readable under attack: a few lines a second for each cause, then one line with the number of the rest.

use std::time::Duration;

use crate::time::Time;

/// Lines for one cause within [`WINDOW`].
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// The line budget of one cause.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    until: Time,
    lines: u32,
    suppressed: u64,
}

impl Throttle {
    /// Takes the right to write a line now; false if too many were written.
    pub fn take_line(&mut self, now: Time) -> bool {
        if now >= self.until {
            self.until = now + WINDOW;
            self.lines = 0;
        }
        if self.lines == LINES {
            self.suppressed += 1;
            return false;
        }
        self.lines += 1;
        true
    }

    /// The number of lines that were left out in the last window, once the window has ended; `None` for 0.
    pub fn take_suppressed(&mut self, now: Time) -> Option<u64> {
        if now < self.until || self.suppressed == 0 {
            return None;
        }
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_then_a_number() {
        let mut throttle = Throttle::default();
        let at = |seconds| Time::default() + Duration::from_secs(seconds);
        let written = (0..100).filter(|_| throttle.take_line(at(1))).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(throttle.take_suppressed(at(1)), None, "the window has not ended");
        assert_eq!(throttle.take_suppressed(at(2)), Some(100 - u64::from(LINES)));
        assert_eq!(throttle.take_suppressed(at(2)), None);
        assert!(throttle.take_line(at(2)));
    }
}

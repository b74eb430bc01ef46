//! Log lines about clients, a few a second for each cause: clients that come again and again fill no log.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{throttle::Throttle, time::Time};

/// Why a line is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    Accept,
    Tls,
    Refusal,
}

impl Cause {
    /// What the lines of this cause are about.
    fn about(self) -> &'static str {
        match self {
            Cause::Accept => "connections that could not be accepted",
            Cause::Tls => "TLS handshakes that failed",
            Cause::Refusal => "responses that clients refuse",
        }
    }
}

pub(super) struct Lines {
    start: Instant,
    throttles: Mutex<[Throttle; 3]>,
}

impl Lines {
    pub(super) fn new() -> Lines {
        Lines { start: Instant::now(), throttles: Mutex::default() }
    }

    /// Logs a warning, unless there were too many for this cause; then how many were left out.
    pub(super) fn warn(&self, cause: Cause, line: fmt::Arguments<'_>) {
        let now = Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let (left_out, is_written) = {
            let mut throttles = self.throttles.lock().unwrap_or_else(PoisonError::into_inner);
            let throttle = &mut throttles[cause as usize];
            (throttle.take_suppressed(now), throttle.take_line(now))
        };
        if let Some(lines) = left_out {
            tracing::warn!("{lines} more lines about {} were left out", cause.about());
        }
        if is_written {
            tracing::warn!("{line}");
        }
    }
}

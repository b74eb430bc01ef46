//! What all threads of the daemon share: a clock, a few counters, and whether it drains.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;

use rustls::ServerConfig;

use super::{
    rate::Rate,
    sources::{Allowance, Sources},
};
use crate::{config::Connections, coordinator::Time};

/// The process's clock: [`Time`] since its making.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn new() -> Clock {
        Clock(Instant::now())
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A number of things with an upper end, taken and given back by every shard.
#[derive(Debug)]
pub(super) struct Budget {
    used: CachePadded<AtomicU64>,
    max: u64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Budget {
        Budget { used: CachePadded::new(AtomicU64::new(0)), max }
    }

    /// Takes `amount` if that much is left.
    pub(super) fn take(&self, amount: u64) -> bool {
        let before = self.used.fetch_add(amount, Ordering::Relaxed);
        let fits = before.saturating_add(amount) <= self.max;
        if !fits {
            self.give(amount);
        }
        fits
    }

    /// Gives back what was taken.
    pub(super) fn give(&self, amount: u64) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
    }
}

/// What the shards have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    /// Connections.
    pub(super) connections: Budget,
    /// Who has how many of them, and how many more.
    pub(super) sources: Sources,
    /// Bytes of unfinished messages beyond the first [`crate::limits::READ_BYTES`] of each connection.
    pub(super) buffered: Budget,
    /// Bytes that peers have yet to take, beyond the same of each.
    pub(super) unsent: Budget,
    /// Set once: listeners close, connections end as soon as nothing is under way.
    pub(super) draining: AtomicBool,
    /// How TLS is spoken from now on, if it is. Locked for a moment when a handshake begins.
    tls: Mutex<Option<Arc<ServerConfig>>>,
}

impl Shared {
    pub(super) fn new(limits: &Connections, tls: Option<Arc<ServerConfig>>) -> Shared {
        Shared {
            clock: Clock::new(),
            connections: Budget::new(u64::from(limits.max)),
            sources: Sources::new(Allowance {
                connections: limits.max_per_source,
                new_connections: Rate::per_second(limits.max_new_per_source),
                handshakes: Rate::per_second(limits.max_handshakes_per_source),
            }),
            buffered: Budget::new(limits.max_buffered_bytes),
            unsent: Budget::new(limits.max_unsent_bytes),
            draining: AtomicBool::new(false),
            tls: Mutex::new(tls),
        }
    }

    /// How the next session speaks TLS.
    pub(super) fn tls(&self) -> Arc<ServerConfig> {
        let tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        tls.clone().expect("whoever listens with TLS has a configuration for it")
    }

    /// Has sessions speak TLS so from now on.
    pub(super) fn set_tls(&self, config: Arc<ServerConfig>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Cause {
    /// The peer closed its side.
    PeerClosed,
    /// The connection broke: reset, keepalive.
    Failed,
    /// The peer's bytes are not framed as SASP.
    Framing,
    /// A message that has no reply.
    NoReply,
    /// Another connection speaks for the same load balancer.
    TakenOver,
    /// The new rules do not let it speak for its load balancer.
    NotPermitted,
    /// Bytes for the peer were not taken for too long.
    Stalled,
    /// The first message took too long.
    FirstMessageTimeout,
    /// A later message took too long.
    MessageTimeout,
    /// All unfinished messages together were too long.
    BufferedBytes,
    /// All that peers have yet to take was too long.
    UnsentBytes,
    /// Its source has as many connections as it may have.
    SourceConnections,
    /// Its source opens connections too fast.
    SourceRate,
    /// The TLS handshake failed.
    Handshake,
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// The TLS handshake took a turn for too long that others waited for.
    HandshakeTurn,
    /// The peer does not keep to TLS.
    Tls,
    /// The server stops.
    Draining,
    /// A fault of the server itself.
    Panicked,
}

/// Number of [`Cause`]s.
pub(super) const CAUSES: usize = Cause::Panicked as usize + 1;

impl Cause {
    /// Every cause, in order.
    pub(super) const ALL: [Cause; CAUSES] = [
        Cause::PeerClosed,
        Cause::Failed,
        Cause::Framing,
        Cause::NoReply,
        Cause::TakenOver,
        Cause::NotPermitted,
        Cause::Stalled,
        Cause::FirstMessageTimeout,
        Cause::MessageTimeout,
        Cause::BufferedBytes,
        Cause::UnsentBytes,
        Cause::SourceConnections,
        Cause::SourceRate,
        Cause::Handshake,
        Cause::HandshakeTimeout,
        Cause::HandshakeTurn,
        Cause::Tls,
        Cause::Draining,
        Cause::Panicked,
    ];

    /// The cause in words, for logs.
    pub(super) fn text(self) -> &'static str {
        match self {
            Cause::PeerClosed => "the peer closed it",
            Cause::Failed => "it broke",
            Cause::Framing => "the bytes are not SASP",
            Cause::NoReply => "a message that is not a request",
            Cause::TakenOver => "another connection speaks for the same load balancer",
            Cause::NotPermitted => "the new --access file does not let it speak for its load balancer",
            Cause::Stalled => "the peer took nothing for --stall-timeout",
            Cause::FirstMessageTimeout => "no whole message within --first-message-timeout",
            Cause::MessageTimeout => "a message was not whole within --message-timeout",
            Cause::BufferedBytes => "unfinished messages would exceed --max-buffered-bytes",
            Cause::UnsentBytes => "what peers have yet to take would exceed --max-unsent-bytes",
            Cause::SourceConnections => "its address has --max-connections-per-source open",
            Cause::SourceRate => "its address opens more than --max-new-connections-per-source a second",
            Cause::Handshake => "the TLS handshake failed",
            Cause::HandshakeTimeout => "the TLS handshake did not end within --handshake-timeout",
            Cause::HandshakeTurn => "the TLS handshake was slow, and others waited: --max-handshakes are under way",
            Cause::Tls => "the TLS session broke",
            Cause::Draining => "the server stops",
            Cause::Panicked => "a fault of gwm itself: please report it",
        }
    }
}

/// What one shard counts. Only that shard writes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Connections accepted.
    pub(super) accepted: AtomicU64,
    /// TLS handshakes that ended well, without those that took up a session again.
    pub(super) handshakes: AtomicU64,
    /// Those that did.
    pub(super) resumptions: AtomicU64,
    /// Requests sent to the coordinator.
    pub(super) requests: AtomicU64,
    /// Requests refused by the shard itself.
    pub(super) refused: AtomicU64,
    /// Times that a connection was not read for a while, because it asked too often.
    pub(super) throttled: AtomicU64,
    /// Messages handed to sockets whole at once.
    pub(super) sent: AtomicU64,
    /// Messages that a socket did not take at once.
    pub(super) delayed: AtomicU64,
    /// Connections ended, by cause.
    pub(super) closed: [AtomicU64; CAUSES],
    /// Connections now.
    pub(super) open: AtomicU32,
    /// Checks whose member does what they ask for.
    pub(super) checks_passed: AtomicU64,
    /// Checks whose member does not.
    pub(super) checks_failed: AtomicU64,
    /// Checks that came to nothing through this machine's fault.
    pub(super) checks_inconclusive: AtomicU64,
    /// How long after their time checks were started.
    pub(super) lateness: Lateness,
}

/// A histogram of delays: the first count is of those under a millisecond, each further one of those of up to twice
/// as much.
#[derive(Debug, Default)]
pub(super) struct Lateness([AtomicU64; 20]);

impl Lateness {
    /// Counts a delay.
    pub(super) fn add(&self, delay: Duration) {
        let octave = 128 - delay.as_millis().leading_zeros() as usize;
        if let Some(count) = self.0.get(octave).or(self.0.last()) {
            self::count(count);
        }
    }

    /// In whole milliseconds, under what this part (in thousandths) of all delays of these histograms is; `None`
    /// without any.
    pub(super) fn quantile(all: &[&Lateness], thousandths: u64) -> Option<u64> {
        let counts: Vec<u64> = (0..20)
            .map(|at| all.iter().filter_map(|one| one.0.get(at)).map(|count| count.load(Ordering::Relaxed)).sum())
            .collect();
        let total: u64 = counts.iter().sum();
        let mut seen = 0;
        let octave = counts.iter().position(|count| {
            seen += count;
            seen * 1000 >= total * thousandths
        });
        octave.filter(|_| total > 0).map(|octave| 1 << octave)
    }
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Limits for tests of what takes them.
#[cfg(test)]
pub(super) const LIMITS: Connections = Connections {
    max: 10,
    max_per_source: 10,
    max_new_per_source: 0,
    max_handshakes_per_source: 0,
    max_requests_per_second: 0,
    max_message_bytes: 1024,
    max_buffered_bytes: 65536,
    max_unsent_bytes: 65536,
    stall_timeout: Duration::from_secs(60),
    first_message_timeout: Duration::from_secs(60),
    message_timeout: Duration::from_secs(60),
    handshake_timeout: Duration::from_secs(60),
    max_handshakes: 4,
    keepalive: None,
    poll_interval_seconds: 60,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_known_to_a_factor_of_two() {
        let (one, other) = (Lateness::default(), Lateness::default());
        assert_eq!(Lateness::quantile(&[&one, &other], 990), None);
        (0..985).for_each(|_| one.add(Duration::from_micros(999)));
        (0..14).for_each(|_| other.add(Duration::from_millis(5)));
        other.add(Duration::from_secs(100_000_000));
        assert_eq!(Lateness::quantile(&[&one, &other], 500), Some(1));
        assert_eq!(Lateness::quantile(&[&one, &other], 990), Some(8));
        assert_eq!(Lateness::quantile(&[&one, &other], 1000), Some(1 << 19));
    }
}

//! How many answers the clients of one network get by UDP: forged queries must not turn the server against others.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// Networks share slots by chance; the memory is 512 KiB, however many networks ask.
const SLOTS: usize = 1 << 16;

/// A rate for each network (an IPv4 /24, an IPv6 /56). A second's worth may come at once.
pub(super) struct Limiter {
    /// Nanoseconds between two answers at the full rate; 0: no limit.
    interval: u64,
    /// The point in time up to which the network has used its rate, in nanoseconds.
    used_until: Vec<AtomicU64>,
    /// Its keys are random: nobody can choose networks that share a slot.
    hasher: RandomState,
    refused: AtomicU32,
}

/// What to do with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Answer,
    /// Say only that the answer is truncated: a client with a real address asks again by TCP.
    Truncate,
    /// Send nothing.
    Drop,
}

const SECOND: u64 = 1_000_000_000;

impl Limiter {
    pub(super) fn new(per_second: u32) -> Limiter {
        let interval = SECOND.checked_div(per_second.into()).unwrap_or(0);
        let slots = if interval == 0 { 0 } else { SLOTS };
        Limiter {
            interval,
            used_until: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            refused: AtomicU32::new(0),
        }
    }

    /// Counts a query that came at `now`, since any fixed point in time.
    pub(super) fn count(&self, source: IpAddr, now: Duration) -> Verdict {
        if self.interval == 0 {
            return Verdict::Answer;
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let slot = &self.used_until[self.hasher.hash_one(network(source)) as usize % SLOTS];
        let take = |used: u64| {
            let until = used.max(now) + self.interval;
            (until <= now + SECOND.max(self.interval)).then_some(until)
        };
        if slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Verdict::Answer;
        }
        match self.refused.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Verdict::Truncate,
            _ => Verdict::Drop,
        }
    }
}

fn network(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => 1 << 63 | (ip.to_bits() >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(limiter: &Limiter, source: &str, at: u64) -> Verdict {
        limiter.count(source.parse().unwrap(), Duration::from_millis(at))
    }

    #[test]
    fn a_network_gets_its_rate_and_others_theirs() {
        let limiter = Limiter::new(10);
        for host in 0..10 {
            assert_eq!(count(&limiter, &format!("192.0.2.{host}"), 5000), Verdict::Answer);
        }
        assert_eq!(count(&limiter, "192.0.2.99", 5000), Verdict::Truncate);
        assert_eq!(count(&limiter, "192.0.2.99", 5000), Verdict::Drop);
        let other = |n| count(&limiter, &format!("2001:db8:{n}::1"), 5000) == Verdict::Answer;
        assert!((0..8).any(other), "by chance one may share the slot, not all");
        assert_eq!(count(&limiter, "::ffff:192.0.2.1", 5050), Verdict::Truncate, "the same network");
        assert_eq!(count(&limiter, "192.0.2.99", 5100), Verdict::Answer, "a tenth of a second is one answer");
        assert_eq!(count(&limiter, "192.0.2.99", 5100), Verdict::Drop);
        let answered = (0..20).filter(|_| count(&limiter, "192.0.2.99", 60_000) == Verdict::Answer);
        assert_eq!(answered.count(), 10, "silence saves up one second's worth");
    }

    #[test]
    fn no_limit_and_the_lowest() {
        let limiter = Limiter::new(0);
        assert!((0..10_000).all(|_| count(&limiter, "192.0.2.1", 0) == Verdict::Answer));
        let limiter = Limiter::new(1);
        assert_eq!(count(&limiter, "192.0.2.1", 0), Verdict::Answer);
        assert_ne!(count(&limiter, "192.0.2.1", 999), Verdict::Answer);
        assert_eq!(count(&limiter, "192.0.2.1", 1000), Verdict::Answer);
    }
}

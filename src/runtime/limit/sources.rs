//! Limits for each address that connections come from, for all shards together: open connections, new connections a
//! second, and handshakes a second.
//!
//! A source is an IPv4 address or an IPv6 network of 64 bits. A subscriber or a link gets such a network at least, and
//! a host may use all addresses in it, so a limit for each IPv6 address would be no limit.
//!
//! Shards share locks here, in stripes by source. A lock is taken for a look-up when a connection begins or ends and
//! when a handshake begins, never for a message. Separate counts in each shard would not give an exact limit.
//!
//! A source is kept while it has connections, whose number has a limit of its own, and then until its buckets are full,
//! a second later at most. At most [`IDLE_SOURCES`] without connections are kept. Beyond this, the source that left
//! first is forgotten, and may open as many connections as a new source. The alternative, to refuse new sources while
//! the table is full, would let an attacker who fills the table keep all others out.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use crossbeam_utils::CachePadded;

use super::rate::{Bucket, Rate};
use crate::coordinator::Time;

/// Number of locks: many more than shards that accept at the same moment.
const STRIPES: usize = 64;

/// The most sources without connections that are kept, about 100 bytes each.
const IDLE_SOURCES: usize = 65_536;

/// The same for one stripe.
const IDLE_PER_STRIPE: usize = IDLE_SOURCES / STRIPES;

/// After this time every bucket is full, because it holds the tokens of one second.
const FULL_AFTER: Duration = Duration::from_secs(1);

/// Sources checked for removal when one comes or goes: more than one, so that the table shrinks.
const COLLECTED: usize = 2;

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// An IPv4 address.
    V4(u32),
    /// The upper half of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address.to_bits()),
            IpAddr::V6(address) => Source::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// The limits of one source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Open connections, at least one.
    pub(crate) connections: u32,
    /// New connections.
    pub(crate) new_connections: Option<Rate>,
    /// Handshakes begun.
    pub(crate) handshakes: Option<Rate>,
}

/// Why a source may not open one more connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The source has as many connections as it may have.
    TooMany,
    /// The source opens connections too fast.
    TooFast,
}

/// The sources.
#[derive(Debug)]
pub(crate) struct Sources {
    allowance: Allowance,
    hasher: RandomState,
    stripes: Box<[CachePadded<Mutex<Stripe>>]>,
}

#[derive(Debug, Default)]
struct Stripe {
    /// Each source here has connections or is queued.
    entries: HashMap<Source, Entry>,
    /// Sources that lost their last connection, oldest first, with the time of their check for removal; each once.
    queue: VecDeque<(Time, Source)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    connections: u32,
    queued: bool,
    opened: Bucket,
    handshakes: Bucket,
}

impl Entry {
    fn is_full(&self, now: Time) -> bool {
        self.opened.is_full(now) && self.handshakes.is_full(now)
    }
}

impl Sources {
    pub(crate) fn new(allowance: Allowance) -> Sources {
        let stripes = (0..STRIPES).map(|_| CachePadded::default()).collect();
        Sources { allowance, hasher: RandomState::new(), stripes }
    }

    /// Counts a new connection, if the source may have it; then [`Sources::close`] must follow.
    pub(crate) fn open(&self, source: Source, now: Time) -> Result<(), Rejection> {
        let mut stripe = self.stripe(source);
        stripe.collect(now);
        // A new source always passes, so a rejection leaves no new entry behind.
        let entry = stripe.entries.entry(source).or_default();
        if entry.connections >= self.allowance.connections.max(1) {
            return Err(Rejection::TooMany);
        }
        if let Some(rate) = self.allowance.new_connections {
            entry.opened.take(now, rate).map_err(|_| Rejection::TooFast)?;
        }
        entry.connections += 1;
        Ok(())
    }

    /// Counts the end of a connection.
    pub(crate) fn close(&self, source: Source, now: Time) {
        let mut stripe = self.stripe(source);
        stripe.collect(now);
        let Some(entry) = stripe.entries.get_mut(&source) else { return };
        entry.connections = entry.connections.saturating_sub(1);
        if entry.connections > 0 || entry.queued {
            return;
        }
        if entry.is_full(now) {
            stripe.entries.remove(&source);
        } else {
            entry.queued = true;
            stripe.queue.push_back((now + FULL_AFTER, source));
            if stripe.queue.len() > IDLE_PER_STRIPE {
                stripe.look(None);
            }
        }
    }

    /// Takes the right to begin a handshake now, for a source with a connection; an error is the time to ask again.
    /// Several connections may get the same time; then the first to ask passes.
    pub(crate) fn take_handshake(&self, source: Source, now: Time) -> Result<(), Time> {
        let Some(rate) = self.allowance.handshakes else { return Ok(()) };
        match self.stripe(source).entries.get_mut(&source) {
            Some(entry) => entry.handshakes.take(now, rate),
            None => Ok(()),
        }
    }

    fn stripe(&self, source: Source) -> MutexGuard<'_, Stripe> {
        let at = self.hasher.hash_one(source) as usize % STRIPES;
        let stripe = self.stripes.get(at).expect("the remainder is less");
        // Each change under the lock leaves a valid state at every step, so a panic did no harm.
        stripe.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Stripe {
    /// Removes some sources that are as good as new ones.
    fn collect(&mut self, now: Time) {
        for _ in 0..COLLECTED {
            if self.queue.front().is_some_and(|(at, _)| *at <= now) {
                self.look(Some(now));
            }
        }
    }

    /// Takes the first source of the queue, and removes it if it has no connection and full buckets. Without a time,
    /// the buckets do not matter.
    fn look(&mut self, now: Option<Time>) {
        let Some((_, source)) = self.queue.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&source) else { return };
        match now {
            _ if entry.connections > 0 => entry.queued = false,
            // The source has opened connections since it was queued.
            Some(now) if !entry.is_full(now) => self.queue.push_back((now + FULL_AFTER, source)),
            _ => {
                self.entries.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const A: Source = Source::V4(1);
    const B: Source = Source::V4(2);

    fn at(milliseconds: u64) -> Time {
        Time::default() + Duration::from_millis(milliseconds)
    }

    fn sources(connections: u32, new_connections: u32, handshakes: u32) -> Sources {
        let [new_connections, handshakes] = [new_connections, handshakes].map(Rate::per_second);
        Sources::new(Allowance { connections, new_connections, handshakes })
    }

    fn known(sources: &Sources) -> usize {
        let count = |stripe: &CachePadded<Mutex<Stripe>>| {
            let stripe = stripe.lock().unwrap();
            let queued = stripe.entries.values().filter(|entry| entry.queued).count();
            assert_eq!(stripe.queue.len(), queued, "each is in the queue once");
            assert!(stripe.entries.values().all(|entry| entry.queued || entry.connections > 0));
            stripe.entries.len()
        };
        sources.stripes.iter().map(count).sum()
    }

    #[test]
    fn an_ipv4_address_and_an_ipv6_network_of_64_bits_are_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().expect("an address"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    }

    #[test]
    fn each_source_has_its_own_connections_and_gets_them_back() {
        let sources = sources(2, 0, 0);
        for source in [A, B, A, B] {
            assert_eq!(sources.open(source, at(0)), Ok(()));
        }
        assert_eq!(sources.open(A, at(0)), Err(Rejection::TooMany));
        sources.close(B, at(0));
        assert_eq!(sources.open(A, at(0)), Err(Rejection::TooMany), "what another gives back is not A's");
        sources.close(A, at(0));
        assert_eq!(sources.open(A, at(0)), Ok(()));
        assert_eq!(sources.open(A, at(0)), Err(Rejection::TooMany));
    }

    #[test]
    fn a_source_that_left_is_forgotten() {
        let sources = sources(2, 0, 0);
        (0..1000).for_each(|source| assert_eq!(sources.open(Source::V4(source), at(0)), Ok(())));
        assert_eq!(known(&sources), 1000);
        (0..1000).for_each(|source| sources.close(Source::V4(source), at(0)));
        assert_eq!(known(&sources), 0);
    }

    #[test]
    fn new_connections_have_a_rate_that_outlives_them() {
        let sources = sources(100, 3, 0);
        for _ in 0..3 {
            assert_eq!(sources.open(A, at(1000)), Ok(()));
            sources.close(A, at(1000));
        }
        assert_eq!(sources.open(A, at(1000)), Err(Rejection::TooFast));
        assert_eq!(sources.open(B, at(1000)), Ok(()), "another source is not concerned");
        assert_eq!(sources.open(A, at(1300)), Err(Rejection::TooFast));
        assert_eq!(sources.open(A, at(1334)), Ok(()));
        assert_eq!(sources.open(A, at(1334)), Err(Rejection::TooFast));
    }

    #[test]
    fn a_connection_over_the_number_uses_up_nothing_of_the_rate() {
        let sources = sources(1, 2, 0);
        assert_eq!(sources.open(A, at(0)), Ok(()));
        (0..9).for_each(|_| assert_eq!(sources.open(A, at(0)), Err(Rejection::TooMany)));
        sources.close(A, at(0));
        assert_eq!(sources.open(A, at(0)), Ok(()));
    }

    #[test]
    fn handshakes_wait_for_their_turn_in_their_own_source_alone() {
        let sources = sources(100, 0, 2);
        for source in [A, A, A, B] {
            assert_eq!(sources.open(source, at(0)), Ok(()));
        }
        assert_eq!(sources.take_handshake(A, at(0)), Ok(()));
        assert_eq!(sources.take_handshake(A, at(0)), Ok(()));
        assert_eq!(sources.take_handshake(A, at(0)), Err(at(500)));
        assert_eq!(sources.take_handshake(A, at(499)), Err(at(500)), "to ask costs nothing");
        assert_eq!(sources.take_handshake(B, at(499)), Ok(()));
        assert_eq!(sources.take_handshake(A, at(500)), Ok(()));
        assert_eq!(sources.take_handshake(A, at(500)), Err(at(1000)));
        // They count for longer than the connection lives.
        (0..3).for_each(|_| sources.close(A, at(500)));
        assert_eq!(sources.open(A, at(500)), Ok(()));
        assert_eq!(sources.take_handshake(A, at(500)), Err(at(1000)));
    }

    #[test]
    fn sources_without_connections_are_forgotten_when_their_buckets_are_full() {
        let sources = sources(1, 1, 0);
        let stay = 200;
        for source in 0..1000 {
            assert_eq!(sources.open(Source::V4(source), at(0)), Ok(()));
            sources.close(Source::V4(source), at(0));
        }
        assert_eq!(known(&sources), 1000);
        // Some are back, and stay, or are back and gone again.
        (0..stay).for_each(|source| assert_eq!(sources.open(Source::V4(source), at(1000)), Ok(())));
        for source in stay..2 * stay {
            assert_eq!(sources.open(Source::V4(source), at(1000)), Ok(()));
            sources.close(Source::V4(source), at(1000));
        }
        // Every source that comes takes two along that are not needed.
        for source in 0..10_000 {
            sources.open(Source::V6(source), at(2001)).expect("a new one is welcome");
            sources.close(Source::V6(source), at(2001));
        }
        assert_eq!(known(&sources), 10_000 + stay as usize, "those of now, and those with a connection");
    }

    /// The flood of a network with many addresses: others come and go meanwhile, and no connection is forgotten.
    #[test]
    fn the_table_is_bounded_and_keeps_nobody_out() {
        let sources = sources(1, 1, 0);
        assert_eq!(sources.open(A, at(0)), Ok(()));
        for source in 0..4 * IDLE_SOURCES as u64 {
            assert_eq!(sources.open(Source::V6(source), at(1)), Ok(()), "source {source}");
            sources.close(Source::V6(source), at(1));
        }
        assert!(known(&sources) <= IDLE_SOURCES + 1);
        assert_eq!(sources.open(A, at(1001)), Err(Rejection::TooMany));
        assert_eq!(sources.open(B, at(1)), Ok(()));
    }

    #[test]
    fn the_number_is_exact_whichever_shard_asks() {
        const MAX: u32 = 5;
        let sources = sources(MAX, 0, 0);
        let (open, refused, most) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        match sources.open(A, at(0)) {
                            Ok(()) => {
                                most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                                std::thread::yield_now();
                                open.fetch_sub(1, Ordering::Relaxed);
                                sources.close(A, at(0));
                            }
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        assert!(most.into_inner() <= MAX);
        assert_eq!(known(&sources), 0, "every connection was counted out");
        (0..MAX).for_each(|_| assert_eq!(sources.open(A, at(0)), Ok(())));
        assert_eq!(sources.open(A, at(0)), Err(Rejection::TooMany));
    }
}

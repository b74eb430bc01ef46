//! What is known of the addresses that connections come from, for all shards together: how many each has open, and how
//! many more it may open or begin a handshake on now.
//!
//! A source is an IPv4 address or an IPv6 network of 64 bits: that is the least that a subscriber or a link is given,
//! and within it a host takes what addresses it likes, so to count single ones would be no limit at all.
//!
//! Shards share locks here, in stripes by source: taken when a connection begins or ends and when a handshake begins,
//! each time for a look-up, and never for a message. Counts that each shard kept for itself would not add up to a
//! limit that is exact.
//!
//! A source is known while it has connections, which have a limit of their own, and until its buckets are full again,
//! a second later at most. Of those without connections [`IDLE_SOURCES`] are kept: then the one that left
//! first is forgotten, and may open as many as one that never was here. The other way out, to refuse strangers
//! while the table is full, would let whoever fills it keep everyone else out.

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

/// Locks: many more than shards that accept in the same moment.
const STRIPES: usize = 64;

/// Sources without connections that are known, about 100 bytes each.
const IDLE_SOURCES: usize = 65_536;

/// Of a stripe.
const IDLE_PER_STRIPE: usize = IDLE_SOURCES / STRIPES;

/// After this long every bucket is full: it holds no more than a second's worth.
const FULL_AFTER: Duration = Duration::from_secs(1);

/// Sources looked at when one comes or goes, whether they can be forgotten: more than one, so that they become fewer.
const COLLECTED: usize = 2;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// An address.
    V4(u32),
    /// The upper half of one.
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

/// What one source may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Connections at a time, at least one.
    pub(crate) connections: u32,
    /// New connections.
    pub(crate) new_connections: Option<Rate>,
    /// Handshakes begun.
    pub(crate) handshakes: Option<Rate>,
}

/// Why a source gets no further connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// It has as many as it may have.
    TooMany,
    /// It opens them too fast.
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
    /// Each has connections or is queued.
    entries: HashMap<Source, Entry>,
    /// Those that were left without connections, first come first, and from when on they are looked at; each once.
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

    /// Counts a connection in, if the source may have it; then [`Sources::close`] must follow.
    pub(crate) fn open(&self, source: Source, now: Time) -> Result<(), Rejection> {
        let mut stripe = self.stripe(source);
        stripe.collect(now);
        // One that is new here passes, so no refusal leaves an entry behind.
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

    /// Counts a connection out.
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

    /// Whether a source that has a connection may begin a handshake on it now; else when to ask again. It may be told
    /// so of several connections, of which the first to ask then gets the turn.
    pub(crate) fn may_handshake(&self, source: Source, now: Time) -> Result<(), Time> {
        let Some(rate) = self.allowance.handshakes else { return Ok(()) };
        match self.stripe(source).entries.get_mut(&source) {
            Some(entry) => entry.handshakes.take(now, rate),
            None => Ok(()),
        }
    }

    fn stripe(&self, source: Source) -> MutexGuard<'_, Stripe> {
        let at = self.hasher.hash_one(source) as usize % STRIPES;
        let stripe = self.stripes.get(at).expect("the remainder is less");
        // What a panic left is as good as before: nothing here is done by halves that could not be.
        stripe.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Stripe {
    /// Forgets sources that nothing is lost with.
    fn collect(&mut self, now: Time) {
        for _ in 0..COLLECTED {
            if self.queue.front().is_some_and(|(at, _)| *at <= now) {
                self.look(Some(now));
            }
        }
    }

    /// Takes the first of the queue, and forgets it if it has no connection: without a time, whatever it has used up.
    fn look(&mut self, now: Option<Time>) {
        let Some((_, source)) = self.queue.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&source) else { return };
        match now {
            _ if entry.connections > 0 => entry.queued = false,
            // It was here again since it was queued.
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
        assert_eq!(sources.may_handshake(A, at(0)), Ok(()));
        assert_eq!(sources.may_handshake(A, at(0)), Ok(()));
        assert_eq!(sources.may_handshake(A, at(0)), Err(at(500)));
        assert_eq!(sources.may_handshake(A, at(499)), Err(at(500)), "to ask costs nothing");
        assert_eq!(sources.may_handshake(B, at(499)), Ok(()));
        assert_eq!(sources.may_handshake(A, at(500)), Ok(()));
        assert_eq!(sources.may_handshake(A, at(500)), Err(at(1000)));
        // They count for longer than the connection lives.
        (0..3).for_each(|_| sources.close(A, at(500)));
        assert_eq!(sources.open(A, at(500)), Ok(()));
        assert_eq!(sources.may_handshake(A, at(500)), Err(at(1000)));
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

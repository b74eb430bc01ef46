//! Requests that were not accepted from their sender (0x11): counted by cause, and logged once per source and cause.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use super::{sources::Source, throttle::Throttle};
use crate::{
    coordinator::{REFUSALS, Refusal, Refused, Time},
    limits,
    sasp::Escaped,
};

/// How long the same cause of the same source is not logged again.
const SILENCE: Duration = Duration::from_secs(3600);

/// Bytes of a certificate's name that a log line shows.
const NAME_BYTES: usize = 128;

/// What was refused, and what was said of it. Memory is bounded: of the sources and causes that were logged, the newest
/// [`limits::REFUSALS_REMEMBERED`] are known; who has more sources than that meets the limit of lines per second.
#[derive(Default)]
pub(super) struct Refusals {
    counts: [u64; REFUSALS],
    logged: HashSet<(Source, Refusal)>,
    /// The same, and when, oldest first.
    order: VecDeque<(Time, Source, Refusal)>,
    throttles: [Throttle; REFUSALS],
}

impl Refusals {
    /// How many there were, by cause.
    pub(super) fn counts(&self) -> [u64; REFUSALS] {
        self.counts
    }

    /// Counts one, and logs it if it is news.
    pub(super) fn note(&mut self, now: Time, refused: &Refused<'_>) {
        if !self.is_news(now, refused.peer.address.into(), refused.cause) {
            return;
        }
        let name = refused.peer.certificate.as_deref().and_then(|certificate| certificate.first_name());
        let name = name.map(|name| name.as_bytes().get(..NAME_BYTES).unwrap_or(name.as_bytes()));
        let certificate = name.map(|name| tracing::field::display(Escaped(name)));
        let member = refused.member.map(tracing::field::display);
        tracing::warn!(
            peer = %refused.peer.address,
            certificate,
            load_balancer = %Escaped(refused.lb_uid),
            member,
            "not accepted (0x11): {}",
            refused.cause.text()
        );
    }

    /// The rules are other ones: what is refused from now on is news.
    pub(super) fn forget(&mut self) {
        self.logged.clear();
        self.order.clear();
    }

    /// Says how many lines were left out.
    pub(super) fn report_suppressed(&mut self, now: Time) {
        for (cause, throttle) in Refusal::ALL.iter().zip(&mut self.throttles) {
            let Some(lines) = throttle.suppressed(now) else { continue };
            tracing::warn!("{lines} more not accepted (0x11): {}", cause.text());
        }
    }

    fn is_news(&mut self, now: Time, source: Source, cause: Refusal) -> bool {
        if let Some(count) = self.counts.get_mut(cause as usize) {
            *count += 1;
        }
        while let Some(&(at, source, cause)) = self.order.front() {
            if now < at + SILENCE && self.order.len() < limits::REFUSALS_REMEMBERED {
                break;
            }
            self.order.pop_front();
            self.logged.remove(&(source, cause));
        }
        let throttle = self.throttles.get_mut(cause as usize).expect("there is one a cause");
        if self.logged.contains(&(source, cause)) || !throttle.allows(now) {
            return false;
        }
        self.logged.insert((source, cause));
        self.order.push_back((now, source, cause));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_source_and_cause_are_news_once_an_hour() {
        let mut refusals = Refusals::default();
        let (one, other) = (Source::V4(1), Source::V6(1));
        assert!(refusals.is_news(at(0), one, Refusal::NoTrust));
        assert!(!refusals.is_news(at(1), one, Refusal::NoTrust));
        assert!(refusals.is_news(at(1), one, Refusal::LbIdentity), "another cause");
        assert!(refusals.is_news(at(1), other, Refusal::NoTrust), "another source");
        assert!(!refusals.is_news(at(3599), one, Refusal::NoTrust));
        assert!(refusals.is_news(at(3600), one, Refusal::NoTrust));
        assert_eq!(refusals.counts()[Refusal::NoTrust as usize], 5);
        refusals.forget();
        assert!(refusals.is_news(at(3601), one, Refusal::NoTrust));
    }

    #[test]
    fn any_number_of_sources_takes_bounded_memory_and_few_lines() {
        let mut refusals = Refusals::default();
        let news =
            (0..100_000).map(Source::V4).filter(|&source| refusals.is_news(at(0), source, Refusal::NoTrust)).count();
        assert!(news < 10, "{news} lines within a second");
        // Slowly enough to be told of each.
        for source in 0..3 * limits::REFUSALS_REMEMBERED as u64 {
            assert!(refusals.is_news(at(1 + source / 5), Source::V6(source), Refusal::NoTrust));
            assert!(refusals.logged.len() <= limits::REFUSALS_REMEMBERED);
            assert_eq!(refusals.logged.len(), refusals.order.len());
        }
    }
}

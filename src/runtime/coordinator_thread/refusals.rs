//! The log of refused requests (return code 0x11): one line for each peer and cause.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use crate::{
    coordinator::{REFUSALS, Refusal, Refused, Time},
    limits,
    runtime::limit::sources::Source,
    sasp::Escaped,
    throttle::Throttle,
};

/// How long the same cause of the same peer is not logged again.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// Bytes of a certificate's name that a log line shows.
const NAME_BYTES: usize = 128;

/// The peer of a line: a source, and the first bytes of its certificate's fingerprint, because one address may have
/// many certificates.
type Who = (Source, u64);

/// The peers and causes that were logged. Memory is bounded: only the newest [`limits::REFUSALS_REMEMBERED`] are known.
/// A peer with more names than that meets the limit of lines per second.
#[derive(Default)]
pub(super) struct Refusals {
    logged: HashSet<(Who, Refusal)>,
    /// The same with the time of the line, oldest first.
    order: VecDeque<(Time, Who, Refusal)>,
    throttles: [Throttle; REFUSALS],
}

impl Refusals {
    /// Logs a refused request, unless its peer and cause were logged lately.
    pub(super) fn log(&mut self, now: Time, refused: &Refused<'_>) {
        let certificate = refused.peer.certificate.as_deref();
        let known_by = certificate.and_then(|certificate| certificate.fingerprint.first_chunk());
        let who = (refused.peer.address.into(), known_by.map_or(0, |bytes| u64::from_be_bytes(*bytes)));
        if !self.is_news(now, who, refused.cause) {
            return;
        }
        let name = certificate.and_then(|certificate| certificate.first_name());
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

    /// Forgets all peers, because the access rules have changed.
    pub(super) fn forget(&mut self) {
        self.logged.clear();
        self.order.clear();
    }

    /// Logs how many lines were left out.
    pub(super) fn log_suppressed(&mut self, now: Time) {
        for (cause, throttle) in Refusal::ALL.iter().zip(&mut self.throttles) {
            let Some(lines) = throttle.take_suppressed(now) else { continue };
            tracing::warn!("{lines} more not accepted (0x11): {}", cause.text());
        }
    }

    fn is_news(&mut self, now: Time, who: Who, cause: Refusal) -> bool {
        while let Some(&(at, who, cause)) = self.order.front() {
            if now < at + LOG_AGAIN_AFTER && self.order.len() < limits::REFUSALS_REMEMBERED {
                break;
            }
            self.order.pop_front();
            self.logged.remove(&(who, cause));
        }
        let throttle = self.throttles.get_mut(cause as usize).expect("there is one a cause");
        if self.logged.contains(&(who, cause)) || !throttle.take_line(now) {
            return false;
        }
        self.logged.insert((who, cause));
        self.order.push_back((now, who, cause));
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
    fn a_peer_and_cause_are_news_once_an_hour() {
        let mut refusals = Refusals::default();
        let (one, other) = ((Source::V4(1), 0), (Source::V6(1), 0));
        assert!(refusals.is_news(at(0), one, Refusal::NoTrust));
        assert!(!refusals.is_news(at(1), one, Refusal::NoTrust));
        assert!(refusals.is_news(at(1), one, Refusal::LbIdentity), "another cause");
        assert!(refusals.is_news(at(1), other, Refusal::NoTrust), "another source");
        assert!(refusals.is_news(at(1), (one.0, 7), Refusal::NoTrust), "another certificate");
        assert!(!refusals.is_news(at(3599), one, Refusal::NoTrust));
        assert!(refusals.is_news(at(3600), one, Refusal::NoTrust));
        refusals.forget();
        assert!(refusals.is_news(at(3601), one, Refusal::NoTrust));
    }

    #[test]
    fn any_number_of_sources_takes_bounded_memory_and_few_lines() {
        let mut refusals = Refusals::default();
        let news =
            (0..100_000).filter(|&name| refusals.is_news(at(0), (Source::V4(name), 0), Refusal::NoTrust)).count();
        assert!(news < 10, "{news} lines within a second");
        // So slowly that no line is left out.
        for source in 0..3 * limits::REFUSALS_REMEMBERED as u64 {
            assert!(refusals.is_news(at(1 + source / 5), (Source::V6(source), 0), Refusal::NoTrust));
            assert!(refusals.logged.len() <= limits::REFUSALS_REMEMBERED);
            assert_eq!(refusals.logged.len(), refusals.order.len());
        }
    }
}

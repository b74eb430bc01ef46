//! What systemd hears of the daemon: that it has started, reads its files again, stops; and that it lives.
//!
//! The daemon lives as long as each loop that peers depend on makes rounds: the coordinator's, and two of each shard. Each
//! makes one at least every [`HEARTBEAT`](crate::runtime::machine::executor::HEARTBEAT), also when it has nothing to do. A
//! loop without a round stops what systemd hears, and systemd restarts the daemon after the unit's `WatchdogSec`. The
//! threads of the admin side and of the journal do not count: without them the daemon serves on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Metrics;
use crate::{config::Listen, metrics::Counter, notify::Notifier, runtime::shard::ShardMetrics};

/// The way to systemd, and what the loops had done at the last look.
pub(super) struct Systemd {
    notifier: Notifier,
    metrics: Arc<Metrics>,
    /// From one look at the loops to the next; `None`: systemd does not want to hear that the daemon lives.
    interval: Option<Duration>,
    /// From the start on: before, a loop may not run yet, and systemd waits.
    next_look: Option<Instant>,
    rounds: Vec<u64>,
}

impl Systemd {
    pub(super) fn new(notifier: Notifier, metrics: Arc<Metrics>) -> Systemd {
        // Four looks in the time after which systemd acts, so that one slow round in it does no harm.
        let interval = notifier.watchdog.map(|half| half / 2);
        let rounds = rounds(&metrics).map(|(_, rounds)| rounds).collect();
        Systemd { notifier, interval, next_look: None, rounds, metrics }
    }

    /// All threads run.
    pub(super) fn ready(&mut self, now: Instant, listening: &[Listen]) {
        let addresses: Vec<String> =
            listening.iter().map(|Listen { address, carries }| format!("{address} ({carries})")).collect();
        self.notifier.status(format!("listening on {}", addresses.join(", ")));
        self.notifier.ready();
        self.next_look = self.interval.map(|interval| now + interval);
    }

    /// Says so before and after the work of a reload.
    pub(super) fn reload(&self, work: impl FnOnce()) {
        self.notifier.reloading();
        work();
        self.notifier.ready();
    }

    pub(super) fn stopping(&self, at_most: Duration) {
        self.notifier.stopping(at_most);
    }

    /// Looks at the loops, if the time has come; how long until the next look.
    pub(super) fn look(&mut self, now: Instant) -> Option<Duration> {
        let (interval, next) = (self.interval?, self.next_look?);
        if now < next {
            return Some(next - now);
        }
        self.next_look = Some(now + interval);
        match self.hang() {
            None => self.notifier.alive(),
            Some(hang) => {
                let seconds = interval.as_secs_f32();
                tracing::error!("{hang} hangs, for {seconds} s at least: systemd is not told that gwm lives");
            }
        }
        Some(interval)
    }

    /// A loop without a round since the last look.
    fn hang(&mut self) -> Option<String> {
        let before = &mut self.rounds;
        let mut hang = None;
        for ((name, now), before) in rounds(&self.metrics).zip(before) {
            if std::mem::replace(before, now) == now {
                hang.get_or_insert(name);
            }
        }
        hang
    }
}

/// Each loop that peers depend on, with its rounds until now.
fn rounds(metrics: &Metrics) -> impl Iterator<Item = (String, u64)> {
    let of_shard = |(shard, metrics): (usize, &Arc<ShardMetrics>)| {
        let [serving, checking] = metrics.rounds.each_ref().map(Counter::get);
        [(format!("shard {shard}"), serving), (format!("shard {shard} (checks)"), checking)]
    };
    let coordinator = ("the coordinator".to_owned(), metrics.coordinator.turns.get());
    std::iter::once(coordinator).chain(metrics.shards.iter().enumerate().flat_map(of_shard))
}

#[cfg(test)]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    };

    use super::*;

    /// Three loops of two shards and a coordinator: only while all make rounds, systemd hears that the daemon lives.
    #[test]
    fn a_loop_that_hangs_silences_the_watchdog() {
        let name = format!("gwm-watchdog-{}", std::process::id());
        let unit = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        unit.set_nonblocking(true).unwrap();
        let heard = || unit.recv(&mut [0; 64]).is_ok();
        let metrics = Arc::new(Metrics::new(2));
        let mut systemd = Systemd::new(Notifier::new(Some(&format!("@{name}")), Some(4_000_000)), metrics.clone());
        let loops = [
            &metrics.coordinator.turns,
            &metrics.shards[0].rounds[0],
            &metrics.shards[0].rounds[1],
            &metrics.shards[1].rounds[0],
            &metrics.shards[1].rounds[1],
        ];
        let mut now = Instant::now();
        assert_eq!(systemd.look(now), None, "the loops may not run yet");
        systemd.ready(now, &[]);
        assert!(heard() && heard() && !heard(), "a line of what it does, and that it is ready");
        let mut look = |hangs: Option<usize>| {
            for (_, rounds) in loops.iter().enumerate().filter(|(at, _)| Some(*at) != hangs) {
                rounds.add(1);
            }
            now += Duration::from_secs(1);
            assert_eq!(systemd.look(now), Some(Duration::from_secs(1)));
            assert_eq!(systemd.look(now + Duration::from_millis(999)), Some(Duration::from_millis(1)));
        };
        for hanging in 0..loops.len() {
            look(None);
            assert!(heard() && !heard(), "one word a look");
            look(Some(hanging));
            look(Some(hanging));
            assert!(!heard(), "loop {hanging} hangs");
            look(None);
            assert!(heard(), "loop {hanging} goes on");
        }
        let mut without = Systemd::new(Notifier::new(None, Some(4_000_000)), metrics.clone());
        without.ready(now, &[]);
        assert_eq!(without.look(now), None);
    }

    #[test]
    fn the_loop_that_hangs_is_named() {
        let metrics = Arc::new(Metrics::new(1));
        let mut systemd = Systemd::new(Notifier::new(None, None), metrics.clone());
        metrics.shards[0].rounds.iter().for_each(|rounds| rounds.add(1));
        assert_eq!(systemd.hang().as_deref(), Some("the coordinator"));
        metrics.coordinator.turns.add(1);
        metrics.shards[0].rounds[0].add(1);
        assert_eq!(systemd.hang().as_deref(), Some("shard 0 (checks)"));
    }
}

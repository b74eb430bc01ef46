//! What every connector must outlive, whichever real load balancer it has.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use super::{Connector, Gwm, Member, real::free_address};
use crate::harness::until;

/// The weights of two members; both are above 0.
pub(super) type Weights = (u16, u16);

/// A real load balancer and its connector. It balances the same two members in each of its groups.
pub(super) trait Real {
    /// Starts the connector, with the GWM at this address.
    fn connect(&self, gwm: &str) -> Connector;

    /// Whether the real one uses weights in this proportion now, in all groups.
    fn has(&mut self, weights: Weights) -> bool;

    /// Ends it and starts it again: what it had at run time is lost.
    fn restart(&mut self);
}

/// The connector is killed amid updates, the GWM comes and goes, the real load balancer is restarted, with and without a
/// GWM and a connector: each time the weights are right again.
pub(super) fn outlives(real: &mut impl Real, members: [SocketAddr; 2]) {
    let of = |(first, second): Weights| [(members[0], Some(first)), (members[1], Some(second))];
    let address = free_address().to_string();
    let mut gwm = Gwm::start_at(&address, &of((10, 20)));
    let mut connector = real.connect(&address);
    gets(real, (10, 20));

    for weights in [(30, 10), (10, 10), (20, 10)] {
        let length = connector.log().len();
        gwm.set(&of(weights));
        // Each step is logged before the first one is taken.
        until("an update begins", || connector.log().len() > length);
        connector.kill();
        connector = real.connect(&address);
        gets(real, weights);
    }

    real.restart();
    gets(real, (20, 10));
    connector.kill();
    real.restart();
    connector = real.connect(&address);
    gets(real, (20, 10));

    let mut last = (20, 10);
    for weights in [(10, 20), (30, 10), (10, 10)] {
        lose(real, &connector, gwm, last);
        gwm = Gwm::start_at(&address, &of(weights));
        gets(real, weights);
        last = weights;
    }
    for weights in [(10, 30), (10, 20), (30, 10)] {
        drop(gwm);
        gwm = Gwm::start_at(&address, &of(weights));
    }
    gets(real, (30, 10));

    lose(real, &connector, gwm, (30, 10));
    real.restart();
    gets(real, (30, 10));
    let _gwm = Gwm::start_at(&address, &of((10, 20)));
    gets(real, (10, 20));
    assert!(connector.stop().success());
    assert!(real.has((10, 20)), "the last weights stay");
}

fn gets(real: &mut impl Real, weights: Weights) {
    until(&format!("{weights:?} are in use"), || real.has(weights));
}

/// Takes the GWM away; what was in use stays in use.
fn lose(real: &mut impl Real, connector: &Connector, gwm: Gwm, last: Weights) {
    let losses = || connector.log().matches("retry_seconds").count();
    let before = losses();
    drop(gwm);
    until("the loss is told", || losses() > before);
    assert!(real.has(last), "{last:?} stay without a GWM");
}

/// Sets a flag when it is dropped, so that threads end when a test fails.
struct Ends<'f>(&'f AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients make requests all the time, while the last of these members drains, leaves, and comes back; none fails.
pub(super) fn drains(request: impl Fn() -> Result<(), String> + Sync, gwm: &Gwm, members: &[Member]) {
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let leaving = members.last().expect("there are members");
    let with = |weight| {
        let each = members.iter().map(|member| member.address);
        gwm.set(&each.map(|at| (at, if at == leaving.address { weight } else { Some(20) })).collect::<Vec<_>>());
    };
    let load = || {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            failed.extend(request().err());
            made.fetch_add(1, Ordering::Relaxed);
        }
        failed
    };
    let more = |count: u64| {
        let from = made.load(Ordering::Relaxed);
        until("requests go on", || made.load(Ordering::Relaxed) >= from + count);
    };
    let failed: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(load)).collect();
        let ends = Ends(&stop);
        let before = leaving.served();
        until("the member serves", || leaving.served() > before + 10);
        // Before that the others, of which the GWM is not confident yet, would have no share.
        let passed = || gwm.daemon.log().matches("-> up: a check passed").count();
        until("every member has passed a check", || passed() >= members.len());
        with(None);
        until("the member gets no request", || {
            let before = leaving.served();
            more(100);
            leaving.served() == before
        });
        leaving.set_open(false);
        more(300);
        leaving.set_open(true);
        with(Some(20));
        let before = leaving.served();
        until("the member serves again", || leaving.served() > before + 10);
        more(50);
        drop(ends);
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    assert_eq!(failed, [""; 0], "of {} requests", made.load(Ordering::Relaxed));
}

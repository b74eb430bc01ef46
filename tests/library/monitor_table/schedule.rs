//! Which endpoint is checked when.

use std::{collections::HashMap, time::Duration};

use gwm::{
    monitor::{Outcome, Reason},
    roster::Monitor,
    sasp::Endpoint,
    time::Time,
};

use super::rig::*;

fn by_endpoint(starts: &[(Time, Duration, Endpoint)]) -> HashMap<Endpoint, Vec<Time>> {
    let mut by: HashMap<Endpoint, Vec<Time>> = HashMap::new();
    starts.iter().for_each(|(at, _, endpoint)| by.entry(*endpoint).or_default().push(*at));
    by
}

#[test]
fn each_endpoint_is_checked_once_an_interval_and_all_of_them_evenly() {
    let mut rig = Rig::new(roster(Monitor::auto()), settings(), 5);
    (0..1000).for_each(|index| rig.watch(index)); // all at once
    rig.run(SECOND * 10, |_, _| pass());
    let by = by_endpoint(&rig.starts);
    assert_eq!(by.len(), 1000);
    for (endpoint, times) in &by {
        assert!((10..=11).contains(&times.len()), "{endpoint}: {times:?}");
        assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) == SECOND), "{endpoint}: {times:?}");
    }
    let start = rig.starts[0].0;
    let mut in_each_10_ms = [0; 900];
    rig.starts.iter().for_each(|(at, _, _)| {
        if let Some(count) = in_each_10_ms.get_mut((at.since(start).as_millis() / 10) as usize) {
            *count += 1;
        }
    });
    assert!(in_each_10_ms.iter().all(|count| (7..=13).contains(count)), "{in_each_10_ms:?}");
    assert!(rig.starts.iter().all(|(_, late, _)| late.is_zero()));
}

/// Members come, go and come back, checks take various times, and at most 20 checks run.
#[test]
fn no_check_is_lost_or_doubled_whatever_comes_and_goes() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new(
            roster(Monitor::auto()),
            gwm::monitor::table::MonitorSettings { checks_under_way: 20, ..settings() },
            seed,
        );
        for _ in 0..300 {
            let index = random.u32(0..100);
            if random.bool() {
                rig.watch(index)
            } else {
                rig.unwatch(index)
            }
            if random.u8(0..20) == 0 {
                // The same checks at other intervals, or no checks for some time.
                let mut member = (**roster(Monitor::auto()).default_member()).clone();
                member.times.interval = SECOND * random.u32(1..3);
                member.monitor = if random.u8(0..4) == 0 { Monitor::none() } else { Monitor::auto() };
                rig.table.replan(
                    rig.now,
                    std::sync::Arc::new(gwm::roster::Roster::new(member, gwm::judgement::Policy::Auto)),
                );
            }
            let time = Duration::from_millis(random.u64(0..300));
            rig.run(time, |_, _| {
                let outcome = match random.u8(0..4) {
                    0 => Outcome::Failed(Reason::TimedOut),
                    1 => Outcome::Inconclusive(Reason::NoResources),
                    _ => Outcome::Passed,
                };
                (Duration::from_millis(random.u64(0..400)), outcome)
            });
            let totals = rig.table.totals();
            assert_eq!(totals.endpoints, rig.watches.len(), "seed {seed}");
            assert!(totals.under_way <= 20, "seed {seed}");
        }
        // In the end each watched endpoint is checked at its own interval, and no other endpoint is.
        rig.table.replan(rig.now, roster(Monitor::auto()));
        rig.run(SECOND * 5, |_, _| pass());
        rig.starts.clear();
        rig.run(SECOND * 10, |_, _| pass());
        let by = by_endpoint(&rig.starts);
        let expected: Vec<Endpoint> = rig.watches.keys().map(|&index| endpoint(index)).collect();
        assert_eq!(by.len(), expected.len(), "seed {seed}");
        assert!(expected.iter().all(|endpoint| (10..=11).contains(&by[endpoint].len())), "seed {seed}: {by:?}");
        let totals = rig.table.totals();
        assert_eq!(totals.checks, expected.len(), "seed {seed}");
        assert!(rig.watches.keys().all(|index| rig.said[index].verdicts[0].flags.0 & 9 == 9), "seed {seed}");
    }
}

/// After a second without any end of a check, checks start as fast as they may until the delay is gone.
#[test]
fn after_a_stall_lateness_ends() {
    let mut rig = Rig::new(
        roster(Monitor::auto()),
        gwm::monitor::table::MonitorSettings { checks_under_way: 10, ..settings() },
        3,
    );
    (0..500).for_each(|index| rig.watch(index));
    rig.run(SECOND * 3, |_, _| pass());
    let stall = rig.now;
    rig.run(SECOND * 10, |now, _| if now.since(stall) < SECOND { (SECOND, Outcome::Passed) } else { pass() });
    assert!(rig.starts.iter().any(|(_, late, _)| *late >= SECOND / 4), "there was no stall");
    let settled = stall + SECOND * 5;
    let after: Vec<_> = rig.starts.iter().filter(|(at, ..)| *at > settled).collect();
    assert!(after.len() >= 2400);
    // Ten at a time, a millisecond each: with an even spread, checks hardly wait.
    assert!(after.iter().all(|(_, late, _)| *late < SECOND / 500), "{:?}", after.iter().map(|(_, late, _)| late).max());
}

/// Members that do not answer hold a place for the whole timeout. However many they are, members that are up are
/// checked in time.
#[test]
fn silent_members_delay_nobody_who_is_up() {
    let mut rig = Rig::new(
        roster(Monitor::auto()),
        gwm::monitor::table::MonitorSettings { checks_under_way: 20, ..settings() },
        2,
    );
    (0..5).for_each(|index| rig.watch(index));
    rig.run(SECOND * 2, |_, _| pass());
    (5..300).for_each(|index| rig.watch(index));
    let alive = |job: &gwm::monitor::table::Job, least| (least..5).any(|index| job.endpoint == endpoint(index));
    let silent = || (SECOND, Outcome::Failed(Reason::TimedOut));
    rig.starts.clear();
    rig.run(SECOND * 60, |_, job| if alive(job, 0) { pass() } else { silent() });
    let up: Vec<_> = rig.starts.iter().filter(|(.., who)| (0..5).any(|index| *who == endpoint(index))).collect();
    assert!((300..=305).contains(&up.len()), "{}", up.len());
    assert!(up.iter().all(|(_, late, _)| late.is_zero()), "{:?}", up.iter().map(|(_, late, _)| late).max());
    // The silent members take turns, and each gets a judgement.
    assert!((5..300).all(|index| rig.said[&index].verdicts[0].flags.0 & 9 == 8));
    // A member that dies is noticed, though it is silent too; so is its return.
    rig.run(SECOND + SECOND / 2 * 3, |_, job| if alive(job, 1) { pass() } else { silent() });
    assert_eq!(rig.said[&0].verdicts[0].flags.0 & 9, 8);
    rig.run(SECOND * 60, |_, job| if alive(job, 0) { pass() } else { silent() });
    assert_eq!(rig.said[&0].verdicts[0].flags.0 & 9, 9);
    rig.starts.clear();
    rig.run(SECOND * 10, |_, job| if alive(job, 0) { pass() } else { silent() });
    assert!(rig.starts.iter().all(|(_, late, who)| *who != endpoint(0) || late.is_zero()));
}

#[test]
fn ends_of_runs_that_are_not_under_way_are_ignored() {
    let mut rig = Rig::new(roster(Monitor::auto()), settings(), 1);
    rig.watch(0);
    rig.watch(1);
    let at = rig.now + SECOND;
    let (first, second) = (rig.table.start(at).unwrap(), rig.table.start(at).unwrap());
    rig.table.unwatch(rig.watches[&0]);
    rig.table.unwatch(rig.watches[&1]);
    assert_eq!((rig.table.totals().endpoints, rig.table.totals().under_way), (0, 2));
    rig.watch(2); // takes the place of a silent member
    for token in [first.token, first.token, second.token, second.token, first.token] {
        rig.table.finish(at, token, Outcome::Failed(Reason::Refused));
    }
    assert_eq!((rig.table.totals().checks, rig.table.totals().under_way), (1, 0));
    rig.run(SECOND * 2, |_, _| pass());
    assert_eq!(rig.said.len(), 1);
    assert_eq!(rig.said[&2].verdicts[0].flags.0 & 9, 9);
}

//! Several nodes in virtual time: real coordinators and replicas, a simulated store, and faults. After the faults, all
//! nodes show the same, and what clients were promised is there.
//!
//! `GWM_FLEET_SCHEDULES` sets how many schedules are run, `GWM_FLEET_SEED` runs one and prints what happens.

mod etcd;
mod node;
mod world;

use std::{env, panic};

use world::{Counts, Plan, World};

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().expect(name))
}

fn play(seed: u64) -> Counts {
    let mut world = World::new(Plan { seed, length: 6_000 });
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| world.run()));
    let failed = !matches!(outcome, Ok(Ok(())));
    if failed || number("GWM_FLEET_SEED").is_some() {
        world.events.iter().for_each(|event| eprintln!("{event}"));
    }
    match outcome {
        Ok(Ok(())) => world.counts(),
        Ok(Err(fault)) => panic!("seed {seed} (run again with GWM_FLEET_SEED={seed}): {fault}"),
        Err(fault) => {
            eprintln!("seed {seed} (run again with GWM_FLEET_SEED={seed})");
            panic::resume_unwind(fault)
        }
    }
}

#[test]
fn after_any_faults_all_nodes_show_the_same_and_nothing_promised_is_lost() {
    if let Some(seed) = number("GWM_FLEET_SEED") {
        eprintln!("{:?}", play(seed));
        return;
    }
    let schedules = number("GWM_FLEET_SCHEDULES").unwrap_or(1000);
    let mut all = Counts::default();
    for seed in 0..schedules {
        let counts = play(seed);
        all.promises += counts.promises;
        all.conflicts += counts.conflicts;
        all.keys += counts.keys;
        all.shares += counts.shares;
        all.strict += counts.strict;
        all.short_holds += counts.short_holds;
    }
    eprintln!("{all:?}");
    let each = schedules as usize;
    assert!(all.promises > 5 * each && all.keys > 5 * each && all.strict > each / 2, "{all:?}");
}

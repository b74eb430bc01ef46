//! A crash at any point: the state is that after the last transaction that was acknowledged, or after the one that was
//! under way, never another.
//!
//! `GWM_CRASH_SEEDS` sets the number of histories; `GWM_CRASH_SEED` replays one (a failure prints its seed).

use fastrand::Rng;
use gwm::journal::{Date, Epoch, Store};

use super::{disk::Disk, history::History, rows::rows};
use crate::coordinator_model::number;

/// Histories in the tests of each change; more by the variable. Most have one crash or more.
const SEEDS: u64 = 10_000;

/// Transactions of the longest history.
const BATCHES: u64 = 8;

/// Plays one history with crashes; gives their number.
fn play(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let mut history = History::default();
    let disk = Disk::default();
    // Some histories have many crashes, most have few: a call of the disk is the moment of one with this chance.
    disk.crash(rng.fork(), rng.u32(5..200));
    let last = rng.u64(1..=BATCHES);
    let mut store = Store::open_on(disk.clone()).expect("the disk works");
    // Before the first transaction the file may be no state yet, as a daemon that never ran leaves it.
    let mut images = disk.take_images();
    for (_, image) in images.drain(..) {
        if let Ok(store) = Store::open_on(Disk::of(image)) {
            assert_eq!(rows(&store, Epoch::default()), []);
        }
    }
    let mut states = vec![Vec::new()];
    let mut batches = Vec::new();
    for batch in 0..last {
        disk.set_number(batch);
        let entries: Vec<_> = (0..rng.usize(1..8)).map(|_| history.entry(&mut rng)).collect();
        store.apply(&entries, Epoch::default(), Date(batch)).expect("the disk works");
        assert_eq!(store.applied(), batch + 1);
        states.push(rows(&store, Epoch::default()));
        batches.push(entries);
        // A crash after the transaction was acknowledged leaves this transaction.
        images.extend(disk.take_images());
    }
    if rng.bool() {
        drop(store); // a stop writes, too
        disk.set_number(last);
        images.extend(disk.take_images());
    }
    let crashes = images.len() as u64;
    for (acknowledged, image) in images {
        let mut store = Store::open_on(Disk::of(image)).expect("a crash damages nothing");
        let applied = store.applied();
        assert!((acknowledged..=acknowledged + 1).contains(&applied), "{applied} after {acknowledged}");
        assert_eq!(rows(&store, Epoch::default()), states[applied as usize]);
        // And it goes on from there.
        if let Some(next) = batches.get(applied as usize)
            && rng.u8(..4) == 0
        {
            store.apply(next, Epoch::default(), Date::default()).expect("the disk works");
            assert_eq!(rows(&store, Epoch::default()), states[applied as usize + 1]);
        }
    }
    crashes
}

#[test]
fn a_crash_at_any_point_loses_nothing_that_was_acknowledged() {
    if let Some(seed) = number("GWM_CRASH_SEED") {
        play(seed);
        return;
    }
    let seeds = number("GWM_CRASH_SEEDS").unwrap_or(SEEDS);
    let mut crashes = 0;
    for seed in 0..seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        crashes += played.unwrap_or_else(|panic| {
            eprintln!("GWM_CRASH_SEED={seed} replays this");
            std::panic::resume_unwind(panic)
        });
    }
    println!("{crashes} crashes in {seeds} histories");
}

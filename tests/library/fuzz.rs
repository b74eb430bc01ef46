//! A short seeded run of every fuzz entry point.
//!
//! `GWM_FUZZ_ITERATIONS` makes the run longer. A failure prints its seed, and `GWM_FUZZ_SEED` runs this seed alone.

mod agent;
mod agent_load;
mod capture;
mod checks;
mod connectors;
#[cfg(feature = "dns")]
mod dns;
mod fleet;
mod journal;
mod operator;
mod protocol;

use std::{env, panic};

use fastrand::Rng;

/// Runs `entry` on the inputs that `input` makes from seeds.
fn run(iterations: u64, entry: fn(&[u8]), input: fn(&mut Rng) -> Vec<u8>) {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let iterations = number("GWM_FUZZ_ITERATIONS").unwrap_or(iterations);
    let seeds = match number("GWM_FUZZ_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = fastrand::u64(..u64::MAX - iterations);
            (first..first + iterations).collect()
        }
    };
    for seed in seeds {
        let data = input(&mut Rng::with_seed(seed));
        if let Err(fault) = panic::catch_unwind(|| entry(&data)) {
            eprintln!("seed {seed} (run again with GWM_FUZZ_SEED={seed}), input {data:02X?}");
            panic::resume_unwind(fault);
        }
    }
}

fn bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let length = rng.usize(..=max);
    (0..length).map(|_| rng.u8(..)).collect()
}

/// Makes a few changes at most: a bit, a byte, a 16-bit number, a piece removed, doubled or inserted.
fn mutate(rng: &mut Rng, data: &mut Vec<u8>) {
    for _ in 0..rng.usize(..4) {
        let at = rng.usize(..=data.len());
        let end = (at + rng.usize(..20)).min(data.len());
        match rng.u8(..6) {
            0 => data
                .get_mut(at..)
                .and_then(|rest| rest.first_mut())
                .into_iter()
                .for_each(|byte| *byte ^= 1 << rng.u8(..8)),
            1 => data.get_mut(at..).and_then(|rest| rest.first_mut()).into_iter().for_each(|byte| *byte = rng.u8(..)),
            2 => {
                let number = rng.choice([0_u16, 1, 4, 5, 24, 255, 256, 0x7FFF, 0xFFFF, 0x3010, 0x4011]).unwrap();
                if let Some(place) = data.get_mut(at..at + 2) {
                    place.copy_from_slice(&number.to_be_bytes());
                }
            }
            3 => drop(data.drain(at..end)),
            4 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => drop(data.splice(at..end, bytes(rng, 8))),
        }
    }
}

/// Pieces of a list in random order, sometimes with a few changes.
fn pieces(rng: &mut Rng, list: &[&str], most: usize) -> Vec<u8> {
    let mut data: Vec<u8> =
        (0..rng.usize(..=most)).flat_map(|_| rng.choice(list).expect("a list").as_bytes().to_vec()).collect();
    if rng.bool() {
        mutate(rng, &mut data);
    }
    data
}

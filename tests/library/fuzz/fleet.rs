//! The entry point of the store that the nodes of a fleet share.

use gwm::fuzz;

use super::{pieces, run};

#[test]
fn fleet_row() {
    const PIECES: [&str; 9] =
        ["lb/", "group/", "word/", "node/", "verdict/", "4c4231", "/", "0000001700000000", "0fff"];
    run(20_000, fuzz::fleet_row, |rng| pieces(rng, &PIECES, 4));
    // Small numbers are versions, flags and lengths.
    run(50_000, fuzz::fleet_row, |rng| {
        let length = [18, 29, 40, 60][rng.usize(..4)] + rng.usize(..60);
        let mut bytes: Vec<u8> = (0..length).map(|_| if rng.u8(..8) > 0 { rng.u8(..4) } else { rng.u8(..) }).collect();
        bytes[0] = 1;
        bytes
    });
}

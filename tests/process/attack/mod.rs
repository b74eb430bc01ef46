//! Attacks on the real `gwm serve`, first the attacks of RFC 4678 section 10: what each protection refuses, what is
//! possible without protection, and what legitimate peers notice during an attack.
//!
//! Beside every attack a load balancer and a member work from another address. Each of their requests must get the
//! right answer, no acknowledged registration may be lost, and the daemon's memory must stay within a bound. The times
//! of answers are printed, never asserted. `GWM_ATTACK_FULL=1` runs everything in full size;
//! `GWM_ATTACK_FULL=1 cargo test --release --test process attack::table -- --ignored --nocapture` prints PERF.md's
//! table.

mod beside;
mod bytes;
mod certificates;
mod crowds;
mod identity;
mod openssl;
mod registrations;
mod versions;

use beside::Row;

/// The size for the test suite, or the full size.
fn size(suite: usize, full: usize) -> usize {
    if std::env::var_os("GWM_ATTACK_FULL").is_some() { full } else { suite }
}

#[test]
#[ignore = "prints a table, one attack after the other"]
fn table() {
    let attacks: [fn() -> Vec<Row>; 6] =
        [identity::rows, certificates::rows, versions::rows, bytes::rows, crowds::rows, registrations::rows];
    let rows: Vec<Row> = attacks.into_iter().flat_map(|attack| attack()).collect();
    println!("\n| attack | result | p50, p99 without | p50, p99 beside it | memory |");
    println!("| --- | --- | --- | --- | --- |");
    rows.iter().for_each(|row| println!("{row}"));
}

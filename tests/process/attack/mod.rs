//! Attacks on the real `gwm serve`, those of RFC 4678 section 10 first: what is refused with which protection, what is
//! not without it, and what whoever belongs there notices meanwhile.
//!
//! Beside every attack a load balancer and a member go on, from an address of their own: each of their requests must
//! get the right answer, nothing that was acknowledged may be lost, and the daemon's memory stays within a bound. How
//! long the answers took is printed, never asserted. `GWM_ATTACK_FULL=1` plays everything in full size;
//! `GWM_ATTACK_FULL=1 cargo test --release --test process attack::table -- --ignored --nocapture` prints PERF.md's table.

mod beside;
mod bytes;
mod certificates;
mod crowds;
mod identity;
mod openssl;
mod registrations;
mod versions;

use beside::Row;

/// As many as the whole suite has time for, or as many as it takes.
fn size(suite: usize, full: usize) -> usize {
    if std::env::var_os("GWM_ATTACK_FULL").is_some() { full } else { suite }
}

#[test]
#[ignore = "prints a table, one attack after the other"]
fn table() {
    let attacks: [fn() -> Vec<Row>; 6] =
        [identity::rows, certificates::rows, versions::rows, bytes::rows, crowds::rows, registrations::rows];
    let rows: Vec<Row> = attacks.into_iter().flat_map(|attack| attack()).collect();
    println!("\n| attack | what becomes of it | p50, p99 without | p50, p99 beside it | memory |");
    println!("| --- | --- | --- | --- | --- |");
    rows.iter().for_each(|row| println!("{row}"));
}

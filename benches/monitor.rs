//! The weight table: the cost of watching, without the I/O of checks.

use std::{sync::Arc, time::Duration};

use divan::{Bencher, counter::ItemsCount};
use gwm::{
    judgement::{Policy, WatchId},
    monitor::{
        Outcome,
        outcome::Load,
        policy::Tuning,
        table::{MonitorSettings, Table},
    },
    roster::{Member, Monitor, Roster, Times},
    time::Time,
};

use crate::{codec::endpoint, scaled};

/// The endpoints of one shard.
const ENDPOINTS: u32 = 100_000;

fn table(endpoints: u32) -> Table {
    let member = Member::watched(100, Monitor::auto(), Times::default());
    let settings = MonitorSettings { tuning: Tuning::default(), checks_under_way: 1000, icmp: false };
    let mut table = Table::new(Arc::new(Roster::new(member, Policy::Auto)), settings, 7);
    for index in 0..endpoints {
        table.watch(Time(0), WatchId { index, generation: 1 }, endpoint(index), None);
    }
    table
}

/// Begins to watch 100,000 endpoints: time and memory.
#[divan::bench(sample_count = 5)]
fn watch_100k(bencher: Bencher<'_, '_>) {
    let endpoints = scaled(ENDPOINTS);
    bencher.counter(ItemsCount::new(endpoints)).bench_local(|| table(endpoints));
}

/// One check of one of 100,000 endpoints, from its start to its next due time.
#[divan::bench(args = ["passed", "load"])]
fn check_of_100k(bencher: Bencher<'_, '_>, found: &str) {
    let mut table = table(scaled(ENDPOINTS));
    let load = Load { cpu_utilization: Some(0.5), rps: Some(100.0), ..Load::default() };
    let outcome = if found == "load" { Outcome::Load(load) } else { Outcome::Passed };
    let mut now = Time(0);
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        now = table.next_due().expect("a check is due some time").max(now);
        table.poll(now);
        if let Some(job) = table.start(now) {
            table.finish(now + Duration::from_micros(100), job.token, outcome);
        }
        table.changes(1024, |judgement| {
            divan::black_box(judgement);
        });
    });
}

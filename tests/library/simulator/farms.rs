//! Farms that are lost as a whole, in virtual time: what the GWM tells each farm's load balancer, second by second. The
//! real weight table and coordinator judge.
//!
//! `cargo test --release --test library -- --ignored --nocapture simulator::farms` prints the table that decided the
//! default of `--panic-time` (README.md, "The panic time").

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use gwm::{
    coordinator::{ConnectionId, Coordinator, Settings},
    judgement::Policy,
    monitor::{
        Outcome, Reason,
        policy::Tuning,
        table::{Job, MonitorSettings, Table},
    },
    roster::{Check, Member, Monitor, Roster, Times},
    sasp::{
        Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, Message, SenderFlags, WeightEntry, Writer, writer,
    },
    time::Time,
};

use super::gwm::Out;

/// What a member's checks find.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Works,
    /// The process has ended.
    Refuses,
    /// The machine is off, or not to be reached.
    Silent,
}
use State::*;

/// Farms by their numbers of members.
struct Case {
    farms: &'static [usize],
    /// The state of a member of a farm at a second.
    state: fn(f64, usize, usize) -> State,
    seconds: u64,
}

/// What a farm's load balancer was told, ten times a second.
type Told = Vec<Vec<WeightEntry>>;

const SAMPLES: f64 = 10.0;

/// The longest time from a failure to its push: a fall window, a push window, and a sample.
const FOUND: f64 = 8.0 + 0.1 + 0.1;

fn member(farm: usize, number: usize) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(10, 0, farm as u8, number as u8 + 1).into(), 6, 80)
}

/// Runs a case; gives what each farm's load balancer was told.
fn run(case: &Case, panic_time: Duration, seed: u64) -> Vec<Told> {
    let at = |seconds: f64| Time((seconds * 1e9) as u64);
    let default = Member::watched(100, Monitor::of([Check::Tcp]), Times::default());
    let roster = Arc::new(Roster::new(default, Policy::Static));
    let tuning = Tuning { slow_start: Duration::ZERO, ..Tuning::default() };
    let settings = Settings {
        max_load_balancers: 100,
        max_groups: 100,
        panic_time,
        ..super::gwm::settings(roster.clone(), &tuning, seed)
    };
    let mut table = Table::new(roster, MonitorSettings { tuning, checks_under_way: 1000, icmp: false }, seed);
    let mut coordinator = Coordinator::new(settings, 1);
    let mut out = Out::default();
    let lb = |farm: usize| ConnectionId { shard: 0, slot: farm as u32, generation: 1 };
    for (farm, members) in case.farms.iter().enumerate() {
        let uid = format!("LB{farm}");
        coordinator.opened(lb(farm), std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into());
        let mut state = Vec::new();
        writer::set_lb_state_request(&mut state, 1, uid.as_bytes(), Health(0x7F), LbFlags::PUSH).expect("it fits");
        let mut registration = Vec::new();
        let mut request = Writer::registration_request(&mut registration, 2, SenderFlags::LOAD_BALANCER);
        request.group(GroupData { lb_uid: uid.as_bytes(), name: b"FARM" });
        (0..*members).for_each(|of| request.entry(&MemberData { endpoint: member(farm, of), label: b"" }));
        request.finish().expect("a small group fits");
        for bytes in [state, registration] {
            let (header, message) = Message::decode(&bytes).expect("our own requests are well-formed");
            coordinator.request(at(0.0), lb(farm), header.id, &message, &mut out);
            coordinator.delivered(lb(farm), u32::MAX);
        }
    }
    out.messages.clear();

    let mut entries: Vec<Vec<WeightEntry>> = vec![Vec::new(); case.farms.len()];
    let mut told: Vec<Told> = vec![Vec::new(); case.farms.len()];
    let mut results: BTreeMap<(Time, u64), (Job, Outcome)> = BTreeMap::new();
    let (mut now, mut serial) = (at(0.0), 0);
    while told[0].len() < (case.seconds as f64 * SAMPLES) as usize {
        while let Some(entry) = results.first_entry().filter(|entry| entry.key().0 <= now) {
            let (job, outcome) = entry.remove();
            table.finish(now, job.token, outcome);
        }
        while coordinator.has_watch_orders() {
            for order in coordinator.take_watch_orders() {
                table.watch(now, order.watch, order.endpoint.expect("nothing is deregistered"), None);
            }
        }
        table.poll(now);
        while let Some(job) = table.start(now) {
            let [.., farm, number] = job.endpoint.address;
            let (end, outcome) = match (case.state)(now.0 as f64 / 1e9, farm.into(), usize::from(number) - 1) {
                Works => (now + Duration::from_millis(1), Outcome::Passed),
                Refuses => (now + Duration::from_millis(1), Outcome::Failed(Reason::Refused)),
                Silent => (job.deadline, Outcome::Failed(Reason::TimedOut)),
            };
            serial += 1;
            results.insert((end, serial), (job, outcome));
        }
        let mut judgements = Vec::new();
        table.changes(usize::MAX, |judgement| judgements.push(judgement));
        coordinator.judge(now, &judgements);
        coordinator.poll(now, &mut out);
        for bytes in std::mem::take(&mut out.messages) {
            let Ok((_, Message::SendWeights(push))) = Message::decode(&bytes) else { panic!("not a push") };
            for group in push.groups {
                let farm: usize = std::str::from_utf8(&group.data.lb_uid[2..]).unwrap().parse().unwrap();
                entries[farm] = group.entries().map(|member| member.entry).collect();
            }
        }
        (0..case.farms.len()).for_each(|farm| coordinator.delivered(lb(farm), u32::MAX));
        let sample = at((told[0].len() + 1) as f64 / SAMPLES);
        if now >= sample {
            told.iter_mut().zip(&entries).for_each(|(told, entries)| told.push(entries.clone()));
            continue;
        }
        let due = [table.next_due(), coordinator.next_deadline(), results.keys().next().map(|key| key.0)];
        now = due.into_iter().flatten().min().unwrap_or(sample).clamp(now + Duration::from_nanos(1), sample);
    }
    told
}

/// The seconds of the samples in which `what` is true.
fn seconds(told: &Told, what: impl Fn(&[WeightEntry]) -> bool) -> f64 {
    told.iter().filter(|entries| what(entries)).count() as f64 / SAMPLES
}

fn up(entry: &WeightEntry) -> bool {
    entry.flags.contains(EntryFlags::CONTACT | EntryFlags::CONFIDENT) && entry.weight > 0
}

fn contact(entry: &WeightEntry) -> bool {
    entry.flags.contains(EntryFlags::CONTACT)
}

/// What was told at a second.
fn at(told: &Told, second: f64) -> &[WeightEntry] {
    &told[(second * SAMPLES) as usize]
}

const PANIC: Duration = Duration::from_secs(30);

/// Farm 1 of three is shut down at 60; then a member of farm 0 dies at 70.
const SHUT_DOWN: Case = Case {
    farms: &[4, 10, 4],
    state: |second, farm, number| match (farm, number) {
        (1, _) if second >= 60.0 => Refuses,
        (0, 0) if second >= 70.0 => Silent,
        _ => Works,
    },
    seconds: 200,
};

#[test]
fn one_farm_of_three_is_shut_down_then_a_member_of_another_dies() {
    for seed in 1..=5 {
        let told = run(&SHUT_DOWN, PANIC, seed);
        // The farm is in doubt, then down, and stays so.
        assert!(at(&told[1], 60.0 + FOUND).iter().all(|entry| contact(entry) && !up(entry)), "seed {seed}");
        assert!(told[1][((60.0 + FOUND + 30.0) * SAMPLES) as usize..].iter().flatten().all(|entry| !contact(entry)));
        // The member of the other farm is down at once, and nobody else is touched.
        assert!(told[0][((70.0 + FOUND) * SAMPLES) as usize..].iter().all(|entries| !contact(&entries[0])));
        for (farm, spared) in [(0, 1), (2, 0)] {
            let others = told[farm][(FOUND * SAMPLES) as usize..].iter().flat_map(|entries| &entries[spared..]);
            assert!(others.into_iter().all(up), "farm {farm}, seed {seed}");
        }
    }
}

/// The network between the GWM and the subnet of farm 1 is gone from 60 to 75.
const PARTITION: Case = Case {
    farms: &[4, 6, 4],
    state: |second, farm, _| if farm == 1 && (60.0..75.0).contains(&second) { Silent } else { Works },
    seconds: 150,
};

#[test]
fn a_partition_between_the_gwm_and_one_subnet_drains_nobody() {
    for seed in 1..=5 {
        let told = run(&PARTITION, PANIC, seed);
        assert_eq!(seconds(&told[1], |entries| entries.iter().all(|entry| !contact(entry))), 0.0, "seed {seed}");
        assert!(at(&told[1], 75.0 + FOUND).iter().all(up), "they are back, seed {seed}");
        for farm in [0, 2] {
            assert!(told[farm][(FOUND * SAMPLES) as usize..].iter().flatten().all(up), "farm {farm}, seed {seed}");
        }
    }
}

/// A rack loses power at 60: six of ten members of each farm.
const RACK: Case = Case {
    farms: &[10, 10, 10],
    state: |second, _, number| if number < 6 && second >= 60.0 { Silent } else { Works },
    seconds: 200,
};

#[test]
fn a_rack_that_loses_power_is_down_after_the_panic_time() {
    for seed in 1..=5 {
        for told in run(&RACK, PANIC, seed) {
            assert!(at(&told, 60.0 + FOUND).iter().all(|entry| contact(entry) && !up(entry)), "seed {seed}");
            for entries in &told[((60.0 + FOUND + 30.0) * SAMPLES) as usize..] {
                let (dead, alive) = entries.split_at(6);
                assert!(!dead.iter().any(contact) && alive.iter().all(up), "seed {seed}");
            }
        }
    }
}

/// The GWM's own network is gone from 60 to 160, longer than the panic time.
const CUT_OFF: Case = Case {
    farms: &[4, 6, 1],
    state: |second, _, _| if (60.0..160.0).contains(&second) { Silent } else { Works },
    seconds: 200,
};

#[test]
fn a_gwm_that_is_cut_off_drains_no_farm() {
    for seed in 1..=5 {
        for (farm, told) in run(&CUT_OFF, PANIC, seed).iter().enumerate() {
            let drained = seconds(told, |entries| !entries.is_empty() && !entries.iter().any(contact));
            // Until the last member of all farms is lost, a farm of one member looks dead.
            let most = if farm == 2 { 8.0 } else { 0.0 };
            assert!(drained <= most, "farm {farm} was drained for {drained} s, seed {seed}");
            assert!(at(told, 160.0 + 2.0 * FOUND).iter().all(up), "all are back, seed {seed}");
        }
    }
}

#[test]
#[ignore = "prints a table of this folder's README.md: The panic time"]
fn panic_times() {
    fn partition<const SECONDS: u64>() -> Case {
        let state: fn(f64, usize, usize) -> State = |second, farm, _| {
            let gone = 60.0..60.0 + SECONDS as f64;
            if farm == 1 && gone.contains(&second) { Silent } else { Works }
        };
        Case { state, seconds: 400, ..PARTITION }
    }
    let partitions = [partition::<10>(), partition::<20>(), partition::<30>(), partition::<60>(), partition::<120>()];
    println!(
        "\n| panic time | farm that works is drained: network gone 10 s | 20 s | 30 s | 60 s | 120 s | farm that is shut down: until it is down | rack: until the dead are down |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mean = |of: &dyn Fn(u64) -> f64| (1..=20).map(of).sum::<f64>() / 20.0;
    for panic in [0, 10, 20, 30, 45, 60, 120] {
        let time = Duration::from_secs(panic);
        let drained = |case: &Case| {
            mean(&|seed| seconds(&run(case, time, seed)[1], |told| !told.is_empty() && !told.iter().any(contact)))
        };
        let lost: Vec<String> = partitions.iter().map(|case| format!("{:.1} s", drained(case))).collect();
        let down = |case: &Case, farm: usize, dead: usize| {
            let shown = |told: &Told| seconds(&told[600..].to_vec(), |entries| entries[..dead].iter().any(contact));
            mean(&|seed| shown(&run(&Case { seconds: 300, ..*case }, time, seed)[farm]))
        };
        let (farm, rack) = (down(&SHUT_DOWN, 1, 10), down(&RACK, 0, 6));
        println!("| {panic} s | {} | {farm:.1} s | {rack:.1} s |", lost.join(" | "));
    }
}

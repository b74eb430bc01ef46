//! Schedules of faults, each from its seed: machines die, networks are cut in one direction or both, links are slow, clocks
//! jump, while load balancers and members go on, and beside them those of `gwm-loadgen failover`. After each, all is healed,
//! and all promises must have been kept. Where the kernel has no netem, links are slow by a bucket (tbf).
//!
//! `GWM_FLEET_SCHEDULES` is how many (50), `GWM_FLEET_SEED` the first one's seed (1).

use std::{
    env,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::Value;

use super::{
    balancers::{Balancer, Presence, Promised, member},
    bed::{
        self, Bed, EACH,
        Machine::{self, Etcd, Gwm, LoadBalancers, Members},
        PORTS,
    },
    load::Load,
};
use crate::harness::PATIENCE;

/// The load balancers.
const BALANCERS: usize = 3;

/// What is done in one schedule after each fault.
const STEPS: usize = 4;

/// The most words that are said.
const WORDS: usize = 500;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillGwm(usize),
    KillEtcd(usize),
    /// All but one: nothing can be written.
    KillMostEtcds(usize),
    /// What the first sends to the second is lost, and the other way, too, if so.
    Cut(Machine, Machine, bool),
    /// A GWM is without any etcd.
    CutFromEtcds(usize, Ways),
    Slow(Machine),
    /// The last member ends.
    EndMember,
    /// The date of a GWM is ahead by so many seconds from now on, or behind.
    SetClock(usize, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    Out,
    In,
    Both,
}

fn fault(rng: &mut Rng) -> Fault {
    let one = |rng: &mut Rng| rng.usize(..EACH);
    let gwm = one(rng);
    match rng.u8(..13) {
        0 | 1 => Fault::KillGwm(gwm),
        2 => Fault::KillEtcd(one(rng)),
        3 => Fault::KillMostEtcds(one(rng)),
        4 | 5 => Fault::CutFromEtcds(gwm, *rng.choice([Ways::Out, Ways::In, Ways::Both].iter()).expect("three")),
        6 => Fault::Cut(Gwm(gwm), Etcd(one(rng)), rng.bool()),
        7 => Fault::Cut(Gwm(gwm), Gwm((gwm + 1) % EACH), rng.bool()),
        8 => Fault::Cut(Gwm(gwm), Members, rng.bool()),
        9 => Fault::Cut(Members, Gwm(gwm), rng.bool()),
        10 => Fault::Slow(if rng.bool() { Gwm(gwm) } else { Etcd(gwm) }),
        11 => Fault::SetClock(gwm, rng.i64(-60..=60)),
        _ => Fault::EndMember,
    }
}

fn inject(bed: &mut Bed, fault: Fault) {
    match fault {
        Fault::KillGwm(number) => bed.kill_gwm(number),
        Fault::KillEtcd(number) => bed.kill_etcd(number),
        Fault::KillMostEtcds(left) => {
            (0..EACH).filter(|number| *number != left).for_each(|number| bed.kill_etcd(number))
        }
        Fault::Cut(one, other, both) => {
            bed.cut(one, other);
            if both {
                bed.cut(other, one);
            }
        }
        Fault::CutFromEtcds(gwm, ways) => {
            for number in 0..EACH {
                if ways != Ways::In {
                    bed.cut(Gwm(gwm), Etcd(number));
                }
                if ways != Ways::Out {
                    bed.cut(Etcd(number), Gwm(gwm));
                }
            }
        }
        Fault::Slow(machine) => bed.slow(machine),
        Fault::EndMember => bed.close_member(PORTS.len() - 1),
        Fault::SetClock(gwm, ahead) => bed.set_clock(gwm, ahead),
    }
}

/// The bed, who uses it, and what was promised to them.
struct World {
    bed: Bed,
    balancers: Vec<Balancer>,
    /// Words of the operator that a GWM took, by their reason.
    words: Vec<String>,
    load: Option<Load>,
}

impl World {
    /// Something that load balancers, members and operators do.
    fn step(&mut self, rng: &mut Rng, seed: u64, number: usize) {
        let Some(balancer) = rng.choice(self.balancers.iter_mut()) else { return };
        // The first and the last port stay.
        let port = PORTS[rng.usize(1..PORTS.len() - 1)];
        let gwm = rng.usize(..EACH);
        match rng.u8(..10) {
            0..=3 => balancer.change(port),
            4..=6 => balancer.member_changes(port, gwm),
            7 => balancer.leave(),
            _ if self.words.len() < WORDS => {
                let reason = format!("{seed}-{number}");
                let body = format!(
                    r#"{{"group":"nowhere-{reason}","reason":"{reason}","by":"ann","expires_in_seconds":86400}}"#
                );
                if self.bed.tell(gwm, "/api/v1/members/quiesce", &body).is_some() {
                    self.words.push(reason);
                }
            }
            _ => {}
        }
    }

    /// Whether those that the fault concerns have noticed.
    fn is_noticed(&self, fault: Fault) -> bool {
        let running = self.bed.running();
        let fleet = |gwm: usize| self.bed.ask(gwm, "/api/v1/fleet").map(|answer| answer["fleet"].clone());
        let is_away = |gwm: &usize| fleet(*gwm).is_none_or(|fleet| !fleet["trouble"].is_null());
        match fault {
            // The others count one node less, as far as they reach etcd.
            Fault::KillGwm(number) => running.iter().filter(|gwm| **gwm != number).all(|gwm| {
                let nodes = fleet(*gwm).map_or(0, |fleet| fleet["nodes"].as_array().map_or(0, Vec::len));
                nodes < EACH || is_away(gwm)
            }),
            Fault::CutFromEtcds(number, _) => !running.contains(&number) || is_away(&number),
            Fault::KillMostEtcds(_) => running.iter().all(is_away),
            Fault::Cut(Gwm(number), Members, _) | Fault::Cut(Members, Gwm(number), _) => {
                let totals = self.bed.ask(number, "/api/v1/totals");
                totals.is_none_or(|totals| totals["blind"]["foreign"] == true)
            }
            // A node that is blind does not notice.
            Fault::EndMember => running.iter().any(|gwm| {
                let rows = self.bed.list(*gwm, "/api/v1/members", "members").unwrap_or_default();
                rows.iter().any(|row| row["port"] == PORTS[PORTS.len() - 1] && row["contact"] == false)
            }),
            Fault::KillEtcd(_) | Fault::Cut(..) | Fault::Slow(_) | Fault::SetClock(..) => true,
        }
    }

    /// What is done while a fault lasts: some steps, or as many as it takes until it is noticed.
    fn live_with(&mut self, faults: &[Fault], rng: &mut Rng, seed: u64) {
        let (start, notice, mut number) = (Instant::now(), rng.bool(), 0);
        let last = *faults.last().expect("a fault");
        while number < STEPS || (notice && !self.is_noticed(last)) {
            assert!(start.elapsed() < PATIENCE, "seed {seed}: nobody notices {last:?}");
            if number < STEPS {
                self.step(rng, seed, 100 * faults.len() + number);
            }
            let drained = self.serve();
            assert!(drained.is_empty(), "seed {seed} {faults:?}: drained: {drained:?}");
            number += 1;
        }
    }

    /// All load balancers ask for their weights, or look for another GWM; gives who sees a drained group.
    fn serve(&mut self) -> Vec<String> {
        let mut drained = Vec::new();
        for balancer in &mut self.balancers {
            balancer.serve();
            drained.extend(balancer.drained().iter().map(|group| format!("{} {group}", balancer.uid)));
        }
        drained
    }

    /// What is not as it must be once all is healed; `None` if all is well.
    fn wrong(&self) -> Option<String> {
        let mut tables: Vec<(usize, Table)> = Vec::new();
        for gwm in 0..EACH {
            let fleet = self.bed.ask(gwm, "/api/v1/fleet");
            let fleet = fleet.as_ref().map(|fleet| &fleet["fleet"]);
            let Some(fleet) = fleet else { return Some(format!("g{gwm} does not answer")) };
            let nodes = fleet["nodes"].as_array().map_or(0, Vec::len);
            let idle = ["rows_ahead", "changes_waiting", "orders_waiting"].iter().all(|field| fleet[*field] == 0);
            if fleet["connected"] != true || nodes != EACH || !idle {
                return Some(format!("g{gwm} is not one with its fleet: {fleet}"));
            }
            match self.table(gwm) {
                Some(table) => tables.push((gwm, table)),
                None => return Some(format!("g{gwm} does not answer")),
            }
        }
        let (_, first) = tables.first()?;
        for (gwm, table) in &tables {
            if table != first {
                return Some(format!("g{gwm} differs from g0: {}", first.difference(table)));
            }
        }
        if let Some(member) = first.members.iter().flat_map(|(_, members)| members).find(|row| row["contact"] != true) {
            return Some(format!("a member that works is down: {member}"));
        }
        let missing = self.words.iter().find(|word| !first.words.contains(word));
        if let Some(word) = missing {
            return Some(format!("the word {word} is lost"));
        }
        self.balancers.iter().find_map(|balancer| {
            if !balancer.is_connected() {
                return Some(format!("{} is not connected", balancer.uid));
            }
            let owners: Vec<usize> = (0..EACH).filter(|gwm| self.owns(*gwm, &balancer.uid)).collect();
            if owners != [balancer.at] {
                return Some(format!("{} is at g{}, and {owners:?} act for it", balancer.uid, balancer.at));
            }
            let broken = |group: &str, promised: &Promised| first.broken(&balancer.uid, group, promised);
            broken("own", &balancer.own).or_else(|| broken("join", &balancer.join))
        })
    }

    /// Whether the GWM has the load balancer's connection.
    fn owns(&self, gwm: usize, uid: &str) -> bool {
        let rows = self.bed.list(gwm, "/api/v1/load-balancers", "load_balancers").unwrap_or_default();
        rows.iter().any(|row| row["uid"] == uid && !row["peer"].is_null())
    }

    fn table(&self, gwm: usize) -> Option<Table> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lbs = self.bed.list(gwm, "/api/v1/load-balancers", "load_balancers")?;
        let mut uids: Vec<String> = lbs.iter().map(|row| text(&row["uid"])).collect();
        uids.sort();
        let mut rows = Vec::new();
        for uid in &uids {
            rows.extend(self.bed.list(gwm, &format!("/api/v1/members?load_balancer={uid}"), "members")?);
        }
        let mut members: Vec<((String, String), Vec<Value>)> = Vec::new();
        for mut row in rows {
            let key = (text(&row["load_balancer"]["uid"]), text(&row["group"]));
            if let Some(row) = row.as_object_mut() {
                let shared = [
                    "address",
                    "port",
                    "protocol",
                    "label",
                    "registered_by_load_balancer",
                    "state",
                    "quiesced",
                    "contact",
                    "weight",
                ];
                row.retain(|field, _| shared.contains(&field.as_str()));
            }
            match members.last_mut().filter(|(last, _)| *last == key) {
                Some((_, rows)) => rows.push(row),
                None => members.push((key, vec![row])),
            }
        }
        let words = self.bed.ask(gwm, "/api/v1/words")?;
        let words = words["words"].as_array()?.iter().filter_map(|word| Some(word["reason"].as_str()?.to_owned()));
        let mut words: Vec<String> = words.collect();
        words.sort();
        Some(Table { members, words })
    }

    /// Waits until nothing is wrong.
    fn recover(&mut self, seed: u64) -> Duration {
        let start = Instant::now();
        self.load.iter().for_each(|load| load.pause(true));
        loop {
            self.serve();
            let Some(wrong) = self.wrong() else { break };
            assert!(start.elapsed() < PATIENCE, "seed {seed}: it stays wrong: {wrong}");
        }
        let took = start.elapsed();
        if let Some(load) = &mut self.load {
            load.pause(false);
            load.look();
        }
        took
    }
}

/// What one GWM shows: each load balancer's groups in their order, with their members in theirs, and the words of the
/// operator.
#[derive(PartialEq)]
struct Table {
    members: Vec<((String, String), Vec<Value>)>,
    words: Vec<String>,
}

impl Table {
    fn difference(&self, other: &Table) -> String {
        if self.words != other.words {
            return format!("words {:?} and {:?}", self.words, other.words);
        }
        let differing = self.members.iter().zip(&other.members).find(|(one, other)| one != other);
        format!("{differing:?} of {} and {} groups", self.members.len(), other.members.len())
    }

    /// A promise that is not kept.
    fn broken(&self, uid: &str, group: &str, promised: &Promised) -> Option<String> {
        let key = (uid.to_owned(), group.to_owned());
        let members = self.members.iter().find(|(known, _)| *known == key).map(|(_, members)| &members[..]);
        promised.iter().find_map(|(port, presence)| {
            let there = members.unwrap_or_default().iter().any(|row| row["port"] == *port);
            let wrong = match presence {
                Presence::There => !there,
                Presence::Gone => there,
                Presence::Unknown => false,
            };
            wrong.then(|| format!("{uid} {group} {}: promised {presence:?}", member(*port)))
        })
    }
}

fn number(variable: &str, default: u64) -> u64 {
    let text = env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn nothing_promised_is_lost_whatever_dies_or_is_cut() {
    if !bed::is_possible() {
        return;
    }
    let (first, count) = (number("GWM_FLEET_SEED", 1), number("GWM_FLEET_SCHEDULES", 50));
    let bed = Bed::new();
    let load_balancers = bed.entrance(LoadBalancers);
    let balancers = (0..BALANCERS).map(Balancer::new).collect();
    let mut world = World { bed, balancers, words: Vec::new(), load: None };
    load_balancers.run(|| {
        world.recover(0);
        world.load = Load::start();
        let mut took = Vec::new();
        for seed in first..first + count {
            let mut rng = Rng::with_seed(seed);
            let faults: Vec<Fault> = (0..rng.usize(1..=2)).map(|_| fault(&mut rng)).collect();
            eprintln!("schedule {seed}: {faults:?}");
            for (at, fault) in faults.iter().enumerate() {
                inject(&mut world.bed, *fault);
                world.live_with(&faults[..=at], &mut rng, seed);
            }
            world.bed.heal();
            world.bed.start_all();
            if faults.contains(&Fault::EndMember) {
                world.bed.open_member(PORTS.len() - 1);
            }
            took.push(world.recover(seed));
        }
        took.sort();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        eprintln!("{count} schedules; all one again after {median:?} (median), {longest:?} (longest)");
        if let Some(load) = world.load.take() {
            eprintln!("gwm-loadgen: {}", load.end());
        }
    });
}

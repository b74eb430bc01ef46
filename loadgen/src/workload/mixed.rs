//! `mixed`: all workloads at the same time against one server, each with load balancers and members of its own.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Parser};
use serde_json::{Value, json};

use super::{
    Progress, Side, Workload, churn::Churn, fanout::Fanout, open, poll::Poll, propagate::Propagate, register::Register,
};
use crate::{
    Result,
    options::{Common, Shape},
    report::{Sample, Unit},
    run::Meter,
    subject::Subject,
};

/// Members of all load balancers of one workload have numbers of their own, so many apart.
const MEMBERS_APART: u32 = 1_000_000;

/// How often registering everything at once is repeated.
const REGISTER_PAUSE: Duration = Duration::from_millis(500);

/// Flags of `mixed`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Mixed {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Load balancers of each workload
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    lbs: u32,

    /// Groups of each load balancer
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    groups: u32,

    /// Members of each group
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    members: u32,

    /// How long all this goes on
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

/// Flags of a workload, read from a line.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line<A: Args> {
    #[command(flatten)]
    flags: A,
}

fn parse<A: Args>(line: &str) -> Result<A> {
    Line::<A>::try_parse_from(line.split_whitespace()).map(|line| line.flags).map_err(|error| error.to_string())
}

/// A part of the mix: its name and results.
type Part = (&'static str, Result<Sample>);

impl Workload for Mixed {
    const NAME: &'static str = "mixed";

    fn title(&self) -> String {
        let Mixed { lbs, groups, members, duration, .. } = self;
        format!("six workloads at once, each {lbs} LBs × {groups} × {members} members, {duration:?}")
    }

    fn parameters(&self) -> Value {
        json!({
            "lbs": self.lbs, "groups": self.groups, "members": self.members, "seed": self.common.seed,
            "duration_seconds": self.duration.as_secs_f64(), "push_window": self.common.server.push_window,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("mixed has no floor: run the floor beside each workload alone".into());
        }
        let whole = Shape {
            lbs: 6 * self.lbs,
            groups: self.groups,
            members: self.members,
            farms: 1,
            first_lb: 0,
            first_member: 0,
            local: false,
            own: false,
        };
        let fanout: Fanout = parse(&self.fanout_line())?;
        let operator_file = Some(fanout.first_file(common.seed)?); // part 0: its members have the first numbers
        let (subject, _) = open(common, side, whole, operator_file)?;
        let (meter, before) = (Meter::begin(subject.pid())?, subject.memory()?);
        let parts = self.parts(common, &subject, progress)?;
        let metered = meter.end()?;
        let memory = subject.memory()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let failed: Vec<String> = parts
            .iter()
            .filter_map(|(name, part)| part.as_ref().err().map(|error| format!("{name}: {error}")))
            .collect();
        if !failed.is_empty() {
            return Err(failed.join("\n"));
        }
        let mut operations = 0.0;
        for (name, part) in parts {
            let part = part?;
            for metric in &part.metrics {
                // CPU and memory of one server can not be told apart by workload.
                let shared = ["CPU", "cores", "memory", "anonymous", "voluntary", "involuntary", "player"];
                if !shared.iter().any(|word| metric.name.starts_with(word)) {
                    sample.add(format!("{name}: {}", metric.name), metric.value, metric.unit);
                }
                if ["messages", "requests", "replies checked", "memberships"].contains(&metric.name.as_str()) {
                    operations += metric.value;
                }
            }
            for (latency, histogram) in part.latencies {
                sample.latencies.push((format!("{name}: {latency}"), histogram));
            }
        }
        if let Some(used) = &metered.used {
            sample.add_usage(used, metered.wall, "message, request or membership", operations as u64);
        }
        if let (Some(before), Some(memory)) = (before, memory) {
            sample.add("anonymous memory grown", memory.anonymous as f64 - before.anonymous as f64, Unit::Bytes);
            sample.add_memory(Some(memory));
        }
        Ok(sample)
    }
}

impl Mixed {
    fn fanout_line(&self) -> String {
        let ticks = (2.0 * self.duration.as_secs_f64()).ceil().max(1.0);
        let Mixed { lbs, groups, members, .. } = self;
        format!("--lbs {lbs} --groups {groups} --members {members} --rate 2 --ticks {ticks} --warmup 0 --share 10")
    }

    /// Runs all parts, each on threads of its own, until the last has ended.
    fn parts(&self, common: &Common, subject: &Subject, progress: &Progress) -> Result<Vec<Part>> {
        let shape = format!("--lbs {} --groups {} --members {}", self.lbs, self.groups, self.members);
        let time = format!("--duration {}ms", self.duration.as_millis().max(1));
        let mut fanout: Fanout = parse(&self.fanout_line())?;
        let mut deltas: Fanout = parse(&format!("{} --no-change --change-by member", self.fanout_line()))?;
        let mut propagate: Propagate = parse(&format!("{shape} {time} --warmup 0s --rate {} --senders 16", self.lbs))?;
        let mut poll: Poll = parse(&format!("{shape} {time} --warmup 0s --rate {}", self.lbs))?;
        let mut register: Register = parse(&shape)?;
        let mut churn: Churn = parse(&format!("{shape} {time}"))?;
        let shapes = [
            &mut fanout.shape,
            &mut deltas.shape,
            &mut propagate.shape,
            &mut poll.shape,
            &mut register.shape,
            &mut churn.shape,
        ];
        for (part, shape) in (0..).zip(shapes) {
            shape.first_lb = part * self.lbs;
            shape.first_member = part * MEMBERS_APART;
        }
        let mut shared = common.clone();
        shared.server.spawn = None;
        shared.server.connect = Some(subject.address);
        shared.server.pid = subject.pid();
        shared.server.operator_file = None;
        shared.quiet = true;
        let mut operator = shared.clone();
        operator.server.operator_file = subject.operator_file.clone();

        let deadline = Instant::now() + self.duration;
        let (shared, operator) = (&shared, &operator);
        thread::scope(|scope| {
            let mut running = vec![
                scope.spawn(move || one("propagate", &propagate, shared)),
                scope.spawn(move || one("poll", &poll, shared)),
                scope.spawn(move || one("churn", &churn, shared)),
                scope.spawn(move || one("deltas by members", &deltas, shared)),
                scope.spawn(move || {
                    let mut last = one("register", &register, shared);
                    while last.1.is_ok() && Instant::now() < deadline {
                        thread::sleep(REGISTER_PAUSE);
                        last = one("register", &register, shared);
                    }
                    last
                }),
            ];
            if operator.server.pid.is_some() && operator.server.operator_file.is_some() {
                running.push(scope.spawn(move || one("fanout by the operator", &fanout, operator)));
            }
            let begin = Instant::now();
            while !running.iter().all(|part| part.is_finished()) {
                progress.show("seconds", begin.elapsed().as_secs(), self.duration.as_secs());
                thread::sleep(Duration::from_millis(100));
            }
            running.into_iter().map(|part| part.join().map_err(|_| "a part of the mix panicked".into())).collect()
        })
    }
}

fn one<W: Workload>(name: &'static str, workload: &W, common: &Common) -> Part {
    (name, workload.run(common, Side::Server, &Progress::new(common, String::new())))
}

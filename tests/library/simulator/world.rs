//! Servers with queues, a load balancer that spreads requests over the servers, and their virtual clock.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use gwm::{
    monitor::{
        Outcome, Reason,
        outcome::{AgentWeight, Load, Report},
        policy::Tuning,
        table::Job,
    },
    roster::{Check, Roster},
    sasp::EntryFlags,
    time::Time,
};

use super::gwm::{Gwm, number};

/// Requests a second that a server of speed 1 can serve.
pub(crate) const BASE_RATE: f64 = 50.0;

/// The time that a failed request counts as, and the longest queue of a server, as a time.
pub(crate) const PATIENCE: f64 = 10.0;

/// A load report and an agent's answer describe this much of the past.
const REPORTED: Duration = Duration::from_secs(5);

/// How often servers note their figures for load reports.
const SAMPLE: Duration = Duration::from_millis(500);

/// The farm runs for this time before the simulation measures.
pub(crate) const WARM_UP: Duration = Duration::from_secs(60);

/// The request to an agent that states how idle its server is, as many agents do.
pub(crate) const IDLE: &[u8] = b"idle";

/// The request to an agent that states how fast its server is now, compared with its full speed.
pub(crate) const SPEED: &[u8] = b"speed";

/// The path of a load report that states the utilisation alone.
pub(crate) const USED: &str = "/used";

/// A change of the farm.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A server runs at this share of its speed.
    Speed(usize, f64),
    /// A server refuses connections, and its waiting requests are lost.
    Dies(usize),
    /// A server takes requests again, with cold caches: at 30 % of its speed first, at full speed 30 s later.
    Returns(usize),
    /// No check is answered, though all servers work.
    ChecksFail,
    /// The same, and the GWM's machine knows that the fault is its own.
    NetworkGone,
    /// Checks are answered again.
    ChecksWork,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Servers' speeds.
    pub(crate) farm: Vec<f64>,
    /// The rate of requests, as a share of all servers' speed.
    pub(crate) load: f64,
    /// Seconds after the warm-up, in order.
    pub(crate) events: Vec<(f64, Event)>,
    pub(crate) length: Duration,
}

/// How the load balancer chooses servers.
pub(crate) enum Guide {
    /// Weights pushed by a GWM that has this roster.
    Gwm(Arc<Roster>, Tuning),
    /// These weights, always.
    Fixed(Vec<f64>),
    /// The servers' true speeds at every moment.
    Oracle,
}

/// The result of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Result {
    /// The time of each request in seconds, ascending; [`PATIENCE`] for failed requests.
    latencies: Vec<f32>,
    pub(crate) errors: u32,
    /// When the last request failed because its server was dead, in seconds after the warm-up.
    pub(crate) last_refused: Option<f64>,
    /// How long the load balancer left out a member whose agent had not asked for it.
    pub(crate) reduced: Duration,
    pub(crate) pushes: u32,
}

impl Result {
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let at = ((self.latencies.len() - 1) as f64 * percent / 100.0).round() as usize;
        f64::from(self.latencies[at])
    }

    pub(crate) fn error_share(&self) -> f64 {
        f64::from(self.errors) / self.latencies.len() as f64
    }
}

struct Request {
    arrived: Time,
    /// In units of the mean.
    work: f64,
}

struct Server {
    speed: f64,
    /// The share of `speed` that the server has now.
    factor: f64,
    alive: bool,
    /// Waiting requests; the server works on the first.
    queue: VecDeque<Request>,
    busy_since: Option<Time>,
    /// Grows when the server dies, so that older work is recognised.
    life: u32,
    served: u64,
    busy: Duration,
    /// Notes: time, requests served so far, busy time so far.
    samples: VecDeque<(Time, u64, Duration)>,
}

impl Server {
    fn rate(&self) -> f64 {
        if self.alive { BASE_RATE * self.speed * self.factor } else { 0.0 }
    }

    fn busy(&self, now: Time) -> Duration {
        self.busy + self.busy_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    fn sample(&mut self, now: Time) {
        self.samples.push_back((now, self.served, self.busy(now)));
        while self.samples.front().is_some_and(|(at, ..)| now.since(*at) > REPORTED) {
            self.samples.pop_front();
        }
    }

    /// Requests per second and the busy share, over the last [`REPORTED`].
    fn usage(&self, now: Time) -> (f64, f64) {
        let Some((at, served, busy)) = self.samples.front().copied() else { return (0.0, 0.0) };
        let time = now.since(at).as_secs_f64();
        ((self.served - served) as f64 / time, ((self.busy(now) - busy).as_secs_f64() / time).min(1.0))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Arrival,
    Served(usize, u32),
    CheckEnds(usize),
    Turn,
    Happens(usize),
    WarmsUp(usize, u32),
    Sample,
}

pub(crate) struct World<'s> {
    scenario: &'s Scenario,
    guide: &'s Guide,
    gwm: Option<Gwm>,
    now: Time,
    start: Time,
    events: BinaryHeap<Reverse<(Time, u64, Next)>>,
    serial: u64,
    servers: Vec<Server>,
    arrivals: Rng,
    works: Rng,
    checks: Vec<Option<Job>>,
    checks_fail: Option<Outcome>,
    /// The load balancer's weights: in force, and current in smooth weighted round robin.
    weights: Vec<f64>,
    currents: Vec<f64>,
    pushes_seen: u32,
    /// Since when the load balancer leaves out a member whose agent has not asked for it.
    reduced_since: Option<Time>,
    result: Result,
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A random number, exponentially distributed, with mean 1.
fn exponential(random: &mut Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}

impl<'s> World<'s> {
    /// Runs the scenario. Requests come at the same times and have the same lengths with every guide.
    pub(crate) fn run(scenario: &'s Scenario, guide: &'s Guide, seed: u64) -> Result {
        let now = Time(1_000_000_000);
        let members = scenario.farm.len();
        let gwm = match guide {
            Guide::Gwm(roster, tuning) => Some(Gwm::new(now, roster.clone(), *tuning, members, seed)),
            _ => None,
        };
        let server = |speed: &f64| Server {
            speed: *speed,
            factor: 1.0,
            alive: true,
            queue: VecDeque::new(),
            busy_since: None,
            life: 0,
            served: 0,
            busy: Duration::ZERO,
            samples: VecDeque::new(),
        };
        let mut world = World {
            scenario,
            guide,
            gwm,
            now,
            start: now + WARM_UP,
            events: BinaryHeap::new(),
            serial: 0,
            servers: scenario.farm.iter().map(server).collect(),
            arrivals: Rng::with_seed(seed),
            works: Rng::with_seed(seed + 1_000_000),
            checks: Vec::new(),
            checks_fail: None,
            weights: vec![1.0; members],
            currents: vec![0.0; members],
            pushes_seen: 0,
            reduced_since: None,
            result: Result::default(),
        };
        for (number, (at, _)) in scenario.events.iter().enumerate() {
            world.plan(world.start + seconds(*at), Next::Happens(number));
        }
        world.plan(now, Next::Sample);
        world.plan(now, Next::Turn);
        world.plan(now, Next::Arrival);
        world.play(now + WARM_UP + scenario.length);
        let mut result = world.result;
        result.latencies.sort_unstable_by(f32::total_cmp);
        result
    }

    fn plan(&mut self, at: Time, next: Next) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, next)));
    }

    fn play(&mut self, end: Time) {
        self.guide_changed();
        while let Some(Reverse((at, _, next))) = self.events.pop()
            && at < end
        {
            self.now = at;
            match next {
                Next::Arrival => self.arrival(),
                Next::Served(server, life) => self.served(server, life),
                Next::CheckEnds(check) => {
                    let job = self.checks[check].take().expect("a check ends once");
                    let outcome = self.answer(&job);
                    self.gwm.as_mut().expect("it made the check").finish(at, &job, outcome);
                    self.turn();
                }
                Next::Turn => self.turn(),
                Next::Happens(event) => self.happens(self.scenario.events[event].1),
                Next::WarmsUp(server, life) => self.warms_up(server, life),
                Next::Sample => {
                    self.servers.iter_mut().for_each(|server| server.sample(at));
                    self.plan(at + SAMPLE, Next::Sample);
                }
            }
        }
        self.now = end;
        self.guide_changed();
    }

    fn turn(&mut self) {
        let Some(gwm) = &mut self.gwm else { return };
        let jobs = gwm.turn(self.now);
        let (next, pushes) = (gwm.next_due(), gwm.pushes);
        for job in jobs {
            // An answer takes a millisecond; no answer takes until the deadline.
            let answered = self.checks_fail.is_none();
            let ends = if answered { self.now + Duration::from_millis(1) } else { job.deadline };
            self.plan(ends, Next::CheckEnds(self.checks.len()));
            self.checks.push(Some(job));
        }
        // A turn before its time does nothing.
        if let Some(next) = next {
            self.plan(next.max(self.now + Duration::from_nanos(1)), Next::Turn);
        }
        if pushes != self.pushes_seen {
            if self.now >= self.start {
                self.result.pushes += pushes - self.pushes_seen;
            }
            self.pushes_seen = pushes;
            self.guide_changed();
        }
    }

    /// The result of a check that ends now.
    fn answer(&self, job: &Job) -> Outcome {
        let server = &self.servers[number(&job.endpoint)];
        if let Some(outcome) = self.checks_fail {
            return outcome;
        }
        if !server.alive {
            return Outcome::Failed(Reason::Refused);
        }
        let (rps, cpu_utilization) = server.usage(self.now);
        match &job.check {
            Check::Http(http) => {
                let rps = (http.path != USED).then_some(rps);
                Outcome::Load(Load { cpu_utilization: Some(cpu_utilization), rps, ..Load::default() })
            }
            Check::Agent(agent) => {
                let share = match agent.send.as_slice() {
                    IDLE => 1.0 - cpu_utilization,
                    _ if cpu_utilization == 0.0 => 1.0,
                    _ => (rps / cpu_utilization / (BASE_RATE * server.speed)).min(1.0),
                };
                let weight = Some(AgentWeight::Percent((share * 100.0).round() as u16));
                Outcome::Agent(Report { weight, ..Report::default() })
            }
            Check::Tcp | Check::Icmp | Check::Grpc(_) => Outcome::Passed,
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Speed(server, factor) => self.servers[server].factor = factor,
            Event::Dies(of) => {
                let server = &mut self.servers[of];
                server.alive = false;
                server.life += 1;
                server.busy = server.busy(self.now);
                server.busy_since = None;
                let lost: Vec<Request> = server.queue.drain(..).collect();
                lost.iter().for_each(|request| self.failed(request.arrived));
            }
            Event::Returns(of) => {
                let server = &mut self.servers[of];
                (server.alive, server.factor) = (true, 0.3);
                let life = server.life;
                self.plan(self.now + Duration::from_secs(1), Next::WarmsUp(of, life));
            }
            Event::ChecksFail => self.checks_fail = Some(Outcome::Failed(Reason::TimedOut)),
            Event::NetworkGone => self.checks_fail = Some(Outcome::Inconclusive(Reason::NoNetwork)),
            Event::ChecksWork => self.checks_fail = None,
        }
        self.guide_changed();
    }

    fn warms_up(&mut self, of: usize, life: u32) {
        let server = &mut self.servers[of];
        if server.life == life {
            server.factor = (server.factor + 0.7 / 30.0).min(1.0);
            if server.factor < 1.0 {
                self.plan(self.now + Duration::from_secs(1), Next::WarmsUp(of, life));
            }
            self.guide_changed();
        }
    }

    /// The load balancer takes over the pushed weights.
    fn guide_changed(&mut self) {
        match (self.guide, &self.gwm) {
            (Guide::Fixed(weights), _) => self.weights.clone_from(weights),
            (Guide::Oracle, _) => self.weights = self.servers.iter().map(Server::rate).collect(),
            (Guide::Gwm(..), Some(gwm)) if !gwm.entries.is_empty() => {
                let confident = gwm.entries.iter().any(|entry| entry.flags.contains(EntryFlags::CONFIDENT));
                let weight = |entry: &gwm::sasp::WeightEntry| match confident {
                    _ if !entry.flags.contains(EntryFlags::CONTACT) => 0.0,
                    true if !entry.flags.contains(EntryFlags::CONFIDENT) => 0.0,
                    true => f64::from(entry.weight),
                    false => 1.0, // the load balancer's own means
                };
                self.weights = gwm.entries.iter().map(weight).collect();
            }
            (Guide::Gwm(..), _) => {}
        }
        if let Some(since) = self.reduced_since.take() {
            self.result.reduced += self.now.since(since.max(self.start));
        }
        // An agent may ask for weight 0, and then has contact; the GWM alone takes contact or confidence away.
        let asked = |of: usize| {
            let entry = self.gwm.as_ref().and_then(|gwm| gwm.entries.get(of));
            entry.is_some_and(|entry| entry.weight == 0 && entry.flags.contains(EntryFlags::CONTACT))
        };
        let reduced = (0..self.weights.len()).any(|of| self.weights[of] == 0.0 && !asked(of));
        self.reduced_since = reduced.then_some(self.now);
    }

    /// Smooth weighted round robin.
    fn pick(&mut self) -> Option<usize> {
        let total: f64 = self.weights.iter().sum();
        self.currents.iter_mut().zip(&self.weights).for_each(|(current, weight)| *current += weight);
        let usable = (0..self.weights.len()).filter(|&of| self.weights[of] > 0.0);
        let best = usable.max_by(|&one, &other| self.currents[one].total_cmp(&self.currents[other]))?;
        self.currents[best] -= total;
        Some(best)
    }

    fn arrival(&mut self) {
        let capacity: f64 = self.scenario.farm.iter().sum();
        let gap = exponential(&mut self.arrivals) / (capacity * BASE_RATE * self.scenario.load);
        self.plan(self.now + seconds(gap), Next::Arrival);
        let request = Request { arrived: self.now, work: exponential(&mut self.works) };
        let Some(of) = self.pick() else { return self.failed(self.now) };
        let server = &mut self.servers[of];
        if !server.alive {
            if self.now >= self.start {
                self.result.last_refused = Some(self.now.since(self.start).as_secs_f64());
            }
            return self.failed(self.now);
        }
        if server.queue.len() as f64 > server.rate() * PATIENCE {
            return self.failed(self.now);
        }
        server.queue.push_back(request);
        if server.queue.len() == 1 {
            self.serve(of);
        }
    }

    fn serve(&mut self, of: usize) {
        let (rate, server) = (self.servers[of].rate(), &mut self.servers[of]);
        if let Some(request) = server.queue.front() {
            server.busy_since = Some(self.now);
            let (ends, life) = (self.now + seconds(request.work / rate), server.life);
            self.plan(ends, Next::Served(of, life));
        }
    }

    fn served(&mut self, of: usize, life: u32) {
        let server = &mut self.servers[of];
        if server.life != life {
            return;
        }
        server.busy = server.busy(self.now);
        server.busy_since = None;
        server.served += 1;
        let request = server.queue.pop_front().expect("it was being served");
        self.note(request.arrived, self.now.since(request.arrived).as_secs_f64());
        self.serve(of);
    }

    fn failed(&mut self, arrived: Time) {
        if arrived >= self.start {
            self.result.errors += 1;
        }
        self.note(arrived, PATIENCE);
    }

    fn note(&mut self, arrived: Time, latency: f64) {
        if arrived >= self.start {
            self.result.latencies.push(latency as f32);
        }
    }
}

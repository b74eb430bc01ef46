//! `failover`: load balancers that have a list of GWMs, those of one fleet, and go to the next one when theirs is gone. What
//! was acknowledged must be there, wherever they come.
//!
//! A load balancer never registers again what a GWM has acknowledged: a registration that is lost stays lost, and is found.
//! A request without an answer is done again, because nobody knows what became of it. Each load balancer is a thread with a
//! blocking client: what is looked for here is what is lost, not what a message costs.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Args;
use gwm::{
    client::{Client, Source, Weights},
    sasp::{Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, Reason, ReturnCode, SenderFlags},
};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Progress, Side, Workload};
use crate::{
    Result,
    options::Common,
    report::{Sample, Unit, latencies, record, sum},
    subject::Subject,
};

/// How long a GWM may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a load balancer looks again where what it looks for is not there yet, and where no GWM answers.
const LOOK: Duration = Duration::from_millis(20);

/// The group of each load balancer.
const GROUP: &[u8] = b"FAILOVER";

/// Flags of `failover`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Failover {
    #[command(flatten)]
    pub(crate) common: Common,

    /// The addresses of the GWMs, HOST:PORT, in the order in which load balancers try them; each begins at another one
    /// [default: one that is started]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Load balancers")]
    gwm: Vec<String>,

    /// Load balancers, a thread each
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500), help_heading = "Load balancers")]
    lbs: u32,

    /// Members that each registers and deregisters by turns
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(2..=10_000), help_heading = "Load balancers")]
    members: u16,

    /// Members that work, ADDRESS:PORT: in place of made-up ones; a load balancer that finds none of its members with a weight fails
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Load balancers")]
    members_at: Vec<std::net::SocketAddr>,

    /// Registrations and deregistrations of all load balancers together, per second
    #[arg(long, value_name = "RATE", default_value_t = 100.0, value_parser = super::churn::rate, help_heading = "Events")]
    changes: f64,

    /// Load balancers that go to the next GWM though theirs is well, per second
    #[arg(long, value_name = "RATE", default_value_t = 1.0, value_parser = super::churn::rate, help_heading = "Events")]
    moves: f64,

    /// How long a load balancer may look for a GWM, and for what was acknowledged
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, help_heading = "Events")]
    within: Duration,

    /// How long all this goes on
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, help_heading = "Events")]
    duration: Duration,

    /// It goes on until the standard input ends
    #[arg(long, conflicts_with = "duration", help_heading = "Events")]
    until_input_ends: bool,
}

/// What all load balancers share.
struct Plan {
    gwms: Vec<String>,
    members: Vec<Endpoint>,
    /// The members work.
    work: bool,
    lbs: u32,
    changes: f64,
    moves: f64,
    within: Duration,
    seed: u64,
    over: AtomicBool,
    acknowledged: AtomicU64,
}

/// A load balancer's counts.
struct Counted {
    unanswered: u64,
    failovers: u64,
    moves: u64,
    came_back: u64,
    /// From the loss of a GWM to all that was acknowledged, at another one.
    away: Histogram<u64>,
    /// From a registration's reply to the member's weight.
    found: Histogram<u64>,
}

impl Workload for Failover {
    const NAME: &'static str = "failover";

    fn title(&self) -> String {
        let (gwms, changes) = (self.gwm.len().max(1), self.changes);
        format!("{} LBs at {gwms} GWMs, {changes} changes/s", self.lbs)
    }

    fn parameters(&self) -> Value {
        json!({
            "gwms": self.gwm, "lbs": self.lbs, "members": self.members, "changes": self.changes, "moves": self.moves,
            "within_seconds": self.within.as_secs_f64(), "duration_seconds": self.duration.as_secs_f64(),
            "until_input_ends": self.until_input_ends, "seed": self.common.seed,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("failover has no floor".into());
        }
        if common.server.tls.tls {
            return Err("failover speaks no TLS".into());
        }
        let subject = match self.gwm[..] {
            [] => Some(Subject::server(&common.server, &[("--probe", "off".into())], None)?),
            _ => None,
        };
        let gwms = subject.as_ref().map_or(self.gwm.clone(), |subject| vec![subject.address.to_string()]);
        let made_up = |number: u16| Endpoint::new(IpAddr::V4(Ipv4Addr::from(0x0A4D_8000 + u32::from(number))), 6, 80);
        let members = match &self.members_at[..] {
            [] => (0..self.members).map(made_up).collect(),
            at => at.iter().map(|at| Endpoint::new(at.ip(), 6, at.port())).collect(),
        };
        let plan = Arc::new(Plan {
            gwms,
            members,
            work: !self.members_at.is_empty(),
            lbs: self.lbs,
            changes: self.changes,
            moves: self.moves,
            within: self.within,
            seed: common.seed,
            over: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        });
        let threads: Vec<JoinHandle<Result<Counted>>> = (0..self.lbs)
            .map(|number| {
                let plan = plan.clone();
                thread::spawn(move || {
                    let lived = Balancer::new(&plan, number).live();
                    if lived.is_err() {
                        plan.over.store(true, Ordering::Relaxed); // the others need not go on
                    }
                    lived.map_err(|error| format!("LB {}: {error}", uid(number)))
                })
            })
            .collect();
        self.wait(&plan, progress);
        plan.over.store(true, Ordering::Relaxed);
        let mut counted = Vec::new();
        for thread in threads {
            counted.push(thread.join().map_err(|_| "a load balancer's thread panicked")??);
        }
        subject.map(Subject::stop).transpose()?;

        let mut sample = Sample::default();
        let total = |of: fn(&Counted) -> u64| counted.iter().map(of).sum::<u64>() as f64;
        sample.add("changes acknowledged", plan.acknowledged.load(Ordering::Relaxed) as f64, Unit::Count);
        sample.add("changes without an answer", total(|of| of.unanswered), Unit::Count);
        sample.add("failovers", total(|of| of.failovers), Unit::Count);
        sample.add("moves", total(|of| of.moves), Unit::Count);
        sample.add("deregistrations that had to be made again", total(|of| of.came_back), Unit::Count);
        sample.add("LBs with all that was acknowledged in the end", counted.len() as f64, Unit::Count);
        sample.add_latencies("GWM lost to all that was acknowledged", sum(counted.iter().map(|of| &of.away)));
        sample.add_latencies("acknowledged to found", sum(counted.iter().map(|of| &of.found)));
        Ok(sample)
    }
}

impl Failover {
    /// Waits until the run is over.
    fn wait(&self, plan: &Arc<Plan>, progress: &Progress) {
        if self.until_input_ends {
            let plan = plan.clone();
            // A read that never ends must not keep a run that has failed.
            thread::spawn(move || {
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
                plan.over.store(true, Ordering::Relaxed);
            });
        }
        let start = Instant::now();
        while !plan.over.load(Ordering::Relaxed) && (self.until_input_ends || start.elapsed() < self.duration) {
            progress.show("changes", plan.acknowledged.load(Ordering::Relaxed), 0);
            thread::sleep(LOOK);
        }
    }
}

fn uid(number: u32) -> String {
    format!("FAILOVER{number:03}")
}

/// What is known of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    There,
    Gone,
    /// The last request was a registration, and had no answer; or nothing was asked yet.
    Joining,
    /// The last request was a deregistration, and had no answer. It may be done at any time, also after a GWM has said that
    /// the member is registered: only when another deregistration has an answer, the member may join again.
    Leaving,
}

/// One load balancer.
struct Balancer<'a> {
    plan: &'a Plan,
    uid: Box<[u8]>,
    client: Option<Client>,
    /// The GWM that it is at, or tries next.
    at: usize,
    known: BTreeMap<usize, Presence>,
    random: fastrand::Rng,
    counted: Counted,
    /// Since when it has been without a GWM that has what was acknowledged.
    away: Option<Instant>,
    /// When its last registration was acknowledged that it has not seen yet.
    acknowledged: Option<Instant>,
}

impl<'a> Balancer<'a> {
    fn new(plan: &'a Plan, number: u32) -> Balancer<'a> {
        let (away, found) = (latencies(), latencies());
        Balancer {
            plan,
            uid: uid(number).into_bytes().into(),
            client: None,
            at: number as usize % plan.gwms.len(),
            known: (0..plan.members.len()).map(|member| (member, Presence::Joining)).collect(),
            random: fastrand::Rng::with_seed(plan.seed ^ (u64::from(number) << 20)),
            counted: Counted { unanswered: 0, failovers: 0, moves: 0, came_back: 0, away, found },
            away: None,
            acknowledged: None,
        }
    }

    fn live(mut self) -> Result<Counted> {
        let start = Instant::now();
        loop {
            self.come()?;
            // Two members stay for all the time.
            if self.change(&[0, 1], true) {
                break;
            }
            if start.elapsed() > self.plan.within {
                return Err(format!("nobody has taken its members for {:?}", start.elapsed()));
            }
            thread::sleep(LOOK);
        }
        let rate = (self.plan.changes + self.plan.moves) / f64::from(self.plan.lbs);
        let mut due = Instant::now();
        while !self.plan.over.load(Ordering::Relaxed) {
            due += Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / rate.max(1e-3));
            while Instant::now() < due && !self.plan.over.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()).min(LOOK));
            }
            let moves = self.random.f64() * (self.plan.changes + self.plan.moves) < self.plan.moves;
            if moves {
                self.counted.moves += 1;
                self.leave();
            } else if self.plan.members.len() > 2 {
                let member = self.random.usize(2..self.plan.members.len());
                let joins = matches!(self.known.get(&member), Some(Presence::Gone | Presence::Joining));
                self.change(&[member], joins);
            }
            self.come()?;
        }
        Ok(self.counted)
    }

    fn gwm(&self) -> &'a str {
        &self.plan.gwms[self.at % self.plan.gwms.len()]
    }

    /// Goes away from its GWM.
    fn leave(&mut self) {
        self.client = None;
        self.at += 1;
        self.away.get_or_insert_with(Instant::now);
    }

    /// Has a GWM that has all that was acknowledged, another one if need be.
    fn come(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let trouble = match self.look() {
                Ok(None) => break,
                Ok(Some(missing)) => missing,
                Err(error) => {
                    self.counted.failovers += u64::from(self.client.is_some());
                    self.leave();
                    error
                }
            };
            if start.elapsed() > self.plan.within {
                return Err(format!("for {:?}: {trouble}", start.elapsed()));
            }
            thread::sleep(LOOK);
        }
        let mut since = |begun: Option<Instant>, histogram: fn(&mut Counted) -> &mut Histogram<u64>| {
            if let Some(begun) = begun {
                record(histogram(&mut self.counted), begun.elapsed().as_nanos() as u64);
            }
        };
        since(self.away.take(), |counted| &mut counted.away);
        since(self.acknowledged.take(), |counted| &mut counted.found);
        Ok(())
    }

    /// Asks for the weights, over a new connection if there is none; what of the acknowledged is not there.
    fn look(&mut self) -> Result<Option<String>> {
        let gwm = self.gwm();
        let failed = |error: gwm::client::Error| format!("{gwm}: {error}");
        if self.client.is_none() {
            let mut client = Client::connect(gwm, PATIENCE).map_err(failed)?;
            client.set_lb_state(&self.uid, Health::BEST, LbFlags::TRUST).map_err(failed)?;
            self.client = Some(client);
        }
        let Some(client) = &mut self.client else { return Ok(None) };
        let reply = client.get_weights([GroupData { lb_uid: &self.uid, name: b"" }]).map_err(failed)?;
        let mut weights = Weights::default();
        weights.apply(reply.groups, Source::AllGroups, false);
        let group = weights.group(GROUP);
        let shows = |member: &usize| group.is_some_and(|group| group.member(&self.plan.members[*member]).is_some());
        let are =
            |presence: Presence| self.known.iter().filter(move |(_, is)| **is == presence).map(|(member, _)| *member);
        if let Some(member) = are(Presence::There).find(|member| !shows(member)) {
            return Ok(Some(format!("{gwm} does not have member {member}, whose registration was acknowledged")));
        }
        let members = group.map_or(&[][..], |group| group.members());
        let works = |flags: EntryFlags| flags.contains(EntryFlags::CONTACT) && !flags.contains(EntryFlags::QUIESCED);
        let is_drained = !members.iter().any(|member| works(member.entry.flags) && member.entry.weight > 0);
        if self.plan.work && !members.is_empty() && is_drained {
            return Err(format!("{gwm} shows no member that works"));
        }
        // Two nodes may have registered a member, of which one was cut off when the member left.
        let back: Vec<usize> = are(Presence::Gone).filter(shows).collect();
        if !back.is_empty() {
            self.counted.came_back += back.len() as u64;
            self.change(&back, false);
        }
        Ok(None)
    }

    /// Registers members, or deregisters them; whether they are there, or gone.
    fn change(&mut self, members: &[usize], joins: bool) -> bool {
        let Some(client) = &mut self.client else { return false };
        let mut note = |presence| self.known.extend(members.iter().map(|member| (*member, presence)));
        note(if joins { Presence::Joining } else { Presence::Leaving });
        let group = GroupData { lb_uid: &self.uid, name: GROUP };
        let list = members.iter().map(|member| MemberData { endpoint: self.plan.members[*member], label: b"" });
        let (done, presence) = if joins {
            (client.register(SenderFlags::LOAD_BALANCER, [(group, list)]), Presence::There)
        } else {
            let done = client.deregister(SenderFlags::LOAD_BALANCER, Reason::PURPOSEFUL, [(group, list)]);
            (done, Presence::Gone)
        };
        match done.map_err(|error| error.refusal()) {
            Ok(()) => {
                note(presence);
                self.plan.acknowledged.fetch_add(1, Ordering::Relaxed);
                if joins {
                    self.acknowledged = Some(Instant::now());
                }
                true
            }
            // By the registration that had no answer, or by an older one, of which this GWM does not know yet that it has
            // ended: that promises nothing.
            Err(Some(ReturnCode::ALREADY_REGISTERED)) if joins => {
                for member in members {
                    self.change(&[*member], false);
                }
                false
            }
            // A request before this one was done, though it had no answer.
            Err(Some(ReturnCode::NOT_REGISTERED | ReturnCode::UNKNOWN_GROUP)) if !joins && members.len() == 1 => {
                note(presence);
                true
            }
            Err(Some(_)) => false,
            Err(None) => {
                self.counted.unanswered += 1;
                self.counted.failovers += 1;
                self.leave();
                false
            }
        }
    }
}

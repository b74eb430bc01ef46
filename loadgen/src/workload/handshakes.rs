//! `handshakes`: a stranger floods the server with connections, half-open ones or whole handshakes. Measures what load
//! balancers with a session, and newcomers, notice of the flood.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use clap::Args;
use futures_lite::FutureExt;
use gwm::sasp::LbFlags;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, ask_weights, by_operator, fanout::positive, open, unwanted};
use crate::{
    Result,
    actor::Actor,
    crowd::{Crowd, JOINING, Lb, bind},
    flood::{Flood, Kind, Plan as FloodPlan},
    model::{Change, Ticks},
    options::{Common, Shape},
    player::{Gate, Order, Seat, Stage, sleep},
    report::{Sample, Unit, latencies, record, sum},
    run::Run,
};

/// The phases, as [`Stage::tick`] numbers them.
const CALM: u64 = 1;
const FLOODED: u64 = 2;
const OVER: u64 = 3;

/// How long a newcomer waits for its first reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flags of `handshakes`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Handshakes {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Load balancers with a session, which ask for their weights
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Load balancers")]
    lbs: u32,

    /// Members of each
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000), help_heading = "Load balancers")]
    members: u32,

    /// Requests per second of all together
    #[arg(long, value_name = "REQUESTS", default_value_t = 500.0, value_parser = positive, help_heading = "Load balancers")]
    rate: f64,

    /// Newcomers per second: each connects, makes a handshake, is bound, and leaves
    #[arg(long, value_name = "NEWCOMERS", default_value_t = 10.0, value_parser = positive, help_heading = "Load balancers")]
    newcomers: f64,

    /// The behaviour of the flood's connections
    #[arg(long, value_enum, default_value_t = Kind::Half, help_heading = "Flood")]
    kind: Kind,

    /// Half-open connections that the flood keeps; the oldest is reset for the next
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000), help_heading = "Flood")]
    open: u32,

    /// Connections of the flood per second [default: as many as one thread can make and the server answers]
    #[arg(long, value_name = "CONNECTIONS", value_parser = positive, help_heading = "Flood")]
    flood_rate: Option<f64>,

    /// How long requests are counted without the flood, and as long with it
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    change: Change,
    pause: Duration,
    newcomers: Duration,
}

/// A seat's counts, without the flood and with it.
#[derive(Clone)]
struct Counted {
    latency: [Histogram<u64>; 2],
    welcome: [Histogram<u64>; 2],
    turned_away: [u64; 2],
}

impl Workload for Handshakes {
    const NAME: &'static str = "handshakes";

    fn title(&self) -> String {
        let Handshakes { lbs, members, rate, kind, open, .. } = self;
        let kind = match kind {
            Kind::Half => format!("{open} half-open"),
            Kind::Whole => "whole".into(),
        };
        format!("{rate} requests/s from {lbs} LBs × {members} members in a flood of {kind} handshakes")
    }

    fn parameters(&self) -> Value {
        json!({
            "lbs": self.lbs, "members": self.members, "rate": self.rate, "newcomers": self.newcomers,
            "kind": format!("{:?}", self.kind).to_lowercase(), "open": self.open, "flood_rate": self.flood_rate,
            "duration_seconds": self.duration.as_secs_f64(), "seed": self.common.seed, "threads": self.common.threads,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("handshakes has no floor".into());
        }
        let shape = Shape {
            lbs: self.lbs,
            groups: 1,
            members: self.members,
            farms: 1,
            first_lb: 0,
            first_member: 0,
            local: false,
            own: false,
        };
        let (change, file) = by_operator(common, shape)?;
        let (subject, crowd) = open(common, side, shape, file)?;
        let plan = Plan {
            crowd,
            change,
            pause: Duration::from_secs_f64(f64::from(self.lbs) / self.rate),
            newcomers: Duration::from_secs_f64(1.0 / self.newcomers),
        };
        let flood = FloodPlan {
            to: subject.address,
            kind: self.kind,
            tls: common.server.tls.speaks.as_ref().map(|tls| tls.client()),
            rate: self.flood_rate,
            open: self.open as usize,
            cpu: common.cpus(0).0,
        };
        let main = move |seat| play(seat, plan.clone());
        let mut run = Run::start(common, progress, subject.pid(), OVER, main)?;
        run.show(0, self.lbs.into(), "LBs set up")?;
        run.warm_up(self.duration / 10)?;
        let calm = run.meter()?;
        run.stage.announce(CALM, run.stage.now());
        run.stage.pass(self.duration, |_| progress.show("phase", 1, 2))?;
        let calm = calm.end()?;
        run.stage.announce(0, run.stage.now());
        let flood = Flood::start(flood)?;
        run.stage.pass(self.duration / 10, |_| {})?;
        let so_far = [flood.counts.made.load(Relaxed), flood.counts.answered.load(Relaxed)];
        let flooded = run.meter()?;
        run.stage.announce(FLOODED, run.stage.now());
        run.stage.pass(self.duration, |_| progress.show("phase", 2, 2))?;
        let flooded = flooded.end()?;
        let counts = [flood.counts.made.load(Relaxed) - so_far[0], flood.counts.answered.load(Relaxed) - so_far[1]];
        let refused = flood.counts.refused.load(Relaxed);
        run.stage.announce(OVER, run.stage.now());
        flood.stop()?;
        let seats = u64::from(common.threads);
        run.wait(u64::from(self.lbs) * 2 + seats, "last replies")?;
        let (counted, memory) = run.finish()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let seconds = flooded.wall.as_secs_f64();
        sample.add("flood: connections per second", counts[0] as f64 / seconds, Unit::PerSecond);
        sample.add("flood: answered per second", counts[1] as f64 / seconds, Unit::PerSecond);
        sample.add("flood: refused", refused as f64, Unit::Count);
        for (at, when, metered) in [(0, "calm", &calm), (1, "flooded", &flooded)] {
            let of = |part: fn(&Counted) -> &[Histogram<u64>; 2]| sum(counted.iter().map(|seat| &part(seat)[at]));
            sample.add_latencies(&format!("{when}: request to reply"), of(|seat| &seat.latency));
            sample.add_latencies(&format!("{when}: newcomer to first reply"), of(|seat| &seat.welcome));
            let turned_away: u64 = counted.iter().map(|seat| seat.turned_away[at]).sum();
            sample.add(format!("{when}: newcomers turned away"), turned_away as f64, Unit::Count);
            if let Some(used) = &metered.used {
                let part = used.cpu().as_secs_f64() / metered.wall.as_secs_f64() * 100.0;
                sample.add(format!("{when}: cores in use"), part, Unit::Percent);
            }
        }
        sample.add_memory(memory);
        Ok(sample)
    }
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    ticks: RefCell<Ticks>,
    counted: RefCell<Counted>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let none = || [latencies(), latencies()];
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        ticks: RefCell::new(Ticks::new(plan.crowd.shape, plan.change, false)),
        counted: RefCell::new(Counted { latency: none(), welcome: none(), turned_away: [0; 2] }),
        plan,
    });
    let crowd = local.plan.crowd;
    let join = |lb, gate| local.clone().join(lb, gate);
    let members = crowd.gather(&seat, JOINING, |_| (), join).await?;
    let mut tasks = Vec::new();
    let seat = Rc::new(seat);
    while seat.order().await == Order::Go {
        for lb in &members.lbs {
            let (local, lb) = (local.clone(), lb.clone());
            tasks.push(glommio::spawn_local(async move {
                if let Err(error) = local.ask_on(&lb).await {
                    local.stage.fail(format!("LB {}: {error}", lb.number));
                }
            }));
        }
        let (local, seat) = (local.clone(), seat.clone());
        tasks.push(glommio::spawn_local(async move {
            local.newcomers(&seat).await;
            local.stage.did(1);
        }));
    }
    for task in tasks {
        task.await;
    }
    crowd.leave_unheard(members).await?;
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    async fn join(self: Rc<Self>, lb: Rc<Lb<()>>, gate: Rc<Gate>) -> Result<()> {
        self.plan.crowd.join(&lb, LbFlags::NONE, unwanted).await?;
        gate.leave();
        self.stage.did(1);
        Ok(())
    }

    /// Which of the phases it is that counts now.
    fn phase(&self) -> Option<usize> {
        match self.stage.tick() {
            CALM => Some(0),
            FLOODED => Some(1),
            _ => None,
        }
    }

    /// Asks at its rate until the run is over.
    async fn ask_on(&self, lb: &Lb<()>) -> Result<()> {
        let pause = self.plan.pause.as_nanos() as u64;
        let lbs = u64::from(self.plan.crowd.shape.lbs);
        let mut due = self.stage.now() + pause * u64::from(lb.number) / lbs;
        while self.stage.tick() != OVER {
            sleep(Duration::from_nanos(due.saturating_sub(self.stage.now()))).await;
            let phase = self.phase();
            ask_weights(&lb.actor, lb.number, &self.ticks).await?;
            if let Some(phase) = phase {
                record(&mut self.counted.borrow_mut().latency[phase], self.stage.now().saturating_sub(due));
            }
            due += pause;
        }
        self.stage.did(1);
        Ok(())
    }

    /// Lets one newcomer after the other connect, until the run is over. Refused newcomers are counted.
    async fn newcomers(self: &Rc<Self>, seat: &Seat) {
        let pause = self.plan.newcomers.as_nanos() as u64 * seat.count as u64;
        let mut due = self.stage.now() + pause * seat.index as u64 / seat.count as u64;
        while self.stage.tick() != OVER {
            sleep(Duration::from_nanos(due.saturating_sub(self.stage.now()))).await;
            let phase = self.phase();
            let welcomed = self.newcomer(seat).or(async {
                sleep(PATIENCE).await;
                Err("not in time".into())
            });
            let welcomed = welcomed.await;
            if let Some(phase) = phase {
                let mut counted = self.counted.borrow_mut();
                match welcomed {
                    Ok(()) => record(&mut counted.welcome[phase], self.stage.now().saturating_sub(due)),
                    Err(_) => counted.turned_away[phase] += 1,
                }
            }
            due += pause;
        }
    }

    /// A load balancer that is bound, and leaves.
    async fn newcomer(&self, seat: &Seat) -> Result<()> {
        let number = self.plan.crowd.shape.lbs + seat.index as u32;
        let actor = Actor::open(self.plan.crowd.to, number, &seat.medium)?;
        bind(&actor, number, LbFlags::NONE, unwanted).await?;
        actor.connection.hang_up();
        Ok(())
    }
}

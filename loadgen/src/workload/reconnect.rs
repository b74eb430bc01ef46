//! `reconnect`: every load balancer loses its connection at the same moment, and all come back at once.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use clap::Args;
use gwm::sasp::LbFlags;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, ask_weights, by_operator, open, register_and_ask, spawn, unwanted};
use crate::{
    Result,
    actor::Actor,
    crowd::{Crowd, JOINING, bind},
    model::{Change, Ticks},
    options::{Common, Shape},
    player::{Gate, Medium, Order, Seat, Stage},
    report::{Sample, Unit, latencies, record, sum},
    run::{MEASURED, OVER, Run},
};

/// Flags of `reconnect`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reconnect {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    shape: Shape,

    /// With --tls: a new session each instead of resuming the one that was cut
    #[arg(long, requires = "tls", help_heading = "Load balancers")]
    anew: bool,
}

#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    change: Change,
    /// Sessions are remembered.
    resume: bool,
}

/// A seat's counts.
struct Counted {
    bound: Histogram<u64>,
    served: Histogram<u64>,
    resumed: u64,
}

impl Workload for Reconnect {
    const NAME: &'static str = "reconnect";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        let how = if self.anew { ", new sessions" } else { "" };
        format!("{lbs} LBs × {groups} × {members} members cut and back at once{how}")
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "anew": self.anew,
            "seed": self.common.seed, "threads": self.common.threads,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("reconnect has no floor".into());
        }
        let shape = self.shape;
        shape.check()?;
        let (change, file) = by_operator(common, shape)?;
        let (subject, crowd) = open(common, side, shape, file)?;
        let plan = Plan { crowd, change, resume: !self.anew };
        let lbs = u64::from(shape.lbs);
        let main = move |seat| play(seat, plan.clone());
        let mut run = Run::start(common, progress, subject.pid(), OVER, main)?;
        run.show(0, lbs, "LBs set up")?;
        let meter = run.meter()?;
        run.stage.announce(MEASURED, run.stage.now());
        run.player.order(Order::Go);
        run.show(lbs, lbs, "LBs served again")?;
        let metered = meter.end()?;
        let (counted, memory) = run.finish()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let served = sum(counted.iter().map(|seat| &seat.served));
        sample.add("LBs served again", served.len() as f64, Unit::Count);
        if common.server.tls.speaks.is_some() {
            let resumed: u64 = counted.iter().map(|seat| seat.resumed).sum();
            sample.add("sessions resumed", resumed as f64, Unit::Count);
        }
        sample.add("until all are served again", served.max() as f64, Unit::Nanoseconds);
        sample.add("LBs per second", lbs as f64 / (served.max().max(1) as f64 / 1e9), Unit::PerSecond);
        metered.add_to(&mut sample, "LB", lbs);
        sample.add_latencies("cut to bound again", sum(counted.iter().map(|seat| &seat.bound)));
        sample.add_latencies("cut to right weights", served);
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

/// A load balancer, which may lose its connection.
struct Lb {
    number: u32,
    medium: Medium,
    actor: RefCell<Rc<Actor>>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        ticks: RefCell::new(Ticks::new(plan.crowd.shape, plan.change, false)),
        counted: RefCell::new(Counted { bound: latencies(), served: latencies(), resumed: 0 }),
        plan,
    });
    let Crowd { to, shape, .. } = local.plan.crowd;
    let gate = Rc::new(Gate::new(JOINING / seat.count));
    let mut lbs = Vec::new();
    for number in seat.share(shape.lbs) {
        gate.enter().await;
        let medium = if local.plan.resume { seat.medium.remembering() } else { seat.medium.clone() };
        let actor = RefCell::new(Rc::new(Actor::open(to, number, &medium)?));
        let lb = Rc::new(Lb { number, medium, actor });
        lbs.push(lb.clone());
        let (local, gate) = (local.clone(), gate.clone());
        spawn(&seat.stage, number, async move {
            local.join(&lb).await?;
            gate.leave();
            Ok(())
        });
    }
    while seat.order().await == Order::Go {
        for lb in &lbs {
            lb.actor.borrow().connection.crash()?;
        }
        for lb in &lbs {
            *lb.actor.borrow_mut() = Rc::new(Actor::open(to, lb.number, &lb.medium)?);
            let (local, lb) = (local.clone(), lb.clone());
            spawn(&seat.stage, lb.number, async move { local.come_back(&lb).await });
        }
    }
    for lb in &lbs {
        lb.actor.borrow().connection.hang_up();
    }
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    /// Registers all groups and asks for their weights.
    async fn join(&self, lb: &Lb) -> Result<()> {
        let actor = lb.actor.borrow().clone();
        register_and_ask(&actor, &self.plan.crowd.shape, lb.number, &self.ticks).await?;
        self.stage.did(1);
        Ok(())
    }

    /// Registers again, and checks that the server still has the tables.
    async fn come_back(&self, lb: &Lb) -> Result<()> {
        let actor = lb.actor.borrow().clone();
        bind(&actor, lb.number, LbFlags::NONE, unwanted).await?;
        record(&mut self.counted.borrow_mut().bound, self.since_cut());
        ask_weights(&actor, lb.number, &self.ticks).await?;
        let mut counted = self.counted.borrow_mut();
        record(&mut counted.served, self.since_cut());
        counted.resumed += u64::from(actor.connection.resumed() == Some(true));
        self.stage.did(1);
        Ok(())
    }

    fn since_cut(&self) -> u64 {
        self.stage.now().saturating_sub(self.stage.due(MEASURED))
    }
}

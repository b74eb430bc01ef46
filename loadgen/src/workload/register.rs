//! `register`: every load balancer connects and registers at once, as after a restart of the GWM.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use clap::Args;
use gwm::sasp::{ComponentType, LbFlags};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, open, success};
use crate::{
    Result,
    crowd::{Crowd, Lb},
    floor,
    model::{Change, Ticks, Told},
    options::{Common, Shape},
    player::{Gate, Order, Seat, Stage},
    report::{Sample, Unit, latencies, record, sum},
    run::{Meter, Run},
};

/// Flags of `register`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Register {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    pub(crate) shape: Shape,

    /// Load balancers that are between connecting and their first weights at a time [default: all of them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Load balancers")]
    at_once: Option<u32>,
}

#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    change: Change,
    at_once: usize,
}

/// When each load balancer of a seat was so far, since the run's beginning.
struct Counted {
    registered: Histogram<u64>,
    acknowledged: Histogram<u64>,
    right: Histogram<u64>,
}

impl Workload for Register {
    const NAME: &'static str = "register";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        format!("{lbs} LBs × {groups} × {members} members, all at once")
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "at_once": self.at_once,
            "seed": self.common.seed, "threads": self.common.threads, "push_window": self.common.server.push_window,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        let shape = self.shape;
        shape.check()?;
        let listed = common.server.lists_members();
        let change = Change { share: 1.0, weight_max: super::fanout::WEIGHT_MAX, seed: common.seed, listed };
        let mut ticks = Ticks::new(shape, change, false);
        let file = listed.then(|| ticks.operator_file(0)).transpose()?;
        let (mut subject, crowd) = open(common, side, shape, file)?;
        if side == Side::Floor {
            // It answers both requests alike, and pushes once everyone has asked.
            subject.tell(floor::Order::Answer, &success(0, ComponentType::REGISTRATION_REPLY))?;
        }
        let plan = Plan { crowd, change, at_once: self.at_once.unwrap_or(shape.lbs) as usize };
        let lbs = u64::from(shape.lbs);
        let memory = subject.memory()?;
        let meter = Meter::begin(subject.pid())?;
        let run = Run::start(common, progress, subject.pid(), 0, move |seat| play(seat, plan.clone()))?;
        if side == Side::Floor {
            run.show(0, lbs, "LBs served")?;
            let push = ticks.push(0, None, 0)?.ok_or("nothing to register")?.to_vec();
            subject.tell(floor::Order::Send, &push)?;
        }
        run.show(0, 2 * lbs, "acknowledgements and pushes")?;
        let metered = meter.end()?;
        let (counted, memory_after) = run.finish()?;
        subject.stop()?;

        let memberships = shape.memberships();
        let mut sample = Sample::default();
        sample.add("memberships", memberships as f64, Unit::Count);
        let acknowledged = sum(counted.iter().map(|seat| &seat.acknowledged));
        // A histogram rounds up, which could make this longer than the whole run.
        sample.add_time("until all are acknowledged", Duration::from_nanos(acknowledged.max()).min(metered.wall));
        sample.add_time("until all weights are right", metered.wall);
        if let Some(used) = &metered.used {
            sample.add_usage(used, metered.wall, "membership", memberships);
            sample.add("CPU per LB", used.cpu_ns as f64 / lbs as f64, Unit::Nanoseconds);
        }
        sample.add("player's CPU per LB", metered.own.cpu_ns as f64 / lbs as f64, Unit::Nanoseconds);
        if let (Some(before), Some(after)) = (memory, memory_after) {
            let grown = after.anonymous.saturating_sub(before.anonymous);
            sample.add("anonymous memory per membership", grown as f64 / memberships as f64, Unit::Bytes);
            sample.add_memory(Some(after));
        }
        sample.add_latencies("start to registered", sum(counted.iter().map(|seat| &seat.registered)));
        sample.add_latencies("start to acknowledged", acknowledged);
        sample.add_latencies("start to right weights", sum(counted.iter().map(|seat| &seat.right)));
        Ok(sample)
    }
}

struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    ticks: RefCell<Ticks>,
    counted: RefCell<Counted>,
}

/// Whether the load balancer has its weights.
type Knows = bool;

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        ticks: RefCell::new(Ticks::new(plan.crowd.shape, plan.change, false)),
        counted: RefCell::new(Counted { registered: latencies(), acknowledged: latencies(), right: latencies() }),
        plan,
    });
    let crowd = local.plan.crowd;
    let live = |lb, gate| local.clone().live(lb, gate);
    let members = crowd.gather(&seat, local.plan.at_once, |_| false, live).await?;
    while seat.order().await != Order::Stop {}
    crowd.leave(members).await?;
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    async fn live(self: Rc<Self>, lb: Rc<Lb<Knows>>, gate: Rc<Gate>) -> Result<()> {
        let crowd = &self.plan.crowd;
        let push = |frame: &[u8]| self.push(&lb, frame, &gate);
        crowd.register(&lb, push).await?;
        record(&mut self.counted.borrow_mut().registered, self.since_start());
        if crowd.side == Side::Server {
            crowd.set_state(&lb, LbFlags::PUSH, push).await?;
        }
        record(&mut self.counted.borrow_mut().acknowledged, self.since_start());
        self.stage.did(1);
        if crowd.side == Side::Floor {
            gate.leave();
        }
        crowd.listen(&self.stage, &lb, push).await
    }

    fn since_start(&self) -> u64 {
        self.stage.now().saturating_sub(self.stage.due(0))
    }

    /// Takes the one push that is due; every byte of it is checked.
    fn push(&self, lb: &Lb<Knows>, frame: &[u8], gate: &Gate) -> Result<()> {
        let floor = self.plan.crowd.side == Side::Floor;
        if lb.knows.replace(true) {
            return Err("a push although nothing has changed".into());
        }
        let told = self.ticks.borrow_mut().check_push(if floor { 0 } else { lb.number }, None, 0, frame)?;
        if told != Told::Tick(0) {
            return Err(format!("the first push is {told:?}"));
        }
        record(&mut self.counted.borrow_mut().right, self.since_start());
        self.stage.did(1);
        if !floor {
            gate.leave();
        }
        Ok(())
    }
}

//! `stalled`: load balancers that stop reading while all weights change again and again, and what they cost in memory.

use std::rc::Rc;

use clap::Args;
use gwm::sasp::LbFlags;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, fanout, open};
use crate::{
    Result,
    crowd::{Crowd, JOINING, Lb},
    model::{Change, Ticks},
    options::{Common, Shape},
    player::{Gate, Order, Seat},
    report::{Sample, Unit},
    run::Run,
};

/// The load balancer that reads, so that the end of a tick is seen.
const READER: u32 = 0;

/// Flags of `stalled`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Stalled {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    shape: Shape,

    /// How often all weights change
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Changes")]
    ticks: u64,
}

impl Workload for Stalled {
    const NAME: &'static str = "stalled";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        format!("{lbs} LBs × {groups} × {members} members stop reading, {} ticks", self.ticks)
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "ticks": self.ticks,
            "seed": self.common.seed, "threads": self.common.threads,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("stalled has no floor".into());
        }
        if common.server.connect.is_some() {
            return Err("weights change by the members file: stalled starts the server itself".into());
        }
        let shape = self.shape;
        shape.check()?;
        let change = Change { share: 1.0, weight_max: fanout::WEIGHT_MAX, seed: common.seed, listed: true };
        let mut ticks = Ticks::new(shape, change, false);
        let file = ticks.operator_file(0)?;
        let (subject, crowd) = open(common, side, shape, Some(file))?;
        let lbs = u64::from(shape.lbs);
        let run = Run::start(common, progress, subject.pid(), self.ticks, move |seat| play(seat, crowd))?;
        // Each has joined, and the reader has its first push.
        run.show(0, lbs + 1, "LBs set up")?;
        let before = subject.memory()?.unwrap_or_default();
        for tick in 1..=self.ticks {
            run.stage.announce(tick, run.stage.now());
            subject.operate(&ticks.operator_file(tick)?)?;
            progress.show("tick", tick, self.ticks);
            run.wait(lbs + 1 + tick, "the reader's push of a tick")?;
        }
        let after = subject.memory()?.unwrap_or_default();
        let (_, memory) = run.finish()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let per_lb = |from: u64, to: u64| (to as f64 - from as f64) / lbs as f64;
        sample.add("growth of anonymous memory per LB", per_lb(before.anonymous, after.anonymous), Unit::Bytes);
        sample.add("growth of resident memory per LB", per_lb(before.rss, after.rss), Unit::Bytes);
        sample.add_memory(memory);
        Ok(sample)
    }
}

async fn play(seat: Seat, crowd: Crowd) -> Result<()> {
    let stage = seat.stage.clone();
    let live = |lb: Rc<Lb<()>>, gate: Rc<Gate>| {
        let stage = stage.clone();
        async move {
            let reader = lb.number == READER;
            let push = |_: &[u8]| {
                stage.did(u64::from(reader));
                Ok(())
            };
            crowd.join(&lb, LbFlags::PUSH, push).await?;
            gate.leave();
            stage.did(1);
            match reader {
                true => crowd.listen(&stage, &lb, push).await,
                false => Ok(()),
            }
        }
    };
    let members = crowd.gather(&seat, JOINING, |_| (), live).await?;
    while seat.order().await != Order::Stop {}
    crowd.leave(members).await
}

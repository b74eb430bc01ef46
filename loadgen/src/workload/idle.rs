//! `idle`: what load balancers cost that only stay: memory by connection and by membership, and CPU.

use std::{rc::Rc, time::Duration};

use clap::Args;
use gwm::sasp::LbFlags;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, open, unwanted};
use crate::{
    Result,
    crowd::{Crowd, JOINING, Lb},
    options::{Common, Shape},
    player::{Gate, Order, Seat},
    report::{Sample, Unit},
    run::{OVER, Run},
};

/// Flags of `idle`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    shape: Shape,

    /// How long they stay, and the server's CPU is measured
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

impl Workload for Idle {
    const NAME: &'static str = "idle";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        format!("{lbs} LBs × {groups} × {members} members of {farms} farms for {:?}", self.duration)
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms,
            "duration_seconds": self.duration.as_secs_f64(), "threads": self.common.threads,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        let shape = self.shape;
        shape.check()?;
        let (subject, crowd) = open(common, side, shape, None)?;
        if subject.pid().is_none() {
            return Err("memory is read from /proc: say which process with --pid".into());
        }
        let lbs = u64::from(shape.lbs);
        let empty = subject.memory()?.unwrap_or_default();
        let mut run = Run::start(common, progress, subject.pid(), OVER, move |seat| play(seat, crowd))?;
        run.show(0, lbs, "LBs connected")?;
        let connected = subject.memory()?.unwrap_or_default();
        run.warm_up(Duration::ZERO)?;
        run.show(lbs, lbs, "LBs registered")?;
        let registered = subject.memory()?.unwrap_or_default();
        let metered = run.measure(self.duration)?;
        run.finish()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let per = |from: u64, to: u64, count: u64| (to as f64 - from as f64) / count.max(1) as f64;
        sample.add("memory of an empty server, anonymous", empty.anonymous as f64, Unit::Bytes);
        sample.add("anonymous memory per connection", per(empty.anonymous, connected.anonymous, lbs), Unit::Bytes);
        if side == Side::Server {
            let memberships = shape.memberships();
            let each = per(connected.anonymous, registered.anonymous, memberships);
            sample.add("anonymous memory per membership", each, Unit::Bytes);
            let all = per(empty.rss, registered.rss, memberships);
            sample.add("all resident memory per membership", all, Unit::Bytes);
        }
        sample.add_memory(Some(registered));
        if let Some(used) = metered.used {
            let part = used.cpu().as_secs_f64() / metered.wall.as_secs_f64() * 1e9;
            sample.add("CPU in a second of idleness", part, Unit::Nanoseconds);
            sample.add("voluntary switches", used.voluntary_switches as f64, Unit::Count);
        }
        Ok(sample)
    }
}

async fn play(seat: Seat, crowd: Crowd) -> Result<()> {
    let stage = seat.stage.clone();
    let connect = |lb: Rc<Lb<()>>, gate: Rc<Gate>| {
        let stage = stage.clone();
        async move {
            crowd.set_state(&lb, LbFlags::NONE, unwanted).await?;
            gate.leave();
            stage.did(1);
            Ok(())
        }
    };
    let members = crowd.gather(&seat, JOINING, |_| (), connect).await?;
    while seat.order().await == Order::Go {
        for lb in &members.lbs {
            if crowd.side == Side::Server {
                crowd.register(lb, unwanted).await.map_err(|error| format!("LB {}: {error}", lb.number))?;
            }
            stage.did(1);
        }
    }
    crowd.leave_unheard(members).await
}

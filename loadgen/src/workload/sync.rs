//! `sync`: a GWM joins a fleet that knows very many memberships: from the start of its process until it serves all of them.
//! The same start without a fleet is beside it.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Args;
use gwm::{client::Client, sasp::GroupData};
use serde_json::{Value, json};

use super::{Progress, Side, Workload, open_watching, room_for, unwanted};
use crate::{
    Result,
    crowd::{Crowd, JOINING, Lb},
    model::uid,
    options::{Common, Shape},
    player::{Gate, Order, Seat},
    process::Usage,
    report::{Sample, Unit},
    run::Run,
    subject::Subject,
};

/// Flags of `sync`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Sync {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    shape: Shape,

    /// Where etcd is, as for `gwm serve --fleet`; all is under /gwm/loadgen-PROCESS-PAIR/, and stays there
    #[arg(long, value_name = "URL")]
    fleet: String,
}

impl Workload for Sync {
    const NAME: &'static str = "sync";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        format!("a GWM joins a fleet of {lbs} LBs × {groups} × {members} members of {farms} farms")
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({ "lbs": lbs, "groups": groups, "members": members, "farms": farms, "fleet": self.fleet })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("sync has no floor".into());
        }
        if common.server.connect.is_some() || common.server.tls.tls {
            return Err("sync starts its servers itself, without TLS".into());
        }
        let shape = self.shape;
        shape.check()?;
        // Each run has a fleet of its own.
        let begun = Instant::now();
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let name = format!("loadgen-{}-{}", std::process::id(), since.as_millis());
        let node = |node: &str| {
            vec![
                ("--probe", "off".into()),
                ("--fleet", self.fleet.clone()),
                ("--fleet-name", name.clone()),
                ("--node", node.into()),
            ]
        };
        let (first, crowd) = open_watching(common, side, shape, None, node("first"))?;
        let lbs = u64::from(shape.lbs);
        let run = Run::start(common, progress, first.pid(), 0, move |seat| play(seat, crowd))?;
        run.show(0, lbs, "LBs registered")?;
        run.finish()?;
        first.settle(common.timeout)?;
        let filled = begun.elapsed();

        let started = |flags: Vec<(&'static str, String)>| {
            let begun = Instant::now();
            let flags = [room_for(&shape, common), flags].concat();
            let subject = Subject::server(&common.server, &flags, None)?;
            Ok::<_, String>((subject, begun.elapsed(), begun))
        };
        let (alone, empty, _) = started(vec![("--probe", "off".into())])?;
        alone.stop()?;
        let before = first.pid().map(Usage::of).transpose()?;
        let (second, listens, begun) = started(node("second"))?;
        serves(&second, &shape, common.timeout)?;
        let serves = begun.elapsed();
        let used = second.pid().map(Usage::of).transpose()?;
        let of_first = first.pid().map(Usage::of).transpose()?.zip(before).map(|(after, before)| after.since(&before));
        let memory = second.memory()?;
        second.stop()?;
        first.stop()?;

        let mut sample = Sample::default();
        sample.add("memberships", shape.memberships() as f64, Unit::Count);
        sample.add_time("until the first node has all in etcd", filled);
        sample.add_time("start of an empty GWM without a fleet", empty);
        sample.add_time("start to listening", listens);
        sample.add_time("start to all weights", serves);
        if let Some(used) = used {
            let cpu = used.since(&Usage::default()).cpu();
            sample.add_time("CPU of the start", cpu);
        }
        if let Some(used) = of_first {
            sample.add_time("CPU of the other node meanwhile", used.cpu());
        }
        sample.add_memory(memory);
        Ok(sample)
    }
}

/// Waits until the node gives the weights of the last load balancer, with all its members.
fn serves(node: &Subject, shape: &Shape, limit: Duration) -> Result<()> {
    let address = node.address.to_string();
    let failed = |error: gwm::client::Error| error.to_string();
    let mut client = Client::connect(&address, limit).map_err(failed)?;
    let last = uid(shape.lbs - 1);
    let reply = client.get_weights([GroupData { lb_uid: &last, name: b"" }]).map_err(failed)?;
    let members: u64 = reply.groups.into_iter().map(|group| u64::from(group.count())).sum();
    let expected = u64::from(shape.groups) * u64::from(shape.members);
    if members == expected { Ok(()) } else { Err(format!("{members} members of {expected} are there")) }
}

async fn play(seat: Seat, crowd: Crowd) -> Result<()> {
    let stage = seat.stage.clone();
    let register = |lb: Rc<Lb<()>>, gate: Rc<Gate>| {
        let stage = stage.clone();
        async move {
            crowd.register(&lb, unwanted).await?;
            gate.leave();
            stage.did(1);
            Ok(())
        }
    };
    let members = crowd.gather(&seat, JOINING, |_| (), register).await?;
    while seat.order().await == Order::Go {}
    crowd.leave_unheard(members).await
}

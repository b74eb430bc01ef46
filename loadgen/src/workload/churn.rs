//! `churn`: members and load balancers come, go and crash, and every load balancer must hold the right weights all the
//! time and in the end. With kills, the server crashes, too: it must have all that it has acknowledged when it is back.

mod kills;
mod life;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use self::kills::Kills;
use super::{INTERVAL, Progress, Side, Workload, open_watching};
use crate::{
    Result,
    files::Folder,
    options::{Common, Shape},
    player::{Gate, Order, Seat},
    report::{Sample, Unit},
    run::{OVER, Run},
};

/// Flags of `churn`. Rates are of all load balancers together.
#[derive(Args, Clone, Debug)]
pub(crate) struct Churn {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    pub(crate) shape: Shape,

    /// Members that register or deregister themselves, per second
    #[arg(long, value_name = "RATE", default_value_t = 1000.0, value_parser = rate, help_heading = "Events")]
    members_come_and_go: f64,

    /// Members that load balancers register or deregister, per second
    #[arg(long, value_name = "RATE", default_value_t = 200.0, value_parser = rate, help_heading = "Events")]
    lbs_change_members: f64,

    /// States and quiesces, by members and by load balancers, per second
    #[arg(long, value_name = "RATE", default_value_t = 1000.0, value_parser = rate, help_heading = "Events")]
    states: f64,

    /// Members that crash and come back, per second; their registrations stay
    #[arg(long, value_name = "RATE", default_value_t = 50.0, value_parser = rate, help_heading = "Events")]
    member_crashes: f64,

    /// Load balancers that crash and come back within the hold time, per second
    #[arg(long, value_name = "RATE", default_value_t = 50.0, value_parser = rate, help_heading = "Events")]
    lb_crashes: f64,

    /// Load balancers that leave with all their groups and come back with new ones, per second
    #[arg(long, value_name = "RATE", default_value_t = 20.0, value_parser = rate, help_heading = "Events")]
    lb_restarts: f64,

    /// Load balancers that take over from their own older connection, per second
    #[arg(long, value_name = "RATE", default_value_t = 20.0, value_parser = rate, help_heading = "Events")]
    takeovers: f64,

    /// The load balancers set no-change/no-send: they are sent only what changed
    #[arg(long, help_heading = "Load balancers")]
    no_change: bool,

    /// The server is killed so often, and started again on its state on disk (--state); after each start every load balancer
    /// must find what was acknowledged, byte for byte
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100_000), help_heading = "Events")]
    kills: u32,

    /// How long all this goes on, beside the time that starts of a killed server take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, help_heading = "Events")]
    pub(crate) duration: Duration,
}

pub(super) fn rate(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| *rate >= 0.0 && rate.is_finite()).ok_or_else(|| "not 0 or above".into())
}

/// An event of a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    MemberComesOrGoes,
    LbChangesMember,
    State,
    MemberCrash,
    LbCrash,
    LbRestart,
    Takeover,
}

const EVENTS: [(Event, &str); 7] = [
    (Event::MemberComesOrGoes, "members came or went"),
    (Event::LbChangesMember, "members registered or deregistered by LBs"),
    (Event::State, "states set"),
    (Event::MemberCrash, "members crashed"),
    (Event::LbCrash, "LBs crashed"),
    (Event::LbRestart, "LBs restarted"),
    (Event::Takeover, "LBs taken over"),
];

impl Churn {
    fn rates(&self) -> [f64; EVENTS.len()] {
        [
            self.members_come_and_go,
            self.lbs_change_members,
            self.states,
            self.member_crashes,
            self.lb_crashes,
            self.lb_restarts,
            self.takeovers,
        ]
    }
}

#[derive(Clone)]
struct Plan {
    to: std::net::SocketAddr,
    shape: Shape,
    seed: u64,
    rates: [f64; EVENTS.len()],
    no_change: bool,
    /// The server continues after the run: leave nothing behind.
    stays: bool,
    /// The Interval of Get Weights replies, if the server was started for this run.
    interval: Option<u16>,
    kills: Arc<Kills>,
}

/// A seat's counts.
#[derive(Default)]
struct Counted {
    events: [u64; EVENTS.len()],
    pushes: u64,
    replies: u64,
    /// Load balancers that found their tables after a kill; and those where the change that was under way was lost.
    found: u64,
    lost: u64,
}

impl Workload for Churn {
    const NAME: &'static str = "churn";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        format!(
            "{lbs} LBs × {groups} × up to {members} members, {} events/s, {:?}",
            self.rates().iter().sum::<f64>(),
            self.duration
        )
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        let rates: serde_json::Map<String, Value> =
            EVENTS.iter().zip(self.rates()).map(|((_, name), rate)| (name.to_string(), json!(rate))).collect();
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "rates": rates, "no_change": self.no_change,
            "kills": self.kills, "duration_seconds": self.duration.as_secs_f64(), "seed": self.common.seed,
            "threads": self.common.threads, "push_window": self.common.server.push_window,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("churn has no floor: no bare loop does the same work".into());
        }
        let shape = self.shape;
        shape.check()?;
        if self.rates().iter().sum::<f64>() <= 0.0 {
            return Err("all rates are 0: nothing is to happen".into());
        }
        let stays = common.server.connect.is_some();
        if self.kills > 0 && (stays || self.no_change || common.server.tls.speaks.is_some()) {
            return Err("--kills needs a server of its own, without --tls and --no-change".into());
        }
        let state = (self.kills > 0).then(Folder::new);
        let flags = state.iter().map(|folder| ("--state", folder.path().display().to_string()));
        let flags = [("--probe", "off".into())].into_iter().chain(flags).collect();
        let (mut subject, crowd) = open_watching(common, side, shape, None, flags)?;
        let kills = Arc::new(Kills::default());
        let plan = Plan {
            to: crowd.to,
            shape,
            seed: common.seed,
            rates: self.rates(),
            no_change: self.no_change,
            stays,
            interval: (!stays).then_some(INTERVAL),
            kills: kills.clone(),
        };
        let lbs = u64::from(shape.lbs);
        let main = move |seat| play(seat, plan.clone());
        // A process that is killed has no use of the machine to tell of.
        let pid = subject.pid().filter(|_| self.kills == 0);
        let mut run = Run::start(common, progress, pid, OVER, main)?;
        run.show(0, lbs, "LBs set up")?;
        let memory_before = subject.memory()?;
        run.warm_up(Duration::ZERO)?;
        let (metered, longest_start) = match self.kills {
            0 => (run.measure(self.duration)?, Duration::ZERO),
            count => kills.measure(&run, &mut subject, (count, self.duration), lbs)?,
        };
        run.show(lbs * (1 + u64::from(self.kills)), lbs, "LBs with right tables in the end")?;
        let (counted, memory) = run.finish()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let mut events = 0;
        for (at, (_, name)) in EVENTS.iter().enumerate() {
            let count: u64 = counted.iter().map(|seat| seat.events[at]).sum();
            events += count;
            sample.add(*name, count as f64, Unit::Count);
        }
        sample.add("events per second", events as f64 / metered.wall.as_secs_f64(), Unit::PerSecond);
        sample.add("pushes checked", counted.iter().map(|seat| seat.pushes).sum::<u64>() as f64, Unit::Count);
        sample.add("replies checked", counted.iter().map(|seat| seat.replies).sum::<u64>() as f64, Unit::Count);
        sample.add("LBs with right tables in the end", lbs as f64, Unit::Count);
        if self.kills > 0 {
            sample.add("kills", f64::from(self.kills), Unit::Count);
            let found: u64 = counted.iter().map(|seat| seat.found).sum();
            sample.add("LBs that found what was acknowledged", found as f64, Unit::Count);
            sample.add(
                "changes under way that were lost",
                counted.iter().map(|seat| seat.lost).sum::<u64>() as f64,
                Unit::Count,
            );
            sample.add("longest start", longest_start.as_nanos() as f64, Unit::Nanoseconds);
        }
        metered.add_to(&mut sample, "event", events);
        if let (Some(before), Some(after)) = (memory_before, memory) {
            sample.add("anonymous memory grown", after.anonymous as f64 - before.anonymous as f64, Unit::Bytes);
            sample.add_memory(Some(after));
        }
        Ok(sample)
    }
}

/// A seat's own state.
struct Local {
    plan: Plan,
    seat: Seat,
    begun: Cell<bool>,
    counted: RefCell<Counted>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local { plan, seat, begun: Cell::new(false), counted: RefCell::default() });
    let gate = Rc::new(Gate::new(crate::crowd::JOINING));
    let mut tasks = Vec::new();
    let shape = local.plan.shape;
    for lb in local.seat.share(shape.lbs).map(|lb| shape.first_lb + lb) {
        gate.enter().await;
        let (local, gate) = (local.clone(), gate.clone());
        tasks.push(
            glommio::spawn_local(async move {
                let stage = local.seat.stage.clone();
                if let Err(error) = life::live(local, lb, &gate).await {
                    stage.fail(format!("LB {lb}: {error}"));
                }
            })
            .detach(),
        );
    }
    loop {
        match local.seat.order().await {
            Order::Go => local.begun.set(true),
            Order::Stop => break,
            Order::Tick(_) => {}
        }
    }
    for task in tasks {
        task.await;
    }
    Ok(local.counted.take())
}

//! `takeover`: a new process takes over from the server; every load balancer is told to go, and comes back.

use std::{
    cell::RefCell,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Args;
use gwm::sasp::LbFlags;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, ask_weights, open_watching, unwanted};
use crate::{
    Result,
    actor::Actor,
    crowd::{Crowd, JOINING},
    model::{Change, Ticks, lb_state},
    options::{Common, Shape},
    player::{Gate, Order, Received, Seat, Stage},
    report::{Sample, Unit, latencies, record, sum},
    run::{MEASURED, OVER, Run},
};

/// How long an attempt of the stranger may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Flags of `takeover`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Takeover {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    shape: Shape,
}

#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    change: Change,
}

/// A directory for the state, which goes with this value.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Workload for Takeover {
    const NAME: &'static str = "takeover";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        format!("{lbs} LBs × {groups} × {members} members while a new process takes over")
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "seed": self.common.seed,
            "threads": self.common.threads,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor || common.server.tls.speaks.is_some() || common.server.connect.is_some() {
            return Err("takeover has no floor, no TLS, and a server of its own".into());
        }
        let shape = self.shape;
        shape.check()?;
        let change = Change { share: 1.0, weight_max: super::fanout::WEIGHT_MAX, seed: common.seed, listed: true };
        let file = Ticks::new(shape, change, false).operator_file(0)?;
        let directory = Directory(std::env::temp_dir().join(format!("gwm-loadgen-{}", std::process::id())));
        let flags = vec![("--probe", "off".into()), ("--state", directory.0.display().to_string())];
        let (subject, crowd) = open_watching(common, side, shape, Some(file), flags)?;
        let plan = Plan { crowd, change };
        let lbs = u64::from(shape.lbs);
        let mut run = Run::start(common, progress, None, OVER, move |seat| play(seat, plan.clone()))?;
        run.show(0, lbs, "LBs set up")?;
        let stranger = Stranger::start(subject.address);
        run.player.order(Order::Go);
        let begin = Instant::now();
        run.stage.announce(MEASURED, run.stage.now());
        let new = subject.successor()?;
        let serves = begin.elapsed();
        run.show(lbs, lbs, "LBs served again")?;
        subject.end()?;
        let seen = stranger.stop()?;
        let (counted, _) = run.finish()?;
        new.stop()?;
        drop(directory);

        let mut sample = Sample::default();
        let served = sum(counted.iter().map(|seat| &seat.served));
        sample.add("LBs served again", served.len() as f64, Unit::Count);
        sample.add("attempts to connect", seen.attempts as f64, Unit::Count);
        sample.add("attempts refused", seen.refused as f64, Unit::Count);
        sample.add("longest attempt until its reply", seen.longest.as_nanos() as f64, Unit::Nanoseconds);
        sample.add("from the new process's start until it serves", serves.as_nanos() as f64, Unit::Nanoseconds);
        sample.add("until all are served again", served.max() as f64, Unit::Nanoseconds);
        sample.add_latencies("end of the connection to right weights", sum(counted.iter().map(|seat| &seat.without)));
        Ok(sample)
    }
}

/// What somebody has seen who connects all the time.
#[derive(Default)]
struct Seen {
    attempts: u64,
    refused: u64,
    longest: Duration,
}

/// Connects, asks and goes, again and again.
struct Stranger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

impl Stranger {
    fn start(to: SocketAddr) -> Stranger {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !until.load(Ordering::Relaxed) {
                let begin = Instant::now();
                while !attempt(to, &mut seen)? {}
                seen.longest = seen.longest.max(begin.elapsed());
            }
            Ok(seen)
        });
        Stranger { stop, thread }
    }

    fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the stranger failed".to_owned())?
    }
}

/// Connects and asks for the weights of a load balancer that nobody knows; whether a reply came.
fn attempt(to: SocketAddr, seen: &mut Seen) -> Result<bool> {
    seen.attempts += 1;
    let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            seen.refused += 1;
            return Ok(false);
        }
        Err(error) => return Err(format!("a stranger can not connect: {error}")),
    };
    let mut request = Vec::new();
    crate::model::get_weights(u32::MAX, 1, &mut request);
    let asked = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(&request));
    let mut byte = [0];
    match asked.and_then(|()| stream.read(&mut byte)) {
        Ok(count) => Ok(count > 0),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(false),
        Err(error) => Err(format!("a stranger gets no reply: {error}")),
    }
}

/// A seat's counts.
struct Counted {
    /// From the begin.
    served: Histogram<u64>,
    /// From the end of the connection.
    without: Histogram<u64>,
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    ticks: RefCell<Ticks>,
    counted: RefCell<Counted>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        ticks: RefCell::new(Ticks::new(plan.crowd.shape, plan.change, false)),
        counted: RefCell::new(Counted { served: latencies(), without: latencies() }),
        plan,
    });
    let Crowd { to, shape, .. } = local.plan.crowd;
    let gate = Rc::new(Gate::new(JOINING / seat.count));
    for number in seat.share(shape.lbs) {
        gate.enter().await;
        let actor = Actor::open(to, number, &seat.medium)?;
        let (local, gate, medium) = (local.clone(), gate.clone(), seat.medium.clone());
        glommio::spawn_local(async move {
            let life = async {
                local.join(number, &actor).await?;
                gate.leave();
                // The server ends the connection when another process has taken over.
                while actor.connection.receive(unwanted).await? != Received::Closed {}
                let ended = local.stage.now();
                drop(actor);
                let actor = Actor::open(to, number, &medium)?;
                local.come_back(number, &actor, ended).await?;
                // Stays until the run ends.
                while actor.connection.receive(unwanted).await? != Received::Closed {}
                Ok(())
            };
            let life: Result<()> = life.await;
            if let Err(error) = life
                && !local.stage.ended()
            {
                local.stage.fail(format!("LB {number}: {error}"));
            }
        })
        .detach();
    }
    while seat.order().await == Order::Go {}
    let counted = local.counted.replace(Counted { served: latencies(), without: latencies() });
    Ok(counted)
}

impl Local {
    /// Registers all groups and asks for their weights.
    async fn join(&self, number: u32, actor: &Actor) -> Result<()> {
        let mut request = Vec::new();
        self.plan.crowd.shape.registration(number, actor.id(), &mut request);
        actor.ask(&request, unwanted).await?;
        ask_weights(actor, number, &self.ticks).await?;
        self.stage.did(1);
        Ok(())
    }

    /// Comes back, and checks that the new process has the tables, byte for byte.
    async fn come_back(&self, number: u32, actor: &Actor, ended: u64) -> Result<()> {
        let mut request = Vec::new();
        lb_state(number, actor.id(), LbFlags::NONE, &mut request);
        actor.ask(&request, unwanted).await?;
        ask_weights(actor, number, &self.ticks).await?;
        let now = self.stage.now();
        let mut counted = self.counted.borrow_mut();
        record(&mut counted.served, now.saturating_sub(self.stage.due(MEASURED)));
        record(&mut counted.without, now.saturating_sub(ended));
        self.stage.did(1);
        Ok(())
    }
}

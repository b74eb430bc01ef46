//! `takeover`: a new process takes over from the server; every load balancer is told to go, and comes back.

use std::{
    cell::RefCell,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
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

use super::{Progress, Side, Workload, ask_weights, by_operator, open_watching, register_and_ask, spawn, unwanted};
use crate::{
    Result,
    actor::Actor,
    crowd::{Crowd, JOINING, bind},
    files::Folder,
    model::{Change, Ticks},
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
        let (change, file) = by_operator(common, shape)?;
        let state = Folder::new();
        let flags = vec![("--probe", "off".into()), ("--state", state.path().display().to_string())];
        let (subject, crowd) = open_watching(common, side, shape, file, flags)?;
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
        drop(state);

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
    let (mut actors, mut tasks) = (Vec::new(), Vec::new());
    for number in seat.share(shape.lbs) {
        gate.enter().await;
        let actor = Rc::new(RefCell::new(Rc::new(Actor::open(to, number, &seat.medium)?)));
        actors.push(actor.clone());
        let (local, gate, medium) = (local.clone(), gate.clone(), seat.medium.clone());
        tasks.push(spawn(&seat.stage, number, async move {
            let first = actor.borrow().clone();
            register_and_ask(&first, &local.plan.crowd.shape, number, &local.ticks).await?;
            local.stage.did(1);
            gate.leave();
            // The server ends the connection when another process has taken over.
            while first.connection.receive(unwanted).await? != Received::Closed {}
            let ended = local.stage.now();
            let next = Rc::new(Actor::open(to, number, &medium)?);
            *actor.borrow_mut() = next.clone();
            drop(first);
            local.come_back(number, &next, ended).await?;
            // Stays until the run ends.
            while next.connection.receive(unwanted).await? != Received::Closed {}
            Ok(())
        }));
    }
    while seat.order().await == Order::Go {}
    // Else the connections of this run would be open in the next one.
    actors.iter().for_each(|actor| actor.borrow().connection.hang_up());
    for task in tasks {
        task.await;
    }
    let counted = local.counted.replace(Counted { served: latencies(), without: latencies() });
    Ok(counted)
}

impl Local {
    /// Comes back, and checks that the new process has the tables, byte for byte.
    async fn come_back(&self, number: u32, actor: &Actor, ended: u64) -> Result<()> {
        bind(actor, number, LbFlags::NONE, unwanted).await?;
        ask_weights(actor, number, &self.ticks).await?;
        let now = self.stage.now();
        let mut counted = self.counted.borrow_mut();
        record(&mut counted.served, now.saturating_sub(self.stage.due(MEASURED)));
        record(&mut counted.without, now.saturating_sub(ended));
        self.stage.did(1);
        Ok(())
    }
}

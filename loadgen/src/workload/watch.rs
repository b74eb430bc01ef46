//! `watch`: the server checks very many members by `tcp`, the ports of some close and open again, and every load
//! balancer must be told which are up.

use std::{
    cell::RefCell,
    fs,
    net::TcpStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use gwm::sasp::LbFlags;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Progress, Side, Workload, fanout::WEIGHT_MAX, open_watching};
use crate::{
    Result,
    crowd::{Crowd, Lb},
    model::{Farm, Phase, Watched},
    options::{Common, Shape},
    player::{Gate, Order, Seat, Stage},
    ports::{Ports, Visit, Visitor},
    report::{Sample, Unit, latencies, record, sum},
    run::Run,
};

/// Load balancers that register at a time: each has much to say.
const JOINING: usize = 64;

/// How often the server's file descriptors are counted.
const COUNTING: Duration = Duration::from_secs(1);

/// Flags of `watch`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Load balancers; each lists its part of the members, with no-change/no-send
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Load balancers")]
    lbs: u32,

    /// Members, each with an address of its own in 127.0.0.0/8
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=7_000_000), help_heading = "Members")]
    endpoints: u32,

    /// Ports that they have by turns; one after the other is closed. With only three, more than half of the members
    /// could be down when rise is longer than fall, and the server would take that for a fault of its own
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(3..=1000), help_heading = "Members")]
    ports: u16,

    /// Times that a port is closed and the one before opened: each when every load balancer has been told of the ones
    /// before, but not more often than the members are checked
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Members")]
    phases: u64,

    /// From one check of a member to the next (--probe-interval of the server)
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, help_heading = "Checks")]
    interval: Duration,

    /// Good checks in a row that bring a member up (--probe-rise)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32), help_heading = "Checks")]
    rise: u8,

    /// Bad checks in a row that take it down (--probe-fall)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32), help_heading = "Checks")]
    fall: u8,
}

/// Shared by the conductor, the seats and the members.
struct Board {
    /// Counting is on.
    measuring: AtomicBool,
    /// When ports were opened and closed last, in nanoseconds of the stage.
    switched: AtomicU64,
    /// By member, when the check came that brought it up last.
    decisive: Vec<AtomicU64>,
}

#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    farm: Arc<Farm>,
    board: Arc<Board>,
    phases: u64,
}

/// A seat's counts of the measured time.
struct Counted {
    messages: u64,
    entries: u64,
    bytes: u64,
    /// From the end of a port to each load balancer's being told of each member.
    closed: Histogram<u64>,
    /// The same from its beginning.
    opened: Histogram<u64>,
    /// The same from the check that decided it.
    checked: Histogram<u64>,
}

impl Workload for Watch {
    const NAME: &'static str = "watch";

    fn title(&self) -> String {
        let Watch { endpoints, ports, lbs, interval, phases, .. } = self;
        format!("{endpoints} members at {ports} ports, checked every {interval:?}, of {lbs} LBs; {phases} ports close")
    }

    fn parameters(&self) -> Value {
        json!({
            "lbs": self.lbs, "endpoints": self.endpoints, "ports": self.ports, "phases": self.phases,
            "interval_seconds": self.interval.as_secs_f64(), "rise": self.rise, "fall": self.fall,
            "threads": self.common.threads, "push_window": self.common.server.push_window,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        if side == Side::Floor {
            return Err("watch has no floor: no bare loop does the same work".into());
        }
        if common.server.connect.is_some() {
            return Err("watch needs --spawn: how members are watched is said by flags at start".into());
        }
        if u64::from(self.lbs) * u64::from(self.ports) > u64::from(self.endpoints) {
            return Err("every LB must list a member of every port: more --endpoints, or fewer --lbs or --ports".into());
        }
        let ports = Ports::open(usize::from(self.ports))?;
        let farm = Arc::new(Farm {
            lbs: self.lbs,
            endpoints: self.endpoints,
            ports: ports.numbers(),
            fall: self.fall,
            weight_max: WEIGHT_MAX,
        });
        let members = farm.endpoints.div_ceil(farm.lbs).div_ceil(farm.groups());
        let (lbs, groups) = (farm.lbs, farm.groups());
        let shape = Shape { lbs, groups, members, farms: 1, first_lb: 0, first_member: 0, local: true, own: false };
        let flags = vec![
            ("--probe", "tcp".into()),
            ("--probe-interval", format!("{}ms", self.interval.as_millis())),
            ("--probe-rise", self.rise.to_string()),
            ("--probe-fall", self.fall.to_string()),
            // A weight that grows with time would be another one at each look.
            ("--slow-start", "0s".into()),
        ];
        let (subject, crowd) = open_watching(common, side, shape, None, flags)?;
        let pid = subject.pid().ok_or("no process to measure")?;
        let board = Arc::new(Board {
            measuring: AtomicBool::new(false),
            switched: AtomicU64::new(0),
            decisive: (0..self.endpoints).map(|_| AtomicU64::new(0)).collect(),
        });
        let plan = Plan { crowd, farm: farm.clone(), board: board.clone(), phases: self.phases };
        let empty = subject.memory()?.unwrap_or_default();
        let main = move |seat| play(seat, plan.clone());
        let mut run = Run::start(common, progress, Some(pid), self.phases + 1, main)?;
        let watcher = Watcher::new(farm.clone(), board.clone(), self.interval, self.rise);
        let service = ports.serve(&run.stage, common.cpus(usize::from(common.threads)).0, watcher)?;

        let seats = u64::from(common.threads);
        // A phase takes a member its interval and as many checks as it takes to believe them.
        let checks = u32::from(self.rise.max(self.fall)) + 1;
        let limit = common.timeout + self.interval * checks;
        let mut descriptors = Descriptors { pid, most: 0, at: None };
        let mut goal = u64::from(lbs);
        run.stage.wait(goal, limit, "LBs whose members are all known", |done| {
            progress.show("LBs whose members are all known", done, u64::from(lbs));
        })?;
        let mut last = Instant::now();
        let (mut meter, mut metered) = (run.meter()?, None);
        for number in 1..=self.phases + 1 {
            let phase = Phase::new(number, &farm, self.phases);
            run.stage.pass(self.interval.saturating_sub(last.elapsed()), |_| descriptors.look())?;
            if number == 1 {
                board.measuring.store(true, Ordering::Release);
                meter = run.meter()?;
            }
            if phase.closed().is_none() {
                board.measuring.store(false, Ordering::Release);
                metered = Some(meter.end()?);
            }
            // The seats expect the phase from now on, and only then does it begin.
            run.player.order(Order::Tick(number));
            goal += seats;
            run.wait(goal, "the player's own threads")?;
            last = Instant::now();
            board.switched.store(run.stage.now(), Ordering::Release);
            if let Some(port) = phase.reopened() {
                service.reopen(port)?;
            }
            if let Some(port) = phase.closed() {
                service.close(port);
            }
            progress.show("phase", number, self.phases);
            goal += u64::from(lbs);
            run.stage.wait(goal, limit, "LBs that know all that are up and down", |_| descriptors.look())?;
        }
        let metered = metered.ok_or("nothing was measured")?;
        descriptors.at = None;
        descriptors.look();
        let (counted, memory) = run.finish()?;
        let watcher = service.stop()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let seconds = metered.wall.as_secs_f64();
        let total = |of: fn(&Counted) -> u64| counted.iter().map(of).sum::<u64>();
        sample.add("checks answered", watcher.checks as f64, Unit::Count);
        sample.add("checks answered per second", watcher.checks as f64 / seconds, Unit::PerSecond);
        let changes = total(|seat| seat.closed.len() + seat.opened.len());
        sample.add("changes of state", changes as f64, Unit::Count);
        sample.add("changes of state per second", changes as f64 / seconds, Unit::PerSecond);
        sample.add("messages", total(|seat| seat.messages) as f64, Unit::Count);
        sample.add("entries in messages", total(|seat| seat.entries) as f64, Unit::Count);
        sample.add("bytes in messages", total(|seat| seat.bytes) as f64, Unit::Bytes);
        if let Some(used) = &metered.used {
            sample.add("CPU per second", used.cpu_ns as f64 / seconds, Unit::Nanoseconds);
            for (name, cpu) in &used.threads {
                sample.add(format!("CPU per second, thread {name}"), *cpu as f64 / seconds, Unit::Nanoseconds);
            }
        }
        // Nobody here sees connections that a closed port refuses; their number follows from the interval.
        let checks = f64::from(self.endpoints) * seconds / self.interval.as_secs_f64();
        metered.add_to(&mut sample, "check", checks as u64);
        sample.add_latencies("lateness of checks", watcher.lateness);
        sample.add_latencies("check to receipt of up", sum(counted.iter().map(|seat| &seat.checked)));
        sample.add_latencies("port closed to receipt", sum(counted.iter().map(|seat| &seat.closed)));
        sample.add_latencies("port opened to receipt", sum(counted.iter().map(|seat| &seat.opened)));
        sample.add("most file descriptors", descriptors.most as f64, Unit::Count);
        if let Some(memory) = memory {
            let each = (memory.anonymous as f64 - empty.anonymous as f64) / f64::from(self.endpoints);
            sample.add("anonymous memory per member", each, Unit::Bytes);
        }
        sample.add_memory(memory);
        Ok(sample)
    }
}

/// Counts a process's file descriptors now and then.
struct Descriptors {
    pid: u32,
    most: usize,
    at: Option<Instant>,
}

impl Descriptors {
    fn look(&mut self) {
        if self.at.is_some_and(|at| at.elapsed() < COUNTING) {
            return;
        }
        self.at = Some(Instant::now());
        // A process that is gone is noticed by those who talk with it.
        let now = fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count);
        self.most = self.most.max(now);
    }
}

/// Sees the checks arrive.
struct Watcher {
    farm: Arc<Farm>,
    board: Arc<Board>,
    interval: u64,
    rise: u32,
    seen: Vec<Seen>,
    /// While it is measured: checks, and how much later than the interval after the one before each came.
    checks: u64,
    lateness: Histogram<u64>,
}

/// A member's checks since its port was opened.
#[derive(Clone, Copy, Default)]
struct Seen {
    round: u32,
    count: u32,
    last: u64,
}

impl Watcher {
    fn new(farm: Arc<Farm>, board: Arc<Board>, interval: Duration, rise: u8) -> Watcher {
        let seen = vec![Seen::default(); farm.endpoints as usize];
        let interval = interval.as_nanos() as u64;
        Watcher { farm, board, interval, rise: rise.into(), seen, checks: 0, lateness: latencies() }
    }
}

impl Visitor for Watcher {
    fn visit(&mut self, visit: &Visit<'_>, _: &mut TcpStream) -> Result<()> {
        let number = self.farm.find(visit.address, visit.port);
        let number = number.ok_or_else(|| format!("a check of {}, which nobody has registered", visit.address))?;
        let (now, seen) = (visit.stage.now(), &mut self.seen[number as usize]);
        if seen.round != visit.round {
            *seen = Seen { round: visit.round, ..Seen::default() };
        }
        if self.board.measuring.load(Ordering::Acquire) {
            self.checks += 1;
            if seen.count > 0 {
                record(&mut self.lateness, now.saturating_sub(seen.last + self.interval));
            }
        }
        seen.last = now;
        seen.count = seen.count.saturating_add(1);
        if seen.count == self.rise {
            self.board.decisive[number as usize].store(now, Ordering::Release);
        }
        Ok(())
    }
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    counted: RefCell<Counted>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let (closed, opened, checked) = (latencies(), latencies(), latencies());
    let counted = Counted { messages: 0, entries: 0, bytes: 0, closed, opened, checked };
    let local = Rc::new(Local { stage: seat.stage.clone(), counted: RefCell::new(counted), plan });
    let plan = &local.plan;
    let phase = |number| Phase::new(number, &plan.farm, plan.phases);
    let knows = |lb| Watched::new(lb, &plan.farm, phase(0));
    let live = |lb, gate| local.clone().live(lb, gate);
    let members = plan.crowd.gather(&seat, JOINING, knows, live).await?;
    loop {
        match seat.order().await {
            Order::Tick(number) => {
                for lb in &members.lbs {
                    lb.knows.borrow_mut().begin(&plan.farm, phase(number));
                }
                local.stage.did(1);
            }
            Order::Stop => break,
            Order::Go => {}
        }
    }
    plan.crowd.leave(members).await?;
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    /// A load balancer's life: registers its part, then takes pushes.
    async fn live(self: Rc<Self>, lb: Rc<Lb<Watched>>, gate: Rc<Gate>) -> Result<()> {
        let Plan { crowd, farm, .. } = &self.plan;
        for request in farm.registrations(lb.number, || lb.actor.id()) {
            lb.actor.ask(&request, |frame| self.push(&lb, frame)).await?;
        }
        let flags = LbFlags::PUSH | LbFlags::NO_CHANGE_NO_SEND;
        crowd.set_state(&lb, flags, |frame| self.push(&lb, frame)).await?;
        gate.leave();
        crowd.listen(&self.stage, &lb, |frame| self.push(&lb, frame)).await
    }

    /// Takes a push: every entry of it is checked.
    fn push(&self, lb: &Lb<Watched>, frame: &[u8]) -> Result<()> {
        let board = &self.plan.board;
        let (now, switched) = (self.stage.now(), board.switched.load(Ordering::Acquire));
        let measuring = board.measuring.load(Ordering::Acquire);
        let mut counted = self.counted.borrow_mut();
        let mut watched = lb.knows.borrow_mut();
        let was_right = watched.right();
        let entries = watched.push(&self.plan.farm, frame, |number, up| {
            if !measuring {
                return;
            }
            let since = now.saturating_sub(switched);
            record(if up { &mut counted.opened } else { &mut counted.closed }, since);
            if up {
                // The kernel accepts before the player does: a check that it has not seen yet took no time.
                let decided = board.decisive[number as usize].load(Ordering::Acquire);
                record(&mut counted.checked, if decided < switched { 0 } else { now.saturating_sub(decided) });
            }
        })?;
        if measuring {
            counted.messages += 1;
            counted.entries += entries;
            counted.bytes += frame.len() as u64;
        }
        if watched.right() && !was_right {
            self.stage.did(1);
        }
        Ok(())
    }
}

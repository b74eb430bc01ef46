//! `fanout`: many load balancers, every one pushed what changed in its farm, tick by tick.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use gwm::sasp::{GroupData, LbFlags, MemberData, MemberFlags, MemberState, SenderFlags, Writer};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    Progress, Side, Workload,
    agents::{Agents, Answers},
    open,
};
use crate::{
    Result,
    actor::Actor,
    admin::Clients,
    agent_checks::Checks,
    crowd::{Crowd, JOINING, Lb},
    floor,
    model::{Change, Shown, Ticks, Told, Versions, group_name, uid},
    options::{Common, Load, Shape},
    player::{Gate, Order, Seat, Stage},
    ports::{Ports, Service},
    report::{Sample, Unit, latencies, record, sum},
    run::{Metered, Run},
    subject::Subject,
};

/// Connections of members, of each seat.
const SENDERS: u32 = 16;

/// Load balancers that one Set Member State speaks for: so it stays below the server's default message limit.
const LBS_A_MESSAGE: usize = 8000;

/// The source of the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChangeBy {
    /// The operator: a new members file and SIGHUP.
    Operator,
    /// The members themselves: Set Member State.
    Member,
    /// The members' agents, which the server asks (HAProxy's agent-check): they say `drain` and `ready` by turns.
    Agent,
}

/// Flags of `fanout`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    pub(crate) shape: Shape,

    /// Ticks that are measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Changes")]
    pub(crate) ticks: u64,

    /// Ticks before those
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Changes")]
    pub(crate) warmup: u64,

    /// The part of the members that changes in a tick, in percent, above 0 and up to 100; at least one changes
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0, value_parser = percent, help_heading = "Changes")]
    pub(crate) share: f64,

    /// The source of the changes
    #[arg(long, value_enum, default_value_t = ChangeBy::Operator, help_heading = "Changes")]
    pub(crate) change_by: ChangeBy,

    /// How often the server asks the agents: a tick takes that long
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = humantime::parse_duration, help_heading = "Changes")]
    pub(crate) agent_interval: Duration,

    /// Ticks per second, whether or not the one before has arrived everywhere (an open loop: latencies count from
    /// when a tick was due) [default: each tick when the one before has arrived everywhere]
    #[arg(long, value_name = "TICKS", value_parser = positive, help_heading = "Changes")]
    pub(crate) rate: Option<f64>,

    /// Each load balancer has its own members, which no other has; the floor writes each connection's own message anew in
    /// every tick. The CPU of a message is that from when the changes are noted: until then pushes wait in the push window
    /// (2s unless --push-window says more than 0s), in which the server must be able to note the changes
    #[arg(long, conflicts_with_all = ["farms", "rate", "connect"], help_heading = "Load balancers")]
    pub(crate) own: bool,

    /// The load balancers set no-change/no-send: they are sent only what changed
    #[arg(long, help_heading = "Load balancers")]
    pub(crate) no_change: bool,

    /// Load the admin side: 100 clients follow the changes, and one lists everything again and again; right after it the
    /// same without an admin side, and print the ratio. The clients are threads of the player: the server's CPU has no
    /// part of theirs
    #[arg(long, conflicts_with_all = ["connect", "tls"], help_heading = "What is measured")]
    pub(crate) admin_load: bool,

    /// Make so many agent-checks a second of the members of one load balancer; right after it the same without, and print
    /// the ratio. The checks are threads of the player
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=100_000),
          conflicts_with_all = ["connect", "tls", "admin_load"], help_heading = "What is measured")]
    pub(crate) agent_checks: Option<u32>,
}

pub(crate) fn percent(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|value| *value > 0.0 && *value <= 100.0).ok_or_else(|| "not above 0 and up to 100".into())
}

pub(super) fn positive(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|value: &f64| *value > 0.0 && value.is_finite()).ok_or_else(|| "not above 0".into())
}

/// The weights that a server says unless told otherwise: what `gwm serve --weight-max` has by default.
pub(crate) const WEIGHT_MAX: u16 = 100;

/// The push window with members of each load balancer's own: time enough to note the changes of a million, which take half
/// a second of CPU.
const OWN_WINDOW: &str = "2s";

/// The parameters of every seat.
#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    change: Change,
    change_by: ChangeBy,
    no_change: bool,
    /// Ticks that are not measured.
    warmup: u64,
    agents: Option<Arc<Agents>>,
}

/// A seat's counts of the measured ticks.
struct Counted {
    messages: u64,
    bytes: u64,
    refreshes: u64,
    requests: u64,
    receipt: Histogram<u64>,
}

impl Workload for Fanout {
    const NAME: &'static str = "fanout";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        let own = if self.own { " of its own" } else { "" };
        format!("{lbs} LBs × {groups} × {members} members{own}, {} % change per tick, {} ticks", self.share, self.ticks)
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.farms();
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "share_percent": self.share,
            "ticks": self.ticks, "warmup": self.warmup, "no_change": self.no_change, "rate": self.rate,
            "change_by": format!("{:?}", self.change_by).to_lowercase(),
            "agent_interval_seconds": self.agent_interval.as_secs_f64(), "seed": self.common.seed,
            "threads": self.common.threads, "push_window": self.push_window(&self.common), "own": self.own,
            "admin_load": self.admin_load, "agent_checks": self.agent_checks,
        })
    }

    fn load(&self) -> Option<Load> {
        self.agent_checks.map(Load::AgentChecks).or(self.admin_load.then_some(Load::Admin))
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        let mut common = common.clone();
        common.server.push_window = self.push_window(&common);
        let common = &common;
        let window = if self.own { self.time_of_window(common)? } else { Duration::ZERO };
        let change = self.change(common.seed);
        let change_by = if side == Side::Floor { ChangeBy::Operator } else { self.change_by };
        let shape = Shape { local: change_by == ChangeBy::Agent, ..self.farms() };
        shape.check()?;
        let mut ticks = Ticks::new(shape, change, self.no_change);
        let agents = (change_by == ChangeBy::Agent).then(|| self.agents(common, shape)).transpose()?;
        let (agents, ports) = agents.unzip();
        let file = match &ports {
            Some(ports) => Some(self.agents_file(ports)),
            None => (change_by == ChangeBy::Operator).then(|| ticks.operator_file(0)).transpose()?,
        };
        let (mut subject, crowd) = open(common, side, shape, file)?;
        let warmup = self.warmup;
        let plan = Plan { crowd, change, change_by, no_change: self.no_change, warmup, agents: agents.clone() };
        let all = self.warmup + self.ticks;
        let lbs = u64::from(shape.lbs);
        let main = move |seat| play(seat, plan.clone());
        let mut run = Run::start(common, progress, subject.pid(), all, main)?;
        let cpu = common.cpus(usize::from(common.threads)).0;
        let service = ports.zip(agents).map(|(ports, agents)| ports.serve(&run.stage, cpu, Answers(agents)));
        let service = service.transpose()?;
        run.show(0, lbs, "LBs set up")?;
        let (mut clients, mut checks) = (None, None);
        match common.server.load.filter(|_| side == Side::Server) {
            Some(Load::Admin) => clients = Some(Clients::start(subject.listens("admin on ")?, cpu, &run.stage)?),
            Some(Load::AgentChecks(rate)) => {
                checks = Some(Checks::start(subject.listens("agent-checks on ")?, cpu, rate, shape, &run.stage)?);
            }
            None => {}
        }

        let mut meter = run.meter()?;
        // With members of each load balancer's own, the use of the pushes alone, and that of what is before.
        let (mut pushes, mut noting) = (Metered::default(), Metered::default());
        let epoch = run.stage.now();
        for tick in 1..=all {
            let step = Step::prepare(&mut ticks, side, change_by, self.own, tick)?;
            if self.own {
                let (noted, pushed) = own_tick(&run, &mut subject, step, window, tick, lbs)?;
                if tick > self.warmup {
                    pushes.extend(pushed);
                    noting.extend(noted);
                }
                progress.show("tick", tick, all);
                continue;
            }
            if tick == self.warmup + 1 {
                if self.rate.is_some() {
                    // Messages of earlier ticks must not be counted with these.
                    run.wait(lbs * tick, "warm up")?;
                }
                meter = run.meter()?;
            }
            let due = match self.rate {
                Some(rate) => epoch + (tick as f64 * 1e9 / rate) as u64,
                None => run.stage.now(),
            };
            std::thread::sleep(Duration::from_nanos(due.saturating_sub(run.stage.now())));
            run.stage.announce(tick, due);
            match step {
                Step::File(text) => subject.operate(&text)?,
                Step::Floor(order, bytes) => subject.tell(order, &bytes)?,
                Step::Members => run.player.order(Order::Tick(tick)),
            }
            progress.show("tick", tick, all);
            if self.rate.is_none() {
                run.wait(lbs * (tick + 1), "pushes of a tick")?;
            }
        }
        run.wait(lbs * (all + 1), "pushes of all ticks")?;
        let metered = if self.own { pushes } else { meter.end()? };
        let given = clients.map(Clients::stop);
        let seen = checks.map(Checks::stop).transpose()?;
        let (counted, memory) = run.finish()?;
        service.map(Service::stop).transpose()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let total = |of: fn(&Counted) -> u64| counted.iter().map(of).sum::<u64>();
        let (messages, bytes) = (total(|c| c.messages), total(|c| c.bytes));
        let refreshed = common.server.spawn.as_ref().is_some_and(|command| command.contains("--push-refresh"));
        if total(|c| c.refreshes) > 0 && common.server.connect.is_none() && !refreshed {
            return Err(format!("{} pushes said nothing new", total(|c| c.refreshes)));
        }
        sample.add("messages", messages as f64, Unit::Count);
        sample.add("bytes per message", bytes as f64 / messages.max(1) as f64, Unit::Bytes);
        sample.add("pushes that said nothing new", total(|c| c.refreshes) as f64, Unit::Count);
        if change_by == ChangeBy::Member {
            sample.add("Set Member State requests", total(|c| c.requests) as f64, Unit::Count);
        }
        sample.add("messages per second", messages as f64 / metered.wall.as_secs_f64(), Unit::PerSecond);
        metered.add_to(&mut sample, "message", messages);
        if side == Side::Server
            && let Some(used) = noting.used
        {
            let a_message = used.cpu_ns as f64 / messages.max(1) as f64;
            sample.add("CPU of noting the changes per message", a_message, Unit::Nanoseconds);
        }
        sample.add_latencies("change to receipt", sum(counted.iter().map(|seat| &seat.receipt)));
        sample.add_memory(memory);
        if let Some(given) = given {
            given.add_to(&mut sample);
        }
        if let Some(seen) = seen {
            seen.add_to(&mut sample);
        }
        Ok(sample)
    }
}

impl Fanout {
    /// The load balancers, and the farms that `--own` makes.
    fn farms(&self) -> Shape {
        match self.own {
            true => Shape { farms: self.shape.lbs, own: true, ..self.shape },
            false => self.shape,
        }
    }

    fn push_window(&self, common: &Common) -> String {
        let said = &common.server.push_window;
        let none = humantime::parse_duration(said).is_ok_and(|window| window.is_zero());
        if self.own && none { OWN_WINDOW.into() } else { said.clone() }
    }

    /// How long pushes wait while the changes are noted.
    fn time_of_window(&self, common: &Common) -> Result<Duration> {
        if self.change_by != ChangeBy::Operator {
            return Err("members of each load balancer's own change by the operator only: no --change-by".into());
        }
        let said = &common.server.push_window;
        humantime::parse_duration(said).map_err(|error| format!("--push-window {said}: {error}"))
    }

    /// The operator's file that it begins with.
    pub(super) fn first_file(&self, seed: u64) -> Result<String> {
        Ticks::new(self.shape, self.change(seed), self.no_change).operator_file(0)
    }

    /// The agents of all members, and the port where they are.
    fn agents(&self, common: &Common, shape: Shape) -> Result<(Arc<Agents>, Ports)> {
        if self.rate.is_some() {
            return Err("agents are asked when the server likes: there is no --rate with --change-by agent".into());
        }
        if !common.server.lists_members() {
            return Err("changes by agents need --spawn, or --connect with --pid and --operator-file".into());
        }
        let agents = Agents::new(shape, self.change(common.seed), common.threads.into());
        Ok((Arc::new(agents), Ports::open(1)?))
    }

    /// The operator's file that tells of them.
    fn agents_file(&self, ports: &Ports) -> String {
        let (port, interval) = (ports.numbers()[0], self.agent_interval.as_millis());
        format!(
            "[[member]]\ncidr = \"127.0.0.0/8\"\nmonitor = [\"agent\"]\nagent_port = {port}\n\
             interval = \"{interval}ms\"\nfast_interval = \"{interval}ms\"\n"
        )
    }

    fn change(&self, seed: u64) -> Change {
        Change { share: self.share / 100.0, weight_max: WEIGHT_MAX, seed, listed: true }
    }
}

/// A tick with members of each load balancer's own: the use while the server notes the changes, and while it pushes.
fn own_tick(
    run: &Run<'_, Counted>,
    subject: &mut Subject,
    step: Step,
    window: Duration,
    tick: u64,
    lbs: u64,
) -> Result<(Metered, Metered)> {
    let begin = run.meter()?;
    if let Step::File(text) = &step {
        subject.operate(text)?;
        subject.settle(run.common.timeout)?;
        // So that all windows end before the pushes begin, as windows of no time do.
        subject.pause(window)?;
    }
    let noted = begin.end()?;
    // A push that came before is an error: this tick was not announced.
    run.stage.pass(Duration::ZERO, |_| {}).map_err(|error| {
        format!("{error}\nthe server has not noted all changes within its push window: say a longer --push-window")
    })?;
    let begin = run.meter()?;
    run.stage.announce(tick, run.stage.now());
    match &step {
        Step::Floor(order, bytes) => subject.tell(*order, bytes)?,
        Step::File(_) | Step::Members => subject.go_on()?,
    }
    run.wait(lbs * (tick + 1), "pushes of a tick")?;
    Ok((noted, begin.end()?))
}

/// The trigger of a tick.
enum Step {
    File(String),
    Floor(floor::Order, Vec<u8>),
    Members,
}

impl Step {
    /// Prepares a tick before its time is taken.
    fn prepare(ticks: &mut Ticks, side: Side, change_by: ChangeBy, own: bool, tick: u64) -> Result<Step> {
        Ok(match (side, change_by) {
            (Side::Floor, _) if own => {
                let template = ticks.push_for_all(Some(tick - 1), tick)?;
                Step::Floor(floor::Order::SendOwn, template.ok_or("a tick without a change")?.to_bytes())
            }
            (Side::Floor, _) => {
                let message = ticks.push(0, Some(tick - 1), tick)?;
                Step::Floor(floor::Order::Send, message.ok_or("a tick without a change")?.to_vec())
            }
            (Side::Server, ChangeBy::Operator) => Step::File(ticks.operator_file(tick)?),
            (Side::Server, ChangeBy::Member | ChangeBy::Agent) => Step::Members,
        })
    }
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    ticks: RefCell<Ticks>,
    counted: RefCell<Counted>,
}

/// A load balancer's state.
enum Knows {
    Tick(Option<u64>),
    Versions(Versions),
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        ticks: RefCell::new(Ticks::new(plan.crowd.shape, plan.change, plan.no_change)),
        counted: RefCell::new(Counted { messages: 0, bytes: 0, refreshes: 0, requests: 0, receipt: latencies() }),
        plan,
    });
    let (crowd, change_by) = (local.plan.crowd, local.plan.change_by);
    let no_change = local.plan.no_change;
    let drained: Option<Rc<[bool]>> = local.plan.agents.as_ref().map(|agents| agents.drained().collect());
    let knows = |number| match (change_by, &drained) {
        (ChangeBy::Operator, _) => Knows::Tick(None),
        (_, None) => Knows::Versions(Versions::new(number, &crowd.shape, no_change, Shown::State)),
        (_, Some(drained)) => {
            let mut versions = Versions::new(number, &crowd.shape, no_change, Shown::Agent(drained.clone()));
            // The agents' first answers are on their way as soon as they are asked.
            (0..crowd.shape.farm_members()).for_each(|member| _ = versions.request(member));
            Knows::Versions(versions)
        }
    };
    let live = |lb, gate| local.clone().live(lb, gate);
    let members = crowd.gather(&seat, JOINING, knows, live).await?;
    let mut senders = Vec::new();
    if change_by == ChangeBy::Member {
        for number in 0..SENDERS {
            senders.push(Rc::new(Actor::open(crowd.to, crowd.shape.lbs + number, &seat.medium)?));
        }
    }
    loop {
        match seat.order().await {
            Order::Tick(tick) => match &local.plan.agents {
                None => local.change(&members.lbs, &senders, tick).await?,
                Some(agents) => local.expect(&members.lbs, agents, tick),
            },
            Order::Stop => break,
            Order::Go => {}
        }
    }
    crowd.leave(members).await?;
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    /// A load balancer's life: registers, then takes pushes.
    async fn live(self: Rc<Self>, lb: Rc<Lb<Knows>>, gate: Rc<Gate>) -> Result<()> {
        let crowd = &self.plan.crowd;
        let flags = LbFlags::PUSH
            .with(LbFlags::TRUST, self.plan.change_by == ChangeBy::Member)
            .with(LbFlags::NO_CHANGE_NO_SEND, self.plan.no_change);
        crowd.join(&lb, flags, |frame| self.push(&lb, frame)).await?;
        gate.leave();
        if crowd.side == Side::Floor {
            *lb.knows.borrow_mut() = Knows::Tick(Some(0));
            self.stage.did(1);
        }
        crowd.listen(&self.stage, &lb, |frame| self.push(&lb, frame)).await
    }

    /// Takes a push: every byte of it is checked.
    fn push(&self, lb: &Lb<Knows>, frame: &[u8]) -> Result<()> {
        let latest = self.stage.tick();
        let now = self.stage.now();
        match &mut *lb.knows.borrow_mut() {
            Knows::Tick(at) => {
                // The floor sends everyone the first one's bytes, unless each has its own.
                let Crowd { side, shape, .. } = self.plan.crowd;
                let addressee = if side == Side::Floor && !shape.own { 0 } else { lb.number };
                match self.ticks.borrow_mut().check_push(addressee, *at, latest, frame)? {
                    Told::Again => self.counted.borrow_mut().refreshes += 1,
                    Told::Tick(to) => {
                        let first = at.map_or(0, |at| at + 1);
                        self.count(first..=to, frame.len(), now);
                        *at = Some(to);
                        self.stage.did(to + 1 - first);
                    }
                }
            }
            Knows::Versions(versions) => {
                let begun = versions.begun();
                versions.push(&self.plan.crowd.shape, WEIGHT_MAX, frame, |_, _, _| {})?;
                let complete = versions.complete();
                // A tick's messages are all its pushes; its latency is the latency of the last one.
                self.count(latest..=latest, frame.len(), if complete { now } else { 0 });
                // Where members change themselves, the first push tells of no change; where the server watches them, it
                // may tell of some who were not asked yet.
                if complete || !begun && self.plan.agents.is_none() {
                    self.stage.did(1);
                }
            }
        }
        Ok(())
    }

    /// Counts a message that tells these ticks; `now` 0 means that more of them is to come.
    fn count(&self, ticks: std::ops::RangeInclusive<u64>, bytes: usize, now: u64) {
        if *ticks.end() <= self.plan.warmup {
            return;
        }
        let mut counted = self.counted.borrow_mut();
        counted.messages += 1;
        counted.bytes += bytes as u64;
        for tick in ticks {
            if now > 0 && tick > self.plan.warmup {
                record(&mut counted.receipt, now.saturating_sub(self.stage.due(tick)));
            }
        }
    }

    /// The agents of the members that change in this tick say so from now on, as far as this seat is concerned.
    fn expect(&self, lbs: &[Rc<Lb<Knows>>], agents: &Agents, tick: u64) {
        let changed = Ticks::changed(&self.plan.crowd.shape, &self.plan.change, tick);
        for lb in lbs {
            if let Knows::Versions(versions) = &mut *lb.knows.borrow_mut() {
                changed.iter().for_each(|&member| _ = versions.request(member));
            }
        }
        agents.expected(&changed);
    }

    /// The members that change in this tick say so, each for all load balancers of this seat.
    async fn change(self: &Rc<Self>, lbs: &[Rc<Lb<Knows>>], senders: &[Rc<Actor>], tick: u64) -> Result<()> {
        let shape = self.plan.crowd.shape;
        let mut work = vec![Vec::new(); senders.len()];
        for member in Ticks::changed(&shape, &self.plan.change, tick) {
            let mut states = Vec::with_capacity(lbs.len());
            for lb in lbs {
                if let Knows::Versions(versions) = &mut *lb.knows.borrow_mut() {
                    states.push((lb.number, versions.request(member)));
                }
            }
            for some in states.chunks(LBS_A_MESSAGE) {
                let sender = member as usize % senders.len();
                let mut bytes = Vec::new();
                let id = senders[sender].id();
                let mut writer = Writer::set_member_state_request(&mut bytes, id, SenderFlags::NONE);
                for &(lb, state) in some {
                    let group = group_name(member / shape.members);
                    writer.group(GroupData { lb_uid: &uid(lb), name: group.as_bytes() });
                    let endpoint = shape.endpoint(shape.farm(lb), member);
                    let member = MemberData { endpoint, label: b"" };
                    writer.entry(&MemberState { member, state, flags: MemberFlags::NONE });
                }
                writer.finish().expect("the flags' ranges fit the wire");
                work[sender].push(bytes);
            }
        }
        let tasks: Vec<_> = work
            .into_iter()
            .zip(senders)
            .map(|(requests, sender)| {
                let sender = sender.clone();
                glommio::spawn_local(async move {
                    for request in &requests {
                        sender.ask(request, |_| Err("a push to a member".into())).await?;
                    }
                    Ok(requests.len() as u64)
                })
                .detach()
            })
            .collect();
        for task in tasks {
            let requests =
                task.await.ok_or("a task was cancelled")?.map_err(|error: String| format!("member: {error}"))?;
            if tick > self.plan.warmup {
                self.counted.borrow_mut().requests += requests;
            }
        }
        Ok(())
    }
}

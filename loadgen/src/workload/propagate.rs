//! `propagate`: single changes at a rate; from a member's change to the load balancer's receipt.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use gwm::sasp::{ComponentType, LbFlags, SenderFlags};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    Progress, Side, Workload,
    fanout::{WEIGHT_MAX, positive},
    open,
    poll::set_member_state,
};
use crate::{
    Result,
    actor::{Actor, expect_success},
    crowd::{Crowd, JOINING, Lb},
    floor,
    model::{Change, Shown, Ticks, Versions, difference},
    options::{Common, Shape},
    player::{Gate, Order, Received, Seat, Stage, sleep, turn},
    report::{Sample, Unit, latencies, record, sum},
    run::{MEASURED, OVER, Run},
};

/// Changes that are sent before the other tasks have their turn.
const BURST: u32 = 32;

/// How often the received messages are checked at the end.
const LOOK: Duration = Duration::from_millis(1);

/// Flags of `propagate`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Propagate {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    pub(crate) shape: Shape,

    /// Changes per second, whether or not those before have arrived (an open loop)
    #[arg(long, value_name = "CHANGES", default_value = "10000", value_parser = positive, help_heading = "Changes")]
    rate: f64,

    /// Connections of members; each speaks for the same load balancers in the whole run
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Changes")]
    senders: u32,

    /// How long changes are counted
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, help_heading = "Changes")]
    duration: Duration,

    /// How long changes are made before that
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration, help_heading = "Changes")]
    warmup: Duration,

    /// The load balancers set no-change/no-send: they are sent only what changed
    #[arg(long, help_heading = "Load balancers")]
    no_change: bool,
}

#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    change: Change,
    /// Of this seat's changes: the time from one to the next.
    gap: f64,
    senders: u32,
    no_change: bool,
}

/// A seat's counts of the changes that were due in the measured time.
struct Counted {
    changes: u64,
    messages: u64,
    bytes: u64,
    /// The requests that arrived in time to be counted, by the messages that told them.
    from_due: Histogram<u64>,
    from_sent: Histogram<u64>,
}

impl Workload for Propagate {
    const NAME: &'static str = "propagate";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        format!("{} changes/s, {lbs} LBs × {groups} × {members} members, {:?}", self.rate, self.duration)
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "rate": self.rate,
            "senders": self.senders, "no_change": self.no_change, "duration_seconds": self.duration.as_secs_f64(),
            "warmup_seconds": self.warmup.as_secs_f64(), "seed": self.common.seed, "threads": self.common.threads,
            "push_window": self.common.server.push_window,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        let shape = self.shape;
        shape.check()?;
        let change = Change { share: 1.0, weight_max: WEIGHT_MAX, seed: common.seed, listed: false };
        let (mut subject, crowd) = open(common, side, shape, None)?;
        let seats = common.threads;
        let plan = Plan {
            crowd,
            change,
            gap: f64::from(seats) * 1e9 / self.rate,
            senders: self.senders.div_ceil(seats.into()),
            no_change: self.no_change,
        };
        let lbs = u64::from(shape.lbs);
        let main = move |seat| play(seat, plan.clone());
        let mut run = Run::start(common, progress, subject.pid(), OVER, main)?;
        run.show(0, lbs, "LBs set up")?;
        if side == Side::Floor {
            subject.tell(floor::Order::Push, &floor_push(shape, change, self.no_change)?)?;
        }
        run.warm_up(self.warmup)?;
        let metered = run.measure(self.duration)?;
        run.wait(lbs + u64::from(seats), "last changes")?;
        let (counted, memory) = run.finish()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let total = |of: fn(&Counted) -> u64| counted.iter().map(of).sum::<u64>();
        let (changes, messages) = (total(|c| c.changes), total(|c| c.messages));
        sample.add("changes", changes as f64, Unit::Count);
        sample.add("changes per second", changes as f64 / metered.wall.as_secs_f64(), Unit::PerSecond);
        sample.add("messages", messages as f64, Unit::Count);
        sample.add("bytes per message", total(|c| c.bytes) as f64 / messages.max(1) as f64, Unit::Bytes);
        metered.add_to(&mut sample, "change", changes);
        sample.add_latencies("change due to receipt", sum(counted.iter().map(|seat| &seat.from_due)));
        sample.add_latencies("change sent to receipt", sum(counted.iter().map(|seat| &seat.from_sent)));
        sample.add_memory(memory);
        Ok(sample)
    }
}

/// The floor's message for every change: a push of one group, or of one member.
fn floor_push(shape: Shape, change: Change, no_change: bool) -> Result<Vec<u8>> {
    let members = if no_change { 1 } else { shape.members };
    let one = Shape { groups: 1, members, ..shape };
    let mut ticks = Ticks::new(one, change, false);
    Ok(ticks.push(0, None, 0)?.ok_or("no member to tell of")?.to_vec())
}

/// A change on its way.
struct Pending {
    member: u32,
    version: u32,
    due: u64,
    sent: u64,
}

/// A load balancer's state.
struct Knows {
    versions: Versions,
    requested: Vec<u32>,
    under_way: VecDeque<Pending>,
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    floor_push: Vec<u8>,
    counted: RefCell<Counted>,
    under_way: Cell<u64>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        floor_push: floor_push(plan.crowd.shape, plan.change, plan.no_change)?,
        counted: RefCell::new(Counted {
            changes: 0,
            messages: 0,
            bytes: 0,
            from_due: latencies(),
            from_sent: latencies(),
        }),
        under_way: Cell::new(0),
        plan,
    });
    let (crowd, no_change) = (local.plan.crowd, local.plan.no_change);
    let knows = |number| Knows {
        versions: Versions::new(number, &crowd.shape, no_change, Shown::State),
        requested: vec![0; crowd.shape.farm_members() as usize],
        under_way: VecDeque::new(),
    };
    let live = |lb, gate| local.clone().live(lb, gate);
    let members = crowd.gather(&seat, JOINING, knows, live).await?;
    let mut senders = Vec::new();
    let mut readers = Vec::new();
    if crowd.side == Side::Server {
        for number in 0..local.plan.senders {
            let number = crowd.shape.lbs + seat.index as u32 * local.plan.senders + number;
            let sender = Rc::new(Actor::open(crowd.to, number, &seat.medium)?);
            senders.push(sender.clone());
            let stage = seat.stage.clone();
            let reader = glommio::spawn_local(async move {
                if let Err(error) = take_replies(&stage, &sender).await {
                    stage.fail(format!("member: {error}"));
                }
            });
            readers.push(reader.detach());
        }
    }
    let mut random = fastrand::Rng::with_seed(local.plan.change.seed + seat.index as u64);
    while seat.order().await == Order::Go {
        local.drive(&members.lbs, &senders, &mut random).await?;
        while local.under_way.get() > 0 {
            sleep(LOOK).await;
        }
        seat.stage.did(1);
    }
    for sender in &senders {
        sender.connection.hang_up();
    }
    for reader in readers {
        reader.await;
    }
    crowd.leave(members).await?;
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

/// Reads a member's replies, which come in the order of its requests.
async fn take_replies(stage: &Stage, sender: &Actor) -> Result<()> {
    let mut next = 1u32;
    loop {
        let received = sender.connection.receive(|frame| {
            let id = next;
            next += 1;
            expect_success(id, ComponentType::SET_MEMBER_STATE_REPLY, frame)
        });
        match received.await {
            Ok(Received::Bytes(_)) => {}
            Ok(Received::Closed) if stage.ended() => return Ok(()),
            Ok(Received::Closed) => return Err("closed by the server".into()),
            Err(error) => return Err(error),
        }
    }
}

impl Local {
    /// A load balancer's life: registers, then takes pushes.
    async fn live(self: Rc<Self>, lb: Rc<Lb<Knows>>, gate: Rc<Gate>) -> Result<()> {
        let crowd = &self.plan.crowd;
        let flags = (LbFlags::PUSH | LbFlags::TRUST).with(LbFlags::NO_CHANGE_NO_SEND, self.plan.no_change);
        crowd.join(&lb, flags, |frame| self.push(&lb, frame)).await?;
        gate.leave();
        if crowd.side == Side::Floor {
            self.stage.did(1);
        }
        crowd.listen(&self.stage, &lb, |frame| self.push(&lb, frame)).await
    }

    /// Makes changes, each when it is due, until the run is over.
    async fn drive(&self, lbs: &[Rc<Lb<Knows>>], senders: &[Rc<Actor>], random: &mut fastrand::Rng) -> Result<()> {
        let start = self.stage.now();
        let (mut number, mut burst) = (0u64, 0);
        let mut request = Vec::new();
        while self.stage.tick() < OVER && !self.stage.ended() {
            let due = start + (number as f64 * self.plan.gap) as u64;
            let early = due.saturating_sub(self.stage.now());
            if early > 0 {
                sleep(Duration::from_nanos(early)).await;
                burst = 0;
                continue;
            }
            self.change(&lbs[random.usize(..lbs.len())], senders, random, due, &mut request).await?;
            number += 1;
            burst += 1;
            if burst == BURST {
                turn().await;
                burst = 0;
            }
        }
        Ok(())
    }

    async fn change(
        &self,
        lb: &Lb<Knows>,
        senders: &[Rc<Actor>],
        random: &mut fastrand::Rng,
        due: u64,
        request: &mut Vec<u8>,
    ) -> Result<()> {
        let shape = &self.plan.crowd.shape;
        let member = random.u32(..shape.farm_members());
        // Always the same member's connection for a load balancer: changes of one membership stay in order.
        let sender = senders.get(lb.number as usize % senders.len().max(1)).map_or(&lb.actor, |sender| sender);
        request.clear();
        {
            let mut knows = lb.knows.borrow_mut();
            let state = knows.versions.request(member);
            knows.requested[member as usize] += 1;
            set_member_state(shape, lb.number, sender.id(), member, state, SenderFlags::NONE, request);
            let version = knows.requested[member as usize];
            knows.under_way.push_back(Pending { member, version, due, sent: self.stage.now() });
        }
        self.under_way.set(self.under_way.get() + 1);
        sender.connection.send(request).await
    }

    /// Takes a push: every byte of it is checked.
    fn push(&self, lb: &Lb<Knows>, frame: &[u8]) -> Result<()> {
        let now = self.stage.now();
        let mut knows = lb.knows.borrow_mut();
        let knows = &mut *knows;
        let mut counted = self.counted.borrow_mut();
        let measured = self.stage.tick() == MEASURED;
        if measured {
            counted.messages += 1;
            counted.bytes += frame.len() as u64;
        }
        let mut arrived = |change: &Pending| {
            self.under_way.set(self.under_way.get() - 1);
            if self.stage.tick() >= MEASURED && change.due >= self.stage.due(MEASURED) {
                record(&mut counted.from_due, now.saturating_sub(change.due));
                record(&mut counted.from_sent, now.saturating_sub(change.sent));
            }
            if measured {
                counted.changes += 1;
            }
        };
        if self.plan.crowd.side == Side::Floor {
            if frame != self.floor_push {
                return Err(format!("the floor's push: {}", difference(frame, &self.floor_push)));
            }
            let change = knows.under_way.pop_front().ok_or("a push that nothing caused")?;
            arrived(&change);
            return Ok(());
        }
        let begun = knows.versions.begun();
        let under_way = &mut knows.under_way;
        knows.versions.push(&self.plan.crowd.shape, WEIGHT_MAX, frame, |member, _, version| {
            under_way.retain(|change| {
                let told = change.member == member && change.version <= version;
                if told {
                    arrived(change);
                }
                !told
            });
        })?;
        if !begun {
            self.stage.did(1);
        }
        Ok(())
    }
}

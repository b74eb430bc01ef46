//! `poll`: load balancers that ask, and are answered: Get Weights, or Set Member State.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use gwm::sasp::{ComponentType, GroupData, LbFlags, MemberData, MemberFlags, MemberState, SenderFlags, Writer};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{INTERVAL, Progress, Side, Workload, fanout::positive, open, success};
use crate::{
    Result,
    actor::{Incoming, expect_success, sort},
    crowd::{Crowd, JOINING, Lb},
    floor,
    model::{Change, Ticks, difference, get_weights, group_name, uid},
    options::{Common, Shape},
    player::{Gate, Order, Received, Seat, Stage, sleep, turn},
    report::{Sample, Unit, latencies, record, sum},
    run::{MEASURED, OVER, Run},
};

/// The request of the load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Request {
    /// All weights.
    GetWeights,
    /// A new opaque state of one of its members, in turn.
    SetMemberState,
}

/// Flags of `poll`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Poll {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(flatten)]
    pub(crate) shape: Shape,

    /// The request
    #[arg(long, value_enum, default_value_t = Request::GetWeights, help_heading = "Requests")]
    request: Request,

    /// Requests per second of all together, whether or not replies have come (an open loop: latencies count from
    /// when a request was due) [default: each load balancer asks again when it is answered]
    #[arg(long, value_name = "REQUESTS", value_parser = positive, help_heading = "Requests")]
    rate: Option<f64>,

    /// How long requests are counted
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, help_heading = "Requests")]
    duration: Duration,

    /// How long requests are made before that
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration, help_heading = "Requests")]
    warmup: Duration,

    /// The load balancers set no-change/no-send: replies have only what changed
    #[arg(long, help_heading = "Load balancers")]
    no_change: bool,
}

#[derive(Clone)]
struct Plan {
    crowd: Crowd,
    request: Request,
    change: Change,
    no_change: bool,
    /// Between two requests of one load balancer.
    pause: Option<Duration>,
    /// A server that was not started for this run may reply any Interval.
    any_interval: bool,
}

/// A seat's counts of the measured time.
struct Counted {
    replies: u64,
    bytes: u64,
    latency: Histogram<u64>,
}

impl Workload for Poll {
    const NAME: &'static str = "poll";

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.shape;
        let request = match self.request {
            Request::GetWeights => "Get Weights",
            Request::SetMemberState => "Set Member State",
        };
        format!("{request} from {lbs} LBs × {groups} × {members} members for {:?}", self.duration)
    }

    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "lbs": lbs, "groups": groups, "members": members, "farms": farms, "rate": self.rate,
            "request": format!("{:?}", self.request), "no_change": self.no_change,
            "duration_seconds": self.duration.as_secs_f64(), "warmup_seconds": self.warmup.as_secs_f64(),
            "seed": self.common.seed, "threads": self.common.threads,
        })
    }

    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample> {
        let shape = self.shape;
        shape.check()?;
        if self.no_change && self.request == Request::SetMemberState {
            return Err("--no-change is about the replies to --request get-weights".into());
        }
        let listed = common.server.lists_members();
        let change = Change { share: 1.0, weight_max: super::fanout::WEIGHT_MAX, seed: common.seed, listed };
        let mut ticks = Ticks::new(shape, change, self.no_change);
        let file = listed.then(|| ticks.operator_file(0)).transpose()?;
        let (mut subject, crowd) = open(common, side, shape, file)?;
        let plan = Plan {
            crowd,
            request: self.request,
            change,
            no_change: self.no_change,
            pause: self.rate.map(|rate| Duration::from_secs_f64(f64::from(shape.lbs) / rate)),
            any_interval: common.server.connect.is_some(),
        };
        let lbs = u64::from(shape.lbs);
        let main = move |seat| play(seat, plan.clone());
        let mut run = Run::start(common, progress, subject.pid(), OVER, main)?;
        run.show(0, lbs, "LBs set up")?;
        if side == Side::Floor {
            let answer = match self.request {
                Request::GetWeights => ticks.reply(0, 0, INTERVAL, Some(0).filter(|_| self.no_change), 0)?.to_vec(),
                Request::SetMemberState => success(0, ComponentType::SET_MEMBER_STATE_REPLY),
            };
            subject.tell(floor::Order::Answer, &answer)?;
        }
        run.warm_up(self.warmup)?;
        let metered = run.measure(self.duration)?;
        // Requests in progress are answered, and the states that were set are asked for once more.
        run.wait(2 * lbs, "last replies")?;
        let (counted, memory) = run.finish()?;
        subject.stop()?;

        let mut sample = Sample::default();
        let replies: u64 = counted.iter().map(|seat| seat.replies).sum();
        let bytes: u64 = counted.iter().map(|seat| seat.bytes).sum();
        sample.add("requests", replies as f64, Unit::Count);
        sample.add("bytes per reply", bytes as f64 / replies.max(1) as f64, Unit::Bytes);
        sample.add("requests per second", replies as f64 / metered.wall.as_secs_f64(), Unit::PerSecond);
        metered.add_to(&mut sample, "request", replies);
        sample.add_latencies("request to reply", sum(counted.iter().map(|seat| &seat.latency)));
        sample.add_memory(memory);
        Ok(sample)
    }
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    ticks: RefCell<Ticks>,
    counted: RefCell<Counted>,
    interval: Cell<Option<u16>>,
    begun: Cell<bool>,
}

/// The opaque states that a load balancer has set.
type Knows = Vec<u8>;

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        ticks: RefCell::new(Ticks::new(plan.crowd.shape, plan.change, plan.no_change)),
        counted: RefCell::new(Counted { replies: 0, bytes: 0, latency: latencies() }),
        interval: Cell::new(if plan.any_interval { None } else { Some(INTERVAL) }),
        begun: Cell::new(false),
        plan,
    });
    let crowd = local.plan.crowd;
    let join = |lb, gate| local.clone().join(lb, gate);
    let members = crowd.gather(&seat, JOINING, |_| vec![0; crowd.shape.farm_members() as usize], join).await?;
    let mut tasks = Vec::new();
    loop {
        match seat.order().await {
            Order::Go => {
                local.begun.set(true);
                for lb in &members.lbs {
                    let (local, lb) = (local.clone(), lb.clone());
                    let task = glommio::spawn_local(async move {
                        if let Err(error) = local.poll(&lb).await {
                            local.stage.fail(format!("LB {}: {error}", lb.number));
                        }
                    });
                    tasks.push(task.detach());
                }
            }
            Order::Stop => break,
            Order::Tick(_) => {}
        }
    }
    for task in tasks {
        task.await;
    }
    crowd.leave_unheard(members).await?;
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    async fn join(self: Rc<Self>, lb: Rc<Lb<Knows>>, gate: Rc<Gate>) -> Result<()> {
        let flags = LbFlags::NONE.with(LbFlags::NO_CHANGE_NO_SEND, self.plan.no_change);
        self.plan.crowd.join(&lb, flags, |_| Err("a push that nobody wanted".into())).await?;
        if self.plan.no_change && self.plan.crowd.side == Side::Server {
            self.ask_all(&lb, |_| 0).await?; // from now on nothing changes
        }
        gate.leave();
        self.stage.did(1);
        Ok(())
    }

    /// A load balancer asks until the run is over.
    async fn poll(&self, lb: &Lb<Knows>) -> Result<()> {
        let mut request = Vec::new();
        let mut due = self.stage.now();
        if let Some(pause) = self.plan.pause {
            // All of them spread evenly over the time between two requests of one.
            let pause = pause.as_nanos() as u64;
            due += pause * u64::from(lb.number - self.plan.crowd.shape.first_lb) / u64::from(self.plan.crowd.shape.lbs);
        }
        let mut rounds = 0u32;
        while self.stage.tick() < OVER {
            if let Some(pause) = self.plan.pause {
                let early = due.saturating_sub(self.stage.now());
                if early > 0 {
                    sleep(Duration::from_nanos(early)).await;
                }
                self.round(lb, &mut request, rounds, due).await?;
                due += pause.as_nanos() as u64;
            } else {
                self.round(lb, &mut request, rounds, self.stage.now()).await?;
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(64) {
                turn().await;
            }
        }
        if self.plan.request == Request::SetMemberState && self.plan.crowd.side == Side::Server {
            let states = lb.knows.borrow().clone();
            self.ask_all(lb, |member| states[member as usize]).await?;
        }
        self.stage.did(1);
        Ok(())
    }

    /// One request and its reply.
    async fn round(&self, lb: &Lb<Knows>, request: &mut Vec<u8>, round: u32, due: u64) -> Result<()> {
        let id = lb.actor.id();
        request.clear();
        let shape = &self.plan.crowd.shape;
        match self.plan.request {
            Request::GetWeights => get_weights(lb.number, id, request),
            Request::SetMemberState => {
                let member = round % shape.farm_members();
                let state = &mut lb.knows.borrow_mut()[member as usize];
                *state = state.wrapping_add(1);
                set_member_state(shape, lb.number, id, member, *state, SenderFlags::LOAD_BALANCER, request);
            }
        }
        lb.actor.connection.send(request).await?;
        let mut length = 0;
        while length == 0 {
            let received = lb.actor.connection.receive(|frame| match sort(frame)? {
                Incoming::Push(_) => Err("a push that nobody wanted".into()),
                Incoming::Reply(..) if length > 0 => Err("a second reply".into()),
                Incoming::Reply(_, _, frame) => {
                    length = frame.len();
                    self.check_reply(lb, id, frame)
                }
            });
            if received.await? == Received::Closed {
                return Err("closed by the server".into());
            }
        }
        if self.stage.tick() == MEASURED {
            let mut counted = self.counted.borrow_mut();
            counted.replies += 1;
            counted.bytes += length as u64;
            record(&mut counted.latency, self.stage.now().saturating_sub(due));
        }
        Ok(())
    }

    /// Checks every byte of a reply.
    fn check_reply(&self, lb: &Lb<Knows>, id: u32, frame: &[u8]) -> Result<()> {
        match self.plan.request {
            Request::SetMemberState => expect_success(id, ComponentType::SET_MEMBER_STATE_REPLY, frame),
            Request::GetWeights => {
                // The floor answers everyone with the first one's bytes.
                let addressee = if self.plan.crowd.side == Side::Floor { 0 } else { lb.number };
                let interval = self.interval(frame);
                let known = Some(0).filter(|_| self.plan.no_change);
                let mut ticks = self.ticks.borrow_mut();
                let expected = ticks.reply(addressee, id, interval, known, 0)?;
                if frame == expected { Ok(()) } else { Err(format!("reply {id}: {}", difference(frame, expected))) }
            }
        }
    }

    /// The expected Interval: the one of the first reply, if the flags give none.
    fn interval(&self, frame: &[u8]) -> u16 {
        self.interval.get().unwrap_or_else(|| {
            let said = frame.get(18..20).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
            self.interval.set(Some(said));
            said
        })
    }

    /// Asks for all weights and checks them, with the states that the members were given.
    async fn ask_all(&self, lb: &Lb<Knows>, state: impl Fn(u32) -> u8) -> Result<()> {
        let (mut request, id) = (Vec::new(), lb.actor.id());
        get_weights(lb.number, id, &mut request);
        lb.actor.connection.send(&request).await?;
        let mut done = false;
        while !done {
            let received = lb.actor.connection.receive(|frame| {
                done = true;
                let interval = self.interval(frame);
                let expected = self.ticks.borrow_mut().reply_with_states(lb.number, id, interval, 0, &state)?;
                if frame == expected { Ok(()) } else { Err(format!("reply {id}: {}", difference(frame, &expected))) }
            });
            if received.await? == Received::Closed {
                return Err("closed by the server".into());
            }
        }
        Ok(())
    }
}

/// A Set Member State for one member of one load balancer.
pub(super) fn set_member_state(
    shape: &Shape,
    lb: u32,
    id: u32,
    member: u32,
    state: u8,
    flags: SenderFlags,
    out: &mut Vec<u8>,
) {
    let mut writer = Writer::set_member_state_request(out, id, flags);
    writer.group(GroupData { lb_uid: &uid(lb), name: group_name(member / shape.members).as_bytes() });
    let endpoint = shape.endpoint(shape.farm(lb), member);
    writer.entry(&MemberState { member: MemberData { endpoint, label: b"" }, state, flags: MemberFlags::NONE });
    writer.finish().expect("one group and one member fit");
}

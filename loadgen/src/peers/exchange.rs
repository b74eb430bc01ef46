//! Requests and replies, one in progress on each connection: the GWM, Redis and the floor do this in the same loop, with
//! requests and replies prepared beforehand and compared byte for byte.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};

use clap::Args;
use gwm::sasp::{ComponentType, GroupData, LbFlags, MemberData, MemberFlags, MemberState, SenderFlags, Writer};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    Contest,
    dialect::{bulk, command, subject, unexpected},
    host::{Host, Peer},
};
use crate::{
    Result, floor,
    model::{self, Change, Ticks, group_name, lb_state, uid},
    options::{Common, Shape},
    player::{Connection, Gate, Order, Received, Seat, Stage, turn},
    report::{Sample, Unit, latencies, record, sum},
    run::Run,
    workload::{INTERVAL, Progress, Side, fanout::WEIGHT_MAX, open, success},
};

/// Connections that are set up at a time.
const SETTING_UP: usize = 512;

/// Replies that may take as long as `--timeout` says.
const REPLIES_A_WAIT: u64 = 10_000;

/// The message id of every request: no other request may be in progress.
const ID: u32 = 7;

/// Flags that both kinds of requests have.
#[derive(Args, Clone, Debug)]
struct Load {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    shape: Shape,

    /// Requests of each connection that are measured
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000), help_heading = "Requests")]
    requests: u64,

    /// Requests of each connection before those
    #[arg(long, value_name = "N", default_value_t = 20, help_heading = "Requests")]
    warmup: u64,
}

/// Flags of `peers poll`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Poll {
    #[command(flatten)]
    load: Load,
}

/// Flags of `peers state`.
#[derive(Args, Clone, Debug)]
pub(crate) struct State {
    #[command(flatten)]
    load: Load,
}

/// Which kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Poll,
    State,
}

/// The server that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answerer {
    Gwm,
    Redis,
    Floor,
}

impl Contest for Poll {
    const NAME: &'static str = "peers poll";
    const PEERS: &'static [Peer] = &[Peer::Redis];

    fn title(&self) -> String {
        let Shape { lbs, groups, members, .. } = self.load.shape;
        format!("{lbs} connections, Get Weights of {groups} × {members} members beside GET of a value of that size")
    }

    fn parameters(&self) -> Value {
        self.load.parameters()
    }

    fn common(&self) -> &Common {
        &self.load.common
    }

    fn own(&self, side: Side, progress: &Progress) -> Result<Sample> {
        self.load.own(Kind::Poll, side, progress)
    }

    fn peer(&self, _peer: Peer, progress: &Progress) -> Result<Sample> {
        self.load.redis(Kind::Poll, progress)
    }
}

impl Contest for State {
    const NAME: &'static str = "peers state";
    const PEERS: &'static [Peer] = &[Peer::Redis];

    fn title(&self) -> String {
        let lbs = self.load.shape.lbs;
        format!("{lbs} connections, Set Member State of one member beside SET of a value of that size")
    }

    fn parameters(&self) -> Value {
        self.load.parameters()
    }

    fn common(&self) -> &Common {
        &self.load.common
    }

    fn own(&self, side: Side, progress: &Progress) -> Result<Sample> {
        self.load.own(Kind::State, side, progress)
    }

    fn peer(&self, _peer: Peer, progress: &Progress) -> Result<Sample> {
        self.load.redis(Kind::State, progress)
    }
}

/// The parameters of every seat.
#[derive(Clone, Copy)]
struct Plan {
    to: SocketAddr,
    kind: Kind,
    answerer: Answerer,
    shape: Shape,
    change: Change,
    /// Requests of each connection, measured and not.
    rounds: u64,
    warmup: u64,
}

impl Load {
    fn parameters(&self) -> Value {
        let Shape { lbs, groups, members, farms, .. } = self.shape;
        json!({
            "connections": lbs, "groups": groups, "members": members, "farms": farms, "requests": self.requests,
            "warmup": self.warmup, "seed": self.common.seed, "threads": self.common.threads,
        })
    }

    fn change(&self, answerer: Answerer) -> Change {
        let listed = answerer != Answerer::Gwm || self.common.server.lists_members();
        Change { share: 1.0, weight_max: WEIGHT_MAX, seed: self.common.seed, listed }
    }

    fn plan(&self, to: SocketAddr, kind: Kind, answerer: Answerer) -> Plan {
        let change = self.change(answerer);
        let (warmup, rounds) = (self.warmup, self.warmup + self.requests);
        Plan { to, kind, answerer, shape: self.shape, change, rounds, warmup }
    }

    fn own(&self, kind: Kind, side: Side, progress: &Progress) -> Result<Sample> {
        self.shape.check()?;
        let answerer = if side == Side::Floor { Answerer::Floor } else { Answerer::Gwm };
        let change = self.change(answerer);
        let file = change.listed.then(|| Ticks::new(self.shape, change, false).operator_file(0)).transpose()?;
        let (mut subject, crowd) = open(&self.common, side, self.shape, file)?;
        let plan = self.plan(crowd.to, kind, answerer);
        if side == Side::Floor {
            let mut script = Script::new(&plan, 0, &mut Ticks::new(plan.shape, plan.change, false))?;
            subject.tell(floor::Order::Answer, &std::mem::take(&mut script.rounds[0].1))?;
        }
        let pid = subject.pid().ok_or("the CPU of a server at --connect needs --pid")?;
        let sample = self.measure(plan, pid, progress)?;
        subject.stop()?;
        Ok(sample)
    }

    fn redis(&self, kind: Kind, progress: &Progress) -> Result<Sample> {
        self.shape.check()?;
        let host = Host::start(Peer::Redis, &self.common)?;
        let sample = self.measure(self.plan(host.address, kind, Answerer::Redis), host.pid(), progress)?;
        host.stop()?;
        Ok(sample)
    }

    fn measure(&self, plan: Plan, pid: u32, progress: &Progress) -> Result<Sample> {
        let connections = u64::from(plan.shape.lbs);
        let mut run = Run::start(&self.common, progress, Some(pid), 0, move |seat| play(seat, plan))?;
        run.show(0, connections, "set up")?;
        run.player.order(Order::Go);
        run.wait(connections * (1 + plan.warmup), "warm up")?;
        let (meter, begin) = (run.meter()?, run.stage.done());
        let goal = connections * (1 + plan.rounds);
        let mut next = begin;
        while next < goal {
            // Bit by bit: the longest wait is for something to happen, not for all of it.
            next = goal.min(next + connections.max(REPLIES_A_WAIT));
            progress.show("replies", next, goal);
            run.wait(next, "replies")?;
        }
        let metered = meter.end()?;
        let replies = goal - begin;
        let (counted, memory) = run.finish()?;

        let mut sample = Sample::default();
        let first = counted.first().ok_or("no thread has counted")?;
        sample.add("requests", replies as f64, Unit::Count);
        sample.add("bytes per request", first.request_bytes as f64, Unit::Bytes);
        sample.add("bytes per reply", first.reply_bytes as f64, Unit::Bytes);
        sample.add("requests per second", replies as f64 / metered.wall.as_secs_f64(), Unit::PerSecond);
        metered.add_to(&mut sample, "request", replies);
        sample.add_latencies("request to reply", sum(counted.iter().map(|seat| &seat.latency)));
        sample.add_memory(memory);
        Ok(sample)
    }
}

/// The messages of a connection and the replies that it must get: first once, then by turns.
struct Script {
    set_up: Vec<(Vec<u8>, Vec<u8>)>,
    rounds: [(Vec<u8>, Vec<u8>); 2],
}

impl Script {
    fn new(plan: &Plan, lb: u32, ticks: &mut Ticks) -> Result<Script> {
        // The floor sends everyone the first one's bytes.
        let answered = if plan.answerer == Answerer::Floor { 0 } else { lb };
        let sasp = |round: u8, ticks: &mut Ticks| {
            Ok::<_, String>(match plan.kind {
                Kind::Poll => {
                    let mut request = Vec::new();
                    model::get_weights(lb, ID, &mut request);
                    (request, ticks.reply(answered, ID, INTERVAL, None, 0)?.to_vec())
                }
                // Another state each time: one that is there already would be no change.
                Kind::State => (set_state(plan, lb, round + 1), success(ID, ComponentType::SET_MEMBER_STATE_REPLY)),
            })
        };
        let [first, second] = [sasp(0, ticks)?, sasp(1, ticks)?];
        let mut script = Script { set_up: Vec::new(), rounds: [first, second] };
        match plan.answerer {
            Answerer::Floor => {}
            Answerer::Gwm => {
                let mut registration = Vec::new();
                plan.shape.registration(lb, ID, &mut registration);
                let mut state = Vec::new();
                lb_state(lb, ID, LbFlags::NONE, &mut state);
                script.set_up.push((registration, success(ID, ComponentType::REGISTRATION_REPLY)));
                script.set_up.push((state, success(ID, ComponentType::SET_LB_STATE_REPLY)));
            }
            Answerer::Redis => {
                let key = subject(lb);
                let set = |value: &[u8]| {
                    let mut request = Vec::new();
                    command(&[b"SET", key.as_bytes(), value], &mut request);
                    (request, b"+OK\r\n".to_vec())
                };
                let rounds = match plan.kind {
                    Kind::State => [set(&script.rounds[0].0), set(&script.rounds[1].0)],
                    Kind::Poll => {
                        let value = &script.rounds[0].1;
                        script.set_up.push(set(value));
                        let mut get = (Vec::new(), Vec::new());
                        command(&[b"GET", key.as_bytes()], &mut get.0);
                        bulk(value, &mut get.1);
                        [get.clone(), get]
                    }
                };
                script.rounds = rounds;
            }
        }
        Ok(script)
    }
}

/// The load balancer's Set Member State for the member in the middle of its first group.
fn set_state(plan: &Plan, lb: u32, state: u8) -> Vec<u8> {
    let (shape, mut request) = (plan.shape, Vec::new());
    let mut writer = Writer::set_member_state_request(&mut request, ID, SenderFlags::LOAD_BALANCER);
    writer.group(GroupData { lb_uid: &uid(lb), name: group_name(0).as_bytes() });
    let endpoint = shape.endpoint(shape.farm(lb), shape.members / 2);
    writer.entry(&MemberState { member: MemberData { endpoint, label: b"" }, state, flags: MemberFlags::NONE });
    writer.finish().expect("one member fits");
    request
}

/// A seat's counts.
struct Counted {
    latency: Histogram<u64>,
    request_bytes: usize,
    reply_bytes: usize,
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    gate: Gate,
    ticks: RefCell<Ticks>,
    counted: RefCell<Counted>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        plan,
        stage: seat.stage.clone(),
        gate: Gate::new(SETTING_UP / seat.count),
        ticks: RefCell::new(Ticks::new(plan.shape, plan.change, false)),
        counted: RefCell::new(Counted { latency: latencies(), request_bytes: 0, reply_bytes: 0 }),
    });
    let (mut connections, mut tasks) = (Vec::new(), Vec::new());
    for number in seat.share(plan.shape.lbs) {
        local.gate.enter().await;
        let script = Rc::new(Script::new(&plan, number, &mut local.ticks.borrow_mut())?);
        let connection = Rc::new(Connection::open(plan.to, number, &seat.medium)?);
        let (local, ready) = (local.clone(), (connection.clone(), script.clone()));
        tasks.push(
            glommio::spawn_local(async move {
                if let Err(error) = local.set_up(&ready.0, &ready.1).await {
                    local.stage.fail(format!("connection {number}: {error}"));
                }
            })
            .detach(),
        );
        connections.push((number, connection, script));
    }
    for task in tasks.drain(..) {
        task.await;
    }
    loop {
        match seat.order().await {
            Order::Go => {}
            Order::Tick(_) => continue,
            // Only now: the CPU time of an ended thread can not be read.
            Order::Stop => break,
        }
        for (number, connection, script) in &connections {
            let (local, number, connection, script) = (local.clone(), *number, connection.clone(), script.clone());
            tasks.push(
                glommio::spawn_local(async move {
                    if let Err(error) = local.talk(&connection, &script).await {
                        local.stage.fail(format!("connection {number}: {error}"));
                    }
                })
                .detach(),
            );
        }
    }
    connections.iter().for_each(|(_, connection, _)| connection.hang_up());
    for task in tasks {
        task.await;
    }
    let local = Rc::into_inner(local).ok_or("a connection is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    async fn set_up(&self, connection: &Connection, script: &Script) -> Result<()> {
        for (request, reply) in &script.set_up {
            exchange(connection, request, reply).await?;
        }
        if script.set_up.is_empty() {
            let (request, reply) = &script.rounds[0]; // shows that the connection is there
            exchange(connection, request, reply).await?;
        }
        self.gate.leave();
        self.stage.did(1);
        Ok(())
    }

    async fn talk(&self, connection: &Connection, script: &Script) -> Result<()> {
        let [(request, reply), _] = &script.rounds;
        {
            let mut counted = self.counted.borrow_mut();
            (counted.request_bytes, counted.reply_bytes) = (request.len(), reply.len());
        }
        for round in 0..self.plan.rounds {
            let (request, reply) = &script.rounds[(round % 2) as usize];
            let begin = self.stage.now();
            exchange(connection, request, reply).await?;
            if round >= self.plan.warmup {
                record(&mut self.counted.borrow_mut().latency, self.stage.now() - begin);
            }
            self.stage.did(1);
            if round % 16 == 15 {
                turn().await;
            }
        }
        Ok(())
    }
}

/// Sends a request and waits for the last byte of its reply; another byte is an error.
async fn exchange(connection: &Connection, request: &[u8], reply: &[u8]) -> Result<()> {
    connection.send(request).await?;
    let mut rest = reply;
    while !rest.is_empty() {
        let received = connection
            .receive_bytes(|bytes| match rest.split_at_checked(bytes.len()) {
                Some((expected, after)) if expected == bytes => {
                    rest = after;
                    Ok(())
                }
                _ => Err(unexpected(bytes)),
            })
            .await?;
        if received == Received::Closed {
            return Err("closed by the server".into());
        }
    }
    Ok(())
}

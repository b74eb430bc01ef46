//! The fan-out through a peer: a subject for each load balancer, one publisher for each thread of the player.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::Value;

use super::{
    Contest,
    dialect::{Cutter, Dialect, subject, unexpected},
    host::{Host, Peer},
};
use crate::{
    Result,
    model::{Change, Ticks},
    options::{Common, Shape},
    player::{Connection, Gate, Order, Received, Seat, Stage, turn},
    report::{Sample, Unit, latencies, record, sum},
    run::Run,
    workload::{
        Progress, Side, Workload,
        fanout::{ChangeBy, Fanout, WEIGHT_MAX, percent},
    },
};

/// Load balancers that connect and subscribe at a time.
const SETTING_UP: usize = 512;

/// Bytes that the publisher sends at a time.
const PUBLISH_BYTES: usize = 64 << 10;

/// Flags of `peers fanout`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeerFanout {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    shape: Shape,

    /// Peers [default: those that are installed]
    #[arg(long, value_enum, value_delimiter = ',', help_heading = "What is measured")]
    pub(super) peers: Vec<Peer>,

    /// Ticks that are measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Changes")]
    ticks: u64,

    /// Ticks before those
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Changes")]
    warmup: u64,

    /// The part of the members that changes in a tick, in percent, above 0 and up to 100; at least one changes
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0, value_parser = percent, help_heading = "Changes")]
    share: f64,

    /// Each is sent only what changed
    #[arg(long, help_heading = "Load balancers")]
    no_change: bool,
}

impl PeerFanout {
    /// The same work as the GWM does it.
    fn gwm(&self) -> Fanout {
        Fanout {
            common: self.common.clone(),
            shape: self.shape,
            ticks: self.ticks,
            warmup: self.warmup,
            share: self.share,
            change_by: ChangeBy::Operator,
            agent_interval: std::time::Duration::ZERO,
            rate: None,
            no_change: self.no_change,
            own: false,
            admin_load: false,
            agent_checks: None,
        }
    }
}

impl Contest for PeerFanout {
    const NAME: &'static str = "peers fanout";
    const PEERS: &'static [Peer] = &[Peer::Nats, Peer::Redis];

    fn title(&self) -> String {
        self.gwm().title()
    }

    fn parameters(&self) -> Value {
        self.gwm().parameters()
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn own(&self, side: Side, progress: &Progress) -> Result<Sample> {
        self.gwm().run(&self.common, side, progress)
    }

    fn peer(&self, peer: Peer, progress: &Progress) -> Result<Sample> {
        let (shape, common) = (self.shape, &self.common);
        shape.check()?;
        let host = Host::start(peer, common)?;
        let plan = Plan {
            to: host.address,
            dialect: peer.dialect(),
            shape,
            change: Change { share: self.share / 100.0, weight_max: WEIGHT_MAX, seed: common.seed, listed: true },
            no_change: self.no_change,
            warmup: self.warmup,
        };
        let (all, lbs) = (self.warmup + self.ticks, u64::from(shape.lbs));
        let main = move |seat| play(seat, plan.clone());
        let mut run = Run::start(common, progress, Some(host.pid()), all, main)?;
        run.show(0, lbs, "LBs set up")?;
        let mut meter = run.meter()?;
        for tick in 1..=all {
            if tick == self.warmup + 1 {
                meter = run.meter()?;
            }
            run.stage.announce(tick, run.stage.now());
            run.player.order(Order::Tick(tick));
            progress.show("tick", tick, all);
            run.wait(lbs * (tick + 1), "messages of a tick")?;
        }
        let metered = meter.end()?;
        let (counted, memory) = run.finish()?;
        host.stop()?;

        let mut sample = Sample::default();
        let messages: u64 = counted.iter().map(|seat| seat.messages).sum();
        let bytes: u64 = counted.iter().map(|seat| seat.bytes).sum();
        sample.add("messages", messages as f64, Unit::Count);
        sample.add("bytes per message", bytes as f64 / messages.max(1) as f64, Unit::Bytes);
        sample.add("messages per second", messages as f64 / metered.wall.as_secs_f64(), Unit::PerSecond);
        metered.add_to(&mut sample, "message", messages);
        sample.add_latencies("change to receipt", sum(counted.iter().map(|seat| &seat.receipt)));
        sample.add_memory(memory);
        Ok(sample)
    }
}

/// The parameters of every seat.
#[derive(Clone)]
struct Plan {
    to: SocketAddr,
    dialect: Dialect,
    shape: Shape,
    change: Change,
    no_change: bool,
    warmup: u64,
}

/// A seat's counts of the measured ticks.
struct Counted {
    messages: u64,
    bytes: u64,
    receipt: Histogram<u64>,
}

/// A seat's own state.
struct Local {
    plan: Plan,
    stage: Arc<Stage>,
    gate: Gate,
    ticks: RefCell<Ticks>,
    counted: RefCell<Counted>,
    /// The answers of the publisher.
    owed: RefCell<Vec<u8>>,
    /// Where what must arrive is written, to compare.
    expected: RefCell<Vec<u8>>,
}

/// A subscriber.
struct Lb {
    number: u32,
    subject: String,
    connection: Connection,
    /// The tick that it knows; none before it is subscribed.
    knows: Cell<Option<u64>>,
}

async fn play(seat: Seat, plan: Plan) -> Result<Counted> {
    let local = Rc::new(Local {
        stage: seat.stage.clone(),
        gate: Gate::new(SETTING_UP / seat.count),
        ticks: RefCell::new(Ticks::new(plan.shape, plan.change, plan.no_change)),
        counted: RefCell::new(Counted { messages: 0, bytes: 0, receipt: latencies() }),
        owed: RefCell::default(),
        expected: RefCell::default(),
        plan,
    });
    let plan = &local.plan;
    let (mut lbs, mut tasks) = (Vec::new(), Vec::new());
    for number in seat.share(plan.shape.lbs) {
        local.gate.enter().await;
        let connection = Connection::open(plan.to, number, &seat.medium)?;
        let lb = Rc::new(Lb { number, subject: subject(number), connection, knows: Cell::new(None) });
        lbs.push(lb.clone());
        let local = local.clone();
        tasks.push(
            glommio::spawn_local(async move {
                if let Err(error) = local.live(&lb).await {
                    local.stage.fail(format!("LB {}: {error}", lb.number));
                }
            })
            .detach(),
        );
    }
    let publisher = Rc::new(Connection::open(plan.to, plan.shape.lbs + seat.index as u32, &seat.medium)?);
    let mut bytes = Vec::new();
    plan.dialect.publisher(&mut bytes);
    publisher.send(&bytes).await?;
    tasks.push({
        let (local, publisher) = (local.clone(), publisher.clone());
        glommio::spawn_local(async move {
            let published = |message: &[u8]| local.plan.dialect.published(message);
            if let Err(error) = local.listen(&publisher, Some(&local.owed), published).await {
                local.stage.fail(format!("publisher: {error}"));
            }
        })
        .detach()
    });
    loop {
        match seat.order().await {
            Order::Tick(tick) => local.publish(&publisher, &lbs, tick).await?,
            Order::Stop => break,
            Order::Go => {}
        }
    }
    lbs.iter().for_each(|lb| lb.connection.hang_up());
    publisher.hang_up();
    for task in tasks {
        task.await;
    }
    drop(lbs);
    let local = Rc::into_inner(local).ok_or("a load balancer is still at work")?;
    Ok(local.counted.into_inner())
}

impl Local {
    /// A load balancer's life: subscribes, then takes what comes.
    async fn live(&self, lb: &Lb) -> Result<()> {
        let mut bytes = Vec::new();
        self.plan.dialect.subscribe(&lb.subject, &mut bytes);
        lb.connection.send(&bytes).await?;
        self.listen(&lb.connection, None, |message| self.take(lb, message)).await
    }

    /// Hands every message to `take` until the connection ends. Answers the server's questions, or leaves the answers
    /// in `owed` for a task that may be in the middle of sending.
    async fn listen(
        &self,
        connection: &Connection,
        owed: Option<&RefCell<Vec<u8>>>,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut cutter = Cutter::new(self.plan.dialect);
        let mut reads = 0u32;
        loop {
            let mut answer = None;
            let received = connection
                .receive_bytes(|bytes| {
                    cutter.take(bytes, |message| match self.plan.dialect.answer(message) {
                        Some(text) => {
                            answer = Some(text);
                            Ok(())
                        }
                        None => take(message),
                    })
                })
                .await?;
            match (answer, owed) {
                (None, _) => {}
                (Some(text), Some(owed)) => owed.borrow_mut().extend_from_slice(text),
                (Some(text), None) => connection.send(text).await?,
            }
            match received {
                Received::Closed if self.stage.ended() => return Ok(()),
                Received::Closed => return Err("closed by the server".into()),
                Received::Bytes(_) => reads += 1,
            }
            if reads.is_multiple_of(16) {
                turn().await;
            }
        }
    }

    /// Takes a message: every byte of it is checked, and that it is the next one.
    fn take(&self, lb: &Lb, message: &[u8]) -> Result<()> {
        let Some(at) = lb.knows.get() else {
            if self.plan.dialect.subscribed(&lb.subject, message)? {
                lb.knows.set(Some(0));
                self.gate.leave();
                self.stage.did(1);
            }
            return Ok(());
        };
        let tick = at + 1;
        let mut ticks = self.ticks.borrow_mut();
        let payload = ticks.push(lb.number, Some(at), tick)?.ok_or("a tick without a change")?;
        let mut expected = self.expected.borrow_mut();
        expected.clear();
        self.plan.dialect.delivery(&lb.subject, payload, &mut expected);
        if message != *expected || tick > self.stage.tick() {
            return Err(format!("tick {tick}: {}", unexpected(message)));
        }
        lb.knows.set(Some(tick));
        if tick > self.plan.warmup {
            let mut counted = self.counted.borrow_mut();
            counted.messages += 1;
            counted.bytes += payload.len() as u64;
            let latency = self.stage.now().saturating_sub(self.stage.due(tick));
            record(&mut counted.receipt, latency);
        }
        self.stage.did(1);
        Ok(())
    }

    /// Publishes a tick's messages, one for each load balancer of this seat.
    async fn publish(&self, publisher: &Connection, lbs: &[Rc<Lb>], tick: u64) -> Result<()> {
        let mut bytes = Vec::with_capacity(2 * PUBLISH_BYTES);
        for (place, lb) in lbs.iter().enumerate() {
            {
                let mut ticks = self.ticks.borrow_mut();
                let payload = ticks.push(lb.number, Some(tick - 1), tick)?.ok_or("a tick without a change")?;
                self.plan.dialect.publish(&lb.subject, payload, &mut bytes);
            }
            if bytes.len() >= PUBLISH_BYTES || place + 1 == lbs.len() {
                bytes.append(&mut self.owed.borrow_mut());
                publisher.send(&bytes).await?;
                bytes.clear();
                turn().await;
            }
        }
        Ok(())
    }
}

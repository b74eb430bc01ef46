//! The load balancers of a run, as a seat plays them: how they join, listen and leave.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    rc::Rc,
};

use gwm::sasp::{GroupData, LbFlags, Reason, SenderFlags, Writer};

use crate::{
    Result,
    actor::{Actor, Incoming, expect_success, sort},
    model::{lb_state, uid},
    options::{Common, Shape},
    player::{Gate, Received, Seat, Stage, turn},
    subject::Subject,
    workload::Side,
};

/// The default number of load balancers that connect and register at a time.
pub(crate) const JOINING: usize = 512;

/// The ids of the requests with which a load balancer leaves: no more pushes, no more groups.
const QUIET: u32 = u32::MAX - 1;
const LEAVING: u32 = u32::MAX;

/// Reads of a load balancer before the others have their turn.
const READS: u32 = 16;

/// The server of the load balancers of a run, and their registrations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) to: SocketAddr,
    pub(crate) shape: Shape,
    pub(crate) side: Side,
    /// The server continues after the run: leave nothing behind.
    stays: bool,
}

/// One load balancer; `T` is its state.
pub(crate) struct Lb<T> {
    pub(crate) number: u32,
    pub(crate) actor: Actor,
    pub(crate) knows: RefCell<T>,
    gone: Cell<bool>,
}

/// The load balancers of one seat.
pub(crate) struct Members<T> {
    pub(crate) lbs: Vec<Rc<Lb<T>>>,
    tasks: Vec<glommio::task::JoinHandle<()>>,
}

impl Crowd {
    pub(crate) fn new(subject: &Subject, common: &Common, shape: Shape, side: Side) -> Crowd {
        let stays = side == Side::Server && common.server.connect.is_some();
        Crowd { to: subject.address, shape, side, stays }
    }

    /// Lets this seat's load balancers live, each by `live`, of which at most `at_once` have not opened the gate
    /// behind them yet. An error of a load balancer ends the run.
    pub(crate) async fn gather<T: 'static, F: Future<Output = Result<()>> + 'static>(
        self,
        seat: &Seat,
        at_once: usize,
        knows: impl Fn(u32) -> T,
        live: impl Fn(Rc<Lb<T>>, Rc<Gate>) -> F,
    ) -> Result<Members<T>> {
        let gate = Rc::new(Gate::new(at_once / seat.count));
        let mut members = Members { lbs: Vec::new(), tasks: Vec::new() };
        for number in seat.share(self.shape.lbs).map(|number| self.shape.first_lb + number) {
            gate.enter().await;
            let actor = Actor::open(self.to, number, &seat.medium)?;
            let lb = Rc::new(Lb { number, actor, knows: RefCell::new(knows(number)), gone: Cell::new(false) });
            members.lbs.push(lb.clone());
            let (life, stage) = (live(lb, gate.clone()), seat.stage.clone());
            let task = glommio::spawn_local(async move {
                if let Err(error) = life.await {
                    stage.fail(format!("LB {number}: {error}"));
                }
            });
            members.tasks.push(task.detach());
        }
        Ok(members)
    }

    /// Registers all groups, then sets the load balancer's state; the floor is only shown the latter, so that the
    /// connection is known to be accepted. Pushes that come meanwhile go to `push`.
    pub(crate) async fn join<T>(
        &self,
        lb: &Lb<T>,
        flags: LbFlags,
        mut push: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if self.side == Side::Server {
            self.register(lb, &mut push).await?;
        }
        self.set_state(lb, flags, push).await
    }

    /// Registers all groups.
    pub(crate) async fn register<T>(&self, lb: &Lb<T>, push: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        register(&lb.actor, &self.shape, lb.number, push).await
    }

    /// Sets the load balancer's state.
    pub(crate) async fn set_state<T>(
        &self,
        lb: &Lb<T>,
        flags: LbFlags,
        push: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        bind(&lb.actor, lb.number, flags, push).await
    }

    /// Takes pushes until the run ends.
    pub(crate) async fn listen<T>(
        &self,
        stage: &Stage,
        lb: &Lb<T>,
        mut push: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut reads = 0u32;
        loop {
            let received = lb
                .actor
                .connection
                .receive(|frame| match sort(frame)? {
                    Incoming::Push(_) if stage.ended() => Ok(()),
                    Incoming::Push(frame) => push(frame),
                    Incoming::Reply(id @ (QUIET | LEAVING), kind, frame) if stage.ended() => {
                        lb.gone.set(id == LEAVING);
                        expect_success(id, kind, frame)
                    }
                    Incoming::Reply(id, kind, _) => Err(format!("{kind} {id}, which nobody asked for")),
                })
                .await?;
            if lb.gone.get() {
                lb.actor.connection.hang_up();
                return Ok(());
            }
            match received {
                Received::Closed if stage.ended() => return Ok(()),
                Received::Closed => return Err("closed by the server".into()),
                Received::Bytes(_) => reads += 1,
            }
            if reads.is_multiple_of(READS) {
                turn().await;
            }
        }
    }

    /// Lets the listening load balancers leave. A server that continues would hold them for its hold time, so they switch
    /// push off and remove their groups.
    pub(crate) async fn leave<T>(&self, members: Members<T>) -> Result<()> {
        for lb in &members.lbs {
            if self.stays {
                let mut request = Vec::new();
                lb_state(lb.number, QUIET, LbFlags::NONE, &mut request);
                request.extend_from_slice(&deregistration(lb.number));
                lb.actor.connection.send(&request).await?;
            } else {
                lb.actor.connection.hang_up();
            }
        }
        for task in members.tasks {
            task.await;
        }
        Ok(())
    }

    /// Like [`Crowd::leave`], for load balancers that do not listen.
    pub(crate) async fn leave_unheard<T>(&self, members: Members<T>) -> Result<()> {
        for task in members.tasks {
            task.await;
        }
        for lb in &members.lbs {
            if self.stays {
                lb.actor.ask(&deregistration(lb.number), |_| Ok(())).await?;
            }
            lb.actor.connection.hang_up();
        }
        Ok(())
    }
}

/// Registers all groups of a load balancer.
pub(crate) async fn register(
    actor: &Actor,
    shape: &Shape,
    number: u32,
    push: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut request = Vec::new();
    shape.registration(number, actor.id(), &mut request);
    actor.ask(&request, push).await
}

/// Sets a load balancer's state, which binds the connection.
pub(crate) async fn bind(
    actor: &Actor,
    number: u32,
    flags: LbFlags,
    push: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut request = Vec::new();
    lb_state(number, actor.id(), flags, &mut request);
    actor.ask(&request, push).await
}

/// A request that removes everything of the load balancer.
fn deregistration(lb: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer =
        Writer::deregistration_request(&mut bytes, LEAVING, SenderFlags::LOAD_BALANCER, Reason::PURPOSEFUL);
    writer.group(GroupData { lb_uid: &uid(lb), name: b"" });
    writer.finish().expect("a UID of 9 bytes fits");
    bytes
}

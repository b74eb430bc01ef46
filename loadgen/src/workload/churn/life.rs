//! One load balancer's life: its connections, its events, and what it must be told.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use gwm::sasp::{
    ComponentType, GroupData, Header, LbFlags, MemberData, MemberFlags, MemberState, Reason, SenderFlags, Writer,
};

use super::{super::fanout::WEIGHT_MAX, EVENTS, Event, Local};
use crate::{
    Result,
    actor::{Actor, Incoming, expect_success, sort},
    model::{Groups, Membership, Tables, get_weights, group_name, lb_state, uid},
    player::{Gate, Received, sleep},
    run::OVER,
};

/// How often a waiting task looks for a reply or a push without a call.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// How often a load balancer looks whether the run is over, or the server was killed.
const GLANCE: Duration = Duration::from_millis(250);

/// A load balancer's connection, and the task that reads it.
struct Line {
    actor: Actor,
    /// The id of the request in progress, and the check of its reply.
    waiting: Cell<Option<u32>>,
    verdict: RefCell<Option<Result<()>>>,
    /// Its end is nothing to be surprised at.
    may_end: Cell<bool>,
    ended: Cell<bool>,
}

/// A load balancer's life in this run.
pub(super) struct Life {
    pub(super) local: Rc<Local>,
    pub(super) lb: u32,
    pub(super) tables: Rc<RefCell<Tables>>,
    /// The tables after the last change that was acknowledged.
    pub(super) acknowledged: RefCell<Rc<Groups>>,
    /// How many kills of the server have been seen.
    pub(super) kills: u64,
    line: Option<Rc<Line>>,
    /// The connection that speaks for members, while there is one: it is opened when there is something to say.
    member: Option<Actor>,
    random: fastrand::Rng,
    next_connection: u32,
}

/// A load balancer's life: joins, has its events, is checked, leaves.
pub(super) async fn live(local: Rc<Local>, lb: u32, gate: &Gate) -> Result<()> {
    let shape = local.plan.shape;
    let stage = local.seat.stage.clone();
    let random = fastrand::Rng::with_seed(local.plan.seed ^ (u64::from(lb) << 20));
    let tables = Rc::new(RefCell::new(Tables::new(lb, shape, WEIGHT_MAX, local.plan.no_change)));
    let acknowledged = RefCell::new(tables.borrow().now());
    let mut life = Life {
        local: local.clone(),
        lb,
        acknowledged,
        tables,
        kills: 0,
        line: None,
        member: None,
        random,
        next_connection: lb,
    };
    life.connect().await?;
    life.register_anew().await?;
    gate.leave();
    stage.did(1);
    while !local.begun.get() && !stage.ended() {
        sleep(GLANCE).await;
    }
    // Each load balancer has its part of the events, at random times.
    let rate = local.plan.rates.iter().sum::<f64>() / f64::from(shape.lbs);
    let mut due = stage.now();
    loop {
        due += (-(1.0 - life.random.f64()).ln() / rate * 1e9) as u64;
        // The clock is read once a turn, so several events may be due at one reading.
        loop {
            let early = due.saturating_sub(stage.now());
            if early == 0 || stage.tick() == OVER || life.was_killed() {
                break;
            }
            sleep(Duration::from_nanos(early).min(GLANCE)).await;
        }
        if stage.ended() {
            break;
        }
        if life.was_killed() {
            life.recover().await?;
            due = stage.now();
        }
        if stage.tick() == OVER {
            break;
        }
        let event = life.draw();
        match life.have(event).await {
            Err(error) if !life.was_killed() => return Err(format!("{event:?}: {error}")),
            _ => {}
        }
    }
    life.settle().await.map_err(|error| format!("in the end: {error}"))?;
    stage.did(1);
    while !stage.ended() {
        sleep(GLANCE).await;
    }
    if local.plan.stays {
        life.change_all(Vec::new(), Reason::PURPOSEFUL).await?;
        life.set_flags(LbFlags::NONE).await?;
    }
    life.hang_up().await;
    if let Some(member) = life.member {
        member.connection.hang_up();
    }
    Ok(())
}

impl Life {
    fn draw(&mut self) -> Event {
        let rates = self.local.plan.rates;
        let mut left = self.random.f64() * rates.iter().sum::<f64>();
        for ((event, _), rate) in EVENTS.iter().zip(rates) {
            left -= rate;
            if left < 0.0 {
                return *event;
            }
        }
        Event::State
    }

    async fn have(&mut self, event: Event) -> Result<()> {
        match event {
            Event::MemberComesOrGoes => self.come_or_go(false).await?,
            Event::LbChangesMember => self.come_or_go(true).await?,
            Event::State => self.set_state().await?,
            Event::MemberCrash => {
                if let Some(member) = self.member.take() {
                    member.connection.crash()?;
                }
            }
            Event::LbCrash => {
                let line = self.line.take().ok_or("not connected")?;
                line.may_end.set(true);
                line.actor.connection.crash()?;
                // Members go on meanwhile.
                for _ in 0..self.random.u32(..4) {
                    self.come_or_go(false).await?;
                }
                self.connect().await?;
            }
            Event::LbRestart => {
                self.change_all(Vec::new(), Reason::PURPOSEFUL).await?;
                self.hang_up().await;
                self.connect().await?;
                self.register_anew().await?;
            }
            Event::Takeover => {
                let old = self.line.take().ok_or("not connected")?;
                old.may_end.set(true);
                self.connect().await?;
                // The server closes the old one.
                self.until(|| old.ended.get(), "the older connection's end").await?;
            }
        }
        let at = EVENTS.iter().position(|(of, _)| *of == event).expect("every event is listed");
        self.local.counted.borrow_mut().events[at] += 1;
        Ok(())
    }

    pub(super) fn open(&mut self) -> Result<Actor> {
        self.next_connection = self.next_connection.wrapping_add(self.local.plan.shape.lbs);
        // The number only chooses the source address: spread over those that all load balancers use.
        let number = self.next_connection % (4 * self.local.plan.shape.lbs).max(1);
        Actor::open(self.local.plan.to, number, &self.local.seat.medium)
    }

    /// The connection that speaks for members is gone.
    pub(super) fn forget_member(&mut self) {
        self.member = None;
    }

    /// The connection that speaks for members.
    fn member(&mut self) -> Result<&Actor> {
        if self.member.is_none() {
            self.member = Some(self.open()?);
        }
        self.member.as_ref().ok_or_else(|| "not connected".into())
    }

    /// A new connection, bound by Set LB State, and read from now on.
    pub(super) async fn connect(&mut self) -> Result<()> {
        let line = Rc::new(Line {
            actor: self.open()?,
            waiting: Cell::new(None),
            verdict: RefCell::default(),
            may_end: Cell::new(false),
            ended: Cell::new(false),
        });
        self.tables.borrow_mut().reconnect();
        let (local, tables, reader, lb) = (self.local.clone(), self.tables.clone(), line.clone(), self.lb);
        let kills = self.kills;
        glommio::spawn_local(async move {
            let result = reader.read(&local, &tables).await;
            reader.ended.set(true);
            if let Err(error) = result
                && !reader.may_end.get()
                && !local.seat.stage.ended()
                && !local.plan.kills.are_more_than(kills)
            {
                local.seat.stage.fail(format!("LB {lb}: {error}"));
            }
        })
        .detach();
        self.line = Some(line);
        let no_change = self.local.plan.no_change;
        self.set_flags((LbFlags::PUSH | LbFlags::TRUST).with(LbFlags::NO_CHANGE_NO_SEND, no_change)).await
    }

    async fn set_flags(&self, flags: LbFlags) -> Result<()> {
        let (mut request, id) = (Vec::new(), self.id());
        lb_state(self.lb, id, flags, &mut request);
        self.ask_as_lb(&request).await
    }

    fn id(&self) -> u32 {
        self.line.as_ref().map_or(1, |line| line.actor.id())
    }

    /// Registers new groups with some of their possible members.
    pub(super) async fn register_anew(&mut self) -> Result<()> {
        let shape = self.local.plan.shape;
        let mut groups: Groups = Vec::new();
        for group in 0..shape.groups {
            let members = (group * shape.members..(group + 1) * shape.members).filter(|_| self.random.bool());
            let new = |member| Membership { member, state: 0, quiesced: false, by_lb: true };
            groups.push((group, members.map(new).collect()));
        }
        let (mut request, uid) = (Vec::new(), uid(self.lb));
        let mut writer = Writer::registration_request(&mut request, self.id(), SenderFlags::LOAD_BALANCER);
        for (group, members) in &groups {
            writer.group(GroupData { lb_uid: &uid, name: group_name(*group).as_bytes() });
            for membership in members {
                writer.entry(&self.member_data(membership.member));
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
        self.tables.borrow_mut().change(groups, true);
        self.ask_as_lb(&request).await
    }

    fn member_data(&self, member: u32) -> MemberData<'static> {
        let shape = &self.local.plan.shape;
        MemberData { endpoint: shape.endpoint(shape.farm(self.lb), member), label: b"" }
    }

    /// A member registers or, if it is in its group, deregisters.
    async fn come_or_go(&mut self, by_lb: bool) -> Result<()> {
        let shape = self.local.plan.shape;
        let member = self.random.u32(..shape.farm_members());
        let number = member / shape.members;
        let mut groups = Groups::clone(&self.tables.borrow().now());
        let Some((_, members)) = groups.iter_mut().find(|(group, _)| *group == number) else { return Ok(()) };
        let flags = SenderFlags::NONE.with(SenderFlags::LOAD_BALANCER, by_lb);
        let id = if by_lb { self.id() } else { self.member()?.id() };
        let mut request = Vec::new();
        let there = members.iter().position(|membership| membership.member == member);
        let mut writer = match there {
            Some(_) => Writer::deregistration_request(&mut request, id, flags, Reason::PURPOSEFUL),
            None => Writer::registration_request(&mut request, id, flags),
        };
        writer.group(GroupData { lb_uid: &uid(self.lb), name: group_name(number).as_bytes() });
        writer.entry(&self.member_data(member));
        writer.finish().expect("one group and one member fit");
        match there {
            Some(at) => {
                members.remove(at);
            }
            None => members.push(Membership { member, state: 0, quiesced: false, by_lb }),
        }
        self.tables.borrow_mut().change(groups, by_lb);
        self.ask(&request, by_lb).await
    }

    /// A member's state and quiesce change, by itself or by its load balancer.
    async fn set_state(&mut self) -> Result<()> {
        let by_lb = self.random.bool();
        let mut groups = Groups::clone(&self.tables.borrow().now());
        let mut all: Vec<(u32, &mut Membership)> =
            groups.iter_mut().flat_map(|(group, members)| members.iter_mut().map(|member| (*group, member))).collect();
        if all.is_empty() {
            return Ok(());
        }
        let chosen = self.random.usize(..all.len());
        let (group, membership) = &mut all[chosen];
        membership.state = self.random.u8(..);
        membership.quiesced = self.random.u8(..8) == 0;
        let flags = SenderFlags::NONE.with(SenderFlags::LOAD_BALANCER, by_lb);
        let id = if by_lb { self.id() } else { self.member()?.id() };
        let mut request = Vec::new();
        let mut writer = Writer::set_member_state_request(&mut request, id, flags);
        writer.group(GroupData { lb_uid: &uid(self.lb), name: group_name(*group).as_bytes() });
        let flags = MemberFlags::NONE.with(MemberFlags::QUIESCE, membership.quiesced);
        writer.entry(&MemberState { member: self.member_data(membership.member), state: membership.state, flags });
        writer.finish().expect("one group and one member fit");
        self.tables.borrow_mut().change(groups, by_lb);
        self.ask(&request, by_lb).await
    }

    /// Removes all groups.
    async fn change_all(&mut self, groups: Groups, reason: Reason) -> Result<()> {
        let mut request = Vec::new();
        let mut writer = Writer::deregistration_request(&mut request, self.id(), SenderFlags::LOAD_BALANCER, reason);
        writer.group(GroupData { lb_uid: &uid(self.lb), name: b"" });
        writer.finish().expect("a UID of 9 bytes fits");
        self.tables.borrow_mut().change(groups, true);
        self.ask_as_lb(&request).await
    }

    async fn ask(&mut self, request: &[u8], by_lb: bool) -> Result<()> {
        if by_lb {
            return self.ask_as_lb(request).await;
        }
        self.local.counted.borrow_mut().replies += 1;
        self.member()?.ask(request, |_| Err("a push to a member".into())).await?;
        self.acknowledge();
        Ok(())
    }

    /// What has changed is acknowledged.
    fn acknowledge(&self) {
        *self.acknowledged.borrow_mut() = self.tables.borrow().now();
    }

    /// Sends a request of the load balancer's; the task that reads its connection sees the reply.
    async fn ask_as_lb(&self, request: &[u8]) -> Result<()> {
        let line = self.line.clone().ok_or("not connected")?;
        let (header, _) = Header::read(request).map_err(|error| error.to_string())?;
        line.waiting.set(Some(header.id));
        line.actor.connection.send(request).await?;
        self.until(|| line.verdict.borrow().is_some(), "a reply").await?;
        self.local.counted.borrow_mut().replies += 1;
        line.verdict.take().unwrap_or(Ok(()))?;
        self.acknowledge();
        Ok(())
    }

    /// Checks that every push has come and that Get Weights agrees with the model.
    async fn settle(&mut self) -> Result<()> {
        let tables = self.tables.clone();
        self.until(|| tables.borrow().complete(), "the last push").await?;
        self.get_weights().await?;
        if tables.borrow().no_change() {
            // That listed nothing: once more, with everything.
            tables.borrow_mut().end_no_change();
            self.set_flags(LbFlags::PUSH | LbFlags::TRUST).await?;
            self.get_weights().await?;
        }
        Ok(())
    }

    async fn get_weights(&self) -> Result<()> {
        let (mut request, id) = (Vec::new(), self.id());
        get_weights(self.lb, id, &mut request);
        self.ask_as_lb(&request).await
    }

    pub(super) async fn hang_up(&mut self) {
        if let Some(line) = self.line.take() {
            line.may_end.set(true);
            line.actor.connection.hang_up();
        }
    }

    /// Waits for what another task sees; the conductor's patience ends it.
    async fn until(&self, condition: impl Fn() -> bool, what: &str) -> Result<()> {
        while !condition() {
            if self.local.seat.stage.ended() && !self.local.plan.stays {
                return Err(format!("{what} is missing"));
            }
            if self.was_killed() {
                return Err("the server was killed".into());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Line {
    /// Reads until the end; every push is checked, and every reply.
    async fn read(&self, local: &Local, tables: &RefCell<Tables>) -> Result<()> {
        loop {
            let received = self.actor.connection.receive(|frame| match sort(frame)? {
                // A message on a given-up connection may be older than the messages on its successor.
                Incoming::Push(_) if self.may_end.get() => Ok(()),
                Incoming::Push(frame) => {
                    local.counted.borrow_mut().pushes += 1;
                    tables.borrow_mut().push(frame)
                }
                Incoming::Reply(id, kind, frame) => {
                    if self.waiting.take() != Some(id) {
                        return Err(format!("{kind} {id}, which nobody asked for"));
                    }
                    let verdict = match kind {
                        ComponentType::GET_WEIGHTS_REPLY => {
                            let said = frame.get(18..20).map_or(0, |said| u16::from_be_bytes([said[0], said[1]]));
                            tables.borrow().reply(id, local.plan.interval.unwrap_or(said), frame)
                        }
                        _ => expect_success(id, kind, frame),
                    };
                    *self.verdict.borrow_mut() = Some(verdict);
                    Ok(())
                }
            });
            if received.await? == Received::Closed {
                return Err("closed by the server".into());
            }
        }
    }
}

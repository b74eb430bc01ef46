//! The server is killed, and started again on its state on disk: each load balancer must find what was acknowledged.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::{
    Counted, OVER,
    life::{LOOK, Life},
};
use crate::{
    Result,
    actor::{Incoming, sort},
    model::get_weights,
    player::{Received, sleep},
    run::{MEASURED, Metered, Run},
    subject::Subject,
};

/// What the conductor tells of kills.
#[derive(Default)]
pub(super) struct Kills {
    /// How often the server was killed.
    made: AtomicU64,
    /// How often it was started again since.
    mended: AtomicU64,
}

impl Kills {
    /// Whether the server was killed more often.
    pub(super) fn are_more_than(&self, kills: u64) -> bool {
        self.made.load(Ordering::Acquire) > kills
    }

    /// Kills the server so often, at random moments of the time, and waits after each start until all load balancers have
    /// found their tables. Gives the longest start, too.
    pub(super) fn measure(
        &self,
        run: &Run<'_, Counted>,
        subject: &mut Subject,
        (count, duration): (u32, Duration),
        lbs: u64,
    ) -> Result<(Metered, Duration)> {
        let mut random = fastrand::Rng::with_seed(run.common.seed);
        let meter = run.meter()?;
        let mut longest = Duration::ZERO;
        run.stage.announce(MEASURED, run.stage.now());
        for number in 1..=u64::from(count) {
            run.stage.pass((duration / count).mul_f64(2.0 * random.f64()), |_| {})?;
            let done = run.stage.done();
            // Told first: whatever fails from now on may fail because of the kill.
            self.made.store(number, Ordering::Release);
            let begin = Instant::now();
            subject.crash()?;
            longest = longest.max(begin.elapsed());
            self.mended.store(number, Ordering::Release);
            run.show(done, lbs, &format!("LBs with their tables after kill {number} of {count}"))?;
        }
        run.stage.announce(OVER, run.stage.now());
        Ok((meter.end()?, longest))
    }
}

impl Life {
    /// Whether the server was killed since this load balancer looked.
    pub(super) fn was_killed(&self) -> bool {
        self.local.plan.kills.are_more_than(self.kills)
    }

    /// Comes back after a kill: the tables must be those that were acknowledged, or those after the change that was under
    /// way. No other kill comes before all load balancers have come back.
    pub(super) async fn recover(&mut self) -> Result<()> {
        self.hang_up().await;
        let (kills, stage) = (self.local.plan.kills.clone(), self.local.seat.stage.clone());
        self.kills = kills.made.load(Ordering::Acquire);
        while kills.mended.load(Ordering::Acquire) < self.kills {
            if stage.ended() {
                return Err("the server is not there any more".into());
            }
            sleep(LOOK).await;
        }
        self.find_tables().await.map_err(|error| format!("after kill {}: {error}", self.kills))?;
        self.connect().await?;
        if self.tables.borrow().now().is_empty() {
            self.register_anew().await?;
        }
        stage.did(1);
        Ok(())
    }

    /// Asks for all weights on a connection of its own, and compares every byte.
    async fn find_tables(&mut self) -> Result<()> {
        self.forget_member();
        let actor = self.open()?;
        let (mut request, id) = (Vec::new(), actor.id());
        get_weights(self.lb, id, &mut request);
        actor.connection.send(&request).await?;
        let done = Cell::new(false);
        while !done.get() {
            let received = actor.connection.receive(|frame| match sort(frame)? {
                Incoming::Push(_) => Ok(()), // push is kept, too: the reply counts
                Incoming::Reply(..) if done.replace(true) => Err("a second reply".into()),
                Incoming::Reply(_, _, frame) => {
                    let interval = self.local.plan.interval.unwrap_or_default();
                    let kept = self.tables.borrow_mut().find(&self.acknowledged.borrow(), id, interval, frame)?;
                    let mut counted = self.local.counted.borrow_mut();
                    counted.found += 1;
                    counted.lost += u64::from(!kept);
                    Ok(())
                }
            });
            if received.await? == Received::Closed {
                return Err("closed by the server".into());
            }
        }
        *self.acknowledged.borrow_mut() = self.tables.borrow().now();
        actor.connection.hang_up();
        Ok(())
    }
}

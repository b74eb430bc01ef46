//! One load balancer: its connection, flags and groups, and the state of its next push.

use std::time::Duration;

use super::ids::{ConnectionId, GroupId};
use crate::{
    sasp::{Health, LbFlags},
    time::Time,
};

/// What a load balancer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Timer {
    /// The end of the push window.
    Window,
    /// The next full refresh.
    Refresh,
    /// The end of the hold time.
    Hold,
}

/// A deadline that moves later or away only. So one queued entry is enough: an entry that is popped too early is queued
/// again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadline {
    pub(super) at: Option<Time>,
    pub(super) queued: bool,
}

/// How often connections have taken the load balancer from each other lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Takeovers {
    since: Time,
    count: u32,
}

impl Takeovers {
    /// A load balancer that reconnects after a fault takes itself over once or twice.
    const MANY: u32 = 3;
    const WINDOW: Duration = Duration::from_secs(60);

    /// Notes a takeover; true once in a window if there are many.
    pub(super) fn note(&mut self, now: Time) -> bool {
        if now >= self.since + Takeovers::WINDOW {
            *self = Takeovers { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count == Takeovers::MANY
    }
}

pub(super) struct LoadBalancer {
    pub(super) uid: Box<[u8]>,
    /// The number of this load balancer: from 1, in the order of creation. Never used again; ids are.
    pub(super) serial: u64,
    pub(super) connection: Option<ConnectionId>,
    /// The node of the fleet that has its connection, if another one has.
    pub(super) elsewhere: Option<Box<str>>,
    pub(super) takeovers: Takeovers,
    /// When the connection was bound, and when the last push to it was made.
    pub(super) bound_at: Time,
    pub(super) pushed_at: Option<Time>,
    /// When the first change came that the next push has.
    pub(super) changed_at: Option<Time>,
    /// Shown to people only.
    pub(super) health: Health,
    pub(super) flags: LbFlags,
    /// In the order of registration; in a fleet, in that of their names.
    pub(super) groups: Vec<GroupId>,
    /// Groups that members removed and the LB has yet to hear of.
    pub(super) ghosts: Vec<GroupId>,
    /// Number of members and farewells in all its groups.
    pub(super) held: u32,
    /// Groups in which something may have changed since the last push; [`super::group::Group::queued`].
    pub(super) changed: Vec<GroupId>,
    /// The next push lists every group.
    pub(super) all: bool,
    /// A push waits for the message in flight to be delivered or for room in the shard's batches.
    pub(super) due: bool,
    /// The shard's list of due LBs has it with its present connection.
    pub(super) ready: bool,
    pub(super) deadlines: [Deadline; 3],
}

impl LoadBalancer {
    pub(super) fn new(uid: &[u8], serial: u64) -> LoadBalancer {
        LoadBalancer {
            uid: uid.into(),
            serial,
            connection: None,
            elsewhere: None,
            takeovers: Takeovers::default(),
            bound_at: Time::default(),
            pushed_at: None,
            changed_at: None,
            health: Health::default(),
            flags: LbFlags::NONE,
            groups: Vec::new(),
            ghosts: Vec::new(),
            held: 0,
            changed: Vec::new(),
            all: false,
            due: false,
            ready: false,
            deadlines: Default::default(),
        }
    }

    /// Whether the LB has a connection, to this GWM or to another one of the fleet.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some() || self.elsewhere.is_some()
    }

    /// Whether changes are pushed: the LB asked for that and is connected to this GWM.
    pub(super) fn pushing(&self) -> bool {
        self.connection.is_some() && self.flags.contains(LbFlags::PUSH)
    }

    /// The first time after `after` at this load balancer's point of the period; periods are counted from time zero.
    ///
    /// Each load balancer has its own point, so load balancers that come at once are not refreshed at once. The bits of the
    /// serial number, reversed, are the point: each new point halves a gap between the points before.
    pub(super) fn next_refresh(&self, after: Time, period: Duration) -> Time {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
        let part = (self.serial - 1).reverse_bits();
        let point = ((u128::from(period) * u128::from(part)) >> 64) as u64;
        let past = (after.0 % period + period - point) % period; // since the last time at this point
        Time(after.0.saturating_add(period - past))
    }

    /// Whether messages list changes only.
    pub(super) fn delta(&self) -> bool {
        self.flags.contains(LbFlags::NO_CHANGE_NO_SEND)
    }

    pub(super) fn deadline(&mut self, timer: Timer) -> &mut Deadline {
        &mut self.deadlines[timer as usize]
    }
}

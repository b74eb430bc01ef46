//! One load balancer: its connection, what it asked for, its groups, and where its next push stands.

use super::{
    Time,
    ids::{ConnectionId, GroupId},
};
use crate::sasp::{Health, LbFlags};

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

/// A deadline that only ever moves later or away, so that one queued entry serves it: whoever pops the entry
/// too early queues it again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadline {
    pub(super) at: Option<Time>,
    pub(super) queued: bool,
}

pub(super) struct LoadBalancer {
    pub(super) uid: Box<[u8]>,
    /// Never used again for another load balancer, as its id may be.
    pub(super) serial: u64,
    pub(super) connection: Option<ConnectionId>,
    /// Grows with every connection that is bound.
    pub(super) epoch: u32,
    /// Kept for people to look at.
    pub(super) health: Health,
    pub(super) flags: LbFlags,
    /// In the order of their registration.
    pub(super) groups: Vec<GroupId>,
    /// Groups that members removed whole and that the LB has yet to hear of.
    pub(super) ghosts: Vec<GroupId>,
    /// Members and farewells of all its groups.
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
            epoch: 0,
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

    /// Whether changes are to be pushed: it asked for that and is there.
    pub(super) fn pushing(&self) -> bool {
        self.connection.is_some() && self.flags.contains(LbFlags::PUSH)
    }

    /// Whether only what has changed is sent.
    pub(super) fn delta(&self) -> bool {
        self.flags.contains(LbFlags::NO_CHANGE_NO_SEND)
    }

    pub(super) fn deadline(&mut self, timer: Timer) -> &mut Deadline {
        &mut self.deadlines[timer as usize]
    }
}

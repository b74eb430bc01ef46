//! Watched members: their settings and verdicts.

use std::{sync::Arc, time::Duration};

use gwm::{
    coordinator::Settings,
    judgement::{Level, Policy, Share, Verdict},
    roster::{Member, Monitor, Roster, Times},
    sasp::EntryFlags,
};

use super::rig::{Peer, Rig, WINDOW, settings};
use crate::wire::endpoint;

/// The fall window is 40.
pub(crate) const TIMES: Times = Times {
    interval: Duration::from_nanos(20),
    fast_interval: Duration::from_nanos(5),
    timeout: Duration::from_nanos(10),
    rise: 2,
    fall: 3,
};
pub(crate) const FALL_WINDOW: u64 = 40;

pub(crate) fn watched(capacity: u16) -> Member {
    Member::watched(capacity, Monitor::auto(), TIMES)
}

/// All members are watched, except these.
pub(crate) fn roster(others: &[(&str, Member)]) -> Roster {
    let mut roster = Roster::new(watched(100), Policy::Auto);
    for (name, member) in others {
        assert!(roster.add(endpoint(name), member.clone()));
    }
    roster
}

pub(crate) fn with(roster: Roster) -> Settings {
    Settings { roster: Arc::new(roster), ..settings() }
}

/// A push LB that has been sent these members of its group `G`.
pub(crate) fn told(settings: Settings, members: &str) -> (Rig, Peer) {
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "push");
    rig.ok(lb, &format!("lb register LB1/G {members}"));
    assert_eq!(rig.after(WINDOW).len(), 1);
    rig.take_orders();
    (rig, lb)
}

pub(crate) fn up(share: Share) -> Verdict {
    Verdict { flags: EntryFlags::CONTACT | EntryFlags::CONFIDENT, share }
}

pub(crate) fn weight(weight: u16) -> Verdict {
    up(Share::Weight(weight))
}

pub(crate) fn rate(rate: f64) -> Verdict {
    up(Share::Rate(Level::of(rate)))
}

/// Down; the share of a member without contact does not count.
pub(crate) const DOWN: Verdict = Verdict { flags: EntryFlags::CONFIDENT, share: Share::Weight(0) };

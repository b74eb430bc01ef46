//! The log of changes of members' standings: one line each, and few a second for each kind of reason.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    coordinator::{Contested, Time},
    judgement::{Stand, StandingChange},
    sasp::{Endpoint, Escaped},
    throttle::Throttle,
};

/// How many lines of each kind were written lately. There are few kinds.
#[derive(Default)]
pub(super) struct TurnLog(BTreeMap<(&'static str, &'static str), Throttle>);

impl TurnLog {
    /// Logs that a member stands otherwise now.
    pub(super) fn turned(&mut self, now: Time, member: &Endpoint, groups: usize, turn: &StandingChange) {
        let StandingChange { from, to, kind, reason } = turn;
        if !self.0.entry((word(*to), kind)).or_default().take_line(now) {
            return;
        }
        match groups {
            // No group lists a witness.
            0 => tracing::info!(witness = %SocketAddr::new(member.ip(), member.port), "{from} -> {to}: {reason}"),
            _ => tracing::info!(%member, groups, "{from} -> {to}: {reason}"),
        }
    }

    /// Logs how many lines were left out.
    pub(super) fn log_suppressed(&mut self, now: Time) {
        for ((to, kind), throttle) in &mut self.0 {
            if let Some(lines) = throttle.take_suppressed(now) {
                tracing::info!("{lines} more members -> {to}: {kind}");
            }
        }
    }
}

fn word(stand: Stand) -> &'static str {
    match stand {
        Stand::Unknown => "unknown",
        Stand::Up => "up",
        Stand::Drained => "drained",
        Stand::Down => "down",
    }
}

/// Logs that two peers use one UID.
pub(super) fn log_contested(contested: &Contested<'_>) {
    let Contested { lb_uid, before, after } = contested;
    tracing::warn!(
        load_balancer = %Escaped(lb_uid),
        before = %before.address,
        after = %after.address,
        "two connections take this load balancer from each other again and again: give each load balancer a UID of its own"
    );
}

//! The sender's rights: which LB a connection is, whom a member speaks for, and what the operator lets either do
//! (section 4 of the protocol page, and step 5 of the order of its return codes).

use std::sync::Arc;

use super::{
    CloseReason, ConnectionId, Coordinator, Outbox, Time,
    group::GroupId,
    load_balancer::{LbId, Timer},
};
use crate::{
    access::{Access, Act, Identity, Peer, Speaker},
    sasp::{Endpoint, Entry, GroupData, Groups, LbFlags, ReturnCode, SenderFlags},
};

/// Why a request is not accepted from its sender: every 0x11 has one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Refusal {
    /// A load balancer's message is about several load balancers.
    SeveralLbs,
    /// The connection is another load balancer's.
    OtherLb,
    /// The load balancer moved to another connection, which closes this one.
    TakenOver,
    /// There is no room for one more load balancer.
    TooManyLbs,
    /// The load balancer does not let members speak for themselves.
    NoTrust,
    /// A certificate is asked for and was not shown.
    NoCertificate,
    /// The sender does not prove to be the load balancer.
    LbIdentity,
    /// The load balancer is not to do this.
    LbRight,
    /// The sender does not prove to be the member, or one of the members concerned.
    MemberIdentity,
    /// The member is not to do this.
    MemberRight,
}

/// Number of [`Refusal`]s.
pub const REFUSALS: usize = Refusal::MemberRight as usize + 1;

impl Refusal {
    /// Each of them, in order.
    pub const ALL: [Refusal; REFUSALS] = [
        Refusal::SeveralLbs,
        Refusal::OtherLb,
        Refusal::TakenOver,
        Refusal::TooManyLbs,
        Refusal::NoTrust,
        Refusal::NoCertificate,
        Refusal::LbIdentity,
        Refusal::LbRight,
        Refusal::MemberIdentity,
        Refusal::MemberRight,
    ];

    /// The cause in words, for logs.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::SeveralLbs => "a load balancer's message is about several load balancers",
            Refusal::OtherLb => "the connection is another load balancer's",
            Refusal::TakenOver => "the load balancer has moved to another connection",
            Refusal::TooManyLbs => "there are --max-load-balancers load balancers",
            Refusal::NoTrust => "the load balancer does not let members speak for themselves",
            Refusal::NoCertificate => "it showed no certificate",
            Refusal::LbIdentity => "it does not prove to be the load balancer (--lb-identity)",
            Refusal::LbRight => "--access does not let the load balancer do this",
            Refusal::MemberIdentity => "it does not prove to be the member (--member-identity)",
            Refusal::MemberRight => "--access does not let the member do this",
        }
    }
}

/// A request that was answered with 0x11.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Who asked.
    pub peer: &'a Peer,
    /// Why it was refused.
    pub cause: Refusal,
    /// The load balancer that it is about.
    pub lb_uid: &'a [u8],
    /// The member that the sender does not speak for.
    pub member: Option<Endpoint>,
}

/// What rights a request takes.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) flags: SenderFlags,
    /// It is one by which an LB contacts the GWM.
    pub(super) creates: bool,
    /// What the operator can forbid of it.
    pub(super) act: Option<Act>,
}

type Result = std::result::Result<(), ReturnCode>;

impl Coordinator {
    /// New rules: connections that may not be their LB any more are closed. What members and LBs did before stays.
    pub fn set_access(&mut self, now: Time, access: Arc<Access>, out: &mut impl Outbox) {
        self.settings.access = access;
        let bound = self.tables.lbs.iter().filter_map(|(lb, known)| Some((lb as LbId, known.connection?)));
        let ended: Vec<(LbId, ConnectionId)> = bound
            .filter(|&(lb, connection)| {
                !self.settings.access.is_lb(self.peer(connection), &self.tables.lbs[lb as usize].uid)
            })
            .collect();
        for (lb, connection) in ended {
            self.dismiss(lb, connection, CloseReason::NotPermitted, out);
            self.set_deadline(lb, Timer::Hold, now + self.settings.hold_time);
        }
    }

    /// Whether the sender may say this at all, and an LB's binding. What a member says takes
    /// [`Coordinator::check_speaker`] next.
    pub(super) fn admit(
        &mut self,
        now: Time,
        connection: ConnectionId,
        ask: Ask,
        names: &[GroupData<'_>],
        out: &mut impl Outbox,
    ) -> Result {
        let Some(first) = names.first() else { return Ok(()) };
        if !ask.flags.contains(SenderFlags::LOAD_BALANCER) {
            return self.check_trust(connection, names, out);
        }
        let uid = first.lb_uid;
        let refuse = |coordinator: &Self, cause, out: &mut _| coordinator.refuse(connection, cause, uid, None, out);
        if names.iter().any(|name| name.lb_uid != uid) {
            return refuse(self, Refusal::SeveralLbs, out);
        }
        let known = self.connection(connection).expect("`request` has seen that it is open");
        let (bound, dismissed) = (known.lb, known.dismissed);
        let access = &self.settings.access;
        if let Some(bound) = bound {
            if *self.tables.lbs[bound as usize].uid != *uid {
                return refuse(self, Refusal::OtherLb, out);
            }
        } else if let Some(reason) = dismissed {
            let cause = match reason {
                CloseReason::TakenOver => Refusal::TakenOver,
                CloseReason::NotPermitted => Refusal::LbIdentity,
            };
            return refuse(self, cause, out);
        } else if access.lb_identity() != Identity::Any && !access.is_lb(self.peer(connection), uid) {
            let shown = access.lb_identity() != Identity::Certificate || self.peer(connection).certificate.is_some();
            return refuse(self, if shown { Refusal::LbIdentity } else { Refusal::NoCertificate }, out);
        }
        if ask.act.is_some_and(|act| !access.lb_may(uid, act)) {
            return refuse(self, Refusal::LbRight, out);
        }
        if bound.is_some() {
            return Ok(());
        }
        let lb = match self.tables.find_lb(uid) {
            Some(lb) => lb,
            None if !ask.creates => return Err(ReturnCode::UNKNOWN_LB_UID),
            None if self.tables.lbs.len() >= self.settings.max_load_balancers as usize => {
                return refuse(self, Refusal::TooManyLbs, out);
            }
            None => self.tables.create_lb(uid),
        };
        self.bind(now, connection, lb, out);
        Ok(())
    }

    /// Whether every LB of a member's message is known and lets members speak for themselves.
    fn check_trust(&self, connection: ConnectionId, names: &[GroupData<'_>], out: &mut impl Outbox) -> Result {
        let mut distrustful: Option<&[u8]> = None;
        let mut last: Option<&[u8]> = None;
        for name in names {
            if last.replace(name.lb_uid) == Some(name.lb_uid) {
                continue;
            }
            let lb = self.tables.find_lb(name.lb_uid).ok_or(ReturnCode::LB_NOT_CONTACTED)?;
            let trusts = self.tables.lbs[lb as usize].flags.contains(LbFlags::TRUST);
            // It may have said so before the operator took that from it.
            if !trusts || !self.settings.access.lb_may(name.lb_uid, Act::Trust) {
                distrustful.get_or_insert(name.lb_uid);
            }
        }
        match distrustful {
            None => Ok(()),
            Some(uid) => self.refuse(connection, Refusal::NoTrust, uid, None, out),
        }
    }

    /// Whether a member speaks for everyone that its message concerns; an LB does.
    pub(super) fn check_speaker<'a, T: Entry<'a>>(
        &self,
        connection: ConnectionId,
        flags: SenderFlags,
        act: Act,
        groups: Groups<'a, T>,
        out: &mut impl Outbox,
    ) -> Result {
        let access = &self.settings.access;
        if flags.contains(SenderFlags::LOAD_BALANCER) || access.member_identity() == Identity::Any {
            return Ok(());
        }
        let speaker = access.speaker(self.peer(connection));
        for group in groups {
            let GroupData { lb_uid, name } = group.data;
            let Some(speaker) = &speaker else {
                return self.refuse(connection, Refusal::NoCertificate, lb_uid, None, out);
            };
            let removes_whole = act == Act::Deregister && group.count() == 0;
            let found = if !speaker.may(act, lb_uid, Some(name).filter(|name| !name.is_empty())) {
                Err((Refusal::MemberRight, None))
            } else if removes_whole && name.is_empty() {
                let lb = self.tables.find_lb(lb_uid).expect("`admit` has seen every LB of the message");
                let mut groups = self.tables.lbs[lb as usize].groups.iter();
                groups.try_for_each(|&group| self.check_whole(speaker, act, lb_uid, group))
            } else if removes_whole {
                let lb = self.tables.find_lb(lb_uid).expect("`admit` has seen every LB of the message");
                let group = self.tables.find_group(lb, name);
                group.map_or(Ok(()), |group| self.check_whole(speaker, act, lb_uid, group))
            } else {
                let mut members = group.entries().map(|entry| entry.member().endpoint);
                let foreign = members.find(|member| !speaker.speaks_for(act, lb_uid, name, member.ip()));
                foreign.map_or(Ok(()), |member| Err((Refusal::MemberIdentity, Some(member))))
            };
            if let Err((cause, member)) = found {
                return self.refuse(connection, cause, lb_uid, member, out);
            }
        }
        Ok(())
    }

    /// Whether a member speaks for all that a group has.
    fn check_whole(
        &self,
        speaker: &Speaker<'_>,
        act: Act,
        lb_uid: &[u8],
        group: GroupId,
    ) -> std::result::Result<(), (Refusal, Option<Endpoint>)> {
        let group = &self.tables.groups[group as usize];
        if !speaker.may(act, lb_uid, Some(group.name())) {
            return Err((Refusal::MemberRight, None));
        }
        let mut members = group.members().map(|(endpoint, _)| self.tables.endpoints.endpoint(endpoint));
        let foreign = members.find(|member| !speaker.speaks_for(act, lb_uid, group.name(), member.ip()));
        foreign.map_or(Ok(()), |member| Err((Refusal::MemberIdentity, Some(member))))
    }

    fn refuse(
        &self,
        connection: ConnectionId,
        cause: Refusal,
        lb_uid: &[u8],
        member: Option<Endpoint>,
        out: &mut impl Outbox,
    ) -> Result {
        out.refused(&Refused { peer: self.peer(connection), cause, lb_uid, member });
        Err(ReturnCode::NOT_ACCEPTED)
    }

    /// Makes the connection the LB's; an older one is closed.
    fn bind(&mut self, now: Time, connection: ConnectionId, lb: LbId, out: &mut impl Outbox) {
        if let Some(old) = self.tables.lbs[lb as usize].connection {
            self.dismiss(lb, old, CloseReason::TakenOver, out);
        }
        if let Some(known) = self.connection(connection) {
            known.lb = Some(lb);
        }
        let known = &mut self.tables.lbs[lb as usize];
        known.deadline(Timer::Hold).at = None;
        known.connection = Some(connection);
        known.epoch = known.epoch.wrapping_add(1);
        if known.pushing() {
            self.start_pushing(now, lb);
        }
    }

    /// Parts the LB from its connection, which is closed and is no LB's any more.
    fn dismiss(&mut self, lb: LbId, connection: ConnectionId, reason: CloseReason, out: &mut impl Outbox) {
        self.tables.detach(lb);
        if let Some(known) = self.connection(connection) {
            (known.lb, known.dismissed) = (None, Some(reason));
        }
        out.close(connection, reason);
    }

    /// Who is at the other end of a connection that is open.
    fn peer(&self, connection: ConnectionId) -> &Peer {
        let slots = self.peers.get(usize::from(connection.shard));
        let peer = slots.and_then(|slots| slots.get(connection.slot as usize)?.as_ref());
        peer.expect("an open connection has a peer")
    }
}

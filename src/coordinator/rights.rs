//! The sender's rights: which LB a connection is, which members a peer speaks for, and what the operator allows
//! (PROTOCOL.md, section 4, and steps 5 and 6 of the order of return codes).

use super::{
    Coordinator,
    change::{Change, CloseReason},
    ids::{ConnectionId, GroupId},
};
use crate::{
    access::{Act, Identity, Peer, Speaker},
    sasp::{Endpoint, Entry, GroupData, Groups, LbFlags, ReturnCode, SenderFlags},
};

/// Why a request is not accepted from its sender. Every 0x11 has one of these causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Refusal {
    /// A load balancer's message is about several load balancers.
    SeveralLbs,
    /// The connection is another load balancer's.
    OtherLb,
    /// The load balancer moved to another connection, which closes this one.
    TakenOver,
    /// The operator dropped the load balancer, which closes this connection.
    Dropped,
    /// The limit of load balancers is reached.
    TooManyLbs,
    /// The load balancer does not let members speak for themselves.
    NoTrust,
    /// A certificate is needed and the sender showed none.
    NoCertificate,
    /// The sender does not prove to be the load balancer.
    LbIdentity,
    /// The operator does not let the load balancer do this.
    LbRight,
    /// The sender does not prove to be the member, or one of the members concerned.
    MemberIdentity,
    /// The operator does not let the member do this.
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
        Refusal::Dropped,
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
            Refusal::Dropped => "the operator has dropped the load balancer",
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
    /// The sender.
    pub peer: &'a Peer,
    /// Why the request was refused.
    pub cause: Refusal,
    /// The load balancer that the request is about.
    pub lb_uid: &'a [u8],
    /// The member that the sender does not speak for.
    pub member: Option<Endpoint>,
}

/// The rights that a request needs.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) flags: SenderFlags,
    /// With this request an unknown LB becomes known.
    pub(super) creates: bool,
    /// The part of the request that the operator can forbid.
    pub(super) act: Option<Act>,
}

/// Why a sender's request is not done.
pub(super) enum Denied<'a> {
    /// Answered with this code.
    Code(ReturnCode),
    /// Answered with 0x11.
    NotAccepted {
        cause: Refusal,
        lb_uid: &'a [u8],
        /// The member that the sender does not speak for.
        member: Option<Endpoint>,
    },
}

impl From<ReturnCode> for Denied<'_> {
    fn from(code: ReturnCode) -> Self {
        Denied::Code(code)
    }
}

type Result<'a, T> = std::result::Result<T, Denied<'a>>;

fn not_accepted<'a, T>(cause: Refusal, lb_uid: &'a [u8], member: Option<Endpoint>) -> Result<'a, T> {
    Err(Denied::NotAccepted { cause, lb_uid, member })
}

impl Coordinator {
    /// Whether the sender, an LB or a member, may ask this. Returns the binding that an LB's request makes, if any.
    pub(super) fn check_rights<'a, T: Entry<'a>>(
        &self,
        connection: ConnectionId,
        ask: Ask,
        names: &[GroupData<'a>],
        groups: Groups<'a, T>,
    ) -> Result<'a, Option<Change<'a>>> {
        if ask.flags.contains(SenderFlags::LOAD_BALANCER) {
            return self.check_lb(connection, ask, names);
        }
        self.check_trust(names)?;
        self.check_speaker(connection, ask.act, groups)?;
        Ok(None)
    }

    /// Whether the connection may speak for the LB of the message, and may ask this.
    pub(super) fn check_lb<'a>(
        &self,
        connection: ConnectionId,
        ask: Ask,
        names: &[GroupData<'a>],
    ) -> Result<'a, Option<Change<'a>>> {
        let Some(&GroupData { lb_uid, .. }) = names.first() else { return Ok(None) };
        if names.iter().any(|name| name.lb_uid != lb_uid) {
            return not_accepted(Refusal::SeveralLbs, lb_uid, None);
        }
        let known = self.find_connection(connection).expect("`request` has seen that it is open");
        let access = &self.settings.access;
        if let Some(bound) = known.lb {
            if *self.tables.lbs[bound].uid != *lb_uid {
                return not_accepted(Refusal::OtherLb, lb_uid, None);
            }
        } else if let Some(reason) = known.dismissed {
            let cause = match reason {
                CloseReason::TakenOver => Refusal::TakenOver,
                CloseReason::NotPermitted => Refusal::LbIdentity,
                CloseReason::Operator | CloseReason::NotKept => Refusal::Dropped,
            };
            return not_accepted(cause, lb_uid, None);
        } else if access.lb_identity() != Identity::Any && !access.is_lb(self.peer(connection), lb_uid) {
            let shown = access.lb_identity() != Identity::Certificate || self.peer(connection).certificate.is_some();
            return not_accepted(if shown { Refusal::LbIdentity } else { Refusal::NoCertificate }, lb_uid, None);
        }
        if ask.act.is_some_and(|act| !access.lb_may(lb_uid, act)) {
            return not_accepted(Refusal::LbRight, lb_uid, None);
        }
        if known.lb.is_some() {
            return Ok(None);
        }
        if self.tables.find_lb(lb_uid).is_none() {
            if !ask.creates {
                return Err(ReturnCode::UNKNOWN_LB_UID.into());
            }
            if self.tables.lbs.len() >= self.settings.max_load_balancers as usize {
                return not_accepted(Refusal::TooManyLbs, lb_uid, None);
            }
        }
        Ok(Some(Change::Bind { lb_uid, connection }))
    }

    /// Whether every LB of a member's message is known and lets members speak for themselves.
    fn check_trust<'a>(&self, names: &[GroupData<'a>]) -> Result<'a, ()> {
        let mut distrustful: Option<&'a [u8]> = None;
        let mut last: Option<&'a [u8]> = None;
        for name in names {
            if last.replace(name.lb_uid) == Some(name.lb_uid) {
                continue;
            }
            let lb = self.tables.find_lb(name.lb_uid).ok_or(ReturnCode::LB_NOT_CONTACTED)?;
            let trusts = self.tables.lbs[lb].flags.contains(LbFlags::TRUST);
            // The LB may have set trust before the operator took this right from the LB.
            if !trusts || !self.settings.access.lb_may(name.lb_uid, Act::Trust) {
                distrustful.get_or_insert(name.lb_uid);
            }
        }
        match distrustful {
            None => Ok(()),
            Some(lb_uid) => not_accepted(Refusal::NoTrust, lb_uid, None),
        }
    }

    /// Whether a member speaks for every member that its message concerns.
    fn check_speaker<'a, T: Entry<'a>>(
        &self,
        connection: ConnectionId,
        act: Option<Act>,
        groups: Groups<'a, T>,
    ) -> Result<'a, ()> {
        let access = &self.settings.access;
        let Some(act) = act.filter(|_| access.member_identity() != Identity::Any) else { return Ok(()) };
        let speaker = access.speaker(self.peer(connection));
        for group in groups {
            let GroupData { lb_uid, name } = group.data;
            let Some(speaker) = &speaker else {
                return not_accepted(Refusal::NoCertificate, lb_uid, None);
            };
            let removes_whole = act == Act::Deregister && group.count() == 0;
            let found = if !speaker.may(act, lb_uid, Some(name).filter(|name| !name.is_empty())) {
                Err((Refusal::MemberRight, None))
            } else if removes_whole && name.is_empty() {
                let lb = self.tables.find_lb(lb_uid).expect("`check_trust` has seen every LB of the message");
                let mut groups = self.tables.lbs[lb].groups.iter();
                groups.try_for_each(|&group| self.check_whole(speaker, act, lb_uid, group))
            } else if removes_whole {
                let lb = self.tables.find_lb(lb_uid).expect("`check_trust` has seen every LB of the message");
                let group = self.tables.find_group(lb, name);
                group.map_or(Ok(()), |group| self.check_whole(speaker, act, lb_uid, group))
            } else {
                let mut members = group.entries().map(|entry| entry.member().endpoint);
                let foreign = members.find(|member| !speaker.speaks_for(act, lb_uid, name, member.canonical().ip()));
                foreign.map_or(Ok(()), |member| Err((Refusal::MemberIdentity, Some(member))))
            };
            if let Err((cause, member)) = found {
                return not_accepted(cause, lb_uid, member);
            }
        }
        Ok(())
    }

    /// Whether a member speaks for all members of a group.
    fn check_whole(
        &self,
        speaker: &Speaker<'_>,
        act: Act,
        lb_uid: &[u8],
        group: GroupId,
    ) -> std::result::Result<(), (Refusal, Option<Endpoint>)> {
        let (listing, group) = (self.tables.listing(group), &self.tables.groups[group]);
        if !speaker.may(act, lb_uid, Some(group.name())) {
            return Err((Refusal::MemberRight, None));
        }
        let mut members = listing.members().map(|endpoint| self.tables.endpoints.endpoint(endpoint));
        let foreign = members.find(|member| !speaker.speaks_for(act, lb_uid, group.name(), member.canonical().ip()));
        foreign.map_or(Ok(()), |member| Err((Refusal::MemberIdentity, Some(member))))
    }
}

//! What can happen to load balancers, groups and memberships, in the protocol's own terms.
//!
//! A change names load balancers, groups and members as the wire does, never by ids of this process. So the same
//! change means the same in another process, or after a restart: a journal can write it, a fleet can carry it, and
//! [`Coordinator::replay`](super::Coordinator::replay) applies it.

use super::{ids::ConnectionId, outbox::CloseReason};
use crate::sasp::message::{DeregistrationRequest, RegistrationRequest, SetLbStateRequest, SetMemberStateRequest};

/// One change of the tables. Only a request that passed every check becomes one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change<'a> {
    /// A load balancer speaks on this connection: it is known from now on, its hold time ends, and an older connection
    /// of it is closed (a takeover).
    Bind {
        /// The load balancer.
        lb_uid: &'a [u8],
        /// Its connection.
        connection: ConnectionId,
    },
    /// A load balancer has lost its connection, and its hold time begins.
    Unbind {
        /// The load balancer.
        lb_uid: &'a [u8],
        /// Why the coordinator ends the connection, if it is the coordinator who does.
        close: Option<CloseReason>,
    },
    /// A load balancer's hold time is over: it is forgotten, with everything that it has.
    Forget {
        /// The load balancer.
        lb_uid: &'a [u8],
    },
    /// Members join groups.
    Register(RegistrationRequest<'a>),
    /// Members leave groups, or groups end.
    Deregister(DeregistrationRequest<'a>),
    /// A load balancer says how it is and what it wants.
    SetLbState(SetLbStateRequest<'a>),
    /// Members are quiesced or resumed, and get an opaque state.
    SetMemberState(SetMemberStateRequest<'a>),
}

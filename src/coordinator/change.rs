//! What can happen to load balancers, groups and memberships, in the protocol's own terms.
//!
//! A change names load balancers, groups and members as the wire does, never by ids of this process. So the same
//! change means the same in another process, or after a restart: a journal can write it, a fleet can carry it, and
//! [`Coordinator::replay`](super::Coordinator::replay) applies it.

use super::{ids::ConnectionId, words::Word};
use crate::{
    access::Peer,
    sasp::message::{DeregistrationRequest, RegistrationRequest, SetLbStateRequest, SetMemberStateRequest},
    time::Time,
};

/// Why the coordinator ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Another connection was bound to the same LB UID.
    TakenOver,
    /// The connection may no longer be its load balancer.
    NotPermitted,
    /// The operator closed it.
    Operator,
    /// The disk does not take what the connection's request changes. The coordinator does not give this reason itself.
    NotKept,
}

/// One change of the tables. Only a request that passed every check becomes one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change<'a> {
    /// A load balancer is bound to this connection. A new load balancer becomes known, a hold time ends, and an older
    /// connection of the load balancer is closed (a takeover).
    Bind {
        /// The load balancer.
        lb_uid: &'a [u8],
        /// Its connection.
        connection: ConnectionId,
    },
    /// A load balancer loses its connection, and its hold time begins.
    Unbind {
        /// The load balancer.
        lb_uid: &'a [u8],
        /// Why the coordinator closes the connection; `None` if the connection ended by itself.
        close: Option<CloseReason>,
    },
    /// Another node of the fleet has the load balancer's connection: it becomes known, a connection here is closed, and no
    /// hold time runs.
    Elsewhere {
        /// The load balancer.
        lb_uid: &'a [u8],
        /// The name of the node.
        node: &'a str,
    },
    /// The load balancer, which becomes known, has no connection to any node of the fleet, and is held until then.
    Hold {
        /// The load balancer.
        lb_uid: &'a [u8],
        /// The end of its hold time.
        until: Time,
    },
    /// A load balancer's hold time is over: the load balancer and its groups are forgotten.
    Forget {
        /// The load balancer.
        lb_uid: &'a [u8],
    },
    /// Members join groups.
    Register(RegistrationRequest<'a>),
    /// Members leave groups, or groups end.
    Deregister(DeregistrationRequest<'a>),
    /// A load balancer states its health and flags.
    SetLbState(SetLbStateRequest<'a>),
    /// Members are quiesced or resumed, and get an opaque state.
    SetMemberState(SetMemberStateRequest<'a>),
    /// The operator says a word.
    Say(&'a Word),
    /// The operator's word with this number ends.
    Unsay {
        /// The number.
        number: u64,
        /// Who ends the word and why, for people; `None`: the word's time is over.
        by: Option<&'a str>,
    },
}

/// Connections take a load balancer from each other again and again: two peers use one UID.
#[derive(Clone, Copy, Debug)]
pub struct Contested<'a> {
    /// The UID.
    pub lb_uid: &'a [u8],
    /// The peer that had the load balancer.
    pub before: &'a Peer,
    /// The peer that has it now.
    pub after: &'a Peer,
}

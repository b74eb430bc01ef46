//! What the user wants of each service.

use std::{net::SocketAddr, time::Duration};

use super::{answers::given, check::Check, connections::Wanted, opaque::Opaque};
use crate::sasp::{Endpoint, component::TCP};

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSettings {
    /// What `gwm agent status` and log lines call it.
    pub name: String,
    /// The load balancers whose groups it joins.
    pub lbs: Vec<Box<[u8]>>,
    /// The groups that it joins at each of these load balancers.
    pub groups: Vec<Box<[u8]>>,
    /// Its endpoints; all join each group.
    pub members: Vec<Endpoint>,
    /// The label of its endpoints.
    pub label: Box<[u8]>,
    /// Where it listens on this host, if not at `members`: behind address translation.
    pub local: Option<SocketAddr>,
    /// Whether it answers.
    pub check: Check,
    /// Whether a service that no longer answers its check is quiesced. Otherwise its GWM's checks decide.
    pub quiesce_when_down: bool,
    /// The opaque state of its memberships.
    pub opaque: Opaque,
    /// How long it waits, from its quiesce on, for the end of its connections.
    pub drain_time: Duration,
    /// A connection that is silent for so long, after an answer, is idle, and is not waited for; none if this is zero.
    pub idle_time: Duration,
    /// How long load balancers get to hear of its quiesce before its connections are counted.
    pub quiesce_time: Duration,
    /// What is told to those who ask.
    pub telling: given::Settings,
}

impl ServiceSettings {
    /// Which connections are its own.
    pub fn connections(&self) -> Wanted {
        Wanted { places: self.places(), idle_after: self.idle_time }
    }

    /// Where it listens for TCP on this host.
    pub fn places(&self) -> Vec<SocketAddr> {
        let of_members = || {
            let tcp = self.members.iter().filter(|member| member.protocol == TCP && member.port != 0);
            tcp.map(|member| SocketAddr::new(member.ip(), member.port)).collect()
        };
        self.local.map_or_else(of_members, |local| vec![local])
    }
}

//! Access rules as plain lists of sources (`n` is 10.0.0.n), and as text of the access file.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use fastrand::Rng;
use gwm::{
    access::{Access, Identity},
    config::access,
    sasp::Endpoint,
};

use super::generator::{UIDS, chance};

/// Peers connect from 10.0.0.1 up to this number.
const SOURCES: u8 = 4;

pub(crate) type Source = u8;

/// The operator's rules; without rules, any peer may be any LB or member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// The sources that may be each LB.
    lbs: Option<BTreeMap<&'static str, BTreeSet<Source>>>,
    /// The addresses that each source speaks for beside its own.
    members: Option<BTreeMap<Source, BTreeSet<Source>>>,
}

pub(crate) fn source(rng: &mut Rng) -> Source {
    rng.u8(1..=SOURCES)
}

pub(crate) fn address(source: Source) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, source).into()
}

impl Rules {
    pub(crate) fn random(rng: &mut Rng) -> Rules {
        let some = |rng: &mut Rng, percent| (1..=SOURCES).filter(|_| chance(rng, percent)).collect::<BTreeSet<_>>();
        let lbs = chance(rng, 40).then(|| {
            let listed: Vec<_> = UIDS.into_iter().filter(|_| chance(rng, 90)).collect();
            listed.into_iter().map(|uid| (uid, some(rng, 65))).collect()
        });
        let members = chance(rng, 40).then(|| {
            let listed = some(rng, 50);
            listed.into_iter().map(|source| (source, some(rng, 50))).filter(|(_, more)| !more.is_empty()).collect()
        });
        Rules { lbs, members }
    }

    /// The same rules for the coordinator.
    pub(crate) fn access(&self) -> Arc<Access> {
        let list = |sources: &BTreeSet<Source>| {
            sources.iter().map(|source| format!("\"{}\"", address(*source))).collect::<Vec<_>>().join(", ")
        };
        let mut file = String::new();
        for (uid, sources) in self.lbs.iter().flatten() {
            file += &format!("[[lb]]\nuid = \"{uid}\"\naddresses = [{}]\n", list(sources));
        }
        for (source, more) in self.members.iter().flatten() {
            file += &format!("[[member]]\nsources = [\"{}\"]\naddresses = [{}]\n", address(*source), list(more));
        }
        let identity = |said| if said { Identity::SourceIp } else { Identity::Any };
        let rules = access::Rules {
            lb_identity: identity(self.lbs.is_some()),
            member_identity: identity(self.members.is_some()),
            common_name: false,
        };
        Arc::new(access::parse(&file, &rules).unwrap_or_else(|error| panic!("{error:?} in {file}")))
    }

    pub(crate) fn is_lb(&self, source: Source, uid: &[u8]) -> bool {
        self.lbs
            .as_ref()
            .is_none_or(|lbs| lbs.iter().any(|(lb, sources)| lb.as_bytes() == uid && sources.contains(&source)))
    }

    pub(crate) fn speaks_for(&self, source: Source, endpoint: &Endpoint) -> bool {
        let Some(members) = &self.members else { return true };
        let more = members.get(&source);
        endpoint.ip() == address(source) || more.into_iter().flatten().any(|more| endpoint.ip() == address(*more))
    }
}

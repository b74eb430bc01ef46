//! The operator's word on who may speak for whom. Read from flags and the access file by [`config`](crate::config),
//! never changed after that; every question is a few lookups.

use std::collections::HashMap;

use super::{Certificate, CertificateName, Peer};
use crate::{
    network::{Network, Networks},
    roster::Pattern,
};

/// What a peer has to prove before it may speak for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Nothing.
    #[default]
    Any,
    /// Its address.
    SourceIp,
    /// A certificate.
    Certificate,
}

/// What a peer does that the file can forbid it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Act {
    /// Registering members and groups.
    Register = 1,
    /// Deregistering them.
    Deregister = 2,
    /// Setting the state of members.
    SetState = 4,
    /// Letting members speak for themselves.
    Trust = 8,
}

/// A set of [`Act`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acts(u8);

impl Acts {
    /// Each of them.
    pub const ALL: Acts = Acts(15);
    /// None.
    pub const NONE: Acts = Acts(0);

    /// These and one more.
    pub fn with(self, act: Act) -> Acts {
        Acts(self.0 | act as u8)
    }

    /// Whether it is one of them.
    pub fn contains(self, act: Act) -> bool {
        self.0 & act as u8 != 0
    }
}

/// Something said of certificates, found by a certificate's names and fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates<T> {
    names: HashMap<Box<str>, T>,
    fingerprints: HashMap<[u8; 32], T>,
}

impl<T: Default> Certificates<T> {
    /// What is said of those that are named so.
    pub fn entry(&mut self, name: CertificateName) -> &mut T {
        match name {
            CertificateName::Name(name) => self.names.entry(name).or_default(),
            CertificateName::Fingerprint(fingerprint) => self.fingerprints.entry(fingerprint).or_default(),
        }
    }
}

impl<T> Certificates<T> {
    fn of<'a>(&'a self, certificate: &'a Certificate, common_name: bool) -> impl Iterator<Item = &'a T> {
        let named = certificate.names(common_name).filter_map(|name| self.names.get(name));
        named.chain(self.fingerprints.get(&certificate.fingerprint))
    }
}

impl<T> Default for Certificates<T> {
    fn default() -> Certificates<T> {
        Certificates { names: HashMap::new(), fingerprints: HashMap::new() }
    }
}

/// What the file says of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lb {
    /// Where it connects from.
    pub addresses: Networks<()>,
    /// What it shows; if nothing is said, a certificate that has its UID as a name.
    pub certificates: Option<Certificates<()>>,
    /// What it may do, apart from asking for weights and saying how it is.
    pub may: Acts,
}

/// Which members an entry of the file is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Those that connect from there.
    Sources(Vec<Network>),
    /// Those that show such a certificate.
    Certificates(Vec<CertificateName>),
}

/// What an entry of the file lets members do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What they speak for beside their own addresses.
    pub addresses: Networks<()>,
    /// With which LBs' groups, any if there is no pattern.
    pub lbs: Vec<Pattern>,
    /// With which groups, any if there is no pattern.
    pub groups: Vec<Pattern>,
    /// What they may do.
    pub may: Acts,
}

impl Member {
    fn may(&self, act: Act, lb: &[u8], group: Option<&[u8]>) -> bool {
        let fits = |patterns: &[Pattern], name: &[u8]| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.fits(name))
        };
        self.may.contains(act) && fits(&self.lbs, lb) && group.is_none_or(|group| fits(&self.groups, group))
    }
}

/// Who may speak for whom; a reload replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    lb_identity: Identity,
    member_identity: Identity,
    /// A certificate's CN is a name like those of its SAN, for LBs.
    common_name: bool,
    lbs: HashMap<Box<[u8]>, Lb>,
    members: Vec<Member>,
    by_source: Networks<Vec<u32>>,
    by_certificate: Certificates<Vec<u32>>,
}

impl Access {
    /// What the flags alone say; [`Access::default`] lets anyone be anyone.
    pub fn new(lb_identity: Identity, member_identity: Identity, common_name: bool) -> Access {
        Access { lb_identity, member_identity, common_name, ..Access::default() }
    }

    /// Says something of one LB; `false` if that was done before.
    pub fn add_lb(&mut self, uid: &[u8], lb: Lb) -> bool {
        self.lbs.insert(uid.into(), lb).is_none()
    }

    /// Says what some members may do, beside what was said of them before.
    pub fn add_member(&mut self, who: Who, member: Member) {
        let index = u32::try_from(self.members.len()).expect("a file of fewer entries than 32 bits");
        self.members.push(member);
        match who {
            Who::Sources(list) => list.into_iter().for_each(|network| self.by_source.entry(network).push(index)),
            Who::Certificates(list) => list.into_iter().for_each(|name| self.by_certificate.entry(name).push(index)),
        }
    }

    /// What an LB has to prove.
    pub fn lb_identity(&self) -> Identity {
        self.lb_identity
    }

    /// What a member has to prove.
    pub fn member_identity(&self) -> Identity {
        self.member_identity
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.lbs.len() + self.members.len()
    }

    /// Whether the peer may be the LB of this UID.
    pub fn is_lb(&self, peer: &Peer, uid: &[u8]) -> bool {
        match self.lb_identity {
            Identity::Any => true,
            Identity::SourceIp => self.lbs.get(uid).is_some_and(|lb| lb.addresses.contains(peer.address)),
            Identity::Certificate => peer.certificate.as_ref().is_some_and(|certificate| {
                match self.lbs.get(uid).and_then(|lb| lb.certificates.as_ref()) {
                    // The file's word is the last, or a certificate that was stolen could not be shut out.
                    Some(listed) => listed.of(certificate, self.common_name).next().is_some(),
                    None => certificate.names_lb(uid, self.common_name),
                }
            }),
        }
    }

    /// Whether the LB of this UID, once it is known to be that, may do this.
    pub fn lb_may(&self, uid: &[u8], act: Act) -> bool {
        self.lb_identity == Identity::Any || self.lbs.get(uid).is_none_or(|lb| lb.may.contains(act))
    }

    /// What the peer may say as a member; `None` if it has to prove something and does not.
    pub fn speaker<'a>(&'a self, peer: &'a Peer) -> Option<Speaker<'a>> {
        let (own, entries) = match self.member_identity {
            Identity::Any => return Some(Speaker { own: None, entries: Vec::new() }),
            Identity::SourceIp => {
                (std::slice::from_ref(&peer.address), self.listed(self.by_source.around(peer.address)))
            }
            Identity::Certificate => {
                let certificate = peer.certificate.as_deref()?;
                (&certificate.addresses[..], self.listed(self.by_certificate.of(certificate, false)))
            }
        };
        Some(Speaker { own: Some(own), entries })
    }

    fn listed<'a>(&'a self, found: impl Iterator<Item = &'a Vec<u32>>) -> Vec<&'a Member> {
        found.flatten().filter_map(|&index| self.members.get(index as usize)).collect()
    }
}

/// What one peer may say as a member.
#[derive(Clone, Debug)]
pub struct Speaker<'a> {
    /// Its own addresses; `None` if it may speak for any.
    own: Option<&'a [std::net::IpAddr]>,
    /// What the file says of it; if nothing, it may do everything with its own addresses.
    entries: Vec<&'a Member>,
}

impl Speaker<'_> {
    /// Whether it may do this with some members of the group, or of all groups of that LB.
    pub fn may(&self, act: Act, lb: &[u8], group: Option<&[u8]>) -> bool {
        self.entries.is_empty() || self.entries.iter().any(|entry| entry.may(act, lb, group))
    }

    /// Whether this member of the group is one of those.
    pub fn speaks_for(&self, act: Act, lb: &[u8], group: &[u8], address: std::net::IpAddr) -> bool {
        let Some(own) = self.own else { return true };
        let own = own.contains(&address);
        match &self.entries[..] {
            [] => own,
            entries => entries
                .iter()
                .any(|entry| (own || entry.addresses.contains(address)) && entry.may(act, lb, Some(group))),
        }
    }
}

//! The operator's rules: which peer may speak for which load balancer or member.
//!
//! [`config`](crate::config) reads the rules from flags and the access file; a reload replaces them. Every question takes a
//! few lookups.

use std::collections::HashMap;

use super::{Certificate, CertificateName, Peer};
use crate::{
    network::{Network, Networks},
    pattern::Pattern,
};

/// What a peer must prove before it may speak for a load balancer or a member.
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

/// An act of a peer that the file can forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Act {
    /// Register members and groups.
    Register = 1,
    /// Deregister members and groups.
    Deregister = 2,
    /// Set the state of members.
    SetState = 4,
    /// Set trust: members may speak for themselves.
    Trust = 8,
}

/// A set of [`Act`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acts(u8);

impl Acts {
    /// All acts.
    pub const ALL: Acts = Acts(15);
    /// No act.
    pub const NONE: Acts = Acts(0);

    /// These acts and one more.
    pub fn with(self, act: Act) -> Acts {
        Acts(self.0 | act as u8)
    }

    /// Whether the set has the act.
    pub fn contains(self, act: Act) -> bool {
        self.0 & act as u8 != 0
    }
}

/// A value for each of some certificates, found by a certificate's names and fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates<T> {
    names: HashMap<Box<[u8]>, T>,
    fingerprints: HashMap<[u8; 32], T>,
}

impl<T: Default> Certificates<T> {
    /// The value of the certificates with this name; adds the name.
    pub fn entry(&mut self, name: CertificateName) -> &mut T {
        match name {
            CertificateName::Name(name) => self.names.entry(name).or_default(),
            CertificateName::Fingerprint(fingerprint) => self.fingerprints.entry(fingerprint).or_default(),
        }
    }
}

impl<T> Certificates<T> {
    fn of<'a>(&'a self, certificate: &'a Certificate, common_name: bool) -> impl Iterator<Item = &'a T> {
        let named = certificate.names(common_name).filter_map(|name| self.names.get(name.as_bytes()));
        named.chain(self.fingerprints.get(&certificate.fingerprint))
    }
}

impl<T> Default for Certificates<T> {
    fn default() -> Certificates<T> {
        Certificates { names: HashMap::new(), fingerprints: HashMap::new() }
    }
}

/// The file's entry of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lb {
    /// The networks from which the load balancer connects.
    pub addresses: Networks<()>,
    /// The certificates of the load balancer. `None`: a certificate that has its UID as a name.
    pub certificates: Option<Certificates<()>>,
    /// The allowed acts. Get Weights and the health and flags of Set LB State, except trust, are always allowed.
    pub may: Acts,
}

/// The peers of an entry for members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Peers that connect from these networks.
    Sources(Vec<Network>),
    /// Peers with one of these certificates.
    Certificates(Vec<CertificateName>),
}

/// The rights in an entry for members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The members that the peers speak for, beside their own addresses.
    pub addresses: Networks<()>,
    /// The load balancers whose groups are meant; without a pattern, all.
    pub lbs: Vec<Pattern>,
    /// The groups that are meant; without a pattern, all.
    pub groups: Vec<Pattern>,
    /// The allowed acts.
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

/// The rules. A reload replaces them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    lb_identity: Identity,
    member_identity: Identity,
    /// For load balancers, a certificate's CN is a name like those of its SAN.
    common_name: bool,
    lbs: HashMap<Box<[u8]>, Lb>,
    members: Vec<Member>,
    by_source: Networks<Vec<u32>>,
    by_certificate: Certificates<Vec<u32>>,
}

impl Access {
    /// The rules of the flags, without a file. [`Access::default`] allows everything to everybody.
    pub fn new(lb_identity: Identity, member_identity: Identity, common_name: bool) -> Access {
        Access { lb_identity, member_identity, common_name, ..Access::default() }
    }

    /// Adds the entry of a load balancer; `false` if it replaces another.
    pub fn add_lb(&mut self, uid: &[u8], lb: Lb) -> bool {
        self.lbs.insert(uid.into(), lb).is_none()
    }

    /// The UIDs of all entries of load balancers.
    pub fn lb_uids(&self) -> impl Iterator<Item = &[u8]> {
        self.lbs.keys().map(|uid| &**uid)
    }

    /// Adds an entry for members. A peer has the rights of all its entries.
    pub fn add_member(&mut self, who: Who, member: Member) {
        let index = u32::try_from(self.members.len()).expect("a file of fewer entries than 32 bits");
        self.members.push(member);
        match who {
            Who::Sources(list) => list.into_iter().for_each(|network| self.by_source.entry(network).push(index)),
            Who::Certificates(list) => list.into_iter().for_each(|name| self.by_certificate.entry(name).push(index)),
        }
    }

    /// What a load balancer must prove.
    pub fn lb_identity(&self) -> Identity {
        self.lb_identity
    }

    /// What a member must prove.
    pub fn member_identity(&self) -> Identity {
        self.member_identity
    }

    /// The number of entries.
    pub fn entries(&self) -> usize {
        self.lbs.len() + self.members.len()
    }

    /// Whether the peer may be the load balancer with this UID.
    pub fn is_lb(&self, peer: &Peer, uid: &[u8]) -> bool {
        match self.lb_identity {
            Identity::Any => true,
            Identity::SourceIp => self.lbs.get(uid).is_some_and(|lb| lb.addresses.contains(peer.address)),
            Identity::Certificate => peer.certificate.as_ref().is_some_and(|certificate| {
                match self.lbs.get(uid).and_then(|lb| lb.certificates.as_ref()) {
                    // The file overrides the certificate's names. So the operator can shut out a stolen certificate.
                    Some(listed) => listed.of(certificate, self.common_name).next().is_some(),
                    None => certificate.names_lb(uid, self.common_name),
                }
            }),
        }
    }

    /// Whether the load balancer with this UID may do this, once its identity is proved.
    pub fn lb_may(&self, uid: &[u8], act: Act) -> bool {
        self.lb_identity == Identity::Any || self.lbs.get(uid).is_none_or(|lb| lb.may.contains(act))
    }

    /// The rights of the peer as a member; `None` if it does not prove its identity.
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

/// The rights of one peer as a member.
#[derive(Clone, Debug)]
pub struct Speaker<'a> {
    /// The peer's own addresses; `None` if it may speak for all.
    own: Option<&'a [std::net::IpAddr]>,
    /// The file's entries for the peer. Without an entry, the peer may do everything with its own addresses.
    entries: Vec<&'a Member>,
}

impl Speaker<'_> {
    /// Whether the peer may do this with some members of the group, or of all groups of the load balancer.
    pub fn may(&self, act: Act, lb: &[u8], group: Option<&[u8]>) -> bool {
        self.entries.is_empty() || self.entries.iter().any(|entry| entry.may(act, lb, group))
    }

    /// Whether the peer may do this with this member of the group.
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

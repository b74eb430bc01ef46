//! The flags that take one of a few words.

use clap::ValueEnum;

use crate::{access::Identity, judgement::Policy};

/// When a reply to a request that changes something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// When the change is on the disk (--state) and in etcd (--fleet). If the disk does not take it within 5 seconds, the
    /// connection ends without a reply. While etcd is away, the disk alone counts
    Reply,
    /// At once: a crash loses what came within the last 100 ms, and all since disk and etcd have been refusing writes
    Background,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// RFC 5246
    #[value(name = "1.2")]
    Tls12,
    /// RFC 8446
    #[value(name = "1.3")]
    Tls13,
}

/// What a load balancer must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LbIdentity {
    /// Nothing: a peer that states the UID is the load balancer
    Any,
    /// It connects from an address that --access lists for its UID
    SourceIp,
    /// Its UID is a name in its certificate (SAN dNSName, or URI sasp:lb:UID), unless --access lists its certificates;
    /// needs --tls-client-ca
    Certificate,
}

impl From<LbIdentity> for Identity {
    fn from(identity: LbIdentity) -> Identity {
        match identity {
            LbIdentity::Any => Identity::Any,
            LbIdentity::SourceIp => Identity::SourceIp,
            LbIdentity::Certificate => Identity::Certificate,
        }
    }
}

/// What a member must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MemberIdentity {
    /// Nothing: every peer speaks for any member
    Any,
    /// A peer speaks for the address that it connects from, and for what --access adds
    SourceIp,
    /// A peer speaks for the addresses in its certificate (SAN iPAddress), and for what --access adds; needs
    /// --tls-client-ca
    Certificate,
}

impl From<MemberIdentity> for Identity {
    fn from(identity: MemberIdentity) -> Identity {
        match identity {
            MemberIdentity::Any => Identity::Any,
            MemberIdentity::SourceIp => Identity::SourceIp,
            MemberIdentity::Certificate => Identity::Certificate,
        }
    }
}

/// The check of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// No check: contact, not confident, weight --weight-max
    Off,
    /// A TCP connection, for members with protocol 6 and a port
    Tcp,
    /// An ICMP echo
    Icmp,
    /// GET / on the member's port, for members with protocol 6; status 200 to 399 is good, and a load report counts
    Http,
    /// `tcp` if that applies, else `icmp` if this process may send echoes
    Auto,
}

/// The formula that computes weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// Capacity and health
    Static,
    /// The same, times the percentage that the member's agent states
    Agent,
    /// The request rate that the member can bear, by its own load report (ORCA)
    Orca,
    /// `orca` if the member reports its load, times `agent` if the member has an agent, else `static`
    Auto,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Policy {
        match name {
            PolicyName::Static => Policy::Static,
            PolicyName::Agent => Policy::Agent,
            PolicyName::Orca => Policy::Orca,
            PolicyName::Auto => Policy::Auto,
        }
    }
}

/// When to use huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HugePages {
    /// With up to 8 shards
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// The least severe log lines to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// None.
    Off,
    /// Events that stop the service or lose data.
    Error,
    /// Events that an operator should look at.
    Warn,
    /// Starts, stops and changes for load balancers.
    Info,
    /// Every connection.
    Debug,
    /// Every message.
    Trace,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One object a line.
    Json,
}

//! Connectors: each makes one real load balancer (LB) use the weights of a GWM. A connector is an LB to the GWM, and runs
//! in a process of its own beside the real one.
//!
//! [`Connector`] is what one kind of LB must offer. [`run`](engine::run) is the same for all: it looks at the real LB,
//! registers what the LB balances, follows the weights, and lets the connector do what differs. It looks again each
//! half second; so a real LB that was restarted, or that someone else changed, gets the weights again.
//!
//! | file | what it owns | may know |
//! | --- | --- | --- |
//! | `scale` | weights in a narrower range | |
//! | `mapping` | names of the real LB ↔ names of groups | |
//! | `follower` | the thread that keeps a session with a GWM | |
//! | `figures` | what a real LB tells beside its members | |
//! | `status` | what the loop tells, and what it is asked | `figures` |
//! | `engine` | the loop | all above |
//! | `address` | where a real LB listens for commands; one exchange with it | |
//! | `admin` | the admin side: metrics, pools, health | `status`, `figures` |
//! | `dns` | a zone whose names show groups: its own, or another server's | `scale`, `address`, `figures` |
//! | `file` | a file from a template, and a command | `scale` |
//! | `haproxy` | HAProxy, by its runtime API | `scale`, `address` |
//! | `ipvs` | the kernel's IPVS, by generic netlink | `scale` |
//! | `nft` | nftables: rules in a table of their own | `scale` |
//! | `pen` | pen, by its control port | `scale`, `address` |
//! | `xds` | a control plane for Envoy and gRPC | `scale`, `file`, `figures` |

pub mod address;
#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "dns")]
pub mod dns;
pub mod engine;
pub mod figures;
pub mod file;
pub mod follower;
pub mod haproxy;
pub mod ipvs;
pub mod mapping;
pub mod nft;
pub mod pen;
pub mod scale;
pub mod status;
#[cfg(feature = "xds")]
pub mod xds;

use std::{fmt, time::Duration};

use thiserror::Error;

use crate::sasp::Endpoint;
pub use crate::{client::spec::MemberSpec, sasp::Standing};

/// One real load balancer.
///
/// `look` is called first, then each half second, and after each `apply`. `plan` compares what the last look saw with
/// what is wanted, and changes nothing: `--dry-run` prints its steps.
pub trait Connector {
    /// One change of the real LB; its text is for a person: `web/s1: weight 256 -> 64`.
    type Step: fmt::Display;

    /// Why the real LB can tell nothing of its members and of itself; `None`: [`Connector::observe`] asks it.
    const NOTHING_TO_OBSERVE: Option<&'static str> = None;

    /// Looks at the real LB: what it balances now.
    fn look(&mut self) -> Result<Vec<Pool>, Fault>;

    /// The steps that make the real LB use these weights; none if it does already. A pool that `wanted` does not name, a
    /// server that its pool does not name, and what an operator set by hand stay as they are.
    fn plan(&self, wanted: &[Wanted]) -> Vec<Self::Step>;

    /// The steps that give these pools (names of the real LB) the weights back that they had before `gwm`.
    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Self::Step>;

    /// Takes the steps, all at once if the real LB can, and notes what became of them. A step that the LB refuses does not
    /// stop the others; a fault does, and what was noted before stays true.
    fn apply(&mut self, steps: Vec<Self::Step>, applied: &mut Applied) -> Result<(), Fault>;

    /// Whether the real LB would let this connector change it; changes nothing. Called for `--check`, after `look`.
    fn check(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// What the real LB tells of its members, and of itself. Called when someone asks the admin side.
    fn observe(&mut self) -> Result<Observed, Fault> {
        Ok(Observed { nothing: Self::NOTHING_TO_OBSERVE, ..Observed::default() })
    }
}

/// What the real LB balances under one name: HAProxy's backend, an IPVS service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The real LB's name of the pool.
    pub name: Box<[u8]>,
    /// Its members, each endpoint once. A label is the real LB's name of the server, and may be empty.
    pub members: Vec<MemberSpec>,
}

/// What the members of a pool may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The real LB's name of the pool.
    pub pool: Box<[u8]>,
    /// All members of the pool's group; some may be unknown to the real LB: they registered themselves.
    pub members: Vec<WantedMember>,
    /// How long the session has lasted that these members come from. In a young one, members that register themselves may
    /// have yet to come back.
    pub session_age: Duration,
}

impl Wanted {
    /// Each member of the pool with the share that it has without a GWM.
    fn usual(pool: &Pool) -> Wanted {
        let member = |member: &MemberSpec| WantedMember {
            endpoint: member.endpoint,
            label: member.label.clone(),
            standing: Standing::Usual,
        };
        let members = pool.members.iter().map(member).collect();
        Wanted { pool: pool.name.clone(), members, session_age: Duration::ZERO }
    }
}

/// What one member may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedMember {
    /// Address, protocol and port.
    pub endpoint: Endpoint,
    /// The label from its registration.
    pub label: Box<[u8]>,
    /// What it may get.
    pub standing: Standing,
}

/// What the real LB tells: shown, not used for weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Why there is nothing to observe, if so.
    pub nothing: Option<&'static str>,
    /// Of its members.
    pub members: Vec<Observation>,
    /// Of itself.
    pub figures: Vec<figures::Figure>,
    /// Of its clients.
    pub clients: Vec<figures::Client>,
}

/// What the real LB tells of one member.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The real LB's name of the pool.
    pub pool: Box<[u8]>,
    /// The member.
    pub endpoint: Endpoint,
    /// Connections or sessions that are open now.
    pub open_connections: Option<u64>,
    /// Connections that are new, end or have ended, and that the real LB still knows.
    pub inactive_connections: Option<u64>,
    /// Connections or sessions since the real LB's start.
    pub connections: Option<u64>,
    /// Bytes to the member, and from it, since the real LB's start.
    pub bytes: (Option<u64>, Option<u64>),
    /// Failed connections and failed responses since the real LB's start.
    pub errors: Option<u64>,
    /// Mean response time of the last requests, in seconds.
    pub response_seconds: Option<f64>,
    /// The weight that the real LB uses, in its own range.
    pub weight: Option<u64>,
}

impl Observation {
    /// Nothing of this member.
    pub fn new(pool: &[u8], endpoint: Endpoint) -> Observation {
        Observation {
            pool: pool.into(),
            endpoint,
            open_connections: None,
            inactive_connections: None,
            connections: None,
            bytes: (None, None),
            errors: None,
            response_seconds: None,
            weight: None,
        }
    }
}

/// What `apply` did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Steps that the real LB has taken.
    pub done: usize,
    /// The texts of steps that the real LB refused, with its words.
    pub refused: Vec<String>,
}

/// The name of a standing, for programs.
pub fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Serving(_) => "serving",
        Standing::Usual => "usual",
        Standing::Idle => "idle",
        Standing::Quiesced => "quiesced",
        Standing::Down => "down",
    }
}

/// Why the real LB can not be used now. The next look may succeed.
#[derive(Debug, Error)]
pub enum Fault {
    /// No connection, or the connection broke.
    #[error("{what}: {error}")]
    Io {
        /// What was tried, on what: `connect to /run/haproxy/admin.sock`.
        what: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// The real LB answers what this connector does not understand, or refuses what it needs.
    #[error("{0}")]
    Answer(String),
}

//! What one check can find.

use std::fmt;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The member does what the check asks for.
    Passed,
    /// It does, and it said how busy it is.
    Load(Load),
    /// Its agent answered.
    Agent(Report),
    /// It does not, and the fault is the member's or its network's.
    Failed(Reason),
    /// The fault is this machine's: nothing was learned about the member.
    Inconclusive(Reason),
}

/// Why a check did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing listens at the port.
    Refused,
    /// No answer, or not all of it, within the timeout.
    TimedOut,
    /// A router or the member's host says that the way ends there.
    Unreachable,
    /// The member ended the connection before its answer did.
    Closed,
    /// An answer with this status, which is not one of those expected.
    Status(u16),
    /// An answer that is none, or a longer one than is taken.
    Malformed,
    /// The TLS handshake failed, or the certificate is not good.
    Tls,
    /// This machine has no route, no network or no address left.
    NoNetwork,
    /// This machine has no file descriptor, memory or buffer left.
    NoResources,
    /// The program that checks has a fault: this one check came to nothing.
    Fault,
}

impl fmt::Display for Reason {
    /// What happened, to follow "because".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Refused => "nothing listens at the port",
            Reason::TimedOut => "there was no whole answer within the timeout",
            Reason::Unreachable => "the member's host can not be reached",
            Reason::Closed => "the member ended the connection before its answer did",
            Reason::Status(status) => return write!(f, "the answer's status was {status}"),
            Reason::Malformed => "the answer was none, or too long",
            Reason::Tls => "the TLS handshake failed",
            Reason::NoNetwork => "this machine has no route, no network or no address left",
            Reason::NoResources => "this machine has no file descriptor, memory or buffer left",
            Reason::Fault => "gwm itself has a fault: please report it",
        })
    }
}

/// What a member's load report says (ORCA, xDS `OrcaLoadReport`); 0 where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Used share of its processors: 1 is all of them, and over 1 a backlog.
    pub cpu_utilization: f64,
    /// The application's own view of the same, which is the better one where it is given.
    pub application_utilization: f64,
    /// Used share of its memory.
    pub mem_utilization: f64,
    /// The highest of the metrics that the operator named for this member.
    pub named_utilization: f64,
    /// Requests a second.
    pub rps: f64,
    /// Errors a second.
    pub eps: f64,
}

/// What an agent's line says; what it does not say stays as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much work the member can take.
    pub weight: Option<AgentWeight>,
    /// What its administrator wants.
    pub administration: Option<Administration>,
    /// Whether it works: `up`, or `down`, `fail` and `stopped`.
    pub up: Option<bool>,
}

/// How an agent states how much work its member can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWeight {
    /// Of its capacity: `75%`, `weight:75%`. May be over 100.
    Percent(u16),
    /// Instead of its capacity: `weight:75`.
    Absolute(u16),
}

/// What a member's administrator wants; the words are HAProxy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Administration {
    /// Give it work.
    #[default]
    Ready,
    /// Give it no new work.
    Drain,
    /// Give it no work: somebody works on it.
    Maint,
}

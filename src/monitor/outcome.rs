//! The possible results of one check.

use std::fmt;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The member did what the check asks for.
    Passed,
    /// The member did so, and reported its load.
    Load(Load),
    /// The member's agent answered.
    Agent(Report),
    /// The member did not, by a fault of the member or of its network.
    Failed(Reason),
    /// The fault is this machine's: the check says nothing about the member.
    Inconclusive(Reason),
}

/// Why a check did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No process listens at the port.
    Refused,
    /// No answer within the timeout, or only a part of it.
    TimedOut,
    /// A router or the member's host reports that the member can not be reached.
    Unreachable,
    /// The member closed the connection before the end of its answer.
    Closed,
    /// The answer has this status, which is not an expected one.
    Status(u16),
    /// The body of the answer does not have what it must have.
    Content,
    /// The answer does not follow its protocol, or is too long.
    Malformed,
    /// The TLS handshake failed, or the certificate is not valid.
    Tls,
    /// This machine has no route, no network or no address left.
    NoNetwork,
    /// This machine has no file descriptor, memory or buffer left.
    NoResources,
    /// `gwm` has a bug: this one check was given up.
    Fault,
}

impl fmt::Display for Reason {
    /// A sentence that can follow "because".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Refused => "nothing listens at the port",
            Reason::TimedOut => "no whole answer came within the timeout",
            Reason::Unreachable => "the member's host can not be reached",
            Reason::Closed => "the member closed the connection before the end of its answer",
            Reason::Status(status) => return write!(f, "the answer's status was {status}"),
            Reason::Content => "the answer's body does not have what `match` asks for",
            Reason::Malformed => "the answer was malformed or too long",
            Reason::Tls => "the TLS handshake failed",
            Reason::NoNetwork => "this machine has no route, no network or no address left",
            Reason::NoResources => "this machine has no file descriptor, memory or buffer left",
            Reason::Fault => "gwm has a bug: please report it",
        })
    }
}

/// A member's load report (ORCA, xDS `OrcaLoadReport`); a field that the report does not have is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// The used share of the member's processors: 1 is all of them, more than 1 means a backlog.
    pub cpu_utilization: f64,
    /// The same as the application sees it; better than the value above if the report has it.
    pub application_utilization: f64,
    /// The used share of the member's memory.
    pub mem_utilization: f64,
    /// The highest of the metrics that the operator named for this member.
    pub named_utilization: f64,
    /// Requests a second.
    pub rps: f64,
    /// Errors a second.
    pub eps: f64,
}

/// An agent's line. For a field that is `None`, the last value stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much work the member can take.
    pub weight: Option<AgentWeight>,
    /// The wish of the member's administrator.
    pub administration: Option<Administration>,
    /// Whether the member works: true for `up`, false for `down`, `fail` and `stopped`.
    pub up: Option<bool>,
}

/// How an agent states how much work its member can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWeight {
    /// A percentage of the member's capacity, as in `75%` or `weight:75%`; may be over 100.
    Percent(u16),
    /// A weight in place of the member's capacity, as in `weight:75`.
    Absolute(u16),
}

/// The wish of a member's administrator, in HAProxy's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Administration {
    /// Give the member work.
    #[default]
    Ready,
    /// Give the member no new work.
    Drain,
    /// Give the member no work: it is under maintenance.
    Maint,
}

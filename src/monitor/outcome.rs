//! The possible results of one check.

use std::fmt;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The member did what the check asks for.
    Passed,
    /// The member did so, and reported its load.
    Load(Load),
    /// The member did so, and its load report can not be read.
    UnreadLoad,
    /// The member's agent answered.
    Agent(Report),
    /// The member did not, by a fault of the member or of its network.
    Failed(Reason),
    /// The fault is this machine's: the check says nothing about the member.
    Inconclusive(Reason),
}

impl Outcome {
    /// Whether the member answered; `None` if this machine is at fault.
    pub fn answered(&self) -> Option<bool> {
        match self {
            Outcome::Passed | Outcome::Load(_) | Outcome::UnreadLoad | Outcome::Agent(_) => Some(true),
            Outcome::Failed(reason) => Some(reason.is_answer()),
            Outcome::Inconclusive(_) => None,
        }
    }
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
    /// TLS failed.
    Tls(TlsFault),
    /// The answer is not HTTP/2.
    NoHttp2,
    /// The member ended HTTP/2 or the request with this error code.
    Http2(u32),
    /// The answer has this gRPC status.
    Grpc(u16),
    /// The member says by gRPC's health protocol that it is in this state.
    NotServing(u8),
    /// This machine has no route, no network or no address left.
    NoNetwork,
    /// This machine has no file descriptor, memory or buffer left.
    NoResources,
    /// `gwm` has a bug: this one check was given up.
    Fault,
}

/// Why TLS failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The answer is not TLS.
    NotTls,
    /// The member ended the connection in the handshake.
    Closed,
    /// The member speaks other versions of TLS only.
    Version,
    /// The member refuses the handshake without a reason (handshake_failure), or asks for what rustls does not have.
    NothingInCommon,
    /// The member knows no server of the name that the check asks for.
    UnknownName,
    /// The certificate has expired so many seconds ago.
    Expired(u32),
    /// The certificate is valid in so many seconds only.
    NotYetValid(u32),
    /// The certificate is of an authority that is not trusted.
    UnknownAuthority,
    /// The certificate is for other names.
    OtherName,
    /// The certificate is an authority's own.
    Authority,
    /// The certificate is for another purpose than a server's.
    Purpose,
    /// The certificate can not be read, as X.509 v1, or is signed in a way that rustls does not have.
    Certificate,
    /// The member asks for a certificate of `gwm`, or does not take the one that it gets.
    Client,
    /// The member sent another alert.
    Alert(u8),
    /// The member breaks the rules of TLS.
    Rules,
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            TlsFault::NotTls => "the member does not speak TLS at this port",
            TlsFault::Closed => "the member closed the connection in the TLS handshake",
            TlsFault::Version => "the member has no TLS version that gwm has: 1.2 and 1.3",
            TlsFault::NothingInCommon => {
                "the member refuses the TLS handshake: it has no cipher, key exchange or kind of key that gwm has (ECDHE \
                 with AES-GCM or ChaCha20; neither CBC nor RSA key exchange), or it wants a client certificate"
            }
            TlsFault::UnknownName => "the member has no certificate for the server name that the check asks for",
            TlsFault::Expired(seconds) => {
                return write!(f, "the member's certificate has expired {} ago", Span(*seconds));
            }
            TlsFault::NotYetValid(seconds) => {
                return write!(f, "the member's certificate is not valid yet, but in {}", Span(*seconds));
            }
            TlsFault::UnknownAuthority => "the member's certificate is of an authority that is not trusted here",
            TlsFault::OtherName => "the member's certificate is for another name or address",
            TlsFault::Authority => {
                "the member's certificate is an authority's own: give this very certificate as ca to trust it"
            }
            TlsFault::Purpose => "the member's certificate is not for servers",
            TlsFault::Certificate => {
                "the member's certificate can not be read, or is signed in a way that gwm does not know: give this very \
                 certificate as ca to trust it"
            }
            TlsFault::Client => "the member wants another client certificate than it gets",
            TlsFault::Alert(alert) => return write!(f, "the member ended TLS with the alert {alert}"),
            TlsFault::Rules => "the member breaks the rules of TLS",
        };
        f.write_str(text)
    }
}

/// A time in seconds, rounded down to its largest unit.
struct Span(u32);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("day", 24 * 3600), ("hour", 3600), ("minute", 60), ("second", 1)];
        let (name, count) = units
            .map(|(name, unit)| (name, self.0 / unit))
            .into_iter()
            .find(|(_, count)| *count > 0)
            .unwrap_or(("second", 0));
        write!(f, "{count} {name}{}", if count == 1 { "" } else { "s" })
    }
}

impl Reason {
    /// The kind of the reason, without its details.
    pub fn kind(self) -> &'static str {
        match self {
            Reason::Refused => "refused",
            Reason::TimedOut => "timeout",
            Reason::Unreachable => "unreachable",
            Reason::Closed => "closed",
            Reason::Status(_) => "status",
            Reason::Content => "content",
            Reason::Malformed => "malformed",
            Reason::Tls(_) => "tls",
            Reason::NoHttp2 | Reason::Http2(_) => "http2",
            Reason::Grpc(_) | Reason::NotServing(_) => "grpc",
            Reason::NoNetwork => "no network",
            Reason::NoResources => "no resources",
            Reason::Fault => "fault",
        }
    }

    /// Whether the member answered, however badly: then the network between it and this machine works. A refused
    /// connection is no proof, because a firewall near this machine can refuse it, too.
    pub fn is_answer(self) -> bool {
        !matches!(
            self,
            Reason::Refused
                | Reason::TimedOut
                | Reason::Unreachable
                | Reason::NoNetwork
                | Reason::NoResources
                | Reason::Fault
        )
    }
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
            Reason::Tls(fault) => return fault.fmt(f),
            Reason::NoHttp2 => "the member does not speak HTTP/2 at this port",
            Reason::Http2(code) => return write!(f, "the member ended HTTP/2 with the error code {code}"),
            Reason::Grpc(5) => {
                "the member does not know the service whose health grpc.service asks for (gRPC status 5)"
            }
            Reason::Grpc(12) => "the member does not have the service grpc.health.v1.Health (gRPC status 12)",
            Reason::Grpc(status) => return write!(f, "the answer's gRPC status was {status}"),
            Reason::NotServing(0) => "the member says UNKNOWN by gRPC's health protocol",
            Reason::NotServing(2) => "the member says NOT_SERVING by gRPC's health protocol",
            Reason::NotServing(3) => "the member says SERVICE_UNKNOWN by gRPC's health protocol",
            Reason::NotServing(state) => return write!(f, "the member's state by gRPC's health protocol was {state}"),
            Reason::NoNetwork => "this machine has no route, no network or no address left",
            Reason::NoResources => "this machine has no file descriptor, memory or buffer left",
            Reason::Fault => "gwm has a bug: please report it",
        })
    }
}

/// A member's load report (ORCA, xDS `OrcaLoadReport`); `None` is a value that the report does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// The used share of the member's processors: 1 is all of them, more than 1 means a backlog.
    pub cpu_utilization: Option<f64>,
    /// The same as the application sees it; better than the value above if the report has it.
    pub application_utilization: Option<f64>,
    /// The used share of the member's memory.
    pub mem_utilization: Option<f64>,
    /// The highest of the metrics that the operator named for this member.
    pub named_utilization: Option<f64>,
    /// Which of these metrics the report does not have: bit 0 is the first name. Only the first 32 names count.
    pub lacks: u32,
    /// Requests a second.
    pub rps: Option<f64>,
    /// Errors a second; 0 if the report does not have them.
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
    /// What the agent adds for people.
    pub text: AgentText,
}

/// The text after `#` in an agent's line, cut off after [`AgentText::BYTES`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AgentText {
    length: u8,
    bytes: [u8; AgentText::BYTES],
}

impl AgentText {
    /// The most bytes that are kept.
    pub const BYTES: usize = 95;

    /// Keeps the text, without blanks around it.
    pub fn new(text: &[u8]) -> AgentText {
        let text = text.trim_ascii();
        let text = text.get(..AgentText::BYTES).unwrap_or(text);
        let mut kept = AgentText { length: text.len() as u8, ..AgentText::default() };
        kept.bytes.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        kept
    }

    /// The bytes of the text.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl Default for AgentText {
    fn default() -> AgentText {
        AgentText { length: 0, bytes: [0; AgentText::BYTES] }
    }
}

impl fmt::Debug for AgentText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.bytes().escape_ascii())
    }
}

/// How an agent states how much work its member can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWeight {
    /// A percentage of the member's capacity, as in `75%` or `weight:75%`; may be over 100.
    Percent(u16),
    /// A weight in place of the member's capacity, as in `weight:75`.
    Absolute(u16),
}

impl fmt::Display for AgentWeight {
    /// As an agent writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgentWeight::Percent(percent) => write!(f, "{percent}%"),
            AgentWeight::Absolute(weight) => write!(f, "weight:{weight}"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_unit() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "1 minute"),
            (7200, "2 hours"),
            (3 * 86_400 + 3600, "3 days"),
            (u32::MAX, "49710 days"),
        ] {
            assert_eq!(Span(seconds).to_string(), text);
        }
        let expired = Reason::Tls(TlsFault::Expired(3 * 86_400)).to_string();
        assert_eq!(expired, "the member's certificate has expired 3 days ago");
    }
}

//! Checks and their settings.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use regex::bytes::Regex;

/// The wanted checks of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Beside `checks`, the plainest possible check: TCP, else ICMP.
    pub auto: bool,
    /// Each kind at most once. If empty, and not `auto`, the member stays unknown.
    pub checks: Arc<[Check]>,
}

/// One kind of check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection to the member's port.
    Tcp,
    /// An ICMP echo to the member's address.
    Icmp,
    /// An HTTP request; the answer may have the member's load report.
    Http(Arc<Http>),
    /// gRPC's health protocol.
    Grpc(Arc<Grpc>),
    /// HAProxy's agent-check.
    Agent(Arc<AgentCheck>),
}

/// The version of the PROXY protocol whose header begins a check's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// A binary header.
    V2,
}

/// The request of a check by gRPC's health protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grpc {
    /// The service whose health is asked for; empty for the server as a whole.
    pub service: String,
    /// The `:authority` of the request; if `None`, address and port.
    pub host: Option<String>,
    /// The port; if `None`, the member's own port.
    pub port: Option<u16>,
    /// Metrics of the load report that are the utilisation, as in `named_metrics.queue`.
    pub utilization: Vec<String>,
    /// The TLS settings; `None` for cleartext.
    pub tls: Option<Tls>,
}

/// The request of an HTTP check, and which answers are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// A token of RFC 9110, as in `GET`.
    pub method: String,
    /// The request target, as in `/health?deep=1`.
    pub path: String,
    /// The Host header; if `None`, address and port.
    pub host: Option<String>,
    /// The port; if `None`, the member's own port.
    pub port: Option<u16>,
    /// Further fields of the request; a field of this name that `gwm` sends by itself is left out.
    pub headers: Vec<(String, String)>,
    /// The body of the request; may be empty.
    pub body: Vec<u8>,
    /// The status codes of a good answer.
    pub expect: Vec<RangeInclusive<u16>>,
    /// What the body of a good answer has; `None` if any body is good.
    pub content: Option<Content>,
    /// Metrics of the load report that are the utilisation, as in `named_metrics.queue`.
    pub utilization: Vec<String>,
    /// The TLS settings of https.
    pub tls: Option<Tls>,
}

impl Default for Http {
    /// `GET /` at the member's own port; status 200 to 399 is good.
    fn default() -> Http {
        Http {
            method: "GET".into(),
            path: "/".into(),
            host: None,
            port: None,
            headers: Vec::new(),
            body: Vec::new(),
            expect: vec![200..=399],
            content: None,
            utilization: Vec::new(),
            tls: None,
        }
    }
}

/// What the body of an answer must have.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Text(Vec<u8>),
    /// A match of this expression.
    Regex(Regex),
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Text(own), Content::Text(other)) => own == other,
            (Content::Regex(own), Content::Regex(other)) => own.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Eq for Content {}

/// The TLS settings of a check.
#[derive(Clone)]
pub struct Tls {
    /// The name that the check asks for (SNI) and the certificate must have; if `None`, the member's address.
    pub server_name: Option<String>,
    /// The configuration, ready to use.
    pub config: Arc<rustls::ClientConfig>,
    /// The source of `config`. A reload compares it.
    pub source: TlsSource,
}

/// The operator's TLS settings, with the content of files.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSource {
    /// Whether the member's certificate is checked.
    pub verify: bool,
    /// Certificates (PEM) of the trusted authorities; if `None`, those that this machine trusts.
    pub ca: Option<Vec<u8>>,
    /// Certificate chain and private key (PEM) of `gwm`, for members that ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Tls) -> bool {
        self.server_name == other.server_name && self.source == other.source
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .field("verify", &self.source.verify)
            .finish_non_exhaustive()
    }
}

/// The settings of HAProxy's agent-check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCheck {
    /// The agent's TCP port, at the member's address.
    pub port: u16,
    /// The bytes to send before the answer is read; may be empty.
    pub send: Vec<u8>,
}

/// When to check a member, and how many results in a row change its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The time from one check to the next.
    pub interval: Duration,
    /// The time from one check to the next while the next result may change the member's state.
    pub fast_interval: Duration,
    /// The time limit of one check.
    pub timeout: Duration,
    /// So many good checks in a row bring a member up; at least 1.
    pub rise: u8,
    /// So many bad checks in a row take a member down; at least 1.
    pub fall: u8,
}

impl Times {
    /// The longest time from a member's failure to its being down. Members that fail together go down within it.
    pub fn fall_window(&self) -> Duration {
        self.window(self.fall)
    }

    /// The longest time from a down member's return to its being up.
    pub fn rise_window(&self) -> Duration {
        self.window(self.rise)
    }

    /// The longest time that so many checks in a row take.
    fn window(&self, checks: u8) -> Duration {
        self.interval + self.fast_interval * u32::from(checks.saturating_sub(1)) + self.timeout
    }
}

impl Default for Times {
    /// HAProxy's defaults.
    fn default() -> Times {
        let interval = Duration::from_secs(2);
        Times { interval, fast_interval: interval, timeout: interval, rise: 2, fall: 3 }
    }
}

/// How agents' statements and load reports count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportRules {
    /// The longest time constant with which the statements of an agent that swings are smoothed; 0: never smoothed.
    pub agent_smoothing: Duration,
    /// Time constant of the smoothing of rates: after this time, the smoothed rate has made 63 % of a step. Reported rates
    /// are means already and do not depend on the weight, so a longer time only makes a server that slows down overflow.
    pub rate_smoothing: Duration,
    /// A change of less than this percentage does not change a verdict, except for the statement of a steady agent.
    pub dead_band_percent: u8,
    /// The lifetime of a report. After it, the member counts as one that never reported. At least the interval of the
    /// checks.
    pub lifetime: Duration,
}

impl Default for ReportRules {
    /// The constants that did best in the simulation (tests/library/simulator), and gRPC's lifetime.
    fn default() -> ReportRules {
        ReportRules {
            agent_smoothing: Duration::from_secs(60),
            rate_smoothing: Duration::from_millis(500),
            dead_band_percent: 5,
            lifetime: Duration::from_secs(180),
        }
    }
}

impl Monitor {
    /// No check.
    pub fn none() -> Monitor {
        Monitor { auto: false, checks: [].into() }
    }

    /// The plainest possible check.
    pub fn auto() -> Monitor {
        Monitor { auto: true, checks: [].into() }
    }

    /// These checks.
    pub fn of(checks: impl Into<Arc<[Check]>>) -> Monitor {
        Monitor { auto: false, checks: checks.into() }
    }
}

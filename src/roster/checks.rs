//! How a member is checked.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

/// The checks that a member is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// The plainest check that applies, beside `checks`.
    pub auto: bool,
    /// Each kind at most once. None, and not `auto`: nothing is known about the member.
    pub checks: Arc<[Check]>,
}

/// One kind of check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection to the member's port.
    Tcp,
    /// An ICMP echo to its address.
    Icmp,
    /// An HTTP request, the member's load report in its answer included.
    Http(Arc<Http>),
    /// HAProxy's agent-check.
    Agent(Arc<AgentCheck>),
}

/// What to ask an HTTP server, and which answers are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// A token of RFC 9110, as in `GET`.
    pub method: String,
    /// The request target, as in `/health?deep=1`.
    pub path: String,
    /// The Host header; else address and port.
    pub host: Option<String>,
    /// Where to ask, if not at the member's own port.
    pub port: Option<u16>,
    /// Status codes that mean that the member is well.
    pub expect: Vec<RangeInclusive<u16>>,
    /// Metrics of the load report, as in `named_metrics.queue`, that are utilisations to go by.
    pub utilization: Vec<String>,
    /// For https.
    pub tls: Option<Tls>,
}

impl Default for Http {
    /// `GET /` at the member's own port, of which any answer but an error is good.
    fn default() -> Http {
        Http {
            method: "GET".into(),
            path: "/".into(),
            host: None,
            port: None,
            expect: vec![200..=399],
            utilization: Vec::new(),
            tls: None,
        }
    }
}

/// How to speak TLS with a member.
#[derive(Clone)]
pub struct Tls {
    /// Who the member must prove to be and is asked for (SNI); else its address.
    pub server_name: Option<String>,
    /// How, ready to use.
    pub config: Arc<rustls::ClientConfig>,
    /// From what `config` was made, to tell whether a reload changed it.
    pub source: TlsSource,
}

/// What the operator gives for TLS, the content of files included.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSource {
    /// Whether the member's certificate is checked.
    pub verify: bool,
    /// Certificates (PEM) of the authorities to trust; else those that this machine trusts.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate chain and private key (PEM), for members that ask.
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

/// Where a member's agent is, and what to send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCheck {
    /// Its TCP port, at the member's address.
    pub port: u16,
    /// Sent before its answer is read; may be empty.
    pub send: Vec<u8>,
}

/// When a member is checked, and how many results it takes to believe them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From one check to the next.
    pub interval: Duration,
    /// The same while the member's state is in doubt.
    pub fast_interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Good checks in a row after which a member that was down is up; at least 1.
    pub rise: u8,
    /// Bad checks in a row after which a member that was up is down; at least 1.
    pub fall: u8,
}

impl Default for Times {
    /// HAProxy's defaults.
    fn default() -> Times {
        let interval = Duration::from_secs(2);
        Times { interval, fast_interval: interval, timeout: interval, rise: 2, fall: 3 }
    }
}

impl Monitor {
    /// Nothing.
    pub fn none() -> Monitor {
        Monitor { auto: false, checks: [].into() }
    }

    /// The plainest check that applies.
    pub fn auto() -> Monitor {
        Monitor { auto: true, checks: [].into() }
    }

    /// These checks.
    pub fn of(checks: impl Into<Arc<[Check]>>) -> Monitor {
        Monitor { auto: false, checks: checks.into() }
    }
}

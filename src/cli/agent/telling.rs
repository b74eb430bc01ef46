//! Flags about what the agent tells those who ask.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::duration;
use crate::agent::{
    answers::{Weight, given},
    load::{self, http::Url, kernel::Subject, log::Unit, page::Selector},
};

/// The range of the time between two readings.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);

/// Flags about a service that the file has, too: `--load-of` and the others are keys of the table `load` there.
#[derive(clap::Args)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadArgs {
    /// Answer agent-checks at this address and port, as HAProxy and `monitor = "agent"` of a GWM make them: `ready up 75%`,
    /// `down`, `maint`, `drain`; repeatable. Without TLS: for networks that you trust
    #[arg(long, env = "GWM_AGENT_CHECK_LISTEN", value_name = "ADDR", value_parser = given::address, value_delimiter = ',')]
    agent_listen: Vec<SocketAddr>,
    /// What the weight of an agent-check says: `capacity` (the CPU that the service could have, in percent of
    /// --nominal-cores), `absolute` (`weight:N`, 10 for each GHz of each core that the service could have; for GWMs, not for
    /// HAProxy), `idle` (the idle share of the CPU), `none` [default: capacity]
    #[arg(long, env = "GWM_AGENT_WEIGHT", value_name = "WHAT")]
    agent_weight: Option<Weight>,
    /// The cores that are 100 %, 0.01 to 65536: the same for all members of a group [default: the CPUs of the machine]
    #[arg(long, env = "GWM_NOMINAL_CORES", value_name = "CORES", value_parser = nominal_cores)]
    nominal_cores: Option<f64>,
    /// Whose CPU, memory and pressure count: `process` (the control group of the service's process, if the agent started the
    /// service or checks it by `pid:`; else the machine), `machine`, `unit:NAME.service`, `cgroup:/DIRECTORY` [default:
    /// process]. In the file: `of`
    #[arg(long, env = "GWM_LOAD_OF", value_name = "WHAT")]
    load_of: Option<Subject>,
    /// A metrics page of the service in Prometheus' form: http://127.0.0.1:9100/metrics. In the file: `metrics`
    #[arg(long, env = "GWM_LOAD_METRICS", value_name = "URL")]
    load_metrics: Option<Url>,
    /// The counter of requests there, if that of --load-latency is not it: NAME, or NAME{LABEL="VALUE",LABEL=~"REGEX"} with =,
    /// !=, =~ and !~. In the file: `requests`
    #[arg(long, env = "GWM_LOAD_REQUESTS", value_name = "SERIES")]
    load_requests: Option<Selector>,
    /// The counter of failed requests there, in the same form. In the file: `errors`
    #[arg(long, env = "GWM_LOAD_ERRORS", value_name = "SERIES")]
    load_errors: Option<Selector>,
    /// The histogram or summary of latencies there, without _bucket, in the same form; in seconds, unless the name ends with
    /// another unit. In the file: `latency`
    #[arg(long, env = "GWM_LOAD_LATENCY", value_name = "SERIES")]
    load_latency: Option<Selector>,
    /// Count requests in the service's access log instead: common or combined form. In the file: `log`
    #[arg(long, env = "GWM_LOAD_LOG", value_name = "FILE")]
    load_log: Option<PathBuf>,
    /// The last field of each line there is the time that the request took, in `s`, `ms` or `us`. In the file: `log_time`
    #[arg(long, env = "GWM_LOAD_LOG_TIME", value_name = "UNIT")]
    load_log_time: Option<Unit>,
}

fn nominal_cores(text: &str) -> Result<f64, String> {
    given::nominal_cores(text.parse().map_err(|_| format!("`{text}` is not a number"))?)
}

impl LoadArgs {
    pub(super) fn given(self) -> given::Given {
        given::Given {
            load: load::given::Given {
                of: self.load_of,
                metrics: self.load_metrics,
                requests: self.load_requests,
                errors: self.load_errors,
                latency: self.load_latency,
                log: self.load_log,
                log_time: self.load_log_time,
            },
            agent_listen: self.agent_listen,
            agent_weight: self.agent_weight,
            nominal_cores: self.nominal_cores,
        }
    }
}

/// Flags about all services.
#[derive(clap::Args)]
#[command(next_help_heading = "Load")]
pub(super) struct AnswersArgs {
    /// Answer HTTP at this address and port: load reports (ORCA) at /orca, Kemp's number at /load, /metrics; repeatable.
    /// With several services, /orca/NAME and /load/NAME. Without TLS: for networks that you trust
    #[arg(long, env = "GWM_HTTP_LISTEN", value_name = "ADDR", value_parser = given::address, value_delimiter = ',')]
    pub(super) http_listen: Vec<SocketAddr>,
    /// From one reading of the CPU, of pages and of logs to the next: 100ms to 10m. Figures are about this time
    #[arg(long, env = "GWM_LOAD_INTERVAL", value_name = "DURATION", default_value = "5s", value_parser = duration(INTERVALS))]
    pub(super) load_interval: Duration,
}

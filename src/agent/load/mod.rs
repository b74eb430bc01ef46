//! How a service is: figures from the kernel's counters, and from what the service tells of its requests.
//!
//! | figure | unit | formula | source |
//! | --- | --- | --- | --- |
//! | limit | cores | the least quota of the control group and of those above, or the CPUs that the service may run on | `cpu.max` (v1: `cpu.cfs_quota_us` / `cpu.cfs_period_us`); `Cpus_allowed_list`, `cpuset.cpus.effective` |
//! | used | cores | CPU time of the control group / time; without a group of its own: the CPUs − free | `cpu.stat` (v1: `cpuacct.usage`) |
//! | free | cores | for each of these CPUs: (idle + iowait + nice) / all ticks | `/proc/stat` |
//! | available | cores | used + the lesser of (limit − used) and (free + half of what others use) | |
//! | CPU utilisation | 0 to 1 | used / available | |
//! | idle share | 0 to 1 | 1 − CPU utilisation | |
//! | memory utilisation | 0 to 1 | the greatest of (current − inactive files) / limit of each group, and 1 − available / total of the machine | `memory.current`, `memory.stat`, `memory.max`, `memory.high`; `/proc/meminfo` |
//! | pressure: CPU, memory, I/O | 0 to 1 | share of the last 10 s in which some task waited | `cpu.pressure` and others of the group, else `/proc/pressure` |
//! | class | 0 to 3 | calm < 5 % ≤ some < 20 % ≤ high < 50 % ≤ stalled: of the greatest pressure | |
//! | requests, errors | 1/s | rise of the counters / time | metrics page, access log (errors: status 500 and above) |
//! | mean latency | s | rise of the sum / rise of the count | histogram or summary; log |
//! | p99 latency | s | 0.99 quantile of the rises of the buckets, in proportion within one; of a summary its own | histogram, summary, log |
//! | capacity | weight | 10 × available × GHz, at least 1; the hint for a members file: 10 × limit × GHz | `base_frequency`, `cpuinfo_max_freq` or `/proc/cpuinfo` |
//!
//! Times are those between two readings, `--load-interval` apart. Nothing is smoothed here: the GWM smooths what agents
//! and load reports say.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`cpu`], [`memory`], [`requests`] | counters → figures |
//! | [`capacity`] | the machine's frequency → a weight |
//! | [`groups`] | where the control groups of a process are |
//! | [`page`], [`log`] | a metrics page, an access log → counts |
//! | [`http`] | gets a page |
//! | [`given`] | flags and the TOML file → where figures come from |
//! | [`kernel`] | reads the kernel's files |
//! | [`sampler`] | takes readings, keeps the figures of each service |

pub mod capacity;
pub mod cpu;
pub mod given;
pub mod groups;
pub mod http;
pub mod kernel;
pub mod log;
pub mod memory;
pub mod page;
pub mod requests;
pub mod sampler;

use self::{cpu::Cpu, memory::Pressure, requests::Requests};

/// How a service is, over the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// The CPU.
    pub cpu: Option<Cpu>,
    /// The used share of its memory, 0 to 1.
    pub memory: Option<f64>,
    /// How long its tasks wait.
    pub pressure: Pressure,
    /// Its requests.
    pub requests: Requests,
    /// The frequency of the machine's CPUs, in GHz.
    pub ghz: Option<f64>,
    /// The machine's CPUs.
    pub cores: f64,
}

impl Figures {
    /// The weight that the available cores are worth.
    pub fn capacity(&self) -> Option<u16> {
        Some(capacity::hint(self.cpu?.available, self.ghz?))
    }

    /// The weight that the cores are worth that the service may have at most.
    pub fn capacity_hint(&self) -> Option<u16> {
        Some(capacity::hint(self.cpu?.limit, self.ghz?))
    }
}

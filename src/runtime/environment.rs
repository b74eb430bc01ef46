//! What the machine offers, and whether it is enough; every refusal is one line with its remedy.

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::sched_getaffinity,
};

use super::{probe, sys};
use crate::config::{Config, Host};

/// Below this glommio refuses to start.
const MEMLOCK_BYTES: u64 = 512 << 10;

/// What this process may use.
pub fn host() -> Host {
    let cpus = match sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    };
    let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    Host { cpus, descriptors }
}

/// Raises this process's own limits to what the configuration takes, and checks what can not be raised.
pub fn prepare(config: &Config) -> Result<(), String> {
    raise(Resource::Nofile, config.descriptors).map_err(|limit| {
        format!(
            "{} file descriptors are needed and the limit stays at {limit}: raise it (ulimit -n, or LimitNOFILE= in a \
             systemd unit), or lower --max-connections or --max-probes",
            config.descriptors
        )
    })?;
    raise(Resource::Memlock, MEMLOCK_BYTES).map_err(|limit| {
        format!(
            "io_uring needs {} KiB of locked memory and the limit is {} KiB: raise it (ulimit -l, LimitMEMLOCK= in a \
             systemd unit, --ulimit memlock=-1 in a container)",
            MEMLOCK_BYTES >> 10,
            limit >> 10
        )
    })?;
    if config.settings.roster.names_icmp() {
        probe::may_echo()?;
    }
    sys::probe_io_uring().map_err(|error| {
        format!(
            "this process may not use io_uring ({error}): it takes Linux 5.8 or later, kernel.io_uring_disabled = 0 \
             (sysctl), and a container whose seccomp profile allows io_uring_setup"
        )
    })
}

/// Raises the soft limit to `needed` if it is lower; the limit that remains if that is refused.
fn raise(resource: Resource, needed: u64) -> Result<(), u64> {
    let limit = getrlimit(resource);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= needed {
        return Ok(());
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum.map(|maximum| maximum.max(needed)) };
    setrlimit(resource, raised).map_err(|_| current)
}

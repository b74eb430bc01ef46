//! What the machine offers, and whether it is enough; every refusal is one line with its remedy.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::sched_getaffinity,
};

use super::sys;
use crate::{
    config::{Config, Host},
    runtime::probe,
};

/// Below this glommio refuses to start.
const MEMLOCK_BYTES: u64 = 512 << 10;

/// Threads beside the shards': the log's, the signals' and the coordinator's.
const THREADS_BASE: usize = 3;

/// A shard's own, and the one that glommio gives it.
const THREADS_PER_SHARD: usize = 2;

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
    let threads = THREADS_BASE + THREADS_PER_SHARD * config.shard_cpus.len();
    threads_at_once(threads, |main| thread::Builder::new().spawn(main)).map_err(|error| {
        format!(
            "{threads} threads are needed, and not all of them can be started ({error}): raise the limit (ulimit -u, \
             TasksMax= in a systemd unit, --pids-limit for a container), or give fewer --shards"
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

/// Whether so many threads can be there at once. They are tried before they are needed, because not all that start
/// threads later can be told of a failure: tracing-appender and glommio panic.
fn threads_at_once(
    count: usize,
    start: impl Fn(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>,
) -> io::Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    while outcome.is_ok() && threads.len() < count {
        let over = over.clone();
        let wait = move || {
            while !over.load(Ordering::Acquire) {
                thread::park();
            }
        };
        outcome = start(Box::new(wait)).map(|thread| threads.push(thread));
    }
    over.store(true, Ordering::Release);
    for thread in threads {
        thread.thread().unpark();
        let _ = thread.join(); // it does nothing that could panic
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn threads_are_tried_all_at_once_and_end() {
        for (count, most) in [(5, 5), (5, 4), (3, 0)] {
            let running = Arc::new(AtomicBool::new(true));
            let started = Cell::new(0);
            let outcome = threads_at_once(count, |main| {
                if started.get() == most {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                started.set(started.get() + 1);
                assert!(running.load(Ordering::Acquire), "one has ended before all were there");
                let running = running.clone();
                thread::Builder::new().spawn(move || {
                    main();
                    running.store(false, Ordering::Release);
                })
            });
            // All have ended by now, and none before the last one was there.
            assert_eq!((outcome.is_ok(), started.get()), (most >= count, most.min(count)));
            assert_eq!(running.load(Ordering::Acquire), started.get() == 0);
        }
    }
}

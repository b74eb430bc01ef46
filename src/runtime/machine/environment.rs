//! Checks at the start that the machine offers all that the daemon needs.

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
    thread::{disable_transparent_huge_pages, sched_getaffinity},
};

use super::sys;
use crate::{
    config::{Config, Host},
    runtime::{Error, probe},
};

/// Below this glommio refuses to start.
const MEMLOCK_BYTES: u64 = 512 << 10;

/// Threads beside the shards' that are yet to start: the log's and the coordinator's.
const THREADS_BASE: usize = 2;

/// A shard's own thread, and the one that glommio adds.
const THREADS_PER_SHARD: usize = 2;

/// The CPUs and file descriptors that this process may use.
pub fn host() -> Host {
    let cpus = match sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    };
    let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    Host { cpus, descriptors }
}

/// Raises this process's limits to what the configuration needs, switches huge pages off if it does not want them, and
/// checks the rest.
pub fn prepare(config: &Config) -> Result<(), Error> {
    if !config.huge_pages {
        // A kernel that refuses this gives huge pages, which only take more memory.
        let _ = disable_transparent_huge_pages(true);
    }
    let needed = config.descriptors;
    raise(Resource::Nofile, needed).map_err(|limit| Error::Descriptors { needed, limit })?;
    let needed = MEMLOCK_BYTES;
    raise(Resource::Memlock, needed).map_err(|limit| Error::LockedMemory { needed, limit })?;
    let needed = THREADS_BASE + THREADS_PER_SHARD * config.shard_cpus.len();
    threads_at_once(needed, |main| thread::Builder::new().spawn(main))
        .map_err(|error| Error::Threads { needed, error })?;
    if config.settings.roster.names_icmp() {
        probe::may_echo()?;
    }
    sys::probe_io_uring().map_err(Error::IoUring)
}

/// Raises the soft limit to `needed` if it is lower; an error is the limit that remains.
fn raise(resource: Resource, needed: u64) -> Result<(), u64> {
    let limit = getrlimit(resource);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= needed {
        return Ok(());
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum.map(|maximum| maximum.max(needed)) };
    setrlimit(resource, raised).map_err(|_| current)
}

/// Checks that so many threads can run at once. They are tried before they are needed, because tracing-appender and
/// glommio panic if a thread can not be started.
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

//! Executors, and all workarounds for faults of glommio 0.9.0 in them.
//!
//! - glommio can park although tasks are runnable: this happens when the preemption timer, or a wake of a
//!   latency-sensitive queue, fires between polling for I/O and running tasks. So the timer is set to an hour, and there is
//!   only the default queue, which is not latency-sensitive. Fairness is each task's own duty: a task works for about a
//!   [`TIME_SLICE`] and then awaits I/O, a bell or [`turn`]. `tests/stall.rs` tests this. In addition, every executor of
//!   the daemon has a timer that ends a sleep after [`HEARTBEAT`] at most.
//! - The kernel counts the memory locked for rings per user, and gives it back some time after the end of a process: a
//!   daemon that is restarted may have to try more than once.
//! - By default an executor takes 10 MiB for file I/O, which the daemon does not do.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, timer::Timer};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{runtime::Error, time::Time};

/// How long a task may work before it lets the reactor turn.
pub const TIME_SLICE: Duration = Duration::from_micros(500);

/// The longest sleep of an executor of the daemon.
pub const HEARTBEAT: Duration = Duration::from_millis(250);

/// How long the building of an executor is tried again.
const BUILD_RETRIES: Duration = Duration::from_secs(3);

/// Runs a future on an executor on its own thread, pinned to a CPU if one is given. The thread's result is an error if
/// the machine refuses the executor.
pub fn spawn<F, T>(
    name: &str,
    cpu: Option<usize>,
    main: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<Result<T, Error>>>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let label = name.to_owned();
    pinned(name, cpu, move || Ok(build(&label)?.run(main())))
}

/// Runs a function on a thread of its own, pinned to a CPU if one is given.
pub fn pinned<T: Send + 'static>(
    name: &str,
    cpu: Option<usize>,
    main: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let label = name.to_owned();
    thread::Builder::new().name(name.into()).spawn(move || {
        if let Some(cpu) = cpu {
            let mut set = CpuSet::new();
            set.set(cpu);
            // A thread that is not pinned is slower, not wrong: the CPU may have been taken away since the start.
            if let Err(error) = sched_setaffinity(None, &set) {
                tracing::warn!("{label} is not pinned to CPU {cpu}: {error}");
            }
        }
        main()
    })
}

fn build(name: &str) -> Result<LocalExecutor, Error> {
    let start = Instant::now();
    loop {
        let built = LocalExecutorBuilder::new(Placement::Unbound)
            .name(name)
            .io_memory(64 << 10)
            .ring_depth(512)
            .preempt_timer(Duration::from_secs(3600))
            .make();
        match built {
            Ok(executor) => return Ok(executor),
            Err(_) if start.elapsed() < BUILD_RETRIES => thread::sleep(Duration::from_millis(50)),
            Err(error) => {
                return Err(Error::Executor { name: name.to_owned(), error: error.to_string() });
            }
        }
    }
}

/// Lets the reactor turn: I/O is polled, wakes from other threads arrive, other tasks run. (A task that only yields
/// runs again before all of this.)
pub async fn turn() {
    Timer::new(Duration::from_micros(1)).await;
}

/// Waits for a time.
pub async fn sleep(time: Duration) {
    Timer::new(time).await;
}

/// A timer that is armed again only for an earlier time, because a needless wake costs less than to arm it each time.
#[derive(Default)]
pub(crate) struct Alarm(Option<(Time, Timer)>);

impl Alarm {
    /// Arms the timer for `until` or earlier.
    pub(crate) fn set(&mut self, now: Time, until: Time) {
        if self.0.as_ref().is_none_or(|(at, _)| *at > until) {
            self.0 = Some((until, Timer::new(Duration::from_nanos(until.0 - now.0))));
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, timer)) = &mut self.0 else { return Poll::Pending };
        let fired = Pin::new(timer).poll(cx).map(|_| ());
        if fired.is_ready() {
            self.0 = None;
        }
        fired
    }
}

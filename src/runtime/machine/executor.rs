//! Executors, and every way around a fault of glommio 0.9.0 that concerns them.
//!
//! - Between polling for I/O and running tasks it can come to believe that nothing is runnable, and park: when the
//!   preemption timer fires there, or a wake of a latency-sensitive queue. So that timer is set to an hour, there
//!   is only the default queue, which is not latency-sensitive, and fairness is each task's own business: it does
//!   a bounded piece of work (about [`TURN`]) and then awaits I/O, a bell or [`turn`]. `tests/stall.rs` keeps watch.
//!   Beyond that, every executor of the daemon has a timer that ends a sleep after [`HEARTBEAT`] at most.
//! - The memory locked for a process's rings is given back some time after its end, and counted per user: a daemon
//!   that is restarted may have to ask more than once.
//! - By default an executor takes 10 MiB for file I/O, which nothing here does.

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

use crate::time::Time;

/// How long a task may work before it lets the reactor turn.
pub const TURN: Duration = Duration::from_micros(500);

/// The longest sleep of an executor of the daemon.
pub const HEARTBEAT: Duration = Duration::from_millis(250);

/// How long building an executor is tried again.
const BUILD_RETRIES: Duration = Duration::from_secs(3);

/// Runs a future on an executor on its own thread, pinned to a core if one is given. An error is the machine's
/// refusal, in words; a panic shows when the thread is joined.
pub fn spawn<F, T>(
    name: &str,
    cpu: Option<usize>,
    main: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<Result<T, String>>>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let label = name.to_owned();
    pinned(name, cpu, move || Ok(build(&label)?.run(main())))
}

/// Runs something on a thread of its own, pinned to a core if one is given.
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
            // Not being pinned costs speed, not correctness: a core may have been taken away since the start.
            if let Err(error) = sched_setaffinity(None, &set) {
                tracing::warn!("{label} is not pinned to core {cpu}: {error}");
            }
        }
        main()
    })
}

fn build(name: &str) -> Result<LocalExecutor, String> {
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
                return Err(format!(
                    "can not set up io_uring for {name}: {error}; if it is about memory, raise the limit of locked \
                     memory (ulimit -l, LimitMEMLOCK= in a systemd unit, --ulimit memlock=-1 in a container)"
                ));
            }
        }
    }
}

/// Lets the reactor turn: I/O is polled, wakes from other cores arrive, other tasks run. (A task that merely
/// yields is run again before any of that.)
pub async fn turn() {
    Timer::new(Duration::from_micros(1)).await;
}

/// Waits; wakes end in time even if everything else stands still.
pub async fn sleep(time: Duration) {
    Timer::new(time).await;
}

/// A timer that is built anew only for an earlier time: to wake once too often costs less than to arm it each time.
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

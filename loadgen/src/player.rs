//! The player: executors that hold the connections of load balancers and members.
//!
//! A **seat** is one executor on one thread. It shares its connections, models and histograms with nobody;
//! the conductor, an ordinary thread, sends it [`Order`]s and reads [`Stage`]'s counters.
//!
//! glommio 0.9.0 can park although a task is runnable when its preemption timer fires at the wrong moment, or when a
//! latency-sensitive queue is woken: so the timer is set to an hour, there is only the default queue, and tasks do
//! little at a time and then wait for I/O or [`turn`].

mod connection;
mod stage;
mod sys;

use std::{
    cell::RefCell,
    future::Future,
    io::Write,
    os::unix::net::UnixStream as StdUnixStream,
    pin::Pin,
    sync::{Arc, mpsc},
    task::Poll,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_lite::AsyncRead;
use glommio::{LocalExecutorBuilder, Placement, net::UnixStream, timer::Timer};

pub(crate) use connection::{Connection, Medium, Received, client_connection};
pub(crate) use stage::Stage;

use crate::{
    Result,
    options::{Common, pin},
};

/// How long building an executor is tried again: the kernel gives back the locked memory of a process that has
/// ended only some time later.
const BUILD_RETRIES: Duration = Duration::from_secs(3);

/// The conductor's orders to a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Begin the measured work.
    Go,
    /// Do the work of this tick.
    Tick(u64),
    /// Come to an end and report.
    Stop,
}

/// One executor's place in the player.
pub(crate) struct Seat {
    pub(crate) index: usize,
    pub(crate) count: usize,
    pub(crate) stage: Arc<Stage>,
    pub(crate) medium: Medium,
    bell: RefCell<UnixStream>,
    orders: mpsc::Receiver<Order>,
}

impl Seat {
    /// Waits for the next order; an ended conductor means stop.
    pub(crate) async fn order(&self) -> Order {
        loop {
            match self.orders.try_recv() {
                Ok(order) => return order,
                Err(mpsc::TryRecvError::Disconnected) => return Order::Stop,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            let mut rung = [0; 64];
            // However the bell ends, the queue says what to do.
            let read = std::future::poll_fn(|cx| Pin::new(&mut *self.bell.borrow_mut()).poll_read(cx, &mut rung)).await;
            if !matches!(read, Ok(1..)) {
                return self.orders.try_recv().unwrap_or(Order::Stop);
            }
        }
    }

    /// The part of `0..total` that belongs to this seat.
    pub(crate) fn share(&self, total: u32) -> impl Iterator<Item = u32> + use<> {
        (self.index as u32..total).step_by(self.count)
    }
}

/// The player's threads; `T` is the report of each seat at its end.
pub(crate) struct Player<T> {
    seats: Vec<(JoinHandle<Result<T>>, StdUnixStream, mpsc::Sender<Order>)>,
}

impl<T: Send + 'static> Player<T> {
    /// Starts the seats; each runs `main`.
    pub(crate) fn start<F>(
        common: &Common,
        stage: &Arc<Stage>,
        main: impl Fn(Seat) -> F + Clone + Send + 'static,
    ) -> Result<Player<T>>
    where
        F: Future<Output = Result<T>> + 'static,
    {
        let seats = usize::from(common.threads);
        let mut player = Player { seats: Vec::new() };
        for index in 0..seats {
            let (cpu, _) = common.cpus(index);
            let (bell, ear) = StdUnixStream::pair().map_err(|error| format!("can not make a socket pair: {error}"))?;
            let (orders, received) = mpsc::channel();
            let (main, stage) = (main.clone(), stage.clone());
            let tls = common.server.tls.speaks.as_ref().map(|tls| tls.client());
            let thread = std::thread::Builder::new()
                .name(format!("seat-{index}"))
                .spawn(move || {
                    let running = Running(stage.clone());
                    let executor = pin(cpu).and_then(|()| build(index));
                    let result = executor.and_then(|executor| {
                        executor.run(async move {
                            let bell = sys::adopt(ear).map_err(|error| format!("can not adopt a socket: {error}"))?;
                            let (bell, medium) = (RefCell::new(bell), Medium::new(tls));
                            main(Seat { index, count: seats, stage, medium, bell, orders: received }).await
                        })
                    });
                    if let Err(error) = &result {
                        running.0.fail(error.clone());
                    }
                    result
                })
                .map_err(|error| format!("can not start a thread: {error}"))?;
            player.seats.push((thread, bell, orders));
        }
        Ok(player)
    }

    /// Sends an order to every seat. One that has ended misses it: its end says why.
    pub(crate) fn order(&mut self, order: Order) {
        for (_, bell, orders) in &mut self.seats {
            let _ = orders.send(order);
            let _ = bell.write_all(&[1]);
        }
    }

    /// Stops the seats and gives their reports.
    pub(crate) fn stop(mut self) -> Result<Vec<T>> {
        self.order(Order::Stop);
        let mut reports = Vec::new();
        for (thread, ..) in self.seats {
            reports.push(thread.join().map_err(|_| "a thread of the player panicked".to_owned())??);
        }
        Ok(reports)
    }
}

/// Tells the conductor of a seat that panics, which ends its executor.
struct Running(Arc<Stage>);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a thread of the player panicked".into());
        }
    }
}

fn build(index: usize) -> Result<glommio::LocalExecutor> {
    let start = Instant::now();
    loop {
        let built = LocalExecutorBuilder::new(Placement::Unbound)
            .name(&format!("seat-{index}"))
            .io_memory(64 << 10)
            .ring_depth(4096) // the kernel sizes by it the table in which it finds pending polls: thousands of them here
            .preempt_timer(Duration::from_secs(3600))
            .make();
        match built {
            Ok(executor) => return Ok(executor),
            Err(_) if start.elapsed() < BUILD_RETRIES => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(format!("can not set up io_uring: {error} (see ulimit -l)")),
        }
    }
}

/// Waits, while other tasks run.
pub(crate) async fn sleep(time: Duration) {
    Timer::new(time).await;
}

/// Lets the reactor turn: a task that merely yields is run again before any I/O is seen.
pub(crate) async fn turn() {
    Timer::new(Duration::from_micros(1)).await;
}

/// A count that tasks of one seat wait for.
#[derive(Default)]
pub(crate) struct Gate {
    free: std::cell::Cell<usize>,
    waiting: RefCell<std::collections::VecDeque<std::task::Waker>>,
}

impl Gate {
    /// Lets `free` tasks through at a time.
    pub(crate) fn new(free: usize) -> Gate {
        Gate { free: free.max(1).into(), waiting: RefCell::default() }
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self) {
        std::future::poll_fn(|cx| match self.free.get() {
            0 => {
                self.waiting.borrow_mut().push_back(cx.waker().clone());
                Poll::Pending
            }
            free => {
                self.free.set(free - 1);
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Gives the place back.
    pub(crate) fn leave(&self) {
        self.free.set(self.free.get() + 1);
        if let Some(next) = self.waiting.borrow_mut().pop_front() {
            next.wake();
        }
    }
}

//! The channels between cores: the queues alone, and between two executors of the runtime, asleep and under load.

use std::{io, sync::Arc, thread::JoinHandle};

use divan::{Bencher, black_box, counter::ItemsCount};
use futures_lite::future::block_on;
use gwm::{
    limits,
    runtime::{
        executor,
        mesh::{Bell, Receiver, Sender, pipe},
    },
};

use crate::scaled;

/// Bytes of one message: a small request.
const MESSAGE: [u8; 64] = [7; 64];

/// Entries, as a driver and an echo understand them.
const STOP: u64 = 0;
const TAKE: u64 = 1;
const ANSWER: u64 = 2;

/// One task's ends of the pipes to and from another.
struct Ends {
    sender: Sender<u64>,
    receiver: Receiver<u64>,
    bell: Arc<Bell>,
}

fn link() -> (Ends, Ends) {
    let (here, there) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let (forth_sender, forth_receiver) = pipe(limits::BATCHES, here.clone(), there.clone());
    let (back_sender, back_receiver) = pipe(limits::BATCHES, there.clone(), here.clone());
    (
        Ends { sender: forth_sender, receiver: back_receiver, bell: here },
        Ends { sender: back_sender, receiver: forth_receiver, bell: there },
    )
}

impl Ends {
    fn reclaim(&mut self) {
        while let Some(batch) = self.sender.reclaim() {
            self.sender.recycle(batch);
        }
    }

    /// Sends a message, once there is room; it may wait for others in its batch.
    async fn send(&mut self, entry: u64) {
        self.reclaim();
        while !self.sender.has_room() {
            let sender = &self.sender;
            self.bell.wait(|| sender.has_returned()).await;
            self.reclaim();
        }
        self.sender.bytes().extend_from_slice(&MESSAGE);
        self.sender.push(entry);
    }

    /// Waits for messages and gives them to `take`; sends meanwhile what waits for others to be taken.
    async fn receive(&mut self, mut take: impl FnMut(u64)) {
        loop {
            let Ends { sender, receiver, bell } = self;
            bell.wait(|| receiver.has_batch() || sender.has_returned() || sender.is_due()).await;
            self.reclaim();
            self.sender.flush();
            if let Some(batch) = self.receiver.receive() {
                black_box(&batch.bytes);
                batch.entries.iter().for_each(|&entry| take(entry));
                self.receiver.give_back(batch);
                return;
            }
        }
    }
}

/// Answers those messages that ask for it, until it is stopped.
async fn echo(mut peer: Ends) {
    let mut stopped = false;
    while !stopped {
        let mut answers = 0;
        peer.receive(|entry| {
            answers += u64::from(entry == ANSWER);
            stopped |= entry == STOP;
        })
        .await;
        for _ in 0..answers {
            peer.send(TAKE).await;
        }
        peer.sender.flush();
    }
}

/// Takes jobs (rounds and messages a round): sends a round's messages to the echo and waits for the answer to the
/// last of them, so many times.
async fn drive(mut boss: Ends, mut echo: Ends) {
    loop {
        let mut job = STOP;
        boss.receive(|entry| job = entry).await;
        let (rounds, messages) = (job >> 32, job & u64::from(u32::MAX));
        for _ in 0..rounds {
            for _ in 1..messages {
                echo.send(TAKE).await;
            }
            echo.send(ANSWER).await;
            echo.sender.flush();
            let mut answered = false;
            while !answered {
                echo.receive(|_| answered = true).await;
            }
        }
        if job == STOP {
            echo.send(STOP).await;
            echo.sender.flush();
            return;
        }
        boss.send(TAKE).await;
        boss.sender.flush();
    }
}

type Running = JoinHandle<Result<(), gwm::runtime::Error>>;

/// The thread or executor of the echo.
#[derive(Clone, Copy)]
enum Echo {
    Executor,
    /// A thread that sleeps on a futex, as the coordinator's.
    Thread,
}

/// A driver and an echo, on a core each if there are two.
fn start(kind: Echo) -> io::Result<(Ends, Running, Running)> {
    let usable = rustix::thread::sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| usable.is_set(cpu)).collect();
    let cpu = |place: usize| if cpus.len() > 1 { Some(cpus[place]) } else { None };
    let (boss, driver_boss) = link();
    let (driver_echo, echo_peer) = link();
    let echo = match kind {
        Echo::Executor => executor::spawn("bench-echo", cpu(0), move || echo(echo_peer))?,
        Echo::Thread => executor::pinned("bench-echo", cpu(0), move || {
            block_on(echo(echo_peer));
            Ok(())
        })?,
    };
    let driver = executor::spawn("bench-driver", cpu(1), move || drive(driver_boss, driver_echo))?;
    Ok((boss, driver, echo))
}

/// The given number of rounds an iteration, each of so many messages and one answer. Items are messages.
fn exchange(bencher: Bencher<'_, '_>, rounds: u32, messages: u32, kind: Echo) {
    let (mut boss, driver, echo) = start(kind).expect("two threads can be started");
    let job = u64::from(rounds) << 32 | u64::from(messages);
    bencher.counter(ItemsCount::new(rounds * messages)).bench_local(|| {
        block_on(async {
            boss.send(job).await;
            boss.sender.flush();
            boss.receive(|_| ()).await;
        });
    });
    block_on(boss.send(STOP));
    boss.sender.flush();
    for running in [driver, echo] {
        running.join().expect("no panic").expect("io_uring is there");
    }
}

/// Both ends on one thread, so the queues' own cost: so many messages are sent, taken, and their batch comes back.
#[divan::bench(args = [1, 16, 256])]
fn one_thread(bencher: Bencher<'_, '_>, messages: u32) {
    let (mut here, mut there) = link();
    bencher.counter(ItemsCount::new(messages)).bench_local(|| {
        block_on(async {
            for _ in 0..messages {
                here.send(TAKE).await;
            }
            here.sender.flush();
            let mut found = 0;
            there.receive(|_| found += 1).await;
            assert_eq!(found, messages);
        });
    });
}

/// 100 round trips of one message between executors that sleep whenever they have nothing to do.
#[divan::bench(sample_size = 1)]
fn round_trips_100_asleep(bencher: Bencher<'_, '_>) {
    exchange(bencher, scaled(100), 1, Echo::Executor);
}

/// The same between an executor and a plain thread, as a shard and the coordinator are.
#[divan::bench(sample_size = 1)]
fn round_trips_100_asleep_thread(bencher: Bencher<'_, '_>) {
    exchange(bencher, scaled(100), 1, Echo::Thread);
}

/// One way: so many messages as fast as they go, the answer to the last ends the iteration. The receiver sleeps at
/// the start.
#[divan::bench(args = [16, 256, 100_000], sample_size = 1)]
fn one_way(bencher: Bencher<'_, '_>, messages: u32) {
    exchange(bencher, 1, scaled(messages), Echo::Thread);
}

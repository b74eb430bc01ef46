//! Executors keep running when other cores wake them all the time and every core has too much work. In this case
//! glommio 0.9.0, with other settings, parks with runnable tasks and never wakes (see `runtime::machine::executor`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use gwm::runtime::{
    executor,
    mesh::{Bell, Receiver, Sender, pipe},
};

/// Messages that go to the other end and back in one test.
const ROUND_TRIPS: u64 = 50_000;

/// Far more than the slowest machine needs for a message; an executor that hangs never makes progress.
const WITHOUT_PROGRESS: Duration = Duration::from_secs(60);

/// One end: waits for a batch and answers each entry. It has no timer, because a timer would end a wrong sleep.
async fn end(bell: Arc<Bell>, mut sender: Sender<u64>, mut receiver: Receiver<u64>, first: bool, seen: Arc<AtomicU64>) {
    if first {
        sender.push(0);
        sender.flush();
    }
    let mut last = 0;
    while last + 2 < ROUND_TRIPS {
        sender.want_returns(true);
        bell.wait(|| receiver.has_batch() || sender.has_returned()).await;
        while let Some(batch) = sender.reclaim() {
            sender.recycle(batch);
        }
        while let Some(batch) = receiver.receive() {
            for entry in &batch.entries {
                last = *entry;
                if last < ROUND_TRIPS {
                    sender.push(last + 1);
                }
            }
            receiver.give_back(batch);
        }
        sender.flush();
        seen.fetch_max(last, Ordering::Relaxed);
    }
}

fn storm(pairs: usize) {
    let cores = thread::available_parallelism().map_or(2, |cores| cores.get());
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2 * cores)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();

    let (done, finished) = mpsc::channel();
    let mut progress = Vec::new();
    let mut executors = Vec::new();
    for _ in 0..pairs {
        let bells: [Arc<Bell>; 2] = Default::default();
        let (there_in, there_out) = pipe(2, bells[0].clone(), bells[1].clone());
        let (back_in, back_out) = pipe(2, bells[1].clone(), bells[0].clone());
        let ends = [(bells[0].clone(), there_in, back_out, true), (bells[1].clone(), back_in, there_out, false)];
        for (bell, sender, receiver, first) in ends {
            let seen = Arc::new(AtomicU64::new(0));
            progress.push(seen.clone());
            let done = done.clone();
            let run = move || async move {
                end(bell, sender, receiver, first, seen).await;
                done.send(()).expect("the test waits for every end");
            };
            executors.push(executor::spawn("storm", None, run).expect("a thread can be started"));
        }
    }

    let total = || progress.iter().map(|seen| seen.load(Ordering::Relaxed)).sum::<u64>();
    let mut running = executors.len();
    let (mut best, mut since) = (0, Instant::now());
    while running > 0 {
        if finished.recv_timeout(Duration::from_millis(200)).is_ok() {
            running -= 1;
        }
        if total() > best {
            (best, since) = (total(), Instant::now());
        }
        assert!(since.elapsed() < WITHOUT_PROGRESS, "an executor sleeps with work to do, after {best} messages");
    }
    stop.store(true, Ordering::Relaxed);
    for executor in executors {
        executor.join().expect("no panic").expect("an executor can be built");
    }
    busy.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn no_executor_sleeps_with_work_to_do() {
    storm(2);
}

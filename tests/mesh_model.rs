//! The mesh under loom, in every order of events that the memory model allows: no wake is lost, no entry is lost, and
//! no entry comes twice or out of order. The file under test is the daemon's own, with loom's atomics below it.

use std::sync::Arc;

use loom::{future::block_on, model::Builder, thread};

/// The names of `src/runtime/mesh/atomics.rs`, made of loom's types.
mod atomics {
    use std::{collections::VecDeque, sync::Mutex, task::Waker};

    pub(super) use loom::sync::atomic::fence;
    use loom::sync::{
        Mutex as Exclusive,
        atomic::{self, AtomicUsize, Ordering},
    };

    /// A flag whose stores are exchanges. loom lets a store come between an exchange and the value that the exchange
    /// read, which no machine does; loom keeps exchanges in one order.
    #[derive(Debug, Default)]
    pub(super) struct AtomicBool(atomic::AtomicBool);

    impl AtomicBool {
        pub(super) fn new(value: bool) -> AtomicBool {
            AtomicBool(atomic::AtomicBool::new(value))
        }

        pub(super) fn load(&self, ordering: Ordering) -> bool {
            self.0.load(ordering)
        }

        pub(super) fn store(&self, value: bool, ordering: Ordering) {
            self.0.swap(value, ordering);
        }

        pub(super) fn swap(&self, value: bool, ordering: Ordering) -> bool {
            self.0.swap(value, ordering)
        }
    }

    /// One registered waker: `wake` wakes the waker that was registered last, once.
    #[derive(Debug, Default)]
    pub(super) struct AtomicWaker(Exclusive<Option<Waker>>);

    impl AtomicWaker {
        pub(super) fn register(&self, waker: &Waker) {
            *self.0.lock().expect("no panic under the lock") = Some(waker.clone());
        }

        pub(super) fn wake(&self) {
            let waker = self.0.lock().expect("no panic under the lock").take();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// A queue for one sender and one receiver. It promises less than crossbeam's: each side sees the other's work
    /// sooner or later.
    #[derive(Debug)]
    pub(super) struct ArrayQueue<T> {
        pushed: AtomicUsize,
        popped: AtomicUsize,
        capacity: usize,
        /// Not loom's: loom's threads take turns, so no thread ever waits for this lock.
        items: Mutex<VecDeque<T>>,
    }

    impl<T> ArrayQueue<T> {
        pub(super) fn new(capacity: usize) -> ArrayQueue<T> {
            let (pushed, popped) = (AtomicUsize::new(0), AtomicUsize::new(0));
            ArrayQueue { pushed, popped, capacity, items: Mutex::default() }
        }

        pub(super) fn push(&self, item: T) -> Result<(), T> {
            let pushed = self.pushed.load(Ordering::Relaxed);
            if pushed - self.popped.load(Ordering::Acquire) == self.capacity {
                return Err(item);
            }
            self.items.lock().expect("no panic under the lock").push_back(item);
            self.pushed.store(pushed + 1, Ordering::Release);
            Ok(())
        }

        pub(super) fn pop(&self) -> Option<T> {
            if self.is_empty() {
                return None;
            }
            let item = self.items.lock().expect("no panic under the lock").pop_front();
            self.popped.store(self.popped.load(Ordering::Relaxed) + 1, Ordering::Release);
            item
        }

        pub(super) fn is_empty(&self) -> bool {
            self.pushed.load(Ordering::Acquire) == self.popped.load(Ordering::Acquire)
        }
    }
}

/// Batches so small that one entry or two fill them.
mod limits {
    pub(crate) const BATCH_BYTES: usize = 1000;
    pub(crate) const BATCH_ENTRIES: usize = 2;
}

#[allow(dead_code, missing_docs, unreachable_pub)]
#[path = "../src/runtime/mesh/pipe.rs"]
mod pipe;

use pipe::{Bell, pipe};

/// Runs `model` in all orders with up to so many forced changes of thread. loom reports a lost wake as a deadlock.
fn check(preemptions: usize, scene: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(scene);
}

#[test]
fn a_ring_is_never_missed() {
    use loom::sync::atomic::{AtomicUsize, Ordering};
    const RINGS: usize = 2;
    check(4, || {
        let (bell, work) = (Arc::new(Bell::default()), Arc::new(AtomicUsize::new(0)));
        let ringer = {
            let (bell, work) = (bell.clone(), work.clone());
            thread::spawn(move || {
                for _ in 0..RINGS {
                    work.store(work.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    bell.ring();
                }
            })
        };
        // The receiver sleeps before each entry, unless the entry is there already.
        block_on(async {
            for seen in 1..=RINGS {
                bell.wait(|| work.load(Ordering::Relaxed) >= seen).await;
            }
        });
        ringer.join().expect("no panic");
    });
}

/// Both ends sleep when they have nothing to do, like a shard and the coordinator.
fn through_a_pipe(batches: usize, messages: u32, preemptions: usize) {
    check(preemptions, move || {
        let (here, there) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let (mut sender, mut receiver) = pipe(batches, here.clone(), there.clone());
        let producer = thread::spawn(move || {
            let (mut next, mut back) = (0, 0);
            loop {
                while let Some(batch) = sender.reclaim() {
                    back += batch.entries.len() as u32;
                    sender.recycle(batch);
                }
                while next < messages && sender.has_room() {
                    sender.push(next);
                    next += 1;
                }
                sender.flush();
                if back == messages {
                    return;
                }
                // It sleeps with nothing to send only once all is sent: then it waits for what comes back.
                sender.want_returns(next == messages);
                block_on(here.wait(|| sender.has_wanted_return() || sender.is_due()));
            }
        });
        let mut expected = 0;
        while expected < messages {
            block_on(there.wait(|| receiver.has_batch()));
            let batch = receiver.receive().expect("it has one");
            for entry in &batch.entries {
                assert_eq!(*entry, expected);
                expected += 1;
            }
            receiver.give_back(batch);
        }
        producer.join().expect("no panic");
    });
}

#[test]
fn one_batch_goes_to_and_fro() {
    through_a_pipe(1, 3, 3);
}

#[test]
fn what_waits_in_an_open_batch_is_sent() {
    through_a_pipe(2, 3, 3);
}

#[test]
fn more_than_all_batches_hold() {
    through_a_pipe(2, 5, 2);
}

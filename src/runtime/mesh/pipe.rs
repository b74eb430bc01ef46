//! A shard and the coordinator share one pipe of reusable batches in each direction, and a bell for each end.
//!
//! A [`pipe`] has a fixed number of batches, which travel full one way and empty the other. If the receiver falls
//! behind, the sender has no batch to fill and stops taking work: nothing is dropped and nothing grows. A batch is sent
//! at the end of the sender's turn if the receiver has taken all earlier batches, else when it is full or when a batch
//! comes back. A batch that comes back wakes the sender only if the sender wants that.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use crossbeam_utils::CachePadded;

// Named by way of the parent module, because `tests/mesh_model.rs` gives this file loom's in place of the real ones.
use super::atomics::{ArrayQueue, AtomicBool, AtomicWaker, fence};
use crate::limits;

/// Wakes one task or thread, from any thread, and only if it sleeps. A wake for each message would cost a system call
/// each, and end in a panic, because the reference count of glommio's wakers has 16 bits.
#[derive(Debug, Default)]
pub struct Bell {
    asleep: CachePadded<AtomicBool>,
    waker: AtomicWaker,
}

impl Bell {
    /// Wakes the task if it sleeps. The caller writes the work for the task before.
    pub fn ring(&self) {
        // Pairs with the fence in `poll`: the task sees the caller's work, or the caller sees that the task sleeps.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Ready once `has_work` is true; a ring makes the task ask again. Only one task may wait at a bell.
    pub fn poll(&self, cx: &mut Context<'_>, mut has_work: impl FnMut() -> bool) -> Poll<()> {
        if has_work() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if has_work() {
            self.asleep.store(false, Ordering::Relaxed);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// After [`Bell::poll`] was pending, the task works again though nobody rang.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Waits until `has_work` is true.
    pub async fn wait(&self, mut has_work: impl FnMut() -> bool) {
        std::future::poll_fn(|cx| self.poll(cx, &mut has_work)).await;
    }
}

/// Some messages: their entries, and the bytes and bodies that the entries refer to.
#[derive(Debug)]
pub struct Batch<E> {
    /// The bytes of all messages, but for their bodies.
    pub bytes: Vec<u8>,
    /// Bodies that messages share, each once if the messages follow each other. So a batch costs a few reference
    /// counts, not one a message.
    pub bodies: Vec<Bytes>,
    /// The messages, in order.
    pub entries: Vec<E>,
}

/// The queues between two ends.
#[derive(Debug)]
struct Track<E> {
    full: ArrayQueue<Batch<E>>,
    empty: ArrayQueue<Batch<E>>,
    /// A batch that comes back wakes the sender.
    returns_wanted: AtomicBool,
}

/// The end that fills batches.
#[derive(Debug)]
pub struct Sender<E> {
    track: Arc<Track<E>>,
    receiver: Arc<Bell>,
    open: Option<Batch<E>>,
    /// Bytes of the bodies in the open batch.
    body_bytes: usize,
    spare: Vec<Batch<E>>,
}

/// The end that empties batches.
#[derive(Debug)]
pub struct Receiver<E> {
    track: Arc<Track<E>>,
    sender: Arc<Bell>,
}

/// A pipe with this many batches, between the tasks that wait at these bells.
pub fn pipe<E>(batches: usize, sender: Arc<Bell>, receiver: Arc<Bell>) -> (Sender<E>, Receiver<E>) {
    let (full, empty) = (ArrayQueue::new(batches), ArrayQueue::new(batches));
    let track = Arc::new(Track { full, empty, returns_wanted: AtomicBool::new(true) });
    let spare = (0..batches).map(|_| Batch { bytes: Vec::new(), bodies: Vec::new(), entries: Vec::new() }).collect();
    (Sender { track: track.clone(), receiver, open: None, body_bytes: 0, spare }, Receiver { track, sender })
}

impl<E> Sender<E> {
    /// Whether there is room for a message of any size. [`Sender::reclaim`] makes more room.
    pub fn has_room(&self) -> bool {
        // An open batch is not full, because a full batch is sent at once.
        self.open.is_some() || !self.spare.is_empty()
    }

    /// The bytes of the open batch, to append to. They belong to the next [`Sender::push`].
    ///
    /// # Panics
    /// If there is no room.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.open().bytes
    }

    /// Puts a body into the open batch, for the next [`Sender::push`]; gives its place in [`Batch::bodies`].
    ///
    /// # Panics
    /// If there is no room.
    pub fn body(&mut self, body: &Bytes) -> u16 {
        let is_last = |last: &Bytes| last.as_ptr() == body.as_ptr() && last.len() == body.len();
        if !self.open().bodies.last().is_some_and(is_last) {
            self.open().bodies.push(body.clone());
            self.body_bytes += body.len();
        }
        (self.open().bodies.len() - 1) as u16 // a batch has no more bodies than entries
    }

    /// Appends a message's entry, and sends the batch if it is full then.
    ///
    /// # Panics
    /// If there is no room.
    pub fn push(&mut self, entry: E) {
        let body_bytes = self.body_bytes;
        let open = self.open();
        open.entries.push(entry);
        if open.bytes.len() + body_bytes >= limits::BATCH_BYTES || open.entries.len() >= limits::BATCH_ENTRIES {
            self.send();
        }
    }

    fn open(&mut self) -> &mut Batch<E> {
        let Sender { open, spare, .. } = self;
        open.get_or_insert_with(|| spare.pop().expect("the caller has seen that there is room"))
    }

    /// Whether [`Sender::flush`] would send a batch now.
    pub fn is_due(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.entries.is_empty()) && self.track.full.is_empty()
    }

    /// Sends the open batch, unless the receiver has earlier batches to take: then the caller tries again when a batch
    /// comes back.
    pub fn flush(&mut self) {
        if self.is_due() {
            self.send();
        }
    }

    fn send(&mut self) {
        if let Some(open) = self.open.take() {
            self.body_bytes = 0;
            self.track.full.push(open).map_err(|_| ()).expect("the queue holds as many batches as there are");
            self.receiver.ring();
        }
    }

    /// To be called before the sender sleeps: whether a batch that comes back is to wake it. If it has no room, or has
    /// entries that are not sent, one must.
    pub fn want_returns(&self, wanted: bool) {
        let wanted = wanted || !self.has_room() || self.open.as_ref().is_some_and(|open| !open.entries.is_empty());
        if self.track.returns_wanted.load(Ordering::Relaxed) != wanted {
            self.track.returns_wanted.store(wanted, Ordering::Relaxed);
        }
    }

    /// Whether [`Sender::reclaim`] has a batch.
    pub fn has_returned(&self) -> bool {
        !self.track.empty.is_empty()
    }

    /// Whether a batch has come back that the sender wants.
    pub fn has_wanted_return(&self) -> bool {
        self.track.returns_wanted.load(Ordering::Relaxed) && self.has_returned()
    }

    /// A batch that the receiver has given back, as the receiver left it; give it to [`Sender::recycle`].
    pub fn reclaim(&mut self) -> Option<Batch<E>> {
        self.track.empty.pop()
    }

    /// Empties a batch for reuse.
    pub fn recycle(&mut self, mut batch: Batch<E>) {
        batch.bytes.clear();
        batch.bodies.clear();
        batch.entries.clear();
        // The memory of one huge message is given back.
        batch.bytes.shrink_to(2 * limits::BATCH_BYTES);
        self.spare.push(batch);
    }
}

impl<E> Receiver<E> {
    /// Whether [`Receiver::receive`] has a batch.
    pub fn has_batch(&self) -> bool {
        !self.track.full.is_empty()
    }

    /// The oldest batch.
    pub fn receive(&mut self) -> Option<Batch<E>> {
        self.track.full.pop()
    }

    /// Returns a batch to its sender, with its entries.
    pub fn give_back(&mut self, batch: Batch<E>) {
        self.track.empty.push(batch).map_err(|_| ()).expect("the queue holds as many batches as there are");
        // Pairs with the fence in `Bell::poll`: the sender sees the batch, or this end sees that the sender wants it.
        fence(Ordering::SeqCst);
        if self.track.returns_wanted.load(Ordering::Relaxed) {
            self.sender.ring();
        }
    }
}

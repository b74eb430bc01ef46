//! The mesh with its real atomics; `tests/mesh_model.rs` has it with loom's.

use std::{
    sync::Arc,
    task::{Context, Waker},
    thread,
};

use futures_lite::future::block_on;

use bytes::Bytes;

use super::pipe::{Bell, Receiver, Sender, pipe};
use crate::limits;

fn ends(batches: usize) -> (Sender<u64>, Receiver<u64>, Arc<Bell>, Arc<Bell>) {
    let (here, there) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let (sender, receiver) = pipe(batches, here.clone(), there.clone());
    (sender, receiver, here, there)
}

#[test]
fn without_batches_there_is_no_room_until_one_comes_back() {
    let (mut sender, mut receiver, ..) = ends(2);
    for message in 0..2 * limits::BATCH_ENTRIES {
        assert!(sender.has_room());
        sender.push(message as u64);
    }
    assert!(!sender.has_room(), "both batches are full and not taken");

    let batch = receiver.receive().unwrap();
    assert!(!sender.has_room() && !sender.has_returned(), "taken is not given back");
    receiver.give_back(batch);
    assert!(sender.has_returned());
    let batch = sender.reclaim().unwrap();
    assert_eq!(batch.entries.len(), limits::BATCH_ENTRIES, "it comes back as the receiver left it");
    sender.recycle(batch);
    assert!(sender.has_room());
    assert!(sender.bytes().is_empty());
}

#[test]
fn a_return_wakes_only_a_sender_that_wants_it() {
    let (mut sender, mut receiver, here, _) = ends(2);
    let asleep =
        |sender: &Sender<u64>| here.poll(&mut Context::from_waker(Waker::noop()), || sender.has_wanted_return());
    for (wanted, open) in [(false, false), (true, false), (false, true)] {
        sender.push(1);
        sender.flush();
        let batch = receiver.receive().unwrap();
        if open {
            sender.push(2); // which is sent when a batch comes back
        }
        sender.want_returns(wanted);
        assert!(asleep(&sender).is_pending());
        receiver.give_back(batch);
        assert_eq!(asleep(&sender).is_ready(), wanted || open);
        assert!(sender.has_returned());
        let batch = sender.reclaim().unwrap();
        sender.recycle(batch);
    }
}

#[test]
fn a_batch_waits_while_the_receiver_has_others_to_take() {
    let (mut sender, mut receiver, ..) = ends(3);
    assert!(!sender.is_due(), "nothing to send");
    sender.push(1);
    sender.flush();
    sender.push(2);
    sender.flush();
    sender.push(3);
    assert!(!sender.is_due());
    assert_eq!(receiver.receive().unwrap().entries, [1]);
    assert!(sender.is_due(), "all that was sent has been taken");
    sender.flush();
    assert_eq!(receiver.receive().unwrap().entries, [2, 3]);
}

#[test]
fn a_full_batch_does_not_wait() {
    let (mut sender, mut receiver, ..) = ends(3);
    sender.push(1);
    sender.flush();
    sender.bytes().resize(limits::BATCH_BYTES, 0);
    sender.push(2);
    assert_eq!(receiver.receive().unwrap().entries, [1]);
    assert_eq!(receiver.receive().unwrap().entries, [2]);
}

#[test]
fn messages_that_follow_each_other_share_a_body() {
    let (mut sender, mut receiver, ..) = ends(3);
    let bodies = [Bytes::from(vec![1; 100]), Bytes::from(vec![1; 100])];
    let places: Vec<u16> = [0, 0, 1, 1, 0].map(|body: usize| (sender.body(&bodies[body]), sender.push(1)).0).into();
    assert_eq!(places, [0, 0, 1, 1, 2], "known by where it is, not by what it says");
    sender.flush();
    let batch = receiver.receive().unwrap();
    assert_eq!(batch.bodies.len(), 3);
    receiver.give_back(batch);
    let batch = sender.reclaim().unwrap();
    assert!(!bodies[0].is_unique());
    sender.recycle(batch);
    assert!(bodies.iter().all(Bytes::is_unique), "a batch that is empty again holds nothing");
}

#[test]
fn bodies_fill_a_batch() {
    let (mut sender, mut receiver, ..) = ends(3);
    let bodies = [0, 1].map(|byte| Bytes::from(vec![byte; limits::BATCH_BYTES / 2]));
    for (body, full) in [(0, false), (0, false), (1, true), (1, false), (1, false), (0, true)] {
        sender.body(&bodies[body]);
        sender.push(1);
        assert_eq!(receiver.receive().is_some(), full, "a body that messages share counts once");
    }
}

#[test]
fn a_huge_message_does_not_keep_its_memory() {
    let (mut sender, mut receiver, ..) = ends(1);
    sender.bytes().resize(64 << 20, 1);
    sender.push(1);
    let batch = receiver.receive().unwrap();
    receiver.give_back(batch);
    let batch = sender.reclaim().unwrap();
    sender.recycle(batch);
    assert!(sender.bytes().capacity() <= 2 * limits::BATCH_BYTES);
}

/// Everything arrives, once and in order, and both ends sleep and wake all the time; a wake that is lost hangs
/// the test.
#[test]
fn order_and_wakes_survive_two_threads() {
    const MESSAGES: u64 = 300_000;
    let (mut sender, mut receiver, here, there) = ends(2);
    let producer = thread::spawn(move || {
        let (mut next, mut back) = (0, 0);
        while back < MESSAGES {
            block_on(here.wait(|| {
                while let Some(batch) = sender.reclaim() {
                    back += batch.entries.len() as u64;
                    sender.recycle(batch);
                }
                // The open batch goes out when the earlier batches have been taken.
                sender.flush();
                sender.has_room() && next < MESSAGES || back == MESSAGES
            }));
            // An odd number, so that batches end in the middle of things.
            for _ in 0..7.min(MESSAGES - next) {
                sender.bytes().extend_from_slice(&next.to_be_bytes());
                sender.push(next);
                next += 1;
                if !sender.has_room() {
                    break;
                }
            }
            sender.flush();
        }
    });
    let mut expected = 0;
    while expected < MESSAGES {
        block_on(there.wait(|| receiver.has_batch()));
        let batch = receiver.receive().unwrap();
        assert_eq!(batch.bytes.len(), batch.entries.len() * 8);
        for (entry, bytes) in batch.entries.iter().zip(batch.bytes.chunks_exact(8)) {
            assert_eq!((*entry, bytes), (expected, &expected.to_be_bytes()[..]));
            expected += 1;
        }
        receiver.give_back(batch);
    }
    producer.join().unwrap();
}

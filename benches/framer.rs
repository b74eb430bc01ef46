//! The framer with pieces of different sizes. Items are messages.

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use gwm::sasp::Framer;

use crate::{codec, scaled};

/// Gives a stream of equal messages to the framer, in pieces of `piece` bytes.
fn frame(bencher: Bencher<'_, '_>, message: &[u8], piece: usize) {
    let messages = scaled(1_000);
    let stream = message.repeat(messages as usize);
    let mut framer = Framer::new(1 << 20);
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(stream.len())).bench_local(|| {
        let mut found = 0;
        for mut input in black_box(&stream).chunks(piece) {
            while let Some(frame) = framer.next(&mut input).expect("our own messages") {
                black_box(frame);
                found += 1;
            }
        }
        assert_eq!(found, messages);
    });
}

/// Requests of 18 to 100 bytes: Set Member State with one member.
#[divan::bench(args = [1, 16, 1_448, 65_536])]
fn small_messages(bencher: Bencher<'_, '_>, piece: usize) {
    frame(bencher, &codec::message("set_member_state", 1), piece);
}

/// Pushes of 100 members.
#[divan::bench(args = [16, 1_448, 65_536])]
fn large_messages(bencher: Bencher<'_, '_>, piece: usize) {
    frame(bencher, &codec::message("send_weights", 100), piece);
}

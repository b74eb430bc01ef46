//! One direction of a captured connection: TCP segments in any order → bytes in order.

use std::{collections::BTreeMap, time::SystemTime};

use super::stream::{Event, Stream};

/// Most bytes that one direction holds while it waits for earlier ones; TCP windows are rarely larger.
const OUT_OF_ORDER_BYTES: usize = 4 << 20;

/// The cost of one held piece beside its bytes, so that tiny pieces count too.
const PIECE_BYTES: usize = 96;

/// One direction of one connection. Positions count bytes since the first one seen.
pub(super) struct Direction {
    pub(super) stream: Stream,
    /// The sequence number of position 0.
    pub(super) first: u32,
    /// The next expected position.
    pub(super) next: u64,
    /// Pieces that arrived early, by position; pieces may overlap.
    ahead: BTreeMap<u64, Vec<u8>>,
    ahead_bytes: usize,
    /// Where the sender ended the stream.
    pub(super) end: Option<u64>,
    /// Nothing more is taken.
    pub(super) closed: bool,
    pub(super) last_packet: u64,
    pub(super) last_time: Option<SystemTime>,
}

impl Direction {
    pub(super) fn new(first: u32, max: u32, midway: bool) -> Direction {
        Direction {
            stream: Stream::new(max, midway),
            first,
            next: 0,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            end: None,
            closed: false,
            last_packet: 0,
            last_time: None,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.ahead_bytes + self.stream.held()
    }

    /// How far a sequence number is ahead of the next expected one; negative for an earlier one.
    pub(super) fn ahead_of_next(&self, number: u32) -> i64 {
        let due = self.first.wrapping_add(self.next as u32); // sequence numbers are positions modulo 2^32
        i64::from(number.wrapping_sub(due) as i32)
    }

    pub(super) fn segment(&mut self, number: u32, payload: &[u8], fin: bool, sink: &mut impl FnMut(Event<'_>)) {
        if self.closed {
            return;
        }
        let ahead = self.ahead_of_next(number);
        if fin && self.end.is_none() {
            self.end = self.next.checked_add_signed(ahead + payload.len() as i64);
        }
        match u64::try_from(ahead) {
            Ok(0) => self.take(payload, sink),
            Ok(ahead) if !payload.is_empty() => {
                let piece = self.ahead.entry(self.next + ahead).or_default();
                if piece.len() < payload.len() {
                    let new = if piece.is_empty() { PIECE_BYTES } else { 0 };
                    self.ahead_bytes += new + payload.len() - piece.len();
                    *piece = payload.to_vec();
                }
            }
            Ok(_) => {}
            Err(_) => {
                let known = usize::try_from(-ahead).unwrap_or(usize::MAX);
                self.take(payload.get(known..).unwrap_or_default(), sink);
            }
        }
        self.take_ahead(sink);
        while self.ahead_bytes > OUT_OF_ORDER_BYTES {
            self.give_up_hole(sink);
        }
    }

    fn take(&mut self, payload: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        if !payload.is_empty() {
            self.next += payload.len() as u64;
            self.stream.feed(payload, sink);
        }
    }

    fn take_ahead(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        while let Some(piece) = self.ahead.first_entry().filter(|piece| *piece.key() <= self.next) {
            let (position, bytes) = piece.remove_entry();
            self.ahead_bytes -= PIECE_BYTES + bytes.len();
            let known = usize::try_from(self.next - position).unwrap_or(usize::MAX);
            self.take(bytes.get(known..).unwrap_or_default(), sink);
        }
    }

    /// Treats the bytes before the first early piece as lost.
    fn give_up_hole(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        if let Some((position, _)) = self.ahead.first_key_value() {
            let missing = position - self.next; // above 0, else `take_ahead` had taken it
            self.next = *position;
            self.stream.missing(missing, sink);
            self.take_ahead(sink);
        }
    }

    pub(super) fn acknowledged(&mut self, number: u32, sink: &mut impl FnMut(Event<'_>)) {
        while let Some((position, _)) = self.ahead.first_key_value() {
            if self.ahead_of_next(number) <= (position - self.next) as i64 {
                break;
            }
            self.give_up_hole(sink);
        }
    }

    pub(super) fn close(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        while !self.ahead.is_empty() {
            self.give_up_hole(sink);
        }
        match self.end.filter(|end| *end > self.next) {
            Some(end) => self.stream.missing(end - self.next, sink),
            None => self.stream.end(sink),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_ahead_is_bounded_however_small_the_pieces() {
        let mut direction = Direction::new(0, 1 << 20, false);
        let mut missing = 0;
        for number in 0..100_000 {
            direction.segment(1 + 2 * number, b"x", false, &mut |event| match event {
                Event::Missing { bytes, .. } => missing += bytes,
                Event::Skipped { .. } => {}
                other => panic!("{other:?}"),
            });
            assert!(direction.held() <= OUT_OF_ORDER_BYTES + 4); // and the start of a header, searched for
        }
        assert!(missing > 0);
        direction.close(&mut |event| {
            if let Event::Missing { bytes, .. } = event {
                missing += bytes;
            }
        });
        assert_eq!((missing, direction.held()), (100_000, 0));
    }
}

//! The bytes that a connection has yet to write: bytes of its own, and references to bodies that messages to other load
//! balancers share.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;

/// The most pieces that one call of the socket takes.
const PIECES_PER_CALL: usize = 8;

/// A part of the backlog; none is empty.
#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Own(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

/// Bytes to write, in order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written.
    written: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// All bytes.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes().len()).sum()
    }

    /// Bytes that no other connection holds.
    pub(super) fn own(&self) -> usize {
        let own = |piece: &Piece| match piece {
            Piece::Own(bytes) => bytes.len(),
            Piece::Shared(_) => 0,
        };
        self.pieces.iter().map(own).sum()
    }

    /// Appends a copy of these bytes.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.pieces.back_mut() {
            Some(Piece::Own(own)) => own.extend_from_slice(bytes),
            _ => self.pieces.push_back(Piece::Own(bytes.to_vec())),
        }
    }

    /// Appends a reference to a body, of which so many bytes are written; if any are, the backlog is empty.
    pub(super) fn share(&mut self, body: Bytes, written: usize) {
        debug_assert!(written < body.len() && (written == 0 || self.is_empty()));
        self.written += written;
        self.pieces.push_back(Piece::Shared(body));
    }

    /// Calls `act` with the first bytes that are not written, in pieces.
    pub(super) fn with_first<R>(&self, act: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let mut slices = [IoSlice::new(&[]); PIECES_PER_CALL];
        let mut skip = self.written;
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece.bytes().get(skip..).unwrap_or_default());
            skip = 0;
            count += 1;
        }
        act(slices.get(..count).unwrap_or_default())
    }

    /// Notes that so many of the first bytes are written, and drops the pieces that are written whole. `release` gets
    /// their bodies.
    pub(super) fn advance(&mut self, bytes: usize, mut release: impl FnMut(&Bytes)) {
        self.written += bytes;
        while let Some(first) = self.pieces.front()
            && self.written >= first.bytes().len()
        {
            self.written -= first.bytes().len();
            if let Some(Piece::Shared(body)) = self.pieces.pop_front() {
                release(&body);
            }
        }
        if self.pieces.is_empty() {
            *self = Backlog::default(); // a connection that has caught up holds no memory for this
        }
    }

    /// Drops all pieces; `release` gets their bodies.
    pub(super) fn clear(&mut self, mut release: impl FnMut(&Bytes)) {
        for piece in std::mem::take(self).pieces {
            if let Piece::Shared(body) = piece {
                release(&body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(backlog: &Backlog) -> Vec<u8> {
        backlog.with_first(|slices| slices.iter().flat_map(|slice| slice.to_vec()).collect())
    }

    #[test]
    fn bytes_come_out_in_order_however_they_are_taken() {
        let body = Bytes::from_static(b"the body that all share");
        let whole = [&body[4..], b"reply, reply", &body, b"end"].concat();
        for step in 1..=whole.len() {
            let mut backlog = Backlog::default();
            backlog.share(body.clone(), 4);
            backlog.copy(b"reply,");
            backlog.copy(b"");
            backlog.copy(b" reply");
            backlog.share(body.clone(), 0);
            backlog.copy(b"end");
            assert_eq!((backlog.own(), backlog.len()), (15, 15 + 2 * body.len()));
            let (mut done, mut released) = (0, 0);
            while !backlog.is_empty() {
                assert_eq!(rest(&backlog), whole[done..], "{step} at a time");
                let taken = step.min(whole.len() - done);
                backlog.advance(taken, |_| released += 1);
                done += taken;
            }
            assert_eq!((done, released), (whole.len(), 2));
        }
    }

    #[test]
    fn a_body_is_referred_to_and_own_bytes_are_merged() {
        let body = Bytes::from(vec![7; 100]);
        let mut backlog = Backlog::default();
        for written in [false, true] {
            backlog.copy(b"ab");
            backlog.copy(b"cd");
            backlog.share(body.clone(), 0);
            backlog.with_first(|slices| {
                assert_eq!(&*slices[0], b"abcd");
                assert_eq!(slices[1].as_ptr(), body.as_ptr(), "no copy");
            });
            let mut released = Vec::new();
            match written {
                true => backlog.advance(104, |body| released.push(body.as_ptr())),
                false => backlog.clear(|body| released.push(body.as_ptr())),
            }
            assert_eq!(released, [body.as_ptr()]);
            assert!(backlog.is_empty() && body.is_unique(), "what is written or dropped is not held");
        }
    }

    #[test]
    fn one_call_takes_a_few_pieces() {
        let mut backlog = Backlog::default();
        (0..20).for_each(|_| backlog.share(Bytes::from_static(b"xy"), 0));
        assert_eq!(rest(&backlog), b"xy".repeat(PIECES_PER_CALL));
        backlog.advance(1, |_| {});
        assert_eq!(rest(&backlog).len(), 2 * PIECES_PER_CALL - 1);
    }
}

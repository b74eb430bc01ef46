//! The control port of a pen, as pen 0.34 answers.

use std::{fmt::Write as _, sync::Arc};

use super::{Board, Receiver, text};
use crate::Result;

/// Servers with their weights.
pub(super) struct Table {
    receiver: Receiver,
    weights: Vec<u32>,
}

impl Table {
    pub(super) fn new(board: &Arc<Board>) -> Table {
        Table { receiver: Receiver::new(board), weights: vec![1; board.members.len()] }
    }
}

impl text::Table for Table {
    fn answer(&mut self, request: &str, answer: &mut String) -> Result<()> {
        let words: Vec<&str> = request.split_whitespace().collect();
        match *words {
            ["pid"] => answer.push_str("1\n"),
            ["mode"] => answer.push_str("no hash no roundrobin no stubborn weight no prio\n"),
            ["servers"] => {
                for (place, (member, weight)) in self.receiver.board.members.iter().zip(&self.weights).enumerate() {
                    let (ip, port) = (member.ip(), member.port);
                    writeln!(
                        answer,
                        "{place} addr {ip} port {port} conn 0 max 0 hard 0 weight {weight} prio 0 sx 0 rx 0"
                    )
                    .expect("a string takes everything");
                }
            }
            ["server", place, "weight", weight] => {
                let cell = place.parse().ok().and_then(|place: usize| self.weights.get_mut(place));
                let (Some(cell), Ok(weight)) = (cell, weight.parse()) else {
                    return Err(format!("a command that harms pen: `{request}`"));
                };
                *cell = weight;
            }
            ["server", _, "blacklist", _] => {}
            _ => return Err(format!("an unexpected command for pen: `{request}`")),
        }
        self.receiver.has(&self.weights);
        Ok(())
    }
}

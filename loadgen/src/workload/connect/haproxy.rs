//! The stats socket of a HAProxy with one backend, as HAProxy 2.6 answers.

use std::{fmt::Write as _, sync::Arc};

use super::{Board, GROUP, Receiver, text};
use crate::Result;

/// Servers of the backend, with their weights.
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
        for command in request.split(';') {
            let mut words = command.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("show"), Some("info"), None) => answer.push_str("Name: HAProxy\nPid: 1\n"),
                (Some("show"), Some("servers"), Some("state")) => self.list(answer),
                (Some("set"), Some("server"), Some(name)) => {
                    let place = name.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix("/s"));
                    let place = place.and_then(|number| number.parse::<usize>().ok());
                    let weight = words.nth(1).and_then(|weight| weight.parse().ok());
                    let (Some(weight), Some(cell)) = (weight, place.and_then(|place| self.weights.get_mut(place)))
                    else {
                        return Err(format!("a command that HAProxy would refuse: `{command}`"));
                    };
                    *cell = weight;
                }
                _ => return Err(format!("an unexpected command for HAProxy: `{command}`")),
            }
            answer.push('\n');
        }
        self.receiver.has(&self.weights);
        Ok(())
    }
}

impl Table {
    fn list(&self, answer: &mut String) {
        answer.push_str(
            "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_fqdn \
             srv_port\n",
        );
        for (place, (member, weight)) in self.receiver.board.members.iter().zip(&self.weights).enumerate() {
            let (ip, port, id) = (member.ip(), member.port, place + 1);
            writeln!(answer, "2 {GROUP} {id} s{place} {ip} 2 0 {weight} 1 - {port}")
                .expect("a string takes everything");
        }
    }
}

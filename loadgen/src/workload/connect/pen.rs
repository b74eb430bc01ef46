//! The control port of a pen, as pen 0.34 answers.

use std::fmt::Write as _;

use super::text::Servers;
use crate::Result;

/// Answers a request.
pub(super) fn answer(servers: &mut Servers, request: &str, answer: &mut String) -> Result<()> {
    let words: Vec<&str> = request.split_whitespace().collect();
    match *words {
        ["pid"] => answer.push_str("1\n"),
        ["mode"] => answer.push_str("no hash no roundrobin no stubborn weight no prio\n"),
        ["servers"] => {
            for (place, (member, weight)) in servers.list().enumerate() {
                let (ip, port) = (member.ip(), member.port);
                writeln!(answer, "{place} addr {ip} port {port} conn 0 max 0 hard 0 weight {weight} prio 0 sx 0 rx 0")
                    .expect("a string takes everything");
            }
        }
        ["server", place, "weight", weight] => {
            let cell = place.parse().ok().and_then(|place: usize| servers.weights.get_mut(place));
            let (Some(cell), Ok(weight)) = (cell, weight.parse()) else {
                return Err(format!("a command that harms pen: `{request}`"));
            };
            *cell = weight;
        }
        ["server", _, "blacklist", _] => {}
        _ => return Err(format!("an unexpected command for pen: `{request}`")),
    }
    Ok(())
}

//! The stats socket of a HAProxy with one backend, as HAProxy 2.6 answers.

use std::fmt::Write as _;

use super::{GROUP, text::Servers};
use crate::Result;

/// Answers a request.
pub(super) fn answer(servers: &mut Servers, request: &str, answer: &mut String) -> Result<()> {
    for command in request.split(';') {
        let mut words = command.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("show"), Some("info"), None) => answer.push_str("Name: HAProxy\nPid: 1\n"),
            (Some("show"), Some("servers"), Some("state")) => list(servers, answer),
            (Some("set"), Some("server"), Some(name)) => {
                let place = name.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix("/s"));
                let place = place.and_then(|number| number.parse::<usize>().ok());
                let weight = words.nth(1).and_then(|weight| weight.parse().ok());
                let (Some(weight), Some(cell)) = (weight, place.and_then(|place| servers.weights.get_mut(place)))
                else {
                    return Err(format!("a command that HAProxy would refuse: `{command}`"));
                };
                *cell = weight;
            }
            _ => return Err(format!("an unexpected command for HAProxy: `{command}`")),
        }
        answer.push('\n');
    }
    Ok(())
}

fn list(servers: &Servers, answer: &mut String) {
    answer.push_str(
        "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_fqdn \
             srv_port\n",
    );
    for (place, (member, weight)) in servers.list().enumerate() {
        let (ip, port, id) = (member.ip(), member.port, place + 1);
        writeln!(answer, "2 {GROUP} {id} s{place} {ip} 2 0 {weight} 1 - {port}").expect("a string takes everything");
    }
}

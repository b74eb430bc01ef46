//! SIGKILL while load balancers change their groups: after each start each load balancer has what was acknowledged, and of
//! the request that was under way all or nothing.
//!
//! `GWM_KILLS` sets how often the daemon is killed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use fastrand::Rng;
use gwm::sasp::{ReturnCode, frame::message_length};

use super::{Directory, kill};
use crate::{
    harness::{LB, PATIENCE},
    wire,
};

/// Load balancers that change their groups.
const LBS: usize = 8;

/// A load balancer's group: members with state and quiesce, in the order of registration.
type Group = Vec<(u8, u8, bool)>;

fn name(member: u8) -> String {
    format!("10.0.0.{member}:80")
}

/// The group as [`wire::show`] has it.
fn shown(lb: &str, group: &Group) -> String {
    let entries: Vec<String> = group
        .iter()
        .map(|&(member, state, quiesced)| {
            let rest = if quiesced { "07/0" } else { "05/100" };
            format!("{} {state:02X}/{rest}", name(member))
        })
        .collect();
    format!("{lb}/G [{}]", entries.join(", "))
}

/// Sends a request; the code of the reply, `None` if the connection ends before.
fn ask(stream: &mut TcpStream, request: &[u8]) -> Option<ReturnCode> {
    stream.write_all(request).ok()?;
    let mut bytes = Vec::new();
    loop {
        if message_length(&bytes, u32::MAX).expect("the daemon keeps the framing").is_some_and(|len| len <= bytes.len())
        {
            return Some(wire::code(&bytes));
        }
        let mut chunk = [0; 256];
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => bytes.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}

/// A random request, and the group after it.
fn change(rng: &mut Rng, id: u32, lb: &str, group: &Group) -> (Vec<u8>, Group) {
    let mut after = group.clone();
    let absent: Vec<u8> = (1..40).filter(|member| group.iter().all(|(known, ..)| known != member)).collect();
    match rng.u8(..3) {
        0 if !absent.is_empty() => {
            let joining: Vec<u8> = absent.into_iter().filter(|_| rng.u8(..4) == 0).collect();
            after.extend(joining.iter().map(|&member| (member, 0, false)));
            let names: Vec<String> = joining.into_iter().map(name).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            (wire::registration(id, LB, &[(lb, "G", &names)]), after)
        }
        1 if !group.is_empty() => {
            let leaving = group[rng.usize(..group.len())].0;
            after.retain(|(member, ..)| *member != leaving);
            (wire::deregistration(id, LB, &[(lb, "G", &[&name(leaving)])]), after)
        }
        _ => {
            let mut states = Vec::new();
            for (member, state, quiesced) in &mut after {
                if rng.bool() {
                    continue;
                }
                (*state, *quiesced) = (rng.u8(..4), rng.bool());
                states.push((name(*member), *state, *quiesced));
            }
            let states: Vec<(&str, u8, bool)> =
                states.iter().map(|(name, state, q)| (name.as_str(), *state, *q)).collect();
            (wire::member_state(id, LB, &[(lb, "G", &states)]), after)
        }
    }
}

/// Changes the group until the connection ends; gives the group as it is acknowledged, and as it would be after the
/// request that was under way.
fn play(address: SocketAddr, lb: &str, mut group: Group, mut rng: Rng) -> [Group; 2] {
    let mut stream = TcpStream::connect(address).expect("the daemon accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    for id in 1.. {
        let (request, after) = change(&mut rng, id, lb, &group);
        match ask(&mut stream, &request) {
            Some(code) => assert_eq!(code, ReturnCode::SUCCESSFUL, "{lb} {group:?} {after:?}"),
            None => return [group, after],
        }
        group = after;
    }
    unreachable!("the connection ends")
}

#[test]
fn a_crash_in_the_middle_of_changes_loses_nothing_that_was_acknowledged() {
    let kills = std::env::var("GWM_KILLS").map_or(5, |text| text.parse().expect("GWM_KILLS is a number"));
    let directory = Directory::new();
    let names: Vec<String> = (0..LBS).map(|lb| format!("LB{lb}")).collect();
    let mut groups = vec![Group::new(); LBS];
    let mut rng = Rng::with_seed(11);
    let mut daemon = directory.start(&[]);
    for lb in &names {
        assert_eq!(daemon.connect().register(LB, lb, "G", &[]), ReturnCode::SUCCESSFUL);
    }
    for round in 0..kills {
        let address = daemon.address();
        let players: Vec<_> = names
            .iter()
            .zip(&groups)
            .map(|(lb, group)| {
                let (lb, group, rng) = (lb.clone(), group.clone(), rng.fork());
                thread::spawn(move || play(address, &lb, group, rng))
            })
            .collect();
        // The moment of the crash is any.
        thread::sleep(Duration::from_micros(rng.u64(..200_000)));
        kill(daemon);
        let ends: Vec<[Group; 2]> = players.into_iter().map(|player| player.join().expect("no panic")).collect();
        daemon = directory.start(&[]);
        for ((lb, group), [acknowledged, after]) in names.iter().zip(&mut groups).zip(ends) {
            let found = daemon.connect().get_weights(lb, &["G"]);
            let is = |group: &Group| found == shown(lb, group);
            assert!(is(&acknowledged) || is(&after), "round {round}, {lb}: {found}\n{acknowledged:?}\n{after:?}");
            *group = if is(&after) { after } else { acknowledged };
        }
    }
}

//! A session's course, and a farm of 2,000 agents whose GWM is restarted, in simulated time.

use std::collections::HashSet;

use super::*;
use crate::agent::membership::Words;

const TIMING: Timing =
    Timing { first_wait: Duration::from_millis(500), retry: Duration::from_secs(20), refresh: Duration::from_secs(30) };

const STAY: Wish = Wish::Stay(Words { quiesce: false, opaque: 0 });

fn at(seconds: u64) -> Time {
    Time(seconds * 1_000_000_000)
}

#[test]
fn nothing_is_connected_before_a_service_answers_and_each_membership_has_its_turn() {
    let mut machine = Machine::new(TIMING, [false, false]);
    assert_eq!(machine.next(at(0)), Step::Wait(None));
    machine.wish(at(1), 0, STAY);
    machine.wish(at(1), 1, STAY);
    assert_eq!(machine.next(at(1)), Step::Connect);
    machine.connected();
    assert_eq!(machine.next(at(1)), Step::Ask(0, Request::Register));
    assert_eq!(machine.next(at(1)), Step::Wait(None), "one request at a time");
    machine.answered(at(1), ReturnCode::SUCCESSFUL, 0.0);
    assert_eq!(machine.next(at(1)), Step::Ask(1, Request::Register));
    machine.answered(at(1), ReturnCode::LB_NOT_CONTACTED, 0.0);
    assert_eq!(machine.next(at(1)), Step::Wait(Some(Time(1_500_000_000))));
    assert_eq!(machine.memberships().iter().filter(|membership| membership.is_registered()).count(), 1);
}

#[test]
fn a_lost_session_comes_back_within_the_spread_and_a_failing_one_not_before_half_of_it() {
    let mut machine = Machine::new(TIMING, [false]);
    machine.wish(at(0), 0, STAY);
    assert_eq!(machine.next(at(0)), Step::Connect);
    machine.connected();
    assert_eq!(machine.next(at(0)), Step::Ask(0, Request::Register));
    machine.answered(at(0), ReturnCode::SUCCESSFUL, 0.0);
    machine.lost(at(5), 0.1);
    assert_eq!(machine.next(at(5)), Step::Wait(Some(at(7))));
    assert_eq!(machine.next(at(7)), Step::Connect);
    machine.lost(at(7), 0.0);
    assert_eq!(machine.next(at(7)), Step::Wait(Some(at(17))));
    // A session without an answer has failed, too.
    machine.connected();
    assert_eq!(machine.next(at(17)), Step::Ask(0, Request::Register));
    machine.lost(at(17), 1.0);
    assert_eq!(machine.next(at(17)), Step::Wait(Some(at(37))));
    machine.hurry();
    assert_eq!(machine.next(at(17)), Step::Connect);
}

/// A GWM of one load balancer.
#[derive(Default)]
struct Gwm {
    knows_lb: bool,
    members: HashSet<usize>,
}

/// What the farm did in each second.
#[derive(Clone, Copy, Default)]
struct Second {
    connections: u32,
    requests: u32,
}

/// Lets 2,000 agents run for four minutes. The GWM is down from the 100th second for `down` seconds, and its load balancer
/// comes back `lb_away` seconds later. Gives what happened in each second, and when all agents were registered again.
fn farm(seed: u64, down: u64, lb_away: u64) -> (Vec<Second>, u64) {
    const AGENTS: usize = 2000;
    const STEP: Duration = Duration::from_millis(10);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut machines: Vec<_> = (0..AGENTS).map(|_| Machine::new(TIMING, [false])).collect();
    // Services come up within the first minute.
    let up: Vec<_> = (0..AGENTS).map(|_| Time::default() + Duration::from_secs(60).mul_f64(random.f64())).collect();
    let (begin, end) = (at(100), at(100 + down));
    let mut seconds = vec![Second::default(); 240];
    let (mut now, mut gwm, mut right_at) = (Time::default(), Gwm { knows_lb: true, ..Gwm::default() }, None);
    while now < at(240) {
        let is_down = (begin..end).contains(&now);
        let second = &mut seconds[(now.0 / 1_000_000_000) as usize];
        if now == begin {
            gwm = Gwm::default();
            machines
                .iter_mut()
                .filter(|machine| machine.is_connected())
                .for_each(|machine| machine.lost(now, random.f64()));
        }
        gwm.knows_lb |= now >= end + Duration::from_secs(lb_away);
        for (number, machine) in machines.iter_mut().enumerate() {
            if now >= up[number] {
                machine.wish(now, 0, STAY);
            }
            loop {
                match machine.next(now) {
                    Step::Wait(_) => break,
                    Step::Connect => {
                        second.connections += 1;
                        if is_down { machine.lost(now, random.f64()) } else { machine.connected() }
                    }
                    Step::Ask(_, request) => {
                        second.requests += 1;
                        assert_eq!(request, Request::Register);
                        let code = match gwm.knows_lb {
                            false => ReturnCode::LB_NOT_CONTACTED,
                            true if gwm.members.insert(number) => ReturnCode::SUCCESSFUL,
                            true => ReturnCode::ALREADY_REGISTERED,
                        };
                        machine.answered(now, code, random.f64());
                    }
                }
            }
        }
        if now >= end && right_at.is_none() && gwm.members.len() == AGENTS {
            right_at = Some(now.0 / 1_000_000_000);
        }
        now = now + STEP;
    }
    (seconds, right_at.expect("all agents are registered again"))
}

/// With an even spread over 20 s, 2,000 agents are 100 a second.
#[test]
fn two_thousand_agents_come_back_to_a_restarted_gwm_without_a_stampede() {
    // Seed; how long the GWM is down, and its load balancer away after that; when all must be right again; the most
    // connections and requests of one second.
    for (seed, down, lb_away, right_by, connections, requests) in [
        (1, 2, 0, 122, 160, 200),
        // Longer than the spread: agents that try for the first time meet those that try again.
        (2, 45, 0, 165, 300, 300),
        // An agent asks about six times while it waits for the load balancer.
        (3, 2, 20, 142, 160, 900),
    ] {
        let (seconds, right_at) = farm(seed, down, lb_away);
        let most = |count: fn(&Second) -> u32| seconds[100..].iter().map(count).max().unwrap_or(0);
        let found = (right_at, most(|second| second.connections), most(|second| second.requests));
        let good = found.0 <= right_by && found.1 <= connections && found.2 <= requests;
        assert!(
            good,
            "seed {seed}: right again in second {}, at most {} connections, {} requests",
            found.0, found.1, found.2
        );
    }
}

//! Floods of permitted requests: registrations, load balancers and requests up to every limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustls::version::TLS13;

use super::beside::{AWAY, Attack, OK, REFUSED, Row, Way};
use crate::{
    authority::Subject,
    harness::{Daemon, LB, MEMBER, Peer},
    site::{Site, client, from},
};

/// The answer over a limit, or without the right to more.
const FULL: ReturnCode = ReturnCode::INVALID_GROUP;

/// Limits that keep one load balancer from using up the room of all.
const LIMITS: [&str; 4] = ["--max-groups-per-lb", "10", "--max-members-per-group", "5000"];

/// A load balancer with every right that registers up to the limits and beyond, again and again.
fn flood(limit: Option<&str>) -> Row {
    let site = Site::new();
    let identities = ["--lb-identity", "certificate", "--member-identity", "certificate"];
    let rate: Vec<&str> = limit.map(|limit| vec!["--max-requests-per-second", limit]).unwrap_or_default();
    let daemon = site.start_alone(&[&identities[..], &LIMITS, &rate].concat());
    let address = daemon.address();
    let config = client(&site.authority, Some(&site.authority.client("LB2")), &[&TLS13]);
    let members: Vec<String> = (0..50_000).map(|at| format!("10.7.{}.{}:80", at / 256, at % 256)).collect();
    let (refused, counted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (refusals, registered) = (Arc::clone(&refused), Arc::clone(&counted));
    let attack = Attack {
        name: match limit {
            None => "registrations at full speed, up to every limit".into(),
            Some(limit) => format!("the same with `--max-requests-per-second {limit}`"),
        },
        mib: 64,
        attempts: 20,
        // The limit holds for all peers, and the legitimate ones stay below it.
        pace: if limit.is_some() { Duration::from_millis(25) } else { Duration::ZERO },
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            let mut lb = Peer::secure(from(AWAY, address), &config).expect("a good certificate");
            assert_eq!(lb.set_lb("LB2", LbFlags::NONE), OK);
            let parts: Vec<Vec<&str>> =
                members.chunks(600).map(|part| part.iter().map(String::as_str).collect()).collect();
            for (at, part) in parts.iter().enumerate().cycle().take_while(|_| !stage.is_over()) {
                if at == 0 {
                    assert_eq!(lb.deregister(LB, "LB2", "", &[]), OK);
                }
                // Twelve groups, of which ten are permitted, and nine times 600 members, of which 5000 are permitted.
                match lb.register(LB, "LB2", &format!("G{}", at % 12), part) {
                    OK => registered.fetch_add(part.len() as u64, Ordering::Relaxed),
                    code => {
                        assert_eq!(code, FULL);
                        refusals.fetch_add(1, Ordering::Relaxed)
                    }
                };
                stage.attempted(1);
            }
        },
        |attempts| {
            let (members, full) = (counted.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
            format!("{attempts} requests, {members} members registered; {full} answered 0x45")
        },
    );
    daemon.stop();
    row
}

/// A peer that invents load balancers, where no peer has to prove its identity.
fn made_up_names() -> Row {
    let daemon = Daemon::start_alone(&["--max-load-balancers", "100"]);
    let address = daemon.address();
    let refused = Arc::new(AtomicU64::new(0));
    let refusals = Arc::clone(&refused);
    let attack = Attack {
        name: "made-up load balancers (plain, no identities, `--max-load-balancers 100`)".into(),
        attempts: 300,
        ..Attack::default()
    };
    let row = attack.play(
        &daemon,
        Way::Plain,
        move |stage| {
            for number in (0..).take_while(|_| !stage.is_over()) {
                let mut peer = Peer::from(from(AWAY, address));
                match peer.set_lb(&format!("MADE-UP-{number}"), LbFlags::NONE) {
                    OK => assert!(number < 100, "one too many"),
                    code => {
                        assert_eq!(code, REFUSED);
                        refusals.fetch_add(1, Ordering::Relaxed);
                    }
                }
                stage.attempted(1);
            }
        },
        |attempts| format!("{} of {attempts} answered 0x11", refused.load(Ordering::Relaxed)),
    );
    assert!(refused.load(Ordering::Relaxed) > 0);
    daemon.stop();
    row
}

/// A member with every right that registers all its ports and deregisters them.
fn members() -> Row {
    let site = Site::new();
    let identities = ["--lb-identity", "certificate", "--member-identity", "certificate"];
    let daemon = site.start_alone(&identities);
    let address = daemon.address();
    let subject = Subject::client().dns("busy").address(AWAY.into());
    let config = client(&site.authority, Some(&site.authority.issue(&subject)), &[&TLS13]);
    let attack =
        Attack { name: "a member joins and leaves at full speed".into(), mib: 32, attempts: 50, ..Attack::default() };
    let row = attack.play(
        &daemon,
        Way::certified(&site),
        move |stage| {
            let mut member = Peer::secure(from(AWAY, address), &config).expect("a good certificate");
            let ports: Vec<String> = (1..1000).map(|port| format!("{AWAY}:{port}")).collect();
            let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
            // The attacker leaves the group empty.
            for join in [true, false].into_iter().cycle() {
                let code = match join {
                    true if stage.is_over() => break,
                    true => member.register(MEMBER, "LB1", "G", &ports),
                    false => member.deregister(MEMBER, "LB1", "G", &ports),
                };
                assert_eq!(code, OK);
                stage.attempted(1);
            }
        },
        |attempts| format!("{attempts} requests of 999 members each, all within its rights"),
    );
    daemon.stop();
    row
}

pub(crate) fn rows() -> Vec<Row> {
    vec![flood(None), flood(Some("50")), made_up_names(), members()]
}

#[test]
fn registrations_end_at_the_limits() {
    flood(None);
    flood(Some("50"));
}

#[test]
fn made_up_load_balancers_end_at_the_limit() {
    made_up_names();
}

#[test]
fn members_that_come_and_go() {
    members();
}

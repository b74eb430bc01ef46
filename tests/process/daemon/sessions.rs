//! Connections come, are replaced and go; an LB's state stays for the hold time.

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    harness::{Daemon, LB, MEMBER, until},
    wire,
};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

#[test]
fn takeover_ends_the_old_connection_and_keeps_the_state() {
    let daemon = Daemon::start(&["--push-window", "1ms"]);
    let mut old = daemon.connect();
    assert_eq!(old.register(LB, "LB1", "G", &[A, B]), ReturnCode::SUCCESSFUL);
    assert_eq!(old.set_member(LB, ("LB1", "G", A), 9, true), ReturnCode::SUCCESSFUL);
    let mut other = daemon.connect();
    assert_eq!(other.register(LB, "LB2", "G", &[B]), ReturnCode::SUCCESSFUL);

    // A request that is refused for its content still binds the connection.
    let mut new = daemon.connect();
    assert_eq!(new.register(LB, "LB1", "G", &[A, B]), ReturnCode::ALREADY_REGISTERED);
    old.expect_end();
    let expected = "LB1/G [10.0.0.1:80 09/07/0, 10.0.0.2:80 00/05/100]";
    assert_eq!(new.get_weights("LB1", &[""]), expected);

    // Get Weights takes over too, and so does Set LB State; pushes go to the newest connection.
    let mut third = daemon.connect();
    assert_eq!(third.get_weights("LB1", &["G"]), expected);
    new.expect_end();
    let mut fourth = daemon.connect();
    assert_eq!(fourth.set_lb("LB1", LbFlags::PUSH), ReturnCode::SUCCESSFUL);
    third.expect_end();
    assert_eq!(fourth.push(), expected);
    let mut fifth = daemon.connect();
    assert_eq!(fifth.set_member(LB, ("LB1", "G", A), 9, false), ReturnCode::SUCCESSFUL);
    fourth.expect_end();
    assert_eq!(fifth.push(), "LB1/G [10.0.0.1:80 09/05/100, 10.0.0.2:80 00/05/100]");

    // No other connection is affected.
    assert_eq!(other.get_weights("LB2", &["G"]), "LB2/G [10.0.0.2:80 00/05/100]");
    daemon.stop();
}

/// A member's message does not bind a connection, even if an LB's message follows.
#[test]
fn members_and_refusals_take_nothing_over() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "G", &[A]), ReturnCode::SUCCESSFUL);
    assert_eq!(member.register(LB, "LB1", "", &[A]), ReturnCode::GROUP_NAME_SIZE);
    let mut other_version = wire::lb_state(5, "LB1", 0, LbFlags::NONE);
    other_version[4] = 2;
    assert_eq!(member.ask(&other_version), wire::code_reply(5, 0x1055, 0x10));
    assert_eq!(member.register(LB, "LB2", "G", &[A]), ReturnCode::SUCCESSFUL);
    assert_eq!(member.get_weights("LB1", &["G"]), format!("{:?} ", ReturnCode::NOT_ACCEPTED));
    assert_eq!(lb.get_weights("LB1", &["G"]), "LB1/G [10.0.0.1:80 00/01/100]");
}

#[test]
fn state_outlives_the_connection_within_the_hold_time() {
    let daemon = Daemon::start(&["--hold-time", "1h"]);
    let idle = daemon.sockets();
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LB1", "G", &[A, "10.0.0.2:80 label"]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.set_member(LB, ("LB1", "G", A), 0x55, true), ReturnCode::SUCCESSFUL);
    drop(lb);
    until("the daemon lets go of the connection", || daemon.sockets() == idle);

    // Members may still name the LB, and their statements are kept.
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "G", &["10.0.0.3:80"]), ReturnCode::SUCCESSFUL);
    let mut lb = daemon.connect();
    assert_eq!(
        lb.get_weights("LB1", &[""]),
        "LB1/G [10.0.0.1:80 55/07/0, 10.0.0.2:80 label 00/05/100, 10.0.0.3:80 00/01/100]"
    );
    daemon.stop();
}

#[test]
fn state_is_dropped_after_the_hold_time() {
    let daemon = Daemon::start(&["--hold-time", "50ms"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), ReturnCode::SUCCESSFUL);
    let mut stays = daemon.connect();
    assert_eq!(stays.register(LB, "LB2", "G", &[A]), ReturnCode::SUCCESSFUL);
    drop(lb);
    let mut member = daemon.connect();
    until("the hold time ends", || match member.register(MEMBER, "LB1", "G", &[A]) {
        ReturnCode::LB_NOT_CONTACTED => true,
        ReturnCode::ALREADY_REGISTERED => false,
        other => panic!("a member's registration got {other:?}"),
    });
    let mut lb = daemon.connect();
    assert_eq!(lb.get_weights("LB1", &[""]), format!("{:?} ", ReturnCode::UNKNOWN_LB_UID));
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.get_weights("LB1", &[""]), "LB1/G [10.0.0.1:80 00/05/100]");
    assert_eq!(stays.get_weights("LB2", &[""]), "LB2/G [10.0.0.1:80 00/05/100]");
}

/// The end of a member's connection ends no registration.
#[test]
fn a_members_end_changes_nothing() {
    let daemon = Daemon::start(&["--hold-time", "0s"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    let connected = daemon.sockets();
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "G", &[A]), ReturnCode::SUCCESSFUL);
    drop(member);
    until("the daemon lets go of the connection", || daemon.sockets() == connected);
    assert_eq!(lb.get_weights("LB1", &[""]), "LB1/G [10.0.0.1:80 00/01/100]");
}

#[test]
fn a_peer_that_half_closes_gets_its_outstanding_replies() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    let mut requests = wire::registration(1, LB, &[("LB1", "G", &[A])]);
    (2..=300).for_each(|id| requests.extend(wire::get_weights(id, &[("LB1", "G")])));
    requests.extend(&wire::get_weights(301, &[("LB1", "G")])[..20]); // half a message gets no answer
    lb.send(&requests);
    lb.half_close();
    assert_eq!(lb.receive(), wire::code_reply(1, 0x1015, 0x00));
    for id in 2..=300u32 {
        let reply = lb.receive();
        assert_eq!(
            (&reply[9..13], wire::show(&reply).as_str()),
            (&id.to_be_bytes()[..], "LB1/G [10.0.0.1:80 00/05/100]")
        );
    }
    lb.expect_end();
}

#[test]
fn a_connection_without_a_first_message_is_dropped() {
    let daemon = Daemon::start(&["--first-message-timeout", "200ms"]);
    let mut speaks = daemon.connect();
    assert_eq!(speaks.set_lb("LB1", LbFlags::NONE), ReturnCode::SUCCESSFUL);
    let mut silent = daemon.connect();
    let mut half = daemon.connect();
    half.send(&wire::get_weights(1, &[("LB1", "G")])[..20]);
    silent.expect_end();
    half.expect_end();
    // This LB connected before the others. Its own timeout is over too, and has no effect any more.
    assert_eq!(speaks.set_lb("LB1", LbFlags::NONE), ReturnCode::SUCCESSFUL);
}

#[test]
fn a_later_message_that_is_not_finished_ends_its_connection() {
    let daemon = Daemon::start(&["--message-timeout", "200ms"]);
    let mut idle = daemon.connect();
    assert_eq!(idle.set_lb("LB1", LbFlags::NONE), ReturnCode::SUCCESSFUL);
    let mut half = daemon.connect();
    assert_eq!(half.set_lb("LB2", LbFlags::NONE), ReturnCode::SUCCESSFUL);
    half.send(&wire::get_weights(1, &[("LB2", "G")])[..20]);
    half.expect_end();
    // Between messages no such limit holds.
    assert_eq!(idle.set_lb("LB1", LbFlags::NONE), ReturnCode::SUCCESSFUL);
}

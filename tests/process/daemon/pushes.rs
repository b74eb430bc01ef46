//! Pushes: when, to which LB, and with which content.

use std::sync::atomic::{AtomicBool, Ordering};

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    harness::{Daemon, LB, MEMBER, Peer},
    wire,
};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

/// An LB with A and B in `G`, C in `H`, and these flags.
fn lb_with_groups(daemon: &Daemon, uid: &str, flags: LbFlags) -> Peer {
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, uid, "G", &[A, B]), OK);
    assert_eq!(lb.register(LB, uid, "H", &[C]), OK);
    assert_eq!(lb.set_lb(uid, flags), OK);
    lb
}

#[test]
fn what_changes_within_a_window_makes_one_message() {
    let daemon = Daemon::start(&["--push-window", "1s"]);
    let mut lb = lb_with_groups(&daemon, "LB1", LbFlags::PUSH | LbFlags::TRUST);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 00/05/100] LB1/H [10.0.0.3:80 00/05/100]");
    // All requests in one segment, so that one push window covers them.
    let mut requests = Vec::new();
    for state in 1..=100 {
        requests.extend(wire::member_state(1, MEMBER, &[("LB1", "H", &[(C, state, true)])]));
        requests.extend(wire::member_state(2, MEMBER, &[("LB1", "G", &[(B, state, false)])]));
    }
    let mut member = daemon.connect();
    member.send(&requests);
    for _ in 0..200 {
        assert_eq!(wire::code(&member.receive()), OK);
    }
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 64/05/100] LB1/H [10.0.0.3:80 64/07/0]");
    // No old change is left: the next push has the next change only.
    assert_eq!(lb.set_member(LB, ("LB1", "H", C), 0x64, false), OK);
    assert_eq!(lb.push(), "LB1/H [10.0.0.3:80 64/05/100]");
    daemon.stop();
}

/// The window's end is fixed when the window opens. If each change made the window longer, it would never end here.
#[test]
fn changes_without_end_do_not_put_a_push_off() {
    let daemon = Daemon::start(&["--push-window", "20ms"]);
    let mut lb = lb_with_groups(&daemon, "LB1", LbFlags::PUSH | LbFlags::TRUST);
    let mut member = daemon.connect();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = 0u8;
            while !enough.load(Ordering::Relaxed) {
                state = state.wrapping_add(1);
                assert_eq!(member.set_member(MEMBER, ("LB1", "G", A), state, false), OK);
            }
        });
        for _ in 0..5 {
            assert!(lb.push().starts_with("LB1/G ["));
        }
        enough.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_push_has_the_groups_that_changed_with_all_their_members() {
    let daemon = Daemon::start(&["--push-window", "1ms"]);
    let mut lb = lb_with_groups(&daemon, "LB1", LbFlags::PUSH);
    let everything = "LB1/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 00/05/100] LB1/H [10.0.0.3:80 00/05/100]";
    assert_eq!(lb.push(), everything);

    assert_eq!(lb.set_member(LB, ("LB1", "G", B), 1, true), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 01/07/0]");

    // The same value again, or push turned on again, is no change: the push has the other group only.
    assert_eq!(lb.set_member(LB, ("LB1", "G", B), 1, true), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    assert_eq!(lb.set_member(LB, ("LB1", "H", C), 2, false), OK);
    assert_eq!(lb.push(), "LB1/H [10.0.0.3:80 02/05/100]");

    // New members and new groups; an empty group; a removed group is not listed.
    assert_eq!(lb.register(LB, "LB1", "H", &[A]), OK);
    assert_eq!(lb.push(), "LB1/H [10.0.0.3:80 02/05/100, 10.0.0.1:80 00/05/100]");
    assert_eq!(lb.deregister(LB, "LB1", "H", &[A, C]), OK);
    assert_eq!(lb.push(), "LB1/H []");
    assert_eq!(lb.deregister(LB, "LB1", "H", &[]), OK);
    assert_eq!(lb.register(LB, "LB1", "I", &[C]), OK);
    assert_eq!(lb.push(), "LB1/I [10.0.0.3:80 00/05/100]");

    // Push off and on again: the push has everything.
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    assert_eq!(lb.set_member(LB, ("LB1", "G", A), 3, false), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    let everything = "LB1/G [10.0.0.1:80 03/05/100, 10.0.0.2:80 01/07/0] LB1/I [10.0.0.3:80 00/05/100]";
    assert_eq!(lb.push(), everything);

    // Also on a new connection, because push is still on.
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &[A]), ReturnCode::ALREADY_REGISTERED);
    assert_eq!(lb.push(), everything);
    daemon.stop();
}

/// Each LB gets its own groups only, although LBs share members.
#[test]
fn a_push_goes_to_the_lb_that_it_concerns() {
    let daemon = Daemon::start(&["--push-window", "1ms"]);
    let mut first = lb_with_groups(&daemon, "LB1", LbFlags::PUSH);
    let mut second = lb_with_groups(&daemon, "LB2", LbFlags::PUSH);
    let mut pulls = lb_with_groups(&daemon, "LB3", LbFlags::NONE);
    first.push();
    second.push();
    assert_eq!(first.set_member(LB, ("LB1", "H", C), 1, false), OK);
    assert_eq!(first.push(), "LB1/H [10.0.0.3:80 01/05/100]");
    assert_eq!(second.set_member(LB, ("LB2", "H", C), 2, false), OK);
    assert_eq!(second.push(), "LB2/H [10.0.0.3:80 02/05/100]");
    assert_eq!(pulls.set_member(LB, ("LB3", "H", C), 3, false), OK);
    pulls.send(&wire::get_weights(99, &[("LB3", "H")]));
    assert_eq!(wire::show(&pulls.receive()), "LB3/H [10.0.0.3:80 03/05/100]");
}

#[test]
fn no_change_leaves_out_what_was_sent_before() {
    let daemon = Daemon::start(&["--push-window", "1ms"]);
    let flags = LbFlags::NO_CHANGE_NO_SEND | LbFlags::TRUST;
    let mut lb = lb_with_groups(&daemon, "LB1", flags);
    let mut member = daemon.connect();

    // Pulled: everything once, then the changes.
    let everything = "LB1/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 00/05/100] LB1/H [10.0.0.3:80 00/05/100]";
    assert_eq!(lb.get_weights("LB1", &[""]), everything);
    assert_eq!(lb.get_weights("LB1", &[""]), "LB1/G [] LB1/H []");
    assert_eq!(member.set_member(MEMBER, ("LB1", "G", B), 8, false), OK);
    assert_eq!(lb.get_weights("LB1", &["H", "G"]), "LB1/H [] LB1/G [10.0.0.2:80 08/05/100]");
    // A value that changed and changed back is no change.
    assert_eq!(member.set_member(MEMBER, ("LB1", "G", B), 9, false), OK);
    assert_eq!(member.set_member(MEMBER, ("LB1", "G", B), 8, false), OK);
    assert_eq!(lb.get_weights("LB1", &[""]), "LB1/G [] LB1/H []");

    // Pushed: pulled values count as sent; a group without changes is left out.
    assert_eq!(lb.set_lb("LB1", flags | LbFlags::PUSH), OK);
    assert_eq!(member.set_member(MEMBER, ("LB1", "G", A), 1, true), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 01/07/0]");
    assert_eq!(lb.get_weights("LB1", &[""]), "LB1/G [] LB1/H []");

    // A new connection gets everything again.
    let mut lb = daemon.connect();
    assert_eq!(
        lb.get_weights("LB1", &[""]),
        "LB1/G [10.0.0.1:80 01/07/0, 10.0.0.2:80 08/05/100] LB1/H [10.0.0.3:80 00/05/100]"
    );
    assert_eq!(member.set_member(MEMBER, ("LB1", "H", C), 4, false), OK);
    assert_eq!(lb.push(), "LB1/H [10.0.0.3:80 04/05/100]");
    daemon.stop();
}

#[test]
fn a_delta_lb_hears_once_of_a_member_that_left() {
    let daemon = Daemon::start(&["--push-window", "1ms"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH | LbFlags::TRUST | LbFlags::NO_CHANGE_NO_SEND), OK);
    let mut member = daemon.connect();
    assert_eq!(member.register(MEMBER, "LB1", "G", &["10.0.0.1:80 label", B]), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 label 00/01/100, 10.0.0.2:80 00/01/100]");
    assert_eq!(member.set_member(MEMBER, ("LB1", "G", A), 0x44, false), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 label 44/01/100]");
    assert_eq!(member.deregister(MEMBER, "LB1", "G", &[A]), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.1:80 label 44/08/0]");
    // Once. The LB does not hear about its own removals.
    assert_eq!(lb.deregister(LB, "LB1", "G", &[B]), OK);
    assert_eq!(lb.get_weights("LB1", &["G"]), "LB1/G []");
    assert_eq!(member.register(MEMBER, "LB1", "G", &[C]), OK);
    assert_eq!(lb.push(), "LB1/G [10.0.0.3:80 00/01/100]");
    daemon.stop();
}

/// A refresh repeats everything without a change. A delta-only LB gets nothing, because nothing has changed.
#[test]
fn a_refresh_comes_without_a_change() {
    let daemon = Daemon::start(&["--push-window", "1ms", "--push-refresh", "1s"]);
    let mut delta = lb_with_groups(&daemon, "LB1", LbFlags::PUSH | LbFlags::NO_CHANGE_NO_SEND);
    let mut full = lb_with_groups(&daemon, "LB2", LbFlags::PUSH);
    delta.push();
    for _ in 0..3 {
        let everything = "LB2/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 00/05/100] LB2/H [10.0.0.3:80 00/05/100]";
        assert_eq!(full.push(), everything);
    }
    assert_eq!(delta.set_member(LB, ("LB1", "H", C), 1, false), OK);
    assert_eq!(delta.push(), "LB1/H [10.0.0.3:80 01/05/100]");
    daemon.stop();
}

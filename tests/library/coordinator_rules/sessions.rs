//! Sessions: binding, takeover, hold time, members and trust.

use super::rig::{HOLD, NOTHING, Rig, WINDOW};
use crate::wire;

#[test]
fn registration_and_set_lb_state_make_an_lb_known() {
    for first in ["lb register LB1/G a", "lb register LB1/G", "state LB1 7F"] {
        let mut rig = Rig::new();
        let lb = rig.open();
        rig.ok(lb, first);
        let other = rig.open();
        assert_eq!(rig.ask(other, "member register LB1/H a"), "11"); // LB1 is known and does not trust
        assert_eq!(rig.ask(lb, "get LB2/"), "11"); // the connection is bound to LB1
    }
}

#[test]
fn other_messages_of_an_unknown_lb_bind_nothing() {
    for first in ["get LB1/", "get LB1/G", "lb deregister LB1/", "lb deregister LB1/G a", "lb set LB1/G a=01"] {
        let mut rig = Rig::new();
        let lb = rig.open();
        assert_eq!(rig.ask(lb, first), "43");
        assert_eq!(rig.totals(), [0; 4]);
        assert_eq!(rig.ask(lb, "member register LB1/H a"), "61");
        rig.ok(lb, "state LB2 7F"); // the connection is still unbound
    }
}

#[test]
fn any_message_of_a_known_lb_binds() {
    for (first, code) in [
        ("get LB1/", "00 LB1/G[a 00/05/100]"),
        ("lb deregister LB1/G a", "00"),
        ("lb set LB1/G a=01", "00"),
        ("lb register LB1/H a", "00"),
        ("state LB1 00", "00"),
    ] {
        let mut rig = Rig::new();
        let old = rig.open();
        rig.ok(old, "lb register LB1/G a");
        let new = rig.open();
        assert_eq!(rig.ask(new, first), code);
        assert_eq!(rig.closes(), [old], "{first}");
        assert_eq!(rig.ask(new, "state LB2 7F"), "11");
    }
}

#[test]
fn a_bound_connection_is_one_lb() {
    let mut rig = Rig::new();
    let one = rig.lb("LB1", "");
    rig.lb("LB2", "");
    for request in [
        "lb register LB2/G a",
        "lb register LB1/G a + LB2/G a",
        "lb deregister LB2/",
        "lb deregister LB1/ + LB2/",
        "get LB2/",
        "get LB1/ + LB2/",
        "lb set LB2/G",
        "lb set LB1/G + LB2/G",
        "state LB2 7F",
        "state LB3 7F",
        "lb register LB3/G a",
    ] {
        assert_eq!(rig.ask(one, request), "11", "{request}");
    }
    assert_eq!(rig.totals(), [2, 0, 0, 0]);
    rig.ok(one, "lb register LB1/G a");
    assert!(rig.closes().is_empty());
}

#[test]
fn groups_of_two_lbs_in_one_lb_message_are_refused_and_bind_nothing() {
    let mut rig = Rig::new();
    rig.lb("LB1", "");
    let peer = rig.open();
    for request in
        ["lb register LB1/G a + LB2/G a", "lb deregister LB1/ + LB2/", "get LB1/ + LB2/", "lb set LB1/G + LB2/G"]
    {
        assert_eq!(rig.ask(peer, request), "11", "{request}");
    }
    rig.ok(peer, "state LB3 7F");
    assert_eq!(rig.totals(), [2, 0, 0, 0]);
    assert!(rig.closes().is_empty());
}

#[test]
fn a_refusal_for_the_content_does_not_undo_the_binding() {
    for (first, code) in [
        ("lb register LB1/G a", "40"),
        ("lb register LB1/G b b", "44"),
        ("get LB1/X", "42"),
        ("get LB1/G + LB1/G", "46"),
        ("lb deregister LB1/G b", "41"),
        ("lb deregister LB1/G + LB1/G", "46"),
        ("lb set LB1/X", "42"),
        ("lb set LB1/G a=01 a=01", "44"),
    ] {
        let mut rig = Rig::new();
        let old = rig.open();
        rig.ok(old, "lb register LB1/G a");
        let new = rig.open();
        assert_eq!(rig.ask(new, first), code);
        assert_eq!(rig.closes(), [old], "{first}");
        assert_eq!(rig.ask(new, "state LB2 7F"), "11");
        assert_eq!(rig.ask(new, "get LB1/"), "00 LB1/G[a 00/05/100]");
    }
}

#[test]
fn a_first_registration_refused_for_its_content_has_contacted() {
    let mut rig = Rig::new();
    let lb = rig.open();
    assert_eq!(rig.ask(lb, "lb register LB1/G a a"), "44");
    assert_eq!(rig.totals(), [1, 0, 0, 0]);
    assert_eq!(rig.ask(lb, "member register LB1/G a"), "11");
    assert_eq!(rig.ask(lb, "get LB1/"), "00");
}

#[test]
fn a_refusal_before_that_binds_nothing() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "");
    let peer = rig.open();
    assert_eq!(rig.ask(peer, "lb register LB1/ a"), "50");
    assert_eq!(rig.ask(peer, "lb register LB1/G + /G"), "51");
    assert_eq!(rig.ask(peer, "lb deregister LB1/ a"), "10");
    assert_eq!(rig.ask(peer, "lb register LB9/ a"), "50");
    assert_eq!(rig.ask(peer, "member register LB9/G a"), "61");
    assert!(rig.closes().is_empty());
    rig.ok(peer, "state LB2 7F");
    rig.ok(old, "get LB1/");
}

#[test]
fn a_takeover_closes_the_old_connection_and_keeps_all_state() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "trust");
    rig.ok(old, "lb register LB1/G a:x b");
    rig.ok(old, "lb set LB1/G a=07 b=01q");
    let new = rig.open();
    assert_eq!(rig.ask(new, "get LB1/"), "00 LB1/G[a:x 07/05/100 b 01/07/0]");
    assert_eq!(rig.closes(), [old]);
    rig.ok(new, "member register LB1/G c"); // trust stayed
    rig.closed(old);
    assert_eq!(rig.deadline(), None); // no hold time runs
    rig.after(10 * HOLD);
    assert_eq!(rig.ask(new, "get LB1/"), "00 LB1/G[a:x 07/05/100 b 01/07/0 c 00/01/100]");
}

#[test]
fn a_connection_that_was_taken_over_is_no_lb_any_more() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "trust");
    let new = rig.lb("LB1", "trust");
    assert_eq!(rig.closes(), [old]);
    for request in
        ["state LB1 7F", "state LB2 7F", "get LB1/", "lb register LB1/G a", "lb deregister LB1/", "lb set LB1/G"]
    {
        assert_eq!(rig.ask(old, request), "11", "{request}");
    }
    rig.ok(old, "get");
    rig.ok(old, "member register LB1/G a");
    rig.ok(new, "get");
    assert_eq!(rig.ask(new, "get LB1/"), "00 LB1/G[a 00/01/100]");
    assert!(rig.closes().is_empty());
}

#[test]
fn pushes_follow_a_takeover() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "push");
    rig.ok(old, "lb register LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100]"]);
    rig.ok(old, "lb set LB1/G a=01");
    rig.after(WINDOW - 1);
    let new = rig.open();
    assert_eq!(rig.ask(new, "lb register LB1/G a"), "40");
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1), ["#1 LB1/G[a 01/05/100]"]);
    rig.ok(new, "lb set LB1/G a=02");
    assert_eq!(rig.after(WINDOW), ["#1 LB1/G[a 02/05/100]"]);
}

#[test]
fn an_lbs_state_outlives_its_connection_for_the_hold_time() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "trust");
    rig.ok(old, "lb register LB1/G a:x b");
    rig.ok(old, "lb set LB1/G a=07 b=01q");
    rig.closed(old);
    assert_eq!(rig.deadline(), Some(HOLD));
    assert_eq!(rig.after(HOLD - 1), NOTHING);
    assert_eq!(rig.totals(), [1, 1, 2, 2]);
    let member = rig.open();
    rig.ok(member, "member set LB1/G a=08"); // members go on
    let new = rig.open();
    assert_eq!(rig.ask(new, "get LB1/"), "00 LB1/G[a:x 08/05/100 b 01/07/0]");
    assert!(rig.closes().is_empty());
    rig.after(2 * HOLD);
    assert_eq!(rig.totals(), [1, 1, 2, 2]);
    rig.ok(member, "member register LB1/G c");
}

#[test]
fn the_flags_outlive_the_connection_too() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "push trust nochange");
    rig.ok(old, "lb register LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100]"]);
    rig.closed(old);
    rig.after(HOLD / 2);
    let new = rig.open();
    assert_eq!(rig.ask(new, "lb set LB1/X"), "42"); // this binds the connection
    assert_eq!(rig.after(WINDOW), ["#1 LB1/G[a 00/05/100]"]);
    rig.ok(new, "member register LB1/G b");
    assert_eq!(rig.after(WINDOW), ["#1 LB1/G[b 00/01/100]"]);
}

#[test]
fn after_the_hold_time_the_lb_is_unknown() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "push trust");
    rig.ok(old, "lb register LB1/G a");
    rig.closed(old);
    rig.after(HOLD);
    assert_eq!(rig.totals(), [0; 4]);
    let peer = rig.open();
    assert_eq!(rig.ask(peer, "member set LB1/G a=01"), "61");
    assert_eq!(rig.ask(peer, "get LB1/"), "43");
    rig.ok(peer, "lb register LB1/G a"); // would be 0x40 if the member were still there
    assert_eq!(rig.ask(peer, "member register LB1/G b"), "11"); // trust is gone
    assert_eq!(rig.after(WINDOW), NOTHING); // push is off, too
}

#[test]
fn the_hold_time_starts_anew_with_each_end_of_a_connection() {
    let mut rig = Rig::new();
    let first = rig.lb("LB1", "");
    rig.closed(first);
    rig.after(HOLD - 1);
    let second = rig.lb("LB1", "");
    rig.after(1);
    rig.closed(second);
    rig.after(HOLD - 1);
    assert_eq!(rig.totals(), [1, 0, 0, 0]);
    rig.after(1);
    assert_eq!(rig.totals(), [0; 4]);
}

#[test]
fn nothing_is_pushed_to_an_lb_that_is_away() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "push trust");
    rig.ok(lb, "lb register LB1/G a");
    rig.closed(lb);
    assert_eq!(rig.after(WINDOW), NOTHING);
    let member = rig.open();
    rig.ok(member, "member set LB1/G a=01");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn what_changed_while_an_lb_was_away_is_pushed_when_it_is_back() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "push trust");
    rig.ok(lb, "lb register LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100]"]);
    rig.closed(lb);
    let member = rig.open();
    rig.ok(member, "member set LB1/G a=01");
    assert_eq!(rig.after(WINDOW), NOTHING);
    let new = rig.open();
    rig.ok(new, "lb set LB1/G");
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1), ["#2 LB1/G[a 01/05/100]"]);
}

#[test]
fn a_member_needs_an_lb_that_is_known_and_trusts() {
    let mut rig = Rig::new();
    let member = rig.open();
    for request in ["member register LB1/G a", "member set LB1/G a=01", "member deregister LB1/G a"] {
        assert_eq!(rig.ask(member, request), "61", "{request}");
    }
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G b");
    for request in ["member register LB1/G a", "member set LB1/G b=01", "member deregister LB1/G b"] {
        assert_eq!(rig.ask(member, request), "11", "{request}");
    }
    rig.ok(lb, "state LB1 7F trust");
    for request in ["member register LB1/G a", "member set LB1/G b=01", "member deregister LB1/G b"] {
        rig.ok(member, request);
    }
    rig.ok(lb, "state LB1 7F");
    assert_eq!(rig.ask(member, "member deregister LB1/G a"), "11");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/01/100]");
}

#[test]
fn a_member_may_speak_for_several_lbs_where_each_lets_it() {
    let mut rig = Rig::new();
    let one = rig.lb("LB1", "trust");
    let two = rig.lb("LB2", "trust");
    rig.lb("LB3", "");
    let member = rig.open();
    rig.ok(member, "member register LB1/G a + LB2/G a");
    rig.ok(member, "member set LB1/G a=01 + LB2/G a=02");
    assert_eq!(rig.ask(member, "member set LB1/G a=03 + LB2/G a=03 + LB3/G"), "11");
    assert_eq!(rig.ask(one, "get LB1/"), "00 LB1/G[a 01/01/100]");
    assert_eq!(rig.ask(two, "get LB2/"), "00 LB2/G[a 02/01/100]");
    rig.ok(member, "member deregister LB1/G a + LB2/G a");
    assert_eq!(rig.totals(), [3, 2, 0, 0]);
}

#[test]
fn a_members_message_is_a_members_on_an_lbs_own_connection() {
    let mut rig = Rig::new();
    let one = rig.lb("LB1", "");
    assert_eq!(rig.ask(one, "member register LB1/G a"), "11");
    rig.lb("LB2", "trust");
    rig.ok(one, "member register LB2/G a"); // the connection is another LB's
    rig.ok(one, "state LB1 7F trust");
    rig.ok(one, "member register LB1/G a");
    assert_eq!(rig.ask(one, "get LB1/"), "00 LB1/G[a 00/01/100]");
}

#[test]
fn a_members_message_binds_nothing() {
    let mut rig = Rig::new();
    rig.lb("LB1", "trust");
    let member = rig.open();
    rig.ok(member, "member register LB1/G a");
    rig.ok(member, "member set LB1/G a=01");
    assert!(rig.closes().is_empty());
    rig.ok(member, "state LB2 7F");
}

#[test]
fn the_end_of_a_members_connection_changes_nothing() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "trust");
    let member = rig.open();
    rig.ok(member, "member register LB1/G a");
    rig.closed(member);
    assert_eq!(rig.deadline(), None);
    rig.after(2 * HOLD);
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/01/100]");
}

#[test]
fn set_lb_state_sets_the_flags_as_given_each_time() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "push trust nochange");
    rig.ok(lb, "state LB1 00 nochange");
    assert_eq!(rig.ask(lb, "member register LB1/G a"), "11");
    rig.ok(lb, "lb register LB1/G a");
    assert_eq!(rig.after(WINDOW), NOTHING);
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100]");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[]");
    rig.ok(lb, "state LB1 7F trust");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100]");
    rig.ok(lb, "member register LB1/G b");
}

/// By then another connection may use its slot.
#[test]
fn what_comes_of_a_connection_that_has_ended_is_nothing() {
    let mut rig = Rig::new();
    let old = rig.lb("LB1", "push trust");
    rig.closed(old);
    rig.late(old, "lb register LB1/G a");
    assert_eq!(rig.totals(), [1, 0, 0, 0]);
    let new = rig.reopen(old);
    rig.ok(new, "state LB1 7F push");
    rig.ok(new, "lb register LB1/G a");
    rig.late(old, "lb deregister LB1/");
    rig.reading = false;
    assert_eq!(rig.after(WINDOW), [format!("#{new} LB1/G[a 00/05/100]")]);
    rig.late(old, "member set LB1/G a=01");
    rig.delivered(old); // says nothing about the new connection's message
    rig.closed(old); // does not end the new connection
    assert_eq!(rig.totals(), [1, 1, 1, 1]);
    rig.reading = true;
    rig.delivered(new);
    rig.ok(new, "lb set LB1/G a=02");
    assert_eq!(rig.after(WINDOW), [format!("#{new} LB1/G[a 02/05/100]")]);
}

#[test]
fn health_and_flags_are_kept_as_received() {
    let mut rig = Rig::new();
    assert_eq!(rig.lb_state("LB1"), None);
    let lb = rig.open();
    rig.ok(lb, "lb register LB1/G");
    assert_eq!(rig.lb_state("LB1"), Some((0x00, 0x00)));
    for (health, flags) in [(0x7F, 0x07), (0x01, 0x00), (0x80, 0xF9), (0xFF, 0x02)] {
        let request = wire::Request::SetLbState { uid: b"LB1".into(), health, flags };
        assert_eq!(rig.reply(lb, &request).last(), Some(&0));
        assert_eq!(rig.lb_state("LB1"), Some((health, flags)));
    }
    rig.closed(lb);
    assert_eq!(rig.lb_state("LB1"), Some((0xFF, 0x02)), "held");
}

#[test]
fn two_lbs_have_two_groups_of_one_name() {
    let mut rig = Rig::new();
    let one = rig.lb("LB1", "");
    let two = rig.lb("LB2", "");
    rig.ok(one, "lb register LB1/G a");
    rig.ok(two, "lb register LB2/G a b");
    rig.ok(one, "lb set LB1/G a=01q");
    assert_eq!(rig.ask(one, "get LB1/"), "00 LB1/G[a 01/07/0]");
    assert_eq!(rig.ask(two, "get LB2/"), "00 LB2/G[a 00/05/100 b 00/05/100]");
    rig.ok(one, "lb deregister LB1/");
    assert_eq!(rig.totals(), [2, 1, 2, 2]);
}

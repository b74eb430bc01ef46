//! Send Weights: windows, the groups in a push, refreshes, and one message in flight.

use std::time::Duration;

use super::rig::{NOTHING, Rig, WINDOW, fixed, settings};

/// LB1 on connection 0 with push, trust and G[a b]; everything has been pushed.
fn pushed() -> Rig {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "push trust");
    rig.ok(lb, "lb register LB1/G a b");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100 b 00/05/100]"]);
    rig
}

#[test]
fn without_push_nothing_is_sent() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "trust");
    rig.ok(lb, "lb register LB1/G a");
    rig.ok(lb, "member set LB1/G a=01q");
    assert_eq!(rig.deadline(), None);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_push_lb_may_still_ask() {
    let mut rig = pushed();
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/05/100]");
}

#[test]
fn the_window_is_fixed_at_the_first_change() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.deadline(), Some(WINDOW));
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    rig.ok(0, "lb set LB1/G b=02"); // does not move the window
    assert_eq!(rig.deadline(), Some(1));
    assert_eq!(rig.after(1), ["#0 LB1/G[a 01/05/100 b 02/05/100]"]);
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.ok(0, "lb set LB1/G a=03"); // opens the next window
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1), ["#0 LB1/G[a 03/05/100 b 02/05/100]"]);
}

/// Whichever group changes, and also with no-change/no-send.
#[test]
fn no_later_change_moves_the_window() {
    for flags in ["push", "push nochange"] {
        let mut rig = Rig::new();
        let lb = rig.lb("LB1", flags);
        rig.ok(lb, "lb register LB1/G a b + LB1/H c");
        rig.after(WINDOW);
        rig.ok(lb, "lb set LB1/G a=01");
        for (state, group) in [("02", "G b"), ("03", "H c"), ("04", "G a")] {
            rig.after(1);
            rig.ok(lb, &format!("lb set LB1/{group}={state}"));
        }
        assert_eq!(rig.after(WINDOW - 4), NOTHING);
        assert_eq!(rig.after(1), ["#0 LB1/G[a 04/05/100 b 02/05/100] LB1/H[c 03/05/100]"]);
        assert_eq!(rig.after(WINDOW), NOTHING);
    }
}

#[test]
fn a_window_of_0_ends_at_the_next_poll() {
    let mut settings = settings();
    settings.push_window = Duration::ZERO;
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "push");
    rig.ok(lb, "lb register LB1/G a");
    assert_eq!(rig.after(0), ["#0 LB1/G[a 00/05/100]"]);
    rig.ok(lb, "lb set LB1/G a=01");
    assert_eq!(rig.after(0), ["#0 LB1/G[a 01/05/100]"]);
}

#[test]
fn a_push_lists_the_changed_groups_whole_in_the_order_of_registration() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H a + LB1/A c d");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[a 00/05/100] LB1/A[c 00/05/100 d 00/05/100]"]);
    rig.ok(0, "lb set LB1/A d=01");
    rig.ok(0, "lb set LB1/G b=01q");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100 b 01/07/0] LB1/A[c 00/05/100 d 01/05/100]"]);
}

#[test]
fn whoever_causes_a_change_it_is_pushed() {
    let mut rig = pushed();
    let member = rig.open();
    rig.ok(member, "member register LB1/G c");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100 b 00/05/100 c 00/01/100]"]);
    rig.ok(member, "member set LB1/G a=09q");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 09/07/0 b 00/05/100 c 00/01/100]"]);
    rig.set_fixed(&[("b", 7)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 09/07/0 b 00/0D/7 c 00/01/100]"]);
    rig.ok(0, "lb deregister LB1/G c");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 09/07/0 b 00/0D/7]"]);
}

#[test]
fn a_change_is_pushed_to_those_whom_it_concerns() {
    let mut rig = pushed();
    let two = rig.lb("LB2", "push");
    let three = rig.lb("LB3", "push");
    rig.ok(two, "lb register LB2/G b");
    rig.ok(three, "lb register LB3/G c");
    rig.after(WINDOW);
    rig.set_fixed(&[("b", 7), ("d", 9)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100 b 00/0D/7]", "#1 LB2/G[b 00/0D/7]"]);
    rig.set_fixed(&[("b", 7)]); // nobody has d
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn the_same_value_again_is_no_change() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=00 b=00");
    rig.ok(0, "lb register LB1/G"); // the group is there
    rig.set_fixed(&[]);
    assert_eq!(rig.deadline(), Some(1_000_000_000 - WINDOW)); // of the refresh
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_value_that_came_back_is_no_change() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01q");
    rig.ok(0, "lb set LB1/G a=00");
    rig.set_fixed(&[("b", 1)]);
    rig.set_fixed(&[]);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_member_that_came_and_went_unheard_of_is_no_change() {
    let mut rig = pushed();
    rig.ok(0, "member register LB1/G c");
    rig.ok(0, "member deregister LB1/G c");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_member_registered_anew_was_never_sent() {
    let mut rig = pushed();
    rig.ok(0, "lb deregister LB1/G b");
    rig.ok(0, "lb register LB1/G b");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100 b 00/05/100]"]);
}

#[test]
fn a_group_that_is_empty_is_pushed_with_no_entries() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[]"]);
    rig.ok(0, "lb deregister LB1/G a b");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[]"]);
    rig.ok(0, "lb register LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100]"]);
    rig.ok(0, "member deregister LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[]"]);
}

#[test]
fn a_group_that_the_lb_removed_is_not_pushed() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H c");
    rig.after(WINDOW);
    rig.ok(0, "lb set LB1/G a=01");
    rig.ok(0, "lb set LB1/H c=01");
    rig.ok(0, "lb deregister LB1/G");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[c 01/05/100]"]);
    rig.ok(0, "lb deregister LB1/");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_group_that_a_member_removed_is_pushed_empty_once() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H c");
    rig.after(WINDOW);
    rig.ok(0, "member deregister LB1/G");
    assert_eq!(rig.ask(0, "get LB1/H"), "00 LB1/H[c 00/05/100]"); // this reply does not tell the end of G
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[]"]);
    rig.ok(0, "lb set LB1/H c=01");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[c 01/05/100]"]);
}

#[test]
fn a_group_that_came_and_went_unheard_of_is_no_change() {
    let mut rig = pushed();
    rig.ok(0, "member register LB1/H c");
    rig.ok(0, "member deregister LB1/H");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_group_that_a_member_removed_before_its_lb_was_told_of_it_is_not_pushed() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H c");
    rig.after(WINDOW);
    let new = rig.open();
    rig.ok(new, "lb set LB1/H");
    rig.ok(new, "member deregister LB1/G"); // on this connection nothing was sent yet
    assert_eq!(rig.after(WINDOW), ["#1 LB1/H[c 00/05/100]"]);
}

#[test]
fn of_a_group_that_a_member_removed_before_the_takeover_nothing_is_said() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H c");
    rig.after(WINDOW);
    rig.ok(0, "member deregister LB1/G"); // the old connection hears nothing any more
    let new = rig.open();
    rig.ok(new, "lb set LB1/H");
    assert_eq!(rig.after(WINDOW), ["#1 LB1/H[c 00/05/100]"]);
}

#[test]
fn get_weights_lists_no_group_that_a_member_removed() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H c");
    rig.after(WINDOW);
    rig.ok(0, "member deregister LB1/G");
    assert_eq!(rig.ask(0, "get LB1/G"), "42");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/H[c 00/05/100]");
    assert_eq!(rig.after(WINDOW), NOTHING); // the reply told it
}

#[test]
fn what_get_weights_gave_counts_as_sent() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H c");
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[a 01/05/100 b 00/05/100]");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[c 00/05/100]"]);
    rig.ok(0, "lb set LB1/G a=02");
    rig.ok(0, "lb deregister LB1/H c");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 02/05/100 b 00/05/100] LB1/H[]");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_refused_get_weights_sends_nothing() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.ask(0, "get LB1/G + LB1/X"), "42");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 01/05/100 b 00/05/100]"]);
}

#[test]
fn turning_push_on_sends_all_groups_after_the_window() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a + LB1/H");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100] LB1/H[]");
    rig.ok(lb, "state LB1 7F push");
    assert_eq!(rig.deadline(), Some(WINDOW));
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1), ["#0 LB1/G[a 00/05/100] LB1/H[]"]);
    rig.ok(lb, "state LB1 00 push"); // push is on already
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.ok(lb, "state LB1 00");
    rig.ok(lb, "state LB1 00 push");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100] LB1/H[]"]);
}

#[test]
fn turning_push_on_without_a_group_sends_nothing() {
    let mut rig = Rig::new();
    rig.lb("LB1", "push");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn turning_push_off_cancels_what_is_due() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01");
    rig.ok(0, "state LB1 7F trust");
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.ok(0, "lb set LB1/G a=02");
    assert_eq!(rig.after(2_000_000_000), NOTHING); // no refresh either
}

#[test]
fn with_push_off_no_change_is_sent() {
    let mut rig = pushed();
    rig.ok(0, "state LB1 7F trust");
    rig.ok(0, "lb set LB1/G a=01");
    rig.ok(0, "lb register LB1/H c");
    assert_eq!(rig.deadline(), Some(1_000_000_000 - WINDOW)); // an old alarm of the refresh, which is off
    assert_eq!(rig.after(2_000_000_000), NOTHING);
}

#[test]
fn binding_a_new_connection_sends_all_groups_after_the_window() {
    let mut rig = pushed();
    rig.ok(0, "lb register LB1/H");
    rig.after(WINDOW);
    rig.closed(0);
    rig.after(100);
    let new = rig.open();
    assert_eq!(rig.ask(new, "lb register LB1/G a"), "40");
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1), ["#1 LB1/G[a 00/05/100 b 00/05/100] LB1/H[]"]);
    assert_eq!(rig.ask(new, "lb register LB1/G a"), "40"); // bound as before
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_window_of_the_old_connection_does_not_hasten_the_new_ones_push() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01");
    rig.after(WINDOW / 2);
    let new = rig.open();
    rig.ok(new, "lb set LB1/G");
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1), ["#1 LB1/G[a 01/05/100 b 00/05/100]"]);
}

/// A rig with a refresh every 100, and LB1 as in [`pushed`]; the time is [`WINDOW`].
fn refreshed(flags: &str) -> Rig {
    let mut settings = settings();
    settings.push_refresh = Duration::from_nanos(100);
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", flags);
    rig.ok(lb, "lb register LB1/G a + LB1/H");
    rig.after(WINDOW);
    rig
}

#[test]
fn a_refresh_sends_all_groups_at_a_fixed_period() {
    let mut rig = refreshed("push");
    let all = ["#0 LB1/G[a 00/05/100] LB1/H[]"];
    assert_eq!(rig.after(89), NOTHING);
    assert_eq!(rig.deadline(), Some(1));
    assert_eq!(rig.after(1), all); // 100
    assert_eq!(rig.after(150), all); // 250: late for 200
    assert_eq!(rig.after(49), NOTHING);
    assert_eq!(rig.after(1), all); // 300: not moved by the delay
    assert_eq!(rig.after(350), all); // 650: once for 400, 500 and 600
    assert_eq!(rig.after(49), NOTHING);
    assert_eq!(rig.after(1), all);
}

#[test]
fn a_refresh_carries_what_the_window_has_collected() {
    let mut rig = refreshed("push");
    rig.after(85);
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.after(5), ["#0 LB1/G[a 01/05/100] LB1/H[]"]);
    rig.ok(0, "lb set LB1/G a=02"); // opens a window
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1), ["#0 LB1/G[a 02/05/100]"]);
}

#[test]
fn a_refresh_of_no_group_sends_nothing() {
    let mut rig = refreshed("push");
    rig.ok(0, "lb deregister LB1/");
    assert_eq!(rig.after(90), NOTHING);
}

#[test]
fn a_delta_only_lb_gets_nothing_by_a_refresh() {
    let mut rig = refreshed("push nochange");
    assert_eq!(rig.after(90), NOTHING);
    rig.after(95);
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.after(5), NOTHING); // and the refresh ends no window
    assert_eq!(rig.after(5), ["#0 LB1/G[a 01/05/100]"]);
}

#[test]
fn an_lb_keeps_its_point_of_the_period() {
    let mut rig = refreshed("push");
    let all = ["#0 LB1/G[a 00/05/100] LB1/H[]"];
    rig.after(40);
    rig.ok(0, "state LB1 7F");
    rig.ok(0, "state LB1 7F push");
    assert_eq!(rig.after(WINDOW), all); // 60
    assert_eq!(rig.after(39), NOTHING);
    assert_eq!(rig.after(1), all); // 100, as before
    rig.after(30);
    let new = rig.open();
    rig.ok(new, "lb set LB1/G");
    assert_eq!(rig.after(WINDOW), ["#1 LB1/G[a 00/05/100] LB1/H[]"]); // 140
    assert_eq!(rig.after(59), NOTHING);
    assert_eq!(rig.after(1), ["#1 LB1/G[a 00/05/100] LB1/H[]"]); // 200
}

#[test]
fn refreshes_are_spread_over_the_period() {
    let mut settings = settings();
    settings.push_refresh = Duration::from_nanos(80);
    let mut rig = Rig::with(settings);
    for number in 0..8 {
        let lb = rig.lb(&format!("LB{number}"), "push");
        rig.ok(lb, &format!("lb register LB{number}/G + LB{number}/H"));
    }
    assert_eq!(rig.after(WINDOW).len(), 8);
    // Each halves a gap between those before.
    for number in [2, 6, 1, 5, 3, 7, 0, 4, 2, 6] {
        assert_eq!(rig.after(9), NOTHING);
        assert_eq!(rig.after(1), [format!("#{number} LB{number}/G[] LB{number}/H[]")]);
    }
}

#[test]
fn one_message_is_in_flight_and_changes_merge_meanwhile() {
    let mut rig = pushed();
    rig.reading = false;
    rig.ok(0, "lb set LB1/G a=01");
    rig.delivered(0);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 01/05/100 b 00/05/100]"]);
    let member = rig.open();
    for state in ["02", "03", "04"] {
        rig.ok(member, &format!("member set LB1/G a={state}"));
        rig.ok(member, &format!("member set LB1/G b={state}"));
        assert_eq!(rig.after(2 * WINDOW), NOTHING);
    }
    rig.delivered(0);
    assert_eq!(rig.after(0), ["#0 LB1/G[a 04/05/100 b 04/05/100]"]); // one push, with the newest state
    rig.delivered(0);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_change_that_came_back_while_a_message_was_in_flight_is_none() {
    let mut rig = pushed();
    rig.reading = false;
    rig.ok(0, "lb set LB1/G a=01");
    rig.delivered(0);
    assert_eq!(rig.after(WINDOW).len(), 1);
    let member = rig.open();
    rig.ok(member, "member set LB1/G a=02");
    rig.after(WINDOW);
    rig.ok(member, "member set LB1/G a=01");
    rig.delivered(0);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_push_waits_for_each_message_that_is_under_way() {
    let mut rig = pushed();
    rig.reading = false;
    rig.ok(0, "lb set LB1/G a=01");
    rig.delivered(0);
    assert_eq!(rig.after(WINDOW).len(), 1);
    rig.ok(0, "lb set LB1/G a=02"); // the reply is sent after the push
    rig.after(WINDOW);
    rig.delivered_some(0, 1);
    assert_eq!(rig.after(0), NOTHING);
    rig.delivered_some(0, 1);
    assert_eq!(rig.after(0), ["#0 LB1/G[a 02/05/100 b 00/05/100]"]);
}

#[test]
fn a_reply_that_is_not_delivered_holds_a_push_back_and_not_other_replies() {
    let mut rig = pushed();
    rig.reading = false;
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.ok(0, "lb set LB1/G b=01");
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.delivered(0);
    assert_eq!(rig.after(0), ["#0 LB1/G[a 01/05/100 b 01/05/100]"]);
    rig.ok(0, "lb set LB1/G b=02"); // replies do not wait for the push in flight
}

#[test]
fn a_reply_that_goes_out_while_a_push_waits_for_room_holds_it_back() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01");
    rig.outbox.room.insert(0, 0);
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.reading = false;
    rig.ok(0, "lb set LB1/G b=01");
    rig.outbox.room.clear();
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.delivered(0);
    assert_eq!(rig.after(0), ["#0 LB1/G[a 01/05/100 b 01/05/100]"]);
}

#[test]
fn a_push_that_waited_for_room_when_push_was_turned_off_is_not_sent() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01");
    rig.outbox.room.insert(0, 0);
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.ok(0, "state LB1 7F");
    rig.ok(0, "state LB1 7F push");
    rig.outbox.room.clear();
    assert_eq!(rig.after(WINDOW - 1), NOTHING); // the window of all groups
    assert_eq!(rig.after(1), ["#0 LB1/G[a 01/05/100 b 00/05/100]"]);
}

#[test]
fn what_is_delivered_within_the_window_does_not_shorten_it() {
    let mut rig = pushed();
    rig.reading = false;
    rig.ok(0, "lb set LB1/G a=01");
    rig.delivered(0);
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    assert_eq!(rig.after(1).len(), 1);
}

#[test]
fn refreshes_merge_while_a_message_is_in_flight() {
    let mut rig = refreshed("push");
    rig.reading = false;
    assert_eq!(rig.after(90).len(), 1);
    assert_eq!(rig.after(120), NOTHING);
    assert_eq!(rig.after(100), NOTHING);
    assert!(rig.deadline().is_none_or(|deadline| deadline > 0), "only delivery can change that");
    rig.delivered(0);
    assert_eq!(rig.after(0), ["#0 LB1/G[a 00/05/100] LB1/H[]"]);
    rig.delivered(0);
    assert_eq!(rig.after(79), NOTHING);
    assert_eq!(rig.after(1).len(), 1);
}

#[test]
fn a_shard_without_room_gets_its_pushes_later_and_merged() {
    let mut rig = Rig::new();
    for uid in ["LB1", "LB2"] {
        let lb = rig.lb(uid, "push");
        rig.ok(lb, &format!("lb register {uid}/G a"));
    }
    rig.outbox.room.insert(0, 0);
    assert_eq!(rig.after(WINDOW), ["#1 LB2/G[a 00/05/100]"]); // the other shard has room
    rig.ok(0, "lb set LB1/G a=01"); // replies are always taken
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.outbox.room.clear();
    assert_eq!(rig.after(0), ["#0 LB1/G[a 01/05/100]"]);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_shard_with_little_room_serves_all_in_turn() {
    let mut rig = Rig::new();
    for number in 0..6 {
        let lb = rig.lb(&format!("LB{number}"), "push");
        rig.ok(lb, &format!("lb register LB{number}/G a"));
    }
    let mut poll = |time| {
        rig.outbox.room.extend((0..4).map(|shard| (shard, 1)));
        rig.after(time).iter().map(|push| push[..2].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(poll(WINDOW), ["#0", "#1", "#2", "#3"]);
    assert_eq!(poll(0), ["#4", "#5"]);
    assert_eq!(poll(WINDOW), NOTHING);
}

#[test]
fn an_lb_that_moved_to_another_shard_is_pushed_to_there() {
    let mut rig = pushed();
    rig.ok(0, "lb set LB1/G a=01");
    rig.outbox.room.insert(0, 0);
    assert_eq!(rig.after(WINDOW), NOTHING); // the push waits for room on shard 0
    let new = rig.open();
    rig.ok(new, "lb set LB1/G b=01");
    rig.outbox.room.insert(1, 0);
    assert_eq!(rig.after(WINDOW), NOTHING); // and now on shard 1
    rig.outbox.room.clear();
    assert_eq!(rig.after(0), ["#1 LB1/G[a 01/05/100 b 01/05/100]"]);
}

#[test]
fn fixed_weights_given_at_the_start_are_pushed() {
    let mut settings = settings();
    settings.roster = fixed(&[("a", 40)]);
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "push");
    rig.ok(lb, "lb register LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/40]"]);
    rig.set_fixed(&[("a", 40)]);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_busy_shard_does_not_keep_another_from_its_pushes() {
    let mut rig = Rig::new();
    for (lb, uid) in ["LB1", "LB2"].iter().enumerate() {
        assert_eq!(rig.lb(uid, "push"), lb); // each LB on another shard
        rig.ok(lb, &format!("lb register {uid}/G a"));
    }
    assert_eq!(rig.after(WINDOW).len(), 2);
    let mut pushed = [0, 0];
    for state in 1..=8 {
        rig.ok(0, &format!("lb set LB1/G a=0{state}"));
        rig.ok(1, &format!("lb set LB2/G a=0{state}"));
        rig.outbox.room_in_all = Some(1);
        let pushes = rig.after(WINDOW);
        assert_eq!(pushes.len(), 1, "{pushes:?}");
        pushed[usize::from(pushes[0].starts_with("#1 "))] += 1;
    }
    assert!(pushed.iter().all(|&pushes| pushes > 0), "{pushed:?}");
}

//! No-change/no-send: the memory of sent values, per connection, and farewells of members that left.

use gwm::coordinator::Settings;

use super::rig::{NOTHING, Rig, WINDOW, settings};

/// LB1 on connection 0 with these flags, G[a b] and H[c]; everything has been sent.
fn told(flags: &str) -> Rig {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", flags);
    rig.ok(lb, "lb register LB1/G a b + LB1/H c");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/05/100] LB1/H[c 00/05/100]");
    rig.after(WINDOW);
    rig
}

#[test]
fn get_weights_leaves_out_what_has_not_changed() {
    let mut rig = told("nochange");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
    rig.ok(0, "lb set LB1/G b=01");
    assert_eq!(rig.ask(0, "get LB1/H"), "00 LB1/H[]");
    assert_eq!(rig.ask(0, "get LB1/H + LB1/G"), "00 LB1/H[] LB1/G[b 01/05/100]");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[]");
    rig.ok(0, "lb register LB1/G d");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[d 00/05/100] LB1/H[]");
}

#[test]
fn state_flags_and_weight_are_all_changes() {
    let mut rig = told("nochange");
    for (request, entry) in [("lb set LB1/H c=01", "01/05/100"), ("lb set LB1/H c=01q", "01/07/0")] {
        rig.ok(0, request);
        assert_eq!(rig.ask(0, "get LB1/"), format!("00 LB1/G[] LB1/H[c {entry}]"));
    }
    rig.set_fixed(&[("a", 100)]); // the confident flag
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/0D/100] LB1/H[]");
    rig.set_fixed(&[("a", 99)]); // the weight
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/0D/99] LB1/H[]");
}

#[test]
fn what_was_sent_with_the_flag_off_is_remembered_too() {
    let mut rig = told("");
    rig.ok(0, "lb set LB1/G a=01");
    rig.ok(0, "state LB1 7F nochange");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 01/05/100] LB1/H[]");
    rig.ok(0, "state LB1 7F");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 01/05/100 b 00/05/100] LB1/H[c 00/05/100]");
}

#[test]
fn pushes_and_replies_share_the_memory() {
    let mut rig = told("push nochange");
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 01/05/100]"]);
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
    rig.ok(0, "lb set LB1/G a=02 b=02");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[a 02/05/100 b 02/05/100]");
    rig.ok(0, "lb set LB1/G b=03");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 03/05/100]"]);
}

#[test]
fn a_refused_get_weights_is_not_remembered() {
    let mut rig = told("nochange");
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.ask(0, "get LB1/G + LB1/X"), "42");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[a 01/05/100]");
}

#[test]
fn the_first_weights_on_a_new_connection_are_complete() {
    let mut rig = told("push nochange");
    rig.ok(0, "lb set LB1/G b=01");
    let new = rig.open();
    assert_eq!(rig.ask(new, "get LB1/G"), "00 LB1/G[a 00/05/100 b 01/05/100]");
    assert_eq!(rig.after(WINDOW), ["#1 LB1/H[c 00/05/100]"]); // the group that the reply did not list
    rig.closed(new);
    let third = rig.open();
    assert_eq!(rig.ask(third, "get LB1/"), "00 LB1/G[a 00/05/100 b 01/05/100] LB1/H[c 00/05/100]");
}

#[test]
fn a_value_that_came_back_is_unchanged() {
    let mut rig = told("push nochange");
    rig.ok(0, "lb set LB1/G a=01");
    rig.ok(0, "lb set LB1/G a=00 b=05");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 05/05/100]"]);
    rig.ok(0, "lb set LB1/G a=01");
    rig.ok(0, "lb set LB1/G a=00");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
}

#[test]
fn a_push_leaves_out_members_and_groups_with_nothing_to_say() {
    let mut rig = told("push nochange");
    rig.ok(0, "lb set LB1/H c=01");
    rig.ok(0, "lb register LB1/I");
    rig.ok(0, "lb deregister LB1/G b"); // the LB knows
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[c 01/05/100]"]);
    rig.ok(0, "lb register LB1/J");
    rig.ok(0, "lb deregister LB1/H c");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn the_flag_itself_is_no_reason_to_push() {
    let mut rig = told("push");
    rig.ok(0, "state LB1 7F push nochange");
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.ok(0, "state LB1 7F push");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

/// After the LB's own removal the group counts as changed until the LB has heard of the group again.
#[test]
fn what_was_sent_with_the_flag_on_counts_when_it_is_off() {
    let mut rig = told("push nochange");
    rig.ok(0, "lb deregister LB1/G b + LB1/H c");
    rig.ok(0, "lb set LB1/G a=01");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 01/05/100]"]);
    rig.ok(0, "state LB1 7F push");
    for state in ["02", "01"] {
        rig.ok(0, &format!("lb set LB1/G a={state}"));
    }
    rig.ok(0, "lb register LB1/H d");
    rig.ok(0, "lb deregister LB1/H d");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[]"]);
}

#[test]
fn of_a_group_that_the_lb_never_heard_of_it_does_not_hear_the_end() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "lb register LB1/I");
    assert_eq!(rig.after(WINDOW), NOTHING);
    rig.ok(0, "state LB1 7F push trust");
    rig.ok(0, "member deregister LB1/I");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn turning_push_on_sends_a_delta_only_lb_what_it_has_not_seen() {
    let mut rig = told("nochange");
    rig.ok(0, "lb register LB1/G d");
    rig.ok(0, "lb set LB1/H c=01");
    rig.ok(0, "state LB1 7F push nochange");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[d 00/05/100] LB1/H[c 01/05/100]"]);
}

#[test]
fn a_member_that_left_by_itself_is_sent_once_more() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "push trust nochange");
    rig.ok(lb, "lb register LB1/G a:label b");
    rig.ok(lb, "member register LB1/G c");
    rig.ok(lb, "lb set LB1/G a=32 c=0Aq");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a:label 32/05/100 b 00/05/100 c 0A/03/0]"]);
    rig.ok(lb, "member deregister LB1/G c:other");
    rig.ok(lb, "member deregister LB1/G a");
    rig.ok(lb, "lb set LB1/G b=01");
    // Contact off, confident on, weight 0, else as before. Farewells come after the members, in the order of leaving.
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 01/05/100 c 0A/0A/0 a:label 32/0C/0]"]);
    rig.ok(lb, "lb set LB1/G b=02");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 02/05/100]"]);
}

#[test]
fn get_weights_says_it_too() {
    let mut rig = told("trust nochange");
    rig.ok(0, "member deregister LB1/G a + LB1/H c");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[a 00/0C/0]");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[c 00/0C/0]");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
}

#[test]
fn a_member_that_was_never_sent_leaves_without_a_word() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member register LB1/G d");
    rig.ok(0, "member deregister LB1/G d");
    assert_eq!(rig.after(WINDOW), NOTHING);
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
}

#[test]
fn a_member_that_left_before_the_connection_was_never_sent_on_it() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member deregister LB1/G a");
    let new = rig.open();
    assert_eq!(rig.ask(new, "get LB1/"), "00 LB1/G[b 00/05/100] LB1/H[c 00/05/100]");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_member_that_the_lb_removed_is_not_sent_again() {
    let mut rig = told("push nochange");
    rig.ok(0, "lb deregister LB1/G a");
    assert_eq!(rig.after(WINDOW), NOTHING);
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
}

#[test]
fn nothing_is_said_of_a_group_that_the_lb_removed_meanwhile() {
    for removal in ["lb deregister LB1/G", "lb deregister LB1/"] {
        let mut rig = told("push trust nochange");
        rig.ok(0, "member deregister LB1/G a");
        rig.ok(0, removal);
        assert_eq!(rig.after(WINDOW), NOTHING);
        rig.ok(0, "lb register LB1/G d");
        assert_eq!(rig.after(WINDOW), ["#0 LB1/G[d 00/05/100]"]);
    }
}

#[test]
fn members_of_a_group_that_a_member_removed_are_sent_once_more() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member deregister LB1/G");
    rig.ok(0, "lb set LB1/H c=01");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0C/0] LB1/H[c 01/05/100]"]);
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/H[]");
    rig.ok(0, "member deregister LB1/");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/H[c 01/0C/0]");
    assert_eq!(rig.after(WINDOW), NOTHING);
    assert_eq!(rig.ask(0, "get LB1/"), "00");
}

#[test]
fn nothing_is_said_of_groups_that_a_member_removed_before_the_lb_removed_all() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member deregister LB1/G");
    rig.ok(0, "lb deregister LB1/");
    assert_eq!(rig.ask(0, "get LB1/"), "00");
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_group_that_a_member_removed_is_listed_where_it_stood() {
    let mut rig = told("trust nochange");
    rig.ok(0, "member deregister LB1/G");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/0C/0 b 00/0C/0] LB1/H[]");
    rig.ok(0, "state LB1 7F push trust nochange"); // all groups, after the window
    rig.ok(0, "member deregister LB1/H");
    rig.ok(0, "lb register LB1/I d");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/H[c 00/0C/0] LB1/I[d 00/05/100]"]);
}

#[test]
fn the_end_of_one_group_takes_nothing_from_what_is_to_be_said_of_another() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member deregister LB1/G");
    rig.ok(0, "lb deregister LB1/H");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0C/0]"]);
}

#[test]
fn a_member_that_came_back_is_listed_as_it_is() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member deregister LB1/G a");
    rig.ok(0, "member register LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/01/100]"]);
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
}

#[test]
fn a_member_that_came_back_and_left_again_unheard_of_is_sent_once_more() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member deregister LB1/G a");
    rig.ok(0, "member register LB1/G a:new");
    rig.ok(0, "member deregister LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0]"]); // otherwise the LB would use the member for ever
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
}

#[test]
fn the_same_in_a_group_that_was_removed_and_is_back() {
    let mut rig = told("push trust nochange");
    rig.ok(0, "member deregister LB1/G");
    rig.ok(0, "member register LB1/G b");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 00/01/100 a 00/0C/0]"]);
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/H[] LB1/G[]"); // G was registered again, so it comes last
}

#[test]
fn a_full_listing_says_that_a_member_left() {
    let mut rig = told("trust");
    rig.ok(0, "member deregister LB1/G a");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[b 00/05/100]");
    rig.ok(0, "state LB1 7F trust nochange");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[]");
}

#[test]
fn a_member_that_left_before_the_flag_was_set_is_sent_once_more() {
    let mut rig = told("trust");
    rig.ok(0, "member deregister LB1/G a");
    rig.ok(0, "state LB1 7F trust nochange");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/0C/0] LB1/H[]");
}

#[test]
fn without_the_flag_nobody_is_sent_once_more() {
    let mut rig = told("push trust");
    rig.ok(0, "member deregister LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 00/05/100]"]);
}

#[test]
fn an_emptied_group_that_a_member_removed_is_not_listed() {
    let mut rig = told("trust nochange");
    rig.ok(0, "lb deregister LB1/G a b");
    rig.ok(0, "member deregister LB1/G");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/H[]");
}

#[test]
fn a_group_that_a_member_removed_while_the_lb_was_away_is_not_listed() {
    let mut rig = told("push trust");
    rig.closed(0);
    let member = rig.open();
    rig.ok(member, "member deregister LB1/G");
    let new = rig.open();
    rig.ok(new, "lb set LB1/H");
    assert_eq!(rig.after(WINDOW), ["#2 LB1/H[c 00/05/100]"]);
}

/// Otherwise the memory for an LB that never asks for all its groups would grow without end.
#[test]
fn what_the_lb_has_yet_to_hear_the_end_of_counts_against_the_limits() {
    let mut rig = Rig::with(Settings { max_groups_per_lb: 3, max_groups: 4, max_memberships: 4, ..settings() });
    let (lb, other) = (rig.lb("LB1", "trust nochange"), rig.lb("LB2", ""));
    rig.ok(lb, "lb register LB1/G a b + LB1/H c");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/05/100] LB1/H[c 00/05/100]");
    rig.ok(lb, "member deregister LB1/G");
    rig.ok(lb, "lb register LB1/I");
    assert_eq!(rig.totals(), [2, 2, 1, 1], "they are not there, however");
    assert_eq!(rig.ask(lb, "lb register LB1/J"), "45");
    assert_eq!(rig.ask(other, "lb register LB2/A + LB2/B"), "45");
    rig.ok(other, "lb register LB2/A");
    assert_eq!(rig.ask(lb, "lb register LB1/I d e"), "45");
    rig.ok(lb, "lb register LB1/I d");
    assert_eq!(rig.ask(lb, "lb register LB1/I e"), "45");
    rig.ok(lb, "lb register LB1/G"); // the group counts already
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/H[] LB1/I[d 00/05/100] LB1/G[a 00/0C/0 b 00/0C/0]");
    rig.ok(lb, "lb register LB1/G e f");
}

#[test]
fn a_removed_group_of_which_the_lb_has_heard_the_end_does_not_count() {
    for (flags, end) in [("trust nochange", "get"), ("push trust nochange", "push"), ("trust", "get all")] {
        let mut rig = Rig::with(Settings { max_groups_per_lb: 1, ..settings() });
        let lb = rig.lb("LB1", "trust nochange");
        rig.ok(lb, "lb register LB1/G a");
        assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100]");
        rig.ok(lb, "member deregister LB1/G");
        assert_eq!(rig.ask(lb, "lb register LB1/H"), "45", "{end}");
        rig.ok(lb, &format!("state LB1 7F {flags}"));
        match end {
            "get" => assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/0C/0]"),
            "push" => assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0]"]),
            _ => assert_eq!(rig.ask(lb, "get LB1/"), "00"),
        }
        assert_eq!(rig.totals(), [1, 0, 0, 0]);
        rig.ok(lb, "lb register LB1/H");
    }
}

#[test]
fn what_no_lb_is_to_hear_does_not_count() {
    let endings: [fn(&mut Rig); 4] = [
        |rig| rig.closed(0),
        |rig| assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[a 00/0C/0 b 00/0C/0]"),
        |rig| rig.ok(0, "lb deregister LB1/G"),
        |rig| {
            rig.ok(0, "state LB1 7F trust push");
            assert_eq!(rig.after(WINDOW), ["#0 LB1/G[]"]);
        },
    ];
    let limits = [Settings { max_memberships: 3, ..settings() }, Settings { max_memberships_per_lb: 3, ..settings() }];
    for (end, limit) in endings.iter().flat_map(|end| limits.iter().map(move |limit| (end, limit))) {
        let mut rig = Rig::with(limit.clone());
        let lb = rig.lb("LB1", "trust nochange");
        rig.ok(lb, "lb register LB1/G a b");
        assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/05/100]");
        rig.ok(lb, "member deregister LB1/G a b");
        let member = rig.open();
        assert_eq!(rig.ask(member, "member register LB1/X c d"), "45");
        end(&mut rig);
        rig.ok(member, "member register LB1/X c d e");
        rig.ok(member, "member deregister LB1/X c d e"); // the LB was not told of them, or is not connected
        rig.ok(member, "member register LB1/X c d e");
    }
}

#[test]
fn of_a_large_group_too_only_what_has_changed_is_sent() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "push nochange");
    let all: Vec<String> = (1..=60).map(|port| format!("a/{port}")).collect();
    rig.ok(lb, &format!("lb register LB1/G {}", all.join(" ")));
    assert_eq!(rig.after(WINDOW)[0].matches(" 00/05/100").count(), 60);
    for changed in [&all[30..31], &all[10..26], &all[20..37], &all[..]] {
        let state = format!("{:02X}", changed.len());
        // The last ones first, and twice.
        for member in changed.iter().rev().chain(changed) {
            rig.ok(lb, &format!("lb set LB1/G {member}={state}"));
            rig.ok(lb, &format!("lb set LB1/G {member}={state}q"));
            rig.ok(lb, &format!("lb set LB1/G {member}={state}"));
        }
        let entries: Vec<String> = changed.iter().map(|member| format!("{member} {state}/05/100")).collect();
        assert_eq!(rig.after(WINDOW), [format!("#0 LB1/G[{}]", entries.join(" "))]);
    }
    assert_eq!(rig.after(WINDOW), NOTHING);
    assert!(!rig.window_is_open());
}

/// Members of one address, by port, in the notation of requests.
fn members(letter: char, ports: std::ops::Range<u32>) -> String {
    ports.map(|port| format!(" {letter}/{}", port + 1000)).collect()
}

/// LB1 on connection 0: it was sent as many members as one group of a message can list, and then all of them left.
fn crowd_that_left() -> Rig {
    let mut rig = Rig::with(Settings {
        max_members_per_group: 65_535,
        max_memberships_per_lb: 200_000,
        max_memberships: 200_000,
        ..settings()
    });
    let lb = rig.lb("LB1", "push trust nochange");
    let crowd = [members('a', 0..64_000), members('b', 0..1535)];
    crowd.iter().for_each(|some| rig.ok(lb, &format!("lb register LB1/G{some}")));
    assert_eq!(count(&rig.after(WINDOW)), [65_535, 0, 0]);
    crowd.iter().for_each(|some| rig.ok(lb, &format!("member deregister LB1/G{some}")));
    rig
}

/// The numbers of entries: registered by the LB, registered by members, and farewells.
fn count(pushes: &[String]) -> [usize; 3] {
    let entries = |what| pushes.iter().map(|push| push.matches(what).count()).sum::<usize>();
    [entries(" 00/05/100"), entries(" 00/01/100"), entries(" 00/0C/0") + entries(" 00/08/0")]
}

#[test]
fn farewells_that_do_not_fit_are_for_the_next_push() {
    let mut rig = crowd_that_left();
    rig.ok(0, "member register LB1/G c d");
    let pushes = rig.after(WINDOW);
    assert_eq!(count(&pushes), [0, 2, 65_533]);
    assert!(pushes[0].starts_with("#0 LB1/G[c 00/01/100 d 00/01/100 a/1000 00/0C/0 "));
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b/2533 00/0C/0 b/2534 00/0C/0]"]);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn those_of_a_removed_group_too() {
    let mut rig = crowd_that_left();
    rig.ok(0, &format!("member register LB1/G{}", members('c', 0..40_000)));
    assert_eq!(count(&rig.after(WINDOW)), [0, 40_000, 25_535]);
    rig.ok(0, "member deregister LB1/G");
    assert_eq!(count(&rig.after(WINDOW)), [0, 0, 65_535]);
    assert_eq!(count(&rig.after(WINDOW)), [0, 0, 14_465]);
    assert_eq!(rig.after(WINDOW), NOTHING);
    assert_eq!(rig.ask(0, "get LB1/"), "00");
}

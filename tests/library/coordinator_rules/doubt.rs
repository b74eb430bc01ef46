//! Doubt about a group, and blindness.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use gwm::{
    coordinator::Settings,
    judgement::{Share, Verdict},
    network::OwnAddresses,
    roster::{Member, Monitor, Times},
    sasp::EntryFlags,
};

use super::{
    rig::{NOTHING, PANIC_TIME, Rig, WINDOW},
    watched::{DOWN, FALL_WINDOW, TIMES, roster, told, weight, with},
};

/// The farm `G` of LB1, and `H` of LB2 with three members that stay up.
fn two_farms(members: &str) -> (Rig, usize, usize) {
    let (mut rig, lb) = told(with(roster(&[])), members);
    let other = rig.lb("LB2", "push");
    rig.ok(other, "lb register LB2/H x y z");
    rig.take_orders();
    rig.judge(&[("x", weight(1)), ("y", weight(2)), ("z", weight(3))]);
    for name in members.split(' ') {
        rig.judge(&[(name, weight(50))]);
    }
    rig.after(WINDOW);
    (rig, lb, other)
}

const ALL_UP: &str = "#1 LB2/H[x 00/0D/1 y 00/0D/2 z 00/0D/3]";

/// The case of a batch farm that is shut down on purpose.
#[test]
fn a_doubt_about_one_farm_does_not_blind_the_others_nor_last_for_ever() {
    let (mut rig, lb, other) = two_farms("a b c d e f");
    for name in ["a", "b", "c"] {
        rig.judge(&[(name, DOWN)]);
    }
    assert_eq!(
        rig.after(WINDOW),
        ["#0 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0C/0 d 00/0D/50 e 00/0D/50 f 00/0D/50]"],
        "half is not more than half"
    );
    rig.judge(&[("d", DOWN), ("e", DOWN), ("f", DOWN)]);
    let doubted = "LB1/G[a 00/05/50 b 00/05/50 c 00/05/50 d 00/05/50 e 00/05/50 f 00/05/50]";
    assert_eq!(rig.after(WINDOW), [format!("#0 {doubted}")]);
    assert_eq!((rig.blind(), rig.doubted()), ((false, false), 1));
    assert_eq!(rig.doubts(), ["LB1/G Began 6/6"]);

    // A member of the other farm dies meanwhile, and is dead.
    rig.judge(&[("x", DOWN)]);
    assert_eq!(rig.after(WINDOW), ["#1 LB2/H[x 00/0C/0 y 00/0D/2 z 00/0D/3]"]);
    rig.judge(&[("x", weight(1))]);
    assert_eq!(rig.after(WINDOW), [ALL_UP]);

    // Nothing happens any more, so the coordinator has a deadline.
    let left = PANIC_TIME - 3 * WINDOW;
    assert_eq!(rig.deadline(), Some(left + WINDOW));
    assert_eq!(rig.after(left + WINDOW - 1), NOTHING);
    assert_eq!(rig.ask(lb, "get LB1/G"), format!("00 {doubted}"));
    assert_eq!(rig.after(1), NOTHING);
    let down = "LB1/G[a 00/0C/0 b 00/0C/0 c 00/0C/0 d 00/0C/0 e 00/0C/0 f 00/0C/0]";
    assert_eq!(rig.after(WINDOW), [format!("#0 {down}")]);
    assert_eq!((rig.doubted(), rig.doubts()), (0, vec!["LB1/G TimeOver 6/6".to_owned()]));
    assert_eq!(rig.after(100 * PANIC_TIME), NOTHING);
    assert_eq!(rig.ask(other, "get LB2/H"), format!("00 {}", &ALL_UP[3..]));
}

#[test]
fn a_member_that_is_lost_when_it_is_registered_counts_if_it_was_lost_lately() {
    let (mut rig, lb, _) = two_farms("a b c d");
    rig.ok(lb, "lb register LB1/J a");
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.doubts(), [""; 0], "one member may have died");
    rig.ok(lb, "lb register LB1/J b");
    assert_eq!(rig.ask(lb, "get LB1/J"), "00 LB1/J[a 00/05/50 b 00/05/50]");
    rig.after(FALL_WINDOW + PANIC_TIME);
    assert_eq!(rig.doubts(), ["LB1/J Began 2/2", "LB1/J TimeOver 2/2"]);
    rig.ok(lb, "lb register LB1/K a b");
    assert_eq!(rig.ask(lb, "get LB1/K"), "00 LB1/K[a 00/0C/0 b 00/0C/0]");
    assert_eq!(rig.doubts(), [""; 0], "that is old news");
}

#[test]
fn a_doubt_ends_when_enough_members_are_back() {
    let (mut rig, _, _) = two_farms("a b c d");
    rig.judge(&[("a", DOWN), ("b", DOWN), ("c", DOWN)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/50 b 00/05/50 c 00/05/50 d 00/05/50]"]);
    rig.judge(&[("c", weight(50))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0D/50 d 00/0D/50]"]);
    assert_eq!(rig.doubts(), ["LB1/G Began 3/4", "LB1/G Back 2/4"]);
    // The losses of that time are no reason for another doubt.
    rig.judge(&[("c", DOWN)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0C/0 d 00/0D/50]"]);
    assert_eq!(rig.doubts(), NOTHING);
}

#[test]
fn a_member_that_dies_alone_after_the_doubt_is_dead() {
    let (mut rig, _, _) = two_farms("a b c d e");
    rig.judge(&[("a", DOWN), ("b", DOWN), ("c", DOWN)]);
    rig.after(WINDOW);
    rig.after(PANIC_TIME);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0C/0 d 00/0D/50 e 00/0D/50]"]);
    rig.judge(&[("d", DOWN)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0C/0 d 00/0C/0 e 00/0D/50]"]);
    // All are back; another time so many are lost at once, there is another doubt.
    rig.judge(&["a", "b", "c", "d"].map(|name| (name, weight(50))));
    rig.after(WINDOW);
    rig.doubts();
    rig.judge(&[("a", DOWN), ("b", DOWN), ("c", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.doubts(), ["LB1/G Began 3/5"]);
}

#[test]
fn one_after_the_other_is_no_doubt() {
    let (mut rig, lb, _) = two_farms("a b c d");
    for name in ["a", "b", "c", "d"] {
        rig.judge(&[(name, DOWN)]);
        rig.after(FALL_WINDOW + 1);
    }
    assert_eq!(rig.doubts(), NOTHING);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0C/0 d 00/0C/0]");
}

/// What fails at the same moment is found later where checks are rarer.
#[test]
fn members_with_rarer_checks_are_lost_later_and_count_still() {
    let slow = Times { interval: Duration::from_nanos(320), ..TIMES };
    let slow = Member::watched(100, Monitor::auto(), slow);
    let rare = [("c", slow.clone()), ("d", slow)];
    let (mut rig, _) = told(with(roster(&rare)), "a b c d");
    let other = rig.lb("LB2", "");
    rig.ok(other, "lb register LB2/H x");
    rig.take_orders();
    rig.judge(&["a", "b", "c", "d", "x"].map(|name| (name, weight(50))));
    rig.after(WINDOW);
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    assert_eq!(rig.after(300), ["#0 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0D/50 d 00/0D/50]"]);
    rig.judge(&[("c", DOWN)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/50 b 00/05/50 c 00/05/50 d 00/05/50]"]);
    rig.judge(&[("d", DOWN)]);
    assert_eq!(rig.doubts(), ["LB1/G Began 3/4"]);
}

#[test]
fn a_single_address_that_dies_is_dead() {
    let (mut rig, lb, _) = two_farms("a a/1 a/2");
    rig.judge(&[("a", DOWN), ("a/1", DOWN), ("a/2", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0C/0 a/1 00/0C/0 a/2 00/0C/0]");
    assert_eq!(rig.doubts(), NOTHING);
    // Also if it is written in two ways.
    let (mut rig, _, _) = two_farms("a a/mapped");
    rig.judge(&[("a", DOWN), ("a/mapped", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.doubts(), NOTHING);
    // Also if nothing else is watched.
    let (mut rig, lb) = told(with(roster(&[])), "a a/1");
    rig.judge(&[("a", weight(50)), ("a/1", weight(50))]);
    rig.judge(&[("a", DOWN), ("a/1", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0C/0 a/1 00/0C/0]");
    assert_eq!(rig.blind(), (false, false));
}

/// Otherwise a registration of members that do not exist could make a doubt.
#[test]
fn members_that_were_never_up_are_not_missed() {
    let (mut rig, lb, _) = two_farms("a b c d");
    rig.ok(lb, "lb register LB1/G e f g h i");
    rig.take_orders();
    rig.judge(&["e", "f", "g", "h", "i"].map(|name| (name, DOWN)));
    rig.judge(&[("a", DOWN)]);
    assert_eq!(
        rig.ask(lb, "get LB1/G"),
        "00 LB1/G[a 00/0C/0 b 00/0D/50 c 00/0D/50 d 00/0D/50 e 00/0C/0 f 00/0C/0 g 00/0C/0 h 00/0C/0 i 00/0C/0]"
    );
    // Members that were never up neither hide nor prolong a doubt.
    rig.judge(&[("b", DOWN), ("c", DOWN)]);
    rig.ask(lb, "get LB1/G");
    rig.judge(&[("c", weight(50))]);
    rig.after(WINDOW);
    assert_eq!(rig.doubts(), ["LB1/G Began 3/4", "LB1/G Back 2/4"]);
}

/// A member that was up under an earlier watch only does not count; "unknown" verdicts are not "up".
#[test]
fn a_member_has_been_up_if_its_own_watch_says_so() {
    let (mut rig, lb, _) = two_farms("a b c");
    rig.ok(lb, "lb deregister LB1/G a b");
    assert_eq!(rig.take_orders(), ["unwatch a", "unwatch b"]);
    rig.ok(lb, "lb register LB1/G a b");
    rig.take_orders();
    let unknown = Verdict { flags: EntryFlags::CONTACT, share: Share::Weight(60) };
    rig.judge(&[("a", unknown), ("b", unknown)]);
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.doubts(), NOTHING);
    rig.judge(&[("a", weight(10)), ("b", weight(20))]);
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.doubts(), ["LB1/G Began 2/3"]);
}

#[test]
fn every_group_is_judged_by_itself() {
    let (mut rig, lb, _) = two_farms("a b c");
    rig.ok(lb, "lb register LB1/I a b d e f");
    rig.take_orders();
    rig.judge(&["d", "e", "f"].map(|name| (name, weight(60))));
    rig.after(WINDOW);
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    assert_eq!(
        rig.after(WINDOW),
        ["#0 LB1/G[a 00/05/50 b 00/05/50 c 00/05/50] LB1/I[a 00/0C/0 b 00/0C/0 d 00/0D/60 e 00/0D/60 f 00/0D/60]"]
    );
}

#[test]
fn a_doubt_concerns_every_member_of_the_group() {
    let fixed = roster(&[("f", Member::fixed(9))]);
    let (mut rig, lb) = told(with(fixed), "a b c d f");
    rig.judge(&["a", "b", "c", "d"].map(|name| (name, weight(50))));
    // One was down long before, one is drained.
    rig.judge(&[("d", DOWN)]);
    rig.after(FALL_WINDOW + PANIC_TIME);
    rig.ok(lb, "lb set LB1/G c=00q");
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/50 b 00/05/50 c 00/07/0 d 00/04/0 f 00/05/9]");
    assert_eq!(rig.doubts(), ["LB1/G Began 2/3"]);
}

/// A member leaves the group, or comes: the share of those that are lost changes.
#[test]
fn a_doubt_ends_with_the_members_that_were_lost() {
    let (mut rig, lb, _) = two_farms("a b c");
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    rig.after(WINDOW);
    rig.ok(lb, "lb deregister LB1/G a");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 00/0C/0 c 00/0D/50]"]);
    assert_eq!(rig.doubts(), ["LB1/G Began 2/3", "LB1/G Back 1/2"]);
    // A group that ends in doubt leaves nothing behind.
    rig.judge(&[("x", DOWN), ("y", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.doubted(), 1);
    rig.ok(1, "lb deregister LB2/H");
    assert_eq!(rig.doubted(), 0);
    rig.ok(1, "lb register LB2/H x y");
    rig.after(PANIC_TIME);
    assert_eq!(rig.doubts(), ["LB2/H Began 2/3"]);
}

#[test]
fn a_hundred_percent_or_no_time_turns_doubt_off() {
    let never = [
        Settings { panic_percent: 100, ..with(roster(&[])) },
        Settings { panic_time: Duration::ZERO, ..with(roster(&[])) },
    ];
    for settings in never {
        let (mut rig, lb) = told(settings, "a b c");
        rig.judge(&["a", "b", "c"].map(|name| (name, weight(50))));
        rig.judge(&[("a", DOWN), ("b", DOWN)]);
        assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0C/0 b 00/0C/0 c 00/0D/50]");
        // Blindness stays.
        rig.judge(&[("c", DOWN)]);
        assert_eq!(rig.blind(), (false, true));
    }
}

#[test]
fn a_gwm_that_hears_nothing_is_blind_until_something_answers() {
    let (mut rig, lb) = told(with(roster(&[("f", Member::fixed(9))])), "a b c f");
    rig.judge(&[("a", weight(10)), ("b", weight(20)), ("c", weight(30))]);
    rig.after(WINDOW);
    rig.judge(&[("a", DOWN), ("b", DOWN), ("c", DOWN)]);
    assert_eq!(rig.blind(), (false, true));
    let before = "LB1/G[a 00/05/10 b 00/05/20 c 00/05/30 f 00/05/9]";
    assert_eq!(rig.after(WINDOW), [format!("#0 {before}")]);
    rig.after(100 * PANIC_TIME);
    assert_eq!(rig.ask(lb, "get LB1/G"), format!("00 {before}"), "however long");
    assert_eq!(rig.doubts(), NOTHING, "what a blind GWM sees is no reason for a doubt");

    // The first answer ends it. All have a recovery to come up: else the one that answered would be down until then.
    rig.judge_answering("a", DOWN);
    assert_eq!(rig.blind(), (false, false));
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/10 b 00/05/20 c 00/05/30 f 00/0D/9]"]);
    rig.judge(&[("a", weight(10)), ("b", weight(20))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/10 b 00/0D/20 c 00/05/30 f 00/0D/9]"]);
    assert_eq!(rig.deadline(), Some(FALL_WINDOW - 2 * WINDOW));
    rig.after(FALL_WINDOW - 2 * WINDOW);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/10 b 00/0D/20 c 00/0C/0 f 00/0D/9]"]);
    assert_eq!(rig.doubts(), NOTHING);
}

#[test]
fn a_gwm_stays_blind_though_members_leave_until_there_is_none() {
    let (mut rig, lb) = told(with(roster(&[])), "a b c");
    rig.judge(&[("a", weight(10)), ("b", weight(20)), ("c", weight(30))]);
    rig.judge(&[("a", DOWN), ("b", DOWN), ("c", DOWN)]);
    rig.ok(lb, "lb deregister LB1/G b c");
    rig.after(100 * PANIC_TIME);
    assert_eq!(rig.blind(), (false, true), "nothing has answered");
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/10]");
    rig.ok(lb, "lb register LB1/G d");
    rig.take_orders();
    rig.judge(&[("d", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/10 d 00/05/100]");
    rig.ok(lb, "lb deregister LB1/G a d");
    rig.after(WINDOW);
    assert_eq!(rig.blind(), (false, false), "nobody is left who could");
}

#[test]
fn a_member_that_was_down_before_stays_down_for_a_blind_gwm() {
    let (mut rig, lb) = told(with(roster(&[])), "a b c");
    rig.judge(&[("a", weight(10)), ("b", weight(20)), ("c", weight(30))]);
    rig.judge(&[("a", DOWN)]);
    rig.after(FALL_WINDOW + PANIC_TIME);
    rig.judge(&[("b", DOWN), ("c", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/04/0 b 00/05/20 c 00/05/30]");
}

#[test]
fn a_gwm_that_starts_without_a_network_drains_nobody() {
    let (mut rig, lb) = told(with(roster(&[])), "a b c");
    rig.judge(&[("a", DOWN)]);
    assert_eq!(rig.blind(), (false, false), "one dead server");
    rig.judge(&[("b", DOWN), ("c", DOWN)]);
    assert_eq!(rig.blind(), (false, true));
    rig.after(100 * PANIC_TIME);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/100 b 00/05/100 c 00/05/100]");
    rig.ok(lb, "lb register LB1/G d");
    rig.take_orders();
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/100 b 00/05/100 c 00/05/100 d 00/05/100]");
    rig.judge(&[("a", weight(10))]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0D/10 b 00/05/100 c 00/05/100 d 00/05/100]");
    rig.after(FALL_WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0D/10 b 00/0C/0 c 00/0C/0 d 00/05/100]");
}

/// A server that answers "503" is down. But the network works.
#[test]
fn a_bad_answer_is_an_answer() {
    let (mut rig, lb) = told(with(roster(&[])), "a b");
    rig.judge(&[("a", weight(10)), ("b", weight(20))]);
    rig.judge_answering("a", DOWN);
    rig.judge_answering("b", DOWN);
    assert_eq!(rig.blind(), (false, false));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/10 b 00/05/20]");
    rig.after(PANIC_TIME);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0C/0 b 00/0C/0]");
    assert_eq!(rig.doubts(), ["LB1/G Began 2/2", "LB1/G TimeOver 2/2"]);
}

fn own(last: &[u8]) -> OwnAddresses {
    last.iter().map(|&last| Ipv4Addr::new(10, 0, 0, last).into()).collect()
}

#[test]
fn an_answer_from_this_machine_proves_nothing_about_others() {
    // x, y and z are 10.0.0.24 to 26.
    let settings = Settings { own_addresses: Arc::new(own(&[24, 25, 26])), ..with(roster(&[])) };
    let (mut rig, lb) = told(settings, "a b x y");
    rig.judge(&["a", "b", "x", "y"].map(|name| (name, weight(50))));
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    assert_eq!(rig.blind(), (false, true));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/50 b 00/05/50 x 00/0D/50 y 00/0D/50]");
    rig.judge(&[("a", weight(50)), ("b", weight(50)), ("x", DOWN), ("y", DOWN)]);
    assert_eq!(rig.blind(), (true, false));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0D/50 b 00/0D/50 x 00/05/50 y 00/05/50]");
    // They are no addresses of this machine any more: something else answers there.
    rig.set_own_addresses(own(&[]));
    assert_eq!(rig.blind(), (false, false));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0D/50 b 00/0D/50 x 00/0C/0 y 00/0C/0]");
    rig.set_own_addresses(own(&[24, 25]));
    assert_eq!(rig.blind(), (true, false));
}

#[test]
fn a_witness_that_answers_proves_that_the_farm_is_gone() {
    let mut settings = roster(&[]);
    settings.add_witness(Ipv4Addr::new(10, 0, 0, 23).into(), Some(53));
    let mut rig = Rig::with(with(settings));
    assert_eq!(rig.take_orders(), ["watch w/?"], "no group lists the witness");
    rig.judge(&[("w/?", weight(100))]);
    let lb = rig.lb("LB1", "push");
    rig.ok(lb, "lb register LB1/G a b");
    assert_eq!(rig.totals()[3], 2, "a witness is no member");
    rig.take_orders();
    rig.judge(&[("a", weight(10)), ("b", weight(20))]);
    rig.after(WINDOW);
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    assert_eq!(rig.blind(), (false, false));
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/10 b 00/05/20]"]);
    rig.after(PANIC_TIME);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0C/0]"], "even the only farm");
    rig.judge(&[("a", weight(10)), ("b", weight(20))]);
    rig.after(WINDOW);

    // With the witness silent, too, the GWM is blind.
    rig.judge(&[("a", DOWN), ("b", DOWN), ("w/?", DOWN)]);
    assert_eq!(rig.blind(), (false, true));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/10 b 00/05/20]");
    // One server and one witness are two addresses.
    rig.judge(&[("w/?", weight(100))]);
    rig.ok(lb, "lb deregister LB1/G b");
    rig.judge(&[("a", weight(10))]);
    rig.after(WINDOW);
    rig.judge(&[("a", DOWN), ("w/?", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/10]");
    rig.ok(lb, "lb deregister LB1/");
    assert_eq!(rig.take_orders(), ["unwatch a", "unwatch b"], "the witness is watched on");
}

#[test]
fn members_that_leave_take_their_answers_with_them() {
    let (mut rig, lb) = told(with(roster(&[])), "a b c");
    rig.judge(&["a", "b"].map(|name| (name, weight(50))));
    rig.judge(&[("a", DOWN), ("b", DOWN)]);
    assert_eq!(rig.blind(), (false, true));
    rig.ok(lb, "lb deregister LB1/G a b");
    rig.after(WINDOW);
    assert_eq!(rig.blind(), (false, false), "the third has not been checked yet");
}

/// Large groups are looked at in pieces, and no push shows a loss without its doubt.
#[test]
fn many_groups_in_doubt_take_many_polls() {
    let limits = Settings {
        max_memberships: 200_000,
        max_memberships_per_lb: 200_000,
        max_members_per_group: 20_000,
        ..with(roster(&[]))
    };
    let (mut rig, lb) = told(limits, "z");
    let names: Vec<String> = (1000..11_000).map(|port| format!("a/{port}")).collect();
    let names = format!("b c {}", names.join(" "));
    for group in 0..8 {
        rig.ok(lb, &format!("lb register LB1/G{group} {names}"));
    }
    rig.take_orders();
    rig.judge(&["b", "c", "z"].map(|name| (name, weight(50))));
    rig.after(WINDOW);
    rig.judge(&[("b", DOWN), ("c", DOWN)]);
    let pushes = rig.after(WINDOW);
    assert_eq!(pushes, NOTHING, "not all groups are looked at");
    let pushes = rig.after(0);
    assert_eq!(pushes.len(), 1);
    assert_eq!((pushes[0].matches("[b 00/05/50 c 00/05/50").count(), rig.doubts().len()), (8, 8));
}

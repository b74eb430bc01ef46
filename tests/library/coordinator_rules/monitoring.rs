//! Monitoring: judgements, watches, rates within a group, and the operator's roster.

use std::{sync::Arc, time::Duration};

use gwm::{
    coordinator::Settings,
    judgement::{Policy, Share, Verdict, WatchId},
    pattern::Pattern,
    roster::{Member, Monitor, Roster, Times},
    sasp::EntryFlags,
};

use super::{
    rig::{NOTHING, Peer, Rig, WINDOW},
    watched::{DOWN, FALL_WINDOW, TIMES, rate, roster, told, watched, weight, with},
};
use crate::wire;

#[test]
fn what_is_watched_is_unknown_until_it_is_judged() {
    let (mut rig, lb) = told(with(roster(&[])), "a");
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/05/100]");
    for (verdict, says) in [
        (weight(40), "a 00/0D/40"),
        (weight(0), "a 00/0D/0"), // drained
        (DOWN, "a 00/0C/0"),
        (weight(1), "a 00/0D/1"),
        (Verdict { flags: EntryFlags::CONTACT, share: Share::Weight(60) }, "a 00/05/60"),
    ] {
        rig.judge(&[("a", verdict)]);
        assert_eq!(rig.after(WINDOW), [format!("#0 LB1/G[{says}]")]);
        rig.judge(&[("a", verdict)]);
        assert!(!rig.window_is_open(), "the same again is no change");
    }
}

/// The return code and the Interval of a Get Weights Reply.
fn interval(rig: &mut Rig, lb: Peer, request: &str) -> (u8, u16) {
    let reply = rig.reply(lb, &wire::parse(request));
    (reply[17], u16::from_be_bytes([reply[18], reply[19]]))
}

#[test]
fn the_interval_is_short_while_a_listed_member_waits_for_its_first_verdict() {
    let every = |interval| Member::watched(100, Monitor::auto(), Times { interval, ..TIMES });
    let second = Duration::from_secs(1);
    let others =
        [("b", every(second * 3 / 2)), ("c", every(second * 100)), ("d", Member::fixed(7)), ("e", every(second * 9))];
    let mut rig = Rig::with(with(roster(&others)));
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/A a + LB1/B b + LB1/C c + LB1/D d + LB1/E e");
    rig.take_orders();
    // An interval of 20 ns is told as 1 s, 1.5 s as 2 s, and 100 s is longer than the usual interval.
    for (group, told) in [("A", 1), ("B", 2), ("C", 64), ("D", 64), ("E", 9), ("", 1)] {
        assert_eq!(interval(&mut rig, lb, &format!("get LB1/{group}")), (0x00, told), "group {group:?}");
    }
    assert_eq!(interval(&mut rig, lb, "get LB1/X"), (0x42, 64), "an error");
    rig.judge(&[("a", DOWN), ("b", weight(40))]);
    for (group, told) in [("A", 64), ("B", 64), ("", 9)] {
        assert_eq!(interval(&mut rig, lb, &format!("get LB1/{group}")), (0x00, told), "group {group:?}");
    }
    assert_eq!(interval(&mut rig, lb, "get LB1/A + LB1/E"), (0x00, 9));
    // A member that is watched anew waits again.
    rig.ok(lb, "lb deregister LB1/A");
    rig.ok(lb, "lb register LB1/A a");
    assert_eq!(interval(&mut rig, lb, "get LB1/A"), (0x00, 1));
}

#[test]
fn a_member_that_no_check_judges_keeps_no_lb_asking() {
    let mut rig = Rig::with(with(roster(&[])));
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a");
    rig.after(FALL_WINDOW - 1);
    assert_eq!(interval(&mut rig, lb, "get LB1/G"), (0x00, 1));
    rig.after(1);
    assert_eq!(interval(&mut rig, lb, "get LB1/G"), (0x00, 64));
}

#[test]
fn a_change_within_the_window_is_merged_and_one_that_goes_back_is_none() {
    let (mut rig, _) = told(with(roster(&[])), "a b");
    rig.judge(&[("a", weight(40))]);
    assert_eq!(rig.after(WINDOW - 1), NOTHING);
    rig.judge(&[("b", DOWN), ("a", weight(30))]);
    assert_eq!(rig.after(1), ["#0 LB1/G[a 00/0D/30 b 00/0C/0]"]);
    rig.judge(&[("a", DOWN)]);
    rig.judge(&[("a", weight(30))]);
    assert_eq!(rig.after(WINDOW), NOTHING);
}

#[test]
fn a_group_has_the_verdicts_of_its_policy_and_hears_of_no_other() {
    let mut roster = roster(&[]);
    roster.add_group(Pattern::parse("ST*").unwrap(), Policy::Static);
    let mut rig = Rig::with(with(roster));
    let lb = rig.lb("LB1", "push");
    rig.ok(lb, "lb register LB1/STATIC a + LB1/OTHER a");
    rig.after(WINDOW);
    rig.take_orders();
    rig.judge_by_policy("a", [weight(10), weight(20), weight(30), weight(40)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/STATIC[a 00/0D/10] LB1/OTHER[a 00/0D/40]"]);
    rig.judge_by_policy("a", [weight(10), weight(21), weight(31), weight(41)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/OTHER[a 00/0D/41]"]);
    rig.judge_by_policy("a", [weight(10), weight(22), weight(32), weight(41)]);
    assert!(!rig.window_is_open(), "no group is of these policies");
    // The verdict by another policy is known already when the operator changes the policy.
    let mut other = Roster::new(watched(100), Policy::Agent);
    other.add_group(Pattern::parse("ST*").unwrap(), Policy::Static);
    rig.set_roster(Arc::new(other));
    assert_eq!(rig.after(WINDOW), ["#0 LB1/OTHER[a 00/0D/22]"]);
    // A new group of this name has the new policy.
    rig.ok(lb, "lb deregister LB1/STATIC");
    rig.ok(lb, "lb register LB1/THIRD a");
    assert_eq!(rig.ask(lb, "get LB1/THIRD"), "00 LB1/THIRD[a 00/0D/22]");
}

#[test]
fn each_endpoint_is_watched_once_while_it_is_listed() {
    let mut rig = Rig::with(with(roster(&[("b", Member::fixed(7)), ("c", Member::unknown(9))])));
    let [one, other] = [rig.lb("LB1", ""), rig.lb("LB2", "")];
    rig.ok(one, "lb register LB1/G a b c a/udp + LB1/H a d");
    rig.ok(other, "lb register LB2/G a");
    assert_eq!(rig.take_orders(), ["watch a", "watch d"], "no check is known for UDP, or allowed");
    assert_eq!(rig.ask(one, "get LB1/G"), "00 LB1/G[a 00/05/100 b 00/0D/7 c 00/05/9 a/udp 00/05/100]");
    rig.ok(one, "lb deregister LB1/G + LB1/H");
    assert_eq!(rig.take_orders(), ["unwatch d"]);
    rig.ok(other, "lb deregister LB2/G a");
    // Orders that were not taken cancel each other.
    rig.ok(one, "lb register LB1/I e f");
    rig.ok(one, "lb deregister LB1/I e");
    rig.ok(one, "lb register LB1/I a");
    assert_eq!(rig.take_orders(), ["unwatch a", "watch a", "watch f"]);
    assert_eq!(rig.watched(), 2);
}

#[test]
fn what_is_said_of_an_earlier_watch_is_ignored() {
    let (mut rig, lb) = told(with(roster(&[])), "a");
    let old = rig.watch("a");
    rig.ok(lb, "lb deregister LB1/G a");
    rig.judge_watch(old, DOWN); // the shard does not know of the end yet
    rig.ok(lb, "lb register LB1/G b");
    rig.judge_watch(old, DOWN);
    rig.take_orders();
    assert_eq!(rig.watch("b").index, old.index);
    rig.judge_watch(old, DOWN);
    rig.judge_watch(WatchId { index: 99, generation: 1 }, DOWN);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[b 00/05/100]");
}

#[test]
fn an_lb_that_expires_takes_its_watches_along() {
    let (mut rig, lb) = told(with(roster(&[])), "a b");
    rig.closed(lb);
    rig.after(super::rig::HOLD);
    assert_eq!(rig.take_orders(), ["unwatch a", "unwatch b"]);
}

#[test]
fn rates_become_weights_in_their_ratio_and_noise_moves_nobody_else() {
    let (mut rig, lb) = told(with(roster(&[("f", Member::fixed(33))])), "a b c f d");
    rig.judge(&[("a", rate(100.0)), ("b", rate(25.0)), ("c", weight(50)), ("d", DOWN)]);
    // 100 is 8/9 of the top; the mean of the two rates, 62.5 or 56 %, is what a member without a rate can take; the
    // operator's own weight stays.
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/89 b 00/0D/22 c 00/0D/28 f 00/0D/33 d 00/0C/0]"]);
    rig.ok(lb, "state LB1 7F push nochange");
    rig.judge(&[("a", rate(106.0))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/94]"]);
    // A rate over the top: the top moves, and every weight with it.
    rig.judge(&[("a", rate(200.0))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/89 b 00/0D/11 c 00/0D/25]"]);
    // The member with the highest rate dies.
    rig.judge(&[("a", DOWN)]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0C/0 b 00/0D/89 c 00/0D/44]"]);
    // No member has a rate: weights are not scaled.
    rig.judge(&[("b", weight(70))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[b 00/0D/70 c 00/0D/50]"]);
}

/// The scale of the old policy does not apply to the rates of the new policy.
#[test]
fn a_group_of_another_policy_has_a_scale_of_its_own() {
    let (mut rig, lb) = told(with(roster(&[])), "a b");
    rig.judge(&[("a", rate(100.0)), ("b", rate(80.0))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/89 b 00/0D/71]"]);
    rig.judge(&[("a", rate(93.0)), ("b", rate(85.0))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/83 b 00/0D/76]"]);
    rig.set_roster(Arc::new(Roster::new(watched(100), Policy::Orca)));
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/89 b 00/0D/81]"]);
    rig.ok(lb, "lb register LB1/H a b");
    assert_eq!(rig.ask(lb, "get LB1/H"), "00 LB1/H[a 00/0D/89 b 00/0D/81]", "as a new one has");
}

#[test]
fn a_group_that_was_removed_and_is_back_has_a_new_scale() {
    let mut rig = Rig::with(with(roster(&[])));
    let lb = rig.lb("LB1", "push trust nochange");
    rig.ok(lb, "lb register LB1/G a b + LB1/H a b");
    rig.take_orders();
    rig.judge(&[("a", rate(100.0)), ("b", rate(80.0))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/89 b 00/0D/71] LB1/H[a 00/0D/89 b 00/0D/71]"]);
    rig.judge(&[("a", rate(93.0)), ("b", rate(85.0))]);
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/83 b 00/0D/76] LB1/H[a 00/0D/83 b 00/0D/76]"]);
    rig.ok(lb, "member deregister LB1/G");
    rig.ok(lb, "lb register LB1/G a b"); // before the LB has heard of the removal
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/89 b 00/0D/81]"]);
}

#[test]
fn quiesces_of_operator_lb_and_monitor_are_kept_apart() {
    let quiesced = Member { quiesced: true, ..watched(100) };
    let (mut rig, lb) = told(with(roster(&[])), "a");
    rig.judge(&[("a", weight(40))]);
    rig.ok(lb, "lb set LB1/G a=01q");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 01/0F/0]"]);
    rig.set_roster(Arc::new(roster(&[("a", quiesced.clone())])));
    rig.ok(lb, "lb set LB1/G a=01");
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 01/0F/0]", "the operator still does");
    rig.set_roster(Arc::new(roster(&[("a", quiesced.clone())])));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 01/0F/0]", "however often that is said");
    rig.judge(&[("a", weight(30))]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 01/0F/0]");
    rig.judge(&[("a", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 01/0E/0]");
    rig.judge(&[("a", weight(30))]);
    rig.set_roster(Arc::new(roster(&[])));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 01/0D/30]", "what was judged meanwhile");
    assert_eq!(rig.take_orders(), NOTHING, "it was watched all the time");
}

#[test]
fn the_last_word_about_a_member_says_that_the_operator_quiesces_it() {
    let quiesced = Member { quiesced: true, ..watched(100) };
    let mut rig = Rig::with(with(roster(&[("a", quiesced)])));
    let lb = rig.lb("LB1", "trust nochange");
    rig.ok(lb, "lb register LB1/G a b");
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/07/0 b 00/05/100]");
    rig.ok(lb, "member deregister LB1/G a b");
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0E/0 b 00/0C/0]");
}

#[test]
fn the_operator_fixes_a_member_and_lets_it_go() {
    let (mut rig, lb) = told(with(roster(&[])), "a");
    rig.judge(&[("a", DOWN)]);
    rig.set_roster(Arc::new(roster(&[("a", Member::fixed(70))])));
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/0D/70]"]);
    let old = rig.watch("a");
    assert_eq!(rig.take_orders(), ["unwatch a"]);
    rig.judge_watch(old, DOWN);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 00/0D/70]");
    rig.set_roster(Arc::new(roster(&[("a", watched(60))])));
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/60]"], "nothing is known of it now");
    assert_eq!(rig.take_orders(), ["watch a"]);
}

/// A large roster is put in force in pieces, and no push shows half of it.
#[test]
fn a_reload_of_many_members_goes_on_with_polls() {
    let names: Vec<String> = (1000..11_000).map(|port| format!("a/{port}")).collect();
    let limits = Settings {
        max_memberships: 20_000,
        max_memberships_per_lb: 20_000,
        max_members_per_group: 20_000,
        ..with(roster(&[]))
    };
    let (mut rig, lb) = told(limits, &names.join(" "));
    rig.set_roster(Arc::new(Roster::new(Member::fixed(5), Policy::Auto)));
    let mut polls = 0;
    let push = loop {
        polls += 1;
        assert!(polls < 100, "it does not end");
        if let [push] = &rig.after(WINDOW)[..] {
            break push.clone();
        }
    };
    assert!(polls > 2, "all at once");
    assert_eq!(push.matches(" 00/0D/5").count(), names.len());
    assert_eq!(rig.take_orders().len(), names.len());
    rig.ok(lb, "lb deregister LB1/G");
    assert_eq!(rig.take_orders(), NOTHING, "they were not watched any more");
}

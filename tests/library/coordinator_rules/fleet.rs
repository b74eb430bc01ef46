//! A node of a fleet: the order of groups, and what it shows when it is cut off.

use gwm::{
    coordinator::{Answer, Ask, Filter, Node, Order},
    judgement::{FoundBy, Stand, StandingChange, Verdict},
};

use super::{
    rig::{PANIC_TIME, Rig, WINDOW},
    watched::{DOWN, FALL_WINDOW, roster, weight, with},
};
use crate::wire;

fn nodes(names: &[&str]) -> Order {
    Order::Nodes(names.iter().map(|name| Node { name: (*name).into(), blind: false }).collect())
}

fn found(node: &str, verdicts: &[(&str, Verdict)]) -> Order {
    let list = verdicts.iter().map(|(name, verdict)| (wire::endpoint(name), Some([*verdict; 4]))).collect();
    Order::Verdicts { node: node.into(), list }
}

fn change(from: Stand, to: Stand) -> StandingChange {
    StandingChange { from, to, kind: "test", reason: "because".into() }
}

/// How an endpoint stands, who found so, and why.
fn stand(rig: &mut Rig, name: &str) -> (Stand, FoundBy, Option<String>) {
    let endpoint = wire::endpoint(name);
    let filter = Filter {
        address: Some(endpoint.ip()),
        port: Some(endpoint.port),
        protocol: Some(endpoint.protocol),
        ..Filter::default()
    };
    let Answer::Endpoint(found) = rig.admin(Ask::Endpoint(filter)) else { panic!("no {name}") };
    let state = found.0.state;
    (state.stand, state.found_by, state.turn.map(|(_, turn)| turn.reason.into()))
}

/// Node `a` of a fleet of these nodes, and a load balancer that has asked for this.
fn node_of(fleet: &[&str], registration: &str) -> (Rig, usize) {
    let mut rig = Rig::with(with(roster(&[])));
    rig.join_fleet("a");
    rig.obey(&nodes(fleet));
    let lb = rig.lb("LB1", "");
    rig.ok(lb, registration);
    (rig, lb)
}

#[test]
fn groups_stand_in_the_order_of_their_names() {
    let mut rig = Rig::new();
    rig.join_fleet("a");
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/H a");
    rig.ok(lb, "lb register LB1/G a + LB1/I a");
    let shown = rig.ask(lb, "get LB1/");
    let places = ["LB1/G", "LB1/H", "LB1/I"].map(|group| shown.find(group).expect("it is listed"));
    assert!(places.is_sorted(), "{shown}");
}

/// Two nodes check all members; this one sees `x`, then nothing any more, and at last the fleet is gone, too.
fn cut_off(others: &[(&str, Verdict)]) -> (Rig, usize) {
    let (mut rig, lb) = node_of(&["a", "b"], "lb register LB1/G x y z");
    rig.take_orders();
    rig.obey(&found("b", others));
    rig.judge(&[("x", weight(50))]);
    rig.judge(&[("y", DOWN), ("z", DOWN)]);
    rig.after(WINDOW);
    rig.judge(&[("x", DOWN)]);
    rig.after(WINDOW);
    (rig, lb)
}

#[test]
fn a_node_to_which_nothing_answers_of_what_answers_to_others_is_blind() {
    let (mut rig, lb) = cut_off(&[("x", weight(50)), ("y", weight(50)), ("z", weight(50))]);
    assert_eq!(rig.blind(), (false, true));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0D/50 y 00/0D/50 z 00/0D/50]", "the other node sees them");
    rig.obey(&nodes(&["a"]));
    for _ in 0..3 {
        rig.after(FALL_WINDOW + PANIC_TIME);
        assert_eq!(rig.blind(), (false, true));
        assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/05/50 y 00/05/50 z 00/05/50]", "nobody is drained");
    }
    // Something answers.
    rig.judge(&[("y", weight(50))]);
    assert_eq!(rig.blind(), (false, false));
}

#[test]
fn what_answers_to_nobody_says_nothing_about_a_node() {
    let (mut rig, lb) = cut_off(&[("x", weight(50)), ("y", DOWN), ("z", DOWN)]);
    assert_eq!(rig.blind(), (false, false), "one server has died");
    rig.after(FALL_WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0D/50 y 00/0C/0 z 00/0C/0]");
}

#[test]
fn what_others_saw_has_answered_though_they_are_gone_before_this_node_has_looked() {
    let (mut rig, lb) = node_of(&["a", "b", "c"], "lb register LB1/G q x y");
    assert_eq!(rig.take_orders().len(), 2, "others check q");
    for other in ["b", "c"] {
        rig.obey(&found(other, &["q", "x", "y"].map(|name| (name, weight(50)))));
    }
    // This node is cut off from all.
    rig.obey(&nodes(&["a"]));
    assert_eq!(rig.take_orders().len(), 1);
    rig.judge(&[("x", DOWN), ("y", DOWN)]);
    rig.judge(&[("q", DOWN)]);
    assert_eq!(rig.blind(), (false, true));
    for _ in 0..3 {
        rig.after(FALL_WINDOW + PANIC_TIME);
        assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[q 00/05/50 x 00/05/50 y 00/05/50]", "nobody is drained");
    }
}

#[test]
fn a_node_that_starts_cut_off_is_blind_whatever_a_node_saw_that_is_gone() {
    let (mut rig, lb) = node_of(&["a", "b", "c"], "lb register LB1/G x y + LB1/H q");
    assert_eq!(rig.take_orders().len(), 2, "others check q");
    rig.obey(&found("c", &[("q", weight(50))]));
    rig.obey(&nodes(&["a"]));
    assert_eq!(rig.take_orders().len(), 1);
    rig.judge(&[("x", DOWN), ("y", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.blind(), (false, true), "it has not looked at q yet");
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/05/100 y 00/05/100]", "nobody is drained");
    rig.judge(&[("q", DOWN)]);
    rig.after(FALL_WINDOW + PANIC_TIME);
    assert_eq!(rig.blind(), (false, true), "nothing has answered this node");
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/05/100 y 00/05/100]", "nobody is drained");
    rig.judge(&[("q", weight(50))]);
    assert_eq!(rig.blind(), (false, false));
    rig.after(FALL_WINDOW);
    rig.after(WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0C/0 y 00/0C/0]", "it sees, so they are down");
}

#[test]
fn what_nobody_has_found_up_is_down_after_a_fall_window_unless_the_node_is_blind_then() {
    for is_cut_off in [true, false] {
        let (mut rig, lb) = node_of(&["a"], "lb register LB1/G x y + LB1/H q");
        rig.take_orders();
        rig.judge(&[("x", weight(50)), ("y", weight(50))]);
        rig.after(WINDOW);
        rig.ok(lb, "lb register LB1/I v w");
        rig.take_orders();
        rig.judge(&[("v", DOWN), ("w", DOWN), ("q", DOWN)]);
        assert_eq!(rig.ask(lb, "get LB1/I"), "00 LB1/I[v 00/05/100 w 00/05/100]", "the node may be cut off");
        assert_eq!(stand(&mut rig, "v"), (Stand::Unknown, FoundBy::Early, None));
        rig.judge(&[("q", weight(50))]);
        assert_eq!(rig.ask(lb, "get LB1/H"), "00 LB1/H[q 00/0D/50]", "what is up is up at once");
        rig.after(FALL_WINDOW - WINDOW);
        if is_cut_off {
            rig.judge(&[("x", DOWN), ("y", DOWN), ("q", DOWN)]);
        }
        rig.after(WINDOW);
        assert_eq!(rig.blind(), (false, is_cut_off));
        let shown = if is_cut_off { "v 00/05/100 w 00/05/100" } else { "v 00/0C/0 w 00/0C/0" };
        assert_eq!(rig.ask(lb, "get LB1/I"), format!("00 LB1/I[{shown}]"));
    }
}

#[test]
fn what_has_never_been_up_and_comes_up_early_is_not_down_later() {
    let (mut rig, lb) = node_of(&["a"], "lb register LB1/G x y");
    rig.take_orders();
    rig.judge(&[("x", weight(50)), ("y", DOWN)]);
    rig.judge(&[("y", weight(40))]);
    rig.after(FALL_WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0D/50 y 00/0D/40]");
    // It leaves, and comes back as another watch.
    rig.ok(lb, "lb deregister LB1/G y");
    rig.ok(lb, "lb register LB1/G y");
    rig.take_orders();
    rig.judge(&[("y", DOWN)]);
    rig.ok(lb, "lb deregister LB1/G y");
    rig.ok(lb, "lb register LB1/G y");
    rig.after(FALL_WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0D/50 y 00/05/100]", "the new watch has found nothing");
}

#[test]
fn a_farm_that_only_a_node_saw_that_is_gone_is_in_doubt() {
    let (mut rig, lb) = node_of(&["a", "b"], "lb register LB1/G x y z + LB1/H w");
    rig.take_orders();
    let up = ["w", "x", "y", "z"].map(|name| (name, weight(50)));
    rig.judge(&up);
    rig.obey(&found("b", &up));
    rig.judge(&[("x", DOWN), ("y", DOWN), ("z", DOWN)]);
    rig.after(WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0D/50 y 00/0D/50 z 00/0D/50]", "the other node sees them");
    rig.obey(&nodes(&["a"]));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/05/50 y 00/05/50 z 00/05/50]", "nobody is drained");
    assert_eq!((rig.blind(), rig.doubts()), ((false, false), vec!["LB1/G Began 3/3".to_owned()]));
    rig.after(PANIC_TIME);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0C/0 y 00/0C/0 z 00/0C/0]", "they are down");
}

#[test]
fn a_node_that_has_just_started_drains_no_farm_before_its_own_checks_agree() {
    let (mut rig, lb) = node_of(&["a", "b"], "lb register LB1/G x y z");
    rig.take_orders();
    // The other node has just been cut off, and does not know it yet.
    rig.obey(&found("b", &[("x", DOWN), ("y", DOWN), ("z", DOWN)]));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/05/100 y 00/05/100 z 00/05/100]", "nothing is known");
    rig.judge(&[("x", weight(50)), ("y", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0D/50 y 00/05/100 z 00/05/100]", "it may be cut off, too");
    rig.after(FALL_WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[x 00/0D/50 y 00/0C/0 z 00/05/100]", "y is down for both");
}

#[test]
fn what_a_node_has_just_come_to_check_stays_as_it_was_until_it_has_checked() {
    let (mut rig, lb) = node_of(&["a", "b", "c"], "lb register LB1/G q w z");
    let names = ["q", "w", "z"];
    assert_eq!(rig.take_orders(), [""; 0], "others check them");
    rig.obey(&found("b", &names.map(|name| (name, DOWN))));
    rig.obey(&found("c", &names.map(|name| (name, weight(50)))));
    let all_up = "00 LB1/G[q 00/0D/50 w 00/0D/50 z 00/0D/50]";
    assert_eq!(rig.ask(lb, "get LB1/G"), all_up, "one of two sees them");
    rig.obey(&nodes(&["a", "b"]));
    assert_eq!(rig.take_orders().len(), 3);
    assert_eq!(rig.ask(lb, "get LB1/G"), all_up, "this node has yet to look");
    rig.judge(&names.map(|name| (name, weight(40))));
    rig.after(WINDOW);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[q 00/0D/40 w 00/0D/40 z 00/0D/40]");
    assert_eq!(rig.doubts(), [""; 0]);
    rig.judge(&[("q", DOWN)]);
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[q 00/0C/0 w 00/0D/40 z 00/0D/40]", "q is down for both");
}

#[test]
fn nobody_shows_the_reason_of_another_endpoint_or_of_a_check_that_does_not_count() {
    let (mut rig, _) = node_of(&["a", "b", "c"], "lb register LB1/G q w x");
    assert_eq!(rig.take_orders().len(), 1, "others check q and w");
    rig.judge_turned("x", DOWN, change(Stand::Unknown, Stand::Down));
    rig.after(FALL_WINDOW);
    rig.after(WINDOW);
    rig.obey(&found("b", &[("q", weight(50))]));
    assert_eq!(stand(&mut rig, "q"), (Stand::Up, FoundBy::Fleet, None));
    assert_eq!(stand(&mut rig, "w"), (Stand::Unknown, FoundBy::Own, None));
    assert_eq!(stand(&mut rig, "x"), (Stand::Down, FoundBy::Own, Some("because".into())));
    for other in ["b", "c"] {
        rig.obey(&found(other, &[("x", weight(50))]));
    }
    assert_eq!(stand(&mut rig, "x"), (Stand::Up, FoundBy::Fleet, None), "this node alone is cut off from it");
}

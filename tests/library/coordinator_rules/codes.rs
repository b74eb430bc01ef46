//! Return codes: the case of each, their order, and that no code but 0x00 changes anything.

use super::rig::{Rig, settings};
use crate::wire::{self, Item, Named, Request};

/// LB1 (connection 0) with G[a] and trust, LB2 (connection 1) without trust.
fn two_lbs() -> Rig {
    let mut rig = Rig::new();
    let one = rig.lb("LB1", "trust");
    rig.lb("LB2", "");
    rig.ok(one, "lb register LB1/G a");
    rig
}

const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"; // 65

#[test]
fn a_uid_has_1_to_64_bytes() {
    for uid in ["", LONG] {
        let mut rig = Rig::new();
        let peer = rig.open();
        assert_eq!(rig.ask(peer, &format!("lb register {uid}/G a")), "51");
        assert_eq!(rig.ask(peer, &format!("member register {uid}/G a")), "51");
        assert_eq!(rig.ask(peer, &format!("lb deregister {uid}/G a")), "51");
        assert_eq!(rig.ask(peer, &format!("get {uid}/G")), "51");
        assert_eq!(rig.ask(peer, &format!("lb set {uid}/G a=01")), "51");
        assert_eq!(rig.ask(peer, &format!("state {uid} 7F")), "51");
        assert_eq!(rig.totals(), [0; 4]);
    }
    let mut rig = Rig::new();
    for uid in ["x", &LONG[..64]] {
        rig.lb(uid, "");
        let peer = rig.open();
        rig.ok(peer, &format!("lb register {uid}/G a"));
    }
    assert_eq!(rig.totals(), [2, 2, 2, 1]);
}

#[test]
fn a_group_name_is_not_empty_in_registration_and_set_member_state() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb register LB1/ b"), "50");
    assert_eq!(rig.ask(0, "lb register LB1/"), "50");
    assert_eq!(rig.ask(0, "lb set LB1/ a=01"), "50");
    assert_eq!(rig.ask(0, "lb set LB1/"), "50");
    let longest = "n".repeat(255);
    rig.ok(0, &format!("lb register LB1/{longest} b"));
    assert_eq!(rig.ask(0, &format!("get LB1/{longest}")), format!("00 LB1/{longest}[b 00/05/100]"));
}

#[test]
fn an_empty_name_with_members_is_not_understood_in_deregistration() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb deregister LB1/ a"), "10");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100]");
}

#[test]
fn a_bad_uid_comes_before_everything() {
    let mut rig = two_lbs();
    // The first group has 0x50, 0x10, 0x42; the sender is bound to another LB, or is a member without an LB.
    assert_eq!(rig.ask(0, "lb register LB2/ a + /G a"), "51");
    assert_eq!(rig.ask(0, "lb set LB2/ a=01 + /G a=01"), "51");
    assert_eq!(rig.ask(0, "lb deregister LB2/ a + /G a"), "51");
    assert_eq!(rig.ask(0, "member register LB9/ a + /G a"), "51");
    assert_eq!(rig.ask(0, "get LB2/H + /G"), "51");
    assert_eq!(rig.ask(1, "state  7F"), "51");
}

#[test]
fn a_bad_name_comes_before_the_senders_rights() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb register LB2/G a + LB2/ a"), "50"); // else 0x11
    assert_eq!(rig.ask(0, "member register LB9/G a + LB9/ a"), "50"); // else 0x61
    assert_eq!(rig.ask(0, "member set LB2/G a=01 + LB2/ a=01"), "50"); // else 0x11
    assert_eq!(rig.ask(0, "member deregister LB9/G a + LB9/ a"), "10"); // else 0x61
}

#[test]
fn an_unknown_lb_of_a_member_comes_before_a_refused_sender() {
    let mut rig = two_lbs();
    for verb in ["register", "deregister"] {
        assert_eq!(rig.ask(0, &format!("member {verb} LB2/G a")), "11");
        assert_eq!(rig.ask(0, &format!("member {verb} LB2/G a + LB9/G a")), "61");
    }
    assert_eq!(rig.ask(0, "member set LB2/G a=01 + LB9/G a=01"), "61");
}

#[test]
fn a_members_rights_come_before_its_groups() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "member deregister LB1/H a a + LB2/G a"), "11"); // else 0x44, 0x42
    assert_eq!(rig.ask(0, "member register LB1/G a a + LB9/G a"), "61"); // else 0x44, 0x40
    assert_eq!(rig.ask(0, "member set LB1/G b=01 + LB1/G b=01 + LB2/G a=01"), "11"); // else 0x46
}

#[test]
fn a_refused_sender_comes_before_an_unknown_lb() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb deregister LB9/G a"), "11");
    assert_eq!(rig.ask(0, "get LB9/G"), "11");
    assert_eq!(rig.ask(0, "lb set LB9/G a=01"), "11");
    let unbound = rig.open();
    assert_eq!(rig.ask(unbound, "get LB8/G + LB9/G"), "11");
    assert_eq!(rig.ask(unbound, "lb deregister LB8/G a + LB9/G"), "11");
    assert_eq!(rig.ask(unbound, "lb set LB8/G a=01 + LB9/G a=01"), "11");
}

#[test]
fn an_unknown_lb_comes_before_duplicates_and_groups() {
    let mut rig = Rig::new();
    let peer = rig.open();
    assert_eq!(rig.ask(peer, "lb deregister LB1/G a a + LB1/G"), "43");
    assert_eq!(rig.ask(peer, "get LB1/G + LB1/G"), "43");
    assert_eq!(rig.ask(peer, "lb set LB1/G a=01 a=02 + LB1/G"), "43");
}

#[test]
fn a_duplicate_group_comes_before_a_duplicate_member_and_an_unknown_group() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb set LB1/G a=01 a=02 + LB1/G a=01"), "46");
    assert_eq!(rig.ask(0, "lb set LB1/G a=01 a=02"), "44");
    assert_eq!(rig.ask(0, "lb deregister LB1/G a a + LB1/H + LB1/H"), "46");
    assert_eq!(rig.ask(0, "get LB1/X + LB1/G + LB1/G"), "46");
}

#[test]
fn a_duplicate_member_comes_before_an_unknown_group() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb set LB1/X a=01 + LB1/G a=01 a=02"), "44");
    assert_eq!(rig.ask(0, "lb deregister LB1/X + LB1/G a a"), "44");
}

#[test]
fn a_duplicate_member_comes_before_one_that_is_there_already() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb register LB1/G a b b"), "44");
    assert_eq!(rig.ask(0, "lb register LB1/G a + LB1/H b b"), "44");
}

#[test]
fn an_unknown_group_comes_before_an_unknown_member() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb set LB1/G b=01 + LB1/X a=01"), "42");
    assert_eq!(rig.ask(0, "lb deregister LB1/G b + LB1/X a"), "42");
    assert_eq!(rig.ask(0, "lb set LB1/G b=01"), "41");
    assert_eq!(rig.ask(0, "lb deregister LB1/G b"), "41");
}

#[test]
fn a_member_of_another_group_is_none_of_this_one() {
    let mut rig = two_lbs();
    rig.ok(0, "lb register LB1/H b");
    rig.ok(1, "lb register LB2/G c");
    for member in ["b", "c"] {
        assert_eq!(rig.ask(0, &format!("lb set LB1/G {member}=01")), "41");
        assert_eq!(rig.ask(0, &format!("lb deregister LB1/G {member}")), "41");
        rig.ok(0, &format!("lb register LB1/G {member}"));
    }
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/05/100 c 00/05/100] LB1/H[b 00/05/100]");
}

#[test]
fn a_member_that_is_there_already_comes_before_a_limit() {
    let mut settings = settings();
    settings.max_members_per_group = 1;
    settings.max_groups_per_lb = 1;
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a");
    assert_eq!(rig.ask(lb, "lb register LB1/H b + LB1/G a"), "40");
    assert_eq!(rig.ask(lb, "lb register LB1/G b"), "45");
}

#[test]
fn an_lb_has_so_many_groups() {
    let mut settings = settings();
    settings.max_groups_per_lb = 2;
    let mut rig = Rig::with(settings);
    let (one, two) = (rig.lb("LB1", ""), rig.lb("LB2", ""));
    assert_eq!(rig.ask(one, "lb register LB1/G + LB1/H + LB1/I"), "45");
    rig.ok(one, "lb register LB1/G + LB1/H");
    assert_eq!(rig.ask(one, "lb register LB1/I"), "45");
    rig.ok(one, "lb register LB1/G a + LB1/G b"); // naming an existing group twice creates no group
    rig.ok(two, "lb register LB2/G + LB2/H");
    rig.ok(one, "lb deregister LB1/G");
    rig.ok(one, "lb register LB1/I");
    assert_eq!(rig.totals(), [2, 4, 0, 0]);
}

#[test]
fn a_group_has_so_many_members() {
    let mut settings = settings();
    settings.max_members_per_group = 2;
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "");
    assert_eq!(rig.ask(lb, "lb register LB1/G a b c"), "45");
    assert_eq!(rig.ask(lb, "lb register LB1/G a b + LB1/G c"), "45");
    assert_eq!(rig.totals(), [1, 0, 0, 0]);
    rig.ok(lb, "lb register LB1/G a b + LB1/H a b");
    assert_eq!(rig.ask(lb, "lb register LB1/G c"), "45");
    rig.ok(lb, "lb deregister LB1/G a");
    rig.ok(lb, "lb register LB1/G c");
}

#[test]
fn an_lb_has_so_many_memberships_in_all_its_groups() {
    let mut settings = settings();
    settings.max_memberships_per_lb = 3;
    let mut rig = Rig::with(settings);
    let (one, two) = (rig.lb("LB1", "trust"), rig.lb("LB2", "trust"));
    assert_eq!(rig.ask(one, "lb register LB1/G a b + LB1/H a b"), "45");
    assert_eq!(rig.totals(), [2, 0, 0, 0]);
    rig.ok(one, "lb register LB1/G a b + LB1/H a");
    assert_eq!(rig.ask(one, "lb register LB1/H b"), "45");
    rig.ok(one, "lb register LB1/I"); // an empty group takes no membership
    assert_eq!(rig.ask(two, "member register LB2/G a + LB1/I a"), "45");
    rig.ok(two, "lb register LB2/G a b c"); // each LB has a limit of its own
    rig.ok(one, "lb deregister LB1/G a");
    rig.ok(one, "lb register LB1/H b");
    rig.ok(one, "lb deregister LB1/G");
    rig.ok(one, "lb register LB1/I a");
    assert_eq!(rig.ask(one, "lb register LB1/I b"), "45");
    rig.ok(one, "lb deregister LB1/");
    rig.ok(one, "lb register LB1/G a b c");
}

#[test]
fn all_lbs_together_have_so_many_memberships() {
    let mut settings = settings();
    settings.max_memberships = 3;
    let mut rig = Rig::with(settings);
    let (one, two) = (rig.lb("LB1", "trust"), rig.lb("LB2", "trust"));
    rig.ok(one, "lb register LB1/G a");
    assert_eq!(rig.ask(two, "lb register LB2/G a b + LB2/H c"), "45");
    assert_eq!(rig.ask(one, "member register LB1/G b + LB2/H a b"), "45");
    assert_eq!(rig.totals(), [2, 1, 1, 1]);
    rig.ok(two, "lb register LB2/G a b");
    assert_eq!(rig.ask(one, "lb register LB1/H a"), "45");
    rig.ok(one, "lb register LB1/H"); // an empty group takes no membership
    rig.ok(two, "lb deregister LB2/");
    rig.ok(one, "lb register LB1/H a b");
}

#[test]
fn all_lbs_together_have_so_many_groups() {
    let mut settings = settings();
    settings.max_groups = 2;
    let mut rig = Rig::with(settings);
    let (one, two) = (rig.lb("LB1", ""), rig.lb("LB2", ""));
    rig.ok(one, "lb register LB1/G a");
    assert_eq!(rig.ask(two, "lb register LB2/G + LB2/H"), "45");
    rig.ok(two, "lb register LB2/G + LB2/G a");
    assert_eq!(rig.ask(one, "lb register LB1/H"), "45");
    rig.ok(two, "lb deregister LB2/");
    rig.ok(one, "lb register LB1/H");
}

#[test]
fn there_are_so_many_lbs() {
    let mut settings = settings();
    settings.max_load_balancers = 2;
    let mut rig = Rig::with(settings);
    rig.lb("LB1", "");
    let two = rig.lb("LB2", "");
    let three = rig.open();
    assert_eq!(rig.ask(three, "state LB3 7F"), "11");
    assert_eq!(rig.ask(three, "lb register LB3/G a"), "11");
    rig.closed(two);
    assert_eq!(rig.ask(three, "state LB3 7F"), "11"); // LB2 is held
    rig.ok(three, "state LB2 7F");
    assert_eq!(rig.totals(), [2, 0, 0, 0]);
}

#[test]
fn a_refused_registration_changes_nothing() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "lb register LB1/H a + LB1/G b a"), "40");
    assert_eq!(rig.ask(0, "lb register LB1/H a + LB1/G b b"), "44");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100]");
    assert_eq!(rig.totals(), [2, 1, 1, 1]);
}

#[test]
fn a_refused_deregistration_changes_nothing() {
    let mut rig = two_lbs();
    rig.ok(0, "lb register LB1/G b + LB1/H c");
    for (request, code) in [
        ("lb deregister LB1/G a + LB1/H a", "41"),
        ("lb deregister LB1/G + LB1/X", "42"),
        ("lb deregister LB1/G a + LB1/H c c", "44"),
        ("lb deregister LB1/G + LB1/", "46"),
        ("member deregister LB1/G a + LB2/G a", "11"),
    ] {
        assert_eq!(rig.ask(0, request), code, "{request}");
    }
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/05/100] LB1/H[c 00/05/100]");
}

#[test]
fn a_refused_set_member_state_changes_nothing() {
    let mut rig = two_lbs();
    for (request, code) in [
        ("lb set LB1/G a=11q b=11", "41"),
        ("lb set LB1/G a=11q + LB1/X a=11", "42"),
        ("lb set LB1/G a=11q a=11q", "44"),
        ("lb set LB1/G a=11q + LB1/G", "46"),
        ("member set LB1/G a=11q + LB2/G a=11q", "11"),
    ] {
        assert_eq!(rig.ask(0, request), code, "{request}");
    }
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100]");
}

#[test]
fn a_refused_set_lb_state_changes_nothing() {
    let mut rig = two_lbs();
    assert_eq!(rig.ask(0, "state LB2 7F trust"), "11");
    assert_eq!(rig.ask(0, "member register LB2/G a"), "11"); // LB2 still does not trust
}

#[test]
fn a_message_without_groups_succeeds_and_does_nothing() {
    let mut rig = Rig::new();
    let peer = rig.open();
    for request in
        ["lb register", "member register", "lb deregister", "member deregister", "get", "lb set", "member set"]
    {
        rig.ok(peer, request);
    }
    assert_eq!(rig.totals(), [0; 4]);
    rig.lb("LB1", "");
    rig.ok(peer, "get"); // binds no LB: LB1 is not taken over, and the connection can still become any LB
    rig.ok(peer, "lb register LB2/G a");
    assert!(rig.closes().is_empty());
}

#[test]
fn replies_are_these_bytes() {
    let mut rig = Rig::new();
    let lb = rig.open();
    let expected = |id: [u8; 4], kind: [u8; 2], code: u8| {
        let mut bytes = vec![0x20, 0x10, 0, 13, 1, 0, 0, 0, 18];
        bytes.extend(id);
        bytes.extend(kind);
        bytes.extend([0, 5, code]);
        bytes
    };
    let mut reply = |request: &str| rig.reply(lb, &wire::parse(request));
    assert_eq!(reply("state LB1 7F"), expected([0x01, 0x23, 0x45, 0x67], [0x10, 0x55], 0x00));
    assert_eq!(reply("lb register LB1/G a"), expected([0x02, 0x46, 0x8A, 0xCE], [0x10, 0x15], 0x00));
    assert_eq!(reply("lb deregister LB1/G b"), expected([0x03, 0x69, 0xD0, 0x35], [0x10, 0x25], 0x41));
    assert_eq!(reply("lb set LB1/X a=01"), expected([0x04, 0x8D, 0x15, 0x9C], [0x10, 0x65], 0x42));
    let refused = [
        &[0x20, 0x10, 0, 13, 1, 0, 0, 0, 22, 0x05, 0xB0, 0x5B, 0x03][..],
        &[0x10, 0x35, 0, 9, 0x42, 0, 64, 0, 0], // the interval as always, and no group
    ];
    assert_eq!(reply("get LB1/G + LB1/X"), refused.concat());
}

#[test]
fn reserved_bits_and_any_reason_or_health_are_taken() {
    let mut rig = Rig::new();
    let lb = rig.open();
    let member = |name: &str, flags| Item { endpoint: wire::endpoint(name), label: Vec::new(), state: 9, flags };
    let group = |items| vec![Named { uid: b"LB1".into(), name: b"G".into(), items }];
    let mut code = |request: Request| rig.reply(lb, &request).last().copied();
    assert_eq!(code(Request::SetLbState { uid: b"LB1".into(), health: 0xFF, flags: 0xF8 | wire::TRUST }), Some(0));
    // Flags 0xFF are an LB's, 0xFE a member's.
    assert_eq!(code(Request::Register { flags: 0xFF, groups: group(vec![member("a", 0)]) }), Some(0));
    assert_eq!(code(Request::Register { flags: 0xFE, groups: group(vec![member("b", 0)]) }), Some(0));
    let states = group(vec![member("a", 0xFE), member("b", 0xFF)]);
    assert_eq!(code(Request::SetMemberState { flags: 0xFE, groups: states }), Some(0));
    assert_eq!(rig.ask(lb, "get LB1/G"), "00 LB1/G[a 09/05/100 b 09/03/0]");
    for reason in [0x00, 0x01, 0x02, 0x7F, 0x80, 0xFF] {
        rig.ok(lb, "member register LB1/G c");
        let groups = group(vec![member("c", 0)]);
        assert_eq!(rig.reply(lb, &Request::Deregister { flags: 0xFE, reason, groups }).last(), Some(&0));
    }
}

#[test]
fn deregistrations_that_are_done_are_counted_by_their_reason() {
    let mut rig = two_lbs();
    let mut code = |reason, items| {
        let groups = vec![Named { uid: b"LB1".into(), name: b"G".into(), items }];
        rig.reply(0, &Request::Deregister { flags: wire::LB, reason, groups }).last().copied()
    };
    let a = || Item { endpoint: wire::endpoint("a"), label: Vec::new(), state: 0, flags: 0 };
    assert_eq!(code(0x80, vec![a()]), Some(0x00));
    assert_eq!(code(0x80, vec![a()]), Some(0x41)); // not done, not counted
    assert_eq!(code(0x02, vec![]), Some(0x00));
    rig.ok(0, "lb deregister");
    rig.ok(0, "lb deregister LB1/");
    assert_eq!(rig.deregistrations(), [(0x00, 2), (0x02, 1), (0x80, 1)]);
}

//! How requests change groups and members, as Get Weights shows them.

use super::rig::{Rig, fixed, settings};
use crate::wire::{self, Item, Named, Request};

/// LB1 on connection 0, with trust.
fn trusting() -> Rig {
    let mut rig = Rig::new();
    rig.lb("LB1", "trust");
    rig
}

#[test]
fn registration_adds_to_groups_and_creates_them() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a");
    rig.ok(0, "member register LB1/G b + LB1/H a");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/01/100] LB1/H[a 00/01/100]");
    assert_eq!(rig.totals(), [1, 2, 3, 2]);
}

#[test]
fn a_registration_without_members_creates_an_empty_group() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G + LB1/H a");
    rig.ok(0, "member register LB1/I");
    rig.ok(0, "lb register LB1/H"); // the group exists: nothing changes
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[] LB1/H[a 00/05/100] LB1/I[]");
}

#[test]
fn a_member_is_in_a_group_once_and_in_several_groups() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a");
    assert_eq!(rig.ask(0, "lb register LB1/G a"), "40");
    assert_eq!(rig.ask(0, "member register LB1/G a"), "40");
    rig.ok(0, "lb register LB1/H a");
    assert_eq!(rig.totals(), [1, 2, 2, 1]);
}

#[test]
fn address_protocol_and_port_tell_members_apart() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a a/sys a/udp a/0 b/sys");
    for member in ["a", "a/sys", "a/udp", "a/0", "b/sys"] {
        assert_eq!(rig.ask(0, &format!("lb register LB1/G {member}")), "40");
    }
    rig.ok(0, "lb set LB1/G a/0=01 a/sys=02");
    let all = "00 LB1/G[a 00/05/100 a/sys 02/05/100 a/udp 00/05/100 a/0 01/05/100 b/sys 00/05/100]";
    assert_eq!(rig.ask(0, "get LB1/G"), all);
    assert_eq!(rig.totals(), [1, 1, 5, 5]);
}

#[test]
fn an_address_is_its_16_bytes() {
    let mut rig = trusting();
    let mut mapped = wire::endpoint("a");
    mapped.address[10..12].copy_from_slice(&[0xFF, 0xFF]); // ::ffff:10.0.0.1 is not ::10.0.0.1
    let item = |endpoint| Item { endpoint, label: Vec::new(), state: 0, flags: 0 };
    let items = vec![item(wire::endpoint("a")), item(mapped)];
    let groups = vec![Named { uid: b"LB1".into(), name: b"G".into(), items }];
    assert_eq!(rig.reply(0, &Request::Register { flags: wire::LB, groups }).last(), Some(&0));
    assert_eq!(rig.totals(), [1, 1, 2, 2]);
}

#[test]
fn a_member_registered_anew_starts_afresh() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a:old b");
    rig.ok(0, "lb set LB1/G a=07q");
    rig.ok(0, "lb deregister LB1/G a");
    rig.ok(0, "member register LB1/G a:new");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[b 00/05/100 a:new 00/01/100]");
}

#[test]
fn a_group_may_come_twice_in_a_registration() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a + LB1/H a + LB1/G b");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/05/100] LB1/H[a 00/05/100]");
}

#[test]
fn a_member_may_not_come_twice_in_the_same_group() {
    let mut rig = trusting();
    assert_eq!(rig.ask(0, "lb register LB1/G a a"), "44");
    assert_eq!(rig.ask(0, "lb register LB1/G a + LB1/G a"), "44");
    assert_eq!(rig.ask(0, "lb register LB1/G a:x a:y"), "44");
    rig.lb("LB2", "trust");
    rig.ok(0, "member register LB1/G a + LB2/G a"); // two groups of one name
    rig.ok(0, "lb register LB1/G b c");
    assert_eq!(rig.ask(0, "lb deregister LB1/G b b"), "44");
    assert_eq!(rig.ask(0, "lb deregister LB1/G b + LB1/G b"), "44");
    assert_eq!(rig.ask(0, "lb set LB1/G b=01 b=02"), "44");
    rig.ok(0, "member set LB1/G a=01 + LB2/G a=02");
    rig.ok(0, "lb deregister LB1/G b + LB1/G c");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 01/01/100]");
}

#[test]
fn a_label_is_kept_and_is_not_part_of_the_identity() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a:first");
    assert_eq!(rig.ask(0, "lb register LB1/G a:other"), "40");
    rig.ok(0, "lb set LB1/G a:other=05");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[a:first 05/05/100]");
    rig.ok(0, "lb register LB1/H a:second"); // each membership has a label of its own
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a:first 05/05/100] LB1/H[a:second 00/05/100]");
    rig.ok(0, "lb deregister LB1/G a:third");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[]");
}

#[test]
fn names_and_labels_are_bytes() {
    let mut rig = Rig::new();
    let lb = rig.open();
    let group = |uid: &[u8], name: &[u8], label: &[u8]| {
        let item = Item { endpoint: wire::endpoint("a"), label: label.into(), state: 0, flags: 0 };
        vec![Named { uid: uid.into(), name: name.into(), items: vec![item] }]
    };
    let label = [0xFF; 255];
    for (uid, name) in [(b"\xFF\0", b"\0"), (b"\xFF\0", b"\xC3"), (b"\xFF\0", b"g"), (b"\xFF\0", b"G")] {
        let request = Request::Register { flags: wire::LB, groups: group(uid, name, &label) };
        assert_eq!(rig.reply(lb, &request).last(), Some(&0));
    }
    let reply = rig.reply(lb, &Request::GetWeights { groups: group(b"\xFF\0", b"\xC3", b"") });
    let entries = vec![wire::Listed { endpoint: wire::endpoint("a"), label: label.into(), entry: [0, 5, 0, 100] }];
    let weights = wire::Weights { uid: b"\xFF\0".into(), name: b"\xC3".into(), entries };
    assert_eq!(reply, wire::get_weights_reply(5 * 0x0123_4567, 0, 64, &[weights]));
    assert_eq!(rig.totals(), [1, 4, 4, 1]);
}

#[test]
fn groups_and_members_are_listed_in_the_order_of_registration() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/Z c a + LB1/A d");
    rig.ok(0, "lb register LB1/M a + LB1/Z b");
    rig.ok(0, "lb deregister LB1/Z c + LB1/A");
    rig.ok(0, "lb register LB1/Z c + LB1/A a");
    let all = "00 LB1/Z[a 00/05/100 b 00/05/100 c 00/05/100] LB1/M[a 00/05/100] LB1/A[a 00/05/100]";
    assert_eq!(rig.ask(0, "get LB1/"), all);
}

#[test]
fn get_weights_lists_the_groups_that_it_names_in_its_own_order() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a + LB1/H b + LB1/I");
    assert_eq!(rig.ask(0, "get LB1/I + LB1/G"), "00 LB1/I[] LB1/G[a 00/05/100]");
    assert_eq!(rig.ask(0, "get LB1/H"), "00 LB1/H[b 00/05/100]");
}

#[test]
fn get_weights_of_all_groups_needs_none() {
    let mut rig = trusting();
    assert_eq!(rig.ask(0, "get LB1/"), "00");
    assert_eq!(rig.ask(0, "get LB1/G"), "42");
}

#[test]
fn get_weights_names_a_group_once() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a + LB1/H");
    for request in ["get LB1/G + LB1/G", "get LB1/ + LB1/", "get LB1/ + LB1/G", "get LB1/G + LB1/H + LB1/"] {
        assert_eq!(rig.ask(0, request), "46", "{request}");
    }
}

#[test]
fn deregistration_removes_members() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a b c + LB1/H a");
    rig.ok(0, "lb deregister LB1/G c a");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[b 00/05/100] LB1/H[a 00/05/100]");
    assert_eq!(rig.ask(0, "lb deregister LB1/G a"), "41");
    rig.ok(0, "member deregister LB1/G b + LB1/H a"); // each may remove what the other registered
    assert_eq!(rig.totals(), [1, 2, 0, 0]);
}

#[test]
fn a_large_group_is_as_a_small_one() {
    let mut rig = trusting();
    let all: Vec<String> = (1..=60).map(|port| format!("a/{port}")).collect();
    rig.ok(0, &format!("lb register LB1/G {}", all.join(" ")));
    let mut listed: Vec<(&String, &str)> = all.iter().map(|member| (member, "00")).collect();
    let weights = |rig: &mut Rig, listed: &[(&String, &str)]| {
        let entries: Vec<String> = listed.iter().map(|(member, state)| format!("{member} {state}/05/100")).collect();
        assert_eq!(rig.ask(0, "get LB1/G"), format!("00 LB1/G[{}]", entries.join(" ")));
    };
    for (number, member) in all.iter().enumerate() {
        assert_eq!(rig.ask(0, &format!("lb register LB1/G {member}")), "40");
        if number % 4 < 2 {
            rig.ok(0, &format!("lb deregister LB1/G {member}"));
            assert_eq!(rig.ask(0, &format!("lb set LB1/G {member}=01")), "41");
            listed.retain(|(other, _)| *other != member);
        }
        if number % 4 == 1 {
            rig.ok(0, &format!("lb register LB1/G {member}"));
            listed.push((member, "00"));
        }
        if number % 4 == 2 {
            rig.ok(0, &format!("lb set LB1/G {member}=01"));
            listed.iter_mut().find(|(other, _)| *other == member).expect("it is there").1 = "01";
        }
        weights(&mut rig, &listed);
    }
    while let Some((member, _)) = listed.pop() {
        rig.ok(0, &format!("lb deregister LB1/G {member}"));
        assert_eq!(rig.ask(0, &format!("lb deregister LB1/G {member}")), "41");
        weights(&mut rig, &listed);
    }
    assert_eq!(rig.totals(), [1, 1, 0, 0]);
}

#[test]
fn a_group_without_its_last_member_is_there_still() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a");
    rig.ok(0, "lb deregister LB1/G a");
    assert_eq!(rig.ask(0, "get LB1/G"), "00 LB1/G[]");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[]");
}

#[test]
fn deregistration_without_members_removes_the_group() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a b + LB1/H a + LB1/I");
    rig.ok(0, "lb deregister LB1/G + LB1/I");
    assert_eq!(rig.ask(0, "get LB1/G"), "42");
    assert_eq!(rig.ask(0, "get LB1/I"), "42");
    assert_eq!(rig.ask(0, "lb deregister LB1/G"), "42");
    rig.ok(0, "member deregister LB1/H");
    assert_eq!(rig.totals(), [1, 0, 0, 0]);
}

#[test]
fn deregistration_without_a_name_removes_all_groups_and_keeps_the_lb() {
    let mut rig = trusting();
    let other = rig.lb("LB2", "trust");
    rig.ok(other, "lb register LB2/G a");
    rig.ok(0, "lb register LB1/G a b + LB1/H");
    rig.ok(0, "lb deregister LB1/");
    assert_eq!(rig.ask(0, "get LB1/"), "00");
    assert_eq!(rig.totals(), [2, 1, 1, 1]);
    rig.ok(0, "lb deregister LB1/"); // removing no group is no error
    rig.ok(0, "member register LB1/G a"); // LB1 is still known and trusts
    rig.ok(0, "member deregister LB1/ + LB2/");
    assert_eq!(rig.totals(), [2, 0, 0, 0]);
}

#[test]
fn a_whole_removal_stands_alone_in_a_deregistration() {
    let mut rig = trusting();
    rig.lb("LB2", "trust");
    rig.ok(0, "lb register LB1/G a b + LB1/H a");
    for request in [
        "lb deregister LB1/G + LB1/G",
        "lb deregister LB1/G + LB1/G a",
        "lb deregister LB1/G a + LB1/G",
        "lb deregister LB1/ + LB1/",
        "lb deregister LB1/ + LB1/G",
        "lb deregister LB1/H a + LB1/",
        "member deregister LB2/ + LB1/G + LB1/",
    ] {
        assert_eq!(rig.ask(0, request), "46", "{request}");
    }
    rig.ok(0, "member register LB2/G a");
    rig.ok(0, "member deregister LB1/G + LB2/"); // two LBs do not overlap
    rig.ok(0, "member register LB1/G a b");
    rig.ok(0, "lb deregister LB1/G a + LB1/H + LB1/G b"); // different members of a group do not overlap
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[]");
}

#[test]
fn set_member_state_is_per_membership_and_the_last_writer_wins() {
    let mut rig = trusting();
    let two = rig.lb("LB2", "trust");
    rig.ok(0, "lb register LB1/G a + LB1/H a");
    rig.ok(two, "lb register LB2/G a");
    rig.ok(0, "lb set LB1/G a=01");
    rig.ok(two, "member set LB1/G a=02q");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 02/07/0] LB1/H[a 00/05/100]");
    rig.ok(0, "lb set LB1/G a=03 + LB1/H a=FFq");
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[a 03/05/100] LB1/H[a FF/07/0]");
    assert_eq!(rig.ask(two, "get LB2/"), "00 LB2/G[a 00/05/100]");
}

#[test]
fn quiesce_is_as_it_was_set_last_however_often() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G a");
    for (state, shown) in
        [("00q", "00/07/0"), ("00q", "00/07/0"), ("01q", "01/07/0"), ("01", "01/05/100"), ("01", "01/05/100")]
    {
        rig.ok(0, &format!("lb set LB1/G a={state}"));
        assert_eq!(rig.ask(0, "get LB1/G"), format!("00 LB1/G[a {shown}]"), "after {state}");
    }
}

#[test]
fn set_member_state_names_a_group_once() {
    let mut rig = trusting();
    rig.lb("LB2", "trust");
    rig.ok(0, "lb register LB1/G a b + LB1/H");
    assert_eq!(rig.ask(0, "lb set LB1/G a=01 + LB1/G b=01"), "46");
    assert_eq!(rig.ask(0, "lb set LB1/H + LB1/H"), "46");
    rig.ok(0, "member register LB2/G a");
    rig.ok(0, "member set LB1/G a=01 + LB2/G a=01");
}

#[test]
fn set_member_state_of_no_member_needs_the_group() {
    let mut rig = trusting();
    rig.ok(0, "lb register LB1/G");
    rig.ok(0, "lb set LB1/G");
    assert_eq!(rig.ask(0, "lb set LB1/H"), "42");
}

#[test]
fn a_quiesced_member_has_weight_0_and_else_its_flags() {
    let mut settings = settings();
    settings.roster = fixed(&[("a", 40)]);
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "trust");
    rig.ok(lb, "lb register LB1/G a b");
    rig.ok(lb, "member register LB1/G c");
    rig.ok(lb, "lb set LB1/G a=00q b=00q c=00q");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/0F/0 b 00/07/0 c 00/03/0]");
    rig.ok(lb, "lb set LB1/G a=00 b=00 c=00");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/0D/40 b 00/05/100 c 00/01/100]");
}

#[test]
fn a_fixed_weight_is_confident_and_an_unlisted_member_is_not() {
    let mut settings = settings();
    settings.roster = fixed(&[("a", 0), ("b", 0xFFFF), ("c/udp", 1)]);
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a b c/udp c a/sys");
    let all = "00 LB1/G[a 00/0D/0 b 00/0D/65535 c/udp 00/0D/1 c 00/05/100 a/sys 00/05/100]";
    assert_eq!(rig.ask(lb, "get LB1/"), all);
}

#[test]
fn new_fixed_weights_replace_the_old_ones() {
    let mut settings = settings();
    settings.roster = fixed(&[("a", 1), ("b", 2)]);
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a b c");
    rig.set_fixed(&[("b", 20), ("c", 30), ("d", 40)]);
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/G[a 00/05/100 b 00/0D/20 c 00/0D/30]");
    rig.ok(lb, "lb register LB1/H d");
    assert_eq!(rig.ask(lb, "get LB1/H"), "00 LB1/H[d 00/0D/40]");
    rig.set_fixed(&[]);
    assert_eq!(rig.ask(lb, "get LB1/H"), "00 LB1/H[d 00/05/100]");
}

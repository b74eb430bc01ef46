//! The example of section 6 of PROTOCOL.md, byte for byte, and the two flows of that section.

use super::rig::{NOTHING, Rig, WINDOW, fixed, settings};
use crate::wire;

fn with_fixed(weights: &[(&str, u16)]) -> Rig {
    let mut settings = settings();
    settings.roster = fixed(weights);
    Rig::with(settings)
}

#[test]
fn the_example_reply() {
    // The example's members are 10.10.10.1 and .2, the test's are 10.0.0.1 and .2; the id is the test's second one.
    let mut rig = with_fixed(&[("a", 40), ("b", 20)]);
    let lb = rig.open();
    rig.ok(lb, "lb register LB1/FARM1 a b");
    let expected = "
        2010 000D 01 0000006A 02468ACE
        1035 0009 00 0040 0001
        4011 0006 0002   3011 000E 03 4C4231 05 4641524D31
        3010 0018 06 0050 000000000000000000000000 0A000001 00   3012 0008 00 0D 0028
        3010 0018 06 0050 000000000000000000000000 0A000002 00   3012 0008 00 0D 0014";
    let digits: Vec<u8> =
        expected.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).expect("a hex digit")).collect();
    let expected: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    assert_eq!(rig.reply(lb, &wire::parse("get LB1/FARM1")), expected);
}

#[test]
fn flow_1_pull() {
    let mut rig = with_fixed(&[("a", 20), ("b", 40), ("c", 5)]);
    let lb = rig.open();
    rig.ok(lb, "lb register LB1/GRP1 a b c");
    rig.ok(lb, "state LB1 7F trust");
    assert_eq!(rig.ask(lb, "get LB1/GRP1"), "00 LB1/GRP1[a 00/0D/20 b 00/0D/40 c 00/0D/5]");
    let (a, c) = (rig.open(), rig.open());
    rig.ok(a, "member set LB1/GRP1 a=32");
    rig.ok(c, "member set LB1/GRP1 c=0Aq");
    assert_eq!(rig.ask(lb, "get LB1/GRP1"), "00 LB1/GRP1[a 32/0D/20 b 00/0D/40 c 0A/0F/0]");
    rig.ok(c, "member set LB1/GRP1 c=0A");
    assert_eq!(rig.ask(lb, "get LB1/GRP1"), "00 LB1/GRP1[a 32/0D/20 b 00/0D/40 c 0A/0D/5]");
}

#[test]
fn flow_2_push() {
    let mut rig = with_fixed(&[("a", 20), ("b", 40), ("c", 5)]);
    let lb = rig.open();
    rig.ok(lb, "state LB1 7F push trust");
    let [a, b, c] = [(); 3].map(|()| rig.open());
    rig.ok(a, "member register LB1/GRP1 a");
    rig.ok(b, "member register LB1/GRP1 b");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/GRP1[a 00/09/20 b 00/09/40]"]);
    rig.ok(c, "member register LB1/GRP1 c");
    assert_eq!(rig.after(WINDOW), ["#0 LB1/GRP1[a 00/09/20 b 00/09/40 c 00/09/5]"]);
    rig.ok(lb, "lb deregister LB1/GRP1");
    assert_eq!(rig.after(WINDOW), NOTHING);
    assert_eq!(rig.ask(lb, "get LB1/GRP1"), "42");
}

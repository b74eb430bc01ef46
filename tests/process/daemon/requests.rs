//! The two example flows of the protocol, and requests for each return code, over a socket.

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    harness::{Daemon, LB, MEMBER, TempFile},
    wire,
};

/// A with weight 20, B with 40, C with 5.
fn members_file() -> TempFile {
    let member = |address: &str, weight: u16| {
        format!("[[member]]\naddress = \"{address}\"\nport = 80\nweight = {weight}\nmonitor = \"none\"\n")
    };
    TempFile::new("flow.toml", member("10.0.0.1", 20) + &member("10.0.0.2", 40) + &member("10.0.0.3", 5))
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";

#[test]
fn flow_1_the_lb_pulls() {
    let file = members_file();
    let daemon = Daemon::start(&["--members", file.path(), "--poll-interval", "64s"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "GRP1", &[A, B, C]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    assert_eq!(
        lb.get_weights("LB1", &["GRP1"]),
        "LB1/GRP1 [10.0.0.1:80 00/0D/20, 10.0.0.2:80 00/0D/40, 10.0.0.3:80 00/0D/5]"
    );
    let (mut a, mut c) = (daemon.connect(), daemon.connect());
    assert_eq!(a.set_member(MEMBER, ("LB1", "GRP1", A), 0x32, false), ReturnCode::SUCCESSFUL);
    assert_eq!(c.set_member(MEMBER, ("LB1", "GRP1", C), 0x0A, true), ReturnCode::SUCCESSFUL);
    assert_eq!(
        lb.get_weights("LB1", &["GRP1"]),
        "LB1/GRP1 [10.0.0.1:80 32/0D/20, 10.0.0.2:80 00/0D/40, 10.0.0.3:80 0A/0F/0]"
    );
    assert_eq!(c.set_member(MEMBER, ("LB1", "GRP1", C), 0x0A, false), ReturnCode::SUCCESSFUL);
    let expected = "LB1/GRP1 [10.0.0.1:80 32/0D/20, 10.0.0.2:80 00/0D/40, 10.0.0.3:80 0A/0D/5]";
    assert_eq!(lb.get_weights("LB1", &["GRP1"]), expected);
    assert_eq!(lb.get_weights("LB1", &[""]), expected);
    daemon.stop();
}

#[test]
fn flow_2_the_gwm_pushes() {
    let file = members_file();
    let daemon = Daemon::start(&["--members", file.path(), "--push-window", "5ms"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH | LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    let (mut a, mut b, mut c) = (daemon.connect(), daemon.connect(), daemon.connect());
    assert_eq!(a.register(MEMBER, "LB1", "GRP1", &[A]), ReturnCode::SUCCESSFUL);
    assert_eq!(b.register(MEMBER, "LB1", "GRP1", &[B]), ReturnCode::SUCCESSFUL);
    lb.push_until("LB1/GRP1 [10.0.0.1:80 00/09/20, 10.0.0.2:80 00/09/40]");
    assert_eq!(c.register(MEMBER, "LB1", "GRP1", &[C]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.push(), "LB1/GRP1 [10.0.0.1:80 00/09/20, 10.0.0.2:80 00/09/40, 10.0.0.3:80 00/09/5]");
    assert_eq!(lb.deregister(LB, "LB1", "GRP1", &[]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.get_weights("LB1", &["GRP1"]), format!("{:?} ", ReturnCode::UNKNOWN_GROUP));
    assert_eq!(lb.get_weights("LB1", &[""]), "");
    daemon.stop();
}

/// The example of PROTOCOL.md, byte for byte.
#[test]
fn get_weights_reply_is_the_example_of_the_protocol() {
    let file = TempFile::new(
        "example.toml",
        "[[member]]\naddress = \"10.10.10.1\"\nport = 80\nweight = 40\nmonitor = \"none\"\n\
         [[member]]\naddress = \"10.10.10.2\"\nport = 80\nweight = 20\nmonitor = \"none\"\n",
    );
    let daemon = Daemon::start(&["--members", file.path(), "--poll-interval", "64s"]);
    let mut lb = daemon.connect();
    let members = ["10.10.10.1:80", "10.10.10.2:80"];
    assert_eq!(lb.register(LB, "LB1", "FARM1", &members), ReturnCode::SUCCESSFUL);
    let reply = lb.ask(&wire::get_weights(0x3200_0000, &[("LB1", "FARM1")]));
    let hex: String = reply.iter().map(|byte| format!("{byte:02X}")).collect();
    let expected = "2010000D010000006A32000000 10350009000040 0001 40110006 0002 3011000E034C4231054641524D31 \
                    30100018060050000000000000000000000000 0A0A0A0100 30120008000D0028 \
                    30100018060050000000000000000000000000 0A0A0A0200 30120008000D0014";
    assert_eq!(hex, expected.replace(' ', ""));
}

/// One case for each return code, in an order: each case depends on those before.
#[test]
fn every_return_code_reaches_its_sender() {
    use ReturnCode as Code;
    let daemon = Daemon::start(&[]);
    let (mut lb, mut other, mut member) = (daemon.connect(), daemon.connect(), daemon.connect());
    let long = "x".repeat(65);

    // Before the LB is known.
    assert_eq!(lb.deregister(LB, "LB1", "G", &[]), Code::UNKNOWN_LB_UID);
    assert_eq!(lb.set_member(LB, ("LB1", "G", A), 0, false), Code::UNKNOWN_LB_UID);
    assert_eq!(lb.get_weights("LB1", &[""]), format!("{:?} ", Code::UNKNOWN_LB_UID));
    assert_eq!(member.register(MEMBER, "LB1", "G", &[A]), Code::LB_NOT_CONTACTED);
    assert_eq!(member.deregister(MEMBER, "LB1", "G", &[A]), Code::LB_NOT_CONTACTED);
    assert_eq!(member.set_member(MEMBER, ("LB1", "G", A), 0, false), Code::LB_NOT_CONTACTED);

    // Forms.
    for uid in ["", &long] {
        assert_eq!(lb.register(LB, uid, "G", &[A]), Code::LB_UID_SIZE);
        assert_eq!(lb.deregister(LB, uid, "G", &[A]), Code::LB_UID_SIZE);
        assert_eq!(lb.set_member(LB, (uid, "G", A), 0, false), Code::LB_UID_SIZE);
        assert_eq!(lb.set_lb(uid, LbFlags::NONE), Code::LB_UID_SIZE);
        assert_eq!(lb.get_weights(uid, &["G"]), format!("{:?} ", Code::LB_UID_SIZE));
    }
    assert_eq!(lb.register(LB, "LB1", "", &[A]), Code::GROUP_NAME_SIZE);
    assert_eq!(lb.set_member(LB, ("LB1", "", A), 0, false), Code::GROUP_NAME_SIZE);
    assert_eq!(lb.deregister(LB, "LB1", "", &[A]), Code::NOT_UNDERSTOOD);

    // Rights.
    assert_eq!(lb.register(LB, "LB1", "G", &[A, B]), Code::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LB2", "G", &[A]), Code::NOT_ACCEPTED);
    assert_eq!(lb.get_weights("LB2", &["G"]), format!("{:?} ", Code::NOT_ACCEPTED));
    assert_eq!(lb.set_lb("LB2", LbFlags::NONE), Code::NOT_ACCEPTED);
    assert_eq!(member.register(MEMBER, "LB1", "G", &[C]), Code::NOT_ACCEPTED);
    assert_eq!(lb.register(MEMBER, "LB1", "G", &[C]), Code::NOT_ACCEPTED);
    let two = wire::registration(900, LB, &[("LB3", "G", &[A]), ("LB4", "G", &[A])]);
    assert_eq!(wire::code(&other.ask(&two)), Code::NOT_ACCEPTED);
    assert_eq!(other.get_weights("LB3", &[""]), format!("{:?} ", Code::UNKNOWN_LB_UID));

    // Content: a refused request changes nothing.
    assert_eq!(lb.register(LB, "LB1", "G", &[C, A]), Code::ALREADY_REGISTERED);
    assert_eq!(lb.register(LB, "LB1", "G", &[C, C]), Code::DUPLICATE_MEMBER);
    assert_eq!(lb.deregister(LB, "LB1", "G", &[A, A]), Code::DUPLICATE_MEMBER);
    assert_eq!(lb.deregister(LB, "LB1", "G", &[A, C]), Code::NOT_REGISTERED);
    assert_eq!(lb.deregister(LB, "LB1", "H", &[A]), Code::UNKNOWN_GROUP);
    assert_eq!(lb.set_member(LB, ("LB1", "G", C), 0, false), Code::NOT_REGISTERED);
    assert_eq!(lb.set_member(LB, ("LB1", "H", A), 0, false), Code::UNKNOWN_GROUP);
    assert_eq!(lb.get_weights("LB1", &["H"]), format!("{:?} ", Code::UNKNOWN_GROUP));
    assert_eq!(lb.get_weights("LB1", &["G", "G"]), format!("{:?} ", Code::DUPLICATE_GROUP));
    assert_eq!(lb.get_weights("LB1", &["G", ""]), format!("{:?} ", Code::DUPLICATE_GROUP));
    let state = [(A, 1, true)];
    let twice = wire::member_state(901, LB, &[("LB1", "G", &state), ("LB1", "G", &state)]);
    assert_eq!(wire::code(&lb.ask(&twice)), Code::DUPLICATE_GROUP);
    let twice = wire::member_state(902, LB, &[("LB1", "G", &[(A, 1, true), (A, 2, true)])]);
    assert_eq!(wire::code(&lb.ask(&twice)), Code::DUPLICATE_MEMBER);
    let whole_and_part = wire::deregistration(903, LB, &[("LB1", "G", &[]), ("LB1", "G", &[A])]);
    assert_eq!(wire::code(&lb.ask(&whole_and_part)), Code::DUPLICATE_GROUP);
    assert_eq!(lb.get_weights("LB1", &["G"]), "LB1/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 00/05/100]");

    // A count of 0 groups is valid in every request.
    for request in [
        wire::registration(910, LB, &[]),
        wire::deregistration(911, LB, &[]),
        wire::member_state(912, LB, &[]),
        wire::get_weights(913, &[]),
    ] {
        let reply = other.ask(&request);
        assert_eq!(reply[17], 0, "{}", wire::show(&reply));
    }
    daemon.stop();
}

/// Names, labels and systems come back as the LB sent them, valid UTF-8 or not.
#[test]
fn labels_names_and_systems_come_back_as_they_were() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    let members = ["10.0.0.1 system", "10.0.0.1:80 näme", "10.0.0.1:53/udp", "[2001:db8::1]:80", "::1", "10.0.0.2"];
    assert_eq!(lb.register(LB, "LBé", "grüp", &members), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LBé", "empty", &[]), ReturnCode::SUCCESSFUL);
    assert_eq!(
        lb.get_weights("LBé", &["empty", "grüp"]),
        "LBé/empty [] LBé/grüp [10.0.0.1 system 00/05/100, 10.0.0.1:80 näme 00/05/100, 10.0.0.1:53/udp 00/05/100, \
         [2001:db8::1]:80 00/05/100, ::1 00/05/100, 10.0.0.2 00/05/100]"
    );
    // Another label, the same member: the first label stays.
    assert_eq!(lb.register(LB, "LBé", "grüp", &["10.0.0.1 other"]), ReturnCode::ALREADY_REGISTERED);
    assert_eq!(lb.set_member(LB, ("LBé", "grüp", "10.0.0.1 other"), 7, false), ReturnCode::SUCCESSFUL);
    assert!(lb.get_weights("LBé", &["grüp"]).contains("[10.0.0.1 system 07/05/100, "));

    // 0xFF is not valid UTF-8.
    let mut request = wire::registration(77, LB, &[("LBé", "x?z", &[])]);
    let at = request.windows(3).position(|window| window == b"x?z").expect("it was just written");
    request[at + 1] = 0xFF;
    assert_eq!(wire::code(&lb.ask(&request)), ReturnCode::SUCCESSFUL);
    assert!(lb.get_weights("LBé", &[""]).ends_with("LBé/x\\xFFz []"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    let mut requests = wire::registration(1, LB, &[("LB1", "G", &[A])]);
    let mut expected = vec![wire::code_reply(1, 0x1015, 0x00)];
    for round in 0..200 {
        let id = 10 + round * 4;
        requests.extend(wire::member_state(id, LB, &[("LB1", "G", &[(A, round as u8, false)])]));
        expected.push(wire::code_reply(id, 0x1065, 0x00));
        requests.extend(wire::raw(id + 1, &[0x10, 0x70, 0, 4]));
        expected.push(wire::code_reply(id + 1, 0x1075, 0x10));
        requests.extend(wire::lb_state(id + 2, "", 0, LbFlags::NONE));
        expected.push(wire::code_reply(id + 2, 0x1055, 0x51));
        requests.extend(wire::get_weights(id + 3, &[("LB1", "G")]));
        expected.push(weights_reply(id + 3, round as u8));
    }
    lb.send(&requests);
    for expected in expected {
        assert_eq!(lb.receive(), expected);
    }
}

/// The reply for `LB1/G` with A only, with this opaque state.
fn weights_reply(id: u32, state: u8) -> Vec<u8> {
    let mut body = vec![0x10, 0x35, 0, 9, 0, 0, 60, 0, 1, 0x40, 0x11, 0, 6, 0, 1];
    body.extend(b"\x30\x11\x00\x0A\x03LB1\x01G");
    body.extend([0x30, 0x10, 0, 24, 6, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1, 0]);
    body.extend([0x30, 0x12, 0, 8, state, 0x05, 0, 100]);
    wire::raw(id, &body)
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    let mut requests = wire::registration(1, LB, &[("LB1", "G", &[A, B])]);
    requests.extend(wire::get_weights(2, &[("LB1", "G")]));
    for byte in &requests {
        lb.send(std::slice::from_ref(byte));
    }
    assert_eq!(lb.receive(), wire::code_reply(1, 0x1015, 0x00));
    assert_eq!(wire::show(&lb.receive()), "LB1/G [10.0.0.1:80 00/05/100, 10.0.0.2:80 00/05/100]");
}

/// The log helps to find out why an LB and the GWM disagree.
#[test]
fn at_the_level_trace_every_message_is_a_line_of_the_log() {
    let daemon = Daemon::start(&["--log-level", "trace", "--push-window", "1ms"]);
    let mut lb = daemon.connect();
    let peer = lb.stream().local_addr().expect("a socket has an address").to_string();
    assert_eq!(wire::code(&lb.ask(&wire::lb_state(7, "LB1", 0xFF, LbFlags::PUSH))), ReturnCode::SUCCESSFUL);
    assert_eq!(wire::code(&lb.ask(&wire::registration(8, LB, &[("LB1", "G", &[A, B])]))), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.ask(&wire::raw(9, &[0x10, 0x70, 0, 4])), wire::code_reply(9, 0x1075, 0x10));
    for line in [
        "received: Set LB State Request id 0x00000007: LB \"LB1\", health 0xFF, flags 0x01 (push)",
        "to send: Set LB State Reply id 0x00000007: 0x00 (successful)",
        "received: Registration Request id 0x00000008 from load balancer: 1 group, 2 members",
        "to send: Registration Reply id 0x00000008: 0x00 (successful)",
        "refused: at byte 13: 0x1070 is not a SASP message type",
        "to send: Send Weights id 0x00000000: 1 group, 2 members",
    ] {
        daemon.wait_for_log(&[&peer, line]);
    }
}

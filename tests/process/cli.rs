//! `gwm lb` and `gwm member` as processes: outputs and exit statuses, against a GWM that plays a script.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use gwm::sasp::{ComponentType, Message, ReturnCode, SenderFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::fake_gwm::{FakeGwm, Peer, push, reply, weights_reply};

const REGISTRATION: ComponentType = ComponentType::REGISTRATION_REQUEST;
const DEREGISTRATION: ComponentType = ComponentType::DEREGISTRATION_REQUEST;
const GET_WEIGHTS: ComponentType = ComponentType::GET_WEIGHTS_REQUEST;
const SET_LB_STATE: ComponentType = ComponentType::SET_LB_STATE_REQUEST;
const SET_MEMBER_STATE: ComponentType = ComponentType::SET_MEMBER_STATE_REQUEST;
const OK: ReturnCode = ReturnCode::SUCCESSFUL;

fn gwm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gwm"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    gwm(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs a command to its end and returns its status, stdout and stderr.
#[track_caller]
fn check(arguments: &[&str], status: i32, stdout: &str, stderr: &str) {
    let output = run(arguments);
    assert_eq!(text(&output.stdout), stdout);
    assert_eq!(text(&output.stderr), stderr);
    assert_eq!(output.status.code(), Some(status));
}

/// A new file in the tests' directory.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

/// Reads a request and shows its whole content, decoded by the library.
fn shown(peer: &mut Peer) -> (u32, String) {
    let request = peer.read();
    let (header, message) = Message::decode(&request).unwrap();
    (header.id, format!("{message:?}"))
}

/// Checks how the library shows a request, then answers the request.
#[track_caller]
fn answer_shown(peer: &mut Peer, kind: ComponentType, expected: &str) {
    let (id, message) = shown(peer);
    assert!(message.ends_with(expected), "{message} does not end with {expected}");
    peer.write(&reply(id, kind, OK));
}

/// The daemon's TLS files belong to the daemon: a client command in the same environment speaks plain SASP.
#[test]
fn an_environment_for_the_daemon_does_not_change_the_clients() {
    let peer = FakeGwm::once(|mut peer| peer.answer(DEREGISTRATION, OK));
    let output = gwm(&["lb", "--uid=LB1", "--take-over", "deregister", "--group=web", "--gwm", &peer.address])
        .envs([("GWM_TLS_LISTEN", "127.0.0.1:0"), ("GWM_TLS_CERT", "/nonexistent"), ("GWM_TLS_KEY", "/nonexistent")])
        .envs([("GWM_TLS_CLIENT_CA", "/nonexistent"), ("GWM_TLS_MIN_VERSION", "1.3")])
        .output()
        .unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    peer.end();
}

#[test]
fn what_is_done_is_told_by_name() {
    let one_shots: [(&[&str], ComponentType, &str); 9] = [
        (
            &[
                "lb",
                "--uid=LB1",
                "--take-over",
                "register",
                "--group=web=10.0.0.1:80,[2001:db8::1]:8080/udp,10.0.0.9",
                "--group=e",
            ],
            REGISTRATION,
            r#"groups: [LB1/web [10.0.0.1:80 "", [2001:db8::1]:8080/udp "", 10.0.0.9 ""], LB1/e []] })"#,
        ),
        (
            &["lb", "deregister", "--uid=LB1", "--take-over", "--all", "--reason=0x81"],
            DEREGISTRATION,
            "reason: Reason(0x81 unknown), groups: [LB1/ []] })",
        ),
        (&["lb", "deregister", "--uid=LB1", "--take-over", "--group=web"], DEREGISTRATION, "groups: [LB1/web []] })"),
        (
            &["lb", "state", "--uid=LB1", "--take-over", "--push", "--trust", "--no-change", "--health=0x40"],
            SET_LB_STATE,
            "health: Health(64), flags: LbFlags(0x07 push trust no-change-no-send) })",
        ),
        (
            &["lb", "quiesce", "--uid=LB1", "--take-over", "--group=web=10.0.0.1:80", "--opaque-state=7"],
            SET_MEMBER_STATE,
            r#"{ member: 10.0.0.1:80 "", state: 7, flags: MemberFlags(0x01 quiesce) }]] })"#,
        ),
        (
            &["lb", "resume", "--uid=LB1", "--take-over", "--group=web=10.0.0.1:80"],
            SET_MEMBER_STATE,
            r#"{ member: 10.0.0.1:80 "", state: 0, flags: MemberFlags(0x00) }]] })"#,
        ),
        (
            &["member", "register", "--lb=LB1", "--group=web", "--member=10.0.0.1:80/tcp", "--label=one"],
            REGISTRATION,
            r#"{ flags: SenderFlags(0x00), groups: [LB1/web [10.0.0.1:80 "one"]] })"#,
        ),
        (
            &["member", "deregister", "--lb=LB1", "--group=web", "--member=10.0.0.1:80"],
            DEREGISTRATION,
            r#"reason: Reason(0x00 none given), groups: [LB1/web [10.0.0.1:80 ""]] })"#,
        ),
        (
            &["member", "state", "0x2A", "--lb=LB1", "--group=web", "--member=10.0.0.1:80", "--quiesce"],
            SET_MEMBER_STATE,
            r#"{ member: 10.0.0.1:80 "", state: 42, flags: MemberFlags(0x01 quiesce) }]] })"#,
        ),
    ];
    for (arguments, kind, expected) in one_shots {
        let peer = FakeGwm::once(move |mut peer| answer_shown(&mut peer, kind, expected));
        let arguments = [arguments, &["--gwm", &peer.address]].concat();
        check(&arguments, 0, &format!("{kind}: successful (0x00)\n"), "");
        peer.end();
    }
}

#[test]
fn who_sends_is_told_apart() {
    for (command, flags) in [("lb", SenderFlags::LOAD_BALANCER), ("member", SenderFlags::NONE)] {
        let peer = FakeGwm::once(move |mut peer| {
            let request = peer.read();
            let Ok((header, Message::RegistrationRequest(request))) = Message::decode(&request) else { panic!() };
            assert_eq!(request.flags, flags);
            peer.write(&reply(header.id, REGISTRATION, OK));
        });
        let arguments: &[&str] = match command {
            "lb" => &["--uid=LB1", "--take-over", "--group=web=10.0.0.1:80"],
            _ => &["--lb=LB1", "--group=web", "--member=10.0.0.1:80"],
        };
        let output = run(&[&[command, "register", "--gwm", &peer.address], arguments].concat());
        assert!(output.status.success());
        peer.end();
    }
}

#[test]
fn a_refusal_is_told_by_name_with_status_1() {
    let peer = FakeGwm::once(|mut peer| peer.answer(DEREGISTRATION, ReturnCode::UNKNOWN_GROUP));
    let stderr =
        format!("error: GWM {}: refused the Deregistration Request: unknown group name (0x42)\n", peer.address);
    check(&["lb", "deregister", "--gwm", &peer.address, "--uid=LB1", "--take-over", "--group=web"], 1, "", &stderr);
    peer.end();
    let peer = FakeGwm::once(|mut peer| peer.answer(SET_MEMBER_STATE, ReturnCode::LB_NOT_CONTACTED));
    let stderr = format!(
        "error: GWM {}: refused the Set Member State Request: LB has not contacted this GWM (0x61); look at --lb\n",
        peer.address
    );
    let who = ["--lb=LB1", "--group=web", "--member=10.0.0.1"];
    check(&[&["member", "quiesce", "--gwm", &peer.address], &who[..]].concat(), 1, "", &stderr);
    peer.end();
}

#[test]
fn a_gwm_that_is_not_there_or_leaves_is_told_with_status_1() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = run(&["lb", "weights", "--uid=LB1", "--take-over", "--gwm", &gone]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with(&format!("error: GWM {gone}: can not connect: ")), "{output:?}");
    let peer = FakeGwm::once(|mut peer| drop(peer.read()));
    let stderr = format!("error: GWM {}: closed the connection\n", peer.address);
    check(&["lb", "weights", "--uid=LB1", "--take-over", "--gwm", &peer.address], 1, "", &stderr);
    peer.end();
}

#[test]
fn wrong_usage_has_status_2_and_says_why() {
    let bad = file("bad.toml", "[[group]]\nname = \"web\"\ncolour = 1\n");
    let bad = bad.to_str().unwrap();
    let cases: [(&[&str], &str); 15] = [
        (&["lb", "weights"], "the load balancer's UID is missing"),
        (
            &["member", "deregister", "--lb=L", "--group=g", "--member=::1", "--label=x"],
            "unexpected argument '--label'",
        ),
        (&["lb", "--uid=", "weights"], "an LB UID has 1 to 64"),
        (&["lb", "--uid=LB1", "--take-over", "register"], "no group is given"),
        (&["lb", "--uid=LB1", "--take-over", "register", "--group=web=10.0.0"], "`10.0.0` is not a member"),
        (&["lb", "--uid=LB1", "--take-over", "register", "--group=web", "--group=web"], "group web is given twice"),
        (&["lb", "--uid=LB1", "--take-over", "register", "--groups", bad], ":3: unknown field `colour`"),
        (&["lb", "--uid=LB1", "--take-over", "quiesce", "--group=web"], "group web names no member"),
        (&["lb", "--uid=LB1", "--take-over", "deregister"], "use --group, --groups or --all"),
        (&["lb", "--uid=LB1", "--take-over", "deregister", "--all", "--group=web"], "--all goes without"),
        (&["lb", "--uid=LB1", "--take-over", "state", "--health=128"], "not between 0 and 127"),
        (&["lb", "--uid=LB1", "watch", "--retry=10ms"], "must be between 1s and 1h"),
        (&["lb", "--uid=LB1", "--take-over", "weights", "--gwm=1:2:3"], "is not a port"),
        (&["member", "register", "--lb=LB1", "--group=web"], "no member is named"),
        (&["member", "register", "--group=web", "--member=10.0.0.1"], "whose group is it?"),
    ];
    for (arguments, why) in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(why), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn flags_fall_back_to_the_environment() {
    let peer = FakeGwm::once(|mut peer| {
        answer_shown(&mut peer, SET_LB_STATE, "health: Health(3), flags: LbFlags(0x02 trust) })");
    });
    let output = gwm(&["lb", "state"])
        .envs([("GWM_GWM", &peer.address[..]), ("GWM_UID", "LB1"), ("GWM_TAKE_OVER", "1")])
        .envs([("GWM_TRUST", "1"), ("GWM_HEALTH", "3")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    peer.end();
}

/// All commands read the variable alike: 1 is the flag; an empty value or a word for no is no flag.
#[test]
fn switches_fall_back_to_the_environment() {
    let reply = file("reply.hex", "2010000D010000001200000007101500 0540");
    for (value, on) in [("1", true), ("true", true), ("yes", true), ("0", false), ("no", false), ("", false)] {
        let output = gwm(&["decode", reply.to_str().unwrap()]).env("GWM_JSON", value).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(text(&output.stdout).starts_with('{'), on, "GWM_JSON={value}: {output:?}");
        let output = gwm(&["serve", "--check", "--listen=0.0.0.0:0"]).env("GWM_REQUIRE_TLS", value).output().unwrap();
        assert_eq!(output.status.code(), Some(if on { 2 } else { 0 }), "GWM_REQUIRE_TLS={value}: {output:?}");
        let output = gwm(&["serve", "--listen=192.0.2.1:1"]).env("GWM_CHECK", value).output().unwrap();
        assert_eq!(output.status.code(), Some(if on { 0 } else { 1 }), "GWM_CHECK={value}: {output:?}");
        let output = gwm(&["serve", "--check"]).env("GWM_LB_IDENTITY_COMMON_NAME", value).output().unwrap();
        assert_eq!(output.status.code(), Some(if on { 2 } else { 0 }), "GWM_LB_IDENTITY_COMMON_NAME={value}");
    }
}

#[test]
fn a_wrong_value_from_the_environment_is_told_as_that() {
    let cases: [(&[&str], &str, bool); 5] = [
        (&["serve", "--check"], "GWM_SHARDS", true),
        (&["serve", "--check", "--shards=1"], "GWM_SPIN", true),
        (&["serve", "--check", "--shards=y"], "GWM_SHARDS", false),
        (&["serve", "--check", "--shards", "y"], "GWM_SHARDS", false),
        (&["member", "register", "--lb=LB1", "--member=10.0.0.1"], "GWM_MEMBER_GROUP", true),
    ];
    for (arguments, variable, told) in cases {
        let long = "x".repeat(256); // too long for a group's name as well
        let output = gwm(arguments).env(variable, &long).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let note = format!("note: the value is that of {variable} in the environment\n");
        assert_eq!(text(&output.stderr).ends_with(&note), told, "{}", text(&output.stderr));
    }
}

#[test]
fn the_long_version_says_what_was_built() {
    let number = concat!("gwm ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(text(&run(&["-V"]).stdout), number);
    let long = run(&["--version"]).stdout;
    let lines = text(&long).strip_prefix(number).expect("the number comes first");
    let names: Vec<_> = lines.lines().map(|line| line.split_once(": ").expect("a name and a value").0).collect();
    assert_eq!(names, ["commit", "features", "target"]);
    assert!(lines.contains("features: admin daemon dns"), "{lines}");
}

#[test]
fn output_that_can_not_be_written_is_a_failure_and_no_panic() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let reply = file("full.hex", "2010000D010000001200000007101500 0540");
    let reply = reply.to_str().unwrap();
    let said = "error: can not write the output: No space left on device (os error 28)\n";
    let outputs: [&[&str]; 5] =
        [&["--help"], &["--version"], &["serve", "--check"], &["decode", reply], &["decode", "--json", reply]];
    for arguments in outputs {
        let output = gwm(arguments).stdout(full()).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), said), "{arguments:?}");
        // Nobody reads the output: not a failure.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = gwm(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{arguments:?}");
    }
    let errors: [(&[&str], i32); 7] = [
        (&["--no-such-flag"], 2),
        (&["lb", "weights"], 2),
        (&["lb", "--uid=LB1", "--take-over", "register"], 2),
        (&["member", "register", "--lb=LB1", "--file=/nonexistent"], 2),
        (&["serve", "--check", "--cpus=60000"], 2),
        (&["serve", "--check", "--members=/nonexistent"], 1),
        (&["decode", "/nonexistent"], 1),
    ];
    for (arguments, status) in errors {
        let output = gwm(arguments).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
    }
}

#[test]
fn every_flag_of_the_clients_has_a_variable_and_help() {
    let commands: [&[&str]; 18] = [
        &["lb"],
        &["lb", "watch"],
        &["lb", "weights"],
        &["lb", "register"],
        &["lb", "deregister"],
        &["lb", "state"],
        &["lb", "quiesce"],
        &["lb", "resume"],
        &["member", "register"],
        &["member", "deregister"],
        &["member", "quiesce"],
        &["member", "resume"],
        &["member", "state"],
        &["agent"],
        &["agent", "status"],
        &["agent", "quiesce"],
        &["agent", "resume"],
        &["demo"],
    ];
    for command in commands {
        let output = run(&[command, &["--help"]].concat());
        assert!(output.status.success());
        let help = text(&output.stdout);
        let flags = help.lines().filter(|line| line.trim_start().starts_with("--")).count();
        let unwrapped = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let variables = unwrapped.matches("[env: GWM_").count();
        assert!(flags > 0 && flags == variables, "{command:?}: {flags} flags, {variables} variables\n{help}");
    }
}

#[test]
fn a_file_of_members_goes_in_one_message() {
    let path = file(
        "members.toml",
        "[[group]]\nname = \"web\"\n[[group.member]]\naddress = \"10.0.0.1\"\nport = 80\nlabel = \"one\"\n\n\
         [[group]]\nlb = \"LB2\"\nname = \"dns\"\n[[group.member]]\naddress = \"10.0.0.2\"\nport = 53\nprotocol = \"udp\"\n",
    );
    let peer = FakeGwm::once(|mut peer| {
        let expected = r#"groups: [LB1/web [10.0.0.1:80 "one"], LB2/dns [10.0.0.2:53/udp ""]] })"#;
        answer_shown(&mut peer, REGISTRATION, expected);
        peer.until_closed();
    });
    let arguments = ["member", "register", "--lb=LB1", "--gwm", &peer.address, "--file", path.to_str().unwrap()];
    check(&arguments, 0, "Registration Request: successful (0x00)\n", "");
    peer.end();
}

#[test]
fn weights_are_a_table_or_json() {
    let script = |mut peer: Peer| {
        let (id, message) = shown(&mut peer);
        assert!(message.ends_with("groups: [LB1/web, LB1/dns] })"), "{message}");
        peer.write(&weights_reply(id, 64, &[("web", &[(1, 0x0D, 30), (2, 0x0D, 10)]), ("dns", &[])]));
    };
    let table = "\
GROUP  MEMBER        LABEL  WEIGHT   SHARE  CONTACT  CONFIDENT  QUIESCED  STATE
web    10.0.0.1:80              30  75.0 %  yes      yes        no        0x00
web    10.0.0.2:80              10  25.0 %  yes      yes        no        0x00
dns    (no members)
";
    let peer = FakeGwm::once(script);
    check(&["lb", "--uid=LB1", "--take-over", "--gwm", &peer.address, "weights", "web", "dns"], 0, table, "");
    peer.end();
    let peer = FakeGwm::once(script);
    let output = run(&["lb", "--uid=LB1", "--take-over", "--gwm", &peer.address, "weights", "web", "dns", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["interval_seconds"], 64);
    assert_eq!(json["groups"][0]["members"][0]["share_percent"], 75.0);
    assert_eq!(json["groups"][1], serde_json::json!({"group": "dns", "members": []}));
    peer.end();
}

/// A running `gwm lb watch`; killed if a test ends early.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(address: &str, arguments: &[&str]) -> Watch {
        let mut command = gwm(&[&["lb", "watch", "--uid=LB1", "--retry=1s", "--gwm", address], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Watch { child, lines }
    }

    /// The next line, which must be about this event.
    #[track_caller]
    fn next(&mut self, event: &str) -> Value {
        let line: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&line["event"], &line["lb"]), (&event.into(), &"LB1".into()), "{line}");
        line
    }

    /// The weights of the next line, as `group: member=weight …`.
    #[track_caller]
    fn weights(&mut self, source: &str) -> String {
        let line = self.next("weights");
        assert_eq!(line["source"], source);
        let member = |member: &Value| format!(" {}={}", member["member"].as_str().unwrap(), member["weight"]);
        let group = |group: &Value| {
            let members: String = group["members"].as_array().unwrap().iter().map(member).collect();
            format!("{}:{members}", group["group"].as_str().unwrap())
        };
        line["groups"].as_array().unwrap().iter().map(group).collect::<Vec<_>>().join("; ")
    }

    /// Waits until the command ends on its own.
    fn status(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first three requests of a session: state, registration, all weights.
fn open(peer: &mut Peer, weights: crate::fake_gwm::Listed<'_>) {
    peer.answer(SET_LB_STATE, OK);
    peer.answer(REGISTRATION, OK);
    let id = peer.expect(GET_WEIGHTS);
    peer.write(&weights_reply(id, 64, weights));
}

#[test]
fn watch_follows_pushes_and_starts_anew_on_a_new_connection() {
    let peer = FakeGwm::start(|listener| {
        let mut peer = Peer::accept(listener);
        let (id, state) = shown(&mut peer);
        assert!(state.ends_with("health: Health(127), flags: LbFlags(0x05 push no-change-no-send) })"), "{state}");
        peer.write(&reply(id, SET_LB_STATE, OK));
        answer_shown(&mut peer, REGISTRATION, r#"groups: [LB1/web [10.0.0.1:80 "", 10.0.0.2:80 ""]] })"#);
        let id = peer.expect(GET_WEIGHTS);
        // A push that comes before the reply is older than the reply.
        peer.write(&push(&[("web", &[(1, 0x0D, 11)])]));
        peer.write(&weights_reply(id, 64, &[("web", &[(1, 0x0D, 10), (2, 0x0D, 20)])]));
        peer.write(&push(&[("web", &[(2, 0x0D, 21)])]));
        drop(peer);
        // The new session does not know the weights of the old session. The GWM does, and still has one member.
        let mut peer = Peer::accept(listener);
        peer.answer(SET_LB_STATE, OK);
        peer.answer(REGISTRATION, ReturnCode::ALREADY_REGISTERED);
        let id = peer.expect(GET_WEIGHTS);
        peer.write(&weights_reply(id, 64, &[("web", &[(2, 0x0D, 22), (7, 0x09, 1)])]));
        answer_shown(&mut peer, REGISTRATION, r#"groups: [LB1/web [10.0.0.1:80 ""]] })"#);
        let id = peer.expect(GET_WEIGHTS);
        peer.write(&weights_reply(id, 64, &[("web", &[(1, 0x05, 12)])]));
        peer.until_closed();
    });
    let mut watch = Watch::start(&peer.address, &["--take-over", "--no-change", "--group=web=10.0.0.1:80,10.0.0.2:80"]);
    watch.next("connected");
    assert_eq!(watch.weights("get-weights"), "web: 10.0.0.1:80=10 10.0.0.2:80=20");
    assert_eq!(watch.weights("push"), "web: 10.0.0.1:80=10 10.0.0.2:80=21");
    let lost = watch.next("lost");
    assert_eq!(lost["error"], format!("GWM {}: closed the connection", peer.address));
    assert!((1.0..=1.1).contains(&lost["retry_seconds"].as_f64().unwrap()), "{lost}");
    watch.next("connected");
    assert_eq!(watch.weights("get-weights"), "web: 10.0.0.2:80=22 10.0.0.7:80=1 10.0.0.1:80=12");
    kill_process(Pid::from_child(&watch.child), Signal::INT).unwrap();
    assert_eq!(watch.status(), Some(0));
    peer.end();
}

#[test]
fn watch_without_no_change_takes_a_push_as_the_whole_group() {
    let peer = FakeGwm::once(|mut peer| {
        open(&mut peer, &[("web", &[(1, 0x0D, 10), (2, 0x0D, 20)]), ("dns", &[(3, 0x0D, 30)])]);
        peer.write(&push(&[("web", &[(2, 0x0D, 21)])]));
        peer.until_closed();
    });
    let mut watch = Watch::start(&peer.address, &["--updates=2", "--group=web", "--group=dns"]);
    watch.next("connected");
    assert_eq!(watch.weights("get-weights"), "web: 10.0.0.1:80=10 10.0.0.2:80=20; dns: 10.0.0.3:80=30");
    assert_eq!(watch.weights("push"), "web: 10.0.0.2:80=21; dns: 10.0.0.3:80=30");
    assert_eq!(watch.status(), Some(0));
    peer.end();
}

#[test]
fn watch_polls_at_the_interval_of_the_reply() {
    let peer = FakeGwm::once(|mut peer| {
        let (id, state) = shown(&mut peer);
        assert!(state.ends_with("flags: LbFlags(0x00) })"), "{state}");
        peer.write(&reply(id, SET_LB_STATE, OK));
        for weight in [10, 11] {
            let id = peer.expect(GET_WEIGHTS);
            peer.write(&weights_reply(id, 1, &[("web", &[(1, 0x0D, weight)])]));
        }
        peer.until_closed();
    });
    let mut watch = Watch::start(&peer.address, &["--poll", "--updates=2"]);
    watch.next("connected");
    assert_eq!(watch.weights("get-weights"), "web: 10.0.0.1:80=10");
    assert_eq!(watch.weights("get-weights"), "web: 10.0.0.1:80=11");
    assert_eq!(watch.status(), Some(0));
    peer.end();
}

#[test]
fn watch_ends_when_it_is_refused() {
    let peer = FakeGwm::once(|mut peer| {
        peer.answer(SET_LB_STATE, OK);
        peer.answer(REGISTRATION, ReturnCode::INVALID_GROUP);
        peer.until_closed();
    });
    let stderr = format!("error: GWM {}: refused the Registration Request: invalid group (0x45)\n", peer.address);
    check(&["lb", "watch", "--uid=LB1", "--gwm", &peer.address, "--group=web"], 1, "", &stderr);
    peer.end();
}

#[test]
fn watch_ends_quietly_when_nobody_reads_on() {
    let peer = FakeGwm::once(|mut peer| {
        open(&mut peer, &[]);
        // The reader is gone before the client closes; until then the command always has lines to print.
        while std::io::Write::write_all(&mut peer.0, &push(&[("web", &[(1, 0x0D, 1)])])).is_ok() {}
    });
    let mut command = gwm(&["lb", "watch", "--uid=LB1", "--gwm", &peer.address, "--group=web"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), &stderr[..]), (Some(0), ""));
    peer.end();
}

#[test]
fn watch_ends_at_a_signal_though_nobody_reads_what_it_writes() {
    for signal in [Signal::TERM, Signal::INT] {
        let peer = FakeGwm::once(|mut peer| {
            // One line of over 150 KB: more than the pipe and the reader below hold.
            let members: Vec<_> = (0..250).map(|host| (host, 0x0D, 1)).collect();
            open(&mut peer, &["a", "b", "c", "d"].map(|group| (group, &members[..])));
            peer.until_closed();
        });
        let mut command = gwm(&["lb", "watch", "--uid=LB1", "--gwm", &peer.address, "--group=web"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        out.read_exact(&mut [0]).unwrap(); // the command now writes the line with the weights, and can not finish
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).unwrap();
        let (ended, end) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if end.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Timeout) {
                kill_process(pid, Signal::KILL).unwrap();
            }
        });
        let status = child.wait().unwrap();
        drop(ended);
        watchdog.join().unwrap();
        assert_eq!(status.code(), Some(0), "{signal:?}");
        peer.end();
    }
}

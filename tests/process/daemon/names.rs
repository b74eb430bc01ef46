//! UIDs, names and labels are bytes, from end to end: files, flags, the wire, outputs, and back. And an address that is
//! written in two ways.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use gwm::sasp::{GroupData, LbFlags, ReturnCode, Writer, writer};
use rustix::process::Signal;
use rustls::version::TLS13;
use serde_json::Value;

use crate::{
    authority::Subject,
    harness::{Daemon, LB, MEMBER, Peer, TempFile, command, finish, run, until},
    site::{Site, client, from},
    wire,
};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;
const REFUSED: ReturnCode = ReturnCode::NOT_ACCEPTED;

/// An IBM load balancer's UID.
const IBM: &[u8] = b"c\x7F\xFF\x17\\";

/// As a person writes it.
const WRITTEN: &str = r"c\x7F\xFF\x17\\";

/// As `gwm` shows it.
const SHOWN: &str = r"c\u{7f}\xFF\u{17}\\";

/// Runs `gwm` with success; gives what it printed.
#[track_caller]
fn done(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the output is text")
}

fn set_lb(peer: &mut Peer, uid: &[u8]) -> ReturnCode {
    let mut request = Vec::new();
    let health = gwm::sasp::Health::BEST;
    writer::set_lb_state_request(&mut request, peer.next_id(), uid, health, LbFlags::NONE).expect("a UID fits");
    wire::code(&peer.ask(&request))
}

fn get_weights(peer: &mut Peer, lb_uid: &[u8], name: &[u8]) -> String {
    let mut request = Vec::new();
    let mut writer = Writer::get_weights_request(&mut request, peer.next_id());
    writer.name(GroupData { lb_uid, name });
    writer.finish().expect("a request fits");
    wire::show(&peer.ask(&request))
}

#[test]
fn an_ibm_load_balancer_is_named_in_files_and_flags_and_back() {
    let file = TempFile::new("ibm.toml", format!("[[lb]]\nuid = '{WRITTEN}'\naddresses = [\"127.0.0.1\"]\n"));
    let daemon = Daemon::start(&["--lb-identity", "source-ip", "--access", file.path()]);
    let address = daemon.address().to_string();
    let lb = |uid: &str, command: &[&str]| {
        done(&[&["lb", "--take-over", "--gwm", &address, "--uid", uid], command].concat())
    };
    lb(WRITTEN, &["register", "--group", r"g\xFE\x3D'=10.0.0.1:80"]);
    lb(WRITTEN, &["state", "--trust"]);
    let group = r"g\xFE=\x27";
    done(
        &[
            &["member", "--gwm", &address, "register", "--lb", SHOWN, "--group", group][..],
            &["--member", "10.0.0.2:80", "--label", r"l\xFD \\"],
        ]
        .concat(),
    );

    let mut peer = daemon.connect();
    let all = [SHOWN, r"/g\xFE\x3D\x27 [10.0.0.1:80 00/05/100, 10.0.0.2:80 l\xFD \\ 00/01/100]"].concat();
    assert_eq!(get_weights(&mut peer, IBM, b"g\xFE='"), all);
    drop(peer);

    // From JSON, and from the table.
    let json: Value = serde_json::from_str(&lb(SHOWN, &["weights", "--json"])).expect("one object");
    let (uid, group) = (json["lb"].as_str().expect("a UID"), json["groups"][0]["group"].as_str().expect("a name"));
    assert_eq!((uid, group), (SHOWN, r"g\xFE\x3D\x27"));
    let label = json["groups"][0]["members"][1]["label"].as_str().expect("a label");
    let table = lb(uid, &["weights", group]);
    let row = table.lines().nth(2).expect("a row for each member");
    assert!(row.starts_with(&format!("{group}  10.0.0.2:80  {label}  ")), "{table}");

    // In a file of groups.
    let content = format!(
        "[[group]]\nlb = '{uid}'\nname = '{group}'\n[[group.member]]\naddress = \"10.0.0.3\"\nport = 80\nlabel = '{label}'\n"
    );
    let groups = TempFile::new("ibm-groups.toml", content);
    done(&["member", "--gwm", &address, "register", "--file", groups.path()]);
    lb(uid, &["quiesce", "--group", &format!("{group}=10.0.0.1:80,10.0.0.3:80")]);
    let mut peer = daemon.connect();
    let rows = r"/g\xFE\x3D\x27 [10.0.0.1:80 00/07/0, 10.0.0.2:80 l\xFD \\ 00/01/100, 10.0.0.3:80 l\xFD \\ 00/03/0]";
    assert_eq!(get_weights(&mut peer, IBM, b""), [SHOWN, rows].concat());
    drop(peer);
    lb(uid, &["deregister", "--group", group]);
    let watched = lb(uid, &["watch", "--json", "--updates", "1"]);
    let events: Vec<Value> = watched.lines().map(|line| serde_json::from_str(line).expect("one object")).collect();
    assert!(events.iter().all(|event| event["lb"] == SHOWN), "{watched}");
    assert!(events[1]["groups"].as_array().expect("a list").is_empty(), "{watched}");
    daemon.stop();
}

#[test]
fn a_backslash_that_begins_no_escape_is_refused() {
    for arguments in [
        &["lb", "weights", "--uid", r"a\z"][..],
        &["lb", "weights", "--uid", "LB1", r"a\z"],
        &["lb", "register", "--uid", "LB1", "--group", r"a\z=10.0.0.1"],
        &["member", "register", "--lb", r"a\z", "--group", "G", "--member", "10.0.0.1"],
        &["member", "register", "--lb", "LB1", "--group", r"a\z", "--member", "10.0.0.1"],
        &["member", "register", "--lb", "LB1", "--group", "G", "--member", "10.0.0.1", "--label", r"a\z"],
    ] {
        let output = run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        let told = r"`\z` does not begin with an escape such as \\ (a backslash) or \xFF (a byte)";
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
}

#[test]
fn bytes_that_are_not_text_are_refused_with_the_remedy() {
    use std::os::unix::ffi::OsStrExt;
    for flags in [&["lb", "weights", "--uid"][..], &["member", "register", "--lb"]] {
        let mut command = command(flags);
        command.arg(std::ffi::OsStr::from_bytes(IBM));
        let output = finish(command.spawn().expect("the binary starts"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(r"a byte that is not UTF-8 text is written \xFF"), "{text}");
    }
}

/// The text after `key=` in the log, up to the next field.
fn field(daemon: &Daemon, parts: &[&str], key: &str) -> String {
    daemon.wait_for_log(parts);
    let log = daemon.log();
    let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part))).expect("it was waited for");
    let rest = line.split_once(&format!("{key}=")).unwrap_or_else(|| panic!("no {key} in {line}")).1;
    let end = rest.match_indices('=').next().and_then(|(at, _)| rest[..at].rfind(' ')).unwrap_or(rest.len());
    rest[..end].to_owned()
}

#[test]
fn names_in_the_log_can_be_pasted_into_the_access_file() {
    let site = Site::new();
    let file = TempFile::new("pasted.toml", "");
    let identity = ["--lb-identity", "certificate", "--lb-identity-common-name", "--access", file.path()];
    let daemon = site.start(&identity);
    let connect = |subject: Subject| {
        let identity = site.authority.issue(&subject);
        let stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
        Peer::secure(stream, &client(&site.authority, Some(&identity), &[&TLS13])).expect("the daemon shakes hands")
    };
    // A URI of a certificate keeps its own form.
    assert_eq!(set_lb(&mut connect(Subject::client().uri("sasp:lb:c%7f%FF%17%5C")), IBM), OK);

    let subject = || Subject::client().common_name("SITE\\it's \"lb\" = 1");
    assert_eq!(set_lb(&mut connect(subject()), IBM), REFUSED);
    let parts = ["WARN", "--lb-identity", "certificate="];
    let (uid, name) = (field(&daemon, &parts, "load_balancer"), field(&daemon, &parts, "certificate"));
    assert_eq!((&uid[..], &name[..]), (SHOWN, r#"SITE\\it\x27s \"lb\" \x3D 1"#));
    file.write(format!("[[lb]]\nuid = '{uid}'\ncertificates = ['{name}']\n"));
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["SIGHUP", "is in force", file.path()]);
    let mut peer = connect(subject());
    // The new rules come a moment after their log line.
    until("the pasted name counts", || set_lb(&mut peer, IBM) == OK);
    assert_eq!(set_lb(&mut connect(Subject::client().uri("sasp:lb:c%7f%FF%17%5C")), IBM), REFUSED);
    daemon.stop();
}

#[test]
fn an_address_that_is_written_in_two_ways_is_one_address() {
    let members = TempFile::new(
        "spellings.toml",
        "[[member]]\naddress = \"::ffff:10.0.0.1\"\nport = 80\nweight = 7\nmonitor = \"none\"\n\n\
         [[member]]\ncidr = \"::ffff:10.1.0.0/112\"\nweight = 8\nmonitor = \"none\"\n\n\
         [[member]]\ncidr = \"::10.2.0.0/112\"\nweight = 9\nmonitor = \"none\"\n",
    );
    let access = TempFile::new(
        "spellings-access.toml",
        "[[lb]]\nuid = \"LB1\"\naddresses = [\"::ffff:127.0.0.2\"]\n\n\
         [[member]]\nsources = [\"::127.0.0.3\"]\naddresses = [\"::ffff:10.0.0.0/104\"]\n",
    );
    let identities = ["--lb-identity", "source-ip", "--member-identity", "source-ip", "--access", access.path()];
    let daemon = Daemon::start(&[&identities[..], &["--members", members.path()]].concat());
    let peer = |last: u8| Peer::from(from(Ipv4Addr::new(127, 0, 0, last), daemon.address()));
    let mut lb = peer(2);
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    let list = ["10.0.0.1:80", "[::ffff:10.0.0.1]:80", "10.1.0.1:80", "[::ffff:10.1.0.1]:80", "[::ffff:10.2.0.1]:80"];
    assert_eq!(lb.register(LB, "LB1", "G", &list), OK);
    // On the wire they are what they are.
    let shown = "10.0.0.1:80 00/0D/7, [::ffff:10.0.0.1]:80 00/0D/7, 10.1.0.1:80 00/0D/8, [::ffff:10.1.0.1]:80 00/0D/8, \
                 [::ffff:10.2.0.1]:80 00/0D/9";
    assert_eq!(lb.get_weights("LB1", &["G"]), format!("LB1/G [{shown}]"));

    let mut member = peer(3);
    for own in ["127.0.0.3:80", "[::ffff:127.0.0.3]:80", "10.9.0.1:80", "[::ffff:10.9.0.1]:80"] {
        assert_eq!(member.register(MEMBER, "LB1", "H", &[own]), OK, "{own}");
    }
    assert_eq!(member.register(MEMBER, "LB1", "H", &["[::ffff:11.0.0.1]:80"]), REFUSED);
    let mut other = peer(4);
    assert_eq!(other.register(MEMBER, "LB1", "H", &["[::ffff:127.0.0.4]:80"]), OK, "its own address");
    assert_eq!(other.register(MEMBER, "LB1", "H", &["[::ffff:127.0.0.3]:81"]), REFUSED);
    daemon.stop();
}

#[test]
fn a_member_is_checked_at_its_address_however_it_is_written() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("it is bound").port();
    let fast = ["--probe", "tcp", "--probe-interval", "20ms", "--probe-timeout", "5s", "--push-window", "1ms"];
    let daemon = Daemon::start(&[&fast[..], &["--slow-start", "0s", "--panic-percent", "100"]].concat());
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    let [up, down] = [port, 1].map(|port| format!("[::ffff:127.0.0.1]:{port}"));
    assert_eq!(lb.register(LB, "LB1", "G", &[&up, &down]), OK);
    lb.push_until(&format!("LB1/G [{up} 00/0D/100, {down} 00/0C/0]"));
    daemon.stop();
}

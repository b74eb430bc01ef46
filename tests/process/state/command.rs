//! `gwm state`: it looks at a state and copies it, and changes nothing that it looks at.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, chown},
    process::{Command, Output, Stdio},
};

use gwm::sasp::{LbFlags, ReturnCode};

use super::{A, B, Directory, kill};
use crate::harness::{self, LB, finish, run};

/// What `gwm state check` says.
const WHOLE: &str = "gwm: the state is whole: ";
const ROWS: &str = "rows (words, load balancers, groups, verdicts)";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `gwm state` with this input.
fn state(command: &str, directory: &Directory, input: &[u8]) -> Output {
    let mut child = harness::command(&["state", command, "--state", directory.path()]);
    let mut child = child.stdin(Stdio::piped()).spawn().expect("the binary starts");
    // A command that refuses its input does not read all of it.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input);
    finish(child)
}

#[test]
fn a_state_is_exported_imported_and_checked() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.register(LB, "LB1", "web", &["10.0.0.1:80 first", "[2001:db8::1]:53/udp"]), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.set_member(LB, ("LB1", "web", A), 9, true), ReturnCode::SUCCESSFUL);

    let output = state("export", &directory, b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another process has it open: stop the daemon first"));
    daemon.stop();

    let output = state("check", &directory, b"");
    assert_eq!(text(&output.stdout), format!("{WHOLE}2 {ROWS}, starts of daemons: 1\n"));
    let exported = state("export", &directory, b"");
    let lines = text(&exported.stdout);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let first = r#"{"kind":"gwm_state","version":3,"starts":1,"last_word":0,"alive_at_ms":"#;
    assert!(lines[0].starts_with(first), "{}", lines[0]);
    assert!(lines[1].starts_with(r#"{"kind":"load_balancer","uid":"LB1","health":127,"flags":2"#), "{}", lines[1]);
    assert_eq!(
        lines[2],
        r#"{"kind":"group","load_balancer":"LB1","name":"web","members":[{"address":"10.0.0.1","protocol":6,"port":80,"label":"first","by_lb":true,"state":9,"quiesced":true},{"address":"2001:db8::1","protocol":17,"port":53,"by_lb":true}]}"#
    );

    let other = Directory::new();
    let output = state("import", &other, &exported.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = state("import", &other, &exported.stdout);
    assert!(text(&output.stderr).contains("there is a state"), "{}", text(&output.stderr));
    let daemon = other.start(&[]);
    let expected = "LB1/web [10.0.0.1:80 first 09/07/0, [2001:db8::1]:53/udp 00/05/100]";
    assert_eq!(daemon.connect().get_weights("LB1", &[""]), expected);
    daemon.stop();
    // The other directory counts on.
    let output = state("check", &other, b"");
    assert_eq!(text(&output.stdout), format!("{WHOLE}2 {ROWS}, starts of daemons: 2\n"));

    for (input, why) in [
        ("", "line 0: not an export"),
        ("{\"kind\":\"gwm_state\",\"version\":99}\n", "line 1: version 99: this gwm reads versions 2 to 3"),
        ("{\"kind\":\"gwm_state\",\"version\":3,\"alive_at_ms\":2000000000000000000}\n", "line 1: a number of the"),
        ("{\"kind\":\"gwm_state\",\"version\":2}\nx\n", "line 2: "),
        (&format!("{}\n{}\n", lines[0], lines[2]), "line 2: the load balancer of a group is not there"),
        (&format!("{}\n{}\n{}\n", lines[0], lines[1], lines[1]), "line 3: a load balancer is there twice"),
    ] {
        let fresh = Directory::new();
        let output = state("import", &fresh, input.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{input}");
        assert!(text(&output.stderr).contains(why), "{input}: {}", text(&output.stderr));
        // Nothing is left of an import that is refused.
        assert!(state("import", &fresh, &exported.stdout).status.success());
    }
    let nowhere = Directory::new();
    assert_eq!(state("check", &nowhere, b"").status.code(), Some(1));
    // An empty file stays one.
    fs::create_dir(nowhere.path()).expect("a new directory");
    fs::write(nowhere.file(), "").expect("a new file");
    for command in ["check", "export"] {
        let output = state(command, &nowhere, b"");
        assert!(text(&output.stderr).contains("no state: the file is empty"), "{}", text(&output.stderr));
    }
    assert_eq!(fs::metadata(nowhere.file()).expect("the file").len(), 0);
    nowhere.start(&[]).wait_for_log(&["WARN", "is an empty file: the state begins empty"]);
}

#[test]
fn an_export_without_counters_is_imported() {
    let directory = Directory::new();
    let older = concat!(
        r#"{"kind":"gwm_state","version":2}"#,
        "\n",
        r#"{"kind":"load_balancer","uid":"LB1","health":127,"flags":2}"#,
        "\n",
    );
    let output = state("import", &directory, older.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let exported = text(&state("export", &directory, b"").stdout);
    let first = exported.lines().next();
    assert_eq!(first, Some(r#"{"kind":"gwm_state","version":3,"starts":0,"last_word":0,"alive_at_ms":0}"#));
    assert_eq!(exported.lines().nth(1), older.lines().nth(1));
}

#[test]
fn a_look_at_what_a_crash_left_changes_nothing() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A, B]), ReturnCode::SUCCESSFUL);
    kill(daemon);
    let before = fs::read(directory.file()).expect("the file");
    let output = state("check", &directory, b"");
    let mended = "; the last daemon has not closed it, and the next start mends that";
    assert_eq!(text(&output.stdout), format!("{WHOLE}2 {ROWS}, starts of daemons: 1{mended}\n"));
    assert_eq!(text(&state("export", &directory, b"").stdout).lines().count(), 3);
    let check = run(&["serve", "--listen", "127.0.0.1:0", "--state", directory.path(), "--check"]);
    assert_eq!((check.status.code(), text(&check.stderr).contains("looked at")), (Some(0), false), "{check:?}");
    assert!(fs::read(directory.file()).expect("the file") == before);

    // Who may only read the file can look at it, too.
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o555)).expect("the own directory");
        fs::set_permissions(directory.file(), fs::Permissions::from_mode(0o444)).expect("the own file");
        for file in [&directory.0, &directory.file()] {
            chown(file, Some(65534), None).expect("root may");
        }
        let gwm = harness::command(&["state", "check", "--state", directory.path()]);
        let mut reader = Command::new("setpriv");
        reader.arg("--bounding-set=-dac_override").arg("--").arg(gwm.get_program()).args(gwm.get_args());
        let output = reader.output().expect("setpriv is there");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[test]
fn a_file_that_the_disk_has_changed_is_found_and_left_as_it_is() {
    let directory = Directory::new();
    let daemon = directory.start(&[]);
    let labelled = "10.0.0.1:80 a-label-that-the-disk-changes";
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[labelled]), ReturnCode::SUCCESSFUL);
    daemon.stop();
    let mut bytes = fs::read(directory.file()).expect("the file");
    let label = b"a-label-that";
    let at: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(label)).collect();
    assert!(!at.is_empty());
    at.iter().for_each(|at| bytes[*at] ^= 1);
    fs::write(directory.file(), &bytes).expect("the file");
    for command in ["check", "export"] {
        let output = state(command, &directory, b"");
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(text(&output.stderr).contains("it is damaged"), "{}", text(&output.stderr));
    }
    for flags in [&["--check"][..], &[]] {
        let output = run(&[&["serve", "--listen", "127.0.0.1:0", "--state", directory.path()], flags].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("damaged") && stderr.contains("--state-reset"), "{stderr}");
    }
    assert!(fs::read(directory.file()).expect("the file") == bytes);
}

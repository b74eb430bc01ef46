//! `gwm connect file`.

use std::fs;

use super::{
    Connector, Gwm, Member,
    admin::{admin, get, metric},
};
use crate::harness::{TempFile, run, until};

const TEMPLATE: &str = "{% for g in groups %}{{ g.name }}:{% for m in g.members %} {{ m.port }}={{ m.weight }}/{{ m.state }}\
                        {% endfor %}\n{% endfor %}";

/// A template, and the file that it becomes.
fn files() -> (TempFile, TempFile) {
    (TempFile::new("t", TEMPLATE), TempFile::new("out", ""))
}

fn read(file: &TempFile) -> String {
    fs::read_to_string(file.path()).unwrap_or_default()
}

#[test]
fn a_file_follows_the_weights_and_a_command_runs_after_each_change() {
    let (one, two) = (Member::start().address, Member::start().address);
    let gwm = Gwm::start(&[(one, Some(40)), (two, Some(20))]);
    let ((template, output), runs) = (files(), TempFile::new("runs", ""));
    let group = format!("web={one},{two}");
    let exec = format!("cat {} >> {}", output.path(), runs.path());
    let address = gwm.address();
    let flags = [
        "--gwm",
        &address,
        "file",
        "--group",
        &group,
        "--template",
        template.path(),
        "--output",
        output.path(),
        "--exec",
        &exec,
        "--min-interval",
        "0s",
    ];
    let connector = Connector::start(&flags);
    let line = |first: &str, second: &str| format!("web: {}={first} {}={second}\n", one.port(), two.port());
    let shows = |wanted: &str| until(wanted, || read(&output) == wanted);
    shows(&line("100/serving", "50/serving"));
    gwm.set(&[(one, Some(10)), (two, Some(40))]);
    shows(&line("25/serving", "100/serving"));
    gwm.set(&[(one, None), (two, Some(40))]);
    let last = line("0/quiesced", "100/serving");
    shows(&last);
    until("the command ran after the last change", || read(&runs).ends_with(&last));

    // A file that someone else changed is written again, and so is one after a crash of the connector.
    output.write("mine");
    shows(&last);
    connector.kill();
    output.write("mine");
    let connector = Connector::start(&[&flags[..], &["--on-exit", "restore"]].concat());
    shows(&last);
    assert!(connector.stop().success());
    assert_eq!(read(&output), line("1/usual", "1/usual"), "the weights without a GWM");
}

#[test]
fn the_last_weights_stay_when_the_gwm_is_lost_and_end_when_asked() {
    let (one, two) = (Member::start().address, Member::start().address);
    let members = [(one, Some(40)), (two, Some(20))];
    let gwm = Gwm::start(&members);
    let (template, output) = files();
    let group = format!("web={one},{two}");
    let address = gwm.address();
    let file = ["file", "--group", &group, "--template", template.path(), "--output", output.path()];
    let connector = Connector::start(&[&["--gwm", &address][..], &file, &["--min-interval", "0s"]].concat());
    let weights = format!("web: {}=100/serving {}=50/serving\n", one.port(), two.port());
    let usual = format!("web: {}=1/usual {}=1/usual\n", one.port(), two.port());
    until("weights", || read(&output) == weights);

    drop(gwm);
    connector.wait_for_log(&["WARN", &address, "retry_seconds=1"]);
    assert_eq!(read(&output), weights);
    let gwm = Gwm::start_at(&address, &members);
    until("it has registered again", || connector.log().matches("registered with the GWM").count() == 2);
    until("weights", || read(&output) == weights);
    drop(connector);

    // A second GWM is used at once.
    let other = Gwm::start(&[(one, Some(10)), (two, Some(10))]);
    let both = format!("{address},{}", other.address());
    let connector =
        Connector::start(&[&["--gwm", &both, "--keep", "0s"][..], &file, &["--min-interval", "0s"]].concat());
    until("weights", || read(&output) == weights);
    drop(gwm);
    until("the second GWM's weights", || {
        read(&output) == format!("web: {}=100/serving {}=100/serving\n", one.port(), two.port())
    });
    drop(other);
    until("without any GWM the file has the usual weights", || read(&output) == usual);
    assert!(connector.stop().success());
}

#[test]
fn a_command_that_fails_or_hangs_is_told_and_run_again() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let ((template, output), marks) = (files(), TempFile::new("marks", ""));
    let (group, address) = (format!("web={one}"), gwm.address());
    let exec = format!("echo x >> {0}; test $(wc -l < {0}) -gt 2 || exit 7", marks.path());
    let flags = [
        "--gwm",
        &address,
        "file",
        "--group",
        &group,
        "--template",
        template.path(),
        "--output",
        output.path(),
        "--min-interval",
        "0s",
        "--exec",
    ];
    let connector = Connector::start(&[&flags[..], &[exec.as_str()]].concat());
    connector.wait_for_log(&["WARN", "exit status: 7", "run again"]);
    until("the third run succeeds, and is the last one so far", || read(&marks).lines().count() >= 3);
    drop(connector);
    let hangs = Connector::start(&[&flags[..], &["sleep 1000", "--exec-timeout", "50ms"]].concat());
    hangs.wait_for_log(&["WARN", "took longer than 50ms and was killed"]);
}

#[test]
fn the_file_is_written_at_most_once_per_interval() {
    let (one, two) = (Member::start().address, Member::start().address);
    let gwm = Gwm::start(&[(one, Some(40)), (two, Some(20))]);
    let ((template, output), address, group) = (files(), gwm.address(), format!("web={one},{two}"));
    let file = ["file", "--group", &group, "--template", template.path(), "--output", output.path()];
    let flags = ["--gwm", &address, "--admin-listen", "127.0.0.1:0"];
    let start = |interval| Connector::start(&[&flags[..], &file, &["--min-interval", interval]].concat());
    let connector = start("1h");
    let at = admin(&connector);
    // What the members may get is known, and looked at again: the file has what was known first.
    let looks = || metric(&at, "gwm_connect_looks_total{result=\"succeeded\"}").expect("it is a metric");
    let known = |weights: [i64; 2]| {
        until(&format!("{weights:?} are known"), || {
            let members = get(&at, "/api/v1/pools").json()["pools"][0]["members"].clone();
            [0, 1].map(|member| members[member]["gwm_weight"].as_i64()) == weights.map(Some)
        });
        let before = looks();
        until("it looks again", || looks() >= before + 2.0);
    };
    known([40, 20]);
    let first = read(&output);
    assert!(first.starts_with("web: "), "{first}");
    gwm.set(&[(one, Some(10)), (two, Some(40))]);
    known([10, 40]);
    assert_eq!(read(&output), first);
    drop(connector);
    let _connector = start("0s");
    until("without an interval it is written", || read(&output).contains("=25/serving") && read(&output) != first);
}

#[test]
fn a_dry_run_prints_and_changes_nothing() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let (template, output) = (TempFile::new("t", TEMPLATE), TempFile::new("out", "mine"));
    let (group, address) = (format!("web={one}"), gwm.address());
    let flags =
        ["--gwm", &address, "file", "--group", &group, "--template", template.path(), "--output", output.path()];
    let connector = Connector::start(&[&flags[..], &["--dry-run", "--exec", "touch /nonexistent/x"]].concat());
    until("it prints the step", || connector.output().contains("would do: write "));
    assert!(connector.output().contains("then run: touch /nonexistent/x"));
    assert_eq!(read(&output), "mine");
    assert!(connector.stop().success());
}

#[test]
fn mistakes_are_told_before_anything_is_done() {
    let good = TempFile::new("t", TEMPLATE);
    let bad = TempFile::new("t", "{{ groups.x.y }}");
    let broken = TempFile::new("t", "one\n{% for %}");
    for (flags, says) in [
        (&["--uid", "LB1", "file", "--group", "web", "--template", bad.path(), "--output", "/tmp/x"][..], "undefined"),
        (&["--uid", "LB1", "file", "--group", "web", "--template", broken.path(), "--output", "/tmp/x"], "line 2"),
        (&["--uid", "LB1", "file", "--template", good.path(), "--output", "/tmp/x"], "no group is given"),
        (&["file", "--group", "web", "--template", good.path(), "--output", "/tmp/x"], "--uid"),
        (
            &[
                "--uid",
                "L",
                "--map",
                "nonsense",
                "file",
                "--group",
                "a",
                "--template",
                good.path(),
                "--output",
                "/tmp/x",
            ],
            "POOLS=GROUP",
        ),
        (&["--uid", "L", "file", "--group", "a", "--template", "/nonexistent", "--output", "/tmp/x"], "/nonexistent"),
    ] {
        let output = run(&[&["connect"][..], flags].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {stderr}");
        assert!(stderr.contains(says), "{flags:?}: {stderr}");
    }
    let members = "web=10.0.0.1:80,10.0.0.2:80";
    let check = ["--check", "file", "--group", members, "--template", good.path(), "--output", "/tmp/gwm-none"];
    let output = run(&[&["connect", "--uid", "LB1", "--map", "web=FARM"][..], &check].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let nothing = "nothing to observe: a file does not tell what its reader does with the members";
    assert_eq!(text, format!("pool web: group FARM\n  10.0.0.1:80\n  10.0.0.2:80\n{nothing}\n"), "{output:?}");
    assert!(output.status.success());
    let nowhere = ["--check", "file", "--group", members, "--template", good.path(), "--output", "/nonexistent/x"];
    let output = run(&[&["connect", "--uid", "LB1"][..], &nowhere].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("can not write /nonexistent/x"), "{output:?}");
}

#[test]
fn a_second_connector_with_the_same_uid_is_told_of() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let ((template, output), address, group) = (files(), gwm.address(), format!("web={one}"));
    let flags =
        ["--gwm", &address, "file", "--group", &group, "--template", template.path(), "--output", output.path()];
    let connectors = [(); 2].map(|()| Connector::start(&flags));
    let line =
        "closed the connection: the GWM ended, or another connector runs with --uid LB1 (give each a UID of its own)";
    until("one of them says so", || connectors.iter().any(|connector| connector.log().contains(line)));
}

#[test]
fn what_can_not_be_rendered_or_written_is_told_once_and_the_file_stays() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    // The name is there only for a member that serves, so the check at the start finds nothing.
    let template = TempFile::new(
        "t",
        "mine{% for m in groups[0].members %}{% if m.weight == 100 %}{{ nothing }}{% endif %}{% endfor %}",
    );
    let (output, group, address) = (TempFile::new("out", "mine"), format!("web={one}"), gwm.address());
    let flags =
        ["--gwm", &address, "file", "--group", &group, "--max-weight", "100", "--min-interval", "0s", "--template"];
    let connector = Connector::start(&[&flags[..], &[template.path(), "--output", output.path()]].concat());
    connector.wait_for_log(&["WARN", "undefined"]);
    let looks = || connector.log().matches("applied").count();
    until("the step was tried again", || looks() >= 3);
    assert_eq!(connector.log().matches("WARN").count(), 1, "{}", connector.log());
    assert_eq!(read(&output), "mine");
    drop(connector);

    let template = TempFile::new("t", TEMPLATE);
    let connector = Connector::start(&[&flags[..], &[template.path(), "--output", "/proc/gwm/out"]].concat());
    connector.wait_for_log(&["WARN", "can not write /proc/gwm/out"]);
}

//! `gwm serve` as a command: help, exit status, and the one line of an error, which says what to do.

use std::process::Output;

use crate::harness::{Daemon, TempFile, command, finish, run};

/// Every flag of `gwm serve` with its default, or `None` without a default.
const FLAGS: &[(&str, Option<&str>)] = &[
    ("--config", None),
    ("--print-config", None),
    ("--listen", Some("127.0.0.1:3860")),
    ("--tls-listen", None),
    ("--tls-cert", None),
    ("--tls-key", None),
    ("--tls-client-ca", None),
    ("--tls-min-version", Some("1.2")),
    ("--tls-allow-expired", None),
    ("--require-tls", None),
    ("--handshake-timeout", Some("30s")),
    ("--max-handshakes", Some("1024")),
    ("--lb-identity", Some("any")),
    ("--lb-identity-common-name", None),
    ("--member-identity", Some("any")),
    ("--access", None),
    ("--shards", Some("usable CPUs less one, at least 1")),
    ("--cpus", Some("all CPUs that this process may use")),
    ("--spin", Some("0s")),
    ("--huge-pages", Some("auto")),
    ("--hold-time", Some("10m")),
    ("--state", Some("in memory only")),
    ("--durability", Some("reply")),
    ("--state-reset", None),
    ("--fleet", Some("no fleet")),
    ("--fleet-name", Some("main")),
    ("--node", Some("the name of this machine")),
    ("--fleet-lease", Some("5s")),
    ("--probe-redundancy", Some("2")),
    ("--fleet-credentials", None),
    ("--fleet-tls-ca", None),
    ("--fleet-tls-cert", None),
    ("--fleet-tls-key", None),
    ("--poll-interval", Some("60s")),
    ("--push-window", Some("100ms")),
    ("--push-refresh", Some("60s")),
    ("--stall-timeout", Some("30s")),
    ("--first-message-timeout", Some("30s")),
    ("--message-timeout", Some("30s")),
    ("--keepalive", Some("60s")),
    ("--max-message-bytes", Some("1048576")),
    ("--max-buffered-bytes", Some("268435456")),
    ("--max-unsent-bytes", Some("1073741824")),
    ("--max-connections", Some("16384")),
    ("--max-connections-per-source", Some("half of --max-connections")),
    ("--max-new-connections-per-source", Some("0")),
    ("--max-handshakes-per-source", Some("0")),
    ("--max-requests-per-second", Some("0")),
    ("--max-load-balancers", Some("16384")),
    ("--max-groups", Some("262144")),
    ("--max-groups-per-lb", Some("1024")),
    ("--max-members-per-group", Some("65535")),
    ("--max-memberships-per-lb", Some("half of --max-memberships")),
    ("--max-memberships", Some("1000000")),
    ("--weight-max", Some("100")),
    ("--members", None),
    ("--probe", Some("auto")),
    ("--probe-interval", Some("2s")),
    ("--probe-fast-interval", Some("as --probe-interval")),
    ("--probe-timeout", Some("as --probe-interval, but at most 5s")),
    ("--probe-rise", Some("2")),
    ("--probe-fall", Some("3")),
    ("--max-probes", Some("4096")),
    ("--policy", Some("auto")),
    ("--panic-percent", Some("50")),
    ("--panic-time", Some("30s")),
    ("--witness", None),
    ("--slow-start", Some("30s")),
    ("--admin-listen", None),
    ("--agent-listen", None),
    ("--agent-lb", Some("the first one that has such a group")),
    ("--admin-tls-cert", None),
    ("--admin-tls-key", None),
    ("--admin-tls-client-ca", None),
    ("--admin-token-file", None),
    ("--metrics-members", Some("0")),
    ("--log-level", Some("info")),
    ("--log-format", Some("text")),
    ("--check", None),
];

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit status and stderr, which must be one line that begins with the program's name.
fn failure(arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.starts_with("gwm: "), "{arguments:?}: {text}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    text
}

#[test]
fn help_lists_every_flag_with_its_default_and_variable() {
    let output = run(&["serve", "--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).expect("help is text");
    // The text of a flag, from its line to the next flag's line, joined into one line.
    let said = |flag: &str| {
        // A flag has an indent of six columns, its text one of ten: a line of text may begin with "--" too.
        let heading = |line: &str| line.starts_with("      --");
        let mut lines = help.lines().skip_while(|line| {
            !heading(line) || !line.trim_start().starts_with(flag) || line.trim_start()[flag.len()..].starts_with('-')
        });
        let first = lines.next().unwrap_or_else(|| panic!("{flag} is not in the help"));
        let rest = lines.take_while(|line| !heading(line));
        [first].into_iter().chain(rest).map(str::trim).collect::<Vec<_>>().join(" ")
    };
    for &(flag, default) in FLAGS {
        let said = said(flag);
        let variable = format!("GWM_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        assert!(said.contains(&variable), "{flag} has no {variable}: {said}");
        if let Some(default) = default {
            let at = said.find("[default: ").unwrap_or_else(|| panic!("{flag} shows no default: {said}"));
            assert!(said[at..].contains(default), "{flag} has another default: {said}");
        }
    }
}

#[test]
fn the_manual_says_what_is_beyond_each_limit() {
    let page = include_str!("../../../src/manual/gwm-serve.8.md");
    for (flag, _) in FLAGS.iter().filter(|(flag, _)| flag.starts_with("--max-") && *flag != "--max-probes") {
        assert!(page.contains(&format!("`{flag}`")), "gwm-serve.8.md has no {flag}");
    }
}

#[test]
fn usage_errors_exit_with_2_and_name_the_flag() {
    let cases: &[&[&str]] = &[
        &["--no-such-flag"],
        &["--shards", "0"],
        &["--shards", "x"],
        &["--hold-time", "5"],
        &["--push-window", "61s"],
        &["--poll-interval", "1500ms"],
        &["--stall-timeout", "1ms"],
        &["--first-message-timeout", "0s"],
        &["--max-message-bytes", "10"],
        &["--max-connections", "0"],
        &["--max-connections-per-source", "0"],
        &["--max-requests-per-second", "1000001"],
        &["--max-groups-per-lb", "65536"],
        &["--max-members-per-group", "65536"],
        &["--max-memberships", "0"],
        &["--weight-max", "65536"],
        &["--listen", "nonsense"],
        &["--cpus", "3-1"],
        &["--cpus", "60000"],
        &["--spin=10us", "--cpus", "0"],
        &["--push-refresh", "1s", "--push-window", "2s"],
        &["--push-refresh", "366d"],
        &["--tls-allow-expired"],
        &["--probe", "agent"],
        &["--probe-interval", "9ms"],
        &["--probe-fast-interval", "3s"],
        &["--probe-timeout", "2m"],
        &["--probe-rise", "0"],
        &["--probe-fall", "256"],
        &["--max-probes", "0"],
        &["--policy", "best"],
        &["--panic-percent", "101"],
        &["--panic-time", "2h"],
        &["--witness", "gateway"],
        &["--witness", "192.0.2.1:0"],
        &["--slow-start", "2h"],
        &["--lb-identity", "name"],
        &["--lb-identity", "source-ip"],
        &["--lb-identity", "certificate"],
        &["--lb-identity-common-name"],
        &["--member-identity", "certificate"],
        &["--access", "/dev/null"],
        &["--log-level", "loud"],
        &["--log-format", "xml"],
    ];
    for case in cases {
        let arguments: Vec<&str> = ["serve", "--check"].iter().chain(*case).copied().collect();
        let output = run(&arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{case:?}: {text}");
        let flag = case[0].split('=').next().expect("split gives at least one part");
        assert!(text.contains(flag), "{case:?}: {text}");
        assert_eq!(output.stdout, b"", "{case:?}");
    }
    let text = stderr(&run(&["serve", "--listen", "localhost:3860"]));
    assert!(text.contains("such as 127.0.0.1:3860 or [::1]:3860"), "{text}");
    assert_eq!(run(&[]).status.code(), Some(2), "a command is needed");
    assert_eq!(run(&["dance"]).status.code(), Some(2));
}

#[test]
fn the_environment_is_the_fallback_of_flags() {
    let mut from_environment = command(&["serve", "--check"]);
    from_environment.env("GWM_SHARDS", "0");
    let output = finish(from_environment.spawn().expect("the binary starts"));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let mut overridden = command(&["serve", "--check", "--shards", "1"]);
    overridden.env("GWM_SHARDS", "0");
    let output = finish(overridden.spawn().expect("the binary starts"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_port_that_is_taken_is_one_line_with_the_remedy() {
    // Another gwm of the same user counts too: with a shared port each would get a part of the connections.
    let daemon = Daemon::start(&["--shards", "2"]);
    let taken = daemon.address().to_string();
    for shards in ["1", "2"] {
        let text = failure(&["serve", "--listen", &taken, "--shards", shards]);
        assert!(text.contains(&taken) && text.contains("--listen"), "{text}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = listener.local_addr().expect("it is bound").to_string();
    let text = failure(&["serve", "--listen", "127.0.0.1:0", "--listen", &taken]);
    assert!(text.contains(&taken), "{text}");
    // The machine does not have this address.
    let text = failure(&["serve", "--listen", "192.0.2.1:0"]);
    assert!(text.contains("192.0.2.1"), "{text}");
    daemon.stop();
}

#[test]
fn more_connections_than_file_descriptors_are_refused_at_start() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let Some(limit) = limit.filter(|&limit| limit < 1_000_000) else { return }; // more than the flag's range
    let text = failure(&["serve", "--listen", "127.0.0.1:0", "--max-connections", &limit.to_string()]);
    assert!(text.contains("--max-connections") && text.contains(&limit.to_string()), "{text}");
    let text = failure(&["serve", "--check", "--max-probes", &limit.to_string()]);
    assert!(text.contains("--max-probes") && !text.contains("--max-connections"), "{text}");
}

#[test]
fn a_bad_members_file_is_named_with_the_line() {
    let good = "[[member]]\naddress = \"10.0.0.1\"\nport = 80\nweight = 1\nmonitor = \"none\"\n";
    for (text, line) in [
        (format!("{good}colour = 1\n"), 6),
        (good.replace("monitor", "watch"), 5),
        (good.replace("weight = 1", "weight = -1"), 4),
        (good.replace("10.0.0.1", "web1"), 2),
        (format!("{good}\n{good}"), 7),
        (format!("{good}[["), 6),
    ] {
        let file = TempFile::new("bad.toml", text);
        let place = format!("{}:{line}:", file.path());
        let at_start = failure(&["serve", "--listen", "127.0.0.1:0", "--members", file.path()]);
        assert!(at_start.contains(&place), "{place} is not in {at_start}");
        let at_check = failure(&["serve", "--check", "--members", file.path()]);
        assert!(at_check.contains(&place), "{place} is not in {at_check}");
    }
    let text = failure(&["serve", "--check", "--members", "/nonexistent/members.toml"]);
    assert!(text.contains("/nonexistent/members.toml"), "{text}");
    let file = TempFile::new("latin1.toml", [good.as_bytes(), b"# caf\xE9\n"].concat());
    let text = failure(&["serve", "--check", "--members", file.path()]);
    assert!(text.contains(&format!("{}:6: this is not UTF-8 text", file.path())), "{text}");
    let text = failure(&["serve", "--check", "--members", "/"]);
    assert!(text.contains("the members file /: Is a directory"), "{text}");
}

#[test]
fn check_says_that_all_is_well_and_does_not_serve() {
    let file = TempFile::new("good.toml", "[[member]]\naddress = \"10.0.0.1\"\nweight = 1\nmonitor = \"none\"\n");
    let daemon = Daemon::start(&[]);
    // Also while a daemon serves on the same address: operators check a new configuration then.
    let address = daemon.address().to_string();
    let output = run(&["serve", "--check", "--listen", &address, "--members", file.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("listening"));
    daemon.stop();
}

#[test]
fn settings_without_effect_are_told_by_check_and_in_the_log() {
    let member = "[[member]]\naddress = \"10.0.0.1\"\nport = 80\nmonitor = \"tcp\"\n";
    let file = TempFile::new("idle.toml", format!("{member}weight = 1\n"));
    let of_flag = "--max-handshakes has no effect: it is about TLS, and --tls-listen is not given";
    let of_file = format!("{}:5: weight 1 leaves --slow-start without effect", file.path());
    let mut check = command(&["serve", "--check", "--members", file.path()]);
    // A variable of the environment is a flag that is given.
    check.env("GWM_MAX_HANDSHAKES", "1024");
    let output = finish(check.spawn().expect("the binary starts"));
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"gwm: the configuration is valid\n"[..]));
    let text = stderr(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0] == format!("gwm: warning: {of_flag}"), "{text}");
    assert!(lines[1].starts_with(&format!("gwm: warning: {of_file}")), "{text}");

    let daemon = Daemon::start(&["--members", file.path(), "--max-handshakes", "1024"]);
    daemon.wait_for_log(&["WARN", of_flag]);
    daemon.wait_for_log(&["WARN", &of_file]);
    file.write(format!("{member}\n[[group]]\nname = \"*\"\npolicy = \"orca\"\n"));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for_log(&["WARN", &format!("{}:8: with the policy \"orca\" no member is ever confident", file.path())]);
    daemon.stop();
}

/// A machine that can not send echoes refuses `icmp`, and `auto` works without echoes.
#[test]
fn icmp_without_the_right_to_it_is_refused_at_start() {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};
    let may = [SocketType::DGRAM, SocketType::RAW]
        .into_iter()
        .any(|kind| socket(AddressFamily::INET, kind, Some(ipproto::ICMP)).is_ok());
    let file = TempFile::new("icmp.toml", "[[member]]\naddress = \"10.0.0.1\"\nmonitor = \"icmp\"\n");
    for flags in [["--probe", "icmp"], ["--members", file.path()]] {
        let arguments = [&["serve", "--check"][..], &flags].concat();
        if may {
            let output = run(&arguments);
            assert_eq!(output.status.code(), Some(0), "{flags:?}: {}", stderr(&output));
        } else {
            let text = failure(&arguments);
            assert!(text.contains("net.ipv4.ping_group_range") && text.contains("CAP_NET_RAW"), "{flags:?}: {text}");
        }
    }
    let output = run(&["serve", "--check", "--probe", "auto"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn json_log_lines_are_json() {
    let daemon = Daemon::start(&["--log-format", "json"]);
    let mut peer = daemon.connect();
    peer.send(&[0xFF; 20]);
    peer.expect_end();
    daemon.wait_for_log(&["127.0.0.1:"]);
    let log = daemon.log();
    let whole = log.rfind('\n').expect("at least one line was written");
    for line in log[..whole].lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value.is_object(), "{line}");
    }
    daemon.stop();
}

//! `gwm serve --config`: what counts before what, what a mistake looks like, and what is shown.

use std::{fs, path::Path, process::Output};

use rustix::process::Signal;

use crate::harness::{Daemon, TempFile, command, finish, run};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `--print-config` says of a flag.
fn line(printed: &str, flag: &str) -> String {
    let is_flag = |line: &&str| line.trim_start_matches('#').starts_with(&format!("{flag} = "));
    printed.lines().find(is_flag).unwrap_or_else(|| panic!("no {flag} in {printed}")).to_owned()
}

fn printed(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = command(&[&["serve", "--print-config"], arguments].concat());
    let output = finish(command.envs(environment.iter().copied()).spawn().expect("the binary starts"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_flag_counts_before_the_environment_and_that_before_the_file() {
    let file =
        TempFile::new("serve.toml", "hold-time = \"1m\"\nweight-max = 7\nprobe-rise = 9\nlisten = [\"127.0.0.1:0\"]\n");
    let environment = [("GWM_CONFIG", file.path()), ("GWM_WEIGHT_MAX", "8"), ("GWM_PROBE_RISE", "8")];
    let text = printed(&["--probe-rise", "3", "--max-connections=100"], &environment);
    assert_eq!(line(&text, "hold-time"), format!("hold-time = \"1m\"  # {}:1", file.path()));
    assert_eq!(line(&text, "weight-max"), "weight-max = 8  # environment");
    assert_eq!(line(&text, "probe-rise"), "probe-rise = 3  # flag");
    assert_eq!(line(&text, "listen"), format!("listen = [\"127.0.0.1:0\"]  # {}:4", file.path()));
    assert_eq!(line(&text, "push-window"), "#push-window = \"100ms\"  # default");
    assert_eq!(line(&text, "max-connections-per-source"), "#max-connections-per-source = 50  # default");
    assert!(text.contains("# tls-cert is not given\n"), "{text}");

    // What is printed can be the file, and says the same.
    let again = TempFile::new("again.toml", &text);
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().expect("a part").to_owned()).collect()
    };
    assert_eq!(values(&printed(&["--config", again.path()], &[])), values(&text));

    // A list in arguments is instead of the file's list.
    let text = printed(&["--config", file.path(), "--listen=[::1]:0", "--listen=127.0.0.1:0"], &[]);
    assert_eq!(line(&text, "listen"), "listen = [\"[::1]:0\", \"127.0.0.1:0\"]  # flag");
}

#[test]
fn a_daemon_runs_by_a_file_and_says_after_sighup_what_it_has_new() {
    let members = TempFile::new("members.toml", "");
    let name = Path::new(members.path()).file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    // The members file is named relative to this file, in the same directory.
    let text = format!("members = \"{name}\"\npush-window = \"1ms\"\n");
    let file = TempFile::new("serve.toml", &text);
    let daemon = Daemon::start(&["--config", file.path()]);
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["INFO SIGHUP:", file.path(), "is as it was at the start"]);
    daemon.wait_for_log(&["INFO SIGHUP:", members.path(), "is in force"]);
    file.write(text.replace("1ms", "2ms") + "hold-time = \"1m\"\n");
    daemon.signal(Signal::HUP);
    let news = "has changed, which counts after a restart: --hold-time, --push-window";
    daemon.wait_for_log(&["WARN SIGHUP:", file.path(), news]);
    file.write("colour = 1\n");
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["ERROR SIGHUP: the next start will fail:", &format!("{}:1: unknown key", file.path())]);
    daemon.stop();
}

#[test]
fn a_mistake_has_its_line_and_an_error_says_where_its_values_are_from() {
    let mistake = |text: &str| {
        let file = TempFile::new("bad.toml", text);
        let output = run(&["serve", "--check", "--config", file.path()]);
        assert_eq!(output.stdout, b"");
        (output.status.code(), stderr(&output).replace(file.path(), "FILE"))
    };
    let (status, text) = mistake("\nhold-time = 5\n");
    assert_eq!((status, text.lines().count()), (Some(1), 1));
    assert!(text.starts_with("gwm: FILE:2: hold-time: invalid value '5': `5` has no unit"), "{text}");
    let (status, text) = mistake("colour = 1\n");
    assert!(status == Some(1) && text.starts_with("gwm: FILE:1: unknown key \"colour\""), "{text}");
    let (status, text) = mistake(&"# long\n".repeat(100_000));
    assert!(status == Some(1) && text.contains("has more than 262144 bytes"), "{text}");
    // Flags that do not go together, by what reads the file and by what reads the arguments.
    let (status, text) = mistake("push-window = \"2s\"\npush-refresh = \"1s\"\n");
    assert_eq!(status, Some(2));
    assert!(text.ends_with("note: --push-window is from FILE:1\nnote: --push-refresh is from FILE:2\n"), "{text}");
    let (status, text) = mistake("state-reset = true\n");
    assert!(status == Some(2) && text.contains("--state <DIR>"), "{text}");

    let output = run(&["serve", "--check", "--config", "/nonexistent/serve.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("gwm: can not read the configuration /nonexistent/serve.toml: "));
    // What an argument needs can be in the file.
    let directory = TempFile::new("directory", "");
    let file = TempFile::new("good.toml", format!("state = \"{}.d\"\n", directory.path()));
    let output = run(&["serve", "--check", "--config", file.path(), "--state-reset"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // An argument that is wrong is told as without a file.
    let output = run(&["serve", "--config", file.path(), "--hold-time", "5"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("for '--hold-time <DURATION>'"));
}

#[test]
fn check_looks_at_the_state_on_disk_and_changes_nothing() {
    let path = TempFile::new("state", "");
    let directory = format!("{}.d", path.path());
    let check = |more: &[&str]| {
        let output = run(&[&["serve", "--check", "--state", &directory], more].concat());
        (output.status.code(), stderr(&output))
    };
    assert_eq!(check(&[]), (Some(0), String::new()));
    assert!(!Path::new(&directory).exists(), "a check makes no directory");
    let nested = format!("{directory}/deeper");
    let output = run(&["serve", "--check", "--state", &nested]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains(&nested), "{output:?}");
    let output = run(&["serve", "--check", "--state", path.path()]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("not a directory"), "{output:?}");

    let daemon = Daemon::start(&["--state", &directory]);
    let (status, text) = check(&[]);
    assert!(status == Some(0) && text.contains("was not looked at: a daemon has it open"), "{text}");
    daemon.stop();
    let file = Path::new(&directory).join("gwm.redb");
    let before = fs::read(&file).expect("a daemon made the file");
    assert_eq!(check(&[]), (Some(0), String::new()));
    assert!(fs::read(&file).expect("it is there") == before, "a check changed the file");

    fs::write(&file, "no state").expect("it can be written to");
    let (status, text) = check(&[]);
    assert!(status == Some(1) && text.contains("it is damaged, or no state of a GWM"), "{text}");
    let (status, text) = check(&["--state-reset"]);
    assert!(status == Some(0) && text.contains("the start moves") && fs::read(&file).is_ok(), "{text}");
    fs::remove_dir_all(directory).expect("it can be removed");
}

//! `gwm demo` with the real daemon: each step of the story is printed, and no process or file stays.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Permit;

#[test]
fn the_story_happens_and_nothing_is_left_of_it() {
    let _permit = Permit::take(1); // the demo runs one daemon
    // The demo writes its temporary files here, and no other process does.
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_gwm"))
        // If a line does not come, the output still ends, and the test fails instead of waiting for ever.
        .args(["demo", "--pace", "100ms", "--seconds", "60"])
        .env("TMPDIR", &directory)
        .env("GWM_LISTEN", "nonsense that the demonstration's daemon must not see")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let first = lines.next().unwrap_or_default();
    let address = first.strip_prefix("A GWM listens on ").and_then(|rest| rest.split(". ").next());
    let address = address.unwrap_or_else(|| panic!("`{first}` is not the first line")).to_owned();
    let page = lines.find_map(|line| line.strip_prefix("A browser shows the same at http://").map(str::to_owned));
    let mut stream = TcpStream::connect(page.expect("the page's address").trim_end_matches('/')).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.lines().next().is_some_and(|line| line.contains(" 200 ")) && answer.contains("<title>gwm</title>"),
        "{answer}"
    );
    // The demo prints what the load balancer got, in this order.
    for expected in [
        "    web: no members",
        "    dns: ns-1 50 (50.0 %), ns-2 50 (50.0 %)",
        "    web: web-1 100 (not confident), web-2 100 (not confident)",
        "    web: web-1 40 (66.7 %), web-2 20 (33.3 %)",
        "    web: web-1 40 (50.0 %), web-2 20 (25.0 %), web-3 20 (25.0 %)",
        "    web: web-1 40 (57.1 %), web-2 10 (14.3 %), web-3 20 (28.6 %)",
        "    web: web-1 0 (0.0 %, quiesced), web-2 5 (20.0 %), web-3 20 (80.0 %)",
        "    web: web-2 5 (20.0 %), web-3 20 (80.0 %)",
        "    web: web-2 20 (22.2 %), web-3 30 (33.3 %), web-1 40 (44.4 %)",
        "    dns: ns-1 80 (80.0 %), ns-2 20 (20.0 %)",
        "    web: web-2 20 (22.2 %), web-3 30 (33.3 %, state 0x2A), web-1 40 (44.4 %)",
    ] {
        assert!(lines.any(|line| line == expected), "`{expected}` does not come");
    }
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    lines.for_each(drop); // the demo may still print
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    TcpStream::connect(&address).expect_err("the daemon is gone");
    std::fs::remove_dir(&directory).unwrap();
}

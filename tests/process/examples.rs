//! The examples of the library, with a real daemon.

use std::{
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::harness::{Daemon, TempFile, wait};

/// A running example; killed if a test ends early.
struct Example {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Example {
    /// Starts it; `None` if `cargo test` was asked for single targets, and so has not built it.
    fn start(name: &str, arguments: &[&str]) -> Option<Example> {
        let program = Path::new(env!("CARGO_BIN_EXE_gwm")).with_file_name("examples").join(name);
        if !program.exists() {
            assert!(std::env::var_os("CI").is_none(), "{} is missing", program.display());
            eprintln!("left out: `cargo build --examples` makes {}", program.display());
            return None;
        }
        let mut command = Command::new(program);
        let mut child =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Some(Example { child, lines })
    }

    /// Waits for these lines, in this order. A load balancer may hear the same again before.
    #[track_caller]
    fn says(&mut self, expected: &[&str]) {
        for expected in expected {
            let line = self.lines.by_ref().map(|line| line.expect("text")).find(|line| line == expected);
            assert!(line.is_some(), "`{expected}` does not come");
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_member_joins_and_leaves_the_group_of_a_load_balancer() {
    let entry = |host: u8, weight: u16| {
        format!("[[member]]\naddress = \"10.0.0.{host}\"\nport = 80\nmonitor = \"none\"\nweight = {weight}\n")
    };
    let members = TempFile::new("members.toml", [entry(1, 30), entry(2, 10), entry(3, 60)].concat());
    let daemon = Daemon::start(&["--members", members.path(), "--push-window", "0s"]);
    let gwm = daemon.address().to_string();
    let Some(mut lb) = Example::start("load_balancer", &[&gwm, "web=10.0.0.1:80,10.0.0.2:80"]) else { return };
    lb.says(&["web 10.0.0.1:80 75 %", "web 10.0.0.2:80 25 %"]);
    let Some(mut member) = Example::start("member", &[&gwm, "web", "10.0.0.3:80"]) else { return };
    member.says(&["registered"]);
    lb.says(&["web 10.0.0.1:80 30 %", "web 10.0.0.2:80 10 %", "web 10.0.0.3:80 60 %"]);
    drop(member.child.stdin.take());
    member.says(&["quiesced", "deregistered"]);
    assert!(wait(&mut member.child, "the member ends").success());
    lb.says(&["web 10.0.0.1:80 75 %", "web 10.0.0.2:80 25 %"]);
    daemon.stop();
}

//! `gwm-loadgen failover` beside the schedules: load balancers that go to another GWM when theirs is gone, and find there
//! what was acknowledged.

use std::{
    env,
    io::Read,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    balancers::member,
    bed::{EACH, Machine, PORTS},
};
use crate::harness::until;

/// How many load balancers there are.
const LBS: u32 = 4;

/// The load generator, killed with this value.
pub(super) struct Load {
    child: Child,
    /// It goes on until this ends.
    input: Option<ChildStdin>,
    said: Option<thread::JoinHandle<String>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Load {
    /// Starts it in the network of the thread that calls this; `None` if it is not built. In CI it must be.
    pub(super) fn start() -> Option<Load> {
        let program = Path::new(env!("CARGO_BIN_EXE_gwm")).with_file_name("gwm-loadgen");
        let knows = Command::new(&program).args(["failover", "--help"]).output();
        if !knows.is_ok_and(|output| output.status.success()) {
            assert!(env::var_os("CI").is_none(), "gwm-loadgen is not built: cargo build -p gwm-loadgen");
            eprintln!("left out: load balancers of gwm-loadgen, which is not built (cargo build -p gwm-loadgen)");
            return None;
        }
        let gwms: Vec<String> = (0..EACH).map(|gwm| format!("{}:3860", Machine::Gwm(gwm).address())).collect();
        let members = PORTS.map(member);
        let mut command = Command::new(program);
        command.args(["failover", "--gwm", &gwms.join(","), "--members-at", &members.join(",")]);
        command.args(["--lbs", &LBS.to_string(), "--changes", "10", "--moves", "1", "--within", "60s"]);
        command.args(["--until-input-ends", "--json", "-", "--quiet"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the load generator starts");
        let input = child.stdin.take();
        let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let said = thread::spawn(move || {
            let mut said = String::new();
            // It says nothing before its end.
            let _ = stderr.read_to_string(&mut said);
            let _ = stdout.read_to_string(&mut said);
            said
        });
        Some(Load { child, input, said: Some(said) })
    }

    /// Lets its load balancers do nothing for a while, or go on.
    pub(super) fn pause(&self, paused: bool) {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        // It may have ended, which the next look finds.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Fails if it has found something wrong.
    pub(super) fn look(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("gwm-loadgen ends with {status}: {}", self.words());
        }
    }

    fn words(&mut self) -> String {
        self.said.take().map_or(String::new(), |said| said.join().expect("no panic"))
    }

    /// Ends it, and gives what it has counted.
    pub(super) fn end(mut self) -> Value {
        self.input = None;
        let mut status = None;
        until("gwm-loadgen ends", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        let words = self.words();
        assert!(status.is_some_and(|status| status.success()), "gwm-loadgen: {words}");
        let report: Value = serde_json::from_str(&words).unwrap_or_else(|error| panic!("{error}: {words}"));
        let metrics = report["runs"][0]["metrics"].clone();
        assert_eq!(metrics["LBs with all that was acknowledged in the end"], f64::from(LBS), "{metrics}");
        metrics
    }
}

//! A thread of a process that hangs.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Stops one thread of a process for as long as its own stdin is open.
const STOP_THREAD: &str = r#"
import ctypes, sys
SEIZE, INTERRUPT = 0x4206, 0x4207
ptrace = ctypes.CDLL(None).ptrace
thread = int(sys.argv[1])
if ptrace(SEIZE, thread, None, None) == 0 and ptrace(INTERRUPT, thread, None, None) == 0:
    print("stopped", flush=True)
    sys.stdin.read()
"#;

/// A stopped thread; it goes on when this value is dropped.
pub(crate) struct Stopped(Child);

impl Stopped {
    /// Stops the thread of a process that has this name; `None`, with a word, where no process may be traced.
    pub(crate) fn new(process: u32, name: &str) -> Option<Stopped> {
        let mut stopper = Command::new("python3")
            .args(["-c", STOP_THREAD, &thread_of(process, name)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut told = BufReader::new(stopper.stdout.take().expect("stdout is piped"));
        let stopped = Stopped(stopper);
        if told.read_line(&mut String::new()).is_ok_and(|length| length == 0) {
            eprintln!("left out: this needs the right to trace a process");
            return None;
        }
        Some(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The number of the thread with this name.
fn thread_of(process: u32, name: &str) -> String {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let mut tasks = tasks.map(|task| task.expect("an entry").path());
    let named = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|is| is.trim() == name);
    let task = tasks.find(named).expect("a thread of this name");
    task.file_name().expect("a number").to_string_lossy().into_owned()
}

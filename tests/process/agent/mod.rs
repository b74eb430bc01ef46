//! `gwm agent`, as a process, with a real daemon.

mod answers;
mod child;
mod farm;
mod fleet;
mod hand;
mod idle;
mod kills;
mod life;
mod memory;
mod overload;
mod reload;
mod systemd;
mod unprivileged;
mod watchdog;

use std::{
    env, fs,
    io::{self, Read},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PATIENCE, Peer, command, run, until};

/// Where agents of one test find each other; removed when this value is dropped.
pub(crate) struct RunDirectory(PathBuf);

impl RunDirectory {
    pub(crate) fn new() -> RunDirectory {
        // The path of a socket has 108 bytes at most, so it is not in the target directory.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gwm-agent-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        RunDirectory(env::temp_dir().join(name))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a plain name")
    }

    /// What `gwm agent` with these words prints, if it succeeds.
    pub(crate) fn tell(&self, words: &[&str]) -> Result<String, String> {
        let output = run(&[&["agent"], words, &["--run-dir", self.path()]].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The arguments of an agent for the group `web` of `LB1`, with short waits and these flags.
fn arguments<'a>(directory: &'a RunDirectory, flags: &[&'a str]) -> Vec<&'a str> {
    let short = ["--retry", "1s", "--refresh", "1s", "--quiesce-time", "300ms", "--check-interval", "100ms"];
    let mut arguments = vec!["agent", "--run-dir", directory.path(), "--log-level", "debug"];
    for pair in short.chunks(2).filter(|pair| !flags.contains(&pair[0])) {
        arguments.extend(pair);
    }
    if !flags.contains(&"--config") {
        arguments.extend(["--lb", "LB1", "--group", "web"]);
    }
    arguments.extend(flags);
    arguments
}

/// `gwm agent`, killed when this value is dropped.
pub(crate) struct Agent {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts `gwm agent` for the group `web` of `LB1`, with short waits and these flags.
    pub(crate) fn start(directory: &RunDirectory, flags: &[&str]) -> Agent {
        Agent::start_in(directory, flags, &[])
    }

    /// As [`Agent::start`], with these variables.
    fn start_in(directory: &RunDirectory, flags: &[&str], environment: &[(&str, String)]) -> Agent {
        let mut agent = command(&arguments(directory, flags));
        agent.envs(environment.iter().map(|(name, value)| (name, value)));
        Agent::spawn(agent)
    }

    fn spawn(mut agent: Command) -> Agent {
        let mut child = agent.stdout(Stdio::null()).spawn().expect("the binary starts");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut chunk) {
                shared.lock().expect("no panic under the lock").push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        });
        Agent { child, log }
    }

    /// Its process.
    fn id(&self) -> u32 {
        self.child.id()
    }

    /// The memory of its own, in KiB: not the pages of its binary, which all processes of this binary share.
    pub(crate) fn own_kib(&self) -> u64 {
        self.kib("RssAnon")
    }

    /// A figure of `/proc/PID/status`, in KiB.
    fn kib(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')).expect("such a figure");
        line.split_whitespace().next().and_then(|figure| figure.parse().ok()).expect("a figure in KiB")
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic under the lock").clone()
    }

    /// Waits until one line of the log has all `parts`.
    pub(crate) fn wait_for_log(&self, parts: &[&str]) {
        until(&format!("a log line with {parts:?}"), || self.has_logged(parts));
    }

    pub(crate) fn has_logged(&self, parts: &[&str]) -> bool {
        self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let mut status = None;
        until(&format!("the agent ends: {}", self.log()), || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills it, as a crash does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if thread::panicking() {
            eprintln!("--- the agent's stderr ---\n{log}---");
        } else {
            assert!(!log.contains("panicked"), "the agent panicked:\n{log}");
        }
    }
}

/// Takes connections, and closes each when its client has.
pub(crate) fn serve(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().expect("it is bound");
    // The thread ends with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || io::copy(&mut stream, &mut io::sink()));
        }
    });
    address
}

/// [`serve`] on a free port.
pub(crate) fn service() -> SocketAddr {
    serve(TcpListener::bind("127.0.0.1:0").expect("a free port"))
}

/// What the GWM lists for `LB1` after all members of its group have left.
pub(crate) const EMPTY: &str = "LB1/web []";

/// What the GWM lists for `LB1`, in the notation of `wire::show`: members, state, flags, weights.
pub(crate) fn listed(lb: &mut Peer) -> String {
    lb.get_weights("LB1", &[""])
}

/// Waits until the GWM lists this for `LB1`.
pub(crate) fn until_listed(lb: &mut Peer, expected: &str) {
    let mut last = String::new();
    let start = std::time::Instant::now();
    while last != expected {
        assert!(start.elapsed() < PATIENCE, "never listed: {expected}\nbut: {last}");
        last = listed(lb);
    }
}

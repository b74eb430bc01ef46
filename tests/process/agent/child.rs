//! `gwm agent … -- CMD ARGS`.

use std::{
    fs,
    net::SocketAddr,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddress, UnixDatagram},
    },
    process::{Command, Stdio},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use super::{Agent, EMPTY, RunDirectory, listed, until_listed};
use crate::{
    connect::{proxy::request, real::free_address},
    harness::{Daemon, Peer, TempFile, command, finish, until},
};

/// A web server whose answers take as long as the path says (`/0.5`), which writes into a file what happens to it.
const SERVER: &str = r#"
import http.server, os, signal, sys, time
log = open(sys.argv[2], "a", buffering=1)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(float(self.path[1:] or 0))
        self.send_response(200); self.send_header("Content-Length", "2"); self.send_header("Connection", "close"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
def end(number, frame):
    log.write(f"signal {number}\n")
    os._exit(3)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGHUP, lambda number, frame: log.write("reload\n"))
log.write(f"started {os.getpid()}\n")
server.serve_forever()
"#;

pub(super) struct Server {
    program: TempFile,
    pub(super) log: TempFile,
    pub(super) address: SocketAddr,
    port: String,
}

impl Server {
    pub(super) fn new() -> Server {
        let address = free_address();
        let (program, log) = (TempFile::new("server.py", SERVER), TempFile::new("server.log", ""));
        Server { program, log, address, port: address.port().to_string() }
    }

    /// The words that start it.
    pub(super) fn command(&self) -> [&str; 4] {
        ["python3", self.program.path(), &self.port, self.log.path()]
    }

    pub(super) fn said(&self) -> String {
        fs::read_to_string(self.log.path()).expect("the file exists")
    }

    pub(super) fn process(&self) -> Option<u32> {
        self.said().lines().filter_map(|line| line.strip_prefix("started ")?.parse().ok()).next_back()
    }
}

/// A connection of `LB1`, which trusts its members.
fn lb(daemon: &Daemon) -> Peer {
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    lb
}

#[test]
fn a_started_service_is_drained_before_it_gets_the_signal_and_its_status_is_the_agents() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let server = Server::new();
    let directory = RunDirectory::new();
    let (gwm, member) = (daemon.address().to_string(), server.address.to_string());
    let start =
        || Agent::start(&directory, &[&["--gwm", &gwm, "--member", &member, "--"][..], &server.command()].concat());
    let agent = start();
    until_listed(&mut lb, &format!("LB1/web [{member} 00/01/100]"));
    agent.signal(Signal::HUP);
    until("the service reloads", || server.said().contains("reload"));
    // A request that lasts is answered.
    let slow = std::thread::spawn({
        let address = server.address;
        move || get(address, "/1.5")
    });
    until("the request is there", || directory.tell(&["status"]).is_ok_and(|text| text.contains("1 connection")));
    agent.signal(Signal::TERM);
    until_listed(&mut lb, &format!("LB1/web [{member} 00/03/0]"));
    assert!(!server.said().contains("signal"));
    assert!(slow.join().unwrap(), "the request was answered");
    assert_eq!(agent.wait().code(), Some(3));
    assert!(server.said().contains("signal 15"));
    assert_eq!(listed(&mut lb), EMPTY);

    // A service that crashes is deregistered, and the status says so.
    let agent = start();
    until_listed(&mut lb, &format!("LB1/web [{member} 00/01/100]"));
    let process = server.process().expect("it has started");
    let process = rustix::process::Pid::from_raw(process as i32).unwrap();
    rustix::process::kill_process(process, Signal::KILL).unwrap();
    assert_eq!(agent.wait().code(), Some(137));
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

fn get(address: SocketAddr, path: &str) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
    let _ = stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).is_ok() && answer.ends_with("ok")
}

#[test]
fn a_service_that_can_not_be_started_is_an_error() {
    let directory = RunDirectory::new();
    let agent = Agent::start(&directory, &["--member", "10.0.0.1:80", "--", "/nonexistent/server"]);
    agent.wait_for_log(&["can not run /nonexistent/server"]);
    assert_eq!(agent.wait().code(), Some(1));
}

#[test]
fn systemd_does_not_hear_ready_of_a_service_that_ends_before_it_answers() {
    let name = format!("gwm-agent-child-{}", std::process::id());
    let systemd = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    let directory = RunDirectory::new();
    let (gwm, member) = (free_address().to_string(), free_address().to_string());
    let flags = ["--gwm", &gwm, "--lb", "LB1", "--group", "web", "--member", &member, "--run-dir", directory.path()];
    let mut agent = command(&[&["agent"], &flags[..], &["--", "sh", "-c", "exit 3"]].concat());
    let output = finish(agent.env("NOTIFY_SOCKET", format!("@{name}")).spawn().unwrap());
    assert_eq!(output.status.code(), Some(3));
    systemd.set_nonblocking(true).unwrap();
    let mut bytes = [0; 1024];
    let mut heard = Vec::new();
    while let Ok(length) = systemd.recv(&mut bytes) {
        heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
    }
    assert!(heard.iter().any(|words| words.starts_with("STOPPING=1")), "{heard:?}");
    assert!(!heard.iter().any(|words| words.contains("READY")), "{heard:?}");
}

/// As process 1 the agent inherits processes whose parents have ended.
#[test]
fn process_1_of_a_container_reaps() {
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    if !unshare(&["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("left out: this needs a process namespace of its own (root)");
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let server = Server::new();
    let directory = RunDirectory::new();
    let found = TempFile::new("processes", "");
    // An orphan ends while the service runs; then the processes are listed.
    let orphans = format!(
        "(sh -c 'sleep 0.1 & exit 0'); (sh -c 'sleep 0.2 & exit 0'); exec {}",
        server.command().map(|word| format!("'{word}'")).join(" ")
    );
    let agent = command(&[]);
    let program = agent.get_program().to_str().expect("a plain path").to_owned();
    let (gwm, member) = (daemon.address().to_string(), server.address.to_string());
    let check = format!("exec:ps -e -o stat= > {}", found.path());
    let mut child = unshare(&[
        &program,
        "agent",
        "--gwm",
        &gwm,
        "--lb",
        "LB1",
        "--group",
        "web",
        "--member",
        &member,
        "--run-dir",
        directory.path(),
        "--retry",
        "1s",
        "--quiesce-time",
        "0s",
        "--check-interval",
        "100ms",
        "--service-check",
        &check,
        "--",
        "sh",
        "-c",
        &orphans,
    ])
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    until("the service answers", || request(server.address));
    until_listed(&mut lb, &format!("LB1/web [{member} 00/01/100]"));
    let states = || fs::read_to_string(found.path()).unwrap_or_default();
    // The agent, the service, and the check with its `ps`: no zombie, and no orphan.
    until("all orphans are reaped", || {
        let states = states();
        let count = states.lines().count();
        (2..=4).contains(&count) && !states.contains('Z')
    });
    // `unshare` passes no signal on; the agent is its only child.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let agent: i32 = fs::read_to_string(children).unwrap().trim().parse().expect("one child");
    rustix::process::kill_process(rustix::process::Pid::from_raw(agent).unwrap(), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}

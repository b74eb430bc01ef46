//! Two members behind a real HAProxy, one with half the CPU of the other by the quota of its control group, and more
//! requests than both can answer: what their agents say makes the shares of requests follow the capacities.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Agent, RunDirectory};
use crate::{
    connect::{
        Connector,
        proxy::{Proxy, backend, request},
        real::{Running, free_address, installed},
    },
    harness::{Daemon, PATIENCE, TempFile, until},
};

/// A web server that uses 4 ms of CPU for each request and counts them. `/metrics` is answered without work.
const SERVER: &str = r#"
import http.server, os, sys, threading, time
lock, count = threading.Lock(), 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        if self.path == "/metrics":
            body = "requests_total %d\n" % count
        else:
            end = time.thread_time() + 0.004
            while time.thread_time() < end:
                pass
            with lock:
                count += 1
            body = "ok\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *words):
        pass
host, port = sys.argv[1].rsplit(":", 1)
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"#;

/// A control group with a quota; removed when this value is dropped.
struct Quota(Vec<PathBuf>);

impl Quota {
    /// A group that gets so many thousandths of a core; `None`, with a word, where this machine does not let us.
    fn new(name: &str, thousandths: u64) -> Option<Quota> {
        let second = Path::new("/sys/fs/cgroup");
        let name = format!("gwm-test-{}-{name}", std::process::id());
        let has_cpu = |file: &str| {
            fs::read_to_string(second.join(file)).is_ok_and(|text| text.split_whitespace().any(|word| word == "cpu"))
        };
        if has_cpu("cgroup.controllers") {
            let _ = fs::write(second.join("cgroup.subtree_control"), "+cpu");
        }
        let parents: Vec<PathBuf> = match has_cpu("cgroup.subtree_control") {
            true => vec![second.into()],
            // Version 1 counts the time in a hierarchy that may be another one.
            false => ["cpu", "cpuacct"].iter().filter_map(|one| fs::canonicalize(second.join(one)).ok()).collect(),
        };
        let mut quota = Quota(parents.into_iter().map(|parent| parent.join(&name)).collect());
        quota.0.dedup();
        let limit = |quota: &Quota| {
            let own = quota.0.first().ok_or(std::io::ErrorKind::NotFound)?;
            quota.0.iter().try_for_each(fs::create_dir)?;
            match own.join("cpu.max").exists() {
                true => fs::write(own.join("cpu.max"), format!("{} 100000", thousandths * 100)),
                false => fs::write(own.join("cpu.cfs_quota_us"), (thousandths * 100).to_string()),
            }
        };
        match limit(&quota) {
            Ok(()) => Some(quota),
            Err(error) => {
                eprintln!("left out: this machine gives no control group with a quota: {error}");
                None
            }
        }
    }

    /// Starts the server in the group; the file gets its process's number.
    fn start(&self, address: SocketAddr, process: &str) -> Running {
        let join: String =
            self.0.iter().map(|group| format!("echo $$ >'{}/cgroup.procs' && ", group.display())).collect();
        let script = format!("{join}echo $$ >'{process}' && exec python3 -c \"$0\" {address}");
        Running::start(Command::new("sh").args(["-c", &script, SERVER]))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for group in &self.0 {
            // Its processes were killed, and are gone in a moment.
            let begin = std::time::Instant::now();
            while fs::remove_dir(group).is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
                if begin.elapsed() > PATIENCE {
                    eprintln!("{} can not be removed", group.display());
                    break;
                }
                thread::yield_now();
            }
        }
    }
}

/// A member with a quota, and its agent.
struct Member {
    address: SocketAddr,
    agent_check: SocketAddr,
    http: SocketAddr,
    _agent: Agent,
    _server: Running,
    _process: TempFile,
    _quota: Quota,
}

impl Member {
    fn start(directory: &RunDirectory, gwm: &str, name: &str, thousandths: u64) -> Option<Member> {
        let quota = Quota::new(name, thousandths)?;
        let process = TempFile::new("pid", "");
        let [address, agent_check, http] = [(); 3].map(|()| free_address());
        let server = quota.start(address, process.path());
        until("the server answers", || get(address, "/metrics").is_some());
        let agent = Agent::start(
            directory,
            &[
                "--gwm",
                gwm,
                "--name",
                name,
                "--member",
                &address.to_string(),
                "--service-check",
                &format!("pid:{}", process.path()),
                "--agent-listen",
                &agent_check.to_string(),
                "--http-listen",
                &http.to_string(),
                "--load-metrics",
                &format!("http://{address}/metrics"),
                "--load-requests",
                "requests_total",
                "--nominal-cores",
                "1",
                "--load-interval",
                "1s",
            ],
        );
        let (_process, _quota) = (process, quota);
        Some(Member { address, agent_check, http, _agent: agent, _server: server, _process, _quota })
    }

    /// How many requests it has answered.
    fn answered(&self) -> u64 {
        let page = get(self.address, "/metrics").expect("the server answers");
        let count = page.lines().find_map(|line| line.strip_prefix("requests_total "));
        count.and_then(|count| count.parse().ok()).expect("it counts")
    }
}

/// The whole answer to a request.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// Clients that ask all the time.
struct Load(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    request(address);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Load(stop, clients)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.drain(..).for_each(|client| drop(client.join()));
    }
}

/// Requests of one count.
const COUNTED: u64 = 300;

fn shares_follow_the_capacities(policy: &str, entry: impl Fn(&Member) -> String) {
    if !installed("haproxy", "haproxy") || !installed("python3", "python3") {
        return;
    }
    let directory = RunDirectory::new();
    let listen = free_address();
    let gwm = listen.to_string();
    let (Some(whole), Some(half)) = (
        Member::start(&directory, &gwm, &format!("{policy}-whole"), 300),
        Member::start(&directory, &gwm, &format!("{policy}-half"), 150),
    ) else {
        return;
    };
    let table = |member: &Member| {
        let (ip, port) = (member.address.ip(), member.address.port());
        format!("[[member]]\naddress = \"{ip}\"\nprotocol = \"tcp\"\nport = {port}\n{}\n", entry(member))
    };
    let file = TempFile::new("members.toml", table(&whole) + &table(&half));
    let checks = ["--probe-interval", "500ms", "--probe-timeout", "5s", "--push-window", "100ms", "--slow-start", "0s"];
    let flags = ["--listen", &gwm, "--members", file.path(), "--policy", policy];
    // What else runs takes CPU that the members would have.
    let _daemon = Daemon::start_alone(&[&flags[..], &checks[..]].concat());
    let servers = backend("web", "balance roundrobin", &[("whole", whole.address, ""), ("half", half.address, "")]);
    let proxy = Proxy::start(&servers);
    let _connector = Connector::start(&["--gwm", &gwm, "--trust", "haproxy", "--socket", &proxy.socket("admin")]);
    let _load = Load::start(proxy.listen, 8);
    let mut shares = Vec::new();
    until(&format!("two thirds of the requests go to the whole member, by {policy}"), || {
        let before = (whole.answered(), half.answered());
        let now = || (whole.answered() - before.0, half.answered() - before.1);
        until("requests are answered", || now().0 + now().1 >= COUNTED);
        let (first, second) = now();
        let share = first as f64 / (first + second) as f64;
        let weights: Vec<_> = proxy.servers().values().map(|server| server.weight).collect();
        shares.push((share, weights));
        eprintln!("{policy}: {:?}", shares.last());
        // Within 10 %, and not by a chance of one count.
        let is_good = |(share, _): &(f64, Vec<u32>)| (0.6..=0.733).contains(share);
        shares.len() >= 2 && shares.iter().rev().take(2).all(is_good)
    });
}

#[test]
fn shares_follow_the_capacities_by_agent_check() {
    shares_follow_the_capacities("agent", |member| {
        format!("monitor = \"agent\"\nagent_port = {}", member.agent_check.port())
    });
}

#[test]
fn shares_follow_the_capacities_by_load_report() {
    shares_follow_the_capacities("orca", |member| {
        format!("monitor = \"http\"\nhttp = {{ port = {}, path = \"/orca\" }}", member.http.port())
    });
}

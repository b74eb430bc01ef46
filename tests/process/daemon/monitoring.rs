//! Monitoring from end to end: real listeners, HTTP servers and agents, the daemon that checks them, and the weights of
//! its LBs. All members are on loopback addresses.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use crate::harness::{Daemon, LB, Peer, TempFile, until};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

/// Checks come quickly. A check that hangs has a long timeout, because the machine may be busy.
const FAST: [&str; 8] =
    ["--probe-interval", "20ms", "--probe-timeout", "5s", "--push-window", "1ms", "--slow-start", "0s"];

pub(super) fn daemon(flags: &[&str]) -> Daemon {
    Daemon::start(&[&FAST, flags].concat())
}

/// What a server does with a connection.
pub(super) type Service = fn(TcpStream, &Mutex<String>);

/// A server on a thread, until it is dropped; then its port is closed.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// The answer to each connection.
    answer: Arc<Mutex<String>>,
    /// How many connections the server has accepted.
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn open(address: &str, service: Service, answer: &str) -> Server {
        let listener = TcpListener::bind(address).expect("a loopback address can be bound");
        let address = listener.local_addr().expect("it is bound");
        let (answer, accepted, stop) =
            (Arc::new(Mutex::new(answer.to_owned())), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (answer, accepted, stop) = (answer.clone(), accepted.clone(), stop.clone());
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    accepted.fetch_add(1, Ordering::Relaxed);
                    if let Ok(stream) = stream {
                        service(stream, &answer);
                    }
                }
            }
        });
        Server { address, answer, accepted, stop, thread: Some(thread) }
    }

    /// A server that accepts and sends nothing.
    pub(super) fn silent(address: &str) -> Server {
        Server::open(address, |_, _| (), "")
    }

    pub(super) fn say(&self, answer: &str) {
        *self.answer.lock().expect("no panic under the lock") = answer.to_owned();
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The server as a member, in the notation of [`crate::wire`].
    pub(super) fn name(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread. An error means that the thread has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a server panicked");
        }
    }
}

/// Reads an HTTP request and answers with this head.
pub(super) fn http(stream: TcpStream, answer: &Mutex<String>) {
    let mut lines = BufReader::new(&stream);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line != "\r\n" {
        line.clear();
    }
    let answer = answer.lock().expect("no panic under the lock").clone();
    // The daemon may have closed the connection.
    let _ = (&stream).write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes());
}

/// Sends one line.
pub(super) fn agent(mut stream: TcpStream, answer: &Mutex<String>) {
    let answer = answer.lock().expect("no panic under the lock").clone();
    let _ = stream.write_all(format!("{answer}\n").as_bytes());
}

/// A push LB with these members in its group `G`.
pub(super) fn lb(daemon: &Daemon, uid: &str, members: &[&str]) -> Peer {
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, uid, "G", members), OK);
    assert_eq!(lb.set_lb(uid, LbFlags::PUSH), OK);
    lb
}

/// A push with these entries in `LB1/G`.
pub(super) fn group(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(member, says)| format!("{member} {says}")).collect();
    format!("LB1/G [{}]", entries.join(", "))
}

pub(super) const UP: &str = "00/0D/100";
pub(super) const DOWN: &str = "00/0C/0";
const UNKNOWN: &str = "00/05/100";

#[test]
fn a_port_that_closes_is_out_of_contact_and_one_that_opens_is_back() {
    let daemon = daemon(&["--probe", "tcp"]);
    let (stays, moves) = (Server::silent("127.0.0.1:0"), Server::silent("127.0.0.1:0"));
    let (stays_name, moves_name) = (stays.name(), moves.name());
    let mut lb = lb(&daemon, "LB1", &[&stays_name, &moves_name, "127.0.0.1:9/udp"]);
    let all = |moves| group(&[(&stays_name, UP), (&moves_name, moves), ("127.0.0.1:9/udp", UNKNOWN)]);
    lb.push_until(&all(UP));
    drop(moves);
    lb.push_until(&all(DOWN));
    let moves = Server::silent(&moves_name);
    lb.push_until(&all(UP));
    drop((stays, moves));
    daemon.stop();
}

/// Each check of this server has the opposite result of the one before, and one result is enough for a judgement.
#[test]
fn a_flapping_member_makes_one_push_a_window() {
    let window = Duration::from_millis(200);
    let flapping = Server::open(
        "127.0.0.1:0",
        |stream, answer| {
            http(stream, answer);
            let mut answer = answer.lock().expect("no panic under the lock");
            *answer = if *answer == "200 OK" { "503 Away".into() } else { "200 OK".into() };
        },
        "200 OK",
    );
    let flags = ["--probe", "http", "--probe-interval", "10ms", "--probe-timeout", "5s"];
    let daemon =
        Daemon::start(&[&flags[..], &["--probe-rise", "1", "--probe-fall", "1", "--push-window", "200ms"]].concat());
    let start = Instant::now();
    let mut lb = lb(&daemon, "LB1", &[&flapping.name()]);
    let pushes = 6;
    for _ in 0..pushes {
        lb.push();
    }
    assert!(start.elapsed() >= window * pushes, "{pushes} pushes in {:?}", start.elapsed());
    assert!(flapping.accepted() > 2 * u64::from(pushes), "it changed oftener than it was told of");
    daemon.stop();
}

#[test]
fn an_agent_drains_and_weighs_its_member() {
    let (member, speaker) = (Server::silent("127.0.0.1:0"), Server::open("127.0.0.1:0", agent, "up ready 100%"));
    let file = TempFile::new(
        "agent.toml",
        format!(
            "[[member]]\naddress = \"127.0.0.1\"\nport = {}\nweight = 80\nmonitor = [\"tcp\", \"agent\"]\nagent_port = {}\n",
            member.address.port(),
            speaker.address.port()
        ),
    );
    let daemon = daemon(&["--probe", "off", "--members", file.path()]);
    let name = member.name();
    let mut lb = lb(&daemon, "LB1", &[&name]);
    lb.push_until(&group(&[(&name, "00/0D/80")]));
    for (says, expected) in [
        ("drain", "00/0D/0"),
        ("ready", "00/0D/80"),
        ("maint", "00/0D/0"),
        ("ready up", "00/0D/80"),
        ("down#disk full", DOWN),
        ("up", "00/0D/80"),
    ] {
        speaker.say(says);
        lb.push_until(&group(&[(&name, expected)]));
    }
    speaker.say("weight:256");
    lb.push_until(&group(&[(&name, UP)]));
    daemon.wait_for_log(&["WARN", &name, "the agent says weight:256; it counts as --weight-max, 100"]);
    speaker.say("200%");
    let before = speaker.accepted();
    until("the agent has said 200%", || speaker.accepted() > before + 5);
    assert_eq!(daemon.log().matches("it counts as --weight-max").count(), 1, "once for each member");
    // An agent that is gone changes nothing by itself; a closed port does.
    drop(speaker);
    drop(member);
    lb.push_until(&group(&[(&name, DOWN)]));
    daemon.stop();
}

/// An HAProxy with one server, which the server's agent weighs.
struct Haproxy {
    process: Child,
    config: TempFile,
    socket: String,
}

impl Haproxy {
    fn start(server: SocketAddr, agent: SocketAddr) -> Haproxy {
        // In /tmp, because a socket's name has 107 bytes at most.
        let socket = format!("/tmp/gwm-haproxy-{}-{}", std::process::id(), agent.port());
        let config = format!(
            "global\n  stats socket {socket} mode 600 level user\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             backend farm\n  server one {server} weight 100 check inter 20ms \
             agent-check agent-addr {} agent-port {} agent-inter 20ms\n",
            agent.ip(),
            agent.port()
        );
        let config = TempFile::new("haproxy.cfg", config);
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", config.path()]).stderr(Stdio::null());
        let process = command.spawn().expect("tests/run installs haproxy");
        Haproxy { process, config, socket }
    }

    /// Status and weight of the server in `show stat`.
    fn server(&self) -> Option<(String, u16)> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.write_all(b"show stat\n").ok()?;
        let lines: Vec<String> = BufReader::new(stream).lines().collect::<Result<_, _>>().ok()?;
        let header: Vec<&str> = lines.first()?.trim_start_matches("# ").split(',').collect();
        let fields: Vec<&str> = lines.iter().find(|line| line.starts_with("farm,one,"))?.split(',').collect();
        let field = |name| fields.get(header.iter().position(|field| *field == name)?).copied();
        Some((field("status")?.to_owned(), field("weight")?.parse().ok()?))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The first push after an agent's word has the weight that HAProxy gives its server for the same word.
#[test]
fn an_agents_word_gives_the_weight_that_haproxy_gives() {
    let (member, speaker) = (Server::silent("127.0.0.1:0"), Server::open("127.0.0.1:0", agent, "up ready 100%"));
    let file = TempFile::new(
        "haproxy.toml",
        format!(
            "[[member]]\naddress = \"127.0.0.1\"\nport = {}\nmonitor = [\"tcp\", \"agent\"]\nagent_port = {}\n",
            member.address.port(),
            speaker.address.port()
        ),
    );
    let daemon = daemon(&["--probe", "off", "--members", file.path()]);
    let haproxy = Haproxy::start(member.address, speaker.address);
    let name = member.name();
    let mut lb = lb(&daemon, "LB1", &[&name]);
    lb.push_until(&group(&[(&name, UP)]));
    // HAProxy gives no weight to a server that takes no new work, and shows the weight that the server would have.
    for (says, taking, weight) in [
        ("100%", true, 100),
        ("75%", true, 75),
        ("drain", false, 0),
        ("ready", true, 75),
        ("maint", false, 0),
        ("ready", true, 75),
        ("0%", false, 0),
        ("74%", true, 74),
        ("down", false, 0),
        ("up", true, 74),
    ] {
        speaker.say(says);
        if says != "100%" {
            let expected = if says == "down" { DOWN.into() } else { format!("00/0D/{weight}") };
            assert_eq!(lb.push(), group(&[(&name, &expected)]), "the first push after {says}");
        }
        until(says, || {
            haproxy.server().is_some_and(|(status, held)| {
                if taking { status == "UP" && held == weight } else { status != "UP" || held == 0 }
            })
        });
    }
    // This word is gwm's own.
    speaker.say("weight:40");
    assert_eq!(lb.push(), group(&[(&name, "00/0D/40")]));
    let before = speaker.accepted();
    until("HAProxy has heard it", || speaker.accepted() > before + 20);
    assert_eq!(haproxy.server(), Some(("UP".into(), 74)), "{}", haproxy.config.path());
    drop(haproxy);
    daemon.stop();
}

/// Two servers of the same capacity; one reports that it can take four times as much.
#[test]
fn load_reports_change_weights() {
    let load = |rps, utilization| {
        format!("200 OK\r\nendpoint-load-metrics: TEXT rps_fractional={rps},cpu_utilization={utilization}")
    };
    let (strong, weak) =
        (Server::open("127.0.0.1:0", http, &load(200, 0.5)), Server::open("127.0.0.1:0", http, &load(50, 0.5)));
    let daemon = daemon(&["--probe", "http"]);
    let mut lb = lb(&daemon, "LB1", &[&strong.name(), &weak.name()]);
    until("one has four times the weight of the other", || {
        let push = lb.push();
        let weights: Vec<f64> =
            push.split(&[' ', ',', ']']).filter_map(|word| word.strip_prefix("00/0D/")?.parse().ok()).collect();
        matches!(weights[..], [strong, weak] if (3.5..4.5).contains(&(strong / weak)))
    });
    daemon.stop();
}

/// Two servers that report how full they are and no rate of requests, as vLLM does: in text, and in protobuf.
#[test]
fn a_utilisation_alone_changes_weights() {
    let full = Server::open("127.0.0.1:0", http, "200 OK\r\nendpoint-load-metrics: TEXT named_metrics.cache=0.8");
    // named_metrics = { cache: 0.2 }
    let free = Server::open("127.0.0.1:0", http, "200 OK\r\nendpoint-load-metrics-bin: QhAKBWNhY2hlEZqZmZmZmck/");
    let rule =
        "[[member]]\ncidr = \"127.0.0.1/32\"\nmonitor = \"http\"\nhttp.utilization = [\"named_metrics.cache\"]\n";
    let file = TempFile::new("utilization.toml", rule);
    let daemon = daemon(&["--members", file.path(), "--probe", "off"]);
    let mut lb = lb(&daemon, "LB1", &[&free.name(), &full.name()]);
    until("one has four times the weight of the other", || {
        let push = lb.push();
        let weights: Vec<f64> =
            push.split(&[' ', ',', ']']).filter_map(|word| word.strip_prefix("00/0D/")?.parse().ok()).collect();
        matches!(weights[..], [free, full] if (3.5..4.5).contains(&(free / full)))
    });
    daemon.stop();
}

#[test]
fn a_metric_that_no_load_report_has_is_told_once() {
    let report = "200 OK\r\nendpoint-load-metrics: TEXT named_metrics.queue=0.5,rps_fractional=10";
    let server = Server::open("127.0.0.1:0", http, report);
    let (address, port) = (server.address.ip(), server.address.port());
    let member = format!("[[member]]\naddress = \"{address}\"\nport = {port}\nmonitor = \"http\"\n");
    let names = |names: &str| format!("{member}http.utilization = [{names}]\n");
    let wrong = "\"named_metrics.queu\", \"named_metrics.queue\", \"cpu_utilization\"";
    let file = TempFile::new("metrics.toml", names(wrong));
    let daemon = daemon(&["--probe", "off", "--members", file.path()]);
    let lb = lb(&daemon, "LB1", &[&server.name()]);
    let told =
        ["WARN", "utilization names \"named_metrics.queu\", \"cpu_utilization\", and no load report", &server.name()];
    daemon.wait_for_log(&told);
    let checks = server.accepted() + 20;
    until("twenty more checks", || server.accepted() >= checks);
    let lines = |part: &str| daemon.log().lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines("utilization names"), 1);

    file.write(names("\"named_metrics.queue\""));
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["SIGHUP", "is in force"]);
    let checks = server.accepted() + 20;
    until("twenty more checks", || server.accepted() >= checks);
    assert_eq!(lines("utilization names"), 1);
    drop(lb);
    daemon.stop();
}

#[test]
fn rules_of_networks_say_who_is_watched() {
    let (watched, vouched, unlisted) =
        (Server::silent("127.1.0.1:0"), Server::silent("127.1.2.1:0"), Server::silent("127.2.0.1:0"));
    let rules = "[[member]]\ncidr = \"127.1.0.0/16\"\nmonitor = \"tcp\"\nweight = 60\n\
                 [[member]]\ncidr = \"127.1.2.0/24\"\nmonitor = \"none\"\nweight = 7\n";
    let file = TempFile::new("cidr.toml", rules);
    let daemon = daemon(&["--probe", "off", "--members", file.path()]);
    let names = [watched.name(), vouched.name(), unlisted.name()];
    let mut lb = lb(&daemon, "LB1", &[&names[0], &names[1], &names[2]]);
    let says = |says: &str| group(&[(&names[0], says), (&names[1], "00/0D/7"), (&names[2], UNKNOWN)]);
    lb.push_until(&says("00/0D/60"));
    drop(watched);
    lb.push_until(&says(DOWN));
    // The operator sets a fixed weight, then takes it back.
    file.write(rules.replace("monitor = \"tcp\"", "monitor = \"none\""));
    daemon.signal(Signal::HUP);
    lb.push_until(&says("00/0D/60"));
    let before = unlisted.accepted() + vouched.accepted();
    file.write(rules);
    daemon.signal(Signal::HUP);
    lb.push_until(&says(DOWN));
    assert_eq!((before, unlisted.accepted() + vouched.accepted()), (0, 0), "nobody asked for these to be watched");
    daemon.stop();
}

/// Statements of operator, LB and monitor about a member are kept apart: each ends only its own.
#[test]
fn an_operators_quiesce_is_not_undone_by_others() {
    let server = Server::silent("127.0.0.1:0");
    let name = server.name();
    let port = server.address.port();
    let rule = |rest: &str| format!("[[member]]\naddress = \"127.0.0.1\"\nport = {port}\n{rest}");
    let watched = rule("weight = 50\nmonitor = \"tcp\"\n");
    let file = TempFile::new("quiesce.toml", &watched);
    let daemon = daemon(&["--probe", "off", "--members", file.path()]);
    let mut lb = lb(&daemon, "LB1", &[&name]);
    let says = |says: &str| group(&[(&name, says)]);
    lb.push_until(&says("00/0D/50"));
    file.write(format!("{watched}quiesced = true\n"));
    daemon.signal(Signal::HUP);
    lb.push_until(&says("00/0F/0"));
    // The LB quiesces the member too, then resumes: the operator still quiesces.
    assert_eq!(lb.set_member(LB, ("LB1", "G", &name), 0, true), OK);
    assert_eq!(lb.set_member(LB, ("LB1", "G", &name), 1, false), OK);
    assert_eq!(lb.get_weights("LB1", &["G"]), says("01/0F/0"));
    // The same in the opposite order.
    assert_eq!(lb.set_member(LB, ("LB1", "G", &name), 1, true), OK);
    file.write(&watched);
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["SIGHUP", file.path()]);
    assert_eq!(lb.set_member(LB, ("LB1", "G", &name), 2, true), OK);
    assert_eq!(lb.get_weights("LB1", &["G"]), says("02/0F/0"));
    assert_eq!(lb.set_member(LB, ("LB1", "G", &name), 2, false), OK);
    lb.push_until(&says("02/0D/50"));
    // A fixed weight stays, whatever a check would find.
    file.write(rule("weight = 9\nmonitor = \"none\"\n"));
    daemon.signal(Signal::HUP);
    lb.push_until(&says("02/0D/9"));
    drop(server);
    assert_eq!(lb.get_weights("LB1", &["G"]), says("02/0D/9"));
    daemon.stop();
}

/// A member of twenty LBs is checked as often as a member of one LB; a member of no LB is not checked any more.
#[test]
fn a_member_is_watched_once_and_as_long_as_someone_lists_it() {
    let (one, many) = (Server::silent("127.0.0.1:0"), Server::silent("127.0.0.1:0"));
    let daemon = daemon(&["--probe", "tcp", "--shards", "2"]);
    let mut first = lb(&daemon, "LB1", &[&one.name()]);
    let mut others: Vec<Peer> = (2..22).map(|number| lb(&daemon, &format!("LB{number}"), &[&many.name()])).collect();
    first.push_until(&group(&[(&one.name(), UP)]));
    let before = (one.accepted(), many.accepted());
    until("checks go on", || one.accepted() >= before.0 + 30);
    let checks = many.accepted() - before.1;
    assert!((10..100).contains(&checks), "{checks} checks of a member of twenty LBs");

    for (number, lb) in (2..).zip(&mut others) {
        assert_eq!(lb.deregister(LB, &format!("LB{number}"), "G", &[]), OK);
    }
    // The order to stop may still be on its way, and a check may still run.
    let settled = one.accepted() + 5;
    until("checks of the other go on", || one.accepted() >= settled);
    let last = many.accepted();
    until("checks of the other go on", || one.accepted() >= settled + 20);
    assert_eq!(many.accepted(), last, "it is checked though nobody lists it");
    daemon.stop();
}

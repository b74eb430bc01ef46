//! `gwm connect haproxy`, with a real HAProxy.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use gwm::connect::haproxy::{Server, servers};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Connector, Gwm, Member,
    admin::{admin, get, metric},
    real::{free_address, installed},
};
use crate::harness::{TempFile, run, until};

/// A master and a worker of HAProxy; it can be reloaded and restarted.
pub(crate) struct Proxy {
    configuration: TempFile,
    sockets: PathBuf,
    pub(crate) listen: SocketAddr,
    tcp: SocketAddr,
    child: Option<Child>,
}

/// A backend's section: each server with its name, address and more words.
pub(crate) fn backend(name: &str, words: &str, servers: &[(&str, SocketAddr, &str)]) -> String {
    let lines = servers.iter().map(|(name, address, words)| format!(" server {name} {address} {words}\n"));
    format!("backend {name}\n {words}\n{}", lines.collect::<String>())
}

impl Proxy {
    /// HAProxy with these backends; its frontend uses the backend `web`.
    pub(crate) fn start(backends: &str) -> Proxy {
        // The path of a socket has 108 bytes at most, so it is not in the target directory.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gwm-connect-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let sockets = env::temp_dir().join(name);
        fs::create_dir(&sockets).expect("a new directory");
        let (listen, tcp) = (free_address(), free_address());
        let socket = |name: &str| sockets.join(name).display().to_string();
        let configuration = TempFile::new(
            "haproxy.cfg",
            format!(
                "global\n stats socket {} level admin\n stats socket {} level user\n \
                 stats socket ipv4@{tcp} level admin\n\
                 defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
                 frontend all\n bind {listen}\n default_backend web\n{backends}\n",
                socket("admin"),
                socket("user")
            ),
        );
        let mut proxy = Proxy { configuration, sockets, listen, tcp, child: None };
        proxy.restart();
        proxy
    }

    pub(crate) fn socket(&self, name: &str) -> String {
        self.sockets.join(name).display().to_string()
    }

    fn restart(&mut self) {
        self.end();
        let child = Command::new("haproxy")
            .args(["-W", "-db", "-S", &self.socket("master"), "-f", self.configuration.path()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("HAProxy starts"));
        until("HAProxy listens", || {
            TcpStream::connect(self.listen).is_ok() && self.try_to_ask("show info").is_ok_and(|info| !info.is_empty())
        });
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    fn worker(&self) -> String {
        let info = self.try_to_ask("show info").unwrap_or_default();
        info.lines().find(|line| line.starts_with("Pid: ")).unwrap_or_default().into()
    }

    /// Lets the master start a new worker with the configuration.
    pub(crate) fn reload(&self) {
        let old = self.worker();
        kill_process(self.pid(), Signal::USR2).expect("the master runs");
        until("a new worker answers", || !self.worker().is_empty() && self.worker() != old);
    }

    /// Ends master and worker.
    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The master ends its workers, too.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let _ = child.wait();
        }
    }

    fn try_to_ask(&self, command: &str) -> io::Result<String> {
        let mut answer = String::new();
        let mut stream = UnixStream::connect(self.sockets.join("admin"))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_to_ask(command).expect("HAProxy answers")
    }

    pub(crate) fn servers(&self) -> BTreeMap<String, Server> {
        let answer = self.try_to_ask("show servers state").unwrap_or_default();
        let servers = servers(answer.trim_end()).unwrap_or_default();
        servers.into_iter().map(|server| (format!("{}/{}", server.backend, server.name), server)).collect()
    }

    fn shows(&self, weights: &[(&str, u32)]) -> bool {
        let servers = self.servers();
        weights.iter().all(|(name, weight)| servers.get(*name).is_some_and(|server| server.weight == *weight))
    }

    pub(crate) fn wait_for(&self, weights: &[(&str, u32)]) {
        until(&format!("{weights:?}"), || self.shows(weights));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// One request on a connection of its own; says whether the answer is good.
pub(crate) fn request(address: SocketAddr) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Starts the connector.
fn connect(gwm: &str, socket: &str, flags: &[&str]) -> Connector {
    Connector::start(&[&["--gwm", gwm, "haproxy", "--socket", socket], flags].concat())
}

#[test]
fn requests_are_shared_by_weight_and_what_an_operator_did_stays() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [one, two, three] = [(); 3].map(|()| Member::start());
    let addresses = [one.address, two.address, three.address];
    let gwm = Gwm::start(&[(addresses[0], Some(40)), (addresses[1], Some(10)), (addresses[2], None)]);
    let web = backend("web", "", &[("s1", addresses[0], ""), ("s2", addresses[1], ""), ("s3", addresses[2], "")]);
    let other = backend("other", "", &[("s1", addresses[0], ""), ("away", addresses[1], "")]);
    let proxy = Proxy::start(&format!("{web}{other}"));
    proxy.ask("set server other/s1 weight 77;set server other/away state maint");
    let connector = connect(&gwm.address(), &proxy.socket("admin"), &["--backend", "we?"]);
    proxy.wait_for(&[("web/s1", 256), ("web/s2", 64), ("web/s3", 0)]);
    let before = [one.served(), two.served(), three.served()];
    assert_eq!((0..640).filter(|_| request(proxy.listen)).count(), 640);
    let served = [one.served() - before[0], two.served() - before[1], three.served() - before[2]];
    assert_eq!(served.iter().sum::<u64>(), 640);
    // Over few requests HAProxy's shares are less exact: 40 gave 32 to 8 instead of 30 to 10.
    assert!((496..=528).contains(&served[0]) && served[2] == 0, "40:10:none gave {served:?}");

    gwm.set(&[(addresses[0], None), (addresses[1], Some(10)), (addresses[2], Some(10))]);
    proxy.wait_for(&[("web/s1", 0), ("web/s2", 256), ("web/s3", 256)]);
    // A change by someone else heals; what the connector was not asked for stays.
    proxy.ask("set server web/s2 weight 3");
    proxy.wait_for(&[("web/s2", 256)]);
    let servers = proxy.servers();
    assert_eq!(servers["other/s1"].weight, 77);
    assert!(servers["other/away"].is_in_maintenance());
    assert!(connector.stop().success());
    assert!(proxy.shows(&[("web/s1", 0), ("web/s2", 256)]), "the last weights stay");
}

#[test]
fn what_haproxy_tells_of_its_servers_is_shown() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let (one, gone) = (Member::start(), free_address());
    let gwm = Gwm::start(&[(one.address, Some(40)), (gone, Some(40))]);
    // The GWM calls the second one down; here a request goes there all the same, and fails.
    let web = backend("web", "", &[("s1", one.address, "")]);
    let lost = backend("lost", "", &[("s1", gone, "")]);
    let proxy = Proxy::start(&format!("{web}{lost}frontend second\n bind {}\n default_backend lost\n", free_address()));
    let second = proxy.ask("show servers conn");
    assert!(second.contains("lost/s1"), "{second}");
    let connector = connect(&gwm.address(), &proxy.socket("admin"), &["--admin-listen", "127.0.0.1:0"]);
    let at = admin(&connector);
    proxy.wait_for(&[("web/s1", 256)]);
    assert!(request(proxy.listen));
    let of = |metric: &str, pool: &str, member: SocketAddr| format!("{metric}{{pool=\"{pool}\",member=\"{member}\"}}");
    until("the weight is told", || metric(&at, &of("gwm_connect_member_weight", "web", one.address)) == Some(256.0));
    assert_eq!(metric(&at, &of("gwm_connect_member_connections", "web", one.address)), Some(0.0));
    assert_eq!(metric(&at, &of("gwm_connect_member_errors_total", "web", one.address)), Some(0.0));
    let pools = get(&at, "/api/v1/pools").json();
    assert_eq!(
        (&pools["observe_fault"], &pools["pools"].as_array().map(Vec::len)),
        (&serde_json::Value::Null, &Some(2))
    );
    assert_eq!(pools["pools"][0]["members"][0]["weight"], 256);
    drop(proxy);
    until("HAProxy is gone", || get(&at, "/readyz").status == 503);
    assert_eq!(metric(&at, "gwm_connect_observed"), Some(0.0));
    assert!(metric(&at, "gwm_connect_looks_total{result=\"failed\"}") >= Some(1.0));
    assert!(get(&at, "/api/v1/pools").json()["observe_fault"].is_string());
}

#[test]
fn a_reload_a_restart_a_crash_and_a_new_gwm_change_nothing_for_long() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [one, two] = [(); 2].map(|()| Member::start().address);
    let members = [(one, Some(40)), (two, Some(20))];
    let gwm = Gwm::start(&members);
    let mut proxy = Proxy::start(&backend("web", "", &[("s1", one, "weight 7"), ("s2", two, "weight 7")]));
    let address = gwm.address();
    let connector = connect(&address, &proxy.socket("master"), &[]);
    let weights = [("web/s1", 256), ("web/s2", 128)];
    proxy.wait_for(&weights);
    proxy.reload();
    proxy.wait_for(&weights);
    connector.wait_for_log(&["INFO", "HAProxy was reloaded or restarted"]);
    proxy.restart();
    proxy.wait_for(&weights);

    // Without the GWM the last weights stay, also over a reload; a new GWM is followed.
    gwm.daemon.stop();
    proxy.reload();
    proxy.wait_for(&weights);
    let gwm = Gwm::start_at(&address, &[(one, Some(10)), (two, Some(40))]);
    proxy.wait_for(&[("web/s1", 64), ("web/s2", 256)]);
    drop(connector);
    let last = connect(&address, &proxy.tcp.to_string(), &["--on-exit", "restore"]);
    gwm.set(&[(one, Some(40)), (two, Some(10))]);
    proxy.wait_for(&[("web/s1", 256), ("web/s2", 64)]);
    assert!(last.stop().success());
    assert!(proxy.shows(&[("web/s1", 7), ("web/s2", 7)]), "the weights of the configuration");
}

#[test]
fn a_hundred_backends_are_whole_again_after_a_crash_amid_an_update() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [one, two] = [(); 2].map(|()| Member::start().address);
    let gwm = Gwm::start(&[(one, Some(40)), (two, Some(10))]);
    // Names have every byte that HAProxy allows.
    let name =
        |at: usize| format!("{}-{at}_.:azAZ09", &"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[at % 52..]);
    let backends: String = (0..100).map(|at| backend(&name(at), "", &[("s-_.:1", one, ""), ("Z9", two, "")])).collect();
    let proxy = Proxy::start(&format!("{}{backends}", backend("web", "", &[])));
    let address = gwm.address();
    let all = |first: u32, second: u32| {
        let servers = proxy.servers();
        let weight =
            |at: usize, server: &str| servers.get(&format!("{}/{server}", name(at))).map(|server| server.weight);
        (0..100).all(|at| weight(at, "s-_.:1") == Some(first) && weight(at, "Z9") == Some(second))
    };
    let mut connector = connect(&address, &proxy.socket("admin"), &[]);
    until("all have their weights", || all(256, 64));
    for round in 0..4 {
        let (first, second) = if round % 2 == 0 { (10, 40) } else { (40, 10) };
        gwm.set(&[(one, Some(first)), (two, Some(second))]);
        let changed = if round % 2 == 0 { 64 } else { 256 };
        until("the update has begun", || proxy.servers().values().any(|server| server.weight == changed));
        connector.kill();
        connector = connect(&address, &proxy.socket("admin"), &[]);
        let wanted = if round % 2 == 0 { (64, 256) } else { (256, 64) };
        until("all have their new weights", || all(wanted.0, wanted.1));
    }
    // HAProxy is reloaded amid an update.
    for (first, second, wanted) in [(20, 40, (128, 256)), (40, 20, (256, 128))] {
        gwm.set(&[(one, Some(first)), (two, Some(second))]);
        until("the update has begun", || proxy.servers().values().any(|server| server.weight == 128));
        proxy.reload();
        until("all have their new weights", || all(wanted.0, wanted.1));
    }
    // A GWM that comes and goes.
    let mut gwm = gwm;
    for _ in 0..3 {
        gwm.daemon.stop();
        gwm = Gwm::start_at(&address, &[(one, Some(40)), (two, Some(40))]);
    }
    until("the last GWM is followed", || all(256, 256));
}

#[test]
fn no_request_fails_while_a_member_drains_and_leaves() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let members = [(); 3].map(|()| Member::start());
    let [one, two, three] = [0, 1, 2].map(|at| members[at].address);
    let gwm = Gwm::start(&[(one, Some(20)), (two, Some(20)), (three, Some(20))]);
    let proxy = Proxy::start(&backend("web", "", &[("s1", one, ""), ("s2", two, ""), ("s3", three, "")]));
    proxy.ask("set server web/s3 state drain");
    let connector = connect(&gwm.address(), &proxy.socket("admin"), &["--drain"]);
    proxy.wait_for(&[("web/s1", 256), ("web/s2", 256)]);
    let (listen, stop) = (proxy.listen, AtomicBool::new(false));
    let stop = &stop;
    thread::scope(|scope| {
        let load = || {
            let (mut good, mut bad) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                if request(listen) { good += 1 } else { bad += 1 }
            }
            (good, bad)
        };
        let clients = [(); 4].map(|()| scope.spawn(load));
        for _ in 0..3 {
            gwm.set(&[(one, None), (two, Some(20)), (three, Some(20))]);
            until("s1 drains by state", || {
                let server = proxy.servers().remove("web/s1");
                server.is_some_and(|server| server.weight == 0 && server.is_drained())
            });
            // A request that is underway when the weight falls still goes to s1: it ends before s1 leaves.
            until("s1 has no sessions", || {
                let table = proxy.ask("show stat -1 4 -1");
                let row = table.lines().find(|line| line.starts_with("web,s1,")).map(|line| line.split(',').nth(4));
                row == Some(Some("0"))
            });
            members[0].set_open(false);
            let before = members[1].served();
            until("requests go on without s1", || members[1].served() > before + 50);
            members[0].set_open(true);
            gwm.set(&[(one, Some(20)), (two, Some(20)), (three, Some(20))]);
            until("s1 is back", || {
                let server = proxy.servers().remove("web/s1");
                server.is_some_and(|server| server.weight == 256 && !server.is_drained())
            });
        }
        stop.store(true, Ordering::Relaxed);
        let counts = clients.map(|client| client.join().expect("no panic"));
        assert!(counts.iter().all(|(good, bad)| *good > 0 && *bad == 0), "(good, bad): {counts:?}");
    });
    let servers = proxy.servers();
    assert!(servers["web/s3"].is_drained() && servers["web/s3"].weight == 1, "an operator drained it");
    drop(connector);
}

#[test]
fn a_static_algorithm_gets_all_or_nothing() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [one, two] = [(); 2].map(|()| Member::start().address);
    let gwm = Gwm::start(&[(one, Some(40)), (two, None)]);
    let servers = [("s1", one, "weight 9"), ("s2", two, "weight 9")];
    let proxy = Proxy::start(&backend("web", "balance source", &servers));
    let connector = connect(&gwm.address(), &proxy.socket("admin"), &[]);
    proxy.wait_for(&[("web/s1", 9), ("web/s2", 0)]);
    connector.wait_for_log(&["WARN", "backend web has a static algorithm"]);
    gwm.set(&[(one, None), (two, Some(3))]);
    proxy.wait_for(&[("web/s1", 0), ("web/s2", 9)]);
}

#[test]
fn a_wrong_socket_and_a_missing_right_are_told_once() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let proxy = Proxy::start(&backend("web", "", &[("s1", one, "")]));
    let address = gwm.address();
    let connector = connect(&address, &proxy.socket("user"), &[]);
    connector.wait_for_log(&["WARN", "does not allow to set weights", "`level admin`"]);
    assert!(proxy.shows(&[("web/s1", 1)]));
    drop(connector);
    let output = run(&["connect", "--uid", "L", "--check", "haproxy", "--socket", &proxy.socket("user")]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("`level admin`"), "{output:?}");
    let missing = proxy.socket("missing");
    let connector = connect(&address, &missing, &[]);
    connector.wait_for_log(&["WARN", &missing, "No such file or directory"]);
    fs::hard_link(Path::new(&proxy.socket("admin")), &missing).expect("a second name of the socket");
    proxy.wait_for(&[("web/s1", 256)]);
    assert_eq!(connector.log().matches("No such file or directory").count(), 1, "{}", connector.log());
    let output = run(&["connect", "--uid", "L", "--check", "haproxy", "--socket", &missing]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("pool web: group web\n  {one} s1\n"), "{output:?}");
    // A web server is no HAProxy socket.
    let connector = connect(&address, &one.to_string(), &[]);
    connector.wait_for_log(&["WARN", &one.to_string()]);
    let output = run(&["connect", "--uid", "L", "haproxy", "--socket", "nonsense"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("./nonsense"), "{output:?}");
}

#[test]
fn a_backup_server_serves_when_no_other_has_a_weight() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [one, spare] = [(); 2].map(|()| Member::start());
    let addresses = [one.address, spare.address];
    let gwm = Gwm::start(&[(addresses[0], Some(20)), (addresses[1], Some(40))]);
    let proxy = Proxy::start(&backend("web", "", &[("s1", addresses[0], ""), ("spare", addresses[1], "backup")]));
    let _connector = connect(&gwm.address(), &proxy.socket("admin"), &[]);
    proxy.wait_for(&[("web/s1", 128), ("web/spare", 256)]);
    let served = |member: &Member| {
        let before = member.served();
        assert!((0..10).all(|_| request(proxy.listen)));
        member.served() - before
    };
    assert_eq!(served(&one), 10);
    gwm.set(&[(addresses[0], None), (addresses[1], Some(40))]);
    proxy.wait_for(&[("web/s1", 0)]);
    assert_eq!(served(&spare), 10);
    gwm.set(&[(addresses[0], Some(20)), (addresses[1], Some(40))]);
    proxy.wait_for(&[("web/s1", 128)]);
    assert_eq!(served(&one), 10);
}

#[test]
fn members_that_register_themselves_are_servers_until_they_leave() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [one, two, three] = [(); 3].map(|()| Member::start());
    let addresses = [one.address, two.address, three.address];
    let weights = addresses.map(|address| (address, Some(20)));
    let gwm = Gwm::start(&weights);
    let address = gwm.address();
    let web = backend("web", "", &[("s1", addresses[0], "weight 7")]);
    let fixed = backend("fixed", "balance source", &[]);
    let proxy = Proxy::start(&format!("{web}{}{fixed}", backend("empty", "", &[])));
    let member = |command: &str, group: &str, member: SocketAddr| {
        let member = member.to_string();
        let flags = ["member", command, "--gwm", &address, "--lb", "LB1", "--group", group, "--member", &member];
        let output = run(&flags);
        assert!(output.status.success(), "{output:?}");
    };
    let name = |group: &str, member: SocketAddr| format!("{group}/gwm-{member}");
    let flags = ["--trust", "--dynamic", "--server-words", "check inter 1s"];
    let connector = connect(&address, &proxy.socket("master"), &flags);
    proxy.wait_for(&[("web/s1", 256)]);
    let (second, third) = (name("web", addresses[1]), name("web", addresses[2]));
    let names = |expected: &[&str]| {
        until(&format!("the servers {expected:?}"), || proxy.servers().keys().eq(expected.iter()));
    };

    let (listen, stop) = (proxy.listen, AtomicBool::new(false));
    let stop = &stop;
    thread::scope(|scope| {
        let load = || {
            let (mut good, mut bad) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                if request(listen) { good += 1 } else { bad += 1 }
            }
            (good, bad)
        };
        let clients = [(); 2].map(|()| scope.spawn(load));
        for _ in 0..2 {
            member("register", "web", addresses[1]);
            proxy.wait_for(&[("web/s1", 256), (&second, 256)]);
            let before = two.served();
            until("the new server gets requests", || two.served() > before + 20);
            member("deregister", "web", addresses[1]);
            until("the server is gone", || !proxy.servers().contains_key(&second));
        }
        stop.store(true, Ordering::Relaxed);
        let counts = clients.map(|client| client.join().expect("no panic"));
        assert!(counts.iter().all(|(good, bad)| *good > 0 && *bad == 0), "(good, bad): {counts:?}");
    });

    // An empty backend gets its first server; a static one takes none, which is told.
    member("register", "empty", addresses[1]);
    member("register", "fixed", addresses[1]);
    member("register", "web", addresses[2]);
    let first = name("empty", addresses[1]);
    let mut all = [&*first, "web/s1", &third];
    all.sort_unstable();
    proxy.wait_for(&[(&first, 256), (&third, 256)]);
    connector.wait_for_log(&["WARN", "backend fixed has a static algorithm"]);

    // HAProxy loses them at a reload; a connector that was killed finds them; a new GWM does not know them at once.
    proxy.reload();
    names(&all);
    connector.kill();
    proxy.ask(&format!("set server {third} weight 3"));
    let connector = connect(&address, &proxy.socket("master"), &flags);
    proxy.wait_for(&[(&first, 256), (&third, 256)]);
    gwm.daemon.stop();
    let gwm = Gwm::start_at(&address, &weights);
    until("registered again", || connector.log().matches("registered with the GWM").count() == 2);
    gwm.set(&[(addresses[0], Some(10)), (addresses[1], Some(20)), (addresses[2], Some(20))]);
    member("register", "empty", addresses[1]);
    names(&all);
    drop(connector);
    let _connector = connect(&address, &proxy.socket("master"), &["--trust", "--dynamic", "--leave-after", "0s"]);
    names(&[&first, "web/s1"]);

    let output = run(&["connect", "--uid", "L", "haproxy", "--socket", "./x", "--dynamic"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--trust"), "{output:?}");
    let words = ["--trust", "haproxy", "--socket", "./x", "--dynamic", "--server-words", "check;quit"];
    assert_eq!(run(&[&["connect", "--uid", "L"][..], &words].concat()).status.code(), Some(2));
}

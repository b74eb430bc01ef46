//! `gwm connect haproxy`, with a real HAProxy.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{
    Connector, Gwm, Member,
    admin::{admin, get, metric},
    proxy::{Proxy, backend, request},
    real::{free_address, installed},
    scenarios::{Real, Weights, outlives},
};
use crate::harness::{run, until};

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

/// The name of a backend; all of them together have every byte that HAProxy allows.
fn name(at: usize) -> String {
    format!("{}-{at}_.:azAZ09", &"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[at % 52..])
}

/// A hundred backends, and the reload that ends a worker's memory.
impl Real for Proxy {
    fn connect(&self, gwm: &str) -> Connector {
        connect(gwm, &self.socket("master"), &[])
    }

    fn has(&mut self, (first, second): Weights) -> bool {
        let servers = self.servers();
        let of = |at: usize, server: &str| servers.get(&format!("{}/{server}", name(at))).map(|server| server.weight);
        let scaled = |weight: u16| (f64::from(weight) * 256.0 / f64::from(first.max(second))).round() as u32;
        let near = |weight: Option<u32>, of: u16| weight.is_some_and(|weight| weight.abs_diff(scaled(of)) <= 1);
        (0..100).all(|at| near(of(at, "s-_.:1"), first) && near(of(at, "Z9"), second))
    }

    fn restart(&mut self) {
        Proxy::restart(self);
    }
}

#[test]
fn a_hundred_backends_with_all_bytes_in_their_names_outlive_all() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let members = [(); 2].map(|()| Member::start().address);
    let [one, two] = members;
    let backends: String = (0..100).map(|at| backend(&name(at), "", &[("s-_.:1", one, ""), ("Z9", two, "")])).collect();
    let mut proxy = Proxy::start(&format!("{}{backends}", backend("web", "", &[])));
    outlives(&mut proxy, members);
    // HAProxy is reloaded amid an update.
    let gwm = Gwm::start(&[(one, Some(10)), (two, Some(40))]);
    let _connector = Real::connect(&proxy, &gwm.address());
    until("the first weights", || proxy.has((10, 40)));
    for weights in [(20, 40), (40, 20)] {
        gwm.set(&[(one, Some(weights.0)), (two, Some(weights.1))]);
        until("the update has begun", || proxy.servers().values().any(|server| server.weight == 128));
        proxy.reload();
        until("all have their new weights", || proxy.has(weights));
    }
}

#[test]
fn a_dry_run_prints_and_changes_nothing() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let proxy = Proxy::start(&backend("web", "", &[("s1", one, "weight 7")]));
    let connector = connect(&gwm.address(), &proxy.socket("admin"), &["--dry-run"]);
    until("the step is printed", || connector.output().contains("would do: web/s1: weight 7 -> 256"));
    assert!(connector.stop().success());
    assert!(proxy.shows(&[("web/s1", 7)]));
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
    let cause = "HAProxy is not running, or this is not the path of its `stats socket`; gwm tries again each 500ms";
    connector.wait_for_log(&["WARN", &missing, "No such file or directory", cause]);
    fs::hard_link(Path::new(&proxy.socket("admin")), &missing).expect("a second name of the socket");
    proxy.wait_for(&[("web/s1", 256)]);
    assert_eq!(connector.log().matches("No such file or directory").count(), 1, "{}", connector.log());
    let output = run(&["connect", "--uid", "L", "--check", "haproxy", "--socket", &missing]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("pool web: group web\n  {one} s1\n"), "{output:?}");
    let as_haproxy_has_it = format!("unix@{missing}");
    let output = run(&["connect", "--uid", "L", "--check", "haproxy", "--socket", &as_haproxy_has_it]);
    assert!(output.status.success(), "{output:?}");
    // A web server is no HAProxy socket.
    let connector = connect(&address, &one.to_string(), &[]);
    connector.wait_for_log(&["WARN", &one.to_string()]);
    let output = run(&["connect", "--uid", "L", "haproxy", "--socket", "nonsense"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("./nonsense"), "{output:?}");
}

#[test]
fn a_backend_that_is_not_there_is_told_once() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let proxy = Proxy::start(&backend("web", "", &[("s1", one, "")]));
    let socket = proxy.socket("admin");
    let connector = connect(&gwm.address(), &socket, &["--backend", "wbe", "--backend", "we?"]);
    connector.wait_for_log(&["WARN", "no backend fits --backend wbe; HAProxy has: web"]);
    // The weight takes more looks.
    proxy.wait_for(&[("web/s1", 256)]);
    assert_eq!(connector.log().matches("no backend fits").count(), 1, "{}", connector.log());
    let output = run(&["connect", "--uid", "L", "--check", "haproxy", "--socket", &socket, "--backend", "wbe"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("no backend that fits --backend wbe"), "{output:?}");
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

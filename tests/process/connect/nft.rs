//! `gwm connect nft`, with the real kernel, in network namespaces of the test's own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use super::{
    Connector, Gwm, Member,
    admin::{admin, get, metric},
    real::{Namespace, installed},
    scenarios::{Real, Weights, drains, outlives},
};
use crate::harness::until;

/// The address that clients use.
const SERVICE: &str = "10.9.0.1:80";

/// A machine that balances, with members of its own on 10.9.1.1 and so on.
fn balancer() -> Option<Namespace> {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "network namespaces need root");
    if !root || !installed("nft", "nftables") || !installed("ip", "iproute2") {
        eprintln!("left out: this test needs root, nft and ip");
        return None;
    }
    let namespace = Namespace::new();
    for address in ["10.9.0.1/32", "10.9.1.1/32", "10.9.1.2/32", "10.9.1.3/32"] {
        namespace.ip(&format!("addr add {address} dev lo"));
    }
    Some(namespace)
}

fn nft(arguments: &str) -> Output {
    Command::new("nft").args(arguments.split(' ')).output().expect("nft is there")
}

/// A table, without the numbers of its counters.
fn table(name: &str) -> String {
    String::from_utf8(nft(&format!("-s list table inet {name}")).stdout).expect("a listing")
}

/// The rules for services.
fn rules() -> String {
    String::from_utf8(nft("list chain inet gwm services").stdout).expect("a listing")
}

fn connect(gwm: &Gwm, flags: &[&str]) -> Connector {
    Connector::start(&[&["--gwm", &gwm.address(), "nft"][..], flags].concat())
}

fn group(members: &[Member]) -> String {
    let list: Vec<String> = members.iter().map(|member| member.address.to_string()).collect();
    format!("web={}", list.join(","))
}

/// A connection to the service.
fn open() -> std::io::Result<TcpStream> {
    TcpStream::connect(SERVICE)
}

/// One request, with its answer: the member's port.
fn request(mut stream: &TcpStream) -> std::io::Result<u16> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let mut lines = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(("Content-Length", value)) = line.split_once(": ") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body)?;
    String::from_utf8_lossy(&body).parse().map_err(std::io::Error::other)
}

/// How many of 40 requests, each on a connection of its own, each member answers.
fn shares(members: &[Member]) -> Vec<u64> {
    let before: Vec<u64> = members.iter().map(Member::served).collect();
    (0..40).for_each(|_| drop(open().and_then(|stream| request(&stream))));
    members.iter().zip(before).map(|(member, before)| member.served() - before).collect()
}

#[test]
fn new_connections_follow_the_weights_exactly() {
    let Some(namespace) = balancer() else { return };
    // A client on another machine.
    let client = Namespace::new();
    namespace.ip(&format!("link add v0 type veth peer name v1 netns {}", client.id()));
    namespace.ip("addr add 10.9.2.1/24 dev v0");
    namespace.ip("link set v0 up");
    client.ip("addr add 10.9.2.2/24 dev v1");
    client.ip("link set v1 up");
    client.ip("route add default via 10.9.2.1");
    namespace.run(|| {
        let members: Vec<Member> = (1..4).map(|host| Member::start_on(&format!("10.9.1.{host}"))).collect();
        let weights = |list: [Option<u16>; 3]| -> Vec<_> {
            members.iter().zip(list).map(|(member, weight)| (member.address, weight)).collect()
        };
        let gwm = Gwm::start(&weights([Some(30), Some(10), None]));
        assert!(nft("add table inet other").status.success());
        assert!(nft("add chain inet other mine { type filter hook input priority 0 ; }").status.success());
        assert!(nft("add rule inet other mine tcp dport 9 drop").status.success());
        let others = table("other");
        let web = group(&members);
        let flags = ["--service", "10.9.0.1:80=web", "--group", &web];
        let connector = connect(&gwm, &[&flags[..], &["--admin-listen", "127.0.0.1:0"]].concat());
        let at = admin(&connector);
        let reach = |expected: [u64; 3]| until(&format!("{expected:?}"), || shares(&members) == expected);
        reach([30, 10, 0]);
        assert_eq!(client.run(|| shares(&members)), [30, 10, 0], "from another machine");
        gwm.set(&weights([Some(5), Some(10), Some(25)]));
        reach([5, 10, 25]);
        assert_eq!(client.run(|| shares(&members)), [5, 10, 25]);
        // Each connection has one request, and is counted once, over all changes. One past the service is not.
        drop(TcpStream::connect(members[0].address).expect("the member listens"));
        for member in &members {
            let series =
                |name: &str| format!("gwm_connect_member_{name}{{pool=\"web\",member=\"{}\"}}", member.address);
            assert_eq!(metric(&at, &series("new_connections_total")), Some(member.served() as f64));
        }
        let shown = get(&at, "/api/v1/pools").json()["pools"][0]["members"].clone();
        assert_eq!([0, 1, 2].map(|member| shown[member]["weight"].as_u64()), [Some(1), Some(2), Some(5)], "slots");

        // Nobody serves: connections are refused, not lost.
        gwm.set(&weights([None, None, None]));
        until("connections are rejected", || open().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused));
        gwm.set(&weights([Some(20), Some(20), None]));
        reach([20, 20, 0]);

        // What others do to the table heals; their own tables stay.
        for change in [
            "delete table inet gwm",
            "flush chain inet gwm services",
            "flush chain inet gwm output",
            "flush chain inet gwm counts",
            "flush set inet gwm tcp4",
            "add element inet gwm tcp4 { 10.9.0.1 . 80 . 10.9.1.9 . 80 }",
            "insert rule inet gwm services counter accept",
            "add table inet gwm { flags dormant ; }",
        ] {
            let whole = table("gwm");
            let done = nft(change);
            assert!(done.status.success(), "{change}: {done:?}");
            until(&format!("it heals: {change}"), || table("gwm") == whole);
            assert_eq!(shares(&members), [20, 20, 0], "{change}");
        }
        assert_eq!(table("other"), others);

        gwm.set(&weights([Some(10), Some(30), None]));
        reach([10, 30, 0]);
        drop(connector);
        let connector = connect(&gwm, &[&flags[..], &["--on-exit", "restore"]].concat());
        connector.wait_for_log(&["registered with the GWM"]);
        reach([10, 30, 0]);
        assert!(connector.stop().success());
        let served = shares(&members);
        assert!(served.iter().all(|served| (13..=14).contains(served)), "a third each: {served:?}");
    });
}

#[test]
fn requests_go_on_while_a_member_drains_and_leaves() {
    let Some(namespace) = balancer() else { return };
    namespace.run(|| {
        let members: Vec<Member> = (1..3).map(|host| Member::start_on(&format!("10.9.1.{host}"))).collect();
        let (a, b) = (members[0].address, members[1].address);
        let gwm = Gwm::start(&[(a, Some(30)), (b, Some(10))]);
        let _connector = connect(&gwm, &["--service", "10.9.0.1:80=web", "--group", &group(&members)]);
        until("the GWM is confident of both", || shares(&members) == [30, 10]);
        let kept: Vec<TcpStream> = (0..8).map(|_| open().unwrap()).collect();
        let of_kept: Vec<u16> = kept.iter().map(|stream| request(stream).unwrap()).collect();
        assert_eq!(of_kept.iter().filter(|port| **port == a.port()).count(), 6);
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        open().and_then(|stream| request(&stream)).expect("no request fails");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let more = |count: u64| {
                let from = answered.load(Ordering::Relaxed);
                until("requests are answered", || answered.load(Ordering::Relaxed) > from + count);
            };
            more(50);
            gwm.set(&[(a, None), (b, Some(10))]);
            until("the member has drained", || !rules().contains("10.9.1.1"));
            more(50); // those that were under way
            let again: Vec<u16> = kept.iter().map(|stream| request(stream).unwrap()).collect();
            assert_eq!(again, of_kept, "connections that exist keep their member");
            let served = members[0].served();
            members[0].set_open(false);
            more(200);
            assert_eq!(members[0].served(), served);
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_client_keeps_its_member_and_udp_is_balanced_too() {
    let Some(namespace) = balancer() else { return };
    for host in 1..=60 {
        namespace.ip(&format!("addr add 10.9.3.{host}/32 dev lo"));
    }
    namespace.run(|| {
        let echo = |host: u8| {
            let socket = UdpSocket::bind((format!("10.9.1.{host}"), 5353)).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&[host], from);
                }
            });
        };
        (1..3).for_each(echo);
        let asks = |client: u8| {
            let socket = UdpSocket::bind((format!("10.9.3.{client}"), 0)).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
            let mut answer = [0];
            socket.send_to(b"?", "10.9.0.1:53").and_then(|_| socket.recv(&mut answer)).map(|_| answer[0])
        };
        let all = || (1..=60).map(asks).collect::<Result<Vec<u8>, _>>();
        let member = |host: u8, weight: u16| {
            let place = format!("address = \"10.9.1.{host}\"\nprotocol = \"udp\"\nport = 5353\n");
            format!("[[member]]\n{place}monitor = \"none\"\nweight = {weight}\n")
        };
        let weights = |first, second| member(1, first) + &member(2, second);
        let file = crate::harness::TempFile::new("members.toml", weights(20, 20));
        let flags = ["--members", file.path(), "--push-window", "10ms", "--probe-interval", "100ms"];
        let daemon = crate::harness::Daemon::start(&flags);
        let address = daemon.address().to_string();
        let group = "dns=10.9.1.1:5353/udp,10.9.1.2:5353/udp";
        let service = ["--gwm", &address, "nft", "--service", "10.9.0.1:53/udp=dns", "--group", group];
        let _connector = Connector::start(&[&service[..], &["--choose", "source"]].concat());
        let first = Arc::new(std::sync::Mutex::new(Vec::new()));
        until("all are answered", || all().map(|all| *first.lock().unwrap() = all).is_ok());
        let first = first.lock().unwrap().clone();
        assert!((1..3).all(|host| first.iter().filter(|at| **at == host).count() > 10), "{first:?}");
        assert_eq!(all().unwrap(), first, "each client has its member");
        file.write(weights(20, 60));
        daemon.signal(rustix::process::Signal::HUP);
        let moved = |now: &[u8]| first.iter().zip(now).filter(|(old, new)| old != new).count();
        until("some have moved", || all().is_ok_and(|now| moved(&now) > 0));
        let now = all().unwrap();
        assert!(first.iter().zip(&now).all(|(old, new)| old == new || *new == 2), "nobody leaves what grows: {now:?}");
    });
}

/// A hundred services, and all tables of the kernel.
struct Kernel {
    members: [SocketAddr; 2],
}

impl Real for Kernel {
    fn connect(&self, gwm: &str) -> Connector {
        let [one, two] = self.members;
        let mut flags = vec!["--gwm".to_owned(), gwm.to_owned(), "nft".to_owned()];
        for number in 0..100 {
            flags.push(format!("--service=10.9.0.1:{}=g{number}", 1000 + number));
            flags.push(format!("--group=g{number}={one},{two}"));
        }
        Connector::start(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn has(&mut self, (first, second): Weights) -> bool {
        let divisor = (1..=first).rev().find(|by| first % by == 0 && second % by == 0).expect("1 is one");
        let slots = (first + second) / divisor;
        let counts = |port| {
            let to = SocketAddr::from(([10, 9, 0, 1], port));
            let ask = |_| TcpStream::connect(to).and_then(|stream| request(&stream));
            let answers: Vec<u16> = (0..slots).filter_map(|at| ask(at).ok()).collect();
            let of = |member: SocketAddr| answers.iter().filter(|port| **port == member.port()).count();
            self.members.map(of)
        };
        rules().matches(&format!("numgen inc mod {slots} map")).count() == 100
            && [1000, 1050, 1099]
                .into_iter()
                .all(|port| counts(port) == [first, second].map(|weight| usize::from(weight / divisor)))
    }

    /// As a restart of Debian's nftables.service does.
    fn restart(&mut self) {
        assert!(nft("flush ruleset").status.success());
    }
}

#[test]
fn a_hundred_groups_outlive_all() {
    let Some(namespace) = balancer() else { return };
    namespace.run(|| {
        let members = [1, 2].map(|host| Member::start_on(&format!("10.9.1.{host}")).address);
        outlives(&mut Kernel { members }, members);
    });
}

#[test]
fn no_request_fails_while_a_member_of_others_drains_and_leaves() {
    let Some(namespace) = balancer() else { return };
    namespace.run(|| {
        let members: Vec<Member> = (1..4).map(|host| Member::start_on(&format!("10.9.1.{host}"))).collect();
        let gwm = Gwm::start(&members.iter().map(|member| (member.address, Some(20))).collect::<Vec<_>>());
        let flags = ["--service", "10.9.0.1:80=web", "--group", &group(&members), "--choose", "random"];
        let _connector = connect(&gwm, &flags);
        until("all three serve", || shares(&members).iter().all(|share| *share > 0));
        drains(|| open().and_then(|stream| request(&stream)).map(drop).map_err(|e| e.to_string()), &gwm, &members);
    });
}

#[test]
fn what_can_go_wrong_is_told() {
    let Some(namespace) = balancer() else { return };
    namespace.run(|| {
        let member = Member::start_on("10.9.1.1").address;
        let gwm = Gwm::start(&[(member, Some(30))]);
        let group = format!("web={member}");
        let dry = connect(&gwm, &["--dry-run", "--service", "10.9.0.1:80=web", "--group", &group]);
        until("the step is printed", || dry.output().contains(&format!("would do: 10.9.0.1:80 (web): {member} 1/1")));
        assert!(dry.stop().success());
        assert_eq!(table("gwm"), "", "a dry run changes nothing");
        let check = |program: &str, flags: &[&str], code: i32, says: &str| {
            let gwm = env!("CARGO_BIN_EXE_gwm");
            let connect = ["connect", "--uid", "LB1", "--check", "nft", "--service", "10.9.0.1:80=web"];
            let words: Vec<&str> = program.split_whitespace().chain([gwm]).chain(connect).collect();
            let output = Command::new(words[0]).args(&words[1..]).args(flags).output().expect("it starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(code) && text.contains(says), "{flags:?} {output:?}");
        };
        let web = "--group=web=10.0.0.1:80";
        let no_right = "setpriv --bounding-set=-net_admin";
        check("env", &[web], 0, "pool web: group web\n  10.0.0.1:80");
        check(no_right, &[web], 1, "it needs root, or the capability CAP_NET_ADMIN");
        check(
            "env",
            &[web, "--nft", "/nonexistent/nft"],
            1,
            "run the program `/nonexistent/nft` (--nft says where it is",
        );
        check("env", &[web, "--nft", "cat"], 1, "cat");
        check("env", &[web, "--nft", "echo"], 1, "the listing of `echo` is not understood");
        check("env", &["--group=api"], 2, "the group of 10.9.0.1:80 (web) is missing");
        check("env", &[web, "--table", "a b"], 2, "is not a name");
    });
}

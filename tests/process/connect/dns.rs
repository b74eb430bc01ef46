//! `gwm connect dns --listen`, asked by dig and by HAProxy.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use super::{
    Connector, Gwm, Member,
    admin::{admin, metric},
    proxy::Proxy,
    real::{free_address, without_right},
    resolved,
    scenarios::{Real, Weights, outlives},
};
use crate::{
    haproxy::HaProxy,
    harness::{PATIENCE, run, until},
};

/// A connector that serves `lb.example` on a free port.
pub(super) struct Dns {
    connector: Connector,
    pub(super) address: SocketAddr,
}

impl Dns {
    pub(super) fn start(gwm: &str, flags: &[&str]) -> Dns {
        let given = if flags.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let first = ["--gwm", gwm, "dns", "--zone", "lb.example"];
        let connector = Connector::start(&[&first[..], given, flags].concat());
        let printed = || {
            let output = connector.output();
            let line =
                output.split_inclusive('\n').find(|line| line.starts_with("gwm: dns on ") && line.ends_with('\n'));
            line.map(|line| line.trim_end().trim_start_matches("gwm: dns on ").parse().expect("an address"))
        };
        until("it says where it listens", || printed().is_some());
        let address = printed().expect("it was there");
        Dns { connector, address }
    }

    /// What dig prints with these arguments.
    fn dig(&self, arguments: &[&str]) -> String {
        dig(self.address, arguments)
    }

    /// The ports and weights of `_web._tcp`, ordered.
    fn weights(&self) -> Vec<(u16, u16)> {
        services(&self.dig(&["+short", "_web._tcp.lb.example", "SRV"]))
    }

    fn shows(&self, wanted: &[(u16, u16)]) {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        until(&format!("{wanted:?} by DNS"), || near(&self.weights(), &wanted));
    }
}

/// What dig prints, without retries and with spaces for tabs.
pub(super) fn dig(server: SocketAddr, arguments: &[&str]) -> String {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let mut command = Command::new("dig");
    command.args([&at, "-p", &port, "+tries=1", "+timeout=5"]).args(arguments);
    let output = command.output().expect("dig runs (Debian package bind9-dnsutils)");
    String::from_utf8(output.stdout).expect("dig prints text").replace('\t', " ")
}

/// Ports and weights of SRV records as `dig +short` prints them.
pub(super) fn services(text: &str) -> Vec<(u16, u16)> {
    let record = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(1)?.parse().ok()?))
    };
    let mut all: Vec<_> = text.lines().filter_map(record).collect();
    all.sort_unstable();
    all
}

/// Whether the weights are these, but for what rounding does.
pub(super) fn near(have: &[(u16, u16)], wanted: &[(u16, u16)]) -> bool {
    have.len() == wanted.len() && have.iter().zip(wanted).all(|(a, b)| a.0 == b.0 && a.1.abs_diff(b.1) <= 1)
}

#[test]
fn records_follow_the_weights() {
    let (one, two) = (Member::start().address, Member::start().address);
    let gwm = Gwm::start(&[(one, Some(40)), (two, Some(20))]);
    let group = format!("web={one},{two}");
    let names = ["--group", &group, "--service", "_web._tcp=web", "--address", "www=web"];
    let dns = Dns::start(&gwm.address(), &[&names[..], &["--admin-listen", "127.0.0.1:0"]].concat());
    dns.shows(&[(one.port(), 65535), (two.port(), 32768)]);
    gwm.set(&[(one, Some(10)), (two, Some(40))]);
    dns.shows(&[(one.port(), 16384), (two.port(), 65535)]);
    gwm.set(&[(one, None), (two, Some(40))]);
    dns.shows(&[(two.port(), 65535)]);

    // The same by TCP and with EDNS, the host's address, the name without weights, and the zone's own records.
    for flag in ["+tcp", "+noedns", "+dnssec"] {
        let text = dns.dig(&[flag, "_web._tcp.lb.example", "SRV"]);
        assert!(text.contains("status: NOERROR") && text.contains("flags: qr aa rd;"), "{text}");
        assert!(text.contains(&format!("0 65535 {} ip-127-0-0-1.lb.example.", two.port())), "{text}");
        assert!(text.contains("ip-127-0-0-1.lb.example. 5 IN A 127.0.0.1"), "{text}");
    }
    assert_eq!(dns.dig(&["+short", "www.lb.example", "A"]), "127.0.0.1\n");
    assert_eq!(dns.dig(&["+short", "lb.example", "NS"]), "ns.lb.example.\n");
    assert_eq!(dns.dig(&["+short", "ns.lb.example", "A"]), "127.0.0.1\n");
    let soa = dns.dig(&["+short", "lb.example", "SOA"]);
    assert!(soa.starts_with("ns.lb.example. hostmaster.lb.example. "), "{soa}");
    assert!(dns.dig(&["nothing.lb.example", "A"]).contains("status: NXDOMAIN"));
    assert!(dns.dig(&["other.example", "A"]).contains("status: REFUSED"));
    assert!(dns.dig(&["lb.example", "AXFR"]).contains("Transfer failed"));
    let nsid = dns.dig(&["+nsid", "lb.example", "SOA"]);
    assert!(nsid.contains("EDNS: version: 0") && !nsid.contains("NSID:"), "{nsid}");
    assert!(dns.dig(&["+edns=1", "+noednsnegotiation", "lb.example", "SOA"]).contains("BADVERS"));

    // The queries are counted, over all changes of the zone.
    let at = admin(&dns.connector);
    let queries = |name: &str, rtype: &str| {
        let series = format!("gwm_connect_dns_queries_total{{name=\"{name}.lb.example\",type=\"{rtype}\"}}");
        metric(&at, &series)
    };
    assert!(queries("_web._tcp", "SRV") >= Some(6.0), "{:?}", queries("_web._tcp", "SRV"));
    assert_eq!((queries("www", "A"), queries("www", "AAAA")), (Some(1.0), None));
    let other = |name: &str| metric(&at, &format!("gwm_connect_dns_other_queries_total{{name=\"{name}\"}}"));
    assert_eq!((other("absent"), other("foreign")), (Some(1.0), Some(1.0)));
    assert!(other("known") >= Some(4.0));

    // No member is left: no record, though the name exists.
    gwm.set(&[(one, None), (two, None)]);
    dns.shows(&[]);
    assert!(dns.dig(&["_web._tcp.lb.example", "SRV"]).contains("status: NOERROR"));
    assert_eq!(dns.dig(&["+short", "ip-127-0-0-1.lb.example", "A"]), "127.0.0.1\n", "the host keeps its name");
}

#[test]
fn what_a_name_shows_without_a_member_is_chosen() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, None)]);
    let group = format!("web={one}");
    let failing = Dns::start(&gwm.address(), &["--group", &group, "--when-none", "servfail", "--uid", "LB2"]);
    failing.connector.wait_for_log(&["registered with the GWM"]);
    assert!(failing.dig(&["_web._tcp.lb.example", "SRV"]).contains("status: SERVFAIL"));
    gwm.set(&[(one, Some(1))]);
    failing.shows(&[(one.port(), 65535)]);
    gwm.set(&[(one, None)]);
    until("SERVFAIL", || failing.dig(&["_web._tcp.lb.example", "SRV"]).contains("status: SERVFAIL"));

    // A port that nobody listens on is down, not quiesced.
    let gone: SocketAddr = free_address();
    let gwm = Gwm::start(&[(gone, Some(9)), (one, None)]);
    let group = format!("web={gone},{one}");
    let all = Dns::start(&gwm.address(), &["--group", &group, "--when-none", "all"]);
    all.shows(&[(gone.port(), 65535)]);
}

#[test]
fn answers_outlive_the_gwm_and_a_crash_loses_little() {
    let (one, two) = (Member::start().address, Member::start().address);
    let members = [(one, Some(40)), (two, Some(20))];
    // Before there is a GWM, nothing is known.
    let listen = free_address().to_string();
    let group = format!("web={one},{two}");
    let dns = Dns::start(&listen, &["--group", &group]);
    assert!(dns.dig(&["_web._tcp.lb.example", "SRV"]).contains("status: SERVFAIL"));
    assert!(dns.dig(&["lb.example", "SOA"]).contains("status: NOERROR"));
    let gwm = Gwm::start_at(&listen, &members);
    dns.shows(&[(one.port(), 65535), (two.port(), 32768)]);

    // The GWM goes and comes back, three times.
    let mut gwm = Some(gwm);
    for times in 1..=3 {
        gwm.take();
        until("the loss is logged", || dns.connector.log().matches("retry_seconds").count() >= times);
        assert_eq!(dns.weights().len(), 2);
        gwm = Some(Gwm::start_at(&listen, &[(one, Some(40)), (two, Some(40 / (times as u16 + 1)))]));
        let second = [32768, 21299, 16384][times - 1];
        dns.shows(&[(one.port(), 65535), (two.port(), second)]);
    }

    // Killed and started again on the same port: the port is free at once.
    let address = dns.address.to_string();
    let Dns { connector, .. } = dns;
    connector.kill();
    let dns = Dns::start(&listen, &["--group", &group, "--listen", &address, "--keep", "0s"]);
    dns.shows(&[(one.port(), 65535), (two.port(), 16384)]);
    drop(gwm);
    dns.shows(&[(one.port(), 65535), (two.port(), 65535)]);
    assert!(dns.connector.stop().success());
}

/// A HAProxy that asks the connector for its servers.
struct Asking {
    proxy: Proxy,
    members: [SocketAddr; 2],
    listen: SocketAddr,
}

impl Real for Asking {
    fn connect(&self, gwm: &str) -> Connector {
        let (listen, groups) = (self.listen.to_string(), resolved::groups(self.members));
        let mut flags = vec!["--rate", "0", "--listen", &listen];
        groups.iter().for_each(|group| flags.extend(["--group", group]));
        Dns::start(gwm, &flags).connector
    }

    fn has(&mut self, weights: Weights) -> bool {
        resolved::has(&self.proxy, self.members, weights)
    }

    fn restart(&mut self) {
        self.proxy.restart();
    }
}

#[test]
fn a_hundred_backends_of_haproxy_outlive_all() {
    let (members, listen) = ([(); 2].map(|()| Member::start().address), free_address());
    let proxy = resolved::start(listen, resolved::names());
    outlives(&mut Asking { proxy, members, listen }, members);
}

#[test]
fn a_port_that_needs_a_right_is_told() {
    let flags =
        ["connect", "--uid", "LB1", "dns", "--zone", "lb.example", "--listen", "127.0.0.1:53", "--group", "web"];
    let Some((status, text)) = without_right("net_bind_service", &flags) else { return };
    assert!(status == Some(1) && text.contains("127.0.0.1:53") && text.contains("CAP_NET_BIND_SERVICE"), "{text}");
}

#[test]
fn a_hundred_groups_and_members_who_register_themselves() {
    let members: Vec<SocketAddr> = (0..100).map(|port| ([127, 0, 0, 1], 20_000 + port).into()).collect();
    let daemon = crate::harness::Daemon::start(&[]);
    let mut flags: Vec<String> = vec!["--trust".into(), "--rate".into(), "0".into()];
    for (at, member) in members.iter().enumerate() {
        flags.extend(["--group".into(), format!("g{at}={member}")]);
    }
    flags.extend(["--group".into(), "own".into()]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let dns = Dns::start(&daemon.address().to_string(), &flags);
    for (at, member) in members.iter().enumerate() {
        let name = format!("_g{at}._tcp.lb.example");
        until(&name, || services(&dns.dig(&["+short", &name, "SRV"])) == [(member.port(), 65535)]);
    }
    assert_eq!(services(&dns.dig(&["+short", "_own._tcp.lb.example", "SRV"])), []);
    let mut member = daemon.connect();
    let code = member.register(crate::harness::MEMBER, "LB1", "own", &["127.0.0.7:80"]);
    assert_eq!(code, gwm::sasp::ReturnCode::SUCCESSFUL);
    until("the member that came", || services(&dns.dig(&["+short", "_own._tcp.lb.example", "SRV"])) == [(80, 65535)]);
    assert_eq!(dns.dig(&["+short", "ip-127-0-0-7.lb.example", "A"]), "127.0.0.7\n");
}

#[test]
fn large_groups_need_edns_or_tcp() {
    let members: Vec<String> = (1..=200).map(|host| format!("127.1.0.{host}:80")).collect();
    let daemon = crate::harness::Daemon::start(&[]);
    let group = format!("web={}", members.join(","));
    let dns = Dns::start(&daemon.address().to_string(), &["--group", &group, "--udp-bytes", "16384"]);
    until("all by TCP", || services(&dns.dig(&["+short", "+tcp", "_web._tcp.lb.example", "SRV"])).len() == 200);
    let small = dns.dig(&["+ignore", "_web._tcp.lb.example", "SRV"]);
    assert!(small.contains("flags: qr aa tc rd;") && small.contains("ANSWER: 0"), "{small}");
    assert_eq!(dns.weights().len(), 200, "dig asks again by TCP");
    let large = dns.dig(&["+ignore", "+bufsize=16384", "_web._tcp.lb.example", "SRV"]);
    assert!(large.contains("ANSWER: 200") && large.contains("ADDITIONAL: 201"), "{large}");
}

#[test]
fn a_network_that_asks_too_much_is_sent_to_tcp() {
    let daemon = crate::harness::Daemon::start(&[]);
    let dns = Dns::start(&daemon.address().to_string(), &["--group", "web=127.0.0.9:80", "--rate", "5"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dns.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // A query for the zone's SOA record.
    let query = b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02lb\x07example\x00\x00\x06\x00\x01";
    (0..100).for_each(|_| assert_eq!(socket.send(query).unwrap(), query.len()));
    let mut truncated = 0;
    while truncated < 10 {
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer).expect("half of the queries above the rate get an answer");
        if answer[2] & 0x02 != 0 {
            assert_eq!((count, &answer[6..12]), (query.len(), &[0; 6][..]), "no longer than the query");
            truncated += 1;
        }
    }
    for _ in 0..20 {
        assert!(dns.dig(&["+tcp", "lb.example", "SOA"]).contains("status: NOERROR"));
    }
}

#[test]
fn hostile_clients_do_not_stop_the_service() {
    let daemon = crate::harness::Daemon::start(&[]);
    let dns = Dns::start(&daemon.address().to_string(), &["--group", "web=127.0.0.9:80", "--rate", "0"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = fastrand::Rng::with_seed(13);
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..random.usize(0..600)).map(|_| random.u8(..)).collect();
        socket.send_to(&bytes, dns.address).unwrap();
    }
    // Connections that say nothing, or half a query; each new one beyond the limit ends the oldest.
    let mut silent: Vec<TcpStream> = Vec::new();
    for at in 0..400 {
        let mut stream = TcpStream::connect(dns.address).unwrap();
        if at % 2 == 0 {
            let _ = stream.write_all(b"\x00\x20\x12");
        }
        silent.push(stream);
    }
    let mut end = Vec::new();
    silent[0].set_read_timeout(Some(PATIENCE)).unwrap();
    let ended = silent[0].read_to_end(&mut end);
    assert!(matches!(ended, Ok(0)) || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    for flag in ["+tcp", "+notcp"] {
        assert!(dns.dig(&[flag, "lb.example", "SOA"]).contains("status: NOERROR"), "{flag}");
    }
    // A length that no query has.
    let mut stream = TcpStream::connect(dns.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[0xFF; 600]).unwrap();
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
}

/// One HTTP request through a proxy; the port of the member that answered.
fn request(proxy: SocketAddr) -> Result<u16, String> {
    let mut stream = TcpStream::connect(proxy).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").map_err(|error| error.to_string())?;
    let lines: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).collect();
    match (lines.first().map(String::as_str), lines.last()) {
        (Some("HTTP/1.1 200 OK"), Some(body)) => body.parse().map_err(|_| format!("the body {body}")),
        (first, _) => Err(format!("{first:?}")),
    }
}

/// The shares of 600 requests, by port.
fn shares(proxy: SocketAddr, members: &[SocketAddr]) -> Vec<f64> {
    let mut counts = vec![0; members.len()];
    for _ in 0..600 {
        let port = request(proxy).expect("the proxy answers");
        counts[members.iter().position(|member| member.port() == port).expect("a member")] += 1;
    }
    counts.into_iter().map(|count: u32| f64::from(count) / 600.0).collect()
}

#[test]
fn haproxy_balances_by_the_records_and_no_request_fails() {
    let members = [Member::start(), Member::start(), Member::start()];
    let addresses: Vec<SocketAddr> = members.iter().map(|member| member.address).collect();
    let with = |weights: [Option<u16>; 3]| -> Vec<_> { addresses.iter().copied().zip(weights).collect() };
    let gwm = Gwm::start(&with([Some(30), Some(20), Some(10)]));
    let group = format!("web={},{},{}", addresses[0], addresses[1], addresses[2]);
    let dns = Dns::start(&gwm.address(), &["--group", &group, "--ttl", "0s", "--rate", "0"]);
    dns.shows(&[(addresses[0].port(), 65535), (addresses[1].port(), 43690), (addresses[2].port(), 21845)]);
    let proxy: SocketAddr = free_address();
    let haproxy = HaProxy::start(&format!(
        "resolvers gwm\n nameserver gwm {}\n accepted_payload_size 8192\n hold valid 100ms\n hold obsolete 0s\n \
         timeout resolve 100ms\n timeout retry 1s\n\
         frontend web\n bind {proxy}\n default_backend web\n\
         backend web\n retries 3\n option redispatch\n \
         server-template s 5 _web._tcp.lb.example resolvers gwm resolve-prefer ipv4 \
         resolve-opts allow-dup-ip check inter 200ms\n",
        dns.address
    ));
    let balances = |wanted: [f64; 3]| {
        let what = format!("shares near {wanted:?}");
        until(&what, || {
            let shares = shares(proxy, &addresses);
            shares.iter().zip(wanted).all(|(share, wanted)| (share - wanted).abs() < 0.03)
        });
    };
    until("HAProxy has all members", || request(proxy).is_ok());
    balances([0.5, 1.0 / 3.0, 1.0 / 6.0]);
    gwm.set(&with([Some(10), Some(20), Some(30)]));
    balances([1.0 / 6.0, 1.0 / 3.0, 0.5]);

    // Requests all the time while a member drains and leaves, and HAProxy's source of names is killed and started.
    let (stop, made, late) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let leaves = addresses[2].port();
    let failed: Vec<String> = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match request(proxy) {
                    Ok(port) if port == leaves => drop(late.fetch_add(1, Ordering::Relaxed)),
                    Ok(_) => {}
                    Err(error) => failed.push(error),
                }
                made.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        gwm.set(&with([Some(10), Some(20), None]));
        dns.shows(&[(addresses[0].port(), 32768), (addresses[1].port(), 65535)]);
        let idle = || {
            let (before, start) = (late.load(Ordering::Relaxed), made.load(Ordering::Relaxed));
            until("many requests", || made.load(Ordering::Relaxed) >= start + 100);
            late.load(Ordering::Relaxed) == before
        };
        until("the drained member gets no request", idle);
        members[2].close();
        let Dns { connector, address } = dns;
        connector.kill();
        let start = made.load(Ordering::Relaxed);
        until("requests without the connector", || made.load(Ordering::Relaxed) >= start + 200);
        let again = Dns::start(&gwm.address(), &["--group", &group, "--listen", &address.to_string(), "--rate", "0"]);
        again.shows(&[(addresses[0].port(), 32768), (addresses[1].port(), 65535)]);
        let start = made.load(Ordering::Relaxed);
        until("requests with it", || made.load(Ordering::Relaxed) >= start + 200);
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no panic")
    });
    assert_eq!(failed, [""; 0], "of {} requests", made.load(Ordering::Relaxed));
    drop(haproxy);
}

#[test]
fn mistakes_are_told_before_anything_is_done() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = ["--listen", "127.0.0.1:0"];
    for (status, flags, says) in [
        (2, &["--group", "web"][..], "--update HOST:PORT"),
        (2, &["--listen", "127.0.0.1:0", "--update", "127.0.0.1:53", "--group", "web"], "--update"),
        (2, &[&free[..], &["--group", "web", "--service", "x=*"]].concat(), "can not share one name"),
        (2, &[&free[..], &["--group", "web", "--service", "_a._tcp=b"]].concat(), "no group has this name"),
        (2, &[&free[..], &["--group", "a.b"]].concat(), "group a.b has no name in the zone"),
        (2, &[&free[..], &["--group", "web", "--ns", "ns.lb.example"]].concat(), "give its addresses"),
        (2, &[&free[..], &["--group", "web", "--ns", "ns.lb.example=x"]].concat(), "`x` is not an IP address"),
        (2, &[&free[..], &["--group", "web", "--rate=-1"]].concat(), "--rate"),
        (2, &["--update", "127.0.0.1:53", "--group", "web", "--when-none", "servfail"], "--when-none servfail"),
        (2, &["--update", "127.0.0.1", "--group", "web"], "HOST:PORT"),
        (2, &["--update", "127.0.0.1:53", "--group", "web", "--tsig-key", "/nonexistent"], "/nonexistent"),
        (1, &["--listen", &taken, "--group", "web"], "can not listen on 127.0.0.1:"),
    ] {
        let output = run(&[&["connect", "--uid", "LB1", "dns", "--zone", "lb.example"][..], flags].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{flags:?}: {stderr}");
        assert!(stderr.contains(says), "{flags:?}: {stderr}");
    }
    // A check does not need the port.
    let members = ["--listen", &taken, "--group", "web=10.0.0.1:80"];
    let output = run(&[&["connect", "--uid", "LB1", "--check", "dns", "--zone", "lb.example"][..], &members].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pool web: group web\n  10.0.0.1:80\n", "{output:?}");
    assert!(output.status.success());
}

#[test]
fn a_dry_run_prints_what_names_would_show() {
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let (group, address) = (format!("web={one}"), gwm.address());
    let flags =
        ["--gwm", &address, "--dry-run", "dns", "--zone", "lb.example", "--listen", "127.0.0.1:53", "--group", &group];
    let connector = Connector::start(&flags);
    until("it prints the step", || connector.output().contains("would do: _web._tcp.lb.example SRV: 1 of 1 members"));
    assert!(connector.stop().success());
}

//! Checks of real listeners on loopback.

mod tls;

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with},
};

use super::*;
use crate::{
    monitor::outcome::{Administration, AgentText, AgentWeight, Load, Report},
    roster::{AgentCheck, Http},
    sasp::component::TCP,
};

/// How long a test waits for an event before it reports a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time of all checks, which stands still: after the deadlines that a test wants to pass, and before [`NEVER`].
const NOW: Time = Time(100);
const NEVER: Time = Time(1000);

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip(), TCP, address.port())
}

/// The outcomes of all running checks, by their number.
fn finish(prober: &mut Prober<usize>) -> Vec<(usize, Outcome)> {
    let start = Instant::now();
    let mut outcomes = Vec::new();
    loop {
        while prober.turn(NOW, |token, outcome| outcomes.push((token, outcome))) {}
        if prober.under_way() == 0 {
            outcomes.sort_by_key(|(token, _)| *token);
            return outcomes;
        }
        assert!(start.elapsed() < PATIENCE, "{} checks do not end, {outcomes:?}", prober.under_way());
        let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut [PollFd::new(&*prober, PollFlags::IN)], Some(&tick)).expect("a set can be waited for");
    }
}

fn check(address: SocketAddr, check: Check) -> Outcome {
    let mut prober = Prober::new(false).expect("an epoll set");
    prober.start(0, &endpoint(address), &check, None, NEVER);
    let outcomes = finish(&mut prober);
    assert_eq!(outcomes.len(), 1);
    outcomes[0].1
}

fn http() -> Http {
    Http { path: "/health".into(), ..Http::default() }
}

fn agent(port: u16, send: &str) -> Check {
    Check::Agent(Arc::new(AgentCheck { port, send: send.into() }))
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// A server that gives each connection to `talk`, as long as the test runs.
fn serve(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let (listener, address) = listener();
    let talk = Arc::new(talk);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let talk = talk.clone();
            thread::spawn(move || talk(stream));
        }
    });
    address
}

/// Reads a request's head.
fn request(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("our requests are text")
}

/// A server that answers every request with these pieces.
fn answers(pieces: &'static [&'static [u8]]) -> SocketAddr {
    serve(move |mut stream| {
        assert!(request(&mut stream).starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"));
        for piece in pieces {
            if stream.write_all(piece).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
        // Ends when the check does.
        let _ = stream.read(&mut [0]);
    })
}

/// A port at which connections are neither accepted nor refused, and the sockets that keep it so.
fn black_hole() -> (SocketAddr, impl Sized) {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP));
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback can be bound");
    rustix::net::listen(&socket, 0).expect("it can listen");
    let address = rustix::net::getsockname(&socket).expect("it is bound");
    let address = SocketAddr::try_from(address).expect("an IP address");
    // Its queue is full when a connection does not come about.
    let mut queue = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let peer = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP)).expect("a socket");
        let _ = connect(&peer, &address);
        // On loopback, a connection that is taken is there at once; a little patience does no harm.
        let tick = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let told = poll(&mut [PollFd::new(&peer, PollFlags::OUT)], Some(&tick)).expect("a socket can be waited for");
        queue.push(peer);
        if told == 0 {
            return (address, (socket, queue));
        }
        assert!(queue.len() < 100, "the queue never fills");
    }
}

#[test]
fn an_open_port_passes_and_a_closed_one_is_refused() {
    let (open, address) = listener();
    assert_eq!(check(address, Check::Tcp), Outcome::Passed);
    drop(open);
    assert_eq!(check(address, Check::Tcp), Outcome::Failed(Reason::Refused));
    assert_eq!(check(address, Check::Http(Arc::new(http()))), Outcome::Failed(Reason::Refused));
    assert_eq!(check(address, agent(address.port(), "")), Outcome::Failed(Reason::Refused));
    if let Ok(open) = TcpListener::bind("[::1]:0") {
        assert_eq!(check(open.local_addr().expect("it is bound"), Check::Tcp), Outcome::Passed);
    }
}

#[test]
fn a_check_ends_at_its_deadline_and_not_before() {
    let (address, _hole) = black_hole();
    let mut prober = Prober::new(false).expect("an epoll set");
    prober.start('a', &endpoint(address), &Check::Tcp, None, Time(20));
    prober.start('b', &endpoint(address), &Check::Http(Arc::new(http())), None, Time(10));
    assert_eq!(prober.next_deadline(), Some(Time(10)));
    let mut told = Vec::new();
    let mut turn = |prober: &mut Prober<char>, now| {
        prober.turn(Time(now), |token, outcome| told.push((token, outcome)));
        std::mem::take(&mut told)
    };
    assert_eq!(turn(&mut prober, 9), []);
    assert_eq!(prober.under_way(), 2);
    assert_eq!(turn(&mut prober, 10), [('b', Outcome::Failed(Reason::TimedOut))]);
    assert_eq!(prober.next_deadline(), Some(Time(20)));
    assert_eq!(turn(&mut prober, 1000), [('a', Outcome::Failed(Reason::TimedOut))]);
    assert_eq!((prober.under_way(), prober.next_deadline()), (0, None));
}

#[test]
fn many_checks_at_a_time_are_not_mixed_up_and_leave_no_time_wait() {
    let (open, address) = listener();
    let closed = {
        let (closed, address) = listener();
        drop(closed);
        address
    };
    thread::spawn(move || open.incoming().map_while(Result::ok).for_each(drop));
    let mut prober = Prober::new(false).expect("an epoll set");
    for round in 0..5 {
        for number in 0..200 {
            let address = if number % 3 == 0 { closed } else { address };
            prober.start(number, &endpoint(address), &Check::Tcp, None, NEVER);
        }
        let outcomes = finish(&mut prober);
        assert_eq!(outcomes.len(), 200, "round {round}");
        for (at, (number, outcome)) in outcomes.into_iter().enumerate() {
            let expected = if at % 3 == 0 { Outcome::Failed(Reason::Refused) } else { Outcome::Passed };
            assert_eq!((number, outcome), (at, expected), "round {round}");
        }
    }
    // Columns of /proc/net/tcp: number, local address, remote address, state; 06 is TIME_WAIT.
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has this file");
    let waiting = table.lines().filter(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        matches!(columns[..], [_, local, remote, "06", ..] if local.ends_with(&port) || remote.ends_with(&port))
    });
    assert_eq!(waiting.count(), 0);
}

#[test]
fn http_answers_count_however_they_are_cut() {
    let get = || Check::Http(Arc::new(http()));
    let load = Load { cpu_utilization: Some(0.25), ..Load::default() };
    assert_eq!(check(answers(&[b"HTTP/1.1 200 OK\r\n\r\n"]), get()), Outcome::Passed);
    assert_eq!(check(answers(&[b"HTTP/1.1 200", b" OK\r\na: b\r", b"\n\r\n"]), get()), Outcome::Passed);
    assert_eq!(
        check(answers(&[b"HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT cpu_uti", b"lization=0.25\r\n\r\n"]), get()),
        Outcome::Load(load)
    );
    assert_eq!(check(answers(&[b"HTTP/1.1 503 No\r\n\r\n"]), get()), Outcome::Failed(Reason::Status(503)));
    assert_eq!(check(answers(&[b"220 mail.example ESMTP\r\n"]), get()), Outcome::Failed(Reason::Malformed));
    // An IPv4 member whose address is written as an IPv6 address is asked as an IPv4 member.
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), answers(&[b"HTTP/1.1 200 OK\r\n\r\n"]).port());
    assert_eq!(check(mapped, get()), Outcome::Passed);
    // Asked at another port than the member's own.
    let elsewhere = answers(&[b"HTTP/1.1 200 OK\r\n\r\n"]);
    let other = Http { port: Some(elsewhere.port()), ..http() };
    assert_eq!(check(SocketAddr::from(([127, 0, 0, 1], 1)), Check::Http(Arc::new(other))), Outcome::Passed);
}

#[test]
fn a_connection_that_ends_early_is_no_answer() {
    let silent = serve(|mut stream| drop(request(&mut stream)));
    assert_eq!(check(silent, Check::Http(Arc::new(http()))), Outcome::Failed(Reason::Closed));
    let half = serve(|mut stream| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
    });
    assert_eq!(check(half, Check::Http(Arc::new(http()))), Outcome::Failed(Reason::Closed));
    let reset = serve(|stream| {
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    });
    assert_eq!(check(reset, Check::Http(Arc::new(http()))), Outcome::Failed(Reason::Closed));
    assert_eq!(check(reset, agent(reset.port(), "")), Outcome::Failed(Reason::Closed));
}

/// A check ends before the answer of a peer that never stops, and at the deadline for a peer that sends nothing more.
#[test]
fn endless_and_slow_answers_end() {
    let endless = |piece: &'static [u8]| serve(move |mut stream| while stream.write_all(piece).is_ok() {});
    let address = endless(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(check(address, Check::Http(Arc::new(http()))), Outcome::Failed(Reason::Malformed));
    let address = endless(b"up ");
    assert_eq!(check(address, agent(address.port(), "")), Outcome::Failed(Reason::Malformed));

    let (said, heard) = mpsc::channel();
    let slow = serve(move |mut stream| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nServer: sl");
        let _ = said.send(());
        let _ = stream.read(&mut [0]);
    });
    let mut prober = Prober::new(false).expect("an epoll set");
    prober.start((), &endpoint(slow), &Check::Http(Arc::new(http())), None, NEVER);
    let start = Instant::now();
    while heard.try_recv().is_err() {
        prober.turn(NOW, |(), outcome| panic!("half an answer: {outcome:?}"));
        assert!(start.elapsed() < PATIENCE, "the server never answers");
        thread::yield_now();
    }
    prober.turn(NOW, |(), outcome| panic!("half an answer: {outcome:?}"));
    let mut outcomes = Vec::new();
    prober.turn(NEVER, |(), outcome| outcomes.push(outcome));
    assert_eq!(outcomes, [Outcome::Failed(Reason::TimedOut)]);
}

#[test]
fn an_agent_hears_what_is_sent_and_its_line_counts() {
    let (send, sent) = mpsc::channel();
    let address = serve(move |mut stream| {
        let mut heard = [0; 5];
        let _ = stream.read_exact(&mut heard);
        let _ = send.send(heard);
        let _ = stream.write_all(b"drain 5");
        let _ = stream.write_all(b"0% # soon\n");
    });
    let report = Report {
        weight: Some(AgentWeight::Percent(50)),
        administration: Some(Administration::Drain),
        text: AgentText::new(b"soon"),
        ..Report::default()
    };
    let (_member, own) = listener();
    assert_eq!(check(own, agent(address.port(), "web1\n")), Outcome::Agent(report));
    assert_eq!(sent.recv_timeout(PATIENCE), Ok(*b"web1\n"));
    // An agent that reads nothing, and closes at once.
    let address = serve(|mut stream| drop(stream.write_all(b"up\n")));
    let report = Report { up: Some(true), ..Report::default() };
    assert_eq!(check(own, agent(address.port(), "")), Outcome::Agent(report));
    let address = serve(|mut stream| drop(stream.write_all(b"up")));
    assert_eq!(check(own, agent(address.port(), "")), Outcome::Failed(Reason::Closed), "half a line");
}

/// The first bytes of each connection, as long as the test runs.
fn begins() -> (SocketAddr, mpsc::Receiver<(SocketAddr, String)>) {
    let (tell, begins) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let address = serve(move |mut stream| {
        let (Ok(from), mut head) = (stream.peer_addr(), [0; 256]) else { return };
        let length = stream.read(&mut head).unwrap_or(0);
        let text = head[..length].escape_ascii().to_string();
        let _ = tell.lock().expect("no panic under the lock").send((from, text));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let _ = stream.read(&mut head);
    });
    (address, begins)
}

#[test]
fn the_header_of_the_proxy_protocol_comes_first() {
    let (address, begins) = begins();
    let check = |check: Check, version| {
        let mut prober = Prober::new(false).expect("an epoll set");
        prober.start(0, &endpoint(address), &check, version, NEVER);
        let [(0, Outcome::Passed | Outcome::Failed(_))] = finish(&mut prober)[..] else { panic!("no outcome") };
        begins.recv_timeout(PATIENCE).expect("the server heard something")
    };
    let get = || Check::Http(Arc::new(http()));
    let (_, plain) = check(get(), None);
    assert!(plain.starts_with("GET /health HTTP/1.1"), "{plain}");
    for of in [get(), Check::Grpc(Arc::default())] {
        let (from, begin) = check(of, Some(ProxyProtocol::V1));
        let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\\r\\n", from.port(), address.port());
        assert!(begin.starts_with(&line), "{begin}");
    }
    let (_, begin) = check(get(), Some(ProxyProtocol::V2));
    assert!(begin.starts_with("\\r\\n\\r\\n\\x00\\r\\nQUIT\\n \\x00\\x00\\x00"), "{begin}");
    // An agent is another server.
    let (_, begin) = check(agent(address.port(), "hello\n"), Some(ProxyProtocol::V2));
    assert_eq!(begin, "hello\\n");
    // A connection alone ends with a reset, so a server may not see what was sent.
    let mut prober = Prober::new(false).expect("an epoll set");
    prober.start(0, &endpoint(address), &Check::Tcp, Some(ProxyProtocol::V1), NEVER);
    assert_eq!(finish(&mut prober), [(0, Outcome::Passed)]);
}

#[test]
fn faults_of_this_machine_say_nothing_of_the_member() {
    // TCP has no route to a multicast address; the kernel reports this before anything is sent.
    let nowhere = SocketAddr::from((Ipv4Addr::new(224, 0, 0, 1), 80));
    assert_eq!(check(nowhere, Check::Tcp), Outcome::Inconclusive(Reason::NoNetwork));
    assert_eq!(check(nowhere, Check::Icmp), Outcome::Inconclusive(Reason::NoNetwork), "echoes are not allowed");
    for (error, outcome) in [
        (Errno::MFILE, Outcome::Inconclusive(Reason::NoResources)),
        (Errno::NFILE, Outcome::Inconclusive(Reason::NoResources)),
        (Errno::NOMEM, Outcome::Inconclusive(Reason::NoResources)),
        (Errno::AGAIN, Outcome::Inconclusive(Reason::NoResources)),
        (Errno::NETUNREACH, Outcome::Inconclusive(Reason::NoNetwork)),
        (Errno::ADDRNOTAVAIL, Outcome::Inconclusive(Reason::NoNetwork)),
        (Errno::AFNOSUPPORT, Outcome::Inconclusive(Reason::NoNetwork)),
        (Errno::PERM, Outcome::Inconclusive(Reason::NoNetwork)),
        (Errno::CONNREFUSED, Outcome::Failed(Reason::Refused)),
        (Errno::HOSTUNREACH, Outcome::Failed(Reason::Unreachable)),
    ] {
        assert_eq!(ours(error), outcome, "{error}");
    }
    for (error, outcome) in [
        (Errno::NETUNREACH, Outcome::Inconclusive(Reason::NoNetwork)),
        (Errno::NETDOWN, Outcome::Inconclusive(Reason::NoNetwork)),
        (Errno::CONNRESET, Outcome::Failed(Reason::Closed)),
        (Errno::TIMEDOUT, Outcome::Failed(Reason::TimedOut)),
        (Errno::HOSTUNREACH, Outcome::Failed(Reason::Unreachable)),
        (Errno::PROTO, Outcome::Failed(Reason::Unreachable)),
    ] {
        assert_eq!(theirs(error), outcome, "{error}");
    }
}

#[test]
fn echoes_come_back_to_the_check_that_sent_them() {
    match may_echo() {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("ping_group_range") && text.contains("CAP_NET_RAW"), "{text}");
            assert!(Prober::<()>::new(true).is_err());
        }
        Ok(()) => {
            let mut prober = Prober::new(true).expect("echoes are allowed");
            let addresses = (0..100).map(|last| IpAddr::from([127, 0, 0, 1 + last])).chain(["::1".parse().unwrap()]);
            let addresses = addresses.filter(|address| address.is_ipv4() || TcpListener::bind("[::1]:0").is_ok());
            let addresses = addresses.chain(["::ffff:127.0.0.1".parse().unwrap()]);
            let mut count = 0;
            for (number, address) in addresses.enumerate() {
                prober.start(number, &Endpoint::new(address, 0, 0), &Check::Icmp, None, NEVER);
                count += 1;
            }
            let outcomes = finish(&mut prober);
            assert_eq!(outcomes.len(), count);
            assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Passed), "{outcomes:?}");
        }
    }
}

/// In a process of its own, as a limit holds for all threads of one.
#[test]
fn a_check_without_a_file_descriptor_says_nothing_of_the_member() {
    const CHILD: &str = "GWM_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let own = std::env::current_exe().expect("a test has a program");
        let name = "runtime::probe::tests::a_check_without_a_file_descriptor_says_nothing_of_the_member";
        let child = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 40 && exec \"$0\" --exact \"$1\""])
            .args([own.as_os_str(), name.as_ref()])
            .env(CHILD, "1")
            .output()
            .expect("there is a shell");
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let (_open, address) = listener();
    let mut prober = Prober::new(false).expect("an epoll set");
    for _ in 0..2 {
        for number in 0..60 {
            prober.start(number, &endpoint(address), &Check::Tcp, None, NEVER);
        }
        let outcomes = finish(&mut prober);
        let passed = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Passed).count();
        let starved = |outcome: &Outcome| *outcome == Outcome::Inconclusive(Reason::NoResources);
        assert_eq!(outcomes.iter().filter(|(_, outcome)| starved(outcome)).count(), 60 - passed);
        assert!((10..40).contains(&passed), "{passed}"); // and the second time as the first
    }
}

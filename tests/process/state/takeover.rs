//! A restart without a gap: a new process takes over listeners and state, and no connection attempt is refused.

use std::{
    io::{ErrorKind, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use gwm::{
    sasp::{LbFlags, ReturnCode, frame::message_length},
    takeover::{Listener, Message, VERSION},
};
use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
        SocketAddrUnix, SocketType, connect, recvmsg, sendmsg, socket,
    },
    process::{Pid, Signal, kill_process, test_kill_process},
};

use super::{A, B, Directory};
use crate::{
    harness::{Daemon, LB, MEMBER, PATIENCE, Peer, run, until},
    wire,
};

/// What clients without end have seen.
#[derive(Default)]
struct Seen {
    refused: AtomicU64,
    reset: AtomicU64,
    answered: AtomicU64,
    ended: AtomicU64,
}

/// Clients that connect, ask for weights and go, one after another, until this value is dropped.
struct Clients {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(count: usize, address: SocketAddr, lb: &'static str) -> Clients {
        let (seen, stop): (Arc<Seen>, Arc<AtomicBool>) = Default::default();
        let threads = (0..count)
            .map(|_| {
                let (seen, stop) = (seen.clone(), stop.clone());
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        ask_once(address, lb, &seen);
                    }
                })
            })
            .collect();
        Clients { seen, stop, threads }
    }

    fn answered(&self) -> u64 {
        self.seen.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more have an answer.
    fn wait(&self, more: u64) {
        let enough = self.answered() + more;
        until("clients get answers", || self.answered() >= enough);
    }

    /// Ends them; no attempt to connect was refused, and no connection was reset.
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let Seen { refused, reset, ended, .. } = &*self.seen;
        let counts = [refused, reset, ended].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts[..2], [0, 0], "refused and reset; {} ended without an answer", counts[2]);
    }
}

/// One client. A connection that ends without an answer is no loss: the client asks again.
fn ask_once(address: SocketAddr, lb: &str, seen: &Seen) {
    let count = |error: &std::io::Error| match error.kind() {
        ErrorKind::ConnectionRefused => seen.refused.fetch_add(1, Ordering::Relaxed),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => seen.reset.fetch_add(1, Ordering::Relaxed),
        _ => panic!("{error}"),
    };
    let asked = TcpStream::connect_timeout(&address, PATIENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&wire::get_weights(1, &[(lb, "")]))?;
        let mut bytes = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 => return Ok(false),
                count => bytes.extend_from_slice(&chunk[..count]),
            }
            if message_length(&bytes, u32::MAX).expect("a frame").is_some_and(|length| length <= bytes.len()) {
                return Ok(true);
            }
        }
    });
    match asked {
        Ok(true) => seen.answered.fetch_add(1, Ordering::Relaxed),
        Ok(false) => seen.ended.fetch_add(1, Ordering::Relaxed),
        Err(error) => count(&error),
    };
}

/// A process that is nobody's child any more; killed at the end.
pub(super) struct Orphan(Pid);

impl Orphan {
    pub(super) fn new(id: i32) -> Orphan {
        Orphan(Pid::from_raw(id).expect("a process"))
    }

    fn lives(&self) -> bool {
        test_kill_process(self.0).is_ok()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// The process that a line of the log says is to take over: the nth such line.
pub(super) fn new_id(log: &str, nth: usize) -> i32 {
    let mut lines = log.lines().filter(|line| line.contains("is to take over"));
    let line = lines.nth(nth).expect("such a line");
    let id = line.split("SIGUSR2: process ").nth(1).and_then(|rest| rest.split(' ').next());
    id.and_then(|id| id.parse().ok()).expect("a process id")
}

/// The reply to Get Weights, byte for byte.
pub(super) fn weights(address: SocketAddr, lb: &str) -> Vec<u8> {
    Peer::connect(address).ask(&wire::get_weights(7, &[(lb, "")]))
}

#[test]
fn no_connection_is_refused_and_nothing_is_forgotten() {
    let directory = Directory::new();
    let mut old = directory.start(&["--push-window", "1ms"]);
    let address = old.address();
    let listen = address.to_string();
    let lbs: Vec<String> = (0..8).map(|lb| format!("LB{lb}")).collect();
    let mut peers: Vec<Peer> = lbs.iter().map(|_| old.connect()).collect();
    for (peer, lb) in peers.iter_mut().zip(&lbs) {
        assert_eq!(peer.set_lb(lb, LbFlags::TRUST | LbFlags::PUSH), ReturnCode::SUCCESSFUL);
        assert_eq!(peer.register(LB, lb, "web", &["10.0.0.1:80 first", B]), ReturnCode::SUCCESSFUL);
        assert_eq!(peer.register(LB, lb, "empty", &[]), ReturnCode::SUCCESSFUL);
    }
    assert_eq!(old.connect().set_member(MEMBER, ("LB0", "web", A), 0x55, true), ReturnCode::SUCCESSFUL);
    let before: Vec<Vec<u8>> =
        peers.iter_mut().zip(&lbs).map(|(peer, lb)| peer.ask(&wire::get_weights(7, &[(lb, "")]))).collect();
    // One more, which clients may speak for.
    assert_eq!(old.connect().register(LB, "ANY", "g", &[A]), ReturnCode::SUCCESSFUL);
    let clients = Clients::start(2, address, "ANY");
    // Other numbers of shards, up and down; sockets that no shard is left for stay in use.
    for (round, shards) in (1u16..).zip(["1", "3", "1", "2"]) {
        clients.wait(20);
        let new = directory.start(&["--takeover", "--listen", &listen, "--shards", shards, "--push-window", "1ms"]);
        assert_eq!(new.address(), address);
        assert!(old.wait().success(), "the old process ends well");
        assert!(old.log().contains("serves now; connections here end one after another"), "{}", old.log());
        for peer in &mut peers {
            peer.expect_end();
        }
        // Before their load balancers are back.
        assert_eq!(new.connect().register(MEMBER, "LB0", "web", &[B]), ReturnCode::ALREADY_REGISTERED);
        peers = lbs.iter().map(|_| new.connect()).collect();
        for ((peer, lb), before) in peers.iter_mut().zip(&lbs).zip(&before) {
            assert_eq!(peer.ask(&wire::get_weights(7, &[(lb, "")])), *before, "{lb}, round {round}");
        }
        // A member's change reaches its load balancer.
        let mut member = new.connect();
        assert_eq!(member.set_member(MEMBER, ("LB1", "web", A), round as u8, false), ReturnCode::SUCCESSFUL);
        let expected = format!("{round:02X}/");
        until("the change is pushed", || peers[1].push().contains(&expected));
        assert_eq!(member.set_member(MEMBER, ("LB1", "web", A), 0, false), ReturnCode::SUCCESSFUL);
        new.wait_for_log(&["--takeover: this process serves now instead of process", &old.id().to_string()]);
        old = new;
    }
    clients.wait(20);
    clients.stop();
    let before = weights(address, "ANY");
    old.stop();
    assert!(!Path::new(directory.path()).join("takeover.sock").exists(), "an ordinary stop removes the socket");
    let new = directory.start(&[]);
    assert_eq!(weights(new.address(), "ANY"), before);
}

#[test]
fn sigusr2_starts_a_process_that_takes_over() {
    let directory = Directory::new();
    let mut first = directory.start(&[]);
    let address = first.address();
    assert_eq!(first.connect().register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    let before = weights(address, "LB1");
    let clients = Clients::start(1, address, "LB1");
    clients.wait(5);
    first.signal(Signal::USR2);
    first.wait_for_log(&["SIGUSR2: process ", " is to take over"]);
    assert!(first.wait().success());
    // The second process writes its log to the same pipe.
    let second = Orphan::new(new_id(&first.log(), 0));
    assert_eq!(weights(address, "LB1"), before);
    kill_process(second.0, Signal::USR2).expect("the second process lives");
    until("there is a third process", || first.log().matches("is to take over").count() == 2);
    let third = Orphan::new(new_id(&first.log(), 1));
    until("the second process ends", || !second.lives());
    assert_eq!(weights(address, "LB1"), before);
    clients.wait(5);
    clients.stop();
    kill_process(third.0, Signal::TERM).expect("the third process lives");
    until("the third process ends", || !third.lives());
    let error = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn without_a_state_nobody_takes_over() {
    let daemon = Daemon::start(&[]);
    daemon.signal(Signal::USR2);
    daemon.wait_for_log(&["ERROR", "SIGUSR2: no process can take over: that needs --state"]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    let output = run(&["serve", "--takeover"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // With nobody to take over from, a start is an ordinary one.
    let directory = Directory::new();
    let daemon = directory.start(&["--takeover"]);
    daemon.wait_for_log(&["--takeover: no gwm runs on this state, so this one starts as usual"]);
    assert_eq!(daemon.connect().register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
}

/// A new process in the test's hands.
struct Hand(rustix::fd::OwnedFd);

impl Hand {
    fn new(directory: &Directory) -> Hand {
        let hand = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
        let path = Path::new(directory.path()).join("takeover.sock");
        connect(&hand, &SocketAddrUnix::new(path).expect("a short path")).expect("the daemon listens");
        Hand(hand)
    }

    fn say(&self, message: &Message) {
        let bytes = message.write().expect("a short packet");
        self.send(&bytes);
    }

    fn send(&self, bytes: &[u8]) {
        let mut none = SendAncillaryBuffer::default();
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut none, SendFlags::NOSIGNAL).expect("the daemon hears");
    }

    /// The next packet, and how many descriptors came with it; `None` at the end.
    fn hear(&self) -> Option<(Message, usize)> {
        let mut bytes = vec![0; 1 << 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.0, slices, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a packet or the end");
        let descriptors = control.drain().map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.count(),
            _ => 0,
        });
        let descriptors = descriptors.sum();
        let packet = bytes.get(..received.bytes).filter(|packet| !packet.is_empty())?;
        Some((Message::read(packet).expect("a packet"), descriptors))
    }

    fn hello(&self) {
        self.say(&Message::Hello { protocol: VERSION, gwm: "test".into() });
    }
}

#[test]
fn a_takeover_that_fails_leaves_the_old_process_serving() {
    let directory = Directory::new();
    let old = directory.start(&["--shards", "2"]);
    let address = old.address();
    let mut lb = old.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    let clients = Clients::start(1, address, "ANY");
    let mut members = 0;
    // The same connection goes on, and changes are kept.
    let mut serves = |lb: &mut Peer| {
        members += 1;
        let member = format!("10.0.1.{members}:80");
        assert_eq!(lb.register(LB, "LB1", "web", &[&member]), ReturnCode::SUCCESSFUL, "after {members} failures");
    };
    let failures = |count: usize| {
        until("the failure is told", || {
            old.log().matches("a takeover has failed, and this process serves on").count() == count
        });
    };

    let hand = Hand::new(&directory);
    hand.say(&Message::Hello { protocol: 99, gwm: "9.9".into() });
    let (refusal, _) = hand.hear().expect("a refusal");
    assert!(matches!(refusal, Message::Refused { why } if why.contains("version 99")));
    failures(1);
    serves(&mut lb);

    let hand = Hand::new(&directory);
    hand.send(b"no packet");
    assert!(matches!(hand.hear(), Some((Message::Refused { .. }, 0))));
    failures(2);
    serves(&mut lb);

    // The new process ends after each step.
    for (step, count) in (0..4).zip(3..) {
        let hand = Hand::new(&directory);
        if step > 0 {
            hand.hello();
            let listeners = vec![Listener::Sasp(address); 2];
            assert_eq!(hand.hear(), Some((Message::Listeners { listeners, more: false }, 2)));
        }
        if step > 1 {
            hand.say(&Message::Ready);
            assert_eq!(hand.hear(), Some((Message::State, 0)));
            // The file is closed now, and a request waits.
            assert!(gwm::journal::Store::open(&directory.file()).is_ok());
            if step == 3 {
                hand.say(&Message::Refused { why: "the state is too large".into() });
                assert!(matches!(hand.hear(), Some((Message::Refused { .. }, 0))));
            }
        }
        drop(hand);
        failures(count);
        serves(&mut lb);
    }
    assert!(old.log().contains("the state is too large"));

    // Real processes: a port that is in use, another state that can not be read, a flag that is wrong.
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (listen, busy) = (address.to_string(), busy.local_addr().expect("an address").to_string());
    let takeover = ["serve", "--state", directory.path(), "--takeover", "--probe", "off", "--listen", &listen];
    let output = run(&[&takeover[..], &["--listen", &busy]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&busy), "{output:?}");
    failures(7);
    assert!(old.log().contains(&format!("serves on: can not listen on {busy}")), "{}", old.log());
    serves(&mut lb);
    let output = run(&[&takeover[..], &["--hold-time", "never"]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    serves(&mut lb);

    clients.wait(5);
    clients.stop();
    let before = weights(address, "LB1");
    drop(lb);
    // All of that is on the disk, and a takeover is still possible.
    let mut old = old;
    let new = directory.start(&["--takeover", "--listen", &listen]);
    assert!(old.wait().success());
    assert_eq!(weights(address, "LB1"), before);
    drop(new);
}

#[cfg(feature = "admin")]
#[test]
fn the_admin_side_and_agent_checks_change_hands_too() {
    use crate::admin::{exchange, request};
    let directory = Directory::new();
    let socket = Path::new(directory.path()).with_extension("admin.sock");
    let unix = format!("unix:{}", socket.display());
    let checked = ["--agent-listen", "127.0.0.1:0", "--admin-listen", &unix, "--admin-listen", "127.0.0.1:0"];
    let mut old = directory.start(&checked);
    let listen = old.address().to_string();
    let http = old.admin()[1].trim_start_matches("http://").trim_end_matches('/').to_owned();
    let agent = old.agent()[0].to_string();
    assert_eq!(old.connect().register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    let check = || {
        let mut stream = TcpStream::connect(&agent).expect("agent-checks are accepted");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.write_all(b"web/10.0.0.1:80\n").expect("the daemon reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let before = check();
    assert!(!before.is_empty());
    let metrics = |name: &str| {
        let answer =
            exchange(TcpStream::connect(&http).expect("it is accepted"), request("GET", "/metrics", "", "").as_bytes());
        let line = answer.body.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {}", answer.body))
            .rsplit(' ')
            .next()
            .and_then(|number| number.parse::<f64>().ok())
    };
    assert_eq!(metrics("gwm_state_starts"), Some(1.0));
    assert_eq!(metrics("gwm_takeovers_total{outcome=\"taken\"}"), Some(0.0));
    let stop = Arc::new(AtomicBool::new(false));
    // Neither kind of connection is refused at any time.
    let (until_then, path, tcp, agents) = (stop.clone(), socket.clone(), http.clone(), agent.clone());
    let clients = thread::spawn(move || {
        while !until_then.load(Ordering::Relaxed) {
            UnixStream::connect(&path).expect("the socket is there");
            TcpStream::connect(&tcp).expect("the admin side listens");
            TcpStream::connect(&agents).expect("agent-checks are accepted");
            thread::sleep(Duration::from_millis(1)); // the backlog of a UNIX socket is short
        }
    });
    let same = ["--agent-listen", &agent, "--admin-listen", &unix, "--admin-listen", &http];
    let new = directory.start(&[&["--takeover", "--listen", &listen][..], &same].concat());
    assert!(old.wait().success());
    stop.store(true, Ordering::Relaxed);
    clients.join().expect("no attempt is refused");
    assert_eq!(check(), before);
    assert_eq!(metrics("gwm_state_starts"), Some(2.0));
    assert_eq!(metrics("gwm_takeovers_total{outcome=\"taken\"}"), Some(1.0));
    let ready = exchange(
        UnixStream::connect(&socket).expect("the file is there"),
        request("GET", "/readyz", "", "").as_bytes(),
    );
    assert_eq!(ready.status, 200, "{ready:?}");
    new.stop();
    assert!(!socket.exists(), "the process that has it removes it");
}

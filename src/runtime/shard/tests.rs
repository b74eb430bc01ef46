use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use bytes::Bytes;

use super::{cause::Cause, connection::Outgoing, listener::Arrival, monitoring::BacklogQuestion, *};
use crate::{
    config::Carries,
    coordinator::Kind,
    judgement::Policy,
    monitor::{MonitorSettings, Tuning},
    roster::{Member, Roster},
    runtime::{mesh::pipe, probe::Prober, shard::shared::LIMITS},
    sasp::{Health, LbFlags, writer::set_lb_state_request},
};

/// A shard that no executor runs, and the coordinator's end of its uplink.
fn shard() -> (Shard, Receiver<(Slot, Up)>) {
    let (shard, inbox, _) = shard_with(Arc::default());
    (shard, inbox)
}

/// The same with this control of its monitoring, and the shard's end of the coordinator's messages.
fn shard_with(control: Arc<MonitoringControl>) -> (Shard, Receiver<(Slot, Up)>, Receiver<Down>) {
    let bell = Arc::new(Bell::default());
    let (up, inbox) = pipe(2, bell.clone(), bell.clone());
    let (_, down) = pipe(2, bell.clone(), bell.clone());
    let settings = MonitorSettings { tuning: Tuning::default(), checks_under_way: 1, icmp: false };
    let roster = Arc::new(Roster::new(Member::unknown(100), Policy::Auto));
    let prober = Prober::new(false).expect("an epoll set");
    let setup = MonitoringSetup { control, roster, settings, seed: 1, prober };
    let (monitoring, _) = Monitoring::new(setup);
    let (shared, uplink) = (Arc::new(Shared::new(&LIMITS, None)), Uplink::new(up, bell.clone()));
    let context = Context::new((0, 1), LIMITS, shared, Arc::default(), uplink, bell);
    let poller = Poller::new().expect("an epoll set");
    (Shard::new(context.into(), poller, Vec::new(), monitoring.into()), inbox, down)
}

/// Lets the shard listen.
fn listen(shard: &mut Shard) -> SocketAddr {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let (address, sockets) = listener::bind(loopback, 1, &LIMITS).expect("loopback can be bound");
    for socket in sockets {
        let listener = Listener::new(socket, Carries::Plain);
        listener.watch(shard.listeners.len(), &shard.poller).expect("a listener can be watched");
        shard.listeners.push(listener);
    }
    address
}

/// Lets the shard do what is to be done until so many connections are open.
fn until_open(shard: &mut Shard, inbox: &mut Receiver<(Slot, Up)>, connections: u64) {
    let start = Instant::now();
    while shard.context.open_connections() != connections {
        shard.collect();
        shard.accept_some();
        shard.step_some();
        shard.turn_uplink();
        while let Some(batch) = inbox.receive() {
            inbox.give_back(batch);
        }
        let open = shard.context.open_connections();
        assert!(start.elapsed().as_secs() < 60, "{open} connections are open, not {connections}");
    }
}

#[test]
fn a_full_server_whose_connections_end_while_none_waits_accepts_again() {
    let (mut shard, mut inbox) = shard();
    let address = listen(&mut shard);
    let (max, connect) = (u64::from(LIMITS.max), || TcpStream::connect(address).expect("it listens"));
    for round in 0..3 {
        let peers: Vec<_> = (0..max).map(|_| connect()).collect();
        until_open(&mut shard, &mut inbox, max);
        // The server is full. It looks, and nobody waits.
        shard.listeners[0].hear();
        assert!(!shard.accept_some(), "nothing is due");
        assert_eq!(shard.next_time(), None, "{round}: it does not look again and again");
        drop(peers);
        until_open(&mut shard, &mut inbox, 0);
        let peer = connect();
        until_open(&mut shard, &mut inbox, 1);
        drop(peer);
        until_open(&mut shard, &mut inbox, 0);
    }
    // One that waits while the server is full is accepted, too.
    let mut peers: Vec<_> = (0..=max).map(|_| connect()).collect();
    until_open(&mut shard, &mut inbox, max);
    drop(peers.swap_remove(0));
    until_open(&mut shard, &mut inbox, max - 1);
    until_open(&mut shard, &mut inbox, max);
}

#[test]
fn listeners_are_closed_at_the_stop_though_connections_are_open() {
    let (mut shard, mut inbox) = shard();
    let address = listen(&mut shard);
    let _peer = TcpStream::connect(address).expect("it listens");
    until_open(&mut shard, &mut inbox, 1);
    shard.context.shared.draining.store(true, Ordering::Relaxed);
    shard.stop();
    let refused = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// The shard would sleep for an hour.
#[test]
fn a_question_of_the_admin_side_ends_a_sleep_in_the_epoll_set() {
    let control = Arc::new(MonitoringControl::default());
    let (mut shard, _inbox, down) = shard_with(control.clone());
    let (bell, waker) = (shard.context.bell.clone(), shard.poller.waker().clone());
    let (send, answer) = std::sync::mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let ends = over.clone();
    let admin = std::thread::spawn(move || {
        let mut result = Ok(());
        for _ in 0..100 {
            let send = send.clone();
            let slots = vec![Slot { index: 7, generation: 0 }];
            assert!(
                control.ask_backlog(BacklogQuestion { slots, answer: Box::new(move |bytes| drop(send.send(bytes))) })
            );
            bell.ring();
            let answered = answer.recv_timeout(Duration::from_secs(60));
            if answered != Ok(vec![None]) {
                result = Err(answered);
                break;
            }
        }
        over.store(true, Ordering::Release);
        waker.wake();
        result
    });
    while !ends.load(Ordering::Acquire) {
        shard.doze(&down, Duration::from_secs(3600));
        shard.answer_one();
    }
    admin.join().expect("no panic").expect("each question is answered");
}

/// Connects a peer to the shard.
fn connect(shard: &mut Shard) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (socket, address) = listener.accept().expect("a connection waits");
    assert!(shard.context.shared.connections.take(1));
    shard.admit(Arrival { socket: socket.into(), peer: address, carries: Carries::Plain });
    peer
}

/// A message without a body.
fn own(head: &[u8]) -> Outgoing<'_> {
    Outgoing { head, body: None }
}

#[test]
fn a_fault_in_one_connection_ends_that_one_alone() {
    let (mut shard, mut inbox) = shard();
    let (mut first, mut second) = (connect(&mut shard), connect(&mut shard));
    let slot = |index| Slot { index, generation: 0 };
    let context = shard.context.clone();
    assert_eq!(shard.table.guarded(&context, slot(0), |connection, _| connection.slot()), Some(slot(0)));
    let fault = shard.table.guarded(&context, slot(0), |_, _| -> () { panic!("a fault, for the test") });
    assert_eq!(fault, None);

    assert_eq!(first.read(&mut [0; 1]).expect("the end"), 0);
    second.set_nonblocking(true).expect("a socket option");
    assert_eq!(second.read(&mut [0; 1]).expect_err("it is open").kind(), ErrorKind::WouldBlock);
    assert_eq!(context.open_connections(), 1);
    assert_eq!(context.metrics.closed[Cause::Panicked as usize].get(), 1);
    shard.turn_uplink();
    let told = inbox.receive().expect("the coordinator is told").entries;
    assert!(
        matches!(told[..], [(_, Up::Opened(_)), (_, Up::Opened(_)), (Slot { index: 0, .. }, Up::Closed)]),
        "{told:?}"
    );
    // A message for the first connection finds nobody; the second connection gets its message.
    assert!(shard.table.write(&context, slot(0), Kind::Push, own(b"lost")));
    assert!(shard.table.write(&context, slot(1), Kind::Push, own(b"heard")));
    second.set_nonblocking(false).expect("a socket option");
    let mut heard = [0; 5];
    second.read_exact(&mut heard).expect("a message");
    assert_eq!(&heard, b"heard");
}

#[test]
fn what_is_owed_is_written_before_the_end() {
    let (mut shard, _inbox) = shard();
    let mut peer = connect(&mut shard);
    let slot = Slot { index: 0, generation: 0 };
    let message = [7; 8000];
    let mut sent = message.len();
    let context = shard.context.clone();
    while shard.table.write(&context, slot, Kind::Push, own(&message)) {
        sent += message.len();
    }
    // The socket has not taken all of the last one.
    shard.table.guarded(&context, slot, |connection, _| connection.close(Cause::TakenOver, &context));
    peer.set_nonblocking(true).expect("a socket option");
    let (mut received, mut bytes) = (0, vec![0; 65536]);
    let start = Instant::now();
    loop {
        shard.collect();
        shard.step_some();
        match peer.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => received += length,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(start.elapsed().as_secs() < 60, "{received} of {sent} bytes, and no end");
    }
    assert_eq!(received, sent);
}

#[test]
fn a_slow_peer_holds_a_reference_to_a_body_until_the_body_is_written() {
    let (mut shard, _inbox) = shard();
    let mut peer = connect(&mut shard);
    let slot = Slot { index: 0, generation: 0 };
    let body = Bytes::from((0..8000).map(|byte| byte as u8).collect::<Vec<_>>());
    let context = shard.context.clone();
    let mut sent = Vec::new();
    for number in 0u32.. {
        let head = number.to_be_bytes();
        sent.extend([&head[..], &body].concat());
        assert!(body.is_unique(), "what the socket has taken is not held");
        if !shard.table.write(&context, slot, Kind::Push, Outgoing { head: &head, body: Some(&body) }) {
            break;
        }
    }
    assert!(!body.is_unique(), "the rest is a reference");
    // A reply and its body follow in their order.
    sent.extend([b"reply", &body[..]].concat());
    assert!(!shard.table.write(&context, slot, Kind::Reply, Outgoing { head: b"reply", body: Some(&body) }));

    peer.set_nonblocking(true).expect("a socket option");
    let (mut received, mut bytes) = (Vec::new(), vec![0; 65536]);
    let start = Instant::now();
    while received.len() < sent.len() {
        shard.collect();
        shard.step_some();
        match peer.read(&mut bytes) {
            Ok(length) => received.extend_from_slice(&bytes[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(start.elapsed().as_secs() < 60, "{} of {} bytes", received.len(), sent.len());
    }
    assert!(received == sent);
    assert!(body.is_unique());
}

#[test]
fn what_came_before_the_stop_is_read_though_there_was_no_news_of_it() {
    let (mut shard, mut inbox) = shard();
    let mut peer = connect(&mut shard);
    let mut request = Vec::new();
    set_lb_state_request(&mut request, 7, b"LB1", Health::BEST, LbFlags::NONE).expect("a short UID");
    peer.write_all(&request).expect("a socket takes a message");
    shard.context.shared.draining.store(true, Ordering::Relaxed);
    shard.stop();
    shard.step_some();
    shard.turn_uplink();
    let batch = inbox.receive().expect("the coordinator is told");
    let [_, (_, Up::Request(range))] = &batch.entries[..] else { panic!("{:?}", batch.entries) };
    assert_eq!(batch.bytes[range.clone()], request);
}

/// The begin of a message.
const BEGIN: [u8; 4] = [0x20, 0x10, 0x00, 0x0D];

/// Whether the connection of this peer ends at the server's stop though the peer does not end its side. `before` acts
/// before the stop.
fn ends_by_itself(before: impl FnOnce(&mut Shard, &mut TcpStream)) -> bool {
    let (mut shard, _inbox) = shard();
    let mut peer = connect(&mut shard);
    before(&mut shard, &mut peer);
    shard.context.shared.draining.store(true, Ordering::Relaxed);
    shard.stop();
    shard.step_some();
    assert_eq!(peer.read(&mut [0; 1]).expect("the server ends its side"), 0);
    shard.context.open_connections() == 0
}

/// Lets the shard hear what the peer says.
fn say(shard: &mut Shard, peer: &mut TcpStream, bytes: &[u8]) {
    peer.write_all(bytes).expect("a socket takes bytes");
    shard.collect();
    shard.step_some();
}

/// Looks at timeouts so many times.
fn look(shard: &mut Shard, times: u32) {
    for _ in 0..times {
        shard.context.ask_for_sweep(shard.context.now());
        while shard.sweep_some() {}
    }
}

#[test]
fn a_silent_peer_that_is_owed_nothing_is_not_waited_for_at_the_stop() {
    assert!(ends_by_itself(|_, _| {}), "it never said anything");
    assert!(ends_by_itself(|shard, peer| {
        say(shard, peer, &BEGIN);
        look(shard, 4);
    }));
    // A reset could destroy what the peer has yet to read.
    assert!(!ends_by_itself(|shard, peer| {
        say(shard, peer, &BEGIN);
        look(shard, 3);
    }));
    assert!(!ends_by_itself(|_, peer| peer.write_all(&BEGIN).expect("a socket takes bytes")), "read after the stop");
}

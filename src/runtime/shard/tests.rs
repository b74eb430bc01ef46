use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    judgement::Policy,
    monitor::{Settings, Tuning},
    roster::{Member, Roster},
    runtime::{mesh::pipe, shard::shared::LIMITS},
    sasp::{Health, LbFlags, writer::set_lb_state_request},
};

/// A shard that no executor runs, and the coordinator's end of its way up.
fn shard() -> (Rc<Shard>, Receiver<(Slot, Up)>) {
    let bell = Arc::new(Bell::default());
    let (up, inbox) = pipe(2, bell.clone(), bell.clone());
    let (_, down) = pipe(2, bell.clone(), bell.clone());
    let settings = Settings { tuning: Tuning::default(), checks_under_way: 1, icmp: false };
    let roster = Arc::new(Roster::new(Member::unknown(100), Policy::Auto));
    let prober = Prober::new(false).expect("an epoll set");
    let plan = Plan {
        index: 0,
        shards: 1,
        limits: LIMITS,
        listeners: Vec::new(),
        shared: Arc::new(Shared::new(&LIMITS, None)),
        counters: Arc::default(),
        bell,
        poller: Poller::new().expect("an epoll set"),
        spin: Duration::ZERO,
        up,
        down,
        monitoring: monitoring::Plan { control: Arc::default(), roster, settings, seed: 1, prober },
    };
    (Parts::new(plan).shard, inbox)
}

/// Connects a peer to the shard.
fn connect(shard: &Rc<Shard>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (socket, address) = listener.accept().expect("a connection waits");
    assert!(shard.shared.connections.take(1));
    shard.admit(socket.into(), address, Carries::Plain);
    peer
}

#[test]
fn a_fault_in_one_connection_ends_that_one_alone() {
    let (shard, mut inbox) = shard();
    let (mut first, mut second) = (connect(&shard), connect(&shard));
    let slot = |index| Slot { index, generation: 0 };
    assert_eq!(shard.guarded(slot(0), |connection, _| connection.slot()), Some(slot(0)));
    let fault = shard.guarded(slot(0), |_, _| -> () { panic!("a fault, for the test") });
    assert_eq!(fault, None);

    assert_eq!(first.read(&mut [0; 1]).expect("the end"), 0);
    second.set_nonblocking(true).expect("a socket option");
    assert_eq!(second.read(&mut [0; 1]).expect_err("it is open").kind(), ErrorKind::WouldBlock);
    assert_eq!(shard.table.borrow().open, 1);
    assert_eq!(shard.counters.closed[Cause::Panicked as usize].load(Ordering::Relaxed), 1);
    shard.turn_uplink();
    let told = inbox.receive().expect("the coordinator is told").entries;
    assert!(
        matches!(told[..], [(_, Up::Opened(_)), (_, Up::Opened(_)), (Slot { index: 0, .. }, Up::Closed)]),
        "{told:?}"
    );
    // What is on its way to it finds nobody, and the other one is written to.
    assert!(shard.write(slot(0), Kind::Push, b"lost"));
    assert!(shard.write(slot(1), Kind::Push, b"heard"));
    second.set_nonblocking(false).expect("a socket option");
    let mut heard = [0; 5];
    second.read_exact(&mut heard).expect("a message");
    assert_eq!(&heard, b"heard");
}

#[test]
fn what_is_owed_is_written_before_the_end() {
    let (shard, _inbox) = shard();
    let mut peer = connect(&shard);
    let slot = Slot { index: 0, generation: 0 };
    let message = [7; 8000];
    let mut sent = message.len();
    while shard.write(slot, Kind::Push, &message) {
        sent += message.len();
    }
    // The socket has not taken all of the last one.
    shard.guarded(slot, |connection, _| connection.close(Cause::TakenOver, &shard));
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
fn what_came_before_the_stop_is_read_though_there_was_no_news_of_it() {
    let (shard, mut inbox) = shard();
    let mut peer = connect(&shard);
    let mut request = Vec::new();
    set_lb_state_request(&mut request, 7, b"LB1", Health::BEST, LbFlags::NONE).expect("a short UID");
    peer.write_all(&request).expect("a socket takes a message");
    shard.shared.draining.store(true, Ordering::Relaxed);
    shard.tell_stop();
    shard.step_some();
    shard.turn_uplink();
    let batch = inbox.receive().expect("the coordinator is told");
    let [_, (_, Up::Request(range))] = &batch.entries[..] else { panic!("{:?}", batch.entries) };
    assert_eq!(batch.bytes[range.clone()], request);
}

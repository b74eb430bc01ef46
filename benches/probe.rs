//! TCP checks of a listener on loopback, begun together, and beside them the least that the kernel takes for the
//! same: a socket that connects and is closed with a reset. Items are checks. Loopback plays the member too, in the
//! checker's time; a member on another machine costs less.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::LazyLock,
    time::Duration,
};

use divan::{Bencher, counter::ItemsCount};
use gwm::{
    monitor::Outcome,
    roster::Check,
    runtime::probe::Prober,
    sasp::{Endpoint, component::TCP},
    time::Time,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, listen, socket_with, sockopt},
};

use crate::scaled;

/// A listener that takes what comes, for as long as the program runs.
static LISTENER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback can be bound");
    // A queue that is full would be measured, not the checks.
    listen(&listener, 4096).expect("it listens");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    address
});

#[divan::bench(args = [1, 100, 1_000])]
fn tcp_checks(bencher: Bencher<'_, '_>, together: u32) {
    let endpoint = Endpoint::new(LISTENER.ip(), TCP, LISTENER.port());
    let together = scaled(together);
    let mut prober = Prober::new(false).expect("an epoll set");
    bencher.counter(ItemsCount::new(together)).bench_local(|| {
        for _ in 0..together {
            prober.start((), &endpoint, &Check::Tcp, None, Time(u64::MAX));
        }
        while prober.turn(Time(0), |(), outcome| assert_eq!(outcome, Outcome::Passed)) || prober.under_way() > 0 {
            poll(&mut [PollFd::new(&prober, PollFlags::IN)], None).expect("a set can be waited for");
        }
    });
}

#[divan::bench(args = [1, 100, 1_000])]
fn bare_connections(bencher: Bencher<'_, '_>, together: u32) {
    let together = scaled(together);
    bencher.counter(ItemsCount::new(together)).bench_local(|| {
        for _ in 0..together {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP));
            let socket = socket.expect("a socket");
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("an option of sockets");
            connect(&socket, &*LISTENER).expect("it listens");
        }
    });
}

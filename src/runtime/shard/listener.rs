//! Listening sockets: bound for every shard before serving starts, then drained in bursts.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::context::{Arrival, Context};
use crate::{
    config::{Carries, Connections},
    coordinator::Time,
    limits,
    runtime::machine::{
        executor::{self, TIME_SLICE},
        poller::Readable,
    },
};

/// Connections that the kernel completes ahead of us; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Unsent bytes that a socket buffers. Without this limit the kernel would queue megabytes of weights for a peer that
/// reads slowly, and all of them would be old when they are read.
const UNSENT_BYTES: u32 = 128 << 10;

/// Connections accepted between looks at the clock.
const ACCEPTS_PER_LOOK: usize = 8;

/// The pause of a full server, or of one without file descriptors, before it tries again.
const FULL_TICK: Duration = Duration::from_millis(20);

/// The least time between two log lines about such trouble.
pub(super) const TROUBLE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Binds one listening socket for each shard; the returned address has the port that was chosen for port 0.
pub(crate) fn bind(address: SocketAddr, shards: usize, limits: &Connections) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    // The first socket is bound as if it were the only one: with SO_REUSEPORT from the start, a second daemon of
    // the same user would silently get a part of the first one's connections.
    let first = socket(address, limits)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?.as_socket().expect("an IP socket has an IP address");
    let mut sockets = vec![first];
    for _ in 1..shards {
        let other = socket(address, limits)?;
        other.set_reuse_port(true)?;
        other.bind(&bound.into())?;
        sockets.push(other);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok((bound, sockets.into_iter().map(OwnedFd::from).collect()))
}

/// Accepted connections inherit all of these options, which saves a few system calls for each.
fn socket(address: SocketAddr, limits: &Connections) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    // A peer whose machine is gone acknowledges nothing. While the socket buffers all our bytes only the kernel sees
    // this, and ends the connection after this time. The time also limits keepalive, which must get its three probes.
    let mut unacknowledged = limits.stall_timeout;
    if let Some(idle) = limits.keepalive {
        let interval = (idle / 3).max(Duration::from_secs(1));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(3))?;
        unacknowledged = unacknowledged.max(idle + interval * 3);
    }
    socket.set_tcp_user_timeout(Some(unacknowledged))?;
    Ok(socket)
}

/// Accepts while the server has room; else connections wait in the kernel's backlog. Runs until it is dropped.
pub(super) async fn accept(context: Rc<Context>, listener: OwnedFd, carries: Carries) {
    let mut quiet_until = Time::default();
    loop {
        // The wait does not accept, because the budget of connections is asked first.
        let trouble = match wait(&listener).await {
            Ok(()) => match burst(&context, &listener, carries).await {
                Burst::Drained => continue,
                Burst::Full => format!("--max-connections {} are open: more wait unaccepted", context.limits.max),
                Burst::Failed(error) => format!("can not accept connections, trying again: {error}"),
            },
            Err(error) => format!("can not wait for connections, trying again: {error}"),
        };
        let now = context.now();
        if now >= quiet_until {
            quiet_until = now + TROUBLE_LOG_INTERVAL;
            tracing::warn!(shard = context.index, "{trouble}");
        }
        executor::sleep(FULL_TICK).await;
    }
}

async fn wait(listener: &OwnedFd) -> io::Result<()> {
    Readable::new(listener)?.await;
    Ok(())
}

enum Burst {
    Drained,
    Full,
    Failed(Errno),
}

async fn burst(context: &Context, listener: &OwnedFd, carries: Carries) -> Burst {
    let mut start = Instant::now();
    for count in 1..=limits::ACCEPT_BURST {
        // A flood of new connections must not hold up the open ones, some of which want to end.
        if count % ACCEPTS_PER_LOOK == 0 && start.elapsed() >= TIME_SLICE {
            executor::turn().await;
            start = Instant::now();
        }
        std::future::poll_fn(|cx| {
            let mut uplink = context.uplink.borrow_mut();
            if uplink.has_room() && context.arrivals.borrow().len() < limits::ACCEPT_BURST {
                return Poll::Ready(());
            }
            uplink.wait_for_room(cx.waker());
            Poll::Pending
        })
        .await;
        if !context.shared.connections.take(1) {
            return Burst::Full;
        }
        match acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((socket, peer)) => {
                // A peer without an IP address does not exist on an IP socket.
                match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
                    Some(peer) => context.arrive(Arrival { socket, peer, carries }),
                    None => context.shared.connections.give(1),
                }
            }
            Err(error) => {
                context.shared.connections.give(1);
                match error {
                    // This peer was gone before it was accepted; others may wait.
                    Errno::CONNABORTED | Errno::INTR | Errno::PROTO => {}
                    Errno::AGAIN => return Burst::Drained,
                    error => return Burst::Failed(error),
                }
            }
        }
    }
    executor::turn().await;
    Burst::Drained
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::runtime::shard::shared::LIMITS;

    fn limits(stall_timeout: u64, keepalive: Option<u64>) -> Connections {
        let keepalive = keepalive.map(Duration::from_secs);
        Connections { stall_timeout: Duration::from_secs(stall_timeout), keepalive, ..LIMITS }
    }

    #[test]
    fn what_a_vanished_machine_does_not_acknowledge_ends_its_connection() {
        for (stall, keepalive, seconds) in [(30, Some(60), 120), (300, Some(60), 300), (7, None, 7)] {
            let loopback = "127.0.0.1:0".parse().expect("an address");
            let (address, listeners) = bind(loopback, 2, &limits(stall, keepalive)).expect("loopback can be bound");
            let _peer = TcpStream::connect(address).expect("it listens");
            let accepted = listeners.iter().find_map(|listener| acceptfrom_with(listener, SocketFlags::CLOEXEC).ok());
            let (socket, _) = accepted.expect("one of the listeners has the connection");
            let socket = Socket::from(socket);
            assert_eq!(
                socket.tcp_notsent_lowat().expect("a TCP socket"),
                UNSENT_BYTES,
                "it does not buffer without end"
            );
            let timeout = socket.tcp_user_timeout().expect("a TCP socket");
            assert_eq!(timeout, Some(Duration::from_secs(seconds)), "stall {stall}, keepalive {keepalive:?}");
        }
    }
}

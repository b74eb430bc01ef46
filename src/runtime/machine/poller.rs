//! Epoll sets. glommio waits for a whole set, not for its descriptors.
//!
//! glommio arms an io_uring poll for every read. With thousands of pending reads this costs twice: each request arms
//! one, and glommio searches through all of them when it cancels its own timer, which happens at every turn. An
//! edge-triggered descriptor in an epoll set is armed once in its life, and the ring has one poll.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_lite::AsyncRead;
use glommio::net::TcpStream;
use rustix::{
    event::{
        EventfdFlags, Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
        eventfd,
    },
    io::{Errno, fcntl_dupfd_cloexec},
};

use super::sys;

/// Events taken in one go.
const EVENTS: usize = 256;

/// The token of the waker, whose events only end a wait.
const WAKER: u64 = u64::MAX;

/// The token of a shard's checks; the tokens of its listeners and connections are below.
pub(crate) const CHECKS: u64 = WAKER - 1;

/// An epoll set, and a waker that ends a wait for it.
pub(crate) struct Poller {
    set: OwnedFd,
    waker: Waker,
}

/// Wakes a thread by an event of this descriptor, which is never read: each write is an edge.
struct Edge(OwnedFd);

impl Wake for Edge {
    fn wake(self: Arc<Self>) {
        // It fails only after 2^64 writes.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// News of a connection's socket since the last news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// There may be bytes to read.
    pub(crate) readable: bool,
    /// The peer has ended its side, or the connection broke: no news of the remaining bytes will come.
    pub(crate) ended: bool,
}

impl News {
    /// The events that a connection waits for, each told once.
    pub(crate) const INTEREST: EventFlags =
        EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
}

impl From<EventFlags> for News {
    fn from(events: EventFlags) -> News {
        let ended = events.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        News { readable: ended || events.contains(EventFlags::IN), ended }
    }
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        let edge = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&set, &edge, EventData::new_u64(WAKER), EventFlags::IN | EventFlags::ET)?;
        Ok(Poller { set, waker: Arc::new(Edge(edge)).into() })
    }

    /// Watches a descriptor until it is closed. Its events come with `token`, also those that are possible already.
    pub(crate) fn add(&self, descriptor: impl AsFd, token: u64, interest: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.set, descriptor, EventData::new_u64(token), interest)
    }

    /// Watches a descriptor no more. Only needed if the file behind the descriptor stays open.
    pub(crate) fn remove(&self, descriptor: impl AsFd) {
        // It fails only if the set does not watch the descriptor.
        let _ = epoll::delete(&self.set, descriptor);
    }

    /// Gives the events of now, at most [`EVENTS`], with their tokens; whether there may be more.
    pub(crate) fn collect(&self, give: impl FnMut(u64, EventFlags)) -> bool {
        self.wait(Duration::ZERO, give)
    }

    /// As [`Poller::collect`], but if there are none, the thread sleeps until there are some, until the
    /// [waker](Poller::waker) is called, or for so long.
    pub(crate) fn wait(&self, longest: Duration, mut give: impl FnMut(u64, EventFlags)) -> bool {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let longest = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
        let (events, _) = match epoll::wait(&self.set, &mut events[..], Some(&longest)) {
            Ok(events) => events,
            Err(Errno::INTR) => return true,
            Err(error) => unreachable!("the epoll set is open, and the buffer is valid: {error}"),
        };
        for &Event { flags, data, .. } in events.iter() {
            if data.u64() != WAKER {
                give(data.u64(), flags);
            }
        }
        events.len() == EVENTS
    }

    /// Ends a [`Poller::wait`], this or the next.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// Waits until a listener or an epoll set is readable.
///
/// glommio can only wait for streams. A stream over such a descriptor waits until the descriptor is readable, then
/// receives and fails: this failure is the news. A stream does so once, so each wait has its own stream.
pub(crate) struct Readable(TcpStream);

impl Readable {
    pub(crate) fn new(descriptor: impl AsFd) -> io::Result<Readable> {
        Ok(Readable(sys::adopt(fcntl_dupfd_cloexec(descriptor, 0)?)))
    }
}

impl Future for Readable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll_read(cx, &mut [0]).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
    };

    use super::*;

    /// Collects until there is news as `wanted`.
    fn news(poller: &Poller, wanted: impl Fn(News) -> bool) -> News {
        let start = std::time::Instant::now();
        loop {
            let mut found = None;
            poller.collect(|token, events| {
                assert_eq!(token, 7);
                found = found.or(Some(News::from(events)).filter(|news| wanted(*news)));
            });
            if let Some(news) = found {
                return news;
            }
            assert!(start.elapsed().as_secs() < 30, "no such news");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_waker_ends_a_wait() {
        let poller = Poller::new().expect("an epoll set");
        let none = |_, _| panic!("the waker is no news");
        poller.waker().wake_by_ref();
        poller.wait(Duration::from_secs(3600), none); // the wake came first
        let waker = poller.waker().clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        poller.wait(Duration::from_secs(3600), none);
        other.join().expect("no panic");
        assert!(!poller.wait(Duration::from_millis(1), none), "a wake is told once, and the time is limited");
    }

    #[test]
    fn each_arrival_is_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut socket, _) = listener.accept().expect("a connection waits");
        let poller = Poller::new().expect("an epoll set");
        poller.add(&socket, 7, News::INTEREST).expect("a socket can be added");
        assert_eq!(news(&poller, |_| true), News { readable: false, ended: false }, "it can be written");

        peer.write_all(b"ab").expect("the peer sends");
        assert_eq!(news(&poller, |news| news.readable), News { readable: true, ended: false });
        let mut told = 0;
        assert!(!poller.collect(|_, _| told += 1));
        assert_eq!(told, 0, "what was told is not told again, read or not");

        peer.write_all(b"c").expect("the peer sends");
        news(&poller, |news| news.readable);
        peer.shutdown(Shutdown::Write).expect("the peer ends its side");
        assert!(news(&poller, |news| news.ended).readable);
        let mut all = Vec::new();
        socket.read_to_end(&mut all).expect("the peer has ended its side");
        assert_eq!(all, b"abc");
    }
}

//! The descriptors of a shard that wait for their peers, in one epoll set that glommio waits for as a whole.
//!
//! glommio arms an io_uring poll for every read. With thousands of them pending that costs twice: arming for every
//! request, and a search through all of them whenever glommio cancels its own timer, which is at every turn. Edge
//! triggered, a descriptor is armed once in its life, and the ring has one poll.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::AsyncRead;
use glommio::net::TcpStream;
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::{Errno, fcntl_dupfd_cloexec},
};

use super::sys;

/// Events taken in one go.
const EVENTS: usize = 256;

/// The epoll set.
pub(crate) struct Poller {
    set: OwnedFd,
}

/// What became possible with a descriptor since it was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// The number under which the descriptor was added.
    pub(crate) token: u64,
    /// There may be something to read.
    pub(crate) readable: bool,
    /// The peer has ended its side, or the connection broke: what is left to read ends.
    pub(crate) ended: bool,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller { set: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Tells of the descriptor from now on, and of what is possible with it already, until it is closed.
    pub(crate) fn add(&self, descriptor: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.set, descriptor, EventData::new_u64(token), flags)?)
    }

    /// Tells each news once, as far as there are some now; whether there may be more.
    pub(crate) fn collect(&self, mut tell: impl FnMut(News)) -> bool {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = match epoll::wait(&self.set, &mut events[..], Some(&at_once)) {
            Ok(events) => events,
            Err(Errno::INTR) => return true,
            Err(error) => unreachable!("an epoll set that is ours can be asked: {error}"),
        };
        for &Event { flags, data, .. } in events.iter() {
            let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            tell(News { token: data.u64(), readable: ended || flags.contains(EventFlags::IN), ended });
        }
        events.len() == EVENTS
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// Waits until a descriptor that nothing can be received from (a listener, an epoll set) is readable.
///
/// glommio has no such wait. A stream over the descriptor waits for it to be readable, then receives and fails: that
/// failure is the news. A stream does so once, so each wait has its own.
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

    /// Collects until there is news that says what is waited for.
    fn news(poller: &Poller, wanted: impl Fn(News) -> bool) -> News {
        let start = std::time::Instant::now();
        loop {
            let mut found = None;
            poller.collect(|news| found = found.or(wanted(news).then_some(news)));
            if let Some(news) = found {
                return news;
            }
            assert!(start.elapsed().as_secs() < 30, "no such news");
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_arrival_is_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut socket, _) = listener.accept().expect("a connection waits");
        let poller = Poller::new().expect("an epoll set");
        poller.add(&socket, 7).expect("a socket can be added");
        assert_eq!(news(&poller, |_| true), News { token: 7, readable: false, ended: false }, "it can be written");

        peer.write_all(b"ab").expect("the peer sends");
        assert_eq!(news(&poller, |news| news.readable), News { token: 7, readable: true, ended: false });
        let mut told = 0;
        assert!(!poller.collect(|_| told += 1));
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

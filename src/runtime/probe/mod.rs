//! The I/O of a shard's checks: what [`monitor`](crate::monitor) wants to know of members, asked with sockets that
//! never block, all of them in one epoll set, which the shard waits for as a whole.
//!
//! A check has its own socket (echoes share one a shard and IP version), lives no longer than its deadline, and holds
//! no more of an answer than its parser takes. Its connection ends with a reset, as HAProxy's checks do: closed
//! the usual way, it would linger here for a minute as TIME_WAIT, for each check one, and eat up the ports.

mod echo;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};
use slab::Slab;

use crate::{
    limits,
    monitor::{Outcome, Reason, echo::Version},
    roster::Check,
    runtime::machine::executor::TIME_SLICE,
    sasp::Endpoint,
    time::Time,
};

pub use echo::may_echo;

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// Events handled between looks at the clock.
const EVENTS_PER_LOOK: usize = 8;

/// Names of the echo sockets in the epoll set; checks have slots below.
const ECHO_V4: u64 = u64::MAX;
const ECHO_V6: u64 = u64::MAX - 1;

/// The bits of a serial: with one more, a check could have the name of an echo socket.
const SERIALS: u32 = u32::MAX >> 1;

/// The checks under way, each named by its caller's `T`.
pub struct Prober<T> {
    set: OwnedFd,
    runs: Slab<Run<T>>,
    /// Counts checks, to tell apart those that used the same slot.
    serial: u32,
    /// By deadline; that of a check that has ended stays until its time has come or it is the first.
    deadlines: BinaryHeap<Reverse<(Time, u32, u32)>>,
    /// Ended before they began.
    done: Vec<(T, Outcome)>,
    /// Taken from the kernel, and not yet handled from `next` on.
    events: Vec<(u64, EventFlags)>,
    next: usize,
    echo: Option<echo::Sockets>,
    /// What every read reads into.
    scratch: Box<[u8]>,
}

struct Run<T> {
    token: T,
    serial: u32,
    asking: Asking,
}

/// What a check waits for.
enum Asking {
    /// A connection, and perhaps an answer on it.
    Stream(stream::Stream),
    /// An echo from this endpoint.
    Echo(Endpoint),
}

impl<T> Prober<T> {
    /// No checks. `icmp`: [`may_echo`] said that echoes can be sent.
    pub fn new(icmp: bool) -> io::Result<Prober<T>> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        let echo = icmp.then(echo::Sockets::open).transpose()?;
        for (version, name) in [(Version::V4, ECHO_V4), (Version::V6, ECHO_V6)] {
            if let Some(socket) = echo.as_ref().and_then(|echo| echo.socket(version)) {
                // Not edge-triggered: what is left after one go is told again.
                epoll::add(&set, socket, EventData::new_u64(name), EventFlags::IN)?;
            }
        }
        Ok(Prober {
            set,
            runs: Slab::new(),
            serial: 0,
            deadlines: BinaryHeap::new(),
            done: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            next: 0,
            echo,
            scratch: vec![0; limits::READ_BYTES].into(),
        })
    }

    /// Begins a check. How it ends is told by [`Prober::turn`], even if that is known now.
    pub fn start(&mut self, token: T, endpoint: &Endpoint, check: &Check, deadline: Time) {
        self.serial = (self.serial + 1) & SERIALS;
        let entry = self.runs.vacant_entry();
        let (index, serial) = (entry.key() as u32, self.serial); // fewer checks than file descriptors
        let name = u64::from(index) | u64::from(serial) << 32;
        let begun = isolated(|| match check {
            Check::Icmp => match &self.echo {
                Some(echo) => echo.ask(endpoint, name).map(|()| Asking::Echo(*endpoint)),
                None => Err(Outcome::Inconclusive(Reason::NoNetwork)),
            },
            _ => stream::Stream::open(endpoint, check).and_then(|stream| {
                match epoll::add(&self.set, stream.socket(), EventData::new_u64(name), stream.interest()) {
                    Ok(()) => Ok(Asking::Stream(stream)),
                    Err(error) => Err(ours(error)),
                }
            }),
        });
        match begun.flatten() {
            Ok(asking) => {
                entry.insert(Run { token, serial, asking });
                self.deadlines.push(Reverse((deadline, index, serial)));
            }
            Err(outcome) => self.done.push((token, outcome)),
        }
    }

    /// Does what can be done now, and tells of each check that has ended. `true` if there is more to do: come back
    /// after others had their turn; else when the set is readable, or [`Prober::next_deadline`] has come.
    pub fn turn(&mut self, now: Time, mut tell: impl FnMut(T, Outcome)) -> bool {
        for (token, outcome) in self.done.drain(..) {
            tell(token, outcome);
        }
        let start = Instant::now();
        loop {
            if self.next == self.events.len() && !self.collect() {
                break;
            }
            for _ in 0..EVENTS_PER_LOOK {
                let Some(&(name, flags)) = self.events.get(self.next) else { break };
                self.next += 1;
                self.handle(name, flags, &mut tell);
            }
            if start.elapsed() >= TIME_SLICE {
                return true; // nothing times out that may have been answered
            }
        }
        while let Some(&Reverse((at, index, serial))) = self.deadlines.peek() {
            let known = self.runs.get(index as usize).is_some_and(|run| run.serial == serial);
            if known && at > now {
                break;
            }
            self.deadlines.pop();
            if known {
                let run = self.runs.remove(index as usize);
                tell(run.token, Outcome::Failed(Reason::TimedOut));
                if start.elapsed() >= TIME_SLICE {
                    return true;
                }
            }
        }
        false
    }

    /// When a check times out next.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.done.is_empty() {
            return Some(Time::default());
        }
        self.deadlines.peek().map(|Reverse((at, ..))| *at)
    }

    /// How many checks there are that have not ended.
    pub fn under_way(&self) -> usize {
        self.runs.len()
    }

    /// Asks the kernel for news; whether there are some.
    fn collect(&mut self) -> bool {
        self.events.clear();
        self.next = 0;
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.set, &mut events[..], Some(&at_once)) {
            Ok((events, _)) => self.events.extend(events.iter().map(|event| (event.data.u64(), event.flags))),
            Err(Errno::INTR) => {}
            Err(error) => unreachable!("an epoll set that is ours can be asked: {error}"),
        }
        !self.events.is_empty()
    }

    fn handle(&mut self, name: u64, flags: EventFlags, tell: &mut impl FnMut(T, Outcome)) {
        if name >= ECHO_V6 {
            return self.hear(if name == ECHO_V4 { Version::V4 } else { Version::V6 }, tell);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        // The check may have ended, and another be in its slot.
        let outcome = match self.run(name).map(|run| &mut run.asking) {
            Some(Asking::Stream(stream)) => isolated(|| stream.advance(flags, &mut scratch)).unwrap_or_else(Some),
            _ => None,
        };
        self.scratch = scratch;
        if let Some(outcome) = outcome {
            let run = self.runs.remove(name as u32 as usize);
            tell(run.token, outcome);
        }
    }

    fn run(&mut self, name: u64) -> Option<&mut Run<T>> {
        let run = self.runs.get_mut(name as u32 as usize)?;
        (u64::from(run.serial) == name >> 32).then_some(run)
    }

    /// Reads some echoes.
    fn hear(&mut self, version: Version, tell: &mut impl FnMut(T, Outcome)) {
        for _ in 0..EVENTS {
            let Some(echo) = &self.echo else { return };
            let Ok(heard) = isolated(|| echo.hear(version, &mut self.scratch)) else { continue };
            let Some(heard) = heard else { return };
            let Some((from, name)) = heard else { continue };
            let Some(run) = self.run(name) else { continue };
            if matches!(&run.asking, Asking::Echo(endpoint) if endpoint.ip() == from) {
                let run = self.runs.remove(name as u32 as usize);
                tell(run.token, Outcome::Passed);
            }
        }
    }
}

impl<T> AsFd for Prober<T> {
    /// Readable while there is news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// Does a piece of one check's work. A fault of ours in it, a panic, is the end of that check and not of the shard: what
/// the check has is dropped with it, and the next one begins anew.
fn isolated<R>(work: impl FnOnce() -> R) -> Result<R, Outcome> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Outcome::Inconclusive(Reason::Fault))
}

/// What an error says that this machine itself gave, before anything was sent.
fn ours(error: Errno) -> Outcome {
    match error {
        Errno::CONNREFUSED | Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::HOSTDOWN => theirs(error),
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN | Errno::NOSPC => {
            Outcome::Inconclusive(Reason::NoResources)
        }
        // No route, no address of that kind, no free port, a rule of a local firewall: all of them are no fault of
        // the member's.
        _ => Outcome::Inconclusive(Reason::NoNetwork),
    }
}

/// What an error says that came of asking.
fn theirs(error: Errno) -> Outcome {
    match error {
        Errno::CONNREFUSED => Outcome::Failed(Reason::Refused),
        Errno::TIMEDOUT => Outcome::Failed(Reason::TimedOut),
        Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED => Outcome::Failed(Reason::Closed),
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => Outcome::Inconclusive(Reason::NoNetwork),
        Errno::NOBUFS | Errno::NOMEM => Outcome::Inconclusive(Reason::NoResources),
        _ => Outcome::Failed(Reason::Unreachable),
    }
}

//! The I/O of a shard's checks, which [`monitor`](crate::monitor) orders. The sockets never block, and all stand in one
//! epoll set, which the shard waits for as a whole.
//!
//! A check has its own socket (echoes share one for each shard and IP version), ends at its deadline at the latest, and
//! keeps no more of an answer than its parser takes. Its connection ends with a reset, as HAProxy's checks do: a
//! connection that is closed the usual way stays in TIME_WAIT for a minute, so that many checks would use up all ports.

mod echo;
mod encryption;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    os::fd::{AsFd, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use rustix::{event::epoll::EventFlags, io::Errno};
use slab::Slab;

use crate::{
    limits,
    monitor::{Outcome, Reason, echo::Version},
    roster::{Check, ProxyProtocol},
    runtime::machine::{
        executor::TIME_SLICE,
        poller::{CHECKS, Poller},
    },
    sasp::Endpoint,
    time::Time,
};

pub use echo::may_echo;

/// Echoes read before other work has its turn.
const ECHOES: usize = 256;

/// Events handled between looks at the clock.
const EVENTS_PER_LOOK: usize = 8;

/// Names of the echo sockets in the epoll set; the names of checks are lower.
const ECHO_V4: u64 = CHECKS - 1;
const ECHO_V6: u64 = CHECKS - 2;

/// The bits of a serial: with one more, a check could have the name of an echo socket.
const SERIALS: u32 = u32::MAX >> 1;

/// The running checks, each named by its caller's `T`.
pub struct Prober<T> {
    poller: Poller,
    runs: Slab<Run<T>>,
    /// The number of the last check, to tell apart checks that used the same slot.
    serial: u32,
    /// Deadline, slot and serial, earliest first. The entry of a check that has ended stays until it is the first.
    deadlines: BinaryHeap<Reverse<(Time, u32, u32)>>,
    /// Checks that ended at their start.
    done: Vec<(T, Outcome)>,
    /// Events from the kernel; those from `next` on are not handled yet.
    events: Vec<(u64, EventFlags)>,
    next: usize,
    echo: Option<echo::Sockets>,
    /// The buffer of every read.
    scratch: Box<[u8]>,
}

struct Run<T> {
    token: T,
    serial: u32,
    asking: Asking,
}

/// A check's way to ask its member.
enum Asking {
    /// By a connection, and perhaps a request on it.
    Stream(stream::Stream),
    /// By an echo to this endpoint.
    Echo(Endpoint),
}

impl<T> Prober<T> {
    /// Makes a prober without checks. `icmp` says whether the process [may echo](may_echo).
    pub fn new(icmp: bool) -> io::Result<Prober<T>> {
        let poller = Poller::new()?;
        let echo = icmp.then(echo::Sockets::open).transpose()?;
        for (version, name) in [(Version::V4, ECHO_V4), (Version::V6, ECHO_V6)] {
            if let Some(socket) = echo.as_ref().and_then(|echo| echo.socket(version)) {
                // Level-triggered: packets that are left after one go are told again.
                poller.add(socket, name, EventFlags::IN)?;
            }
        }
        Ok(Prober {
            poller,
            runs: Slab::new(),
            serial: 0,
            deadlines: BinaryHeap::new(),
            done: Vec::new(),
            events: Vec::new(),
            next: 0,
            echo,
            scratch: vec![0; limits::READ_BYTES].into(),
        })
    }

    /// Starts a check. [`Prober::turn`] gives its outcome, even if the check ends at once.
    pub fn start(
        &mut self,
        token: T,
        endpoint: &Endpoint,
        check: &Check,
        proxy_protocol: Option<ProxyProtocol>,
        deadline: Time,
    ) {
        let endpoint = &endpoint.canonical(); // so that an IPv4 address takes a socket for IPv4, however it is written
        self.serial = (self.serial + 1) & SERIALS;
        let entry = self.runs.vacant_entry();
        let (index, serial) = (entry.key() as u32, self.serial); // there are fewer checks than file descriptors
        let name = u64::from(index) | u64::from(serial) << 32;
        let begun = isolated(|| match check {
            Check::Icmp => match &self.echo {
                Some(echo) => echo.ask(endpoint, name).map(|()| Asking::Echo(*endpoint)),
                None => Err(Outcome::Inconclusive(Reason::NoNetwork)),
            },
            _ => stream::Stream::open(endpoint, check, proxy_protocol).and_then(|stream| {
                match self.poller.add(stream.socket(), name, stream.interest()) {
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

    /// Does all that is possible now, for about a [`TIME_SLICE`], and gives the outcome of each check that has ended.
    /// If true, there is more to do at once; else the next call is due when the set is readable or at
    /// [`Prober::next_deadline`].
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
                return true; // no check times out whose answer may have arrived
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

    /// The time at which the next check times out.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.done.is_empty() {
            return Some(Time::default());
        }
        self.deadlines.peek().map(|Reverse((at, ..))| *at)
    }

    /// The number of checks that have not ended.
    pub fn under_way(&self) -> usize {
        self.runs.len()
    }

    /// Takes events from the kernel; whether there are some.
    fn collect(&mut self) -> bool {
        let Prober { poller, events, .. } = self;
        events.clear();
        self.next = 0;
        poller.collect(|name, flags| events.push((name, flags)));
        !events.is_empty()
    }

    fn handle(&mut self, name: u64, flags: EventFlags, tell: &mut impl FnMut(T, Outcome)) {
        if name >= ECHO_V6 {
            return self.hear(if name == ECHO_V4 { Version::V4 } else { Version::V6 }, tell);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        // The check may have ended, and another one may have its slot.
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
        for _ in 0..ECHOES {
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
    /// Readable while there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

/// Does a part of one check's work. A panic in this part ends the check and not the shard: the check's state is
/// dropped, and the next check begins anew.
fn isolated<R>(work: impl FnOnce() -> R) -> Result<R, Outcome> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Outcome::Inconclusive(Reason::Fault))
}

/// The outcome after an error of this machine, before anything was sent.
fn ours(error: Errno) -> Outcome {
    match error {
        Errno::CONNREFUSED | Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::HOSTDOWN => theirs(error),
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN | Errno::NOSPC => {
            Outcome::Inconclusive(Reason::NoResources)
        }
        // No route, no address of that kind, no free port, a rule of a local firewall: none is the member's fault.
        _ => Outcome::Inconclusive(Reason::NoNetwork),
    }
}

/// The outcome after an error that the network or the member caused.
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

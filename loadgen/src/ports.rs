//! Ports at which the player listens for its members: one thread accepts, and a [`Visitor`] sees the intended member.
//!
//! A listener is bound to all addresses, so that one port answers for any number of members in 127.0.0.0/8.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Result, options::pin, player::Stage};

/// Connections that the kernel accepts ahead of the thread, if `net.core.somaxconn` lets it.
const BACKLOG: i32 = 16_384;

/// Connections that one port is served before the others have their turn.
const ACCEPTS: u32 = 64;

/// The lowest port that is used.
const FIRST: u16 = 10_000;

/// The first ephemeral port, if the system does not say.
const EPHEMERAL: u16 = 32_768;

/// How often the thread looks for the order to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A connection to one of the ports.
pub(crate) struct Visit<'a> {
    /// Which of the ports.
    pub(crate) port: usize,
    /// How often it has been opened before.
    pub(crate) round: u32,
    /// The intended address.
    pub(crate) address: Ipv4Addr,
    pub(crate) stage: &'a Stage,
}

/// Sees the connections; they are closed behind it.
pub(crate) trait Visitor: Send + 'static {
    /// A connection was accepted.
    fn visit(&mut self, visit: &Visit<'_>, stream: &mut TcpStream) -> Result<()>;
}

struct Port {
    number: u16,
    listener: Option<TcpListener>,
    /// How often it has been opened.
    opened: u32,
}

/// Shared by the thread and the conductor.
struct Shared {
    poller: OwnedFd,
    ports: Mutex<Vec<Port>>,
    ended: AtomicBool,
}

/// The ports.
pub(crate) struct Ports(Arc<Shared>);

/// The ports while they are served.
pub(crate) struct Service<V> {
    ports: Ports,
    thread: Option<JoinHandle<V>>,
}

impl Ports {
    /// Opens some ports that nobody uses.
    pub(crate) fn open(count: usize) -> Result<Ports> {
        let broken = |error: Errno| format!("can not make an epoll set: {error}");
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(broken)?;
        let shared = Shared { poller, ports: Mutex::default(), ended: AtomicBool::new(false) };
        let ports = Ports(Arc::new(shared));
        // A port that is closed for a time must be free when it is opened again, so it must not be an ephemeral port that a
        // client may get. The first port differs between runs at the same time.
        let end = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
        let end = end.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(EPHEMERAL);
        let span = u32::from(end.saturating_sub(FIRST)).max(1);
        for step in 0..span {
            let number = FIRST + (std::process::id().wrapping_mul(97).wrapping_add(step) % span) as u16;
            let at = ports.lock().len();
            if at == count {
                break;
            }
            ports.lock().push(Port { number, listener: None, opened: 0 });
            if let Err(error) = ports.reopen(at) {
                ports.lock().pop();
                if error.kind() != io::ErrorKind::AddrInUse {
                    return Err(format!("can not listen at port {number}: {error}"));
                }
            }
        }
        let found = ports.lock().len();
        if found == count { Ok(ports) } else { Err(format!("only {found} of {count} ports are free")) }
    }

    /// Their numbers.
    pub(crate) fn numbers(&self) -> Vec<u16> {
        self.lock().iter().map(|port| port.number).collect()
    }

    /// Listens at a port again.
    fn reopen(&self, at: usize) -> io::Result<()> {
        let mut ports = self.lock();
        let port = &mut ports[at];
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.number)).into())?;
        socket.listen(BACKLOG)?;
        let data = epoll::EventData::new_u64(at as u64);
        epoll::add(&self.0.poller, &socket, data, epoll::EventFlags::IN)?;
        port.listener = Some(socket.into());
        port.opened += 1;
        Ok(())
    }

    /// Begins to serve them, on this core.
    pub(crate) fn serve<V: Visitor>(self, stage: &Arc<Stage>, cpu: usize, mut visitor: V) -> Result<Service<V>> {
        let (shared, stage) = (Ports(self.0.clone()), stage.clone());
        let thread = std::thread::Builder::new()
            .name("members".into())
            .spawn(move || {
                if let Err(error) = pin(cpu).and_then(|()| shared.accept(&stage, &mut visitor)) {
                    stage.fail(format!("members: {error}"));
                }
                visitor
            })
            .map_err(|error| format!("can not start a thread: {error}"))?;
        Ok(Service { ports: self, thread: Some(thread) })
    }

    fn accept(&self, stage: &Stage, visitor: &mut impl Visitor) -> Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        while !self.0.ended.load(Ordering::Acquire) {
            events.clear();
            match epoll::wait(&self.0.poller, rustix::buffer::spare_capacity(&mut events), Some(&LOOK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(format!("can not wait for connections: {error}")),
            }
            for event in &events {
                let at = event.data.u64() as usize;
                for _ in 0..ACCEPTS {
                    let (accepted, opened) = {
                        let ports = self.lock();
                        let Some(listener) = &ports[at].listener else { break };
                        (listener.accept(), ports[at].opened)
                    };
                    let mut stream = match accepted {
                        Ok((stream, _)) => stream,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                        Err(error) => return Err(format!("can not accept: {error}")),
                    };
                    let local = stream.local_addr().map_err(|error| format!("no local address: {error}"))?;
                    let IpAddr::V4(address) = local.ip() else { continue };
                    visitor.visit(&Visit { port: at, round: opened - 1, address, stage }, &mut stream)?;
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Port>> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Service<V> {
    /// Listens at a port again that was closed.
    pub(crate) fn reopen(&self, at: usize) -> Result<()> {
        self.ports.reopen(at).map_err(|error| format!("can not listen again: {error}"))
    }

    /// Refuses connections to this port from now on; those that were accepted by the kernel only are reset.
    pub(crate) fn close(&self, at: usize) {
        self.ports.lock()[at].listener = None;
    }

    /// Ends the thread, and gives the visitor.
    pub(crate) fn stop(mut self) -> Result<V> {
        self.ports.0.ended.store(true, Ordering::Release);
        let thread = self.thread.take().ok_or("the members have stopped")?;
        thread.join().map_err(|_| "the members' thread panicked".into())
    }
}

impl<V> Drop for Service<V> {
    fn drop(&mut self) {
        self.ports.0.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Left behind by a run that has failed, which says why.
            let _ = thread.join();
        }
    }
}

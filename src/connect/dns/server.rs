//! Sockets and threads that answer queries from the newest [`Snapshot`].

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Cache};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    answer::{self, QUERY_BYTES, Transport},
    limiter::{Limiter, Verdict},
    tally,
    zone::Snapshot,
};

/// How soon a thread sees that it must stop.
const TICK: Duration = Duration::from_millis(200);

/// How long a TCP connection may be silent between two queries, or take for one (RFC 7766 asks for some seconds).
const PATIENCE: Duration = Duration::from_secs(10);

/// The most TCP connections. One more ends the connection that is silent for the longest time.
const CONNECTIONS: usize = 256;

/// A thread for a connection needs little.
const STACK_BYTES: usize = 128 << 10;

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct Listening {
    /// UDP and TCP; an unspecified address means all addresses that the machine has now.
    pub addresses: Vec<SocketAddr>,
    /// Threads for each address, for UDP.
    pub threads: usize,
    /// The most bytes of an answer by UDP.
    pub udp_bytes: u16,
    /// The most answers a second by UDP for the clients of one network; 0: no limit.
    pub rate: u32,
}

/// Why the server can not start.
#[derive(Debug)]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can not listen on {} for DNS: {}", self.address, self.error)?;
        match self.error.kind() {
            io::ErrorKind::PermissionDenied => write!(f, " (ports below 1024 need CAP_NET_BIND_SERVICE)"),
            _ => Ok(()),
        }
    }
}

/// Sockets that are bound, and do not answer yet.
pub struct Bound {
    sockets: Vec<(SocketAddr, Vec<UdpSocket>, TcpListener)>,
    udp_bytes: u16,
    rate: u32,
}

/// Threads that answer, until this value is dropped.
pub(super) struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    zone: Arc<ArcSwap<Snapshot>>,
    limiter: Limiter,
    udp_bytes: u16,
    started: Instant,
    stopping: AtomicBool,
    /// A fault of this program was logged.
    faulty: AtomicBool,
    connections: Mutex<Connections>,
    connection_ended: Condvar,
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    open: Vec<Connection>,
}

struct Connection {
    id: u64,
    stream: TcpStream,
    /// When the last query came, in milliseconds since the server's start.
    last_query: Arc<AtomicU64>,
    /// It makes room for another one: its thread ends soon.
    leaves: bool,
}

impl Bound {
    /// Binds the addresses.
    pub fn new(listening: &Listening) -> Result<Bound, ListenError> {
        let mut sockets = Vec::new();
        for listed in &listening.addresses {
            for address in concrete(*listed).map_err(|error| ListenError { address: *listed, error })? {
                sockets.push(bind(address, listening.threads).map_err(|error| ListenError { address, error })?);
            }
        }
        Ok(Bound { sockets, udp_bytes: listening.udp_bytes, rate: listening.rate })
    }

    /// The addresses, with the ports that the system chose.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().map(|(address, ..)| *address)
    }

    pub(super) fn serve(self, zone: Arc<ArcSwap<Snapshot>>) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            zone,
            limiter: Limiter::new(self.rate),
            udp_bytes: self.udp_bytes,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            faulty: AtomicBool::new(false),
            connections: Mutex::default(),
            connection_ended: Condvar::new(),
        });
        let mut server = Server { shared, threads: Vec::new() };
        for (_, sockets, listener) in self.sockets {
            for socket in sockets {
                server.start("dns-udp", move |shared| shared.serve_udp(&socket))?;
            }
            server.start("dns-tcp", move |shared| shared.accept(&listener))?;
        }
        Ok(server)
    }
}

/// An unspecified address would answer from an address that the client did not ask; so all of the machine's are bound.
fn concrete(address: SocketAddr) -> io::Result<Vec<SocketAddr>> {
    if !address.ip().is_unspecified() {
        return Ok(vec![address]);
    }
    let of_this_family = |ip: &IpAddr| ip.is_ipv4() == address.is_ipv4();
    // A link-local address is none without the interface.
    let usable = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let ips = if_addrs::get_if_addrs()?.into_iter().map(|interface| interface.ip());
    Ok(ips.filter(|ip| of_this_family(ip) && usable(ip)).map(|ip| SocketAddr::new(ip, address.port())).collect())
}

type Sockets = (SocketAddr, Vec<UdpSocket>, TcpListener);

fn bind(address: SocketAddr, threads: usize) -> io::Result<Sockets> {
    let family = Domain::for_address(address);
    let mut tries = 0;
    loop {
        let listener = Socket::new(family, Type::STREAM, Some(Protocol::TCP))?;
        listener.set_reuse_address(true)?;
        listener.bind(&address.into())?;
        listener.listen(256)?;
        // `accept` obeys this timeout.
        listener.set_read_timeout(Some(TICK))?;
        let listener = TcpListener::from(listener);
        let chosen = listener.local_addr()?;
        let sockets: io::Result<Vec<UdpSocket>> = (0..threads).map(|_| bind_udp(chosen, threads > 1)).collect();
        match sockets {
            Ok(sockets) => return Ok((chosen, sockets, listener)),
            // The port that the system chose for TCP is taken for UDP.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && tries < 100 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn bind_udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // A burst waits here; the system gives less if its own limit is lower.
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&address.into())?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket.into())
}

impl Server {
    fn start(&mut self, name: &str, work: impl FnOnce(&Arc<Shared>) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.threads.push(thread::Builder::new().name(name.into()).spawn(move || work(&shared))?);
        Ok(())
    }
}

impl Drop for Server {
    /// Waits until all threads have ended: each at most as long as it may take for one answer.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // its panic was logged
        }
        let mut connections = self.shared.lock();
        while !connections.open.is_empty() {
            connections.open.iter().for_each(|connection| connection.close());
            let waited = self.shared.connection_ended.wait(connections);
            connections = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Connection {
    fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both); // an error means that it is closed
    }
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        // Readers pay one atomic load for a query; only after a change one of them takes a lock-free reference.
        let mut zone = Cache::new(&*self.zone);
        let (mut query, mut out) = ([0; QUERY_BYTES], Vec::with_capacity(QUERY_BYTES));
        let mut turn = 0_usize;
        while !self.stopping() {
            let (count, client) = match socket.recv_from(&mut query) {
                Ok(received) => received,
                // The timeout, a signal, or a fault of a packet.
                Err(_) => continue,
            };
            turn = turn.wrapping_add(1);
            let transport = match self.limiter.count(client.ip(), self.started.elapsed()) {
                Verdict::Answer => Transport::Udp { max: self.udp_bytes },
                Verdict::Truncate => Transport::Truncated { max: self.udp_bytes },
                Verdict::Drop => {
                    tally::add(&zone.load().tally.dropped);
                    continue;
                }
            };
            if self.answer(zone.load(), &query[..count], transport, turn, &mut out) {
                let _ = socket.send_to(&out, client); // the client asks again if the answer is lost
            }
        }
    }

    /// As [`answer::answer`]. A fault of this program costs one answer, not the service.
    fn answer(&self, zone: &Snapshot, query: &[u8], transport: Transport, turn: usize, out: &mut Vec<u8>) -> bool {
        let answered = panic::catch_unwind(AssertUnwindSafe(|| answer::answer(zone, query, transport, turn, out)));
        answered.unwrap_or_else(|_| {
            if !self.faulty.swap(true, Ordering::Relaxed) {
                tracing::error!("a query was dropped because of a fault of gwm; later ones are dropped without a word");
            }
            false
        })
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut complained = false;
        while !self.stopping() {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = self.begin(stream) {
                        tracing::warn!("a DNS client's connection is closed: {error}");
                    }
                    complained = false;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    // No descriptor is free, most likely.
                    if !complained {
                        tracing::warn!("DNS clients can not connect by TCP: {error}");
                    }
                    complained = true;
                    thread::sleep(TICK);
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let last_query = Arc::new(AtomicU64::new(self.milliseconds()));
        let mut connections = self.lock();
        if connections.open.len() >= CONNECTIONS {
            let staying = connections.open.iter_mut().filter(|open| !open.leaves);
            if let Some(silent) = staying.min_by_key(|open| open.last_query.load(Ordering::Relaxed)) {
                silent.leaves = true;
                silent.close();
            }
            // Its thread takes it out. There are never more threads than connections.
            let is_full = |connections: &mut Connections| connections.open.len() >= CONNECTIONS;
            let waited = self.connection_ended.wait_timeout_while(connections, TICK, is_full);
            connections = waited.unwrap_or_else(PoisonError::into_inner).0;
            if is_full(&mut connections) {
                return Err(io::Error::other("there are too many, and none has ended in time"));
            }
        }
        let id = connections.next_id;
        connections.next_id += 1;
        let connection =
            Connection { id, stream: stream.try_clone()?, last_query: Arc::clone(&last_query), leaves: false };
        connections.open.push(connection);
        drop(connections);
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name("dns-client".into()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let _ = shared.serve_tcp(stream, &last_query); // its end is what matters
            shared.end(id);
        });
        started.map(|_| ()).inspect_err(|_| self.end(id))
    }

    fn end(&self, id: u64) {
        self.lock().open.retain(|connection| connection.id != id);
        self.connection_ended.notify_all();
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers queries in the order in which they come, until the client closes or is silent.
    fn serve_tcp(&self, mut stream: TcpStream, last_query: &AtomicU64) -> io::Result<()> {
        let (mut query, mut out) = (Vec::new(), Vec::new());
        let mut turn = 0;
        while !self.stopping() {
            let deadline = Instant::now() + PATIENCE;
            let mut length = [0; 2];
            read_by(&mut stream, &mut length, deadline)?;
            let length = usize::from(u16::from_be_bytes(length));
            if length > QUERY_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            query.resize(length, 0);
            read_by(&mut stream, &mut query, deadline)?;
            last_query.store(self.milliseconds(), Ordering::Relaxed);
            turn += 1;
            let zone = self.zone.load();
            if !self.answer(&zone, &query, Transport::Tcp, turn, &mut out) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            drop(zone);
            let length = u16::try_from(out.len()).expect("answers keep the limit of TCP");
            out.splice(..0, length.to_be_bytes());
            stream.write_all(&out)?;
        }
        Ok(())
    }
}

/// Fills the buffer until then.
pub(super) fn read_by(stream: &mut TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::connect::dns::{Apex, names};

    #[test]
    fn a_crowd_of_clients_has_no_more_threads_than_places() {
        let address = "127.0.0.1:0".parse().unwrap();
        let bound = Bound::new(&Listening { addresses: vec![address], threads: 1, udp_bytes: 1232, rate: 0 }).unwrap();
        let address = bound.addresses().next().unwrap();
        let zone = names::zone("lb.example").unwrap();
        let name_servers = vec![(names::absolute("ns.lb.example").unwrap(), vec![address.ip()])];
        let apex = Apex { mailbox: zone.clone(), zone, name_servers, ttl: Duration::from_secs(1) };
        let (snapshot, _) = Snapshot::new(&apex, &[], &[], &BTreeSet::new(), 1);
        let server = bound.serve(Arc::new(ArcSwap::from_pointee(snapshot))).unwrap();
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS + 100 {
            clients.push(TcpStream::connect(address).unwrap());
            assert!(server.shared.lock().open.len() <= CONNECTIONS);
        }
        // The newest is served: an unreadable query ends its connection.
        let newest = clients.last_mut().unwrap();
        newest.set_read_timeout(Some(PATIENCE)).unwrap();
        newest.write_all(&[0, 1, 0]).unwrap();
        assert_eq!(newest.read(&mut [0]).unwrap(), 0);
        assert!(server.shared.lock().open.len() <= CONNECTIONS);
    }
}

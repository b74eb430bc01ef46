//! How many connections a service has: the kernel's list of sockets, by netlink (`sock_diag`), or `/proc/net/tcp` where
//! netlink is not to be had. Neither needs a right.
//!
//! Load balancers keep connections for later requests, so an open connection need not have work. One is idle if the last
//! bytes were the service's, the peer has acknowledged them all, and nothing was sent or received for a while. A request
//! that was received last is in flight, however long its answer takes. The kernel counts these times in its ticks (1 to
//! 10 ms), and TLS and HTTP/2 send bytes that are no answer: so the while must be longer than a service is silent within a
//! request.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use rustix::net::{AddressFamily, netlink::SOCK_DIAG};

use crate::netlink::Socket;

/// The most bytes of `/proc/net/tcp`: over a million sockets.
const PROC_BYTES: u64 = 256 << 20;

/// The most bytes of one line there.
const LINE_BYTES: u64 = 512;

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` and `NLMSG_DONE` of linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x301;
const HEADER_BYTES: usize = 16;

/// Bytes of struct inet_diag_msg; attributes follow.
const MESSAGE_BYTES: usize = 72;
/// `INET_DIAG_INFO` of linux/inet_diag.h: struct tcp_info.
const INFO: u16 = 2;

/// States of include/net/tcp_states.h: established, SYN received, and closed by the peer only. In all others this side has
/// closed already.
const OPEN_STATES: [u8; 3] = [1, 3, 8];

/// Whose connections are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where the service listens.
    pub places: Vec<SocketAddr>,
    /// A connection that is silent for so long is idle; none is if this is zero.
    pub idle_after: Duration,
}

/// The open connections of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// All.
    pub all: u64,
    /// Those of them that are idle.
    pub idle: u64,
}

impl Open {
    /// Those on which work may be in flight.
    pub fn busy(self) -> u64 {
        self.all.saturating_sub(self.idle)
    }
}

/// An open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// This side's address.
    pub(crate) local: SocketAddr,
    /// How long nothing was sent or received, if the last word was this side's and all of it has arrived: no answer is
    /// missing, as far as the kernel knows. `None` if work is in flight, or if the kernel does not say.
    pub(crate) silent: Option<Duration>,
}

/// The connections of several services.
pub(crate) struct Count<'a> {
    wanted: &'a [Wanted],
    /// The addresses of each port, with the service's place in `wanted`, in the order of `wanted`.
    ports: HashMap<u16, Vec<(IpAddr, usize)>>,
    found: Vec<Open>,
}

impl<'a> Count<'a> {
    pub(crate) fn new(wanted: &'a [Wanted]) -> Count<'a> {
        let mut ports: HashMap<u16, Vec<(IpAddr, usize)>> = HashMap::new();
        for (at, place) in
            wanted.iter().enumerate().flat_map(|(at, one)| one.places.iter().map(move |place| (at, place)))
        {
            ports.entry(place.port()).or_default().push((place.ip().to_canonical(), at));
        }
        Count { wanted, ports, found: vec![Open::default(); wanted.len()] }
    }

    /// What is found so far, in the order of the services.
    pub(crate) fn found(&self) -> &[Open] {
        &self.found
    }

    /// Counts a connection for each service that it is of. A place whose address is not given means every address.
    pub(crate) fn add(&mut self, connection: Connection) {
        let mut last = None;
        for &(ip, at) in self.ports.get(&connection.local.port()).into_iter().flatten() {
            let is_of = ip == connection.local.ip() || ip.is_unspecified();
            // A service with two such places has the connection once.
            if is_of
                && last.replace(at) != Some(at)
                && let (Some(wanted), Some(found)) = (self.wanted.get(at), self.found.get_mut(at))
            {
                let is_idle = connection.silent.is_some_and(|silent| silent >= wanted.idle_after);
                found.all += 1;
                found.idle += u64::from(is_idle && !wanted.idle_after.is_zero());
            }
        }
    }
}

/// How many open connections each service has, by one look at the kernel's list.
pub fn count(wanted: &[Wanted]) -> io::Result<Vec<Open>> {
    if wanted.iter().all(|one| one.places.is_empty()) {
        return Ok(vec![Open::default(); wanted.len()]);
    }
    by_netlink(wanted).or_else(|_| by_proc(wanted))
}

fn by_netlink(wanted: &[Wanted]) -> io::Result<Vec<Open>> {
    let mut socket = Socket::open(SOCK_DIAG)?;
    let mut count = Count::new(wanted);
    // The kernel can leave out all ports but one.
    let port = count.ports.keys().next().copied().filter(|_| count.ports.len() == 1);
    let info = wanted.iter().any(|one| !one.idle_after.is_zero());
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        socket.ask(&question(family, port, info), |datagram| read_answer(datagram, &mut count))?;
    }
    Ok(count.found)
}

/// Asks for all TCP sockets of a family, and perhaps of one port, in the states that count, perhaps with their times:
/// struct inet_diag_req_v2 behind a netlink header.
fn question(family: AddressFamily, port: Option<u16>, info: bool) -> Vec<u8> {
    let states = OPEN_STATES.iter().fold(0u32, |states, state| states | 1 << state);
    let extensions = if info { 1 << (INFO - 1) } else { 0 };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 56);
    bytes.extend_from_slice(&(HEADER_BYTES as u32 + 56).to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]); // sequence, port
    bytes.extend_from_slice(&[family.as_raw() as u8, 6, extensions, 0]); // family, TCP
    bytes.extend_from_slice(&states.to_ne_bytes());
    bytes.extend_from_slice(&port.unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(&[0; 46]); // any peer, any interface
    bytes
}

/// Counts the connections in one datagram; gives whether it is the last one.
pub(crate) fn read_answer(mut bytes: &[u8], count: &mut Count<'_>) -> io::Result<bool> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a broken answer of the kernel");
    while !bytes.is_empty() {
        let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize).ok_or_else(broken)?;
        let kind = bytes.get(4..6).and_then(|kind| kind.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
        let kind = kind.filter(|_| length >= HEADER_BYTES).ok_or_else(broken)?;
        let body = bytes.get(HEADER_BYTES..length).ok_or_else(broken)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code)).ok_or_else(broken)?;
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            BY_FAMILY => {
                let (state, connection) = read_socket(body).ok_or_else(broken)?;
                if OPEN_STATES.contains(&state) {
                    count.add(connection);
                }
            }
            _ => {}
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The state in struct inet_diag_msg, and the connection.
fn read_socket(body: &[u8]) -> Option<(u8, Connection)> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let address: [u8; 16] = *body.get(8..)?.first_chunk()?;
    let ip = match family {
        2 => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
        10 => Ipv6Addr::from(address).to_canonical(),
        _ => return None,
    };
    Some((state, Connection { local: SocketAddr::new(ip, port), silent: silent(body) }))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// See [`Connection::silent`]; from struct inet_diag_msg and struct tcp_info of linux/tcp.h.
fn silent(body: &[u8]) -> Option<Duration> {
    // Bytes that the service has not read; bytes that the peer has not acknowledged, or that are not sent.
    let (unread, unsent) = (number(body, 56)?, number(body, 60)?);
    let mut attributes = body.get(MESSAGE_BYTES..)?;
    let info = loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if kind == INFO {
            break value;
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    };
    // In milliseconds: tcpi_last_data_sent and tcpi_last_data_recv; from the connection's begin on if there was none.
    let (sent, received) = (number(info, 44)?, number(info, 52)?);
    // tcpi_data_segs_in and tcpi_data_segs_out. The first question comes in the tick of the connection's begin.
    let is_answered = number(info, 152)? == 0 || number(info, 156)? > 0;
    // A question that came last waits for its answer, however long that takes.
    (unread == 0 && unsent == 0 && is_answered && sent <= received).then(|| Duration::from_millis(sent.into()))
}

fn by_proc(wanted: &[Wanted]) -> io::Result<Vec<Open>> {
    let mut count = Count::new(wanted);
    for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let file = match File::open(file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.ends_with('6') => continue,
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(file.take(PROC_BYTES));
        let mut line = Vec::new();
        while (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
            if let Some((state, local)) = read_line(&String::from_utf8_lossy(&line))
                && OPEN_STATES.contains(&state)
            {
                // These files have no times.
                count.add(Connection { local, silent: None });
            }
            line.clear();
        }
    }
    Ok(count.found)
}

/// The state and the own address in a line of `/proc/net/tcp` or `tcp6`: `0: 0100007F:1F90 00000000:0000 0A …`.
pub(crate) fn read_line(line: &str) -> Option<(u8, SocketAddr)> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    // Words of 32 bits in the machine's own order.
    let word = |at: usize| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((state, SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn wanted(places: &[SocketAddr], idle_after: Duration) -> [Wanted; 1] {
        [Wanted { places: places.to_vec(), idle_after }]
    }

    #[test]
    fn open_connections_are_counted_and_no_others() {
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let place = SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
            let everywhere = SocketAddr::new([0, 0, 0, 0].into(), place.port());
            let both = |places: &[SocketAddr]| {
                let wanted = wanted(places, Duration::ZERO);
                (by_netlink(&wanted).unwrap()[0].all, by_proc(&wanted).unwrap()[0].all)
            };
            // On a busy machine a client is connected a moment before the service's side is: until then the kernel moves
            // the connection from one list to another, and a look at both finds it never or twice.
            let settles = |expected: u64| {
                let begin = Instant::now();
                let mut found = both(&[place]);
                while found != (expected, expected) {
                    assert!(begin.elapsed() < Duration::from_secs(60), "{listen}: {found:?} instead of {expected}");
                    found = both(&[place]);
                }
            };
            settles(0);
            let (one, two) = (TcpStream::connect(place).unwrap(), TcpStream::connect(place).unwrap());
            let accepted = listener.accept().unwrap().0;
            settles(2); // one is accepted, one waits
            assert_eq!(both(&[everywhere, place]), (2, 2));
            let other: SocketAddr = "127.0.0.2:1".parse().unwrap();
            assert_eq!(both(&[other]), (0, 0));
            let services = [&[other][..], &[place], &[], &[everywhere]].map(|places| wanted(places, Duration::ZERO));
            let each: Vec<_> = count(&services.concat()).unwrap().into_iter().map(|open| open.all).collect();
            assert_eq!(each, [0, 2, 0, 2]);
            drop(one);
            assert_eq!(both(&[place]), (2, 2), "this side has not closed");
            drop((two, accepted, listener));
            settles(0);
        }
    }

    #[test]
    fn a_connection_without_work_is_idle_after_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(place).unwrap();
        let mut service = listener.accept().unwrap().0;
        let mut byte = [0];
        let count = |idle_after| count(&wanted(&[place], idle_after)).unwrap()[0];
        let (moment, day) = (Duration::from_millis(1), Duration::from_secs(86_400));
        let idles = || {
            let begin = Instant::now();
            while count(moment).idle == 0 {
                assert!(begin.elapsed() < Duration::from_secs(60), "it is never idle");
                std::thread::sleep(moment);
            }
        };
        let mut first = TcpStream::connect(place).unwrap();
        first.write_all(b"?").unwrap();
        let mut other = listener.accept().unwrap().0;
        other.read_exact(&mut byte).unwrap();
        std::thread::sleep(moment * 5);
        assert!(count(moment).busy() >= 1, "its first question came with the connection");
        drop((first, other));
        // Longer than the kernel's ticks, so that it is clear what was first.
        let tick = Duration::from_millis(30);
        idles();
        std::thread::sleep(tick);
        client.write_all(b"?").unwrap();
        std::thread::sleep(tick);
        assert_eq!(count(moment), Open { all: 1, idle: 0 }, "the service has not read it");
        service.read_exact(&mut byte).unwrap();
        assert_eq!(count(moment), Open { all: 1, idle: 0 }, "the service has not answered");
        service.write_all(b"!").unwrap();
        idles();
        assert_eq!((count(day).idle, count(Duration::ZERO).idle), (0, 0));
        client.read_exact(&mut byte).unwrap();
    }

    #[test]
    fn lines_of_proc_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0";
        if cfg!(target_endian = "little") {
            assert_eq!(read_line(line), Some((10, place("127.0.0.1:8080"))));
            let mapped = "1: 0000000000000000FFFF00000100007F:0050 0:0 01";
            assert_eq!(read_line(mapped), Some((1, place("127.0.0.1:80"))));
            let six = "1: B80D0120000000000000000001000000:0050 0:0 08";
            assert_eq!(read_line(six), Some((8, place("[2001:db8::1]:80"))));
        }
        for bad in ["", "sl local_address rem_address st", "0: 0100007F 0:0 01", "0: 0100007é:0050 0:0 01", "0: :: : 1"]
        {
            assert_eq!(read_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        let wanted = wanted(&[place("127.0.0.1:80")], Duration::from_secs(10));
        let read = |bytes: &[u8]| {
            let mut count = Count::new(&wanted);
            read_answer(bytes, &mut count).map(|done| (count.found()[0], done))
        };
        const LENGTH: usize = HEADER_BYTES + MESSAGE_BYTES + 4 + 160;
        let mut message = vec![0u8; LENGTH];
        message[..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
        message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        message[16..18].copy_from_slice(&[2, 1]);
        message[20..22].copy_from_slice(&80u16.to_be_bytes());
        message[24..28].copy_from_slice(&[127, 0, 0, 1]);
        let info = HEADER_BYTES + MESSAGE_BYTES;
        message[info..info + 2].copy_from_slice(&164u16.to_ne_bytes());
        message[info + 2..info + 4].copy_from_slice(&INFO.to_ne_bytes());
        message[info + 4 + 152] = 1;
        let mut times = |sent: u32, received: u32, unsent: u32| {
            message[info + 4 + 156] = 1;
            message[info + 4 + 44..][..4].copy_from_slice(&sent.to_ne_bytes());
            message[info + 4 + 52..][..4].copy_from_slice(&received.to_ne_bytes());
            message[HEADER_BYTES + 60..][..4].copy_from_slice(&unsent.to_ne_bytes());
            read(&message).unwrap().0.idle
        };
        let found = [times(9_999, 20_000, 0), times(20_000, 19_990, 0), times(20_000, 20_000, 1)];
        assert_eq!((found, times(10_000, 10_000, 0)), ([0, 0, 0], 1));
        assert_eq!(read(&message).unwrap(), (Open { all: 1, idle: 1 }, false));
        message[info + 4 + 156] = 0;
        assert_eq!(read(&message).unwrap().0.idle, 0, "nothing was answered yet");
        message[info + 4 + 156] = 1;
        for cut in 1..message.len() {
            assert!(read(&message[..cut]).is_err(), "{cut} bytes");
        }
        let mut done = vec![0u8; 20];
        done[..4].copy_from_slice(&20u32.to_ne_bytes());
        done[4..6].copy_from_slice(&DONE.to_ne_bytes());
        assert_eq!(read(&[message, done.clone()].concat()).unwrap(), (Open { all: 1, idle: 1 }, true));
        done[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        done[16..].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(read(&done).unwrap_err().raw_os_error(), Some(1));
    }
}

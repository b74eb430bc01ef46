//! How many connections a service has: the kernel's list of sockets, by netlink (`sock_diag`), or `/proc/net/tcp` where
//! netlink is not to be had. Neither needs a right.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect,
        netlink::{SOCK_DIAG, SocketAddrNetlink},
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// How long the kernel may take for one datagram.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest datagram: the kernel sends at most 32 KiB at a time.
const DATAGRAM_BYTES: usize = 32 << 10;

/// The most datagrams of one answer: some millions of sockets.
const DATAGRAMS: usize = 1 << 16;

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

/// States of include/net/tcp_states.h: established, SYN received, and closed by the peer only. In all others this side has
/// closed already.
const OPEN_STATES: [u8; 3] = [1, 3, 8];

/// How many open connections these places have.
pub fn count(places: &[SocketAddr]) -> io::Result<u64> {
    by_netlink(places).or_else(|_| by_proc(places))
}

fn by_netlink(places: &[SocketAddr]) -> io::Result<u64> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    // The kernel can leave out all ports but one.
    let port = places.first().map(SocketAddr::port).filter(|port| places.iter().all(|place| place.port() == *port));
    let mut count = 0;
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        send(&socket, &question(family, port), SendFlags::empty())?;
        let mut datagrams = 0;
        loop {
            let length = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => length.min(DATAGRAM_BYTES),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            datagrams += 1;
            let (found, done) = read_answer(buffer.get(..length).unwrap_or_default(), places)?;
            count += found;
            if done {
                break;
            }
            if datagrams > DATAGRAMS {
                return Err(io::Error::other("the answer has too many parts"));
            }
        }
    }
    Ok(count)
}

/// Asks for all TCP sockets of a family, and perhaps of one port, in the states that count: struct inet_diag_req_v2
/// behind a netlink header.
fn question(family: AddressFamily, port: Option<u16>) -> Vec<u8> {
    let states = OPEN_STATES.iter().fold(0u32, |states, state| states | 1 << state);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 56);
    bytes.extend_from_slice(&(HEADER_BYTES as u32 + 56).to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]); // sequence, port
    bytes.extend_from_slice(&[family.as_raw() as u8, 6, 0, 0]); // family, TCP, no extensions
    bytes.extend_from_slice(&states.to_ne_bytes());
    bytes.extend_from_slice(&port.unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(&[0; 46]); // any peer, any interface
    bytes
}

/// Counts the connections of these places in one datagram; also whether it is the last one.
pub(crate) fn read_answer(mut bytes: &[u8], places: &[SocketAddr]) -> io::Result<(u64, bool)> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a broken answer of the kernel");
    let mut count = 0;
    while !bytes.is_empty() {
        let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize).ok_or_else(broken)?;
        let kind = bytes.get(4..6).and_then(|kind| kind.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
        let kind = kind.filter(|_| length >= HEADER_BYTES).ok_or_else(broken)?;
        let body = bytes.get(HEADER_BYTES..length).ok_or_else(broken)?;
        match kind {
            DONE => return Ok((count, true)),
            ERROR => {
                let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code)).ok_or_else(broken)?;
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            BY_FAMILY => {
                let (state, place) = read_socket(body).ok_or_else(broken)?;
                count += u64::from(is_of(state, place, places));
            }
            _ => {}
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok((count, false))
}

/// The state and the own address in struct inet_diag_msg.
fn read_socket(body: &[u8]) -> Option<(u8, SocketAddr)> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let address: [u8; 16] = *body.get(8..)?.first_chunk()?;
    let ip = match family {
        2 => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
        10 => Ipv6Addr::from(address).to_canonical(),
        _ => return None,
    };
    Some((state, SocketAddr::new(ip, port)))
}

/// Whether a socket is an open connection of one of the places. A place whose address is not given means every address.
fn is_of(state: u8, socket: SocketAddr, places: &[SocketAddr]) -> bool {
    OPEN_STATES.contains(&state)
        && places.iter().any(|place| {
            let ip = place.ip().to_canonical();
            place.port() == socket.port() && (ip == socket.ip() || ip.is_unspecified())
        })
}

fn by_proc(places: &[SocketAddr]) -> io::Result<u64> {
    let mut count = 0;
    for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let file = match File::open(file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.ends_with('6') => continue,
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(file.take(PROC_BYTES));
        let mut line = Vec::new();
        while (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
            let found = read_line(&String::from_utf8_lossy(&line));
            count += u64::from(found.is_some_and(|(state, socket)| is_of(state, socket, places)));
            line.clear();
        }
    }
    Ok(count)
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
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn open_connections_are_counted_and_no_others() {
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let place = SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
            let everywhere = SocketAddr::new([0, 0, 0, 0].into(), place.port());
            let both = |places: &[SocketAddr]| (by_netlink(places).unwrap(), by_proc(places).unwrap());
            assert_eq!(both(&[place]), (0, 0), "{listen}");
            let (one, two) = (TcpStream::connect(place).unwrap(), TcpStream::connect(place).unwrap());
            let accepted = listener.accept().unwrap().0;
            assert_eq!(both(&[place]), (2, 2), "one is accepted, one waits");
            assert_eq!(both(&[everywhere]), (2, 2));
            assert_eq!(both(&["127.0.0.2:1".parse().unwrap()]), (0, 0));
            drop(one);
            assert_eq!(both(&[place]), (2, 2), "this side has not closed");
            drop((two, accepted, listener));
            assert_eq!(both(&[place]), (0, 0));
        }
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
        let places = [place("127.0.0.1:80")];
        let mut message = vec![0u8; HEADER_BYTES + 72];
        message[..4].copy_from_slice(&(HEADER_BYTES as u32 + 72).to_ne_bytes());
        message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        message[16..18].copy_from_slice(&[2, 1]);
        message[20..22].copy_from_slice(&80u16.to_be_bytes());
        message[24..28].copy_from_slice(&[127, 0, 0, 1]);
        assert_eq!(read_answer(&message, &places).unwrap(), (1, false));
        for cut in 1..message.len() {
            assert!(read_answer(&message[..cut], &places).is_err(), "{cut} bytes");
        }
        let mut done = vec![0u8; 20];
        done[..4].copy_from_slice(&20u32.to_ne_bytes());
        done[4..6].copy_from_slice(&DONE.to_ne_bytes());
        assert_eq!(read_answer(&[message, done.clone()].concat(), &places).unwrap(), (1, true));
        done[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        done[16..].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(read_answer(&done, &places).unwrap_err().raw_os_error(), Some(1));
    }
}

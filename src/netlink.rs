//! Questions to the kernel by netlink, one at a time; whoever asks reads the answer's datagrams.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect,
        netlink::SocketAddrNetlink,
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// How long the kernel may take for one datagram.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest datagram: the kernel sends at most 32 KiB at a time.
const DATAGRAM_BYTES: usize = 32 << 10;

/// The most datagrams of one answer: some millions of sockets, or of servers.
const DATAGRAMS: usize = 1 << 16;

/// A socket to the kernel.
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket for questions of this kind.
    pub fn open(protocol: Protocol) -> io::Result<Socket> {
        let file = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
        connect(&file, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&file, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Socket(file))
    }

    /// Sends a question, and gives each datagram of the answer to `read`, until `read` says that it was the last one.
    pub fn ask(&mut self, question: &[u8], mut read: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<()> {
        send(&self.0, question, SendFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut datagrams = 0;
        while datagrams < DATAGRAMS {
            let length = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => length.min(DATAGRAM_BYTES),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer of the kernel in 5 s"));
                }
                Err(error) => return Err(error.into()),
            };
            datagrams += 1;
            if read(buffer.get(..length).unwrap_or_default())? {
                return Ok(());
            }
        }
        Err(io::Error::other("the kernel's answer has too many parts"))
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::netlink::SOCK_DIAG;

    use super::*;

    #[test]
    fn a_question_that_the_kernel_does_not_know_is_answered_by_an_error() {
        let mut socket = Socket::open(SOCK_DIAG).unwrap();
        // A header of 16 bytes: length, type, NLM_F_REQUEST | NLM_F_ACK, sequence 7, port.
        let mut question = Vec::new();
        question.extend_from_slice(&16_u32.to_ne_bytes());
        question.extend_from_slice(&0xFFFF_u16.to_ne_bytes());
        question.extend_from_slice(&5_u16.to_ne_bytes());
        question.extend_from_slice(&7_u32.to_ne_bytes());
        question.extend_from_slice(&[0; 4]);
        let mut heard = Vec::new();
        socket
            .ask(&question, |datagram| {
                heard.push(datagram.to_vec());
                Ok(true)
            })
            .unwrap();
        // NLMSG_ERROR, and our sequence.
        assert_eq!(
            (heard.len(), &heard[0][4..6], &heard[0][8..12]),
            (1, &2_u16.to_ne_bytes()[..], &7_u32.to_ne_bytes()[..])
        );
        // Whoever reads decides what is an error.
        let refused = socket.ask(&question, |_| Err(io::Error::other("no")));
        assert_eq!(refused.unwrap_err().to_string(), "no");
    }
}

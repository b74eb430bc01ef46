//! The socket between a running daemon and the process that takes over: packets, and descriptors that come with them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Shutdown,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    cmsg_space,
    fs::{Mode, fchmod},
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, UCred, recvmsg, sendmsg, sockopt::socket_peercred,
    },
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    limits::{TAKEOVER_BYTES, TAKEOVER_DESCRIPTORS},
    takeover::Message,
};

/// Only the daemon's own user may connect.
const SOCKET_MODE: u32 = 0o600;

/// Processes that wait for the daemon's attention.
const BACKLOG: i32 = 4;

/// One end.
pub(super) struct Channel(Socket);

/// Packets keep their bounds, and the end of the other process is an end of the stream.
fn socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::SEQPACKET, None)
}

/// Listens for processes that want to take over.
pub(super) fn listen(path: &Path) -> io::Result<Socket> {
    let socket = socket()?;
    // The file gets the socket's mode as far as the umask lets it.
    fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

impl Channel {
    pub(super) fn connect(path: &Path) -> io::Result<Channel> {
        let socket = socket()?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(Channel(socket))
    }

    pub(super) fn accept(listener: &Socket) -> io::Result<Channel> {
        listener.accept().map(|(socket, _)| Channel(socket))
    }

    /// The other process.
    pub(super) fn peer(&self) -> io::Result<UCred> {
        Ok(socket_peercred(&self.0)?)
    }

    /// Ends the talk, also if another thread waits for a packet.
    pub(super) fn end(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Sends a packet, and descriptors with it.
    pub(super) fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), String> {
        let bytes = message.write().ok_or("a packet is too long")?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(TAKEOVER_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err("a packet has too many descriptors".into());
        }
        let bytes = [IoSlice::new(&bytes)];
        let sent = retry_on_intr(|| sendmsg(&self.0, &bytes, &mut control, SendFlags::NOSIGNAL));
        sent.map(drop).map_err(|error| format!("the other process does not hear: {error}"))
    }

    /// Receives the next packet, with its descriptors.
    pub(super) fn receive(&self, longest: Duration) -> Result<(Message, Vec<OwnedFd>), String> {
        let failed = |error: io::Error| format!("the other process says nothing: {error}");
        let deadline = Instant::now() + longest;
        let mut bytes = vec![0; TAKEOVER_BYTES + 1];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(TAKEOVER_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).map_err(failed)?;
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                // A signal to another thread may end this call; with a time limit, the kernel does not begin it again.
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(format!("the other process said nothing for {longest:?}")),
                Err(error) => return Err(failed(error.into())),
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err("the other process has ended".into());
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err("a packet does not fit".into());
        }
        match Message::read(bytes.get(..received.bytes).unwrap_or_default())? {
            Message::Refused { why } => Err(why),
            message => Ok((message, descriptors)),
        }
    }

    /// Receives the packet that has to come next.
    pub(super) fn expect(&self, expected: &Message, longest: Duration) -> Result<(), String> {
        match self.receive(longest)? {
            (message, _) if message == *expected => Ok(()),
            (message, _) => Err(format!("the other process says {message:?} instead of {expected:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use super::*;
    use crate::takeover::Listener;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_listener_moves_to_another_process_with_what_waits_at_it() {
        let path = std::env::temp_dir().join(format!("gwm-takeover-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listening = listen(&path).expect("a free path");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("it is there"));
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let new = Channel::connect(&path).expect("it listens");
        let old = Channel::accept(&listening).expect("one connects");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(old.peer().expect("a process").uid, rustix::process::geteuid());

        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut waits = TcpStream::connect(address).expect("it listens");
        let message = Message::Listeners { listeners: vec![Listener::Sasp(address)], more: false };
        old.send(&message, &[listener.as_fd()]).expect("it is sent");
        drop(listener);
        let (received, mut descriptors) = new.receive(LONG).expect("it is received");
        assert_eq!((received, descriptors.len()), (message, 1));
        let listener = TcpListener::from(descriptors.remove(0));
        drop(listener.accept().expect("one waits"));
        assert_eq!(waits.read(&mut [0]).expect("no reset"), 0);

        new.send(&Message::Ready, &[]).expect("it is sent");
        assert!(old.expect(&Message::Loaded, LONG).expect_err("another packet").contains("Ready instead of Loaded"));
        new.send(&Message::Refused { why: "no room".into() }, &[]).expect("it is sent");
        assert_eq!(old.receive(LONG).err().as_deref(), Some("no room"));
        assert!(old.receive(Duration::from_millis(1)).is_err(), "nothing comes");
        drop(new);
        assert_eq!(old.receive(LONG).err().as_deref(), Some("the other process has ended"));
    }
}

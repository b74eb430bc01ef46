//! The floor: the cost of the same bytes on this machine without a server.
//!
//! A process of its own, so that its CPU is measured as the server's is: one thread, an epoll loop, one buffer. It
//! answers every message with the same prepared bytes (the request's id put in), and sends a prepared message to
//! every connection when told to: a bare loop of non-blocking sends. Or it writes each connection's own message anew, each
//! into a buffer of the connection's own, before it sends all of them.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use gwm::sasp::{Message, frame::message_length, message::HEADER_BYTES};
use rustix::{
    event::{PollFd, PollFlags, epoll, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    Result,
    model::{Template, uid_number},
};

/// The hidden subcommand that runs the floor.
pub(crate) const COMMAND: &str = "floor-process";

/// Where a header has its message id.
const ID_AT: std::ops::Range<usize> = HEADER_BYTES - 4..HEADER_BYTES;

/// The conductor's orders to the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    /// Answer every message with these bytes from now on, the message's id put into their header. The floor says a
    /// line when it has taken this order, and the next.
    Answer = 1,
    /// Answer every message with these bytes, unchanged: a push.
    Push = 2,
    /// Send these bytes to every connection now.
    Send = 3,
    /// Write the message of this template for each connection's load balancer, then send them.
    SendOwn = 4,
}

impl Order {
    /// Whether the floor says that it has taken the order.
    pub(crate) fn is_confirmed(self) -> bool {
        matches!(self, Order::Answer | Order::Push)
    }
}

/// Writes an order: kind, length, bytes.
pub(crate) fn write(out: &mut impl Write, order: Order, bytes: &[u8]) -> io::Result<()> {
    let mut message = vec![order as u8];
    message.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    message.extend_from_slice(bytes);
    out.write_all(&message)?;
    out.flush()
}

const LISTENER: u64 = u64::MAX;
const ORDERS: u64 = u64::MAX - 1;

/// Runs until standard input ends.
pub(crate) fn run() -> Result<()> {
    serve().map_err(|error| format!("floor: {error}"))
}

fn serve() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?; // accepted connections inherit it
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "floor: listening on {}", listener.local_addr()?)?;
    stdout.flush()?;

    // Not through std's buffer: an order that waits there would not show in the poll.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poller, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    epoll::add(&poller, &stdin, epoll::EventData::new_u64(ORDERS), epoll::EventFlags::IN)?;
    let mut floor = Floor {
        connections: Vec::new(),
        own: Vec::new(),
        partial: HashMap::new(),
        answer: Vec::new(),
        push: false,
        scratch: vec![0; 256 << 10],
    };
    let mut events: Vec<epoll::Event> = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => floor.accept(&listener, &poller)?,
                ORDERS => {
                    let mut head = [0; 5];
                    match stdin.read_exact(&mut head) {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                        Err(error) => return Err(error),
                    }
                    let mut bytes = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize];
                    stdin.read_exact(&mut bytes)?;
                    if head[0] == Order::Send as u8 {
                        floor.send_to_all(&bytes)?;
                    } else if head[0] == Order::SendOwn as u8 {
                        let template = Template::from_bytes(&bytes);
                        floor.send_own(&template.ok_or_else(|| io::Error::other("an order without a template"))?)?;
                    } else {
                        floor.push = head[0] == Order::Push as u8;
                        floor.answer = bytes;
                        writeln!(stdout, "floor: taken")?;
                        stdout.flush()?;
                    }
                }
                connection => floor.readable(connection as usize)?,
            }
        }
    }
}

struct Floor {
    connections: Vec<Option<TcpStream>>,
    /// By connection, its load balancer, as its first message says, and its own buffer.
    own: Vec<(Option<u32>, Vec<u8>)>,
    /// The beginnings of messages that have not arrived whole, which are few.
    partial: HashMap<usize, Vec<u8>>,
    answer: Vec<u8>,
    push: bool,
    scratch: Vec<u8>,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poller: &impl AsFd) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let data = epoll::EventData::new_u64(self.connections.len() as u64);
                    epoll::add(poller, &stream, data, epoll::EventFlags::IN)?;
                    self.connections.push(Some(stream));
                    self.own.push((None, Vec::new()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn send_to_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for connection in self.connections.iter().flatten() {
            send_all(connection.as_fd(), bytes)?;
        }
        Ok(())
    }

    /// Writes and sends the messages of load balancers that are farms of their own.
    fn send_own(&mut self, template: &Template) -> io::Result<()> {
        for (lb, buffer) in &mut self.own {
            if let Some(lb) = *lb {
                template.write(lb, lb, buffer);
            }
        }
        for (connection, (_, buffer)) in self.connections.iter().zip(&self.own) {
            if let Some(connection) = connection {
                send_all(connection.as_fd(), buffer)?;
            }
        }
        Ok(())
    }

    fn readable(&mut self, number: usize) -> io::Result<()> {
        let Some(Some(connection)) = self.connections.get(number) else { return Ok(()) };
        let received = match recv(connection, &mut self.scratch[..], RecvFlags::DONTWAIT) {
            Ok((_, received)) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        if received == 0 {
            self.connections[number] = None;
            self.partial.remove(&number);
            return Ok(());
        }
        let earlier = if self.partial.is_empty() { None } else { self.partial.remove(&number) };
        let joined;
        let mut input = match earlier {
            None => &self.scratch[..received],
            Some(mut bytes) => {
                bytes.extend_from_slice(&self.scratch[..received]);
                joined = bytes;
                &joined[..]
            }
        };
        while let Some(length) = message_length(input, u32::MAX).map_err(io::Error::other)? {
            let Some((message, rest)) = input.split_at_checked(length) else { break };
            if let Some((lb @ None, _)) = self.own.get_mut(number)
                && let Ok((_, Message::SetLbStateRequest(request))) = Message::decode(message)
            {
                *lb = uid_number(request.lb_uid);
            }
            if !self.push
                && let (Some(to), Some(from)) = (self.answer.get_mut(ID_AT), message.get(ID_AT))
            {
                to.copy_from_slice(from);
            }
            send_all(connection.as_fd(), &self.answer)?;
            input = rest;
        }
        if !input.is_empty() {
            self.partial.insert(number, input.to_vec());
        }
        Ok(())
    }
}

/// Sends without waiting; only where the socket is full it waits, which the closed loops that it serves never do.
fn send_all(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(socket, &bytes[sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(more) => sent += more,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let limit = Duration::from_secs(10).try_into().map_err(io::Error::other)?;
                if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&limit))? == 0 {
                    return Err(io::Error::other(format!("connection {} takes nothing", socket.as_raw_fd())));
                }
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()), // its reader is gone, which the next read shows
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

//! A blocking SASP client for load balancers and members.
//!
//! One thread, one connection, requests one after the other. A GWM may push weights at any time, so pushes that
//! arrive before a reply are kept, in order, for [`Client::next_push`] and [`Client::receive`]. [`Weights`] is
//! the table that an LB builds from these messages. [`session`] keeps a load balancer registered and its table up to
//! date; [`spec`] reads groups and members as text.
//!
//! ```no_run
//! use std::time::Duration;
//! use gwm::{client::Client, sasp::{Endpoint, GroupData, Health, LbFlags, MemberData, SenderFlags}};
//!
//! let mut client = Client::connect("127.0.0.1:3860", Duration::from_secs(5))?;
//! let farm = GroupData { lb_uid: b"LB1", name: b"FARM1" };
//! let web1 = MemberData { endpoint: Endpoint::new([10, 0, 0, 1].into(), 6, 80), label: b"" };
//! client.register(SenderFlags::LOAD_BALANCER, [(farm, [web1])])?;
//! client.set_lb_state(b"LB1", Health::BEST, LbFlags::PUSH)?;
//! while let Some(push) = client.next_push(Duration::from_secs(60))? {
//!     println!("{:?}", push.groups);
//! }
//! # Ok::<(), gwm::client::Error>(())
//! ```
//!
//! [`Client::connect_tls`] does the same over TLS.

mod error;
pub mod session;
pub mod spec;
mod target;
mod tls;
mod transport;
mod weights;

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

pub use error::{Error, ErrorKind};
pub use target::Target;
pub use tls::Tls;
pub use transport::Transport;
use transport::{MOMENT, deadline, is_end, is_retry, open, time_left};
pub use weights::{GroupWeights, MemberWeight, Source, Weights};

use crate::{
    limits,
    sasp::{
        ComponentType, EncodeError, GroupData, Header, Health, LbFlags, MemberData, MemberState, Message, Reason,
        ReturnCode, SenderFlags, Writer,
        frame::message_length,
        message::{GetWeightsReply, SendWeights},
        writer,
    },
};

/// Least room for one read.
const READ_BYTES: usize = 16 * 1024;

/// A connection to a GWM.
pub struct Client {
    gwm: String,
    transport: Box<dyn Transport>,
    timeout: Duration,
    next_id: u32,
    output: Vec<u8>,
    /// Received bytes are `input[start..end]`; those before `start` belong to the message given last.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Whole Send Weights messages that came before a reply.
    pushes: VecDeque<Vec<u8>>,
    pushes_bytes: usize,
    /// The push that was given last.
    push: Vec<u8>,
}

impl Client {
    /// Connects over plain TCP to `gwm`, a `host:port`; tries each of the host's addresses. `timeout` bounds connecting
    /// (each address gets a share of the remaining time), and later each request with its reply. The timeout does not
    /// bound the resolution of the name, which follows the system's own settings.
    pub fn connect(gwm: &str, timeout: Duration) -> Result<Client, Error> {
        match open(gwm, deadline(timeout), timeout) {
            Ok(stream) => Ok(Client::over(Box::new(stream), gwm, timeout)),
            Err(kind) => Err(Error { gwm: gwm.to_owned(), kind }),
        }
    }

    /// As [`Client::connect`], over TLS; the handshake counts as part of connecting.
    ///
    /// With TLS 1.3, a GWM refuses the client's certificate only in answer to the first request.
    pub fn connect_tls(gwm: &str, timeout: Duration, tls: &Tls) -> Result<Client, Error> {
        let deadline = deadline(timeout);
        match open(gwm, deadline, timeout).and_then(|stream| tls::Stream::open(stream, tls, deadline, timeout)) {
            Ok(stream) => Ok(Client::over(Box::new(stream), gwm, timeout)),
            Err(kind) => Err(Error { gwm: gwm.to_owned(), kind }),
        }
    }

    /// A client over a transport that is connected already; `gwm` names the peer in errors.
    pub fn over(transport: Box<dyn Transport>, gwm: &str, timeout: Duration) -> Client {
        Client {
            gwm: gwm.to_owned(),
            transport,
            timeout,
            next_id: 1,
            output: Vec::new(),
            input: Vec::new(),
            start: 0,
            end: 0,
            pushes: VecDeque::new(),
            pushes_bytes: 0,
            push: Vec::new(),
        }
    }

    /// Registers members; a group without members is created empty.
    pub fn register<'a, M>(
        &mut self,
        sender: SenderFlags,
        groups: impl IntoIterator<Item = (GroupData<'a>, M)>,
    ) -> Result<(), Error>
    where
        M: IntoIterator<Item = MemberData<'a>>,
    {
        self.exchange_for_code(|out, id| write_groups(Writer::registration_request(out, id, sender), groups))
    }

    /// Deregisters members. A group without members is removed whole; an empty name means all groups.
    pub fn deregister<'a, M>(
        &mut self,
        sender: SenderFlags,
        reason: Reason,
        groups: impl IntoIterator<Item = (GroupData<'a>, M)>,
    ) -> Result<(), Error>
    where
        M: IntoIterator<Item = MemberData<'a>>,
    {
        self.exchange_for_code(|out, id| write_groups(Writer::deregistration_request(out, id, sender, reason), groups))
    }

    /// Sets quiesce and opaque state of members, both at once.
    pub fn set_member_state<'a, M>(
        &mut self,
        sender: SenderFlags,
        groups: impl IntoIterator<Item = (GroupData<'a>, M)>,
    ) -> Result<(), Error>
    where
        M: IntoIterator<Item = MemberState<'a>>,
    {
        self.exchange_for_code(|out, id| write_groups(Writer::set_member_state_request(out, id, sender), groups))
    }

    /// Sets the LB's health and its three flags.
    pub fn set_lb_state(&mut self, lb_uid: &[u8], health: Health, flags: LbFlags) -> Result<(), Error> {
        self.exchange_for_code(|out, id| writer::set_lb_state_request(out, id, lb_uid, health, flags))
    }

    /// Asks for the weights of groups; an empty name means all groups.
    ///
    /// Pushes that [`Client::next_push`] gives afterwards may be older than this reply. An LB that uses both
    /// sends its request with [`Client::send`] and takes all messages, in order, with [`Client::receive`].
    pub fn get_weights<'a>(
        &mut self,
        names: impl IntoIterator<Item = GroupData<'a>>,
    ) -> Result<GetWeightsReply<'_>, Error> {
        let frame = self.exchange(|out, id| {
            let mut writer = Writer::get_weights_request(out, id);
            names.into_iter().for_each(|name| writer.name(name));
            writer.finish()
        })?;
        match decode(&self.gwm, &self.input[frame])? {
            (_, Message::GetWeightsReply(reply)) if reply.code == ReturnCode::SUCCESSFUL => Ok(reply),
            (_, Message::GetWeightsReply(reply)) => {
                let kind = ErrorKind::Refused { request: ComponentType::GET_WEIGHTS_REQUEST, code: reply.code };
                Err(Error { gwm: self.gwm.clone(), kind })
            }
            (header, other) => Err(unexpected(&self.gwm, header.id, other.component_type())),
        }
    }

    /// Sends any request and gives its reply, whatever its code is.
    pub fn request(&mut self, request: &Message<'_>) -> Result<Message<'_>, Error> {
        let frame = self.exchange(|out, id| request.encode(id, out))?;
        Ok(decode(&self.gwm, &self.input[frame])?.1)
    }

    /// Waits for the next push, at most for `timeout`; `None` if none came. A part of a message is kept for the next call.
    pub fn next_push(&mut self, timeout: Duration) -> Result<Option<SendWeights<'_>>, Error> {
        match self.receive_as(timeout)? {
            None => Ok(None),
            Some((_, Message::SendWeights(push), _)) => Ok(Some(push)),
            Some((header, other, gwm)) => Err(unexpected(gwm, header.id, other.component_type())),
        }
    }

    /// Sends any request without waiting for the reply, and gives its id, which the reply will have.
    pub fn send(&mut self, request: &Message<'_>) -> Result<u32, Error> {
        self.send_with(|out, id| request.encode(id, out))
    }

    /// [`Client::send`] of the request that `encode` appends with the given id (see [`Writer`]).
    pub fn send_with(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>, u32) -> Result<(), EncodeError>,
    ) -> Result<u32, Error> {
        let id = self.next_id;
        self.next_id = id.checked_add(1).unwrap_or(1); // 0 is the pushes'
        self.output.clear();
        encode(&mut self.output, id).map_err(|error| self.error(ErrorKind::Encode(error)))?;
        self.flush_output()?;
        Ok(id)
    }

    /// The socket below, for those who wait for several things at a time. A peer that ends the connection makes it
    /// readable; then [`Client::next_push`] gives the error.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.transport.socket()
    }

    /// Waits for the next message of any kind, at most for `timeout`, and gives it with its id, in the order of arrival;
    /// `None` if none came.
    pub fn receive(&mut self, timeout: Duration) -> Result<Option<(u32, Message<'_>)>, Error> {
        Ok(self.receive_as(timeout)?.map(|(header, message, _)| (header.id, message)))
    }

    /// [`Client::receive`], with the GWM's name for an error about the message.
    fn receive_as(&mut self, timeout: Duration) -> Result<Option<(Header, Message<'_>, &str)>, Error> {
        let frame = match self.pushes.pop_front() {
            Some(push) => {
                self.pushes_bytes -= push.len();
                self.push = push;
                &self.push[..]
            }
            None => match self.next_frame(deadline(timeout))? {
                Some(frame) => &self.input[frame],
                None => return Ok(None),
            },
        };
        decode(&self.gwm, frame).map(|(header, message)| Some((header, message, &self.gwm[..])))
    }

    /// A request whose reply is a return code alone.
    fn exchange_for_code(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>, u32) -> Result<(), EncodeError>,
    ) -> Result<(), Error> {
        let frame = self.exchange(encode)?;
        let (header, reply) = decode(&self.gwm, &self.input[frame])?;
        let (request, code) = match reply {
            Message::RegistrationReply(code) => (ComponentType::REGISTRATION_REQUEST, code),
            Message::DeregistrationReply(code) => (ComponentType::DEREGISTRATION_REQUEST, code),
            Message::SetLbStateReply(code) => (ComponentType::SET_LB_STATE_REQUEST, code),
            Message::SetMemberStateReply(code) => (ComponentType::SET_MEMBER_STATE_REQUEST, code),
            other => return Err(unexpected(&self.gwm, header.id, other.component_type())),
        };
        if code == ReturnCode::SUCCESSFUL {
            return Ok(());
        }
        Err(self.error(ErrorKind::Refused { request, code }))
    }

    /// Sends a request and waits for the message with its id; earlier pushes are put aside. Gives the reply's place in
    /// `input`.
    fn exchange(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>, u32) -> Result<(), EncodeError>,
    ) -> Result<Range<usize>, Error> {
        let id = self.send_with(encode)?;
        let request = Header::read(&self.output).map_or(ComponentType(0), |(_, request)| request);
        let deadline = deadline(self.timeout);
        loop {
            let Some(frame) = self.next_frame(deadline)? else {
                return Err(self.error(ErrorKind::TimedOut { doing: "get its reply", after: self.timeout }));
            };
            let (header, message) = Header::read(&self.input[frame.clone()]).map_err(|e| self.broken(e))?;
            if message == ComponentType::SEND_WEIGHTS {
                self.put_aside(frame)?;
            } else if header.id == id && request.reply() == Some(message) {
                return Ok(frame);
            } else {
                return Err(unexpected(&self.gwm, header.id, message));
            }
        }
    }

    fn put_aside(&mut self, frame: Range<usize>) -> Result<(), Error> {
        self.pushes_bytes += frame.len();
        if self.pushes_bytes > limits::CLIENT_BACKLOG_BYTES {
            return Err(self.error(ErrorKind::Backlog { max_bytes: limits::CLIENT_BACKLOG_BYTES }));
        }
        self.pushes.push_back(self.input[frame].to_vec());
        Ok(())
    }

    /// Sends the content of `output`. A GWM may not read before this side has read the GWM's bytes; so this reads while
    /// the GWM takes nothing.
    fn flush_output(&mut self) -> Result<(), Error> {
        let deadline = deadline(self.timeout);
        let mut sent = 0;
        loop {
            let timed_out = ErrorKind::TimedOut { doing: "send", after: self.timeout };
            let Some(left) = time_left(deadline) else { return Err(self.error(timed_out)) };
            self.transport.set_write_timeout(left.min(WRITE_WAIT)).map_err(|error| self.io("send", error))?;
            let step = match &self.output[sent..] {
                [] => self.transport.flush().map(|()| None),
                rest => self.transport.write(rest).map(Some),
            };
            match step {
                Ok(None) => return Ok(()),
                Ok(Some(0)) => return Err(self.io("send", io::ErrorKind::WriteZero.into())),
                Ok(Some(written)) => sent += written,
                Err(error) if is_retry(&error) => self.take_in(deadline)?,
                Err(error) if is_end(&error) => return Err(self.error(ErrorKind::Closed { unfinished_bytes: 0 })),
                Err(error) => return Err(self.io("send", error)),
            }
        }
    }

    /// Reads arrived bytes, as many as may be kept.
    fn take_in(&mut self, deadline: Instant) -> Result<(), Error> {
        while time_left(deadline).is_some() && self.fill(Instant::now() + MOMENT)? {
            if self.pushes_bytes + (self.end - self.start) > limits::CLIENT_BACKLOG_BYTES {
                return Err(self.error(ErrorKind::Backlog { max_bytes: limits::CLIENT_BACKLOG_BYTES }));
            }
        }
        Ok(())
    }

    /// The place of the next whole frame in `input`, where it stays until the next call; `None` at the deadline.
    fn next_frame(&mut self, deadline: Instant) -> Result<Option<Range<usize>>, Error> {
        loop {
            let length = message_length(&self.input[self.start..self.end], limits::CLIENT_MESSAGE_BYTES)
                .map_err(|error| self.error(ErrorKind::Framing(error)))?;
            if let Some(length) = length.filter(|length| *length <= self.end - self.start) {
                let frame = self.start..self.start + length;
                self.start = frame.end;
                return Ok(Some(frame));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads arrived bytes; `false` at the deadline.
    fn fill(&mut self, deadline: Instant) -> Result<bool, Error> {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.input.len() - self.end < READ_BYTES {
            // Grows with what has arrived, never with what a header promises.
            self.input.resize((self.end * 2).max(self.end + READ_BYTES), 0);
        }
        // Bytes that arrived before the deadline are read even after it: hence a read of at least a moment.
        let mut left = time_left(deadline).unwrap_or(MOMENT);
        loop {
            self.transport.set_read_timeout(left).map_err(|error| self.io("receive", error))?;
            match self.transport.read(&mut self.input[self.end..]) {
                Ok(0) => return Err(self.error(ErrorKind::Closed { unfinished_bytes: self.end })),
                Ok(read) => {
                    self.end += read;
                    return Ok(true);
                }
                Err(error) if is_end(&error) => {
                    return Err(self.error(ErrorKind::Closed { unfinished_bytes: self.end }));
                }
                Err(error) if is_retry(&error) => match time_left(deadline) {
                    Some(rest) => left = rest,
                    None => return Ok(false),
                },
                Err(error) => return Err(self.io("receive", error)),
            }
        }
    }

    /// An error of this connection.
    pub(crate) fn error(&self, kind: ErrorKind) -> Error {
        Error { gwm: self.gwm.clone(), kind }
    }

    fn io(&self, doing: &'static str, error: io::Error) -> Error {
        self.error(ErrorKind::io(doing, error))
    }

    fn broken(&self, error: crate::sasp::DecodeError) -> Error {
        self.error(ErrorKind::Decode(error))
    }
}

/// How long one write may wait for the peer to take bytes, before this side reads what the peer sent.
const WRITE_WAIT: Duration = Duration::from_millis(10);

fn decode<'f>(gwm: &str, frame: &'f [u8]) -> Result<(Header, Message<'f>), Error> {
    Message::decode(frame).map_err(|error| Error { gwm: gwm.to_owned(), kind: ErrorKind::Decode(error) })
}

fn unexpected(gwm: &str, id: u32, message: ComponentType) -> Error {
    Error { gwm: gwm.to_owned(), kind: ErrorKind::Unexpected { message, id } }
}

fn write_groups<'a, T, M>(
    mut writer: Writer<'_, T>,
    groups: impl IntoIterator<Item = (GroupData<'a>, M)>,
) -> Result<(), EncodeError>
where
    T: crate::sasp::Entry<'a>,
    M: IntoIterator<Item = T>,
{
    for (data, members) in groups {
        writer.group(data);
        members.into_iter().for_each(|member| writer.entry(&member));
    }
    writer.finish()
}

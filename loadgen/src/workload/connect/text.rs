//! A played load balancer that is commanded in lines of text: a request and its answer on a connection of their own.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use gwm::sasp::Endpoint;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Board, Receiver};
use crate::Result;

/// How often the end of the run is looked for.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes of a request.
const REQUEST_BYTES: usize = 1 << 20;

/// The servers of the load balancer, which commands change.
pub(super) struct Servers {
    receiver: Receiver,
    /// By the members' order.
    pub(super) weights: Vec<u32>,
}

impl Servers {
    /// Members with the weights that they have now.
    pub(super) fn list(&self) -> impl Iterator<Item = (&Endpoint, &u32)> {
        self.receiver.board.members.iter().zip(&self.weights)
    }
}

/// Appends the answer to a request, which is a line without its end.
pub(super) type Answer = fn(&mut Servers, request: &str, answer: &mut String) -> Result<()>;

/// Answers until the run ends.
pub(super) fn serve(board: &Arc<Board>, listener: &TcpListener, answer: Answer) -> Result<()> {
    let mut servers = Servers { receiver: Receiver::new(board), weights: vec![1; board.members.len()] };
    let failed = |error: std::io::Error| format!("the played load balancer: {error}");
    listener.set_nonblocking(true).map_err(failed)?;
    while !board.stage.ended() {
        match listener.accept() {
            Ok((mut stream, _)) => exchange(&mut stream, &mut servers, answer)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&LOOK)).map_err(|error| failed(error.into()))?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Reads one line, and writes the answer. A connector that goes away meanwhile is no failure.
fn exchange(stream: &mut TcpStream, servers: &mut Servers, answer: Answer) -> Result<()> {
    let failed = |error: std::io::Error| format!("the played load balancer: {error}");
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE))).map_err(failed)?;
    let (mut request, mut chunk) = (Vec::new(), [0; 16 << 10]);
    while !request.ends_with(b"\n") {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
        if request.len() > REQUEST_BYTES {
            return Err("the connector sent a request without an end".into());
        }
    }
    let request = String::from_utf8(request).map_err(|_| "the connector sent what is not UTF-8")?;
    let mut text = String::new();
    answer(servers, request.trim_end(), &mut text)?;
    servers.receiver.has(&servers.weights);
    let _ = stream.write_all(text.as_bytes());
    Ok(())
}

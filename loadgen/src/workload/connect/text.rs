//! A played load balancer that is commanded in lines of text: a request and its answer on a connection of their own.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Board;
use crate::Result;

/// How often the end of the run is looked for.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes of a request.
const REQUEST_BYTES: usize = 1 << 20;

/// A table that requests change.
pub(super) trait Table {
    /// Appends the answer to a request, a line without its end.
    fn answer(&mut self, request: &str, answer: &mut String) -> Result<()>;
}

/// Answers until the run ends.
pub(super) fn serve(board: &Board, listener: &TcpListener, mut table: impl Table) -> Result<()> {
    let failed = |error: std::io::Error| format!("the played load balancer: {error}");
    listener.set_nonblocking(true).map_err(failed)?;
    while !board.stage.ended() {
        match listener.accept() {
            Ok((mut stream, _)) => exchange(&mut stream, &mut table)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&LOOK)).map_err(|error| failed(error.into()))?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Reads one line, and writes the answer. A connector that goes away meanwhile is no failure.
fn exchange(stream: &mut TcpStream, table: &mut impl Table) -> Result<()> {
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
    let mut answer = String::new();
    table.answer(request.trim_end(), &mut answer)?;
    let _ = stream.write_all(answer.as_bytes());
    Ok(())
}

//! The socket of HAProxy's runtime API. One connection carries many commands; `@1` sends them through a master to its
//! newest worker.

use std::fmt;

use super::answers::{answers, excerpt};
use crate::connect::{Fault, address::Address};

/// The most bytes of commands on one connection: HAProxy takes a line of 16 kB (`tune.bufsize`).
const LINE_BYTES: usize = 8000;

/// Where HAProxy listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    address: Address,
    /// It is a master's socket; `None`: not known yet.
    is_master: Option<bool>,
}

impl Socket {
    /// A path or `HOST:PORT`, as [`Address::parse`] reads it.
    pub fn parse(text: &str) -> Result<Socket, String> {
        Ok(Socket { address: Address::parse(text)?, is_master: None })
    }

    /// Sends the commands and reads the answers, one for each; an empty answer is success.
    pub(super) fn ask(&mut self, commands: &[String]) -> Result<Vec<String>, Fault> {
        let is_master = match self.is_master {
            Some(is_master) => is_master,
            None => {
                // A master does not know this command.
                let answer = self.exchange(&["show info".into()], false)?;
                answer.iter().any(|answer| answer.starts_with("Unknown command"))
            }
        };
        let mut all = Vec::with_capacity(commands.len());
        let mut rest = commands;
        while !rest.is_empty() {
            let (mut bytes, mut count) = (0, 0);
            for command in rest {
                bytes += command.len() + "@1 ;".len();
                if bytes > LINE_BYTES && count > 0 {
                    break;
                }
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            let answers = self.exchange(now, is_master)?;
            if answers.len() != now.len() {
                // A worker that is just ending, or another program.
                self.is_master = None;
                let answer = match excerpt(answers.first().map_or("", |answer| answer)) {
                    nothing if nothing.is_empty() => nothing,
                    answer => format!(": {answer}"),
                };
                return Err(Fault::Answer(format!("what listens at {self} does not answer as HAProxy{answer}")));
            }
            all.extend(answers);
            rest = later;
        }
        self.is_master = Some(is_master);
        Ok(all)
    }

    /// Sends the commands on one connection and reads the lines of all answers, without their ends; the socket has answered
    /// before. HAProxy 2.6 does not end the answer to an `add server` that it refuses.
    pub(super) fn lines(&self, commands: &[String]) -> Result<Vec<String>, Fault> {
        let text = self.send(commands, self.is_master == Some(true))?;
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// A fault of the answer.
    pub(super) fn fault(&self, what: &str) -> Fault {
        Fault::Answer(format!("the answer of HAProxy at {self} {what}"))
    }

    fn exchange(&self, commands: &[String], is_master: bool) -> Result<Vec<String>, Fault> {
        answers(&self.send(commands, is_master)?).ok_or_else(|| self.fault("ends too early"))
    }

    fn send(&self, commands: &[String], is_master: bool) -> Result<String, Fault> {
        let prefix = if is_master { "@1 " } else { "" };
        let line: Vec<String> = commands.iter().map(|command| format!("{prefix}{command}")).collect();
        // A master closes the connection only after the end of the commands.
        let text = self.address.exchange(&format!("{}\n", line.join(";")), true);
        text.map_err(|error| {
            let path = match self.address {
                Address::Unix(_) => "path",
                Address::Tcp(_) => "address",
            };
            let cause = format!("HAProxy is not running, or this is not the {path} of its `stats socket`");
            Fault::Io { what: format!("HAProxy's socket {self}"), error: Address::explain(error, &cause) }
        })
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

//! `gwm connect haproxy`: HAProxy by its runtime API.

use std::process::ExitCode;

use super::Common;
use crate::{
    connect::haproxy::{HaProxy, Socket},
    pattern::Pattern,
};

pub(super) const HELP: &str = "\
The socket is HAProxy's `stats socket`, which needs `level admin`, or the socket of its master (flag -S). With one on \
TCP, anyone who reaches it can change all of HAProxy.

A group has the name of its backend, and a member the address and port of its server; servers on UNIX sockets and \
names that are not resolved are left out. Weights are 0 to 256; the heaviest server of a backend has 256. Backup \
servers get their weights as all others; HAProxy uses them when no other server has a weight. A backend with a static \
algorithm takes no weights while it runs: its servers have their configured weight, or 0.

An `agent-check` of HAProxy sets weights, too, and the last one counts: use one of the two.";

/// Flags of `gwm connect haproxy`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The path of a UNIX socket, or HOST:PORT
    #[arg(long, env = "GWM_SOCKET", value_name = "ADDR", value_parser = Socket::parse)]
    socket: Socket,
    /// The backends to use: `*` stands for any bytes, `?` for one byte; repeatable [default: all]
    #[arg(long = "backend", env = "GWM_BACKEND", value_name = "PATTERN", value_parser = Pattern::parse)]
    backends: Vec<Pattern>,
    /// A quiesced server gets the state `drain` besides weight 0, so that HAProxy's statistics show it. A server
    /// that someone else drained, or put into maintenance, stays as it is; one with the state `drain` and weight 0 counts
    /// as ours
    #[arg(long, env = "GWM_DRAIN", value_parser = clap::builder::FalseyValueParser::new())]
    drain: bool,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    super::serve(common, HaProxy::new(args.socket, args.backends, args.drain))
}

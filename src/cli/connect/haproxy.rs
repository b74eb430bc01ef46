//! `gwm connect haproxy`: HAProxy by its runtime API.

use std::{process::ExitCode, time::Duration};

use super::Common;
use crate::{
    cli::target::{self, Failure, HOUR},
    config::duration,
    connect::haproxy::{Dynamic, HaProxy, Settings, Socket},
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
    /// The path of a UNIX socket, also as unix:PATH or unix@PATH; or HOST:PORT
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
    /// A member that registers itself, which --trust allows, becomes a server of its group's backend, with the name
    /// `gwm-ADDRESS:PORT`. Such a server is removed when its member is down, or has left, and has no connections
    #[arg(long, env = "GWM_DYNAMIC", value_parser = clap::builder::FalseyValueParser::new())]
    dynamic: bool,
    /// More words of HAProxy's `add server` for these servers: `check inter 1s`, `ssl verify none`
    #[arg(long, env = "GWM_SERVER_WORDS", value_name = "WORDS", default_value = "", value_parser = server_words)]
    server_words: String,
    /// How long after a session with a GWM begins a server stays whose member is not listed: a GWM that was restarted does
    /// not know the members that register themselves until they come back. 0s to 1h
    #[arg(long, env = "GWM_LEAVE_AFTER", value_name = "DURATION", default_value = "60s",
          value_parser = duration(Duration::ZERO..=HOUR))]
    leave_after: Duration,
}

/// No command may begin in these words.
fn server_words(text: &str) -> Result<String, String> {
    let good = !text.contains([';', '\\']) && !text.contains(char::is_control);
    good.then(|| text.trim().to_owned()).ok_or_else(|| "the words have a `;`, a backslash or a control byte".into())
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    if args.dynamic && !common.trust {
        let error = "--dynamic is for members that register themselves: give --trust, too";
        return target::finish(Err(Failure::Usage(error.into())));
    }
    let dynamic = args.dynamic.then_some(Dynamic { words: args.server_words, leave_after: args.leave_after });
    let settings = Settings { backends: args.backends, drain_by_state: args.drain, dynamic };
    super::serve(common, HaProxy::new(args.socket, settings))
}

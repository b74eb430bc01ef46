//! `gwm connect pen`: pen by its control port.

use std::process::ExitCode;

use super::Common;
use crate::{
    client::spec,
    connect::{address::Address, pen::Pen},
    sasp::component::{TCP, UDP},
};

pub(super) const HELP: &str = "\
Start pen with -W (weights) and -C (control port); anyone who reaches the control port can change all of pen, so let it be \
a UNIX socket, or on 127.0.0.1:

  pen -W -u pen -C 127.0.0.1:8888 0.0.0.0:80 10.0.0.1:80 10.0.0.2:80

All servers of pen are one group. Weights are 0 to 256. A server that gets no new work is also blacklisted, for 30 s at a \
time, because pen sends a client that it remembers to a server of weight 0, too; connections that exist stay. The weights \
that pen had when the connector first saw it are its own ones; a pen that was restarted has its own ones again.";

/// Flags of `gwm connect pen`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Pen's control port: HOST:PORT, or the path of a UNIX socket, also as unix:PATH or unix@PATH
    #[arg(long, env = "GWM_CONTROL", value_name = "ADDR", value_parser = Address::parse)]
    control: Address,
    /// The name of the group that pen's servers make up
    #[arg(long, env = "GWM_GROUP", value_name = "NAME", default_value = "pen", value_parser = spec::group_name)]
    group: Box<[u8]>,
    /// Pen balances UDP (its flag -U)
    #[arg(long, env = "GWM_UDP", value_parser = clap::builder::FalseyValueParser::new())]
    udp: bool,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    super::serve(common, Pen::new(args.control, args.group, if args.udp { UDP } else { TCP }))
}

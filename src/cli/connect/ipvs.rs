//! `gwm connect ipvs`: the kernel's IPVS.

use std::process::ExitCode;

use super::Common;
use crate::{
    cli::target::{self, Failure},
    connect::ipvs::{Ipvs, Service},
};

pub(super) const HELP: &str = "\
The destinations of a service are its group. Only weights change, to 0 to 100; all other settings of destinations stay, and \
nothing is added or removed. A destination of weight 0 gets no new connections; those that exist go on. The weights that \
IPVS has when the connector first sees a destination are the ones that --on-exit restore gives back. The scheduler must use weights: wrr or wlc. It needs \
root, or CAP_NET_ADMIN, and the module ip_vs.";

/// Flags of `gwm connect ipvs`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A service and its group: `tcp 10.0.0.1:80=web`, `udp [2001:db8::1]:53=dns`, `fwmark 7=web`, `fwmark6 7=web`; repeatable
    #[arg(long = "service", env = "GWM_SERVICE", value_name = "SERVICE=GROUP", value_parser = Service::parse,
          required = true)]
    services: Vec<Service>,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    match Ipvs::new(args.services) {
        Ok(connector) => super::serve(common, connector),
        Err(error) => target::finish(Err(Failure::Usage(error))),
    }
}

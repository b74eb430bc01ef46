//! `gwm connect ipvs`: the kernel's IPVS.

use std::{process::ExitCode, time::Duration};

use super::Common;
use crate::{
    cli::target::{self, Failure, HOUR},
    config::duration,
    connect::ipvs::{self, Dynamic, Ipvs, Service},
};

pub(super) const HELP: &str = "\
The destinations of a service are its group. Only weights change, to 0 to 100; all other settings of destinations stay. \
Without --dynamic, nothing is added or removed. A destination of weight 0 gets no new connections; those that exist go on. \
The weights that IPVS has when the connector first sees a destination are the ones that --on-exit restore gives back. The \
scheduler must use weights: wrr or wlc. It needs root, or CAP_NET_ADMIN, and the module ip_vs.

A destination that --dynamic has added is known by its upper threshold of 2000000000 connections, which has no other \
effect. It is removed when its member is down or has left, and it has no active connection (ActiveConn of ipvsadm): the \
kernel drops the packets of connections whose destination is gone.";

/// Flags of `gwm connect ipvs`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A service and its group: `tcp 10.0.0.1:80=web`, `udp [2001:db8::1]:53=dns`, `fwmark 7=web`, `fwmark6 7=web`; repeatable
    #[arg(long = "service", env = "GWM_SERVICE", value_name = "SERVICE=GROUP", value_parser = Service::parse,
          required = true)]
    services: Vec<Service>,
    /// A member that registers itself, which --trust allows, becomes a destination of its group's services. Such a
    /// destination is removed when its member is down or has left, and it has no active connection
    #[arg(long, env = "GWM_DYNAMIC", value_parser = clap::builder::FalseyValueParser::new())]
    dynamic: bool,
    /// How packets get to these destinations, as ipvsadm's flags -m, -i and -g; only `masquerade` leads to another port than
    /// the service has
    #[arg(long, env = "GWM_FORWARD", value_name = "HOW", default_value = "masquerade")]
    forward: Forward,
    /// How long after a session with a GWM begins a destination stays whose member is not listed: a GWM that was restarted
    /// does not know the members that register themselves until they come back. 0s to 1h
    #[arg(long, env = "GWM_LEAVE_AFTER", value_name = "DURATION", default_value = "60s",
          value_parser = duration(Duration::ZERO..=HOUR))]
    leave_after: Duration,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Forward {
    /// NAT (-m)
    Masquerade,
    /// IP in IP (-i)
    Tunnel,
    /// On the same link, with the service's address on the member (-g)
    Route,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    if args.dynamic && !common.trust {
        let error = "--dynamic is for members that register themselves: give --trust, too";
        return target::finish(Err(Failure::Usage(error.into())));
    }
    let forward = match args.forward {
        Forward::Masquerade => ipvs::Forward::Masquerade,
        Forward::Tunnel => ipvs::Forward::Tunnel,
        Forward::Route => ipvs::Forward::Route,
    };
    let dynamic = args.dynamic.then_some(Dynamic { forward, leave_after: args.leave_after });
    match Ipvs::new(args.services, dynamic) {
        Ok(connector) => super::serve(common, connector),
        Err(error) => target::finish(Err(Failure::Usage(error))),
    }
}

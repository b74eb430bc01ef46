//! `gwm connect nft`: the kernel's nftables.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use super::{Common, Groups};
use crate::{
    cli::target::{self, Failure},
    connect::nft::{self, NftConnector, Service, Settings},
};

pub(super) const HELP: &str = "\
New connections to a service get a member by destination NAT, in proportion to the weights; connections that exist keep \
their member. Without a member that serves, connections are rejected. The answers of members must come back by this \
machine: it is their router. Connections from other machines need forwarding (sysctl net.ipv4.ip_forward=1).

All rules are in the table `inet gwm`, which is replaced in one transaction; other tables stay as they are. Sets in it \
count the connections that each member got, for --admin-listen. Two connectors \
on one machine need two tables. It needs root, or CAP_NET_ADMIN. After the end the rules stay: `nft delete table inet gwm` \
removes them. `--on-exit restore` gives all members the same share.";

/// Flags of `gwm connect nft`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    groups: Groups,
    /// The address and port that clients use, and the group behind them: `10.0.0.1:80=web`, `[2001:db8::1]:53/udp=dns`;
    /// repeatable
    #[arg(long = "service", env = "GWM_SERVICE", value_name = "ADDR:PORT=GROUP", value_parser = Service::parse,
          required = true)]
    services: Vec<Service>,
    /// How a connection gets its member
    #[arg(long, env = "GWM_CHOOSE", value_name = "HOW", default_value = "turn")]
    choose: Choose,
    /// The most slots that a service has for its members: shares are as exact as this. 1 to 4096
    #[arg(long, env = "GWM_SLOTS", value_name = "NUMBER", default_value = "100",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: u32,
    /// The table of family inet that has all rules, and only these
    #[arg(long, env = "GWM_TABLE", value_name = "NAME", default_value = "gwm", value_parser = nft::table_name)]
    table: String,
    /// The program nft, 1.0 or newer
    #[arg(long, env = "GWM_NFT", value_name = "PROGRAM", default_value = "nft")]
    nft: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choose {
    /// One after the other: exact shares
    Turn,
    /// At random
    Random,
    /// By the client's address: the same client gets the same member, as far as the weights allow
    Source,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    match connector(args) {
        Ok(connector) => super::serve(common, connector),
        Err(failure) => target::finish(Err(failure)),
    }
}

fn connector(args: Args) -> Result<NftConnector, Failure> {
    let settings = Settings {
        program: args.nft,
        table: args.table,
        services: args.services,
        pools: args.groups.pools()?,
        choose: match args.choose {
            Choose::Turn => nft::Choose::Turn,
            Choose::Random => nft::Choose::Random,
            Choose::Source => nft::Choose::Source,
        },
        slots: args.slots,
    };
    NftConnector::new(settings).map_err(Failure::Usage)
}

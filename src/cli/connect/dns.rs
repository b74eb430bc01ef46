//! `gwm connect dns`: a zone whose names show groups.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use super::{Common, Groups};
use crate::{
    cli::target::{self, Failure},
    config::duration,
    connect::dns::{self, Apex, Authority, Bound, Kind, Listening, Rule, Settings, Updates, WhenNone, ZoneName},
};

pub(super) const HELP: &str = "\
With --listen the connector answers queries for the zone itself, by UDP and TCP; with --update it changes the zone of \
another server instead (RFC 2136), over TCP.

An SRV record has the member's port, a weight (the heaviest member of a group has 65535), and the name of the member's \
host: `ip-10-0-0-1.ZONE`, which has the address. A name with `_udp` shows UDP members, one with `_tcp` all others; a \
member without a port has no SRV record. A and AAAA records have no weights. Members that may get no work are left out. \
A host keeps its name for two TTLs after its last member has left.

Until the weights of a group are known, --listen answers SERVFAIL for its names, and --update changes nothing. If the \
GWM is lost for longer than --keep, names show the members of the flags in equal parts.

With --listen, queries are counted by name and type, for --admin-listen. With --update there is nothing to observe: a \
server that takes updates does not tell who asks for the records, or who uses the members.

A port below 1024 needs the capability CAP_NET_BIND_SERVICE. Queries for other zones, and transfers, are refused.

Examples:

  gwm connect dns --uid DNS1 --zone lb.example --listen 127.0.0.1:5353 --group web=10.0.0.1:80,10.0.0.2:80
  dig @127.0.0.1 -p 5353 _web._tcp.lb.example SRV

  gwm connect dns --uid DNS1 --zone lb.example --update ns1.example:53 --tsig-key gwm.key --trust --group web";

const DAY: Duration = Duration::from_secs(86400);

/// Flags of `gwm connect dns`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    groups: Groups,
    /// The zone: `lb.example`
    #[arg(long, env = "GWM_ZONE", value_name = "NAME", value_parser = dns::zone)]
    zone: ZoneName,
    /// SRV records of groups; repeatable. NAME is relative to the zone; in GROUPS, `*` stands for any bytes and `?` for one
    /// byte; in NAME, `*` stands for the group's name [default: `_*._tcp=*`, unless --address is given]
    #[arg(long, env = "GWM_SERVICE", value_name = "NAME=GROUPS", value_parser = Rule::parse, value_delimiter = ',')]
    service: Vec<Rule>,
    /// A and AAAA records of groups, as --service; the name `@` is the zone itself
    #[arg(long, env = "GWM_ADDRESS", value_name = "NAME=GROUPS", value_parser = Rule::parse, value_delimiter = ',')]
    address: Vec<Rule>,
    /// How long resolvers may keep answers: 0s to 1d
    #[arg(long, env = "GWM_TTL", value_name = "DURATION", default_value = "5s", value_parser = duration(Duration::ZERO..=DAY))]
    ttl: Duration,
    /// What a name shows while no member of its group may get work: `servfail` (not with --update), `empty` (no record), or
    /// `all` members that are not quiesced, in equal parts
    #[arg(long, env = "GWM_WHEN_NONE", value_name = "WHAT", default_value = "empty")]
    when_none: When,
    #[command(flatten)]
    serve: Serve,
    #[command(flatten)]
    update: Update,
}

/// Flags for answering queries.
#[derive(clap::Args)]
#[command(next_help_heading = "Answering")]
struct Serve {
    /// Answer queries here: IPv4:PORT or `[IPv6]:PORT`; repeatable. 0.0.0.0 and `[::]` stand for all addresses that the
    /// machine has at the start
    #[arg(long, env = "GWM_DNS_LISTEN", value_name = "ADDR", value_delimiter = ',', conflicts_with = "update")]
    listen: Vec<SocketAddr>,
    /// A name server of the zone, in the zone's NS records; repeatable. Addresses for one within the zone [default:
    /// `ns.ZONE`, with the addresses of --listen]
    #[arg(long, env = "GWM_NS", value_name = "NAME[=IP,…]", conflicts_with = "update")]
    ns: Vec<String>,
    /// The mail address of the person in charge, as a name, in the zone's SOA record [default: `hostmaster.ZONE`]
    #[arg(long, env = "GWM_MAILBOX", value_name = "NAME", value_parser = dns::absolute, conflicts_with = "update")]
    mailbox: Option<ZoneName>,
    /// The most answers a second by UDP for the clients of one network (IPv4 /24, IPv6 /56), 0 for no limit. Of the queries
    /// above, half get an empty answer that sends the client to TCP, half get none
    #[arg(long, env = "GWM_DNS_RATE", value_name = "0-1000000", default_value = "1000",
          value_parser = clap::value_parser!(u32).range(0..=1_000_000), conflicts_with = "update")]
    rate: u32,
    /// The most bytes of an answer by UDP, if the client takes as many
    #[arg(long, env = "GWM_DNS_UDP_BYTES", value_name = "512-65000", default_value = "1232",
          value_parser = clap::value_parser!(u16).range(512..=65000), conflicts_with = "update")]
    udp_bytes: u16,
    /// Threads for UDP queries, for each address
    #[arg(long, env = "GWM_DNS_THREADS", value_name = "1-64", default_value = "1",
          value_parser = clap::value_parser!(u16).range(1..=64), conflicts_with = "update")]
    threads: u16,
}

/// Flags for changing another server's zone.
#[derive(clap::Args)]
#[command(next_help_heading = "Updating another server")]
struct Update {
    /// Change the zone of this server: HOST:PORT
    #[arg(long, env = "GWM_DNS_UPDATE", value_name = "ADDR")]
    update: Option<String>,
    /// Sign with the key in this file: what `tsig-keygen` or `keymgr -t` writes, or a line `[ALGORITHM:]NAME:BASE64`
    #[arg(long, env = "GWM_TSIG_KEY", value_name = "FILE", requires = "update")]
    tsig_key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum When {
    /// The answer SERVFAIL
    Servfail,
    /// No record
    Empty,
    /// All members that are not quiesced
    All,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    let settings = match settings(&args) {
        Ok(settings) => settings,
        Err(failure) => return target::finish(Err(failure)),
    };
    match args.update.update.clone() {
        Some(server) => match updates(settings, server, &args) {
            Ok(connector) => super::serve(common, connector),
            Err(failure) => target::finish(Err(failure)),
        },
        None => match authority(settings, &args.serve, common.check || common.dry_run) {
            Ok(connector) => super::serve(common, connector),
            Err(failure) => target::finish(Err(failure)),
        },
    }
}

fn settings(args: &Args) -> Result<Settings, Failure> {
    if args.serve.listen.is_empty() && args.update.update.is_none() {
        let choice = "say where to answer queries (--listen ADDR), or whose zone to change (--update HOST:PORT)";
        return Err(Failure::Usage(choice.into()));
    }
    let pools = args.groups.pools()?;
    let mut rules: Vec<(Kind, Rule)> = args.service.iter().map(|rule| (Kind::Service, rule.clone())).collect();
    rules.extend(args.address.iter().map(|rule| (Kind::Address, rule.clone())));
    if rules.is_empty() {
        rules.push((Kind::Service, Rule::parse("_*._tcp=*").expect("it is a rule")));
    }
    let shown = dns::shown(&rules, &pools, &args.zone).map_err(Failure::Usage)?;
    let when_none = match args.when_none {
        When::Servfail => WhenNone::Servfail,
        When::Empty => WhenNone::Empty,
        When::All => WhenNone::All,
    };
    Settings { zone: args.zone.clone(), ttl: args.ttl, pools, shown, when_none }.check().map_err(Failure::Usage)
}

fn updates(settings: Settings, server: String, args: &Args) -> Result<Updates, Failure> {
    if args.when_none == When::Servfail {
        return Err(Failure::Usage("--when-none servfail: records of another server can not say this".into()));
    }
    let server = if server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        server
    } else {
        return Err(Failure::Usage(format!("--update: `{server}` is not HOST:PORT")));
    };
    let key = args.update.tsig_key.as_deref().map(dns::read_key).transpose().map_err(Failure::Usage)?;
    Ok(Updates::new(settings, server, key))
}

fn authority(settings: Settings, args: &Serve, silent: bool) -> Result<Authority, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let listening = Listening {
        addresses: args.listen.clone(),
        threads: args.threads.into(),
        udp_bytes: args.udp_bytes,
        rate: args.rate,
    };
    let bound = if silent { None } else { Some(Bound::new(&listening).map_err(|error| failed(&error))?) };
    let addresses: Vec<SocketAddr> = match &bound {
        Some(bound) => bound.addresses().collect(),
        None => args.listen.clone(),
    };
    let apex = apex(&settings, args, &addresses)?;
    let authority = Authority::start(settings, apex, bound).map_err(|error| failed(&error))?;
    if !silent {
        let mut out = std::io::stdout().lock();
        addresses.iter().try_for_each(|address| writeln!(out, "gwm: dns on {address}"))?;
        out.flush()?;
    }
    Ok(authority)
}

fn apex(settings: &Settings, args: &Serve, addresses: &[SocketAddr]) -> Result<Apex, Failure> {
    let zone = &settings.zone;
    let below = |label: &str| dns::absolute(&format!("{label}.{zone}")).map_err(Failure::Usage);
    let mut name_servers = args.ns.iter().map(|text| name_server(text)).collect::<Result<Vec<_>, _>>()?;
    if name_servers.is_empty() {
        let mut ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        ips.sort_unstable();
        ips.dedup();
        name_servers.push((below("ns")?, ips));
    }
    let mailbox = args.mailbox.clone().map_or_else(|| below("hostmaster"), Ok)?;
    Apex::new(settings, name_servers, mailbox).map_err(Failure::Usage)
}

/// `ns1.example.net`, or `ns1.lb.example=192.0.2.53,2001:db8::53`.
fn name_server(text: &str) -> Result<(ZoneName, Vec<IpAddr>), Failure> {
    let (name, list) = text.split_once('=').unwrap_or((text, ""));
    let usage = |error: String| Failure::Usage(format!("--ns: {error}"));
    let ips = list.split(',').filter(|_| !list.is_empty());
    let ips = ips.map(|ip| ip.parse().map_err(|_| usage(format!("`{ip}` is not an IP address"))));
    Ok((dns::absolute(name).map_err(usage)?, ips.collect::<Result<_, _>>()?))
}

//! `gwm lb`: a load balancer on the command line.

mod watch;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, Subcommand, error::ErrorKind};

use super::{
    table,
    target::{self, Failure, Named},
};
use crate::{
    client::{
        Source, Target, Weights,
        spec::{self, GroupSpec},
    },
    sasp::{
        ComponentType, Escaped, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Reason, ReturnCode,
        SenderFlags,
    },
};

const TAKEOVER: &str = "\
A GWM knows a load balancer by its UID and has one connection with it. Every command here connects as the LB of --uid: \
the GWM then ends the session that a live LB with this UID has. The protocol does not tell whether there is one. So \
the commands need --take-over, except `watch`, which takes over when it starts and ends when another connection takes \
over from it. What a command does lasts beyond its connection for the GWM's hold time.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.";

/// The short form, for each command.
const ONE_SHOT: &str = "\
This ends the session that a live LB with this UID has, so it needs --take-over.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.";

/// Flags of `gwm lb`.
#[derive(clap::Args)]
#[command(after_help = TAKEOVER)]
pub struct Args {
    #[command(flatten)]
    target: target::Flags,
    /// The load balancer's UID: 1 to 64 bytes, as `gwm` shows them: `\xFF` is a byte (required)
    #[arg(long, env = "GWM_UID", value_name = "UID", value_parser = spec::lb_uid, global = true)]
    uid: Option<Box<[u8]>>,
    /// End the session that a live LB with this UID may have. `watch` needs this flag only to take the session back
    /// from another connection
    #[arg(long, env = "GWM_TAKE_OVER", value_parser = clap::builder::FalseyValueParser::new(), global = true)]
    take_over: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep a session and show the weights as they change
    #[command(after_help = watch::HELP)]
    Watch(watch::Args),
    /// Show the weights once
    #[command(after_help = ONE_SHOT)]
    Weights(WeightsArgs),
    /// Register groups and members
    #[command(after_help = ONE_SHOT)]
    Register(GroupArgs),
    /// Deregister members, whole groups or everything
    #[command(after_help = ONE_SHOT)]
    Deregister(DeregisterArgs),
    /// Set the LB's own state: health, push, trust, no-change
    #[command(after_help = ONE_SHOT)]
    State(StateArgs),
    /// Quiesce members: they get weight 0 until resumed
    #[command(after_help = ONE_SHOT)]
    Quiesce(QuiesceArgs),
    /// Resume quiesced members
    #[command(after_help = ONE_SHOT)]
    Resume(QuiesceArgs),
}

/// Flags that name groups and members.
#[derive(clap::Args)]
pub(super) struct GroupArgs {
    /// A group and its members; repeatable (GWM_GROUP holds one). In the name, `\xFF` is a byte and `\x3D` a `=`. A member
    /// is IP:PORT (TCP), `[IPv6]:PORT/udp`, IP:PORT/NUMBER (IP protocol 0 to 255), or IP alone: a whole system
    #[arg(long = "group", env = "GWM_GROUP", value_name = "NAME[=MEMBER,…]", value_parser = spec::group)]
    group: Vec<GroupSpec>,
    /// A TOML file with `[[group]]` (name) and, below each, `[[group.member]]` (address, protocol, port, label;
    /// without protocol and port a whole system)
    #[arg(long, env = "GWM_GROUPS", value_name = "FILE")]
    groups: Option<PathBuf>,
}

impl GroupArgs {
    pub(super) fn read(&self) -> Result<Vec<GroupSpec>, Failure> {
        spec::combine(&self.group, self.groups.as_deref(), false).map_err(|error| Failure::Usage(error.to_string()))
    }

    /// Groups, at least one.
    fn some(&self) -> Result<Vec<GroupSpec>, Failure> {
        match self.read()? {
            none if none.is_empty() => Err(Failure::Usage("no group is given: use --group or --groups".into())),
            groups => Ok(groups),
        }
    }
}

#[derive(clap::Args)]
struct WeightsArgs {
    /// Groups to show; default all
    #[arg(value_name = "GROUP", value_parser = spec::group_name)]
    groups: Vec<Box<[u8]>>,
    /// Print one JSON object: {event: "weights", time, gwm, lb, source: "get-weights", interval_seconds, groups};
    /// `gwm lb watch --help` explains groups
    #[arg(long, env = "GWM_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,
}

#[derive(clap::Args)]
struct DeregisterArgs {
    #[command(flatten)]
    groups: GroupArgs,
    /// Deregister all groups of this LB
    #[arg(long, env = "GWM_ALL", value_parser = clap::builder::FalseyValueParser::new())]
    all: bool,
    /// The reason: 0 none given, 1 learned and purposeful, 0x80 to 0xFF the vendor's
    #[arg(long, env = "GWM_REASON", value_name = "BYTE", default_value = "0", value_parser = target::byte)]
    reason: u8,
}

/// The LB's own state.
#[derive(clap::Args)]
pub(super) struct Wanted {
    /// Members may register, deregister and set state for themselves
    #[arg(long, env = "GWM_TRUST", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) trust: bool,
    /// The GWM leaves out members whose weight entry has not changed (no-change/no-send)
    #[arg(long, env = "GWM_NO_CHANGE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) no_change: bool,
    /// The LB's health: 0 (worst) to 127 (best)
    #[arg(long, env = "GWM_HEALTH", value_name = "0-127", default_value = "127", value_parser = health)]
    pub(super) health: u8,
}

impl Wanted {
    pub(super) fn flags(&self, push: bool) -> LbFlags {
        let flags = LbFlags::NONE.with(LbFlags::PUSH, push).with(LbFlags::TRUST, self.trust);
        flags.with(LbFlags::NO_CHANGE_NO_SEND, self.no_change)
    }
}

fn health(text: &str) -> Result<u8, String> {
    match target::byte(text)? {
        good @ 0..=0x7F => Ok(good),
        high => Err(format!("{high} is not between 0 and 127")),
    }
}

#[derive(clap::Args)]
struct StateArgs {
    /// The GWM sends weights by itself (on the LB's next connection: this connection ends at once)
    #[arg(long, env = "GWM_PUSH", value_parser = clap::builder::FalseyValueParser::new())]
    push: bool,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(clap::Args)]
struct QuiesceArgs {
    #[command(flatten)]
    groups: GroupArgs,
    /// The members' opaque state, because the message always writes it: 0 to 255, or 0x00 to 0xFF
    #[arg(long, env = "GWM_OPAQUE_STATE", value_name = "BYTE", default_value = "0", value_parser = target::byte)]
    opaque_state: u8,
}

/// Runs `gwm lb`.
pub fn run(args: Args) -> ExitCode {
    let Some(uid) = args.uid else {
        let mut all = super::Cli::command();
        all.build(); // it gives commands their full names
        let command = all.find_subcommand_mut("lb").expect("this is that command");
        let what = "the load balancer's UID is missing: give --uid UID";
        return super::show(&command.error(ErrorKind::MissingRequiredArgument, what));
    };
    if !args.take_over && !matches!(args.command, Command::Watch(_)) {
        let why = format!(
            "this ends the session that a live {} has with the GWM, and the protocol does not tell whether there is one: \
             give --take-over if that is right",
            Escaped(&uid)
        );
        return target::finish(Err(Failure::Usage(why)));
    }
    if let Command::Watch(watch) = args.command {
        return target::finish(args.target.all().and_then(|gwms| watch::run(&gwms, uid, watch, args.take_over)));
    }
    target::finish(args.target.read().and_then(|target| match args.command {
        Command::Watch(_) => unreachable!("it has been run"),
        Command::Weights(weights) => show(&target, &uid, weights),
        Command::Register(groups) => register(&target, &uid, &groups),
        Command::Deregister(what) => deregister(&target, &uid, &what),
        Command::State(state) => set_state(&target, &uid, &state),
        Command::Quiesce(what) => set_members(&target, &uid, &what, MemberFlags::QUIESCE),
        Command::Resume(what) => set_members(&target, &uid, &what, MemberFlags::NONE),
    }))
}

fn show(target: &Target, uid: &[u8], args: WeightsArgs) -> Result<(), Failure> {
    let mut client = target.connect()?;
    let names: Vec<&[u8]> = match &args.groups[..] {
        [] => vec![b""],
        some => some.iter().map(|name| &**name).collect(),
    };
    let reply = client.get_weights(names.iter().map(|name| GroupData { lb_uid: uid, name }))?;
    let mut weights = Weights::default();
    weights.apply(reply.groups, Source::AllGroups, false);
    let mut out = io::stdout().lock();
    if args.json {
        let event = watch::WeightsEvent {
            event: "weights",
            time: watch::now(),
            gwm: &target.gwm,
            lb: Escaped(uid).to_string(),
            source: "get-weights",
            interval_seconds: Some(reply.interval_seconds),
            groups: table::json(&weights),
        };
        writeln!(out, "{}", watch::to_json(&event))?;
    } else {
        for line in table::lines(&weights, usize::MAX) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn register(target: &Target, uid: &[u8], args: &GroupArgs) -> Result<(), Failure> {
    let groups = args.some()?;
    let members = groups.iter().map(|group| (group.data(uid), group.members.iter().map(|member| member.data())));
    target.connect()?.register(SenderFlags::LOAD_BALANCER, members)?;
    done(ComponentType::REGISTRATION_REQUEST)
}

fn deregister(target: &Target, uid: &[u8], args: &DeregisterArgs) -> Result<(), Failure> {
    let groups = args.groups.read()?;
    let all = GroupData { lb_uid: uid, name: b"" };
    let request: Vec<(GroupData<'_>, Vec<MemberData<'_>>)> = match (args.all, groups.is_empty()) {
        (true, true) => vec![(all, Vec::new())],
        (false, false) => groups
            .iter()
            .map(|group| (group.data(uid), group.members.iter().map(|member| member.data()).collect()))
            .collect(),
        (true, false) => return Err(Failure::Usage("--all goes without --group and --groups".into())),
        (false, true) => return Err(Failure::Usage("what? use --group, --groups or --all".into())),
    };
    target.connect()?.deregister(SenderFlags::LOAD_BALANCER, Reason(args.reason), request)?;
    done(ComponentType::DEREGISTRATION_REQUEST)
}

fn set_state(target: &Target, uid: &[u8], args: &StateArgs) -> Result<(), Failure> {
    let flags = args.wanted.flags(args.push);
    target.connect()?.set_lb_state(uid, Health(args.wanted.health), flags)?;
    done(ComponentType::SET_LB_STATE_REQUEST)
}

fn set_members(target: &Target, uid: &[u8], args: &QuiesceArgs, flags: MemberFlags) -> Result<(), Failure> {
    let groups = args.groups.some()?;
    if let Some(empty) = groups.iter().find(|group| group.members.is_empty()) {
        return Err(Failure::Usage(format!("group {0} names no member: --group {0}=MEMBER,…", Escaped(&empty.name))));
    }
    let states = groups.iter().map(|group| {
        let state = args.opaque_state;
        let members = group.members.iter();
        (group.data(uid), members.map(move |member| MemberState { member: member.data(), state, flags }))
    });
    target.connect()?.set_member_state(SenderFlags::LOAD_BALANCER, states)?;
    done(ComponentType::SET_MEMBER_STATE_REQUEST)
}

/// Prints that the GWM has done the request.
pub(super) fn done(request: ComponentType) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{request}: {}", Named(ReturnCode::SUCCESSFUL))?)
}

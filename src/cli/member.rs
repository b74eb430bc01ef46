//! `gwm member`: a member on the command line.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::{
    lb::done,
    target::{self, Failure},
};
use crate::{
    client::{
        Target,
        spec::{self, GroupSpec, MemberSpec},
    },
    sasp::{ComponentType, Endpoint, Escaped, MemberFlags, MemberState, Reason, SenderFlags},
};

const HELP: &str = "\
A GWM accepts a member only for a load balancer that has contacted it and has set trust. Members given together \
travel in one message: all are accepted, or none.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.";

/// Flags of `gwm member`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    target: target::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Join a group
    Register {
        #[command(flatten)]
        who: Who,
        /// A label for the member, which the GWM passes to the load balancer: at most 255 bytes, in the form of names
        #[arg(long, env = "GWM_LABEL", value_name = "TEXT", value_parser = spec::label, conflicts_with = "file")]
        label: Option<Box<[u8]>>,
    },
    /// Leave a group
    Deregister {
        #[command(flatten)]
        who: Who,
        /// The reason: 0 none given, 1 learned and purposeful, 0x80 to 0xFF the vendor's
        #[arg(long, env = "GWM_REASON", value_name = "BYTE", default_value = "0", value_parser = target::byte)]
        reason: u8,
    },
    /// Ask for no more new work: weight 0 until resumed
    Quiesce {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        opaque: Opaque,
    },
    /// Take new work again
    Resume {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        opaque: Opaque,
    },
    /// Set the opaque state, a byte that the GWM passes to the load balancer
    State {
        /// The state: 0 to 255, or 0x00 to 0xFF
        #[arg(value_name = "BYTE", value_parser = target::byte)]
        value: u8,
        #[command(flatten)]
        who: Who,
        /// Quiesce too. The message always writes both, so without this flag a quiesced member is resumed
        #[arg(long, env = "GWM_QUIESCE", value_parser = clap::builder::FalseyValueParser::new())]
        quiesce: bool,
    },
}

#[derive(clap::Args)]
struct Opaque {
    /// The opaque state, because the message always writes it: 0 to 255, or 0x00 to 0xFF
    #[arg(long, env = "GWM_OPAQUE_STATE", value_name = "BYTE", default_value = "0", value_parser = target::byte)]
    opaque_state: u8,
}

#[derive(clap::Args)]
struct Who {
    /// UID of the load balancer: 1 to 64 bytes, as `gwm` shows them: `\xFF` is a byte; with --file, for groups without
    /// `lb`
    #[arg(long, env = "GWM_LB", value_name = "UID", value_parser = spec::lb_uid)]
    lb: Option<Box<[u8]>>,
    /// The group's name: 1 to 255 bytes, in the same form
    #[arg(long, env = "GWM_MEMBER_GROUP", value_name = "NAME", value_parser = spec::group_name, conflicts_with = "file")]
    group: Option<Box<[u8]>>,
    /// The member: IP:PORT (TCP), `[IPv6]:PORT/udp`, IP:PORT/NUMBER (IP protocol 0 to 255), or IP alone: a whole system
    #[arg(long, env = "GWM_MEMBER", value_name = "MEMBER", value_parser = spec::endpoint, conflicts_with = "file")]
    member: Option<Endpoint>,
    /// Instead, a TOML file of members: `[[group]]` (lb, name) and, below each, `[[group.member]]` (address, protocol,
    /// port, label; without protocol and port a whole system)
    #[arg(long, env = "GWM_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Who {
    /// The groups with their members, and the default LB.
    fn read(self, label: Option<Box<[u8]>>) -> Result<(Vec<GroupSpec>, Box<[u8]>), Failure> {
        let groups = match (self.file, self.group, self.member) {
            (Some(path), ..) => {
                spec::combine(&[], Some(&path), true).map_err(|error| Failure::Usage(error.to_string()))?
            }
            (None, Some(name), Some(endpoint)) => {
                vec![GroupSpec {
                    lb: None,
                    name,
                    members: vec![MemberSpec { endpoint, label: label.unwrap_or_default() }],
                }]
            }
            _ => return Err(Failure::Usage("no member is named: give --group and --member, or --file".into())),
        };
        if let Some(empty) = groups.iter().find(|group| group.members.is_empty()) {
            return Err(Failure::Usage(format!("group {} has no [[group.member]]", Escaped(&empty.name))));
        }
        match self.lb {
            None if groups.iter().any(|group| group.lb.is_none()) => {
                Err(Failure::Usage("whose group is it? give --lb UID (or `lb` in the file)".into()))
            }
            lb => Ok((groups, lb.unwrap_or_default())),
        }
    }
}

/// Runs `gwm member`.
pub fn run(args: Args) -> ExitCode {
    target::finish(args.target.read().and_then(|target| match args.command {
        Command::Register { who, label } => register(&target, who, label),
        Command::Deregister { who, reason } => deregister(&target, who, Reason(reason)),
        Command::Quiesce { who, opaque } => set_state(&target, who, opaque.opaque_state, true),
        Command::Resume { who, opaque } => set_state(&target, who, opaque.opaque_state, false),
        Command::State { value, who, quiesce } => set_state(&target, who, value, quiesce),
    }))
}

fn register(target: &Target, who: Who, label: Option<Box<[u8]>>) -> Result<(), Failure> {
    let (groups, lb) = who.read(label)?;
    let members = groups.iter().map(|group| (group.data(&lb), group.members.iter().map(|member| member.data())));
    target.connect()?.register(SenderFlags::NONE, members)?;
    done(ComponentType::REGISTRATION_REQUEST)
}

fn deregister(target: &Target, who: Who, reason: Reason) -> Result<(), Failure> {
    let (groups, lb) = who.read(None)?;
    let members = groups.iter().map(|group| (group.data(&lb), group.members.iter().map(|member| member.data())));
    target.connect()?.deregister(SenderFlags::NONE, reason, members)?;
    done(ComponentType::DEREGISTRATION_REQUEST)
}

fn set_state(target: &Target, who: Who, state: u8, quiesce: bool) -> Result<(), Failure> {
    let (groups, lb) = who.read(None)?;
    let flags = MemberFlags::NONE.with(MemberFlags::QUIESCE, quiesce);
    let states = groups.iter().map(|group| {
        let members = group.members.iter();
        (group.data(&lb), members.map(move |member| MemberState { member: member.data(), state, flags }))
    });
    target.connect()?.set_member_state(SenderFlags::NONE, states)?;
    done(ComponentType::SET_MEMBER_STATE_REQUEST)
}

//! The command line: one file a command, each with its own flags, `run` and exit status.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod decode;
pub mod demo;
mod groups;
pub mod lb;
pub mod member;
pub mod serve;
mod session;
mod table;
mod target;

/// Group Workload Manager: tells load balancers how much work each server can take (SASP, RFC 4678).
#[derive(Parser)]
#[command(name = "gwm", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the Group Workload Manager
    Serve(Box<serve::Args>),
    /// Act as a load balancer towards a GWM
    Lb(lb::Args),
    /// Act as a member (a server) towards a GWM
    Member(member::Args),
    /// Turn captured SASP bytes into readable messages
    Decode(decode::Args),
    /// Run a daemon, members whose weights move and a load balancer that follows, to see it work
    Demo(demo::Args),
}

/// Parses the process's arguments and runs the command; exit status 2 for usage, 1 for failure.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(*args),
        Command::Lb(args) => lb::run(args),
        Command::Member(args) => member::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Demo(args) => demo::run(args),
    }
}

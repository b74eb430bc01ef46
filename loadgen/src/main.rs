//! `gwm-loadgen`: plays load balancers and members against `gwm serve`, checks every byte, and measures.

mod actor;
mod floor;
mod model;
mod options;
mod player;
mod process;
mod report;
mod subject;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What went wrong, in words for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

/// Plays thousands of load balancers and members against a GWM over real sockets, checks every byte that it is sent,
/// and measures. Exit status: 0, 1 for anything wrong, 2 for wrong flags.
#[derive(Parser)]
#[command(name = "gwm-loadgen", version)]
struct Arguments {
    #[command(subcommand)]
    workload: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Weights change in a part of the members, tick by tick, and every load balancer is pushed what changed
    Fanout(workload::fanout::Fanout),

    /// The floor's own process
    #[command(name = floor::COMMAND, hide = true)]
    FloorProcess,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().workload {
        Command::Fanout(fanout) => workload::run(&fanout, &fanout.common),
        Command::FloorProcess => floor::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gwm-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

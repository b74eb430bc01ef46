//! `gwm serve`.

use std::process::ExitCode;

/// Flags of `gwm serve`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `gwm serve`.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}

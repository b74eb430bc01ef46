//! `gwm member`.

use std::process::ExitCode;

/// Flags of `gwm member`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `gwm member`.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}

//! `gwm demo`.

use std::process::ExitCode;

/// Flags of `gwm demo`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `gwm demo`.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}

//! `gwm decode`.

use std::process::ExitCode;

/// Flags of `gwm decode`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `gwm decode`.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}

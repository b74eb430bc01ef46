//! `gwm lb`.

use std::process::ExitCode;

/// Flags of `gwm lb`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `gwm lb`.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}

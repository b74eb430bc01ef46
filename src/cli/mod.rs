//! The command line: one file a command, each with its own flags, `run` and exit status.
//!
//! To add a command: add a file here with `Args` (clap) and `run(args) -> ExitCode`; add it to `Command` and to
//! [`main`]; give each flag an environment variable, unit, range and default; add what its
//! help does not say as a page of `src/manual/`, and tests in `tests/process/`. A command that speaks to a GWM takes its connection flags from `target.rs`.

use std::{
    env,
    ffi::OsString,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    agent::children::begin_again_small,
    config::{
        ConfigError, Given,
        file::{self, ConfigFile},
    },
};

pub mod agent;
pub mod completions;
pub mod connect;
pub mod decode;
pub mod demo;
pub mod lb;
mod meant;
pub mod member;
#[cfg(feature = "admin")]
pub mod operator;
pub mod serve;
pub mod state;
mod table;
mod target;

/// What `--version` says; `-V` says the number only.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("GWM_BUILD_COMMIT"),
    "\nfeatures: ",
    env!("GWM_BUILD_FEATURES"),
    "\ntarget: ",
    env!("GWM_BUILD_TARGET"),
);

/// The text below the commands in `--help`.
const BEGIN: &str = "\
To begin: `gwm demo` shows all of it on this machine. `gwm serve` is the daemon, and needs no flag. The manual pages gwm(7) \
and gwm-tour(7) explain the words and the first five minutes. Without the package, the pages are the files of src/manual in \
the source.";

/// Group Workload Manager: tells load balancers how much work each server can take (SASP, RFC 4678).
#[derive(Parser)]
#[command(name = "gwm", version, long_version = VERSION, disable_help_subcommand = true, after_help = BEGIN)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the Group Workload Manager
    #[command(after_help = serve::HELP)]
    Serve(Box<serve::Args>),
    /// Act as a load balancer towards a GWM
    Lb(lb::Args),
    /// Make a load balancer that speaks no SASP use the weights of a GWM
    Connect(Box<connect::Args>),
    /// Act as a member (a server) towards a GWM
    Member(member::Args),
    /// Keep the services of this host registered with GWMs, and let them leave without a lost request
    Agent(Box<agent::Args>),
    /// Show what a running daemon knows, by its admin side
    #[cfg(feature = "admin")]
    Status(operator::status::Args),
    /// Take members out of service at a running daemon, by its admin side
    #[cfg(feature = "admin")]
    Quiesce(operator::write::QuiesceArgs),
    /// End what `gwm quiesce` began
    #[cfg(feature = "admin")]
    Resume(operator::write::ResumeArgs),
    /// Fix the weight of a member at a running daemon, or release it
    #[cfg(feature = "admin")]
    Weight(operator::write::WeightArgs),
    /// Look at the state on disk, and copy it
    State(state::Args),
    /// Turn captured SASP bytes into readable messages
    Decode(decode::Args),
    /// Print the script that completes the words of `gwm` in a shell
    Completions(completions::Args),
    /// Run a daemon, members whose weights move, and a load balancer that follows, as a demonstration
    Demo(demo::Args),
}

/// All commands with their flags, as clap has them: for the manual.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the process's arguments and runs the command; exit status 2 for usage, 1 for failure.
pub fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|word| word == "agent") {
        begin_again_small();
    }
    match parse() {
        Ok(Cli { command: Command::Serve(args) }) => serve::run(*args),
        Ok(Cli { command: Command::Lb(args) }) => lb::run(args),
        Ok(Cli { command: Command::Connect(args) }) => connect::run(*args),
        Ok(Cli { command: Command::Member(args) }) => member::run(args),
        Ok(Cli { command: Command::Agent(args) }) => agent::run(*args),
        #[cfg(feature = "admin")]
        Ok(Cli { command: Command::Status(args) }) => operator::status::run(args),
        #[cfg(feature = "admin")]
        Ok(Cli { command: Command::Quiesce(args) }) => operator::write::quiesce(args),
        #[cfg(feature = "admin")]
        Ok(Cli { command: Command::Resume(args) }) => operator::write::resume(args),
        #[cfg(feature = "admin")]
        Ok(Cli { command: Command::Weight(args) }) => operator::write::weight(args),
        Ok(Cli { command: Command::State(args) }) => state::run(args),
        Ok(Cli { command: Command::Decode(args) }) => decode::run(args),
        Ok(Cli { command: Command::Completions(args) }) => completions::run(args),
        Ok(Cli { command: Command::Demo(args) }) => demo::run(args),
        Err(Unread::File(error)) => {
            complain(format_args!("gwm: {error}"));
            ExitCode::FAILURE
        }
        Err(Unread::Words(mut error, file)) => {
            let words: Vec<String> = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            meant::advise(&mut error, &command(), &words);
            let status = show(&error);
            if error.use_stderr() {
                // The usage names every flag that is given.
                let text = error.to_string();
                tell_places(file.as_ref(), text.split("Usage:").next().unwrap_or_default());
            }
            status
        }
    }
}

/// Why there is no command to run.
enum Unread {
    /// The file of `--config` can not be used.
    File(ConfigError),
    /// What clap says about the arguments, which have what the file says.
    Words(clap::Error, Option<ConfigFile>),
}

fn parse() -> Result<Cli, Unread> {
    let words = meant::usual(env::args_os().collect());
    let (words, file) = match words.get(1).is_some_and(|word| word == "serve") {
        true => file::with_file(words).map_err(Unread::File)?,
        false => (words, None),
    };
    let mut command = Cli::command();
    let cli = command.try_get_matches_from_mut(words).and_then(|mut matches| {
        let given = matches.subcommand_matches("serve").map(|matches| Given::of(matches, file.clone()));
        let mut cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
        if let (Command::Serve(flags), Some(given)) = (&mut cli.command, given) {
            flags.given = given;
        }
        Ok(cli)
    });
    cli.map_err(|error| Unread::Words(error, file))
}

/// Shows clap's text: help, version, or the error of the arguments.
fn show(answer: &clap::Error) -> ExitCode {
    let shown = answer.print();
    if answer.use_stderr() {
        if answer.kind() == ErrorKind::InvalidUtf8 {
            complain("note: a byte that is not UTF-8 text is written \\xFF, as `gwm` shows it");
        }
        if let Some(variable) = variable_of(answer) {
            complain(format_args!("note: the value is that of {variable} in the environment"));
        }
        return ExitCode::from(2);
    }
    written(shown)
}

/// The environment variable that a refused value came from, if the value was not an argument.
fn variable_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = shown.split([' ', '=', '[']).next()?; // of `--shards <N>` or `--spin[=<DURATION>]`
    let given = env::args_os().any(|argument| {
        let argument = argument.to_string_lossy();
        argument.split_once('=').map_or(&*argument, |(name, _)| name) == flag
    });
    let set = |variable: &OsString| env::var_os(variable).is_some();
    let variable = variables(&Cli::command(), flag.strip_prefix("--")?).into_iter().find(set)?;
    (!given).then(|| variable.to_string_lossy().into_owned())
}

/// The variables of all flags with this name, which may differ by command.
fn variables(command: &clap::Command, flag: &str) -> Vec<OsString> {
    let own = command.get_arguments().filter(|argument| argument.get_long() == Some(flag));
    let own = own.filter_map(|argument| argument.get_env().map(OsString::from));
    own.chain(command.get_subcommands().flat_map(|command| variables(command, flag))).collect()
}

/// Says which of the flags that a text names are in the file.
fn tell_places(file: Option<&ConfigFile>, text: &str) {
    for (flag, place) in file.map(|file| file.places_in(text)).unwrap_or_default() {
        complain(format_args!("note: {flag} is from {place}"));
    }
}

/// Writes a line on stderr. If that fails, the exit status still tells.
fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The exit status of a command that has written its output.
fn written(outcome: io::Result<()>) -> ExitCode {
    target::finish(outcome.map_err(target::Failure::from))
}

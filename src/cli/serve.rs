//! `gwm serve`: checks flags and machine, then hands over to the runtime.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::{
    config::{Config, ConfigError},
    runtime,
};

/// Flags of `gwm serve`.
pub use crate::config::Flags as Args;

/// The text below the flags in `--help`.
pub(super) const HELP: &str = "\
The daemon needs no flag: it listens on 127.0.0.1:3860, checks the members that load balancers register, and tells the \
load balancers their weights. With a file of members, and open to `gwm status` and to a browser:

  gwm serve --members members.toml --admin-listen 127.0.0.1:9860

SIGTERM and Ctrl-C end it, SIGHUP reads its files again. Exit status: 0 after a signal or a good --check, 1 failed, 2 \
wrong usage.";

/// Runs `gwm serve`: exit status 2 for flags that do not go together, 1 for a failure, 0 after a stop.
pub fn run(args: Args) -> ExitCode {
    // Before the first file is read, because that may take seconds. Without serving, a signal ends the process.
    let serves = !args.check && !args.print_config;
    let inbox = match serves.then(runtime::watch_signals).transpose() {
        Ok(inbox) => inbox,
        Err(error) => return failure(&error),
    };
    let config = Config::new(&args, &runtime::host());
    // Before the mistakes are told: the sources of the values may tell how they came about.
    if args.print_config
        && let Err(error) = write!(io::stdout(), "{}", args.given.toml(config.as_ref().ok()))
    {
        return super::written(Err(error));
    }
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let text = error.to_string();
            super::complain(format_args!("gwm: {text}"));
            super::tell_places(args.given.file(), &text);
            return ExitCode::from(if matches!(error, ConfigError::Usage(_)) { 2 } else { 1 });
        }
    };
    if args.print_config && !args.check {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = runtime::prepare(&config) {
        return failure(&error);
    }
    let Some(inbox) = inbox else { return check(&config) };
    let logging = runtime::start_logging(args.log_level, args.log_format, runtime::LOG_LINES);
    let result = runtime::serve(config, inbox);
    drop(logging);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// What `--check` looks at beside flags, files and the machine, and what it says.
fn check(config: &Config) -> ExitCode {
    let about_state = match config.state.as_ref().map(runtime::look_at_state).transpose() {
        Ok(note) => note.flatten(),
        Err(error) => return failure(&error),
    };
    for warning in config.warnings.iter().chain(&about_state) {
        super::complain(format_args!("gwm: warning: {warning}"));
    }
    super::written(writeln!(io::stdout(), "gwm: the configuration is valid"))
}

fn failure(error: &runtime::Error) -> ExitCode {
    runtime::last_words(error.to_string());
    ExitCode::FAILURE
}

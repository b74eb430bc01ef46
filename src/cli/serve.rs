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

/// Runs `gwm serve`: exit status 2 for flags that do not go together, 1 for a failure, 0 after a stop.
pub fn run(args: Args) -> ExitCode {
    // Before the first file is read, because that may take seconds. With --check, a signal ends the process.
    let inbox = match (!args.check).then(runtime::watch_signals).transpose() {
        Ok(inbox) => inbox,
        Err(error) => return failure(&error),
    };
    let config = match Config::new(&args, &runtime::host()) {
        Ok(config) => config,
        Err(error) => {
            super::complain(format_args!("gwm: {error}"));
            return ExitCode::from(if matches!(error, ConfigError::Usage(_)) { 2 } else { 1 });
        }
    };
    if let Err(error) = runtime::prepare(&config) {
        return failure(&error);
    }
    let Some(inbox) = inbox else {
        config.warnings.iter().for_each(|warning| super::complain(format_args!("gwm: warning: {warning}")));
        return super::written(writeln!(io::stdout(), "gwm: the configuration is valid"));
    };
    let logging = runtime::start_logging(args.log_level, args.log_format);
    let result = runtime::serve(config, inbox);
    drop(logging);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

fn failure(error: &runtime::Error) -> ExitCode {
    runtime::last_words(error.to_string());
    ExitCode::FAILURE
}

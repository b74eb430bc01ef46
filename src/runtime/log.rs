//! Logging: from the cores into a queue, from there to stderr by a thread of its own, so that a terminal or a pipe
//! that is stuck never stalls a core. What does not fit into the queue is lost.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;

use crate::config::{LogFormat, LogLevel};

/// Starts logging for the whole process; what is queued is written when the guard is dropped.
pub fn start(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_writer(writer).with_max_level(level).with_target(false);
    // A second start in one process (a test) keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => {
            tracing::subscriber::set_global_default(builder.with_ansi(std::io::stderr().is_terminal()).finish())
        }
        LogFormat::Json => tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish()),
    };
    guard
}

//! Logging: threads put lines into a queue, and a thread of its own writes them to stderr, so that a stuck terminal or
//! pipe never stalls a shard. Lines that do not fit into the queue are lost, and counted.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, Write},
    panic::{PanicHookInfo, set_hook},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

use crate::config::{LogFormat, LogLevel};

/// Lines in the queue of a daemon or a connector: enough for some seconds at the highest rate of the default level. Each
/// takes 32 bytes from the start on.
pub const LOG_LINES: usize = 8192;

/// How long the last line of a process may take, which is not queued.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Counts the lost lines.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging for the whole process, with panics, and a queue of so many lines. Dropping the guard writes the lines in
/// the queue.
pub fn start(level: LogLevel, format: LogFormat, lines: usize) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(lines).finish(std::io::stderr());
    let lost = writer.error_counter();
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_writer(writer).with_max_level(level).with_target(false);
    let set = match format {
        LogFormat::Text => {
            tracing::subscriber::set_global_default(builder.with_ansi(std::io::stderr().is_terminal()).finish())
        }
        LogFormat::Json => tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish()),
    };
    // A second start in one process, as in a test, keeps the settings of the first.
    if set.is_ok() {
        let _ = LOST.set(lost);
        // A shard goes on after the panic of one connection, so the hook must not wait for stderr either.
        set_hook(Box::new(log_panic));
    }
    guard
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let current = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    tracing::error!(thread = current.name(), backtrace, "{panic}");
}

/// Logs how many lines were lost since there were `told`, and updates `told`.
pub(super) fn report_lost(told: &mut usize) {
    let lost = LOST.get().map_or(0, ErrorCounter::dropped_lines);
    if lost > *told {
        tracing::warn!(lines = lost - *told, "log lines were lost: stderr is not read as fast as they come");
        *told = lost;
    }
}

/// Writes to stderr why the process ends. A stuck or closed terminal or pipe delays the end by `LAST_WORDS` at most.
pub fn last_words(line: String) {
    let (done, written) = mpsc::channel();
    let write = move || {
        let _ = writeln!(std::io::stderr(), "gwm: {line}");
        let _ = done.send(());
    };
    // If no thread can be started, the line is not written.
    if thread::Builder::new().name("last-words".into()).spawn(write).is_ok() {
        let _ = written.recv_timeout(LAST_WORDS);
    }
}

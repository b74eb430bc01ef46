//! Logging: from the cores into a queue, from there to stderr by a thread of its own, so that a terminal or a pipe
//! that is stuck never stalls a core. What does not fit into the queue is lost, and counted.

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

/// Lines in the queue: some seconds' worth of the most that is logged at the default level.
const LINES: usize = 8192;

/// How long a line may take that is not queued, because the process is about to end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Counts the lines that were lost.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging for the whole process, panics among it; what is queued is written when the guard is dropped.
pub fn start(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES).finish(std::io::stderr());
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
    // A second start in one process (a test) keeps the first one's settings.
    if set.is_ok() {
        let _ = LOST.set(lost);
        // A shard outlives the panic of one connection, so this must not wait for stderr either.
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

/// Logs how many lines were lost since `told`, which it brings up to date.
pub(super) fn report_lost(told: &mut usize) {
    let lost = LOST.get().map_or(0, ErrorCounter::dropped_lines);
    if lost > *told {
        tracing::warn!(lines = lost - *told, "log lines were lost: stderr is not read as fast as they come");
        *told = lost;
    }
}

/// Says on stderr why the process is about to end, which a terminal or a pipe that is stuck or gone must not prevent.
pub fn last_words(line: String) {
    let (told, heard) = mpsc::channel();
    let say = move || {
        let _ = writeln!(std::io::stderr(), "gwm: {line}");
        let _ = told.send(());
    };
    // Without a thread to be had it stays unsaid.
    if thread::Builder::new().name("last-words".into()).spawn(say).is_ok() {
        let _ = heard.recv_timeout(LAST_WORDS);
    }
}

//! `gwm state`: looks at the state on disk, and copies it, while no daemon runs.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use crate::journal::{Epoch, Row, Store, StoreError, directory, text};

const HELP: &str = "\
No daemon may run on the directory meanwhile. Exit status: 0 done, 1 refused or failed, 2 wrong usage.";

/// Flags of `gwm state`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write everything that is kept to stdout, one JSON object a line
    #[command(after_help = HELP)]
    Export(Directory),
    /// Read what `gwm state export` wrote from stdin, into a directory whose state has no rows
    #[command(after_help = HELP)]
    Import(Directory),
    /// Compare all checksums and read all rows; changes nothing
    #[command(after_help = HELP)]
    Check(Directory),
}

#[derive(clap::Args)]
struct Directory {
    /// The directory of `gwm serve --state`
    #[arg(long, env = "GWM_STATE", value_name = "DIR")]
    state: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let (directory, done) = match args.command {
        Command::Export(directory) => (directory.state.clone(), export(&directory.state)),
        Command::Import(directory) => (directory.state.clone(), import(&directory.state)),
        Command::Check(directory) => (directory.state.clone(), check(&directory.state)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(format_args!("gwm state: {}: {error}", directory.display()));
            ExitCode::FAILURE
        }
    }
}

/// Opens a state that must be there, to read it.
fn open(directory: &Path) -> Result<Store, String> {
    let file = directory::file(directory);
    let length = fs::metadata(&file).map_err(|error| format!("no state: {error}"))?.len();
    if length == 0 {
        // To open it would make an empty state of it.
        return Err("no state: the file is empty".into());
    }
    Store::open_unchanged(&file).map_err(told)
}

fn told(error: StoreError) -> String {
    match error {
        StoreError::Busy => format!("{error}: stop the daemon first"),
        error => error.to_string(),
    }
}

fn export(directory: &Path) -> Result<(), String> {
    let store = open(directory)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let failed = |error: io::Error| StoreError::Disk(format!("stdout: {error}"));
    let written = writeln!(out, "{}", text::first_line(store.past()))
        .map_err(failed)
        .and_then(|()| store.each_row(Epoch::default(), |row| writeln!(out, "{}", text::line(&row)).map_err(failed)));
    written.and_then(|()| out.flush().map_err(failed)).map_err(told)
}

/// The lines of stdin, with their numbers.
struct Lines<R> {
    input: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<String>, String> {
        let mut line = Vec::new();
        let most = text::LINE_BYTES as u64;
        let read = (&mut self.input).take(most + 1).read_until(b'\n', &mut line);
        read.map_err(|error| format!("stdin: {error}"))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if line.len() as u64 > most {
            return Err(self.wrong("it is too long"));
        }
        String::from_utf8(line).map(Some).map_err(|_| self.wrong("it is not UTF-8"))
    }

    fn wrong(&self, why: impl std::fmt::Display) -> String {
        format!("line {}: {why}", self.number)
    }
}

/// The rows of all further lines.
impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.line() {
            Ok(line) => line?,
            Err(error) => return Some(Err(StoreError::Disk(error))),
        };
        Some(text::read_line(&line).map_err(|error| StoreError::Disk(self.wrong(error))))
    }
}

fn import(directory: &Path) -> Result<(), String> {
    let mut lines = Lines { input: BufReader::new(io::stdin().lock()), number: 0 };
    let first = lines.line()?.unwrap_or_default();
    let past = text::read_first_line(&first).map_err(|error| lines.wrong(error))?;
    directory::prepare(directory).map_err(|error| error.to_string())?;
    let mut store = Store::open(&directory::file(directory)).map_err(told)?;
    if !store.is_empty().map_err(told)? {
        return Err("there is a state: import into another directory, or move the file away".into());
    }
    let filled = store.fill(past, lines.by_ref(), Epoch::default());
    filled.map_err(|error| match error {
        StoreError::Damaged(what) => lines.wrong(what),
        error => told(error),
    })
}

fn check(directory: &Path) -> Result<(), String> {
    let store = open(directory)?;
    let rows = store.check().map_err(told)?;
    let starts = store.past().starts;
    let closed = match Store::is_closed(&directory::file(directory)).map_err(told)? {
        true => "",
        false => "; the last daemon has not closed it, and the next start mends that",
    };
    let text = format!("{rows} rows (words, load balancers, groups, verdicts), starts of daemons: {starts}{closed}");
    writeln!(io::stdout(), "gwm: the state is whole: {text}").map_err(|error| error.to_string())
}

//! Names of a running daemon, for the completion of words in shells.

use std::{collections::BTreeSet, env, time::Duration};

use clap::{Args, Command, FromArgMatches};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use serde_json::Value;

use super::{Flags, ask::Daemon, show};

/// A person waits: without an answer by then there are no names.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most rows that are asked for: one page.
const ROWS: usize = 1000;

/// Names of groups.
pub(super) fn groups() -> ArgValueCandidates {
    names("groups", "groups", |row| text(&row["group"]))
}

/// UIDs of load balancers.
pub(super) fn load_balancers() -> ArgValueCandidates {
    names("load-balancers", "load_balancers", |row| text(&row["uid"]))
}

/// Members as `place` reads them.
pub(super) fn members() -> ArgValueCandidates {
    names("members", "members", |row| Some(show::endpoint(row)))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn names(path: &'static str, field: &'static str, name: fn(&Value) -> Option<String>) -> ArgValueCandidates {
    ArgValueCandidates::new(move || {
        let rows = daemon().and_then(|daemon| Some(daemon.list(path, field, &[], ROWS).ok()?.0)).unwrap_or_default();
        // A name is text without control characters, but a shell must not depend on that.
        let clean = |name: &String| !name.chars().any(char::is_control);
        let names: BTreeSet<String> = rows.iter().filter_map(name).filter(clean).collect();
        names.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// The daemon that the words of the command line name so far, or the environment.
fn daemon() -> Option<Daemon> {
    let words = env::args_os().skip_while(|word| word != "--");
    let flags = Flags::augment_args(Command::new("gwm")).no_binary_name(true);
    let known = |word: &str| ["--admin", "--token-file", "--timeout"].contains(&word);
    let mut given = Vec::new();
    let mut words = words.filter_map(|word| word.into_string().ok());
    while let Some(word) = words.next() {
        if known(word.split('=').next().unwrap_or_default()) {
            let value = if word.contains('=') { None } else { words.next() };
            given.push(word);
            given.extend(value);
        }
    }
    let matches = flags.try_get_matches_from(given).ok()?;
    let daemon = Flags::from_arg_matches(&matches).ok()?.daemon().ok()?;
    Some(Daemon { timeout: daemon.timeout.min(PATIENCE), ..daemon })
}

//! The file of `--config`: the flags of `gwm serve` in TOML.
//!
//! A key is a flag's name; its kind, range and meaning are those of the flag's definition, so that no flag can be missing
//! here. What the file says is put behind the arguments of the command line, as if a person had written it there, unless
//! an argument or the environment has the flag.

use std::{
    any::TypeId,
    collections::BTreeSet,
    ffi::OsString,
    fmt, iter,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, Id,
    builder::Resettable,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{ConfigError, Flags};
use crate::files::{self, Fault, FileError, Mistake, fault};

/// The longest file. All flags with a page of comments each have less, and a parsed text takes forty times its bytes.
const FILE_BYTES: u64 = 256 << 10;

/// Flags that concern one call, and so have no key.
pub const WITHOUT_KEY: [&str; 4] = ["config", "print-config", "check", "takeover"];

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The flag's name without the dashes.
    flag: String,
    /// From 1.
    line: usize,
    value: Value,
    /// Neither an argument nor the environment has the flag.
    counts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Switch(bool),
    /// The values of a flag that takes one or more.
    Texts(Vec<OsString>),
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// The flags of `gwm serve`, each for itself: without what a flag needs beside it, and without the environment, but for
/// --config.
fn bare() -> Command {
    let alone = |argument: Arg| {
        let argument = argument.requires(Resettable::<Id>::Reset);
        if argument.get_id() == "config" { argument } else { argument.env(None::<&'static str>) }
    };
    Flags::augment_args(Command::new("serve")).no_binary_name(true).mut_args(alone)
}

/// Adds what the file says to the words of a command line, the first of which are `gwm serve`. Words that are wrong get no
/// file: the parser of the whole line says what is wrong.
pub fn with_file(mut words: Vec<OsString>) -> Result<(Vec<OsString>, Option<ConfigFile>), ConfigError> {
    let flags = Flags::augment_args(Command::new("serve"));
    let variable = |flag: &str| flags.get_arguments().find(|argument| argument.get_long() == Some(flag))?.get_env();
    let Ok(matches) = bare().try_get_matches_from(words.iter().skip(2)) else { return Ok((words, None)) };
    let Some(path) = matches.get_one::<PathBuf>("config") else { return Ok((words, None)) };
    let mut file = ConfigFile { path: path.clone(), entries: read(path)? };
    for entry in &mut file.entries {
        let is_set = variable(&entry.flag).and_then(std::env::var_os).is_some();
        entry.counts = !is_set && !is_argument(&matches, &entry.flag);
        if entry.counts {
            words.extend(entry.arguments());
        }
    }
    Ok((words, Some(file)))
}

fn is_argument(matches: &ArgMatches, flag: &str) -> bool {
    matches.value_source(&flag.replace('-', "_")) == Some(ValueSource::CommandLine)
}

impl Entry {
    /// The arguments that say the same.
    fn arguments(&self) -> Vec<OsString> {
        let flag = format!("--{}", self.flag);
        match &self.value {
            Value::Switch(on) => on.then(|| flag.into()).into_iter().collect(),
            Value::Texts(texts) => {
                let argument = |text: &OsString| [flag.as_ref(), "=".as_ref(), text.as_os_str()].into_iter().collect();
                texts.iter().map(argument).collect()
            }
        }
    }
}

impl ConfigFile {
    /// Where the file gives a flag the value that is in force.
    pub fn place(&self, flag: &str) -> Option<Place> {
        let entry = self.entries.iter().find(|entry| entry.counts && entry.flag == flag)?;
        Some(Place { path: self.path.clone(), line: entry.line })
    }

    /// The places of all flags that a text names and that this file gives their values.
    pub fn places_in(&self, text: &str) -> Vec<(String, Place)> {
        let is_in_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        let names = |flag: &str| {
            let mut ends = text.match_indices(flag).map(|(at, _)| at + flag.len());
            ends.any(|end| !text.as_bytes().get(end).is_some_and(is_in_name))
        };
        let flags = self.entries.iter().map(|entry| (format!("--{}", entry.flag), self.place(&entry.flag)));
        flags.filter(|(flag, _)| names(flag)).filter_map(|(flag, place)| Some((flag, place?))).collect()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again; gives the flags for which it says something else now.
    pub fn changes(&self) -> Result<Vec<String>, FileError> {
        let now = read(&self.path)?;
        let value = |entries: &[Entry], flag: &str| {
            entries.iter().find(|entry| entry.flag == flag).map(|entry| entry.value.clone())
        };
        let flags: BTreeSet<&String> = self.entries.iter().chain(&now).map(|entry| &entry.flag).collect();
        let changed = flags.into_iter().filter(|flag| value(&self.entries, flag) != value(&now, flag));
        Ok(changed.map(|flag| format!("--{flag}")).collect())
    }
}

/// Reads a file. Names of files in it are relative to it.
fn read(path: &Path) -> Result<Vec<Entry>, FileError> {
    let text = files::read(path, "configuration", FILE_BYTES)?;
    parse(&text, path.parent().unwrap_or(Path::new(""))).map_err(|mistake| mistake.of(path))
}

/// Parses the file's text; gives the arguments that say the same.
pub fn arguments(text: &str, folder: &Path) -> Result<Vec<OsString>, Mistake> {
    Ok(parse(text, folder)?.iter().flat_map(Entry::arguments).collect())
}

fn parse(text: &str, folder: &Path) -> Result<Vec<Entry>, Mistake> {
    let mistake = |fault| Mistake::at(text, fault);
    let table = DeTable::parse(text).map_err(|error| mistake(files::explained(text, &error)))?;
    let flags = bare();
    let entries = table.get_ref().iter().map(|(key, value)| {
        let (flag, value) = entry(key, value, &flags, folder).map_err(mistake)?;
        Ok(Entry { flag, line: files::line(text.as_bytes(), key.span().start), value, counts: true })
    });
    let mut entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn entry(
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    flags: &Command,
    folder: &Path,
) -> Result<(String, Value), Fault> {
    let (name, at) = (key.get_ref().as_ref(), key.span().start);
    if WITHOUT_KEY.contains(&name) {
        return fault(at, format!("--{name} concerns one call: it is for the command line only"));
    }
    let Some(flag) = flags.get_arguments().find(|flag| flag.get_long() == Some(name)) else {
        return fault(at, unknown(name, flags));
    };
    let at = value.span().start;
    let value = match (flag.get_action(), value.get_ref()) {
        (ArgAction::SetTrue, DeValue::Boolean(on)) => return Ok((name.into(), Value::Switch(*on))),
        (ArgAction::SetTrue, _) => return fault(at, format!("{name} is true or false")),
        (ArgAction::Append, DeValue::Array(values)) => {
            values.iter().map(|value| plain(name, flag, value, folder)).collect::<Result<_, _>>()?
        }
        _ => vec![plain(name, flag, value, folder)?],
    };
    Ok((name.into(), Value::Texts(value)))
}

/// A single value as an argument has it, if the flag takes that.
fn plain(name: &str, flag: &Arg, value: &Spanned<DeValue<'_>>, folder: &Path) -> Result<OsString, Fault> {
    let at = value.span().start;
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        other => {
            let kind = if other.is_table() { "a table" } else { other.type_str() };
            let list = if matches!(flag.get_action(), ArgAction::Append) { ", or a list of them" } else { "" };
            return fault(at, format!("{name} is a text or a number{list}, not {kind}"));
        }
    };
    let is_file = flag.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    let text = if is_file && !text.is_empty() { folder.join(text).into_os_string() } else { OsString::from(text) };
    let argument: OsString = [format!("--{name}=").as_ref(), text.as_os_str()].into_iter().collect();
    let parser = Command::new("serve").no_binary_name(true).arg(flag.clone());
    match parser.try_get_matches_from(iter::once(argument)) {
        Ok(_) => Ok(text),
        Err(error) => {
            // As in "error: invalid value '5' for '--hold-time <DURATION>': `5` has no unit", until a blank line.
            let said = error.to_string();
            let said = said.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
            let said = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(flag)) => said.replace(&format!(" for '{flag}'"), ""),
                _ => said,
            };
            let said = said.trim_start_matches("error: ");
            fault(at, format!("{name}: {said}"))
        }
    }
}

/// What is said about a key that no flag has.
fn unknown(name: &str, flags: &Command) -> String {
    let dashed = name.replace('_', "-");
    let near = if flags.get_arguments().any(|flag| flag.get_long() == Some(&dashed)) {
        Some(dashed)
    } else {
        let error = flags.clone().try_get_matches_from([format!("--{dashed}")]).err();
        match error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg)) {
            Some(ContextValue::String(flag)) => Some(flag.trim_start_matches('-').to_owned()),
            _ => None,
        }
    };
    let near = near.map_or_else(String::new, |near| format!("; is {near} meant?"));
    format!("unknown key \"{}\": the keys are the names of the flags of `gwm serve`{near}", name.escape_debug())
}

#[cfg(test)]
mod tests;

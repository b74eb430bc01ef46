//! What is in force, and where each value came from.

use std::{collections::BTreeSet, fmt, fmt::Write};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command,
    parser::{RawValues, ValueSource},
};

use super::{
    Carries, Config, Flags,
    file::{ConfigFile, Place, WITHOUT_KEY},
};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An argument.
    Flag,
    /// The environment.
    Environment,
    /// A line of the file of `--config`.
    File(Place),
    /// The flag's default, or what the daemon chose.
    Default,
}

impl Source {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Flag => "flag",
            Source::Environment => "environment",
            Source::File(_) => "file",
            Source::Default => "default",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(place) => place.fmt(f),
            other => f.write_str(other.name()),
        }
    }
}

/// A flag with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As in `--hold-time`.
    pub flag: String,
    /// The value as a person writes it; more than one with commas between.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
}

/// The flags that are given, by argument, environment variable or file, and the values of all.
#[derive(Clone, Debug, Default)]
pub struct Given {
    names: BTreeSet<String>,
    settings: Vec<Setting>,
    file: Option<ConfigFile>,
}

impl Given {
    /// The given flags of a command, the arguments of which have what the file says.
    pub fn of(matches: &ArgMatches, file: Option<ConfigFile>) -> Given {
        let flags = Flags::augment_args(Command::new("serve"));
        let setting = |argument: &Arg| {
            let (id, flag) = (argument.get_id().as_str(), argument.get_long().unwrap_or_default());
            let texts = |values: RawValues<'_>| {
                values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
            };
            let value = match argument.get_action() {
                ArgAction::SetTrue => Some(matches.get_flag(id).to_string()),
                _ => matches.try_get_raw(id).ok().flatten().map(texts),
            };
            let source = match (file.as_ref().and_then(|file| file.place(flag)), matches.value_source(id)) {
                (Some(place), _) => Source::File(place),
                (None, Some(ValueSource::CommandLine)) => Source::Flag,
                (None, Some(ValueSource::EnvVariable)) => Source::Environment,
                _ => Source::Default,
            };
            Setting { flag: format!("--{flag}"), value, source }
        };
        let settings: Vec<Setting> = flags.get_arguments().map(setting).collect();
        let given = settings.iter().filter(|setting| setting.source != Source::Default);
        let names = given.map(|setting| setting.flag.trim_start_matches('-').to_owned()).collect();
        Given { names, settings, file }
    }

    /// Whether a flag, named without the dashes, is given.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.names.contains(flag)
    }

    /// The file of `--config`.
    pub fn file(&self) -> Option<&ConfigFile> {
        self.file.as_ref()
    }

    /// All flags with their values, and for those without, what the daemon chose, if that is known yet.
    pub fn settings(&self, config: Option<&Config>) -> Vec<Setting> {
        let chosen = config.map(chosen).unwrap_or_default();
        let shown = |setting: &Setting| {
            let value = || Some(chosen.iter().find(|(flag, _)| *flag == setting.flag)?.1.clone());
            Setting { value: setting.value.clone().or_else(value), ..setting.clone() }
        };
        self.settings.iter().map(shown).collect()
    }

    /// The settings as a file for `--config`: what is given as lines, and what is not given as comments.
    pub fn toml(&self, config: Option<&Config>) -> String {
        let flags = Flags::augment_args(Command::new("serve"));
        let mut text = format!(
            "# gwm {}: what is in force, and where each value came from. Lines that begin with # are as they are without \
             this file.\n",
            env!("CARGO_PKG_VERSION")
        );
        for (setting, flag) in self.settings(config).iter().zip(flags.get_arguments()) {
            let name = setting.flag.trim_start_matches('-');
            if WITHOUT_KEY.contains(&name) {
                continue;
            }
            let mark = if setting.source == Source::Default { "#" } else { "" };
            let written = match &setting.value {
                Some(value) => writeln!(text, "{mark}{name} = {}  # {}", toml_value(flag, value), setting.source),
                None => writeln!(text, "# {name} is not given"),
            };
            written.expect("a text takes everything");
        }
        text
    }
}

/// What the daemon chose, for flags that have no fixed default.
fn chosen(config: &Config) -> Vec<(&'static str, String)> {
    let listen = config.listen.iter().filter(|listen| listen.carries != Carries::Tls);
    let listen: Vec<String> = listen.map(|listen| listen.address.to_string()).collect();
    let shards = config.shard_cpus.iter().filter(|cpu| **cpu != config.coordinator_cpu);
    let mut cpus = vec![config.coordinator_cpu.to_string()];
    for cpu in shards.map(usize::to_string) {
        if !cpus.contains(&cpu) {
            cpus.push(cpu);
        }
    }
    let default = config.settings.roster.default_member();
    let duration = |duration| humantime::format_duration(duration).to_string();
    vec![
        ("--listen", listen.join(",")),
        ("--shards", config.shard_cpus.len().to_string()),
        ("--cpus", cpus.join(",")),
        ("--max-connections", config.connections.max.to_string()),
        ("--max-connections-per-source", config.connections.max_per_source.to_string()),
        ("--max-memberships-per-lb", config.settings.max_memberships_per_lb.to_string()),
        ("--max-probes", config.monitoring.max_probes.to_string()),
        ("--probe-fast-interval", duration(default.times.fast_interval)),
        ("--probe-timeout", duration(default.times.timeout)),
        ("--report-lifetime", duration(default.reports.lifetime)),
    ]
}

/// A value in TOML, of which [`ConfigFile`] makes the same argument again.
fn toml_value(flag: &Arg, value: &str) -> String {
    let text = |value: &str| {
        let mut text = String::from('"');
        for character in value.chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                control if control.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(control))),
                other => text.push(other),
            }
        }
        text + "\""
    };
    match flag.get_action() {
        ArgAction::SetTrue => value.to_owned(),
        ArgAction::Append if value.is_empty() => "[]".to_owned(),
        ArgAction::Append => format!("[{}]", value.split(',').map(text).collect::<Vec<_>>().join(", ")),
        _ if value.parse::<i64>().is_ok_and(|number| number.to_string() == value) => value.to_owned(),
        _ => text(value),
    }
}

//! `gwm connect file`: a file from a template, and a command.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use super::{Common, Groups};
use crate::{
    cli::target::{self, Failure, HOUR},
    config::duration,
    connect::file::{FileConnector, Settings},
};

pub(super) const HELP: &str = "\
The template is minijinja (https://docs.rs/minijinja). It sees `groups`, a list of {name, members}; members is a list of \
{address, port, protocol, label, weight, state}. state is serving, usual (the GWM is confident of no member: weight 1 \
each), idle, quiesced or down; weight is 0 for the last three. Example, for nginx:

  {% for group in groups %}upstream {{ group.name }} {
  {% for m in group.members %}{% if m.weight %}  server {{ m.address }}:{{ m.port }} weight={{ m.weight }};
  {% else %}  server {{ m.address }}:{{ m.port }} down;
  {% endif %}{% endfor %}}
  {% endfor %}

The file is replaced by rename, so a reader sees the old or the new one, never a part. If the command fails, it is run \
again after --min-interval.

Nothing to observe: a file does not tell what its reader does with the members.";

/// Flags of `gwm connect file`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    groups: Groups,
    /// The template to render
    #[arg(long, env = "GWM_TEMPLATE", value_name = "FILE")]
    template: PathBuf,
    /// The file to replace when what the template gives has changed
    #[arg(long, env = "GWM_OUTPUT", value_name = "FILE")]
    output: PathBuf,
    /// A shell command to run after the file was replaced: `nginx -s reload`
    #[arg(long, env = "GWM_EXEC", value_name = "COMMAND")]
    exec: Option<String>,
    /// How long the command may take before it is killed: 10ms to 1h
    #[arg(long, env = "GWM_EXEC_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = duration(Duration::from_millis(10)..=HOUR))]
    exec_timeout: Duration,
    /// The least time between two replacements: 0s to 1h
    #[arg(long, env = "GWM_MIN_INTERVAL", value_name = "DURATION", default_value = "1s",
          value_parser = duration(Duration::ZERO..=HOUR))]
    min_interval: Duration,
    /// The weight of the heaviest member of each group; the others are in proportion to it
    #[arg(long, env = "GWM_MAX_WEIGHT", value_name = "1-65535", default_value = "100",
          value_parser = clap::value_parser!(u32).range(1..=65535))]
    max_weight: u32,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    match connector(args) {
        Ok(connector) => super::serve(common, connector),
        Err(failure) => target::finish(Err(failure)),
    }
}

fn connector(args: Args) -> Result<FileConnector, Failure> {
    let file = args.template.display();
    let template = fs::read_to_string(&args.template)
        .map_err(|error| Failure::Usage(format!("can not read the template {file}: {error}")))?;
    let connector = FileConnector::new(Settings {
        template,
        output: args.output,
        command: args.exec,
        command_timeout: args.exec_timeout,
        min_interval: args.min_interval,
        max_weight: args.max_weight,
        pools: args.groups.pools()?,
    });
    connector.map_err(|error| Failure::Usage(format!("{file}: {error}")))
}

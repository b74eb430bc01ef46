//! `gwm completions`: the scripts that make shells complete the words of `gwm`, and what the scripts ask for.
//!
//! A script asks this program for each word: so it knows every flag of the program that is installed, and, from a running
//! daemon, the names that an operator's command takes. The engine is clap's own; the scripts are written here, because the
//! engine's own ones leave addresses and `--flag=value` apart where bash takes words apart.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, ValueEnum};
use clap_complete::engine;

/// Flags of `gwm completions`.
#[derive(clap::Args)]
#[command(after_help = "\
bash: eval \"$(gwm completions bash)\" in ~/.bashrc; or for everybody, gwm completions bash \
> /usr/share/bash-completion/completions/gwm
zsh: gwm completions zsh > a file _gwm in a directory of $fpath
fish: gwm completions fish > ~/.config/fish/completions/gwm.fish

The names of groups, load balancers and members come from the daemon of --admin (GWM_ADMIN), if it answers at once.")]
pub struct Args {
    /// The shell that reads the script
    #[arg(value_name = "SHELL")]
    shell: Shell,
    /// The words of a command line, the last of which is to be completed: what the scripts ask for
    #[arg(last = true, hide = true)]
    words: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Runs `gwm completions`.
pub fn run(args: Args) -> ExitCode {
    let script = match args.shell {
        Shell::Bash => include_str!("gwm.bash"),
        Shell::Zsh => include_str!("gwm.zsh"),
        Shell::Fish => include_str!("gwm.fish"),
    };
    super::written(match args.words.is_empty() {
        true => io::stdout().write_all(script.as_bytes()),
        false => candidates(args.words),
    })
}

/// Writes a line for each word that can stand in the place of the last one, and after a tab, what the word is.
fn candidates(words: Vec<OsString>) -> io::Result<()> {
    let (last, folder) = (words.len() - 1, env::current_dir().ok());
    let mut out = io::BufWriter::new(io::stdout().lock());
    for candidate in engine::complete(&mut super::Cli::command(), words, last, folder.as_deref())? {
        let value = candidate.get_value().to_string_lossy();
        let help = candidate.get_help().map(|help| help.to_string()).unwrap_or_default();
        writeln!(out, "{value}\t{}", short(&help))?;
    }
    out.flush()
}

/// A help text as a shell shows it behind a word: its first sentence or part, if that fits into half a line.
fn short(help: &str) -> String {
    const MOST: usize = 72;
    let first = help.lines().next().unwrap_or_default();
    let end = [". ", "; ", ": ", " [", " ("].iter().filter_map(|end| first.find(end)).min().unwrap_or(first.len());
    let first: &str = &first[..end];
    match first.char_indices().nth(MOST) {
        None => first.to_owned(),
        Some((at, _)) => format!("{}…", first[..at].rsplit_once(' ').map_or(&first[..at], |(words, _)| words)),
    }
}

//! What a person may have meant by words that the command line does not have: tips in place of clap's own.

use std::ffi::OsString;

use clap::{
    Command,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

/// Words that others use for the daemon.
const DAEMON: [&str; 4] = ["daemon", "run", "server", "start"];

/// Flags that others have, by the command's first word, and what to write here.
const FLAGS: [(&str, &[&str], &str); 3] = [
    ("serve", &["--port", "--host", "--bind", "--address"], "address and port are one flag: --listen 127.0.0.1:3860"),
    ("lb", &["--port", "--host", "--address"], "address and port of the GWM are one flag: --gwm HOST:PORT"),
    ("connect", &["--port", "--host", "--address"], "address and port of the GWM are one flag: --gwm HOST:PORT"),
];

/// `gwm help COMMAND` is `gwm COMMAND --help`, and `gwm version` is `gwm --version`: commands would need pages of their own.
pub(super) fn usual(mut words: Vec<OsString>) -> Vec<OsString> {
    let first = words.get(1).and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    match &*first {
        "help" => {
            words.remove(1);
            words.push("--help".into());
        }
        "version" => words[1] = "--version".into(),
        _ => {}
    }
    words
}

/// Puts a better tip into clap's error, if there is one. `words` are the arguments without the program.
pub(super) fn advise(error: &mut Error, root: &Command, words: &[String]) {
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return };
            (words.first() == Some(word)).then(|| command(root, word)).flatten()
        }
        ErrorKind::UnknownArgument => {
            let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return };
            flag_tip(flag.split('=').next().unwrap_or(flag), words)
        }
        _ => None,
    };
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
}

/// For a first word that is no command.
fn command(root: &Command, word: &str) -> Option<String> {
    if DAEMON.contains(&word) {
        return Some("the daemon is `gwm serve`".into());
    }
    let parents = root.get_subcommands().filter(|command| command.find_subcommand(word).is_some());
    let names: Vec<String> = parents.map(|command| format!("`gwm {} {word}`", command.get_name())).collect();
    (!names.is_empty()).then(|| format!("there is {}", names.join(" and ")))
}

/// For a flag that the command does not have.
fn flag_tip(flag: &str, words: &[String]) -> Option<String> {
    let has = |word: &str| words.iter().any(|given| given == word);
    if flag == "--group" && words.first().is_some_and(|word| word == "lb") && has("weights") {
        return Some("the names of groups stand alone: gwm lb weights --uid LB1 web".into());
    }
    let known = FLAGS
        .iter()
        .find(|(command, flags, _)| words.first().is_some_and(|word| word == command) && flags.contains(&flag));
    known.map(|(_, _, tip)| (*tip).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip_for(line: &str) -> String {
        let mut root = super::super::command();
        let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
        let mut error = root.try_get_matches_from_mut(line.split(' ')).expect_err(line);
        advise(&mut error, &root, &words);
        error.to_string()
    }

    #[test]
    fn words_of_others_get_a_tip() {
        for (line, tip) in [
            ("gwm start", "tip: the daemon is `gwm serve`\n"),
            ("gwm haproxy", "tip: there is `gwm connect haproxy`\n"),
            ("gwm register", "tip: there is `gwm lb register` and `gwm member register`\n"),
            ("gwm serve --port 3860", "tip: address and port are one flag: --listen 127.0.0.1:3860\n"),
            ("gwm connect haproxy --port=1", "tip: address and port of the GWM are one flag: --gwm HOST:PORT\n"),
            (
                "gwm lb weights --uid LB1 --group web",
                "tip: the names of groups stand alone: gwm lb weights --uid LB1 web\n",
            ),
        ] {
            let told = tip_for(line);
            assert!(told.contains(tip) && told.matches("tip:").count() == 1, "{line}: {told}");
        }
        for line in ["gwm nonsense", "gwm lb nonsense"] {
            assert!(!tip_for(line).contains("tip:"), "{line}: {}", tip_for(line));
        }
        for (line, tip) in [("gwm serv", "'serve'"), ("gwm serve --member", "'--members'")] {
            assert!(tip_for(line).contains(tip), "clap's own: {line}: {}", tip_for(line));
        }
    }

    #[test]
    fn help_and_version_are_commands_too() {
        let of = |line: &str| usual(line.split(' ').map(OsString::from).collect()).join(" ".as_ref());
        for (given, meant) in [
            ("gwm help", "gwm --help"),
            ("gwm help connect haproxy", "gwm connect haproxy --help"),
            ("gwm version", "gwm --version"),
            ("gwm serve help", "gwm serve help"),
        ] {
            assert_eq!(of(given), meant);
        }
    }
}
